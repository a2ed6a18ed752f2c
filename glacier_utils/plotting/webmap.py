"""Rasters and outlines in the projection of web maps, and the images that a page can hold.

A web map shows an image between two corners in Mercator's projection on a sphere (EPSG:3857), so
whatever lies on another grid is warped first. The central meridian is that of the scene, which
changes no shape and keeps a scene on the antimeridian in one piece.

One HTML file from a folium map, with all that it needs inside and nothing fetched.

What the layers of the interactive map can show: pictures, classes, values, outlines.

Arrays and tables in; out come an image's URI, features with their texts, and a legend.

The interactive map: two dates to swipe between, layers to switch, one HTML file.

It opens from disk without a server and is complete without a network; only the optional basemap,
off until a reader switches it on, is fetched. Arrays and tables in, a file out.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from numbers import Real
from pathlib import Path
from urllib.parse import urlsplit

import folium
import geopandas as gpd
import numpy as np
import pandas as pd
import PIL.Image
import shapely
from affine import Affine
from folium.template import Template
from folium.utilities import JsCode
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.warp import Resampling, calculate_default_transform, reproject, transform_bounds

from glacier_utils.errors import GlacierError
from glacier_utils.files import write_text
from glacier_utils.outlines.reading import clean_text, polygonal
from glacier_utils.plotting import style
from glacier_utils.raster.grid import Grid

RADIUS_M = 6378137.0  # of the sphere of EPSG:3857
LIMIT_DEGREES = 85.05  # where web maps end
_LOSSY_QUALITY = 85


@dataclass(frozen=True)
class Frame:
    """A north-up frame in spherical Mercator: its grid, and the meridian in its middle."""

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


def web_frame(grid: Grid, max_side: int) -> Frame:
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
    crs = _mercator(meridian)
    bounds = transform_bounds(source, crs, *grid.bounds, densify_pts=101)
    default, _, _ = calculate_default_transform(source, crs, grid.width, grid.height, *grid.bounds)
    across, along = bounds[2] - bounds[0], bounds[3] - bounds[1]
    pixel = max(default.a, max(across, along) / max_side)
    # A hair less, that a frame of max_side pixels does not become one wider by rounding.
    width, height = (max(1, math.ceil(side / pixel - 1e-6)) for side in (across, along))
    transform = Affine(pixel, 0, bounds[0], 0, -pixel, bounds[3])
    return Frame(Grid(crs, transform, height, width), meridian)


def warp_codes(codes: np.ndarray, grid: Grid, frame: Frame) -> np.ndarray:
    """Warp uint8 codes 1..255 [row, col] by the nearest pixel; 0 is outside the grid."""
    warped = np.zeros(frame.grid.shape, np.uint8)
    return _warp(codes.astype(np.uint8), warped, grid, frame, 0, Resampling.nearest)


def warp_values(values: np.ndarray, grid: Grid, frame: Frame) -> np.ndarray:
    """Warp float values [row, col], averaged where the frame is coarser; nan is unknown."""
    warped = np.full(frame.grid.shape, np.nan, np.float32)
    values = np.asarray(values, dtype=np.float32)
    return _warp(values, warped, grid, frame, np.nan, Resampling.bilinear)


def palette_png(index: np.ndarray, colours: Sequence[tuple[int, int, int, int]]) -> str:
    """Return numbers [row, col] of colours (red, green, blue, alpha of 0..255) as a PNG's URI."""
    image = PIL.Image.fromarray(index.astype(np.uint8))
    image.putpalette([part for colour in colours for part in colour[:3]])
    alpha = bytes(colour[3] for colour in colours)
    return _uri(image, "PNG", transparency=alpha)


