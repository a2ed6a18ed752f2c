"""Figures: that each is drawn, names its units, and holds what the reader needs to read it."""

from __future__ import annotations

import geopandas as gpd
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import shapely
from drawing import ODD, drawn, legend
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from glacier_utils.change import transition
from glacier_utils.errors import GlacierError
from glacier_utils.plotting import charts, gallery, style

pytestmark = pytest.mark.usefixtures("offscreen")

BANDS = ("red", "green", "blue", "nir")
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


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((*SHAPE, 3)).astype(np.float32)


# ---- charts: pixels and classes


def pixels(areas=("train", "test"), dates=("2023-07", "2023-08"), count=60) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    parts = [
        pd.DataFrame(generator.uniform(0.1, 0.6, (count, 4)), columns=BANDS).assign(
            area=area, date=date, **{"class": name}
        )
        for area in areas
        for date in dates
        for name in ("glacier", "not glacier")
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("areas", [("train", "test"), (ODD,)])
@pytest.mark.parametrize("dates", [("2023-08",), ("2023-07", "2023-08")])
def test_band_histograms(areas, dates):
    figure = drawn(charts.band_histograms(pixels(areas, dates), BANDS))
    axes = np.reshape(figure.axes, (len(areas), 4))
    # In the order of wavelength.
    assert [ax.get_title() for ax in axes[0]] == ["blue", "green", "red", "nir"]
    assert {ax.get_xlabel() for ax in axes[-1]} == {"reflectance (1)"}
    assert {len(ax.get_lines()) for ax in figure.axes} == {2 * len(dates)}
    assert set(legend(figure)) == {
        f"{name}, {date}" for name in ("glacier", "not glacier") for date in dates
    }


def test_band_histograms_of_a_class_that_one_area_lacks():
    table = pixels()
    table = table[(table["area"] == "test") | (table["class"] == "not glacier")]
    figure = drawn(charts.band_histograms(table, BANDS))
    assert len(legend(figure)) == 4


def test_band_histograms_of_too_few_pixels_for_a_line():
    figure = drawn(charts.band_histograms(pixels(["train"], count=5), BANDS))
    assert legend(figure) == []


@pytest.mark.parametrize(
    "rows",
    [
        [("train", "2023-08", 0.3, 0.6, 0.1)],
        [("train", "2023-07", 0.3, 0.7, 0.0), (ODD, "2023-08", 0.0, 0.0, 1.0)],
    ],
)
def test_class_balance(rows):
    names = ["area", "date", "glacier", "not glacier", "unknown"]
    figure = drawn(charts.class_balance(pd.DataFrame(rows, columns=names)))
    (ax,) = figure.axes
    assert ax.get_xlabel() == "share of pixels (%)"
    assert legend(figure) == ["glacier", "not glacier", "unknown"]
    ends = [bar.get_x() + bar.get_width() for bar in ax.patches]
    assert max(ends) == pytest.approx(100)
    assert len(ax.patches) == 3 * len(rows)


@pytest.mark.parametrize("values", [[0.5, -1.2], [0.1, 0.2], [0.0, 0.0], [np.nan, np.nan]])
def test_shift_heatmap(values):
    table = pd.DataFrame({"class": "glacier", "band": ["nir", "blue"], "difference": values})
    figure = drawn(charts.shift_heatmap(table, "difference", label="median shift (1)"))
    ax, bar = figure.axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["blue", "nir"]
    assert bar.get_ylabel() == "median shift (1)"


def test_shift_without_a_common_class_is_an_error():
    table = pd.DataFrame(columns=["class", "band", "difference"])
    with pytest.raises(GlacierError, match="no class in common"):
        charts.shift_heatmap(table, "difference", label="")


# ---- charts: models


def history(epochs: int = 3, iou=None) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "validation_loss": 1.1 / epoch,
            "validation_iou": epoch / 10 if iou is None else iou,
        }
    )


def test_learning_curves_mark_the_kept_epoch():
    figure = drawn(charts.learning_curves({"one": history(iou=[0.2, 0.6, 0.4]), "two": history(1)}))
    loss, iou = figure.axes
    assert (loss.get_ylabel(), iou.get_ylabel()) == ("loss (1)", "IoU (1)")
    assert loss.get_xlabel() == iou.get_xlabel() == "epoch"
    assert legend(figure) == ["one", "two"]
    marked = [line.get_xydata().tolist() for line in iou.get_lines() if line.get_marker() == "o"]
    assert marked == [[[2, 0.6]], [[1, 0.1]]]


