"""Bytes on the disk to cloud-optimised GeoTIFFs: what goes in comes out, with valid overviews."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rio_cogeo import cog_validate

from glacier_utils.errors import GlacierError
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import BLOCK, Layer, _halved, cog_from_bytes

CLASS = Layer("class", colours={0: (1, 2, 3, 255), 1: (9, 8, 7, 255)})
PROBABILITY = Layer("probability", scale=0.004, average=True, tags={"MODEL": "a <b> & 'c'\x00"})


def grid(height: int, width: int, crs: str | None = "EPSG:32623") -> Grid:
    place = Affine(10, 0, 5e5, 0, -10, 68e5)
    return Grid(None if crs is None else CRS.from_string(crs), place, height, width)


def write(folder, values: np.ndarray, layer: Layer, crs: str | None = "EPSG:32623"):
    (folder / "work").mkdir(exist_ok=True)
    raw = folder / "work" / "map.raw"
    values.tofile(raw)
    path = cog_from_bytes(raw, folder / "map.tif", grid(*values.shape, crs), layer)
    assert [item.name for item in raw.parent.iterdir()] == ["map.raw"]
    return path


@pytest.mark.parametrize("shape", [(1, 1), (100, 130), (513, 20), (1100, 1537)])
@pytest.mark.parametrize("layer", [CLASS, PROBABILITY], ids=["class", "probability"])
def test_a_valid_cog_gives_back_every_byte(tmp_path, shape, layer):
    values = np.random.default_rng(0).integers(0, 251, shape, dtype=np.uint8)
    values[: shape[0] // 3] = 255
    path = write(tmp_path, values, layer)
    valid, errors, warnings = cog_validate(path, strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), values)
        assert file.crs == "EPSG:32623"
        assert file.transform == Affine(10, 0, 5e5, 0, -10, 68e5)
        assert (file.nodata, file.descriptions) == (255, (layer.description,))
        assert len(file.overviews(1)) == max(0, int(np.ceil(np.log2(max(shape) / BLOCK))))
        if layer is PROBABILITY:
            assert file.scales == (0.004,)
            assert file.tags()["MODEL"] == "a <b> & 'c' "
        else:
            assert file.colormap(1)[1] == (9, 8, 7, 255)


def test_overviews_are_means_of_what_is_known_and_classes_are_not_mixed(tmp_path):
    values = np.zeros((600, 1200), np.uint8)
    values[::2, ::2], values[1::2, 1::2] = 100, 255
    for layer, expected in ((PROBABILITY, 33), (CLASS, 100)):
        path = write(tmp_path, values, layer)
        with rasterio.open(path, overview_level=0) as file:
            assert file.shape == (300, 600)
            assert (file.read(1) == expected).all()


@settings(max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_halving_takes_the_mean_of_the_known_pixels(height, width, random):
    values = np.array(
        [[random.choice([0, 10, 200, 255]) for _ in range(width)] for _ in range(height)], np.uint8
    )
    halved = _halved(values, PROBABILITY)
    assert halved.shape == (-(-height // 2), -(-width // 2))
    for row, line in enumerate(halved):
        for col, value in enumerate(line):
            part = values[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            known = part[part != 255].astype(float)
            assert value == 255 if known.size == 0 else abs(value - known.mean()) <= 0.51


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_map_without_crs_is_written_too(tmp_path):
    path = write(tmp_path, np.ones((30, 40), np.uint8), CLASS, crs=None)
    with rasterio.open(path) as file:
        assert file.crs is None
        assert (file.read(1) == 1).all()


def test_where_writing_fails_nothing_is_left_and_the_old_file_stays(tmp_path):
    """A limit on the size of files stands for a full disk: GDAL may notice it or not."""
    old = tmp_path / "map.tif"
    old.write_text("before")
    (tmp_path / "work").mkdir()
    np.random.default_rng(0).integers(0, 255, (900, 900), dtype=np.uint8).tofile(
        tmp_path / "work" / "map.raw"
    )
    code = f"""
import resource, signal
from pathlib import Path
from test_cogs import CLASS, grid
from glacier_utils.cogs import cog_from_bytes
from glacier_utils.errors import GlacierError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
folder = Path({str(tmp_path)!r})
try:
    cog_from_bytes(folder / "work" / "map.raw", folder / "map.tif", grid(900, 900), CLASS)
except GlacierError as error:
    print("told:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    ).stdout
    assert "told:" in done
    assert "map.tif: could not be written" in done
    assert "run again" in done
    assert old.read_text() == "before"
    assert [item.name for item in (tmp_path / "work").iterdir()] == ["map.raw"]


def test_a_file_that_does_not_hold_what_was_written_is_an_error(tmp_path, monkeypatch):
    values = np.ones((200, 200), np.uint8)
    copy = rasterio.shutil.copy

    def spoil(source, target, **options):
        copy(source, target, **options)
        with rasterio.open(target) as file:
            profile = file.profile
        with rasterio.open(target, "w", **profile) as file:
            file.write(values * 2, 1)

    monkeypatch.setattr(rasterio.shutil, "copy", spoil)
    with pytest.raises(GlacierError, match="does not hold what was written"):
        write(tmp_path, values, CLASS)
    assert not (tmp_path / "map.tif").exists()
