"""The interactive map: where things land on it, what it lets in, how it behaves in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import geopandas as gpd
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import rasterio.features
import screenshots
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from pyproj import Transformer
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.plotting import style, webmap
from glacier_utils.plotting.webmap import (
    RADIUS_M,
    Classes,
    Layer,
    Outlines,
    Picture,
    Values,
    web_frame,
    write_map,
)
from glacier_utils.raster.grid import Grid

SIZE = 64
GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 450_000, 0, -10, 6_780_000), SIZE, SIZE)
SCRIPT, CLOSING = "<script>alert(1)</script>", "</script><b>bold</b>"
QUOTES = 'O\'Brien "q" `tick` ${1} {{ 7*7 }} {% x %} <img src=x onerror=alert(1)> &amp;'
HOSTILE = (SCRIPT, CLOSING, QUOTES, "line\u2028paragraph\u2029end")


def picture(colour):
    return Picture(np.full((SIZE, SIZE, 3), colour, np.uint8))


def glaciers(names=HOSTILE, grid=GRID):
    """One square a name, in the four quarters of the grid."""
    corners = [(100, 400), (400, 400), (100, 100), (400, 100)]
    xmin, ymin, _, _ = grid.bounds
    shapes = [shapely.box(xmin + x, ymin + y, xmin + x + 150, ymin + y + 150) for x, y in corners]
    return gpd.GeoDataFrame(
        {"name": names, "area_km2": 0.0225, "unsure": [0.004, np.nan, None, 0.001]},
        geometry=shapes,
        crs=grid.crs,
    )


def hostile_layers():
    table = Outlines(
        glaciers(), {"area_km2": f"Area {SCRIPT}", "name": CLOSING}, title="name",
        plus_minus={"area_km2": "unsure"},
    )  # fmt: skip
    return [
        Layer(SCRIPT, picture((200, 0, 0)), picture((0, 0, 200)), shown=True),
        Layer(QUOTES, Values(np.ones(GRID.shape), CLOSING)),
        Layer(CLOSING, Classes(np.ones(GRID.shape), {SCRIPT: "red", QUOTES: "blue"}, (0, 1))),
        Layer("glaciers", table, shown=True),
    ]


def hostile_map(path):
    return write_map(
        path, GRID, hostile_layers(), title=f"{QUOTES}{CLOSING}", dates=(SCRIPT, QUOTES),
        notes=[SCRIPT, CLOSING],
    )  # fmt: skip


class Tags(HTMLParser):
    """The tags of a page with what they hold."""

    def __init__(self, path):
        super().__init__()
        self.found = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def count(self, name):
        return sum(tag == name for tag, _ in self.found)


def content(path):
    """What the page's script reads."""
    text = path.read_text(encoding="utf-8")
    start = '<script type="application/json" id="content">'
    return json.loads(text.partition(start)[2].partition("</script>")[0])


def images_of(path):
    """The pictures inside a map, in the order of the script."""
    uris = re.findall(r'"data:image/(?:png|webp);base64,([^"]+)"', path.read_text("utf-8"))
    return [PIL.Image.open(io.BytesIO(base64.b64decode(uri))) for uri in uris]


# Where things land


@settings(max_examples=40)
@given(
    zone=st.integers(1, 60),
    south=st.booleans(),
    northing=st.integers(1_000_000, 9_000_000),
    easting=st.integers(250_000, 740_000),
    row=st.integers(0, 36),
    col=st.integers(0, 46),
)
def test_a_pixel_lands_on_its_longitude_and_latitude(zone, south, northing, easting, row, col):
    crs = CRS.from_epsg((32700 if south else 32600) + zone)
    grid = Grid(crs, Affine(10, 0, easting, 0, -10, northing), 40, 50)
    codes = np.ones(grid.shape, np.uint8)
    codes[row : row + 4, col : col + 4] = 2
    frame = web_frame(grid, 1600)
    warped = frame.warp(codes)
    rows, cols = np.nonzero(warped == 2)
    found = np.array(frame.grid.transform @ (cols.mean() + 0.5, rows.mean() + 0.5))
    # pyproj's own EPSG:3857, which knows nothing of the frame's meridian.
    to_web = Transformer.from_crs(crs, "EPSG:3857", always_xy=True)
    expected = np.array(to_web.transform(*(grid.transform @ (col + 2, row + 2))))
    expected[0] -= RADIUS_M * np.radians(frame.meridian)
    world = 2 * np.pi * RADIUS_M
    expected[0] = (expected[0] + world / 2) % world - world / 2
    assert np.abs(found - expected).max() < frame.grid.transform.a / 2


