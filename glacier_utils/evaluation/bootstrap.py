"""How sure a score is: blocks of ground, intervals from them, paired differences.

Errors of neighbouring pixels are alike: a shadowed slope is missed as a whole. What varies
independently are pieces of ground larger than the length over which errors are alike, and only
those can tell how far a score would be another one elsewhere. A map is therefore cut into square
blocks larger than that length, and its hits and errors are counted in each.

The interval is that of the score on unlimited ground of the same kind as the area at hand. Whole
blocks are drawn with replacement, as many as there are (Efron & Tibshirani 1993, ch. 13; blocks:
Künsch 1989, Ann. Statist. 17, 1217), which gives the score's standard error; the interval is the
score plus and minus t of them. The percentiles of the draws, which are usual, are too close
together with few blocks (Hesterberg 2015, Am. Stat. 69, 371: draws vary by (n - 1) / n too little,
and their tails are those of a normal variable). Not every block says as much, since many hold
little ice: the degrees of freedom are those of the effective number of blocks, (sum w)^2 / sum w^2
(Kish 1965) with w the pixels that count for the score.

How often 95 % intervals held the truth, in 100, with 9, 16, 25 and 100 blocks:

    other landscapes of the sample, six trained models     100     98      98     72-80
    random fields whose errors are alike over 0.4 to 0.9
    km, also in an area of 12.8 km                        89-94   84-91   83-89   66-81

Of draws from a map's own sixteen blocks, intervals by percentiles held the IoU 84 to 92 times in
100, by t 92 to 98 times. Fewer and larger blocks than sixteen make intervals a third wider, smaller
ones share errors across their borders.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import fft, stats

from glacier_utils import metrics
from glacier_utils.conventions import UNKNOWN
from glacier_utils.metrics import COUNTS, LOWEST, SCORES, score_table
from glacier_utils.raster.grid import Grid

SAME = "not distinguishable"
LEVEL = 0.1  # correlation below which errors count as independent
LEAST_BLOCKS = 16
LENGTHS = 4.0  # correlation lengths in the side of a block, where the area is large enough
SIDE_M = 3200.0  # where nobody estimated the correlation length
_LARGEST = 2048  # px; of larger maps pixels are left out, which bounds memory at about 0.5 GB
_EVERY_PIXEL = ("accuracy", "specificity")  # scores that ground without ice tells about as well


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and the degrees of freedom of that error."""

    value: float
    error: float
    freedom: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return value -+ t error; (nan, nan) where the error is unknown."""
        reach = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.error
        return self.value - reach, self.value + reach

    @property
    def p(self) -> float:
        """Two-sided p value of the value being zero; 1 for a zero that never varies."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))


def score_interval(counts: pd.DataFrame, *, score: str = "iou") -> tuple[float, float]:
    """Return the 95 % interval of a pooled score, resampling whole spatial blocks.

    Args:
        counts: tp, fp, fn, tn and ``block``, the block of ground of each row. Blocks should exceed
            the correlation length of the errors (``block_side``).
        score: of ``metrics.SCORES``.

    Returns:
        Its ends, cut off at the least and the largest value that the score can have; (nan, nan)
        with fewer than two blocks that say anything about the score.
    """
    found = _estimate(_block_sums([counts]), score)
    low, high = (float(np.clip(end, LOWEST[score], 1)) for end in found.interval())
    return low, high


def scores_with_interval(counts: pd.DataFrame) -> dict[str, float]:
    """Return iou, iou_low, iou_high and the other scores of counts with a column ``block``."""
    scores = score_table(counts)
    low, high = score_interval(counts)
    return {"iou": scores.pop("iou"), "iou_low": low, "iou_high": high, **scores}


def verdict(low: float, high: float) -> str:
    """Say in words what an interval of a difference means."""
    if low > 0:
        return "better"
    return "worse" if high < 0 else SAME


def compare(
    counts: Mapping[Any, pd.DataFrame], pairs: Iterable[tuple[Any, Any]] | None = None
) -> pd.DataFrame:
    """Compare the IoU of models pair by pair on the same blocks.

    Pairing removes what is common to both (a hard valley is hard for either model), so it finds
    smaller differences than comparing two intervals.

    Of twenty comparisons of equal models one is expected to look like a difference at 95 %:
    ``p_holm`` is the p value that holds for all rows together (Holm 1979, Scand. J. Stat. 6, 65).

    Args:
        counts: model -> tp, fp, fn, tn and ``block``.
        pairs: of names; None: all.

    Returns:
        model, against, difference, low, high (95 %), verdict (``better``, ``worse`` or ``not
        distinguishable``, by the interval of this pair alone), p, p_holm.

    Raises:
        ValueError: the blocks are not the same.
    """
    rows = []
    for one, other in combinations(counts, 2) if pairs is None else pairs:
        found = _estimate(_block_sums([counts[one], counts[other]]), "iou")
        low, high = found.interval()
        rows.append((one, other, found.value, low, high, verdict(low, high), found.p))
    columns = ["model", "against", "difference", "low", "high", "verdict", "p"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=_holm(table["p"].to_numpy(float)))


