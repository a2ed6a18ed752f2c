"""Cleaning a predicted mask: what each rule does, and what it does to the scores.

Masks are bool or uint8 [row, col]: 0 not glacier, 1 glacier, 255 unknown. Unknown pixels stay so,
and nothing changes merely because it lies beside one or at the frame.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import ndimage

from glacier_utils.conventions import SMALLEST_GLACIER_KM2, UNKNOWN
from glacier_utils.metrics import boundary_distance, count
from glacier_utils.raster.grid import Grid

# GlacierNet's sizes (Xie et al. 2020, IEEE Access 8): regions below about 0.9 km2 are removed and
# holes below about 0.225 km2 filled.
MIN_AREA_KM2 = 0.9
MAX_HOLE_KM2 = 0.225
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
        mask: bool or uint8 [row, col]: 0, 1, 255.
        pixel_area_km2: area of one pixel.
        min_area_km2: smaller glacier regions are removed (``remove_small``).
        max_hole_km2: smaller holes are filled (``fill_holes``).
        keep: as of ``fill_holes``.

    Returns:
        A new mask of the same type.
    """
    mask = remove_small(mask, pixel_area_km2, min_area_km2=min_area_km2)
    return fill_holes(mask, pixel_area_km2, max_hole_km2=max_hole_km2, keep=keep)


def remove_small(
    mask: np.ndarray, pixel_area_km2: float, *, min_area_km2: float = SMALLEST_GLACIER_KM2
) -> np.ndarray:
    """Turn glacier regions (8-neighbourhood) smaller than ``min_area_km2`` into 0.

    Args:
        mask: bool or uint8 [row, col]: 0, 1, 255.
        pixel_area_km2: area of one pixel; nan, for unknown, changes nothing.
        min_area_km2: the smallest area that stays.

    Returns:
        A new mask of the same type.

    Example:
        >>> remove_small(np.array([[1, 0, 0, 0], [0, 0, 1, 1]]), 0.01, min_area_km2=0.02)
        array([[0, 0, 0, 0],
               [0, 0, 1, 1]])
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
        mask: bool or uint8 [row, col]: 0, 1, 255.
        pixel_area_km2: area of one pixel; nan, for unknown, changes nothing.
        max_hole_km2: holes of this area and more stay.
        keep: [row, col], True or 1 on known nunataks: a hole with one such pixel stays whole.

    Returns:
        A new mask of the same type.
    """
    glacier, unknown = _parts(mask)
    holes, areas = _regions(~glacier & ~unknown, pixel_area_km2, _FOUR_NEIGHBOURS)
    is_hole = areas < max_hole_km2
    is_hole[0] = False
    # Beside unknown pixels and along the frame.
    edge = ndimage.binary_dilation(unknown, _FOUR_NEIGHBOURS, border_value=1)
    is_hole[holes[edge]] = False
    if keep is not None:
        is_hole[holes[np.asarray(keep) == 1]] = False
    return _mask(glacier | is_hole[holes], unknown, mask)


def opening(mask: np.ndarray) -> np.ndarray:
    """Remove glacier where no 3 x 3 pixels fit in: specks, and necks that join glaciers to snow.

    Morphological opening. The nine pixels may lie partly on unknown ones and outside the frame.

    Args:
        mask: bool or uint8 [row, col]: 0, 1, 255.

    Returns:
        A new mask of the same type.
    """
    glacier, unknown = _parts(mask)
    return _mask(glacier & _open(glacier | unknown), unknown, mask)


def closing(mask: np.ndarray) -> np.ndarray:
    """Turn 0 into glacier where no 3 x 3 pixels of 0 fit in: cracks, and small holes.

    The opening of what is not glacier, with arguments and result of ``opening``.
    """
    glacier, unknown = _parts(mask)
    return _mask(glacier | ~_open(~glacier), unknown, mask)


# name -> function(mask, area of a pixel in km2, pixels of known nunataks) -> mask.
CHOICES: dict[str, Callable[[np.ndarray, float, np.ndarray | None], np.ndarray]] = {
    "minimum area": lambda mask, pixel, keep: remove_small(mask, pixel),
    "holes filled": lambda mask, pixel, keep: fill_holes(mask, pixel, keep=keep),
    "opening": lambda mask, pixel, keep: opening(mask),
    "closing": lambda mask, pixel, keep: closing(mask),
    "opening, minimum area, holes filled": lambda mask, pixel, keep: fill_holes(
        remove_small(opening(mask), pixel), pixel, keep=keep
    ),
    "GlacierNet's rules": lambda mask, pixel, keep: clean(mask, pixel, keep=keep),
}


def effects(
    mask: np.ndarray, reference: np.ndarray, grid: Grid, *, keep: np.ndarray | None = None
) -> pd.DataFrame:
    """Score a map as predicted and after each clean-up of ``CHOICES``.

    Args:
        mask: uint8 [row, col].
        reference: label of the same shape; where it is 255 nothing is scored.
        grid: of both.
        keep: pixels of known nunataks, for the choices that fill holes.

    Returns:
        choice, iou, precision, recall, boundary_median_m (of both rims, nan where a map has none or
        the size of a pixel is not known), area_km2 of the whole map, regions (8-neighbourhood) and
        changed_px; the first row is "as predicted".

    Raises:
        ValueError: the shapes differ.
    """
    mask = np.asarray(mask)
    masks = {AS_PREDICTED: mask}
    masks |= {name: choice(mask, grid.pixel_area_km2, keep) for name, choice in CHOICES.items()}
    rows = []
    for name, found in masks.items():
        scores = count(found, reference)
        boundary = boundary_distance(found, reference, grid.resolution, tolerances_m=())
        rows.append(
            {
                "choice": name,
                **{score: scores.score(score) for score in ("iou", "precision", "recall")},
                "boundary_median_m": boundary["median_m"],
                "area_km2": float((found == 1).sum() * grid.pixel_area_km2),
                "regions": int(ndimage.label(found == 1, structure=_EIGHT_NEIGHBOURS)[1]),
                "changed_px": int((found != mask).sum()),
            }
        )
    return pd.DataFrame(rows)


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where glacier is, and where nobody knows."""
    mask = np.asarray(mask)
    unknown = mask == UNKNOWN
    return (mask != 0) & ~unknown, unknown


def _mask(glacier: np.ndarray, unknown: np.ndarray, like: np.ndarray) -> np.ndarray:
    result = glacier.astype(np.asarray(like).dtype)
    result[unknown] = UNKNOWN
    return result


def _open(true: np.ndarray) -> np.ndarray:
    """Open a mask with 3 x 3 pixels, as if it were True far beyond the frame."""
    wide = np.pad(true, 3, constant_values=True)
    return ndimage.binary_opening(wide, _EIGHT_NEIGHBOURS)[3:-3, 3:-3]


def _regions(
    mask: np.ndarray, pixel_area_km2: float, structure: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected regions of ``mask`` from 1; return numbers [row, col] and areas."""
    numbers, count = ndimage.label(mask, structure=structure)
    areas = np.bincount(numbers.ravel(), minlength=count + 1) * pixel_area_km2
    return numbers, areas
