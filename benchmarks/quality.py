"""How long it takes to train as well as a plain loop does.

A U-Net with a ResNet-18 from random weights learns a synthetic landscape: once as tutorials write
it (``plain_loop.py``: float32, one pair of files a patch, augmentation of single patches), for
1,500 steps, and once with `fitting.fit` as it is.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.training import MODEL, plain_loop, write_tiles
from glacier_utils import metrics
from glacier_utils.datasets import build_patches, open_dataset
from glacier_utils.models import Segmenter
from glacier_utils.prediction import predict_patches
from glacier_utils.synthetic.sample import make_sample
from glacier_utils.training import Settings, fit

LANDSCAPE = 7
DATE = "2023-08"
STEPS = 1500
BATCH = 8
NEAR = 0.01  # IoU below that of the plain loop which counts as reached


def quality(
    steps: int = STEPS, patches: int | None = None, settings: Settings | None = None
) -> dict[str, float | None]:
    """Return what both reach on validation, and the time until ours comes near the other.

    plain_validation_iou: of the plain loop after all its steps, which take plain_minutes.
    minutes_to_quality: until ours is no more than .01 below it, validation and all;
    time_to_quality_ratio: of the two. None where ours never gets there.

    Args:
        steps: of the plain loop.
        patches: rows and columns of the landscape's areas; None: the sample's own.
        settings: of ours, instead of the default.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_sample(folder / "sample", seed=LANDSCAPE, _patches=patches)
        store = build_patches(open_dataset(folder / "sample"), dates=[DATE])
        train, validation = (store.select(split=part) for part in ("train", "validation"))
        write_tiles(folder, store.images[train], store.labels[train])
        seconds, _ = plain_loop(folder, BATCH, steps)
        plain = Segmenter(MODEL, store.bands, [0.3] * 4, [0.2] * 4)
        plain.network.network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        probability = predict_patches(plain, store.images, positions=validation)
        labels = np.asarray(store.labels[validation])
        reached = metrics.count(metrics.classify(probability), labels).iou
        settings = (settings or Settings()).changed(weights="none", batch_size=BATCH)
        history = fit(
            MODEL, store, folder / "fit", dates=DATE, settings=settings, progress=False
        ).history
    near = history[history["validation_iou"] >= reached - NEAR]
    needed = float(near["seconds"].iloc[0]) if len(near) else None
    return {
        "plain_validation_iou": round(reached, 3),
        "validation_iou": round(float(history["validation_iou"].max()), 3),
        "plain_minutes": round(seconds / 60, 2),
        "minutes_to_quality": needed and round(needed / 60, 2),
        "time_to_quality_ratio": needed and round(needed / seconds, 3),
    }
