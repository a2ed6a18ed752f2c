"""One registry: name -> network. The baselines are networks too, so that nothing else branches.

Every model is an ``nn.Module`` that turns normalised images [n, band, row, col] into logits
[n, row, col]; the probability of glacier is their sigmoid. Names are the package's own
(``threshold``, ``gradient_boosting``, ``glaciernet`` ...) or ``decoder-encoder`` of
segmentation-models-pytorch, such as ``unet-resnet18`` or ``dpt-tu-vit_tiny_patch16_224``. Its
encoders are its own and, with ``tu-`` before the name, those of timm.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from glacier_utils.errors import GlacierError, did_you_mean
from glacier_utils.models.baselines import GradientBoosting, PixelModel, RandomForest, ThresholdRule
from glacier_utils.models.networks import GlacierNet, Padded

GONE = {
    "hedunet": "HED-UNet went in version 0.2.0; choose unet-resnet18, which did no worse "
    "wherever both were tried, or map with version 0.1.0",
}
"""Models of before, and what to do without them."""


@dataclass(frozen=True)
class Entry:
    """A registered model.

    Args:
        builder: number of bands -> untrained model.
        description: what it is, in one sentence.
        reference: author, year, title and venue.
    """

    builder: Callable[..., nn.Module]
    description: str
    reference: str


@dataclass(frozen=True)
class Decoder:
    """A decoder of segmentation-models-pytorch.

    Args:
        description: as of ``Entry``.
        reference: as of ``Entry``.
        encoder: one that it can take, small, to be named where another cannot be taken.
        settings: arguments that differ from the library's own.
        cells: rows and columns that it needs in the encoder's last features.
    """

    description: str
    reference: str
    encoder: str = "resnet18"
    settings: Mapping[str, Any] = field(default_factory=dict)
    cells: int = 1


def build(name: str, bands: int, **arguments: Any) -> nn.Module:
    """Build an untrained model.

    Args:
        name: one of ``names()``, or any ``decoder-encoder`` of segmentation-models-pytorch.
        bands: number of input bands.
        **arguments: passed to the builder (filters, trees, ``decoder_channels`` ...).

    Returns:
        A module: normalised float32 [n, band, row, col] -> logits [n, row, col], for any number of
        rows and columns. Weights come from torch's global seed; nothing is downloaded.

    Raises:
        GlacierError: an unknown name (the nearest one is suggested), or arguments that the model
            does not take.

    Example:
        >>> build("glaciernet", bands=4)(torch.zeros(2, 4, 50, 37)).shape
        torch.Size([2, 50, 37])
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


def reference(name: str) -> str:
    """Return author, year, title and venue. Raises GlacierError for an unknown name."""
    return _entry(name).reference


def decoders() -> dict[str, str]:
    """Return name and description of the decoders that can be named in ``decoder-encoder``."""
    return {name: decoder.description for name, decoder in DECODERS.items()}


def encoders(text: str = "") -> list[str]:
    """Return the names of encoders that contain ``text``: the library's own, then timm's ``tu-``.

    Not every decoder takes every encoder; ``build`` says so.
    """
    import segmentation_models_pytorch as smp
    import timm

    own = sorted(smp.encoders.get_encoder_names())
    known = [*own, *(f"tu-{name}" for name in timm.list_models())]
    return [name for name in known if text.lower() in name.lower()]


def is_pixel_model(name: str) -> bool:
    """Return whether ``name`` is a baseline fitted to a sample of pixels in one go."""
    builder = _entry(name).builder
    return isinstance(builder, type) and issubclass(builder, PixelModel)


def parameter_count(network: nn.Module) -> int:
    """Count the numbers that fitting sets: weights, or for pixel models thresholds and leaves."""
    if isinstance(network, PixelModel):
        return network.fitted_numbers()
    return sum(parameter.numel() for parameter in network.parameters())


def _glaciernet(bands: int, **arguments: Any) -> nn.Module:
    network = GlacierNet(bands, **arguments)
    return Padded(network, network.multiple)


