"""Gradient-boosted trees on each pixel and what lies around it: the strong baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from glacier_utils.errors import GlacierError
from glacier_utils.pixels import TreeModel, green_nir_positions, ndwi

WINDOWS = (3, 7, 15)
"""Sides in pixels of the square windows that mean and deviation are taken over."""
REACH = max(WINDOWS) // 2
"""So many pixels to each side decide a pixel's features."""

_ROWS = 64  # whose features are in memory at a time
_ALMOST_SURE = 13.8  # logit of 1 - 1e-6


class GradientBoosting(TreeModel):
    """Gradient-boosted trees on neighbourhoods, fitted by scikit-learn, kept as tensors.

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

    def __init__(
        self, bands: int, trees: int = 100, depth: int = 6, leaf: int = 20, rate: float = 0.1
    ) -> None:
        super().__init__(trees, depth, 0.0)
        if not rate > 0:
            raise ValueError(f"rate must be above 0, not {rate}")
        self.leaf, self.rate = leaf, rate
        self.features = (bands + 2) * (1 + 2 * len(WINDOWS))
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("std", torch.ones(bands))
        self.register_buffer("green_nir", torch.tensor([-1, -1]))
        self.register_buffer("start", torch.zeros(1))

    def prepare(
        self, bands: Sequence[str], mean: np.ndarray | torch.Tensor, std: np.ndarray | torch.Tensor
    ) -> None:
        """Take the bands' names and the statistics [band] that images are normalised with.

        To be called before ``neighbourhood_features``, which needs the reflectance for NDWI.
        """
        self.mean.copy_(torch.as_tensor(mean))
        self.std.copy_(torch.as_tensor(std))
        self.green_nir.copy_(green_nir_positions(bands))

    def neighbourhood_features(self, images: torch.Tensor) -> torch.Tensor:
        """Describe each pixel and the windows around it.

        The layers are the normalised bands, brightness (mean reflectance of all bands, less that of
        the training pixels) and NDWI (``pixels.ndwi``). The features are the layers, then their
        means and standard deviations in windows of 3, 7 and 15 pixels. Invalid pixels (0 in every
        band) and what lies beyond the edge are left out of a window; where nothing is left, mean
        and deviation are 0.

        Args:
            images: normalised [n, band, row, col].

        Returns:
            float32 [n, feature, row, col] with ``features`` features; those of a pixel depend on
            the ``REACH`` pixels around it alone.
        """
        images = images.float()
        valid = (images != 0).any(dim=1, keepdim=True).float()
        brightness = (images * self.std.view(-1, 1, 1)).mean(dim=1)
        reflectance = images * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)
        index = ndwi(reflectance, self.green_nir)
        layers = torch.cat([images, brightness[:, None], index[:, None]], dim=1) * valid
        features = [layers]
        for window in WINDOWS:
            count = _window_sum(valid, window).clamp(min=1)
            mean = _window_sum(layers, window) / count
            variance = _window_sum(layers.square(), window) / count - mean.square()
            # Rounding may leave a variance slightly below 0.
            features += [mean, variance.clamp(min=0).sqrt()]
        return torch.cat(features, dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        count, _, height, width = images.shape
        logits = torch.empty(count, height, width, device=images.device)
        for number in range(count):
            for top in range(0, height, _ROWS):
                rows = min(_ROWS, height - top)
                # The features are many times the image: only those of some rows at a time.
                first = max(top - REACH, 0)
                strip = images[number : number + 1, :, first : top + rows + REACH]
                features = self.neighbourhood_features(strip)[0, :, top - first :][:, :rows]
                total = self.total(features.flatten(1).T.contiguous())
                logits[number, top : top + rows] = (self.start + total).view(rows, width)
        return logits

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
        """Fit to ``pixels`` [n, feature], as ``neighbourhood_features`` gives them.

        Raises:
            GlacierError: pixels of another number of features, or features that were computed
                without ``prepare`` or with other bands or statistics.
        """
        if pixels.ndim != 2 or pixels.shape[1] != self.features:
            raise GlacierError(
                f"gradient_boosting: expected pixels of {self.features} features, got an array "
                f"{pixels.shape}; take them from neighbourhood_features"
            )
        given = [torch.as_tensor(np.asarray(array, dtype=np.float32)) for array in (mean, std)]
        told = [self.mean.cpu(), self.std.cpu(), self.green_nir.cpu()]
        if not all(map(torch.equal, told, [*given, green_nir_positions(bands)])):
            raise GlacierError(
                "gradient_boosting: the features were computed with other bands or statistics; "
                "call prepare before neighbourhood_features"
            )
        from sklearn.ensemble import HistGradientBoostingClassifier

        if len(classes := np.unique(labels)) == 1:  # nothing to tell apart, so no trees
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
        if booster.n_iter_ != self.trees or booster.n_features_in_ != self.features:
            raise GlacierError(
                f"gradient_boosting: expected {self.trees} trees on {self.features} features, got "
                f"{booster.n_iter_} on {booster.n_features_in_}"
            )
        self.start.fill_(float(np.ravel(booster._baseline_prediction)[0]))
        for number, (tree,) in enumerate(booster._predictors):
            nodes = tree.nodes
            self.set_tree(
                number,
                nodes["feature_idx"],
                nodes["num_threshold"],
                nodes["left"],
                nodes["right"],
                nodes["value"],
            )

    def fitted_numbers(self) -> int:
        return super().fitted_numbers() + 1  # the constant


def _window_sum(layers: torch.Tensor, window: int) -> torch.Tensor:
    """Sum [n, layer, row, col] over windows around each pixel, cut off at the edges."""
    half = window // 2
    down = F.avg_pool2d(layers, (window, 1), 1, (half, 0), divisor_override=1)
    return F.avg_pool2d(down, (1, window), 1, (0, half), divisor_override=1)
