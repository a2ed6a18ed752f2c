"""Images and masks on another grid than their own: other CRS, other resolution, other lattice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.source import Source
from glacier_utils.raster.grid import Grid, Image, same_crs
from glacier_utils.raster.io import Header, crs_name
from glacier_utils.raster.lattice import Frame, describe_mismatch, lay_out
from glacier_utils.raster.mask import Mask, RasterMask, mask_headers, place_masks

# From this ratio of pixel sizes on, several source pixels lie in one of the target: average them.
_COARSER = 1.5
# A pixel counts if half of what it is made of is valid; a tie counts, rounding or not.
_HALF = 0.499
_CHUNK = 1024  # pixels, of the source or the target, whichever has more
# Pixels of a bilinear kernel, and one for rounding.
_MARGIN = 3
# Shift that decides for good which neighbour is the nearest where a centre lies on an edge.
_NUDGE = 1e-6


def warp_source(
    source: Source, grid: Grid, *, tiles: Sequence[tuple[int, int, int, int]] = ()
) -> Source:
    """Bring an image of any kind onto ``grid``; pixels are read and warped where asked for.

    Bilinear, or the mean of what a pixel of ``grid`` covers where that is more than 1.5 times as
    large. Invalid pixels have no weight; a pixel is valid if at least half of its weight is. A
    pixel's value does not depend on the window it is read with. On one lattice nothing is
    resampled; on one frame the source itself is returned.

    Args:
        source: the image.
        grid: the frame wanted.
        tiles: of the result, as in ``Source.tiles``.

    Raises:
        GlacierError: an image without CRS that lies on another lattice; no pixel in the frame.
    """
    if source.grid.matches(grid):
        return source
    _check(source.grid, grid, str(source.paths[0]) if source.paths else "image")
    return _WarpedSource(source, grid, tiles)


def warp_mask(mask: Mask, grid: Grid, *, name: str = "mask") -> Mask:
    """Bring a mask onto ``grid`` by nearest neighbour; 255 where it has no pixel.

    Args:
        mask: classes on their own grid.
        grid: the frame wanted.
        name: of the mask in messages.

    Raises:
        GlacierError: as ``warp_source``.
    """
    if mask.grid.matches(grid):
        return mask
    _check(mask.grid, grid, name)
    return _WarpedMask(mask, grid)


def open_map(
    paths: str | Path | Sequence[str | Path],
    grid: Grid,
    *,
    like: Any,
    codes: Sequence[int] | None = None,
    values: Mapping[int | str, int] | None = None,
    notes: list[str] | None = None,
) -> Mask:
    """Open labels or class rasters of any grid, such as a classification of 20 m, on ``grid``.

    Args:
        paths: as in ``mask.open_mask``.
        grid: the frame wanted.
        like: the image on its own grid: rasters without georeference lie where its files of the
            same names lie, others are brought onto its tiles.
        codes: as in ``mask.open_mask``.
        values: likewise.
        notes: given a line where masks lie on another grid than their image.

    Raises:
        GlacierError: as ``mask.open_mask`` and ``warp_mask``.
    """
    headers = mask_headers(paths, like.grid, codes, values)
    name = str(headers[0].path)
    placed = place_masks(headers, like.grid, like)
    if placed is not None:
        own = RasterMask(like.grid, placed, codes, values, headers)
        return warp_mask(own, grid, name=name)

    def lay(chosen: Sequence[Header], target: Grid) -> Mask:
        frame, placed = lay_out(chosen)
        return warp_mask(RasterMask(frame, placed, codes, values, chosen), target, name=name)

    if notes is not None:
        how = describe_mismatch(headers[0].grid, like.grid)
        notes.append(
            f"{name}: lies on another grid than its image ({how}): taken by nearest neighbour; if "
            "its corner was written for the centre of the pixel, shift it by half a pixel"
        )
    if not getattr(like, "tiles", ()) or not like.loose():
        return lay(headers, grid)
    found: dict[Path, list[Mask]] = {}
    for tile in like.placed:
        near = [header for header in headers if _window_in(header.grid, tile.grid)]
        # What was drawn on the tile itself goes before what its neighbours know.
        corner = np.array(tile.grid.bounds[:2])
        near.sort(key=lambda header: np.hypot(*(corner - header.grid.bounds[:2])))
        found[tile.path] = [lay([header], tile.grid) for header in near]
    if not any(found.values()):
        raise GlacierError(f"{name}: does not touch the image; check the paths")
    return warp_mask(PiecewiseMask(like, found), grid, name=name)


class PiecewiseMask(Frame, Mask):
    """Masks of their own for each tile of an image, on the tile's grid; the first known counts."""

    def __init__(self, like: Any, masks: Mapping[Path, Sequence[Mask]]) -> None:
        super().__init__(like.grid, like.placed)
        self._masks = masks

    def _read(self, row: int, col: int, window: Grid) -> np.ndarray:
        """Read a window; where tiles overlap, the first in sorted order that knows counts."""
        result = np.full(window.shape, UNKNOWN, np.uint8)
        for tile, place, ((top, bottom), (left, right)) in self.pieces(row, col, *result.shape):
            for mask in self._masks[tile.path]:
                piece = mask.read(top, left, bottom - top, right - left)
                result[place] = np.where(result[place] == UNKNOWN, piece, result[place])
        return result


