"""The net error of mapped areas: learned by hand, and whether its intervals hold what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from rasterio.crs import CRS
from scipy import stats

from glacier_utils.change import area
from glacier_utils.change.area import AreaError, Map, Scale
from glacier_utils.raster.grid import Grid

GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 5e5, 0, -10, 6.8e6), 32, 64)
DATES = ("2023-07", "2023-08")


@dataclass
class Store:
    """Two validation patches a date, 32 x 32 pixels, and one of the training."""

    labels: np.ndarray
    dates: tuple[str, ...] = DATES
    truth: np.ndarray | None = None

    @property
    def index(self) -> pd.DataFrame:
        rows = [
            {"area": "train", "date": date, "split": split, "row": 0, "col": col, "block": name}
            for date in self.dates
            for split, col, name in (("validation", 0, "a"), ("validation", 32, "b"))
        ]
        return pd.DataFrame([*rows, {**rows[0], "split": "train"}])


def labels(pixels: int, copies: int = 5) -> np.ndarray:
    """Patches whose first pixels are glacier."""
    found = np.zeros((copies, 32 * 32), np.uint8)
    found[:, :pixels] = 1
    return found.reshape(copies, 32, 32)


def scene(*pixels: int) -> Map:
    """A map of two patches side by side whose first pixels are glacier."""
    patches = np.concatenate([labels(number, 1)[0] for number in pixels], axis=1)
    return Map(patches.astype(np.float32), 0.5, GRID)


def test_bias_and_scatter_by_hand():
    found = area.learn([(np.array([1.0, 3.0, 0.0]), np.array([0.2, 0.2, 0.0]))])
    assert found.bias == pytest.approx(0.1)
    (scale,) = found.scales
    # Residuals 0.1 and -0.1: 0.02 / 4 x 2 / 1; the empty piece tells nothing.
    assert scale == Scale(pytest.approx(0.01), pytest.approx(2.5), 4.0, 1)
    # At 2.5 km2 and more errors are independent by pieces: 0.01 x 4 x (1 + 4 / 4).
    t = stats.t.ppf(0.975, 1)
    assert found.reach(4.0) == pytest.approx(t * math.sqrt(0.08))
    # Below, the relative scatter stays that of 2.5 km2, and the mean is no better known.
    assert found.reach(1.0) == pytest.approx(t * math.sqrt(0.01 * (1 / 2.5 + 1 / 4)))


def test_the_widest_cutting_counts():
    one = Scale(0.01, 1.0, 10.0, 100)
    both = AreaError(0.0, (one, Scale(0.04, 1.0, 10.0, 100)))
    assert both.reach(2.0) == pytest.approx(2 * AreaError(0.0, (one,)).reach(2.0))


@pytest.mark.parametrize(
    "pieces",
    [
        [(np.zeros(3), np.zeros(3))],
        [(np.zeros(3), np.ones(3))],
        [(np.array([1.0, 0.0]), np.zeros(2))],
        [],
    ],
)
def test_too_little_to_learn_from(pieces):
    assert area.learn(pieces) is None


def test_intervals_are_stretched_to_the_side_of_the_bias():
    error = AreaError(-0.2, (Scale(0.0, 1.0, 1.0, 9),))
    found = area.interval(10.0, 0.5, error)
    assert (found["low"], found["high"]) == pytest.approx((7.5, 10.5))
    assert (found["bias_km2"], found["reach_km2"]) == pytest.approx((-2.0, 0.5))
    missed = area.interval(0.0, 0.1, error, size_km2=2.0)
    assert (missed["low"], missed["high"]) == pytest.approx((0.0, 0.1))
    bound = area.interval(10.0, 0.5, error, ground_km2=10.2)
    assert (bound["low"], bound["high"]) == pytest.approx((7.5, 10.2))
    alone = area.interval(10.0, 0.5, None)
    assert (alone["low"], alone["high"]) == (9.5, 10.5)
    assert math.isnan(alone["bias_km2"])


def test_intervals_hold_the_area_as_often_as_they_say():
    # Pieces that err together within and independently between; a new place of eight pieces.
    random = np.random.default_rng(0)
    held = []
    for _ in range(600):
        mapped = random.uniform(0.5, 1.5, 20)
        error = -0.1 * mapped + random.normal(0, 0.15, 20) * np.sqrt(mapped)
        learned = area.learn([(mapped, error)])
        size = 8.0
        true = size * 0.9 + random.normal(0, 0.15) * math.sqrt(size)
        reach = learned.reach(size)
        held.append(abs(size * (1 + learned.bias) - true) <= reach)
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


def test_net_errors_of_validation_patches():
    maps = {
        ("net", "train", DATES[0]): scene(320, 320),
        ("net", "train", DATES[1]): scene(320, 256),
    }
    found = area.from_validation(maps, Store(labels(352)))
    assert set(found) == {("net", a, b) for a in DATES for b in DATES if a <= b}
    # 352 pixels of label each; 640 and 576 mapped.
    assert found["net", DATES[0], DATES[0]].bias == pytest.approx(64 / 640)
    assert found["net", DATES[1], DATES[1]].bias == pytest.approx(128 / 576)
    # Of the difference: 64 pixels of change that should not be, of 608 on average.
    assert found["net", *DATES].bias == pytest.approx(64 / 608)
    # Of cells alone: two patches, or blocks of one patch, tell nothing of their scatter.
    assert [s.freedom for s in found["net", *DATES].scales] == [15]


def test_the_reference_drops_out_of_a_difference():
    maps = {
        ("net", "train", date): scene(320, n) for date, n in zip(DATES, (320, 256), strict=True)
    }
    one, other = (area.from_validation(maps, Store(labels(n))) for n in (352, 900))
    assert one["net", *DATES] == other["net", *DATES]
    assert one["net", DATES[0], DATES[0]] != other["net", DATES[0], DATES[0]]


def test_dates_years_apart_may_differ_by_real_change():
    dates = ("2001-08", "2023-08")
    maps = {("net", "train", date): scene(320, 256) for date in dates}
    found = area.from_validation(maps, Store(labels(352), dates))
    assert set(found) == {("net", date, date) for date in dates}


def test_unknown_pixels_teach_nothing():
    maps = {("net", "train", DATES[0]): scene(320, 320)}
    blank = labels(352)
    blank[:, 5:] = 255
    found = area.from_validation(maps, Store(blank, DATES[:1]))
    assert found["net", DATES[0], DATES[0]].bias == 0


def test_no_validation_no_error():
    maps = {("net", "test", DATES[0]): scene(320, 320)}
    assert area.from_validation(maps, Store(labels(352))) == {}


def test_the_spread_of_seeds_by_hand():
    maps = {
        (name, "train", date): scene(number, 0)
        for name, numbers in {"a": (300, 200), "b": (340, 220), "c": (320, 210)}.items()
        for date, number in zip(DATES, numbers, strict=True)
    }
    found = area.from_seeds(maps, {"a": ["a", "b", "c"], "b": ["b"]})
    assert {model for model, _, _ in found} == {"a"}
    error = found["a", DATES[0], DATES[0]]
    assert error.bias == 0
    # The sample variance of 0.030, 0.034, 0.032 km2, and a third of it for the mean.
    assert error.reach(0.032) == pytest.approx(
        stats.t.ppf(0.975, 2) * math.sqrt(0.002**2 * (1 + 1 / 3))
    )
    merged = area.widest({("a", DATES[0], DATES[0]): AreaError(-0.3, ())}, found)
    assert merged["a", DATES[0], DATES[0]] == AreaError(-0.3, error.scales)
    assert merged["a", *DATES] == found["a", *DATES]


@pytest.mark.parametrize(
    ("dates", "close"),
    [
        (("2023-07", "2023-08"), True),
        (("2020-08-16", "2020-09-09"), True),
        (("2001-08", "2023-08"), False),
        (("before", "after"), False),
    ],
)
def test_within_a_year(dates, close):
    assert area.within_a_year(dates) == close
