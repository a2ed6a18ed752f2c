"""Runs side by side: the parameters that differ, the scores with paired intervals, the cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import bootstrap
from glacier_utils.metrics import COUNTS
from glacier_utils.workflow.runs import SCORES, Run
from glacier_utils.workflow.summaries import summarize

HEADINGS = {
    "parameters": "Parameters that differ",
    "scores": "Scores, means over seeds",
    "differences": "IoU less that of the first run, same ground, 95 % interval, first seeds",
    "cost": "Cost",
}
_PLACE = ["area", "date", "reference"]
_KEYS = ["run", "model", *_PLACE]
_MEANS = ["iou", "iou_low", "iou_high", *SCORES[1:]]
_PAIRED = ["difference", "low", "high", "verdict", "p_holm"]


@dataclass(frozen=True)
class Comparison:
    """What runs differ in. Runs that are not finished are called so behind their names.

    Attributes:
        parameters: a row per parameter that differs: parameter, and its value in each run.
        scores: a row per run, model, area, date and reference: seeds (their number), and the means
            over the seeds of the scores and of the ends of the IoU's interval.
        differences: of the IoU from that in the first run, on the same blocks of ground: run,
            model, against, area, date, reference, difference, low, high (95 %), verdict, p_holm
            (p value that holds for all comparisons on this ground together).
        cost: a row per run: seconds of all notebooks, the chosen model, its parameters and the
            seconds of its training.
        notes: where no paired interval is possible, and why; which runs are not finished.
    """

    parameters: pd.DataFrame
    scores: pd.DataFrame
    differences: pd.DataFrame
    cost: pd.DataFrame
    notes: list[str]

    def text(self) -> str:
        """Return all of it for a terminal."""
        parts = []
        for name, heading in HEADINGS.items():
            table = getattr(self, name)
            shown = table.round(3).to_string(index=False, na_rep="") if len(table) else "none"
            parts.append(f"{heading}:\n{shown}\n")
        return "\n".join([*parts, *self.notes])

    def table(self) -> pd.DataFrame:
        """Return one table of it: the scores with differences, cost and parameters beside them."""
        set_to = self.parameters.set_index("parameter").T.add_prefix("parameter ")
        merged = self.scores.merge(self.differences, on=_KEYS, how="left")
        return merged.merge(self.cost, on="run").join(set_to, on="run")

    def content(self) -> dict[str, Any]:
        """Return all of it as lists and mappings."""
        tables = {name: getattr(self, name).to_dict("records") for name in HEADINGS}
        return tables | {"notes": self.notes}


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Compare runs with the first of them.

    Args:
        runs: whose notebook 04 is done.

    Raises:
        GlacierError: A run has no ``metrics/spatial.csv``, or one without its columns.
    """
    # Runs of different projects may share a name; their folders then tell them apart.
    names = [run.name for run in runs]
    own, cost, best, notes = {}, [], {}, []
    for run in runs:
        one = summarize(run)
        label = run.name if names.count(run.name) == 1 else str(run.folder)
        if one.reason:
            notes.append(
                f"{label}: {one.state} ({one.reason}); its tables may be of an earlier state"
            )
            label += f" ({one.state})"
        own[label], best[label] = run, one.best
        chosen = next((row for row in one.scores if row["best"]), {})
        of_best = (chosen.get(name, math.nan) for name in ("parameters", "seconds"))
        cost.append((label, one.seconds, one.best, *of_best))
    columns = ["run", "run_seconds", "best_model", "best_parameters", "best_seconds"]
    differences = _differences(own, best, notes)
    costs = pd.DataFrame(cost, columns=columns, dtype=object)
    return Comparison(_parameters(own), _scores(own), differences, costs, notes)


def _parameters(runs: dict[str, Run]) -> pd.DataFrame:
    values = [run.read_record().get("parameters") or {} for run in runs.values()]
    rows = [
        [name, *(own.get(name) for own in values)]
        for name in dict.fromkeys(name for own in values for name in own if name != "run")
        if any(own.get(name) != values[0].get(name) for own in values)
    ]
    # As objects: a whole number stays one beside what is not set.
    return pd.DataFrame(rows, columns=["parameter", *runs], dtype=object)


def _scores(runs: dict[str, Run]) -> pd.DataFrame:
    tables = []
    for label, run in runs.items():
        table = run.read_table("spatial").assign(run=label)
        for name in (*_KEYS, "seed", *_MEANS):
            if name not in table:
                raise GlacierError(f"{run.metrics / 'spatial.csv'}: has no column {name}; run 04 "
                                   "again")  # fmt: skip
        tables.append(table)
    grouped = pd.concat(tables, ignore_index=True).groupby(_KEYS, sort=False)
    result = grouped[_MEANS].mean()
    result.insert(0, "seeds", grouped["seed"].nunique())
    return result.reset_index()


def _differences(runs: dict[str, Run], best: dict[str, str], notes: list[str]) -> pd.DataFrame:
    """Compare each run's models with those of the first; note where that is not possible."""
    counted = {}
    for label, run in runs.items():
        if (run.metrics / "patch_counts.csv").exists():
            counted[label] = run.read_table("patch_counts")
        else:
            notes.append(f"{label}: no paired interval is possible without "
                         "metrics/patch_counts.csv; run 04 again")  # fmt: skip
    found = [pd.DataFrame(columns=["run", "model", "against", *_PLACE, *_PAIRED])]
    first = next(iter(runs))
    places = counted[first].groupby(_PLACE, sort=False) if first in counted else ()
    for place, reference in places:
        same = {}
        for label, table in counted.items():
            theirs = table[(table[_PLACE] == [*place]).all(axis=1)]
            if _ground(theirs).equals(_ground(reference)):
                same[label] = theirs
            else:
                notes.append(f"{label}: no paired interval with {first} is possible on "
                             f"{', '.join(place)}: it has other test patches or labels there, or "
                             "none")  # fmt: skip
        counts = _by_model(same)
        pairs = [
            ((label, model), (first, other))
            for label, model in counts
            for other in dict.fromkeys([model, best[first]] if model == best[label] else [model])
            if label != first and (first, other) in counts
        ]
        table = bootstrap.compare(counts, pairs).assign(**dict(zip(_PLACE, place, strict=True)))
        table["run"], table["model"] = ([one[n] for one, _ in pairs] for n in (0, 1))
        table["against"] = [
            first if one == other else f"{first}: {other}" for (_, one), (_, other) in pairs
        ]
        found.append(table[[*found[0]]])
    return pd.concat([table for table in found if len(table)] or found, ignore_index=True)


def _ground(counts: pd.DataFrame) -> pd.DataFrame:
    """Return place, ice and other ground of each patch, which are the same for all models."""
    own = counts.drop_duplicates(["row", "col"])
    sums = own.assign(ice=own["tp"] + own["fn"], other=own["fp"] + own["tn"])
    return sums.set_index(["row", "col"])[["ice", "other"]].sort_index()


def _by_model(same: dict[str, pd.DataFrame]) -> dict[tuple[str, str], pd.DataFrame]:
    """Return (run, model) -> counts, all with the blocks of the run that has the fewest.

    Blocks are as large as a run's errors ask for; the largest are large enough for every run.
    """
    parts = {
        (label, model): part.set_index(["row", "col"]).sort_index()
        for label, table in same.items()
        for model, part in table.groupby("model", sort=False)
    }
    blocks = min((part["block"] for part in parts.values()), key=lambda block: block.nunique())
    return {key: part[[*COUNTS]].assign(block=blocks) for key, part in parts.items()}
