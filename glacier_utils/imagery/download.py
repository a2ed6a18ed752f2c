"""``glacier fetch``: a box in degrees and dates become a dataset, out of a STAC catalogue.

For each date the best acquisition of Sentinel-2 (``imagery.catalogue`` ranks them) is laid on one
grid of 10 m around the box, with one radiometric offset for all its items.

Needs the extra ``fetch`` (pystac-client, odc-stac), which is imported where it is used.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import yaml
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform_bounds
from tqdm import tqdm

from glacier_utils.conventions import BANDS, image_day
from glacier_utils.errors import GlacierError, quiet_loggers
from glacier_utils.files import atomic_path, write_json, write_text
from glacier_utils.imagery.catalogue import (
    COLLECTION,
    ENDPOINT,
    MAX_CLOUD,
    OFFSET,
    Acquisition,
    Candidate,
    candidates,
    is_web_address,
    public_address,
    rank,
    search,
)
from glacier_utils.imagery.examination import check_offset
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import open_source
from glacier_utils.outlines.reading import clean_text, read_polygons
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import crs_name, write_raster

PIXEL = 10.0
# A tile has 120.6 million, the box in degrees around one 128. data/README.md tells the memory.
MAX_PIXELS = 150_000_000
AREA = "scene"
WHERE_OUTLINES = (
    "no outlines yet: download them from GLIMS (https://www.glims.org/download) or RGI 7 "
    "(https://nsidc.org/data/nsidc-0770), put the file into the dataset's folder and name it in "
    "dataset.yaml, as in `outlines: glims_polygons.shp`; or fetch again with --outlines FILE"
)
_STORED = Reflectance(offset=OFFSET, nodata=0)
_CLOUD = (8, 9, 10)  # of the scene classification: cloud of medium and high probability, cirrus
_RESERVED = ("fid", "geom")  # names that a GeoPackage keeps for itself
_PACKAGES = ("pystac-client", "pystac", "odc-stac", "odc-loader", "rasterio", "numpy")
_TRIES = 5  # items of a date that may turn out broken before the date is given up
_STRIP = 2048  # rows that are loaded at a time
# GDAL tries again by itself; blocks that lie in two strips are kept rather than fetched twice.
_GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_LOW_SPEED_TIME": 60,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    "CPL_VSIL_CURL_CACHE_SIZE": 200_000_000,
}


@dataclass(frozen=True)
class Fetched:
    """What was made, or found to be there: the manifest, and sentences for the user."""

    manifest: Path
    report: list[str]


@dataclass(frozen=True)
class _Loaded:
    """Pixels of an acquisition as they are to be stored, and how many each item gave."""

    acquisition: Acquisition
    numbers: np.ndarray  # uint16 [band, row, col]
    classes: np.ndarray  # uint8 [row, col]
    filled: list[int]


class _BrokenItemError(Exception):
    def __init__(self, item: Candidate, reason: str) -> None:
        super().__init__(f"{item.name} left out: {reason}")
        self.item = item


def fetch(
    folder: str | Path,
    bbox: Sequence[float],
    dates: Sequence[str],
    *,
    endpoint: str = ENDPOINT,
    collection: str = COLLECTION,
    max_cloud: float = MAX_CLOUD,
    outlines: str | Path | None = None,
    crs: str | None = None,
    progress: bool = False,
) -> Fetched:
    """Make a dataset of the best Sentinel-2 L2A image of a box for each date.

    The folder gets ``images/<date>.tif`` (uint16, bands red green blue nir, reflectance =
    (number - 1000) / 10000, 0 no data), ``scl/<date>.tif`` (scene classification, uint8, 0 no
    data), ``outlines.gpkg`` if outlines are given, ``provenance.json`` and ``dataset.yaml`` with
    one area, "scene". All dates lie on one grid of 10 m. It appears whole or not at all. A folder
    that the same call has made is left as it is.

    Args:
        folder: where to; its name becomes that of the dataset.
        bbox: (west, south, east, north) in degrees.
        dates: YYYY-MM (the best image of the month) or YYYY-MM-DD.
        endpoint: address of a STAC API.
        collection: its identifier there.
        max_cloud: items with a higher cloud cover (in percent of the item) are not considered.
        outlines: GLIMS or RGI file; polygons that touch the grid are copied whole, with all
            columns.
        crs: of the grid, projected and in metres; default: the UTM zone of the box.
        progress: show a bar.

    Raises:
        GlacierError: a mistake in the arguments, a catalogue that cannot be reached or has nothing
            to offer, images that cannot be read; the message names it and what to do.
    """
    folder = Path(folder)
    dates = _check_arguments(endpoint, dates, max_cloud)
    grid = frame(bbox, crs)
    request = {
        "bbox": [float(value) for value in bbox],
        "dates": dates,
        "endpoint": public_address(endpoint),
        "collection": collection,
        "max_cloud": float(max_cloud),
        "crs": crs_name(grid),
        "outlines": None if outlines is None else Path(outlines).name,
    }
    manifest = folder / "dataset.yaml"
    if _already_there(folder, request):
        return Fetched(manifest, [f"{folder}: already there; remove it to fetch it anew"])
    # Before the download, which takes longer than anything a mistake in the file should cost.
    clipped = None if outlines is None else _clipped(Path(outlines), grid)
    box = polygon(bbox, grid)
    report: list[str] = []
    records: dict[str, Any] = {}
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
    bar = tqdm(total=len(dates), desc="fetch", bar_format=layout, disable=not progress)
    with bar, atomic_path(folder) as work:
        for number, date in enumerate(dates):
            bar.set_description_str(date)
            what = f"{request['endpoint']}, {clean_text(collection)}, {date}"
            items = search(endpoint, collection, bbox, date)
            found, notes = _usable(items, box, grid, max_cloud, bbox, what)
            image, broken = _load_best(found, box, grid, what, partial(_show, bar, number))
            records[date] = _write_date(work, date, image, grid, notes + broken)
            report += _sentences(date, records[date])
            _show(bar, number + 1)
        if clipped is None:
            report.append(WHERE_OUTLINES)
        else:
            clipped.to_file(work / "outlines.gpkg", layer="outlines", engine="pyogrio", index=False)
            report.append(f"outlines.gpkg: {len(clipped)} polygons that touch the box")
        write_json(
            work / "provenance.json",
            {
                "request": request,
                "grid": {"crs": crs_name(grid), "bounds": grid.bounds, "shape": grid.shape},
                "stored": f"reflectance = (number + {OFFSET}) / 10000; 0 no data",
                "dates": records,
                "packages": {name: version(name) for name in _PACKAGES},
            },
        )
        write_text(work / "dataset.yaml", _manifest(folder.name, request, report))
    return Fetched(manifest, report)


def _show(bar: tqdm, start: float, loaded: float = 0) -> None:
    """Move the bar; compressing a large scene takes as long as loading it."""
    bar.n = start + loaded / 2
    bar.refresh()


def _check_arguments(endpoint: str, dates: Sequence[str], max_cloud: float) -> list[str]:
    """Check what needs no network; return the dates in order."""
    for module in ("pystac_client", "odc.stac"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise GlacierError(
                f"glacier fetch: needs {module}, which is not installed; "
                "`pip install glacier-utils[fetch]`, in a clone `pip install -e .[fetch]`"
            ) from error
    if not is_web_address(endpoint):
        raise GlacierError(
            f"--endpoint {clean_text(endpoint)}: is no address of a STAC API; it looks like "
            f"{ENDPOINT}"
        )

    for date in dates:
        try:
            image_day(date)
        except GlacierError as error:
            raise GlacierError(f"--dates: {error}") from None
    if not 0 <= max_cloud <= 100:
        raise GlacierError(f"--max-cloud {max_cloud:g}: must be from 0 to 100 (percent)")
    return sorted(set(dates))


def _already_there(folder: Path, request: dict[str, Any]) -> bool:
    if not folder.exists():
        return False
    try:
        made = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["request"]
    except (OSError, ValueError, KeyError, TypeError):
        raise GlacierError(
            f"{folder}: is there already and was not made by glacier fetch; choose another --name"
        ) from None
    differs = [key for key, value in request.items() if made.get(key) != value]
    if differs:
        raise GlacierError(
            f"{folder}: was fetched with other {', '.join(differs)}; choose another --name, or "
            "remove the folder"
        )
    return True


def _clipped(path: Path, grid: Grid) -> gpd.GeoDataFrame:
    """Return the polygons that touch a grid, whole and with every column of the file."""
    # In degrees, as GLIMS and RGI come: their coordinates stay as they are.
    crs = CRS.from_epsg(4326)
    bounds = transform_bounds(grid.crs, crs, *grid.bounds, densify_pts=101)
    found = read_polygons(path, bounds=bounds, crs=crs)
    if found.empty:
        raise GlacierError(
            f"{path}: none of its polygons touches the box; name the outlines of this region, or "
            "check --bbox (west south east north)"
        )
    return found.rename(columns={name: f"{name}_" for name in found if name.lower() in _RESERVED})


def frame(bbox: Sequence[float], crs: str | None = None) -> Grid:
    """Return the grid of 10 m around a box, its edges at whole multiples of 10 m.

    Args:
        bbox: (west, south, east, north) in degrees.
        crs: projected and in metres; default: the UTM zone in which Sentinel-2 tiles of the middle
            of the box lie, with the exceptions of south-west Norway and Svalbard.

    Raises:
        GlacierError: a box that is none, too large, or outside UTM without ``crs``; a wrong
            ``crs``.
    """
    text = f"--bbox {_spaced(bbox)}"
    west, south, east, north = bbox
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise GlacierError(
            f"{text}: must be west south east north in degrees, west less than east in -180..180, "
            "south less than north in -90..90; each side of the 180th meridian is a dataset of "
            "its own"
        )
    target = _utm((west + east) / 2, (south + north) / 2, text) if crs is None else _metric(crs)
    bounds = transform_bounds("EPSG:4326", target, *bbox, densify_pts=101)
    if not all(map(math.isfinite, bounds)):
        raise GlacierError(
            f"{text}: cannot be laid on {target}; fetch it in parts, or choose a --crs for this "
            "region"
        )
    xmin, ymin = (math.floor(value / PIXEL) * PIXEL for value in bounds[:2])
    xmax, ymax = (math.ceil(value / PIXEL) * PIXEL for value in bounds[2:])
    width, height = round((xmax - xmin) / PIXEL), round((ymax - ymin) / PIXEL)
    if width * height > MAX_PIXELS:
        raise GlacierError(
            f"{text}: is {width * height / 1e6:.0f} million pixels of 10 m, more than the "
            f"{MAX_PIXELS // 10**6} million (about 122 x 122 km) of one dataset; fetch it in parts"
        )
    return Grid(target, Affine(PIXEL, 0, xmin, 0, -PIXEL, ymax), height, width)


def _utm(longitude: float, latitude: float, text: str) -> CRS:
    if not -80 <= latitude <= 84:
        raise GlacierError(
            f"{text}: lies outside UTM (80 S to 84 N); name a projected CRS in metres, as in "
            f"--crs {'EPSG:3413' if latitude > 0 else 'EPSG:3031'}"
        )
    zone = min(int((longitude + 180) // 6) + 1, 60)
    if 56 <= latitude < 64 and 3 <= longitude < 12:
        zone = 32
    elif latitude >= 72 and 0 <= longitude < 42:
        zone = 31 + 2 * sum(longitude >= edge for edge in (9, 21, 33))
    return CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


def _metric(text: str) -> CRS:
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise GlacierError(f"--crs {text}: is no known CRS; write it as EPSG:32623") from error
    if not crs.is_projected or crs.linear_units_factor[1] != 1:
        raise GlacierError(f"--crs {text}: is not in metres; name a projected CRS as EPSG:32623")
    return crs


def _spaced(bbox: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in bbox)


def polygon(bbox: Sequence[float], grid: Grid) -> shapely.Geometry:
    """Return a box in degrees as a polygon in the CRS of a grid."""
    # Straight in degrees is bent in metres.
    ring = shapely.segmentize(shapely.box(*bbox), 0.02)
    return gpd.GeoSeries([ring], crs="EPSG:4326").to_crs(grid.crs).iloc[0]


def _load_best(
    found: Sequence[Candidate],
    box: shapely.Geometry,
    grid: Grid,
    what: str,
    show: Callable[[float], None],
) -> tuple[_Loaded, list[str]]:
    """Load the best acquisition; where an item of it turns out broken, the best without that.

    Args:
        found: items to choose from.
        box: in the CRS of ``grid``.
        grid: where to.
        what: catalogue, collection and date, for messages.
        show: is called with the fraction that is done, 0..1.

    Returns:
        The pixels, and a sentence for each item that was broken.

    Raises:
        GlacierError: none can be read.
    """
    found = list(found)
    broken: list[str] = []
    while len(broken) < _TRIES and (ranked := rank(found, box)):
        try:
            with rasterio.Env(**_GDAL), quiet_loggers(("odc", "rasterio")):
                return _load(ranked[0], grid, show), broken
        except _BrokenItemError as problem:
            broken.append(str(problem))
            found.remove(problem.item)
    raise GlacierError(
        f"{what}: no image could be read, {len(broken)} tried; {broken[0]}; try again later, take "
        "another date, or name another catalogue with --endpoint"
    )


def _load(acquisition: Acquisition, grid: Grid, show: Callable[[float], None]) -> _Loaded:
    """Fill the grid strip by strip with the items of an acquisition, in their order.

    All numbers are brought to the offset of -1000 before they meet: 0 is then no data and nothing
    else, while numbers without offset hold 0 for dark water too.
    """
    parts = acquisition.parts
    for part in parts:
        _probe(part)
    numbers = np.zeros((len(BANDS), *grid.shape), np.uint16)
    classes = np.zeros(grid.shape, np.uint8)
    filled = [0] * len(parts)
    for top in range(0, grid.height, _STRIP):
        strip = grid.window(top, 0, min(_STRIP, grid.height - top), grid.width)
        rows = slice(top, top + strip.height)
        empty = np.ones(strip.shape, bool)
        for index, part in enumerate(parts):
            stored, scl = _read(part, strip)
            zeros = stored == 0
            # The rule of the reader: see imagery.Reflectance.
            measured = Reflectance(offset=part.offset).can_be(0)
            fresh = empty & ~(zeros.all(axis=0) if measured else zeros.any(axis=0))
            for band, values in zip(numbers, stored, strict=True):
                shifted = np.clip(values.astype(np.int32) + (part.offset - OFFSET), 1, 65535)
                band[rows][fresh] = shifted[fresh]
            classes[rows][fresh] = scl[fresh]
            filled[index] += int(fresh.sum())
            empty &= ~fresh
            show((top + strip.height * (index + 1) / len(parts)) / grid.height)
    if not any(filled):
        raise _BrokenItemError(parts[0], "no pixel of it in the box has data")
    return _Loaded(acquisition, numbers, classes, filled)


def _probe(item: Candidate) -> None:
    """Open each asset, and say which cannot be read: the loader would not."""
    for key, address in item.assets.items():
        # Not by every driver: some formats only point at other files, also of this machine.
        jpeg2000 = address.partition("?")[0].lower().endswith(".jp2")
        try:
            dataset = rasterio.open(address, driver="JP2OpenJPEG" if jpeg2000 else "GTiff")
        except RasterioError as error:
            place = clean_text(public_address(address), 200)
            raise _BrokenItemError(
                item, f"its asset {key!r} cannot be read ({place}: {_reason(error)})"
            ) from error
        with dataset:
            if dataset.crs is None or dataset.dtypes[0] not in ("uint8", "uint16", "int16"):
                reason = f"its asset {key!r} is no georeferenced image of integers"
                raise _BrokenItemError(item, reason)


def _read(item: Candidate, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Load the bands [band, row, col] and the scene classification [row, col] onto a grid."""
    import odc.stac
    import pystac
    from odc.geo.geobox import GeoBox

    # Nothing of what the catalogue says but the addresses, and the grid as the footprint.
    outline = shapely.box(*transform_bounds(grid.crs, "EPSG:4326", *grid.bounds))
    stand_in = pystac.Item(
        "item", shapely.geometry.mapping(outline), list(outline.bounds), item.taken, {}
    )
    for key, address in item.assets.items():
        stand_in.add_asset(key, pystac.Asset(address, media_type="image/tiff", roles=["data"]))
    try:
        loaded = odc.stac.load(
            [stand_in],
            bands=[*BANDS, "scl"],
            geobox=GeoBox(grid.shape, grid.transform, grid.crs),
            dtype={"*": "uint16", "scl": "uint8"},
            resampling={"*": "bilinear", "scl": "nearest"},
            nodata=0,
            pool=5,
        )
    except RasterioError as error:
        raise _BrokenItemError(item, f"reading it broke off ({_reason(error)})") from error
    return np.stack([loaded[band].values[0] for band in BANDS]), loaded["scl"].values[0]


