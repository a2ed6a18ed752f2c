"""Random windows of the ground that trains, over the borders of patches where these touch.

A training that sees the same patches again and again learns their borders too. Here every window
of a batch has another place and, half of the time, another size. Beyond the training patches it
shows the image of validation and of the strip before it, where labels stay unknown; else it is
dark there. Half of the windows are laid on a glacier pixel of a patch that has any, each patch with
the same chance, so that small glaciers are met as often as large ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate

from glacier_utils.conventions import UNKNOWN
from glacier_utils.datasets.store import PatchStore
from glacier_utils.files import release_pages

ZOOM = 1.25
"""A window shows from 1 / ZOOM to ZOOM times the side of a patch, at the size of a patch."""


@dataclass(frozen=True)
class Window:
    """A square of ground: the patch that it was drawn for, its upper left corner and its side.

    Row and column are pixels of the frame that the patches of the store's index count in.
    """

    patch: int
    row: int
    col: int
    side: int


class TrainingGround:
    """The patches that train, as one ground to draw windows from.

    Patches of one area and date that touch or overlap are one piece of ground; those that lie apart
    are pieces of their own, which windows hardly leave.

    Args:
        store: the patches.
        positions: of those that train.
    """

    def __init__(self, store: PatchStore, positions: np.ndarray) -> None:
        self.store, self.positions = store, np.unique(positions)
        self.side = store.images.shape[-1]
        index = store.index.iloc[self.positions]
        self._corners = store.index[["row", "col"]].to_numpy(int)
        self._with_glacier = self.positions[index["glacier"].to_numpy() > 0]
        self._labelled = np.isin(np.arange(len(store.index)), self.positions)
        # Dark ground there would teach a border that no map has.
        shown = self._labelled | store.index["split"].isin(["validation", "buffer"]).to_numpy()
        # Of each patch: those near enough to lie in a window of it, and how far it may leave it.
        self._near: dict[int, np.ndarray] = {}
        self._room: dict[int, np.ndarray] = {}
        for _, group in store.index[shown].groupby(["area", "date"]):
            members = group.index.to_numpy()
            for member in members[self._labelled[members]]:
                away = self._corners[members] - self._corners[member]
                self._near[member] = members[(np.abs(away) < 2 * self.side).all(axis=1)]
                self._room[member] = self._room_about(away[self._labelled[members]])

    def _room_about(self, away: np.ndarray) -> np.ndarray:
        """Return top, left, bottom, right of where windows may lie, from the patch's corner.

        Half a patch beyond its border where another one goes on there.
        """
        half, side = self.side // 2, self.side
        level = np.abs(away[:, ::-1]) <= half
        before = (level & (away < 0) & (away >= -side)).any(axis=0)
        after = (level & (away > 0) & (away <= side)).any(axis=0)
        return np.concatenate([-half * before, side + half * after])

    def draw(self, count: int, rng: np.random.Generator) -> list[Window]:
        """Return random windows.

        Args:
            count: how many.
            rng: from which alone they follow.
        """
        return [self._window(rng) for _ in range(count)]

    def _window(self, rng: np.random.Generator) -> Window:
        on_glacier = len(self._with_glacier) > 0 and rng.random() < 0.5
        patch = int(rng.choice(self._with_glacier if on_glacier else self.positions))
        pixels = np.flatnonzero(self.store.labels[patch] == 1) if on_glacier else ()
        first, last = np.split(self._room[patch], 2)
        zoom = math.exp(rng.uniform(-1, 1) * math.log(ZOOM)) if rng.random() < 0.5 else 1.0
        side = min(round(self.side * zoom), *(last - first))
        last = last - side
        if len(pixels):  # labels of a student in self-training may hold none where the index does
            pixel = np.array(divmod(int(rng.choice(pixels)), self.side))
            first, last = np.maximum(first, pixel - side + 1), np.minimum(last, pixel)
        row, col = self._corners[patch] + rng.integers(first, last, endpoint=True)
        return Window(patch, int(row), int(col), side)

    def read(self, windows: list[Window]) -> tuple[torch.Tensor, torch.Tensor]:
        """Read windows from the store's files, and bring them to the size of a patch.

        Images are bilinear over valid pixels alone; labels take the nearest pixel.

        Returns:
            Images float32 [n, band, row, col], labels uint8 [n, row, col].
        """
        pairs = [self._read(window) for window in windows]
        for array in (self.store.images, self.store.labels):
            release_pages(array)
        images, labels = zip(*pairs, strict=True)
        return torch.stack(images), torch.stack(labels)

    def _read(self, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
        side, bands = window.side, self.store.images.shape[1]
        image = np.zeros((bands, side, side), np.float32)
        label = np.full((side, side), UNKNOWN, np.uint8)
        for patch, inside, own in self._parts(window):
            image[:, *inside] = self.store.images[patch, :, *own]
            if self._labelled[patch]:
                label[inside] = self.store.labels[patch][own]
        return _resized(torch.from_numpy(image), torch.from_numpy(label), self.side)

    def _parts(self, window: Window) -> Iterator[tuple[int, tuple, tuple]]:
        """Yield the patches that a window meets: position, pixels of the window, of the patch."""
        corner = np.array([window.row, window.col])
        for patch in self._near[window.patch]:
            away = self._corners[patch] - corner
            first = np.clip(away, 0, window.side)
            last = np.clip(away + self.side, 0, window.side)
            if (first < last).all():
                inside = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
                ends = zip(first - away, last - away, strict=True)
                yield int(patch), inside, tuple(slice(a, b) for a, b in ends)


def _resized(
    image: torch.Tensor, label: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    if image.shape[-1] == side:
        return image, label
    shape = side, side
    layers, near = image[None], label[None, None]
    near = interpolate(near.float(), shape, mode="nearest-exact")[0, 0].to(label.dtype)
    if image[0].all():  # nothing invalid, as mostly: a third of the time
        return interpolate(layers, shape, mode="bilinear")[0], near
    seen = (image != 0).any(dim=0).to(image.dtype)[None, None]
    layers = interpolate(torch.cat([layers, seen], 1), shape, mode="bilinear")[0]
    weight = layers[-1:]
    image = torch.where(weight >= 0.5, layers[:-1] / weight.clamp(min=0.5), 0.0)
    return image, torch.where(weight[0] >= 0.5, near, UNKNOWN).to(label.dtype)
