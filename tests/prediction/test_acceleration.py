"""Faster passes: the same map as before, or the network left alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import awake
from torch import nn

from glacier_utils.errors import GlacierError
from glacier_utils.models import registry
from glacier_utils.prediction import acceleration
from glacier_utils.prediction.acceleration import (
    _doubled_forward,
    doubled_weight,
    faster_steps,
    fold_batch_norm,
    resolve,
    with_bf16_weights,
    with_doubled_convolutions,
)


def blocks(network: nn.Module, kind: str) -> list[nn.Module]:
    return [module for module in network.modules() if type(module).__name__ == kind]


def changed(network: nn.Module) -> int:
    """Count the blocks that convolve before they double."""
    return sum("forward" in vars(block) for block in blocks(network, "UnetDecoderBlock"))


def test_weights_are_sums_of_those_that_meet_the_same_pixel():
    weight = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    # Of a doubled pixel, the last row of weights meets the row before it, and so on.
    expected = torch.zeros(4, 4)
    sums = [[2], [1, 2], [0, 1], [0]]
    for row, above in enumerate(sums):
        for col, left in enumerate(sums):
            expected[row, col] = sum(weight[0, 0, k, c] for k in above for c in left)
    torch.testing.assert_close(doubled_weight(weight)[0, 0], expected)
    assert doubled_weight(weight)[0, 0, 0].tolist() == [9, 17, 15, 7]


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels=st.integers(1, 3),
    beside=st.integers(0, 2),
    bias=st.booleans(),
)
def test_the_same_as_doubling_joining_and_convolving(height, width, channels, beside, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(channels + beside, 2, 3, padding=1, bias=bias)
    features = torch.randn(2, channels, height, width)
    others = torch.randn(2, beside, 2 * height, 2 * width) if beside else None
    joined = F.interpolate(features, scale_factor=2, mode="nearest")
    joined = joined if others is None else torch.cat([joined, others], dim=1)
    block = UnetDecoderBlock()
    block.conv1 = nn.Sequential(layer, nn.Identity(), nn.ReLU())
    found = _doubled_forward(block, features, 2 * height, 2 * width, others)
    torch.testing.assert_close(found, layer(joined).relu(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["unet-resnet18", "unet-mobilenet_v2"])
@pytest.mark.parametrize("size", [(64, 96), (50, 37), (20, 200)])
def test_a_u_net_gives_the_same_logits(name, size):
    network = fold_batch_norm(awake(registry.build(name, 4)), 4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    made = with_doubled_convolutions(network, 4)
    assert changed(made) == 5
    assert changed(network) == 0  # the original is left alone
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    images = torch.randn(2, 4, *size)
    torch.testing.assert_close(made(images), network(images), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_weights_in_bf16_give_what_autocast_makes_of_them():
    network = fold_batch_norm(awake(registry.build("unet-resnet18", 4)), 4)
    made = with_bf16_weights(network)
    images = torch.randn(1, 4, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made(images), network(images))
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())


@torch.no_grad()
def test_weights_of_doubling_blocks_are_made_once():
    made = with_doubled_convolutions(awake(registry.build("unet-resnet18", 4)), 4)
    fast = with_bf16_weights(made)
    images = torch.randn(1, 4, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fast(images).float()
    torch.testing.assert_close(found, made(images), atol=0.1, rtol=0.1)
    kept = [weight.dtype for block in blocks(fast, "UnetDecoderBlock") for weight in block.doubled]
    assert set(kept) == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("unet-resnet18", {"decoder_attention_type": "scse"}),
        ("unet-resnet18", {"decoder_interpolation": "bilinear"}),
        ("fpn-resnet18", {}),
        ("glaciernet", {}),
    ],
)
def test_other_decoders_are_left_as_they_are(name, arguments):
    network = awake(registry.build(name, 4, **arguments))
    made = with_doubled_convolutions(network, 4)
    assert made is network
    assert changed(made) == 0


@torch.no_grad()
@pytest.mark.parametrize("arguments", [{"decoder_use_norm": False}, {}])
def test_normalisations_need_not_be_folded(arguments):
    network = awake(registry.build("unet-resnet18", 4, **arguments))
    made = with_doubled_convolutions(network, 4)
    assert changed(made) == 5
    images = torch.randn(1, 4, 64, 64)
    torch.testing.assert_close(made(images), network(images), atol=1e-3, rtol=1e-3)


class UnetDecoderBlock(nn.Module):
    """Has the name and the parts of a block that fits, but does something else."""

    interpolation_mode = "nearest"

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(4, 1, 3, padding=1), nn.Identity(), nn.ReLU())
        self.conv2 = self.attention1 = self.attention2 = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv1(images)[:, 0]


def test_training_has_the_same_loss_and_gradients():
    torch.manual_seed(0)
    # In double precision: in single, rounding alone moves gradients by a hundredth, and differently
    # on each processor.
    network = registry.build("unet-resnet18", 4).double()
    images = torch.randn(2, 4, 64, 64, dtype=torch.float64)

    def gradients() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        network.zero_grad()
        loss = network(images).square().mean()
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in network.named_parameters()}

    names = list(network.state_dict())
    usual, expected = gradients()
    with faster_steps(network, bf16=False):
        assert list(network.state_dict()) == names
        assert len([b for b in blocks(network, "UnetDecoderBlock") if "forward" in vars(b)]) == 5
        loss, found = gradients()
    torch.testing.assert_close(loss, usual, atol=0, rtol=1e-9)
    for name, gradient in found.items():
        scale = expected[name].abs().max()
        assert (gradient - expected[name]).abs().max() <= 1e-9 * scale + 1e-12, name
    assert not [b for b in blocks(network, "UnetDecoderBlock") if "forward" in vars(b)]


def test_blocks_that_do_not_double_by_repeating_train_as_they_are():
    network = registry.build("unet-resnet18", 4, decoder_attention_type="scse")
    with faster_steps(network, bf16=False):
        changed = [b for b in blocks(network, "UnetDecoderBlock") if "forward" in vars(b)]
        # The last block has nothing beside it, where smp leaves its first attention out.
        assert len(changed) == 0


def count(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@torch.no_grad()
@pytest.mark.parametrize("name", ["unet-resnet18", "glaciernet", "segformer-mit_b0"])
def test_the_folded_network_gives_the_same_logits(name):
    network = awake(registry.build(name, 4))
    before = count(network)
    folded = fold_batch_norm(network, 4)
    assert count(network) == before  # the original is left alone
    assert count(folded) < before
    if name != "segformer-mit_b0":
        assert count(folded) == 0
    images = torch.randn(2, 4, 96, 64)
    expected = network(images)
    torch.testing.assert_close(folded(images), expected, atol=2e-3, rtol=1e-3)


def test_a_network_without_normalisation_comes_back_itself():
    network = nn.Conv2d(4, 1, 1)
    assert fold_batch_norm(network, 4) is network


class Branching(nn.Module):
    """A convolution whose output is used before its normalisation as well."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 1, 3, padding=1)
        self.normalisation = nn.BatchNorm2d(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.convolution(images)
        return (features + self.normalisation(features))[:, 0]


class Twice(nn.Module):
    """A convolution and a normalisation that are used two times."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, padding=1)
        self.normalisation = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            images = self.normalisation(self.convolution(images))
        return images[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("kind", [Branching, Twice])
def test_what_cannot_be_folded_stays_right(kind):
    network = awake(kind())
    images = torch.randn(1, 4, 32, 32)
    expected = network(images)
    folded = fold_batch_norm(network, 4)
    assert count(folded) == 1
    torch.testing.assert_close(folded(images), expected)


@pytest.mark.parametrize(
    ("features", "faster"),
    [
        ({"avx512_bf16": True}, True),  # AMD
        ({"avx512_bf16": True, "avx512_fp16": True, "amx_bf16": True}, True),  # Intel
        ({"avx512_bf16": True, "avx512_fp16": True}, False),  # Intel, AMX hidden
        ({"bf16": True}, True),  # Arm
        ({"avx512_f": True, "avx512_bf16": False}, False),
    ],
)
def test_bf16_is_faster_where_the_processor_has_its_own_instructions(monkeypatch, features, faster):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert acceleration.faster_in_bf16() is faster


def test_bf16_is_taken_where_the_processor_is_faster_in_it(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(acceleration, "faster_in_bf16", lambda there=there: there)
        assert resolve("auto") == ("bf16" if there else "float32")
        assert (resolve("bf16"), resolve("float32")) == ("bf16", "float32")
        assert resolve("auto", "mps") == "float32"
    with pytest.raises(GlacierError, match="did you mean 'bf16'"):
        resolve("bf61")
