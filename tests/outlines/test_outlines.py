"""Outlines: what is read from which inventory, which analysis counts, which pixels are ice."""

from __future__ import annotations

import zipfile

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.conventions import image_day
from glacier_utils.errors import GlacierError
from glacier_utils.outlines.glims import write_glims
from glacier_utils.outlines.inventory import (
    COLUMNS,
    areas_km2,
    parse_source_date,
    select_analyses,
    without_rock,
)
from glacier_utils.outlines.rasterization import OutlineMask, rasterise, read_outlines, vectorise
from glacier_utils.outlines.reading import clean_text
from glacier_utils.raster.grid import Grid

UTM = CRS.from_epsg(32623)
X, Y = 450_000, 6_780_000
GRID = Grid(UTM, Affine(10, 0, X, 0, -10, Y), 60, 80)


def box(col0: float, row0: float, col1: float, row1: float) -> shapely.Polygon:
    """Return a rectangle in pixels of GRID."""
    return shapely.box(X + 10 * col0, Y - 10 * row1, X + 10 * col1, Y - 10 * row0)


def table(*rows, crs=UTM) -> gpd.GeoDataFrame:
    """Make outlines of (glacier, analysis, kind, date, geometry)."""
    frame = pd.DataFrame(
        [row[:4] for row in rows], columns=["glacier_id", "analysis_id", "kind", "source_date"]
    )
    frame["source_date"] = pd.to_datetime(frame.source_date)
    return gpd.GeoDataFrame(frame, geometry=[row[4] for row in rows], crs=crs)


def one(geometry, *rocks) -> gpd.GeoDataFrame:
    rows = [("a", "1", "glacier", "2001-08-01", geometry)]
    return table(*rows, *[("a", "1", "internal_rock", "2001-08-01", rock) for rock in rocks])


# --- reading


def test_glims_columns(tmp_path, glims_file):
    path = glims_file(
        tmp_path / "g.gpkg",
        [
            ("G1", "glac_bound", box(10, 10, 50, 40)),
            ("G1", "intrnl_rock", box(20, 20, 25, 25)),
            ("G1", "pro_lake", box(0, 0, 5, 5)),
            ("G2", "glac_bound", box(60, 10, 70, 20), None, 77),
        ],
    )
    outlines = read_outlines(path)
    assert tuple(outlines.columns) == COLUMNS
    assert outlines.kind.tolist() == ["glacier", "internal_rock", "glacier"]
    assert outlines.glacier_id.tolist() == ["G1", "G1", "G2"]
    assert outlines.analysis_id.tolist() == ["1", "1", "77"]
    assert outlines.source_date[0] == pd.Timestamp("2001-08-15")
    assert pd.isna(outlines.source_date[2])
    assert outlines.name[0] == "Sermeq"
    assert outlines.uncertainty_m[0] == 20
    assert outlines.crs == "EPSG:4326"
    assert outlines.attrs["report"] == ["left out, line type pro_lake: 1"]
    # 0.12 km2 on the map; UTM is 0.9996 long at its meridian, so 0.9992 in area.
    assert outlines.area_km2[0] == pytest.approx(0.12 / 0.9996**2, rel=2e-4)


@pytest.mark.parametrize(
    ("columns", "date"),
    [
        (
            {"RGIId": "RGI60-05.1", "GLIMSId": "G1", "BgnDate": "20010815", "Name": "X"},
            "2001-08-15",
        ),
        ({"RGIId": "RGI60-05.1", "BgnDate": "20019999", "Name": "X"}, "2001-07-01"),
        ({"RGIId": "RGI60-05.1", "BgnDate": "20010899", "Name": "X"}, "2001-08-15"),
        ({"RGIId": "RGI60-05.1", "BgnDate": "-9999999", "Name": "X"}, None),
        ({"RGIId": "RGI60-05.1", "BgnDate": 20010815, "Name": "X"}, "2001-08-15"),
        (
            {"rgi_id": "RGI60-05.1", "src_date": "2001-08-15T00:00:00", "glac_name": "X"},
            "2001-08-15",
        ),
    ],
)
def test_rgi_columns(tmp_path, columns, date):
    frame = gpd.GeoDataFrame({key: [value] for key, value in columns.items()},
                             geometry=[box(0, 0, 9, 9)], crs=UTM)  # fmt: skip
    frame.to_file(tmp_path / "r.gpkg")
    row = read_outlines(tmp_path / "r.gpkg").iloc[0]
    assert (row.glacier_id, row.analysis_id, row.kind) == ("RGI60-05.1", "RGI60-05.1", "glacier")
    assert row["name"] == "X"
    assert pd.isna(row.source_date) if date is None else row.source_date == pd.Timestamp(date)
    assert np.isnan(row.uncertainty_m)


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
    assert (rasterise(nothing, GRID) == 0).all()


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


