"""Sources of every kind read the same numbers at one place, and say what is wrong with them."""

from __future__ import annotations

import functools
import http.server
import re
import threading
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.env import get_gdal_config

from glacier_utils.errors import GlacierError
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import input_files, open_source
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import KeptOpen, write_raster
from glacier_utils.raster.mask import open_mask

RGBN = ("red", "green", "blue", "nir")
UTM = CRS.from_epsg(32623)
PLAIN = Reflectance(scale=1)


def numbered(rows: int, cols: int, bands: int = 4) -> np.ndarray:
    """Give every pixel of every band a number of its own."""
    return np.arange(1, bands * rows * cols + 1, dtype=np.uint16).reshape(bands, rows, cols)


def cut(scene, write_tif, folder, size, name="p_r{row:02d}_c{col:02d}.tif", skip=(), **options):
    """Cut a scene into patches of ``size`` x ``size``."""
    for row in range(scene.shape[1] // size):
        for col in range(scene.shape[2] // size):
            if (row, col) not in skip:
                piece = scene[:, row * size : (row + 1) * size, col * size : (col + 1) * size]
                path = folder / name.format(row=row, col=col, y=row * size, x=col * size)
                write_tif(path, piece, row * size, col * size, **options)
    return folder


@pytest.fixture
def bare(write_tif):
    """Write without any georeference."""

    def write(path, array, *_, **__):
        return write_tif(path, array, crs=None, transform=Affine.identity())

    return write


# --- scenes


def test_scene_reads_the_window_asked_for(tmp_path, write_tif):
    scene = numbered(7, 11)
    source = open_source(write_tif(tmp_path / "s.tif", scene), bands=RGBN, reflectance=PLAIN)
    image = source.read(2, 5, 3, 4)
    assert image.reflectance.dtype == np.float32
    np.testing.assert_array_equal(image.reflectance, scene[:, 2:5, 5:9])
    assert image.valid.all()
    assert image.bands == source.bands == RGBN
    assert image.grid == source.grid.window(2, 5, 3, 4)
    assert source.read().reflectance.shape == (4, 7, 11)
    assert source.tiles == []


@settings(max_examples=40, deadline=None)
@given(
    row=st.integers(-6, 12), col=st.integers(-6, 12), height=st.integers(1, 14),
    width=st.integers(1, 14),
)  # fmt: skip
def test_any_window_is_padded_with_invalid(tmp_path_factory, row, col, height, width):
    scene = numbered(5, 9, 1)
    path = tmp_path_factory.mktemp("w") / "s.tif"
    write_raster(path, scene, Grid(UTM, Affine(10, 0, 0, 0, -10, 0), 5, 9))
    padded = np.zeros((5 + 44, 9 + 44))
    padded[20:25, 20:29] = scene[0]
    image = open_source(path, bands=["red"], reflectance=PLAIN).read(row, col, height, width)
    expected = padded[20 + row : 20 + row + height, 20 + col : 20 + col + width]
    np.testing.assert_array_equal(image.reflectance[0], expected)
    np.testing.assert_array_equal(image.valid, expected > 0)


def test_reflectance_is_number_plus_offset_over_scale(tmp_path, write_tif):
    path = write_tif(tmp_path / "s.tif", np.array([[1000, 3000, 0]], np.uint16))
    image = open_source(path, bands=["red"], reflectance=Reflectance(10000, -1000, nodata=0)).read()
    np.testing.assert_allclose(image.reflectance[0, 0], [0, 0.2, 0])
    assert image.valid.tolist() == [[True, True, False]]


def test_plain_numbers_need_only_a_scale(tmp_path, write_tif):
    path = write_tif(tmp_path / "s.tif", np.array([[0, 51, 255]], np.uint8))
    image = open_source(path, bands=["red"], reflectance=Reflectance(scale=255)).read()
    np.testing.assert_allclose(image.reflectance[0, 0], [0, 0.2, 1], rtol=1e-6)
    assert image.valid.all()


def test_nodata_of_the_file_counts_beside_that_of_the_manifest(tmp_path, write_tif):
    array = np.array([[-9999, 500], [700, 900]], np.int16)
    path = write_tif(tmp_path / "s.tif", array, nodata=-9999)
    assert open_source(path, bands=["red"]).read().valid.tolist() == [[False, True], [True, True]]
    named = open_source(path, bands=["red"], reflectance=Reflectance(nodata=500)).read()
    assert named.valid.tolist() == [[False, False], [True, True]]


def test_nodata_that_can_be_measured_must_be_in_all_bands(tmp_path, write_tif):
    # Dark water has a near infrared of 0 in Sentinel-2 products without offset.
    path = write_tif(tmp_path / "s.tif", np.array([[[0, 0, 9]], [[0, 7, 9]]], np.uint16))

    def valid(reflectance):
        return open_source(path, bands=["nir", "red"], reflectance=reflectance).read().valid

    assert valid(Reflectance(nodata=0)).tolist() == [[False, True, True]]
    assert valid(Reflectance(offset=-1000, nodata=0)).tolist() == [[False, False, True]]
    assert valid(Reflectance(scale=255, nodata=0)).tolist() == [[False, True, True]]


def test_a_pixel_is_invalid_in_every_band_if_it_is_in_one(tmp_path, write_tif):
    array = np.full((4, 1, 2), 5, np.float32)
    array[2, 0, 1] = np.nan
    image = open_source(write_tif(tmp_path / "s.tif", array), bands=RGBN, reflectance=PLAIN).read()
    assert image.valid.tolist() == [[True, False]]
    assert (image.reflectance[:, 0, 1] == 0).all()


def test_bands_picked_by_number(tmp_path, write_tif):
    scene = numbered(3, 4, 8)
    source = open_source(
        write_tif(tmp_path / "s.tif", scene), bands={"red": 4, "nir": 8, "blue": 2},
        reflectance=PLAIN,
    )  # fmt: skip
    assert source.bands == ("red", "nir", "blue")
    np.testing.assert_array_equal(source.read().reflectance, scene[[3, 7, 1]])


# --- bounds


def test_bounds_snap_to_pixels_and_close_the_frame(tmp_path, write_tif):
    scene = numbered(10, 12, 1)
    path = write_tif(tmp_path / "s.tif", scene)
    xmin, ymax = 450_000, 6_780_000
    bounds = [xmin + 31, ymax - 78, xmin + 79, ymax - 22]
    source = open_source(path, bands=["red"], reflectance=PLAIN, bounds=bounds)
    assert source.grid.shape == (6, 5)
    np.testing.assert_array_equal(source.read().reflectance, scene[:, 2:8, 3:8])
    # What lies beyond the bounds belongs to another area and must not be seen.
    assert source.read(-1, -1, 8, 7).valid.sum() == 30


def test_bounds_larger_than_the_scene_keep_all_of_it(tmp_path, write_tif):
    path = write_tif(tmp_path / "s.tif", numbered(4, 5, 1))
    source = open_source(path, bands=["red"], bounds=[0, 0, 1e7, 1e7])
    assert source.grid.shape == (4, 5)


def test_bounds_outside_the_scene(tmp_path, write_tif):
    path = write_tif(tmp_path / "s.tif", numbered(4, 5, 1))
    with pytest.raises(GlacierError, match="lie outside the image"):
        open_source(path, bands=["red"], bounds=[0, 0, 10, 10])


# --- one file per band


@pytest.mark.parametrize(
    "names",
    [
        ("T22_B04_10m.tif", "T22_B03_10m.tif", "T22_B02_10m.tif", "T22_B08_10m.tif"),
        ("x_B4.tif", "x_B3.tif", "x_B2.tif", "x_B8A.tif"),
        ("red.tif", "green.tif", "blue.tif", "NIR.tif"),
    ],
)
def test_band_files_recognised_by_name(tmp_path, write_tif, names):
    scene = numbered(5, 6)
    for name, band in zip(names, scene, strict=True):
        write_tif(tmp_path / name, band)
    write_tif(tmp_path / "T22_B11_10m.tif", scene[0] * 0)
    write_tif(tmp_path / "T22_SCL_10m.tif", scene[0] * 0)
    source = open_source(tmp_path, bands=RGBN, reflectance=PLAIN)
    np.testing.assert_array_equal(source.read().reflectance, scene)
    assert [path.name for path in source.paths] == list(names)
    assert source.tiles == []


def test_band_08_is_better_than_8a(tmp_path, write_tif):
    for number, name in enumerate(("B8A", "B08", "B04"), start=1):
        write_tif(tmp_path / f"s_{name}.tif", np.full((2, 2), number, np.uint8))
    image = open_source(tmp_path, bands=["red", "nir"], reflectance=PLAIN).read()
    assert image.reflectance[:, 0, 0].tolist() == [3, 2]


def test_bands_spread_over_files(tmp_path, write_tif):
    scene = numbered(5, 6)
    write_tif(tmp_path / "s_RGB.tif", scene[:3])
    write_tif(tmp_path / "s_B4.tif", scene[3])
    bands = {
        "nir": "*_B4.tif",
        "red": {"file": "*_RGB.tif", "band": 1},
        "blue": {"file": "*_RGB.tif", "band": 3},
    }
    source = open_source(tmp_path, bands=bands, reflectance=PLAIN)
    np.testing.assert_array_equal(source.read().reflectance, scene[[3, 0, 2]])
    image = source.read(-1, 4, 3, 3)
    np.testing.assert_array_equal(image.reflectance[:, 1:, :2], scene[[3, 0, 2], :2, 4:])


def test_pattern_without_wildcards_is_a_piece_of_the_name(tmp_path, write_tif):
    for name in ("L30_B04_x.tif", "L30_B05_x.tif"):
        write_tif(tmp_path / name, np.full((2, 2), int(name[5:7]), np.uint8))
    bands = {"red": "B04", "nir": "B05"}
    image = open_source(tmp_path, bands=bands, reflectance=PLAIN).read()
    assert image.reflectance[:, 0, 0].tolist() == [4, 5]


def test_jpeg2000_bands(tmp_path):
    scene = (numbered(16, 24) * 7).astype(np.uint16)
    for name, band in zip(("B04", "B03", "B02", "B08"), scene, strict=True):
        with rasterio.open(
            tmp_path / f"T_{name}.jp2", "w", driver="JP2OpenJPEG", height=16, width=24, count=1,
            dtype="uint16", crs=UTM, transform=Affine(10, 0, 0, 0, -10, 0), QUALITY=100,
            REVERSIBLE="YES",
        ) as dataset:  # fmt: skip
            dataset.write(band, 1)
    source = open_source(tmp_path, bands=RGBN, reflectance=PLAIN)
    np.testing.assert_array_equal(source.read(3, 5, 6, 7).reflectance, scene[:, 3:9, 5:12])


# --- tags of scale and offset


def tag(path, scale, offset):
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (scale,) * dataset.count, (offset,) * dataset.count
    return path


def test_tags_of_the_file_are_used_where_nothing_else_speaks(tmp_path, write_tif):
    path = tag(write_tif(tmp_path / "s.tif", np.array([[1000, 3000, 0]], np.uint16)), 1e-4, -0.1)
    for stated in (None, Reflectance(), Reflectance(nodata=0)):
        source = open_source(path, bands=["red"], reflectance=stated)
        assert source.reflectance_source == "file tags"
        assert (source.reflectance.scale, source.reflectance.offset) == (10000, -1000)
        assert list(source.warnings) == []
        np.testing.assert_allclose(source.read().reflectance[0, 0, :2], [0, 0.2], atol=1e-7)
    assert source.read().valid.tolist() == [[True, True, False]]
    source = open_source(path, bands=["red"], reflectance=Reflectance(5000))
    assert source.reflectance_source == "manifest"
    assert source.read().reflectance[0, 0, 1] == pytest.approx(0.6)
    assert "s.tif: the file's tags say scale 10000 and offset -1000" in source.warnings[0]
    assert "`reflectance` says scale 5000 and offset 0" in source.warnings[0]
    agreed = open_source(path, bands=["red"], reflectance=Reflectance(10000, -1000))
    assert agreed.warnings == []


def test_without_tags_and_words_there_is_the_default(tmp_path, write_tif):
    path = write_tif(tmp_path / "s.tif", np.array([[1000, 3000]], np.uint16))
    source = open_source(path, bands=["red"])
    assert (source.reflectance_source, list(source.warnings)) == ("default", [])
    assert source.read().reflectance[0, 0].tolist() == pytest.approx([0.1, 0.3])


def test_tags_differ_from_file_to_file(tmp_path, write_tif):
    for col, (scale, offset) in enumerate([(1e-4, 0), (1e-4, -0.1), (2e-4, 0)]):
        array = np.full((2, 2), 2000, np.uint16)
        tag(write_tif(tmp_path / f"p_{col}.tif", array, 0, 2 * col), scale, offset)
    source = open_source(tmp_path, bands=["red"])
    assert source.read().reflectance[0, 0, ::2].tolist() == pytest.approx([0.2, 0.1, 0.4])
    write_tif(tmp_path / "p_3.tif", array, 0, 6)
    with pytest.raises(GlacierError, match=r"p_3.tif: has no scale and offset tags while p_0.tif"):
        open_source(tmp_path, bands=["red"])
    assert open_source(tmp_path, bands=["red"], reflectance=Reflectance(1)).warnings


def test_tags_that_make_no_reflectance(tmp_path, write_tif):
    path = tag(write_tif(tmp_path / "s.tif", np.ones((2, 2), np.uint16)), -1.0, 0.0)
    with pytest.raises(GlacierError, match=r"s.tif: its tags say scale -1"):
        open_source(path, bands=["red"]).read()


# --- archives and the web


def zip_of(path, folder, names=None):
    with zipfile.ZipFile(path, "w") as archive:
        for item in sorted(folder.rglob("*.*")):
            name = (names or {}).get(item.name, item.relative_to(folder).as_posix())
            archive.writestr(zipfile.ZipInfo(name), item.read_bytes())
    return path


def test_patches_in_an_archive(tmp_path, write_tif):
    scene = numbered(8, 12)
    cut(scene, write_tif, tmp_path / "in" / "sub", 4)
    archive = zip_of(tmp_path / "patches.zip", tmp_path / "in")
    (tmp_path / "in").rename(tmp_path / "away")
    for images in (
        archive, f"/vsizip/{archive}", f"/vsizip/{archive}/sub", f"/vsizip/{{{archive}}}/sub",
        f"/vsizip/{archive}/sub/p_*.tif", str(Path(f"/vsizip/{archive}/sub/*.tif")),
        tmp_path / "*.zip",
    ):  # fmt: skip
        source = open_source(images, bands=RGBN, reflectance=PLAIN)
        np.testing.assert_array_equal(source.read().reflectance, scene)
        assert source.paths[0].name == "p_r00_c00.tif"
        assert len(source.tiles) == 6
    one = open_source(f"/vsizip/{archive}/sub/p_r01_c02.tif", bands=RGBN, reflectance=PLAIN)
    np.testing.assert_array_equal(one.read().reflectance, scene[:, 4:, 8:])
    assert input_files(archive) == [archive]


def test_band_files_and_masks_in_an_archive(tmp_path, write_tif, bare):
    scene, label = numbered(5, 6), label_of(5, 6)
    for name, band in zip(("B04", "B03", "B02", "B08"), scene, strict=True):
        write_tif(tmp_path / "in" / f"T_{name}.tif", band)
    bare(tmp_path / "masks" / "label.tif", label)
    source = open_source(zip_of(tmp_path / "b.zip", tmp_path / "in"), bands=RGBN, reflectance=PLAIN)
    np.testing.assert_array_equal(source.read().reflectance, scene)
    masks = zip_of(tmp_path / "m.zip", tmp_path / "masks")
    np.testing.assert_array_equal(open_mask(masks, source.grid, like=source).read(), label)


@pytest.mark.parametrize("name", ["../x.tif", "/x.tif", "a/../../x.tif", "C:\\x.tif", "..\\x.tif"])
def test_archive_with_a_member_outside_its_folder(tmp_path, write_tif, name):
    write_tif(tmp_path / "in" / "x.tif", numbered(4, 4))
    write_tif(tmp_path / "in" / "good.tif", numbered(4, 4))
    archive = zip_of(tmp_path / "bad.zip", tmp_path / "in", {"x.tif": name})
    # Also where only the good member is asked for.
    for images in (archive, f"/vsizip/{archive}/good.tif"):
        with pytest.raises(GlacierError, match=r"bad.zip: its member .* lies outside"):
            open_source(images, bands=RGBN)


def test_archives_that_cannot_be_read(tmp_path):
    (tmp_path / "text.zip").write_text("no archive")
    (tmp_path / "t.txt").write_text("hello")
    zip_of(tmp_path / "empty.zip", tmp_path, {"text.zip": "a.txt"})
    for images, message in [
        (tmp_path / "text.zip", r"text.zip: is no whole zip file"),
        (tmp_path / "empty.zip", r"empty.zip: the archive names no raster files"),
        (f"/vsizip/{tmp_path}/empty.zip/no.tif", r"empty.zip: 'no.tif' in it names no raster"),
        (f"/vsizip/{tmp_path}/no.zip/a.tif", "there is no such archive"),
    ]:
        with pytest.raises(GlacierError, match=message):
            open_source(images, bands=RGBN)


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves pieces of files, as web servers do, and counts the bytes."""

    served = 0

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        span = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(span[1]), int(span[2] or len(content) - 1) + 1) if span else (0, None)
        part = content[start:stop]
        type(self).served += len(part)
        self.send_response(206 if span else 200)
        if span:
            end = f"{start}-{start + len(part) - 1}/{len(content)}"
            self.send_header("Content-Range", f"bytes {end}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path):
    """Serve ``tmp_path / "web"`` on loopback; gives the address and the handler."""
    (tmp_path / "web").mkdir()
    handler = type("Handler", (_Ranges,), {"served": 0})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "web"))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def test_images_on_the_web(tmp_path, web):
    address, handler = web
    scene = np.random.default_rng(0).integers(1, 9999, (4, 1024, 1024)).astype(np.uint16)
    grid = Grid(UTM, Affine(10, 0, 450_000, 0, -10, 6_780_000), 1024, 1024)
    path = write_raster(tmp_path / "web" / "scene.tif", scene, grid)
    source = open_source(f"{address}/scene.tif", bands=RGBN, reflectance=PLAIN)
    image = source.read(600, 700, 30, 40)
    np.testing.assert_array_equal(image.reflectance, scene[:, 600:630, 700:740])
    # One block of four, and the header.
    assert 0 < handler.served < 0.6 * path.stat().st_size
    assert source.paths[0].name == "scene.tif"
    np.testing.assert_array_equal(
        open_source(f"/vsicurl/{address}/scene.tif", bands=RGBN, reflectance=PLAIN)
        .read(0, 0, 9, 9).reflectance,
        scene[:, :9, :9],
    )  # fmt: skip


def test_band_files_and_archives_on_the_web(tmp_path, web, write_tif):
    address, _ = web
    scene = numbered(5, 6)
    urls = []
    for name, band in zip(("B04", "B03", "B02", "B08"), scene, strict=True):
        write_tif(tmp_path / "web" / f"T_{name}.tif", band)
        urls.append(f"{address}/T_{name}.tif")
    source = open_source(urls, bands=RGBN, reflectance=PLAIN)
    np.testing.assert_array_equal(source.read().reflectance, scene)
    zip_of(tmp_path / "web" / "a.zip", tmp_path / "web")
    inside = f"/vsizip/vsicurl/{address}/a.zip/T_B03.tif"
    image = open_source(inside, bands=["green"], reflectance=PLAIN).read()
    np.testing.assert_array_equal(image.reflectance[0], scene[1])


def test_addresses_that_lead_nowhere(web):
    address, _ = web
    for images, message in [
        (f"{address}/no.tif", rf"^{address}/no.tif: cannot be fetched"),
        # Port 9 of this machine: nobody listens.
        ("http://127.0.0.1:9/x.tif", r"^http://127.0.0.1:9/x.tif: cannot be fetched"),
        (f"{address}/*.tif", "cannot be listed"),
        (f"{address}/a.zip", "cannot be listed"),
        (f"{address}/a//b.tif", "an empty name between two slashes"),
    ]:
        with pytest.raises(GlacierError, match=message) as caught:
            open_source(images, bands=RGBN)
        assert "\n" not in str(caught.value)


# --- patches


def test_georeferenced_patches_are_one_scene(tmp_path, write_tif):
    scene = numbered(12, 20)
    cut(scene, write_tif, tmp_path, 4, skip=[(1, 2)], name="any_{x}x{y}.tif")
    source = open_source(tmp_path, bands=RGBN, reflectance=PLAIN)
    assert source.grid.shape == (12, 20)
    image = source.read()
    expected = np.ones((12, 20), bool)
    expected[4:8, 8:12] = False
    np.testing.assert_array_equal(image.valid, expected)
    np.testing.assert_array_equal(image.reflectance, np.where(expected, scene, 0))
    part = source.read(3, 6, 6, 9)
    np.testing.assert_array_equal(part.reflectance, image.reflectance[:, 3:9, 6:15])
    assert len(source.tiles) == 14
    assert source.tiles[0] == (0, 0, 4, 4)


def test_overlapping_patches_first_valid_wins(tmp_path, write_tif):
    first = np.full((1, 4, 4), 1, np.uint8)
    first[0, :, 3] = 0
    write_tif(tmp_path / "a.tif", first, 0, 0)
    write_tif(tmp_path / "b.tif", np.full((1, 4, 4), 2, np.uint8), 0, 2)
    source = open_source(tmp_path, bands=["red"], reflectance=Reflectance(1, nodata=0))
    assert source.read().reflectance[0, 0].tolist() == [1, 1, 1, 2, 2, 2]


def test_bounds_cut_patches(tmp_path, write_tif):
    scene = numbered(8, 12)
    cut(scene, write_tif, tmp_path, 4)
    bounds = [450_000 + 20, 6_780_000 - 80, 450_000 + 60, 6_780_000 - 50]
    source = open_source(tmp_path, bands=RGBN, reflectance=PLAIN, bounds=bounds)
    np.testing.assert_array_equal(source.read().reflectance, scene[:, 5:8, 2:6])
    assert source.tiles == [(-1, -2, 4, 4), (-1, 2, 4, 4)]
    assert [path.name for path in source.paths] == ["p_r01_c00.tif", "p_r01_c01.tif"]


@pytest.mark.parametrize(
    "name",
    [
        "patch_r{row:03d}_c{col:03d}.tif",
        "train_2023-08_r{row}_c{col}.tif",
        "row{row}_col{col}_x.tif",
        "train_{row}_{col}.tif",
        "{y:04d}_{x:04d}.tif",
    ],
)
def test_patches_placed_by_row_and_column_in_the_name(tmp_path, bare, name):
    scene = numbered(24, 32)
    cut(scene, bare, tmp_path, 8, name=name)
    source = open_source(tmp_path, bands=RGBN, reflectance=PLAIN, resolution=10)
    np.testing.assert_array_equal(source.read().reflectance, scene)
    assert source.grid.crs is None
    assert source.grid.resolution == 10
    assert np.isnan(open_source(tmp_path, bands=RGBN).grid.resolution)


def test_patches_numbered_from_one_or_in_part(tmp_path, bare):
    scene = numbered(12, 12)
    cut(scene, bare, tmp_path, 4, skip=[(0, 0), (0, 1), (0, 2)])
    source = open_source(tmp_path, bands=RGBN, reflectance=PLAIN)
    np.testing.assert_array_equal(source.read().reflectance, scene[:, 4:])


# --- mistakes


# --- files kept open


def read_in_rows(source, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a source from top to bottom; reflectance and validity."""
    images = [source.read(row, 0, step) for row in range(0, source.grid.height, step)]
    return (
        np.concatenate([image.reflectance for image in images], axis=1),
        np.concatenate([image.valid for image in images]),
    )


@pytest.mark.parametrize("layout", ["scene", "band files", "patches", "arrays"])
def test_files_kept_open_give_the_same(tmp_path, write_tif, layout):
    scene = numbered(64, 64)
    if layout == "scene":
        paths, bands = write_tif(tmp_path / "scene.tif", scene), RGBN
    elif layout == "band files":
        paths, bands = tmp_path, {name: f"{name}.tif" for name in RGBN}
        for name, band in zip(RGBN, scene, strict=True):
            write_tif(tmp_path / f"{name}.tif", band[None])
    elif layout == "patches":
        paths, bands = cut(scene, write_tif, tmp_path, 8), RGBN  # 64, more than stay open
    else:
        paths, bands = tmp_path / "scene.npy", RGBN
        np.save(paths, scene)
    source = open_source(paths, bands=bands, reflectance=PLAIN)
    expected = source.read()
    with source.kept_open() as kept:
        reflectance, valid = read_in_rows(kept, 5)
    np.testing.assert_array_equal(reflectance[:, :64], expected.reflectance)
    np.testing.assert_array_equal(valid[:64], expected.valid)


def test_a_kept_file_is_opened_once_and_closed_again(tmp_path, write_tif, monkeypatch):
    source = open_source(write_tif(tmp_path / "a.tif", numbered(64, 64)), bands=RGBN)
    original, opened = rasterio.open, []
    monkeypatch.setattr(rasterio, "open", lambda *a: opened.append(original(*a)) or opened[-1])
    before = get_gdal_config("GDAL_CACHEMAX")
    with source.kept_open() as kept:
        read_in_rows(kept, 4)
        assert len(opened) == 1
        assert not opened[0].closed
    assert opened[0].closed
    assert get_gdal_config("GDAL_CACHEMAX") == before
    source.read(0, 0, 4, 4)
    assert len(opened) == 2


def test_no_more_than_sixteen_files_stay_open(tmp_path, write_tif, monkeypatch):
    source = open_source(cut(numbered(64, 64), write_tif, tmp_path, 8), bands=RGBN)
    original, opened = rasterio.open, []
    monkeypatch.setattr(rasterio, "open", lambda *a: opened.append(original(*a)) or opened[-1])
    with source.kept_open() as kept:
        for row in range(64):
            kept.read(row, 0, 1)
            assert sum(not file.closed for file in opened) <= 16
    assert len(opened) == 64  # each of them once: rows come from top to bottom
    assert all(file.closed for file in opened)


def test_decoded_blocks_take_no_more_memory_than_a_row_of_them(tmp_path):
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=4, height=1024, width=700, dtype="uint16", tiled=True,
        blockxsize=256, blockysize=512, crs=UTM, transform=Affine(10, 0, 0, 0, -10, 0),
    ):  # fmt: skip
        pass
    for width, blocks in ((None, 3), (700, 3), (200, 2)):  # 200 columns may touch two of 256
        with KeptOpen(width) as files, files.open(path) as file:
            assert file.block_shapes[0] == (512, 256)
            # Of four bands and two bytes.
            assert get_gdal_config("GDAL_CACHEMAX") == 2**24 + 512 * 256 * blocks * 4 * 2


def test_a_kept_file_that_is_gone_is_named(tmp_path, write_tif):
    path = write_tif(tmp_path / "a.tif", numbered(8, 8))
    source = open_source(path, bands=RGBN)
    path.unlink()
    with source.kept_open() as kept, pytest.raises(GlacierError, match=r"a\.tif: no such file"):
        kept.read()


def test_a_kept_file_that_is_cut_short_is_named(tmp_path, write_tif):
    path = write_tif(tmp_path / "a.tif", numbered(64, 64))
    source = open_source(path, bands=RGBN)
    path.write_bytes(path.read_bytes()[:2000])
    with source.kept_open() as kept, pytest.raises(GlacierError, match=r"a\.tif: .*cut short"):
        read_in_rows(kept, 4)


def test_missing_things(tmp_path, write_tif):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.SAFE").mkdir()
    (tmp_path / "link.tif").symlink_to(tmp_path / "gone.tif")
    write_tif(tmp_path / "s.tif", numbered(2, 2, 1))
    for images, message in [
        (tmp_path / "no.tif", "no.tif: no such file"),
        (tmp_path / "*.jp2", "matches no raster file"),
        (tmp_path / "link.tif", "no such file .a link that leads nowhere"),
        (tmp_path / "empty", "holds no raster files"),
        (tmp_path / "x.SAFE", "IMG_DATA/R10m"),
        ([], "empty list"),
    ]:
        with pytest.raises(GlacierError, match=message):
            open_source(images, bands=["red"])


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (RGBN, r"has 2 band\(s\), 4 are wanted"),
        ({"red": 3}, "band 3 is asked for"),
        ({"red": {"file": "s.tif", "band": 9}}, "band 9 is asked for as red"),
        ({"red": "s.tif"}, "has 2 bands; say which one is red"),
        ({"red": "*_B04*"}, "no file for band red matches"),
        ({"red": 1, "nir": "s.tif"}, "either all are numbers"),
        ({"red": {"fil": "s.tif"}}, r"'fil': .* is not a band number"),
        ({"red": 0}, "is not a band number"),
        ({"red": True}, "is not a band number"),
        (["red", "red"], "twice"),
        ("red", "neither a list"),
        ([], "must be names"),
    ],
)
def test_wrong_bands(tmp_path, write_tif, bands, message):
    path = write_tif(tmp_path / "s.tif", numbered(2, 3, 2))
    with pytest.raises(GlacierError, match=message):
        open_source(path, bands=bands)


