"""Outlines and predicted polygons of simple shapes, which several tests share."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

UTM = "EPSG:32623"
ORIGIN = np.array([500_000.0, 6_800_000.0])


def box(xmin: float, ymin: float, xmax: float, ymax: float) -> shapely.Polygon:
    """A box with corners in km."""
    return shapely.box(*(np.array([xmin, ymin, xmax, ymax]) * 1000 + np.tile(ORIGIN, 2)))


def inventory(glaciers: dict, rock: dict | None = None) -> gpd.GeoDataFrame:
    rows = [(name, "glacier", shape) for name, shape in glaciers.items()]
    rows += [(name, "internal_rock", shape) for name, shape in (rock or {}).items()]
    return gpd.GeoDataFrame(
        {
            "glacier_id": [row[0] for row in rows],
            "analysis_id": "1",
            "kind": [row[1] for row in rows],
            "source_date": pd.Timestamp("2001-08-01"),
            "name": [f"Sermeq {row[0]}" for row in rows],
            "uncertainty_m": 15.0,
        },
        geometry=[row[2] for row in rows],
        crs=UTM,
    )


def predicted(*shapes: shapely.Geometry) -> gpd.GeoDataFrame:
    areas = [shape.area / 1e6 for shape in shapes]
    return gpd.GeoDataFrame({"area_km2": areas}, geometry=list(shapes), crs=UTM)


TWO = {"A": box(0, 0, 2, 1), "B": box(2, 0, 4, 1)}
