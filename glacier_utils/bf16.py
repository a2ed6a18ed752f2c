"""A network turned into bf16 for prediction, with what follows a convolution done by it.

Autocast converts weights and features anew in every pass, and leaves each activation a pass of its
own over the features, which on a processor costs as much as the sums. Here the weights are
converted once, and ReLU and the sum of a residual block are done where the convolution writes its
result (the fused operators of oneDNN that torch has for its compiler).
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from glacier_utils.precision import has_bf16
from glacier_utils.upsampling import DoubledBlock, DoubledConv

_SIDE = 64  # of the image on which the result is compared
# Mean error of the probability, in units of autocast's own and added to that: bf16 has eight bits,
# so that another order of rounding moves the last one in every layer.
_TIMES, _MORE = 2.0, 0.002


@torch.inference_mode()
def in_bf16(network: nn.Module, bands: int) -> nn.Module | None:
    """Return a copy of the network for prediction in bf16 on the CPU, float32 in and out.

    Args:
        network: float32 [n, band, row, col] -> logits, in ``eval`` mode, batch normalisations
            folded (``folding.fold_batch_norm``).
        bands: that it takes.

    Returns:
        The copy; None where the processor only emulates bf16, and the operators refuse it; where
        the network holds weights outside of convolutions (whose sums autocast leaves in float32, as
        in a transformer); or where it is farther from its probabilities in float32 than autocast
        is.
    """
    if not has_bf16():
        return None
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    held = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}
    numbers = [*network.parameters(), *network.buffers()]
    if not held or any(id(number) not in held for number in numbers):
        return None
    if numbers[0].device.type != "cpu":
        return None
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, bands, _SIDE, _SIDE, generator=generator)
    exact = network(example).sigmoid()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        usual = (network(example).float().sigmoid() - exact).abs().mean()
    try:
        made = _fused(network)
        same = (made(example).sigmoid() - exact).abs().mean() <= _TIMES * usual + _MORE
    except (RuntimeError, AttributeError):  # another torch or processor, without these operators
        return None
    return made if same else None


def _fused(network: nn.Module) -> nn.Module:
    """Return a copy in bf16, with what can be fused fused."""
    made = copy.deepcopy(network).bfloat16().to(memory_format=torch.channels_last)
    for module in list(made.modules()):
        if type(module).__name__ == "BasicBlock" and hasattr(module, "conv2"):
            _fuse_block(module)
        elif type(module).__name__ == "ResNetEncoder":
            _fuse_stem(module)
        elif isinstance(module, nn.Sequential):
            _fuse_sequence(module)
        elif isinstance(module, DoubledBlock):
            module.conv1 = FusedDoubledConv(module.conv1)
    return InBf16(made)


class InBf16(nn.Module):
    """A network in bf16 that takes and gives float32, whatever autocast is about it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.network(images.bfloat16()).float()


class ConvReLU(nn.Module):
    """A convolution and the ReLU after it, in one."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.settings = _settings(convolution)
        self.weight, self.bias = _packed(convolution), convolution.bias

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            features, self.weight, self.bias, *self.settings, "relu", [], ""
        )


class ConvAddReLU(nn.Module):
    """A convolution, the sum with other features, and a ReLU, in one."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.settings = _settings(convolution)
        self.weight, self.bias = _packed(convolution), convolution.bias

    def forward(self, features: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._convolution_pointwise.binary(
            features, other, self.weight, self.bias, *self.settings, "add", 1.0, "relu", [], None
        )


class FusedDoubledConv(nn.Module):
    """A ``DoubledConv`` whose sum and ReLU are done by its last convolution."""

    def __init__(self, layer: DoubledConv) -> None:
        super().__init__()
        up = layer.up
        self.settings = up.padding, up.output_padding, up.stride, up.dilation, up.groups
        self.weight, self.bias = _packed(up), up.bias
        self.beside = None if layer.beside is None else ConvAddReLU(layer.beside)

    def forward(self, features: torch.Tensor, others: torch.Tensor | None) -> torch.Tensor:
        found = torch.ops.mkldnn._convolution_transpose_pointwise(
            features, self.weight, self.bias, *self.settings,
            "none" if self.beside else "relu", [], "",
        )  # fmt: skip
        return self.beside(others, found) if self.beside else found


def _settings(layer: nn.Conv2d) -> tuple:
    return layer.padding, layer.stride, layer.dilation, layer.groups


def _packed(layer: nn.Conv2d | nn.ConvTranspose2d) -> torch.Tensor:
    """Return the weights in the order in which oneDNN takes them, else made in every pass."""
    size = [1, layer.in_channels, _SIDE, _SIDE]
    weight = layer.weight.detach().contiguous()
    if isinstance(layer, nn.ConvTranspose2d):
        return torch.ops.mkldnn._reorder_convolution_transpose_weight(
            weight, layer.padding, layer.output_padding, layer.stride, layer.dilation,
            layer.groups, size,
        )  # fmt: skip
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *_settings(layer), size)


class FusedBlock(nn.Module):
    """A residual block of two convolutions (He et al. 2016, CVPR)."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = ConvReLU(first), ConvAddReLU(second), shortcut

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        other = features if self.shortcut is None else self.shortcut(features)
        return self.second(self.first(features), other)


def _plain(convolution: nn.Module) -> bool:
    """Tell whether a module is a convolution whose padding the operators know."""
    return type(convolution) is nn.Conv2d and not isinstance(convolution.padding, str) and (
        convolution.padding_mode == "zeros"
    )  # fmt: skip


def _fuse_sequence(sequence: nn.Sequential) -> None:
    """Fuse each convolution with the ReLU behind it; nothing but identities may lie between."""
    children = list(sequence.named_children())
    for place, (name, module) in enumerate(children):
        behind = [pair for pair in children[place + 1 :] if not isinstance(pair[1], nn.Identity)]
        if _plain(module) and behind and type(behind[0][1]) is nn.ReLU:
            setattr(sequence, name, ConvReLU(module))
            setattr(sequence, behind[0][0], nn.Identity())


def _fuse_stem(encoder: nn.Module) -> None:
    """Fuse the first convolution of a ResNet, whose ReLU is used nowhere else."""
    children = dict(encoder.named_children())
    first = [children.get(name) for name in ("conv1", "bn1", "relu")]
    if _plain(first[0]) and isinstance(first[1], nn.Identity) and type(first[2]) is nn.ReLU:
        encoder.conv1, encoder.relu = ConvReLU(first[0]), nn.Identity()


def _fuse_block(block: nn.Module) -> None:
    """Let a residual block's forward pass be that of `FusedBlock`, if it holds nothing else."""
    known = {"conv1", "bn1", "relu", "conv2", "bn2", "downsample"}
    children = dict(block.named_children())
    plain = _plain(block.conv1) and _plain(block.conv2) and set(children) <= known
    if plain and all(isinstance(children[name], nn.Identity) for name in ("bn1", "bn2")):
        fused = FusedBlock(block.conv1, block.conv2, block.downsample)
        block.forward = fused.forward
