"""Traps of kind 2: what numbers mean, and values that a model has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import torch
from affine import Affine
from imagery.test_safe import metadata, write_jp2
from traps.tools import (
    AT,
    SNOW,
    WATER,
    Command,
    Outcome,
    iou,
    manifest,
    mapped,
    numbers,
    outlines,
    scene,
    told,
    trap,
    write,
)

from glacier_utils.models.checkpoint import load_checkpoint, save_checkpoint

IMAGE, TRUTH = scene()


def good(folder: Path, truth: np.ndarray = TRUTH) -> bool:
    return iou(mapped(folder / "out"), truth) > 0.99


def nothing(folder: Path) -> bool:
    """Whether nothing of a map is there."""
    return not list((folder / "out").glob("*.tif"))


def picture() -> np.ndarray:
    return np.clip(IMAGE * 255, 0, 255).astype(np.uint8)


def landsat() -> np.ndarray:
    """Numbers of Landsat Collection 2: reflectance = number x 0.0000275 - 0.2."""
    return np.rint((IMAGE + 0.2) / 0.0000275).astype(np.uint16)


def changed(model: Path, folder: Path, **provenance: object) -> Path:
    """Return the model as trained on something else."""
    made = load_checkpoint(model)
    made.provenance |= provenance
    return save_checkpoint(folder / "model.pt", made)


def labelled(folder: Path, array: np.ndarray, reflectance: str, **file: Any) -> Path:
    """Make a dataset of one scene with outlines."""
    write(folder / "scene.tif", array, **{"nodata": None, **file})
    ice = outlines(TRUTH, line_type="glac_bound", glac_id="G1", src_date="2023-08-01")
    ice.to_file(folder / "ice.gpkg")
    return manifest(folder, rest="outlines: ice.gpkg", reflectance=reflectance)


@trap(2, "predict: reflectance 0..1 as float", "refused")
def test_float(tmp_path: Path, predict: Command) -> str:
    done = predict(IMAGE)
    assert nothing(tmp_path)
    return told(done, says=r"scene\.tif: the median.*try --scale 1 --offset 0")


@trap(2, "predict: reflectance 0..1 as float, told by --scale 1 --offset 0", "right")
def test_float_told(predicted: Outcome) -> str:
    return predicted(IMAGE, "--scale", 1, "--offset", 0)


@trap(2, "predict: reflectance 0..1 as float by a model of numbers without offset", "refused")
def test_float_without_offset(tmp_path: Path, model: Path, predict: Command) -> str:
    other = changed(model, tmp_path, reflectance={"scale": 10000})
    done = predict(IMAGE, by=other)
    return told(done, says="--scale 1 --offset 0")


@trap(2, "predict: an 8-bit picture", "refused")
def test_picture(tmp_path: Path, predict: Command) -> str:
    done = predict(picture())
    assert nothing(tmp_path)
    return told(done, says=r"scene\.tif: .*picture is no reflectance; .*--scale 255 --offset 0")


@trap(2, "predict: an 8-bit picture by a model of numbers without offset", "refused")
def test_picture_without_offset(tmp_path: Path, model: Path, predict: Command) -> str:
    other = changed(model, tmp_path, reflectance={"scale": 10000})
    return told(predict(picture(), by=other), says="picture is no reflectance")


@trap(2, "predict: an 8-bit picture, told by --scale 255 --offset 0", "right")
def test_picture_told(predicted: Outcome) -> str:
    return predicted(picture(), "--scale", 255, "--offset", 0)


@trap(2, "predict: reflectance x 255 as float", "refused")
def test_times_255(predict: Command) -> str:
    return told(predict(IMAGE * 255), says="--scale 255 --offset 0")


@trap(2, "predict: reflectance in per cent", "refused")
def test_percent(predict: Command) -> str:
    return told(predict(IMAGE * 100), says="--scale 100 --offset 0")


@trap(2, "predict: numbers without the 1000 that the training had", "refused")
def test_without_the_1000(tmp_path: Path, predict: Command) -> str:
    done = predict(numbers(IMAGE, 0))
    assert nothing(tmp_path)
    return told(done, says=r"contradict offset -1000.*give --offset 0")


@trap(2, "predict: numbers without the 1000, told by --offset 0", "right")
def test_without_the_1000_told(predicted: Outcome) -> str:
    return predicted(numbers(IMAGE, 0), "--offset", 0)


@trap(2, "predict: numbers without the 1000, though --offset -1000 is told", "warned")
def test_told_against_the_values(predict: Command) -> str:
    done = predict(numbers(IMAGE, 0), "--offset", -1000)
    return told(done, says="give --offset 0")


@trap(2, "predict: the 1000 taken off twice", "refused")
def test_taken_off_twice(tmp_path: Path, model: Path, predict: Command) -> str:
    other = changed(model, tmp_path, reflectance={"scale": 10000})
    array = np.rint(IMAGE * 10000 - 1000).astype(np.int16)
    return told(predict(array, by=other), says="give --offset 1000")


@trap(2, "predict: numbers with the 1000 by a model of numbers without", "warned")
def test_with_the_1000(tmp_path: Path, model: Path, predict: Command) -> str:
    other = changed(model, tmp_path, reflectance={"scale": 10000})
    done = predict(numbers(IMAGE), by=other)
    return told(done, says="give --offset -1000")


@trap(2, "predict: the 1000 added twice", "warned")
def test_added_twice(predict: Command) -> str:
    return told(
        predict(numbers(IMAGE, 2000)),
        says=r"added twice \(offset -2000\)",
    )


@trap(2, "predict: evenly dark rock without water, where nothing tells the offset", "warned")
def test_dark_rock(tmp_path: Path, predict: Command) -> str:
    array, truth = scene(lake=False)
    done = predict(numbers(array))
    assert "give --offset -2000" not in done.text
    says = r"offset -1000 cannot be judged.*that of the training is taken; give `--offset 0`"
    return told(done, says=says, right=good(tmp_path, truth))


@trap(2, "predict: evenly dark rock without water, told by --offset -1000", "right")
def test_dark_rock_told(tmp_path: Path, predict: Command) -> str:
    array, truth = scene(lake=False)
    done = predict(numbers(array), "--offset", -1000)
    return told(done, right=good(tmp_path, truth) and "offset" not in done.err)


@trap(2, "predict: numbers of Landsat Collection 2", "refused")
def test_landsat(predict: Command) -> str:
    done = predict(landsat())
    return told(done, says=r"try --scale 36363\.6 --offset -7272\.7")


@trap(2, "predict: numbers of Landsat Collection 2, told", "right")
def test_landsat_told(predicted: Outcome) -> str:
    options = "--scale", 36363.6, "--offset", -7272.7
    return predicted(landsat(), *options)


@trap(2, "predict: numbers of Landsat Collection 2, tagged with their scale", "right")
def test_landsat_tagged(tmp_path: Path, predicted: Outcome) -> str:
    path = write(tmp_path / "scene.tif", landsat(), nodata=0)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [0.0000275] * 4, [-0.2] * 4
    return predicted(path)


@trap(2, "predict: tags of an offset that is taken off already", "refused")
def test_tags_that_lie(tmp_path: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", numbers(IMAGE, 0), nodata=None)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [0.0001] * 4, [-0.1] * 4
    done = predict(path)
    return told(done, says=r"offset -1000 \(file tags\).*give --offset 0")


@trap(2, "predict: the same, told by --offset 0", "warned")
def test_tags_that_lie_told(tmp_path: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", numbers(IMAGE, 0), nodata=None)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [0.0001] * 4, [-0.1] * 4
    done = predict(path, "--offset", 0)
    return told(done, says="tags say .* offset -1000", right=good(tmp_path))


@trap(2, "predict: impossible values, though scale and offset are told", "warned")
def test_impossible_but_told(tmp_path: Path, predict: Command) -> str:
    done = predict(IMAGE, "--scale", 10000, "--offset", 0)
    item = json.loads((tmp_path / "out" / "scene.json").read_text("utf-8"))
    (line,) = item["properties"]["glacier:warnings"]
    table = pd.read_csv(tmp_path / "out" / "scenes.csv")
    assert table.warnings.tolist() == [line]
    assert f"look at scene: {line}" in done.out
    return told(done, says="--scale 1 --offset 0")


@trap(2, "predict: missing pixels of -9999 that no tag marks", "refused")
def test_missing_pixels(predict: Command) -> str:
    array = numbers(IMAGE).astype(np.int16)
    array[:, :, :40] = -9999
    return told(predict(array), says="give --nodata -9999")


@trap(2, "predict: missing pixels of -9999, told by --nodata", "right")
def test_missing_pixels_told(tmp_path: Path, predict: Command) -> str:
    array = numbers(IMAGE).astype(np.int16)
    array[:, :, :40] = -9999
    done = predict(array, "--nodata", -9999)
    empty = (mapped(tmp_path / "out")[:, :40] == 255).all()
    return told(done, right=good(tmp_path) and empty)


@trap(2, "predict: a scene of nothing but missing pixels", "refused")
def test_nothing_valid(predict: Command) -> str:
    done = predict(numbers(IMAGE) * 0)
    return told(done, says=r"scene\.tif: no valid pixel; check --nodata")


@trap(2, "predict: nothing but snow", "right")
def test_all_snow(tmp_path: Path, predict: Command) -> str:
    noise = np.random.default_rng(0).normal(1, 0.03, IMAGE.shape)
    done = predict(numbers(SNOW[:, None, None] * noise))
    return told(done, right=bool((mapped(tmp_path / "out") == 1).all()))


@trap(2, "predict: nothing but water", "right")
def test_all_water(tmp_path: Path, predict: Command) -> str:
    noise = np.random.default_rng(0).normal(1, 0.1, IMAGE.shape)
    done = predict(numbers(WATER[:, None, None] * noise))
    return told(done, right=bool((mapped(tmp_path / "out") == 0).all()))


@trap(2, "predict: nothing but deep shadow, corrected too far", "right")
def test_all_shadow(tmp_path: Path, predict: Command) -> str:
    values = np.random.default_rng(0).normal(0.0, 0.02, IMAGE.shape).clip(-0.045)
    done = predict(numbers(values))
    return told(done, right=bool((mapped(tmp_path / "out") == 0).all()))


@trap(2, "predict: much brighter than all that the training saw", "warned")
def test_unlike(tmp_path: Path, model: Path, predict: Command) -> str:
    other = load_checkpoint(model)
    other.mean, other.std = torch.full((1, 4, 1, 1), 0.1), torch.full((1, 4, 1, 1), 0.05)
    bright = numbers(
        np.full(IMAGE.shape, 0.8) * np.random.default_rng(0).normal(1, 0.03, (256, 256))
    )
    done = predict(bright, by=save_checkpoint(tmp_path / "other.pt", other))
    return told(done, says=r"unlike that of the training: red 0\.8 \(0\.1 \+- 0\.05\)")


@trap(2, "predict: pixels of 30 m by a model of 10 m", "warned")
def test_other_resolution(tmp_path: Path, model: Path, predict: Command) -> str:
    other = changed(model, tmp_path, resolution_m=10.0)
    coarse = AT @ Affine.scale(3)
    done = predict(numbers(IMAGE), transform=coarse, by=other)
    return told(
        done, says="its pixels are 30 m, those of the training were 10 m", right=good(tmp_path)
    )


@trap(2, "predict: pixels as in the training", "right")
def test_same_resolution(tmp_path: Path, model: Path, predicted: Outcome) -> str:
    other = changed(model, tmp_path, resolution_m=10.0)
    return predicted(numbers(IMAGE), by=other)


@trap(2, "check: reflectance 0..1 as float under a scale of 10000", "refused")
def test_check_float(tmp_path: Path, glacier: Command) -> str:
    labelled(tmp_path, IMAGE, "{scale: 10000, offset: 0}")
    return told(glacier("check", tmp_path), says=r"try \{scale: 1, offset: 0\}")


@trap(2, "train: reflectance 0..1 as float under a scale of 10000", "refused")
def test_train_float(tmp_path: Path, glacier: Command) -> str:
    labelled(tmp_path, IMAGE, "{scale: 10000, offset: 0}")
    done = glacier("train", tmp_path, "threshold", tmp_path / "out", "--patch", "size=32")
    assert not list((tmp_path / "patches").glob("*"))
    assert not (tmp_path / "out").exists()
    return told(done, says=r"scene\.tif: .*try \{scale: 1, offset: 0\}")


@trap(2, "check: an 8-bit picture, reflectance left out", "refused")
def test_check_picture(tmp_path: Path, glacier: Command) -> str:
    labelled(tmp_path, picture(), "{scale: 10000}")
    return told(glacier("check", tmp_path), says="picture is no reflectance; .*try {scale")


@trap(2, "train: numbers without the 1000 under an offset of -1000", "warned")
def test_train_offset(tmp_path: Path, glacier: Command) -> str:
    labelled(tmp_path, numbers(IMAGE, 0), "{scale: 10000, offset: -1000}")
    done = glacier("train", tmp_path, "threshold", tmp_path / "out", "--patch", "size=32",
                   "--patch", "block_m=640")  # fmt: skip
    (line,) = [line for line in done.err.splitlines() if "contradict" in line]
    assert line.count("offset 0 fits") == 1
    provenance = load_checkpoint(tmp_path / "out" / "checkpoint.pt").provenance
    assert provenance["resolution_m"] == 10
    return told(done, says="state it in `reflectance`")


@trap(2, "train with an offset that is stated for one date alone, then predict", "right")
def test_offset_of_a_date(tmp_path: Path, glacier: Command, predicted: Outcome) -> str:
    labelled(tmp_path, numbers(IMAGE), "{}")
    text = (tmp_path / "dataset.yaml").read_text("utf-8")
    stated = "{images: scene.tif, reflectance: {offset: -1000, nodata: 0}}"
    text = text.replace("2023-08: scene.tif", f"2023-08: {stated}")
    (tmp_path / "dataset.yaml").write_text(text, "utf-8")
    patches = "--patch", "size=32", "--patch", "block_m=640"
    done = glacier("train", tmp_path, "threshold", tmp_path / "model", *patches)
    assert done.status == 0
    checkpoint = tmp_path / "model" / "checkpoint.pt"
    assert load_checkpoint(checkpoint).provenance["reflectance"]["offset"] == -1000
    return predicted(numbers(IMAGE), by=checkpoint)


@trap(2, "predict: a Level-1C product by a model of surface reflectance", "warned")
def test_top_of_atmosphere(tmp_path: Path, predict: Command) -> str:
    safe = tmp_path / "S2B_MSIL1C_20230824T140059_N0509_R067_T23VMH_20230824T150011.SAFE"
    images = safe / "GRANULE" / "L1C_T23VMH_A033764_20230824T140101" / "IMG_DATA"
    for name, band in zip(("B04", "B03", "B02", "B08"), numbers(IMAGE), strict=True):
        write_jp2(images / f"T23VMH_20230824T140059_{name}.jp2", band)
    (safe / "MTD_MSIL1C.xml").write_text(metadata("L1C"))
    done = predict(safe)
    says = "a Level-1C product, with reflectance at the top of the atmosphere"
    return told(done, says=says, right=iou(mapped(tmp_path / "out"), TRUTH) > 0.99)


@trap(2, "predict: numbers without the 1000 whose ground looks like water then", "warned")
def test_no_value_tells(predict: Command) -> str:
    # A slope of brightness, whose darkest end becomes as dark as water (0.007 in the near infrared)
    # and as the water and the shadow of real scenes (0.000 and -0.015): the very same file may be a
    # darker slope with the 1000. To refuse it would refuse those; so a line says what is assumed.
    ramp = np.repeat(np.linspace(0.12, 0.75, 256)[None, None], 256, axis=1)
    array = numbers(ramp * np.array([1, 1, 0.97, 0.85])[:, None, None], offset=0)
    done = predict(array)
    return told(done, says="offset -1000, as in the training: the files do not say")


def other_scale(factor: float) -> np.ndarray:
    array = numbers(IMAGE, 0).astype(np.float32)
    array[3] *= factor
    return array


@trap(2, "predict: near infrared in numbers ten times as large as the other bands", "refused")
def test_one_band_of_another_scale(tmp_path: Path, predict: Command) -> str:
    done = predict(other_scale(10), "--offset", 0)
    assert nothing(tmp_path)
    return told(done, says=r"scene\.tif: nir is 8\.\d times as bright as the other bands")


@trap(2, "predict: the same, though scale and offset are told", "warned")
def test_one_band_of_another_scale_told(predict: Command) -> str:
    done = predict(other_scale(10), "--scale", 100_000, "--offset", 0)
    return told(done, says=r"scene\.tif: nir is 8\.\d times as bright as the other bands")


@trap(2, "predict: near infrared in numbers a tenth of the other bands'", "warned")
def test_one_band_of_a_tenth(predict: Command) -> str:
    done = predict(other_scale(0.1), "--offset", 0)
    return told(done, says=r"scene\.tif: nir is 0\.08\d* times as bright as the other bands")


@trap(2, "train: near infrared in numbers ten times as large as the other bands", "refused")
def test_train_one_band_of_another_scale(tmp_path: Path, glacier: Command) -> str:
    labelled(tmp_path, other_scale(10), "{scale: 10000, offset: 0}")
    done = glacier("check", tmp_path)
    assert "nir is 8." in done.text
    done = glacier("train", tmp_path, "threshold", tmp_path / "out", "--patch", "size=32")
    return told(done, says=r"scene\.tif: nir is 8\.\d times as bright as the other bands")


@trap(2, "check, train and predict: a band of one number everywhere", "refused")
def test_constant_band(tmp_path: Path, glacier: Command, predict: Command) -> str:
    array = numbers(IMAGE)
    array[3] = 3000
    labelled(tmp_path, array, "{scale: 10000, offset: -1000}")
    says = r"scene\.tif: nir is 0\.2 everywhere, no measurement"
    outcome = told(glacier("check", tmp_path), says=says)
    done = glacier("train", tmp_path, "threshold", tmp_path / "m", "--patch", "size=32")
    predicted = predict(array)
    assert nothing(tmp_path)
    return max(outcome, told(done, says=says), told(predicted, says=says))
