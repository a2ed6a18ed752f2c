"""Does seeing shape pay on synthetic landscapes as much as it does on real ice?

Each landscape is made anew in a temporary folder; the models learn from the old outlines of its
training area in August and are scored on its test area, mapped in overlapping windows as in
notebook 04, against the truth and against the labels: threshold, random forest and gradient
boosting as notebook 03 fits them, and networks for a given number of steps, several seeds each. The
labels themselves are scored against the truth as well.

Three tables, to which a row is added as soon as it is known, so that a run that was broken off goes
on where it stopped:

- ``scores.csv``: a row per landscape, model and training seed;
- ``surfaces.csv``: on which surfaces each of them is wrong;
- ``checkpoints.csv``: IoU of the networks while they train, to see whether more of it does harm.

A generator that changed is another one: ``generator`` is a hash of its code, and rows of others
neither count nor stand in for missing ones.

    python -m studies.landscapes.shape_pays --seeds 11 12 --steps 500
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch import Callback

import glacier_utils.synthetic
from glacier_utils import evaluation, metrics
from glacier_utils.conventions import SURFACES
from glacier_utils.datasets import PatchStore, build_patches, open_dataset
from glacier_utils.datasets.dataset import Dataset
from glacier_utils.errors import GlacierError, plain
from glacier_utils.evaluation import bootstrap
from glacier_utils.files import fingerprint
from glacier_utils.models import Segmenter, load_checkpoint
from glacier_utils.prediction import predict_patches
from glacier_utils.synthetic.sample import make_sample
from glacier_utils.training import Settings, fit

BASELINES = ("threshold", "random_forest", "gradient_boosting")
LABELS = "labels"  # stands for the outlines themselves among the models
REFERENCES = ("truth", "labels")
DATE = "2023-08"
KEYS = ["generator", "patches", "landscape", "steps", "model", "training_seed"]
# A glacier in the southern Andes, Sentinel-2 at 10 m, trained and tested on different ground.
REAL = {"random_forest": 0.63, "gradient_boosting": 0.77, "unet-resnet18": 0.82}
_PARTS = 4  # of a training, after each of which it is scored


def generator() -> str:
    """Return a hash of the code that makes landscapes."""
    folder = Path(glacier_utils.synthetic.__file__).parent
    return fingerprint([path.read_text("utf-8") for path in sorted(folder.glob("*.py"))], 8)


class Results:
    """The three tables in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> pd.DataFrame:
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            return pd.DataFrame(columns=KEYS)
        return pd.read_csv(path, dtype={"generator": str})  # a hash may look like a number

    def add(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        before, new = self.read(name), pd.DataFrame(rows)
        table = pd.concat([before, new], ignore_index=True) if len(before) else new
        path = self.folder / f"{name}.csv"
        table.to_csv(path.with_suffix(".new"), index=False, float_format="%.4f")
        path.with_suffix(".new").replace(path)

    def has(self, key: dict[str, Any]) -> bool:
        table = self.read("scores")
        return bool(np.logical_and.reduce([table[name] == key[name] for name in KEYS]).any())


def score(mask: np.ndarray, store: PatchStore, positions: np.ndarray) -> dict[str, float]:
    """Return IoU with its interval, against each reference, and precision and recall.

    Args:
        mask: uint8 [n, row, col] of the test patches.
        store: of patches.
        positions: of the test patches.
    """
    counts = evaluation.count_blocks({"map": mask}, store, positions)
    found: dict[str, float] = {}
    for reference in REFERENCES:
        blocks = counts[reference]["map"]
        values = bootstrap.scores_with_interval(blocks)
        names = ("iou", "iou_low", "iou_high", "precision", "recall")
        found |= {f"{reference}_{name}": values[name] for name in names}
    return found | {"blocks": blocks["block"].nunique()}


def by_surface(mask: np.ndarray, truth: np.ndarray, surface: np.ndarray) -> list[dict[str, Any]]:
    """Return how much of the error lies on each surface.

    Args:
        mask: uint8 [n, row, col]: 0, 1, 255.
        truth: of the same shape.
        surface: codes of ``conventions.SURFACES``, of the same shape.

    Returns:
        A row per surface: missed and false pixels, their fraction of all errors, and the fraction
        of the surface that is wrong.
    """
    known = (mask != 255) & (truth != 255)
    missed, false = (known & (mask == m) & (truth == 1 - m) for m in (0, 1))
    total, lost, added = (np.bincount(surface[m], minlength=256) for m in (known, missed, false))
    errors = max(int(lost.sum() + added.sum()), 1)
    return [
        {
            "surface": SURFACES.get(int(code), str(code)),
            "missed": int(lost[code]),
            "false": int(added[code]),
            "of_errors": (lost[code] + added[code]) / errors,
            "wrong": (lost[code] + added[code]) / total[code],
        }
        for code in np.flatnonzero(total)
    ]


class Watch(Callback):
    """Scores every fourth test patch four times while a network trains: ``rows``.

    Args:
        store: of patches.
        test: positions of the test patches.
    """

    def __init__(self, store: PatchStore, test: np.ndarray) -> None:
        self.store, self.test = store, test[::4]
        self.rows: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: Any, task: Any) -> None:
        """Add a row after each quarter of the training."""
        if (trainer.current_epoch + 1) * _PARTS % task.settings.validations:
            return
        own, store, test = task.validated(), self.store, self.test
        # Another one with the same weights: prediction rearranges what it is given.
        moments = (values.flatten().numpy() for values in (own.mean, own.std))
        twin = Segmenter(own.name, own.bands, *moments, arguments=own.arguments)
        twin.load_state_dict(own.state_dict())
        mask = metrics.classify(predict_patches(twin, store.images, positions=test))
        validation = float(trainer.callback_metrics["validation_iou"])
        row = {"step": trainer.global_step, "validation_iou": validation}
        for name, layer in (("truth", store.truth), ("labels", store.labels)):
            row[f"{name}_iou"] = metrics.count(mask, np.asarray(layer[test])).iou
        self.rows.append(row)


