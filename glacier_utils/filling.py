"""Every patch is read once: its pixels go to the store's arrays, its facts into a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
from tqdm import tqdm

from glacier_utils.ages import LabelAge
from glacier_utils.clouds import CLOUD, SHADOW, cloud_mask
from glacier_utils.errors import GlacierError
from glacier_utils.facts import keep_or_drop, patch_facts
from glacier_utils.quality import UNKNOWN
from glacier_utils.store import ArrayFile, moments
from glacier_utils.tiling import chunks

if TYPE_CHECKING:
    from glacier_utils.datasets import Dataset
    from glacier_utils.imagery import Mask, Source

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
