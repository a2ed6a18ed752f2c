"""The synthetic sample: a dataset folder in the shape of the Narsarsuaq patches, truth known.

Two glacier areas of South Greenland that never were, in July and August 2023. The land is cut by
rivers and ice (``terrain``, ``ground``), glaciers grow and shrink by mass balance and shallow-ice
flow (``glaciers``), and sun, surfaces, air and sensor make the images (``rendering``). The margin
of an ice sheet enters the test area.

The outlines are what a database would hold: they follow the GLIMS ``glims_polygons`` schema and
differ from the truth as real ones do. They show the larger glaciers of 2001 as a person drew them
on a 30 m image: moved by some 15 to 30 m, with corners cut, without the smallest glaciers, with
seasonal snow that touched the ice, and with some nunataks overlooked. One glacier of each area was
analysed twice. The ice sheet is no glacier of the inventory: a rough polygon around it
(``ice_outside``) makes the labels unknown there, and the truth is unknown on its ice.

Nothing can be taken for an observation: identifiers, names and metadata of the outlines, the tags
of the images and the manifest (``synthetic``) say that they are synthetic, and no identifier could
be one of GLIMS.

How hard it is comes from the ground: debris on the tongues, ice of 2001 beyond today's, seasonal
snow off the glaciers, shadow; never from noise.

The true glacier mask of July equals that of August: a month moves the ice margin by metres, less
than a pixel; what differs between the dates is snow, light and air.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import rasterio.features
import shapely
from affine import Affine
from rasterio.crs import CRS
from scipy import ndimage
from shapely.geometry import MultiPolygon, Polygon, shape
from tqdm import tqdm

from glacier_utils.conventions import BANDS, SYNTHETIC, UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path
from glacier_utils.imagery.source import Source
from glacier_utils.raster.grid import Image
from glacier_utils.synthetic.glaciers import EDGE, Landscape, Setting, build_landscape, inner
from glacier_utils.synthetic.rendering import Look, Season, render
from glacier_utils.synthetic.terrain import PIXEL_M, Relief, power_noise, shade

HEAD = "name: sample"
PATCH = 128
CRS_NAME = "EPSG:32623"
STEP = 3
"""Pixels of the images in one of Landsat (30 m), on which the outlines were drawn."""
_CRS = CRS.from_string(CRS_NAME)
SCALE, OFFSET, NODATA = 10000, -1000, 0
SEASONS = (
    Season("2023-07", 40, 163, snow_line_m=-150, snow_age=0.3, green=0.7, sea_ice=0.02),
    Season("2023-08", 49, 166, snow_line_m=100, snow_age=0.7, green=0.45, sea_ice=0.0),
)
LEAST_KM2 = 0.10
"""Glaciers smaller than this were left out by whoever drew the outlines."""


@dataclass(frozen=True)
class Area:
    """One area of the sample.

    Attributes:
        name: of the area.
        corner: its upper left corner in UTM metres.
        patches: rows and columns of them.
        setting: of the landscape.
        look: of its images.
        swath_edge: the date on which a corner of the area was not seen.
        cloudy: the date on which thin cloud hangs over another corner; "" for none.
    """

    name: str
    corner: tuple[float, float]
    patches: int
    setting: Setting
    look: Look
    swath_edge: str
    cloudy: str = ""


AREAS = (
    Area(
        "train", (470_400.0, 6_793_600.0), 16,
        Setting(
            Relief(summit=2000, fjord=((1.05, 0.1), (0.75, 1.05)), fjord_km=1.8, grain_km=7,
                   roughness=1.0),
            fraction_above=0.14, warming_m=14, debris=0.24,
        ),
        Look((1.0, 1.0, 1.0, 1.0), 0.0, 0.5, haze=0.020, patchiness=90),
        swath_edge="2023-08",
    ),
    Area(
        "test", (497_600.0, 6_781_600.0), 26,
        Setting(
            Relief(summit=2250, fjord=((0.68, -0.1), (0.40, 1.1)), fjord_km=1.6, grain_km=5,
                   roughness=1.1, sheet_side="east"),
            fraction_above=0.15, warming_m=16, debris=0.17,
        ),
        Look((1.07, 1.0, 0.94, 1.03), 0.1, 0.6, haze=0.035, patchiness=110, vegetation=0.3),
        swath_edge="2023-07", cloudy="2023-07",
    ),
)  # fmt: skip


def make_sample(
    folder: str | Path,
    *,
    seed: int = 0,
    areas: int = 0,
    progress: bool = False,
    _patches: int | None = None,
) -> Path:
    """Write the sample dataset.

    An earlier sample in the folder is replaced as a whole once the new one is complete.

    Args:
        folder: where to.
        seed: the same gives the same bytes on every processor, others give other landscapes.
        areas: number of further test landscapes, named test2, test3 and so on.
        progress: whether to show a bar.
        _patches: rows and columns of patches, smaller ones for tests.

    Returns:
        The path of its ``dataset.yaml``.

    Raises:
        GlacierError: the folder holds anything else than a sample.
    """
    folder = Path(folder)
    _check_free(folder)
    chosen = [*AREAS, *(further_area(seed, number) for number in range(2, areas + 2))]
    if _patches:
        chosen = [replace(area, patches=_patches) for area in chosen]
    with (
        atomic_path(folder) as work,
        tqdm(total=len(chosen) * (1 + len(SEASONS)), desc="sample", disable=not progress) as bar,
        # NumPy frees the interpreter in long operations, so two threads keep two cores busy.
        ThreadPoolExecutor(max_workers=2) as pool,
    ):
        write = partial(_write_area, work, pool=pool, done=bar.update)
        # The largest first: the smallest, the first area, fills the gap at the end.
        numbered = reversed([*enumerate(chosen)])
        tasks = [pool.submit(write, area, (seed, number)) for number, area in numbered]
        outlines = pd.concat([task.result() for task in reversed(tasks)], ignore_index=True)
        _write_outlines(_numbered(outlines), work / "glims_download")
        (work / "dataset.yaml").write_text(_manifest(work, chosen), encoding="utf-8")
    return folder / "dataset.yaml"


def further_area(seed: int, number: int) -> Area:
    """Return a further test area, its setting drawn from what the first two lie between.

    Args:
        seed: of the sample.
        number: from 2 on; the area is called by it.
    """
    draw = np.random.default_rng((seed, number, 3)).uniform
    like = AREAS[number % 2]
    row, col = divmod(number - 2, 4)
    corner = (459_200.0 + 38_400 * col, 6_832_000.0 + 38_400 * row)
    fjord = ((draw(0.2, 1.05), -0.1), (draw(0.6, 1.1), 1.1))
    relief = Relief(draw(1900, 2350), fjord, draw(1.3, 2.0), draw(5, 7.5), draw(1.0, 1.1))
    setting = Setting(relief, draw(0.12, 0.17), warming_m=draw(12, 20), debris=draw(0.15, 0.24))
    look = replace(
        like.look, rock_level=draw(-0.3, 0.6), haze=draw(0.015, 0.04), vegetation=draw(-0.2, 0.5)
    )
    return Area(f"test{number}", corner, AREAS[1].patches, setting, look, like.swath_edge)


def _check_free(folder: Path) -> None:
    """Refuse to replace a folder that is not a sample."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    manifest = folder / "dataset.yaml"
    if not manifest.is_file() or not manifest.read_text(encoding="utf-8").startswith(HEAD):
        raise GlacierError(
            f"{folder}: holds something other than the synthetic sample, which would replace it; "
            "name a new or empty folder"
        )


