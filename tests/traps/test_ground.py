"""Traps of kinds 8 and 10: areas and lengths true on the ground, and which CRSs are the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS as Crs
from rasterio.transform import from_origin
from traps.tools import (
    AT,
    CRS,
    Command,
    Outcome,
    Told,
    iou,
    labels,
    manifest,
    numbers,
    outlines,
    scene,
    told,
    trap,
    write,
)

from glacier_utils.raster.grid import Grid

SIZE = 128
Place = tuple[str, Affine]
Mapped = Callable[..., tuple[Told, gpd.GeoDataFrame]]
DISTORTED = r"scene\.tif: its CRS .* is not true to scale: .*gdalwarp -t_srs"
# Places at about 61 N, 45 W, on grids whose pixels are 10 m or so on the ground.
MERCATOR = ("EPSG:3857", from_origin(-5_000_000, 8_650_000, 20, 20))
POLAR = ("EPSG:3413", from_origin(10_000, -3_210_000, 10, 10))
SPELLED = pyproj.CRS.from_epsg(32623)


def true_km2(mask: np.ndarray, transform: Affine, crs: str) -> float:
    """Measure the area of a mask on the ellipsoid, from its outline."""
    shapes = outlines(mask, transform, crs).segmentize(100).to_crs(4326).geometry
    geod = pyproj.Geod(ellps="WGS84")
    return sum(abs(geod.geometry_area_perimeter(one)[0]) for one in shapes) / 1e6


@pytest.fixture
def mapped(predict: Command, tmp_path: Path) -> Mapped:
    """Map a scene that lies at a place; return what was said and the outlines."""

    def run(place: Place, *options: str, out: str = "out") -> tuple[Told, gpd.GeoDataFrame]:
        path = write(tmp_path / "scene.tif", numbers(scene(SIZE)[0]), place[1], place[0])
        done = predict(path, *options, out=out)
        (found,) = (tmp_path / out).glob("*_outlines.gpkg")
        return done, pyogrio.read_dataframe(found, layer="glims_polygons")

    return run


@pytest.fixture
def predicted(mapped: Mapped) -> Outcome:
    """Say whether the outlines that are written, and the pixels, have their true area."""

    def run(place: Place) -> str:
        done, found = mapped(place)
        truth, grid = scene(SIZE)[1], Grid(Crs.from_user_input(place[0]), place[1], SIZE, SIZE)
        real = true_km2(truth, place[1], place[0])
        pixels = truth.sum() * grid.pixel_area_km2
        right = abs(found.db_area.sum() / real - 1) < 0.02 and abs(pixels / real - 1) < 0.003
        return told(done, right=right, says="" if place[0] == CRS else DISTORTED)

    return run


@trap(8, "predict: a scene in UTM (control)", "right")
def test_utm(predicted: Outcome) -> str:
    grid = Grid(Crs.from_user_input(CRS), AT, SIZE, SIZE)
    assert (grid.resolution, grid.metres_per_unit, grid.distortion()) == (10, 1, "")
    return predicted((CRS, AT))


@trap(8, "predict: a scene in Web Mercator, which draws 4.3 times the km2 at 61 N", "warned")
def test_web_mercator(predicted: Outcome) -> str:
    return predicted(MERCATOR)


@trap(8, "predict: a scene in polar stereographic projection, 7 % off at 61 N", "warned")
def test_polar_stereographic(predicted: Outcome) -> str:
    return predicted(POLAR)


@trap(8, "predict: a scene in degrees, its pixels twice as long as wide", "warned")
def test_degrees(predicted: Outcome) -> str:
    place = ("EPSG:4326", from_origin(-45, 61, 1e-4, 1e-4))
    return predicted(place)


@trap(8, "predict: a scene in an equal-area projection whose pixels are 3 times as long as wide",
      "warned")  # fmt: skip
def test_equal_area(predicted: Outcome) -> str:
    return predicted(("EPSG:6933", from_origin(-4.3e6, 6.4e6, 10, 10)))


@trap(8, "predict: a frame of 1000 km in polar stereographic projection", "warned")
def test_large_frame(mapped: Mapped) -> str:
    place = ("EPSG:3413", from_origin(-500_000, -2_500_000, 8000, 8000))
    done, found = mapped(place)
    grid = Grid(Crs.from_user_input(place[0]), place[1], SIZE, SIZE)
    real = true_km2(scene(SIZE)[1], place[1], place[0])
    # The polygons are measured each where it lies, pixels as the one at the centre.
    right = abs(found.db_area.sum() / real - 1) < 0.01
    right &= abs(scene(SIZE)[1].sum() * grid.pixel_area_km2 / real - 1) < 0.01
    return told(done, right=right, says=r"covers 0\.9\d+ to 1\.\d+ of the ground of the one at")


@trap(8, "predict --min-area in Web Mercator: a glacier of .3 km2 that would seem to have 1.4",
      "warned")  # fmt: skip
def test_min_area(mapped: Mapped) -> str:
    found = {}
    for least in ("0.2", "0.6"):
        done, shapes = mapped(MERCATOR, "--min-area", least, out=least)
        found[least] = len(shapes)
    assert 0.25 < true_km2(scene(SIZE)[1], MERCATOR[1], MERCATOR[0]) < 0.35
    return told(done, right=found == {"0.2": 1, "0.6": 0}, says=DISTORTED)


@trap(8, "predict in Web Mercator: the uncertainty of an area, perimeter times a pixel", "warned")
def test_uncertainty(mapped: Mapped) -> str:
    done, found = mapped(MERCATOR)
    geod = pyproj.Geod(ellps="WGS84")
    perimeter = sum(geod.geometry_length(one.boundary) for one in found.to_crs(4326).geometry)
    right = found.area_unc.sum() == pytest.approx(perimeter * 9.685, rel=0.02)
    right &= found.loc_unc_x.iloc[0] == pytest.approx(9.685, rel=0.001)
    return told(done, right=right, says=DISTORTED)


def dataset(folder: Path, place: tuple[str, Affine], drawn_in: str = "") -> Path:
    """Make a dataset at a place, with outlines in that CRS or another."""
    image, truth = scene(SIZE)
    write(folder / "scene.tif", numbers(image), place[1], place[0])
    table = outlines(truth, place[1], place[0], glac_id="a")
    table.to_crs(drawn_in or place[0]).to_file(folder / "o.gpkg")
    return manifest(folder, rest="outlines: o.gpkg")


@trap(8, "check: a dataset in Web Mercator", "warned")
def test_check(tmp_path: Path, glacier: Command) -> str:
    done = glacier("check", dataset(tmp_path, MERCATOR))
    assert " 9.683 m " in done.text  # the side of a pixel
    return told(done, right=iou(labels(tmp_path), scene(SIZE)[1]) == 1, says=DISTORTED)


@trap(8, "band_m along outlines in Web Mercator: 40 m on the ground", "warned")
def test_band_of_labels(tmp_path: Path, glacier: Command) -> str:
    from glacier_utils.datasets import open_dataset

    done = glacier("check", dataset(tmp_path, MERCATOR))
    mask = open_dataset(tmp_path).labels("train", "2023-08", band_m=40.0)
    band = true_km2((mask.read() == 255).astype(np.uint8), MERCATOR[1], MERCATOR[0])
    [ring] = outlines(scene(SIZE)[1], MERCATOR[1], MERCATOR[0]).simplify(30).to_crs(4326)
    length = pyproj.Geod(ellps="WGS84").geometry_length(ring.boundary) / 1000
    return told(done, right=abs(band / (length * 0.08) - 1) < 0.15, says=DISTORTED)


@trap(8, "block_m and buffer_m of a training in Web Mercator", "warned")
def test_blocks(tmp_path: Path, glacier: Command) -> str:
    from glacier_utils.datasets import build_patches, open_dataset

    done = glacier("check", dataset(tmp_path, MERCATOR))
    store = build_patches(open_dataset(tmp_path), size=16, block_m=310.0)
    # 310 m are two patches of 16 px of 9.685 m, and would be one of 20 m.
    sides = store.index[store.index.block != ""].groupby(["area", "block"]).size()
    return told(done, right=sides.max() == 4, says=DISTORTED)


@trap(8, "matching with an inventory in Web Mercator: km2 of what is in no inventory", "warned")
def test_matching(mapped: Mapped) -> str:
    from glacier_utils.outlines.matching import assign_ids

    done, found = mapped(MERCATOR)
    found = found.to_crs(MERCATOR[0])
    far = gpd.GeoDataFrame(
        {"glacier_id": ["far"], "analysis_id": ["1"], "kind": ["glacier"], "name": [""],
         "source_date": np.array(["2000-01-01"], "datetime64[s]")},
        geometry=[shapely.box(0, 0, 1, 1)], crs=MERCATOR[0],
    )  # fmt: skip
    named = assign_ids(found, far, step_m=9.685)
    real = true_km2(scene(SIZE)[1], MERCATOR[1], MERCATOR[0])
    return told(done, right=abs(named.area_km2.sum() / real - 1) < 0.02, says=DISTORTED)


def spelled(folder: Path, glacier: Command, *crs: str) -> str:
    """Check a scene in eight strips, one in EPSG:32623 and others in CRSs that may be the same.

    Right if they are read as one frame without a word.
    """
    image, truth = scene(SIZE)
    stored = numbers(image)
    for number in range(8):
        col, own = number * SIZE // 8, [CRS, *crs][number % (1 + len(crs))]
        at = AT @ Affine.translation(col, 0)
        strip = stored[:, :, col : col + SIZE // 8]
        write(folder / "images" / f"{'abcdefgh'[number]}.tif", strip, at, own)
    outlines(truth, glac_id="a").to_file(folder / "o.gpkg")
    manifest(folder, "images/*.tif", "outlines: o.gpkg")
    done = glacier("check", folder)
    if done.status == 2:
        return told(done, says=r"b\.tif: .*CRS")
    return told(done, right=iou(labels(folder), truth) == 1)


SAME = {
    "WKT 1 without codes": re.sub(r',AUTHORITY\["[^]]*\]', "", SPELLED.to_wkt("WKT1_GDAL")),
    "the WKT of ESRI": SPELLED.to_wkt("WKT1_ESRI"),
    "a BOUNDCRS with TOWGS84 of zeros":
        "+proj=utm +zone=23 +ellps=WGS84 +towgs84=0,0,0,0,0,0,0 +units=m",
    "a transverse Mercator of 315 degrees east":
        "+proj=tmerc +lon_0=315 +k=0.9996 +x_0=500000 +datum=WGS84",
    "heights beside the place (EPSG:32623+5773)": "EPSG:32623+5773",
}  # fmt: skip


@trap(10, "check: tiles of one CRS in five spellings (WKT of ESRI, TOWGS84, +5773 ...)", "right")
def test_spellings(tmp_path: Path, glacier: Command) -> str:
    return spelled(tmp_path, glacier, *SAME.values())


@trap(10, "check: tiles in UTM 23 north and south", "refused")
def test_hemispheres(tmp_path: Path, glacier: Command) -> str:
    return spelled(tmp_path, glacier, "EPSG:32723")


@trap(10, "check: tiles in WGS 84 and GR96 (UTM 23 both)", "refused")
def test_datum(tmp_path: Path, glacier: Command) -> str:
    return spelled(tmp_path, glacier, "EPSG:3184")


@trap(10, "check: tiles on WGS 84 and on its ellipsoid 374 m off (TOWGS84)", "refused")
def test_shifted_datum(tmp_path: Path, glacier: Command) -> str:
    return spelled(tmp_path, glacier, "+proj=utm +zone=23 +ellps=WGS84 +towgs84=100,200,300")


@trap(10, "check: tiles in two zones, both with heights", "refused")
def test_compound(tmp_path: Path, glacier: Command) -> str:
    image, truth = scene(SIZE)
    folder = tmp_path
    write(folder / "images" / "a.tif", numbers(image), crs="EPSG:32623+5773")
    at = AT @ Affine.translation(SIZE, 0)
    write(folder / "images" / "b.tif", numbers(image), at, "EPSG:32624+5773")
    outlines(truth, glac_id="a").to_file(folder / "o.gpkg")
    done = glacier("check", manifest(folder, "images/*.tif", "outlines: o.gpkg"))
    return told(done, says=r"b\.tif: .*CRS")


@trap(10, "check: a scene with heights in its CRS, outlines in degrees", "right")
def test_scene_with_heights(tmp_path: Path, glacier: Command) -> str:
    dataset(tmp_path, ("EPSG:32623+5773", AT), "EPSG:4326")
    return told(glacier("check", tmp_path), right=iou(labels(tmp_path), scene(SIZE)[1]) > 0.99)


@trap(10, "check: outlines in NAD27 on a scene in WGS 84 are transformed", "right")
def test_outlines_of_another_datum(tmp_path: Path, glacier: Command) -> str:
    place = ("EPSG:32611", from_origin(500_000, 5_700_000, 10, 10))
    dataset(tmp_path, place, "EPSG:26711")
    return told(glacier("check", tmp_path), right=iou(labels(tmp_path), scene(SIZE)[1]) > 0.99)


@trap(8, "check: areas of 10 m and of 30 m in one dataset", "warned")
def test_two_resolutions(tmp_path: Path, glacier: Command) -> str:
    image, truth = scene(SIZE)
    coarse = from_origin(600_000, 6_780_000, 30, 30)
    write(tmp_path / "scene.tif", numbers(image))
    write(tmp_path / "other.tif", numbers(image), coarse)
    both = [outlines(truth), outlines(truth, coarse)]
    gpd.GeoDataFrame(pd.concat(both, ignore_index=True), crs=CRS).to_file(tmp_path / "o.gpkg")
    manifest(tmp_path, "scene.tif\n  test:\n    2023-08: other.tif", "outlines: o.gpkg")
    return told(glacier("check", tmp_path), says="pixels are 30 m, those of area train 10 m")
