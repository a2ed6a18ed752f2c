"""Ice keeps its mass, lies where the climate allows it, and remembers where it came from."""

from __future__ import annotations

import numpy as np

from glacier_utils.synthetic import glaciers
from glacier_utils.synthetic.glaciers import Climate


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
    row, col, total = glaciers.upstream(
        surface, np.ones((40, 10), bool), np.ones((40, 10)), 10, doublings=3
    )
    np.testing.assert_allclose(row[20:, 5], rows[20:, 5] - 8, atol=0.1)
    np.testing.assert_allclose(col[20:, 5], 5, atol=0.1)
    np.testing.assert_allclose(total[20:, 5], 8, atol=0.1)


def test_divide_parts_two_glaciers():
    rows, cols = np.indices((20, 60))
    surface = 1000 - 30.0 * np.abs(cols - 30)
    covered = (cols > 8) & (cols < 52) & (rows > 3) & (rows < 16)
    labels = glaciers.basins(surface, covered, 10, np.random.default_rng(0))
    assert set(labels[covered]) >= {1}
    assert not labels[~covered].any()
    assert labels[10, 15] != labels[10, 45]


def test_shade_knows_north():
    rows, _ = np.indices((9, 9), dtype=float)
    falling_north = 10.0 * rows
    assert (glaciers.shade(falling_north, 10) > 0).all()
    assert (glaciers.shade(-falling_north, 10) < 0).all()