def test_the_corners_are_those_of_epsg_3857():
    frame = web_frame(GRID, 1600)
    (south, west), (north, east) = frame.corners
    to_web = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)
    shift = RADIUS_M * np.radians(frame.meridian)
    xmin, ymin, xmax, ymax = frame.grid.bounds
    assert to_web.transform(west, south) == pytest.approx((xmin + shift, ymin), abs=0.01)
    assert to_web.transform(east, north) == pytest.approx((xmax + shift, ymax), abs=0.01)
    # The whole scene is inside.
    degrees = Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True)
    x, y = GRID.transform @ (np.array([0, 0, SIZE, SIZE]), np.array([0, SIZE, 0, SIZE]))
    longitude, latitude = degrees.transform(x, y)
    assert west <= longitude.min() < longitude.max() <= east
    assert south <= latitude.min() < latitude.max() <= north


def test_outlines_run_along_the_edges_of_the_classes():
    y, x = np.indices(GRID.shape)
    mask = ((x - 30) ** 2 + (y - 25) ** 2 < 300) | (x + y > 105)
    frame = web_frame(GRID, 1600)
    warped = frame.warp(1 + mask.astype(np.uint8))
    found = rasterio.features.shapes(mask.astype(np.uint8), mask, transform=GRID.transform)
    outlines = gpd.GeoSeries([shapely.geometry.shape(shape) for shape, _ in found], crs=GRID.crs)
    degrees = frame.outlines(outlines)
    web = gpd.GeoSeries(degrees, crs=4326).to_crs(frame.grid.crs)
    drawn = rasterio.features.rasterize(web, frame.grid.shape, transform=frame.grid.transform)
    rows, cols = np.nonzero((drawn == 1) != (warped == 2))
    centres = shapely.points(*(frame.grid.transform @ (cols + 0.5, rows + 0.5)))
    rim = shapely.union_all(web.boundary.to_numpy())
    # The nearest pixel is off by half a diagonal at most, thinning adds a quarter of a pixel.
    limit = (np.sqrt(0.5) + 0.25) * frame.grid.transform.a
    assert shapely.distance(centres, rim).max(initial=0) < limit
    assert (warped == 2).sum() * frame.grid.transform.a**2 == pytest.approx(
        web.area.sum(), rel=0.03
    )


def test_a_scene_across_the_antimeridian_stays_in_one_piece():
    x, y = Transformer.from_crs(4326, 32660, always_xy=True).transform(180, 67)
    grid = Grid(CRS.from_epsg(32660), Affine(100, 0, x - 3000, 0, -100, y + 3000), 60, 60)
    frame = web_frame(grid, 1600)
    (_, west), (_, east) = frame.corners
    assert west < 180 < east < west + 1
    shapes = frame.outlines(gpd.GeoSeries([grid.box], crs=grid.crs))
    xmin, _, xmax, _ = shapely.total_bounds(shapes)
    assert west - 1e-6 <= xmin < 180 < xmax <= east + 1e-6


@pytest.mark.parametrize("epsg", [4326, 3413, 3857])
def test_other_projections_are_warped_as_well(epsg):
    crs = CRS.from_epsg(epsg)
    pixel = 0.001 if epsg == 4326 else 100
    centre = Transformer.from_crs(4326, crs, always_xy=True).transform(-45.3, 61.1)
    grid = Grid(crs, Affine(pixel, 0, centre[0], 0, -pixel, centre[1]), 30, 30)
    codes = np.ones(grid.shape, np.uint8)
    codes[:1, :1] = 2
    frame = web_frame(grid, 200)
    rows, cols = np.nonzero(frame.warp(codes) == 2)
    x, y = frame.grid.transform @ (cols + 0.5, rows + 0.5)
    longitude, latitude = frame.degrees(x.mean(), y.mean())
    assert (longitude, latitude) == pytest.approx((-45.3, 61.1), abs=0.003)


