"""Predicted polygons in the schema of GLIMS, and the same reader reading them back."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.glims import write_glims
from glacier_utils.grids import Grid
from glacier_utils.inventories import area_deviations, areas_km2, without_rock
from glacier_utils.outlines import (
    rasterise,
    read_outlines,
    resolve_overlaps,
    select_analyses,
    vectorise,
)

GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 450_000, 0, -10, 6_780_000), 24, 30)


def ring_and_island() -> np.ndarray:
    """Return a glacier of 20 x 20 px with a nunatak of 10 x 10, on it one of 4 x 4 with a hole."""
    mask = np.zeros(GRID.shape, np.uint8)
    mask[2:22, 2:22] = 1
    mask[7:17, 7:17] = 0
    mask[10:14, 10:14] = 1
    mask[11, 11] = 0
    return mask


def test_rows_and_columns(tmp_path):
    path = write_glims(
        vectorise(ring_and_island(), GRID), tmp_path / "g.gpkg", source_date="2023-08-24",
        analysis_time="2026-01", method="U-Net\n\u202e, threshold 0.5", uncertainty_m=15,
    )  # fmt: skip
    raw = gpd.read_file(path, layer="glims_polygons")
    assert raw.crs == "EPSG:4326"
    assert raw.line_type.tolist() == ["glac_bound", "intrnl_rock"] * 2
    assert raw.anlys_id.tolist() == [1, 1, 2, 2]
    assert raw.glac_id.nunique() == 2
    assert raw.groupby("glac_id").anlys_id.nunique().tolist() == [1, 1]
    assert (raw.src_date == pd.Timestamp("2023-08-24")).all()
    assert (raw.anlys_time == pd.Timestamp("2026-01-15")).all()
    assert (raw.proc_desc == "U-Net , threshold 0.5").all()
    assert (raw[["loc_unc_x", "loc_unc_y", "glob_unc_x", "glob_unc_y"]] == 15).all(axis=None)
    # 300 px of 100 m2 and 15; UTM is 0.9996 long at its meridian.
    assert raw["area"].tolist() == pytest.approx(
        [30000 / 0.9996**2] * 2 + [1500 / 0.9996**2] * 2, rel=2e-4
    )
    np.testing.assert_allclose(raw.db_area, raw["area"] / 1e6)
    outer, rock, island, pit = raw.to_crs(32623).geometry
    # The island is a hole of the glacier and of its rock; the island itself is written filled.
    assert [round(shape.area / 100) for shape in (outer, rock, island, pit)] == [384, 84, 16, 1]
    assert [len(shape.interiors) for shape in (outer, rock, island, pit)] == [1, 1, 0, 0]


def test_what_is_read_back(tmp_path):
    path = write_glims(
        vectorise(ring_and_island(), GRID), tmp_path / "g.gpkg", source_date="2023-08",
        uncertainty_m=15,
    )  # fmt: skip
    raw, outlines = gpd.read_file(path), read_outlines(path)
    assert outlines.glacier_id.tolist() == raw.glac_id.tolist()
    assert outlines.analysis_id.tolist() == raw.anlys_id.astype(str).tolist()
    assert outlines.kind.tolist() == ["glacier", "internal_rock"] * 2
    assert (outlines.source_date == pd.Timestamp("2023-08-15")).all()
    assert (outlines.uncertainty_m == 15).all()
    assert outlines.stated_km2.tolist() == raw.db_area.tolist()
    assert outlines.attrs["report"] == []
    np.testing.assert_allclose(areas_km2(without_rock(outlines)), raw.db_area[[0, 2]], rtol=1e-6)
    assert area_deviations(outlines, limit=1e-6).empty
    own = rasterise(outlines, GRID, band_m="own")
    np.testing.assert_array_equal(own, rasterise(outlines, GRID, band_m=15))


def test_an_uncertainty_that_is_not_stated(tmp_path):
    polygons = vectorise(np.ones(GRID.shape), GRID)
    path = write_glims(polygons, tmp_path / "g.gpkg", source_date="2023-08")
    assert (gpd.read_file(path).loc_unc_x == 0).all()
    assert read_outlines(path).uncertainty_m.isna().all()
    for wrong in (-1, np.nan, np.inf):
        with pytest.raises(GlacierError, match="must be metres, 0 or more"):
            write_glims(polygons, path, source_date="2023-08", uncertainty_m=wrong)


def test_multipolygons_and_empty_ones(tmp_path):
    parts = shapely.MultiPolygon([shapely.box(450_000, 6_779_900, 450_050, 6_780_000),
                                  shapely.box(450_100, 6_779_900, 450_150, 6_780_000)])  # fmt: skip
    polygons = gpd.GeoDataFrame(geometry=[shapely.Polygon(), parts, None], crs=32623)
    path = write_glims(polygons, tmp_path / "g.gpkg", source_date="2023-08")
    raw = gpd.read_file(path)
    assert raw.line_type.tolist() == ["glac_bound"]
    assert len(raw.geometry[0].geoms) == 2
    assert (rasterise(read_outlines(path), GRID) == 1).sum() == 100


@settings(max_examples=20)
@given(mask=arrays.arrays(np.uint8, GRID.shape, elements=st.sampled_from([0, 1, 1, 1, 255])))
def test_any_mask_comes_back(tmp_path_factory, mask):
    polygons = vectorise(mask, GRID)
    path = tmp_path_factory.mktemp("glims") / "g.gpkg"
    write_glims(polygons, path, source_date="2023-08", uncertainty_m=10)
    outlines = read_outlines(path, bounds=GRID.bounds, crs=GRID.crs)
    np.testing.assert_array_equal(rasterise(outlines, GRID) == 1, mask == 1)
    # Any order of rows, any reader that subtracts all rock from all ice.
    everything = outlines.drop(columns=["glacier_id", "analysis_id"])
    np.testing.assert_array_equal(rasterise(everything, GRID) == 1, mask == 1)
    chosen = select_analyses(outlines, "2023-08")
    assert len(chosen) == len(outlines)
    assert resolve_overlaps(chosen, min_area_km2=1e-6).attrs["report"] == []
    ice = outlines[outlines.kind == "glacier"]
    assert ice.glacier_id.is_unique
    assert len(ice) == len(polygons)
    assert sorted(areas_km2(without_rock(outlines))) == pytest.approx(
        sorted(areas_km2(polygons.geometry)), rel=1e-6
    )