def train(
    model: str, store: PatchStore, steps: int, seed: int, folder: Path, test: np.ndarray
) -> tuple[Path, list[dict[str, Any]]]:
    """Fit a model; return its checkpoint and, of a network, its scores on the way.

    Args:
        model: of the registry.
        store: of patches.
        steps: of a network.
        seed: of the training.
        folder: of the fit.
        test: positions of the test patches.
    """
    settings, watch = Settings(seed=seed, steps=steps or Settings().steps), Watch(store, test)
    found = fit(
        model, store, folder, dates=DATE, settings=settings, callbacks=[watch],
        progress=model not in BASELINES,
    )  # fmt: skip
    return found.checkpoint, watch.rows


def run(
    seeds: Sequence[int],
    *,
    steps: int,
    networks: Sequence[str],
    training_seeds: Sequence[int],
    patches: int | None,
    folder: Path,
) -> Results:
    """Train and score on each landscape what is not in the tables yet.

    Args:
        seeds: of the landscapes.
        steps: of each network.
        networks: of the registry.
        training_seeds: of the networks; baselines are fitted with the first.
        patches: rows and columns of them in each area, for a quick look; None: the sample's own.
        folder: of the tables.

    Returns:
        The tables.
    """
    results, code = Results(folder), generator()
    planned = [(LABELS, training_seeds[0]), *((name, training_seeds[0]) for name in BASELINES)]
    planned += [(name, seed) for seed in training_seeds for name in networks]
    for landscape in seeds:
        base = {"generator": code, "patches": patches or 0, "landscape": landscape}
        missing = [
            base | {"steps": steps if model in networks else 0, "model": model, "training_seed": s}
            for model, s in planned
        ]
        missing = [key for key in missing if not results.has(key)]
        if not missing:
            continue
        work = Path(tempfile.mkdtemp(prefix="landscape-"))
        try:
            started = time.perf_counter()
            make_sample(work / "sample", seed=landscape, _patches=patches)
            made = time.perf_counter() - started
            data = open_dataset(work / "sample")
            store = build_patches(data, dates=[DATE])
            print(f"landscape {landscape}: made in {made:.0f} s", flush=True)
            for key in missing:
                _one(results, key, data, store, work)
        finally:
            shutil.rmtree(work)
    return results


