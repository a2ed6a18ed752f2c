"""Doubling and convolving in one step: the decoder of a U-Net with fewer multiplications.

Features that are doubled by repeating each pixel show a 3 x 3 convolution no more than 2 x 2
different pixels at a time. A transposed convolution of stride 2, whose 4 x 4 weights are sums of
the 3 x 3 ones, makes the same of the features before they are doubled, with 4 instead of 9
multiplications (the reverse of the sub-pixel convolution of Shi et al. 2016, CVPR). And features
that are put beside others to be convolved need not be copied: the sum of two convolutions is the
same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

_SIDE = 64  # of the image that finds the channels and checks the result
_TOLERANCE = 1e-3  # of the logits, for another order of float32 sums
# Which rows (or columns) of the 3 x 3 weights add up to each of the 4 x 4 ones.
_SUMS = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])


def doubled_weight(weight: torch.Tensor) -> torch.Tensor:
    """Return [in, out, 4, 4] for ``conv_transpose2d`` with stride 2 and padding 1.

    It makes of features what the convolution ``weight`` [out, in, 3, 3] with padding 1 makes of
    them doubled.
    """
    sums = _SUMS.to(weight)
    return torch.einsum("rk,cl,oikl->iorc", sums, sums, weight)


class DoubledConv(nn.Module):
    """A 3 x 3 convolution of doubled features and others of that size, and a ReLU.

    Args:
        convolution: of the doubled features and, behind them, the others; padding 1.
        channels: of the features that are doubled.
    """

    def __init__(self, convolution: nn.Conv2d, channels: int) -> None:
        super().__init__()
        weight, bias = convolution.weight.detach(), convolution.bias
        count, others = len(weight), weight.shape[1] - channels
        self.up = nn.ConvTranspose2d(channels, count, 4, 2, 1, bias=bias is not None)
        self.up.weight.data = doubled_weight(weight[:, :channels])
        if bias is not None:
            self.up.bias.data = bias.detach().clone()
        self.beside = None
        if others:
            self.beside = nn.Conv2d(others, count, 3, padding=1, bias=False)
            self.beside.weight.data = weight[:, channels:].clone()

    def forward(self, features: torch.Tensor, others: torch.Tensor | None) -> torch.Tensor:
        """Map [n, channel, row, col] and others of twice the size to features of twice the size."""
        found = self.up(features)
        return F.relu(found if self.beside is None else found + self.beside(others))


class DoubledBlock(nn.Module):
    """What a block of smp's U-Net decoder does, for prediction."""

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv1 = DoubledConv(block.conv1[0], channels)
        self.conv2, self.attention2 = block.conv2, block.attention2

    def forward(
        self,
        features: torch.Tensor,
        height: int,
        width: int,
        skip_connection: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.attention2(self.conv2(self.conv1(features, skip_connection)))


@torch.no_grad()
def with_doubled_convolutions(network: nn.Module, bands: int) -> nn.Module:
    """Return a copy for prediction whose U-Net decoder convolves features before it doubles them.

    Args:
        network: float32 [n, band, row, col] -> logits in ``eval`` mode, batch normalisations folded
            (``folding.fold_batch_norm``). Where it has no such decoder, or a pass of the copy comes
            to something else, it is returned itself.
        bands: that it takes.
    """
    names = [name for name, m in network.named_modules() if _fits(m) and _is_bare(m)]
    if not names:
        return network
    made = copy.deepcopy(network)
    parameter = next(made.parameters())
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, bands, _SIDE, _SIDE, generator=generator).to(parameter.device)
    blocks = {made.get_submodule(name): name for name in names}
    channels: dict[nn.Module, int] = {}
    hooks = [
        block.register_forward_pre_hook(
            lambda block, inputs: channels.update({block: inputs[0].shape[1]})
        )
        for block in blocks
    ]
    before = made(example)
    for hook in hooks:
        hook.remove()
    for block, count in channels.items():
        parent, _, last = blocks[block].rpartition(".")
        setattr(made.get_submodule(parent), last, DoubledBlock(block, count))
    try:
        difference = (made(example) - before).abs().max()
    except (RuntimeError, TypeError):  # a block of that name that is another one
        return network
    return made if difference <= _TOLERANCE * before.abs().max().clamp(min=1) else network


@contextmanager
def doubled_convolutions(network: nn.Module, *, active: bool = True) -> Iterator[None]:
    """Let a U-Net decoder convolve features before it doubles them, while it trains on a processor.

    Its weights stay what and where they are: the 4 x 4 ones are made of them in each pass, and
    gradients go back through that. A U-Net with a ResNet-18 takes an eighth less time for a step.
    """
    blocks = [module for module in network.modules() if active and _fits(module)]
    for block in blocks:
        # On the instance: the names of the weights stay as they are.
        block.forward = partial(_forward, block)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _forward(
    block: nn.Module,
    features: torch.Tensor,
    height: int,
    width: int,
    skip_connection: torch.Tensor | None = None,
) -> torch.Tensor:
    convolution, *behind = block.conv1
    channels, count = features.shape[1], convolution.in_channels
    # Split rather than sliced twice: the gradient is joined, not added to zeros.
    weight, beside = convolution.weight.split([channels, count - channels], dim=1)
    weight = doubled_weight(weight)
    found = F.conv_transpose2d(features, weight, convolution.bias, stride=2, padding=1)
    if skip_connection is not None:
        found = found + F.conv2d(skip_connection, beside, padding=1)
    for module in behind:
        found = module(found)
    return block.attention2(block.conv2(found))


def _fits(block: nn.Module) -> bool:
    """Tell whether a module is a block of smp's U-Net decoder that doubles by repeating."""
    if type(block).__name__ != "UnetDecoderBlock" or block.interpolation_mode != "nearest":
        return False
    first = block.conv1[0]
    shape = (first.kernel_size, first.stride, first.padding, first.dilation, first.groups)
    plain = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and first.padding_mode == "zeros"
    attention = [m for m in block.attention1.modules() if not any(m.children())]
    return plain and all(isinstance(module, nn.Identity) for module in attention)


def _is_bare(block: nn.Module) -> bool:
    """Tell whether nothing lies between the first convolution of a block and its ReLU."""
    kinds = [type(module) for module in block.conv1]
    return kinds == [nn.Conv2d, nn.Identity, nn.ReLU]
