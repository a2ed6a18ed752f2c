"""The cloud network of ukis-csmask (Wieland et al. 2022), run a tile at a time over any source.

The package (Apache-2.0, DLR) ships its weights, so this works without a network. Its own class
takes a whole array; here the same tiles (256 px, a fifth overlapping, tapered cosine blending) are
read and cached one by one on a lattice that is fixed to the frame. The network's answer depends on
all of a tile, so that only such a lattice makes a pixel's class independent of the window asked
for; on the whole frame it is that of the package's own class.

Cloud and cloud shadow: where a mask comes from, what it says, and how far to believe it.

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
import json
import math
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from scipy.signal.windows import tukey
from scipy.special import softmax

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.source import Source
from glacier_utils.imagery.warp import warp_mask
from glacier_utils.raster.mask import Mask

BANDS = ("blue", "green", "red", "nir")
LEVELS = ("L1C", "L2A")
WORKING_M = 30.0  # the resolution that the package's authors recommend
_TILE, _OVERLAP = 256, 0.2
_STEP, _MARGIN = int(_TILE - _TILE * _OVERLAP), int(_TILE * _OVERLAP)
_TILES_KEPT = 64  # of 0.8 MB: three rows of tiles across a Sentinel-2 scene at 30 m
# The image is read in larger pieces than tiles: JPEG 2000 decodes whole blocks for any window.
_PIECE, _PIECES_KEPT = 512, 20  # working pixels; pieces of 4 MB
_INSTALL = "pip install -e '.[cloud]'"


def missing() -> str:
    """Return why the network cannot run here, in words; empty if it can."""
    try:
        import onnxruntime  # noqa: F401
        import ukis_csmask  # noqa: F401
    except ImportError:
        return f"ukis-csmask is not installed: {_INSTALL}"
    return ""


@lru_cache(maxsize=2)
def _network(level: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Load the weights of a level once a process: (session, mean, deviation of the bands)."""
    reason = missing()
    if reason:
        raise GlacierError(f"cloud mask: {reason}, or choose another cloud method")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread: several wait for each other in a busy loop, which a shared machine pays for.
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    options.use_deterministic_compute = True
    stem = f"model_4b_{level.lower()}"
    try:
        folder = resources.files("ukis_csmask")
        facts = json.loads((folder / f"{stem}.json").read_text())["data"]
        with resources.as_file(folder / f"{stem}.onnx") as path:
            session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        statistics = facts["dataset_statistics"]
        if tuple(statistics["band_names"]) != BANDS or facts["target_size"] != [_TILE, _TILE]:
            raise ValueError("its bands or its tile size are others than expected")
    except Exception as error:  # onnxruntime raises types of its own, and plain RuntimeError
        raise GlacierError(
            f"ukis-csmask: its weights {stem}.onnx cannot be used ({_line(error)}); "
            f"install it again: {_INSTALL}"
        ) from error
    mean, deviation = (np.array(values, np.float32) for values in statistics["img"])
    return session, mean[:, None, None], deviation[:, None, None]