def _reason(error: Exception) -> str:
    return clean_text(error.__cause__ or error, 160)


def _usable(
    items: list[Any],
    box: shapely.Geometry,
    grid: Grid,
    max_cloud: float,
    bbox: Sequence[float],
    what: str,
) -> tuple[list[Candidate], list[str]]:
    """Return the items that may be loaded, and what was left out for which reason."""
    where = f"the box {_spaced(bbox)}"
    found, notes = candidates(items, box, grid.crs)
    if not found:
        reason = f"no image of {where}"
        if notes:
            reason = f"none of its {len(items)} items can be used; {notes[0]}"
        raise GlacierError(
            f"{what}: {reason}; take another date or a wider span of time (a month instead of a "
            "day), or check --bbox (west south east north) and --collection"
        )
    clear = [one for one in found if one.cloud is None or one.cloud <= max_cloud]
    if not clear:
        least = min(one.cloud or 0 for one in found)
        raise GlacierError(
            f"{what}: all {len(found)} images of {where} have more than --max-cloud {max_cloud:g} "
            f"percent of cloud; the clearest has {least:.4g}: raise --max-cloud, or take a wider "
            "span of time"
        )
    if len(clear) < len(found):
        notes.append(f"{len(found) - len(clear)} items above {max_cloud:g} % of cloud left out")
    return clear, notes


