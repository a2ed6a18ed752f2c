"""Windows over a scene: where they lie, and how much each counts where they overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from glacier_utils.errors import GlacierError

# Networks halve their input five times: windows of other sizes would be padded, and windows that
# start elsewhere would pool other pixels together than their neighbours do.
MULTIPLE = 32
# The largest window where the user names none: a forward pass of a U-Net with a ResNet-18 over it
# takes some 200 MB in float32 and half of it in bf16. Larger ones compute less twice, but what
# their passes take goes back to the system and is taken anew (``memory.use_one_heap``).
LARGEST = 704
# What a window counts at least along its own border, as a fraction of its full weight, so that the
# pixels of the frame's rim, which have no other window, have a weight at all.
FLOOR = 1e-3


@dataclass(frozen=True)
class Windows:
    """Windows along one axis of a scene.

    Attributes:
        length: pixels of the axis.
        size: of every window.
        overlap: pixels that neighbours have in common at least.
        starts: first pixel of each window, rising; the last window ends with the axis.
    """

    length: int
    size: int
    overlap: int
    starts: tuple[int, ...]

    @cached_property
    def weights(self) -> list[np.ndarray]:
        """What each window counts at each of its pixels, float32 [size] a window.

        1 where a window is alone, else falling towards its border as a cosine over ``overlap``
        pixels and divided by the sum over all windows there. So the weights of a pixel add up to 1
        all over the axis, up to the frame's edge, and no division is left to do.
        """
        pixel = np.arange(self.size) + 0.5
        distance = np.minimum(pixel, self.size - pixel)
        ramp = 0.5 - 0.5 * np.cos(np.pi * np.minimum(distance / max(self.overlap, 1), 1))
        ramp = np.maximum(ramp, FLOOR)
        total = np.zeros(self.length)
        for start in self.starts:
            total[start : start + self.size] += ramp

        return [
            (ramp / total[start : start + self.size]).astype(np.float32) for start in self.starts
        ]

    def reaching(self, first: int, last: int) -> list[int]:
        """Return the numbers of the windows that hold a pixel of ``first`` .. ``last`` - 1."""
        return [
            number
            for number, start in enumerate(self.starts)
            if start < last and start + self.size > first
        ]


def fit_windows(length: int, window: int, overlap: int) -> Windows:
    """Choose the windows along an axis so that the least is computed twice.

    Among the sizes up to ``window`` that are multiples of 32 (what networks pool) the one is taken
    whose windows together have the fewest pixels: a last window that lies almost wholly on its
    neighbour wastes a pass. Where there is no such size, it is ``window`` itself. Axes below the
    window get one window of their own length.

    Args:
        length: pixels of the axis.
        window: the largest size in pixels.
        overlap: pixels that neighbours have in common at least, below the window.

    Raises:
        GlacierError: an overlap that is negative or not below the window.
    """
    if not 0 <= overlap < window:
        raise GlacierError(f"overlap {overlap}: must be at least 0 and below the window, {window}")
    if length <= window:
        return Windows(length, length, overlap, (0,))
    sizes = []
    fewest = math.ceil((length - overlap) / (window - overlap))
    for count in range(fewest, 2 * fewest + 1):
        size = math.ceil((length + (count - 1) * overlap) / count / MULTIPLE) * MULTIPLE
        if overlap < size <= window:
            sizes.append((count * size, count, size))
    size = min(sizes)[-1] if sizes else window
    last = length - size
    return Windows(length, size, overlap, (*range(0, last, size - overlap), last))


@dataclass(frozen=True)
class Panel:
    """A part of the columns of a scene that is mapped by itself, to bound the memory.

    ``first`` .. ``last`` - 1 are the columns that it gives; ``windows`` the numbers of the windows
    that reach into them. Neighbouring panels share windows, which are computed in both.
    """

    first: int
    last: int
    windows: tuple[int, ...]


def panels(cols: Windows, widest: int) -> Iterator[Panel]:
    """Divide the columns of a scene into panels of at most about ``widest`` pixels.

    So many are in memory with the windows that a panel shares with its neighbours. A scene that is
    no wider is one panel, and nothing is computed twice.
    """
    count = 1
    if cols.length > widest:
        count = min(math.ceil(cols.length / max(widest - cols.size, 1)), len(cols.starts))
    bounds = [round(number * len(cols.starts) / count) for number in range(count + 1)]
    edges = [cols.starts[number] for number in dict.fromkeys(bounds[:-1])] + [cols.length]
    for first, last in pairwise(edges):
        yield Panel(first, last, tuple(cols.reaching(first, last)))
