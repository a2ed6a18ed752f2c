"""What a training keeps of itself: a row an epoch, the best weights, a state to go on from."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from tqdm import tqdm

from glacier_utils.errors import GlacierError

if TYPE_CHECKING:
    from glacier_utils.loop import Task
    from glacier_utils.settings import Settings

# The state of a training is some 200 MB for a U-Net: writing it more often would take longer than
# what it saves. A killed training loses no more than this and an epoch.
SAVE_EVERY_S = 60.0


class History(Checkpoint):
    """Collects a row an epoch and the best weights, saves the state, stops where nothing gains.

    A ``Checkpoint`` to Lightning, so that it comes last at the end of an epoch.
    """

    def __init__(self, state: Path, settings: Settings, name: str, progress: bool) -> None:
        self.state, self.settings = state, settings
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        # Kept with the state: a format measured anew could be another one.
        self.precision, self.channels_last = "float32", True
        self.bar = tqdm(total=settings.epochs, desc=name, unit="epoch", disable=not progress)
        self.started = time.perf_counter()
        self.saved = time.monotonic()

    def finished(self) -> bool:
        """Tell whether all epochs are over, or so many brought nothing that training stops."""
        scores = [row["validation_iou"] for row in self.rows]
        if not scores:
            return False
        without_gain = len(scores) - 1 - int(np.argmax(scores))
        return len(scores) >= self.settings.epochs or without_gain >= self.settings.patience

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: Task) -> None:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        before = max((row["validation_iou"] for row in self.rows), default=-math.inf)
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                "train_loss": logged["train_loss"],
                "validation_loss": logged["validation_loss"],
                "validation_iou": logged["validation_iou"],
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                "seconds": round(time.perf_counter() - self.started, 2),
            }
        )
        if logged["validation_iou"] > before:
            self._keep(task.judged().state_dict())
        best = max(before, logged["validation_iou"])
        self.bar.set_postfix(loss=f"{logged['train_loss']:.3f}", validation_iou=f"{best:.3f}")
        self.bar.update()
        finished = self.finished()
        trainer.should_stop = trainer.should_stop or finished
        # Whoever started the other processes learns what they did from the file.
        if trainer.world_size > 1 if finished else self._due(trainer):
            self._save(trainer)

    def _keep(self, weights: dict[str, torch.Tensor]) -> None:
        """Copy weights into the memory of those kept before: new memory costs more than copying."""
        if not self.best:
            self.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
            return
        for name, value in weights.items():
            self.best[name].copy_(value.detach())

    def _due(self, trainer: lightning.Trainer) -> bool:
        due = time.monotonic() - self.saved >= SAVE_EVERY_S
        return bool(trainer.strategy.broadcast(due))  # all processes save, or none

    def _save(self, trainer: lightning.Trainer) -> None:
        temporary = self.state.with_suffix(".new")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, self.state)
        self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.started
        formats = {"precision": self.precision, "channels_last": self.channels_last}
        return {"rows": self.rows, "best": self.best, "seconds": seconds, **formats}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.best = list(state["rows"]), dict(state["best"])
        self.precision, self.channels_last = state["precision"], state["channels_last"]
        self.started = time.perf_counter() - state["seconds"]
        self.bar.n = len(self.rows)

    def teardown(self, trainer: lightning.Trainer, task: lightning.LightningModule, stage: str):
        self.bar.close()


def state_of(path: Path, history: History) -> dict[str, Any]:
    """Read what the history wrote into a state."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return content["callbacks"][history.state_key]
    except Exception as error:  # zip, pickle and runtime errors, whatever lies in the file
        raise GlacierError(
            f"{path}: the state of a broken off training cannot be read "
            f"({type(error).__name__}); remove its folder to train from the start"
        ) from error
