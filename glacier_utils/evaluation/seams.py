"""Seams: what the borders of the windows that a map was computed in do to it.

A network sees less context at the border of its window, so its map is worse there, and neighbouring
windows do not meet. Measured as jumps between neighbouring pixels, which need no reference.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

FARTHEST = 24  # px: the largest distance from a border that curves show


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
