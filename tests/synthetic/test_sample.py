"""The synthetic sample: layout, sameness, and whether its landscape obeys facts of the field."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rasterio.features import geometry_mask
from shapely import Polygon, box
from stubs import Scene

from glacier_utils.conventions import SURFACES
from glacier_utils.datasets import open_dataset
from glacier_utils.errors import GlacierError
from glacier_utils.imagery import cloud_fractions, cloud_mask
from glacier_utils.synthetic import sample as sample_module
from glacier_utils.synthetic.sample import MirroredScene, make_sample

PATCHES = 4


def digest(folder: Path) -> str:
    """Hash names and bytes of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def one_digit_off(function: np.ufunc) -> Callable[..., np.ndarray]:
    """Return the function with half of its values moved up by a last digit, half of them down."""

    def off(*values, **options):
        result = np.asarray(function(*values, **options))
        up = np.random.default_rng(result.size).random(result.shape) < 0.5
        moved = np.nextafter(result, np.where(up, np.inf, -np.inf).astype(result.dtype))
        return np.where((result == 0) | (np.abs(result) == 1), result, moved)

    return off


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return make_sample(tmp_path_factory.mktemp("data") / "sample", seed=3, _patches=PATCHES).parent


@pytest.mark.slow
def test_layout_follows_manifest(sample):
    manifest = yaml.safe_load((sample / "dataset.yaml").read_text(encoding="utf-8"))
    assert manifest["bands"] == ["red", "green", "blue", "nir"]
    assert manifest["reflectance"] == {"scale": 10000, "offset": -1000, "nodata": 0}
    assert (sample / manifest["outlines"]).is_file()
    assert manifest["synthetic"] is True
    assert list(manifest["areas"]) == ["train", "test"]
    # Only one area has the ice sheet, and thin cloud on one date.
    assert "ice_outside" not in manifest["areas"]["train"]
    assert (sample / manifest["areas"]["test"].pop("ice_outside")).is_file()
    clouded = []
    for area, dates in manifest["areas"].items():
        assert sorted(dates) == ["2023-07", "2023-08"]
        for date, entry in dates.items():
            clouded += [(area, date)] if "scene_classification" in entry else []
            for pattern in entry.values():
                assert len(list(sample.glob(pattern))) == PATCHES**2
    assert clouded == [("test", "2023-07")]


@pytest.mark.slow
def test_patches_are_sentinel_like(sample):
    for path in sorted(sample.glob("images/*/*/*.tif")):
        with rasterio.open(path) as image:
            assert image.dtypes == ("uint16",) * 4
            assert image.shape == (128, 128)
            assert image.descriptions == ("red", "green", "blue", "nir")
            assert image.crs.to_epsg() == 32623
            assert image.res == (10, 10)
            assert image.nodata == 0
            assert image.tags()["TIFFTAG_IMAGEDESCRIPTION"] == "synthetic sample"


@pytest.mark.slow
def test_same_seed_same_bytes_on_every_processor(tmp_path, monkeypatch):
    made = {
        name: digest(make_sample(tmp_path / name, seed=seed, areas=1, _patches=3).parent)
        for name, seed in (("first", 3), ("other", 4))
    }
    # Processors differ in the last digit of these functions.
    for name in ("exp", "expm1", "log", "power", "sin", "cos", "tan", "tanh"):
        monkeypatch.setattr(np, name, one_digit_off(getattr(np, name)))
    again = make_sample(tmp_path / "again", seed=3, areas=1, _patches=3).parent
    assert digest(again) == made["first"]
    assert made["other"] != made["first"]
    # A further area leaves the first two as they are.
    manifest = yaml.safe_load((tmp_path / "first" / "dataset.yaml").read_text(encoding="utf-8"))
    assert list(manifest["areas"]) == ["train", "test", "test2"]


def test_areas_lie_apart():
    areas = [*sample_module.AREAS, *(sample_module.further_area(0, n) for n in range(2, 14))]
    frames = [
        box(x, y - area.patches * 1280, x + area.patches * 1280, y)
        for area in areas
        for x, y in [area.corner]
    ]
    for number, frame in enumerate(frames):
        assert all(frame.distance(other) > 3000 for other in frames[:number])
    assert [area.name for area in areas[:4]] == ["train", "test", "test2", "test3"]
    assert areas[0].patches >= 16
    assert all(area.patches >= 26 for area in areas[1:])
    assert len({area.setting for area in areas}) == len(areas)


