"""Temporal comparison: the same areas on several dates, mapped by several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from glacier_utils import change, experiments, intervals, metrics
from glacier_utils.area_errors import Errors, interval
from glacier_utils.blocks import block_counts
from glacier_utils.checkpoints import load_checkpoint
from glacier_utils.clouds import cloud_mask
from glacier_utils.datasets import Dataset
from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid, Image
from glacier_utils.prediction import predict_scene
from glacier_utils.temporal_words import statement

Key = tuple[str, str, str]  # model, area, date
Case = tuple[str, str, str, str]  # model, area, date, reference
Views = Mapping[tuple[str, str], Image]  # (area, date) -> image
Clouds = Mapping[tuple[str, str], np.ndarray]  # (area, date) -> codes of clouds.cloud_mask


@dataclass(frozen=True)
class Map:
    """One model's map of one area on one date: probability [row, col], nan where not predicted."""

    probability: np.ndarray
    threshold: float
    grid: Grid

    @property
    def mask(self) -> np.ndarray:
        """uint8 [row, col]: 0, 1, 255."""
        return metrics.classify(self.probability, self.threshold)


def predict(
    checkpoints: Mapping[str, Path],
    data: Dataset,
    areas: Sequence[str],
    dates: Sequence[str],
    *,
    window: int = 512,
    overlap: int = 64,
    progress: bool = False,
) -> dict[Key, Map]:
    """Map every area on every date with every model.

    Args:
        checkpoints: name of the model -> its checkpoint.
        window, overlap: in px, as in `prediction.predict_scene`.

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
                probability = predict_scene(
                    segmenter, source, window=window, overlap=overlap, progress=progress
                )
                maps[name, area, date] = Map(probability, segmenter.threshold, source.grid)
    return maps


def other_seeds(table: pd.DataFrame, model: str) -> dict[str, Path]:
    """Return the checkpoints of the same model trained on the same dates with other seeds.

    ``table``: of `experiments.summary`; empty where there is one seed only.
    """
    own = table.set_index("model").loc[model]
    same = (table["architecture"] == own["architecture"]) & (table["dates"] == own["dates"])
    names = table.loc[same & (table["model"] != model), "model"]
    return {name: experiments.checkpoint(table, name) for name in names}


def read_views(
    data: Dataset, areas: Sequence[str], dates: Sequence[str]
) -> dict[tuple[str, str], Image]:
    """Read the images: (area, date) -> image."""
    return {(area, date): data.source(area, date).read() for area in areas for date in dates}


def read_clouds(
    data: Dataset, areas: Sequence[str], dates: Sequence[str]
) -> dict[tuple[str, str], np.ndarray]:
    """Read cloud masks (codes of `clouds.cloud_mask`) of the dates that the dataset has one for.

    The user's mask, else the scene classification; none is guessed from the image.
    """
    found = {}
    for area in areas:
        for date in dates:
            ready, scl = data.clouds(area, date), data.scene_classification(area, date)
            if ready is not None or scl is not None:
                source = data.source(area, date)
                found[area, date] = cloud_mask(source, ready=ready, scl=scl).read()
    return found


def area_table(
    maps: Mapping[Key, Map],
    errors: Errors | None = None,
    *,
    views: Views | None = None,
    clouds: Clouds | None = None,
) -> pd.DataFrame:
    """Return the mapped area per model, area and date, and its change since the first date.

    Args:
        errors: of the classification, of `area_errors.from_validation` or `from_seeds`; None: the
            interval holds the outline's uncertainty only.
        views: the images, for the causes of the change.
        clouds: of `read_clouds`, for the same.

    Returns:
        model, area, date; area_km2 with low and high; buffer_km2, the outline moved by one pixel
        (`change.mapped_area`); bias_km2, by which the reference exceeded the map on the validation
        part (nan unknown); unknown_km2; high_if_unknown, high plus all unknown pixels; change_km2
        since the first date with change_low and change_high on the pixels known on both dates (zero
        on the first date); with ``views`` a column a cause of what changed since the first date,
        ``cause_snow_lost_km2`` and so on (`change.CAUSES`), which add up to what was lost and
        gained.
    """
    errors = errors or {}
    rows = []
    for (model, area, date), found in maps.items():
        mapped = change.mapped_area(found.probability, found.grid, found.threshold)
        known = float((found.mask != metrics.UNKNOWN).sum() * found.grid.pixel_area_km2)
        ends = interval(
            mapped["area_km2"],
            mapped["uncertainty_km2"],
            errors.get((model, date, date)),
            ground_km2=known,
        )
        first = min(d for m, a, d in maps if (m, a) == (model, area))
        since = compare(maps, model, area, (first, date), errors)
        same = date == first
        row = {
            "model": model,
            "area": area,
            "date": date,
            "area_km2": mapped["area_km2"],
            "low": ends["low"],
            "high": ends["high"],
            "buffer_km2": mapped["uncertainty_km2"],
            "bias_km2": ends["bias_km2"],
            "unknown_km2": mapped["unknown_km2"],
            "high_if_unknown": ends["high"] + mapped["unknown_km2"],
            "change_km2": since["change_km2"],
            "change_low": 0.0 if same else since["low_km2"],
            "change_high": 0.0 if same else since["high_km2"],
        }
        if views is not None:
            codes = transition(maps, model, area, (first, date))
            table = explain_all({area: codes}, views, (first, date), clouds)
            sums = table.groupby("cause")["area_km2"].sum()
            row |= {
                f"cause_{name.replace(' ', '_')}_km2": sums[name] for name in change.CAUSES.values()
            }
        rows.append(row)
    return pd.DataFrame(rows)


def compare(
    maps: Mapping[Key, Map],
    model: str,
    area: str,
    dates: Sequence[str],
    errors: Errors | None = None,
) -> dict[str, float | bool]:
    """Compare the first and the last of some dates: `change.area_change` with its errors."""
    before, after = maps[model, area, dates[0]], maps[model, area, dates[-1]]
    pairs = ((dates[0], dates[0]), (dates[-1], dates[-1]), (dates[0], dates[-1]))
    return change.area_change(
        before.probability,
        after.probability,
        before.grid,
        before.threshold,
        errors=[(errors or {}).get((model, *pair)) for pair in pairs],
    )


def transition(maps: Mapping[Key, Map], model: str, area: str, dates: Sequence[str]) -> np.ndarray:
    """Return one model's transition map between the first and the last date of an area."""
    return change.transition(maps[model, area, dates[0]].mask, maps[model, area, dates[-1]].mask)


