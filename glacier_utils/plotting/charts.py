"""Graphs: every figure without a place in it. Tables in, a Matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from glacier_utils.errors import GlacierError

# Okabe & Ito (2008): eight colours that stay apart for readers with any common colour blindness.
OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000")
CLASS_LINES = {"glacier": "#0072b2", "not glacier": "#d55e00"}
BAND_ORDER = ("blue", "green", "red", "nir")


def palette(names: Sequence[str]) -> dict[str, str]:
    """Give each name a colour, the same one wherever the names come in the same order."""
    return {name: OKABE_ITO[i % len(OKABE_ITO)] for i, name in enumerate(names)}


def plain(text: str) -> str:
    """Return a user's name so that Matplotlib writes it as it is: two ``$`` make no formula."""
    return str(text).replace("$", r"\$")


def _bands(pixels: pd.DataFrame, bands: Sequence[str]) -> list[str]:
    """Return the bands in order of wavelength where that is known."""
    return [b for b in BAND_ORDER if b in bands] + [b for b in bands if b not in BAND_ORDER]


def band_histograms(pixels: pd.DataFrame, bands: Sequence[str]) -> Figure:
    """Show the reflectance of each class and band, a row per area, a line style per date.

    Args:
        pixels: from `exploration.sample_pixels`: area, date, class and a column a band.
        bands: the bands to show.
    """
    areas = list(dict.fromkeys(pixels["area"]))
    dates = sorted(set(pixels["date"]))
    ordered = _bands(pixels, bands)
    figure, axes = plt.subplots(
        len(areas),
        len(ordered),
        figsize=(2.7 * len(ordered) + 1, 2.3 * len(areas) + 0.7),
        sharex="col",
        squeeze=False,
        layout="constrained",
    )
    tops = {band: np.nanpercentile(pixels[band], 99.5) for band in ordered}
    for row, area in enumerate(areas):
        for column, band in enumerate(ordered):
            ax = axes[row, column]
            for name, colour in CLASS_LINES.items():
                for date, style in zip(dates, ("-", "--", ":", "-.") * 5, strict=False):
                    chosen = pixels.query("area == @area and date == @date")
                    values = chosen.loc[chosen["class"] == name, band]
                    if len(values) > 20:
                        counts, edges = np.histogram(
                            values, bins=60, range=(0, tops[band]), density=True
                        )
                        ax.plot(
                            (edges[1:] + edges[:-1]) / 2,
                            counts,
                            style,
                            color=colour,
                            linewidth=1.3,
                            label=f"{name}, {date}",
                        )
            ax.set_yticks([])
            if row == 0:
                ax.set_title(band, fontsize=10)
            if column == 0:
                ax.set_ylabel(f"{plain(area)}\ndensity", fontsize=9)
            if row == len(areas) - 1:
                ax.set_xlabel("reflectance (1)", fontsize=9)
            sns.despine(ax=ax, left=True)
    # A class may be too rare for a line in one area and not in another.
    lines = {line.get_label(): line for ax in axes.flat for line in ax.get_lines()}
    figure.legend(
        handles=list(lines.values()),
        loc="outside lower center",
        ncols=min(4, max(1, len(lines))),
        frameon=False,
    )
    return figure


def class_balance(balance: pd.DataFrame) -> Figure:
    """Show the share of each class per area and date as stacked bars.

    Args:
        balance: area, date, glacier, not glacier, unknown (shares that add up to 1).
    """
    colours = {"glacier": "#56b4e9", "not glacier": "#d8d2c4", "unknown": "#7f7f7f"}
    names = (balance["area"] + " " + balance["date"]).map(plain)
    figure, ax = plt.subplots(figsize=(7, 0.45 * len(balance) + 1.2), layout="constrained")
    left = np.zeros(len(balance))
    for name, colour in colours.items():
        share = 100 * balance[name].to_numpy()
        ax.barh(names, share, left=left, color=colour, label=name, edgecolor="white")
        for y, (start, width) in enumerate(zip(left, share, strict=True)):
            if width > 4:
                ax.text(start + width / 2, y, f"{width:.0f}", ha="center", va="center", fontsize=9)
        left += share
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="share of pixels (%)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    sns.despine(ax=ax)
    return figure


