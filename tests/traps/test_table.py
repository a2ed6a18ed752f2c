"""The table of traps is that of the tests."""

from __future__ import annotations

import importlib
from pathlib import Path

from traps.tools import KINDS, TRAPS, table

HERE = Path(__file__).parent


def test_the_table_holds_every_trap_with_what_happened() -> None:
    for path in sorted(HERE.glob("test_*.py")):
        importlib.import_module(f"traps.{path.stem}")
    # Each test holds its outcome against what is expected, so that this is what happened.
    rows = [(row.kind, row.trap, row.expected, row.expected) for row in TRAPS.values()]
    assert len({text for _, text, *_ in rows}) == len(rows), "two traps of one name"
    assert (HERE / "TABLE.md").read_text("utf-8") == table(rows), "run `make traps`"
    assert {kind for kind, *_ in rows} == set(KINDS)
