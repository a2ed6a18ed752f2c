"""How much of the error is the label's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy import stats

from glacier_utils import metrics
from glacier_utils.evaluation import bootstrap, label_bias
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.mask import EdgeMask, Mask


def grid_of(*shape: int, pixel: float = 10.0) -> Grid:
    return Grid(CRS.from_epsg(32623), Affine(pixel, 0, 0, 0, -pixel, 0), *shape)


def square(size: int, top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


# --- band


class ArrayMask(Mask):
    """A raster as a mask."""

    def __init__(self, values: np.ndarray, pixel: float) -> None:
        self.grid, self._values = grid_of(*values.shape, pixel=pixel), values

    def read(self, row=0, col=0, height=None, width=None):
        """Read a window, 255 outside."""
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        padded = np.pad(self._values, 50, constant_values=255)
        return padded[row + 50 : row + 50 + height, col + 50 : col + 50 + width].copy()


@given(st.integers(0, 2**16), st.sampled_from([4.0, 8.0, 10.0, 15.0, 20.0]))
def test_the_band_is_that_of_a_label_with_a_band(seed, pixel):
    rng = np.random.default_rng(seed)
    reference = rng.choice([0, 1, 255], (15, 14), p=[0.6, 0.35, 0.05]).astype(np.uint8)
    mask = rng.choice([0, 1], reference.shape).astype(np.uint8)
    found = label_bias.band_curve({"m": mask}, {"r": reference}, pixel)
    for row in found.itertuples():
        label = (
            EdgeMask(ArrayMask(reference, pixel), row.band_m).read() if row.band_m else reference
        )
        assert row.iou == pytest.approx(metrics.count(mask, label).iou, nan_ok=True)


def test_a_shift_disappears_under_the_band():
    reference, mask = square(30, 10, 10, 10), square(30, 10, 11, 10)
    found = label_bias.band_curve({"m": mask}, {"labels": reference}, 10.0).set_index("band_m")
    assert found.loc[0, "iou"] == pytest.approx(90 / 110)
    # Nearer than 10 m are the pixels beside the edge, corners included (9.1 m): all errors.
    # The innermost pixels lie 45 m from the edge.
    assert found.loc[10:40, "iou"].tolist() == [1.0] * 4
    assert found.loc[50:, "iou"].isna().all()
    assert found.loc[10, "known"] == pytest.approx(1 - (44 + 36) / 900)
    assert found.index.tolist() == [0, 10, 20, 30, 40, 50, 60]


# --- labels against truth


def counts(*rows: tuple[int, int, int, int]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=metrics.COUNTS)
    return frame.assign(block=[str(i) for i in range(len(rows))])


def test_labels_against_truth_by_hand():
    by_labels = {"a": counts((6, 2, 2, 5), (4, 3, 3, 5)), "b": counts((5, 3, 3, 5), (4, 4, 4, 5))}
    by_truth = {"a": counts((7, 1, 2, 5), (5, 2, 3, 5)), "b": counts((9, 1, 1, 5), (8, 1, 0, 5))}
    table = label_bias.labels_against_truth(by_labels, by_truth)
    assert table["labels"].tolist() == pytest.approx([10 / 20, 9 / 23])
    assert table["truth"].tolist() == pytest.approx([12 / 20, 17 / 20])
    assert table["difference"].tolist() == pytest.approx([0.1, 17 / 20 - 9 / 23])
    assert table["rank_by_labels"].tolist() == [1, 2]
    assert table["rank_by_truth"].tolist() == [2, 1]
    known = bootstrap.compare({"truth": by_truth["a"], "labels": by_labels["a"]}).loc[0]
    names = ["difference", "low", "high"]
    assert tuple(table.loc[0, names]) == pytest.approx(tuple(known[names]))
    assert table.loc[0, "verdict"] == known["verdict"]
    text = label_bias.ranking_survives(table, bootstrap.compare(by_truth))
    assert "0 of 1 pairs" in text
    assert "Kendall's tau -1.00" in text
    assert "against the labels a is first, against the truth b" in text
    assert "Of the 1 that change places" in text
    assert "+0.100 to +0.459" in label_bias.headline(table, 0.86)


scores = st.lists(st.floats(0, 1), min_size=2, max_size=7)
NO_PAIRS = pd.DataFrame(columns=["model", "against", "verdict"])


@given(st.data(), scores)
def test_the_sentence_follows_from_the_order(data, labels):
    truth = data.draw(st.lists(st.floats(0, 1), min_size=len(labels), max_size=len(labels)))
    table = pd.DataFrame(
        {"model": [str(i) for i in range(len(labels))], "labels": labels, "truth": truth}
    )
    text = label_bias.ranking_survives(table, NO_PAIRS)
    swapped = sum(
        (labels[i] - labels[j]) * (truth[i] - truth[j]) < 0
        or (labels[i] < labels[j] and truth[i] > truth[j])
        or (labels[i] > labels[j] and truth[i] < truth[j])
        for i in range(len(labels))
        for j in range(i)
    )
    assert (f"Of the {swapped} that change places, none can be told apart" in text) == (swapped > 0)
    assert ("not quite" in text) == (swapped > 0)
    tau = float(stats.kendalltau(labels, truth).statistic)
    assert (f"Kendall's tau {tau:.2f}" in text) == math.isfinite(tau)


def test_models_that_change_places_without_being_told_apart():
    table = pd.DataFrame({"model": ["a", "b"], "labels": [0.7, 0.6], "truth": [0.6, 0.7]})
    pairs = pd.DataFrame({"model": ["b"], "against": ["a"], "verdict": [bootstrap.SAME]})
    assert "none can be told apart" in label_bias.ranking_survives(table, pairs)
    clear = pairs.assign(verdict="better")
    assert "1 can be told apart" in label_bias.ranking_survives(table, clear)
    assert "no ranking" in label_bias.ranking_survives(table.iloc[:1], pairs)
