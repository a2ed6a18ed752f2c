"""Two maps of one place: the difference of their areas, what changed, and what by.

A glacier's extent changes by metres in a month, the snow around it by kilometres. A difference
between two maps of one summer is therefore first of all snow, shadow and the method's own error:
the functions here give each difference with its interval and with the rule that explains it.

Areas are in km2. Maps are 0 / 1 / 255 (unknown) [row, col], or probabilities with nan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from glacier_utils.change.area import AreaError, around, interval
from glacier_utils.conventions import UNKNOWN
from glacier_utils.imagery.clouds import CLOUD, SHADOW
from glacier_utils.metrics import buffer_pixels, classify, outcomes
from glacier_utils.raster.grid import Image
from glacier_utils.raster.indices import is_shadow, is_snow, is_water

TRANSITIONS = {
    0: "stable, not glacier",
    1: "stable glacier",
    2: "lost",
    3: "gained",
    255: "unknown",
}
LOST, GAINED = 2, 3
# In the order in which they are tried: the first rule that holds names the cause.
CAUSES = {
    1: "cloud",
    2: "shadow",
    3: "snow lost",
    4: "snow gained",
    5: "water",
    6: "edge",
    7: "rest",
}
NO_CAUSE = 0
_SQUARE = np.ones((3, 3), bool)


def area_change(
    before: np.ndarray,
    after: np.ndarray,
    pixel_area_km2: float,
    threshold: float = 0.5,
    *,
    errors: Sequence[AreaError | None] = (None, None, None),
    least_km2: float = 0.0,
) -> dict[str, float | bool]:
    """Compare the mapped areas of two dates on the pixels that are known on both.

    Args:
        before: probability [row, col], nan where not predicted.
        after: the same on the second date, on one grid.
        pixel_area_km2: of one pixel.
        threshold: from which on a pixel is glacier.
        errors: of the classification on the first date, on the second, and of the difference, None
            where unknown (see ``change.area``). The difference has one of its own since one
            model's errors on two dates are alike and partly cancel; where it is None but the two
            others are not, they are added in quadrature as if they were independent, which makes
            the interval wide rather than narrow.
        least_km2: the error's size is that of the mapped area, or this if it is larger: the area of
            a known glacier, that its interval does not vanish where it is missed.

    Returns:
        before_km2 and after_km2 with before_low, before_high, after_low, after_high; change_km2
        (after minus before) with low_km2, high_km2, uncertainty_km2 (half the interval, as far as
        it is symmetric) and bias_km2 (by which the interval is stretched to one side, nan unknown);
        change_percent (nan if nothing was mapped before), lost_km2, gained_km2, unknown_km2, and
        ``distinguishable``: whether the interval leaves out zero. The outline's part is that of
        the buffer method (``metrics.mapped_area``) on both dates, in quadrature.

    Raises:
        ValueError: the shapes differ.
    """
    change = transition(classify(before, threshold), classify(after, threshold))
    pixel = pixel_area_km2
    known = change != UNKNOWN
    ground = float(known.sum() * pixel)
    first = np.where(known, (change == 1) | (change == LOST), UNKNOWN)
    second = np.where(known, (change == 1) | (change == GAINED), UNKNOWN)
    areas = [float((mask == 1).sum() * pixel) for mask in (first, second)]
    buffers = [buffer_pixels(mask) * pixel for mask in (first, second)]
    ends = [
        interval(area, buffer, error, size_km2=max(area, least_km2), ground_km2=ground)
        for area, buffer, error in zip(areas, buffers, errors[:2], strict=True)
    ]
    difference = areas[1] - areas[0]
    found = _difference(areas, buffers, ends, errors, least_km2)
    # No more can be lost than may have been there, and no more gained than there may be.
    low, high = max(found["low"], -ends[0]["high"]), min(found["high"], ends[1]["high"])
    return {
        "before_km2": areas[0],
        "before_low": ends[0]["low"],
        "before_high": ends[0]["high"],
        "after_km2": areas[1],
        "after_low": ends[1]["low"],
        "after_high": ends[1]["high"],
        "change_km2": difference,
        "uncertainty_km2": found["reach_km2"],
        "bias_km2": found["bias_km2"],
        "low_km2": low,
        "high_km2": high,
        "change_percent": 100 * difference / areas[0] if areas[0] else math.nan,
        "lost_km2": float((change == LOST).sum() * pixel),
        "gained_km2": float((change == GAINED).sum() * pixel),
        "unknown_km2": float((~known).sum() * pixel),
        "distinguishable": bool(low > 0 or high < 0),
    }


def _difference(
    areas: Sequence[float],
    buffers: Sequence[float],
    ends: Sequence[dict[str, float]],
    errors: Sequence[AreaError | None],
    least_km2: float,
) -> dict[str, float]:
    """Return the interval of the second area minus the first, as ``area.around``."""
    difference = areas[1] - areas[0]
    if errors[2] is not None or None in errors[:2]:
        size = max(sum(areas) / 2, least_km2)
        return around(difference, math.hypot(*buffers), errors[2], size)
    bias = ends[1]["bias_km2"] - ends[0]["bias_km2"]
    reach = math.hypot(*(end["reach_km2"] for end in ends))
    return {
        "low": difference + min(0.0, bias) - reach,
        "high": difference + max(0.0, bias) + reach,
        "bias_km2": bias,
        "reach_km2": reach,
    }


def transition(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the change of each pixel.

    Args:
        before: map 0 / 1 / 255 or bool, [row, col].
        after: the same on the second date.

    Returns:
        uint8 [row, col], codes of ``TRANSITIONS``: 255 where either date is unknown.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> transition(np.array([[0, 1, 1, 0, 255]]), np.array([[0, 1, 0, 1, 1]])).tolist()
        [[0, 1, 2, 3, 255]]
    """
    # The later map judged by the earlier: a hit is stable glacier, a false alarm was gained.
    return np.array([1, GAINED, LOST, 0, UNKNOWN], np.uint8)[outcomes(after, before)]


