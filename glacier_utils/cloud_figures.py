"""Cloud masks as pictures. Arrays in, a Matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from glacier_utils.clouds import CLOUD
from glacier_utils.masks import UNKNOWN
from glacier_utils.plots import Bounds, class_legend, code_panel, extent_km, map_axes

# Class codes 0, 1, 2, 255 of a cloud mask; the difference of two masks has codes of its own.
CLOUD_COLOURS = {
    "clear": "#efece4",
    "cloud": "#0072b2",
    "cloud shadow": "#e69f00",
    "not assessed": "#7f7f7f",
}


def cloud_comparison(
    picture: np.ndarray, masks: Mapping[str, np.ndarray], bounds: Bounds
) -> Figure:
    """Show a picture, two cloud masks, and where they differ on cloud.

    Args:
        picture: [row, col, 3], from `plots.composite`.
        masks: title -> codes [row, col] of two masks (0 clear, 1 cloud, 2 shadow, 255).
        bounds: (xmin, ymin, xmax, ymax) in m.
    """
    (one, first), (other, second) = masks.items()
    differing = {
        "neither cloud": "#efece4",
        "cloud in both": "#0072b2",
        f"cloud in {one} only": "#d55e00",
        f"cloud in {other} only": "#cc79a7",
        "not assessed in one": "#7f7f7f",
    }
    extent = extent_km(bounds)
    figure, axes = plt.subplots(2, 2, figsize=(9, 10), layout="constrained")
    for ax, title in zip(axes.ravel(), ("true colour", one, other, "difference"), strict=True):
        map_axes(ax, title, scale_bar=True)
    axes[0, 0].imshow(picture, extent=extent)
    for ax, codes in ((axes[0, 1], first), (axes[1, 0], second)):
        code_panel(ax, codes, CLOUD_COLOURS, (0, 1, 2, 255), extent=extent)
    code_panel(axes[1, 1], difference(first, second), differing, range(5), extent=extent)
    only = [Patch(facecolor=differing[name], edgecolor="#555", label=name)
            for name in differing if name.endswith("only")]  # fmt: skip
    class_legend(figure, CLOUD_COLOURS, only)
    return figure


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return 0 cloud in neither, 1 in both, 2 in ``one`` only, 3 in ``other`` only, 4 unknown."""
    first, second = one == CLOUD, other == CLOUD
    codes = np.select([first & second, first, second], [1, 2, 3], 0)
    return np.where((one == UNKNOWN) | (other == UNKNOWN), 4, codes).astype(np.uint8)
