"""The patch store: arrays, index and statistics of a dataset cut into patches."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio

from glacier_utils.errors import GlacierError
from glacier_utils.quality import UNKNOWN
from glacier_utils.splits import SPLITS

_CHUNK = 64  # patches at a time


@dataclass(frozen=True)
class PatchStore:
    """Patches of a dataset in index order; the arrays are memory-mapped, read-only.

    images float32 [n, band, row, col] (reflectance, 0.0 in every band where invalid), labels uint8
    [n, row, col]; truth (0 / 1 / 255) and surface (classes, 255) only where a dataset has them.
    ``index`` has a row a patch: patch, area, date, row, col (upper left corner in pixels of that
    date's frame), split (one of ``splits.SPLITS``), block, the fractions glacier, unknown, nodata,
    cloud (nan: not assessed), saturated, the reason why a patch is not used, and its box. (The
    column is ``index["area"]``; ``index.area`` is what geopandas measures.)
    ``statistics``: bands, mean, std (lists in the order of the bands) and count over the training
    patches' labelled pixels, and glacier, the glacier fraction among them.
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

        GlacierError for an area, date or split that the store does not have.
        """
        chosen = np.ones(len(self.index), bool)
        for column, wanted in (("area", area), ("date", date), ("split", split)):
            if wanted is None:
                continue
            values = [wanted] if isinstance(wanted, str) else list(wanted)
            have = SPLITS if column == "split" else self.index[column].unique()
            for value in values:
                check_known(column, value, have)
            chosen &= self.index[column].isin(values).to_numpy()
        return np.flatnonzero(chosen)

    def valid(self, positions: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return where patches have image data, bool [n, row, col]."""
        return (self.images[positions] != 0).any(axis=1)


def open_store(folder: str | Path) -> PatchStore:
    """Open a patch store; GlacierError if the folder is none, or not whole."""
    folder = Path(folder)
    try:
        content = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
        index = gpd.read_file(folder / "index.gpkg")
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            if name in content["arrays"]
            else None
            for name in ("images", "labels", "truth", "surface")
        }
        parts = pd.DataFrame(content["parts"])
        key, parameters, statistics = (
            content[name] for name in ("key", "parameters", "statistics")
        )
    except (OSError, ValueError, KeyError, pyogrio.errors.DataSourceError) as error:
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


def masked_statistics(
    images: np.ndarray, labels: np.ndarray, positions: np.ndarray
) -> dict[str, Any]:
    """Return mean and standard deviation of each band over the pixels with a label.

    images [n, band, row, col], labels [n, row, col]; only the patches at ``positions``, only where
    label != 255. Summed in float64, in two passes, so that no digit is lost to cancellation. Lists
    mean and std, count of pixels, glacier fraction; nan where there is no pixel.
    """
    bands = images.shape[1]
    count, ice, total, square = 0, 0, np.zeros(bands), np.zeros(bands)
    for values, label in _known_pixels(images, labels, positions):
        count += label.size
        ice += int((label == 1).sum())
        total += values.sum(axis=1, dtype=np.float64)
    mean = total / count if count else np.full(bands, np.nan)
    for values, _ in _known_pixels(images, labels, positions):
        square += ((values - mean[:, None]) ** 2).sum(axis=1)
    std = np.sqrt(square / count) if count else np.full(bands, np.nan)
    glacier = ice / count if count else math.nan
    return {"mean": mean.tolist(), "std": std.tolist(), "count": count, "glacier": glacier}


def _known_pixels(images, labels, positions):
    for start in range(0, len(positions), _CHUNK):
        chunk = positions[start : start + _CHUNK]
        label = np.asarray(labels[chunk])
        known = label != UNKNOWN
        yield np.moveaxis(np.asarray(images[chunk]), 1, 0)[:, known], label[known]


def check_known(what: str, value: str, have: Collection[str]) -> None:
    """Raise GlacierError with the nearest known value if ``value`` is not there."""
    if value not in have:
        near = difflib.get_close_matches(str(value), list(have), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(have)}"
        raise GlacierError(f"{what} '{value}' is not there; {hint}")
