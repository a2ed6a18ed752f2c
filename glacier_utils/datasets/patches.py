"""From a dataset to its patch store: opened, cut into patches, read once, described, split, kept.

``build_patches`` asks the dataset for the layers of every area and date, lays the patches out
(``layout.plan``), reads each patch once and describes it, gives it its part
(``splitting.split_patches``), and hands all of it to the store. The store's folder is named by a
hash of everything that went in, so that a store with the same parameters is opened and not built.
"""

from __future__ import annotations

import math
import tempfile
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
from glacier_utils.datasets.layout import EDGES, chunks, clip_patches, plan
from glacier_utils.datasets.splitting import (
    SPLITS,
    Split,
    cut_by_lines,
    locate_overrides,
    read_overrides,
    split_patches,
)
from glacier_utils.datasets.store import (
    FORMAT,
    ArrayFile,
    PatchStore,
    check_known,
    moments,
    open_store,
    pooled_statistics,
    write_store,
)
from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path, fingerprint, locked, remove_unfinished
from glacier_utils.imagery.clouds import CLOUD, METHODS, SHADOW, cloud_fractions, cloud_mask
from glacier_utils.imagery.examination import heed
from glacier_utils.raster.indices import disagreement

if TYPE_CHECKING:
    from glacier_utils.datasets.dataset import Dataset
    from glacier_utils.imagery.clouds import CloudMask
    from glacier_utils.imagery.source import Source
    from glacier_utils.outlines.rasterization import LabelAge
    from glacier_utils.raster.grid import Grid
    from glacier_utils.raster.mask import Mask

Pair = tuple[str, str]  # area and date

_ASSUMED_RESOLUTION_M = 10.0  # for the blocks of images that do not tell the size of a pixel
_SATURATED = 1.0  # reflectance