def picture_webp(rgb: np.ndarray) -> str:
    """Return a picture float [row, col, 3] in 0..1, nan where it is clear, as a WebP's URI."""
    there = np.isfinite(rgb).all(axis=2)
    bands = np.rint(np.clip(np.where(there[..., None], rgb, 0), 0, 1) * 255)
    pixels = np.dstack([bands, there * 255]).astype(np.uint8)
    return _uri(PIL.Image.fromarray(pixels), "WEBP", quality=_LOSSY_QUALITY, method=4)


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes of a MIME type as a URI that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _uri(image: PIL.Image.Image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return data_uri(buffer.getvalue(), f"image/{kind.lower()}")


def _warp(
    source: np.ndarray,
    target: np.ndarray,
    grid: Grid,
    frame: Frame,
    nodata: float,
    resampling: Resampling,
) -> np.ndarray:
    reproject(
        source, target, src_transform=grid.transform, src_crs=CRS.from_user_input(grid.crs),
        src_nodata=nodata, dst_transform=frame.grid.transform, dst_crs=frame.grid.crs,
        dst_nodata=nodata, resampling=resampling,
    )  # fmt: skip
    return target


def _mercator(meridian: float) -> CRS:
    """Return EPSG:3857 with another central meridian."""
    return CRS.from_proj4(
        f"+proj=merc +a={RADIUS_M} +b={RADIUS_M} +lat_ts=0 +lon_0={meridian} +x_0=0 +y_0=0 +k=1 "
        "+units=m +nadgrids=@null +wktext +no_defs"
    )


def _middle(grid: Grid, crs: CRS) -> float:
    """Return the longitude of the grid's middle, after a look at how near a pole it comes."""
    # Points all over it: a frame around a pole keeps away from it on all sides.
    cols, rows = np.meshgrid(np.linspace(0, grid.width, 33), np.linspace(0, grid.height, 33))
    x, y = grid.transform @ (cols, rows)
    longitude, latitude = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    if not np.isfinite(latitude).all() or np.abs(latitude).max() > LIMIT_DEGREES:
        raise GlacierError(
            f"a web map ends at {LIMIT_DEGREES} degrees of latitude, and these images reach beyond "
            "it or outside their projection; open the rasters in QGIS instead"
        )
    return float(longitude[16, 16])


_ASSETS = files("glacier_utils") / "assets"
# A character of no meaning (Unicode's private use), in place of the brace that opens a template.
_BRACE = "\ue000"
_POLICY_PLACE = "<!-- content security policy -->"


def bare_map() -> folium.Map:
    """Return an empty folium map that links to none of folium's scripts and styles.

    Its page holds Leaflet and the project's own ``map.js`` and ``map.css`` instead. The names of
    its parts are to be set (``named``), or they differ from run to run.
    """
    made = named(
        folium.Map(location=[0, 0], zoom_start=1, tiles=None, zoom_snap=0.25, max_zoom=18), "0"
    )
    # On the object, since folium keeps these lists for all maps.
    made.default_js, made.default_css = [], []
    head = made.get_root().header
    licence = _read("leaflet/LICENSE")
    for name, text in {
        "policy": _POLICY_PLACE,
        "icon": '<link rel="icon" href="data:,">',
        "licence": f"<!--\nLeaflet 1.9.4\n{licence}-->",
        "leaflet_css": f"<style>{_leaflet_css()}</style>",
        "leaflet_js": f"<script>{_read('leaflet/leaflet.js')}</script>",
        "map_js": f"<script>{_read('map.js')}</script>",
    }.items():
        head.add_child(folium.Element(verbatim(text)), name=name)
    return made


def named(element: folium.Element, name: str) -> folium.Element:
    """Give a part of a map a fixed name in the page's script, in place of a random one."""
    element._id = name
    return element


def verbatim(text: str) -> str:
    """Return a text in the form in which folium leaves it alone; ``page`` undoes it.

    folium reads its own output as a template once more, so that a glacier called ``{{ ... }}``
    would run as code here and now. Every text that is not our own must come through here.
    """
    return str(text).replace(_BRACE, "").replace("{", _BRACE)


def page(made: folium.Map, title: str, tiles: str | None = None) -> str:
    """Return the HTML of a map from ``bare_map`` with everything in it.

    Args:
        made: the map.
        title: plain text.
        tiles: URL pattern of the only images that the page may fetch.

    The page's content security policy lets no other request out and no script run but those that
    are written here: one that a third party's text brought in later would not.
    """
    figure = made.get_root()
    figure.title = verbatim(html.escape(title))
    heading = f"<header><h1>{html.escape(title)}</h1></header>"
    # Before the map; and the styles behind those that folium writes while it renders.
    body = figure.html
    body.add_child(folium.Element(verbatim(heading)), name="heading")
    body._children.move_to_end("heading", last=False)
    made.add_child(_Style())
    text = figure.render().replace("<html>", '<html lang="en">', 1)
    # As JSON spells it in scripts, and as it is elsewhere.
    text = text.replace(f"\\u{ord(_BRACE):x}", "{").replace(_BRACE, "{")
    return text.replace(_POLICY_PLACE, _policy(text, tiles), 1)


class _Style(folium.MacroElement):
    """The project's styles, at the end of the head."""

    def render(self, **kwargs) -> None:
        style = folium.Element(verbatim(f"<style>{_read('map.css')}</style>"))
        self.get_root().header.add_child(style, name="map_css")


def _policy(text: str, tiles: str | None) -> str:
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    images = "data:"
    if tiles:
        parts = urlsplit(tiles.replace("{s}", "*"))
        images += f" {parts.scheme}://{parts.netloc}"
    return (
        '<meta http-equiv="Content-Security-Policy" content="'
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src {images}\">"
    )


def _leaflet_css() -> str:
    def inlined(found: re.Match) -> str:
        content = (_ASSETS / "leaflet" / found[1]).read_bytes()
        return f"url({data_uri(content, 'image/png')})"

    return re.sub(r"url\((images/[\w-]+\.png)\)", inlined, _read("leaflet/leaflet.css"))


def _read(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Picture:
    """A picture [row, col, 3] (uint8, or float in 0..1), clear where ``valid`` is False."""

    rgb: np.ndarray
    valid: np.ndarray | None = None


@dataclass(frozen=True)
class Classes:
    """A map of uint8 codes [row, col] in fixed colours.

    ``colours`` gives class name -> colour in the order of ``values``; the last of the values also
    stands for every code that is not named. Classes in ``clear`` let the ground show through and
    are left out of the legend.
    """

    codes: np.ndarray
    colours: Mapping[str, str]
    values: Sequence[int]
    clear: Collection[str] = ()
    opacity: float = 0.75


@dataclass(frozen=True)
class Values:
    """A continuous map float [row, col], nan unknown (clear), with a colour bar.

    ``label`` names quantity and unit. With ``fade`` the low end is clear, so that the ground shows
    where there is nothing to say.
    """

    values: np.ndarray
    label: str
    limits: tuple[float, float] = (0.0, 1.0)
    cmap: str = "cividis"
    fade: bool = False


@dataclass(frozen=True)
class Outlines:
    """Polygons with pop-ups.

    ``fields`` gives column -> label with its unit, in the order shown; ``plus_minus`` gives column
    -> column of its uncertainty, written behind it. ``title`` is the column that heads the pop-up.
    Rows whose column ``kind`` is internal_rock are dotted. All texts are taken as plain text.
    """

    table: gpd.GeoDataFrame
    fields: Mapping[str, str]
    title: str | None = None
    plus_minus: Mapping[str, str] = field(default_factory=dict)
    colour: str = style.OUTLINE_COLOUR


Content = Picture | Classes | Values | Outlines


@dataclass(frozen=True)
class Layer:
    """One line of the layer switch.

    ``content`` lies on both sides of the swipe, unless ``right`` is given too: then ``content`` is
    that of the left date. Later layers lie above earlier ones.
    """

    name: str
    content: Content
    right: Content | None = None
    shown: bool = False


def class_map(mask: np.ndarray) -> Classes:
    """Return a map of 0 not glacier (clear), 1 glacier, 255 unknown, in the usual colours."""
    return Classes(mask, style.CLASS_COLOURS, (0, 1, 255), clear=("not glacier",))


def error_map(prediction: np.ndarray, label: np.ndarray) -> Classes:
    """Return hits, misses and false alarms of a mask against labels, both 0 / 1 / 255."""
    codes = style.error_codes(prediction, label)
    clear = ("correct, not glacier",)
    return Classes(codes, style.ERROR_COLOURS, (0, 1, 2, 3, 255), clear=clear)


def change_map(transition: np.ndarray) -> Classes:
    """Return the codes of ``transition.transition`` in the usual colours."""
    clear = ("not glacier on both",)
    return Classes(transition, style.CHANGE_COLOURS, (0, 1, 2, 3, 255), clear=clear)


def uncertainty_map(probability: np.ndarray) -> Values:
    """Return the entropy of probabilities [row, col] in bits: 0 sure, 1 both classes alike.

    H(p) = -p log2 p - (1 - p) log2 (1 - p) (Shannon 1948); nan stays nan.
    """
    p = np.clip(np.asarray(probability, dtype=np.float32), 1e-7, 1 - 1e-7)
    bits = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    return Values(bits, "entropy of the prediction (bits)", cmap="plasma", fade=True)


def image(content: Picture | Classes | Values, name: str, grid: Grid, frame: Frame) -> str:
    """Return an image of the content in the frame as a URI.

    Raises:
        ValueError: the array does not fit the grid; ``name`` tells whose it is.
    """
    kinds = {Picture: ("rgb", _picture), Classes: ("codes", _classes), Values: ("values", _values)}
    array, draw = kinds[type(content)]
    shape = np.shape(getattr(content, array))
    if shape[:2] != grid.shape:
        raise ValueError(f"{name}: an array of shape {shape} does not fit a grid of {grid.shape}")
    return draw(content, grid, frame)


def features(content: Outlines, name: str, frame: Frame) -> list[dict]:
    """Return the outlines as GeoJSON features, with the texts of their pop-ups as properties.

    Raises:
        GlacierError: the table has no CRS or lacks a column; ``name`` tells whose it is.
    """
    table = content.table
    if table.crs is None:
        raise GlacierError(f"{name}: the outlines have no CRS; set it (`set_crs`) before mapping")
    columns = {*content.fields, *content.plus_minus.values()} | {content.title} - {None}
    if missing := sorted(columns - set(table.columns)):
        raise GlacierError(f"{name}: the outlines have no column {', '.join(missing)}")
    table = table[table.geometry.notna()]
    shapes = table.geometry.map(polygonal)
    drawn = frame.outlines(shapes)
    return [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(shape)),
            "properties": _properties(row, content),
        }
        for shape, row in zip(drawn, table.to_dict("records"), strict=True)
        if not shape.is_empty
    ]


