"""Patches as NumPy arrays: one a file, or many stacked in one with an index of their places.

An open array offers the few parts of rasterio's datasets that reading needs, so that whoever reads
rasters reads arrays too. A patch of a stack has the path ``stack.npy/000003``.

Raster files: open them with clear errors, read their headers, write them.

Cloud-optimised GeoTIFFs of maps that were written to the disk row by row, in bounded memory.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.paths import gdal_name, is_virtual, list_files

Place = tuple[int, int]


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
    crs = None
    nodata = None

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self.count = values.shape[0]
        self.shape = values.shape[1:]
        self.dtypes = (values.dtype.name,) * self.count
        self.nodatavals = (None,) * self.count
        self.scales, self.offsets = (1.0,) * self.count, (0.0,) * self.count

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
    file = path.parent if is_member(path) else path
    values = _load(file)
    if is_member(path):
        values = values[int(path.name)]
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
    places = _read_index(index_of(path), len(values)) or [None] * len(values)
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
    except FileNotFoundError as error:
        raise GlacierError(f"{path}: no such file; check the path") from error
    except (ValueError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise GlacierError(
            f"{path}: cannot be read as a plain array, it may be cut short or hold objects; save "
            f"it again with numpy.save ({reason})"
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


def _read_index(path: Path, count: int) -> list[Place] | None:
    """Read the rows and columns of the patches of a stack; None where there is no index."""
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())
        raise GlacierError(f"{path}: cannot be read as a table ({reason})") from error
    table.columns = [str(name).strip().lower() for name in table.columns]
    if not {"row", "col"} <= set(table.columns):
        raise GlacierError(
            f"{path}: has the columns {', '.join(table.columns)}; an index of patches needs row "
            "and col"
        )
    if len(table) != count:
        raise GlacierError(
            f"{path}: has {len(table)} rows for {count} patches; write one row a patch, in order"
        )
    numbers = table[["row", "col"]].apply(pd.to_numeric, errors="coerce")
    wrong = (numbers.isna() | (numbers != numbers.round()) | (numbers < 0)).any(axis=1)
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0]) + 2
        raise GlacierError(f"{path}: line {line}: row and col must be whole numbers from 0")
    return [(int(row), int(col)) for row, col in numbers.to_numpy()]


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

    ``bands`` is how many bands a NumPy array has, where that is known (see ``io.open_array``).
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


BLOCK = 512
# GDAL keeps blocks in memory up to this many bytes; by default a twentieth of the machine's.
CACHE = 2**25
_HALVED = 2**22  # pixels that are halved at a time, which takes some 8 bytes for each


@dataclass(frozen=True)
class Layer:
    """What a map of bytes says of itself.

    Attributes:
        description: name of the band.
        nodata: value of pixels without data.
        scale: measured value = number x scale.
        average: whether overviews hold means of pixels; classes must not be averaged.
        colours: (red, green, blue, alpha) of values, for classes.
        tags: text kept in the file.
    """

    description: str
    nodata: int = 255
    scale: float = 1.0
    average: bool = False
    colours: Mapping[int, tuple[int, int, int, int]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def cog_from_bytes(raw: Path, path: str | Path, grid: Grid, layer: Layer) -> Path:
    """Turn a file of plain bytes [row, col] into a cloud-optimised GeoTIFF, whole or not at all.

    GDAL reads the bytes, and the overviews made of them, through a virtual raster beside them; both
    are removed again. Memory stays below about 100 MB for any size. (GDAL would make the overviews
    itself, each from the whole image, in more than twice the time.)

    Args:
        raw: file of rows x columns bytes; files of its name with other endings are made beside it,
            so it lies on the disk of ``path``, in a folder of its own.
        path: to make.
        grid: place and size.
        layer: what the file is to say of its values.

    Raises:
        GlacierError: it cannot be written, as on a full disk, or does not hold what was written.
    """
    path = Path(path)
    options = {
        "COMPRESS": "DEFLATE",
        # A small image gets one block that is not much larger than itself.
        "BLOCKSIZE": str(min(BLOCK, max(128, -(-max(grid.shape) // 16) * 16))),
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": "ALL_CPUS",
    }
    # In the folder of the bytes, so that nobody finds it where the work is killed.
    temporary = raw.with_suffix(".making.tif")
    helpers = [temporary]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE):
            virtual = _virtual_raster(raw, grid, layer, helpers)
            try:
                rasterio.shutil.copy(virtual, temporary, driver="COG", **options)
            except Exception as error:  # whatever GDAL says; most of it has no public class
                raise RasterioError(str(error)) from error
        _compare(raw, temporary)
        os.replace(temporary, path)
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        free = shutil.disk_usage(path.parent).free / 1e6
        raise GlacierError(
            f"{path}: could not be written ({reason}); {free:.0f} MB are free on that disk: make "
            "room if it is full, then run again"
        ) from error
    finally:
        for helper in (*helpers, *raw.parent.glob(f"{temporary.name}.*")):
            helper.unlink(missing_ok=True)
    return path


def _compare(raw: Path, written: Path) -> None:
    """Raise RasterioError where a file does not give back what went in: a disk may be full."""
    with rasterio.open(written) as file, open(raw, "rb") as before:
        for row in range(0, file.height, BLOCK):
            window = Window(0, row, file.width, min(BLOCK, file.height - row))
            after = file.read(1, window=window)
            if before.read(after.size) != after.tobytes():
                raise RasterioError("the file does not hold what was written to it")


def _virtual_raster(raw: Path, grid: Grid, layer: Layer, helpers: list[Path]) -> Path:
    """Write a virtual raster of a file of bytes, with overviews down to the size of a block.

    Every file that it makes is appended to ``helpers``.
    """
    names = []
    source, (height, width) = raw, grid.shape
    while max(height, width) > BLOCK:
        target = raw.with_suffix(f".half{len(names) + 1}")
        helpers.append(target)
        with open(source, "rb") as before, open(target, "wb") as after:
            step = max(_HALVED // width // 2 * 2, 2)
            for row in range(0, height, step):
                rows = np.fromfile(before, np.uint8, min(step, height - row) * width)
                after.write(_halved(rows.reshape(-1, width), layer).tobytes())
        source, height, width = target, -(-height // 2), -(-width // 2)
        description = target.with_name(f"{target.name}.vrt")
        helpers.append(description)
        description.write_text(_describe(target, Grid(None, grid.transform, height, width), layer))
        names.append(description.name)
    virtual = raw.with_suffix(".vrt")
    helpers.append(virtual)
    virtual.write_text(_describe(raw, grid, layer, names), encoding="utf-8")
    return virtual


def _halved(values: np.ndarray, layer: Layer) -> np.ndarray:
    """Take the upper left one of each 2 x 2 pixels, or their mean without those of no data."""
    if not layer.average:
        return values[::2, ::2]
    odd = tuple((0, length % 2) for length in values.shape)
    values = np.pad(values, odd, mode="edge")
    known = values != layer.nodata
    # Sums of four bytes and counts up to four fit into 16 bits.
    kept = np.where(known, values, 0).astype(np.uint16)
    total = sum(kept[row::2, col::2] for row in (0, 1) for col in (0, 1))
    count = sum(known[row::2, col::2].astype(np.uint16) for row in (0, 1) for col in (0, 1))
    mean = (total + count // 2) // np.maximum(count, 1)
    return np.where(count > 0, mean, layer.nodata).astype(np.uint8)


def _describe(raw: Path, grid: Grid, layer: Layer, overviews: Sequence[str] = ()) -> str:
    """Return GDAL's description of a file of bytes as a raster: a VRT with a raw band."""
    size = {"rasterXSize": str(grid.width), "rasterYSize": str(grid.height)}
    top = ET.Element("VRTDataset", size)
    if grid.crs is not None:
        ET.SubElement(top, "SRS").text = rasterio.crs.CRS.from_user_input(grid.crs).to_wkt()
    transform = ", ".join(repr(value) for value in grid.transform.to_gdal())
    ET.SubElement(top, "GeoTransform").text = transform
    _tags(top, layer.tags)
    band = ET.SubElement(
        top, "VRTRasterBand", {"dataType": "Byte", "band": "1", "subClass": "VRTRawRasterBand"}
    )
    ET.SubElement(band, "Description").text = layer.description
    ET.SubElement(band, "NoDataValue").text = str(layer.nodata)
    if layer.scale != 1:
        ET.SubElement(band, "Offset").text = "0"
        ET.SubElement(band, "Scale").text = repr(layer.scale)
    if layer.colours:
        ET.SubElement(band, "ColorInterp").text = "Palette"
        table = ET.SubElement(band, "ColorTable")
        for value in range(256):
            colour = layer.colours.get(value, (0, 0, 0, 0))
            ET.SubElement(
                table,
                "Entry",
                {f"c{number}": str(part) for number, part in enumerate(colour, start=1)},
            )
    for name in overviews:
        overview = ET.SubElement(band, "Overview")
        ET.SubElement(overview, "SourceFilename", {"relativeToVRT": "1"}).text = name
        ET.SubElement(overview, "SourceBand").text = "1"
    ET.SubElement(band, "SourceFilename", {"relativeToVRT": "1"}).text = raw.name
    for name, value in (("ImageOffset", 0), ("PixelOffset", 1), ("LineOffset", grid.width)):
        ET.SubElement(band, name).text = str(value)
    return ET.tostring(top, encoding="unicode")


def _tags(parent: ET.Element, tags: Mapping[str, str]) -> None:
    if tags:
        holder = ET.SubElement(parent, "Metadata")
        for name, value in tags.items():
            # Characters that XML cannot hold may come with a file's name.
            text = "".join(c if c.isprintable() else " " for c in str(value))
            ET.SubElement(holder, "MDI", {"key": name}).text = text
