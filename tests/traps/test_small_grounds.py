"""Traps of kind 13: grounds too small, or too one-sided, for a validation of whole patches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from traps.tools import (
    BANDS,
    ROCK,
    SNOW,
    WATER,
    Command,
    Told,
    manifest,
    numbers,
    outlines,
    told,
    trap,
    write,
)

from glacier_utils.datasets import open_store, parts_meet
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.prediction.mapper import predict_patches

pytestmark = pytest.mark.usefixtures("one_thread")
PART = r"trap: validates on parts of patches.*score is too kind"
NONE = r"trap: validation would lack a class: all patches train, the last step is kept.*0\.5"


def disc(shape: tuple[int, int], row: float, col: float, radius: float) -> np.ndarray:
    """Return a mask of ice, uint8."""
    rows, cols = np.indices(shape)
    return (np.hypot(rows - row, cols - col) < radius).astype(np.uint8)


def dataset(folder: Path, ice: np.ndarray, rest: str = "") -> Path:
    """Write a scene of snow on rock with its outlines."""
    rng = np.random.default_rng(0)
    image = np.where(ice == 1, SNOW[:, None, None], ROCK[:, None, None])
    image[:, -8:, -8:] = WATER[:, None, None]
    image = (image * rng.normal(1, 0.03, image.shape)).astype(np.float32)
    write(folder / "scene.tif", numbers(image), names=BANDS)
    outlines(ice).to_file(folder / "ice.gpkg")
    return manifest(folder, rest=f"outlines: ice.gpkg\n{rest}")


def train(glacier: Command, folder: Path, model: str = "threshold", *more: str) -> Told:
    out = folder / "fit"
    return glacier("train", folder, model, out, "--patch", "size=64", *more)


def sides(folder: Path) -> tuple[dict, dict[str, list[int]], bool]:
    """Return fit.json, pixels of both classes by part, and whether the parts lie apart."""
    content = json.loads((folder / "fit" / "fit.json").read_text())
    store = open_store(folder / "patches" / content["store"])
    pixels, ground = {}, {}
    for part in ("train", "validation"):
        labels = np.asarray(store.labels[store.select(split=part)])
        pixels[part] = [int((labels == value).sum()) for value in (0, 1)]
        ground[part] = np.zeros((800, 800), bool)
        for row in store.index.iloc[store.select(split=part)].itertuples():
            box = np.s_[row.row : row.row + 64, row.col : row.col + 64]
            ground[part][box] |= store.labels[row.Index] != 255
    apart = not (ground["train"] & ground["validation"]).any()
    return content, pixels, apart and not parts_meet(store.index, "train", "validation")


def judged(done: Told, folder: Path, says: str = PART) -> str:
    """Right is: both classes on both sides, no pixel on both, a validation score, a right map."""
    if done.status:
        return told(done, says=says)
    content, pixels, apart = sides(folder)
    enough = min(*pixels["train"], *pixels["validation"]) >= 200
    score = content["validation"]["iou"]
    return told(done, says=says, right=apart and enough and score > 0.9)


@trap(13, "train: a frame of a single patch", "warned")
def test_one_patch(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, disc((64, 64), 32, 30, 20))
    return judged(train(glacier, folder), folder)


@trap(13, "train: two patches side by side", "warned")
def test_two_patches(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, disc((64, 128), 32, 64, 28))
    return judged(train(glacier, folder), folder)


@trap(13, "train: 77 x 155 px cut into 64 px, by gradient boosting", "warned")
def test_odd_frame_by_boosting(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, disc((77, 155), 30, 70, 28))
    return judged(train(glacier, folder, "gradient_boosting"), folder)


@pytest.mark.slow
@trap(13, "train: 77 x 155 px cut into 64 px that overlap, by a network", "warned")
def test_odd_frame_by_network(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, disc((77, 155), 30, 70, 28))
    more = ("--patch", "stride=32", "--set", "steps=8", "--set", "learning_rate=0.01")
    done = train(glacier, folder, "glaciernet", *more)
    content, pixels, apart = sides(folder)
    defined = 0 <= content["validation"]["iou"] <= 1
    right = apart and defined and min(*pixels["train"], *pixels["validation"]) >= 200
    return told(done, says=PART, right=right)


@trap(13, "train: three patches in a row", "right")
def test_three_patches(tmp_path: Path, glacier: Command) -> str:
    ice = np.zeros((64, 192), np.uint8)
    ice[20:50, 10:180] = 1
    folder = dataset(tmp_path, ice)
    return judged(train(glacier, folder), folder, says="")


@trap(13, "train: five patches, ice in the first only", "warned")
def test_five_patches(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, disc((64, 320), 32, 32, 26))
    return judged(train(glacier, folder), folder)


@trap(13, "train: all ice in one of sixteen patches", "warned")
def test_ice_in_one_patch(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, disc((256, 256), 96, 96, 30))
    return judged(train(glacier, folder), folder)


@trap(13, "train: ice on one per cent of the ground", "warned")
def test_one_per_cent(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, disc((320, 320), 160, 140, 18))
    return judged(train(glacier, folder), folder)


@trap(13, "train: ice in one corner, where the usual validation would have none", "right")
def test_another_group_of_patches(tmp_path: Path, glacier: Command) -> str:
    ice = np.zeros((512, 128), np.uint8)
    ice[:140, 20:100] = 1
    ice[440:470, 10:110] = 1
    folder = dataset(tmp_path, ice)
    return judged(train(glacier, folder), folder, says="")


@trap(13, "train: 150 pixels of ice in all, too few for two sides", "warned")
def test_too_little_ice(tmp_path: Path, glacier: Command) -> str:
    ice = disc((128, 128), 60, 60, 7)
    folder = dataset(tmp_path, ice)
    done = train(glacier, folder)
    content, pixels, _ = sides(folder)
    kept = load_checkpoint(folder / "fit" / "checkpoint.pt")
    store = open_store(folder / "patches" / content["store"])
    found = predict_patches(kept, store.images) >= kept.threshold
    right = (
        pixels == {"train": [128**2 - int(ice.sum()), int(ice.sum())], "validation": [0, 0]}
        and (kept.threshold, kept.temperature) == (0.5, 1.0)
        and "all patches train" in content["warning"]
        and "validation IoU not defined" in done.out
        and bool((found == (store.labels == 1)).all())
    )
    return told(done, says=NONE, right=right)


@trap(13, "train: no ice in the validation of the date that is asked for", "warned")
def test_a_date_without_ice(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, disc((64, 320), 32, 160, 150))
    # At the second date the ice is known in the middle only, beside what validates.
    labels = disc((64, 320), 32, 160, 150)
    for date, known in (
        ("07", labels),
        ("08", np.where(np.indices(labels.shape)[1] < 250, labels, 255)),
    ):
        write(folder / "labels" / f"{date}.tif", known.astype(np.uint8), nodata=255)
    folder = dataset(tmp_path, labels)
    (folder / "dataset.yaml").write_text(
        "name: trap\nbands: [red, green, blue, nir]\n"
        "reflectance: {scale: 10000, offset: -1000, nodata: 0}\nareas:\n  train:\n"
        "    2023-07: {images: scene.tif, labels: labels/07.tif}\n"
        "    2023-08: {images: scene.tif, labels: labels/08.tif}\n"
    )
    done = train(glacier, folder, "threshold", "--dates", "2023-08", "--patch", "max_unknown=1.0")
    content, *_ = sides(folder)
    right = content["validation"]["iou"] is None and content["validation"]["threshold"] == 0.5
    return told(done, says=NONE, right=right)