def legend(layer: Layer) -> dict:
    """Return title, entries and colour bar of a layer for the legend, as ``map.js`` reads them."""
    content = layer.content
    title = {"title": verbatim(layer.name)}
    if isinstance(content, Classes):
        return title | {
            "entries": [
                {"kind": "fill", "colour": to_hex(colour), "text": verbatim(name)}
                for name, colour in content.colours.items()
                if name not in content.clear
            ]
        }
    if isinstance(content, Values):
        low, high = (f"{limit:g}" for limit in content.limits)
        colours = [
            f"rgba({red}, {green}, {blue}, {alpha / 255:.2f})"
            for red, green, blue, alpha in _ramp(content, 9)
        ]
        return title | {"ramp": {"colours": colours, "low": low, "high": high,
                                 "text": verbatim(content.label)}}  # fmt: skip
    if isinstance(content, Outlines):
        colour = to_hex(content.colour)
        entries = [{"kind": "line", "colour": colour, "text": verbatim(layer.name)}]
        if "kind" in content.table and (content.table["kind"] == "internal_rock").any():
            entries.append({"kind": "dash", "colour": colour, "text": "internal rock"})
        return {"title": "", "entries": entries}
    return {"title": "", "entries": []}


def _picture(content: Picture, grid: Grid, frame: Frame) -> str:
    scale = 255 if content.rgb.dtype == np.uint8 else 1
    warped = np.empty((*frame.grid.shape, 3), np.float32)
    # A band at a time, since a full tile in float32 is half a gigabyte.
    for place in range(3):
        band = content.rgb[..., place].astype(np.float32) / scale
        if content.valid is not None:
            band[~content.valid] = np.nan
        warped[..., place] = warp_values(band, grid, frame)
    return picture_webp(warped)


