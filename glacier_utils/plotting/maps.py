"""Map sheets: large maps with a detail, a scale bar and an arrow to the north; matched glaciers.

Arrays and tables in, a Matplotlib figure out. The arrow shows the grid's north, the direction of
rising northing; true north may differ by some degrees.

Cloud masks as pictures. Arrays in, a Matplotlib figure out.
"""

from __future__ import annotations

from collections.abc import Mapping

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

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.clouds import CLOUD
from glacier_utils.plotting.charts import plain
from glacier_utils.plotting.style import (
    CLASS_COLOURS,
    OUTLINE_COLOUR,
    Bounds,
    class_legend,
    code_panel,
    extent_km,
    map_axes,
)

KIND_COLOURS = {
    "one-to-one": "#0072b2",
    "merged": "#e69f00",
    "split": "#cc79a7",
    "complex": "#882255",
    "fragment": "#999999",
    "new": "#f0e442",
}
MISSED_COLOUR = "#d55e00"
DETAIL_COLOUR = "#d55e00"
_DRAWN = 2000  # px along the longer side: more than a page can show
_LINES = (OUTLINE_COLOUR, "#cc79a7", "#009e73")


def over(picture: np.ndarray, mask: np.ndarray, *, alpha: float = 0.4) -> np.ndarray:
    """Lay the glacier class over a picture, and grey where the class is unknown.

    Args:
        picture: of ``style.composite``, float [row, col, 3] in 0..1.
        mask: uint8 [row, col]: 0, 1, 255.
        alpha: weight of the class colour.
    """
    result = np.array(picture, np.float32)
    for value, name in ((1, "glacier"), (255, "unknown")):
        where = mask == value
        result[where] = (1 - alpha) * result[where] + alpha * np.float32(
            to_rgb(CLASS_COLOURS[name])
        )
    return result


def detail(mask: np.ndarray, bounds: Bounds, *, share: float = 0.2) -> Bounds:
    """Choose the part of a map to look at closely: a square that holds most of the ice's edge.

    Args:
        mask: uint8 [row, col]: 0, 1, 255.
        bounds: of the map in m.
        share: side of the square over the map's shorter side.

    Returns:
        (xmin, ymin, xmax, ymax) in m, inside the map; the middle where there is no edge.
    """
    edge = np.zeros(mask.shape, np.float32)
    ice = mask == 1
    ground = mask == 0
    edge[1:] += (ice[1:] & ground[:-1]) | (ground[1:] & ice[:-1])
    edge[:, 1:] += (ice[:, 1:] & ground[:, :-1]) | (ground[:, 1:] & ice[:, :-1])
    side = max(1, round(share * min(mask.shape)))
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
    outlines: gpd.GeoDataFrame | Mapping[str, gpd.GeoDataFrame] | None = None,
    inset: Bounds | None = None,
    locator: Mapping[str, Bounds] | None = None,
    classes: bool = False,
    north: bool = True,
) -> Figure:
    """Show one area at one date as a large map, with a detail beside it.

    Args:
        picture: [row, col, 3] in 0..1, of ``style.composite`` or ``over``.
        bounds: (xmin, ymin, xmax, ymax) of the map in m.
        outlines: drawn on top, in the map's CRS; several by their names in the legend.
        inset: bounds in m of the detail, drawn from all pixels; ``detail`` chooses one.
        locator: areas -> bounds in the same CRS, drawn as boxes with this map's filled.
        classes: the picture is one of ``over``: say so in the legend.
        north: draw the arrow; False for images without georeference.

    Raises:
        GlacierError: the detail lies outside the map.
    """
    tables = _named(outlines)
    beside = [name for name, given in (("detail", inset), ("locator", locator)) if given]
    wide = 10.5 if beside else 8.5
    across = 0.68 * wide if beside else wide
    ratio = float(np.clip((bounds[3] - bounds[1]) / (bounds[2] - bounds[0]), 0.4, 1.6))
    figure = plt.figure(
        figsize=(wide, max((across - 0.9) * ratio + 1.3, 5.0)), layout="constrained"
    )
    grid = figure.add_gridspec(
        max(len(beside), 1), 2 if beside else 1, width_ratios=[2.3, 1] if beside else [1]
    )
    main = figure.add_subplot(grid[:, 0])
    _draw(main, picture, bounds, tables)
    map_axes(main, title, scale_bar=True)
    if north:
        north_arrow(main)
    for row, name in enumerate(beside):
        ax = figure.add_subplot(grid[row, 1])
        if name == "detail":
            _detail(main, ax, picture, bounds, inset, tables)
            map_axes(ax, f"detail, {_size(inset)}", labels=False, scale_bar=True)
            ax.tick_params(labelsize=7)
        else:
            _locate(ax, locator, bounds)
    _legend(figure, tables, classes)
    return figure


