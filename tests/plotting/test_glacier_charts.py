"""Figures of single glaciers and of the label's part in the error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from drawing import drawn, legend
from rasterio.crs import CRS

from glacier_utils.evaluation import error_analysis, label_bias, per_glacier
from glacier_utils.evaluation.bootstrap import SAME
from glacier_utils.plotting import evaluation_figures, style
from glacier_utils.raster.grid import Grid, Image

pytestmark = pytest.mark.usefixtures("offscreen")

BANDS = ("red", "green", "blue", "nir")
GRID = Grid(CRS.from_epsg(32623), Affine(30, 0, 500_000, 0, -30, 6_800_000), 60, 80)
# Two dollar signs would be read as a formula, whose error shows up only when it is drawn.
MODELS = ("a $x_{ <b> $", "b", "empty")


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
    figure = drawn(evaluation_figures.areas(table[table["reference"] == "labels"], columns=2))
    assert [ax.get_title() for ax in figure.axes] == [r"a \$x_{ <b> \$", "b", "empty"]
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()
    assert "km²" in figure.axes[1].get_ylabel()
    assert legend(figure) == ["whole", "cut by the frame"]
    # Glaciers that were not found stand on the axis.
    bottom = figure.axes[2].get_ylim()[0]
    places = [y for line in figure.axes[2].lines if line.get_marker() == "v"
              for y in line.get_ydata()]  # fmt: skip
    assert places == [bottom] * 2
    with pytest.raises(ValueError, match="no glacier"):
        evaluation_figures.areas(table[table["glacier_id"] == "none"])


def test_size_classes_with_their_ceiling(table):
    ceilings = label_bias.ceiling_by_size(table)
    figure = drawn(evaluation_figures.size_classes(ceilings, reference="truth"))
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0.1 to 1 km²\n2 glaciers"]
    assert legend(figure)[-1].startswith("geometric ceiling")
    marks = [line for line in ax.lines if line.get_marker() == "_" and len(line.get_xdata())]
    known = ceilings[ceilings["reference"] == "truth"]["ceiling_median"]
    np.testing.assert_allclose([line.get_ydata()[0] for line in marks], known)


def test_band_curves():
    masks, reference = maps()
    curves = label_bias.band_curve(masks, {"labels": reference, "truth": reference}, 30.0)
    figure = drawn(evaluation_figures.band_curves(curves))
    assert [ax.get_title() for ax in figure.axes] == ["by the labels", "by the truth"]
    assert "(m)" in figure.axes[0].get_xlabel()
    assert len(legend(figure)) == 3


def test_label_age(table):
    own = table[table["reference"] == "labels"]
    effect = label_bias.age_effect(own).assign(rho=[-0.5, 0.2, np.nan], low=-0.9, high=0.1)
    figure = drawn(evaluation_figures.label_age(own, effect))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[1] == "b\nrho +0.20 (-0.90 to +0.10)"
    assert titles[2] == "empty"
    assert "(years)" in figure.axes[0].get_xlabel()


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
    assert legend(figure) == ["by the labels", "by the truth",
                              "the labels themselves, by the truth"]  # fmt: skip
    assert len(legend(drawn(evaluation_figures.labels_and_truth(found)))) == 2


def test_disagreement_gallery():
    masks, reference = maps()
    mask = masks[MODELS[0]]
    found = error_analysis.disagreements(mask, reference, image(), truth=reference)
    figure = drawn(
        evaluation_figures.disagreement_gallery(found, image(), mask, reference, count=1, size=40)
    )
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert len(titles) == 1
    assert titles[0].startswith("false alarm, 0.06 km²\n")
    assert titles[0].endswith("? map right 0 %")
    assert figure.get_suptitle().endswith("windows of 1.2 km")
    assert legend(figure) == list(style.ERROR_COLOURS)
    with pytest.raises(ValueError, match="no disagreement"):
        evaluation_figures.disagreement_gallery(found.iloc[:0], image(), mask, reference)
