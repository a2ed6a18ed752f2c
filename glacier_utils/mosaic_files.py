"""Rasters of many scenes as one: a VRT, a small text file that GDAL and QGIS open as a raster.

Written here because rasterio has no gdalbuildvrt, and the one library that has (rio-vrt 0.3.1)
keeps no colours, no scale and no nodata of what it puts together.
"""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rasterio.enums import ColorInterp
from rasterio.windows import Window

from glacier_utils.errors import GlacierError
from glacier_utils.files import write_text
from glacier_utils.grids import Grid, same_crs
from glacier_utils.rasters import crs_name, open_raster

MARGIN = 128  # px; a network sees less of the ground around a place that is nearer to the frame
_TYPES = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32",
          "int32": "Int32", "float32": "Float32", "float64": "Float64"}  # fmt: skip
_WHOLE = 1e-3  # px; nearer to a whole number, a place is that number


@dataclass(frozen=True)
class _Raster:
    path: Path
    grid: Grid
    blocks: tuple[int, int]
    # What all rasters of a mosaic share: type, nodata, scale, offset, colours.
    look: tuple[Any, ...]


def write_vrt(path: str | Path, rasters: Sequence[str | Path], *, margin: int = MARGIN) -> Path:
    """Write a mosaic of rasters of one band, whole or not at all; copies no pixels.

    Where rasters overlap, the first in the list counts that has data and is not within ``margin``
    pixels of its frame; where all have their margin there, the first that has data. Pixel size is
    the smallest there is, on the lattice of the first raster; others are taken by nearest
    neighbour. Paths in the file are relative to it, so that the folder can be moved.

    Args:
        path: of the .vrt file.
        rasters: of one CRS, type, nodata value, scale and colour table.
        margin: in pixels of each raster, at most a quarter of its side.

    Raises:
        GlacierError: no rasters, or rasters that do not belong together.
    """
    path = Path(path)
    if not rasters:
        raise GlacierError(f"{path}: a mosaic needs at least one raster")
    found = [_read(Path(raster)) for raster in rasters]
    for other in found[1:]:
        if not same_crs(other.grid.crs, found[0].grid.crs):
            raise GlacierError(
                f"{other.path}: its CRS {crs_name(other.grid)} is not {crs_name(found[0].grid)} as "
                f"of {found[0].path.name}; put them into mosaics of their own"
            )
        if other.look != found[0].look:
            raise GlacierError(
                f"{other.path}: type, nodata, scale or colours are not those of "
                f"{found[0].path.name}; map both with the same version"
            )
    frame = _frame([raster.grid for raster in found])
    root = ET.Element("VRTDataset", rasterXSize=str(frame.width), rasterYSize=str(frame.height))
    if frame.crs is not None:
        # GDAL takes axes in the order of the authority unless told otherwise.
        ET.SubElement(root, "SRS", dataAxisToSRSAxisMapping=_axes(frame)).text = frame.crs.to_wkt()
    numbers = ", ".join(repr(float(value)) for value in frame.transform.to_gdal())
    ET.SubElement(root, "GeoTransform").text = numbers
    band = _band(root, found[0])
    # The last that is written into a place of the mosaic counts there.
    for raster in reversed(found):
        _add_source(band, raster, path, frame, Window(0, 0, *reversed(raster.grid.shape)))
    if len(found) > 1 and margin > 0:
        for raster in reversed(found):
            _add_source(band, raster, path, frame, core(raster.grid, margin))
    ET.indent(root)
    return write_text(path, ET.tostring(root, encoding="unicode") + "\n")


