"""Seams: what the borders of the windows that a map was computed in do to it.

A network sees less context at the border of its window, so its map is worse there. Measured in two
ways: as jumps between neighbouring pixels, which need no reference, and as error against one. To
compare two ways of prediction, measure both by the distance from the same borders: what lies there
on the ground is then the same. Intervals are those of a ratio of sums over square blocks of ground
(Cochran 1977, Sampling Techniques, ch. 6), with t as in ``bootstrap``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from glacier_utils.conventions import UNKNOWN
from glacier_utils.evaluation.bootstrap import Estimate, verdict

FARTHEST = 24  # px: the largest distance from a border that curves show
NEAR = 8  # px: pixels nearer than this to a border count as beside it
_BLOCKS = 4  # along each side of a map


def seam_profile(values: np.ndarray, size: int) -> pd.DataFrame:
    """Measure jumps between neighbouring pixels by their distance from the patch borders.

    Args:
        values: map [row, col], nan where unknown.
        size: side of the patches in px; borders lie at its multiples.

    Returns:
        distance_px (0: the pair lies across a border; up to 24) and jump, the mean absolute
        difference of two neighbours, over rows and columns together.
    """
    lines = _jumps(values)
    after = lines["line"] % size
    near = lines.groupby(np.minimum(after, size - after))[["jump", "pairs"]].sum()
    near = near.reindex(range(FARTHEST + 1)).rename_axis("distance_px")
    return (near["jump"] / near["pairs"]).rename("jump").reset_index()


def _jumps(values: np.ndarray) -> pd.DataFrame:
    """Return for each line between rows or columns its number, the sum of jumps and their count."""
    parts = []
    for axis in (0, 1):
        steps = np.abs(np.diff(values, axis=axis))
        sums = np.nansum(steps, axis=1 - axis, dtype=float)
        pairs = np.isfinite(steps).sum(axis=1 - axis)
        line = np.arange(1, len(sums) + 1)
        parts.append({"axis": axis, "line": line, "jump": sums, "pairs": pairs})
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True)


def worst_seam(values: np.ndarray, size: int) -> tuple[int, int]:
    """Find where four patches meet worst.

    Args:
        values: map [row, col], nan where unknown.
        size: side of the patches in px.

    Returns:
        (row, col) of the upper left corner of a window of ``size`` centred on the corner with the
        largest mean jump across its borders; (0, 0) where no four patches meet.
    """
    best, place = -1.0, (0, 0)
    half = size // 2
    after = size - half
    for row in range(size, values.shape[0] - after + 1, size):
        for col in range(size, values.shape[1] - after + 1, size):
            part = values[row - half : row + after, col - half : col + after]
            jumps = np.r_[
                np.abs(part[half] - part[half - 1]), np.abs(part[:, half] - part[:, half - 1])
            ]
            known = jumps[np.isfinite(jumps)]
            if known.size and known.mean() > best:
                best, place = float(known.mean()), (row - half, col - half)
    return place


def borders(starts: Sequence[int], window: int, length: int) -> np.ndarray:
    """Return where windows of one axis begin and end inside the frame.

    Args:
        starts: first pixel of each window.
        window: side of a window in px.
        length: of the axis in px.

    Returns:
        int64 [n], sorted. A border at ``k`` lies between the pixels k - 1 and k. The frame's own
        ends are none: nothing lies on the other side, however a map is made.
    """
    first = np.asarray(starts, np.int64)
    found = np.unique(np.r_[first, first + window])
    return found[(found > 0) & (found < length)]


def border_distance(found: np.ndarray, length: int) -> np.ndarray:
    """Return each pixel's distance to the nearest border of an axis.

    Args:
        found: of ``borders``.
        length: of the axis in px.

    Returns:
        int64 [length]: 0 for the two pixels beside a border, ``length`` where there is none.
    """
    beyond = np.arange(length)[:, None] - found
    return np.where(beyond < 0, -1 - beyond, beyond).min(axis=1, initial=length)


def error_near_borders(
    maps: Mapping[str, np.ndarray], reference: np.ndarray, size: int
) -> pd.DataFrame:
    """Compare maps beside the borders of patches and inside, on the same pixels.

    Args:
        maps: title -> probability [row, col]; the first is the one that others are compared with.
        reference: uint8 [row, col]: 0, 1, 255.
        size: side of the patches in px.

    Returns:
        One row per map: map, beside and inside (the mean Brier score within 8 px of the borders and
        elsewhere), excess = beside - inside with excess_low and excess_high; gain = how much
        smaller the first map's error beside the borders becomes with this one, with gain_low,
        gain_high and verdict (``better``, ``worse``, ``not distinguishable``); all intervals 95 %,
        over the same blocks.

    Raises:
        ValueError: the shapes differ.
    """
    distances = _patch_distances(reference.shape, size)
    rows: list[dict[str, Any]] = []
    first = None
    for name, probability in maps.items():
        sums = _sums(probability, reference, distances, NEAR - 1)
        beside, inside = _beside(sums), (sums["brier"][:, -1], sums["pixels"][:, -1])
        first = beside if first is None else first
        excess, gain = _difference(beside, inside), _difference(first, beside)
        row = {"map": name, "beside": _mean(*beside).value, "inside": _mean(*inside).value}
        for title, estimate in (("excess", excess), ("gain", gain)):
            row[title] = estimate.value
            row[f"{title}_low"], row[f"{title}_high"] = estimate.interval()
        row["verdict"] = verdict(*gain.interval()) if rows else ""
        rows.append(row)
    return pd.DataFrame(rows)


def _patch_distances(shape: tuple[int, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each row and of each column to a border of patches."""
    rows, cols = (
        border_distance(borders(range(0, length, size), size, length), length) for length in shape
    )
    return rows, cols


