"""Patches as pictures: galleries, those that were dropped, disagreements, a scene apart."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from drawing import drawn, legend
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from glacier_utils.plotting import gallery, style
from glacier_utils.plotting.gallery import dropped_patches

pytestmark = pytest.mark.usefixtures("offscreen")

BANDS = ("red", "green", "blue", "nir")
CODES = np.resize(np.array([0, 1, 255], np.uint8), (16, 16))


def square():
    return np.random.default_rng(0).random((16, 16, 3), np.float32)


def index_of(*reasons):
    return pd.DataFrame(
        {
            "area": "train",
            "date": "2023-08",
            "row": np.arange(len(reasons)) * 8,
            "col": 0,
            "split": ["dropped" if reason and "kept" not in reason else "train"
                      for reason in reasons],
            "reason": reasons,
        }
    )  # fmt: skip


def arrays(count):
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 0.9, (count, 4, 8, 8)).astype(np.float32)
    return images, rng.choice(np.array([0, 1, 255], np.uint8), (count, 8, 8))


def titles(figure):
    found = [ax.get_title() for ax in figure.axes if ax.get_title()]
    plt.close(figure)
    return found


def test_every_kind_of_reason_has_its_turn():
    index = index_of(
        "", "unknown 83 % > 50 %", "unknown 90 % > 50 %", "no data 70 % > 50 %",
        "dropped by override: fog", "kept by override: a lake", *["unknown 95 % > 50 %"] * 9,
    )  # fmt: skip
    figure = dropped_patches(index, *arrays(len(index)), BANDS)
    assert figure.get_suptitle() == "12 of 14 patches dropped, or kept by an override"
    shown = titles(figure)
    assert [title.splitlines()[1] for title in shown[:4]] == [
        "row 8, col 0", "row 24, col 0", "row 32, col 0", "row 40, col 0",
    ]  # fmt: skip
    assert shown[0].splitlines()[2] == "unknown 83 % > 50 %"


def test_the_pictures_are_those_of_the_patches():
    images, labels = arrays(3)
    index = index_of("", "", "no data 70 % > 50 %").set_index(np.array([7, 8, 9]))
    figure = dropped_patches(index, images, labels, BANDS)
    drawn = [ax.get_images()[0].get_array() for ax in figure.axes if ax.get_images()]
    assert len(drawn) == 1
    order = np.argsort(images[2, 0].ravel())
    assert (np.diff(drawn[0][:8, :, 0].ravel()[order]) >= 0).all()
    plt.close(figure)


@pytest.mark.parametrize("count", [1, 4])
def test_patch_gallery(count):
    squares = [square()] * count
    titles = [f"best, IoU {number}" for number in range(count)]
    figure = drawn(gallery.patch_gallery(squares, titles, columns=3, note="windows of 16 px"))
    assert [ax.get_title() for ax in figure.axes if ax.get_images()] == titles
    assert figure.get_suptitle() == "windows of 16 px"
    both = drawn(gallery.patch_gallery(squares, titles, codes=[CODES] * count))
    below = [ax.get_images()[0].get_array()[-16:] for ax in both.axes]
    assert len(below) == count
    assert to_hex(below[0][0, 1]) == style.ERROR_COLOURS["hit"]
    assert legend(both) == list(style.ERROR_COLOURS)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(2, 80))
def test_exploded_keeps_every_pixel_of_small_patches(height, width, size):
    whole = np.random.default_rng(0).uniform(0, 0.9, (height, width, 3)).astype(np.float32)
    figure = gallery.exploded(whole, patch_size=size)
    canvas = figure.axes[0].get_images()[0].get_array()
    # The gaps are white, which no pixel here is.
    kept = (np.asarray(canvas) < 1).all(axis=2)
    assert kept.sum() == height * width
    assert kept[:size, :size].all()
    plt.close(figure)
