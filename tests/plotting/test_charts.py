"""Graphs: that each is drawn, names its units, and holds what the reader needs to read it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawing import ODD, drawn, legend
from matplotlib import pyplot as plt

from glacier_utils.plotting import charts

pytestmark = pytest.mark.usefixtures("offscreen")

BANDS = ("red", "green", "blue", "nir")


def test_dots_stand_on_their_lines_with_their_intervals():
    table = pd.DataFrame(
        {"name": ["a", ODD, "a"], "kind": ["x", "x", "y"], "value": [0.5, 0.2, 0.4],
         "low": [0.3, np.nan, 0.4], "high": [0.6, np.nan, 0.4]}
    )  # fmt: skip
    figure, ax = plt.subplots()
    values = ("value", "low", "high")
    charts.interval_dots(ax, table, "name", values, rows=["b", "a", ODD], group="kind", scale=100)
    drawn(figure)
    texts = [text.get_text() for text in ax.get_yticklabels()]
    assert texts == ["b", "a", ODD.replace("$", r"\$")]
    assert ax.get_ylim() == (2.5, -0.5)
    x, y = ax.containers
    assert x[0].get_xydata().tolist() == [[50, 0.85], [20, 1.85]]
    assert y[0].get_xydata().tolist() == [[40, 1.15]]
    ends = x[2][0].get_segments()[0][:, 0]
    np.testing.assert_allclose(ends, [30, 60])


def history(steps: int = 3, iou=None) -> pd.DataFrame:
    step = np.arange(1, steps + 1)
    return pd.DataFrame(
        {
            "step": step,
            "train_loss": 1 / step,
            "validation_loss": 1.1 / step,
            "validation_iou": step / 10 if iou is None else iou,
        }
    )


def test_learning_curves_mark_the_kept_state():
    figure = drawn(charts.learning_curves({"one": history(iou=[0.2, 0.6, 0.4]), "two": history(1)}))
    loss, iou = figure.axes
    assert (loss.get_ylabel(), iou.get_ylabel()) == ("loss", "IoU")
    assert loss.get_xlabel() == iou.get_xlabel() == "step"
    assert legend(figure) == ["one", "two"]
    marked = [line.get_xydata().tolist() for line in iou.get_lines() if line.get_marker() == "o"]
    assert marked == [[[2, 0.6]], [[1, 0.1]]]


def test_a_first_loss_far_off_leaves_the_others_to_be_seen():
    usual, odd = history(iou=[0.2, 0.6, 0.4]), history(iou=[0.2, 0.6, 0.4])
    odd.loc[0, "validation_loss"] = 80.0
    scales = [
        drawn(charts.learning_curves({"one": curves})).axes[0].get_yscale()
        for curves in (usual, odd)
    ]
    assert scales == ["linear", "log"]


def test_learning_curves_without_any_iou():
    drawn(charts.learning_curves({"one": history(iou=np.nan)}))


def intervals(models=("threshold", "unet"), groups=("labels", "truth")) -> pd.DataFrame:
    rows = [(model, group, 0.6, 0.5, 0.8) for model in models for group in groups]
    return pd.DataFrame(rows, columns=["model", "reference", "iou", "iou_low", "iou_high"])


@pytest.mark.parametrize("groups", [("labels",), ("labels", "truth")])
def test_score_intervals(groups):
    figure = drawn(charts.score_intervals(intervals(groups=groups)))
    (ax,) = figure.axes
    assert ax.get_xlabel() == "IoU, with 95 % interval"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["threshold", "unet"]
    assert legend(figure) == list(groups)
    assert ax.get_legend().get_title().get_text() == "reference"


def test_score_intervals_that_are_undefined():
    table = intervals().assign(iou_low=np.nan, iou_high=np.nan)
    drawn(charts.score_intervals(table))
    drawn(charts.score_intervals(table.assign(iou=np.nan)))


def test_differences_stand_beside_the_line_of_none():
    table = pd.DataFrame(
        {
            "model": "unet",
            "against": ["threshold", "random_forest"],
            "reference": "labels",
            "difference": [0.1, 0.0],
            "low": [0.05, -0.1],
            "high": [0.15, 0.1],
        }
    )
    (ax,) = drawn(charts.differences(table)).axes
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["unet − threshold", "unet − random_forest"]
    assert any(set(line.get_xdata()) == {0} for line in ax.get_lines())