def test_large_scenes_are_drawn_coarser_and_values_averaged():
    frame = web_frame(GRID, 16)
    assert max(frame.grid.shape) == 16
    stripes = np.tile([0.0, 1.0], (SIZE, SIZE // 2))
    drawn = frame.warp(stripes)[4:-4, 4:-4]
    assert np.abs(drawn - 0.5).max() < 0.2
    unknown = np.where(np.arange(SIZE) < 32, np.nan, 1)[None].repeat(SIZE, 0)
    drawn = frame.warp(unknown)
    assert np.isnan(drawn[4:-4, 2:6]).all()
    assert (drawn[4:-4, 10:14] == 1).all()


# What is in the file


def test_classes_keep_their_colours(tmp_path):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[:32], mask[48:] = 1, 255
    path = write_map(tmp_path / "m.html", GRID, [Layer("map", webmap.class_map(mask))], title="t")
    (image,) = images_of(path)
    pixels = np.array(image.convert("RGBA"))
    frame = web_frame(GRID, 1600)
    assert pixels.shape[:2] == frame.grid.shape

    def at(row, col):
        x, y = Transformer.from_crs(GRID.crs, frame.grid.crs).transform(
            *(GRID.transform @ (col, row))
        )
        c, r = ~frame.grid.transform @ (x, y)
        return tuple(int(part) for part in pixels[int(r), int(c)])

    glacier, unknown = (
        tuple(bytes.fromhex(style.CLASS_COLOURS[name][1:])) for name in ("glacier", "unknown")
    )
    assert at(16.5, 30.5) == (*glacier, 191)
    assert at(55.5, 30.5) == (*unknown, 191)
    assert at(40.5, 30.5)[3] == 0, "the ground does not show where there is no glacier"
    assert pixels[0, 0, 3] == 0 or pixels[-1, 0, 3] == 0, "outside the turned scene"


def test_pictures_are_clear_where_there_is_no_data(tmp_path):
    valid = np.arange(SIZE)[None].repeat(SIZE, 0) < 32
    red = np.zeros((SIZE, SIZE, 3), np.float32)
    red[..., 0] = 1
    path = write_map(tmp_path / "m.html", GRID, [Layer("a", Picture(red, valid))], title="t")
    (image,) = images_of(path)
    pixels = np.array(image.convert("RGBA")).astype(int)
    middle = pixels[pixels.shape[0] // 2]
    assert (middle[5:25, 3] == 255).all()
    assert (middle[40:, 3] == 0).all()
    assert np.abs(middle[5:25, :3] - [255, 0, 0]).max() < 12


def test_unknown_values_are_clear_and_the_scale_is_right(tmp_path):
    values = np.full(GRID.shape, 0.5)
    values[:, :20], values[:, 44:] = np.nan, 1
    layer = Layer("v", Values(values, "entropy (bits)"))
    (image,) = images_of(write_map(tmp_path / "m.html", GRID, [layer], title="t"))
    middle = np.array(image.convert("RGBA")).astype(int)[image.height // 2]
    assert (middle[5:15, 3] == 0).all()
    for part, value in ((middle[28:38], 0.5), (middle[50:60], 1.0)):
        colour = np.rint(255 * np.array(colormaps["plasma"](value)[:3]))
        assert np.abs(part[:, :3] - colour).max() <= 2
        assert np.abs(part[:, 3] - 0.9 * 255).max() <= 1


def test_uncertainty_is_the_entropy_in_bits():
    found = webmap.uncertainty_map(np.array([[0, 0.5, 1, 0.11, np.nan]])).values[0]
    assert found[:4] == pytest.approx([0, 1, 0, 0.5], abs=1e-3)
    assert np.isnan(found[4])


def test_errors_and_changes_have_the_colours_of_the_figures():
    prediction, label = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 255]])
    found = webmap.error_map(prediction, label)
    names = [list(found.colours)[found.values.index(code)] for code in found.codes[0]]
    assert names == ["hit", "false alarm", "miss", "unknown"]
    assert webmap.change_map(prediction).colours == style.CHANGE_COLOURS
    assert {*found.clear, *webmap.change_map(prediction).clear} <= {
        *style.ERROR_COLOURS, *style.CHANGE_COLOURS
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.34567, "12.35"), (12345.6, "12350"), (0.000123456, "0.0001235"), (3.0, "3"),
        (7, "7"), (np.int64(123456), "123456"), (np.float32(0.5), "0.5"),
        (float("inf"), "not known"),
        (None, "not known"), (np.nan, "not known"), (pd.NaT, "not known"), ("", "not known"),
        (pd.Timestamp("2023-08-13 14:00"), "2023-08-13"), (" a\u2028b\u202e\n c ", "a b c"),
    ],
)  # fmt: skip
def test_values_become_words(value, text):
    assert webmap._words(value) == text


