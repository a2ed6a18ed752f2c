"""Figures of the temporal comparison. Tables or maps in, a Matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from glacier_utils.change.transition import CAUSES, NO_CAUSE
from glacier_utils.plotting import style as style_module
from glacier_utils.plotting.charts import palette, plain

CAUSE_COLOURS = {
    "mapped alike": "#efece4",
    "cloud": "#cc79a7",
    "shadow": "#000000",
    "snow lost": "#0072b2",
    "snow gained": "#56b4e9",
    "water": "#009e73",
    "edge": "#e69f00",
    "rest": "#d55e00",
    "unknown": "#7f7f7f",
}


def area_series(table: pd.DataFrame, known: Mapping[str, float] | None = None) -> Figure:
    """Show the mapped area over time with its intervals, a panel an area, a colour a model.

    The thin bar is the whole interval, the thick one the outline's part of it (buffer method).
    Dates are set at their place in time where they can be read as such.

    Args:
        table: of ``series.area_table``, any number of dates.
        known: area -> true area in km2, drawn as a line.
    """
    areas = list(dict.fromkeys(table["area"]))
    colours = palette(list(dict.fromkeys(table["model"])))
    dates = sorted(set(table["date"]))
    days = pd.to_datetime(pd.Series(dates), format="ISO8601", errors="coerce")
    timed = bool(days.notna().all())
    places = mdates.date2num(days) if timed else np.arange(len(dates))
    step = np.diff(places).min() if len(places) > 1 else 1.0
    figure, axes = plt.subplots(
        1, len(areas), figsize=(3.4 * len(areas) + 1.2, 4.2), squeeze=False, layout="constrained"
    )
    for ax, area in zip(axes[0], areas, strict=True):
        for shift, (model, colour) in zip(_spread(len(colours)), colours.items(), strict=True):
            own = table[(table["area"] == area) & (table["model"] == model)].sort_values("date")
            x = places[[dates.index(date) for date in own["date"]]] + shift * step
            middle, buffer = own["area_km2"].to_numpy(), own["buffer_km2"].to_numpy()
            whole = [middle - own["low"], own["high"] - middle]
            ax.errorbar(x, middle, whole, fmt="o-", color=colour, capsize=3, linewidth=1)
            ax.vlines(x, middle - buffer, middle + buffer, color=colour, linewidth=4, alpha=0.5)
        if known and area in known:
            ax.axhline(known[area], color="0.3", linestyle="--", linewidth=1)
        ax.set_xticks(places, dates, rotation=0 if len(dates) < 4 else 45)
        ax.set_xlim(places[0] - 0.5 * step, places[-1] + 0.5 * step)
        ax.set(title=plain(area), ylim=(0, None))
        sns.despine(ax=ax)
    axes[0, 0].set_ylabel("mapped glacier area (km²)")
    handles = [Line2D([], [], color=c, marker="o", label=plain(m)) for m, c in colours.items()]
    if known:
        handles.append(Line2D([], [], color="0.3", linestyle="--", label="truth"))
    _legend(figure, handles)
    return figure


def cause_maps(
    causes: Mapping[str, np.ndarray],
    changes: Mapping[str, np.ndarray],
    bounds: Mapping[str, style_module.Bounds],
    **kwargs,
) -> Figure:
    """Show where the maps of two dates differ, in the colour of the cause.

    Args:
        causes: title -> codes of ``transition.causes``.
        changes: the same titles -> codes of ``transition.transition``, for what is unknown.
        bounds: the same titles -> (xmin, ymin, xmax, ymax) in m.
        kwargs: of ``style.code_maps``.
    """
    shown = {
        title: np.where(changes[title] == 255, 255, codes).astype(np.uint8)
        for title, codes in causes.items()
    }
    present = [code for code in CAUSES if any((codes == code).any() for codes in shown.values())]
    names = ["mapped alike", *(CAUSES[code] for code in present), "unknown"]
    colours = {name: CAUSE_COLOURS[name] for name in names}
    return style_module.code_maps(shown, bounds, colours, (NO_CAUSE, *present, 255), **kwargs)


def cause_bars(table: pd.DataFrame) -> Figure:
    """Show what changed by cause: for each area what was lost to the left, gained to the right.

    Args:
        table: of ``series.explain_all``: area, direction, cause, area_km2.
    """
    areas = list(dict.fromkeys(table["area"]))
    figure, ax = plt.subplots(figsize=(8, 0.6 * len(areas) + 1.5), layout="constrained")
    for direction, sign in (("lost", -1), ("gained", 1)):
        left = np.zeros(len(areas))
        own = table[table["direction"] == direction]
        wide = own.pivot(index="area", columns="cause", values="area_km2").reindex(areas)
        # Away from zero: the rest lies outermost.
        for cause in CAUSES.values():
            values = sign * wide[cause].fillna(0).to_numpy()
            style = {"color": CAUSE_COLOURS[cause], "edgecolor": "white"}
            there = table.loc[table["cause"] == cause, "area_km2"].sum() > 0
            label = cause if sign < 0 and there else None
            ax.barh([plain(area) for area in areas], values, left=left, label=label, **style)
            left += values
    ax.axvline(0, color="0.2", linewidth=0.8)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    ax.set_xlabel("mapped on the first date only  ←  area (km²)  →  mapped on the last date only")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    sns.despine(ax=ax, left=True)
    return figure


def glacier_changes(table: pd.DataFrame, *, most: int = 30) -> Figure:
    """Show the change of each glacier with its interval, the largest glaciers on top.

    Args:
        table: of ``series.glacier_table``, one model and one date.
        most: as many glaciers an area are drawn.
    """
    areas = list(dict.fromkeys(table["area"]))
    parts = {
        area: table[table["area"] == area].nlargest(most, "reference_km2", keep="first")
        for area in areas
    }
    rows = max(len(part) for part in parts.values())
    figure, axes = plt.subplots(
        1,
        len(areas),
        figsize=(5.2 * len(areas), 0.2 * rows + 1.5),
        squeeze=False,
        layout="constrained",
    )
    for ax, (area, own) in zip(axes[0], parts.items(), strict=True):
        heights = np.arange(len(own))
        colours = ["#d55e00" if changed else "#0072b2" for changed in own["changed"]]
        ax.hlines(heights, own["change_low"], own["change_high"], colors=colours)
        ax.scatter(own["change_km2"], heights, c=colours, s=14, zorder=3)
        names = own["name"].where(own["name"].astype(bool), own["glacier_id"])
        labels = [
            f"{plain(name)}, {size:.2f}"
            for name, size in zip(names, own["reference_km2"], strict=True)
        ]
        ax.set_yticks(heights, labels, fontsize=7)
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.invert_yaxis()
        shown = f", {int(own['changed'].sum())} of {len(own)} beyond their interval"
        ax.set_title(plain(area) + shown, fontsize=10)
        ax.set_xlabel("change of mapped area (km²), 95 % interval")
        sns.despine(ax=ax)
    axes[0, 0].set_ylabel("glacier, area of the label (km²)")
    return figure


def robustness_matrix(table: pd.DataFrame, *, reference: str) -> Figure:
    """Show the IoU of every model (rows) on every area and date (columns) with its interval.

    Args:
        table: of ``series.robustness``.
        reference: which of its references is shown.
    """
    own = table[table["reference"] == reference]
    own = own.assign(where=(own["area"] + "\n" + own["date"]).map(plain))
    models, places = (list(dict.fromkeys(own[name])) for name in ("model", "where"))
    wide, low, high = (
        own.pivot(index="model", columns="where", values=name).loc[models, places]
        for name in ("iou", "iou_low", "iou_high")
    )
    text = [
        [f"{wide.loc[m, p]:.2f}\n{low.loc[m, p]:.2f} to {high.loc[m, p]:.2f}" for p in places]
        for m in models
    ]
    figure, ax = plt.subplots(
        figsize=(1.35 * len(places) + 3.4, 0.75 * len(models) + 1.7), layout="constrained"
    )
    bar = {"label": f"IoU by the {reference} (1)"}
    wide.index = [plain(name) for name in models]
    sns.heatmap(wide, annot=np.array(text), fmt="", cmap="crest", cbar_kws=bar, ax=ax)
    ax.set(xlabel="tested on", ylabel="trained on")
    ax.tick_params(axis="y", rotation=0)
    return figure


def false_change(table: pd.DataFrame) -> Figure:
    """Show which share of unchanged ground is mapped differently on two dates, with intervals.

    Args:
        table: of ``series.steadiness``.
    """
    table = table.assign(pair=table["before"] + " to " + table["after"])
    cases = list(dict.fromkeys(zip(table["area"], table["pair"], strict=True)))
    grounds = list(dict.fromkeys(table["ground"]))
    colours = palette(list(dict.fromkeys(table["model"])))
    figure, axes = plt.subplots(
        1,
        len(cases),
        figsize=(3.6 * len(cases) + 1.4, 0.55 * len(grounds) + 1.8),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for ax, (area, pair) in zip(axes[0], cases, strict=True):
        for shift, (model, colour) in zip(_spread(len(colours)), colours.items(), strict=True):
            here = (table["area"] == area) & (table["pair"] == pair)
            own = table[here & (table["model"] == model)]
            heights = [grounds.index(name) + shift for name in own["ground"]]
            ends = [own["same_high"] - own["same"], own["same"] - own["same_low"]]
            ax.errorbar(
                100 * own["changed"],
                heights,
                xerr=100 * np.nan_to_num(np.clip(ends, 0, None)),
                fmt="o",
                color=colour,
                capsize=3,
            )
        ax.set_title(f"{plain(area)}, {pair}", fontsize=10)
        ax.set(xlabel="mapped differently (% of the ground)", xlim=(0, None))
        sns.despine(ax=ax)
    axes[0, 0].set_yticks(range(len(grounds)), grounds)
    axes[0, 0].set_ylim(len(grounds) - 0.5, -0.5)
    handles = [Line2D([], [], color=c, marker="o", label=plain(m)) for m, c in colours.items()]
    _legend(figure, handles)
    return figure


def prices(table: pd.DataFrame, *, reference: str) -> Figure:
    """Show what other dates of training cost or gain, with the line of no difference.

    Args:
        table: of ``series.price``.
        reference: which of its references is shown.
    """
    own = table[table["reference"] == reference]
    places = list(dict.fromkeys(own["area"] + ", " + own["date"]))
    colours = palette(list(dict.fromkeys(own["model"])))
    figure, ax = plt.subplots(figsize=(7.5, 0.55 * len(places) + 1.7), layout="constrained")
    for shift, (model, colour) in zip(_spread(len(colours)), colours.items(), strict=True):
        rows = own[own["model"] == model]
        heights = [places.index(f"{row.area}, {row.date}") + shift for row in rows.itertuples()]
        ends = [rows["difference"] - rows["low"], rows["high"] - rows["difference"]]
        ax.errorbar(rows["difference"], heights, xerr=ends, fmt="o", color=colour, capsize=3)
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set_yticks(range(len(places)), [plain(place) for place in places])
    ax.set_ylim(len(places) - 0.5, -0.5)
    against = plain(own["against"].iloc[0]) if len(own) else ""
    ax.set_xlabel(f"difference of IoU from {against} (1), 95 % interval\nby the {reference}")
    handles = [Line2D([], [], color=c, marker="o", label=plain(m)) for m, c in colours.items()]
    _legend(figure, handles)
    _note_sides(ax)
    sns.despine(ax=ax)
    return figure


def _note_sides(ax: Axes) -> None:
    for x, text, side in ((0.0, "worse", "left"), (1.0, "better", "right")):
        ax.text(x, 1.01, text, transform=ax.transAxes, ha=side, fontsize=8, color="0.4")


def _spread(count: int) -> Sequence[float]:
    return np.linspace(-0.15, 0.15, count) if count > 1 else [0.0]


def _legend(figure: Figure, handles: list) -> None:
    if handles:
        columns = min(2, len(handles))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
