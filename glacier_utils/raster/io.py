"""Raster files: opened with clear errors, their headers read, cloud-optimised GeoTIFFs written.

NumPy files are read too: one for each patch, or many patches stacked in one, whose index
(``stack.csv`` beside ``stack.npy``) says where each lies. A patch of a stack has the path
``stack.npy/000003``. An open array offers the few parts of rasterio's datasets that reading needs,
so that whoever reads rasters reads arrays too.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyproj
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from glacier_utils.conventions import SYNTHETIC
from glacier_utils.errors import GlacierError, plain
from glacier_utils.files import release_pages
from glacier_utils.raster.grid import LATTICE_TOLERANCE, Grid
from glacier_utils.raster.paths import gdal_name, is_virtual

Place = tuple[int, int]
# GDAL keeps blocks in memory up to this many bytes; by default a twentieth of the machine's.
CACHE = 2**25
_BLOCK = 512  # side of the blocks of a written file, and rows that are written at a time
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
# Bytes of GDAL's memory of decoded blocks, beside a row of blocks of each open file, and at most: a
# row of blocks of a Sentinel-2 product has 92 MB.
_CACHE_LEAST, _CACHE_MOST = 2**24, 2**27


def is_array(path: Path) -> bool:
    """Say whether a path is a NumPy file or a patch in one; its content is not looked at."""
    return path.suffix.lower() in (".npy", ".npz") or is_member(path)


def is_member(path: Path) -> bool:
    """Say whether a path is a patch of a stack."""
    return path.parent.suffix.lower() == ".npy" and not path.suffix


def index_of(path: Path) -> Path:
    """Return the path of the index that belongs to a stack."""
    return path.with_suffix(".csv")


class ArrayDataset:
    """An array [band, row, col] under the names that a rasterio dataset has for it."""

    transform = Affine.identity()
    tags = dict  # an array has none
    crs = None
    nodata = None
    colorinterp = mask_flag_enums = ()

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self.count = values.shape[0]
        self.shape = values.shape[1:]
        self.dtypes = (values.dtype.name,) * self.count
        self.nodatavals = (None,) * self.count
        self.scales, self.offsets = (1.0,) * self.count, (0.0,) * self.count
        self.descriptions = (None,) * self.count

    def read(self, indexes: int | Sequence[int], window: tuple | None = None) -> np.ndarray:
        """Read bands, counted from 1, or [row, col] of one; only the window leaves the disk."""
        rows, cols = (slice(*part) for part in window or ((None,), (None,)))
        # Window first: picking bands by a list copies what it picks from.
        part = self._values[:, rows, cols]
        picked = part[indexes - 1 if isinstance(indexes, int) else [i - 1 for i in indexes]]
        # Rasters have no truth values, and the byte order of the machine.
        kind = np.uint8 if picked.dtype == bool else picked.dtype.newbyteorder("=")
        return np.array(picked, dtype=kind)


def open_array(path: Path, bands: int | None = None) -> ArrayDataset:
    """Open a .npy file, or a patch of a stack, memory-mapped.

    Args:
        path: file, or ``stack.npy/000003``.
        bands: how many bands a patch has, where that is known: tells [band, row, col] from
            [row, col, band]. Else the shorter of the two axes counts the bands.

    Raises:
        GlacierError: not a plain array of numbers, or of another shape.
    """
    values = _load(path.parent)[int(path.name)] if is_member(path) else _load(path)
    return ArrayDataset(_bands_first(values, bands))


def members(path: Path, bands: int | None = None) -> list[tuple[Path, Place | None]]:
    """Return the patches in a file with the (row, col) that the index of a stack gives them.

    A file of one patch is itself its only member, without place.

    Raises:
        GlacierError: the file cannot be read, or its index does not fit.
    """
    values = _load(path)
    if not _is_stack(values.shape, bands):
        return [(path, None)]
    places = _read_index(index_of(path), len(values))
    return [(path / f"{number:06d}", place) for number, place in enumerate(places)]


def _load(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".npz":
        raise GlacierError(
            f"{path}: an archive of arrays is not read; save its array with numpy.save as a .npy"
        )
    if is_virtual(path):
        raise GlacierError(f"{path}: arrays are read from the disk only; unpack or download it")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise GlacierError(
            f"{path}: cannot be read as a plain array, it may be cut short or hold objects; save "
            f"it again with numpy.save ({plain(error)})"
        ) from error
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3, 4) or not values.size:
        shape = " x ".join(map(str, values.shape))
        raise GlacierError(
            f"{path}: is an array of {values.dtype}, {shape or 'one value'}; a patch is "
            "[band, row, col], [row, col, band] or [row, col], a stack [n, band, row, col], all of "
            "numbers"
        )
    return values


def _is_stack(shape: Sequence[int], bands: int | None) -> bool:
    # Patches of one band may do without their axis of length 1.
    return len(shape) == 4 or (len(shape) == 3 and bands == 1 and 1 not in (shape[0], shape[2]))


def _bands_first(values: np.ndarray, bands: int | None) -> np.ndarray:
    if values.ndim == 2:
        return values[np.newaxis]
    first, last = values.shape[0], values.shape[-1]
    at_end = last < first if bands not in (first, last) or first == last else last == bands
    return np.moveaxis(values, -1, 0) if at_end else values


def _read_index(path: Path, count: int) -> Sequence[Place | None]:
    """Read the rows and columns of the patches of a stack; None for each without an index."""
    if not path.is_file():
        return [None] * count
    try:
        table = pd.read_csv(path).rename(columns=lambda name: str(name).strip().lower())
    except (ValueError, OSError) as error:
        raise GlacierError(f"{path}: cannot be read as a table ({plain(error)})") from error
    if not {"row", "col"} <= set(table) or len(table) != count:
        raise GlacierError(
            f"{path}: has {len(table)} rows with the columns {', '.join(table)}; an index has row "
            f"and col for each of the {count} patches, in order"
        )
    table = table[["row", "col"]].apply(pd.to_numeric, errors="coerce")
    wrong = (table.isna() | (table != table.round()) | (table < 0)).any(axis=1)
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0]) + 2
        raise GlacierError(f"{path}: line {line}: row and col must be whole numbers from 0")
    return [(int(row), int(col)) for row, col in table.to_numpy()]


@contextmanager
def open_raster(path: Path, bands: int | None = None) -> Iterator[Any]:
    """Open a raster for reading; whatever GDAL finds wrong with it becomes a GlacierError.

    It gives a ``rasterio.DatasetReader``, or an ``ArrayDataset`` where the file is NumPy's.
    ``bands`` is how many bands a NumPy array has, where that is known (see ``io.open_array``).
    """
    if is_array(path):
        yield open_array(path, bands)
        return
    with _gdal(path), _opened(path) as dataset:
        yield dataset


def _opened(path: Path, mode: str = "r", **profile: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        dataset = rasterio.open(gdal_name(path), mode, **profile)
    if mode == "r" and dataset.crs is None and dataset.gcps[0] and dataset.gcps[1]:
        return _laid_flat(path, dataset)
    if mode == "r" and (dataset.subdatasets or not dataset.count):
        raise RasterioError("it holds several images: export the one that is meant")
    return dataset


def _laid_flat(path: Path, dataset: rasterio.DatasetReader) -> WarpedVRT:
    """Warp a raster that ground control points place, on reading, to a north-up grid in metres."""
    points, crs = dataset.gcps
    target = crs
    if crs.is_geographic:
        x, y = np.mean([(point.x, point.y) for point in points], axis=0)
        target = CRS.from_epsg((32600 if y >= 0 else 32700) + int((x + 180) // 6) % 60 + 1)
    empty = 0 if np.dtype(dataset.dtypes[0]).kind in "ui" else math.nan
    empty = empty if dataset.nodata is None else dataset.nodata
    try:
        return WarpedVRT(dataset, src_crs=crs, crs=target, nodata=empty)
    except (CPLE_BaseError, RasterioError, ValueError) as error:
        raise GlacierError(
            f"{path}: its ground control points make no map ({plain(error)}); warp "
            "it to a north-up grid (gdalwarp)"
        ) from error


@contextmanager
def _gdal(path: Path, **options: Any) -> Iterator[None]:
    """Set GDAL's options for a raster; whatever it finds wrong becomes a GlacierError."""
    name = gdal_name(path)
    web = "/vsicurl" in name
    try:
        with rasterio.Env(**(_WEB if web else _LOCAL), **options):
            yield
    except (RasterioError, CPLE_BaseError) as error:
        reason = plain(error.__cause__ or error)
        if web:
            raise GlacierError(
                f"{name.removeprefix('/vsicurl/')}: cannot be fetched or is no raster; check the "
                f"address and the network, or download the file and name that ({reason})"
            ) from error
        if not is_virtual(path) and not path.exists():
            raise GlacierError(f"{path}: no such file; check the path") from error
        hint = "fetch or export it again"
        if path.suffix.lower() in (".nc", ".hdf", ".h5", ".he5"):
            hint = "convert its bands to one GeoTIFF (gdal_translate)"
        elif path.name.upper().startswith("MTD_"):
            hint = "name the folder of the product, which ends in .SAFE, instead"
        raise GlacierError(
            f"{name}: cannot be read as a raster, it may be cut short or of another format; "
            f"{hint} ({reason})"
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
        # With the bytes of a row of its blocks.
        self._open: dict[Path, tuple[rasterio.DatasetReader, int]] = {}

    def __enter__(self) -> KeptOpen:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._close()

    def _close(self) -> None:
        """Close the file that has been open for longest."""
        self._open.pop(next(iter(self._open)))[0].close()

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
                dataset = _opened(path)
            self._open[path] = dataset, _row_of_blocks(dataset, self._width)
        # What a read leaves in GDAL's memory stays within its limit during the read.
        limit = min(_CACHE_LEAST + sum(size for _, size in self._open.values()), _CACHE_MOST)
        with _gdal(path, GDAL_CACHEMAX=limit):
            yield self._open[path][0]


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
    descriptions: tuple[str | None, ...] = ()
    colours: tuple[str, ...] = ()
    # Number of the band of opacity, 0 without one; whether the file has a mask, in it or beside it.
    alpha: int = 0
    masked: bool = False
    synthetic: bool = False  # as the sample tags its own patches, and as maps of them are tagged

    @property
    def texts(self) -> tuple[str | None, ...]:
        """What the file calls its bands: descriptions, else colours; None where it does not."""
        if any(self.descriptions):
            return self.descriptions
        return self.colours or (None,) * self.count

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
            "synthetic": SYNTHETIC in dataset.tags().values(),
            "dtype": dataset.dtypes[0],
            "scales": tuple(dataset.scales),
            "offsets": tuple(dataset.offsets),
            "descriptions": _descriptions(dataset),
            "colours": tuple(colour.name for colour in dataset.colorinterp),
            # Nodata and opacity are read as such: a mask that GDAL makes of one hides the other.
            "masked": any(
                MaskFlags.alpha not in flags
                and flags not in ([MaskFlags.all_valid], [MaskFlags.nodata])
                for flags in dataset.mask_flag_enums
            ),
        }
    about["alpha"] = next((n for n, c in enumerate(about["colours"], 1) if c == "alpha"), 0)
    if about["dtype"].startswith("complex"):
        raise GlacierError(
            f"{path}: holds complex numbers ({about['dtype']}), which are no reflectance; export "
            "the image as uint16 or float32"
        )
    # What programs compute leaves traces of a turn.
    turn = abs(transform.b * height), abs(transform.d * width)
    if max(turn) < LATTICE_TOLERANCE * abs(transform.a):
        transform = Affine(transform.a, 0, transform.c, 0, transform.e, transform.f)
    georeferenced = transform != Affine.identity()
    if not georeferenced:
        bare = Grid(None, pixel_transform(0, 0, 1.0), height, width)
        return Header(path, bare, False, **about)
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        raise GlacierError(
            f"{path}: its grid is rotated or flipped; warp it to a north-up grid first (gdalwarp)"
        )
    if crs is not None and not (crs.is_projected or crs.is_geographic):
        crs = None  # of a building site (LOCAL_CS), or x, y, z from the Earth's centre: no map's
    grid = Grid(crs, transform, height, width)
    # Longitudes may be counted past 180; more than 100 000 km no CRS has room for.
    far = (720, 90.5) if crs is not None and crs.is_geographic else (1e8, 1e8)
    x, y = np.abs(np.reshape(grid.bounds, (2, 2))).max(axis=0)
    if not (x <= far[0] and y <= far[1]):
        raise GlacierError(
            f"{path}: its corner at {transform.c:.10g}, {transform.f:.10g} is no place in its CRS "
            f"({crs_name(grid)}); give it the CRS that it is in (gdal_edit.py -a_srs EPSG:CODE)"
        )
    # Degrees are not square on the ground anyway, so only projected grids are held to it.
    if (crs is None or crs.is_projected) and abs(transform.a / -transform.e - 1) > 0.01:
        raise GlacierError(
            f"{path}: its pixels are {transform.a:g} x {-transform.e:g}, not square; "
            "warp it to square pixels first (gdalwarp -tr)"
        )
    return Header(path, grid, True, **about)


