"""What the study tries: one change at a time against one base network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glacier_utils.training.settings import Settings

BASE = "unet-resnet18"
BASES = (BASE, "seed b", "seed c")  # the same with three seeds
# Settings of every network of the study; the learning rate is the default.
STUDY = Settings(epochs=10, patience=10, schedule="one_cycle")
_B4 = "unet-efficientnet-b4"


@dataclass(frozen=True)
class Trial:
    """One thing tried.

    Args:
        name: short, unique.
        group: what it is a kind of: baseline, network, loss, old outlines, training, augmentation
            or shift.
        what: one sentence.
        model: of the registry.
        options: fields of ``Settings`` that differ from the study's.
        both_dates: learn from the other date as well, for as many steps.
        batch_norm, flips: at prediction, as of ``adaptation.predict_by_scene``.
        pseudo: train further on confident maps of the test area's images.
        members: names of trials whose probabilities are averaged; nothing is trained.
    """

    name: str
    group: str
    what: str
    model: str = BASE
    options: Mapping[str, Any] = field(default_factory=dict)
    both_dates: bool = False
    batch_norm: bool = False
    flips: bool = False
    pseudo: bool = False
    members: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether a model is fitted for this trial alone."""
        return not (self.members or self.batch_norm or self.flips or self.pseudo)


def _loss(name: str, what: str) -> Trial:
    return Trial(name, "loss", what, options={"loss": name})


TRIALS = (
    Trial("threshold", "baseline", "brightness and NDWI", model="threshold"),
    Trial("random_forest", "baseline", "bands of single pixels", model="random_forest"),
    Trial(
        "gradient_boosting", "baseline", "bands and their neighbourhood", model="gradient_boosting"
    ),
    Trial(BASE, "network", "the base: BCE + Dice, mild augmentation, one-cycle schedule"),
    Trial("fpn-resnet18", "network", "feature pyramid", model="fpn-resnet18"),
    Trial("deeplabv3plus-resnet18", "network", "dilated context", model="deeplabv3plus-resnet18"),
    Trial("segformer-mit_b0", "network", "small transformer", model="segformer-mit_b0"),
    Trial("glaciernet", "network", "SegNet with few filters", model="glaciernet"),
    Trial("hedunet", "network", "mask and edge heads", model="hedunet"),
    Trial(
        f"{_B4}", "network", "larger encoder, from nothing", model=_B4, options={"weights": "none"}
    ),
    Trial(
        f"{_B4} csmask", "network", "the same from the cloud network's weights", model=_B4,
        options={"weights": "csmask"},
    ),
    _loss("bce", "cross-entropy alone"),
    _loss("dice", "Dice alone"),
    _loss("focal", "focal loss"),
    _loss("tversky", "Tversky loss"),
    _loss("lovasz", "Lovasz hinge"),
    _loss("boundary", "pixels near the outline count more"),
    Trial("smoothing", "old outlines", "label smoothing 0.1", options={"smoothing": 0.1}),
    Trial(
        "ignore_band", "old outlines", "2 px beside outlines unknown",
        options={"noise": "ignore_band"},
    ),
    Trial(
        "soft_band", "old outlines", "2 px beside outlines count less",
        options={"noise": "soft_band"},
    ),
    Trial(
        "bootstrap", "old outlines", "labels mixed with the network's own map",
        options={"noise": "bootstrap"},
    ),
    Trial("cosine", "training", "cosine schedule", options={"schedule": "cosine"}),
    Trial("average", "training", "weights averaged over the last third", options={"average": 0.3}),
    Trial("balanced", "training", "class-balanced sampling", options={"balanced": True}),
    Trial("no augmentation", "augmentation", "patches as they are",
          options={"augmentation": "none"}),
    Trial("strong", "augmentation", "all operations", options={"augmentation": "strong"}),
    Trial("scene", "shift", "per-scene normalisation", options={"normalisation": "scene"}),
    Trial("both dates", "shift", "July and August, as many steps", both_dates=True),
    Trial("batch_norm", "shift", "batch statistics of the test scene", batch_norm=True),
    Trial("flips", "shift", "mean over four mirror images", flips=True),
    Trial("pseudo-labels", "shift", "self-training on the test scene's images", pseudo=True),
    Trial("seed b", "seeds", "the base with another seed", options={"seed": 100}),
    Trial("seed c", "seeds", "the base with another seed", options={"seed": 200}),
    Trial(
        "three seeds", "shift", "mean of three base networks", members=(BASE, "seed b", "seed c")
    ),
    Trial(
        "three networks", "shift", "mean of base, fpn-resnet18 and segformer-mit_b0",
        members=(BASE, "fpn-resnet18", "segformer-mit_b0"),
    ),
)  # fmt: skip
