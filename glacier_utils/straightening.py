"""Rings along the edges of pixels pulled straight, within so little that no pixel changes sides.

The method is that of Douglas & Peucker (1973, Cartographica 10(2), 112-122) with two differences:
the line may bend only at chosen places on the pixels' edges, and it is the corners of the edges,
where it may not bend, that must stay near. It runs on many lines at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_PIECE = 1024  # corners of a ring between two bends that are given; bounds memory and depth
_BATCH = 1 << 17  # corners at a time
_TURNS = 6
_FIRST = 1e12  # more than any squared distance


def straighten(
    corners: np.ndarray, starts: np.ndarray, shape: tuple[int, int], limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pull rings straight.

    Args:
        corners: int32 [corner, 2], (row, column) of the lattice of pixels' corners, ring after
            ring; each ring turns at every corner.
        starts: index of the first corner of each ring, and the number of corners.
        shape: (rows, columns) of the frame. Lines keep their corners on its edge.
        limit: largest distance between a corner and the straight piece that stands for it, in
            pixels; below 0.36 the line through the middles of the pixels' edges is the result.

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
        keep = _split(x, y, able, must, piece, (2 * limit) ** 2)
        _join(x, y, keep, must, piece, (2 * limit) ** 2)
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
    x: np.ndarray,
    y: np.ndarray,
    able: np.ndarray,
    must: np.ndarray,
    piece: np.ndarray,
    limit2: float,
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
        apart = (far > limit2) & (place >= 0)
        a, b, place = a[apart], b[apart], place[apart]
        keep[place] = True
        a, b = np.concatenate([a, place]), np.concatenate([place, b])


def _join(
    x: np.ndarray,
    y: np.ndarray,
    keep: np.ndarray,
    must: np.ndarray,
    piece: np.ndarray,
    limit2: float,
) -> None:
    """Take out bends, in place, without which all stays near: every other one at a time."""
    for turn in range(_TURNS):
        nodes = np.flatnonzero(keep)
        first = np.flatnonzero(np.diff(piece[nodes], prepend=-1))
        rank = np.arange(len(nodes)) - np.repeat(first, np.diff(np.append(first, len(nodes))))
        tried = np.flatnonzero((rank % 2 == turn % 2) & ~must[nodes])
        if len(tried):
            far, _ = _furthest(x, y, None, nodes[tried - 1], nodes[tried + 1])
            keep[nodes[tried[far <= limit2]]] = False


def _furthest(
    x: np.ndarray, y: np.ndarray, able: np.ndarray | None, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
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
        return far, None
    # Middles lie on the line that a staircase stands for, the other places beside it.
    score = np.where(able[index] == 2, distance2 + _FIRST, np.where(able[index], distance2, -1))
    best = np.maximum.reduceat(score, offset)
    hits = np.flatnonzero((score == best[segment]) & (score >= 0))
    place = np.full(len(a), -1)
    place[segment[hits[::-1]]] = index[hits[::-1]]  # of equals the first, which is written last
    return far, place
