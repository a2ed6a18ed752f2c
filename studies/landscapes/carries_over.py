"""What do models that know synthetic landscapes alone make of real images?

A network learns from landscapes of many kinds (``varied``) with strong augmentation and maps the
development data without one real label; beside it the models of a run, such as the sample's:

- Everest (Landsat 7) and Athabasca Glacier (HLS, Landsat 8 and Sentinel-2), both 30 m: IoU against
  the outlines, which are older, and on Everest hold debris that no optical image shows;
- Nuuk (Sentinel-2, 60 m): the fraction of water, vegetation and cloud, as the scene classification
  has them, that is called glacier, and ought to be next to none.

    GLACIER_REAL_DATA=FOLDER python -m studies.landscapes.carries_over
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from glacier_utils import metrics
from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError, plain
from glacier_utils.files import project_root, write_csv
from glacier_utils.imagery.source import Source
from glacier_utils.models import Segmenter, load_checkpoint, save_checkpoint
from glacier_utils.prediction import predict_scene
from glacier_utils.training import Settings, fit
from glacier_utils.workflow import runs
from studies.landscapes import varied

NO_ICE = {"vegetation": (4,), "water": (6,), "cloud": (8, 9, 10)}
"""Classes of Nuuk's scene classification on which nothing is to be called glacier."""


def map_real(segmenter: Segmenter | None) -> dict[str, float]:
    """Return what is mapped -> IoU, or for Nuuk the fraction that is called glacier.

    Args:
        segmenter: None calls everything glacier. Where most ground is, that scores high, and a
            score near it says nothing.
    """

    def mapped(source: Source) -> np.ndarray:
        """Return 1 glacier, 0 not, 255 no image."""
        if segmenter is None:
            return np.where(source.read().valid, 1, UNKNOWN).astype(np.uint8)
        return metrics.classify(predict_scene(segmenter, source), segmenter.threshold)

    found = {}
    for name in ("everest", "athabasca"):
        dataset = runs.open_data(name)
        for date in dataset.dates("test"):
            pairs = []
            for area in ("test", "train"):
                mask, labels = mapped(dataset.source(area, date)), dataset.labels(area, date).read()
                pairs.append((mask.ravel(), labels.ravel()))
            for where, own in (("test area", pairs[:1]), ("all", pairs)):
                mask, labels = (np.concatenate(parts) for parts in zip(*own, strict=True))
                found[f"{name} {date}, {where}"] = metrics.count(mask, labels).iou
    dataset = runs.open_data("nuuk")
    ((area, date),) = [(area, date) for area in dataset.areas for date in dataset.dates(area)]
    mask = mapped(dataset.source(area, date))
    classes = dataset.scene_classification(area, date)
    assert classes is not None
    codes, seen, glacier = classes.read(), mask != UNKNOWN, mask == 1
    for what, own in NO_ICE.items():
        found[f"nuuk, {what}"] = float(glacier[seen & np.isin(codes, own)].mean())
    everything = seen & np.isin(codes, sum(NO_ICE.values(), ()))
    return found | {"nuuk, all of them": float(glacier[everything].mean())}


def save_small(segmenter: Segmenter, path: Path) -> None:
    """Write a checkpoint of any resolution, its kernels in half precision."""
    segmenter.provenance.pop("resolution_m", None)  # else scenes of 30 m would be warned of
    kernels = [one for one in segmenter.network.parameters() if one.ndim == 4]
    for kernel in kernels:
        kernel.data = kernel.data.half()
    save_checkpoint(path, segmenter)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, map and print the table; return 0, or 2 for a mistake."""
    top = argparse.ArgumentParser(description="Do models of synthetic landscapes know real ice?")
    top.add_argument("--landscapes", type=int, default=40, help="number of them")
    top.add_argument("--patches", type=int, default=26, help="rows and columns in each")
    top.add_argument("--seed", type=int, default=61, help="of the landscapes")
    top.add_argument("--training-seed", type=int, default=1)
    top.add_argument("--steps", type=int, default=3000, help="of the network")
    top.add_argument("--network", default="unet-small")
    top.add_argument("--folder", type=Path, default=Path("reports/landscapes"), help="of the table")
    top.add_argument(
        "--checkpoint", type=Path, help="where the network is kept, with small weights"
    )
    top.add_argument("--run", default="default", help="whose models map the same images")
    options = top.parse_args(arguments)
    models = project_root() / "reports" / options.run / "models"
    beside = {f"{options.run}: {path.parent.name}": path for path in models.glob("*/checkpoint.pt")}
    work = Path(tempfile.mkdtemp(prefix="carries-over-"))
    columns = {"all glacier": map_real(None)}
    try:
        store = varied.make(work / "varied", options.landscapes, options.seed, options.patches)
        settings = Settings(seed=options.training_seed, steps=options.steps, augmentation="strong")
        found = fit(options.network, store, work / options.network, settings=settings)
        for name, path in {**beside, options.network: found.checkpoint}.items():
            columns[name] = map_real(load_checkpoint(path))
        print(pd.DataFrame(columns).round(3).to_string(), flush=True)
        write_csv(options.folder / "carries_over.csv", pd.DataFrame(columns).reset_index())
        if options.checkpoint:
            save_small(load_checkpoint(found.checkpoint), options.checkpoint)
    except GlacierError as error:
        print(f"carries_over: {plain(error)}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
