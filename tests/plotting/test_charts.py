"""Graphs: that each is drawn, names its units, and holds what the reader needs to read it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawing import ODD, drawn
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
