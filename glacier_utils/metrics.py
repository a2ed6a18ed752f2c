"""Scores of a glacier map against a reference: counts, distances of outlines, areas.

Counts come first and every score follows from them. A pixel counts only if label and prediction are
both known: label 255, prediction 255 and nan are left out. A score that would divide by zero is
nan, never 0 or 1. Distances between two outlines are taken both ways, in metres. A mapped area
comes with the area by which it changes if its outline moves by one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import KDTree

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError, did_you_mean

COUNTS = ["tp", "fp", "fn", "tn"]
TOLERANCES_M = (10.0, 20.0, 30.0)
_CHUNK = 64  # patches at a time: keeps temporaries small when arrays are memory-mapped


def _over(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / np.asarray(denominator, float), np.nan)


def _mcc(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> np.ndarray:
    # Floats, and a root of each factor: the product of four pixel numbers overflows int64.
    tp, fp, fn, tn = (np.asarray(number, float) for number in (tp, fp, fn, tn))
    margins = [tp + fp, tp + fn, tn + fp, tn + fn]
    return _over(tp * tn - fp * fn, np.prod([np.sqrt(margin) for margin in margins], axis=0))


def _kappa(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> np.ndarray:
    tp, fp, fn, tn = (np.asarray(number, float) for number in (tp, fp, fn, tn))
    chance = (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)
    return _over(2 * (tp * tn - fp * fn), chance)


class _Scores(dict[str, Callable[..., np.ndarray]]):
    def __missing__(self, name: str) -> Callable[..., np.ndarray]:
        raise GlacierError(f"no score is called {name!r}; {did_you_mean(name, self)}")


# Each takes tp, fp, fn, tn: numbers or arrays of one shape. nan where a denominator is zero:
#   recall, specificity      the reference holds no glacier, no background
#   balanced_accuracy        either of the two: the mean of both would be half unknown
#   precision                the map holds no glacier
#   iou, f1                  neither map nor reference holds glacier
#   mcc                      map or reference is of one class (some programs call that 0)
#   kappa                    map and reference are of the same single class
SCORES: dict[str, Callable[..., np.ndarray]] = _Scores(
    {
        "iou": lambda tp, fp, fn, tn: _over(tp, tp + fp + fn),
        "f1": lambda tp, fp, fn, tn: _over(2 * tp, 2 * tp + fp + fn),
        "precision": lambda tp, fp, fn, tn: _over(tp, tp + fp),
        "recall": lambda tp, fp, fn, tn: _over(tp, tp + fn),
        "specificity": lambda tp, fp, fn, tn: _over(tn, tn + fp),
        "accuracy": lambda tp, fp, fn, tn: _over(tp + tn, tp + fp + fn + tn),
        "balanced_accuracy": lambda tp, fp, fn, tn: (_over(tp, tp + fn) + _over(tn, tn + fp)) / 2,
        "mcc": _mcc,  # Matthews (1975), the correlation of the two binary maps, -1..1
        "kappa": _kappa,  # Cohen (1960), the agreement beyond chance, at most 1
    }
)
LOWEST = {name: -1.0 if name in ("mcc", "kappa") else 0.0 for name in SCORES}


@dataclass(frozen=True)
class Counts:
    """Pixels of a two-class map: hits, false alarms, misses, correct rejections.

    Example:
        >>> counts = count(np.array([1, 1, 0, 0]), np.array([1, 0, 1, 255]))
        >>> counts
        Counts(tp=1, fp=1, fn=1, tn=0)
        >>> round(counts.iou, 3)
        0.333
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def score(self, name: str) -> float:
        """Return a score of ``SCORES`` by name; nan where it is undefined."""
        return float(SCORES[name](self.tp, self.fp, self.fn, self.tn))

    @property
    def total(self) -> int:
        """Number of pixels counted."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def iou(self) -> float:
        """Intersection over union (Jaccard), tp / (tp + fp + fn)."""
        return self.score("iou")

    @property
    def precision(self) -> float:
        """Fraction of the mapped glacier that is glacier, tp / (tp + fp)."""
        return self.score("precision")

    @property
    def recall(self) -> float:
        """Fraction of the glacier that is mapped, tp / (tp + fn)."""
        return self.score("recall")


def classify(probability: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Turn probabilities into a map.

    Args:
        probability: of any shape, nan where not predicted.
        threshold: from which on a pixel is glacier.

    Returns:
        uint8: 1 where probability >= threshold, 0 below, 255 where it is nan.

    Example:
        >>> classify(np.array([0.2, 0.5, np.nan])).tolist()
        [0, 1, 255]
    """
    probability = np.asarray(probability)
    prediction = (probability >= threshold).astype(np.uint8)
    prediction[np.isnan(probability)] = UNKNOWN
    return prediction


