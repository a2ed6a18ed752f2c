"""Losses that look only at pixels whose label is known, and ways to doubt old outlines.

Every loss is called as ``loss(logits, labels)`` with logits float [n, row, col] and labels uint8
[n, row, col] of 0, 1 and 255, and returns a scalar. Label 255 counts in no loss: values there
change neither the loss nor its gradient, and where no pixel is known both are 0. All sums run
over the known pixels of the whole batch, so that patches without glacier do not dominate. The
arithmetic is float32 under any autocast (float64 for float64 logits).

``target`` (float 0..1) replaces the label's 0 and 1, and ``weight`` (float, at least 0) says how
much a pixel counts; both [n, row, col]. ``Loss`` makes them from settings.

Of segmentation-models-pytorch only the Lovász loss is taken. Where every pixel is known its
cross-entropy, focal and Dice losses come to the same. With ``ignore_index`` its cross-entropy is
divided by the number of all pixels, so that a patch with much unknown ground counts less; its Dice
loss is 0 for a batch without glacier, whose false alarms then cost nothing; its focal loss is nan
where no pixel is known; and none of them takes soft targets together with weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError, did_you_mean

NOISE = ("none", "ignore_band", "soft_band", "bootstrap")
BAND_PX = 2  # on each side of a label's edge
TRUST = 0.8  # in the label, where the network's own probability counts too

Tensor = torch.Tensor
Maybe = torch.Tensor | None


def bce(logits: Tensor, labels: Tensor, target: Maybe = None, weight: Maybe = None) -> Tensor:
    """Binary cross-entropy, the mean over the known pixels."""
    logits, target, weight = _known(logits, labels, target, weight)
    return _mean(_entropy(logits, target), weight)


def focal(logits: Tensor, labels: Tensor, target: Maybe = None, weight: Maybe = None) -> Tensor:
    """Focal loss: cross-entropy times (y - p)^2, the mean over the known pixels.

    Pixels that are right already count little. Lin et al. (2017), Focal Loss for Dense Object
    Detection, ICCV, without their weight alpha, which was made for one object in a thousand boxes;
    written for soft targets as by Li et al. (2020), Generalized Focal Loss, NeurIPS.
    """
    logits, target, weight = _known(logits, labels, target, weight)
    distance = (target - logits.sigmoid()).abs()
    return _mean(_entropy(logits, target) * distance**2.0, weight)


def dice(logits: Tensor, labels: Tensor, target: Maybe = None, weight: Maybe = None) -> Tensor:
    """Soft Dice loss: 1 - (2 sum min(p, y) + 1) / (sum p + sum y + 1).

    Milletari et al. (2016), V-Net, 3DV. For labels of 0 and 1, min(p, y) is the usual p y; for
    soft targets it makes p = y the best answer, which p y does not: Wang et al. (2023), Dice
    Semimetric Losses, MICCAI.
    """
    logits, target, weight = _known(logits, labels, target, weight)
    probability, target = logits.sigmoid() * weight, target * weight
    overlap = 2 * torch.minimum(probability, target).sum() + 1
    return 1 - overlap / (probability.sum() + target.sum() + 1)


def bce_dice(logits: Tensor, labels: Tensor, target: Maybe = None, weight: Maybe = None) -> Tensor:
    """Sum of ``bce`` and ``dice``: the one judges each pixel, the other the overlap."""
    return bce(logits, labels, target, weight) + dice(logits, labels, target, weight)


def lovasz(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovász hinge: a convex surface over 1 - IoU of the known pixels of the batch.

    Berman et al. (2018), The Lovász-Softmax Loss, CVPR. It asks logits to pass 1 and -1 and no
    more, so ``sigmoid`` of them is a poor probability before calibration. It knows neither soft
    targets nor weights.
    """
    # Takes seconds to import; networks, which come first, need it anyway.
    from segmentation_models_pytorch.losses import LovaszLoss

    known = labels != UNKNOWN
    logits, target, _ = _known(logits, labels, None, None)
    labels = torch.where(known, target, UNKNOWN)
    with torch.autocast(logits.device.type, enabled=False):
        return LovaszLoss("binary", ignore_index=UNKNOWN)(logits, labels)


def boundary(logits: Tensor, labels: Tensor, target: Maybe = None, weight: Maybe = None) -> Tensor:
    """Sum of ``bce`` and ``dice``, the cross-entropy weighted towards the label's edge.

    A pixel at the distance d from the edge weighs 1 + 4 exp(-d^2 / 8), d in pixels, the
    border weight of Ronneberger et al. (2015), U-Net, MICCAI, for one edge instead of two. It
    needs no schedule, unlike the boundary loss of Kervadec et al. (2019), MIDL, whose weight has
    to grow during training.
    """
    distance = edge_distance(labels, 6)
    border = 1 + 4.0 * torch.exp(-(distance**2) / 8.0)
    border = border if weight is None else border * weight
    return bce(logits, labels, target, border) + dice(logits, labels, target, weight)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce_dice": bce_dice,
    "bce": bce,
    "focal": focal,
    "dice": dice,
    "lovasz": lovasz,
    "boundary": boundary,
}