def build_patches(
    dataset: Dataset,
    *,
    areas: Sequence[str] | None = None,
    dates: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    train_areas: Sequence[str] = ("train",),
    size: int = 128,
    stride: int | None = None,
    validation_fraction: float = 0.25,
    block_m: float = 3840.0,
    rule: str = "nearest",
    band_m: float = 0.0,
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
        areas: which of its areas; all if None.
        dates: which of its dates, likewise, or for each area its own (``area_dates``); an area
            without any of them is left out.
        train_areas: split into train, validation and buffer; all other areas are for testing.
        size: side of a patch in pixels.
        stride: step between training patches in pixels; None: the files' own windows if they have
            that size, else ``size``. Test areas are never tiled with an overlap.
        validation_fraction: part of each training area's usable patches that validates.
        block_m: side of the blocks in m, rounded to whole patches; less where an area is too small.
        rule: choice of outlines, as in ``Dataset.labels``.
        band_m: width in m of the unknown band along outlines, as in ``Dataset.labels``.
        max_unknown: patches with a larger fraction without image or label are dropped. They stay
            in the store with split "dropped" and their reason.
        clouds: which mask makes pixels under cloud and cloud shadow unknown: "ready" (the user's
            own), "scl" (the scene classification), "none", or "auto": ready, else scl, else none.
            What a mask does not assess stays as it is; ``parameters["clouds_used"]`` says which was
            used where.
        max_cloud: patches with a larger fraction of cloud are dropped; None: cloud is only counted
            as unknown.
        buffer_m: width of the strip between validation and training in m: no training patch comes
            nearer than this to validation, nor touches it. None: half a patch.
        overrides: CSV of a user's decisions on single patches (``splitting.read_overrides``).
        seed: decides between validation groups that are nearly equal.
        folder: where stores are kept, each in a subfolder named by its key; by default
            ``patches`` in the dataset's folder.
        progress: show a progress bar.

    Returns:
        The store, opened.

    Raises:
        GlacierError: unknown areas or dates, a size or fraction out of range, an area in which no
            patch is left for training, a cloud mask that is not there, or an
            override that means no patch; a folder that cannot be written.
    """
    check_ranges(size, stride, validation_fraction, buffer_m)
    check_known("clouds", [clouds], METHODS)
    decided = None if overrides is None else read_overrides(overrides)
    pairs = _pairs(dataset, _names(areas), dates if isinstance(dates, Mapping) else _names(dates))
    train = _names(train_areas) or []
    check_known("train_areas (--patch train_areas=NAME): area", train, dataset.areas)
    here = {area for area, _ in pairs}
    parameters = {
        "dataset": dataset.name,
        "pairs": pairs,
        "train_areas": [area for area in dataset.areas if area in train and area in here],
        "size": int(size),
        "stride": None if stride is None else int(stride),
        "validation_fraction": float(validation_fraction),
        "block_m": float(block_m),
        "rule": rule,
        "band_m": float(band_m),
        "max_unknown": float(max_unknown),
        "clouds": clouds,
        "max_cloud": None if max_cloud is None else float(max_cloud),
        "buffer_m": None if buffer_m is None else float(buffer_m),
        "overrides": None if decided is None else fingerprint(decided.to_numpy().tolist()),
        "seed": int(seed),
    }
    key = fingerprint({"format": FORMAT, "content": dataset.fingerprint, **parameters})
    target = Path(folder or Path(dataset.folder) / "patches") / key
    if not (target / "statistics.json").is_file():
        _check_writable(target.parent)
        # Of runs side by side one cuts the patches that all of them use.
        with locked(target.with_name(f".{key}.lock")):
            if not (target / "statistics.json").is_file():
                remove_unfinished(target.parent, f".{key}.*")
                with atomic_path(target) as temporary:
                    temporary.mkdir()
                    _build(dataset, parameters, decided, key, temporary, progress)
    return open_store(target)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise GlacierError(
            f"{folder}: patches cannot be written there ({error.strerror}); name another folder: "
            "`glacier train --patches FOLDER`, or `patches` in the parameters of notebook 02"
        ) from error


def check_ranges(
    size: int, stride: int | None, validation_fraction: float, buffer_m: float | None
) -> None:
    """Check numbers of `build_patches`. Raises GlacierError where one is out of range."""
    if size < 16:
        raise GlacierError(f"size: {size} px is too small for a patch; use 64, 128 or 256")
    if stride is not None and not 1 <= stride <= size:
        raise GlacierError(f"stride: {stride} px must lie between 1 and the patch size ({size})")
    if not 0 < validation_fraction < 1:
        raise GlacierError(
            f"validation_fraction: {validation_fraction} must lie between 0 and 1, for example 0.25"
        )
    if buffer_m is not None and not (math.isfinite(buffer_m) and buffer_m >= 0):
        raise GlacierError(f"buffer_m: {buffer_m} must be a width of 0 m or more")


def _names(names: str | Sequence[str] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else None if names is None else list(names)


def _pairs(
    dataset: Dataset, areas: list[str] | None, dates: Mapping[str, Any] | list[str] | None
) -> list[Pair]:
    """Return (area, date) in order, checked against the dataset."""
    check_known("area", areas or (), dataset.areas)
    chosen = [area for area in dataset.areas if areas is None or area in areas]
    there = sorted({date for area in chosen for date in dataset.dates(area)})
    own: Mapping[str, Any] = dates if isinstance(dates, Mapping) else dict.fromkeys(chosen, dates)
    for wanted in own.values():
        check_known("date", wanted or (), there)
    return [
        (area, date)
        for area in chosen
        for date in dataset.dates(area)
        if (wanted := own.get(area, ())) is None or date in wanted
    ]


def _build(
    dataset: Dataset,
    parameters: dict[str, Any],
    overrides: pd.DataFrame | None,
    key: str,
    folder: Path,
    progress: bool,
) -> None:
    """Write a whole store into an empty folder."""
    size, train = parameters["size"], parameters["train_areas"]
    if not parameters["pairs"]:
        raise GlacierError(f"{dataset.name}: no patches, since no area and date is chosen")
    layers = {pair: _open_layers(dataset, pair, parameters) for pair in parameters["pairs"]}
    # Now images know what is to be said of their masks too.
    for pair in parameters["pairs"]:
        heed(dataset.examine(*pair))
    sources = {pair: found.source for pair, found in layers.items()}
    grids: dict[str, Grid] = {}
    for (area, _), source in sources.items():
        grids.setdefault(area, source.grid)

    strides = {area: parameters["stride"] if area in train else None for area in grids}
    patches = plan(sources, size=size, strides=strides)
    if overrides is not None:
        known = [(area, date) for area in dataset.areas for date in dataset.dates(area)]
        overrides = locate_overrides(overrides, patches, known)

    fill = partial(_fill, layers, parameters, dataset.bands, folder, progress)
    arrays, facts, sums = fill(patches)
    patches = patches.assign(pixel=patches.geometry.area / size**2)
    patches = pd.concat([patches, facts], axis=1)

    metres = {
        area: grid.resolution if math.isfinite(grid.resolution) else _ASSUMED_RESOLUTION_M
        for area, grid in grids.items()
    }
    wanted = {area: max(1, round(parameters["block_m"] / (size * metres[area]))) for area in grids}
    strip = parameters["buffer_m"]
    split = split_patches(
        patches,
        size=size,
        train_areas=train,
        block_patches=wanted,
        validation_fraction=parameters["validation_fraction"],
        # In pixels of the finest area, which is what the split counts in.
        buffer_px=size / 2 if strip is None else strip / min(metres.values()),
        overrides=overrides,
        seed=parameters["seed"],
    )
    cut_by_line = not split.enough
    if cut_by_line:
        # Half a patch would be most of the ground.
        strip_px = size / 8 if strip is None else strip / min(metres.values())
        cut = cut_by_lines(
            patches, np.load(folder / "labels.npy", mmap_mode="r"), split, size=size,
            train_areas=train, fraction=parameters["validation_fraction"], strip_px=strip_px,
        )  # fmt: skip
        patches = clip_patches(patches, cut, sources)
        split = Split(cut["part"].to_numpy(), split.block[cut["patch"]], cut["reason"].to_numpy())
        arrays, facts, sums = fill(patches, cut[[*EDGES]].to_numpy())
        patches[facts.columns] = facts
    training = split.part == "train"
    _check_classes(dataset, patches[training | (split.part == "validation")])
    patches = patches.assign(split=split.part, block=split.block, reason=split.reason)
    statistics = pooled_statistics(sums[training], int(patches["ice"][training].sum()))
    write_store(
        folder,
        patches,
        key=key,
        arrays=arrays,
        statistics={"bands": list(dataset.bands), **statistics},
        parts=_parts(patches, grids),
        parameters={
            **parameters,
            "synthetic": dataset.synthetic,
            **({"cut_by_line": True} if cut_by_line else {}),
            "reflectance": _trained_rule(dataset, layers, train),
            "resolution_m": next(
                (r for area in train if math.isfinite(r := grids[area].resolution)), None
            ),
            "clouds_used": {
                area: {
                    date: found.clouds.method if found.clouds else "none"
                    for (name, date), found in layers.items()
                    if name == area
                }
                for area in grids
            },
        },
    )


def _check_classes(dataset: Dataset, patches: gpd.GeoDataFrame) -> None:
    """Refuse a training of one class, which would score 0 or 1 whatever it learned."""
    known, ice = int(patches["known"].sum()), int(patches["ice"].sum())
    if known and ice in (0, known):
        pair = patches["area"].iloc[0], patches["date"].iloc[0]
        raise GlacierError(
            f"{dataset.name}, {', '.join(pair)}: nothing can be trained: "
            f"{dataset.one_class(*pair, ice > 0)}"
        )


def _trained_rule(
    dataset: Dataset, layers: Mapping[Pair, _Layers], train: Sequence[str]
) -> dict[str, Any] | None:
    """Return how numbers became reflectance in all training images, else what the manifest says."""
    rules = {found.source.reflectance for (area, _), found in layers.items() if area in train}
    rule = rules.pop() if len(rules) == 1 else None
    if rule is None:
        return dataset.manifest.get("reflectance")
    return {"scale": rule.scale, "offset": rule.offset, "nodata": rule.nodata}


def _parts(patches: gpd.GeoDataFrame, grids: Mapping[str, Grid]) -> list[dict[str, Any]]:
    """Describe each part of each area: patches of all dates, ground covered, glacier fraction."""
    rows = []
    for (area, part), group in patches.groupby(["area", "split"], sort=False):
        # Ground as a number of pixels, since the CRS may count in degrees or feet.
        pixels = shapely.union_all(group["ground"].to_numpy()).area / group["pixel"].iloc[0]
        known = int(group["known"].sum())
        rows.append(
            {
                "area": area,
                "split": part,
                "patches": len(group),
                "km2": pixels * grids[area].pixel_area_km2,
                "glacier": group["ice"].sum() / known if known else math.nan,
            }
        )
    return sorted(rows, key=lambda row: (row["area"], SPLITS.index(row["split"])))


@dataclass(frozen=True)
class _Layers:
    """The image of an area and date, and what lies on it; None where there is none."""

    source: Source
    labels: Mask
    truth: Mask | None
    surface: Mask | None
    clouds: CloudMask | None
    age: LabelAge | None

    def read(
        self, places: pd.DataFrame, size: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray | None]]:
        """Read the box around some patches once; return them with all that lies in it."""
        rows, cols = places["row"], places["col"]
        top, left = int(rows.min()), int(cols.min())
        window = top, left, int(rows.max()) + size - top, int(cols.max()) + size - left
        image = self.source.read(*window)
        read: dict[str, np.ndarray | None] = {"images": image.reflectance, "valid": image.valid}
        for name in ("labels", "truth", "surface", "clouds", "age"):
            layer = getattr(self, name)
            read[name] = None if layer is None else layer.read(*window)
        return places, read


def _open_layers(dataset: Dataset, pair: Pair, parameters: Mapping[str, Any]) -> _Layers:
    source, rule = dataset.source(*pair), parameters["rule"]
    return _Layers(
        source=source,
        clouds=_open_clouds(dataset, pair, source, parameters["clouds"]),
        labels=dataset.labels(*pair, rule=rule, band_m=parameters["band_m"]),
        truth=dataset.truth(*pair),
        surface=dataset.surface(*pair),
        age=dataset.label_age(*pair, rule=rule),
    )


def _open_clouds(dataset: Dataset, pair: Pair, source: Source, method: str) -> CloudMask | None:
    if method == "none":
        return None
    ready, scl = dataset.clouds(*pair), dataset.scene_classification(*pair)
    try:
        mask = cloud_mask(source, scl=scl, ready=ready, method=method)
    except GlacierError as error:
        raise GlacierError(f"{dataset.name}, {', '.join(pair)}: {error}") from error
    return None if mask.method == "none" else mask


def _fill(
    layers: Mapping[Pair, _Layers],
    parameters: Mapping[str, Any],
    bands: Sequence[str],
    folder: Path,
    progress: bool,
    patches: gpd.GeoDataFrame,
    parts: np.ndarray | None = None,
) -> tuple[list[str], pd.DataFrame, np.ndarray]:
    """Read the patches chunk by chunk and write ``images.npy``, ``labels.npy`` and the like.

    One chunk is read ahead while the one before it is described and written, so that two chunks are
    in memory whatever the number of patches. Of a patch that a line cuts, ``parts`` says which
    pixels count (top, left, bottom, right); the others are unknown.

    Returns:
        Names of the arrays written, and in the order of the patches their facts and ``moments``.
    """
    size, count = parameters["size"], len(patches)
    limits = {name: parameters[name] for name in ("max_unknown", "max_cloud")}
    has = {name for name in ("truth", "surface")
           if any(getattr(found, name) is not None for found in layers.values())}  # fmt: skip
    codes = ["labels", *sorted(has)]
    files = {name: ArrayFile(folder / f"{name}.npy", np.uint8, (count, size, size))
             for name in codes}  # fmt: skip
    files["images"] = ArrayFile(folder / "images.npy", np.float32, (count, len(bands), size, size))
    facts: list[dict[str, Any]] = [{}] * count
    sums = np.zeros((count, 3, len(bands)))
    jobs = (
        partial(layers[pair].read, group.iloc[chunk], size)
        for pair, group in patches.groupby(["area", "date"], sort=False)
        for chunk in chunks(group["row"], group["col"], size)
    )
    try:
        with tqdm(total=count, desc="patches", unit="patch", disable=not progress) as bar:
            for places, read in _ahead(jobs):
                for position, patch in _cut(places, read, size, codes):
                    if parts is not None:
                        top, left, bottom, right = parts[position]
                        outside = np.ones((size, size), bool)
                        outside[top:bottom, left:right] = False
                        for name in {"labels", "truth"} & {*codes}:
                            patch[name][outside] = UNKNOWN
                    found = patch_facts(
                        patch["images"], patch["valid"], patch["labels"], bands=bands,
                        clouds=patch["clouds"], age=patch["age"],
                    )  # fmt: skip
                    facts[position] = {**found, "reason": reason_to_drop(found, **limits)}
                    sums[position] = moments(patch["images"], patch["labels"] != UNKNOWN)
                    for name, file in files.items():
                        file.write(position, patch[name])
                bar.update(len(places))
    finally:
        for file in files.values():
            file.close()
    return sorted(files), pd.DataFrame(facts), sums


def _ahead(jobs: Iterable[Callable[[], Any]]) -> Iterator[Any]:
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


def _cut(
    places: pd.DataFrame,
    read: Mapping[str, np.ndarray | None],
    size: int,
    codes: Sequence[str],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Divide a chunk: the position of each patch, and its arrays; ``codes`` are the uint8 ones."""
    rows, cols = places["row"].to_numpy(), places["col"].to_numpy()
    for position, row, col in zip(places.index, rows - rows.min(), cols - cols.min(), strict=True):
        part = slice(row, row + size), slice(col, col + size)
        patch: dict[str, Any] = {
            name: None if values is None else values[..., *part] for name, values in read.items()
        }
        patch["images"] = np.ascontiguousarray(patch["images"])
        seen = patch["valid"]
        if patch["clouds"] is not None:
            seen = seen & (patch["clouds"] != CLOUD) & (patch["clouds"] != SHADOW)
        for name in codes:
            if patch[name] is None:
                patch[name] = np.full((size, size), UNKNOWN, np.uint8)
            elif name == "surface":
                # What lies under a surface is known without an image; a score is not.
                patch[name] = np.ascontiguousarray(patch[name])
            else:
                patch[name] = np.where(seen, patch[name], np.uint8(UNKNOWN))
        yield position, patch


def patch_facts(
    reflectance: np.ndarray,
    valid: np.ndarray,
    label: np.ndarray,
    *,
    bands: Sequence[str] = BANDS,
    clouds: np.ndarray | None = None,
    age: np.ndarray | None = None,
) -> dict[str, float]:
    """Describe one patch; fractions lie between 0 and 1.

    Args:
        reflectance: ``[band, row, col]``.
        valid: bool ``[row, col]``, where there is an image.
        label: uint8 ``[row, col]``, 0, 1 or 255.
        bands: names of the bands.
        clouds: ``[row, col]`` with the codes of ``imagery.clouds``; None: not assessed.
        age: ``[row, col]`` in years from outline to image (nan: unknown); None: of no pixel.

    Returns:
        nodata: pixels without image.
        unknown: pixels without a label (255), those without image included.
        glacier: glacier among the pixels with a label; nan if there are none.
        cloud, shadow: cloud and cloud shadow among the valid pixels that were assessed; nan if
        none was.
        saturated: valid pixels with any band at or above 1 (a white surface that faces the sun, or
        a detector at its limit); nan if no pixel is valid.
        label_age: mean age in years of the outlines over the glacier pixels, so that each outline
        counts by its area in the patch; nan without dated glacier.
        disagreement: pixels with a label that differ from ``ice_index``, among those with a label;
        nan if there are none, or no green and nir.
        known, ice: numbers of pixels with a label, and of glacier.
    """
    known = (label != UNKNOWN) & valid
    ice = known & (label == 1)
    bright = valid & (reflectance.max(axis=0) >= _SATURATED)
    total, number, seen = label.size, np.count_nonzero(known), np.count_nonzero(valid)
    differ = math.nan
    if {"green", "nir"} <= set(bands):
        differ = _fraction(disagreement(reflectance, label, bands) & valid, number)
    assessed = np.full_like(label, UNKNOWN) if clouds is None else np.where(valid, clouds, UNKNOWN)
    ages = np.empty(0) if age is None else age[ice]
    ages = ages[np.isfinite(ages)]
    return {
        "nodata": 1 - seen / total,
        "unknown": 1 - number / total,
        "glacier": _fraction(ice, number),
        **cloud_fractions(assessed),
        "saturated": _fraction(bright, seen),
        "label_age": float(ages.mean(dtype=np.float64)) if ages.size else math.nan,
        "disagreement": differ,
        "known": int(number),
        "ice": int(np.count_nonzero(ice)),
    }


def reason_to_drop(
    facts: Mapping[str, float], *, max_unknown: float = 0.5, max_cloud: float | None = None
) -> str:
    """Return why a patch is dropped, in words, or an empty string if it is not.

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
    # Two decimals where whole per cents would read "50 % > 50 %".
    digits = 0 if round(100 * value) > round(100 * limit) else 2
    return f"{what} {100 * value:.{digits}f} % > {100 * limit:.{digits}f} %"


def _fraction(hits: np.ndarray, total: Any) -> float:
    return np.count_nonzero(hits) / total if total else math.nan