def count(prediction: np.ndarray, label: np.ndarray) -> Counts:
    """Count a map against its reference.

    Args:
        prediction: bool, or integers 0 / 1 / 255, or floats 0 / 1 / nan.
        label: integers 0 / 1 / 255, of the same shape.

    Raises:
        ValueError: other values, or shapes that differ.
    """
    prediction, label = np.atleast_1d(prediction), np.atleast_1d(label)
    _same_shape(prediction, label)
    counts = np.zeros(5, np.int64)
    for part in _chunks(len(label)):
        counts += np.bincount(outcomes(prediction[part], label[part]).ravel(), minlength=5)
    return Counts(*(int(number) for number in counts[:4]))


def score_table(counts: Counts | pd.DataFrame) -> dict[str, float]:
    """Return every score of ``SCORES``; the rows of a table are pooled first."""
    if not isinstance(counts, Counts):
        counts = Counts(*(int(counts[name].sum()) for name in COUNTS))
    return {name: counts.score(name) for name in SCORES}


def histograms(
    probability: np.ndarray, label: np.ndarray, *, bins: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Count probabilities of glacier and of background pixels in equal bins of 0..1.

    Args:
        probability: of any shape, nan where not predicted; may be memory-mapped.
        label: 0 / 1 / 255, of the same shape.
        bins: their number.

    Returns:
        Pixels per bin, int64 [bins], of glacier and of background. Those of the parts of a scene
        may be added up.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(probability, label)
    edges = np.arange(1, bins) / bins
    totals = np.zeros((2, bins), np.int64)
    for part in _chunks(len(label)):
        p, y = np.asarray(probability[part]), np.asarray(label[part])
        known = (y <= 1) & ~np.isnan(p)
        # side="right": a probability on a threshold lies above it, as in `classify`.
        place = np.searchsorted(edges, p[known].astype(float), side="right")
        totals += np.bincount(place + bins * (y[known] == 0), minlength=2 * bins).reshape(2, bins)
    return totals[0], totals[1]


def precision_recall(
    probability: np.ndarray, label: np.ndarray, *, bins: int = 200
) -> pd.DataFrame:
    """Return precision and recall over all thresholds, in bounded memory.

    Args:
        probability: of any shape, nan where not predicted; may be memory-mapped.
        label: 0 / 1 / 255, of the same shape.
        bins: number of thresholds.

    Returns:
        threshold (k / bins, rising from 0), precision, recall: exact for the map
        ``probability >= threshold``.
    """
    tp, fp = (np.cumsum(part[::-1])[::-1] for part in histograms(probability, label, bins=bins))
    threshold = np.arange(bins) / bins
    recall = _over(tp, np.full(bins, tp[0]))
    return pd.DataFrame({"threshold": threshold, "precision": _over(tp, tp + fp), "recall": recall})


def choose_threshold(
    probability: np.ndarray, label: np.ndarray, *, default: float = 0.5, gain: float = 0.005
) -> float:
    """Return the threshold (steps of 0.05) with the best pooled IoU.

    A threshold tuned to a few validation patches is worth no more than a clear gain.

    Args:
        probability: of any shape; nan is left out.
        label: of the same shape; 255 is left out.
        default: stays unless another threshold is better by more than ``gain``.
        gain: in IoU.

    Example:
        >>> choose_threshold(np.array([0.1, 0.3, 0.4]), np.array([0, 1, 1], np.uint8))
        0.15
    """
    table = precision_recall(probability, label, bins=20).set_index("threshold")
    # 1 / IoU = 1 / precision + 1 / recall - 1, by the definitions of the three.
    iou = 1 / (1 / table["precision"] + 1 / table["recall"] - 1)
    iou = iou.iloc[1:].fillna(0.0)
    at_default = iou.iloc[np.abs(iou.index - default).argmin()]
    return float(round(iou.idxmax(), 2)) if iou.max() > at_default + gain else default


def outcomes(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the outcome of each pixel.

    Args:
        prediction: as in ``count``.
        label: as in ``count``.

    Returns:
        uint8: 0 hit, 1 false alarm, 2 miss, 3 correct rejection, 4 unknown.

    Raises:
        ValueError: other values, or shapes that differ.
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    _same_shape(prediction, label)
    yes, positive = prediction == 1, label == 1
    known = (yes | (prediction == 0)) & (positive | (label == 0))
    skipped = (prediction == UNKNOWN) | (label == UNKNOWN)
    if prediction.dtype.kind == "f":
        skipped |= np.isnan(prediction)
    if not np.all(known | skipped):
        raise ValueError("prediction and label may hold 0, 1 and 255 only: apply a threshold first")
    codes = np.full(label.shape, 4, np.uint8)
    codes[known] = np.uint8(3) - 2 * yes[known] - positive[known]
    return codes


def _same_shape(prediction: np.ndarray, label: np.ndarray) -> None:
    if np.shape(prediction) != np.shape(label):
        raise ValueError(
            f"prediction {np.shape(prediction)} and label {np.shape(label)} differ in shape"
        )


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, length, _CHUNK))


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the rim of a mask 0 / 1 / 255 ``[row, col]``: glacier with a 4-neighbour that is not.

    Where glacier borders on unknown or on the frame there is no outline: it is only cut there.
    """
    background = mask == 0
    return (mask == 1) & ndimage.binary_dilation(background)


def rim_distances(
    prediction: np.ndarray, label: np.ndarray, resolution_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the rim of each map lies from that of the other, in m, where it lies.

    Args:
        prediction: [row, col] as in ``count``; where it or the label is unknown no rim is looked
            for. Put patches together first: a cut glacier has no outline at the cut, and the
            nearest one may lie next door.
        label: of the same shape, without an uncertainty band, which would hide the very outline.
        resolution_m: side of a pixel in m.

    Returns:
        Two arrays float [row, col], nan off the rim: from the rim of the prediction to the nearest
        rim pixel of the label (between their centres), and from the label's to the
        prediction's. inf where the other map has no rim.
    """
    found = outcomes(prediction, label)
    rims = [outline(np.where(found < 4, (found == 0) | (found == own), UNKNOWN)) for own in (1, 2)]
    maps = []
    for rim, other in (rims, rims[::-1]):
        distance = np.full(rim.shape, np.nan)
        away: Any = math.inf
        if rim.any() and other.any():
            # The rims are thin: among their pixels alone this takes a quarter of the time of a
            # distance transform of the whole map, and gives the same numbers.
            away, _ = KDTree(np.argwhere(other)).query(np.argwhere(rim))
        distance[rim] = away * resolution_m
        maps.append(distance)
    return maps[0], maps[1]


