"""Polygons in degrees near the 180th meridian: joined, moved, split again.

Files write a glacier there in three ways: cut into parts on both sides, with longitudes beyond 180,
or as a ring that jumps from 179 to -179. On a plane only the second is the glacier's shape, so
that is what the package works with. All functions take an array of geometries in degrees and leave
empty ones as they are.
"""

from __future__ import annotations

import numpy as np
import shapely


def unwrapped(geometry: np.ndarray) -> np.ndarray:
    """Return geometries in one piece: those on both sides of 180 get longitudes above 180.

    On both sides is what is wider than 180 degrees and becomes narrower than that when its western
    longitudes are counted on from 180.
    """
    result = np.array(geometry, dtype=object)
    xmin, _, xmax, _ = shapely.bounds(result).T
    for index in np.flatnonzero(xmax - xmin > 180):
        moved = shapely.transform(result[index], _eastward)
        if not 0 < moved.bounds[2] - moved.bounds[0] < 180:
            continue
        parts = shapely.get_parts(moved)
        # The parts share the cut along the meridian.
        whole = shapely.is_valid(parts).all() and (shapely.get_dimensions(parts) == 2).all()
        result[index] = shapely.union_all(parts) if whole and len(parts) > 1 else moved
    return result


def near(geometry: np.ndarray, longitude: float | np.ndarray) -> np.ndarray:
    """Move geometries by whole turns, so that their middles lie within 180 degrees of one place."""
    xmin, _, xmax, _ = shapely.bounds(geometry).T
    turns = np.nan_to_num(np.round((longitude - (xmin + xmax) / 2) / 360))
    return shifted(geometry, 360 * turns) if turns.any() else np.array(geometry, dtype=object)


def shifted(geometry: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Move each geometry east by its own number of degrees."""
    moved = np.array(geometry, dtype=object)
    coordinates, index = shapely.get_coordinates(moved, return_index=True)
    coordinates[:, 0] += degrees[index]
    return shapely.set_coordinates(moved, coordinates)


def centred(geometry: np.ndarray) -> np.ndarray:
    """Move each geometry to where its middle is at longitude 0, which keeps its area."""
    geometry = unwrapped(geometry)
    xmin, _, xmax, _ = shapely.bounds(geometry).T
    return shifted(geometry, -np.nan_to_num((xmin + xmax) / 2))


def split(geometry: np.ndarray) -> np.ndarray:
    """Cut polygons at the 180th meridian, all longitudes in -180..180, as files should have them.

    That is the rule of GeoJSON (RFC 7946, section 3.1.9).
    """
    result = near(unwrapped(geometry), 0.0)
    xmin, _, xmax, _ = shapely.bounds(result).T
    for index in np.flatnonzero((xmin < -180) | (xmax > 180)):
        parts = []
        for turn in (-360, 0, 360):
            piece = result[index].intersection(shapely.box(turn - 180, -90, turn + 180, 90))
            piece = shapely.transform(piece, lambda xy, turn=turn: xy - [turn, 0])
            parts += [part for part in shapely.get_parts(piece) if part.geom_type == "Polygon"]
        result[index] = shapely.MultiPolygon(parts)
    return result


def _eastward(coordinates: np.ndarray) -> np.ndarray:
    return coordinates + np.where(coordinates[:, :1] < 0, [360.0, 0.0], 0.0)
