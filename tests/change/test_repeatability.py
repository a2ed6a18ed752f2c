"""Agreement of a method with itself on ground that did not change."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from rasterio.crs import CRS

from glacier_utils.change import series
from glacier_utils.change.area import Map
from glacier_utils.raster.grid import Grid, Image

GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 5e5, 0, -10, 6.8e6), 40, 40)
BANDS = ("red", "green", "blue", "nir")
DATES = ("2023-07", "2023-08", "2023-09")


def mapped(*rows: int) -> Map:
    probability = np.zeros((40, 40), np.float32)
    probability[list(rows)] = 1
    return Map(probability, 0.5, GRID)


def view(snow_rows) -> Image:
    reflectance = np.full((4, 40, 40), 0.15, np.float32)
    reflectance[:, snow_rows] = 0.8
    return Image(reflectance, np.ones((40, 40), bool), BANDS, GRID)


@pytest.fixture
def label():
    found = np.zeros((40, 40), np.uint8)
    found[:10], found[35:] = 1, 255
    return found


def test_grounds(label):
    views = {("test", DATES[0]): view(slice(8, 14)), ("test", DATES[1]): view(slice(0, 0))}
    clouds = {("test", DATES[1]): np.zeros((40, 40), np.uint8)}
    clouds["test", DATES[1]][20], clouds["test", DATES[1]][21] = 1, 2
    truth = np.zeros((40, 40), np.uint8)
    truth[:8], truth[39] = 1, 255
    found = series.grounds(views, {"test": label}, clouds, {"test": truth})["test"]
    rows = {name: np.flatnonzero(mask.all(axis=1)).tolist() for name, mask in found.items()}
    assert rows == {
        "stable terrain": [*range(14, 20), *range(21, 35)],
        "inside outlines": list(range(10)),
        "true ground": list(range(8, 39)),
        "true ice": list(range(8)),
    }
    assert set(series.grounds(views, {"test": label})["test"]) == {
        "stable terrain",
        "inside outlines",
    }


def test_false_change_by_hand(label):
    maps = {
        ("net", "test", DATES[0]): mapped(*range(10), 20, 21),
        ("net", "test", DATES[1]): mapped(*range(8), 20, 22, 23),
        ("net", "test", DATES[2]): mapped(*range(8), 20, 22, 23),
    }
    ground = {"test": {"stable": label == 0, "inside": label == 1}}
    table = series.steadiness(maps, ground)
    assert table[["before", "after"]].drop_duplicates().to_numpy().tolist() == [
        list(DATES[:2]),
        list(DATES[1:]),
    ]
    first = table.iloc[:2].set_index("ground")
    assert first["changed"].to_dict() == pytest.approx({"stable": 3 / 25, "inside": 2 / 10})
    assert first["same"].to_dict() == pytest.approx({"stable": 22 / 25, "inside": 8 / 10})
    assert first.loc["stable", ["known_km2", "lost_km2", "gained_km2", "net_km2"]].tolist() == (
        pytest.approx([0.1, 0.004, 0.008, 0.004])
    )
    assert first.eval("same_low <= same and same <= same_high").all()
    last = table.iloc[2:]
    assert (last["changed"] == 0).all()
    assert (last["same_low"] == 1).all()


def test_ground_that_is_nowhere_known(label):
    maps = {("net", "test", date): mapped(0) for date in DATES[:2]}
    table = series.steadiness(maps, {"test": {"none": np.zeros((40, 40), bool)}})
    assert table["changed"].isna().all()
    assert isinstance(table, pd.DataFrame)


def test_truth_that_differs_is_left_out():
    class Mask:
        def __init__(self, value):
            self.value = value

        def read(self):
            return np.array([[0, 1, self.value]], np.uint8)

    class Data:
        def truth(self, area, date):
            return None if area == "real" else Mask(int(date == DATES[0]))

    found = series.unchanged_truth(Data(), ["sample", "real"], DATES[:2])
    assert list(found) == ["sample"]
    assert found["sample"].tolist() == [[0, 1, 255]]