def large_maps(
    pictures: Mapping[str, np.ndarray],
    bounds: Bounds | Mapping[str, Bounds],
    *,
    outlines: Mapping[str, gpd.GeoDataFrame | Mapping[str, gpd.GeoDataFrame]] | None = None,
    insets: Mapping[str, Bounds] | None = None,
    classes: bool = True,
    north: bool = True,
    columns: int = 2,
) -> Figure:
    """Show several areas and dates as maps with a detail in a corner each.

    Args:
        pictures: title -> [row, col, 3], of ``over`` or ``style.composite``.
        bounds: in m, one for all or one a title.
        outlines, insets: a title, as in ``large_map``; titles may be missing.
        classes, north: as in ``large_map``.

    Raises:
        GlacierError: a detail lies outside its map.
    """
    boxes = {name: bounds if isinstance(bounds, tuple) else bounds[name] for name in pictures}
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    ratio = max(np.clip((box[3] - box[1]) / (box[2] - box[0]), 0.4, 1.6) for box in boxes.values())
    panel = 10.5 / columns
    figure, axes = plt.subplots(
        rows, columns, figsize=(10.5, rows * ((panel - 0.8) * ratio + 0.75) + 0.35), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax in axes.ravel()[len(pictures) :]:
        ax.axis("off")
    known: dict[str, gpd.GeoDataFrame] = {}
    for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        tables = _named((outlines or {}).get(name))
        known |= tables
        _draw(ax, picture, boxes[name], tables, 0.6)
        map_axes(ax, name, scale_bar=True)
        if north:
            north_arrow(ax)
        part = (insets or {}).get(name)
        if part:
            corner = _free_corner(boxes[name], part)
            small = ax.inset_axes([corner[0], corner[1], 0.36, 0.36], anchor=corner[2])
            _detail(ax, small, picture, boxes[name], part, tables)
            small.set_aspect("equal")
            small.set(xticks=[], yticks=[])
            _scale(small, 6.5)
    _legend(figure, known, classes)
    return figure


def matches_map(
    polygons: gpd.GeoDataFrame,
    glaciers: gpd.GeoDataFrame,
    bounds: Bounds,
    *,
    picture: np.ndarray | None = None,
    title: str = "",
    north: bool = True,
) -> Figure:
    """Show predicted polygons coloured by what they were matched with, over the inventory.

    Args:
        polygons, glaciers: of ``matching.Matches``.
        bounds: of the map in m.
        picture: [row, col, 3], drawn beneath in grey, so that colours mean kinds alone.
    """
    if picture is not None:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    ratio = float(np.clip((bounds[3] - bounds[1]) / (bounds[2] - bounds[0]), 0.4, 1.3))
    figure, ax = plt.subplots(figsize=(8.5, 7.6 * ratio + 1.6), layout="compressed")
    _draw(ax, picture, bounds, {})
    handles = []
    for kind, colour in KIND_COLOURS.items():
        own = polygons[polygons["kind"] == kind]
        if len(own):
            style = {"facecolor": colour, "alpha": 0.75, "edgecolor": "black", "linewidth": 0.4}
            _in_km(own).plot(ax=ax, aspect=None, **style)
            handles.append(Patch(label=f"{kind} ({len(own)})", **style))
    missed = glaciers["kind"] == "missed"
    for own, colour, line, width, label in (
        (glaciers[~missed], "black", "-", 0.9, "outline of the inventory"),
        (glaciers[missed], MISSED_COLOUR, "--", 1.4, f"missed outline ({int(missed.sum())})"),
    ):
        if len(own):
            style = {"color": colour, "linestyle": line, "linewidth": width}
            _in_km(own).boundary.plot(ax=ax, aspect=None, **style)
            handles.append(Line2D([], [], label=label, **style))
    map_axes(ax, title, scale_bar=True)
    if north:
        north_arrow(ax)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9,
        title="predicted polygons", title_fontsize=9,
    )  # fmt: skip
    return figure


