"""The manifest, checked down to the last key: what is wrong is named with its place and remedy."""

from __future__ import annotations

import datetime
from pathlib import Path

import jsonschema
import pytest
import yaml
from manifest_edits import set_area, set_date

from glacier_utils.datasets.manifest import manifest_schema, read_manifest
from glacier_utils.errors import GlacierError

EVERYTHING = """
name: 7
description: [free, text]
bands: [red, green, blue, nir]
reflectance: {scale: 10000, offset: -1000, nodata: .nan}
resolution: 10
outlines: all.gpkg
areas:
  train:
    bounds: [1, 2, 3, 4]
    align: 2023-08-24
    coverage: {file: covered.gpkg, layer: b}
    ice_outside: [[0, 0], [1, 0], [1, 1]]
    2023-08-24: {images: [b2.tif, b3.tif], labels: l.tif, label_values: {0: 0, 255: 1}, truth: [],
                 surface: null, clouds: ~/c.tif, reflectance: {nodata: null, offset: 0},
                 bands: {red: 4, green: 3, blue: 2, nir: 8}}
    2023-07: https://example.org/a.tif
  2023: {outlines: null, 2023-08: {images: x, bands: {red: a, green: {file: b, band: 2}, blue: c,
                                                      nir: d}}}
"""


@pytest.fixture
def write(tmp_path):
    """Write a manifest of text, bytes, or what YAML makes of a value; give its path."""

    def put(content):
        path = tmp_path / "tiny" / "dataset.yaml"
        path.parent.mkdir(exist_ok=True)
        if not isinstance(content, str | bytes):
            content = yaml.safe_dump(content, sort_keys=False)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


@pytest.fixture
def edit(write):
    """Change a plain manifest by a function of its content, and give its path."""

    def change(function):
        dates = {date: f"images/{date}/*.tif" for date in ("2023-07", "2023-08")}
        content = {
            "name": "tiny",
            "bands": ["red", "green", "blue", "nir"],
            "reflectance": {"scale": 10000, "offset": -1000, "nodata": 0},
            "outlines": "outlines.gpkg",
            "areas": {"train": dict(dates), "test": dict(dates)},
        }
        function(content)
        return write(content)

    return change


def test_everything_that_may_stand_in_it(write):
    path = write(EVERYTHING)
    manifest, *_ = read_manifest(path)
    assert (manifest.name, manifest.resolution) == ("7", 10)
    train, other = manifest.areas["train"], manifest.areas["2023"]
    assert (train.bounds, train.align) == ((1, 2, 3, 4), "2023-08-24")
    assert train.outlines == (path.parent / "all.gpkg", None)
    assert other.outlines is None
    assert train.coverage == (path.parent / "covered.gpkg", "b")
    assert train.ice_outside == ((0, 0), (1, 0), (1, 1))
    july, august = train.entries.values()
    assert july.images == ["https://example.org/a.tif"]
    assert (july.bands, august.bands["nir"]) == (["red", "green", "blue", "nir"], 8)
    # A date says what differs; the rest is the dataset's.
    assert (july.reflectance.offset, august.reflectance.offset) == (-1000, 0)
    assert july.reflectance.nodata != july.reflectance.nodata
    assert (august.reflectance.scale, august.reflectance.nodata) == (10000, None)
    assert august.images == [str(path.parent / name) for name in ("b2.tif", "b3.tif")]
    assert (august.truth, august.surface, august.label_values) == ([], None, {0: 0, 255: 1})
    assert august.clouds == [str(Path("~/c.tif").expanduser())]


def test_a_tilde_that_is_nobodys_home_is_part_of_a_name(write):
    path = write("areas: {train: {2023-08: ~4.tif}}")
    (entry,) = read_manifest(path)[0].areas["train"].entries.values()
    assert entry.images == [str(path.parent / "~4.tif")]


