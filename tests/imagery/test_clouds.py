"""Cloud masks: where they come from, what they cost in ice, and that windows do not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.imagery.clouds import cloud_fractions, cloud_mask, unfit
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import Source, open_source
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.mask import Mask

UTM = CRS.from_epsg(32623)
BANDS = ("red", "green", "blue", "nir")


def grid(shape, pixel=30.0):
    return Grid(UTM, Affine(pixel, 0, 500_000, 0, -pixel, 6_800_000), *shape)


def cut(array, row, col, height, width, fill):
    """Return a window of [..., row, col] that may stick out."""
    rows, cols = array.shape[-2:]
    result = np.full((*array.shape[:-2], height, width), fill, array.dtype)
    a, b, c, d = max(row, 0), min(row + height, rows), max(col, 0), min(col + width, cols)
    if a < b and c < d:
        result[..., a - row : b - row, c - col : d - col] = array[..., a:b, c:d]
    return result


class Picture(Source):
    """An image in memory that counts what is read of it."""

    def __init__(self, reflectance, valid=None, *, bands=BANDS, pixel=30.0):
        self.reflectance_array = reflectance.astype(np.float32)
        self.valid = np.ones(reflectance.shape[1:], bool) if valid is None else valid
        self.reflectance_array[:, ~self.valid] = 0
        self.grid, self.bands = grid(reflectance.shape[1:], pixel), bands
        self.paths, self.tiles, self.reads = [], [], 0

    def read(self, row=0, col=0, height=None, width=None):
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        self.reads += height * width
        window = (row, col, height, width)
        return Image(
            cut(self.reflectance_array, *window, 0),
            cut(self.valid, *window, False),
            self.bands,
            self.grid.window(*window),
        )


class Codes(Mask):
    """A mask in memory."""

    def __init__(self, codes, pixel=30.0):
        self.codes = np.asarray(codes, np.uint8)
        self.grid = grid(self.codes.shape, pixel)

    def read(self, row=0, col=0, height=None, width=None):
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        return cut(self.codes, row, col, height, width, 255)


def landscape(shape=(300, 330), seed=0):
    """Return rough ground with a smooth bright bank over its left part."""
    random = np.random.default_rng(seed)
    image = 0.1 + 0.05 * random.random((4, *shape))
    across = np.clip(1.2 - np.arange(shape[1]) / (0.5 * shape[1]), 0, 1)
    return (image * (1 - across) + 0.5 * across).astype(np.float32)


# --- the choice


def test_scene_classification_becomes_cloud_and_shadow():
    codes = np.arange(12, dtype=np.uint8)[None]
    source = Picture(landscape((1, 12)))
    mask = cloud_mask(source, scl=Codes(codes))
    assert mask.method == "scl"
    assert mask.read().tolist() == [[255, 255, 0, 2, 0, 0, 0, 0, 1, 1, 0, 0]]
    assert "without thin cirrus" in mask.text


def test_invalid_pixels_and_what_lies_outside_are_not_assessed():
    valid = np.array([[True, False, True]])
    source = Picture(landscape((1, 3)), valid)
    mask = cloud_mask(source, ready=Codes([[1, 1, 255]]))
    assert mask.read().tolist() == [[1, 255, 255]]
    assert mask.read(-1, -1, 3, 5)[1].tolist() == [255, 1, 255, 255, 255]
    assert (mask.read(5, 5, 2, 2) == 255).all()


def test_a_coarser_classification_is_laid_on_the_image():
    source = Picture(landscape((4, 4)), pixel=10.0)
    mask = cloud_mask(source, scl=Codes([[9, 4], [3, 0]], pixel=20.0))
    assert mask.read().tolist() == [[1, 1, 0, 0]] * 2 + [[2, 2, 255, 255]] * 2


def test_the_users_mask_goes_before_the_classification():
    source = Picture(landscape((1, 2)))
    ready, scl = Codes([[0, 2]]), Codes([[9, 9]])
    assert cloud_mask(source, ready=ready, scl=scl).read().tolist() == [[0, 2]]
    assert cloud_mask(source, ready=ready, scl=scl, method="scl").read().tolist() == [[1, 1]]


def test_none_assesses_nothing_and_reads_nothing():
    source = Picture(landscape((5, 6)))
    mask = cloud_mask(source, method="none")
    assert (mask.read(1, 1, 2, 3) == 255).all()
    assert source.reads == 0
    assert mask.text == "clouds: not assessed (as asked for)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "slc"}, "did you mean 'scl'"),
        ({"method": "?"}, "known are auto, ready"),
        ({"method": "scl"}, "needs the scene classification"),
        ({"method": "ready"}, "needs a cloud mask of your own"),
    ],
)
def test_wrong_choices_name_the_remedy(arguments, words):
    with pytest.raises(GlacierError, match=words.replace("?", r"\?")):
        cloud_mask(Picture(landscape((4, 4))), **arguments)


def test_imagery_that_is_no_reflectance_is_told_with_a_reason():
    good = landscape((64, 64))
    assert unfit(Picture(good)) == ""
    assert "no nir" in unfit(Picture(good[:3], bands=BANDS[:3]))
    assert "8-bit" in unfit(Picture(np.round(good * 255) / 255))
    assert "not in reflectance" in unfit(Picture(good * 10_000))
    assert unfit(Picture(np.full((4, 64, 64), 0.2))) == ""  # 51/255, by chance
    # Nothing is known of an image that is all invalid, but that is no reason to refuse it.
    assert unfit(Picture(good, np.zeros(good.shape[1:], bool))) == ""


def test_without_a_mask_nothing_is_assessed():
    mask = cloud_mask(Picture(landscape((4, 4))))
    assert mask.method == "none"
    assert (mask.read() == 255).all()
    assert mask.text == "clouds: not assessed (neither a mask nor a scene classification)"


# --- what a mask says


def test_fractions_count_what_was_assessed():
    codes = np.array([[0, 1, 1, 255], [2, 0, 0, 0], [255, 255, 255, 0]], np.uint8)
    assert cloud_fractions(codes) == {"cloud": 2 / 8, "shadow": 1 / 8}
    assert all(math.isnan(value) for value in cloud_fractions(np.full((2, 2), 255)).values())


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0, 1, 2, 255]), min_size=1, max_size=40))
def test_fractions_stay_within_bounds(codes):
    fractions = cloud_fractions(np.array([codes], np.uint8))
    assessed = [code for code in codes if code != 255]
    if assessed:
        clear = 1 - fractions["cloud"] - fractions["shadow"]
        assert clear == pytest.approx(assessed.count(0) / len(assessed))


# --- real imagery (figures measured once, held to bounds)


def test_everest_is_refused(real_data):
    folder = real_data / "everest_landsat7"
    source = open_source(
        str(folder / "*.tif"),
        bands={**{name: {"file": "*_RGB.tif", "band": number}
                  for number, name in enumerate(("red", "green", "blue"), 1)}, "nir": "*_B4.tif"},
        reflectance=Reflectance(255),
    )  # fmt: skip
    assert "8-bit digital numbers" in unfit(source)
