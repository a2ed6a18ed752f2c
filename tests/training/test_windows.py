"""Random windows: over the borders of patches, in ground that lies apart, of several sizes."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glacier_utils.training.windows import TrainingGround, Window

SIDE = 16


def store(corners, *, scene=None, labels=None, dates=None) -> SimpleNamespace:
    """Patches cut at some corners out of one scene whose pixels say where they lie."""
    size = max(max(pair) for pair in corners) + SIDE
    row, col = np.mgrid[:size, :size]
    scene = np.stack([row + 1, col + 1]).astype(np.float32) if scene is None else scene
    labels = ((row + col) % 2).astype(np.uint8) if labels is None else labels
    cut = [(slice(r, r + SIDE), slice(c, c + SIDE)) for r, c in corners]
    images = np.stack([scene[:, *part] for part in cut])
    own = np.stack([labels[part] for part in cut])
    index = pd.DataFrame(corners, columns=["row", "col"])
    index["area"], index["date"], index["split"] = "train", dates or "2023-08", "train"
    index["glacier"] = (own == 1).sum(axis=(1, 2)) / np.maximum((own != 255).sum(axis=(1, 2)), 1)
    return SimpleNamespace(images=images, labels=own, index=index)


def ground(corners, **options) -> TrainingGround:
    made = store(corners, **options)
    return TrainingGround(made, np.arange(len(made.index)))


LATTICE = [(r, c) for r in range(0, 4 * SIDE, SIDE) for c in range(0, 4 * SIDE, SIDE)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_a_window_shows_its_place_over_the_borders_of_patches(seed):
    made = ground(LATTICE)
    for window in made.draw(8, np.random.default_rng(seed)):
        if window.side != SIDE:
            continue
        (image,), (label,) = made.read([window])
        row, col = np.mgrid[:SIDE, :SIDE] + np.array([window.row, window.col])[:, None, None]
        assert np.array_equal(image, np.stack([row + 1, col + 1]))
        assert np.array_equal(label, (row + col) % 2)


def test_windows_of_one_piece_of_ground_lie_everywhere_and_never_leave_it():
    made = ground(LATTICE)
    windows = made.draw(2000, np.random.default_rng(0))
    tops = {window.row for window in windows if window.side == SIDE}
    assert tops == set(range(3 * SIDE + 1))
    assert all(window.row + window.side <= 4 * SIDE for window in windows)
    assert {window.side for window in windows} == set(range(13, 21))


def test_overlapping_patches_are_one_ground():
    made = ground([(0, 0), (8, 0), (16, 0), (0, 8), (8, 8), (16, 8), (0, 16), (8, 16), (16, 16)])
    images, labels = made.read(made.draw(50, np.random.default_rng(1)))
    assert (labels != 255).all()
    assert (images > 0).all()


def test_patches_that_lie_apart_give_windows_of_their_own_ground():
    made = ground([(0, 0), (0, 100), (100, 0)])
    windows = made.draw(100, np.random.default_rng(2))
    assert {window.side for window in windows} <= set(range(13, 17))
    _, labels = made.read(windows)
    assert (labels != 255).all()


def test_dates_of_one_place_are_different_grounds():
    made = ground([(0, 0), (0, SIDE)], dates=["2023-07", "2023-08"])
    assert all(window.col in (0, *range(SIDE, SIDE + 4), 1, 2, 3)
               for window in made.draw(100, np.random.default_rng(3)))  # fmt: skip
    _, labels = made.read(made.draw(100, np.random.default_rng(4)))
    assert (labels != 255).all()


def test_validation_beside_the_training_ground_is_seen_without_its_labels_and_test_not():
    made = store([(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)])
    made.index["split"] = ["train", "validation", "buffer", "test"]
    (image,), (label,) = TrainingGround(made, np.array([0])).read([Window(0, 8, 8, SIDE)])
    row, col = np.mgrid[8 : 8 + SIDE, 8 : 8 + SIDE]
    assert (label[:8, :8] != 255).all()
    assert (label[8:] == 255).all()
    assert (label[:, 8:] == 255).all()
    shown = (row < SIDE) | (col < SIDE)
    assert np.array_equal(image[0], np.where(shown, row + 1, 0))


def test_a_small_glacier_is_met_as_often_as_a_large_one():
    labels = np.zeros((4 * SIDE, 4 * SIDE), np.uint8)
    labels[:SIDE, :SIDE] = 1
    labels[40, 40] = 1  # one pixel in the patch at (32, 32)
    made = ground(LATTICE, labels=labels)
    drawn = made.draw(2000, np.random.default_rng(5))
    meets = [w.row <= 40 < w.row + w.side and w.col <= 40 < w.col + w.side for w in drawn]
    assert 0.25 < np.mean(meets) < 0.45  # a quarter for it, and some by chance


def test_a_patch_without_glacier_is_drawn_from_too():
    made = ground([(0, 0)], labels=np.zeros((SIDE, SIDE), np.uint8))
    _, labels = made.read(made.draw(5, np.random.default_rng(0)))
    assert (labels == 0).all()


def test_an_index_may_speak_of_glacier_that_the_labels_no_longer_hold():
    made = ground(LATTICE)
    made.store.labels[:] = 0
    _, labels = made.read(made.draw(20, np.random.default_rng(0)))
    assert (labels == 0).all()


def test_another_size_keeps_values_and_invalid_pixels():
    scene = np.ones((2, 2 * SIDE, 2 * SIDE), np.float32)
    scene[:, :, 10:] = 3
    scene[:, 20:] = 0
    made = ground([(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)], scene=scene)
    images, labels = made.read([Window(0, 2, 2, 20), Window(0, 5, 3, 13)])
    assert images.shape == (2, 2, SIDE, SIDE)
    assert labels.shape == (2, SIDE, SIDE)
    assert labels.dtype == torch.uint8
    known = images[images > 0]
    assert known.min() >= 1
    assert known.max() <= 3.0001
    assert ((images[:, 0] == 0) <= (labels == 255)).all()
    rows = [int((image[0, :, 0] > 0).sum()) for image in images]
    assert rows == [round(18 * SIDE / 20), SIDE]


def test_the_same_numbers_draw_the_same_windows():
    made = ground(LATTICE)
    one, two = (made.draw(20, np.random.default_rng([3, 7])) for _ in range(2))
    assert one == two
    assert one != made.draw(20, np.random.default_rng([3, 8]))


@pytest.mark.parametrize("count", [1, 3])
def test_a_single_patch_is_ground_enough(count):
    made = ground([(0, 0)])
    images, labels = made.read(made.draw(count, np.random.default_rng(0)))
    assert len(images) == len(labels) == count
