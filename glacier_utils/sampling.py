"""How often to draw each patch, so that training sees empty ground and ice equally often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def sampling_weights(glacier: np.ndarray, bins: int | Sequence[float] = BINS) -> np.ndarray:
    """Return a probability a patch that gives each class of glacier fraction the same total.

    Args:
        glacier: glacier fraction of each patch, 0..1; nan, which means no known pixel, is never
            drawn.
        bins: rising edges of the classes, or a number of equally wide ones. The last class holds
            its upper edge. Classes without a patch get nothing; the others share it.

    Returns:
        float64 [n] that sums to 1 (all 0 where no patch has a fraction). A class with few patches
        repeats them often: with ``k`` classes in use, one patch alone in its class is 1/k of all.

    Raises:
        ValueError: the edges do not rise, or do not cover the fractions.
    """
    glacier = np.asarray(glacier, float)
    edges = np.linspace(0, 1, bins + 1) if isinstance(bins, int) else np.asarray(bins, float)
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"bins: {bins} must be rising edges of at least one class")
    known = np.isfinite(glacier)
    if ((glacier[known] < edges[0]) | (glacier[known] > edges[-1])).any():
        raise ValueError(f"bins: {bins} do not cover all glacier fractions")
    weights = np.zeros(len(glacier))
    if known.any():
        found = np.clip(np.searchsorted(edges, glacier[known], "right") - 1, 0, len(edges) - 2)
        number = np.bincount(found, minlength=len(edges) - 1)
        weights[known] = 1 / (number[found] * np.count_nonzero(number))
    return weights
