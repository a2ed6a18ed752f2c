"""How often to draw each patch, so that training sees empty ground and ice equally often.

What a patch is worth: fractions that describe it, and the reason to drop it.

Every patch is read once: its pixels go to the store's arrays, its facts into a table.

Patches ready for training: tiled, labelled, split, described, and kept under a hash.
"""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from tqdm import tqdm

from glacier_utils.conventions import BANDS, UNKNOWN
from glacier_utils.datasets.splitting import (
    SPLITS,
    Overrides,
    Split,
    apply_overrides,
    check_fraction,
    check_sizes,
    chunks,
    plan,
    read_overrides,
    split_patches,
)
from glacier_utils.datasets.store import (
    ArrayFile,
    PatchStore,
    check_known,
    masked_statistics,
    moments,
    open_store,
    pooled_statistics,
)
from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path, fingerprint, write_json
from glacier_utils.imagery.clouds import CLOUD, METHODS, SHADOW, cloud_fractions, cloud_mask
from glacier_utils.outlines.rasterization import LabelAge
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.indices import disagreement

if TYPE_CHECKING:
    from glacier_utils.datasets.dataset import Dataset
    from glacier_utils.imagery.source import Source
    from glacier_utils.raster.mask import Mask


BINS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def sampling_weights(glacier: np.ndarray, bins: int | Sequence[float] = BINS) -> np.ndarray:
    """Return a probability a patch that gives each class of glacier fraction the same total.

    Args:
        glacier: glacier fraction of each patch, 0..1; nan, which means no known pixel, is never
            drawn.
        bins: rising edges of the classes, or a number of equally wide ones. The last class holds
            its upper edge. Classes without a patch get nothing; the others share it.

    Returns:
        float64 [n] that sums to 1 (all 0 where no patch has a fraction). A class with few patches
        repeats them often: with ``k`` classes in use, one patch alone in its class is 1/k of all.

    Raises:
        ValueError: the edges do not rise, or do not cover the fractions.
    """
    glacier = np.asarray(glacier, float)
    edges = np.linspace(0, 1, bins + 1) if isinstance(bins, int) else np.asarray(bins, float)
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"bins: {bins} must be rising edges of at least one class")
    known = np.isfinite(glacier)
    if ((glacier[known] < edges[0]) | (glacier[known] > edges[-1])).any():
        raise ValueError(f"bins: {bins} do not cover all glacier fractions")
    weights = np.zeros(len(glacier))
    if known.any():
        found = np.clip(np.searchsorted(edges, glacier[known], "right") - 1, 0, len(edges) - 2)
        number = np.bincount(found, minlength=len(edges) - 1)
        weights[known] = 1 / (number[found] * np.count_nonzero(number))
    return weights


def patch_facts(
    reflectance: np.ndarray,
    valid: np.ndarray,
    label: np.ndarray,
    *,
    bands: Sequence[str] = BANDS,
    clouds: np.ndarray | None = None,
    age: np.ndarray | None = None,
    saturation: float = 1.0,
) -> dict[str, float]:
    """Describe one patch; fractions lie between 0 and 1.

    reflectance ``[band, row, col]``, valid and label ``[row, col]``, clouds ``[row, col]`` with the
    codes of ``clouds`` (None: not assessed), age ``[row, col]`` in years from outline to image
    (nan: unknown; None: of no pixel). Returns

    - nodata: pixels without image;
    - unknown: pixels without a label (255), those without image included;
    - glacier: glacier among the pixels with a label; nan if there are none;
    - cloud, shadow: cloud and cloud shadow among the valid pixels that were assessed; nan if none
      was;
    - saturated: valid pixels with any band at or above ``saturation`` (a white surface that faces
      the sun, or a detector at its limit); nan if no pixel is valid;
    - label_age: mean age in years of the outlines over the glacier pixels, so that each outline
      counts by its area in the patch; nan without dated glacier;
    - disagreement: pixels with a label that differ from ``ice_index``, among those with a label;
      nan if there are none, or no green and nir.
    """
    known = (label != UNKNOWN) & valid
    ice = known & (label == 1)
    bright = valid & (reflectance.max(axis=0) >= saturation)
    total, number = label.size, np.count_nonzero(known)
    seen = np.count_nonzero(valid)
    differ = math.nan
    if {"green", "nir"} <= set(bands):
        differ = _part(disagreement(reflectance, label, bands) & valid, number)
    assessed = np.uint8(UNKNOWN) if clouds is None else np.where(valid, clouds, np.uint8(UNKNOWN))
    return {
        "nodata": 1 - seen / total,
        "unknown": 1 - number / total,
        "glacier": _part(ice, number),
        **cloud_fractions(assessed),
        "saturated": _part(bright, seen),
        "label_age": math.nan if age is None else _mean(age[ice]),
        "disagreement": differ,
    }


