"""Where pixels lie on the ground: the grid of a raster, and an image on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from rasterio.crs import CRS

LATTICE_TOLERANCE = 0.25  # pixels; below it, two grids show the same ground
DISTORTION = 0.01  # of areas; below it, those on the plane of a CRS are those on the ground
# Numbers by which planes are compared: x and y of places on most maps.
_PLACES = ([-400_000, 200_000, 500_000, 800_000], [300_000, 6_800_000, -2_000_000, 5_000_000])
_UNNAMED = ("unknown", "unnamed", "not specified", "not_specified", "undefined")


class Bounds(tuple[float, float, float, float]):
    """(xmin, ymin, xmax, ymax), and ``grid``, whose they are."""

    grid: Grid


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
        """Metres on the ground of one unit of a projected CRS; nan where a length has no meaning.

        That of the frame's centre, or the CRS's own unit where its areas are true within 1 %, as
        those of UTM.
        """
        if self.crs is None:
            # A pixel of exactly one unit is a count of pixels: its size on the ground is unknown.
            return math.nan if abs(self.transform.a) == 1 else 1.0
        if not self.crs.is_projected:
            return math.nan
        unit = float(self.crs.linear_units_factor[1])
        drawn = self._drawn()
        return unit / math.sqrt(drawn) if abs(drawn - 1) > DISTORTION else unit

    @property
    def pixel_area_km2(self) -> float:
        """Area of a pixel on the ground in km2, at the centre; nan where it is unknown."""
        if self.crs is not None and self.crs.is_geographic:
            return self._on_ground()[0] / 1e6
        return abs(self.transform.a * self.transform.e) * self.metres_per_unit**2 / 1e6

    @property
    def resolution(self) -> float:
        """Side of a pixel in m (of the square of equal area); nan where it is unknown."""
        return math.sqrt(self.pixel_area_km2 * 1e6)

    @property
    def bounds(self) -> Bounds:
        """(xmin, ymin, xmax, ymax) in the units of the CRS."""
        xmin, ymax = self.transform @ (0, 0)
        xmax, ymin = self.transform @ (self.width, self.height)
        found = Bounds((xmin, ymin, xmax, ymax))
        found.grid = self
        return found

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

    def distortion(self) -> str:
        """Say how the CRS distorts areas and distances here by more than 1 %; "" if it does not."""
        if self.crs is None:
            return ""
        drawn = self._drawn() if self.crs.is_projected else 1.0
        area, longer = self._on_ground()
        parts = [self._on_ground(x, y)[0] / area for x in (0, 0.5, 1) for y in (0, 0.5, 1)]
        off = {
            f"areas are {drawn:.3g} times as large on its plane as on the ground, and are measured "
            "on the ground": abs(drawn - 1),
            f"a pixel covers {min(parts):.3g} to {max(parts):.3g} of the ground of the one at the "
            "centre, which counts for all": max(parts) - min(parts),
            f"pixels are {longer:.3g} times as long as wide on the ground, so that distances are "
            "rough": longer - 1,
        }
        return "; ".join(text for text, part in off.items() if part > DISTORTION)

    def _drawn(self) -> float:
        """Return an area on the plane of a projected CRS over that on the ground, nan unknown."""
        assert self.crs is not None
        unit = self.crs.linear_units_factor[1]
        return abs(self.transform.a * self.transform.e) * unit**2 / self._on_ground()[0]

    def _on_ground(self, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """Return area in m2, and length over width, of a pixel at a place in parts of the frame."""
        # So many pixels to either side that rounding does not count.
        reach = min(50.0, self.width / 4, self.height / 4)
        place = self.transform @ (self.width * x, self.height * y)
        sides = self.transform.a * reach, self.transform.e * reach
        area, longer = _measure(self.crs, *place, *sides)
        return area / (2 * reach) ** 2, longer


@lru_cache(maxsize=1024)
def _measure(crs: CRS, x: float, y: float, dx: float, dy: float) -> tuple[float, float]:
    """Return area in m2, and length over width, of a box of ``dx`` and ``dy`` to either side."""
    try:
        lon, lat = _to_degrees(crs).transform([x - dx, x, x + dx, x], [y, y - dy, y, y + dy])
        if not np.isfinite([lon, lat]).all():
            return math.nan, math.nan
        geod = pyproj.Geod(ellps="WGS84")
        azimuths, _, (across, along) = geod.inv(lon[:2], lat[:2], lon[2:], lat[2:])
    except pyproj.exceptions.ProjError:  # of another planet
        return math.nan, math.nan
    area = across * along * abs(math.sin(math.radians(azimuths[1] - azimuths[0])))
    return area, max(along / across, across / along)


@lru_cache(maxsize=64)
def _to_degrees(crs: CRS) -> pyproj.Transformer:
    known = pyproj.CRS.from_user_input(crs)
    return pyproj.Transformer.from_crs(known, "OGC:CRS84", always_xy=True)


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
    """Say whether two CRSs mean the same place, however they are spelled.

    Heights and the way to WGS 84 (TOWGS84, BOUNDCRS) say nothing of that. Some products write a CRS
    out by its parameters with an unnamed datum on the WGS 84 ellipsoid. Such a spelling equals the
    registered one if projection, parameters, units, prime meridian and ellipsoid agree, unless its
    TOWGS84 tells another datum; two datums that both have names must be the same datum.
    """
    if one is None or other is None:
        return one is other
    return one == other or _same_meaning(one.to_wkt(), other.to_wkt())


@lru_cache(maxsize=256)
def _same_meaning(one_wkt: str, other_wkt: str) -> bool:
    (one, shift), (other, other_shift) = map(_horizontal, (one_wkt, other_wkt))
    if one.is_geographic != other.is_geographic or not _same_datum(one, other, shift, other_shift):
        return False
    # The same numbers mean the same degrees, whatever the ellipsoid's place in the Earth.
    ways = (pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
            for crs in (one, other))  # fmt: skip
    places = [way.transform(*_PLACES, direction="INVERSE") for way in ways]
    return np.allclose(places[0], places[1], rtol=0, atol=1e-9)


def _horizontal(wkt: str) -> tuple[pyproj.CRS, list[float]]:
    """Return a CRS without heights and without its way to WGS 84, and that way, [] unknown."""
    crs: Any = pyproj.CRS.from_wkt(wkt)
    shift: list[float] = []
    while crs.is_compound or crs.is_bound:
        if crs.is_bound:
            shift = crs.coordinate_operation.towgs84
        crs = crs.sub_crs_list[0] if crs.is_compound else crs.source_crs
    if not shift and _datum(crs) and round(crs.ellipsoid.semi_major_metre) == 6_378_137:
        shift = [0.0]  # datums of our time, with the Earth's centre as theirs
    return crs.to_2d(), shift + [0.0] * (7 - len(shift)) if shift else []


def _same_datum(
    one: pyproj.CRS, other: pyproj.CRS, shift: list[float], other_shift: list[float]
) -> bool:
    shapes = [
        (shape.semi_major_metre, shape.inverse_flattening, meridian.longitude)
        for shape, meridian in ((crs.ellipsoid, crs.prime_meridian) for crs in (one, other))
        if shape and meridian
    ]
    if len(shapes) < 2 or not np.allclose(shapes[0], shapes[1], rtol=1e-9):
        return False
    if _datum(one) and _datum(other):
        return _datum(one) == _datum(other)
    return not (shift and other_shift) or shift == other_shift


def _datum(crs: pyproj.CRS) -> str:
    """Return the name of a datum, "" if it has none."""
    name = crs.datum.name.lower() if crs.datum else "unknown"
    # Its realisations differ by less than it is accurate.
    if name.startswith("world geodetic system 1984"):
        return "world geodetic system 1984"
    return "" if any(mark in name for mark in _UNNAMED) else name