def test_band_files_of_two_images(tmp_path, write_tif):
    for date in ("a", "b"):
        for band in ("B02", "B03", "B04", "B08"):
            write_tif(tmp_path / f"{date}_{band}.tif", np.ones((2, 2), np.uint8))
    with pytest.raises(GlacierError, match="2 files are named as band red"):
        open_source(tmp_path, bands=RGBN)
    with pytest.raises(GlacierError, match="2 files for band red match"):
        open_source(tmp_path, bands={"red": "*_B04*"})
    assert open_source(tmp_path / "a_*.tif", bands=RGBN).grid.shape == (2, 2)


def test_band_files_of_two_resolutions(tmp_path, write_tif):
    write_tif(tmp_path / "s_B04.tif", np.ones((4, 4), np.uint8))
    write_tif(tmp_path / "s_B8A.tif", np.ones((2, 2), np.uint8), pixel=20)
    with pytest.raises(GlacierError, match="bring all bands onto one grid"):
        open_source(tmp_path, bands=["red", "nir"])


def test_band_files_half_a_pixel_apart(tmp_path, write_tif):
    write_tif(tmp_path / "s_B04.tif", np.ones((4, 4), np.uint8))
    transform = Affine(10, 0, 450_005, 0, -10, 6_779_995)
    write_tif(tmp_path / "s_B08.tif", np.ones((4, 4), np.uint8), transform=transform)
    says = r"B08.tif: is not on the grid of s_B04.tif: its pixels lie .0.50 columns and .0.50 rows"
    with pytest.raises(GlacierError, match=says):
        open_source(tmp_path, bands=["red", "nir"])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"crs": "EPSG:32622"}, "its CRS .*32622.* is not that of"),
        ({"pixel": 20}, "its pixel is 20"),
        ({"transform": Affine(10, 0, 450_004, 0, -10, 6_780_000)}, "show the same ground"),
        ({"transform": Affine(10, 1, 0, 1, -10, 0)}, "rotated or flipped"),
        ({"transform": Affine(10, 0, 0, 0, 10, 0)}, "rotated or flipped"),
        ({"transform": Affine(10, 0, 0, 0, -20, 0)}, "not square"),
        ({"crs": None, "transform": Affine.identity()}, "has no georeference while"),
        ({"array": np.ones((3, 4, 4), np.uint8)}, "same bands and type"),
        ({"array": np.ones((1, 4, 4), np.float32)}, "same bands and type"),
    ],
)
def test_patches_that_do_not_belong_together(tmp_path, write_tif, second, message):
    array = np.ones((1, 4, 4), np.uint8)
    write_tif(tmp_path / "a.tif", array)
    second = {"array": array, **second}
    write_tif(tmp_path / "b.tif", second.pop("array"), 0, 4, **second)
    with pytest.raises(GlacierError, match=message) as caught:
        open_source(tmp_path, bands=["red"])
    assert "b.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_patches_without_a_place(tmp_path, bare):
    bare(tmp_path / "one.tif", np.ones((4, 4), np.uint8))
    bare(tmp_path / "two.tif", np.ones((4, 4), np.uint8))
    with pytest.raises(GlacierError, match="neither georeference nor row and column"):
        open_source(tmp_path, bands=["red"])


