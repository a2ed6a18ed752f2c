"""The maps of many scenes as one: a mosaic a kind and CRS, and outlines without doubled glaciers.

The outlines are those of the mosaics, not of the scenes put together: so they agree with the
mosaics pixel by pixel, a glacier that the edge of a scene cuts is whole, and nothing counts twice.
Only between mosaics of different CRSs, such as neighbouring UTM zones, outlines are cut and joined:
the first mosaic counts wherever it has data, and what touches across its edge becomes one glacier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import rasterio.features
import shapely
from affine import Affine
from rasterio.windows import Window
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from glacier_utils.grids import Grid, same_crs
from glacier_utils.inventories import areas_km2
from glacier_utils.longitudes import unwrapped
from glacier_utils.mosaic_files import MARGIN, write_vrt
from glacier_utils.rasters import crs_name, open_raster, read_header
from glacier_utils.runs import file_name
from glacier_utils.vectors import polygonal

KINDS = ("probability", "class")
_STRIP = 2048  # rows of a mosaic that are looked at together
_FOLLOWED = 100.0  # px; so long a piece of a straight edge stays straight in another projection


@dataclass(frozen=True)
class MappedScene:
    """The finished products of one scene; ``files``: kind -> path, with "class" at least."""

    name: str
    date: str
    files: dict[str, Path]


@dataclass(frozen=True)
class Mosaics:
    """What all scenes together became.

    Attributes:
        rasters: kind -> a VRT a CRS, in the order in which the CRSs count.
        glaciers: outlines in one CRS, with area_km2 (on the ellipsoid's equal-area projection),
            ``scenes`` (names of those whose frame it touches) and ``source_date`` (of the scene
            that holds most of it, "" unknown); None where they were not asked for.
        notes: a line for each scene that could not be part of it.
    """

    rasters: dict[str, list[Path]]
    glaciers: gpd.GeoDataFrame | None
    notes: list[str] = field(default_factory=list)


def merge(
    scenes: Sequence[MappedScene],
    folder: str | Path,
    *,
    outlines: bool = True,
    margin: int = MARGIN,
    min_area_km2: float = 0.0,
    max_hole_km2: float = 0.0,
    trace: Callable[..., gpd.GeoDataFrame] | None = None,
) -> Mosaics:
    """Write ``mosaic_<kind>.vrt`` into ``folder`` and outline the glaciers of all scenes together.

    With scenes in several CRSs there is a mosaic each, ``mosaic_<kind>_<CRS>.vrt``: a VRT of warped
    pixels would change every area a little and hide which pixels were mapped. VRTs of an earlier
    call that are no more part of the result are removed.

    Args:
        scenes: in the order in which they count, see ``mosaic_files.write_vrt``; the CRSs count in
            the order in which they come.
        outlines: also outline the glaciers.
        margin: as in ``mosaic_files.write_vrt``.
        min_area_km2, max_hole_km2: as in ``tracing.trace``; applied to whole glaciers, after
            joining what the edges of scenes cut.
        trace: in the place of ``tracing.trace_file``, for a class raster.
    """
    folder = Path(folder)
    groups, notes = _by_crs(scenes)
    rasters: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for grid, members in groups:
        suffix = f"_{file_name(crs_name(grid)).replace(' ', '_')}" if len(groups) > 1 else ""
        for kind in KINDS:
            files = [scene.files[kind] for scene in members if kind in scene.files]
            if files:
                path = folder / f"mosaic_{kind}{suffix}.vrt"
                rasters[kind].append(write_vrt(path, files, margin=margin))
    _remove_others(folder, rasters)
    if not outlines or not groups:
        return Mosaics(rasters, None, notes)
    if trace is None:
        from glacier_utils.tracing import trace_file as trace
    alone = len(groups) == 1
    # What is small in one zone may be the end of a large glacier in the next.
    limits = {"min_area_km2": min_area_km2 if alone else 0.0, "max_hole_km2": max_hole_km2}
    traced = [trace(path, **limits) for path in rasters["class"]]
    glaciers = traced[0] if alone else _across(traced, rasters["class"])
    glaciers = glaciers[["geometry"]].assign(area_km2=areas_km2(glaciers.geometry))
    if not alone:
        glaciers = glaciers[~(glaciers.area_km2 < min_area_km2)]
    glaciers = _with_scenes(glaciers, [scene for _, members in groups for scene in members])
    order = ["area_km2", "scenes"]
    glaciers = glaciers.sort_values(order, ascending=[False, True], kind="stable")
    return Mosaics(rasters, glaciers.reset_index(drop=True), notes)


def _by_crs(
    scenes: Sequence[MappedScene],
) -> tuple[list[tuple[Grid, list[MappedScene]]], list[str]]:
    groups: list[tuple[Grid, list[MappedScene]]] = []
    notes = []
    for scene in scenes:
        grid = read_header(scene.files["class"]).grid
        if grid.crs is None:
            notes.append(f"{scene.name}: has no CRS, so it is not part of the mosaic")
            continue
        for other, members in groups:
            if same_crs(other.crs, grid.crs):
                members.append(scene)
                break
        else:
            groups.append((grid, [scene]))
    return groups, notes


def _remove_others(folder: Path, rasters: dict[str, list[Path]]) -> None:
    for kind, paths in rasters.items():
        for path in folder.glob(f"mosaic_{kind}*.vrt"):
            if path not in paths:
                path.unlink()


def _across(traced: Sequence[gpd.GeoDataFrame], mosaics: Sequence[Path]) -> gpd.GeoDataFrame:
    """Join the outlines of mosaics of several CRSs on one equal-area plane, in order."""
    plane = _plane(mosaics)
    result: gpd.GeoSeries | None = None
    covered = shapely.Polygon()
    for number, (table, path) in enumerate(zip(traced, mosaics, strict=True)):
        grid = read_header(path).grid
        step = _FOLLOWED * grid.transform.a
        shapes = table.geometry.segmentize(step).to_crs(plane)
        shapes = gpd.GeoSeries([polygonal(shape) for shape in shapes], crs=plane)
        if result is None:
            result = shapes
        else:
            cut = [_without(shape, covered) for shape in shapes]
            result = _joined(result, gpd.GeoSeries(cut, crs=plane), covered, grid.resolution)
        if number < len(mosaics) - 1:
            ground = gpd.GeoSeries([_ground(path)], crs=table.crs).segmentize(step).to_crs(plane)
            covered = polygonal(shapely.union(covered, polygonal(ground.iloc[0])))
    return gpd.GeoDataFrame(geometry=result, crs=plane)


def _plane(mosaics: Sequence[Path]) -> pyproj.CRS:
    """Return an equal-area projection around the middle of all mosaics."""
    boxes = []
    for path in mosaics:
        grid = read_header(path).grid
        edge = shapely.segmentize(grid.box, (grid.bounds[2] - grid.bounds[0]) / 10)
        boxes.append(gpd.GeoSeries([edge], crs=grid.crs.to_wkt()).to_crs("EPSG:4326").iloc[0])
    boxes = unwrapped(np.array(boxes, dtype=object))
    first = boxes[0].centroid.x
    # Each within half a turn of the first, so that 179 and -179 are neighbours.
    places = [(first + (box.centroid.x - first + 180) % 360 - 180, box.centroid.y) for box in boxes]
    east, north = np.mean(places, axis=0)
    return pyproj.CRS.from_dict(
        {"proj": "laea", "lat_0": round(north, 3), "lon_0": round((east + 180) % 360 - 180, 3),
         "datum": "WGS84", "units": "m"}
    )  # fmt: skip


def _without(shape: shapely.Geometry, covered: shapely.Geometry) -> shapely.Geometry:
    return polygonal(shapely.difference(shape, covered)) if shape.intersects(covered) else shape


def _joined(
    one: gpd.GeoSeries, other: gpd.GeoSeries, covered: shapely.Geometry, pixel: float
) -> gpd.GeoSeries:
    """Make one of the polygons of both that meet along the edge of the ground of the first.

    Each line lies within half a pixel of its pixels' edges, so that what belongs together may be a
    pixel apart: the gap between is ice too.
    """
    shapes = np.concatenate([one.to_numpy(), other[~other.is_empty].to_numpy()])
    kind = np.r_[np.zeros(len(one)), np.ones(len(shapes) - len(one))]
    edge = shapely.boundary(covered)
    seam = edge.buffer(1.5 * pixel)
    shapely.prepare(seam)
    near = np.flatnonzero(shapely.intersects(shapes, seam))
    grown = shapely.buffer(shapely.intersection(shapes[near], seam), 0.75 * pixel)
    left, right = shapely.STRtree(grown).query(grown, predicate="intersects")
    pairs = kind[near[left]] != kind[near[right]]
    links = (np.ones(pairs.sum()), (near[left[pairs]], near[right[pairs]]))
    _, label = connected_components(coo_array(links, shape=(len(shapes),) * 2), directed=False)
    result = []
    for members in pd.Series(range(len(shapes))).groupby(label).indices.values():
        if len(members) == 1:
            result.append(shapes[members[0]])
            continue
        whole = shapely.union_all(shapes[members])
        there = shapely.intersection(whole, seam.buffer(3 * pixel))
        closed = there.buffer(0.75 * pixel, join_style="mitre").buffer(
            -0.75 * pixel, join_style="mitre"
        )
        result.append(polygonal(shapely.union(whole, shapely.intersection(closed, seam))))
    # Apart again where a piece only came near to the others.
    parts = shapely.get_parts(np.array(result, dtype=object))
    return gpd.GeoSeries(parts, crs=one.crs)


def _ground(path: Path) -> shapely.Geometry:
    """Return where a mosaic has data, along its pixels' edges."""
    found = []
    with open_raster(path) as file:
        for row in range(0, file.height, _STRIP):
            window = Window(0, row, file.width, min(_STRIP, file.height - row))
            data = (file.read(1, window=window) != file.nodata).astype(np.uint8)
            place = file.transform @ Affine.translation(0, row)
            shapes = rasterio.features.shapes(data, data.astype(bool), transform=place)
            found += [shapely.geometry.shape(shape) for shape, _ in shapes]
    return shapely.union_all(found)


def _with_scenes(glaciers: gpd.GeoDataFrame, scenes: Sequence[MappedScene]) -> gpd.GeoDataFrame:
    """Name the scenes whose frame a glacier touches, and the date of the one that holds most."""
    grids = [read_header(scene.files["class"]).grid for scene in scenes]
    frames = np.array([
        gpd.GeoSeries([shapely.segmentize(grid.box, grid.transform.a * _FOLLOWED)],
                      crs=grid.crs.to_wkt()).to_crs(glaciers.crs).iloc[0]
        for grid in grids
    ], dtype=object)  # fmt: skip
    tree = shapely.STRtree(frames)
    names, dates = [], []
    for shape in glaciers.geometry:
        # In the order of the scenes: of those that hold it all, the first counts.
        touched = np.sort(tree.query(shape, predicate="intersects"))
        held = shapely.area(shapely.intersection(frames[touched], shape))
        names.append(", ".join(scenes[index].name for index in touched))
        most = touched[np.argmax(np.round(held / shape.area, 6))] if len(touched) else None
        dates.append("" if most is None else scenes[most].date)
    return glaciers.assign(scenes=names, source_date=dates)
