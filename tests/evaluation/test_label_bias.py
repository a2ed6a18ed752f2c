"""How much of the error is the label's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

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