def test_patches_at_one_place(tmp_path, bare):
    bare(tmp_path / "a_r0_c1.tif", np.ones((4, 4), np.uint8))
    bare(tmp_path / "b_r0_c1.tif", np.ones((4, 4), np.uint8))
    with pytest.raises(GlacierError, match=r"a_r0_c1\.tif .* show the same ground"):
        open_source(tmp_path, bands=["red"])


def test_named_patches_of_two_sizes(tmp_path, bare):
    bare(tmp_path / "a_r0_c0.tif", np.ones((4, 4), np.uint8))
    bare(tmp_path / "a_r0_c1.tif", np.ones((4, 3), np.uint8))
    with pytest.raises(GlacierError, match="all be of one size"):
        open_source(tmp_path, bands=["red"])


def test_broken_files(tmp_path, write_tif):
    text = tmp_path / "text.tif"
    text.write_text("this is no image")
    with pytest.raises(GlacierError, match=r"text.tif: cannot be read as a raster"):
        open_source(text, bands=["red"])
    whole = write_tif(tmp_path / "whole.tif", np.random.default_rng(0).integers(
        0, 9999, (1, 300, 300)).astype(np.uint16))  # fmt: skip
    short = tmp_path / "short.tif"
    short.write_bytes(whole.read_bytes()[:90_000])
    with pytest.raises(GlacierError, match=r"short.tif: cannot be read as a raster"):
        open_source(short, bands=["red"]).read()


