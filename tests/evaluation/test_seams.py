"""Seams as jumps and as error, measured where windows begin and end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacier_utils.evaluation import seams

# ---- jumps


@settings(max_examples=40, deadline=None)
@given(size=st.integers(2, 12), rows=st.integers(1, 4), cols=st.integers(1, 4))
def test_steps_between_patches_are_found_at_distance_zero(size, rows, cols):
    # Each patch is flat and one higher than its left and upper neighbour.
    steps = np.add.outer(np.arange(rows), np.arange(cols)).astype(np.float32)
    values = np.kron(steps, np.ones((size, size), np.float32))
    profile = seams.seam_profile(values, size)
    assert profile["distance_px"].tolist() == list(range(25))
    jump = profile["jump"]
    assert np.isnan(jump[0]) if rows == cols == 1 else jump[0] == 1
    assert jump[1] == 0
    assert jump[1:].fillna(0).eq(0).all()
    # No pair of neighbours lies farther from a border than half a patch.
    assert jump[size // 2 + 1 :].isna().all()


def test_a_ramp_has_a_flat_profile_and_unknown_pixels_do_not_count():
    values = np.add.outer(np.arange(20) * 0.1, np.arange(30) * 0.1)
    values[4:7, 3:22] = np.nan
    jump = seams.seam_profile(values, 10)["jump"][:6]
    np.testing.assert_allclose(jump, 0.1)


def test_a_seam_one_pixel_beside_the_border_is_at_distance_one():
    values = np.zeros((8, 16))
    values[:, 9:] = 1  # between the columns 8 and 9; the border lies between 7 and 8
    jump = seams.seam_profile(values, 8)["jump"][:3]
    # Of the pairs at distance one, 4 x 8 side by side and 2 x 16 above each other, 8 jump.
    assert jump.tolist() == pytest.approx([0, 8 / 64, 0])


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("row", "col"), [(1, 1), (1, 3), (2, 2)])
def test_the_worst_corner_is_found(size, row, col):
    values = np.zeros((3 * size, 4 * size))
    values[row * size, col * size - 2 : col * size + 2] = 0.9  # a jump beside that corner
    top, left = seams.worst_seam(values, size)
    half = size // 2
    assert (top, left) == (row * size - half, col * size - half)
    window = values[top : top + size, left : left + size]
    assert window.shape == (size, size)
    assert window.max() == 0.9


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 15), st.booleans())
def test_the_worst_window_lies_inside_the_map(height, width, size, unknown):
    values = np.random.default_rng(0).random((height, width))
    if unknown:
        values[:] = np.nan
    row, col = seams.worst_seam(values, size)
    assert row >= 0
    assert col >= 0
    if unknown or min(height, width) < 2 * size - size // 2:
        assert (row, col) == (0, 0)
    if (row, col) != (0, 0):
        assert row + size <= height
        assert col + size <= width
