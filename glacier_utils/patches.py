"""Patches ready for training: tiled, labelled, split, described, and kept under a hash."""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from glacier_utils.clouds import METHODS
from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path, fingerprint, write_json
from glacier_utils.filling import fill
from glacier_utils.grids import Grid
from glacier_utils.overrides import Overrides, apply_overrides, read_overrides
from glacier_utils.sampling import sampling_weights
from glacier_utils.splits import SPLITS, Split, check_fraction, split_patches
from glacier_utils.store import (
    PatchStore,
    check_known,
    masked_statistics,
    open_store,
    pooled_statistics,
)
from glacier_utils.tiling import check_sizes, plan

if TYPE_CHECKING:
    from glacier_utils.datasets import Dataset

__all__ = ["PatchStore", "build_patches", "masked_statistics", "open_store"]

FORMAT = 2  # goes up when the same parameters would give another store
_FACTS = [
    "glacier", "unknown", "nodata", "cloud", "shadow", "saturated", "label_age", "disagreement",
]  # fmt: skip
_COLUMNS = ["area", "date", "row", "col", "split", "block", *_FACTS, "weight", "reason"]
_LEFT_S = 86_400
_ASSUMED_RESOLUTION_M = 10.0  # for the blocks of images that do not tell the size of a pixel


def build_patches(
    dataset: Dataset,
    *,
    areas: Sequence[str] | None = None,
    dates: Sequence[str] | None = None,
    train_areas: Sequence[str] = ("train",),
    size: int = 128,
    stride: int | None = None,
    validation_fraction: float = 0.25,
    block_m: float = 3840.0,
    rule: str = "nearest",
    band_m: float | str = 0.0,
    max_unknown: float = 0.5,
    clouds: str = "auto",
    max_cloud: float | None = None,
    buffer_m: float | None = None,
    overrides: str | Path | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
) -> PatchStore:
    """Cut a dataset into patches, or open the store if one with these parameters is there.

    Args:
        dataset: an opened dataset.
        areas: which of its areas; all if None. dates: likewise; an area without any of them is
            left out.
        train_areas: split into train, validation and buffer; all other areas are for testing.
        size: side of a patch in pixels.
        stride: step between training patches in pixels; None: the files' own windows if they have
            that size, else ``size``. Test areas are never tiled with an overlap.
        validation_fraction: part of each training area's usable patches that validates.
        block_m: side of the blocks in m, rounded to whole patches; less where an area is too small
            (``parameters["blocks"]`` has what was used).
        rule, band_m: choice of outlines and width of the unknown band, as in ``Dataset.labels``.
        max_unknown: patches with a larger fraction without image or label are dropped. They stay
            in the store with split "dropped" and their reason.
        clouds: which mask makes pixels under cloud and cloud shadow unknown: "ready" (the user's
            own), "scl" (the scene classification), "csmask" (a network; it misses cloud, and on
            blurred images calls ice cloud), "none", or "auto": ready, else scl, else none. What a
            mask does not assess stays as it is. ``parameters["clouds_used"]`` says which was used
            where.
        max_cloud: patches with a larger fraction of cloud are dropped; None: cloud is only counted
            as unknown.
        buffer_m: width of the strip between validation and training: no training patch comes nearer
            than this to validation, nor touches it. None: half a patch.
        overrides: CSV of a user's decisions on single patches (``overrides.read_overrides``).
        seed: decides between validation groups that are nearly equal.
        folder: where stores are kept, each in a subfolder named by its key; by default
            ``patches`` in the dataset's folder.
        progress: show a progress bar.

    Raises:
        GlacierError: unknown areas or dates, a size or fraction out of range, an area in which no
            patch is left for training or for validation, a cloud mask that is not there, or an
            override that means no patch.
    """
    check_sizes(size, stride)
    check_fraction(validation_fraction)
    check_known("clouds", clouds, METHODS)
    if buffer_m is not None and not (math.isfinite(buffer_m) and buffer_m >= 0):
        raise GlacierError(f"buffer_m: {buffer_m} must be a width of 0 m or more")
    decided = None if overrides is None else read_overrides(overrides)
    pairs = _pairs(dataset, areas, dates)
    train = _train_areas(dataset, train_areas, pairs)
    parameters = {
        "dataset": dataset.name,
        "pairs": pairs,
        "train_areas": train,
        "size": int(size),
        "stride": None if stride is None else int(stride),
        "validation_fraction": float(validation_fraction),
        "block_m": float(block_m),
        "rule": rule,
        "band_m": band_m if isinstance(band_m, str) else float(band_m),
        "max_unknown": float(max_unknown),
        "clouds": clouds,
        "max_cloud": None if max_cloud is None else float(max_cloud),
        "buffer_m": None if buffer_m is None else float(buffer_m),
        "overrides": None if decided is None else decided.fingerprint,
        "seed": int(seed),
    }
    key = fingerprint({"format": FORMAT, "content": dataset.fingerprint, **parameters})
    target = Path(folder or Path(dataset.folder) / "patches") / key
    if not (target / "statistics.json").is_file():
        _sweep(target)
        with atomic_path(target) as temporary:
            temporary.mkdir()
            _build(dataset, parameters, decided, key, temporary, progress)
    return open_store(target)


def _sweep(target: Path) -> None:
    """Remove what processes left that were killed while they built this store, a day ago or more.

    Younger ones may still be at work.
    """
    for left in target.parent.glob(f".{target.name}.*"):
        if time.time() - left.stat().st_mtime > _LEFT_S:
            shutil.rmtree(left, ignore_errors=True)


