"""Inventories as one table: columns, stated areas, which analysis counts, overlaps."""

from __future__ import annotations

import itertools

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from outline_grid import UTM, X, Y, box, table
from outline_shapes import COLUMNS
from rasterio.crs import CRS

from glacier_utils.conventions import image_day
from glacier_utils.errors import GlacierError
from glacier_utils.outlines.glims import write_glims
from glacier_utils.outlines.inventory import (
    area_deviations,
    areas_km2,
    parse_source_date,
    read_outlines,
    resolve_overlaps,
    select_analyses,
    without_rock,
)
from glacier_utils.outlines.rasterization import rasterize
from glacier_utils.raster.grid import Grid

KM2 = 1 / 0.9996**2  # of a square of 1 km on the map, near the meridian of the zone


def square(km: float, east: float = 0.0, north: float = 0.0) -> shapely.Polygon:
    return shapely.box(X + east, Y + north, X + east + 1000 * km, Y + north + 1000 * km)


def write(path, columns: dict, shapes: list, crs=UTM):
    gpd.GeoDataFrame(columns, geometry=shapes, crs=crs).to_file(path)
    return path


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


@settings(max_examples=100)
@given(st.one_of(st.text(max_size=12), st.integers(), st.floats(), st.none()))
def test_any_source_date_is_a_date_or_unknown(value):
    date = parse_source_date(value)
    assert pd.isna(date) or 1800 <= date.year <= 2200


@pytest.mark.parametrize("value", ["\u00b2", "9" * 5000, "-9999999", "0", "20019999x"])
def test_text_that_is_no_source_date(value):
    assert pd.isna(parse_source_date(value))


@pytest.mark.parametrize(
    ("value", "date"),
    [
        ("24.08.2023", "2023-08-24"), ("08/24/2023", "2023-08-24"), ("24-8-2023", "2023-08-24"),
        ("8/9/2023", "2023-07-01"),  # August or September
        ("5/5/2023 10:00", "2023-05-05"), (2023, "2023-07-01"), ("1999", "2023-07-01"),
        (" 20230824 ", "2023-08-24"), (20239999.0, "2023-07-01"), ("2023/08/24", "2023-08-24"),
        (1_692_835_200_000, "2023-08-24"), ("24.08.23", ""), ("1985-2001", ""),
    ],
)  # fmt: skip
def test_dates_as_people_write_them(value, date):
    date = date.replace("2023", "1999") if value == "1999" else date
    assert str(parse_source_date(value))[:10] == (date or "NaT")


def test_dates_tell_outlines_of_one_glacier_apart(tmp_path):
    # The rock of the second has no date, the third is alone.
    columns = {"glac_id": [*"aabbc"], "date": ["1985-08-01", "2022-08-01", "1999", "", "2001"],
               "line_type": ["glac_bound"] * 3 + ["intrnl_rock", "glac_bound"]}  # fmt: skip
    shapes = [square(2), square(1), square(1, 5000), square(0.2, 5100, 100), square(1, 9000)]
    outlines = read_outlines(write(tmp_path / "o.gpkg", columns, shapes))
    assert outlines.analysis_id.tolist() == ["a 1985-08-01", "a 2022-08-01", "b", "b", "c"]
    chosen = select_analyses(outlines, "2023-08-01")
    assert chosen.area_km2.round(1).tolist() == [1, 1, 0, 1]


def test_names_that_dbase_cut(tmp_path):
    columns = {"ANALYSIS_I": [3], "GLACIER_ID": ["a"], "SOURCE_DAT": ["2001-08-01"],
               "UNCERTAINT": [15.0], "KIND": ["valley"]}  # fmt: skip
    [row] = read_outlines(write(tmp_path / "o.shp", columns, [square(1)])).itertuples()
    assert (row.analysis_id, row.glacier_id, row.uncertainty_m) == ("3", "a", 15)
    assert (str(row.source_date)[:10], row.kind) == ("2001-08-01", "glacier")


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
    assert found.deviation.tolist() == pytest.approx([4, -0.5], abs=0.01)
    line = "area not as stated, by more than 5 %, 2 of 4: "
    line += "d 1.001 instead of 0.2 km2, b 1.001 instead of 2 km2"
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