def _block_sums(tables: Iterable[pd.DataFrame]) -> list[np.ndarray]:
    """Return counts [block, 4] of each table, blocks alike, those without known pixels left out."""
    sums = [table.groupby("block", sort=True)[COUNTS].sum() for table in tables]
    if not all(table.index.equals(sums[0].index) for table in sums):
        raise ValueError("the tables do not hold the same blocks")
    known = np.any([table.sum(axis=1) > 0 for table in sums], axis=0)
    return [table.to_numpy()[known] for table in sums]


def _estimate(sums: list[np.ndarray], score: str, samples: int = 2000, seed: int = 0) -> Estimate:
    """Return the score of one table, or the difference of the scores of two."""
    values = [float(SCORES[score](*table.sum(axis=0))) for table in sums]
    value = values[0] - values[1] if len(sums) > 1 else values[0]
    blocks = len(sums[0])
    counted = slice(4) if score in _EVERY_PIXEL else slice(3)
    weight = np.sum([table[:, counted].sum(axis=1) for table in sums], axis=0)
    if (weight > 0).sum() < 2:
        return Estimate(value, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(blocks, np.full(blocks, 1 / blocks), size=samples)
    scored = [SCORES[score](*(drawn @ table).T) for table in sums]
    draws = scored[0] - scored[1] if len(sums) > 1 else scored[0]
    draws = draws[np.isfinite(draws)]
    if not draws.size or math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    effective = weight.sum() ** 2 / (weight.astype(float) ** 2).sum()
    # The draws vary around their own mean, by (n - 1) / n less than samples around the truth.
    error = float(draws.std()) * math.sqrt(blocks / (blocks - 1))
    return Estimate(value, error, max(effective - 1, 1.0))


def _holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p values; nan stays nan, but counts as a comparison."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def errors(mask: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return 1 where map and reference disagree, 0 where they agree, nan where either is unknown.

    Args:
        mask: uint8 0 / 1 / 255.
        reference: of the same shape.

    Returns:
        float32.
    """
    mask, reference = np.asarray(mask), np.asarray(reference)
    found = (mask != reference).astype(np.float32)
    found[(mask == UNKNOWN) | (reference == UNKNOWN)] = np.nan
    return found


def correlogram(error: np.ndarray, resolution_m: float) -> pd.DataFrame:
    """Return how alike the errors of two pixels are, by their distance.

    The autocorrelation of the field less its mean, over all pairs of known pixels of a distance
    whatever their direction, by the fast Fourier transform of the field and of its support
    (Marcotte 1996, Computers & Geosciences 22, 1175). Half the shorter side is the largest
    distance; the mean being that of the same field, correlations there come out slightly too low.
    Of maps of more than 2048 px a side every second row and column is taken, or every third.

    Args:
        error: float [row, col], nan where unknown; of ``errors``, or any other.
        resolution_m: side of a pixel in m; nan: distances in pixels.

    Returns:
        distance_m, correlation, pairs; nan correlations for a constant field.
    """
    step = -(-max(error.shape) // _LARGEST)
    field = np.asarray(error, np.float32)[::step, ::step]
    pixel = step * (resolution_m if np.isfinite(resolution_m) else 1.0)
    known = np.isfinite(field)
    mean = field[known].mean() if known.any() else np.nan
    deviations = np.where(known, field - mean, 0).astype(np.float32)
    # Padded to twice the size, so that opposite rims are no neighbours.
    shape = [fft.next_fast_len(2 * side, real=True) for side in field.shape]
    products, pairs = (
        fft.irfft2(np.abs(fft.rfft2(part, shape)) ** 2, shape)
        for part in (deviations, known.astype(np.float32))
    )
    down, across = (np.minimum(np.arange(n), n - np.arange(n)) for n in shape)
    distance = np.rint(np.hypot(down[:, None], across[None, :])).astype(np.int32).ravel()
    farthest = max(1, min(field.shape) // 2)
    sums, numbers = (
        np.bincount(distance, part.ravel())[: farthest + 1] for part in (products, pairs)
    )
    numbers = np.rint(numbers)
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = np.where(numbers > 0, sums / numbers, np.nan)
        constant = not known.any() or np.ptp(field[known]) == 0
        correlation = covariance * np.nan if constant else covariance / covariance[0]
    return pd.DataFrame(
        {
            "distance_m": np.arange(len(correlation)) * pixel,
            "correlation": correlation,
            "pairs": numbers.astype(np.int64),
        }
    )


def correlation_length(curve: pd.DataFrame, level: float = LEVEL) -> float:
    """Return the distance in m at which a ``correlogram`` first falls below ``level``.

    0.1 rather than 1/e: the errors of glacier maps fall off fast within an object and slowly
    between objects, so that at 1/e (200 m on the sample) a fifth of the correlation reaches twice
    as far, and at 0.1 (about 1 km) it is nearly gone. Linear between two distances; inf if it never
    falls below, nan if the field is constant.
    """
    correlation = curve["correlation"].to_numpy()
    if not np.isfinite(correlation).any():
        return math.nan
    below = np.flatnonzero(correlation < level)
    if not below.size:
        return math.inf
    last = below[0]
    pair = slice(last - 1, last + 1)
    return float(np.interp(-level, -correlation[pair], curve["distance_m"].to_numpy()[pair]))


@dataclass(frozen=True)
class Side:
    """The side of the blocks in m, their number, whether they are large enough, and why."""

    side_m: float
    blocks: int
    enough: bool
    reason: str


def block_side(correlation_m: float, extent_m: tuple[float, float]) -> Side:
    """Choose the side of the blocks of an area.

    Four correlation lengths where that leaves sixteen blocks; otherwise the largest side that
    leaves them, if it is above the correlation length. Where even that is not possible the blocks
    are as large as sixteen allow and ``enough`` is False: intervals are then too narrow.

    Args:
        correlation_m: correlation length of the errors; nan without an error.
        extent_m: height and width of the area.
    """
    height, width = extent_m
    sides = sorted({s / n for s in extent_m for n in range(1, LEAST_BLOCKS + 1)}, reverse=True)
    largest = next(s for s in sides if _parts(height, s) * _parts(width, s) >= LEAST_BLOCKS)
    wanted = LENGTHS * correlation_m
    # Without an error there is nothing to estimate: the largest blocks are the careful choice.
    side = wanted if wanted <= largest else largest
    number = _parts(height, side) * _parts(width, side)
    text = f"{number} blocks of at least {side / 1000:.1f} km"
    length = f"the errors' correlation length of {correlation_m / 1000:.2f} km"
    if math.isnan(correlation_m):
        return Side(side, number, True, f"{text}: the map has no error to correlate")
    if side > correlation_m:
        return Side(side, number, True, f"{text}, {side / correlation_m:.1f} times {length}")
    return Side(
        side, number, False, f"{text} do not exceed {length}: intervals are too narrow here"
    )


def block_counts(
    mask: np.ndarray, reference: np.ndarray, grid: Grid, *, side_m: float | None = None
) -> pd.DataFrame:
    """Count hits and errors in each of the equal blocks into which a map is cut.

    As many blocks as fit with at least ``side_m``: no narrow rest at the rim, which would count as
    a block and say little. None takes 3.2 km, or a quarter of a shorter side. Where nobody told
    the size of a pixel, each side is cut into four.

    Args:
        mask: uint8 [row, col]: 0, 1, 255.
        reference: of the same shape.
        grid: of both.
        side_m: least side of a block.

    Returns:
        block (row-col), tp, fp, fn, tn.
    """
    rows, cols = block_edges(mask.shape, grid, side_m)
    found = []
    for i, (top, bottom) in enumerate(pairwise(rows)):
        for j, (left, right) in enumerate(pairwise(cols)):
            part = np.s_[top:bottom, left:right]
            counts = metrics.count(mask[part], reference[part])
            found.append({"block": f"{i:02d}-{j:02d}", **vars(counts)})
    return pd.DataFrame(found)[["block", *metrics.COUNTS]]


def block_edges(
    shape: tuple[int, ...], grid: Grid, side_m: float | None = None
) -> list[np.ndarray]:
    """Return the rows and the columns, as integers, at which ``block_counts`` cuts a map.

    Args:
        shape: (rows, columns) of the map.
        grid: of the map.
        side_m: least side of a block, as in ``block_counts``.
    """
    known = np.isfinite(grid.resolution)
    side = (SIDE_M if side_m is None else side_m) / grid.resolution if known else math.inf
    least = 4 if side_m is None or not known else 1
    cuts = [np.linspace(0, length, _parts(length, side, least) + 1) for length in shape]
    return [cut.round().astype(int) for cut in cuts]


def _parts(length: float, side: float, least: int = 1) -> int:
    """Return how many parts of at least ``side`` fit into a length, and ``least`` at least."""
    # A hair of tolerance: sides are often the extent divided by a number.
    return max(least, int(length / side + 1e-9))
