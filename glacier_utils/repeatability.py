"""How far a method agrees with itself: the same ground on two dates, where nothing changed.

What differs on ground that stayed as it was is the method's own error, and a lower bound of it:
what is wrong on both dates in the same way does not show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glacier_utils import change, intervals
from glacier_utils.blocks import block_counts
from glacier_utils.clouds import CLOUD
from glacier_utils.grids import Image
from glacier_utils.quality import is_snow

if TYPE_CHECKING:
    from glacier_utils.datasets import Dataset
    from glacier_utils.temporal import Map

STABLE, INSIDE = "stable terrain", "inside outlines"
TRUE_GROUND, TRUE_ICE = "true ground", "true ice"


def grounds(
    views: Mapping[tuple[str, str], Image],
    labels: Mapping[str, np.ndarray],
    clouds: Mapping[tuple[str, str], np.ndarray] | None = None,
    truths: Mapping[str, np.ndarray] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Return the ground whose class should not differ between the dates.

    Args:
        views: (area, date) -> image.
        labels: area -> uint8 [row, col]: 0, 1, 255.
        clouds: (area, date) -> codes of ``clouds.cloud_mask``, where there are masks.
        truths: area -> true mask (0 / 1, 255 where it differs between dates), where it is known.

    Returns:
        area -> name -> bool [row, col]. ``stable terrain``: outside all outlines, and on no date
        sunlit snow or cloud; ``inside outlines``; ``true ground`` and ``true ice``.
    """
    found = {}
    for area, label in labels.items():
        stable = label == 0
        for (place, date), image in views.items():
            if place == area:
                stable = stable & ~is_snow(image.reflectance, image.bands)
                mask = (clouds or {}).get((area, date))
                stable = stable if mask is None else stable & (mask != CLOUD)
        found[area] = {STABLE: stable, INSIDE: label == 1}
        truth = (truths or {}).get(area)
        if truth is not None:
            found[area] |= {TRUE_GROUND: truth == 0, TRUE_ICE: truth == 1}
    return found


def unchanged_truth(data: Dataset, areas: Sequence[str], dates: Sequence[str]) -> dict:
    """Return area -> the true mask, 255 where it differs between dates; only where it is known."""
    found = {}
    for area in areas:
        masks = [data.truth(area, date) for date in dates]
        if all(mask is not None for mask in masks):
            truths = [mask.read() for mask in masks]
            same = np.all([truth == truths[0] for truth in truths], axis=0)
            found[area] = np.where(same, truths[0], change.UNKNOWN).astype(np.uint8)
    return found


def steadiness(
    maps: Mapping[tuple[str, str, str], Map],
    ground: Mapping[str, Mapping[str, np.ndarray]],
) -> pd.DataFrame:
    """Return how much of each ground is mapped alike on one date and the next.

    Args:
        maps: (model, area, date) -> map.
        ground: of ``grounds``.

    Returns:
        A row per model, area, ground and pair of dates that follow each other: before, after,
        known_km2, same (share of the known pixels with the same class on both), same_low and
        same_high (95 %, spatial blocks), changed (1 - same: on unchanged ground the rate of false
        change), lost_km2, gained_km2, net_km2.
    """
    rows = []
    for model, area in dict.fromkeys(key[:2] for key in maps):
        dates = sorted(date for m, a, date in maps if (m, a) == (model, area))
        for first, second in pairwise(dates):
            entry = maps[model, area, second]
            masks = [maps[model, area, date].mask for date in (first, second)]
            for name, within in ground[area].items():
                before, after = (np.where(within, mask, change.UNKNOWN) for mask in masks)
                # Accuracy of the later map by the earlier: the share that is the same.
                counts = block_counts(after, before, entry.grid)
                low, high = intervals.bootstrap(counts, score="accuracy")
                lost, gained = (counts[column].sum() for column in ("fn", "fp"))
                pixels = counts[["tp", "fp", "fn", "tn"]].sum().sum()
                share = (lost + gained) / pixels if pixels else np.nan
                size = entry.grid.pixel_area_km2
                rows.append(
                    {
                        "model": model,
                        "area": area,
                        "ground": name,
                        "before": first,
                        "after": second,
                        "known_km2": pixels * size,
                        "same": 1 - share,
                        "same_low": low,
                        "same_high": high,
                        "changed": share,
                        "lost_km2": lost * size,
                        "gained_km2": gained * size,
                        "net_km2": (gained - lost) * size,
                    }
                )
    return pd.DataFrame(rows)
