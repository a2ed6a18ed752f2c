"""Which number format and memory layout a processor is fast in, measured where it is used."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import nn

from glacier_utils.errors import GlacierError

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