def _smp_network(decoder: str, encoder: str, bands: int, **arguments: Any) -> nn.Module:
    """Build a network of segmentation-models-pytorch, and run it once."""
    import segmentation_models_pytorch as smp  # takes seconds: only where a network is built

    known = DECODERS[decoder]
    settings = {"encoder_weights": None, **known.settings, **arguments}
    try:
        network = smp.create_model(
            decoder, encoder_name=encoder, in_channels=bands, classes=1, **settings
        )
        stride = network.encoder.output_stride
        padded = Padded(network, max(32, stride), known.cells * stride).eval()
        with torch.no_grad():
            logits = padded(torch.zeros(1, bands, 32, 64))
        if logits.shape != (1, 32, 64):
            raise ValueError(f"an image of (32, 64) pixels became {tuple(logits.shape[1:])}")
    # Whatever the library raises, in its constructors or in the first forward pass.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        what = f"the decoder {decoder} cannot take the encoder {encoder}"
        if arguments:
            what = f"cannot be built with {arguments}"
        hint = f"; {decoder}-{known.encoder} works" if encoder != known.encoder else ""
        raise GlacierError(f"model {decoder}-{encoder}: {what}: {reason}{hint}") from error
    return padded.train()


def _smp_entry(name: str, description: str = "") -> Entry:
    decoder, _, encoder = name.partition("-")
    known = DECODERS[decoder]
    text = f"{known.description}, with the encoder {encoder}"
    return Entry(partial(_smp_network, decoder, encoder), description or text, known.reference)


DECODERS: dict[str, Decoder] = {
    "unet": Decoder(
        "U-Net (Ronneberger et al. 2015): features of each size are carried across to the decoder",
        "Ronneberger, O., Fischer, P., Brox, T. (2015): U-Net: Convolutional networks for "
        "biomedical image segmentation. MICCAI.",
    ),
    "unetplusplus": Decoder(
        "UNet++ (Zhou et al. 2018): a U-Net whose connections across are nested and dense",
        "Zhou, Z., Siddiquee, M. M. R., Tajbakhsh, N., Liang, J. (2018): UNet++: A nested U-Net "
        "architecture for medical image segmentation. DLMIA.",
    ),
    "manet": Decoder(
        "MA-Net (Fan et al. 2020): a U-Net with attention to places and to channels",
        "Fan, T., Wang, G., Li, Y., Wang, H. (2020): MA-Net: A multi-scale attention network for "
        "liver and tumor segmentation. IEEE Access 8.",
    ),
    "linknet": Decoder(
        "LinkNet (Chaurasia and Culurciello 2017): a light U-Net that adds instead of stacking",
        "Chaurasia, A., Culurciello, E. (2017): LinkNet: Exploiting encoder representations for "
        "efficient semantic segmentation. VCIP.",
    ),
    "fpn": Decoder(
        "feature pyramid network (Kirillov et al. 2019): features of all sizes are summed up",
        "Kirillov, A., Girshick, R., He, K., Dollár, P. (2019): Panoptic feature pyramid networks. "
        "CVPR.",
    ),
    "pspnet": Decoder(
        "PSPNet (Zhao et al. 2017): pools the features over a pyramid of regions for context",
        "Zhao, H., Shi, J., Qi, X., Wang, X., Jia, J. (2017): Pyramid scene parsing network. CVPR.",
    ),
    "pan": Decoder(
        "PAN (Li et al. 2018): a pyramid of attention on coarse features guides the fine ones",
        "Li, H., Xiong, P., An, J., Wang, L. (2018): Pyramid attention network for semantic "
        "segmentation. BMVC.",
        cells=8,  # halved three times on the way
    ),
    "deeplabv3": Decoder(
        "DeepLabv3 (Chen et al. 2017): dilated convolutions of several rates side by side",
        "Chen, L.-C., Papandreou, G., Schroff, F., Adam, H. (2017): Rethinking atrous convolution "
        "for semantic image segmentation. arXiv:1706.05587.",
    ),
    "deeplabv3plus": Decoder(
        "DeepLabv3+ (Chen et al. 2018): DeepLabv3 with a decoder that sharpens the edges",
        "Chen, L.-C., Zhu, Y., Papandreou, G., Schroff, F., Adam, H. (2018): Encoder-decoder with "
        "atrous separable convolution for semantic image segmentation. ECCV.",
    ),
    "upernet": Decoder(
        "UPerNet (Xiao et al. 2018): a feature pyramid with pyramid pooling on top",
        "Xiao, T., Liu, Y., Zhou, B., Jiang, Y., Sun, J. (2018): Unified perceptual parsing for "
        "scene understanding. ECCV.",
    ),
    "segformer": Decoder(
        "SegFormer (Xie et al. 2021): a decoder of linear layers, made for mix transformers",
        "Xie, E., Wang, W., Yu, Z., Anandkumar, A., Alvarez, J. M., Luo, P. (2021): SegFormer: "
        "Simple and efficient design for semantic segmentation with transformers. NeurIPS.",
        encoder="mit_b0",
    ),
    "dpt": Decoder(
        "DPT (Ranftl et al. 2021): puts the tokens of a plain vision transformer back together",
        "Ranftl, R., Bochkovskiy, A., Koltun, V. (2021): Vision transformers for dense prediction. "
        "ICCV.",
        encoder="tu-vit_tiny_patch16_224",
        settings={"dynamic_img_size": True},
    ),
}