@pytest.mark.slow
def test_surface_codes_are_named(sample):
    found = set()
    for path in sorted(sample.glob("surface/*/*/*.tif")):
        with rasterio.open(path) as surface:
            found |= set(np.unique(surface.read(1)).tolist())
    assert found <= set(SURFACES)


@pytest.mark.slow
def test_outlines_have_glims_schema(sample):
    outlines = gpd.read_file(sample / "glims_download" / "glims_polygons.shp")
    assert outlines.crs.to_epsg() == 4326
    assert set(outlines["line_type"]) <= {"glac_bound", "intrnl_rock"}
    numbers = sorted(set(outlines["glac_id"]))
    assert numbers == [f"SYN-{n:03d}" for n in range(1, len(numbers) + 1)]
    named = outlines[outlines["glac_name"] != "None"]
    expected = "synthetic glacier " + named["glac_id"].str[4:].astype(int).astype(str)
    assert len(named)
    assert (named["glac_name"] == expected).all()
    for column in ("proc_desc", "geog_area", "analysts", "submitters"):
        assert outlines[column].str.startswith("synthetic sample").all()
    metres = outlines.to_crs("EPSG:32623").area
    np.testing.assert_allclose(outlines["area"], metres, rtol=1e-3)
    np.testing.assert_allclose(outlines["db_area"], metres / 1e6, rtol=1e-2)


def read(sample: Path, kind: str, area: str, date: str) -> np.ndarray:
    """Return all patches of one kind, ``[patch, band, row, col]``."""
    patches = []
    for path in sorted(sample.glob(f"{kind}/{area}/{date}/*.tif")):
        with rasterio.open(path) as source:
            patches.append(source.read())
    return np.stack(patches)


def outline_mask(outlines: gpd.GeoDataFrame, path: Path) -> np.ndarray:
    """Rasterise the outlines of 2000 and 2001 onto one patch: glacier minus internal rock."""
    with rasterio.open(path) as source:
        shape, transform, crs = source.shape, source.transform, source.crs
    first = outlines[outlines["src_date"] < "2010"].to_crs(crs)
    glacier, rock = (
        ~geometry_mask(first[first["line_type"] == kind].geometry, shape, transform)
        for kind in ("glac_bound", "intrnl_rock")
    )
    return glacier & ~rock


@pytest.mark.slow
def test_truth_is_the_same_on_both_dates_and_unknown_on_the_ice_sheet(sample):
    for area, codes in (("train", {0, 1}), ("test", {0, 1, 255})):
        july, august = (read(sample, "truth", area, f"2023-0{month}") for month in (7, 8))
        assert set(np.unique(july)) == codes
        np.testing.assert_array_equal(july, august)


@pytest.mark.slow
def test_labels_are_unknown_on_the_ice_sheet_and_where_there_is_cloud(sample):
    data = open_dataset(sample)
    truth, label = (read.read() for read in (data.truth("test", "2023-08"),
                                             data.labels("test", "2023-08")))  # fmt: skip
    sheet = truth == 255
    assert (label[sheet] != 0).all()
    # Drawn roughly, but not far beyond, and never over a glacier of the inventory.
    assert 0 < ((label == 255) & ~sheet).mean() < 0.2
    assert data.labels("train", "2023-08").read().max() == 1
    found = cloud_mask(
        data.source("test", "2023-07"), scl=data.scene_classification("test", "2023-07")
    )
    assert 0 < cloud_fractions(found.read())["cloud"] < 0.2


@pytest.mark.slow
def test_surface_agrees_with_truth(sample):
    """Ice, snow on ice and debris on ice lie on the glacier, but for pixels on its edge."""
    for area in ("train", "test"):
        surface = read(sample, "surface", area, "2023-08")
        truth = read(sample, "truth", area, "2023-08") > 0
        assert (np.isin(surface, (7, 8, 9)) == truth).mean() > 0.985


