"""A run again from what ``run.json`` says of it, and what differs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd

from glacier_utils.errors import GlacierError, counted, plain
from glacier_utils.workflow import batch, notebooks, runs

_ROUNDING = 1e-5
"""Relative; tables hold six significant digits."""


def reproduce(name: str, root: Path | None = None) -> tuple[runs.Run, dict[str, str]]:
    """Execute a run again, into a fresh folder ``reports/<run>-again``, and compare.

    Args:
        name: Of the run, or its folder.
        root: The project's folder (default: found from the working directory).

    Returns:
        The new run, and what became of parameters, versions, data and each table: "equal", "equal
        within rounding", or what differs.

    Raises:
        GlacierError: There is no such run, or its ``run.json`` does not tell its parameters.
        NotebookFailed: A cell raised.
    """
    root = root or runs.project_root()
    folder = Path(name).resolve() if Path(name).is_dir() else root / "reports" / name
    before = runs.Run(folder)
    record = before.read_record()
    wanted = record.get("parameters")
    if not isinstance(wanted, dict):
        raise GlacierError(
            f"{folder}: no run.json that tells parameters; name a run of `glacier run`"
        )
    known = notebooks.all_parameters(root)
    number, fresh = 1, f"{before.name}-again"
    while (root / "reports" / fresh).exists():
        number += 1
        fresh = f"{before.name}-again{number}"
    values = {key: value for key, value in wanted.items() if key in known} | {"run": fresh}
    values = notebooks.check_parameters(values, known, folder / "run.json")
    batch.check(values, known, root, {})
    after = notebooks.execute(values, root=root)
    return after, differences(before, after)


def differences(before: runs.Run, after: runs.Run) -> dict[str, str]:
    """Say what differs between two runs, as `reproduce` does; how long they took is left out."""
    old, new = before.read_record(), after.read_record()
    old["parameters"] = (old.get("parameters") or {}) | {"run": after.name}
    told = {
        name: _changes(*(facts(record) for record in (old, new)))
        for name, facts in (("parameters", _parameters), ("versions", _versions), ("data", _data))
    }
    names = {path.name for run in (before, after) for path in run.metrics.glob("*.csv")}
    for name in sorted(names):
        told[name] = compare_tables(before.metrics / name, after.metrics / name, before, after)
    return told


def compare_tables(old: Path, new: Path, before: runs.Run, after: runs.Run) -> str:
    """Say whether two tables are equal, equal within rounding, or by how much they differ."""
    if not (old.is_file() and new.is_file()):
        return "is new" if new.is_file() else "is missing"
    # Tables hold paths of the run, such as that of a checkpoint.
    texts = (
        old.read_text("utf-8"),
        new.read_text("utf-8").replace(f"reports/{after.name}/", f"reports/{before.name}/"),
    )
    if texts[0] == texts[1]:
        return "equal"
    try:
        tables = [pd.read_csv(io.StringIO(text)) for text in texts]
    except ValueError as error:
        return f"cannot be read ({plain(error)})"
    one, two = (table.drop(columns="seconds", errors="ignore") for table in tables)
    if one.shape != two.shape or (one.columns != two.columns).any():
        return f"has {two.shape[0]} rows and {two.shape[1]} columns in place of {one.shape}"
    numbers = one.select_dtypes("number").columns.intersection(two.select_dtypes("number").columns)
    text = one.columns.difference(numbers)
    others = (one[text].astype(str) != two[text].astype(str)).to_numpy().sum()
    others += (one[numbers].isna() != two[numbers].isna()).to_numpy().sum()
    if others:
        return f"differs in {counted(int(others), 'cell')} of text or nan"
    apart = (one[numbers] - two[numbers]).abs()
    if not (apart > 0).any(axis=None):
        return "equal"
    if (apart.fillna(0) <= _ROUNDING * one[numbers].abs().fillna(0)).all(axis=None):
        return "equal within rounding"
    column = apart.max().idxmax()
    return f"differs, {column} by up to {apart[column].max():.3g}"


def _parameters(record: dict[str, Any]) -> dict[str, Any]:
    return record["parameters"]


def _versions(record: dict[str, Any]) -> dict[str, Any]:
    about = record.get("provenance") or {}
    own = {name: about.get(name) for name in ("python", "commit")}
    return own | (about.get("packages") or {})


def _data(record: dict[str, Any]) -> dict[str, Any]:
    steps = record.get("steps") or {}
    return {name: step.get("data", "not known") for name, step in steps.items()}


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return "equal", or each entry that is another one now."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(f"{n}: {old.get(n)} then, {new.get(n)} now" for n in names) or "equal"
