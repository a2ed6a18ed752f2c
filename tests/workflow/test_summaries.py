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
AREAS = pd.DataFrame(
    {
        "model": ["a", "b"], "area": "test", "date": DATES[1], "unknown_km2": [0.0, 9.0],
        "area_km2": 50.0, "low": 30.0, "high": 60.0,
        "bias_km2": [-1.0, -1.0], "cause_rest_km2": [2.5, 7.0], "cause_edge_km2": [1.25, 7.0],
    }
)  # fmt: skip
REPEATABILITY = pd.DataFrame(
    {
        "model": "a", "area": "test", "before": DATES[0], "after": DATES[1],
        "ground": ["stable terrain", "inside outlines", "true ground", "true ice"],
        "same": 0.9, "changed": [0.02, 0.04, 0.06, 0.03], "lost_km2": 1.0, "gained_km2": 0.25,
        "net_km2": -0.75,
    }
)  # fmt: skip
COSTS = pd.DataFrame(
    [
        ("test", DATES[0], "truth", "both", "a", 0.03, 0.01, 0.05, "better"),
        ("test", DATES[1], "truth", "both", "a", -0.01, -0.04, 0.02, "not distinguishable"),
        ("test", DATES[1], "labels", "both", "a", -0.05, -0.06, -0.04, "worse"),
    ],
    columns=["area", "date", "reference", "model", "against", "difference", "low", "high",
             "verdict"],
)  # fmt: skip


def page(dates=DATES, **tables) -> str:
    known: dict = {"areas": AREAS, "repeatability": REPEATABILITY, "costs": COSTS}
    return summaries.temporal_conclusions(
        ["Area test: words."], dates, **(known | tables), model="a", main_date=DATES[1]
    )


def test_the_page_says_what_may_be_concluded_and_what_not():
    text = page()
    may, may_not = text.split("## What may not be concluded")
    assert may.startswith("## What may be concluded\n\n- Area test: words.")
    assert "2.0 % of stable terrain" in may
    assert "2.50 km2 of change (-1.50 km2 net) never was" in may
    assert "Cost on the main date: in area test on 2023-08, **both** is not distinguishable" in may
    assert (
        "Gain on another date: in area test on 2023-07, **both** is clearly better than **a**"
        in may
    )
    assert "against the labels" not in may  # the truth is known
    assert "Retreat or advance" in may_not
    assert "only in the 2.50 km2 that none of them explains and the 1.25 km2" in may_not
    assert "unknown on a date" not in may_not  # only of the other model


def test_one_date_tells_nothing_of_change():
    text = page(DATES[:1], repeatability=pd.DataFrame())
    assert "Anything about change" in text
    assert "could hide" not in text
    assert "- Area test: the mapped glacier area is 50.00 km2 (30.00 to 60.00) on 2023-08." in text


def test_without_validation_the_page_says_so():
    assert "it was not measured here" in page(areas=AREAS.assign(bias_km2=float("nan")))


def test_a_test_over_time_is_never_called_one_over_space(judged):
    for text in (page(over_time=["east"]), words(judged, over_time=["east"])):
        _, may_not = text.split("What may not be concluded")
        assert "area east lies on the ground of training" in may_not
        assert "a test over time, not over space" in may_not
    assert "over time" not in page() + words(judged)


def test_each_area_has_its_statement():
    numbers = {
        "before_km2": 0.04, "before_low": 0.03, "before_high": 0.05, "after_km2": 0.0256,
        "after_low": 0.02, "after_high": 0.03, "change_km2": -0.0144, "change_percent": -36.0,
        "low_km2": -0.0244, "high_km2": -0.0044, "unknown_km2": 0.0, "distinguishable": True,
    }  # fmt: skip
    explained = pd.DataFrame(
        {"area": ["a", "b"], "cause": ["snow lost", "water"], "area_km2": [0.01, 0.01]}
    )
    one, other = summaries.temporal_statements({"a": numbers, "b": numbers}, explained, DATES)
    assert one.startswith("Area a: The mapped glacier area is 0.04")
    assert "smaller by more than its uncertainty" in one
    assert "snow that lay on the first date only" in one
    assert "not as retreat" in one
    assert "water on one date only" in other
    assert "snow that lay" not in other
    (sentence,) = summaries.temporal_statements({}, explained, DATES[:1])
    assert "one date only" in sentence


# ---- spatial evaluation


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
