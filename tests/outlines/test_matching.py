"""Predicted polygons against an inventory: kinds and fractions; ice cut along the divides."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from outline_shapes import TWO, UTM, box, inventory, pixel_polygons, predicted
from rasterio.crs import CRS
from scipy import ndimage

from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import per_glacier
from glacier_utils.outlines import matching
from glacier_utils.outlines.inventory import (
    read_outlines,
)
from glacier_utils.outlines.rasterization import rasterize
from glacier_utils.raster.grid import Grid

KINDS = ("one-to-one", "merged", "split", "complex", "missed", "fragment", "new")
GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 500_000, 0, -10, 6_801_000), 100, 120)


def kinds(found: matching.Matches) -> tuple[dict, list]:
    return (
        dict(zip(found.glaciers["glacier_id"], found.glaciers["kind"], strict=True)),
        found.polygons["kind"].tolist(),
    )


def test_one_to_one_with_its_numbers():
    found = matching.match(predicted(box(0, 0, 1.5, 1)), inventory({"A": TWO["A"]}))
    assert kinds(found) == ({"A": "one-to-one"}, ["one-to-one"])
    pair = found.pairs.iloc[0]
    assert pair[["polygon", "glacier_id", "counted"]].tolist() == [0, "A", True]
    np.testing.assert_allclose(
        pair[["overlap_km2", "share", "share_of_polygon", "iou"]].to_numpy(float),
        [1.5, 0.75, 1.0, 0.75],
    )
    glacier = found.glaciers.iloc[0]
    assert (glacier["area_km2"], glacier["found_km2"], glacier["share"]) == pytest.approx(
        (2, 1.5, 0.75)
    )
    assert (glacier["name"], glacier["pieces"], glacier["polygons"]) == ("Sermeq A", 1, "0")
    assert found.polygons.iloc[0][["glacier_ids", "glaciers"]].tolist() == ["A", 1]


def test_glaciers_that_touch_are_merged():
    found = matching.match(predicted(box(0, 0, 4, 1)), inventory(TWO))
    assert kinds(found) == ({"A": "merged", "B": "merged"}, ["merged"])
    assert found.glaciers["merged_with"].tolist() == ["B", "A"]
    assert found.polygons["glacier_ids"].tolist() == ["A, B"]


def test_a_neighbour_that_reaches_over_the_divide_does_not_merge():
    own, other = box(0, 0, 2.1, 1), box(2.1, 0, 4, 1)
    found = matching.match(predicted(own, other), inventory(TWO))
    assert kinds(found) == ({"A": "one-to-one", "B": "one-to-one"}, ["one-to-one"] * 2)
    # The pair is listed, and does not count.
    pair = found.pairs.query("polygon == 0 and glacier_id == 'B'").iloc[0]
    assert not pair["counted"]
    assert pair["share"] == pytest.approx(0.05)


def test_a_glacier_in_pieces_is_split_and_crumbs_do_not_count():
    parts = box(0, 0, 0.9, 1), box(1, 0, 2, 1), box(0.92, 0, 0.98, 1)
    found = matching.match(predicted(*parts), inventory({"A": TWO["A"]}))
    assert kinds(found) == ({"A": "split"}, ["split", "split", "fragment"])
    assert found.glaciers.iloc[0][["pieces", "polygons"]].tolist() == [2, "1, 0"]
    assert found.glaciers["found_km2"].iloc[0] == pytest.approx(1.96)


def test_many_small_pieces_are_pieces_all_the_same():
    parts = [box(x / 10, 0, x / 10 + 0.09, 1) for x in range(20)]
    found = matching.match(predicted(*parts), inventory({"A": TWO["A"]}))
    assert found.glaciers.iloc[0][["kind", "pieces"]].tolist() == ["split", 20]


def test_split_and_merged_at_once_is_complex():
    parts = box(0, 0, 1, 1), box(1.2, 0, 4, 1)
    found = matching.match(predicted(*parts), inventory(TWO))
    assert kinds(found) == ({"A": "complex", "B": "merged"}, ["split", "complex"])
    table = matching.splits_and_merges(found)
    assert table["found_as"].tolist() == ["split", "merged"]
    assert table["glacier_ids"].tolist() == ["A", "A, B"]
    assert table["names"].tolist() == ["Sermeq A", "Sermeq A, Sermeq B"]
    assert table["count"].tolist() == [2, 2]
    np.testing.assert_allclose(table["area_km2"], [2, 4])
    np.testing.assert_allclose(table["share"], [0.9, 0.95])
    assert table["complex"].all()


def test_missed_and_new():
    found = matching.match(predicted(box(6, 6, 7, 7), box(0, 0, 0.1, 1)), inventory(TWO))
    assert kinds(found) == ({"A": "missed", "B": "missed"}, ["new", "fragment"])
    assert found.polygons["outside_km2"].tolist() == pytest.approx([1, 0])
    assert matching.splits_and_merges(found).empty
    said = matching.describe_matches(found)
    assert "2 missed (4.00 km²)" in said
    assert "1 (1.00 km²) is new" in said


def test_rock_is_no_glacier_and_overlaps_go_to_one():
    rock = box(0.5, 0.25, 1, 0.75)
    found = matching.match(predicted(box(0, 0, 2, 1)), inventory({"A": TWO["A"]}, {"A": rock}))
    assert found.glaciers["area_km2"].iloc[0] == pytest.approx(1.75)
    assert found.polygons["outside_km2"].iloc[0] == pytest.approx(0.25)
    both = inventory({"A": TWO["A"], "B": box(1.5, 0, 6, 1)})
    found = matching.match(predicted(box(0, 0, 6, 1)), both)
    assert found.glaciers["area_km2"].tolist() == pytest.approx([1.5, 4.5])
    assert found.pairs["overlap_km2"].sum() == pytest.approx(6)


def test_glaciers_are_judged_by_what_lies_on_the_ground_mapped():
    ground = box(0, 0, 1, 1)
    found = matching.match(predicted(ground), inventory(TWO), ground=ground)
    assert found.glaciers["glacier_id"].tolist() == ["A"]
    assert found.glaciers.iloc[0][["cut", "kind"]].tolist() == [True, "one-to-one"]
    assert found.glaciers["share"].iloc[0] == pytest.approx(1)


def test_any_crs_of_the_inventory_and_the_index_of_the_polygons():
    table = predicted(box(0, 0, 2, 1), box(2.5, 0, 4, 1)).set_axis([7, 3])
    found = matching.match(table, inventory(TWO).to_crs("EPSG:4326"))
    assert found.polygons.index.tolist() == [7, 3]
    assert found.glaciers["polygons"].tolist() == ["7", "3"]
    np.testing.assert_allclose(found.glaciers["area_km2"], 2, rtol=1e-5)


@pytest.mark.parametrize("ice", [TWO, {}])
@pytest.mark.parametrize("shapes", [(), (box(0, 0, 1, 1),)])
def test_nothing_found_or_nothing_listed(ice, shapes):
    table = gpd.GeoDataFrame({"area_km2": [1.0] * len(shapes)}, geometry=list(shapes), crs=UTM)
    found = matching.match(table, inventory(ice))
    assert len(found.glaciers) == len(ice)
    assert len(found.polygons) == len(shapes)
    assert matching.splits_and_merges(found).empty
    assert matching.describe_matches(found).endswith(".")


@pytest.mark.parametrize(
    "table",
    [
        predicted(TWO["A"]).to_crs("EPSG:4326"),
        predicted(TWO["A"]).set_crs(None, allow_override=True),
    ],
)
def test_mistakes_are_said_in_a_line(table):
    with pytest.raises(GlacierError, match="projected") as caught:
        matching.match(table, inventory(TWO))
    assert "\n" not in str(caught.value)
    with pytest.raises(GlacierError, match="no CRS"):
        matching.match(predicted(TWO["A"]), inventory(TWO).set_crs(None, allow_override=True))


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
def test_tables_agree(seed):
    generator = np.random.default_rng(seed)

    def draw(count):
        corners = generator.uniform(0, 4, (count, 2))
        sizes = generator.uniform(0.1, 2, (count, 2))
        return [box(*low, *(low + size)) for low, size in zip(corners, sizes, strict=True)]

    shapes = shapely.get_parts(shapely.union_all(draw(6)))
    ice = {f"G{number}": shape for number, shape in enumerate(draw(5))}
    found = matching.match(predicted(*shapes), inventory(ice))
    links = found.pairs[found.pairs["counted"]]
    glaciers, polygons = found.glaciers, found.polygons
    assert glaciers["pieces"].sum() == polygons["glaciers"].sum() == len(links)
    assert (glaciers["share"].between(0, 1 + 1e-9)).all()
    assert ((glaciers["share"] < 0.1) == (glaciers["kind"] == "missed")).all()
    assert polygons["kind"].isin(KINDS).all()
    assert not (polygons["glaciers"] > 0)[polygons["kind"].isin(["new", "fragment"])].any()
    total = found.pairs["overlap_km2"].sum()
    assert glaciers["found_km2"].sum() == pytest.approx(total)
    assert (polygons["area_km2"] - polygons["outside_km2"]).sum() == pytest.approx(total)
    common = shapely.union_all(shapes).intersection(shapely.union_all(list(ice.values())))
    assert total == pytest.approx(common.area / 1e6, abs=1e-6)


def test_real_outlines_burnt_and_polygonized_are_found_again(real_data):

    folder = real_data / "everest_landsat7"
    with rasterio.open(folder / "LE71400412000304SGS00_B4.tif") as file:
        grid = Grid(file.crs, file.transform, file.height, file.width)
    table = read_outlines(
        folder / "15_rgi60_glacier_outlines.gpkg", bounds=grid.bounds, crs=grid.crs
    )
    mask = rasterize(table, grid)
    found = matching.match(pixel_polygons(mask, grid), table, ground=grid.box)
    assert len(found.glaciers) == 86
    assert (found.glaciers["share"] > 0.8).all()
    assert set(found.polygons["kind"]) <= {"one-to-one", "merged", "split", "complex", "fragment"}
    largest = found.polygons.iloc[0]
    assert largest["kind"] in ("merged", "complex")
    assert largest["glaciers"] > 20
    assert found.glaciers["found_km2"].sum() == pytest.approx(
        (mask == 1).sum() * grid.pixel_area_km2, rel=0.01
    )


def test_a_real_glims_file_keeps_its_names(real_data):
    table = read_outlines(real_data / "baker_glims" / "baker_glims.geojson")
    table = table.to_crs("EPSG:32610")
    # Two neighbours mapped as one, the others each as they are.
    ice = table.geometry
    pair = shapely.union_all(ice[:2].buffer(200).buffer(-200))
    found = matching.match(
        gpd.GeoDataFrame(geometry=[*ice[2:].buffer(-20), *shapely.get_parts(pair)], crs=table.crs),
        table,
    )
    assert len(found.glaciers) == 7
    assert (found.glaciers["kind"] != "missed").all()
    assert set(found.glaciers["name"]) == set(table["name"])


# --- ice cut along the divides


def areas(table: gpd.GeoDataFrame) -> dict[str, float]:
    return dict(zip(table["glacier_id"], table["area_km2"].round(4), strict=True))


def check_whole(table: gpd.GeoDataFrame, ice: gpd.GeoDataFrame) -> None:
    """The rows do not overlap, are valid, and together are the ice."""
    assert table.is_valid.all()
    assert table["glacier_id"].is_unique
    total = shapely.union_all(ice.geometry.to_numpy())
    assert table.area.sum() == pytest.approx(total.area, abs=1)
    assert shapely.union_all(table.geometry.to_numpy()).symmetric_difference(total).area < 1
    assert table["area_km2"].tolist() == pytest.approx(list(table.area / 1e6))


def test_a_merged_polygon_is_cut_along_the_divide():
    ice = predicted(box(0.5, 0, 3, 1))
    found = matching.assign_ids(ice, inventory(TWO), step_m=10)
    check_whole(found, ice)
    assert areas(found) == {"A": 1.5, "B": 1.0}
    assert found["name"].tolist() == ["Sermeq A", "Sermeq B"]
    assert found["listed"].all()
    assert found.geometry.iloc[1].equals(box(2, 0, 3, 1))


def test_ice_outside_goes_to_the_nearest_outline():
    # One km of ice above the outlines: the line of equal distance goes on from the divide.
    ice = predicted(box(0, 0, 4, 2))
    found = matching.assign_ids(ice, inventory(TWO), step_m=10)
    check_whole(found, ice)
    assert areas(found) == {"A": 4.0, "B": 4.0}
    assert found.geometry.iloc[0].symmetric_difference(box(0, 0, 2, 2)).area < 1


def test_rock_mapped_as_ice_is_the_glaciers_around_it():
    rock = box(0.5, 0.25, 1, 0.75)
    ice = predicted(box(0, 0, 4, 1))
    found = matching.assign_ids(ice, inventory(TWO, {"A": rock}), step_m=10)
    check_whole(found, ice)
    assert areas(found) == {"A": 2.0, "B": 2.0}


def test_pieces_of_a_glacier_become_one_row():
    ice = predicted(box(0, 0, 0.5, 1), box(1, 0, 2, 1))
    found = matching.assign_ids(ice, inventory(TWO), step_m=10)
    assert areas(found) == {"A": 1.5}
    assert found.geometry.iloc[0].geom_type == "MultiPolygon"


def test_ice_that_no_outline_touches_is_numbered_by_size():
    ice = predicted(
        box(0, 0, 1, 1), box(0, 5, 1, 5.5), box(5, 5, 6, 6), box(8, 8, 8.09, 8.09),
        box(9, 9, 9.05, 9.05),
    )  # fmt: skip
    found = matching.assign_ids(ice, inventory(TWO), step_m=10)
    check_whole(found, ice)
    assert areas(found) == {"A": 1, "unlisted-1": 1, "unlisted-2": 0.5, "none": 0.0106}
    assert found["listed"].sum() == 1


def test_polygons_that_touch_at_a_corner_are_one_region():
    ice = predicted(box(1, 0, 2, 1), box(0.5, 1, 1, 1.5))
    found = matching.assign_ids(ice, inventory({"A": box(1, 0, 2, 1)}), step_m=10)
    assert areas(found) == {"A": 1.25}


def test_no_ice_and_no_outlines():
    none = gpd.GeoDataFrame({"area_km2": []}, geometry=[], crs=UTM)
    found = matching.assign_ids(none, inventory(TWO), step_m=10)
    assert found.empty
    assert {"glacier_id", "name", "area_km2", "listed", "geometry"} == set(found.columns)
    assert areas(matching.assign_ids(predicted(box(0, 0, 1, 1)), inventory({}), step_m=10)) == {
        "unlisted-1": 1
    }


@pytest.mark.parametrize("step", [0, -1, np.inf, np.nan])
def test_a_step_that_is_none(step):
    with pytest.raises(GlacierError, match="step_m"):
        matching.assign_ids(predicted(TWO["A"]), inventory(TWO), step_m=step)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
def test_the_same_as_on_the_raster(seed):
    generator = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(generator.normal(size=GRID.shape), 6)
    mask = (field > np.quantile(field, 0.6)).astype(np.uint8)
    centres = generator.uniform((0.1, 0.1), (1.1, 0.9), (4, 2))
    ice = {
        f"G{number}": box(x, y, x + width, y + height)
        for number, ((x, y), (width, height)) in enumerate(
            zip(centres.round(2), generator.uniform(0.1, 0.5, (4, 2)).round(2), strict=True)
        )
    }
    table = inventory(ice)
    # Of different dates, so that it is clear whose an overlap is.
    table["source_date"] += pd.to_timedelta(generator.permutation(4), "D")
    polygons = pixel_polygons(mask, GRID)
    found = matching.assign_ids(polygons, table, step_m=5)
    check_whole(found, polygons)
    # The rule on pixels, region by region: each takes the nearest of those inside its outlines.
    burnt = per_glacier.burn_glaciers(table, GRID)
    inside = np.where(mask == 1, burnt.numbers, 0)
    numbers = np.zeros_like(inside)
    regions, count = ndimage.label(mask, np.ones((3, 3)))
    for region in range(1, count + 1):
        own = np.where(regions == region, inside, 0)
        if own.any():
            place = ndimage.distance_transform_edt(own == 0, return_indices=True)[1]
            numbers[regions == region] = own[tuple(place)][regions == region]
    counted = np.bincount(numbers.ravel(), minlength=len(ice) + 1)
    own = areas(found)
    off = [
        abs(own.get(row["glacier_id"], 0.0) - counted[number] * GRID.pixel_area_km2)
        for number, row in burnt.table.iterrows()
    ]
    # Pixels along a cut belong to one side as a whole, and of two as near to one of them.
    assert sum(off) < 0.03 * mask.sum() * GRID.pixel_area_km2


def test_real_outlines_get_the_areas_of_the_raster(real_data):

    folder = real_data / "everest_landsat7"
    with rasterio.open(folder / "LE71400412000304SGS00_B4.tif") as file:
        grid = Grid(file.crs, file.transform, file.height, file.width)
    table = read_outlines(
        folder / "15_rgi60_glacier_outlines.gpkg", bounds=grid.bounds, crs=grid.crs
    )
    # Ice that reaches 90 m beyond the outlines, so that there is something to share out.
    mask = ndimage.binary_dilation(rasterize(table, grid) == 1, iterations=3)
    polygons = pixel_polygons(mask, grid)
    found = matching.assign_ids(polygons, table, step_m=30)
    check_whole(found, polygons)
    parts = per_glacier.partition(
        mask.astype(np.uint8), grid, per_glacier.burn_glaciers(table, grid)
    )
    counted = np.bincount(np.where(mask, parts.zones, 0).ravel())
    own = areas(found)
    off = [
        abs(own.get(row["glacier_id"], 0) - counted[number] * grid.pixel_area_km2)
        for number, row in parts.table.iterrows()
    ]
    assert len(off) >= 85
    assert sum(off) < 0.002 * mask.sum() * grid.pixel_area_km2


def test_cells_whose_edges_do_not_meet_are_joined():
    """As Voronoi cells of real outlines are now and then, by rounding."""
    left = shapely.box(0, 0, 1, 1)
    right = shapely.Polygon([(1, 0), (2, 0), (2, 1), (1, 1), (1 - 1e-9, 0.5)])
    with pytest.raises(shapely.GEOSException):
        shapely.coverage_union_all([left, right])
    joined = matching._joined(np.array([left, right]), 0.1)
    assert joined.geom_type == "Polygon"
    assert joined.area == pytest.approx(2)
