"""Cleaning a predicted mask: small glaciers out, small holes filled."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

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
        mask: bool or uint8 [row, col]; 0 not glacier, 1 glacier, 255 unknown.
        pixel_area_km2: area of one pixel.
        min_area_km2: glacier regions (8-neighbourhood) smaller than this become 0.
        max_hole_km2: regions of 0 (4-neighbourhood) smaller than this become 1, unless they touch
            the frame or an unknown pixel: there nobody knows that they are holes.

    Returns:
        A new mask of the same type; unknown pixels stay unknown.

    Raises:
        ValueError: the mask is not two-dimensional.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask must be [row, col], but has {mask.ndim} dimensions")
    unknown = np.zeros(mask.shape, dtype=bool) if mask.dtype == bool else mask == 255
    glacier = (mask != 0) & ~unknown

    regions, areas = _regions(glacier, pixel_area_km2, _EIGHT_NEIGHBOURS)
    glacier &= (areas >= min_area_km2)[regions]

    holes, areas = _regions(~glacier & ~unknown, pixel_area_km2, _FOUR_NEIGHBOURS)
    is_hole = areas < max_hole_km2
    is_hole[0] = False
    is_hole[holes[_at_the_edge(unknown)]] = False
    glacier |= is_hole[holes]

    result = glacier.astype(mask.dtype)
    result[unknown] = 255
    return result


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
