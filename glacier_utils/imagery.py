"""Any raster source as reflectance with validity, read a window at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glacier_utils.bands import BandFiles, find_bands
from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid, Image, same_crs
from glacier_utils.rasters import (
    Header,
    Placed,
    crs_name,
    lay_out,
    list_files,
    open_raster,
    read_header,
    write_raster,
)

__all__ = [
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

UNKNOWN = 255  # label of a pixel that nobody knows


@dataclass(frozen=True)
class Reflectance:
    """How stored numbers become reflectance: (number + offset) / scale.

    ``nodata`` None takes the nodata value that the file itself names, if any.
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


class Mask(ABC):
    """A class per pixel on the grid of a source."""

    grid: Grid

    @abstractmethod
    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]; 255 outside the frame and where nothing is known."""


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


class _Frame:
    """What a source and a mask made of files share: files at places in a frame."""

    grid: Grid

    def __init__(self, grid: Grid, placed: Sequence[Placed]) -> None:
        self.grid = grid
        self.placed = list(placed)
        self._boxes = np.array(
            [(item.row, item.col, item.row + item.height, item.col + item.width) for item in placed]
        )

    def window(
        self, row: int, col: int, height: int | None, width: int | None
    ) -> tuple[int, int, int, int]:
        """Fill in what the caller left out: all that remains of the frame."""
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        if height <= 0 or width <= 0:
            raise ValueError(f"an empty window: {height} rows, {width} columns")
        return int(row), int(col), int(height), int(width)

    def pieces(
        self, row: int, col: int, height: int, width: int
    ) -> Iterator[tuple[Placed, tuple[slice, slice], tuple[tuple[int, int], tuple[int, int]]]]:
        """Give each file that the window meets, where it goes in the window, and what to read."""
        # The frame itself cuts: a crop must not show what lies beyond it.
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.grid.height), min(col + width, self.grid.width)
        boxes = self._boxes
        meets = (
            (boxes[:, 0] < bottom) & (boxes[:, 2] > top)
            & (boxes[:, 1] < right) & (boxes[:, 3] > left)
        )  # fmt: skip
        for index in np.flatnonzero(meets):
            item = self.placed[index]
            r0, c0 = max(top, item.row), max(left, item.col)
            r1, c1 = min(bottom, item.row + item.height), min(right, item.col + item.width)
            target = slice(r0 - row, r1 - row), slice(c0 - col, c1 - col)
            yield item, target, ((r0 - item.row, r1 - item.row), (c0 - item.col, c1 - item.col))

    def crop(self, bounds: Sequence[float]) -> tuple[Grid, list[Placed]]:
        """Return frame and files of the whole pixels nearest to ``bounds``."""
        row0, col0, row1, col1 = _snap(self.grid, bounds)
        grid = self.grid.window(row0, col0, row1 - row0, col1 - col0)
        placed = [
            Placed(item.path, item.row - row0, item.col - col0, item.height, item.width)
            for item in self.placed
            if item.row < row1 and item.row + item.height > row0
            and item.col < col1 and item.col + item.width > col0
        ]  # fmt: skip
        return grid, placed


def _snap(grid: Grid, bounds: Sequence[float]) -> tuple[int, int, int, int]:
    """Return (row0, col0, row1, col1) of the part of the frame inside ``bounds``."""
    try:
        xmin, ymin, xmax, ymax = (float(value) for value in bounds)
    except (TypeError, ValueError) as error:
        raise GlacierError(f"bounds: {bounds!r} must be [xmin, ymin, xmax, ymax]") from error
    if not (xmin < xmax and ymin < ymax):
        raise GlacierError(
            f"bounds: {list(bounds)} are empty; give [xmin, ymin, xmax, ymax] with xmin < xmax and "
            "ymin < ymax"
        )
    left, top = ~grid.transform @ (xmin, ymax)
    right, bottom = ~grid.transform @ (xmax, ymin)
    row0, col0 = max(0, round(top)), max(0, round(left))
    row1, col1 = min(grid.height, round(bottom)), min(grid.width, round(right))
    if row0 >= row1 or col0 >= col1:
        frame = ", ".join(f"{value:.10g}" for value in grid.bounds)
        raise GlacierError(
            f"bounds: {list(bounds)} lie outside the image, which covers [{frame}] in its CRS "
            f"({crs_name(grid)})"
        )
    return row0, col0, row1, col1


class _RasterSource(_Frame, Source):
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
        known = np.ones(shape, bool)
        for path, positions in self._by_file.items():
            with open_raster(path or item.path) as dataset:
                numbers = [self._per_band[position][1] for position in positions]
                stored = dataset.read(numbers, window=window)
                tags = [dataset.nodatavals[number - 1] for number in numbers]
            for position, band, tag in zip(positions, stored, tags, strict=True):
                known &= _has_data(band, self.reflectance.nodata if self.reflectance.nodata
                                   is not None else tag)  # fmt: skip
                values[position] = band
        values += np.float32(self.reflectance.offset)
        values /= np.float32(self.reflectance.scale)
        known &= np.isfinite(values).all(axis=0)
        values[:, ~known] = 0
        return values, known


def _has_data(band: np.ndarray, nodata: float | None) -> np.ndarray:
    if nodata is None or math.isnan(nodata):
        return np.ones(band.shape, bool) if band.dtype.kind != "f" else np.isfinite(band)
    return band != nodata


def open_mask(
    paths: str | Path | Sequence[str | Path],
    grid: Grid,
    *,
    like: Source | None = None,
    codes: Sequence[int] | None = None,
) -> Mask:
    """Open label rasters or class maps that lie on the lattice of ``grid``.

    A nodata value in the file reads as 255, except 0 and 1, which label rasters often carry as
    nodata while they mean a class.

    Args:
        paths: a file, a folder, a pattern, or a list of files: one scene, or patches.
        grid: the frame of the image.
        like: the image's source: masks without georeference are placed where the image file with
            the same name lies.
        codes: values that are allowed besides 255; None allows all of 0..255.

    Raises:
        GlacierError: the files do not match the grid; on reading, values out of ``codes``.
    """
    headers = [read_header(path) for path in list_files(paths)]
    for header in headers:
        if header.count != 1:
            raise GlacierError(
                f"{header.path}: has {header.count} bands; labels and class maps have one"
            )
    partners = _partners(headers, like)
    if partners is not None:
        return _RasterMask(grid, partners, codes)
    resolution = grid.transform.a if grid.crs is None else None
    frame, placed = lay_out(headers, resolution)
    first = headers[0]
    if not same_crs(frame.crs, grid.crs):
        raise GlacierError(
            f"{first.path}: its CRS ({crs_name(frame)}) is not that of the image "
            f"({crs_name(grid)}); warp it to the image's grid, or give it the name of its image"
        )
    if not frame.shares_lattice(grid):
        raise GlacierError(
            f"{first.path}: its pixels ({frame.transform.a:g}) do not fall on those of the image "
            f"({grid.transform.a:g}); resample it to the image's grid with nearest neighbour"
        )
    row, col = (round(value) for value in grid.position(frame))
    moved = [
        Placed(item.path, item.row + row, item.col + col, item.height, item.width)
        for item in placed
    ]
    if not any(next(_Frame(grid, [item]).pieces(0, 0, *grid.shape), None) for item in moved):
        raise GlacierError(f"{first.path}: no label file touches the image; check the paths")
    return _RasterMask(grid, moved, codes)


def _partners(headers: Sequence[Header], like: Source | None) -> list[Placed] | None:
    """Place masks without georeference by the image file of the same name, None if not possible."""
    if like is None or any(header.georeferenced for header in headers):
        return None
    images = getattr(like, "placed", [])
    by_stem = {item.path.stem: item for item in images}
    if len(headers) == 1 and len(images) == 1:
        pairs = [(headers[0], images[0])]
    elif all(header.path.stem in by_stem for header in headers):
        pairs = [(header, by_stem[header.path.stem]) for header in headers]
    else:
        return None
    for header, image in pairs:
        if header.grid.shape != (image.height, image.width):
            raise GlacierError(
                f"{header.path}: is {header.grid.width} x {header.grid.height} px, its image "
                f"{image.path.name} {image.width} x {image.height}; both must have one size"
            )
    return [
        Placed(header.path, image.row, image.col, image.height, image.width)
        for header, image in pairs
    ]


class _RasterMask(_Frame, Mask):
    """Files with one band of classes at places in a frame."""

    def __init__(self, grid: Grid, placed: Sequence[Placed], codes: Sequence[int] | None) -> None:
        super().__init__(grid, placed)
        self.paths = [item.path for item in self.placed]
        self._codes = None if codes is None else sorted({*codes, UNKNOWN})

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window; where files overlap, the first in sorted order that knows counts."""
        row, col, height, width = self.window(row, col, height, width)
        result = np.full((height, width), UNKNOWN, np.uint8)
        for item, (rows, cols), window in self.pieces(row, col, height, width):
            with open_raster(item.path) as dataset:
                piece = self._classes(dataset.read(1, window=window), dataset.nodata, item.path)
            view = result[rows, cols]
            view[...] = np.where(view == UNKNOWN, piece, view)
        return result

    def _classes(self, stored: np.ndarray, nodata: float | None, path: Path) -> np.ndarray:
        if nodata is not None and nodata not in (0, 1):
            empty = np.isnan(stored) if math.isnan(nodata) else stored == nodata
            stored = np.where(empty, UNKNOWN, stored)
        values = np.unique(stored)
        allowed = range(256) if self._codes is None else self._codes
        wrong = values[~np.isin(values, list(allowed))]
        if wrong.size:
            expected = "0..255" if self._codes is None else ", ".join(map(str, self._codes))
            raise GlacierError(
                f"{path}: holds the value {wrong[0]:g}; allowed are {expected}; recode the raster"
            )
        return stored.astype(np.uint8)
