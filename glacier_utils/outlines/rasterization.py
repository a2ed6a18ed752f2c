"""Outlines burnt into a label, and how old they are; both a window at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio.features
import shapely

from glacier_utils.conventions import DAYS_A_YEAR, UNKNOWN, image_day
from glacier_utils.errors import GlacierError
from glacier_utils.outlines.inventory import without_rock
from glacier_utils.outlines.reading import in_crs
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.mask import Mask, burn


def rasterize(outlines: gpd.GeoDataFrame, grid: Grid, *, band_m: float = 0.0) -> np.ndarray:
    """Burn outlines into a label: 1 where a pixel's centre is on a glacier and not on its rock.

    Args:
        outlines: table of ``read_outlines``, one analysis for each glacier.
        grid: where to.
        band_m: pixels whose centre lies within this distance of the edge of the ice are 255. The
            edge is that of all ice together: a divide between two glaciers has ice on both sides.

    Returns:
        uint8 [row, col] of 0, 1 and 255.

    Raises:
        GlacierError: the grid has no CRS, or a band is wanted on one that is not in metres.

    Example:
        >>> from affine import Affine
        >>> from rasterio.crs import CRS
        >>> grid = Grid(CRS.from_epsg(32623), Affine(10, 0, 450_000, 0, -10, 6_780_000), 4, 5)
        >>> square = shapely.box(450_010, 6_779_970, 450_040, 6_779_990)
        >>> outlines = gpd.GeoDataFrame({"kind": ["glacier"]}, geometry=[square], crs=32623)
        >>> rasterize(outlines, grid)
        array([[0, 0, 0, 0, 0],
               [0, 1, 1, 1, 0],
               [0, 1, 1, 1, 0],
               [0, 0, 0, 0, 0]], dtype=uint8)
    """
    return OutlineMask(outlines, grid, band_m=band_m).read()


class OutlineMask(Mask):
    """Outlines as a label, burnt a window at a time; the arguments are those of ``rasterize``."""

    def __init__(self, outlines: gpd.GeoDataFrame, grid: Grid, *, band_m: float = 0.0) -> None:
        if not 0 <= band_m < math.inf:
            raise GlacierError(f"band_m {band_m}: the width of the band must not be negative")
        if grid.crs is None:
            raise GlacierError(
                "the image has no CRS, so outlines cannot be laid on it; georeference the image or "
                "give `labels` as rasters"
            )
        if band_m and not grid.crs.is_projected:
            raise GlacierError(
                "band_m is a width in metres, but the image's CRS is in degrees; warp the image "
                "to a projected CRS such as UTM"
            )
        self.grid = grid
        xmin, _, xmax, _ = grid.bounds
        outlines = in_crs(outlines, grid.crs, (xmin + xmax) / 2)
        self._ice = without_rock(outlines).to_numpy()
        self._tree = shapely.STRtree(self._ice)
        self._reach = band_m / grid.metres_per_unit if band_m else 0.0

    def on(self, grid: Grid) -> OutlineMask:
        """Return the same outlines on another grid in the same CRS."""
        mask = copy(self)
        mask.grid = grid
        return mask

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]; 255 outside the frame."""
        window = self.grid.window(row, col, height, width)
        area = shapely.box(*window.bounds)
        if self._reach:
            # More than the band: the ends of lines that are cut off are not near.
            area = area.buffer(2.5 * self._reach, join_style="mitre")
        ice = self._ice[np.sort(self._tree.query(area))]
        label = burn(ice, window)
        if self._reach and len(ice):
            label[_within(self._reach, _edge(ice, area), window)] = UNKNOWN
        label[~self.grid.inside(row, col, *window.shape)] = UNKNOWN
        return label


def _edge(ice: Sequence[shapely.Geometry], area: shapely.Polygon) -> shapely.Geometry:
    """Return the edge of the ice inside ``area``, without the cut along the area itself."""
    # Cut with a margin, so that the cut's own line is not taken for the ice's edge.
    around = area.buffer(1 + 0.1 * math.sqrt(area.area), join_style="mitre")
    xmin, ymin, xmax, ymax = around.bounds
    # Where a glacier only touches the cut, clipping leaves lines and points.
    try:
        clipped = shapely.clip_by_rect(ice, xmin, ymin, xmax, ymax)
    except shapely.GEOSException:  # slivers of no width
        clipped = shapely.intersection(ice, around)
    pieces = shapely.get_parts(clipped)
    near = shapely.union_all(pieces[shapely.get_dimensions(pieces) == 2])
    edges = shapely.get_parts(near)
    edges = shapely.boundary(edges[shapely.get_dimensions(edges) == 2])
    return shapely.intersection(shapely.union_all(edges), area)


def _within(reach: float, edge: shapely.Geometry, window: Grid) -> np.ndarray:
    """Return the pixels whose centre lies within ``reach`` of a line, bool [row, col]."""
    # A buffer has polygons in place of circles, other ones where its line is cut elsewhere, and
    # leaves out bends of 1 % of its width: pixels at about the distance are measured.
    found, near = (burn([edge.buffer(part * reach)], window) == 1 for part in (0.98, 1.02))
    rows, cols = np.nonzero(near & ~found)
    corners, line = shapely.get_coordinates(shapely.get_parts(edge), return_index=True)
    sides = np.stack([corners[:-1], corners[1:]], axis=1)[line[:-1] == line[1:]]
    transform: Any = window.transform  # which takes arrays too
    centres = shapely.points(*(transform @ (cols + 0.5, rows + 0.5)))
    tree = shapely.STRtree(shapely.linestrings(sides))
    measured = tree.query(centres, predicate="dwithin", distance=reach)[0]
    found[rows[measured], cols[measured]] = True
    return found


class LabelAge:
    """Ages of outlines burnt on a grid by the rule of pixel centres, as labels are.

    Args:
        outlines: table of ``read_outlines`` in the CRS of ``grid``, one analysis for each glacier.
        grid: of the image.
        date: of the image. Outlines younger than it have an age below zero.
    """

    def __init__(self, outlines: gpd.GeoDataFrame, grid: Grid, date: str) -> None:
        ice = outlines[outlines["kind"] == "glacier"]
        days = (image_day(date) - ice["source_date"]).dt.days.to_numpy(float)
        self.grid = grid
        self._years = days / DAYS_A_YEAR
        self._shapes = ice.geometry.to_numpy()
        self._tree = shapely.STRtree(self._shapes)

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Return years, float32 [row, col]; nan off the outlines and where a date is unknown."""
        window = self.grid.window(row, col, height, width)
        here = np.sort(self._tree.query(window.box))
        if not here.size or np.isnan(self._years[here]).all():
            return np.full((height, width), np.nan, np.float32)
        return rasterio.features.rasterize(
            [(self._shapes[index], self._years[index]) for index in here],
            out_shape=window.shape,
            transform=window.transform,
            fill=np.nan,
            dtype=np.float32,
        )