def matrix(codes: np.ndarray, pixel_area_km2: float, dates: Sequence[str]) -> pd.DataFrame:
    """Turn a transition map into a 2 x 2 table in km2: rows the first date, columns the last."""
    areas = change.transition_table(codes, pixel_area_km2).set_index("code")["area_km2"]
    names = ["glacier", "not glacier"]
    table = pd.DataFrame([[areas[1], areas[2]], [areas[3], areas[0]]], names, names)
    return table.rename_axis(dates[0]).rename_axis(columns=dates[-1])


def explain_all(
    changes: Mapping[str, np.ndarray],
    views: Views,
    dates: Sequence[str],
    clouds: Clouds | None = None,
) -> pd.DataFrame:
    """Return what each area's change is made of: `change.explain` with the column area."""
    columns = ["area", "direction", "cause", "pixels", "area_km2", "share"]
    tables = []
    for area, codes in changes.items():
        keys = [(area, date) for date in (dates[0], dates[-1])]
        masks = [(clouds or {}).get(key) for key in keys]
        images = [views[key] for key in keys]
        tables.append(change.explain(codes, *images, clouds=masks).assign(area=area))
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    )


def locate_causes(
    changes: Mapping[str, np.ndarray],
    views: Views,
    dates: Sequence[str],
    clouds: Clouds | None = None,
) -> dict[str, np.ndarray]:
    """Return where each cause of change lies: area -> codes of `change.causes`."""
    found = {}
    for area, codes in changes.items():
        keys = [(area, date) for date in (dates[0], dates[-1])]
        masks = [(clouds or {}).get(key) for key in keys]
        found[area] = change.causes(codes, *(views[key] for key in keys), masks)
    return found


def cause_shares(explained: pd.DataFrame) -> pd.DataFrame:
    """Return km2 by cause (columns) for each area and direction (rows), for a stacked chart."""
    named = explained.assign(bar=explained["area"] + ", " + explained["direction"])
    wide = named.pivot(index="bar", columns="cause", values="area_km2")
    return wide.reindex(index=named["bar"].unique(), columns=list(change.CAUSES.values()))


