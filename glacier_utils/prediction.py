"""Prediction over patches, scenes and files: windows that overlap, blended, a strip at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from glacier_utils import precision as number_formats
from glacier_utils.checkpoints import Segmenter, load_checkpoint
from glacier_utils.errors import GlacierError
from glacier_utils.imagery import Reflectance, Source, open_source, write_raster

# The least weight that a window gives a pixel: no pixel of the frame's rim is ever without one.
WEIGHT_FLOOR = 1e-3
# Pixels a forward pass takes together; larger batches gain nothing on a CPU and cost memory.
PIXELS_AT_ONCE = 2**20


def predict_patches(
    segmenter: Segmenter,
    images: np.ndarray,
    *,
    positions: np.ndarray | None = None,
    batch_size: int = 32,
    precision: str = "auto",
    flips: bool = False,
    progress: bool = False,
) -> np.ndarray:
    """Predict the probability of glacier for patches.

    Args:
        segmenter: the model with its normalisation.
        images: reflectance float32 [n, band, row, col], may be memory-mapped; bands as in
            ``segmenter.bands``. Invalid pixels are 0 and get some probability all the same.
        positions: predict only these of the images, in this order; None takes all.
        batch_size: patches a forward pass.
        precision: "auto" (bf16 where the processor has it), "bf16" or "float32".
        flips: average over the four mirror images.
        progress: show a bar.

    Returns:
        Probability float32 [n, row, col] in 0..1.

    Raises:
        GlacierError: another number of bands than the model's.
    """
    if images.ndim != 4 or images.shape[1] != len(segmenter.bands):
        raise GlacierError(
            f"model {segmenter.name}: images must be [n, band, row, col] with the bands "
            f"{', '.join(segmenter.bands)}, but have the shape {images.shape}"
        )
    positions = np.arange(len(images)) if positions is None else np.asarray(positions)
    probability = np.empty((len(positions), *images.shape[2:]), dtype=np.float32)
    starts = range(0, len(positions), batch_size)
    for start in tqdm(starts, desc=segmenter.name, unit="batch", disable=not progress):
        batch = slice(start, start + batch_size)
        probability[batch] = _probability(segmenter, images[positions[batch]], precision, flips)
    return probability


def predict_scene(
    segmenter: Segmenter,
    source: Source,
    *,
    window: int = 512,
    overlap: int = 64,
    precision: str = "auto",
    flips: bool = False,
    progress: bool = False,
) -> np.ndarray:
    """Predict a whole scene in overlapping windows.

    Args:
        segmenter: the model with its normalisation.
        source: the scene; its bands may be more than the model's and in another order.
        window: side of a window in pixels; it may be larger than the patches of the training.
        overlap: pixels that neighbouring windows share at least, below ``window``.
        precision, flips, progress: as in ``predict_patches``.

    Returns:
        Probability float32 [row, col] in 0..1, nan where the scene is invalid.

    Raises:
        GlacierError: a missing band, or an overlap that is not below the window.
    """
    grid = source.grid
    probability = np.full((grid.height, grid.width), np.nan, dtype=np.float32)
    strips = predict_strips(
        segmenter, source, window=window, overlap=overlap, precision=precision, flips=flips
    )
    with tqdm(total=grid.height, desc="scene", unit="row", disable=not progress) as bar:
        for row, strip in strips:
            probability[row : row + len(strip)] = strip
            bar.update(len(strip))
    return probability


def predict_strips(
    segmenter: Segmenter,
    source: Source,
    *,
    window: int = 512,
    overlap: int = 64,
    precision: str = "auto",
    flips: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict a scene from top to bottom; yield (first row, probability [rows, col]) when finished.

    Only one strip, a window high, is in memory. Arguments as in ``predict_scene``.
    """
    if not 0 <= overlap < window:
        raise GlacierError(f"overlap {overlap}: must be at least 0 and below the window, {window}")
    height, width = source.grid.height, source.grid.width
    order = _band_order(source.bands, segmenter.bands)
    rows, cols = (window_starts(length, window, overlap) for length in (height, width))
    high, wide = min(window, height), min(window, width)
    weight = window_weight(high, wide, overlap)
    # A pass over small windows takes several, over a large one, one.
    at_once = max(1, PIXELS_AT_ONCE // (high * wide))

    strip = Strip(high, width)
    for row, following in zip(rows, [*rows[1:], height], strict=True):
        image = source.read(row, 0, high, width)
        reflectance = image.reflectance[order]
        # Windows without a valid pixel cost nothing.
        seen = [col for col in cols if image.valid[:, col : col + wide].any()]
        for start in range(0, len(seen), at_once):
            group = seen[start : start + at_once]
            batch = np.stack([reflectance[:, :, col : col + wide] for col in group])
            for col, part in zip(
                group, _probability(segmenter, batch, precision, flips), strict=True
            ):
                strip.add(col, part, weight)
        yield row, strip.take(following - row, image.valid)


class Strip:
    """The weighted sum of windows along one strip of a scene: add them, take finished rows."""

    def __init__(self, height: int, width: int) -> None:
        self.total = np.zeros((height, width), dtype=np.float32)
        self.weight = np.zeros((height, width), dtype=np.float32)

    def add(self, col: int, probability: np.ndarray, weight: np.ndarray) -> None:
        """Add a window [row, col] whose left side lies at ``col``, as high as the strip."""
        part = np.s_[:, col : col + probability.shape[1]]
        self.total[part] += probability * weight
        self.weight[part] += weight

    def take(self, rows: int, valid: np.ndarray) -> np.ndarray:
        """Return the uppermost ``rows``, nan where ``valid`` [row, col] is not, and move up.

        Nothing is added to the denominator, which would fade the rim of the frame; instead every
        valid pixel must have got a weight.
        """
        valid = valid[:rows]
        weight = self.weight[:rows]
        if not (weight[valid] > 0).all():
            raise AssertionError(f"{int((weight[valid] == 0).sum())} pixels lie in no window")
        probability = np.full(valid.shape, np.nan, dtype=np.float32)
        np.divide(self.total[:rows], weight, out=probability, where=valid)
        for sums in (self.total, self.weight):
            sums[: len(sums) - rows] = sums[rows:].copy()
            sums[len(sums) - rows :] = 0
        # Rounding of the weighted mean may leave 0..1 by 1e-7.
        return probability.clip(0, 1)


def window_starts(length: int, window: int, overlap: int) -> list[int]:
    """Return where windows start along ``length`` pixels; the last is shifted to end with it.

    Neighbours share at least ``overlap`` pixels. A length below the window gives one window.
    """
    last = max(length - window, 0)
    return [*range(0, last, window - overlap), last]


def window_weight(height: int, width: int, overlap: int) -> np.ndarray:
    """Return the weights of a window [row, col]: 1 inside, falling as a cosine over the overlap.

    Float32, at least ``WEIGHT_FLOOR`` ** 2 at the corners and never 0.
    """

    def ramp(length: int) -> np.ndarray:
        pixel = np.arange(length) + 0.5
        distance = np.minimum(pixel, length - pixel)
        rising = 0.5 - 0.5 * np.cos(np.pi * np.minimum(distance / max(overlap, 1), 1))
        return np.maximum(rising, WEIGHT_FLOOR)

    return np.outer(ramp(height), ramp(width)).astype(np.float32)


def predict_file(
    checkpoint: str | Path | Segmenter,
    scene: str | Path | Sequence[str | Path] | Source,
    out: str | Path,
    *,
    bands: Sequence[str] | Mapping[str, Any] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
    bounds: Sequence[float] | None = None,
    window: int = 512,
    overlap: int = 64,
    flips: bool = False,
    progress: bool = False,
) -> Path:
    """Map the glaciers of a scene into a cloud-optimised GeoTIFF.

    Args:
        checkpoint: file of ``save_checkpoint``, or a segmenter.
        scene: file, folder, pattern or files, as ``open_source`` takes them, or an open source.
        out: GeoTIFF to write: probability float32 in 0..1, nan where the scene is invalid.
        bands: as of ``open_source``; None: the model's bands in its order.
        scale, offset, nodata: of the scene's numbers, reflectance = (DN + offset) / scale; None:
            as the scene's metadata or tags tell, else as in the training, else 10000, 0 and the
            file's own tag.
        bounds: part of the scene, in its CRS.
        window, overlap, flips, progress: as in ``predict_scene``.

    Raises:
        GlacierError: an unreadable checkpoint or scene, or a missing band.
    """
    segmenter = checkpoint if isinstance(checkpoint, Segmenter) else load_checkpoint(checkpoint)
    if not isinstance(scene, Source):
        scene = _open(
            scene, bands or segmenter.bands, bounds, segmenter,
            {"scale": scale, "offset": offset, "nodata": nodata},
        )  # fmt: skip
        for line in scene.warnings:
            logging.getLogger(__name__).warning(line)
    settings = {"window": window, "overlap": overlap, "flips": flips}
    probability = predict_scene(segmenter, scene, progress=progress, **settings)
    tags = {
        "MODEL": segmenter.name,
        "CHECKPOINT": "" if isinstance(checkpoint, Segmenter) else Path(checkpoint).name,
        "TRAINED_ON": str(segmenter.provenance.get("store", "")),
        "SCENE": ", ".join(path.name for path in scene.paths[:8]),
        "BANDS": ", ".join(segmenter.bands),
        "THRESHOLD": f"{segmenter.threshold:g}",
        "PREDICTION": ", ".join(f"{name} {value}" for name, value in settings.items()),
    }
    return write_raster(
        out, probability, scene.grid, nodata=float("nan"), tags=tags, descriptions=["probability"]
    )


def _open(
    scene: Any,
    bands: Sequence[str] | Mapping[str, Any],
    bounds: Sequence[float] | None,
    segmenter: Segmenter,
    given: Mapping[str, float | None],
) -> Source:
    """Open a scene with the rule its files tell, or that is given, else that of the training."""
    given = {name: value for name, value in given.items() if value is not None}
    trained = segmenter.provenance.get("reflectance") or {}
    source = open_source(
        scene, bands=bands, reflectance=Reflectance(**given) if given else None, bounds=bounds
    )
    if source.reflectance_source != "default":
        return source
    return open_source(
        scene, bands=bands, reflectance=Reflectance(**{**trained, **given}), bounds=bounds
    )


def _band_order(there: Sequence[str], wanted: Sequence[str]) -> list[int]:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise GlacierError(
            f"the scene has the bands {', '.join(there)}, but the model needs {missing[0]}; "
            "name the scene's bands as in its training"
        )
    return [list(there).index(name) for name in wanted]


@torch.inference_mode()
def _probability(
    segmenter: Segmenter, images: np.ndarray, precision: str, flips: bool
) -> np.ndarray:
    """Run one batch [n, band, row, col] forward; return probability float32 [n, row, col]."""
    segmenter.eval()
    device = segmenter.mean.device
    batch = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).to(device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    resolved = number_formats.resolve(precision, device)
    mirrors = [(), (-2,), (-1,), (-2, -1)] if flips else [()]
    with number_formats.autocast(device, resolved):
        logits = [segmenter(batch.flip(axes)).float().flip(axes) for axes in mirrors]
    return torch.stack(logits).sigmoid().mean(dim=0).cpu().numpy()
