"""Fitting models: from a patch store to checkpoints, and the table of models that are compared.

`fit` makes one checkpoint, of a network or a pixel baseline. `fit_all` and `fit_again` fit several
models side by side; `summary` puts them into the table that the later notebooks read, and
`best_network`, `best_baseline`, `checkpoint` and `by_dates` find models in it.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

import glacier_utils
from glacier_utils import metrics
from glacier_utils.conventions import UNKNOWN
from glacier_utils.datasets.splitting import both_classes
from glacier_utils.datasets.store import PatchStore
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import calibration
from glacier_utils.files import (
    file_fingerprint,
    fingerprint,
    put_folder,
    relative,
    release_pages,
    write_csv,
    write_json,
)
from glacier_utils.models import pretrained, registry
from glacier_utils.models.baselines import PixelModel
from glacier_utils.models.checkpoint import Segmenter, save_checkpoint
from glacier_utils.models.losses import bce_dice
from glacier_utils.prediction.mapper import predict_patches
from glacier_utils.training.selection import BOTH, OTHER
from glacier_utils.training.settings import Settings

HISTORY = (
    "step", "train_loss", "validation_loss", "validation_iou", "learning_rate", "seconds"
)  # fmt: skip
SCORES = ("iou", "f1", "precision", "recall")
# Surface reflectance is stored in ten thousands (Sentinel-2) or finer; 255 is a picture.
_CALIBRATED = 1000
_VALIDATED_AT_ONCE = 64  # patches, which bounds the memory
_STATE = "state.ckpt"  # the file of a training that is under way
_NOT_BEATEN = (
    "no state of the network maps validation better than calling all of it glacier would: the last "
    "is kept; train for more steps, or on more ground, before you use its map"
)


@dataclass(frozen=True)
class Fit:
    """What a fit left behind.

    Args:
        checkpoint: the file.
        history: a row per validation.
        validation: scores, loss, threshold, temperature and patch counts.
        seconds: that it took.
        parameters: the numbers that it set.
        reused: whether it was there already.
    """

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
    callbacks: Sequence[Any] = (),
) -> Fit:
    """Train one model on the training patches of a store; validation patches pick its state.

    Where validation lacks a class, or nearly, its patches train too, the last step is kept,
    threshold and temperature stay at .5 and 1, and a warning says so, in fit.json too; as where no
    state beats a map that is all glacier. Test patches are never read. The folder appears when the
    fit is finished, with checkpoint.pt, history.csv (a row per validation; ``seconds`` since the
    start) and fit.json. A finished fit is reused where store, model, arguments, settings, dates and
    versions are the same; one that was interrupted goes on from the last state that was saved
    (``.<folder>.<key>.partial``) and comes to the same weights as if nothing had happened.

    With several processes (``settings.devices``, ``nodes``) each of them calls this; the first one
    writes, all return the same.

    Args:
        name: of ``registry.build``.
        store: patches with splits ``train`` and ``validation``.
        folder: of this fit alone.
        dates: which dates to train and validate on; None takes all.
        settings: defaults to ``Settings()``.
        arguments: of ``registry.build``.
        progress: show a bar.
        callbacks: of Lightning, while a network trains; what is reused calls none.

    Raises:
        GlacierError: an unknown model or date, or no patches to train on.

    Example:
        >>> from glacier_utils import datasets
        >>> store = datasets.open_store("data/sample/patches/0123456789ab")  # doctest: +SKIP
        >>> fit("unet-resnet18", store, "reports/mine/models/unet")  # doctest: +SKIP
    """
    folder = _target(Path(folder))
    settings = settings or Settings()
    arguments = dict(arguments or {})
    dates = [dates] if isinstance(dates, str) else sorted(dates or set(store.index["date"]))
    identity = {
        "model": name,
        "arguments": arguments,
        "settings": settings.model_dump(),
        "dates": dates,
        "store": store.key,
        "versions": _versions(),
        "start": _start_of(name, store, settings),
    }
    key = fingerprint(identity)
    partial = folder.with_name(f".{folder.name}.{key}.partial")
    if _first_process() and _finished(partial, key) is not None:  # killed while it was renamed
        put_folder(partial, folder)
        shutil.rmtree(partial.with_name(f"{partial.name}.old"), ignore_errors=True)
    if (finished := _finished(folder, key)) is not None:
        return finished

    train, validation, warning = _positions(store, dates)
    if warning and _first_process():
        logging.getLogger(__name__).warning("%s: %s", store.parameters.get("dataset"), warning)
    started = time.perf_counter()
    with _partial(partial, folder), _reproducible(settings):
        statistics = store.statistics["mean"], store.statistics["std"]
        provenance = _provenance(store, identity)
        segmenter = Segmenter(
            name, store.bands, *statistics, arguments=arguments, provenance=provenance
        )
        segmenter.provenance["weights"] = _start(segmenter, store, settings)
        if registry.is_pixel_model(name):
            history = _fit_pixels(segmenter, store, train, settings)
        else:
            # Lightning takes seconds to import, which prediction and the baselines do not need.
            from glacier_utils.training.module import least_iou, train_network

            history = train_network(
                segmenter, store, train, validation, settings, partial / _STATE,
                progress=progress, callbacks=callbacks,
            )  # fmt: skip
            if history["validation_iou"].max() <= least_iou(store, validation):
                if _first_process():
                    logging.getLogger(__name__).warning("%s: %s", name, _NOT_BEATEN)
                warning = "; ".join(filter(None, [warning, _NOT_BEATEN]))
        if _first_process():
            scores = _validate(segmenter, store, validation, settings)
            if history.empty:  # a pixel model: one row, so that every history reads alike
                row = (0, math.nan, scores["loss"], scores["iou"], math.nan, _since(started))
                history = pd.DataFrame([row], columns=HISTORY)
            segmenter.provenance["validation"] = scores
            save_checkpoint(partial / "checkpoint.pt", segmenter)
            write_csv(partial / "history.csv", history)
            content = {
                "fingerprint": key,
                **identity,
                "weights": segmenter.provenance["weights"],
                "validation": scores | {"patches": len(validation), "train_patches": len(train)},
                "seconds": max(_since(started), float(history["seconds"].iloc[-1])),
                "parameters": registry.parameter_count(segmenter.network),
            } | ({"warning": warning} if warning else {})
            write_json(partial / "fit.json", content)
            # Not before: until here a process that is killed goes on from the state.
            (partial / _STATE).unlink(missing_ok=True)
            put_folder(partial, folder)
        _wait_for_first_process()
    finished = _finished(folder, key)
    assert finished is not None
    return replace(finished, reused=False)


def _target(folder: Path) -> Path:
    """Return the folder of a fit, checked before the work: only another fit may be replaced."""
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise GlacierError(f"{folder}: is a file; name a folder for the fit")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "fit.json").is_file():
        raise GlacierError(
            f"{folder}: holds something else than a fit, which would be lost; name a new folder"
        )
    return folder


def _start_of(name: str, store: PatchStore, settings: Settings) -> list[Any]:
    """Return what decides the initial weights beside the settings."""
    if settings.weights == "builtin":
        if store.parameters.get("synthetic"):
            raise GlacierError(
                "weights builtin: they come from landscapes of the generator that made this "
                "dataset, so that its scores would flatter; choose weights none"
            )
        return file_fingerprint(pretrained.BUILTIN)
    if Path(settings.weights).is_file():  # another file of that name is another start
        return file_fingerprint(settings.weights)
    fits = pretrained.csmask_fits(name, store.bands, _is_reflectance(store, settings))
    if settings.weights == "csmask" or (settings.weights == "auto" and fits):
        return ["csmask", version("ukis-csmask") if fits else None]
    return [settings.weights]


def _start(segmenter: Segmenter, store: PatchStore, settings: Settings) -> str:
    """Put the initial weights into a segmenter; return in words which."""
    if registry.is_pixel_model(segmenter.name):
        return "none"
    reflectance = _is_reflectance(store, settings)
    return pretrained.start(segmenter, settings.weights, reflectance=reflectance)


def _is_reflectance(store: PatchStore, settings: Settings) -> bool:
    """Return whether the values are surface reflectance, as far as the weights need to know.

    Without being asked only where they are calibrated; whoever names weights may know more.
    """
    scale = (store.parameters.get("reflectance") or {}).get("scale", 0)
    return scale >= _CALIBRATED if settings.weights == "auto" else bool(scale)


@contextmanager
def _partial(partial: Path, folder: Path) -> Iterator[None]:
    """Make the folder of a fit in the making; it stays if the fit breaks off after a saved state.

    Those of other inputs, which nobody will ask for again, are removed, and whatever a killed
    process left beside the state.
    """
    if _first_process():
        own = re.compile(re.escape(f".{folder.name}.") + r"[0-9a-f]{12}\.partial(\.old)?")
        for left in folder.parent.iterdir() if folder.parent.is_dir() else ():
            if own.fullmatch(left.name) and left != partial:
                shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        for left in partial.iterdir():
            if left.name != _STATE:
                left.unlink() if left.is_file() else shutil.rmtree(left)
    try:
        yield
    finally:
        if _first_process() and partial.is_dir() and not (partial / _STATE).is_file():
            shutil.rmtree(partial, ignore_errors=True)


def _first_process() -> bool:
    """Return whether this is the only process of a training, or the first of them."""
    group = torch.distributed
    return not (group.is_available() and group.is_initialized()) or group.get_rank() == 0


def _wait_for_first_process() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _fit_pixels(
    segmenter: Segmenter, store: PatchStore, train: np.ndarray, settings: Settings
) -> pd.DataFrame:
    """Fit a pixel baseline to a sample of known training pixels; return an empty history."""
    mean, std = (buffer.flatten().numpy() for buffer in (segmenter.mean, segmenter.std))
    network = cast(PixelModel, segmenter.network)
    network.prepare(segmenter.bands, mean, std)
    pixels, labels = sample_pixels(segmenter, store, train, settings.pixels, settings.seed)
    network.fit(pixels, labels, seed=settings.seed)
    return pd.DataFrame(columns=HISTORY)


def sample_pixels(
    segmenter: Segmenter, store: PatchStore, positions: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw known pixels evenly from patches.

    At most ``count`` pixels; a patch gives at most its equal part, so that memory stays bounded.

    Args:
        segmenter: of a pixel baseline, prepared.
        store: the patches.
        positions: of those to draw from.
        count: of pixels.
        seed: of the drawing.

    Returns:
        Features float32 [n, feature], as of ``PixelModel.pixel_features``, and labels uint8 [n].
    """
    network = cast(PixelModel, segmenter.network)
    generator = np.random.default_rng(seed)
    part = -(-count // len(positions))
    features, labels = [], []
    for position in positions:
        image, label = store.images[[position]], np.ravel(store.labels[position])
        known = np.flatnonzero(label != UNKNOWN)
        chosen = np.sort(generator.permutation(known)[:part])
        with torch.inference_mode():
            values = network.pixel_features(segmenter.normalise(torch.from_numpy(image)))
        features.append(values[0].flatten(1).numpy()[:, chosen].T)
        labels.append(label[chosen])
        release_pages(store.images)
        release_pages(store.labels)
    return np.concatenate(features), np.concatenate(labels)


def _validate(
    segmenter: Segmenter, store: PatchStore, positions: np.ndarray, settings: Settings
) -> dict[str, Any]:
    """Choose temperature and threshold on the validation patches, and score them, pooled.

    Both are set in the segmenter. Without patches they stay as they are and no score is defined.
    """
    segmenter.eval()
    counts, loss = metrics.Counts(0, 0, 0, 0), math.nan
    if len(positions):
        maps = []
        for part in np.array_split(positions, -(-len(positions) // _VALIDATED_AT_ONCE)):
            images = store.images[part]
            maps.append(predict_patches(segmenter, images, precision=settings.precision))
            release_pages(store.images)
        probability, labels = np.concatenate(maps), np.asarray(store.labels[positions])
        histograms = calibration.histogram(probability, labels)
        segmenter.temperature = calibration.fit_temperature(*histograms)
        logits = torch.logit(torch.from_numpy(probability), eps=1e-6) / segmenter.temperature
        probability = logits.sigmoid().numpy()
        segmenter.threshold = metrics.choose_threshold(probability, labels)
        counts = metrics.count(probability >= segmenter.threshold, labels)
        loss = float(bce_dice(logits, torch.from_numpy(labels)))
    return metrics.score_table(counts) | {
        "loss": loss,
        "threshold": segmenter.threshold,
        "temperature": segmenter.temperature,
    }


def _positions(store: PatchStore, dates: list[str]) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the patches that train and that validate, and what is to be said of the latter."""
    unknown = sorted(set(dates) - set(store.index["date"]))
    if unknown:
        known = ", ".join(sorted(set(store.index["date"])))
        raise GlacierError(f"patch store {store.key}: no date {unknown[0]}; it has {known}")
    train = np.sort(store.select(split="train", date=dates))
    validation = np.sort(store.select(split="validation", date=dates))
    warning = ""
    if store.parameters.get("cut_by_line"):
        warning = (
            "validates on parts of patches beside those that train, since the ground is small or "
            "one class lies in one place: the validation score is too kind"
        )
    labels = np.asarray(store.labels[validation])
    if not both_classes((labels == 1).sum(), (labels <= 1).sum()):
        train, validation = np.union1d(train, validation), validation[:0]
        warning = (
            "validation would lack a class: all patches train, the last step is kept, with "
            "threshold 0.5; add ground, or cut smaller patches, to have a validation score"
        )
    if not len(train):
        raise GlacierError(
            f"patch store {store.key}: no training patches of {', '.join(dates)}; check dates and "
            "train_areas"
        )
    ice = store.index["glacier"].to_numpy()[train]
    ice = ice[np.isfinite(ice)]
    if ice.size and ((ice == 0).all() or (ice == 1).all()):
        raise GlacierError(
            f"patch store {store.key}: all labels of the {len(train)} patches that would train are "
            f"{'glacier' if ice.all() else 'not glacier'}, and a model needs both; look at the "
            "labels (glacier check), or train on other areas or dates"
        )
    return train, validation, warning


def _provenance(store: PatchStore, identity: dict[str, Any]) -> dict[str, Any]:
    """Say what a checkpoint was trained on: how its numbers become reflectance, its pixels."""
    facts = {
        name: store.parameters.get(name) for name in ("dataset", "reflectance", "resolution_m")
    }
    facts["patch_px"] = int(store.images.shape[-1])
    return identity | {name: value for name, value in facts.items() if value is not None}


def _finished(folder: Path, key: str) -> Fit | None:
    """Read a finished fit, if it is there and is the one asked for."""
    report, checkpoint = folder / "fit.json", folder / "checkpoint.pt"
    if not (report.is_file() and checkpoint.is_file() and (folder / "history.csv").is_file()):
        return None
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        if content["fingerprint"] != key or not zipfile.is_zipfile(checkpoint):
            return None
        history = pd.read_csv(folder / "history.csv")
        facts = {name: content[name] for name in ("validation", "seconds", "parameters")}
    except (ValueError, KeyError, TypeError):  # cut short by a full disk, or spoilt since
        return None
    return Fit(checkpoint, history, **facts, reused=True)


@contextmanager
def _reproducible(settings: Settings) -> Iterator[None]:
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


def fit_all(
    names: Sequence[str],
    seeds: Sequence[int],
    store: PatchStore,
    folder: str | Path,
    *,
    dates: Sequence[str],
    settings: Settings | None = None,
    progress: bool = True,
) -> dict[str, Fit]:
    """Train every model, the networks once per seed, each into a folder of its own.

    Args:
        names: from `registry.names`, or any ``decoder-encoder``.
        seeds: the first gives the folder ``<model>``, each other one ``<model>-seed<n>``.
            The threshold is not random and is fitted once.
        store: the patches.
        folder: that holds all the folders.
        dates: which dates to train and validate on.
        settings: defaults to ``Settings()``; each fit has its own seed.
        progress: show bars.

    Returns:
        folder name -> fit, in order.

    Raises:
        GlacierError: no model or no seed, or what `fit` raises.
    """
    if not names or not seeds:
        raise GlacierError("models and seeds: name at least one of each")
    for name in names:
        registry.describe(name)  # An unknown name should not wait for the others to train.
    settings = settings or Settings()
    fits = {}
    for name in names:
        for seed in seeds if name != "threshold" else seeds[:1]:
            key = name if seed == seeds[0] else f"{name}-seed{seed}"
            target, own = Path(folder) / key, settings.changed(seed=seed)
            fits[key] = fit(name, store, target, dates=dates, settings=own, progress=progress)
    return fits


def fit_again(
    name: str,
    suffix: str,
    store: PatchStore,
    folder: str | Path,
    *,
    dates: Sequence[str],
    others: Sequence[str],
    settings: Settings,
    progress: bool = True,
) -> dict[str, Fit]:
    """Train a model on other dates, for as many steps.

    Args:
        name: of the model.
        suffix: `BOTH` or `OTHER`, which ends the name of the folder.
        store: the patches.
        folder: that holds all the folders.
        dates: those of `fit_all`.
        others: the dates to learn from; where they are the same nothing is trained.
        settings: those of `fit_all`.
        progress: show a bar.

    Returns:
        ``<model><suffix>`` -> fit, or nothing.
    """
    if not others or sorted(others) == sorted(dates):
        return {}
    key = f"{name}{suffix}"
    target = Path(folder) / key
    return {key: fit(name, store, target, dates=others, settings=settings, progress=progress)}


def summary(fits: Mapping[str, Fit]) -> pd.DataFrame:
    """Put fits into one table.

    Args:
        fits: of `fit_all` and `fit_again`.

    Returns:
        A row per fit: model (its key), architecture (the name that scores are listed under: that of
        the registry, with `BOTH` or `OTHER` behind it), kind (``network`` or ``baseline``), dates,
        seed, parameters, steps, seconds, validation_iou and the other scores, threshold,
        temperature, checkpoint (relative to the project).
    """
    rows = []
    for key, fit in fits.items():
        content = json.loads(fit.checkpoint.with_name("fit.json").read_text(encoding="utf-8"))
        name = content["model"]
        rows.append(
            {
                "model": key,
                "architecture": name + next((s for s in (BOTH, OTHER) if key.endswith(s)), ""),
                "kind": "baseline" if registry.is_pixel_model(name) else "network",
                "dates": " ".join(content["dates"]),
                "seed": content["settings"]["seed"],
                "parameters": fit.parameters,
                "steps": int(fit.history["step"].iloc[-1]),
                "seconds": fit.seconds,
                **{f"validation_{name}": fit.validation[name] for name in SCORES},
                "threshold": fit.validation["threshold"],
                "temperature": fit.validation["temperature"],
                "checkpoint": relative(fit.checkpoint),
            }
        )
    # A score that is not defined is null in the file.
    return pd.DataFrame(rows).astype({f"validation_{name}": float for name in SCORES})


def overview(names: Sequence[str]) -> pd.DataFrame:
    """Return model and description of each name."""
    return pd.DataFrame({"model": names, "what it is": [registry.describe(name) for name in names]})
