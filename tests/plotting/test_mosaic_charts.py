"""Graphs of seams and clean-up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawing import ODD, drawn, legend

from glacier_utils.plotting import evaluation_figures

pytestmark = pytest.mark.usefixtures("offscreen")


def curve(level: float) -> pd.DataFrame:
    distance = np.arange(6)
    values = level + 0.1 * np.exp(-distance)
    return pd.DataFrame(
        {
            "distance_px": distance,
            "pixels": 1000 + distance,
            "brier": values,
            "brier_low": values - 0.02,
            "brier_high": values + 0.02,
            "wrong": values,
            "wrong_low": np.nan,
            "wrong_high": np.nan,
        }
    )


def test_error_by_distance():
    curves = {ODD: curve(0.2), "after": curve(0.1)}
    figure = drawn(evaluation_figures.error_by_distance(curves))
    assert len(figure.axes) == 2
    assert legend(figure) == [ODD.replace("$", r"\$"), "after"]
    assert "1,000 to 1,005 pixels" in figure.legends[0].get_title().get_text()
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), curves[ODD]["brier"])
    np.testing.assert_allclose(right.lines[1].get_ydata(), 100 * curves["after"]["wrong"])
    assert "%" in right.get_ylabel()
    assert "px" in left.get_xlabel()


def test_error_by_distance_with_the_gain_and_metres():
    gain = pd.DataFrame({"distance_px": [0, 1], "gain": [0.05, 0], "low": [0.02, -0.01],
                         "high": [0.08, 0.01]})  # fmt: skip
    curves = {ODD: curve(0.2), "after": curve(0.1)}
    figure = drawn(evaluation_figures.error_by_distance(curves, gain, resolution_m=10))
    assert len(figure.axes) == 3
    np.testing.assert_allclose(figure.axes[2].lines[0].get_ydata(), [50, 0])
    above = figure.axes[0].child_axes[0]
    assert above.get_xlabel() == "distance (m)"
    np.testing.assert_allclose(above.get_xlim(), 10 * np.array(figure.axes[0].get_xlim()))


def effects() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "window_px": [128, 128, 256, 256, 2048],
            "overlap_px": [0, 64, 0, 64, 0],
            "border_error": [0.2, 0.1, 0.15, 0.1, np.nan],
            "excess": [0.05, -0.00001, 0.03, 0.0, np.nan],
            "excess_low": [0.01, -0.001, 0.01, 0.0, np.nan],
            "excess_high": [0.09, 0.001, 0.05, 0.0, np.nan],
            "iou": [0.7, 0.72, 0.71, 0.73, 0.74],
            "seam_jump": [3, 1, 2, 1.01, np.nan],
            "s_per_mpx": [1, 2, 0.8, 1.2, 0.7],
        }
    )


def test_window_effects():
    figure = drawn(evaluation_figures.window_effects(effects()))
    assert len(figure.axes) == 4
    texts = [{text.get_text() for text in ax.texts} - {""} for ax in figure.axes]
    assert {"0.700", "0.740", "–"} <= texts[0]
    # No minus before a zero; the interval below the number.
    assert {"+50.0\n+10.0 to +90.0", "+0.0\n-1.0 to +1.0", "no border", "–"} <= texts[1]
    assert {"3.00", "no border", "–"} <= texts[2]
    assert "1.20" in texts[3]
    for ax in figure.axes:
        assert ax.get_xlabel() == "overlap (px)"
        assert ax.get_ylabel() == "window (px)"


def test_more_cells_than_can_be_read():
    table = pd.concat([effects().assign(window_px=effects()["window_px"] + n) for n in range(4)])
    with pytest.raises(ValueError, match="at most 12"):
        evaluation_figures.window_effects(table)


def test_cleanup_effects():
    table = pd.DataFrame(
        {
            "choice": ["as predicted", ODD],
            "iou": [0.7, 0.75],
            "precision": [0.8, 0.85],
            "recall": [0.9, np.nan],
            "boundary_median_m": [30, 25],
            "area_km2": [60, 55],
            "regions": [400, 20],
        }
    )
    figure = drawn(evaluation_figures.cleanup_effects(table))
    labels = [ax.get_xlabel() for ax in figure.axes]
    assert labels == ["score (1)", "median distance of\nthe outlines (m)", "mapped area (km²)",
                      "regions"]  # fmt: skip
    assert legend(figure) == ["IoU", "precision", "recall"]
    ticks = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert ticks == ["as predicted", ODD.replace("$", r"\$")]
    # The first choice stands on top.
    assert figure.axes[0].get_ylim() == (1.5, -0.5)
    more = drawn(evaluation_figures.cleanup_effects(table.assign(changed_px=[0, 900])))
    assert more.axes[-1].get_xlabel() == "pixels changed"
