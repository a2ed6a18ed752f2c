"""Mapped ice cut along the divides of an inventory, so that each glacier has its own polygon.

By the rule of ``glaciers.partition``, which does the same on rasters.
"""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from glacier_utils.errors import GlacierError
from glacier_utils.glaciers import LEAST_KM2, NONE, UNLISTED
from glacier_utils.matching import common_ground, territories, together, valid_shapes
from glacier_utils.vectors import polygonal

_TINY_M2 = 1.0  # overlays of outlines that touch leave slivers; a pixel holds 100 m2


def assign_ids(
    predicted: gpd.GeoDataFrame, inventory: gpd.GeoDataFrame, *, step_m: float = 10.0
) -> gpd.GeoDataFrame:
    """Cut mapped ice along the divides of an inventory, so that each glacier has its own.

    As in ``glaciers.partition``: ice inside an outline belongs to that glacier. Ice outside, in a
    region (polygons that touch) of which a part lies inside an outline, belongs to the nearest of
    the outlines that the region lies in; a region wholly outside is a glacier of its own,
    ``unlisted-1`` the largest, unless it is smaller than 0.01 km2: then ``none``. Nearest is meant
    to the ice inside the outline, by points along its edge.

    Args:
        predicted, inventory: as in ``match``.
        step_m: distance of those points; the cut outside outlines is as exact as that.

    Returns:
        A row a glacier that was found, the largest first: glacier_id, name, area_km2, listed (in
        the inventory), geometry. The rows do not overlap, and together are the predicted ice.

    Raises:
        GlacierError: as ``match``, or a step that is not above 0.
    """
    if not 0 < step_m < np.inf:
        raise GlacierError(f"step_m {step_m}: must be above 0; a pixel's side is fine enough")
    shapes, to_km2 = valid_shapes(predicted)
    table = territories(inventory, predicted.crs)
    ice, names = table.geometry.to_numpy(), table["glacier_id"].to_numpy(object)
    metre = 1 / np.sqrt(to_km2 * 1e6)  # in units of the CRS
    owner, polygon, inside = common_ground(ice, shapes, _TINY_M2 * metre**2)
    regions = _regions(shapes)
    parts: dict[str, list] = {}
    for number, part in zip(owner, inside, strict=True):
        parts.setdefault(names[number], []).append(part)
    of_region = _positions(regions[polygon], len(shapes))
    of_polygon = _positions(polygon, len(shapes))
    alone: dict[int, list] = {}
    loose: dict[int, list] = {}
    for shape, region, own in zip(shapes, regions, of_polygon, strict=True):
        if len(of_region[region]):
            covered = shapely.union_all(ice[owner[own]])
            loose.setdefault(region, []).append(polygonal(shape.difference(covered)))
        else:
            alone.setdefault(region, []).append(shape)
    for region, rest in loose.items():
        near = of_region[region]
        pieces = shapely.get_parts(rest)
        for number, part in _shared_out(
            pieces[~shapely.is_empty(pieces)], owner[near], inside[near], step_m * metre
        ):
            parts.setdefault(names[number], []).append(part)
    known = dict(zip(names, table["name"], strict=True))
    rows = [(name, known[name], True, together(found)) for name, found in parts.items()]
    rows += [(name, "", False, shape) for name, shape in _unlisted(alone, to_km2)]
    ids, titles, listed, shapes = zip(*rows, strict=True) if rows else ([], [], [], [])
    found = gpd.GeoDataFrame(
        {
            "glacier_id": pd.Series(ids, dtype=object),
            "name": pd.Series(titles, dtype=object),
            "area_km2": shapely.area(np.array(shapes, dtype=object)).astype(float) * to_km2,
            "listed": pd.Series(listed, dtype=bool),
        },
        geometry=list(shapes),
        crs=predicted.crs,
    )
    return found.sort_values("area_km2", ascending=False, kind="stable", ignore_index=True)