def _check(own: Grid, grid: Grid, name: str) -> None:
    """Refuse what cannot be brought onto ``grid`` at all."""
    if not own.shares_lattice(grid) and None in (own.crs, grid.crs):
        raise GlacierError(
            f"{name}: cannot be laid on another grid without a CRS "
            f"({describe_mismatch(own, grid)}); georeference the files"
        )
    if _window_in(own, grid) is None:
        raise GlacierError(
            f"{name}: does not touch the frame it is to be laid on ({crs_name(grid)}, "
            f"{', '.join(f'{value:.10g}' for value in grid.bounds)}); check paths and georeference"
        )


def _window_in(own: Grid, target: Grid, margin: int = 0) -> tuple[int, int, int, int] | None:
    """Return (row, col, height, width) of ``target`` in pixels of ``own``, None if outside it."""
    bounds = target.bounds
    if not same_crs(own.crs, target.crs):
        try:
            # Straight edges become curves.
            bounds = transform_bounds(target.crs, own.crs, *bounds, densify_pts=21)
        except Exception:  # rasterio's own, and GDAL's, whose class it does not make public
            return None
    if not all(map(math.isfinite, bounds)):
        return None
    xmin, ymin, xmax, ymax = bounds
    left, top = ~own.transform @ (xmin, ymax)
    right, bottom = ~own.transform @ (xmax, ymin)
    row0, row1 = max(math.floor(top), 0), min(math.ceil(bottom), own.height)
    col0, col1 = max(math.floor(left), 0), min(math.ceil(right), own.width)
    if row0 >= row1 or col0 >= col1:
        return None
    return row0 - margin, col0 - margin, row1 - row0 + 2 * margin, col1 - col0 + 2 * margin


def _warp(
    array: np.ndarray, own: Grid, target: Grid, resampling: Resampling, nodata: float | None = None
) -> np.ndarray:
    """Warp [band, row, col] from the grid ``own`` to ``target``."""
    # A CRS that is only spelled otherwise must not move a pixel by a hair.
    crs: CRS = own.crs if same_crs(own.crs, target.crs) else target.crs
    nudge = _NUDGE if resampling is Resampling.nearest else 0.0
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=len(array), height=own.height, width=own.width,
            dtype=array.dtype, nodata=nodata, crs=own.crs,
            transform=own.transform @ Affine.translation(nudge, nudge),
        ) as dataset:  # fmt: skip
            dataset.write(array)
        # Exact positions and kernels of a fixed size: GDAL's shortcuts for both depend on the
        # window. (A tolerance of 0 is refused.)
        with memory.open() as dataset, WarpedVRT(
            dataset, crs=crs, transform=target.transform, height=target.height,
            width=target.width, resampling=resampling, tolerance=1e-9, XSCALE=1, YSCALE=1,
        ) as warped:  # fmt: skip
            return warped.read()


