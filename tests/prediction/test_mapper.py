import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import BANDS, Constant, FirstBand, Scene, segmenter

from glacier_utils.errors import GlacierError
from glacier_utils.models.checkpoint import Segmenter
from glacier_utils.prediction import mapper as mapper_module
from glacier_utils.prediction.mapper import (
    ROWS_CONVERTED,
    Mapper,
    Plan,
    predict_patches,
    predict_scene,
)


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (4, height, width)).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    window=st.integers(8, 64),
    fraction=st.floats(0, 0.9),
)
def test_a_constant_prediction_is_constant_to_the_last_pixel(height, width, window, fraction):
    stub = segmenter(Constant(math.log(3)))  # probability 3 / 4
    overlap = int(fraction * (window - 1))
    probability = predict_scene(
        stub, Scene(np.ones((4, height, width))), window=window, overlap=overlap
    )
    assert probability.shape == (height, width)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, 0.75, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(20, 80), st.integers(20, 80), st.integers(0, 12), st.integers(0, 12))
def test_where_windows_lie_does_not_matter(height, width, down, right):
    image = scene(height, width)
    stub = segmenter(FirstBand())
    arguments = {"window": 24, "overlap": 8}
    stub = Mapper(stub, precision="float32")
    whole = predict_scene(stub, Scene(image), **arguments)
    part = predict_scene(stub, Scene(image[:, down:, right:]), **arguments)
    np.testing.assert_allclose(whole, sigmoid(image[0]), atol=2e-6)
    np.testing.assert_allclose(part, whole[down:, right:], atol=2e-6)


def test_invalid_pixels_are_nan_and_empty_windows_cost_nothing():
    valid = np.zeros((40, 100), dtype=bool)
    valid[5:20, 3:30] = True
    network = Constant(0.0)
    source = Scene(np.ones((4, 40, 100)), valid)
    probability = predict_scene(segmenter(network), source, window=20, overlap=4)
    assert (np.isnan(probability) == ~valid).all()
    np.testing.assert_allclose(probability[valid], 0.5, atol=1e-6)
    # 3 x 6 windows; of the first two rows the first two windows touch valid pixels.
    assert network.seen == 4


def test_windows_without_a_wanted_pixel_cost_nothing_and_change_nothing():
    image, where = scene(40, 100), np.zeros((40, 100), bool)
    where[5:20, 3:30] = True
    mapper = Mapper(segmenter(FirstBand()), precision="float32")
    whole = predict_scene(mapper, Scene(image), window=20, overlap=4)
    part = predict_scene(mapper, Scene(image), window=20, overlap=4, where=where)
    np.testing.assert_allclose(part[where], whole[where], atol=1e-6)
    assert np.isnan(part[~where]).all()
    network = Constant(0.0)
    predict_scene(segmenter(network), Scene(image), window=20, overlap=4, where=where)
    assert network.seen == 4  # as where the others are invalid, above


