"""Seams: what the borders of the windows that a map was computed in do to it.

A network sees less context at the border of its window, so its map is worse there. Measured in two
ways: as jumps between neighbouring pixels, which need no reference, and as error against one. To
compare two ways of prediction, measure both by the distance from the same borders: what lies there
on the ground is then the same. Intervals are those of a ratio of sums over square blocks of ground
(Cochran 1977, Sampling Techniques, ch. 6), with t as in ``intervals``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from glacier_utils import metrics
from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation.bootstrap import Estimate, verdict
from glacier_utils.prediction.windows import fit_windows

ERRORS = ("brier", "wrong")
NEAR = 8  # px: pixels nearer than this to a border count as beside it
_BLOCKS = 4  # along each side where nobody says how large they are, as in `bootstrap.block_counts`
_ROWS = 256  # at a time: keeps temporaries small on a full tile


def seam_profile(values: np.ndarray, size: int, *, farthest: int = 24) -> pd.DataFrame:
    """Measure jumps between neighbouring pixels by their distance from the patch borders.

    Args:
        values: map [row, col], nan where unknown.
        size: side of the patches in px; borders lie at its multiples.
        farthest: largest distance in px.

    Returns:
        distance_px (0: the pair lies across a border) and jump, the mean absolute difference of
        two neighbours, over rows and columns together.
    """
    total, count = np.zeros(farthest + 1), np.zeros(farthest + 1)
    for lines in (values, values.T):
        steps = np.abs(np.diff(lines, axis=1))
        after = np.arange(1, lines.shape[1]) % size
        distance = np.minimum(after, size - after)
        for d in range(farthest + 1):
            chosen = steps[:, distance == d]
            total[d] += np.nansum(chosen)
            count[d] += np.isfinite(chosen).sum()
    jump = np.divide(total, count, out=np.full(farthest + 1, np.nan), where=count > 0)
    return pd.DataFrame({"distance_px": np.arange(farthest + 1), "jump": jump})


def worst_seam(values: np.ndarray, size: int) -> tuple[int, int]:
    """Find where four patches meet worst.

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
    """Return where windows of one axis begin and end inside the frame, as int64 [n], sorted.

    A border at ``k`` lies between the pixels k - 1 and k. The frame's own ends are none: nothing
    lies on the other side, however a map is made.
    """
    starts = np.asarray(starts, np.int64)
    found = np.unique(np.r_[starts, starts + window])
    return found[(found > 0) & (found < length)]


def border_distance(found: np.ndarray, length: int) -> np.ndarray:
    """Return each pixel's distance to the nearest of ``borders``, int64 [length].

    0 for the two pixels beside one; ``length`` where there is none.
    """
    if not len(found):
        return np.full(length, length, np.int64)
    pixel = np.arange(length)
    place = np.searchsorted(found, pixel, side="right")
    before = pixel - np.r_[-2 * length, found][place]
    after = np.r_[found, 3 * length][place] - 1 - pixel
    return np.minimum(np.minimum(before, after), length)


