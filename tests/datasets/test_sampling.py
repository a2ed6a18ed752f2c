"""Sampling weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glacier_utils.datasets.patches import BINS, sampling_weights

fractions = st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=60)


def test_each_class_gets_the_same_whatever_its_size():
    glacier = np.array([0.0] * 90 + [0.6] * 9 + [1.0])
    weights = sampling_weights(glacier)
    for part in (slice(0, 90), slice(90, 99), slice(99, 100)):
        assert weights[part].sum() == pytest.approx(1 / 3)
        assert np.ptp(weights[part]) == 0


def test_edges_belong_to_the_class_above_them_but_the_last():
    weights = sampling_weights([0.0, 0.5, 0.5, 1.0], bins=2)
    assert weights.tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])


@given(fractions, st.one_of(st.integers(1, 12), st.just(BINS)))
def test_weights_are_a_probability(glacier, bins):
    weights = sampling_weights(np.array(glacier), bins)
    assert weights.shape == (len(glacier),)
    assert np.isfinite(weights).all()
    known = np.isfinite(np.array(glacier, float))
    assert (weights[known] > 0).all()
    assert (weights[~known] == 0).all()
    assert weights.sum() == pytest.approx(1.0 if known.any() else 0.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_drawing_by_weight_evens_out_the_classes(glacier):
    edges = np.array(BINS)
    weights = sampling_weights(glacier)
    number = np.histogram(glacier, edges)[0]
    drawn = np.histogram(glacier, edges, weights=weights)[0]
    np.testing.assert_allclose(drawn[number > 0], 1 / np.count_nonzero(number))


@pytest.mark.parametrize("bins", [0, [0.5], [0, 0.5, 0.5, 1], [1, 0], [0.2, 1], [0, 0.8]])
def test_bins_that_are_none(bins):
    with pytest.raises(ValueError, match="bins"):
        sampling_weights([0.1, 0.9], bins)
