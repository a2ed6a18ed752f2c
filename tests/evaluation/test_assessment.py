"""An area judged as one map, and what is said of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.patches import build_patches
from glacier_utils.evaluation import comparison, per_glacier
from glacier_utils.evaluation.calibration import apply_temperature, fit_temperature, histogram
from glacier_utils.workflow import summaries

DATE = "2023-08"


@pytest.fixture
def judged(make_dataset):
    """A test area of 4 x 6 patches with a perfect map and one that misses the upper half."""
    data = open_dataset(make_dataset())
    store = build_patches(data, size=32, block_m=320)
    positions = store.select(split="test", date=DATE)
    labels = np.asarray(store.labels[positions])
    half = labels.copy()
    upper = store.index["row"].to_numpy()[positions] < 64
    half[upper] = 0
    masks = {"perfect": labels, "half": half}
    soft = {name: np.where(mask == 1, 0.9, 0.2).astype(np.float32) for name, mask in masks.items()}
    return data, store, positions, comparison.judge(data, store, positions, masks, soft)


def test_the_area_is_put_together_on_its_own_grid(judged):
    data, _, _, found = judged
    assert (found.area, found.date) == ("test", DATE)
    assert found.grid.matches(data.source("test", DATE).grid)
    expected = data.labels("test", DATE).read()
    np.testing.assert_array_equal(found.references["labels"], expected)
    assert list(found.references) == ["labels"]  # nobody knows the truth
    np.testing.assert_array_equal(found.maps["perfect"], expected)
    assert (found.maps["half"][:64] == 0).all()
    np.testing.assert_array_equal(found.maps["half"][64:], expected[64:])
    image = data.source("test", DATE).read()
    np.testing.assert_array_equal(found.image.reflectance, image.reflectance)
    assert found.image.valid.all()
    assert found.clouds is None
    assert len(found.glaciers.table) == 1


def test_nothing_is_mapped_where_there_is_no_image(make_dataset):
    data = open_dataset(make_dataset())
    # Patches of 40 px stick out of a frame of 128 x 192 px.
    store = build_patches(data, size=40, block_m=400, max_unknown=0.9)
    positions = store.select(split="test", date=DATE)
    soft = {"net": np.full((len(positions), 40, 40), 0.9, np.float32)}
    masks = {"net": np.ones((len(positions), 40, 40), np.uint8)}
    found = comparison.judge(data, store, positions, masks, soft)
    assert found.grid.shape == (160, 200)
    assert (found.maps["net"][:128, :192] == 1).all()
    assert (found.maps["net"][128:] == 255).all()
    assert np.isnan(found.probabilities["net"][:, 192:]).all()
    assert not np.isnan(found.probabilities["net"][:128, :192]).any()


def test_counts_are_by_reference_model_and_block(judged):
    counts = judged[3].counts(320.0)
    assert list(counts) == ["labels"]
    table = counts["labels"]["half"]
    assert len(table) == 4 * 6
    assert table["fp"].sum() == 0
    missed = (judged[3].references["labels"][:64] == 1).sum()
    assert table["fn"].sum() == missed


def test_blocks_follow_the_errors_of_the_worst_model(judged):
    curves, longest, side = comparison.block_size(judged[3])
    assert list(curves) == ["perfect", "half"]
    # The perfect map has no error to correlate; the other's lie together in one half.
    assert curves["perfect"]["correlation"].isna().all()
    assert longest > 100
    assert side.blocks >= 16


def test_a_temperature_learned_on_validation_is_tried_on_the_area(judged):
    found = judged[3]
    truth = found.references["labels"]
    generator = np.random.default_rng(0)
    honest = np.clip(generator.random(truth.shape), 0.02, 0.98).astype(np.float32)
    drawn = (generator.random(truth.shape) < honest).astype(np.uint8)
    found = fit_temperature(*histogram(apply_temperature(honest, 0.5), drawn))  # twice too sure
    mapped = apply_temperature(apply_temperature(honest, 0.5), found)
    table, histograms = comparison.calibrate({"net": found}, SimpleNamespace(
        area="a", date=DATE, references={"labels": drawn}, probabilities={"net": mapped}
    ))  # fmt: skip
    assert table["stage"].tolist() == ["before", "after"]
    assert table["temperature"].iloc[1] == pytest.approx(2, rel=0.05)
    assert table["ece"].iloc[1] < table["ece"].iloc[0] / 2
    assert set(histograms["net"]) == {"before", "after"}


def test_bias_is_told_only_where_the_truth_is_known(judged):
    found = judged[3]
    assert comparison.measure_label_bias(found, found.counts(320.0)) is None
    truth = found.references["labels"].copy()
    truth[60:64] = 0
    known = comparison.Judged(**{**vars(found), "references": {**found.references, "truth": truth}})
    bias = comparison.measure_label_bias(known, known.counts(320.0))
    assert bias.table["model"].tolist() == ["perfect", "half"]
    ice = (found.references["labels"] == 1).sum()
    assert bias.own == pytest.approx((truth == 1).sum() / ice)
    assert "The labels themselves reach" in bias.sentences[0]


def test_only_the_first_seed_has_outlines_measured():
    spatial = pd.DataFrame(
        {"model": "net", "area": "a", "reference": "labels", "seed": [0, 1], "iou": 0.5}
    )
    distances = pd.DataFrame(
        [{"model": "net", "area": "a", "reference": "labels", "median_m": 12.0, "p95_m": 90.0}]
    )
    table = comparison.with_boundaries(spatial, distances)
    assert table["boundary_median_m"].tolist()[0] == 12
    assert table["boundary_p95_m"].isna().tolist() == [False, True]


def words(judged, **changes) -> str:
    _, store, positions, found = judged
    table = pd.DataFrame(
        {"model": list(found.maps), "architecture": list(found.maps), "seed": 0,
         "kind": ["network", "baseline"], "threshold": 0.5}
    )  # fmt: skip
    labels = np.asarray(store.labels[positions])
    half = labels.copy()
    half[store.index["row"].to_numpy()[positions] < 64] = 0
    masks = {"perfect": labels, "half": half}
    spatial = comparison.spatial_scores(table, masks, store, positions, side_m=320.0)
    distances = comparison.boundary_table(masks, store, positions, names=list(masks))
    spatial = comparison.with_boundaries(spatial, distances)
    pairs = comparison.against_baselines(table, masks, store, positions, side_m=320.0)
    parts = {
        "pairs": pairs,
        "clear": comparison.clearly_better(pairs),
        "per_glacier": per_glacier.scores_per_glacier(
            found.maps, found.references, found.grid, found.glaciers
        ),
        "calibration": pd.DataFrame(),
        "bias": None,
    }
    return summaries.spatial_conclusions("perfect", spatial, **{**parts, **changes})


def test_conclusions_follow_from_the_numbers(judged):
    text = words(judged)
    may, may_not = text.split("**What may not be concluded**")
    assert "**perfect**, chosen on validation, reaches an IoU of 1.00 (1.00 to 1.00)" in may
    assert "every baseline, by every reference: **perfect**." in may
    assert "lies within 0 m of that of the labels" in may
    assert "no truth is known here" in may_not
    assert "by the labels the error is +0 %." in may_not
    many = per_glacier.scores_per_glacier(
        judged[3].maps, judged[3].references, judged[3].grid, judged[3].glaciers
    )
    own = many[many["model"].eq("perfect") & many["listed"]]
    many = pd.concat([own.assign(error_percent=error) for error in (-10, -2, 2, 10, 30)])
    text = words(judged, per_glacier=many)
    assert "half of the 5 glaciers lies between -2 % and +10 % (median +2 %)" in text
    assert "1 training seed a network" in may_not
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
    assert "by every reference: none." in may
    assert "- The ranking holds." in may
    assert "a and b (by the labels); their intervals hold zero" in may_not
    assert "off by 0.05 on average, and scaling on validation does not bring them nearer" in may_not
    assert "no truth is known" not in text