def error_by_distance(
    probability: np.ndarray,
    reference: np.ndarray,
    starts_rows: Sequence[int],
    starts_cols: Sequence[int],
    window: int,
    *,
    farthest: int = 24,
    threshold: float = 0.5,
    block: int | None = None,
) -> pd.DataFrame:
    """Measure a map's error by a pixel's distance from the nearest border of windows.

    For a map stitched patch by patch, the windows are the patches. A map of overlapping windows is
    measured by the distance from the same patches' borders, so that the curves compare like with
    like: without seams, its curve keeps only what the ground does.

    Args:
        probability: float [row, col] in 0..1, nan where unknown.
        reference: uint8 [row, col]: 0, 1, 255.
        starts_rows, starts_cols: first row and column of the windows (``windows.fit_windows``,
            or ``range(0, length, size)`` for patches).
        window: side of a window in px.
        farthest: largest distance in px.
        threshold: probability from which on a pixel is mapped as glacier.
        block: side of the blocks in px; None cuts each side of the map into four.

    Returns:
        A row a distance: distance_px (0: beside the border), pixels (known ones), brier (mean
        squared difference of probability and reference, Brier 1950), wrong (share of pixels of the
        wrong class), each with _low and _high of the 95 % interval; nan where there is no pixel, or
        too few blocks. The intervals hold what differs from block to block for every map; how
        surely two maps differ, ``gain_by_distance`` tells.

    Raises:
        ValueError: the shapes differ.
    """
    near = _distances(probability.shape, starts_rows, starts_cols, window)
    sums = _sums(probability, reference, near, farthest, threshold, block)
    columns: dict[str, object] = {"distance_px": np.arange(farthest + 1)}
    columns["pixels"] = sums["pixels"].sum(axis=0)[:-1].astype(np.int64)
    for name in ERRORS:
        found = [_ratio(sums[name][:, d], sums["pixels"][:, d]) for d in range(farthest + 1)]
        ends = np.array([estimate.interval() for estimate in found])
        columns[name] = [estimate.value for estimate in found]
        columns[f"{name}_low"], columns[f"{name}_high"] = ends.clip(0, 1).T
    return pd.DataFrame(columns)


def gain_by_distance(
    before: np.ndarray,
    after: np.ndarray,
    reference: np.ndarray,
    starts_rows: Sequence[int],
    starts_cols: Sequence[int],
    window: int,
    *,
    farthest: int = 24,
    error: str = "brier",
    threshold: float = 0.5,
    block: int | None = None,
) -> pd.DataFrame:
    """Measure how much smaller the error of one map is than that of another, by the distance.

    Args:
        before, after: probability [row, col] of the two maps.
        error: "brier" or "wrong"; the other arguments are those of ``error_by_distance``.

    Returns:
        distance_px, gain (error before - after on the same pixels), low and high of its 95 %
        interval. It is paired: what is hard in a block is hard for both maps.
    """
    near = _distances(reference.shape, starts_rows, starts_cols, window)
    one, other = (
        _sums(values, reference, near, farthest, threshold, block) for values in (before, after)
    )
    rows = []
    for d in range(farthest + 1):
        found = _difference(
            (one[error][:, d], one["pixels"][:, d]), (other[error][:, d], other["pixels"][:, d])
        )
        rows.append((d, found.value, *found.interval()))
    return pd.DataFrame(rows, columns=["distance_px", "gain", "low", "high"])


def error_near_borders(
    maps: Mapping[str, np.ndarray],
    reference: np.ndarray,
    starts_rows: Sequence[int],
    starts_cols: Sequence[int],
    window: int,
    *,
    near: int = NEAR,
    error: str = "brier",
    threshold: float = 0.5,
    block: int | None = None,
) -> pd.DataFrame:
    """Compare maps beside the borders of windows and inside, on the same pixels.

    Args:
        maps: title -> probability [row, col]; the first is the one that others are compared with.
        near: pixels nearer than this to a border are beside it.
        error: "brier" or "wrong", as in ``error_by_distance``, like the other arguments.

    Returns:
        A row a map: map, beside and inside (the mean error there), excess = beside - inside with
        excess_low and excess_high; gain = how much smaller the first map's error beside the borders
        becomes with this one, with gain_low, gain_high and verdict (``better``, ``worse``, ``not
        distinguishable``); all intervals 95 %, over the same blocks.
    """
    distances = _distances(reference.shape, starts_rows, starts_cols, window)
    rows, first = [], None
    for name, probability in maps.items():
        sums = _sums(probability, reference, distances, near - 1, threshold, block)
        beside = _beside(sums, error)
        inside = sums[error][:, -1], sums["pixels"][:, -1]
        first = beside if first is None else first
        excess, gain = _difference(beside, inside), _difference(first, beside)
        row = {"map": name, "beside": _ratio(*beside).value, "inside": _ratio(*inside).value}
        for title, estimate in (("excess", excess), ("gain", gain)):
            row[title] = estimate.value
            row[f"{title}_low"], row[f"{title}_high"] = estimate.interval()
        row["verdict"] = verdict(*gain.interval()) if rows else ""
        rows.append(row)
    return pd.DataFrame(rows)


