"""What the layers of the interactive map can show: pictures, classes, values, outlines.

Arrays and tables in; out come an image's URI, features with their texts, and a legend.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from glacier_utils import plots
from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid
from glacier_utils.inline import verbatim
from glacier_utils.mercator import Frame, palette_png, picture_webp, warp_codes, warp_values
from glacier_utils.vectors import clean_text, polygonal

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
    colour: str = plots.OUTLINE_COLOUR


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
    return Classes(mask, plots.CLASS_COLOURS, (0, 1, 255), clear=("not glacier",))


def error_map(prediction: np.ndarray, label: np.ndarray) -> Classes:
    """Return hits, misses and false alarms of a mask against labels, both 0 / 1 / 255."""
    codes = plots.error_codes(prediction, label)
    clear = ("correct, not glacier",)
    return Classes(codes, plots.ERROR_COLOURS, (0, 1, 2, 3, 255), clear=clear)


def change_map(transition: np.ndarray) -> Classes:
    """Return the codes of ``change.transition`` in the usual colours."""
    clear = ("not glacier on both",)
    return Classes(transition, plots.CHANGE_COLOURS, (0, 1, 2, 3, 255), clear=clear)


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
