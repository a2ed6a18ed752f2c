"""Traps of kind 17: tiles that share no lattice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from affine import Affine
from shapely import Point
from traps.tools import (
    AT,
    CRS,
    Command,
    iou,
    labels,
    manifest,
    outlines,
    told,
    trap,
    write,
)

from glacier_utils.datasets import open_dataset

CUT = ("--patch", "size=64", "--patch", "block_m=640")
ICE, ROCK, LAKE = (9000, 8800, 8600, 7600), (2600, 2500, 2200, 2700), (1300, 1400, 1500, 1100)
CENTRE, RADIUS = (501_280.0, 6_778_720.0), 900.0  # of a disc of ice on a plane, in m


def ground(at: Affine, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return stored numbers and truth of the same ground, as pixels of ``at`` see it."""
    row, col = np.mgrid[:size, :size] + 0.5
    x, y = at.c + col * at.a, at.f + row * at.e
    ice = np.hypot(x - CENTRE[0], y - CENTRE[1]) < RADIUS
    lake = np.hypot(x - CENTRE[0] - 1500, y - CENTRE[1]) < 400
    image = np.where(lake, np.reshape(LAKE, (4, 1, 1)), np.reshape(ROCK, (4, 1, 1)))
    image = np.where(ice, np.reshape(ICE, (4, 1, 1)), image)
    return image.astype(np.uint16), ice.astype(np.uint8)


