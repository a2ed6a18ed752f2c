"""The interactive map: two dates to swipe between, layers to switch, one HTML file.

It opens from disk without a server and is complete without a network; only the optional basemap,
off until a reader switches it on, is fetched. Arrays and tables in, a file out.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import folium
from folium.template import Template
from folium.utilities import JsCode
from matplotlib.colors import to_hex

from glacier_utils.files import write_text
from glacier_utils.grids import Grid
from glacier_utils.inline import bare_map, named, page, verbatim
from glacier_utils.mercator import Frame, web_frame
from glacier_utils.weblayers import (
    Classes,
    Content,
    Layer,
    Outlines,
    Picture,
    Values,
    change_map,
    class_map,
    error_map,
    features,
    image,
    legend,
    uncertainty_map,
)

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
