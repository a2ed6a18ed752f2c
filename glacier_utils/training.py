"""Training: from a patch store to a checkpoint, for networks and for pixel baselines."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

import glacier_utils
from glacier_utils import metrics, models
from glacier_utils.checkpoints import Segmenter, save_checkpoint
from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path, fingerprint, write_csv, write_json
from glacier_utils.losses import UNKNOWN, bce_dice
from glacier_utils.precision import resolve
from glacier_utils.prediction import predict_patches

if TYPE_CHECKING:
    from glacier_utils.patches import PatchStore

HISTORY = (
    "epoch",
    "train_loss",
    "validation_loss",
    "validation_iou",
    "learning_rate",
    "seconds",
)


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        epochs: at most so many passes over the training patches.
        batch_size: patches a step.
        learning_rate: its highest value, in the one-cycle schedule (Smith and Topin 2019).
        weight_decay: of AdamW.
        patience: epochs without a better validation IoU before training stops.
        gradient_clip: largest norm of the gradient.
        seed: of weights, order and augmentation.
        augment: symmetries and gains on each batch.
        precision: "auto" (bf16 where the processor has it), "bf16" or "float32".
        threads: of torch; None leaves torch's own choice.
        pixels: size of the sample of pixels that the pixel baselines are fitted to.
    """

    epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    patience: int = 20
    gradient_clip: float = 1.0
    seed: int = 0
    augment: bool = True
    precision: str = "auto"
    threads: int | None = None
    pixels: int = 200_000

    def __post_init__(self) -> None:
        positive = ["epochs", "batch_size", "learning_rate", "patience", "gradient_clip", "pixels"]
        for name in positive:
            if not getattr(self, name) > 0:
                raise GlacierError(f"settings: {name} is {getattr(self, name)}, must be above 0")
        resolve(self.precision)


@dataclass(frozen=True)
class Fit:
    """What a fit left behind: ``validation`` holds scores, loss, threshold and patch counts."""

    checkpoint: Path
    history: pd.DataFrame
    validation: dict[str, Any]
    seconds: float
    parameters: int
    reused: bool


