"""Outlines of a class raster as lines that a person would draw, within half a pixel of the pixels.

The raster is read in strips, which give the corners of the line along the pixels' edges: places
where the line turns. They fall into runs, two by two along each row and each column, and runs into
rings, whatever the strips were. The line then leaves the pixels' edges: it may only bend in the
middle of a run or half a pixel from its ends, and each straight piece stays within less than half a
pixel of the edges that it stands for. The method is that of Douglas & Peucker (1973, Cartographica
10(2), 112-122) with two differences: the line may bend only at these places, and it is the corners
of the edges, where it may not bend, that must stay near. It runs on many lines at once.

That bound is all that is needed for topology. A pixel's centre is at least half a pixel from every
edge, so pulling an edge straight moves no part of it across a centre; nor across a bend, since no
other edge comes within half a pixel of the places where a line may bend. Lines that do not cross
then do not cross when each of them is pulled straight, because straight lines cross as little as
their ends and the points that they go round allow. So rings stay simple, polygons stay apart, and
burning them gives back the raster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from tqdm import tqdm

from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import read_header
from glacier_utils.raster.mask import open_mask

# Largest squared distance between a line and the pixels' edges, in half pixels: what is left of
# half a pixel keeps every line 1 cm and more off the centres of 10 m pixels, so that rounding, as
# in another CRS, moves none to the other side.
_LIMIT2 = 0.98**2
_PIECE = 1024  # corners of a ring between two bends that are given; bounds memory and depth
_BATCH = 1 << 17  # corners at a time
_TURNS = 6
_FIRST = 1e12  # more than any squared distance


@dataclass(frozen=True)
class _Rings:
    """Rings along the pixels' edges, clockwise on the map, each from its upper left corner.

    ``corners`` int32 [corner, 2] (row, column), ring after ring from ``starts``; ``ice``: whether a
    ring goes round ice or is the edge of a hole; ``pixels``: how many it encloses.
    """

    corners: np.ndarray
    starts: np.ndarray
    ice: np.ndarray
    pixels: np.ndarray


def polygonize(mask: np.ndarray, grid: Grid, *, min_area_km2: float = 0.0) -> gpd.GeoDataFrame:
    """Return the polygons of ``mask`` == 1 without the pixels' staircase, largest first.

    Burning them (pixel-centre rule) gives back the mask. They never overlap and are always valid.
    Pixels that touch at a corner belong together; holes that touch at a corner do not. Lines along
    the frame's edge stay on it.

    Args:
        mask: bool or uint8 [row, col]; 1 glacier, anything else not.
        grid: its place.
        min_area_km2: regions of fewer pixels' area are left out.

    Returns:
        area_km2 of the polygon on the grid's plane, and geometry in the grid's CRS.

    Raises:
        ValueError: the mask does not fit the grid.

    Example:
        >>> from affine import Affine
        >>> from rasterio.crs import CRS
        >>> grid = Grid(CRS.from_epsg(32623), Affine(10, 0, 450_000, 0, -10, 6_780_000), 60, 80)
        >>> mask = np.zeros(grid.shape, np.uint8)
        >>> mask[:30] = 1
        >>> polygonize(mask, grid).area_km2.round(6).tolist()
        [0.24]
    """
    mask = np.asarray(mask)
    if mask.shape != grid.shape:
        raise ValueError(f"a mask of shape {mask.shape} does not fit a grid of {grid.shape}")
    return _polygonize([mask], grid, min_area_km2)


def polygonize_file(
    path: str | Path, *, min_area_km2: float = 0.0, rows: int = 1024, progress: bool = False
) -> gpd.GeoDataFrame:
    """Return the polygons of a class raster (0, 1, 255 unknown), read in strips.

    The result is that of ``polygonize``, whatever the strips are. Memory goes with the length of a
    strip and of the line, not with the size of the raster.

    Args:
        path: of the raster.
        min_area_km2: regions of fewer pixels' area are left out.
        rows: of a strip.
        progress: show a bar.

    Raises:
        GlacierError: the file cannot be read or holds other values.
    """
    grid = read_header(Path(path)).grid
    source = open_mask(path, grid, codes=(0, 1))
    starts = tqdm(range(0, grid.height, rows), desc="polygonize", disable=not progress)
    strips = (source.read(row, 0, min(rows, grid.height - row), grid.width) for row in starts)
    return _polygonize(strips, grid, min_area_km2)


def _polygonize(strips: Iterable[np.ndarray], grid: Grid, min_area_km2: float) -> gpd.GeoDataFrame:
    rings = _walk(*_corners(strips, grid.width))
    points, starts = _straighten(rings.corners, rings.starts, grid.shape)
    owner = np.repeat(np.arange(len(rings.ice)), np.diff(starts))
    lines = shapely.linearrings(points, indices=owner)
    polygons = _nested(rings, lines, min_area_km2, grid.pixel_area_km2)
    areas = shapely.area(polygons) * grid.pixel_area_km2
    t = grid.transform
    polygons = shapely.transform(polygons, lambda xy: xy * [t.a, t.e] + [t.c, t.f])
    frame = gpd.GeoDataFrame({"area_km2": areas}, geometry=polygons, crs=grid.crs)
    return frame.sort_values("area_km2", ascending=False, kind="stable").reset_index(drop=True)


def _corners(strips: Iterable[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the corners of the line along the pixels' edges.

    Returns:
        corners int32 [corner, 3]: row and column on the lattice of pixels' corners, in this order,
        and which of two corners at one place ends the vertical run below (1) rather than above it;
        and whether the pixel to the lower right is ice.
    """
    corners, below = [], []
    above = np.zeros(width + 2, bool)
    row = 0
    # A last row outside the frame closes what is open.
    for strip in chain(strips, [np.zeros((1, width), np.uint8)]):
        ice = np.vstack([above, np.pad(strip == 1, ((0, 0), (1, 1)))])
        found, ice_below = _corners_of(ice)
        corners.append(np.add(found, (row, 0, 0), dtype=np.int32, casting="same_kind"))
        below.append(ice_below)
        above = ice[-1]
        row += len(strip)
    return np.concatenate(corners), np.concatenate(below)


