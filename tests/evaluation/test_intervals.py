"""Intervals of scores and of differences, comparisons, the ranking."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from glacier_utils import metrics
from glacier_utils.evaluation import bootstrap


def block_counts(blocks, seed=0, recall=0.8):
    rng = np.random.default_rng(seed)
    tp = rng.binomial(100, np.clip(rng.normal(recall, 0.1, blocks), 0, 1))
    fp, tn = rng.integers(0, 20, blocks), rng.integers(50, 100, blocks)
    table = {"tp": tp, "fp": fp, "fn": 100 - tp, "tn": tn}
    return pd.DataFrame(table).assign(block=[f"b{number}" for number in range(blocks)])


def worsened(frame, by):
    """The same map with ``by`` hits of each block missed instead."""
    return frame.assign(tp=frame["tp"] - by, fn=frame["fn"] + by)


# --- one score


def test_the_interval_holds_the_score_and_repeats():
    frame = block_counts(30)
    low, high = bootstrap.bootstrap(frame)
    assert low < metrics.score_table(frame)["iou"] < high
    assert (low, high) == bootstrap.bootstrap(frame)
    assert (low, high) != bootstrap.bootstrap(frame, seed=1)
    narrow = bootstrap.bootstrap(frame, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_the_interval_is_that_of_a_mean_where_the_score_is_one():
    # With 100 glacier pixels a block the recall is a mean of blocks, whose interval is Student's.
    frame = block_counts(12)
    low, high = bootstrap.bootstrap(frame.assign(fp=0), score="recall", samples=20_000)
    values = frame["tp"] / 100
    expected = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=2e-3)


def test_two_blocks_by_hand():
    # A draw holds the first twice (IoU 1), the second twice (0), or one of each (0.5): a deviation
    # of sqrt(1/8), times sqrt(2) for two blocks, is 0.5; one degree of freedom.
    frame = pd.DataFrame({"tp": [1, 0], "fp": [0, 0], "fn": [0, 1], "tn": 0, "block": ["a", "b"]})
    assert bootstrap.bootstrap(frame) == (0.0, 1.0)
    reach = 0.5 * stats.t.ppf(0.6, 1)
    found = bootstrap.bootstrap(frame, level=0.2, samples=100_000)
    assert found == pytest.approx((0.5 - reach, 0.5 + reach), abs=2e-3)


def test_blocks_are_drawn_and_not_patches():
    # A hundred patches in two blocks say no more than two blocks.
    alone = block_counts(4)
    frame = pd.concat([alone] * 50, ignore_index=True)
    assert bootstrap.bootstrap(frame) == pytest.approx(bootstrap.bootstrap(alone))


def test_blocks_that_hold_little_ice_count_for_little():
    # 20 blocks, three of which hold nearly all of the ice: about three blocks, not twenty.
    frame = block_counts(20)
    few = frame.copy()
    few.loc[3:, ["tp", "fp", "fn"]] = [1, 0, 0]
    low, high = bootstrap.bootstrap(few, score="recall")
    error = few["tp"].iloc[:3].std() / 100 / math.sqrt(3)
    assert high - low > 2 * stats.t.ppf(0.975, 2) * error * 0.8


@pytest.mark.parametrize("rest", [0, None])
def test_nothing_can_be_said_from_one_block(rest):
    frame = block_counts(1 if rest is None else 6)
    if rest is not None:  # six blocks, but ice in one only
        frame.loc[1:, ["tp", "fp", "fn"]] = rest
        assert np.isfinite(bootstrap.bootstrap(frame, score="accuracy")).all()
    assert np.isnan(bootstrap.bootstrap(frame)).all()
    difference, low, high = bootstrap.bootstrap_difference(frame, frame)
    assert difference == 0
    assert math.isnan(low)
    assert math.isnan(high)
    assert bootstrap.verdict(low, high) == "not distinguishable"


def test_blocks_without_a_known_pixel_are_none():
    frame = block_counts(6)
    unknown = pd.DataFrame({"tp": 0, "fp": 0, "fn": 0, "tn": 0, "block": ["x", "y"]})
    found = bootstrap.bootstrap(pd.concat([frame, unknown]))
    assert found == bootstrap.bootstrap(frame)


@settings(max_examples=40)
@given(st.integers(2, 20), st.integers(0, 2**16), st.sampled_from(list(metrics.SCORES)))
def test_intervals_stay_within_what_a_score_can_be(number, seed, score):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.integers(0, 5, (number, 4)), columns=metrics.COUNTS)
    frame["block"] = np.arange(number)
    low, high = bootstrap.bootstrap(frame, score=score, samples=100)
    value = metrics.score_table(frame)[score]
    if math.isnan(low):
        return
    assert metrics.LOWEST[score] <= low <= value <= high <= 1


def test_scores_with_interval_begin_with_the_iou():
    frame = block_counts(10)
    found = bootstrap.scores_with_interval(frame)
    assert list(found)[:4] == ["iou", "iou_low", "iou_high", "f1"]
    assert {**found} == {
        **metrics.score_table(frame), "iou_low": found["iou_low"], "iou_high": found["iou_high"]
    }  # fmt: skip


# --- differences


def test_a_paired_difference_sees_what_two_intervals_do_not():
    better = block_counts(30)
    worse = worsened(better, 1)
    difference, low, high = bootstrap.bootstrap_difference(better, worse)
    assert 0 < low < difference < high
    assert bootstrap.bootstrap(better)[0] < bootstrap.bootstrap(worse)[1]
    assert bootstrap.bootstrap_difference(worse, worse) == (0, 0, 0)


def test_a_difference_needs_the_same_blocks():
    with pytest.raises(ValueError, match="same blocks"):
        bootstrap.bootstrap_difference(block_counts(3), block_counts(4))


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.1, 0.2, "better"),
        (-0.2, -0.1, "worse"),
        (-0.1, 0.1, "not distinguishable"),
        (0.0, 0.1, "not distinguishable"),
        (np.nan, np.nan, "not distinguishable"),
    ],
)
def test_verdict(low, high, word):
    assert bootstrap.verdict(low, high) == word


def test_p_values_are_holms():
    # By hand: 0.01 x 3, then 0.03 x 2, then 0.04 x 1 which may not fall below the one before.
    assert bootstrap._holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert bootstrap._holm(np.array([0.9, 0.8])).tolist() == [1, 1]


def test_p_and_interval_say_the_same():
    for seed in range(20):
        counts = {"a": block_counts(9, seed), "b": block_counts(9, seed + 100)}
        table = bootstrap.compare(counts)
        (row,) = table.itertuples()
        assert (row.p < 0.05) == (row.verdict != "not distinguishable")
        assert row.p == row.p_holm


# --- ranking


def test_ranking_groups_what_cannot_be_told_apart():
    best = block_counts(20)
    counts = {"worst": worsened(best, 30), "best": best, "same": best, "near": worsened(best, 20)}
    table = bootstrap.ranking(counts).set_index("model")
    assert table.index.tolist() == ["best", "same", "near", "worst"]
    assert table["rank"].tolist() == ["1 to 2", "1 to 2", "3", "4"]
    assert table["not distinguishable from"].tolist() == ["same", "best", "", ""]
    assert table.eval("low < iou and iou < high").all()


def test_one_model_is_ranked_alone():
    table = bootstrap.ranking({"alone": block_counts(9)})
    assert table["rank"].tolist() == ["1"]
    assert bootstrap.compare({"alone": block_counts(9)}).empty


def test_of_many_equal_models_some_look_different():
    # Twelve models that are equally good, 66 comparisons: Holm's p lets none through.
    counts = {f"m{seed}": block_counts(9, seed) for seed in range(12)}
    pairs = bootstrap.compare(counts)
    assert (pairs["verdict"] != "not distinguishable").any()
    assert (pairs["p_holm"] > 0.05).all()
    assert set(bootstrap.ranking(counts)["rank"]) == {"1 to 12"}
    assert len(set(bootstrap.ranking(counts, holm=False)["rank"])) > 1