def fit(
    name: str,
    store: PatchStore,
    folder: str | Path,
    *,
    dates: Sequence[str] | str | None = None,
    settings: Settings | None = None,
    arguments: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Fit:
    """Train one model on the training patches of a store; validation patches pick its state.

    Test patches are never read. The folder appears when the fit is finished, with checkpoint.pt,
    history.csv (a row an epoch; ``seconds`` since the start) and fit.json. A finished fit is
    reused where store, model, arguments, settings, dates and versions are the same.

    Args:
        name, arguments: of ``models.build``.
        store: patches with splits ``train`` and ``validation``.
        folder: of this fit alone.
        dates: which dates to train and validate on; None takes all.
        settings: defaults to ``Settings()``.
        progress: show a bar.

    Raises:
        GlacierError: an unknown model or date, or too few patches.
    """
    folder = Path(folder)
    settings = settings or Settings()
    arguments = dict(arguments or {})
    dates = [dates] if isinstance(dates, str) else sorted(dates or set(store.index["date"]))
    identity = {
        "model": name,
        "arguments": arguments,
        "settings": asdict(settings),
        "dates": dates,
        "store": store.key,
        "versions": _versions(),
    }
    key = fingerprint(identity)
    if (finished := _finished(folder, key)) is not None:
        return finished

    train, validation = _positions(store, dates)
    started = time.perf_counter()
    with atomic_path(folder) as temporary, _reproducible(settings):
        temporary.mkdir()
        mean, std = _statistics(store)
        segmenter = Segmenter(
            name,
            store.bands,
            mean,
            std,
            arguments=arguments,
            provenance=_provenance(store, identity),
        )
        if models.is_pixel_model(name):
            history = _fit_pixels(segmenter, store, train, settings)
        else:
            # Lightning takes seconds to import, which prediction and the baselines do not need.
            from glacier_utils.loop import train_network

            history = train_network(
                segmenter, store, train, validation, settings, temporary, progress=progress
            )
        scores = _validate(segmenter, store, validation, settings)
        if history.empty:  # a pixel model: one row, so that every history reads alike
            row = (1, math.nan, scores["loss"], scores["iou"], math.nan, _since(started))
            history = pd.DataFrame([row], columns=HISTORY)
        segmenter.threshold = scores["threshold"]
        segmenter.provenance["validation"] = scores
        save_checkpoint(temporary / "checkpoint.pt", segmenter)
        write_csv(temporary / "history.csv", history)
        content = {
            "fingerprint": key,
            **identity,
            "validation": scores | {"patches": len(validation), "train_patches": len(train)},
            "seconds": _since(started),
            "parameters": models.parameter_count(segmenter.network),
        }
        write_json(temporary / "fit.json", content)
    finished = _finished(folder, key)
    assert finished is not None
    return Fit(**(vars(finished) | {"reused": False}))


def choose_threshold(
    probability: np.ndarray, label: np.ndarray, *, default: float = 0.5, gain: float = 0.005
) -> float:
    """Return the threshold (steps of 0.05) with the best pooled IoU.

    ``default`` stays unless another is better by more than ``gain``: a threshold tuned to a few
    validation patches is not worth more than that. Arrays of one shape; 255 and nan are left out.
    """
    table = metrics.precision_recall(probability, label, bins=20).set_index("threshold")
    # 1 / IoU = 1 / precision + 1 / recall - 1, by the definitions of the three.
    iou = 1 / (1 / table["precision"] + 1 / table["recall"] - 1)
    iou = iou.iloc[1:].fillna(0.0)
    at_default = iou.iloc[np.abs(iou.index - default).argmin()]
    return float(round(iou.idxmax(), 2)) if iou.max() > at_default + gain else default


def _fit_pixels(
    segmenter: Segmenter, store: PatchStore, train: np.ndarray, settings: Settings
) -> pd.DataFrame:
    """Fit a pixel baseline to a sample of known training pixels; return an empty history."""
    pixels, labels = sample_pixels(store, train, settings.pixels, settings.seed)
    mean, std = (buffer.flatten().numpy() for buffer in (segmenter.mean, segmenter.std))
    normalised = ((pixels - mean) / std).astype(np.float32)
    segmenter.network.fit(
        normalised, labels, bands=segmenter.bands, mean=mean, std=std, seed=settings.seed
    )
    return pd.DataFrame(columns=HISTORY)


def sample_pixels(
    store: PatchStore, positions: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw known pixels evenly from patches: reflectance [n, band], labels uint8 [n].

    At most ``count``; a patch gives at most its equal share, so that memory stays bounded.
    """
    generator = np.random.default_rng(seed)
    share = -(-count // len(positions))
    pixels, labels = [], []
    for position in positions:
        label = np.asarray(store.labels[position]).ravel()
        known = np.flatnonzero(label != UNKNOWN)
        chosen = np.sort(generator.permutation(known)[:share])
        image = np.asarray(store.images[position]).reshape(len(store.bands), -1)
        pixels.append(image[:, chosen].T)
        labels.append(label[chosen])
    return np.concatenate(pixels), np.concatenate(labels)


def _validate(
    segmenter: Segmenter, store: PatchStore, positions: np.ndarray, settings: Settings
) -> dict[str, Any]:
    """Choose the threshold and score the validation patches, pooled."""
    segmenter.eval()
    labels = np.asarray(store.labels[positions])
    probability = predict_patches(
        segmenter, store.images, positions=positions, precision=settings.precision
    )
    threshold = choose_threshold(probability, labels)
    counts = metrics.count(probability >= threshold, labels)
    logits = torch.logit(torch.from_numpy(probability), eps=1e-6)
    loss = bce_dice(logits, torch.from_numpy(labels))
    return metrics.score_table(counts) | {"loss": float(loss), "threshold": threshold}


def _positions(store: PatchStore, dates: list[str]) -> tuple[np.ndarray, np.ndarray]:
    unknown = sorted(set(dates) - set(store.index["date"]))
    if unknown:
        known = ", ".join(sorted(set(store.index["date"])))
        raise GlacierError(f"patch store {store.key}: no date {unknown[0]}; it has {known}")
    train = np.sort(store.select(split="train", date=dates))
    validation = np.sort(store.select(split="validation", date=dates))
    for split, positions, least in (("train", train, 2), ("validation", validation, 1)):
        if len(positions) < least:
            raise GlacierError(
                f"patch store {store.key}: {len(positions)} {split} patches of {', '.join(dates)}, "
                f"at least {least} needed; check train_areas and validation_fraction"
            )
    return train, validation


def _statistics(store: PatchStore) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation [band] of the training pixels."""
    return np.asarray(store.statistics["mean"]), np.asarray(store.statistics["std"])


def _provenance(store: PatchStore, identity: dict[str, Any]) -> dict[str, Any]:
    """Say what a checkpoint was trained on, and how the numbers there become reflectance."""
    told = {name: store.parameters.get(name) for name in ("dataset", "reflectance")}
    return identity | {name: value for name, value in told.items() if value is not None}


def _finished(folder: Path, key: str) -> Fit | None:
    """Read a finished fit, if it is there and is the one asked for."""
    report, checkpoint = folder / "fit.json", folder / "checkpoint.pt"
    if not (report.is_file() and checkpoint.is_file() and (folder / "history.csv").is_file()):
        return None
    content = json.loads(report.read_text(encoding="utf-8"))
    if content.get("fingerprint") != key:
        return None
    return Fit(
        checkpoint=checkpoint,
        history=pd.read_csv(folder / "history.csv"),
        validation=content["validation"],
        seconds=content["seconds"],
        parameters=content["parameters"],
        reused=True,
    )


@contextmanager
def _reproducible(settings: Settings):
    """Seed torch and set its threads for the time of a fit; put both back afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _versions() -> dict[str, str]:
    """Versions of what decides the weights."""
    packages = ("torch", "lightning", "segmentation-models-pytorch", "scikit-learn")
    return {"glacier-utils": glacier_utils.__version__} | {name: version(name) for name in packages}


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 2)
