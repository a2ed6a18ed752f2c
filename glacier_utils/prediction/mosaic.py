"""The maps of many scenes as one: a mosaic for each kind and CRS, and outlines without doubles.

A mosaic is a VRT, a small text file that GDAL and QGIS open as a raster. It is written here because
rasterio has no gdalbuildvrt, and the one library that has (rio-vrt 0.3.1) keeps no colours, no
scale and no nodata of what it puts together.

The outlines are those of the mosaics, not of the scenes put together: so they agree with the
mosaics pixel by pixel, a glacier that the edge of a scene cuts is whole, and nothing counts twice.
Only between mosaics of different CRSs, such as neighbouring UTM zones, outlines are cut and joined:
the first mosaic counts wherever it has data, and what touches across its edge becomes one glacier.
"""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import rasterio.features
import shapely
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from glacier_utils.conventions import SYNTHETIC
from glacier_utils.errors import GlacierError
from glacier_utils.files import file_name, write_text
from glacier_utils.outlines.inventory import areas_km2
from glacier_utils.outlines.polygonization import polygonize_file
from glacier_utils.outlines.reading import polygonal
from glacier_utils.raster.grid import Grid, same_crs
from glacier_utils.raster.io import crs_name, open_raster, read_header

KINDS = ("probability", "class")
MARGIN = 128  # px; a network sees less of the ground around a place that is nearer to the frame
_WHOLE = 1e-3  # px; nearer to a whole number, a place is that number
_STRIP = 2048  # rows of a mosaic that are looked at together
_FOLLOWED = 100.0  # px; so long a piece of a straight edge stays straight in another projection


@dataclass(frozen=True)
class _Raster:
    path: Path
    grid: Grid
    blocks: tuple[int, int]
    # What all rasters of a mosaic have in common: nodata, scale, offset, name, colours.
    look: tuple[Any, ...]
    synthetic: bool


def write_vrt(path: str | Path, rasters: Sequence[str | Path], *, margin: int = MARGIN) -> Path:
    """Write a mosaic of rasters of one band, whole or not at all; copies no pixels.

    Where rasters overlap, the first in the list counts that has data and is not within ``margin``
    pixels of its frame; where all have their margin there, the first that has data. Pixel size is
    the smallest there is, on the lattice of the first raster; others are taken by nearest
    neighbour. Paths in the file are relative to it, so that the folder can be moved.

    Args:
        path: of the .vrt file.
        rasters: maps (uint8, one band) of one CRS, nodata value, scale and colour table.
        margin: in pixels of each raster, at most a quarter of its side.

    Raises:
        GlacierError: rasters that do not belong together.
    """
    path = Path(path)
    found = [_read(Path(raster)) for raster in rasters]
    for other in found[1:]:
        if other.look != found[0].look:
            raise GlacierError(
                f"{other.path}: nodata, scale or colours are not those of "
                f"{found[0].path.name}; map both with the same version"
            )
    frame = _frame([raster.grid for raster in found])
    root = ET.Element("VRTDataset", rasterXSize=str(frame.width), rasterYSize=str(frame.height))
    # GDAL takes axes in the order of the authority unless told otherwise.
    crs: Any = frame.crs
    axes = "2,1" if crs.is_geographic else "1,2"
    _element(root, "SRS", crs.to_wkt(), dataAxisToSRSAxisMapping=axes)
    numbers = ", ".join(repr(float(value)) for value in frame.transform.to_gdal())
    _element(root, "GeoTransform", numbers)
    if any(raster.synthetic for raster in found):
        _element(_element(root, "Metadata"), "MDI", SYNTHETIC, key="SYNTHETIC")
    band = _band(root, found[0])
    # The last that is written into a place of the mosaic counts there.
    for inset in (0, margin) if len(found) > 1 and margin > 0 else (0,):
        for raster in reversed(found):
            _add_source(band, raster, path, frame, _core(raster.grid, inset))
    ET.indent(root)
    return write_text(path, ET.tostring(root, encoding="unicode") + "\n")


