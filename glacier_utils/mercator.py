"""Rasters and outlines in the projection of web maps, and the images that a page can hold.

A web map shows an image between two corners in Mercator's projection on a sphere (EPSG:3857), so
whatever lies on another grid is warped first. The central meridian is that of the scene, which
changes no shape and keeps a scene on the antimeridian in one piece.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import PIL.Image
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.warp import Resampling, calculate_default_transform, reproject, transform_bounds

from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid

RADIUS_M = 6378137.0  # of the sphere of EPSG:3857
LIMIT_DEGREES = 85.05  # where web maps end
_LOSSY_QUALITY = 85


@dataclass(frozen=True)
class Frame:
    """A north-up frame in spherical Mercator: its grid, and the meridian in its middle."""

    grid: Grid
    meridian: float

    @property
    def corners(self) -> list[list[float]]:
        """[[south, west], [north, east]] in degrees; east of the antimeridian beyond 180."""
        xmin, ymin, xmax, ymax = self.grid.bounds
        (west, east), (south, north) = self.degrees(np.array([xmin, xmax]), np.array([ymin, ymax]))
        return [[float(south), float(west)], [float(north), float(east)]]

    def degrees(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return longitude and latitude of coordinates in m, the inverse of the projection."""
        longitude = self.meridian + np.degrees(np.asarray(x) / RADIUS_M)
        return longitude, np.degrees(np.arctan(np.sinh(np.asarray(y) / RADIUS_M)))

    def outlines(self, shapes: gpd.GeoSeries) -> np.ndarray:
        """Return shapes in degrees to 1e-6 (0.1 m), thinned out by a quarter of a pixel at most."""
        drawn = shapely.force_2d(shapes.to_crs(self.grid.crs).to_numpy())
        drawn = shapely.simplify(drawn, self.grid.transform.a / 4, preserve_topology=True)

        def turn(points: np.ndarray) -> np.ndarray:
            return np.round(np.stack(self.degrees(*points.T), axis=1), 6)

        return shapely.transform(drawn, turn)


def web_frame(grid: Grid, max_side: int) -> Frame:
    """Return the frame that holds a grid at its own resolution, or at one of ``max_side`` pixels.

    Raises:
        GlacierError: the grid has no CRS, or lies nearer a pole than web maps reach.
    """
    if grid.crs is None:
        raise GlacierError(
            "a web map needs to know where its images lie, but these have no CRS; use images with "
            "a georeference"
        )
    source = CRS.from_user_input(grid.crs)
    meridian = float(round(_middle(grid, source)))
    crs = _mercator(meridian)
    bounds = transform_bounds(source, crs, *grid.bounds, densify_pts=101)
    default, _, _ = calculate_default_transform(source, crs, grid.width, grid.height, *grid.bounds)
    across, along = bounds[2] - bounds[0], bounds[3] - bounds[1]
    pixel = max(default.a, max(across, along) / max_side)
    # A hair less, that a frame of max_side pixels does not become one wider by rounding.
    width, height = (max(1, math.ceil(side / pixel - 1e-6)) for side in (across, along))
    transform = Affine(pixel, 0, bounds[0], 0, -pixel, bounds[3])
    return Frame(Grid(crs, transform, height, width), meridian)


def warp_codes(codes: np.ndarray, grid: Grid, frame: Frame) -> np.ndarray:
    """Warp uint8 codes 1..255 [row, col] by the nearest pixel; 0 is outside the grid."""
    warped = np.zeros(frame.grid.shape, np.uint8)
    return _warp(codes.astype(np.uint8), warped, grid, frame, 0, Resampling.nearest)


def warp_values(values: np.ndarray, grid: Grid, frame: Frame) -> np.ndarray:
    """Warp float values [row, col], averaged where the frame is coarser; nan is unknown."""
    warped = np.full(frame.grid.shape, np.nan, np.float32)
    values = np.asarray(values, dtype=np.float32)
    return _warp(values, warped, grid, frame, np.nan, Resampling.bilinear)


def palette_png(index: np.ndarray, colours: Sequence[tuple[int, int, int, int]]) -> str:
    """Return numbers [row, col] of colours (red, green, blue, alpha of 0..255) as a PNG's URI."""
    image = PIL.Image.fromarray(index.astype(np.uint8))
    image.putpalette([part for colour in colours for part in colour[:3]])
    alpha = bytes(colour[3] for colour in colours)
    return _uri(image, "PNG", transparency=alpha)


def picture_webp(rgb: np.ndarray) -> str:
    """Return a picture float [row, col, 3] in 0..1, nan where it is clear, as a WebP's URI."""
    there = np.isfinite(rgb).all(axis=2)
    bands = np.rint(np.clip(np.where(there[..., None], rgb, 0), 0, 1) * 255)
    pixels = np.dstack([bands, there * 255]).astype(np.uint8)
    return _uri(PIL.Image.fromarray(pixels), "WEBP", quality=_LOSSY_QUALITY, method=4)


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes of a MIME type as a URI that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _uri(image: PIL.Image.Image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return data_uri(buffer.getvalue(), f"image/{kind.lower()}")


def _warp(
    source: np.ndarray,
    target: np.ndarray,
    grid: Grid,
    frame: Frame,
    nodata: float,
    resampling: Resampling,
) -> np.ndarray:
    reproject(
        source, target, src_transform=grid.transform, src_crs=CRS.from_user_input(grid.crs),
        src_nodata=nodata, dst_transform=frame.grid.transform, dst_crs=frame.grid.crs,
        dst_nodata=nodata, resampling=resampling,
    )  # fmt: skip
    return target


def _mercator(meridian: float) -> CRS:
    """Return EPSG:3857 with another central meridian."""
    return CRS.from_proj4(
        f"+proj=merc +a={RADIUS_M} +b={RADIUS_M} +lat_ts=0 +lon_0={meridian} +x_0=0 +y_0=0 +k=1 "
        "+units=m +nadgrids=@null +wktext +no_defs"
    )


def _middle(grid: Grid, crs: CRS) -> float:
    """Return the longitude of the grid's middle, after a look at how near a pole it comes."""
    # Points all over it: a frame around a pole keeps away from it on all sides.
    cols, rows = np.meshgrid(np.linspace(0, grid.width, 33), np.linspace(0, grid.height, 33))
    x, y = grid.transform @ (cols, rows)
    longitude, latitude = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    if not np.isfinite(latitude).all() or np.abs(latitude).max() > LIMIT_DEGREES:
        raise GlacierError(
            f"a web map ends at {LIMIT_DEGREES} degrees of latitude, and these images reach beyond "
            "it or outside their projection; open the rasters in QGIS instead"
        )
    return float(longitude[16, 16])