def statements(
    maps: Mapping[Key, Map],
    model: str,
    changes: Mapping[str, np.ndarray],
    views: Views,
    dates: Sequence[str],
    *,
    errors: Errors | None = None,
    clouds: Clouds | None = None,
) -> list[str]:
    """Return the sentences per area that follow from the numbers (`temporal_words.statement`)."""
    if len(dates) < 2:
        return ["There is one date only: nothing can be said about change."]
    ends = (dates[0], dates[-1])
    sentences = []
    for area, codes in changes.items():
        numbers = compare(maps, model, area, ends, errors)
        explained = explain_all({area: codes}, views, ends, clouds)
        sentences.append(f"Area {area}: {statement(numbers, explained, dates=ends)}")
    return sentences


def count_blocks(maps: Mapping[Key, Map], data: Dataset) -> dict[Case, pd.DataFrame]:
    """Count every map against the labels and, where it is known, the truth.

    Returns:
        (model, area, date, reference) -> tp, fp, fn, tn of each block of `blocks.block_counts`.
    """
    found = {}
    for (model, area, date), entry in maps.items():
        candidates = {"labels": data.labels(area, date), "truth": data.truth(area, date)}
        for reference, mask in candidates.items():
            if mask is not None:
                counts = block_counts(entry.mask, mask.read(), entry.grid)
                found[model, area, date, reference] = counts
    return found


def robustness(scored: Mapping[Case, pd.DataFrame]) -> pd.DataFrame:
    """Score every map of `count_blocks`.

    Returns:
        model, area, date, reference, iou, iou_low, iou_high (95 %, by `blocks.block_counts`) and
        the other scores.
    """
    rows = [
        {**dict(zip(_CASE, case, strict=True)), **intervals.scores_with_interval(counts)}
        for case, counts in scored.items()
    ]
    return pd.DataFrame(rows)


def price(scored: Mapping[Case, pd.DataFrame], model: str) -> pd.DataFrame:
    """Compare every other model with one, on the same blocks of every area and date.

    With the model of the main date alone as ``model``, its rows say what training on other dates
    costs there (a negative difference on the main date) and gains (a positive one on the others).

    Returns:
        area, date, reference, model (another one), against (``model``), difference of the IoU,
        low, high (95 %), verdict (``better``, ``worse``, ``not distinguishable``).
    """
    tables = [pd.DataFrame(columns=_PRICE)]
    for area, date, reference in dict.fromkeys(case[1:] for case in scored):
        counts = {case[0]: c for case, c in scored.items() if case[1:] == (area, date, reference)}
        pairs = [(name, model) for name in counts if name != model]
        found = intervals.compare(counts, pairs).assign(area=area, date=date, reference=reference)
        tables += [found[_PRICE]] if len(found) else []
    return pd.concat(tables[1:] or tables, ignore_index=True)


def score_matrix(table: pd.DataFrame, reference: str | None = None) -> pd.DataFrame:
    """Turn `robustness` into a matrix: a row a model, a column ``area, date``; "0.76 (0.69..0.83)".

    ``reference`` defaults to the truth where it is known, else the labels.
    """
    reference = reference or ("truth" if (table["reference"] == "truth").any() else "labels")
    own = table[table["reference"] == reference]
    text = own.apply(lambda row: f"{row.iou:.2f} ({row.iou_low:.2f}..{row.iou_high:.2f})", axis=1)
    wide = own.assign(text=text, where=own["area"] + ", " + own["date"])
    order = {name: list(dict.fromkeys(wide[name])) for name in ("model", "where")}
    wide = wide.pivot(index="model", columns="where", values="text")
    return wide.loc[order["model"], order["where"]].rename_axis(columns=f"IoU by the {reference}")


_CASE = ("model", "area", "date", "reference")
_PRICE = [
    *("area", "date", "reference", "model", "against", "difference", "low", "high", "verdict")
]


def causes_are_complete(explained: pd.DataFrame, changes: Mapping[str, np.ndarray]) -> bool:
    """Say whether every lost or gained pixel was given exactly one cause."""
    changed = sum(
        int(((codes == change.LOST) | (codes == change.GAINED)).sum()) for codes in changes.values()
    )
    return int(explained["pixels"].sum()) == changed
