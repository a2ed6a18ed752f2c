"""Which model of a table of fits is taken, by its validation score; read without torch."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from glacier_utils.errors import GlacierError
from glacier_utils.files import project_root

BOTH, OTHER = "-both", "-other"
"""They end the names of models that learned from both dates, or from the other date alone."""


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
    return project_root() / rows["checkpoint"].iloc[0]


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
