"""Pictures of what augmentation does to images and labels."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glacier_utils.augment import OPERATIONS, SOMETIMES, augment, operations
from glacier_utils.charts import plain
from glacier_utils.errors import GlacierError
from glacier_utils.losses import UNKNOWN
from glacier_utils.plots import BANDS_TRUE, OUTLINE_COLOUR, composite, shared_limits


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
        recipes: a column each, as `augment.operations` takes them.
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
