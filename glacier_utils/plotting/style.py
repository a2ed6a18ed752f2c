"""Maps: every figure with a place in it. Arrays and tables in, a Matplotlib figure out.

Graphs without a place live in `charts`. Class colours are the same everywhere and keep apart for
readers with any common colour blindness (Okabe & Ito 2008; error colours checked for lightness).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib_scalebar.scalebar import ScaleBar

from glacier_utils.plotting.charts import plain
from glacier_utils.raster.grid import Image
from glacier_utils.raster.indices import band

Bounds = tuple[float, float, float, float]

CLASS_COLOURS = {"not glacier": "#d8d2c4", "glacier": "#56b4e9", "unknown": "#7f7f7f"}
ERROR_COLOURS = {
    "correct, not glacier": "#efece4",
    "hit": "#9ecae9",
    "miss": "#e69f00",
    "false alarm": "#882255",
    "unknown": "#7f7f7f",
}
CHANGE_COLOURS = {
    "not glacier on both": "#efece4",
    "glacier on both": "#9ecae9",
    "lost": "#d55e00",
    "gained": "#0072b2",
    "unknown": "#7f7f7f",
}
SPLIT_COLOURS = {
    "train": "#0072b2",
    "validation": "#e69f00",
    "buffer": "#cccccc",
    "test": "#009e73",
    "dropped": "#000000",
}
OUTLINE_COLOUR = "#f0e442"
BANDS_TRUE = ("red", "green", "blue")
BANDS_FALSE = ("nir", "red", "green")


def composite(
    image: np.ndarray,
    bands: Sequence[str],
    shown: Sequence[str] = BANDS_TRUE,
    *,
    valid: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
) -> np.ndarray:
    """Return three bands as a picture.

    Args:
        image: reflectance [band, row, col].
        bands: the names of the image's bands.
        shown: the bands to show as red, green, blue.
        valid: True where the image holds data [row, col]; the rest is drawn in mid grey.
        limits: reflectance shown as black and white; default the 1st and 99th percentile of the
            valid pixels over the three bands together, so that the hue is kept.

    Returns:
        float32 [row, col, 3] in 0..1, with a gamma of 1/1.4 that opens the shadows.

    Raises:
        GlacierError: a band to show is missing.
    """
    picked = np.stack([band(image, bands, name) for name in shown])
    if valid is None:
        valid = np.any(picked != 0, axis=0)
    if limits is None:
        known = picked[:, valid]
        limits = tuple(np.percentile(known, (1, 99))) if known.size else (0.0, 1.0)
    low, high = limits
    scaled = np.clip((picked - low) / max(high - low, 1e-6), 0, 1) ** (1 / 1.4)
    scaled[:, ~valid] = 0.5
    return np.moveaxis(scaled, 0, -1).astype(np.float32)


def shared_limits(images: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return one pair of display limits for images that are to be compared; (0, 1) for none."""
    known = [image[:, np.any(image != 0, axis=0)].ravel()[::7] for image in images]
    values = np.concatenate([*known, np.empty(0)])
    return tuple(np.percentile(values, (1, 99))) if values.size else (0.0, 1.0)


def pictures(images: Sequence[np.ndarray], bands: Sequence[str]) -> list[np.ndarray]:
    """Return true-colour pictures of several images with one stretch, so that they compare."""
    limits = shared_limits(images)
    return [composite(image, bands, limits=limits) for image in images]


def extent_km(bounds: Bounds) -> tuple[float, float, float, float]:
    """Turn bounds in metres into Matplotlib's extent (left, right, bottom, top) in km."""
    xmin, ymin, xmax, ymax = bounds
    return xmin / 1000, xmax / 1000, ymin / 1000, ymax / 1000


def map_axes(ax: Axes, title: str = "", *, labels: bool = True, scale_bar: bool = False) -> Axes:
    """Give an axes what a map needs: equal axes in km, a title, a scale bar when asked for."""
    ax.set_aspect("equal")
    ax.set_title(plain(title), fontsize=10)
    ax.ticklabel_format(useOffset=False, style="plain")
    ax.tick_params(labelsize=8)
    ax.locator_params(nbins=5)
    if labels:
        ax.set_xlabel("easting (km)", fontsize=9)
        ax.set_ylabel("northing (km)", fontsize=9)
    if scale_bar:
        ax.add_artist(
            ScaleBar(1, "km", location="lower right", box_alpha=0.8, font_properties={"size": 8})
        )
    return ax