def test_nothing_is_fetched_and_no_name_becomes_code(tmp_path):
    path = hostile_map(tmp_path / "m.html")
    tags = Tags(path)
    # The layers as data, Leaflet, and the project's own script.
    assert tags.count("script") == 3
    assert [attrs["href"] for tag, attrs in tags.found if tag == "link"] == ["data:,"]
    assert {"img", "b", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in tags.found)
    for _, attrs in tags.found:
        assert "src" not in attrs
        assert not [name for name in attrs if name.startswith("on")]
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"url\(\s*['\"]?(?!data:|#default)", text)
    assert "@import" not in text
    assert "{{ 7*7 }}" in text.replace("\\u0027", "'"), "a name went through a template"
    assert "\u2028" not in text
    for host in ("jsdelivr", "jquery", "bootstrap", "cloudflare"):
        assert host not in text
    assert "Redistribution and use in source and binary forms" in text


def test_the_same_map_twice_is_the_same_file(tmp_path):
    one, two = (hostile_map(tmp_path / name) for name in ("a.html", "b.html"))
    assert one.read_bytes() == two.read_bytes()


def test_maps_without_swipe_or_outlines(tmp_path):
    layers = [
        Layer("none", Outlines(glaciers().iloc[:0], {"name": "Name"})),
        Layer("a picture", picture((1, 2, 3))),
    ]
    path = write_map(tmp_path / "m.html", GRID, layers, title="t")
    found = content(path)["layers"]
    assert [part["side"] for layer in found for part in layer["parts"]] == ["both", "both"]
    assert found[0]["parts"][0]["features"] == []


def faulty(**changes):
    call = {"grid": GRID, "layers": [Layer("a", picture((0, 0, 0)))], **changes}
    return call.pop("grid"), call.pop("layers")