def _write_area(
    folder: Path,
    area: Area,
    seed: tuple[int, int],
    *,
    pool: ThreadPoolExecutor,
    done: Callable[[], object],
) -> gpd.GeoDataFrame:
    """Make one area, write its dates and return its outlines; ``done`` is called after a step."""
    size = area.patches * PATCH
    landscape = build_landscape(size, size, area.setting, np.random.default_rng((*seed, 0)))
    corner = Affine(PIXEL_M, 0, area.corner[0], 0, -PIXEL_M, area.corner[1])
    around = corner @ Affine.translation(-EDGE, -EDGE)
    outlines = draw_outlines(landscape, around, np.random.default_rng((*seed, 1)))
    outlines["glac_id"] = area.name + outlines["glac_id"]
    sheet, target = draw_ice_sheet(landscape, around), folder / "ice_outside"
    if len(sheet):
        target.mkdir(parents=True, exist_ok=True)
        sheet.to_file(target / f"{area.name}.geojson", engine="pyogrio", COORDINATE_PRECISION=5)
    done()

    def write(when: int) -> None:
        _write_date(folder, area, SEASONS[when], landscape, corner, (*seed, 2, when))
        done()

    # The other thread takes the second date if it is idle by then; else this one does.
    second = pool.submit(write, 1)
    write(0)
    if second.cancel():
        write(1)
    else:
        second.result()
    return outlines