@settings(max_examples=10, deadline=None)
@given(st.integers(20, 120), st.integers(20, 300), st.integers(20, 300), st.integers(0, 2**32 - 1))
def test_what_is_wanted_is_the_same_whatever_the_panels(height, width, widest, seed):
    where = np.random.default_rng(seed).random((height // 10 + 1, width // 10 + 1)) < 0.2
    where = where.repeat(10, 0).repeat(10, 1)[:height, :width]
    mapper = Mapper(segmenter(FirstBand()), precision="float32")
    source = Scene(scene(height, width))
    options = {"window": 40, "overlap": 12, "widest": widest}
    blocks = zip(Plan(mapper, source, **options).blocks(),
                 Plan(mapper, source, **options, where=where).blocks(), strict=True)  # fmt: skip
    for whole, part in blocks:
        rows, cols = whole.maps.shape[1:]
        wanted = where[whole.row : whole.row + rows, whole.col : whole.col + cols]
        np.testing.assert_allclose(part.maps[0][wanted], whole.maps[0][wanted], atol=1e-6)


def test_little_is_read_at_once_and_every_row_once():
    source = Scene(np.ones((4, 2000, 40)))
    predict_scene(segmenter(Constant(0.0)), source, window=320, overlap=64)
    assert max(source.heights) == ROWS_CONVERTED
    assert sum(source.heights) == 2000


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 300),
    widest=st.integers(20, 300),
    finished=st.floats(0, 1),
    hole=st.booleans(),
)
def test_blocks_make_up_the_scene_whatever_panels_and_where_the_work_goes_on(
    height, width, widest, finished, hole
):
    image = scene(height, width)
    valid = np.ones((height, width), bool)
    valid[: height // 3, : width // 2] = not hole
    source = Scene(image, valid)
    mapper = Mapper(segmenter(FirstBand()), precision="float32")
    whole = predict_scene(mapper, source, window=40, overlap=12)
    plan = Plan(mapper, source, window=40, overlap=12, widest=widest)
    blocks = list(plan.blocks())
    assert len(blocks) == len(plan)
    result = np.full((height, width), 9, np.float32)
    for block in blocks:
        rows, cols = block.maps.shape[1:]
        part = result[block.row : block.row + rows, block.col : block.col + cols]
        assert (part == 9).all()  # no pixel is given twice
        part[...] = block.maps[0]
    np.testing.assert_array_equal(result, whole)
    done = int(finished * len(plan))
    for block, again in zip(blocks[done:], plan.blocks(done), strict=True):
        np.testing.assert_array_equal(block.maps, again.maps)


def test_the_rest_of_a_map_by_a_network_is_the_same_to_the_last_bit():
    torch.manual_seed(0)
    network = Segmenter("glaciernet", BANDS, [0.5] * 4, [0.3] * 4, arguments={"filters": [4, 8]})
    source = Scene(np.random.default_rng(0).random((4, 300, 150)))
    plan = Plan(Mapper(network, precision="float32"), source, window=96, overlap=40)
    blocks = list(plan.blocks())
    assert len(blocks) > 4
    for block, again in zip(blocks[3:], plan.blocks(3), strict=True):
        np.testing.assert_array_equal(block.maps, again.maps)


def test_an_ensemble_is_the_mean_of_its_members():
    image = scene(30, 40)
    other = ("nir", "blue", "green", "red")
    one, two = segmenter(FirstBand()), segmenter(FirstBand(), bands=other)
    one.threshold, two.threshold = 0.3, 0.6
    mapper = Mapper([one, two], precision="float32")
    expected = (sigmoid(image[0]) + sigmoid(image[3])) / 2
    np.testing.assert_allclose(predict_scene(mapper, Scene(image)), expected, atol=1e-6)
    mean, spread = mapper.maps(image[None])[0]
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    np.testing.assert_allclose(spread, abs(sigmoid(image[0]) - sigmoid(image[3])) / 2, atol=1e-6)
    assert (mapper.layers, Mapper(one).layers) == (2, 1)
    assert mapper.threshold == pytest.approx(0.45)
    assert mapper.name == "threshold + threshold"
    with pytest.raises(GlacierError, match="one set of bands"):
        Mapper([one, segmenter(FirstBand(), bands=BANDS[:3])])
    with pytest.raises(GlacierError, match="name a checkpoint"):
        Mapper([])


def test_bands_are_found_by_name():
    image = scene(20, 20)
    order = ("nir", "swir", "red", "green", "blue")
    other = np.stack([image[3], image[0] * 0 + 9, image[0], image[1], image[2]])
    stub = segmenter(FirstBand())
    np.testing.assert_array_equal(
        predict_scene(stub, Scene(other, bands=order)), predict_scene(stub, Scene(image))
    )
    with pytest.raises(GlacierError, match="needs nir"):
        predict_scene(stub, Scene(image[:3], bands=BANDS[:3]))


def test_overlap_must_be_below_the_window():
    with pytest.raises(GlacierError, match="overlap 64"):
        predict_scene(segmenter(Constant(0.0)), Scene(np.ones((4, 9, 9))), window=64)


def test_flips_change_nothing_for_a_model_of_pixels():
    image = scene(30, 22)
    stub = segmenter(FirstBand())
    kept = predict_patches(stub, image[None], precision="float32")
    np.testing.assert_allclose(
        predict_patches(stub, image[None], precision="float32", flips=True), kept, atol=1e-6
    )


def test_patches_in_batches_equal_patches_at_once(monkeypatch):
    images = np.random.default_rng(0).random((7, 4, 32, 32), dtype=np.float32)
    network = Segmenter("glaciernet", BANDS, [0.5] * 4, [0.3] * 4, arguments={"filters": [4, 8]})
    at_once = predict_patches(network, images, precision="float32")
    assert at_once.shape == (7, 32, 32)
    assert ((at_once >= 0) & (at_once <= 1)).all()
    monkeypatch.setattr(mapper_module, "BATCH", 3)
    np.testing.assert_allclose(
        predict_patches(network, images, precision="float32"), at_once, atol=1e-5
    )
    np.testing.assert_allclose(
        predict_patches(network, images, positions=[5, 2], precision="float32"),
        at_once[[5, 2]],
        atol=1e-5,
    )
    # bf16 keeps 8 bits of a number: near, not equal
    near = predict_patches(network, images, precision="bf16")
    assert np.abs(near - at_once).mean() < 0.02
    with pytest.raises(GlacierError, match="red, green, blue, nir"):
        predict_patches(network, images[:, :3])
