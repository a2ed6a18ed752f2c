"""Grids: what they measure on the ground, and which of them show the same ground."""

from __future__ import annotations

import re

import numpy as np
import pyproj
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.raster.grid import Grid, same_crs

UTM = CRS.from_epsg(32623)
UNNAMED_UTM = (
    'PROJCS["UTM Zone 11, Northern Hemisphere",GEOGCS["Unknown datum based upon the WGS 84 '
    'ellipsoid",DATUM["Not specified (based on WGS 84 spheroid)",SPHEROID["WGS 84",6378137,'
    '298.257223563]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],'
    'PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",-117],PARAMETER["scale_factor",0.9996],'
    'PARAMETER["false_easting",500000],PARAMETER["false_northing",0],UNIT["metre",1],'
    'AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)


def test_grid_measures_what_it_covers():
    grid = Grid(UTM, Affine(10, 0, 500, 0, -10, 900), 20, 30)
    assert grid.bounds == (500, 700, 800, 900)
    assert grid.box.area == pytest.approx(300 * 200)
    assert (grid.resolution, grid.pixel_area_km2) == (10, pytest.approx(1e-4))
    window = grid.window(-2, 5, 4, 6)
    assert (window.bounds, window.shape) == ((550, 880, 610, 920), (4, 6))


def test_grid_without_size_on_the_ground_says_nan():
    assert np.isnan(Grid(None, Affine(1, 0, 0, 0, -1, 0), 4, 4).pixel_area_km2)
    assert Grid(None, Affine(10, 0, 0, 0, -10, 0), 4, 4).resolution == 10


def test_grid_in_degrees_measures_on_the_ellipsoid():
    # At 60 N a degree of longitude is half a degree of latitude long, to half a percent.
    grid = Grid(CRS.from_epsg(4326), Affine(0.002, 0, -45, 0, -0.001, 60), 2, 2)
    assert grid.resolution == pytest.approx(111.4, rel=0.005)


def test_grid_in_feet_measures_in_metres():
    grid = Grid(CRS.from_epsg(2263), Affine(100, 0, 9e5, 0, -100, 2e5), 2, 2)
    assert grid.resolution == pytest.approx(30.48, rel=1e-4)


@pytest.mark.parametrize(
    ("crs", "x", "y", "drawn"),
    [
        # k = 1 / cos(latitude) on the sphere, by which 61 N is 4.26 on the ellipsoid.
        (3857, -5_000_000, 8_650_000, 4.26),
        # ((1 + sin 70) / (1 + sin 61)) ** 2.
        (3413, 10_000, -3_210_000, 1.071),
        (32623, 500_000, 6_780_000, 1),
        (6933, -4_300_000, 6_400_000, 1),
    ],
)
def test_projected_pixels_have_their_size_on_the_ground(crs, x, y, drawn):
    grid = Grid(CRS.from_epsg(crs), Affine(10, 0, x, 0, -10, y), 100, 100)
    assert 1e-4 / grid.pixel_area_km2 == pytest.approx(drawn, rel=2e-3)
    assert grid.metres_per_unit == pytest.approx(drawn**-0.5, rel=1e-3)
    if crs == 32623:
        assert (grid.resolution, grid.metres_per_unit, grid.distortion()) == (10, 1, "")
    else:
        words = "distances are rough" if drawn == 1 else "times as large on its plane"
        assert words in grid.distortion()


def test_distortion_that_varies_over_the_frame_is_told():
    grid = Grid(CRS.from_epsg(3413), Affine(1000, 0, -5e5, 0, -1000, -2.2e6), 1000, 1000)
    assert "a pixel covers 0.9" in grid.distortion()
    assert Grid(None, Affine(1, 0, 0, 0, -1, 0), 9, 9).distortion() == ""


def test_a_crs_of_another_planet_keeps_its_own_unit():
    mars = CRS.from_string("+proj=eqc +a=3396190 +b=3376200 +units=m")
    assert Grid(mars, Affine(10, 0, 0, 0, -10, 0), 9, 9).resolution == pytest.approx(10, rel=0.5)


MGI = pyproj.CRS.from_epsg(31287).to_wkt("WKT1_GDAL")
TOWGS84 = re.sub(
    r'(SPHEROID\["Bessel 1841"[^]]*\]\])', r"\1,TOWGS84[577,90,464,5.1,1.5,5.3,2.4]", MGI
)
UTM_23 = "+proj=utm +zone=23 +ellps=WGS84 +units=m"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (CRS.from_wkt(MGI), CRS.from_wkt(TOWGS84), True),
        (UTM, CRS.from_string(f"{UTM_23} +towgs84=0,0,0,0,0,0,0"), True),
        (UTM, CRS.from_string(f"{UTM_23} +towgs84=0,0,0"), True),
        (UTM, CRS.from_string(f"{UTM_23} +towgs84=100,200,300"), False),
        (UTM, CRS.from_string("+proj=tmerc +lon_0=315 +k=.9996 +x_0=500000 +datum=WGS84"), True),
        (UTM, CRS.from_string("EPSG:32623+5773"), True),
        (CRS.from_string("EPSG:32624+5773"), CRS.from_string("EPSG:32623+5773"), False),
        (UTM, CRS.from_wkt(pyproj.CRS.from_epsg(32623).to_wkt("WKT1_ESRI")), True),
        (UTM, CRS.from_epsg(32723), False),
        (UTM, CRS.from_epsg(3184), False),  # GR96
        (CRS.from_epsg(26711), CRS.from_epsg(32611), False),  # NAD27
        (CRS.from_epsg(4326), CRS.from_string("OGC:CRS84"), True),
        (CRS.from_epsg(4326), CRS.from_epsg(4979), True),  # with heights
        (CRS.from_epsg(4326), CRS.from_epsg(9057), True),  # a realisation of WGS 84
        (CRS.from_epsg(4326), CRS.from_epsg(4269), False),
        (CRS.from_epsg(3857), CRS.from_epsg(3395), False),
        (CRS.from_epsg(3413), CRS.from_epsg(3411), False),
        (CRS.from_epsg(32611), CRS.from_wkt(UNNAMED_UTM), True),
        (CRS.from_epsg(32612), CRS.from_wkt(UNNAMED_UTM), False),
        (CRS.from_epsg(32711), CRS.from_wkt(UNNAMED_UTM), False),
        (CRS.from_epsg(26911), CRS.from_epsg(32611), False),
        (CRS.from_epsg(26911), CRS.from_wkt(UNNAMED_UTM), False),
        (CRS.from_epsg(32611), CRS.from_string("+proj=utm +zone=11 +datum=WGS84"), True),
        (CRS.from_epsg(32611), None, False),
        (None, None, True),
    ],
)
def test_crs_compared_by_meaning(one, other, same):
    assert same_crs(one, other) is same
    assert same_crs(other, one) is same


