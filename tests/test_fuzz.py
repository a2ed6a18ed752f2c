"""Random input: it is read, or refused in one line; nothing else happens.

``FUZZ_EXAMPLES=20000 pytest tests/test_fuzz.py`` tries as many of each kind; what it found stands
below as an example.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from notebook_project import write_project

from glacier_utils.datasets import checks
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.source import open_source
from glacier_utils.outlines.inventory import read_outlines
from glacier_utils.workflow import batch, notebooks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
ROOT = Path(__file__).resolve().parents[1]
FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "20")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SIZE = 16  # px of a patch


@contextmanager
def refused_at_most() -> Iterator[None]:
    """Let nothing but one line of refusal leave the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # as of GDAL
        try:
            yield
        except GlacierError as error:
            lines = str(error).split("\n")
        else:
            lines = [""]
    assert len(lines) == 1


TEXT = st.text(max_size=12) | st.sampled_from(
    ["train", "test", "2023-08", "images/train/2023-08/*.tif", "outlines.gpkg", "*", "..", "/", "~",
     "red", "nir", "auto", "EPSG:4326", "1e400", "${HOME}"]
)  # fmt: skip
NUMBERS = st.booleans() | st.integers() | st.floats()
LEAF = st.none() | NUMBERS | TEXT | st.dates() | st.binary(max_size=4)
KEYS = TEXT | st.sampled_from(
    ["name", "bands", "areas", "outlines", "reflectance", "scale", "offset", "nodata", "images",
     "labels", "truth", "clouds", "bounds", "align", "coverage", "ice_outside", "resolution",
     "file", "layer", "scl", "surface", "synthetic"]
)  # fmt: skip
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


def mutated(draw: st.DrawFn, content: Any) -> Any:
    """Return a content in which something is replaced, added or gone, at some depth."""
    if not isinstance(content, dict | list) or not content or draw(st.integers(0, 3)) == 0:
        return draw(VALUE)
    if isinstance(content, list):
        place = draw(st.integers(0, len(content) - 1))
        return [*content[:place], mutated(draw, content[place]), *content[place + 1 :]]
    key = draw(st.sampled_from(sorted(content, key=str)) | KEYS)
    rest = {name: value for name, value in content.items() if name != key}
    return rest if draw(st.integers(0, 5)) == 0 else rest | {key: mutated(draw, content.get(key))}


@pytest.fixture
def dataset(make_dataset) -> Path:
    return make_dataset(patches=(1, 2), size=SIZE)


@FUZZ
@given(st.data())
def test_any_manifest_is_read_or_refused(dataset, data):
    path = dataset / "dataset.yaml"
    before = path.read_text()
    content = mutated(data.draw, yaml.safe_load(before))
    try:
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        with refused_at_most():
            checks.survey(open_dataset(dataset)).text()
    finally:
        path.write_text(before)


@FUZZ
@given(st.binary(max_size=60) | st.text(alphabet="{}[]&*!|>-:,'\"# \n\tab1~", max_size=60))
def test_any_bytes_are_no_manifest_and_no_parameters(dataset, content):
    path = dataset / "dataset.yaml"
    before = path.read_text()
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        with refused_at_most():
            open_dataset(dataset)
        with refused_at_most():
            batch.expand(path, {"run": "x", "steps": 1})
    finally:
        path.write_text(before)


@pytest.fixture
def project(tmp_path, dataset) -> Path:
    root = write_project(tmp_path / "project")
    for path in (root / "notebooks").glob("*.ipynb"):
        path.unlink()
    for path in notebooks.notebook_paths(ROOT):
        shutil.copy(path, root / "notebooks")
    (root / "data").mkdir()
    dataset.rename(root / "data" / "tiny")
    return root


@FUZZ
@given(st.data())
def test_any_parameters_are_planned_or_refused(project, data):
    known = notebooks.all_parameters(ROOT)
    values = {"dataset": "tiny", "patch_size": SIZE, "patch_stride": SIZE}
    names = st.sampled_from([*known, "sweep", "seed", "model"]) | TEXT
    values |= data.draw(st.dictionaries(names, VALUE, max_size=2))
    if data.draw(st.booleans()):
        values["sweep"] = data.draw(
            st.dictionaries(names, st.lists(VALUE, max_size=2), max_size=2) | VALUE
        )
    if values.get("dataset") == "sample":
        return  # would be made, which takes minutes
    path = project / "notebooks" / "parameters" / "any.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    with refused_at_most():
        for planned in batch.plan([path], project):
            assert (project / "reports" / planned["run"]).parent == project / "reports"
    assert not (project / "reports").exists()


