"""Figures of single glaciers and of the label's part in the error. Tables in, a figure out."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from glacier_utils.charts import palette, plain
from glacier_utils.disagreements import windows
from glacier_utils.gallery import patch_gallery
from glacier_utils.glaciers import NONE, SIZES
from glacier_utils.grids import Image
from glacier_utils.plots import error_codes, pictures

_CEILING = "#444444"
_RIGHT = (1.0, 1.0)


def areas(table: pd.DataFrame, *, columns: int = 3) -> Figure:
    """Show the predicted against the reference's area of each glacier, a panel a model.

    Args:
        table: of ``glaciers.per_glacier``, by one reference. The bars are the area with the outline
            moved by one pixel, and along the axis of the reference its outline's own uncertainty. A
            triangle on the axis: next to nothing of the glacier was found.

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
    figure, axes = _panels(len(models), columns, 3.1)
    colours = {False: "#0072b2", True: "#e69f00"}
    for ax, model in zip(axes, models, strict=True):
        rows = own[own["model"] == model]
        ax.plot([low, high], [low, high], color="0.4", linewidth=0.8)
        for cut, colour in colours.items():
            part = rows[rows["cut"] == cut]
            missed = part["predicted_km2"] <= low
            if missed.any():
                at = [low] * missed.sum()
                ax.plot(part["area_km2"][missed], at, "v", color=colour, clip_on=False)
            part = part[~missed]
            along = part["label_uncertainty_km2"].fillna(0)
            ax.errorbar(
                part["area_km2"],
                part["predicted_km2"],
                xerr=[np.minimum(along, part["area_km2"] - low), along],
                yerr=[part["predicted_km2"] - part["low"].clip(lower=low),
                      part["high"] - part["predicted_km2"]],
                fmt="o",
                markersize=3.5,
                linewidth=0.7,
                color=colour,
                label="cut by the frame" if cut else "whole",
            )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
        ax.set_title(plain(model), fontsize=10)
        ax.set_xlabel("area in the reference (km²)")
        ax.set_ylabel("predicted area (km²)")
        sns.despine(ax=ax)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def size_classes(table: pd.DataFrame, *, reference: str = "labels") -> Figure:
    """Show the median IoU by class of size with the geometric ceiling beside, a mark a model.

    Args:
        table: of ``bias.ceiling_by_size``; the ceilings are those of the same glaciers, by the
            offset given there.
    """
    own = table[table["reference"] == reference]
    models, classes = (
        list(dict.fromkeys(own["model"])),
        [s for s in SIZES if s in set(own["size_class"])],
    )
    colours = palette(models)
    figure, ax = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
    shifts = np.linspace(-0.28, 0.28, len(models)) if len(models) > 1 else [0.0]
    for shift, model in zip(shifts, models, strict=True):
        rows = own[own["model"] == model].set_index("size_class").reindex(classes)
        x = np.arange(len(classes)) + shift
        ax.plot(x, rows["iou_median"], "o", color=colours[model], label=plain(model))
        ax.plot(x, rows["ceiling_median"], "_", color=_CEILING, markersize=11, markeredgewidth=1.8)
        ax.vlines(
            x, rows["iou_median"], rows["ceiling_median"], color=colours[model], linewidth=0.7
        )
    ax.plot([], [], "_", color=_CEILING, markersize=11, markeredgewidth=1.8,
            label="geometric ceiling\nat the offset observed")  # fmt: skip
    numbers = own.groupby("size_class", observed=True)["glaciers"].first()
    names = [f"{name} km²\n{numbers[name]} glaciers" for name in classes]
    ax.set_xticks(range(len(classes)), names)
    ax.set(ylim=(0, 1.02), ylabel="median IoU of a glacier (1)", title=f"by the {plain(reference)}")
    ax.grid(axis="y", alpha=0.3)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=_RIGHT)
    sns.despine(ax=ax)
    return figure


