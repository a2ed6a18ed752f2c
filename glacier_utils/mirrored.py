"""A scene as large as one likes, made of a small one and its mirror images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glacier_utils.imagery import Image, Source


class MirroredScene(Source):
    """A scene repeated in both directions, every second time as its mirror image, without seams.

    For trying what a whole Sentinel-2 tile takes where there is none: it is computed where it is
    read, and has the look and the statistics of the scene, but no new ground.

    Args:
        source: the scene, held in memory.
        shape: (rows, columns) of the result; a Sentinel-2 tile has 10980 of both.
    """

    def __init__(self, source: Source, shape: tuple[int, int] = (10_980, 10_980)) -> None:
        self._image = source.read()
        self.bands = source.bands
        self.paths = source.paths
        self.tiles = []
        self.grid = source.grid.window(0, 0, *shape)
        self.reflectance = source.reflectance
        self.reflectance_source = source.reflectance_source

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> Image:
        """Read a window; what lies outside the frame is invalid."""
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        rows, inside_rows = self._places(row, height, 0)
        cols, inside_cols = self._places(col, width, 1)
        # Rows first: they are whole lines in memory.
        valid = self._image.valid[rows][:, cols] & np.logical_and.outer(inside_rows, inside_cols)
        reflectance = np.take(self._image.reflectance[:, rows], cols, axis=2)
        reflectance[:, ~valid] = 0
        return Image(reflectance, valid, self.bands, self.grid.window(row, col, height, width))

    def _places(self, first: int, count: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where pixels of the frame come from, and which of them lie in the frame."""
        wanted = np.arange(first, first + count)
        length = self._image.valid.shape[axis]
        place = wanted % (2 * length)
        place = np.where(place < length, place, 2 * length - 1 - place)
        return place, (wanted >= 0) & (wanted < self._shape[axis])

    @property
    def _shape(self) -> Sequence[int]:
        return self.grid.shape