def _write_date(
    folder: Path,
    area: Area,
    season: Season,
    landscape: Landscape,
    corner: Affine,
    seed: tuple[int, ...],
) -> None:
    """Render one date of one area and write its patches: image, truth, surface, perhaps cloud."""
    cloud = season.date == area.cloudy
    scene = render(landscape, area.look, season, seed, cloud=cloud)
    numbers = np.empty(scene.reflectance.shape, np.uint16)
    for band, reflectance in zip(numbers, scene.reflectance, strict=True):
        band[:] = np.clip(np.rint(reflectance * SCALE - OFFSET), 1, 65535)
    if season.date == area.swath_edge:
        # The lower right corner lies outside the satellite's swath.
        height, width = landscape.ice.shape
        left, above = width - np.arange(width), height - np.arange(height)[:, None]
        numbers[:, 0.45 * above + left < 0.11 * min(height, width)] = NODATA
    truth = landscape.ice.astype(np.uint8)
    # What the inventory leaves out, nobody assessed.
    truth[inner(landscape.sheet_around)] = UNKNOWN
    layers: list[tuple[str, np.ndarray, float | None, tuple[str, ...]]] = [
        ("images", numbers, NODATA, BANDS),
        ("truth", truth[None], None, ("glacier",)),
        ("surface", scene.surface[None], None, ("surface",)),
        ("scene_classification", scene.classification[None], None, ("SCL",)),
    ]
    # Products have a scene classification; here only the image with cloud does.
    for kind, array, nodata, names in layers if cloud else layers[:-1]:
        target = folder / kind / area.name / season.date
        target.mkdir(parents=True)
        for row in range(array.shape[1] // PATCH):
            for col in range(array.shape[2] // PATCH):
                part = array[:, row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH]
                name = f"{area.name}_{season.date}_r{row:02d}_c{col:02d}.tif"
                place = corner @ Affine.translation(col * PATCH, row * PATCH)
                _write_patch(target / name, part, place, nodata, names)


def _write_patch(
    path: Path, array: np.ndarray, transform: Affine, nodata: float | None, names: tuple[str, ...]
) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", width=array.shape[2], height=array.shape[1],
        count=array.shape[0], dtype=array.dtype, crs=_CRS, transform=transform, nodata=nodata,
        compress="deflate", predictor=2, zlevel=1,
    ) as target:  # fmt: skip
        target.write(array)
        target.descriptions = names
        target.update_tags(TIFFTAG_IMAGEDESCRIPTION=SYNTHETIC)


def _write_outlines(outlines: gpd.GeoDataFrame, folder: Path) -> None:
    """Write the shapefile; its header's date of the day is set to a fixed one."""
    folder.mkdir()
    outlines.to_file(folder / "glims_polygons.shp", engine="pyogrio")
    table = folder / "glims_polygons.dbf"
    content = bytearray(table.read_bytes())
    content[1:4] = bytes((123, 9, 1))
    table.write_bytes(content)


def _numbered(outlines: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Number the glaciers of all areas in their identifiers and names."""
    number = pd.factorize(outlines["glac_id"])[0] + 1
    named = outlines["glac_name"] != "None"
    return outlines.assign(
        glac_id=[f"SYN-{n:03d}" for n in number],
        glac_name=np.where(named, [f"synthetic glacier {n}" for n in number], "None"),
        # Analyses are numbered within an area; those of GLIMS have not come near nine million.
        anlys_id=9_000_001.0 + pd.factorize(outlines["glac_id"] + outlines["src_date"])[0],
    )


def _manifest(folder: Path, areas: Sequence[Area]) -> str:
    """Return the manifest of what lies in the folder."""
    lines = [
        HEAD,
        "description: synthetic glacier areas in the shape of the Narsarsuaq patches, truth known",
        "synthetic: true",
        f"bands: [{', '.join(BANDS)}]",
        f"reflectance: {{scale: {SCALE}, offset: {OFFSET}, nodata: {NODATA}}}",
        "outlines: glims_download/glims_polygons.shp",
        "areas:",
    ]
    for area in areas:
        lines.append(f"  {area.name}:")
        if (folder / (sheet := f"ice_outside/{area.name}.geojson")).exists():
            lines.append(f"    ice_outside: {sheet}")
        for season in SEASONS:
            lines.append(f"    {season.date}:")
            lines += [
                f"      {kind}: {place}/*.tif"
                for kind in ("images", "truth", "surface", "scene_classification")
                if (folder / (place := f"{kind}/{area.name}/{season.date}")).is_dir()
            ]
    return "\n".join(lines) + "\n"


def draw_outlines(
    landscape: Landscape, transform: Affine, rng: np.random.Generator
) -> gpd.GeoDataFrame:
    """Return the inventory's polygons of one area, EPSG:4326, GLIMS columns.

    Identifiers count the glaciers of the area; ``_numbered`` makes them unique.

    Args:
        landscape: the area.
        transform: that of ``ice_2001_around``, margin included, so that outlines do not end at the
            frame.
        rng: of all that an analyst does wrongly.
    """
    coarse = transform @ Affine.scale(STEP)
    # The ice sheet, number 0, is none of the glaciers.
    numbers = np.where(_as_seen(landscape, rng), _on_landsat(landscape.glacier_around), 0)
    warp = _Warp(numbers.shape, coarse, rng)

    # Nobody draws the slivers between the ice sheet and the divide of its neighbours.
    pieces = [piece for piece in _polygons(numbers, coarse) if not piece.buffer(-60).is_empty]
    # Small glaciers are missing below the least area, and a third of those up to three times it.
    least = LEAST_KM2 * 1e6 * np.where(rng.random(len(pieces)) < 0.33, 3, 1)
    outlines = [piece for piece, area in zip(pieces, least, strict=True) if piece.area > area]
    rows: list[dict[str, Any]] = []
    for rank, outline in enumerate(outlines):
        year = "2000-08-14" if rng.random() < 0.2 else "2001-07-19"
        analyses = [(year, outline)]
        if rank == min(1, len(outlines) - 1):
            analyses.append(("2014-08-22", _later(outline, landscape, coarse)))
        for date, polygon in analyses:
            common = {"glacier": rank, "src_date": date, "loc_unc_x": rng.choice([15, 20, 30])}
            rows += [{**common, **row} for row in _analysis(polygon, warp, rng)]
    return _table(rows)


def draw_ice_sheet(landscape: Landscape, transform: Affine) -> gpd.GeoDataFrame:
    """Return the ground of the ice sheet, then and now, as roughly drawn polygons, EPSG:4326.

    Args:
        landscape: the area.
        transform: that of ``sheet_around``.
    """
    then = landscape.ice_2001_around & (landscape.glacier_around == 0)
    ground = _on_landsat(landscape.sheet_around | then).astype(int)
    around = shapely.union_all(_polygons(ground, transform @ Affine.scale(STEP)))
    around = around.buffer(200).buffer(-100).simplify(40)
    # Nunataks and lakes below a square kilometre are not told from the ice.
    drawn = [
        Polygon(part.exterior, [hole for hole in part.interiors if Polygon(hole).area > 1e6])
        for part in shapely.get_parts(around) if not part.is_empty
    ]  # fmt: skip
    what = [f"ice sheet, {SYNTHETIC}"] * len(drawn)
    return gpd.GeoDataFrame({"what": what}, geometry=drawn, crs=CRS_NAME).to_crs("EPSG:4326")


def _on_landsat(field: np.ndarray) -> np.ndarray:
    """Return a field of 10 m on pixels of 30 m."""
    return field[STEP // 2 :: STEP, STEP // 2 :: STEP]


def _as_seen(landscape: Landscape, rng: np.random.Generator) -> np.ndarray:
    """Return what looked like glacier in 2001: the ice, and here and there snow against it."""
    ice, height = _on_landsat(landscape.ice_2001_around), _on_landsat(landscape.height_around)
    side_m = STEP * PIXEL_M
    drift = power_noise(ice.shape, rng, exponent=2.5, longest=1200 / side_m)
    score = np.clip((height - landscape.equilibrium_m) / 120, -3, 0.5)
    turned = shade(ndimage.gaussian_filter(height, 60 / side_m), side_m)
    near = ndimage.distance_transform_edt(~ice) * side_m < 80
    seen = ice | (near & (score + 0.8 * drift + turned > 1.4) & (height > 5))
    return ndimage.binary_opening(seen, np.ones((2, 2)))


def _polygons(numbers: np.ndarray, transform: Affine) -> list[Polygon]:
    """Return the connected pieces of equal number as polygons with holes, largest first."""
    pieces = rasterio.features.shapes(
        numbers.astype(np.int32), mask=numbers > 0, transform=transform
    )
    return sorted((shape(geometry) for geometry, _ in pieces), key=lambda p: (-p.area, p.wkt))


class _Warp:
    """Moves points by the error of an old map: a common shift, and a smooth one around it, in m."""

    def __init__(
        self, shape_: tuple[int, int], transform: Affine, rng: np.random.Generator
    ) -> None:
        angle = rng.uniform(0, 2 * np.pi)
        common = 18.0 * np.array([math.cos(angle), math.sin(angle)])
        self.transform = transform
        self.fields = [
            common[axis] + 12 * power_noise(shape_, rng, exponent=3, longest=60) for axis in (0, 1)
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
    parts = [part for part in shapely.get_parts(drawn) if part.geom_type == "Polygon"]
    large = [part for part in parts if part.area > LEAST_KM2 * 1e6 / 2]
    if len(large) > 1:
        return MultiPolygon(large)
    return max(parts, key=lambda part: part.area, default=polygon)


def _later(polygon: Polygon, landscape: Landscape, transform: Affine) -> Polygon:
    """Return the same glacier as an analyst of 2014 saw it: half way to its extent of 2023."""
    now = ndimage.distance_transform_edt(~_on_landsat(landscape.ice_around))
    then = ndimage.distance_transform_edt(_on_landsat(landscape.ice_2001_around))
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


def _table(rows: list[dict[str, Any]]) -> gpd.GeoDataFrame:
    """Fill the columns of the GLIMS schema: ``area`` in m2, ``db_area`` in km2."""
    columns = ["glacier", "src_date", "loc_unc_x", "line_type", "geometry"]
    drawn = gpd.GeoDataFrame(rows, columns=columns, geometry="geometry", crs=CRS_NAME)
    area = drawn.geometry.area.round(3)
    drawn = drawn.to_crs("EPSG:4326")
    uncertainty, later = drawn["loc_unc_x"], drawn["src_date"] > "2010"
    none = ("wgms_id", "local_id", "gone_date", "chief_affl", "rgi_gl_typ")
    zero = (
        "anlys_id", "width", "length", "primeclass", "min_elev", "mean_elev", "max_elev", "rc_id",
        "gone_dt_e", "subm_id", "conn_lvl", "surge_type", "term_type", "gtng_o1reg", "gtng_o2reg",
    )  # fmt: skip
    table = {
        "line_type": drawn["line_type"],
        "glac_id": drawn["glacier"].astype(str),
        "anlys_time": np.where(later, "2016-11-02T00:00:00", "2009-03-12T00:00:00"),
        "area": area,
        "db_area": (area / 1e6).round(5),
        "src_date": drawn["src_date"] + "T00:00:00",
        "rec_status": "okay",
        # Most glaciers of an inventory have no name.
        "glac_name": np.where(drawn["glacier"] < 4, "named", "None"),
        "glac_stat": "exists",
        "release_dt": "2017-05-31T00:00:00",
        "proc_desc": f"{SYNTHETIC}: drawn by glacier_utils.synthetic, not observed",
        "geog_area": f"{SYNTHETIC}, no real place",
        **dict.fromkeys(("loc_unc_x", "loc_unc_y"), uncertainty),
        **dict.fromkeys(("glob_unc_x", "glob_unc_y"), uncertainty + 15),
        **dict.fromkeys(none, "None"),
        **dict.fromkeys(zero, 0.0),
        **dict.fromkeys(("submitters", "analysts"), SYNTHETIC),
    }
    return gpd.GeoDataFrame(table, geometry=drawn.geometry, crs="EPSG:4326")


class MirroredScene(Source):
    """A scene repeated in both directions, every second time as its mirror image, without seams.

    For trying what a whole Sentinel-2 tile takes where there is none: it is computed where it is
    read, and has the look and the statistics of the scene, but no new ground.

    Args:
        source: the scene, held in memory.
        shape: (rows, columns) of the result; a Sentinel-2 tile has 10980 of both.
    """

    def __init__(self, source: Source, shape: tuple[int, int] = (10_980, 10_980)) -> None:
        self._image = source.read()
        self.bands = source.bands
        self.paths = source.paths
        self.tiles = []
        self.grid = source.grid.window(0, 0, *shape)
        self.reflectance = source.reflectance
        self.reflectance_source = source.reflectance_source
        self.synthetic = source.synthetic

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> Image:
        """Read a window; what lies outside the frame is invalid."""
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        rows, inside_rows = self._places(row, height, 0)
        cols, inside_cols = self._places(col, width, 1)
        # Rows first: they are whole lines in memory.
        valid = self._image.valid[rows][:, cols] & np.logical_and.outer(inside_rows, inside_cols)
        reflectance = np.take(self._image.reflectance[:, rows], cols, axis=2)
        reflectance[:, ~valid] = 0
        return Image(reflectance, valid, self.bands, self.grid.window(row, col, height, width))

    def _places(self, first: int, count: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where pixels of the frame come from, and which of them lie in the frame."""
        wanted = np.arange(first, first + count)
        length = self._image.valid.shape[axis]
        place = wanted % (2 * length)
        inside = (wanted >= 0) & (wanted < self.grid.shape[axis])
        return np.minimum(place, 2 * length - 1 - place), inside