def _element(parent: ET.Element, tag: str, text: str | None = None, **about: object) -> ET.Element:
    made = ET.SubElement(parent, tag, {name: str(value) for name, value in about.items()})
    made.text = text
    return made


def _core(grid: Grid, margin: int) -> Window:
    """Return the part of a frame without its margin, which is at most a quarter of a side."""
    rows, cols = (min(margin, size // 4) for size in grid.shape)
    return Window(cols, rows, grid.width - 2 * cols, grid.height - 2 * rows)


def _read(path: Path) -> _Raster:
    with open_raster(path) as file:
        if file.count != 1 or file.dtypes[0] != "uint8" or file.nodata is None:
            raise GlacierError(f"{path}: is no map of probability or class (uint8 with nodata)")
        colours = file.colormap(1) if file.colorinterp[0] == ColorInterp.palette else {}
        look = (
            file.nodata, file.scales[0], file.offsets[0], file.descriptions[0],
            tuple(sorted(colours.items())),
        )  # fmt: skip
        grid = Grid(file.crs, file.transform, file.height, file.width)
        return _Raster(path, grid, file.block_shapes[0], look, SYNTHETIC in file.tags().values())


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


def _band(root: ET.Element, raster: _Raster) -> ET.Element:
    nodata, scale, offset, description, colours = raster.look
    band = _element(root, "VRTRasterBand", dataType="Byte", band="1")
    if description:
        _element(band, "Description", description)
    _element(band, "NoDataValue", f"{nodata:g}")
    if colours:
        _element(band, "ColorInterp", "Palette")
        table = _element(band, "ColorTable")
        for _, colour in colours:
            _element(table, "Entry", **{f"c{place}": part for place, part in enumerate(colour, 1)})
    if (scale, offset) != (1, 0):
        _element(band, "Offset", repr(offset))
        _element(band, "Scale", repr(scale))
    return band


def _add_source(band: ET.Element, raster: _Raster, path: Path, frame: Grid, window: Window) -> None:
    grid, (block_rows, block_cols) = raster.grid, raster.blocks
    source = _element(band, "ComplexSource")
    href = os.path.relpath(raster.path.absolute(), path.absolute().parent)
    _element(source, "SourceFilename", Path(href).as_posix(), relativeToVRT="1")
    _element(source, "SourceBand", "1")
    _element(
        source, "SourceProperties", RasterXSize=grid.width, RasterYSize=grid.height,
        DataType="Byte", BlockXSize=block_cols, BlockYSize=block_rows,
    )  # fmt: skip
    _element(source, "SrcRect", **_rectangle(*window.flatten()))
    row, col = frame.position(
        grid.window(window.row_off, window.col_off, window.height, window.width)
    )
    size_x = window.width * grid.transform.a / frame.transform.a
    size_y = window.height * grid.transform.e / frame.transform.e
    _element(source, "DstRect", **_rectangle(*map(_whole, (col, row, size_x, size_y))))
    _element(source, "NODATA", f"{raster.look[0]:g}")


def _whole(value: float) -> float:
    # Rounding of coordinates must not shift a raster by a part of a pixel.
    return round(value) if abs(value - round(value)) < _WHOLE else value


def _rectangle(col: float, row: float, width: float, height: float) -> dict[str, str]:
    return {"xOff": f"{col:.12g}", "yOff": f"{row:.12g}",
            "xSize": f"{width:.12g}", "ySize": f"{height:.12g}"}  # fmt: skip


@dataclass(frozen=True)
class MappedScene:
    """The finished products of one scene; ``files``: kind -> path, with "class" at least."""

    name: str
    date: str
    files: dict[str, Path]


@dataclass(frozen=True)
class Mosaics:
    """What all scenes together became.

    Attributes:
        rasters: kind -> a VRT for each CRS, in the order in which the CRSs count.
        glaciers: outlines in one CRS, with area_km2 (on the ellipsoid's equal-area projection),
            ``scenes`` (names of those whose frame it touches) and ``source_date`` (of the scene
            that holds most of it, "" unknown); None where no scene has a CRS.
        notes: a line for each scene that could not be part of it.
    """

    rasters: dict[str, list[Path]]
    glaciers: gpd.GeoDataFrame | None
    notes: list[str] = field(default_factory=list)


def merge(
    scenes: Sequence[MappedScene], folder: str | Path, *, min_area_km2: float = 0.0
) -> Mosaics:
    """Write ``mosaic_<kind>.vrt`` into ``folder`` and outline the glaciers of all scenes together.

    With scenes in several CRSs there is a mosaic each, ``mosaic_<kind>_<CRS>.vrt``: a VRT of warped
    pixels would change every area a little and hide which pixels were mapped. VRTs of an earlier
    call that are no more part of the result are removed.

    Args:
        scenes: in the order in which they count, see ``write_vrt``; the CRSs count in the order in
            which they come.
        folder: of the mosaics.
        min_area_km2: smaller glaciers are left out, after joining what the edges of scenes cut.
    """
    folder = Path(folder)
    groups, notes = _by_crs(scenes)
    rasters: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for grid, members in groups:
        suffix = f"_{file_name(crs_name(grid)).replace(' ', '_')}" if len(groups) > 1 else ""
        for kind in KINDS:
            files = [scene.files[kind] for scene in members if kind in scene.files]
            if files:
                path = folder / f"mosaic_{kind}{suffix}.vrt"
                rasters[kind].append(write_vrt(path, files))
    _remove_others(folder, rasters)
    if not groups:
        return Mosaics(rasters, None, notes)
    alone = len(groups) == 1
    # What is small in one zone may be the end of a large glacier in the next.
    least = min_area_km2 if alone else 0.0
    polygons = [polygonize_file(path, min_area_km2=least) for path in rasters["class"]]
    glaciers = polygons[0] if alone else _across(polygons, rasters["class"])
    glaciers = glaciers[["geometry"]].assign(area_km2=areas_km2(glaciers.geometry))
    if not alone:
        glaciers = glaciers[~(glaciers.area_km2 < min_area_km2)]
    glaciers = _with_scenes(glaciers, [scene for _, members in groups for scene in members])
    order = ["area_km2", "scenes"]
    glaciers = glaciers.sort_values(order, ascending=[False, True], kind="stable")
    return Mosaics(rasters, glaciers.reset_index(drop=True), notes)


def _by_crs(
    scenes: Sequence[MappedScene],
) -> tuple[list[tuple[Grid, list[MappedScene]]], list[str]]:
    groups: list[tuple[Grid, list[MappedScene]]] = []
    notes = []
    for scene in scenes:
        grid = read_header(scene.files["class"]).grid
        if grid.crs is None:
            notes.append(f"{scene.name}: has no CRS, so it is not part of the mosaic")
            continue
        for other, members in groups:
            if same_crs(other.crs, grid.crs):
                members.append(scene)
                break
        else:
            groups.append((grid, [scene]))
    return groups, notes


def _remove_others(folder: Path, rasters: dict[str, list[Path]]) -> None:
    for kind, paths in rasters.items():
        for path in folder.glob(f"mosaic_{kind}*.vrt"):
            if path not in paths:
                path.unlink()


def _across(traced: Sequence[gpd.GeoDataFrame], mosaics: Sequence[Path]) -> gpd.GeoDataFrame:
    """Join the outlines of mosaics of several CRSs on one equal-area plane, in order."""
    plane = _plane(read_header(mosaics[0]).grid)
    result = gpd.GeoSeries([], crs=plane)
    covered = shapely.Polygon()
    for number, (table, path) in enumerate(zip(traced, mosaics, strict=True)):
        grid = read_header(path).grid
        step = _FOLLOWED * grid.transform.a
        shapes = table.geometry.segmentize(step).to_crs(plane)
        shapes = gpd.GeoSeries([polygonal(shape) for shape in shapes], crs=plane)
        cut = [polygonal(shape) for shape in shapes.difference(covered)]
        result = _joined(result, gpd.GeoSeries(cut, crs=plane), covered, grid.resolution)
        if number < len(mosaics) - 1:
            ground = _projected(_ground(path), grid, plane)
            covered = polygonal(shapely.union(covered, polygonal(ground)))
    return gpd.GeoDataFrame(geometry=result, crs=plane)


def _plane(grid: Grid) -> pyproj.CRS:
    """Return an equal-area projection around the middle of a mosaic."""
    middle = _projected(grid.box.centroid, grid, "EPSG:4326")
    return pyproj.CRS.from_dict(
        {"proj": "laea", "lat_0": round(middle.y, 3), "lon_0": round(middle.x, 3),
         "datum": "WGS84", "units": "m"}
    )  # fmt: skip


def _projected(shape: shapely.Geometry, grid: Grid, crs: Any) -> Any:
    """Bring a shape from the CRS of a grid, which has one, to another, edges in place."""
    own: Any = grid.crs
    along = shapely.segmentize(shape, _FOLLOWED * grid.transform.a)
    return gpd.GeoSeries([along], crs=own.to_wkt()).to_crs(crs).iloc[0]


def _joined(
    one: gpd.GeoSeries, other: gpd.GeoSeries, covered: shapely.Geometry, pixel: float
) -> gpd.GeoSeries:
    """Put the polygons of both together; those that meet along ``covered``'s edge become one.

    Each line lies within half a pixel of its pixels' edges, so that what belongs together may be a
    pixel apart: the gap between is ice too.
    """
    shapes = np.concatenate([one.to_numpy(), other[~other.is_empty].to_numpy()])
    seam = shapely.boundary(covered).buffer(1.5 * pixel)
    shapely.prepare(seam)
    near = shapely.intersects(shapes, seam)
    whole = shapely.union_all(shapes[near])
    there = shapely.intersection(whole, seam.buffer(3 * pixel))
    wide = there.buffer(0.75 * pixel, join_style="mitre")
    closed = wide.buffer(-0.75 * pixel, join_style="mitre")
    whole = polygonal(shapely.union(whole, shapely.intersection(closed, seam)))
    return gpd.GeoSeries([*shapes[~near], *shapely.get_parts(whole)], crs=one.crs)


def _ground(path: Path) -> shapely.Geometry:
    """Return where a mosaic has data, along its pixels' edges."""
    found = []
    with open_raster(path) as file:
        for row in range(0, file.height, _STRIP):
            window = Window(0, row, file.width, min(_STRIP, file.height - row))
            data = (file.read(1, window=window) != file.nodata).astype(np.uint8)
            place = file.transform @ Affine.translation(0, row)
            shapes = rasterio.features.shapes(data, data.astype(bool), transform=place)
            found += [shapely.geometry.shape(shape) for shape, _ in shapes]
    return shapely.union_all(found)


def _with_scenes(glaciers: gpd.GeoDataFrame, scenes: Sequence[MappedScene]) -> gpd.GeoDataFrame:
    """Name the scenes whose frame a glacier touches, and the date of the one that holds most."""
    grids = [read_header(scene.files["class"]).grid for scene in scenes]
    frames = np.array([_projected(grid.box, grid, glaciers.crs) for grid in grids])
    tree = shapely.STRtree(frames)
    names, dates = [], []
    for shape in glaciers.geometry:
        # In the order of the scenes: of those that hold it all, the first counts.
        touched = np.sort(tree.query(shape, predicate="intersects"))
        held = shapely.area(shapely.intersection(frames[touched], shape))
        names.append(", ".join(scenes[index].name for index in touched))
        most = touched[np.argmax(np.round(held / shape.area, 6))] if len(touched) else None
        dates.append("" if most is None else scenes[most].date)
    return glaciers.assign(scenes=names, source_date=dates)
