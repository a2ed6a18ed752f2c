"""Large maps: what is written of a scene, and seams measured where they were made."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from stubs import Constant, FirstBand, Scene, segmenter

from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.exploration import thumbnail
from glacier_utils.prediction import scenes
from glacier_utils.prediction.scenes import CLASS_COLOURMAP
from glacier_utils.raster.grid import Grid


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


def write(source: Scene, folder, *, network=None, **arguments) -> scenes.Product:
    model = segmenter(network or FirstBand())
    return scenes.write_products(
        model, source, folder, "test_2023-08", date="2023-08", window=32, overlap=8, **arguments
    )


# ---- files


def test_a_scene_becomes_five_files(tmp_path):
    source = scene(50, 70)
    product = write(source, tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "test_2023-08.json",
        "test_2023-08_class.tif",
        "test_2023-08_image.tif",
        "test_2023-08_outlines.gpkg",
        "test_2023-08_probability.qml",
        "test_2023-08_probability.tif",
    ]
    expected = np.zeros((50, 70), np.uint8)
    expected[10:30, 5:15], expected[~source.valid] = 1, 255
    np.testing.assert_array_equal(product.mask, expected)
    with rasterio.open(product.files["class"]) as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert file.nodata == 255
        assert file.colormap(1)[1] == CLASS_COLOURMAP[1]
        assert file.tags()["IMAGE_DATE"] == "2023-08"
    with rasterio.open(product.files["image"]) as file:
        assert file.descriptions == source.bands
        pixels = file.read()
    assert np.isnan(pixels[:, ~source.valid]).all()
    np.testing.assert_allclose(pixels[:, source.valid], source.reflectance[:, source.valid])
    assert product.outlines["area_km2"].tolist() == pytest.approx(
        [0.02], rel=0.005
    )  # corners are cut
    assert scenes.check_products({"test": product}, {"test": source}) == {
        "files": 5, "grids": True, "nodata": True, "outlines": True,
    }  # fmt: skip


def test_the_outlines_are_the_glaciers_of_the_class_map(tmp_path):
    product = write(scene(50, 70), tmp_path)
    table = gpd.read_file(product.files["outlines"], layer="glims_polygons")
    assert table["line_type"].tolist() == ["glac_bound"]
    assert table["src_date"].iloc[0].isoformat().startswith("2023-08-15")
    back = table.to_crs("EPSG:32623").geometry.iloc[0]
    assert back.symmetric_difference(product.outlines.geometry.iloc[0]).area < 1


def test_small_glaciers_are_left_out_of_the_outlines_only(tmp_path):
    source = scene(50, 70)
    product = write(source, tmp_path, min_area_km2=0.03)
    assert product.outlines.empty
    assert (product.mask == 1).sum() == 200
    assert scenes.check_products({"test": product}, {"test": source})["outlines"]


def test_a_map_without_glacier_is_written_like_any_other(tmp_path):
    source = scene(40, 40)
    product = write(source, tmp_path, network=Constant(-5.0))
    assert product.outlines.empty
    checks = scenes.check_products({"test": product}, {"test": source})
    assert all(checks.values())
    assert checks["files"] == 5


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_georeference_there_are_no_outlines(tmp_path):
    source = scene(40, 60, crs=None)
    product = write(source, tmp_path, min_area_km2=0.05)
    assert set(product.files) == {"image", "probability", "class", "item"}
    assert scenes.check_products({"test": product}, {"test": source}) == {
        "files": 4, "grids": True, "nodata": True, "outlines": True,
    }  # fmt: skip


def test_large_scenes_are_not_written_a_second_time(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "LARGEST_IMAGE", 60)
    source = scene(50, 70)
    product = write(source, tmp_path)
    assert set(product.files) == {"probability", "class", "outlines", "item"}
    assert scenes.check_products({"test": product}, {"test": source})["files"] == 4


def test_checks_notice_a_moved_raster_and_a_wrong_gap(tmp_path):
    source = scene(40, 60)
    product = write(source, tmp_path)
    moved = Grid(product.grid.crs, product.grid.transform @ Affine.translation(1, 0), 40, 60)
    other = scenes.Product(product.files, moved, product.mask, product.outlines)
    source.valid = np.ones((40, 60), bool)
    checks = scenes.check_products({"test": other}, {"test": source})
    assert (checks["grids"], checks["nodata"], checks["outlines"]) == (False, False, True)


def test_checks_notice_missing_overviews(tmp_path):
    source = scene(40, 700)
    product = write(source, tmp_path)
    assert scenes.check_products({"test": product}, {"test": source})["grids"]
    with rasterio.open(product.files["class"]) as file:
        profile, values = file.profile, file.read()
    profile.update(driver="GTiff", tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(product.files["class"], "w", **profile) as file:
        file.write(values)
    assert not scenes.check_products({"test": product}, {"test": source})["grids"]


# ---- a further scene


def test_a_further_scene_is_none_a_full_tile_or_a_dataset(make_dataset, monkeypatch):
    folder = make_dataset(patches=(2, 3), size=32)
    data = open_dataset(folder)
    assert scenes.large_scene("", data, "test", "2023-08") is None
    tile = scenes.large_scene("full_tile", data, "test", "2023-08")
    assert tile.source.grid.shape == (10_980, 10_980)
    assert (tile.name, tile.date, tile.cloud) == ("full_tile", "2023-08", None)
    other = scenes.large_scene(str(folder), data, "test", "2023-08")
    assert (other.name, other.date) == ("tiny", "2023-07")
    assert other.source.grid.shape == (64, 96)


def test_from_afar_cloud_is_unknown():
    source = scene(40, 60)
    cloud = np.zeros((40, 60), bool)
    cloud[:5] = True
    product = scenes.Product({}, source.grid, np.ones((40, 60), np.uint8), None)
    view, mask = scenes.seen_from_afar(scenes.LargeScene("a", "", source, cloud), product)
    assert view.valid.shape == mask.shape == (40, 60)
    assert (mask == np.where(cloud, 255, 1)).all()


@pytest.mark.parametrize("shape", [(40, 60), (1201, 30), (2500, 2399)])
def test_masks_are_reduced_like_their_image(shape):
    source = Scene(np.zeros((1, *shape), np.float32), bands=("red",))
    view = thumbnail(source)
    assert scenes.reduced(np.zeros(shape, np.uint8), view).shape == view.valid.shape


def test_known_rock_is_burnt_where_there_is_some():
    source = scene(40, 60)
    x, y = source.grid.bounds[0], source.grid.bounds[3]
    rows = [("glacier", shapely.box(x, y - 300, x + 300, y)),
            ("internal_rock", shapely.box(x + 100, y - 120, x + 150, y - 100))]  # fmt: skip
    table = gpd.GeoDataFrame(
        {"kind": [kind for kind, _ in rows]}, geometry=[shape for _, shape in rows],
        crs=source.grid.crs,
    )  # fmt: skip
    rock = scenes.known_rock(table, source.grid)
    assert rock.dtype == bool
    assert np.argwhere(rock).tolist() == [[r, c] for r in (10, 11) for c in range(10, 15)]
    assert scenes.known_rock(table.iloc[:1], source.grid) is None
    assert scenes.known_rock(None, source.grid) is None
