"""Predicted polygons against an inventory: as what each glacier was found.

A map tells ice from ground, not glacier from glacier: where glaciers touch along a divide they come
out as one polygon, and a cloud or a debris band leaves one glacier in several. ``match`` says which
polygon is which glacier; ``divides.assign_ids`` cuts the mapped ice along the inventory's divides.
Areas are in km2 on the plane of the map's CRS (within 0.2 % of the ground's in UTM).
"""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from rasterio.crs import CRS

from glacier_utils.analyses import resolve_overlaps
from glacier_utils.errors import GlacierError
from glacier_utils.inventories import without_rock
from glacier_utils.vectors import in_crs, polygonal

KINDS = ("one-to-one", "merged", "split", "complex", "missed", "fragment", "new")
_SLIVER_KM2 = 1e-9


@dataclass(frozen=True)
class Matches:
    """Predicted polygons and inventory glaciers that lie on each other.

    Attributes:
        pairs: a row for each polygon and glacier with common ground: polygon (index in
            ``polygons``), glacier_id, overlap_km2, share (overlap / glacier), share_of_polygon
            (overlap / polygon), iou (of the two), counted (by ``match``'s rule).
        glaciers: a row a glacier on the ground mapped: glacier_id, name, area_km2 (without its
            internal rock, inside the ground), cut (a part lies outside), found_km2, share (found /
            area), pieces (polygons counted), polygons (theirs, joined by commas), kind,
            merged_with (other glaciers in the same polygons, joined by commas), geometry.
        polygons: a row a predicted polygon, indexed as it came: area_km2, glacier_ids (counted,
            joined by commas), glaciers (their number), outside_km2 (in no outline), kind, geometry.
    """

    pairs: pd.DataFrame
    glaciers: gpd.GeoDataFrame
    polygons: gpd.GeoDataFrame


def match(
    predicted: gpd.GeoDataFrame,
    inventory: gpd.GeoDataFrame,
    *,
    ground: shapely.Geometry | None = None,
    least_share: float = 0.1,
) -> Matches:
    """Match predicted polygons with the glaciers of an inventory.

    A glacier is *missed* if less than ``least_share`` of its area was found. Of one that was found,
    each polygon counts that holds at least ``least_share`` of what the largest holds of it: neither
    a neighbour that reaches over the divide nor a crumb beside the tongue makes it split or merged.
    By the pairs that count, a glacier or a polygon is *one-to-one*; *split*, the glacier lies in
    several polygons; *merged*, the polygon lies on several glaciers; *complex*, both. A polygon
    without a pair that counts is *new* if less than ``least_share`` of it lies in outlines, else a
    *fragment*.

    Args:
        predicted: polygons of ``outlines.vectorise``, in a projected CRS.
        inventory: table of ``outlines.read_outlines``, one analysis a glacier
            (``select_analyses``), in any CRS. Where outlines overlap, the newer glacier has the
            ground, of equal dates the larger (``resolve_overlaps``).
        ground: what was mapped, in the CRS of ``predicted``, such as ``grid.box``: glaciers are
            judged by the part inside it, and those outside are left out. None: all count whole.
        least_share: above 0, at most 1.

    Raises:
        GlacierError: a table without CRS, polygons that are not in a projected one, or a
            ``least_share`` outside its range.
    """
    if not 0 < least_share <= 1:
        raise GlacierError(
            f"least_share {least_share}: must be above 0 and at most 1; 0.1 is a tenth of a glacier"
        )
    shapes, to_km2 = valid_shapes(predicted)
    table = _on_ground(territories(inventory, predicted.crs), ground)
    ice = table.geometry.to_numpy()
    areas, sizes = shapely.area(ice) * to_km2, shapely.area(shapes) * to_km2
    glacier, polygon, common = common_ground(ice, shapes)
    overlap = shapely.area(common) * to_km2
    found = np.bincount(glacier, overlap, len(ice))
    largest = np.zeros(len(ice))
    np.maximum.at(largest, glacier, overlap)
    counted = (found >= least_share * areas)[glacier] & (overlap >= least_share * largest[glacier])
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
    return Matches(
        pairs.reset_index(drop=True), *_kinds(glaciers, polygons, links, least_share=least_share)
    )


