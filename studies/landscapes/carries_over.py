"""What do models that know synthetic landscapes alone make of real images?

Threshold, gradient boosting and a network learn from the truth of several landscapes at both dates,
the network with strong augmentation, and map the development data without one real label:

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
from typing import Any

import numpy as np
import pandas as pd
import yaml

from glacier_utils import metrics
from glacier_utils.datasets import PatchStore, build_patches, open_dataset
from glacier_utils.errors import GlacierError, plain
from glacier_utils.files import write_csv
from glacier_utils.models import load_checkpoint
from glacier_utils.prediction import predict_scene
from glacier_utils.synthetic.sample import make_sample
from glacier_utils.training import Settings, fit
from glacier_utils.workflow import runs

NO_ICE = {"vegetation": (4,), "water": (6,), "cloud": (8, 9, 10)}
"""Classes of Nuuk's scene classification on which nothing is to be called glacier."""


def landscapes(folder: Path, count: int, seed: int, patches: int) -> PatchStore:
    """Make landscapes whose truth is the label and which all train.

    Args:
        folder: of the sample.
        count: of landscapes.
        seed: of the sample.
        patches: rows and columns of them in each.
    """
    path = make_sample(folder, seed=seed, areas=count - 2, progress=True, _patches=patches)
    content = yaml.safe_load(path.read_text("utf-8"))
    for dates in content["areas"].values():
        for entry in dates.values():
            if isinstance(entry, dict):
                entry["labels"] = entry["truth"]
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return build_patches(open_dataset(folder), train_areas=list(content["areas"]), progress=True)


def map_real(segmenter: Any) -> dict[str, float]:
    """Return what is mapped -> IoU, or for Nuuk the fraction that is called glacier."""
    found = {}
    for name in ("everest", "athabasca"):
        dataset = runs.open_data(name)
        for date in dataset.dates("test"):
            pairs = []
            for area in ("test", "train"):
                probability = predict_scene(segmenter, dataset.source(area, date))
                mask = metrics.classify(probability, segmenter.threshold)
                pairs.append((mask.ravel(), dataset.labels(area, date).read().ravel()))
            for where, own in (("test area", pairs[:1]), ("all", pairs)):
                mask, labels = (np.concatenate(parts) for parts in zip(*own, strict=True))
                found[f"{name} {date}, {where}"] = metrics.count(mask, labels).iou
    dataset = runs.open_data("nuuk")
    ((area, date),) = [(area, date) for area in dataset.areas for date in dataset.dates(area)]
    probability = predict_scene(segmenter, dataset.source(area, date))
    classes = dataset.scene_classification(area, date)
    assert classes is not None
    codes, seen = classes.read(), np.isfinite(probability)
    glacier = metrics.classify(probability, segmenter.threshold) == 1
    for what, own in NO_ICE.items():
        found[f"nuuk, {what}"] = float(glacier[seen & np.isin(codes, own)].mean())
    everything = seen & np.isin(codes, sum(NO_ICE.values(), ()))
    return found | {"nuuk, all of them": float(glacier[everything].mean())}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, map and print the table; return 0, or 2 for a mistake."""
    top = argparse.ArgumentParser(description="Do models of synthetic landscapes know real ice?")
    top.add_argument("--landscapes", type=int, default=10, help="number of them, 3 or more")
    top.add_argument("--patches", type=int, default=14, help="rows and columns in each")
    top.add_argument("--seed", type=int, default=51, help="of the landscapes and of the training")
    top.add_argument("--steps", type=int, default=1500, help="of the network")
    top.add_argument("--network", default="unet-resnet18")
    top.add_argument("--folder", type=Path, default=Path("reports/landscapes"), help="of the table")
    options = top.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="carries-over-"))
    columns = {}
    try:
        store = landscapes(work / "sample", options.landscapes, options.seed, options.patches)
        for model in ("threshold", "gradient_boosting", options.network):
            settings = Settings(seed=options.seed, steps=options.steps, augmentation="strong")
            found = fit(model, store, work / model, settings=settings)
            columns[model] = map_real(load_checkpoint(found.checkpoint))
            print(pd.DataFrame(columns).round(3).to_string(), flush=True)
            write_csv(options.folder / "carries_over.csv", pd.DataFrame(columns).reset_index())
    except GlacierError as error:
        print(f"carries_over: {plain(error)}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
