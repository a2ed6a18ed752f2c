"""Load the pixels of catalogue items onto one grid, with one offset; the extra ``fetch``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import rasterio
import shapely
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from glacier_utils.catalogue import BANDS, OFFSET, Acquisition, Candidate, public_address, rank
from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid
from glacier_utils.imagery import Reflectance
from glacier_utils.inventories import clean_text

_TRIES = 5  # items of a date that may turn out broken before the date is given up
_STRIP = 2048  # rows that are loaded at a time
# GDAL tries again by itself; blocks that two strips share are kept rather than fetched twice.
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
class Loaded:
    """Pixels of an acquisition as they are to be stored, and how many each item gave."""

    acquisition: Acquisition
    numbers: np.ndarray  # uint16 [band, row, col]
    classes: np.ndarray  # uint8 [row, col]
    filled: list[int]


class _Broken(Exception):
    def __init__(self, item: Candidate, reason: str) -> None:
        super().__init__(f"{item.name} left out: {reason}")
        self.item = item


def load_best(
    found: Sequence[Candidate],
    box: shapely.Geometry,
    grid: Grid,
    what: str,
    tell: Callable[[float], None],
) -> tuple[Loaded, list[str]]:
    """Load the best acquisition; where an item of it turns out broken, the best without that.

    Args:
        found: items to choose from.
        box: in the CRS of ``grid``.
        grid: where to.
        what: catalogue, collection and date, for messages.
        tell: is called with the share that is done, 0..1.

    Returns:
        The pixels, and a sentence for each item that was broken.

    Raises:
        GlacierError: none can be read.
    """
    found, broken = list(found), []
    while len(broken) < _TRIES and (ranked := rank(found, box)):
        try:
            with rasterio.Env(**_GDAL), _quiet():
                return _load(ranked[0], grid, tell), broken
        except _Broken as problem:
            broken.append(str(problem))
            found.remove(problem.item)
    raise GlacierError(
        f"{what}: no image could be read, {len(broken)} tried; {broken[0]}; try again later, take "
        "another date, or name another catalogue with --endpoint"
    )


def _load(acquisition: Acquisition, grid: Grid, tell: Callable[[float], None]) -> Loaded:
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
            tell((top + strip.height * (index + 1) / len(parts)) / grid.height)
    if not any(filled):
        raise _Broken(parts[0], "no pixel of it in the box has data")
    return Loaded(acquisition, numbers, classes, filled)


def _probe(item: Candidate) -> None:
    """Open each asset, and say which cannot be read: the loader would not."""
    for key, address in item.assets.items():
        try:
            dataset = _opened(address)
        except RasterioError as error:
            place = clean_text(public_address(address), 200)
            raise _Broken(
                item, f"its asset {key!r} cannot be read ({place}: {_reason(error)})"
            ) from error
        with dataset:
            if dataset.crs is None or dataset.dtypes[0] not in ("uint8", "uint16", "int16"):
                raise _Broken(item, f"its asset {key!r} is no georeferenced image of integers")


def _opened(address: str) -> rasterio.DatasetReader:
    # Not by every driver: some formats only point at other files, also of this machine.
    try:
        return rasterio.open(address, driver="GTiff")
    except RasterioError:
        if not address.partition("?")[0].lower().endswith(".jp2"):
            raise
        return rasterio.open(address, driver="JP2OpenJPEG")


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
            geobox=GeoBox(grid.shape, grid.transform, grid.crs.to_wkt()),
            dtype={"*": "uint16", "scl": "uint8"},
            resampling={"*": "bilinear", "scl": "nearest"},
            nodata=0,
            pool=5,
        )
    except RasterioError as error:
        raise _Broken(item, f"reading it broke off ({_reason(error)})") from error
    return (
        np.stack([loaded[band].values[0] for band in BANDS]),
        loaded["scl"].values[0],
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries from logging what is reported here already."""
    loggers = [logging.getLogger(name) for name in ("odc", "rasterio")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: Exception) -> str:
    return clean_text(error.__cause__ or error, 160)
