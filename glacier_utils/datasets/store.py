"""The patch store: arrays, index and statistics of a dataset cut into patches."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio

from glacier_utils.datasets.splitting import SPLITS
from glacier_utils.errors import GlacierError, did_you_mean
from glacier_utils.files import write_json

FORMAT = 3
"""Goes up when the same parameters would give another store."""

# What a file that is cut short or spoilt raises.
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
)  # fmt: skip
_COLUMNS = [
    "area", "date", "row", "col", "split", "block", "glacier", "unknown", "nodata", "cloud",
    "shadow", "saturated", "label_age", "disagreement", "reason",
]  # fmt: skip


@dataclass(frozen=True)
class PatchStore:
    """Patches of a dataset in index order; the arrays are memory-mapped, read-only.

    Attributes:
        folder: of the store.
        key: hash of all that went in.
        bands: names in order.
        parameters: how it was cut, as ``patches.build_patches`` was told and what it chose.
        images: float32 [n, band, row, col], reflectance, 0.0 in every band where invalid.
        labels: uint8 [n, row, col], 0, 1, 255 unknown.
        truth: uint8 [n, row, col], 0, 1, 255; None where the dataset has none.
        surface: uint8 [n, row, col], classes, 255; None where the dataset has none.
        index: one row per patch: patch, area, date, row, col (upper left corner in pixels of that
            date's frame), split (one of ``splitting.SPLITS``), block, what
            ``patches.patch_facts`` says (fractions glacier, unknown, nodata, cloud, shadow,
            saturated and disagreement, label_age in years; nan: not assessed), the reason why a
            patch is not used, or is used by a user's override, and its box. (The column is
            ``index["area"]``; ``index.area`` is what geopandas measures.)
        statistics: bands, mean, std (lists in the order of the bands) and count over the training
            patches' labelled pixels, and glacier, the glacier fraction among them.
        parts: one row per area and split: patches, km2, glacier (fraction).
    """

    folder: Path
    key: str
    bands: tuple[str, ...]
    parameters: dict[str, Any]
    images: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None
    surface: np.ndarray | None
    index: gpd.GeoDataFrame
    statistics: dict[str, Any]
    parts: pd.DataFrame

    def __len__(self) -> int:
        return len(self.index)

    def select(
        self,
        *,
        area: str | Collection[str] | None = None,
        date: str | Collection[str] | None = None,
        split: str | Collection[str] | None = None,
    ) -> np.ndarray:
        """Return the positions of patches, rising; each condition is a value or several.

        Raises:
            GlacierError: an area, date or split that the store does not have.
        """
        chosen = np.ones(len(self.index), bool)
        for column, wanted in (("area", area), ("date", date), ("split", split)):
            if wanted is None:
                continue
            values = [wanted] if isinstance(wanted, str) else list(wanted)
            have = SPLITS if column == "split" else self.index[column].unique()
            check_known(column, values, have)
            chosen &= self.index[column].isin(values).to_numpy()
        return np.flatnonzero(chosen)

    def valid(self, positions: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return where patches have image data, bool [n, row, col]."""
        return (self.images[positions] != 0).any(axis=1)


def check_known(what: str, values: Iterable[str], have: Collection[str]) -> None:
    """Check that names are among those that are there.

    Args:
        what: kind of the names, for the message.
        values: names asked for.
        have: names that are there.

    Raises:
        GlacierError: one is not; with the nearest that is.
    """
    for value in values:
        if value not in have:
            raise GlacierError(f"{what} '{value}' is not there; {did_you_mean(value, have)}")


