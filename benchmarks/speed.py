"""How near training and scene prediction come to what the bare network does on this machine."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from rasterio.crs import CRS
from rasterio.transform import from_origin

from glacier_utils import checkpoints, losses, precision, prediction
from glacier_utils.grids import Grid, Image
from glacier_utils.training import Settings, fit

MODEL = "unet-resnet18"
BANDS = ("red", "green", "blue", "nir")
SIZE, BATCH = 128, 16


def _segmenter() -> checkpoints.Segmenter:
    return checkpoints.Segmenter(MODEL, BANDS, np.full(4, 0.3), np.full(4, 0.2))


def _seconds(work, repeat: int) -> float:
    """Return the best of ``repeat`` times, after one that is not counted."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def training(patches: int = 96, epochs: int = 4) -> dict[str, float]:
    """Patches per second of `training.fit` (its own epochs) over those of the bare step.

    The bare step is forward, loss, backward and optimiser on one batch in memory, in the same
    precision and memory format. The epochs hold augmentation, reading and validation as well.
    """
    generator = np.random.default_rng(0)
    images = generator.random((patches + BATCH, 4, SIZE, SIZE), dtype=np.float32)
    labels = (images[:, 0] > 0.5).astype(np.uint8)
    split = ["train"] * patches + ["validation"] * BATCH
    index = pd.DataFrame({"area": "a", "date": "2023-08", "split": split})
    store = SimpleNamespace(
        images=images,
        labels=labels,
        index=index,
        key="benchmark",
        parameters={},
        bands=BANDS,
        statistics={"mean": [0.3] * 4, "std": [0.2] * 4},
        select=lambda *, split, date: np.flatnonzero(index["split"] == split),
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(epochs=epochs, batch_size=BATCH)
        result = fit(MODEL, store, Path(folder) / "fit", settings=settings, progress=False)
        seconds = np.diff(result.history["seconds"]).min()
    bare = _bare_step(images[:BATCH], labels[:BATCH])
    return {
        "training_patches_s": round(patches / seconds, 1),
        "bare_step_patches_s": round(BATCH / bare, 1),
        "training_share_of_bare_step": round(patches / seconds / (BATCH / bare), 3),
    }


def _bare_step(images: np.ndarray, labels: np.ndarray) -> float:
    """Return the seconds of one forward, backward and optimiser step."""
    network = _segmenter().to(memory_format=torch.channels_last).train()
    batch = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    target = torch.from_numpy(labels)
    optimiser = torch.optim.AdamW(network.parameters())

    def step() -> None:
        optimiser.zero_grad()
        with precision.autocast("cpu", precision.resolve()):
            logits = network(batch)
        losses.bce_dice(logits, target).backward()
        optimiser.step()

    return _seconds(step, 8)


class _Noise:
    """A scene of noise in memory, so that reading costs nothing."""

    bands = BANDS

    def __init__(self, side: int) -> None:
        transform = from_origin(500_000, 6_800_000, 10, 10)
        self.grid = Grid(CRS.from_epsg(32623), transform, side, side)
        self.pixels = np.random.default_rng(0).random((4, side, side), dtype=np.float32)

    def read(self, row: int, col: int, height: int, width: int) -> Image:
        part = self.pixels[:, row : row + height, col : col + width]
        valid = np.ones(part.shape[1:], dtype=bool)
        return Image(part, valid, self.bands, self.grid.window(row, col, height, width))


def scene(side: int = 2048) -> dict[str, float]:
    """Pixels per second of `prediction.predict_scene` over those of the bare forward pass.

    Windows of 512 px at 64 px overlap; the bare pass repeats one batch of four windows in the best
    precision and memory format.
    """
    segmenter = _segmenter().eval().to(memory_format=torch.channels_last)
    source = _Noise(side)
    windowed = _seconds(lambda: prediction.predict_scene(segmenter, source), 2)
    batch = torch.from_numpy(source.pixels[:, :512, :512])[None].repeat(4, 1, 1, 1)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def forward() -> None:
        with torch.inference_mode(), precision.autocast("cpu", precision.resolve()):
            segmenter(batch)

    bare = _seconds(forward, 4)
    rate, bare_rate = side**2 / windowed, batch[:, 0].numel() / bare
    return {
        "scene_mpx_s": round(rate / 1e6, 2),
        "bare_forward_mpx_s": round(bare_rate / 1e6, 2),
        "scene_share_of_bare": round(rate / bare_rate, 3),
    }
