"""Temporal comparison: the same areas on several dates, mapped by several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from glacier_utils import change, intervals, metrics
from glacier_utils.blocks import block_counts
from glacier_utils.checkpoints import load_checkpoint
from glacier_utils.datasets import Dataset
from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid, Image
from glacier_utils.prediction import predict_scene

Key = tuple[str, str, str]  # model, area, date
Views = Mapping[tuple[str, str], Image]  # (area, date) -> image


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


def area_table(maps: Mapping[Key, Map]) -> pd.DataFrame:
    """Return the mapped area per model, area and date, and its change since the first date.

    Returns:
        model, area, date, area_km2 with low and high (the outline moved by one pixel, see
        `change.mapped_area`), unknown_km2, change_km2 with change_low and change_high on the
        pixels known on both dates; zero on the first date.
    """
    rows = []
    for (model, area, date), found in maps.items():
        mapped = change.mapped_area(found.probability, found.grid, found.threshold)
        first = min(d for m, a, d in maps if (m, a) == (model, area))
        since = change.area_change(
            maps[model, area, first].probability, found.probability, found.grid, found.threshold
        )
        same = date == first
        rows.append(
            {
                "model": model,
                "area": area,
                "date": date,
                "area_km2": mapped["area_km2"],
                "low": mapped["area_km2"] - mapped["uncertainty_km2"],
                "high": mapped["area_km2"] + mapped["uncertainty_km2"],
                "unknown_km2": mapped["unknown_km2"],
                "change_km2": since["change_km2"],
                "change_low": 0.0 if same else since["low_km2"],
                "change_high": 0.0 if same else since["high_km2"],
            }
        )
    return pd.DataFrame(rows)


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
    changes: Mapping[str, np.ndarray], views: Views, dates: Sequence[str]
) -> pd.DataFrame:
    """Return what each area's change is made of: `change.explain` with the column area."""
    columns = ["area", "direction", "cause", "pixels", "area_km2", "share"]
    tables = [
        change.explain(codes, views[area, dates[0]], views[area, dates[-1]]).assign(area=area)
        for area, codes in changes.items()
    ]
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    )


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
) -> list[str]:
    """Return a sentence or two per area that follow from the numbers (`change.statement`)."""
    if len(dates) < 2:
        return ["There is one date only: nothing can be said about change."]
    sentences = []
    for area, codes in changes.items():
        first, last = maps[model, area, dates[0]], maps[model, area, dates[-1]]
        numbers = change.area_change(
            first.probability, last.probability, first.grid, first.threshold
        )
        causes = change.explain(codes, views[area, dates[0]], views[area, dates[-1]])
        text = change.statement(numbers, causes, dates=(dates[0], dates[-1]))
        sentences.append(f"Area {area}: {text}")
    return sentences


def robustness(maps: Mapping[Key, Map], data: Dataset) -> pd.DataFrame:
    """Score every map against the labels and, where it is known, the truth.

    Returns:
        model, area, date, reference, iou, iou_low, iou_high (95 %, by `blocks.block_counts`) and
        the other scores.
    """
    rows = []
    for (model, area, date), found in maps.items():
        candidates = {"labels": data.labels(area, date), "truth": data.truth(area, date)}
        for reference, mask in candidates.items():
            if mask is None:
                continue
            counts = block_counts(found.mask, mask.read(), found.grid)
            rows.append(
                {
                    "model": model,
                    "area": area,
                    "date": date,
                    "reference": reference,
                    **intervals.scores_with_interval(counts),
                }
            )
    return pd.DataFrame(rows)


def causes_are_complete(explained: pd.DataFrame, changes: Mapping[str, np.ndarray]) -> bool:
    """Say whether every lost or gained pixel was given exactly one cause."""
    changed = sum(
        int(((codes == change.LOST) | (codes == change.GAINED)).sum()) for codes in changes.values()
    )
    return int(explained["pixels"].sum()) == changed
