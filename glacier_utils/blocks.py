"""Square blocks of ground: how large they must be, and the counts of a map in each of them.

Errors of neighbouring pixels are alike: a shadowed slope is missed as a whole. What varies
independently are pieces of ground larger than the length over which errors are alike, and only
those can tell how far a score would be another one elsewhere (``intervals``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import fft

from glacier_utils import metrics
from glacier_utils.grids import Grid

# How often 95 % intervals (`intervals`) held the truth, in 100, with 9, 16, 25 and 100 blocks:
#   other worlds of the sample, six trained models    100     98      98     72-80
#   random fields (``coverage``), errors alike over
#   0.4 to 0.9 km, also in a 12.8 km area            89-94   84-91   83-89   66-81
# Fewer and larger blocks than sixteen make intervals a third wider, smaller ones share errors
# across their borders.
LEAST_BLOCKS = 16
LENGTHS = 4.0
SIDE_M = 3200.0  # where nobody estimated the correlation length
LEVEL = 0.1  # correlation below which errors count as independent
_LARGEST = 2048  # px; larger maps are averaged down, which bounds memory at about 0.5 GB


def errors(mask: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return 1 where map and reference disagree, 0 where they agree, nan where either is unknown.

    mask, reference: uint8 0, 1, 255 of one shape; float32.
    """
    mask, reference = np.asarray(mask), np.asarray(reference)
    found = (mask != reference).astype(np.float32)
    found[(mask == metrics.UNKNOWN) | (reference == metrics.UNKNOWN)] = np.nan
    return found


def correlogram(error: np.ndarray, resolution_m: float) -> pd.DataFrame:
    """Return how alike the errors of two pixels are, by their distance.

    The autocorrelation of the field less its mean, over all pairs of known pixels of a distance
    whatever their direction, by the fast Fourier transform of the field and of its support
    (Marcotte 1996, Computers & Geosciences 22, 1175). Half the shorter side is the largest
    distance; the mean being that of the same field, correlations there come out slightly too low.
    Maps of more than 2048 px a side are averaged down first, which hides what is smaller.

    Args:
        error: float [row, col], nan where unknown; of `errors`, or any other.
        resolution_m: side of a pixel in m; nan: distances in pixels.

    Returns:
        distance_m, correlation, pairs; nan correlations for a constant field.
    """
    step = -(-max(error.shape) // _LARGEST)
    field = _averaged(np.asarray(error, np.float32), step)
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
    """Return the distance in m at which a `correlogram` first falls below ``level``.

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


def block_side(
    correlation_m: float, extent_m: tuple[float, float], *, least_blocks: int = LEAST_BLOCKS
) -> Side:
    """Choose the side of the blocks for an area of ``extent_m`` (height, width).

    Four correlation lengths where that leaves ``least_blocks``; otherwise the largest side that
    leaves them, if it is above the correlation length. Where even that is not possible the blocks
    are as large as ``least_blocks`` allows and ``enough`` is False: intervals are then too narrow.
    """
    height, width = extent_m
    sides = sorted({s / n for s in extent_m for n in range(1, least_blocks + 1)}, reverse=True)
    largest = next(s for s in sides if _parts(height, s) * _parts(width, s) >= least_blocks)
    wanted = LENGTHS * correlation_m
    # Without an error there is nothing to estimate: the largest blocks are the careful choice.
    side = wanted if wanted <= largest else largest
    number = _parts(height, side) * _parts(width, side)
    text = f"{number} blocks of at least {side / 1000:.1f} km"
    length = f"the errors' correlation length of {correlation_m / 1000:.1f} km"
    if math.isnan(correlation_m):
        return Side(side, number, True, f"{text}: the map has no error to correlate")
    if side > correlation_m:
        return Side(side, number, True, f"{text}, {side / correlation_m:.1f} times {length}")
    if math.isinf(correlation_m):
        length = "the errors' correlation length, which reaches beyond half the area"
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
        mask, reference: uint8 [row, col]: 0, 1, 255.

    Returns:
        block (row-col), tp, fp, fn, tn.
    """
    known = np.isfinite(grid.resolution)
    side = (SIDE_M if side_m is None else side_m) / grid.resolution if known else math.inf
    rows, cols = (
        np.linspace(0, length, _parts(length, side, 4 if side_m is None or not known else 1) + 1)
        .round()
        .astype(int)
        for length in mask.shape
    )
    found = []
    for i, (top, bottom) in enumerate(pairwise(rows)):
        for j, (left, right) in enumerate(pairwise(cols)):
            part = np.s_[top:bottom, left:right]
            counts = metrics.count(mask[part], reference[part])
            found.append({"block": f"{i:02d}-{j:02d}", **vars(counts)})
    return pd.DataFrame(found)[["block", *metrics.COUNTS]]


def patch_blocks(index: pd.DataFrame, size: int, side: float) -> np.ndarray:
    """Name the block of each patch: equal blocks of about ``side``, cut as by `block_counts`.

    Args:
        index: area, row and col of each patch's upper left corner in px, as in a patch store.
        size, side: of a patch and of a block, in px.

    Returns:
        Names [n], ``area:row-col``. A patch belongs to the block that holds its centre.
    """
    names = np.empty(len(index), object)
    for area, table in index.groupby("area"):
        corners = table[["row", "col"]].to_numpy(float)
        corners = corners - corners.min(axis=0)
        extent = corners.max(axis=0) + size
        parts = np.array([_parts(length, side) for length in extent])
        places = ((corners + size / 2) * parts / extent).astype(int)
        names[np.flatnonzero(index["area"] == area)] = [
            f"{area}:{i:02d}-{j:02d}" for i, j in places
        ]
    return names


def _parts(length: float, side: float, least: int = 1) -> int:
    """Return how many parts of at least ``side`` fit into a length, and ``least`` at least."""
    # A hair of tolerance: sides are often the extent divided by a number.
    return max(least, int(length / side + 1e-9))


def _averaged(field: np.ndarray, step: int) -> np.ndarray:
    """Return the means of squares of ``step`` pixels, over the known ones."""
    if step == 1:
        return field
    rows, cols = (np.arange(0, n, step) for n in field.shape)
    known = np.isfinite(field)
    sums, numbers = (
        np.add.reduceat(np.add.reduceat(part, rows, axis=0), cols, axis=1)
        for part in (np.where(known, field, 0), known.astype(np.float32))
    )
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)