def shift_heatmap(table: pd.DataFrame, value: str, *, label: str) -> Figure:
    """Show one number per class and band of a shift between two groups as a heat map.

    Args:
        table: from `exploration.domain_shift`: class, band and the column ``value``.
        label: text of the colour bar, with the unit.

    Raises:
        GlacierError: the table is empty.
    """
    wide = table.pivot(index="class", columns="band", values=value)
    wide = wide[_bands(table, list(wide.columns))]
    if wide.empty:
        raise GlacierError("the two groups have no class in common: there is no shift to show")
    top = float(np.nanmax(np.abs(wide.to_numpy()), initial=0.0)) or 1.0
    figure, ax = plt.subplots(figsize=(6.4, 0.6 * len(wide) + 1.4), layout="constrained")
    sns.heatmap(
        wide,
        annot=True,
        fmt=".2f",
        cmap="vlag" if (wide < 0).any().any() else "crest",
        vmin=-top if (wide < 0).any().any() else 0,
        vmax=top,
        cbar_kws={"label": label},
        ax=ax,
    )
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    return figure


_APART = 30  # largest over smallest loss


def learning_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Show loss and validation IoU over the epochs; losses far apart on a logarithmic axis.

    Args:
        histories: model -> history with epoch, train_loss, validation_loss, validation_iou.
    """
    colours = palette(list(histories))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, history in histories.items():
        left.plot(history["epoch"], history["train_loss"], "--", color=colours[name], linewidth=1)
        left.plot(history["epoch"], history["validation_loss"], color=colours[name], label=name)
        right.plot(history["epoch"], history["validation_iou"], color=colours[name], label=name)
        known = history.dropna(subset=["validation_iou"])
        if len(known):  # no IoU where validation holds no glacier
            best = known.loc[known["validation_iou"].idxmax()]
            right.plot(best["epoch"], best["validation_iou"], "o", color=colours[name])
    left.set(xlabel="epoch", ylabel="loss (1)", title="loss: validation solid, training dashed")
    kinds = ["train_loss", "validation_loss"]
    losses = np.concatenate([history[kinds].to_numpy(float) for history in histories.values()])
    # Running statistics of normalisation start far off: a first validation loss of 80 would leave
    # nothing to see of all others.
    losses = losses[np.isfinite(losses)]
    if len(losses) and losses.min() > 0 and losses.max() > _APART * losses.min():
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter(NullFormatter())
    right.set(xlabel="epoch", ylabel="IoU (1)", title="validation IoU, the kept epoch marked")
    right.legend(frameon=False, fontsize=9)
    for ax in (left, right):
        sns.despine(ax=ax)
    return figure


def score_intervals(
    table: pd.DataFrame, *, score: str = "iou", group: str = "reference", label: str = "IoU (1)"
) -> Figure:
    """Show a score per model with its interval, one mark per group.

    Args:
        table: model, ``group``, ``score``, ``<score>_low``, ``<score>_high``.
        group: the column that gives colour, for example reference or date.
    """
    models = list(dict.fromkeys(table["model"]))
    groups = list(dict.fromkeys(table[group]))
    colours = palette(groups)
    figure, ax = plt.subplots(figsize=(7.5, 0.55 * len(models) + 1.3), layout="constrained")
    for offset, name in zip(np.linspace(-0.15, 0.15, len(groups)), groups, strict=True):
        rows = table[table[group] == name]
        positions = [
            models.index(model) + (offset if len(groups) > 1 else 0) for model in rows["model"]
        ]
        spread = np.abs(
            rows[[f"{score}_low", f"{score}_high"]].to_numpy().T - rows[score].to_numpy()
        )
        ax.errorbar(
            rows[score],
            positions,
            xerr=spread,
            fmt="o",
            color=colours[name],
            capsize=3,
            label=name,
        )
    ax.set_yticks(range(len(models)), models)
    ax.invert_yaxis()
    ax.set_xlabel(f"{label}, with 95 % interval")
    ax.grid(axis="x", alpha=0.3)
    ax.legend(title=group, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    sns.despine(ax=ax)
    return figure


def differences(table: pd.DataFrame) -> Figure:
    """Show paired differences of the IoU, a row a pair of models, and the line of no difference.

    Args:
        table: of ``comparison.differences``: model, against, reference, difference, low, high.
    """
    pairs = table.assign(
        model=table["model"] + " − " + table["against"],
        iou=table["difference"],
        iou_low=table["low"],
        iou_high=table["high"],
    )
    figure = score_intervals(pairs, label="difference of IoU (1)")
    figure.axes[0].axvline(0, color="0.4", linewidth=0.8)
    return figure


def precision_recall(curves: Mapping[str, pd.DataFrame], points: Mapping[str, tuple]) -> Figure:
    """Show precision against recall.

    Args:
        curves: legend text -> threshold, precision, recall.
        points: the same keys -> (recall, precision) at the model's own threshold.
    """
    colours = palette(list(curves))
    figure, ax = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
    for name, curve in curves.items():
        ax.plot(curve["recall"], curve["precision"], color=colours[name], label=name)
        if name in points:
            ax.plot(*points[name], "o", color=colours[name], markersize=6)
    recall = np.linspace(0.02, 1, 200)
    for iou in (0.4, 0.6, 0.8):
        # IoU = 1 / (1/precision + 1/recall - 1), solved for precision.
        precision = 1 / (1 / iou + 1 - 1 / recall)
        shown = (precision > 0) & (precision <= 1)
        ax.plot(recall[shown], precision[shown], ":", color="#999", linewidth=0.9)
        ax.annotate(f"IoU {iou}", (1.0, 1 / (1 / iou)), fontsize=7, color="#777", ha="right")
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall (1)", ylabel="precision (1)")
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    sns.despine(ax=ax)
    return figure


def patch_scores(table: pd.DataFrame, *, score: str = "iou") -> Figure:
    """Show the spread of a score over patches.

    Args:
        table: model, patch and ``score``; patches where it is undefined are left out.
    """
    models = list(dict.fromkeys(table["model"]))
    figure, ax = plt.subplots(figsize=(7.5, 0.55 * len(models) + 1.2), layout="constrained")
    values = [table.loc[table["model"] == model, score].dropna().to_numpy() for model in models]
    ax.boxplot(
        values,
        positions=range(len(models)),
        orientation="horizontal",
        widths=0.5,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": "#dddddd"},
        medianprops={"color": "black"},
    )
    # A generator of its own, so that the same table gives the same picture.
    generator = np.random.default_rng(0)
    for position, scores in enumerate(values):
        heights = position + generator.uniform(-0.12, 0.12, len(scores))
        ax.plot(scores, heights, "o", color="#0072b2", markersize=3, alpha=0.5)
    ax.set_yticks(range(len(models)), models)
    ax.invert_yaxis()
    ax.set_xlabel(f"{'IoU' if score == 'iou' else score} of a patch (1)")
    sns.despine(ax=ax)
    return figure


def transition_matrices(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Show areas that kept or changed their class as heat maps.

    Args:
        tables: title -> a 2 x 2 table in km2, rows the earlier date, columns the later.
    """
    figure, axes = plt.subplots(
        1, len(tables), figsize=(3.6 * len(tables), 3.1), squeeze=False, layout="constrained"
    )
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        sns.heatmap(table, annot=True, fmt=".2f", cmap="crest", cbar=False, ax=ax, square=True)
        ax.set_title(f"{plain(title)} (km²)", fontsize=10)
        ax.tick_params(axis="y", rotation=90)
    return figure


def seam_profile(profiles: Mapping[str, pd.DataFrame]) -> Figure:
    """Show how a prediction's jump changes with the distance from the nearest patch border.

    Args:
        profiles: title -> distance_px, jump (mean absolute difference of neighbours).
    """
    colours = palette(list(profiles))
    figure, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    for name, profile in profiles.items():
        ax.plot(profile["distance_px"], profile["jump"], "o-", color=colours[name], label=name)
    ax.set(
        xlabel="distance from the patch border (px)",
        ylabel="mean jump between\nneighbouring pixels (1)",
    )
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return figure
