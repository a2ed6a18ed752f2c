"""How to train: one frozen set of named choices, checked when it is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from glacier_utils.errors import GlacierError, did_you_mean
from glacier_utils.models.losses import Loss
from glacier_utils.training.augmentation import operations

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


VALIDATIONS = 20
"""So often a network is validated in a training."""

_FEW_EPOCHS = 20  # from which the default number of steps is enough


class Settings(BaseModel):
    """How to train.

    Args:
        steps: at most so many batches, rounded up to twenty equal parts, after each of which the
            network is validated.
        batch_size: windows per step, over all processes together; one per process at least.
        learning_rate: its highest value.
        weight_decay: of AdamW.
        schedule: of the learning rate, step by step: "cosine" (down from the start; Loshchilov and
            Hutter 2017), "one_cycle" (up for a fifth of the steps, then down; Smith and Topin 2019)
            or "constant".
        patience: steps without a better validation IoU before training stops, from the first state
            on that does better than calling all ground glacier; None: it goes on.
        gradient_clip: largest norm of the gradient.
        seed: of weights, order and augmentation.
        loss: one of ``losses.LOSSES``.
        smoothing: label smoothing, 0 to below 1.
        noise: what is done about faults of old outlines, of ``losses.Loss``.
        augmentation: a recipe of ``augmentation.RECIPES``, or operations joined by "+".
        average: decay per step of an exponential moving average of weights and of the statistics of
            normalisations, which is what is validated and kept (Polyak and Juditsky 1992); 0: none.
            Without it scores jump from one validation to the next, on small grounds by .2 of IoU.
        weights: that the network starts from, as of ``pretrained.start``: "none", "imagenet",
            "csmask", "builtin", "auto" (csmask where bands and sensor fit, else none) or the path
            of a checkpoint.
        precision: "auto" (bf16 where it is faster), "bf16" or "float32".
        threads: of torch; None leaves torch's own choice.
        pixels: size of the sample of pixels that the pixel baselines are fitted to.
        accelerator: handed to Lightning's Trainer, as are the following three.
        devices: processes on a node, -1 for all there are.
        nodes: computers.
        strategy: how several processes work together.

    Raises:
        GlacierError: an unknown name (the nearest is suggested), or a value of the wrong kind or
            out of range.

    Example:
        >>> Settings(steps=300).changed(loss="focal").steps_between
        15
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    steps: Count = 1000
    batch_size: Count = 8
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    schedule: Literal["one_cycle", "cosine", "constant"] = "cosine"
    patience: Count | None = None
    gradient_clip: Positive = 1.0
    seed: Annotated[int, Field(ge=0)] = 0
    loss: str = "bce_dice"
    smoothing: float = 0.0
    noise: str = "none"
    augmentation: str = "mild"
    average: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.99
    weights: str = "auto"
    precision: Literal["auto", "bf16", "float32"] = "auto"
    threads: Count | None = None
    pixels: Count = 200_000
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Count | Literal[-1] = 1
    nodes: Count = 1
    strategy: str = "auto"

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise GlacierError(f"settings: {_reason(error)}") from None

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Check what only other modules know."""
        Loss(self.loss, smoothing=self.smoothing, noise=self.noise)
        operations(self.augmentation)
        return self

    def changed(self, **options: Any) -> Settings:
        """Return settings with some fields set anew, checked like all others."""
        return Settings(**{**self.model_dump(), **options})

    @property
    def steps_between(self) -> int:
        """Steps from one validation to the next."""
        return -(-self.steps // VALIDATIONS)

    @property
    def validations(self) -> int:
        """Number of validations in a whole training."""
        return -(-self.steps // self.steps_between)

    @property
    def whole_steps(self) -> int:
        """Steps of a whole training."""
        return self.validations * self.steps_between


def steps_for(epochs: Any) -> str:
    """Say which number of steps stands for a number of epochs."""
    few = isinstance(epochs, int) and epochs < _FEW_EPOCHS
    steps = 50 * epochs if few else Settings.model_fields["steps"].default
    return f"write steps: {steps} in place of epochs: {epochs}"


def _reason(error: ValidationError) -> str:
    """Say in one line what is wrong with the first of the values that cannot be taken."""
    first = error.errors(include_url=False)[0]
    name = first["loc"][0]
    if name == "epochs":
        return f"epochs are steps now, batches of random windows; {steps_for(first['input'])}"
    if first["type"] == "extra_forbidden":
        return f"there is no {name!r}; {did_you_mean(name, Settings.model_fields)}"
    return f"{name} is {first['input']!r}, {first['msg'].replace('Input should', 'must')}"
