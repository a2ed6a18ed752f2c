"""A grid of 60 x 80 pixels in UTM, and outlines in its pixels, which several tests share."""

from __future__ import annotations

import geopandas as gpd
import pandas as pd
import shapely
from affine import Affine
from rasterio.crs import CRS

from glacier_utils.raster.grid import Grid

UTM = CRS.from_epsg(32623)
X, Y = 450_000, 6_780_000
GRID = Grid(UTM, Affine(10, 0, X, 0, -10, Y), 60, 80)


def box(col0: float, row0: float, col1: float, row1: float) -> shapely.Polygon:
    """Return a rectangle in pixels of GRID."""
    return shapely.box(X + 10 * col0, Y - 10 * row1, X + 10 * col1, Y - 10 * row0)


def table(*rows, crs=UTM) -> gpd.GeoDataFrame:
    """Make outlines of (glacier, analysis, kind, date, geometry)."""
    frame = pd.DataFrame(
        [row[:4] for row in rows], columns=["glacier_id", "analysis_id", "kind", "source_date"]
    )
    frame["source_date"] = pd.to_datetime(frame.source_date)
    return gpd.GeoDataFrame(frame, geometry=[row[4] for row in rows], crs=crs)
