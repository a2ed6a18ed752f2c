"""Temporal comparison: the same areas on several dates, mapped by several models.

Mapped area glacier by glacier and date by date, with intervals, and sums of glaciers.

How far a method agrees with itself: the same ground on two dates, where nothing changed.

What differs on ground that stayed as it was is the method's own error, and a lower bound of it:
what is wrong on both dates in the same way does not show.

Snow on single dates: how much of the ground it covers, and down to which altitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from glacier_utils.change import transition
from glacier_utils.change.area import Errors, Map, interval
from glacier_utils.conventions import UNKNOWN
from glacier_utils.datasets.dataset import Dataset
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import bootstrap
from glacier_utils.evaluation.bootstrap import block_counts
from glacier_utils.evaluation.per_glacier import Partition, burn_glaciers, partition
from glacier_utils.imagery.clouds import CLOUD, cloud_mask
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.prediction.mapper import predict_scene
from glacier_utils.raster.grid import Image
from glacier_utils.raster.indices import is_shadow, is_snow
from glacier_utils.training import fitting

Key = tuple[str, str, str]  # model, area, date
Case = tuple[str, str, str, str]  # model, area, date, reference
Views = Mapping[tuple[str, str], Image]  # (area, date) -> image
Clouds = Mapping[tuple[str, str], np.ndarray]  # (area, date) -> codes of clouds.cloud_mask


def predict(
    checkpoints: Mapping[str, Path],
    data: Dataset,
    areas: Sequence[str],
    dates: Sequence[str],
    *,
    window: int = 512,
    overlap: int = 64,
    progress: bool = False,
) -> dict[Key, Map]:
    """Map every area on every date with every model.

    Args:
        checkpoints: name of the model -> its checkpoint.
        window, overlap: in px, as in `mapper.predict_scene`.

    Raises:
        GlacierError: two dates of an area do not lie on one grid.
    """
    for area in areas:
        for date in dates[1:]:
            mismatch = data.mismatch(area, date, dates[0])
            if mismatch:
                raise GlacierError(f"dataset {data.name}, area {area}, {date}: {mismatch}")
    maps = {}
    for name, path in checkpoints.items():
        segmenter = load_checkpoint(path)
        for area in areas:
            for date in dates:
                source = data.source(area, date)
                probability = predict_scene(
                    segmenter, source, window=window, overlap=overlap, progress=progress
                )
                maps[name, area, date] = Map(probability, segmenter.threshold, source.grid)
    return maps


def other_seeds(table: pd.DataFrame, model: str) -> dict[str, Path]:
    """Return the checkpoints of the same model trained on the same dates with other seeds.

    ``table``: of `fitting.summary`; empty where there is one seed only.
    """
    own = table.set_index("model").loc[model]
    same = (table["architecture"] == own["architecture"]) & (table["dates"] == own["dates"])
    names = table.loc[same & (table["model"] != model), "model"]
    return {name: fitting.checkpoint(table, name) for name in names}


def read_views(
    data: Dataset, areas: Sequence[str], dates: Sequence[str]
) -> dict[tuple[str, str], Image]:
    """Read the images: (area, date) -> image."""
    return {(area, date): data.source(area, date).read() for area in areas for date in dates}


def read_clouds(
    data: Dataset, areas: Sequence[str], dates: Sequence[str]
) -> dict[tuple[str, str], np.ndarray]:
    """Read cloud masks (codes of `clouds.cloud_mask`) of the dates that the dataset has one for.

    The user's mask, else the scene classification; none is guessed from the image.
    """
    found = {}
    for area in areas:
        for date in dates:
            ready, scl = data.clouds(area, date), data.scene_classification(area, date)
            if ready is not None or scl is not None:
                source = data.source(area, date)
                found[area, date] = cloud_mask(source, ready=ready, scl=scl).read()
    return found


def area_table(
    maps: Mapping[Key, Map],
    errors: Errors | None = None,
    *,
    views: Views | None = None,
    clouds: Clouds | None = None,
) -> pd.DataFrame:
    """Return the mapped area per model, area and date, and its change since the first date.

    Args:
        errors: of the classification, of `area.from_validation` or `from_seeds`; None: the
            interval holds the outline's uncertainty only.
        views: the images, for the causes of the change.
        clouds: of `read_clouds`, for the same.

    Returns:
        model, area, date; area_km2 with low and high; buffer_km2, the outline moved by one pixel
        (`transition.mapped_area`); bias_km2, by which the reference exceeded the map on the validation
        part (nan unknown); unknown_km2; high_if_unknown, high plus all unknown pixels; change_km2
        since the first date with change_low and change_high on the pixels known on both dates (zero
        on the first date); with ``views`` a column a cause of what changed since the first date,
        ``cause_snow_lost_km2`` and so on (`transition.CAUSES`), which add up to what was lost and
        gained.
    """
    errors = errors or {}
    rows = []
    for (model, area, date), found in maps.items():
        mapped = transition.mapped_area(found.probability, found.grid, found.threshold)
        known = float((found.mask != UNKNOWN).sum() * found.grid.pixel_area_km2)
        ends = interval(
            mapped["area_km2"],
            mapped["uncertainty_km2"],
            errors.get((model, date, date)),
            ground_km2=known,
        )
        first = min(d for m, a, d in maps if (m, a) == (model, area))
        since = compare(maps, model, area, (first, date), errors)
        same = date == first
        row = {
            "model": model,
            "area": area,
            "date": date,
            "area_km2": mapped["area_km2"],
            "low": ends["low"],
            "high": ends["high"],
            "buffer_km2": mapped["uncertainty_km2"],
            "bias_km2": ends["bias_km2"],
            "unknown_km2": mapped["unknown_km2"],
            "high_if_unknown": ends["high"] + mapped["unknown_km2"],
            "change_km2": since["change_km2"],
            "change_low": 0.0 if same else since["low_km2"],
            "change_high": 0.0 if same else since["high_km2"],
        }
        if views is not None:
            codes = transition_map(maps, model, area, (first, date))
            table = explain_all({area: codes}, views, (first, date), clouds)
            sums = table.groupby("cause")["area_km2"].sum()
            row |= {
                f"cause_{name.replace(' ', '_')}_km2": sums[name]
                for name in transition.CAUSES.values()
            }
        rows.append(row)
    return pd.DataFrame(rows)


def compare(
    maps: Mapping[Key, Map],
    model: str,
    area: str,
    dates: Sequence[str],
    errors: Errors | None = None,
) -> dict[str, float | bool]:
    """Compare the first and the last of some dates: `transition.area_change` with its errors."""
    before, after = maps[model, area, dates[0]], maps[model, area, dates[-1]]
    pairs = ((dates[0], dates[0]), (dates[-1], dates[-1]), (dates[0], dates[-1]))
    return transition.area_change(
        before.probability,
        after.probability,
        before.grid,
        before.threshold,
        errors=[(errors or {}).get((model, *pair)) for pair in pairs],
    )


def transition_map(
    maps: Mapping[Key, Map], model: str, area: str, dates: Sequence[str]
) -> np.ndarray:
    """Return one model's transition map between the first and the last date of an area."""
    return transition.transition(
        maps[model, area, dates[0]].mask, maps[model, area, dates[-1]].mask
    )


