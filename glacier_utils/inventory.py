"""The outlines that a database would hold for the synthetic sample: old, shifted, generalised.

They follow the GLIMS ``glims_polygons`` schema and differ from the truth as real ones do. They
show the larger glaciers of 2001 as a person drew them on a 30 m image: moved by some 15 to 30 m,
with corners cut, without the smallest glaciers, with seasonal snow that touched the ice, and with
some nunataks overlooked. One glacier of each area was analysed twice.
"""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import rasterio.features
import shapely
from affine import Affine
from scipy import ndimage
from shapely.geometry import MultiPolygon, Polygon, shape

from glacier_utils.terrain import power_noise
from glacier_utils.world import PIXEL_M, World, north_facing

LEAST_KM2 = 0.10
"""Glaciers smaller than this were left out by whoever drew the outlines."""
NAMES = (
    "Sermeq Kujalleq", "Qingua Sermia", "Nordre Bræ", "Qaqqarsuup Sermia", "Tasersuup Sermia",
    "Sermeerat", "Mellembræ", "Isortup Sermia", "Kangerluup Sermia", "Nunatarsuup Sermia",
)  # fmt: skip


def draw_outlines(
    world: World, transform: Affine, crs: str, rng: np.random.Generator, *, first_analysis: int
) -> gpd.GeoDataFrame:
    """Return the inventory's polygons of one area, EPSG:4326, GLIMS columns.

    ``transform`` is that of ``world.ice_2001_around``, margin included, so that outlines do not
    end at the frame. ``first_analysis`` starts the numbers of the analyses.
    """
    step = 3  # a Landsat pixel of 30 m
    drawn = _as_seen(world, rng)[1::step, 1::step]
    numbers = np.where(drawn, world.glacier_around[1::step, 1::step], 0)
    coarse = transform @ Affine.scale(step)
    warp = _Warp(drawn.shape, coarse, rng)

    outlines = [p for p in _polygons(numbers, coarse) if p.area > _least_area(rng)]
    rows: list[dict[str, Any]] = []
    for rank, outline in enumerate(outlines):
        year = "2000-08-14" if rng.random() < 0.2 else "2001-07-19"
        analyses = [(year, outline)]
        if rank == min(1, len(outlines) - 1):
            analyses.append(("2014-08-22", _later(outline, world, coarse, step)))
        for date, polygon in analyses:
            common = {
                "glacier": rank,
                "anlys_id": first_analysis + len({row["anlys_id"] for row in rows}),
                "src_date": date,
                "glac_name": NAMES[(first_analysis // 1000 + rank) % 10] if rank < 4 else "None",
                "loc_unc_x": int(rng.choice([15, 20, 30])),
            }
            rows += [{**common, **row} for row in _analysis(polygon, warp, rng)]
    return _table(rows, crs)


def _as_seen(world: World, rng: np.random.Generator) -> np.ndarray:
    """Return what looked like glacier in 2001: the ice, and here and there snow against it."""
    ice, height = world.ice_2001_around, world.height_around
    drift = power_noise(ice.shape, rng, exponent=2.5, longest=120)
    score = (
        np.clip((height - world.equilibrium_m) / 120, -3, 0.5) + 0.8 * drift + north_facing(height)
    )
    near = ndimage.distance_transform_edt(~ice) * PIXEL_M < 80
    seen = ice | (near & (score > 1.4) & (height > 5))
    return ndimage.binary_opening(seen, iterations=2)


def _polygons(numbers: np.ndarray, transform: Affine) -> list[Polygon]:
    """Return the connected pieces of equal number as polygons with holes, largest first."""
    pieces = rasterio.features.shapes(
        numbers.astype(np.int32), mask=numbers > 0, transform=transform
    )
    return sorted((shape(geometry) for geometry, _ in pieces), key=lambda p: (-p.area, p.wkt))


def _least_area(rng: np.random.Generator) -> float:
    """Small glaciers are missing below ``LEAST_KM2``, and a third of those up to three times it."""
    return LEAST_KM2 * 1e6 * (3 if rng.random() < 0.33 else 1)


class _Warp:
    """Moves points by the error of an old map: a common shift, and a smooth one around it, in m."""

    def __init__(self, shape_: tuple[int, int], transform: Affine, rng: np.random.Generator):
        angle = rng.uniform(0, 2 * np.pi)
        common = 16.0 * np.array([np.cos(angle), np.sin(angle)])
        self.transform = transform
        self.fields = [
            common[axis] + 9.0 * power_noise(shape_, rng, exponent=3, longest=60) for axis in (0, 1)
        ]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        col = (points[:, 0] - self.transform.c) / self.transform.a
        row = (points[:, 1] - self.transform.f) / self.transform.e
        at = np.stack([row - 0.5, col - 0.5])
        moved = [ndimage.map_coordinates(f, at, order=1, mode="nearest") for f in self.fields]
        return points + np.stack(moved, axis=1)


def _draw(polygon: Polygon, warp: _Warp) -> Polygon | MultiPolygon:
    """Generalise as a hand does: corners cut, bays and spurs below some 30 m lost.

    Where that parts a glacier at a narrow neck, pieces of at least half ``LEAST_KM2`` are kept.
    """
    smooth = polygon.buffer(20).buffer(-35).buffer(15).simplify(12)
    drawn = shapely.make_valid(shapely.transform(smooth, warp))
    parts = [part for part in _parts(drawn) if part.area > LEAST_KM2 * 1e6 / 2]
    if len(parts) > 1:
        return MultiPolygon(parts)
    return max(_parts(drawn), key=lambda part: part.area, default=polygon)


def _parts(geometry: shapely.Geometry) -> list[Polygon]:
    """Return the polygons in any geometry."""
    return [
        part
        for part in shapely.get_parts(geometry, return_index=False)
        if part.geom_type == "Polygon"
    ]


def _later(polygon: Polygon, world: World, transform: Affine, step: int) -> Polygon:
    """Return the same glacier as an analyst of 2014 saw it: half way to its extent of 2023."""
    now = ndimage.distance_transform_edt(~world.ice_around)[1::step, 1::step]
    then = ndimage.distance_transform_edt(world.ice_2001_around)[1::step, 1::step]
    own = rasterio.features.geometry_mask([polygon], now.shape, transform, invert=True)
    pieces = _polygons((own & (now <= then)).astype(int), transform)
    return pieces[0] if pieces else polygon


def _analysis(polygon: Polygon, warp: _Warp, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return a row for the glacier and one for each nunatak that the analyst noticed."""
    outer = _draw(Polygon(polygon.exterior), warp)
    rows = [{"line_type": "glac_bound", "geometry": outer}]
    rocks = sorted((Polygon(ring) for ring in polygon.interiors), key=lambda rock: -rock.area)
    rocks = [rock for rock in rocks if rock.area > 0.012e6]
    if len(rocks) > 3:
        del rocks[int(rng.integers(1, 3))]
    for rock in rocks:
        drawn = _draw(rock, warp).intersection(outer)
        if drawn.geom_type == "Polygon" and drawn.area > 0.005e6:
            rows.append({"line_type": "intrnl_rock", "geometry": drawn})
    return rows


def _table(rows: list[dict[str, Any]], crs: str) -> gpd.GeoDataFrame:
    """Fill the columns of the GLIMS schema: ``area`` in m2, ``db_area`` in km2."""
    drawn = gpd.GeoDataFrame(rows, geometry="geometry", crs=crs)
    area = drawn.geometry.area.round(3)
    drawn = drawn.to_crs("EPSG:4326")
    # A glacier keeps the name that its first analysis gave it, by a point inside it.
    points = drawn.drop_duplicates("glacier").set_index("glacier").representative_point()
    ids = {number: _glims_id(point.x, point.y) for number, point in points.items()}
    uncertainty = drawn["loc_unc_x"]
    table = {
        "line_type": drawn["line_type"],
        "anlys_id": drawn["anlys_id"].astype(float),
        "glac_id": drawn["glacier"].map(ids),
        "anlys_time": drawn["src_date"]
        .map({"2014-08-22": "2016-11-02T00:00:00"})
        .fillna("2009-03-12T00:00:00"),
        "area": area,
        "db_area": (area / 1e6).round(5),
        "width": 0.0,
        "length": 0.0,
        "primeclass": 0.0,
        "min_elev": 0.0,
        "mean_elev": 0.0,
        "max_elev": 0.0,
        "src_date": drawn["src_date"] + "T00:00:00",
        "rec_status": "okay",
        "glac_name": drawn["glac_name"],
        "wgms_id": "None",
        "local_id": "None",
        "glac_stat": "exists",
        "gone_date": "None",
        "gone_dt_e": 0.0,
        "subm_id": 0.0,
        "release_dt": "2017-05-31T00:00:00",
        "proc_desc": "Synthetic: outlines drawn by glacier_utils.sample, not observed.",
        "rc_id": 0.0,
        "geog_area": "Greenland (synthetic)",
        "chief_affl": "None",
        "conn_lvl": 0.0,
        "surge_type": 0.0,
        "term_type": 0.0,
        "gtng_o1reg": 5.0,
        "gtng_o2reg": 1.0,
        "rgi_gl_typ": "None",
        "loc_unc_x": uncertainty,
        "loc_unc_y": uncertainty,
        "glob_unc_x": uncertainty + 15,
        "glob_unc_y": uncertainty + 15,
        "submitters": "None",
        "analysts": "None",
    }
    return gpd.GeoDataFrame(table, geometry=drawn.geometry, crs="EPSG:4326")


def _glims_id(longitude: float, latitude: float) -> str:
    """Name a glacier the GLIMS way: thousandths of a degree, east of Greenwich and north."""
    return f"G{round(longitude % 360 * 1000):06d}E{round(latitude * 1000):05d}N"
