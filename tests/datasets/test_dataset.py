"""Manifests are checked to the last key; areas and dates give images and labels that fit."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import yaml
from affine import Affine
from manifest_edits import set_area, set_date

from glacier_utils.datasets.checks import check
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.warp import warp_source
from glacier_utils.outlines.rasterization import rasterize
from glacier_utils.raster.grid import Grid

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(make_dataset):
    return make_dataset()


# --- opening


def test_dataset_says_what_it_holds(folder):
    dataset = open_dataset(folder)
    assert (dataset.name, dataset.folder) == ("tiny", folder)
    assert dataset.bands == ("red", "green", "blue", "nir")
    assert dataset.areas == ("train", "test")
    assert dataset.dates("train") == ("2023-07", "2023-08")
    assert dataset.manifest["reflectance"]["offset"] == -1000
    assert repr(dataset).startswith("Dataset tiny: train (2023-07, 2023-08)")


def test_opened_by_name_from_any_folder_below(tmp_path, monkeypatch, make_dataset):
    make_dataset("data/tiny")
    assert open_dataset("tiny", root=tmp_path).areas == ("train", "test")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert open_dataset("tiny").name == "data/tiny"
    with pytest.raises(GlacierError, match="did you mean 'tiny'"):
        open_dataset("tinny")
    with pytest.raises(GlacierError, match="glacier sample"):
        open_dataset("sample", root=tmp_path)
    with pytest.raises(GlacierError, match=r"has no dataset.yaml"):
        open_dataset(tmp_path / "notebooks")


def test_image_and_labels_lie_on_each_other(folder):
    dataset = open_dataset(folder)
    for area in dataset.areas:
        source = dataset.source(area, "2023-08")
        assert source.grid.shape == (128, 192)
        assert len(source.tiles) == 24
        image, labels = source.read(), dataset.labels(area, "2023-08")
        label = labels.read()
        assert image.valid.all()
        # Ice was painted at 0.35 in red, ground at 0.09.
        np.testing.assert_array_equal(label == 1, image.reflectance[0] > 0.2)
        np.testing.assert_array_equal(labels.read(30, 40, 50, 20), label[30:80, 40:60])
        assert labels.grid.matches(source.grid)


def test_outlines_of_an_area_are_its_own(folder):
    dataset = open_dataset(folder)
    outlines = dataset.outlines("test")
    assert outlines.glacier_id.unique().tolist() == ["G000001E61000N"]
    assert outlines.crs == dataset.source("test", "2023-07").grid.crs
    assert set(dataset.outlines("train", "2023-07").kind) == {"glacier", "internal_rock"}


def test_band_along_outlines_is_unknown(folder):
    dataset = open_dataset(folder)
    label = dataset.labels("train", "2023-08", band_m=30).read()
    plain = dataset.labels("train", "2023-08").read()
    assert 0.02 < (label == 255).mean() < 0.2
    np.testing.assert_array_equal(label[label != 255], plain[label != 255])


def test_truth_and_surface_only_where_given(folder, edit, write_tif):
    assert open_dataset(folder).truth("train", "2023-08") is None
    write_tif(folder / "truth.tif", np.ones((128, 192), np.uint8))
    write_tif(folder / "surface.tif", np.full((128, 192), 7, np.uint8))

    def add(content):
        area = content["areas"]["train"]
        area["2023-08"] = {
            "images": area["2023-08"], "truth": "truth.tif", "surface": "surface.tif",
        }  # fmt: skip

    dataset = open_dataset(edit(add))
    assert (dataset.truth("train", "2023-08").read() == 1).all()
    assert (dataset.surface("train", "2023-08").read() == 7).all()
    assert dataset.surface("train", "2023-07") is None


def test_labels_as_rasters_with_a_band(folder, edit, write_tif):
    label = np.zeros((128, 192), np.uint8)
    label[:, 100:] = 1
    label[:, 150:] = 255
    write_tif(folder / "label.tif", label)

    def add(content):
        area = content["areas"]["train"]
        area["2023-08"] = {"images": area["2023-08"], "labels": "label.tif"}

    dataset = open_dataset(edit(add))
    np.testing.assert_array_equal(dataset.labels("train", "2023-08").read(), label)
    banded = dataset.labels("train", "2023-08", band_m=20)
    expected = label.copy()
    # Centres at 5 and 15 m from the edge between 0 and 1; none along what is unknown anyway.
    expected[:, 98:102] = 255
    np.testing.assert_array_equal(banded.read(), expected)
    np.testing.assert_array_equal(banded.read(5, 101, 9, 30), expected[5:14, 101:131])


def test_coverage_by_corners_or_file(folder, edit):
    grid = open_dataset(folder).source("train", "2023-08").grid
    xmin, ymin, xmax, ymax = grid.window(10, 20, 80, 90).bounds
    corners = [[xmin, ymin], [xmax, ymin], [xmax, ymax], [xmin, ymax]]
    gpd.GeoDataFrame(geometry=[shapely.Polygon(corners)], crs=grid.crs.to_string()).to_crs(
        "EPSG:4326"
    ).to_file(folder / "covered.geojson")
    plain = open_dataset(folder).labels("train", "2023-08").read()
    expected = np.full_like(plain, 255)
    expected[10:90, 20:110] = plain[10:90, 20:110]
    for coverage in (corners, "covered.geojson"):
        path = edit(lambda content, c=coverage: content["areas"]["train"].update(coverage=c))
        labels = open_dataset(path).labels("train", "2023-08")
        np.testing.assert_array_equal(labels.read(), expected)
        np.testing.assert_array_equal(labels.read(5, 15, 20, 12), expected[5:25, 15:27])


def test_area_settings_and_overrides(folder, edit):
    grid = open_dataset(folder).source("train", "2023-08").grid
    inside = grid.window(16, 24, 64, 100)

    def change(content):
        area = content["areas"]["train"]
        area["bounds"] = list(inside.bounds)
        area["2023-07"] = {"images": area["2023-08"], "reflectance": {"offset": 0}}

    dataset = open_dataset(edit(change))
    july, august = (dataset.source("train", date) for date in dataset.dates("train"))
    assert july.grid.matches(inside)
    difference = july.read().reflectance - august.read().reflectance
    np.testing.assert_allclose(difference, 0.1, atol=1e-6)
    np.testing.assert_array_equal(
        dataset.labels("train", "2023-08").read(),
        rasterize(dataset.outlines("train", "2023-08"), inside),
    )


def test_variables_in_paths(folder, edit, monkeypatch):
    monkeypatch.setenv("HERE", str(folder))
    path = edit(lambda content: content.update(outlines="${HERE}/outlines.gpkg"))
    assert len(open_dataset(path).outlines("train")) == 2
    path = edit(lambda content: content.update(outlines="${NOT_SET_AT_ALL}/outlines.gpkg"))
    with pytest.raises(GlacierError, match="variable NOT_SET_AT_ALL is not set"):
        open_dataset(path)


def test_dates_as_yaml_writes_them(folder):
    text = (folder / "dataset.yaml").read_text()
    text = text.replace("2023-07: images", "2023-07-15: images").replace("'2023-07'", "2023-07-15")
    (folder / "dataset.yaml").write_text(text)
    assert open_dataset(folder).dates("train") == ("2023-07-15", "2023-08")


def test_fingerprint_follows_manifest_and_files(folder, edit):
    first = open_dataset(folder).fingerprint
    assert open_dataset(folder).fingerprint == first
    patch = sorted((folder / "images/test/2023-07").iterdir())[3]
    os.utime(patch, ns=(1, 1))
    second = open_dataset(folder).fingerprint
    assert second != first
    assert open_dataset(edit(lambda content: content.update(description="x"))).fingerprint != second
    (folder / "outlines.gpkg").unlink()
    with pytest.raises(GlacierError, match=r"outlines.gpkg: no such file"):
        _ = open_dataset(folder).fingerprint


# --- dates on one grid


def shifted(folder, write_tif, pixel=10.0, metres=5.0):
    """Write the scene of 2023-07 again on another grid and return it as it was."""
    dataset = open_dataset(folder)
    image = dataset.source("train", "2023-07").read()
    grid = dataset.source("train", "2023-07").grid
    corner = Affine(pixel, 0, grid.transform.c + metres, 0, -pixel, grid.transform.f - metres)
    target = Grid(grid.crs, corner, round(1280 / pixel), round(1920 / pixel))
    source = warp_source(dataset.source("train", "2023-07"), target)
    stored = (source.read().reflectance * 10000 + 1000).round().astype(np.uint16)
    write_tif(folder / "july.tif", stored, transform=corner, nodata=0)
    return image, target


def test_dates_are_aligned_onto_the_one_named(folder, edit, write_tif):
    image, grid = shifted(folder, write_tif)
    path = edit(set_area(**{"2023-07": "july.tif"}))
    dataset = open_dataset(path)
    assert dataset.source("train", "2023-07").grid == grid
    assert dataset.mismatch("train", "2023-07", "2023-07") == ""
    text = dataset.mismatch("train", "2023-07", "2023-08")
    assert "+0.50 columns and +0.50 rows off" in text
    assert "add `align: 2023-08` to the area" in text

    dataset = open_dataset(edit(set_area(align="2023-08")))
    july, august = (dataset.source("train", date) for date in dataset.dates("train"))
    assert august.paths[0].parent.name == "2023-08"
    assert july.grid == august.grid
    assert july.tiles == august.tiles
    assert dataset.mismatch("train", "2023-07", "2023-08") == ""
    # Twice resampled by half a pixel, it is the image again but for its noise and its edges.
    found = july.read()
    assert found.valid[1:, 1:].all()
    rough = abs(found.reflectance - image.reflectance)[:, 1:-1, 1:-1]
    assert np.median(rough) < 0.01
    np.testing.assert_array_equal(
        dataset.labels("train", "2023-07").read(), dataset.labels("train", "2023-08").read()
    )


def test_bounds_cut_the_date_that_the_others_follow(folder, edit, write_tif):
    _, grid = shifted(folder, write_tif, pixel=20.0)
    inside = open_dataset(folder).source("train", "2023-08").grid.window(16, 24, 64, 100)
    dataset = open_dataset(
        edit(set_area(**{"2023-07": "july.tif"}, align="2023-08", bounds=list(inside.bounds)))
    )
    for date in dataset.dates("train"):
        assert dataset.source("train", date).grid.matches(inside)
        assert dataset.source("train", date).read().valid.all()
    # Named the other way round, the bounds cut the coarse image.
    dataset = open_dataset(edit(set_area(align="2023-07")))
    assert dataset.source("train", "2023-08").grid.transform.a == 20
    assert dataset.source("train", "2023-08").grid.matches(dataset.source("train", "2023-07").grid)
    assert dataset.source("train", "2023-07").grid.shares_lattice(grid)


def test_masks_go_with_the_image_they_were_drawn_on(folder, edit, write_tif):
    _, grid = shifted(folder, write_tif, pixel=20.0, metres=0)
    codes = np.random.default_rng(0).choice([0, 1, 255], grid.shape).astype(np.uint8)
    write_tif(folder / "label.tif", codes, transform=grid.transform)
    july = {"images": "july.tif", "labels": "label.tif", "truth": "label.tif"}
    dataset = open_dataset(edit(set_area(**{"2023-07": july}, align="2023-08")))
    expected = np.kron(codes, np.ones((2, 2), np.uint8))
    np.testing.assert_array_equal(dataset.labels("train", "2023-07").read(), expected)
    np.testing.assert_array_equal(dataset.truth("train", "2023-07").read(), expected)


def test_images_elsewhere_cannot_be_aligned(edit, write_tif, folder):
    write_tif(folder / "far.tif", np.full((4, 64, 64), 2000, np.uint16), row=9000)
    dataset = open_dataset(edit(set_area(**{"2023-07": "far.tif"}, align="2023-08")))
    with pytest.raises(GlacierError, match=r"far\.tif: does not touch the frame"):
        dataset.source("train", "2023-07")


# --- scene classification, clouds, ice outside the inventory, values of labels


def test_classification_and_clouds_of_any_resolution(folder, edit, write_tif):
    random = np.random.default_rng(0)
    classes = random.integers(0, 12, (64, 96)).astype(np.uint8)
    clouds = random.integers(0, 3, (128, 192)).astype(np.uint8)
    write_tif(folder / "scl.tif", classes, pixel=20.0, nodata=0)
    write_tif(folder / "clouds.tif", clouds)
    august = {
        "images": "images/train/2023-08/*.tif", "scene_classification": "scl.tif",
        "clouds": "clouds.tif",
    }  # fmt: skip
    dataset = open_dataset(edit(set_date(august)))
    found = dataset.scene_classification("train", "2023-08")
    assert found.grid.matches(dataset.source("train", "2023-08").grid)
    np.testing.assert_array_equal(found.read(), np.kron(classes, np.ones((2, 2), np.uint8)))
    np.testing.assert_array_equal(dataset.clouds("train", "2023-08").read(), clouds)
    assert dataset.scene_classification("train", "2023-07") is None
    assert dataset.clouds("train", "2023-07") is None
    first = dataset.fingerprint
    os.utime(folder / "scl.tif", ns=(1, 1))
    assert open_dataset(folder).fingerprint != first


def test_wrong_classifications_and_clouds(folder, edit, write_tif):
    write_tif(folder / "codes.tif", np.full((128, 192), 12, np.uint8))
    write_tif(folder / "far.tif", np.ones((64, 96), np.uint8), row=9000)
    images = "images/train/2023-08/*.tif"
    for key in ("scene_classification", "clouds"):
        dataset = open_dataset(edit(set_date({"images": images, key: "codes.tif"})))
        with pytest.raises(GlacierError, match=r"codes\.tif: holds the value 12"):
            getattr(dataset, key)("train", "2023-08").read()
        dataset = open_dataset(edit(set_date({"images": images, key: "far.tif"})))
        with pytest.raises(GlacierError, match=r"far\.tif: does not touch"):
            getattr(dataset, key)("train", "2023-08")


def test_clouds_without_georeference_lie_where_their_images_lie(folder, edit, write_tif):
    for path in (folder / "images/train/2023-08").iterdir():
        write_tif(folder / "clouds" / path.name, np.full((32, 32), 2, np.uint8), crs=None,
                  transform=Affine.identity())  # fmt: skip
    august = {"images": "images/train/2023-08/*.tif", "clouds": "clouds"}
    dataset = open_dataset(edit(set_date(august)))
    assert (dataset.clouds("train", "2023-08").read() == 2).all()


def test_product_brings_its_own_classification(tmp_path, write_tif):
    folder = tmp_path / "S2B_MSIL2A_20200831.SAFE"
    inner = folder / "GRANULE" / "L2A" / "IMG_DATA"
    (folder).mkdir()
    (folder / "MTD_MSIL2A.xml").write_text(
        "<p><PROCESSING_BASELINE>02.14</PROCESSING_BASELINE>"
        "<BOA_QUANTIFICATION_VALUE>10000</BOA_QUANTIFICATION_VALUE></p>"
    )
    # GDAL tells formats by content, so a GeoTIFF may stand in for JPEG 2000.
    for band in ("B02", "B03", "B04", "B08"):
        write_tif(inner / "R10m" / f"T23V_{band}_10m.jp2", np.full((8, 8), 900, np.uint16))
    write_tif(inner / "R20m" / "T23V_SCL_20m.jp2", np.full((4, 4), 11, np.uint8), pixel=20.0)
    content = {"areas": {"train": {"2020-08": folder.name}}}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(content))
    dataset = open_dataset(tmp_path)
    assert dataset.scene_classification("train", "2020-08").read().tolist() == [[11] * 8] * 8
    first = dataset.fingerprint
    for path in (folder / "MTD_MSIL2A.xml", inner / "R20m" / "T23V_SCL_20m.jp2"):
        os.utime(path, ns=(1, 1))
        second = open_dataset(tmp_path).fingerprint
        assert second != first
        first = second


def test_ice_outside_the_inventory_is_unknown(folder, edit):
    grid = open_dataset(folder).source("train", "2023-08").grid
    plain = open_dataset(folder).labels("train", "2023-08").read()
    xmin, ymin, xmax, ymax = grid.window(0, 0, 128, 96).bounds
    corners = [[xmin, ymin], [xmax, ymin], [xmax, ymax], [xmin, ymax]]
    frame = gpd.GeoDataFrame(geometry=[shapely.Polygon(corners)], crs=grid.crs.to_string())
    frame.to_crs("EPSG:4326").to_file(folder / "sheet.geojson")
    expected = plain.copy()
    expected[:, :96][plain[:, :96] == 0] = 255
    assert (expected[:, :96] == 1).any()
    for outside in (corners, "sheet.geojson"):
        dataset = open_dataset(edit(set_area(ice_outside=outside)))
        np.testing.assert_array_equal(dataset.labels("train", "2023-08").read(), expected)
    first = dataset.fingerprint
    os.utime(folder / "sheet.geojson", ns=(1, 1))
    assert open_dataset(folder).fingerprint != first
    # Ice that is nowhere near changes nothing.
    frame.translate(1e6).to_crs("EPSG:4326").to_file(folder / "sheet.geojson")
    np.testing.assert_array_equal(open_dataset(folder).labels("train", "2023-08").read(), plain)


def test_labels_may_say_glacier_by_another_number(folder, edit, write_tif):
    label = np.zeros((128, 192), np.uint8)
    label[:, 100:] = 255
    write_tif(folder / "label.tif", label)
    august = {
        "images": "images/train/2023-08/*.tif", "labels": "label.tif",
        "label_values": {0: 0, 255: 1},
    }  # fmt: skip
    dataset = open_dataset(edit(set_date(august)))
    np.testing.assert_array_equal(dataset.labels("train", "2023-08").read(), label == 255)


def test_addresses_and_paths_of_gdal_stay_as_they_are(edit, folder):
    for text in ("https://example.org/a/b.tif", "/vsicurl/https://example.org/b.tif"):
        dataset = open_dataset(edit(set_date(text)))
        assert dataset.entry("train", "2023-08").images == [text]


# --- offsets


def test_offset_that_the_values_contradict_is_a_warning(folder, edit, write_tif):
    random = np.random.default_rng(0)
    reflectance = random.choice([0.01, 0.1, 0.3, 0.7], (1, 128, 192)) * np.ones((4, 1, 1))
    reflectance += random.normal(0, 0.002, reflectance.shape)
    write_tif(folder / "scene.tif", (reflectance * 10000 + 100).round().astype(np.uint16))

    dataset = open_dataset(edit(set_date({"images": "scene.tif", "reflectance": {"offset": 0}})))
    assert dataset.radiometry("train", "2023-08").ok is True
    assert dataset.examine("train", "2023-08") == []
    dataset = open_dataset(edit(set_date("scene.tif")))
    finding = dataset.radiometry("train", "2023-08")
    assert (finding.ok, finding.claimed, finding.fits) == (False, -1000, 0)
    (found,) = dataset.examine("train", "2023-08")
    assert (found.severity, found.message) == ("warning", finding.message)


# --- mistakes


def test_unknown_areas_and_dates(folder):
    dataset = open_dataset(folder)
    with pytest.raises(GlacierError, match="no area 'trian'; did you mean 'train'"):
        dataset.dates("trian")
    with pytest.raises(GlacierError, match="no date '2023-09'; known are 2023-07, 2023-08"):
        dataset.source("train", "2023-09")


def test_neither_outlines_nor_labels(edit):
    dataset = open_dataset(edit(lambda content: content.pop("outlines")))
    assert dataset.outlines("train") is None
    with pytest.raises(GlacierError, match="neither `outlines` nor `labels`"):
        dataset.labels("train", "2023-08")


def test_images_without_crs_take_no_outlines(folder, write_tif, edit):
    write_tif(folder / "bare.tif", np.ones((4, 8, 8), np.uint16), crs=None)
    with warnings.catch_warnings(action="ignore"):
        dataset = open_dataset(edit(set_date("bare.tif")))
        with pytest.raises(GlacierError, match="has no CRS, so outlines cannot be laid on it"):
            dataset.labels("train", "2023-08")


# --- real data


def test_real_everest(real_data):
    dataset = open_dataset(PROJECT / "data" / "everest")
    table = check(dataset)
    assert table["size"].tolist() == ["480 x 655", "320 x 655"]
    # Snow that saturates the sensor looks like ice beyond the outlines.
    assert table.problems.str.match("ice-like, outside every outline[^;]*; if it is ice, ").all()
    assert table.glacier.round(2).tolist() == [0.43, 0.70]


def test_real_athabasca(real_data):
    dataset = open_dataset(PROJECT / "data" / "athabasca")
    table = check(dataset)
    assert (table.problems == "").all()
    assert table["size"].tolist() == ["128 x 205"] * 2 + ["87 x 205"] * 2
    label = dataset.labels("train", "2020-09-09").read()
    # Ice that the inventory does not cover lies along the west and the south of the frame.
    assert (label[:, 0] == 255).all()
    assert (label[-1] == 255).all()
    landsat, sentinel = (dataset.source("test", date).grid for date in dataset.dates("test"))
    assert landsat.matches(sentinel)