def test_a_first_loss_far_off_leaves_the_others_to_be_seen():
    usual, odd = history(iou=[0.2, 0.6, 0.4]), history(iou=[0.2, 0.6, 0.4])
    odd.loc[0, "validation_loss"] = 80.0
    scales = [
        drawn(charts.learning_curves({"one": curves})).axes[0].get_yscale()
        for curves in (usual, odd)
    ]
    assert scales == ["linear", "log"]


def test_learning_curves_without_any_iou():
    drawn(charts.learning_curves({"one": history(iou=np.nan)}))


def intervals(models=("threshold", "unet"), groups=("labels", "truth")) -> pd.DataFrame:
    rows = [(model, group, 0.6, 0.5, 0.8) for model in models for group in groups]
    return pd.DataFrame(rows, columns=["model", "reference", "iou", "iou_low", "iou_high"])


@pytest.mark.parametrize("groups", [("labels",), ("labels", "truth")])
def test_score_intervals(groups):
    figure = drawn(charts.score_intervals(intervals(groups=groups)))
    (ax,) = figure.axes
    assert ax.get_xlabel() == "IoU (1), with 95 % interval"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["threshold", "unet"]
    assert legend(figure) == list(groups)
    assert ax.get_legend().get_title().get_text() == "reference"


def test_score_intervals_that_are_undefined():
    table = intervals().assign(iou_low=np.nan, iou_high=np.nan)
    drawn(charts.score_intervals(table))
    drawn(charts.score_intervals(table.assign(iou=np.nan)))


def test_differences_stand_beside_the_line_of_none():
    table = pd.DataFrame(
        {
            "model": "unet",
            "against": ["threshold", "random_forest"],
            "reference": "labels",
            "difference": [0.1, 0.0],
            "low": [0.05, -0.1],
            "high": [0.15, 0.1],
        }
    )
    (ax,) = drawn(charts.differences(table)).axes
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["unet − threshold", "unet − random_forest"]
    assert any(set(line.get_xdata()) == {0} for line in ax.get_lines())


def test_precision_recall():
    curve = pd.DataFrame({"threshold": [0, 0.5], "precision": [0.4, np.nan], "recall": [1.0, 0.0]})
    figure = drawn(
        charts.precision_recall({"a": curve, "b": curve}, {"a": (0.8, 0.7), "b": (0.5, np.nan)})
    )
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("recall (1)", "precision (1)")
    assert legend(figure) == ["a", "b"]
    for line, iou in zip([x for x in ax.get_lines() if x.get_linestyle() == ":"], (0.4, 0.6, 0.8),
                         strict=True):  # fmt: skip
        recall, precision = line.get_data()
        np.testing.assert_allclose(1 / (1 / recall + 1 / precision - 1), iou)


def test_patch_scores_with_a_model_that_has_none():
    table = pd.DataFrame(
        {"model": ["a"] * 4 + ["b"], "patch": 0, "iou": [0.1, 0.5, 0.9, None, None]}
    )
    figure = drawn(charts.patch_scores(table))
    (ax,) = figure.axes
    assert ax.get_xlabel() == "IoU of a patch (1)"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    drawn(charts.patch_scores(table[table["model"] == "b"]))


def test_patch_scores_are_drawn_the_same_twice():
    table = pd.DataFrame({"model": "a", "patch": range(9), "iou": np.linspace(0, 1, 9)})
    one, two = (charts.patch_scores(table).axes[0].get_lines()[-1].get_xydata() for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[:, 0], table["iou"])


# ---- charts: dates and seams


def test_transition_matrices():
    table = pd.DataFrame([[3.0, 0.5], [0.25, 9.0]], ["glacier", "not glacier"])
    table = table.set_axis(["glacier", "not glacier"], axis=1)
    figure = drawn(charts.transition_matrices({"train": table, ODD: table}))
    assert [ax.get_title().endswith("(km²)") for ax in figure.axes] == [True, True]
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == ["3.00", "0.50", "0.25", "9.00"]
    drawn(charts.transition_matrices({"train": table}))


