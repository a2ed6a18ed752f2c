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

from glacier_utils.checks import check
from glacier_utils.datasets import open_dataset
from glacier_utils.errors import GlacierError
from glacier_utils.outlines import rasterise

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(make_dataset):
    return make_dataset()


@pytest.fixture
def edit(folder):
    """Change the manifest by a function of its content, and give its path."""
    path = folder / "dataset.yaml"

    def change(function):
        content = yaml.safe_load(path.read_text())
        function(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return change


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
        area["2023-07"] = {"images": area["2023-07"], "reflectance": {"offset": 0}}

    dataset = open_dataset(edit(change))
    july, august = (dataset.source("train", date) for date in dataset.dates("train"))
    assert july.grid.matches(inside)
    difference = july.read().reflectance - august.read().reflectance
    np.testing.assert_allclose(difference, 0.1, atol=1e-6)
    np.testing.assert_array_equal(
        dataset.labels("train", "2023-08").read(),
        rasterise(dataset.outlines("train", "2023-08"), inside),
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


# --- mistakes


def set_area(**values):
    return lambda content: content["areas"]["train"].update(values)


def set_date(value):
    return set_area(**{"2023-08": value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(outline="x"), "unknown key 'outline'; did you mean 'outlines'"),
        (lambda c: c.update(zzz=1), "unknown key 'zzz'; known are name"),
        (lambda c: c.pop("areas"), "needs `areas`"),
        (lambda c: c.update(areas=["train"]), "needs `areas`"),
        (lambda c: c.update(bands="rgb"), "bands: 'rgb' is neither"),
        (lambda c: c.update(resolution=-1), "must be above 0"),
        (lambda c: c.update(resolution="10 m"), "is not a number"),
        (lambda c: c["reflectance"].update(scal=1), "unknown key 'scal'; did you mean 'scale'"),
        (lambda c: c["reflectance"].update(scale="x"), "reflectance: scale: 'x' is not a number"),
        (lambda c: c["reflectance"].update(scale=0), "must be finite"),
        (lambda c: c.update(reflectance=10000), "must be a mapping"),
        (lambda c: c["areas"].update(train="images/*.tif"), "must map dates to images"),
        (lambda c: c["areas"].update(train={}), "has no dates"),
        (set_area(bound=[1, 2, 3, 4]), "'bound' is neither a date nor a known key; did you mean"),
        (set_area(august="x"), "neither a date nor a known key; known are bounds"),
        (set_area(**{"2023-13": "x"}), "'2023-13' is not a date"),
        (lambda c: c["areas"]["train"].update({2023: "x"}), "2023 is not a date"),
        (set_area(bounds=[1, 2, 3]), "bounds: .* must be"),
        (set_area(bounds=[3, 0, 1, 2]), "need xmin < xmax"),
        (set_area(coverage=[[0, 0], [1, 1]]), "coverage: must be a file"),
        (set_area(outlines=7), "outlines: 7 is not a path"),
        (set_date({"image": "x"}), "unknown key 'image'; did you mean 'images'"),
        (set_date({"labels": "x"}), "needs `images`"),
        (set_date([]), "`images` names nothing"),
        (set_date({"images": 5}), "images: 5 is not a path"),
        (set_date({"images": "x", "bands": ["nir"]}), "not those of the dataset"),
        (set_date({"images": "x", "reflectance": {"ofset": 1}}), "did you mean 'offset'"),
    ],
)
def test_wrong_manifests(edit, change, message):
    path = edit(change)
    with pytest.raises(GlacierError, match=message) as caught:
        open_dataset(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("areas: [1, 2", "is not readable YAML in line 1"),
        ("a: b\n\tc: d", "is not readable YAML in line 2"),
        ("areas: {train: {2023-08: x}}\nareas: {}", "the key 'areas' is given twice"),
        ("!!python/object/apply:os.getcwd []", "is not readable YAML"),
        ("just text", "holds no mapping"),
        ("", "holds no mapping"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_unreadable_manifests(tmp_path, text, message):
    path = tmp_path / "dataset.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(GlacierError, match=message):
        open_dataset(path)


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
    assert (table.problems == "").all()
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
