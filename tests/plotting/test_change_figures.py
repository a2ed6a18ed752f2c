"""Figures of the temporal comparison: drawn, with units, and with what a reader needs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawing import ODD, drawn, legend

from glacier_utils.change import transition
from glacier_utils.plotting import change_figures

pytestmark = pytest.mark.usefixtures("offscreen")

DATES = ("2023-07", "2023-08", "2023-09")


@pytest.mark.parametrize("dates", [DATES[:1], DATES[:2], DATES, ("before", "after")])
@pytest.mark.parametrize("known", [None, {"train": 9.0}])
def test_area_series(dates, known):
    table = pd.DataFrame(
        [
            (model, area, date, 10.0 - i, 5.0, 12.0, 1.0)
            for model in ("one", ODD)
            for area in ("train", ODD)
            for i, date in enumerate(dates)
        ],
        columns=["model", "area", "date", "area_km2", "low", "high", "buffer_km2"],
    )
    figure = drawn(change_figures.area_series(table, known))
    assert figure.axes[0].get_ylabel() == "mapped glacier area (km²)"
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == sorted(dates)
    assert len(legend(figure)) == 2 + bool(known)
    if dates == DATES:  # in time, not by number: 31 days each
        assert np.diff(figure.axes[0].get_xticks()).tolist() == [31, 31]


def test_cause_maps_show_the_causes_that_there_are():
    codes = np.zeros((40, 90), np.uint8)
    codes[0, 0], codes[5] = 3, 7
    changes = np.zeros((40, 90), np.uint8)
    changes[9] = 255
    box = (5e5, 6.7996e6, 500_900.0, 6.8e6)
    figure = drawn(change_figures.cause_maps({ODD: codes}, {ODD: changes}, {ODD: box}))
    assert legend(figure) == ["mapped alike", "snow lost", "rest", "unknown"]
    assert set(transition.CAUSES.values()) < set(change_figures.CAUSE_COLOURS)


@pytest.mark.parametrize("none", [False, True])
def test_cause_bars(none):
    table = pd.DataFrame(
        [
            (area, direction, cause, 0.0 if none else 1.0 + (cause == "rest"))
            for area in ("train", ODD)
            for direction in ("lost", "gained")
            for cause in transition.CAUSES.values()
        ],
        columns=["area", "direction", "cause", "area_km2"],
    )
    ax = drawn(change_figures.cause_bars(table)).axes[0]
    assert "km²" in ax.get_xlabel()
    assert (ax.get_legend() is None) == none
    ends = [patch.get_x() + patch.get_width() for patch in ax.patches]
    assert (min(ends), max(ends)) == ((0, 0) if none else (-8, 8))


def scored() -> pd.DataFrame:
    return pd.DataFrame(
        [
            (model, area, date, reference, 0.7, 0.6, 0.8)
            for model in ("one", ODD)
            for area in ("train", ODD)
            for date in DATES[:2]
            for reference in ("labels", "truth")
        ],
        columns=["model", "area", "date", "reference", "iou", "iou_low", "iou_high"],
    )


def test_robustness_matrix():
    figure = drawn(change_figures.robustness_matrix(scored(), reference="truth"))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["0.70\n0.60 to 0.80"] * 8
    assert figure.axes[1].get_ylabel() == "IoU against the truth"


def test_false_change():
    table = pd.DataFrame(
        [
            (model, area, ground, *DATES[:2], 0.9, 0.8 if known else np.nan, 1.0, 0.1)
            for model in ("one", ODD)
            for area, known in (("train", True), (ODD, False))
            for ground in ("stable terrain", "inside outlines")
        ],
        columns=["model", "area", "ground", "before", "after", "same", "same_low", "same_high",
                 "changed"],
    )  # fmt: skip
    figure = drawn(change_figures.false_change(table))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "stable terrain",
        "inside outlines",
    ]
    assert "%" in figure.axes[0].get_xlabel()
    assert len(legend(figure)) == 2
