"""One registry: name -> network. The baselines are networks too, so that nothing else branches.

Every model is an ``nn.Module`` that turns normalised images [n, band, row, col] into logits
[n, row, col]; the probability of glacier is their sigmoid. Names are the package's own
(``threshold``, ``random_forest``, ``glaciernet``) or ``decoder-encoder`` of
segmentation-models-pytorch, such as ``unet-resnet18`` or ``segformer-mit_b0``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from glacier_utils.errors import GlacierError
from glacier_utils.glaciernet import GlacierNet
from glacier_utils.pixels import PixelModel, RandomForest, ThresholdRule


@dataclass(frozen=True)
class Entry:
    """A registered model: how to build it for a number of bands, and one sentence about it."""

    builder: Callable[..., nn.Module]
    description: str


def build(name: str, bands: int, **arguments: Any) -> nn.Module:
    """Build an untrained model.

    Args:
        name: one of ``names()``, or any ``decoder-encoder`` of segmentation-models-pytorch.
        bands: number of input bands.
        arguments: passed to the builder (filters, trees, ``decoder_channels`` ...).

    Returns:
        A module: normalised float32 [n, band, row, col] -> logits [n, row, col], for any number of
        rows and columns. Weights come from torch's global seed; nothing is downloaded.

    Raises:
        GlacierError: an unknown name (the nearest one is suggested), or arguments that the model
            does not take.
    """
    entry = _entry(name)
    try:
        return entry.builder(bands, **arguments)
    except (TypeError, ValueError) as error:
        raise GlacierError(f"model {name}: cannot be built with {arguments}: {error}") from error


def names() -> list[str]:
    """Return the names of the models that the notebooks know, baselines first.

    Beyond these, ``build`` takes every ``decoder-encoder`` that segmentation-models-pytorch has.
    """
    return list(REGISTRY)


def describe(name: str) -> str:
    """Say in one sentence what the model ``name`` is. Raises GlacierError for an unknown name."""
    return _entry(name).description


def is_pixel_model(name: str) -> bool:
    """Tell whether ``name`` is a baseline that looks at each pixel alone, fitted without epochs."""
    return _entry(name).builder in (ThresholdRule, RandomForest)


def parameter_count(network: nn.Module) -> int:
    """Count the numbers that fitting sets: weights, or for pixel models thresholds and leaves."""
    if isinstance(network, PixelModel):
        return network.fitted_numbers()
    return sum(parameter.numel() for parameter in network.parameters())


class Padded(nn.Module):
    """A network that halves its input several times, made to take images of any size.

    Rows and columns are added at the bottom and the right by reflection, up to a multiple of
    ``multiple``, and cut off the result. The result's single channel is dropped.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        down, right = -height % self.multiple, -width % self.multiple
        if down or right:
            # Reflection needs more pixels than it adds; a sliver repeats its last row instead.
            mode = "reflect" if down < height and right < width else "replicate"
            images = F.pad(images, (0, right, 0, down), mode=mode)
        return self.network(images)[:, 0, :height, :width]


def _glaciernet(bands: int, **arguments: Any) -> nn.Module:
    network = GlacierNet(bands, **arguments)
    return Padded(network, network.multiple)


def _smp_builder(decoder: str, encoder: str) -> Callable[..., nn.Module]:
    def builder(bands: int, **arguments: Any) -> nn.Module:
        import segmentation_models_pytorch as smp  # takes seconds: only where a network is built

        settings = {"encoder_weights": None, **arguments}
        network = smp.create_model(
            decoder, encoder_name=encoder, in_channels=bands, classes=1, **settings
        )
        return Padded(network, 32)

    return builder


def _smp_entry(name: str, description: str = "") -> Entry:
    decoder, _, encoder = name.partition("-")
    text = f"{decoder} with the encoder {encoder}, of segmentation-models-pytorch"
    return Entry(_smp_builder(decoder, encoder), description or text)


REGISTRY: dict[str, Entry] = {
    "threshold": Entry(
        ThresholdRule, "brightness above and NDWI between thresholds that maximise training IoU"
    ),
    "random_forest": Entry(RandomForest, "random forest on the bands of single pixels"),
    "glaciernet": Entry(
        _glaciernet,
        "GlacierNet-style SegNet with pooling indices (after Xie et al. 2020), few filters",
    ),
    "unet-resnet18": _smp_entry(
        "unet-resnet18", "U-Net (Ronneberger et al. 2015) with a ResNet-18 encoder"
    ),
    "segformer-mit_b0": _smp_entry(
        "segformer-mit_b0", "SegFormer-B0 (Xie, Enze, et al. 2021): a small vision transformer"
    ),
}


def _entry(name: str) -> Entry:
    """Find a model by name; the library of networks is only imported where it is needed."""
    if name in REGISTRY:
        return REGISTRY[name]
    import segmentation_models_pytorch as smp

    decoders = sorted(smp.MODEL_ARCHITECTURES_MAPPING)
    encoders = sorted(smp.encoders.get_encoder_names())
    decoder, _, encoder = str(name).partition("-")
    if decoder in decoders and (encoder in encoders or encoder.startswith("tu-")):
        return _smp_entry(name)
    known = [*names(), *(f"{decoder}-{encoder}" for decoder in decoders for encoder in encoders)]
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names())}"
    raise GlacierError(f"no model is called {name!r}: {hint}")
