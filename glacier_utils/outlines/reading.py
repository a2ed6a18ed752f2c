"""Vector files with polygons: find the layer, read the part that is needed, mend the rings.

Near the 180th meridian, files in degrees write a glacier in three ways: cut into parts on both
sides, with longitudes beyond 180, or as a ring that jumps from 179 to -179. On a plane only the
second is the glacier's shape, so that is what the package works with. The functions for it take an
array of geometries in degrees and leave empty ones as they are.
"""

from __future__ import annotations

import math
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, GeometryError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from glacier_utils.errors import GlacierError, did_you_mean
from glacier_utils.raster.grid import same_crs
from glacier_utils.raster.paths import archive_members, spelled

_NO_TEXT = {"", "none", "nan", "null"}
_SUFFIXES = (".shp", ".gpkg", ".geojson", ".json", ".fgb", ".kml", ".kmz")
# Words in the types of layers that can hold polygons; a table without geometry has none.
_ABLE = ("Polygon", "Surface", "Collection", "Unknown")
_DBASE = 10  # letters of a column's name in a shapefile
# This near to the 180th meridian a file may write the same place in three ways.
_NEAR_180 = 10.0


def read_polygons(
    path: str | Path,
    *,
    bounds: Sequence[float] | None = None,
    crs: CRS | None = None,
    columns: Sequence[str] | None = None,
    named_by: Sequence[str] = (),
    layer: str | None = None,
) -> gpd.GeoDataFrame:
    """Read the polygons of a vector file, rings mended, one piece each across the antimeridian.

    Args:
        path: .shp, .zip with some, .gpkg, .geojson or .kml.
        bounds: (xmin, ymin, xmax, ymax) in ``crs``: only polygons that touch it are returned.
        crs: CRS of ``bounds`` and of the result; None keeps the file's.
        columns: names in lower case of the columns to read, which they have in the result however
            the file writes them: in capitals, or cut to ten letters in a shapefile; None reads all.
        named_by: columns, in lower case, the first of which names a polygon in the report. Of
            several layers of polygons, the one that has any of them is read.
        layer: name of the layer to read.

    Returns:
        The file's columns and geometry. ``.attrs["report"]`` lists what was mended or left out.

    Raises:
        GlacierError: a file that is missing, broken, without CRS or without polygons, or whose
            layers do not tell which is meant.
    """
    path = spelled(path)
    address, layer, info = _find_layer(path, layer, named_by)
    with _readable(path):
        file_crs = CRS.from_user_input(info["crs"])
    if not (file_crs.is_projected or file_crs.is_geographic):
        raise GlacierError(
            f"{path}: its CRS is a local one, and nobody knows where that lies on the Earth; "
            "export the outlines in a projected CRS or in degrees"
        )
    corner = (info["total_bounds"] or (0, 0))[:2]
    if file_crs.is_geographic and 720 < max(map(abs, corner)) < math.inf:
        raise GlacierError(
            f"{path}: its coordinates, such as {corner[0]:.6g}, {corner[1]:.6g}, are no degrees as "
            "its CRS says; give it the one it was drawn in (ogr2ogr -a_srs EPSG:CODE)"
        )
    names = _known_names(info["fields"], columns)
    box = None if bounds is None else _file_box(bounds, crs, file_crs)
    queries = _queries(box, file_crs, info["total_bounds"])
    frame = pd.concat([_read(address, path, layer, list(names), query) for query in queries])
    # Both boxes may meet a polygon.
    frame = frame[~frame.index.duplicated()].sort_index().rename(columns=names)
    report: list[str] = []
    frame = _mended(frame, named_by, report)
    if box is not None and file_crs.is_geographic:
        # Before the projection, which may know nothing of the far side of the Earth.
        frame = _set(frame, near(frame.geometry.to_numpy(), (box[0] + box[2]) / 2))
        frame = frame[frame.intersects(shapely.box(*box))]
    if crs is not None:
        frame = in_crs(frame, crs, None if bounds is None else (bounds[0] + bounds[2]) / 2)
    if bounds is not None:
        frame = frame[frame.intersects(shapely.box(*bounds))]
    frame = frame.reset_index(drop=True)
    frame.attrs["report"] = report
    return frame


def in_crs(frame: gpd.GeoDataFrame, crs: CRS, longitude: float | None = None) -> gpd.GeoDataFrame:
    """Return a frame in ``crs``; in a CRS in degrees, polygons are moved near to ``longitude``.

    Raises:
        GlacierError: the frame has no CRS.
    """
    if frame.crs is None:
        raise GlacierError("the outlines have no CRS; set the one they were drawn in")
    # The same CRS in another spelling: a transformation could only add noise.
    same = same_crs(CRS.from_user_input(frame.crs), crs)
    frame = frame.set_crs(crs, allow_override=True) if same else frame.to_crs(crs)
    if crs.is_geographic:
        shapes = unwrapped(frame.geometry.to_numpy())
        frame = _set(frame, shapes if longitude is None else near(shapes, longitude))
    return frame