NUMBER = st.floats(allow_nan=True) | st.integers() | st.floats(-180, 180) | LEAF
RING = st.lists(st.lists(NUMBER, max_size=3) | st.tuples(*[st.floats(-60, 60)] * 2), max_size=6)
GEOMETRY = st.none() | st.fixed_dictionaries({
    "type": st.sampled_from(["Polygon", "MultiPolygon", "LineString", "Point",
                             "GeometryCollection", "Circle"]),
    "coordinates": st.lists(RING, max_size=3) | RING | st.lists(st.lists(RING, max_size=2)) | LEAF,
})  # fmt: skip
COLUMNS = st.sampled_from(["glac_id", "line_type", "src_date", "anlys_id", "db_area", "x"]) | TEXT
FEATURE = st.fixed_dictionaries({
    "type": st.just("Feature"),
    "geometry": GEOMETRY,
    "properties": st.dictionaries(COLUMNS, LEAF | st.lists(LEAF, max_size=2), max_size=4) | LEAF,
})  # fmt: skip


@FUZZ
@given(st.lists(FEATURE | VALUE, max_size=4), st.booleans())
def test_any_geojson_is_read_or_refused(tmp_path, features, bounded):
    path = tmp_path / "any.geojson"
    content = {"type": "FeatureCollection", "features": features}
    path.write_text(json.dumps(content, default=str), encoding="utf-8")
    where = {"bounds": (-10.0, 40.0, 20.0, 60.0), "crs": rasterio.CRS.from_epsg(4326)}
    with refused_at_most():
        read_outlines(path, **where if bounded else {})


@FUZZ
@given(st.data())
def test_outlines_with_any_bytes_changed_are_read_or_refused(dataset, data):
    path = dataset / "outlines.gpkg"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    changed = dataset / "changed.gpkg"
    changed.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    with refused_at_most():
        read_outlines(changed)


CRS = st.sampled_from([None, "EPSG:32623", "EPSG:4326", "EPSG:3857", "EPSG:3413", "EPSG:4978",
                       "+proj=ortho +lat_0=0"])  # fmt: skip
PLACE = st.floats(allow_nan=True) | st.floats(-1e7, 1e7)
PIXEL = st.sampled_from([10.0, -10.0, 1e-4, 0.0, 1e300, 5e-324]) | st.floats()


@FUZZ
@given(st.data())
def test_a_raster_with_any_header_is_read_or_refused(tmp_path, data):
    draw = data.draw
    path = tmp_path / f"any{draw(st.sampled_from(['', '_B04', '_2023-08-01']))}.tif"
    kind = draw(st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "float32", "float64",
                                 "complex64"]))  # fmt: skip
    count, height, width = draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    transform = Affine(draw(PIXEL), draw(st.just(0.0) | PLACE), draw(PLACE),
                       draw(st.just(0.0) | PLACE), draw(PIXEL), draw(PLACE))  # fmt: skip
    nodata = draw(st.none() | st.integers(0, 127) | st.sampled_from([np.nan, np.inf, -9999]))
    profile = {"driver": "GTiff", "dtype": kind, "count": count, "height": height, "width": width}
    try:
        with rasterio.open(path, "w", crs=draw(CRS), transform=transform, nodata=nodata,
                           **profile) as file:  # fmt: skip
            values = np.random.default_rng(0).integers(0, 100, (count, height, width))
            file.write(values.astype(kind))
            file.descriptions = draw(st.tuples(*[st.sampled_from(
                ["", "red", "green", "blue", "nir", "B08", "Band 1", "\u202e<b>", "x" * 300]
            )] * count))  # fmt: skip
            if draw(st.booleans()):
                file.scales = draw(st.tuples(*[st.floats(allow_nan=True)] * count))
                file.offsets = draw(st.tuples(*[st.floats(allow_nan=True)] * count))
            file.update_tags(**draw(st.dictionaries(
                st.sampled_from(["AREA_OR_POINT", "DATE", "x"]), st.text("a=<>\n", max_size=6)
            )))  # fmt: skip
    except (rasterio.errors.RasterioError, ValueError, OverflowError):
        return  # GDAL writes no such file
    with refused_at_most():
        source = open_source(path, bands=["red", "green", "blue", "nir"][: draw(st.integers(1, 4))])
        image = source.read()
        assert image.reflectance.shape[1:] == image.valid.shape
        assert not np.isnan(image.reflectance).any()


@FUZZ
@given(st.data())
def test_a_raster_with_any_bytes_changed_is_read_or_refused(dataset, data):
    path = next((dataset / "images" / "train" / "2023-08").glob("*.tif"))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, min(600, len(content) - 1)))  # the header, most often
        content[place] = data.draw(st.integers(0, 255))
    changed = dataset / "changed.tif"
    changed.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    with refused_at_most():
        open_source(changed, bands=["red", "green", "blue", "nir"]).read()


def test_a_raster_whose_second_directory_is_none_is_refused(dataset):
    """GDAL notices it when the colours of the bands are asked for, after the file was opened."""
    path = next((dataset / "images" / "train" / "2023-08").glob("*.tif"))
    content = bytearray(path.read_bytes())
    content[202] = 1
    path.write_bytes(content)
    with pytest.raises(GlacierError, match="cannot be read as a raster"):
        open_source(path, bands=["red", "green", "blue", "nir"])
