"""Polygons of a mask: they burn back to it, keep within half a pixel, and come out of strips."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from outline_shapes import pixel_polygons
from rasterio.crs import CRS
from scipy import ndimage

from glacier_utils.errors import GlacierError
from glacier_utils.outlines.polygonization import polygonize, polygonize_file
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import write_raster

EIGHT = np.ones((3, 3))
SIDES = st.integers(1, 14)
TINY = arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.sampled_from([0, 1, 1, 255]))
KM2 = 1e-4  # a pixel


@st.composite
def masks(draw) -> np.ndarray:
    """Noise of any grain, which makes saddles, holes with islands, and lines along the frame."""
    seed, grain = draw(st.integers(0, 2**31)), draw(st.floats(0, 4))
    noise = np.random.default_rng(seed).normal(size=draw(st.tuples(*[st.integers(1, 60)] * 2)))
    smooth = ndimage.gaussian_filter(noise, grain)
    mask = (smooth > np.quantile(smooth, draw(st.floats(0.05, 0.95)))).astype(np.uint8)
    mask[np.roll(smooth, 7) > np.quantile(smooth, draw(st.sampled_from([0.8, 1.0])))] = 255
    return mask


def grid_of(mask: np.ndarray) -> Grid:
    return Grid(CRS.from_epsg(32623), Affine(10, 0, 450_000, 0, -10, 6_780_000), *mask.shape)


def burnt(polygons: gpd.GeoDataFrame, grid: Grid) -> np.ndarray:
    if polygons.empty:
        return np.zeros(grid.shape, bool)
    return rasterio.features.rasterize(
        polygons.geometry, out_shape=grid.shape, transform=grid.transform
    ).astype(bool)


def assert_sound(polygons: gpd.GeoDataFrame) -> None:
    shapes = polygons.geometry.to_numpy()
    assert shapely.is_valid(shapes).all()
    assert (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON).all()
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    assert (one == other).all()


@given(st.one_of(TINY, masks()))
def test_burning_gives_back_the_mask_and_polygons_are_sound(mask):
    grid = grid_of(mask)
    polygons = polygonize(mask, grid)
    assert_sound(polygons)
    np.testing.assert_array_equal(burnt(polygons, grid), mask == 1)
    assert len(polygons) == ndimage.label(mask == 1, EIGHT)[1]
    np.testing.assert_allclose(polygons.area_km2, polygons.area / 1e6)
    assert polygons.area_km2.is_monotonic_decreasing


@settings(max_examples=60)
@given(st.one_of(TINY, masks()))
def test_the_line_stays_within_half_a_pixel_both_ways(mask):
    grid = grid_of(mask)
    polygons, pixels = polygonize(mask, grid), pixel_polygons(mask, grid)
    if not len(pixels):
        return
    line, edges = (shapely.union_all(frame.boundary.to_numpy()) for frame in (polygons, pixels))
    for one, other in ((line, edges), (edges, line)):
        # Distances between their vertices are not enough: look along the lines too.
        points = shapely.points(shapely.get_coordinates(shapely.segmentize(one, 2.5)))
        shapely.prepare(other)
        assert shapely.distance(points, other).max() <= 5


@settings(max_examples=40)
@given(st.one_of(TINY, masks()), st.integers(1, 64), st.sampled_from([0.0, 5.5]))
def test_strips_make_no_difference(tmp_path_factory, mask, rows, limit):
    path = tmp_path_factory.mktemp("trace") / "class.tif"
    grid = grid_of(mask)
    write_raster(path, mask, grid, nodata=255)
    options = {"min_area_km2": limit * KM2}
    whole, strips = polygonize(mask, grid, **options), polygonize_file(path, rows=rows, **options)
    assert whole.crs == strips.crs
    assert whole.area_km2.tolist() == strips.area_km2.tolist()
    # To the last bit, in the same order.
    assert shapely.to_wkb(whole.geometry).tolist() == shapely.to_wkb(strips.geometry).tolist()


@given(st.one_of(TINY, masks()), st.integers(0, 30))
def test_regions_below_the_limit_go_and_those_above_stay(mask, least):
    grid = grid_of(mask)
    limit = (least - 0.5) * KM2
    polygons = polygonize(mask, grid, min_area_km2=limit)
    assert_sound(polygons)
    regions, _ = ndimage.label(mask == 1, np.ones((3, 3)))
    large = np.bincount(regions.ravel()) >= least
    large[0] = False
    np.testing.assert_array_equal(burnt(polygons, grid), large[regions])


def test_the_frame_keeps_its_corners():
    mask = np.zeros((30, 40), np.uint8)
    mask[:, :25] = 1
    grid = grid_of(mask)
    xmin, ymin, _, ymax = grid.bounds
    full = polygonize(np.ones_like(mask), grid).geometry[0]
    assert full.equals(grid.box)
    assert len(full.exterior.coords) == 5
    half = polygonize(mask, grid).geometry[0]
    assert half.equals(shapely.box(xmin, ymin, xmin + 250, ymax))
    # Two scenes side by side meet along their common edge.
    left, right = polygonize(mask[:, :10], grid.window(0, 0, 30, 10)), polygonize(
        mask[:, 10:], grid.window(0, 10, 30, 30)
    )  # fmt: skip
    both = shapely.union(left.geometry[0], right.geometry[0])
    assert both.area == half.area
    assert both.equals(half)


def test_a_staircase_becomes_a_straight_line():
    rows, cols = np.mgrid[:60, :60]
    mask = (cols > rows // 3 + 10).astype(np.uint8)
    polygon = polygonize(mask, grid_of(mask)).geometry[0]
    # Four corners of the frame's edge, and next to nothing between.
    assert len(polygon.exterior.coords) <= 8
    assert len(pixel_polygons(mask, grid_of(mask)).geometry[0].exterior.coords) > 40


def test_a_round_glacier_keeps_its_area_with_a_third_of_the_points():
    rows, cols = np.mgrid[:900, :900]
    mask = np.hypot(rows - 450.3, cols - 449.9) < 400
    polygons, pixels = polygonize(mask, grid_of(mask)), pixel_polygons(mask, grid_of(mask))
    assert polygons.area_km2.sum() == pytest.approx(pixels.area_km2.sum(), rel=1e-4)
    counts = [shapely.get_num_coordinates(frame.geometry[0]) for frame in (polygons, pixels)]
    assert 3 * counts[0] < counts[1]


def test_long_rings_are_cut_and_joined():
    comb = np.zeros((40, 6001), np.uint8)
    comb[1:-1, 1::2] = 1
    comb[1, 1:-1] = 1
    polygons = polygonize(comb, grid_of(comb))
    assert len(polygons) == 1
    assert_sound(polygons)
    np.testing.assert_array_equal(burnt(polygons, grid_of(comb)), comb == 1)


def test_pixels_that_touch_at_a_corner_are_one_polygon():
    for mask in (np.eye(3, dtype=np.uint8), np.eye(3, dtype=np.uint8)[::-1]):
        assert len(polygonize(mask, grid_of(mask))) == 1
    ring = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.uint8)
    assert len(polygonize(ring, grid_of(ring)).geometry[0].interiors) == 1


def test_nothing_and_no_crs():
    empty = polygonize(np.zeros((3, 4), np.uint8), grid_of(np.zeros((3, 4))))
    assert len(empty) == 0
    assert empty.crs == "EPSG:32623"
    bare = polygonize(np.ones((3, 4), bool), Grid(None, Affine(1, 0, 0, 0, -1, 0), 3, 4))
    assert bare.crs is None
    assert bare.geometry[0].area == 12
    assert bare.area_km2.isna().all()


def test_what_is_refused(tmp_path):
    mask = np.ones((3, 4), np.uint8)
    with pytest.raises(ValueError, match="does not fit"):
        polygonize(mask, grid_of(mask.T))
    with pytest.raises(GlacierError, match="no such file"):
        polygonize_file(tmp_path / "x.tif")
    path = write_raster(tmp_path / "y.tif", mask * 7, grid_of(mask))
    with pytest.raises(GlacierError, match=r"y.tif: holds the value 7"):
        polygonize_file(path)