@pytest.mark.parametrize("values", [{"scale": 0}, {"scale": -1}, {"offset": float("nan")}])
def test_wrong_reflectance(values):
    with pytest.raises(GlacierError, match="must be finite"):
        Reflectance(**values)


# --- masks


@pytest.fixture
def source(tmp_path, write_tif):
    cut(numbered(8, 12), write_tif, tmp_path / "images", 4)
    return open_source(tmp_path / "images", bands=RGBN)


def label_of(rows, cols):
    return np.random.default_rng(1).choice([0, 1, 255], (rows, cols)).astype(np.uint8)


def test_mask_of_one_file_for_patches(tmp_path, write_tif, source):
    label = label_of(8, 12)
    mask = open_mask(write_tif(tmp_path / "l.tif", label), source.grid, codes=(0, 1))
    np.testing.assert_array_equal(mask.read(), label)
    np.testing.assert_array_equal(mask.read(2, 3, 4, 5), label[2:6, 3:8])
    assert (mask.read(-3, 0, 3, 3) == 255).all()


def test_mask_patches_in_part(tmp_path, write_tif, source):
    label = label_of(8, 12)
    cut(label[None], write_tif, tmp_path / "labels", 4, skip=[(0, 1)])
    read = open_mask(tmp_path / "labels", source.grid).read()
    assert (read[:4, 4:8] == 255).all()
    np.testing.assert_array_equal(read[4:], label[4:])


