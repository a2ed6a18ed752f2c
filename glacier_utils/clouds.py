"""Cloud and cloud shadow: where a mask comes from, what it says, and how far to believe it.

A mask of the user's goes first, then the scene classification that comes with Sentinel-2 (SCL),
then the network of ukis-csmask (`csmask`), else nothing is assessed, and `describe` says so.

Why csmask is shown, but drops nothing unless asked to (`CloudMask.decides`). Measured, share of
labelled ice or snow that is called cloud, weights L1C / L2A, surface reflectance:

- Athabasca, 16 km2 of ice, Landsat 8 and Sentinel-2 at their own 30 m: 0 / 0 % on both dates. The
  same images interpolated to twice the pixels: 23 / 76 % (Landsat), 6 / 46 % (Sentinel-2).
- The synthetic sample, cloudless, four images of 43 to 84 km2 of ice: 0 / 0 % when averaged to
  30 m, but 1.2 to 3.0 / 0.0 to 1.3 % at its own 10 m, and up to 7.5 % called shadow.
- Nuuk, Sentinel-2 at 60 m, the 28 km2 of snow in SCL: 0 / 0 %; interpolated to 30 m: 69 / 23 %.

So ice is safe at 30 m, to which finer pixels are averaged here; but the answer hangs on how sharp
the image is: smooth means cloud, and smooth snowfields and haze are what glaciers have. And it
misses much. At Nuuk (60 m) it finds 70 / 27 % of the 1953 km2 of cloud in SCL (IoU 0.40 / 0.21,
kappa 0.47 / 0.25) and calls 14 / 6 % of the rest cloud, most of it thin streaks beside the cloud,
with straight borders along its tiles; interpolated to 30 m it finds 99 % but calls half of the open
water cloud.
Cloud painted on Athabasca at 30 m, where thick: 0 to 42 / 0 to 2 % found; on the sample at 30 m:
8 to 82 / 0 to 8 %. "Clear" is therefore no proof of clear sky.

The L1C weights found more everywhere, and at 30 m at no cost in ice: they are the default for
surface reflectance too. On Everest's 8-bit numbers neither saw cloud, and L1C took 2 % of the ice-
free ground for shadow; such numbers are refused, since the network's scaling means nothing there.
SCL's thin cirrus (class 10, 458 km2 at Nuuk, of which csmask calls 0.5 % cloud) is a veil through
which the ground is seen; it counts as cloud only if asked for.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

import numpy as np

from glacier_utils import csmask
from glacier_utils.errors import GlacierError
from glacier_utils.imagery import Source
from glacier_utils.masks import UNKNOWN, Mask
from glacier_utils.warped import warp_mask

CLEAR, CLOUD, SHADOW = 0, 1, 2
CLASSES = {CLEAR: "clear", CLOUD: "cloud", SHADOW: "cloud shadow"}
METHODS = ("auto", "ready", "scl", "csmask", "none")
MAX_PIXEL_M = 40.0  # coarser pixels are beyond what the network was made for (about 30 m)

# Sen2Cor's scene classification; every other class (topographic shadow, vegetation, bare ground,
# water, unclassified, snow, and thin cirrus unless asked for) counts as clear.
_SCL_UNKNOWN = (0, 1)  # no data; saturated or defective
_SCL_SHADOW = 3
_SCL_CLOUD = (8, 9)  # medium and high probability
_SCL_CIRRUS = 10


class CloudMask(Mask):
    """0 clear, 1 cloud, 2 cloud shadow; 255 where nothing was assessed or the image is invalid.

    Attributes:
        method: "ready", "scl", "csmask" or "none": what is used, after the choice of "auto".
        text: one line that says so, and why.
        decides: whether patches may be dropped for what the mask calls cloud without the user
            asking for it: not on the word of csmask, for the reasons in this module's docstring.
    """

    def __init__(self, source: Source, method: str, text: str, inner: Mask | None) -> None:
        self.grid = source.grid
        self.method = method
        self.text = text
        self.decides = method in ("ready", "scl")
        self._source = source
        self._inner = inner

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]; a pixel's class does not depend on the window."""
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        if self._inner is None:
            return np.full((height, width), UNKNOWN, np.uint8)
        valid = self._source.read(row, col, height, width).valid
        if not valid.any():
            return np.full((height, width), UNKNOWN, np.uint8)
        return np.where(valid, self._inner.read(row, col, height, width), UNKNOWN).astype(np.uint8)


