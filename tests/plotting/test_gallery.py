"""Patches as pictures: galleries, disagreements, a scene apart."""

from __future__ import annotations

import numpy as np
import pytest
from drawing import drawn, legend
from matplotlib.colors import to_hex

from glacier_utils.plotting import gallery, style

pytestmark = pytest.mark.usefixtures("offscreen")

BANDS = ("red", "green", "blue", "nir")
CODES = np.resize(np.array([0, 1, 255], np.uint8), (16, 16))


def square():
    return np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)


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
