"""Images of any kind as reflectance with validity, read a window at a time.

An image is one scene, a folder of patches on one lattice, one file per band, or a Sentinel-2
product. Which file and which band of it holds red, green, blue and near infrared is found by names,
or told by a mapping; how its numbers become reflectance is chosen in ``imagery.reflectance``.
"""

from __future__ import annotations

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from glacier_utils.conventions import BANDS, date_in_name
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.naming import bands_called, contradictions, files_called
from glacier_utils.imagery.reflectance import Reflectance, Scaling, choose_scaling
from glacier_utils.imagery.safe import band_of, find_metadata
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.io import (
    Header,
    KeptOpen,
    index_of,
    masked_out,
    open_raster,
    read_headers,
)
from glacier_utils.raster.lattice import Frame, Placed, describe_mismatch, lay_out, several_images
from glacier_utils.raster.paths import exists, files_behind, list_files, local_file

_OPENED = 36  # files that are looked into, at most
# Where a band lies: its file, None where it is in every file; and its number in there from 1, 0
# where nobody says.
_Place = tuple[Path | None, int]


class Source(ABC):
    """An image of any kind; pixels are read only where asked for.

    Attributes:
        bands: their names, in the order of the arrays.
        grid: of the frame.
        paths: the files that it is made of.
        tiles: (row, col, height, width) of the files of a patch folder in sorted order, in pixels
            of the frame; with `bounds` they may stick out of it. Empty for scenes.
        places: file (None: each) and number of each band, where they are in files.
        warnings: a line for each contradiction between those who say how numbers become
            reflectance.
        reflectance: the rule that turned the numbers of the first band into reflectance, None
            where there were no numbers.
        reflectance_source: where scale and offset come from: "product metadata MTD_MSIL2A.xml",
            "manifest" (whatever the caller states), "file tags" or "default".
        synthetic: whether the image is made, not observed, as its dataset or its files say.
    """

    bands: tuple[str, ...]
    grid: Grid
    paths: list[Path]
    tiles: list[tuple[int, int, int, int]]
    # Sources that wrap or make images need not set these.
    places: Sequence[_Place] = ()
    warnings: Sequence[str] = ()
    reflectance: Reflectance | None = None
    reflectance_source: str = "default"
    synthetic: bool = False

    @abstractmethod
    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> Image:
        """Read a window; what lies outside the frame or between the files is invalid."""

    @contextmanager
    def kept_open(self, width: int | None = None) -> Iterator[Source]:
        """Give the source for reading windows of these columns from top to bottom, in one thread.

        Sources of files keep them open, and what they have decoded of them.

        Args:
            width: columns that will be read, where it is not all of them.
        """
        yield self


def open_source(
    images: str | Path | Sequence[str | Path],
    *,
    bands: Sequence[str] | Mapping[str, Any],
    reflectance: Reflectance | None = None,
    bounds: Sequence[float] | None = None,
    resolution: float | None = None,
    stated: bool = True,
) -> Source:
    """Open patches, a scene, band files or a Sentinel-2 product as one image; reads no pixels.

    Numbers become reflectance by the metadata of the product that a band file belongs to; else by
    ``reflectance``; else by the scale and offset that the file tags its bands with (as catalogues'
    COGs do); else by the defaults of ``Reflectance``. A ``reflectance`` with the default scale and
    offset counts as one that states neither.

    Args:
        images: what ``paths.list_files`` takes: a file, a folder, a SAFE folder, a zip archive, a
            pattern, a web address, a GDAL path, or a list of these.
        bands: names, of bands that are found by what the files call them, else in the file's order;
            or a mapping from name to band number, to file pattern, or to
            {file: pattern, band: number}.
        reflectance: how numbers become reflectance, where nothing better is known.
        bounds: (xmin, ymin, xmax, ymax) in the image's CRS, snapped to whole pixels: the frame.
        resolution: m per pixel of images without georeference.
        stated: whether the order of a list of ``bands`` is said to be that of the file, which is
            then held against the names in it.

    Raises:
        GlacierError: files that are missing, do not belong together, or lack bands.
    """
    names = band_names(bands)
    files, places = _find_bands(names, bands, list_files(images))
    separate = places[0][0] is not None
    count = 1 if separate else None if places[0][1] else len(names)
    headers = [header for path in dict.fromkeys(files) for header in read_headers(path, count)]
    if separate:
        _check_one_frame(headers, files)
    headers, warnings = _check_opacity(names, places, headers)
    places, told = _number(names, places, headers, stated)
    grid, placed = lay_out(headers[:1] if separate else headers, resolution, told=warnings)
    if loose := Frame(grid, placed).loose():
        worst = max(loose, key=lambda path: loose[path])
        warnings.append(
            f"{worst}: {len(loose)} of {len(placed)} tiles lie up to {loose[worst]:.2f} px off the "
            f"pixels of {headers[0].path.name}: each is read as it is and laid on the nearest "
            "pixels; warp them onto one lattice (gdalwarp -tap) where that is too far"
        )
    scaling = choose_scaling(headers, places, reflectance)
    patches = not separate and len(placed) > 1
    if bounds is not None:
        grid, placed = Frame(grid, placed).crop(bounds)
        if not placed:
            raise GlacierError(f"bounds: {list(bounds)} lie in a gap between the patches")
        if patches:
            # A patch of a stack is in the file that its path lies under.
            inside = {path for item in placed for path in (item.path, item.path.parent)}
            files = [path for path in files if path in inside]
    source = _RasterSource(names, grid, placed, places, scaling, count, headers)
    source.warnings = [*warnings, *told, *scaling.warnings]
    source.synthetic = any(header.synthetic for header in headers)
    source.paths = list(dict.fromkeys(files))
    source.tiles = [(one.row, one.col, one.height, one.width) for one in placed if patches]
    return source


