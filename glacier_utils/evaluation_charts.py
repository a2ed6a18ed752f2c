"""Graphs of how sure a score is and of what a probability is worth."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from glacier_utils import calibration
from glacier_utils.blocks import LEVEL, correlation_length
from glacier_utils.charts import palette, plain

STAGE_COLOURS = {"before": "#d55e00", "after": "#0072b2"}


def reliability(
    histograms: Mapping[str, Mapping[str, calibration.Histograms]], *, bins: int = 15
) -> Figure:
    """Show what share of the pixels is glacier, by the probability stated, and how many there are.

    Args:
        histograms: model -> stage (``before``, ``after`` of temperature scaling) -> histograms.
        bins: classes of equal width; the expected calibration error in the legend is over them.
    """
    columns = min(3, len(histograms))
    rows = -(-len(histograms) // columns)
    figure, axes = plt.subplots(
        2 * rows,
        columns,
        figsize=(3.4 * columns + 0.6, 4.2 * rows),
        height_ratios=[3, 1] * rows,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.set_visible(False)
    for number, (name, stages) in enumerate(histograms.items()):
        row, column = divmod(number, columns)
        upper, lower = axes[2 * row, column], axes[2 * row + 1, column]
        upper.plot([0, 1], [0, 1], color="0.6", linewidth=0.9)
        edges = np.linspace(0, 1, bins + 1)
        for stage, pair in stages.items():
            table = calibration.reliability(*pair, bins=bins)
            error = calibration.calibration_scores(*pair, bins=bins)["ece"]
            colour = STAGE_COLOURS[stage]
            label = f"{stage}, ECE {error:.3f}"
            upper.plot(table["probability"], table["share"], "o-", color=colour, label=label,
                       markersize=4, linewidth=1.2)  # fmt: skip
            counts = np.add.reduceat(sum(pair), np.arange(bins) * len(pair[0]) // bins)
            # A logarithm has no zero: what is rarer lies below the axis.
            lower.stairs(
                np.maximum(counts / max(counts.sum(), 1), 1e-4), edges, color=colour, linewidth=1.2
            )
        upper.set(title=plain(name), xlim=(0, 1), ylim=(0, 1))
        upper.legend(frameon=False, fontsize=8, loc="upper left")
        lower.set(yscale="log", ylim=(1e-3, 1), xlabel="probability of glacier (1)")
        if column == 0:
            upper.set_ylabel("share that is glacier (1)")
            lower.set_ylabel("share of pixels")
        for ax in (upper, lower):
            ax.set_visible(True)
            ax.tick_params(labelbottom=ax is lower)
            sns.despine(ax=ax)
    return figure


def risk_coverage(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Show error and IoU of the surest pixels, by the share of pixels kept.

    Args:
        curves: model -> `calibration.risk_coverage`. The area under the left curve stands in the
            legend (AURC). Drawn from 20 % on: a model's surest pixels are often of one class, whose
            IoU says nothing.
    """
    colours = palette(list(curves))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9), layout="constrained")
    for name, curve in curves.items():
        label = f"{plain(name)}, AURC {calibration.area_under_risk(curve):.3f}"
        curve = curve[curve["coverage"] >= 0.2]
        share = 100 * curve["coverage"]
        left.plot(share, 100 * curve["risk"], color=colours[name], label=label)
        right.plot(share, curve["iou"], color=colours[name])
    left.set(ylabel="pixels in error (%)", ylim=(0, None))
    right.set(ylabel="IoU of the pixels kept (1)", ylim=(None, 1))
    for ax in (left, right):
        ax.set(xlabel="surest pixels kept (%)", xlim=(20, 100))
        ax.grid(alpha=0.3)
        sns.despine(ax=ax)
    left.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def correlograms(curves: Mapping[str, pd.DataFrame], side_m: float | None = None) -> Figure:
    """Show how alike errors are by their distance, and the side of the blocks beside it.

    Args:
        curves: model -> `blocks.correlogram`; dots mark the correlation length.
        side_m: of the blocks.
    """
    colours = palette(list(curves))
    figure, ax = plt.subplots(figsize=(7.6, 3.9), layout="constrained")
    for name, curve in curves.items():
        shown = curve["distance_m"] > 0  # a logarithm has no zero
        length = correlation_length(curve)
        text = f"{length / 1000:.1f} km" if np.isfinite(length) else "not found"
        ax.plot(
            curve["distance_m"][shown] / 1000,
            curve["correlation"][shown],
            color=colours[name],
            label=f"{plain(name)}, {text}",
        )
        ax.plot(length / 1000, LEVEL, "o", color=colours[name], clip_on=False)
    ax.axhline(LEVEL, color="0.4", linewidth=0.8, linestyle=":")
    ax.axhline(0, color="0.4", linewidth=0.8)
    if side_m is not None:
        ax.axvline(side_m / 1000, color="black", linewidth=1.2, linestyle="--",
                   label=f"side of the blocks, {side_m / 1000:.1f} km")  # fmt: skip
    ax.set(
        xscale="log",
        xlabel="distance (km)",
        ylabel="correlation of errors (1)",
        ylim=(None, 1),
    )
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(title=f"falls below {LEVEL:g} at", frameon=False, fontsize=8,
              loc="upper left", bbox_to_anchor=(1.0, 1.0))  # fmt: skip
    sns.despine(ax=ax)
    return figure


