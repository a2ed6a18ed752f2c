"""A GlacierNet-style network, and the frame that lets any network take images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class GlacierNet(nn.Module):
    """An encoder-decoder of the SegNet family for glacier mapping.

    Each stage of the encoder is two convolutions and a max pooling that keeps the places of the
    maxima; each stage of the decoder puts its input back to those places (unpooling) and runs two
    convolutions. No feature maps are carried across, only the pooling indices.

    GlacierNet-style, not GlacierNet: filter counts are not given in what is public. The default
    takes few, so that training needs minutes on two processor cores.

    Reference: Xie, Z., Haritashya, U. K., Asari, V. K., Young, B. W., Bishop, M. P., Kargel,
    J. S. (2020): GlacierNet: A deep-learning approach for debris-covered glacier mapping. IEEE
    Access 8, 83495-83510. SegNet: Badrinarayanan, V., Kendall, A., Cipolla, R. (2017), IEEE
    TPAMI 39, 2481-2495.

    Args:
        bands: number of input bands.
        filters: channels of each stage.

    Input [n, band, row, col] with rows and columns divisible by ``multiple``; output logits
    [n, 1, row, col].
    """

    def __init__(self, bands: int, filters: Sequence[int] = (16, 32, 64, 128, 128)) -> None:
        super().__init__()
        filters = list(filters)
        self.multiple = 2 ** len(filters)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.encoder = nn.ModuleList(
            nn.Sequential(_convolution(before, after), _convolution(after, after))
            for before, after in pairwise([bands, *filters])
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(_convolution(before, before), _convolution(before, after))
            for before, after in pairwise([*filters[::-1], filters[0]])
        )
        self.head = nn.Conv2d(filters[0], 1, kernel_size=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [n, 1, row, col] of normalised images [n, band, row, col]."""
        places = []
        for stage in self.encoder:
            features, indices = self.pool(stage(features))
            places.append(indices)
        for stage in self.decoder:
            features = stage(self.unpool(features, places.pop()))
        return self.head(features)


def _convolution(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


class Padded(nn.Module):
    """A network that halves its input several times, made to take images of any size.

    Rows and columns are added at the bottom and the right by reflection, up to a multiple of
    ``multiple`` and to ``least``, and cut off the result. A single channel of the result is
    dropped. In training a batch of one image is doubled for the network: batch normalisation of
    features that have shrunk to one value needs a second.
    """

    def __init__(self, network: nn.Module, multiple: int, least: int = 1) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple
        self.least = least

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n, row, col] of normalised images [n, band, row, col]."""
        logits = self.network(self._padded(images))
        logits = logits[:, 0] if logits.ndim == 4 else logits
        return logits[: len(images), : images.shape[-2], : images.shape[-1]]

    def _padded(self, images: torch.Tensor) -> torch.Tensor:
        """Double a single image in training, and add rows and columns."""
        if self.training and len(images) == 1:
            images = torch.cat([images, images])
        wanted = [max(size, self.least) for size in images.shape[-2:]]
        wanted = [size + -size % self.multiple for size in wanted]
        down, right = (new - old for new, old in zip(wanted, images.shape[-2:], strict=True))
        # Reflection needs more pixels than it adds; a sliver repeats its last row instead.
        for padding, count in (((0, 0, 0, down), -2), ((0, right, 0, 0), -1)):
            if any(padding):
                mode = "reflect" if max(padding) < images.shape[count] else "replicate"
                images = nn.functional.pad(images, padding, mode=mode)
        return images