def matrix(codes: np.ndarray, pixel_area_km2: float, dates: Sequence[str]) -> pd.DataFrame:
    """Turn a transition map into a 2 x 2 table in km2: rows the first date, columns the last."""
    areas = transition.transition_table(codes, pixel_area_km2).set_index("code")["area_km2"]
    names = ["glacier", "not glacier"]
    table = pd.DataFrame([[areas[1], areas[2]], [areas[3], areas[0]]], names, names)
    return table.rename_axis(dates[0]).rename_axis(columns=dates[-1])


def explain_all(
    changes: Mapping[str, np.ndarray],
    views: Views,
    dates: Sequence[str],
    clouds: Clouds | None = None,
) -> pd.DataFrame:
    """Return what each area's change is made of: `transition.explain` with the column area."""
    columns = ["area", "direction", "cause", "pixels", "area_km2", "share"]
    tables = []
    for area, codes in changes.items():
        keys = [(area, date) for date in (dates[0], dates[-1])]
        masks = [(clouds or {}).get(key) for key in keys]
        images = [views[key] for key in keys]
        tables.append(transition.explain(codes, *images, clouds=masks).assign(area=area))
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    )


def locate_causes(
    changes: Mapping[str, np.ndarray],
    views: Views,
    dates: Sequence[str],
    clouds: Clouds | None = None,
) -> dict[str, np.ndarray]:
    """Return where each cause of change lies: area -> codes of `transition.causes`."""
    found = {}
    for area, codes in changes.items():
        keys = [(area, date) for date in (dates[0], dates[-1])]
        masks = [(clouds or {}).get(key) for key in keys]
        found[area] = transition.causes(codes, *(views[key] for key in keys), masks)
    return found


