"""Cleaning a predicted mask as choices: what each does, and what it does to the scores.

Masks are bool or uint8 [row, col]: 0 not glacier, 1 glacier, 255 unknown. Unknown pixels stay so,
and nothing changes merely because it lies beside one or at the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy import ndimage

from glacier_utils.conventions import UNKNOWN
from glacier_utils.metrics import boundary_distance, count
from glacier_utils.raster.grid import Grid

# GlacierNet's sizes (Xie et al. 2020, IEEE Access 8): regions below about 0.9 km2 are removed and
# holes below about 0.225 km2 filled.
MIN_AREA_KM2 = 0.9
MAX_HOLE_KM2 = 0.225
# The smallest glacier of an inventory (Paul et al. 2009, Ann. Glaciol. 50(53), 119).
LEAST_KM2 = 0.01
RADIUS_PX = 1.5  # the eight neighbours
AS_PREDICTED = "as predicted"

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_FOUR_NEIGHBOURS = ndimage.generate_binary_structure(2, 1)


def clean(
    mask: np.ndarray,
    pixel_area_km2: float,
    *,
    min_area_km2: float = MIN_AREA_KM2,
    max_hole_km2: float = MAX_HOLE_KM2,
    keep: np.ndarray | None = None,
) -> np.ndarray:
    """Remove small glacier regions, then fill small holes, as GlacierNet does afterwards.

    The original also asks for a mean slope under 30 degrees, which needs a terrain model and is
    left out.

    Args:
        mask: see above.
        pixel_area_km2: area of one pixel.
        min_area_km2, max_hole_km2, keep: see ``remove_small`` and ``fill_holes``.

    Returns:
        A new mask of the same type.

    Raises:
        ValueError: the mask is not two-dimensional, or ``keep`` is not of its shape.
    """
    mask = remove_small(mask, pixel_area_km2, min_area_km2=min_area_km2)
    return fill_holes(mask, pixel_area_km2, max_hole_km2=max_hole_km2, keep=keep)


def remove_small(
    mask: np.ndarray, pixel_area_km2: float, *, min_area_km2: float = LEAST_KM2
) -> np.ndarray:
    """Turn glacier regions (8-neighbourhood) smaller than ``min_area_km2`` into 0.

    Returns and raises as ``clean``.
    """
    glacier, unknown = _parts(mask)
    regions, areas = _regions(glacier, pixel_area_km2, _EIGHT_NEIGHBOURS)
    # Written so that an area that nobody knows (nan) changes nothing.
    return _mask(glacier & ~(areas < min_area_km2)[regions], unknown, mask)


def fill_holes(
    mask: np.ndarray,
    pixel_area_km2: float,
    *,
    max_hole_km2: float = MAX_HOLE_KM2,
    keep: np.ndarray | None = None,
) -> np.ndarray:
    """Turn regions of 0 (4-neighbourhood) smaller than ``max_hole_km2`` into 1.

    Not those that touch the frame or an unknown pixel: there nobody knows that they are holes.

    Args:
        keep: [row, col], True or 1 on known nunataks: a hole with one such pixel stays whole.

    Returns and raises as ``clean``.
    """
    glacier, unknown = _parts(mask)
    holes, areas = _regions(~glacier & ~unknown, pixel_area_km2, _FOUR_NEIGHBOURS)
    is_hole = areas < max_hole_km2
    is_hole[0] = False
    is_hole[holes[_at_the_edge(unknown)]] = False
    if keep is not None:
        keep = np.asarray(keep)
        if keep.shape != glacier.shape:
            raise ValueError(f"keep {keep.shape} and mask {glacier.shape} differ in shape")
        is_hole[holes[keep == 1]] = False
    return _mask(glacier | is_hole[holes], unknown, mask)


def opening(
    mask: np.ndarray,
    pixel_area_km2: float | None = None,
    *,
    radius_px: float = RADIUS_PX,
    radius_m: float | None = None,
) -> np.ndarray:
    """Remove glacier where no disk fits in: specks, and necks that join glaciers to snow.

    Morphological opening. A disk may lie partly on unknown pixels and outside the frame.

    Args:
        radius_px: of the disk, in pixels: 1 is a pixel with its four neighbours, 1.5 with all
            eight.
        radius_m: the same in metres, instead; needs ``pixel_area_km2``.

    Returns and raises as ``clean``.
    """
    glacier, unknown = _parts(mask)
    disk = _disk(radius_px, radius_m, pixel_area_km2)
    return _mask(glacier & _open(glacier | unknown, disk), unknown, mask)


def closing(
    mask: np.ndarray,
    pixel_area_km2: float | None = None,
    *,
    radius_px: float = RADIUS_PX,
    radius_m: float | None = None,
) -> np.ndarray:
    """Turn 0 into glacier where no disk of 0 fits in: cracks, and small holes.

    The opening of what is not glacier, with the arguments of ``opening``.
    """
    glacier, unknown = _parts(mask)
    disk = _disk(radius_px, radius_m, pixel_area_km2)
    return _mask(glacier | ~_open(~glacier, disk), unknown, mask)


Choice = Callable[..., np.ndarray]


def _choice(*steps: Choice) -> Choice:
    """Return a choice: a function of a mask, its grid and the pixels of known nunataks."""

    def choice(mask: np.ndarray, grid: Grid | float, keep: np.ndarray | None = None) -> np.ndarray:
        for step in steps:
            known = {"keep": keep} if step in (fill_holes, clean) else {}
            mask = step(mask, _pixel_area(grid), **known)
        return mask

    return choice


# name -> function(mask, grid or area of a pixel in km2, keep=None) -> mask, with the defaults of
# the functions above.
CHOICES: dict[str, Choice] = {
    "minimum area": _choice(remove_small),
    "holes filled": _choice(fill_holes),
    "opening": _choice(opening),
    "closing": _choice(closing),
    "opening, minimum area, holes filled": _choice(opening, remove_small, fill_holes),
    "GlacierNet's rules": _choice(clean),
}


def effects(
    mask: np.ndarray,
    reference: np.ndarray,
    grid: Grid,
    *,
    choices: Mapping[str, Choice] | None = None,
    keep: np.ndarray | None = None,
) -> pd.DataFrame:
    """Score a map as predicted and after each clean-up.

    Args:
        mask: uint8 [row, col].
        reference: label of the same shape; where it is 255 nothing is scored.
        grid: of both.
        choices: None takes ``CHOICES``.
        keep: pixels of known nunataks, for the choices that fill holes.

    Returns:
        choice, iou, precision, recall, boundary_median_m (of both rims, nan where a map has none or
        the size of a pixel is not known), area_km2 of the whole map, regions (8-neighbourhood) and
        changed_px; the first row is "as predicted".

    Raises:
        ValueError: the shapes differ.
    """
    mask = np.asarray(mask)
    rows = []
    for name, choice in {AS_PREDICTED: None, **(CHOICES if choices is None else choices)}.items():
        found = mask if choice is None else choice(mask, grid, keep=keep)
        scores = count(found, reference)
        rows.append(
            {
                "choice": name,
                **{score: scores.score(score) for score in ("iou", "precision", "recall")},
                "boundary_median_m": _median_m(found, reference, grid),
                "area_km2": float((found == 1).sum() * grid.pixel_area_km2),
                "regions": int(ndimage.label(found == 1, structure=_EIGHT_NEIGHBOURS)[1]),
                "changed_px": int((found != mask).sum()),
            }
        )
    return pd.DataFrame(rows)


def _median_m(mask: np.ndarray, reference: np.ndarray, grid: Grid) -> float:
    if not math.isfinite(grid.resolution):
        return math.nan
    return boundary_distance(mask, reference, grid.resolution, tolerances_m=())["median_m"]


def _pixel_area(grid: Grid | float) -> float:
    return float(getattr(grid, "pixel_area_km2", grid))


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where glacier is, and where nobody knows."""
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask must be [row, col], but has {mask.ndim} dimensions")
    unknown = np.zeros(mask.shape, dtype=bool) if mask.dtype == bool else mask == UNKNOWN
    return (mask != 0) & ~unknown, unknown


