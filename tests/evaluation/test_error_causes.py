"""Misses and false alarms by the surface on which they lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.conventions import SURFACES
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.evaluation import error_analysis
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.synthetic.sample import make_sample

BANDS = ("red", "green", "blue", "nir")
# Medians of the points behind `quality`'s rules, and tundra.
SPECTRA = {
    "snow": (0.83, 0.83, 0.81, 0.69),
    "ice-like": (0.34, 0.36, 0.35, 0.24),
    "shadow": (0.20, 0.24, 0.30, 0.20),
    "water": (0.11, 0.17, 0.11, 0.03),
    "bright ground": (0.22, 0.20, 0.18, 0.25),
    "dark ground": (0.07, 0.08, 0.05, 0.24),
}
CODES = {name: code for code, name in error_analysis.COVERS.items()}


def image_of(*names: str) -> Image:
    pixels = np.array([SPECTRA.get(name, (0, 0, 0, 0)) for name in names], np.float32)
    grid = Grid(CRS.from_epsg(32623), Affine(10, 0, 0, 0, -10, 0), 1, len(names))
    return Image(pixels.T[:, None, :], np.array([[name != "" for name in names]]), BANDS, grid)


def row(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def test_covers_by_hand():
    image = image_of(*SPECTRA, "")
    assert error_analysis.cover(image)[0].tolist() == [CODES[name] for name in SPECTRA] + [0]
    clouds = row(1, 2, 255, 1, 0, 0, 1)
    found = error_analysis.cover(image, clouds)[0]
    assert [error_analysis.COVERS.get(int(code), "") for code in found] == [
        "cloud", "shadow", "shadow", "cloud", "bright ground", "dark ground", "",
    ]  # fmt: skip


def test_causes_by_hand():
    names = ["snow", "snow", "ice-like", "bright ground", "dark ground", "shadow"]
    image = image_of(*names, *names)
    reference = row(1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0)
    mask = row(1, 1, 1, 0, 0, 255, 1, 0, 1, 1, 0, 0)
    table = error_analysis.causes(mask, reference, image).set_index(["kind", "surface"])
    miss, alarm = table.loc["miss"], table.loc["false alarm"]
    assert miss["pixels"].to_dict() == {
        "snow-covered ice": 0, "bare ice": 0, "debris": 2, "shadowed ice": 0, "water": 0,
        "cloud": 0,
    }  # fmt: skip
    assert miss.loc["debris", ["share", "right"]].tolist() == [1.0, 0.0]
    assert miss.loc["snow-covered ice", "right"] == 1.0
    assert miss.loc["snow-covered ice", "total_km2"] == pytest.approx(2e-4)
    # Unknown on the map: not counted.
    assert math.isnan(miss.loc["shadowed ice", "right"])
    # Snow, snow and what looks like ice are all seasonal snow off the ice: two of three are wrong.
    assert alarm.loc["seasonal snow", "pixels"] == 2
    assert alarm.loc["seasonal snow", "share"] == pytest.approx(2 / 3)
    assert alarm.loc["seasonal snow", "right"] == pytest.approx(1 / 3)
    assert alarm.loc["bright rock", "right"] == 0.0
    assert alarm.loc[["other ground", "shadowed ground"], "right"].tolist() == [1.0, 1.0]
    cloudy = error_analysis.causes(mask, reference, image, row(*[0] * 6, 1, *[0] * 5))
    cloudy = cloudy.set_index(["kind", "surface"])
    assert cloudy.loc[("false alarm", "cloud"), "pixels"] == 1
    perfect = error_analysis.causes(reference, reference, image)
    assert perfect["share"].isna().all()


@given(st.integers(0, 2**16))
def test_every_error_has_one_surface(seed):
    rng = np.random.default_rng(seed)
    shape = (3, 8, 7)  # patches of a store
    image = Image(
        rng.random((3, 4, 8, 7), np.float32) ** 2, np.ones(shape, bool), BANDS,
        Grid(None, Affine(10, 0, 0, 0, -10, 0), 8, 7),
    )  # fmt: skip
    mask, reference, clouds = (rng.choice([0, 1, 255], shape).astype(np.uint8) for _ in "abc")
    table = error_analysis.causes(mask, reference, image, clouds)
    known = (mask != 255) & (reference != 255)
    for kind, wrong in (("miss", (0, 1)), ("false alarm", (1, 0))):
        part = table[table["kind"] == kind]
        assert part["pixels"].sum() == (known & (mask == wrong[0]) & (reference == wrong[1])).sum()
        assert part["share"].sum() == pytest.approx(1)
    assert table["total_km2"].sum() == pytest.approx(known.sum() * 1e-4)


def test_the_check_counts_what_it_should():
    image = image_of("snow", "snow", "bright ground", "shadow", "dark ground")
    surface = row(8, 10, 9, 7, 8)
    truth = row(1, 0, 1, 1, 1)
    table = error_analysis.check_rules(surface, truth, image)
    assert table.loc["snow on ice", ["snow-covered ice", "debris"]].tolist() == [1, 1]
    assert table["agreement"].dropna().to_dict() == {
        "snow on ice": 0.5, "seasonal snow": 1.0, "debris on ice": 1.0,
    }  # fmt: skip
    assert table.attrs == pytest.approx({"agreement": 0.75, "in_shadow": 0.2})


def test_rules_agree_with_the_known_classes_of_the_sample(tmp_path):
    data = open_dataset(make_sample(tmp_path / "sample", seed=3, _patches=3).parent)
    for area in data.areas:
        for date in data.dates(area):
            image = data.source(area, date).read()
            surface = data.surface(area, date).read()
            found = error_analysis.check_rules(surface, data.truth(area, date).read(), image)
            # Classes of some extent; the smallest are edges of others.
            total = found.drop(columns="agreement").sum(axis=1)
            large = found.loc[total > 0.02 * total.sum(), "agreement"]
            assert found.attrs["agreement"] > 0.9, (area, date)
            assert large.min() > 0.7, (area, date, large.idxmin())
    assert set(found.index) <= set(SURFACES.values())
