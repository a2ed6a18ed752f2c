"""Styles for QGIS, so that outlines and maps open in the colours of the reports.

QGIS takes the default style of a GeoPackage's layer from the table ``layer_styles`` inside the file
and that of a raster from a file of the same name that ends in .qml
(https://docs.qgis.org/latest/en/docs/user_manual/style_library/ and
https://docs.qgis.org/latest/en/docs/user_manual/appendices/qgis_file_formats.html). Both hold QML,
an XML with the structure of a QGIS 3 project's layer; what it leaves out has QGIS's defaults.

Writing predicted polygons in the schema of GLIMS, so that ``read_outlines`` reads them back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas as gpd
import matplotlib
import numpy as np
import pandas as pd
import pyproj
import shapely

from glacier_utils.conventions import image_day
from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path, write_text
from glacier_utils.outlines.inventory import areas_km2
from glacier_utils.outlines.reading import clean_text, polygonal, split

# The colours of ``style.CLASS_COLOURS``, which would load all of the figures (a test compares).
NOT_GLACIER, GLACIER = "#d8d2c4", "#56b4e9"
GLACIER_LINE, ROCK, ROCK_LINE = "#0072b2", "#a6761d", "#5e4310"
_VERSION = "3.22.0"
_STYLE_TABLE = """
CREATE TABLE IF NOT EXISTS "layer_styles" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "f_table_catalog" TEXT(256), "f_table_schema" TEXT(256), "f_table_name" TEXT(256),
    "f_geometry_column" TEXT(256), "styleName" TEXT(30), "styleQML" TEXT, "styleSLD" TEXT,
    "useAsDefault" BOOLEAN, "description" TEXT, "owner" TEXT(30), "ui" TEXT(30),
    "update_time" DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)"""


def outlines_qml() -> str:
    """Return the style of GLIMS polygons: glaciers light blue with a blue line, rock brown."""
    root = _qgis()
    renderer = ET.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="line_type",
        symbollevels="0", forceraster="0", enableorderby="0",
    )  # fmt: skip
    categories = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    classes = {
        "glac_bound": ("Glacier", _rgba(GLACIER, 90), _rgba(GLACIER_LINE)),
        "intrnl_rock": ("Internal rock", _rgba(ROCK, 90), _rgba(ROCK_LINE)),
    }
    for number, (value, (label, fill, line)) in enumerate(classes.items()):
        ET.SubElement(
            categories, "category", value=value, symbol=str(number), label=label, render="true"
        )
        _fill_symbol(symbols, str(number), fill, line)
    return _text(root)


def probability_qml() -> str:
    """Return the style of a map of probabilities 0..1 (as scaled by the file), in cividis."""
    root = _qgis()
    renderer = _raster(
        root, "singlebandpseudocolor", classificationMin="0", classificationMax="1"
    )  # fmt: skip
    shader = ET.SubElement(
        ET.SubElement(renderer, "rastershader"), "colorrampshader", colorRampType="INTERPOLATED",
        classificationMode="1", clip="0", minimumValue="0", maximumValue="1", labelPrecision="2",
    )  # fmt: skip
    colours = matplotlib.colormaps["cividis"]
    for step in range(11):
        value = f"{step / 10:g}"
        colour = matplotlib.colors.to_hex(colours(step / 10))
        ET.SubElement(shader, "item", value=value, label=value, color=colour, alpha="255")
    return _text(root)


def class_qml() -> str:
    """Return the style of a map of classes: 0 not glacier, 1 glacier; unknown is nodata."""
    root = _qgis()
    palette = ET.SubElement(_raster(root, "paletted"), "colorPalette")
    for value, label, colour in ((0, "Not glacier", NOT_GLACIER), (1, "Glacier", GLACIER)):
        ET.SubElement(
            palette, "paletteEntry", value=str(value), label=label, color=colour, alpha="255"
        )
    return _text(root)


def write_qml(raster: str | Path, qml: str) -> Path:
    """Write a style beside a raster, as ``<name>.qml``, where QGIS looks for it."""
    return write_text(Path(raster).with_suffix(".qml"), qml)


def store_style(
    path: str | Path, layer: str, qml: str, *, name: str = "default", description: str = ""
) -> None:
    """Store the default style of a layer in its GeoPackage, in place of the one that was stored.

    The file is changed where it is: call it on a file that is not yet under its final name.

    Args:
        path: of the GeoPackage.
        layer: name of one of its layers with geometry.
        qml: the style.
        name: of the style, 30 characters.
        description: for QGIS's list of styles.

    Raises:
        GlacierError: the file is no GeoPackage or has no such layer.
    """
    path = Path(path)
    if not path.is_file():
        raise GlacierError(f"{path}: no such file; write the layer before its style")
    try:
        with closing(sqlite3.connect(path)) as database, database:
            _store(database, path, layer, (name[:30], qml, description))
    except sqlite3.Error as error:
        raise GlacierError(
            f"{path}: no style can be stored in it; is it a GeoPackage? ({error})"
        ) from error


def _store(database: sqlite3.Connection, path: Path, layer: str, style: Sequence[str]) -> None:
    found = database.execute(
        "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
    ).fetchone()
    if found is None:
        raise GlacierError(f"{path}: has no layer {layer!r} with geometry to store a style for")
    database.execute(_STYLE_TABLE)
    # Readers of GeoPackages see only tables that are registered.
    database.execute(
        "INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier, description) "
        "VALUES ('layer_styles', 'attributes', 'layer_styles', 'Styles of the layers, for QGIS')"
    )
    database.execute("DELETE FROM layer_styles WHERE f_table_name = ?", (layer,))
    # QGIS looks for a schema of '', not for a missing one.
    database.execute(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
        "f_geometry_column, useAsDefault, owner, ui, styleSLD, styleName, styleQML, description) "
        "VALUES ('', '', ?, ?, 1, '', '', '', ?, ?, ?)",
        (layer, found[0], *style),
    )


def _qgis() -> ET.Element:
    return ET.Element("qgis", version=_VERSION, styleCategories="Symbology")


def _raster(root: ET.Element, kind: str, **attributes: str) -> ET.Element:
    renderer = ET.SubElement(
        ET.SubElement(root, "pipe"), "rasterrenderer", type=kind, band="1", opacity="1",
        alphaBand="-1", nodataColor="", **attributes,
    )  # fmt: skip
    ET.SubElement(renderer, "rasterTransparency")
    return renderer


def _fill_symbol(parent: ET.Element, name: str, fill: str, line: str) -> None:
    symbol = ET.SubElement(
        parent, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1", force_rhr="0"
    )
    layer = ET.SubElement(
        symbol, "layer", {"class": "SimpleFill"}, enabled="1", locked="0", **{"pass": "0"}
    )
    _properties(
        layer,
        {
            "color": fill,
            "style": "solid",
            "outline_color": line,
            "outline_style": "solid",
            "outline_width": "0.4",
            "outline_width_unit": "MM",
            "joinstyle": "round",
        },
    )


def _properties(layer: ET.Element, values: Mapping[str, str]) -> None:
    """Write properties in both forms: QGIS reads the first, versions before 3.18 the second."""
    options = ET.SubElement(layer, "Option", type="Map")
    for key, value in values.items():
        ET.SubElement(options, "Option", name=key, value=value, type="QString")
    for key, value in values.items():
        ET.SubElement(layer, "prop", k=key, v=value)


def _rgba(colour: str, alpha: int = 255) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"{red},{green},{blue},{alpha}"


def _text(root: ET.Element) -> str:
    ET.indent(root)
    head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return head + ET.tostring(root, encoding="unicode") + "\n"


LAYER = "glims_polygons"
# Straight lines are not straight in degrees: a point every kilometre keeps them within decimetres.
_LONGEST_M = 1000.0


def write_glims(
    polygons: gpd.GeoDataFrame,
    path: str | Path,
    *,
    source_date: str | None,
    analysis_time: str | None = None,
    method: str = "",
    model: str = "",
    uncertainty_m: float | None = None,
    columns: Sequence[str] = (),
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
        polygons: in any CRS, such as ``trace`` returns.
        path: of the GeoPackage.
        source_date: of the image, as YYYY-MM or YYYY-MM-DD; None where nobody knows it. A column
            ``source_date`` of ``polygons`` with a date, likewise, counts before it.
        analysis_time: of the mapping, likewise; None takes the image's date.
        method: how they were made, for ``proc_desc``.
        model: name of the model or checkpoint, which ``proc_desc`` ends with.
        uncertainty_m: of the outlines' position, for ``loc_unc_x/y`` and ``glob_unc_x/y``; None
            writes 0, which means not stated, and no ``area_unc``.
        columns: of ``polygons`` that are written too, on each row of a glacier; text is cut to a
            line.

    Raises:
        GlacierError: the polygons have no CRS, a date is none, the uncertainty is negative, or a
            column is missing or has the name of one of the schema.
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
    areas = areas_km2(shapes)[owner]
    unsure = np.nan if uncertainty_m is None else float(uncertainty_m)
    count = len(owner)
    days = _days(polygons, source_date)[owner]
    analysed = [image_day(analysis_time)] * count if analysis_time else days
    table = gpd.GeoDataFrame(
        {
            "line_type": kinds,
            "glac_id": identifiers[owner] if count else [],
            "anlys_id": owner + 1,
            "anlys_time": pd.Series(analysed, dtype="datetime64[s]"),
            "src_date": pd.Series(days, dtype="datetime64[s]"),
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
    _add(table, polygons, columns, owner, path)
    with atomic_path(path) as temporary:
        table.to_file(
            temporary, layer=LAYER, driver="GPKG", geometry_type="MultiPolygon",
            promote_to_multi=True, VERSION="1.2",  # which GDAL and QGIS of years ago know too
        )  # fmt: skip
        store_style(
            temporary, LAYER, outlines_qml(), name="GLIMS outlines",
            description="Glaciers blue, internal rock brown",
        )  # fmt: skip
    return Path(path)


def _description(method: str, model: str) -> str:
    """Return both in the 255 characters of the schema; of a long method the end is lost."""
    model = clean_text(model, 255)
    if not model:
        return clean_text(method, 255)
    method = clean_text(method, max(0, 255 - len(model) - len("; model ")))
    return f"{method}; model {model}"[:255] if method else f"model {model}"[:255]


def _add(
    table: gpd.GeoDataFrame,
    polygons: gpd.GeoDataFrame,
    columns: Sequence[str],
    owner: np.ndarray,
    path: str | Path,
) -> None:
    """Copy columns of the polygons to the rows of each glacier, in place."""
    known = {name.lower() for name in (*table.columns, "fid", "geom")}
    for name in columns:
        if name not in polygons.columns:
            raise GlacierError(f"{path}: the polygons have no column {name!r} to be written")
        if name.lower() in known:
            raise GlacierError(
                f"{path}: the column {name!r} would replace one of the GLIMS schema; rename it"
            )
        values = polygons[name].reset_index(drop=True)
        if not (pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)
                or pd.api.types.is_datetime64_any_dtype(values)):  # fmt: skip
            values = values.map(lambda value: clean_text(value, 255)).astype(object)
        table[name] = values.iloc[owner].reset_index(drop=True)


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
    points, owner = shapely.get_coordinates(
        shapes.to_crs("EPSG:4326").to_numpy(), return_index=True
    )
    rings = shapely.get_rings(shapes.to_numpy())
    same = np.diff(np.repeat(np.arange(len(rings)), shapely.get_num_coordinates(rings))) == 0
    lon, lat = points.T
    steps = pyproj.Geod(ellps="WGS84").inv(lon[:-1], lat[:-1], lon[1:], lat[1:])[2]
    return np.bincount(owner[1:][same], np.asarray(steps)[same], minlength=len(shapes))


def _days(polygons: gpd.GeoDataFrame, source_date: str | None) -> np.ndarray:
    """Return the day of the image of each polygon, NaT where unknown."""
    told = polygons.get("source_date", pd.Series("", index=polygons.index))
    default = image_day(source_date) if source_date else pd.NaT
    days = [image_day(date) if isinstance(date, str) and date else default for date in told]
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
