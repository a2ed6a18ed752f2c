"""Traps of kind 16: what is fine and was refused."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from traps.tools import (
    Command,
    Outcome,
    Told,
    iou,
    labels,
    manifest,
    mapped,
    numbers,
    outlines,
    scene,
    sound,
    told,
    trap,
    write,
)

from glacier_utils.datasets import open_dataset

CUT = ("--patch", "size=32", "--patch", "block_m=320")


def checked(done: Told, folder: Path) -> str:
    """Return the outcome of a check, right where the labels are the truth."""
    _, truth = scene(128)
    return told(done, right=np.array_equal(labels(folder), truth))


@pytest.mark.parametrize(("height", "width", "step"), [(250, 100, 64), (156, 220, 32)])
def test_tiles_pushed_back(
    height: int, width: int, step: int, tmp_path: Path, glacier: Command
) -> None:
    assert _tiles(height, width, step, tmp_path, glacier) == "right"


def _tiles(
    height: int, width: int, step: int, folder: Path, glacier: Command, size: int = 64
) -> str:
    image, truth = scene(256)
    image, truth = image[:, :height, :width], truth[:height, :width]
    for row in [*range(0, height - size, step), height - size]:
        for col in [*range(0, width - size, step), width - size]:
            part = np.s_[row : row + size, col : col + size]
            stored = numbers(image[(slice(None), *part)])
            write(folder / f"i/p_{row}_{col}.tif", stored, None, None)
            write(folder / f"l/p_{row}_{col}.png", truth[part], None, None, None, driver="PNG")
    manifest(folder, "{images: i/*.tif, labels: l/*.png}", "resolution: 10")
    done = glacier("check", folder)
    found = open_dataset(folder).source("train", "2023-08").read().reflectance
    right = found.shape == image.shape and np.allclose(found, image, atol=1e-4)
    return told(done, right=right and np.array_equal(labels(folder), truth))


@trap(16, "tiles named by pixels, the last one pushed back: 0, 64, 128, 186", "right")
def test_last_tile_pushed_back(tmp_path: Path, glacier: Command) -> str:
    return _tiles(250, 250, 64, tmp_path, glacier)


@trap(16, "two by two tiles named by pixels, both last ones pushed back", "right")
def test_two_by_two_pushed_back(tmp_path: Path, glacier: Command) -> str:
    return _tiles(100, 110, 64, tmp_path, glacier)


@trap(16, "tiles named by number, next to each other far from 0", "right")
def test_counted_tiles(tmp_path: Path, glacier: Command) -> str:
    image, truth = scene(128)
    for row in (0, 1):
        for col in (0, 1):
            part = np.s_[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64]
            name = f"p_{70 + row}_{90 + col}"
            write(tmp_path / f"i/{name}.tif", numbers(image[(slice(None), *part)]), None, None)
            write(tmp_path / f"l/{name}.tif", truth[part], None, None, None)
    manifest(tmp_path, "{images: i/*.tif, labels: l/*.tif}", "resolution: 10")
    return checked(glacier("check", tmp_path), tmp_path)


@trap(16, "check: brackets in the name of the dataset's folder", "right")
def test_brackets(tmp_path: Path, glacier: Command) -> str:
    folder = sound(tmp_path / "Greenland [2023]", "images/*.tif", "images/a.tif")
    return checked(glacier("check", folder), folder)


@trap(16, "predict: a pattern in a folder with brackets", "right")
def test_pattern_in_brackets(tmp_path: Path, predicted: Outcome) -> str:
    folder = sound(tmp_path / "Greenland [2023]", "images/*.tif", "images/a.tif")
    return predicted(folder / "images" / "*.tif")


@trap(16, "train: a dataset's folder in which nothing can be written, --patches elsewhere", "right")
def test_patches_elsewhere(tmp_path: Path, glacier: Command) -> str:
    folder = sound(tmp_path / "data")
    (folder / "patches").write_text("no folder can be made here, for root neither")
    elsewhere = tmp_path / "elsewhere"
    done = glacier("train", folder, "threshold", tmp_path / "fit", *CUT, "--patches", elsewhere)
    return told(done, right=len(list(elsewhere.glob("*/statistics.json"))) == 1)


@trap(16, "train: a dataset's folder in which nothing can be written", "refused")
def test_patches_cannot_be_written(tmp_path: Path, glacier: Command) -> str:
    folder = sound(tmp_path / "data")
    (folder / "patches").write_text("")
    done = glacier("train", folder, "threshold", tmp_path / "fit", *CUT)
    return told(done, says="patches cannot be written there.*`glacier train --patches FOLDER`")


@trap(16, "outlines and image in zips made by a Mac", "right")
def test_zips_from_a_mac(tmp_path: Path, glacier: Command) -> str:
    image, truth = scene(128)
    write(tmp_path / "in/scene.tif", numbers(image))
    outlines(truth).to_file(tmp_path / "in/o.shp")
    for name, ends in (("i.zip", ".tif"), ("o.zip", (".shp", ".shx", ".dbf", ".prj", ".cpg"))):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("in/.DS_Store", b"\0")
            for path in (tmp_path / "in").iterdir():
                if path.name.endswith(ends):
                    archive.write(path, f"in/{path.name}")
                    archive.writestr(f"__MACOSX/in/._{path.name}", b"\0\5\26\7")
    manifest(tmp_path, "i.zip", "outlines: o.zip")
    return checked(glacier("check", tmp_path), tmp_path)


@trap(16, "braces and brackets in the names of zips", "right")
def test_braces_in_zips(tmp_path: Path, glacier: Command) -> str:
    image, truth = scene(128)
    write(tmp_path / "scene.tif", numbers(image))
    outlines(truth).to_file(tmp_path / "o.gpkg")
    for name, member in (("s {1}.zip", "scene.tif"), ("o [x] {y}.zip", "o.gpkg")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.write(tmp_path / member, f"in [1]/{member}")
    manifest(tmp_path, '"s {1}.zip"', 'outlines: "o [x] {y}.zip"')
    return checked(glacier("check", tmp_path), tmp_path)


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    image, _ = scene(128)
    write(tmp_path / "scene.tif", numbers(image))
    with tarfile.open(tmp_path / "scene.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "scene.tif", "in/scene.tif")
    return tmp_path / "scene.tar.gz"


@trap(16, "predict: an absolute path behind /vsitar/", "right")
def test_vsitar(tar: Path, tmp_path: Path, predicted: Outcome) -> str:
    return predicted(f"/vsitar/{tar}/in/scene.tif")


@trap(16, "check: an absolute path behind /vsitar/ in the manifest", "right")
def test_vsitar_in_a_manifest(tar: Path, tmp_path: Path, glacier: Command) -> str:
    folder = sound(tmp_path / "data", f"/vsitar/{tar}/in/scene.tif")
    before = open_dataset(folder).fingerprint
    shutil.copy(tar, tmp_path / "copy")
    os.replace(tmp_path / "copy", tar)  # another time: a change in an archive must be noticed
    if open_dataset(folder).fingerprint == before:
        return "wrong: a new archive with the old fingerprint"
    return checked(glacier("check", folder), folder)


@trap(16, "predict: an absolute path behind /vsigzip/", "right")
def test_vsigzip(tmp_path: Path, predicted: Outcome) -> str:
    image, _ = scene(128)
    path = write(tmp_path / "scene.tif", numbers(image))
    (tmp_path / "scene.tif.gz").write_bytes(gzip.compress(path.read_bytes()))
    return predicted(f"/vsigzip/{path}.gz")


@trap(16, "masks in a folder of folders, named as their images", "right")
def test_masks_in_subfolders(tmp_path: Path, glacier: Command) -> str:
    image, truth = scene(128)
    for number, part in enumerate((np.s_[:, :64], np.s_[:, 64:])):
        stored = numbers(image[(slice(None), *part)])
        write(tmp_path / f"images/r0_c{number}_.tif", stored[:, :64], None, None)
        write(tmp_path / f"images/r1_c{number}_.tif", stored[:, 64:], None, None)
        mask = truth[part]
        write(tmp_path / f"masks/upper/r0_c{number}_.tif", mask[:64], None, None, None)
        write(tmp_path / f"masks/lower/r1_c{number}_.tif", mask[64:], None, None, None)
    manifest(tmp_path, "{images: images, labels: masks}", "resolution: 10")
    return checked(glacier("check", tmp_path), tmp_path)


@trap(16, "a folder of folders that hold files of the same names, as of two dates", "refused")
def test_folders_of_dates(tmp_path: Path, predict: Command) -> str:
    image, _ = scene(128)
    for date in ("july", "august"):
        write(tmp_path / f"images/{date}/scene.tif", numbers(image))
    done = predict(tmp_path / "images")
    return told(done, says="images: this folder holds no raster files")


@trap(16, "*.tif where the files are .TIF", "right")
def test_capitals(tmp_path: Path, glacier: Command) -> str:
    folder = sound(tmp_path, "images/*.tif", "images/A.TIF")
    return checked(glacier("check", folder), folder)


@trap(16, "a manifest from Windows: backslashes, CRLF and a BOM", "right")
def test_windows(tmp_path: Path, glacier: Command) -> str:
    folder = sound(tmp_path, "images\\*.tif", "images/a.tif")
    text = (folder / "dataset.yaml").read_text("utf-8").replace("\n", "\r\n")
    (folder / "dataset.yaml").write_bytes(f"\ufeff{text}".encode())
    return checked(glacier("check", folder), folder)


@trap(16, "a list of scenes from Windows", "right")
def test_list_from_windows(tmp_path: Path, predicted: Outcome) -> str:
    sound(tmp_path)
    (tmp_path / "list.txt").write_bytes("\ufeff# mine\r\nscene.tif\r\n\r\n".encode())
    return predicted(tmp_path / "list.txt")


@trap(16, "blanks and letters of other scripts in every name", "right")
def test_unicode(tmp_path: Path, glacier: Command, predicted: Outcome) -> str:
    folder = sound(tmp_path / "Grønland 冰川 ’23", "bilder é/scene ñ.tif", "bilder é/scene ñ.tif")
    found = checked(glacier("check", folder), folder)
    return max(found, predicted(folder / "bilder é/scene ñ.tif", out=folder / "out ø"))


@trap(16, "a semicolon in the name of a scene", "right")
def test_semicolon(tmp_path: Path, predicted: Outcome) -> str:
    sound(tmp_path, file="a;b.tif")
    return predicted(tmp_path / "a;b.tif")


@pytest.mark.skipif(os.name == "nt", reason="names are bytes elsewhere alone")
@trap(16, "a name that is no UTF-8, which GDAL cannot open", "refused")
def test_name_in_latin(tmp_path: Path, predict: Command) -> str:
    sound(tmp_path)
    os.rename(tmp_path / "scene.tif", os.fsencode(tmp_path) + b"/scene_\xf8.tif")
    done = predict(tmp_path / "*.tif")
    return told(done, says="its name is not in UTF-8; rename it")


@trap(16, "a folder of data that is a link, and links in it", "right")
def test_links(tmp_path: Path, glacier: Command) -> str:
    real = sound(tmp_path / "real", "images/*.tif", "images/a.tif")
    os.rename(real / "images", tmp_path / "disk")
    (real / "images").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(real)
    return checked(glacier("check", f"{tmp_path / 'link'}/"), tmp_path / "link")


@trap(16, "relative paths from another working directory, with slashes at the end", "right")
def test_relative_paths(
    tmp_path: Path, model: Path, glacier: Command, monkeypatch: pytest.MonkeyPatch
) -> str:
    folder = sound(tmp_path / "data", "images/", "images/a.tif")
    monkeypatch.chdir(folder / "images")
    found = checked(glacier("check", "../dataset.yaml"), folder)
    done = glacier("predict", model, "./", "../out/")
    return max(found, told(done, right=iou(mapped(folder / "out"), scene(128)[1]) > 0.99))


@trap(16, "what systems leave in folders: ._a.tif, Thumbs.db, .aux.xml, .tfw", "right")
def test_left_by_systems(tmp_path: Path, predicted: Outcome) -> str:
    folder = sound(tmp_path, "images", "images/a.tif") / "images"
    (folder / "._a.tif").write_bytes(b"\0\5\26\7")
    (folder / "Thumbs.db").write_bytes(b"\0")
    (folder / "a.tif.aux.xml").write_text("<PAMDataset/>")
    (folder / "a.tfw").write_text("10\n0\n0\n-10\n500005\n6779995\n")
    return predicted(folder)


@pytest.mark.parametrize("step", [1, 64])
def test_tiles_named_column_first(step: int, tmp_path: Path, glacier: Command) -> None:
    assert _column_first(tmp_path, glacier, step, "column and row, as the edges") == "warned"


def _column_first(
    folder: Path, glacier: Command, step: int, says: str, *, flat: bool = False
) -> str:
    image, truth = scene(256)
    for row in range(4):
        for col in range(4):
            part = np.s_[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64]
            first, second = (row, col) if flat else (col, row)
            name = f"p_{first * step}_{second * step}"
            stored = numbers(image[(slice(None), *part)] * (not flat) + flat * 0.3)
            write(folder / f"i/{name}.tif", stored, None, None)
            write(folder / f"l/{name}.tif", truth[part], None, None, None)
    manifest(folder, "{images: i/*.tif, labels: l/*.tif}", "resolution: 10")
    found = open_dataset(folder).source("train", "2023-08").read().reflectance
    right = flat or np.allclose(found, image, atol=1e-4)
    right &= np.array_equal(labels(folder), truth)
    return told(glacier("check", folder), says=says, right=bool(right))


@trap(16, "tiles named x_y, by two numbers", "warned")
def test_column_first(tmp_path: Path, glacier: Command) -> str:
    return _column_first(tmp_path, glacier, 1, "p_0_0.tif: .*column and row, as the edges")


@trap(16, "tiles named by two numbers, whose edges do not tell which is the row", "warned")
def test_unknown_order(tmp_path: Path, glacier: Command) -> str:
    return _column_first(
        tmp_path, glacier, 1, "row and column, without help from the edges", flat=True
    )


@trap(16, "names whose letters with accents a Mac took apart", "right")
def test_decomposed_names(tmp_path: Path, glacier: Command, predicted: Outcome) -> str:
    image, truth = scene(128)
    apart, whole = (unicodedata.normalize(form, "Jökull") for form in ("NFD", "NFC"))
    write(tmp_path / apart / f"{apart}.tif", numbers(image), None, None)
    write(tmp_path / f"l/{whole}.tif", truth, None, None, None)
    images = f"{{images: {whole}/{whole}.tif, labels: l/*.tif}}"
    done = glacier("check", manifest(tmp_path, images, "resolution: 10"))
    outcome = checked(done, tmp_path)
    return max(outcome, predicted(tmp_path / whole / f"{whole}*.tif"))


@trap(16, "predict: scenes into their own folder a second time, by *.tif", "warned")
def test_into_itself(tmp_path: Path, model: Path, glacier: Command) -> str:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.tif", numbers(scene(128)[0]))
    for _ in range(2):
        done = glacier("predict", model, *sorted(tmp_path.glob("*.tif")), tmp_path)
    made = {path.name for path in tmp_path.glob("*_class.tif")}
    says = "left out, 4 maps of an earlier run among the scenes, such as .*a_class"
    return told(done, says=says, right=made == {"a_class.tif", "b_class.tif"})
