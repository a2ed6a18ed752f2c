"""Snow cover and snow lines of single dates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from glacier_utils.change import series
from glacier_utils.raster.grid import Grid, Image

GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 5e5, 0, -10, 6.8e6), 20, 20)
BANDS = ("red", "green", "blue", "nir")
SNOW, ICE = (0.83, 0.83, 0.81, 0.69), (0.34, 0.36, 0.35, 0.24)
ROCK, SHADE = (0.16, 0.15, 0.12, 0.17), (0.33, 0.41, 0.47, 0.23)
HEIGHT = np.repeat(np.arange(20.0)[::-1, None] * 100, 20, axis=1)  # the first row is 1900 m


def image_of(**where) -> Image:
    reflectance = np.empty((4, 20, 20), np.float32)
    reflectance[:] = np.reshape(ROCK, (4, 1, 1))
    for name, part in where.items():
        colours = {"snow": SNOW, "ice": ICE, "shade": SHADE}
        reflectance[(slice(None), *part)] = np.reshape(colours[name], (4, 1, 1))
    return Image(reflectance, np.ones((20, 20), bool), BANDS, GRID)


def box(top, left, side):
    mask = np.zeros((20, 20), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_snow_fraction():
    ice = np.s_[2:12, 2:12], np.s_[2:7, 2:7], np.s_[2:7, 7:12]
    image = image_of(ice=ice[0], snow=ice[1], shade=ice[2])
    assert series.snow_fraction(image, box(2, 2, 10)) == pytest.approx(25 / 75)
    assert series.snow_fraction(image) == pytest.approx(25 / 375)
    assert math.isnan(series.snow_fraction(image, np.zeros((20, 20), bool)))


def test_the_snow_line_lies_between_two_altitudes():
    image = image_of(snow=np.s_[:8, :])
    assert series.snow_line(image, HEIGHT) == pytest.approx(1150)  # 1200 m snow, 1100 m rock
    # A few exceptions do not move it.
    speckled = image_of(snow=np.s_[:8, :], ice=np.s_[3:5, 3:6], shade=np.s_[10:12, :])
    assert series.snow_line(speckled, HEIGHT) == pytest.approx(1150)
    half = HEIGHT.copy()
    half[:, :10] = np.nan
    assert series.snow_line(image, half) == pytest.approx(1150)


@pytest.mark.parametrize("part", [np.s_[:, :], np.s_[0:0, :], np.s_[15:, :]])
def test_no_snow_line_where_nothing_is_parted(part):
    # All snow, none, and snow below.
    assert math.isnan(series.snow_line(image_of(snow=part), HEIGHT))


def test_equal_altitudes_are_not_parted():
    flat = np.where(HEIGHT >= 1000, 1000.0, 500.0)
    # Rows 0 to 9 are the upper level, of which two thirds are snow.
    assert series.snow_line(image_of(snow=np.s_[:7, :]), flat) == pytest.approx(750)
    assert math.isnan(series.snow_line(image_of(snow=np.s_[:3, :]), np.full((20, 20), 7.0)))


def test_the_table_parts_inside_from_outside():
    label = box(0, 0, 10).astype(np.uint8)
    label[:, 15:] = 255
    views = {
        ("test", "2023-07"): image_of(snow=np.s_[:5, :]),
        ("test", "2023-08"): image_of(snow=np.s_[:1, :10]),
    }
    table = series.snow_table(views, {"test": label}, {"test": HEIGHT})
    assert table["where"].tolist() == ["inside outlines", "outside"] * 2
    assert table["snow_fraction"].tolist() == pytest.approx([0.5, 25 / 200, 0.1, 0])
    assert table["assessed_km2"].tolist() == pytest.approx([0.01, 0.02] * 2)
    assert table["snow_km2"].tolist() == pytest.approx([0.005, 0.0025, 0.001, 0])
    assert table["snow_line_m"].tolist()[:3] == pytest.approx([1450, 1450, 1850])
    assert series.snow_table(views, {"test": label})["snow_line_m"].isna().all()
