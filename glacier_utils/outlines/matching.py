"""Predicted polygons against an inventory: as what each glacier was found.

A map separates ice from ground, not glacier from glacier: where glaciers touch along a divide they
come out as one polygon, and a cloud or a debris band leaves one glacier in several. ``match`` says
which polygon is which glacier; ``assign_ids`` cuts the mapped ice along the inventory's divides, by
the rule that ``per_glacier.partition`` has for rasters. Areas are in km2 on the plane of the map's
CRS (within 0.2 % of the ground's in UTM; where the CRS is off by more than 1 %, put right).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from affine import Affine
from rasterio.crs import CRS
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from glacier_utils.conventions import NONE, SMALLEST_GLACIER_KM2, UNLISTED
from glacier_utils.errors import GlacierError, counted
from glacier_utils.outlines.inventory import resolve_overlaps, without_rock
from glacier_utils.outlines.reading import in_crs, polygonal
from glacier_utils.raster.grid import Grid

# Fraction of a glacier, or of a polygon, below which common ground does not count.
_LEAST_FRACTION = 0.1
_SLIVER_KM2 = 1e-9
_TINY_M2 = 1.0  # overlays of outlines that touch leave slivers; a pixel holds 100 m2


@dataclass(frozen=True)
class Matches:
    """Predicted polygons and inventory glaciers that lie on each other.

    Attributes:
        pairs: one row for each polygon and glacier with common ground: polygon (index in
            ``polygons``), glacier_id, overlap_km2, share (overlap / glacier), share_of_polygon
            (overlap / polygon), iou (of the two), counted (by ``match``'s rule).
        glaciers: one row for each glacier on the ground mapped: glacier_id, name, area_km2 (without
            its internal rock, inside the ground), cut (a part lies outside), found_km2, share
            (found / area), pieces (polygons counted), polygons (theirs, joined by commas), kind,
            merged_with (other glaciers in the same polygons, joined by commas), geometry.
        polygons: one row for each predicted polygon, indexed as it came: area_km2, glacier_ids
            (counted, joined by commas), glaciers (their number), outside_km2 (in no outline), kind,
            geometry.
    """

    pairs: pd.DataFrame
    glaciers: gpd.GeoDataFrame
    polygons: gpd.GeoDataFrame


def match(
    predicted: gpd.GeoDataFrame,
    inventory: gpd.GeoDataFrame,
    *,
    ground: shapely.Geometry | None = None,
) -> Matches:
    """Match predicted polygons with the glaciers of an inventory.

    A glacier is *missed* if less than a tenth of its area was found. Of one that was found, each
    polygon counts that holds at least a tenth of what the largest holds of it: neither a neighbour
    that reaches over the divide nor a crumb beside the tongue makes it split or merged. By the
    pairs that count, a glacier or a polygon is *one-to-one*; *split*, the glacier lies in several
    polygons; *merged*, the polygon lies on several glaciers; *complex*, both. A polygon without a
    pair that counts is *new* if less than a tenth of it lies in outlines, else a *fragment*.

    Args:
        predicted: polygons of ``polygonize``, in a projected CRS.
        inventory: table of ``read_outlines``, one analysis of each glacier (``select_analyses``),
            in any CRS. Where outlines overlap, the newer glacier has the ground, of equal dates the
            larger (``resolve_overlaps``).
        ground: what was mapped, in the CRS of ``predicted``, such as ``grid.box``: glaciers are
            judged by the part inside it, and those outside are left out. None: all count whole.

    Returns:
        Tables of pairs, glaciers and polygons.

    Raises:
        GlacierError: a table without CRS, or polygons that are not in a projected one.

    Example:
        >>> ice = shapely.box(5e5, 68e5, 502e3, 6801e3)
        >>> inventory = gpd.GeoDataFrame(
        ...     {"glacier_id": ["A"], "analysis_id": ["1"], "kind": ["glacier"],
        ...      "source_date": [pd.Timestamp("2001-08-01")], "name": ["Sermeq"]},
        ...     geometry=[ice], crs=32623,
        ... )
        >>> found = shapely.box(5e5, 68e5, 501e3, 6801e3)
        >>> predicted = gpd.GeoDataFrame(geometry=[found], crs=32623)
        >>> match(predicted, inventory).glaciers[["glacier_id", "share", "kind"]].values.tolist()
        [['A', 0.5, 'one-to-one']]
    """
    shapes, to_km2 = _valid_shapes(predicted)
    table = _on_ground(_territories(inventory, predicted.crs), ground)
    ice = table.geometry.to_numpy()
    areas, sizes = shapely.area(ice) * to_km2, shapely.area(shapes) * to_km2
    glacier, polygon, common = _common_ground(ice, shapes)
    overlap = shapely.area(common) * to_km2
    found = np.bincount(glacier, overlap, len(ice))
    largest = np.zeros(len(ice))
    np.maximum.at(largest, glacier, overlap)
    counted = (found >= _LEAST_FRACTION * areas)[glacier]
    counted &= overlap >= _LEAST_FRACTION * largest[glacier]
    order = np.lexsort((-overlap, glacier))
    pairs = pd.DataFrame(
        {
            "polygon": predicted.index.to_numpy()[polygon],
            "glacier_id": table["glacier_id"].to_numpy()[glacier],
            "overlap_km2": overlap,
            "share": overlap / areas[glacier],
            "share_of_polygon": overlap / sizes[polygon],
            "iou": overlap / (areas[glacier] + sizes[polygon] - overlap),
            "counted": counted,
        }
    ).iloc[order]
    links = pairs[pairs["counted"]]
    glaciers = table.assign(area_km2=areas, found_km2=found, share=found / areas)
    outside = np.maximum(sizes - np.bincount(polygon, overlap, len(shapes)), 0)
    polygons = gpd.GeoDataFrame(
        {"area_km2": sizes, "outside_km2": outside},
        geometry=shapes, index=predicted.index, crs=predicted.crs,
    )  # fmt: skip
    return Matches(pairs.reset_index(drop=True), *_kinds(glaciers, polygons, links))


def _kinds(
    glaciers: gpd.GeoDataFrame, polygons: gpd.GeoDataFrame, links: pd.DataFrame
) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
    """Add to both tables what the pairs that count say of each row."""
    pieces = links.groupby("glacier_id", sort=False)["polygon"].agg(list)
    owners = links.groupby("polygon", sort=False)["glacier_id"].agg(list)
    rows = []
    for name in glaciers["glacier_id"]:
        own = pieces.get(name, [])
        beside = sorted({other for polygon in own for other in owners[polygon]} - {name})
        kind = _kind(len(own) > 1, bool(beside)) if own else "missed"
        rows.append((len(own), ", ".join(map(str, own)), kind, ", ".join(beside)))
    said = pd.DataFrame(
        rows, columns=["pieces", "polygons", "kind", "merged_with"], index=glaciers.index
    )
    inside = 1 - polygons["outside_km2"] / polygons["area_km2"]
    lines = []
    for polygon, fraction in inside.items():
        own = owners.get(polygon, [])
        kind = _kind(any(len(pieces[name]) > 1 for name in own), len(own) > 1)
        if not own:
            kind = "fragment" if fraction >= _LEAST_FRACTION else "new"
        lines.append((", ".join(own), len(own), kind))
    names = pd.DataFrame(lines, columns=["glacier_ids", "glaciers", "kind"], index=polygons.index)
    columns = ["glacier_id", "name", "area_km2", "cut", "found_km2", "share", "pieces", "polygons",
               "kind", "merged_with", "geometry"]  # fmt: skip
    of_polygons = ["area_km2", "glacier_ids", "glaciers", "outside_km2", "kind", "geometry"]
    return glaciers.join(said)[columns], polygons.join(names)[of_polygons]


def _kind(split: bool, merged: bool) -> str:
    if split and merged:
        return "complex"
    return "split" if split else "merged" if merged else "one-to-one"


def splits_and_merges(matches: Matches) -> pd.DataFrame:
    """List glaciers found in several polygons and polygons that lie on several glaciers.

    Args:
        matches: of ``match``.

    Returns:
        found_as ("split": a glacier; "merged": a polygon), glacier_ids and names (joined by
        commas), count (polygons of the glacier, glaciers of the polygon), area_km2 (of the
        glaciers), found_km2, share (found / area), complex (both at once); the largest first. Names
        are text by third parties: escape them for the format written to.
    """
    by_id = matches.glaciers.set_index("glacier_id")
    rows = [
        _listed("split", [name], pieces, by_id)
        for name, pieces in by_id.loc[by_id["pieces"] > 1, "pieces"].items()
    ]
    links = matches.pairs[matches.pairs["counted"]]
    for _, names in links.groupby("polygon", sort=True)["glacier_id"]:
        if len(names) > 1:
            rows.append(_listed("merged", list(names), len(names), by_id))
    columns = ["found_as", "glacier_ids", "names", "count", "area_km2", "found_km2", "share",
               "complex"]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(
        ["found_as", "area_km2"], ascending=[False, False], kind="stable", ignore_index=True
    )


def _listed(found_as: str, ids: list[str], count: int, by_id: pd.DataFrame) -> tuple:
    rows = by_id.loc[ids]
    area, found = rows["area_km2"].sum(), rows["found_km2"].sum()
    names = ", ".join(name for name in rows["name"] if name)
    return (found_as, ", ".join(ids), names, int(count), area, found, found / area,
            bool((rows["kind"] == "complex").any()))  # fmt: skip


def describe_matches(matches: Matches) -> str:
    """Say in two sentences what was found as what.

    Args:
        matches: of ``match``.
    """
    glaciers, polygons = matches.glaciers, matches.polygons
    if glaciers.empty:
        return (
            "No glacier of the inventory lies on the ground mapped; the map shows "
            f"{counted(len(polygons), 'polygon')} of ice ({polygons['area_km2'].sum():.1f} km²)."
        )
    phrases = {
        "one-to-one": "found as one polygon",
        "split": "split into several",
        "merged": "merged with neighbours",
        "complex": "both split and merged",
    }
    counts = glaciers["kind"].value_counts()
    parts = [f"{counts[kind]} {text}" for kind, text in phrases.items() if kind in counts]
    missed = glaciers[glaciers["kind"] == "missed"]
    parts.append(f"{len(missed)} missed ({missed['area_km2'].sum():.2f} km²)")
    new = polygons[polygons["kind"] == "new"]
    area, found = glaciers["area_km2"].sum(), glaciers["found_km2"].sum()
    return (
        f"Of {counted(len(glaciers), 'glacier')} with {area:.1f} km², {100 * found / area:.0f} % "
        f"of it found: {', '.join(parts)}. Of {counted(len(polygons), 'predicted polygon')}, "
        f"{len(new)} ({new['area_km2'].sum():.2f} km²) "
        f"{'is' if len(new) == 1 else 'are'} new: next to none of it lies in an outline."
    )


def _common_ground(
    ice: np.ndarray, shapes: np.ndarray, least: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (glacier, polygon, common ground) of all that share more area than ``least``."""
    glacier, polygon = shapely.STRtree(shapes).query(ice, predicate="intersects")
    common = shapely.intersection(ice[glacier], shapes[polygon])
    kept = shapely.area(common) > least
    common = np.array([polygonal(shape) for shape in common[kept]], dtype=object)
    return glacier[kept], polygon[kept], common


def _valid_shapes(predicted: gpd.GeoDataFrame) -> tuple[np.ndarray, float]:
    """Return valid polygons, and km2 on the ground of a square unit of their CRS."""
    if predicted.crs is None or not predicted.crs.is_projected:
        raise GlacierError(
            "the predicted polygons have no CRS in which lengths can be measured; give them in a "
            "projected one such as UTM"
        )
    shapes = [shapely.Polygon() if shape is None else polygonal(shape)
              for shape in predicted.geometry]  # fmt: skip
    xmin, ymin, xmax, ymax = predicted.total_bounds
    frame = Affine(xmax - xmin, 0, xmin, 0, ymin - ymax, ymax)
    metres = Grid(CRS.from_user_input(predicted.crs), frame, 1, 1).metres_per_unit
    return np.array(shapes, dtype=object), metres**2 / 1e6


def _territories(inventory: gpd.GeoDataFrame, crs: Any) -> gpd.GeoDataFrame:
    """Return glacier_id, name and the ice of each glacier in ``crs``, without overlaps."""
    table = in_crs(inventory, CRS.from_user_input(crs))
    # Overlaps are left as they are below a thousandth of a square metre only.
    table = resolve_overlaps(table, min_area_km2=_SLIVER_KM2)
    ice = table.loc[table["kind"] == "glacier", ["glacier_id", "name"]].assign(
        _shape=without_rock(table)
    )
    ice["glacier_id"] = ice["glacier_id"].astype(str)
    rows = [
        (name, rows["name"].iloc[0], _union(list(rows["_shape"])))
        for name, rows in ice.groupby("glacier_id", sort=True)
    ]
    frame = gpd.GeoDataFrame(rows, columns=["glacier_id", "name", "geometry"], crs=crs)
    return frame[~frame.is_empty].reset_index(drop=True)


def _on_ground(table: gpd.GeoDataFrame, ground: shapely.Geometry | None) -> gpd.GeoDataFrame:
    """Cut glaciers to the ground mapped; add ``cut``."""
    if ground is None or table.empty:
        return table.assign(cut=False)
    shapely.prepare(ground)
    whole = shapely.covers(ground, table.geometry.to_numpy())
    inside = table.geometry.where(whole, table.geometry.intersection(ground).map(polygonal))
    table = table.set_geometry(inside).assign(cut=~whole)
    return table[~table.is_empty].reset_index(drop=True)


def _union(shapes: Sequence) -> shapely.Geometry:
    return polygonal(shapely.union_all(shapes))


def assign_ids(
    predicted: gpd.GeoDataFrame, inventory: gpd.GeoDataFrame, *, step_m: float
) -> gpd.GeoDataFrame:
    """Cut mapped ice along the divides of an inventory, so that each glacier has its own.

    Ice inside an outline belongs to that glacier. Ice outside, in a region (polygons that touch) of
    which a part lies inside an outline, belongs to the nearest of the outlines that the region lies
    in; a region wholly outside is a glacier of its own, ``unlisted-1`` the largest, unless it is
    smaller than 0.01 km2: then ``none``. Nearest is meant to the ice inside the outline, by points
    along its edge.

    Args:
        predicted: as in ``match``.
        inventory: as in ``match``.
        step_m: distance of those points, such as a pixel's side; the cut outside outlines is as
            exact as that.

    Returns:
        One row for each glacier that was found, the largest first: glacier_id, name, area_km2,
        listed (in the inventory), geometry. The rows do not overlap, and together are the predicted
        ice.

    Raises:
        GlacierError: as ``match``, or a step that is not above 0.
    """
    if not 0 < step_m < np.inf:
        raise GlacierError(f"step_m {step_m}: must be above 0; a pixel's side is fine enough")
    shapes, to_km2 = _valid_shapes(predicted)
    table = _territories(inventory, predicted.crs)
    ice, names = table.geometry.to_numpy(), table["glacier_id"].to_numpy(object)
    metre = 1 / np.sqrt(to_km2 * 1e6)  # in units of the CRS
    owner, polygon, inside = _common_ground(ice, shapes, _TINY_M2 * metre**2)
    regions = _regions(shapes)
    in_region = regions[polygon]
    parts: dict[str, list] = {}
    for number, part in zip(owner, inside, strict=True):
        parts.setdefault(names[number], []).append(part)
    alone: dict[int, list] = {}
    loose: dict[int, list] = {}
    for number, (shape, region) in enumerate(zip(shapes, regions, strict=True)):
        if region in in_region:
            covered = shapely.union_all(ice[owner[polygon == number]])
            loose.setdefault(region, []).append(polygonal(shape.difference(covered)))
        else:
            alone.setdefault(region, []).append(shape)
    for region, rest in loose.items():
        near = in_region == region
        for number, part in _to_nearest(rest, owner[near], inside[near], step_m * metre):
            parts.setdefault(names[number], []).append(part)
    known = dict(zip(names, table["name"], strict=True))
    rows = [(name, known[name], True, _union(found)) for name, found in parts.items()]
    rows += [(name, "", False, shape) for name, shape in _unlisted(alone, to_km2)]
    ids, titles, listed, drawn = zip(*rows, strict=True) if rows else ([], [], [], [])
    found = gpd.GeoDataFrame(
        {
            "glacier_id": pd.Series(ids, dtype=object),
            "name": pd.Series(titles, dtype=object),
            "area_km2": shapely.area(np.array(drawn, dtype=object)).astype(float) * to_km2,
            "listed": pd.Series(listed, dtype=bool),
        },
        geometry=list(drawn),
        crs=predicted.crs,
    )
    return found.sort_values("area_km2", ascending=False, kind="stable", ignore_index=True)


def _to_nearest(
    pieces: Sequence, owners: np.ndarray, ice: np.ndarray, step: float
) -> list[tuple[int, shapely.Geometry]]:
    """Cut ground into what is nearest to the ice of each owner, by points along the ice's edge."""
    rest = _union(pieces)
    points, of = shapely.get_coordinates(
        shapely.segmentize(shapely.boundary(ice), step), return_index=True
    )
    # Points that all but coincide, and coordinates of seven digits before the point, give cells
    # whose edges do not meet.
    fine, origin = step / 100, points.mean(axis=0).round()
    points = ((points - origin) / fine).round()
    found = np.unique(np.column_stack([points, owners[of]]), axis=0)
    _, number, counts = np.unique(found[:, :2], axis=0, return_inverse=True, return_counts=True)
    # A point of a divide is of both sides: without it, the points beside it get equal ground.
    found = found[counts[number] == 1]
    points, whose = found[:, :2] * fine, found[:, 2].astype(int)
    if len(np.unique(whose)) < 2:
        return [(owners[0], rest)]
    local = shapely.transform(rest, lambda places: places - origin)
    cells = shapely.get_parts(
        shapely.voronoi_polygons(shapely.multipoints(points), extend_to=local, ordered=True)
    )
    touching = shapely.STRtree(cells).query(local, predicate="intersects")
    parts = []
    for owner in np.unique(whose[touching]):
        own = _joined(cells[touching[whose[touching] == owner]], fine)
        own = shapely.transform(own, lambda places: places + origin)
        parts.append((owner, polygonal(rest.intersection(own))))
        rest = polygonal(rest.difference(own))
    return [(owner, part) for owner, part in parts if not part.is_empty]


def _joined(cells: np.ndarray, fine: float) -> shapely.Geometry:
    """Join Voronoi cells; where rounding has kept their edges from meeting, on a fine grid."""
    try:
        return shapely.coverage_union_all(cells)
    except shapely.GEOSException:
        return shapely.union_all(shapely.make_valid(cells), grid_size=fine / 100)


def _unlisted(alone: dict[int, list], to_km2: float) -> list[tuple[str, shapely.Geometry]]:
    """Name regions outside all outlines, the largest first; small ones together are ``none``."""
    regions = sorted((_union(found) for found in alone.values()), key=lambda r: -r.area)
    large = [region for region in regions if region.area * to_km2 >= SMALLEST_GLACIER_KM2]
    rows = [(f"{UNLISTED}-{number}", region) for number, region in enumerate(large, 1)]
    small = regions[len(large) :]
    return [*rows, (NONE, _union(small))] if small else rows


def _regions(shapes: np.ndarray) -> np.ndarray:
    """Number polygons that touch alike."""
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    size = (len(shapes), len(shapes))
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=size)
    return connected_components(graph, directed=False)[1]
