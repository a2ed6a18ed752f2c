"""Why no outline touches an image: a place without glaciers, or coordinates mixed up."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from rasterio.crs import CRS

from glacier_utils.grids import Grid
from glacier_utils.outlines import read_outlines
from glacier_utils.rasters import crs_name

_NEAR_DEGREES = 0.5  # an inventory that ends within this is of the same region


def why_no_outline(path: Path, grid: Grid) -> tuple[bool, str]:
    """Say why no outline touches an image: a place without glaciers, or a mistake of coordinates.

    Swapped axes and signs, and the other hemisphere of the image's UTM zone, are tried.
    """
    outlines = read_outlines(path)
    if not len(outlines):
        return True, f"{path}: holds no polygon at all; download the outlines again"
    there = shapely.box(*outlines.to_crs("EPSG:4326").total_bounds)
    here = _geographic(grid.box, grid.crs)
    if there.distance(here) < _NEAR_DEGREES:
        return False, (
            f"no outline of {path} touches the area: it counts as free of ice; if it is not, "
            "take an inventory that covers it, or give a `coverage`"
        )
    west, south, east, north = there.bounds
    hint = "take the outlines of this region"
    if shapely.box(south, west, north, east).intersects(here):
        hint = "its latitude and longitude look swapped: swap x and y of the outlines"
    elif shapely.box(-east, south, -west, north).intersects(here):
        hint = "east and west look mixed up: mend the sign of the longitudes"
    elif shapely.box(west, -north, east, -south).intersects(here):
        hint = "north and south look mixed up: mend the sign of the latitudes"
    elif _geographic(grid.box, _other_hemisphere(grid.crs)).intersects(there):
        hint = (
            f"the image's CRS ({crs_name(grid)}) looks like the wrong hemisphere: set it to "
            f"{_other_hemisphere(grid.crs).to_string()} (gdal_edit.py -a_srs)"
        )
    return True, (
        f"{path}: its outlines lie at {_place(there)}, no outline touches the image at "
        f"{_place(here)}; {hint}"
    )


def _geographic(box: shapely.Polygon, crs: CRS | None) -> shapely.Polygon:
    if crs is None:
        return shapely.Polygon()
    series = gpd.GeoSeries([box.segmentize(box.length / 40)], crs=pyproj.CRS.from_user_input(crs))
    return shapely.box(*series.to_crs("EPSG:4326").total_bounds)


def _other_hemisphere(crs: CRS) -> CRS | None:
    """Return the CRS of the same UTM zone on the other side of the equator, None if not UTM."""
    code = crs.to_epsg() or 0
    zone = code % 100
    if code // 100 not in (326, 327) or not 1 <= zone <= 60:
        return None
    return CRS.from_epsg((32700 if code // 100 == 326 else 32600) + zone)


def _place(box: shapely.Polygon) -> str:
    if not np.isfinite(box.bounds).all():
        return "no place on Earth"
    x, y = box.centroid.x, box.centroid.y
    return f"{abs(y):.1f} {'N' if y >= 0 else 'S'} {abs(x):.1f} {'E' if x >= 0 else 'W'}"
