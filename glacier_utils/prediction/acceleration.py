"""How the C library hands memory back, for processes that map scenes and nothing else.

Which number format and memory layout a processor is fast in, measured where it is used.

Batch normalisation folded into the convolutions before it: the same network, a pass less.

Doubling and convolving in one step: the decoder of a U-Net with fewer multiplications.

Features that are doubled by repeating each pixel show a 3 x 3 convolution no more than 2 x 2
different pixels at a time. A transposed convolution of stride 2, whose 4 x 4 weights are sums of
the 3 x 3 ones, makes the same of the features before they are doubled, with 4 instead of 9
multiplications (the reverse of the sub-pixel convolution of Shi et al. 2016, CVPR). And features
that are put beside others to be convolved need not be copied: the sum of two convolutions is the
same.

A network turned into bf16 for prediction, with what follows a convolution done by it.

Autocast converts weights and features anew in every pass, and leaves each activation a pass of its
own over the features, which on a processor costs as much as the sums. Here the weights are
converted once, and ReLU and the sum of a residual block are done where the convolution writes its
result (the fused operators of oneDNN that torch has for its compiler).
"""

from __future__ import annotations

import copy
import ctypes
import gc
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from glacier_utils.errors import GlacierError

# Of glibc's malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD.
_SETTINGS = {-8: 1, -3: 2**25, -1: 2**26}
_library: ctypes.CDLL | None = None  # where ``hold_little`` was called


def hold_little() -> bool:
    """Let this process hold little memory that it does not use, from now on.

    By default each thread gets a heap of its own, and a process that maps a Sentinel-2 tile holds
    some 200 MB in several of them that nothing uses. Now there is one heap, ``trim`` gives back
    what is free in it, and blocks of 32 MB and more go back when they are freed. (Giving back all
    of 1 MB and more, which each pass of a network then takes anew, cost up to half of the rate.)

    To be called before threads are started and libraries loaded.

    Returns:
        Whether it was set; False where the C library is not glibc.
    """
    global _library
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
    except (OSError, AttributeError):
        return False
    taken = [library.mallopt(name, value) for name, value in _SETTINGS.items()]
    _library = library
    return all(taken)


def trim(*, collect: bool = False) -> None:
    """Give back what is free in the heap, in a process that called ``hold_little``.

    Takes some ms; Python's garbage is collected first if ``collect`` says so.
    """
    if _library is not None:
        if collect:
            gc.collect()
        _library.malloc_trim(0)


# A format that a processor has instructions for is left only where it is clearly slower: far from
# what measurements scatter by on a busy machine, so that it decides alike each time.
_CLEAR_LOSS = 0.6
_REPEATS = 10


def resolve(precision: str = "auto", device: str | torch.device = "cpu") -> str:
    """Return "bf16" or "float32"; "auto" takes bf16 where the processor is faster in it.

    That asks for instructions for it (without them it is emulated, several times slower than
    float32), and that ``measured`` does not find it clearly slower. Raises GlacierError for other
    names.
    """
    if precision in ("bf16", "float32"):
        return precision
    if precision != "auto":
        raise GlacierError(f"precision {precision!r}: must be auto, bf16 or float32")
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    if not has_bf16():
        return "float32"
    if torch.device(device).type != "cpu":
        return "float32"
    return "bf16" if measured()["bf16_over_float32"] > _CLEAR_LOSS else "float32"


def memory_format(precision: str, device: str | torch.device = "cpu") -> torch.memory_format:
    """Return the layout of images in which convolutions run fastest in ``precision``."""
    if torch.device(device).type != "cpu":
        return torch.channels_last
    gain = measured()[f"channels_last_{precision}"]
    return torch.channels_last if gain > _CLEAR_LOSS else torch.contiguous_format


@lru_cache(maxsize=1)
def measured() -> dict[str, float]:
    """Time a convolution in each format on this processor, once a process (about 0.4 s).

    On one thread: several wait for each other on a busy machine, which counts as work. What is
    found clearly slower is timed again and again before that is believed, so that every process on
    a machine finds the same.

    Returns:
        bf16_over_float32: how many times faster bf16 is in channels-last; 0 without instructions
        for it. channels_last_bf16, channels_last_float32: how many times faster that layout is than
        the default one.
    """
    formats = ("bf16", "float32") if has_bf16() else ("float32",)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
            work = {
                (name, layout): _convolution(name, layout)
                for name in formats
                for layout in (torch.channels_last, torch.contiguous_format)
            }
            for step in work.values():
                step()  # the first call of each prepares it
            seconds = dict.fromkeys(work, math.inf)
            for _ in range(_REPEATS):
                # In turns, so that whatever else the machine does for a moment meets all of them.
                for _, (key, step) in itertools.product(range(5), work.items()):
                    seconds[key] = min(seconds[key], _seconds(step))
                if min(_gains(seconds).values()) > _CLEAR_LOSS:
                    break
                time.sleep(0.1)
    finally:
        torch.set_num_threads(threads)
    # Where bf16 is asked for by name but emulated, its layout is that of float32.
    gains = _gains(seconds)
    emulated = {"bf16_over_float32": 0.0, "channels_last_bf16": gains["channels_last_float32"]}
    return emulated | gains