def test_bare_masks_follow_the_image_of_the_same_name(tmp_path, bare, source):
    label = label_of(8, 12)
    cut(label[None], bare, tmp_path / "labels", 4)
    mask = open_mask(tmp_path / "labels", source.grid, like=source)
    np.testing.assert_array_equal(mask.read(), label)


def test_bare_masks_of_bare_patches(tmp_path, bare):
    scene, label = numbered(12, 12), label_of(12, 12)
    cut(scene, bare, tmp_path / "images", 4, skip=[(0, 0), (0, 1), (0, 2)])
    cut(label[None], bare, tmp_path / "labels", 4, name="mask_r{row}_c{col}.tif")
    source = open_source(tmp_path / "images", bands=RGBN, resolution=10)
    read = open_mask(tmp_path / "labels", source.grid, like=source).read()
    np.testing.assert_array_equal(read, label[4:])


def test_mask_of_a_cut_scene(tmp_path, write_tif, bare):
    scene, label = numbered(8, 12), label_of(8, 12)
    path = write_tif(tmp_path / "s.tif", scene)
    bounds = [450_000 + 20, 6_780_000 - 80, 450_000 + 60, 6_780_000 - 50]
    source = open_source(path, bands=RGBN, bounds=bounds)
    for mask_path in (write_tif(tmp_path / "l.tif", label), bare(tmp_path / "b.png.tif", label)):
        mask = open_mask(mask_path, source.grid, like=source)
        np.testing.assert_array_equal(mask.read(), label[5:8, 2:6])