def _one(
    results: Results, key: dict[str, Any], data: Dataset, store: PatchStore, work: Path
) -> None:
    """Fit a model, map the test area with it in overlapping windows, score that, and add rows."""
    test = store.select(split="test", date=DATE)
    started, rows, model = time.perf_counter(), [], key["model"]
    if model == LABELS:
        mask, threshold = np.asarray(store.labels[test]), np.nan
    else:
        target = work / f"{model}-{key['training_seed']}"
        path, rows = train(model, store, key["steps"], key["training_seed"], target, test)
        threshold = load_checkpoint(path).threshold
        probability = evaluation.predict_models({model: path}, data, store, test)[model]
        mask = metrics.classify(probability, threshold)
    truth, surface = (np.asarray(layer[test]) for layer in (store.truth, store.surface))
    # Patches may hold ground that the satellite did not see.
    seen = store.valid(test)
    mask = np.where(seen, mask, 255).astype(np.uint8)
    found = score(mask, store, test)
    results.add("checkpoints", [key | row for row in rows])
    results.add("surfaces", [key | row for row in by_surface(mask, truth, surface)])
    seconds = round(time.perf_counter() - started, 1)
    results.add("scores", [key | {"threshold": threshold, **found, "seconds": seconds}])
    print(f"  {model}, seed {key['training_seed']}: {found['truth_iou']:.3f} "
          f"({found['truth_iou_low']:.2f} to {found['truth_iou_high']:.2f}), "
          f"labels {found['labels_iou']:.3f}, {seconds:.0f} s", flush=True)  # fmt: skip


def gaps(scores: pd.DataFrame, networks: Sequence[str]) -> pd.DataFrame:
    """Return IoU against the truth by landscape (mean over training seeds), and the gaps.

    Args:
        scores: of one generator and one number of steps.
        networks: whose gap to boosting is wanted.

    Returns:
        A row per landscape and their mean: the models' IoU, boosting - forest, network - boosting.
    """
    table = scores.pivot_table(index="landscape", columns="model", values="truth_iou")
    order = [LABELS, *BASELINES, *networks]
    table = table[[name for name in order if name in table]]
    table["boosting - forest"] = table["gradient_boosting"] - table["random_forest"]
    for network in networks:
        if network in table:
            table[f"{network} - boosting"] = table[network] - table["gradient_boosting"]
    table.index = table.index.astype(str)
    table.loc["mean"] = table.mean()
    return table


def summary(results: Results, *, steps: int, patches: int | None, networks: Sequence[str]) -> str:
    """Put what the present generator came to into words and tables."""
    mine = {}
    for name in ("scores", "surfaces", "checkpoints"):
        table = results.read(name)
        own = (table["generator"] == generator()) & (table["patches"] == (patches or 0))
        mine[name] = table[own & table["steps"].isin([0, steps])]
    lines = ["IoU against the truth (real ice: " + ", ".join(
        f"{name} {value:.2f}" for name, value in REAL.items()) + ")"]  # fmt: skip
    lines.append(gaps(mine["scores"], networks).round(3).to_string())
    widths = mine["scores"]["truth_iou_high"] - mine["scores"]["truth_iou_low"]
    lines.append("\nwidth of the 95 % intervals, mean:")
    lines.append(widths.groupby(mine["scores"]["model"]).mean().round(3).to_string())
    if len(mine["checkpoints"]):
        lines.append("\nnetworks while they train, mean:")
        columns = ["validation_iou", "truth_iou", "labels_iou"]
        means = mine["checkpoints"].groupby(["model", "step"])[columns].mean()
        lines.append(means.round(3).to_string())
    lines.append("\nfraction of the error on each surface (in brackets: of the surface, wrong):")
    parts = mine["surfaces"].groupby(["surface", "model"])[["of_errors", "wrong"]].mean()
    text = parts.apply(lambda row: f"{row['of_errors']:.2f} ({row['wrong']:.2f})", axis=1)
    lines.append(text.unstack("model", fill_value="").to_string())
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the summary; return 0, or 2 for a mistake."""
    top = argparse.ArgumentParser(description="Does seeing shape pay on synthetic landscapes?")
    top.add_argument("--seeds", nargs="+", type=int, default=[11], help="of the landscapes")
    top.add_argument("--steps", type=int, default=500, help="of each network")
    top.add_argument("--networks", nargs="*", default=["unet-resnet18"])
    top.add_argument("--training-seeds", nargs="+", type=int, default=[0])
    top.add_argument("--patches", type=int, help="rows and columns in each area (a quick look)")
    top.add_argument(
        "--folder", type=Path, default=Path("reports/landscapes"), help="of the tables"
    )
    options = top.parse_args(arguments)
    asked = {name: getattr(options, name) for name in ("steps", "networks", "patches")}
    try:
        results = run(options.seeds, training_seeds=options.training_seeds, folder=options.folder,
                      **asked)  # fmt: skip
    except GlacierError as error:
        print(f"shape_pays: {plain(error)}", file=sys.stderr)
        return 2
    print("\n" + summary(results, **asked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
