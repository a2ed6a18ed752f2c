import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glacier_utils.prediction.postprocess import clean, fill_holes, remove_small

PIXEL_KM2 = 0.1


def run(mask, least=0.5, hole=0.3):
    return clean(mask, PIXEL_KM2, min_area_km2=least, max_hole_km2=hole)


def test_small_regions_go_and_regions_of_the_least_area_stay():
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[1, 1:5] = 1  # 0.4 km2
    mask[4, 1:6] = 1  # 0.5 km2
    cleaned = run(mask)
    assert cleaned.sum() == 5
    assert cleaned[4, 1:6].all()
    assert mask.sum() == 9  # the argument is left alone


def test_regions_that_touch_at_a_corner_are_one():
    mask = np.zeros((6, 6), dtype=bool)
    mask[1, 0:3] = mask[2, 3:6] = True
    assert run(mask).sum() == 6
    assert run(mask).dtype == bool


def test_small_holes_are_filled_and_larger_ones_stay():
    mask = np.ones((9, 12), dtype=np.uint8)
    mask[4, 2:4] = 0  # 0.2 km2
    mask[4, 7:10] = 0  # 0.3 km2
    cleaned = run(mask)
    assert cleaned[4, 2:4].all()
    assert not cleaned[4, 7:10].any()


@pytest.mark.parametrize("beside", ["frame", "unknown"])
def test_a_hole_that_may_be_open_is_not_filled(beside):
    mask = np.ones((7, 7), dtype=np.uint8)
    row = 0 if beside == "frame" else 3
    mask[row, 3] = 0
    if beside == "unknown":
        mask[row, 4] = 255
    assert run(mask)[row, 3] == 0


def test_a_speck_in_a_hole_does_not_save_the_hole():
    mask = np.ones((9, 9), dtype=np.uint8)
    mask[3:6, 3:6] = 0
    mask[4, 4] = 1
    assert run(mask, hole=1.0).all()


@settings(deadline=None)
@given(arrays(np.uint8, (9, 9), elements=st.sampled_from([0, 1, 255])))
def test_unknown_stays_unknown_and_cleaning_twice_changes_nothing(mask):
    cleaned = run(mask)
    assert ((cleaned == 255) == (mask == 255)).all()
    assert (run(cleaned) == cleaned).all()


@settings(deadline=None)
@given(arrays(np.uint8, (7, 7), elements=st.sampled_from([0, 1, 255])))
def test_limits_of_zero_change_nothing(mask):
    assert (run(mask, least=0, hole=0) == mask).all()


def test_each_rule_alone_adds_up_to_clean():
    mask = np.ones((12, 12), dtype=np.uint8)
    mask[6:8] = 0
    mask[2, 2] = 0
    mask[8:] = 0
    mask[10, 10] = 1
    small = remove_small(mask, PIXEL_KM2, min_area_km2=0.5)
    assert small[10, 10] == 0
    assert small[2, 2] == 0
    filled = fill_holes(mask, PIXEL_KM2, max_hole_km2=0.3)
    assert filled[10, 10] == 1
    assert filled[2, 2] == 1
    both = fill_holes(small, PIXEL_KM2, max_hole_km2=0.3)
    np.testing.assert_array_equal(both, run(mask))


def test_pixels_of_unknown_size_stay_as_they_are():
    mask = np.random.default_rng(0).choice([0, 1, 255], (30, 30), p=[0.3, 0.6, 0.1])
    np.testing.assert_array_equal(clean(mask, np.nan), mask)
