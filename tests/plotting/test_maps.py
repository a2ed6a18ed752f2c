"""Maps: that each is drawn in km, with its scale and its legend; large maps with their details."""

from __future__ import annotations

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import pytest
import shapely
from affine import Affine
from drawing import ODD, drawn, legend
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib_scalebar.scalebar import ScaleBar
from outline_shapes import TWO, UTM, box, inventory, predicted
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.outlines import matching
from glacier_utils.plotting import maps, style
from glacier_utils.raster.grid import Grid

pytestmark = pytest.mark.usefixtures("offscreen")

BOUNDS = (500_000.0, 6_799_600.0, 500_900.0, 6_800_000.0)  # 40 rows, 90 columns of 10 m
SHAPE = (40, 90)


def shown(figure: Figure) -> list:
    """Axes that hold something, without colour bars."""
    return [ax for ax in figure.axes if ax.axison and ax.get_label() != "<colorbar>"]


def codes(*values: int) -> np.ndarray:
    return np.resize(np.array(values, np.uint8), SHAPE)


def outlines(**columns) -> gpd.GeoDataFrame:
    """A glacier of two parts with a name that Matplotlib could misread, and a rock in it."""
    glacier = shapely.box(500_100, 6_799_700, 500_400, 6_799_900)
    parts = shapely.MultiPolygon([glacier, shapely.box(500_500, 6_799_700, 500_600, 6_799_900)])
    rock = shapely.box(500_200, 6_799_750, 500_300, 6_799_800)
    content = {"kind": ["glacier", "internal_rock"], "name": [ODD, "$"], **columns}
    return gpd.GeoDataFrame(content, geometry=[parts, rock], crs="EPSG:32623")


def random_picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((*SHAPE, 3)).astype(np.float32)


def assert_map(ax) -> None:
    assert ax.get_xlabel() == "easting (km)"
    assert ax.get_ylabel() == "northing (km)"
    assert ax.get_aspect() == 1
    assert [type(artist).__name__ for artist in ax.artists] == ["ScaleBar"]


@pytest.mark.parametrize("count", [1, 4])
def test_patch_gallery(count):
    squares = [random_picture()[:16, :16]] * count
    titles = [f"best, IoU {number}" for number in range(count)]
    figure = drawn(maps.patch_gallery(squares, titles, columns=3, note="windows of 16 px"))
    assert [ax.get_title() for ax in figure.axes if ax.get_images()] == titles
    assert figure.get_suptitle() == "windows of 16 px"
    both = drawn(maps.patch_gallery(squares, titles, codes=[codes(0, 1, 255)[:16, :16]] * count))
    below = [ax.get_images()[0].get_array()[-16:] for ax in both.axes]
    assert len(below) == count
    assert to_hex(below[0][0, 1]) == style.ERROR_COLOURS["hit"]
    assert legend(both) == list(style.ERROR_COLOURS)


@pytest.mark.parametrize("count", [1, 3])
def test_scenes(count):
    pictures = {f"area {number}": random_picture(number) for number in range(count)}
    figure = drawn(maps.scenes(pictures, BOUNDS, outlines=outlines()))
    axes = shown(figure)
    assert [ax.get_title() for ax in axes] == list(pictures)
    for ax in axes:
        assert_map(ax)
        assert ax.get_xlim() == (500.0, 500.9)
        assert ax.get_ylim() == (6799.6, 6800.0)


def test_scenes_with_bounds_and_outlines_of_their_own():
    west = tuple(np.add(BOUNDS, (-5000, 0, -5000, 0)))
    figure = drawn(
        maps.scenes(
            {"here": random_picture(), "west": random_picture(1)},
            {"here": BOUNDS, "west": west},
            outlines={"here": outlines()},
        )
    )
    here, there = shown(figure)
    assert there.get_xlim() == pytest.approx((495.0, 495.9))
    assert len(here.collections) > len(there.collections) == 0


@pytest.mark.parametrize("table", [None, outlines().iloc[:0], outlines().drop(columns="kind")])
def test_outlines_may_be_missing_empty_or_plain(table):
    drawn(maps.scenes({"test": random_picture()}, BOUNDS, outlines=table))


@pytest.mark.parametrize("values", [(255,), (0, 1, 255), (1,)])
def test_code_maps(values):
    found = maps.code_maps({"test": codes(*values)}, BOUNDS, style.CLASS_COLOURS, (0, 1, 255))
    figure = drawn(found)
    (ax,) = shown(figure)
    assert_map(ax)
    assert legend(figure) == ["not glacier", "glacier", "unknown"]


