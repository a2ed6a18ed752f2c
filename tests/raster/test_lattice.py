"""Files of one image on one lattice, or beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import Header
from glacier_utils.raster.lattice import Frame, lay_out, nearest_pixel
from glacier_utils.raster.mask import open_mask, place_masks, stored_values

UTM = CRS.from_epsg(32623)


def header(name: str, col: float, row: float = 0.0, pixel: float = 10.0, size: int = 8) -> Header:
    """Return the header of a file so many pixels of 10 m from the corner."""
    transform = Affine(pixel, 0, 1000 + 10 * col, 0, -pixel, 2000 - 10 * row)
    return Header(Path(name), Grid(UTM, transform, size, size), True, 1, "uint8")


def test_files_lie_on_the_nearest_pixel():
    headers = [header("a", 0), header("b", 8.2), header("c", 15.6), header("d", 24.5, 0.45)]
    grid, placed = lay_out(headers)
    assert [(item.row, item.col) for item in placed] == [(0, 0), (0, 8), (0, 16), (0, 24)]
    assert grid.shape == (8, 32)
    loose = Frame(grid, placed).loose()
    assert loose == pytest.approx({Path("c"): 0.4, Path("d"): 0.5})
    assert [item.grid for item in placed] == [one.grid for one in headers]


def test_the_middle_of_a_file_of_other_pixels_is_in_place():
    # 100 pixels of 10.08 m: the middle is laid 0.4 px off, so that the far end is 0.8 px off.
    other = header("b", 16, pixel=10.08, size=100)
    grid, placed = lay_out([header("a", 0), other])
    assert Frame(grid, placed).loose() == pytest.approx({Path("b"): 0.8})
    assert nearest_pixel(grid, header("c", 3.3, 1.8).grid) == (2, 3)


def test_pixels_may_differ_by_one_per_cent():
    lay_out([header("a", 0), header("b", 8, pixel=10.09)])
    with pytest.raises(GlacierError, match=r"b: its pixel is 10\.2, that of a is 10;.*areas"):
        lay_out([header("a", 0), header("b", 8, pixel=10.2)])


def test_masks_lie_on_the_tile_that_they_were_drawn_on():
    grid, placed = lay_out([header("a", 0), header("b", 8.45), header("c", 16)])
    image = Frame(grid, placed)
    found = place_masks([header("m", 8.5, 0.1), header("n", 15.9)], grid, image)
    assert [(item.path.name, item.row, item.col) for item in found] == [("m", 0, 8), ("n", 0, 16)]
    # Of no tile, and the tiles share no lattice.
    assert place_masks([header("m", 4)], grid, image) is None
    regular = Frame(*lay_out([header("a", 0), header("b", 8)]))
    assert place_masks([header("m", 4.1)], regular.grid, regular)[0].col == 4
    assert place_masks([header("m", 4.4)], regular.grid, regular) is None


@pytest.mark.parametrize(
    ("mask", "image"),
    [
        ("labels/p1.png", "images/p1.tif"),
        ("labels/b/p1.png", "images/b/p1.tif"),
        ("labels/b/c/p1_mask.png", "images/b/c/p1.tif"),
        ("labels/mask_p2.png", "images/img_p2.tif"),
    ],
)
def test_masks_are_found_by_folder_and_name(mask, image):
    names = ["images/p1.tif", "images/b/p1.tif", "images/b/c/p1.tif", "images/img_p2.tif"]
    headers = [header(name, 8 * number) for number, name in enumerate(names)]
    grid, placed = lay_out(headers)
    bare = Header(Path(mask), Grid(None, Affine(1, 0, 0, 0, -1, 0), 8, 8), False, 1, "uint8")
    (found,) = place_masks([bare], grid, Frame(grid, placed))
    assert found.col == 8 * names.index(image)


def test_what_masks_hold(tmp_path, write_tif):
    grid = Grid(UTM, Affine(10, 0, 450_000, 0, -10, 6_780_000), 2, 2)
    label = np.array([[1, -9999], [1, 0]], np.int16)
    path = write_tif(tmp_path / "m.tif", label, nodata=-9999)
    assert stored_values(path) == "-9999 (nodata), 0 and 1"
    assert open_mask(path, grid, codes=(0, 1)).read().tolist() == [[1, 255], [1, 0]]
    assert open_mask(path, grid, values={"nodata": 0}).read().tolist() == [[1, 0], [1, 0]]
    assert open_mask(path, grid, values={-9999: 0, 0: 255}).read().tolist() == [[1, 0], [1, 255]]
