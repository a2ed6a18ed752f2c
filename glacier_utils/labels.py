"""Masks made of other masks: unknown beyond the inventory, in ice it leaves out, along edges."""

from __future__ import annotations

import math

import numpy as np
import rasterio.features
import shapely
from scipy import ndimage

from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid
from glacier_utils.masks import UNKNOWN, Mask


class CoveredMask(Mask):
    """``inner``, unknown (255) where a pixel's centre is outside ``coverage``."""

    def __init__(self, inner: Mask, coverage: shapely.Geometry) -> None:
        self.grid = inner.grid
        self._inner = inner
        self._coverage = coverage

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]."""
        label = self._inner.read(row, col, height, width)
        label[~_inside(self._coverage, self.grid.window(row, col, *label.shape))] = UNKNOWN
        return label


class IceOutsideMask(Mask):
    """``inner``, unknown where it is 0 and a pixel's centre is inside ``polygons``.

    For ice that the inventory leaves out, such as the ice sheet: no glacier of the inventory, and
    no example of ground without ice either. What ``inner`` calls glacier stays glacier.
    """

    def __init__(self, inner: Mask, polygons: shapely.Geometry) -> None:
        self.grid = inner.grid
        self._inner = inner
        self._polygons = polygons

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]."""
        label = self._inner.read(row, col, height, width)
        inside = _inside(self._polygons, self.grid.window(row, col, *label.shape))
        label[inside & (label == 0)] = UNKNOWN
        return label


class EdgeMask(Mask):
    """``inner``, unknown where a pixel's centre is nearer than ``band_m`` to the edge of the ice.

    For labels that come as rasters: the edge runs between pixels of 0 and 1.
    """

    def __init__(self, inner: Mask, band_m: float) -> None:
        if isinstance(band_m, str) or band_m < 0:
            raise GlacierError(
                f"band_m {band_m}: the width of the band must not be negative; labels that come as "
                "rasters need it in metres, since they tell no uncertainty of their own"
            )
        if math.isnan(inner.grid.resolution):
            raise GlacierError(
                "band_m is a width in metres, but the size of the image's pixels is not known; "
                "give `resolution` in the manifest"
            )
        self.grid = inner.grid
        self._inner = inner
        self._band = band_m / inner.grid.resolution

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]."""
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        # With a margin, so that an edge just outside counts too.
        margin = math.ceil(self._band) + 1
        label = self._inner.read(
            row - margin, col - margin, height + 2 * margin, width + 2 * margin
        )
        near = np.zeros(label.shape, bool)
        for mine, other in ((0, 1), (1, 0)):
            if (label == other).any():
                distance = ndimage.distance_transform_edt(label != other)
                # The edge lies half a pixel before the centre of the nearest pixel beyond it.
                near |= (label == mine) & (distance - 0.5 < self._band)
        label[near] = UNKNOWN
        return label[margin : margin + height, margin : margin + width].copy()


def _inside(geometry: shapely.Geometry, grid: Grid) -> np.ndarray:
    """Say for which pixels [row, col] the centre is inside a geometry."""
    if geometry.is_empty:
        return np.zeros(grid.shape, bool)
    return rasterio.features.rasterize(
        [geometry], out_shape=grid.shape, transform=grid.transform, dtype=np.uint8
    ).astype(bool)
