"""The baselines: their features, and that the tensors say what scikit-learn's trees say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from glacier_utils.errors import GlacierError
from glacier_utils.models import registry
from glacier_utils.models.baselines import (
    REACH,
    WINDOWS,
    GradientBoosting,
    RandomForest,
    ThresholdRule,
)
from glacier_utils.models.checkpoint import Segmenter, load_checkpoint, save_checkpoint

BANDS = ("red", "green", "blue", "nir")
MEAN, STD = np.float32([0.2, 0.25, 0.3, 0.35]), np.float32([0.1, 0.1, 0.2, 0.2])


pytestmark = pytest.mark.usefixtures("one_thread")


def prepared(**arguments) -> GradientBoosting:
    network = GradientBoosting(4, **arguments)
    network.prepare(BANDS, MEAN, STD)
    return network


def images(seed: int, rows: int, cols: int, count: int = 1, invalid: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(count, 4, rows, cols, generator=generator)
    return made * (torch.rand(count, 1, rows, cols, generator=generator) >= invalid)


def sampled(network: GradientBoosting, given: torch.Tensor) -> np.ndarray:
    return network.pixel_features(given).permute(0, 2, 3, 1).flatten(0, 2).numpy()


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 20),
    cols=st.integers(1, 20),
    invalid=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_features_are_those_of_the_definition(seed, rows, cols, invalid):
    network = prepared()
    given = images(seed, rows, cols, invalid=invalid)
    found = network.pixel_features(given)[0].numpy()
    image = given[0].numpy()
    valid = (image != 0).any(axis=0)
    reflectance = image * STD[:, None, None] + MEAN[:, None, None]
    green, nir = np.maximum(reflectance[[1, 3]], 0)
    layers = [*image, reflectance.mean(axis=0) - MEAN.mean()]
    layers = np.stack([*layers, (green - nir) / np.maximum(green + nir, 1e-4)])
    generator = np.random.default_rng(seed)
    row, col = generator.integers(rows), generator.integers(cols)
    expected = [layers[:, row, col] * valid[row, col]]
    for window in WINDOWS:
        half = window // 2
        near = np.s_[max(row - half, 0) : row + half + 1, max(col - half, 0) : col + half + 1]
        chosen = layers[:, *near][:, valid[near]]
        if chosen.size:
            expected += [chosen.mean(axis=1), chosen.std(axis=1)]
        else:
            expected += [np.zeros(6), np.zeros(6)]
    assert found.shape == (42, rows, cols)
    np.testing.assert_allclose(found[:, row, col], np.concatenate(expected), atol=2e-3)


def test_features_depend_on_what_is_near_alone():
    network = prepared()
    given = images(0, 40, 40)
    whole = network.pixel_features(given)
    part = network.pixel_features(given[:, :, 5:35, 8:38])
    inner = slice(REACH, 30 - REACH)
    moved = np.s_[:, :, 5 + REACH : 35 - REACH, 8 + REACH : 38 - REACH]
    torch.testing.assert_close(part[:, :, inner, inner], whole[moved], rtol=0, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), depth=st.integers(1, 8), trees=st.integers(1, 20))
def test_the_tensors_equal_scikit_learn(seed, depth, trees):
    network = prepared(trees=trees, depth=depth)
    given = images(seed, 30, 40, invalid=0.1)
    pixels = sampled(network, given)
    generator = np.random.default_rng(seed)
    labels = pixels[:, 0] + pixels[:, 6] * pixels[:, -1] + generator.normal(0, 0.3, len(pixels)) > 0
    booster = HistGradientBoostingClassifier(
        max_iter=trees, max_depth=depth, early_stopping=False, random_state=0
    ).fit(pixels, labels.astype(np.uint8))
    network.take(booster)
    found = network(given).sigmoid().numpy().ravel()
    np.testing.assert_allclose(found, booster.predict_proba(pixels)[:, 1], atol=1e-5)


def test_rows_in_strips_give_what_the_whole_gives():
    network = prepared(trees=5, depth=4)
    given = images(3, 150, 20, count=2, invalid=0.05)
    pixels = sampled(network, given)
    labels = (pixels[:, 10] > 0).astype(np.uint8)
    network.fit(pixels, labels)
    expected = (network.start + network.total(torch.from_numpy(pixels))).view(2, 150, 20)
    torch.testing.assert_close(network(given), expected)


def test_a_fit_finds_what_only_texture_tells():
    # Two surfaces of one mean: rough and smooth.
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(1, 4, 48, 48, generator=generator)
    given[..., 24:] *= 0.2
    labels = np.zeros((48, 48), dtype=np.uint8)
    labels[:, 24:] = 1
    network = prepared(trees=20, depth=3)
    network.fit(sampled(network, given), labels.ravel())
    assert ((network(given)[0] > 0).numpy() == labels).mean() > 0.97
    assert network.fitted_numbers() > 21
    assert registry.parameter_count(network) == network.fitted_numbers()


@pytest.mark.parametrize("label", [0, 1])
def test_a_fit_that_saw_one_class_says_so_everywhere(label):
    network = prepared(trees=2, depth=3)
    given = images(0, 10, 10)
    labels = np.full(100, label, dtype=np.uint8)
    network.fit(sampled(network, given), labels)
    assert ((network(given).sigmoid() - label).abs() < 1e-5).all()


def test_trees_that_do_not_fit_are_refused():
    network = prepared(trees=3, depth=1)
    pixels = sampled(network, images(0, 30, 30))
    labels = (pixels[:, 0] * pixels[:, 1] > 0).astype(np.uint8)
    deep = HistGradientBoostingClassifier(max_iter=3, max_depth=4).fit(pixels, labels)
    with pytest.raises(GlacierError, match="more than 1 levels"):
        network.take(deep)


def test_bands_without_near_infrared_do_without_ndwi():
    network = GradientBoosting(3)
    network.prepare(("red", "green", "blue"), MEAN[:3], STD[:3])
    features = network.pixel_features(torch.randn(1, 3, 8, 8))
    assert features.shape == (1, 35, 8, 8)
    assert (features[:, 4] == 0).all()


def test_a_checkpoint_brings_the_trees_back(tmp_path):
    segmenter = Segmenter(
        "gradient_boosting", BANDS, MEAN, STD, arguments={"trees": 4, "depth": 3}
    ).eval()
    network = segmenter.network
    network.prepare(BANDS, MEAN, STD)
    reflectance = torch.rand(1, 4, 20, 20) * 0.6
    given = segmenter.normalise(reflectance)
    pixels = sampled(network, given)
    labels = (pixels[:, 4] > 0).astype(np.uint8)
    network.fit(pixels, labels)
    loaded = load_checkpoint(save_checkpoint(tmp_path / "checkpoint.pt", segmenter))
    with torch.inference_mode():
        assert torch.equal(loaded(reflectance), segmenter(reflectance))
    assert ((segmenter(reflectance).flatten() > 0).numpy() == labels).mean() > 0.95


# ---- random forest and threshold rule


def forest_data(seed: int, count: int = 3000, bands: int = 4):
    generator = np.random.default_rng(seed)
    pixels = generator.normal(size=(count, bands)).astype(np.float32)
    noisy = pixels[:, 0] + pixels[:, 1] * pixels[:, -1] + generator.normal(0, 0.5, count)
    return pixels, (noisy > 0).astype(np.uint8)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), depth=st.integers(1, 9), leaf=st.integers(1, 30))
def test_the_forest_of_tensors_equals_scikit_learn(seed, depth, leaf):
    pixels, labels = forest_data(seed)
    forest = RandomForestClassifier(
        n_estimators=5, max_depth=depth, min_samples_leaf=leaf, random_state=seed
    ).fit(pixels, labels)
    network = RandomForest(4, trees=5, depth=depth)
    network.take(forest)
    image = torch.from_numpy(pixels.T.reshape(1, 4, 50, 60).copy())
    probability = network(image).sigmoid().numpy().ravel()
    np.testing.assert_allclose(probability, forest.predict_proba(pixels)[:, 1], atol=2e-6)


def test_the_forest_agrees_on_pixels_that_lie_on_a_threshold():
    pixels = np.repeat(np.float32([[0.1], [0.2], [0.3], [0.7]]), 10, axis=0)
    labels = np.uint8([0] * 10 + [1] * 10 + [0] * 20)
    forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(pixels, labels)
    network = RandomForest(1, trees=3, depth=5)
    network.take(forest)
    on = np.unique(np.concatenate([tree.tree_.threshold for tree in forest.estimators_]))
    on = on.astype(np.float32).reshape(1, 1, 1, -1)
    expected = forest.predict_proba(on.reshape(-1, 1))[:, 1]
    np.testing.assert_allclose(
        network(torch.from_numpy(on)).sigmoid().numpy().ravel(), expected, atol=2e-6
    )


def test_a_forest_that_saw_one_class_says_so_everywhere():
    pixels = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    network = RandomForest(2, trees=2, depth=3)
    network.fit(pixels, np.zeros(100, dtype=np.uint8))
    assert (network(torch.randn(1, 2, 4, 4)).sigmoid() < 1e-5).all()


def test_the_threshold_rule_finds_the_box_that_separates():
    # Ice is bright; rock is dark, vegetation bright in the near infrared.
    spectra = {1: [(0.5, 0.5, 0.5, 0.4)], 0: [(0.1, 0.1, 0.1, 0.1), (0.1, 0.3, 0.1, 0.9)]}
    generator = np.random.default_rng(1)
    pixels, labels = [], []
    for label, surfaces in spectra.items():
        for surface in surfaces:
            pixels.append(np.array(surface) + generator.normal(0, 0.01, (500, 4)))
            labels += [label] * 500
    pixels, labels = np.concatenate(pixels).astype(np.float32), np.uint8(labels)
    mean, std = pixels.mean(axis=0), pixels.std(axis=0)
    rule = ThresholdRule(4)
    rule.prepare(BANDS, mean, std)
    rule.fit((pixels - mean) / std, labels)
    image = torch.from_numpy(((pixels - mean) / std).T.reshape(1, 4, 30, 50).copy())
    logits = rule(image).flatten()
    assert ((logits > 0).numpy() == labels).all()
    assert rule.fitted_numbers() == 3
    bright, low, high = rule.thresholds.tolist()
    assert 0.0 < bright < 0.5
    assert -0.5 < low < 0.1
    assert high == 2.0  # nothing to keep out above, so no threshold there


def test_the_threshold_rule_does_without_near_infrared():
    pixels = np.float32([[0.1, 0.1, 0.1]] * 50 + [[0.6, 0.6, 0.6]] * 50)
    rule = ThresholdRule(3)
    labels = np.uint8([0] * 50 + [1] * 50)
    rule.prepare(("red", "green", "blue"), [0] * 3, [1] * 3)
    rule.fit(pixels, labels)
    image = torch.from_numpy(pixels.T.reshape(1, 3, 10, 10).copy())
    assert ((rule(image).flatten() > 0).numpy() == labels).all()
