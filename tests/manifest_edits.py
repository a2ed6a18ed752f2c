"""Edits of a manifest, as functions of its content, which several tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def edit_manifest(path: Path, change: Callable[[dict], Any]) -> Path:
    """Change the manifest by a function of its content, and give its path."""
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def set_area(**values: object) -> Callable[[dict], None]:
    """Set keys of the area "train"."""
    return lambda content: content["areas"]["train"].update(values)


def set_date(value: object) -> Callable[[dict], None]:
    """Set what stands under the area's date 2023-08."""
    return set_area(**{"2023-08": value})