def _write_date(
    work: Path, date: str, image: _Loaded, grid: Grid, notes: list[str]
) -> dict[str, Any]:
    """Write the files of a date, named after the date alone; return their provenance."""
    acquisition = image.acquisition
    first = acquisition.parts[0]
    tags = {"ACQUIRED": _time(first), "ITEMS": " ".join(one.name for one in acquisition.parts)}
    path = work / "images" / f"{date}.tif"
    write_raster(
        path, image.numbers, grid,
        nodata=0, descriptions=BANDS, tags={**tags, "OFFSET": str(OFFSET), "SCALE": "10000"},
    )  # fmt: skip
    write_raster(
        work / "scl" / f"{date}.tif", image.classes, grid,
        nodata=0, descriptions=["scene_classification"], tags=tags,
    )  # fmt: skip
    finding = check_offset(open_source(path, bands=BANDS, reflectance=_STORED))
    known = int((image.classes > 0).sum())
    cloud = int(np.isin(image.classes, _CLOUD).sum())
    return {
        "acquired": _time(first),
        "box_covered": round(acquisition.covered, 4),
        "box_clear_expected": round(acquisition.clear, 4),
        "grid_with_data": round(sum(image.filled) / image.classes.size, 4),
        "grid_cloud_by_scl": round(cloud / known, 4) if known else None,
        "items": [
            {
                "id": item.name,
                "datetime": _time(item),
                "platform": item.platform,
                "cloud_cover": item.cloud,
                "box_coverage": round(item.fraction, 4),
                "pixels_used": used,
                "processing_baseline": item.baseline or None,
                "offset": item.offset,
                "offset_from": item.offset_from,
                "added_to_stored_numbers": item.offset - OFFSET,
                "assets": {key: public_address(place) for key, place in item.assets.items()},
            }
            for item, used in zip(acquisition.parts, image.filled, strict=True)
        ],
        "left_out": notes,
        "offset_warning": (
            finding.message.removeprefix(f"{path}: ") if finding.ok is False else None
        ),
    }


