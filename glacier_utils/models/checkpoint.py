"""A model with all that prediction needs, and the file that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path
from glacier_utils.models import registry

FORMAT = 1


class Segmenter(nn.Module):
    """A network together with bands, normalisation, threshold and temperature.

    Args:
        name: of ``registry.build``.
        bands: names of the bands in the order in which the network takes them.
        mean: [band] of the reflectance of the training pixels.
        std: [band] their standard deviation.
        arguments: of ``registry.build``.
        threshold: probability from which a pixel is called glacier.
        temperature: the logits are divided by it, to calibrate the probabilities.
        provenance: what it was trained on, JSON-able.

    Calling it turns reflectance [n, band, row, col], invalid pixels 0 in every band, into logits
    [n, row, col]; ``sigmoid`` of them is the probability.
    """

    network: nn.Module
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        name: str,
        bands: Sequence[str],
        mean: Sequence[float] | np.ndarray,
        std: Sequence[float] | np.ndarray,
        *,
        arguments: Mapping[str, Any] | None = None,
        threshold: float = 0.5,
        temperature: float = 1.0,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.bands = tuple(bands)
        self.arguments = dict(arguments or {})
        self.threshold = float(threshold)
        self.temperature = float(temperature)
        self.provenance = dict(provenance or {})
        if not len(self.bands) == len(mean) == len(std):
            raise GlacierError(
                f"model {name}: {len(self.bands)} bands, but {len(mean)} means and {len(std)} "
                "deviations; give one of each per band"
            )
        self.network = registry.build(name, len(self.bands), **self.arguments)
        self.register_buffer("mean", _column(mean))
        self.register_buffer("std", _column(std).clamp(min=1e-6))

    def normalise(self, reflectance: torch.Tensor) -> torch.Tensor:
        """Bring each band to mean 0 and deviation 1; invalid pixels become 0, like padding."""
        valid = reflectance[:, :1] != 0
        for band in range(1, reflectance.shape[1]):  # ten times as fast as `any` over the bands
            valid |= reflectance[:, band : band + 1] != 0
        return (reflectance - self.mean).div_(self.std).mul_(valid)  # in place: memory is time

    def without_network(self) -> Segmenter:
        """Return a copy that normalises but has no weights, whose memory can be given back."""
        made = copy(self)
        made._modules = {**self._modules, "network": nn.Identity()}
        return made

    def forward(self, reflectance: torch.Tensor) -> torch.Tensor:
        """Return logits [n, row, col] of reflectance [n, band, row, col]."""
        return self.network(self.normalise(reflectance)) / self.temperature


def save_checkpoint(path: str | Path, segmenter: Segmenter) -> Path:
    """Write a segmenter to one file of tensors, numbers and text, whole or not at all."""
    content = {
        "format": FORMAT,
        "name": segmenter.name,
        "arguments": _plain(segmenter.arguments),
        "bands": list(segmenter.bands),
        "mean": segmenter.mean.flatten().tolist(),
        "std": segmenter.std.flatten().tolist(),
        "threshold": segmenter.threshold,
        "temperature": segmenter.temperature,
        "provenance": _plain(segmenter.provenance),
        "weights": {key: value.cpu() for key, value in segmenter.network.state_dict().items()},
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
    return Path(path)


def load_checkpoint(path: str | Path) -> Segmenter:
    """Read a segmenter, ready for prediction (``eval``), on the CPU.

    Loaded with ``weights_only=True``: a file from elsewhere can run no code.

    Raises:
        GlacierError: the file is missing, is no checkpoint, does not fit the network, or used
            something that is gone.

    Example:
        >>> from tempfile import mkdtemp
        >>> model = Segmenter("threshold", ["green", "nir"], mean=[0.2, 0.2], std=[0.1, 0.1])
        >>> load_checkpoint(save_checkpoint(Path(mkdtemp()) / "model.pt", model)).bands
        ('green', 'nir')
    """
    path = Path(path)
    if not path.is_file():
        raise GlacierError(f"{path}: no such checkpoint; train a model first or check the path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and runtime errors, whatever lies in the file
        hint = "remove it and train it again"
        if path.suffix.lower() in (".tif", ".tiff", ".jp2", ".vrt", ".zip"):
            hint = "it looks like a scene: the order is CHECKPOINT SCENE OUT"
        raise GlacierError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); {hint}"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise GlacierError(f"{path}: not a checkpoint of this project (format {FORMAT})")
    if content.get("normalisation", "training") != "training":
        raise GlacierError(
            f"{path}: it was trained with per-{content['normalisation']} normalisation, which went "
            "in version 0.2.0; train it again, or map with version 0.1.0"
        )
    try:
        known = ("mean", "std", "arguments", "threshold", "temperature", "provenance")
        settings = {key: content[key] for key in known}
        segmenter = Segmenter(content["name"], content["bands"], **settings)
        segmenter.network.load_state_dict(content["weights"])
    except GlacierError as error:
        raise GlacierError(f"{path}: {error}") from error
    except KeyError as error:
        raise GlacierError(f"{path}: the checkpoint lacks {error}; train it again") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise GlacierError(f"{path}: its weights do not fit the network: {reason}") from error
    return segmenter.eval().to(memory_format=torch.channels_last)


def _column(values: Sequence[float] | np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float32)).view(1, -1, 1, 1)


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce to what JSON knows, which ``weights_only`` loads."""
    return json.loads(json.dumps(content))