def _grid(count: int, columns: int, panel: float, ratio: float = 1.0) -> tuple[Figure, np.ndarray]:
    """Return a figure with ``count`` axes in at most ``columns`` columns, spare axes hidden."""
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    figure, axes = plt.subplots(
        rows,
        columns,
        # A map is as high as it is wide times the ratio; labels and title need the rest.
        figsize=(panel * columns, ((panel - 0.75) * ratio + 0.7) * rows),
        squeeze=False,
        layout="constrained",
    )
    flat = axes.ravel()
    for spare in flat[count:]:
        spare.axis("off")
    return figure, flat[:count]


def _ratio(bounds: Bounds | Mapping[str, Bounds]) -> float:
    """Return height over width of the first map, within what a page can show."""
    if isinstance(bounds, Mapping):
        bounds = next(iter(bounds.values()), (0, 0, 1, 1))
    xmin, ymin, xmax, ymax = bounds
    return float(np.clip((ymax - ymin) / (xmax - xmin), 0.4, 2.0))


def draw_outlines(ax: Axes, outlines: gpd.GeoDataFrame | None, *, colour: str = OUTLINE_COLOUR):
    """Draw glacier outlines (solid) and internal rock (dashed) over a map in km."""
    if outlines is None or outlines.empty:
        return
    scaled = outlines.geometry.affine_transform([1e-3, 0, 0, 1e-3, 0, 0]).boundary
    rock = (
        (outlines["kind"] == "internal_rock").to_numpy()
        if "kind" in outlines
        else np.zeros(len(outlines), dtype=bool)
    )
    for lines, style in ((scaled[~rock], "-"), (scaled[rock], ":")):
        if len(lines):
            lines.plot(ax=ax, color=colour, linewidth=0.8, linestyle=style, aspect=None)


def scenes(
    pictures: Mapping[str, np.ndarray],
    bounds: Bounds | Mapping[str, Bounds],
    *,
    outlines: gpd.GeoDataFrame | Mapping[str, gpd.GeoDataFrame] | None = None,
    columns: int = 2,
    panel: float = 4.6,
) -> Figure:
    """Show pictures (from `composite`) as maps side by side.

    Args:
        pictures: title -> [row, col, 3].
        bounds: (xmin, ymin, xmax, ymax) in m, one for all or one a title.
        outlines: drawn on top, in the maps' CRS; one for all or one a title.
    """
    figure, axes = _grid(len(pictures), columns, panel, _ratio(bounds))
    for ax, (title, picture) in zip(axes, pictures.items(), strict=True):
        box = bounds if isinstance(bounds, tuple) else bounds[title]
        extent = extent_km(box)
        ax.imshow(picture, extent=extent, interpolation="none" if picture.shape[0] < 600 else None)
        draw_outlines(ax, outlines.get(title) if isinstance(outlines, Mapping) else outlines)
        ax.set(xlim=extent[:2], ylim=extent[2:])
        map_axes(ax, title, scale_bar=True)
    return figure


def area_scenes(
    views: Mapping[str, Image], area: str, outlines: gpd.GeoDataFrame | None = None
) -> Figure:
    """Show an area in true and in false colour, a row per date, all with one stretch.

    Args:
        views: date -> image, for example from `exploration.thumbnail`.
        area: its name, for the titles.
        outlines: drawn on top, in the images' CRS.
    """
    limits = shared_limits([image.reflectance for image in views.values()])
    pictures, bounds = {}, {}
    for date, image in views.items():
        for name, shown in (("true colour", BANDS_TRUE), ("false colour", BANDS_FALSE)):
            title = f"{area}, {date}, {name}"
            bounds[title] = image.grid.bounds
            pictures[title] = composite(
                image.reflectance, image.bands, shown, valid=image.valid, limits=limits
            )
    return scenes(pictures, bounds, outlines=outlines)


