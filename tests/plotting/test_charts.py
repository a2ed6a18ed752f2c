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


def pixels(areas=("train", "test"), dates=("2023-07", "2023-08"), count=60) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    parts = [
        pd.DataFrame(generator.uniform(0.1, 0.6, (count, 4)), columns=BANDS).assign(
            area=area, date=date, **{"class": name}
        )
        for area in areas
        for date in dates
        for name in ("glacier", "not glacier")
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("areas", [("train", "test"), (ODD,)])
@pytest.mark.parametrize("dates", [("2023-08",), ("2023-07", "2023-08")])
def test_band_histograms(areas, dates):
    figure = drawn(charts.band_histograms(pixels(areas, dates), BANDS))
    axes = np.reshape(figure.axes, (len(areas), 4))
    # In the order of wavelength.
    assert [ax.get_title() for ax in axes[0]] == ["blue", "green", "red", "nir"]
    assert {ax.get_xlabel() for ax in axes[-1]} == {"reflectance"}
    assert {len(ax.patches) for ax in figure.axes} == {2 * len(dates)}
    assert set(legend(figure)) == {
        f"{name}, {date}" for name in ("glacier", "not glacier") for date in dates
    }


def test_band_histograms_of_a_class_that_one_area_lacks():
    table = pixels()
    table = table[(table["area"] == "test") | (table["class"] == "not glacier")]
    figure = drawn(charts.band_histograms(table, BANDS))
    assert len(legend(figure)) == 4


def test_band_histograms_of_too_few_pixels_for_a_line():
    figure = drawn(charts.band_histograms(pixels(["train"], count=5), BANDS))
    assert legend(figure) == []
