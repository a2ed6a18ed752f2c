"""Means over neighbourhoods: those of patches as trained, in windows of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import BANDS, Scene, segmenter
from torch import nn

from glacier_utils.models.checkpoint import Segmenter
from glacier_utils.prediction.mapper import LocalPooling, Mapper, local_mean, predict_scene


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    side=st.sampled_from([20, 32, 64, 96, 128]),
    stride=st.sampled_from([4, 8, 16, 32]),
)
def test_constant_features_have_their_own_mean_up_to_the_edge(height, width, side, stride):
    rows, cols = (max(length * 32 // stride, 1) for length in (height, width))
    found = local_mean(torch.full((2, 3, rows, cols), 0.7), side, stride)
    torch.testing.assert_close(found, torch.full_like(found, 0.7))
    small = max(rows, cols) * stride <= max(round(side / 32), 1) * 32
    assert found.shape[2:] == ((1, 1) if small else (rows, cols))


def test_an_image_no_larger_than_the_neighbourhood_has_one_mean():
    features = torch.randn(2, 3, 16, 12)
    expected = features.mean((2, 3), keepdim=True)
    torch.testing.assert_close(local_mean(features, 128, 8), expected)
    assert local_mean(features, 64, 8).shape == features.shape


@pytest.mark.parametrize("side", [64, 128])
def test_means_about_corners_of_cells_are_those_of_the_pixels_around(side):
    torch.manual_seed(0)
    features = torch.randn(1, 1, 256, 256)  # as large as the image: cells of 32 px
    found = local_mean(features, side)[0, 0]
    half = side // 2
    for row, col in ((128, 128), (96, 160), (64, 32), (0, 0)):
        rows, cols = (slice(max(at - half, 0), at + half) for at in (row, col))
        # Between corners means are linear: the four pixels about one come to it.
        about = found[max(row - 1, 0) : row + 1, max(col - 1, 0) : col + 1].mean()
        expected = features[0, 0, rows, cols].mean()
        assert abs(about - expected) < 0.01
    edge = local_mean(torch.arange(256.0).expand(1, 1, 256, 256).contiguous(), side)[0, 0]
    assert edge[100, 0] == pytest.approx((half - 1) / 2, abs=1)  # what lies inside the frame
    assert edge[100, 128] == pytest.approx(128, abs=1)


def test_only_means_over_whole_images_become_local():
    features = torch.randn(1, 2, 16, 16)  # of an image of 128 px
    with LocalPooling(64, 128):
        found = [
            F.adaptive_avg_pool2d(features, 1),
            F.adaptive_avg_pool2d(features, output_size=(1, 1)),
            nn.AdaptiveAvgPool2d(1)(features),
            features.mean((2, 3), keepdim=True),
            torch.mean(features, dim=(-2, -1), keepdim=True),
        ]
        left = [
            F.adaptive_avg_pool2d(features, 2),
            F.adaptive_avg_pool2d(features[0], 1),
            features.mean((2, 3)),
            features.mean(1, keepdim=True),
            features.mean(),
        ]
    for one in found:
        torch.testing.assert_close(one, local_mean(features, 64, 8))
    shapes = [(1, 2, 2, 2), (2, 1, 1), (1, 2), (1, 1, 16, 16), ()]
    assert [tuple(one.shape) for one in left] == shapes
    assert features.mean((2, 3), keepdim=True).shape == (1, 2, 1, 1)  # and only while active


@pytest.mark.parametrize(
    ("name", "arguments", "pools"),
    [
        ("unet-resnet18", {}, False),
        ("glaciernet", {}, False),
        ("unet-efficientnet-b0", {}, True),
        ("unet-resnet18", {"decoder_attention_type": "scse"}, True),
        ("deeplabv3plus-resnet18", {}, True),
        ("unet-tu-efficientnet_lite0", {}, False),
        ("unet-tu-mobilenetv3_small_100", {}, True),
    ],
)
def test_networks_that_take_means_over_their_image_are_known(name, arguments, pools):
    mapper = Mapper(Segmenter(name, BANDS, np.zeros(4), np.ones(4), arguments=arguments))
    for _ in range(2):  # seen in the first pass, kept for the next
        mapper.probability(np.ones((1, 4, 64, 64), np.float32))
        assert mapper._pools == [pools]


class Mean(nn.Module):
    """Gives the mean of the first band over the image as the logit, everywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = images[:, :1]
        return (F.adaptive_avg_pool2d(first, 1) + 0 * first)[:, 0]


def test_a_window_larger_than_a_patch_sees_means_of_its_neighbourhood():
    image = np.full((4, 512, 512), 0.1, np.float32)
    image[:, :, 256:] = 2.1
    model = segmenter(Mean())
    model.provenance["patch_px"] = 64
    logit = torch.logit(torch.from_numpy(predict_scene(model, Scene(image), window=512))).numpy()
    np.testing.assert_allclose(logit[:, :192], 0.1, atol=2e-2)
    np.testing.assert_allclose(logit[:, 320:], 2.1, atol=2e-2)
    assert logit[100, 256] == pytest.approx(1.1, abs=0.05)
    del model.provenance["patch_px"]  # an older checkpoint: patches of 128 px
    wide = torch.logit(torch.from_numpy(predict_scene(model, Scene(image), window=512))).numpy()
    assert 0.2 < wide[100, 215] < 0.9
    np.testing.assert_allclose(wide[:, :160], 0.1, atol=2e-2)


@pytest.mark.slow
def test_patches_and_mirror_images_of_them_are_seen_as_in_training():
    torch.manual_seed(0)
    model = Segmenter("unet-efficientnet-b0", BANDS, np.zeros(4), np.ones(4)).eval()
    images = np.random.default_rng(0).random((2, 4, 128, 128), np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).sigmoid().numpy()
    found = Mapper(model, precision="float32").probability(images)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    larger = np.tile(images[:1], (1, 1, 3, 3))  # alike all over, so its means are those of one
    flipped = Mapper(model, precision="float32", flips=True).probability(larger)
    assert flipped.shape == (1, 384, 384)
    mirrored = Mapper(model, precision="float32", flips=True).probability(larger[..., ::-1].copy())
    np.testing.assert_allclose(mirrored[..., ::-1], flipped, atol=1e-4)
