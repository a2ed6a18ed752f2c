"""Cloud and cloud shadow: where a mask comes from, and what it says of a patch."""

from __future__ import annotations

import math

import numpy as np

from glacier_utils.masks import UNKNOWN

CLEAR, CLOUD, SHADOW = 0, 1, 2


def cloud_fractions(codes: np.ndarray) -> dict[str, float]:
    """Return the shares of cloud and of cloud shadow among the assessed pixels, 0..1.

    ``codes`` uint8 [row, col]: 0 clear, 1 cloud, 2 cloud shadow, 255 not assessed. nan where
    nothing was assessed.
    """
    assessed = int(np.count_nonzero(codes != UNKNOWN))
    return {
        name: np.count_nonzero(codes == code) / assessed if assessed else math.nan
        for name, code in (("cloud", CLOUD), ("shadow", SHADOW))
    }