def _mask(glacier: np.ndarray, unknown: np.ndarray, like: np.ndarray) -> np.ndarray:
    result = glacier.astype(np.asarray(like).dtype)
    result[unknown] = UNKNOWN
    return result


def _disk(radius_px: float, radius_m: float | None, pixel_area_km2: float | None) -> np.ndarray:
    if radius_m is not None:
        if pixel_area_km2 is None or not math.isfinite(pixel_area_km2):
            raise ValueError(f"radius_m {radius_m}: needs the area of a pixel; give radius_px")
        radius_px = radius_m / math.sqrt(pixel_area_km2 * 1e6)
    if not 0 <= radius_px < math.inf:
        raise ValueError(f"the radius of the disk, {radius_px} pixels, must be 0 or more")
    reach = np.arange(-math.floor(radius_px), math.floor(radius_px) + 1)
    # A hair more, for radii such as 30 m / 10.0 m that are no whole numbers.
    return np.hypot(reach[:, None], reach) <= radius_px * (1 + 1e-9)


def _open(true: np.ndarray, disk: np.ndarray) -> np.ndarray:
    """Open a mask as if it were True far beyond the frame."""
    margin = len(disk)
    wide = np.pad(true, margin, constant_values=True)
    eroded = ndimage.binary_erosion(wide, disk, border_value=1)
    opened = ndimage.binary_dilation(eroded, disk)
    return opened[margin:-margin, margin:-margin]


def _regions(mask: np.ndarray, pixel_area_km2: float, structure: np.ndarray):
    """Number the connected regions of ``mask`` from 1; return numbers [row, col] and areas."""
    numbers, count = ndimage.label(mask, structure=structure)
    areas = np.bincount(numbers.ravel(), minlength=count + 1) * pixel_area_km2
    return numbers, areas


def _at_the_edge(unknown: np.ndarray) -> np.ndarray:
    """Mark the pixels along the frame and those beside unknown ones."""
    edge = ndimage.binary_dilation(unknown, structure=_FOUR_NEIGHBOURS)
    edge[[0, -1], :] = True
    edge[:, [0, -1]] = True
    return edge
