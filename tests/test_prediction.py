import math
from itertools import pairwise

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import BANDS, Constant, FirstBand, Scene, segmenter

from glacier_utils.checkpoints import Segmenter, save_checkpoint
from glacier_utils.errors import GlacierError
from glacier_utils.prediction import (
    Strip,
    predict_file,
    predict_patches,
    predict_scene,
    window_starts,
    window_weight,
)


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (4, height, width)).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 63))
def test_windows_cover_every_pixel_and_share_the_overlap(length, window, overlap):
    overlap = min(overlap, window - 1)
    starts = window_starts(length, window, overlap)
    covered = np.zeros(length, dtype=bool)
    for start in starts:
        assert 0 <= start <= max(length - window, 0)
        covered[start : start + window] = True
    assert covered.all()
    assert all(b - a <= window - overlap for a, b in pairwise(starts))
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("overlap", [0, 1, 16, 63])
def test_weights_are_above_zero_highest_inside_and_symmetric(overlap):
    weight = window_weight(64, 48, overlap)
    assert weight.shape == (64, 48)
    assert weight.min() > 0
    assert weight.max() <= 1
    np.testing.assert_allclose(weight, weight[::-1, ::-1], rtol=1e-5)
    assert weight[32, 24] == weight.max()


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    window=st.integers(8, 64),
    share=st.floats(0, 0.9),
)
def test_a_constant_prediction_is_constant_to_the_last_pixel(height, width, window, share):
    stub = segmenter(Constant(math.log(3)))  # probability 3 / 4
    overlap = int(share * (window - 1))
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
    arguments = {"window": 24, "overlap": 8, "precision": "float32"}
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
    assert (probability[valid] == 0.5).all()
    # 3 x 6 windows; of the first two rows the first two windows touch valid pixels.
    assert network.seen == 4


def test_no_more_than_a_strip_is_read_at_once():
    source = Scene(np.ones((4, 200, 40)))
    predict_scene(segmenter(Constant(0.0)), source, window=32, overlap=8)
    assert max(source.heights) == 32


def test_an_uncovered_pixel_is_an_error():
    strip = Strip(4, 10)
    strip.add(0, np.ones((4, 6), np.float32), window_weight(4, 6, 2))
    with pytest.raises(AssertionError, match="16 pixels lie in no window"):
        strip.take(4, np.ones((4, 10), dtype=bool))


def test_finished_rows_leave_the_strip_and_the_rest_moves_up():
    strip = Strip(4, 3)
    values = np.repeat(np.float32([0.1, 0.2, 0.3, 0.4])[:, None], 3, axis=1)
    strip.add(0, values, np.full((4, 3), 0.5, np.float32))
    valid = np.ones((4, 3), dtype=bool)
    np.testing.assert_allclose(strip.take(3, valid), values[:3])
    np.testing.assert_allclose(strip.total[0] / strip.weight[0], values[3])
    assert (strip.weight[1:] == 0).all()


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


def test_patches_in_batches_equal_patches_at_once():
    images = np.random.default_rng(0).random((7, 4, 32, 32), dtype=np.float32)
    network = Segmenter("glaciernet", BANDS, [0.5] * 4, [0.3] * 4, arguments={"filters": [4, 8]})
    at_once = predict_patches(network, images, precision="float32")
    assert at_once.shape == (7, 32, 32)
    assert ((at_once >= 0) & (at_once <= 1)).all()
    np.testing.assert_allclose(
        predict_patches(network, images, batch_size=3, precision="float32"), at_once, atol=1e-5
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


def test_a_file_is_predicted_from_checkpoint_and_scene_alone(tmp_path):
    torch.manual_seed(0)
    network = Segmenter(
        "glaciernet",
        BANDS,
        [0.3] * 4,
        [0.2] * 4,
        arguments={"filters": [4, 8]},
        threshold=0.4,
        provenance={"store": "abc", "reflectance": {"scale": 10000, "offset": -1000, "nodata": 0}},
    )
    checkpoint = save_checkpoint(tmp_path / "checkpoint.pt", network)
    numbers = np.random.default_rng(0).integers(1001, 9000, (4, 70, 50)).astype(np.uint16)
    numbers[:, :10, :5] = 0
    profile = {"driver": "GTiff", "count": 4, "height": 70, "width": 50, "dtype": "uint16"}
    place = {"crs": "EPSG:32623", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 68e5)}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile, **place) as scene_file:
        scene_file.write(numbers)

    out = predict_file(
        checkpoint, tmp_path / "scene.tif", tmp_path / "map.tif", window=32, overlap=8
    )

    with rasterio.open(out) as result:
        probability, tags = result.read(1), result.tags()
        assert result.crs.to_epsg() == 32623
        assert result.transform == place["transform"]
        assert math.isnan(result.nodata)
        assert result.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert tags["MODEL"] == "glaciernet"
    assert tags["SCENE"] == "scene.tif"
    assert tags["THRESHOLD"] == "0.4"
    assert (np.isnan(probability) == (numbers[0] == 0)).all()
    reflectance = (numbers.astype(np.float32) - 1000) / 10000 * (numbers > 0)
    expected = predict_scene(network, Scene(reflectance, numbers[0] > 0), window=32, overlap=8)
    np.testing.assert_allclose(probability, expected, atol=1e-6)


def test_whose_word_on_the_numbers_counts(tmp_path, caplog):
    """The scene's own tags before the training's rule, the user's before either."""
    rule = Segmenter(
        "threshold", BANDS, [0] * 4, [1] * 4, provenance={"reflectance": {"offset": -1000}}
    )
    numbers = np.random.default_rng(0).integers(1, 9000, (4, 20, 30)).astype(np.uint16)
    profile = {"driver": "GTiff", "count": 4, "height": 20, "width": 30, "dtype": "uint16"}
    place = {"crs": "EPSG:32623", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 68e5)}
    with rasterio.open(tmp_path / "plain.tif", "w", **profile, **place) as scene:
        scene.write(numbers)
    with rasterio.open(tmp_path / "tagged.tif", "w", **profile, **place) as scene:
        scene.write(numbers)
        scene.scales, scene.offsets = [1e-4] * 4, [-0.05] * 4
    for name, said, offset in (
        ("plain.tif", {}, -1000),
        ("tagged.tif", {}, -500),
        ("tagged.tif", {"offset": -2000}, -2000),
        ("plain.tif", {"offset": -2000}, -2000),
    ):
        out = predict_file(rule, tmp_path / name, tmp_path / "map.tif", **said)
        reflectance = (numbers + np.float32(offset)) / np.float32(10000)
        expected = predict_scene(rule, Scene(reflectance, np.ones((20, 30), bool)))
        with rasterio.open(out) as result:
            np.testing.assert_allclose(result.read(1), expected, atol=1e-5)
    assert len(np.unique(expected)) > 100  # another offset would show
    assert "tagged.tif" in caplog.text  # the contradiction is told