class RecodedMask(Mask):
    """``inner`` with other codes: ``codes`` maps old to new, all else becomes ``other``."""

    def __init__(self, inner: Mask, codes: dict[int, int], other: int) -> None:
        self.grid = inner.grid
        self._inner = inner
        self._lookup = np.full(256, other, np.uint8)
        self._lookup[list(codes)] = list(codes.values())

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]."""
        return self._lookup[self._inner.read(row, col, height, width)]


def cloud_mask(
    source: Source,
    *,
    scl: Mask | None = None,
    ready: Mask | None = None,
    method: str = "auto",
    level: str = "L1C",
    cirrus: bool = False,
) -> CloudMask:
    """Return the cloud mask of an image on its grid, read a window at a time.

    Args:
        source: the image; csmask needs red, green, blue and nir as reflectance.
        scl: Sentinel-2's scene classification, codes 0..11, on any grid.
        ready: a mask of the user: 0 clear, 1 cloud, 2 cloud shadow, 255 unknown; on any grid.
        method: "ready", "scl", "csmask" or "none"; "auto" takes the first of them that there is:
            the user's mask, the scene classification, csmask where it is installed and the
            image is fit for it (see `unfit`), else none. What was taken and why is in `describe`.
        level: which weights csmask uses, those made for "L1C" (top of the atmosphere) or for
            "L2A" (surface); "L1C" was the better one on surface reflectance too, see above.
        cirrus: whether the scene classification's thin cirrus counts as cloud; the ground is
            seen through it, and it is often mistaken over high ground.

    Raises:
        GlacierError: an unknown method or level, a method without what it needs, an image that
            is not fit for csmask (its pixel size is left to the user).
    """
    _check_choice("method", method, METHODS)
    level = _check_choice("level", level.upper(), csmask.LEVELS)
    for name, mask in (("ready", ready), ("scl", scl)):
        if method == name and mask is None:
            raise GlacierError(f"cloud method {name!r}: needs {_NEEDS[name]}; give it, or use auto")
    scl = None if scl is None else warp_mask(scl, source.grid, name="scene classification")
    ready = None if ready is None else warp_mask(ready, source.grid, name="cloud mask")
    reason = ""
    if method == "auto":
        method, reason = _choose(source, scl, ready)
    elif method == "csmask":
        problem = csmask.missing() or unfit(source, any_size=True)
        if problem:
            raise GlacierError(f"cloud method 'csmask': {problem}; use another cloud method")
    return CloudMask(source, method, *_inner(source, method, scl, ready, level, cirrus, reason))


_NEEDS = {
    "ready": "a cloud mask of your own (0 clear, 1 cloud, 2 shadow)",
    "scl": "the scene classification (SCL)",
}


def _choose(source: Source, scl: Mask | None, ready: Mask | None) -> tuple[str, str]:
    if ready is not None:
        return "ready", ""
    if scl is not None:
        return "scl", ""
    problem = unfit(source) or csmask.missing()
    return ("none", f"no scene classification, and {problem}") if problem else ("csmask", "")


def _inner(
    source: Source,
    method: str,
    scl: Mask | None,
    ready: Mask | None,
    level: str,
    cirrus: bool,
    reason: str,
) -> tuple[str, Mask | None]:
    """Return the line that describes the method, and the mask behind it."""
    if method == "ready":
        keep = {code: code for code in CLASSES}
        return "clouds: the mask that was given", RecodedMask(ready, keep, UNKNOWN)
    if method == "scl":
        cloud = (*_SCL_CLOUD, _SCL_CIRRUS) if cirrus else _SCL_CLOUD
        codes = dict.fromkeys(cloud, CLOUD) | {_SCL_SHADOW: SHADOW}
        codes |= dict.fromkeys((*_SCL_UNKNOWN, UNKNOWN), UNKNOWN)
        thin = "with" if cirrus else "without"
        text = f"clouds: scene classification (classes 8 and 9, {thin} thin cirrus; shadow 3)"
        return text, RecodedMask(scl, codes, CLEAR)
    if method == "none":
        return f"clouds: not assessed ({reason or 'as asked for'})", None
    mask = csmask.CsMask(source, level)
    size = source.grid.resolution * mask.factor
    seen = "pixels of unknown size" if math.isnan(size) else f"{size:.3g} m"
    text = (
        f"clouds: ukis-csmask, {level} weights, at {seen}: a hint, no patch is dropped for it "
        "unless asked for"
    )
    wrong = _wrong_size(source)
    return (f"{text}; {wrong}" if wrong else text), mask


def describe(mask_or_method: Mask | str) -> str:
    """Return one line which says what cloud mask is used and why.

    Of a mask from `cloud_mask`, or of a method's name where there is no image yet.

    Raises:
        GlacierError: an unknown method.
    """
    if isinstance(mask_or_method, CloudMask):
        return mask_or_method.text
    if isinstance(mask_or_method, Mask):
        return "clouds: the mask that was given"
    method = _check_choice("method", mask_or_method, METHODS)
    missing = csmask.missing()
    if method in ("auto", "csmask") and missing:
        also = "only the scene classification or a mask of your own; " if method == "auto" else ""
        return f"clouds: {also}{missing}"
    return {
        "auto": "clouds: a mask of your own, else the scene classification, else ukis-csmask",
        "ready": "clouds: the mask that was given",
        "scl": "clouds: scene classification",
        "csmask": "clouds: ukis-csmask: a hint, no patch is dropped for it unless asked for",
        "none": "clouds: not assessed (as asked for)",
    }[method]


def unfit(source: Source, *, any_size: bool = False) -> str:
    """Return why an image is not fit for csmask, in words; empty if it is.

    It needs red, green, blue and near infrared as reflectance, and pixels of at most 40 m (finer
    ones are averaged to 30 m). Digital numbers are told by their scale (8-bit numbers divided by
    255 are multiples of 1/255) and by their size (a median above 2). ``any_size`` leaves the size
    of the pixels out.
    """
    lacking = [name for name in csmask.BANDS if name not in source.bands]
    if lacking:
        return f"ukis-csmask needs the band{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
    sampled = _sample(source)
    if sampled.size and np.median(sampled) > 2:
        return "the image is not in reflectance (its median is above 2), which ukis-csmask needs"
    steps = sampled * 255
    # A handful of levels is flat ground, and some of them are multiples of 1/255 by chance.
    if np.unique(sampled).size > 16 and np.allclose(steps, np.round(steps), atol=1e-3):
        return "the image holds 8-bit digital numbers, no reflectance, which ukis-csmask needs"
    return "" if any_size else _wrong_size(source)


def _wrong_size(source: Source) -> str:
    size = source.grid.resolution
    if math.isnan(size):
        return "the size of the pixels is not known, and ukis-csmask needs about 10 to 30 m"
    if size > MAX_PIXEL_M:
        return f"the pixels are {size:.3g} m, and ukis-csmask needs about 10 to 30 m"
    return ""


def _sample(source: Source) -> np.ndarray:
    """Return some valid reflectances [band, pixel] from the first place of nine that has any."""
    side = 64
    for down in (0.5, 0.2, 0.8):
        for across in (0.5, 0.2, 0.8):
            image = source.read(
                max(0, int(down * source.grid.height) - side // 2),
                max(0, int(across * source.grid.width) - side // 2),
                min(side, source.grid.height),
                min(side, source.grid.width),
            )
            if image.valid.any():
                return image.reflectance[:, image.valid]
    return np.empty((len(source.bands), 0), np.float32)


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


def _check_choice(what: str, value: str, known: Iterable[str]) -> str:
    if value in known:
        return value
    near = difflib.get_close_matches(str(value), known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise GlacierError(f"cloud {what} {value!r}: no such {what}; {hint}")