def test_a_folder_names_what_has_no_name(write):
    path = write("areas: {train: {2023-08: x}}")
    manifest, text, content = read_manifest(path)
    assert manifest.name == "tiny"
    assert text == path.read_text()
    assert content == {"areas": {"train": {"2023-08": "x"}}}


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
        (set_area(ice_outside=7), "ice_outside: must be a file"),
        (set_area(align="2023-09"), "align: '2023-09' is none of its dates .2023-07, 2023-08."),
        (set_area(align=True), "align: True is none"),
        (set_area(aline="2023-08"), "'aline' is neither .* did you mean 'align'"),
        (set_area(ice_out="x"), "did you mean 'ice_outside'"),
        (set_date({"images": "x", "scene_clasification": "x"}), "mean 'scene_classification'"),
        (set_date({"images": "x", "cloud": "x"}), "unknown key 'cloud'; did you mean 'clouds'"),
        (set_date({"images": "x", "clouds": 5}), "clouds: 5 is not a path"),
        (set_date({"images": "x", "label_values": {255: 2}}), "label_values: must map"),
        (set_date({"images": "x", "label_values": [1]}), "label_values: must map"),
        (set_area(outlines=7), "outlines: 7 is not a path"),
        (set_area(outlines={"file": "a.gpkg"}), "outlines: needs `file` and `layer`"),
        (set_area(outlines={"file": "a.gpkg", "layers": "b"}), "needs `file` and `layer`"),
        (set_area(coverage={"file": 7, "layer": "b"}), "coverage: 7 is not a path"),
        (set_date({"image": "x"}), "unknown key 'image'; did you mean 'images'"),
        (set_date({"labels": "x"}), "needs `images`"),
        (set_date([]), "images: names nothing"),
        (set_date({"images": 5}), "images: 5 is not a path"),
        (set_date({"images": "x", "bands": ["nir"]}), "not those of the dataset"),
        (set_date({"images": "x", "reflectance": {"ofset": 1}}), "did you mean 'offset'"),
    ],
)
def test_wrong_manifests(edit, change, message):
    path = edit(change)
    with pytest.raises(GlacierError, match=message) as caught:
        read_manifest(path)
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
def test_unreadable_manifests(write, text, message):
    with pytest.raises(GlacierError, match=message):
        read_manifest(write(text))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c: c["reflectance"].update(scale="x"), "reflectance: scale: "),
        (lambda c: c.update(outlines=""), "outlines: '' is not a path; write "),
        (set_area(bounds=[1, 2, "x", 4]), "areas: train: bounds: 'x' is not a number; write "),
        (set_area(coverage="${NOT_SET_AT_ALL}/a"), "areas: train: coverage: the environment "),
        (set_date({"images": "x", "zzz": 1}), "areas: train: 2023-08: unknown key 'zzz'; known "),
        (set_date({"images": "x", "bands": {"red": 0}}), "areas: train: 2023-08: bands: red: 0 "),
        (set_date({"images": "x", "reflectance": {"scale": -1}}),
         "areas: train: 2023-08: reflectance: scale -1.0 and offset -1000.0 must be finite"),
        (set_date({"labels": "x"}), "areas: train: 2023-08: needs `images`"),
        (lambda c: c["areas"].update({"../evil": {"2023-08": "x"}}), "areas: '../evil': files are"),
    ],
)  # fmt: skip
def test_errors_name_the_place_in_the_file(edit, change, place):
    path = edit(change)
    with pytest.raises(GlacierError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: {place}")


def texts(content):
    """Return what an editor sees: keys and dates are text."""
    if isinstance(content, dict):
        return {str(texts(key)): texts(value) for key, value in content.items()}
    if isinstance(content, list):
        return [texts(item) for item in content]
    return content.isoformat() if isinstance(content, datetime.date) else content


def test_the_schema_takes_what_the_reader_takes(edit):
    schema = manifest_schema()
    check = jsonschema.Draft202012Validator(schema)
    content = texts(yaml.safe_load(EVERYTHING)) | {"name": "text"}
    assert [error.message for error in check.iter_errors(content)] == []
    for change in (
        lambda c: c.update(outline="x"), lambda c: c["reflectance"].update(scal=1),
        set_area(bound=[1, 2, 3, 4]), set_date({"image": "x"}), set_area(bounds=[1, 2, 3]),
    ):  # fmt: skip
        content = yaml.safe_load(edit(change).read_text())
        assert not check.is_valid(content)
