"""Cleaning a predicted mask by the rules of GlacierNet.

Masks are bool or uint8 [row, col]: 0 not glacier, 1 glacier, 255 unknown. Unknown pixels stay so,
and nothing changes merely because it lies beside one or at the frame.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from glacier_utils.conventions import SMALLEST_GLACIER_KM2, UNKNOWN

# GlacierNet's sizes (Xie et al. 2020, IEEE Access 8): regions below about 0.9 km2 are removed and
# holes below about 0.225 km2 filled.
MIN_AREA_KM2 = 0.9
MAX_HOLE_KM2 = 0.225

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_FOUR_NEIGHBOURS = ndimage.generate_binary_structure(2, 1)


def clean(
    mask: np.ndarray,
    pixel_area_km2: float,
    *,
    min_area_km2: float = MIN_AREA_KM2,
    max_hole_km2: float = MAX_HOLE_KM2,
) -> np.ndarray:
    """Remove small glacier regions, then fill small holes, as GlacierNet does afterwards.

    The original also asks for a mean slope under 30 degrees, which needs a terrain model and is
    left out.

    Args:
        mask: bool or uint8 [row, col]: 0, 1, 255.
        pixel_area_km2: area of one pixel.
        min_area_km2: smaller glacier regions are removed (``remove_small``).
        max_hole_km2: smaller holes are filled (``fill_holes``).

    Returns:
        A new mask of the same type.
    """
    mask = remove_small(mask, pixel_area_km2, min_area_km2=min_area_km2)
    return fill_holes(mask, pixel_area_km2, max_hole_km2=max_hole_km2)


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
) -> np.ndarray:
    """Turn regions of 0 (4-neighbourhood) smaller than ``max_hole_km2`` into 1.

    Not those that touch the frame or an unknown pixel: there nobody knows that they are holes.

    Args:
        mask: bool or uint8 [row, col]: 0, 1, 255.
        pixel_area_km2: area of one pixel; nan, for unknown, changes nothing.
        max_hole_km2: holes of this area and more stay.

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
    return _mask(glacier | is_hole[holes], unknown, mask)


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where glacier is, and where nobody knows."""
    mask = np.asarray(mask)
    unknown = mask == UNKNOWN
    return (mask != 0) & ~unknown, unknown


def _mask(glacier: np.ndarray, unknown: np.ndarray, like: np.ndarray) -> np.ndarray:
    result = glacier.astype(np.asarray(like).dtype)
    result[unknown] = UNKNOWN
    return result


def _regions(
    mask: np.ndarray, pixel_area_km2: float, structure: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected regions of ``mask`` from 1; return numbers [row, col] and areas."""
    numbers, count = ndimage.label(mask, structure=structure)
    areas = np.bincount(numbers.ravel(), minlength=count + 1) * pixel_area_km2
    return numbers, areas
