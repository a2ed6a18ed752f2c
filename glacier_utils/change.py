"""Two dates of one place: mapped area with its uncertainty, what changed, and what that means.

A glacier's extent changes by metres in a month, the snow around it by kilometres. A difference
between two maps of one summer is therefore first of all snow, shadow and the method's own error:
the functions here give each difference with its interval and with the rule that explains it.

Areas are in km2. Maps are 0 / 1 / 255 (unknown) ``[row, col]``, or probabilities with nan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from glacier_utils.grids import Grid, Image
from glacier_utils.metrics import UNKNOWN, classify
from glacier_utils.quality import is_shadow, is_snow, is_water

TRANSITIONS = {
    0: "stable, not glacier",
    1: "stable glacier",
    2: "lost",
    3: "gained",
    255: "unknown",
}
LOST, GAINED = 2, 3
# In the order in which they are tried: the first rule that holds names the cause.
CAUSES = {1: "snow", 2: "shadow", 3: "water", 4: "edge", 5: "rest"}
NO_CAUSE = 0
_SQUARE = np.ones((3, 3), bool)


def mapped_area(
    probability: np.ndarray, grid: Grid | float, threshold: float = 0.5
) -> dict[str, float]:
    """Return area_km2, unknown_km2 and uncertainty_km2 of a map.

    probability ``[row, col]``, nan where not predicted; ``grid`` is the grid or one pixel's area in
    km2. The uncertainty is that of the buffer method (Granshaw & Fountain 2006, J. Glaciol. 52,
    251-256; Paul et al. 2013, Ann. Glaciol. 54(63), 171-182): the outline is moved by one pixel
    outwards and inwards,

        uncertainty = (A(+1 pixel) - A(-1 pixel)) / 2.

    All of the outline errs in one direction here, so this is a bound rather than a standard
    deviation. Wrongly mapped regions (seasonal snow, missed debris) are not in it. The outline is
    not moved across the frame or into unknown pixels, whose area is given apart.
    """
    mask = classify(probability, threshold)
    pixel = _pixel_area(grid)
    return {
        "area_km2": float((mask == 1).sum() * pixel),
        "unknown_km2": float((mask == UNKNOWN).sum() * pixel),
        "uncertainty_km2": _buffer_pixels(mask) * pixel,
    }


def area_change(
    before: np.ndarray, after: np.ndarray, grid: Grid | float, threshold: float = 0.5
) -> dict[str, float | bool]:
    """Compare the mapped areas of two dates on the pixels that are known on both.

    before and after: probabilities ``[row, col]`` on one grid, nan where not predicted. Returns
    before_km2, after_km2, their before_uncertainty_km2 and after_uncertainty_km2 (as in
    ``mapped_area``), change_km2 (after minus before) with uncertainty_km2, low_km2, high_km2,
    change_percent (nan if nothing was mapped before), lost_km2, gained_km2, unknown_km2, and
    ``distinguishable``: whether the interval leaves out zero. The two uncertainties are added in
    quadrature, as for independent errors; one model's errors on two dates are alike, which makes
    the interval wide rather than narrow. ValueError if the shapes differ.
    """
    change = transition(classify(before, threshold), classify(after, threshold))
    pixel = _pixel_area(grid)
    known = change != UNKNOWN
    first = np.where(known, (change == 1) | (change == LOST), UNKNOWN)
    second = np.where(known, (change == 1) | (change == GAINED), UNKNOWN)
    areas = [float((mask == 1).sum() * pixel) for mask in (first, second)]
    errors = [_buffer_pixels(mask) * pixel for mask in (first, second)]
    difference, error = areas[1] - areas[0], math.hypot(*errors)
    low, high = difference - error, difference + error
    return {
        "before_km2": areas[0],
        "after_km2": areas[1],
        "before_uncertainty_km2": errors[0],
        "after_uncertainty_km2": errors[1],
        "change_km2": difference,
        "uncertainty_km2": error,
        "low_km2": low,
        "high_km2": high,
        "change_percent": 100 * difference / areas[0] if areas[0] else math.nan,
        "lost_km2": float((change == LOST).sum() * pixel),
        "gained_km2": float((change == GAINED).sum() * pixel),
        "unknown_km2": float((~known).sum() * pixel),
        "distinguishable": bool(low > 0 or high < 0),
    }


def transition(
    before: np.ndarray, after: np.ndarray, valid: np.ndarray | None = None
) -> np.ndarray:
    """Return the change of each pixel, uint8 ``[row, col]``, with the codes of ``TRANSITIONS``.

    before and after are maps 0 / 1 / 255 or bool; ``valid`` (bool) is False where either image is
    not to be trusted. A pixel unknown on either date is 255. ValueError if the shapes differ.
    """
    before, after = np.asarray(before), np.asarray(after)
    if before.shape != after.shape:
        raise ValueError(f"the two maps differ in shape: {before.shape} and {after.shape}")
    # was + 3 is -> stable 0, lost 1, gained 3, stable glacier 4
    codes = np.array([0, LOST, UNKNOWN, GAINED, 1], np.uint8)
    change = codes[(before == 1) + 3 * (after == 1)]
    unknown = (before == UNKNOWN) | (after == UNKNOWN)
    if valid is not None:
        unknown |= ~np.asarray(valid, bool)
    change[unknown] = UNKNOWN
    return change


def transition_table(change: np.ndarray, pixel_area_km2: float) -> pd.DataFrame:
    """Return code, name, pixels, area_km2 and share (of the known pixels; nan for unknown)."""
    numbers = np.bincount(np.asarray(change).ravel(), minlength=256)
    pixels = numbers[list(TRANSITIONS)]
    known = pixels[:-1].sum()
    share = np.append(pixels[:-1] / known if known else np.full(4, np.nan), np.nan)
    return pd.DataFrame(
        {
            "code": list(TRANSITIONS),
            "name": list(TRANSITIONS.values()),
            "pixels": pixels,
            "area_km2": pixels * pixel_area_km2,
            "share": share,
        }
    )


def causes(change: np.ndarray, before: Image, after: Image) -> np.ndarray:
    """Give each lost or gained pixel the first of these causes that holds, as codes of ``CAUSES``.

    1. snow: sunlit snow on exactly one of the dates (``quality.is_snow``: near infrared above
       0.475);
    2. shadow: in shadow on exactly one of the dates (``quality.is_shadow``);
    3. water: water on exactly one of the dates (``quality.is_water``);
    4. edge: within one pixel (8-neighbourhood) of the first map's outline, where sampling and
       registration alone move a pixel across;
    5. rest: none of these, the only class in which real change of ice may hide.

    change ``[row, col]`` as from ``transition``; images on the same grid. Returns uint8, 0 where
    nothing changed. The rules hold for surface reflectance (see ``quality``).
    """
    changed = (change == LOST) | (change == GAINED)
    rules = [
        *(_on_one_date(rule, before, after) for rule in (is_snow, is_shadow, is_water)),
        _edge(change),
        changed,
    ]
    return np.select([changed & rule for rule in rules], list(CAUSES), NO_CAUSE).astype(np.uint8)


def explain(
    change: np.ndarray, before: Image, after: Image, grid: Grid | float | None = None
) -> pd.DataFrame:
    """Return what the change is made of: a row for lost and gained by cause (see ``causes``).

    Columns: direction, cause, pixels, area_km2 and share, the part of that direction's area (nan
    if there is none). ``grid`` defaults to that of the first image.
    """
    pixel = _pixel_area(before.grid if grid is None else grid)
    cause = causes(change, before, after)
    rows = []
    for code in (LOST, GAINED):
        numbers = np.bincount(cause[change == code], minlength=len(CAUSES) + 1)
        total = numbers.sum()
        rows += [
            {
                "direction": TRANSITIONS[code],
                "cause": name,
                "pixels": int(numbers[key]),
                "area_km2": float(numbers[key] * pixel),
                "share": float(numbers[key] / total) if total else math.nan,
            }
            for key, name in CAUSES.items()
        ]
    return pd.DataFrame(rows)


def snow_fraction(image: Image, within: np.ndarray | None = None) -> float:
    """Return the share of sunlit snow among the valid, sunlit pixels inside ``within`` (bool).

    Near infrared above 0.475 parts snow from bare ice (5th percentile of snow 0.49, 95th of ice
    0.46). Shadowed pixels are left out, since shadowed snow and shadowed ice look alike. nan if
    no pixel is left.
    """
    assessed = image.valid & ~is_shadow(image.reflectance, image.bands)
    if within is not None:
        assessed = assessed & np.asarray(within, bool)
    snow = is_snow(image.reflectance, image.bands)
    return float(snow[assessed].mean()) if assessed.any() else math.nan


def statement(
    change: Mapping[str, float | bool],
    explained: pd.DataFrame | None = None,
    *,
    dates: Sequence[str] = ("the first date", "the second date"),
    name: str = "glacier area",
) -> str:
    """Return the sentences that follow from the numbers of ``area_change`` and ``explain``.

    Says "no change can be shown" exactly when the interval of the difference holds zero, and names
    the largest cause of what was mapped differently. A difference between ISO dates of less than a
    year is not called retreat or advance, which are a matter of metres in that time.
    """
    if not change["before_km2"] and not change["after_km2"]:
        return f"No {name} was mapped on {dates[0]} or {dates[1]}: there is nothing to compare."
    sentences = [
        f"The mapped {name} is {_km2(change['before_km2'])} "
        f"± {_km2(change['before_uncertainty_km2'])} km2 on {dates[0]} and "
        f"{_km2(change['after_km2'])} ± {_km2(change['after_uncertainty_km2'])} km2 on {dates[1]}.",
        _verdict(change),
    ]
    if explained is not None and explained["area_km2"].sum() > 0:
        sentences.append(_composition(explained))
    if change["distinguishable"] and _within_a_year(dates):
        sentences.append(
            "In less than a year a glacier's edge moves by metres: read this as snow, shadow and "
            "the method's own error, not as retreat or advance."
        )
    return " ".join(sentences)


def _verdict(change: Mapping[str, float | bool]) -> str:
    percent = change["change_percent"]
    relative = "" if math.isnan(percent) else f", {percent:+.1f} %"
    numbers = (
        f"{change['change_km2']:+.2f} km2{relative}, "
        f"interval {change['low_km2']:+.2f} to {change['high_km2']:+.2f} km2"
    )
    if not change["distinguishable"]:
        return f"The interval of the difference ({numbers}) holds zero: no change can be shown."
    direction = "smaller" if change["change_km2"] < 0 else "larger"
    return f"The mapped area became {direction} by more than its uncertainty ({numbers})."


def _composition(explained: pd.DataFrame) -> str:
    areas = explained.groupby("cause")["area_km2"].sum().reindex(CAUSES.values(), fill_value=0.0)
    total, largest = areas.sum(), areas.idxmax()
    rest = areas["rest"]
    sentence = (
        f"Of the {_km2(total)} km2 mapped differently, {100 * areas[largest] / total:.0f} % "
        f"is put down to {_PHRASES[largest]}"
    )
    if largest == "rest":
        return sentence + "."
    return sentence + f"; {_km2(rest)} km2 ({100 * rest / total:.0f} %) has no simple explanation."


def _within_a_year(dates: Sequence[str]) -> bool:
    days = pd.to_datetime(pd.Series(list(dates)), format="ISO8601", errors="coerce")
    return bool(days.notna().all() and days.max() - days.min() < pd.Timedelta(days=365))


_PHRASES = {
    "snow": "snow that lay on one date only",
    "shadow": "shadow on one date only",
    "water": "water on one date only",
    "edge": "jitter within one pixel of the outline",
    "rest": "none of snow, shadow, water and outline jitter",
}


def _km2(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _pixel_area(grid: Grid | float) -> float:
    return float(getattr(grid, "pixel_area_km2", grid))


def _buffer_pixels(mask: np.ndarray) -> float:
    """Half the number of pixels between the outline moved out and in by one (4-neighbourhood)."""
    glacier, background = mask == 1, mask == 0
    grown = ndimage.binary_dilation(glacier) & background
    eroded = ndimage.binary_dilation(background) & glacier
    return float(grown.sum() + eroded.sum()) / 2


def _on_one_date(rule, before: Image, after: Image) -> np.ndarray:
    return rule(before.reflectance, before.bands) ^ rule(after.reflectance, after.bands)


def _edge(change: np.ndarray) -> np.ndarray:
    """Changed pixels that touch the first map's outline."""
    was = (change == 1) | (change == LOST)
    was_not = (change == 0) | (change == GAINED)
    near_glacier = ndimage.binary_dilation(was, _SQUARE)
    near_background = ndimage.binary_dilation(was_not, _SQUARE)
    return ((change == GAINED) & near_glacier) | ((change == LOST) & near_background)