def boundary_distance(
    prediction: np.ndarray,
    label: np.ndarray,
    resolution_m: float,
    *,
    tolerances_m: Sequence[float] = TOLERANCES_M,
) -> dict[str, float]:
    """Return how well two outlines agree.

    Args:
        prediction: [row, col] as in ``rim_distances``.
        label: of the same shape.
        resolution_m: side of a pixel in m.
        tolerances_m: distances at which the boundary F1 is taken, in m.

    Returns:
        mean_m, median_m and p95_m of the distances of all rim pixels, both ways together (nan where
        a map has no outline), and the boundary F1 at each tolerance as ``f1_10m`` and so on (see
        ``boundary_f1``). A missed glacier far from any mapped one counts with its distance to the
        nearest outline whatever that is, so that the mean says more about missed and invented
        glaciers, the median about the place of the line.
    """
    there, back = rim_distances(prediction, label, resolution_m)
    both = np.concatenate([there[~np.isnan(there)], back[~np.isnan(back)]])
    names = ("mean_m", "median_m", "p95_m")
    if not both.size or np.isinf(both).any():
        found = dict.fromkeys(names, math.nan)
    else:
        values = (both.mean(), *np.percentile(both, [50, 95]))
        found = dict(zip(names, map(float, values), strict=True))
    return found | {f"f1_{t:g}m": boundary_f1(there, back, t)["f1"] for t in tolerances_m}