NO_CRS = Grid(None, GRID.transform, SIZE, SIZE)
POLE = Grid(CRS.from_epsg(3413), Affine(1000, 0, -32_000, 0, -1000, 32_000), SIZE, SIZE)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (faulty(grid=NO_CRS), "have no CRS"),
        (faulty(grid=POLE), "ends at 85.05 degrees"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(tmp_path, case, message):
    with pytest.raises(GlacierError, match=message):
        write_map(tmp_path / "m.html", *case, title="t")
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_does_not_fit_is_refused(tmp_path):
    layer = Layer("mask", webmap.class_map(np.zeros((3, 4), np.uint8)))
    with pytest.raises(ValueError, match=r"an array of \(3, 4\)"):
        write_map(tmp_path / "m.html", GRID, [layer], title="t")
    assert list(tmp_path.iterdir()) == []


# In the browser


@pytest.fixture
def chromium():
    """Skip where there is no browser."""
    found, reason = screenshots.find_browser()
    if found is None:
        pytest.skip(reason)


RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.fixture
def two_dates(tmp_path):
    """A map that is red in July and blue in August."""
    mask = np.ones(GRID.shape, np.uint8)
    layers = [
        Layer("Image", picture(RED), picture(BLUE), shown=True),
        Layer("Predicted", webmap.class_map(mask)),
        Layer("Outlines", Outlines(glaciers(), {"area_km2": "Area (km²)"}, title="name",
                                   plus_minus={"area_km2": "unsure"}), shown=True),
    ]  # fmt: skip
    return write_map(tmp_path / "two.html", GRID, layers, title="t", dates=("July", "August"))


def colours(page, *places):
    """The colours (red, green, blue) of the page's pixels (x, y)."""
    page.evaluate(screenshots.DRAWN)
    image = PIL.Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return [image.getpixel(place) for place in places]


def near(colour, expected):
    return max(abs(a - b) for a, b in zip(colour, expected, strict=True)) < 25


def layer_box(page, name):
    labels = page.locator(".leaflet-control-layers-overlays label")
    return labels.filter(has_text=name).locator("input")


def divider(page):
    box = page.locator(".swipe-line").bounding_box()
    return box["x"] + box["width"] / 2


ANYWHERE = re.compile("^https?://")


def answer_none(page, asked):
    """Keep the addresses that a page asks a network for, and give it nothing."""
    page.route(ANYWHERE, lambda route: (asked.append(route.request.url), route.abort()))


def swipe_to(page, share):
    page.locator(".swipe-range").fill(str(round(share * 1000)))


def test_it_opens_without_errors_or_requests(chromium, tmp_path):
    with screenshots.open_page(hostile_map(tmp_path / "m.html")) as page:
        dialogs = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        for box in page.locator(".leaflet-control-layers-overlays input").all()[:-1]:
            box.click()
        page.wait_for_timeout(200)
        shown = page.locator(".leaflet-control-layers-overlays").inner_text()
        assert SCRIPT in shown
        assert CLOSING in shown
        assert QUOTES.split()[-2] in shown
        assert SCRIPT in page.locator(".swipe-line span").first.inner_text()
        assert page.title() == f"{QUOTES}{CLOSING}"
        assert page.locator("h1").inner_text() == f"{QUOTES}{CLOSING}"
        assert page.locator("b, .leaflet-container img[src=x]").count() == 0
        assert page.locator(".leaflet-control-scale-line").inner_text().endswith("m")
        assert "North is up." in page.locator(".legend").inner_text()
        assert dialogs == []
        assert page.problems == []


@pytest.mark.slow
def test_the_swipe_moves_by_hand_and_keyboard(chromium, two_dates):
    with screenshots.open_page(two_dates, width=1000, height=700) as page:
        # The scene's middle is that of the map left of the list of layers.
        start = divider(page)
        inside = [(int(start) - 60, 390), (int(start) + 60, 390)]
        left, right = colours(page, *inside)
        assert near(left, RED)
        assert near(right, BLUE)
        thumb = page.locator(".swipe-range").bounding_box()
        middle = thumb["y"] + thumb["height"] / 2
        before = page.locator(".leaflet-map-pane").evaluate("e => e.style.transform")
        page.mouse.move(start, middle)
        page.mouse.down()
        page.mouse.move(start + 150, middle, steps=5)
        page.mouse.up()
        assert abs(divider(page) - start - 150) < 3
        assert all(near(colour, RED) for colour in colours(page, *inside))
        # The map stays where it is while the divider is dragged.
        assert page.locator(".leaflet-map-pane").evaluate("e => e.style.transform") == before
        page.locator(".swipe-range").focus()
        page.keyboard.press("Home")
        assert abs(divider(page)) < 3
        assert all(near(colour, BLUE) for colour in colours(page, *inside))
        page.keyboard.press("ArrowRight")
        assert 0 < divider(page) < 5
        assert page.locator(".swipe-range").get_attribute("aria-valuetext") == "0 %"
        assert page.problems == []


@pytest.mark.slow
def test_the_divider_holds_while_the_map_moves_and_zooms(chromium, two_dates):
    with screenshots.open_page(two_dates, width=1000, height=700) as page:
        start = divider(page)
        page.mouse.move(300, 300)
        page.mouse.down()
        page.mouse.move(340, 320, steps=4)
        page.mouse.up()
        page.wait_for_timeout(700)
        page.locator(".leaflet-control-zoom-in").click()
        page.wait_for_timeout(700)
        assert divider(page) == pytest.approx(start, abs=1)
        left, right = colours(page, (int(start) - 8, 250), (int(start) + 8, 250))
        assert near(left, RED)
        assert near(right, BLUE)
        page.set_viewport_size({"width": 600, "height": 500})
        page.wait_for_timeout(300)
        x = int(divider(page))
        assert x == pytest.approx(start * 0.6, abs=2)
        left, right = colours(page, (x - 8, 200), (x + 8, 200))
        assert near(left, RED)
        assert near(right, BLUE)


@pytest.mark.slow
def test_layers_come_and_go_with_their_legend(chromium, two_dates):
    with screenshots.open_page(two_dates, width=1000, height=700) as page:
        place = (int(divider(page)) - 60, 390)
        legend = page.locator(".legend")
        assert page.locator("path.leaflet-interactive").count() == 4
        assert "glacier" not in legend.inner_text().replace("glaciers", "").split()
        layer_box(page, "Predicted").click()
        (mixed,) = colours(page, place)
        ice = bytes.fromhex(style.CLASS_COLOURS["glacier"][1:])
        expected = [0.75 * a + 0.25 * b for a, b in zip(ice, RED, strict=True)]
        assert near(mixed, expected)
        assert "glacier" in legend.inner_text().split()
        layer_box(page, "Predicted").click()
        assert near(colours(page, place)[0], RED)
        assert "glacier" not in legend.inner_text().split()
        layer_box(page, "Image").click()
        assert min(colours(page, place)[0]) > 200, "the background"
        # Switched on again, the image is below the outlines as before.
        layer_box(page, "Image").click()
        layer_box(page, "Outlines").click()
        assert page.locator("path.leaflet-interactive").count() == 0
        assert page.problems == []


@pytest.mark.slow
def test_a_click_tells_of_the_glacier_in_plain_text(chromium, two_dates):
    with screenshots.open_page(two_dates, width=1000, height=700) as page:
        paths = page.locator("path.leaflet-interactive")
        seen = []
        for place in range(4):
            box = paths.nth(place).bounding_box()
            page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.25)
            popup = page.locator(".leaflet-popup-content").last
            popup.wait_for()
            seen.append((popup.locator("h2").inner_text(), popup.locator("td").inner_text()))
            page.keyboard.press("Escape")
            page.wait_for_timeout(400)
        assert seen == [
            (SCRIPT, "0.0225 ± 0.004"),
            (CLOSING, "0.0225"),
            (" ".join(QUOTES.split()), "0.0225"),
            ("line paragraph end", "0.0225 ± 0.001"),
        ]
        assert page.locator(".leaflet-popup-content :is(b, img, script)").count() == 0
        assert page.problems == []


