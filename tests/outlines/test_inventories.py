"""Inventories as one table: stated areas, and polygons around the 180th meridian."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.outlines import reading
from glacier_utils.outlines.glims import write_glims
from glacier_utils.outlines.inventory import area_deviations, areas_km2, without_rock
from glacier_utils.outlines.rasterization import rasterise, read_outlines, vectorise
from glacier_utils.raster.grid import Grid

UTM = CRS.from_epsg(32623)
X, Y = 450_000, 6_780_000
KM2 = 1 / 0.9996**2  # of a square of 1 km on the map, near the meridian of the zone


def square(km: float, east: float = 0.0, north: float = 0.0) -> shapely.Polygon:
    return shapely.box(X + east, Y + north, X + east + 1000 * km, Y + north + 1000 * km)


def write(path, columns: dict, shapes: list, crs=UTM):
    gpd.GeoDataFrame(columns, geometry=shapes, crs=crs).to_file(path)
    return path


# --- stated areas


@pytest.mark.parametrize(
    "columns",
    [
        {"glac_id": ["a", "b"], "area": [1e6, 4e6], "db_area": [1.0, 4.0]},
        {"glac_id": ["a", "b"], "area": [1e6, 4e6]},
        {"glac_id": ["a", "b"], "area": [1e6, 4e6], "db_area": [1.0, 0.0]},
        {"RGIId": ["a", "b"], "Area": [1.0, 4.0]},
        {"rgi_id": ["a", "b"], "area_km2": [1.0, 4.0]},
    ],
)
def test_stated_areas_are_km2(tmp_path, columns):
    outlines = read_outlines(write(tmp_path / "o.gpkg", columns, [square(1), square(2, 5000)]))
    assert outlines.stated_km2.tolist() == [1, 4]
    assert outlines.attrs["report"] == []


def test_areas_that_are_not_stated(tmp_path):
    columns = {"glac_id": list("abc"), "db_area": [0.0, -1.0, np.nan]}
    outlines = read_outlines(write(tmp_path / "o.gpkg", columns, [square(1)] * 3))
    assert outlines.stated_km2.isna().all()
    assert area_deviations(outlines).empty


def test_deviating_areas_are_listed(tmp_path):
    columns = {"glac_id": list("abcd"), "db_area": [1.0, 2.0, 0.96, 0.2]}
    shapes = [square(1, 2000 * step) for step in range(4)]
    outlines = read_outlines(write(tmp_path / "o.gpkg", columns, shapes))
    found = area_deviations(outlines)
    assert found.glacier_id.tolist() == ["d", "b"]
    assert found.area_km2.tolist() == pytest.approx([KM2, KM2], rel=2e-4)
    assert found.stated_km2.tolist() == [0.2, 2.0]
    assert found.deviation.tolist() == pytest.approx([4, -0.5], abs=0.01)
    line = "area not as stated, by more than 5 %: 2 of 4 "
    line += "(d 1.001 instead of 0.2 km2, b 1.001 instead of 2 km2)"
    assert found.attrs["report"] == outlines.attrs["report"] == [line]
    assert area_deviations(outlines, limit=0.04).glacier_id.tolist() == ["d", "b", "c"]


@pytest.mark.parametrize(
    ("stated", "deviation"),
    [
        ([1.75, 1.75, 1.75], None),  # the glacier's, without rock, on each polygon
        ([2.0, 2.0, 2.0], None),  # with its rock
        ([1.0, 1.0, 0.25], None),  # each polygon's own
        ([0.75, 1.0, 0.25], None),  # each polygon's own, without rock
        ([1.5, 1.5, 1.5], 1 / 6),  # none of these: 1.75 comes nearest
        ([3.5, 3.5, 3.5], -0.5 + 1 / 14),  # nor this: 2.0 does
    ],
)
def test_area_of_an_analysis_of_several_polygons(stated, deviation):
    shapes = [square(1), square(1, 3000), square(0.5, 100, 100)]
    table = gpd.GeoDataFrame(
        {"glacier_id": "a", "analysis_id": "1", "kind": ["glacier", "glacier", "internal_rock"],
         "name": "", "area_km2": areas_km2(gpd.GeoSeries(shapes, crs=UTM)), "stated_km2": stated},
        geometry=shapes, crs=UTM,
    )  # fmt: skip
    found = area_deviations(table)
    if deviation is None:
        assert found.empty
    else:
        assert found.deviation.tolist() == pytest.approx([deviation], abs=2e-3)


def test_glaciers_on_the_border_of_the_bounds_are_not_compared(tmp_path):
    # Half a glacier's rock is outside and is not read, so its area cannot be known.
    columns = {"glac_id": ["a", "a"], "anlys_id": [1, 1], "db_area": [0.5, 0.5],
               "line_type": ["glac_bound", "intrnl_rock"]}  # fmt: skip
    shapes = [square(1), shapely.box(X + 500, Y, X + 1000, Y + 1000)]
    path = write(tmp_path / "o.gpkg", columns, shapes)
    assert len(read_outlines(path)) == 2
    part = read_outlines(path, bounds=(X, Y, X + 400, Y + 1000), crs=UTM)
    assert part.kind.tolist() == ["glacier"]
    assert part.attrs["report"] == []


def test_rock_is_taken_from_its_own_analysis():
    shapes = [square(1), square(0.5, 100, 100), square(0.2, 200, 200)]
    table = gpd.GeoDataFrame(
        {"glacier_id": ["a", "a", "b"], "analysis_id": ["1", "1", "2"],
         "kind": ["glacier", "internal_rock", "glacier"]}, geometry=shapes, crs=UTM,
    )  # fmt: skip
    assert without_rock(table).area.tolist() == [0.75e6, 0.04e6]
    assert without_rock(table.drop(columns="analysis_id")).area.tolist() == [0.75e6, 0.0]


def test_real_areas(real_data, tmp_path):
    baker = read_outlines(real_data / "baker_glims" / "baker_glims.geojson")
    assert area_deviations(baker).empty
    # db_area of 6.05577 km2, not area of 6110548 m2.
    assert baker.stated_km2[0] == 6.05577
    assert area_deviations(baker, limit=0.02)["name"].tolist() == [
        "Boulder Glacier", "Mazama Glacier"
    ]  # fmt: skip
    raw = gpd.read_file(real_data / "baker_glims" / "baker_glims.geojson")
    raw.loc[0, "db_area"] = 2.0
    raw.to_file(tmp_path / "wrong.gpkg")
    assert area_deviations(read_outlines(tmp_path / "wrong.gpkg"))["name"].tolist() == [
        "Coleman Glacier"
    ]
    everest = read_outlines(real_data / "everest_landsat7" / "15_rgi60_glacier_outlines.gpkg")
    assert everest.stated_km2.notna().all()
    assert area_deviations(everest).empty


# --- the 180th meridian

# A square of 0.4 x 0.2 degrees around 180, in every spelling that files use.
WHOLE = shapely.box(179.8, 66, 180.2, 66.2)
SPELLINGS = {
    "split": shapely.MultiPolygon(
        [shapely.box(179.8, 66, 180, 66.2), shapely.box(-180, 66, -179.8, 66.2)]
    ),
    "beyond": WHOLE,
    "west": shapely.box(-180.2, 66, -179.8, 66.2),
    "jump": shapely.Polygon([(179.8, 66), (-179.8, 66), (-179.8, 66.2), (179.8, 66.2)]),
}
# km2: on WGS 84, radii of 2591.3 km (parallel) and 6389.0 km (meridian) at 66.1 N.
AREA = 2591.3 * np.radians(0.4) * 6389.0 * np.radians(0.2)


@pytest.fixture(params=SPELLINGS)
def across(request, tmp_path):
    """Write the square and a far one under the same latitudes."""
    shapes = [SPELLINGS[request.param], shapely.box(10, 66, 10.4, 66.2)]
    columns = {"glac_id": ["near", "far"], "db_area": [AREA, AREA]}
    return write(tmp_path / "a.gpkg", columns, shapes, "EPSG:4326")


def test_area_across_the_antimeridian(across):
    outlines = read_outlines(across)
    assert outlines.area_km2.tolist() == pytest.approx([AREA, AREA], rel=5e-4)
    assert [line for line in outlines.attrs["report"] if "together" not in line] == []
    shape = reading.near(outlines.geometry.to_numpy()[:1], 180.0)[0]
    assert shape.symmetric_difference(WHOLE).area == pytest.approx(0, abs=1e-12)
    moved = outlines.to_crs("EPSG:32660")
    assert areas_km2(moved.geometry).tolist() == pytest.approx([AREA, AREA], rel=5e-4)


@pytest.mark.parametrize("zone", [32660, 32601])
def test_rastering_across_the_antimeridian(across, zone):
    crs = CRS.from_epsg(zone)
    centre = gpd.GeoSeries([shapely.Point(180, 66.1)], crs=4326).to_crs(crs)[0]
    grid = Grid(crs, Affine(100, 0, centre.x - 15_000, 0, -100, centre.y + 15_000), 300, 300)
    outlines = read_outlines(across, bounds=grid.bounds, crs=crs)
    assert outlines.glacier_id.tolist() == ["near"]
    label = rasterise(outlines, grid)
    assert (label == 1).sum() * 0.01 == pytest.approx(AREA, rel=0.01)
    # A pixel deep inside, on the meridian, is ice; no band runs along it.
    assert (rasterise(outlines, grid, band_m=300)[140:160, 140:160] == 1).all()
    # A frame that sees one side only, without a vertex of the outline in it.
    part = grid.window(100, 100, 20, 20)
    seen = read_outlines(across, bounds=part.bounds, crs=crs)
    np.testing.assert_array_equal(rasterise(seen, part), label[100:120, 100:120])


@pytest.mark.parametrize("west", [179.7, -180.3])
def test_rastering_in_degrees_across_the_antimeridian(across, west):
    grid = Grid(CRS.from_epsg(4326), Affine(0.01, 0, west, 0, -0.01, 66.3), 40, 60)
    expected = np.zeros(grid.shape, np.uint8)
    expected[10:30, 10:50] = 1
    for outlines in (
        read_outlines(across),
        read_outlines(across, bounds=grid.bounds, crs=grid.crs),
    ):
        np.testing.assert_array_equal(rasterise(outlines, grid), expected)


def test_a_file_that_counts_to_360(tmp_path):
    path = write(tmp_path / "o.gpkg", {"glac_id": ["a"]}, [shapely.box(315, 61, 315.2, 61.1)],
                 "EPSG:4326")  # fmt: skip
    grid = Grid(CRS.from_epsg(4326), Affine(0.01, 0, -45.1, 0, -0.01, 61.2), 30, 40)
    label = rasterise(read_outlines(path, bounds=grid.bounds, crs=grid.crs), grid)
    assert label.sum() == (label[10:20, 10:30] == 1).sum() == 200
    utm = Grid(UTM, Affine(100, 0, 490_000, 0, -100, 6_780_000), 300, 300)
    seen = read_outlines(path, bounds=utm.bounds, crs=utm.crs)
    assert seen.area_km2[0] == pytest.approx(10.79 * 11.14, rel=0.005)
    assert (rasterise(seen, utm) == 1).sum() * 0.01 == pytest.approx(seen.area_km2[0], rel=0.01)


def test_what_spans_the_world_stays():
    shapes = np.array([shapely.box(-180, 60, 180, 85), shapely.box(-170, 60, 175, 85),
                       shapely.Polygon(), None], dtype=object)  # fmt: skip
    kept = reading.unwrapped(shapes)
    assert kept[0] == shapes[0]
    assert kept[2].is_empty
    assert kept[3] is None


@given(
    lon=st.floats(-400, 400), lat=st.floats(-80, 80), width=st.floats(0.01, 3),
    turn=st.sampled_from([-360, 0, 360]),
)  # fmt: skip
def test_area_depends_on_no_longitude(lon, lat, width, turn):
    shape = shapely.box(lon + turn, lat, lon + turn + width, lat + 0.5)
    same = shapely.box(0, lat, width, lat + 0.5)
    series = gpd.GeoSeries([shape, same, shapely.Polygon()], crs="EPSG:4326")
    series[3] = shapely.union_all(reading.split(series.to_numpy()[:1]))
    areas = areas_km2(series)
    assert areas[[0, 3]] == pytest.approx(areas[1], rel=1e-6)
    assert areas[2] == 0
    xmin, _, xmax, _ = series[3].bounds
    assert xmin >= -180
    assert xmax <= 180


def test_round_trip_across_the_antimeridian(tmp_path):
    grid = Grid(CRS.from_epsg(32601), Affine(100, 0, 352_000, 0, -100, 7_345_000), 100, 200)
    mask = np.zeros(grid.shape, np.uint8)
    mask[20:80, 10:190] = 1
    mask[40:50, 50:150] = 0
    path = write_glims(vectorise(mask, grid), tmp_path / "g.gpkg", source_date="2023-08")
    raw = gpd.read_file(path)
    assert raw.total_bounds[[0, 2]] == pytest.approx([-180, 180])
    assert raw.is_valid.all()
    assert (raw.bounds.maxx - raw.bounds.minx).max() == pytest.approx(360)
    outlines = read_outlines(path, bounds=grid.bounds, crs=grid.crs)
    np.testing.assert_array_equal(rasterise(outlines, grid), mask)
    whole = read_outlines(path)
    np.testing.assert_array_equal(rasterise(whole, grid), mask)
    assert whole.attrs["report"] == [
        f"laid together across the antimeridian: {', '.join(raw.glac_id)}"
    ]
    assert whole.stated_km2.tolist() == pytest.approx([(mask == 1).sum() * 0.01] * 2, rel=0.01)


def test_empty_geometries_survive(tmp_path):
    table = gpd.GeoDataFrame(
        {"glacier_id": list("abc"), "analysis_id": list("123"), "kind": "glacier",
         "source_date": pd.NaT, "stated_km2": [1.0, 1.0, np.nan], "name": ""},
        geometry=[square(1), shapely.Polygon(), None], crs=UTM,
    )  # fmt: skip
    table["area_km2"] = areas_km2(table.geometry)
    assert table.area_km2[1] == 0
    grid = Grid(UTM, Affine(100, 0, X, 0, -100, Y + 2000), 20, 20)
    assert rasterise(table, grid, band_m=100).max() == 255
    assert (rasterise(table, grid) == 1).sum() == 100
    path = write_glims(table, tmp_path / "g.gpkg", source_date="2023-08")
    assert len(read_outlines(path)) == 1
    assert area_deviations(table).glacier_id.tolist() == ["b"]