def polygonal(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the valid area of a geometry, without the lines and points that mending leaves."""
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry)
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = shapely.get_parts(geometry)
    # A collection may hold further collections of one level.
    parts = [inner for part in parts for inner in shapely.get_parts(part)]
    return shapely.union_all([part for part in parts if part.geom_type == "Polygon"])


def _set(frame: gpd.GeoDataFrame, shapes: np.ndarray) -> gpd.GeoDataFrame:
    return frame.set_geometry(gpd.GeoSeries(shapes, index=frame.index, crs=frame.crs))


def _addresses(path: Path) -> list[str]:
    """Return what GDAL opens for a file; of a zip, each file of a layer inside."""
    if not path.exists():
        raise GlacierError(f"{path}: no such file; check the path of the outlines")
    if path.is_dir():
        raise GlacierError(
            f"{path}: is a folder; name the file of outlines in it, and export a .gdb as .gpkg"
        )
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return [f"/vsizip/{path.resolve()}/{name}" for name in _in_zip(path)]
    if suffix == ".shp":
        _check_shapefile(path, path.name, [item.name for item in path.parent.iterdir()])
    elif suffix not in _SUFFIXES:
        raise GlacierError(
            f"{path}: outlines are read from .shp, .zip, .gpkg, .geojson and .kml; convert it to "
            "one"
        )
    if suffix == ".gpkg":
        try:
            pyogrio.list_layers(path)
        except GeometryError:
            return [_of_any_type(path)]
    return [str(path)]


def _of_any_type(path: Path) -> str:
    """Return a GeoPackage as a VRT of types that pyogrio knows; GEOMETRY Z is none."""
    with closing(sqlite3.connect(path)) as file:
        names = file.execute("select table_name from gpkg_geometry_columns").fetchall()
    layers = "".join(
        f"<OGRVRTLayer name={quoteattr(name)}><SrcDataSource>{escape(str(path.resolve()))}"
        "</SrcDataSource><GeometryType>wkbUnknown</GeometryType></OGRVRTLayer>"
        for (name,) in names
    )
    return f"<OGRVRTDataSource>{layers}</OGRVRTDataSource>"


def _in_zip(path: Path) -> list[str]:
    names = archive_members(path)
    found = [name for name in names if name.lower().endswith(".shp")]
    found = found or [name for name in names if name.lower().endswith(_SUFFIXES)]
    if not found:
        raise GlacierError(f"{path}: holds no shapefile; download the outlines as a shapefile zip")
    for name in found:
        if name.lower().endswith(".shp"):
            _check_shapefile(path, name, names)
    return found


def _check_shapefile(path: Path, name: str, there: Sequence[str]) -> None:
    """Look for the parts of a shapefile beside it; without them rock is not told from ice."""
    stem, beside = name[: -len(".shp")].lower(), {other.lower() for other in there}
    for part in (".dbf", ".shx"):
        if stem + part not in beside:
            raise GlacierError(
                f"{path}: the {part} file of {name} is missing; a shapefile needs .shp, .shx, .dbf "
                "and .prj side by side"
            )


def _find_layer(path: Path, layer: str | None, named_by: Sequence[str]) -> tuple[str, str, dict]:
    """Return address and name of the layer that is meant, and what is known of it."""
    found: dict[tuple[str, str], dict] = {}
    kinds = set()
    with _readable(path):
        for address in _addresses(path):
            for name, kind in pyogrio.list_layers(address):
                kinds.add(str(kind))
                if kind and any(word in kind for word in _ABLE):
                    found[address, str(name)] = pyogrio.read_info(
                        address, layer=name, force_total_bounds=path.suffix.lower() != ".gpkg"
                    )
    if not found:
        raise GlacierError(
            f"{path}: holds {', '.join(sorted(kinds)) or 'nothing'}, no polygons; name the file of "
            "outlines, or make polygons of its lines"
        )
    names = [name for _, name in found]
    if layer is not None:
        found = {key: info for key, info in found.items() if key[1] == layer}
        if not found:
            raise GlacierError(f"{path}: has no layer {layer!r}; {did_you_mean(layer, names)}")
    if len(found) > 1:
        found = {key: info for key, info in found.items() if info["features"]} or found
        # A GLIMS download holds extents of images and more besides the glaciers.
        glims = {key: info for key, info in found.items() if key[1] == "glims_polygons"}
        telling = {
            key: info for key, info in found.items() if _known_names(info["fields"], named_by)
        }
        found = glims or telling or found
    if len(found) > 1:
        raise GlacierError(
            f"{path}: has several layers that may hold the outlines ({', '.join(names[:9])}); name "
            f"one in dataset.yaml, as in `outlines: {{file: {path.name}, layer: {names[-1]}}}`, or "
            "export it as a file of its own"
        )
    [(key, info)] = found.items()
    if not info["crs"]:
        raise GlacierError(
            f"{path}: has no CRS (for a shapefile: its .prj is missing); without it nobody knows "
            "where the outlines lie; for GLIMS and RGI it is EPSG:4326"
        )
    return *key, info


def _known_names(fields: Sequence[str], columns: Sequence[str] | None) -> dict[str, str]:
    """Return the fields that are wanted, each with its name of ``columns``."""
    if columns is None:
        return {field: field for field in fields}
    whole = {name[:_DBASE]: name for name in columns} | {name: name for name in columns}
    # Of two fields of one name the first.
    known = {whole[field.lower()]: field for field in fields[::-1] if field.lower() in whole}
    return {field: name for name, field in known.items()}


def _file_box(bounds: Sequence[float], crs: CRS | None, file_crs: CRS) -> tuple | None:
    """Return ``bounds`` in the file's CRS with a margin; None where they have no place in it.

    In degrees the box starts in -180..180 and may end beyond 180.
    """
    xmin, ymin, xmax, ymax = bounds
    if crs is not None and not same_crs(crs, file_crs):
        transformer = pyproj.Transformer.from_crs(crs, file_crs, always_xy=True)
        xmin, ymin, xmax, ymax = transformer.transform_bounds(
            xmin, ymin, xmax, ymax, densify_pts=51
        )
    if not np.isfinite([xmin, ymin, xmax, ymax]).all():
        return None
    if file_crs.is_geographic:
        turn = 360 * np.floor((xmin + 180) / 360)
        xmin, xmax = xmin - turn, xmax - turn + (360 if xmin > xmax else 0)
    # The curved edge of the transformed frame may bulge between the points that were followed.
    margin_x, margin_y = 0.02 * (xmax - xmin), 0.02 * (ymax - ymin)
    return xmin - margin_x, ymin - margin_y, xmax + margin_x, ymax + margin_y


def _queries(box: tuple | None, file_crs: CRS, total: Sequence[float] | None) -> list[tuple | None]:
    """Return the boxes to ask the file for, which may count longitudes beyond 180."""
    if box is None or not file_crs.is_geographic:
        return [box]
    xmin, ymin, xmax, ymax = box
    if xmin < _NEAR_180 - 180 or xmax > 180 - _NEAR_180:
        # All longitudes: on a plane, a ring that jumps from 179 to -179 misses what it encloses.
        return [(-400.0, ymin, 800.0, ymax)]
    beyond = xmin < 0 and (total is None or total[2] > 180)
    return [box, (xmin + 360, ymin, xmax + 360, ymax)] if beyond else [box]


def _read(
    address: str, path: Path, layer: str, fields: list[str], box: tuple | None
) -> gpd.GeoDataFrame:
    options = {"layer": layer, "columns": fields, "bbox": box, "fid_as_index": True}
    with _readable(path):
        try:
            return pyogrio.read_dataframe(address, **options)
        except UnicodeDecodeError:
            # Old shapefiles name no encoding; Latin-1 reads any byte.
            return pyogrio.read_dataframe(address, encoding="ISO-8859-1", **options)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in a line that a file cannot be read."""
    try:
        yield
    except (
        DataSourceError, DataLayerError, ValueError, shapely.errors.ShapelyError, CRSError
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        raise GlacierError(
            f"{path}: cannot be read as outlines; download or export it again ({reason})"
        ) from error


def _mended(
    frame: gpd.GeoDataFrame, named_by: Sequence[str], report: list[str]
) -> gpd.GeoDataFrame:
    """Mend invalid rings and leave out what has no area, saying so."""
    frame = _set(frame, shapely.force_2d(frame.geometry.to_numpy()))
    label = text_column(frame, named_by)
    label = label.where(label != "", "feature " + frame.index.astype(str))
    empty = frame.geometry.isna() | frame.geometry.is_empty
    report_line(report, "left out, no geometry", label[empty])
    frame, label = frame[~empty].copy(), label[~empty]
    flat = ~frame.geom_type.isin(["Polygon", "MultiPolygon", "GeometryCollection"])
    report_line(report, "left out, not a polygon", label[flat])
    frame, label = frame[~flat].copy(), label[~flat]
    if frame.crs is not None and frame.crs.is_geographic:
        before = frame.bounds.eval("maxx - minx")
        frame = _set(frame, unwrapped(frame.geometry.to_numpy()))
        joined = frame.bounds.eval("maxx - minx") < before
        report_line(report, "laid together across the antimeridian", label[joined])
    bad = ~frame.is_valid | (frame.geom_type == "GeometryCollection")
    if bad.any():
        mended = [polygonal(geometry) for geometry in frame.geometry[bad]]
        frame.loc[bad, frame.geometry.name] = gpd.GeoSeries(
            mended, index=frame.index[bad], crs=frame.crs
        )
        report_line(report, "invalid rings mended", label[bad])
    gone = frame.geometry.is_empty
    report_line(report, "left out, no area", label[gone])
    return frame[~gone]


def report_line(report: list[str], what: str, who: pd.Series, limit: int = 5) -> None:
    """Add a line that says what was done to whom; none if to nobody.

    Args:
        report: lines, of which one more is made.
        what: was done.
        who: names of all to whom.
        limit: so many names are written out.
    """
    if len(who):
        names = ", ".join(who.iloc[:limit])
        more = f" and {len(who) - limit} more" if len(who) > limit else ""
        report.append(f"{what}: {names}{more}")


def text_column(frame: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Return the first of the columns that exists as clean text, "" for none."""
    for name in names:
        if name in frame:
            return frame[name].map(clean_text).astype(object)
    return pd.Series("", index=frame.index, dtype=object)


def clean_text(value: object, limit: int = 80) -> str:
    """Return one line of plain characters of a third party's attribute."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NaT:
        return ""
    # Identifiers come as floats from some files.
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    # Control and format characters (category C) include those that turn text around.
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    text = " ".join(text.split())[:limit]
    return "" if text.lower() in _NO_TEXT else text


def unwrapped(geometry: np.ndarray) -> np.ndarray:
    """Return geometries in one piece: those on both sides of 180 get longitudes above 180.

    On both sides is what is wider than 180 degrees and becomes narrower than that when its western
    longitudes are counted on from 180.
    """
    result = np.array(geometry, dtype=object)
    xmin, _, xmax, _ = shapely.bounds(result).T
    for index in np.flatnonzero(xmax - xmin > 180):
        moved = shapely.transform(result[index], _eastward)
        if not 0 < moved.bounds[2] - moved.bounds[0] < 180:
            continue
        parts = shapely.get_parts(moved)
        # The parts share the cut along the meridian.
        whole = shapely.is_valid(parts).all() and (shapely.get_dimensions(parts) == 2).all()
        result[index] = shapely.union_all(parts) if whole and len(parts) > 1 else moved
    return result


def near(geometry: np.ndarray, longitude: float | np.ndarray) -> np.ndarray:
    """Move geometries by whole turns, so that their middles lie within 180 degrees of one place."""
    xmin, _, xmax, _ = shapely.bounds(geometry).T
    turns = np.nan_to_num(np.round((longitude - (xmin + xmax) / 2) / 360))
    return _shifted(geometry, 360 * turns) if turns.any() else np.array(geometry, dtype=object)


def _shifted(geometry: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Move each geometry east by its own number of degrees."""
    moved = np.array(geometry, dtype=object)
    coordinates, index = shapely.get_coordinates(moved, return_index=True)
    coordinates[:, 0] += degrees[index]
    return shapely.set_coordinates(moved, coordinates)


def centred(geometry: np.ndarray) -> np.ndarray:
    """Move each geometry to where its middle is at longitude 0, which keeps its area."""
    geometry = unwrapped(geometry)
    xmin, _, xmax, _ = shapely.bounds(geometry).T
    return _shifted(geometry, -np.nan_to_num((xmin + xmax) / 2))


def split(geometry: np.ndarray) -> np.ndarray:
    """Cut polygons at the 180th meridian, all longitudes in -180..180, as files should have them.

    That is the rule of GeoJSON (RFC 7946, section 3.1.9).
    """
    result = near(unwrapped(geometry), 0.0)
    xmin, _, xmax, _ = shapely.bounds(result).T
    for index in np.flatnonzero((xmin < -180) | (xmax > 180)):
        parts = []
        for turn in (-360, 0, 360):
            piece = result[index].intersection(shapely.box(turn - 180, -90, turn + 180, 90))
            piece = shapely.transform(piece, lambda xy, turn=turn: xy - [turn, 0])
            parts += [part for part in shapely.get_parts(piece) if part.geom_type == "Polygon"]
        result[index] = shapely.MultiPolygon(parts)
    return result


def _eastward(coordinates: np.ndarray) -> np.ndarray:
    return coordinates + np.where(coordinates[:, :1] < 0, [360.0, 0.0], 0.0)
