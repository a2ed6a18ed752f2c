"""Glacier outlines: read, choose an analysis by date, rasterise; and the way back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import rasterio.features
import shapely
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path
from glacier_utils.grids import Grid, same_crs
from glacier_utils.inventories import areas_km2, clean_text, read_table
from glacier_utils.masks import UNKNOWN, Mask

RULES = ("nearest", "before", "latest")


def read_outlines(
    path: str | Path, *, bounds: Sequence[float] | None = None, crs: CRS | None = None
) -> gpd.GeoDataFrame:
    """Read a GLIMS or RGI file (or any polygons) into one table.

    Args:
        path: .shp, .zip with one, .gpkg or .geojson, in any CRS.
        bounds: (xmin, ymin, xmax, ymax) in ``crs``: only outlines that touch it are read.
        crs: CRS of ``bounds`` and of the result; None keeps the file's.

    Returns:
        A row a polygon: glacier_id, analysis_id, kind ("glacier" or "internal_rock"), source_date
        (datetime64, NaT unknown), name, uncertainty_m (nan unknown), area_km2 (of the polygon as it
        stands, on an equal-area projection), geometry. ``.attrs["report"]`` lists what was mended
        or left out.

    Raises:
        GlacierError: a file that is missing, broken, without CRS or without polygons.
    """
    return read_table(path, bounds=bounds, crs=crs)


def image_day(date: str) -> pd.Timestamp:
    """Return the day of an image; of a month ("2023-08") its middle.

    Raises:
        GlacierError: ``date`` is neither YYYY-MM nor YYYY-MM-DD.
    """
    for form, days in (("%Y-%m-%d", 0), ("%Y-%m", 14)):
        try:
            if len(date) == {0: 10, 14: 7}[days]:
                return pd.to_datetime(date, format=form) + pd.Timedelta(days=days)
        except (ValueError, TypeError):
            continue
    raise GlacierError(f"{date!r} is not a date; write it as 2023-08 or 2023-08-24")


def select_analyses(
    outlines: gpd.GeoDataFrame, date: str, *, rule: str = "nearest"
) -> gpd.GeoDataFrame:
    """Keep one analysis of each glacier, with the internal rock that belongs to it.

    Args:
        outlines: table of ``read_outlines``.
        date: of the image.
        rule: "nearest" in time to the image; "before": the last not after the image, and a glacier
            with none is left out and reported; "latest". Ties go to the analysis with the higher
            number. An unknown date is the last choice of every rule.

    Raises:
        GlacierError: an unknown rule or a date that is none.
    """
    if rule not in RULES:
        raise GlacierError(f"rule {rule!r} for choosing analyses: known are {', '.join(RULES)}")
    day = image_day(date)
    ice = outlines[outlines.kind == "glacier"]
    analyses = ice.groupby(["glacier_id", "analysis_id"], as_index=False)["source_date"].max()
    age = (day - analyses.source_date).dt.days.astype(float)
    if rule == "before":
        analyses, age = analyses[~(age < 0)], age[~(age < 0)]
    rank = {"nearest": age.abs(), "before": age, "latest": age}[rule].fillna(math.inf)
    number = pd.to_numeric(analyses.analysis_id, errors="coerce").fillna(-1)
    best = (
        analyses.assign(_rank=rank, _number=-number)
        .sort_values(["glacier_id", "_rank", "_number", "analysis_id"])
        .drop_duplicates("glacier_id")
    )
    chosen = pd.MultiIndex.from_frame(best[["glacier_id", "analysis_id"]])
    keys = pd.MultiIndex.from_frame(outlines[["glacier_id", "analysis_id"]])
    result = outlines[keys.isin(chosen)].reset_index(drop=True)
    report = [*outlines.attrs.get("report", [])]
    dropped = ice.glacier_id.nunique() - best.shape[0]
    if dropped:
        report.append(f"left out, no analysis before {date}: {dropped} glaciers")
    result.attrs["report"] = report
    return result


def rasterise(outlines: gpd.GeoDataFrame, grid: Grid, *, band_m: float = 0.0) -> np.ndarray:
    """Burn outlines into a label: 1 where a pixel's centre is on a glacier and not on its rock.

    Args:
        outlines: table of ``read_outlines``, one analysis a glacier.
        grid: where to.
        band_m: pixels whose centre is nearer than this to the edge of the ice are 255. The edge is
            that of all ice together: a divide between two glaciers has ice on both sides.

    Returns:
        uint8 [row, col] of 0, 1 and 255.

    Raises:
        GlacierError: the grid has no CRS, or a band is wanted on one that is not in metres.
    """
    return OutlineMask(outlines, grid, band_m=band_m).read()


class OutlineMask(Mask):
    """Outlines as a label, burnt a window at a time; the arguments are those of ``rasterise``."""

    def __init__(self, outlines: gpd.GeoDataFrame, grid: Grid, *, band_m: float = 0.0) -> None:
        if grid.crs is None:
            raise GlacierError(
                "the image has no CRS, so outlines cannot be laid on it; georeference the image or "
                "give `labels` as rasters"
            )
        if band_m < 0:
            raise GlacierError(f"band_m {band_m}: the width of the band must not be negative")
        if band_m and not grid.crs.is_projected:
            raise GlacierError(
                "band_m is a width in metres, but the image's CRS is in degrees; warp the image "
                "to a projected CRS such as UTM"
            )
        self.grid = grid
        self._reach = band_m / grid.metres_per_unit if band_m else 0.0
        outlines = _in_crs(outlines, grid.crs)
        self._ice = outlines.geometry[outlines.kind == "glacier"].to_numpy()
        self._rock = outlines.geometry[outlines.kind == "internal_rock"].to_numpy()
        self._ice_tree, self._rock_tree = (
            shapely.STRtree(self._ice), shapely.STRtree(self._rock)
        )  # fmt: skip

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """Read a window as uint8 [row, col]; 255 outside the frame."""
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        window = self.grid.window(row, col, height, width)
        area = shapely.box(*window.bounds)
        if self._reach:
            area = area.buffer(self._reach, join_style="mitre")
        ice = self._ice[np.sort(self._ice_tree.query(area))]
        rock = self._rock[np.sort(self._rock_tree.query(area))]
        label = _burn([(ice, 1), (rock, 0)], window)
        if self._reach and len(ice):
            near = _edge(ice, rock, area).buffer(self._reach, quad_segs=16)
            label[_burn([([near], 1)], window) == 1] = UNKNOWN
        _blank_outside(label, row, col, self.grid)
        return label


def _in_crs(outlines: gpd.GeoDataFrame, crs: CRS) -> gpd.GeoDataFrame:
    if outlines.crs is None:
        raise GlacierError("the outlines have no CRS; set the one they were drawn in")
    if same_crs(CRS.from_user_input(outlines.crs), crs):
        return outlines
    return outlines.to_crs(pyproj.CRS.from_user_input(crs))


def _burn(layers: Sequence[tuple[Sequence[shapely.Geometry], int]], grid: Grid) -> np.ndarray:
    shapes = [
        (geometry, value)
        for geometries, value in layers
        for geometry in geometries
        if not geometry.is_empty
    ]
    if not shapes:
        return np.zeros(grid.shape, np.uint8)
    # Later shapes overwrite earlier ones; all_touched=False is the pixel-centre rule.
    return rasterio.features.rasterize(
        shapes, out_shape=grid.shape, transform=grid.transform, fill=0, dtype=np.uint8
    )


def _edge(
    ice: Sequence[shapely.Geometry], rock: Sequence[shapely.Geometry], area: shapely.Polygon
) -> shapely.Geometry:
    """Return the edge of the ice inside ``area``, without the cut along the area itself."""
    # Cut with room to spare, so that the cut's own line can be told from the ice's edge.
    room = area.buffer(1 + 0.1 * math.sqrt(area.area), join_style="mitre")
    xmin, ymin, xmax, ymax = room.bounds
    # Where a glacier only touches the cut, clipping leaves lines and points.
    pieces = shapely.get_parts(shapely.clip_by_rect(ice, xmin, ymin, xmax, ymax))
    near = shapely.union_all(pieces[shapely.get_dimensions(pieces) == 2])
    if len(rock):
        near = near.difference(shapely.union_all(rock))
    edges = shapely.get_parts(near)
    edges = shapely.boundary(edges[shapely.get_dimensions(edges) == 2])
    return shapely.intersection(shapely.union_all(edges), area)


def _blank_outside(label: np.ndarray, row: int, col: int, grid: Grid) -> None:
    """Set the part of a window that sticks out of the frame to unknown, in place."""
    rows = np.arange(row, row + label.shape[0])
    cols = np.arange(col, col + label.shape[1])
    label[(rows < 0) | (rows >= grid.height), :] = UNKNOWN
    label[:, (cols < 0) | (cols >= grid.width)] = UNKNOWN


def vectorise(mask: np.ndarray, grid: Grid, *, min_area_km2: float = 0.0) -> gpd.GeoDataFrame:
    """Return the polygons of ``mask`` == 1 along the pixels' edges, largest first.

    Pixels that only touch at a corner are separate polygons. ``area_km2`` counts the grid's pixels.
    """
    mask = np.asarray(mask)
    if mask.shape != grid.shape:
        raise ValueError(f"a mask of shape {mask.shape} does not fit a grid of {grid.shape}")
    ones = (mask == 1).astype(np.uint8)
    found = [
        shapely.geometry.shape(geometry)
        for geometry, _ in rasterio.features.shapes(ones, ones.astype(bool), 4, grid.transform)
    ]
    pixel = abs(grid.transform.a * grid.transform.e)
    areas = np.array([polygon.area for polygon in found]) / pixel * grid.pixel_area_km2
    crs = None if grid.crs is None else pyproj.CRS.from_user_input(grid.crs)
    frame = gpd.GeoDataFrame({"area_km2": areas.astype(float)}, geometry=found, crs=crs)
    frame = frame[~(frame.area_km2 < min_area_km2)]
    return frame.sort_values("area_km2", ascending=False, kind="stable").reset_index(drop=True)


def write_glims(
    polygons: gpd.GeoDataFrame,
    path: str | Path,
    *,
    source_date: str,
    analysis_time: str | None = None,
    method: str = "",
) -> Path:
    """Write polygons as glac_bound rows of the GLIMS schema: GeoPackage, EPSG:4326.

    Holes stay holes of their polygon. A glacier's identifier is made from a point inside it, as
    GLIMS does (GxxxxxxEyyyyyN: thousandths of a degree, longitude 0..360).

    Raises:
        GlacierError: the polygons have no CRS, or a date is none.
    """
    if polygons.crs is None:
        raise GlacierError(f"{path}: the polygons have no CRS, so they cannot be written as GLIMS")
    day = image_day(source_date)
    analysed = image_day(analysis_time) if analysis_time else day
    geographic = polygons.geometry.to_crs("EPSG:4326")
    areas = areas_km2(geographic)
    count = len(geographic)
    table = gpd.GeoDataFrame(
        {
            "line_type": ["glac_bound"] * count,
            "glac_id": _glims_ids(geographic),
            "anlys_id": np.arange(1, count + 1),
            "anlys_time": pd.Series([analysed] * count, dtype="datetime64[s]"),
            "src_date": pd.Series([day] * count, dtype="datetime64[s]"),
            "area": areas * 1e6,
            "db_area": areas,
            "proc_desc": [clean_text(method, 255)] * count,
        },
        geometry=geographic.to_numpy(),
        crs="EPSG:4326",
    )
    with atomic_path(path) as temporary:
        table.to_file(temporary, layer="glims_polygons", driver="GPKG", geometry_type="Unknown")
    return Path(path)


def _glims_ids(geometry: gpd.GeoSeries) -> list[str]:
    identifiers: list[str] = []
    taken: set[str] = set()
    for point in geometry.representative_point():
        east, north = round(point.x % 360 * 1000), round(point.y * 1000)
        name = f"G{east % 360000:06d}E{abs(north):05d}{'N' if north >= 0 else 'S'}"
        # Two small glaciers within a thousandth of a degree must not become one.
        while name in taken:
            east += 1
            name = f"G{east % 360000:06d}E{abs(north):05d}{'N' if north >= 0 else 'S'}"
        taken.add(name)
        identifiers.append(name)
    return identifiers
