"""Predicted polygons written in the schema of GLIMS, so that ``read_outlines`` reads them back.

Outlines and maps open in QGIS in the colours of the reports. QGIS takes the default style of a
GeoPackage's layer from the table ``layer_styles`` inside the file, and that of a raster from a file
of the same name that ends in .qml (https://docs.qgis.org/latest/en/docs/user_manual/style_library/
and https://docs.qgis.org/latest/en/docs/user_manual/appendices/qgis_file_formats.html). Both hold
QML, the layer of a QGIS 3 project; what it leaves out has QGIS's defaults. The styles are files in
``assets``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from importlib import resources
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely

from glacier_utils.conventions import SYNTHETIC, image_day
from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path, write_text
from glacier_utils.outlines.inventory import areas_km2
from glacier_utils.outlines.reading import clean_text, polygonal, split

LAYER = "glims_polygons"
# Straight lines are not straight in degrees: a point every kilometre keeps them within decimetres.
_LONGEST_M = 1000.0
_STYLE_TABLE = """
CREATE TABLE "layer_styles" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "f_table_catalog" TEXT(256), "f_table_schema" TEXT(256), "f_table_name" TEXT(256),
    "f_geometry_column" TEXT(256), "styleName" TEXT(30), "styleQML" TEXT, "styleSLD" TEXT,
    "useAsDefault" BOOLEAN, "description" TEXT, "owner" TEXT(30), "ui" TEXT(30),
    "update_time" DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)"""


def write_glims(
    polygons: gpd.GeoDataFrame,
    path: str | Path,
    *,
    source_date: str | None,
    method: str = "",
    model: str = "",
    uncertainty_m: float | None = None,
    synthetic: bool = False,
) -> Path:
    """Write polygons as glaciers of the GLIMS schema: GeoPackage, EPSG:4326, with a style for QGIS.

    Each hole of a polygon becomes an intrnl_rock row, and the polygon with its holes filled the
    glac_bound row. Only a glacier on a nunatak stays a hole of both. Rows of one glacier share
    ``glac_id``, ``anlys_id`` and, as in GLIMS, the area of the glacier, here without its rock:
    ``area`` in m2, ``db_area`` in km2. An identifier is made from a point inside the glacier, as
    GLIMS does (GxxxxxxEyyyyyN: thousandths of a degree, longitude 0..360). Polygons are cut at the
    antimeridian, and all are valid. Empty ones are left out.

    ``area_unc`` in m2 is the glacier's perimeter, with that of its rock, times ``uncertainty_m``:
    the buffer method (Granshaw & Fountain 2006, J. Glaciol. 52, 251-256), as of ``mapped_area`` in
    ``change``. It is a bound for an outline that errs in one direction everywhere, along cuts by
    the frame and unknown ground too.

    Args:
        polygons: in any CRS, such as ``polygonize`` returns.
        path: of the GeoPackage.
        source_date: of the image, as YYYY-MM or YYYY-MM-DD; None where nobody knows it. A column
            ``source_date`` of ``polygons`` with a date, likewise, counts before it.
        method: how they were made, for ``proc_desc``.
        model: name of the model or checkpoint, which ``proc_desc`` ends with.
        uncertainty_m: of the outlines' position, for ``loc_unc_x/y`` and ``glob_unc_x/y``; None
            writes 0, which means not stated, and no ``area_unc``.
        synthetic: whether the image was made, not observed: ``proc_desc`` and identifiers say so.

    Returns:
        The path of the file.

    Raises:
        GlacierError: the polygons have no CRS, a date is none, or the uncertainty is negative.
    """
    if polygons.crs is None:
        raise GlacierError(f"{path}: the polygons have no CRS, so they cannot be written as GLIMS")
    if uncertainty_m is not None and not 0 <= uncertainty_m < np.inf:
        raise GlacierError(f"{path}: uncertainty_m {uncertainty_m} must be metres, 0 or more")
    polygons = polygons[~shapely.is_missing(polygons.geometry.to_numpy())]
    shapes = gpd.GeoSeries([polygonal(shape) for shape in polygons.geometry], crs=polygons.crs)
    there = ~shapes.is_empty.to_numpy(bool)
    polygons, shapes = polygons[there], _dense(shapes[there].reset_index(drop=True))
    owner, kinds, drawn = _rows(shapes)
    identifiers = np.array(_glims_ids(shapes.representative_point().to_crs("EPSG:4326")))
    if synthetic:
        identifiers = np.char.add("SYN-", identifiers.astype(str))
        method = f"{SYNTHETIC}: {method}"
    areas = areas_km2(shapes)[owner]
    unsure = np.nan if uncertainty_m is None else float(uncertainty_m)
    count = len(owner)
    days = pd.Series(_days(polygons, source_date)[owner], dtype="datetime64[s]")
    table = gpd.GeoDataFrame(
        {
            "line_type": kinds,
            "glac_id": identifiers[owner] if count else [],
            "anlys_id": owner + 1,
            "anlys_time": days,
            "src_date": days,
            "area": areas * 1e6,
            "db_area": areas,
            "area_unc": (_perimeters_m(shapes) * unsure)[owner],
            "proc_desc": [_description(method, model)] * count,
            **dict.fromkeys(
                ("loc_unc_x", "loc_unc_y", "glob_unc_x", "glob_unc_y"),
                0.0 if uncertainty_m is None else unsure,
            ),
        },
        geometry=_geographic(drawn, polygons.crs),
        crs="EPSG:4326",
    )
    with atomic_path(path) as temporary:
        table.to_file(
            temporary, layer=LAYER, driver="GPKG", geometry_type="MultiPolygon",
            promote_to_multi=True, VERSION="1.2",  # which GDAL and QGIS of years ago know too
        )  # fmt: skip
        _store_style(temporary)
    return Path(path)


def write_probability_style(raster: str | Path) -> Path:
    """Write the style of a map of probabilities, cividis from 0 to 1, beside it for QGIS.

    Args:
        raster: of probabilities as scaled by the file.

    Returns:
        The path of the style, ``<name>.qml``.
    """
    return write_text(Path(raster).with_suffix(".qml"), _style("probability"))


def _style(name: str) -> str:
    return (resources.files("glacier_utils") / "assets" / f"{name}.qml").read_text("utf-8")


def _store_style(path: Path) -> None:
    """Make the style of outlines the default of the layer in a GeoPackage."""
    with closing(sqlite3.connect(path)) as database, database:
        [geometry] = database.execute(
            "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (LAYER,)
        ).fetchone()
        database.execute(_STYLE_TABLE)
        # Readers of GeoPackages see only tables that are registered.
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description) VALUES "
            "('layer_styles', 'attributes', 'layer_styles', 'Styles of the layers, for QGIS')"
        )
        # QGIS looks for a schema of '', not for a missing one.
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, useAsDefault, owner, ui, styleSLD, styleName, styleQML, "
            "description) VALUES ('', '', ?, ?, 1, '', '', '', 'GLIMS outlines', ?, "
            "'Glaciers blue, internal rock brown')",
            (LAYER, geometry, _style("outlines")),
        )


def _description(method: str, model: str) -> str:
    """Return both in the 255 characters of the schema; of a long method the end is lost."""
    model = clean_text(model, 255)
    if not model:
        return clean_text(method, 255)
    method = clean_text(method, max(0, 255 - len(model) - len("; model ")))
    return f"{method}; model {model}"[:255] if method else f"model {model}"[:255]


def _dense(shapes: gpd.GeoSeries) -> gpd.GeoSeries:
    """Return shapes with no piece of line above a kilometre, if they are not in degrees."""
    if not shapes.crs.is_projected:
        return shapes
    unit = shapes.crs.axis_info[0].unit_conversion_factor
    return shapes.segmentize(_LONGEST_M / unit)


def _geographic(drawn: Sequence[shapely.Geometry], crs: pyproj.CRS) -> np.ndarray:
    """Return valid polygons in degrees, cut at the antimeridian."""
    shapes = split(gpd.GeoSeries(drawn, crs=crs).to_crs("EPSG:4326").to_numpy())
    # What nearly touches may cross by rounding.
    for index in np.flatnonzero(~shapely.is_valid(shapes)):
        shapes[index] = polygonal(shapes[index])
    return shapes


def _perimeters_m(shapes: gpd.GeoSeries) -> np.ndarray:
    """Return the length of all rings of each shape on the ellipsoid."""
    rings = shapes.to_crs("EPSG:4326").boundary
    return rings.map(pyproj.Geod(ellps="WGS84").geometry_length).to_numpy(float)


def _days(polygons: gpd.GeoDataFrame, source_date: str | None) -> np.ndarray:
    """Return the day of the image of each polygon, NaT where unknown."""
    own = polygons.get("source_date", pd.Series("", index=polygons.index))
    default = image_day(source_date) if source_date else pd.NaT
    days = [image_day(date) if isinstance(date, str) and date else default for date in own]
    return pd.Series(days, dtype="datetime64[s]").to_numpy()


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
    identifiers: dict[str, None] = {}  # in order, and quickly searched
    for point in points:
        east, north = round(point.x % 360 * 1000), round(point.y * 1000)
        end = f"E{abs(north):05d}{'N' if north >= 0 else 'S'}"
        # Two small glaciers within a thousandth of a degree must not become one.
        while (name := f"G{east % 360000:06d}{end}") in identifiers:
            east += 1
        identifiers[name] = None
    return list(identifiers)
