"""Areas of two dates, their uncertainty, and what a change is made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.change import area as area_module
from glacier_utils.change import transition
from glacier_utils.change.area import AreaError, Scale
from glacier_utils.change.transition import GAINED, LOST
from glacier_utils.raster.grid import Grid, Image

PIXEL = 1e-4  # km2 of a pixel of 10 m
GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 5e5, 0, -10, 6.8e6), 20, 20)
BANDS = ("red", "green", "blue", "nir")
SNOW = (0.83, 0.83, 0.81, 0.69)
ICE = (0.34, 0.36, 0.35, 0.24)
ROCK = (0.16, 0.15, 0.12, 0.17)
WATER = (0.11, 0.17, 0.11, 0.03)
SHADE = (0.33, 0.41, 0.47, 0.23)


def square(top=5, left=5, side=8, size=20):
    mask = np.zeros((size, size), np.float32)
    mask[top : top + side, left : left + side] = 1
    return mask


def image_of(*spectra_where):
    """An image of rock with other surfaces where masks say so."""
    reflectance = np.empty((4, 20, 20), np.float32)
    reflectance[:] = np.reshape(ROCK, (4, 1, 1))
    for spectrum, where in spectra_where:
        reflectance[:, where] = np.reshape(spectrum, (4, 1))
    return Image(reflectance, np.ones((20, 20), bool), BANDS, GRID)


def test_transitions():
    before = np.array([[0, 1, 1, 0, 255, 1, 1]], np.uint8)
    after = np.array([[0, 1, 0, 1, 1, 255, 1]], np.uint8)
    found = transition.transition(before, after)
    assert found.tolist() == [[0, 1, LOST, GAINED, 255, 255, 1]]
    assert found.dtype == np.uint8
    assert transition.transition(before == 1, after == 1).tolist() == [[0, 1, 2, 3, 3, 2, 1]]
    with pytest.raises(ValueError, match="differ in shape"):
        transition.transition(before, after[:, 1:])


def test_equal_maps_show_no_change():
    found = transition.area_change(square(), square(), PIXEL)
    assert found["change_km2"] == found["lost_km2"] == found["gained_km2"] == 0
    assert found["low_km2"] < 0 < found["high_km2"]
    assert not found["distinguishable"]


def test_a_large_loss_is_told():
    before, after = square(2, 2, 16), square(8, 8, 3)
    found = transition.area_change(before, after, PIXEL)
    assert found["change_km2"] == pytest.approx((9 - 256) * PIXEL)
    errors = [(64 + 60) / 2 * PIXEL, (12 + 8) / 2 * PIXEL]
    assert found["uncertainty_km2"] == pytest.approx(math.hypot(*errors))
    assert found["distinguishable"]


def test_only_what_both_dates_know_is_compared():
    before, after = square(), square()
    after[:, :9] = np.nan
    found = transition.area_change(before, after, PIXEL)
    assert found["before_km2"] == found["after_km2"] == pytest.approx(8 * 4 * PIXEL)
    assert found["change_km2"] == 0
    assert found["unknown_km2"] == pytest.approx(20 * 9 * PIXEL)


def test_nothing_known_or_mapped():
    nothing = np.full((20, 20), np.nan, np.float32)
    found = transition.area_change(nothing, square(), PIXEL)
    assert found["before_km2"] == found["uncertainty_km2"] == 0
    assert math.isnan(found["change_percent"])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**16), st.floats(0, 0.5), st.floats(0.05, 0.95))
def test_the_books_balance(seed, unknown, threshold):
    rng = np.random.default_rng(seed)
    before, after = rng.random((2, 12, 15))
    before[rng.random(before.shape) < unknown] = np.nan
    found = transition.area_change(before, after, PIXEL, threshold)
    assert found["change_km2"] == pytest.approx(found["gained_km2"] - found["lost_km2"])
    assert found["low_km2"] <= found["change_km2"] <= found["high_km2"]
    assert found["distinguishable"] == (not found["low_km2"] <= 0 <= found["high_km2"])


def test_each_cause_is_found():
    before, after = square(2, 2, 16).astype(bool), square(2, 2, 16).astype(bool)
    gone = [(4, 4), (4, 6), (6, 6), (6, 8), (8, 8), (10, 10), (12, 12), (12, 14), (2, 2)]
    for cell in gone:
        after[cell] = False
    after[1, 12] = True  # grown at the edge
    snow, shade, water, fresh = (np.zeros((20, 20), bool) for _ in range(4))
    snow[4, 4] = snow[4, 6] = fresh[12, 14] = True
    shade[6, 6] = shade[4, 6] = water[8, 8] = True
    image_before = image_of((ICE, before), (SNOW, snow))
    image_after = image_of((ICE, after), (SHADE, shade), (WATER, water), (SNOW, fresh))
    clouds = np.zeros((20, 20), np.uint8)
    clouds[12, 12], clouds[6, 8], clouds[:, 0] = 1, 2, 255
    found = transition.causes(
        transition.transition(before, after), image_before, image_after, (None, clouds)
    )
    names = {cell: transition.CAUSES[found[cell]] for cell in zip(*np.nonzero(found), strict=True)}
    assert names == {
        (4, 4): "snow lost", (4, 6): "shadow", (6, 6): "shadow", (6, 8): "shadow",
        (8, 8): "water", (10, 10): "rest", (12, 12): "cloud", (12, 14): "snow gained",
        (2, 2): "edge", (1, 12): "edge",
    }  # fmt: skip


def test_the_classification_widens_the_interval_by_hand():
    # 64 pixels of 1e-4 km2; 10 % too little mapped; one piece of that very size was learned from.
    error = AreaError(0.1, (Scale(4e-4, 0.0064, 0.0064, 1000),))
    # size = 0.0064 - 0.0016 / 2, alike = size / 0.0064, and as much again for the learning.
    found = transition.area_change(square(), square(side=7), PIXEL, errors=(None, None, error))
    size = (0.0064 + 0.0049) / 2
    spread = 1.9623 * math.sqrt(2 * 4e-4 * size * size / 0.0064)
    buffer = math.hypot((32 + 28) / 2, (28 + 24) / 2) * PIXEL
    assert found["uncertainty_km2"] == pytest.approx(math.hypot(spread, buffer), rel=1e-4)
    assert found["bias_km2"] == pytest.approx(0.1 * size)
    assert found["low_km2"] == pytest.approx(-0.0015 - found["uncertainty_km2"])
    assert found["high_km2"] == pytest.approx(-0.0015 + 0.1 * size + found["uncertainty_km2"])


def test_errors_of_two_dates_are_added_as_if_independent_where_no_pair_is_known():
    errors = [AreaError(bias, (Scale(4e-4, 1.0, 1.0, 50),)) for bias in (-0.1, 0.2)]
    found = transition.area_change(square(), square(side=7), PIXEL, errors=(*errors, None))
    ends = [
        area_module.interval(area, buffer * PIXEL, error)
        for area, buffer, error in zip((0.0064, 0.0049), (30, 26), errors, strict=True)
    ]
    reach = math.hypot(*(end["reach_km2"] for end in ends))
    assert found["uncertainty_km2"] == pytest.approx(reach)
    assert found["bias_km2"] == pytest.approx(0.2 * 0.0049 + 0.1 * 0.0064)
    assert found["before_low"] == max(0, ends[0]["low"])
    assert found["after_high"] == ends[1]["high"]


def explained(change, before, after):
    return transition.explain(change, transition.causes(change, before, after), PIXEL)


def test_explanation_by_hand():
    # Snow beside the glacier melts: all of it is snow, however it lies to the outline.
    before, after = square(2, 2, 16).astype(bool), square(6, 6, 8).astype(bool)
    moved = transition.transition(before, after)
    table = explained(moved, image_of((SNOW, before)), image_of((ICE, after)))
    table = table.set_index(["direction", "cause"])
    assert table.loc[("lost", "snow lost"), "area_km2"] == pytest.approx((256 - 64) * PIXEL)
    assert table.loc["lost"]["share"].sum() == pytest.approx(1)
    assert table.loc["gained"]["share"].isna().all()
    # The same on rock that looks alike on both dates: one pixel is edge, what is farther is rest.
    table = explained(moved, image_of(), image_of()).set_index(["direction", "cause"])
    assert table.loc[("lost", "edge"), "pixels"] == 60
    assert table.loc[("lost", "rest"), "pixels"] == 256 - 64 - 60
    assert table["pixels"].sum() == (moved == LOST).sum()


def test_snow_on_both_dates_explains_nothing():
    before, after = square(2, 2, 16).astype(bool), square(6, 6, 8).astype(bool)
    everywhere = np.ones((20, 20), bool)
    table = explained(
        transition.transition(before, after),
        image_of((SNOW, everywhere)),
        image_of((SNOW, everywhere)),
    )
    assert table.set_index(["direction", "cause"]).loc[("lost", "snow lost"), "pixels"] == 0
