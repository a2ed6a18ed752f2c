"""Styles for QGIS: what its reader looks for is there, in the project's colours."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from xml.etree import ElementTree as ET

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely

from glacier_utils.errors import GlacierError
from glacier_utils.outlines.glims import (
    GLACIER,
    NOT_GLACIER,
    class_qml,
    outlines_qml,
    probability_qml,
    store_style,
    write_qml,
)
from glacier_utils.plotting.style import CLASS_COLOURS

# As QGIS 3 looks for the style of a layer (QgsOgrProviderMetadata::loadStyle).
QUERY = (
    "SELECT styleQML FROM layer_styles WHERE f_table_schema = '' AND f_table_name = ? "
    "AND f_geometry_column = ? ORDER BY CASE WHEN useAsDefault THEN 1 ELSE 2 END, update_time DESC"
)


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "a.gpkg"
    for layer in ("ice", "rock"):
        table = gpd.GeoDataFrame({"line_type": ["x"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326)
        table.to_file(path, layer=layer, driver="GPKG")
    return path


def ask(path, query, *values):
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query, values).fetchall()


def test_outlines_are_categorised_by_line_type():
    root = ET.fromstring(outlines_qml())
    assert root.tag == "qgis"
    renderer = root.find("renderer-v2")
    assert renderer.get("type") == "categorizedSymbol"
    assert renderer.get("attr") == "line_type"
    symbols = {symbol.get("name"): symbol for symbol in renderer.findall("symbols/symbol")}
    colours = {}
    for category in renderer.findall("categories/category"):
        assert category.get("render") == "true"
        symbol = symbols.pop(category.get("symbol"))
        assert symbol.get("type") == "fill"
        layer = symbol.find("layer")
        assert layer.get("class") == "SimpleFill"
        new = {item.get("name"): item.get("value") for item in layer.findall("Option/Option")}
        old = {item.get("k"): item.get("v") for item in layer.findall("prop")}
        assert new == old
        colours[category.get("value")] = new["color"], new["outline_color"]
    assert not symbols
    assert set(colours) == {"glac_bound", "intrnl_rock"}
    assert colours["glac_bound"][0].rsplit(",", 1)[0] == ",".join(
        str(int(CLASS_COLOURS["glacier"][i : i + 2], 16)) for i in (1, 3, 5)
    )
    assert all(line.endswith(",255") and fill != line for fill, line in colours.values())


def test_colours_are_those_of_the_figures():
    assert {"glacier": GLACIER, "not glacier": NOT_GLACIER}.items() <= CLASS_COLOURS.items()
    entries = ET.fromstring(class_qml()).findall("pipe/rasterrenderer/colorPalette/paletteEntry")
    assert {(int(e.get("value")), e.get("color"), e.get("label").lower()) for e in entries} == {
        (0, CLASS_COLOURS["not glacier"], "not glacier"), (1, CLASS_COLOURS["glacier"], "glacier")
    }  # fmt: skip


def test_probabilities_go_from_0_to_1():
    renderer = ET.fromstring(probability_qml()).find("pipe/rasterrenderer")
    assert renderer.get("type") == "singlebandpseudocolor"
    assert renderer.get("band") == "1"
    shader = renderer.find("rastershader/colorrampshader")
    assert shader.get("colorRampType") == "INTERPOLATED"
    values = [float(item.get("value")) for item in shader.findall("item")]
    np.testing.assert_allclose(values, np.linspace(0, 1, 11))
    assert len({item.get("color") for item in shader.findall("item")}) == 11


def test_a_style_lies_beside_its_raster(tmp_path):
    path = write_qml(tmp_path / "n_probability.tif", probability_qml())
    assert path == tmp_path / "n_probability.qml"
    assert path.read_text(encoding="utf-8") == probability_qml()


def test_a_stored_style_is_found_and_replaced(package):
    store_style(package, "ice", "old")
    store_style(package, "rock", "other", name="n" * 40, description='it\'s "quoted"')
    store_style(package, "ice", outlines_qml())
    [(geometry,)] = ask(
        package, "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = 'ice'"
    )
    assert ask(package, QUERY, "ice", geometry) == [(outlines_qml(),)]
    assert ask(package, QUERY, "rock", geometry) == [("other",)]
    assert ask(package, "SELECT table_name FROM gpkg_contents WHERE data_type = 'attributes'") == [
        ("layer_styles",)
    ]
    table = pyogrio.read_dataframe(package, layer="layer_styles")
    assert table.columns.tolist() == [
        "f_table_catalog", "f_table_schema", "f_table_name", "f_geometry_column", "styleName",
        "styleQML", "styleSLD", "useAsDefault", "description", "owner", "ui", "update_time",
    ]  # fmt: skip
    assert table.styleName.tolist() == ["n" * 30, "default"]
    assert table.useAsDefault.tolist() == [True, True]
    assert table.update_time.notna().all()


def test_layers_are_read_as_before(package):
    before = gpd.read_file(package, layer="ice")
    store_style(package, "ice", outlines_qml())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = gpd.read_file(package, layer="ice")
    assert after.equals(before)
    assert [kind for _, kind in pyogrio.list_layers(package)] == ["Polygon", "Polygon", None]


def test_what_is_refused(package, tmp_path):
    with pytest.raises(GlacierError, match=r"a.gpkg: has no layer 'snow'"):
        store_style(package, "snow", "x")
    assert ask(package, "SELECT name FROM sqlite_master WHERE name = 'layer_styles'") == []
    with pytest.raises(GlacierError, match=r"b.gpkg: no such file"):
        store_style(tmp_path / "b.gpkg", "ice", "x")
    assert not (tmp_path / "b.gpkg").exists()
    (tmp_path / "c.gpkg").write_text("text that is no database, at some length")
    with pytest.raises(GlacierError, match=r"c.gpkg: no style can be stored"):
        store_style(tmp_path / "c.gpkg", "ice", "x")