class CsMask(Mask):
    """0 clear, 1 cloud, 2 cloud shadow on the grid of ``source``, also where it is not valid.

    Pixels finer than 30 m are averaged to the nearest whole multiple up to 30 m, in squares that
    count from the frame's corner; coarser ones are taken as they are.
    """

    def __init__(self, source: Source, level: str) -> None:
        self.grid = source.grid
        self.factor = working_factor(source.grid.resolution)
        self._source = source
        self._level = level
        self._order = [source.bands.index(name) for name in BANDS]
        self._shape = tuple(math.ceil(side / self.factor) for side in source.grid.shape)
        self._tile = lru_cache(_TILES_KEPT)(self._predict)
        self._piece = lru_cache(_PIECES_KEPT)(self._load)

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]; outside the frame it is 0.

        Raises:
            GlacierError: the network is not installed or fails.
        """
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        factor = self.factor
        result = np.zeros((height, width), np.uint8)
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.grid.height), min(col + width, self.grid.width)
        if top >= bottom or left >= right:
            return result
        r0, c0 = top // factor, left // factor
        codes = self._codes(r0, c0, math.ceil(bottom / factor), math.ceil(right / factor))
        fine = codes.repeat(factor, axis=0).repeat(factor, axis=1)
        fine = fine[top - r0 * factor :, left - c0 * factor :]
        result[top - row : bottom - row, left - col : right - col] = fine[
            : bottom - top, : right - left
        ]
        return result

    def _codes(self, r0: int, c0: int, r1: int, c1: int) -> np.ndarray:
        """Return the classes of a window of working pixels inside the frame."""
        blended = np.zeros((3, r1 - r0, c1 - c0))
        for i in _touching(r0, r1):
            for j in _touching(c0, c1):
                tile = self._tile(i, j)
                if tile is None:
                    continue
                y, x = i * _STEP - _MARGIN, j * _STEP - _MARGIN
                a, b = max(r0, y), min(r1, y + _TILE)
                c, d = max(c0, x), min(c1, x + _TILE)
                part = tile[:, a - y : b - y, c - x : d - x] * _WEIGHT[a - y : b - y, c - x : d - x]
                blended[:, a - r0 : b - r0, c - c0 : d - c0] += part
        return blended.argmax(axis=0).astype(np.uint8)

    def _predict(self, i: int, j: int) -> np.ndarray | None:
        """Return the probabilities [class, row, col] of a tile, None where nothing is valid."""
        rows = _mirrored(i * _STEP - _MARGIN, self._shape[0])
        cols = _mirrored(j * _STEP - _MARGIN, self._shape[1])
        top, left, bottom, right = rows.min(), cols.min(), rows.max() + 1, cols.max() + 1
        image = np.zeros((len(BANDS), bottom - top, right - left), np.float32)
        for r in range(top // _PIECE, (bottom - 1) // _PIECE + 1):
            for c in range(left // _PIECE, (right - 1) // _PIECE + 1):
                piece = self._piece(r, c)
                if piece is not None:
                    y, x = r * _PIECE, c * _PIECE
                    part = piece[:, max(0, top - y) : bottom - y, max(0, left - x) : right - x]
                    y, x = max(0, y - top), max(0, x - left)
                    image[:, y : y + part.shape[1], x : x + part.shape[2]] = part
        if not image.any():
            return None
        return self._probabilities(image[:, rows[:, None] - top, cols - left])

    def _load(self, i: int, j: int) -> np.ndarray | None:
        """Read a piece of working pixels [band, row, col], 0 where none of the pixels is valid."""
        factor, side = self.factor, _PIECE * self.factor
        # Beyond the frame it is invalid, so that squares cut by the edge average what is there.
        height = min(_PIECE, self._shape[0] - i * _PIECE)
        width = min(_PIECE, self._shape[1] - j * _PIECE)
        image = self._source.read(i * side, j * side, height * factor, width * factor)
        if not image.valid.any():
            return None
        values = image.reflectance[self._order]
        if factor == 1:
            return values
        squares = (height, factor, width, factor)
        count = image.valid.reshape(squares).sum(axis=(1, 3))
        total = values.reshape(len(BANDS), *squares).sum(axis=(2, 4), dtype=np.float32)
        return total / np.maximum(count, 1).astype(np.float32)

    def _probabilities(self, image: np.ndarray) -> np.ndarray:
        session, mean, deviation = _network(self._level)
        batch = ((image - mean) / deviation)[np.newaxis].astype(np.float32)
        try:
            logits = session.run(None, {session.get_inputs()[0].name: batch})[0]
        except Exception as error:  # as above
            raise GlacierError(
                f"ukis-csmask: the network failed ({_line(error)}); choose another cloud method"
            ) from error
        return softmax(logits[0], axis=0)


def working_factor(resolution: float) -> int:
    """Return how many pixels of ``resolution`` m make a side of one that the network sees."""
    return 1 if math.isnan(resolution) else max(1, int(WORKING_M / resolution + 0.01))


def _touching(start: int, stop: int) -> range:
    """Return the numbers of the tiles that lie on the pixels start..stop along one axis."""
    return range(
        max(0, (start + _MARGIN - _TILE) // _STEP + 1), (stop - 1 + _MARGIN) // _STEP + 1
    )  # fmt: skip


def _mirrored(start: int, length: int) -> np.ndarray:
    """Return the rows of a tile that starts at ``start``, mirrored at the edges of the frame."""
    wrapped = np.arange(start, start + _TILE) % (2 * length)
    return np.where(wrapped < length, wrapped, 2 * length - 1 - wrapped)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


_TAPER = tukey(_TILE, 2 * _OVERLAP)
_WEIGHT = _TAPER[:, None] * _TAPER[None, :]


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
    level = _check_choice("level", level.upper(), LEVELS)
    for name, mask in (("ready", ready), ("scl", scl)):
        if method == name and mask is None:
            raise GlacierError(f"cloud method {name!r}: needs {_NEEDS[name]}; give it, or use auto")
    scl = None if scl is None else warp_mask(scl, source.grid, name="scene classification")
    ready = None if ready is None else warp_mask(ready, source.grid, name="cloud mask")
    reason = ""
    if method == "auto":
        method, reason = _choose(source, scl, ready)
    elif method == "csmask":
        problem = missing() or unfit(source, any_size=True)
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
    problem = unfit(source) or missing()
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
    mask = CsMask(source, level)
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
    if method in ("auto", "csmask") and (reason := missing()):
        also = "only the scene classification or a mask of your own; " if method == "auto" else ""
        return f"clouds: {also}{reason}"
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
