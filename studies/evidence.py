"""Running the study's trials on landscapes of their own, and what they come to.

Choosing is itself a kind of learning. So it happens on other synthetic landscapes, each with a
training and a test area of its own, never on the test area of the sample that the notebooks report,
nor on that of a user. Every trial is a single change against one base network; landscape and seed
change together, so that what is reported holds for other ground and other random numbers alike.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from glacier_utils import files, metrics
from glacier_utils.datasets import dataset as dataset_module
from glacier_utils.datasets.patches import build_patches
from glacier_utils.datasets.store import PatchStore
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import bootstrap, comparison
from glacier_utils.files import atomic_path, fingerprint, write_csv, write_json
from glacier_utils.models import registry
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.prediction.mapper import predict_patches
from glacier_utils.synthetic.sample import make_sample
from glacier_utils.training import fitting
from glacier_utils.training.settings import Settings
from glacier_utils.workflow import runs
from studies.self_training import self_train
from studies.trials import BASE, BASES, STUDY, TRIALS, Trial

REFERENCES = ("truth", "labels")
TABLES = Path(__file__).parent / "tables"
_FEW = 60  # training patches


def run_trials(
    store: PatchStore,
    folder: str | Path,
    *,
    date: str,
    dates: Sequence[str],
    seed: int,
    trials: Sequence[Trial] = TRIALS,
    settings: Settings = STUDY,
    progress: bool = True,
) -> pd.DataFrame:
    """Run the trials on the training area of one store and score them on its test area.

    What is finished is not done again. Checkpoints are removed at the end but for that of the base;
    the maps and their counts stay.

    Args:
        store: Patches with splits ``train``, ``validation`` and ``test``.
        folder: Folder of this store's results.
        date: Date of training and test.
        dates: All dates that may be learned from, for the trial of both dates.
        seed: Added to each trial's own.
        trials: The base among them, before those that build on it.
        settings: Settings of the base.
        progress: Whether to show a progress bar.

    Returns:
        One row per block of test patches, trial and reference: trial, reference, block, tp, fp, fn,
        tn; and ``seconds`` and ``parameters`` of the trial in each.

    Raises:
        GlacierError: no test patches, or no base among trials that need it.
    """
    folder = Path(folder)
    work = _Work(store, folder, date, list(dates), seed, settings)
    tables = []
    bar = tqdm(trials, desc=folder.name, unit="trial", disable=not progress)
    for trial in bar:
        bar.set_postfix_str(trial.name)
        tables.append(work.counts(trial))
    work.clear()
    return pd.concat(tables, ignore_index=True)


def open_ground(name: int | str, root: Path | None = None) -> tuple[PatchStore, list[str]]:
    """Return patches to study on, and their dates.

    Args:
        name: A number above 0, of a synthetic landscape that is made in
            ``data/landscape-<number>`` if it is not there; or a dataset's name, whose areas are
            called train and test.
        root: The project's folder.

    Raises:
        GlacierError: Landscape 0, which is the sample whose test area the notebooks report.
    """
    if name == "sample" or isinstance(name, int):
        if name == "sample" or name < 1:
            raise GlacierError(f"study: landscape {name} is the sample itself; choose 1 or more")
        folder = (root or runs.project_root()) / "data" / f"landscape-{name}"
        if not (folder / "dataset.yaml").is_file():
            make_sample(folder, seed=name, progress=True)
        dataset = dataset_module.open_dataset(folder)
    else:
        dataset = runs.open_data(name, root)
    store = build_patches(dataset)
    if len(store.select(split="train")) < _FEW:  # a small scene gives more where they overlap
        store = build_patches(dataset, stride=store.images.shape[-1] // 2)
    return store, sorted(set(store.index["date"]))


class _Work:
    """The trials of one store: where their results lie and how each is got."""

    def __init__(
        self,
        store: PatchStore,
        folder: Path,
        date: str,
        dates: list[str],
        seed: int,
        settings: Settings,
    ) -> None:
        self.store, self.folder, self.date, self.dates = store, folder, date, dates
        self.seed, self.settings = seed, settings
        self.test = store.select(split="test", date=date)

    def counts(self, trial: Trial) -> pd.DataFrame:
        """Return the counts of a trial, from the file if it is finished."""
        target = self.folder / _slug(trial.name) / "counts.csv"
        key = self._key(trial)
        mark = target.with_name(f"{key}.done")
        if not mark.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            for other in target.parent.glob("*.done"):
                other.unlink()
            started = time.perf_counter()
            probability, threshold, parameters = self._predict(trial)
            seconds = time.perf_counter() - started
            with atomic_path(target.with_name("probability.npy")) as temporary:
                np.save(temporary, probability.astype(np.float16))
            write_json(
                target.with_name("trial.json"), {"threshold": threshold, "parameters": parameters}
            )
            mask = metrics.classify(probability, threshold)
            counted = comparison.count_blocks({trial.name: mask}, self.store, self.test)
            tables = [
                own[trial.name].assign(
                    trial=trial.name, reference=name, seconds=round(seconds, 1),
                    parameters=parameters,
                )
                for name, own in counted.items()
            ]  # fmt: skip
            write_csv(target, pd.concat(tables))
            mark.touch()
        return pd.read_csv(target)

    def _key(self, trial: Trial) -> str:
        """Return a hash of all that a trial's result follows from."""
        content = dataclasses.asdict(trial) | {"settings": self.settings.model_dump()}
        del content["what"], content["group"]
        below = trial.members or (() if trial.trains else (BASE,))
        keys = [self._key(other) for other in TRIALS if other.name in below]
        return fingerprint([content, keys, self.store.key, self.date, self.dates, self.seed])

    def clear(self) -> None:
        """Remove checkpoints that nobody will read again."""
        for trial in TRIALS:
            if trial.name != BASE:
                path = self.folder / _slug(trial.name) / "fit" / "checkpoint.pt"
                path.unlink(missing_ok=True)

    def _predict(self, trial: Trial) -> tuple[np.ndarray, float, int]:
        """Return probability on the test patches, threshold and number of parameters."""
        if trial.members:
            return self._mean(trial.members)
        if trial.trains:
            checkpoint = self._fit(trial)
        else:
            checkpoint = self._base()
            if trial.pseudo:
                checkpoint = self._pseudo(trial, checkpoint)
        segmenter = load_checkpoint(checkpoint)
        images, where = self.store.images, self.test
        probability = predict_patches(segmenter, images, positions=where, flips=trial.flips)
        return probability, segmenter.threshold, registry.parameter_count(segmenter.network)

    def _settings(self, trial: Trial) -> Settings:
        changed = self.settings.changed(**trial.options)
        return changed.changed(seed=self.seed + changed.seed)

    def _fit(self, trial: Trial) -> Path:
        settings = self._settings(trial)
        dates = self.dates if trial.both_dates else [self.date]
        fit = fitting.fit(
            trial.model, self.store, self.folder / _slug(trial.name) / "fit", dates=dates,
            settings=settings, progress=False,
        )  # fmt: skip
        return fit.checkpoint

    def _base(self) -> Path:
        checkpoint = self.folder / _slug(BASE) / "fit" / "checkpoint.pt"
        if not checkpoint.is_file():
            raise GlacierError(f"study: this trial builds on {BASE}, which has to come before it")
        return checkpoint

    def _pseudo(self, trial: Trial, teacher: Path) -> Path:
        settings = self._settings(trial)
        settings = settings.changed(
            steps=max(1, settings.steps // 2), learning_rate=settings.learning_rate / 2
        )
        fit = self_train(
            teacher, self.store, self.test, self.folder / _slug(trial.name) / "fit",
            settings=settings, dates=[self.date], progress=False,
        )  # fmt: skip
        return fit.checkpoint

    def _mean(self, members: Sequence[str]) -> tuple[np.ndarray, float, int]:
        total, thresholds, parameters = 0, [], 0
        for name in members:
            folder = self.folder / _slug(name)
            total = total + np.load(folder / "probability.npy").astype(np.float32)
            content = pd.read_json(folder / "trial.json", typ="series")
            thresholds.append(float(content["threshold"]))
            parameters += int(content["parameters"])
        return total / len(members), float(np.mean(thresholds)), parameters


def table(results: Mapping[str, pd.DataFrame], *, against: Sequence[str] = BASES) -> pd.DataFrame:
    """Put the counts of several landscapes into one table of what helped.

    Args:
        results: Name of the landscape -> what `run_trials` returned for it.
        against: The trials that all others are compared with, on the same blocks: by default the
            base with its three seeds, whose counts are averaged, so that one lucky or unlucky base
            does not decide about all others.

    Returns:
        One row per trial and reference: trial, group, what, reference, landscapes, iou, iou_low,
        iou_high (pooled over the landscapes, 95 %, spatial block bootstrap); difference to
        ``against`` with low and high, paired on the same blocks; least and largest difference of a
        single landscape; verdict (``helps`` or ``harms`` where interval and all landscapes say so,
        else ``not distinguishable``, and ``base``); seconds (the least of any landscape: other work
        only adds) and parameters.
    """
    known = {trial.name: trial for trial in TRIALS}
    joined = pd.concat(
        [
            counts.assign(landscape=landscape, block=landscape + " " + counts["block"].astype(str))
            for landscape, counts in results.items()
        ],
        ignore_index=True,
    )
    rows = []
    for reference in [name for name in REFERENCES if (joined["reference"] == name).any()]:
        here = joined[joined["reference"] == reference]
        bases = here[here["trial"].isin(against)]
        base = bases.groupby(["landscape", "block"], sort=False)[metrics.COUNTS].sum().reset_index()
        base[metrics.COUNTS] /= bases["trial"].nunique()
        for name, counts in here.groupby("trial", sort=False):
            scores = bootstrap.scores_with_interval(counts)
            single = [
                _iou(part) - _iou(base[base["landscape"] == landscape])
                for landscape, part in counts.groupby("landscape", sort=False)
            ]
            paired = bootstrap.compare({"trial": counts, "base": base}).iloc[0]
            difference, low, high = paired[["difference", "low", "high"]]
            costs = counts.drop_duplicates("landscape")
            rows.append(
                {
                    "trial": name,
                    "group": known[name].group if name in known else "",
                    "what": known[name].what if name in known else "",
                    "reference": reference,
                    "landscapes": counts["landscape"].nunique(),
                    **{key: scores[key] for key in ("iou", "iou_low", "iou_high")},
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "least": min(single),
                    "largest": max(single),
                    "verdict": "base" if name in against else _verdict(low, high, single),
                    "seconds": costs["seconds"].min(),
                    "parameters": int(costs["parameters"].iloc[0]),
                }
            )
    return pd.DataFrame(rows)


def _verdict(low: float, high: float, single: Sequence[float]) -> str:
    if low > 0 and min(single) > 0:
        return "helps"
    return "harms" if high < 0 and max(single) < 0 else bootstrap.SAME


def run_study(
    landscapes: Sequence[int],
    *,
    confirm: str = "",
    folder: str | Path,
    trials: Sequence[Trial] = TRIALS,
    ground: Callable[[int | str], tuple[PatchStore, list[str]]] = open_ground,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Run the study and write its tables.

    Args:
        landscapes: Numbers above 0 of synthetic landscapes; the number is the seed too.
        confirm: A dataset on which the same trials are run once more, to see whether what was found
            on the landscapes holds there; "" for none.
        folder: Folder of the results, with ``landscapes.csv`` and ``<confirm>.csv``.
        trials: What is tried.
        ground: Gives the patches of a landscape or dataset.
        progress: Whether to show progress bars.

    Returns:
        "landscapes" -> the table of the landscapes; the name of the dataset -> its own.

    Raises:
        GlacierError: A dataset without test patches, or what `run_trials` raises.
    """
    folder, results, found = Path(folder), {}, {}
    for number in landscapes:
        store, dates = ground(number)
        results[f"landscape {number}"] = run_trials(
            store, folder / f"landscape-{number}", date=dates[-1], dates=dates, seed=number,
            trials=trials_for(dates, trials), progress=progress,
        )  # fmt: skip
    if results:
        found["landscapes"] = table(results)
    if confirm:
        store, dates = ground(confirm)
        counts = run_trials(
            store, folder / files.file_name(confirm), date=dates[-1], dates=dates, seed=0,
            trials=trials_for(dates, trials), progress=progress,
        )  # fmt: skip
        found[confirm] = table({confirm: counts})
    for name, content in found.items():
        write_csv(folder / f"{files.file_name(name)}.csv", content)
    return found


def trials_for(dates: Sequence[str], trials: Sequence[Trial] = TRIALS) -> tuple[Trial, ...]:
    """Return the trials that can be made: that of both dates asks for two."""
    return tuple(trial for trial in trials if len(dates) > 1 or not trial.both_dates)


def read_tables(folder: str | Path | None = None) -> dict[str, pd.DataFrame]:
    """Return the tables of a finished study by name, that of the landscapes first.

    Args:
        folder: As of `run_study`; None for the tables that come with the project.

    Raises:
        GlacierError: The folder holds no table.
    """
    folder = TABLES if folder is None else Path(folder)
    paths = sorted(folder.glob("*.csv"), key=lambda path: (path.stem != "landscapes", path.stem))
    if not paths:
        raise GlacierError(f"{folder}: holds no tables; make them with `python -m studies run`")
    return {path.stem: pd.read_csv(path) for path in paths}


def rank_correlation(one: pd.DataFrame, other: pd.DataFrame, *, groups: Sequence[str]) -> float:
    """Return Kendall's tau of the order of the trials of some groups in two tables.

    1 is the same order, 0 none in common. The tables are of `table`, of one reference each.
    """
    chosen = one[one["group"].isin(groups)].merge(other, on="trial", suffixes=("", "_other"))
    return float(chosen["iou"].corr(chosen["iou_other"], method="kendall"))


def _iou(counts: pd.DataFrame) -> float:
    return float(metrics.score_table(counts)["iou"])


def _slug(name: str) -> str:
    return name.replace(" ", "_")
