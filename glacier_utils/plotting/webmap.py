"""The interactive map: two dates to swipe between, layers to switch, one HTML file.

It opens from disk without a server and is complete without a network; only the optional basemap,
off until a reader switches it on, is fetched. Arrays and tables in, a file out: the page is
``assets/webmap.html.j2`` around Leaflet, ``map.js`` and ``map.css``, with the layers as JSON.

A web map shows an image between two corners in Mercator's projection on a sphere (EPSG:3857), so
whatever lies on another grid is warped first. The central meridian is that of the scene, which
changes no shape and keeps a scene on the antimeridian in one piece.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from numbers import Real
from pathlib import Path
from urllib.parse import urlsplit

import geopandas as gpd
import jinja2
import numpy as np
import pandas as pd
import PIL.Image
import shapely
from affine import Affine
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgba
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.warp import Resampling, calculate_default_transform, reproject, transform_bounds

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation.calibration import uncertainty
from glacier_utils.files import write_text
from glacier_utils.outlines.reading import clean_text, polygonal
from glacier_utils.plotting import style
from glacier_utils.raster.grid import Grid

RADIUS_M = 6378137.0  # of the sphere of EPSG:3857
LIMIT_DEGREES = 85.05  # where web maps end
NOT_KNOWN = "not known"
_MOST_PIXELS = 1600  # along the longer side of an image
_LOSSY_QUALITY = 85
_OPACITY = 0.75  # of a class
_ASSETS = files("glacier_utils") / "assets"
_LEAFLET_VERSION = "1.9.4"
# OpenStreetMap's own servers refuse pages that were opened from disk, which send no referrer.
_BASEMAP = {
    "name": "Online map (needs a network)",
    "url": "https://{s}.tile.opentopomap.org/{z}/{x}/{y}.png",
    "attribution": 'Map data: &copy; <a href="https://www.openstreetmap.org/copyright">'
    "OpenStreetMap</a> contributors, SRTM. Map style: &copy; "
    '<a href="https://opentopomap.org">OpenTopoMap</a> (CC-BY-SA)',
}


@dataclass(frozen=True)
class Frame:
    """A north-up frame in spherical Mercator around a grid.

    Attributes:
        source: the grid that it holds.
        grid: the frame's own.
        meridian: longitude in its middle, in degrees.
    """

    source: Grid
    grid: Grid
    meridian: float

    @property
    def corners(self) -> list[list[float]]:
        """[[south, west], [north, east]] in degrees; east of the antimeridian beyond 180."""
        xmin, ymin, xmax, ymax = self.grid.bounds
        (west, east), (south, north) = self.degrees(np.array([xmin, xmax]), np.array([ymin, ymax]))
        return [[float(south), float(west)], [float(north), float(east)]]

    def degrees(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return longitude and latitude of coordinates in m, the inverse of the projection."""
        longitude = self.meridian + np.degrees(np.asarray(x) / RADIUS_M)
        return longitude, np.degrees(np.arctan(np.sinh(np.asarray(y) / RADIUS_M)))

    def outlines(self, shapes: gpd.GeoSeries) -> np.ndarray:
        """Return shapes in degrees to 1e-6 (0.1 m), thinned out by a quarter of a pixel at most."""
        drawn = shapely.force_2d(shapes.to_crs(self.grid.crs).to_numpy())
        drawn = shapely.simplify(drawn, self.grid.transform.a / 4, preserve_topology=True)

        def turn(points: np.ndarray) -> np.ndarray:
            return np.round(np.stack(self.degrees(*points.T), axis=1), 6)

        return shapely.transform(drawn, turn)

    def warp(self, values: np.ndarray) -> np.ndarray:
        """Warp [row, col]: uint8 codes by the nearest pixel, other values as float32.

        Values are averaged where the frame is coarser. 0 is no code, nan no value.
        """
        if values.shape != self.source.shape:
            raise ValueError(
                f"an array of {values.shape} does not fit a grid of {self.source.shape}"
            )
        codes = values.dtype == np.uint8
        nodata = 0 if codes else np.nan
        warped = np.full(self.grid.shape, nodata, np.uint8 if codes else np.float32)
        reproject(
            np.asarray(values, warped.dtype), warped, src_transform=self.source.transform,
            src_crs=CRS.from_user_input(self.source.crs), src_nodata=nodata,
            dst_transform=self.grid.transform, dst_crs=self.grid.crs, dst_nodata=nodata,
            resampling=Resampling.nearest if codes else Resampling.bilinear,
        )  # fmt: skip
        return warped


