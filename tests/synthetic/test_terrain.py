"""Noise, drainage and refinement on grids small enough to know the answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacier_utils.synthetic import terrain


def test_noise_is_standard_and_has_the_asked_wavelengths():
    field = terrain.power_noise((96, 128), np.random.default_rng(0), exponent=2, longest=32)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 1e-3
    np.testing.assert_allclose(field.std(), 1, rtol=1e-3)
    # Wavelengths above twice the longest are absent: block means over 64 px vanish nearly.
    assert np.abs(field.reshape(96, 2, 64).mean((0, 2))).max() < 0.2


def test_water_runs_down_a_ramp():
    height = np.tile(np.arange(6.0), (4, 1))
    outlets = np.zeros((4, 6), bool)
    outlets[:, 0] = True
    area = terrain.drain(height, outlets).accumulate(np.ones((4, 6)))
    assert area[:, 0].tolist() == [6, 6, 6, 6]
    assert area[:, 5].tolist() == [1, 1, 1, 1]


def test_hollow_drains_over_its_sill():
    height = np.array([[0.0, 5.0, 1.0, 7.0, 3.0]])
    outlets = np.array([[True, False, False, False, True]])
    tree = terrain.drain(height, outlets)
    assert tree.receiver.tolist() == [0, 0, 1, 2, 4]
    assert tree.mouths().tolist() == [0, 0, 0, 0, 4]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 12), cols=st.integers(2, 12))
def test_all_water_reaches_an_outlet(seed, rows, cols):
    rng = np.random.default_rng(seed)
    height = rng.uniform(0, 100, (rows, cols))
    outlets = np.zeros((rows, cols), bool)
    outlets[rng.integers(rows), rng.integers(cols)] = True
    outlets[0, 0] = True
    tree = terrain.drain(height, outlets)
    assert sorted(tree.order.tolist()) == list(range(rows * cols))
    area = tree.accumulate(np.ones((rows, cols)))
    assert area[outlets].sum() == rows * cols
    assert outlets.ravel()[tree.mouths()].all()


def test_rivers_cut_valleys_but_leave_the_outlets():
    rng = np.random.default_rng(1)
    height = 50 + rng.uniform(0, 5, (24, 24))
    outlets = np.zeros((24, 24), bool)
    outlets[12, 0] = True
    height[outlets] = 0
    eroded = terrain.erode(height, outlets, np.full((24, 24), 10.0), 10, rng)
    assert eroded[12, 0] == 0
    tree = terrain.drain(eroded, outlets)
    valleys = tree.accumulate(np.ones((24, 24))) > 40
    assert eroded[valleys].mean() < eroded[~valleys].mean()


def test_refine_keeps_planes_and_places():
    row, col = np.indices((8, 10), dtype=float)
    plane = 3 * row + 2 * col
    for order in (1, 3):
        fine = terrain.refine(plane, 4, order=order)
        assert fine.shape == (32, 40)
        blocks = fine.reshape(8, 4, 10, 4).mean((1, 3))
        np.testing.assert_allclose(blocks[1:-1, 1:-1], plane[1:-1, 1:-1], atol=1e-3)


def test_gradient_points_up_east_and_north():
    row, col = np.indices((5, 5), dtype=float)
    east, north = terrain.gradient(20 * col - 10 * row, 10)
    np.testing.assert_allclose(east, 2)
    np.testing.assert_allclose(north, 1)


def test_shade_knows_north():
    rows, _ = np.indices((9, 9), dtype=float)
    falling_north = 10.0 * rows
    assert (terrain.shade(falling_north, 10) > 0).all()
    assert (terrain.shade(-falling_north, 10) < 0).all()


def test_large_noise_has_the_spectrum_of_small_noise():
    rng = np.random.default_rng(0)
    for longest in (40, 300):
        large = terrain.power_noise((1536, 1152), rng, exponent=3, longest=longest)
        small = terrain.power_noise((768, 768), rng, exponent=3, longest=longest)
        np.testing.assert_allclose(large.std(), 1, rtol=1e-3)
        for step in (1, 4, 16):
            rough = [np.diff(field[::step, ::step], axis=0).std() for field in (large, small)]
            np.testing.assert_allclose(rough[0], rough[1], rtol=0.25)
    # The tiles' own periods do not show.
    for size in terrain.TILES:
        assert np.corrcoef(large[:-size].ravel(), large[size:].ravel())[0, 1] < 0.65


def test_noise_is_the_same_for_the_same_seed():
    first, second = (
        terrain.power_noise((920, 910), np.random.default_rng(3), longest=50) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("side", [None, "north", "east", "south", "west"])
def test_bed_has_valleys_to_the_sea_and_a_plateau_under_the_ice_sheet(side):
    fjord = {
        None: ((1.1, 0.2), (-0.1, 0.6)), "north": ((1.1, 0.4), (-0.1, 0.5)),
        "south": ((-0.1, 0.4), (1.1, 0.5)), "east": ((0.4, -0.1), (0.5, 1.1)),
        "west": ((0.4, 1.1), (0.5, -0.1)),
    }  # fmt: skip
    relief = terrain.Relief(1800, fjord[side], 1.5, 6, 1.0, sheet_side=side)
    bed, shore_km = terrain.make_bed((112, 112), relief, np.random.default_rng(5))
    sea = shore_km < 0
    assert 0.02 < sea.mean() < 0.4
    assert bed[shore_km < -0.15].max() < 0
    assert bed[shore_km > 0.3].min() > -20
    assert 1100 < bed.max() < 2600
    if side is None:
        return
    turned = np.rot90(bed, {"north": 0, "east": 1, "south": 2, "west": 3}[side])
    under, edge = turned[:8], np.rot90(sea, {"north": 0, "east": 1, "south": 2, "west": 3}[side])
    assert 600 < np.quantile(under, 0.7) < 1200
    assert not edge[:15].any()
    # The trough of the fjord goes on below the ice.
    assert under.min() < 450
    assert edge[40:].any()


def test_detail_is_rough_on_slopes_and_even_on_floors():
    col = np.arange(160, dtype=float)
    bed = np.tile(np.maximum(col - 80, 0) * 8, (160, 1))
    rough = terrain.add_detail(bed, 1.0, np.random.default_rng(0))
    assert rough.dtype == np.float32
    detail = rough - bed
    floor, slope = detail[:, 10:70], detail[:, 95:]
    assert slope.std() > 3 * floor.std()
    # Gullies run down the slope: along it heights change less than across it.
    along, across = (np.abs(np.diff(slope, axis=axis)).mean() for axis in (1, 0))
    assert along < 0.85 * across
