"""Fitting a trained model to a scene without labels: its brightness, its batch statistics.

Everything here looks at images alone. A model that was trained on one glacier meets another sun,
other snow and other rock; part of that is a shift of the images' statistics, which can be seen
without knowing where the ice is.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from glacier_utils.datasets.store import moments, pooled_statistics
from glacier_utils.errors import GlacierError
from glacier_utils.models.checkpoint import Segmenter
from glacier_utils.prediction import acceleration
from glacier_utils.prediction.mapper import band_order, predict_patches

if TYPE_CHECKING:
    from glacier_utils.datasets.store import PatchStore
    from glacier_utils.imagery.source import Source
    from glacier_utils.training.module import Change


# Images of a scene that its statistics are taken from: a few million pixels tell them well.
_WINDOWS, _WINDOW = 64, 256
_MOSTLY = 0.9  # of a window has to be valid, where there are such windows
_LEAST_STD = 1e-3  # of reflectance: a scene of one colour is no reason to blow up its noise


def scene_statistics(images: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation [band] of the valid pixels of some images.

    ``images`` reflectance [n, band, row, col], invalid pixels 0 in every band.

    Raises:
        GlacierError: no pixel is valid.
    """
    sums = []
    for position in positions:
        image = np.asarray(images[position])
        sums.append(moments(image, (image != 0).any(axis=0)))
    pooled = pooled_statistics(np.stack(sums), 0)
    if not pooled["count"]:
        raise GlacierError("the scene holds no valid pixel to take its statistics from")
    return np.array(pooled["mean"]), np.maximum(pooled["std"], _LEAST_STD)


def scene_changes(store: PatchStore, segmenter: Segmenter) -> Change:
    """Return what brings each patch to the segmenter's mean and deviation, scene by scene.

    A scene is an area on a date. Its statistics are those of all its patches, whatever part of the
    split they are in; labels play no part.

    Returns:
        factor and offset, float32 [patch, band]: ``image * factor + offset``.
    """
    mean, std = (value.flatten().double().numpy() for value in (segmenter.mean, segmenter.std))
    factor = np.ones((len(store.index), len(store.bands)))
    offset = np.zeros_like(factor)
    for _, positions in _scenes(store, np.arange(len(store.index))):
        own_mean, own_std = scene_statistics(store.images, positions)
        factor[positions] = std / own_std
        offset[positions] = mean - own_mean * std / own_std
    return factor.astype(np.float32), offset.astype(np.float32)


def adapt(
    segmenter: Segmenter,
    images: np.ndarray,
    *,
    positions: np.ndarray | None = None,
    batch_norm: bool = False,
    batch_size: int = 16,
) -> Segmenter:
    """Return the segmenter, fitted to the scene that these images are of.

    A model that was trained with normalisation "scene" gets the scene's mean and deviation, and is
    then one of fixed normalisation. With ``batch_norm`` the statistics in all batch normalisations
    are taken anew from the images (Li et al. 2018, Pattern Recognition 80, 109: adaptive batch
    normalisation), which changes nothing in a network without them.

    Args:
        segmenter: left as it is.
        images: reflectance float32 [n, band, row, col]; ``positions`` picks some of them.

    Raises:
        GlacierError: no pixel is valid.
    """
    positions = np.arange(len(images)) if positions is None else np.asarray(positions)
    if not (batch_norm or segmenter.normalisation == "scene"):
        return segmenter
    adapted = copy.deepcopy(segmenter).eval()
    if segmenter.normalisation == "scene":
        mean, std = scene_statistics(images, positions)
        adapted.mean.copy_(torch.as_tensor(mean).view(1, -1, 1, 1))
        adapted.std.copy_(torch.as_tensor(std).view(1, -1, 1, 1))
        adapted.normalisation = "training"  # fixed from here on
    if batch_norm:
        _renew_batch_norm(adapted, images, positions, batch_size)
    return adapted


def predict_by_scene(
    segmenter: Segmenter,
    store: PatchStore,
    positions: np.ndarray,
    *,
    batch_norm: bool = False,
    flips: bool = False,
) -> np.ndarray:
    """Predict patches of a store, the model fitted to each area and date (see `adapt`).

    Returns:
        Probability float32 [n, row, col], in the order of ``positions``.
    """
    positions = np.asarray(positions)
    probability = np.empty((len(positions), *store.images.shape[2:]), np.float32)
    if not (batch_norm or segmenter.normalisation == "scene"):
        return predict_patches(segmenter, store.images, positions=positions, flips=flips)
    for places, here in _scenes(store, positions):
        adapted = adapt(segmenter, store.images, positions=here, batch_norm=batch_norm)
        probability[places] = predict_patches(adapted, store.images, positions=here, flips=flips)
    return probability


def adapt_to_source(segmenter: Segmenter, source: Source, *, batch_norm: bool = False) -> Segmenter:
    """Fit the segmenter to a whole scene, of which some windows, evenly spread, are read."""
    if not (batch_norm or segmenter.normalisation == "scene"):
        return segmenter
    return adapt(segmenter, sample_windows(source, segmenter.bands), batch_norm=batch_norm)


def sample_windows(source: Source, bands: tuple[str, ...]) -> np.ndarray:
    """Read windows spread evenly over a scene: reflectance float32 [n, band, row, col].

    At most 64 of 256 px, fewer and smaller ones where the scene is small.

    Raises:
        GlacierError: a band is missing, or no window holds a valid pixel.
    """
    order = band_order(source.bands, bands)
    grid = source.grid
    height, width = min(_WINDOW, grid.height), min(_WINDOW, grid.width)
    rows = _starts(grid.height, height)
    cols = _starts(grid.width, width)
    images, seen = [], []
    for row in rows:
        for col in cols:
            image = source.read(row, col, height, width)
            if image.valid.any():
                images.append(image.reflectance[order])
                seen.append(image.valid.mean())
    if not images:
        raise GlacierError(f"{source.paths[0]}: no valid pixel was found to adapt the model to")
    # Missing pixels would count as pixels of mean brightness: those that show most, if not all.
    least = min(_MOSTLY, max(seen))
    return np.stack([image for image, part in zip(images, seen, strict=True) if part >= least])


def _starts(length: int, size: int) -> list[int]:
    count = min(int(_WINDOWS**0.5), -(-length // size))
    return np.linspace(0, length - size, count).round().astype(int).tolist()


def _renew_batch_norm(
    segmenter: Segmenter, images: np.ndarray, positions: np.ndarray, batch_size: int
) -> None:
    layers = [m for m in segmenter.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    layers = [layer for layer in layers if layer.track_running_stats]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over all batches
        layer.train()
    device = segmenter.mean.device
    precision = acceleration.resolve("auto", device)
    layout = acceleration.memory_format(precision, device)
    # In equal parts, since a last batch of one patch would count as much as a full one.
    batches = np.array_split(positions, -(-len(positions) // batch_size))
    # One thread: sums must not depend on how many a worker has.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), acceleration.autocast(device, precision):
            for batch in batches:
                image = torch.from_numpy(np.ascontiguousarray(images[batch])).to(device)
                # Where features are pooled to a single value, one image alone has no deviation.
                image = image.repeat(2, 1, 1, 1) if len(image) == 1 else image
                segmenter(image.contiguous(memory_format=layout))
    finally:
        torch.set_num_threads(threads)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def _scenes(store: PatchStore, positions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (places in ``positions``, positions) of each area and date."""
    index = store.index.iloc[positions]
    groups = index.reset_index(drop=True).groupby(["area", "date"], sort=True).indices
    return [(places, positions[places]) for places in groups.values()]
