"""Traps of kind 3: pixels that a file says hold nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from traps.tools import (
    Command,
    Outcome,
    iou,
    labels,
    manifest,
    mapped,
    numbers,
    outlines,
    scene,
    told,
    trap,
    write,
)

GONE = np.zeros((128, 128), bool)
GONE[:, :40] = True  # cuts the disc of ice


def hidden(path: Path, hide: np.ndarray = GONE, internal: bool = False) -> Path:
    """Give a raster a mask, in the file or beside it (.msk)."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
        file.write_mask(np.where(hide, 0, 255).astype(np.uint8))
    return path


def under(value: float, kind: str = "uint16") -> np.ndarray:
    """Return stored numbers with a value in the pixels that are gone."""
    stored = numbers(scene(128)[0]).astype(kind)
    stored[:, GONE] = value
    return stored


@pytest.fixture
def predicted(predict: Command, tmp_path: Path) -> Outcome:
    """Map, and say whether just the pixels that are gone are unknown, and the others right."""

    def run(images: Path, *options: str) -> str:
        done = predict(images, *options)
        if done.status:
            return told(done)
        found = mapped(tmp_path / "out")
        right = np.array_equal(found == 255, GONE) and iou(found, scene(128)[1]) > 0.99
        return told(done, right=right)

    return run


@trap(3, "predict: nodata 65535 in the file, 0 in the training", "right")
def test_tag(tmp_path: Path, predicted: Outcome) -> str:
    path = write(tmp_path / "s.tif", under(65535), nodata=65535)
    return predicted(path)


@trap(3, "predict: nodata -9999 in a file of int16", "right")
def test_negative_tag(tmp_path: Path, predicted: Outcome) -> str:
    path = write(tmp_path / "s.tif", under(-9999, "int16"), nodata=-9999)
    return predicted(path)


@trap(3, "predict: --nodata 0 for a file that says 65535: both count", "right")
def test_tag_and_option(tmp_path: Path, predicted: Outcome) -> str:
    stored = under(65535)
    stored[:, :, :20] = 0
    path = write(tmp_path / "s.tif", stored, nodata=65535)
    return predicted(path, "--nodata", "0")


@trap(3, "predict: a mask inside the GeoTIFF", "right")
def test_internal_mask(tmp_path: Path, predicted: Outcome) -> str:
    path = write(tmp_path / "s.tif", under(9000), nodata=None)
    return predicted(hidden(path, internal=True))


@trap(3, "predict: a mask beside the file (.msk)", "right")
def test_mask_beside(tmp_path: Path, predicted: Outcome) -> str:
    path = hidden(write(tmp_path / "s.tif", under(9000), nodata=None))
    assert (tmp_path / "s.tif.msk").is_file()
    return predicted(path)


@trap(3, "predict: a mask and a nodata tag, each for a part", "right")
def test_mask_and_tag(tmp_path: Path, predicted: Outcome) -> str:
    stored = under(9000)
    stored[:, :, :20] = 65535
    path = write(tmp_path / "s.tif", stored, nodata=65535)
    hide = GONE & (np.arange(128) >= 20)
    return predicted(hidden(path, hide, internal=True))


@trap(3, "predict: a band of opacity beside a nodata tag, which hides it from GDAL's mask", "right")
def test_opacity(tmp_path: Path, predicted: Outcome) -> str:
    stored = np.concatenate([under(9000), np.where(GONE, 0, 65535)[None]]).astype(np.uint16)
    path = tmp_path / "s.tif"
    write(path, stored, nodata=0, colours=[*["undefined"] * 4, "alpha"])
    # Opaque is 65535 and transparent 0, which is nodata to GDAL.
    return predicted(path)


@trap(3, "predict: files of bands, one of them with a mask", "right")
def test_mask_of_one_band(tmp_path: Path, predicted: Outcome) -> str:
    for number, band in zip((4, 3, 2, 8), under(9000), strict=True):
        write(tmp_path / "in" / f"T23VMG_20230824T141951_B0{number}.tif", band, nodata=None)
    hidden(tmp_path / "in" / "T23VMG_20230824T141951_B03.tif", internal=True)
    return predicted(tmp_path / "in")


@trap(3, "predict: reflectance as float, nan where there is none, and no tag", "right")
def test_nan(tmp_path: Path, predicted: Outcome) -> str:
    stored = scene(128)[0]
    stored[1, GONE] = np.nan
    path = write(tmp_path / "s.tif", stored, nodata=None)
    return predicted(path, "--scale", "1", "--offset", "0")


@trap(3, "predict: a nodata tag of nan", "right")
def test_nan_tag(tmp_path: Path, predicted: Outcome) -> str:
    stored = scene(128)[0]
    stored[:, GONE] = np.nan
    path = write(tmp_path / "s.tif", stored, nodata=np.nan)
    return predicted(path, "--scale", "1", "--offset", "0")