def keep_or_drop(
    facts: Mapping[str, float], *, max_unknown: float = 0.5, max_cloud: float | None = None
) -> str:
    """Return why a patch is dropped, in words, or an empty string if it is kept.

    The first reason that applies is given: image missing, label unknown, cloud (nan, which means
    that cloud was not assessed, drops nothing). Where cloud has a part in what is unknown, it is
    named. Neither saturation, nor the age of the label, nor its disagreement with the ice index
    drops a patch: they are for a user to look at.
    """
    if facts["nodata"] > max_unknown:
        return _reason("no data", facts["nodata"], max_unknown)
    if facts["unknown"] > max_unknown:
        under = facts["cloud"] + facts.get("shadow", 0.0)
        why = f" (cloud and its shadow {100 * under:.0f} %)" if under >= 0.005 else ""
        return _reason("unknown", facts["unknown"], max_unknown) + why
    if max_cloud is not None and facts["cloud"] > max_cloud:
        return _reason("cloud", facts["cloud"], max_cloud)
    return ""


def _reason(what: str, value: float, limit: float) -> str:
    # One decimal where whole per cents would read "50 % > 50 %".
    digits = 0 if round(100 * value) > round(100 * limit) else 2
    return f"{what} {100 * value:.{digits}f} % > {100 * limit:.{digits}f} %"


def _part(hits: np.ndarray, total: int) -> float:
    return np.count_nonzero(hits) / total if total else math.nan


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean(dtype=np.float64)) if values.size else math.nan


Pair = tuple[str, str]


@dataclass(frozen=True)
class Filled:
    """What was written: names of the arrays, facts and moments in order, clouds' method by pair."""

    arrays: list[str]
    facts: pd.DataFrame
    moments: np.ndarray
    clouds: dict[Pair, str]


def fill(
    dataset: Dataset,
    sources: Mapping[Pair, Source],
    patches: gpd.GeoDataFrame,
    parameters: Mapping[str, Any],
    folder: Path,
    *,
    progress: bool = False,
) -> Filled:
    """Read the patches chunk by chunk and write ``images.npy``, ``labels.npy`` and the like.

    One chunk is read ahead while the one before it is described and written, so that two chunks are
    in memory whatever the number of patches.
    """
    size, bands = parameters["size"], dataset.bands
    layers = {pair: _layers(dataset, pair, sources[pair], parameters) for pair in sources}
    names = ["labels", *(name for name in ("truth", "surface") if _any(layers, name))]
    shape = (len(patches), size, size)
    files = {name: ArrayFile(folder / f"{name}.npy", np.uint8, shape) for name in names}
    files["images"] = ArrayFile(
        folder / "images.npy", np.float32, (len(patches), len(bands), size, size)
    )
    facts: list[dict[str, Any]] = [{}] * len(patches)
    sums = np.zeros((len(patches), 3, len(bands)))
    try:
        with tqdm(total=len(patches), desc="patches", unit="patch", disable=not progress) as bar:
            for places, read in _ahead(_jobs(sources, layers, patches, size)):
                for position, patch in _cut(places, read, size, names):
                    facts[position] = _facts(patch, bands, parameters)
                    sums[position] = moments(patch["images"], patch["labels"] != UNKNOWN)
                    for name, file in files.items():
                        file.write(position, patch[name])
                bar.update(len(places))
    finally:
        for file in files.values():
            file.close()
    used = {pair: found["method"] for pair, found in layers.items()}
    return Filled(sorted(files), pd.DataFrame(facts), sums, used)


def _any(layers: Mapping[Pair, Mapping], name: str) -> bool:
    return any(found[name] is not None for found in layers.values())


def _layers(dataset: Dataset, pair: Pair, source: Source, parameters: Mapping) -> dict[str, Any]:
    """Return the masks that lie on an image, None where there is none."""
    method, clouds = _clouds(dataset, pair, source, parameters["clouds"])
    return {
        "labels": dataset.labels(*pair, rule=parameters["rule"], band_m=parameters["band_m"]),
        "truth": dataset.truth(*pair),
        "surface": dataset.surface(*pair),
        "clouds": clouds,
        "method": method,
        "age": _age(dataset, pair, source, parameters["rule"]),
    }


