"""Raster files: open them with clear errors, read their headers, write them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from glacier_utils.arrays import ArrayDataset, is_array, members, open_array
from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path
from glacier_utils.grids import Grid
from glacier_utils.paths import gdal_name, is_virtual, list_files

__all__ = ["Header", "KeptOpen", "crs_name", "list_files", "open_raster", "pixel_transform",
           "read_header", "read_headers", "write_raster"]  # fmt: skip
# Listing a folder of thousands of patches for each of them costs more than opening it, and beside a
# file on the web each look costs a request.
_LOCAL = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
_WEB = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_MAX_RETRY": "2",
}
# Files that stay open together: those of the bands of a scene, or of a few patches.
_FILES_KEPT = 16
# Bytes of GDAL's memory of decoded blocks (by default a twentieth of the machine's), beside a row
# of blocks of each open file, and at most: a row of blocks of a Sentinel-2 product has 92 MB.
_CACHE_LEAST, _CACHE_MOST = 2**24, 2**27


@contextmanager
def open_raster(
    path: Path, bands: int | None = None
) -> Iterator[rasterio.DatasetReader | ArrayDataset]:
    """Open a raster for reading; whatever GDAL finds wrong with it becomes a GlacierError.

    ``bands`` is how many bands a NumPy array has, where that is known (see ``arrays.open_array``).
    """
    if is_array(path):
        yield open_array(path, bands)
        return
    with _gdal(path), _opened(path) as dataset:
        yield dataset


def _opened(path: Path) -> rasterio.DatasetReader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(gdal_name(path))


@contextmanager
def _gdal(path: Path, **options: Any) -> Iterator[None]:
    """Set GDAL's options for a raster; whatever it finds wrong becomes a GlacierError."""
    name = gdal_name(path)
    web = "/vsicurl" in name
    try:
        with rasterio.Env(**(_WEB if web else _LOCAL), **options):
            yield
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        if web:
            raise GlacierError(
                f"{name.removeprefix('/vsicurl/')}: cannot be fetched or is no raster; check the "
                f"address and the network, or download the file and name that ({reason})"
            ) from error
        if not is_virtual(path) and not path.exists():
            raise GlacierError(f"{path}: no such file; check the path") from error
        raise GlacierError(
            f"{name}: cannot be read as a raster, it may be cut short or of another format; "
            f"fetch or export it again ({reason})"
        ) from error


class KeptOpen:
    """Rasters that stay open while one thread reads their rows from top to bottom.

    A block that several reads reach into, as of 1024 x 1024 pixels in a Sentinel-2 product, is
    decoded once: GDAL keeps a row of blocks of each open file. Used as a context.

    Args:
        width: columns that are read of a file, where it is not all of them.
    """

    def __init__(self, width: int | None = None) -> None:
        self._width = width
        self._open: dict[Path, rasterio.DatasetReader] = {}
        self._bytes: dict[Path, int] = {}

    def __enter__(self) -> KeptOpen:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._close()

    def _close(self) -> None:
        """Close the file that has been open for longest."""
        path = next(iter(self._open))
        del self._bytes[path]
        self._open.pop(path).close()

    @contextmanager
    def open(
        self, path: Path, bands: int | None = None
    ) -> Iterator[rasterio.DatasetReader | ArrayDataset]:
        """Give a raster as ``open_raster`` does, open already where it was asked for before."""
        if is_array(path):
            yield open_array(path, bands)
            return
        if path not in self._open:
            if len(self._open) == _FILES_KEPT:
                self._close()
            with _gdal(path):
                self._open[path] = _opened(path)
            self._bytes[path] = _row_of_blocks(self._open[path], self._width)
        # What a read leaves in GDAL's memory stays within its limit during the read.
        limit = min(_CACHE_LEAST + sum(self._bytes.values()), _CACHE_MOST)
        with _gdal(path, GDAL_CACHEMAX=limit):
            yield self._open[path]


