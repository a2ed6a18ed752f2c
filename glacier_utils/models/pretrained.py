"""What a network starts from: nothing, ImageNet, a network of clouds or landscapes, a checkpoint.

A channel of the first layer belongs to a band. So weights of other bands, or of the same in another
order, are put into the order of the segmenter; bands that they did not know start at 0 there, and
are learnt from the first step on.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from glacier_utils.errors import GlacierError, plain
from glacier_utils.models import registry
from glacier_utils.models.checkpoint import Segmenter, load_checkpoint

_CSMASK_BANDS = ("blue", "green", "red", "nir")  # in the order of its weights
WORDS = ("none", "auto", "csmask", "imagenet", "builtin")
BUILTIN = Path(__file__).parents[1] / "assets" / "builtin.pt"
"""Checkpoint of a ``unet-small`` that learned from synthetic landscapes alone; see its card."""
CSMASK_ENCODER = "efficientnet-b4"
_LEVEL = "L2A"  # surface reflectance, as all images here
# In the encoder's class, but behind the last layer that a segmentation network uses.
_UNUSED = ("_conv_head.", "_bn1.")
_PROBE_SECONDS = 3.0
_RGB = ("red", "green", "blue")

State = dict[str, torch.Tensor]


def start(segmenter: Segmenter, weights: str = "auto", *, reflectance: bool = True) -> str:
    """Put initial weights into an untrained segmenter, in place; return in words which.

    Torch's global random state is left as it was, so that all that follows is the same whatever
    the start.

    Args:
        segmenter: as built; its mean and std become those that the weights were trained with, for
            the bands that these know ("csmask" and checkpoints).
        weights: "none"; "imagenet", a download for the encoder; "csmask", the weights in the
            package ukis-csmask; "auto", csmask where
            ``csmask_fits``, else none; "builtin", the checkpoint ``BUILTIN``; or the path of one,
            of which all layers are taken that have name and shape in common with the network.
        reflectance: whether the images are surface reflectance, not plain digital numbers.

    Raises:
        GlacierError: an unknown word or file, weights that do not fit the network, a package that
            is not installed, or a download that failed.
    """
    weights = str(weights)
    if weights == "auto":
        fits = csmask_fits(segmenter.name, segmenter.bands, reflectance)
        weights = "csmask" if fits else "none"
    if weights == "none":
        return "none"
    if weights not in WORDS and not Path(weights).is_file():
        raise GlacierError(
            f"weights {plain(weights)}: neither one of {', '.join(WORDS)} nor a checkpoint's file"
        )
    if registry.is_pixel_model(segmenter.name):
        raise GlacierError(
            f"model {segmenter.name}: it is fitted in one go, from no weights; choose weights none"
        )
    with torch.random.fork_rng(devices=[]):
        if weights == "imagenet":
            return _start_imagenet(segmenter)
        if weights == "csmask":
            return _start_csmask(segmenter, reflectance)
        return _start_checkpoint(segmenter, BUILTIN if weights == "builtin" else Path(weights))


# ---- the weights of ukis-csmask


def csmask_fits(name: str, bands: Sequence[str], reflectance: bool = True) -> bool:
    """Return whether the weights of ukis-csmask fit a model and can be had.

    They do where the encoder in ``name`` is efficientnet-b4, ``bands`` has blue, green, red and
    nir, the values are surface reflectance, and the package is installed.
    """
    return not _csmask_obstacle(name, bands, reflectance)


def _start_csmask(segmenter: Segmenter, reflectance: bool) -> str:
    """Take the weights of the cloud network for surface reflectance (L2A) in ukis-csmask.

    Wieland, Fichtner and Martinis 2022, ISPRS Archives XLIII-B3; Apache-2.0; trained on Sentinel-2
    and Landsat. The channels of its first layer are put into the order of the segmenter's bands;
    bands beyond blue, green, red and nir start at 0. Fewer bands are refused: the layers behind the
    first expect the sum over all four, and no scaling gives back what a missing band held.
    """
    if obstacle := _csmask_obstacle(segmenter.name, segmenter.bands, reflectance):
        raise GlacierError(f"csmask weights: {obstacle}")
    network = _smp_network(segmenter)
    everything, mean, std = _csmask_network()
    _copy(network.encoder, _csmask_encoder(segmenter.bands), _UNUSED)
    parts = "encoder"
    # Of a decoder either all layers are the same, or the copied ones would stand on others.
    with suppress(GlacierError):
        _copy(network.decoder, _part(everything, "decoder."))
        parts = "encoder and decoder"
    _set_statistics(segmenter, _CSMASK_BANDS, mean, std)
    further = _new_bands(segmenter.bands, _CSMASK_BANDS)
    return f"csmask: {parts} of ukis-csmask {version('ukis-csmask')}, {_LEVEL}{further}"


def _csmask_encoder(bands: Sequence[str]) -> State:
    """Return the encoder's state for ``bands``; only the first layer is a copy."""
    state = _part(_csmask_network()[0], "encoder.")
    state["_conv_stem.weight"] = _reordered(state["_conv_stem.weight"], _CSMASK_BANDS, bands)
    return state


