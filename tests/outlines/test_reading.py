"""Vector files: formats, boxes, mended rings, mistakes, the 180th meridian."""

from __future__ import annotations

import zipfile

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from outline_grid import GRID, UTM, X, Y, box
from outline_shapes import COLUMNS, pixel_polygons
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.outlines import reading
from glacier_utils.outlines.glims import write_glims
from glacier_utils.outlines.inventory import (
    areas_km2,
    read_outlines,
)
from glacier_utils.outlines.rasterization import rasterize
from glacier_utils.outlines.reading import clean_text
from glacier_utils.raster.grid import Grid


def write(path, columns: dict, shapes: list, crs=UTM):
    gpd.GeoDataFrame(columns, geometry=shapes, crs=crs).to_file(path)
    return path


@pytest.mark.parametrize("name", ["o.shp", "o.gpkg", "o.geojson", "o.zip"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3413"])
def test_every_format_and_crs(tmp_path, name, crs):
    frame = gpd.GeoDataFrame({"glac_id": ["a"]}, geometry=[box(10, 10, 50, 40)], crs=UTM)
    frame = frame.to_crs(crs)
    if name == "o.zip":
        frame.to_file(tmp_path / "glims_polygons.shp")
        frame.to_file(tmp_path / "glims_lines.shp")
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in tmp_path.glob("glims_*"):
                archive.write(path, f"glims_download_1/{path.name}")
    else:
        frame.to_file(tmp_path / name)
    outlines = read_outlines(tmp_path / name, bounds=GRID.bounds, crs=UTM)
    assert outlines.glacier_id.tolist() == ["a"]
    assert outlines.geometry[0].symmetric_difference(box(10, 10, 50, 40)).area < 1


def test_only_what_touches_the_bounds(tmp_path, glims_file):
    path = glims_file(
        tmp_path / "g.gpkg",
        [("in", "glac_bound", box(70, 50, 90, 70)), ("out", "glac_bound", box(81, 10, 90, 20))],
    )
    assert read_outlines(path, bounds=GRID.bounds, crs=UTM).glacier_id.tolist() == ["in"]
    nothing = read_outlines(path, bounds=(0, 0, 10, 10), crs=UTM)
    assert tuple(nothing.columns) == COLUMNS
    assert len(nothing) == 0
    assert (rasterize(nothing, GRID) == 0).all()


def test_bounds_across_the_antimeridian(tmp_path):
    boxes = [shapely.box(179.5, 66, 179.9, 66.2), shapely.box(-179.9, 66, -179.5, 66.2),
             shapely.box(0, 66, 1, 66.2)]  # fmt: skip
    gpd.GeoDataFrame({"glac_id": ["e", "w", "far"]}, geometry=boxes, crs=4326).to_file(
        tmp_path / "a.gpkg"
    )
    crs = CRS.from_string("+proj=laea +lat_0=66 +lon_0=180 +datum=WGS84")
    found = read_outlines(tmp_path / "a.gpkg", bounds=(-3e4, -3e4, 3e4, 3e4), crs=crs)
    assert found.glacier_id.tolist() == ["e", "w"]


def test_invalid_rings_are_mended_and_reported(tmp_path):
    bow = shapely.Polygon([(X, Y), (X + 100, Y - 100), (X + 100, Y), (X, Y - 100)])
    frame = gpd.GeoDataFrame({"glac_id": ["bow", "fine", "bare", "empty"]},
                             geometry=[bow, box(10, 0, 20, 9), None, shapely.Polygon()],
                             crs=UTM)  # fmt: skip
    frame.to_file(tmp_path / "b.gpkg")
    outlines = read_outlines(tmp_path / "b.gpkg")
    assert outlines.glacier_id.tolist() == ["bow", "fine"]
    assert outlines.is_valid.all()
    assert outlines.geometry[0].area == pytest.approx(5000)
    assert outlines.attrs["report"] == [
        "left out, no geometry: bare, empty", "invalid rings mended: bow"
    ]  # fmt: skip


def test_plain_polygons_are_glaciers(tmp_path):
    gpd.GeoDataFrame(geometry=[box(0, 0, 9, 9), box(9, 9, 12, 12)], crs=UTM).to_file(
        tmp_path / "p.geojson"
    )
    outlines = read_outlines(tmp_path / "p.geojson")
    assert outlines.glacier_id.tolist() == ["row 1", "row 2"]
    assert outlines.analysis_id.tolist() == ["row 1", "row 2"]
    assert outlines.source_date.isna().all()


def test_names_are_one_plain_line():
    assert clean_text("Qaanaaq\n\x1b[31m Sermia\u202e\u0000") == "Qaanaaq [31m Sermia"
    assert clean_text("x" * 500) == "x" * 80
    assert [clean_text(value) for value in (None, np.nan, "None", 1013152.0)] == [
        "", "", "", "1013152"
    ]  # fmt: skip


def test_outlines_that_cannot_be_read(tmp_path, glims_file):
    shp = glims_file(tmp_path / "s.shp", [("a", "glac_bound", box(0, 0, 9, 9))])
    (tmp_path / "s.prj").unlink()
    no_dbf = glims_file(tmp_path / "d.shp", [("a", "glac_bound", box(0, 0, 9, 9))])
    (tmp_path / "d.dbf").unlink()
    short = glims_file(tmp_path / "short.gpkg", [("a", "glac_bound", box(0, 0, 9, 9))])
    short.write_bytes(short.read_bytes()[:3000])
    gpd.GeoDataFrame(geometry=[shapely.LineString([(0, 0), (1, 1)])], crs=4326).to_file(
        tmp_path / "lines.gpkg"
    )
    (tmp_path / "text.geojson").write_text("{ no json")
    (tmp_path / "o.txt").write_text("")
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 torn")
    for name, members in {
        "evil.zip": ["../evil.shp"],
        "absolute.zip": ["/etc/evil.shp"],
        "none.zip": ["readme.txt"],
        "two.zip": ["a.shp", "b.shp", "a.shx"],
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in members:
                archive.writestr(member, "x")
    for path, message in [
        (shp, "has no CRS .*prj is missing"),
        (no_dbf, "the .dbf file of d.shp is missing"),
        (short, "cannot be read as outlines"),
        (tmp_path / "lines.gpkg", "LineString, no polygons"),
        (tmp_path / "text.geojson", "cannot be read as outlines"),
        (tmp_path / "o.txt", "outlines are read from"),
        (tmp_path / "no.shp", "no such file"),
        (tmp_path / "torn.zip", "no whole zip file"),
        (tmp_path / "evil.zip", "outside the archive's folder"),
        (tmp_path / "absolute.zip", "outside the archive's folder"),
        (tmp_path / "none.zip", "holds no shapefile"),
        (tmp_path / "two.zip", "the .dbf file of a.shp is missing"),
    ]:
        with pytest.raises(GlacierError, match=message) as caught:
            read_outlines(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_entities_in_kml(tmp_path):
    path = tmp_path / "bomb.kml"
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    for entity in (f'<!ENTITY e0 "x">{entities}', '<!ENTITY e11 SYSTEM "file:///etc/passwd">'):
        path.write_text(
            f'<?xml version="1.0"?><!DOCTYPE kml [{entity}]>'
            '<kml xmlns="http://www.opengis.net/kml/2.2"><Document><Placemark><name>&e11;</name>'
            "<Polygon><outerBoundaryIs><LinearRing><coordinates>0,0 1,0 1,1 0,0</coordinates>"
            "</LinearRing></outerBoundaryIs></Polygon></Placemark></Document></kml>"
        )
        with pytest.raises(GlacierError, match=r"bomb\.kml"):
            read_outlines(path)


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
    label = rasterize(outlines, grid)
    assert (label == 1).sum() * 0.01 == pytest.approx(AREA, rel=0.01)
    # A pixel deep inside, on the meridian, is ice; no band runs along it.
    assert (rasterize(outlines, grid, band_m=300)[140:160, 140:160] == 1).all()
    # A frame that sees one side only, without a vertex of the outline in it.
    part = grid.window(100, 100, 20, 20)
    seen = read_outlines(across, bounds=part.bounds, crs=crs)
    np.testing.assert_array_equal(rasterize(seen, part), label[100:120, 100:120])


@pytest.mark.parametrize("west", [179.7, -180.3])
def test_rastering_in_degrees_across_the_antimeridian(across, west):
    grid = Grid(CRS.from_epsg(4326), Affine(0.01, 0, west, 0, -0.01, 66.3), 40, 60)
    expected = np.zeros(grid.shape, np.uint8)
    expected[10:30, 10:50] = 1
    for outlines in (
        read_outlines(across),
        read_outlines(across, bounds=grid.bounds, crs=grid.crs),
    ):
        np.testing.assert_array_equal(rasterize(outlines, grid), expected)


def test_a_file_that_counts_to_360(tmp_path):
    path = write(tmp_path / "o.gpkg", {"glac_id": ["a"]}, [shapely.box(315, 61, 315.2, 61.1)],
                 "EPSG:4326")  # fmt: skip
    grid = Grid(CRS.from_epsg(4326), Affine(0.01, 0, -45.1, 0, -0.01, 61.2), 30, 40)
    label = rasterize(read_outlines(path, bounds=grid.bounds, crs=grid.crs), grid)
    assert label.sum() == (label[10:20, 10:30] == 1).sum() == 200
    utm = Grid(UTM, Affine(100, 0, 490_000, 0, -100, 6_780_000), 300, 300)
    seen = read_outlines(path, bounds=utm.bounds, crs=utm.crs)
    assert seen.area_km2[0] == pytest.approx(10.79 * 11.14, rel=0.005)
    assert (rasterize(seen, utm) == 1).sum() * 0.01 == pytest.approx(seen.area_km2[0], rel=0.01)


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
    path = write_glims(pixel_polygons(mask, grid), tmp_path / "g.gpkg", source_date="2023-08")
    raw = gpd.read_file(path)
    assert raw.total_bounds[[0, 2]] == pytest.approx([-180, 180])
    assert raw.is_valid.all()
    assert (raw.bounds.maxx - raw.bounds.minx).max() == pytest.approx(360)
    outlines = read_outlines(path, bounds=grid.bounds, crs=grid.crs)
    np.testing.assert_array_equal(rasterize(outlines, grid), mask)
    whole = read_outlines(path)
    np.testing.assert_array_equal(rasterize(whole, grid), mask)
    assert whole.attrs["report"] == [
        f"laid together across the antimeridian: {', '.join(raw.glac_id)}"
    ]
    assert whole.stated_km2.tolist() == pytest.approx([(mask == 1).sum() * 0.01] * 2, rel=0.01)
