"""Figures of the evaluation: that each is drawn and says what it must."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from drawing import ODD, drawn, legend
from rasterio.crs import CRS

from glacier_utils.evaluation import calibration, error_analysis, label_bias, per_glacier
from glacier_utils.evaluation.bootstrap import SAME
from glacier_utils.plotting import evaluation_figures
from glacier_utils.raster.grid import Grid, Image

pytestmark = pytest.mark.usefixtures("offscreen")

BANDS = ("red", "green", "blue", "nir")
GRID = Grid(CRS.from_epsg(32623), Affine(30, 0, 500_000, 0, -30, 6_800_000), 60, 80)
MODELS = (ODD, "b", "empty")


def maps() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three maps of a whole and a cut glacier, one of them empty."""
    reference = np.zeros(GRID.shape, np.uint8)
    reference[10:40, 10:40] = 1
    reference[50:, 60:] = 1
    masks = {name: np.roll(reference, shift, axis=1) for shift, name in enumerate(MODELS)}
    masks[MODELS[0]][0:8, 70:78] = 1
    masks[MODELS[2]][:] = 0
    return masks, reference


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    masks, reference = maps()
    found = per_glacier.scores_per_glacier(masks, {"labels": reference, "truth": reference}, GRID)
    return found.assign(listed=found["glacier_id"] != "none", age_years=[20.0, 5.0, np.nan] * 6)


def image() -> Image:
    pixels = np.random.default_rng(0).random((4, *GRID.shape), np.float32)
    return Image(pixels, np.ones(GRID.shape, bool), BANDS, GRID)


def test_areas(table):
    figure = drawn(evaluation_figures.areas(table[table["reference"] == "labels"]))
    assert [ax.get_title() for ax in figure.axes] == [r"a \$x_{ <b> \$", "b", "empty"]
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()
    assert "km²" in figure.axes[1].get_ylabel()
    assert legend(figure) == ["whole", "cut by the frame"]
    # Glaciers that were not found stand at the axis.
    bottom = figure.axes[2].get_ylim()[0]
    places = [y for line in figure.axes[2].lines if line.get_marker() == "o"
              for y in line.get_ydata()]  # fmt: skip
    assert places == pytest.approx([bottom / 0.8] * 2)
    with pytest.raises(ValueError, match="no glacier"):
        evaluation_figures.areas(table[table["glacier_id"] == "none"])


def test_band_curves():
    masks, reference = maps()
    curves = label_bias.band_curve(masks, {"labels": reference, "truth": reference}, 30.0)
    figure = drawn(evaluation_figures.band_curves(curves))
    assert [ax.get_title() for ax in figure.axes] == ["against the labels", "against the truth"]
    assert "(m)" in figure.axes[0].get_xlabel()
    assert len(legend(figure)) == 3


def test_error_bars():
    masks, reference = maps()
    causes = pd.concat(
        [error_analysis.causes(mask, reference, image()).assign(model=name)
         for name, mask in masks.items()]
    )  # fmt: skip
    figure = drawn(evaluation_figures.error_bars(causes))
    left, right = figure.axes
    assert "km²" in left.get_xlabel()
    # There is no cloud: it has no bar.
    shown = [text.get_text() for text in left.get_yticklabels()]
    assert "cloud" not in shown
    assert len(left.patches) == 3 * len(shown)
    assert {text.get_text() for text in left.texts[-len(shown) :]} == {"100 %"}  # empty
    assert "seasonal snow" in [text.get_text() for text in right.get_yticklabels()]


def test_labels_and_truth():
    found = pd.DataFrame(
        {"model": MODELS, "labels": [0.6, 0.7, 0.5], "truth": [0.65, 0.72, 0.5],
         "difference": [0.05, 0.02, 0.0], "low": [0.01, -0.01, np.nan],
         "high": [0.09, 0.05, np.nan], "verdict": ["better", SAME, SAME]}
    )  # fmt: skip
    figure = drawn(evaluation_figures.labels_and_truth(found, own=0.86))
    assert legend(figure) == ["against the labels", "against the truth",
                              "the labels themselves, against the truth"]  # fmt: skip
    assert len(legend(drawn(evaluation_figures.labels_and_truth(found)))) == 2


def histograms(seed=0, number=5000):
    generator = np.random.default_rng(seed)
    probability = generator.random(number)
    return calibration.histogram(probability, (generator.random(number) < probability**2) * 1)


@pytest.mark.parametrize("count", [1, 4])
def test_reliability(count):
    stages = {"before": histograms(), "after": histograms(1)}
    figure = drawn(
        evaluation_figures.reliability({f"{ODD}{number}": stages for number in range(count)})
    )
    assert len(figure.axes) == 2 * count
    assert {ax.get_xlabel() for ax in figure.axes} == {"", "probability of glacier"}
    assert legend(figure)[0].startswith("before, ECE 0.1")


def test_reliability_without_a_pixel():
    empty = np.zeros(1000, int), np.zeros(1000, int)
    drawn(evaluation_figures.reliability({"none": {"before": empty}}))


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
