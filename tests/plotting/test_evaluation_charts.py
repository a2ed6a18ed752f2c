"""Figures of calibration and of intervals: that each is drawn and says what it must."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawing import ODD, drawn, legend

from glacier_utils import coverage
from glacier_utils.evaluation import bootstrap, calibration
from glacier_utils.plotting import evaluation_figures

pytestmark = pytest.mark.usefixtures("offscreen")


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
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 2 * count
    assert {ax.get_xlabel() for ax in shown} == {"", "probability of glacier (1)"}
    assert legend(figure)[0].startswith("before, ECE 0.1")


def test_reliability_without_a_pixel():
    empty = np.zeros(1000, int), np.zeros(1000, int)
    drawn(evaluation_figures.reliability({"none": {"before": empty}}))


def test_risk_coverage():
    curves = {
        name: calibration.risk_coverage(*histograms(seed)) for seed, name in enumerate(["a", ODD])
    }
    figure = drawn(evaluation_figures.risk_coverage(curves))
    assert [ax.get_xlabel() for ax in figure.axes] == ["surest pixels kept (%)"] * 2
    area = calibration.area_under_risk(curves["a"])
    assert legend(figure)[0] == f"a, AURC {area:.3f}"


def test_correlograms_mark_length_and_side():
    field = coverage.random_field(np.random.default_rng(0), 200, 10.0)
    curves = {"a": bootstrap.correlogram(field, 10.0), ODD: bootstrap.correlogram(field * 0, 10.0)}
    figure = drawn(evaluation_figures.correlograms(curves, 500.0))
    (ax,) = figure.axes
    assert ax.get_xlabel() == "distance (km)"
    length = bootstrap.correlation_length(curves["a"])
    assert legend(figure)[0] == f"a, {length / 1000:.1f} km"
    assert legend(figure)[1].endswith("not found")
    assert legend(figure)[2] == "side of the blocks, 0.5 km"
    assert any(list(line.get_xdata()) == [length / 1000] for line in ax.get_lines())


def test_ranking_writes_the_ranks():
    generator = np.random.default_rng(0)
    counts = {
        name: pd.DataFrame(generator.integers(1, 50, (9, 4)), columns=["tp", "fp", "fn", "tn"])
        .assign(block=range(9))
        for name in ("a", ODD)
    }  # fmt: skip
    table = bootstrap.ranking(counts)
    figure = drawn(evaluation_figures.ranking(table))
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == [f"rank {rank}" for rank in table["rank"]]
    drawn(evaluation_figures.ranking(table.assign(low=np.nan, high=np.nan)))


def test_coverage_of_several_trials():
    table = pd.DataFrame(
        {"method": ["t", "percentile"], "coverage": [0.95, 0.85], "low": 0.8, "high": 0.97}
    )
    figure = drawn(evaluation_figures.coverage({"random": table, ODD: table}))
    (ax,) = figure.axes
    assert len(ax.get_yticks()) == 2
    assert legend(figure) == ["t", "percentile"]
