"""Outlines burnt into labels: which pixels are ice, bands along the edge, ages."""

from __future__ import annotations

import math

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from outline_grid import GRID, X, Y, box, table
from outline_shapes import pixel_polygons
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.outlines.rasterization import LabelAge, OutlineMask, rasterize
from glacier_utils.raster.grid import Grid


def one(geometry, *rocks) -> gpd.GeoDataFrame:
    rows = [("a", "1", "glacier", "2001-08-01", geometry)]
    return table(*rows, *[("a", "1", "internal_rock", "2001-08-01", rock) for rock in rocks])


def test_a_pixel_is_ice_if_its_centre_is():
    label = rasterize(one(box(10.4, 20.6, 14.4, 22.6)), GRID)
    expected = np.zeros(GRID.shape, np.uint8)
    expected[21:23, 10:14] = 1
    np.testing.assert_array_equal(label, expected)


def test_internal_rock_and_holes_are_not_ice():
    ring = box(10, 10, 30, 30).difference(box(25, 25, 28, 28))
    label = rasterize(one(ring, box(12, 12, 15, 16)), GRID)
    expected = np.zeros(GRID.shape, np.uint8)
    expected[10:30, 10:30] = 1
    expected[25:28, 25:28] = 0
    expected[12:16, 12:15] = 0
    np.testing.assert_array_equal(label, expected)


def test_outlines_in_another_crs_are_moved():
    outlines = one(box(10, 20, 14, 25))
    np.testing.assert_array_equal(
        rasterize(outlines.to_crs("EPSG:4326"), GRID), rasterize(outlines, GRID)
    )


def test_band_is_a_distance_in_metres():
    label = rasterize(one(box(20, 20, 60, 50), box(30, 30, 34, 34)), GRID, band_m=20)
    # Centres at 5 and 15 m on both sides of an edge are inside the band, those at 25 m are not.
    assert label[35, 15:25].tolist() == [0, 0, 0, 255, 255, 255, 255, 1, 1, 1]
    assert label[32, 27:35].tolist() == [1, 255, 255, 255, 255, 255, 255, 255]
    # At a corner outside, the distance is round: (15, 15) m is 21 m away, (5, 15) m 16 m.
    assert label[18, 18] == 0
    assert label[18, 19] == label[19, 18] == 255


def test_band_is_round_at_corners():
    outlines = one(box(20, 20, 60, 50))
    # The centre (5, 15) m off a corner, and a hair more and less than that.
    assert rasterize(outlines, GRID, band_m=math.hypot(5, 15) + 1e-6)[18, 19] == 255
    assert rasterize(outlines, GRID, band_m=math.hypot(5, 15) - 1e-6)[18, 19] == 0


def test_divides_between_glaciers_have_no_band():
    outlines = table(
        ("a", "1", "glacier", "2001-08-01", box(10, 10, 30, 40)),
        ("b", "1", "glacier", "2001-08-01", box(30, 10, 50, 40)),
    )
    label = rasterize(outlines, GRID, band_m=15)
    assert (label[20, 15:45] == 1).all()
    assert (label[20, [9, 50]] == 255).all()


def test_glacier_on_a_nunatak_of_another():
    outlines = table(
        ("a", "1", "glacier", "2001-08-01", box(10, 10, 50, 50)),
        ("a", "1", "internal_rock", "2001-08-01", box(20, 20, 40, 40)),
        ("b", "7", "glacier", "2001-08-01", box(25, 25, 35, 35)),
        ("lost", "8", "internal_rock", "2001-08-01", box(30, 30, 45, 45)),
    )
    expected = np.zeros(GRID.shape, np.uint8)
    expected[10:50, 10:50] = 1
    expected[20:40, 20:40] = 0
    expected[25:35, 25:35] = 1
    expected[30:45, 30:45] = 0  # rock of nobody is rock for all
    np.testing.assert_array_equal(rasterize(outlines, GRID), expected)


def test_outline_just_outside_a_window_reaches_into_it():
    mask = OutlineMask(one(box(20, 20, 60, 50)), GRID, band_m=30)
    assert (mask.read(22, 17, 10, 3) == 255).all()


EIGHTHS = st.integers(0, 480).map(lambda number: number / 8)  # of a pixel: no slivers of no width


