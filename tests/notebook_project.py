"""A project of two tiny notebooks that say in calls.txt when they run."""

from __future__ import annotations

from pathlib import Path

import nbformat
import yaml

FIRST = """\
run = "default"  # results go to reports/<run>/
word = "ice"  # anything"""
SECOND = """\
run = "default"  # results go to reports/<run>/
number = 1  # below 90, or it fails in one way or another"""
LOG = 'from pathlib import Path\nwith Path("../calls.txt").open("a") as log:\n    log.write({!r})'
WAYS_TO_FAIL = """\
import os
from glacier_utils.errors import GlacierError
if number == 90:
    raise GlacierError("data: no such\\n  dataset")
if number == 91:
    raise ZeroDivisionError("division by zero")
if number == 92:
    os._exit(1)"""


def write_notebook(path: Path, title: str, *sources: str, tags: str = "parameters") -> Path:
    """Write a notebook whose first code cell holds its parameters."""
    cells = [nbformat.v4.new_markdown_cell(f"# {title}\n\nReads nothing.")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    cells[1].metadata["tags"] = [tags]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def write_project(root: Path) -> Path:
    """Write two notebooks that say in calls.txt when they run."""
    notebooks = root / "notebooks"
    first = LOG.format("first ") + "\nimport glacier_utils, tqdm.auto\nprint(word, Path.cwd().name)"
    write_notebook(notebooks / "01_first.ipynb", "01 First & <best>", FIRST, first)
    write_notebook(
        notebooks / "02_second.ipynb", "02 Second", SECOND, LOG.format("second "), WAYS_TO_FAIL
    )
    write_notebook(notebooks / "draft.ipynb", "Not numbered", "run = 'draft'")
    write_set(root, "default", run="default")
    return root


def write_set(root: Path, name: str, **values) -> Path:
    path = root / "notebooks" / "parameters" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


def calls(root: Path) -> str:
    return (root / "calls.txt").read_text()
