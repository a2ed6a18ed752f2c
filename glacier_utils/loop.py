"""The training loop, with Lightning. Only imported where a network is trained."""

from __future__ import annotations

import copy
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim.swa_utils import AveragedModel

from glacier_utils.augment import augment, operations
from glacier_utils.batches import Batches, Change, Patches, loader
from glacier_utils.checkpoints import Segmenter
from glacier_utils.crops import crop, side_of_epoch
from glacier_utils.errors import GlacierError
from glacier_utils.history import History, state_of
from glacier_utils.losses import UNKNOWN, Loss, bce_dice
from glacier_utils.precision import grouped_in_float32, memory_format, resolve
from glacier_utils.schedules import learning_rate
from glacier_utils.settings import STATE
from glacier_utils.upsampling import doubled_convolutions

if TYPE_CHECKING:
    from glacier_utils.patches import PatchStore
    from glacier_utils.settings import Settings


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
        change: of the images, as of ``batches.Patches``.
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