def test_mask_nodata_is_unknown_unless_it_is_a_class(tmp_path, write_tif, source):
    label = np.ones((8, 12), np.int16)
    label[0, 0], label[0, 1] = -1, 0
    read = open_mask(write_tif(tmp_path / "a.tif", label, nodata=-1), source.grid).read()
    assert read[0, :3].tolist() == [255, 0, 1]
    label[0, 0] = 0
    read = open_mask(write_tif(tmp_path / "b.tif", label, nodata=0), source.grid).read()
    assert read[0, :3].tolist() == [0, 0, 1]


def test_wrong_masks(tmp_path, write_tif, bare, source):
    ones = np.ones((8, 12), np.uint8)
    for path, message in [
        (write_tif(tmp_path / "a.tif", ones, pixel=20), "not lie on the pixels of the image"),
        (write_tif(tmp_path / "h.tif", ones, 0.5, 0), "not lie on the pixels of the image"),
        (write_tif(tmp_path / "b.tif", ones, crs="EPSG:32622"), "not lie on the pixels"),
        (write_tif(tmp_path / "c.tif", np.stack([ones, ones])), "has 2 bands"),
        (write_tif(tmp_path / "d.tif", ones, 500, 500), "does not touch the image"),
        (bare(tmp_path / "p_r00_c00.tif", ones), "both must have one size"),
        (bare(tmp_path / "e.tif", ones), "no image has this name"),
    ]:
        with pytest.raises(GlacierError, match=message):
            open_mask(path, source.grid, like=source)
    strange = open_mask(write_tif(tmp_path / "f.tif", ones * 7), source.grid, codes=(0, 1))
    with pytest.raises(GlacierError, match=r"f.tif: holds the value 7; allowed are 0, 1, 255"):
        strange.read()


