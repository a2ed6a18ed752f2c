"""Styles for QGIS, so that outlines and maps open in the colours of the reports.

QGIS takes the default style of a GeoPackage's layer from the table ``layer_styles`` inside the file
and that of a raster from a file of the same name that ends in .qml
(https://docs.qgis.org/latest/en/docs/user_manual/style_library/ and
https://docs.qgis.org/latest/en/docs/user_manual/appendices/qgis_file_formats.html). Both hold QML,
an XML with the structure of a QGIS 3 project's layer; what it leaves out has QGIS's defaults.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib

from glacier_utils.errors import GlacierError
from glacier_utils.files import write_text

# The colours of ``plots.CLASS_COLOURS``, which would load all of the figures (a test compares).
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
