"""Areas glacier by glacier on several dates, and their sums."""

from __future__ import annotations

import math

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from glacier_utils.change import series
from glacier_utils.change.area import AreaError, Map, Scale
from glacier_utils.evaluation.per_glacier import burn_glaciers, partition
from glacier_utils.raster.grid import Grid

GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 5e5, 0, -10, 6.8e6), 60, 200)
DATES = ("2023-07", "2023-08", "2023-09")
PIXEL = 1e-4


def box(top, left, height, width):
    x, y = 5e5 + 10 * left, 6.8e6 - 10 * top
    return shapely.box(x, y - 10 * height, x + 10 * width, y)


@pytest.fixture
def parts():
    """Two glaciers of 20 x 20 and 10 x 10 pixels, 1 km apart."""
    outlines = gpd.GeoDataFrame(
        {
            "glacier_id": ["big", "small"], "kind": "glacier", "name": ["Sermeq", ""],
            "uncertainty_m": 15.0, "source_date": pd.Timestamp("2001-08-01"),
        },
        geometry=[box(20, 20, 20, 20), box(20, 140, 10, 10)], crs=GRID.crs,
    )  # fmt: skip
    label = np.zeros(GRID.shape, np.uint8)
    label[20:40, 20:40] = label[20:30, 140:150] = 1
    return {"test": partition(label, GRID, burn_glaciers(outlines, GRID))}, {"test": label}


def scene(big: int, small: int, *, far: bool = False, unknown: int = 0) -> Map:
    """A map of the two with so many rows; ``far`` maps a pixel that is no glacier's."""
    probability = np.zeros(GRID.shape, np.float32)
    probability[20 : 20 + big, 20:40] = probability[20 : 20 + small, 140:150] = 1
    probability[0, 199] = far
    probability[20 : 20 + unknown, 20:40] = np.nan
    return Map(probability, 0.5, GRID)


def test_areas_and_changes_of_three_dates_by_hand(parts):
    maps = {
        ("net", "test", date): found
        for date, found in zip(
            DATES, (scene(20, 10), scene(20, 10, far=True), scene(10, 0)), strict=True
        )
    }
    table = series.glacier_table(maps, *parts)
    table = table.set_index(["date", "glacier_id"])
    assert len(table) == 6
    assert table["area_km2"].tolist() == pytest.approx(
        [400 * PIXEL, 100 * PIXEL] * 2 + [200 * PIXEL, 0]
    )
    assert table["reference_km2"].tolist() == pytest.approx([400 * PIXEL, 100 * PIXEL] * 3)
    first, last = (table.loc[(date, "big")] for date in (DATES[0], DATES[2]))
    # The outline moved by a pixel: 80 outwards and 76 inwards.
    assert first["high"] - first["area_km2"] == pytest.approx(78 * PIXEL)
    assert (first["change_low"], first["change_high"]) == (0, 0)
    error = math.hypot(78, (60 + 56) / 2) * PIXEL
    assert last["change_low"] == pytest.approx(-200 * PIXEL - error)
    assert table["changed"].tolist() == [False] * 4 + [True, True]
    assert table.loc[(DATES[0], "big"), "name"] == "Sermeq"
    assert not table["cut"].any()
    assert table["listed"].all()


def test_a_missed_glacier_has_an_interval_too(parts):
    error = AreaError(0.1, (Scale(4e-6, 1.0, math.inf, 10**6),))
    errors = {("net", DATES[0], DATES[0]): error}
    table = series.glacier_table({("net", "test", DATES[0]): scene(20, 0)}, *parts, errors)
    missed = table.set_index("glacier_id").loc["small"]
    assert missed["area_km2"] == missed["low"] == 0
    # Of 0.01 km2: a bias of 10 %, and a scatter of 2e-5 km2 (1 km2: of 2e-3).
    assert missed["high"] == pytest.approx(0.001 + 1.95997 * 2e-5, rel=1e-3)


def test_unknown_pixels_are_given_apart_and_as_a_bound(parts):
    table = series.glacier_table({("net", "test", DATES[0]): scene(20, 10, unknown=5)}, *parts)
    big = table.set_index("glacier_id").loc["big"]
    assert big["unknown_km2"] == pytest.approx(100 * PIXEL)
    assert big["area_km2"] == pytest.approx(300 * PIXEL)
    assert big["high_if_unknown"] == pytest.approx(big["high"] + 100 * PIXEL)


def test_sums_of_errors_alike_and_independent():
    glaciers = pd.DataFrame(
        {
            "model": "net", "area": "test", "date": "2023-08", "glacier_id": list("abc"),
            "zone_km2": [2.0, 4.0, 2.5],
            "reference_km2": [1.0, 2.0, 3.0], "area_km2": [1.0, 2.0, 4.0],
            "bias_km2": [-0.1, -0.2, -0.4], "reach_km2": [0.3, 0.4, 1.2],
            "change_km2": [0.0, -0.5, -0.5], "change_bias_km2": [0.1, 0.0, 0.1],
            "change_reach_km2": [0.3, 0.4, 1.2], "changed": [False, True, False],
        }
    )  # fmt: skip
    row = series.sum_table(glaciers).iloc[0]
    assert (row["glaciers"], row["changed"], row["area_km2"]) == (3, 1, 7)
    # 0.3 + 0.4 + 1.2, and 0.09 + 0.16 + 1.44 = 1.3 squared.
    assert row["low_correlated"] == pytest.approx(7 - 0.7 - 1.9)
    assert row["high_correlated"] == 8.5  # all the ground there is
    assert row["low_uncorrelated"] == pytest.approx(7 - 0.7 - 1.3)
    assert row["high_uncorrelated"] == pytest.approx(7 + 1.3)
    assert row["change_low_correlated"] == pytest.approx(-1 - 1.9)
    assert row["change_high_uncorrelated"] == pytest.approx(-1 + 0.2 + 1.3)


def test_without_outlines_glaciers_are_regions(parts):
    class Data:
        def source(self, area, date):
            return type("Source", (), {"grid": GRID})

        def outlines(self, area, date):
            return None

    found = series.partitions(Data(), ["test"], DATES[0], parts[1])["test"]
    assert found.table["glacier_id"].tolist() == ["unlisted-1", "unlisted-2"]
