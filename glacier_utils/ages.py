"""How old a label is: years from the outlines' source dates to the image, a window at a time."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import rasterio.features
import shapely

from glacier_utils.grids import Grid
from glacier_utils.outlines import image_day

DAYS_A_YEAR = 365.25


class LabelAge:
    """Ages of outlines burnt on a grid by the rule of pixel centres, as labels are.

    Args:
        outlines: table of ``outlines.read_outlines`` in the CRS of ``grid``, an analysis a glacier.
        grid: of the image.
        date: of the image. Outlines younger than it have an age below zero.
    """

    def __init__(self, outlines: gpd.GeoDataFrame, grid: Grid, date: str) -> None:
        ice = outlines[outlines["kind"] == "glacier"]
        days = (image_day(date) - ice["source_date"]).dt.days.to_numpy(float)
        self.grid = grid
        self._years = days / DAYS_A_YEAR
        self._shapes = ice.geometry.to_numpy()
        self._tree = shapely.STRtree(self._shapes)

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Return years, float32 [row, col]; nan off the outlines and where a date is unknown."""
        window = self.grid.window(row, col, height, width)
        here = np.sort(self._tree.query(window.box))
        if not here.size or np.isnan(self._years[here]).all():
            return np.full((height, width), np.nan, np.float32)
        return rasterio.features.rasterize(
            [(self._shapes[index], self._years[index]) for index in here],
            out_shape=window.shape,
            transform=window.transform,
            fill=np.nan,
            dtype=np.float32,
        )
