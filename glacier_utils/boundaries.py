"""How far two outlines lie apart: distances both ways in metres, and the boundary F1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from glacier_utils.metrics import UNKNOWN, outcomes

TOLERANCES_M = (10.0, 20.0, 30.0)


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
        prediction, label: ``[row, col]`` as in ``metrics.count``; where either is unknown no rim is
            looked for. Labels should come without an uncertainty band, which would hide the very
            outline. Put patches together first: a cut glacier has no outline at the cut, and the
            nearest one may lie next door.
        resolution_m: side of a pixel in m.

    Returns:
        Two arrays float [row, col], nan off the rim: from the rim of the prediction to the nearest
        rim pixel of the label (exact Euclidean distance transform), and from the label's to the
        prediction's. inf where the other map has no rim.
    """
    found = outcomes(prediction, label)
    rims = [outline(np.where(found < 4, (found == 0) | (found == own), UNKNOWN)) for own in (1, 2)]
    maps = []
    for rim, other in (rims, rims[::-1]):
        distance = np.full(rim.shape, np.nan)
        if rim.any():
            away = ndimage.distance_transform_edt(~other) if other.any() else np.float64(math.inf)
            distance[rim] = (np.broadcast_to(away, rim.shape) * resolution_m)[rim]
        maps.append(distance)
    return maps[0], maps[1]


def boundary_distance(
    prediction: np.ndarray,
    label: np.ndarray,
    resolution_m: float,
    *,
    tolerances_m: Sequence[float] = TOLERANCES_M,
) -> dict[str, float]:
    """Return how well two outlines agree; the arguments are those of ``rim_distances``.

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

    Precision is the share of the predicted rim within the tolerance of the reference's rim, recall
    the share of the reference's within it of the predicted, F1 their harmonic mean (Csurka et al.
    2013, BMVC, 32; Perazzi et al. 2016, CVPR, 724). nan where there is no rim to take a share of;
    F1 is 0 where one map alone has a rim, nan where neither has. A tolerance of less than a pixel
    asks for the very same pixels.

    Args:
        there, back: of ``rim_distances``, or the same for a part of the map.
    """
    # A hair of tolerance for distances such as 3 x 10.0 that are no whole numbers.
    within = tolerance_m * (1 + 1e-9)
    shares = []
    for distances in (there, back):
        known = distances[~np.isnan(distances)]
        shares.append(float((known <= within).mean()) if known.size else math.nan)
    precision, recall = shares
    if np.isnan(shares).all():
        f1 = math.nan
    else:
        total = np.nansum(shares)
        f1 = 2 * precision * recall / total if total and not np.isnan(shares).any() else 0.0
    return {"precision": precision, "recall": recall, "f1": float(f1)}