def tiles(
    folder: Path,
    shifts: tuple[float, ...] = (0.0,),
    pixels: tuple[float, ...] = (10.0,),
    mask_off: tuple[float, ...] = (0.0,),
    step: int = 64,
    count: int = 16,
) -> list[Affine]:
    """Write 4 x 4 tiles, i/p0.tif to i/p15.tif, and masks l/p0.tif ...; returns where they lie.

    ``shifts`` are taken in turn: how far tiles lie off the lattice, in pixels; ``mask_off``
    likewise: how far masks lie off their images.
    """
    places = []
    for number in range(count):
        size, off = pixels[number % len(pixels)], shifts[number % len(shifts)]
        left, top = 10 * (step * (number % 4) + off), 10 * (step * (number // 4) - off)
        at = Affine(size, 0, AT.c + left, 0, -size, AT.f - top)
        image, truth = ground(at)
        write(folder / f"i/p{number}.tif", image, at)
        other = mask_off[number % len(mask_off)]
        write(
            folder / f"l/p{number}.tif", truth, at @ Affine.translation(other, other), nodata=None
        )
        places.append(at)
    return places


def faults(folder: Path, places: list[Affine]) -> int:
    """Count pixels whose image or label is not what the tile that they come from holds."""
    dataset = open_dataset(folder)
    source, mask = dataset.source("train", "2023-08"), dataset.labels("train", "2023-08")
    wrong = 0
    for item in source.placed:
        image, truth = ground(places[int(item.path.stem[1:])])
        # The outermost pixels of neighbours may lie on each other.
        inner = item.row + 1, item.col + 1, item.height - 2, item.width - 2
        stored = source.read(*inner).reflectance * 10_000 + 1000
        wrong += int((abs(stored - image[:, 1:-1, 1:-1]) > 1).any(axis=0).sum())
        wrong += int((mask.read(*inner) != truth[1:-1, 1:-1]).sum())
    return wrong


def checked(
    glacier: Command,
    folder: Path,
    places: list[Affine],
    says: str = "",
    entry: str = "{images: i/*.tif, labels: l/*.tif}",
    rest: str = "",
) -> str:
    """Check and train: right are tiles and labels as they were written."""
    manifest(folder, entry, rest)
    right = faults(folder, places) == 0
    outcomes = [told(glacier("check", folder), says=says, right=right)]
    done = glacier("train", folder, "threshold", folder / "m", *CUT)
    return max(*outcomes, told(done, says=says, right=(folder / "m/fit.json").is_file()))


@trap(17, "tiles on one lattice (control)", "right")
def test_one_lattice(tmp_path: Path, glacier: Command) -> str:
    return checked(glacier, tmp_path, tiles(tmp_path))


@trap(17, "masks .01 to .09 px off their images", "right")
def test_masks_a_little_off(tmp_path: Path, glacier: Command) -> str:
    places = tiles(tmp_path, mask_off=(0.01, -0.03, 0.09))
    return checked(glacier, tmp_path, places)


@trap(17, "pixels of 9.9998 and 10.0001 m", "right")
def test_pixels_a_little_different(tmp_path: Path, glacier: Command) -> str:
    return checked(glacier, tmp_path, tiles(tmp_path, pixels=(10, 9.9998, 10.0001)))


@trap(17, "tiles .05 to .2 px off each other, masks .09 px off their tiles", "right")
def test_under_a_quarter(tmp_path: Path, glacier: Command) -> str:
    places = tiles(tmp_path, (0, 0.05, -0.12, 0.2), mask_off=(0.09, -0.05))
    return checked(glacier, tmp_path, places)


@trap(17, "tiles up to half a pixel off each other, masks cut with them", "warned")
def test_lattices_of_their_own(tmp_path: Path, glacier: Command) -> str:
    places = tiles(tmp_path, (0, 0.45, -0.31, 0.38, 0.27), mask_off=(0, 0.06))
    says = r"of 16 tiles lie up to 0\.\d+ px off the pixels of p0\.tif: each is read as it is"
    return checked(glacier, tmp_path, places, says)


@trap(17, "pixels of 9.97 and 10.02 m, as of a web tool", "warned")
def test_other_pixels(tmp_path: Path, glacier: Command) -> str:
    places = tiles(tmp_path, (0, 0.3), (10, 9.95, 10.04))
    return checked(
        glacier, tmp_path, places, r"tiles lie up to 0\.\d+ px off the pixels of p0\.tif"
    )


@trap(17, "tiles that lie apart on lattices of their own, outlines burnt on each", "warned")
def test_outlines_on_loose_tiles(tmp_path: Path, glacier: Command) -> str:
    places = tiles(tmp_path, (0, 0.45, -0.4), step=66)
    disc = outlines(ground(AT)[1]).assign(geometry=[Point(CENTRE).buffer(RADIUS, 500)])
    disc.to_file(tmp_path / "o.gpkg")
    manifest(tmp_path, "i/*.tif", "outlines: o.gpkg")
    dataset = open_dataset(tmp_path)
    source, mask = dataset.source("train", "2023-08"), dataset.labels("train", "2023-08")
    wrong = sum(
        int((mask.read(item.row, item.col, 64, 64) != ground(places[int(item.path.stem[1:])])[1])
            .sum()) for item in source.placed
    )  # fmt: skip
    return told(glacier("check", tmp_path), says="tiles lie up to", right=wrong == 0)


@trap(17, "masks of 20 m on tiles of 10 m, each tile on a lattice of its own", "warned")
def test_coarse_masks(tmp_path: Path, glacier: Command) -> str:
    places = tiles(tmp_path, (0, 0.45, -0.31))
    expected = {}
    for number, at in enumerate(places):
        coarse = ground(at @ Affine.scale(2), 32)[1]
        write(tmp_path / f"l/p{number}.tif", coarse, at @ Affine.scale(2), nodata=None)
        expected[f"p{number}.tif"] = coarse.repeat(2, 0).repeat(2, 1)
    manifest(tmp_path, "{images: i/*.tif, labels: l/*.tif}")
    dataset = open_dataset(tmp_path)
    source, mask = dataset.source("train", "2023-08"), dataset.labels("train", "2023-08")
    right = all(
        np.array_equal(mask.read(item.row + 1, item.col + 1, 62, 62),
                       expected[item.path.name][1:-1, 1:-1]) for item in source.placed
    )  # fmt: skip
    says = r"p0\.tif: lies on another grid than its image \(its pixels are 20 wide, not 10\)"
    return told(glacier("check", tmp_path), says=says, right=right)


@trap(17, "a mask in another CRS than its scene", "warned")
def test_mask_in_another_crs(tmp_path: Path, glacier: Command) -> str:
    from rasterio.warp import Resampling, calculate_default_transform, reproject

    image, truth = ground(AT, 256)
    write(tmp_path / "s.tif", image)
    bounds = (AT.c, AT.f - 2560, AT.c + 2560, AT.f)
    there, width, height = calculate_default_transform(CRS, "EPSG:32622", 256, 256, *bounds)
    moved = np.full((height, width), 255, np.uint8)
    reproject(truth, moved, src_transform=AT, src_crs=CRS, dst_transform=there,
              dst_crs="EPSG:32622", resampling=Resampling.nearest, dst_nodata=255)  # fmt: skip
    write(tmp_path / "m.tif", moved, there, "EPSG:32622", 255)
    manifest(tmp_path, "{images: s.tif, labels: m.tif}")
    right = iou(labels(tmp_path), truth) > 0.97
    says = r"m\.tif: lies on another grid than its image \(its CRS is EPSG:32622, not EPSG:32623\)"
    return told(glacier("check", tmp_path), says=says, right=right)


@trap(17, "a mask half a pixel off its scene", "warned")
def test_mask_half_a_pixel_off(tmp_path: Path, glacier: Command) -> str:
    image, truth = ground(AT, 256)
    write(tmp_path / "s.tif", image)
    write(tmp_path / "m.tif", truth, AT @ Affine.translation(0.5, 0.5), nodata=None)
    manifest(tmp_path, "{images: s.tif, labels: m.tif}")
    right = iou(labels(tmp_path), truth) > 0.97
    says = r"m\.tif: lies on another grid.*0\.50 columns.*shift it by half a pixel"
    return told(glacier("check", tmp_path), says=says, right=right)


@trap(17, "tiles of a hundred kilometres", "warned")
def test_far_apart(tmp_path: Path, glacier: Command) -> str:
    places = tiles(tmp_path)
    for number, far in enumerate((40_000.0, 100_000.0), 16):
        at = Affine(10, 0, AT.c + far + 3, 0, -10, AT.f - far / 2)
        image, truth = ground(at)
        write(tmp_path / f"i/p{number}.tif", image, at)
        write(tmp_path / f"l/p{number}.tif", truth, at, nodata=None)
        places.append(at)
    manifest(tmp_path, "{images: i/*.tif, labels: l/*.tif}")
    right = faults(tmp_path, places) == 0
    says = r"p17\.tif: lies 11\d\d\d px off the other patches"
    outcome = told(glacier("check", tmp_path), says=says, right=right)
    done = glacier("train", tmp_path, "threshold", tmp_path / "m", *CUT)
    return max(outcome, told(done, says="2 of 18 tiles lie", right=(tmp_path / "m").is_dir()))


@trap(17, "predict: tiles up to half a pixel off each other", "warned")
def test_map_of_loose_tiles(tmp_path: Path, predict: Command) -> str:
    import rasterio

    tiles(tmp_path, (0, 0.45, -0.31))
    done = predict(tmp_path / "i")
    (path,) = (tmp_path / "out").glob("*_class.tif")
    with rasterio.open(path) as file:
        found, at = file.read(1), file.transform
    row, col = np.mgrid[: found.shape[0], : found.shape[1]] + 0.5
    away = np.hypot(at.c + col * 10 - CENTRE[0], at.f - row * 10 - CENTRE[1]) - RADIUS
    # Half a pixel along both axes, and what a pixel covers.
    sure = (abs(away) > 10 * (0.75 + 0.75)) & (found != 255)
    right = bool((found == (away < 0))[sure].all()) and (found != 255).mean() > 0.95
    return told(done, says=r"tiles lie up to 0\.45 px off the pixels of p0\.tif", right=right)


@trap(17, "predict: tiles .09 px off each other", "right")
def test_map_of_tiles(tmp_path: Path, predict: Command) -> str:
    import rasterio

    tiles(tmp_path, (0, 0.09, -0.05))
    done = predict(tmp_path / "i")
    (path,) = (tmp_path / "out").glob("*_class.tif")
    with rasterio.open(path) as file:
        right = iou(file.read(1), ground(AT, 256)[1]) > 0.99
    return told(done, right=right)


@trap(17, "tiles of two UTM zones in one area", "refused")
def test_two_zones(tmp_path: Path, glacier: Command) -> str:
    tiles(tmp_path, count=4)
    write(tmp_path / "i/z.tif", ground(AT)[0], crs="EPSG:32622")
    manifest(tmp_path, "{images: i/*.tif, labels: l/*.tif}")
    says = r"z\.tif: its CRS \(EPSG:32622\) is not that of p0\.tif.*make them separate areas"
    return told(glacier("check", tmp_path), says=says)


@trap(17, "tiles of 10 and of 20 m in one area", "refused")
def test_two_resolutions(tmp_path: Path, glacier: Command) -> str:
    tiles(tmp_path, count=4)
    write(tmp_path / "i/z.tif", ground(AT)[0], AT @ Affine.scale(2))
    manifest(tmp_path, "{images: i/*.tif, labels: l/*.tif}")
    says = r"z\.tif: its pixel is 20, that of p0\.tif is 10.*make them separate areas"
    return told(glacier("check", tmp_path), says=says)


@trap(17, "two areas in two UTM zones, tiles of both off their lattices", "warned")
def test_areas_in_two_zones(tmp_path: Path, glacier: Command) -> str:
    places = tiles(tmp_path, (0, 0.4))
    image, truth = ground(AT, 256)
    write(tmp_path / "far/s.tif", image, crs="EPSG:32622")
    write(tmp_path / "far/m.tif", truth, AT @ Affine.translation(0.1, 0), "EPSG:32622", None)
    manifest(tmp_path, "{images: i/*.tif, labels: l/*.tif}")
    with (tmp_path / "dataset.yaml").open("a", encoding="utf-8") as file:
        file.write("  test:\n    2023-08: {images: far/s.tif, labels: far/m.tif}\n")
    right = faults(tmp_path, places) == 0
    right &= np.array_equal(labels(tmp_path, "test"), truth)
    outcome = told(glacier("check", tmp_path), says="8 of 16 tiles lie", right=right)
    done = glacier("train", tmp_path, "threshold", tmp_path / "m", *CUT)
    return max(outcome, told(done, says="8 of 16 tiles lie", right=(tmp_path / "m").is_dir()))


@trap(17, "one file a band, .05 px off each other", "right")
def test_bands_a_little_off(tmp_path: Path, predict: Command) -> str:
    image, truth = ground(AT, 256)
    for number, name in enumerate(("B04", "B03", "B02", "B08")):
        at = AT @ Affine.translation(0.05 * number, -0.02 * number)
        write(tmp_path / f"i/s_{name}.tif", image[number], at)
    done = predict(tmp_path / "i")
    (path,) = (tmp_path / "out").glob("*_class.tif")
    import rasterio

    with rasterio.open(path) as file:
        right = iou(file.read(1), truth) > 0.99
    return told(done, right=right)
