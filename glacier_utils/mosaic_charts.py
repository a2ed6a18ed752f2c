"""Graphs of seams and of clean-up. Tables in, a Matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from glacier_utils.charts import palette, plain

MOST_CELLS = 12


def error_by_distance(
    curves: Mapping[str, pd.DataFrame],
    gain: pd.DataFrame | None = None,
    *,
    resolution_m: float | None = None,
) -> Figure:
    """Show error against the distance from the border of windows, with 95 % intervals.

    Args:
        curves: title -> table of ``seams.error_by_distance``, such as before and after.
        gain: of ``seams.gain_by_distance`` for the first two curves: a panel of its own.
        resolution_m: side of a pixel, for a second axis in metres.
    """
    colours = palette(list(curves))
    count = 2 if gain is None else 3
    figure, axes = plt.subplots(
        1, count, figsize=(8 if gain is None else 10.5, 3.9), layout="constrained"
    )
    panels = {"brier": ("Brier score (1)", 1), "wrong": ("pixels of the wrong class (%)", 100)}
    for ax, (error, (label, factor)) in zip(axes, panels.items(), strict=False):
        for name, curve in curves.items():
            low, high = (factor * curve[f"{error}_{end}"] for end in ("low", "high"))
            _curve(ax, curve["distance_px"], factor * curve[error], low, high, colours[name],
                   plain(name))  # fmt: skip
        ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
    if gain is not None:
        columns = (1000 * gain[name] for name in ("gain", "low", "high"))
        _curve(axes[2], gain["distance_px"], *columns, "0.25", "")
        axes[2].axhline(0, color="0.4", linewidth=0.8)
        one, other = [plain(name) for name in curves][:2]
        axes[2].set_ylabel(f"Brier score x 1000, {one}\nminus {other}", fontsize=9)
    for ax in axes:
        ax.set_xlabel("distance from patch border (px)")
        ax.grid(alpha=0.3)
        if resolution_m is not None:
            above = ax.secondary_xaxis(
                "top",
                functions=(lambda px: px * resolution_m, lambda metre: metre / resolution_m),
            )
            above.set_xlabel("distance (m)", fontsize=9)
            above.tick_params(labelsize=8)
        sns.despine(ax=ax)
    pixels = pd.concat([curve["pixels"] for curve in curves.values()])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(handles), frameon=False,
        title=f"bands: 95 % interval over blocks of ground; "
              f"{pixels.min():,} to {pixels.max():,} pixels a distance",
        title_fontsize=8,
    )  # fmt: skip
    return figure


def _curve(ax: Axes, x, middle, low, high, colour: str, label: str) -> None:
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, middle, "o-", color=colour, markersize=3, linewidth=1.2, label=label)


def window_effects(table: pd.DataFrame) -> Figure:
    """Show what window size and overlap do to error, seams and time, as four heat maps.

    Args:
        table: of ``seams.effect_of_windows``, at most 12 combinations of size and overlap.

    Raises:
        ValueError: more combinations than can be read.
    """
    shape = table["window_px"].nunique(), table["overlap_px"].nunique()
    if np.prod(shape) > MOST_CELLS:
        raise ValueError(f"{shape[0]} x {shape[1]} cells: at most {MOST_CELLS} can be read")
    most = 1000 * table["excess"].abs().max()
    most = most if most > 0 else 1.0
    panels = (
        ("iou", "IoU (1), higher is better", "{:.3f}", 1, {"cmap": "cividis"}),
        ("excess", "error that borders add beside them, with 95 %\ninterval (Brier score x 1000), "
         "0 is none", "{:+.1f}", 1000, {"cmap": "vlag", "vmin": -most, "vmax": most}),
        ("seam_jump", "jump across borders over that\nelsewhere (1), 1 is best", "{:.2f}", 1,
         {"cmap": "cividis_r"}),
        ("s_per_mpx", "time (s a million px),\nlower is better", "{:.2f}", 1,
         {"cmap": "cividis_r"}),
    )  # fmt: skip
    figure, axes = plt.subplots(
        2, 2, figsize=(10, 2 * (0.55 * shape[0] + 1.45)), layout="constrained"
    )
    keys = {"index": "window_px", "columns": "overlap_px"}
    tried = table.assign(there=True).pivot(values="there", **keys).notna()
    for ax, (column, title, form, factor, colours) in zip(axes.flat, panels, strict=True):
        wide = factor * table.pivot(values=column, **keys)
        text = table.assign(text=[_cell(row, column, form, factor) for _, row in table.iterrows()])
        said = text.pivot(values="text", **keys).where(tried, "–")
        ax.set_facecolor("#eeeeee")
        sns.heatmap(
            wide, annot=said.where(wide.notna(), ""), fmt="", cbar=False, ax=ax, linewidths=1.5,
            annot_kws={"fontsize": 9}, **colours,
        )  # fmt: skip
        for row, place in np.argwhere(wide.isna().to_numpy()):
            ax.text(place + 0.5, row + 0.5, said.iloc[row, place], ha="center", va="center",
                    fontsize=9, color="0.35")  # fmt: skip
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("overlap (px)", fontsize=9)
        ax.set_ylabel("window (px)", fontsize=9)
        ax.tick_params(axis="y", rotation=0)
    return figure


def _cell(row: pd.Series, column: str, form: str, factor: float) -> str:
    """Return the text of a cell: the number, and its interval where there is one."""
    if np.isnan(row[column]):
        return "no border"
    ends = [row.get(f"{column}_{end}", np.nan) for end in ("low", "high")]
    number, low, high = (_rounded(form, factor * value) for value in (row[column], *ends))
    return number if np.isnan(ends).any() else f"{number}\n{low} to {high}"


def _rounded(form: str, value: float) -> str:
    """Format a number; no minus before a zero."""
    said = form.format(value)
    return said.replace("-", "+") if float(said) == 0 else said


def cleanup_effects(table: pd.DataFrame) -> Figure:
    """Show what each choice of clean-up does to scores, boundary and regions, as dots.

    Args:
        table: a row a choice, the first one the map as it was, drawn as a line to compare with:
            choice, iou, precision, recall, boundary_median_m, area_km2, regions; also changed_px
            where there is one.
    """
    panels = {
        "score (1)": {"iou": "IoU", "precision": "precision", "recall": "recall"},
        "median distance of\nthe outlines (m)": {"boundary_median_m": ""},
        "mapped area (km²)": {"area_km2": ""},
        "regions": {"regions": ""},
        "pixels changed": {"changed_px": ""},
    }
    panels = {
        label: {name: text for name, text in columns.items() if name in table}
        for label, columns in panels.items()
    }
    panels = {label: columns for label, columns in panels.items() if columns}
    figure, axes = plt.subplots(
        1, len(panels), figsize=(10.5, 0.42 * len(table) + 1.7), sharey=True, squeeze=False,
        width_ratios=[1.7, *[1] * (len(panels) - 1)], layout="constrained",
    )  # fmt: skip
    y = np.arange(len(table))
    marks = {"iou": ("#0072b2", "o"), "precision": ("#d55e00", "^"), "recall": ("#009e73", "s")}
    for ax, (label, columns) in zip(axes[0], panels.items(), strict=True):
        for name, text in columns.items():
            colour, mark = marks.get(name, ("0.2", "o"))
            values = table[name].to_numpy(float)
            ax.axvline(values[0], color=colour, linewidth=0.8, linestyle=":")
            ax.plot(values, y, mark, color=colour, markersize=6, label=text)
        ax.set_xlabel(label, fontsize=9)
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.margins(x=0.14)
        ax.grid(axis="x", alpha=0.3)
        sns.despine(ax=ax)
    axes[0, 0].set_yticks(y, [plain(name) for name in table["choice"]], fontsize=9)
    axes[0, 0].set_ylim(len(table) - 0.5, -0.5)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False,
        fontsize=8, title="dotted: the map as it was", title_fontsize=8,
    )  # fmt: skip
    return figure
