"""The training of a network, with Lightning: batches, learning rate, loop and what it keeps.

`train_network` trains one network. `Task` is what Lightning trains: the network with its data, its
loss and its optimiser. `History` collects a row per epoch, the best weights, and a state from which
a training that was killed goes on to the same weights. Lightning takes seconds to import, so this
module is imported only where a network is trained.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError, quiet_loggers
from glacier_utils.files import release_pages
from glacier_utils.models.checkpoint import Segmenter
from glacier_utils.models.losses import Loss, bce_dice
from glacier_utils.prediction.acceleration import faster_steps, resolve
from glacier_utils.training.augmentation import augment, operations
from glacier_utils.training.settings import Settings
from glacier_utils.training.windows import TrainingGround

if TYPE_CHECKING:
    from glacier_utils.datasets.store import PatchStore

SAVE_EVERY_S = 60.0
"""Seconds between two states. One is some 200 MB for a U-Net: to write it more often would take
longer than it saves. A killed training loses no more than this and what lies between two
validations."""

_LOGGED = ("train_loss", "validation_loss", "validation_iou")


def train_network(
    segmenter: Segmenter,
    store: PatchStore,
    train: np.ndarray,
    validation: np.ndarray,
    settings: Settings,
    state: Path,
    *,
    progress: bool = True,
    callbacks: Sequence[lightning.Callback] = (),
) -> pd.DataFrame:
    """Train a segmenter in place and leave it with the weights that did best on validation.

    What a process was doing when it was killed goes on from ``state`` and comes to the same
    weights: windows, augmentation and dropout of a step follow from seed and number of the step
    alone.

    Args:
        segmenter: with the weights to start from.
        store: the patches.
        train: positions of those to learn from.
        validation: positions of those that choose the weights; without any the last are kept.
        settings: how to train.
        state: file of the last state, in a folder of this training alone, which has to exist. It
            stays there.
        progress: show a bar.
        callbacks: of Lightning.

    Returns:
        The history, a row per validation.

    Raises:
        GlacierError: fewer validation patches than processes, an accelerator or strategy that
            Lightning does not have, a state that cannot be read.
    """
    device = {"gpu": "cuda"}.get(settings.accelerator, settings.accelerator)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    processes = max(settings.devices, 1) * settings.nodes
    if 0 < len(validation) < processes:
        raise GlacierError(
            f"{len(validation)} validation patches are too few for {processes} processes; set "
            "devices to less"
        )
    if processes > 1:
        _freeze_unused(segmenter)
    history = History(state, settings, segmenter.name, progress, least_iou(store, validation))
    if state.is_file():
        history.read_state()
    else:
        history.precision = resolve(settings.precision, device)
    task = Task(segmenter, settings, store, train, validation)
    task.to(memory_format=torch.channels_last)
    bf16 = history.precision == "bf16"
    with _quiet(), faster_steps(segmenter, bf16=bf16) if device == "cpu" else nullcontext():
        trainer = _trainer(
            max_epochs=settings.validations,
            accelerator=device,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=settings.strategy,
            precision="bf16-mixed" if bf16 else "32-true",
            callbacks=[*callbacks, history],
            default_root_dir=state.parent,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        if not history.finished():
            resumed = str(state) if state.is_file() else None
            with _interruptible(trainer):
                trainer.fit(task, ckpt_path=resumed, weights_only=True)
    if state.is_file() and not history.finished():  # other processes trained, not this one
        history.read_state()
    task.cpu()
    segmenter.load_state_dict(history.best)
    segmenter.requires_grad_(True)
    return pd.DataFrame(history.rows)


def _trainer(**settings: Any) -> lightning.Trainer:
    try:
        return lightning.Trainer(**settings)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GlacierError(f"settings: Lightning cannot train with them ({reason})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from announcing hardware and giving advice that does not apply here."""
    names = ("lightning.pytorch", "lightning.fabric")
    with warnings.catch_warnings(), quiet_loggers(names, logging.ERROR):
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*isinstance.*treespec.*")
        yield