@pytest.mark.slow
def test_only_a_corner_of_one_date_lies_outside_the_swath(sample):
    for area in sample_module.AREAS:
        for season in sample_module.SEASONS:
            images = read(sample, "images", area.name, season.date)
            missing = images == 0
            assert (missing.all(axis=1) == missing.any(axis=1)).all()
            fraction = missing.mean()
            assert 0 < fraction < 0.05 if season.date == area.swath_edge else fraction == 0


@pytest.mark.slow
def test_outlines_are_larger_than_the_truth_but_about_there(sample):
    outlines = gpd.read_file(sample / "glims_download" / "glims_polygons.shp")
    hit = drawn = true = 0
    for path in sorted(sample.glob("truth/*/2023-08/*.tif")):
        with rasterio.open(path) as source:
            truth = source.read(1)
        mask = outline_mask(outlines, path) & (truth < 255)
        truth = truth == 1
        hit, drawn, true = hit + (truth & mask).sum(), drawn + mask.sum(), true + truth.sum()
    assert drawn > true
    assert 0.6 < hit / (drawn + true - hit) < 0.95


@pytest.mark.slow
def test_one_glacier_of_each_area_has_two_analyses(sample):
    outlines = gpd.read_file(sample / "glims_download" / "glims_polygons.shp")
    bounds = outlines[outlines["line_type"] == "glac_bound"]
    assert bounds["anlys_id"].is_unique
    years = bounds.groupby("glac_id")["src_date"].agg(list)
    assert sorted(years.str.len())[-2:] == [2, 2]
    assert (years.str.len() == 2).sum() == 2
    # Rock belongs to an analysis that exists.
    assert set(outlines["anlys_id"]) == set(bounds["anlys_id"])


def test_an_analyst_notices_large_nunataks_but_no_small_ones():
    def hole(x: float, side: float) -> list[tuple[float, float]]:
        return list(box(x, 1000, x + side, 1000 + side).exterior.coords)

    glacier = box(0, 0, 3000, 3000)
    ice = Polygon(glacier.exterior, [hole(500, 400), hole(1500, 60), hole(2000, 300)])
    rows = sample_module._analysis(ice, lambda points: points, np.random.default_rng(0))
    assert [row["line_type"] for row in rows] == ["glac_bound", "intrnl_rock", "intrnl_rock"]
    assert rows[0]["geometry"].area == pytest.approx(glacier.area, rel=0.03)
    for row, side in zip(rows[1:], (400, 300), strict=True):
        assert row["geometry"].area == pytest.approx(side**2, rel=0.3)


def test_replaces_a_sample_but_nothing_else(tmp_path):
    other = tmp_path / "photos"
    other.mkdir()
    (other / "me.jpg").write_text("not a sample")
    with pytest.raises(GlacierError, match="photos"):
        make_sample(other)
    assert (other / "me.jpg").exists()


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_arguments):
        raise RuntimeError("disk full")

    monkeypatch.setattr(sample_module, "_write_date", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        make_sample(tmp_path / "sample", _patches=2)
    assert list(tmp_path.iterdir()) == []


# ---- a scene and its mirror images, as NumPy's symmetric padding has it


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    place=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_windows_are_those_of_the_padded_scene(shape, place, size):
    rng = np.random.default_rng(0)
    valid = rng.random((7, 5)) > 0.2
    source = Scene(rng.random((4, 7, 5)), valid)
    scene = MirroredScene(source, shape)
    assert scene.grid.shape == shape
    assert scene.grid.transform == source.grid.transform
    (row, col), (height, width) = place, size
    image = scene.read(row, col, height, width)
    pad = (0, 80), (0, 80)
    whole = np.pad(source.pixels, ((0, 0), *pad), mode="symmetric")
    known = np.pad(valid, pad, mode="symmetric")
    known[shape[0] :], known[:, shape[1] :] = False, False
    part = np.s_[row : row + height, col : col + width]
    np.testing.assert_array_equal(image.valid, known[part])
    np.testing.assert_array_equal(
        image.reflectance, np.where(known[part], whole[(slice(None), *part)], 0)
    )
    assert image.grid == scene.grid.window(row, col, height, width)