def _kinds(
    glaciers: gpd.GeoDataFrame,
    polygons: gpd.GeoDataFrame,
    links: pd.DataFrame,
    *,
    least_share: float,
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
    rows = []
    for polygon, share in inside.items():
        own = owners.get(polygon, [])
        kind = _kind(any(len(pieces[name]) > 1 for name in own), len(own) > 1)
        if not own:
            kind = "fragment" if share >= least_share else "new"
        rows.append((", ".join(own), len(own), kind))
    names = pd.DataFrame(rows, columns=["glacier_ids", "glaciers", "kind"], index=polygons.index)
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

    Returns:
        found_as ("split": a row a glacier; "merged": a row a polygon), glacier_ids and names
        (joined by commas), count (polygons of the glacier, glaciers of the polygon), area_km2 (of
        the glaciers), found_km2, share (found / area), complex (both at once); the largest first.
        Names are text by third parties: escape them for the format written to.
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


def words(matches: Matches) -> str:
    """Say in two sentences what was found as what."""
    glaciers, polygons = matches.glaciers, matches.polygons
    if glaciers.empty:
        return (
            "No glacier of the inventory lies on the ground mapped; the map shows "
            f"{_many(len(polygons), 'polygon')} of ice ({polygons['area_km2'].sum():.1f} km²)."
        )
    told = {
        "one-to-one": "found as one polygon",
        "split": "split into several",
        "merged": "merged with neighbours",
        "complex": "both split and merged",
    }
    counts = glaciers["kind"].value_counts()
    parts = [f"{counts[kind]} {text}" for kind, text in told.items() if kind in counts]
    missed = glaciers[glaciers["kind"] == "missed"]
    parts.append(f"{len(missed)} missed ({missed['area_km2'].sum():.2f} km²)")
    new = polygons[polygons["kind"] == "new"]
    area, found = glaciers["area_km2"].sum(), glaciers["found_km2"].sum()
    return (
        f"Of {_many(len(glaciers), 'glacier')} with {area:.1f} km², {100 * found / area:.0f} % of "
        f"it found: {', '.join(parts)}. Of {_many(len(polygons), 'predicted polygon')}, "
        f"{len(new)} ({new['area_km2'].sum():.2f} km²) "
        f"{'is' if len(new) == 1 else 'are'} new: next to none of it lies in an outline."
    )


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def common_ground(
    ice: np.ndarray, shapes: np.ndarray, least: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (glacier, polygon, common ground) of all that share more area than ``least``."""
    glacier, polygon = shapely.STRtree(shapes).query(ice, predicate="intersects")
    common = shapely.intersection(ice[glacier], shapes[polygon])
    kept = shapely.area(common) > least
    common = np.array([polygonal(shape) for shape in common[kept]], dtype=object)
    return glacier[kept], polygon[kept], common


def valid_shapes(predicted: gpd.GeoDataFrame) -> tuple[np.ndarray, float]:
    """Return valid polygons, and km2 of a square unit of their CRS."""
    if predicted.crs is None or not predicted.crs.is_projected:
        raise GlacierError(
            "the predicted polygons have no CRS in which lengths can be measured; give them in a "
            "projected one such as UTM"
        )
    shapes = [shapely.Polygon() if shape is None else polygonal(shape)
              for shape in predicted.geometry]  # fmt: skip
    factor = predicted.crs.axis_info[0].unit_conversion_factor
    return np.array(shapes, dtype=object), factor**2 / 1e6


def territories(inventory: gpd.GeoDataFrame, crs) -> gpd.GeoDataFrame:
    """Return glacier_id, name and the ice of each glacier in ``crs``, without overlaps."""
    if inventory.crs is None:
        raise GlacierError("the outlines have no CRS; set the one they were drawn in")
    table = in_crs(inventory, CRS.from_user_input(crs))
    # Overlaps are left as they are below a thousandth of a square metre only.
    table = resolve_overlaps(table, min_area_km2=_SLIVER_KM2)
    ice = table.loc[table["kind"] == "glacier", ["glacier_id", "name"]].assign(
        _shape=without_rock(table)
    )
    ice["glacier_id"] = ice["glacier_id"].astype(str)
    rows = [
        (name, rows["name"].iloc[0], together(list(rows["_shape"])))
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


def together(shapes: list) -> shapely.Geometry:
    return polygonal(shapely.union_all(shapes))
