"""What the study tries: one change at a time against one base network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glacier_utils.training.settings import Settings

BASE = "unet-resnet18"
BASES = (BASE, "seed b", "seed c")  # the same with three seeds
# Settings of every network of the study; the learning rate is the default.
STUDY = Settings(steps=120, schedule="one_cycle", average=0.0)
_B4 = "unet-efficientnet-b4"


@dataclass(frozen=True)
class Trial:
    """One thing tried.

    Attributes:
        name: Short and unique.
        group: What it is a kind of: baseline, network, loss, old outlines, training, augmentation
            or shift.
        what: One sentence.
        model: Name in the registry of models.
        options: Fields of ``Settings`` that differ from the study's.
        both_dates: Learn from the other date as well, for as many steps.
        flips: Average the prediction over four mirror images.
        pseudo: Train further on confident maps of the test area's images.
        members: Names of trials whose probabilities are averaged; nothing is trained.
    """

    name: str
    group: str
    what: str
    model: str = BASE
    options: Mapping[str, Any] = field(default_factory=dict)
    both_dates: bool = False
    flips: bool = False
    pseudo: bool = False
    members: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether a model is fitted for this trial alone."""
        return not (self.members or self.flips or self.pseudo)


def _model(name: str, group: str, what: str) -> Trial:
    return Trial(name, group, what, model=name)


def _option(name: str, group: str, what: str, **options: Any) -> Trial:
    return Trial(name, group, what, options=options)


TRIALS = (
    _model("threshold", "baseline", "brightness and NDWI"),
    _model("random_forest", "baseline", "bands of single pixels"),
    _model("gradient_boosting", "baseline", "bands and their neighbourhood"),
    _model(BASE, "network", "the base: BCE + Dice, mild augmentation, one-cycle schedule"),
    _model("fpn-resnet18", "network", "feature pyramid"),
    _model("deeplabv3plus-resnet18", "network", "dilated context"),
    _model("segformer-mit_b0", "network", "small transformer"),
    _model("glaciernet", "network", "SegNet with few filters"),
    Trial(
        _B4, "network", "larger encoder, random initial weights", _B4, options={"weights": "none"}
    ),
    Trial(
        f"{_B4} csmask",
        "network",
        "the same from the cloud network's weights",
        _B4,
        options={"weights": "csmask"},
    ),
    _option("bce", "loss", "cross-entropy alone", loss="bce"),
    _option("dice", "loss", "Dice alone", loss="dice"),
    _option("focal", "loss", "focal loss", loss="focal"),
    _option("lovasz", "loss", "Lovasz hinge", loss="lovasz"),
    _option("boundary", "loss", "pixels near the outline count more", loss="boundary"),
    _option("smoothing", "old outlines", "label smoothing 0.1", smoothing=0.1),
    _option("ignore_band", "old outlines", "2 px beside outlines unknown", noise="ignore_band"),
    _option("soft_band", "old outlines", "2 px beside outlines count less", noise="soft_band"),
    _option(
        "bootstrap", "old outlines", "labels mixed with the network's own map", noise="bootstrap"
    ),
    _option("cosine", "training", "cosine schedule", schedule="cosine"),
    _option("average", "training", "moving average of the weights", average=0.99),
    _option("no augmentation", "augmentation", "patches as they are", augmentation="none"),
    _option("strong", "augmentation", "all operations", augmentation="strong"),
    Trial("both dates", "shift", "July and August, as many steps", both_dates=True),
    Trial("flips", "shift", "mean over four mirror images", flips=True),
    Trial("pseudo-labels", "shift", "self-training on the test scene's images", pseudo=True),
    _option("seed b", "seeds", "the base with another seed", seed=100),
    _option("seed c", "seeds", "the base with another seed", seed=200),
    Trial("three seeds", "shift", "mean of three base networks", members=BASES),
    Trial(
        "three networks",
        "shift",
        "mean of base, fpn-resnet18 and segformer-mit_b0",
        members=(BASE, "fpn-resnet18", "segformer-mit_b0"),
    ),
)
