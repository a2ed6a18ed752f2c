"""Files on one lattice: a folder of patches, or a single scene, as one frame of pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from glacier_utils.conventions import date_in_name
from glacier_utils.errors import GlacierError
from glacier_utils.raster.grid import LATTICE_TOLERANCE, Grid, same_crs
from glacier_utils.raster.io import (
    Header,
    crs_name,
    index_of,
    is_member,
    open_raster,
    pixel_transform,
)

# Pixels of tiles that were cut one by one differ by less than this.
_SIZES = 0.01
# Pairs of tiles whose edges are compared; as many times as different in the wrong order.
_PAIRS, _UNLIKE = 12, 2
# Row and column in a name: `r003_c012`, `row3_col12`, `x0_y128`, or two numbers at the end as in
# `_3_12`.
_ROW, _COL = r"(?:y|r(?:ow)?)[_-]?(?P<row>\d+)", r"(?:x|c(?:ol(?:umn)?)?)[_-]?(?P<col>\d+)"
_ROW_COL = (
    re.compile(rf"(?:^|[^a-z]){_ROW}[_-]?{_COL}(?!\d)", re.I),
    re.compile(rf"(?:^|[^a-z]){_COL}[_-]?{_ROW}(?!\d)", re.I),
    re.compile(r"(?:^|[_-])(?P<row>\d+)[_-](?P<col>\d+)$"),
)


@dataclass(frozen=True)
class Placed:
    """A file, or the files of the bands, at a place in a frame (pixels; may stick out of it).

    Attributes:
        path: of the file.
        row: of its upper left pixel in the frame.
        col: likewise.
        height: rows of the file.
        width: columns of the file.
        grid: the file's own, which need not fall on the pixels of the frame; None where it has no
            georeference.
    """

    path: Path
    row: int
    col: int
    height: int
    width: int
    grid: Grid | None = None

    def moved(self, rows: int, cols: int) -> Placed:
        """Return the same file so many rows and columns further down and to the right."""
        return replace(self, row=self.row + rows, col=self.col + cols)


def row_col_of(path: Path) -> tuple[int, int] | None:
    """Return the row and column numbers in a file's name, None where it has none."""
    found = next(filter(None, (form.search(path.stem) for form in _ROW_COL)), None)
    return (int(found["row"]), int(found["col"])) if found else None


def lay_out(
    headers: Sequence[Header],
    resolution: float | None = None,
    *,
    told: list[str] | None = None,
    images: Sequence[Placed] = (),
) -> tuple[Grid, list[Placed]]:
    """Place files on one lattice.

    Georeferenced files lie where they say: on the nearest pixel of the first one's lattice, where
    tiles that were cut one by one have lattices of their own (``Frame.loose``). Others lie by the
    row and column in their names, which count files, or pixels if they step by a quarter of a
    file's size or more (the last in a row or column by less, where it was pushed back to end with
    the image); so do those in the index of a stack of arrays. Where names do not say which number
    is the row, edges do: those of neighbours are alike.

    Args:
        headers: of the files.
        resolution: of a pixel, where the files do not tell.
        told: a list, to which warnings are added.
        images: those of masks, whose edges tell more than the masks' own.

    Returns:
        The grid of the frame around all files, and the files with their places in it, sorted by
        path.

    Raises:
        GlacierError: files of different resolution, CRS or type; no way to place one; two at one
            place, or of different days on the same ground.
    """
    first = headers[0]
    for header in headers[1:]:
        _check_alike(first, header)
    lattice = first.grid
    if first.georeferenced:
        corners = [nearest_pixel(first.grid, header.grid) for header in headers]
    else:
        told = [] if told is None else told
        corners = [(0, 0)] if len(headers) == 1 else _named_corners(headers, images, told)
        lattice = Grid(None, pixel_transform(0, 0, resolution or 1.0), *lattice.shape)
    top, left = min(row for row, _ in corners), min(col for _, col in corners)
    placed = [
        Placed(header.path, row - top, col - left, *header.grid.shape,
               header.grid if header.georeferenced else None)
        for header, (row, col) in zip(headers, corners, strict=True)
    ]  # fmt: skip
    height = max(item.row + item.height for item in placed)
    width = max(item.col + item.width for item in placed)
    grid = lattice.window(top, left, height, width)
    check_one_image(Frame(grid, placed))
    return grid, sorted(placed, key=lambda item: item.path)


