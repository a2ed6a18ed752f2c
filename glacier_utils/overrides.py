"""A user's word on single patches: a CSV that keeps or drops them whatever their facts say."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from glacier_utils.errors import GlacierError
from glacier_utils.files import fingerprint, write_csv

COLUMNS = ("area", "date", "row", "col", "decision", "comment")
DECISIONS = ("keep", "drop")


@dataclass(frozen=True)
class Override:
    """One line of the file. ``place`` is (area, date, row, col) as in the index of a store."""

    line: int
    place: tuple[str, str, int, int]
    decision: str
    comment: str


@dataclass(frozen=True)
class Overrides:
    """The lines of a file, in its order."""

    path: Path
    rows: tuple[Override, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of the decisions; neither blank lines nor the file's name have a part in it."""
        return fingerprint([astuple(row)[1:] for row in self.rows])

    def positions(
        self, patches: pd.DataFrame, known: Collection[tuple[str, str]]
    ) -> dict[int, Override]:
        """Find the patches that the lines mean.

        Args:
            patches: a row a patch with area, date, row, col.
            known: the (area, date) of the whole dataset. Lines on those that ``patches`` leaves
                out are passed over; one file serves several stores.

        Raises:
            GlacierError: a line means no patch.
        """
        columns = (patches[name] for name in ("area", "date", "row", "col"))
        places = {place: position for position, place in enumerate(zip(*columns, strict=True))}
        chosen = {place[:2] for place in places}
        found = {}
        for row in self.rows:
            if row.place in places:
                found[places[row.place]] = row
            elif row.place[:2] in chosen or row.place[:2] not in known:
                area, date, top, left = row.place
                raise GlacierError(
                    f"{self.path}, line {row.line}: there is no patch of area '{area}', date "
                    f"'{date}' at row {top}, col {left}; take the places from the index of the "
                    "patch store, or write a new template"
                )
        return found


def read_overrides(path: str | Path) -> Overrides:
    """Read a CSV with the columns area, date, row, col, decision (keep or drop), comment.

    row and col are those of the index: the patch's upper left corner in pixels of its date's
    frame. Columns may be parted by commas or semicolons.

    Raises:
        GlacierError: the file is missing or no such table, a number or a decision is none, or a
            patch is named twice; with the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GlacierError(f"{path}: overrides cannot be read as UTF-8 text ({error})") from error
    first = text.partition("\n")[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    missing = [name for name in COLUMNS[:-1] if name not in (reader.fieldnames or ())]
    if missing:
        raise GlacierError(
            f"{path}, line 1: column {', '.join(missing)} is missing; the columns of overrides "
            f"are {', '.join(COLUMNS)}"
        )
    rows: list[Override] = []
    lines: dict[tuple, int] = {}
    try:
        for content in reader:
            row = _row(f"{path}, line {reader.line_num}", reader.line_num, content)
            if row.place in lines:
                raise GlacierError(
                    f"{path}, line {row.line}: this patch is in line {lines[row.place]} already; "
                    "keep one of them"
                )
            lines[row.place] = row.line
            rows.append(row)
    except csv.Error as error:
        raise GlacierError(f"{path}, line {reader.line_num}: not readable as CSV ({error})") from (
            error
        )
    return Overrides(path, tuple(rows))


def _row(where: str, line: int, content: dict) -> Override:
    text = {name: (content.get(name) or "").strip() for name in COLUMNS}
    try:
        place = text["area"], text["date"], int(text["row"]), int(text["col"])
    except ValueError:
        raise GlacierError(
            f"{where}: row '{text['row']}' and col '{text['col']}' must be whole numbers of pixels"
        ) from None
    if text["decision"] not in DECISIONS:
        raise GlacierError(
            f"{where}: decision '{text['decision']}' is none; write {' or '.join(DECISIONS)}"
        )
    return Override(line, place, text["decision"], text["comment"])


def apply_overrides(
    reasons: np.ndarray, overrides: dict[int, Override]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the reasons to drop after the user's decisions, and the notes on those kept.

    Args:
        reasons: why a patch is dropped, "" where it is kept.
        overrides: from position to decision. One that agrees with the reason changes nothing.
    """
    reasons, notes = reasons.copy(), np.full(len(reasons), "", object)
    for position, row in overrides.items():
        said = f": {row.comment}" if row.comment else ""
        if row.decision == "keep" and reasons[position]:
            reasons[position], notes[position] = "", f"kept by override{said}"
        elif row.decision == "drop" and not reasons[position]:
            reasons[position] = f"dropped by override{said}"
    return reasons, notes


def write_overrides_template(index: pd.DataFrame, path: str | Path) -> Path:
    """Write the decisions of a store's index as a CSV to edit; unedited it changes nothing.

    The comment is the reason where a patch is dropped.
    """
    dropped = (index["split"] == "dropped").to_numpy()
    table = pd.DataFrame({name: index[name] for name in COLUMNS[:4]}).assign(
        decision=np.where(dropped, "drop", "keep"),
        comment=index["reason"].where(dropped, ""),
    )
    return write_csv(path, table)