def test_errors_stand_beside_their_score():
    figure = drawn(
        maps.error_maps(codes(0, 1), {"labels": codes(0, 1), "truth": codes(1, 1)}, BOUNDS)
    )
    titles = [ax.get_title() for ax in shown(figure)]
    assert titles == ["against the labels: IoU 1.00", "against the truth: IoU 0.50"]
    assert legend(figure) == list(style.ERROR_COLOURS)


def test_an_edge_ends_where_the_label_is_unknown():
    figure, ax = plt.subplots()
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 1
    mask[:4] = 255
    maps.draw_edge(ax, mask)
    maps.draw_edge(ax, np.ones((8, 8), np.uint8))  # has none
    (line,) = ax.collections
    (edge,) = line.get_paths()
    assert edge.vertices[:, 0].tolist() == pytest.approx([3.5] * len(edge.vertices))
    assert edge.vertices[:, 1].min() == 4
    maps.draw_edge(ax, mask, bounds=(0, 0, 8000, 8000))
    vertices = ax.collections[1].get_paths()[0].vertices
    assert vertices[:, 0].tolist() == pytest.approx([4.0] * len(vertices))  # km
    assert vertices[:, 1].max() == pytest.approx(3.5)
    drawn(figure)


@pytest.mark.parametrize("count", [1, 3])
def test_probability_maps_share_one_colour_bar(count):
    values = random_picture()[..., 0]
    values[:5] = np.nan
    shown_maps = {str(number): values for number in range(count)}
    figure = drawn(maps.probability_maps(shown_maps, BOUNDS))
    assert len(shown(figure)) == count
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert [bar.get_ylabel() for bar in bars] == ["glacier probability"]


def test_probability_maps_without_a_known_pixel():
    drawn(maps.probability_maps({"test": np.full(SHAPE, np.nan)}, BOUNDS))


# Large maps


LARGE = (500_000.0, 6_800_000.0, 506_000.0, 6_804_000.0)


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, 3), np.float32)


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def scale_bars(ax) -> int:
    return sum(isinstance(child, ScaleBar) for child in ax.get_children())


def boxes(ax) -> list[tuple]:
    """Bounds in km of the rectangles drawn on a map."""
    return [(*p.get_xy(), p.get_x() + p.get_width(), p.get_y() + p.get_height())
            for p in ax.patches if isinstance(p, Rectangle)]  # fmt: skip


def test_the_class_over_a_picture():
    below = np.full((1, 3, 3), 0.5, np.float32)
    found = maps.over(below, np.array([[0, 1, 255]], np.uint8))
    np.testing.assert_allclose(found[0, 0], 0.5)
    glacier = 0.6 * 0.5 + 0.4 * np.array(to_rgb(style.CLASS_COLOURS["glacier"]))
    np.testing.assert_allclose(found[0, 1], glacier, rtol=1e-5)
    assert (below == 0.5).all()


@pytest.mark.parametrize(("row", "col"), [(3, 5), (30, 50), (0, 0), (39, 59), (20, 30)])
def test_the_detail_holds_the_edge(row, col):
    mask = np.zeros((40, 60), np.uint8)
    mask[row, col] = 1
    left, bottom, right, top = maps.detail(mask, LARGE)
    assert right - left == top - bottom == 800  # 8 of 40 rows of 100 m
    assert LARGE[0] <= left < right <= LARGE[2]
    assert LARGE[1] <= bottom < top <= LARGE[3]
    assert left <= LARGE[0] + 100 * col < right
    assert bottom < LARGE[3] - 100 * row <= top


def test_the_detail_of_a_map_without_edge_is_its_middle():
    mask = np.full((40, 60), 255, np.uint8)
    mask[10] = 1  # ice beside unknown ground has no edge that anybody knows
    assert maps.detail(mask, LARGE) == (502_600, 6_801_600, 503_400, 6_802_400)


