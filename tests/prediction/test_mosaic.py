"""The maps of scenes that overlap as one mosaic (a VRT file) and one set of outlines."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.outlines.inventory import areas_km2
from glacier_utils.outlines.rasterization import rasterize
from glacier_utils.prediction.mosaic import MappedScene, merge, write_vrt
from glacier_utils.prediction.strips import CLASS_COLOURMAP
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
    here, ones = place(0, 0, 20, 20), np.ones((20, 20), np.uint8)
    plain = write_raster(tmp_path / "plain.tif", ones, here, nodata=255)
    bare = write_raster(tmp_path / "bare.tif", ones, here)
    for second, wrong in ((plain, "scale or colours"), (bare, "no map")):
        with pytest.raises(GlacierError, match=wrong):
            write_vrt(tmp_path / "all.vrt", [one, second])
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".tif"] * 3


UTM_CODE = 32623


def scene(
    folder: Path,
    name: str,
    grid: Grid,
    ice: gpd.GeoSeries,
    *,
    missing: shapely.Geometry | None = None,
    date: str = "2023-08-24",
) -> MappedScene:
    """Write the products of a scene that was mapped without an error."""
    table = gpd.GeoDataFrame(geometry=ice.to_crs(grid.crs.to_wkt())).assign(kind="glacier")
    mask = rasterize(table, grid)
    if missing is not None:
        mask[rasterio.features.rasterize([missing], grid.shape, transform=grid.transform) == 1] = (
            255
        )
    path = folder / f"{name}_class.tif"
    write_raster(path, mask, grid, nodata=255, colormap=CLASS_COLOURMAP)
    probability = np.where(mask == 255, 255, mask * 250).astype(np.uint8)
    other = write_raster(folder / f"{name}_probability.tif", probability, grid, nodata=255)
    return MappedScene(name, date, {"class": path, "probability": other})


def utm(col: int, row: int, height: int, width: int, epsg: int = UTM_CODE) -> Grid:
    transform = Affine(10, 0, 500_000 + 10 * col, 0, -10, 6_800_000 - 10 * row)
    return Grid(CRS.from_epsg(epsg), transform, height, width)


def ellipse(x: float, y: float, wide: float, high: float) -> shapely.Polygon:
    return shapely.affinity.scale(shapely.Point(x, y).buffer(1, 64), wide, high)


def test_a_glacier_across_two_scenes_is_one_and_counts_once(tmp_path):
    # Frames of 200 x 200 and an overlap of 60 columns; one glacier lies across, one in the overlap,
    # one in the first scene alone.
    across, inside = ellipse(501_700, 6_799_000, 900, 400), ellipse(501_700, 6_798_300, 150, 100)
    alone = ellipse(500_300, 6_799_600, 200, 200)
    ice = gpd.GeoSeries([across, inside, alone], crs=UTM_CODE)
    scenes = [
        scene(tmp_path, "west", utm(0, 0, 200, 200), ice, date="2023-08-24"),
        scene(tmp_path, "east", utm(140, 0, 200, 200), ice, date="2023-08-21"),
    ]
    merged = merge(scenes, tmp_path)
    assert merged.rasters == {
        "probability": [tmp_path / "mosaic_probability.vrt"],
        "class": [tmp_path / "mosaic_class.vrt"],
    }
    glaciers = merged.glaciers
    assert len(glaciers) == 3
    # Straightened lines give back the pixels, and these the truth to a fraction of a pixel's width.
    np.testing.assert_allclose(glaciers.area_km2, np.sort(areas_km2(ice))[::-1], rtol=0.02)
    assert glaciers.scenes.tolist() == ["west, east", "west", "west, east"]
    assert glaciers.source_date.tolist() == ["2023-08-24"] * 3
    assert glaciers.geometry.is_valid.all()
    # Pixel by pixel, the outlines are the mosaic.
    grid = utm(0, 0, 200, 340)
    with rasterio.open(merged.rasters["class"][0]) as file:
        mosaic = file.read(1)
    burnt = rasterize(glaciers.assign(kind="glacier"), grid)
    np.testing.assert_array_equal(burnt == 1, mosaic == 1)


def test_where_scenes_disagree_outlines_and_mosaic_take_the_same_one(tmp_path):
    shape = ellipse(501_700, 6_799_000, 900, 400)
    moved = shapely.affinity.translate(shape, 60, 90)
    scenes = [
        scene(tmp_path, "a", utm(0, 0, 200, 200), gpd.GeoSeries([shape], crs=UTM_CODE)),
        scene(tmp_path, "b", utm(140, 0, 200, 200), gpd.GeoSeries([moved], crs=UTM_CODE)),
    ]
    merged = merge(scenes, tmp_path)
    assert len(merged.glaciers) == 1
    with rasterio.open(merged.rasters["class"][0]) as file:
        mosaic = file.read(1) == 1
    burnt = rasterize(merged.glaciers.assign(kind="glacier"), utm(0, 0, 200, 340)) == 1
    np.testing.assert_array_equal(burnt, mosaic)
    np.testing.assert_allclose(merged.glaciers.area_km2.sum(), mosaic.sum() * 1e-4, rtol=0.01)
    # Not both: that would be the larger area.
    both = areas_km2(gpd.GeoSeries([shape.union(moved)], crs=UTM_CODE))[0]
    assert merged.glaciers.area_km2.sum() < 0.97 * both


def test_clouds_of_one_scene_are_filled_from_the_other(tmp_path):
    shape = gpd.GeoSeries([ellipse(501_700, 6_799_000, 200, 400)], crs=UTM_CODE)
    cloud = shapely.box(501_600, 6_798_000, 501_800, 6_800_000)
    scenes = [
        scene(tmp_path, "a", utm(0, 0, 200, 200), shape, missing=cloud),
        scene(tmp_path, "b", utm(140, 0, 200, 200), shape),
    ]
    merged = merge(scenes, tmp_path)
    assert len(merged.glaciers) == 1
    assert merged.glaciers.area_km2[0] == pytest.approx(areas_km2(shape)[0], rel=0.02)


def test_small_is_judged_after_joining(tmp_path):
    # Each scene holds half of a glacier of 0.126 km2.
    shape = gpd.GeoSeries([ellipse(501_000, 6_799_000, 200, 200)], crs=UTM_CODE)
    scenes = [
        scene(tmp_path, "a", utm(0, 0, 200, 100), shape),
        scene(tmp_path, "b", utm(100, 0, 200, 100), shape),
    ]
    assert len(merge(scenes, tmp_path, min_area_km2=0.1).glaciers) == 1
    assert len(merge(scenes, tmp_path, min_area_km2=0.2).glaciers) == 0


@pytest.mark.parametrize("zones", [(32623, 32622), (32601, 32660)])
def test_a_glacier_across_two_utm_zones_is_one_and_has_its_area(tmp_path, zones):
    # At the border of two zones, 48 degrees west; and at the antimeridian.
    border = -48.0 if zones[0] == 32623 else 180.0
    plane = f"+proj=laea +lat_0=61 +lon_0={border} +datum=WGS84"
    ice = gpd.GeoSeries(
        [shapely.Point(0, 0).buffer(1200, 64), shapely.Point(-400, 2500).buffer(300)], crs=plane
    )
    hole = shapely.Point(900, -300).buffer(150)
    ice.iloc[0] = ice.iloc[0].difference(hole)
    scenes = []
    for name, epsg, (left, right) in (("e", zones[0], (-700, 3200)), ("w", zones[1], (-3200, 500))):
        box = gpd.GeoSeries([shapely.box(left, -3000, right, 3000)], crs=plane).to_crs(epsg)
        x, _, right_x, y = (round(value, -1) for value in box.total_bounds)
        grid = Grid(CRS.from_epsg(epsg), Affine(10, 0, x, 0, -10, y), 620, int((right_x - x) / 10))
        scenes.append(scene(tmp_path, name, grid, ice))
    merged = merge(scenes, tmp_path, min_area_km2=0.01)
    assert sorted(path.name for path in merged.rasters["class"]) == sorted(
        f"mosaic_class_EPSG_{epsg}.vrt" for epsg in zones
    )
    glaciers = merged.glaciers
    assert len(glaciers) == 2
    truth = ice.area.to_numpy() / 1e6
    np.testing.assert_allclose(glaciers.area_km2, truth, rtol=0.005)
    assert glaciers.geometry.is_valid.all()
    # No slit along the seam: the one hole is the nunatak.
    assert [len(shape.interiors) for shape in glaciers.geometry] == [1, 0]
    difference = glaciers.geometry.to_crs(plane).union_all().symmetric_difference(ice.union_all())
    # Nowhere farther from the truth than the pixels are.
    assert difference.buffer(-10).is_empty
    assert shapely.get_num_geometries(glaciers.geometry.iloc[0]) == 1


def test_an_earlier_mosaic_of_other_crss_does_not_stay(tmp_path):
    shape = gpd.GeoSeries([ellipse(501_000, 6_799_000, 200, 200)], crs=UTM_CODE)
    one = scene(tmp_path, "a", utm(0, 0, 200, 200), shape)
    other = scene(tmp_path, "b", utm(0, 0, 200, 200, 32624), shape)
    nowhere = scene(tmp_path, "c", utm(0, 0, 50, 50), shape)
    merge([one, other], tmp_path)
    assert len(list(tmp_path.glob("mosaic_*.vrt"))) == 4
    merge([one, nowhere], tmp_path)
    assert {path.name for path in tmp_path.glob("*.vrt")} == {
        "mosaic_class.vrt", "mosaic_probability.vrt",
    }  # fmt: skip
