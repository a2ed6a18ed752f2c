"""Losses that look only at pixels whose label is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F

UNKNOWN = 255


def bce_dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy plus Dice loss over the known pixels of a batch.

    Args:
        logits: float [n, row, col].
        labels: uint8 [n, row, col] of 0, 1 and 255; 255 counts in neither term.

    Returns:
        A scalar: mean cross-entropy + 1 - (2 sum(p y) + 1) / (sum p + sum y + 1), the sums over
        the whole batch, so that patches without glacier do not dominate; 0 where no pixel is
        known. Soft Dice: Milletari et al. (2016), V-Net, 3DV.
    """
    known = (labels != UNKNOWN).float()
    target = (labels == 1).float()
    logits = logits.float()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid() * known
    overlap = 2 * (probability * target).sum() + 1
    dice = 1 - overlap / (probability.sum() + target.sum() + 1)
    return (entropy * known).sum() / known.sum().clamp(min=1) + dice
