"""Patches ready for training: tiled, labelled, split, described, and kept under a hash."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from tqdm import tqdm

from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path, fingerprint, write_json
from glacier_utils.grids import Grid
from glacier_utils.quality import UNKNOWN, keep_or_drop, patch_facts
from glacier_utils.splits import SPLITS, Split, check_fraction, split_patches
from glacier_utils.store import PatchStore, check_known, masked_statistics, open_store
from glacier_utils.tiling import check_sizes, chunks, plan

if TYPE_CHECKING:
    from glacier_utils.datasets import Dataset

__all__ = ["PatchStore", "build_patches", "masked_statistics", "open_store"]

FORMAT = 1  # goes up when the same parameters would give another store
_FACTS = ["glacier", "unknown", "nodata", "cloud", "saturated"]
_COLUMNS = ["area", "date", "row", "col", "split", "block", *_FACTS, "reason"]
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
    band_m: float = 0.0,
    max_unknown: float = 0.5,
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
        seed: decides between validation groups that are nearly equal.
        folder: where stores are kept, each in a subfolder named by its key; by default
            ``patches`` in the dataset's folder.
        progress: show a progress bar.

    Raises:
        GlacierError: unknown areas or dates, a size or fraction out of range, or an area in which
            no patch is left for training or for validation.
    """
    check_sizes(size, stride)
    check_fraction(validation_fraction)
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
        "band_m": float(band_m),
        "max_unknown": float(max_unknown),
        "seed": int(seed),
    }
    key = fingerprint({"format": FORMAT, "content": dataset.fingerprint, **parameters})
    target = Path(folder or Path(dataset.folder) / "patches") / key
    if not (target / "statistics.json").is_file():
        with atomic_path(target) as temporary:
            temporary.mkdir()
            _build(dataset, parameters, key, temporary, progress)
    return open_store(target)


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


def _build(dataset: Dataset, parameters: dict, key: str, folder: Path, progress: bool) -> None:
    """Write a whole store into an empty folder."""
    size, train = parameters["size"], parameters["train_areas"]
    sources = {pair: dataset.source(*pair) for pair in parameters["pairs"]}
    areas = dict.fromkeys(area for area, _ in sources)
    strides = {area: parameters["stride"] if area in train else None for area in areas}
    patches = plan(sources, size=size, strides=strides)
    if not len(patches):
        raise GlacierError(f"{dataset.name}: no patches, since no area and date is chosen")
    arrays, facts = _fill(dataset, sources, patches, parameters, folder, progress)
    patches = pd.concat([patches, facts], axis=1)
    block_patches = {
        area: _block_patches(sources, area, parameters["block_m"], size) for area in areas
    }
    split = split_patches(
        patches,
        size=size,
        train_areas=train,
        block_patches=block_patches,
        validation_fraction=parameters["validation_fraction"],
        seed=parameters["seed"],
    )
    patches = patches.assign(split=split.part, block=split.block, reason=split.reason)
    training = np.flatnonzero(split.part == "train")
    statistics = masked_statistics(arrays["images"], arrays["labels"], training)
    _write_index(patches, folder / "index.gpkg")
    for array in arrays.values():
        array.flush()
    write_json(
        folder / "statistics.json",
        {
            "key": key,
            "format": FORMAT,
            "arrays": sorted(arrays),
            "statistics": {"bands": list(dataset.bands), **statistics},
            "parts": _parts(patches, sources, size),
            "parameters": {
                **parameters,
                "reflectance": dataset.manifest.get("reflectance"),
                "blocks": _describe(split, block_patches, sources, size),
            },
        },
    )


def _fill(dataset, sources, patches, parameters, folder, progress):
    """Read every patch once into the arrays; return them and the facts of each patch."""
    size, n = parameters["size"], len(patches)
    shape = (n, size, size)
    extras = {"truth": dataset.truth, "surface": dataset.surface}
    masks = {name: {pair: get(*pair) for pair in sources} for name, get in extras.items()}
    arrays = {
        "images": _empty(folder / "images.npy", np.float32, (n, len(dataset.bands), size, size)),
        "labels": _empty(folder / "labels.npy", np.uint8, shape),
    }
    for name, found in masks.items():
        if any(mask is not None for mask in found.values()):
            arrays[name] = _empty(folder / f"{name}.npy", np.uint8, shape)
    facts = [{}] * n
    with tqdm(total=n, desc="patches", unit="patch", disable=not progress) as bar:
        for pair, group in patches.groupby(["area", "date"], sort=False):
            layers = {
                "labels": dataset.labels(
                    *pair, rule=parameters["rule"], band_m=parameters["band_m"]
                )
            }
            layers |= {name: masks[name][pair] for name in masks if name in arrays}
            for chunk in chunks(group["row"], group["col"], size):
                places = group.iloc[chunk]
                _read_chunk(sources[pair], layers, places, size, arrays)
                for position in places.index:
                    facts[position] = _facts(arrays, position, parameters["max_unknown"])
                bar.update(len(chunk))
    return arrays, pd.DataFrame(facts)


def _read_chunk(source, layers, places, size, arrays) -> None:
    """Read the box around some windows once and share it out."""
    rows, cols = places["row"].to_numpy(), places["col"].to_numpy()
    top, left = int(rows.min()), int(cols.min())
    shape = int(rows.max()) + size - top, int(cols.max()) + size - left
    image = source.read(top, left, *shape)
    read = {
        name: np.full(shape, UNKNOWN, np.uint8) if mask is None else mask.read(top, left, *shape)
        for name, mask in layers.items()
    }
    for position, row, col in zip(places.index, rows - top, cols - left, strict=True):
        part = slice(row, row + size), slice(col, col + size)
        arrays["images"][position] = image.reflectance[:, *part]
        for name, values in read.items():
            # What lies under a surface is known without an image; a score is not.
            seen = np.True_ if name == "surface" else image.valid[part]
            arrays[name][position] = np.where(seen, values[part], UNKNOWN)


def _facts(arrays, position: int, max_unknown: float) -> dict[str, Any]:
    image, label = arrays["images"][position], arrays["labels"][position]
    facts = patch_facts(image, (image != 0).any(axis=0), label)
    return {
        **facts,
        "reason": keep_or_drop(facts, max_unknown=max_unknown),
        "known": int((label != UNKNOWN).sum()),
        "ice": int((label == 1).sum()),
    }


def _empty(path: Path, dtype, shape) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _block_patches(sources, area: str, block_m: float, size: int) -> int:
    return max(1, round(block_m / (size * _resolution(sources, area))))


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
