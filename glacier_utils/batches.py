"""Batches of patches out of a store: which patches, in which order, for which process."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from glacier_utils.errors import GlacierError

if TYPE_CHECKING:
    from glacier_utils.patches import PatchStore

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
