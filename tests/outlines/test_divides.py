"""Mapped ice cut along the divides of an inventory, against the same rule on rasters."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from outline_shapes import TWO, UTM, box, inventory, predicted
from rasterio.crs import CRS
from scipy import ndimage

from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import per_glacier
from glacier_utils.outlines import matching, rasterization
from glacier_utils.raster.grid import Grid

GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 500_000, 0, -10, 6_801_000), 100, 120)


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
    found = matching.assign_ids(ice, inventory(TWO))
    check_whole(found, ice)
    assert areas(found) == {"A": 1.5, "B": 1.0}
    assert found["name"].tolist() == ["Sermeq A", "Sermeq B"]
    assert found["listed"].all()
    assert found.geometry.iloc[1].equals(box(2, 0, 3, 1))


def test_ice_outside_goes_to_the_nearest_outline():
    # One km of ice above the outlines: the line of equal distance goes on from the divide.
    ice = predicted(box(0, 0, 4, 2))
    found = matching.assign_ids(ice, inventory(TWO))
    check_whole(found, ice)
    assert areas(found) == {"A": 4.0, "B": 4.0}
    assert found.geometry.iloc[0].symmetric_difference(box(0, 0, 2, 2)).area < 1


def test_rock_mapped_as_ice_is_the_glaciers_around_it():
    rock = box(0.5, 0.25, 1, 0.75)
    ice = predicted(box(0, 0, 4, 1))
    found = matching.assign_ids(ice, inventory(TWO, {"A": rock}))
    check_whole(found, ice)
    assert areas(found) == {"A": 2.0, "B": 2.0}


def test_pieces_of_a_glacier_become_one_row():
    ice = predicted(box(0, 0, 0.5, 1), box(1, 0, 2, 1))
    found = matching.assign_ids(ice, inventory(TWO))
    assert areas(found) == {"A": 1.5}
    assert found.geometry.iloc[0].geom_type == "MultiPolygon"


def test_ice_that_no_outline_touches_is_numbered_by_size():
    ice = predicted(
        box(0, 0, 1, 1), box(0, 5, 1, 5.5), box(5, 5, 6, 6), box(8, 8, 8.09, 8.09),
        box(9, 9, 9.05, 9.05),
    )  # fmt: skip
    found = matching.assign_ids(ice, inventory(TWO))
    check_whole(found, ice)
    assert areas(found) == {"A": 1, "unlisted-1": 1, "unlisted-2": 0.5, "none": 0.0106}
    assert found["listed"].sum() == 1


def test_polygons_that_touch_at_a_corner_are_one_region():
    ice = predicted(box(1, 0, 2, 1), box(0.5, 1, 1, 1.5))
    found = matching.assign_ids(ice, inventory({"A": box(1, 0, 2, 1)}))
    assert areas(found) == {"A": 1.25}


def test_no_ice_and_no_outlines():
    none = gpd.GeoDataFrame({"area_km2": []}, geometry=[], crs=UTM)
    found = matching.assign_ids(none, inventory(TWO))
    assert found.empty
    assert {"glacier_id", "name", "area_km2", "listed", "geometry"} == set(found.columns)
    assert areas(matching.assign_ids(predicted(box(0, 0, 1, 1)), inventory({}))) == {
        "unlisted-1": 1
    }


@pytest.mark.parametrize("step", [0, -1, np.inf, np.nan])
def test_a_step_that_is_none(step):
    with pytest.raises(GlacierError, match="step_m"):
        matching.assign_ids(predicted(TWO["A"]), inventory(TWO), step_m=step)


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
    polygons = rasterization.vectorise(mask, GRID)
    found = matching.assign_ids(polygons, table, step_m=5)
    check_whole(found, polygons)
    # The rule on pixels, region by region: each takes the nearest of those inside its outlines.
    burnt = per_glacier.burn_glaciers(table, GRID, drop=False)
    inside = np.where(mask == 1, burnt.numbers, 0)
    numbers = np.zeros_like(inside)
    regions, count = ndimage.label(mask, np.ones((3, 3)))
    for region in range(1, count + 1):
        own = np.where(regions == region, inside, 0)
        if own.any():
            place = ndimage.distance_transform_edt(own == 0, return_indices=True)[1]
            numbers[regions == region] = own[tuple(place)][regions == region]
    counted = np.bincount(numbers.ravel(), minlength=len(burnt.table) + 1)
    own = areas(found)
    off = [
        abs(own.get(row["glacier_id"], 0.0) - counted[number] * GRID.pixel_area_km2)
        for number, row in burnt.table.iterrows()
    ]
    # Pixels along a cut belong to one side as a whole, and of two as near to one of them.
    assert sum(off) < 0.03 * mask.sum() * GRID.pixel_area_km2


def test_real_outlines_get_the_areas_of_the_raster(real_data):
    import rasterio

    folder = real_data / "everest_landsat7"
    with rasterio.open(folder / "LE71400412000304SGS00_B4.tif") as file:
        grid = Grid(file.crs, file.transform, file.height, file.width)
    table = rasterization.read_outlines(
        folder / "15_rgi60_glacier_outlines.gpkg", bounds=grid.bounds, crs=grid.crs
    )
    # Ice that reaches 90 m beyond the outlines, so that there is something to share out.
    mask = ndimage.binary_dilation(rasterization.rasterise(table, grid) == 1, iterations=3)
    polygons = rasterization.vectorise(mask, grid)
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