def ranking(table: pd.DataFrame, *, score: str = "iou", label: str = "IoU (1)") -> Figure:
    """Show the models from best to worst, with their intervals and the ranks they may have.

    Args:
        table: of `intervals.ranking`: model, ``score``, low, high, rank.
    """
    figure, ax = plt.subplots(figsize=(7.5, 0.5 * len(table) + 1.2), layout="constrained")
    places = np.arange(len(table))
    spread = np.abs(table[["low", "high"]].to_numpy().T - table[score].to_numpy())
    ax.errorbar(table[score], places, xerr=spread, fmt="o", color="#0072b2", capsize=3)
    for place, rank in zip(places, table["rank"], strict=True):
        ax.text(1.01, place, f"rank {rank}", transform=ax.get_yaxis_transform(), va="center",
                fontsize=9)  # fmt: skip
    ax.set_yticks(places, [plain(name) for name in table["model"]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(f"{label}, with 95 % interval; ranks by paired differences")
    ax.grid(axis="x", alpha=0.3)
    sns.despine(ax=ax)
    return figure


def coverage(tables: Mapping[str, pd.DataFrame], *, level: float = 0.95) -> Figure:
    """Show how often intervals hold the truth, a row a trial, a colour a kind of interval.

    Args:
        tables: trial -> `coverage.coverage`.
    """
    methods = list(dict.fromkeys(m for table in tables.values() for m in table["method"]))
    colours = palette(methods)
    figure, ax = plt.subplots(figsize=(7.5, 0.5 * len(tables) + 1.3), layout="constrained")
    for shift, method in zip(np.linspace(-0.12, 0.12, len(methods)), methods, strict=True):
        rows = [
            (place + shift * (len(methods) > 1), row)
            for place, table in enumerate(tables.values())
            for _, row in table[table["method"] == method].iterrows()
        ]
        values = 100 * np.array([row["coverage"] for _, row in rows], float)
        ends = 100 * np.array([[row["low"], row["high"]] for _, row in rows], float).T
        ax.errorbar(values, [place for place, _ in rows], xerr=np.abs(ends - values), fmt="o",
                    color=colours[method], capsize=3, label=method)  # fmt: skip
    ax.axvline(100 * level, color="0.4", linewidth=0.9, linestyle=":")
    ax.set_yticks(range(len(tables)), [plain(name) for name in tables])
    ax.set_ylim(len(tables) - 0.5, -0.5)
    ax.set_xlabel(f"intervals of {100 * level:.0f} % that hold the truth (%)")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    sns.despine(ax=ax)
    return figure
