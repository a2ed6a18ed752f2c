"""Calibration: hand-computed cases, and what must hold for any probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from glacier_utils.evaluation import calibration


def counted(*bins, number=1000):
    """Histograms with (middle of a bin, glacier pixels, background pixels) each."""
    glacier, background = np.zeros((2, number), np.int64)
    for p, one, other in bins:
        glacier[int(p * number)] += one
        background[int(p * number)] += other
    return glacier, background


def random_pixels(seed, number=4000, sharp=1.0):
    """Labels drawn with a probability, and that probability with its logit times ``sharp``."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(-0.5, 2, number)
    label = (generator.random(number) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
    return (1 / (1 + np.exp(-sharp * logit))).astype(np.float32), label


# --- reliability and scores


def test_reliability_by_hand():
    histograms = counted((0.1005, 1, 9), (0.1505, 3, 7), (0.9005, 8, 2))
    table = calibration.reliability(*histograms, bins=10)
    assert table["pixels"].tolist() == [20, 10]
    assert table["probability"].tolist() == pytest.approx([0.1255, 0.9005])
    assert table["share"].tolist() == pytest.approx([0.2, 0.8])
    assert table[["low", "high"]].to_numpy().tolist() == [[0.1, 0.2], [0.9, 1.0]]
    equal = calibration.reliability(*histograms, bins=3, equal_count=True)
    assert equal["pixels"].tolist() == [10, 10, 10]
    assert equal["share"].tolist() == pytest.approx([0.1, 0.3, 0.8])


def test_scores_by_hand():
    found = calibration.calibration_scores(*counted((0.1005, 1, 9), (0.9005, 8, 2)))
    assert found["ece"] == pytest.approx((0.0005 + 0.1005) / 2)
    assert found["mce"] == pytest.approx(0.1005)
    brier = (1 * 0.8995**2 + 9 * 0.1005**2 + 8 * 0.0995**2 + 2 * 0.9005**2) / 20
    assert found["brier"] == pytest.approx(brier)
    assert found["reliability"] == pytest.approx((0.0005**2 + 0.1005**2) / 2)
    assert found["resolution"] == pytest.approx(0.35**2)
    assert found["uncertainty"] == pytest.approx(0.45 * 0.55)
    losses = [math.log(0.1005), 9 * math.log(0.8995), 8 * math.log(0.9005), 2 * math.log(0.0995)]
    assert found["nll"] == pytest.approx(-sum(losses) / 20)
    assert found["pixels"] == 20


def test_nothing_is_known_without_a_pixel():
    empty = counted()
    found = calibration.calibration_scores(*empty)
    assert found.pop("pixels") == 0
    assert np.isnan(list(found.values())).all()
    assert calibration.reliability(*empty).empty
    assert calibration.fit_temperature(*empty) == 1


@settings(max_examples=30)
@given(st.integers(0, 2**16), st.sampled_from([0.3, 1.0, 3.0]))
def test_scores_are_near_those_of_all_pixels(seed, sharp):
    probability, label = random_pixels(seed, 500, sharp)
    unknown = np.random.default_rng(seed).random(500) < 0.2
    shown = np.where(unknown, 255, label).astype(np.uint8)
    found = calibration.calibration_scores(*calibration.histogram(probability, shown))
    probability, label = probability[~unknown], label[~unknown]
    assert found["pixels"] == len(label)
    assert found["brier"] == pytest.approx(np.mean((probability - label) ** 2), abs=1e-3)
    assert found["nll"] == pytest.approx(
        reference.log_loss(label, np.clip(probability, 5e-4, 1 - 5e-4)), abs=1e-2
    )
    share, mean = calibration_curve(label, probability, n_bins=10)
    table = calibration.reliability(*calibration.histogram(probability, label), bins=10)
    # Pixels on the border of a class fall to either side in the two.
    assert len(table) == len(share)
    np.testing.assert_allclose(table["probability"], mean, atol=0.02)
    np.testing.assert_allclose(table["share"], share, atol=0.1)


def test_what_is_calibrated_has_no_calibration_error():
    right = calibration.calibration_scores(*calibration.histogram(*random_pixels(1, 200_000)))
    sharp = calibration.calibration_scores(
        *calibration.histogram(*random_pixels(1, 200_000, sharp=3))
    )
    assert right["ece"] < 0.005
    assert sharp["ece"] > 0.05
    assert right["brier"] < sharp["brier"]


# --- temperature


@pytest.mark.parametrize("sharp", [0.5, 1.0, 2.5])
def test_temperature_undoes_what_made_a_model_too_sure(sharp):
    probability, label = random_pixels(2, 100_000, sharp)
    found = calibration.fit_temperature(*calibration.histogram(probability, label))
    assert found == pytest.approx(sharp, rel=0.05)
    table, histograms = calibration.before_and_after(probability, label, found)
    assert table["stage"].tolist() == ["before", "after"] == list(histograms)
    assert table["nll"].iloc[1] <= table["nll"].iloc[0] + 1e-6
    assert table["ece"].iloc[1] < 0.01


def test_temperature_of_one_class_is_one():
    assert calibration.fit_temperature(*counted((0.3, 5, 0))) == 1
    # All right and all wrong: as far as the search goes, and finite.
    right = calibration.fit_temperature(*counted((0.3005, 0, 5), (0.7005, 5, 0)))
    wrong = calibration.fit_temperature(*counted((0.3005, 5, 0), (0.7005, 0, 5)))
    assert right == pytest.approx(calibration.TEMPERATURES[0], rel=0.01)
    assert wrong == pytest.approx(calibration.TEMPERATURES[1], rel=0.01)


@settings(max_examples=40)
@given(st.floats(0.05, 20), st.floats(0.05, 0.95), st.integers(0, 2**16))
def test_the_map_stays_the_same_if_its_threshold_is_taken_along(temperature, threshold, seed):
    probability = np.random.default_rng(seed).random(50).astype(np.float32)
    far = np.abs(probability - threshold) > 1e-4  # but for rounding
    found = calibration.apply_temperature(probability, temperature)
    moved = calibration.apply_temperature(np.array([threshold]), temperature)[0]
    same = (found >= moved) == (probability >= threshold)
    # Where the temperature is low, both may round to 0 or 1.
    assert same[far & (found > 1e-5) & (found < 1 - 1e-5)].all()


def test_apply_temperature_by_hand():
    found = calibration.apply_temperature(np.array([0.0, 0.5, 0.9, 1.0, np.nan]), 2.0)
    assert found.dtype == np.float32
    assert found[1] == 0.5
    assert found[2] == pytest.approx(0.75)  # logit log 9, halved: log 3
    assert 0 < found[0] < 0.01
    assert 0.99 < found[3] < 1
    assert math.isnan(found[4])


def test_uncertainty_in_bit():
    found = calibration.uncertainty(np.array([0.0, 0.5, 0.11, 1.0, np.nan], np.float32))
    assert found[:4] == pytest.approx([0, 1, 0.4999, 0], abs=1e-3)
    assert math.isnan(found[4])