def _csmask_obstacle(name: str, bands: Sequence[str], reflectance: bool) -> str:
    """Return why the weights cannot be taken and what to do about it; empty if they can."""
    encoder = name.partition("-")[2]
    absent = [band for band in _CSMASK_BANDS if band not in bands]
    if encoder != CSMASK_ENCODER:
        return f"they are of the encoder {CSMASK_ENCODER}, {name} has another; choose weights none"
    if absent:
        return f"they need the band {absent[0]}, the images have {', '.join(bands)}"
    if not reflectance:
        return "they need surface reflectance, not digital numbers; choose weights none"
    for package in ("ukis_csmask", "onnx"):
        if find_spec(package) is None:
            return f"{package} is missing: pip install -e '.[cloud]', or choose weights none"
    return ""


@lru_cache(maxsize=1)
def _csmask_network() -> tuple[State, np.ndarray, np.ndarray]:
    """Read network, mean and deviation [band] once a process; nobody may change them."""
    import onnx

    folder, stem = resources.files("ukis_csmask"), f"model_4b_{_LEVEL.lower()}"
    try:
        facts = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))["data"]
        statistics = facts["dataset_statistics"]
        mean, std = (np.array(values, np.float32) for values in statistics["img"])
        if tuple(statistics["band_names"]) != _CSMASK_BANDS or not mean.shape == std.shape == (4,):
            raise ValueError("its bands are others than expected")
        with resources.as_file(folder / f"{stem}.onnx") as path:
            tensors = onnx.load(path, load_external_data=False).graph.initializer
        # Half precision is widened, which changes no value.
        weights = {one.name: onnx.numpy_helper.to_array(one).astype(np.float32) for one in tensors}
    except Exception as error:  # of protobuf and onnx, whatever lies in the file
        raise GlacierError(
            f"csmask weights: {stem} of ukis-csmask cannot be read ({plain(error)}); "
            "install the package again"
        ) from error
    state = {key.removeprefix("model."): torch.from_numpy(value) for key, value in weights.items()}
    return state, mean, std


# ---- ImageNet


def _start_imagenet(segmenter: Segmenter) -> str:
    """Take the encoder's weights from the Hugging Face hub, or from its cache alone."""
    encoder_name = segmenter.name.partition("-")[2]
    network = _smp_network(segmenter)
    import segmentation_models_pytorch as smp

    entry = smp.encoders.encoders.get(encoder_name)
    if entry is not None and "imagenet" not in entry["pretrained_settings"]:
        raise GlacierError(f"encoder {encoder_name}: there are no imagenet weights; choose none")
    answers = _hub_answers()
    try:
        with nullcontext() if answers else _no_downloads():
            state = _imagenet_state(segmenter)
    except Exception as error:  # whatever smp, timm and the hub raise
        reason = plain(error)[:200] if answers else "the hub cannot be reached"
        raise GlacierError(
            f"imagenet weights of {segmenter.name} need a download, which failed ({reason}); "
            "connect to the internet, or choose weights that need no network: none, or for the "
            f"encoder {CSMASK_ENCODER} csmask (comes with ukis-csmask)"
        ) from error
    stem = _stem(network.encoder, len(segmenter.bands))
    if stem in state and len(segmenter.bands) >= len(_RGB):
        # Channel i has the weights of colour i % 3, scaled; put each colour on its own band.
        order = [
            _RGB.index(band) if band in _RGB else i % 3 for i, band in enumerate(segmenter.bands)
        ]
        state[stem] = state[stem][:, order]
    _copy(network.encoder, state)
    return f"imagenet: encoder {encoder_name}"


def _imagenet_state(segmenter: Segmenter) -> State:
    # timm's encoders (tu-) know only whether; the others know several sorts of weights.
    sort = True if segmenter.name.partition("-")[2].startswith("tu-") else "imagenet"
    arguments = {**segmenter.arguments, "encoder_weights": sort}
    trained: Any = registry.build(segmenter.name, len(segmenter.bands), **arguments)
    return trained.network.encoder.state_dict()


