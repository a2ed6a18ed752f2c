"""The training loop, with Lightning. Only imported where a network is trained."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from glacier_utils.augment import augment
from glacier_utils.checkpoints import Segmenter
from glacier_utils.losses import UNKNOWN, bce_dice
from glacier_utils.precision import resolve

if TYPE_CHECKING:
    from glacier_utils.patches import PatchStore
    from glacier_utils.training import Settings


def train_network(
    segmenter: Segmenter,
    store: PatchStore,
    train: np.ndarray,
    validation: np.ndarray,
    settings: Settings,
    folder: Path,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a segmenter in place and leave it with the weights of its best epoch.

    ``train`` and ``validation`` are positions in the store. Returns the history, a row an epoch.
    """
    task = Task(segmenter, settings).to(memory_format=torch.channels_last)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    history = History(settings.epochs, segmenter.name, progress)
    best = ModelCheckpoint(
        folder / "best", monitor="validation_iou", mode="max", save_weights_only=True
    )
    stop = EarlyStopping("validation_iou", mode="max", patience=settings.patience)
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            accelerator=device,
            precision="bf16-mixed" if resolve(settings.precision, device) == "bf16" else "32-true",
            gradient_clip_val=settings.gradient_clip,
            callbacks=[history, best, stop],
            default_root_dir=folder,
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        trainer.fit(
            task,
            _loader(store, train, settings.batch_size, settings.seed),
            _loader(store, validation, 2 * settings.batch_size, None),
        )
    weights = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    task.cpu().load_state_dict(weights["state_dict"])
    Path(best.best_model_path).unlink()
    (folder / "best").rmdir()
    return pd.DataFrame(history.rows)


class Task(lightning.LightningModule):
    """A segmenter, its loss and its optimiser."""

    def __init__(self, segmenter: Segmenter, settings: Settings) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.settings = settings
        self.counts = torch.zeros(3, dtype=torch.long)  # hits, false alarms, misses

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
        images, labels = batch
        if self.settings.augment:
            # From epoch and step alone, so that a resumed training sees the same batches.
            seed = [self.settings.seed, self.current_epoch, number]
            generator = torch.Generator().manual_seed(_mix(seed))
            images, labels = augment(images, labels, generator)
        loss = bce_dice(self.segmenter(_channels_last(images)), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> None:
        images, labels = batch
        logits = self.segmenter(_channels_last(images))
        self.log("validation_loss", bce_dice(logits, labels), batch_size=len(images))
        predicted, known, glacier = logits > 0, labels != UNKNOWN, labels == 1
        hits = (predicted & glacier).sum()
        false_alarms = (predicted & known & ~glacier).sum()
        misses = (~predicted & glacier).sum()
        self.counts += torch.stack([hits, false_alarms, misses]).cpu()

    def on_validation_epoch_end(self) -> None:
        """Log the IoU pooled over all validation patches, 0 where there is nothing to hit."""
        iou = self.counts[0] / self.counts.sum().clamp(min=1)
        self.log("validation_iou", iou.float())
        self.counts.zero_()

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.settings
        optimiser = torch.optim.AdamW(
            self.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            settings.learning_rate,
            total_steps=max(int(self.trainer.estimated_stepping_batches), 2),
            pct_start=0.2,
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class History(Callback):
    """Collects a row an epoch and moves a progress bar."""

    def __init__(self, epochs: int, name: str, progress: bool) -> None:
        self.rows: list[dict[str, float]] = []
        self.bar = tqdm(total=epochs, desc=name, unit="epoch", disable=not progress)
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule):
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": logged["train_loss"],
            "validation_loss": logged["validation_loss"],
            "validation_iou": logged["validation_iou"],
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": round(time.perf_counter() - self.started, 2),
        }
        self.rows.append(row)
        best = max(row["validation_iou"] for row in self.rows)
        self.bar.set_postfix(loss=f"{row['train_loss']:.3f}", validation_iou=f"{best:.3f}")
        self.bar.update()

    def teardown(self, trainer: lightning.Trainer, task: lightning.LightningModule, stage: str):
        self.bar.close()


class Patches(Dataset):
    """Gives a whole batch at once: the index is an array of positions in the store."""

    def __init__(self, store: PatchStore) -> None:
        self.store = store

    def __getitem__(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.from_numpy(np.ascontiguousarray(self.store.images[positions]))
        labels = torch.from_numpy(np.ascontiguousarray(self.store.labels[positions]))
        return images, labels


class Batches(Sampler):
    """Positions in batches of nearly equal size, in an order that follows from seed and epoch.

    Equal sizes leave no last batch of one patch, on which batch normalisation would fail; nothing
    is dropped. ``seed`` None keeps the order.
    """

    def __init__(self, positions: np.ndarray, batch_size: int, seed: int | None) -> None:
        self.positions = np.sort(positions)
        self.seed = seed
        self.epoch = 0
        self.count = math.ceil(len(positions) / batch_size)
        if seed is not None and len(positions) < 2 * self.count:
            self.count = max(len(positions) // 2, 1)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[np.ndarray]:
        order = self.positions
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        # Sorted within a batch: the store is read front to back.
        return (np.sort(part) for part in np.array_split(order, self.count))

    def __len__(self) -> int:
        return self.count


def _loader(
    store: PatchStore, positions: np.ndarray, batch_size: int, seed: int | None
) -> DataLoader:
    # Whole batches out of memory: worker processes would only add copying.
    return DataLoader(Patches(store), batch_size=None, sampler=Batches(positions, batch_size, seed))


def _channels_last(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last)


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
