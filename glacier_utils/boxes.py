"""A box in degrees, and the grid of 10 m around it on which its images lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import geopandas as gpd
import pyproj
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform_bounds

from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid

PIXEL = 10.0
# A tile has 120.6 million, the box in degrees around one 128. data/README.md tells the memory.
MAX_PIXELS = 150_000_000


def frame(bbox: Sequence[float], crs: str | None = None) -> Grid:
    """Return the grid of 10 m around a box, its edges at whole multiples of 10 m.

    Args:
        bbox: (west, south, east, north) in degrees.
        crs: projected and in metres; default: the UTM zone in which Sentinel-2 tiles of the middle
            of the box lie, with the exceptions of south-west Norway and Svalbard.

    Raises:
        GlacierError: a box that is none, too large, or outside UTM without ``crs``; a wrong
            ``crs``.
    """
    text = "--bbox " + " ".join(f"{value:g}" for value in bbox)
    if len(bbox) != 4 or not all(map(math.isfinite, bbox)):
        raise GlacierError(f"{text}: must be four numbers, west south east north, in degrees")
    west, south, east, north = bbox
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90
            and -90 <= north <= 90):  # fmt: skip
        raise GlacierError(
            f"{text}: longitudes lie in -180..180 and latitudes in -90..90 degrees; give west "
            "south east north"
        )
    if west >= east:
        raise GlacierError(
            f"{text}: west {west:g} is not less than east {east:g}; give west south east north, "
            "and each side of the 180th meridian as a dataset of its own"
        )
    if south >= north:
        raise GlacierError(f"{text}: south {south:g} is not less than north {north:g}; swap them")
    geod = pyproj.Geod(ellps="WGS84")
    ring = shapely.segmentize(shapely.box(*bbox), 0.5)
    # The first look spares a projection of half the globe, the second is exact.
    _check_size(text, abs(geod.geometry_area_perimeter(ring)[0]) / PIXEL**2)
    target = _utm((west + east) / 2, (south + north) / 2, text) if crs is None else _metric(crs)
    bounds = transform_bounds("EPSG:4326", target, *bbox, densify_pts=101)
    if not all(map(math.isfinite, bounds)):
        raise GlacierError(f"{text}: cannot be laid on --crs {crs}; choose one for this region")
    xmin, ymin = (math.floor(value / PIXEL) * PIXEL for value in bounds[:2])
    xmax, ymax = (math.ceil(value / PIXEL) * PIXEL for value in bounds[2:])
    width, height = round((xmax - xmin) / PIXEL), round((ymax - ymin) / PIXEL)
    _check_size(text, width * height)
    return Grid(target, Affine(PIXEL, 0, xmin, 0, -PIXEL, ymax), height, width)


def _check_size(text: str, pixels: float) -> None:
    if pixels > MAX_PIXELS:
        raise GlacierError(
            f"{text}: is {pixels / 1e6:.0f} million pixels of 10 m, more than the "
            f"{MAX_PIXELS // 10**6} million (about 122 x 122 km) of one dataset; fetch it in parts"
        )


def _utm(longitude: float, latitude: float, text: str) -> CRS:
    if not -80 <= latitude <= 84:
        raise GlacierError(
            f"{text}: lies outside UTM (80 S to 84 N); name a projected CRS in metres, as in "
            f"--crs {'EPSG:3413' if latitude > 0 else 'EPSG:3031'}"
        )
    zone = min(int((longitude + 180) // 6) + 1, 60)
    if 56 <= latitude < 64 and 3 <= longitude < 12:
        zone = 32
    elif latitude >= 72 and 0 <= longitude < 42:
        zone = 31 + 2 * sum(longitude >= edge for edge in (9, 21, 33))
    return CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


def _metric(text: str) -> CRS:
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise GlacierError(f"--crs {text}: is no known CRS; write it as EPSG:32623") from error
    if not crs.is_projected or crs.linear_units_factor[1] != 1:
        raise GlacierError(f"--crs {text}: is not in metres; name a projected CRS as EPSG:32623")
    return crs


def polygon(bbox: Sequence[float], grid: Grid) -> shapely.Geometry:
    """Return a box in degrees as a polygon in the CRS of a grid."""
    # Straight in degrees is bent in metres.
    ring = shapely.segmentize(shapely.box(*bbox), 0.02)
    return gpd.GeoSeries([ring], crs="EPSG:4326").to_crs(grid.crs).iloc[0]