def core(grid: Grid, margin: int = MARGIN) -> Window:
    """Return the part of a frame without its margin, which is at most a quarter of a side."""
    rows, cols = (min(margin, size // 4) for size in grid.shape)
    return Window(cols, rows, grid.width - 2 * cols, grid.height - 2 * rows)


def _read(path: Path) -> _Raster:
    with open_raster(path) as file:
        if file.count != 1:
            raise GlacierError(f"{path}: has {file.count} bands; a mosaic takes rasters of one")
        colours = file.colormap(1) if file.colorinterp[0] == ColorInterp.palette else {}
        look = (file.dtypes[0], file.nodata, file.scales[0], file.offsets[0], file.descriptions[0],
                tuple(sorted(colours.items())))  # fmt: skip
        grid = Grid(file.crs, file.transform, file.height, file.width)
        return _Raster(path, grid, file.block_shapes[0], look)


def _frame(grids: Sequence[Grid]) -> Grid:
    """Return the frame around all, on the lattice of the first."""
    pixel = min(grids, key=lambda grid: grid.transform.a).transform
    first = grids[0].transform
    bounds = [grid.bounds for grid in grids]
    left = first.c + _down((min(box[0] for box in bounds) - first.c) / pixel.a) * pixel.a
    top = first.f + _down((max(box[3] for box in bounds) - first.f) / pixel.e) * pixel.e
    width = -_down((left - max(box[2] for box in bounds)) / pixel.a)
    height = -_down((top - min(box[1] for box in bounds)) / pixel.e)
    return Grid(grids[0].crs, type(first)(pixel.a, 0, left, 0, pixel.e, top), height, width)


def _down(value: float) -> int:
    return math.floor(value + _WHOLE)


def _axes(grid: Grid) -> str:
    return "2,1" if grid.crs.is_geographic else "1,2"


def _band(root: ET.Element, raster: _Raster) -> ET.Element:
    kind, nodata, scale, offset, description, colours = raster.look
    if kind not in _TYPES:
        raise GlacierError(f"{raster.path}: no mosaic can be made of numbers of type {kind}")
    band = ET.SubElement(root, "VRTRasterBand", dataType=_TYPES[kind], band="1")
    if description:
        ET.SubElement(band, "Description").text = description
    if nodata is not None:
        ET.SubElement(band, "NoDataValue").text = f"{nodata:g}"
    if colours:
        ET.SubElement(band, "ColorInterp").text = "Palette"
        table = ET.SubElement(band, "ColorTable")
        for _, colour in colours:
            parts = {f"c{number}": str(part) for number, part in enumerate(colour, start=1)}
            ET.SubElement(table, "Entry", parts)
    if (scale, offset) != (1, 0):
        ET.SubElement(band, "Offset").text = repr(offset)
        ET.SubElement(band, "Scale").text = repr(scale)
    return band


def _add_source(band: ET.Element, raster: _Raster, path: Path, frame: Grid, window: Window) -> None:
    nodata = raster.look[1]
    source = ET.SubElement(band, "SimpleSource" if nodata is None else "ComplexSource")
    href = os.path.relpath(raster.path.absolute(), path.absolute().parent)
    ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = Path(href).as_posix()
    ET.SubElement(source, "SourceBand").text = "1"
    ET.SubElement(
        source, "SourceProperties",
        RasterXSize=str(raster.grid.width), RasterYSize=str(raster.grid.height),
        DataType=_TYPES[raster.look[0]],
        BlockXSize=str(raster.blocks[1]), BlockYSize=str(raster.blocks[0]),
    )  # fmt: skip
    ET.SubElement(source, "SrcRect", _rectangle(*window.flatten()))
    part = raster.grid.window(window.row_off, window.col_off, window.height, window.width)
    row, col = frame.position(part)
    ratio_x = raster.grid.transform.a / frame.transform.a
    ratio_y = raster.grid.transform.e / frame.transform.e
    place = (col, row, window.width * ratio_x, window.height * ratio_y)
    ET.SubElement(source, "DstRect", _rectangle(*map(_whole, place)))
    if nodata is not None:
        ET.SubElement(source, "NODATA").text = f"{nodata:g}"


def _whole(value: float) -> float:
    # Rounding of coordinates must not shift a raster by a part of a pixel.
    return round(value) if abs(value - round(value)) < _WHOLE else value


def _rectangle(col: float, row: float, width: float, height: float) -> dict[str, str]:
    return {"xOff": f"{col:.12g}", "yOff": f"{row:.12g}",
            "xSize": f"{width:.12g}", "ySize": f"{height:.12g}"}  # fmt: skip