REGISTRY: dict[str, Entry] = {
    "threshold": Entry(
        ThresholdRule,
        "brightness above and NDWI between thresholds that maximise training IoU",
        "NDWI: McFeeters, S. K. (1996): The use of the normalized difference water index (NDWI) in "
        "the delineation of open water features. Int. J. Remote Sensing 17, 1425-1432.",
    ),
    "random_forest": Entry(
        RandomForest,
        "random forest on the bands of single pixels",
        "Breiman, L. (2001): Random forests. Machine Learning 45, 5-32.",
    ),
    "gradient_boosting": Entry(
        GradientBoosting,
        "gradient-boosted trees on bands, brightness and NDWI, and on their mean and deviation "
        "around each pixel",
        "Friedman, J. H. (2001): Greedy function approximation: a gradient boosting machine. "
        "Annals of Statistics 29, 1189-1232.",
    ),
    "glaciernet": Entry(
        _glaciernet,
        "GlacierNet-style SegNet with pooling indices (after Xie et al. 2020), few filters",
        "Xie, Z., Haritashya, U. K., Asari, V. K., Young, B. W., Bishop, M. P., Kargel, J. S. "
        "(2020): GlacierNet: A deep-learning approach for debris-covered glacier mapping. IEEE "
        "Access 8, 83495-83510.",
    ),
    "unet-resnet18": _smp_entry(
        "unet-resnet18", "U-Net (Ronneberger et al. 2015) with a ResNet-18 encoder"
    ),
    "unet-small": Entry(
        partial(
            _smp_network, "unet", "tu-resnet18", encoder_depth=4, decoder_channels=(128, 64, 32, 16)
        ),
        "U-Net (Ronneberger et al. 2015), three of ResNet-18's four stages, half the usual filters",
        DECODERS["unet"].reference,
    ),
    "segformer-mit_b0": _smp_entry(
        "segformer-mit_b0", "SegFormer-B0 (Xie, Enze, et al. 2021): a small vision transformer"
    ),
}


def _entry(name: str) -> Entry:
    """Find a model by name; the library of networks is only imported where it is needed."""
    if name in REGISTRY:
        return REGISTRY[name]
    if name in GONE:
        raise GlacierError(f"model {name!r}: {GONE[name]}")
    decoder, _, encoder = str(name).partition("-")
    known = encoders()
    # timm's names may go on with the tag of their weights.
    if decoder in DECODERS and encoder.split(".")[0] in known:
        return _smp_entry(name)
    if decoder in DECODERS:
        # One that begins like it, or is spelt like it; a decoder alone gets one that works.
        near = [one for one in known if encoder and one.startswith((encoder, f"tu-{encoder}"))]
        near = near or difflib.get_close_matches(encoder, known, n=1, cutoff=0.5)
        hint = f"did you mean '{decoder}-{near[0] if near else DECODERS[decoder].encoder}'?"
    else:
        named = [*names(), *(f"{one}-{of.encoder}" for one, of in DECODERS.items())]
        named += [f"{one}-{encoder}" for one in DECODERS if encoder in known]
        hint = did_you_mean(name, named)
    raise GlacierError(f"no model is called {name!r}: {hint}")
