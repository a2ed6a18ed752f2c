"""Errors by the surface on which they lie, and regions where map and label differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy import ndimage

from glacier_utils.conventions import SURFACES
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.evaluation import error_analysis
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.synthetic.sample import make_sample

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


# The sample's classes, and the names that the rules should give them in the sun.
RIGHT = {
    "bare ice": ("bare ice",),
    "snow on ice": ("snow-covered ice",),
    "debris on ice": ("debris",),
    "seasonal snow": ("seasonal snow",),
    **dict.fromkeys(["fjord", "lake", "meltwater lake"], ("water",)),
    **dict.fromkeys(["rock", "gravel", "tundra"], ("bright rock", "other ground")),
    # Rivers share their pixels with gravel.
    "floating ice": ("seasonal snow", "water"),
    "river": ("water", "bright rock", "other ground"),
}


@pytest.mark.slow
def test_rules_agree_with_the_known_classes_of_the_sample(tmp_path):
    data = open_dataset(make_sample(tmp_path / "sample", seed=3, _patches=3).parent)
    for area in data.areas:
        for date in data.dates(area):
            seen = error_analysis.cover(data.source(area, date).read())
            surface = data.surface(area, date).read()
            truth = data.truth(area, date).read()
            covers = np.array(["none", *error_analysis.COVERS.values()])[seen]
            sunlit = ~np.isin(covers, ["none", "shadow", "cloud"]) & (truth <= 1)
            # Between floes there is brash in the water.
            sunlit &= ~((surface == 4) & ndimage.maximum_filter(surface == 11, 7))
            total = right = 0
            for code, known in SURFACES.items():
                here = sunlit & (surface == code)
                names = [
                    (error_analysis.ON_ICE if ice else error_analysis.OFF_ICE)[name]
                    for name, ice in zip(covers[here], truth[here], strict=True)
                ]
                agree = np.isin(names, RIGHT[known]).sum()
                total, right = total + len(names), right + agree
                if len(names) > 0.02 * surface.size:  # the smallest are edges of others
                    assert agree > 0.65 * len(names), (area, date, known)
            assert right > 0.85 * total, (area, date)


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