def _row_of_blocks(dataset: rasterio.DatasetReader, columns: int | None) -> int:
    """Return the bytes of a row of the blocks that hold some columns, all bands."""
    height, width = dataset.block_shapes[0]
    count = -(-dataset.width // width)
    if columns is not None:  # which may begin and end inside a block
        count = min(count, -(-columns // width) + 1)
    return height * count * width * sum(np.dtype(kind).itemsize for kind in dataset.dtypes)


@dataclass(frozen=True)
class Header:
    """What a raster says of itself."""

    path: Path
    grid: Grid
    georeferenced: bool
    count: int
    dtype: str
    # Row and column from the index of a stack of arrays.
    place: tuple[int, int] | None = None
    # GDAL's tags of each band: measured value = number x scale + offset.
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()

    def tags(self, number: int) -> tuple[float, float]:
        """Return scale and offset that a band, counted from 1, is tagged with; (1, 0) if none."""
        return self.scales[number - 1], self.offsets[number - 1]


def read_headers(path: Path, bands: int | None = None) -> list[Header]:
    """Read the header of a file, or of each patch in a stack of arrays (as ``open_raster``)."""
    if not is_array(path):
        return [read_header(path)]
    found = members(path, bands)
    first = read_header(found[0][0], bands)
    return [replace(first, path=member, place=place) for member, place in found]


def read_header(path: Path, bands: int | None = None) -> Header:
    """Read shape, georeference, band count and type of a file.

    Raises:
        GlacierError: it cannot be read, or its grid is rotated, flipped or not square.
    """
    with open_raster(path, bands) as dataset:
        transform, crs = dataset.transform, dataset.crs
        height, width = dataset.shape
        about = {
            "count": dataset.count,
            "dtype": dataset.dtypes[0],
            "scales": tuple(dataset.scales),
            "offsets": tuple(dataset.offsets),
        }
    if about["dtype"].startswith("complex"):
        raise GlacierError(
            f"{path}: holds complex numbers ({about['dtype']}), which are no reflectance; export "
            "the image as uint16 or float32"
        )
    georeferenced = transform != Affine.identity()
    if not georeferenced:
        grid = Grid(None, pixel_transform(0, 0, 1.0), height, width)
        return Header(path, grid, False, **about)
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        raise GlacierError(
            f"{path}: its grid is rotated or flipped; warp it to a north-up grid first (gdalwarp)"
        )
    grid = Grid(crs, transform, height, width)
    # Degrees are not square on the ground anyway, so only projected grids are held to it.
    if (crs is None or crs.is_projected) and abs(transform.a / -transform.e - 1) > 0.01:
        raise GlacierError(
            f"{path}: its pixels are {transform.a:g} x {-transform.e:g}, not square; "
            "warp it to square pixels first (gdalwarp -tr)"
        )
    return Header(path, grid, True, **about)


def pixel_transform(row: int, col: int, resolution: float) -> Affine:
    """Return the transform of a frame without georeference that starts at (``row``, ``col``)."""
    return Affine(resolution, 0, col * resolution, 0, -resolution, -row * resolution)


def crs_name(grid: Grid) -> str:
    """Return a short name of the grid's CRS: the code of an authority, or the name inside it."""
    if grid.crs is None:
        return "none"
    code = grid.crs.to_authority()
    if code:
        return ":".join(code)
    found = re.search(r'"([^"]+)"', grid.crs.to_wkt())
    return found[1] if found else "unnamed"


def write_raster(
    path: str | Path,
    array: np.ndarray,
    grid: Grid,
    *,
    nodata: float | None = None,
    tags: Mapping[str, str] | None = None,
    colormap: Mapping[int, tuple] | None = None,
    descriptions: Sequence[str] | None = None,
) -> Path:
    """Write a cloud-optimised GeoTIFF, whole or not at all.

    Args:
        path: the file to make.
        array: [row, col] or [band, row, col]; bool becomes uint8.
        grid: its place; must have the array's rows and columns.
        nodata: value of pixels without data.
        tags: text kept in the file.
        colormap: colours (red, green, blue[, alpha]) of 0..255 for the values of a uint8 map.
        descriptions: names of the bands.

    Raises:
        ValueError: the array does not fit the grid.
    """
    array = np.asarray(array)
    bands = array[np.newaxis] if array.ndim == 2 else array
    if bands.ndim != 3 or bands.shape[1:] != grid.shape:
        raise ValueError(f"an array of shape {array.shape} does not fit a grid of {grid.shape}")
    if bands.dtype == bool:
        bands = bands.astype(np.uint8)
    profile = {
        "count": bands.shape[0],
        "height": grid.height,
        "width": grid.width,
        "dtype": bands.dtype,
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": nodata,
    }
    layout = {
        "driver": "COG",
        "compress": "DEFLATE",
        "predictor": "YES",
        # Blocks larger than the image would be padded: a patch gets a block of its own
        # size, but none below 128, which the driver does not write.
        "blocksize": min(512, max(128, math.ceil(max(grid.shape) / 16) * 16)),
        # Classes and counts must not be mixed in overviews; measured quantities are averaged.
        "overview_resampling": "AVERAGE" if bands.dtype.kind == "f" else "NEAREST",
        "bigtiff": "IF_SAFER",
    }
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(temporary, "w", **profile, **layout) as dataset:
            dataset.write(bands)
            dataset.update_tags(**(tags or {}))
            for number, name in enumerate(descriptions or (), start=1):
                dataset.set_band_description(number, name)
            if colormap is not None:
                dataset.write_colormap(1, dict(colormap))
    return Path(path)
