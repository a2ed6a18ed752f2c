"""Overlaps of glaciers: who gets them, what is reported, and that no ice is lost."""

from __future__ import annotations

import itertools

import geopandas as gpd
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from glacier_utils.errors import GlacierError
from glacier_utils.outlines.inventory import (
    areas_km2,
    resolve_overlaps,
    select_analyses,
    without_rock,
)
from glacier_utils.outlines.rasterization import read_outlines

X, Y = 450_000, 6_780_000


def box(x0: float, y0: float, x1: float, y1: float) -> shapely.Polygon:
    """Return a rectangle in hundreds of metres."""
    return shapely.box(X + 100 * x0, Y + 100 * y0, X + 100 * x1, Y + 100 * y1)


def table(*rows) -> gpd.GeoDataFrame:
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
    outlines = table(("old", "2001-08-01", box(0, 0, 20, 10)), ("new", "2010-08-01", box(15, 0, 25, 10)))  # fmt: skip  # noqa: E501
    resolved = resolve_overlaps(outlines)
    assert sizes(resolved) == {"old": 150, "new": 100}
    assert resolved.attrs["report"] == [
        "overlaps given to the newer or larger (0.5 km2): new from old 0.5 km2"
    ]
    assert resolved.area_km2.tolist() == pytest.approx([1.5, 1.0], rel=2e-3)
    assert sizes(outlines) == {"old": 200, "new": 100}


def test_of_equal_dates_the_larger_gets_it_and_no_date_is_old():
    small, large = box(15, 0, 25, 10), box(0, 0, 20, 10)
    same = table(("small", "2001-08-01", small), ("large", "2001-08-01", large))
    assert sizes(resolve_overlaps(same)) == {"large": 200, "small": 50}
    unknown = table(("small", "1950-01-01", small), ("large", None, large))
    assert sizes(resolve_overlaps(unknown)) == {"large": 150, "small": 100}
    alike = table(("b", "2001-08-01", small), ("a", "2001-08-01", small))
    assert sizes(resolve_overlaps(alike)) == {"a": 100}


def test_slivers_stay():
    outlines = table(("a", "2001-08-01", box(0, 0, 10, 10)), ("b", "2001-08-01", box(9.99, 0, 20, 10)))  # fmt: skip  # noqa: E501
    # 1 m x 1 km: 0.001 km2 on the map, a little more on the ground.
    assert resolve_overlaps(outlines, min_area_km2=0.0011).attrs["report"] == []
    assert len(resolve_overlaps(outlines, min_area_km2=0.0009).attrs["report"]) == 1


def test_polygons_of_one_glacier_do_not_overlap():
    outlines = table(("a", "2001-08-01", box(0, 0, 10, 10)), ("a", "2001-08-01", box(5, 0, 15, 10)))
    assert resolve_overlaps(outlines).geometry.equals(outlines.geometry)


def test_a_glacier_on_a_nunatak_overlaps_nothing():
    outlines = table(
        ("a", "2001-08-01", box(0, 0, 20, 20)),
        ("a", "2001-08-01", box(5, 5, 15, 15), "internal_rock"),
        ("b", "1990-08-01", box(8, 8, 12, 12)),
    )
    assert sizes(resolve_overlaps(outlines)) == sizes(outlines)
    assert resolve_overlaps(outlines).attrs["report"] == []


def test_what_lies_wholly_inside_goes_with_its_rock():
    outlines = table(
        ("a", "2010-08-01", box(0, 0, 20, 20)),
        ("b", "2001-08-01", box(5, 5, 15, 15)),
        ("b", "2001-08-01", box(8, 8, 12, 12), "internal_rock"),
    )
    resolved = resolve_overlaps(outlines)
    # The ice of b is a's; its rock, which a calls ice, is left over as b's polygon less its ice.
    assert without_rock(resolved).area.sum() == pytest.approx(400e4)
    covered = resolve_overlaps(outlines[:2])
    assert covered.glacier_id.tolist() == ["a"]
    assert covered.attrs["report"][1] == "left out, wholly inside others: b"


def test_outlines_without_crs():
    outlines = table(("a", "2001-08-01", box(0, 0, 1, 1)))
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
    outlines = table(
        *[
            (name, date, box(x, y, x + width, y + height))
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