def cause_shares(explained: pd.DataFrame) -> pd.DataFrame:
    """Return km2 by cause (columns) for each area and direction (rows), for a stacked chart."""
    named = explained.assign(bar=explained["area"] + ", " + explained["direction"])
    wide = named.pivot(index="bar", columns="cause", values="area_km2")
    return wide.reindex(index=named["bar"].unique(), columns=list(transition.CAUSES.values()))


def statements(
    maps: Mapping[Key, Map],
    model: str,
    changes: Mapping[str, np.ndarray],
    views: Views,
    dates: Sequence[str],
    *,
    errors: Errors | None = None,
    clouds: Clouds | None = None,
) -> list[str]:
    """Return the sentences per area that follow from the numbers (`summaries.statement`)."""
    if len(dates) < 2:
        return ["There is one date only: nothing can be said about change."]
    ends = (dates[0], dates[-1])
    sentences = []
    for area, codes in changes.items():
        numbers = compare(maps, model, area, ends, errors)
        explained = explain_all({area: codes}, views, ends, clouds)
        from glacier_utils.workflow.summaries import statement

        sentences.append(f"Area {area}: {statement(numbers, explained, dates=ends)}")
    return sentences


def count_blocks(maps: Mapping[Key, Map], data: Dataset) -> dict[Case, pd.DataFrame]:
    """Count every map against the labels and, where it is known, the truth.

    Returns:
        (model, area, date, reference) -> tp, fp, fn, tn of each block of `bootstrap.block_counts`.
    """
    found = {}
    for (model, area, date), entry in maps.items():
        candidates = {"labels": data.labels(area, date), "truth": data.truth(area, date)}
        for reference, mask in candidates.items():
            if mask is not None:
                counts = block_counts(entry.mask, mask.read(), entry.grid)
                found[model, area, date, reference] = counts
    return found


def robustness(scored: Mapping[Case, pd.DataFrame]) -> pd.DataFrame:
    """Score every map of `count_blocks`.

    Returns:
        model, area, date, reference, iou, iou_low, iou_high (95 %, by `bootstrap.block_counts`) and
        the other scores.
    """
    rows = [
        {**dict(zip(_CASE, case, strict=True)), **bootstrap.scores_with_interval(counts)}
        for case, counts in scored.items()
    ]
    return pd.DataFrame(rows)


