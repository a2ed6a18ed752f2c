"""Where windows lie: all over the frame, on the lattice of other dates, a few to a read."""

from __future__ import annotations

import numpy as np
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.datasets.layout import chunks, windows
from glacier_utils.raster.grid import Grid


def grid(height, width):
    return Grid(CRS.from_epsg(32623), Affine(10, 0, 500_000, 0, -10, 6_800_000), height, width)


def test_windows_cover_the_frame_and_stick_out_at_its_end():
    corners = windows(grid(70, 64), 32, 32)
    assert corners == [(row, col) for row in (0, 32, 64) for col in (0, 32)]


def test_overlapping_windows_stop_when_nothing_new_would_come():
    corners = windows(grid(64, 64), 32, 16)
    assert sorted({row for row, _ in corners}) == [0, 16, 32]


def test_a_shifted_date_is_tiled_like_the_first_one():
    first = grid(96, 96)
    second = first.window(10, 5, 80, 80)
    corners = windows(second, 32, 32, reference=first)
    assert corners[0] == (-10, -5)


def test_files_of_the_patch_size_are_the_windows():
    tiles = [(0, 0, 32, 32), (40, 3, 32, 32)]
    assert windows(grid(72, 35), 32, 32, tiles=tiles, own_tiles=True) == [(0, 0), (40, 3)]
    # Files of another size are cut by the lattice, and empty windows are left out.
    tiles = [(0, 0, 64, 64), (128, 128, 64, 64)]
    corners = windows(grid(192, 192), 32, 32, tiles=tiles, own_tiles=True)
    assert len(corners) == 8
    assert (64, 0) not in corners


@given(st.integers(1, 150), st.integers(1, 150), st.integers(16, 40), st.data())
def test_every_pixel_lies_in_a_window(height, width, size, data):
    stride = data.draw(st.integers(max(size // 4, 1), size))
    covered = np.zeros((height, width), bool)
    for row, col in windows(grid(height, width), size, stride):
        covered[row : row + size, col : col + size] = True
    assert covered.all()


def test_chunks_hold_each_window_once_and_stay_small():
    rows, cols = np.array(windows(grid(3000, 2500), 128, 64)).T
    groups = list(chunks(rows, cols, 128))
    assert sorted(np.concatenate(groups)) == list(range(len(rows)))
    assert len(groups) == 9
    for group in groups:
        assert np.ptp(rows[group]) + 128 <= 1024 + 128
        assert np.ptp(cols[group]) + 128 <= 1024 + 128
