"""Networks that take means over their whole image are mapped in windows as large as patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stubs import BANDS, Scene, segmenter
from torch import nn

from glacier_utils.models.checkpoint import Segmenter
from glacier_utils.prediction.mapper import Mapper, Plan, predict_patches, predict_scene


@pytest.mark.parametrize(
    ("name", "arguments", "pools"),
    [
        ("threshold", {}, False),
        ("unet-resnet18", {}, False),
        ("glaciernet", {}, False),
        ("unet-efficientnet-b0", {}, True),
        ("unet-resnet18", {"decoder_attention_type": "scse"}, True),
        ("deeplabv3plus-resnet18", {}, True),
        ("unet-tu-efficientnet_lite0", {}, False),
        ("unet-tu-mobilenetv3_small_100", {}, True),
    ],
)
def test_they_are_known(name, arguments, pools):
    model = Segmenter(name, BANDS, np.zeros(4), np.ones(4), arguments=arguments)
    model.provenance["patch_px"] = 96
    assert Mapper(model).largest == (96 if pools else None)
    del model.provenance["patch_px"]  # an older checkpoint: patches of 128 px
    assert Mapper(model).largest == (128 if pools else None)


class Mean(nn.Module):
    """Gives the mean of the first band over the image as the logit, everywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = images[:, :1]
        return (F.adaptive_avg_pool2d(first, 1) + 0 * first)[:, 0]


def test_a_scene_is_mapped_as_its_patches_are():
    generator = np.random.default_rng(0)
    image = np.kron(generator.random((4, 4, 4)), np.ones((64, 64))).astype(np.float32)
    model = segmenter(Mean())
    model.provenance["patch_px"] = 64
    patches = [image[:, r : r + 64, c : c + 64] for r in range(0, 256, 64)
               for c in range(0, 256, 64)]  # fmt: skip
    found = predict_patches(model, np.stack(patches)).reshape(4, 4, 64, 64)
    expected = found.swapaxes(1, 2).reshape(256, 256)
    mapped = predict_scene(model, Scene(image), window=512, overlap=0)
    np.testing.assert_allclose(mapped, expected, atol=1e-3)  # of bf16, where scenes are halves


@pytest.mark.parametrize(("window", "overlap"), [(None, 64), (512, 64), (64, 0), (32, 16)])
def test_no_window_is_larger_than_a_patch(window, overlap):
    model = segmenter(Mean())
    model.provenance["patch_px"] = 64
    scene = Scene(np.ones((4, 300, 200), np.float32))
    plan = Plan(Mapper(model), scene, window=window, overlap=overlap)
    assert max(plan.rows.size, plan.cols.size) <= min(window or 64, 64)
    # The smallest patch of an ensemble bounds all.
    other = segmenter(Mean())
    other.provenance["patch_px"] = 32
    assert Mapper([model, other]).largest == 32