def web_frame(grid: Grid, max_side: int = _MOST_PIXELS) -> Frame:
    """Return the frame that holds a grid at its own resolution, or at one of ``max_side`` pixels.

    Raises:
        GlacierError: the grid has no CRS, or lies nearer a pole than web maps reach.
    """
    if grid.crs is None:
        raise GlacierError(
            "a web map needs to know where its images lie, but these have no CRS; use images with "
            "a georeference"
        )
    source = CRS.from_user_input(grid.crs)
    meridian = float(round(_middle(grid, source)))
    # EPSG:3857 with another central meridian.
    crs = CRS.from_proj4(
        f"+proj=merc +a={RADIUS_M} +b={RADIUS_M} +lat_ts=0 +lon_0={meridian} +x_0=0 +y_0=0 +k=1 "
        "+units=m +nadgrids=@null +wktext +no_defs"
    )
    bounds = transform_bounds(source, crs, *grid.bounds, densify_pts=101)
    default, _, _ = calculate_default_transform(source, crs, grid.width, grid.height, *grid.bounds)
    across, along = bounds[2] - bounds[0], bounds[3] - bounds[1]
    pixel = max(default.a, max(across, along) / max_side)
    # A hair less, that a frame of max_side pixels does not become one wider by rounding.
    width, height = (max(1, math.ceil(side / pixel - 1e-6)) for side in (across, along))
    transform = Affine(pixel, 0, bounds[0], 0, -pixel, bounds[3])
    return Frame(grid, Grid(crs, transform, height, width), meridian)


def _middle(grid: Grid, crs: CRS) -> float:
    """Return the longitude of the grid's middle, after a look at how near a pole it comes."""
    # Points all over it: a frame around a pole keeps away from it on all sides.
    cols, rows = np.meshgrid(np.linspace(0, grid.width, 33), np.linspace(0, grid.height, 33))
    x, y = grid.transform @ (cols, rows)  # type: ignore[operator]
    longitude, latitude = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    if not np.isfinite(latitude).all() or np.abs(latitude).max() > LIMIT_DEGREES:
        raise GlacierError(
            f"a web map ends at {LIMIT_DEGREES} degrees of latitude, and these images reach beyond "
            "it or outside their projection; open the rasters in QGIS instead"
        )
    return float(longitude[16, 16])


@dataclass(frozen=True)
class Picture:
    """A picture [row, col, 3] (uint8, or float in 0..1), clear where ``valid`` is False."""

    rgb: np.ndarray
    valid: np.ndarray | None = None

    def part(self, frame: Frame) -> dict:
        """Return the picture as ``map.js`` reads it."""
        scale = 255 if self.rgb.dtype == np.uint8 else 1
        warped = np.empty((*frame.grid.shape, 3), np.float32)
        # A band at a time, since a full tile in float32 is half a gigabyte.
        for place in range(3):
            band = self.rgb[..., place].astype(np.float32) / scale
            if self.valid is not None:
                band[~self.valid] = np.nan
            warped[..., place] = frame.warp(band)
        there = ~np.isnan(warped).any(axis=2, keepdims=True)
        bands = np.rint(np.clip(np.where(there, warped, 0), 0, 1) * 255)
        pixels = PIL.Image.fromarray(np.dstack([bands, there * 255]).astype(np.uint8))
        return {"image": _uri(pixels, "WEBP", quality=_LOSSY_QUALITY, method=4)}

    def legend(self, name: str) -> dict:
        """Return an empty section of the legend: a picture explains itself."""
        return {"title": "", "entries": []}


@dataclass(frozen=True)
class Classes:
    """A map of uint8 codes [row, col] in fixed colours.

    Attributes:
        codes: the map.
        colours: class name -> colour, in the order of ``values``.
        values: the codes; the last one also stands for every code that is not named.
        clear: names of classes that let the ground show through; they are not in the legend.
    """

    codes: np.ndarray
    colours: Mapping[str, str]
    values: Sequence[int]
    clear: Collection[str] = ()

    def part(self, frame: Frame) -> dict:
        """Return the map as ``map.js`` reads it."""
        lookup = np.full(256, len(self.values), np.uint8)
        lookup[list(self.values)] = range(1, len(self.values) + 1)
        colours = [
            to_rgba(colour, 0 if name in self.clear else _OPACITY)
            for name, colour in self.colours.items()
        ]
        index = frame.warp(lookup[np.asarray(self.codes, np.uint8)])
        return {"image": _palette_png(index, colours), "sharp": True}

    def legend(self, name: str) -> dict:
        """Return a section of the legend with an entry per class."""
        entries = [
            {"kind": "fill", "colour": to_hex(colour), "text": text}
            for text, colour in self.colours.items()
            if text not in self.clear
        ]
        return {"title": name, "entries": entries}


