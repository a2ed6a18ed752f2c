"""How to train: one frozen set of named choices, checked when it is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from glacier_utils.errors import GlacierError, did_you_mean
from glacier_utils.models.losses import Loss
from glacier_utils.training.augmentation import operations

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """How to train.

    Args:
        epochs: at most so many passes over the training patches.
        batch_size: patches per step, over all processes together.
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
        average: fraction of the epochs, at the end, over which the weights are averaged (stochastic
            weight averaging, Izmailov et al. 2018, UAI); the learning rate then stays at a tenth of
            its highest value. 0: no averaging.
        weights: that the network starts from, as of ``pretrained.start``: "none", "imagenet",
            "csmask", "auto" (csmask where bands and sensor fit, else none) or a checkpoint's path.
        precision: "auto" (bf16 where the processor has it), "bf16" or "float32".
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
        >>> Settings(epochs=3).changed(loss="focal").epochs
        3
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    epochs: Count = 20
    batch_size: Count = 8
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    schedule: Literal["one_cycle", "cosine", "constant"] = "cosine"
    patience: Count = 20
    gradient_clip: Positive = 1.0
    seed: Annotated[int, Field(ge=0)] = 0
    loss: str = "bce_dice"
    smoothing: float = 0.0
    noise: str = "none"
    augmentation: str = "mild"
    average: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
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

    def averaging_from(self) -> int:
        """Return the first epoch, counted from 0, after which weights are averaged; -1: none."""
        return self.epochs - max(1, round(self.average * self.epochs)) if self.average else -1


def _reason(error: ValidationError) -> str:
    """Say in one line what is wrong with the first of the values that cannot be taken."""
    first = error.errors(include_url=False)[0]
    name = first["loc"][0]
    if first["type"] == "extra_forbidden":
        return f"there is no {name!r}; {did_you_mean(name, Settings.model_fields)}"
    return f"{name} is {first['input']!r}, {first['msg'].replace('Input should', 'must')}"