@trap(3, "predict: infinite and lowest numbers of float32", "right")
def test_lowest_float(tmp_path: Path, predicted: Outcome) -> str:
    stored = scene(128)[0]
    lowest = float(np.finfo(np.float32).min)
    stored[:, GONE], stored[:, :, :10] = lowest, -np.inf
    path = write(tmp_path / "s.tif", stored, nodata=lowest)
    return predicted(path, "--scale", "1", "--offset", "0")


@trap(3, "predict: nodata 0 in a float file where the nir of water is 0 too", "right")
def test_measured_zero(tmp_path: Path, predicted: Outcome) -> str:
    stored = scene(128)[0]
    stored[3][stored[3] < 0.02] = 0  # of the lake
    stored[:, GONE] = 0
    path = write(tmp_path / "s.tif", stored, nodata=0)
    return predicted(path, "--scale", "1", "--offset", "0")


@trap(3, "predict: a VRT over a file with a mask", "right")
def test_vrt(tmp_path: Path, predicted: Outcome) -> str:
    hidden(write(tmp_path / "s.tif", under(9000), nodata=None), internal=True)
    with rasterio.Env():
        rasterio.shutil.copy(tmp_path / "s.tif", tmp_path / "v.vrt", driver="VRT")
    return predicted(tmp_path / "v.vrt")


@trap(3, "check: the mask of an image, with nodata in the manifest", "right")
def test_check(tmp_path: Path, glacier: Command) -> str:
    from glacier_utils.datasets import open_dataset

    hidden(write(tmp_path / "scene.tif", under(9000), nodata=None))
    outlines(scene(128)[1]).to_file(tmp_path / "o.gpkg")
    manifest(tmp_path, rest="outlines: o.gpkg")
    done = glacier("check", tmp_path)
    valid = open_dataset(tmp_path).source("train", "2023-08").read().valid
    return told(done, right=np.array_equal(~valid, GONE))


@trap(3, "check: patches, one with a mask", "right")
def test_patches(tmp_path: Path, glacier: Command) -> str:
    from traps.tools import AT

    from glacier_utils.datasets import open_dataset

    stored, gone = numbers(scene(256)[0]), np.zeros((256, 256), bool)
    for row in (0, 128):
        for col in (0, 128):
            piece = stored[:, row : row + 128, col : col + 128]
            at = AT @ AT.translation(col, row)
            write(tmp_path / "in" / f"r{row}_c{col}.tif", piece, at, nodata=None)
    hidden(tmp_path / "in" / "r128_c0.tif")
    gone[128:, :40] = True
    outlines(scene(256)[1]).to_file(tmp_path / "o.gpkg")
    manifest(tmp_path, "in", rest="outlines: o.gpkg")
    done = glacier("check", tmp_path)
    valid = open_dataset(tmp_path).source("train", "2023-08").read().valid
    return told(done, right=np.array_equal(~valid, gone))


@trap(3, "check: the mask of a label raster", "right")
def test_labels(tmp_path: Path, glacier: Command) -> str:
    write(tmp_path / "scene.tif", numbers(scene(128)[0]))
    hidden(write(tmp_path / "label.tif", scene(128)[1], nodata=None), internal=True)
    manifest(tmp_path, "{images: scene.tif, labels: label.tif}")
    done = glacier("check", tmp_path)
    expected = np.where(GONE, 255, scene(128)[1])
    return told(done, right=np.array_equal(labels(tmp_path), expected))


def clouded(folder: Path, cloud: np.ndarray, **file: object) -> Path:
    """Write a dataset of a scene with labels and a cloud mask; returns the folder."""
    write(folder / "scene.tif", numbers(scene(128)[0]))
    write(folder / "mask.tif", scene(128)[1], nodata=None)
    write(folder / "cloud.tif", cloud, **{"nodata": None, **file})
    return manifest(folder, "{images: scene.tif, labels: mask.tif, clouds: cloud.tif}")


@trap(3, "train: a cloud mask of 0 and 1", "right")
def test_a_cloud_mask(tmp_path: Path, glacier: Command) -> str:
    folder = clouded(tmp_path, GONE.astype(np.uint8))
    return told(glacier("train", folder, "threshold", tmp_path / "m",
                        "--patch", "size=32", "--patch", "block_m=320"))  # fmt: skip


@trap(3, "check and train: a cloud mask of 0 and 255", "refused")
def test_a_cloud_mask_in_black_and_white(tmp_path: Path, glacier: Command) -> str:
    folder = clouded(tmp_path, GONE * np.uint8(255))
    says = r"cloud\.tif: this mask holds 0 and 255 but never 1.*cloud, save it as 1"
    train = ("train", folder, "threshold", tmp_path / "m", "--patch", "size=32")
    return max(told(glacier(*command), says=says)
               for command in (("check", folder), (*train, "--patch", "block_m=320")))  # fmt: skip


@trap(3, "check: a cloud mask of 0 and 255, of which the file says that 255 is nodata", "right")
def test_a_cloud_mask_without_cloud(tmp_path: Path, glacier: Command) -> str:
    return told(glacier("check", clouded(tmp_path, GONE * np.uint8(255), nodata=255)))