def price(scored: Mapping[Case, pd.DataFrame], model: str) -> pd.DataFrame:
    """Compare every other model with one, on the same blocks of every area and date.

    With the model of the main date alone as ``model``, its rows say what training on other dates
    costs there (a negative difference on the main date) and gains (a positive one on the others).

    Returns:
        area, date, reference, model (another one), against (``model``), difference of the IoU,
        low, high (95 %), verdict (``better``, ``worse``, ``not distinguishable``).
    """
    tables = [pd.DataFrame(columns=_PRICE)]
    for area, date, reference in dict.fromkeys(case[1:] for case in scored):
        counts = {case[0]: c for case, c in scored.items() if case[1:] == (area, date, reference)}
        pairs = [(name, model) for name in counts if name != model]
        found = bootstrap.compare(counts, pairs).assign(area=area, date=date, reference=reference)
        tables += [found[_PRICE]] if len(found) else []
    return pd.concat(tables[1:] or tables, ignore_index=True)


def score_matrix(table: pd.DataFrame, reference: str | None = None) -> pd.DataFrame:
    """Turn `robustness` into a matrix: a row a model, a column ``area, date``; "0.76 (0.69..0.83)".

    ``reference`` defaults to the truth where it is known, else the labels.
    """
    reference = reference or ("truth" if (table["reference"] == "truth").any() else "labels")
    own = table[table["reference"] == reference]
    text = own.apply(lambda row: f"{row.iou:.2f} ({row.iou_low:.2f}..{row.iou_high:.2f})", axis=1)
    wide = own.assign(text=text, where=own["area"] + ", " + own["date"])
    order = {name: list(dict.fromkeys(wide[name])) for name in ("model", "where")}
    wide = wide.pivot(index="model", columns="where", values="text")
    return wide.loc[order["model"], order["where"]].rename_axis(columns=f"IoU by the {reference}")


_CASE = ("model", "area", "date", "reference")
_PRICE = [
    *("area", "date", "reference", "model", "against", "difference", "low", "high", "verdict")
]


def causes_are_complete(explained: pd.DataFrame, changes: Mapping[str, np.ndarray]) -> bool:
    """Say whether every lost or gained pixel was given exactly one cause."""
    changed = sum(
        int(((codes == transition.LOST) | (codes == transition.GAINED)).sum())
        for codes in changes.values()
    )
    return int(explained["pixels"].sum()) == changed


GROUPS = ["model", "area", "date"]


def partitions(
    data: Dataset, areas: list[str], date: str, labels: Mapping[str, np.ndarray]
) -> dict[str, Partition]:
    """Share out the ground of each area among the glaciers of the labels; see ``glaciers``.

    Without outlines (labels that are ready masks) glaciers are connected regions.
    """
    found = {}
    for area in areas:
        grid = data.source(area, date).grid
        outlines = None if grid.crs is None else data.outlines(area, date)
        numbered = None if outlines is None else burn_glaciers(outlines, grid, date)
        found[area] = partition(labels[area], grid, numbered)
    return found


def glacier_table(
    maps: Mapping[tuple[str, str, str], Map],
    parts: Mapping[str, Partition],
    labels: Mapping[str, np.ndarray],
    errors: Errors | None = None,
) -> pd.DataFrame:
    """Return the mapped area of each glacier on each date, and its change since the first date.

    A glacier's ground is its zone (``per_glacier.partition``): its outline and what lies within 300 m
    of it and nearer to it than to others. Mapped ice beyond every zone is no glacier's.

    Args:
        maps: (model, area, date) -> map.
        parts: area -> partition on the same grid, of these labels.
        labels: area -> uint8 [row, col]: 0, 1, 255.
        errors: of the classification (``area_errors``); None: only the outline's uncertainty.

    Returns:
        model, area, date, glacier_id, name; zone_km2 (known ground); reference_km2 (of the label,
        as far as the map is known); area_km2 with low and high, bias_km2 and reach_km2 (see
        ``area.interval``; the error's size is that of the mapped area or of the reference,
        whichever is larger, so that a glacier that was missed has an interval too); unknown_km2;
        high_if_unknown (high plus all unknown pixels); change_km2 with change_low, change_high,
        change_bias_km2, change_reach_km2 (on pixels known on both dates); changed (the interval
        leaves out zero); cut (by the frame); listed (in the inventory).
    """
    errors = errors or {}
    rows = []
    for (model, area, date), found in maps.items():
        part = parts[area]
        windows = ndimage.find_objects(part.zones)
        first = min(d for m, a, d in maps if (m, a) == (model, area))
        wanted = tuple(
            errors.get((model, *pair)) for pair in ((first, first), (date, date), (first, date))
        )
        for number, glacier in part.table.iterrows():
            window = windows[number - 1] if number <= len(windows) else None
            if window is None:
                continue
            own = part.zones[window] == number
            both = (
                np.where(own, entry.probability[window], np.float32(np.nan))
                for entry in (maps[model, area, first], found)
            )
            rows.append(
                {
                    **dict(zip(GROUPS, (model, area, date), strict=True)),
                    **glacier[["glacier_id", "name"]],
                    **_one_glacier(*both, own, labels[area][window] == 1, found, wanted),
                    **{name: bool(glacier[name]) for name in ("cut", "listed")},
                }
            )
    return pd.DataFrame(rows)