def _descriptions(dataset: Any) -> tuple[str | None, ...]:
    """Return what bands are called: their descriptions, wavelengths, or the files behind a VRT."""
    if any(dataset.descriptions) or isinstance(dataset, ArrayDataset) or dataset.count == 1:
        return tuple(dataset.descriptions)
    found: list[str | None] = []
    for number in dataset.indexes:
        tags = dataset.tags(number).items()
        wave = [value for key, value in tags if re.fullmatch("(central_?)?wavelength", key.lower())]
        behind = dataset.tags(number, ns="vrt_sources").get("source_0", "")
        name = re.search("<SourceFilename[^>]*>([^<]+)<", behind)
        found.append(f"wavelength {wave[0]}" if wave else Path(name[1]).stem if name else None)
    # One file behind all of them tells none.
    return tuple(found) if len(set(found)) == len(found) else tuple(dataset.descriptions)


def masked_out(header: Header, dataset: Any, numbers: Sequence[int], window: tuple) -> np.ndarray:
    """Return the pixels that a file's mask or its band of opacity hides, bool [row, col]."""
    hidden = np.zeros([stop - start for start, stop in window], bool)
    if header.masked:
        hidden |= (dataset.read_masks(list(numbers), window=window) == 0).any(axis=0)
    if header.alpha:
        hidden |= dataset.read(header.alpha, window=window) == 0
    return hidden