def seam_jump(values: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> float:
    """Return the mean jump across borders over that between all other neighbours.

    1 for a map without seams; nan without borders, or where nothing jumps anywhere else.

    Args:
        values: map [row, col], nan where unknown.
        rows, cols: ``borders`` along either axis.
    """
    sums, counts = np.zeros(2), np.zeros(2)
    for lines, found in ((values, rows), (values.T, cols)):
        across = np.zeros(len(lines) - 1, bool)
        across[np.asarray(found, int) - 1] = True
        for start in range(0, len(lines) - 1, _ROWS):
            part = lines[start : start + _ROWS + 1]
            steps = np.abs(np.diff(part, axis=0))
            known = np.isfinite(steps)
            of_line = np.where(known, steps, 0).sum(axis=1), known.sum(axis=1)
            for side in (0, 1):
                chosen = across[start : start + _ROWS] == bool(side)
                sums[side] += of_line[0][chosen].sum()
                counts[side] += of_line[1][chosen].sum()
    if not counts.all() or not sums[0]:
        return math.nan
    return float((sums[1] / counts[1]) / (sums[0] / counts[0]))


def effect_of_windows(
    predict: Callable[[int, int], np.ndarray],
    reference: np.ndarray,
    *,
    windows: Sequence[int] = (128, 256, 512),
    overlaps: Sequence[int] = (0, 32, 64),
    near: int = NEAR,
    threshold: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Try window sizes and overlaps: what they do to error, seams and time.

    The map of the largest window with the largest overlap is made first and kept: the others'
    errors beside their borders are compared with it on the same pixels, since what lies there on
    the ground differs more than the maps do.

    Args:
        predict: (window, overlap) in px -> probability [row, col] of the whole scene.
        reference: uint8 [row, col]: 0, 1, 255.
        windows, overlaps: in px; an overlap that is not below its window is left out, and so is a
            window larger than the scene after the first such one, which is the same prediction.
        near: pixels nearer than this to a border of the combination's own windows, as laid by
            ``windows.fit_windows``, are beside it.
        threshold: probability from which on a pixel is mapped as glacier.
        clock: for tests.

    Returns:
        window_px, overlap_px, border_error (Brier, beside the borders; nan where windows have none
        inside the scene), excess (what that is above the error there of the map compared with) with
        excess_low and excess_high, iou, seam_jump (``seam_jump``), s_per_mpx (seconds a million
        pixels of the scene, each map once, after the first).

    Raises:
        GlacierError: nothing to try.
    """
    height, width = reference.shape
    tried = [(window, overlap) for window in sorted(set(windows))
             for overlap in sorted(set(overlaps)) if overlap < window]  # fmt: skip
    whole = [pair for pair in tried if pair[0] >= max(height, width)]
    tried = [pair for pair in tried if pair not in whole[1:]]
    if not tried:
        raise GlacierError(
            f"windows {list(windows)} with overlaps {list(overlaps)}: no overlap is below a "
            "window; give smaller overlaps"
        )
    best = predict(*tried[-1])
    rows = []
    for window, overlap in tried:
        began = clock()
        probability = predict(window, overlap)
        seconds = clock() - began
        laid = [fit_windows(length, window, overlap) for length in (height, width)]
        found = [borders(axis.starts, axis.size, axis.length) for axis in laid]
        distances = tuple(
            border_distance(lines, axis.length) for lines, axis in zip(found, laid, strict=True)
        )
        beside, there = (
            _beside(_sums(values, reference, distances, near - 1, threshold, None), "brier")
            for values in (probability, best)
        )
        excess = _difference(beside, there)
        low, high = excess.interval()
        mask = metrics.classify(probability, threshold)
        rows.append(
            {
                "window_px": window,
                "overlap_px": overlap,
                "border_error": _ratio(*beside).value,
                "excess": excess.value,
                "excess_low": low,
                "excess_high": high,
                "iou": metrics.count(mask, reference).iou,
                "seam_jump": seam_jump(probability, *found),
                "s_per_mpx": seconds / (height * width / 1e6),
            }
        )
    return pd.DataFrame(rows)


def _distances(
    shape: tuple[int, int], starts_rows: Sequence[int], starts_cols: Sequence[int], window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each row and of each column to a border along its axis."""
    rows, cols = (
        border_distance(borders(starts, window, length), length)
        for starts, length in zip((starts_rows, starts_cols), shape, strict=True)
    )
    return rows, cols


def _sums(
    probability: np.ndarray,
    reference: np.ndarray,
    distances: tuple[np.ndarray, np.ndarray],
    farthest: int,
    threshold: float,
    block: int | None,
) -> dict[str, np.ndarray]:
    """Sum errors and pixels up [block, distance]; the last distance is all beyond ``farthest``."""
    if probability.shape != reference.shape:
        raise ValueError(
            f"a map of {probability.shape} does not fit a reference of {reference.shape}"
        )
    parts = [_BLOCKS if block is None else max(1, length // block) for length in reference.shape]
    row_block, col_block = (
        np.arange(length) * number // length
        for length, number in zip(reference.shape, parts, strict=True)
    )
    bins = farthest + 2
    total = {name: np.zeros(parts[0] * parts[1] * bins) for name in ("pixels", *ERRORS)}
    rows, cols = distances
    for top in range(0, len(rows), _ROWS):
        part = slice(top, top + _ROWS)
        known = np.isfinite(probability[part]) & (reference[part] != UNKNOWN)
        distance = np.minimum(rows[part, None], cols).clip(max=farthest + 1)
        place = ((row_block[part, None] * parts[1] + col_block) * bins + distance)[known]
        value = probability[part][known].astype(np.float64)
        truth = reference[part][known] == 1
        for name, weight in (
            ("pixels", None),
            ("brier", (value - truth) ** 2),
            ("wrong", (value >= threshold) != truth),
        ):
            total[name] += np.bincount(place, weight, len(total[name]))
    return {name: values.reshape(-1, bins) for name, values in total.items()}


def _beside(sums: Mapping[str, np.ndarray], error: str) -> tuple[np.ndarray, np.ndarray]:
    """Return errors and pixels a block, without those beyond the farthest distance."""
    return sums[error][:, :-1].sum(axis=1), sums["pixels"][:, :-1].sum(axis=1)


def _ratio(errors: np.ndarray, pixels: np.ndarray) -> Estimate:
    """Return the mean error of pixels, from sums a block."""
    return _difference((errors, pixels), None)


def _difference(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray] | None
) -> Estimate:
    """Return the difference of two mean errors over the same blocks; None counts as none.

    The error of a ratio of sums is that of the sum of its residuals e - r n over the blocks, and
    the difference's that of the difference of both.
    """
    value, residual, weight = 0.0, 0.0, 0.0
    for sign, pair in ((1, one), (-1, other)):
        if pair is None:
            continue
        errors, pixels = pair
        mean = _over(errors.sum(), pixels.sum())
        value += sign * mean
        if math.isnan(mean):
            return Estimate(math.nan, math.nan, math.nan)
        residual = residual + sign * (errors - mean * pixels) / pixels.sum()
        weight = weight + pixels
    blocks = int((weight > 0).sum())
    if blocks < 2:
        return Estimate(value, math.nan, math.nan)
    error = math.sqrt(blocks / (blocks - 1) * float((residual**2).sum()))
    effective = weight.sum() ** 2 / (weight**2).sum()
    return Estimate(value, error, max(effective - 1, 1.0))


def _over(one: float, other: float) -> float:
    return float(one / other) if other else math.nan