def band_curves(table: pd.DataFrame) -> Figure:
    """Show the IoU by the width of the ignore band, a line a model, a panel a reference.

    Args:
        table: of ``bias.band_curve``.
    """
    references = list(dict.fromkeys(table["reference"]))
    colours = palette(list(dict.fromkeys(table["model"])))
    figure, axes = plt.subplots(
        1, len(references), figsize=(3.7 * len(references) + 1.9, 3.6), sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for ax, reference in zip(axes[0], references, strict=True):
        rows = table[table["reference"] == reference]
        for model, part in rows.groupby("model", sort=False):
            ax.plot(part["band_m"], part["iou"], "o-", markersize=3.5, color=colours[model],
                    label=plain(model))  # fmt: skip
        ax.set(xlabel="ignore band on either side of the edge (m)",
               title=f"by the {plain(reference)}")  # fmt: skip
        ax.grid(alpha=0.3)
        sns.despine(ax=ax)
    axes[0, 0].set_ylabel("IoU (1)")
    axes[0, -1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=_RIGHT)
    return figure


def label_age(table: pd.DataFrame, effect: pd.DataFrame, *, columns: int = 3) -> Figure:
    """Show each glacier's IoU against the age of its outline, a panel a model.

    Args:
        table: of ``glaciers.per_glacier``, by one reference.
        effect: of ``bias.age_effect``, whose rank correlation stands in the titles.
    """
    own = table[table["listed"]].dropna(subset=["age_years", "iou"])
    models = list(dict.fromkeys(table["model"]))
    figure, axes = _panels(len(models), columns, 2.7)
    for ax, model in zip(axes, models, strict=True):
        rows = own[own["model"] == model]
        size = 12 + 60 * np.sqrt(rows["area_km2"] / max(own["area_km2"].max(), 1e-9))
        ax.scatter(rows["age_years"], rows["iou"], s=size, color="#0072b2", alpha=0.55, linewidth=0)
        known = effect[(effect["model"] == model) & effect["reference"].isin(rows["reference"])]
        rho = known["rho"].iloc[0] if len(known) else np.nan
        said = (
            ""
            if np.isnan(rho)
            else f"\nrho {rho:+.2f} ({known['low'].iloc[0]:+.2f} to {known['high'].iloc[0]:+.2f})"
        )
        ax.set_title(plain(model) + said, fontsize=9)
        ax.set(ylim=(0, 1.02), xlabel="age of the outline (years)", ylabel="IoU of a glacier (1)")
        ax.margins(x=0.08)
        ax.grid(alpha=0.3)
        sns.despine(ax=ax)
    return figure


def error_bars(tables: pd.DataFrame) -> Figure:
    """Show the errors of models by the surface they lie on: misses left, false alarms right.

    Args:
        tables: of ``error_causes.causes`` with the column model. The per cent beside a bar is the
            part of that surface that is mapped wrongly.
    """
    models = list(dict.fromkeys(tables["model"]))
    colours = palette(models)
    kinds = {"miss": "missed ice (km²)", "false alarm": "false alarms (km²)"}
    shown = tables[tables.groupby(["kind", "surface"])["total_km2"].transform("max") > 0]
    most = shown.groupby("kind")["surface"].nunique().max()
    tall = 0.9 + most * (0.115 * len(models) + 0.14)
    figure, axes = plt.subplots(1, 2, figsize=(10.5, tall), layout="constrained")
    height = 0.8 / len(models)
    for ax, (kind, label) in zip(axes, kinds.items(), strict=True):
        part = shown[shown["kind"] == kind]
        surfaces = list(dict.fromkeys(part["surface"]))
        for place, model in enumerate(models):
            rows = part[part["model"] == model].set_index("surface").reindex(surfaces)
            y = np.arange(len(surfaces)) + (place - (len(models) - 1) / 2) * height
            ax.barh(y, rows["km2"], height * 0.92, color=colours[model], label=plain(model))
            for at, km2, right in zip(y, rows["km2"], rows["right"], strict=True):
                if np.isfinite(right):
                    ax.annotate(f"{100 * (1 - right):.0f} %", (km2, at), (3, 0), va="center",
                                textcoords="offset points", fontsize=6.5)  # fmt: skip
        ax.set_yticks(range(len(surfaces)), surfaces)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set_xlabel(label)
        sns.despine(ax=ax)
    axes[1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=_RIGHT)
    return figure


def labels_and_truth(table: pd.DataFrame, *, own: float | None = None) -> Figure:
    """Show each model's IoU by labels and by truth, and the difference with its interval.

    Args:
        table: of ``bias.labels_against_truth``.
        own: IoU of the labels against the truth, drawn as a line.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.5, 0.5 * len(table) + 1.6), sharey=True, layout="constrained"
    )
    y = np.arange(len(table))
    left.hlines(y, table["labels"], table["truth"], color="0.6", linewidth=1.2)
    left.plot(table["labels"], y, "o", color="#0072b2", label="by the labels")
    left.plot(table["truth"], y, "D", color="#d55e00", label="by the truth")
    if own is not None:
        left.axvline(
            own, color=_CEILING, linestyle=":", label="the labels themselves, by the truth"
        )
    left.set_yticks(y, [plain(name) for name in table["model"]])
    left.invert_yaxis()
    left.set_xlabel("IoU (1)")
    figure.legend(*left.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=3,
                  loc="outside lower center")  # fmt: skip
    spread = [table["difference"] - table["low"], table["high"] - table["difference"]]
    right.errorbar(table["difference"], y, xerr=spread, fmt="o", color="0.2", capsize=3)
    right.axvline(0, color="0.4", linewidth=0.8)
    right.set_xlabel("IoU by truth minus IoU by labels (1),\nwith 95 % interval")
    for ax in (left, right):
        ax.grid(axis="x", alpha=0.3)
        sns.despine(ax=ax)
    return figure


def disagreement_gallery(
    table: pd.DataFrame,
    image: Image,
    mask: np.ndarray,
    reference: np.ndarray,
    *,
    count: int = 12,
    size: int = 128,
    columns: int = 6,
) -> Figure:
    """Show the largest disagreements: the image, and below it hits, misses and false alarms.

    Args:
        table: of ``disagreements.disagreements``.
        image, mask, reference: what it was made from.
        count: how many at most.
        size: side of a window in px.

    Raises:
        ValueError: there is none to show.
    """
    if table.empty:
        raise ValueError("there is no disagreement to show")
    rows = table.iloc[:count]
    parts = windows(rows, (image.reflectance, mask, reference), size)
    metres = size * image.grid.resolution
    wide = f"{metres / 1000:.1f} km" if np.isfinite(metres) else f"{size} px"
    return patch_gallery(
        pictures([part[0] for part in parts], image.bands),
        disagreement_titles(rows),
        codes=[error_codes(part[1], part[2]) for part in parts],
        columns=columns,
        note=f"the {len(rows)} largest of {len(table)} disagreements, windows of {wide}",
    )


def disagreement_titles(table: pd.DataFrame) -> Sequence[str]:
    """Return two lines for each row of ``disagreements``: kind and km2, and the probable reason."""
    lines = [f"{row.kind}, {row.km2:.2f} km²\n{row.reason}?" for row in table.itertuples()]
    if "map_right" in table:
        share = table["map_right"]
        lines = [
            f"{line} map right {100 * part:.0f} %" for line, part in zip(lines, share, strict=True)
        ]
    return lines


def _panels(count: int, columns: int, side: float):
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(side * columns + 0.6, side * rows + 0.5), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax in axes.ravel()[count:]:
        ax.remove()
    return figure, list(axes.ravel()[:count])
