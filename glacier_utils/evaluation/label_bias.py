"""How much of the error is the label's: its age, its edge, its offset, the truth beside it.

Labels are older than images, drawn from coarser ones, and leave glaciers out. These functions say
how far that may reach; only where the truth is known (the sample) do they say how far it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from glacier_utils.evaluation import bootstrap
from glacier_utils.evaluation.per_glacier import NONE, SIZES
from glacier_utils.metrics import SCORES, outcomes, score_table
from glacier_utils.raster.mask import edge_distance

FOUND_IOU = 0.1  # below, the map shows another place, and its outlines have no offset
LEAST_GLACIERS = 10  # of known age, without which nothing is said of ages
BANDS_M = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0)


def age_effect(table: pd.DataFrame) -> pd.DataFrame:
    """Relate each glacier's IoU to the years between its outline and the image.

    Spearman's rank correlation, with the interval of Fisher's z, whose standard error is
    sqrt((1 + rho^2 / 2) / (n - 3)) for ranks (Bonett & Wright 2000, Psychometrika 65, 23). Ties,
    of outlines drawn from the same image, make it approximate, and a correlation is no cause:
    large glaciers have both higher scores and more recent outlines.

    Args:
        table: of ``per_glacier.scores_per_glacier``.

    Returns:
        One row per model and reference: model, reference, glaciers, ages (how many different ones,
        in whole years), youngest, oldest, rho, low, high (95 %), sentence; nan for fewer than ten
        glaciers of known age, or of one age or score.
    """
    known = table[table["listed"]].dropna(subset=["age_years", "iou"])
    rows = []
    for (model, reference), part in table.groupby(["model", "reference"], sort=False):
        own = known.loc[known.index.isin(part.index)]
        ages = own["age_years"].round()
        row = {
            "model": model,
            "reference": reference,
            "glaciers": len(own),
            "ages": ages.nunique(),
            "youngest": ages.min(),
            "oldest": ages.max(),
            **_spearman(own["age_years"], own["iou"]),
        }
        rows.append(row | {"sentence": _age_sentence(row)})
    return pd.DataFrame(rows)


def _spearman(x: pd.Series, y: pd.Series) -> dict[str, float]:
    if len(x) < LEAST_GLACIERS or x.nunique() < 2 or y.nunique() < 2:
        return dict.fromkeys(("rho", "low", "high"), math.nan)
    rho = float(stats.spearmanr(x, y).statistic)
    error = math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    reach = float(stats.norm.ppf(0.975)) * error
    middle = math.atanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    return {"rho": rho, "low": math.tanh(middle - reach), "high": math.tanh(middle + reach)}


def _age_sentence(row: Mapping[str, float]) -> str:
    if math.isnan(row["rho"]):
        return (
            f"The score cannot be related to the label's age: {row['glaciers']} glaciers of "
            f"{row['ages']} different ages (at least {LEAST_GLACIERS} of two ages and scores are "
            "needed)."
        )
    numbers = (
        f"rho {row['rho']:+.2f}, 95 % interval {row['low']:+.2f} to "
        f"{row['high']:+.2f}, {row['glaciers']} glaciers of {row['ages']} different ages"
    )
    if row["low"] <= 0 <= row["high"]:
        return f"No relation of the score to the label's age can be shown ({numbers})."
    way = "lower" if row["rho"] < 0 else "higher"
    return (
        f"Glaciers with older outlines score {way} ({numbers}); that need not be the age's doing, "
        "since size and kind of glacier differ too."
    )


def band_curve(
    masks: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray],
    resolution_m: float,
    *,
    widths: Sequence[float] = BANDS_M,
) -> pd.DataFrame:
    """Score maps without the ground nearer to the reference's edge than a band.

    The IoU rises with the band for any map, as pixels at an edge are mixed and small glaciers drop
    out: only what the curve against old labels rises more than that against the truth, or than one
    expects of a good label, is the label's.

    Args:
        masks: model -> uint8 [row, col].
        references: name -> uint8 [row, col], without a band of their own.
        resolution_m: side of a pixel in m.
        widths: of the band on either side of the edge, in m.

    Returns:
        model, band_m, reference, iou, known (the fraction of pixels that is left).
    """
    rows = []
    for name, reference in references.items():
        distance = edge_distance(reference) * resolution_m
        for model, mask in masks.items():
            found = outcomes(mask, reference)
            known = found < 4
            for width in widths:
                left = known & (distance >= width)
                counts = np.bincount(found[left], minlength=4)[:4]
                rows.append(
                    {
                        "model": model,
                        "band_m": float(width),
                        "reference": name,
                        "iou": float(SCORES["iou"](*counts)),
                        "known": counts.sum() / known.sum() if known.any() else math.nan,
                    }
                )
    return pd.DataFrame(rows)


def ceiling(area_km2: np.ndarray, perimeter_km: np.ndarray, offset_m: np.ndarray) -> np.ndarray:
    """Return the IoU that is left to a perfect shape whose outline lies off by a mean offset.

    An outline of length P that lies off by d on average, outwards and inwards alike, puts P d / 2
    of ground wrongly inside and P d / 2 wrongly outside, so that

        IoU = (A - P d / 2) / (A + P d / 2),

    never below zero. Outlines so ragged, or maps so wrong, that an offset says little about the
    area between two lines may lie above it.

    Args:
        area_km2: of each shape.
        perimeter_km: of each shape.
        offset_m: of each outline, or of all.

    Returns:
        The IoU, nan for no area.

    Example:
        >>> float(ceiling(1.0, 4.0, 50.0).round(3))
        0.818
    """
    area = np.asarray(area_km2, float)
    half = np.asarray(perimeter_km, float) * np.asarray(offset_m, float) / 1000 / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(area > 0, np.maximum(area - half, 0) / (area + half), np.nan)


def ceiling_by_size(table: pd.DataFrame) -> pd.DataFrame:
    """Set the IoU of glaciers beside the geometric ceiling, by class of size.

    The offset is the one observed, the median over the glaciers of a class of
    ``boundary_median_m``, without those whose IoU is below 0.1. The formula asks for a mean, but
    the mean distance of two outlines is that of missed and invented ice, however far away.

    Args:
        table: of ``per_glacier.scores_per_glacier``.

    Returns:
        One row per model, reference and class that has glaciers: size_class, glaciers, offset_m,
        iou_median, ceiling_median (over glaciers, each by its own area and perimeter).
    """
    own = table[table["glacier_id"] != NONE].dropna(subset=["size_class"])
    rows = []
    for (reference, model), group in own.groupby(["reference", "model"], sort=False):
        for name in SIZES:
            part = group[group["size_class"] == name]
            if part.empty:
                continue
            offset = part.loc[part["iou"] >= FOUND_IOU, "boundary_median_m"].median()
            limits = ceiling(part["area_km2"], part["perimeter_km"], offset)
            rows.append(
                {
                    "model": model,
                    "reference": reference,
                    "size_class": name,
                    "glaciers": len(part),
                    "offset_m": offset,
                    "iou_median": part["iou"].median(),
                    "ceiling_median": float(np.median(limits)),
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
        value, low, high = bootstrap.difference(by_truth[model], labels)
        rows.append(
            {
                "model": model,
                "labels": score_table(labels)["iou"],
                "truth": score_table(by_truth[model])["iou"],
                "difference": value,
                "low": low,
                "high": high,
                "verdict": bootstrap.verdict(low, high),
            }
        )
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