def _corners_of(ice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners between the rows of ``ice`` and whether ice is to the lower right."""
    nw, ne, sw, se = ice[:-1, :-1], ice[:-1, 1:], ice[1:, :-1], ice[1:, 1:]
    cross = (nw == se) & (ne == sw) & (nw != ne)
    place = np.flatnonzero((nw ^ ne ^ sw ^ se) | cross)
    # Where pixels of ice touch at a corner, two lines turn, each round one of the other pixels:
    # so the ice is joined. The western one comes first.
    twice = cross.ravel()[place]
    place, twice = np.repeat(place, 1 + twice), np.repeat(twice, 1 + twice)
    eastern = np.diff(place, prepend=-1) == 0
    lower_right = se.ravel()[place]
    lower = twice & (eastern ^ lower_right)
    rows, cols = np.divmod(place, nw.shape[1])
    return np.column_stack([rows, cols, lower]), lower_right


def _walk(corners: np.ndarray, ice_below: np.ndarray) -> _Rings:
    """Join corners to rings.

    The corners of a row are the ends of runs, two by two, and likewise those of a column.
    """
    rows, cols, lower = corners.T.astype(np.int64)
    order = np.argsort((cols * (rows.max(initial=0) + 1) + rows) * 2 + lower)
    across = np.empty(len(order), np.int32)
    across[order[0::2]], across[order[1::2]] = order[1::2], order[0::2]
    del rows, cols, lower, order
    path, ends = np.empty(len(across), np.int32), [0]
    seen = bytearray(len(across))
    step, out, k = across.data, path.data, 0
    for first in range(0, len(across), 2):
        if seen[first]:
            continue
        here = first
        while not seen[here]:
            seen[here] = 1
            out[k] = here
            here ^= 1  # the other end of the run along the row
            seen[here] = 1
            out[k + 1] = here
            here = step[here]
            k += 2
        ends.append(k)
    starts = np.array(ends)
    ice = ice_below[path[starts[:-1]]]
    corners = corners[path, :2]
    x, y = corners[:, 1].astype(np.int64), corners[0::2, 0].astype(np.int64)
    strips = (x[0::2] - x[1::2]) * y
    pixels = np.add.reduceat(strips, starts[:-1] // 2) if len(strips) else np.zeros(0, np.int64)
    return _Rings(corners, starts, ice, pixels)


def _straighten(
    corners: np.ndarray, starts: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pull rings straight.

    Args:
        corners: int32 [corner, 2], (row, column) of the lattice of pixels' corners, ring after
            ring; each ring turns at every corner.
        starts: index of the first corner of each ring, and the number of corners.
        shape: (rows, columns) of the frame. Lines keep their corners on its edge.

    Returns:
        (points, starts): float64 [point, 2] as (column, row), and the first point of each ring with
        the number of points.
    """
    first, last, ring = _pieces(starts)
    points, counts = [], np.zeros(len(starts) - 1, np.int64)
    for part in _batches(last - first):
        x, y, able, must, piece = _places(
            corners, first[part], last[part], starts, ring[part], shape
        )
        keep = _split(x, y, able, must, piece)
        _join(x, y, keep, must, piece)
        keep[np.flatnonzero(np.diff(piece, append=-1))] = False  # where the next piece begins
        points.append(np.column_stack([x[keep], y[keep]]).astype(np.int32))
        counts += np.bincount(ring[part][piece[keep]], minlength=len(counts))
    together = np.concatenate(points) if points else np.zeros((0, 2), np.int32)
    return together / 2, np.concatenate([[0], np.cumsum(counts)])


def _pieces(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut rings into pieces: first corner, last corner (the next one's first) and ring of each."""
    sizes = np.diff(starts)
    number = -(-sizes // _PIECE)
    ring = np.repeat(np.arange(len(sizes)), number)
    rank = np.arange(len(ring)) - np.repeat(np.cumsum(number) - number, number)
    first = starts[ring] + rank * _PIECE
    return first, np.minimum(first + _PIECE, starts[ring + 1]), ring


def _batches(sizes: np.ndarray) -> Iterator[slice]:
    begin = 0
    total = np.cumsum(sizes)
    while begin < len(sizes):
        done = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + _BATCH, side="right")))
        yield slice(begin, end)
        begin = end


def _places(
    corners: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    starts: np.ndarray,
    ring: np.ndarray,
    shape: tuple[int, int],
) -> tuple[np.ndarray, ...]:
    """List what lies on the line of each piece, in half pixels.

    Returns x, y; whether the line may bend there (0 no, 1 half a pixel from a corner, 2 in the
    middle of a run or in a corner on the frame's edge) and whether it must; and the piece, which
    goes from the middle of its first run to that of the next piece's.
    """
    sizes = last - first + 1
    heads, tails = np.cumsum(sizes) - sizes, np.cumsum(sizes) - 1
    piece = np.repeat(np.arange(len(first)), sizes)
    at = np.arange(len(piece)) + np.repeat(first - heads, sizes)
    begin, end = starts[ring][piece], starts[ring + 1][piece]
    here = corners[np.where(at < end, at, at - end + begin)]
    after = corners[np.where(at + 1 < end, at + 1, at + 1 - end + begin)]
    side = (here == 0) | (here == shape)
    on_frame = side.any(axis=1)
    inside = ~(side & (here == after)).any(axis=1)  # the run is not along the frame's edge
    length = np.abs(after - here).sum(axis=1)
    offsets = np.column_stack([0 * length, 0 * length + 1, length, 2 * length - 1])
    spot = 2 * here[:, :, None] + np.sign(after - here)[:, :, None] * offsets[:, None, :]
    ends = inside & (length > 1)
    there = np.column_stack([np.ones_like(inside), ends, inside, ends])
    there[heads, :2] &= on_frame[heads, None]
    there[tails, 1:] &= ~on_frame[tails, None]
    there[tails, 3] = False
    must = np.zeros_like(there)
    must[:, 0] = on_frame
    must[heads, 2] |= ~on_frame[heads]
    must[tails, 2] |= ~on_frame[tails]
    able = np.column_stack([2 * on_frame, ends, 2 * inside, ends]).astype(np.int8)
    x, y = spot[:, 1][there].astype(float), spot[:, 0][there].astype(float)
    return x, y, able[there], must[there], np.repeat(piece, 4).reshape(-1, 4)[there]


def _split(
    x: np.ndarray, y: np.ndarray, able: np.ndarray, must: np.ndarray, piece: np.ndarray
) -> np.ndarray:
    """Return where to bend: straight pieces are split at their furthest place until all is near."""
    keep = must.copy()
    ends = np.flatnonzero(must)
    same = piece[ends[:-1]] == piece[ends[1:]]
    a, b = ends[:-1][same], ends[1:][same]
    while True:
        long = b - a > 1
        a, b = a[long], b[long]
        if not len(a):
            return keep
        far, place = _furthest(x, y, able, a, b)
        apart = (far > _LIMIT2) & (place >= 0)
        a, b, place = a[apart], b[apart], place[apart]
        keep[place] = True
        a, b = np.concatenate([a, place]), np.concatenate([place, b])


def _join(
    x: np.ndarray, y: np.ndarray, keep: np.ndarray, must: np.ndarray, piece: np.ndarray
) -> None:
    """Take out bends, in place, without which all stays near: every other one at a time."""
    for turn in range(_TURNS):
        nodes = np.flatnonzero(keep)
        first = np.flatnonzero(np.diff(piece[nodes], prepend=-1))
        rank = np.arange(len(nodes)) - np.repeat(first, np.diff(np.append(first, len(nodes))))
        tried = np.flatnonzero((rank % 2 == turn % 2) & ~must[nodes])
        if len(tried):
            far, _ = _furthest(x, y, None, nodes[tried - 1], nodes[tried + 1])
            keep[nodes[tried[far <= _LIMIT2]]] = False


def _furthest(
    x: np.ndarray, y: np.ndarray, able: np.ndarray | None, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Look at what lies between the ends a and b (b > a + 1) of straight pieces.

    Returns:
        The largest squared distance to each piece; and, unless ``able`` is None, the furthest place
        where the line may bend, in the middle of a run if there is one, -1 if there is no place.
    """
    count = b - a - 1
    offset = np.cumsum(count) - count
    segment = np.repeat(np.arange(len(a)), count)
    index = np.arange(len(segment)) + np.repeat(a + 1 - offset, count)
    dx, dy = x[b] - x[a], y[b] - y[a]
    length2 = dx * dx + dy * dy
    length2[length2 == 0] = 1  # a whole ring, from a place to itself
    px, py = x[index] - x[a][segment], y[index] - y[a][segment]
    t = np.clip((px * dx[segment] + py * dy[segment]) / length2[segment], 0, 1)
    px -= t * dx[segment]
    py -= t * dy[segment]
    distance2 = px * px + py * py
    far = np.maximum.reduceat(distance2, offset)
    if able is None:
        return far, np.zeros(0, int)
    # Middles lie on the line that a staircase stands for, the other places beside it.
    score = np.where(able[index] == 2, distance2 + _FIRST, np.where(able[index], distance2, -1))
    best = np.maximum.reduceat(score, offset)
    hits = np.flatnonzero((score == best[segment]) & (score >= 0))
    place = np.full(len(a), -1)
    place[segment[hits[::-1]]] = index[hits[::-1]]  # of equals the first, which is written last
    return far, place


def _nested(rings: _Rings, lines: np.ndarray, least_km2: float, pixel_km2: float) -> np.ndarray:
    """Return the polygons of ice with their holes, in the order of the rings, without small ones.

    ``lines`` are the rings as drawn, (column, row); ice counts without its holes.
    """
    holes, outer = np.flatnonzero(~rings.ice), np.flatnonzero(rings.ice)
    region = np.arange(len(lines))  # for a hole: the ring of the ice that it is in
    if len(holes):
        # The centre of the pixel of ice beyond the upper edge of each hole.
        points = rings.corners[rings.starts[holes], ::-1] + [0.5, -0.5]
        tree = shapely.STRtree(shapely.points(points))
        which, point = tree.query(shapely.polygons(lines[outer]), predicate="contains")
        # The smallest ring around it comes last and stays.
        order = np.argsort(-rings.pixels[outer[which]], kind="stable")
        region[holes[point[order]]] = outer[which[order]]
    signed = np.where(rings.ice, rings.pixels, -rings.pixels)
    areas = np.bincount(region, signed, len(lines)) * pixel_km2
    there = ~(areas < least_km2)[region]
    outer, holes = np.flatnonzero(there & rings.ice), np.flatnonzero(there & ~rings.ice)
    ring = np.concatenate([outer, holes])
    place = np.searchsorted(outer, region[ring])
    order = np.argsort(place, kind="stable")
    return shapely.polygons(lines[ring[order]], indices=place[order])
