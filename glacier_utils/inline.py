"""One HTML file from a folium map, with all that it needs inside and nothing fetched."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib.resources import files
from urllib.parse import urlsplit

import folium

from glacier_utils.mercator import data_uri

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
