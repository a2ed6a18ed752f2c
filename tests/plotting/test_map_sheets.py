"""Large maps with their details, and matched glaciers."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
from drawing import ODD, drawn, legend
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib_scalebar.scalebar import ScaleBar
from outline_shapes import TWO, UTM, box, inventory, predicted

from glacier_utils.errors import GlacierError
from glacier_utils.outlines import matching
from glacier_utils.plotting import maps, style

pytestmark = pytest.mark.usefixtures("offscreen")

BOUNDS = (500_000.0, 6_800_000.0, 506_000.0, 6_804_000.0)


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
    found = maps.over(below, np.array([[0, 1, 255]], np.uint8), alpha=0.25)
    np.testing.assert_allclose(found[0, 0], 0.5)
    glacier = 0.75 * 0.5 + 0.25 * np.array(to_rgb(style.CLASS_COLOURS["glacier"]))
    np.testing.assert_allclose(found[0, 1], glacier, rtol=1e-5)
    assert (below == 0.5).all()


@pytest.mark.parametrize(("row", "col"), [(3, 5), (30, 50), (0, 0), (39, 59), (20, 30)])
def test_the_detail_holds_the_edge(row, col):
    mask = np.zeros((40, 60), np.uint8)
    mask[row, col] = 1
    left, bottom, right, top = maps.detail(mask, BOUNDS, share=0.25)
    assert right - left == top - bottom == 1000  # 10 of 40 rows of 100 m
    assert BOUNDS[0] <= left < right <= BOUNDS[2]
    assert BOUNDS[1] <= bottom < top <= BOUNDS[3]
    assert left <= BOUNDS[0] + 100 * col < right
    assert bottom < BOUNDS[3] - 100 * row <= top


def test_the_detail_of_a_map_without_edge_is_its_middle():
    mask = np.full((40, 60), 255, np.uint8)
    mask[10] = 1  # ice beside unknown ground has no edge that anybody knows
    assert maps.detail(mask, BOUNDS, share=0.5) == (502_000, 6_801_000, 504_000, 6_803_000)


def test_a_large_map_with_all_that_belongs_to_it():
    inset = (501_000.0, 6_801_000.0, 502_000.0, 6_802_000.0)
    figure = drawn(
        maps.large_map(
            picture(), BOUNDS, title=ODD, outlines={ODD: inventory(TWO), "other": predicted()},
            inset=inset, locator={"here": BOUNDS, "there": (510e3, 6800e3, 512e3, 6801e3)},
            classes=True,
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
    assert legend(figure) == ["mapped as glacier", "unknown", ODD.replace("$", r"\$"), "other"]


def test_a_bare_large_map_of_any_shape_and_size():
    figure = drawn(maps.large_map(picture(400, 5000), (0.0, 0.0, 50e3, 4e3), north=False))
    (ax,) = figure.axes
    assert max(ax.images[0].get_array().shape) <= 2000
    assert not texts(ax)
    assert not figure.legends
    drawn(maps.large_map(picture(300, 20), (0.0, 0.0, 200.0, 3000.0), inset=(0, 0, 90, 90)))


def test_a_detail_is_cut_to_the_map_and_must_touch_it():
    inset = (505_500.0, 6_803_500.0, 507_000.0, 6_805_000.0)
    figure = drawn(maps.large_map(picture(), BOUNDS, inset=inset))
    np.testing.assert_allclose(boxes(figure.axes[0]), [(505.5, 6803.5, 506, 6804)])
    with pytest.raises(GlacierError, match="outside the map") as caught:
        maps.large_map(picture(), BOUNDS, inset=(0, 0, 100, 100))
    assert "\n" not in str(caught.value)


def test_large_maps_with_details_in_free_corners():
    names = [f"area {n}, 2023-0{m}" for n in (1, 2) for m in (7, 8)]
    low, high = ((500_100.0, 6_800_100.0, 501_100.0, 6_801_100.0),
                 (504_500.0, 6_802_500.0, 505_500.0, 6_803_500.0))  # fmt: skip
    figure = drawn(
        maps.large_maps(
            {name: picture() for name in names}, BOUNDS,
            outlines={names[0]: predicted(TWO["A"])}, insets={names[0]: low, names[1]: high},
        )
    )  # fmt: skip
    assert [ax.get_title() for ax in figure.axes[:4]] == names
    assert [len(ax.child_axes) for ax in figure.axes[:4]] == [1, 1, 0, 0]
    for ax, part in zip(figure.axes[:2], (low, high), strict=True):
        (small,) = ax.child_axes
        np.testing.assert_allclose(boxes(ax), [np.array(part) / 1000])
        frame = small.get_window_extent()
        detail = ax.transData.transform(np.array(part).reshape(2, 2) / 1000)
        # The detail does not cover its own box.
        assert frame.x0 > detail[1, 0] or frame.x1 < detail[0, 0]
        assert (small.get_xlabel(), small.get_ylabel()) == ("", "")
    assert legend(figure) == ["mapped as glacier", "unknown", "predicted outline"]
    three = drawn(maps.large_maps({name: picture() for name in names[:3]}, BOUNDS))
    assert sum(ax.axison for ax in three.axes) == 3


def test_a_map_of_matches():
    ice = {**TWO, "C": box(0, 2, 1, 3), "D": box(5, 3, 5.5, 3.5)}
    found = matching.match(
        predicted(box(0, 0, 4, 1), box(0, 2, 0.4, 3), box(0.5, 2, 1, 3), box(3, 3, 4, 4)),
        inventory(ice),
    )
    figure = drawn(
        maps.matches_map(found.polygons, found.glaciers, BOUNDS, picture=picture(), title=ODD)
    )
    assert legend(figure) == ["merged (1)", "split (2)", "new (1)", "outline of the inventory",
                              "missed outline (1)"]  # fmt: skip
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("easting (km)", "northing (km)")
    none = matching.match(gpd.GeoDataFrame(geometry=[], crs=UTM), inventory({}))
    drawn(maps.matches_map(none.polygons, none.glaciers, BOUNDS, north=False))


@pytest.mark.parametrize("tall", [300, 3000, 4000, 6000, 30000])
def test_nothing_is_clipped(tall):
    bounds = (500_000.0, 6_800_000.0, 504_000.0, 6_800_000.0 + tall)
    shape = (40, 60)
    found = matching.match(predicted(*TWO.values()), inventory(TWO))
    figures = [
        maps.large_map(picture(*shape), bounds, inset=bounds, locator={"a": bounds},
                             title="some area, 2023-08", classes=True),
        maps.large_maps({"a, 2023-07": picture(*shape), "b": picture(*shape)}, bounds),
        maps.matches_map(found.polygons, found.glaciers, bounds, title="some area, 2023-08"),
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
