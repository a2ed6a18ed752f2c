"""Outlines: their distances both ways, and the boundary F1."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glacier_utils import metrics


def square(size, top, left, side):
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_the_outline_is_the_rim():
    mask = square(9, 2, 2, 4)
    rim = metrics.outline(mask)
    assert rim.sum() == 12
    assert not rim[3:5, 3:5].any()
    # Towards unknown there is none, nor at the frame.
    mask[:, 6:] = 255
    assert not metrics.outline(mask)[3:5, 5].any()
    assert not metrics.outline(np.ones((4, 4), np.uint8)).any()


def test_a_shift_is_measured_in_metres():
    label = square(60, 20, 20, 20)
    same = {"mean_m": 0, "median_m": 0, "p95_m": 0, "f1_10m": 1, "f1_20m": 1, "f1_30m": 1}
    assert metrics.boundary_distance(label, label, 10.0) == same
    # One pixel larger all around: one pixel between the rims, sqrt(2) at the corners.
    found = metrics.boundary_distance(square(60, 19, 19, 22), label, 10.0)
    assert found["median_m"] == 10.0
    assert found["p95_m"] == 10.0
    found = metrics.boundary_distance(square(60, 17, 17, 26), label, 10.0)
    assert found["median_m"] == 30.0
    there, back = metrics.rim_distances(square(60, 17, 17, 26), label, 10.0)
    assert np.nanmax(there) == pytest.approx(30 * math.sqrt(2))
    assert np.nanmax(back) == 30.0
    assert (~np.isnan(there)).sum() == 100
    assert (~np.isnan(back)).sum() == 76


def test_boundary_f1_by_hand():
    label, prediction = square(12, 4, 4, 4), square(12, 3, 3, 6)
    # 20 predicted rim pixels: 16 beside one of the reference's, 4 corners sqrt(2) pixels from one.
    # 12 of the reference, all beside a predicted one.
    there, back = metrics.rim_distances(prediction, label, 10.0)
    at_10 = metrics.boundary_f1(there, back, 10.0)
    assert at_10 == pytest.approx({"precision": 0.8, "recall": 1.0, "f1": 1.6 / 1.8})
    assert metrics.boundary_f1(there, back, 9.0)["f1"] == 0.0
    assert metrics.boundary_f1(there, back, 15.0)["f1"] == 1.0
    found = metrics.boundary_distance(prediction, label, 10.0)
    assert found["mean_m"] == pytest.approx((28 * 10 + 4 * 10 * math.sqrt(2)) / 32)
    assert found["f1_10m"] == pytest.approx(1.6 / 1.8)
    # The way back swaps precision and recall.
    back_again = metrics.boundary_f1(*metrics.rim_distances(label, prediction, 10.0), 10.0)
    assert (back_again["precision"], back_again["recall"]) == (1.0, pytest.approx(0.8))


masks = st.integers(0, 2**16).map(
    lambda seed: np.random.default_rng(seed).choice([0, 1, 255], (9, 8), p=[0.5, 0.4, 0.1])
)


@given(masks, masks, st.sampled_from([3.0, 10.0, 30.0]))
def test_distances_are_those_of_all_pairs(prediction, label, resolution):
    prediction, label = prediction.astype(np.uint8), label.astype(np.uint8)
    there, back = metrics.rim_distances(prediction, label, resolution)
    known = (prediction != 255) & (label != 255)
    rims = [np.argwhere(metrics.outline(np.where(known, m, 255))) for m in (prediction, label)]
    for rim, other, found in ((*rims, there), (*rims[::-1], back)):
        assert (~np.isnan(found)).sum() == len(rim)
        for row, col in rim:
            nearest = min((math.dist((row, col), to) for to in other), default=math.inf)
            assert found[row, col] == pytest.approx(nearest * resolution)


def test_distances_go_both_ways():
    # A glacier that the map misses far away shows only on the way from the reference.
    label = square(60, 5, 5, 10) | square(60, 40, 40, 10)
    prediction = square(60, 5, 5, 10)
    assert metrics.boundary_distance(prediction, label, 10.0)["p95_m"] > 300


def test_no_outline_no_distance():
    empty, label = np.zeros((20, 20), np.uint8), square(20, 5, 5, 5)
    assert math.isnan(metrics.boundary_distance(empty, label, 10.0)["median_m"])
    found = metrics.boundary_distance(label, empty, 10.0)
    assert math.isnan(found["mean_m"])
    assert math.isnan(found["p95_m"])
    # One map alone has an outline: nothing of it is met. Neither has: there is nothing to score.
    assert found["f1_30m"] == 0.0
    assert math.isnan(metrics.boundary_distance(empty, empty, 10.0)["f1_30m"])
    one_sided = metrics.boundary_f1(*metrics.rim_distances(empty, label, 10.0), 30.0)
    assert math.isnan(one_sided["precision"])
    assert one_sided["recall"] == one_sided["f1"] == 0.0


def test_what_is_unknown_has_no_outline():
    label = square(40, 10, 10, 15)
    prediction = label.astype(float)
    label[:, 18:] = 255
    prediction[:12] = np.nan
    found = metrics.boundary_distance(prediction, label, 10.0)
    assert (found["mean_m"], found["p95_m"], found["f1_10m"]) == (0.0, 0.0, 1.0)
