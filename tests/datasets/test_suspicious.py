"""Ice-like ground outside the outlines: found at the frame's edge, whole across windows."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rasterio.crs import CRS

from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.exploration import find_suspicious, suspicious_ice
from glacier_utils.imagery.source import Source
from glacier_utils.outlines.inventory import read_outlines
from glacier_utils.outlines.rasterization import OutlineMask, rasterize
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.mask import IceOutsideMask, Mask

BANDS = ("red", "green", "blue", "nir")
ICE, ROCK = (0.45, 0.47, 0.48, 0.40), (0.09, 0.08, 0.06, 0.2)


def grid_of(shape: tuple[int, int]) -> Grid:
    return Grid(CRS.from_epsg(32623), Affine(100, 0, 450_000, 0, -100, 6_780_000), *shape)


def image_of(ice: np.ndarray, valid: np.ndarray | None = None) -> Image:
    valid = np.ones(ice.shape, bool) if valid is None else valid
    values = np.where(ice, np.array(ICE)[:, None, None], np.array(ROCK)[:, None, None])
    return Image((values * valid).astype(np.float32), valid, BANDS, grid_of(ice.shape))


class Arrays(Source, Mask):
    """An image, or its label, in memory."""

    def __init__(self, image: Image, label: np.ndarray) -> None:
        self.image, self.label, self.grid, self.bands = image, label, image.grid, image.bands
        self.paths, self.tiles = [], []

    def cut(self, array: np.ndarray, fill: int, row, col, height, width) -> np.ndarray:
        margin = 40
        edges = [(0, 0)] * (array.ndim - 2) + [(margin, margin)] * 2
        padded = np.pad(array, edges, constant_values=fill)
        return padded[
            ..., margin + row : margin + row + height, margin + col : margin + col + width
        ]

    def read(self, row=0, col=0, height=None, width=None):
        size = row, col, height, width
        values, valid = (self.cut(a, 0, *size) for a in (self.image.reflectance, self.image.valid))
        return Image(values, valid, BANDS, self.grid.window(*size))

    @property
    def mask(self) -> Mask:
        outer = self

        class Label(Mask):
            grid = outer.grid

            def read(self, row=0, col=0, height=None, width=None):
                return outer.cut(outer.label, 255, row, col, height, width)

        return Label()


def test_what_is_suspicious():
    ice = np.zeros((20, 30), bool)
    ice[0:5, 0:10] = True  # on the frame's edge: 50 px, 40 of them outside the outline
    ice[5, 10] = True  # touches it at a corner
    ice[8:14, 8:14] = True  # on nothing
    ice[16:19, 27:] = True  # on the frame's edge: 9 px
    ice[10:14, 20:23] = True  # on a pixel without data
    valid = np.ones(ice.shape, bool)
    valid[14, 23] = False
    label = np.zeros(ice.shape, np.uint8)
    label[0:5, 0:2] = 1
    image = image_of(ice, valid)
    expected = np.zeros(ice.shape, bool)
    expected[0:5, 2:10] = expected[5, 10] = expected[10:14, 20:23] = True
    np.testing.assert_array_equal(suspicious_ice(image, label, min_area_km2=0.1), expected)
    expected[16:19, 27:] = True
    np.testing.assert_array_equal(suspicious_ice(image, label), expected)  # 0.09 > 0.05 km2
    found = find_suspicious(Arrays(image, label), Arrays(image, label).mask, window=7)
    assert found.area_km2.tolist() == pytest.approx([0.41, 0.12, 0.09])
    assert found.crs == "EPSG:32623"
    assert found.attrs["report"] == [
        "ice-like, outside every outline and on the edge of the image: 0.62 km2 in 3 regions"
    ]


def test_unknown_and_outlined_ground_is_not_suspicious():
    ice = np.ones((6, 6), bool)
    for value in (1, 255):
        assert not suspicious_ice(image_of(ice), np.full(ice.shape, value, np.uint8)).any()
    assert not suspicious_ice(image_of(~ice), np.zeros(ice.shape, np.uint8)).any()
    label = np.zeros(ice.shape, np.uint8)
    nothing = find_suspicious(Arrays(image_of(~ice), label), Arrays(image_of(~ice), label).mask)
    assert nothing.empty
    assert nothing.attrs["report"] == []


@settings(max_examples=40)
@given(
    ice=arrays.arrays(bool, (13, 17), elements=st.sampled_from([True, True, False])),
    hole=st.tuples(st.integers(0, 12), st.integers(0, 16)),
    outline=st.tuples(st.integers(0, 12), st.integers(0, 16)),
    window=st.sampled_from([3, 5, 8, 16, 20]), least=st.sampled_from([0.0, 0.05]),
)  # fmt: skip
def test_windows_make_no_difference(ice, hole, outline, window, least):
    valid, label = np.ones(ice.shape, bool), np.zeros(ice.shape, np.uint8)
    valid[hole] = False
    label[outline[0], :] = label[:, outline[1]] = 1
    image = image_of(ice, valid)
    whole = suspicious_ice(image, label, min_area_km2=least)
    scene = Arrays(image, label)
    found = find_suspicious(scene, scene.mask, min_area_km2=least, window=window)
    burnt = rasterize(found.assign(kind="glacier"), image.grid)
    np.testing.assert_array_equal(burnt == 1, whole)
    assert found.area_km2.sum() == pytest.approx(whole.sum() * 0.01)
    assert found.area_km2.is_monotonic_decreasing
    assert found.is_valid.all()
    # Made unknown, it is not suspicious any more.
    known = IceOutsideMask(scene.mask, shapely.union_all(found.geometry.to_numpy()))
    assert find_suspicious(scene, known, min_area_km2=least).empty


def test_the_icefield_beyond_athabasca(real_data):
    dataset = open_dataset("athabasca")
    path = real_data / "athabasca_hls" / "athabasca_outline.shp"
    # By the outline alone: the test dataset's `coverage` would have hidden it.
    for date, area in (("2020-08-16", 5.63), ("2020-09-09", 5.13)):
        source = dataset.source("train", date)
        outlines = read_outlines(path, bounds=source.grid.bounds, crs=source.grid.crs)
        label = OutlineMask(outlines, source.grid)
        found = find_suspicious(source, label)
        # Of 11.7 and 12.2 km2 outside the outline.
        assert found.area_km2.sum() == pytest.approx(area, rel=0.05)
        # The Columbia Icefield goes on west and south of where the outline cuts it.
        for place in ((478_200, 5_782_500), (479_500, 5_778_500)):
            assert found.contains(shapely.Point(place)).any()
        assert find_suspicious(source, dataset.labels("train", date)).empty