def _classes(content: Classes, grid: Grid, frame: Frame) -> str:
    lookup = np.full(256, len(content.values), np.uint8)
    for position, value in enumerate(content.values, start=1):
        lookup[value] = position
    alpha = round(255 * content.opacity)
    colours = [
        (*_bytes(to_rgb(colour)), 0 if name in content.clear else alpha)
        for name, colour in content.colours.items()
    ]
    index = warp_codes(lookup[np.asarray(content.codes, np.uint8)], grid, frame)
    return palette_png(index, [(0, 0, 0, 0), *colours])


def _values(content: Values, grid: Grid, frame: Frame) -> str:
    low, high = content.limits
    warped = warp_values(content.values, grid, frame)
    share = np.clip((warped - low) / (high - low), 0, 1)
    index = np.where(np.isnan(share), 0, 1 + np.rint(np.nan_to_num(share) * 254))
    return palette_png(index, [(0, 0, 0, 0), *_ramp(content, 255)])


def _ramp(content: Values, count: int) -> list[tuple[int, int, int, int]]:
    """Return the colours (red, green, blue, alpha) of a scale from its low to its high end."""
    steps = np.linspace(0, 1, count)
    # Half of the scale is enough for the eye to find what is high.
    alpha = np.clip(2 * steps, 0, 0.9) if content.fade else np.full(count, 0.9)
    return [
        (*_bytes(colour), round(255 * share))
        for colour, share in zip(colormaps[content.cmap](steps)[:, :3], alpha, strict=True)
    ]


