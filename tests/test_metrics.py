"""Counts, scores and curves."""

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
