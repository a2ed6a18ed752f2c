"""Graphs: figures without a place in them. Tables in, a Matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from glacier_utils.plotting.style import escape_math, palette

BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
"""Where a legend stands to the right of its axes."""


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
