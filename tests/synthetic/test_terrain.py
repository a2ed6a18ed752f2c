"""Noise, drainage and refinement on grids small enough to know the answer."""

from __future__ import annotations

import numpy as np
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
    eroded = terrain.erode(height, outlets, np.full((24, 24), 10.0), steps=10, creep=0.1)
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
