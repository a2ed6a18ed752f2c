"""Maps and patches: every figure of a place. Arrays and tables in, a Matplotlib figure out.

Axes are in km of the maps' CRS, bounds are (xmin, ymin, xmax, ymax) in m. The arrow on large maps
shows the grid's north, the direction of rising northing; true north may differ by some degrees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib_scalebar.scalebar import ScaleBar
from scipy import ndimage

from glacier_utils import metrics
from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.plotting.style import (
    CLASS_COLOURS,
    ERROR_COLOURS,
    HATCH,
    OUTLINE_COLOUR,
    PAIR_CODES,
    class_legend,
    coloured,
    error_codes,
    escape_math,
    panels,
)
from glacier_utils.raster.grid import Bounds as GridBounds

Bounds = tuple[float, float, float, float]

KIND_COLOURS = {
    "one-to-one": "#0072b2",
    "merged": "#e69f00",
    "split": "#cc79a7",
    "complex": "#882255",
    "fragment": "#56b4e9",
    "new": "#f0e442",
}
_MISSED_COLOUR = "#d55e00"
_DETAIL_COLOUR = "#0072b2"
_DETAIL = 0.2  # side of the detail over the map's shorter side
_OPACITY = 0.4  # of the class over a picture
_DRAWN = 2000  # px along the longer side: more than a page can show
_LINES = (OUTLINE_COLOUR, "#ee3377", "#009e73")


def extent_km(bounds: Bounds) -> tuple[float, float, float, float]:
    """Turn bounds in metres into Matplotlib's extent (left, right, bottom, top) in km."""
    xmin, ymin, xmax, ymax = bounds
    return xmin / 1000, xmax / 1000, ymin / 1000, ymax / 1000


def draw_edge(
    ax: Axes,
    mask: np.ndarray,
    colour: str = OUTLINE_COLOUR,
    *,
    bounds: Bounds | None = None,
    width: float = 1.4,
) -> None:
    """Draw where the glaciers of a mask end, over its picture; not where unknown ground begins.

    Args:
        ax: that shows the picture.
        mask: uint8 [row, col]: 0, 1, 255.
        colour: of the line, on a dark halo.
        bounds: in m, where the axes are in km; None: they are in pixels.
        width: of the line in points.
    """
    if (mask == 1).any() and (mask == 0).any():
        where: dict[str, Any] = {"extent": extent_km(bounds), "origin": "upper"} if bounds else {}
        known = np.ma.masked_where(mask == UNKNOWN, mask)
        line = ax.contour(known, [0.5], colors=[colour], linewidths=width, **where)
        line.set(path_effects=[_halo("black", 2.2 * width)])


def map_axes(
    ax: Axes, title: str = "", *, labels: bool = True, size: float = 8, bounds: Bounds | None = None
) -> None:
    """Give an axes what a map needs: equal axes in km, a title, a scale bar.

    Args:
        ax: the axes.
        title: a user's text.
        labels: name the axes.
        size: of the numbers, in points.
        bounds: of a grid, which tells how long a unit is on the ground; else it is a metre.
    """
    ax.set_aspect("equal")
    ax.set_title(escape_math(title), fontsize=10)
    ax.ticklabel_format(useOffset=False, style="plain")
    ax.tick_params(labelsize=size)
    ax.locator_params(nbins=5)
    if labels:
        ax.set_xlabel("easting (km)", fontsize=9)
        ax.set_ylabel("northing (km)", fontsize=9)
    metres = bounds.grid.metres_per_unit if isinstance(bounds, GridBounds) else 1.0
    if math.isfinite(metres):
        look: dict[str, Any] = {"box_alpha": 0.8, "font_properties": {"size": 8}}
        ax.add_artist(ScaleBar(metres, "km", location="lower right", **look))


