"""Patches as pictures: galleries, disagreements, a scene apart."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from affine import Affine
from drawing import drawn, legend
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from rasterio.crs import CRS

from glacier_utils.evaluation import error_analysis
from glacier_utils.plotting import gallery, style
from glacier_utils.raster.grid import Grid, Image

pytestmark = pytest.mark.usefixtures("offscreen")

BANDS = ("red", "green", "blue", "nir")
CODES = np.resize(np.array([0, 1, 255], np.uint8), (16, 16))


def square():
    return np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)


def test_disagreement_gallery():
    grid = Grid(CRS.from_epsg(32623), Affine(30, 0, 500_000, 0, -30, 6_800_000), 60, 80)
    pixels = np.random.default_rng(0).random((4, *grid.shape), np.float32)
    image = Image(pixels, np.ones(grid.shape, bool), BANDS, grid)
    reference = np.zeros(grid.shape, np.uint8)
    reference[10:40, 10:40] = 1
    reference[50:, 60:] = 1
    mask = reference.copy()
    mask[0:8, 70:78] = 1
    found = error_analysis.disagreements(mask, reference, image, truth=reference)
    figure = drawn(gallery.disagreement_gallery(found, image, mask, reference, size=40))
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert len(titles) == 1
    assert titles[0].startswith("false alarm, 0.06 km²\n")
    assert titles[0].endswith("? map right 0 %")
    assert figure.get_suptitle().endswith("windows of 1.2 km")
    assert legend(figure) == list(style.ERROR_COLOURS)


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