def north_arrow(ax: Axes) -> None:
    """Mark the grid's north, which is up on every grid here, in the upper left corner."""
    ax.text(
        0.02, 0.98, "▲\ngrid N", transform=ax.transAxes, ha="left", va="top",
        multialignment="center", fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 2.5},
    )  # fmt: skip


def _named(
    outlines: gpd.GeoDataFrame | Mapping[str, gpd.GeoDataFrame] | None,
) -> dict[str, gpd.GeoDataFrame]:
    if outlines is None:
        return {}
    if isinstance(outlines, gpd.GeoDataFrame):
        return {"predicted outline": outlines}
    return dict(outlines)


def _in_km(table: gpd.GeoDataFrame) -> gpd.GeoSeries:
    """Return the shapes in km, without a CRS, of which geopandas would write its own labels."""
    shapes = table.geometry.set_crs(None, allow_override=True)
    return shapes.affine_transform([1e-3, 0, 0, 1e-3, 0, 0])


def _draw(
    ax: Axes,
    picture: np.ndarray | None,
    bounds: Bounds,
    tables: Mapping[str, gpd.GeoDataFrame],
    width: float = 0.9,
) -> None:
    """Draw a picture and outlines in km, no more pixels than can be seen."""
    extent = extent_km(bounds)
    if picture is not None:
        step = -(-max(picture.shape[:2]) // _DRAWN)
        ax.imshow(np.clip(picture[::step, ::step], 0, 1), extent=extent)
    dark = [patheffects.withStroke(linewidth=2.2 * width, foreground="black")]
    for colour, table in zip(_LINES, tables.values(), strict=False):
        if len(table):
            _in_km(table).boundary.plot(
                ax=ax, color=colour, linewidth=width, path_effects=dark, aspect=None
            )
    # Geopandas writes labels of its own.
    ax.set(xlim=extent[:2], ylim=extent[2:], xlabel="", ylabel="")


def _detail(
    main: Axes,
    ax: Axes,
    picture: np.ndarray,
    bounds: Bounds,
    part: Bounds,
    tables: Mapping[str, gpd.GeoDataFrame],
) -> None:
    """Draw a part of the map into ``ax`` from all its pixels, and its box on the map."""
    height, width = picture.shape[:2]
    xmin, ymin, xmax, ymax = bounds
    dx, dy = (xmax - xmin) / width, (ymax - ymin) / height
    # A hair of tolerance: bounds that follow the pixels must not take in the next ones.
    cols = [int(np.floor((part[0] - xmin) / dx + 1e-6)), int(np.ceil((part[2] - xmin) / dx - 1e-6))]
    rows = [int(np.floor((ymax - part[3]) / dy + 1e-6)), int(np.ceil((ymax - part[1]) / dy - 1e-6))]
    left, right = np.clip(cols, 0, width)
    top, bottom = np.clip(rows, 0, height)
    if left >= right or top >= bottom:
        raise GlacierError(
            f"detail {tuple(round(value) for value in part)}: lies outside the map, whose bounds "
            f"are {tuple(round(value) for value in bounds)}; give metres in the map's CRS"
        )
    box = (xmin + left * dx, ymax - bottom * dy, xmin + right * dx, ymax - top * dy)
    _draw(ax, picture[top:bottom, left:right], box, tables)
    x, y = box[0] / 1000, box[1] / 1000
    size = ((box[2] - box[0]) / 1000, (box[3] - box[1]) / 1000)
    frame = {"fill": False, "edgecolor": DETAIL_COLOUR, "linewidth": 1.6}
    halo = [patheffects.withStroke(linewidth=3.2, foreground="white")]
    main.add_patch(Rectangle((x, y), *size, path_effects=halo, **frame))
    for spine in ax.spines.values():
        spine.set(edgecolor=DETAIL_COLOUR, linewidth=1.6)


def _locate(ax: Axes, areas: Mapping[str, Bounds], bounds: Bounds) -> None:
    """Draw where the areas lie, this map's filled."""
    boxes = np.array([*areas.values(), bounds]) / 1000
    reach = max(np.ptp(boxes[:, [0, 2]]), np.ptp(boxes[:, [1, 3]]))
    for name, box in areas.items():
        left, bottom, right, top = np.array(box) / 1000
        own = np.allclose(box, bounds)
        ax.add_patch(
            Rectangle((left, bottom), right - left, top - bottom, edgecolor="#0072b2",
                      facecolor="#56b4e9" if own else "none", linewidth=1.2)
        )  # fmt: skip
        ax.text((left + right) / 2, top + 0.03 * reach, plain(name), ha="center", fontsize=8)
    middle = [(boxes[:, i].min() + boxes[:, i + 2].max()) / 2 for i in (0, 1)]
    ax.set(
        xlim=(middle[0] - 0.65 * reach, middle[0] + 0.65 * reach),
        ylim=(middle[1] - 0.65 * reach, middle[1] + 0.65 * reach),
    )
    map_axes(ax, "where the areas lie", labels=False)
    ax.locator_params(nbins=3)
    ax.tick_params(labelsize=7)
    _scale(ax, 7)


def _legend(figure: Figure, tables: Mapping[str, gpd.GeoDataFrame], classes: bool) -> None:
    shown = {"glacier": "mapped as glacier", "unknown": "unknown"} if classes else {}
    handles: list = [
        Patch(facecolor=CLASS_COLOURS[name], edgecolor="#555", label=text)
        for name, text in shown.items()
    ]
    dark = [patheffects.withStroke(linewidth=2.4, foreground="black")]
    handles += [
        Line2D([], [], color=colour, linewidth=1.2, path_effects=dark, label=plain(name))
        for colour, name in zip(_LINES, tables, strict=False)
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8,
                      frameon=False)  # fmt: skip


def _free_corner(bounds: Bounds, part: Bounds) -> tuple[float, float, str]:
    """Return where an inset goes: upper right or lower left, the farther from the detail."""
    x = ((part[0] + part[2]) / 2 - bounds[0]) / (bounds[2] - bounds[0])
    y = ((part[1] + part[3]) / 2 - bounds[1]) / (bounds[3] - bounds[1])
    return (0.63, 0.63, "NE") if x + y < 1 else (0.01, 0.01, "SW")


def _scale(ax: Axes, size: float) -> None:
    ax.add_artist(
        ScaleBar(1, "km", location="lower right", box_alpha=0.8, font_properties={"size": size})
    )


def _size(bounds: Bounds) -> str:
    return f"{(bounds[2] - bounds[0]) / 1000:.3g} x {(bounds[3] - bounds[1]) / 1000:.3g} km"


# Class codes 0, 1, 2, 255 of a cloud mask; the difference of two masks has codes of its own.
CLOUD_COLOURS = {
    "clear": "#efece4",
    "cloud": "#0072b2",
    "cloud shadow": "#e69f00",
    "not assessed": "#7f7f7f",
}


def cloud_comparison(
    picture: np.ndarray, masks: Mapping[str, np.ndarray], bounds: Bounds
) -> Figure:
    """Show a picture, two cloud masks, and where they differ on cloud.

    Args:
        picture: [row, col, 3], from `style.composite`.
        masks: title -> codes [row, col] of two masks (0 clear, 1 cloud, 2 shadow, 255).
        bounds: (xmin, ymin, xmax, ymax) in m.
    """
    (one, first), (other, second) = masks.items()
    differing = {
        "neither cloud": "#efece4",
        "cloud in both": "#0072b2",
        f"cloud in {one} only": "#d55e00",
        f"cloud in {other} only": "#cc79a7",
        "not assessed in one": "#7f7f7f",
    }
    extent = extent_km(bounds)
    figure, axes = plt.subplots(2, 2, figsize=(9, 10), layout="constrained")
    for ax, title in zip(axes.ravel(), ("true colour", one, other, "difference"), strict=True):
        map_axes(ax, title, scale_bar=True)
    axes[0, 0].imshow(picture, extent=extent)
    for ax, codes in ((axes[0, 1], first), (axes[1, 0], second)):
        code_panel(ax, codes, CLOUD_COLOURS, (0, 1, 2, 255), extent=extent)
    code_panel(axes[1, 1], difference(first, second), differing, range(5), extent=extent)
    only = [Patch(facecolor=differing[name], edgecolor="#555", label=name)
            for name in differing if name.endswith("only")]  # fmt: skip
    class_legend(figure, CLOUD_COLOURS, only)
    return figure


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return 0 cloud in neither, 1 in both, 2 in ``one`` only, 3 in ``other`` only, 4 unknown."""
    first, second = one == CLOUD, other == CLOUD
    codes = np.select([first & second, first, second], [1, 2, 3], 0)
    return np.where((one == UNKNOWN) | (other == UNKNOWN), 4, codes).astype(np.uint8)
