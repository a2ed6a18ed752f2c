"""Where the patches of a dataset lie: windows on each image, and their boxes on the ground."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from rasterio.warp import transform as transform_points

from glacier_utils.raster.grid import Grid, same_crs

EDGES = ("top", "left", "bottom", "right")
CUT = "part of a patch, cut by a line"
"""The reason of a row of the index that holds one side of a patch."""
_CHUNK = 1024  # pixels


def windows(
    grid: Grid,
    size: int,
    stride: int,
    *,
    reference: Grid | None = None,
    tiles: Sequence[tuple[int, int, int, int]] = (),
    own_tiles: bool = False,
) -> list[tuple[int, int]]:
    """Lay the windows of one image: they cover the frame, and the last may stick out of it.

    Args:
        grid: of the frame.
        size: side of a window in pixels.
        stride: step between them in pixels.
        reference: another frame; if ``grid`` lies on its pixels, windows fall on its windows.
        tiles: (row, col, height, width) of the files of a folder of patches; windows that meet
            none of them are left out.
        own_tiles: take the files themselves as windows, provided that all have ``size``.

    Returns:
        (row, col) of the upper left corners in the frame, sorted.
    """
    if own_tiles and tiles and all(tile[2:] == (size, size) for tile in map(tuple, tiles)):
        return sorted((tile[0], tile[1]) for tile in tiles)
    shift_row, shift_col = 0, 0
    if reference is not None and grid.shares_lattice(reference):
        shift_row, shift_col = (round(value) for value in reference.position(grid))
    rows = range(-(shift_row % stride), grid.height, stride)
    cols = range(-(shift_col % stride), grid.width, stride)
    corners = [
        (row, col)
        for row in rows
        for col in cols
        if _needed(row, grid.height, size, stride) and _needed(col, grid.width, size, stride)
    ]
    return _meeting(corners, size, tiles) if tiles else corners


def plan(
    sources: Mapping[tuple[str, str], Any], *, size: int, strides: Mapping[str, int | None]
) -> gpd.GeoDataFrame:
    """Lay out the patches of a dataset.

    Args:
        sources: (area, date) to an object with ``grid`` and ``tiles``, in the order wanted.
        size: side of a patch in pixels.
        strides: step in pixels for each area; None: the files' own windows, or ``size``.

    Returns:
        One row per patch: area, date, row, col, y, x, ground, geometry. ``y`` and ``x`` are the
        patch's centre in pixels of the area's first date, so that one place has one position on all
        dates; ``geometry`` is the whole patch and ``ground`` the part inside the frame, both in the
        CRS of the first area.
    """
    crs = next(iter(sources.values())).grid.crs
    references: dict[str, Grid] = {}
    tables = []
    for (area, date), source in sources.items():
        grid = source.grid
        reference = references.setdefault(area, grid)
        stride = strides[area]
        corners = windows(
            grid,
            size,
            stride or size,
            reference=reference,
            tiles=source.tiles,
            own_tiles=stride is None and not _overlapping(source.tiles),
        )
        rows, cols = np.array(corners, int).reshape(-1, 2).T
        edges = rows, cols, rows + size, cols + size
        geometry = _boxes(grid, *edges, crs=crs)
        y, x = _centres(grid, rows + size / 2, cols + size / 2, reference)
        table = {"area": area, "date": date, "row": rows, "col": cols, "y": y, "x": x}
        ground = _boxes(grid, *edges, crs=crs, clip=True)
        tables.append(gpd.GeoDataFrame({**table, "ground": ground}, geometry=geometry, crs=crs))
    return pd.concat(tables, ignore_index=True)


def clip_patches(
    patches: gpd.GeoDataFrame, cut: pd.DataFrame, sources: Mapping[tuple[str, str], Any]
) -> gpd.GeoDataFrame:
    """Return the rows of ``cut_by_lines``, the boxes of cut patches being those of their parts.

    Args:
        patches: the table that was cut.
        cut: of ``cut_by_lines``.
        sources: as for ``plan``.
    """
    table = patches.iloc[cut["patch"]].reset_index(drop=True)
    parts = cut[cut["reason"] == CUT].join(table[["area", "date", "row", "col"]])
    for pair, group in parts.groupby(["area", "date"]):
        edges = (group[["row", "col"] * 2].to_numpy() + group[[*EDGES]].to_numpy()).T
        boxes = _boxes(sources[pair].grid, *edges, crs=patches.crs)
        for name in ("geometry", "ground"):
            table.loc[group.index, name] = boxes.to_numpy()
    return table


def chunks(rows: Sequence[int], cols: Sequence[int], size: int) -> Iterator[np.ndarray]:
    """Group windows that lie together, so that one read serves them all.

    A group spans about a thousand pixels: windows that overlap are then read nearly once, and yet
    no more than some ten MB of a scene are held.

    Args:
        rows: upper edges of the windows in pixels.
        cols: left edges.
        size: side of a window in pixels.

    Yields:
        Positions of windows.
    """
    step = size * max(1, _CHUNK // size)
    corners = np.column_stack([np.asarray(rows), np.asarray(cols)])
    _, group = np.unique(corners // step, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _needed(start: int, length: int, size: int, stride: int) -> bool:
    # With a stride below the size, the last windows would hold nothing that others do not.
    return start <= 0 or start - stride + size < length


def _meeting(
    corners: Sequence[tuple[int, int]], size: int, tiles: Sequence[tuple[int, int, int, int]]
) -> list[tuple[int, int]]:
    """Keep the windows that share pixels with a tile."""
    tree = shapely.STRtree(_pixel_boxes(tiles))
    asked = _pixel_boxes([(row, col, size, size) for row, col in corners])
    hits = np.unique(tree.query(asked, predicate="intersects")[0])
    return [corners[hit] for hit in hits]


def _overlapping(tiles: Sequence[tuple[int, int, int, int]]) -> bool:
    if len(tiles) < 2:
        return False
    # Tiles off each other's pixels may share an edge of them.
    boxes = _pixel_boxes([(row, col, height - 1, width - 1) for row, col, height, width in tiles])
    return shapely.STRtree(boxes).query(boxes, predicate="intersects").shape[1] > len(boxes)


def _pixel_boxes(tiles: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """Boxes half a pixel smaller than the tiles, so that neighbours do not intersect."""
    row, col, height, width = np.array([tuple(tile) for tile in tiles], float).T
    return shapely.box(col, row, col + width - 0.5, row + height - 0.5)


def _boxes(
    grid: Grid, top: Any, left: Any, bottom: Any, right: Any, *, crs: Any, clip: bool = False
) -> gpd.GeoSeries:
    if clip:
        top, bottom = np.clip(top, 0, grid.height), np.clip(bottom, 0, grid.height)
        left, right = np.clip(left, 0, grid.width), np.clip(right, 0, grid.width)
    transform: Any = grid.transform  # which takes arrays too
    xmin, ymax = transform @ (left, top)
    xmax, ymin = transform @ (right, bottom)
    boxes = gpd.GeoSeries(shapely.box(xmin, ymin, xmax, ymax), crs=grid.crs)
    if grid.crs is None or crs is None:
        return boxes.set_crs(None, allow_override=True)
    # Two spellings of one CRS must not move a box by a hair.
    same = same_crs(grid.crs, crs)
    return boxes.set_crs(crs, allow_override=True) if same else boxes.to_crs(crs)


def _centres(
    grid: Grid, rows: np.ndarray, cols: np.ndarray, reference: Grid
) -> tuple[np.ndarray, np.ndarray]:
    here: Any = grid.transform
    there: Any = reference.transform
    x, y = here @ (cols, rows)
    if not same_crs(grid.crs, reference.crs) and None not in (grid.crs, reference.crs):
        x, y = map(np.array, transform_points(grid.crs, reference.crs, x, y))
    cols, rows = ~there @ (x, y)
    return rows, cols
