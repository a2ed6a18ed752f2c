"""The learning rate, step by step.

What a training keeps of itself: a row an epoch, the best weights, a state to go on from.

Batches of patches out of a store: which patches, in which order, for which process.

The training loop, with Lightning. Only imported where a network is trained.
"""

from __future__ import annotations

import copy
import logging
import math
import mmap
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.models.checkpoint import Segmenter
from glacier_utils.models.losses import Loss, bce_dice
from glacier_utils.prediction.acceleration import (
    doubled_convolutions,
    grouped_in_float32,
    memory_format,
    resolve,
)
from glacier_utils.training.augmentation import augment, crop, operations, side_of_epoch
from glacier_utils.training.settings import STATE, Settings

if TYPE_CHECKING:
    from glacier_utils.datasets.store import PatchStore
    from glacier_utils.training.settings import Settings


_WARM_UP = 0.2  # of the steps, in the one-cycle schedule
_AVERAGING_RATE = 0.1  # of the highest learning rate, while weights are averaged


def learning_rate(settings: Settings, steps: int) -> Callable[[int], float]:
    """Return the learning rate of a step, as a share of the highest one.

    While weights are averaged it is constant, since an average over steps that grow ever smaller is
    hardly one.
    """
    averaging = steps
    if settings.average:
        averaging = steps * settings.averaging_from() // settings.epochs

    def share(step: int) -> float:
        if step >= averaging:
            return _AVERAGING_RATE
        if settings.schedule == "constant":
            return 1.0
        done = step / max(averaging - 1, 1)
        if settings.schedule == "cosine":
            return max(_half_cosine(done), 1e-5)
        if done < _WARM_UP:
            return 0.04 + 0.96 * (1 - _half_cosine(done / _WARM_UP))
        return max(_half_cosine((done - _WARM_UP) / (1 - _WARM_UP)), 4e-6)

    return share


