"""Large maps: what is written of a scene, and seams measured where they were made."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from stubs import Constant, FirstBand, Scene, segmenter

from glacier_utils import mosaics
from glacier_utils.grids import Grid


def scene(height: int, width: int, *, crs="EPSG:32623") -> Scene:
    """Logits in the first band: a glacier of 20 x 10 px, and a corner without data."""
    values = np.full((4, height, width), -2.0)
    values[0, 10:30, 5:15] = 3.0
    valid = np.ones((height, width), bool)
    valid[-6:, -4:] = False
    source = Scene(values, valid)
    if crs is None:
        source.grid = Grid(None, Affine(1, 0, 0, 0, -1, 0), height, width)
    else:
        place = source.grid.transform
        source.grid = Grid(CRS.from_string(crs), place, height, width)
    return source


def write(source: Scene, folder, *, network=None, **arguments) -> mosaics.Product:
    model = segmenter(network or FirstBand())
    return mosaics.write_products(
        model, source, folder, "test_2023-08", date="2023-08", window=32, overlap=8, **arguments
    )


# ---- files


def test_a_scene_becomes_four_files(tmp_path):
    source = scene(50, 70)
    product = write(source, tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "test_2023-08_class.tif",
        "test_2023-08_image.tif",
        "test_2023-08_outlines.gpkg",
        "test_2023-08_probability.tif",
    ]
    expected = np.zeros((50, 70), np.uint8)
    expected[10:30, 5:15], expected[~source.valid] = 1, 255
    np.testing.assert_array_equal(product.mask, expected)
    with rasterio.open(product.files["class"]) as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert file.nodata == 255
        assert file.colormap(1)[1] == mosaics.CLASS_COLOURMAP[1]
        assert file.tags()["image_date"] == "2023-08"
    with rasterio.open(product.files["image"]) as file:
        assert file.descriptions == source.bands
        pixels = file.read()
    assert np.isnan(pixels[:, ~source.valid]).all()
    np.testing.assert_allclose(pixels[:, source.valid], source.reflectance[:, source.valid])
    assert product.outlines["area_km2"].tolist() == pytest.approx([0.02])
    assert mosaics.check_products({"test": product}) == {
        "files": 4, "grids": True, "nodata": True, "outlines": True,
    }  # fmt: skip


def test_the_outlines_are_the_glaciers_of_the_class_map(tmp_path):
    product = write(scene(50, 70), tmp_path)
    table = gpd.read_file(product.files["outlines"])
    assert table["line_type"].tolist() == ["glac_bound"]
    assert table["src_date"].iloc[0].isoformat().startswith("2023-08-15")
    back = table.to_crs("EPSG:32623").geometry.iloc[0]
    assert back.symmetric_difference(product.outlines.geometry.iloc[0]).area < 1


def test_small_glaciers_are_left_out_of_the_outlines_only(tmp_path):
    product = write(scene(50, 70), tmp_path, min_area_km2=0.03)
    assert product.outlines.empty
    assert (product.mask == 1).sum() == 200
    assert mosaics.check_products({"test": product})["outlines"]


def test_a_map_without_glacier_is_written_like_any_other(tmp_path):
    product = write(scene(40, 40), tmp_path, network=Constant(-5.0))
    assert product.outlines.empty
    checks = mosaics.check_products({"test": product})
    assert all(checks.values())
    assert checks["files"] == 4


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_georeference_there_are_no_outlines(tmp_path):
    product = write(scene(40, 60, crs=None), tmp_path, min_area_km2=0.05)
    assert set(product.files) == {"image", "probability", "class"}
    assert mosaics.check_products({"test": product}) == {
        "files": 3, "grids": True, "nodata": True, "outlines": True,
    }  # fmt: skip


def test_checks_notice_a_moved_raster_and_a_wrong_gap(tmp_path):
    product = write(scene(40, 60), tmp_path)
    moved = Grid(product.grid.crs, product.grid.transform @ Affine.translation(1, 0), 40, 60)
    other = {"test": mosaics.Product(product.files, moved, product.mask, product.outlines,
                                     np.ones((40, 60), bool))}  # fmt: skip
    checks = mosaics.check_products(other)
    assert (checks["grids"], checks["nodata"], checks["outlines"]) == (False, False, True)


def test_checks_notice_missing_overviews(tmp_path):
    source = scene(40, 700)
    product = write(source, tmp_path)
    assert mosaics.check_products({"test": product})["grids"]
    with rasterio.open(product.files["class"]) as file:
        profile, values = file.profile, file.read()
    profile.update(driver="GTiff", tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(product.files["class"], "w", **profile) as file:
        file.write(values)
    assert not mosaics.check_products({"test": product})["grids"]


# ---- seams


@settings(max_examples=40, deadline=None)
@given(size=st.integers(2, 12), rows=st.integers(1, 4), cols=st.integers(1, 4))
def test_steps_between_patches_are_found_at_distance_zero(size, rows, cols):
    # Each patch is flat and one higher than its left and upper neighbour.
    steps = np.add.outer(np.arange(rows), np.arange(cols)).astype(np.float32)
    values = np.kron(steps, np.ones((size, size), np.float32))
    profile = mosaics.seam_profile(values, size, farthest=8)
    assert profile["distance_px"].tolist() == list(range(9))
    jump = profile["jump"]
    assert np.isnan(jump[0]) if rows == cols == 1 else jump[0] == 1
    assert jump[1] == 0
    assert jump[1:].fillna(0).eq(0).all()
    # No pair of neighbours lies farther from a border than half a patch.
    assert jump[size // 2 + 1 :].isna().all()


def test_a_ramp_has_a_flat_profile_and_unknown_pixels_do_not_count():
    values = np.add.outer(np.arange(20) * 0.1, np.arange(30) * 0.1)
    values[4:7, 3:22] = np.nan
    jump = mosaics.seam_profile(values, 10, farthest=5)["jump"]
    np.testing.assert_allclose(jump, 0.1)


def test_a_seam_one_pixel_beside_the_border_is_at_distance_one():
    values = np.zeros((8, 16))
    values[:, 9:] = 1  # between the columns 8 and 9; the border lies between 7 and 8
    jump = mosaics.seam_profile(values, 8, farthest=2)["jump"]
    # Of the pairs at distance one, 4 x 8 side by side and 2 x 16 above each other, 8 jump.
    assert jump.tolist() == pytest.approx([0, 8 / 64, 0])


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("row", "col"), [(1, 1), (1, 3), (2, 2)])
def test_the_worst_corner_is_found(size, row, col):
    values = np.zeros((3 * size, 4 * size))
    values[row * size, col * size - 2 : col * size + 2] = 0.9  # a jump beside that corner
    top, left = mosaics.worst_seam(values, size)
    half = size // 2
    assert (top, left) == (row * size - half, col * size - half)
    window = values[top : top + size, left : left + size]
    assert window.shape == (size, size)
    assert window.max() == 0.9


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 15), st.booleans())
def test_the_worst_window_lies_inside_the_map(height, width, size, unknown):
    values = np.random.default_rng(0).random((height, width))
    if unknown:
        values[:] = np.nan
    row, col = mosaics.worst_seam(values, size)
    assert row >= 0
    assert col >= 0
    if unknown or min(height, width) < 2 * size - size // 2:
        assert (row, col) == (0, 0)
    if (row, col) != (0, 0):
        assert row + size <= height
        assert col + size <= width
