"""Graphs: figures without a place in them. Tables in, a Matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from glacier_utils.plotting.style import escape_math, graphs, palette

BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
"""Where a legend stands to the right of its axes."""
_FAR_APART = 30  # largest over smallest loss


def interval_dots(
    ax: Axes,
    table: pd.DataFrame,
    row: str,
    values: tuple[str, str, str],
    *,
    rows: Sequence[str] | None = None,
    group: str | None = None,
    colours: Mapping[Any, str] | None = None,
    scale: float = 1.0,
) -> None:
    """Draw values with their intervals as dots, a line per name, from top to bottom.

    Args:
        ax: the axes.
        table: a row per dot; an interval that is nan is not drawn.
        row: the column whose values name the lines.
        values: the columns of the value and of the ends of its interval.
        rows: names of the lines from the top; default those of the table in their order.
        group: the column that gives the colour; dots of one line stand a little apart.
        colours: value of ``group`` -> colour, the only key being None without a ``group``; default
            `style.palette`.
        scale: factor of what is drawn, such as 100 for per cent.
    """
    rows = list(dict.fromkeys(table[row])) if rows is None else list(rows)
    if colours is None:
        colours = palette(list(dict.fromkeys(table[group])) if group else [None])
    parts = {name: table[table[group] == name] if group else table for name in colours}
    shifts = np.linspace(-0.15, 0.15, len(parts)) if len(parts) > 1 else [0.0]
    for shift, (name, part) in zip(shifts, parts.items(), strict=True):
        middle, low, high = (scale * part[column].to_numpy(float) for column in values)
        ax.errorbar(
            middle,
            [rows.index(value) + shift for value in part[row]],
            xerr=np.abs([low - middle, high - middle]),
            fmt="o",
            color=colours[name],
            capsize=3,
            label=None if name is None else escape_math(name),
        )
    ax.set_yticks(range(len(rows)), [escape_math(name) for name in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)


def learning_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Show loss and validation IoU over the steps; losses far apart on a logarithmic axis.

    Args:
        histories: model -> history with step, train_loss, validation_loss, validation_iou.

    Returns:
        The figure.
    """
    colours = palette(list(histories))
    figure, (left, right) = graphs(2, (5, 3.8))
    for name, history in histories.items():
        left.plot(history["step"], history["train_loss"], "--", color=colours[name], linewidth=1)
        left.plot(history["step"], history["validation_loss"], color=colours[name], label=name)
        right.plot(history["step"], history["validation_iou"], color=colours[name], label=name)
        known = history.dropna(subset=["validation_iou"])
        if len(known):  # no IoU where validation holds no glacier
            best = known.loc[known["validation_iou"].idxmax()]
            right.plot(best["step"], best["validation_iou"], "o", color=colours[name])
    left.set(xlabel="step", ylabel="loss", title="loss: validation solid, training dashed")
    # Running statistics of normalisation start far off: a first validation loss of 80 would leave
    # nothing to see of all others.
    losses = pd.concat(histories.values())[["train_loss", "validation_loss"]].to_numpy(float)
    least, most = np.nanmin(losses, initial=np.inf), np.nanmax(losses, initial=0)
    if 0 < _FAR_APART * least < most:
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter(NullFormatter())
    right.set(xlabel="step", ylabel="IoU", title="validation IoU, the kept state marked")
    right.legend(frameon=False, fontsize=9)
    return figure


def score_intervals(table: pd.DataFrame, *, label: str = "IoU") -> Figure:
    """Show the IoU per model with its interval, a dot per reference.

    Args:
        table: model, reference, iou, iou_low, iou_high.
        label: of the axis.

    Returns:
        The figure.
    """
    figure, (ax,) = graphs(1, (7.5, 0.55 * table["model"].nunique() + 1.3))
    interval_dots(ax, table, "model", ("iou", "iou_low", "iou_high"), group="reference")
    ax.set_xlabel(f"{label}, with 95 % interval")
    ax.grid(axis="x", alpha=0.3)
    ax.legend(title="reference", **BESIDE)
    return figure


def differences(table: pd.DataFrame) -> Figure:
    """Show paired differences of the IoU, a line per pair of models, beside that of none.

    Args:
        table: of `comparison.differences`: model, against, reference, difference, low, high.

    Returns:
        The figure.
    """
    pairs = table.assign(model=table["model"] + " − " + table["against"])
    names = {"difference": "iou", "low": "iou_low", "high": "iou_high"}
    figure = score_intervals(pairs.rename(columns=names), label="difference of IoU")
    figure.axes[0].axvline(0, color="0.4", linewidth=0.8)
    return figure
