"""Whether a probability of glacier means what it says.

Everything but the map of doubt works on histograms of the probability, one of the glacier pixels
and one of the others (``metrics.histograms``, 1000 bins): they may be added up over patches and
scenes, so that memory does not grow with them. A bin stands for its middle. That shifts a Brier
score by less than 0.001 (twice half a bin) and an area under a curve by less than 0.001; a
probability that a network is very sure of (below 0.0005 or above 0.9995) counts as 0.0005 or
0.9995, which bounds the log loss of a pixel at 7.6. (A model whose logits are 2.5 times too large
gets a temperature of 2.4; models trained on the sample need 0.7 to 1.6.)

Pixels without a known label or without a probability are left out.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import optimize, special

from glacier_utils.metrics import histograms

BINS = 1000
TEMPERATURES = (0.05, 20.0)  # between which a fit looks
_EPS = 1e-6  # probabilities that a network was certain of are taken back by this much

Histograms = tuple[np.ndarray, np.ndarray]  # glacier [bins], background [bins]


def histogram(probability: np.ndarray, label: np.ndarray) -> Histograms:
    """Count the probabilities of glacier and of background pixels in 1000 bins of 0..1.

    Args:
        probability: of any shape, nan where not predicted.
        label: 0 / 1 / 255, of the same shape.
    """
    return histograms(probability, label, bins=BINS)


def reliability(
    glacier: np.ndarray, background: np.ndarray, *, bins: int = 10, equal_count: bool = False
) -> pd.DataFrame:
    """Set the fraction of glacier that is found beside the probability that was stated.

    Args:
        glacier: first of ``histogram``.
        background: second of it.
        bins: number of classes; those without a pixel are left out.
        equal_count: whether each holds as many pixels as the histogram allows, instead of being
            equally wide.

    Returns:
        low, high (of the class), probability (mean), share (fraction of glacier), pixels.
    """
    total = glacier + background
    number = len(total)
    if equal_count:
        before = np.cumsum(total) - total / 2  # pixels below the middle of each bin
        group = np.minimum((before * bins / max(total.sum(), 1)).astype(int), bins - 1)
    else:
        group = np.arange(number) * bins // number
    table = pd.DataFrame(
        {
            "group": group,
            "low": np.arange(number) / number,
            "high": (np.arange(number) + 1) / number,
            "sum": total * _middles(number),
            "glacier": glacier,
            "pixels": total,
        }
    )
    sums = table.groupby("group").agg(
        {"low": "min", "high": "max", "sum": "sum", "glacier": "sum", "pixels": "sum"}
    )
    sums = sums[sums["pixels"] > 0].reset_index(drop=True)
    sums = sums.assign(
        probability=sums["sum"] / sums["pixels"], share=sums["glacier"] / sums["pixels"]
    )
    return sums[["low", "high", "probability", "share", "pixels"]]


def calibration_scores(
    glacier: np.ndarray, background: np.ndarray, *, bins: int = 15
) -> dict[str, float]:
    """Score the probabilities; lower is better but for resolution, nan without a pixel.

    Args:
        glacier: first of ``histogram``.
        background: second of it.
        bins: number of classes of the calibration errors.

    Returns:
        ece: expected calibration error, the mean over the pixels of ``|fraction of glacier -
            probability|`` of their class, 15 classes of equal width (Naeini et al. 2015, AAAI; Guo
            et al. 2017, ICML, here of the probability of glacier, not of the winning class);
            ece_equal_count: the same with classes of equal numbers; mce: the largest such distance.
        brier: mean of (probability - label)^2 (Brier 1950), reliability - resolution + uncertainty
            (Murphy 1973) over the bins of the histogram: distance from the diagonal, distance of
            the fractions from the overall one, variance of the label.
        nll: mean log loss (nat).
        pixels.
    """
    total = glacier + background
    pixels = int(total.sum())
    counted = pixels or math.nan
    errors = []
    for equal_count in (False, True):
        table = reliability(glacier, background, bins=bins, equal_count=equal_count)
        gap = (table["share"] - table["probability"]).abs()
        errors.append((float((gap * table["pixels"]).sum() / counted), float(gap.max())))
    p = _middles(len(total))
    found = glacier / np.maximum(total, 1)
    overall = glacier.sum() / counted
    parts = {
        "reliability": float((total * (p - found) ** 2).sum() / counted),
        "resolution": float((total * (found - overall) ** 2).sum() / counted),
        "uncertainty": float(overall * (1 - overall)),
    }
    brier = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
    return {
        "ece": errors[0][0],
        "ece_equal_count": errors[1][0],
        "mce": errors[0][1],
        "brier": brier,
        **parts,
        "nll": _log_loss(special.logit(p), glacier, background),
        "pixels": pixels,
    }


def fit_temperature(glacier: np.ndarray, background: np.ndarray) -> float:
    """Return the temperature by which logits are to be divided, from *validation* pixels.

    The minimum of the log loss (Guo et al. 2017, ICML) between 0.05 and 20, where it has one only.
    Above 1 the model was too sure of itself, below 1 not sure enough. 1 where the pixels hold one
    class, which says nothing about how sure to be.

    Args:
        glacier: first of ``histogram``.
        background: second of it.
    """
    if not glacier.sum() or not background.sum():
        return 1.0
    logits = special.logit(_middles(len(glacier)))
    low, high = np.log(TEMPERATURES)
    found = optimize.minimize_scalar(
        lambda log_t: _log_loss(logits / math.exp(log_t), glacier, background),
        bounds=(low, high),
        method="bounded",
    )
    return float(math.exp(found.x))


def apply_temperature(probability: np.ndarray, temperature: float) -> np.ndarray:
    """Return ``sigmoid(logit(probability) / temperature)``, float32; nan stays nan.

    0.5 stays where it is. Another threshold must be taken along, ``apply_temperature(threshold,
    temperature)``, and the map stays the same.

    Args:
        probability: of any shape.
        temperature: of ``fit_temperature``.
    """
    probability = np.clip(np.asarray(probability, np.float32), _EPS, 1 - _EPS)
    return special.expit(special.logit(probability) / np.float32(temperature))


def before_and_after(
    probability: np.ndarray, label: np.ndarray, temperature: float
) -> tuple[pd.DataFrame, dict[str, Histograms]]:
    """Score probabilities as they are and with the temperature fitted on validation.

    Args:
        probability: of any shape, nan where not predicted.
        label: 0 / 1 / 255, of the same shape.
        temperature: of ``fit_temperature``.

    Returns:
        stage (``before``, ``after``), temperature and the columns of ``calibration_scores``; and
        the histograms by stage, for figures.
    """
    stages = {"before": 1.0, "after": temperature}
    found = {
        stage: histogram(apply_temperature(probability, t), label) for stage, t in stages.items()
    }
    rows = [
        {"stage": stage, "temperature": t, **calibration_scores(*found[stage])}
        for stage, t in stages.items()
    ]
    return pd.DataFrame(rows), found


def uncertainty(probability: np.ndarray) -> np.ndarray:
    """Return the entropy of each pixel's class in bit (Shannon 1948), float32.

    Args:
        probability: of any shape; nan stays nan.

    Example:
        >>> uncertainty(np.array([0.0, 0.5])).tolist()
        [0.0, 1.0]
    """
    p = np.asarray(probability, np.float32)
    return ((special.entr(p) + special.entr(1 - p)) / np.float32(math.log(2))).astype(np.float32)


def _middles(bins: int) -> np.ndarray:
    return (np.arange(bins) + 0.5) / bins


def _log_loss(logits: np.ndarray, glacier: np.ndarray, background: np.ndarray) -> float:
    """Return the mean of -log(probability of the right class), without overflow."""
    losses = glacier * np.logaddexp(0, -logits) + background * np.logaddexp(0, logits)
    return float(losses.sum() / ((glacier.sum() + background.sum()) or math.nan))
