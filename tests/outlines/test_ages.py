"""Ages of labels."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from glacier_utils.outlines.rasterization import LabelAge
from glacier_utils.raster.grid import Grid

GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 500_000, 0, -10, 6_800_000), 40, 60)


def box(col0, row0, col1, row1):
    return shapely.box(
        500_000 + 10 * col0, 6_800_000 - 10 * row1, 500_000 + 10 * col1, 6_800_000 - 10 * row0
    )


def outlines(*rows):
    return gpd.GeoDataFrame(
        {
            "kind": [row[0] for row in rows],
            "source_date": pd.to_datetime([row[1] for row in rows]),
        },
        geometry=[row[2] for row in rows],
        crs=32623,
    )


def test_years_lie_where_the_outlines_do():
    table = outlines(
        ("glacier", "2003-08-15", box(0, 0, 20, 40)),
        ("glacier", "2024-02-15", box(20, 0, 30, 40)),
        ("glacier", None, box(30, 0, 40, 40)),
        ("internal_rock", "1990-08-15", box(50, 0, 60, 40)),
    )
    ages = LabelAge(table, GRID, "2023-08-15")
    years = ages.read(0, 0, 40, 60)
    assert years.dtype == np.float32
    assert years[:, :20] == pytest.approx(20.0, abs=0.01)
    assert years[:, 20:30] == pytest.approx(-0.504, abs=0.01)  # younger than the image
    assert np.isnan(years[:, 30:]).all()
    np.testing.assert_array_equal(ages.read(5, 15, 10, 20), years[5:15, 15:35])
    # Beyond the frame lies no label, but a window may reach there.
    assert ages.read(-8, 50, 16, 16).shape == (16, 16)


def test_no_outlines_have_no_age():
    assert np.isnan(LabelAge(outlines(), GRID, "2023-08").read(0, 0, 8, 8)).all()
    undated = outlines(("glacier", None, box(0, 0, 60, 40)))
    assert np.isnan(LabelAge(undated, GRID, "2023-08").read(0, 0, 8, 8)).all()