@contextmanager
def _no_downloads() -> Iterator[None]:
    """Let the hub's client look into its cache only: without a network it tries for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    """Return whether the hub gives any answer within a few seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:  # the user's wish
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


# ---- a checkpoint


def _start_checkpoint(segmenter: Segmenter, path: Path) -> str:
    source = load_checkpoint(path)
    mine, theirs = segmenter.network.state_dict(), source.network.state_dict()
    stem = _stem(segmenter.network, len(segmenter.bands))
    known = set(source.bands) <= set(segmenter.bands)
    same_stem = stem in theirs and stem == _stem(source.network, len(source.bands))
    if same_stem and known:
        theirs[stem] = _reordered(theirs[stem], source.bands, segmenter.bands)
    elif same_stem:
        del theirs[stem]
    # A layer is taken whole or not at all: the bias of a head says nothing without its weights.
    odd = {_layer(k) for k in mine if k not in theirs or theirs[k].shape != mine[k].shape}
    taken = {k: value for k, value in theirs.items() if k in mine and _layer(k) not in odd}
    encoder = [key for key in mine if ".encoder." in f".{key}"] or list(mine)
    total = sum(mine[key].numel() for key in encoder)
    shared = sum(taken[key].numel() for key in encoder if key in taken)
    if not total or shared < total / 2:
        raise GlacierError(
            f"{path}: its network {source.name} shares {shared} of the {total} encoder weights of "
            f"{segmenter.name}, less than half; name a checkpoint with the same encoder"
        )
    _copy(segmenter.network, taken, tuple(set(mine) - set(taken)))
    words = f"{path.name} ({source.name}): {len(taken)} of {len(mine)} tensors"
    if not known:
        return f"{words}; not the first layer, which is for {', '.join(source.bands)}"
    mean, std = (buffer.flatten().numpy() for buffer in (source.mean, source.std))
    _set_statistics(segmenter, source.bands, mean, std)
    return words + _new_bands(segmenter.bands, source.bands)


# ---- what all have in common


def _smp_network(segmenter: Segmenter) -> Any:
    """Return the network of segmentation-models-pytorch that a segmenter wraps."""
    network = getattr(segmenter.network, "network", None)
    if not hasattr(network, "encoder") or "-" not in segmenter.name:
        raise GlacierError(
            f"model {segmenter.name}: it has no encoder that trained weights exist for; choose "
            "weights none or a checkpoint, or a model such as unet-resnet18"
        )
    return network


def _stem(network: nn.Module, bands: int) -> str:
    """Return the name of the weight of the first convolution that takes all bands, or ''."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == bands:
            return f"{name}.weight"
    return ""


def _reordered(weight: torch.Tensor, known: Sequence[str], bands: Sequence[str]) -> torch.Tensor:
    """Return a first layer [filter, band, row, col] for ``bands``; 0 for bands not ``known``."""
    result = weight.new_zeros(weight.shape[0], len(bands), *weight.shape[2:])
    for i, band in enumerate(bands):
        if band in known:
            result[:, i] = weight[:, list(known).index(band)]
    return result


def _set_statistics(
    segmenter: Segmenter, known: Sequence[str], mean: np.ndarray, std: np.ndarray
) -> None:
    """Set mean and deviation of the ``known`` bands; the other bands keep their own."""
    for band, centre, spread in zip(known, mean, std, strict=True):
        i = segmenter.bands.index(band)
        segmenter.mean[:, i], segmenter.std[:, i] = float(centre), float(spread)


def _new_bands(bands: Sequence[str], known: Sequence[str]) -> str:
    further = [band for band in bands if band not in known]
    return f"; first layer 0 for {', '.join(further)}" if further else ""


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _part(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


@torch.no_grad()
def _copy(module: nn.Module, state: State, left: tuple[str, ...] = ()) -> None:
    """Copy all of ``state`` into ``module``; only counters and names in ``left`` may be missing."""
    own = module.state_dict()
    missing = [
        key
        for key in own
        if key not in state and not key.startswith(left) and not key.endswith("_tracked")
    ]
    odd = [key for key in state if key not in own or own[key].shape != state[key].shape]
    if missing or odd:
        raise GlacierError(
            f"weights do not fit the network: {plain((missing + odd)[0])} is missing or of another "
            "shape; choose weights none"
        )
    for key, value in state.items():
        own[key].copy_(value)
