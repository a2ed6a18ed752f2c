"""How near training comes to the bare network, and how far from a plain loop.

Each part runs in a process of its own (``python -m benchmarks.training PART FOLDER``), one after
the other, so that none inherits another's memory or warm caches. Model, batch size and patches are
the same in all.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import rasterio
import torch
from rasterio.transform import from_origin

from benchmarks.scenes import peak_mb
from glacier_utils.models import checkpoint, losses
from glacier_utils.prediction import acceleration
from glacier_utils.training.fitting import fit
from glacier_utils.training.settings import Settings

MODEL = "unet-resnet18"
BANDS = ("red", "green", "blue", "nir")
BATCH = 16
# Of the training patches; that of the default split is a third, with a fifth of the work each.
VALIDATION = 0.3
_PLAIN_PASSES = 4  # over the patches
MANY = 10  # times as many patches, to see whether memory grows with them


def training(patches: int = 96, size: int = 128, steps: int = 120) -> dict[str, float]:
    """Return rates, ratios and overheads of training a U-Net with a ResNet-18.

    training_over_plain_loop: patches per second of `fitting.fit`, validation and all, over those
    of ``plain_loop.py``, which does not validate. training_share_of_bare_step: its steps (reading,
    augmentation, optimiser and all) over the bare step, forward, loss and backward on one batch in
    memory, in the same number format and layout; training_validated_share_of_bare_step: with
    validation and saving.
    first_step_s: seconds from calling `fitting.fit` in a new process to the end of the first step,
    with the import of the libraries; first_step_from_start_s also holds the start of Python and the
    import of torch. validation_overhead: fraction of the time that is not training steps, but
    validation and saving. training_peak_mb and training_peak_many_mb: peak of memory with so many
    patches and with ten times as many, which lie in a file, for as many steps.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiles(folder, *_images(patches, size))
        bare = _part("bare", folder, size)
        own = _part("fit", folder, size, patches, steps)
        _, plain = plain_loop(folder, BATCH, _PLAIN_PASSES * (patches // BATCH))
        first = _part("first", folder, size)
        few, many = (_part("memory", folder, size, patches, patches * n) for n in (1, MANY))
    return {
        "training_patches_s": round(own["rate"], 1),
        "bare_step_patches_s": round(bare["rate"], 1),
        "plain_loop_patches_s": round(plain, 1),
        "training_share_of_bare_step": round(own["steps_rate"] / bare["rate"], 3),
        "training_validated_share_of_bare_step": round(own["rate"] / bare["rate"], 3),
        "training_over_plain_loop": round(own["rate"] / plain, 2),
        "first_step_s": round(first["seconds"], 2),
        "first_step_from_start_s": round(first["from_start"], 2),
        "validation_overhead": round(own["overhead"], 3),
        "training_peak_mb": few["peak_mb"],
        "training_peak_many_mb": many["peak_mb"],
    }


def _part(work: str, *arguments: int | Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.training", work, *map(str, arguments)]
    started = time.time()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    if "ended" in found:
        found["from_start"] = found["ended"] - started
    return found


def plain_loop(folder: Path, batch: int, steps: int) -> tuple[float, float]:
    """Run the plain loop with the libraries' own settings, not those that the package sets.

    Args:
        folder: with the files of `write_tiles`.
        batch: patches a step.
        steps: how many.

    Returns:
        Seconds of all steps; patches per second of the fastest pass over the files.
    """
    own = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    script = Path(__file__).with_name("plain_loop.py")
    command = [sys.executable, str(script), str(folder), str(batch), str(steps)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds, rate = map(float, run.stdout.splitlines()[-1].split())
    return seconds, rate


def _images(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.random((count, 4, size, size), dtype=np.float32)
    return images, (images[:, 0] > 0.5).astype(np.uint8)


def write_tiles(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write patches as a user has them, image and label each a GeoTIFF.

    Args:
        folder: for images/ and labels/.
        images: reflectance [n, band, row, col].
        labels: uint8 [n, row, col].
    """
    numbers = np.round(images * 10000 + 1000).clip(0, 65535).astype(np.uint16)
    for kind, arrays in (("images", numbers), ("labels", labels[:, None])):
        (folder / kind).mkdir()
        for number, array in enumerate(arrays):
            with rasterio.open(
                folder / kind / f"{number:04d}.tif", "w", driver="GTiff", count=len(array),
                height=array.shape[1], width=array.shape[2], dtype=array.dtype, crs="EPSG:32623",
                transform=from_origin(300_000, 6_900_000, 10, 10), compress="DEFLATE",
            ) as file:  # fmt: skip
                file.write(array)


def _store(images: np.ndarray, labels: np.ndarray, train: int, drawn: int) -> SimpleNamespace:
    """Return a patch store of arrays: ``train`` patches, of which ``drawn`` are used, and
    validation.
    """
    split = np.array(["train"] * train + ["validation"] * (len(images) - train))
    index = pd.DataFrame({"area": "a", "date": "2023-08", "split": split, "glacier": 0.5})
    side, size = math.ceil(math.sqrt(len(index))), images.shape[-1]
    index["row"], index["col"] = (size * place for place in divmod(np.arange(len(index)), side))
    used = np.linspace(0, train - 1, drawn).astype(int)
    parts = {"train": used, "validation": np.flatnonzero(split == "validation")}
    return SimpleNamespace(
        images=images, labels=labels, index=index, key="benchmark", parameters={}, bands=BANDS,
        statistics={"mean": [0.3] * 4, "std": [0.2] * 4},
        select=lambda *, split, date: parts[split],
    )  # fmt: skip


def _fit(folder: Path, size: int, patches: int, steps: int) -> dict[str, float]:
    from glacier_utils.training import module

    train = _Clock(module.Task)
    store = _store(*_images(patches + int(VALIDATION * patches), size), patches, patches)
    settings = Settings(steps=steps, batch_size=BATCH)
    fit(MODEL, store, folder / "fit", settings=settings, progress=False)
    whole, stepping = (np.median([epoch[name] for epoch in train.epochs[1:]])
                    for name in ("whole", "steps"))  # fmt: skip
    saving = _save_seconds(folder, store, settings)
    # A state is saved every so many seconds.
    saved = whole + saving * min(1, whole / module.SAVE_EVERY_S)
    patches = settings.steps_between * BATCH
    return {
        "rate": patches / saved,
        "steps_rate": patches / stepping,
        "overhead": 1 - stepping / saved,
    }


def _save_seconds(folder: Path, store: SimpleNamespace, settings: Settings) -> float:
    """Return the seconds that saving a state takes."""
    from glacier_utils.training import module

    save, seconds = module.History._save, []

    def timed(this, trainer) -> None:
        start = time.perf_counter()
        save(this, trainer)
        seconds.append(time.perf_counter() - start)

    module.SAVE_EVERY_S, every = 0, module.SAVE_EVERY_S
    module.History._save = timed
    few = settings.changed(steps=3)
    fit(MODEL, store, folder / "saved", settings=few, progress=False)
    module.SAVE_EVERY_S = every
    return float(np.median(seconds))


class _Clock:
    """Notes how long it is from one validation to the next, and how much of it the steps take."""

    def __init__(self, task: type) -> None:
        self.epochs: list[dict[str, float]] = []
        start, validate = task.on_train_epoch_start, task.on_validation_epoch_start

        def started(this) -> None:
            now = time.perf_counter()
            if self.epochs:
                self.epochs[-1]["whole"] = now - self.epochs[-1]["start"]
            self.epochs.append({"start": now})
            start(this)

        def validates(this) -> None:
            self.epochs[-1]["steps"] = time.perf_counter() - self.epochs[-1]["start"]
            validate(this)

        def ended(this) -> None:
            self.epochs[-1]["whole"] = time.perf_counter() - self.epochs[-1]["start"]

        task.on_train_epoch_start, task.on_validation_epoch_start = started, validates
        task.on_fit_end = ended


def _first(folder: Path, size: int) -> dict[str, float]:
    """Return the seconds until the first training step has ended."""
    store = _store(*_images(2 * BATCH, size), BATCH, BATCH)
    start = time.perf_counter()
    from glacier_utils.training import module  # its import is part of what is measured

    class Done(Exception):
        pass

    def stop(*_) -> None:
        raise Done

    module.Task.on_train_batch_end = stop
    try:
        fit(MODEL, store, folder / "first", settings=Settings(batch_size=BATCH), progress=False)
    except Done:
        return {"seconds": time.perf_counter() - start, "ended": time.time()}
    raise RuntimeError("the first step was not seen")


def _memory(folder: Path, size: int, drawn: int, count: int) -> dict[str, float]:
    """Train on some of the patches in memory-mapped files; the peak is added by `_main`."""
    generator = np.random.default_rng(0)
    arrays = {}
    for kind, shape in (("images", (4, size, size)), ("labels", (size, size))):
        path = folder / f"{kind}.npy"
        dtype = np.float32 if kind == "images" else np.uint8
        written = np.lib.format.open_memmap(path, "w+", dtype, (count + BATCH, *shape))
        for patch in written:
            patch[:] = generator.random(shape, dtype=np.float32) + (kind == "labels") * 0.5
        written.flush()
        del written, patch
        arrays[kind] = np.load(path, mmap_mode="r")
    store = _store(arrays["images"], arrays["labels"], count, drawn)
    fit(MODEL, store, folder / f"memory{count}", settings=Settings(steps=6), progress=False)
    return {}


def _bare(folder: Path, size: int) -> dict[str, float]:
    """Return patches per second of one pass forward and backward."""
    number_format = acceleration.resolve()
    layout = torch.channels_last
    segmenter = checkpoint.Segmenter(MODEL, BANDS, np.full(4, 0.3), np.full(4, 0.2))
    network = segmenter.to(memory_format=layout).train()
    images, labels = _images(BATCH, size)
    batch = torch.from_numpy(images).contiguous(memory_format=layout)
    target = torch.from_numpy(labels)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        network.zero_grad()
        with acceleration.autocast("cpu", number_format):
            logits = network(batch)
        losses.bce_dice(logits, target).backward()
        times.append(time.perf_counter() - start)
    return {"rate": BATCH / float(np.median(times[1:]))}


def _main(work: str, folder: str, *arguments: str) -> None:
    parts = {"bare": _bare, "fit": _fit, "first": _first, "memory": _memory}
    figures = parts[work](Path(folder), *map(int, arguments))
    print(json.dumps({"peak_mb": peak_mb(), **figures}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