def _one_glacier(
    before: np.ndarray,
    after: np.ndarray,
    own: np.ndarray,
    ice: np.ndarray,
    found: Map,
    errors: tuple,
) -> dict[str, float | bool]:
    """Return the numbers of one glacier on one date, from its window of the two maps."""
    pixel = found.grid.pixel_area_km2
    mapped = transition.mapped_area(after, pixel, found.threshold)
    known = own & ~np.isnan(after)
    reference = float((ice & known).sum() * pixel)
    ends = interval(
        mapped["area_km2"],
        mapped["uncertainty_km2"],
        errors[1],
        size_km2=max(mapped["area_km2"], reference),
        ground_km2=float(known.sum() * pixel),
    )
    unknown = float((own & ~known).sum() * pixel)
    since = transition.area_change(
        before, after, pixel, found.threshold, errors=errors, least_km2=reference
    )
    same = np.array_equal(before, after, equal_nan=True)
    return {
        "zone_km2": float(known.sum() * pixel),
        "reference_km2": reference,
        "area_km2": mapped["area_km2"],
        "low": ends["low"],
        "high": ends["high"],
        "bias_km2": ends["bias_km2"],
        "reach_km2": ends["reach_km2"],
        "unknown_km2": unknown,
        "high_if_unknown": ends["high"] + unknown,
        "change_km2": since["change_km2"],
        "change_low": 0.0 if same else since["low_km2"],
        "change_high": 0.0 if same else since["high_km2"],
        "change_bias_km2": 0.0 if same else since["bias_km2"],
        "change_reach_km2": 0.0 if same else since["uncertainty_km2"],
        "changed": not same and since["distinguishable"],
    }


def sum_table(glaciers: pd.DataFrame) -> pd.DataFrame:
    """Add up the glaciers of ``glacier_table``, with their errors taken in two ways.

    Returns:
        A row per model, area and date: glaciers, changed (how many of them changed by more than
        their own interval), reference_km2, area_km2; low_correlated and high_correlated, the
        reaches added up as for errors that are all alike (one model, one image); low_uncorrelated
        and high_uncorrelated, the reaches added in quadrature as for independent errors; change_km2
        with the same four. The bias is added up in both.
    """
    rows = []
    for keys, group in glaciers.groupby(GROUPS, sort=False):
        row = dict(zip(GROUPS, keys, strict=True))
        row |= {
            "glaciers": len(group),
            "changed": int(group["changed"].sum()),
            "reference_km2": group["reference_km2"].sum(),
        }
        for name, prefix in (("area_km2", ""), ("change_km2", "change_")):
            total, bias = group[name].sum(), group[f"{prefix}bias_km2"].sum()
            reaches = group[f"{prefix}reach_km2"]
            row[name] = total
            for way, reach in (
                ("correlated", reaches.sum()),
                ("uncorrelated", float(np.sqrt((reaches**2).sum()))),
            ):
                low, high = total + min(0.0, bias) - reach, total + max(0.0, bias) + reach
                if not prefix:
                    low, high = max(0.0, low), min(high, group["zone_km2"].sum())
                row[f"{prefix}low_{way}"], row[f"{prefix}high_{way}"] = low, high
        rows.append(row)
    return pd.DataFrame(rows)


