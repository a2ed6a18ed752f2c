"""Cloud and cloud shadow: where a mask comes from, and what it says.

A mask of the user's goes first, then the scene classification that comes with Sentinel-2 (SCL),
else nothing is assessed; the mask's `text` says which. SCL's thin cirrus (class 10) is a veil
through which the ground is seen; it counts as clear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from glacier_utils.conventions import BANDS, UNKNOWN
from glacier_utils.errors import GlacierError, did_you_mean
from glacier_utils.imagery.examination import sample_values, spread_windows
from glacier_utils.imagery.source import Source
from glacier_utils.imagery.warp import warp_mask
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.mask import Mask

CLEAR, CLOUD, SHADOW = 0, 1, 2
# No cloud is as dark as that on the whole; less of an image may be the edges of some.
_DARK_CLOUD, _SOME_CLOUD = 0.2, 0.05
METHODS = ("auto", "ready", "scl", "none")

_OWN_CODES = {CLEAR: CLEAR, CLOUD: CLOUD, SHADOW: SHADOW}
# Sen2Cor's scene classification. 0 is no data, 1 saturated or defective; every class that is not
# named (topographic shadow, vegetation, bare ground, water, unclassified, thin cirrus, snow) is
# clear.
_SCL_CODES = dict.fromkeys(range(UNKNOWN), CLEAR) | {
    0: UNKNOWN, 1: UNKNOWN, 3: SHADOW, 8: CLOUD, 9: CLOUD
}  # fmt: skip
_NEEDS = {
    "ready": "a cloud mask of your own (0 clear, 1 cloud, 2 shadow)",
    "scl": "the scene classification (SCL)",
}


class CloudMask(Mask):
    """0 clear, 1 cloud, 2 cloud shadow; 255 where nothing was assessed or the image is invalid.

    Attributes:
        method: "ready", "scl" or "none": what is used, after the choice of "auto".
        text: one line that says so, and why.

    Args:
        source: the image.
        method: as above.
        text: as above.
        inner: the classes behind it, None where nothing was assessed.
        codes: cloud class of each class of ``inner``; what is not named is unknown.
    """

    def __init__(
        self,
        source: Source,
        method: str,
        text: str,
        inner: Mask | None,
        codes: Mapping[int, int] = _OWN_CODES,
    ) -> None:
        self.grid = source.grid
        self.method = method
        self.text = text
        self._source = source
        self._inner = inner
        self._codes = np.array([codes.get(code, UNKNOWN) for code in range(256)], np.uint8)

    def _read(self, row: int, col: int, window: Grid) -> np.ndarray:
        """Read a window; a pixel's class does not depend on it."""
        codes = np.full(window.shape, UNKNOWN, np.uint8)
        if self._inner is not None:
            valid = self._source.read(row, col, *window.shape).valid
            if valid.any():
                codes[valid] = self._codes[self._inner.read(row, col, *window.shape)[valid]]
        return codes


def cloud_mask(
    source: Source, *, scl: Mask | None = None, ready: Mask | None = None, method: str = "auto"
) -> CloudMask:
    """Return the cloud mask of an image on its grid, read a window at a time.

    Args:
        source: the image.
        scl: Sentinel-2's scene classification, codes 0..11, on any grid.
        ready: a mask of the user: 0 clear, 1 cloud, 2 cloud shadow, 255 unknown; on any grid.
        method: "ready", "scl" or "none"; "auto" takes the first of them that there is.

    Returns:
        The mask: uint8, 0 clear, 1 cloud, 2 cloud shadow, 255 not assessed. Its ``text`` says
        what was taken, and why.

    Raises:
        GlacierError: an unknown method, a method without what it needs.
    """
    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        raise GlacierError(f"cloud method {method!r}: no such method; {hint}")
    masks = {"ready": ready, "scl": scl}
    if method in masks and masks[method] is None:
        raise GlacierError(f"cloud method {method!r}: needs {_NEEDS[method]}; give it, or use auto")
    text = "clouds: not assessed (as asked for)"
    if method == "auto":
        method = next((name for name, mask in masks.items() if mask is not None), "none")
        text = "clouds: not assessed (neither a mask nor a scene classification)"
    if method == "ready" and ready is not None:
        inner = warp_mask(ready, source.grid, name="cloud mask")
        return CloudMask(source, method, "clouds: the mask that was given", inner)
    if method == "scl" and scl is not None:
        inner = warp_mask(scl, source.grid, name="scene classification")
        text = "clouds: scene classification (classes 8 and 9, without thin cirrus; shadow 3)"
        return CloudMask(source, method, text, inner, _SCL_CODES)
    return CloudMask(source, method, text, None)


def unfit(source: Source) -> str:
    """Return why rules on surface reflectance do not hold for an image; empty where they do.

    They need red, green, blue and near infrared as reflectance. Digital numbers are told by their
    scale (8-bit numbers divided by 255 are multiples of 1/255) and their size (a median above 2).

    Args:
        source: the image.
    """
    lacking = [name for name in BANDS if name not in source.bands]
    if lacking:
        return f"it has no {', '.join(lacking)}"
    sampled, _ = sample_values(source)
    if sampled.size and np.median(sampled) > 2:
        return "the image is not in reflectance (its median is above 2)"
    steps = sampled * 255
    # A handful of levels is flat ground, and some of them are multiples of 1/255 by chance.
    if np.unique(sampled).size > 16 and np.allclose(steps, np.round(steps), atol=1e-3):
        return "the image holds 8-bit digital numbers, no reflectance"
    return ""


def looks_inverted(source: Source, mask: Mask) -> str:
    """Say where a mask calls most of an image cloud, and that is darker than the rest; else "".

    Of less, cloud over bare ground may be darker than snow: but not as dark as the ground.

    Args:
        source: the image.
        mask: of the user, on its grid: 0 clear, 1 cloud, 2 cloud shadow.
    """
    light: dict[int, list[np.ndarray]] = {CLEAR: [], CLOUD: []}
    for window in spread_windows(source)[0]:
        image, codes = source.read(*window), mask.read(*window)
        for code, found in light.items():
            found.append(image.reflectance[:, image.valid & (codes == code)].mean(axis=0))
    clear, cloud = map(np.concatenate, light.values())
    if not (cloud.size and clear.size):
        return ""
    part = cloud.size / (cloud.size + clear.size)
    limit = clear.mean() if part > 0.5 else min(clear.mean() / 2, _DARK_CLOUD)
    if part < _SOME_CLOUD or cloud.mean() > limit:
        return ""
    return (
        f"`clouds` calls {part:.0%} of the image cloud, and that "
        "is darker than the rest; the mask may be inverted: 1 means cloud, 0 clear"
    )


def cloud_fractions(codes: np.ndarray) -> dict[str, float]:
    """Return the fractions of cloud and of cloud shadow among the assessed pixels, 0..1.

    Args:
        codes: uint8 [row, col]: 0 clear, 1 cloud, 2 cloud shadow, 255 not assessed.

    Returns:
        "cloud" and "shadow"; nan where nothing was assessed.

    Example:
        >>> cloud_fractions(np.array([[0, 1, 1, 255], [2, 0, 0, 0]], np.uint8))["shadow"]
        0.14285714285714285
    """
    assessed = int(np.count_nonzero(codes != UNKNOWN))
    return {
        name: int(np.count_nonzero(codes == code)) / assessed if assessed else math.nan
        for name, code in (("cloud", CLOUD), ("shadow", SHADOW))
    }
