"""Writing predicted polygons in the schema of GLIMS, so that ``read_outlines`` reads them back."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from glacier_utils.analyses import image_day
from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path
from glacier_utils.inventories import areas_km2
from glacier_utils.longitudes import split
from glacier_utils.vectors import clean_text, polygonal


def write_glims(
    polygons: gpd.GeoDataFrame,
    path: str | Path,
    *,
    source_date: str,
    analysis_time: str | None = None,
    method: str = "",
    uncertainty_m: float | None = None,
) -> Path:
    """Write polygons as glaciers of the GLIMS schema: GeoPackage, EPSG:4326.

    Each hole of a polygon becomes an intrnl_rock row, and the polygon with its holes filled the
    glac_bound row. Only a glacier on a nunatak stays a hole of both. Rows of one glacier share
    ``glac_id``, ``anlys_id`` and, as in GLIMS, the area of the glacier, here without its rock:
    ``area`` in m2, ``db_area`` in km2. An identifier is made from a point inside the glacier, as
    GLIMS does (GxxxxxxEyyyyyN: thousandths of a degree, longitude 0..360). Polygons are cut at the
    antimeridian. Empty ones are left out.

    Args:
        polygons: in any CRS, such as ``vectorise`` returns.
        path: of the GeoPackage.
        source_date: of the image, as YYYY-MM or YYYY-MM-DD.
        analysis_time: of the mapping, likewise; None takes the image's date.
        method: how they were made, for ``proc_desc``.
        uncertainty_m: of the outlines' position, for ``loc_unc_x/y`` and ``glob_unc_x/y``; None
            writes 0, which means not stated.

    Raises:
        GlacierError: the polygons have no CRS, a date is none, the uncertainty is negative.
    """
    if polygons.crs is None:
        raise GlacierError(f"{path}: the polygons have no CRS, so they cannot be written as GLIMS")
    if uncertainty_m is not None and not 0 <= uncertainty_m < np.inf:
        raise GlacierError(f"{path}: uncertainty_m {uncertainty_m} must be metres, 0 or more")
    day = image_day(source_date)
    analysed = image_day(analysis_time) if analysis_time else day
    shapes = [polygonal(shape) for shape in polygons.geometry if shape is not None]
    shapes = gpd.GeoSeries([shape for shape in shapes if not shape.is_empty], crs=polygons.crs)
    owner, kinds, drawn = _rows(shapes)
    geographic = gpd.GeoSeries(drawn, crs=polygons.crs).to_crs("EPSG:4326")
    identifiers = np.array(_glims_ids(shapes.representative_point().to_crs("EPSG:4326")))
    areas = areas_km2(shapes)[owner]
    count, unsure = len(owner), float(uncertainty_m or 0)
    table = gpd.GeoDataFrame(
        {
            "line_type": kinds,
            "glac_id": identifiers[owner] if count else [],
            "anlys_id": owner + 1,
            "anlys_time": pd.Series([analysed] * count, dtype="datetime64[s]"),
            "src_date": pd.Series([day] * count, dtype="datetime64[s]"),
            "area": areas * 1e6,
            "db_area": areas,
            "proc_desc": [clean_text(method, 255)] * count,
            **dict.fromkeys(("loc_unc_x", "loc_unc_y", "glob_unc_x", "glob_unc_y"), unsure),
        },
        geometry=split(geographic.to_numpy()),
        crs="EPSG:4326",
    )
    with atomic_path(path) as temporary:
        table.to_file(temporary, layer="glims_polygons", driver="GPKG", geometry_type="Unknown")
    return Path(path)


def _rows(shapes: gpd.GeoSeries) -> tuple[np.ndarray, list[str], list[shapely.Geometry]]:
    """Return the number of the glacier, line type and geometry of each row to write."""
    parts, owner = shapely.get_parts(shapes.to_numpy(), return_index=True)
    filled = np.array([shapely.Polygon(part.exterior) for part in parts], dtype=object)
    tree = shapely.STRtree(filled)
    rocks: list[list[shapely.Geometry]] = [[] for _ in shapes]
    for number, part in zip(owner, parts, strict=True):
        for ring in part.interiors:
            hole = shapely.Polygon(ring)
            rock = hole.difference(shapely.union_all(filled[tree.query(hole, "covers")]))
            if not rock.is_empty:
                rocks[number].append(rock)
    kinds: list[str] = []
    drawn: list[shapely.Geometry] = []
    for shape, stones in zip(shapes, rocks, strict=True):
        drawn += [shapely.union_all([shape, *stones]) if stones else shape, *stones]
        kinds += ["glac_bound"] + ["intrnl_rock"] * len(stones)
    owners = np.repeat(np.arange(len(shapes)), [1 + len(stones) for stones in rocks])
    return owners.astype(int), kinds, drawn


def _glims_ids(points: gpd.GeoSeries) -> list[str]:
    identifiers: list[str] = []
    taken: set[str] = set()
    for point in points:
        east, north = round(point.x % 360 * 1000), round(point.y * 1000)
        name = _name(east, north)
        # Two small glaciers within a thousandth of a degree must not become one.
        while name in taken:
            east += 1
            name = _name(east, north)
        taken.add(name)
        identifiers.append(name)
    return identifiers


def _name(east: int, north: int) -> str:
    return f"G{east % 360000:06d}E{abs(north):05d}{'N' if north >= 0 else 'S'}"
