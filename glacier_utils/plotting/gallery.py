"""Patches as pictures: with their class codes, after augmentation, and a scene taken apart."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation.error_analysis import windows
from glacier_utils.metrics import outline
from glacier_utils.plotting.style import (
    CLASS_COLOURS,
    ERROR_COLOURS,
    OUTLINE_COLOUR,
    PAIR_CODES,
    class_legend,
    coloured,
    composite,
    error_codes,
    escape_math,
    panels,
    pictures,
    shared_limits,
)
from glacier_utils.raster.grid import Image
from glacier_utils.training.augmentation import OPERATIONS, SOMETIMES, augment, operations

_MOST_DROPPED = 12
_MOST_DISAGREEMENTS = 12
_GAP = 0.12  # between patches taken apart, as a part of a patch
_RECIPES = (*OPERATIONS, "strong")


def patch_gallery(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    codes: Sequence[np.ndarray] | None = None,
    colours: Mapping[str, str] = ERROR_COLOURS,
    values: Sequence[int] = PAIR_CODES,
    columns: int = 6,
    note: str = "",
) -> Figure:
    """Show patches, each with the map of codes below it where given.

    Args:
        pictures: [row, col, 3] each.
        titles: a line per patch.
        codes: uint8 [row, col] each, drawn with ``colours`` in the order of ``values``.
        colours: class name -> colour.
        values: the codes; the last one also stands for every code not named.
        columns: how many side by side at most.
        note: written above the figure, for example the patches' size on the ground.

    Returns:
        The figure.
    """
    bands = 1 if codes is None else 2
    if codes is not None:
        pictures = [
            np.concatenate([picture, np.ones_like(picture[: len(picture) // 16 + 1]),
                            coloured(own, colours, values)])
            for picture, own in zip(pictures, codes, strict=True)
        ]  # fmt: skip
    figure, axes = panels(len(pictures), (1.9, 1.9 * bands + 0.4), columns=columns)
    for ax, picture, title in zip(axes, pictures, titles, strict=True):
        ax.imshow(picture)
        ax.set_title(escape_math(title), fontsize=8)
        ax.axis("off")
    if codes is not None:
        class_legend(figure, colours)
    if note:
        figure.suptitle(escape_math(note), fontsize=9)
    return figure


def dropped_patches(
    index: pd.DataFrame, images: np.ndarray, labels: np.ndarray, bands: Sequence[str]
) -> Figure:
    """Show up to twelve patches that are dropped, or that a user's override kept, with the reason.

    Every kind of reason has its turn before one comes twice.

    Args:
        index: of a patch store, with area, date, row, col, split, reason.
        images: of the store, [n, band, row, col]; only what is shown is read.
        labels: of the store, [n, row, col].
        bands: names of the images' bands.

    Returns:
        The figure.
    """
    reasons = index["reason"].fillna("").astype(str)
    shown = (index["split"] == "dropped") | reasons.str.startswith("kept by override")
    # "unknown 83 % > 50 %" and "dropped by override: fog" are of the kinds before the particulars.
    kinds = reasons[shown].str.extract(r"^([^\d:]*)", expand=False)
    turn = kinds.groupby(kinds).cumcount().sort_values(kind="stable")
    positions = index.index.get_indexer(turn.index[:_MOST_DROPPED])
    titles = [
        f"{row.area} {row.date}\nrow {row.row}, col {row.col}\n{textwrap.fill(row.reason, 26)}"
        for row in index.iloc[positions].itertuples()
    ]
    return patch_gallery(
        pictures([images[position] for position in positions], bands),
        titles,
        codes=[labels[position] for position in positions],
        colours=CLASS_COLOURS,
        values=(0, 1, UNKNOWN),
        columns=4,
        note=f"{len(positions)} of {int(shown.sum())} patches dropped, or kept by an override",
    )


def disagreement_gallery(
    table: pd.DataFrame, image: Image, mask: np.ndarray, reference: np.ndarray, *, size: int = 128
) -> Figure:
    """Show the twelve largest disagreements: images, and below them hits, misses, false alarms.

    Args:
        table: of `error_analysis.disagreements`.
        image: what it was made from.
        mask: prediction that it was made from, [row, col].
        reference: that it was made from, [row, col].
        size: side of a window in px.

    Returns:
        The figure.
    """
    rows = table.iloc[:_MOST_DISAGREEMENTS]
    titles = [f"{row.kind}, {row.km2:.2f} km²\n{row.reason}?" for row in rows.itertuples()]
    if "map_right" in rows:
        titles = [
            f"{title} map right {100 * part:.0f} %"
            for title, part in zip(titles, rows["map_right"], strict=True)
        ]
    parts = windows(rows, (image.reflectance, mask, reference), size)
    metres = size * image.grid.resolution
    wide = f"{metres / 1000:.1f} km" if np.isfinite(metres) else f"{size} px"
    return patch_gallery(
        pictures([part[0] for part in parts], image.bands),
        titles,
        codes=[error_codes(part[1], part[2]) for part in parts],
        note=f"the {len(rows)} largest of {len(table)} disagreements, windows of {wide}",
    )


def augmentation_gallery(
    images: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray | Sequence[np.ndarray],
    bands: Sequence[str],
) -> Figure:
    """Show images as they are and after each augmentation, with the label's outline.

    Operations that training applies to some images only are shown on every image; the recipe
    ``strong`` is shown as training sees it. All panels have one stretch.

    Args:
        images: reflectance [n, band, row, col], for example some of a patch store.
        labels: codes [n, row, col].
        bands: names of the images' bands.

    Returns:
        The figure.

    Raises:
        GlacierError: no images.
    """
    if not len(images):
        raise GlacierError("augmentation: no image to show; choose some patches")
    before = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    classes = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.uint8))
    columns = {"original": (before, classes)}
    for recipe in _RECIPES:
        columns[recipe] = _changed(recipe, before, classes, bands)
    limits = shared_limits([image for part, _ in columns.values() for image in part.numpy()])
    pictures, titles = [], []
    for row, original in enumerate(before.numpy()):
        for name, (changed, codes) in columns.items():
            image = changed[row].numpy()
            pictures.append(composite(image, bands, limits=limits))
            pictures[-1][outline(codes[row].numpy())] = to_rgb(OUTLINE_COLOUR)
            lost = np.array(bands)[(original != image).any(axis=(1, 2))]
            without = f"\nwithout {', '.join(lost)}" if name == "band_dropout" else ""
            titles.append(name + without)
    return patch_gallery(pictures, titles, columns=len(columns))


def _changed(
    recipe: str, images: torch.Tensor, labels: torch.Tensor, bands: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a recipe; a single operation to every image."""
    # One seed per column, so that it does not depend on the others.
    generator = torch.Generator().manual_seed(0)
    names = operations(recipe)
    if len(names) == 1 and names[0] in SOMETIMES:
        return OPERATIONS[names[0]](images, labels, generator, bands, probability=1.0)
    return augment(images, labels, generator, names, bands)
