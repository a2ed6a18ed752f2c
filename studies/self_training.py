"""Self-training: a model learns further from its own confident map of scenes without labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glacier_utils.conventions import UNKNOWN
from glacier_utils.datasets.store import PatchStore
from glacier_utils.errors import GlacierError
from glacier_utils.files import file_fingerprint, fingerprint
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.prediction.mapper import predict_patches
from glacier_utils.training import fitting
from glacier_utils.training.settings import Settings

CONFIDENT = 0.9  # probability of either class from which a pixel teaches


def pseudo_labelled(
    store: PatchStore,
    targets: np.ndarray,
    probability: np.ndarray,
    *,
    confident: float = CONFIDENT,
    origin: Any = None,
) -> PatchStore:
    """Return the store with a model's own confident map as the labels of chosen patches.

    They become training patches. Of every other patch outside training and validation the labels
    are hidden, and so are truth and surface, so that no test label can be read by mistake.

    Args:
        store: the patches; it is left as it is.
        targets: positions of the unlabelled patches, none of them a validation patch.
        probability: float32 [n, row, col] of glacier on the targets.
        confident: pixels at or above it become glacier, at or below its complement not glacier, the
            rest is unknown.
        origin: what the probability came from; it goes into the key.

    Raises:
        GlacierError: a target that validates, or ``confident`` not above 0.5.
    """
    if not 0.5 < confident <= 1:
        raise GlacierError(f"confident is {confident}, must be above 0.5 and at most 1")
    split = store.index["split"].to_numpy(object).copy()
    if (split[targets] == "validation").any():
        raise GlacierError("self-training: validation patches cannot teach; leave them out")
    own = np.flatnonzero(np.isin(split, ["train", "validation"]))
    labels = np.full(store.images[:, 0].shape, UNKNOWN, np.uint8)
    labels[own] = store.labels[own]
    pseudo = np.full(probability.shape, UNKNOWN, np.uint8)
    pseudo[probability >= confident] = 1
    pseudo[probability <= 1 - confident] = 0
    seen = (np.asarray(store.images[targets]) != 0).any(axis=1)
    labels[targets] = np.where(seen, pseudo, UNKNOWN)
    split[targets] = "train"
    content = [store.key, np.asarray(targets).tolist(), confident, origin]
    made = copy.copy(store)
    vars(made).update(  # of a frozen dataclass, before anybody else has seen it
        labels=labels,
        truth=None,
        surface=None,
        index=store.index.assign(split=split),
        key=f"{store.key}-pseudo-{fingerprint(content)}",
    )
    return made


def self_train(
    checkpoint: str | Path,
    store: PatchStore,
    targets: np.ndarray,
    folder: str | Path,
    *,
    settings: Settings | None = None,
    dates: Sequence[str] | str | None = None,
    arguments: dict[str, Any] | None = None,
    confident: float = CONFIDENT,
    progress: bool = True,
) -> fitting.Fit:
    """Train a model further on its own confident map of scenes without labels.

    The teacher maps the targets; pixels that it is sure of become labels (Lee 2013, ICML workshop:
    pseudo-labels), and a student that starts from its weights learns from them together with the
    labelled patches. Validation stays what it was.

    Args:
        checkpoint: the teacher, trained on ``store``.
        targets: positions of the patches without labels, such as those of the test area; their
            labels in the store are not read.
        folder: of the student's fit.
        settings: of the student; half the steps, and half the learning rate, of a training from
            scratch will do.
        dates: of the labelled patches, as in `fitting.fit`; those of the targets must be among
            them.
        arguments: of ``registry.build``.
        confident: probability from which a pixel teaches.

    Raises:
        GlacierError: a baseline as teacher, targets that validate, or what `fitting.fit` raises.
    """
    from glacier_utils.models import registry

    teacher = load_checkpoint(checkpoint)
    if registry.is_pixel_model(teacher.name):
        raise GlacierError(f"self-training needs a network, {teacher.name} is fitted in one go")
    targets = np.asarray(targets)
    probability = predict_patches(teacher, store.images, positions=targets)
    student = pseudo_labelled(
        store, targets, probability, confident=confident, origin=file_fingerprint(checkpoint)
    )
    settings = (settings or Settings()).changed(weights=str(checkpoint))
    dates = [dates] if isinstance(dates, str) else list(dates or set(store.index["date"]))
    # The targets' own dates are scenes of theirs only if the labelled patches learn from them too.
    if wrong := set(store.index["date"].to_numpy()[targets]) - set(dates):
        raise GlacierError(f"self-training: targets of {sorted(wrong)[0]}, training of {dates}")
    return fitting.fit(
        teacher.name,
        student,
        folder,
        dates=dates,
        settings=settings,
        arguments=arguments or teacher.arguments,
        progress=progress,
    )
