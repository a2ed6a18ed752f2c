"""How near training comes to what the bare network does on this machine."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from glacier_utils import checkpoints, losses, precision
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