def _bytes(colour: Sequence[float]) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in colour)


def _properties(row: Mapping, content: Outlines) -> dict:
    rock = row.get("kind") == "internal_rock"
    title = verbatim(clean_text(row[content.title], 120)) if content.title else ""
    values = []
    for column in content.fields:
        text = _words(row[column])
        spread = row.get(content.plus_minus.get(column))
        known = text != NOT_KNOWN and spread is not None and not pd.isna(spread)
        values.append(verbatim(f"{text} ± {_words(spread)}" if known else text))
    found = {"title": title or ("internal rock" if rock else "no name"), "values": values}
    # folium hands `style` to Leaflet.
    return {**found, "style": {"dashArray": "2 5"}} if rock else found


def _words(value: object) -> str:
    """Return a value as text: numbers with four significant digits, dates without a time."""
    if value is None or value is pd.NaT or (isinstance(value, Real) and not np.isfinite(value)):
        return NOT_KNOWN
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat()
    if isinstance(value, Real) and not isinstance(value, int | np.integer | np.bool_):
        return np.format_float_positional(
            value, precision=4, unique=False, fractional=False, trim="-"
        )
    return clean_text(value, 200) or NOT_KNOWN


__all__ = ["Classes", "Layer", "Outlines", "Picture", "Values", "change_map", "class_map",
           "error_map", "uncertainty_map", "write_map"]  # fmt: skip

# OpenStreetMap's own servers refuse pages that were opened from disk, which send no referrer.
TILES = "https://{s}.tile.opentopomap.org/{z}/{x}/{y}.png"
BASEMAP_NAME = "Online map (needs a network)"
TILES_ATTRIBUTION = (
    'Map data: &copy; <a href="https://www.openstreetmap.org/copyright">OpenStreetMap</a> '
    "contributors, SRTM. Map style: &copy; "
    '<a href="https://opentopomap.org">OpenTopoMap</a> (CC-BY-SA)'
)


