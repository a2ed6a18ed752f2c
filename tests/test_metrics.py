"""Counts, scores and curves; distances of outlines; mapped areas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn import metrics as reference

from glacier_utils import metrics
from glacier_utils.metrics import Counts

NAMES = [
    "iou", "f1", "precision", "recall", "specificity", "accuracy", "balanced_accuracy", "mcc",
    "kappa",
]  # fmt: skip
NAN = math.nan
PIXEL = 1e-4  # km2 of a pixel of 10 m
HAND = {
    # tp, fp, fn, tn: the scores in the order of NAMES
    (6, 2, 4, 8): (6 / 12, 12 / 18, 6 / 8, 6 / 10, 8 / 10, 14 / 20, 0.7,
                   (48 - 8) / math.sqrt(8 * 10 * 10 * 12), (0.7 - 0.5) / (1 - 0.5)),
    (1, 1, 1, 1): (1 / 3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0),
    (0, 2, 3, 0): (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -12 / 13),
    (0, 0, 0, 5): (NAN, NAN, NAN, NAN, 1.0, 1.0, NAN, NAN, NAN),
    (0, 3, 0, 5): (0.0, 0.0, 0.0, NAN, 5 / 8, 5 / 8, NAN, NAN, 0.0),
    (0, 0, 3, 5): (0.0, 0.0, NAN, 0.0, 1.0, 5 / 8, 0.5, NAN, 0.0),
    (4, 0, 0, 0): (1.0, 1.0, 1.0, 1.0, NAN, 1.0, NAN, NAN, NAN),
    (0, 0, 0, 0): (NAN,) * 9,
}  # fmt: skip


@pytest.mark.parametrize(("numbers", "scores"), HAND.items())
def test_scores_by_hand(numbers, scores):
    counts = Counts(*numbers)
    assert metrics.score_table(counts) == pytest.approx(
        dict(zip(NAMES, scores, strict=True)), nan_ok=True
    )
    assert [counts.score(name) for name in NAMES] == pytest.approx(list(scores), nan_ok=True)


def test_unknown_is_left_out_on_either_side():
    label = np.array([[1, 1, 0, 0, 255, 255, 1, 0]], np.uint8)
    prediction = np.array([[1, 0, 1, 0, 1, 0, np.nan, np.nan]])
    assert metrics.count(prediction, label) == Counts(1, 1, 1, 1)
    prediction = np.array([[1, 0, 1, 0, 1, 0, 255, 255]], np.uint8)
    assert metrics.count(prediction, label) == Counts(1, 1, 1, 1)
    # A mask of bool knows no unknown.
    assert metrics.count(prediction == 1, label) == Counts(1, 1, 2, 2)


def test_a_probability_is_not_a_map():
    with pytest.raises(ValueError, match="apply a threshold"):
        metrics.count(np.array([0.3, 1.0]), np.array([0, 1]))
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.count(np.zeros((2, 3)), np.zeros((3, 2)))


def test_classify():
    found = metrics.classify(np.array([0.0, 0.49, 0.5, 1.0, np.nan], np.float32))
    assert found.tolist() == [0, 0, 1, 1, 255]


masks = array_shapes(min_dims=1, max_dims=3, max_side=9).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1])),
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 255])),
    )
)


@settings(max_examples=60, deadline=None)
@given(masks)
def test_like_scikit_learn(pair):
    prediction, label = pair
    counts = metrics.count(prediction, label)
    known = label != 255
    truth, guess = label[known], prediction[known]
    assert counts.total == known.sum()
    if not known.any():
        assert all(math.isnan(value) for value in metrics.score_table(counts).values())
        return
    options = {"zero_division": np.nan}
    expected = {
        "f1": reference.f1_score(truth, guess, **options),
        "precision": reference.precision_score(truth, guess, **options),
        "recall": reference.recall_score(truth, guess, **options),
        "accuracy": reference.accuracy_score(truth, guess),
        # scikit-learn warns and gives 0 where there is nothing to divide by.
        "iou": reference.jaccard_score(truth, guess) if (truth | guess).any() else math.nan,
        "specificity": reference.recall_score(truth, guess, pos_label=0, **options),
    }
    both = len(np.unique(truth)) == 2
    varied = both and len(np.unique(guess)) == 2
    single = len(np.unique([*truth, *guess])) == 1
    # Of one class alone scikit-learn takes what there is, calls it 0, or warns.
    expected |= {
        "balanced_accuracy": reference.balanced_accuracy_score(truth, guess) if both else math.nan,
        "mcc": reference.matthews_corrcoef(truth, guess) if varied else math.nan,
        "kappa": math.nan if single else reference.cohen_kappa_score(truth, guess),
    }
    assert metrics.score_table(counts) == pytest.approx(expected, nan_ok=True)


def test_scores_of_a_whole_sentinel_tile_do_not_overflow():
    counts = Counts(3 * 10**9, 10**9, 10**9, 6 * 10**9)
    small = Counts(3, 1, 1, 6)
    assert metrics.score_table(counts) == pytest.approx(metrics.score_table(small))


# --- curves


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**16), st.sampled_from([1, 10, 200]))
def test_the_curve_is_exact_at_its_thresholds(number, seed, bins):
    rng = np.random.default_rng(seed)
    probability = rng.random((number, 3)).astype(np.float32)
    probability[rng.random(probability.shape) < 0.1] = np.nan
    # Values on a threshold are the hard ones.
    on = rng.random(probability.shape) < 0.3
    probability[on] = (rng.integers(0, bins + 1, on.sum()) / bins).astype(np.float32)
    label = rng.choice([0, 1, 255], probability.shape).astype(np.uint8)
    table = metrics.precision_recall(probability, label, bins=bins)
    assert len(table) == bins
    for row in table.iloc[:: max(1, bins // 7)].itertuples():
        prediction = metrics.classify(probability.astype(float), row.threshold)
        counts = metrics.count(prediction, label)
        assert row.precision == pytest.approx(counts.precision, nan_ok=True)
        assert row.recall == pytest.approx(counts.recall, nan_ok=True)


def test_threshold_moves_only_for_a_clear_gain():
    label = np.repeat(np.uint8([0, 1]), 100).reshape(1, 10, 20)
    good = np.where(label == 1, 0.9, 0.1)
    assert metrics.choose_threshold(good, label) == 0.5
    low = np.where(label == 1, 0.34, 0.1)
    assert metrics.choose_threshold(low, label) in (0.15, 0.2, 0.25, 0.3)
    assert metrics.choose_threshold(good, np.full_like(label, 255)) == 0.5


def test_histograms_of_parts_add_up():
    rng = np.random.default_rng(5)
    probability, label = rng.random((100, 8)), rng.integers(0, 2, (100, 8))
    whole = metrics.histograms(probability, label)
    parts = [
        metrics.histograms(probability[part], label[part]) for part in (slice(60), slice(60, 100))
    ]
    np.testing.assert_array_equal(whole[0], parts[0][0] + parts[1][0])
    np.testing.assert_array_equal(whole[1], parts[0][1] + parts[1][1])


# --- outlines


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


patterns = st.integers(0, 2**16).map(
    lambda seed: np.random.default_rng(seed).choice([0, 1, 255], (9, 8), p=[0.5, 0.4, 0.1])
)


@given(patterns, patterns, st.sampled_from([3.0, 10.0, 30.0]))
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


# --- areas


def test_area_and_its_buffer_by_hand():
    probability = square(20, 5, 5, 8).astype(np.float32) * 0.9
    found = metrics.mapped_area(probability, PIXEL)
    assert found["area_km2"] == pytest.approx(64 * PIXEL)
    # Outwards 4 x 8 pixels, inwards the rim of 28.
    assert found["uncertainty_km2"] == pytest.approx((32 + 28) / 2 * PIXEL)
    assert found["unknown_km2"] == 0
    assert metrics.mapped_area(probability, PIXEL, 0.95)["area_km2"] == 0


def test_unknown_pixels_are_given_apart():
    probability = square(20, 5, 5, 8).astype(np.float32)
    probability[:, 9:] = np.nan
    found = metrics.mapped_area(probability, PIXEL)
    assert found["area_km2"] == pytest.approx(8 * 4 * PIXEL)
    assert found["unknown_km2"] == pytest.approx(20 * 11 * PIXEL)
    # Three sides of the outline are left: 4 + 8 + 4 outwards, 14 inwards.
    assert found["uncertainty_km2"] == pytest.approx((16 + 14) / 2 * PIXEL)