@settings(max_examples=40, deadline=None)
@given(
    points=st.lists(st.tuples(EIGHTHS, EIGHTHS), min_size=3, max_size=8),
    row=st.integers(-5, 50), col=st.integers(-5, 70), height=st.integers(1, 30),
    width=st.integers(1, 30), band=st.sampled_from([0.0, 24.7]),  # no centre is that far from 0
)  # fmt: skip
# A pixel 24.68 m off a corner, which the window's cut makes the end of a line.
@example([(11.875, 31.875), (35.375, 26.375), (12.125, 22.625)], 32, 9, 1, 1, 24.7)
def test_windows_are_pieces_of_the_whole(points, row, col, height, width, band):
    corners = [(X + 10.03 * x, Y - 10.03 * y) for x, y in points]
    hull = shapely.MultiPoint(corners).convex_hull
    shape = shapely.make_valid(shapely.Polygon(corners)) if hull.geom_type == "Polygon" else hull
    shape = shapely.union_all(
        [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    )
    outlines = one(shape, hull.centroid.buffer(40))
    mask = OutlineMask(outlines, GRID, band_m=band)
    padded = np.pad(mask.read(), 40, constant_values=255)
    expected = padded[40 + row : 40 + row + height, 40 + col : 40 + col + width]
    np.testing.assert_array_equal(mask.read(row, col, height, width), expected)


def test_rasterising_without_a_place_or_metres():
    outlines = one(box(0, 0, 9, 9))
    with pytest.raises(GlacierError, match="image has no CRS"):
        rasterize(outlines, Grid(None, GRID.transform, 4, 4))
    with pytest.raises(GlacierError, match="in degrees"):
        rasterize(outlines, Grid(CRS.from_epsg(4326), GRID.transform, 4, 4), band_m=10)
    with pytest.raises(GlacierError, match="not be negative"):
        rasterize(outlines, GRID, band_m=-1)
    with pytest.raises(GlacierError, match="not be negative"):
        rasterize(outlines, GRID, band_m=math.nan)
    with pytest.raises(GlacierError, match="outlines have no CRS"):
        rasterize(outlines.set_crs(None, allow_override=True), GRID)


def test_polygons_of_a_mask_burn_back_to_it():
    random = np.random.default_rng(0)
    mask = (random.random(GRID.shape) > 0.6).astype(np.uint8)
    mask[random.random(GRID.shape) > 0.95] = 255
    polygons = pixel_polygons(mask, GRID)
    assert polygons.is_valid.all()
    assert polygons.area_km2.sum() == pytest.approx((mask == 1).sum() * 1e-4)
    assert polygons.area_km2.is_monotonic_decreasing
    label = rasterize(polygons.assign(kind="glacier"), GRID)
    np.testing.assert_array_equal(label == 1, mask == 1)


# --- ages

AGES_GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 500_000, 0, -10, 6_800_000), 40, 60)


def ground(col0, row0, col1, row1):
    return shapely.box(
        500_000 + 10 * col0, 6_800_000 - 10 * row1, 500_000 + 10 * col1, 6_800_000 - 10 * row0
    )


def dated(*rows):
    return gpd.GeoDataFrame(
        {
            "kind": [row[0] for row in rows],
            "source_date": pd.to_datetime([row[1] for row in rows]),
        },
        geometry=[row[2] for row in rows],
        crs=32623,
    )


def test_years_lie_where_the_outlines_do():
    table = dated(
        ("glacier", "2003-08-15", ground(0, 0, 20, 40)),
        ("glacier", "2024-02-15", ground(20, 0, 30, 40)),
        ("glacier", None, ground(30, 0, 40, 40)),
        ("internal_rock", "1990-08-15", ground(50, 0, 60, 40)),
    )
    ages = LabelAge(table, AGES_GRID, "2023-08-15")
    years = ages.read(0, 0, 40, 60)
    assert years.dtype == np.float32
    assert years[:, :20] == pytest.approx(20.0, abs=0.01)
    assert years[:, 20:30] == pytest.approx(-0.504, abs=0.01)  # younger than the image
    assert np.isnan(years[:, 30:]).all()
    np.testing.assert_array_equal(ages.read(5, 15, 10, 20), years[5:15, 15:35])
    # Beyond the frame lies no label, but a window may reach there.
    assert ages.read(-8, 50, 16, 16).shape == (16, 16)


def test_no_outlines_have_no_age():
    assert np.isnan(LabelAge(dated(), AGES_GRID, "2023-08").read(0, 0, 8, 8)).all()
    undated = dated(("glacier", None, ground(0, 0, 60, 40)))
    assert np.isnan(LabelAge(undated, AGES_GRID, "2023-08").read(0, 0, 8, 8)).all()
