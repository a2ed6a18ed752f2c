"""Where pixels lie on the ground: the grid of a raster, and an image on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyproj
import shapely
from affine import Affine
from rasterio.crs import CRS

LATTICE_TOLERANCE = 0.01  # pixels; below it, two grids show the same ground
_UNNAMED = ("unknown", "unnamed", "not specified", "not_specified", "undefined")


@dataclass(frozen=True)
class Grid:
    """North-up raster grid.

    Attributes:
        crs: None for images without georeference; their transform then counts pixels (or metres,
            where the dataset states a resolution), with y falling along the rows as on every other
            grid.
        transform: from (column, row) to the place on the ground.
        height: rows.
        width: columns.

    Example:
        >>> grid = Grid(CRS.from_epsg(32623), Affine(10, 0, 450_000, 0, -10, 6_780_000), 60, 80)
        >>> grid.resolution, grid.bounds
        (10.0, (450000.0, 6779400.0, 450800.0, 6780000.0))
        >>> grid.window(20, 10).shape
        (40, 70)
    """

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.height, self.width

    @property
    def metres_per_unit(self) -> float:
        """Length of one unit of a projected CRS, 1 for m; nan where a length has no meaning."""
        if self.crs is None:
            # A pixel of exactly one unit is a count of pixels: its size on the ground is unknown.
            return math.nan if abs(self.transform.a) == 1 else 1.0
        if not self.crs.is_projected:
            return math.nan
        return float(self.crs.linear_units_factor[1])

    @property
    def pixel_area_km2(self) -> float:
        """Area of a pixel in km2 (at the centre for a geographic CRS); nan where it is unknown."""
        if self.crs is not None and self.crs.is_geographic:
            return self._geodesic_pixel_m2() / 1e6
        return abs(self.transform.a * self.transform.e) * self.metres_per_unit**2 / 1e6

    @property
    def resolution(self) -> float:
        """Side of a pixel in m (of the square of equal area); nan where it is unknown."""
        return math.sqrt(self.pixel_area_km2 * 1e6)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) in the units of the CRS."""
        xmin, ymax = self.transform @ (0, 0)
        xmax, ymin = self.transform @ (self.width, self.height)
        return xmin, ymin, xmax, ymax

    @property
    def box(self) -> shapely.Polygon:
        """The frame as a polygon."""
        return shapely.box(*self.bounds)

    def window(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> Grid:
        """Return the part that starts at (``row``, ``col``); it may stick out of the frame.

        Args:
            row: of the upper left pixel.
            col: of the upper left pixel.
            height: rows; None takes all that remain of the frame.
            width: columns; None likewise.

        Raises:
            ValueError: the window is empty.
        """
        height = self.height - row if height is None else height
        width = self.width - col if width is None else width
        if height <= 0 or width <= 0:
            raise ValueError(f"an empty window: {height} rows, {width} columns")
        transform = self.transform @ Affine.translation(col, row)
        return Grid(self.crs, transform, int(height), int(width))

    def inside(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Return which pixels of a window lie in the frame, bool [row, col]."""
        rows, cols = np.arange(row, row + height), np.arange(col, col + width)
        return np.outer((rows >= 0) & (rows < self.height), (cols >= 0) & (cols < self.width))

    def position(self, other: Grid) -> tuple[float, float]:
        """Return (row, col) of the upper left corner of ``other`` in pixels of this grid."""
        col, row = ~self.transform @ (other.transform.c, other.transform.f)
        return row, col

    def shares_lattice(self, other: Grid) -> bool:
        """Say whether the pixels of both fall on each other, wherever the frames lie."""
        shift = self.shift(other)
        return shift is not None and max(map(abs, shift)) <= LATTICE_TOLERANCE

    def shift(self, other: Grid) -> tuple[float, float] | None:
        """Return how far the pixels of ``other`` lie off those of this grid, in pixels.

        (columns, rows), each in -0.5..0.5, positive to the right and downwards; the frames may lie
        anywhere. None where CRS or pixel size differ, so that no shift can mend it.
        """
        if not same_crs(self.crs, other.crs) or not self._same_pixels(other):
            return None
        row, col = self.position(other)
        return col - round(col), row - round(row)

    def matches(self, other: Grid) -> bool:
        """Say whether both are the same frame: shape, place and meaning of the CRS."""
        return (
            self.shape == other.shape
            and self.shares_lattice(other)
            and max(map(abs, self.position(other))) <= LATTICE_TOLERANCE
        )

    def _same_pixels(self, other: Grid) -> bool:
        """Compare pixel sizes by the drift that a difference sums to across the larger frame."""
        drift_x = abs(other.transform.a / self.transform.a - 1) * max(self.width, other.width)
        drift_y = abs(other.transform.e / self.transform.e - 1) * max(self.height, other.height)
        return max(drift_x, drift_y) <= LATTICE_TOLERANCE

    def _geodesic_pixel_m2(self) -> float:
        x, y = self.transform @ (self.width / 2, self.height / 2)
        dx, dy = self.transform.a / 2, self.transform.e / 2
        geod = pyproj.Geod(ellps="WGS84")
        _, _, across = geod.inv(x - dx, y, x + dx, y)
        _, _, along = geod.inv(x, y - dy, x, y + dy)
        return across * along


@dataclass(frozen=True)
class Image:
    """Reflectance of a window.

    ``reflectance`` float32 [band, row, col], 0.0 in every band where ``valid`` bool [row, col] is
    False; ``bands`` names the first axis.
    """

    reflectance: np.ndarray
    valid: np.ndarray
    bands: tuple[str, ...]
    grid: Grid


def same_crs(one: CRS | None, other: CRS | None) -> bool:
    """Say whether two CRSs mean the same, however they are spelled.

    Some products write a CRS out by its parameters with an unnamed datum on the WGS 84 ellipsoid.
    Such a spelling equals the registered one if projection, parameters, units, prime meridian and
    ellipsoid agree; two datums that both have names must be the same datum.
    """
    if one is None or other is None:
        return one is other
    return one == other or _same_meaning(one.to_wkt(), other.to_wkt())


@lru_cache(maxsize=256)
def _same_meaning(one_wkt: str, other_wkt: str) -> bool:
    one, other = pyproj.CRS.from_wkt(one_wkt), pyproj.CRS.from_wkt(other_wkt)
    if one.equals(other, ignore_axis_order=True):
        return True
    if one.is_geographic != other.is_geographic or not _same_datum(one, other):
        return False
    return _operation(one) == _operation(other) and [
        axis.unit_conversion_factor for axis in one.axis_info
    ] == [axis.unit_conversion_factor for axis in other.axis_info]


def _same_datum(one: pyproj.CRS, other: pyproj.CRS) -> bool:
    a, b = one.ellipsoid, other.ellipsoid
    if a is None or b is None:
        return False
    shapes = [(shape.semi_major_metre, shape.inverse_flattening) for shape in (a, b)]
    if not np.allclose(shapes[0], shapes[1], rtol=1e-9):
        return False
    meridians = {crs.prime_meridian and crs.prime_meridian.longitude for crs in (one, other)}
    if len(meridians) > 1:
        return False
    names = [(crs.datum.name if crs.datum else "unknown").lower() for crs in (one, other)]
    return names[0] == names[1] or any(mark in name for mark in _UNNAMED for name in names)


def _operation(crs: pyproj.CRS) -> tuple:
    """Return the projection and its parameters in a form that can be compared."""
    operation = crs.coordinate_operation
    if operation is None:
        return ()
    parameters = sorted(
        (
            parameter.name.lower(),
            round(float(parameter.value) * parameter.unit_conversion_factor, 9),
        )
        for parameter in operation.params
    )
    return operation.method_name, tuple(parameters)
