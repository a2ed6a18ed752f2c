"""Sentences that follow from the numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.patches import build_patches
from glacier_utils.evaluation import comparison, per_glacier
from glacier_utils.workflow import summaries

DATES = ("2023-07", "2023-08")


def test_a_test_over_time_is_never_called_one_over_space(judged):
    _, may_not = words(judged, over_time=["east"]).split("What may not be concluded")
    assert "area east lies on the ground of training" in may_not
    assert "a test over time, not over space" in may_not
    assert "over time" not in words(judged)


@pytest.fixture
def judged(make_dataset):
    """A test area of 4 x 6 patches with a perfect map and one that misses the upper half."""
    data = open_dataset(make_dataset())
    store = build_patches(data, size=32, block_m=320)
    positions = store.select(split="test", date=DATES[1])
    labels = np.asarray(store.labels[positions])
    half = labels.copy()
    half[store.index["row"].to_numpy()[positions] < 64] = 0
    masks = {"perfect": labels, "half": half}
    soft = {name: np.where(mask == 1, 0.9, 0.2).astype(np.float32) for name, mask in masks.items()}
    return store, positions, comparison.judge(data, store, positions, masks, soft), masks


def words(judged, **changes) -> str:
    store, positions, found, masks = judged
    table = pd.DataFrame(
        {"model": list(found.maps), "architecture": list(found.maps), "seed": 0,
         "kind": ["network", "baseline"], "threshold": 0.5}
    )  # fmt: skip
    counts = comparison.count_blocks(masks, store, positions, side_m=320.0)
    spatial = comparison.spatial_scores(table, counts)
    distances = comparison.boundary_table(masks, store, positions)
    spatial = comparison.with_boundaries(spatial, distances)
    pairs = comparison.against_baselines(table, counts)
    parts = {
        "pairs": pairs,
        "clear": comparison.clearly_better(pairs),
        "per_glacier": per_glacier.scores_per_glacier(
            found.maps, found.references, found.grid, found.glaciers
        ),
        "calibration": pd.DataFrame({"model": ["half"], "reference": "labels"}),
        "bias": None,
    }
    return summaries.spatial_conclusions("perfect", spatial, **{**parts, **changes})


def test_conclusions_follow_from_the_numbers(judged):
    text = words(judged)
    may, may_not = text.split("**What may not be concluded**")
    assert "**perfect**, chosen on validation, reaches an IoU of 1.00 (1.00 to 1.00)" in may
    assert "every baseline, against every reference: **perfect**." in may
    assert "lies within 0 m of that of the labels" in may
    assert "no truth is known here" in may_not
    assert "against the labels the error is +0 %." in may_not
    many = per_glacier.scores_per_glacier(
        judged[2].maps, judged[2].references, judged[2].grid, judged[2].glaciers
    )
    own = many[many["model"].eq("perfect") & many["listed"]]
    many = pd.concat([own.assign(error_percent=error) for error in (-10, -2, 2, 10, 30)])
    text = words(judged, per_glacier=many)
    assert "half of the 5 glaciers lies between -2 % and +10 % (median +2 %)" in text
    assert "1 training seed per network" in may_not
    assert "probability" not in text


def test_conclusions_name_what_cannot_be_told_apart(judged):
    same = pd.DataFrame(
        [{"model": "a", "against": "b", "reference": "labels", "verdict": "not distinguishable"}]
    )
    scores = pd.DataFrame(
        {"model": "perfect", "reference": "labels", "stage": ["before", "after"],
         "ece": [0.05, 0.08]}
    )  # fmt: skip
    bias = comparison.LabelBias(pd.DataFrame(), ("Scores lie apart.", "The ranking holds."), 0.9)
    text = words(judged, pairs=same, clear=[], calibration=scores, bias=bias)
    may, may_not = text.split("**What may not be concluded**")
    assert "against every reference: none." in may
    assert "- The ranking holds." in may
    assert "a and b (against the labels); their intervals hold zero" in may_not
    assert "off by 0.05 on average, and scaling on validation does not bring them nearer" in may_not
    assert "no truth is known" not in text
