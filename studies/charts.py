"""Figures of the study: what helped, and whether its order holds elsewhere."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

VERDICT_COLOURS = {"helps": "#009e73", "not distinguishable": "#7f7f7f", "harms": "#d55e00",
                   "base": "#0072b2"}  # fmt: skip
_ROW = 0.24  # inches a trial


def gains(table: pd.DataFrame, *, reference: str = "truth") -> Figure:
    """Show the difference of every trial to the mean of the base networks, by group.

    The base networks stand among them: how far they lie apart is what a seed alone does.

    Args:
        table: of ``evidence.table``.
        reference: what the scores are measured against.
    """
    table = table[table["reference"] == reference]
    table = table.assign(
        group=table["group"].where(table["verdict"] != "base", "base, three seeds")
    )
    groups = list(dict.fromkeys(table["group"]))
    sizes = [int((table["group"] == group).sum()) for group in groups]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(8.2, _ROW * sum(sizes) + 0.22 * len(groups) + 1.3), sharex=True,
        squeeze=False, layout="constrained",
        gridspec_kw={"height_ratios": [size + 0.6 for size in sizes]},
    )  # fmt: skip
    for ax, group in zip(axes[:, 0], groups, strict=True):
        rows = table[table["group"] == group].sort_values("difference", kind="stable")
        for place, row in enumerate(rows.itertuples()):
            colour = VERDICT_COLOURS[row.verdict]
            ax.plot([row.low, row.high], [place, place], color=colour, linewidth=4, alpha=0.45,
                    solid_capstyle="butt")  # fmt: skip
            ax.plot([row.least, row.largest], [place, place], "|", color=colour, markersize=9)
            ax.plot(row.difference, place, "o", color=colour, markersize=5)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_yticks(range(len(rows)), rows["trial"], fontsize=9)
        ax.set_ylim(-0.7, len(rows) - 0.3)
        ax.set_title(group, fontsize=9.5, loc="left", pad=2)
        ax.grid(axis="x", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel(f"difference of test IoU to the base, measured against {reference}")
    handles = [
        Line2D([], [], color=colour, marker="o", linewidth=4, alpha=0.7, label=verdict)
        for verdict, colour in VERDICT_COLOURS.items()
    ]
    handles.append(
        Line2D([], [], color="black", marker="|", linestyle="", label="least, largest landscape")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def order(here: pd.DataFrame, there: pd.DataFrame, *, names: tuple[str, str]) -> Figure:
    """Show the order of trials by their scores in two tables, models and strategies apart.

    Lines that cross are pairs that change places. The base stands among the strategies too.

    Args:
        here, there: of ``evidence.table``, one reference each.
        names: of the two, written above their columns.
    """
    joined = here.merge(there, on="trial", suffixes=("", "_there"))
    joined = joined[joined["group"] != "seeds"]
    models = joined["group"].isin(["baseline", "network"])
    parts = {
        "models": joined[models],
        "strategies": joined[~models | (joined["verdict"] == "base")],
    }
    rows = max(len(part) for part in parts.values())
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 0.24 * rows + 1.0), layout="constrained")
    for ax, (title, part) in zip(axes, parts.items(), strict=True):
        _ranks(ax, part, names)
        ax.set_title(title, fontsize=10)
        ax.set_ylim(rows + 0.5, -0.6)
    return figure


def _ranks(ax: plt.Axes, part: pd.DataFrame, names: tuple[str, str]) -> None:
    places = {
        side: part[column].rank(ascending=False, method="first")
        for side, column in (("left", "iou"), ("right", "iou_there"))
    }
    for number, row in enumerate(part.itertuples()):
        one, other = places["left"].iloc[number], places["right"].iloc[number]
        base = row.verdict == "base"
        ax.plot([0, 1], [one, other], "o-", markersize=4, linewidth=2.2 if base else 1.2,
                color="#0072b2" if base else "#7f7f7f")  # fmt: skip
        style = {"fontsize": 8.5, "va": "center", "weight": "bold" if base else "normal"}
        ax.text(-0.05, one, f"{row.trial}  {row.iou:.3f}", ha="right", **style)
        ax.text(1.05, other, f"{row.iou_there:.3f}  {row.trial}", ha="left", **style)
    for place, name in zip((0, 1), names, strict=True):
        ax.text(place, 0.1, name, ha="center", va="center", fontsize=9)
    ax.set_xlim(-1.5, 2.5)
    ax.set_axis_off()
