"""What all figures share: pictures of reflectance, codes in fixed colours, panels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from glacier_utils.change import transition
from glacier_utils.plotting import style

pytestmark = pytest.mark.usefixtures("offscreen")

BANDS = ("red", "green", "blue", "nir")


def test_colours_do_not_run_out():
    colours = style.palette([str(number) for number in range(20)])
    assert len(colours) == 20
    assert colours["0"] == colours["8"] != colours["1"]


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (3, (2, 2)), (4, (2, 2))])
def test_panels_are_as_many_as_asked_for(count, shape):
    figure, axes = style.panels(count, (3, 2), (0.5, 1), columns=2)
    assert figure.axes == axes
    assert len(axes) == count
    assert figure.get_size_inches().tolist() == [3 * shape[1] + 0.5, 2 * shape[0] + 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1))
def test_composite_is_a_picture_with_grey_gaps(height, width, share):
    generator = np.random.default_rng(0)
    image = generator.uniform(0.01, 1, (4, height, width)).astype(np.float32)
    valid = generator.random((height, width)) >= share
    found = style.composite(image * valid, BANDS, valid=valid)
    assert found.shape == (height, width, 3)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found[~valid] == 0.5).all()


def test_composite_shows_the_bands_asked_for_within_the_limits():
    image = np.zeros((4, 1, 3), np.float32)
    image[:, 0] = np.array([[0.1, 0.2, 0.3]] * 3 + [[0.3, 0.2, 0.1]])
    found = style.composite(image, BANDS, style.BANDS_FALSE, limits=(0.1, 0.3))
    np.testing.assert_allclose(found[0, :, 0], [1, 0.5**0.5, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[0, :, 1], [0, 0.5**0.5, 1], rtol=1e-5, atol=1e-6)


def test_error_codes_by_hand():
    mask = np.array([[0, 1, 0, 1, 1]], np.uint8)
    label = np.array([[0, 1, 1, 0, 255]], np.uint8)
    assert style.error_codes(mask, label).tolist() == [[0, 1, 2, 3, 255]]


def test_codes_keep_their_colours_whatever_is_there():
    codes = np.array([[255, 3, 1, 77]], np.uint8)
    picture = style.coloured(codes, style.CHANGE_COLOURS, style.PAIR_CODES)
    names = ("unknown", "gained", "glacier on both", "unknown")  # without a name: unknown
    assert list(map(to_hex, picture[0])) == [style.CHANGE_COLOURS[name] for name in names]


def test_class_names_of_maps_and_of_changes_agree():
    assert len(style.CHANGE_COLOURS) == len(transition.TRANSITIONS)
    assert [name for name in style.CHANGE_COLOURS if name in ("lost", "gained")] == [
        transition.TRANSITIONS[2],
        transition.TRANSITIONS[3],
    ]
