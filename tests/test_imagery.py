"""Sources of every kind read the same numbers at one place, and say what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.imagery import (
    Grid,
    Reflectance,
    open_mask,
    open_source,
    same_crs,
    write_raster,
)

RGBN = ("red", "green", "blue", "nir")
UTM = CRS.from_epsg(32623)
PLAIN = Reflectance(scale=1)
UNNAMED_UTM = (
    'PROJCS["UTM Zone 11, Northern Hemisphere",GEOGCS["Unknown datum based upon the WGS 84 '
    'ellipsoid",DATUM["Not specified (based on WGS 84 spheroid)",SPHEROID["WGS 84",6378137,'
    '298.257223563]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],'
    'PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",-117],PARAMETER["scale_factor",0.9996],'
    'PARAMETER["false_easting",500000],PARAMETER["false_northing",0],UNIT["metre",1],'
    'AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)


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


# --- grids and CRSs


def test_grid_measures_what_it_covers():
    grid = Grid(UTM, Affine(10, 0, 500, 0, -10, 900), 20, 30)
    assert grid.bounds == (500, 700, 800, 900)
    assert grid.box.area == pytest.approx(300 * 200)
    assert (grid.resolution, grid.pixel_area_km2) == (10, pytest.approx(1e-4))
    window = grid.window(-2, 5, 4, 6)
    assert (window.bounds, window.shape) == ((550, 880, 610, 920), (4, 6))


def test_grid_without_size_on_the_ground_says_nan():
    assert np.isnan(Grid(None, Affine(1, 0, 0, 0, -1, 0), 4, 4).pixel_area_km2)
    assert Grid(None, Affine(10, 0, 0, 0, -10, 0), 4, 4).resolution == 10


def test_grid_in_degrees_measures_on_the_ellipsoid():
    # At 60 N a degree of longitude is half a degree of latitude long, to half a percent.
    grid = Grid(CRS.from_epsg(4326), Affine(0.002, 0, -45, 0, -0.001, 60), 2, 2)
    assert grid.resolution == pytest.approx(111.4, rel=0.005)


def test_grid_in_feet_measures_in_metres():
    grid = Grid(CRS.from_epsg(2263), Affine(100, 0, 9e5, 0, -100, 2e5), 2, 2)
    assert grid.resolution == pytest.approx(30.48, rel=1e-4)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (CRS.from_epsg(32611), CRS.from_wkt(UNNAMED_UTM), True),
        (CRS.from_epsg(32612), CRS.from_wkt(UNNAMED_UTM), False),
        (CRS.from_epsg(32711), CRS.from_wkt(UNNAMED_UTM), False),
        (CRS.from_epsg(26911), CRS.from_epsg(32611), False),
        (CRS.from_epsg(26911), CRS.from_wkt(UNNAMED_UTM), False),
        (CRS.from_epsg(32611), CRS.from_string("+proj=utm +zone=11 +datum=WGS84"), True),
        (CRS.from_epsg(32611), None, False),
        (None, None, True),
    ],
)
def test_crs_compared_by_meaning(one, other, same):
    assert same_crs(one, other) is same
    assert same_crs(other, one) is same


def test_matching_frames_differ_by_less_than_a_hundredth_pixel():
    grid = Grid(UTM, Affine(10, 0, 0, 0, -10, 0), 100, 100)
    assert grid.matches(Grid(UTM, Affine(10, 0, 0.05, 0, -10, 0), 100, 100))
    assert not grid.matches(Grid(UTM, Affine(10, 0, 5, 0, -10, 0), 100, 100))
    assert not grid.matches(Grid(UTM, Affine(10.01, 0, 0, 0, -10.01, 0), 100, 100))
    assert not grid.matches(grid.window(0, 0, 100, 99))
    assert grid.shares_lattice(grid.window(-7, 3, 5, 5))
    assert not grid.shares_lattice(Grid(UTM, Affine(10, 0, 5, 0, -10, 0), 100, 100))


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
    padded = np.zeros((5 + 40, 9 + 40))
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


def test_nodata_of_the_file_counts_where_the_manifest_names_none(tmp_path, write_tif):
    array = np.array([[-9999, 500], [700, 900]], np.int16)
    path = write_tif(tmp_path / "s.tif", array, nodata=-9999)
    assert open_source(path, bands=["red"]).read().valid.tolist() == [[False, True], [True, True]]
    named = open_source(path, bands=["red"], reflectance=Reflectance(nodata=500)).read()
    assert named.valid.tolist() == [[True, False], [True, True]]


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


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([0, 0, 10, 10], "lie outside the image"),
        ([10, 0, 0, 10], "are empty"),
        ([1, 2, 3], "must be"),
    ],
)
def test_wrong_bounds(tmp_path, write_tif, bounds, message):
    path = write_tif(tmp_path / "s.tif", numbered(4, 5, 1))
    with pytest.raises(GlacierError, match=message):
        open_source(path, bands=["red"], bounds=bounds)


# --- one file a band


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


def test_missing_things(tmp_path, write_tif):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.SAFE").mkdir()
    write_tif(tmp_path / "s.tif", numbered(2, 2, 1))
    for images, message in [
        (tmp_path / "no.tif", "no.tif: no such file"),
        (tmp_path / "*.jp2", "matches no raster file"),
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
        ({"red": {"fil": "s.tif"}}, "did you mean 'file'"),
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
    with pytest.raises(GlacierError, match="all bands must lie on one grid"):
        open_source(tmp_path, bands=["red", "nir"])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"crs": "EPSG:32622"}, "its CRS .*32622.* is not that of"),
        ({"pixel": 20}, "its pixel is 20"),
        ({"transform": Affine(10, 0, 450_005, 0, -10, 6_780_000)}, "columns off the pixels"),
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
    with pytest.raises(GlacierError, match=r"same row and column as a_r0_c1\.tif"):
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
        (write_tif(tmp_path / "a.tif", ones, pixel=20), "do not fall on those"),
        (write_tif(tmp_path / "b.tif", ones, crs="EPSG:32622"), "its CRS .* is not that"),
        (write_tif(tmp_path / "c.tif", np.stack([ones, ones])), "has 2 bands"),
        (write_tif(tmp_path / "d.tif", ones, 500, 500), "touches the image"),
        (bare(tmp_path / "p_r00_c00.tif", ones), "both must have one size"),
        (bare(tmp_path / "e.tif", ones), "its CRS .none. is not that"),
    ]:
        with pytest.raises(GlacierError, match=message):
            open_mask(path, source.grid, like=source)
    strange = open_mask(write_tif(tmp_path / "f.tif", ones * 7), source.grid, codes=(0, 1))
    with pytest.raises(GlacierError, match=r"f.tif: holds the value 7; allowed are 0, 1, 255"):
        strange.read()


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
