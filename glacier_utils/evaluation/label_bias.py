"""How much of the error is the label's: its edge, and the truth beside it.

Labels are older than images, drawn from coarser ones, and leave glaciers out. These functions say
how far that may reach; only where the truth is known (the sample) do they say how far it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

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


def ranking_survives(table: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Say whether models stand in the same order against labels and truth.

    Args:
        table: of ``labels_against_truth``.
        pairs: of ``bootstrap.compare`` against the truth, which tells whether models that change
            places can be told apart at all.

    Returns:
        A sentence or two, with Kendall's tau-b of the two scores (1 the same order, -1 the
        reverse).
    """
    labels, truth = table["labels"].to_numpy(), table["truth"].to_numpy()
    one, other = np.triu_indices(len(table), 1)
    if not len(one):
        return "One model alone has no ranking."
    signs = np.sign(labels[one] - labels[other]) * np.sign(truth[one] - truth[other])
    swapped = np.flatnonzero(signs < 0)
    tau = float(stats.kendalltau(labels, truth).statistic)
    numbers = f"{len(one) - len(swapped)} of {len(one)} pairs keep their order"
    if math.isfinite(tau):
        numbers += f", Kendall's tau {tau:.2f}"
    names = table["model"].to_numpy()
    best = names[labels.argmax()], names[truth.argmax()]
    first = f"{best[0]} is first in both"
    if best[0] != best[1]:
        first = f"against the labels {best[0]} is first, against the truth {best[1]}"
    if not len(swapped):
        return f"The ranking against labels and truth is the same ({numbers}): {first}."
    clear = {
        frozenset((row.model, row.against))
        for row in pairs.itertuples()
        if row.verdict != bootstrap.SAME
    }
    apart = sum(frozenset((names[one[i]], names[other[i]])) in clear for i in swapped)
    return (
        f"The ranking against the labels is not quite that against the truth ({numbers}): "
        f"{first}. Of the {len(swapped)} that change places, {apart or 'none'} can be told apart."
    )


def headline(table: pd.DataFrame, own: float) -> str:
    """Say how far scores against the labels lie from scores against the truth.

    Args:
        table: of ``labels_against_truth``.
        own: IoU of the labels themselves against the truth.
    """
    low, high = table["difference"].min(), table["difference"].max()
    span = f"{low:+.3f}" if len(table) == 1 else f"{low:+.3f} to {high:+.3f}"
    clear = (table["verdict"] != bootstrap.SAME).sum()
    return (
        f"Scores against the labels lie {span} in IoU from scores against the truth (truth minus "
        f"labels); for {clear} of {len(table)} models the interval of the difference leaves out "
        f"zero. The labels themselves reach {own:.2f} against the truth."
    )
