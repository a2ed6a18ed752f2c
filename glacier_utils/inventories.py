"""Outline files of glacier inventories: find the layer, read what is needed, name its columns.

GLIMS (https://www.glims.org), RGI 6 and RGI 7 (https://www.glims.org/RGI) name the same things
differently; here they become one table. Attributes are text by third parties: it is cut to a line
of plain characters, and whoever prints it must still escape it for the format printed to.
"""

from __future__ import annotations

import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.grids import same_crs

COLUMNS = (
    "glacier_id",
    "analysis_id",
    "kind",
    "source_date",
    "name",
    "uncertainty_m",
    "area_km2",
    "geometry",
)
KINDS = {"glac_bound": "glacier", "intrnl_rock": "internal_rock"}
# Column names in order of preference, lower case: GLIMS, RGI 7, RGI 6, anything.
_GLACIER = ("glac_id", "rgi_id", "rgiid", "glimsid", "glims_id", "glacier_id")
_ANALYSIS = ("anlys_id", "analysis_id", "rgi_id", "rgiid")
_DATE = ("src_date", "bgndate", "source_date")
_NAME = ("glac_name", "name")
_UNCERTAINTY = ("loc_unc_x", "loc_unc_y", "uncertainty_m")
_KIND = ("line_type", "kind")
_VECTOR_SUFFIXES = (".shp", ".gpkg", ".geojson", ".json", ".fgb")
_NO_TEXT = {"", "none", "nan", "null"}
EQUAL_AREA = "EPSG:6933"


def read_table(
    path: str | Path, *, bounds: Sequence[float] | None = None, crs: CRS | None = None
) -> gpd.GeoDataFrame:
    """Read an inventory into the columns of ``COLUMNS``; see ``outlines.read_outlines``."""
    frame = read_polygons(path, bounds=bounds, crs=crs)
    report: list[str] = frame.attrs["report"]
    frame = _keep_kinds(frame, report)
    columns = {name.lower(): name for name in frame.columns}
    number = pd.Series(np.arange(1, len(frame) + 1), index=frame.index).astype(str)
    glacier = _text(frame, columns, _GLACIER)
    glacier = glacier.where(glacier != "", "row " + number)
    analysis = _text(frame, columns, _ANALYSIS)
    table = gpd.GeoDataFrame(
        {
            "glacier_id": glacier,
            "analysis_id": analysis.where(analysis != "", glacier),
            "kind": frame["_kind"],
            "source_date": _dates(frame, columns),
            "name": _text(frame, columns, _NAME),
            "uncertainty_m": _uncertainty(frame, columns),
            "area_km2": areas_km2(frame.geometry),
        },
        geometry=frame.geometry,
        crs=frame.crs,
    ).reset_index(drop=True)
    table.attrs["report"] = report
    return table


def read_polygons(
    path: str | Path, *, bounds: Sequence[float] | None = None, crs: CRS | None = None
) -> gpd.GeoDataFrame:
    """Read the polygons of a vector file with all its columns, rings mended.

    ``bounds`` are in ``crs``, and the result is too; without ``crs`` both are in the file's.
    ``.attrs["report"]`` lists what was mended or left out.
    """
    path = Path(path)
    address = _address(path)
    layer, file_crs, fields = _layer(address, path)
    filters = [None] if bounds is None else _file_boxes(bounds, crs, file_crs)
    frames = [_read(address, path, layer, fields, box) for box in filters]
    frame = frames[0] if len(frames) == 1 else _joined(frames)
    report: list[str] = []
    frame = _mended(frame, report)
    if crs is not None:
        if same_crs(CRS.from_user_input(frame.crs), crs):
            # The same CRS in another spelling: a transformation could only add noise.
            frame = frame.set_crs(pyproj.CRS.from_user_input(crs), allow_override=True)
        else:
            frame = frame.to_crs(pyproj.CRS.from_user_input(crs))
    if bounds is not None:
        frame = frame[frame.intersects(shapely.box(*bounds))]
    frame = frame.reset_index(drop=True)
    frame.attrs["report"] = report
    return frame


def areas_km2(geometry: gpd.GeoSeries) -> np.ndarray:
    """Return areas in km2, measured on the equal-area projection EPSG:6933 (up to 86 degrees)."""
    if geometry.crs is None or geometry.empty:
        return np.full(len(geometry), np.nan)
    return geometry.to_crs(EQUAL_AREA).area.to_numpy() / 1e6