def _sums(
    probability: np.ndarray,
    reference: np.ndarray,
    distances: tuple[np.ndarray, np.ndarray],
    farthest: int,
) -> dict[str, np.ndarray]:
    """Sum errors and pixels up [block, distance]; the last distance is all beyond ``farthest``."""
    if probability.shape != reference.shape:
        raise ValueError(
            f"a map of {probability.shape} does not fit a reference of {reference.shape}"
        )
    row_block, col_block = (np.arange(n) * _BLOCKS // n for n in reference.shape)
    bins = farthest + 2
    distance = np.minimum.outer(*distances).clip(max=farthest + 1)
    known = np.isfinite(probability) & (reference != UNKNOWN)
    place = ((row_block[:, None] * _BLOCKS + col_block) * bins + distance)[known]
    value, truth = probability[known].astype(np.float64), reference[known] == 1
    weights = {"pixels": None, "brier": (value - truth) ** 2}
    return {
        name: np.bincount(place, weight, _BLOCKS**2 * bins).reshape(-1, bins)
        for name, weight in weights.items()
    }


def _beside(sums: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return errors and pixels per block, without those beyond the farthest distance."""
    return sums["brier"][:, :-1].sum(axis=1), sums["pixels"][:, :-1].sum(axis=1)


def _mean(errors: np.ndarray, pixels: np.ndarray) -> Estimate:
    """Return the mean error of pixels, from sums per block."""
    return _difference((errors, pixels))


def _difference(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray] | None = None
) -> Estimate:
    """Return the difference of two mean errors over the same blocks; without another, the mean.

    The error of a ratio of sums is that of the sum of its residuals e - r n over the blocks, and
    the difference's that of the difference of both.
    """
    value, residual, weight = 0.0, np.zeros(len(one[0])), np.zeros(len(one[0]))
    for sign, (errors, pixels) in zip((1, -1), (one, other) if other else (one,), strict=False):
        if not pixels.sum():
            return Estimate(math.nan, math.nan, math.nan)
        mean = float(errors.sum() / pixels.sum())
        value += sign * mean
        residual = residual + sign * (errors - mean * pixels) / pixels.sum()
        weight = weight + pixels
    blocks = int((weight > 0).sum())
    if blocks < 2:
        return Estimate(value, math.nan, math.nan)
    error = math.sqrt(blocks / (blocks - 1) * float((residual**2).sum()))
    effective = weight.sum() ** 2 / (weight**2).sum()
    return Estimate(value, error, max(effective - 1, 1.0))