@dataclass(frozen=True)
class Values:
    """A map of values in 0..1, clear at the low end, so that the ground shows there.

    Attributes:
        values: float [row, col], nan unknown (clear).
        label: quantity and unit, for the colour bar.
    """

    values: np.ndarray
    label: str

    def part(self, frame: Frame) -> dict:
        """Return the map as ``map.js`` reads it."""
        fraction = np.clip(frame.warp(self.values), 0, 1)
        index = np.where(np.isnan(fraction), 0, 1 + np.rint(np.nan_to_num(fraction) * 254))
        return {"image": _palette_png(index, self._ramp(255))}

    def legend(self, name: str) -> dict:
        """Return a section of the legend with the colour bar."""
        colours = [to_hex(colour, keep_alpha=True) for colour in self._ramp(9)]
        ramp = {"colours": colours, "low": "0", "high": "1", "text": self.label}
        return {"title": name, "ramp": ramp}

    def _ramp(self, count: int) -> np.ndarray:
        """Return the colours [count, 4] of the scale from its low to its high end."""
        steps = np.linspace(0, 1, count)
        # Half of the scale is enough for the eye to find what is high.
        return colormaps["plasma"](steps, alpha=np.clip(2 * steps, 0, 0.9))


@dataclass(frozen=True)
class Outlines:
    """Polygons with pop-ups. All texts are taken as plain text.

    Attributes:
        table: the polygons; rows whose column ``kind`` is internal_rock are dotted.
        fields: column -> label with its unit, in the order shown.
        title: the column that heads the pop-up.
        plus_minus: column -> column of its uncertainty, written behind it.
        colour: of the lines.
    """

    table: gpd.GeoDataFrame
    fields: Mapping[str, str]
    title: str | None = None
    plus_minus: Mapping[str, str] = field(default_factory=dict)
    colour: str = style.OUTLINE_COLOUR

    def part(self, frame: Frame) -> dict:
        """Return the outlines as ``map.js`` reads them, with the texts of their pop-ups."""
        table = self.table[self.table.geometry.notna()]
        drawn = frame.outlines(table.geometry.map(polygonal))
        features = [
            {
                "type": "Feature",
                "geometry": json.loads(shapely.to_geojson(shape)),
                "properties": self._properties(row),
            }
            for shape, row in zip(drawn, table.to_dict("records"), strict=True)
            if not shape.is_empty
        ]
        labels = list(self.fields.values())
        return {"features": features, "colour": to_hex(self.colour), "labels": labels}

    def legend(self, name: str) -> dict:
        """Return a section of the legend with the line's sign."""
        colour = to_hex(self.colour)
        entries = [{"kind": "line", "colour": colour, "text": name}]
        if "kind" in self.table and (self.table["kind"] == "internal_rock").any():
            entries.append({"kind": "dash", "colour": colour, "text": "internal rock"})
        return {"title": "", "entries": entries}

    def _properties(self, row: Mapping) -> dict:
        rock = row.get("kind") == "internal_rock"
        title = clean_text(row[self.title], 120) if self.title else ""
        values = []
        for column in self.fields:
            text = _words(row[column])
            spread = row.get(self.plus_minus.get(column))
            known = text != NOT_KNOWN and spread is not None and not pd.isna(spread)
            values.append(f"{text} ± {_words(spread)}" if known else text)
        title = title or ("internal rock" if rock else "no name")
        return {"title": title, "values": values, "rock": rock}


Content = Picture | Classes | Values | Outlines


@dataclass(frozen=True)
class Layer:
    """One line of the layer switch.

    Attributes:
        name: as it is shown.
        content: what lies on both sides of the swipe; with ``right``, that of the left date.
        right: that of the right date.
        shown: at first, before a reader switches it.
    """

    name: str
    content: Content
    right: Content | None = None
    shown: bool = field(default=False, kw_only=True)


def class_map(mask: np.ndarray) -> Classes:
    """Return a map of 0 not glacier (clear), 1 glacier, 255 unknown, in the usual colours."""
    return Classes(mask, style.CLASS_COLOURS, (0, 1, UNKNOWN), clear=("not glacier",))


def error_map(prediction: np.ndarray, label: np.ndarray) -> Classes:
    """Return hits, misses and false alarms of a mask against labels, both 0 / 1 / 255."""
    codes = style.error_codes(prediction, label)
    clear = ("correct, not glacier",)
    return Classes(codes, style.ERROR_COLOURS, style.PAIR_CODES, clear=clear)


