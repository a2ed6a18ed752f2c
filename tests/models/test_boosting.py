"""Gradient boosting: its features, and that the tensors say what scikit-learn's trees say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from glacier_utils.errors import GlacierError
from glacier_utils.models import registry
from glacier_utils.models.baselines import REACH, WINDOWS, GradientBoosting
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
    return network.neighbourhood_features(given).permute(0, 2, 3, 1).flatten(0, 2).numpy()


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
    found = network.neighbourhood_features(given)[0].numpy()
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
    assert found.shape == (network.features, rows, cols)
    np.testing.assert_allclose(found[:, row, col], np.concatenate(expected), atol=2e-3)


def test_features_depend_on_what_is_near_alone():
    network = prepared()
    given = images(0, 40, 40)
    whole = network.neighbourhood_features(given)
    part = network.neighbourhood_features(given[:, :, 5:35, 8:38])
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
    network.fit(pixels, labels, bands=BANDS, mean=MEAN, std=STD)
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
    network.fit(sampled(network, given), labels.ravel(), bands=BANDS, mean=MEAN, std=STD)
    assert ((network(given)[0] > 0).numpy() == labels).mean() > 0.97
    assert network.fitted_numbers() > 21
    assert registry.parameter_count(network) == network.fitted_numbers()


@pytest.mark.parametrize("label", [0, 1])
def test_a_fit_that_saw_one_class_says_so_everywhere(label):
    network = prepared(trees=2, depth=3)
    given = images(0, 10, 10)
    labels = np.full(100, label, dtype=np.uint8)
    network.fit(sampled(network, given), labels, bands=BANDS, mean=MEAN, std=STD)
    assert ((network(given).sigmoid() - label).abs() < 1e-5).all()


def test_features_of_other_statistics_are_refused():
    network = GradientBoosting(4, trees=2)
    pixels, labels = np.zeros((4, network.features), np.float32), np.uint8([0, 1, 0, 1])
    with pytest.raises(GlacierError, match="call prepare before neighbourhood_features"):
        network.fit(pixels, labels, bands=BANDS, mean=MEAN, std=STD)
    with pytest.raises(GlacierError, match=r"expected pixels of 42 features, got .*\(4, 4\)"):
        network.fit(pixels[:, :4], labels, bands=BANDS, mean=MEAN, std=STD)


def test_trees_that_do_not_fit_are_refused():
    network = prepared(trees=3, depth=1)
    pixels = sampled(network, images(0, 30, 30))
    labels = (pixels[:, 0] * pixels[:, 1] > 0).astype(np.uint8)
    two = HistGradientBoostingClassifier(max_iter=2).fit(pixels, labels)
    with pytest.raises(GlacierError, match="expected 3 trees on 42 features, got 2 on 42"):
        network.take(two)
    deep = HistGradientBoostingClassifier(max_iter=3, max_depth=4).fit(pixels, labels)
    with pytest.raises(GlacierError, match="more than 1 levels"):
        network.take(deep)


def test_bands_without_near_infrared_do_without_ndwi():
    network = GradientBoosting(3)
    network.prepare(("red", "green", "blue"), MEAN[:3], STD[:3])
    features = network.neighbourhood_features(torch.randn(1, 3, 8, 8))
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
    network.fit(pixels, labels, bands=BANDS, mean=MEAN, std=STD)
    loaded = load_checkpoint(save_checkpoint(tmp_path / "checkpoint.pt", segmenter))
    with torch.inference_mode():
        assert torch.equal(loaded(reflectance), segmenter(reflectance))
    assert ((segmenter(reflectance).flatten() > 0).numpy() == labels).mean() > 0.95
