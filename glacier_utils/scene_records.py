"""What became of each scene of a campaign, kept beside the products for the next start."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from glacier_utils.errors import GlacierError, plain
from glacier_utils.files import write_csv, write_json

RECORD = "scenes.json"
TABLE = "scenes.csv"
KINDS = ("probability", "class", "outlines", "item")


@dataclass(frozen=True)
class Outcome:
    """What one scene became.

    ``status``: "mapped", "unchanged" (finished before) or "failed", then with ``error``;
    ``user_error`` says that it is a mistake the user can mend. ``files``: kind -> path.
    """

    name: str
    status: str
    seconds: float = 0.0
    error: str = ""
    user_error: bool = False
    date: str = ""
    files: dict[str, Path] = field(default_factory=dict)


def item_properties(item: Path | None) -> dict[str, Any]:
    """Return the properties of a product's STAC item, none where it cannot be read."""
    try:
        return dict(json.loads(Path(item).read_text(encoding="utf-8"))["properties"])
    except (OSError, TypeError, ValueError, KeyError):
        return {}


class Record:
    """The files that say what became of each scene; scenes of earlier lists stay in them."""

    def __init__(self, folder: Path, hashes: Sequence[str]) -> None:
        self.folder, self.hashes = folder, list(hashes)
        try:
            content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            self.scenes = {str(key): dict(value) for key, value in content["scenes"].items()}
            self.mosaic = content.get("mosaic") or {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Not there, or not ours: all is mapped anew.
            self.scenes, self.mosaic = {}, {}

    def refuse_other(self, name: str, source: list[str]) -> None:
        """Do not overwrite the products of another scene of the same name."""
        before = self.scenes.get(name, {})
        if before.get("files") and before.get("source") != source:
            raise GlacierError(
                f"{self.folder}: holds the map of another scene named {name} "
                f"({plain(', '.join(map(str, before.get('source') or ['?']))[:200])}); choose "
                "another folder, or remove that map and its line in scenes.json"
            )

    def finished(self, name: str, key: str) -> Outcome | None:
        """Return the earlier outcome of a scene whose products are there and still hold."""
        before = self.scenes.get(name, {})
        if before.get("key") != key or before.get("status") == "failed":
            return None
        try:
            # Names alone: a record from elsewhere must not lead out of the folder.
            files = {kind: self.folder / Path(path).name for kind, path in before["files"].items()}
            seconds = float(before["seconds"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if not files or not all(path.is_file() for path in files.values()):
            return None
        return Outcome(name, "unchanged", seconds, date=str(before.get("date", "")), files=files)

    def add(self, outcome: Outcome, key: str, source: list[str]) -> None:
        """Note how a scene ended."""
        self.scenes[outcome.name] = {
            "status": outcome.status,
            "seconds": round(outcome.seconds, 2),
            "error": outcome.error,
            "date": outcome.date,
            "source": source,
            "key": key,
            "files": {kind: _relative(path, self.folder) for kind, path in outcome.files.items()},
        }
        self.write()

    def write(self) -> None:
        write_json(
            self.folder / RECORD,
            {"checkpoint_sha256": self.hashes, "mosaic": self.mosaic, "scenes": self.scenes},
        )

    def write_table(self, outcomes: Sequence[Outcome]) -> None:
        """Write the scenes of this list as a table for people."""
        rows = [
            {"name": one.name, "status": one.status, "seconds": round(one.seconds, 2),
             "date": one.date, "error": one.error,
             **{kind: _relative(one.files[kind], self.folder) if kind in one.files else ""
                for kind in KINDS}}
            for one in outcomes
        ]  # fmt: skip
        write_csv(self.folder / TABLE, pd.DataFrame(rows))


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