@contextmanager
def _interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """Let an interruption be one: Lightning turns it into an exit and goes on ignoring the next."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
    finally:
        if main and before is not None:
            signal.signal(signal.SIGINT, before)
    if trainer.interrupted:
        raise KeyboardInterrupt


def _freeze_unused(segmenter: Segmenter) -> None:
    """Take weights that no loss reaches out of the training: several processes would wait for them.

    Encoders of the library hold some of the classifier they were.
    """
    twin = copy.deepcopy(segmenter).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, len(segmenter.bands), 64, 64, generator=generator)
    twin(images).square().mean().backward()
    for one, other in zip(segmenter.parameters(), twin.parameters(), strict=True):
        one.requires_grad_(other.grad is not None)


class Patches(Dataset):
    """Gives a whole batch at once: the index is an array of positions in the store."""

    def __init__(self, store: PatchStore) -> None:
        self.store = store

    def __getitem__(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        found = []
        for array in (self.store.images, self.store.labels):
            found.append(torch.from_numpy(np.ascontiguousarray(array[positions])))
            release_pages(array)
        return found[0], found[1]


class Windows(Dataset):
    """Gives a batch of random windows at once: the index is the number of the step.

    Args:
        ground: to draw from.
        count: windows of a batch, of this process.
        seeds: beside the number of the step, what the windows follow from.
    """

    def __init__(self, ground: TrainingGround, count: int, seeds: Sequence[int]) -> None:
        self.ground, self.count, self.seeds = ground, count, seeds

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([*self.seeds, step])
        return self.ground.read(self.ground.draw(self.count, rng))


class Steps(Sampler):
    """Numbers of the steps of an epoch, which to Lightning lies between two validations.

    Args:
        count: of steps.
        epoch: gives the number of the epoch when its first step is asked for. (Lightning's
            ``set_epoch`` does not reach the first epoch of a training that goes on, and such a
            training makes its iterator while it still believes in the epoch before.)
    """

    def __init__(self, count: int, epoch: Callable[[], int]) -> None:
        self.count, self.epoch = count, epoch

    def __iter__(self) -> Iterator[int]:
        first = self.epoch() * self.count
        yield from range(first, first + self.count)

    def __len__(self) -> int:
        return self.count


def schedule(optimiser: torch.optim.Optimizer, settings: Settings) -> lr_scheduler.LRScheduler:
    """Return the schedule of the learning rate, to be stepped after every step of the optimiser.

    "one_cycle" begins at a twenty-fifth of the highest rate and is there after a fifth of the
    steps; the last step of "one_cycle" and "cosine" has a rate just above 0.

    Args:
        optimiser: with the highest rate.
        settings: how to train.
    """
    steps, rate = max(settings.whole_steps, 2), settings.learning_rate
    if settings.schedule == "one_cycle":
        return lr_scheduler.OneCycleLR(
            optimiser,
            rate,
            steps + 1,
            pct_start=0.2,
            cycle_momentum=False,
            final_div_factor=math.inf,
        )
    if settings.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimiser, steps)
    return lr_scheduler.ConstantLR(optimiser, 1.0)


def _follow(decay: float, average: Any, weights: Any, steps: torch.Tensor) -> None:
    """Move an average towards the weights, in the first steps faster than by its decay."""
    decay = min(decay, (1 + int(steps)) / (10 + int(steps)))
    get_ema_multi_avg_fn(decay)(average, weights, steps)


class Task(lightning.LightningModule):
    """A segmenter, its data, its loss and its optimiser."""

    def __init__(
        self,
        segmenter: Segmenter,
        settings: Settings,
        store: PatchStore,
        train: np.ndarray,
        validation: np.ndarray,
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.settings = settings
        self.loss = Loss(settings.loss, smoothing=settings.smoothing, noise=settings.noise)
        self.operations = operations(settings.augmentation)
        self.ground, self.patches = TrainingGround(store, train), Patches(store)
        self.validation_positions = validation
        self.counts = torch.zeros(3, dtype=torch.long)  # hits, false alarms, misses
        self.average = None
        if settings.average:
            # With the statistics of normalisations, which jump from batch to batch.
            follow = partial(_follow, settings.average)
            average = AveragedModel(segmenter, multi_avg_fn=follow, use_buffers=True)
            self.average = average.requires_grad_(False)

    def validated(self) -> Segmenter:
        """Return the segmenter that validation looks at: the average, where there is one."""
        return self.segmenter if self.average is None else cast(Segmenter, self.average.module)

    def train_dataloader(self) -> DataLoader:
        """Return the way to the windows of the steps until the next validation."""
        trainer, settings = self.trainer, self.settings
        count = max(1, settings.batch_size // trainer.world_size)
        windows = Windows(self.ground, count, [settings.seed, trainer.global_rank])
        steps = Steps(settings.steps_between, lambda: self.current_epoch)
        return DataLoader(windows, batch_size=None, sampler=steps)

    def val_dataloader(self) -> DataLoader | list:
        """Return the way to the validation batches, in the order of the store."""
        own = self.validation_positions[self.trainer.global_rank :: self.trainer.world_size]
        if not len(own):
            return []
        parts = np.array_split(own, -(-len(own) // (2 * self.settings.batch_size)))
        return DataLoader(self.patches, batch_size=None, sampler=parts)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
        """Return the loss of a batch, augmented."""
        images, labels = batch
        # From the step alone, so that a resumed training drops the same features.
        numbers = [self.settings.seed, self.current_epoch, number, self.global_rank]
        seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        if self.operations:
            images, labels = augment(
                images, labels, generator, self.operations, bands=self.segmenter.bands
            )
        images = images.contiguous(memory_format=torch.channels_last)
        loss = self.loss(self.segmenter(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Step, and let the moving average of the weights follow."""
        super().optimizer_step(*arguments, **options)
        if self.average is not None:
            self.average.update_parameters(self.segmenter)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> None:
        """Log the loss of a batch, and count its hits, false alarms and misses."""
        images, labels = batch
        images = images.contiguous(memory_format=torch.channels_last)
        logits = self.validated().eval()(images)
        loss = bce_dice(logits, labels)
        self.log("validation_loss", loss, batch_size=len(images), sync_dist=True)
        predicted, known, glacier = logits > 0, labels != UNKNOWN, labels == 1
        hits = (predicted & glacier).sum()
        false_alarms = (predicted & known & ~glacier).sum()
        misses = (~predicted & glacier).sum()
        self.counts += torch.stack([hits, false_alarms, misses]).cpu()

    def on_validation_epoch_end(self) -> None:
        """Log the IoU pooled over all validation patches, nan where there is nothing to hit."""
        counts = self.trainer.strategy.reduce(self.counts.to(self.device), reduce_op="sum").cpu()
        iou = counts[0] / counts.sum() if counts[0] + counts[2] else torch.tensor(math.nan)
        self.log("validation_iou", iou.float())
        self.counts.zero_()

    def configure_optimizers(self) -> Any:
        """Return AdamW and the schedule of its learning rate."""
        settings = self.settings
        # Fused: one pass over the weights in place of a dozen.
        optimiser = torch.optim.AdamW(
            self.segmenter.parameters(), settings.learning_rate, fused=True,
            weight_decay=settings.weight_decay,
        )  # fmt: skip
        scheduler = {"scheduler": schedule(optimiser, settings), "interval": "step"}
        return {"optimizer": optimiser, "lr_scheduler": scheduler}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the norm of the gradient.

        Lightning's own way refuses fused optimisers, for fear of scaled gradients that bf16 does
        not have.
        """
        torch.nn.utils.clip_grad_norm_(self.segmenter.parameters(), self.settings.gradient_clip)


def least_iou(store: PatchStore, positions: np.ndarray) -> float:
    """Return the IoU that a state has to exceed to be of use.

    It is that of a map that calls all known ground glacier, which an untrained network may make,
    and .001 more for rounding.

    Args:
        store: the patches.
        positions: of those that validate.
    """
    labels = np.asarray(store.labels[positions])
    return float((labels == 1).sum() / max((labels != UNKNOWN).sum(), 1)) + 1e-3


class History(Checkpoint):
    """Collects a row per validation and the best weights, saves the state, stops where none gains.

    A ``Checkpoint`` to Lightning, so that it comes last at the end of an epoch.

    Args:
        state: file to save to.
        settings: how to train.
        name: of the model, for the bar.
        progress: show a bar.
        least: of `least_iou`; what does not exceed it counts as no score.
    """

    def __init__(
        self, state: Path, settings: Settings, name: str, progress: bool, least: float
    ) -> None:
        self.state, self.settings, self.least = state, settings, least
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.precision = "float32"  # saved with the state: chosen anew it could be another one
        self.bar = tqdm(total=settings.whole_steps, desc=name, unit="step", disable=not progress)
        self.started = time.perf_counter()
        self.saved = time.monotonic()

    def finished(self) -> bool:
        """Return whether all steps are done, or so many gained nothing that training stops."""
        scores = self._scores()
        # Where none is defined, no state is better than another.
        without_gain = 0 if np.isnan(scores).all() else len(scores) - 1 - int(np.nanargmax(scores))
        settings = self.settings
        stopped = without_gain * settings.steps_between >= (settings.patience or math.inf)
        return len(scores) >= settings.validations or stopped

    def _scores(self) -> np.ndarray:
        """Return the IoU of each validation, nan where there is none that exceeds ``least``."""
        scores = np.array([row["validation_iou"] for row in self.rows])
        return np.where(scores > self.least, scores, math.nan)

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule
    ) -> None:
        """Add a row, keep the weights if they are the best, save, and stop if due."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        logged = dict.fromkeys(_LOGGED, math.nan) | logged
        before = float(np.fmax.reduce([math.nan, *self._scores()]))
        self.rows.append(
            {
                "step": (trainer.current_epoch + 1) * self.settings.steps_between,
                **{name: logged[name] for name in _LOGGED},
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                "seconds": round(time.perf_counter() - self.started, 2),
            }
        )
        if math.isnan(before) or logged["validation_iou"] > before:
            weights = cast(Task, task).validated().state_dict()
            self.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
        best = np.fmax(before, logged["validation_iou"])
        self.bar.set_postfix(loss=f"{logged['train_loss']:.3f}", validation_iou=f"{best:.3f}")
        self.bar.update(self.settings.steps_between)
        finished = self.finished()
        trainer.should_stop = trainer.should_stop or finished
        # Whoever started the other processes learns what they did from the file.
        if trainer.world_size > 1 if finished else self._due(trainer):
            self._save(trainer)

    def _due(self, trainer: lightning.Trainer) -> bool:
        due = time.monotonic() - self.saved >= SAVE_EVERY_S
        return bool(trainer.strategy.broadcast(due))  # all processes save, or none

    def _save(self, trainer: lightning.Trainer) -> None:
        temporary = self.state.with_suffix(".new")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, self.state)
        self.saved = time.monotonic()

    def read_state(self) -> None:
        """Take over what was saved. Raises GlacierError if the file cannot be read."""
        try:
            content = torch.load(self.state, map_location="cpu", weights_only=True)
            self.load_state_dict(content["callbacks"][self.state_key])
        except Exception as error:  # zip, pickle and runtime errors, whatever lies in the file
            raise GlacierError(
                f"{self.state}: the state of a broken off training cannot be read "
                f"({type(error).__name__}); remove its folder to train from the start"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """Return what is saved."""
        seconds = time.perf_counter() - self.started
        return {
            "rows": self.rows, "best": self.best, "seconds": seconds, "precision": self.precision
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self.rows, self.best = list(state["rows"]), dict(state["best"])
        self.precision = state["precision"]
        self.started = time.perf_counter() - state["seconds"]
        self.bar.n = len(self.rows) * self.settings.steps_between

    def teardown(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, stage: str
    ) -> None:
        """Close the bar."""
        self.bar.close()