def test_a_large_map_with_all_that_belongs_to_it():
    inset = (501_000.0, 6_801_000.0, 502_000.0, 6_802_000.0)
    figure = drawn(
        maps.large_map(
            picture(), LARGE, title=ODD, outlines={ODD: inventory(TWO), "other": predicted()},
            inset=inset, locator={"here": LARGE, "there": (510e3, 6800e3, 512e3, 6801e3)},
        )
    )  # fmt: skip
    main, close, where = figure.axes
    assert main.get_title() == ODD.replace("$", r"\$")
    assert main.get_xlim() == (500, 506)
    assert (main.get_xlabel(), main.get_ylabel()) == ("easting (km)", "northing (km)")
    assert any("grid N" in text for text in texts(main))
    assert [scale_bars(ax) for ax in figure.axes] == [1, 1, 1]
    np.testing.assert_allclose(boxes(main), [(501, 6801, 502, 6802)])
    assert close.get_xlim() == (501, 502)
    assert close.get_title() == "detail, 1 x 1 km"
    # The detail is drawn from the picture's own pixels.
    np.testing.assert_allclose(close.images[0].get_array(), picture()[20:30, 10:20])
    assert len(boxes(where)) == 2
    assert (close.get_xlabel(), where.get_xlabel()) == ("", "")
    assert legend(figure) == [ODD.replace("$", r"\$"), "other"]


def test_a_bare_large_map_of_any_shape_and_size():
    figure = drawn(maps.large_map(picture(400, 5000), (0.0, 0.0, 50e3, 4e3)))
    (ax,) = figure.axes
    assert max(ax.images[0].get_array().shape) <= 2000
    assert not figure.legends
    drawn(maps.large_map(picture(300, 20), (0.0, 0.0, 200.0, 3000.0), inset=(0, 0, 90, 90)))


def test_a_detail_is_cut_to_the_map_and_must_touch_it():
    inset = (505_500.0, 6_803_500.0, 507_000.0, 6_805_000.0)
    figure = drawn(maps.large_map(picture(), LARGE, inset=inset))
    np.testing.assert_allclose(boxes(figure.axes[0]), [(505.5, 6803.5, 506, 6804)])
    with pytest.raises(GlacierError, match="outside the map") as caught:
        maps.large_map(picture(), LARGE, inset=(0, 0, 100, 100))
    assert "\n" not in str(caught.value)


def test_a_map_of_matches():
    ice = {**TWO, "C": box(0, 2, 1, 3), "D": box(5, 3, 5.5, 3.5)}
    found = matching.match(
        predicted(box(0, 0, 4, 1), box(0, 2, 0.4, 3), box(0.5, 2, 1, 3), box(3, 3, 4, 4)),
        inventory(ice),
    )
    figure = drawn(maps.matches_map(found.polygons, found.glaciers, LARGE, picture=picture()))
    assert legend(figure) == ["merged (1)", "split (2)", "new (1)", "outline of the inventory",
                              "missed outline (1)"]  # fmt: skip
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("easting (km)", "northing (km)")
    none = matching.match(gpd.GeoDataFrame(geometry=[], crs=UTM), inventory({}))
    drawn(maps.matches_map(none.polygons, none.glaciers, LARGE, picture=picture()))


@pytest.mark.slow
@pytest.mark.parametrize("tall", [300, 3000, 4000, 6000, 30000])
def test_nothing_is_clipped(tall):
    bounds = (500_000.0, 6_800_000.0, 504_000.0, 6_800_000.0 + tall)
    shape = (40, 60)
    found = matching.match(predicted(*TWO.values()), inventory(TWO))
    figures = [
        maps.large_map(picture(*shape), bounds, inset=bounds, locator={"a": bounds},
                       title="some area, 2023-08"),
        maps.matches_map(found.polygons, found.glaciers, bounds, picture=picture()),
    ]  # fmt: skip
    for figure in figures:
        for _ in range(3):  # the layout moves on from draw to draw, and files are drawn twice
            drawn(figure)
        inside = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert inside.x0 >= -0.01
        assert inside.y0 >= -0.01
        assert inside.x1 <= width + 0.01
        assert inside.y1 <= height + 0.01


@pytest.mark.parametrize(("crs", "metres"), [("EPSG:3857", 0.485), ("EPSG:32623", 1.0)])
def test_a_scale_bar_is_true_on_the_ground(crs, metres):
    x, y = (-5_000_000, 8_645_000) if crs == "EPSG:3857" else (500_000, 6_780_000)
    bounds = Grid(CRS.from_user_input(crs), Affine(10, 0, x, 0, -10, y), *SHAPE).bounds
    figure = maps.code_maps({"a": codes(0, 1)}, bounds, {"ground": "grey", "ice": "blue"}, (0, 1))
    (bar,) = [item for item in shown(figure)[0].artists if isinstance(item, ScaleBar)]
    assert bar.dx == pytest.approx(metres, abs=0.01)
