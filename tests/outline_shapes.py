"""Outlines and predicted polygons of simple shapes, which several tests share."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio.features
import shapely

from glacier_utils.raster.grid import Grid

UTM = "EPSG:32623"
# What read_outlines returns.
COLUMNS = (
    "glacier_id",
    "analysis_id",
    "kind",
    "source_date",
    "name",
    "uncertainty_m",
    "area_km2",
    "stated_km2",
    "geometry",
)
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


def pixel_polygons(mask: np.ndarray, grid: Grid) -> gpd.GeoDataFrame:
    """The polygons of ``mask`` == 1 along the pixels' edges, largest first.

    Pixels that only touch at a corner are separate polygons.
    """
    ones = (np.asarray(mask) == 1).astype(np.uint8)
    found = [
        shapely.geometry.shape(geometry)
        for geometry, _ in rasterio.features.shapes(ones, ones == 1, 4, grid.transform)
    ]
    pixel = abs(grid.transform.a * grid.transform.e)
    areas = np.array([polygon.area for polygon in found]) / pixel * grid.pixel_area_km2
    frame = gpd.GeoDataFrame({"area_km2": areas.astype(float)}, geometry=found, crs=grid.crs)
    return frame.sort_values("area_km2", ascending=False, kind="stable").reset_index(drop=True)
