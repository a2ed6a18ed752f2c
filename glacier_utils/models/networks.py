"""A GlacierNet-style network: SegNet, small enough to draw on a blackboard.

HED-UNet in the manner of Heidler et al. 2021: the mask of a glacier and its edge, together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from glacier_utils.conventions import UNKNOWN
from glacier_utils.models.losses import bce_dice


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


class HEDUNet(nn.Module):
    """A U-Net that says at every level where the glacier is and where its edge is.

    The decoder goes from coarse to fine. At each of its levels two small heads look at the
    features: one for the mask, one for the edge. What a head says is brought to the size of the
    image, and attention decides for every pixel which level to listen to: coarse levels know
    what is a glacier, fine levels where it ends. ``filters`` are few, so that training needs
    minutes on two processor cores. The paper's network is larger, and its attention is built
    differently in detail.

        encoder:   image -> 16 -> 32 -> 64 -> 128 -> 256       (halved at each arrow but the first)
        decoder:                          256 -> 128 -> 64 -> 32 -> 16      (doubled at each arrow)
        heads:                             |      |     |     |     |
        sides:                            mask and edge, attention to each
        result:                           sum of the sides, weighted by softmax of the attention

    Reference: Heidler, K., Mou, L., Baumhoer, C., Dietz, A., Zhu, X. X. (2021): HED-UNet: Combined
    segmentation and edge detection for monitoring the Antarctic coastline. IEEE TGRS 60. Edges and
    deep supervision: Xie, S., Tu, Z. (2015): Holistically-nested edge detection. ICCV.

    Args:
        bands: number of input bands.
        filters: channels of each level, fine to coarse.
        edge_weight, side_weight: of the two parts of ``auxiliary_loss``.

    Input [n, band, row, col] with rows and columns divisible by ``multiple``; output the mask's
    logits [n, row, col].
    """

    def __init__(
        self,
        bands: int,
        filters: Sequence[int] = (16, 32, 64, 128, 256),
        edge_weight: float = 0.5,
        side_weight: float = 0.5,
    ) -> None:
        super().__init__()
        filters = list(filters)
        if not filters:
            raise ValueError("filters must name at least one level")
        self.multiple = 2 ** (len(filters) - 1)
        self.edge_weight, self.side_weight = edge_weight, side_weight
        self.encoder = nn.ModuleList(
            _two_convolutions(before, after) for before, after in pairwise([bands, *filters])
        )
        coarse_to_fine = filters[::-1]
        # Fewer channels before they are enlarged: the widest level costs the most.
        self.narrow = nn.ModuleList(
            nn.Conv2d(coarse, fine, kernel_size=1) for coarse, fine in pairwise(coarse_to_fine)
        )
        self.decoder = nn.ModuleList(
            _two_convolutions(2 * fine, fine) for fine in coarse_to_fine[1:]
        )
        self.mask = LevelAttention(coarse_to_fine)
        self.edge = LevelAttention(coarse_to_fine)
        self._sides: tuple[torch.Tensor, ...] | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        levels = self.levels(images)
        mask, mask_sides = self.mask(levels)
        self._sides = (mask_sides, *self.edge(levels)) if self.training else None
        return mask

    def edges(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, row, col] of the glacier's edge (see ``edge_labels``)."""
        return self.edge(self.levels(images))[0]

    def levels(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the decoder's features, coarse to fine; the last are as large as the images."""
        skips = [self.encoder[0](images)]
        for stage in self.encoder[1:]:
            skips.append(stage(F.max_pool2d(skips[-1], 2)))
        levels = [skips.pop()]
        for narrow, stage in zip(self.narrow, self.decoder, strict=True):
            doubled = F.interpolate(narrow(levels[-1]), scale_factor=2.0, mode="nearest")
            levels.append(stage(torch.cat([doubled, skips.pop()], dim=1)))
        return levels

    def auxiliary_loss(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of edges and sides of the last forward pass in ``train`` mode.

        Edges: class-balanced cross-entropy of the combined edge and of each side, since edges are
        a few pixels among many. Masks: ``losses.bce_dice`` of each side (deep supervision). Pixels
        that are not known count in neither; all is computed in float32.

        Args:
            labels: uint8 [n, row, col] of 0, 1 and 255, of the images of that pass.

        Returns:
            A scalar: edge_weight (combined edge + mean of edge sides) + side_weight (mean of mask
            sides). The sides are let go, so each pass gives one loss.
        """
        if self._sides is None:
            raise RuntimeError("auxiliary_loss needs a forward pass in train mode before it")
        (mask_sides, edge, edge_sides), self._sides = self._sides, None
        targets = edge_labels(labels)
        edge_losses = [balanced_bce(side, targets) for side in edge_sides.unbind(1)]
        mask_losses = [bce_dice(side, labels) for side in mask_sides.unbind(1)]
        of_edges = balanced_bce(edge, targets) + torch.stack(edge_losses).mean()
        return self.edge_weight * of_edges + self.side_weight * torch.stack(mask_losses).mean()

    def __getstate__(self) -> dict[str, Any]:
        # Tensors in the midst of a graph cannot be copied, and no copy of the network needs them.
        return self.__dict__ | {"_sides": None}


class LevelAttention(nn.Module):
    """Says one thing at every level, and combines the levels by attention.

    Args:
        filters: channels of the levels, coarse to fine.

    Calling it with the levels' features, each [n, channel, row, col], gives the combined logits
    [n, row, col] and those of the levels [n, level, row, col], all as large as the last level.
    """

    def __init__(self, filters: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(count, 2, kernel_size=1) for count in filters)

    def forward(self, levels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        size = levels[-1].shape[-2:]
        said = [
            F.interpolate(head(features).float(), size=size, mode="bilinear", align_corners=False)
            for head, features in zip(self.heads, levels, strict=True)
        ]
        sides, attention = torch.stack(said, dim=1).unbind(2)
        return (sides * attention.softmax(dim=1)).sum(dim=1), sides


def edge_labels(labels: torch.Tensor) -> torch.Tensor:
    """Mark the edges of labels: uint8 [n, row, col] of 0, 1 and 255 -> the same.

    An edge is a pixel whose 3 x 3 neighbourhood holds both glacier and other ground, so edges are
    two pixels wide. Where the neighbourhood holds a pixel that is not known, so is the edge.
    """

    def near(value: int) -> torch.Tensor:
        """Tell where the neighbourhood holds a label."""
        return F.max_pool2d((labels == value).float()[:, None], 3, stride=1, padding=1)[:, 0] > 0

    edges = (near(1) & near(0)).to(torch.uint8)
    return edges.masked_fill(near(UNKNOWN), UNKNOWN)


def balanced_bce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy in which the two classes weigh the same (Xie and Tu 2015, ICCV).

    ``logits`` float and ``labels`` uint8 [n, row, col]; 255 is left out. A class that is not there
    counts 0.
    """
    logits = logits.float()
    entropy = F.softplus(logits) - logits * (labels == 1)

    def mean(chosen: torch.Tensor) -> torch.Tensor:
        return (entropy * chosen).sum() / chosen.sum().clamp(min=1)

    return (mean(labels == 1) + mean(labels == 0)) / 2


def _two_convolutions(before: int, after: int) -> nn.Module:
    return nn.Sequential(_hed_convolution(before, after), _hed_convolution(after, after))


def _hed_convolution(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
