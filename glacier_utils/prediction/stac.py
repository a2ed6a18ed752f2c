"""A STAC item beside each product: what the files are, where they lie, what made them.

Extensions: projection 2, raster 1.1, classification 2, file 2.1 through pystac, and the fields of
processing 1.2, for which pystac has no class. What the project alone knows is named ``glacier:``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import geopandas as gpd
import pystac
import shapely
from pystac.extensions.classification import Classification
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import DataType, RasterBand, RasterExtension

from glacier_utils.conventions import UNKNOWN, image_day
from glacier_utils.files import write_json
from glacier_utils.outlines.reading import clean_text, split
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import crs_name

PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
SCALE = 0.004  # probability = number x 0.004
# The classes of a map: value, name, what it means, colour as in `style.CLASS_COLOURS`.
CLASSES = (
    (0, "not_glacier", "Not glacier", "D8D2C4"),
    (1, "glacier", "Glacier", "56B4E9"),
    (UNKNOWN, "unknown", "Unknown: no data, or not judged", "7F7F7F"),
)
_TITLES = {
    "probability": "Probability of glacier",
    "class": "Map of glaciers",
    "outlines": "Outlines of glaciers in the GLIMS schema",
}
_TYPES = {".tif": pystac.MediaType.COG, ".gpkg": pystac.MediaType.GEOPACKAGE}
_LONGEST = 1000  # characters of a property
# Between corners, a frame's edge is followed at this many points: straight in metres is bent in
# degrees.
_EDGE_POINTS = 20


def write_item(
    path: str | Path,
    *,
    grid: Grid,
    date: str,
    assets: Mapping[str, str | Path],
    properties: Mapping[str, Any] | None = None,
) -> Path:
    """Write the STAC item of one mapped scene, whole or not at all.

    Args:
        path: of the JSON file; its stem is the item's identifier.
        grid: of the rasters; without a CRS the item has no geometry, as STAC allows.
        date: of the image, YYYY-MM-DD, YYYY-MM, or "" for unknown. A month becomes
            an interval; an unknown date the interval until now, and ``glacier:date_known`` false.
        assets: kind ("probability", "class", "outlines") -> file, which must be there; its
            address in the item is relative to ``path``.
        properties: what made the files, such as model, checkpoint, checkpoint_sha256, scene,
            threshold, window, overlap, warnings; numbers stay numbers, text, also in lists, becomes
            a line of plain characters. Named ``glacier:<key>`` in the item.

    Raises:
        GlacierError: a date that is none.
    """
    path = Path(path)
    shape, box = _footprint(grid)
    now = datetime.now(UTC).replace(microsecond=0)
    item = pystac.Item(
        id=path.stem,
        geometry=shape,
        bbox=box,
        properties={
            "created": now.isoformat().replace("+00:00", "Z"),
            "processing:level": "L4",
            "processing:software": {"glacier-utils": version("glacier-utils")},
            "processing:lineage": "Glaciers mapped in a satellite image by a neural network",
            **{f"glacier:{key}": _plain(value) for key, value in (properties or {}).items()},
        },
        **_time(date, now),
    )
    item.stac_extensions.append(PROCESSING)
    if not date:
        item.properties["glacier:date_known"] = False
    _project(item, grid)
    for kind, file in assets.items():
        _add_asset(item, kind, Path(file), path, grid)
    return write_json(path, item.to_dict(include_self_link=False, transform_hrefs=False))


def read_item(path: str | Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Read the properties and the files of an item that ``write_item`` wrote.

    Returns:
        Properties, and kind -> file in the folder of the item (names alone count: an item from
        elsewhere must not lead out of it); both empty where the item is missing or cannot be read.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        assets = content["assets"].items()
        files = {kind: path.parent / Path(asset["href"]).name for kind, asset in assets}
        return dict(content["properties"]), files
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return clean_text(value, _LONGEST) if isinstance(value, str) else value


def _footprint(grid: Grid) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return geometry and bounding box in degrees; in two parts across the antimeridian."""
    if grid.crs is None:
        return None, None
    step = max(grid.bounds[2] - grid.bounds[0], grid.bounds[3] - grid.bounds[1]) / _EDGE_POINTS
    edge = gpd.GeoSeries([shapely.segmentize(grid.box, step)], crs=grid.crs.to_wkt())
    shape = split(edge.to_crs("EPSG:4326").to_numpy())[0]
    shape = shapely.orient_polygons(shapely.set_precision(shape, 1e-7))
    west, south, east, north = shape.bounds
    parts = shapely.get_parts(shape)
    if len(parts) > 1 and west == -180 and east == 180:
        # GeoJSON's rule: west of a box across the antimeridian is larger than its east.
        west = min(part.bounds[0] for part in parts if part.bounds[2] == 180)
        east = max(part.bounds[2] for part in parts if part.bounds[0] == -180)
    return shapely.geometry.mapping(shape), [west, south, east, north]


def _time(date: str, now: datetime) -> dict[str, Any]:
    """Return what an item takes for its time: a moment, or an interval."""
    if not date:
        return {"datetime": None, "start_datetime": datetime(1970, 1, 1, tzinfo=UTC),
                "end_datetime": now}  # fmt: skip
    day = image_day(date).tz_localize(UTC)
    if len(date) == len("2023-08-24"):
        return {"datetime": day}
    end = day.replace(day=day.days_in_month, hour=23, minute=59, second=59)
    return {"datetime": None, "start_datetime": day.replace(day=1), "end_datetime": end}


def _project(item: pystac.Item, grid: Grid) -> None:
    ground = ProjectionExtension.ext(item, add_if_missing=True)
    code = crs_name(grid)
    coded = grid.crs is not None and ":" in code
    ground.apply(
        code=code if coded else None,
        wkt2=None if coded or grid.crs is None else grid.crs.to_wkt(version="WKT2_2019"),
        shape=list(grid.shape),
        transform=list(grid.transform)[:6],
        bbox=list(grid.bounds),
    )
    # Null says that there is no code; pystac would leave it out.
    item.properties.setdefault("proj:code", None)


def _add_asset(item: pystac.Item, kind: str, file: Path, path: Path, grid: Grid) -> None:
    asset = pystac.Asset(
        href=Path(os.path.relpath(file, path.parent)).as_posix(),
        title=_TITLES.get(kind),
        media_type=_TYPES.get(file.suffix.lower()),
        roles=["data"],
    )
    item.add_asset(kind, asset)
    FileExtension.ext(asset, add_if_missing=True).apply(size=file.stat().st_size)
    if kind not in ("probability", "class"):
        return
    resolution = None if grid.crs is None or grid.crs.is_geographic else grid.resolution
    numbers: dict[str, Any] = {"data_type": DataType.UINT8, "nodata": UNKNOWN}
    if kind == "probability":
        numbers |= {"scale": SCALE, "offset": 0.0, "unit": "1"}
    band = RasterBand.create(**numbers, spatial_resolution=resolution)
    if kind == "class":
        band.properties["classification:classes"] = [
            Classification.create(
                value=value, name=name, description=about, color_hint=colour,
                nodata=True if value == UNKNOWN else None,
            ).to_dict()
            for value, name, about, colour in CLASSES
        ]  # fmt: skip
        uri = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
        item.stac_extensions.append(uri)
    RasterExtension.ext(asset, add_if_missing=True).apply([band])
