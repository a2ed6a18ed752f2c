"""How often intervals hold a known truth, with fixed seeds."""

from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
import pytest

from glacier_utils import coverage, metrics

# Fewer draws than by default, to be fast.
METHODS = {
    name: functools.partial(method, samples=400) for name, method in coverage.METHODS.items()
}


def few_blocks(number=16, seed=3):
    """Blocks like those of a glacier map: very unequal in ice, and unequally well mapped."""
    generator = np.random.default_rng(seed)
    ice = generator.gamma(1.0, 3000, number).astype(int)
    hit = (ice * generator.beta(8, 2, number)).astype(int)
    false = (ice.mean() * generator.beta(1, 4, number)).astype(int)
    return pd.DataFrame({"tp": hit, "fp": false, "fn": ice - hit, "tn": 10_000})


def test_fields_have_the_correlation_that_they_promise():
    generator = np.random.default_rng(0)
    fields = np.stack([coverage.random_field(generator, 64, 8.0) for _ in range(200)])
    assert fields.mean() == pytest.approx(0, abs=0.05)
    assert fields.var() == pytest.approx(1, abs=0.06)
    for lag in (4, 8, 16):
        found = np.mean(fields[:, :, lag:] * fields[:, :, :-lag])
        assert found == pytest.approx(math.exp(-lag / 8), abs=0.05)


def test_the_true_iou_of_random_worlds():
    worlds, truth = coverage.random_worlds(60, share=0.3, wrong=0.2)
    pooled = metrics.score_table(pd.concat(list(worlds)))["iou"]
    assert truth == pytest.approx(0.24 / 0.44)
    assert pooled == pytest.approx(truth, abs=0.01)


def test_drawn_worlds_are_made_of_the_blocks():
    counts = few_blocks()
    worlds, truth = coverage.drawn_worlds(counts, 3, blocks=5)
    rows = {tuple(row) for row in counts.to_numpy()}
    for world in worlds:
        assert len(world) == world["block"].nunique() == 5
        assert {tuple(row) for row in world[metrics.COUNTS].to_numpy()} <= rows
    assert truth == metrics.score_table(counts)["iou"]


def test_coverage_by_hand():
    ends = iter([(0.0, 1.0), (0.6, 0.9), (0.1, 0.4), (math.nan, math.nan), (0.5, 0.7)])
    table = coverage.coverage([pd.DataFrame()] * 5, 0.5, {"fixed": lambda world: next(ends)})
    (row,) = table.itertuples()
    assert (row.worlds, row.coverage, row.above, row.below) == (4, 0.5, 0.25, 0.25)
    assert row.low < 0.5 < row.high
    assert row.width == pytest.approx((1 + 0.3 + 0.3 + 0.2) / 4)
    unknown = coverage.coverage([], 0.5, {"none": lambda world: (0, 1)})
    assert unknown["coverage"].isna().all()


def test_the_interval_holds_the_truth_as_often_as_it_says():
    for worlds, truth in (
        coverage.random_worlds(300),
        coverage.drawn_worlds(few_blocks(), 300, blocks=16),
    ):
        table = coverage.coverage(worlds, truth, METHODS).set_index("method")["coverage"]
        assert 0.92 <= table["t"] <= 0.97
        assert table["percentile"] < table["t"]


def test_blocks_below_the_correlation_length_promise_too_much():
    # Errors are alike over 1.2 km: a hundred blocks of 1.28 km, or sixteen of 3.2 km.
    held = []
    for side in (1280.0, 3200.0):
        worlds, truth = coverage.random_worlds(60, side_m=side, error_m=800.0, glacier_m=800.0)
        held.append(coverage.coverage(worlds, truth, METHODS)["coverage"].iloc[0])
    assert held[0] < 0.8 < held[1]