# --- masks as pictures


def write_png(path, array, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.fromarray(array)
    if palette is not None:
        picture.putpalette(palette)
    picture.save(path)
    return path


@pytest.mark.parametrize("palette", [None, [0, 0, 0, 255, 255, 255]])
def test_png_masks_of_zero_and_one(tmp_path, source, palette):
    label = np.where(label_of(8, 12) == 1, 1, 0).astype(np.uint8)
    for row in range(2):
        for col in range(3):
            piece = label[row * 4 : row * 4 + 4, col * 4 : col * 4 + 4]
            write_png(tmp_path / "m" / f"p_r{row:02d}_c{col:02d}.png", piece, palette)
    mask = open_mask(tmp_path / "m", source.grid, like=source, codes=(0, 1))
    np.testing.assert_array_equal(mask.read(), label)


@pytest.fixture
def black_and_white(tmp_path):
    """Write a PNG and an array of 0 and 255, and a scene of their size."""
    glacier = label_of(8, 12) == 1
    picture = np.where(glacier, 255, 0).astype(np.uint8)
    np.save(tmp_path / "m.npy", picture)
    return glacier, [write_png(tmp_path / "m.png", picture), tmp_path / "m.npy"]


def test_black_and_white_masks_are_not_guessed(tmp_path, write_tif, black_and_white):
    glacier, paths = black_and_white
    source = open_source(write_tif(tmp_path / "s.tif", numbered(8, 12)), bands=RGBN)
    for path in paths:
        with pytest.raises(GlacierError, match=r"holds 0 and 255 but never 1") as caught:
            open_mask(path, source.grid, like=source, codes=(0, 1))
        assert "label_values: {0: 0, 255: 1}" in str(caught.value)
        meant = {"like": source, "codes": (0, 1)}
        mask = open_mask(path, source.grid, values={0: 0, 255: 1}, **meant)
        np.testing.assert_array_equal(mask.read(), glacier)
        mask = open_mask(path, source.grid, values={255: 255}, **meant)
        np.testing.assert_array_equal(mask.read(), np.where(glacier, 255, 0))


def test_masks_with_any_glacier_may_hold_unknown(tmp_path, source):
    # Single patches without glacier are no cause to doubt the set.
    for index, values in enumerate([(0, 255), (0, 255), (0, 1), (0, 0), (255, 255), (0, 255)]):
        piece = np.array(values, np.uint8).repeat(8).reshape(4, 4)
        write_png(tmp_path / "m" / f"p_r{index // 3:02d}_c{index % 3:02d}.png", piece)
    mask = open_mask(tmp_path / "m", source.grid, like=source, codes=(0, 1))
    assert set(np.unique(mask.read())) == {0, 1, 255}


def test_coloured_pictures_are_no_masks(tmp_path, source):
    path = write_png(tmp_path / "c.png", np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(GlacierError, match="has 3 bands; labels and class maps have one"):
        open_mask(path, source.grid, like=source)


def test_values_that_stand_for_classes(tmp_path, write_tif, source):
    label = np.array([0, 7, 9, 255] * 24, np.uint8).reshape(8, 12)
    path = write_tif(tmp_path / "l.tif", label)
    mask = open_mask(path, source.grid, codes=(0, 1), values={7: 1, 9: 255})
    assert mask.read()[0, :4].tolist() == [0, 1, 255, 255]


# --- writing


def test_written_raster_comes_back(tmp_path):
    grid = Grid(UTM, Affine(10, 0, 450_000, 0, -10, 6_780_000), 700, 900)
    array = np.random.default_rng(0).random(grid.shape, np.float32)
    array[:5] = np.nan
    path = write_raster(tmp_path / "p.tif", array, grid, nodata=np.nan, tags={"model": "unet"})
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), array)
        assert Grid(dataset.crs, dataset.transform, *dataset.shape).matches(grid)
        assert dataset.tags()["model"] == "unet"
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.overviews(1)
    assert [item.name for item in tmp_path.iterdir()] == ["p.tif"]