def _address(path: Path) -> str:
    """Return what GDAL opens for a file; of a zip, the layer of polygons inside."""
    if not path.exists():
        raise GlacierError(f"{path}: no such file; check the path of the outlines")
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return f"/vsizip/{path.resolve()}/{_in_zip(path)}"
    if suffix == ".shp":
        for part in (".dbf", ".shx"):
            if not any(path.with_suffix(end).exists() for end in (part, part.upper())):
                raise GlacierError(
                    f"{path}: its {part} file is missing; a shapefile needs .shp, .shx, .dbf and "
                    ".prj side by side"
                )
    elif suffix not in _VECTOR_SUFFIXES:
        raise GlacierError(
            f"{path}: outlines are read from .shp, .zip, .gpkg and .geojson; convert it to one"
        )
    return str(path)


def _in_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise GlacierError(f"{path}: is no whole zip file; download it again") from error
    for name in names:
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or ":" in name:
            raise GlacierError(
                f"{path}: holds {name!r}, a path outside its folder; do not use this file, "
                "download it from its source"
            )
    found = [name for name in names if name.lower().endswith(".shp")]
    found = found or [name for name in names if name.lower().endswith(_VECTOR_SUFFIXES)]
    # A GLIMS download holds lines and points besides the polygons.
    found = [name for name in found if "glims_polygons" in name.lower()] or found
    if not found:
        raise GlacierError(f"{path}: holds no shapefile; download the outlines as a shapefile zip")
    if len(found) > 1:
        raise GlacierError(
            f"{path}: holds several shapefiles ({', '.join(sorted(found)[:4])}); unpack it and "
            "name one"
        )
    return found[0]


