"""Patches as pictures: galleries with their class codes, and a scene taken apart.

Pictures of what augmentation does to images and labels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.plotting.charts import plain
from glacier_utils.plotting.style import (
    BANDS_TRUE,
    CLASS_COLOURS,
    ERROR_COLOURS,
    OUTLINE_COLOUR,
    class_legend,
    code_panel,
    composite,
    pictures,
    shared_limits,
)
from glacier_utils.training.augmentation import OPERATIONS, SOMETIMES, augment, operations


def patch_gallery(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    codes: Sequence[np.ndarray] | None = None,
    colours: Mapping[str, str] = ERROR_COLOURS,
    values: Sequence[int] = (0, 1, 2, 3, 255),
    columns: int = 6,
    note: str = "",
) -> Figure:
    """Show patches, each with the map of codes below it where given.

    Args:
        pictures: [row, col, 3] each.
        titles: a line a patch.
        codes: uint8 [row, col] each, drawn with ``colours`` in the order of ``values``.
        note: written above the figure, for example the patches' size on the ground.
    """
    columns = max(1, min(columns, len(pictures)))
    bands = 1 if codes is None else 2
    rows = max(1, -(-len(pictures) // columns))
    figure, axes = plt.subplots(
        rows * bands,
        columns,
        figsize=(1.9 * columns, (1.9 * bands + 0.35) * rows),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.ravel():
        ax.axis("off")
    for position, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        row, column = divmod(position, columns)
        axes[row * bands, column].imshow(picture)
        axes[row * bands, column].set_title(plain(title), fontsize=8)
        if codes is not None:
            code_panel(axes[row * bands + 1, column], codes[position], colours, values)
    if codes is not None:
        class_legend(figure, colours)
    if note:
        figure.suptitle(plain(note), fontsize=9)
    return figure


def dropped_patches(
    index: pd.DataFrame,
    images: np.ndarray,
    labels: np.ndarray,
    bands: Sequence[str],
    *,
    count: int = 12,
) -> Figure:
    """Show patches that are dropped, or that a user's override kept, each with its reason.

    Args:
        index: of a patch store, with area, date, row, col, split, reason.
        images, labels: of the store, [n, band, row, col] and [n, row, col]; only what is shown is
            read.
        bands: names of the images' bands.
        count: how many at most. Every kind of reason has its turn before one comes twice.

    Raises:
        ValueError: there is none to show.
    """
    reasons = index["reason"].fillna("").astype(str)
    shown = (index["split"] == "dropped") | reasons.str.startswith("kept by override")
    if not shown.any():
        raise ValueError("no patch is dropped, nor kept by an override")
    # "unknown 83 % > 50 %" and "dropped by override: fog" are of the kinds before the particulars.
    kinds = reasons[shown].str.extract(r"^([^\d:]*)", expand=False)
    turn = kinds.groupby(kinds).cumcount().sort_values(kind="stable")
    positions = index.index.get_indexer(turn.index[:count])
    rows = index.iloc[positions]
    titles = [
        f"{row.area} {row.date}\nrow {row.row}, col {row.col}\n{textwrap.fill(row.reason, 26)}"
        for row in rows[["area", "date", "row", "col", "reason"]].itertuples()
    ]
    return patch_gallery(
        pictures([images[position] for position in positions], bands),
        titles,
        codes=[labels[position] for position in positions],
        colours=CLASS_COLOURS,
        values=(0, 1, 255),
        columns=4,
        note=f"{len(positions)} of {int(shown.sum())} patches dropped, or kept by an override",
    )


def exploded(picture: np.ndarray, *, patch_size: int, gap: float = 0.12) -> Figure:
    """Show a picture as the patches it was cut into, with gaps between them.

    Args:
        picture: [row, col, 3].
        patch_size: side of a patch in px.
        gap: width of a gap as a part of a patch.
    """
    step = max(1, patch_size // 64)
    tile, space = -(-patch_size // step), max(1, round(gap * patch_size / step))
    rows, cols = (-(-length // patch_size) for length in picture.shape[:2])
    canvas = np.ones((rows * (tile + space), cols * (tile + space), 3), dtype=np.float32)
    for row in range(rows):
        for col in range(cols):
            part = picture[
                row * patch_size : (row + 1) * patch_size : step,
                col * patch_size : (col + 1) * patch_size : step,
            ]
            top, left = row * (tile + space), col * (tile + space)
            canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    figure, ax = plt.subplots(figsize=(7, 7 * rows / cols), layout="constrained")
    ax.imshow(canvas, interpolation="none")
    ax.axis("off")
    return figure


def augmentation_gallery(
    images: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray | Sequence[np.ndarray],
    bands: Sequence[str],
    *,
    recipes: Sequence[str] = (*OPERATIONS, "strong"),
    titles: Sequence[str] = (),
    shown: Sequence[str] = BANDS_TRUE,
    seed: int = 0,
) -> Figure:
    """Show images as they are and after each augmentation, with the label's outline.

    Operations that training applies to some images only are shown on every image; recipes of
    several operations are shown as training sees them. All panels have one stretch.

    Args:
        images, labels: of one shape, reflectance [n, band, row, col] and codes [n, row, col], for
            example some of a patch store.
        bands: names of the images' bands.
        recipes: a column each, as `augmentation.operations` takes them.
        titles: a line an image, written beside its row.
        shown: the bands to show as red, green, blue.
        seed: of the random numbers; a column's do not depend on the other columns.

    Raises:
        GlacierError: no images, or an unknown name in ``recipes`` or ``shown``.
    """
    if not len(images):
        raise GlacierError("augmentation: no image to show; choose some patches")
    images = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    labels = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.uint8))
    columns = {"original": (images, labels)}
    for recipe in recipes:
        columns[recipe] = _changed(recipe, images, labels, bands, seed)
    height, width = images.shape[-2:]
    figure, axes = plt.subplots(
        len(images),
        len(columns),
        figsize=(1.7 * len(columns), 1.7 * height / width * len(images) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    limits = shared_limits([image for part, _ in columns.values() for image in part.numpy()])
    for row, original in enumerate(images.numpy()):
        for ax, (name, (changed, codes)) in zip(axes[row], columns.items(), strict=True):
            picture = changed[row].numpy()
            ax.imshow(composite(picture, bands, shown, limits=limits), interpolation="nearest")
            _outline(ax, codes[row].numpy())
            ax.set(xticks=[], yticks=[])
            if row == 0:
                ax.set_title(plain(name), fontsize=9)
            if name == "band_dropout":
                lost = [
                    b
                    for b, one, two in zip(bands, original, picture, strict=True)
                    if (one != two).any()
                ]
                ax.set_xlabel(plain(f"without {', '.join(lost) or 'change'}"), fontsize=8)
        if row < len(titles):
            axes[row, 0].set_ylabel(plain(titles[row]), fontsize=8)
    return figure


def _changed(
    recipe: str, images: torch.Tensor, labels: torch.Tensor, bands: Sequence[str], seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a recipe; a single operation to every image."""
    generator = torch.Generator().manual_seed(seed)
    names = operations(recipe)
    if len(names) == 1 and names[0] in SOMETIMES:
        return OPERATIONS[names[0]](images, labels, generator, bands, probability=1.0)
    return augment(images, labels, generator, names, bands)


def _outline(ax: Axes, codes: np.ndarray) -> None:
    """Draw the line between glacier and not glacier; none along unknown ground."""
    glacier = np.where(codes == UNKNOWN, np.nan, codes == 1)
    if np.nanmin(glacier, initial=1) < np.nanmax(glacier, initial=0):
        ax.contour(glacier, levels=[0.5], colors=OUTLINE_COLOUR, linewidths=0.9)
