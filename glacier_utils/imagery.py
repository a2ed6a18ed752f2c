"""Any raster source as reflectance with validity, read a window at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glacier_utils.bands import BandFiles, find_bands
from glacier_utils.errors import GlacierError
from glacier_utils.frames import Frame, Placed, lay_out
from glacier_utils.grids import Grid, Image, same_crs
from glacier_utils.masks import UNKNOWN, Mask, open_mask
from glacier_utils.rasters import Header, crs_name, open_raster, read_header, write_raster

__all__ = [
    "UNKNOWN",
    "Grid",
    "Image",
    "Mask",
    "Reflectance",
    "Source",
    "open_mask",
    "open_source",
    "same_crs",
    "write_raster",
]


@dataclass(frozen=True)
class Reflectance:
    """How stored numbers become reflectance: (number + offset) / scale.

    ``nodata`` None takes the nodata value that the file itself names, if any. A pixel has no data
    if any band holds that value; but where the value is also a reflectance that can be measured,
    only if all bands hold it. So 0 with an offset of -1000 says no data in any one band, while 0
    without an offset may be the near infrared of dark water.
    """

    scale: float = 10000.0
    offset: float = 0.0
    nodata: float | None = None

    def __post_init__(self) -> None:
        """Refuse a scale that cannot divide."""
        if not (math.isfinite(self.scale) and self.scale > 0 and math.isfinite(self.offset)):
            raise GlacierError(
                f"reflectance: scale {self.scale} and offset {self.offset} must be finite numbers, "
                "the scale above 0"
            )

    def can_be(self, number: float) -> bool:
        """Say whether a stored number can be a measurement: a reflectance of 0 to 1.5."""
        return 0 <= (number + self.offset) / self.scale <= 1.5


class Source(ABC):
    """An image of any kind; pixels are read only where asked for."""

    bands: tuple[str, ...]
    grid: Grid
    paths: list[Path]
    # (row, col, height, width) of the files of a patch folder in sorted order, in pixels of the
    # frame; with `bounds` they may stick out of it. Empty for scenes.
    tiles: list[tuple[int, int, int, int]]

    @abstractmethod
    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> Image:
        """Read a window; what lies outside the frame or between the files is invalid."""


def open_source(
    images: str | Path | Sequence[str | Path],
    *,
    bands: Sequence[str] | Mapping[str, Any],
    reflectance: Reflectance = Reflectance(),
    bounds: Sequence[float] | None = None,
    resolution: float | None = None,
) -> Source:
    """Open patches, a scene or band files as one image, without reading pixels.

    Args:
        images: a file, a folder, a pattern, or a list of files.
        bands: names in the order of the file's bands, or of band files that are recognised by their
            names; or a mapping from name to band number, to file pattern, or to
            {file: pattern, band: number}.
        reflectance: how numbers become reflectance.
        bounds: (xmin, ymin, xmax, ymax) in the image's CRS, snapped to whole pixels: the frame.
        resolution: m per pixel of images without georeference.

    Raises:
        GlacierError: files that are missing, do not belong together, or lack bands.
    """
    found = find_bands(images, bands)
    headers = [read_header(path) for path in dict.fromkeys(found.files)]
    if found.separate:
        grid, placed, per_band = _band_files(found, headers, resolution)
    else:
        per_band = [(None, number) for number in _numbers(found, headers[0])]
        grid, placed = lay_out(headers, resolution)
    source = _RasterSource(found.bands, grid, placed, per_band, reflectance, found.files)
    return source if bounds is None else source.cropped(bounds)


def _numbers(found: BandFiles, header: Header) -> tuple[int, ...]:
    """Return the band numbers to read from each of several files that are alike."""
    if found.numbers is None:
        if header.count != len(found.bands):
            raise GlacierError(
                f"{header.path}: has {header.count} band(s), {len(found.bands)} are wanted "
                f"({', '.join(found.bands)}); pick them by number, as in bands: {{red: 4}}, or, "
                "for one file a band, by pattern, as in bands: {red: '*_B04.tif'}"
            )
        return tuple(range(1, header.count + 1))
    if max(found.numbers) > header.count:
        raise GlacierError(
            f"{header.path}: has {header.count} band(s), but band {max(found.numbers)} is asked "
            "for; correct the numbers in `bands`"
        )
    return found.numbers


def _band_files(
    found: BandFiles, headers: Sequence[Header], resolution: float | None
) -> tuple[Grid, list[Placed], list[tuple[Path | None, int]]]:
    """Check that the files of the bands show the same frame; return it and where each band is."""
    grid, placed = lay_out(headers[:1], resolution)
    first = headers[0]
    by_path = {header.path: header for header in headers}
    for header in headers[1:]:
        if not header.grid.matches(first.grid):
            raise GlacierError(
                f"{header.path}: its frame ({_frame(header.grid)}) is not that of "
                f"{first.path.name} ({_frame(first.grid)}); all bands must lie on one grid"
            )
    per_band = []
    for index, (name, path) in enumerate(zip(found.bands, found.files, strict=True)):
        number = found.numbers[index] if found.numbers else 0
        count = by_path[path].count
        if number > count:
            raise GlacierError(
                f"{path}: has {count} band(s), but band {number} is asked for as {name}; "
                "correct the number in `bands`"
            )
        if number == 0 and count > 1:
            raise GlacierError(
                f"{path}: has {count} bands; say which one is {name} with "
                f"{{file: {path.name}, band: NUMBER}}"
            )
        per_band.append((path, number or 1))
    return grid, placed, per_band


def _frame(grid: Grid) -> str:
    return f"{grid.width} x {grid.height} px of {grid.transform.a:g}, CRS {crs_name(grid)}"


class _RasterSource(Frame, Source):
    """Files at places in a frame; each band in the placed file itself, or in a file of its own."""

    def __init__(
        self,
        bands: tuple[str, ...],
        grid: Grid,
        placed: Sequence[Placed],
        per_band: Sequence[tuple[Path | None, int]],
        reflectance: Reflectance,
        paths: Sequence[Path],
    ) -> None:
        super().__init__(grid, placed)
        self.bands = bands
        self.reflectance = reflectance
        self.paths = list(dict.fromkeys(paths))
        self._per_band = list(per_band)
        # Band positions by file, so that a file with several of them is opened once.
        self._by_file: dict[Path | None, list[int]] = {}
        for index, (path, _) in enumerate(self._per_band):
            self._by_file.setdefault(path, []).append(index)
        separate = None not in self._by_file
        self.tiles = (
            [(item.row, item.col, item.height, item.width) for item in self.placed]
            if not separate and len(self.paths) > 1
            else []
        )

    def cropped(self, bounds: Sequence[float]) -> _RasterSource:
        """Return the part inside ``bounds``."""
        grid, placed = self.crop(bounds)
        if not placed:
            raise GlacierError(f"bounds: {list(bounds)} lie in a gap between the patches")
        kept = {item.path for item in placed}
        paths = [path for path in self.paths if path in kept] if self.tiles else self.paths
        source = _RasterSource(self.bands, grid, placed, self._per_band, self.reflectance, paths)
        # One patch left of several is still a patch.
        if self.tiles:
            source.tiles = [(item.row, item.col, item.height, item.width) for item in placed]
        return source

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> Image:
        """Read a window; where files overlap, the first in sorted order that is valid counts."""
        row, col, height, width = self.window(row, col, height, width)
        values = np.zeros((len(self.bands), height, width), np.float32)
        valid = np.zeros((height, width), bool)
        for item, (rows, cols), window in self.pieces(row, col, height, width):
            piece, known = self._read_piece(item, window)
            fresh = known & ~valid[rows, cols]
            values[:, rows, cols] = np.where(fresh, piece, values[:, rows, cols])
            valid[rows, cols] |= known
        return Image(values, valid, self.bands, self.grid.window(row, col, height, width))

    def _read_piece(self, item: Placed, window: Any) -> tuple[np.ndarray, np.ndarray]:
        shape = tuple(stop - start for start, stop in window)
        values = np.empty((len(self.bands), *shape), np.float32)
        empty = np.zeros(values.shape, bool)
        alone = np.zeros(len(self.bands), bool)
        for path, positions in self._by_file.items():
            with open_raster(path or item.path) as dataset:
                numbers = [self._per_band[position][1] for position in positions]
                values[positions] = stored = dataset.read(numbers, window=window)
                tags = [dataset.nodatavals[number - 1] for number in numbers]
            for position, band, tag in zip(positions, stored, tags, strict=True):
                nodata = tag if self.reflectance.nodata is None else self.reflectance.nodata
                if nodata is not None:
                    empty[position] = band == nodata
                    alone[position] = not self.reflectance.can_be(nodata)
        values += np.float32(self.reflectance.offset)
        values /= np.float32(self.reflectance.scale)
        known = np.isfinite(values).all(axis=0) & ~empty.all(axis=0) & ~empty[alone].any(axis=0)
        values[:, ~known] = 0
        return values, known
