"""The baselines: models that look at each pixel alone, as networks without layers.

They are fitted once on a sample of pixels, not trained in epochs. All that they learn lies in
tensors (buffers), so that a checkpoint of theirs is as safe to load as a network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from glacier_utils.errors import GlacierError


class PixelModel(nn.Module):
    """A model of single pixels: normalised images [n, band, row, col] -> logits [n, row, col]."""

    def fit(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        *,
        bands: Sequence[str],
        mean: np.ndarray,
        std: np.ndarray,
        seed: int = 0,
    ) -> None:
        """Fit to pixels with a known label.

        Args:
            pixels: float32 [n, band], normalised.
            labels: uint8 [n] of 0 and 1.
            bands: their names.
            mean, std: [band], what the reflectance was normalised with.
            seed: where the fit draws at random.
        """
        raise NotImplementedError

    def fitted_numbers(self) -> int:
        """Count the numbers that fitting has set."""
        raise NotImplementedError


class ThresholdRule(PixelModel):
    """Glacier is what is bright and whose NDWI lies between two thresholds.

    Brightness is the mean reflectance of all bands, NDWI = (green - nir) / (green + nir)
    (McFeeters 1996, Int. J. Remote Sensing 17, 1425). Without a shortwave-infrared band the usual
    ratio of red to shortwave infrared cannot be had. Bright keeps out rock and water; NDWI keeps
    out vegetation below and water above. The three thresholds maximise the IoU over the training
    pixels on a grid. Where green or nir is missing, brightness alone decides.

    The logit is the distance to the nearest threshold in units of ``softness`` (0.02 to 0.03
    reflectance, 0.05 NDWI): above 0 exactly where the rule holds.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("std", torch.ones(bands))
        self.register_buffer("thresholds", torch.tensor([0.0, -2.0, 2.0]))
        self.register_buffer("softness", torch.tensor([0.025, 0.05]))
        self.register_buffer("green_nir", torch.tensor([-1, -1]))

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return brightness and NDWI, each [n, row, col], of normalised images."""
        reflectance = images.float() * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)
        brightness = reflectance.mean(dim=1)
        green, nir = self.green_nir.tolist()
        if green < 0 or nir < 0:
            return brightness, torch.zeros_like(brightness)
        # Atmospheric correction leaves dark pixels slightly negative, where a ratio means nothing.
        green, nir = reflectance[:, green].clamp(min=0), reflectance[:, nir].clamp(min=0)
        return brightness, (green - nir) / (green + nir).clamp(min=1e-4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness, ndwi = self.features(images)
        bright, low, high = self.thresholds
        margins = [
            (brightness - bright) / self.softness[0],
            (ndwi - low) / self.softness[1],
            (high - ndwi) / self.softness[1],
        ]
        return torch.stack(margins).amin(dim=0)

    def fit(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        *,
        bands: Sequence[str],
        mean: np.ndarray,
        std: np.ndarray,
        seed: int = 0,
    ) -> None:
        bands = list(bands)
        wanted = [bands.index(name) if name in bands else -1 for name in ("green", "nir")]
        self.mean.copy_(torch.as_tensor(mean))
        self.std.copy_(torch.as_tensor(std))
        self.green_nir.copy_(torch.tensor(wanted))
        features = self.features(torch.as_tensor(pixels).T[None, :, :, None])
        brightness, ndwi = (feature.numpy().ravel() for feature in features)
        bright_edges = np.linspace(brightness.min(), np.quantile(brightness, 0.999), 81)
        ndwi_edges = np.linspace(-1.0, 1.0, 81)
        thresholds = _best_box(brightness, ndwi, np.asarray(labels), bright_edges, ndwi_edges)
        self.thresholds.copy_(torch.tensor(thresholds))
        span = max(float(bright_edges[-1] - bright_edges[0]), 1e-6)
        self.softness.copy_(torch.tensor([span / 40, 0.05]))

    def fitted_numbers(self) -> int:
        return self.thresholds.numel()


def _best_box(
    brightness: np.ndarray,
    ndwi: np.ndarray,
    labels: np.ndarray,
    bright_edges: np.ndarray,
    ndwi_edges: np.ndarray,
) -> tuple[float, float, float]:
    """Find (bright, low, high) with the best IoU among all triples of edges.

    Two histograms summed up along both axes give the counts of every box at once.
    """
    clipped = np.clip(brightness, bright_edges[0], bright_edges[-1])

    def inside(chosen: np.ndarray) -> np.ndarray:
        """Count the chosen pixels above each brightness edge and below each NDWI edge."""
        counts, _, _ = np.histogram2d(clipped[chosen], ndwi[chosen], [bright_edges, ndwi_edges])
        above = counts[::-1].cumsum(axis=0)[::-1].cumsum(axis=1)
        return np.pad(above, ((0, 0), (1, 0)))

    glacier, other = inside(labels == 1), inside(labels == 0)
    hits = glacier[:, None, :] - glacier[:, :, None]
    false_alarms = other[:, None, :] - other[:, :, None]
    iou = hits / np.maximum((labels == 1).sum() + false_alarms, 1)
    # The first best from the top of NDWI downwards: among equals, the widest box.
    bright, low, below = np.unravel_index(np.argmax(iou[:, :, ::-1]), iou.shape)
    last = len(ndwi_edges) - 1
    high = last - below
    return (
        float(bright_edges[bright]),
        # At the end of the range the threshold keeps nothing out, so it must not soften either.
        float(ndwi_edges[low]) if low > 0 else -2.0,
        float(ndwi_edges[high]) if high < last else 2.0,
    )


class RandomForest(PixelModel):
    """A random forest on the bands of single pixels, fitted by scikit-learn, kept as tensors.

    Every tree is laid out as a full binary tree of ``depth`` levels: the children of node i are
    2 i + 1 and 2 i + 2. A branch that ends early goes on to the left under thresholds of infinity.
    So all pixels walk down level by level together, and the checkpoint needs no pickled objects.

    The logit is that of the trees' mean probability, cut to 1e-6 from 0 and 1.

    Reference: Breiman, L. (2001): Random forests. Machine Learning 45, 5-32.
    """

    def __init__(self, bands: int, trees: int = 32, depth: int = 12, leaf: int = 20) -> None:
        """``trees`` of at most ``depth`` levels, with at least ``leaf`` pixels in each leaf."""
        super().__init__()
        if not 1 <= depth <= 20:
            raise ValueError(f"depth must be between 1 and 20, not {depth}")
        self.bands, self.trees, self.depth, self.leaf = bands, trees, depth, leaf
        inner = 2**depth - 1
        self.register_buffer("feature", torch.zeros(trees, inner, dtype=torch.int32))
        self.register_buffer("threshold", torch.full((trees, inner), torch.inf))
        self.register_buffer("value", torch.full((trees, inner + 1), 0.5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        count, bands, height, width = images.shape
        pixels = images.float().permute(0, 2, 3, 1).reshape(-1, bands)
        # Chunks that stay in the processor's cache while all trees look at them.
        probability = torch.cat([self._walk(chunk) for chunk in pixels.split(16384)])
        return torch.logit(probability, eps=1e-6).view(count, height, width)

    def _walk(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the mean probability [n] of all trees for pixels [n, band]."""
        count, bands = pixels.shape
        flat = pixels.reshape(-1)
        first = torch.arange(count, dtype=torch.int32, device=pixels.device) * bands
        total = torch.zeros(count, device=pixels.device)
        for feature, threshold, value in zip(self.feature, self.threshold, self.value, strict=True):
            node = torch.zeros(count, dtype=torch.int32, device=pixels.device)
            for _ in range(self.depth):
                looked_at = flat.index_select(0, first + feature.index_select(0, node))
                right = looked_at > threshold.index_select(0, node)
                node = node.mul_(2).add_(1).add_(right)
            total += value.index_select(0, node - (2**self.depth - 1))
        return total / self.trees

    def fit(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        *,
        bands: Sequence[str],
        mean: np.ndarray,
        std: np.ndarray,
        seed: int = 0,
    ) -> None:
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            n_estimators=self.trees,
            max_depth=self.depth,
            min_samples_leaf=self.leaf,
            n_jobs=2,
            random_state=seed,
        )
        self.take(forest.fit(pixels, labels))

    def take(self, forest: Any) -> None:
        """Copy the trees of a fitted ``RandomForestClassifier`` of the classes 0 and 1."""
        if len(forest.estimators_) != self.trees or forest.n_features_in_ != self.bands:
            raise GlacierError(
                f"random_forest: expected {self.trees} trees on {self.bands} bands, got "
                f"{len(forest.estimators_)} on {forest.n_features_in_}"
            )
        classes = list(forest.classes_)
        buffers = (self.feature, self.threshold, self.value)
        for number, estimator in enumerate(forest.estimators_):
            layout = _full_tree(estimator.tree_, self.depth, classes)
            for buffer, array in zip(buffers, layout, strict=True):
                buffer[number] = torch.from_numpy(array)

    def fitted_numbers(self) -> int:
        nodes = int(torch.isfinite(self.threshold).sum())
        return 2 * nodes + nodes + self.trees  # band and threshold a node, one value a leaf


def _full_tree(tree: Any, depth: int, classes: list[int]):
    """Lay a scikit-learn tree out in full: bands and thresholds [2^d - 1], leaf values [2^d]."""
    inner = 2**depth - 1
    feature = np.zeros(inner, dtype=np.int32)
    threshold = np.full(inner, np.inf, dtype=np.float32)
    value = np.zeros(inner + 1, dtype=np.float32)
    glacier = tree.value[:, 0, classes.index(1)] if 1 in classes else np.zeros(tree.node_count)
    rounded = _round_down(tree.threshold)

    places = [(0, 0)]  # (node of scikit-learn, place in the full layout)
    while places:
        node, place = places.pop()
        left, right = tree.children_left[node], tree.children_right[node]
        if left == right:  # a leaf: down the left side to the last level
            while place < inner:
                place = 2 * place + 1
            value[place - inner] = glacier[node]
        else:
            feature[place], threshold[place] = tree.feature[node], rounded[node]
            places += [(left, 2 * place + 1), (right, 2 * place + 2)]
    return feature, threshold, value


def _round_down(thresholds: np.ndarray) -> np.ndarray:
    """Round float64 to the float32 at or below: then x <= t is the same for every float32 x."""
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)