@pytest.mark.slow
def test_outlines_that_lie_on_each_other_are_both_told_of(chromium, tmp_path):
    names = ("one", "two", "three", "four")
    layers = [
        Layer("Inventory", Outlines(glaciers(names), {}, title="name"), shown=True),
        Layer("July, August", Outlines(glaciers(names), {}, title="name"),
              Outlines(glaciers([f"{name}!" for name in names]), {}, title="name"), shown=True),
    ]  # fmt: skip
    path = write_map(tmp_path / "m.html", GRID, layers, title="t")
    with screenshots.open_page(path, width=1000, height=700) as page:
        swipe_to(page, 0)
        box = page.locator("path.leaflet-interactive").first.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        popup = page.locator(".leaflet-popup-content")
        popup.wait_for()
        # What the swipe hides is not hit.
        assert popup.locator("h2").all_inner_texts() == ["one!", "one"]
        assert popup.locator(".layer").all_inner_texts() == ["July, August", "Inventory"]


@pytest.mark.slow
def test_tiles_are_asked_for_only_when_switched_on(chromium, two_dates):
    with screenshots.open_page(two_dates, width=1000, height=700) as page:
        asked = []
        answer_none(page, asked)
        page.locator(".leaflet-control-zoom-out").click()
        page.wait_for_timeout(500)
        assert asked == []
        with page.expect_request(ANYWHERE):
            layer_box(page, "Online map").click()
        page.wait_for_timeout(500)
        assert asked
        assert all(re.match(r"https://[abc]\.tile\.opentopomap\.org/\d+/", url) for url in asked)


@pytest.mark.slow
def test_no_other_script_and_no_other_address_works(chromium, two_dates):
    with screenshots.open_page(two_dates) as page:
        asked = []
        answer_none(page, asked)
        page.evaluate(
            """() => {
                window.hits = [];
                const add = (html) => document.body.insertAdjacentHTML("beforeend", html);
                add('<img src="data:," onerror="hits.push(1)">');
                add('<img src="https://example.org/x.png">');
                document.body.lastChild.addEventListener("error", () => hits.push("refused"));
            }"""
        )
        page.wait_for_function("hits.includes('refused')")
        page.wait_for_timeout(300)
        assert page.evaluate("hits") == ["refused"]
        assert asked == []


@pytest.mark.slow
def test_a_narrow_window_shows_the_map_first(chromium, two_dates):
    with screenshots.open_page(two_dates, width=600, height=700, touch=True) as page:
        assert page.locator(".leaflet-control-layers-overlays").is_hidden()
        assert page.locator(".legend .entry").first.is_hidden()
        page.locator(".legend summary").tap()
        assert page.locator(".legend p").first.is_visible()
        page.locator(".leaflet-control-layers-toggle").tap()
        assert layer_box(page, "Image").is_checked()
        assert page.problems == []
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 600
