"""Several models side by side: training them all, and the table that the later notebooks read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from glacier_utils import models, runs, training
from glacier_utils.errors import GlacierError
from glacier_utils.settings import Settings
from glacier_utils.store import PatchStore

SCORES = ("iou", "f1", "precision", "recall")
# They end the names of models that were trained on both dates, or on the other date alone.
BOTH, OTHER = "-both", "-other"


def fit_all(
    names: Sequence[str],
    seeds: Sequence[int],
    store: PatchStore,
    folder: str | Path,
    *,
    dates: Sequence[str],
    settings: Settings | None = None,
    progress: bool = True,
) -> dict[str, training.Fit]:
    """Train every model, the networks once a seed, each into a folder of its own.

    Args:
        names: from `models.names`, or any ``decoder-encoder``.
        seeds: the first gives the folder ``<model>``, each other one ``<model>-seed<n>``.
            The threshold is not random and is fitted once.

    Returns:
        folder name -> fit, in order.

    Raises:
        GlacierError: no model or no seed, or what `training.fit` raises.
    """
    if not names or not seeds:
        raise GlacierError("models and seeds: name at least one of each")
    for name in names:
        models.describe(name)  # An unknown name should not wait for the others to train.
    settings = settings or Settings()
    fits = {}
    for name in names:
        for seed in seeds if name != "threshold" else seeds[:1]:
            key = name if seed == seeds[0] else f"{name}-seed{seed}"
            fits[key] = training.fit(
                name,
                store,
                Path(folder) / key,
                dates=dates,
                settings=dataclasses.replace(settings, seed=seed),
                progress=progress,
            )
    return fits


def fit_again(
    name: str,
    suffix: str,
    store: PatchStore,
    folder: str | Path,
    *,
    dates: Sequence[str],
    others: Sequence[str],
    settings: Settings,
    progress: bool = True,
) -> dict[str, training.Fit]:
    """Train a model on other dates, for as many steps as `fit_all` gave it.

    Args:
        name: of the model.
        suffix: `BOTH` or `OTHER`, which ends the name of the folder.
        dates: those of `fit_all`, which set the number of steps.
        others: the dates to learn from; where they are the same nothing is trained.

    Returns:
        ``<model><suffix>`` -> fit, or nothing.
    """
    if not others or sorted(others) == sorted(dates):
        return {}
    # More dates make longer epochs.
    epochs = max(1, settings.epochs * len(dates) // len(others))
    settings = dataclasses.replace(settings, epochs=epochs)
    key = f"{name}{suffix}"
    target = Path(folder) / key
    fit = training.fit(name, store, target, dates=others, settings=settings, progress=progress)
    return {key: fit}


def summary(fits: Mapping[str, training.Fit]) -> pd.DataFrame:
    """Put fits into one table.

    Returns:
        A row a fit: model (its key), architecture (the name that scores are listed under: that of
        the registry, with `BOTH` or `OTHER` behind it), kind (``network`` or ``baseline``), dates,
        seed, parameters, epochs, seconds, validation_iou and the other scores, threshold,
        temperature, checkpoint (relative to the project).
    """
    rows = []
    for key, fit in fits.items():
        content = json.loads(fit.checkpoint.with_name("fit.json").read_text(encoding="utf-8"))
        name = content["model"]
        rows.append(
            {
                "model": key,
                "architecture": name + next((s for s in (BOTH, OTHER) if key.endswith(s)), ""),
                "kind": "baseline" if models.is_pixel_model(name) else "network",
                "dates": " ".join(content["dates"]),
                "seed": content["settings"]["seed"],
                "parameters": fit.parameters,
                "epochs": len(fit.history),
                "seconds": fit.seconds,
                **{f"validation_{name}": fit.validation[name] for name in SCORES},
                "threshold": fit.validation["threshold"],
                "temperature": fit.validation["temperature"],
                "checkpoint": runs.relative(fit.checkpoint),
            }
        )
    return pd.DataFrame(rows)


def overview(names: Sequence[str]) -> pd.DataFrame:
    """Return model and description of each name."""
    return pd.DataFrame({"model": names, "what it is": [models.describe(name) for name in names]})


def best_network(table: pd.DataFrame) -> str:
    """Return the network with the best validation IoU; where there is none, the best baseline.

    Only models of the first seed and the first choice of dates are compared: choosing the luckiest
    of many seeds would overstate its validation score most, and other dates are other patches.
    """
    first = _alike(table)
    networks = first[first["kind"] == "network"]
    return _best(networks if len(networks) else first)


def best_baseline(table: pd.DataFrame) -> str:
    """Return the baseline with the best validation IoU; where there is none, the worst network.

    As in `best_network`, only models of the first seed are compared.
    """
    first = _alike(table)
    baselines = first[first["kind"] == "baseline"]
    if baselines.empty:
        return str(first.sort_values("validation_iou", kind="stable")["model"].iloc[0])
    return _best(baselines)


def checkpoint(table: pd.DataFrame, model: str) -> Path:
    """Return the checkpoint of a model in the table.

    Raises:
        GlacierError: the table has no such model.
    """
    rows = table[table["model"] == model]
    if rows.empty:
        raise GlacierError(f"model {model!r}: not trained in this run; see metrics/models.csv")
    return runs.project_root() / rows["checkpoint"].iloc[0]


def by_dates(table: pd.DataFrame, model: str) -> dict[str, Path]:
    """Return the checkpoints of a model and of its trainings on other dates, if there are any.

    Returns:
        "<model>, <date> + <date>" -> checkpoint.
    """
    names = [model + s for s in ("", BOTH, OTHER) if (table["model"] == model + s).any()]
    dates = table.set_index("model")["dates"]
    return {
        f"{model}, {' + '.join(dates[name].split())}": checkpoint(table, name) for name in names
    }


def _alike(table: pd.DataFrame) -> pd.DataFrame:
    """Return the models of the first seed that learned from the dates of the first model."""
    return table[
        (table["seed"] == table["seed"].iloc[0]) & (table["dates"] == table["dates"].iloc[0])
    ]


def _best(table: pd.DataFrame) -> str:
    return str(table.sort_values("validation_iou", ascending=False, kind="stable")["model"].iloc[0])