def _clouds(dataset: Dataset, pair: Pair, source: Source, method: str) -> tuple[str, Mask | None]:
    """Return which cloud mask is used, and the mask.

    "auto" takes a mask of the user's, else the scene classification, else none: a mask made from
    four bands may call bright snow cloud, and so take ice from the labels, only when asked to.
    """
    if method == "none":
        return "none", None
    ready, scl = dataset.clouds(*pair), dataset.scene_classification(*pair)
    if method == "auto":
        method = "ready" if ready is not None else "scl" if scl is not None else "none"
        if method == "none":
            return "none", None
    if {"ready": ready, "scl": scl, "csmask": source}[method] is None:
        what = {"ready": "mask of clouds", "scl": "scene classification"}[method]
        raise GlacierError(
            f"{dataset.name}, {', '.join(pair)}: has no {what}, which clouds: {method} asks for; "
            "name one in dataset.yaml, or set clouds to auto, csmask or none"
        )
    return method, cloud_mask(source, scl=scl, ready=ready, method=method)


def _age(dataset: Dataset, pair: Pair, source: Source, rule: str) -> LabelAge | None:
    """Return the age of labels that come from outlines; that of ready ones nobody tells."""
    area, date = pair
    entries = dataset.manifest.get("areas", {}).get(area, {})
    entry = next((value for key, value in entries.items() if str(key) == date), None)
    if isinstance(entry, dict) and entry.get("labels"):
        return None
    outlines = dataset.outlines(area, date, rule=rule)
    return None if outlines is None else LabelAge(outlines, source.grid, date)


def _jobs(sources, layers, patches, size) -> Iterator[Callable[[], tuple[pd.DataFrame, dict]]]:
    for pair, group in patches.groupby(["area", "date"], sort=False):
        for chunk in chunks(group["row"], group["col"], size):
            yield partial(_read, sources[pair], layers[pair], group.iloc[chunk], size)


def _read(source, layers, places, size) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the box around some windows once."""
    rows, cols = places["row"].to_numpy(), places["col"].to_numpy()
    top, left = int(rows.min()), int(cols.min())
    shape = int(rows.max()) + size - top, int(cols.max()) + size - left
    image = source.read(top, left, *shape)
    read = {"images": image.reflectance, "valid": image.valid}
    for name in ("labels", "truth", "surface", "clouds", "age"):
        read[name] = None if layers[name] is None else layers[name].read(top, left, *shape)
    return places, read


def _ahead(jobs: Iterable[Callable]) -> Iterator[Any]:
    """Give the results of jobs in order, one being worked on in the background."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for job in jobs:
            following = pool.submit(job)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _cut(places, read, size, names) -> Iterator[tuple[int, dict[str, Any]]]:
    """Share out a chunk: the position of each patch, and its arrays."""
    rows, cols = places["row"].to_numpy(), places["col"].to_numpy()
    for position, row, col in zip(places.index, rows - rows.min(), cols - cols.min(), strict=True):
        part = slice(row, row + size), slice(col, col + size)
        patch = {name: None if values is None else values[..., *part]
                 for name, values in read.items()}  # fmt: skip
        patch["images"] = np.ascontiguousarray(patch["images"])
        seen = patch["valid"]
        if patch["clouds"] is not None:
            seen = seen & (patch["clouds"] != CLOUD) & (patch["clouds"] != SHADOW)
        for name in names:
            if patch[name] is None:
                patch[name] = np.full((size, size), UNKNOWN, np.uint8)
            elif name == "surface":
                # What lies under a surface is known without an image; a score is not.
                patch[name] = np.ascontiguousarray(patch[name])
            else:
                patch[name] = np.where(seen, patch[name], np.uint8(UNKNOWN))
        yield position, patch


def _facts(patch: Mapping[str, Any], bands, parameters: Mapping[str, Any]) -> dict[str, Any]:
    label = patch["labels"]
    facts = patch_facts(
        patch["images"], patch["valid"], label, bands=bands, clouds=patch["clouds"],
        age=patch["age"],
    )  # fmt: skip
    limits = {name: parameters[name] for name in ("max_unknown", "max_cloud")}
    return {
        **facts,
        "reason": keep_or_drop(facts, **limits),
        "known": int(np.count_nonzero(label != UNKNOWN)),
        "ice": int(np.count_nonzero(label == 1)),
    }


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
        overrides: CSV of a user's decisions on single patches (``splitting.read_overrides``).
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
