"""Folding batch normalisation: the same logits, fewer modules, and no harm where it cannot be."""

from __future__ import annotations

import pytest
import torch
from stubs import awake
from torch import nn

from glacier_utils.models import registry
from glacier_utils.prediction.acceleration import fold_batch_norm


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