def boundary_f1(there: np.ndarray, back: np.ndarray, tolerance_m: float) -> dict[str, float]:
    """Return precision, recall and f1 of an outline at a tolerance (distance <= tolerance).

    Precision is the fraction of the predicted rim within the tolerance of the reference's rim,
    recall the fraction of the reference's within it of the predicted, F1 their harmonic mean
    (Csurka et al. 2013, BMVC, 32; Perazzi et al. 2016, CVPR, 724). nan where there is no rim; F1 is
    0 where one map alone has a rim, nan where neither has. A tolerance of less than a pixel asks
    for the very same pixels.

    Args:
        there: first array of ``rim_distances``, or a part of it.
        back: the second one.
        tolerance_m: in m.
    """
    # A hair of tolerance for distances such as 3 x 10.0 that are no whole numbers.
    within = tolerance_m * (1 + 1e-9)
    met = []
    for distances in (there, back):
        known = distances[~np.isnan(distances)]
        met.append(float((known <= within).mean()) if known.size else math.nan)
    precision, recall = met
    # A rim that the other map lacks altogether is met nowhere.
    either, total = np.nan_to_num(met), np.nansum(met)
    f1 = 2 * either.prod() / total if total else math.nan if np.isnan(met).all() else 0.0
    return {"precision": precision, "recall": recall, "f1": float(f1)}


def mapped_area(
    probability: np.ndarray, pixel_area_km2: float, threshold: float = 0.5
) -> dict[str, float]:
    """Return the area of a map and its uncertainty by the buffer method.

    The outline is moved by one pixel outwards and inwards (Granshaw & Fountain 2006, J. Glaciol.
    52, 251-256; Paul et al. 2013, Ann. Glaciol. 54(63), 171-182):

        uncertainty = (A(+1 pixel) - A(-1 pixel)) / 2.

    All of the outline errs in one direction here, so this is a bound rather than a standard
    deviation. Wrongly mapped regions (seasonal snow, missed debris) are not in it. The outline is
    not moved across the frame or into unknown pixels, whose area is given apart.

    Args:
        probability: [row, col], nan where not predicted.
        pixel_area_km2: of one pixel.
        threshold: from which on a pixel is glacier.

    Returns:
        area_km2, unknown_km2, uncertainty_km2.

    Example:
        >>> square = np.zeros((6, 6))
        >>> square[2:4, 2:4] = 1
        >>> mapped_area(square, 0.01)
        {'area_km2': 0.04, 'unknown_km2': 0.0, 'uncertainty_km2': 0.06}
    """
    mask = classify(probability, threshold)
    return {
        "area_km2": float((mask == 1).sum() * pixel_area_km2),
        "unknown_km2": float((mask == UNKNOWN).sum() * pixel_area_km2),
        "uncertainty_km2": buffer_pixels(mask) * pixel_area_km2,
    }


def buffer_pixels(mask: np.ndarray) -> float:
    """Return half the pixels between the outline moved out and in by one (4-neighbourhood).

    Args:
        mask: [row, col] 0 / 1 / 255.
    """
    glacier, background = mask == 1, mask == 0
    grown = ndimage.binary_dilation(glacier) & background
    eroded = ndimage.binary_dilation(background) & glacier
    return float(grown.sum() + eroded.sum()) / 2