def test_written_classes_keep_colours_and_codes(tmp_path):
    grid = Grid(UTM, Affine(10, 0, 0, 0, -10, 0), 1200, 600)
    array = np.random.default_rng(0).choice([0, 1, 255], grid.shape).astype(np.uint8)
    path = write_raster(tmp_path / "c.tif", array, grid, nodata=255, colormap={1: (0, 90, 200)})
    with rasterio.open(path) as dataset:
        assert dataset.colormap(1)[1] == (0, 90, 200, 255)
        small = dataset.read(1, out_shape=(300, 150))
        assert set(np.unique(small)) <= {0, 1, 255}


def test_raster_without_georeference_and_with_names(tmp_path):
    grid = Grid(None, Affine(1, 0, 0, 0, -1, 0), 4, 6)
    path = write_raster(tmp_path / "c.tif", numbered(4, 6), grid, descriptions=RGBN)
    with rasterio.open(path) as dataset:
        assert dataset.descriptions == RGBN
    np.testing.assert_array_equal(
        open_source(path, bands=RGBN, reflectance=PLAIN).read().reflectance, numbered(4, 6)
    )


def test_array_that_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="does not fit"):
        write_raster(tmp_path / "c.tif", np.ones((3, 4)), Grid(UTM, Affine.scale(1, -1), 4, 3))
    assert not list(tmp_path.iterdir())


# --- real data


def test_real_landsat_scene_of_two_files(real_data):
    source = open_source(
        real_data / "everest_landsat7" / "*.tif",
        bands={"red": {"file": "*_RGB.tif", "band": 1}, "nir": "*_B4.tif"},
        reflectance=Reflectance(scale=255),
        bounds=[492400, 3088490, 502000, 3108140],
    )
    assert source.grid.shape == (655, 320)
    image = source.read(100, 200, 50, 60)
    with rasterio.open(next((real_data / "everest_landsat7").glob("*_B4.tif"))) as dataset:
        stored = dataset.read(1)[100:150, 680:740]
    np.testing.assert_allclose(image.reflectance[1], stored / 255, atol=1e-6)


def test_real_spellings_of_one_crs(real_data):
    folder = real_data / "athabasca_hls"
    sentinel = open_source(folder / "*_S30.tif", bands=RGBN)
    landsat = open_source(
        folder / "*_L30.tif",
        bands={"red": "_B04_", "green": "_B03_", "blue": "_B02_", "nir": "_B05_"},
    )
    assert sentinel.grid.crs != landsat.grid.crs
    assert sentinel.grid.shift(landsat.grid) == pytest.approx((0, 0), abs=1e-6)
    # The files are tagged with the scale of 0.0001 that the manifest states.
    assert sentinel.reflectance_source == landsat.reflectance_source == "file tags"
    stated = open_source(folder / "*_S30.tif", bands=RGBN, reflectance=Reflectance(10000, 1e-9))
    np.testing.assert_allclose(stated.read().reflectance, sentinel.read().reflectance, atol=1e-6)
    assert sentinel.grid.matches(landsat.grid)
    image = landsat.read()
    assert 0.97 < image.valid.mean() < 0.99
    assert image.reflectance.min() > -0.2


def test_real_sentinel_jpeg2000_bands(real_data):
    source = open_source(real_data / "nuuk_sentinel2", bands=RGBN, reflectance=Reflectance())
    assert [path.name[-11:-8] for path in source.paths] == ["B04", "B03", "B02", "B8A"]
    assert source.grid.shape == (1830, 1830)
    image = source.read(900, 300, 64, 48)
    assert image.reflectance.shape == (4, 64, 48)
    assert 0 < np.median(image.reflectance) < 1
    # The tile is full; zeros in single bands are dark water, not gaps.
    marked = open_source(
        real_data / "nuuk_sentinel2", bands=RGBN, reflectance=Reflectance(nodata=0)
    )
    assert marked.read(700, 700, 512, 512).valid.mean() > 0.999
