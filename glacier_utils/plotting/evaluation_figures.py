"""Figures of the evaluation: calibration, intervals, single glaciers, labels, seams, clean-up.

Tables in, a Matplotlib figure out.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from glacier_utils.evaluation import calibration
from glacier_utils.evaluation.per_glacier import NONE
from glacier_utils.plotting.charts import BESIDE, interval_dots
from glacier_utils.plotting.style import escape_math, graphs, palette

_CLASSES = 15  # of a probability
STAGE_COLOURS = {"before": "#d55e00", "after": "#0072b2"}


def reliability(histograms: Mapping[str, Mapping[str, calibration.Histograms]]) -> Figure:
    """Show which fraction of the pixels is glacier, by the probability stated, and how many.

    The expected calibration error in the legend is over the 15 classes of equal width that are
    drawn.

    Args:
        histograms: model -> stage (``before``, ``after`` of temperature scaling) -> histograms.

    Returns:
        The figure.
    """
    columns = min(3, len(histograms))
    rows = -(-len(histograms) // columns)
    figure = plt.figure(figsize=(3.6 * columns, 4.2 * rows), layout="constrained")
    places = figure.subfigures(rows, columns, squeeze=False).flat
    edges = np.linspace(0, 1, _CLASSES + 1)
    for place, (name, stages) in zip(places, histograms.items(), strict=False):
        upper, lower = place.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], color="0.6", linewidth=0.9)
        for stage, pair in stages.items():
            table = calibration.reliability(*pair, bins=_CLASSES)
            error = calibration.calibration_scores(*pair, bins=_CLASSES)["ece"]
            colour = STAGE_COLOURS[stage]
            label = f"{stage}, ECE {error:.3f}"
            upper.plot(table["probability"], table["share"], "o-", color=colour, label=label,
                       markersize=4, linewidth=1.2)  # fmt: skip
            counts = np.add.reduceat(sum(pair), np.arange(_CLASSES) * len(pair[0]) // _CLASSES)
            # A logarithm has no zero: what is rarer lies below the axis.
            lower.stairs(
                np.maximum(counts / max(counts.sum(), 1), 1e-4), edges, color=colour, linewidth=1.2
            )
        upper.set(title=escape_math(name), xlim=(0, 1), ylim=(0, 1))
        upper.set_ylabel("fraction that is glacier")
        upper.legend(frameon=False, fontsize=8, loc="upper left")
        lower.set(yscale="log", ylim=(1e-3, 1), ylabel="fraction\nof pixels")
        lower.set_xlabel("probability of glacier")
    return figure


def areas(table: pd.DataFrame) -> Figure:
    """Show the predicted against the reference's area of each glacier, a panel per model.

    Args:
        table: of `per_glacier.scores_per_glacier`, against one reference. The bars are the area
            with the outline moved by one pixel, and along the axis of the reference its outline's
            own uncertainty. A dot on the axis: next to nothing of the glacier was found.

    Returns:
        The figure.

    Raises:
        ValueError: the reference holds no glacier.
    """
    own = table[(table["glacier_id"] != NONE) & (table["area_km2"] > 0)]
    if own.empty:
        raise ValueError("there is no glacier to show")
    models = list(dict.fromkeys(own["model"]))
    # A glacier of which next to nothing was found has no place but the axis itself.
    low = 0.3 * own["area_km2"].min()
    high = 1.6 * max(own["area_km2"].max(), own["predicted_km2"].max())
    figure, axes = graphs(len(models), (3.1, 3.1), (0.6, 0.5), columns=3)
    colours = {False: "#0072b2", True: "#e69f00"}
    limits = 0.8 * low, high
    for ax, model in zip(axes, models, strict=True):
        rows = own[own["model"] == model]
        ax.plot([low, high], [low, high], color="0.4", linewidth=0.8)
        for cut, colour in colours.items():
            part = rows[rows["cut"] == cut]
            predicted, least, most = (part[name].clip(lower=low) for name in
                                      ("predicted_km2", "low", "high"))  # fmt: skip
            along = part["label_uncertainty_km2"].fillna(0)
            label = "cut by the frame" if cut else "whole"
            ax.errorbar(
                part["area_km2"], predicted, [predicted - least, most - predicted], along, "o",
                markersize=3.5, linewidth=0.7, color=colour, label=label,
            )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal")
        ax.set_title(escape_math(model), fontsize=10)
        ax.set_xlabel("area in the reference (km²)")
        ax.set_ylabel("predicted area (km²)")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def band_curves(table: pd.DataFrame) -> Figure:
    """Show the IoU by the width of the ignore band, a line per model, a panel per reference.

    Args:
        table: of `label_bias.band_curve`.

    Returns:
        The figure.
    """
    references = list(dict.fromkeys(table["reference"]))
    colours = palette(list(dict.fromkeys(table["model"])))
    figure, axes = graphs(len(references), (3.7, 3.6), (1.9, 0), sharey=True)
    for ax, reference in zip(axes, references, strict=True):
        rows = table[table["reference"] == reference]
        for model, part in rows.groupby("model", sort=False):
            ax.plot(part["band_m"], part["iou"], "o-", markersize=3.5, color=colours[model],
                    label=escape_math(model))  # fmt: skip
        ax.set(xlabel="ignore band on either side of the edge (m)",
               title=f"against the {escape_math(reference)}")  # fmt: skip
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("IoU")
    axes[-1].legend(fontsize=8, **BESIDE)
    return figure


def error_bars(tables: pd.DataFrame) -> Figure:
    """Show the errors of models by the surface they lie on: misses left, false alarms right.

    Args:
        tables: of `error_analysis.causes` with the column model. The per cent beside a bar is the
            part of that surface that is mapped wrongly.

    Returns:
        The figure.
    """
    models = list(dict.fromkeys(tables["model"]))
    colours = palette(models)
    kinds = {"miss": "missed ice (km²)", "false alarm": "false alarms (km²)"}
    shown = tables[tables.groupby(["kind", "surface"])["total_km2"].transform("max") > 0]
    most = shown.groupby("kind")["surface"].nunique().max()
    figure, axes = graphs(2, (5.25, 0.9 + most * (0.115 * len(models) + 0.14)))
    height = 0.8 / len(models)
    for ax, (kind, label) in zip(axes, kinds.items(), strict=True):
        part = shown[shown["kind"] == kind]
        surfaces = list(dict.fromkeys(part["surface"]))
        for place, model in enumerate(models):
            rows = part[part["model"] == model].set_index("surface").reindex(surfaces)
            y = np.arange(len(surfaces)) + (place - (len(models) - 1) / 2) * height
            bars = ax.barh(y, rows["km2"], height, color=colours[model], label=escape_math(model))
            wrong = (100 - 100 * rows["right"]).map("{:.0f} %".format, na_action="ignore")
            ax.bar_label(bars, wrong.fillna(""), padding=3, fontsize=6.5)
        ax.set_yticks(range(len(surfaces)), surfaces)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set_xlabel(label)
    axes[1].legend(fontsize=8, **BESIDE)
    return figure


def labels_and_truth(table: pd.DataFrame, *, own: float | None = None) -> Figure:
    """Show each model's IoU against labels and truth, and the difference with its interval.

    Args:
        table: of `label_bias.labels_against_truth`.
        own: IoU of the labels against the truth, drawn as a line.

    Returns:
        The figure.
    """
    figure, (left, right) = graphs(2, (4.75, 0.5 * len(table) + 1.6), sharey=True)
    y = np.arange(len(table))
    left.hlines(y, table["labels"], table["truth"], color="0.6", linewidth=1.2)
    left.plot(table["labels"], y, "o", color="#0072b2", label="against the labels")
    left.plot(table["truth"], y, "D", color="#d55e00", label="against the truth")
    if own is not None:
        label = "the labels themselves, against the truth"
        left.axvline(own, color="#444444", linestyle=":", label=label)
    left.set_xlabel("IoU")
    figure.legend(*left.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=3,
                  loc="outside lower center")  # fmt: skip
    values = ("difference", "low", "high")
    interval_dots(right, table, "model", values, colours={None: "0.2"})
    right.axvline(0, color="0.4", linewidth=0.8)
    right.set_xlabel("IoU against truth minus IoU against labels,\nwith 95 % interval")
    for ax in (left, right):
        ax.grid(axis="x", alpha=0.3)
    return figure
