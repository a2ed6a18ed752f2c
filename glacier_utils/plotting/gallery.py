"""Patches as pictures: with their class codes, and a scene taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from glacier_utils.plotting.style import (
    ERROR_COLOURS,
    PAIR_CODES,
    class_legend,
    coloured,
    escape_math,
    panels,
)

_GAP = 0.12  # between patches taken apart, as a part of a patch


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