def _gains(seconds: dict[tuple[str, torch.memory_format], float]) -> dict[str, float]:
    """Return ``measured`` of the formats that were timed."""
    fast, default = torch.channels_last, torch.contiguous_format
    gains = {
        f"channels_last_{name}": seconds[name, default] / seconds[name, fast]
        for name, layout in seconds
        if layout == fast
    }
    if ("bf16", fast) in seconds:
        gains["bf16_over_float32"] = seconds["float32", fast] / seconds["bf16", fast]
    return gains


def _convolution(name: str, layout: torch.memory_format) -> Callable[[], None]:
    """Return forward and backward of a layer as they stand in the middle of a network."""
    generator = torch.Generator().manual_seed(0)  # the caller's own numbers are left alone
    images = torch.randn(4, 64, 48, 48, generator=generator).contiguous(memory_format=layout)
    weight = torch.randn(64, 64, 3, 3, generator=generator).contiguous(memory_format=layout)
    weight.requires_grad_()

    def work() -> None:
        with autocast("cpu", name):
            F.conv2d(images, weight, padding=1).float().square().mean().backward()

    return work


def _seconds(work: Callable[[], None]) -> float:
    """Return seconds of processor, which other programs on the machine hardly change."""
    start = time.process_time()
    work()
    return time.process_time() - start


def has_bf16() -> bool:
    """Tell whether the processor multiplies bf16 itself (AVX-512 BF16, AMX, or Arm's BF16)."""
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(device: str | torch.device, precision: str) -> torch.autocast:
    """Return the context in which a forward pass runs in ``precision`` (as of ``resolve``)."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def grouped_in_float32(network: nn.Module, *, active: bool = True) -> Iterator[None]:
    """Let convolutions of groups of channels run in float32 while a network trains in bf16.

    On a CPU their backward pass in bf16 takes longer than in float32: an EfficientNet-B4 needs 0.61
    instead of 0.84 s for forward and backward of 8 patches of 128 px (2 cores, AVX512-BF16).
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    layers = layers if active else []
    for layer in layers:
        # On the instance: the names of the weights stay as they are.
        layer.forward = partial(_outside_autocast, type(layer).forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _outside_autocast(
    forward: Callable[..., torch.Tensor], layer: nn.Module, features: torch.Tensor
) -> torch.Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return forward(layer, features.float())


_FOLDING_SIDE = 64  # of the image that finds the pairs and checks the result
# Logits may differ by the rounding of float32 sums, relative to their largest.
_FOLDING_TOLERANCE = 1e-3


@torch.no_grad()
def fold_batch_norm(network: nn.Module, bands: int) -> nn.Module:
    """Return a copy for prediction in which convolutions do the batch normalisation after them.

    With fixed statistics a normalisation is one multiplication and one addition a channel, which
    the weights of the convolution before it can hold (torch.nn.utils.fusion). On a processor, where
    reading and writing the features costs as much as the sums, this saves a tenth of the time.

    Which convolution feeds which normalisation is seen by running the network once; the result is
    compared with the original, which is returned where they differ (a convolution that feeds
    something else as well).

    Args:
        network: float32 [n, band, row, col] -> logits; it is put into ``eval`` mode, and returned
            itself where it has nothing to fold.
        bands: that it takes.
    """
    original = network.eval()
    if not any(isinstance(module, nn.BatchNorm2d) for module in original.modules()):
        return original
    network = copy.deepcopy(original)
    parameter = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, bands, _FOLDING_SIDE, _FOLDING_SIDE, generator=generator).to(
        parameter.device
    )
    before = original(example)
    names = {module: name for name, module in network.named_modules()}
    for convolution, normalisation in _pairs(network, example):
        _replace(network, names[convolution], fuse_conv_bn_eval(convolution, normalisation))
        _replace(network, names[normalisation], nn.Identity())
    after = network(example)
    if (after - before).abs().max() <= _FOLDING_TOLERANCE * before.abs().max().clamp(min=1):
        return network
    return original


def _pairs(network: nn.Module, example: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return the convolutions whose output, as it is, goes into a batch normalisation."""
    outputs: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    pairs = []

    def watch(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            # Kept with the tensor, or its address could be given to another.
            outputs[id(output)] = (module, output)
        elif id(inputs[0]) in outputs and module.track_running_stats:
            pairs.append((outputs[id(inputs[0])][0], module))

    watched = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [module.register_forward_hook(watch) for module in watched]
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    # A module that is used twice cannot be folded into either.
    convolutions = [convolution for convolution, _ in pairs]
    normalisations = [normalisation for _, normalisation in pairs]
    return [
        (one, other)
        for one, other in pairs
        if convolutions.count(one) == 1 and normalisations.count(other) == 1
    ]


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


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
            (``acceleration.fold_batch_norm``). Where it has no such decoder, or a pass of the copy comes
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


_BF16_SIDE = 64  # of the image on which the result is compared
# Mean error of the probability, in units of autocast's own and added to that: bf16 has eight bits,
# so that another order of rounding moves the last one in every layer.
_TIMES, _MORE = 2.0, 0.002


@torch.inference_mode()
def in_bf16(network: nn.Module, bands: int) -> nn.Module | None:
    """Return a copy of the network for prediction in bf16 on the CPU, float32 in and out.

    Args:
        network: float32 [n, band, row, col] -> logits, in ``eval`` mode, batch normalisations
            folded (``acceleration.fold_batch_norm``).
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
    example = torch.randn(1, bands, _BF16_SIDE, _BF16_SIDE, generator=generator)
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
    size = [1, layer.in_channels, _BF16_SIDE, _BF16_SIDE]
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