def _half_cosine(part: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


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


Change = tuple[np.ndarray, np.ndarray]  # factor and offset [n, band], n as in the store


class Patches(Dataset):
    """Gives a whole batch at once: the index is an array of positions in the store.

    ``change`` multiplies each patch's bands and adds to them (invalid pixels stay 0), None leaves
    them.
    """

    def __init__(self, store: PatchStore, change: Change | None = None) -> None:
        self.store = store
        self.change = change

    def __getitem__(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        images = np.ascontiguousarray(self.store.images[positions])
        if self.change is not None:
            factor, offset = (part[positions][:, :, None, None] for part in self.change)
            valid = (images != 0).any(axis=1, keepdims=True)
            images = ((images * factor + offset) * valid).astype(np.float32)
        labels = torch.from_numpy(np.ascontiguousarray(self.store.labels[positions]))
        _let_go(self.store.images)
        _let_go(self.store.labels)
        return torch.from_numpy(images), labels


def _let_go(array: np.ndarray) -> None:
    """Take what was read of a file off the memory of this process.

    It stays in the system's cache; but counted as this process's own, it would grow with the file,
    and with it what a job on a cluster is allowed to take.
    """
    mapped = getattr(array, "_mmap", None)  # of np.memmap, which has no public name for it
    if mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


class Batches(Sampler):
    """Positions in batches of nearly equal size, in an order that follows from seed and epoch.

    Equal sizes leave no last batch of one patch, on which batch normalisation would fail; nothing
    is dropped. Of several processes each takes its share of every batch.

    Args:
        positions: in the store.
        batch_size: patches of a batch, over all processes together.
        seed: None keeps the order.
        weights: one a position: patches are drawn with chances in proportion to them, some several
            times and some not at all. None: each once an epoch.
        rank, world: number of this process, and of all.
        epoch: gives the number of the epoch when its first batch is asked for. (Lightning's
            ``set_epoch`` does not reach the first epoch of a training that goes on.)
    """

    def __init__(
        self,
        positions: np.ndarray,
        batch_size: int,
        seed: int | None,
        *,
        weights: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        if weights is not None and not weights.sum() > 0:
            raise GlacierError(
                "balanced: the training patches have no weights, since none or all of them hold "
                "glacier; set balanced to false"
            )
        order = np.argsort(positions, kind="stable")
        self.positions = np.asarray(positions)[order]
        self.chances = None if weights is None else weights[order] / weights.sum()
        self.seed, self.rank, self.world, self.epoch = seed, rank, world, epoch
        self.count = math.ceil(len(positions) / batch_size)
        if seed is not None and len(positions) < 2 * world * self.count:
            self.count = max(len(positions) // (2 * world), 1)

    def __iter__(self) -> Iterator[np.ndarray]:
        # A generator, so that the epoch is asked for with the first batch: a training that goes on
        # makes its iterator while it still believes in the epoch before.
        order = self.positions
        if self.seed is not None:
            generator = np.random.default_rng([self.seed, self.epoch()])
            if self.chances is None:
                order = generator.permutation(order)
            else:
                order = generator.choice(order, size=len(order), p=self.chances)
        parts = (part[self.rank :: self.world] for part in np.array_split(order, self.count))
        # Sorted within a batch: the store is read front to back.
        yield from (np.sort(part) for part in parts if len(part))

    def __len__(self) -> int:
        return self.count


def loader(patches: Patches, batches: Batches) -> DataLoader:
    """Return Lightning's way to the batches: whole ones out of memory, without worker processes,
    which would only add copying.
    """
    return DataLoader(patches, batch_size=None, sampler=batches)


def train_network(
    segmenter: Segmenter,
    store: PatchStore,
    train: np.ndarray,
    validation: np.ndarray,
    settings: Settings,
    folder: Path,
    *,
    change: Change | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a segmenter in place and leave it with the weights of its best epoch.

    What a process was doing when it was killed goes on from ``folder``, where the state of the last
    epochs lies, and comes to the same weights: order, augmentation and dropout of a step follow
    from seed, epoch and number of the step alone.

    Args:
        segmenter: with the weights to start from.
        store, train, validation: patches and the positions of both parts.
        settings: how to train.
        folder: of this training alone; it has to exist. The state stays in it.
        change: of the images, as of ``module.Patches``.
        progress: show a bar.

    Returns:
        The history, a row an epoch.

    Raises:
        GlacierError: fewer patches than processes, an accelerator or strategy that Lightning does
            not have, a state that cannot be read.
    """
    device = {"gpu": "cuda"}.get(settings.accelerator, settings.accelerator)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    processes = max(settings.devices, 1) * settings.nodes
    if min(len(train) // 2, len(validation)) < processes:
        raise GlacierError(
            f"{len(train)} training and {len(validation)} validation patches are too few for "
            f"{processes} processes; set devices to less"
        )
    if processes > 1:
        _freeze_unused(segmenter)
    state = folder / STATE
    history = History(state, settings, segmenter.name, progress)
    if state.is_file():
        history.load_state_dict(state_of(state, history))
    else:
        history.precision = resolve(settings.precision, device)
        history.channels_last = memory_format(history.precision, device) == torch.channels_last
    layout = torch.channels_last if history.channels_last else torch.contiguous_format
    task = Task(segmenter, settings, layout, store, train, validation, change)
    task.to(memory_format=layout)
    slow_groups = history.precision == "bf16" and device == "cpu"
    with ExitStack() as changed:
        changed.enter_context(_quiet())
        changed.enter_context(grouped_in_float32(segmenter, active=slow_groups))
        changed.enter_context(doubled_convolutions(segmenter, active=device == "cpu"))
        trainer = _trainer(
            max_epochs=settings.epochs,
            accelerator=device,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=settings.strategy,
            precision="bf16-mixed" if history.precision == "bf16" else "32-true",
            callbacks=[history],
            default_root_dir=folder,
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
        history.load_state_dict(state_of(state, history))
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
    loss = twin(images).square().mean()
    auxiliary = getattr(twin.network, "auxiliary_loss", None)
    if auxiliary is not None:
        loss = loss + auxiliary((images[:, 0] > 0.5).to(torch.uint8))
    loss.backward()
    for one, other in zip(segmenter.parameters(), twin.parameters(), strict=True):
        one.requires_grad_(other.grad is not None)


class Task(lightning.LightningModule):
    """A segmenter, its data, its loss and its optimiser."""

    def __init__(
        self,
        segmenter: Segmenter,
        settings: Settings,
        layout: torch.memory_format,
        store: PatchStore,
        train: np.ndarray,
        validation: np.ndarray,
        change: Change | None = None,
    ) -> None:
        super().__init__()
        if hasattr(segmenter.network, "auxiliary_loss") and settings.noise.endswith("_band"):
            raise GlacierError(
                f"model {segmenter.name} learns the outline itself, which noise {settings.noise!r} "
                "leaves out; choose noise none or bootstrap"
            )
        self.segmenter = segmenter
        self.settings = settings
        self.layout = layout
        self.loss = Loss(settings.loss, smoothing=settings.smoothing, noise=settings.noise)
        self.operations = operations(settings.augmentation)
        self.patches = Patches(store, change)
        self.train_positions, self.validation_positions = train, validation
        self.counts = torch.zeros(3, dtype=torch.long)  # hits, false alarms, misses
        self.average = None
        if settings.average:
            self.average = AveragedModel(segmenter, use_buffers=True).requires_grad_(False)

    def judged(self) -> Segmenter:
        """Return the segmenter that validation looks at: the average, once there is one."""
        if self.average is not None and self.average.n_averaged > 0:
            return self.average.module
        return self.segmenter

    def train_dataloader(self) -> Any:
        return loader(self.patches, self._batches())

    def _batches(self) -> Batches:
        settings = self.settings
        weights = None
        if settings.balanced:
            weights = self.patches.store.index["weight"].to_numpy()[self.train_positions]
        return Batches(
            self.train_positions, settings.batch_size, settings.seed, weights=weights,
            rank=self.trainer.global_rank, world=self.trainer.world_size,
            epoch=lambda: self.current_epoch,
        )  # fmt: skip

    def val_dataloader(self) -> Any:
        batches = Batches(
            self.validation_positions, 2 * self.settings.batch_size, None,
            rank=self.trainer.global_rank, world=self.trainer.world_size,
        )  # fmt: skip
        return loader(self.patches, batches)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
        images, labels = batch
        # From epoch and step alone, so that a resumed training sees the same batches and drops the
        # same features.
        seed = _mix([self.settings.seed, self.current_epoch, number, self.global_rank])
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        if self.operations:
            images, labels = augment(
                images, labels, generator, self.operations, bands=self.segmenter.bands
            )
        side = side_of_epoch(
            self.current_epoch, self.settings.epochs, smallest=self.settings.smallest_crop,
            size=max(images.shape[-2:]),
        )  # fmt: skip
        images, labels = crop(images, labels, side, generator)
        loss = self.loss(self.segmenter(self._laid_out(images)), labels)
        # Side outputs of a network, such as edges, have a loss of their own.
        auxiliary = getattr(self.segmenter.network, "auxiliary_loss", None)
        if auxiliary is not None:
            loss = loss + auxiliary(labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Average the weights at the end of the late epochs."""
        start = self.settings.averaging_from()
        if self.average is not None and self.current_epoch >= start:
            self.average.update_parameters(self.segmenter)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> None:
        images, labels = batch
        logits = self.judged().eval()(self._laid_out(images))
        self.log(
            "validation_loss", bce_dice(logits, labels), batch_size=len(images), sync_dist=True
        )
        predicted, known, glacier = logits > 0, labels != UNKNOWN, labels == 1
        hits = (predicted & glacier).sum()
        false_alarms = (predicted & known & ~glacier).sum()
        misses = (~predicted & glacier).sum()
        self.counts += torch.stack([hits, false_alarms, misses]).cpu()

    def on_validation_epoch_end(self) -> None:
        """Log the IoU pooled over all validation patches, 0 where there is nothing to hit."""
        counts = self.trainer.strategy.reduce(self.counts.to(self.device), reduce_op="sum").cpu()
        iou = counts[0] / counts.sum().clamp(min=1)
        self.log("validation_iou", iou.float())
        self.counts.zero_()

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.settings
        # Fused: one pass over the weights in place of a dozen.
        optimiser = torch.optim.AdamW(
            self.segmenter.parameters(), settings.learning_rate, fused=True,
            weight_decay=settings.weight_decay,
        )  # fmt: skip
        # Lightning's own estimate would begin with the data, before it knows in which epoch a
        # training goes on.
        steps = max(settings.epochs * len(self._batches()), 2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, learning_rate(settings, steps))
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the norm; Lightning's own way refuses fused optimisers, for fear of scaled gradients
        that bf16 does not have.
        """
        torch.nn.utils.clip_grad_norm_(self.segmenter.parameters(), self.settings.gradient_clip)

    def _laid_out(self, images: torch.Tensor) -> torch.Tensor:
        return images.contiguous(memory_format=self.layout)


def _mix(numbers: list[int]) -> int:
    """Turn several small numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from announcing hardware and giving advice that does not apply here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*isinstance.*treespec.*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
