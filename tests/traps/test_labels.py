"""Traps of kinds 5 and 6: labels of one class, and which mask belongs to which image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from traps.tools import (
    AT,
    Command,
    labels,
    manifest,
    numbers,
    outlines,
    scene,
    told,
    trap,
    write,
)

CUT = ("--patch", "size=32", "--patch", "block_m=320")
ONE = "{images: scene.tif, labels: mask.tif}"


def masked(
    folder: Path, mask: np.ndarray, images: str = ONE, rest: str = "", **file: object
) -> Path:
    """Write a scene of 128 px with a mask of it, and a manifest; returns the folder."""
    write(folder / "scene.tif", numbers(scene(128)[0]))
    write(folder / "mask.tif", mask, **{"nodata": None, **file})
    return manifest(folder, images)


def truth() -> np.ndarray:
    return scene(128)[1]


def trained(glacier: Command, folder: Path, says: str = "") -> str:
    """Train the threshold rule: right is a fit that was made."""
    done = glacier("train", folder, "threshold", folder / "m", *CUT)
    made = (folder / "m" / "fit.json").is_file()
    return told(done, says=says, right=made and done.status == 0)


def both(glacier: Command, folder: Path, says: str) -> str:
    """Check and train; the worse outcome of the two, which must both say what is wrong."""
    outcomes = [told(glacier("check", folder), says=says), trained(glacier, folder, says)]
    return max(outcomes)


@trap(5, "masks of 0 and 1, trained on (control)", "right")
def test_zero_and_one(tmp_path: Path, glacier: Command) -> str:
    folder = masked(tmp_path, truth())
    assert np.array_equal(labels(folder), truth())
    return max(told(glacier("check", folder)), trained(glacier, folder))


@trap(5, "a GeoTIFF mask of 0 and 255", "refused")
def test_black_and_white(tmp_path: Path, glacier: Command) -> str:
    says = r"mask\.tif: this mask holds 0 and 255 but never 1.*label_values: \{0: 0, 255: 1\}"
    return both(glacier, masked(tmp_path, truth() * np.uint8(255)), says)


@trap(5, "a GeoTIFF mask of 0 and 255 whose nodata is 0, as QGIS rasterizes", "refused")
def test_black_and_white_with_nodata(tmp_path: Path, glacier: Command) -> str:
    folder = masked(tmp_path, truth() * np.uint8(255), nodata=0)
    return both(glacier, folder, r"mask\.tif: this mask holds 0 and 255.*label_values")


@trap(5, "a mask of 0 and 255 with label_values", "right")
def test_black_and_white_told(tmp_path: Path, glacier: Command) -> str:
    told_so = "{images: scene.tif, labels: mask.tif, label_values: {0: 0, 255: 1}}"
    folder = masked(tmp_path, truth() * np.uint8(255), told_so)
    assert np.array_equal(labels(folder), truth())
    return max(told(glacier("check", folder)), trained(glacier, folder))


@trap(5, "a mask of 1 and nodata -9999", "refused")
def test_one_and_nodata(tmp_path: Path, glacier: Command) -> str:
    mask = np.where(truth() == 1, 1, -9999).astype(np.int16)
    says = r"mask\.tif: all its labels are glacier.*-9999 \(nodata\) and 1.*\{nodata: 0\}"
    return both(glacier, masked(tmp_path, mask, nodata=-9999), says)


@trap(5, "a mask of 1 and not-a-number", "refused")
def test_one_and_nan(tmp_path: Path, glacier: Command) -> str:
    mask = np.where(truth() == 1, 1, np.nan).astype(np.float32)
    says = r"mask\.tif: all its labels are glacier.*nan \(nodata\).*label_values: \{nodata: 0\}"
    return both(glacier, masked(tmp_path, mask), says)


@trap(5, "a mask of 1 and nodata, with label_values: {nodata: 0}", "right")
def test_nodata_told(tmp_path: Path, glacier: Command) -> str:
    outcomes = []
    for name, empty, kind in (("i", -9999, np.int16), ("f", np.nan, np.float32)):
        mask = np.where(truth() == 1, 1, empty).astype(kind)
        told_so = "{images: scene.tif, labels: mask.tif, label_values: {nodata: 0}}"
        folder = masked(tmp_path / name, mask, told_so, nodata=empty)
        assert np.array_equal(labels(folder), truth())
        outcomes += [told(glacier("check", folder)), trained(glacier, folder)]
    return max(outcomes)


@trap(5, "a mask of 0 and 1 whose nodata is 0, which means not glacier", "right")
def test_nodata_of_zero(tmp_path: Path, glacier: Command) -> str:
    folder = masked(tmp_path, truth(), nodata=0)
    assert np.array_equal(labels(folder), truth())
    return max(told(glacier("check", folder)), trained(glacier, folder))


@trap(5, "a mask of 0 and 255, nodata 255: a place where the file knows no glacier", "refused")
def test_nodata_of_255(tmp_path: Path, glacier: Command) -> str:
    folder = masked(tmp_path, truth() * np.uint8(255), nodata=255)
    says = r"mask\.tif: all its labels are not glacier.*0 and 255 \(nodata\).*\{255: 1\}"
    return both(glacier, folder, says)


@trap(5, "a mask of 0 alone, the only area", "refused")
def test_no_glacier_at_all(tmp_path: Path, glacier: Command) -> str:
    says = r"mask\.tif: all its labels are not glacier.*hold 0;"
    return both(glacier, masked(tmp_path, truth() * np.uint8(0)), says)


@trap(5, "a mask of 1 alone", "refused")
def test_glacier_everywhere(tmp_path: Path, glacier: Command) -> str:
    mask = np.ones_like(truth())
    return both(glacier, masked(tmp_path, mask), r"mask\.tif: all its labels are glacier.*hold 1;")


@trap(5, "masks of 0 and 1 with coverage that leaves glacier alone", "refused")
def test_became_one_class(tmp_path: Path, glacier: Command) -> str:
    folder = masked(tmp_path, truth())
    text = (folder / "dataset.yaml").read_text("utf-8")
    corners = [[500_500, 6_779_500], [500_780, 6_779_500], [500_780, 6_779_220],
               [500_500, 6_779_220]]  # fmt: skip
    text = text.replace("  train:\n", f"  train:\n    coverage: {corners}\n")
    (folder / "dataset.yaml").write_text(text, "utf-8")
    return told(glacier("check", folder), says="all its labels are glacier")


@trap(5, "outlines that are elsewhere in the region, the only area", "refused")
def test_no_outline(tmp_path: Path, glacier: Command) -> str:
    write(tmp_path / "scene.tif", numbers(scene(128)[0]))
    outlines(truth(), AT @ AT.translation(300, 0)).to_file(tmp_path / "o.gpkg")
    manifest(tmp_path, "scene.tif", "outlines: o.gpkg")
    return trained(glacier, tmp_path, "nothing can be trained: all its labels are not glacier")


@trap(5, "a second area without ice, for testing", "warned")
def test_place_without_ice(tmp_path: Path, glacier: Command) -> str:
    folder = masked(tmp_path, truth())
    bare = np.full((4, 128, 128), 2500, np.uint16)
    bare[:, :64] = 1300
    write(folder / "bare.tif", bare, AT @ AT.translation(200, 0))
    write(folder / "none.tif", truth() * np.uint8(0), AT @ AT.translation(200, 0), nodata=None)
    with (folder / "dataset.yaml").open("a", encoding="utf-8") as file:
        file.write("  test:\n    2023-08: {images: bare.tif, labels: none.tif}\n")
    says = r"none\.tif: all its labels are not glacier"
    outcome = told(glacier("check", folder), says=says)
    return max(outcome, "warned" if trained(glacier, folder) == "right" else "wrong: training")


@trap(5, "masks of 1 and 2", "refused")
def test_other_numbers(tmp_path: Path, glacier: Command) -> str:
    folder = masked(tmp_path, truth() + np.uint8(1))
    return both(glacier, folder, r"mask\.tif: holds the value 2.*state label_values")


# --- which mask belongs to which image


def quarters(folder: Path, images: str, masks: str, bare: bool = True) -> None:
    """Write the quarters of a scene; patterns hold {place} (a..d) and {mask} its mask."""
    stored, known = numbers(scene(128)[0]), truth()
    for number, place in enumerate("abcd"):
        row, col = 64 * (number // 2), 64 * (number % 2)
        part = slice(row, row + 64), slice(col, col + 64)
        at = AT @ AT.translation(col, row)
        write(folder / images.format(place=place), stored[:, *part], at)
        where = {"transform": None, "crs": None} if bare else {"transform": at}
        kind = "PNG" if masks.endswith("png") else "GTiff"
        write(folder / masks.format(place=place), known[part], nodata=None, driver=kind, **where)


def found(glacier: Command, folder: Path, images: str, masks: str, says: str = "") -> str:
    """Check: right are labels equal to the truth."""
    manifest(folder, f"{{images: '{images}', labels: '{masks}'}}")
    done = glacier("check", folder)
    right = done.status == 2 or np.array_equal(labels(folder), truth())
    return told(done, says=says, right=right)


@trap(6, "masks without georeference under the names of their images (control)", "right")
def test_same_names(tmp_path: Path, glacier: Command) -> str:
    quarters(tmp_path, "i/{place}.tif", "l/{place}.png")
    return found(glacier, tmp_path, "i/*.tif", "l/*.png")


@trap(6, "one stem in four folders: images/a/p1.tif, labels/a/p1.png", "right")
def test_relative_path(tmp_path: Path, glacier: Command) -> str:
    quarters(tmp_path, "images/{place}/p1.tif", "labels/{place}/p1.png")
    return found(glacier, tmp_path, "images/*/*.tif", "labels/*/*.png")


@trap(6, "one stem in four places: a/images/p1.tif, a/labels/p1.png", "right")
def test_folders_within_places(tmp_path: Path, glacier: Command) -> str:
    quarters(tmp_path, "{place}/images/p1.tif", "{place}/labels/p1.png")
    return found(glacier, tmp_path, "*/images/*.tif", "*/labels/*.png")


@trap(6, "folders by area and date: images/train/a/p1.tif, labels/train/a/p1.png", "right")
def test_deep_folders(tmp_path: Path, glacier: Command) -> str:
    quarters(tmp_path, "images/train/{place}/rgbn/p1.tif", "labels/train/{place}/masks/p1.png")
    return found(glacier, tmp_path, "images/**/*.tif", "labels/**/*.png")


@trap(6, "one stem in four folders of images, one mask of that stem", "refused")
def test_a_stem_that_occurs_twice(tmp_path: Path, glacier: Command) -> str:
    quarters(tmp_path, "images/{place}/p1.tif", "labels/{place}/p1.png")
    (tmp_path / "one").mkdir()
    (tmp_path / "labels/d/p1.png").rename(tmp_path / "one/p1.png")
    says = r"p1\.png: may be the mask of .*a/p1\.tif or of .*b/p1\.tif; put masks in folders"
    return found(glacier, tmp_path, "images/*/*.tif", "one/*.png", says)


@trap(6, "two sets of masks for one set of images", "refused")
def test_two_masks_of_an_image(tmp_path: Path, glacier: Command) -> str:
    quarters(tmp_path, "i/{place}.tif", "l/v1/{place}.png")
    quarters(tmp_path, "i/{place}.tif", "l/v2/{place}.png")
    says = r"v2/a\.png: is a mask of a\.tif, and so is .*v1/a\.png"
    return found(glacier, tmp_path, "i/*.tif", "l/*/*.png", says)


@trap(6, "usual endings and beginnings: p_a_image.tif and p_a_mask.png, or mask_a.png", "right")
def test_usual_words(tmp_path: Path, glacier: Command) -> str:
    names = [("{place}.tif", "{place}_mask.png"), ("{place}.tif", "{place}_label.tif"),
             ("img_{place}.tif", "mask_{place}.png"),
             ("p_{place}_image.tif", "P_{place}_Labels.png")]  # fmt: skip
    outcomes = []
    for number, (image, mask) in enumerate(names):
        quarters(tmp_path / f"{number}", f"i/{image}", f"l/{mask}")
        outcomes.append(found(glacier, tmp_path / f"{number}", "i/*", "l/*"))
    return max(outcomes)


@trap(6, "masks whose names are those of no image", "refused")
def test_other_names(tmp_path: Path, glacier: Command) -> str:
    quarters(tmp_path, "i/{place}.tif", "l/x{place}.png")
    return found(glacier, tmp_path, "i/*.tif", "l/*.png", r"xa\.png: no image has this name; give")


@trap(6, "georeferenced masks, the names of two exchanged", "right")
def test_georeference_before_names(tmp_path: Path, glacier: Command) -> str:
    quarters(tmp_path, "i/{place}.tif", "l/{place}.tif", bare=False)
    (tmp_path / "l/a.tif").rename(tmp_path / "l/x.tif")
    (tmp_path / "l/b.tif").rename(tmp_path / "l/a.tif")
    (tmp_path / "l/x.tif").rename(tmp_path / "l/b.tif")
    return found(glacier, tmp_path, "i/*.tif", "l/*.tif")


@trap(6, "a mask that has coordinates but no CRS, as from a world file", "right")
def test_world_file(tmp_path: Path, glacier: Command) -> str:
    folder = masked(tmp_path, truth()[32:96], transform=AT @ AT.translation(0, 32), crs=None)
    expected = np.full((128, 128), 255, np.uint8)
    expected[32:96] = truth()[32:96]
    done = glacier("check", folder)
    return told(done, right=np.array_equal(labels(folder), expected))


@trap(6, "georeferenced masks under the names of images without", "right")
def test_images_without_georeference(tmp_path: Path, glacier: Command) -> str:
    stored = numbers(scene(128)[0])
    for number in range(2):
        part = slice(64 * number, 64 * number + 64)
        write(tmp_path / f"i/p_r{number}_c0.tif", stored[:, part], None, None)
        at = AT @ AT.translation(0, 64 * number)
        write(tmp_path / f"l/p_r{number}_c0.tif", truth()[part], at, nodata=None)
    manifest(tmp_path, "{images: i/*.tif, labels: l/*.tif}", "resolution: 10")
    done = glacier("check", tmp_path)
    return told(done, right=np.array_equal(labels(tmp_path), truth()))
