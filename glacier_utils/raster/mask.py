"""Masks: labels and class maps, read a window at a time from files or made of other masks.

Masks of masks set pixels to unknown: beyond the ground that an inventory covers, in ice that it
leaves out, and along the edge of the ice.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
import shapely
from scipy import ndimage

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.raster.grid import Grid, same_crs
from glacier_utils.raster.io import (
    Header,
    crs_name,
    is_array,
    is_member,
    masked_out,
    open_raster,
    read_headers,
)
from glacier_utils.raster.lattice import Frame, Placed, lay_out, off_pixels, row_col_of
from glacier_utils.raster.paths import list_files

_ROWS = 1024  # read at a time where a whole file is looked through


class Mask(ABC):
    """A class per pixel on a grid.

    Attributes:
        grid: of the frame; windows may stick out of it.
    """

    grid: Grid

    @abstractmethod
    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]; 255 outside the frame and where nothing is known.

        Args:
            row: of the upper left pixel.
            col: of the upper left pixel.
            height: rows; None takes all that remain of the frame.
            width: columns; None likewise.
        """


def burn(shapes: Sequence[shapely.Geometry], grid: Grid) -> np.ndarray:
    """Return uint8 [row, col], 1 where the centre of a pixel is in one of the shapes."""
    shapes = [shape for shape in shapes if shape is not None and not shape.is_empty]
    if not shapes:
        return np.zeros(grid.shape, np.uint8)
    # all_touched=False is the pixel-centre rule.
    return rasterio.features.rasterize(
        shapes, out_shape=grid.shape, transform=grid.transform, fill=0, dtype=np.uint8
    )


def edge_distance(label: np.ndarray) -> np.ndarray:
    """Return how far each pixel's centre lies from the edge of the ice, in pixels.

    The edge runs between pixels of 0 and 1: half a pixel before the centre of the nearest pixel of
    the other class.

    Args:
        label: uint8 [row, col] of 0, 1 and 255.

    Returns:
        float64 [row, col]; inf where there is no edge, nan where the label is unknown.

    Example:
        >>> edge_distance(np.array([[0, 0, 1, 255]], np.uint8))
        array([[1.5, 0.5, 0.5, nan]])
    """
    found = np.full(label.shape, np.nan)
    for mine, other in ((0, 1), (1, 0)):
        own = label == mine
        if (label == other).any():
            found[own] = ndimage.distance_transform_edt(label != other)[own] - 0.5
        else:
            found[own] = math.inf
    return found


def open_mask(
    paths: str | Path | Sequence[str | Path],
    grid: Grid,
    *,
    like: Any = None,
    codes: Sequence[int] | None = None,
    values: Mapping[int, int] | None = None,
) -> Mask:
    """Open label rasters or class maps that lie on the lattice of ``grid``.

    What a mask in or beside the file hides reads as 255, as does its nodata value, except 0 and 1,
    which label rasters often carry as nodata while they mean a class.

    Image tools write masks of 0 and 255, where 255 is glacier; here 255 is unknown. Which of the
    two a PNG or an array means cannot be seen, so a set of them that holds 0 and 255 but never 1 is
    refused unless ``values`` says what they mean.

    Args:
        paths: a file, a folder, a pattern, or a list of files: one scene, or patches.
        grid: the frame of the image.
        like: the source of the image: masks without georeference lie where the image file of the
            same name lies.
        codes: values that are allowed besides 255; None allows all of 0..255.
        values: class that each stored value means, as {0: 0, 255: 1}; others stay as they are.

    Raises:
        GlacierError: the files do not match the grid; on reading, values out of ``codes``.
    """
    headers = [header for path in list_files(paths) for header in read_headers(path, bands=1)]
    for header in headers:
        if header.count != 1:
            raise GlacierError(
                f"{header.path}: has {header.count} bands; labels and class maps have one: save "
                "the band with the classes"
            )
    if values is None and codes is not None and {*codes, UNKNOWN} == {0, 1, UNKNOWN}:
        _refuse_black_and_white(headers)
    partners = _partners(headers, like)
    if partners is not None:
        return _RasterMask(grid, partners, codes, values, headers)
    resolution = grid.transform.a if grid.crs is None else None
    frame, placed = lay_out(headers, resolution)
    first = headers[0]
    if not same_crs(frame.crs, grid.crs):
        raise GlacierError(
            f"{first.path}: its CRS ({crs_name(frame)}) is not that of the image "
            f"({crs_name(grid)}); warp it to the image's grid, or give it the name of its image"
        )
    off = off_pixels(grid, frame)
    if off is not None:
        raise GlacierError(
            f"{first.path}: lies {off} the image; resample it to the image's grid with nearest "
            "neighbour, or shift it if its corner was written for the centre of the pixel"
        )
    if not frame.shares_lattice(grid):
        raise GlacierError(
            f"{first.path}: its pixels ({frame.transform.a:g}) do not fall on those of the image "
            f"({grid.transform.a:g}); resample it to the image's grid with nearest neighbour"
        )
    moved = [item.moved(*map(round, grid.position(frame))) for item in placed]
    if not any(next(Frame(grid, [item]).pieces(0, 0, *grid.shape), None) for item in moved):
        raise GlacierError(f"{first.path}: no label file touches the image; check the paths")
    return _RasterMask(grid, moved, codes, values, headers)


