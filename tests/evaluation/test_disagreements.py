"""Regions where map and label differ, with a reason by stated rules."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.evaluation import error_analysis
from glacier_utils.raster.grid import Grid, Image

BANDS = ("red", "green", "blue", "nir")
SNOW, ICE = (0.83, 0.83, 0.81, 0.69), (0.34, 0.36, 0.35, 0.24)
SHADOW, WATER, ROCK = (0.20, 0.24, 0.30, 0.20), (0.11, 0.17, 0.11, 0.03), (0.16, 0.15, 0.12, 0.17)
SIZE = 100
GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 500_000, 0, -10, 6_800_000), SIZE, SIZE)
GLACIER = np.s_[20:80, 10:50]


class World:
    """A glacier of bare ice on rock; ``put`` changes what a region shows, and who calls it ice."""

    def __init__(self) -> None:
        self.pixels = np.empty((SIZE, SIZE, 4), np.float32)
        self.pixels[:] = ROCK
        self.label = np.zeros((SIZE, SIZE), np.uint8)
        self.put(GLACIER, ICE)
        self.label[GLACIER] = 1
        self.map = self.label.copy()
        self.clouds = np.zeros((SIZE, SIZE), np.uint8)

    def put(self, where: tuple, spectrum: tuple, *, mapped: int | None = None) -> World:
        self.pixels[where] = spectrum
        if mapped is not None:
            self.map[where] = mapped
        return self

    def found(self, **kwargs):
        image = Image(np.moveaxis(self.pixels, -1, 0), np.ones((SIZE, SIZE), bool), BANDS, GRID)
        return error_analysis.disagreements(self.map, self.label, image, self.clouds, **kwargs)


CASES = {
    # A strip of 80 m along the outline that shows rock; a patch 220 m wide does not.
    "retreat": (np.s_[72:80, 10:50], ROCK, 0),
    "debris": (np.s_[50:80, 10:32], ROCK, 0),
    "snow": (np.s_[20:32, 10:32], SNOW, 0),
    "ice": (np.s_[20:32, 10:32], ICE, 0),
    "shadow": (np.s_[20:32, 10:32], SHADOW, 0),
    "water": (np.s_[68:80, 10:32], WATER, 0),
    "missing glacier": (np.s_[40:60, 70:90], ICE, 1),
}


@pytest.mark.parametrize(("reason", "case"), CASES.items())
def test_reasons_by_hand(reason, case):
    where, spectrum, mapped = case
    table = World().put(where, spectrum, mapped=mapped).found()
    assert table["reason"].tolist() == [reason]
    assert table["kind"].tolist() == ["false alarm" if mapped else "miss"]


@pytest.mark.parametrize(
    ("where", "spectrum", "reason"),
    [(np.s_[40:60, 50:60], SNOW, "snow"), (np.s_[40:60, 50:60], ROCK, "debris"),
     (np.s_[40:60, 70:90], SHADOW, "shadow"), (np.s_[40:60, 70:90], WATER, "water")],
)  # fmt: skip
def test_false_alarms_by_hand(where, spectrum, reason):
    assert World().put(where, spectrum, mapped=1).found()["reason"].tolist() == [reason]


def test_rock_in_the_middle_of_a_glacier_is_no_retreat():
    assert World().put(np.s_[40:52, 20:32], ROCK, mapped=0).found()["reason"].tolist() == ["debris"]


def test_cloud_goes_before_all_else():
    world = World().put(np.s_[40:60, 70:90], SNOW, mapped=1)
    world.clouds[40:55, 70:90] = 1
    (row,) = world.found().to_dict("records")
    assert row["reason"] == "cloud"
    assert (row["cloud"], row["icy"]) == (0.75, 0.25)


def test_a_region_by_hand():
    world = World().put(np.s_[40:60, 50:70], SNOW, mapped=1).put(np.s_[0:5, 0:5], SNOW, mapped=1)
    truth = world.label.copy()
    truth[40:60, 50:55] = 1
    (row,) = world.found(truth=truth).to_dict("records")
    assert row["km2"] == pytest.approx(0.04)
    # Its rim of 84 pixels has 22 on the glacier's side.
    assert row["touch"] == pytest.approx(22 / 84)
    assert row["half_width_m"] == pytest.approx(100.0)
    assert (row["row"], row["col"]) == (49, 59)
    assert (row["x"], row["y"]) == (500_595.0, 6_799_505.0)
    assert row["map_right"] == 0.25
    # The region of 25 pixels is too small for the list, not for the sum.
    assert world.found().attrs["km2"] == pytest.approx(0.0425)
    assert len(world.found(min_area_km2=0.002)) == 2


def test_sums_by_reason():
    world = (
        World().put(np.s_[40:60, 50:70], SNOW, mapped=1).put(np.s_[72:80, 10:50], ROCK, mapped=0)
    )
    world.put(np.s_[0:10, 80:90], ICE, mapped=1)
    table = error_analysis.by_reason(world.found(truth=world.label)).set_index("reason")
    assert table.index.tolist() == ["retreat", "snow", "missing glacier"]
    assert table["share"].tolist() == pytest.approx([1.0, 0.8, 0.2])
    assert table["map_right"].tolist() == [0.0, 0.0, 0.0]
    assert error_analysis.by_reason(World().found()).empty


@given(st.integers(0, 2**16))
def test_every_region_is_listed_once(seed):
    rng = np.random.default_rng(seed)
    label, mask = (rng.choice([0, 1, 255], (12, 11)).astype(np.uint8) for _ in "ab")
    pixels, valid = rng.random((4, 12, 11), np.float32), np.ones((12, 11), bool)
    image = Image(pixels, valid, BANDS, GRID.window(0, 0, 12, 11))
    table = error_analysis.disagreements(mask, label, image, min_area_km2=0)
    wrong = (mask != label) & (mask != 255) & (label != 255)
    assert table["km2"].sum() == pytest.approx(wrong.sum() * 1e-4)
    assert wrong[table["row"], table["col"]].all()
    np.testing.assert_allclose(table[list(error_analysis.CUES)].sum(axis=1), 1)
    kinds = np.where(mask[table["row"], table["col"]] == 1, "false alarm", "miss")
    assert table["kind"].tolist() == kinds.tolist()


def test_windows_stay_in_the_frame():
    world = World().put(np.s_[0:12, 80:92], SNOW, mapped=1).put(np.s_[40:60, 60:80], SNOW, mapped=1)
    table = world.found()
    arrays = (np.moveaxis(world.pixels, -1, 0), world.label, world.map)
    parts = error_analysis.windows(table, arrays, 40)
    assert [part.shape for part in parts[0]] == [(4, 40, 40), (40, 40), (40, 40)]
    np.testing.assert_array_equal(parts[0][2], world.map[29:69, 49:89])
    np.testing.assert_array_equal(parts[1][1], world.label[0:40, 60:100])
    assert error_analysis.windows(table, arrays, 500)[0][1].shape == (SIZE, SIZE)
