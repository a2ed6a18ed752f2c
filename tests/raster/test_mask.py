"""Masks of masks: ice outside the inventory and ground along its edge become unknown."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from glacier_utils.raster.grid import Grid
from glacier_utils.raster.mask import CoveredMask, EdgeMask, IceOutsideMask, Mask, edge_distance

GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 450_000, 0, -10, 6_780_000), 20, 30)


class ArrayMask(Mask):
    """A label in memory."""

    def __init__(self, label: np.ndarray) -> None:
        self.grid = GRID
        self._padded = np.pad(label, 50, constant_values=255)

    def read(self, row=0, col=0, height=None, width=None):
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        return self._padded[50 + row : 50 + row + height, 50 + col : 50 + col + width].copy()


def pixels(row0: float, col0: float, row1: float, col1: float) -> shapely.Polygon:
    x, y = GRID.transform @ (col0, row0)
    return shapely.box(x, y - 10 * (row1 - row0), x + 10 * (col1 - col0), y)


@pytest.fixture
def label():
    values = np.zeros(GRID.shape, np.uint8)
    values[5:10, 5:10] = 1
    values[15:, :] = 255
    return values


def test_ground_inside_the_polygons_becomes_unknown(label):
    # The centre decides: 0.6 of a pixel covers no centre at its left edge, 0.4 covers it.
    sheet = shapely.union_all([pixels(0, 7.6, 20, 20), pixels(0, 25.4, 3, 40)])
    expected = label.copy()
    expected[:15, 8:20] = 255
    expected[5:10, 5:10] = 1
    expected[:3, 25:] = 255
    mask = IceOutsideMask(ArrayMask(label), sheet)
    np.testing.assert_array_equal(mask.read(), expected)
    np.testing.assert_array_equal(mask.read(2, 6, 8, 16), expected[2:10, 6:22])
    assert (mask.read(-3, -3, 3, 3) == 255).all()
    assert mask.grid is GRID


def test_no_polygon_changes_nothing(label):
    np.testing.assert_array_equal(IceOutsideMask(ArrayMask(label), shapely.Polygon()).read(), label)


def test_ground_outside_the_coverage_becomes_unknown(label):
    expected = label.copy()
    expected[:8] = expected[:, 25:] = 255
    mask = CoveredMask(ArrayMask(label), pixels(8, 0, 20, 25))
    np.testing.assert_array_equal(mask.read(), expected)
    assert (CoveredMask(ArrayMask(label), shapely.Polygon()).read() == 255).all()


def test_the_edge_lies_between_the_pixels(label):
    distance = edge_distance(label)
    assert distance[7, 3:8].tolist() == [1.5, 0.5, 0.5, 1.5, 2.5]
    assert np.isnan(distance[15:]).all()
    assert np.isinf(edge_distance(np.zeros((2, 2), np.uint8))).all()
    mask = EdgeMask(ArrayMask(label), 15)
    np.testing.assert_array_equal(mask.read(), np.where(distance < 1.5, 255, label))
    # An edge just outside a window reaches into it.
    np.testing.assert_array_equal(mask.read(3, 2, 4, 3), mask.read()[3:7, 2:5])
