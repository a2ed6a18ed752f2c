"""Faster passes that come to the same: number formats, fewer layers, fewer multiplications.

- **Number format.** bf16 where the processor is faster in it, else float32; images lie in
  memory with their bands last, which no processor that was tried is slower in.
- **Folding.** With fixed statistics a batch normalisation is one multiplication and one addition a
  channel, which the weights of the convolution before it can hold.
- **Convolving before doubling.** Features that are doubled by repeating each pixel show a 3 x 3
  convolution no more than 2 x 2 different pixels at a time. A transposed convolution of stride 2,
  whose 4 x 4 weights are sums of the 3 x 3 ones, makes the same of the features before they are
  doubled, with 4 instead of 9 multiplications (the reverse of the sub-pixel convolution of Shi et
  al. 2016, CVPR). And features that are put beside others to be convolved need not be copied: the
  sum of two convolutions is the same.

Each rewritten network is compared with the original on a small image, and left where they differ.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from glacier_utils.errors import GlacierError, did_you_mean

PRECISIONS = ("auto", "bf16", "float32")
_SIDE = 64  # px of the image on which a rewritten network is compared with the original
_TOLERANCE = 1e-3  # of the logits, relative to their largest: another order of float32 sums
# Which rows (or columns) of the 3 x 3 weights add up to each of the 4 x 4 ones.
_SUMS = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])


def resolve(precision: str = "auto", device: str | torch.device = "cpu") -> str:
    """Return the number format of a forward pass.

    Args:
        precision: "bf16", "float32", or "auto" for bf16 where it is faster (without instructions
            for it, bf16 is emulated, several times slower than float32).
        device: on which the network runs.

    Returns:
        "bf16" or "float32".

    Raises:
        GlacierError: another name.

    Example:
        >>> resolve("float32")
        'float32'
    """
    if precision not in PRECISIONS:
        raise GlacierError(f"precision {precision!r}: {did_you_mean(precision, PRECISIONS)}")
    if precision != "auto":
        return precision
    kind = torch.device(device).type
    fast = torch.cuda.is_bf16_supported() if kind == "cuda" else kind == "cpu" and faster_in_bf16()
    return "bf16" if fast else "float32"


def faster_in_bf16() -> bool:
    """Tell whether the processor is faster in bf16 (AMX, AVX-512 BF16, or Arm's BF16)."""
    features = torch.cpu.get_capabilities()
    # AVX512-FP16 marks Intel's processors with AMX; where a virtual machine hides it, a U-Net takes
    # 1.3 to 1.4 times as long in bf16 as in float32.
    names = ("amx_bf16", "bf16") if features.get("avx512_fp16") else ("avx512_bf16", "bf16")
    return any(features.get(name, False) for name in names)


def autocast(device: str | torch.device, precision: str) -> torch.autocast:
    """Return the context in which a forward pass runs in ``precision`` (as of ``resolve``)."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def faster_steps(network: nn.Module, *, bf16: bool) -> Iterator[None]:
    """Let a network train faster on a processor; its weights stay what and where they are.

    A U-Net decoder convolves features before it doubles them: the 4 x 4 weights are made of its own
    in each pass, and gradients go back through that. A U-Net with a ResNet-18 takes an eighth less
    time for a step.

    In bf16, convolutions of groups of channels run in float32, since their backward pass in bf16
    takes longer: an EfficientNet-B4 needs 0.61 instead of 0.84 s for forward and backward of 8
    patches of 128 px (2 cores, AVX512-BF16).

    Args:
        network: that trains inside the block.
        bf16: whether it trains in bf16.
    """
    changed: dict[nn.Module, Callable] = {}
    for module in network.modules():
        if _fits(module):
            changed[module] = _doubled_forward
        elif bf16 and isinstance(module, nn.Conv2d) and module.groups > 1:
            changed[module] = _without_autocast
    for module, forward in changed.items():
        module.forward = partial(forward, module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _without_autocast(layer: nn.Module, features: torch.Tensor) -> torch.Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return type(layer).forward(layer, features.float())


@torch.no_grad()
def fold_batch_norm(network: nn.Module, bands: int) -> nn.Module:
    """Return a copy for prediction in which convolutions do the batch normalisation after them.

    On a processor, where reading and writing the features costs as much as the sums, this saves a
    tenth of the time. Which convolution feeds which normalisation is seen by running the network
    once.

    Args:
        network: float32 [n, band, row, col] -> logits; it is put into ``eval`` mode.
        bands: that it takes.

    Returns:
        The copy; the network itself where it has nothing to fold, or the result differs (a
        convolution that feeds something else as well).
    """
    network = network.eval()
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    made = copy.deepcopy(network)
    image = _image(network, bands)
    names = {module: name for name, module in made.named_modules()}
    for convolution, normalisation in _pairs(made, image):
        made.set_submodule(names[convolution], fuse_conv_bn_eval(convolution, normalisation))
        made.set_submodule(names[normalisation], nn.Identity())
    return made if _same(made(image), network(image)) else network


def _image(network: nn.Module, bands: int) -> torch.Tensor:
    """Return an image to compare networks on; random numbers of others are left alone."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, bands, _SIDE, _SIDE, generator=generator)
    return image.to(next(network.parameters()).device)


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    limit = _TOLERANCE * expected.abs().max().clamp(min=1)
    return bool((found - expected).abs().max() <= limit)


def _pairs(network: nn.Module, image: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return the convolutions whose output, as it is, goes into a batch normalisation."""
    outputs: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def watch(module: Any, inputs: tuple, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            # Held with the tensor, or its address could be given to another.
            outputs[id(output)] = (module, output)
        elif id(inputs[0]) in outputs and module.track_running_stats:
            pairs.append((outputs[id(inputs[0])][0], module))

    watched = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [module.register_forward_hook(watch) for module in watched]
    network(image)
    for hook in hooks:
        hook.remove()
    # A module that is used twice cannot be folded into either.
    uses = Counter(module for pair in pairs for module in pair)
    return [pair for pair in pairs if uses[pair[0]] == uses[pair[1]] == 1]


def doubled_weight(weight: torch.Tensor) -> torch.Tensor:
    """Return [in, out, 4, 4] for ``conv_transpose2d`` with stride 2 and padding 1.

    It makes of features what a convolution with padding 1 makes of them doubled.

    Args:
        weight: of the convolution, [out, in, 3, 3].
    """
    sums = _SUMS.to(weight)
    return torch.einsum("rk,cl,oikl->iorc", sums, sums, weight)


@torch.no_grad()
def with_doubled_convolutions(network: nn.Module, bands: int) -> nn.Module:
    """Return a copy for prediction whose U-Net decoder convolves features before it doubles them.

    Args:
        network: float32 [n, band, row, col] -> logits in ``eval`` mode, batch normalisations folded
            (``fold_batch_norm``).
        bands: that it takes.

    Returns:
        The copy; the network itself where it has no such decoder, or the result differs.
    """
    if not any(_fits(module) for module in network.modules()):
        return network
    made = copy.deepcopy(network)
    for block in filter(_fits, made.modules()):
        block.forward = partial(_doubled_forward, block, keep=True)
    image = _image(network, bands)
    return made if _same(made(image), network(image)) else network


def with_bf16_weights(network: nn.Module) -> nn.Module:
    """Return a copy for prediction under ``autocast`` whose convolutions hold weights in bf16.

    Autocast makes the same of them, but anew in each pass, which takes 3 % of its time for a U-Net
    with a ResNet-18. Convolutions of other classes, which may compute their weights, stay as they
    are.

    Args:
        network: that trains no more.

    Returns:
        The copy; the network itself where it has no convolution.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return network
    made = copy.deepcopy(network)
    module: Any
    for module in made.modules():
        if type(module) in (nn.Conv2d, nn.ConvTranspose2d):
            module.to(torch.bfloat16)
        elif hasattr(module, "doubled"):
            module.doubled = [weight.to(torch.bfloat16) for weight in module.doubled]
    return made


def _doubled_forward(
    block: Any,
    features: torch.Tensor,
    height: int,
    width: int,
    skip_connection: torch.Tensor | None = None,
    *,
    keep: bool = False,  # the weights, where they change no more
) -> torch.Tensor:
    convolution, *behind = block.conv1
    if hasattr(block, "doubled"):
        weight, beside = block.doubled
    else:
        channels, count = features.shape[1], convolution.in_channels
        # Split rather than sliced twice: the gradient is joined, not added to zeros.
        weight, beside = convolution.weight.split([channels, count - channels], dim=1)
        weight = doubled_weight(weight)
        if keep:
            block.doubled = [weight.detach(), beside.detach().clone()]
    found = functional.conv_transpose2d(features, weight, convolution.bias, stride=2, padding=1)
    if skip_connection is not None:
        found = found + functional.conv2d(skip_connection, beside, padding=1)
    for module in behind:
        found = module(found)
    return block.attention2(block.conv2(found))


def _fits(block: Any) -> bool:
    """Tell whether a module is a block of smp's U-Net decoder that doubles by repeating."""
    if type(block).__name__ != "UnetDecoderBlock" or block.interpolation_mode != "nearest":
        return False
    attention = [m for m in block.attention1.modules() if not any(m.children())]
    return all(isinstance(module, nn.Identity) for module in attention)
