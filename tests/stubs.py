"""Small stand-ins that the tests share: a patch store, a scene, a network known in advance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from affine import Affine
from rasterio.crs import CRS
from torch import nn

from glacier_utils.imagery.source import Source
from glacier_utils.models.checkpoint import Segmenter
from glacier_utils.raster.grid import Grid, Image

BANDS = ("red", "green", "blue", "nir")


class Store:
    """Patches of bright squares (glacier) on dark ground, with some unknown pixels."""

    def __init__(self, count: int = 12, size: int = 32, seed: int = 0, key: str = "stub") -> None:
        generator = np.random.default_rng(seed)
        self.labels = np.zeros((count, size, size), dtype=np.uint8)
        for label in self.labels:
            row, col = generator.integers(0, size // 2, 2)
            label[row : row + size // 2, col : col + size // 2] = 1
        ice, rock = np.array([0.7, 0.7, 0.7, 0.5]), np.array([0.1, 0.1, 0.1, 0.12])
        image = np.where(self.labels[:, None] == 1, ice[:, None, None], rock[:, None, None])
        noise = generator.normal(0, 0.05, image.shape)
        self.images = np.clip(image + noise, 0.001, None).astype(np.float32)
        self.labels[:, :2] = 255
        split = np.array(["train", "train", "validation", "test"] * count)[:count]
        date = np.array(["2023-07"] * (count // 3) + ["2023-08"] * count)[:count]
        glacier = (self.labels == 1).sum(axis=(1, 2)) / (self.labels != 255).sum(axis=(1, 2))
        self.index = pd.DataFrame(
            {"area": "train", "date": date, "split": split, "block": "a", "glacier": glacier}
        )
        self.index["row"], self.index["col"] = np.arange(count) * 10 * size, 0  # apart
        self.statistics = {
            "mean": self.images.mean(axis=(0, 2, 3)).tolist(),
            "std": self.images.std(axis=(0, 2, 3)).tolist(),
        }
        self.key, self.bands, self.parameters = key, BANDS, {"dataset": "stub"}

    def select(self, *, area=None, date=None, split=None) -> np.ndarray:
        chosen = np.ones(len(self.index), dtype=bool)
        for column, value in (("area", area), ("date", date), ("split", split)):
            if value is not None:
                values = [value] if isinstance(value, str) else list(value)
                chosen &= self.index[column].isin(values).to_numpy()
        return np.flatnonzero(chosen)


class Scene(Source):
    """An image in memory, read a window at a time; counts the pixels that were read."""

    def __init__(self, reflectance, valid=None, bands=BANDS) -> None:
        self.pixels = np.asarray(reflectance, dtype=np.float32)
        height, width = self.pixels.shape[1:]
        self.valid = np.ones((height, width), dtype=bool) if valid is None else valid
        self.pixels = np.where(self.valid, self.pixels, 0).astype(np.float32)
        self.bands, self.paths, self.tiles = tuple(bands), [Path("scene.tif")], []
        place = Affine(10, 0, 500000, 0, -10, 6800000)
        self.grid = Grid(CRS.from_epsg(32623), place, height, width)
        self.heights: list[int] = []

    def read(self, row=0, col=0, height=None, width=None) -> Image:
        height, width = height or self.grid.height, width or self.grid.width
        self.heights.append(height)
        rows, cols = slice(row, row + height), slice(col, col + width)
        grid = self.grid.window(row, col, height, width)
        return Image(self.pixels[:, rows, cols], self.valid[rows, cols], self.bands, grid)


class Constant(nn.Module):
    """Gives the same logit everywhere."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return torch.full_like(images[:, 0], self.logit)


class FirstBand(nn.Module):
    """Gives the first band as the logit."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0]


def segmenter(network: nn.Module, bands=BANDS) -> Segmenter:
    """Wrap a network without changing its input."""
    result = Segmenter("threshold", bands, [0.0] * len(bands), [1.0] * len(bands))
    result.network = network
    return result.eval()


def awake(network: nn.Module) -> nn.Module:
    """Give normalisations statistics and weights of their own, as training would."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval()
