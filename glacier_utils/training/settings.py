"""How to train: one frozen set of named choices, checked when it is made."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glacier_utils.errors import GlacierError
from glacier_utils.prediction.acceleration import resolve
from glacier_utils.training import augmentation as augmentation_module

STATE = "state.ckpt"  # the file of a training that is under way
SCHEDULES = ("one_cycle", "cosine", "constant")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
NORMALISATIONS = ("training", "scene")


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        epochs: at most so many passes over the training patches.
        batch_size: patches a step, over all processes together.
        learning_rate: its highest value.
        weight_decay: of AdamW.
        schedule: of the learning rate, step by step: "cosine" (down from the start; Loshchilov and
            Hutter 2017), "one_cycle" (up for a fifth of the steps, then down; Smith and Topin 2019)
            or "constant". The study (notebook 03) found cosine the better one for short trainings.
        patience: epochs without a better validation IoU before training stops.
        gradient_clip: largest norm of the gradient.
        seed: of weights, order and augmentation.
        loss: one of ``losses.LOSSES``.
        smoothing: label smoothing, 0 to below 1.
        noise: what is done about faults of old outlines, of ``losses.Loss``.
        augmentation: a recipe of ``augmentation.RECIPES``, or operations joined by "+".
        smallest_crop: side in pixels, a multiple of 32, of the crops with which a training begins;
            they grow to whole patches (``crops``). From 64 to 128 px, trainings took a quarter to a
            third less time; what that costs in IoU is told in notebook 03. 0: whole patches.
        balanced: draw patches with the store's weights, which even out their fractions of glacier,
            in place of each patch once an epoch.
        average: share of the epochs, at the end, over which the weights are averaged (stochastic
            weight averaging, Izmailov et al. 2018, UAI); the learning rate then stays at a tenth of
            its highest value. 0: no averaging.
        weights: that the network starts from, as of ``pretrained.start``: "none", "imagenet",
            "csmask", "auto" (csmask where bands and sensor fit, else none) or a checkpoint's path.
        normalisation: "training" (mean and deviation of the training pixels) or "scene" (of each
            scene itself: what is brighter as a whole then looks the same).
        precision: "auto" (bf16 where the processor has it), "bf16" or "float32".
        threads: of torch; None leaves torch's own choice.
        pixels: size of the sample of pixels that the pixel baselines are fitted to.
        accelerator, devices, nodes, strategy: handed to Lightning's Trainer, for GPUs and several
            processes.
    """

    epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    patience: int = 20
    gradient_clip: float = 1.0
    seed: int = 0
    loss: str = "bce_dice"
    smoothing: float = 0.0
    noise: str = "none"
    augmentation: str = "mild"
    smallest_crop: int = 0
    balanced: bool = False
    average: float = 0.0
    weights: str = "auto"
    normalisation: str = "training"
    precision: str = "auto"
    threads: int | None = None
    pixels: int = 200_000
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        from glacier_utils.models.losses import Loss
        from glacier_utils.training.augmentation import operations

        positive = ["epochs", "batch_size", "learning_rate", "patience", "gradient_clip", "pixels"]
        for name in [*positive, "nodes"]:
            if not getattr(self, name) > 0:
                raise GlacierError(f"settings: {name} is {getattr(self, name)}, must be above 0")
        if not (self.devices > 0 or self.devices == -1):
            raise GlacierError(f"settings: devices is {self.devices}, must be above 0, or -1: all")
        for name in ("seed", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise GlacierError(f"settings: {name} is {getattr(self, name)}, must be 0 or more")
        if self.threads is not None and self.threads < 1:
            raise GlacierError(f"settings: threads is {self.threads}, must be above 0")
        if not 0 <= self.average < 1:
            raise GlacierError(f"settings: average is {self.average}, must be from 0 to below 1")
        _choice("schedule", self.schedule, SCHEDULES)
        _choice("accelerator", self.accelerator, ACCELERATORS)
        _choice("normalisation", self.normalisation, NORMALISATIONS)
        resolve(self.precision)
        Loss(self.loss, smoothing=self.smoothing, noise=self.noise)
        operations(self.augmentation)
        augmentation_module.check(self.smallest_crop)

    def averaging_from(self) -> int:
        """Return the first epoch, counted from 0, after which weights are averaged."""
        return self.epochs - max(1, round(self.average * self.epochs)) if self.average else -1


def make_settings(**options: Any) -> Settings:
    """Make settings from names that a user wrote.

    Raises:
        GlacierError: an unknown name (the nearest is suggested), or a value of the wrong kind.
    """
    return change_settings(Settings(), options)


def change_settings(settings: Settings, options: Mapping[str, Any]) -> Settings:
    """Return ``settings`` with some fields set anew; errors as of `make_settings`."""
    known = {field.name: field for field in dataclasses.fields(Settings)}
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise GlacierError(f"settings: there is no {name!r}; {hint}")
        default = known[name].default
        wanted = int if name == "threads" else type(default)
        fits = isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)
        if not (fits or (wanted is float and type(value) is int)) and value != default:
            raise GlacierError(f"settings: {name} is {value!r}, but takes a value like {default!r}")
    return dataclasses.replace(settings, **options)


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise GlacierError(f"settings: {name} is {value!r}, must be one of {', '.join(known)}")