def change_map(transition: np.ndarray) -> Classes:
    """Return the codes of ``transition.transition`` in the usual colours."""
    clear = ("not glacier on both",)
    return Classes(transition, style.CHANGE_COLOURS, style.PAIR_CODES, clear=clear)


def uncertainty_map(probability: np.ndarray) -> Values:
    """Return the entropy of probabilities [row, col] in bits: 0 sure, 1 both classes alike."""
    label = "entropy of the prediction (bits)"
    return Values(uncertainty(probability), label)


def write_map(
    path: str | Path,
    grid: Grid,
    layers: Sequence[Layer],
    *,
    title: str,
    dates: tuple[str, str] = ("left", "right"),
    notes: Sequence[str] = (),
) -> Path:
    """Write the map as one HTML file, whole or not at all.

    Its content security policy lets no request out but that for the tiles of the basemap, and no
    script run but Leaflet and ``map.js``.

    Args:
        path: of the file.
        grid: of all rasters, drawn coarser beyond 1600 px; outlines may have any CRS.
        layers: from the lowest to the topmost. The swipe is there if one has a ``right``.
        title: heads the page.
        dates: names of the left and right side.
        notes: sentences below the legend.

    Returns:
        The path.

    Raises:
        GlacierError: the grid has no CRS or lies too near a pole.
        ValueError: an array does not fit the grid.
    """
    frame = web_frame(grid)
    outlined = any(isinstance(layer.content, Outlines) for layer in layers)
    hint = "Click an outline to read about it. " if outlined else ""
    content = {
        "bounds": frame.corners,
        "layers": [_layer(layer, frame) for layer in layers],
        "dates": dates,
        "notes": [*notes, f"{hint}North is up."],
        "basemap": _BASEMAP,
    }
    return write_text(path, _page(title, content))


def _layer(layer: Layer, frame: Frame) -> dict:
    """Return a layer as ``map.js`` reads it."""
    sides = {"both": layer.content}
    if layer.right is not None:
        sides = {"left": layer.content, "right": layer.right}
    return {
        "name": layer.name,
        "shown": layer.shown,
        "legend": layer.content.legend(layer.name),
        "parts": [{"side": side, **content.part(frame)} for side, content in sides.items()],
    }


def _page(title: str, content: Mapping) -> str:
    scripts = [asset("leaflet/leaflet.js"), asset("map.js")]
    tiles = urlsplit(_BASEMAP["url"].replace("{s}", "*"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(asset("webmap.html.j2")).render(
        title=title,
        content=content,
        styles=[_leaflet_css(), asset("map.css")],
        scripts=scripts,
        hashes=[script_source(one) for one in scripts],
        tile_host=f"{tiles.scheme}://{tiles.netloc}",
        leaflet_version=_LEAFLET_VERSION,
        leaflet_licence=asset("leaflet/LICENSE"),
    )


def _leaflet_css() -> str:
    """Return Leaflet's styles with their pictures inside."""

    def inlined(found: re.Match) -> str:
        content = (_ASSETS / "leaflet" / found[1]).read_bytes()
        return f"url({_data_uri(content, 'image/png')})"

    return re.sub(r"url\((images/[\w-]+\.png)\)", inlined, asset("leaflet/leaflet.css"))


def script_source(script: str) -> str:
    """Return a script inside a page as the page's content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def asset(name: str) -> str:
    """Return the text of a file of ``glacier_utils/assets``."""
    return (_ASSETS / name).read_text(encoding="utf-8")


def _palette_png(index: np.ndarray, colours: Iterable) -> str:
    """Return numbers [row, col] of colours as a PNG's URI; 0 is clear, 1 the first colour.

    Colours are red, green, blue and opacity in 0..1.
    """
    palette = np.rint(255 * np.array([(0, 0, 0, 0), *colours])).astype(np.uint8)
    image = PIL.Image.fromarray(index.astype(np.uint8))
    image.putpalette(palette[:, :3].tobytes())
    return _uri(image, "PNG", transparency=palette[:, 3].tobytes())


def _uri(image: PIL.Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return _data_uri(buffer.getvalue(), f"image/{kind.lower()}")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _words(value: object) -> str:
    """Return a value as text: numbers with four significant digits, dates without a time."""
    if value is None or value is pd.NaT or (isinstance(value, Real) and not math.isfinite(value)):
        return NOT_KNOWN
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat()
    if isinstance(value, Real) and not isinstance(value, int | np.integer | np.bool_):
        return np.format_float_positional(
            float(value), precision=4, unique=False, fractional=False, trim="-"
        )
    return clean_text(value, 200) or NOT_KNOWN
