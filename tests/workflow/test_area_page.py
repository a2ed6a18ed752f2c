"""The interactive map of an area: which layers there are, and which glacier each polygon is."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from stubs import FirstBand, Scene, segmenter

from glacier_utils.outlines.polygonization import polygonize
from glacier_utils.prediction import scenes
from glacier_utils.workflow import area_page

NAMES = ("Qingua Sermia", "</script><b>Sermeq</b>")


def scene(last: int = 40) -> Scene:
    """Logits in the first band: one glacier of 40 rows, from column 10 to ``last``."""
    values = np.full((4, 64, 64), -2.0)
    values[0, 10:50, 10:last] = 3.0
    values[1:] = 0.3
    return Scene(values)


def mapped(folder, date: str, last: int, synthetic: bool = False) -> area_page.Mapped:
    source = scene(last)
    source.synthetic = synthetic
    product = scenes.write_products(
        segmenter(FirstBand()), source, folder, f"test_{date}", date=date
    )
    return area_page.Mapped(date, source.read(), product)


def inventory() -> gpd.GeoDataFrame:
    """Two glaciers that meet in column 25: the predicted one is both of them."""
    x, y = 500_000, 6_800_000
    shapes = [shapely.box(x + 100, y - 500, x + 250, y - 100),
              shapely.box(x + 250, y - 500, x + 400, y - 100)]  # fmt: skip
    return gpd.GeoDataFrame(
        {
            "glacier_id": ["G1", "G2"],
            "analysis_id": [1, 1],
            "kind": "glacier",
            "source_date": pd.to_datetime(["2001-08-15", None]),
            "name": NAMES,
            "uncertainty_m": [15.0, np.nan],
            "area_km2": [0.06, 0.06],
            "stated_km2": np.nan,
        },
        geometry=shapes,
        crs="EPSG:32623",
    )


def test_two_dates_are_swiped_and_the_rest_lies_on_both_sides(tmp_path):
    dates = [mapped(tmp_path, "2023-07", 45), mapped(tmp_path, "2023-08", 40)]
    label = (dates[1].product.mask == 1).astype(np.uint8)
    page = area_page.write_swipe_map(
        tmp_path / "map.html", dates, title="Test", label=label, inventory=inventory()
    ).read_text(encoding="utf-8")
    for name in (
        "Satellite image", "Uncertainty of the prediction", "Predicted class", "Labels",
        "Prediction against labels", "Difference, 2023-07 to 2023-08", "Inventory outlines",
        "Predicted glaciers",
    ):  # fmt: skip
        assert name in page, name
    assert "Qingua Sermia" in page
    assert NAMES[1] not in page  # a third party's text is no markup
    assert "What differs within a summer" in page


def test_one_date_without_labels_or_outlines_is_a_map_too(tmp_path):
    page = area_page.write_swipe_map(
        tmp_path / "map.html", [mapped(tmp_path, "2023-08", 40)], title="Test"
    ).read_text(encoding="utf-8")
    assert "Predicted glaciers" in page
    assert "Difference" not in page
    assert "Labels" not in page
    with pytest.raises(ValueError, match="3 dates"):
        area_page.write_swipe_map(tmp_path / "no.html", [None] * 3, title="")
    assert not (tmp_path / "no.html").exists()


@pytest.mark.parametrize("synthetic", [False, True])
def test_what_is_made_of_a_synthetic_image_says_so(tmp_path, synthetic):
    one = mapped(tmp_path, "2023-08", 40, synthetic)
    page = area_page.write_swipe_map(tmp_path / "map.html", [one], title="Test").read_text("utf-8")
    assert ("Test (synthetic sample)" in page) == synthetic
    for kind in ("probability", "class", "image"):
        with rasterio.open(one.product.files[kind]) as raster:
            assert raster.tags().get("SYNTHETIC") == ("synthetic sample" if synthetic else None)
    assert ("glacier:synthetic" in one.product.files["item"].read_text("utf-8")) == synthetic
    outlines = gpd.read_file(one.product.files["outlines"], layer="glims_polygons")
    assert outlines["glac_id"].str.startswith("SYN-G" if synthetic else "G").all()
    assert outlines["proc_desc"].str.startswith("synthetic sample: ").all() == synthetic


def test_predicted_ice_is_cut_along_the_divide_and_named():
    source = scene(43)
    outlines = polygonize((source.pixels[0] > 0).astype(np.uint8), source.grid)
    named = area_page.named_outlines(outlines, inventory(), source.grid, "2023-08")
    assert named["glacier_id"].tolist() == ["G2", "G1"]  # the larger first
    assert named["name"].tolist() == [NAMES[1], NAMES[0]]
    # 18 and 15 columns of 40 pixels; the outline's corners are cut.
    assert named["area_km2"].tolist() == pytest.approx([0.072, 0.060], rel=0.01)
    assert named["area_km2"].sum() == pytest.approx(outlines["area_km2"].sum())
    # Perimeters of 1160 and 1100 m, times 10 m.
    assert named["uncertainty_km2"].tolist() == pytest.approx([0.0116, 0.0110], rel=0.03)
    assert named["inventory_km2"].tolist() == [0.06, 0.06]
    assert named["inventory_date"].tolist() == ["", "2001-08-15"]


def test_ice_outside_the_inventory_is_no_glaciers():
    source = scene(43)
    outlines = polygonize((source.pixels[0] > 0).astype(np.uint8), source.grid)
    west, south, east, north = source.grid.bounds
    # An ice sheet right of the 30th column; what the inventory draws there stays a glacier's.
    sheet = shapely.box(west + 300, south, east, north)
    whole = area_page.named_outlines(outlines, inventory(), source.grid)
    named = area_page.named_outlines(outlines, inventory(), source.grid, ice_outside=sheet)
    assert named["glacier_id"].tolist() == ["G2", "G1", "outside"]
    listed = inventory().query("kind == 'glacier'").union_all()
    mapped = outlines.union_all()
    beyond = mapped.intersection(sheet).difference(listed)
    assert named["area_km2"].iloc[2] == pytest.approx(beyond.area / 1e6)
    assert named["area_km2"].sum() == pytest.approx(whole["area_km2"].sum())
    assert named["listed"].tolist() == [True, True, False]
    # All of it in the sheet, and nothing mapped.
    everywhere = area_page.named_outlines(outlines, inventory(), source.grid,
                                          ice_outside=source.grid.box)  # fmt: skip
    assert everywhere["area_km2"].sum() == pytest.approx(outlines["area_km2"].sum())
    nothing = area_page.named_outlines(outlines[:0], inventory(), source.grid, ice_outside=sheet)
    assert nothing.empty


def test_without_an_inventory_each_polygon_is_a_glacier_without_a_name():
    source = scene()
    outlines = polygonize((source.pixels[0] > 0).astype(np.uint8), source.grid)
    named = area_page.named_outlines(outlines, None, source.grid)
    assert named["glacier_id"].tolist() == ["1"]
    assert named["name"].tolist() == [""]
    assert named["area_km2"].tolist() == outlines["area_km2"].tolist()
