"""The commands and the model of traps, and the way of an outcome into the report."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from traps.tools import (
    BANDS,
    HAPPENED,
    TRAPS,
    Command,
    Outcome,
    Told,
    iou,
    mapped,
    scene,
    told,
    write,
)

from glacier_utils import cli
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


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what the package logs."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    keep = Keep(logging.WARNING)
    logging.getLogger("glacier_utils").addHandler(keep)
    try:
        yield lines
    finally:
        logging.getLogger("glacier_utils").removeHandler(keep)


@pytest.fixture
def glacier(capsys: pytest.CaptureFixture) -> Command:
    """Return what runs a command of the package in this process."""

    def run(*arguments: object) -> Told:
        capsys.readouterr()
        with _warnings() as lines:
            status = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Told(status, out, "\n".join([err, *lines]))

    return run


@pytest.fixture
def predict(glacier: Command, model: Path, tmp_path: Path) -> Command:
    """Return what maps images into ``out``; an array is written as a scene without nodata."""

    def run(
        images: Any, *options: object, by: Path = model, out: str | Path = "out", **file: Any
    ) -> Told:
        if isinstance(images, np.ndarray):
            images = write(tmp_path / "scene.tif", images, **{"nodata": None, **file})
        return glacier("predict", by, images, tmp_path / out, *options)

    return run


@pytest.fixture
def predicted(predict: Command, tmp_path: Path) -> Outcome:
    """Return what maps images of ``tools.scene``, and says whether its disc of snow is mapped."""

    def run(
        images: Any,
        *options: object,
        truth: np.ndarray | None = None,
        says: str = "",
        out: str | Path = "out",
        **how: Any,
    ) -> str:
        done = predict(images, *options, out=out, **how)
        if done.status:
            return told(done, says=says)
        found = mapped(tmp_path / out)
        truth = scene(len(found))[1] if truth is None else truth
        return told(done, says=says, right=iou(found, truth) > 0.99)

    return run