def _time(item: Candidate) -> str:
    return item.taken.strftime("%Y-%m-%dT%H:%M:%SZ")


def _sentences(date: str, record: dict[str, Any]) -> list[str]:
    items = record["items"]
    names = ", ".join(item["id"] for item in items)
    clouds = [item["cloud_cover"] for item in items]
    cloud = ", ".join("?" if one is None else f"{one:.3g}" for one in clouds)
    in_box = record["grid_cloud_by_scl"]
    of_box = "" if in_box is None else f", {in_box:.1%} of the box"
    said = [
        f"{record['acquired']}, {names}; cloud {cloud} % of the item{of_box}; the box is covered "
        f"to {record['box_covered']:.1%}",
        *record["left_out"],
    ]
    if record["offset_warning"] is not None:
        said.append(
            f"warning: {record['offset_warning']}; catalogues are known to be wrong about offsets "
            "that they applied: compare --collection sentinel-2-c1-l2a"
        )
    return [f"{date}: {sentence}" for sentence in said]


def _manifest(name: str, request: dict[str, Any], report: Sequence[str]) -> str:
    """Return dataset.yaml. What a catalogue says stands in comments, a line each."""
    box = _spaced(request["bbox"])
    dates = {
        date: {
            "images": f"images/{date}.tif",
            "scene_classification": f"scl/{date}.tif",
            "reflectance": {"scale": int(_STORED.scale), "offset": OFFSET, "nodata": 0},
        }
        for date in request["dates"]
    }
    outlines = {} if request["outlines"] is None else {"outlines": "outlines.gpkg"}
    content = {"name": name, "bands": [*BANDS], **outlines, "areas": {AREA: dates}}
    comments = [
        f"Made by `glacier fetch --bbox {box}` from {clean_text(request['endpoint'], 200)},",
        f"collection {clean_text(request['collection'])}. Every item, address and offset stands",
        "in provenance.json. Contains modified Copernicus Sentinel data.",
        *report,
    ]
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
    return "".join(f"# {line}\n" for line in comments) + text
