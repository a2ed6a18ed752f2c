import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.crs import CRS
from scipy import ndimage

from glacier_utils.prediction.postprocess import (
    CHOICES,
    clean,
    closing,
    effects,
    fill_holes,
    opening,
    remove_small,
)
from glacier_utils.raster.grid import Grid

PIXEL_KM2 = 0.1
GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 450_000, 0, -10, 6_780_000), 30, 30)
MASKS = arrays(np.uint8, (9, 9), elements=st.sampled_from([0, 1, 1, 255]))


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


@settings(deadline=None)
@given(MASKS, MASKS)
def test_known_nunataks_keep_their_hole_and_no_other(mask, keep):
    keep = keep == 1
    filled = fill_holes(mask, PIXEL_KM2, max_hole_km2=1.0)
    spared = fill_holes(mask, PIXEL_KM2, max_hole_km2=1.0, keep=keep)
    holes, count = ndimage.label(filled != mask)
    for number in range(1, count + 1):
        hole = holes == number
        assert (spared[hole] == (0 if keep[hole].any() else 1)).all()
    np.testing.assert_array_equal(spared[holes == 0], filled[holes == 0])
    np.testing.assert_array_equal(
        clean(mask, PIXEL_KM2, min_area_km2=0, max_hole_km2=1.0, keep=keep), spared
    )


def test_opening_cuts_necks_and_specks():
    mask = np.zeros((15, 20), dtype=np.uint8)
    mask[3:10, 3:8] = mask[3:10, 11:16] = 1
    mask[6, 8:11] = 1
    mask[12, 2] = 1
    opened = opening(mask)
    assert opened.sum() == 70
    assert opened[6, 8:11].sum() == 0
    np.testing.assert_array_equal(closing(1 - mask), 1 - opened)
    # A square does not fit into a plus.
    plus = np.zeros((5, 5), dtype=bool)
    plus[2, 1:4] = plus[1:4, 2] = True
    assert opening(plus).sum() == 0


def test_a_tongue_that_leaves_the_frame_or_ends_in_the_unknown_is_not_cut_there():
    mask = np.zeros((9, 12), dtype=np.uint8)
    mask[3:6, :4] = 1
    np.testing.assert_array_equal(opening(mask), mask)
    mask[3:6, 4:6] = 255
    np.testing.assert_array_equal(opening(mask), mask)
    mask[:, 6:] = 255
    np.testing.assert_array_equal(closing(mask), mask)


@settings(deadline=None)
@given(MASKS)
def test_opening_takes_and_closing_gives(mask):
    opened, closed = opening(mask), closing(mask)
    for changed in (opened, closed):
        np.testing.assert_array_equal(changed == 255, mask == 255)
    assert not ((opened == 1) & (mask != 1)).any()
    assert not ((closed == 0) & (mask != 0)).any()
    np.testing.assert_array_equal(opening(opened), opened)
    turned = np.array([1, 0, 255])[np.minimum(mask, 2)]
    np.testing.assert_array_equal(np.array([1, 0, 255])[np.minimum(opening(turned), 2)], closed)


def test_every_choice_leaves_the_unknown_and_the_argument_alone():
    mask = np.random.default_rng(0).choice([0, 1, 255], (30, 30), p=[0.3, 0.6, 0.1])
    mask = mask.astype(np.uint8)
    before = mask.copy()
    for choice in CHOICES.values():
        found = choice(mask, GRID.pixel_area_km2, None)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found == 255, mask == 255)
        assert choice(mask, np.nan, None).shape == mask.shape  # the size of a pixel is unknown
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(CHOICES["minimum area"](mask, np.nan, None), mask)


def test_effects():
    reference = np.zeros(GRID.shape, dtype=np.uint8)
    reference[5:25, 5:25] = 1
    mask = reference.copy()
    mask[10, 10] = 0  # a hole
    mask[28, 28] = 1  # a speck
    mask[0] = reference[1] = 255
    table = effects(mask, reference, GRID)
    assert table.choice.tolist() == ["as predicted", *CHOICES]
    table = table.set_index("choice")
    first = table.loc["as predicted"]
    assert first[["regions", "changed_px"]].tolist() == [2, 0]
    assert first.iou == pytest.approx(399 / 401)
    assert first.precision == pytest.approx(399 / 400)
    assert first.recall == pytest.approx(399 / 400)
    assert first.area_km2 == pytest.approx(400e-4)
    assert first.boundary_median_m == 0
    done = table.loc["opening, minimum area, holes filled"]
    assert done[["iou", "regions", "changed_px"]].tolist() == [1, 1, 2]
    assert table.loc["GlacierNet's rules", "area_km2"] == 0
    assert np.isnan(table.loc["GlacierNet's rules", "boundary_median_m"])
    keep = mask * 0
    keep[10, 10] = 1
    spared = effects(mask, reference, GRID, keep=keep).set_index("choice")
    assert (table.changed_px["holes filled"], spared.changed_px["holes filled"]) == (1, 0)
    bare = Grid(None, Affine(1, 0, 0, 0, -1, 0), *GRID.shape)
    assert effects(mask, reference, bare).boundary_median_m.isna().all()


def test_a_reference_of_another_shape_is_refused():
    mask = np.zeros((4, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="differ in shape"):
        effects(mask, mask[:2], GRID)