def _refuse_black_and_white(headers: Sequence[Header]) -> None:
    """Refuse pictures of 0 and 255 without any 1; reads until the first 1."""
    doubtful = [
        header for header in headers
        if is_array(header.path) or header.path.suffix.lower() == ".png"
    ]  # fmt: skip
    if len(doubtful) < len(headers):
        return
    seen: set[float] = set()
    for header in doubtful:
        for row in range(0, header.grid.height, _ROWS):
            window = (row, min(row + _ROWS, header.grid.height)), (0, header.grid.width)
            with open_raster(header.path, bands=1) as dataset:
                seen.update(np.unique(dataset.read(1, window=window)).tolist())
            if seen - {0, UNKNOWN}:
                return
    if seen == {0, UNKNOWN}:
        raise GlacierError(
            f"{headers[0].path}: this mask holds 0 and 255 but never 1, and 255 means unknown; if "
            "it means glacier, save it as 1 or state label_values: {0: 0, 255: 1}; if nothing is "
            "glacier, label_values: {255: 255}"
        )


def _partners(headers: Sequence[Header], like: Any) -> list[Placed] | None:
    """Place masks without georeference by the image file of the same name, None if not possible."""
    if like is None or any(header.georeferenced for header in headers):
        return None
    images = getattr(like, "placed", [])
    by_stem = {item.path.stem: item for item in images}
    if len(headers) == 1 and len(images) == 1:
        pairs = [(headers[0], images[0])]
    elif all(header.path.stem in by_stem for header in headers):
        pairs = [(header, by_stem[header.path.stem]) for header in headers]
    else:
        for header in headers if by_stem else ():
            if not is_member(header.path) and row_col_of(header.path) is None:
                raise GlacierError(
                    f"{header.path}: no image has this name; give each label the name of its "
                    f"image, such as {next(iter(by_stem))}, or a georeference"
                )
        return None
    for header, image in pairs:
        if header.grid.shape != (image.height, image.width):
            raise GlacierError(
                f"{header.path}: is {header.grid.width} x {header.grid.height} px, its image "
                f"{image.path.name} {image.width} x {image.height}; both must have one size"
            )
    return [
        Placed(header.path, image.row, image.col, image.height, image.width)
        for header, image in pairs
    ]


