"""Errors by the surface on which they lie, and regions where map and label differ."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils import metrics
from glacier_utils.evaluation import bootstrap, error_analysis
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.mask import EdgeMask, Mask
from glacier_utils.synthetic.rendering import PERCENTILES
from glacier_utils.synthetic.rendering import SPECTRA as MEASURED

BANDS = ("red", "green", "blue", "nir")
# Medians of the points behind the rules of `raster.indices`, and tundra.
SPECTRA = {
    "snow": (0.83, 0.83, 0.81, 0.69),
    "ice-like": (0.34, 0.36, 0.35, 0.24),
    "shadow": (0.20, 0.24, 0.30, 0.20),
    "water": (0.11, 0.17, 0.11, 0.03),
    "bright ground": (0.22, 0.20, 0.18, 0.25),
    "dark ground": (0.07, 0.08, 0.05, 0.24),
}
CODES = {name: code for code, name in error_analysis.COVERS.items()}


def image_of(*names: str) -> Image:
    pixels = np.array([SPECTRA.get(name, (0, 0, 0, 0)) for name in names], np.float32)
    grid = Grid(CRS.from_epsg(32623), Affine(10, 0, 0, 0, -10, 0), 1, len(names))
    return Image(pixels.T[:, None, :], np.array([[name != "" for name in names]]), BANDS, grid)


def row(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def test_covers_by_hand():
    image = image_of(*SPECTRA, "")
    assert error_analysis.cover(image)[0].tolist() == [CODES[name] for name in SPECTRA] + [0]
    clouds = row(1, 2, 255, 1, 0, 0, 1)
    found = error_analysis.cover(image, clouds)[0]
    assert [error_analysis.COVERS.get(int(code), "") for code in found] == [
        "cloud", "shadow", "shadow", "cloud", "bright ground", "dark ground", "",
    ]  # fmt: skip


def test_causes_by_hand():
    names = ["snow", "snow", "ice-like", "bright ground", "dark ground", "shadow"]
    image = image_of(*names, *names)
    reference = row(1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0)
    mask = row(1, 1, 1, 0, 0, 255, 1, 0, 1, 1, 0, 0)
    table = error_analysis.causes(mask, reference, image).set_index(["kind", "surface"])
    miss, alarm = table.loc["miss"], table.loc["false alarm"]
    assert miss["pixels"].to_dict() == {
        "snow-covered ice": 0, "bare ice": 0, "debris": 2, "shadowed ice": 0, "water": 0,
        "cloud": 0,
    }  # fmt: skip
    assert miss.loc["debris", ["share", "right"]].tolist() == [1.0, 0.0]
    assert miss.loc["snow-covered ice", "right"] == 1.0
    assert miss.loc["snow-covered ice", "total_km2"] == pytest.approx(2e-4)
    # Unknown on the map: not counted.
    assert math.isnan(miss.loc["shadowed ice", "right"])
    # Snow, snow and what looks like ice are all seasonal snow off the ice: two of three are wrong.
    assert alarm.loc["seasonal snow", "pixels"] == 2
    assert alarm.loc["seasonal snow", "share"] == pytest.approx(2 / 3)
    assert alarm.loc["seasonal snow", "right"] == pytest.approx(1 / 3)
    assert alarm.loc["bright rock", "right"] == 0.0
    assert alarm.loc[["other ground", "shadowed ground"], "right"].tolist() == [1.0, 1.0]
    cloudy = error_analysis.causes(mask, reference, image, row(*[0] * 6, 1, *[0] * 5))
    cloudy = cloudy.set_index(["kind", "surface"])
    assert cloudy.loc[("false alarm", "cloud"), "pixels"] == 1
    perfect = error_analysis.causes(reference, reference, image)
    assert perfect["share"].isna().all()


@given(st.integers(0, 2**16))
def test_every_error_has_one_surface(seed):
    rng = np.random.default_rng(seed)
    shape = (3, 8, 7)  # patches of a store
    image = Image(
        rng.random((3, 4, 8, 7), np.float32) ** 2, np.ones(shape, bool), BANDS,
        Grid(None, Affine(10, 0, 0, 0, -10, 0), 8, 7),
    )  # fmt: skip
    mask, reference, clouds = (rng.choice([0, 1, 255], shape).astype(np.uint8) for _ in "abc")
    table = error_analysis.causes(mask, reference, image, clouds)
    known = (mask != 255) & (reference != 255)
    for kind, wrong in (("miss", (0, 1)), ("false alarm", (1, 0))):
        part = table[table["kind"] == kind]
        assert part["pixels"].sum() == (known & (mask == wrong[0]) & (reference == wrong[1])).sum()
        assert part["share"].sum() == pytest.approx(1)
    assert table["total_km2"].sum() == pytest.approx(known.sum() * 1e-4)


@pytest.mark.parametrize(
    ("surface", "names"),
    [
        ("snow", ["snow"] * 5),
        ("ice", ["ice-like"] * 5),
        ("water", ["water"] * 5),
        ("rock", ["dark ground"] * 3 + ["bright ground"] * 2),
        # The darker half of tundra is as dark as shadow.
        ("tundra", ["shadow"] * 3 + ["dark ground"] * 2),
    ],
)
def test_covers_of_surfaces_as_sentinel_2_measured_them(surface, names):
    at = [PERCENTILES.index(percent) for percent in (5, 25, 50, 75, 95)]
    pixels = np.array(MEASURED[surface], np.float32)[:, None, at]
    image = Image(pixels, np.ones((1, 5), bool), BANDS, Grid(None, GRID.transform, 1, 5))
    assert [error_analysis.COVERS[code] for code in error_analysis.cover(image)[0]] == names


# ---- disagreements

SNOW, ICE = (0.83, 0.83, 0.81, 0.69), (0.34, 0.36, 0.35, 0.24)
SHADOW, WATER, ROCK = (0.20, 0.24, 0.30, 0.20), (0.11, 0.17, 0.11, 0.03), (0.16, 0.15, 0.12, 0.17)
SIZE = 100
GRID = Grid(CRS.from_epsg(32623), Affine(10, 0, 500_000, 0, -10, 6_800_000), SIZE, SIZE)
GLACIER = np.s_[20:80, 10:50]


class Scene:
    """A glacier of bare ice on rock; ``put`` changes what a region shows, and who calls it ice."""

    def __init__(self) -> None:
        self.pixels = np.empty((SIZE, SIZE, 4), np.float32)
        self.pixels[:] = ROCK
        self.label = np.zeros((SIZE, SIZE), np.uint8)
        self.put(GLACIER, ICE)
        self.label[GLACIER] = 1
        self.map = self.label.copy()
        self.clouds = np.zeros((SIZE, SIZE), np.uint8)

    def put(self, where: tuple, spectrum: tuple, *, mapped: int | None = None) -> Scene:
        self.pixels[where] = spectrum
        if mapped is not None:
            self.map[where] = mapped
        return self

    def found(self, **kwargs):
        image = Image(np.moveaxis(self.pixels, -1, 0), np.ones((SIZE, SIZE), bool), BANDS, GRID)
        return error_analysis.disagreements(self.map, self.label, image, self.clouds, **kwargs)


CASES = {
    # A strip of 80 m along the outline that shows rock; a patch 220 m wide does not.
    "retreat": (np.s_[72:80, 10:50], ROCK, 0),
    "debris": (np.s_[50:80, 10:32], ROCK, 0),
    "snow": (np.s_[20:32, 10:32], SNOW, 0),
    "ice": (np.s_[20:32, 10:32], ICE, 0),
    "shadow": (np.s_[20:32, 10:32], SHADOW, 0),
    "water": (np.s_[68:80, 10:32], WATER, 0),
    "missing glacier": (np.s_[40:60, 70:90], ICE, 1),
}


@pytest.mark.parametrize(("reason", "case"), CASES.items())
def test_reasons_by_hand(reason, case):
    where, spectrum, mapped = case
    table = Scene().put(where, spectrum, mapped=mapped).found()
    assert table["reason"].tolist() == [reason]
    assert table["kind"].tolist() == ["false alarm" if mapped else "miss"]


@pytest.mark.parametrize(
    ("where", "spectrum", "reason"),
    [(np.s_[40:60, 50:60], SNOW, "snow"), (np.s_[40:60, 50:60], ROCK, "debris"),
     (np.s_[40:60, 70:90], SHADOW, "shadow"), (np.s_[40:60, 70:90], WATER, "water")],
)  # fmt: skip
def test_false_alarms_by_hand(where, spectrum, reason):
    assert Scene().put(where, spectrum, mapped=1).found()["reason"].tolist() == [reason]


@pytest.mark.parametrize("where", [np.s_[40:60, 70:90], np.s_[40:60, 50:60]])
def test_ice_beside_water_may_float(where):
    """Melange lies before the calving front, and is no missing glacier."""
    scene = Scene().put(np.s_[62:90, 51:100], WATER).put(where, ICE, mapped=1)
    assert scene.found()["reason"].tolist() == ["floating ice"]
    # Farther than 100 m away the water says nothing.
    scene = Scene().put(np.s_[71:90, 51:100], WATER).put(where, ICE, mapped=1)
    (row,) = scene.found().to_dict("records")
    assert row["shore"] == 0
    assert row["reason"] == ("snow" if row["touch"] else "missing glacier")


def test_rock_in_the_middle_of_a_glacier_is_no_retreat():
    assert Scene().put(np.s_[40:52, 20:32], ROCK, mapped=0).found()["reason"].tolist() == ["debris"]


def test_cloud_goes_before_all_else():
    scene = Scene().put(np.s_[40:60, 70:90], SNOW, mapped=1)
    scene.clouds[40:55, 70:90] = 1
    (row,) = scene.found().to_dict("records")
    assert row["reason"] == "cloud"
    assert (row["cloud"], row["icy"]) == (0.75, 0.25)


def test_a_region_by_hand():
    scene = Scene().put(np.s_[40:60, 50:70], SNOW, mapped=1).put(np.s_[0:5, 0:5], SNOW, mapped=1)
    truth = scene.label.copy()
    truth[40:60, 50:55] = 1
    (row,) = scene.found(truth=truth).to_dict("records")
    assert row["km2"] == pytest.approx(0.04)
    # Its rim of 84 pixels has 22 on the glacier's side.
    assert row["touch"] == pytest.approx(22 / 84)
    assert row["half_width_m"] == pytest.approx(100.0)
    assert (row["row"], row["col"]) == (49, 59)
    assert (row["x"], row["y"]) == (500_595.0, 6_799_505.0)
    assert row["map_right"] == 0.25
    # The region of 25 pixels is too small for the list, not for the sum.
    assert scene.found().attrs["km2"] == pytest.approx(0.0425)


def test_sums_by_reason():
    scene = (
        Scene().put(np.s_[40:60, 50:70], SNOW, mapped=1).put(np.s_[72:80, 10:50], ROCK, mapped=0)
    )
    scene.put(np.s_[0:10, 80:90], ICE, mapped=1)
    table = error_analysis.by_reason(scene.found(truth=scene.label)).set_index("reason")
    assert table.index.tolist() == ["retreat", "snow", "missing glacier"]
    assert table["share"].tolist() == pytest.approx([1.0, 0.8, 0.2])
    assert table["map_right"].tolist() == [0.0, 0.0, 0.0]
    assert error_analysis.by_reason(Scene().found()).empty


@given(st.integers(0, 2**16))
def test_every_region_is_listed_once(seed):
    rng = np.random.default_rng(seed)
    label, mask = (rng.choice([0, 1, 255], (12, 11)).astype(np.uint8) for _ in "ab")
    pixels, valid = rng.random((4, 12, 11), np.float32), np.ones((12, 11), bool)
    # A pixel of 100 m is as large as the smallest region that is listed.
    image = Image(pixels, valid, BANDS, Grid(GRID.crs, Affine(100, 0, 0, 0, -100, 0), 12, 11))
    table = error_analysis.disagreements(mask, label, image)
    wrong = (mask != label) & (mask != 255) & (label != 255)
    assert table["km2"].sum() == pytest.approx(wrong.sum() * 1e-2)
    assert wrong[table["row"], table["col"]].all()
    np.testing.assert_allclose(table[list(error_analysis.CUES)].sum(axis=1), 1)
    kinds = np.where(mask[table["row"], table["col"]] == 1, "false alarm", "miss")
    assert table["kind"].tolist() == kinds.tolist()


# ---- the label's part


def grid_of(*shape: int, pixel: float = 10.0) -> Grid:
    return Grid(CRS.from_epsg(32623), Affine(pixel, 0, 0, 0, -pixel, 0), *shape)


def square(size: int, top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


# --- band


class ArrayMask(Mask):
    """A raster as a mask."""

    def __init__(self, values: np.ndarray, pixel: float) -> None:
        self.grid, self._values = grid_of(*values.shape, pixel=pixel), values

    def read(self, row=0, col=0, height=None, width=None):
        """Read a window, 255 outside."""
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        padded = np.pad(self._values, 50, constant_values=255)
        return padded[row + 50 : row + 50 + height, col + 50 : col + 50 + width].copy()


@given(st.integers(0, 2**16), st.sampled_from([4.0, 8.0, 10.0, 15.0, 20.0]))
def test_the_band_is_that_of_a_label_with_a_band(seed, pixel):
    rng = np.random.default_rng(seed)
    reference = rng.choice([0, 1, 255], (15, 14), p=[0.6, 0.35, 0.05]).astype(np.uint8)
    mask = rng.choice([0, 1], reference.shape).astype(np.uint8)
    found = error_analysis.band_curve({"m": mask}, {"r": reference}, pixel)
    for row in found.itertuples():
        label = (
            EdgeMask(ArrayMask(reference, pixel), row.band_m).read() if row.band_m else reference
        )
        assert row.iou == pytest.approx(metrics.count(mask, label).iou, nan_ok=True)


def test_a_shift_disappears_under_the_band():
    reference, mask = square(30, 10, 10, 10), square(30, 10, 11, 10)
    found = error_analysis.band_curve({"m": mask}, {"labels": reference}, 10.0).set_index("band_m")
    assert found.loc[0, "iou"] == pytest.approx(90 / 110)
    # Nearer than 10 m are the pixels beside the edge, corners included (9.1 m): all errors.
    # The innermost pixels lie 45 m from the edge.
    assert found.loc[10:40, "iou"].tolist() == [1.0] * 4
    assert found.loc[50:, "iou"].isna().all()
    assert found.loc[10, "known"] == pytest.approx(1 - (44 + 36) / 900)
    assert found.index.tolist() == [0, 10, 20, 30, 40, 50, 60]


# --- labels against truth


def counts(*rows: tuple[int, int, int, int]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=metrics.COUNTS)
    return frame.assign(block=[str(i) for i in range(len(rows))])


def test_labels_against_truth_by_hand():
    by_labels = {"a": counts((6, 2, 2, 5), (4, 3, 3, 5)), "b": counts((5, 3, 3, 5), (4, 4, 4, 5))}
    by_truth = {"a": counts((7, 1, 2, 5), (5, 2, 3, 5)), "b": counts((9, 1, 1, 5), (8, 1, 0, 5))}
    table = error_analysis.labels_against_truth(by_labels, by_truth)
    assert table["labels"].tolist() == pytest.approx([10 / 20, 9 / 23])
    assert table["truth"].tolist() == pytest.approx([12 / 20, 17 / 20])
    assert table["difference"].tolist() == pytest.approx([0.1, 17 / 20 - 9 / 23])
    assert table["rank_by_labels"].tolist() == [1, 2]
    assert table["rank_by_truth"].tolist() == [2, 1]
    known = bootstrap.compare({"truth": by_truth["a"], "labels": by_labels["a"]}).loc[0]
    names = ["difference", "low", "high"]
    assert tuple(table.loc[0, names]) == pytest.approx(tuple(known[names]))
    assert table.loc[0, "verdict"] == known["verdict"]
