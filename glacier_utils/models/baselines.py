"""The baselines: models that are fitted to a sample of pixels, as networks without layers.

A threshold rule and a random forest look at single pixels; gradient-boosted trees, the strong
baseline, look at what lies around a pixel too. They are fitted once, not trained in steps. All
that they learn lies in tensors (buffers), so that a checkpoint of theirs is as safe to load as a
network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn

from glacier_utils.errors import GlacierError


class PixelModel(nn.Module):
    """A model fitted to pixels: normalised images [n, band, row, col] -> logits [n, row, col].

    First ``prepare`` gives it bands and statistics; then ``pixel_features`` turns normalised images
    into what it is fitted to with ``fit``.

    Args:
        bands: number of input bands.
        reflectance: whether it computes brightness and NDWI, which need the statistics that the
            images are normalised with.
    """

    mean: torch.Tensor
    std: torch.Tensor
    green_nir: torch.Tensor

    def __init__(self, bands: int, *, reflectance: bool = False) -> None:
        super().__init__()
        self.bands, self.needs_reflectance = bands, reflectance
        if reflectance:
            self.register_buffer("mean", torch.zeros(bands))
            self.register_buffer("std", torch.ones(bands))
            # Positions of green and near infrared among the bands, -1 where missing.
            self.register_buffer("green_nir", torch.tensor([-1, -1]))

    def prepare(self, bands: Sequence[str], mean: np.ndarray, std: np.ndarray) -> None:
        """Take the bands' names, and mean and deviation [band] that images are normalised with."""
        if self.needs_reflectance:
            self.mean.copy_(torch.as_tensor(mean))
            self.std.copy_(torch.as_tensor(std))
            places = [list(bands).index(n) if n in bands else -1 for n in ("green", "nir")]
            self.green_nir.copy_(torch.tensor(places))

    def reflectance(self, images: torch.Tensor) -> torch.Tensor:
        """Return the reflectance [n, band, row, col] of normalised images."""
        return images.float() * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)

    def ndwi(self, reflectance: torch.Tensor) -> torch.Tensor:
        """Return NDWI [n, row, col] of reflectance; 0 where green or nir is missing.

        Unlike `raster.indices.ndwi` it is never nan: atmospheric correction leaves dark pixels
        slightly negative, where a ratio means nothing, so reflectance is cut off at 0.
        """
        green, nir = self.green_nir.tolist()
        if green < 0 or nir < 0:
            return torch.zeros_like(reflectance[:, 0])
        green, nir = reflectance[:, green].clamp(min=0), reflectance[:, nir].clamp(min=0)
        return (green - nir) / (green + nir).clamp(min=1e-4)

    def pixel_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return what is known of each pixel, [n, feature, row, col]: its normalised bands."""
        return images

    def fit(self, pixels: np.ndarray, labels: np.ndarray, seed: int = 0) -> None:
        """Fit to pixels with a known label.

        Args:
            pixels: float32 [n, feature], of ``pixel_features``.
            labels: uint8 [n] of 0 and 1.
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

    thresholds: torch.Tensor
    softness: torch.Tensor

    def __init__(self, bands: int) -> None:
        super().__init__(bands, reflectance=True)
        self.register_buffer("thresholds", torch.tensor([0.0, -2.0, 2.0]))
        self.register_buffer("softness", torch.tensor([0.025, 0.05]))

    def brightness_and_ndwi(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean reflectance and NDWI, each [n, row, col], of normalised images."""
        reflectance = self.reflectance(images)
        return reflectance.mean(dim=1), self.ndwi(reflectance)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n, row, col] of normalised images [n, band, row, col]."""
        brightness, ndwi = self.brightness_and_ndwi(images)
        bright, low, high = self.thresholds
        margins = [
            (brightness - bright) / self.softness[0],
            (ndwi - low) / self.softness[1],
            (high - ndwi) / self.softness[1],
        ]
        return torch.stack(margins).amin(dim=0)

    def fit(self, pixels: np.ndarray, labels: np.ndarray, seed: int = 0) -> None:
        """Find the thresholds on a grid of 80 x 80 x 80; as of ``PixelModel``."""
        features = self.brightness_and_ndwi(torch.as_tensor(pixels).T[None, :, :, None])
        brightness, ndwi = (feature.numpy().ravel() for feature in features)
        bright_edges = np.linspace(brightness.min(), np.quantile(brightness, 0.999), 81)
        ndwi_edges = np.linspace(-1.0, 1.0, 81)
        thresholds = _best_box(brightness, ndwi, np.asarray(labels), bright_edges, ndwi_edges)
        self.thresholds.copy_(torch.tensor(thresholds))
        span = max(float(bright_edges[-1] - bright_edges[0]), 1e-6)
        self.softness.copy_(torch.tensor([span / 40, 0.05]))

    def fitted_numbers(self) -> int:
        """Count the thresholds."""
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


class TreeModel(PixelModel):
    """Decision trees held in tensors.

    Every tree is laid out as a full binary tree of ``depth`` levels: the children of node i are
    2 i + 1 and 2 i + 2. A branch that ends early goes on to the left under thresholds of infinity.
    So all pixels walk down level by level together, and the checkpoint needs no pickled objects.

    Args:
        bands: number of input bands.
        trees: their number.
        depth: levels of each, 1 to 20.
        value: of all leaves before the fit.
        reflectance: as of ``PixelModel``.
    """

    feature: torch.Tensor
    threshold: torch.Tensor
    value: torch.Tensor

    def __init__(
        self, bands: int, trees: int, depth: int, value: float, *, reflectance: bool = False
    ) -> None:
        super().__init__(bands, reflectance=reflectance)
        if not 1 <= depth <= 20:
            raise ValueError(f"depth must be between 1 and 20, not {depth}")
        if trees < 1:
            raise ValueError(f"trees must be at least 1, not {trees}")
        self.trees, self.depth = trees, depth
        inner = 2**depth - 1
        self.register_buffer("feature", torch.zeros(trees, inner, dtype=torch.int32))
        self.register_buffer("threshold", torch.full((trees, inner), torch.inf))
        self.register_buffer("value", torch.full((trees, inner + 1), value))

    def total(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the sum [n] of all trees' values for pixels float32 [n, feature]."""
        names = ("feature", "threshold", "value")
        arrays = [getattr(self, name).cpu().numpy() for name in names]
        trees = list(zip(*arrays, strict=True))
        # Chunks that stay in the processor's cache while all trees look at them.
        chunks = pixels.cpu().split(16384)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # NumPy works without the lock
            totals = list(pool.map(lambda chunk: self._walk(chunk.numpy(), trees), chunks))
        return torch.from_numpy(np.concatenate(totals)).to(pixels.device)

    def _walk(self, pixels: np.ndarray, trees: Sequence[tuple[np.ndarray, ...]]) -> np.ndarray:
        values = np.ascontiguousarray(pixels.T)  # all pixels look at one row of it at the root
        count, flat = values.shape[1], values.reshape(-1)
        here, total = np.arange(count), np.zeros(count, np.float32)
        for feature, threshold, value in trees:
            first = feature.astype(np.int64) * count
            node = (values[feature[0]] > threshold[0]) + 1
            for _ in range(self.depth - 1):
                right = flat.take(here + first.take(node)) > threshold.take(node)
                node *= 2
                node += 1
                node += right
            total += value.take(node - (2**self.depth - 1))
        return total

    def set_tree(
        self,
        number: int,
        feature: np.ndarray,
        threshold: np.ndarray,
        left: np.ndarray,
        right: np.ndarray,
        value: np.ndarray,
    ) -> None:
        """Lay one tree out in full, from arrays [node] in any order with the root first.

        A node whose ``left`` and ``right`` are the same is a leaf. Pixels at or below the threshold
        (float64) go to the left.
        """
        inner = 2**self.depth - 1
        rounded = _round_down(threshold)
        features = np.zeros(inner, dtype=np.int32)
        thresholds = np.full(inner, np.inf, dtype=np.float32)
        values = np.zeros(inner + 1, dtype=np.float32)
        places = [(0, 0)]  # (node, place in the full layout)
        while places:
            node, place = places.pop()
            if left[node] == right[node]:  # a leaf: down the left side to the last level
                while place < inner:
                    place = 2 * place + 1
                values[place - inner] = value[node]
            elif place >= inner:
                raise GlacierError(f"a tree has more than {self.depth} levels; fit with less depth")
            else:
                features[place], thresholds[place] = feature[node], rounded[node]
                places += [(left[node], 2 * place + 1), (right[node], 2 * place + 2)]
        self.feature[number] = torch.from_numpy(features)
        self.threshold[number] = torch.from_numpy(thresholds)
        self.value[number] = torch.from_numpy(values)

    def fitted_numbers(self) -> int:
        """Count features, thresholds and values of leaves."""
        nodes = int(torch.isfinite(self.threshold).sum())
        return 2 * nodes + nodes + self.trees  # feature and threshold a node, one value a leaf


class RandomForest(TreeModel):
    """A random forest on the bands of single pixels, fitted by scikit-learn, held in tensors.

    The logit is that of the trees' mean probability, cut to 1e-6 from 0 and 1.

    Reference: Breiman, L. (2001): Random forests. Machine Learning 45, 5-32.
    """

    def __init__(self, bands: int, trees: int = 32, depth: int = 12, leaf: int = 20) -> None:
        """``trees`` of at most ``depth`` levels, with at least ``leaf`` pixels in each leaf."""
        super().__init__(bands, trees, depth, 0.5)
        self.leaf = leaf

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n, row, col] of normalised images [n, band, row, col]."""
        count, bands, height, width = images.shape
        pixels = images.float().permute(0, 2, 3, 1).reshape(-1, bands)
        probability = self.total(pixels) / self.trees
        return torch.logit(probability, eps=1e-6).view(count, height, width)

    def fit(self, pixels: np.ndarray, labels: np.ndarray, seed: int = 0) -> None:
        """Grow the trees with scikit-learn; as of ``PixelModel``."""
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
        for number, estimator in enumerate(forest.estimators_):
            tree = estimator.tree_
            glacier = tree.value[:, 0] @ (forest.classes_ == 1)
            children = tree.children_left, tree.children_right
            self.set_tree(number, tree.feature, tree.threshold, *children, glacier)


def _round_down(thresholds: np.ndarray) -> np.ndarray:
    """Round float64 to the float32 at or below: then x <= t is the same for every float32 x."""
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)


WINDOWS = (3, 7, 15)
"""Sides in pixels of the square windows that mean and deviation are taken over."""
REACH = max(WINDOWS) // 2
"""So many pixels to each side decide a pixel's features."""

_ROWS = 64  # whose features are in memory at a time
_ALMOST_SURE = 13.8  # logit of 1 - 1e-6


class GradientBoosting(TreeModel):
    """Gradient-boosted trees on neighbourhoods, fitted by scikit-learn, held in tensors.

    The logit is a constant plus the sum of the trees' values, as in scikit-learn's
    ``HistGradientBoostingClassifier``.

    References: Friedman, J. H. (2001): Greedy function approximation: a gradient boosting machine.
    Annals of Statistics 29, 1189-1232. By histograms: Ke, G., et al. (2017): LightGBM. NeurIPS.

    Args:
        bands: number of input bands.
        trees: their number.
        depth: levels of each, 1 to 20.
        leaf: pixels in each leaf at least.
        rate: by which each tree's values are shrunk (learning rate).
    """

    start: torch.Tensor

    def __init__(
        self, bands: int, trees: int = 100, depth: int = 6, leaf: int = 20, rate: float = 0.1
    ) -> None:
        super().__init__(bands, trees, depth, 0.0, reflectance=True)
        if not rate > 0:
            raise ValueError(f"rate must be above 0, not {rate}")
        self.leaf, self.rate = leaf, rate

        self.register_buffer("start", torch.zeros(1))

    def pixel_features(self, images: torch.Tensor) -> torch.Tensor:
        """Describe each pixel and the windows around it.

        The layers are the normalised bands, brightness (mean reflectance of all bands, less that of
        the training pixels) and NDWI. The features are the layers, then their means and standard
        deviations in windows of 3, 7 and 15 pixels. Invalid pixels (0 in every band) and what lies
        beyond the edge are left out of a window; where nothing is left, mean and deviation are 0.

        Args:
            images: normalised [n, band, row, col].

        Returns:
            float32 [n, feature, row, col] with (bands + 2) * 7 features; those of a pixel depend on
            the ``REACH`` pixels around it alone.
        """
        images = images.float()
        valid = (images != 0).any(dim=1, keepdim=True).float()
        brightness = (images * self.std.view(-1, 1, 1)).mean(dim=1)
        ndwi = self.ndwi(self.reflectance(images))
        layers = torch.cat([images, brightness[:, None], ndwi[:, None]], dim=1) * valid
        features = [layers]
        for window in WINDOWS:
            count = _window_sum(valid, window).clamp(min=1)
            mean = _window_sum(layers, window) / count
            variance = _window_sum(layers.square(), window) / count - mean.square()
            # Rounding may leave a variance slightly below 0.
            features += [mean, variance.clamp(min=0).sqrt()]
        return torch.cat(features, dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n, row, col] of normalised images [n, band, row, col]."""
        count, _, height, width = images.shape
        logits = torch.empty(count, height, width, device=images.device)
        for number in range(count):
            for top in range(0, height, _ROWS):
                rows = min(_ROWS, height - top)
                # The features are many times the image: only those of some rows at a time.
                first = max(top - REACH, 0)
                strip = images[number : number + 1, :, first : top + rows + REACH]
                features = self.pixel_features(strip)[0, :, top - first :][:, :rows]
                total = self.total(features.flatten(1).T.contiguous())
                logits[number, top : top + rows] = (self.start + total).view(rows, width)
        return logits

    def fit(self, pixels: np.ndarray, labels: np.ndarray, seed: int = 0) -> None:
        """Grow the trees with scikit-learn; as of ``PixelModel``."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        if len(classes := np.unique(labels)) == 1:  # nothing to separate, so no trees
            self.threshold.fill_(torch.inf)
            self.value.zero_()
            self.start.fill_(_ALMOST_SURE if classes[0] == 1 else -_ALMOST_SURE)
            return
        booster = HistGradientBoostingClassifier(
            max_iter=self.trees,
            max_depth=self.depth,
            min_samples_leaf=self.leaf,
            learning_rate=self.rate,
            early_stopping=False,
            random_state=seed,
        )
        self.take(booster.fit(pixels, labels))

    def take(self, booster: Any) -> None:
        """Copy the trees of a fitted ``HistGradientBoostingClassifier`` of the classes 0 and 1.

        scikit-learn offers no public way to them; a test compares the probabilities.
        """
        self.start.fill_(float(np.ravel(booster._baseline_prediction)[0]))
        names = ("feature_idx", "num_threshold", "left", "right", "value")
        for number, (tree,) in enumerate(booster._predictors):
            self.set_tree(number, *(tree.nodes[name] for name in names))

    def fitted_numbers(self) -> int:
        """Count what the trees hold, and the constant."""
        return super().fitted_numbers() + 1


def _window_sum(layers: torch.Tensor, window: int) -> torch.Tensor:
    """Sum [n, layer, row, col] over windows around each pixel, cut off at the edges."""
    half = window // 2
    down = nn.functional.avg_pool2d(layers, (window, 1), 1, (half, 0), divisor_override=1)
    return nn.functional.avg_pool2d(down, (1, window), 1, (0, half), divisor_override=1)