def open_store(folder: str | Path) -> PatchStore:
    """Open a patch store.

    Args:
        folder: of the store, ``data/<name>/patches/<key>``.

    Raises:
        GlacierError: the folder is none, or not whole.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise GlacierError(
                f"{folder}: a patch store of another version of this package (format "
                f"{content['format']}, here {FORMAT}); build it again, in a run with notebook 02"
            )
        index = gpd.read_file(folder / "index.gpkg")
        arrays: dict[str, Any] = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            if name in content["arrays"]
            else None
            for name in ("images", "labels", "truth", "surface")
        }
        parts = pd.DataFrame(content["parts"])
        key, parameters, statistics = (
            content[name] for name in ("key", "parameters", "statistics")
        )
    except _UNREADABLE as error:
        raise GlacierError(
            f"{folder}: not a whole patch store ({error}); delete it and build it again"
        ) from error
    if len(index) != len(arrays["images"]):
        raise GlacierError(
            f"{folder}: index and arrays differ in length; delete it, build it again"
        )
    index[["block", "reason"]] = index[["block", "reason"]].fillna("")
    for name in ("mean", "std"):  # nan is null in JSON: there are no training patches
        statistics[name] = [math.nan if value is None else value for value in statistics[name]]
    bands = tuple(statistics["bands"])
    return PatchStore(
        folder, key, bands, parameters, **arrays, index=index, statistics=statistics, parts=parts
    )


def write_store(
    folder: Path,
    patches: gpd.GeoDataFrame,
    *,
    key: str,
    arrays: Sequence[str],
    statistics: Mapping[str, Any],
    parts: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
) -> None:
    """Write index and statistics of a store beside its arrays.

    Args:
        folder: that holds the arrays.
        patches: one row per patch with the columns of ``PatchStore.index``.
        key: of the store.
        arrays: names of the arrays.
        statistics: as in ``PatchStore``.
        parts: rows of ``PatchStore.parts``.
        parameters: as in ``PatchStore``.
    """
    index = patches[[*_COLUMNS, "geometry"]]
    index.insert(0, "patch", np.arange(len(index)))
    with warnings.catch_warnings():
        # Images without georeference have none to write.
        warnings.filterwarnings("ignore", "'crs' was not provided")
        index.to_file(folder / "index.gpkg", layer="patches", driver="GPKG", engine="pyogrio")
    content = {"key": key, "format": FORMAT, "arrays": arrays, "statistics": statistics,
               "parts": parts, "parameters": parameters}  # fmt: skip
    write_json(folder / "statistics.json", content)


class ArrayFile:
    """A .npy file of equal patches, written one at a time in any order.

    Not a memory map: the pages of one count as this process's memory until they are on the disk.
    """

    def __init__(self, path: Path, dtype: type, shape: tuple[int, ...]) -> None:
        self._dtype, self._shape = np.dtype(dtype), shape[1:]
        self._bytes = self._dtype.itemsize * math.prod(self._shape)
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start = self._file.tell()
        self._file.truncate(self._start + shape[0] * self._bytes)

    def write(self, position: int, patch: np.ndarray) -> None:
        """Write one patch in its place."""
        if patch.shape != self._shape or patch.dtype != self._dtype:
            raise ValueError(f"a patch of {patch.dtype} {patch.shape} does not fit the array")
        self._file.seek(self._start + int(position) * self._bytes)
        self._file.write(np.ascontiguousarray(patch).data)

    def close(self) -> None:
        """Write out what is left."""
        self._file.close()


def moments(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return count, sum, and sum of squares about the patch's own mean: float64 [3, band].

    Args:
        image: [band, row, col].
        known: bool [row, col], the pixels that count.
    """
    values = image.reshape(len(image), -1)
    if not known.all():
        values = values.take(np.flatnonzero(known), axis=1)
    values = values.astype(np.float64)
    count, total = values.shape[1], values.sum(axis=1)
    values -= total[:, None] / max(count, 1)
    values *= values
    return np.stack([np.full(len(image), count), total, values.sum(axis=1)])


def pooled_statistics(sums: np.ndarray, ice: int) -> dict[str, Any]:
    """Put the ``moments`` of patches together.

    Squares are summed about the mean of each patch and moved to the common mean (Chan, Golub &
    LeVeque 1983, The American Statistician 37, 242), so that no digit is lost to cancellation and
    the pixels are read once.

    Args:
        sums: float64 [n, 3, band].
        ice: number of glacier pixels among those counted.

    Returns:
        Lists mean and std by band, count of pixels, glacier fraction; nan where there is no pixel.
    """
    counts, totals, squares = np.moveaxis(sums, 1, 0)
    count = int(counts[:, 0].sum())
    if not count:
        nothing = [math.nan] * sums.shape[2]
        return {"mean": nothing, "std": nothing, "count": 0, "glacier": math.nan}
    mean = totals.sum(axis=0) / count
    shift = totals / np.maximum(counts, 1) - mean
    std = np.sqrt((squares + counts * shift**2).sum(axis=0) / count)
    return {"mean": mean.tolist(), "std": std.tolist(), "count": count, "glacier": ice / count}