def _layer(address: str, path: Path) -> tuple[str, CRS, list[str]]:
    """Return the first layer that can hold polygons, its CRS, and the columns that matter."""
    try:
        layers = pyogrio.list_layers(address)
        # A type of "Unknown" or a collection may hold polygons; a table without geometry is None.
        able = [
            name for name, kind in layers
            if kind and ("Polygon" in kind or "Unknown" in kind or "Collection" in kind)
        ]  # fmt: skip
        if not able:
            kinds = ", ".join(sorted({str(kind) for _, kind in layers})) or "nothing"
            raise GlacierError(f"{path}: holds {kinds}, no polygons; name the file of outlines")
        info = pyogrio.read_info(address, layer=able[0])
    except (DataSourceError, DataLayerError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise GlacierError(
            f"{path}: cannot be read as outlines; download or export it again ({reason})"
        ) from error
    if not info["crs"]:
        raise GlacierError(
            f"{path}: has no CRS (for a shapefile: its .prj is missing); without it nobody knows "
            "where the outlines lie; for GLIMS and RGI it is EPSG:4326"
        )
    known = {*_GLACIER, *_ANALYSIS, *_DATE, *_NAME, *_UNCERTAINTY, *_KIND}
    fields = [name for name in info["fields"] if name.lower() in known]
    return able[0], CRS.from_user_input(info["crs"]), fields


def _file_boxes(bounds: Sequence[float], crs: CRS | None, file_crs: CRS) -> list[tuple]:
    """Return ``bounds`` in the file's CRS with a margin; two boxes across the antimeridian."""
    xmin, ymin, xmax, ymax = bounds
    if crs is not None and not same_crs(crs, file_crs):
        transformer = pyproj.Transformer.from_crs(
            pyproj.CRS.from_user_input(crs), pyproj.CRS.from_user_input(file_crs), always_xy=True
        )
        xmin, ymin, xmax, ymax = transformer.transform_bounds(*bounds, densify_pts=51)
    if not np.isfinite([xmin, ymin, xmax, ymax]).all():
        return [None]
    # The curved edge of the transformed frame may bulge between the points that were followed.
    margin_y = 0.02 * (ymax - ymin)
    if file_crs.is_geographic and xmin > xmax:
        return [(xmin, ymin - margin_y, 180, ymax + margin_y),
                (-180, ymin - margin_y, xmax, ymax + margin_y)]  # fmt: skip
    margin_x = 0.02 * (xmax - xmin)
    return [(xmin - margin_x, ymin - margin_y, xmax + margin_x, ymax + margin_y)]


def _read(
    address: str, path: Path, layer: str, fields: list[str], box: tuple | None
) -> gpd.GeoDataFrame:
    options = {"layer": layer, "columns": fields, "bbox": box, "fid_as_index": True}
    try:
        try:
            return pyogrio.read_dataframe(address, **options)
        except UnicodeDecodeError:
            # Old shapefiles name no encoding; Latin-1 reads any byte.
            return pyogrio.read_dataframe(address, encoding="ISO-8859-1", **options)
    except (DataSourceError, DataLayerError, ValueError, shapely.errors.ShapelyError) as error:
        reason = " ".join(str(error).split())
        raise GlacierError(
            f"{path}: cannot be read as outlines; download or export it again ({reason})"
        ) from error


def _joined(frames: list[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    joined = pd.concat(frames)
    return joined[~joined.index.duplicated()].sort_index()


def _mended(frame: gpd.GeoDataFrame, report: list[str]) -> gpd.GeoDataFrame:
    """Mend invalid rings and leave out what has no area, saying so."""
    columns = {name.lower(): name for name in frame.columns}
    label = _text(frame, columns, _GLACIER)
    label = label.where(label != "", "feature " + frame.index.astype(str))
    empty = frame.geometry.isna() | frame.geometry.is_empty
    _tell(report, "left out, no geometry", label[empty])
    frame, label = frame[~empty].copy(), label[~empty]
    flat = ~frame.geom_type.isin(["Polygon", "MultiPolygon", "GeometryCollection"])
    _tell(report, "left out, not a polygon", label[flat])
    frame, label = frame[~flat].copy(), label[~flat]
    bad = ~frame.is_valid | (frame.geom_type == "GeometryCollection")
    if bad.any():
        mended = [_polygonal(geometry) for geometry in frame.geometry[bad]]
        frame.loc[bad, frame.geometry.name] = gpd.GeoSeries(
            mended, index=frame.index[bad], crs=frame.crs
        )
        _tell(report, "invalid rings mended", label[bad])
    gone = frame.geometry.is_empty
    _tell(report, "left out, no area", label[gone])
    return frame[~gone]


def _polygonal(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the valid area of a geometry, without the lines and points that mending leaves."""
    parts = shapely.get_parts(shapely.make_valid(geometry))
    # A collection may hold further collections of one level.
    parts = [inner for part in parts for inner in shapely.get_parts(part)]
    return shapely.union_all([part for part in parts if part.geom_type == "Polygon"])


def _tell(report: list[str], what: str, who: pd.Series, limit: int = 5) -> None:
    if len(who):
        names = ", ".join(who.iloc[:limit])
        more = f" and {len(who) - limit} more" if len(who) > limit else ""
        report.append(f"{what}: {names}{more}")


def _keep_kinds(frame: gpd.GeoDataFrame, report: list[str]) -> gpd.GeoDataFrame:
    """Add ``_kind``; leave out line types that are neither ice nor rock inside it."""
    columns = {name.lower(): name for name in frame.columns}
    types = _text(frame, columns, _KIND)
    kinds = types.map({**KINDS, **{kind: kind for kind in KINDS.values()}, "": "glacier"})
    for other, count in types[kinds.isna()].value_counts().sort_index().items():
        report.append(f"left out, line type {other}: {count}")
    return frame.assign(_kind=kinds)[kinds.notna()]


def _text(frame: pd.DataFrame, columns: dict[str, str], names: Sequence[str]) -> pd.Series:
    """Return the first of the columns that exists as clean text, "" where there is none."""
    for name in names:
        if name in columns:
            return frame[columns[name]].map(clean_text).astype(object)
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


def _dates(frame: pd.DataFrame, columns: dict[str, str]) -> pd.Series:
    for name in _DATE:
        if name in columns:
            return frame[columns[name]].map(parse_source_date).astype("datetime64[s]")
    return pd.Series(pd.NaT, index=frame.index).astype("datetime64[s]")


def parse_source_date(value: object) -> pd.Timestamp:
    """Return the date of a source image, NaT where it is unknown.

    GLIMS and RGI 7 hold dates or ISO text; RGI 6 holds YYYYMMDD, with -9999999 for unknown and 99
    for an unknown month or day, which become the middle of the year or the month.
    """
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int | np.integer) or (isinstance(value, float) and value.is_integer()):
        year, month, day = int(value) // 10000, int(value) // 100 % 100, int(value) % 100
        if not 1800 <= year <= 2200:
            return pd.NaT
        if not 1 <= month <= 12:
            month, day = 7, 1
        elif not 1 <= day <= 31:
            day = 15
        value = f"{year:04d}-{month:02d}-{day:02d}"
    if isinstance(value, float):
        return pd.NaT
    date = pd.to_datetime(value, errors="coerce", utc=True)
    if pd.isna(date) or not 1800 <= date.year <= 2200:
        return pd.NaT
    return date.tz_localize(None).normalize()


def _uncertainty(frame: pd.DataFrame, columns: dict[str, str]) -> pd.Series:
    """Return the larger of the local uncertainties in m; nan for 0, which means not stated."""
    present = [columns[name] for name in _UNCERTAINTY if name in columns]
    if not present:
        return pd.Series(np.nan, index=frame.index)
    values = frame[present].apply(pd.to_numeric, errors="coerce").max(axis=1).astype(float)
    return values.where(values > 0)
