"""Augmentation of whole batches at once, in torch."""

from __future__ import annotations

import torch


def augment(
    images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn, mirror and brighten a batch.

    ``images`` reflectance [n, band, row, col], square, and ``labels`` [n, row, col], on the CPU or
    a GPU; ``generator`` a CPU generator. Returns new tensors; invalid pixels (0 in every band)
    stay 0.
    """
    images, labels = symmetries(images, labels, generator)
    return gain(images, generator), labels


def symmetries(
    images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each patch one of the eight symmetries of the square, image and label alike.

    Patches that are not square get one of the four that keep their shape. The sun's direction is
    not kept: a model shall not learn on which side shadows lie.
    """
    square = images.shape[-1] == images.shape[-2]
    choice = torch.randint(0, 8 if square else 4, (len(images),), generator=generator)
    turned, turned_labels = torch.empty_like(images), torch.empty_like(labels)
    for number in choice.unique().tolist():
        chosen = torch.nonzero(choice == number).flatten().to(images.device)
        turned[chosen] = symmetry(images[chosen], number)
        turned_labels[chosen] = symmetry(labels[chosen], number)
    return turned, turned_labels


def symmetry(array: torch.Tensor, number: int) -> torch.Tensor:
    """Apply symmetry 0..7 to the last two axes: bit 1 mirrors rows, 2 columns, 4 transposes."""
    axes = [axis for axis, bit in ((-2, 1), (-1, 2)) if number & bit]
    array = array.flip(axes) if axes else array
    return array.transpose(-2, -1) if number & 4 else array


def gain(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    brightness: float = 0.1,
    band: float = 0.03,
) -> torch.Tensor:
    """Multiply each image by a random gain and each of its bands by another, log-normally.

    ``brightness`` and ``band`` are the deviations of the logarithms: some 10 % for sun and haze,
    3 % for colour.
    """
    count, bands = images.shape[:2]
    whole = torch.randn(count, 1, 1, 1, generator=generator) * brightness
    single = torch.randn(count, bands, 1, 1, generator=generator) * band
    return images * (whole + single).exp().to(images.device)