def test_empty_geometries_survive(tmp_path):
    table = gpd.GeoDataFrame(
        {"glacier_id": list("abc"), "analysis_id": list("123"), "kind": "glacier",
         "source_date": pd.NaT, "stated_km2": [1.0, 1.0, np.nan], "name": ""},
        geometry=[square(1), shapely.Polygon(), None], crs=UTM,
    )  # fmt: skip
    table["area_km2"] = areas_km2(table.geometry)
    assert table.area_km2[1] == 0
    grid = Grid(UTM, Affine(100, 0, X, 0, -100, Y + 2000), 20, 20)
    assert rasterize(table, grid, band_m=100).max() == 255
    assert (rasterize(table, grid) == 1).sum() == 100
    path = write_glims(table, tmp_path / "g.gpkg", source_date="2023-08")
    assert len(read_outlines(path)) == 1
    assert area_deviations(table).glacier_id.tolist() == ["b"]


def test_real_areas(real_data, tmp_path):
    baker = read_outlines(real_data / "baker_glims" / "baker_glims.geojson")
    assert area_deviations(baker).empty
    # db_area of 6.05577 km2, not area of 6110548 m2.
    assert baker.stated_km2[0] == 6.05577
    names = baker.set_index("glacier_id")["name"]
    assert names[area_deviations(baker, limit=0.02).glacier_id].tolist() == [
        "Boulder Glacier", "Mazama Glacier"
    ]  # fmt: skip
    raw = gpd.read_file(real_data / "baker_glims" / "baker_glims.geojson")
    raw.loc[0, "db_area"] = 2.0
    raw.to_file(tmp_path / "wrong.gpkg")
    found = area_deviations(read_outlines(tmp_path / "wrong.gpkg"))
    assert names[found.glacier_id].tolist() == ["Coleman Glacier"]
    everest = read_outlines(real_data / "everest_landsat7" / "15_rgi60_glacier_outlines.gpkg")
    assert everest.stated_km2.notna().all()
    assert area_deviations(everest).empty


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
    with pytest.raises(GlacierError, match="did you mean 'nearest'"):
        select_analyses(analyses, "2023-08", rule="newest")
    for date in ("2023", "2023-13", "2023-02-30", "august", "2023-8", 2023):
        with pytest.raises(GlacierError, match="is not a date"):
            image_day(date)
    assert image_day("2023-08") == pd.Timestamp("2023-08-15")


# --- overlaps


def hectares(x0: float, y0: float, x1: float, y1: float) -> shapely.Polygon:
    """Return a rectangle in hundreds of metres."""
    return shapely.box(X + 100 * x0, Y + 100 * y0, X + 100 * x1, Y + 100 * y1)


def overlapping(*rows) -> gpd.GeoDataFrame:
    """Make outlines of (glacier, date, geometry[, kind])."""
    shapes = gpd.GeoSeries([row[2] for row in rows], crs=32623)
    return gpd.GeoDataFrame(
        {
            "glacier_id": [row[0] for row in rows],
            "analysis_id": ["1"] * len(rows),
            "kind": [row[3] if len(row) > 3 else "glacier" for row in rows],
            "source_date": pd.to_datetime([row[1] for row in rows]),
            "area_km2": areas_km2(shapes),
        },
        geometry=shapes,
    )


def sizes(outlines: gpd.GeoDataFrame) -> dict[str, float]:
    return (outlines.dissolve("glacier_id").area / 1e4).round(6).to_dict()


def test_the_newer_gets_the_overlap():
    outlines = overlapping(("old", "2001-08-01", hectares(0, 0, 20, 10)), ("new", "2010-08-01", hectares(15, 0, 25, 10)))  # fmt: skip  # noqa: E501
    resolved = resolve_overlaps(outlines)
    assert sizes(resolved) == {"old": 150, "new": 100}
    assert resolved.attrs["report"] == [
        "overlaps given to the newer or larger (0.5 km2): new from old 0.5 km2"
    ]
    assert resolved.area_km2.tolist() == pytest.approx([1.5, 1.0], rel=2e-3)
    assert sizes(outlines) == {"old": 200, "new": 100}


def test_of_equal_dates_the_larger_gets_it_and_no_date_is_old():
    small, large = hectares(15, 0, 25, 10), hectares(0, 0, 20, 10)
    same = overlapping(("small", "2001-08-01", small), ("large", "2001-08-01", large))
    assert sizes(resolve_overlaps(same)) == {"large": 200, "small": 50}
    unknown = overlapping(("small", "1950-01-01", small), ("large", None, large))
    assert sizes(resolve_overlaps(unknown)) == {"large": 150, "small": 100}
    alike = overlapping(("b", "2001-08-01", small), ("a", "2001-08-01", small))
    assert sizes(resolve_overlaps(alike)) == {"a": 100}