@dataclass(frozen=True)
class Loss:
    """A loss with its treatment of the labels, called as ``loss(logits, labels)``.

    Args:
        name: one of ``LOSSES``.
        smoothing: label smoothing e: the target is (1 - e) y + e / 2. Szegedy et al. (2016),
            Rethinking the Inception Architecture, CVPR.
        noise: what to do about labels older than the image, of ``NOISE``: "none"; "ignore_band",
            two pixels on each side of the label's edge are unknown (``BAND_PX``); "soft_band", they
            count with the weight distance / 2; "bootstrap", the target is b y + (1 - b) p with b =
            0.8 (``TRUST``) and the network's own probability p as a constant: the soft
            bootstrapping of Reed et al. (2015), Training Deep Neural Networks on Noisy Labels,
            ICLR workshop (they took b = 0.95 for it).

    Raises:
        GlacierError: an unknown name, a number out of range, or a combination without sense:
            "lovasz" takes neither soft targets nor weights ("none" and "ignore_band" remain), and
            "boundary" stresses the very pixels that a band would silence.
    """

    name: str = "bce_dice"
    smoothing: float = 0.0
    noise: str = "none"

    def __post_init__(self) -> None:
        for kind, name, known in (("loss", self.name, LOSSES), ("noise", self.noise, NOISE)):
            if name not in known:
                raise GlacierError(f"{kind} {name!r}: unknown; {did_you_mean(name, known)}")
        if not 0 <= self.smoothing < 1:
            raise GlacierError(f"loss: smoothing is {self.smoothing}, must be from 0 to below 1")
        if self.name == "lovasz" and (self.smoothing or self.noise in ("soft_band", "bootstrap")):
            raise GlacierError(
                "loss lovasz takes no soft targets and no weights: set smoothing to 0 and noise to "
                "'none' or 'ignore_band', or choose another loss"
            )
        if self.name == "boundary" and self.noise in ("ignore_band", "soft_band"):
            raise GlacierError(
                f"loss boundary stresses the label's edge, which noise {self.noise!r} silences: "
                "choose loss 'bce_dice', or noise 'none' or 'bootstrap'"
            )

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits and labels [n, row, col]."""
        settings = {}
        if self.noise == "ignore_band":
            labels = torch.where(edge_distance(labels, BAND_PX) < BAND_PX, UNKNOWN, labels)
        if self.noise == "soft_band":
            settings["weight"] = (edge_distance(labels, BAND_PX) / BAND_PX).clamp(max=1)
        if self.smoothing or self.noise == "bootstrap":
            target = (labels == 1).to(_float(logits).dtype)
            target = (1 - self.smoothing) * target + self.smoothing / 2
            if self.noise == "bootstrap":
                own = _float(logits).detach().sigmoid()
                target = TRUST * target + (1 - TRUST) * own
            settings["target"] = target
        return LOSSES[self.name](logits, labels, **settings)


def edge_distance(labels: Tensor, reach: int) -> Tensor:
    """Return how far each pixel's centre lies from the edge between glacier and not glacier.

    Edges run between two known pixels that share a side; the frame of a patch is none, nor is a
    change from known to unknown.

    Args:
        labels: uint8 [n, row, col] of 0, 1 and 255.
        reach: distances are found up to so many pixels.

    Returns:
        float32 [n, row, col] in px: 0.5 beside an edge, inf beyond ``reach`` + 0.5. The Euclidean
        distance to the nearest pixel beside an edge, plus one half. Rows after columns, as by
        Felzenszwalb and Huttenlocher (2012), Theory of Computing 8, on the labels' device.
    """
    glacier, known = labels == 1, labels != UNKNOWN
    beside = torch.zeros_like(known)
    for axis in (-2, -1):
        size = labels.shape[axis] - 1
        one, two = ((glacier.narrow(axis, k, size), known.narrow(axis, k, size)) for k in (0, 1))
        edge = (one[0] != two[0]) & one[1] & two[1]
        beside.narrow(axis, 0, size).logical_or_(edge)
        beside.narrow(axis, 1, size).logical_or_(edge)
    squared = torch.where(beside, 0.0, math.inf)
    for axis in (-2, -1):
        nearest = squared.clone()
        for offset in range(1, min(reach, labels.shape[axis] - 1) + 1):
            size = labels.shape[axis] - offset
            for here, there in ((0, offset), (offset, 0)):
                part = nearest.narrow(axis, here, size)
                torch.minimum(part, squared.narrow(axis, there, size) + offset**2, out=part)
        squared = nearest
    return torch.where(squared <= reach**2, squared.sqrt() + 0.5, math.inf)


def _known(
    logits: Tensor, labels: Tensor, target: Maybe, weight: Maybe
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, target and weight as floats, 0 wherever the label is unknown."""
    if logits.shape != labels.shape:
        # Broadcasting would compare every image with every label.
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} differ")
    known, logits = labels != UNKNOWN, _float(logits)
    target = (labels == 1) if target is None else torch.where(known, target, 0)
    weight = known if weight is None else torch.where(known, weight, 0)
    return torch.where(known, logits, 0), target.to(logits.dtype), weight.to(logits.dtype)


def _float(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _entropy(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1)
