"""The recipes of CONTRIBUTING.md run as they stand and do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from stubs import BANDS

from glacier_utils import metrics
from glacier_utils.models import registry
from glacier_utils.models.checkpoint import Segmenter
from glacier_utils.prediction.mapper import predict_scene

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def recipe(heading: str) -> dict:
    """What the code under a heading defines."""
    (code,) = re.findall(rf"\n## {heading}\n.*?```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert code.count("\n") <= 30
    defined: dict = {"__name__": "recipe"}
    exec(code, defined)
    return defined


def test_a_model_is_registered(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    recipe("A model")
    network = registry.build("logistic", bands=4)
    assert network(torch.zeros(2, 4, 8, 9)).shape == (2, 8, 9)
    assert registry.parameter_count(network) == 5
    assert "logistic" in registry.names()


def test_a_reader_gives_what_a_model_maps():
    array = np.full((4, 40, 50), 0.1, np.float32)
    array[:, :20] = 0.6
    array[:, :3, :3] = np.nan
    source = recipe("A reader")["ArraySource"](array)
    assert source.read(30, 45, 20, 20).valid.sum() == 50
    segmenter = Segmenter("threshold", BANDS, [0.0] * 4, [1.0] * 4)
    segmenter.network.thresholds.copy_(torch.tensor([0.3, -2.0, 2.0]))
    probability = predict_scene(segmenter, source)
    assert np.isnan(probability[:3, :3]).all()
    assert (probability[4:20] > 0.5).all()
    assert (probability[20:] < 0.5).all()


def test_a_metric_is_in_the_tables(monkeypatch):
    monkeypatch.setattr(metrics, "SCORES", dict(metrics.SCORES))
    recipe("A metric")
    counts = metrics.Counts(tp=3, fp=1, fn=1, tn=5)
    assert metrics.score_table(counts)["miss_rate"] == pytest.approx(0.25)


def test_a_figure_takes_a_table(offscreen):
    table = pd.DataFrame({"model": ["threshold", "unet-resnet18"], "area_km2": [12.0, 10.0]})
    figure = recipe("A figure")["areas_by_model"](table)
    (ax,) = figure.axes
    assert len({bar.get_facecolor() for bar in ax.patches}) == 2