def causes(
    change: np.ndarray,
    before: Image,
    after: Image,
    clouds: Sequence[np.ndarray | None] = (None, None),
) -> np.ndarray:
    """Give each lost or gained pixel the first of these causes that holds, as codes of ``CAUSES``.

    1. cloud: cloud on either date, where masks are given (what it hides cannot have changed the
       map);
    2. shadow: in shadow on exactly one of the dates (``indices.is_shadow``, or cloud shadow);
    3. snow lost, 4. snow gained: sunlit snow on the first date only, on the second only
       (``indices.is_snow``: near infrared above 0.475). After shadow, since whether snow that
       came to lie in shadow has gone cannot be seen;
    5. water: water on exactly one of the dates (``indices.is_water``);
    6. edge: within one pixel (8-neighbourhood) of the first map's outline, where sampling and
       registration alone move a pixel across;
    7. rest: none of these, the only class in which real change of ice may hide.

    Args:
        change: [row, col] as from ``transition``.
        before: image of the first date.
        after: image of the second date, on the same grid.
        clouds: masks of the dates, uint8 [row, col]: 0 clear, 1 cloud, 2 cloud shadow, 255 not
            known (as of ``clouds.cloud_mask``); None without.

    Returns:
        uint8 [row, col], 0 where nothing changed. The rules hold for surface reflectance.
    """
    changed = (change == LOST) | (change == GAINED)
    snow, shade, water = (
        [rule(image.reflectance, image.bands) for image in (before, after)]
        for rule in (is_snow, is_shadow, is_water)
    )
    hidden = np.zeros(change.shape, bool)
    for place, mask in enumerate(clouds):
        if mask is not None:
            hidden |= mask == CLOUD
            shade[place] = shade[place] | (mask == SHADOW)
    rules = [
        hidden,
        shade[0] ^ shade[1],
        snow[0] & ~snow[1],
        snow[1] & ~snow[0],
        water[0] ^ water[1],
        _edge(change),
        changed,
    ]
    return np.select([changed & rule for rule in rules], list(CAUSES), NO_CAUSE).astype(np.uint8)


def explain(change: np.ndarray, cause: np.ndarray, pixel_area_km2: float) -> pd.DataFrame:
    """Return what a change is made of.

    Args:
        change: of ``transition``.
        cause: of ``causes``.
        pixel_area_km2: of one pixel.

    Returns:
        direction (lost, gained), cause, pixels, area_km2 and share, the part of that direction's
        area (nan if there is none).
    """
    numbers = {
        TRANSITIONS[code]: np.bincount(cause[change == code], minlength=len(CAUSES) + 1)[1:]
        for code in (LOST, GAINED)
    }
    pixels = pd.DataFrame(numbers, index=list(CAUSES.values())).unstack()
    table = pixels.rename_axis(["direction", "cause"]).rename("pixels").reset_index()
    table["area_km2"] = table["pixels"] * pixel_area_km2
    table["share"] = table["pixels"] / table.groupby("direction")["pixels"].transform("sum")
    return table


def _edge(change: np.ndarray) -> np.ndarray:
    """Changed pixels that touch the first map's outline."""
    was = (change == 1) | (change == LOST)
    was_not = (change == 0) | (change == GAINED)
    near_glacier = ndimage.binary_dilation(was, _SQUARE)
    near_background = ndimage.binary_dilation(was_not, _SQUARE)
    return ((change == GAINED) & near_glacier) | ((change == LOST) & near_background)
