"""Traps of kind 1: which band of a file is which."""

from __future__ import annotations

from pathlib import Path

import pytest
from traps.tools import glacier, iou, mapped, numbers, scene, told, trap, write


@trap(1, "predict: bands as in the training (control)", "right")
def test_control(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture) -> str:
    image, truth = scene()
    path = write(tmp_path / "scene.tif", numbers(image))
    done = glacier(capsys, "predict", model, path, tmp_path / "out")
    return told(done, right=iou(mapped(tmp_path / "out"), truth) > 0.99)
