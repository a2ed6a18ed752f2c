"""Counts, scores, intervals, curves and boundary distances."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn import metrics as reference

from glacier_utils import metrics
from glacier_utils.metrics import Counts

HAND = {
    # tp, fp, fn, tn: iou, f1, precision, recall, accuracy
    (6, 2, 4, 8): (6 / 12, 12 / 18, 6 / 8, 6 / 10, 14 / 20),
    (0, 0, 0, 5): (math.nan, math.nan, math.nan, math.nan, 1.0),
    (0, 3, 0, 5): (0.0, 0.0, 0.0, math.nan, 5 / 8),
    (0, 0, 3, 5): (0.0, 0.0, math.nan, 0.0, 5 / 8),
    (4, 0, 0, 0): (1.0, 1.0, 1.0, 1.0, 1.0),
    (0, 0, 0, 0): (math.nan,) * 5,
}
NAMES = ["iou", "f1", "precision", "recall", "accuracy"]


@pytest.mark.parametrize(("numbers", "scores"), HAND.items())
def test_scores_by_hand(numbers, scores):
    counts = Counts(*numbers)
    assert metrics.score_table(counts) == pytest.approx(
        dict(zip(NAMES, scores, strict=True)), nan_ok=True
    )
    assert [getattr(counts, name) for name in NAMES] == pytest.approx(list(scores), nan_ok=True)


def test_counts_add_up():
    assert Counts(1, 2, 3, 4) + Counts(10, 20, 30, 40) == Counts(11, 22, 33, 44)
    assert (Counts(1, 2, 3, 4) + Counts()).total == 10


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
    with pytest.raises(ValueError, match=r"\[n, row, col\]"):
        metrics.count_patches(np.zeros((2, 3)), np.zeros((2, 3)))


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
    }
    assert metrics.score_table(counts) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 150), st.integers(0, 2**16))
def test_patches_sum_to_the_whole(number, seed):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 255], (number, 5, 4)).astype(np.uint8)
    prediction = rng.random(label.shape) < 0.5
    frame = metrics.count_patches(prediction, label)
    assert len(frame) == number
    whole = metrics.count(prediction, label)
    assert tuple(frame.sum()) == (whole.tp, whole.fp, whole.fn, whole.tn)
    first = metrics.count(prediction[0], label[0])
    assert tuple(frame.iloc[0]) == (first.tp, first.fp, first.fn, first.tn)
    scored = metrics.score_patches(frame)
    assert scored["iou"].iloc[0] == pytest.approx(first.iou, nan_ok=True)
    assert metrics.score_table(frame) == pytest.approx(metrics.score_table(whole), nan_ok=True)


# --- intervals


def block_counts(blocks, seed=0, recall=0.8):
    rng = np.random.default_rng(seed)
    tp = rng.binomial(100, np.clip(rng.normal(recall, 0.1, blocks), 0, 1))
    fp, tn = rng.integers(0, 20, blocks), rng.integers(50, 100, blocks)
    table = {"tp": tp, "fp": fp, "fn": 100 - tp, "tn": tn}
    return pd.DataFrame(table).assign(block=[f"b{number}" for number in range(blocks)])


def test_bootstrap_holds_the_score_and_repeats():
    frame = block_counts(30)
    low, high = metrics.bootstrap(frame, by="block")
    assert low < metrics.score_table(frame)["iou"] < high
    assert (low, high) == metrics.bootstrap(frame, by="block")
    assert (low, high) != metrics.bootstrap(frame, by="block", seed=1)
    narrow = metrics.bootstrap(frame, by="block", level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_by_hand():
    # Two blocks: a draw holds the first twice (IoU 1), the second twice (0), or one of each.
    frame = pd.DataFrame({"tp": [1, 0], "fp": [0, 0], "fn": [0, 1], "tn": 0, "block": ["a", "b"]})
    assert metrics.bootstrap(frame, by="block") == (0.0, 1.0)
    assert metrics.bootstrap(frame, by="block", level=0.4) == (0.5, 0.5)


def test_bootstrap_draws_blocks_and_not_patches():
    # A hundred patches in two blocks say no more than two blocks.
    frame = pd.concat([block_counts(2)] * 50, ignore_index=True)
    alone = block_counts(2)
    assert metrics.bootstrap(frame, by="block") == metrics.bootstrap(alone, by="block")


def test_nothing_can_be_said_from_one_block():
    frame = block_counts(1)
    assert np.isnan(metrics.bootstrap(frame, by="block")).all()
    difference, low, high = metrics.bootstrap_difference(frame, frame, by="block")
    assert difference == 0
    assert math.isnan(low)
    assert math.isnan(high)


def test_draws_without_a_score_are_left_out():
    frame = block_counts(6)
    frame.loc[1:, ["tp", "fp", "fn"]] = 0
    low, high = metrics.bootstrap(frame, by="block")
    assert low == high == pytest.approx(metrics.score_table(frame)["iou"])


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    # Recall of blocks that vary around 0.8: the interval of 40 blocks, 200 times.
    inside = 0
    for seed in range(200):
        frame = block_counts(40, seed)
        low, high = metrics.bootstrap(frame, by="block", score="recall", samples=400)
        inside += low <= 0.7972 <= high  # the mean of the clipped normal
    assert 0.88 <= inside / 200 <= 0.99


def test_a_paired_difference_sees_what_two_intervals_do_not():
    worse = block_counts(30)
    better = worse.copy()
    better["tp"] += 1
    better["fn"] -= 1
    difference, low, high = metrics.bootstrap_difference(better, worse, by="block")
    assert 0 < low < difference < high
    assert metrics.bootstrap(better, by="block")[0] < metrics.bootstrap(worse, by="block")[1]
    assert metrics.bootstrap_difference(worse, worse, by="block") == (0, 0, 0)


def test_a_difference_needs_the_same_blocks():
    with pytest.raises(ValueError, match="same blocks"):
        metrics.bootstrap_difference(block_counts(3), block_counts(4), by="block")


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


def test_average_precision_like_scikit_learn():
    rng = np.random.default_rng(3)
    label = (rng.random(5000) < 0.3).astype(np.uint8)
    probability = np.clip(rng.normal(0.35 + 0.3 * label, 0.2), 0, 1)
    expected = reference.average_precision_score(label, probability)
    assert metrics.average_precision(probability, label) == pytest.approx(expected, abs=2e-3)
    coarse = np.minimum(np.floor(probability * 50), 49) / 50
    expected = reference.average_precision_score(label, coarse)
    # Exact for probabilities that are multiples of the step.
    assert metrics.average_precision(coarse + 1e-9, label, bins=50) == pytest.approx(expected)


def test_average_precision_without_glacier_is_undefined():
    assert math.isnan(metrics.average_precision(np.array([0.2, 0.8]), np.array([0, 0])))


def test_histograms_of_parts_add_up():
    rng = np.random.default_rng(5)
    probability, label = rng.random((100, 8)), rng.integers(0, 2, (100, 8))
    whole = metrics.histograms(probability, label)
    parts = [
        metrics.histograms(probability[part], label[part]) for part in (slice(60), slice(60, 100))
    ]
    np.testing.assert_array_equal(whole[0], parts[0][0] + parts[1][0])
    np.testing.assert_array_equal(whole[1], parts[0][1] + parts[1][1])


# --- boundaries


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
    assert metrics.boundary_distance(label, label, 10.0) == {"median_m": 0.0, "p95_m": 0.0}
    # One pixel larger all around: one pixel between the rims, sqrt(2) at the corners.
    found = metrics.boundary_distance(square(60, 19, 19, 22), label, 10.0)
    assert found["median_m"] == 10.0
    assert found["p95_m"] == 10.0
    found = metrics.boundary_distance(square(60, 17, 17, 26), label, 10.0)
    assert found["median_m"] == 30.0
    distances = metrics.boundary_distances(square(60, 17, 17, 26), label, 10.0)
    assert distances.max() == pytest.approx(30 * math.sqrt(2))


def test_distances_go_both_ways():
    # A glacier that the map misses far away shows only on the way from the reference.
    label = square(60, 5, 5, 10) | square(60, 40, 40, 10)
    prediction = square(60, 5, 5, 10)
    assert metrics.boundary_distance(prediction, label, 10.0)["p95_m"] > 300


def test_no_outline_no_distance():
    empty, label = np.zeros((20, 20), np.uint8), square(20, 5, 5, 5)
    assert math.isnan(metrics.boundary_distance(empty, label, 10.0)["median_m"])
    assert math.isnan(metrics.boundary_distance(label, empty, 10.0)["p95_m"])


def test_what_is_unknown_has_no_outline():
    label = square(40, 10, 10, 15)
    prediction = label.astype(float)
    label[:, 18:] = 255
    prediction[:12] = np.nan
    assert metrics.boundary_distance(prediction, label, 10.0) == {"median_m": 0.0, "p95_m": 0.0}
