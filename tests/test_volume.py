"""Volume from area: the formula, and how uncertainties of one glacier and of many add up."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glacier_utils import volume


def test_the_formula_by_hand():
    # 1 km2: c. 16 km2: 0.034 x 2^(4 x 1.375) = 0.034 x 45.2548.
    assert volume.volume_km3(1.0) == pytest.approx(0.034)
    assert volume.volume_km3(16.0) == pytest.approx(1.538664)
    assert volume.volume_km3(0.0) == 0


def test_one_glacier_lies_within_the_factor():
    one = np.ones(1)
    value, low, high = volume.with_interval(one, one, one, common=1.0)
    assert (value, low, high) == pytest.approx((0.034, 0.017, 0.068))
    _, low, high = volume.with_interval(one, one, one)
    # ln 2 and ln 1.3 in quadrature: a factor of 2.0977.
    factor = math.exp(math.hypot(math.log(2), math.log(1.3)))
    assert (low, high) == pytest.approx((0.034 / factor, 0.034 * factor))


def test_the_scatter_of_many_averages_out_and_the_common_part_does_not():
    many = np.ones(10_000)
    value, low, high = volume.with_interval(many, many, many)
    assert value == pytest.approx(340)
    assert high / value == pytest.approx(1.3, rel=1e-3)
    assert value / low == pytest.approx(1.3, rel=1e-3)


def test_the_areas_limits_go_through_the_formula():
    areas = np.array([1.0, 2.0])
    value, low, high = volume.with_interval(areas, areas / 2, areas * 2, scatter=1.0, common=1.0)
    assert (low, high) == pytest.approx((value / 2**1.375, value * 2**1.375))


def test_an_area_that_may_be_nothing_holds_no_ice_at_least():
    assert volume.with_interval(np.ones(1), np.zeros(1), np.ones(1))[1] == 0
    assert volume.with_interval(np.zeros(1), np.zeros(1), np.zeros(1)) == (0, 0, 0)


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=20), st.integers(0, 2**16))
def test_the_interval_of_a_sum_is_that_of_simulated_glaciers(areas, seed):
    areas = np.array(areas)
    value, low, high = volume.with_interval(areas, areas, areas, common=1.0)
    assert low < value < high
    single = volume.with_interval(areas[:1], areas[:1], areas[:1], common=1.0)
    assert high / value <= single[2] / single[0] + 1e-9


def test_simulated_sums_lie_within_as_often_as_stated():
    random = np.random.default_rng(0)
    areas = np.array([0.2, 0.5, 1.0, 3.0, 4.0])
    _, low, high = volume.with_interval(areas, areas, areas, common=1.0)
    spread = math.log(2) / 1.959964
    # The mean of the drawn volumes is that of the formula.
    factors = np.exp(random.normal(-(spread**2) / 2, spread, (20_000, 5)))
    sums = (volume.volume_km3(areas) * factors).sum(axis=1)
    assert np.mean((low <= sums) & (sums <= high)) == pytest.approx(0.95, abs=0.02)


def test_the_table_says_that_it_is_an_estimate():
    glaciers = pd.DataFrame(
        {
            "model": "net", "area": "test", "date": "2023-08",
            "glacier_id": ["G1", "G2", "G3"], "area_km2": [1.0, 16.0, 0.0],
            "low": [1.0, 16.0, 0.0], "high": [1.0, 16.0, 0.1], "cut": [True, False, False],
        }
    )  # fmt: skip
    table = volume.volume_table(glaciers)
    assert table["glacier_id"].tolist() == ["G1", "G2", "all"]
    assert table["volume_km3"].tolist() == pytest.approx([0.034, 1.538664, 1.572664])
    assert table["cut"].tolist() == [1, 0, 1]
    assert table["basis"].str.contains("estimate").all()
    assert table.eval("volume_low < volume_km3 and volume_km3 < volume_high").all()
    # Relative to its size, a sum is known better than its parts.
    factor = table["volume_high"] / table["volume_km3"]
    assert factor.iloc[-1] < factor.iloc[:-1].min()
    assert volume.volume_table(glaciers.iloc[:0]).empty
