"""Mapped area glacier by glacier and date by date, with intervals, and sums of glaciers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

from glacier_utils import change
from glacier_utils.area_errors import Errors, interval
from glacier_utils.glaciers import Partition, burn_glaciers, partition

if TYPE_CHECKING:
    from glacier_utils.datasets import Dataset
    from glacier_utils.temporal import Map

GROUPS = ["model", "area", "date"]


def partitions(
    data: Dataset, areas: list[str], date: str, labels: Mapping[str, np.ndarray]
) -> dict[str, Partition]:
    """Share out the ground of each area among the glaciers of the labels; see ``glaciers``.

    Without outlines (labels that are ready masks) glaciers are connected regions.
    """
    found = {}
    for area in areas:
        grid = data.source(area, date).grid
        outlines = None if grid.crs is None else data.outlines(area, date)
        numbered = None if outlines is None else burn_glaciers(outlines, grid, date)
        found[area] = partition(labels[area], grid, numbered)
    return found


def glacier_table(
    maps: Mapping[tuple[str, str, str], Map],
    parts: Mapping[str, Partition],
    labels: Mapping[str, np.ndarray],
    errors: Errors | None = None,
) -> pd.DataFrame:
    """Return the mapped area of each glacier on each date, and its change since the first date.

    A glacier's ground is its zone (``glaciers.partition``): its outline and what lies within 300 m
    of it and nearer to it than to others. Mapped ice beyond every zone is no glacier's.

    Args:
        maps: (model, area, date) -> map.
        parts: area -> partition on the same grid, of these labels.
        labels: area -> uint8 [row, col]: 0, 1, 255.
        errors: of the classification (``area_errors``); None: only the outline's uncertainty.

    Returns:
        model, area, date, glacier_id, name; zone_km2 (known ground); reference_km2 (of the label,
        as far as the map is known); area_km2 with low and high, bias_km2 and reach_km2 (see
        ``area_errors.interval``; the error's size is that of the mapped area or of the reference,
        whichever is larger, so that a glacier that was missed has an interval too); unknown_km2;
        high_if_unknown (high plus all unknown pixels); change_km2 with change_low, change_high,
        change_bias_km2, change_reach_km2 (on pixels known on both dates); changed (the interval
        leaves out zero); cut (by the frame); listed (in the inventory).
    """
    errors = errors or {}
    rows = []
    for (model, area, date), found in maps.items():
        part = parts[area]
        windows = ndimage.find_objects(part.zones)
        first = min(d for m, a, d in maps if (m, a) == (model, area))
        wanted = tuple(
            errors.get((model, *pair)) for pair in ((first, first), (date, date), (first, date))
        )
        for number, glacier in part.table.iterrows():
            window = windows[number - 1] if number <= len(windows) else None
            if window is None:
                continue
            own = part.zones[window] == number
            both = (
                np.where(own, entry.probability[window], np.float32(np.nan))
                for entry in (maps[model, area, first], found)
            )
            rows.append(
                {
                    **dict(zip(GROUPS, (model, area, date), strict=True)),
                    **glacier[["glacier_id", "name"]],
                    **_one_glacier(*both, own, labels[area][window] == 1, found, wanted),
                    **{name: bool(glacier[name]) for name in ("cut", "listed")},
                }
            )
    return pd.DataFrame(rows)


def _one_glacier(
    before: np.ndarray,
    after: np.ndarray,
    own: np.ndarray,
    ice: np.ndarray,
    found: Map,
    errors: tuple,
) -> dict[str, float | bool]:
    """Return the numbers of one glacier on one date, from its window of the two maps."""
    pixel = found.grid.pixel_area_km2
    mapped = change.mapped_area(after, pixel, found.threshold)
    known = own & ~np.isnan(after)
    reference = float((ice & known).sum() * pixel)
    ends = interval(
        mapped["area_km2"],
        mapped["uncertainty_km2"],
        errors[1],
        size_km2=max(mapped["area_km2"], reference),
        ground_km2=float(known.sum() * pixel),
    )
    unknown = float((own & ~known).sum() * pixel)
    since = change.area_change(
        before, after, pixel, found.threshold, errors=errors, least_km2=reference
    )
    same = np.array_equal(before, after, equal_nan=True)
    return {
        "zone_km2": float(known.sum() * pixel),
        "reference_km2": reference,
        "area_km2": mapped["area_km2"],
        "low": ends["low"],
        "high": ends["high"],
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


def sum_table(glaciers: pd.DataFrame) -> pd.DataFrame:
    """Add up the glaciers of ``glacier_table``, with their errors taken in two ways.

    Returns:
        A row per model, area and date: glaciers, changed (how many of them changed by more than
        their own interval), reference_km2, area_km2; low_correlated and high_correlated, the
        reaches added up as for errors that are all alike (one model, one image); low_uncorrelated
        and high_uncorrelated, the reaches added in quadrature as for independent errors; change_km2
        with the same four. The bias is added up in both.
    """
    rows = []
    for keys, group in glaciers.groupby(GROUPS, sort=False):
        row = dict(zip(GROUPS, keys, strict=True))
        row |= {
            "glaciers": len(group),
            "changed": int(group["changed"].sum()),
            "reference_km2": group["reference_km2"].sum(),
        }
        for name, prefix in (("area_km2", ""), ("change_km2", "change_")):
            total, bias = group[name].sum(), group[f"{prefix}bias_km2"].sum()
            reaches = group[f"{prefix}reach_km2"]
            row[name] = total
            for way, reach in (
                ("correlated", reaches.sum()),
                ("uncorrelated", float(np.sqrt((reaches**2).sum()))),
            ):
                low, high = total + min(0.0, bias) - reach, total + max(0.0, bias) + reach
                if not prefix:
                    low, high = max(0.0, low), min(high, group["zone_km2"].sum())
                row[f"{prefix}low_{way}"], row[f"{prefix}high_{way}"] = low, high
        rows.append(row)
    return pd.DataFrame(rows)
