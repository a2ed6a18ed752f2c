"""Ice keeps its mass, lies where the climate allows it, and remembers where it came from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from glacier_utils.synthetic import glaciers, ground
from glacier_utils.synthetic.glaciers import Climate, Setting, inner
from glacier_utils.synthetic.terrain import Relief

SETTING = Setting(
    Relief(2200, fjord=((0.68, -0.1), (0.4, 1.1)), fjord_km=1.2, grain_km=5, roughness=1.0,
           sheet_side="east"),
    fraction_above=0.2, warming_m=55, debris=0.1,
)  # fmt: skip


def build(setting: Setting, patches: int) -> glaciers.Landscape:
    size = 128 * patches
    return glaciers.build_landscape(size, size, setting, np.random.default_rng(3))


@pytest.fixture(scope="module")
def with_sheet() -> glaciers.Landscape:
    return build(SETTING, 4)


@pytest.fixture(scope="module")
def without_sheet() -> glaciers.Landscape:
    bare = dataclasses.replace(SETTING.relief, sheet_side=None)
    return build(dataclasses.replace(SETTING, relief=bare), 4)


def test_ice_without_balance_spreads_and_keeps_its_volume():
    bed, sea = np.zeros((31, 31)), np.zeros((31, 31), bool)
    start = np.zeros((31, 31))
    start[13:18, 13:18] = 200
    still = Climate(0, gain=0, most=0)
    end = glaciers.grow(bed, sea, 80, still, years=50, step=1, thickness=start)
    np.testing.assert_allclose(end.sum(), start.sum(), rtol=0.01)
    assert end.max() < start.max()
    assert (end > 1).sum() > (start > 1).sum()
    np.testing.assert_allclose(end, end[::-1, ::-1], atol=1)


def test_glacier_reaches_below_the_line_and_shrinks_when_it_rises():
    rows, cols = np.indices((60, 30))
    # A valley that falls to the south.
    bed = 1500 - 18.0 * rows + 4 * (cols - 15.0) ** 2
    sea = np.zeros(bed.shape, bool)
    cold = glaciers.grow(bed, sea, 80, Climate(1200, shade_m=0), years=200, step=2)
    warm = glaciers.grow(bed, sea, 80, Climate(1300, shade_m=0), years=60, step=1, thickness=cold)
    assert (bed + cold)[cold > 10].min() < 1150
    assert 20 < cold.max() < 500
    assert (warm > 5).sum() < (cold > 5).sum()
    assert not (cold[bed < 500] > 1).any()


def test_no_ice_at_sea():
    bed = np.full((20, 20), 1500.0)
    sea = np.zeros((20, 20), bool)
    sea[:, :5] = True
    bed[sea] = -50
    assert not glaciers.grow(bed, sea, 80, Climate(1000), years=20, step=1)[:, :4].any()


def test_flow_lines_run_uphill_and_sum_their_source():
    rows, _ = np.indices((40, 10), dtype=float)
    surface = -5.0 * rows  # falls to the south
    (row, col), (total, twice) = glaciers.upstream(
        surface, np.ones((40, 10), bool), np.stack([np.ones((40, 10)), 2 * np.ones((40, 10))]), 10,
        doublings=3,
    )  # fmt: skip
    np.testing.assert_allclose(row[20:39, 5], rows[20:39, 5] - 8, atol=0.1)
    np.testing.assert_allclose(col[20:39, 5], 5, atol=0.1)
    np.testing.assert_allclose(total[20:39, 5], 8, atol=0.1)
    np.testing.assert_allclose(twice[20:39, 5], 16, atol=0.2)


def test_divide_parts_two_glaciers():
    rows, cols = np.indices((20, 60))
    surface = 1000 - 30.0 * np.abs(cols - 30)
    covered = (cols > 8) & (cols < 52) & (rows > 3) & (rows < 16)
    labels = glaciers.basins(surface, covered, 10, np.random.default_rng(0))
    assert set(labels[covered]) >= {1}
    assert not labels[~covered].any()
    assert labels[10, 15] != labels[10, 45]


def test_held_ice_keeps_its_height_and_feeds_its_surroundings():
    bed, sea = np.zeros((30, 30)), np.zeros((30, 30), bool)
    held = np.full(bed.shape, -1e4)
    held[:, :10] = 300
    melting = Climate(1000, gain=0.001)
    ice = glaciers.grow(bed, sea, 80, melting, years=40, step=2, held=held)
    assert (ice[:, :10] == 300).all()
    assert (ice[:, 10] > 20).all()
    assert not ice[:, 25:].any()


def test_ice_sheet_is_number_zero_and_calves_with_a_cliff(with_sheet):
    sheet, ice = with_sheet.sheet_around, with_sheet.ice_around
    assert sheet.any()
    assert (ice & ~sheet).any()
    assert not (sheet & ~ice).any()
    assert (with_sheet.glacier_around[sheet] == 0).all()
    assert (with_sheet.glacier_around[ice & ~sheet] > 0).all()
    front = inner(sheet) & ndimage.binary_dilation(with_sheet.fjord)
    assert front.any()
    cliff = np.median(with_sheet.height[front])
    assert 15 < cliff < 120
    assert np.median(with_sheet.height[inner(sheet)]) > 3 * cliff


def test_melange_is_closed_before_the_front_and_only_at_sea(with_sheet, without_sheet):
    front = inner(with_sheet.sheet_around)
    near = ndimage.binary_dilation(front, iterations=10) & with_sheet.fjord
    assert with_sheet.melange[near].mean() > 0.7
    for landscape in (with_sheet, without_sheet):
        assert not landscape.melange[~landscape.fjord].any()
        assert not (landscape.fjord & landscape.ice).any()
        assert (landscape.height[landscape.fjord] == 0).all()


def test_no_ice_sheet_where_none_is_asked_for(without_sheet):
    assert not without_sheet.sheet_around.any()
    assert (without_sheet.glacier_around > 0).all()


def test_glaciers_have_drawn_back_and_none_is_too_small(without_sheet):
    now, then = without_sheet.ice_around, without_sheet.ice_2001_around
    assert not (now & ~then).any()
    assert 0.7 < now.sum() / then.sum() < 0.99
    labels, _ = ndimage.label(now)
    assert np.bincount(labels.ravel())[1:].min() >= 0.05e6 / 100


@pytest.mark.parametrize("name", ["with_sheet", "without_sheet"])
def test_debris_lies_low_on_the_tongues(name, request):
    landscape = request.getfixturevalue(name)
    melting = landscape.ice & (landscape.height < landscape.equilibrium_m)
    covered = landscape.debris > 0.5
    assert not (covered & ~landscape.ice).any()
    assert not covered[landscape.height > landscape.equilibrium_m + 20].any()
    local = melting & ~inner(landscape.sheet_around)
    assert 0.02 < covered[local].mean() < 0.6
    assert landscape.height[covered & local].mean() < landscape.height[local].mean()


def test_textures_of_the_ice_are_in_their_ranges(with_sheet):
    ice = with_sheet.ice
    assert abs(with_sheet.stripes[ice].mean()) < 0.5
    assert 0.5 < with_sheet.stripes[ice].std() < 1.5
    assert with_sheet.crevasses.min() >= 0
    assert with_sheet.crevasses.max() <= 1
    assert not with_sheet.crevasses[~ice].any()


def test_same_seed_same_landscape():
    first, second = build(SETTING, 2), build(SETTING, 2)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))


def test_icebergs_may_be_cut_by_the_frame():
    sea = np.ones((96, 64), bool)
    for seed in range(40):
        floating = ground.melange(sea, ~sea, np.random.default_rng(seed))
        assert floating.shape == sea.shape
        assert -1e-6 < floating.min() <= floating.max() <= 1