STABLE, INSIDE = "stable terrain", "inside outlines"
TRUE_GROUND, TRUE_ICE = "true ground", "true ice"


def grounds(
    views: Mapping[tuple[str, str], Image],
    labels: Mapping[str, np.ndarray],
    clouds: Mapping[tuple[str, str], np.ndarray] | None = None,
    truths: Mapping[str, np.ndarray] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Return the ground whose class should not differ between the dates.

    Args:
        views: (area, date) -> image.
        labels: area -> uint8 [row, col]: 0, 1, 255.
        clouds: (area, date) -> codes of ``clouds.cloud_mask``, where there are masks.
        truths: area -> true mask (0 / 1, 255 where it differs between dates), where it is known.

    Returns:
        area -> name -> bool [row, col]. ``stable terrain``: outside all outlines, and on no date
        sunlit snow or cloud; ``inside outlines``; ``true ground`` and ``true ice``.
    """
    found = {}
    for area, label in labels.items():
        stable = label == 0
        for (place, date), image in views.items():
            if place == area:
                stable = stable & ~is_snow(image.reflectance, image.bands)
                mask = (clouds or {}).get((area, date))
                stable = stable if mask is None else stable & (mask != CLOUD)
        found[area] = {STABLE: stable, INSIDE: label == 1}
        truth = (truths or {}).get(area)
        if truth is not None:
            found[area] |= {TRUE_GROUND: truth == 0, TRUE_ICE: truth == 1}
    return found


def unchanged_truth(data: Dataset, areas: Sequence[str], dates: Sequence[str]) -> dict:
    """Return area -> the true mask, 255 where it differs between dates; only where it is known."""
    found = {}
    for area in areas:
        masks = [data.truth(area, date) for date in dates]
        if all(mask is not None for mask in masks):
            truths = [mask.read() for mask in masks]
            same = np.all([truth == truths[0] for truth in truths], axis=0)
            found[area] = np.where(same, truths[0], UNKNOWN).astype(np.uint8)
    return found


def steadiness(
    maps: Mapping[tuple[str, str, str], Map],
    ground: Mapping[str, Mapping[str, np.ndarray]],
) -> pd.DataFrame:
    """Return how much of each ground is mapped alike on one date and the next.

    Args:
        maps: (model, area, date) -> map.
        ground: of ``grounds``.

    Returns:
        A row per model, area, ground and pair of dates that follow each other: before, after,
        known_km2, same (share of the known pixels with the same class on both), same_low and
        same_high (95 %, spatial blocks), changed (1 - same: on unchanged ground the rate of false
        change), lost_km2, gained_km2, net_km2.
    """
    rows = []
    for model, area in dict.fromkeys(key[:2] for key in maps):
        dates = sorted(date for m, a, date in maps if (m, a) == (model, area))
        for first, second in pairwise(dates):
            entry = maps[model, area, second]
            masks = [maps[model, area, date].mask for date in (first, second)]
            for name, within in ground[area].items():
                before, after = (np.where(within, mask, UNKNOWN) for mask in masks)
                # Accuracy of the later map by the earlier: the share that is the same.
                counts = block_counts(after, before, entry.grid)
                low, high = bootstrap.bootstrap(counts, score="accuracy")
                lost, gained = (counts[column].sum() for column in ("fn", "fp"))
                pixels = counts[["tp", "fp", "fn", "tn"]].sum().sum()
                share = (lost + gained) / pixels if pixels else np.nan
                size = entry.grid.pixel_area_km2
                rows.append(
                    {
                        "model": model,
                        "area": area,
                        "ground": name,
                        "before": first,
                        "after": second,
                        "known_km2": pixels * size,
                        "same": 1 - share,
                        "same_low": low,
                        "same_high": high,
                        "changed": share,
                        "lost_km2": lost * size,
                        "gained_km2": gained * size,
                        "net_km2": (gained - lost) * size,
                    }
                )
    return pd.DataFrame(rows)


def assessed(image: Image, within: np.ndarray | None = None) -> np.ndarray:
    """Return the valid, sunlit pixels inside ``within`` (bool [row, col]).

    Shadowed pixels are left out, since shadowed snow and shadowed ice look alike.
    """
    found = image.valid & ~is_shadow(image.reflectance, image.bands)
    return found if within is None else found & np.asarray(within, bool)


def snow_fraction(image: Image, within: np.ndarray | None = None) -> float:
    """Return the share of sunlit snow among the ``assessed`` pixels; nan if there are none.

    Near infrared above 0.475 parts snow from bare ice (5th percentile of snow 0.49, 95th of ice
    0.46).
    """
    seen = assessed(image, within)
    snow = is_snow(image.reflectance, image.bands)
    return float(snow[seen].mean()) if seen.any() else math.nan


def snow_line(image: Image, elevation: np.ndarray, within: np.ndarray | None = None) -> float:
    """Return the altitude (m) that parts snow above from bare ground below with fewest exceptions.

    Args:
        image: reflectance.
        elevation: m [row, col] on the image's grid, nan where unknown.
        within: bool [row, col], for example the glaciers.

    Returns:
        The number of snow pixels below plus that of bare pixels above is smallest there; the mean
        of the two altitudes between which it lies. nan without snow, without bare ground, or where
        snow lies rather below than above.
    """
    seen = assessed(image, within) & np.isfinite(elevation)
    order = np.argsort(elevation[seen], kind="stable")
    heights = elevation[seen][order]
    snow = is_snow(image.reflectance, image.bands)[seen][order]
    if not snow.any() or snow.all():
        return math.nan
    # wrong[k]: the k lowest pixels are said to be bare, all others snow.
    wrong = np.concatenate([[0], np.cumsum(snow)])
    wrong = wrong + np.concatenate([np.cumsum(~snow[::-1])[::-1], [0]])
    # Equal altitudes are not parted.
    wrong[1:-1][heights[1:] == heights[:-1]] = len(snow) + 1
    place = int(np.argmin(wrong))
    return float(heights[place - 1 : place + 1].mean()) if 0 < place < len(snow) else math.nan


def snow_table(
    views: Mapping[tuple[str, str], Image],
    labels: Mapping[str, np.ndarray],
    elevations: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Return how much snow lies inside and outside the outlines, for each area and date.

    Args:
        views: (area, date) -> image.
        labels: area -> uint8 [row, col]: 0, 1 glacier, 255.
        elevations: area -> m [row, col]; without, there are no snow lines.

    Returns:
        area, date, where (``inside outlines``, ``outside``), assessed_km2 (valid and sunlit),
        snow_km2, snow_fraction of that, snow_line_m (nan where there is none).
    """
    rows = []
    for (area, date), image in views.items():
        label = labels[area]
        for where, code in (("inside outlines", 1), ("outside", 0)):
            within = (label == code) & (label != UNKNOWN)
            size = float(assessed(image, within).sum() * image.grid.pixel_area_km2)
            share = snow_fraction(image, within)
            height = (elevations or {}).get(area)
            rows.append(
                {
                    "area": area,
                    "date": date,
                    "where": where,
                    "assessed_km2": size,
                    "snow_km2": size * share if size else 0.0,
                    "snow_fraction": share,
                    "snow_line_m": math.nan if height is None else snow_line(image, height, within),
                }
            )
    return pd.DataFrame(rows)
