"""Windows along an axis: all pixels covered, weights that add up to one, little computed twice."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glacier_utils.errors import GlacierError
from glacier_utils.prediction.windows import LARGEST, Windows, fit_windows, panels

LENGTHS = st.integers(1, 3000)


@given(LENGTHS, st.integers(1, 1024), st.floats(0, 0.9))
def test_windows_cover_every_pixel_and_share_the_overlap(length, window, fraction):
    overlap = int(fraction * (window - 1))
    windows = fit_windows(length, window, overlap)
    assert windows.size <= max(window, 1)
    assert windows.starts[0] == 0
    assert windows.starts[-1] + windows.size == length
    for before, after in pairwise(windows.starts):
        assert before < after
        assert before + windows.size - after >= overlap


@given(LENGTHS, st.integers(1, 1024), st.floats(0, 0.9))
def test_weights_add_up_to_one_at_every_pixel(length, window, fraction):
    windows = fit_windows(length, window, int(fraction * (window - 1)))
    total = np.zeros(length)
    for start, weight in zip(windows.starts, windows.weights, strict=True):
        assert weight.dtype == np.float32
        assert (weight > 0).all()
        total[start : start + windows.size] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_weights_fall_towards_the_neighbour_and_not_towards_the_frame():
    windows = Windows(96, 64, 32, (0, 32))
    first, second = windows.weights
    np.testing.assert_allclose(first[:32], 1)
    np.testing.assert_allclose(first, second[::-1], rtol=1e-5)
    assert (np.diff(first[32:]) < 0).all()
    # In the middle of the overlap both count alike.
    assert first[47] + first[48] == pytest.approx(1)


@given(st.integers(64, 20_000), st.integers(128, 1024))
def test_no_more_is_computed_than_with_windows_of_the_full_size(length, window):
    window, overlap = window // 32 * 32, 64
    fitted = fit_windows(length, window, overlap)
    if length > window:
        plain = len(range(0, length - window, window - overlap)) + 1
        assert len(fitted.starts) * fitted.size <= plain * window
        assert fitted.size % 32 == 0


def test_a_tile_takes_eighteen_windows_of_672_pixels():
    windows = fit_windows(10_980, LARGEST, 64)
    assert (windows.size, len(windows.starts)) == (672, 18)
    assert all(start % 32 == 0 for start in windows.starts[:-1])
    assert fit_windows(896, 896, 64).starts == (0,)


def test_windows_of_odd_sizes_are_taken_as_they_are():
    assert fit_windows(100, 24, 8) == Windows(100, 24, 8, (0, 16, 32, 48, 64, 76))


@pytest.mark.parametrize("overlap", [-1, 64, 65])
def test_overlap_must_be_below_the_window(overlap):
    with pytest.raises(GlacierError, match=f"overlap {overlap}: .* below the window, 64"):
        fit_windows(500, 64, overlap)


@given(LENGTHS, st.integers(32, 256), st.integers(0, 31), st.integers(1, 4000))
def test_panels_share_out_the_columns_with_all_windows_that_reach_them(
    length, window, overlap, widest
):
    cols = fit_windows(length, window, overlap)
    parts = list(panels(cols, widest))
    assert [part.first for part in parts] == [0, *(part.last for part in parts[:-1])]
    assert parts[-1].last == length
    for part in parts:
        for number, start in enumerate(cols.starts):
            reaches = start < part.last and start + cols.size > part.first
            assert (number in part.windows) == reaches
        assert list(part.windows) == list(range(part.windows[0], part.windows[-1] + 1))
        wide = cols.starts[part.windows[-1]] + cols.size - cols.starts[part.windows[0]]
        assert wide <= max(widest, 2 * cols.size) + cols.size  # of which two or more are shared
    if length <= widest:
        assert len(parts) == 1
