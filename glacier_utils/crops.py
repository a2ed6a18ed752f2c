"""Crops that grow during a training: most of it sees parts of patches, its end whole ones.

A convolution does not know the size of its image, so the early epochs, which learn colours and
textures, need no whole patch: a crop of half its side has a quarter of the pixels. Each crop lies
elsewhere, which adds to the augmentation. The last epochs see whole patches, so that context and
the running statistics of normalisation are those of use. (Progressive learning of Tan and Le 2021,
EfficientNetV2, ICML, with crops in place of smaller images, since the size of a pixel has a meaning
here, and without their growing regularisation.)
"""

from __future__ import annotations

import torch

from glacier_utils.errors import GlacierError

STEP = 32  # px: encoders halve five times
WHOLE = 0.25  # share of the epochs, at the end, that see whole patches


def side_of_epoch(epoch: int, epochs: int, *, smallest: int, size: int) -> int:
    """Return the side of the crops of an epoch, in pixels.

    It grows from ``smallest`` to ``size`` in steps of 32 px that take about equally many epochs;
    the last quarter of the epochs sees whole patches. ``smallest`` 0, or not below ``size``: always
    ``size``.

    Args:
        epoch: counted from 0.
        epochs: of the whole training.
        smallest: side of the first crops, a multiple of 32 px.
        size: of the patches, px.
    """
    if not 0 < smallest < size:
        return size
    sides = range(smallest, size, STEP)
    growing = max(epochs - max(round(WHOLE * epochs), 1), 0)
    return sides[epoch * len(sides) // growing] if epoch < growing else size


def crop(
    images: torch.Tensor, labels: torch.Tensor, side: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut one square of ``side`` pixels out of each image, anywhere in it, label alike.

    Args:
        images: [n, band, row, col].
        labels: [n, row, col].
        side: px; axes that are not longer stay whole.
        generator: of the places, on the CPU.

    Returns:
        New images [n, band, side, side] and labels [n, side, side]; the input itself where it is
        no larger.
    """
    height, width = labels.shape[-2:]
    if side >= max(height, width):
        return images, labels
    places = [
        torch.randint(0, max(length - side, 0) + 1, (len(images),), generator=generator).tolist()
        for length in (height, width)
    ]
    windows = [
        (slice(row, row + side), slice(col, col + side)) for row, col in zip(*places, strict=True)
    ]
    return (
        torch.stack([image[:, *window] for image, window in zip(images, windows, strict=True)]),
        torch.stack([label[window] for label, window in zip(labels, windows, strict=True)]),
    )


def check(smallest: int) -> None:
    """Raise GlacierError unless ``smallest`` is 0 or a multiple of 32 px above it."""
    if smallest < 0 or smallest % STEP:
        raise GlacierError(
            f"settings: smallest_crop is {smallest}, must be 0 (whole patches) or a multiple of "
            f"{STEP} px"
        )