def pixel_transform(row: int, col: int, resolution: float) -> Affine:
    """Return the transform of a frame without georeference that starts at (``row``, ``col``)."""
    return Affine(resolution, 0, col * resolution, 0, -resolution, -row * resolution)


def crs_name(grid: Grid) -> str:
    """Return a short name of the grid's CRS: the code of an authority, or the name inside it."""
    if grid.crs is None:
        return "none"
    code = grid.crs.to_authority()
    return ":".join(code) if code else pyproj.CRS.from_wkt(grid.crs.to_wkt()).name


def write_raster(
    path: str | Path,
    values: np.ndarray | Path,
    grid: Grid,
    *,
    nodata: float | None = None,
    scale: float = 1.0,
    average: bool | None = None,
    descriptions: Sequence[str] = (),
    colormap: Mapping[int, tuple[int, ...]] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Write a cloud-optimised GeoTIFF, whole or not at all.

    The rows go into a plain GeoTIFF, of which GDAL's COG driver makes the file and its overviews;
    what was written is read back and compared, since a full disk need not be noticed. Beside
    ``values`` that takes some 150 MB of memory for any size.

    Args:
        path: the file to make.
        values: [row, col] or [band, row, col]; bool becomes uint8. Or a file of one byte for each
            pixel, row by row, on the disk of ``path``; what is made on the way lies beside it.
        grid: its place; must have the rows and columns of ``values``.
        nodata: value of pixels without data.
        scale: measured value = number x scale.
        average: whether overviews hold means of pixels, else one of each four. None: of floats, as
            classes and counts must not be mixed.
        descriptions: names of the bands.
        colormap: colours (red, green, blue[, alpha]) of 0..255 for the values of a uint8 map.
        tags: text kept in the file.

    Raises:
        ValueError: the values do not fit the grid.
        GlacierError: it cannot be written, as on a full disk, or does not hold what was written.

    Example:
        >>> grid = Grid(None, Affine(10, 0, 0, 0, -10, 0), 2, 3)
        >>> folder = Path(tempfile.mkdtemp())
        >>> path = write_raster(folder / "ice.tif", np.ones((2, 3), np.uint8), grid, nodata=255)
        >>> with open_raster(path) as file:
        ...     file.read(1).sum(), file.nodata
        (np.uint64(6), 255.0)
    """
    path = Path(path)
    folder = values.parent if isinstance(values, Path) else path.parent
    if isinstance(values, Path):
        values = np.memmap(values, np.uint8, "r", shape=grid.shape)
    if values.ndim > 3 or values.shape[-2:] != grid.shape:
        raise ValueError(f"an array of shape {values.shape} does not fit a grid of {grid.shape}")
    values = values.reshape(-1, *grid.shape)
    values = values.astype(np.uint8) if values.dtype == bool else values
    count, kind = len(values), values.dtype
    profile = {
        "driver": "GTiff", "height": grid.height, "width": grid.width, "count": count,
        "dtype": kind, "crs": grid.crs, "transform": grid.transform, "nodata": nodata,
        "photometric": "PALETTE" if colormap else "MINISBLACK", "bigtiff": "IF_SAFER",
    }  # fmt: skip
    average = kind.kind == "f" if average is None else average
    layout = {
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "NO" if colormap else "YES",  # classes pack better without
        # Blocks larger than the image would be padded: a patch gets a block of its own
        # size, but none below 128, which the driver does not write.
        "BLOCKSIZE": str(min(_BLOCK, max(128, math.ceil(max(grid.shape) / 16) * 16))),
        "OVERVIEW_RESAMPLING": "AVERAGE" if average else "NEAREST",
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": "ALL_CPUS",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=folder) as name,
        rasterio.Env(GDAL_CACHEMAX=CACHE),
    ):
        rows, made = Path(name, "rows.tif"), Path(name, "made.tif")
        try:
            with _opened(rows, "w", **profile) as dataset:
                if colormap:
                    dataset.write_colormap(1, dict(colormap))
                if scale != 1:
                    dataset.scales, dataset.offsets = (scale,) * count, (0.0,) * count
                for number, text in enumerate(descriptions, start=1):
                    dataset.set_band_description(number, text)
                dataset.update_tags(**{key: plain(text) for key, text in (tags or {}).items()})
                for window, strip in _strips(values, grid):
                    dataset.write(strip, window=window)
            rasterio.shutil.copy(rows, made, driver="COG", **layout)
            # A full disk need not be noticed.
            with _opened(made) as dataset:
                for window, strip in _strips(values, grid):
                    if dataset.read(window=window).tobytes() != strip.tobytes():
                        raise RasterioError("the file does not hold what was written to it")
        except (RasterioError, CPLE_BaseError) as error:
            reason = plain(error.__cause__ or error)
            free = shutil.disk_usage(folder).free / 1e6
            raise GlacierError(
                f"{path}: could not be written ({reason}); {free:.0f} MB are free on that disk: "
                "free some if it is full, then run again"
            ) from error
        os.replace(made, path)
    return path


def _strips(values: np.ndarray, grid: Grid) -> Iterator[tuple[Window, np.ndarray]]:
    """Give windows of a few rows, and the values [band, row, col] in them."""
    for row in range(0, grid.height, _BLOCK):
        strip = values[:, row : row + _BLOCK]
        yield Window(0, row, grid.width, strip.shape[1]), strip
        release_pages(values)
