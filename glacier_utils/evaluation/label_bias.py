"""How much of the error is the label's: its edge, and the truth beside it.

Labels are older than images, drawn from coarser ones, and leave glaciers out. These functions say
how far that may reach; only where the truth is known (the sample) do they say how far it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from glacier_utils.evaluation import bootstrap
from glacier_utils.metrics import SCORES, outcomes, score_table
from glacier_utils.raster.mask import edge_distance

BANDS_M = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0)


def band_curve(
    masks: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray], resolution_m: float
) -> pd.DataFrame:
    """Score maps without the ground nearer to the reference's edge than a band.

    The IoU rises with the band for any map, as pixels at an edge are mixed and small glaciers drop
    out: only what the curve against old labels rises more than that against the truth, or than one
    expects of a good label, is the label's.

    Args:
        masks: model -> uint8 [row, col].
        references: name -> uint8 [row, col], without a band of their own.
        resolution_m: side of a pixel in m.

    Returns:
        model, band_m (width on either side of the edge, of ``BANDS_M``), reference, iou, known (the
        fraction of pixels that is left).
    """
    rows = []
    for name, reference in references.items():
        distance = edge_distance(reference) * resolution_m
        for model, mask in masks.items():
            found = outcomes(mask, reference)
            known = found < 4
            for width in BANDS_M:
                left = known & (distance >= width)
                counts = np.bincount(found[left], minlength=4)[:4]
                rows.append(
                    {
                        "model": model,
                        "band_m": width,
                        "reference": name,
                        "iou": float(SCORES["iou"](*counts)),
                        "known": counts.sum() / known.sum() if known.any() else math.nan,
                    }
                )
    return pd.DataFrame(rows)


def labels_against_truth(
    by_labels: Mapping[str, pd.DataFrame], by_truth: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Compare each model's IoU against the labels with that against the truth.

    Args:
        by_labels: model -> tp, fp, fn, tn and ``block``.
        by_truth: the same against the truth, on the same blocks.

    Returns:
        One row per model: model, labels, truth (IoU), difference (truth - labels), low, high (95 %,
        paired on the blocks), verdict (``better`` against the truth, ``worse`` or ``not
        distinguishable``), rank_by_labels, rank_by_truth (1 the best, equal scores have the better
        rank together).

    Raises:
        ValueError: the blocks are not the same.
    """
    rows = []
    for model, labels in by_labels.items():
        both = {"labels": labels, "truth": by_truth[model]}
        scores = {name: score_table(counts)["iou"] for name, counts in both.items()}
        found = bootstrap.compare(both, [("truth", "labels")]).iloc[0]
        rows.append({"model": model, **scores, **found[["difference", "low", "high", "verdict"]]})
    table = pd.DataFrame(rows)
    for name in ("labels", "truth"):
        ranks = table[name].rank(ascending=False, method="min")
        table[f"rank_by_{name}"] = ranks.astype("Int64")
    return table