@settings(max_examples=100)
@given(st.one_of(st.text(max_size=12), st.integers(), st.floats(), st.none()))
def test_any_source_date_is_a_date_or_unknown(value):
    date = parse_source_date(value)
    assert pd.isna(date) or 1800 <= date.year <= 2200


@pytest.mark.parametrize("value", ["\u00b2", "9" * 5000, "-9999999", "0", "20019999x"])
def test_text_that_is_no_source_date(value):
    assert pd.isna(parse_source_date(value))


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
        "two.zip": ["a.shp", "b.shp"],
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in members:
                archive.writestr(member, "x")
    for path, message in [
        (shp, "has no CRS .*prj is missing"),
        (no_dbf, "its .dbf file is missing"),
        (short, "cannot be read as outlines"),
        (tmp_path / "lines.gpkg", "LineString, no polygons"),
        (tmp_path / "text.geojson", "cannot be read as outlines"),
        (tmp_path / "o.txt", "outlines are read from"),
        (tmp_path / "no.shp", "no such file"),
        (tmp_path / "torn.zip", "no whole zip file"),
        (tmp_path / "evil.zip", "a path outside its folder"),
        (tmp_path / "absolute.zip", "a path outside its folder"),
        (tmp_path / "none.zip", "holds no shapefile"),
        (tmp_path / "two.zip", "several shapefiles"),
    ]:
        with pytest.raises(GlacierError, match=message) as caught:
            read_outlines(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


# --- analyses


@pytest.fixture
def analyses():
    square = box(0, 0, 9, 9)
    return table(
        ("a", "1", "glacier", "1999-08-01", square),
        ("a", "1", "internal_rock", "1999-08-01", square),
        ("a", "2", "glacier", "2020-08-01", square),
        ("a", "3", "glacier", "2030-08-01", square),
        ("b", "4", "glacier", "2030-08-01", square),
        ("c", "9", "glacier", "2010-08-01", square),
        ("c", "10", "glacier", "2010-08-01", square),
        ("c", "10", "glacier", "2010-08-01", square),
        ("d", "5", "glacier", None, square),
        ("d", "6", "glacier", "1990-08-01", square),
        ("e", "7", "glacier", None, square),
    )


@pytest.mark.parametrize(
    ("rule", "date", "expected"),
    [
        ("nearest", "2023-08", {"a": "2", "b": "4", "c": "10", "d": "6", "e": "7"}),
        ("nearest", "1980-01-01", {"a": "1", "b": "4", "c": "10", "d": "6", "e": "7"}),
        ("nearest", "2026-08-01", {"a": "3", "b": "4", "c": "10", "d": "6", "e": "7"}),
        ("before", "2023-08", {"a": "2", "c": "10", "d": "6", "e": "7"}),
        ("before", "2005-08", {"a": "1", "d": "6", "e": "7"}),
        ("latest", "2023-08", {"a": "3", "b": "4", "c": "10", "d": "6", "e": "7"}),
    ],
)
def test_one_analysis_a_glacier(analyses, rule, date, expected):
    chosen = select_analyses(analyses, date, rule=rule)
    assert dict(zip(chosen.glacier_id, chosen.analysis_id, strict=True)) == expected
    assert len(chosen) == len(expected) + 1 + (expected["a"] == "1") * 1 - ("c" not in expected)
    # Rock goes with its analysis.
    assert ("internal_rock" in set(chosen.kind)) == (expected["a"] == "1")


def test_glaciers_without_an_analysis_before_are_reported(analyses):
    report = select_analyses(analyses, "2005-08", rule="before").attrs["report"]
    assert report == ["left out, no analysis before 2005-08: 2 glaciers"]


def test_wrong_rule_and_dates(analyses):
    with pytest.raises(GlacierError, match="known are nearest, before, latest"):
        select_analyses(analyses, "2023-08", rule="newest")
    for date in ("2023", "2023-13", "2023-02-30", "august", "2023-8", 2023):
        with pytest.raises(GlacierError, match="is not a date"):
            image_day(date)
    assert image_day("2023-08") == pd.Timestamp("2023-08-15")


# --- rasterising


def test_a_pixel_is_ice_if_its_centre_is():
    label = rasterise(one(box(10.4, 20.6, 14.4, 22.6)), GRID)
    expected = np.zeros(GRID.shape, np.uint8)
    expected[21:23, 10:14] = 1
    np.testing.assert_array_equal(label, expected)


def test_internal_rock_and_holes_are_not_ice():
    ring = box(10, 10, 30, 30).difference(box(25, 25, 28, 28))
    label = rasterise(one(ring, box(12, 12, 15, 16)), GRID)
    expected = np.zeros(GRID.shape, np.uint8)
    expected[10:30, 10:30] = 1
    expected[25:28, 25:28] = 0
    expected[12:16, 12:15] = 0
    np.testing.assert_array_equal(label, expected)


def test_outlines_in_another_crs_are_moved():
    outlines = one(box(10, 20, 14, 25))
    np.testing.assert_array_equal(
        rasterise(outlines.to_crs("EPSG:4326"), GRID), rasterise(outlines, GRID)
    )


def test_band_is_a_distance_in_metres():
    label = rasterise(one(box(20, 20, 60, 50), box(30, 30, 34, 34)), GRID, band_m=20)
    # Centres at 5 and 15 m on both sides of an edge are inside the band, those at 25 m are not.
    assert label[35, 15:25].tolist() == [0, 0, 0, 255, 255, 255, 255, 1, 1, 1]
    assert label[32, 27:35].tolist() == [1, 255, 255, 255, 255, 255, 255, 255]
    # At a corner outside, the distance is round: (15, 15) m is 21 m away, (5, 15) m 16 m.
    assert label[18, 18] == 0
    assert label[18, 19] == label[19, 18] == 255


def test_divides_between_glaciers_have_no_band():
    outlines = table(
        ("a", "1", "glacier", "2001-08-01", box(10, 10, 30, 40)),
        ("b", "1", "glacier", "2001-08-01", box(30, 10, 50, 40)),
    )
    label = rasterise(outlines, GRID, band_m=15)
    assert (label[20, 15:45] == 1).all()
    assert (label[20, [9, 50]] == 255).all()


def test_each_outline_has_a_band_of_its_own():
    outlines = table(
        ("a", "1", "glacier", "2001-08-01", box(10, 10, 30, 40)),
        ("b", "1", "glacier", "2001-08-01", box(30, 10, 50, 40)),
        ("c", "1", "glacier", "2001-08-01", box(60, 10, 70, 40)),
        ("a", "1", "internal_rock", "2001-08-01", box(18, 20, 21, 23)),
    ).assign(uncertainty_m=[10.0, 30.0, np.nan, 20.0])
    mask = OutlineMask(outlines, GRID, band_m="own")
    assert mask.report == ["no uncertainty stated, so no band: 1 of 4 outlines"]
    label = mask.read()
    # Centres 5 m from the edge of a; 5, 15 and 25 m from b's; none from c's; 5 and 15 m from the
    # rock's are inside.
    assert label[35, 7:13].tolist() == [0, 0, 255, 255, 1, 1]
    assert label[35, 45:55].tolist() == [1, 1, 255, 255, 255, 255, 255, 255, 0, 0]
    assert label[35, 58:72].tolist() == [0, 0] + [1] * 10 + [0, 0]
    assert label[21, 14:25].tolist() == [1, 1, *[255] * 7, 1, 1]
    assert (label[35, 25:35] == 1).all()  # no band along the divide
    # Above the divide b's band reaches over a's: (15, 25) and (25, 15) m away is 29 m, (25, 25) 35.
    assert label[7, 25:33].tolist() == [0, 0, 0, 255, 255, 255, 255, 255]
    assert label[8, 25:33].tolist() == [0, 0, 255, 255, 255, 255, 255, 255]
    assert (label[9, 10:50] == 255).all()


def test_own_bands_of_one_width_are_that_band():
    outlines = one(box(20, 20, 60, 50), box(30, 30, 34, 34)).assign(uncertainty_m=20.0)
    np.testing.assert_array_equal(
        rasterise(outlines, GRID, band_m="own"), rasterise(outlines, GRID, band_m=20)
    )
    nothing = rasterise(outlines.drop(columns="uncertainty_m"), GRID, band_m="own")
    np.testing.assert_array_equal(nothing, rasterise(outlines, GRID))


def test_glacier_on_a_nunatak_of_another():
    outlines = table(
        ("a", "1", "glacier", "2001-08-01", box(10, 10, 50, 50)),
        ("a", "1", "internal_rock", "2001-08-01", box(20, 20, 40, 40)),
        ("b", "7", "glacier", "2001-08-01", box(25, 25, 35, 35)),
        ("lost", "8", "internal_rock", "2001-08-01", box(30, 30, 45, 45)),
    )
    expected = np.zeros(GRID.shape, np.uint8)
    expected[10:50, 10:50] = 1
    expected[20:40, 20:40] = 0
    expected[25:35, 25:35] = 1
    expected[30:45, 30:45] = 0  # rock of nobody is rock for all
    np.testing.assert_array_equal(rasterise(outlines, GRID), expected)


def test_outline_just_outside_a_window_reaches_into_it():
    mask = OutlineMask(one(box(20, 20, 60, 50)), GRID, band_m=30)
    assert (mask.read(22, 17, 10, 3) == 255).all()


@settings(max_examples=40, deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(0, 80), st.floats(0, 60)), min_size=3, max_size=8),
    row=st.integers(-5, 50), col=st.integers(-5, 70), height=st.integers(1, 30),
    width=st.integers(1, 30), band=st.sampled_from([0.0, 25.0, "own"]),
)  # fmt: skip
def test_windows_are_pieces_of_the_whole(points, row, col, height, width, band):
    corners = [(X + 10.03 * x, Y - 10.03 * y) for x, y in points]
    hull = shapely.MultiPoint(corners).convex_hull
    shape = shapely.make_valid(shapely.Polygon(corners)) if hull.geom_type == "Polygon" else hull
    shape = shapely.union_all(
        [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    )
    outlines = one(shape, hull.centroid.buffer(40)).assign(uncertainty_m=[15.0, 35.0])
    mask = OutlineMask(outlines, GRID, band_m=band)
    padded = np.pad(mask.read(), 40, constant_values=255)
    expected = padded[40 + row : 40 + row + height, 40 + col : 40 + col + width]
    np.testing.assert_array_equal(mask.read(row, col, height, width), expected)


def test_rasterising_without_a_place_or_metres():
    outlines = one(box(0, 0, 9, 9))
    with pytest.raises(GlacierError, match="image has no CRS"):
        rasterise(outlines, Grid(None, GRID.transform, 4, 4))
    with pytest.raises(GlacierError, match="in degrees"):
        rasterise(outlines, Grid(CRS.from_epsg(4326), GRID.transform, 4, 4), band_m=10)
    with pytest.raises(GlacierError, match="not be negative"):
        rasterise(outlines, GRID, band_m=-1)
    with pytest.raises(GlacierError, match="'own' for each outline"):
        rasterise(outlines, GRID, band_m="wide")
    with pytest.raises(GlacierError, match="outlines have no CRS"):
        rasterise(outlines.set_crs(None, allow_override=True), GRID)


# --- the way back


def test_polygons_of_a_mask_burn_back_to_it():
    random = np.random.default_rng(0)
    mask = (random.random(GRID.shape) > 0.6).astype(np.uint8)
    mask[random.random(GRID.shape) > 0.95] = 255
    polygons = vectorise(mask, GRID)
    assert polygons.is_valid.all()
    assert polygons.area_km2.sum() == pytest.approx((mask == 1).sum() * 1e-4)
    assert polygons.area_km2.is_monotonic_decreasing
    label = rasterise(polygons.assign(kind="glacier"), GRID)
    np.testing.assert_array_equal(label == 1, mask == 1)


def test_small_polygons_can_be_left_out():
    mask = np.zeros(GRID.shape, np.uint8)
    mask[2:4, 2:4] = 1
    mask[10:20, 10:20] = 1
    assert vectorise(mask, GRID, min_area_km2=0.001).area_km2.tolist() == [pytest.approx(0.01)]
    assert len(vectorise(mask * 0, GRID)) == 0


def test_glims_round_trip(tmp_path):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[5:25, 5:45] = 1
    mask[10:15, 10:20] = 0
    mask[30:34, 10:14] = mask[30:34, 15:19] = 1
    polygons = vectorise(mask, GRID)
    path = write_glims(polygons, tmp_path / "g.gpkg", source_date="2023-08", method="U-Net\n")
    outlines = read_outlines(path, bounds=GRID.bounds, crs=UTM)
    assert outlines.glacier_id.nunique() == 3
    assert outlines.glacier_id.str.fullmatch(r"G\d{6}E\d{5}[NS]").all()
    assert (outlines.source_date == pd.Timestamp("2023-08-15")).all()
    net = areas_km2(without_rock(outlines))
    assert net.sum() == pytest.approx(polygons.area_km2.sum(), rel=1e-3)
    chosen = select_analyses(outlines, "2023-08")
    np.testing.assert_array_equal(rasterise(chosen, GRID), mask)
    assert read_outlines(
        write_glims(polygons[:0], tmp_path / "none.gpkg", source_date="2023-08")
    ).empty


def test_glims_needs_a_crs_and_a_date(tmp_path):
    polygons = vectorise(np.ones(GRID.shape), GRID)
    with pytest.raises(GlacierError, match="is not a date"):
        write_glims(polygons, tmp_path / "g.gpkg", source_date="soon")
    with pytest.raises(GlacierError, match="no CRS"):
        write_glims(
            polygons.set_crs(None, allow_override=True), tmp_path / "g.gpkg", source_date="2023-08"
        )


# --- real data


def test_real_glims_file(real_data):
    path = real_data / "baker_glims" / "baker_glims.geojson"
    outlines = read_outlines(path)
    assert len(outlines) == 7
    assert outlines.name[0] == "Coleman Glacier"
    assert (outlines.source_date == pd.Timestamp("2015-09-09")).all()
    assert (outlines.uncertainty_m == 50).all()
    assert outlines.attrs["report"] == ["invalid rings mended: G238198E48804N"]
    stated = gpd.read_file(path)
    np.testing.assert_allclose(outlines.area_km2, stated["area"] / 1e6, rtol=0.01)
    grid = Grid(CRS.from_epsg(32610), Affine(10, 0, 581915, 0, -10, 5408480), 1015, 929)
    burnt = (rasterise(outlines, grid) == 1).sum() * grid.pixel_area_km2
    assert burnt == pytest.approx(outlines.area_km2.sum(), rel=0.005)


def test_real_rgi_file(real_data):
    path = real_data / "everest_landsat7" / "15_rgi60_glacier_outlines.gpkg"
    outlines = read_outlines(path)
    assert len(outlines) == 86
    assert outlines.glacier_id.is_unique
    stated = gpd.read_file(path).Area
    large = stated > 0.1
    np.testing.assert_allclose(outlines.area_km2[large], stated[large], rtol=0.05)
    crs = CRS.from_epsg(32645)
    west = read_outlines(path, bounds=(478000, 3088490, 492400, 3108140), crs=crs)
    moved = outlines.to_crs(32645)
    inside = moved.intersects(shapely.box(478000, 3088490, 492400, 3108140))
    assert sorted(west.glacier_id) == sorted(outlines.glacier_id[inside])