def test_slivers_stay():
    outlines = overlapping(("a", "2001-08-01", hectares(0, 0, 10, 10)), ("b", "2001-08-01", hectares(9.99, 0, 20, 10)))  # fmt: skip  # noqa: E501
    # 1 m x 1 km: 0.001 km2 on the map, a little more on the ground.
    assert resolve_overlaps(outlines, min_area_km2=0.0011).attrs["report"] == []
    assert len(resolve_overlaps(outlines, min_area_km2=0.0009).attrs["report"]) == 1


def test_polygons_of_one_glacier_do_not_overlap():
    outlines = overlapping(
        ("a", "2001-08-01", hectares(0, 0, 10, 10)), ("a", "2001-08-01", hectares(5, 0, 15, 10))
    )
    assert resolve_overlaps(outlines).geometry.equals(outlines.geometry)


def test_a_glacier_on_a_nunatak_overlaps_nothing():
    outlines = overlapping(
        ("a", "2001-08-01", hectares(0, 0, 20, 20)),
        ("a", "2001-08-01", hectares(5, 5, 15, 15), "internal_rock"),
        ("b", "1990-08-01", hectares(8, 8, 12, 12)),
    )
    assert sizes(resolve_overlaps(outlines)) == sizes(outlines)
    assert resolve_overlaps(outlines).attrs["report"] == []


def test_what_lies_wholly_inside_goes_with_its_rock():
    outlines = overlapping(
        ("a", "2010-08-01", hectares(0, 0, 20, 20)),
        ("b", "2001-08-01", hectares(5, 5, 15, 15)),
        ("b", "2001-08-01", hectares(8, 8, 12, 12), "internal_rock"),
    )
    resolved = resolve_overlaps(outlines)
    # The ice of b is a's; its rock, which a calls ice, is left over as b's polygon less its ice.
    assert without_rock(resolved).area.sum() == pytest.approx(400e4)
    covered = resolve_overlaps(outlines[:2])
    assert covered.glacier_id.tolist() == ["a"]
    assert covered.attrs["report"][1] == "left out, wholly inside others: b"


def test_outlines_without_crs():
    outlines = overlapping(("a", "2001-08-01", hectares(0, 0, 1, 1)))
    with pytest.raises(GlacierError, match="no CRS"):
        resolve_overlaps(outlines.set_crs(None, allow_override=True))
    assert resolve_overlaps(outlines[:0]).empty


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcde"), st.sampled_from(["1990-01-01", "2001-01-01", None]),
            st.integers(0, 8), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8),
        ),
        min_size=1, max_size=7,
    )
)  # fmt: skip
def test_no_ice_is_lost_and_none_is_counted_twice(rows):
    outlines = overlapping(
        *[
            (name, date, hectares(x, y, x + width, y + height))
            for name, date, x, y, width, height in rows
        ]
    )
    resolved = resolve_overlaps(outlines)
    before, after = outlines.union_all(), resolved.union_all()
    assert before.symmetric_difference(after).area < 1e-3
    glaciers = resolved.dissolve("glacier_id").geometry
    for one, two in itertools.combinations(glaciers, 2):
        assert one.intersection(two).area < 1e-3


def test_real_overlaps(real_data):
    path = real_data / "everest_landsat7" / "15_rgi60_glacier_outlines.gpkg"
    outlines = select_analyses(read_outlines(path).to_crs(32645), "2000-10-30")
    resolved = resolve_overlaps(outlines)
    # Seven pairs, 0.003 to 0.039 km2, as counted with geopandas alone.
    assert "0.12" in resolved.attrs["report"][-1]
    assert "from" in resolved.attrs["report"][-1]
    assert outlines.area.sum() - resolved.area.sum() == pytest.approx(121_573, abs=50)
    assert outlines.union_all().area == pytest.approx(resolved.union_all().area, abs=1)
    baker = read_outlines(real_data / "baker_glims" / "baker_glims.geojson")
    assert resolve_overlaps(baker).geometry.equals(baker.geometry)


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
    burnt = (rasterize(outlines, grid) == 1).sum() * grid.pixel_area_km2
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
