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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel
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

if TYPE_CHECKING:
    from glacier_utils.datasets.store import PatchStore

SAVE_EVERY_S = 60.0
"""Seconds between two states. One is some 200 MB for a U-Net: to write it more often would take
longer than it saves. A killed training loses no more than this and an epoch."""

_LOGGED = ("train_loss", "validation_loss", "validation_iou")
_AVERAGING_RATE = 0.1  # of the highest learning rate, while weights are averaged
_LAST_RATE = {"one_cycle": 4e-6, "cosine": 1e-5, "constant": 1.0}  # of the highest, at the end


def train_network(
    segmenter: Segmenter,
    store: PatchStore,
    train: np.ndarray,
    validation: np.ndarray,
    settings: Settings,
    state: Path,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a segmenter in place and leave it with the weights of its best epoch.

    What a process was doing when it was killed goes on from ``state`` and comes to the same
    weights: order, augmentation and dropout of a step follow from seed, epoch and number of the
    step alone.

    Args:
        segmenter: with the weights to start from.
        store: the patches.
        train: positions of those to learn from.
        validation: positions of those that choose the best epoch; without any the last is kept.
        settings: how to train.
        state: file of the last epochs' state, in a folder of this training alone, which has to
            exist. It stays there.
        progress: show a bar.

    Returns:
        The history, a row per epoch.

    Raises:
        GlacierError: fewer patches than processes, an accelerator or strategy that Lightning does
            not have, a state that cannot be read.
    """
    device = {"gpu": "cuda"}.get(settings.accelerator, settings.accelerator)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    processes = max(settings.devices, 1) * settings.nodes
    if min(len(train) // 2, len(validation) or processes) < processes:
        raise GlacierError(
            f"{len(train)} training and {len(validation)} validation patches are too few for "
            f"{processes} processes; set devices to less"
        )
    if processes > 1:
        _freeze_unused(segmenter)
    history = History(state, settings, segmenter.name, progress)
    if state.is_file():
        history.read_state()
    else:
        history.precision = resolve(settings.precision, device)
    task = Task(segmenter, settings, store, train, validation)
    task.to(memory_format=torch.channels_last)
    bf16 = history.precision == "bf16"
    with _quiet(), faster_steps(segmenter, bf16=bf16) if device == "cpu" else nullcontext():
        trainer = _trainer(
            max_epochs=settings.epochs,
            accelerator=device,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=settings.strategy,
            precision="bf16-mixed" if bf16 else "32-true",
            callbacks=[history],
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


class Batches(Sampler):
    """Positions in batches of nearly equal size, in an order that follows from seed and epoch.

    Equal sizes leave no last batch of one patch, on which batch normalisation would fail; nothing
    is dropped. Of several processes each takes its part of every batch.

    Args:
        positions: in the store.
        batch_size: patches of a batch, over all processes together.
        seed: None keeps the order.
        rank: number of this process.
        processes: how many there are.
        epoch: gives the number of the epoch when its first batch is asked for. (Lightning's
            ``set_epoch`` does not reach the first epoch of a training that goes on.)
    """

    def __init__(
        self,
        positions: np.ndarray,
        batch_size: int,
        seed: int | None,
        *,
        rank: int = 0,
        processes: int = 1,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.positions = np.sort(positions)
        self.seed, self.rank, self.processes, self.epoch = seed, rank, processes, epoch
        self.count = math.ceil(len(positions) / batch_size)
        if seed is not None and len(positions) < 2 * processes * self.count:
            self.count = max(len(positions) // (2 * processes), 1)

    def __iter__(self) -> Iterator[np.ndarray]:
        # A generator, so that the epoch is asked for with the first batch: a training that goes on
        # makes its iterator while it still believes in the epoch before.
        order = self.positions
        if self.seed is not None:
            generator = np.random.default_rng([self.seed, self.epoch()])
            order = generator.permutation(order)
        parts = (part[self.rank :: self.processes] for part in np.array_split(order, self.count))
        # Sorted within a batch: the store is read front to back.
        yield from (np.sort(part) for part in parts if len(part))

    def __len__(self) -> int:
        return self.count


def schedule(
    optimiser: torch.optim.Optimizer, settings: Settings, steps: int
) -> lr_scheduler.LRScheduler:
    """Return the schedule of the learning rate, to be stepped after every step of the optimiser.

    "one_cycle" begins at a twenty-fifth of the highest rate and is there after a fifth of the
    steps; the last step of "one_cycle" and "cosine" has a rate just above 0. While weights are
    averaged the rate is constant, since an average over steps that grow ever smaller is hardly one.

    Args:
        optimiser: with the highest rate.
        settings: how to train.
        steps: of the whole training.
    """
    epochs, rate = settings.epochs, settings.learning_rate
    own = steps * settings.averaging_from() // epochs if settings.average else steps
    parts = [
        lr_scheduler.ConstantLR(optimiser, factor, total_iters=steps + 1)
        for factor in (_LAST_RATE[settings.schedule], _AVERAGING_RATE)
    ]
    first: lr_scheduler.LRScheduler  # after the others: it sets another rate to begin with
    if settings.schedule == "one_cycle":
        count = max(own, 2)
        first = lr_scheduler.OneCycleLR(
            optimiser, rate, count, pct_start=(0.2 * (count - 1) + 1) / count,
            cycle_momentum=False, final_div_factor=math.inf,
        )  # fmt: skip
    elif settings.schedule == "cosine":
        first = lr_scheduler.CosineAnnealingLR(optimiser, max(own - 1, 1))
    else:
        first = lr_scheduler.ConstantLR(optimiser, 1.0, total_iters=steps + 1)
    return lr_scheduler.SequentialLR(optimiser, [first, *parts], [max(own - 1, 1), own])


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
        self.patches = Patches(store)
        self.train_positions, self.validation_positions = train, validation
        self.counts = torch.zeros(3, dtype=torch.long)  # hits, false alarms, misses
        self.average = None
        if settings.average:
            self.average = AveragedModel(segmenter, use_buffers=True).requires_grad_(False)

    def validated(self) -> Segmenter:
        """Return the segmenter that validation looks at: the average, once there is one."""
        if self.average is not None and self.average.n_averaged > 0:
            return cast(Segmenter, self.average.module)
        return self.segmenter

    def train_dataloader(self) -> DataLoader:
        """Return the way to the training batches, in the order of the epoch."""
        batches = self._batches(self.train_positions, 1, self.settings.seed)
        return DataLoader(self.patches, batch_size=None, sampler=batches)

    def val_dataloader(self) -> DataLoader | list:
        """Return the way to the validation batches, in the order of the store."""
        if not len(self.validation_positions):
            return []
        batches = self._batches(self.validation_positions, 2, None)
        return DataLoader(self.patches, batch_size=None, sampler=batches)

    def _batches(self, positions: np.ndarray, times: int, seed: int | None) -> Batches:
        return Batches(
            positions,
            times * self.settings.batch_size,
            seed,
            rank=self.trainer.global_rank,
            processes=self.trainer.world_size,
            epoch=lambda: self.current_epoch,
        )

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
        """Return the loss of a batch, augmented."""
        images, labels = batch
        # From epoch and step alone, so that a resumed training sees the same batches and drops the
        # same features.
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

    def on_train_epoch_end(self) -> None:
        """Average here where nothing validates, which is where weights are averaged else."""
        if not len(self.validation_positions):
            self.on_validation_epoch_start()

    def on_validation_epoch_start(self) -> None:
        """Average the weights at the end of the late epochs."""
        start = self.settings.averaging_from()
        if self.average is not None and self.current_epoch >= start:
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
        # Lightning's own estimate would begin with the data, before it knows in which epoch a
        # training goes on.
        batches = self._batches(self.train_positions, 1, settings.seed)
        steps = max(settings.epochs * len(batches), 2)
        scheduler = {"scheduler": schedule(optimiser, settings, steps), "interval": "step"}
        return {"optimizer": optimiser, "lr_scheduler": scheduler}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the norm of the gradient.

        Lightning's own way refuses fused optimisers, for fear of scaled gradients that bf16 does
        not have.
        """
        torch.nn.utils.clip_grad_norm_(self.segmenter.parameters(), self.settings.gradient_clip)


class History(Checkpoint):
    """Collects a row per epoch and the best weights, saves the state, stops where nothing gains.

    A ``Checkpoint`` to Lightning, so that it comes last at the end of an epoch.

    Args:
        state: file to save to.
        settings: how to train.
        name: of the model, for the bar.
        progress: show a bar.
    """

    def __init__(self, state: Path, settings: Settings, name: str, progress: bool) -> None:
        self.state, self.settings = state, settings
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.precision = "float32"  # saved with the state: chosen anew it could be another one
        self.bar = tqdm(total=settings.epochs, desc=name, unit="epoch", disable=not progress)
        self.started = time.perf_counter()
        self.saved = time.monotonic()

    def finished(self) -> bool:
        """Return whether all epochs are over, or so many gained nothing that training stops."""
        scores = [row["validation_iou"] for row in self.rows]
        # Where none is defined, no epoch is better than another.
        without_gain = 0 if np.isnan(scores).all() else len(scores) - 1 - int(np.nanargmax(scores))
        return len(scores) >= self.settings.epochs or without_gain >= self.settings.patience

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule
    ) -> None:
        """Add the epoch's row, keep its weights if they are the best, save, and stop if due."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        logged = dict.fromkeys(_LOGGED, math.nan) | logged
        before = float(np.fmax.reduce([math.nan, *(row["validation_iou"] for row in self.rows)]))
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
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
        self.bar.update()
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
        self.bar.n = len(self.rows)

    def teardown(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, stage: str
    ) -> None:
        """Close the bar."""
        self.bar.close()