class _OnGrid:
    """What a warped source and a warped mask share: windows of a frame found in another."""

    def __init__(self, own: Grid, grid: Grid) -> None:
        self.grid = grid
        self._own = own
        # How many times as wide as a pixel of its own one of the frame is.
        ratio = grid.resolution / own.resolution
        self._ratio = ratio if math.isfinite(ratio) else abs(grid.transform.a / own.transform.a)
        self._aligned = own.shares_lattice(grid)

    def _parts(
        self, asked: Grid, margin: int
    ) -> Iterator[tuple[tuple[int, int, int, int], Grid | None, tuple[slice, slice]]]:
        """Cut a window so that neither a piece nor what it is made of is large.

        Gives the window to read, the piece to warp it to (None where nothing is to be warped), and
        the place of the piece.
        """
        if self._aligned:
            row, col = (round(value) for value in self._own.position(asked))
            yield (row, col, *asked.shape), None, (slice(None), slice(None))
            return
        step = max(1, int(_CHUNK / max(self._ratio, 1)))
        for row in range(0, asked.height, step):
            for col in range(0, asked.width, step):
                height, width = min(step, asked.height - row), min(step, asked.width - col)
                piece = asked.window(row, col, height, width)
                window = _window_in(self._own, piece, margin)
                if window is not None:
                    yield window, piece, (slice(row, row + height), slice(col, col + width))


class _WarpedSource(_OnGrid, Source):
    """An image on another grid."""

    def __init__(
        self, source: Source, grid: Grid, tiles: Sequence[tuple[int, int, int, int]]
    ) -> None:
        super().__init__(source.grid, grid)
        self.bands, self.paths, self.tiles = source.bands, source.paths, list(tiles)
        self.warnings, self.places = list(source.warnings), source.places
        self.reflectance, self.reflectance_source = source.reflectance, source.reflectance_source
        self._source, self.synthetic = source, source.synthetic

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> Image:
        """Read a window; what lies outside the frame is invalid."""
        asked = self.grid.window(row, col, height, width)
        values = np.zeros((len(self.bands), *asked.shape), np.float32)
        valid = np.zeros(asked.shape, bool)
        coarser = self._ratio > _COARSER
        how = Resampling.average if coarser else Resampling.bilinear
        margin = _MARGIN + math.ceil(self._ratio) if coarser else _MARGIN
        for window, piece, place in self._parts(asked, margin):
            image = self._source.read(*window)
            if piece is None:
                values[:], valid[:] = image.reflectance, image.valid
            elif image.valid.any():
                # Invalid pixels are 0 and weigh 0: divided by the warped weight, the valid remain.
                stack = np.concatenate([image.reflectance, image.valid[None]], dtype=np.float32)
                *bands, weight = _warp(stack, self._own.window(*window), piece, how)
                valid[place] = weight >= _HALF
                values[:, *place] = np.stack(bands) / np.where(valid[place], weight, 1)
        valid &= self.grid.inside(row, col, *asked.shape)
        values[:, ~valid] = 0
        return Image(values, valid, self.bands, asked)


class _WarpedMask(_OnGrid, Mask):
    """Classes on another grid."""

    def __init__(self, mask: Mask, grid: Grid) -> None:
        super().__init__(mask.grid, grid)
        self._mask = mask

    def _read(self, row: int, col: int, window: Grid) -> np.ndarray:
        result = np.full(window.shape, UNKNOWN, np.uint8)
        for part, piece, place in self._parts(window, _MARGIN):
            classes = self._mask.read(*part)
            if piece is not None:
                own = self._own.window(*part)
                classes = _warp(classes[None], own, piece, Resampling.nearest, UNKNOWN)[0]
            result[place] = classes
        result[~self.grid.inside(row, col, *window.shape)] = UNKNOWN
        return result
