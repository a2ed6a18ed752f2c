"""Patches as pictures: galleries, those that were dropped, disagreements, a scene apart."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from affine import Affine
from drawing import drawn, legend
from matplotlib.colors import to_hex
from rasterio.crs import CRS

from glacier_utils.evaluation import error_analysis
from glacier_utils.plotting import gallery, style
from glacier_utils.plotting.gallery import dropped_patches
from glacier_utils.raster.grid import Grid, Image

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