def _shared_out(
    pieces: np.ndarray, owners: np.ndarray, ice: np.ndarray, step: float
) -> list[tuple[int, shapely.Geometry]]:
    """Give pieces of ground to the owner of the ice nearest to them, cut where that changes."""
    if (owners == owners[0]).all() or not len(pieces):
        return [(owners[0], piece) for piece in pieces]
    rims, source = shapely.get_parts(shapely.boundary(ice), return_index=True)
    edges, of_rim = _edges(rims)
    whose = owners[source[of_rim]]
    tree = shapely.STRtree(edges)
    # Who is nearest anywhere in a piece is so somewhere on its rim, on the way from there to the
    # ice: so points along the rim tell.
    points, at = shapely.get_coordinates(shapely.segmentize(pieces, step), return_index=True)
    (_, edge), distance = tree.query_nearest(
        shapely.points(points), return_distance=True, all_matches=False
    )
    lowest, highest = _extremes(whose[edge], at, len(pieces))
    _, farthest = _extremes(distance, at, len(pieces))
    one = lowest == highest
    shares = list(zip(lowest[one], pieces[one], strict=True))
    # No point lies deeper in a piece than the radius of a circle as large.
    several, reach = pieces[~one], (farthest + step / 2 + np.sqrt(shapely.area(pieces) / np.pi))
    at, edge = tree.query(several, predicate="dwithin", distance=reach[~one])
    for piece, near in zip(several, _positions(at, len(several)), strict=True):
        shares += _cut(piece, edges[edge[near]], whose[edge[near]], step)
    return shares


def _cut(
    piece: shapely.Polygon, edges: np.ndarray, owners: np.ndarray, step: float
) -> list[tuple[int, shapely.Geometry]]:
    """Cut a piece into the ground nearest to each owner's edges, by points along them."""
    points, of_edge = shapely.get_coordinates(shapely.segmentize(edges, step), return_index=True)
    points, number = np.unique(points.round(6), axis=0, return_inverse=True)
    lowest, owners = _extremes(owners[of_edge], number, len(points))
    # A point of a divide is of both sides: without it, the points beside it share the ground alike.
    points, single = points[lowest == owners], owners[lowest == owners]
    if len(np.unique(single)) < 2:
        return [((*single, *owners)[0], piece)]
    owners = single
    cells = shapely.get_parts(
        shapely.voronoi_polygons(shapely.multipoints(points), extend_to=piece, ordered=True)
    )
    touching = shapely.STRtree(cells).query(piece, predicate="intersects")
    present = np.unique(owners[touching])
    shares, rest = [], piece
    for number in present[:-1]:
        own = shapely.union_all(cells[touching[owners[touching] == number]])
        shares.append((number, polygonal(rest.intersection(own))))
        rest = polygonal(rest.difference(own))
    shares.append((present[-1], rest))
    return [(number, part) for number, part in shares if not part.is_empty]


def _extremes(values: np.ndarray, of: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest of the values, none of them negative, of each of ``count``."""
    lowest, highest = np.full(count, values.max()), np.zeros(count, values.dtype)
    np.minimum.at(lowest, of, values)
    np.maximum.at(highest, of, values)
    return lowest, highest


def _edges(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the straight edges of lines, and the number of the line that each is of."""
    corners, line = shapely.get_coordinates(lines, return_index=True)
    same = line[1:] == line[:-1]
    edges = shapely.linestrings(np.stack([corners[:-1], corners[1:]], axis=1)[same])
    return edges, line[1:][same]


def _unlisted(alone: dict[int, list], to_km2: float) -> list[tuple[str, shapely.Geometry]]:
    """Name regions outside all outlines, the largest first; small ones together are ``none``."""
    regions = sorted((together(found) for found in alone.values()), key=lambda r: -r.area)
    large = [region for region in regions if region.area * to_km2 >= LEAST_KM2]
    rows = [(f"{UNLISTED}-{number}", region) for number, region in enumerate(large, 1)]
    small = regions[len(large) :]
    return [*rows, (NONE, together(small))] if small else rows


def _regions(shapes: np.ndarray) -> np.ndarray:
    """Number polygons that touch alike."""
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    size = (len(shapes), len(shapes))
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=size)
    return connected_components(graph, directed=False)[1]


def _positions(numbers: np.ndarray, length: int) -> list[np.ndarray]:
    """Return where each number 0..length - 1 stands."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.searchsorted(numbers[order], np.arange(1, length + 1)))[:length]
