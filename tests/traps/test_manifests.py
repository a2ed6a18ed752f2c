"""Traps in what a person writes: dates, names and numbers of manifests and commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from traps.tools import Command, labels, manifest, numbers, scene, told, trap, write

from glacier_utils.outlines.inventory import parse_source_date

SIZE = 128
MASKED = "{images: scene.tif, labels: mask.tif}"


def dataset(folder: Path, mask: np.ndarray | None = None, **settings: str) -> Path:
    """Write a scene, its mask and their manifest."""
    image, truth = scene(SIZE)
    write(folder / "scene.tif", numbers(image))
    write(folder / "mask.tif", truth if mask is None else mask, nodata=None)
    return manifest(folder, **{"images": MASKED} | settings)


def area(folder: Path, old: str, new: str) -> Path:
    """Change the text of a manifest."""
    path = folder / "dataset.yaml"
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    return folder


def train(glacier: Command, folder: Path, *options: str) -> object:
    return glacier("train", folder, "threshold", folder / "out", "--patch", "size=32", *options)


@trap(5, "an int8 mask of -1, 0 and 1: -1 is unknown or glacier, and both are offered", "refused")
def test_minus_one(tmp_path: Path, glacier: Command) -> str:
    mask = scene(SIZE)[1].astype(np.int8)
    mask[:4] = -1
    says = r"mask\.tif: holds the value -1.*\{-1: 1\} if it means glacier, \{-1: 255\} if unknown"
    return told(glacier("check", dataset(tmp_path, mask)), says=says)


@trap(5, "label_values with a fraction, a decimal point and quotes: {0.5: 255, 1.0: 1}", "right")
def test_label_values(tmp_path: Path, glacier: Command) -> str:
    truth = scene(SIZE)[1]
    mask = truth.astype(np.float32)
    mask[:4], truth[:4] = 0.5, 255
    mask[truth == 0] = 2
    values = '{images: scene.tif, labels: mask.tif, label_values: {0.5: 255, 1.0: 1, "2": 0}}'
    folder = dataset(tmp_path, mask, images=values)
    right = bool((labels(folder) == truth).all())
    return told(glacier("check", folder), right=right)


@trap(7, "a date in the manifest that is not that of the product's name, checked", "warned")
def test_date_checked(tmp_path: Path, glacier: Command) -> str:
    return told(glacier("check", misdated(tmp_path)), says="LC08_.*2023-08-01.*is 2021-08")


@trap(7, "a date in the manifest that is not that of the product's name, trained", "warned")
def test_date_trained(tmp_path: Path, glacier: Command) -> str:
    return told(train(glacier, misdated(tmp_path)), says="LC08_.*2023-08-01.*is 2021-08")


def misdated(folder: Path) -> Path:
    dataset(folder)
    name = "LC08_L2SP_002016_20230801_20230805_02_T1.tif"
    (folder / "scene.tif").rename(folder / name)
    return area(area(folder, "scene.tif", name), "2023-08:", "2021-08:")


@trap(7, "a year of the manifest with two figures swapped: 2203", "refused")
def test_future(tmp_path: Path, glacier: Command) -> str:
    folder = area(dataset(tmp_path), "2023-08", "2203-08")
    says = r"dataset\.yaml: .*'2203-08' is before all satellites or still to come; mend"
    return told(glacier("check", folder), says=says)


@trap(7, "--date before there were satellites", "refused")
def test_past(tmp_path: Path, model: Path, glacier: Command) -> str:
    path = write(tmp_path / "s.tif", numbers(scene(SIZE)[0]))
    done = glacier("predict", model, path, tmp_path / "m.tif", "--date", "1823-08-24")
    return told(done, says="'1823-08-24' is before all satellites", right=True)


@trap(14, "two areas of one image without CRS, each a copy of its own", "warned")
def test_copies(tmp_path: Path, glacier: Command) -> str:
    image, truth = scene(SIZE)
    for name in "ab":
        write(tmp_path / f"{name}.tif", numbers(image), crs=None, transform=None)
    write(tmp_path / "mask.tif", truth, crs=None, transform=None, nodata=None)
    folder = manifest(tmp_path, MASKED.replace("scene", "a"), rest="resolution: 10")
    path = folder / "dataset.yaml"
    other = f"  test:\n    2023-08: {MASKED.replace('scene', 'b')}\n"
    path.write_text(path.read_text("utf-8") + other, "utf-8")
    says = r"a\.tif: area test \(2023-08\) has the same image.*check the paths"
    return told(glacier("check", folder), says=says)


@trap(15, "an area whose name YAML takes for false: no", "refused")
def test_no(tmp_path: Path, glacier: Command) -> str:
    folder = area(dataset(tmp_path), "  train:", "  no:")
    return told(glacier("check", folder), says="YAML reads .* as False; put it in quotes")


@trap(16, "numbers that YAML takes for text: 1e4, -3.4e38", "right")
def test_exponents(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, reflectance="{scale: 1e4, offset: -1e3, nodata: -3.4e38}")
    return told(glacier("check", folder))


@trap(16, "a nodata that YAML takes for text: nan", "right")
def test_nan(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, reflectance="{scale: 10000, offset: -1000, nodata: nan}")
    return told(glacier("check", folder))


@trap(2, "the XML of a product where its folder is meant", "refused")
def test_metadata(tmp_path: Path, model: Path, glacier: Command) -> str:
    path = tmp_path / "S2A.SAFE" / "MTD_MSIL2A.xml"
    path.parent.mkdir()
    path.write_text("<product/>", "utf-8")
    done = glacier("predict", model, path, tmp_path / "m.tif")
    return told(done, says=r"MTD_MSIL2A\.xml: .*name the folder of the product.*\.SAFE")


@trap(2, "a NetCDF file of several variables", "refused")
def test_netcdf(tmp_path: Path, model: Path, glacier: Command) -> str:
    path = tmp_path / "scene.nc"
    path.write_bytes(b"CDF\x01" + bytes(100))
    done = glacier("predict", model, path, tmp_path / "m.tif")
    return told(done, says=r"scene\.nc: .*convert its bands to one GeoTIFF \(gdal_translate\)")


@trap(15, "scene and checkpoint in the wrong order", "refused")
def test_swapped(tmp_path: Path, model: Path, glacier: Command) -> str:
    path = write(tmp_path / "s.tif", numbers(scene(SIZE)[0]))
    done = glacier("predict", path, model, tmp_path / "m.tif")
    return told(done, says=r"s\.tif: not a readable checkpoint.*order is CHECKPOINT SCENE OUT")


@trap(14, "training on a dataset that has no area train", "refused")
def test_no_train(tmp_path: Path, glacier: Command) -> str:
    folder = area(dataset(tmp_path), "  train:", "  svalbard:")
    return told(train(glacier, folder), says="--patch train_areas=NAME.*'train' is not.*svalbard")


@trap(17, "tiles without georeference named by column and row: x128_y0", "right")
def test_column_first(tmp_path: Path, glacier: Command) -> str:
    return tiled(tmp_path, glacier, "t_x{x}_y{y}", 1)


@trap(17, "tiles without georeference counted by column and row: col1_row0", "right")
def test_counted_column_first(tmp_path: Path, glacier: Command) -> str:
    return tiled(tmp_path, glacier, "t_col{x}_row{y}", 64)


def tiled(folder: Path, glacier: Command, name: str, unit: int) -> str:
    """Cut a scene and its mask into tiles with names by ``unit`` pixels; say whether they fit."""
    image, truth = scene(SIZE)
    image = numbers(image)
    for row in range(0, SIZE, 64):
        for col in range(0, SIZE, 64):
            part = slice(row, row + 64), slice(col, col + 64)
            file = name.format(x=col // unit, y=row // unit) + ".tif"
            bare = {"crs": None, "transform": None}
            write(folder / "i" / file, image[:, *part], **bare)
            write(folder / "m" / file, truth[part], nodata=None, **bare)
    manifest(folder, "{images: i/*.tif, labels: m/*.tif}", rest="resolution: 10")
    right = np.array_equal(labels(folder), truth)
    return told(glacier("check", folder), right=right)


@pytest.mark.parametrize("value", ["nan", "-1", "inf"])
def test_smallest_area(value: str, glacier: Command, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        glacier("predict", "a.pt", "b.tif", "out", "--min-area", value)
    assert f"{value!r} is no area in km2" in capsys.readouterr().err


def test_outline_of_the_future() -> None:
    assert parse_source_date("2099-08-01") is parse_source_date(20990801) is pd.NaT
