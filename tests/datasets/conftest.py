"""What tests of datasets share; each module that edits manifests has its own ``folder``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from manifest_edits import edit_manifest


@pytest.fixture
def edit(folder: Path) -> Callable[..., Path]:
    """Change the manifest in ``folder`` by a function of its content, and give its path."""
    return partial(edit_manifest, folder / "dataset.yaml")