def check_one_image(frame: Frame) -> None:
    """Refuse files on the same ground: at one place, or overlapping and of different days.

    Raises:
        GlacierError: there are such, as where a pattern matches the images of two dates.
    """
    days = {item.path: date_in_name([item.path]) for item in frame.placed}
    dated = len({*days.values(), ""}) > 2
    at: dict[tuple[int, int], Placed] = {}
    for item in frame.placed:
        others = [at.setdefault((item.row, item.col), item)]
        if dated and days[item.path]:
            # Neighbours may share an edge of pixels.
            box = item.row + 1, item.col + 1, item.height - 2, item.width - 2
            met = (one for one, *_ in frame.pieces(*box))
            others += [one for one in met if days[one.path] not in ("", days[item.path])]
        if others != [item]:
            other = others[-1]
            raise several_images({path: days[path] for path in sorted({item.path, other.path})})


def several_images(days: Mapping[Path, str]) -> GlacierError:
    """Return the error of files that show the same ground, by their days, "" unknown."""
    told = {path.name: day or "no date in its name" for path, day in days.items()}
    listed = ", ".join(f"{name} ({day})" for name, day in told.items())
    return GlacierError(
        f"{min(days).parent}: holds several images where one is meant: {listed} show the same "
        "ground; name one image, as by a pattern with its date"
    )


def _check_alike(first: Header, other: Header) -> None:
    if first.georeferenced != other.georeferenced:
        bare, fine = (other, first) if first.georeferenced else (first, other)
        raise GlacierError(
            f"{bare.path}: has no georeference while {fine.path.name} has one; "
            "a folder of patches must be all of one kind"
        )
    if not same_crs(first.grid.crs, other.grid.crs):
        raise GlacierError(
            f"{other.path}: its CRS ({crs_name(other.grid)}) is not that of {first.path.name} "
            f"({crs_name(first.grid)}); warp them to one CRS, or make them separate areas"
        )
    size, other_size = first.grid.transform.a, other.grid.transform.a
    if abs(other_size / size - 1) > _SIZES:
        raise GlacierError(
            f"{other.path}: its pixel is {other_size:g}, that of {first.path.name} is {size:g}; "
            "all files of one image must have one resolution: warp them (gdalwarp -tr), or make "
            "them separate areas"
        )
    if (first.count, first.dtype) != (other.count, other.dtype):
        raise GlacierError(
            f"{other.path}: has {other.count} bands of {other.dtype}, {first.path.name} has "
            f"{first.count} of {first.dtype}; all patches must have the same bands and type"
        )


def nearest_pixel(grid: Grid, other: Grid) -> tuple[int, int]:
    """Return (row, col) of the pixel of ``grid`` where ``other`` begins, its middle in place."""
    x, y = other.transform @ (other.width / 2, other.height / 2)
    col, row = ~grid.transform @ (x, y)
    return round(row - other.height / 2), round(col - other.width / 2)


def describe_mismatch(grid: Grid, reference: Grid) -> str:
    """Say in what ``grid`` is not ``reference``; "" where both are one frame."""
    if grid.matches(reference):
        return ""
    if not same_crs(grid.crs, reference.crs):
        return f"its CRS is {crs_name(grid)}, not {crs_name(reference)}"
    shift = reference.shift(grid)
    if shift is None:
        return f"its pixels are {grid.transform.a:g} wide, not {reference.transform.a:g}"
    if not grid.shares_lattice(reference):
        dx, dy = shift
        return f"its pixels lie {dx:+.2f} columns and {dy:+.2f} rows off"
    row, col = (round(value) for value in reference.position(grid))
    return (
        f"its frame has {grid.width} x {grid.height} px from column {col}, row {row}, "
        f"not {reference.width} x {reference.height}"
    )


def _named_corners(
    headers: Sequence[Header], images: Sequence[Placed], told: list[str]
) -> list[tuple[int, int]]:
    numbers = []
    for header in headers:
        number = header.place or row_col_of(header.path)
        if number is None and is_member(header.path):
            stack = header.path.parent
            raise GlacierError(
                f"{stack}: is a stack of {len(headers)} arrays without an index; say where each "
                f"lies in {index_of(stack).name} beside it, with the columns row,col"
            )
        if number is None:
            raise GlacierError(
                f"{header.path}: has neither georeference nor row and column in its name; "
                "rename the patches like patch_r003_c012.tif"
            )
        numbers.append(number)
    if len({header.grid.shape for header in headers}) > 1:
        raise GlacierError(
            f"{headers[0].path.parent}: patches placed by row and column must all be of one size"
        )
    height, width = headers[0].grid.shape
    pixels = _count_pixels(numbers, min(height, width))
    named = [item.path for item in images or headers if row_col_of(item.path)]
    if named and not any(form.search(named[0].stem) for form in _ROW_COL[:2]):
        turned = _column_first(named, pixels)
        numbers = [(place[1], place[0]) for place in numbers] if turned else numbers
        what = {True: "column and row, as", None: "row and column, without help from"}
        if turned is not False:
            told.append(
                f"{headers[0].path}: the numbers in its name are taken as {what[turned]} the edges "
                "of neighbours; where that is wrong, name the files like patch_r003_c012.tif"
            )
    if pixels:
        return numbers
    return [(row * height, col * width) for row, col in numbers]