class _RasterMask(Frame, Mask):
    """Files with one band of classes at places in a frame."""

    def __init__(
        self,
        grid: Grid,
        placed: Sequence[Placed],
        codes: Sequence[int] | None,
        values: Mapping[int, int] | None,
        headers: Sequence[Header],
    ) -> None:
        super().__init__(grid, placed)
        self._masked = {header.path: header for header in headers if header.masked}
        self.paths = [item.path for item in self.placed]
        self._values = dict(values or {})
        self._codes = None if codes is None else sorted({*codes, UNKNOWN})

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window; where files overlap, the first in sorted order that knows counts."""
        height, width = self.grid.window(row, col, height, width).shape
        result = np.full((height, width), UNKNOWN, np.uint8)
        for item, (rows, cols), window in self.pieces(row, col, height, width):
            with open_raster(item.path, bands=1) as dataset:
                piece = self._classes(dataset.read(1, window=window), dataset.nodata, item.path)
                if item.path in self._masked:
                    piece[masked_out(self._masked[item.path], dataset, [1], window)] = UNKNOWN
            view = result[rows, cols]
            view[...] = np.where(view == UNKNOWN, piece, view)
        return result

    def _classes(self, stored: np.ndarray, nodata: float | None, path: Path) -> np.ndarray:
        if nodata is not None and nodata not in (0, 1):
            empty = np.isnan(stored) if math.isnan(nodata) else stored == nodata
            stored = np.where(empty, UNKNOWN, stored)
        if self._values:
            meant = stored.astype(np.float64)
            for value, code in self._values.items():
                meant[stored == value] = code
            stored = meant
        values = np.unique(stored)
        allowed = range(256) if self._codes is None else self._codes
        wrong = values[~np.isin(values, list(allowed))]
        if wrong.size:
            expected = "0..255" if self._codes is None else ", ".join(map(str, self._codes))
            raise GlacierError(
                f"{path}: holds the value {wrong[0]:g}; allowed are {expected}; recode the raster"
            )
        return stored.astype(np.uint8)


class _PolygonMask(Mask):
    """``inner``, unknown (255) by where pixels lie to ``polygons``."""

    def __init__(self, inner: Mask, polygons: shapely.Geometry) -> None:
        self.grid = inner.grid
        self._inner = inner
        self._polygons = polygons

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]."""
        label = self._inner.read(row, col, height, width)
        inside = burn([self._polygons], self.grid.window(row, col, *label.shape)) == 1
        label[self._unknown(inside, label)] = UNKNOWN
        return label

    @abstractmethod
    def _unknown(self, inside: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return which pixels become unknown, bool [row, col]."""


class CoveredMask(_PolygonMask):
    """``inner``, unknown (255) where a pixel's centre is outside ``polygons``."""

    def _unknown(self, inside: np.ndarray, label: np.ndarray) -> np.ndarray:
        return ~inside


class IceOutsideMask(_PolygonMask):
    """``inner``, unknown where it is 0 and a pixel's centre is inside ``polygons``.

    For ice that the inventory leaves out, such as the ice sheet: no glacier of the inventory, and
    no example of ground without ice either. What ``inner`` calls glacier stays glacier.
    """

    def _unknown(self, inside: np.ndarray, label: np.ndarray) -> np.ndarray:
        return inside & (label == 0)


class EdgeMask(Mask):
    """``inner``, unknown where a pixel's centre is nearer than ``band_m`` to the edge of the ice.

    For labels that come as rasters, whose edge is that of ``edge_distance``.

    Raises:
        GlacierError: a band that is no width in metres, or a grid whose pixels have no known size.
    """

    def __init__(self, inner: Mask, band_m: float | str) -> None:
        if isinstance(band_m, str) or band_m < 0:
            raise GlacierError(
                f"band_m {band_m}: the width of the band must not be negative; labels that come as "
                "rasters need it in metres, since they state no uncertainty of their own"
            )
        if math.isnan(inner.grid.resolution):
            raise GlacierError(
                "band_m is a width in metres, but the size of the image's pixels is not known; "
                "give `resolution` in the manifest"
            )
        self.grid = inner.grid
        self._inner = inner
        self._band = band_m / inner.grid.resolution

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]."""
        height, width = self.grid.window(row, col, height, width).shape
        # With a margin, so that an edge just outside counts too.
        margin = math.ceil(self._band) + 1
        label = self._inner.read(
            row - margin, col - margin, height + 2 * margin, width + 2 * margin
        )
        label[edge_distance(label) < self._band] = UNKNOWN
        return label[margin : margin + height, margin : margin + width].copy()
