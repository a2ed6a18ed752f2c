"""Cloud and cloud shadow: where a mask comes from, what it says, and how far to believe it.

A mask of the user's goes first, then the scene classification that comes with Sentinel-2 (SCL),
then the network of ukis-csmask (Wieland, Fichtner and Martinis 2022, ISPRS Archives XLIII-B3;
Apache-2.0, its weights come with the package), else nothing is assessed; the mask's
`text` says which.

Why csmask is shown, but drops nothing unless asked to. Measured, fraction of labelled ice or snow
that is called cloud, weights L1C / L2A, surface reflectance:

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
water cloud. Cloud painted on Athabasca at 30 m, where thick: 0 to 42 / 0 to 2 % found; on the
sample at 30 m: 8 to 82 / 0 to 8 %. "Clear" is therefore no proof of clear sky.

The L1C weights found more everywhere, and at 30 m at no cost in ice: they are used for surface
reflectance too. On Everest's 8-bit numbers neither saw cloud, and L1C took 2 % of the ice-free
ground for shadow; such numbers are refused, since the network's scaling means nothing there. SCL's
thin cirrus (class 10, 458 km2 at Nuuk, of which csmask calls 0.5 % cloud) is a veil through which
the ground is seen; it counts as clear.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import lru_cache
from itertools import product

import numpy as np

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError, did_you_mean, plain
from glacier_utils.imagery.source import Source
from glacier_utils.imagery.warp import warp_mask
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.mask import Mask

CLEAR, CLOUD, SHADOW = 0, 1, 2
METHODS = ("auto", "ready", "scl", "csmask", "none")

BANDS = ("blue", "green", "red", "nir")
"""The bands of ukis-csmask, in the order of its weights."""

WORKING_M = 30.0  # the resolution that the package's authors recommend
MAX_PIXEL_M = 40.0  # coarser pixels are beyond what the network was made for
_LEVEL = "L1C"
_INSTALL = "pip install -e '.[cloud]'"

# CSmask cuts an image into tiles of 256 pixels, one every 204 pixels, that overlap and are blended.
# A pixel's class depends on the whole of its tiles. So larger frames are cut into blocks of whole
# steps, each read with what its tiles reach beyond it: the classes are those of the whole frame.
_STEP = 204
_BLOCK = 6 * _STEP  # a Sentinel-2 tile has nine of them at 30 m; one needs 0.8 GB
_BLOCKS_KEPT = 16  # of 1.5 MB
_ROWS = 256  # working pixels that are read at a time

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
        method: "ready", "scl", "csmask" or "none": what is used, after the choice of "auto".
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


class NetworkMask(Mask):
    """0 clear, 1 cloud, 2 cloud shadow by ukis-csmask, whatever stands where ``source`` is invalid.

    Pixels finer than 30 m are averaged to the nearest whole multiple up to 30 m, in squares that
    count from the frame's corner; coarser ones are taken as they are.

    Args:
        source: the image, with red, green, blue and nir as reflectance.
    """

    def __init__(self, source: Source) -> None:
        self.grid = source.grid
        resolution = source.grid.resolution
        # Pixels to a side of one that the network sees.
        self.factor = 1 if math.isnan(resolution) else max(1, int(WORKING_M / resolution + 0.01))
        self._source = source
        self._order = [source.bands.index(name) for name in BANDS]
        self._shape = tuple(math.ceil(side / self.factor) for side in source.grid.shape)
        self._block = lru_cache(_BLOCKS_KEPT)(self._predict)

    def _read(self, row: int, col: int, window: Grid) -> np.ndarray:
        """Read a window; outside the frame it is 0.

        Raises:
            GlacierError: the network is not installed or fails.
        """
        result = np.zeros(window.shape, np.uint8)
        side = _BLOCK * self.factor
        top, bottom = max(row, 0), min(row + window.height, self.grid.height)
        left, right = max(col, 0), min(col + window.width, self.grid.width)
        for y in range(top // side * side, bottom, side):
            for x in range(left // side * side, right, side):
                rows = np.arange(max(top, y), min(bottom, y + side))
                cols = np.arange(max(left, x), min(right, x + side))
                block = self._block(y // side, x // side)
                codes = block[np.ix_((rows - y) // self.factor, (cols - x) // self.factor)]
                result[np.ix_(rows - row, cols - col)] = codes
        return result

    def _predict(self, i: int, j: int) -> np.ndarray:
        """Return the classes of a block as uint8 [row, col] of working pixels."""
        (top, bottom), (left, right) = (
            (max(n * _BLOCK - _STEP, 0), min((n + 1) * _BLOCK + _STEP + 1, length))
            for n, length in zip((i, j), self._shape, strict=True)
        )
        image = self._average(top, left, bottom, right)
        if not image.any():
            return np.zeros((_BLOCK, _BLOCK), np.uint8)
        codes = _classify(image)[i * _BLOCK - top :, j * _BLOCK - left :]
        return codes[:_BLOCK, :_BLOCK].copy()

    def _average(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """Return working pixels, float32 [row, col, band], 0 where nothing in one is valid."""
        factor, width = self.factor, right - left
        image = np.zeros((bottom - top, width, len(BANDS)), np.float32)
        with self._source.kept_open(width * factor) as source:
            for row in range(top, bottom, _ROWS):
                height = min(_ROWS, bottom - row)
                # Beyond the frame it is invalid: squares that the edge cuts average what is there.
                part = source.read(row * factor, left * factor, height * factor, width * factor)
                squares = (height, factor, width, factor)
                count = part.valid.reshape(squares).sum(axis=(1, 3))
                total = part.reflectance[self._order].reshape(len(BANDS), *squares)
                mean = total.sum(axis=(2, 4)) / np.maximum(count, 1).astype(np.float32)
                image[row - top : row - top + height] = np.moveaxis(mean, 0, -1)
        return image


def _classify(image: np.ndarray) -> np.ndarray:
    """Return the classes [row, col] that the network gives an image [row, col, band]."""
    if reason := missing():
        raise GlacierError(f"cloud mask: {reason}, or choose another cloud method")
    from ukis_csmask.mask import CSmask

    try:
        with warnings.catch_warnings():
            # Smaller images than a tile are mirrored, which it would rather not do.
            warnings.filterwarnings("ignore", message="Your input image is smaller")
            # One thread: several wait for each other in a busy loop, which shared machines pay for.
            found = CSmask(
                image, list(BANDS), _LEVEL, intra_op_num_threads=1, inter_op_num_threads=1,
                providers=["CPUExecutionProvider"],
            )  # fmt: skip
    except Exception as error:  # onnxruntime raises types of its own, and plain RuntimeError
        raise GlacierError(
            f"ukis-csmask: the network failed ({plain(error)[:200]}); choose another cloud method, "
            f"or install it again: {_INSTALL}"
        ) from error
    return found.csm[..., 0]


def missing() -> str:
    """Return why the network cannot run here, in words; empty if it can."""
    try:
        import onnxruntime  # noqa: F401
        import ukis_csmask  # noqa: F401
    except ImportError:
        return f"ukis-csmask is not installed: {_INSTALL}"
    return ""


def cloud_mask(
    source: Source, *, scl: Mask | None = None, ready: Mask | None = None, method: str = "auto"
) -> CloudMask:
    """Return the cloud mask of an image on its grid, read a window at a time.

    Args:
        source: the image; csmask needs red, green, blue and nir as reflectance.
        scl: Sentinel-2's scene classification, codes 0..11, on any grid.
        ready: a mask of the user: 0 clear, 1 cloud, 2 cloud shadow, 255 unknown; on any grid.
        method: "ready", "scl", "csmask" or "none"; "auto" takes the first of them that there is:
            the user's mask, the scene classification, csmask where it is installed and the
            image is fit for it (see `unfit`), else none.

    Returns:
        The mask: uint8, 0 clear, 1 cloud, 2 cloud shadow, 255 not assessed. Its ``text`` says
        what was taken, and why.

    Raises:
        GlacierError: an unknown method, a method without what it needs, an image that is not fit
            for csmask (its pixel size is left to the user).
    """
    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        raise GlacierError(f"cloud method {method!r}: no such method; {hint}")
    masks = {"ready": ready, "scl": scl}
    if method in masks and masks[method] is None:
        raise GlacierError(f"cloud method {method!r}: needs {_NEEDS[method]}; give it, or use auto")
    if method == "csmask" and (problem := missing() or unfit(source, any_size=True)):
        raise GlacierError(f"cloud method 'csmask': {problem}; use another cloud method")
    text = "clouds: not assessed (as asked for)"
    if method == "auto":
        method = next((name for name, mask in masks.items() if mask is not None), "csmask")
        if method == "csmask" and (problem := unfit(source) or missing()):
            method, text = "none", f"clouds: not assessed (no scene classification, and {problem})"
    if method == "ready" and ready is not None:
        inner = warp_mask(ready, source.grid, name="cloud mask")
        return CloudMask(source, method, "clouds: the mask that was given", inner)
    if method == "scl" and scl is not None:
        inner = warp_mask(scl, source.grid, name="scene classification")
        text = "clouds: scene classification (classes 8 and 9, without thin cirrus; shadow 3)"
        return CloudMask(source, method, text, inner, _SCL_CODES)
    if method == "none":
        return CloudMask(source, method, text, None)
    network = NetworkMask(source)
    size = source.grid.resolution * network.factor
    seen = "pixels of unknown size" if math.isnan(size) else f"{size:.3g} m"
    text = (
        f"clouds: ukis-csmask, {_LEVEL} weights, at {seen}: a hint, no patch is dropped for it "
        "unless asked for"
    )
    wrong = _wrong_size(source)
    return CloudMask(source, method, f"{text}; {wrong}" if wrong else text, network)


def unfit(source: Source, *, any_size: bool = False) -> str:
    """Return why an image is not fit for csmask, in words; empty if it is.

    It needs red, green, blue and near infrared as reflectance, and pixels of at most 40 m (finer
    ones are averaged to 30 m). Digital numbers are told by their scale (8-bit numbers divided by
    255 are multiples of 1/255) and by their size (a median above 2).

    Args:
        source: the image.
        any_size: leave the size of the pixels out.
    """
    lacking = [name for name in BANDS if name not in source.bands]
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
    height, width = source.grid.shape
    side = 64
    for down, across in product((0.5, 0.2, 0.8), repeat=2):
        row, col = (max(0, int(x) - side // 2) for x in (down * height, across * width))
        image = source.read(row, col, min(side, height), min(side, width))
        if image.valid.any():
            return image.reflectance[:, image.valid]
    return np.empty((len(source.bands), 0), np.float32)


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