def input_files(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files on the disk that ``images`` is read from: a change in one changes the image.

    Besides the rasters: archives that they are in, metadata of products, indices of stacks, what
    GDAL reads beside a file, and the sources of a VRT. Images on the web are left out.

    Args:
        images: as in ``open_source``.
    """
    files = list_files(images)
    found = [local_file(path) for path in files]
    for path in files:
        metadata = find_metadata(path) if band_of(path) else None
        beside = index_of(path) if path.suffix.lower() == ".npy" else None
        found += [local_file(item) for item in (metadata, beside) if item and exists(item)]
    return files_behind(path for path in found if path)


def band_names(bands: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the bands in order, checked.

    Args:
        bands: as in ``open_source``.

    Raises:
        GlacierError: no bands, a name twice, or a specification of a wrong kind.
    """
    if isinstance(bands, str) or not isinstance(bands, Sequence | Mapping):
        raise GlacierError(
            f"bands: {bands!r} is neither a list of names nor a mapping; "
            "write for example [red, green, blue, nir]"
        )
    names = tuple(
        name.lower() if isinstance(name, str) and name.lower() in BANDS else name for name in bands
    )
    if not names or not all(isinstance(name, str) and name for name in names):
        raise GlacierError(f"bands: {list(names)} must be names such as red, green, blue, nir")
    if len(set(names)) < len(names):
        raise GlacierError(f"bands: {list(names)} names a band twice")
    if isinstance(bands, Mapping):
        for name, where in bands.items():
            _check_where(name, where)
        places = list(map(str, bands.values()))
        if twice := next((where for where in places if places.count(where) > 1), None):
            raise GlacierError(f"bands: {twice} is named for two bands; correct one of them")
        numbers = [isinstance(where, int) for where in bands.values()]
        if any(numbers) and not all(numbers):
            raise GlacierError(
                "bands: either all are numbers or all are file patterns; for a band inside one of "
                "several files write {file: PATTERN, band: NUMBER}"
            )
    return names


def _check_where(name: str, where: Any) -> None:
    if isinstance(where, Mapping):
        good = isinstance(where.get("file"), str) and _is_number(where.get("band", 1))
        good = good and set(where) <= {"file", "band"}
    else:
        good = isinstance(where, str) or _is_number(where)
    if not good:
        raise GlacierError(
            f"bands: {name}: {where!r} is not a band number from 1, a file pattern, "
            "or {file: PATTERN, band: NUMBER}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _find_bands(
    names: Sequence[str], bands: Sequence[str] | Mapping[str, Any], files: list[Path]
) -> tuple[list[Path], list[_Place]]:
    """Choose files and say where the bands lie, by names alone: nothing is opened.

    The places are either all in files of their own, or none is.

    Raises:
        GlacierError: nothing matches, or more than one file where there must be one.
    """
    if isinstance(bands, Mapping):
        if all(isinstance(where, int) for where in bands.values()):
            return files, [(None, number) for number in bands.values()]
        found = [_by_pattern(name, where, files) for name, where in bands.items()]
        return [path for path, _ in found], [*found]
    if (named := _by_tokens(names, files)) is not None:
        return named, [(path, 0) for path in named]
    return files, [(None, 0) for _ in names]


def _by_pattern(name: str, where: Any, files: Sequence[Path]) -> tuple[Path, int]:
    pattern, number = (where, 0) if isinstance(where, str) else (where["file"], where.get("band"))
    # A pattern without wildcards is a piece of the name: `B04` finds T22WDS_B04_60m.jp2.
    wild = pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*"
    found = [path for path in files if path.name == pattern]
    found = found or [path for path in files if fnmatch.fnmatchcase(path.name, wild)]
    if not found:
        raise GlacierError(
            f"{files[0].parent}: no file for band {name} matches {pattern!r} "
            f"(there are {_some(files)}); mend the pattern"
        )
    if len(found) > 1:
        raise GlacierError(
            f"{files[0].parent}: {len(found)} files for band {name} match {pattern!r} "
            f"({_some(found)}); make the pattern, or that of `images`, match one"
        )
    return found[0], number or 0


def _by_tokens(names: Sequence[str], files: Sequence[Path]) -> list[Path] | None:
    """Return one file per band where the names say so, None where there is not one per band.

    Raises:
        GlacierError: there is one file per band, but of several images.
    """
    if len(files) == 1:
        return None
    matches = files_called(names, files)
    first = read_headers(next((found[0] for found in matches.values() if found), files[0]))[0]
    missing = [name for name, found in matches.items() if not found]
    if first.count - bool(first.alpha) > 1 or (missing and len(names) == 1):
        return None  # patches, whatever their names look like
    if missing:
        raise GlacierError(
            f"{files[0].parent}: no file is named as band {missing[0]} (there are {_some(files)}); "
            "say which it is, as in `--bands red=*_B3.tif,...` or in a manifest "
            f"bands: {{{missing[0]}: '*_B11_*', ...}}"
        )
    for name, found in matches.items():
        if len(found) > 1:
            raise GlacierError(
                f"{files[0].parent}: {len(found)} files are named as band {name} ({_some(found)}); "
                "narrow `images` to one image with a pattern"
            )
    return [found[0] for found in matches.values()]


def _some(files: Sequence[Path], limit: int = 4) -> str:
    names = ", ".join(path.name for path in files[:limit])
    return names + (f" and {len(files) - limit} more" if len(files) > limit else "")


def _check_one_frame(headers: Sequence[Header], files: Sequence[Path]) -> None:
    """Check that the files of the bands are of one day and show the same frame."""
    days = {day: path for path in files if (day := date_in_name([path]))}
    if len(days) > 1:
        raise several_images({path: day for day, path in days.items()})
    first = headers[0]
    for header in headers:
        if header.path not in files:
            raise GlacierError(
                f"{header.path.parent}: is a stack of one band; a stack of patches holds all "
                "bands, [n, band, row, col]"
            )
        if how := describe_mismatch(header.grid, first.grid):
            raise GlacierError(
                f"{header.path}: is not on the grid of {first.path.name}: {how}; bring all bands "
                "onto one grid (gdalwarp -tap)"
            )


def _check_opacity(
    names: Sequence[str], places: Sequence[_Place], headers: list[Header]
) -> tuple[list[Header], list[str]]:
    """Take the mark of opacity from a band that is asked for, or that holds an image."""
    first, asked = headers[0], {number for _, number in places}
    # Programs mark the fourth of four 8-bit bands as opacity whatever it holds.
    whole = asked == {0} and first.alpha > 0 and first.count == len(names)
    if whole and not _is_opacity(headers[:_OPENED]):
        told = (
            f"{first.path}: band {first.alpha} is marked as opacity (alpha) but holds an image: "
            f"taken as one of {', '.join(names)}"
        )
        return [replace(one, alpha=0) for one in headers], [told]
    return [replace(one, alpha=0) if one.alpha in asked else one for one in headers], []


def _is_opacity(headers: Sequence[Header]) -> bool:
    """Say whether a band marked as opacity is that, by the middle of each file: all or nothing."""
    for header in headers:
        window = tuple(
            (max(0, side // 2 - 128), min(side, side // 2 + 128)) for side in header.grid.shape
        )
        with open_raster(header.path) as dataset:
            values = dataset.read(header.alpha, window=window)
        if not np.isin(values, (0, 255, 65535)).all():
            return False
    return True


def _number(
    names: Sequence[str], places: Sequence[_Place], headers: Sequence[Header], stated: bool
) -> tuple[list[_Place], list[str]]:
    """Return the places of the bands with a number each, checked by what files hold; warnings."""
    first = headers[0]
    if places[0] == (None, 0):
        found, warnings = bands_called(names, headers, stated)
        return [(None, number) for number in found], warnings
    warnings = []
    by_path = {header.path: header for header in headers}
    for name, (path, number) in zip(names, places, strict=True):
        header = by_path[path or first.path]
        if number > header.count:
            raise GlacierError(
                f"{header.path}: has {header.count} band(s), but band {number} is asked for as "
                f"{name}; correct the number in `bands`"
            )
        if number == 0 and header.count - bool(header.alpha) > 1:
            raise GlacierError(
                f"{header.path}: has {header.count} bands; say which one is {name} with "
                f"{{file: {header.path.name}, band: NUMBER}}"
            )
        warnings += contradictions(name, number or 1, header)
    return [(path, number or 1) for path, number in places], warnings


class _RasterSource(Frame, Source):
    """Files at places in a frame; each band in the placed file itself, or in a file of its own."""

    def __init__(
        self,
        bands: tuple[str, ...],
        grid: Grid,
        placed: Sequence[Placed],
        places: Sequence[_Place],
        scaling: Scaling,
        count: int | None,
        headers: Sequence[Header],
    ) -> None:
        super().__init__(grid, placed)
        self.bands, self.places = bands, places
        self.reflectance, self.reflectance_source = scaling.first, scaling.source
        self._scaling = scaling
        self._count = count
        self._open = open_raster
        # Files that hide pixels: others cost no further look.
        self._hiding = {one.path: one for one in headers if one.masked or one.alpha}
        # (position, number) of the bands by file, so that one with several of them is opened once.
        self._by_file: dict[Path | None, list[tuple[int, int]]] = {}
        for position, (path, number) in enumerate(places):
            self._by_file.setdefault(path, []).append((position, number))

    @contextmanager
    def kept_open(self, width: int | None = None) -> Iterator[Source]:
        """Give the source with its files kept open (``io.KeptOpen``)."""
        source = copy(self)
        with KeptOpen(width) as files:
            source._open = files.open
            yield source

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> Image:
        """Read a window; where files overlap, the first in sorted order that is valid counts."""
        grid = self.grid.window(row, col, height, width)
        height, width = grid.shape
        found = list(self.pieces(row, col, height, width))
        if len(found) == 1:
            piece, known = self._read_piece(found[0][0], found[0][2])
            if known.shape == grid.shape:
                # A scene: nothing to put together, no copies of what may be hundreds of MB.
                return Image(piece, known, self.bands, grid)
        values = np.zeros((len(self.bands), height, width), np.float32)
        valid = np.zeros((height, width), bool)
        for item, (rows, cols), window in found:
            piece, known = self._read_piece(item, window)
            fresh = known & ~valid[rows, cols]
            values[:, rows, cols] = np.where(fresh, piece, values[:, rows, cols])
            valid[rows, cols] |= known
        return Image(values, valid, self.bands, grid)

    def _read_piece(self, item: Placed, window: Any) -> tuple[np.ndarray, np.ndarray]:
        shape = tuple(stop - start for start, stop in window)
        values = np.empty((len(self.bands), *shape), np.float32)
        empty = np.zeros(values.shape, bool)
        missing = np.zeros(shape, bool)
        whole_numbers = True
        for path, places in self._by_file.items():
            numbers = [number for _, number in places]
            header = self._hiding.get(path or item.path)
            with self._open(path or item.path, self._count) as dataset:
                stored = dataset.read(numbers, window=window)
                rules = [self._scaling.of(position, dataset, number) for position, number in places]
                tags = [dataset.nodatavals[number - 1] for number in numbers]
                if header is not None:
                    missing |= masked_out(header, dataset, numbers, window)
            whole_numbers &= stored.dtype.kind in "ui"
            for (position, _), band, rule, tag in zip(places, stored, rules, tags, strict=True):
                # The file's own word counts beside that of the caller.
                for nodata in {rule.nodata, tag} - {None}:
                    if rule.can_be(nodata):
                        empty[position] |= band == nodata
                    else:
                        missing |= band == nodata
                values[position] = band
                values[position] += np.float32(rule.offset)
                values[position] /= np.float32(rule.scale)
        # Integers that were scaled are finite.
        known = np.logical_not(empty.all(axis=0) | missing)
        if not whole_numbers:
            known &= np.isfinite(values).all(axis=0)
        if not known.all():
            values[:, ~known] = 0
        return values, known
