"""Means over a neighbourhood where a network was trained with means over a whole patch.

Squeeze and excitation (Hu et al. 2018, CVPR), as in every block of an EfficientNet, weighs features
by their mean over the image. In training that is a patch of 1.28 km; in a larger window it is a
landscape, and what the weights have learned no longer fits: on the sample, a U-Net with an
EfficientNet-B4 lost 0.03 (August) and 0.08 (July) of its IoU in windows of 512 px, with holes in
the middle of wide snow. Taking each mean over a neighbourhood of the patch's size instead (Chu et
al. 2022, ECCV) gives most of it back, and leaves patches themselves as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_CELL = 32  # px of the image; means of cells are what neighbourhoods are made of
_WHOLE = (1, (1, 1), [1, 1])  # output sizes of a pooling over the whole image


class LocalPooling(TorchFunctionMode):
    """While active, pooling over whole images gives means over neighbourhoods, as maps.

    They are multiplied or joined with the features as the one mean would be. For networks that work
    on each channel's mean by 1 x 1 convolutions and nothing else, as squeeze and excitation, the
    pyramids of DeepLab and PSPNet, and global attention do.

    Args:
        side: of the neighbourhood in pixels of the image: the patch of the training.
        height: of the image that goes through the network.

    Attributes:
        used: whether the network has taken such a mean.
    """

    def __init__(self, side: int, height: int) -> None:
        super().__init__()
        self.side, self.height, self.used = side, height, False

    def __torch_function__(
        self, func: Callable, types: Iterable, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if _pools(func, args, kwargs or {}):
            self.used = True
            features = args[0]
            # Features are smaller by a power of two; images are padded to a multiple of it.
            stride = 2 ** round(math.log2(max(self.height / features.shape[-2], 1)))
            return local_mean(features, self.side, stride)
        return func(*args, **(kwargs or {}))


def local_mean(features: torch.Tensor, side: int, stride: int = 1) -> torch.Tensor:
    """Return the mean of each channel about each pixel [n, channel, row, col].

    Means are exact at the corners (or middles) of cells of 32 px of the image and linear between
    them; at the frame's edge the neighbourhood is what lies inside. Where all of the image is no
    larger than the neighbourhood, it is the one mean, [n, channel, 1, 1].

    Args:
        features: [n, channel, row, col].
        side: of the neighbourhood in pixels of the image, rounded to whole cells.
        stride: pixels of the image to one of the features, a power of two.
    """
    step = max(_CELL // stride, 1)
    count = max(round(side / (step * stride)), 1)
    height, width = features.shape[-2:]
    if max(height, width) <= count * step:
        return features.mean((2, 3), keepdim=True)
    cells = functional.avg_pool2d(features.float(), step, ceil_mode=True, count_include_pad=False)
    means = functional.avg_pool2d(cells, count, 1, count // 2, count_include_pad=False)
    # An even number of cells is centred on a corner, an odd one on the middle of a cell.
    found = functional.interpolate(
        means, size=(height, width), mode="bilinear", align_corners=count % 2 == 0
    )
    return found.to(features.dtype)


def _pools(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Tell whether a call takes the mean over the rows and columns of images."""
    if not args or not isinstance(args[0], torch.Tensor) or args[0].dim() != 4:
        return False
    if func is functional.adaptive_avg_pool2d:
        return (args[1] if len(args) > 1 else kwargs.get("output_size")) in _WHOLE
    if func in (torch.Tensor.mean, torch.mean):
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        kept = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
        return bool(kept) and isinstance(dims, tuple | list) and {d % 4 for d in dims} == {2, 3}
    return False