def test_seam_profile():
    profile = pd.DataFrame({"distance_px": range(4), "jump": [0.2, 0.1, 0.1, np.nan]})
    figure = drawn(charts.seam_profile({"patch by patch": profile, "windows": profile / 2}))
    (ax,) = figure.axes
    assert ax.get_xlabel() == "distance from the patch border (px)"
    assert ax.get_ylim()[0] == 0
    assert legend(figure) == ["patch by patch", "windows"]


def test_colours_do_not_run_out():
    colours = charts.palette([str(number) for number in range(20)])
    assert len(colours) == 20
    assert colours["0"] == colours["8"] != colours["1"]


# ---- maps: arrays to colours


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1))
def test_composite_is_a_picture_with_grey_gaps(height, width, share):
    generator = np.random.default_rng(0)
    image = generator.uniform(0.01, 1, (4, height, width)).astype(np.float32)
    valid = generator.random((height, width)) >= share
    found = style.composite(image * valid, BANDS, valid=valid)
    assert found.shape == (height, width, 3)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found[~valid] == 0.5).all()


def test_composite_shows_the_bands_asked_for_within_the_limits():
    image = np.zeros((4, 1, 3), np.float32)
    image[:, 0] = np.array([[0.1, 0.2, 0.3]] * 3 + [[0.3, 0.2, 0.1]])
    found = style.composite(image, BANDS, style.BANDS_FALSE, limits=(0.1, 0.3))
    np.testing.assert_allclose(found[0, :, 0], [1, 0.5 ** (1 / 1.4), 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[0, :, 1], [0, 0.5 ** (1 / 1.4), 1], rtol=1e-5, atol=1e-6)


def test_error_codes_by_hand():
    mask = np.array([[0, 1, 0, 1, 1]], np.uint8)
    label = np.array([[0, 1, 1, 0, 255]], np.uint8)
    assert style.error_codes(mask, label).tolist() == [[0, 1, 2, 3, 255]]


def test_codes_keep_their_colours_whatever_is_there():
    values = (0, 1, 2, 3, 255)
    positions, cmap, norm = style.coded(
        np.array([[255, 3, 1, 77]], np.uint8), style.CHANGE_COLOURS, values
    )
    assert positions.tolist() == [[4, 3, 1, 4]]  # a code without a name counts as unknown
    colours = list(style.CHANGE_COLOURS.values())
    assert [mpl.colors.to_hex(cmap(norm(i))) for i in range(5)] == colours


def test_class_names_of_maps_and_of_changes_agree():
    assert len(style.CHANGE_COLOURS) == len(transition.TRANSITIONS)
    assert [name for name in style.CHANGE_COLOURS if name in ("lost", "gained")] == [
        transition.TRANSITIONS[2],
        transition.TRANSITIONS[3],
    ]


# ---- maps


def assert_map(ax) -> None:
    assert ax.get_xlabel() == "easting (km)"
    assert ax.get_ylabel() == "northing (km)"
    assert ax.get_aspect() == 1
    assert [type(artist).__name__ for artist in ax.artists] == ["ScaleBar"]


@pytest.mark.parametrize("count", [1, 3])
def test_scenes(count):
    pictures = {f"area {number}": picture(number) for number in range(count)}
    figure = drawn(style.scenes(pictures, BOUNDS, outlines=outlines()))
    axes = shown(figure)
    assert [ax.get_title() for ax in axes] == list(pictures)
    for ax in axes:
        assert_map(ax)
        assert ax.get_xlim() == (500.0, 500.9)
        assert ax.get_ylim() == (6799.6, 6800.0)


def test_scenes_with_bounds_and_outlines_of_their_own():
    west = tuple(np.add(BOUNDS, (-5000, 0, -5000, 0)))
    figure = drawn(
        style.scenes(
            {"here": picture(), "west": picture(1)},
            {"here": BOUNDS, "west": west},
            outlines={"here": outlines()},
        )
    )
    here, there = shown(figure)
    assert there.get_xlim() == pytest.approx((495.0, 495.9))
    assert len(here.collections) > len(there.collections) == 0


@pytest.mark.parametrize("table", [None, outlines().iloc[:0], outlines().drop(columns="kind")])
def test_outlines_may_be_missing_empty_or_plain(table):
    drawn(style.scenes({"test": picture()}, BOUNDS, outlines=table))


@pytest.mark.parametrize("values", [(255,), (0, 1, 255), (1,)])
def test_label_maps(values):
    figure = drawn(style.label_maps({"test": codes(*values)}, BOUNDS, outlines=outlines()))
    (ax,) = shown(figure)
    assert_map(ax)
    assert legend(figure) == ["not glacier", "glacier", "unknown", "outline"]


def test_error_maps_against_one_or_several_labels():
    maps = {"a": codes(0, 1), "b": codes(1)}
    figure = drawn(style.error_maps(maps, codes(0, 1, 255), BOUNDS))
    assert [ax.get_title() for ax in shown(figure)] == ["a", "b"]
    assert legend(figure) == list(style.ERROR_COLOURS)
    each = {"a": codes(0), "b": codes(255)}
    drawn(style.error_maps(maps, each, {"a": BOUNDS, "b": BOUNDS}))


def test_change_maps():
    figure = drawn(style.change_maps({"test": codes(0, 1, 2, 3, 255)}, BOUNDS))
    assert legend(figure) == list(style.CHANGE_COLOURS)


@pytest.mark.parametrize("count", [1, 3])
def test_probability_maps_share_one_colour_bar(count):
    values = picture()[..., 0]
    values[:5] = np.nan
    maps = {str(number): values for number in range(count)}
    figure = drawn(style.probability_maps(maps, BOUNDS))
    assert len(shown(figure)) == count
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert [bar.get_ylabel() for bar in bars] == ["glacier probability"]


def test_probability_maps_without_a_known_pixel():
    drawn(style.probability_maps({"test": np.full(SHAPE, np.nan)}, BOUNDS))


def tiles(number: int = 6) -> gpd.GeoDataFrame:
    boxes = [
        shapely.box(500_000 + 100 * i, 6_799_900, 500_100 + 100 * i, 6_800_000)
        for i in range(number)
    ]
    return gpd.GeoDataFrame({"area": "train"}, geometry=boxes, index=range(number),
                            crs="EPSG:32623")  # fmt: skip


def test_split_map_names_the_parts_that_are_there():
    index = tiles().assign(split=["train"] * 3 + ["buffer", "validation", "validation"])
    figure = drawn(style.split_map(index, {"train": (picture(), BOUNDS)}))
    (ax,) = shown(figure)
    assert ax.get_title().startswith("train: 3 train")
    assert "2 validation" in ax.get_title()
    assert legend(figure) == ["train", "validation", "buffer"]


@pytest.mark.parametrize("glaciers", [None, outlines()])
def test_area_overview(glaciers):
    east = tiles(2)
    figure = drawn(style.area_overview({"train": tiles(), "test": east}, glaciers))
    (ax,) = shown(figure)
    assert_map(ax)
    assert [text.get_text() for text in ax.texts] == ["train (6 patches)", "test (2 patches)"]


@pytest.mark.parametrize("count", [1, 4])
def test_patch_gallery(count):
    squares = [picture()[:16, :16]] * count
    titles = [f"best, IoU {number}" for number in range(count)]
    figure = drawn(gallery.patch_gallery(squares, titles, columns=3, note="windows of 16 px"))
    assert [ax.get_title() for ax in figure.axes if ax.get_images()] == titles
    assert figure.get_suptitle() == "windows of 16 px"
    both = drawn(gallery.patch_gallery(squares, titles, codes=[codes(0, 1, 255)[:16, :16]] * count))
    assert sum(bool(ax.get_images()) for ax in both.axes) == 2 * count
    assert legend(both) == list(style.ERROR_COLOURS)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(2, 80))
def test_exploded_keeps_every_pixel_of_small_patches(height, width, size):
    whole = np.random.default_rng(0).uniform(0, 0.9, (height, width, 3)).astype(np.float32)
    figure = gallery.exploded(whole, patch_size=size)
    step = max(1, size // 64)
    canvas = figure.axes[0].get_images()[0].get_array()
    # The gaps are white, which no pixel here is.
    kept = sum(
        -(-min(size, height - row) // step) * -(-min(size, width - col) // step)
        for row in range(0, height, size)
        for col in range(0, width, size)
    )
    assert (np.asarray(canvas) < 1).all(axis=2).sum() == kept
    plt.close(figure)
