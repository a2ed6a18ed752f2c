"""The same areas on several dates, mapped by several models: areas, changes, their causes.

Maps are named by (model, area, date), images and cloud masks by (area, date). Mapped areas come
with their intervals (``area_table``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glacier_utils.change import transition
from glacier_utils.change.area import AreaError, Errors, Key, Map, interval
from glacier_utils.datasets.dataset import Dataset
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import bootstrap
from glacier_utils.evaluation.comparison import known_clouds
from glacier_utils.metrics import mapped_area
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.prediction.mapper import predict_scene
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.training import selection

Case = tuple[str, str, str, str]  # model, area, date, reference
Views = Mapping[tuple[str, str], Image]  # (area, date) -> image
Clouds = Mapping[tuple[str, str], np.ndarray]  # (area, date) -> codes of clouds.cloud_mask

_KEY = ["model", "area", "date"]


def predict(
    checkpoints: Mapping[str, Path], data: Dataset, areas: Sequence[str], dates: Sequence[str]
) -> dict[Key, Map]:
    """Map every area on every date with every model.

    Args:
        checkpoints: name of the model -> its checkpoint.
        data: the dataset.
        areas: of the dataset.
        dates: of every area.

    Raises:
        GlacierError: two dates of an area do not lie on one grid.
    """
    for area in areas:
        for date in dates[1:]:
            mismatch = data.mismatch(area, date, dates[0])
            if mismatch:
                raise GlacierError(f"dataset {data.name}, area {area}, {date}: {mismatch}")
    maps = {}
    for name, path in checkpoints.items():
        segmenter = load_checkpoint(path)
        for area in areas:
            for date in dates:
                source = data.source(area, date)
                probability = predict_scene(segmenter, source, window=512, overlap=64)
                maps[name, area, date] = Map(probability, segmenter.threshold, source.grid)
    return maps


def other_seeds(table: pd.DataFrame, model: str) -> dict[str, Path]:
    """Return the checkpoints of the same model trained on the same dates with other seeds.

    Args:
        table: of ``fitting.summary``.
        model: in the table.

    Returns:
        name -> checkpoint; empty where there is one seed only.
    """
    own = table.set_index("model").loc[model]
    same = (table["architecture"] == own["architecture"]) & (table["dates"] == own["dates"])
    names = table.loc[same & (table["model"] != model), "model"]
    return {name: selection.checkpoint(table, name) for name in names}


def read_clouds(
    data: Dataset, areas: Sequence[str], dates: Sequence[str]
) -> dict[tuple[str, str], np.ndarray]:
    """Read cloud masks of the dates that the dataset has one for.

    Args:
        data: the dataset.
        areas: of the dataset.
        dates: of every area.

    Returns:
        (area, date) -> codes of ``comparison.known_clouds``; none is guessed from the image.
    """
    masks = {(area, date): known_clouds(data, area, date) for area in areas for date in dates}
    return {key: mask.read() for key, mask in masks.items() if mask is not None}


def area_table(
    maps: Mapping[Key, Map],
    errors: Errors | None = None,
    *,
    views: Views | None = None,
    clouds: Clouds | None = None,
) -> pd.DataFrame:
    """Return the mapped area per model, area and date, and its change since the first date.

    Args:
        maps: (model, area, date) -> map.
        errors: of the classification, of ``area.from_validation`` or ``from_seeds``; None: the
            interval holds the outline's uncertainty only.
        views: the images, for the causes of the change.
        clouds: of ``read_clouds``, for the same.

    Returns:
        model, area, date; area_km2 with low and high; buffer_km2, the outline moved by one pixel
        (``metrics.mapped_area``); bias_km2, by which the reference exceeded the map on the
        validation part (nan unknown); unknown_km2; high_if_unknown, high plus all unknown pixels;
        change_km2 since the first date with change_low and change_high on the pixels known on both
        dates (zero on the first date); with ``views`` one column per cause of what changed since
        the first date, ``cause_snow_lost_km2`` and so on (``transition.CAUSES``), which add up to
        what was lost and gained.
    """
    columns = ["area_km2", "low", "high", "buffer_km2", "bias_km2", "unknown_km2"]
    columns += ["high_if_unknown", "change_km2", "change_low", "change_high"]
    rows = []
    for (model, area, date), found in maps.items():
        first = min(day for name, place, day in maps if (name, place) == (model, area))
        same, before = date == first, maps[model, area, first].probability
        wanted = _errors_of(errors, model, first, date)
        everywhere = np.ones(before.shape, bool)
        numbers = _measure(
            before, found.probability, found, wanted, within=everywhere, ice=~everywhere, same=same
        )
        row: dict[str, Any] = dict(zip(_KEY, (model, area, date), strict=True))
        row |= {name: numbers[name] for name in columns}
        if views is not None:
            causes = dict.fromkeys(transition.CAUSES.values(), 0.0)
            if not same:
                codes = {area: transition_map(maps, model, area, (first, date))}
                located = locate_causes(codes, views, (first, date), clouds)
                table = explain(codes, located, {area: found.grid})
                causes |= table.groupby("cause")["area_km2"].sum().to_dict()
            row |= {f"cause_{name.replace(' ', '_')}_km2": km2 for name, km2 in causes.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def compare(
    maps: Mapping[Key, Map],
    model: str,
    area: str,
    dates: Sequence[str],
    errors: Errors | None = None,
) -> dict[str, float | bool]:
    """Compare the mapped areas of the first and the last of some dates.

    Args:
        maps: (model, area, date) -> map.
        model: in the maps.
        area: in the maps.
        dates: in order.
        errors: of the classification; None: only the outline's uncertainty.

    Returns:
        The numbers of ``transition.area_change``.
    """
    before, after = maps[model, area, dates[0]], maps[model, area, dates[-1]]
    return transition.area_change(
        before.probability,
        after.probability,
        before.grid.pixel_area_km2,
        before.threshold,
        errors=_errors_of(errors, model, dates[0], dates[-1]),
    )


def transition_map(
    maps: Mapping[Key, Map], model: str, area: str, dates: Sequence[str]
) -> np.ndarray:
    """Return one model's transition map between the first and the last of some dates.

    Args:
        maps: (model, area, date) -> map.
        model: in the maps.
        area: in the maps.
        dates: in order.

    Returns:
        uint8 [row, col], codes of ``transition.TRANSITIONS``.
    """
    return transition.transition(
        maps[model, area, dates[0]].mask, maps[model, area, dates[-1]].mask
    )


def locate_causes(
    changes: Mapping[str, np.ndarray],
    views: Views,
    dates: Sequence[str],
    clouds: Clouds | None = None,
) -> dict[str, np.ndarray]:
    """Find the cause of each changed pixel.

    Args:
        changes: area -> transition map between the first and the last of ``dates``.
        views: (area, date) -> image.
        dates: in order.
        clouds: of ``read_clouds``.

    Returns:
        area -> codes of ``transition.causes``.
    """
    found = {}
    for area, codes in changes.items():
        first, last = (area, dates[0]), (area, dates[-1])
        masks = [(clouds or {}).get(key) for key in (first, last)]
        found[area] = transition.causes(codes, views[first], views[last], masks)
    return found


def explain(
    changes: Mapping[str, np.ndarray], causes: Mapping[str, np.ndarray], grids: Mapping[str, Grid]
) -> pd.DataFrame:
    """Return what each area's change is made of.

    Args:
        changes: area -> transition map.
        causes: of ``locate_causes``.
        grids: area -> grid of its maps.

    Returns:
        area and the columns of ``transition.explain``.
    """
    columns = ["area", "direction", "cause", "pixels", "area_km2", "share"]
    tables = [
        transition.explain(codes, causes[area], grids[area].pixel_area_km2).assign(area=area)
        for area, codes in changes.items()
    ]
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    )


def _measure(
    before: np.ndarray,
    after: np.ndarray,
    found: Map,
    errors: Sequence[AreaError | None],
    *,
    within: np.ndarray,
    ice: np.ndarray,
    same: bool,
) -> dict[str, float | bool]:
    """Return the numbers of one date and of the change to it, on some ground of two maps."""
    pixel = found.grid.pixel_area_km2
    mapped = mapped_area(after, pixel, found.threshold)
    known = within & ~np.isnan(after)
    reference = float((ice & known).sum() * pixel)
    ends = interval(
        mapped["area_km2"],
        mapped["uncertainty_km2"],
        errors[1],
        size_km2=max(mapped["area_km2"], reference),
        ground_km2=float(known.sum() * pixel),
    )
    unknown = float((within & ~known).sum() * pixel)
    since = transition.area_change(
        before, after, pixel, found.threshold, errors=errors, least_km2=reference
    )
    return {
        "zone_km2": float(known.sum() * pixel),
        "reference_km2": reference,
        "area_km2": mapped["area_km2"],
        "low": ends["low"],
        "high": ends["high"],
        "buffer_km2": mapped["uncertainty_km2"],
        "bias_km2": ends["bias_km2"],
        "reach_km2": ends["reach_km2"],
        "unknown_km2": unknown,
        "high_if_unknown": ends["high"] + unknown,
        "change_km2": since["change_km2"],
        "change_low": 0.0 if same else since["low_km2"],
        "change_high": 0.0 if same else since["high_km2"],
        "change_bias_km2": 0.0 if same else since["bias_km2"],
        "change_reach_km2": 0.0 if same else since["uncertainty_km2"],
        "changed": not same and since["distinguishable"],
    }


def count_blocks(maps: Mapping[Key, Map], data: Dataset) -> dict[Case, pd.DataFrame]:
    """Count every map against the labels and, where it is known, the truth.

    Args:
        maps: (model, area, date) -> map.
        data: the dataset.

    Returns:
        (model, area, date, reference) -> tp, fp, fn, tn of each block of
        ``bootstrap.block_counts``.
    """
    found = {}
    for (model, area, date), entry in maps.items():
        candidates = {"labels": data.labels(area, date), "truth": data.truth(area, date)}
        for reference, mask in candidates.items():
            if mask is not None:
                counts = bootstrap.block_counts(entry.mask, mask.read(), entry.grid)
                found[model, area, date, reference] = counts
    return found


def robustness(scored: Mapping[Case, pd.DataFrame]) -> pd.DataFrame:
    """Score every map on every date.

    Args:
        scored: of ``count_blocks``.

    Returns:
        model, area, date, reference, iou, iou_low, iou_high (95 %) and the other scores.
    """
    return pd.DataFrame(
        dict(zip((*_KEY, "reference"), case, strict=True)) | bootstrap.scores_with_interval(counts)
        for case, counts in scored.items()
    )


def cost_of_dates(scored: Mapping[Case, pd.DataFrame], model: str) -> pd.DataFrame:
    """Compare every other model with one, on the same blocks of every area and date.

    With the model of the main date alone as ``model``, its rows say what training on other dates
    costs there (a negative difference on the main date) and gains (a positive one on the others).

    Args:
        scored: of ``count_blocks``.
        model: with which others are compared.

    Returns:
        area, date, reference, model (another one), against (``model``), difference of the IoU,
        low, high (95 %), verdict (``better``, ``worse``, ``not distinguishable``).
    """
    found = ["model", "against", "difference", "low", "high", "verdict"]
    columns = ["area", "date", "reference", *found]
    tables = []
    for area, date, reference in dict.fromkeys(case[1:] for case in scored):
        counts = {case[0]: c for case, c in scored.items() if case[1:] == (area, date, reference)}
        table = bootstrap.compare(counts, [(name, model) for name in counts if name != model])
        if len(table):
            tables.append(table.assign(area=area, date=date, reference=reference)[columns])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _errors_of(errors: Errors | None, model: str, first: str, last: str) -> list[AreaError | None]:
    """Return the errors of the first date, of the last, and of the difference."""
    pairs = ((first, first), (last, last), (first, last))
    return [(errors or {}).get((model, *pair)) for pair in pairs]