def test_matching_frames_differ_by_less_than_a_quarter_pixel():
    grid = Grid(UTM, Affine(10, 0, 0, 0, -10, 0), 100, 100)
    assert grid.matches(Grid(UTM, Affine(10, 0, 2.4, 0, -10, 0), 100, 100))
    assert not grid.matches(Grid(UTM, Affine(10, 0, 2.6, 0, -10, 0), 100, 100))
    assert not grid.matches(Grid(UTM, Affine(10.03, 0, 0, 0, -10.03, 0), 100, 100))
    assert not grid.matches(grid.window(0, 0, 100, 99))
    assert grid.shares_lattice(grid.window(-7, 3, 5, 5))
    assert not grid.shares_lattice(Grid(UTM, Affine(10, 0, 5, 0, -10, 0), 100, 100))


def test_shift_of_pixels_is_measured():
    grid = Grid(UTM, Affine(10, 0, 0, 0, -10, 0), 100, 100)
    half = Grid(UTM, Affine(10, 0, 1005, 0, -10, -2003), 7, 7)
    # Half a pixel to the left is half a pixel to the right.
    assert tuple(map(abs, grid.shift(half))) == pytest.approx((0.5, 0.3))
    assert grid.shift(grid.window(-3, 8, 4, 4)) == (0, 0)
    assert grid.shift(Grid(UTM, Affine(20, 0, 0, 0, -20, 0), 50, 50)) is None
    assert grid.shift(Grid(CRS.from_epsg(32624), grid.transform, 100, 100)) is None


@given(
    col=st.integers(-500, 500), row=st.integers(-500, 500),
    x=st.floats(-0.49, 0.49), y=st.floats(-0.49, 0.49),
)  # fmt: skip
def test_shift_is_what_a_frame_was_moved_by(col, row, x, y):
    grid = Grid(UTM, Affine(10, 0, 500_000, 0, -10, 6_800_000), 50, 60)
    corner = grid.transform @ (col + x, row + y)
    moved = Grid(UTM, Affine(10, 0, corner[0], 0, -10, corner[1]), 50, 60)
    assert grid.shift(moved) == pytest.approx((x, y), abs=1e-6)
    assert moved.shift(grid) == pytest.approx((-x, -y), abs=1e-6)
