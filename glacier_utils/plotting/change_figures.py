"""Figures of the temporal comparison. Tables or maps in, a Matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from glacier_utils.change.transition import CAUSES, NO_CAUSE
from glacier_utils.conventions import UNKNOWN
from glacier_utils.plotting.charts import BESIDE, interval_dots
from glacier_utils.plotting.maps import Bounds, code_maps
from glacier_utils.plotting.style import escape_math, graphs, legend_below, model_lines, palette

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
_MOST_GLACIERS = 30  # drawn per area


def area_series(table: pd.DataFrame, known: Mapping[str, float] | None = None) -> Figure:
    """Show the mapped area over time with its intervals, a panel per area, a colour per model.

    The thin bar is the whole interval, the thick one the outline's part of it (buffer method).
    Dates are set at their place in time where they can be read as such.

    Args:
        table: of `series.area_table`, any number of dates.
        known: area -> true area in km2, drawn as a line.

    Returns:
        The figure.
    """
    areas = list(dict.fromkeys(table["area"]))
    colours = palette(list(dict.fromkeys(table["model"])))
    dates = sorted(set(table["date"]))
    days = pd.to_datetime(pd.Series(dates), format="ISO8601", errors="coerce")
    timed = bool(days.notna().all())
    places = mdates.date2num(days) if timed else np.arange(len(dates))
    step = np.diff(places).min() if len(places) > 1 else 1.0
    figure, axes = graphs(len(areas), (3.4, 4.2), (1.2, 0))
    shifts = np.linspace(-0.15, 0.15, len(colours)) if len(colours) > 1 else [0.0]
    for ax, area in zip(axes, areas, strict=True):
        for shift, (model, colour) in zip(shifts, colours.items(), strict=True):
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
        ax.set(title=escape_math(area), ylim=(0, None))
    axes[0].set_ylabel("mapped glacier area (km²)")
    truth = [Line2D([], [], color="0.3", linestyle="--", label="truth")] if known else []
    legend_below(figure, [*model_lines(colours), *truth], columns=2)
    return figure


def cause_maps(
    causes: Mapping[str, np.ndarray],
    changes: Mapping[str, np.ndarray],
    bounds: Mapping[str, Bounds],
) -> Figure:
    """Show where the maps of two dates differ, in the colour of the cause.

    Args:
        causes: title -> codes of `transition.causes`.
        changes: the same titles -> codes of `transition.transition`, for what is unknown.
        bounds: the same titles -> (xmin, ymin, xmax, ymax) in m.

    Returns:
        The figure.
    """
    shown = {
        title: np.where(changes[title] == UNKNOWN, UNKNOWN, codes).astype(np.uint8)
        for title, codes in causes.items()
    }
    present = [code for code in CAUSES if any((codes == code).any() for codes in shown.values())]
    names = ["mapped alike", *(CAUSES[code] for code in present), "unknown"]
    colours = {name: CAUSE_COLOURS[name] for name in names}
    return code_maps(shown, bounds, colours, (NO_CAUSE, *present, UNKNOWN))


def cause_bars(table: pd.DataFrame) -> Figure:
    """Show what changed by cause: for each area what was lost to the left, gained to the right.

    Args:
        table: of `series.explain`: area, direction, cause, area_km2.

    Returns:
        The figure.
    """
    areas = list(dict.fromkeys(table["area"]))
    figure, (ax,) = graphs(1, (8, 0.6 * len(areas) + 1.5))
    there = table.groupby("cause")["area_km2"].sum() > 0
    for direction, sign in (("lost", -1), ("gained", 1)):
        own = table[table["direction"] == direction]
        wide = own.pivot(index="area", columns="cause", values="area_km2").loc[areas]
        # Away from zero: the rest lies outermost.
        wide = sign * wide[list(CAUSES.values())].rename(index=escape_math)
        wide.plot.barh(ax=ax, stacked=True, color=CAUSE_COLOURS, edgecolor="white", width=0.8,
                        legend=False)  # fmt: skip
    ax.axvline(0, color="0.2", linewidth=0.8)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    ax.set_xlabel("mapped on the first date only  ←  area (km²)  →  mapped on the last date only")
    ax.set_ylabel("")
    handles = [
        Patch(color=CAUSE_COLOURS[cause], label=cause) for cause in CAUSES.values() if there[cause]
    ]
    if handles:
        ax.legend(handles=handles, fontsize=8, **BESIDE)
    ax.spines["left"].set_visible(False)
    return figure


def robustness_matrix(table: pd.DataFrame, *, reference: str) -> Figure:
    """Show the IoU of every model (rows) on every area and date (columns) with its interval.

    Args:
        table: of `series.robustness`.
        reference: which of its references is shown.

    Returns:
        The figure.
    """
    own = table[table["reference"] == reference]
    own = own.assign(
        where=(own["area"] + "\n" + own["date"]).map(escape_math),
        text=[f"{r.iou:.2f}\n{r.iou_low:.2f} to {r.iou_high:.2f}" for r in own.itertuples()],
    )
    models, places = (list(dict.fromkeys(own[name])) for name in ("model", "where"))
    wide, text = (
        own.pivot(index="model", columns="where", values=name).loc[models, places]
        for name in ("iou", "text")
    )
    figure, ax = plt.subplots(
        figsize=(1.35 * len(places) + 3.4, 0.75 * len(models) + 1.7), layout="constrained"
    )
    bar = {"label": f"IoU against the {reference}"}
    wide.index = [escape_math(name) for name in models]
    sns.heatmap(wide, annot=text, fmt="", cmap="crest", cbar_kws=bar, ax=ax)
    ax.set(xlabel="tested on", ylabel="trained on")
    ax.tick_params(axis="y", rotation=0)
    return figure


def false_change(table: pd.DataFrame) -> Figure:
    """Show which part of unchanged ground is mapped differently on two dates, with intervals.

    Args:
        table: of `series.repeatability`.

    Returns:
        The figure.
    """
    table = table.assign(
        pair=table["before"] + " to " + table["after"],
        low=table["changed"] + table["same"] - table["same_high"],
        high=table["changed"] + table["same"] - table["same_low"],
    )
    cases = list(dict.fromkeys(zip(table["area"], table["pair"], strict=True)))
    grounds = list(dict.fromkeys(table["ground"]))
    colours = palette(list(dict.fromkeys(table["model"])))
    size = (3.6, 0.55 * len(grounds) + 1.8)
    figure, axes = graphs(len(cases), size, (1.4, 0), sharey=True)
    for ax, (area, pair) in zip(axes, cases, strict=True):
        own = table[(table["area"] == area) & (table["pair"] == pair)]
        interval_dots(ax, own, "ground", ("changed", "low", "high"), rows=grounds, group="model",
                      colours=colours, scale=100)  # fmt: skip
        ax.set_title(f"{escape_math(area)}, {pair}", fontsize=10)
        ax.set(xlabel="mapped differently (% of the ground)", xlim=(0, None))
    legend_below(figure, model_lines(colours), columns=2)
    return figure