def _pairs(dataset: Dataset, areas, dates) -> list[tuple[str, str]]:
    """Return (area, date) in order, checked against the dataset."""
    areas = [areas] if isinstance(areas, str) else areas
    dates = [dates] if isinstance(dates, str) else dates
    for area in areas or ():
        check_known("area", area, dataset.areas)
    chosen = [area for area in dataset.areas if areas is None or area in areas]
    for date in dates or ():
        check_known("date", date, sorted({d for area in chosen for d in dataset.dates(area)}))
    return [
        (area, date)
        for area in chosen
        for date in dataset.dates(area)
        if dates is None or date in dates
    ]


def _train_areas(dataset: Dataset, train_areas, pairs) -> list[str]:
    wanted = [train_areas] if isinstance(train_areas, str) else list(train_areas)
    for area in wanted:
        check_known("train_areas: area", area, dataset.areas)
    here = {area for area, _ in pairs}
    return [area for area in dataset.areas if area in wanted and area in here]


def _build(
    dataset: Dataset,
    parameters: dict,
    overrides: Overrides | None,
    key: str,
    folder: Path,
    progress: bool,
) -> None:
    """Write a whole store into an empty folder."""
    size, train = parameters["size"], parameters["train_areas"]
    sources = {pair: dataset.source(*pair) for pair in parameters["pairs"]}
    areas = dict.fromkeys(area for area, _ in sources)
    strides = {area: parameters["stride"] if area in train else None for area in areas}
    patches = plan(sources, size=size, strides=strides)
    if not len(patches):
        raise GlacierError(f"{dataset.name}: no patches, since no area and date is chosen")
    known = [(area, date) for area in dataset.areas for date in dataset.dates(area)]
    decided = overrides.positions(patches, known) if overrides else {}
    filled = fill(dataset, sources, patches, parameters, folder, progress=progress)
    patches = pd.concat([patches, filled.facts], axis=1)
    reasons, notes = apply_overrides(patches["reason"].to_numpy(object), decided)
    patches["reason"] = reasons
    block_patches = {
        area: _block_patches(sources, area, parameters["block_m"], size) for area in areas
    }
    split = split_patches(
        patches,
        size=size,
        train_areas=train,
        block_patches=block_patches,
        validation_fraction=parameters["validation_fraction"],
        buffer_px=_buffer_px(sources, parameters["buffer_m"], size),
        seed=parameters["seed"],
    )
    reasons = np.where(split.reason == "", notes, split.reason)
    training = split.part == "train"
    weight = np.zeros(len(patches))
    weight[training] = sampling_weights(patches["glacier"][training])
    patches = patches.assign(split=split.part, block=split.block, reason=reasons, weight=weight)
    statistics = pooled_statistics(filled.moments[training], int(patches["ice"][training].sum()))
    _write_index(patches, folder / "index.gpkg")
    write_json(
        folder / "statistics.json",
        {
            "key": key,
            "format": FORMAT,
            "arrays": filled.arrays,
            "statistics": {"bands": list(dataset.bands), **statistics},
            "parts": _parts(patches, sources, size),
            "parameters": {
                **parameters,
                "reflectance": dataset.manifest.get("reflectance"),
                "clouds_used": _by_area(filled.clouds),
                "blocks": _describe(split, block_patches, sources, size),
            },
        },
    )


def _block_patches(sources, area: str, block_m: float, size: int) -> int:
    return max(1, round(block_m / (size * _resolution(sources, area))))


def _buffer_px(sources, buffer_m: float | None, size: int) -> float:
    """Return the strip's width in pixels of the finest area, which is what the split counts in."""
    if buffer_m is None:
        return size / 2
    return buffer_m / min(_resolution(sources, area) for area, _ in sources)


def _by_area(clouds: dict[tuple[str, str], str]) -> dict[str, dict[str, str]]:
    areas = dict.fromkeys(area for area, _ in clouds)
    return {
        area: {date: method for (name, date), method in clouds.items() if name == area}
        for area in areas
    }


def _first_grid(sources, area: str) -> Grid:
    return next(source.grid for (name, _), source in sources.items() if name == area)


def _resolution(sources, area: str) -> float:
    grid = _first_grid(sources, area)
    return grid.resolution if math.isfinite(grid.resolution) else _ASSUMED_RESOLUTION_M


def _describe(split: Split, wanted: dict[str, int], sources, size: int) -> dict[str, Any]:
    """Say for each area which blocks were used."""
    return {
        area: {
            "block_m": side * size * _resolution(sources, area),
            "block_patches": side,
            "smaller_than_asked": side < wanted[area],
        }
        for area, side in split.block_patches.items()
    }


def _parts(patches: gpd.GeoDataFrame, sources, size: int) -> list[dict[str, Any]]:
    """Describe each part of each area: patches of all dates, ground covered, glacier fraction."""
    rows = []
    for (area, part), group in patches.groupby(["area", "split"], sort=False):
        grid = _first_grid(sources, area)
        # Ground as a number of pixels, since the CRS may count in degrees or feet.
        pixel = group.geometry.iloc[0].area / size**2
        pixels = shapely.union_all(group["ground"].to_numpy()).area / pixel
        known = int(group["known"].sum())
        rows.append(
            {
                "area": area,
                "split": part,
                "patches": len(group),
                "km2": pixels * grid.pixel_area_km2,
                "glacier": group["ice"].sum() / known if known else math.nan,
            }
        )
    return sorted(rows, key=lambda row: (row["area"], SPLITS.index(row["split"])))


def _write_index(patches: gpd.GeoDataFrame, path: Path) -> None:
    index = patches[[*_COLUMNS, "geometry"]]
    index.insert(0, "patch", np.arange(len(index)))
    with warnings.catch_warnings():
        # Images without georeference have none to write.
        warnings.filterwarnings("ignore", "'crs' was not provided")
        index.to_file(path, layer="patches", driver="GPKG", engine="pyogrio")
