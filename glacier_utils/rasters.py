"""Raster files: find them, open them with clear errors, place them on a lattice, write them."""

from __future__ import annotations

import glob
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path
from glacier_utils.grids import Grid

SUFFIXES = {".tif", ".tiff", ".jp2", ".png", ".vrt", ".img"}


def list_files(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the raster files that a path, a folder, a pattern or a list of these means, sorted.

    Raises:
        GlacierError: nothing is there.
    """
    if isinstance(images, str | Path):
        return _list_one(str(images))
    found = [path for item in images for path in list_files(item)]
    if not found:
        raise GlacierError("an empty list of images: name at least one file")
    return sorted(set(found))


def _list_one(text: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        if path.suffix.upper() == ".SAFE":
            raise GlacierError(
                f"{path}: a SAFE folder is not read as such yet; point `images` at its "
                "GRANULE/*/IMG_DATA/R10m folder and state the offset in `reflectance`"
            )
        found = sorted(item for item in path.iterdir() if _is_raster(item))
        if not found:
            raise GlacierError(f"{path}: this folder holds no raster files (GeoTIFF, JPEG 2000)")
        return found
    found = sorted(Path(item) for item in glob.glob(text, recursive=True))
    found = [item for item in found if _is_raster(item)]
    if not found:
        what = "this pattern matches no raster file" if glob.has_magic(text) else "no such file"
        raise GlacierError(f"{path}: {what}; check the path")
    return found


def _is_raster(path: Path) -> bool:
    # Names that start with a dot are unfinished files or a system's own.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


@contextmanager
def open_raster(path: Path) -> Iterator[rasterio.DatasetReader]:
    """Open a raster for reading; whatever GDAL finds wrong with it becomes a GlacierError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # Listing a folder of thousands of patches for each of them costs more than opening it.
            quick = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE")
            with quick, rasterio.open(path) as dataset:
                yield dataset
    except RasterioError as error:
        if not Path(path).exists():
            raise GlacierError(f"{path}: no such file; check the path") from error
        reason = " ".join(str(error.__cause__ or error).split())
        raise GlacierError(
            f"{path}: cannot be read as a raster, it may be cut short or of another format; "
            f"fetch or export it again ({reason})"
        ) from error


@dataclass(frozen=True)
class Header:
    """What a raster says of itself."""

    path: Path
    grid: Grid
    georeferenced: bool
    count: int
    dtype: str


def read_header(path: Path) -> Header:
    """Read shape, georeference, band count and type of a file.

    Raises:
        GlacierError: it cannot be read, or its grid is rotated, flipped or not square.
    """
    with open_raster(path) as dataset:
        transform, crs = dataset.transform, dataset.crs
        height, width = dataset.shape
        count, dtype = dataset.count, dataset.dtypes[0]
    georeferenced = transform != Affine.identity()
    if not georeferenced:
        grid = Grid(None, pixel_transform(0, 0, 1.0), height, width)
        return Header(path, grid, False, count, dtype)
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
    return Header(path, grid, True, count, dtype)


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
        # Blocks larger than the image would be padded: a patch gets a block of its own size.
        "blocksize": min(512, max(16, math.ceil(max(grid.shape) / 16) * 16)),
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
