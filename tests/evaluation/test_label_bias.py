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
from glacier_utils.evaluation import bootstrap, label_bias, per_glacier
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.mask import EdgeMask, Mask


def grid_of(*shape: int) -> Grid:
    return Grid(CRS.from_epsg(32623), Affine(10, 0, 0, 0, -10, 0), *shape)


def square(size: int, top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


# --- age


def judged(ages: list[float], ious: list[float], **columns) -> pd.DataFrame:
    return pd.DataFrame(
        {"model": "m", "reference": "labels", "glacier_id": [str(i) for i in range(len(ages))],
         "age_years": ages, "iou": ious, "listed": True} | columns
    )  # fmt: skip


def test_age_by_hand():
    ages = [float(age) for age in range(12)]
    # Two neighbours change places: sum d^2 = 2, rho = -(1 - 6 * 2 / (12 * 143)).
    ious = [1 - age / 20 for age in ages]
    ious[3], ious[4] = ious[4], ious[3]
    (row,) = label_bias.age_effect(judged(ages, ious)).to_dict("records")
    assert row["rho"] == pytest.approx(-(1 - 12 / (12 * 143)))
    error = math.sqrt((1 + row["rho"] ** 2 / 2) / 9)
    assert row["high"] == pytest.approx(math.tanh(math.atanh(row["rho"]) + 1.959964 * error))
    assert (row["glaciers"], row["ages"], row["youngest"], row["oldest"]) == (12, 12, 0, 11)
    assert row["sentence"].startswith("Glaciers with older outlines score lower")
    ious = [0.5, 0.9] * 6
    assert label_bias.age_effect(judged(ages, ious))["sentence"][0].startswith("No relation")


@pytest.mark.parametrize(
    ("ages", "ious"),
    [([1.0, 2, 3], [0.1, 0.2, 0.3]), ([5.0] * 12, list(np.linspace(0, 1, 12))),
     (list(range(12)), [1.0] * 12), ([math.nan] * 12, [0.5] * 12)],
)  # fmt: skip
def test_nothing_is_claimed_of_few_glaciers_or_one_age(ages, ious):
    (row,) = label_bias.age_effect(judged(ages, ious)).to_dict("records")
    assert math.isnan(row["rho"])
    assert "cannot be related" in row["sentence"]


@pytest.mark.slow
def test_the_age_interval_holds_the_truth():
    rng = np.random.default_rng(0)
    rho, inside = 0.5, 0
    known = 6 / math.pi * math.asin(rho / 2)  # Spearman's rho of a bivariate normal
    for _ in range(400):
        x, y = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=26).T
        row = label_bias.age_effect(judged(list(x), list(y))).iloc[0]
        inside += row["low"] <= known <= row["high"]
    assert 0.92 <= inside / 400 <= 0.98


# --- band


class ArrayMask(Mask):
    """A raster as a mask."""

    def __init__(self, values: np.ndarray) -> None:
        self.grid, self._values = grid_of(*values.shape), values

    def read(self, row=0, col=0, height=None, width=None):
        """Read a window, 255 outside."""
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        padded = np.pad(self._values, 50, constant_values=255)
        return padded[row + 50 : row + 50 + height, col + 50 : col + 50 + width].copy()


@given(st.integers(0, 2**16), st.sampled_from([0.0, 4.0, 5.0, 6.0, 10.0, 14.0, 25.0]))
def test_the_band_is_that_of_a_label_with_a_band(seed, width):
    rng = np.random.default_rng(seed)
    reference = rng.choice([0, 1, 255], (15, 14), p=[0.6, 0.35, 0.05]).astype(np.uint8)
    mask = rng.choice([0, 1], reference.shape).astype(np.uint8)
    found = label_bias.band_curve({"m": mask}, {"r": reference}, 10.0, widths=[width])
    label = EdgeMask(ArrayMask(reference), width).read() if width else reference
    assert found["iou"][0] == pytest.approx(metrics.count(mask, label).iou, nan_ok=True)


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


# --- ceiling


def test_the_ceiling_of_the_field():
    # Perimeter 2.5 times a circle's, mean offset 10, 15 and 30 m.
    known = {0.1: (0.75, 0.65, 0.41), 1: (0.92, 0.88, 0.77), 5: (0.96, 0.94, 0.89),
             20: (0.98, 0.97, 0.94)}  # fmt: skip
    for area, expected in known.items():
        perimeter = 2.5 * 2 * math.sqrt(math.pi * area)
        found = label_bias.ceiling(area, perimeter, np.array([10, 15, 30]))
        assert found == pytest.approx(expected, abs=0.006)


def test_the_ceiling_by_hand():
    # 1 km2 in a square of 1 km: P d / 2 = 4 x 0.05 / 2 = 0.1.
    assert label_bias.ceiling(1.0, 4.0, 50.0) == pytest.approx(0.9 / 1.1)
    assert label_bias.ceiling(1.0, 4.0, 2000.0) == 0.0
    assert math.isnan(label_bias.ceiling(0.0, 4.0, 50.0))


def test_the_ceiling_is_that_of_an_outline_moved_in_and_out():
    # A disc with its edge moved by 3 pixels, outwards in every other of 40 sectors.
    y, x = np.mgrid[-150:150, -150:150] + 0.5
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    disc = (radius <= 100).astype(np.uint8)
    way = np.where((angle * 20 / math.pi) % 2 < 1, 3, -3)
    moved = (radius <= 100 + way).astype(np.uint8)
    grid = grid_of(*disc.shape)
    table = per_glacier.scores_per_glacier({"m": moved}, {"labels": disc}, grid)
    row = table.iloc[0]
    known = label_bias.ceiling(row["area_km2"], row["perimeter_km"], 30.0)
    assert row["iou"] == pytest.approx(float(known), abs=0.005)
    assert label_bias.ceiling_by_size(table)["size_class"].tolist() == ["1 to 5"]


def test_the_observed_offset_is_the_median_of_the_class():
    table = judged([1.0] * 4, [0.9, 0.8, 0.7, 0.1]).assign(
        area_km2=[1.0, 2.0, 4.0, 0.0], perimeter_km=[4.0, 8.0, 10.0, math.nan],
        boundary_median_m=[10.0, 20.0, 60.0, 900.0], glacier_id=["a", "b", "c", "none"],
    )  # fmt: skip
    table["size_class"] = per_glacier.size_class(table["area_km2"])
    (row,) = label_bias.ceiling_by_size(table).to_dict("records")
    assert (row["glaciers"], row["offset_m"], row["iou_median"]) == (3, 20.0, 0.8)
    assert row["ceiling_median"] == pytest.approx((1 - 0.04) / (1 + 0.04))


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
    known = bootstrap.difference(by_truth["a"], by_labels["a"])
    assert tuple(table.loc[0, ["difference", "low", "high"]]) == pytest.approx(known)
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
