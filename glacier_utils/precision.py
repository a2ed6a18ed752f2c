"""Which number format the processor is fast in, for training and prediction alike."""

from __future__ import annotations

import torch

from glacier_utils.errors import GlacierError


def resolve(precision: str = "auto", device: str | torch.device = "cpu") -> str:
    """Return "bf16" or "float32"; "auto" takes bf16 where the processor has instructions for it.

    Without them bf16 is emulated, and slower than float32. Raises GlacierError for other names.
    """
    if precision in ("bf16", "float32"):
        return precision
    if precision != "auto":
        raise GlacierError(f"precision {precision!r}: must be auto, bf16 or float32")
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    return "bf16" if has_bf16() else "float32"


def has_bf16() -> bool:
    """Tell whether the processor multiplies bf16 itself (AVX-512 BF16, AMX, or Arm's BF16)."""
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(device: str | torch.device, precision: str) -> torch.autocast:
    """Return the context in which a forward pass runs in ``precision`` (as of ``resolve``)."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16")
