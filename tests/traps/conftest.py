"""The model that traps are mapped with, and the way of an outcome into the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from traps.tools import BANDS, HAPPENED, TRAPS, scene

from glacier_utils.models.checkpoint import Segmenter, save_checkpoint


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave traps out of the fast tests: together they take minutes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Put what happened into the report, from where ``tests/conftest.py`` makes the table."""
    key = f"{item.path.stem}::{item.name}"
    try:
        return (yield)
    finally:
        if key in HAPPENED:
            row = TRAPS[key]
            item.user_properties.append(("trap", (row.kind, row.trap, row.expected, HAPPENED[key])))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of the threshold rule, fitted to ``tools.scene``, numbers with 1000."""
    image, truth = scene()
    mean, std = image.mean(axis=(1, 2)), image.std(axis=(1, 2))
    made = Segmenter(
        "threshold", BANDS, mean, std,
        provenance={"dataset": "trap", "patch_px": 128,
                    "reflectance": {"scale": 10000, "offset": -1000, "nodata": 0}},
    )  # fmt: skip
    made.network.prepare(BANDS, mean, std)
    pixels = made.normalise(torch.from_numpy(image[None]))[0].flatten(1).numpy().T
    made.network.fit(np.ascontiguousarray(pixels), truth.ravel())
    return save_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint.pt", made)
