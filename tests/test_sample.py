"""The synthetic sample: layout, sameness, and whether its world obeys the facts of the field."""

from __future__ import annotations

import hashlib
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import yaml

from glacier_utils.sample import SURFACES, make_sample

PATCHES = 4


def digest(folder: Path) -> str:
    """Hash names and bytes of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return make_sample(tmp_path_factory.mktemp("data") / "sample", seed=3, _patches=PATCHES).parent


def test_layout_follows_manifest(sample):
    manifest = yaml.safe_load((sample / "dataset.yaml").read_text(encoding="utf-8"))
    assert manifest["bands"] == ["red", "green", "blue", "nir"]
    assert manifest["reflectance"] == {"scale": 10000, "offset": -1000, "nodata": 0}
    assert (sample / manifest["outlines"]).is_file()
    assert sorted(manifest["areas"]) == ["test", "train"]
    for dates in manifest["areas"].values():
        assert sorted(dates) == ["2023-07", "2023-08"]
        for entry in dates.values():
            for pattern in entry.values():
                assert len(list(sample.glob(pattern))) == PATCHES**2


def test_patches_are_sentinel_like(sample):
    for path in sorted(sample.glob("images/*/*/*.tif")):
        with rasterio.open(path) as image:
            assert image.dtypes == ("uint16",) * 4
            assert image.shape == (128, 128)
            assert image.descriptions == ("red", "green", "blue", "nir")
            assert image.crs.to_epsg() == 32623
            assert image.res == (10, 10)
            assert image.nodata == 0


def test_same_seed_same_bytes(sample, tmp_path):
    again = make_sample(tmp_path / "again", seed=3, _patches=PATCHES).parent
    assert digest(again) == digest(sample)
    other = make_sample(tmp_path / "other", seed=4, _patches=PATCHES).parent
    assert digest(other) != digest(sample)


def test_surface_codes_are_named(sample):
    found = set()
    for path in sorted(sample.glob("surface/*/*/*.tif")):
        with rasterio.open(path) as surface:
            found |= set(np.unique(surface.read(1)).tolist())
    assert found <= set(SURFACES)


def test_outlines_have_glims_schema(sample):
    outlines = gpd.read_file(sample / "glims_download" / "glims_polygons.shp")
    assert outlines.crs.to_epsg() == 4326
    assert set(outlines["line_type"]) <= {"glac_bound", "intrnl_rock"}
    assert outlines["glac_id"].str.fullmatch(r"G\d{6}E\d{5}N").all()
    metres = outlines.to_crs("EPSG:32623").area
    np.testing.assert_allclose(outlines["area"], metres, rtol=1e-3)
    np.testing.assert_allclose(outlines["db_area"], metres / 1e6, rtol=1e-2)
