"""Figures of the study: what helped, and whether its order holds elsewhere."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
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
        table: of ``study.table``.
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
        Line2D([], [], color="black", marker="|", linestyle="", label="least, largest world")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def order(here: pd.DataFrame, there: pd.DataFrame, *, names: tuple[str, str]) -> Figure:
    """Show the scores of trials in two tables against each other, models and strategies apart.

    Args:
        here, there: of ``study.table``, one reference each.
        names: of the two, for the axes.
    """
    joined = here.merge(there, on="trial", suffixes=("", "_there"))
    joined = joined[joined["group"] != "seeds"]
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.6), layout="constrained")
    models = joined["group"].isin(["baseline", "network"])
    for ax, chosen, title in ((axes[0], models, "models"), (axes[1], ~models, "strategies")):
        part = joined[chosen]
        ax.plot(part["iou"], part["iou_there"], "o", color="#0072b2", markersize=5)
        _label(ax, part)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(f"IoU, {names[0]}")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.18, y=0.08)
    axes[0].set_ylabel(f"IoU, {names[1]}")
    return figure


def _label(ax: plt.Axes, part: pd.DataFrame) -> None:
    """Write names beside points, left and right in turn, so that fewer lie on each other."""
    ordered = part.sort_values("iou_there", kind="stable")
    for number, row in enumerate(ordered.itertuples()):
        right = bool(np.mod(number, 2))
        ax.annotate(
            row.trial, (row.iou, row.iou_there), xytext=(6 if right else -6, 0),
            textcoords="offset points", fontsize=7.5, va="center",
            ha="left" if right else "right",
        )  # fmt: skip
