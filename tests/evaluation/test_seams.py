"""Seams as jumps and as error, measured where windows begin and end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacier_utils.evaluation import seams
from glacier_utils.prediction.windows import fit_windows

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


# ---- borders


def test_borders_are_begins_and_ends_inside_the_frame():
    assert seams.borders(range(0, 30, 10), 10, 30).tolist() == [10, 20]
    assert seams.borders([0, 6, 12], 10, 22).tolist() == [6, 10, 12, 16]
    assert seams.borders([0], 50, 40).tolist() == []


@given(st.lists(st.integers(1, 59), max_size=6, unique=True), st.integers(1, 60))
def test_the_distance_is_that_to_the_nearest_border(found, length):
    found = np.array(sorted(border for border in found if border < length), int)
    distance = seams.border_distance(found, length)
    expected = [
        min([pixel - b if pixel >= b else b - 1 - pixel for b in found], default=length)
        for pixel in range(length)
    ]
    assert distance.tolist() == expected


# ---- error


def maps(height=64, width=96, size=16, seed=0):
    """A reference, and a map that is wrong by 0.2, beside borders of patches by 0.6."""
    generator = np.random.default_rng(seed)
    reference = generator.integers(0, 2, (height, width)).astype(np.uint8)
    off = np.full((height, width), 0.2)
    for length, axis in ((height, 0), (width, 1)):
        lines = np.arange(size, length, size)
        index = np.r_[lines, lines - 1]
        off[index if axis == 0 else np.s_[:, index]] = 0.6
    return np.abs(reference - off), reference, size


def test_unknown_pixels_do_not_count():
    probability, reference, size = maps()
    whole = seams.error_near_borders({"map": probability}, reference, size)
    probability[:16] = np.nan
    reference[16:32] = 255  # two rows of patches of four, which are all alike
    half = seams.error_near_borders({"map": probability}, reference, size)
    assert half["inside"][0] == pytest.approx(whole["inside"][0])
    assert half["beside"][0] == pytest.approx(0.04 + 0.32 * beside_seams(probability, reference))


def beside_seams(probability, reference, size=16):
    """Return the fraction of known pixels beside a border among those within 8 px of one."""
    known = np.isfinite(probability) & (reference != 255)
    rows, cols = (
        seams.border_distance(seams.borders(range(0, n, size), size, n), n) for n in reference.shape
    )
    distance = np.minimum(rows[:, None], cols)
    return (known & (distance == 0)).sum() / (known & (distance < 8)).sum()


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    # Squared uniform numbers have a mean of 1/3; blocks of their own level make errors alike.
    held = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        level = generator.uniform(-0.3, 0.3, (4, 4))
        field = generator.random((32, 32)) + np.kron(level, np.ones((8, 8)))
        maps = {"before": field, "after": 0.8 * field}
        table = seams.error_near_borders(maps, np.zeros((32, 32), np.uint8), 16)
        row = table.iloc[1]
        held += row["gain_low"] <= (1 - 0.8**2) * (1 / 3 + 0.09 / 3) <= row["gain_high"]
    assert 175 <= held <= 199


def test_maps_compared_near_borders():
    before, reference, size = maps()
    after = np.abs(reference - 0.2)
    table = seams.error_near_borders({"patches": before, "blended": after}, reference, size)
    assert table["map"].tolist() == ["patches", "blended"]
    rows, cols = (
        seams.border_distance(seams.borders(range(0, n, size), size, n), n) for n in reference.shape
    )
    distance = np.minimum(rows[:, None], cols)
    seam = (distance == 0).sum() / (distance < 8).sum()
    np.testing.assert_allclose(table["beside"], [0.04 + 0.32 * seam, 0.04])
    np.testing.assert_allclose(table["inside"], [0.04, 0.04])
    np.testing.assert_allclose(table["excess"], [0.32 * seam, 0], atol=1e-12)
    assert table.loc[0, ["gain", "gain_low", "gain_high"]].tolist() == [0, 0, 0]
    row = table.loc[1]
    assert 0 < row["gain_low"] < row["gain"] < row["gain_high"]
    assert row["gain"] == pytest.approx(0.32 * seam)
    assert table["verdict"].tolist() == ["", "better"]


def test_shapes_that_differ():
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        seams.error_near_borders({"map": np.zeros((4, 4))}, np.zeros((4, 5), np.uint8), 4)


# ---- effect of windows


def scene(length=256):
    """A reference, and a prediction that is wrong in the first and last pixel of a window."""
    reference = np.random.default_rng(0).integers(0, 2, (length, length)).astype(np.uint8)
    asked = []

    def predict(window: int, overlap: int) -> np.ndarray:
        asked.append((window, overlap))
        axis = fit_windows(length, window, overlap)
        near = seams.border_distance(seams.borders(axis.starts, axis.size, length), length) == 0
        bad = (near[:, None] | near) & (overlap == 0)
        return np.where(bad, 1 - reference, reference).astype(np.float32)

    return predict, reference, asked
