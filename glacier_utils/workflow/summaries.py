"""What a run came to: its headline figures, read from what it left, and whether it is finished."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from glacier_utils.errors import GlacierError, plain
from glacier_utils.training import selection
from glacier_utils.workflow.runs import Run

FINISHED, UNFINISHED, FAILED = "finished", "unfinished", "failed"
_MAY_NOT = "**What may not be concluded**"


@dataclass(frozen=True)
class Summary:
    """The headline of a run. A run that is not finished has no figures: they may be of before.

    Attributes:
        name: of the run.
        state: ``finished``, ``unfinished`` or ``failed``.
        reason: why it is not finished.
        dataset: name or path, as in the parameters.
        synthetic: whether its images are made, not observed.
        seconds: of all notebooks.
        started: ISO 8601.
        trained: areas and dates of training, in words.
        best: the model that validation chose; "" where none is scored.
        scores: a row per model of the first seed, area, date and reference: those of
            ``spatial.csv``, area_error (of the total area, per cent), best (bool), parameters,
            seconds.
        mapped: a row per test area and date: those of ``temporal.csv`` for the best model, and the
            error of the area in per cent as ``labels`` and ``truth``, nan where it is not known.
        lead: against the best baseline: a row per reference, as of ``against_baselines.csv``.
        warnings: what a person should look at.
        limits: what notebook 04 says may not be concluded.
    """

    name: str
    state: str
    reason: str = ""
    dataset: str = ""
    synthetic: bool = False
    seconds: float = 0.0
    started: str = ""
    trained: str = ""
    best: str = ""
    scores: list[dict[str, Any]] = field(default_factory=list)
    mapped: list[dict[str, Any]] = field(default_factory=list)
    lead: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    @property
    def headline(self) -> dict[str, dict[str, Any]]:
        """Reference -> the best model's row of ``scores`` in the first area."""
        rows = [row for row in self.scores if row["best"]]
        return {r["reference"]: r for r in rows if r["area"] == rows[0]["area"]}


def summarize(run: Run) -> Summary:
    """Read the headline of a run; what cannot be read makes it a failed one, with the reason."""
    try:
        record = run.read_record()
        parameters, steps = record.get("parameters") or {}, record.get("steps") or {}
        state, reason = _state(run, record)
        places = [*(record.get("train_areas") or []), *(parameters.get("train_dates") or [])]
        known = {
            "dataset": str(record.get("dataset") or parameters.get("dataset") or ""),
            "started": str((record.get("provenance") or {}).get("started", "")),
            "seconds": sum(step["seconds"] for step in steps.values()),
            "trained": ", ".join(map(str, places)),
        }
        if state == FINISHED:
            known |= _figures(run, record) | _remarks(run)
        return Summary(run.name, state, _from_home(reason, run), **known)
    except (GlacierError, LookupError, TypeError, AttributeError, ValueError) as error:
        said = plain(error) if isinstance(error, GlacierError) else f"cannot be read ({error!r})"
        return Summary(run.name, FAILED, _from_home(said, run))


def _state(run: Run, record: dict[str, Any]) -> tuple[str, str]:
    """Say whether a run is finished, and if not, why."""
    if record.get("status") == FAILED:
        return FAILED, plain(record.get("failure") or "it does not say why")
    pages = [run.folder / f"{name}.html" for name in record.get("steps") or {}]
    gone = [path.name for path in pages if not path.exists()]
    if record.get("status") != FINISHED or gone:
        return UNFINISHED, f"{gone[0]} is gone" if gone else "at work, or broken off"
    return FINISHED, ""


def _figures(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """Return best, scores, lead and mapped, as far as the tables are there."""
    models, spatial = _table(run, "models"), _table(run, "spatial")
    found: dict[str, Any] = {}
    if len(models) and len(spatial):
        found["best"] = best = selection.best_network(models)
        first = models[models["seed"] == models["seed"].iloc[0]]
        scores = first.merge(spatial.rename(columns={"model": "architecture"}))
        scores = scores.assign(best=scores["model"] == best, area_error=area_error(scores))
        found["scores"] = scores.to_dict("records")
        pairs, rival = _table(run, "against_baselines"), selection.best_baseline(models)
        if len(pairs):
            chosen = (pairs["model"] == best) & (pairs["against"] == rival)
            found["lead"] = pairs[chosen].to_dict("records")
    temporal, robustness = _table(run, "temporal"), _table(run, "robustness")
    if len(temporal) and len(robustness):
        key = ["model", "area", "date"]
        errors = robustness.assign(error=area_error(robustness))
        errors = errors.pivot(index=key, columns="reference", values="error").reset_index()
        tested = [str(area) for area in record.get("test_areas") or []]
        # The first model is the chosen one, as trained.
        own = temporal[temporal["model"] == temporal["model"].iloc[0]]
        own = own[own["area"].isin(tested)].merge(errors, on=key, how="left")
        found["mapped"] = own.to_dict("records")
    return found


def area_error(scores: pd.DataFrame) -> pd.Series:
    """Return by how many per cent each total mapped area exceeds the reference's.

    Args:
        scores: recall and precision. Their ratio is (tp + fp) / (tp + fn).
    """
    return 100 * (scores["recall"] / scores["precision"] - 1)


def _remarks(run: Run) -> dict[str, Any]:
    """Return what the dataset, the trainings and the maps warn of, each once, and limits."""
    # The one column without which a table that is missing could not be asked.
    inventory = _table(run, "exploration_inventory").dropna(subset="problems")
    found: dict[str, list[str]] = {}  # what is said -> of what
    for row in inventory.itertuples():
        found.setdefault(row.problems, []).append(f"{row.area}, {row.date}")
    synthetic = False
    for path in sorted([*run.models.glob("*/fit.json"), *run.maps.glob("*.json")]):
        content = json.loads(path.read_text(encoding="utf-8"))
        about = content.get("properties") or {}
        synthetic |= "glacier:synthetic" in about
        name = path.parent.name if path.name == "fit.json" else path.stem
        for text in filter(None, [content.get("warning"), *about.get("glacier:warnings", [])]):
            found.setdefault(text, []).append(name)
    told = [f"{'; '.join(names)}: {text}" for text, names in found.items()]
    warnings = [_from_home(text, run) for text in told]
    path = run.metrics / "conclusions_spatial.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text.partition(_MAY_NOT)[2].splitlines()
    limits = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    return {"warnings": warnings, "limits": limits, "synthetic": synthetic}


def _from_home(text: str, run: Run) -> str:
    """Make paths in a text start at the project's folder or at ``~``: pages are passed on."""
    for folder, short in ((run.folder.resolve().parent.parent, ""), (Path.home(), "~/")):
        if folder.name:
            text = re.sub(rf"(?<![\w.~/-]){re.escape(str(folder))}[/\\]", short, text)
    return text


def _table(run: Run, name: str) -> pd.DataFrame:
    """Read a table of the run; an empty one where it is not there."""
    there = (run.metrics / f"{name}.csv").exists()
    return run.read_table(name) if there else pd.DataFrame({"problems": []})
