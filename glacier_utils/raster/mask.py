"""Masks: labels and class maps, read a window at a time from files or made of other masks.

Masks of masks set pixels to unknown: beyond the ground that an inventory covers, in ice that it
leaves out, and along the edge of the ice.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
import shapely
from scipy import ndimage

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import (
    Header,
    crs_name,
    is_member,
    masked_out,
    open_raster,
    read_headers,
)
from glacier_utils.raster.lattice import (
    Frame,
    Placed,
    check_one_image,
    lay_out,
    nearest_pixel,
    row_col_of,
)
from glacier_utils.raster.paths import list_files

_ROWS = 1024  # read at a time where a whole file is looked through
_LABELS = [0, 1, UNKNOWN]
# What names of masks and images have beside that of the place.
_WORDS = re.compile(
    r"(?<![^_\-. ])(?:masks?|labels?|images?|img|gt|annotations?|seg|truth)(?:$|[_\-. ])"
)


class Mask:
    """A class per pixel on a grid; kinds of masks define ``_read``.

    Attributes:
        grid: of the frame; windows may stick out of it.
    """

    grid: Grid

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
        return self._read(row, col, self.grid.window(row, col, height, width))

    def _read(self, row: int, col: int, window: Grid) -> np.ndarray:
        """Read the window at (``row``, ``col``)."""
        raise NotImplementedError


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
    values: Mapping[int | str, int] | None = None,
) -> Mask:
    """Open label rasters or class maps that lie on the pixels of ``grid``.

    What a mask in or beside the file hides reads as 255, as does its nodata value, except 0 and 1,
    which label rasters often carry as nodata while they mean a class.

    Image tools write masks of 0 and 255, where 255 is glacier; here 255 is unknown. Which of the
    two a file means cannot be seen unless it says that 255 is nodata, so a set of them that holds 0
    and 255 but never 1 is refused unless ``values`` says what they mean.

    Args:
        paths: a file, a folder, a pattern, or a list of files: one scene, or patches.
        grid: the frame of the image.
        like: the source of the image: masks without georeference lie where the image file of the
            same name lies, those with one on the tile that they were drawn on.
        codes: values that are allowed besides 255; None allows all of 0..255.
        values: class that each stored value means, as {0: 0, 255: 1}, or {nodata: 0} for what the
            files call nodata; others stay as they are.

    Raises:
        GlacierError: the files do not match the grid; on reading, values out of ``codes``.
    """
    headers = mask_headers(paths, grid, codes, values)
    placed = place_masks(headers, grid, like)
    if placed is None:
        raise GlacierError(
            f"{headers[0].path}: does not lie on the pixels of the image ({crs_name(grid)}, "
            f"{grid.transform.a:g}); resample it to the image's grid with nearest neighbour"
        )
    return RasterMask(grid, placed, codes, values, headers)


def mask_headers(
    paths: str | Path | Sequence[str | Path],
    grid: Grid,
    codes: Sequence[int] | None,
    values: Mapping[int | str, int] | None,
) -> list[Header]:
    """Read the headers of masks and check their bands and values; as ``open_mask``."""
    headers = [header for path in list_files(paths) for header in read_headers(path, bands=1)]
    for header in headers:
        if header.count != 1:
            raise GlacierError(
                f"{header.path}: has {header.count} bands; labels and class maps have one: save "
                "the band with the classes"
            )
    if values is None and codes is not None and set(codes) <= {0, 1, 2, UNKNOWN}:
        _refuse_black_and_white(headers, of_cloud=2 in codes)
    # A world file tells coordinates without a CRS: those of the image that the mask was drawn on.
    return [
        replace(header, grid=replace(header.grid, crs=grid.crs))
        if header.georeferenced and header.grid.crs is None
        else header
        for header in headers
    ]


def _stored_in(header: Header) -> Iterator[tuple[set[float], float | None]]:
    """Give the numbers in some rows of a mask after the other, and its nodata value."""
    for row in range(0, header.grid.height, _ROWS):
        window = (row, min(row + _ROWS, header.grid.height)), (0, header.grid.width)
        with open_raster(header.path, bands=1) as dataset:
            yield set(np.unique(dataset.read(1, window=window)).tolist()), dataset.nodata


def stored_values(paths: str | Path | Sequence[str | Path]) -> str:
    """Say which numbers masks hold, as in "1 and -9999 (nodata)"; reads all of them."""
    seen: dict[str, None] = {}
    for header in (header for path in list_files(paths) for header in read_headers(path, bands=1)):
        for found, nodata in _stored_in(header):
            empty = {nodata, *(value for value in found if value != value)}
            seen |= {f"{value:g}{' (nodata)' * (value in empty)}": None for value in sorted(found)}
    listed = list(seen)
    return " and ".join([", ".join(listed[:-1][:8]), listed[-1]]) if listed[1:] else listed[0]


def _refuse_black_and_white(headers: Sequence[Header], *, of_cloud: bool) -> None:
    """Refuse pictures of 0 and 255 and nothing else; reads until the first other number."""
    seen: set[float] = set()
    for header in headers:
        for found, nodata in _stored_in(header):
            seen |= found
            if seen - {0, UNKNOWN} or nodata == UNKNOWN:
                return
    if seen == {0, UNKNOWN}:
        remedy = (
            "cloud, save it as 1 (cloud shadow as 2); if nothing is cloud, tag 255 as nodata"
            if of_cloud
            else "glacier, save it as 1 or state label_values: {0: 0, 255: 1}; if nothing is "
            "glacier, label_values: {255: 255}"
        )
        raise GlacierError(
            f"{headers[0].path}: this mask holds 0 and 255 but never 1, and 255 means unknown; if "
            f"it means {remedy}"
        )


def place_masks(headers: Sequence[Header], grid: Grid, like: Any) -> list[Placed] | None:
    """Place masks on the pixels of an image, None where they do not lie on them.

    Args:
        headers: of the masks, of ``mask_headers``.
        grid: the frame of the image.
        like: the source of the image, or None.

    Raises:
        GlacierError: masks without georeference that belong to no image, or to which of two nobody
            can say; masks that touch no image.
    """
    tiles: Sequence[Placed] = getattr(like, "placed", [])
    bare = not any(header.georeferenced for header in headers)
    if (bare or not any(tile.grid for tile in tiles)) and (found := _partners(headers, tiles)):
        return found
    if bare:
        pixel = grid.transform.a if grid.crs is None else None
        frame, placed = lay_out(headers, pixel, images=tiles)
        if not frame.shares_lattice(grid):
            raise GlacierError(
                f"{headers[0].path}: has no georeference, but the image has ({crs_name(grid)}); "
                "give it the name of its image, or a georeference"
            )
        placed = [item.moved(*map(round, grid.position(frame))) for item in placed]
    else:
        placed = []
        regular = not (tiles and like.loose())
        corners = np.array(
            [tile.grid.bounds[::3] for tile in tiles if tile.grid] or [(math.inf, math.inf)]
        )
        for header in headers:
            near = int(np.abs(corners - header.grid.bounds[::3]).max(axis=1).argmin())
            own = tiles[near].grid if tiles else None
            if own is not None and own.matches(header.grid):
                row, col = tiles[near].row, tiles[near].col
            elif regular and header.georeferenced and grid.shares_lattice(header.grid):
                row, col = nearest_pixel(grid, header.grid)
            else:
                return None
            placed.append(Placed(header.path, row, col, *header.grid.shape, header.grid))
    if not any(next(Frame(grid, [item]).pieces(0, 0, *grid.shape), None) for item in placed):
        raise GlacierError(f"{headers[0].path}: does not touch the image; check the paths")
    check_one_image(Frame(grid, placed))
    return placed


def _partners(headers: Sequence[Header], images: Sequence[Placed]) -> list[Placed] | None:
    """Place masks by the names of their images, None if not possible.

    By the stem, then without words such as mask or image; of several, the one in the folder that is
    most alike.
    """
    if not images:
        return None
    if len(headers) == 1 and len(images) == 1:
        pairs = [(headers[0], images[0])]
    else:
        pairs, named = [], dict[str, list[Placed]]()
        for image in images:
            for name in {_stem(image.path), _plain_stem(image.path)}:
                named.setdefault(name, []).append(image)
        for header in headers:
            partner = _partner(header.path, named)
            if partner is None:
                if is_member(header.path) or row_col_of(header.path) is not None:
                    return None
                raise GlacierError(
                    f"{header.path}: no image has this name; give each label the name of its "
                    f"image, such as {images[0].path.stem}, or a georeference"
                )
            pairs.append((header, partner))
    taken: dict[Path, Path] = {}
    for header, image in pairs:
        if (other := taken.setdefault(image.path, header.path)) != header.path:
            raise GlacierError(
                f"{header.path}: is a mask of {image.path.name}, and so is {other}; give each mask "
                "the folder and name of its image"
            )
        if header.grid.shape != (image.height, image.width):
            raise GlacierError(
                f"{header.path}: is {header.grid.width} x {header.grid.height} px, its image "
                f"{image.path.name} {image.width} x {image.height}; both must have one size"
            )
    return [replace(image, path=header.path) for header, image in pairs]


def _plain_stem(path: Path) -> str:
    return _WORDS.sub("", _stem(path)).strip("_-. ")


def _stem(path: Path) -> str:
    # A Mac may take letters with accents apart.
    return unicodedata.normalize("NFC", path.stem).casefold()


def _partner(mask: Path, named: Mapping[str, Sequence[Placed]]) -> Placed | None:
    """Return the image of the same name, None without one; ``named`` is by stem."""
    stem = _stem(mask)
    found = named.get(stem) or named.get(_plain_stem(mask), [])
    found = [image for image in found if _stem(image.path) == stem] or found

    def alike(image: Placed) -> tuple[int, bool]:
        folders, own = image.path.parent.parts, mask.parent.parts
        return len({*folders} & {*own}), len(folders) == len(own)

    most = max(map(alike, found), default=None)
    best = [image for image in found if alike(image) == most]
    if len(best) > 1:
        raise GlacierError(
            f"{mask}: may be the mask of {best[0].path} or of {best[1].path}; put masks in "
            "folders named as those of their images, as labels/a/x.png for images/a/x.tif"
        )
    return best[0] if best else None


class RasterMask(Frame, Mask):
    """Files with one band of classes at places in a frame."""

    def __init__(
        self,
        grid: Grid,
        placed: Sequence[Placed],
        codes: Sequence[int] | None,
        values: Mapping[int | str, int] | None,
        headers: Sequence[Header],
    ) -> None:
        super().__init__(grid, placed)
        self._masked = {header.path: header for header in headers if header.masked}
        self._values = dict(values or {})
        self._codes = None if codes is None else sorted({*codes, UNKNOWN})

    def _read(self, row: int, col: int, window: Grid) -> np.ndarray:
        """Read a window; where files overlap, the first in sorted order that knows counts."""
        result = np.full(window.shape, UNKNOWN, np.uint8)
        for item, (rows, cols), part in self.pieces(row, col, *window.shape):
            with open_raster(item.path, bands=1) as dataset:
                piece = self._classes(dataset.read(1, window=part), dataset.nodata, item.path)
                if item.path in self._masked:
                    hidden = masked_out(self._masked[item.path], dataset, [1], part)
                    piece[hidden] = self._values.get("nodata", UNKNOWN)
            view = result[rows, cols]
            view[...] = np.where(view == UNKNOWN, piece, view)
        return result

    def _classes(self, stored: np.ndarray, nodata: float | None, path: Path) -> np.ndarray:
        empty = (stored == nodata) | (stored != stored)  # not a number
        meant = stored if stored.dtype == np.uint8 else stored.astype(np.float64)
        if "nodata" in self._values or nodata not in (0, 1):
            meant = np.where(empty, self._values.get("nodata", UNKNOWN), meant)
        for value, code in self._values.items():
            meant[stored == value] = code
        values = np.unique(meant)
        wrong = values[~np.isin(values, self._codes or range(256))]
        if wrong.size:
            expected = "0..255" if self._codes is None else ", ".join(map(str, self._codes))
            raise GlacierError(
                f"{path}: holds the value {wrong[0]:g}; allowed are {expected}; recode the raster"
                + f", or state label_values, as in {{{wrong[0]:g}: 1}} if it means glacier, "
                f"{{{wrong[0]:g}: 255}} if unknown" * (self._codes == _LABELS)
            )
        return meant.astype(np.uint8)


class CoveredMask(Mask):
    """``inner``, unknown (255) where a pixel's centre is outside ``polygons``."""

    def __init__(self, inner: Mask, polygons: shapely.Geometry) -> None:
        self.grid = inner.grid
        self._inner = inner
        self._polygons = polygons

    def _read(self, row: int, col: int, window: Grid) -> np.ndarray:
        label = self._inner.read(row, col, *window.shape)
        label[self._unknown(burn([self._polygons], window) == 1, label)] = UNKNOWN
        return label

    def _unknown(self, inside: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return which pixels become unknown, bool [row, col]."""
        return ~inside


class IceOutsideMask(CoveredMask):
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

    def __init__(self, inner: Mask, band_m: float) -> None:
        if band_m < 0:
            raise GlacierError(f"band_m {band_m}: the width of the band must not be negative")
        if math.isnan(inner.grid.resolution):
            raise GlacierError(
                "band_m is a width in metres, but the size of the image's pixels is not known; "
                "give `resolution` in the manifest"
            )
        self.grid = inner.grid
        self._inner = inner
        self._band = band_m / inner.grid.resolution

    def _read(self, row: int, col: int, window: Grid) -> np.ndarray:
        height, width = window.shape
        # With a margin, so that an edge just outside counts too.
        margin = math.ceil(self._band) + 1
        label = self._inner.read(
            row - margin, col - margin, height + 2 * margin, width + 2 * margin
        )
        label[edge_distance(label) < self._band] = UNKNOWN
        return label[margin : margin + height, margin : margin + width].copy()
