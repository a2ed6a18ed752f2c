"""Traps of kinds 9 and 11: several images where one is meant, and what lies behind a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import rasterio
from traps.tools import (
    AT,
    Command,
    Outcome,
    manifest,
    mapped,
    numbers,
    outlines,
    scene,
    told,
    trap,
    write,
)

BANDS = {"B04": 0, "B03": 1, "B02": 2, "B08": 3}


def bands(folder: Path, start: str, names: tuple[str, ...] = tuple(BANDS)) -> Path:
    """Write a file for each band."""
    stored = numbers(scene(256)[0])
    for name in names:
        write(folder / f"{start}_{name}.tif", stored[BANDS[name]])
    return folder


def patches(folder: Path, start: str, size: int = 128, step: int = 128) -> Path:
    """Cut the scene into patches."""
    stored = numbers(scene(256)[0])
    for row in range(0, 256 - size + 1, step):
        for col in range(0, 256 - size + 1, step):
            piece = stored[:, row : row + size, col : col + size]
            write(folder / f"{start}_r{row}_c{col}.tif", piece, AT @ AT.translation(col, row))
    return folder


@trap(9, "predict: a folder of patches with the date in their names", "right")
def test_patches(tmp_path: Path, predicted: Outcome) -> str:
    return predicted(patches(tmp_path / "in", "2023-08-24"))


@trap(9, "predict: patches that overlap by half", "right")
def test_overlapping_patches(tmp_path: Path, predicted: Outcome) -> str:
    return predicted(patches(tmp_path / "in", "p", step=64))


@trap(9, "predict: a folder with the scenes of two dates", "refused")
def test_two_dates(tmp_path: Path, predicted: Outcome) -> str:
    stored = numbers(scene(256)[0])
    for date in ("20230801", "20230824"):
        write(tmp_path / "in" / f"T23VMG_{date}.tif", stored)
    says = r"in: holds several images.*_20230801\.tif \(2023-08-01\), T23VMG_20230824.*name one"
    return predicted(tmp_path / "in", says=says)


@trap(9, "predict: two dates whose frames overlap in part", "refused")
def test_two_frames(tmp_path: Path, predicted: Outcome) -> str:
    stored = numbers(scene(256)[0])
    write(tmp_path / "in" / "S2A_23VMG_20230801_0_L2A.tif", stored)
    write(tmp_path / "in" / "S2A_23VMG_20230824_0_L2A.tif", stored, AT @ AT.translation(40, 30))
    says = "holds several images where one is meant: S2A_23VMG_20230801.*2023-08-24"
    return predicted(tmp_path / "in", says=says)


@trap(9, "predict: two scenes of one frame whose names have no date", "refused")
def test_two_scenes(tmp_path: Path, predicted: Outcome) -> str:
    stored = numbers(scene(256)[0])
    for name in ("summer", "autumn"):
        write(tmp_path / "in" / f"{name}.tif", stored)
    says = r"autumn\.tif \(no date in its name\), summer\.tif .* show the same ground"
    return predicted(tmp_path / "in", says=says)


@trap(9, "predict: patches of two dates in one folder", "refused")
def test_patches_of_two_dates(tmp_path: Path, predicted: Outcome) -> str:
    patches(tmp_path / "in", "2023-08-01")
    patches(tmp_path / "in", "2023-08-24")
    says = r"holds several images.*2023-08-01_r0_c0\.tif.*2023-08-24_r0_c0\.tif"
    return predicted(tmp_path / "in", says=says)


@trap(9, "predict: the four bands of two dates in one folder", "refused")
def test_bands_of_two_dates(tmp_path: Path, predicted: Outcome) -> str:
    bands(tmp_path / "in", "T23VMG_20230801T141951")
    bands(tmp_path / "in", "T23VMG_20230824T141951")
    says = r"2 files are named as band red \(T23VMG_20230801.*narrow `images`"
    return predicted(tmp_path / "in", says=says)


@trap(9, "predict: red and green of one date, blue and near infrared of another", "refused")
def test_half_of_each_date(tmp_path: Path, predicted: Outcome) -> str:
    bands(tmp_path / "in", "T23VMG_20230801T141951", ("B04", "B03"))
    bands(tmp_path / "in", "T23VMG_20230824T141951", ("B02", "B08"))
    says = "holds several images where one is meant: .*2023-08-01.*2023-08-24"
    return predicted(tmp_path / "in", says=says)


@trap(9, "predict: a whole date and the near infrared of another", "refused")
def test_one_band_too_many(tmp_path: Path, predicted: Outcome) -> str:
    bands(tmp_path / "in", "T23VMG_20230801T141951")
    bands(tmp_path / "in", "T23VMG_20230824T141951", ("B08",))
    says = "2 files are named as band nir"
    return predicted(tmp_path / "in", says=says)


@trap(9, "predict: two products that a pattern matches", "refused")
def test_two_products(tmp_path: Path, predicted: Outcome) -> str:
    for start in ("S2A_MSIL2A_20230801T141951_N0509_R139_T23VMG_20230801T200000",
                  "S2A_MSIL2A_20230824T141951_N0509_R139_T23VMG_20230824T200000"):  # fmt: skip
        folder = tmp_path / f"{start}.SAFE"
        bands(folder / "GRANULE/L2A/IMG_DATA/R10m", f"T23VMG_{start[11:26]}")
        for path in folder.rglob("*.tif"):
            path.rename(path.with_name(f"{path.stem}_10m.jp2"))
    images = f"{tmp_path}/*.SAFE"
    return predicted(images, says="files are named as band red")


@trap(9, "check: a pattern that matches two dates", "refused")
def test_pattern_in_a_manifest(tmp_path: Path, glacier: Command) -> str:
    for date in ("2023-08-01", "2023-08-24"):
        write(tmp_path / f"scene_{date}.tif", numbers(scene(128)[0]))
    outlines(scene(128)[1]).to_file(tmp_path / "o.gpkg")
    manifest(tmp_path, "scene_*.tif", "outlines: o.gpkg")
    return told(glacier("check", tmp_path), says="several images where one is meant")


@trap(9, "check: the label rasters of two dates for one image", "refused")
def test_labels_of_two_dates(tmp_path: Path, glacier: Command) -> str:
    write(tmp_path / "scene.tif", numbers(scene(128)[0]))
    for date in ("2023-08-01", "2023-08-24"):
        write(tmp_path / "labels" / f"{date}.tif", scene(128)[1])
    manifest(tmp_path, "{images: scene.tif, labels: labels}")
    return told(glacier("check", tmp_path), says="several images where one is meant")


@trap(9, "predict: neighbouring tiles of two dates that do not overlap", "right")
def test_neighbours(tmp_path: Path, predicted: Outcome) -> str:
    stored = numbers(scene(256)[0])
    write(tmp_path / "in" / "west_2023-08-01.tif", stored[:, :, :128])
    write(tmp_path / "in" / "east_2023-08-24.tif", stored[:, :, 128:], AT @ AT.translation(128, 0))
    return predicted(tmp_path / "in")


def again(predicted: Outcome, scene_path: Path, behind: Path) -> str:
    """Map, move the ice in a file behind the scene, map again: right is the new map."""
    assert predicted(scene_path) == "right"
    write(behind, np.roll(numbers(scene(256)[0]), 40, axis=2))
    return predicted(scene_path, truth=np.roll(scene(256)[1], 40, axis=1))


@trap(11, "predict again: the source of a VRT has changed", "right")
def test_vrt(tmp_path: Path, predicted: Outcome) -> str:
    path = write(tmp_path / "in" / "s.tif", numbers(scene(256)[0]))
    rasterio.shutil.copy(path, tmp_path / "v.vrt", driver="VRT")
    return again(predicted, tmp_path / "v.vrt", path)


@trap(11, "predict again: the source of a VRT in a VRT has changed", "right")
def test_nested_vrt(tmp_path: Path, predicted: Outcome) -> str:
    path = write(tmp_path / "in" / "s.tif", numbers(scene(256)[0]))
    rasterio.shutil.copy(path, tmp_path / "in" / "inner.vrt", driver="VRT")
    text = (tmp_path / "in" / "inner.vrt").read_text().replace("s.tif", "in/inner.vrt")
    (tmp_path / "v.vrt").write_text(text)
    return again(predicted, tmp_path / "v.vrt", path)


@trap(11, "predict again: a mask was put beside the file", "right")
def test_mask_beside(tmp_path: Path, predict: Command) -> str:
    path = write(tmp_path / "s.tif", numbers(scene(256)[0]), nodata=None)
    predict(path)
    stat = path.stat()
    with rasterio.open(path, "r+") as file:
        file.write_mask(np.where(np.arange(256)[:, None] < 64, 0, 255).repeat(256, 1).astype("u1"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = predict(path)
    found = mapped(tmp_path / "out")
    return told(done, right=bool((found[:64] == 255).all() and (found[64:] != 255).all()))


@trap(11, "predict again: a world file has moved the image", "right")
def test_world_file(tmp_path: Path, predict: Command) -> str:
    path = write(tmp_path / "s.tif", numbers(scene(256)[0]), transform=None, crs=None)
    world = tmp_path / "s.tfw"
    for left in (500_005, 600_005):
        world.write_text(f"10\n0\n0\n-10\n{left}\n6779995\n")
        done = predict(path)
    (made,) = (tmp_path / "out").glob("*_class.tif")
    with rasterio.open(made) as file:
        return told(done, right=file.transform.c == 600_000)


@trap(11, "a dataset's fingerprint: the attributes of a shapefile, its code page, a mask", "right")
def test_fingerprint(tmp_path: Path, glacier: Command) -> str:
    from glacier_utils.datasets import open_dataset

    write(tmp_path / "scene.tif", numbers(scene(128)[0]))
    outlines(scene(128)[1]).to_file(tmp_path / "o.shp")
    manifest(tmp_path, rest="outlines: o.shp")
    seen = [open_dataset(tmp_path).fingerprint]
    for name in ("o.dbf", "o.cpg", "o.prj", "scene.tif.msk", "scene.tif.aux.xml", "scene.tfw"):
        with (tmp_path / name).open("ab") as file:
            file.write(b" ")
        seen.append(open_dataset(tmp_path).fingerprint)
    for name in ("scene.tif.msk", "scene.tif.aux.xml", "scene.tfw"):
        (tmp_path / name).unlink()
    return told(glacier("check", tmp_path), right=len(set(seen)) == len(seen))
