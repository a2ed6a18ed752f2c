"""How far a mapped area is off: the classification's net error, learned where a reference is known.

The area of a map is not the area of what was mapped: misses and false alarms do not cancel
(Olofsson et al. 2014, Remote Sens. Environ. 148, 42-57). What is off is learned on pieces of ground
of the validation part, from the confusion matrix of each, as a ratio to the mapped area: for a
piece with the mapped area m the net error, reference minus map, has

    mean = bias x m,    variance = variance_km2 x m,

and a new place of that kind with the mapped area M is predicted with the variance
variance_km2 x M x (1 + M / sum m) (Royall 1970, Biometrika 57, 377: the ratio estimator). A ratio
to the mapped area, not one to all ground, lets the same numbers serve a glacier and a region.

Errors within a piece are alike, so that for a place smaller than a typical piece the relative error
stays that of the piece. What a typical piece is depends on how the ground is cut, so it is cut in
three ways (sixteenths of a patch, patches, blocks of patches) and the widest interval counts; with
fewer than four pieces a way tells nothing and is left out if another is there.

Measured on the sample, learned from the labels of its validation part, judged by the truth: of five
models on two areas and dates, all 20 intervals of whole areas held it, the buffer method's 3. Of
single glaciers in the area of training 25 or 26 of 27 intervals held it, in the unseen 16 to 24 of
26: whole glaciers are missed or made up there that look unlike any of the training area.

Not in it: that another region is of another kind than the validation part, and that the reference
itself is wrong. Labels older than the image hold ice that has gone since; ``bias`` is then partly
theirs, and the map is not corrected by it: its interval is stretched that far instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from glacier_utils import metrics
from glacier_utils.conventions import UNKNOWN
from glacier_utils.datasets.store import PatchStore
from glacier_utils.raster.grid import Grid

_CELLS = 4  # a patch is cut into 4 x 4 cells
_LEAST_FREEDOM = 3  # below, t is larger than 4: the interval would be that of not knowing


Key = tuple[str, str, str]  # model, area, date


@dataclass(frozen=True)
class Map:
    """One model's map of one area on one date.

    Attributes:
        probability: float32 [row, col], nan where not predicted.
        threshold: from which on a pixel is glacier.
        grid: of the map.
    """

    probability: np.ndarray
    threshold: float
    grid: Grid

    @property
    def mask(self) -> np.ndarray:
        """uint8 [row, col]: 0, 1, 255."""
        return metrics.classify(self.probability, self.threshold)


@dataclass(frozen=True)
class Scale:
    """The scatter of the net error among pieces of one size, km2.

    Attributes:
        variance_km2: of the error, relative to the mapped area.
        typical_km2: mapped area of the piece that a mapped pixel lies in on average.
        mapped_km2: that of all pieces together.
        freedom: degrees of freedom of the variance.
    """

    variance_km2: float
    typical_km2: float
    mapped_km2: float
    freedom: int

    def reach(self, size_km2: float) -> float:
        """Return half the 95 % interval of the net error of a place of this mapped area."""
        alike = min(1.0, size_km2 / self.typical_km2)
        variance = self.variance_km2 * size_km2 * (alike + size_km2 / self.mapped_km2)
        return float(stats.t.ppf(0.975, self.freedom)) * math.sqrt(variance)


@dataclass(frozen=True)
class AreaError:
    """The net error of mapped areas.

    Attributes:
        bias: relative to the mapped area.
        scales: its scatter among pieces of several sizes.
    """

    bias: float
    scales: tuple[Scale, ...]

    def reach(self, size_km2: float) -> float:
        """Return half the 95 % interval (km2) of the net error of a place of this mapped area."""
        return max(scale.reach(size_km2) for scale in self.scales)


# (model, date, date): of a mapped area. (model, first date, later date): of a change.
Errors = Mapping[tuple[str, str, str], AreaError]


def learn(pieces: Iterable[tuple[np.ndarray, np.ndarray]]) -> AreaError | None:
    """Learn the net error from (mapped area, reference minus mapped area) of pieces of ground.

    Args:
        pieces: for each way of cutting the same ground, two arrays in km2, one number per piece.

    Returns:
        None where nothing is mapped, or no way of cutting gives two pieces with something in them.
    """
    scales, bias = [], math.nan
    for mapped, error in pieces:
        telling = (mapped > 0) | (error != 0)
        mapped, error = mapped[telling], error[telling]
        number, total = len(mapped), mapped.sum()
        if number < 2 or not total > 0:
            continue
        bias = float(error.sum() / total)
        scatter = ((error - bias * mapped) ** 2).sum() / total * number / (number - 1)
        scales.append(
            Scale(float(scatter), float((mapped**2).sum() / total), float(total), number - 1)
        )
    telling = [scale for scale in scales if scale.freedom >= _LEAST_FREEDOM]
    return AreaError(bias, tuple(telling or scales)) if scales else None


def interval(
    area_km2: float,
    buffer_km2: float,
    error: AreaError | None,
    *,
    size_km2: float | None = None,
    ground_km2: float = math.inf,
) -> dict[str, float]:
    """Return the interval of a mapped area.

    Args:
        area_km2: mapped area.
        buffer_km2: what the buffer method says of the outline, added in quadrature.
        error: of the classification; None where it is not known.
        size_km2: what the classification's error is relative to, by default ``area_km2``.
        ground_km2: all the ground on which it was mapped: the area cannot be larger.

    Returns:
        low, high; bias_km2, by which the reference exceeds the map (nan if unknown), and
        reach_km2: low is ``area + min(0, bias) - reach``, high ``area + max(0, bias) + reach``, as
        far as that lies between nothing and all the ground.
    """
    found = around(area_km2, buffer_km2, error, area_km2 if size_km2 is None else size_km2)
    low, high = max(0.0, found["low"]), min(found["high"], max(area_km2, ground_km2))
    return found | {"low": low, "high": high}


def around(
    value_km2: float, buffer_km2: float, error: AreaError | None, size_km2: float
) -> dict[str, float]:
    """Return the interval around any value, such as a difference: ``interval`` without limits.

    Args:
        value_km2: the value.
        buffer_km2: what the buffer method says of the outline.
        error: of the classification; None where it is not known.
        size_km2: what that error is relative to.
    """
    bias = math.nan if error is None else error.bias * size_km2
    reach = buffer_km2 if error is None else math.hypot(buffer_km2, error.reach(size_km2))
    return {
        "low": value_km2 + min(0.0, bias if error else 0.0) - reach,
        "high": value_km2 + max(0.0, bias if error else 0.0) + reach,
        "bias_km2": bias,
        "reach_km2": reach,
    }


def from_validation(
    maps: Mapping[Key, Map], store: PatchStore
) -> dict[tuple[str, str, str], AreaError]:
    """Learn each model's net error on the validation patches, for every date and pair of dates.

    For a pair of dates it is the error of the difference on the same ground: the model's errors on
    two dates are alike, and what they share drops out of it. The reference drops out too (it is
    one and the same on both dates), so an old label does no harm, as long as the ice itself did not
    change: only pairs less than a year apart are learned.

    Args:
        maps: (model, area, date) -> map of the whole area.
        store: with validation patches cut from the same frames; their labels are the reference.

    Returns:
        (model, date, date) and (model, earlier, later) -> error, where there is something to learn.
    """
    index = store.index[store.index["split"] == "validation"]
    size = store.labels.shape[-1]
    found = {}
    for model in dict.fromkeys(name for name, _, _ in maps):
        dates = sorted({date for name, _, date in maps if name == model})
        for place, first in enumerate(dates):
            for second in dates[place:]:
                if first != second and not within_a_year((first, second)):
                    continue
                pairs, blocks = [], []
                for row in index[index["date"] == second].itertuples():
                    keys = [(model, row.area, date) for date in (first, second)]
                    if not all(key in maps for key in keys):
                        continue
                    part = np.s_[row.row : row.row + size, row.col : row.col + size]
                    before, after = (maps[key].mask[part] for key in keys)
                    label = store.labels[row.Index][: before.shape[0], : before.shape[1]]
                    pixel = maps[keys[0]].grid.pixel_area_km2
                    pairs.append(_cells(before, after, np.asarray(label), first == second, pixel))
                    blocks.append(row.block)
                error = learn(_cuttings(pairs, blocks)) if pairs else None
                if error is not None:
                    found[model, first, second] = error
    return found


def from_seeds(
    maps: Mapping[Key, Map], members: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str, str], AreaError]:
    """Learn how far one training lies from others that differ by their seed alone.

    The spread of the mapped area of whole areas among the members, which have no reference: only
    what chance does to the training is in it, not what all of them get wrong.

    Args:
        maps: (model, area, date) -> map.
        members: model -> the models of all its seeds, itself among them; of one alone nothing is
            learned.
    """
    found = {}
    for model, names in members.items():
        names = [name for name in names if any(key[0] == name for key in maps)]
        keys = [key[1:] for key in maps if key[0] == model]
        dates = sorted({date for _, date in keys})
        for first, second in [(a, b) for a in dates for b in dates if a <= b and len(names) > 1]:
            mapped, variances = [], []
            for area in dict.fromkeys(area for area, _ in keys):
                own, other = (
                    np.array([_area_km2(maps[name, area, date]) for name in names])
                    for date in (first, second)
                )
                mapped.append((own + other).mean() / 2)
                variances.append((own if first == second else own - other).var(ddof=1))
            total, members_km2 = sum(mapped), len(names) * sum(mapped)
            if total > 0:
                typical = float(np.square(mapped).sum() / total)
                freedom = len(mapped) * (len(names) - 1)
                scale = Scale(float(sum(variances) / total), typical, members_km2, freedom)
                found[model, first, second] = AreaError(0.0, (scale,))
    return found


def widest(one: Errors, other: Errors) -> dict[tuple[str, str, str], AreaError]:
    """Put two sources of error together: the bias of the first, the wider interval of both.

    Args:
        one: of ``from_validation``.
        other: of ``from_seeds``.
    """
    return dict(other) | {
        key: AreaError(error.bias, error.scales + (other[key].scales if key in other else ()))
        for key, error in one.items()
    }


def within_a_year(dates: Sequence[str]) -> bool:
    """Say whether ISO dates (a day, or a month) lie less than a year apart; False of other text."""
    days = pd.to_datetime(pd.Series(list(dates)), format="ISO8601", errors="coerce")
    return bool(days.notna().all() and days.max() - days.min() < pd.Timedelta(days=365))


def _area_km2(found: Map) -> float:
    return float((found.mask == 1).sum() * found.grid.pixel_area_km2)


def _cells(
    before: np.ndarray, after: np.ndarray, label: np.ndarray, same: bool, pixel_km2: float
) -> np.ndarray:
    """Return mapped area and net error of each cell of a patch, km2 [2, cell]."""
    known = (before != UNKNOWN) & (after != UNKNOWN) & (label != UNKNOWN)
    first, second = (known & (mask == 1) for mask in (before, after))
    mapped = (first.astype(float) + second) / 2
    # Of a difference that should be none: nothing minus what was mapped as change.
    error = (known & (label == 1)).astype(float) - first if same else first.astype(float) - second
    rows, cols = (np.linspace(0, n, _CELLS + 1).astype(int)[:-1] for n in before.shape)
    return np.stack(
        [
            np.add.reduceat(np.add.reduceat(field, rows, axis=0), cols, axis=1).ravel() * pixel_km2
            for field in (mapped, error)
        ]
    )


def _cuttings(
    pairs: Sequence[np.ndarray], blocks: Sequence[str]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return mapped area and net error by cells, by patches and by blocks of patches."""
    cells = np.stack(pairs)  # [patch, 2, cell]
    patches = cells.sum(axis=2)
    _, place = np.unique(blocks, return_inverse=True)
    whole = [np.bincount(place, column) for column in patches.T]
    return [(cells[:, 0].ravel(), cells[:, 1].ravel()), tuple(patches.T), tuple(whole)]
