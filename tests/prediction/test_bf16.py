"""Networks turned into bf16: the same map as with autocast, or left alone."""

import copy

import pytest
import torch
from stubs import awake
from torch import nn

from glacier_utils.models import registry
from glacier_utils.prediction import acceleration
from glacier_utils.prediction.acceleration import (
    ConvAddReLU,
    ConvReLU,
    FusedDoubledConv,
    InBf16,
    fold_batch_norm,
    has_bf16,
    in_bf16,
    with_doubled_convolutions,
)

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="the processor has no bf16 instructions")


def folded(name: str) -> nn.Module:
    return with_doubled_convolutions(fold_batch_norm(awake(registry.build(name, 4)), 4), 4)


@needs_bf16
@torch.inference_mode()
@pytest.mark.parametrize("name", ["unet-resnet18", "glaciernet", "unet-resnet34"])
@pytest.mark.parametrize("size", [(64, 96), (50, 37)])
def test_the_network_gives_the_same_map_as_with_autocast(name, size):
    network = folded(name)
    before = copy.deepcopy(network.state_dict())
    made = in_bf16(network, 4)
    assert isinstance(made, InBf16)
    images = torch.randn(2, 4, *size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = network(images).float().sigmoid()
    exact = network(images).sigmoid()
    found = made(images)
    assert found.dtype == torch.float32
    # No farther from the map in float32 than autocast is, but for the luck of rounding.
    error, usual = ((one - exact).abs().mean() for one in (found.sigmoid(), autocast))
    assert error < 1.5 * usual + 1e-4
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@needs_bf16
@torch.inference_mode()
def test_what_follows_a_convolution_is_done_by_it():
    made = in_bf16(folded("unet-resnet18"), 4)
    fused = [m for m in made.modules() if isinstance(m, ConvReLU)]
    assert len(fused) == 1 + 5  # the stem, and the second of each of the decoder's blocks
    doubled = [m for m in made.modules() if isinstance(m, FusedDoubledConv)]
    assert [m.beside is None for m in doubled] == [False] * 4 + [True]
    blocks = [m for m in made.modules() if type(m).__name__ == "BasicBlock"]
    assert all("forward" in vars(block) for block in blocks)
    assert len(blocks) == 8
    features = torch.randn(1, 8, 6, 6).bfloat16().contiguous(memory_format=torch.channels_last)
    layer = nn.Conv2d(8, 8, 3, padding=1).bfloat16().to(memory_format=torch.channels_last)
    torch.testing.assert_close(ConvReLU(layer)(features), layer(features).relu())
    expected = (layer(features).float() + features.float()).relu().bfloat16()
    found = ConvAddReLU(layer)(features, features)
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0.02)


@needs_bf16
@pytest.mark.parametrize("name", ["segformer-mit_b0", "threshold"])
def test_networks_with_other_weights_are_left_to_autocast(name):
    assert in_bf16(fold_batch_norm(registry.build(name, 4).eval(), 4), 4) is None


class Wild(nn.Module):
    """A network whose result depends on the rounding of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images)[:, 0] * (1e4 if images.dtype == torch.bfloat16 else 1)


@needs_bf16
def test_a_network_that_comes_to_something_else_is_left_to_autocast():
    assert in_bf16(Wild().eval(), 4) is None


@torch.inference_mode()
def test_a_processor_that_only_emulates_bf16_is_left_to_autocast(monkeypatch):
    monkeypatch.setattr(acceleration, "has_bf16", lambda: False)
    assert in_bf16(folded("glaciernet"), 4) is None


@torch.inference_mode()
def test_operators_that_refuse_leave_the_network_to_autocast(monkeypatch):
    def refuse(layer):
        raise RuntimeError("mkldnn_reorder_conv2d_weight: bf16 path needs the cpu support avx512bw")

    monkeypatch.setattr(acceleration, "has_bf16", lambda: True)
    monkeypatch.setattr(acceleration, "_packed", refuse)
    assert in_bf16(folded("glaciernet"), 4) is None