def _column_first(paths: Sequence[Path], pixels: bool) -> bool | None:
    """Say which number in names is the column, by the edges of neighbours; None: they do not tell.

    Args:
        paths: of tiles.
        pixels: whether names count pixels, not tiles.
    """
    places = {row_col_of(path) or (0, 0): path for path in paths}
    unlike = np.zeros(2)  # row first, column first
    for axis in (0, 1):
        step = int(np.diff(sorted({place[axis] for place in places})).min(initial=10**9))
        after = {place: (place[0] + step * (1 - axis), place[1] + step * axis) for place in places}
        pairs = [(place, other) for place, other in after.items() if other in places]
        for pair in pairs[:: 1 + len(pairs) // _PAIRS]:
            for turned, dimension in enumerate((1, 2)):
                one, other = (np.moveaxis(_pixels(places[at]), dimension, 0) for at in pair)
                edge = min(step, len(one) - 1) if pixels else -1
                unlike[axis ^ turned] += np.abs(one[edge] - other[0]).mean()
    return bool(unlike.argmin()) if unlike.max() > _UNLIKE * unlike.min() else None


def _pixels(path: Path) -> np.ndarray:
    with open_raster(path) as dataset:
        return np.nan_to_num(dataset.read().astype(np.float64))


def _count_pixels(numbers: Sequence[tuple[int, int]], size: int) -> bool:
    """Say whether numbers are pixel offsets: counted files would not all step by a patch's size.

    The last in a row or column may be pushed back, so as to end where the image does.
    """
    axes = [sorted({number[axis] for number in numbers}) for axis in (0, 1)]
    step = math.gcd(*axes[0], *axes[1])
    if step > 1 and step >= size // 4:
        return True
    step = math.gcd(*(value - axis[0] for axis in axes for value in axis[:-1]))
    last = [axis[-1] - axis[-2] for axis in axes if len(axis) > 1]
    # Where no two others show the step, a counted file may look as if pushed back by nearly all.
    least = 1 if step else size // 4
    regular = bool(last) and size // 2 <= (step or size) <= size
    return regular and all(least <= gap <= size for gap in last)


class Frame:
    """What a source and a mask made of files share: files at places in a frame.

    Attributes:
        grid: of the frame.
        placed: the files.
    """

    grid: Grid

    def __init__(self, grid: Grid, placed: Sequence[Placed]) -> None:
        self.grid = grid
        self.placed = list(placed)
        self._boxes = np.array(
            [(item.row, item.col, item.row + item.height, item.col + item.width) for item in placed]
        )

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

    def loose(self) -> dict[Path, float]:
        """Return which files lie off the pixels of the frame, and how far, in pixels (of it)."""
        found = {}
        for item in self.placed:
            if item.grid is None:
                continue
            xmin, ymin, xmax, ymax = item.grid.bounds
            ends = ~self.grid.transform @ (xmin, ymin), ~self.grid.transform @ (xmax, ymax)
            here = (item.col, item.row + item.height), (item.col + item.width, item.row)
            off = float(np.abs(np.subtract(ends, here)).max())
            if off > LATTICE_TOLERANCE:
                found[item.path] = off
        return found

    def crop(self, bounds: Sequence[float]) -> tuple[Grid, list[Placed]]:
        """Return frame and files of the whole pixels nearest to ``bounds``."""
        xmin, ymin, xmax, ymax = bounds
        left, top = ~self.grid.transform @ (xmin, ymax)
        right, bottom = ~self.grid.transform @ (xmax, ymin)
        row0, col0 = max(0, round(top)), max(0, round(left))
        row1, col1 = min(self.grid.height, round(bottom)), min(self.grid.width, round(right))
        if row0 >= row1 or col0 >= col1:
            frame = ", ".join(f"{value:.10g}" for value in self.grid.bounds)
            raise GlacierError(
                f"bounds: {list(bounds)} lie outside the image, which covers [{frame}] in its CRS "
                f"({crs_name(self.grid)})"
            )
        grid = self.grid.window(row0, col0, row1 - row0, col1 - col0)
        met = (item for item, *_ in self.pieces(row0, col0, *grid.shape))
        return grid, [item.moved(-row0, -col0) for item in met]
