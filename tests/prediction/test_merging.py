"""The maps of scenes that overlap as one mosaic and one set of outlines."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS

from glacier_utils.outlines.inventory import areas_km2
from glacier_utils.outlines.rasterization import rasterise
from glacier_utils.prediction.mosaic import MappedScene, merge
from glacier_utils.prediction.scenes import CLASS_COLOURMAP
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import write_raster

UTM = 32623


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
    mask = rasterise(table, grid)
    if missing is not None:
        mask[rasterio.features.rasterize([missing], grid.shape, transform=grid.transform) == 1] = (
            255
        )
    path = folder / f"{name}_class.tif"
    write_raster(path, mask, grid, nodata=255, colormap=CLASS_COLOURMAP)
    probability = np.where(mask == 255, 255, mask * 250).astype(np.uint8)
    other = write_raster(folder / f"{name}_probability.tif", probability, grid, nodata=255)
    return MappedScene(name, date, {"class": path, "probability": other})


def utm(col: int, row: int, height: int, width: int, epsg: int = UTM) -> Grid:
    transform = Affine(10, 0, 500_000 + 10 * col, 0, -10, 6_800_000 - 10 * row)
    return Grid(CRS.from_epsg(epsg), transform, height, width)


def ellipse(x: float, y: float, wide: float, high: float) -> shapely.Polygon:
    return shapely.affinity.scale(shapely.Point(x, y).buffer(1, 64), wide, high)


def test_a_glacier_across_two_scenes_is_one_and_counts_once(tmp_path):
    # Frames of 200 x 200 and an overlap of 60 columns; one glacier lies across, one in the overlap,
    # one in the first scene alone.
    across, inside = ellipse(501_700, 6_799_000, 900, 400), ellipse(501_700, 6_798_300, 150, 100)
    alone = ellipse(500_300, 6_799_600, 200, 200)
    ice = gpd.GeoSeries([across, inside, alone], crs=UTM)
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
    burnt = rasterise(glaciers.assign(kind="glacier"), grid)
    np.testing.assert_array_equal(burnt == 1, mosaic == 1)


def test_where_scenes_disagree_outlines_and_mosaic_take_the_same_one(tmp_path):
    shape = ellipse(501_700, 6_799_000, 900, 400)
    moved = shapely.affinity.translate(shape, 60, 90)
    scenes = [
        scene(tmp_path, "a", utm(0, 0, 200, 200), gpd.GeoSeries([shape], crs=UTM)),
        scene(tmp_path, "b", utm(140, 0, 200, 200), gpd.GeoSeries([moved], crs=UTM)),
    ]
    merged = merge(scenes, tmp_path)
    assert len(merged.glaciers) == 1
    with rasterio.open(merged.rasters["class"][0]) as file:
        mosaic = file.read(1) == 1
    burnt = rasterise(merged.glaciers.assign(kind="glacier"), utm(0, 0, 200, 340)) == 1
    np.testing.assert_array_equal(burnt, mosaic)
    np.testing.assert_allclose(merged.glaciers.area_km2.sum(), mosaic.sum() * 1e-4, rtol=0.01)
    # Not both: that would be the larger area.
    both = areas_km2(gpd.GeoSeries([shape.union(moved)], crs=UTM))[0]
    assert merged.glaciers.area_km2.sum() < 0.97 * both


def test_clouds_of_one_scene_are_filled_from_the_other(tmp_path):
    shape = gpd.GeoSeries([ellipse(501_700, 6_799_000, 200, 400)], crs=UTM)
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
    shape = gpd.GeoSeries([ellipse(501_000, 6_799_000, 200, 200)], crs=UTM)
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
    shape = gpd.GeoSeries([ellipse(501_000, 6_799_000, 200, 200)], crs=UTM)
    one = scene(tmp_path, "a", utm(0, 0, 200, 200), shape)
    other = scene(tmp_path, "b", utm(0, 0, 200, 200, 32624), shape)
    nowhere = scene(tmp_path, "c", utm(0, 0, 50, 50), shape)
    merge([one, other], tmp_path, outlines=False)
    assert len(list(tmp_path.glob("mosaic_*.vrt"))) == 4
    merged = merge([one, nowhere], tmp_path, outlines=False)
    assert merged.glaciers is None
    assert {path.name for path in tmp_path.glob("*.vrt")} == {
        "mosaic_class.vrt", "mosaic_probability.vrt",
    }  # fmt: skip
