"""Training as tutorials write it, to compare with; it knows nothing of this project.

Run as a script, in a process with the libraries' own settings, with FOLDER BATCH STEPS.
FOLDER holds images/*.tif and labels/*.tif (255: unknown). Writes FOLDER/weights.pt and prints the
seconds of all steps and the patches per second of the fastest pass over the tiles.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import rasterio
import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader, Dataset


class Tiles(Dataset):
    """Opens two GeoTIFFs an item, and turns, mirrors and brightens it."""

    def __init__(self, folder: Path) -> None:
        self.images = sorted((folder / "images").glob("*.tif"))
        self.labels = sorted((folder / "labels").glob("*.tif"))
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, torch.Tensor]:
        with rasterio.open(self.images[item]) as file:
            image = (file.read().astype(np.float32) - 1000) / 10000
        with rasterio.open(self.labels[item]) as file:
            label = file.read(1).astype(np.float32)
        turns = self.random.integers(4)
        image, label = np.rot90(image, turns, axes=(1, 2)), np.rot90(label, turns)
        if self.random.random() < 0.5:
            image, label = image[:, :, ::-1], label[:, ::-1]
        image = image * np.float32(np.exp(self.random.normal(0, 0.1)))
        image = (image - 0.3) / 0.2
        return torch.from_numpy(image.copy()), torch.from_numpy(label.copy())


def main(folder: str, batch: str, steps: str) -> None:
    torch.manual_seed(0)
    tiles = DataLoader(Tiles(Path(folder)), batch_size=int(batch), shuffle=True, drop_last=True)
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    dice = smp.losses.DiceLoss("binary", ignore_index=255)
    network.train()
    seconds, left = [], int(steps)
    while left > 0:
        start = time.perf_counter()
        for images, labels in tiles:
            optimiser.zero_grad()
            logits = network(images)
            known = labels != 255
            entropy = torch.nn.functional.binary_cross_entropy_with_logits(
                logits[:, 0][known], labels[known]
            )
            loss = entropy + dice(logits, labels[:, None])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            left -= 1
            if left == 0:
                break
        seconds.append(time.perf_counter() - start)
    torch.save(network.state_dict(), Path(folder) / "weights.pt")
    whole = seconds[:-1] or seconds
    print(sum(seconds), len(tiles) * int(batch) / min(whole))


if __name__ == "__main__":
    main(*sys.argv[1:])
