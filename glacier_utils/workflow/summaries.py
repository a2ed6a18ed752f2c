"""What may be concluded from a run and what not, in words made from its numbers.

Of the temporal comparison (notebook 05).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from glacier_utils.change.area import within_a_year
from glacier_utils.change.series import INSIDE, STABLE, TRUE_GROUND, TRUE_ICE
from glacier_utils.change.transition import CAUSES
from glacier_utils.evaluation.bootstrap import SAME

_PHRASES = {
    "cloud": "cloud",
    "shadow": "shadow on one date only",
    "snow lost": "snow that lay on the first date only",
    "snow gained": "snow that lay on the last date only",
    "water": "water on one date only",
    "edge": "jitter within one pixel of the outline",
}
_GROUNDS = {
    STABLE: "stable terrain (outside the outlines and free of snow)",
    INSIDE: "the ground inside the outlines",
    TRUE_GROUND: "ground that truly held no ice on either date",
    TRUE_ICE: "ground that truly was ice on both dates",
}


def tested_over_time(area: str) -> str:
    """Say what the scores of an area mean that lies on the ground of training."""
    return (
        f"How well a glacier is mapped that was never seen: area {area} lies on the ground of "
        "training, seen at other dates. Its scores are a test over time, not over space."
    )


def temporal_statements(
    changes: Mapping[str, Mapping[str, float | bool]],
    explained: pd.DataFrame,
    dates: Sequence[str],
) -> list[str]:
    """Say what follows from the change of each area.

    Args:
        changes: area -> numbers of ``series.compare``.
        explained: of ``series.explain``.
        dates: in order; the first and the last are compared.

    Returns:
        One text per area.
    """
    if len(dates) < 2:
        return ["There is one date only: nothing can be said about change."]
    ends = (dates[0], dates[-1])
    return [
        f"Area {area}: {statement(numbers, explained[explained['area'] == area], ends)}"
        for area, numbers in changes.items()
    ]


def statement(
    change: Mapping[str, float | bool], explained: pd.DataFrame, dates: Sequence[str]
) -> str:
    """Say what follows from ``transition.area_change`` and ``transition.explain``.

    Says "no change can be shown" exactly when the interval of the difference holds zero, and names
    the largest cause of what was mapped differently. A difference between ISO dates of less than a
    year is not called retreat or advance, which are a matter of metres in that time.

    Args:
        change: of ``transition.area_change``.
        explained: of ``transition.explain``.
        dates: the two.
    """
    if not change["before_km2"] and not change["after_km2"]:
        return (
            f"No glacier area was mapped on {dates[0]} or {dates[1]}: there is nothing to compare."
        )
    first, second = (
        f"{km2(change[f'{when}_km2'])} km2 "
        f"({_range(change[f'{when}_low'], change[f'{when}_high'])})"
        for when in ("before", "after")
    )
    sentences = [
        f"The mapped glacier area is {first} on {dates[0]} and {second} on {dates[1]}"
        + (", on the ground known on both." if change["unknown_km2"] > 0 else "."),
        _verdict(change),
    ]
    if explained["area_km2"].sum() > 0:
        sentences.append(_composition(explained))
    if change["distinguishable"] and within_a_year(dates):
        sentences.append(
            "In less than a year a glacier's edge moves by metres: read this as snow, shadow and "
            "the method's own error, not as retreat or advance."
        )
    return " ".join(sentences)


def temporal_conclusions(
    sentences: Sequence[str],
    dates: Sequence[str],
    *,
    areas: pd.DataFrame,
    repeatability: pd.DataFrame,
    costs: pd.DataFrame,
    model: str,
    main_date: str,
    over_time: Sequence[str] = (),
) -> str:
    """Write in plain words what may be concluded from a temporal comparison and what not.

    Args:
        sentences: of ``temporal_statements``.
        dates: all dates, in order.
        areas: of ``series.area_table`` with causes.
        repeatability: of ``series.repeatability``; empty with one date.
        costs: of ``series.cost_of_dates``.
        model: whose rows are meant.
        main_date: the date of training.
        over_time: areas that lie on the ground of training, of ``comparison.areas_over_time``.

    Returns:
        Markdown.
    """
    areas = areas[areas["model"] == model]
    parts = ["## What may be concluded", "", *(f"- {text}" for text in sentences)]
    if len(dates) > 1:
        parts += [*_repeats(repeatability, model), *_costs(costs, main_date)]
    else:
        parts += [
            f"- Area {row.area}: the mapped glacier area is {km2(row.area_km2)} km2 "
            f"({_range(row.low, row.high)}) on {row.date}."
            for row in areas.itertuples()
        ]
    parts += ["", "## What may not be concluded", ""]
    parts += [*_limits(areas, dates), *(f"- {tested_over_time(area)}" for area in over_time)]
    return "\n".join(parts) + "\n"


def km2(value: float) -> str:
    """Write an area with as many digits as it bears."""
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _range(low: float, high: float) -> str:
    return f"{km2(low)} to {km2(high)}"


def _verdict(change: Mapping[str, float | bool]) -> str:
    percent = change["change_percent"]
    relative = "" if math.isnan(percent) else f", {percent:+.1f} %"
    numbers = (
        f"{change['change_km2']:+.2f} km2{relative}, "
        f"interval {change['low_km2']:+.2f} to {change['high_km2']:+.2f} km2"
    )
    if not change["distinguishable"]:
        return f"The interval of the difference ({numbers}) holds zero: no change can be shown."
    direction = "smaller" if change["change_km2"] < 0 else "larger"
    least = min(abs(change["low_km2"]), abs(change["high_km2"]))
    return (
        f"The mapped area became {direction} by more than its uncertainty, "
        f"by at least {km2(least)} km2 ({numbers})."
    )


def _composition(explained: pd.DataFrame) -> str:
    areas = explained.groupby("cause")["area_km2"].sum().reindex(CAUSES.values(), fill_value=0.0)
    total, rest = areas.sum(), areas["rest"]
    percents = (100 * areas.drop("rest") / total).sort_values(ascending=False, kind="stable")
    named = [
        f"{percent:.0f} % is put down to {_PHRASES[cause]}"
        for cause, percent in percents.items()
        if percent >= 0.5
    ]
    unexplained = f"{km2(rest)} km2 ({100 * rest / total:.0f} %) has no simple explanation"
    return f"Of the {km2(total)} km2 mapped differently, {', '.join([*named, unexplained])}."


def _repeats(table: pd.DataFrame, model: str) -> list[str]:
    if table.empty:
        return []
    lines = []
    keys = ["area", "before", "after"]
    for (area, before, after), group in table[table["model"] == model].groupby(keys, sort=False):
        known = group.dropna(subset=["same"]).set_index("ground")
        parts = [
            f"{100 * known.loc[ground, 'changed']:.1f} % of {phrase}"
            for ground, phrase in _GROUNDS.items()
            if ground in known.index
        ]
        line = (
            f"- In area {area} the map of {after} differs from that of {before} on "
            f"{', '.join(parts)}."
        )
        true = known[known.index.isin([TRUE_GROUND, TRUE_ICE])]
        if len(true):
            line += (
                f" The truth did not change: {km2((true['lost_km2'] + true['gained_km2']).sum())} "
                f"km2 of change ({true['net_km2'].sum():+.2f} km2 net) never was."
            )
        lines.append(line)
    return lines


def _costs(costs: pd.DataFrame, main_date: str) -> list[str]:
    best = "truth" if (costs["reference"] == "truth").any() else "labels"
    lines = []
    for row in costs[costs["reference"] == best].dropna(subset=["low"]).itertuples():
        label = "Cost on the main date" if row.date == main_date else "Gain on another date"
        verdict = row.verdict if row.verdict == SAME else f"clearly {row.verdict}"
        lines.append(
            f"- {label}: in area {row.area} on {row.date}, **{row.model}** is {verdict} "
            f"{'from' if row.verdict == SAME else 'than'} **{row.against}** against the {best} "
            f"(IoU {row.difference:+.3f}, interval {row.low:+.3f} to {row.high:+.3f})."
        )
    return lines


def _limits(areas: pd.DataFrame, dates: Sequence[str]) -> list[str]:
    lines = []
    if len(dates) < 2:
        lines.append("- Anything about change: there is one date only.")
    elif within_a_year((dates[0], dates[-1])):
        lines.append(
            "- Retreat or advance: between these dates a glacier's edge moves by metres, less than "
            "a pixel. The differences above bound the method's repeatability."
        )
    else:
        lines.append(
            "- The intervals of change take the errors of the two dates as independent: nothing "
            "here measures how far they are alike over so long a time."
        )
    if len(dates) > 1:
        for row in areas[areas["date"] == dates[-1]].itertuples():
            lines.append(
                f"- That what differs is ice: in area {row.area}, as far as the rules are right, a "
                f"real change could hide only in the {km2(row.cause_rest_km2)} km2 that none of "
                f"them explains and the {km2(row.cause_edge_km2)} km2 at the outline's edge."
            )
    unknown = areas["unknown_km2"].max()
    if unknown > 0:
        lines.append(
            f"- Anything about the ground that is unknown on a date (up to {km2(unknown)} km2)."
        )
    lines.append(
        "- How good the areas are in another region: the intervals hold the net error seen on "
        "the validation part (where there is one), and the labels' age with it, but not that "
        "other ground may be of another kind."
        if areas["bias_km2"].notna().any()
        else "- How large the classification's error is: it was not measured here, and the "
        "intervals hold the outline's uncertainty only."
    )
    return lines