def write_map(
    path: str | Path,
    grid: Grid,
    layers: Sequence[Layer],
    *,
    title: str,
    dates: tuple[str, str] = ("left", "right"),
    notes: Sequence[str] = (),
    attribution: str = "",
    basemap: tuple[str, str] | None = (TILES, TILES_ATTRIBUTION),
    max_side: int = 1600,
) -> Path:
    """Write the map as one HTML file, whole or not at all.

    Args:
        path: of the file.
        grid: of all rasters; outlines may have any CRS.
        layers: from the lowest to the topmost. The swipe is there if one has a ``right``.
        title: heads the page.
        dates: names of the left and right side.
        notes: sentences below the legend.
        attribution: whose images these are, plain text.
        basemap: (URL pattern, attribution as HTML) of tiles, or None. It is off at first, and
            nothing is fetched before a reader switches it on.
        max_side: rows and columns of the images at most; larger rasters are drawn coarser.

    Raises:
        GlacierError: the grid has no CRS or lies too near a pole, a table lacks a CRS or a column.
        ValueError: an array does not fit the grid, or two layers have one name.
    """
    names = [layer.name for layer in layers] + [BASEMAP_NAME] * (basemap is not None)
    if len(set(names)) < len(names):
        raise ValueError(f"layers need names of their own, not {', '.join(names)}")
    frame = web_frame(grid, max_side)
    made = bare_map()
    panes = {"left": [], "right": []}
    parts = []
    # The switch and the legend list the topmost first.
    for place, layer in reversed(list(enumerate(layers))):
        # Leaflet takes the names in its layer switch for HTML.
        group = folium.FeatureGroup(name=verbatim(html.escape(layer.name)), show=layer.shown)
        named(group, str(place))
        sides = {"both": layer.content}
        if layer.right is not None:
            sides = {"left": layer.content, "right": layer.right}
        for side, content in sides.items():
            # A pane of its own keeps its place in the pile, whenever it is switched on.
            pane, name = f"layer-{place}-{side}", f"{place}_{side}"
            made.add_child(named(folium.map.CustomPane(pane, z_index=300 + place), name))
            if side != "both":
                panes[side].append(pane)
            part = _part(content, layer.name, grid, frame, pane, made.get_name())
            group.add_child(named(part, name))
        made.add_child(group)
        parts.append({"layer": JsCode(group.get_name()), **legend(layer)})
    if basemap:
        _add_basemap(made, *basemap)
    made.add_child(named(_layer_switch(), "switch"))
    outlined = any(isinstance(layer.content, Outlines) for layer in layers)
    hint = "Click an outline to read about it. " if outlined else ""
    options = {
        "bounds": frame.corners,
        "legend": parts,
        "notes": [*map(verbatim, notes), f"{hint}North is up."],
        "swipe": {"labels": [verbatim(date) for date in dates], **panes} if panes["left"] else None,
        "attribution": verbatim(html.escape(attribution)),
    }
    made.add_child(named(_Start(options), "start"))
    return write_text(path, page(made, title, basemap[0] if basemap else None))


class _Start(folium.MacroElement):
    """The call of ``map.js`` at the end of the page's script."""

    _template = Template(
        "{% macro script(this, kwargs) %}"
        "glacierMap.start({{ this._parent.get_name() }}, {{ this.options|tojavascript }});"
        "{% endmacro %}"
    )

    def __init__(self, options: Mapping) -> None:
        super().__init__()
        self.options = options


def _layer_switch() -> folium.LayerControl:
    # On a narrow screen the open list would cover the map.
    return folium.LayerControl(collapsed=JsCode("window.innerWidth < 700"))


def _add_basemap(made: folium.Map, url: str, attribution: str) -> None:
    tiles = folium.TileLayer(
        url, attr=attribution, name=BASEMAP_NAME, overlay=True, show=False,
        max_zoom=18, max_native_zoom=17,
    )  # fmt: skip
    made.add_child(named(tiles, "basemap"))


def _part(
    content: Content, name: str, grid: Grid, frame: Frame, pane: str, map_name: str
) -> folium.map.Layer:
    if isinstance(content, Outlines):
        return _outlines(content, name, frame, pane, map_name)
    sharp = {"class_name": "pixelated"} if isinstance(content, Classes) else {}
    return folium.raster_layers.ImageOverlay(
        image(content, name, grid, frame), frame.corners, pixelated=False, pane=pane,
        alt=verbatim(name), **sharp,
    )  # fmt: skip


def _outlines(
    content: Outlines, name: str, frame: Frame, pane: str, map_name: str
) -> folium.GeoJson:
    drawn = {"type": "FeatureCollection", "features": features(content, name, frame)}
    about = json.dumps({"layer": name, "labels": [*content.fields.values()]})
    # A script's text ends at "</script" wherever it stands.
    about = verbatim(about.replace("<", "\\u003c"))
    bind = f"(feature, layer) => glacierMap.describe({map_name}, feature, layer, {about})"
    return folium.GeoJson(
        drawn, on_each_feature=JsCode(bind), smooth_factor=0.5, pane=pane,
        color=to_hex(content.colour), weight=2, opacity=1, fill_opacity=0,
    )  # fmt: skip