def coded(
    codes: np.ndarray, colours: Mapping[str, str], values: Sequence[int]
) -> tuple[np.ndarray, ListedColormap, BoundaryNorm]:
    """Return what imshow needs to draw class codes in fixed colours."""
    lookup = np.full(256, len(values) - 1, dtype=np.uint8)
    for position, value in enumerate(values):
        lookup[value] = position
    cmap = ListedColormap(list(colours.values()))
    return lookup[codes], cmap, BoundaryNorm(np.arange(len(values) + 1) - 0.5, len(values))


def error_codes(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return 0 correct background, 1 hit, 2 miss, 3 false alarm, 255 unknown; shapes as given."""
    predicted, reference = prediction == 1, label == 1
    codes = np.select(
        [predicted & reference, ~predicted & reference, predicted & ~reference], [1, 2, 3], 0
    )
    return np.where((label == 255) | (prediction == 255), 255, codes).astype(np.uint8)


def code_panel(ax: Axes, codes: np.ndarray, colours: Mapping[str, str], values, **kwargs) -> None:
    """Draw class codes into an axes; ``kwargs`` go to imshow."""
    drawn, cmap, norm = coded(codes, colours, values)
    ax.imshow(drawn, cmap=cmap, norm=norm, interpolation="nearest", **kwargs)


def class_legend(figure: Figure, colours: Mapping[str, str], extra: Sequence = ()) -> None:
    """Put one legend of classes, and of ``extra`` handles, below a figure."""
    handles = [Patch(facecolor=c, edgecolor="#555", label=name) for name, c in colours.items()]
    figure.legend(
        handles=[*handles, *extra],
        loc="outside lower center",
        ncols=len(handles) + len(extra),
        fontsize=8,
        frameon=False,
    )


def code_maps(
    maps: Mapping[str, np.ndarray],
    bounds: Bounds | Mapping[str, Bounds],
    colours: Mapping[str, str],
    values: Sequence[int],
    *,
    outlines: gpd.GeoDataFrame | Mapping[str, gpd.GeoDataFrame] | None = None,
    columns: int = 2,
    panel: float = 4.6,
) -> Figure:
    """Show maps of class codes in fixed colours with one legend.

    Args:
        maps: title -> uint8 codes [row, col].
        bounds: (xmin, ymin, xmax, ymax) in m, one for all or one a title.
        colours: class name -> colour, in the order of ``values``.
        values: the codes; the last one also stands for every code not named.
        outlines: drawn on top in black; one for all or one a title.
    """
    figure, axes = _grid(len(maps), columns, panel, _ratio(bounds))
    for ax, (title, codes) in zip(axes, maps.items(), strict=True):
        extent = extent_km(bounds if isinstance(bounds, tuple) else bounds[title])
        code_panel(ax, codes, colours, values, extent=extent)
        own = outlines.get(title) if isinstance(outlines, Mapping) else outlines
        draw_outlines(ax, own, colour="black")
        ax.set(xlim=extent[:2], ylim=extent[2:])
        map_axes(ax, title, scale_bar=True)
    extra = (
        [Line2D([], [], color="black", linewidth=0.8, label="outline")]
        if outlines is not None
        else []
    )
    class_legend(figure, colours, extra)
    return figure


def label_maps(maps: Mapping[str, np.ndarray], bounds, **kwargs) -> Figure:
    """Show label maps (0, 1, 255); see `code_maps`."""
    return code_maps(maps, bounds, CLASS_COLOURS, (0, 1, 255), **kwargs)


def error_maps(
    predictions: Mapping[str, np.ndarray],
    labels: np.ndarray | Mapping[str, np.ndarray],
    bounds,
    **kwargs,
) -> Figure:
    """Show hits, misses and false alarms of masks [row, col] against labels; see `code_maps`."""
    codes = {
        title: error_codes(mask, labels[title] if isinstance(labels, Mapping) else labels)
        for title, mask in predictions.items()
    }
    return code_maps(codes, bounds, ERROR_COLOURS, (0, 1, 2, 3, 255), **kwargs)


def change_maps(maps: Mapping[str, np.ndarray], bounds, **kwargs) -> Figure:
    """Show transition maps from `transition.transition`; see `code_maps`."""
    return code_maps(maps, bounds, CHANGE_COLOURS, (0, 1, 2, 3, 255), **kwargs)


def probability_maps(
    maps: Mapping[str, np.ndarray],
    bounds: Bounds | Mapping[str, Bounds],
    *,
    label: str = "glacier probability",
    limits: tuple[float, float] = (0, 1),
    cmap: str = "cividis",
    columns: int = 2,
    panel: float = 4.6,
) -> Figure:
    """Show continuous maps [row, col] with one colour bar; nan is drawn grey."""
    figure, axes = _grid(len(maps), columns, panel, _ratio(bounds))
    colours = plt.get_cmap(cmap).with_extremes(bad=CLASS_COLOURS["unknown"])
    for ax, (title, values) in zip(axes, maps.items(), strict=True):
        extent = extent_km(bounds if isinstance(bounds, tuple) else bounds[title])
        drawn = ax.imshow(values, extent=extent, cmap=colours, vmin=limits[0], vmax=limits[1])
        map_axes(ax, title, scale_bar=True)
    figure.colorbar(drawn, ax=list(axes), label=label, shrink=0.7)
    return figure


def split_map(index: gpd.GeoDataFrame, pictures: Mapping[str, tuple[np.ndarray, Bounds]]) -> Figure:
    """Show where each part of the split lies, over a picture of each area.

    Args:
        index: the patch store's index, one date of it.
        pictures: area -> (picture [row, col, 3], bounds in m).
    """
    figure, axes = _grid(len(pictures), 2, 5.2, 1.0)
    for ax, (area, (picture, bounds)) in zip(axes, pictures.items(), strict=True):
        ax.imshow(picture, extent=extent_km(bounds))
        own = index[index["area"] == area]
        for split, rows in own.groupby("split"):
            boxes = rows.geometry.affine_transform([1e-3, 0, 0, 1e-3, 0, 0])
            colour = SPLIT_COLOURS[split]
            boxes.plot(ax=ax, facecolor=colour, alpha=0.35, aspect=None)
            boxes.boundary.plot(ax=ax, color=colour, linewidth=1.0, aspect=None)
        counts = own["split"].value_counts()
        text = ", ".join(f"{n} {name}" for name, n in counts.items())
        map_axes(ax, f"{area}: {text}", scale_bar=True)
    present = {name: c for name, c in SPLIT_COLOURS.items() if name in set(index["split"])}
    class_legend(figure, present)
    return figure


def area_overview(
    tiles: Mapping[str, gpd.GeoDataFrame], outlines: gpd.GeoDataFrame | None = None
) -> Figure:
    """Show where the areas and their patches lie, in one map.

    Args:
        tiles: area -> patch boxes in a CRS in metres; all are drawn in that of the first.
        outlines: glaciers, in any CRS.
    """
    figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
    palette = dict(zip(tiles, cycle(("#0072b2", "#d55e00", "#009e73", "#cc79a7")), strict=False))
    crs = next(iter(tiles.values())).crs
    if outlines is not None and crs is not None:
        outlines = outlines.to_crs(crs)
    if outlines is not None:
        glaciers = outlines[outlines["kind"] == "glacier"] if "kind" in outlines else outlines
        scaled = glaciers.geometry.affine_transform([1e-3, 0, 0, 1e-3, 0, 0])
        scaled.plot(ax=ax, color=CLASS_COLOURS["glacier"], aspect=None)
    for area, boxes in tiles.items():
        boxes = boxes if boxes.crs is None or crs is None else boxes.to_crs(crs)
        scaled = boxes.geometry.affine_transform([1e-3, 0, 0, 1e-3, 0, 0])
        scaled.boundary.plot(ax=ax, color=palette[area], linewidth=0.7, aspect=None)
        xmin, _, _, ymax = scaled.total_bounds
        ax.annotate(
            f"{plain(area)} ({len(boxes)} patches)",
            (xmin, ymax),
            xytext=(0, 4),
            textcoords="offset points",
            color=palette[area],
            weight="bold",
            # Outlines may go on beyond the patches, under the name.
            path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
        )
    ax.margins(0.08)
    map_axes(ax, scale_bar=True)
    if outlines is not None:
        class_legend(figure, {"glacier outlines": CLASS_COLOURS["glacier"]})
    return figure
