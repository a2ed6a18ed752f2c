"""A scene and its mirror images: each pixel as NumPy's symmetric padding has it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from stubs import Scene

from glacier_utils.synthetic.sample import MirroredScene


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    place=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_windows_are_those_of_the_padded_scene(shape, place, size):
    rng = np.random.default_rng(0)
    valid = rng.random((7, 5)) > 0.2
    source = Scene(rng.random((4, 7, 5)), valid)
    scene = MirroredScene(source, shape)
    assert scene.grid.shape == shape
    assert scene.grid.transform == source.grid.transform
    (row, col), (height, width) = place, size
    image = scene.read(row, col, height, width)
    pad = (0, 80), (0, 80)
    whole = np.pad(source.reflectance, ((0, 0), *pad), mode="symmetric")
    known = np.pad(valid, pad, mode="symmetric")
    known[shape[0] :], known[:, shape[1] :] = False, False
    part = np.s_[row : row + height, col : col + width]
    np.testing.assert_array_equal(image.valid, known[part])
    np.testing.assert_array_equal(
        image.reflectance, np.where(known[part], whole[(slice(None), *part)], 0)
    )
    assert image.grid == scene.grid.window(row, col, height, width)
