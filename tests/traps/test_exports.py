"""Traps of several kinds: what QGIS, SNAP, Earth Engine and people make of images and outlines."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from traps.tools import (
    AT,
    CRS,
    Command,
    Outcome,
    Told,
    iou,
    labels,
    manifest,
    mapped,
    numbers,
    outlines,
    scene,
    told,
    trap,
    write,
)

from glacier_utils.models.checkpoint import load_checkpoint, save_checkpoint

IMAGE, TRUTH = scene()
HALF = [shapely.box(0, 0, 5e6, 1e7), shapely.box(501_280, 0, 5e6, 1e7)]


def without_nodata(model: Path, folder: Path, offset: int) -> Path:
    """Return the model as trained on numbers of which nothing told what is missing."""
    made = load_checkpoint(model)
    made.provenance["reflectance"] = {"scale": 10000, "offset": offset}
    return save_checkpoint(folder / "model.pt", made)


def with_a_gap(offset: int) -> np.ndarray:
    """Return numbers of the scene whose left edge is missing: 0 in all bands."""
    array = numbers(IMAGE, offset)
    array[:, :, :40] = 0
    return array


def dataset(folder: Path, ice: gpd.GeoDataFrame | None = None, **options: Any) -> Path:
    """Write the scene, its outlines and a manifest."""
    write(folder / "scene.tif", numbers(IMAGE))
    ice = outlines(TRUTH, line_type="glac_bound", glac_id="G1") if ice is None else ice
    ice.to_file(folder / "ice.gpkg")
    return manifest(folder, **{"rest": "outlines: ice.gpkg", **options})


def train(glacier: Command, folder: Path, *more: str) -> Told:
    out = folder / "fit"
    return glacier("train", folder, "threshold", out, "--patch", "size=32", *more)


def pages(path: Path, *arrays: np.ndarray) -> Path:
    """Write a TIFF of several pages."""
    for number, array in enumerate(arrays):
        write(path, array, nodata=None, APPEND_SUBDATASET="YES" if number else "NO")
    return path


def ground() -> gpd.GeoSeries:
    """Return the outline of the disc, and a box where the lake is."""
    lake = shapely.box(502_060, 6_777_440, 502_560, 6_777_940)
    return pd.concat([outlines(TRUTH).geometry, gpd.GeoSeries([lake], crs=CRS)], ignore_index=True)


@trap(1, "predict: four bands without names, blue first, as of gdal_merge.py -separate", "warned")
def test_blue_first(tmp_path: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", numbers(IMAGE)[[2, 1, 0, 3]])
    done = predict(path)
    return told(done, says=r"scene\.tif: .*red is darker than blue.*exchanged.*--bands")


@trap(1, "check: the numbers of red and blue exchanged in the manifest", "warned")
def test_numbers_exchanged(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, bands="{red: 3, green: 2, blue: 1, nir: 4}")
    return told(glacier("check", tmp_path), says="red is darker than blue.*exchanged")


@trap(2, "predict: int16 with some numbers below 0, as deep shadow is corrected too far", "right")
def test_below_zero(tmp_path: Path, predicted: Outcome) -> str:
    array = np.rint(IMAGE * 10_000).astype(np.int16)
    array[3, 210:215, 210:215] = -150
    path = write(tmp_path / "scene.tif", array, nodata=-32768)
    return predicted(path, "--offset", 0)


@trap(3, "predict: missing pixels of 0 that no tag marks, by a model without offset", "warned")
def test_gap(tmp_path: Path, model: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", with_a_gap(0), nodata=None)
    other = without_nodata(model, tmp_path, 0)
    done = predict(path, by=other)
    return told(done, says=r"scene\.tif: 15\.6% of the pixels hold 0 in all bands.*--nodata 0")


@trap(3, "predict: missing pixels of 0 in a file that says -9999", "warned")
def test_gap_with_another_tag(tmp_path: Path, model: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", with_a_gap(0).astype(np.int16), nodata=-9999)
    other = without_nodata(model, tmp_path, 0)
    done = predict(path, by=other)
    return told(done, says=r"hold 0 in all bands.*--nodata 0")


@trap(3, "predict: missing pixels of 0 that no tag marks, under an offset of -1000", "refused")
def test_gap_with_offset(tmp_path: Path, model: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", with_a_gap(1000), nodata=None)
    other = without_nodata(model, tmp_path, -1000)
    done = predict(path, by=other)
    assert not list((tmp_path / "out").glob("*.tif"))
    return told(done, says=r"scene\.tif: .*hold 0 in all bands.*--nodata 0")


@trap(3, "predict: missing pixels of 0, told by --nodata 0", "right")
def test_gap_told(tmp_path: Path, model: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", with_a_gap(1000), nodata=None)
    other = without_nodata(model, tmp_path, -1000)
    done = predict(path, "--nodata", 0, by=other)
    found = mapped(tmp_path / "out")
    return told(done, right=iou(found, TRUTH) > 0.99 and (found[:, :40] == 255).all())


@trap(3, "check: missing pixels of 0 that neither tag nor manifest marks", "refused")
def test_gap_checked(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, reflectance="{scale: 10000, offset: -1000}")
    write(tmp_path / "scene.tif", with_a_gap(1000), nodata=None)
    return told(glacier("check", tmp_path), says="hold 0 in all bands.*`nodata: 0`")


@trap(3, "check: a cloud mask of 1 where it is clear", "warned")
def test_inverted_clouds(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, images="{images: scene.tif, clouds: clouds.tif}")
    image = IMAGE.copy()
    image[:, :60, :60] = 0.9
    write(tmp_path / "scene.tif", numbers(image))
    clear = np.ones((256, 256), np.uint8)
    clear[:60, :60] = 0
    write(tmp_path / "clouds.tif", clear, nodata=None)
    return told(glacier("check", tmp_path), says="`clouds` calls 95% .*may be inverted")


@trap(4, "outlines: an extract of OpenStreetMap, natural=glacier and natural=water", "warned")
def test_openstreetmap(tmp_path: Path, glacier: Command) -> str:
    ice = gpd.GeoDataFrame({"osm_id": ["1", "2"], "natural": ["glacier", "water"]},
                           geometry=ground())  # fmt: skip
    done = glacier("check", dataset(tmp_path, ice))
    right = (labels(tmp_path) == TRUTH).all()
    return told(done, says=r"ice\.gpkg: left out, natural water: 1", right=bool(right))


@trap(4, "train: a map of land cover, whose column class names glaciers among others", "warned")
def test_land_cover(tmp_path: Path, glacier: Command) -> str:
    classes = ["Glaciers and perpetual snow", "Glacier lake"]
    ice = gpd.GeoDataFrame({"CLASS": classes}, geometry=ground())
    done = train(glacier, dataset(tmp_path, ice))
    right = (labels(tmp_path) == TRUTH).all()
    return told(done, says=r"ice\.gpkg: left out, class glacier lake: 1", right=bool(right))


@trap(4, "outlines: two analyses of one glacier and one date that differ", "warned")
def test_two_of_one_date(tmp_path: Path, glacier: Command) -> str:
    one = outlines(TRUTH, line_type="glac_bound", glac_id="G1", anlys_id="1", src_date="2020-08-01")
    other = one.assign(anlys_id="2", geometry=one.buffer(-200))
    dataset(tmp_path, pd.concat([one, other]))
    return told(glacier("check", tmp_path), says=r"of one date, .*: G1 \(2, not 1\)")


@trap(4, "train: glaciers of several dates that all have the identifier 0", "warned")
def test_one_identifier(tmp_path: Path, glacier: Command) -> str:
    one = outlines(TRUTH, glac_id="0", src_date="2020-08-01")
    east = one.assign(src_date="2021-08-01", geometry=one.intersection(HALF[1]))
    west = one.assign(geometry=one.difference(HALF[1]))
    done = train(glacier, dataset(tmp_path, pd.concat([west, east])))
    return told(done, says=r"left out for another date, .*its own identifier\?\): 0 2020-08-01")


@trap(4, "outlines: a GeoPackage whose polygons are made of arcs, with heights", "right")
def test_arcs(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path)
    x, y, r = 501_280, 6_778_720, 640
    points = [(x - r, y), (x, y + r), (x + r, y), (x, y - r), (x - r, y)]
    arcs = struct.pack("<BII", 1, 1008, 5) + b"".join(struct.pack("<ddd", *p, 9.0) for p in points)
    blob = b"GP\0\1" + struct.pack("<i", 32623) + struct.pack("<BII", 1, 1010, 1) + arcs
    with sqlite3.connect(folder / "ice.gpkg") as file:
        found = file.execute("select name from sqlite_master where type='trigger'").fetchall()
        for (name,) in found:
            file.execute(f'drop trigger "{name}"')
        file.execute("update ice set geom=?", (blob,))
        file.execute("update gpkg_geometry_columns set geometry_type_name='CURVEPOLYGON', z=1")
    file.close()
    done = glacier("check", folder)
    return told(done, right=iou(labels(folder), TRUTH) > 0.98)


@trap(4, "ice_outside by corners in degrees", "warned")
def test_ice_outside_elsewhere(tmp_path: Path, glacier: Command) -> str:
    corners = "[[-45, 61.1], [-44.9, 61.1], [-44.9, 61.2]]"
    dataset(tmp_path, images=f"scene.tif\n    ice_outside: {corners}")
    return told(glacier("check", tmp_path), says="`ice_outside` does not touch the image")


@trap(4, "train: a second area whose own outlines lie in another part of the Earth", "refused")
def test_second_area_elsewhere(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, images="scene.tif\n  other: {outlines: far.gpkg, 2023-08: east.tif}")
    write(tmp_path / "east.tif", numbers(IMAGE), AT @ Affine.translation(1000, 0))
    far = outlines(TRUTH, glac_id="G1")
    far.set_geometry(far.translate(9e5, -3e6)).to_file(tmp_path / "far.gpkg")
    done = train(glacier, tmp_path, "--patch", "train_areas=[train,other]")
    return told(done, says=r"far\.gpkg: its outlines lie at .*no outline touches the image")


@trap(5, "a mask of 0, 1 and not-a-number", "right")
def test_float_mask(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, images="{images: scene.tif, labels: mask.tif}", rest="")
    mask = TRUTH.astype(np.float32)
    mask[:, :50] = np.nan
    write(tmp_path / "mask.tif", mask, nodata=None)
    done, found = glacier("check", tmp_path), labels(tmp_path)
    same = (found[:, 50:] == TRUTH[:, 50:]).all() and (found[:, :50] == 255).all()
    return told(done, right=bool(same))


@trap(5, "a TIFF of a page for each class", "refused")
def test_pages_of_classes(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, images="{images: scene.tif, labels: mask.tif}", rest="")
    pages(tmp_path / "mask.tif", 1 - TRUTH, TRUTH)
    return told(glacier("check", tmp_path), says=r"mask\.tif: .*several images: export")


@trap(7, "images in a folder of another month than the manifest says", "warned")
def test_another_month(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, images="images/2023-07/*.tif")
    write(tmp_path / "images/2023-07/scene.tif", numbers(IMAGE))
    done = train(glacier, tmp_path)
    return told(done, says=r"scene\.tif: its name says 2023-07, but the manifest's date is 2023-08")


@trap(7, "the scene classification of another day", "warned")
def test_clouds_of_another_day(tmp_path: Path, glacier: Command) -> str:
    name = "T22VFP_202308{}T143021_{}.tif"
    files = f"images: {name.format(24, 'BANDS')}, scene_classification: {name.format('09', 'SCL')}"
    dataset(tmp_path, images=f"{{{files}}}")
    write(tmp_path / name.format(24, "BANDS"), numbers(IMAGE))
    write(tmp_path / name.format("09", "SCL"), np.full((256, 256), 4, np.uint8))
    return told(glacier("check", tmp_path), says="SCL.tif: its name says 2023-08-09.*cloud")


@trap(7, "a copy of one image as the image of a second date", "warned")
def test_copied_image(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, images="scene.tif\n    2023-07: july.tif")
    shutil.copy(tmp_path / "scene.tif", tmp_path / "july.tif")
    return told(glacier("check", tmp_path), says="has the same files as 2023-07")


@trap(9, "predict: a TIFF with the images of two dates as pages", "refused")
def test_pages_of_dates(tmp_path: Path, predict: Command) -> str:
    path = pages(tmp_path / "scene.tif", numbers(IMAGE[:, ::-1]), numbers(IMAGE))
    done = predict(path)
    return told(done, says=r"scene\.tif: .*several images: export the one that is meant")


@trap(11, "predict: a VRT, one of whose files is gone", "refused")
def test_source_gone(tmp_path: Path, predict: Command) -> str:
    path = write(tmp_path / "bands" / "scene.tif", numbers(IMAGE))
    with rasterio.open(path) as file:
        rasterio.shutil.copy(file, tmp_path / "scene.vrt", driver="VRT")
    path.unlink()
    done = predict(tmp_path / "scene.vrt")
    return told(done, says=r"scene\.tif: No such file")


@trap(12, "predict: a scene that rational polynomials place (RPC)", "warned")
def test_rpc(tmp_path: Path, predict: Command) -> str:
    with pytest.warns(NotGeoreferencedWarning):
        path = write(tmp_path / "scene.tif", numbers(IMAGE), None, None)
    line, sample, one = ("0 " * n + "1" + " 0" * (19 - n) for n in (2, 1, 0))
    names = ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")
    numbers_of = {f"{name}_{what}": "100" for name in names for what in ("OFF", "SCALE")}
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="RPC", LINE_NUM_COEFF=line, SAMP_NUM_COEFF=sample,
                         LINE_DEN_COEFF=one, SAMP_DEN_COEFF=one, **numbers_of)  # fmt: skip
    done = predict(path)
    return told(done, says=r"has no CRS.*RPCs \(gdalwarp -rpc\)")


@trap(12, "predict: a grid turned by a hair, as programs leave it", "right")
def test_a_hair(tmp_path: Path, predict: Command) -> str:
    turned = Affine(10, 1e-9, 500_000, -1e-9, -10, 6_780_000)
    path = write(tmp_path / "scene.tif", numbers(IMAGE), turned)
    done = predict(path)
    with rasterio.open(next((tmp_path / "out").glob("*_class.tif"))) as file:
        north_up = file.transform == AT
    return told(done, right=north_up and iou(mapped(tmp_path / "out"), TRUTH) > 0.99)


@trap(3, "check: an inverted cloud mask of an image that is mostly cloud", "warned")
def test_inverted_clouds_of_a_cloudy_image(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, images="{images: scene.tif, clouds: clouds.tif}")
    image, clear = IMAGE.copy(), np.zeros((256, 256), np.uint8)
    image[:, 80:], clear[:80] = 0.7, 1
    image *= np.random.default_rng(0).normal(1, 0.03, image.shape)
    write(tmp_path / "scene.tif", numbers(image))
    write(tmp_path / "clouds.tif", clear, nodata=None)
    return told(glacier("check", tmp_path), says="`clouds` calls 31% .*may be inverted")


@trap(3, "check: a true cloud mask, of cloud over rock that is darker than the snow", "right")
def test_thin_clouds(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, images="{images: scene.tif, clouds: clouds.tif}")
    image, cloud = IMAGE.copy(), np.zeros((256, 256), np.uint8)
    image[:, :40] += 0.2
    cloud[:40] = 1
    write(tmp_path / "scene.tif", numbers(image))
    write(tmp_path / "clouds.tif", cloud, nodata=None)
    done = glacier("check", tmp_path)
    return told(done, right="may be inverted" not in done.text)


@trap(16, "outlines: a GeoPackage of the type GEOMETRY Z", "right")
def test_geometry_z(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path)
    ice = outlines(TRUTH)
    ice.set_geometry(shapely.force_3d(ice.geometry, 9.0)).to_file(folder / "ice.gpkg")
    with sqlite3.connect(folder / "ice.gpkg") as file:
        file.execute("update gpkg_geometry_columns set geometry_type_name='GEOMETRY', z=1")
    file.close()
    done = glacier("check", folder)
    return told(done, right=bool((labels(folder) == TRUTH).all()))
