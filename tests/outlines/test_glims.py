"""Predicted polygons in the schema of GLIMS, and the same reader reading them back; styles."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from importlib import resources
from xml.etree import ElementTree as ET

import geopandas as gpd
import matplotlib
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from outline_shapes import pixel_polygons
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.outlines.glims import LAYER, write_glims, write_probability_style
from glacier_utils.outlines.inventory import (
    area_deviations,
    areas_km2,
    read_outlines,
    resolve_overlaps,
    select_analyses,
    without_rock,
)
from glacier_utils.outlines.polygonization import polygonize
from glacier_utils.outlines.rasterization import rasterize
from glacier_utils.plotting.style import CLASS_COLOURS
from glacier_utils.raster.grid import Grid

GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 450_000, 0, -10, 6_780_000), 24, 30)
# As QGIS 3 looks for the style of a layer (QgsOgrProviderMetadata::loadStyle).
QUERY = (
    "SELECT styleQML FROM layer_styles WHERE f_table_schema = '' AND f_table_name = ? "
    "AND f_geometry_column = ? ORDER BY CASE WHEN useAsDefault THEN 1 ELSE 2 END, update_time DESC"
)


def ring_and_island() -> np.ndarray:
    """Return a glacier of 20 x 20 px with a nunatak of 10 x 10, on it one of 4 x 4 with a hole."""
    mask = np.zeros(GRID.shape, np.uint8)
    mask[2:22, 2:22] = 1
    mask[7:17, 7:17] = 0
    mask[10:14, 10:14] = 1
    mask[11, 11] = 0
    return mask


def qml(name: str) -> str:
    return (resources.files("glacier_utils") / "assets" / f"{name}.qml").read_text("utf-8")


def test_rows_and_columns(tmp_path):
    path = write_glims(
        pixel_polygons(ring_and_island(), GRID), tmp_path / "g.gpkg", source_date="2023-08-24",
        method="U-Net\n\u202e, threshold 0.5", uncertainty_m=15,
    )  # fmt: skip
    raw = gpd.read_file(path, layer=LAYER)
    assert raw.crs == "EPSG:4326"
    assert raw.line_type.tolist() == ["glac_bound", "intrnl_rock"] * 2
    assert raw.anlys_id.tolist() == [1, 1, 2, 2]
    assert raw.glac_id.nunique() == 2
    assert raw.groupby("glac_id").anlys_id.nunique().tolist() == [1, 1]
    assert (raw.src_date == pd.Timestamp("2023-08-24")).all()
    assert (raw.anlys_time == pd.Timestamp("2023-08-24")).all()
    assert (raw.proc_desc == "U-Net , threshold 0.5").all()
    assert (raw[["loc_unc_x", "loc_unc_y", "glob_unc_x", "glob_unc_y"]] == 15).all(axis=None)
    # 300 px of 100 m2 and 15; UTM is 0.9996 long at its meridian.
    assert raw["area"].tolist() == pytest.approx(
        [30000 / 0.9996**2] * 2 + [1500 / 0.9996**2] * 2, rel=2e-4
    )
    np.testing.assert_allclose(raw.db_area, raw["area"] / 1e6)
    assert raw.geom_type.unique().tolist() == ["MultiPolygon"]
    outer, rock, island, pit = raw.to_crs(32623).explode().geometry
    # The island is a hole of the glacier and of its rock; the island itself is written filled.
    assert [round(shape.area / 100) for shape in (outer, rock, island, pit)] == [384, 84, 16, 1]
    assert [len(shape.interiors) for shape in (outer, rock, island, pit)] == [1, 1, 0, 0]


def test_what_is_read_back(tmp_path):
    path = write_glims(
        pixel_polygons(ring_and_island(), GRID), tmp_path / "g.gpkg", source_date="2023-08",
        uncertainty_m=15,
    )  # fmt: skip
    raw, outlines = gpd.read_file(path, layer=LAYER), read_outlines(path)
    assert outlines.glacier_id.tolist() == raw.glac_id.tolist()
    assert outlines.analysis_id.tolist() == raw.anlys_id.astype(str).tolist()
    assert outlines.kind.tolist() == ["glacier", "internal_rock"] * 2
    assert (outlines.source_date == pd.Timestamp("2023-08-15")).all()
    assert (outlines.uncertainty_m == 15).all()
    assert outlines.stated_km2.tolist() == raw.db_area.tolist()
    assert outlines.attrs["report"] == []
    np.testing.assert_allclose(areas_km2(without_rock(outlines)), raw.db_area[[0, 2]], rtol=1e-6)
    assert area_deviations(outlines, limit=1e-6).empty


def test_an_uncertainty_that_is_not_stated(tmp_path):
    polygons = pixel_polygons(np.ones(GRID.shape), GRID)
    path = write_glims(polygons, tmp_path / "g.gpkg", source_date="2023-08")
    assert (gpd.read_file(path, layer=LAYER).loc_unc_x == 0).all()
    assert read_outlines(path).uncertainty_m.isna().all()
    for wrong in (-1, np.nan, np.inf):
        with pytest.raises(GlacierError, match="must be metres, 0 or more"):
            write_glims(polygons, path, source_date="2023-08", uncertainty_m=wrong)


def test_multipolygons_and_empty_ones(tmp_path):
    parts = shapely.MultiPolygon([shapely.box(450_000, 6_779_900, 450_050, 6_780_000),
                                  shapely.box(450_100, 6_779_900, 450_150, 6_780_000)])  # fmt: skip
    polygons = gpd.GeoDataFrame(geometry=[shapely.Polygon(), parts, None], crs=32623)
    path = write_glims(polygons, tmp_path / "g.gpkg", source_date="2023-08")
    raw = gpd.read_file(path, layer=LAYER)
    assert raw.line_type.tolist() == ["glac_bound"]
    assert len(raw.geometry[0].geoms) == 2
    assert (rasterize(read_outlines(path), GRID) == 1).sum() == 100


@pytest.mark.slow
@settings(max_examples=20)
@given(mask=arrays(np.uint8, GRID.shape, elements=st.sampled_from([0, 1, 1, 1, 255])))
def test_any_mask_comes_back(tmp_path_factory, mask):
    polygons = pixel_polygons(mask, GRID)
    path = tmp_path_factory.mktemp("glims") / "g.gpkg"
    write_glims(polygons, path, source_date="2023-08", uncertainty_m=10)
    outlines = read_outlines(path, bounds=GRID.bounds, crs=GRID.crs)
    np.testing.assert_array_equal(rasterize(outlines, GRID) == 1, mask == 1)
    # Any order of rows, any reader that subtracts all rock from all ice.
    everything = outlines.drop(columns=["glacier_id", "analysis_id"])
    np.testing.assert_array_equal(rasterize(everything, GRID) == 1, mask == 1)
    chosen = select_analyses(outlines, "2023-08")
    assert len(chosen) == len(outlines)
    assert resolve_overlaps(chosen, min_area_km2=1e-6).attrs["report"] == []
    ice = outlines[outlines.kind == "glacier"]
    assert ice.glacier_id.is_unique
    assert len(ice) == len(polygons)
    assert sorted(areas_km2(without_rock(outlines))) == pytest.approx(
        sorted(areas_km2(polygons.geometry)), rel=1e-6
    )


def test_area_uncertainty_is_perimeter_times_uncertainty(tmp_path):
    polygons = pixel_polygons(ring_and_island(), GRID)
    path = write_glims(polygons, tmp_path / "g.gpkg", source_date="2023-08", uncertainty_m=15)
    raw = gpd.read_file(path, layer=LAYER)
    assert {str(raw[name].dtype) for name in ("area_unc", "loc_unc_x", "glob_unc_y")} == {"float64"}
    # 4 x 200 m outside and 4 x 100 m of rock; 4 x 40 m and 4 x 10 m; UTM is 0.9996 long.
    assert raw.area_unc.tolist() == pytest.approx(
        [1200 * 15 / 0.9996] * 2 + [200 * 15 / 0.9996] * 2, rel=2e-4
    )
    write_glims(polygons, path, source_date="2023-08")
    assert gpd.read_file(path, layer=LAYER).area_unc.isna().all()
    # In degrees already: the same lengths on the ground.
    write_glims(polygons.to_crs(4326), path, source_date="2023-08", uncertainty_m=15)
    np.testing.assert_allclose(gpd.read_file(path, layer=LAYER).area_unc, raw.area_unc, rtol=1e-6)


@pytest.mark.slow
@settings(max_examples=25)
@given(mask=arrays(np.uint8, GRID.shape, elements=st.sampled_from([0, 1, 1, 1, 255])),
       zone=st.sampled_from([(32623, 6_780_000), (32660, 6_780_000), (32601, 9_200_000),
                             (3413, -1_000_000)]))  # fmt: skip
def test_geometry_is_valid_in_degrees_and_polygonized_masks_come_back(tmp_path_factory, mask, zone):
    grid = Grid(CRS.from_epsg(zone[0]), Affine(10, 0, 670_000, 0, -10, zone[1]), *mask.shape)
    polygons = polygonize(mask, grid)
    path = tmp_path_factory.mktemp("glims") / "g.gpkg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_glims(polygons, path, source_date="2023-08", uncertainty_m=10)
        raw = gpd.read_file(path, layer=LAYER)
    assert raw.is_valid.all()
    assert raw.total_bounds[0] >= -180 if len(raw) else True
    outlines = read_outlines(path, bounds=grid.bounds, crs=grid.crs)
    assert outlines.attrs["report"] == [] or "antimeridian" in outlines.attrs["report"][0]
    np.testing.assert_array_equal(rasterize(outlines, grid) == 1, mask == 1)


def test_the_cut_at_the_antimeridian_stays(tmp_path):
    # UTM zone 60 reaches past 180 degrees.
    grid = Grid(CRS.from_epsg(32660), Affine(100, 0, 620_000, 0, -100, 7_200_000), 40, 400)
    polygons = polygonize(np.ones(grid.shape, np.uint8), grid)
    path = write_glims(polygons, tmp_path / "g.gpkg", source_date="2023-08", uncertainty_m=10)
    raw = gpd.read_file(path, layer=LAYER)
    assert raw.is_valid.all()
    parts = raw.geometry[0].geoms
    assert sorted(part.bounds[0] < 0 for part in parts) == [False, True]
    assert all(part.bounds[2] - part.bounds[0] < 1 for part in parts)
    # The cut is no outline.
    assert raw.area_unc[0] == pytest.approx(88_000 * 10, rel=1e-3)


def test_long_lines_stay_where_they_were(tmp_path):
    grid = Grid(CRS.from_epsg(32623), Affine(1000, 0, 399_960, 0, -1000, 8_800_020), 100, 100)
    path = write_glims(
        polygonize(np.ones(grid.shape), grid), tmp_path / "g.gpkg", source_date="2023-08"
    )
    back = gpd.read_file(path, layer=LAYER).to_crs(grid.crs).geometry[0]
    assert back.symmetric_difference(grid.box).area / grid.box.length < 0.3  # metres, at 79 N


def test_an_error_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = write_glims(pixel_polygons(ring_and_island(), GRID), tmp_path / "g.gpkg",
                       source_date="2023-08")  # fmt: skip
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("glacier_utils.outlines.glims._store_style", fail)
    with pytest.raises(OSError, match="no space"):
        write_glims(pixel_polygons(ring_and_island() * 0, GRID), path, source_date="2023-08")
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["g.gpkg"]


def test_each_polygon_may_have_a_date_of_its_own_or_none(tmp_path):
    squares = [shapely.box(5e5 + 1000 * k, 6.8e6, 5e5 + 1000 * k + 500, 6.8e6 + 500)
               for k in range(3)]  # fmt: skip
    frame = gpd.GeoDataFrame(
        {"source_date": ["2023-07-24", "", None]}, geometry=squares, crs="EPSG:32623"
    )
    own = gpd.read_file(
        write_glims(frame, tmp_path / "own.gpkg", source_date="2023-08"), layer=LAYER
    )
    days = own["src_date"].dt.strftime("%Y-%m-%d").tolist()
    assert days == ["2023-07-24", "2023-08-15", "2023-08-15"]
    none = gpd.read_file(write_glims(frame, tmp_path / "none.gpkg", source_date=None), layer=LAYER)
    assert none["src_date"].isna().tolist() == [False, True, True]


def test_the_model_ends_the_description(tmp_path):
    path = write_glims(
        pixel_polygons(ring_and_island(), GRID), tmp_path / "g.gpkg", source_date="2023-08",
        method="x" * 300, model="unet-resnet18 5f2a",
    )  # fmt: skip
    raw = gpd.read_file(path, layer=LAYER)
    assert (raw.proc_desc.str.len() == 255).all()
    assert raw.proc_desc.str.endswith("x; model unet-resnet18 5f2a").all()


def test_glims_round_trip(tmp_path):
    grid = Grid(GRID.crs, GRID.transform, 60, 80)
    mask = np.zeros(grid.shape, np.uint8)
    mask[5:25, 5:45] = 1
    mask[10:15, 10:20] = 0
    mask[30:34, 10:14] = mask[30:34, 15:19] = 1
    polygons = pixel_polygons(mask, grid)
    path = write_glims(polygons, tmp_path / "g.gpkg", source_date="2023-08", method="U-Net\n")
    outlines = read_outlines(path, bounds=grid.bounds, crs=grid.crs)
    assert outlines.glacier_id.nunique() == 3
    assert outlines.glacier_id.str.fullmatch(r"G\d{6}E\d{5}[NS]").all()
    assert (outlines.source_date == pd.Timestamp("2023-08-15")).all()
    net = areas_km2(without_rock(outlines))
    assert net.sum() == pytest.approx(polygons.area_km2.sum(), rel=1e-3)
    chosen = select_analyses(outlines, "2023-08")
    np.testing.assert_array_equal(rasterize(chosen, grid), mask)
    assert read_outlines(
        write_glims(polygons[:0], tmp_path / "none.gpkg", source_date="2023-08")
    ).empty


def test_glims_needs_a_crs_and_a_date(tmp_path):
    polygons = pixel_polygons(np.ones(GRID.shape), GRID)
    with pytest.raises(GlacierError, match="is not a date"):
        write_glims(polygons, tmp_path / "g.gpkg", source_date="soon")
    with pytest.raises(GlacierError, match="no CRS"):
        write_glims(
            polygons.set_crs(None, allow_override=True), tmp_path / "g.gpkg", source_date="2023-08"
        )


# --- styles for QGIS


def test_the_style_is_in_the_file(tmp_path):
    path = write_glims(pixel_polygons(ring_and_island(), GRID), tmp_path / "g.gpkg",
                       source_date="2023-08")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(gpd.read_file(path, layer=LAYER)) == 4
    assert [name for name, _ in pyogrio.list_layers(path)] == [LAYER, "layer_styles"]
    assert pyogrio.read_info(path, layer=LAYER)["geometry_type"] == "MultiPolygon"
    # Version 1.2, which GDAL and QGIS of years ago open without a word.
    assert int.from_bytes(path.read_bytes()[60:64], "big") == 10200
    table = pyogrio.read_dataframe(path, layer="layer_styles")
    assert table.columns.tolist() == [
        "f_table_catalog", "f_table_schema", "f_table_name", "f_geometry_column", "styleName",
        "styleQML", "styleSLD", "useAsDefault", "description", "owner", "ui", "update_time",
    ]  # fmt: skip
    assert table.f_table_name.tolist() == [LAYER]
    assert table.useAsDefault.tolist() == [True]
    assert table.update_time.notna().all()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute(QUERY, (LAYER, "geom")).fetchall() == [(qml("outlines"),)]


def test_outlines_are_categorised_by_line_type():
    root = ET.fromstring(qml("outlines"))
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
    shader = ET.fromstring(qml("probability")).find("pipe/rasterrenderer/rastershader")
    cividis = matplotlib.colormaps["cividis"]
    assert [item.get("color") for item in shader.findall("colorrampshader/item")] == [
        matplotlib.colors.to_hex(cividis(step / 10)) for step in range(11)
    ]


def test_probabilities_go_from_0_to_1():
    renderer = ET.fromstring(qml("probability")).find("pipe/rasterrenderer")
    assert renderer.get("type") == "singlebandpseudocolor"
    assert renderer.get("band") == "1"
    shader = renderer.find("rastershader/colorrampshader")
    assert shader.get("colorRampType") == "INTERPOLATED"
    values = [float(item.get("value")) for item in shader.findall("item")]
    np.testing.assert_allclose(values, np.linspace(0, 1, 11))
    assert len({item.get("color") for item in shader.findall("item")}) == 11


def test_a_style_lies_beside_its_raster(tmp_path):
    path = write_probability_style(tmp_path / "n_probability.tif")
    assert path == tmp_path / "n_probability.qml"
    assert path.read_text(encoding="utf-8") == qml("probability")
