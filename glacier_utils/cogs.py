"""Cloud-optimised GeoTIFFs of maps that were written to the disk row by row, in bounded memory."""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError
from rasterio.windows import Window

from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid

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
