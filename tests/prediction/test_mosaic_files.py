"""Mosaics of rasters that overlap, as VRT files."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.prediction.mosaic import write_vrt
from glacier_utils.prediction.scenes import CLASS_COLOURMAP
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import write_raster

UTM = CRS.from_epsg(32623)


def place(col: int, row: int, height: int, width: int, pixel: float = 10.0, crs=UTM) -> Grid:
    transform = Affine(pixel, 0, 500_000 + 10 * col, 0, -pixel, 6_800_000 - 10 * row)
    return Grid(crs, transform, height, width)


def write_class(path: Path, array: np.ndarray, grid: Grid) -> Path:
    return write_raster(path, array.astype(np.uint8), grid, nodata=255, colormap=CLASS_COLOURMAP)


def test_the_first_counts_away_from_its_rim_and_nodata_gives_way(tmp_path):
    one, two = np.full((40, 60), 1), np.full((40, 60), 2)
    one[:, 45:48] = 255
    paths = [
        write_class(tmp_path / "one.tif", one, place(0, 0, 40, 60)),
        write_class(tmp_path / "b & <c>" / "two.tif", two, place(40, 10, 40, 60)),
    ]
    with rasterio.open(write_vrt(tmp_path / "all.vrt", paths, margin=5)) as file:
        mosaic = file.read(1)
        assert file.nodata == 255
        assert file.colormap(1)[1] == CLASS_COLOURMAP[1]
    assert mosaic.shape == (50, 100)
    overlap = mosaic[10:40, 40:60]
    # The core of the first ends 5 px from its right and lower side.
    assert (overlap[:25, :5] == 1).all()
    assert (overlap[:25, 5:8] == 2).all()  # nodata of the first
    assert (overlap[5:25, 8:15] == 1).all()
    # On the rim of the first, the core of the second counts.
    assert (overlap[5:, 15:] == 2).all()
    # On the rim of both, the first again.
    assert (overlap[:5, 15:] == 1).all()
    assert (mosaic[:10, 60:] == 255).all()
    assert (mosaic[40:, :40] == 255).all()


@settings(max_examples=25)
@given(data=st.data())
def test_a_mosaic_is_the_pixels_in_order(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("mosaic")
    draw, random = data.draw, np.random.default_rng(0)
    paths, expected = [], np.full((140, 140), 255)
    frames = []
    margin = draw(st.integers(0, 12))
    for number in range(draw(st.integers(1, 4))):
        size = st.integers(9, 60)
        row, col = draw(st.integers(0, 70)), draw(st.integers(0, 70))
        height, width = draw(size), draw(size)
        array = random.choice([0, 1, 255], (height, width))
        path = folder / f"{number}.tif"
        paths.append(write_class(path, array, place(col, row, height, width)))
        frames.append((row, col, array))
    for row, col, array in reversed(frames):
        _lay(expected, row, col, array)
    for row, col, array in reversed(frames):
        if margin:
            inner = np.full(array.shape, 255)
            rows, cols = (min(margin, side // 4) for side in array.shape)
            part = np.s_[rows : array.shape[0] - rows, cols : array.shape[1] - cols]
            inner[part] = array[part]
            _lay(expected, row, col, inner)
    with rasterio.open(write_vrt(folder / "all.vrt", paths, margin=margin)) as file:
        col = round((file.transform.c - 500_000) / 10)
        row = round((6_800_000 - file.transform.f) / 10)
        found = expected[row : row + file.height, col : col + file.width]
        np.testing.assert_array_equal(file.read(1), found)
        expected[row : row + file.height, col : col + file.width] = 255
    assert (expected == 255).all()


def _lay(mosaic: np.ndarray, row: int, col: int, array: np.ndarray) -> None:
    part = mosaic[row : row + array.shape[0], col : col + array.shape[1]]
    part[array != 255] = array[array != 255]


def test_the_folder_can_be_moved_and_scale_is_kept(tmp_path):
    path = tmp_path / "here" / "p.tif"
    path.parent.mkdir()
    about = {"crs": UTM, "transform": place(0, 0, 30, 30).transform, "nodata": 255}
    with rasterio.open(
        path, "w", driver="GTiff", width=30, height=30, count=1, dtype="uint8", **about
    ) as file:
        file.write(np.full((1, 30, 30), 125, np.uint8))
        file.scales, file.offsets = [0.004], [0.0]
    write_vrt(tmp_path / "here" / "all.vrt", [path])
    shutil.move(tmp_path / "here", tmp_path / "there")
    with rasterio.open(tmp_path / "there" / "all.vrt") as file:
        assert file.scales == (0.004,)
        assert (file.read(1) == 125).all()
        assert file.crs == UTM


def test_rasters_of_another_pixel_size_and_lattice_are_laid_by_nearest_neighbour(tmp_path):
    fine = write_class(tmp_path / "fine.tif", np.ones((20, 20)), place(0, 0, 20, 20))
    coarse = write_class(tmp_path / "coarse.tif", np.zeros((20, 20)), place(20, 0, 20, 20, 20.0))
    with rasterio.open(write_vrt(tmp_path / "all.vrt", [fine, coarse])) as file:
        mosaic = file.read(1)
        assert file.res == (10, 10)
    assert mosaic.shape == (40, 60)
    assert (mosaic[:20, :20] == 1).all()
    assert (mosaic[:, 20:] == 0).all()


def test_gdalinfo_reads_it(tmp_path):
    if shutil.which("gdalinfo") is None:
        pytest.skip("gdalinfo is not installed (apt-get install gdal-bin)")
    path = write_class(tmp_path / "a.tif", np.ones((30, 30)), place(0, 0, 30, 30))
    mosaic = write_vrt(tmp_path / "all.vrt", [path])
    told = json.loads(
        subprocess.run(
            ["gdalinfo", "-json", "-checksum", mosaic], check=True, capture_output=True, text=True
        ).stdout
    )
    assert told["bands"][0]["noDataValue"] == 255
    assert told["bands"][0]["colorInterpretation"] == "Palette"
    assert told["bands"][0]["colorTable"]["entries"][1] == list(CLASS_COLOURMAP[1])
    assert told["geoTransform"] == [500_000, 10, 0, 6_800_000, 0, -10]
    assert told["files"][1].endswith("a.tif")
    assert told["bands"][0]["checksum"] > 0


def test_what_does_not_belong_together_is_refused_and_leaves_nothing(tmp_path):
    one = write_class(tmp_path / "one.tif", np.ones((20, 20)), place(0, 0, 20, 20))
    zone = place(0, 0, 20, 20, crs=CRS.from_epsg(32624))
    other = write_class(tmp_path / "other.tif", np.ones((20, 20)), zone)
    plain = write_raster(tmp_path / "plain.tif", np.ones((20, 20), np.uint8), place(0, 0, 20, 20))
    for second, wrong in ((other, "CRS EPSG:32624"), (plain, "nodata, scale or colours")):
        with pytest.raises(GlacierError, match=wrong):
            write_vrt(tmp_path / "all.vrt", [one, second])
    with pytest.raises(GlacierError, match="at least one"):
        write_vrt(tmp_path / "all.vrt", [])
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".tif"] * 3
