"""The cloud network of ukis-csmask (Wieland et al. 2022), run a tile at a time over any source.

The package (Apache-2.0, DLR) ships its weights, so this works without a network. Its own class
takes a whole array; here the same tiles (256 px, a fifth overlapping, tapered cosine blending) are
read and cached one by one on a lattice that is fixed to the frame. The network's answer depends on
all of a tile, so that only such a lattice makes a pixel's class independent of the window asked
for; on the whole frame it is that of the package's own class.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from scipy.signal.windows import tukey
from scipy.special import softmax

from glacier_utils.errors import GlacierError
from glacier_utils.imagery import Source
from glacier_utils.masks import Mask

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
