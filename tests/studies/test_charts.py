"""Figures of the study."""

import numpy as np
import pandas as pd
import pytest

from studies import charts
from studies.trials import BASE, BASES, TRIALS

pytestmark = pytest.mark.usefixtures("offscreen")


def table(seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = []
    for trial in TRIALS:
        difference = 0.0 if trial.name == BASE else float(generator.normal(0, 0.03))
        rows.append({
            "trial": trial.name, "group": trial.group, "reference": "truth",
            "iou": 0.7 + difference, "difference": difference, "low": difference - 0.02,
            "high": difference + 0.02, "least": difference - 0.01, "largest": difference + 0.01,
            "verdict": "base" if trial.name in BASES else
            "helps" if difference > 0.03 else "not distinguishable",
        })  # fmt: skip
    return pd.DataFrame(rows)


def test_every_trial_has_its_row():
    figure = charts.gains(table())
    names = [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()]
    wanted = {t.name for t in TRIALS}
    assert set(names) == wanted
    assert len(names) == len(wanted)
    groups = [ax.get_title(loc="left") for ax in figure.axes]
    assert groups[:3] == ["baseline", "base, three seeds", "network"]
    assert "IoU" in figure.axes[-1].get_xlabel()


def test_models_and_strategies_are_held_against_another_dataset_apart():
    one, other = table(), table(1)
    other = other[other["trial"] != "both dates"]  # one date only
    figure = charts.order(one, other, names=("landscapes", "everest"))
    lines = [len(ax.lines) for ax in figure.axes]
    models = sum(t.group in ("baseline", "network") for t in TRIALS)
    rest = sum(t.group not in ("baseline", "network", "seeds") for t in TRIALS)
    assert lines == [models, rest - 1 + 1]  # without "both dates", with the base
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {"landscapes", "everest"} <= words
    best = one[one["group"].isin(["baseline", "network"])].nlargest(1, "iou").iloc[0]
    assert f"{best['trial']}  {best['iou']:.3f}" in words
