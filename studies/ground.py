"""What does more training ground add, and what does the near infrared?

U-Net with ResNet-18 and gradient boosting learn from all training patches of a landscape, from a
half, a quarter and an eighth of them; U-Net once more from all of them without the near infrared.
Each training is scored on the landscape's test area. The landscapes are those of the study, never
that of the sample. A row is added to the table as soon as it is known, and a run that was broken
off goes on where it stopped.

    python -m studies.ground                # writes studies/tables/ground/scores.csv
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from glacier_utils import evaluation, metrics
from glacier_utils.datasets import PatchStore
from glacier_utils.errors import GlacierError, plain
from glacier_utils.evaluation import bootstrap
from glacier_utils.files import write_csv
from glacier_utils.models import load_checkpoint
from glacier_utils.prediction import predict_patches
from glacier_utils.training import Settings, fit
from studies.evidence import open_ground

TABLE = Path(__file__).parent / "tables" / "ground" / "scores.csv"
NETWORK, BOOSTING = "unet-resnet18", "gradient_boosting"
FRACTIONS = (1.0, 0.5, 0.25, 0.125)
RGB = ("red", "green", "blue")
STEPS = 600  # of notebook 03
KEYS = ["landscape", "seed", "model", "bands", "fraction"]


def planned(bands: Sequence[str]) -> list[tuple[str, str, float]]:
    """Return (model, its bands, fraction of the training patches) of all trainings of one seed."""
    every = " ".join(bands)
    models = [(name, every, part) for part in FRACTIONS for name in (NETWORK, BOOSTING)]
    return [*models, (NETWORK, " ".join(RGB), 1.0)]


def reduced(store: PatchStore, date: str, bands: str, fraction: float, seed: int) -> PatchStore:
    """Return the store with some of its bands, and some of its training patches of a date.

    Patches are drawn at random, the fewer ones always from the more. The statistics of the bands
    are left as they are.
    """
    names = bands.split()
    places = [store.bands.index(name) for name in names]
    if places != list(range(places[0], places[-1] + 1)):
        raise GlacierError(f"bands {bands}: must follow each other in {' '.join(store.bands)}")
    train = store.select(split="train", date=date)
    order = np.random.default_rng(seed).permutation(train)
    split = store.index["split"].to_numpy(object).copy()
    split[order[max(1, round(fraction * len(order))) :]] = "buffer"  # neither trains nor validates
    statistics = dict(store.statistics, bands=names)
    statistics |= {key: [store.statistics[key][n] for n in places] for key in ("mean", "std")}
    return dataclasses.replace(
        store,
        key=f"{store.key}-{bands}-{fraction}-{seed}",
        bands=tuple(names),
        images=store.images[:, places[0] : places[-1] + 1],
        index=store.index.assign(split=split),
        statistics=statistics,
    )


def score(
    store: PatchStore, date: str, model: str, *, seed: int, settings: Settings, folder: Path
) -> dict[str, float]:
    """Train a model and return patches, IoU against each reference with its interval, seconds."""
    found = fit(model, store, folder, dates=date, settings=settings.changed(seed=seed))
    segmenter, test = load_checkpoint(found.checkpoint), store.select(split="test", date=date)
    probability = predict_patches(segmenter, store.images, positions=test)
    masks = {model: metrics.classify(probability, segmenter.threshold)}
    row: dict[str, float] = {"patches": len(store.select(split="train", date=date))}
    for reference, counted in evaluation.count_blocks(masks, store, test).items():
        values = bootstrap.scores_with_interval(counted[model])
        row |= {f"{reference}_{name}": values[name] for name in ("iou", "iou_low", "iou_high")}
    return row | {"seconds": round(found.seconds, 1)}


def run(
    landscapes: Sequence[int], seeds: Sequence[int], table: Path, settings: Settings | None = None
) -> pd.DataFrame:
    """Do what is missing in the table, and return it."""
    rows = pd.read_csv(table).to_dict("records") if table.is_file() else []
    known = {tuple(row[key] for key in KEYS) for row in rows}
    for landscape in landscapes:
        store, dates = open_ground(landscape)
        for seed in seeds:
            for model, bands, fraction in planned(store.bands):
                key = (landscape, seed, model, bands, fraction)
                if key in known:
                    continue
                own = reduced(store, dates[-1], bands, fraction, seed)
                with tempfile.TemporaryDirectory() as folder:
                    asked = {"settings": settings or Settings(), "folder": Path(folder) / "fit"}
                    found = score(own, dates[-1], model, seed=seed, **asked)
                rows.append(dict(zip(KEYS, key, strict=True)) | found)
                write_csv(table, pd.DataFrame(rows))
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; return 0, or 2 for a mistake."""
    top = argparse.ArgumentParser(description="Score against patches, and without near infrared.")
    top.add_argument("--landscapes", nargs="+", type=int, default=[1, 2, 3])
    top.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the trainings")
    top.add_argument("--table", type=Path, default=TABLE)
    options = top.parse_args(arguments)
    try:
        settings = Settings(steps=STEPS)
        table = run(options.landscapes, options.seeds, options.table, settings)
    except GlacierError as error:
        print(f"ground: {plain(error)}", file=sys.stderr)
        return 2
    columns = [name for name in table if name.endswith("_iou")]
    print(table.groupby(["model", "bands", "fraction"])[columns].mean().round(3).to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
