"""Patches as NumPy arrays: one a file, or many stacked in one with an index of their places.

An open array offers the few parts of rasterio's datasets that reading needs, so that whoever reads
rasters reads arrays too. A patch of a stack has the path ``stack.npy/000003``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from affine import Affine

from glacier_utils.errors import GlacierError
from glacier_utils.paths import is_virtual

Place = tuple[int, int]


def is_array(path: Path) -> bool:
    """Say whether a path is a NumPy file or a patch in one; its content is not looked at."""
    return path.suffix.lower() in (".npy", ".npz") or is_member(path)


def is_member(path: Path) -> bool:
    """Say whether a path is a patch of a stack."""
    return path.parent.suffix.lower() == ".npy" and not path.suffix


def index_of(path: Path) -> Path:
    """Return the path of the index that belongs to a stack."""
    return path.with_suffix(".csv")


class ArrayDataset:
    """An array [band, row, col] under the names that a rasterio dataset has for it."""

    transform = Affine.identity()
    crs = None
    nodata = None

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self.count = values.shape[0]
        self.shape = values.shape[1:]
        self.dtypes = (values.dtype.name,) * self.count
        self.nodatavals = (None,) * self.count
        self.scales, self.offsets = (1.0,) * self.count, (0.0,) * self.count

    def read(self, indexes: int | Sequence[int], window: tuple | None = None) -> np.ndarray:
        """Read bands, counted from 1, or [row, col] of one; only the window leaves the disk."""
        rows, cols = (slice(*part) for part in window or ((None,), (None,)))
        # Window first: picking bands by a list copies what it picks from.
        part = self._values[:, rows, cols]
        picked = part[indexes - 1 if isinstance(indexes, int) else [i - 1 for i in indexes]]
        # Rasters have no truth values, and the byte order of the machine.
        kind = np.uint8 if picked.dtype == bool else picked.dtype.newbyteorder("=")
        return np.array(picked, dtype=kind)


def open_array(path: Path, bands: int | None = None) -> ArrayDataset:
    """Open a .npy file, or a patch of a stack, memory-mapped.

    Args:
        path: file, or ``stack.npy/000003``.
        bands: how many bands a patch has, where that is known: tells [band, row, col] from
            [row, col, band]. Else the shorter of the two axes counts the bands.

    Raises:
        GlacierError: not a plain array of numbers, or of another shape.
    """
    file = path.parent if is_member(path) else path
    values = _load(file)
    if is_member(path):
        values = values[int(path.name)]
    return ArrayDataset(_bands_first(values, bands))


def members(path: Path, bands: int | None = None) -> list[tuple[Path, Place | None]]:
    """Return the patches in a file with the (row, col) that the index of a stack gives them.

    A file of one patch is itself its only member, without place.

    Raises:
        GlacierError: the file cannot be read, or its index does not fit.
    """
    values = _load(path)
    if not _is_stack(values.shape, bands):
        return [(path, None)]
    places = _read_index(index_of(path), len(values)) or [None] * len(values)
    return [(path / f"{number:06d}", place) for number, place in enumerate(places)]


def _load(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".npz":
        raise GlacierError(
            f"{path}: an archive of arrays is not read; save its array with numpy.save as a .npy"
        )
    if is_virtual(path):
        raise GlacierError(f"{path}: arrays are read from the disk only; unpack or download it")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise GlacierError(f"{path}: no such file; check the path") from error
    except (ValueError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise GlacierError(
            f"{path}: cannot be read as a plain array, it may be cut short or hold objects; save "
            f"it again with numpy.save ({reason})"
        ) from error
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3, 4) or not values.size:
        shape = " x ".join(map(str, values.shape))
        raise GlacierError(
            f"{path}: is an array of {values.dtype}, {shape or 'one value'}; a patch is "
            "[band, row, col], [row, col, band] or [row, col], a stack [n, band, row, col], all of "
            "numbers"
        )
    return values


def _is_stack(shape: Sequence[int], bands: int | None) -> bool:
    # Patches of one band may do without their axis of length 1.
    return len(shape) == 4 or (len(shape) == 3 and bands == 1 and 1 not in (shape[0], shape[2]))


def _bands_first(values: np.ndarray, bands: int | None) -> np.ndarray:
    if values.ndim == 2:
        return values[np.newaxis]
    first, last = values.shape[0], values.shape[-1]
    at_end = last < first if bands not in (first, last) or first == last else last == bands
    return np.moveaxis(values, -1, 0) if at_end else values


def _read_index(path: Path, count: int) -> list[Place] | None:
    """Read the rows and columns of the patches of a stack; None where there is no index."""
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())
        raise GlacierError(f"{path}: cannot be read as a table ({reason})") from error
    table.columns = [str(name).strip().lower() for name in table.columns]
    if not {"row", "col"} <= set(table.columns):
        raise GlacierError(
            f"{path}: has the columns {', '.join(table.columns)}; an index of patches needs row "
            "and col"
        )
    if len(table) != count:
        raise GlacierError(
            f"{path}: has {len(table)} rows for {count} patches; write one row a patch, in order"
        )
    numbers = table[["row", "col"]].apply(pd.to_numeric, errors="coerce")
    wrong = (numbers.isna() | (numbers != numbers.round()) | (numbers < 0)).any(axis=1)
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0]) + 2
        raise GlacierError(f"{path}: line {line}: row and col must be whole numbers from 0")
    return [(int(row), int(col)) for row, col in numbers.to_numpy()]