def scenes(
    pictures: Mapping[str, np.ndarray],
    bounds: Bounds | Mapping[str, Bounds],
    *,
    outlines: gpd.GeoDataFrame | Mapping[str, gpd.GeoDataFrame] | None = None,
    columns: int = 2,
) -> Figure:
    """Show pictures as maps side by side.

    Args:
        pictures: title -> [row, col, 3], from `style.composite`.
        bounds: in m, one for all or one per title.
        outlines: drawn on top, internal rock dotted, in the maps' CRS; one for all or one per
            title.
        columns: maps in a row at most.

    Returns:
        The figure.
    """
    figure, axes = _map_panels(pictures, bounds, 9.2 / columns, columns)
    for ax, title, extent in axes:
        picture = pictures[title]
        ax.imshow(picture, extent=extent, interpolation="none" if picture.shape[0] < 600 else None)
        own = outlines.get(title) if isinstance(outlines, Mapping) else outlines
        if own is not None:
            _draw_outlines(ax, own)
        ax.set(xlim=extent[:2], ylim=extent[2:])
        map_axes(ax, title, bounds=_box(bounds, title))
    return figure


def patch_gallery(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    codes: Sequence[np.ndarray] | None = None,
    colours: Mapping[str, str] = ERROR_COLOURS,
    values: Sequence[int] = PAIR_CODES,
    columns: int = 6,
    note: str = "",
) -> Figure:
    """Show patches, each with the map of codes below it where given.

    Args:
        pictures: [row, col, 3] each.
        titles: a line per patch.
        codes: uint8 [row, col] each, drawn with ``colours`` in the order of ``values``.
        colours: class name -> colour.
        values: the codes; the last one also stands for every code not named.
        columns: how many side by side at most.
        note: written above the figure, for example the patches' size on the ground.

    Returns:
        The figure.
    """
    bands = 1 if codes is None else 2
    if codes is not None:
        pictures = [
            np.concatenate([picture, np.ones_like(picture[: len(picture) // 16 + 1]),
                            coloured(own, colours, values)])
            for picture, own in zip(pictures, codes, strict=True)
        ]  # fmt: skip
    figure, axes = panels(len(pictures), (1.9, 1.9 * bands + 0.4), columns=columns)
    for ax, picture, title in zip(axes, pictures, titles, strict=True):
        ax.imshow(picture)
        ax.set_title(escape_math(title), fontsize=8)
        ax.axis("off")
    if codes is not None:
        class_legend(figure, colours)
    if note:
        figure.suptitle(escape_math(note), fontsize=9)
    return figure


def code_maps(
    maps: Mapping[str, np.ndarray],
    bounds: Bounds | Mapping[str, Bounds],
    colours: Mapping[str, str],
    values: Sequence[int],
) -> Figure:
    """Show maps of class codes in fixed colours with one legend.

    Args:
        maps: title -> uint8 codes [row, col].
        bounds: in m, one for all or one per title.
        colours: class name -> colour, in the order of ``values``.
        values: the codes; the last one also stands for every code not named.

    Returns:
        The figure.
    """
    figure, axes = _map_panels(maps, bounds)
    for ax, title, extent in axes:
        picture = coloured(maps[title], colours, values)
        if "unknown" in colours:  # hatched, as in the legend: grey would be a class
            ax.patch.set(hatch=HATCH, edgecolor="0.5")
            picture = np.dstack([picture, maps[title] != UNKNOWN])
        ax.imshow(picture, interpolation="nearest", extent=extent)
        map_axes(ax, title, bounds=_box(bounds, title))
    class_legend(figure, colours, hatched=True)
    return figure


def error_maps(mask: np.ndarray, references: Mapping[str, np.ndarray], bounds: Bounds) -> Figure:
    """Show hits, misses and false alarms of one map against each reference, with its IoU.

    Args:
        mask: uint8 [row, col]: 0, 1, 255.
        references: name -> uint8 of the same shape.
        bounds: in m.
    """
    maps = {
        f"against the {name}: IoU {metrics.count(mask, own).iou:.2f}": error_codes(mask, own)
        for name, own in references.items()
    }
    return code_maps(maps, bounds, ERROR_COLOURS, PAIR_CODES)


def probability_maps(
    maps: Mapping[str, np.ndarray],
    bounds: Bounds | Mapping[str, Bounds],
    *,
    label: str = "glacier probability",
    limits: tuple[float, float] = (0, 1),
    cmap: str = "cividis",
    panel: float = 4.6,
) -> Figure:
    """Show continuous maps with one colour bar; nan is drawn grey.

    Args:
        maps: title -> values [row, col].
        bounds: in m, one for all or one per title.
        label: of the colour bar, with the unit.
        limits: ends of the colour bar.
        cmap: name of a Matplotlib colour map.
        panel: width of a map in inches.

    Returns:
        The figure.
    """
    figure, axes = _map_panels(maps, bounds, panel)
    colours = plt.get_cmap(cmap).with_extremes(bad=CLASS_COLOURS["unknown"])
    for ax, title, extent in axes:
        drawn = ax.imshow(maps[title], cmap=colours, clim=limits, extent=extent)
        map_axes(ax, title, bounds=_box(bounds, title))
    figure.colorbar(drawn, ax=[ax for ax, *_ in axes], label=label, shrink=0.7)
    return figure


def over(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lay the glacier class over a picture, and grey where the class is unknown.

    Args:
        picture: of `style.composite`, float [row, col, 3] in 0..1.
        mask: uint8 [row, col]: 0, 1, 255.

    Returns:
        A picture of the same shape, float32.
    """
    result = np.array(picture, np.float32)
    for value, name in ((1, "glacier"), (UNKNOWN, "unknown")):
        colour = np.array(to_rgb(CLASS_COLOURS[name]), np.float32)
        where = mask == value
        result[where] = (1 - _OPACITY) * result[where] + _OPACITY * colour
    return result


def detail(mask: np.ndarray, bounds: Bounds) -> Bounds:
    """Choose the part of a map to look at closely: a square that holds most of the ice's edge.

    Args:
        mask: uint8 [row, col]: 0, 1, 255.
        bounds: of the map in m.

    Returns:
        (xmin, ymin, xmax, ymax) in m, inside the map, a fifth of its shorter side wide; in the
        middle where there is no edge.
    """
    edge = metrics.outline(mask).astype(np.float32)
    side = max(1, round(_DETAIL * min(mask.shape)))
    height, width = mask.shape
    row, col = (height - side) // 2, (width - side) // 2
    if edge.any():
        # Of a window that starts at its corner, the sum stands at its middle.
        sums = ndimage.uniform_filter(edge, side, mode="constant")
        half = side // 2
        inside = sums[half : half + height - side + 1, half : half + width - side + 1]
        row, col = np.unravel_index(int(np.argmax(inside)), inside.shape)
    xmin, ymin, xmax, ymax = bounds
    dx, dy = (xmax - xmin) / width, (ymax - ymin) / height
    left, top = xmin + col * dx, ymax - row * dy
    return left, top - side * dy, left + side * dx, top


def large_map(
    picture: np.ndarray,
    bounds: Bounds,
    *,
    title: str = "",
    outlines: Mapping[str, gpd.GeoDataFrame] | None = None,
    inset: Bounds | None = None,
    locator: Mapping[str, Bounds] | None = None,
) -> Figure:
    """Show one area at one date as a large map, with a detail beside it.

    Args:
        picture: [row, col, 3] in 0..1, of `style.composite`.
        bounds: of the map in m.
        title: of the map.
        outlines: name in the legend -> outlines to draw on top, in the map's CRS.
        inset: bounds in m of the detail, drawn from all pixels; `detail` chooses one.
        locator: areas -> bounds in the same CRS, drawn as boxes with this map's filled.

    Returns:
        The figure.

    Raises:
        GlacierError: the detail lies outside the map.
    """
    outlines = dict(outlines or {})
    beside = [name for name, given in (("inset", inset), ("locator", locator)) if given]
    wide = 10.5 if beside else 8.5
    across = 0.68 * wide if beside else wide
    height = max((across - 0.9) * _ratio(bounds) + 1.3, 5.0)
    figure, axes = plt.subplot_mosaic(
        [["main", name] for name in beside] or [["main"]],
        figsize=(wide, height), layout="constrained", width_ratios=[2.3, 1] if beside else None,
    )  # fmt: skip
    main = axes["main"]
    _draw(main, picture, extent_km(bounds), outlines)
    map_axes(main, title, bounds=bounds)
    _north_arrow(main)
    if inset:
        _detail(main, axes["inset"], picture, bounds, inset, outlines)
    if locator:
        _locate(axes["locator"], locator, bounds)
    class_legend(figure, {}, _outline_lines(outlines))
    return figure


def matches_map(
    polygons: gpd.GeoDataFrame, glaciers: gpd.GeoDataFrame, bounds: Bounds, *, picture: np.ndarray
) -> Figure:
    """Show predicted polygons coloured by what they were matched with, over the inventory.

    Args:
        polygons: of `matching.Matches`.
        glaciers: of `matching.Matches`.
        bounds: of the map in m.
        picture: [row, col, 3], drawn beneath in grey, so that colours mean kinds alone.

    Returns:
        The figure.
    """
    figure, ax = plt.subplots(figsize=(8.5, 7.6 * _ratio(bounds, 1.3) + 1.6), layout="compressed")
    grey = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    _draw(ax, grey, extent_km(bounds), {})
    style: dict[str, Any]
    handles: list[Patch | Line2D] = []
    for kind, colour in KIND_COLOURS.items():
        own = polygons[polygons["kind"] == kind]
        if len(own):
            style = {"facecolor": colour, "alpha": 0.75, "edgecolor": "black", "linewidth": 0.4}
            _in_km(own).plot(ax=ax, aspect=None, **style)
            handles.append(Patch(label=f"{kind} ({len(own)})", **style))
    missed = glaciers["kind"] == "missed"
    for own, colour, line, width, label in (
        (glaciers[~missed], "white", "-", 0.9, "outline of the inventory"),
        (glaciers[missed], _MISSED_COLOUR, "--", 1.4, f"missed outline ({int(missed.sum())})"),
    ):
        if len(own):
            halo = [_halo("black", 2 * width)]
            style = {"color": colour, "linestyle": line, "linewidth": width, "path_effects": halo}
            _in_km(own).boundary.plot(ax=ax, aspect=None, **style)
            handles.append(Line2D([], [], label=label, **style))
    map_axes(ax, bounds=bounds)
    _north_arrow(ax)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9,
        title="predicted polygons", title_fontsize=9,
    )  # fmt: skip
    return figure


def _box(bounds: Bounds | Mapping[str, Bounds], title: str) -> Bounds:
    return bounds if isinstance(bounds, tuple) else bounds[title]


def _ratio(bounds: Bounds, most: float = 1.6) -> float:
    """Return height over width of a map, within what a page can show."""
    xmin, ymin, xmax, ymax = bounds
    return float(np.clip((ymax - ymin) / (xmax - xmin), 0.4, most))


def _map_panels(
    maps: Mapping[str, np.ndarray],
    bounds: Bounds | Mapping[str, Bounds],
    panel: float = 4.6,
    columns: int = 2,
) -> tuple[Figure, list[tuple[Axes, str, tuple[float, float, float, float]]]]:
    """Return a figure, and an axes, title and extent for each map; as high as the first needs."""
    boxes = {title: _box(bounds, title) for title in maps}
    ratio = _ratio(next(iter(boxes.values())))
    # A map is as high as it is wide times the ratio; labels and title need the rest.
    figure, axes = panels(len(maps), (panel, (panel - 0.75) * ratio + 0.7), columns=columns)
    extents = [extent_km(box) for box in boxes.values()]
    return figure, list(zip(axes, maps, extents, strict=True))


def _in_km(table: gpd.GeoDataFrame) -> gpd.GeoSeries:
    """Return the shapes in km, without a CRS, of which geopandas would write its own labels."""
    shapes = table.geometry.set_crs(None, allow_override=True)
    return shapes.affine_transform([1e-3, 0, 0, 1e-3, 0, 0])


def _draw_outlines(ax: Axes, outlines: gpd.GeoDataFrame) -> None:
    """Draw glacier outlines solid and internal rock dotted over a map in km."""
    none = np.zeros(len(outlines), bool)
    rock = outlines["kind"] == "internal_rock" if "kind" in outlines else none
    for own, line in ((outlines[~rock], "-"), (outlines[rock], ":")):
        if len(own):
            style = {"color": OUTLINE_COLOUR, "linewidth": 0.8, "linestyle": line}
            _in_km(own).boundary.plot(ax=ax, aspect=None, **style)


def _draw(
    ax: Axes,
    picture: np.ndarray,
    extent: tuple[float, float, float, float],
    outlines: Mapping[str, gpd.GeoDataFrame],
) -> None:
    """Draw a picture and outlines in km, no more pixels than can be seen."""
    step = -(-max(picture.shape[:2]) // _DRAWN)
    ax.imshow(np.clip(picture[::step, ::step], 0, 1), extent=extent)
    for line, table in zip(_outline_lines(outlines), outlines.values(), strict=False):
        if len(table):
            style = {"linewidth": 0.9, "path_effects": [_halo("black", 1.4)]}
            _in_km(table).boundary.plot(ax=ax, color=line.get_color(), aspect=None, **style)
    # Geopandas writes labels of its own.
    ax.set(xlim=extent[:2], ylim=extent[2:], xlabel="", ylabel="")


def _outline_lines(outlines: Mapping[str, gpd.GeoDataFrame]) -> Iterator[Line2D]:
    """Return the handles of outlines in a legend, each in its own colour."""
    for colour, name in zip(_LINES, outlines, strict=False):
        halo = [_halo("black", 2.4)]
        label = escape_math(name)
        yield Line2D([], [], color=colour, linewidth=1.2, path_effects=halo, label=label)


def _halo(colour: str, width: float) -> patheffects.withStroke:
    return patheffects.withStroke(linewidth=width, foreground=colour)


def _north_arrow(ax: Axes) -> None:
    """Mark the grid's north, which is up on every grid here, in the upper left corner."""
    ax.text(
        0.02, 0.98, "▲\ngrid N", transform=ax.transAxes, ha="left", va="top",
        multialignment="center", fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 2.5},
    )  # fmt: skip


def _detail(
    main: Axes,
    ax: Axes,
    picture: np.ndarray,
    bounds: Bounds,
    part: Bounds,
    outlines: Mapping[str, gpd.GeoDataFrame],
) -> None:
    """Draw a part of the map into ``ax`` from all its pixels, and its box on the map."""
    xmin, xmax, ymin, ymax = extent_km(bounds)
    xs, ys = (
        np.linspace(start, stop, count + 1)
        for start, stop, count in ((xmin, xmax, picture.shape[1]), (ymax, ymin, picture.shape[0]))
    )
    west, east, south, north = extent_km(part)
    # The pixels whose centres lie in the part.
    left, right = np.searchsorted((xs[1:] + xs[:-1]) / 2, (west, east))
    top, bottom = np.searchsorted(-(ys[1:] + ys[:-1]) / 2, (-north, -south))
    if left >= right or top >= bottom:
        raise GlacierError(
            f"detail {tuple(round(value) for value in part)}: lies outside the map, whose bounds "
            f"are {tuple(round(value) for value in bounds)}; give metres in the map's CRS"
        )
    _draw(ax, picture[top:bottom, left:right], (xs[left], xs[right], ys[bottom], ys[top]), outlines)
    wide, tall = xs[right] - xs[left], ys[top] - ys[bottom]
    frame: dict[str, Any] = {"fill": False, "edgecolor": _DETAIL_COLOUR, "linewidth": 1.6}
    corner = (xs[left], ys[bottom])
    main.add_patch(Rectangle(corner, wide, tall, path_effects=[_halo("white", 3.2)], **frame))
    for spine in ax.spines.values():
        spine.set(edgecolor=_DETAIL_COLOUR, linewidth=1.6)
    map_axes(ax, f"detail, {wide:.3g} x {tall:.3g} km", labels=False, size=7, bounds=bounds)


def _locate(ax: Axes, areas: Mapping[str, Bounds], bounds: Bounds) -> None:
    """Draw where the areas lie, this map's filled."""
    for name, box in areas.items():
        left, right, bottom, top = extent_km(box)
        ax.add_patch(
            Rectangle((left, bottom), right - left, top - bottom, edgecolor="#0072b2",
                      facecolor="#56b4e9" if np.allclose(box, bounds) else "none")
        )  # fmt: skip
        ax.annotate(escape_math(name), ((left + right) / 2, top), (0, 3), ha="center",
                    textcoords="offset points", fontsize=8)  # fmt: skip
    ax.margins(0.2, 0.5)
    map_axes(ax, "where the areas lie (km)", labels=False, size=7, bounds=bounds)
    ax.locator_params(nbins=3)
