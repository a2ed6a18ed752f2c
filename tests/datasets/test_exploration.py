"""Looking at a dataset: thumbnails, pixels, snow, suspicious ice."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rasterio.crs import CRS
from scipy import ndimage
from stubs import BANDS, Scene

from glacier_utils.datasets import exploration
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.source import Source
from glacier_utils.outlines.inventory import read_outlines
from glacier_utils.outlines.rasterization import OutlineMask, rasterize
from glacier_utils.raster import indices
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.mask import IceOutsideMask, Mask

ICE, ROCK = (0.35, 0.37, 0.38, 0.30), (0.09, 0.08, 0.06, 0.22)
SNOW = (0.80, 0.80, 0.80, 0.70)


class Labels:
    """A label in memory."""

    def __init__(self, codes: np.ndarray, grid: Grid) -> None:
        self.codes, self.grid = codes, grid

    def read(self, row=0, col=0, height=None, width=None) -> np.ndarray:
        return self.codes[row : row + height, col : col + width]


class Data:
    """A dataset of one image: ``surface`` [row, col] of indices into ``colours``."""

    name = "stub"

    def __init__(self, surface, codes, *, colours=(ROCK, ICE, SNOW), valid=None) -> None:
        self.image = Scene(np.moveaxis(np.array(colours)[surface], -1, 0), valid)
        grid = self.image.grid
        self.image.grid = Grid(CRS.from_epsg(32623), grid.transform, grid.height, grid.width)
        self.codes = np.asarray(codes, dtype=np.uint8)

    def source(self, area, date):
        return self.image

    def labels(self, area, date):
        return Labels(self.codes, self.image.grid)


def image(values: np.ndarray, *, left: float = 0.0, valid=None) -> Image:
    grid = Grid(CRS.from_epsg(32623), Affine(10, 0, left, 0, -10, 0), *values.shape[1:])
    valid = np.ones(values.shape[1:], bool) if valid is None else valid
    return Image(values.astype(np.float32), valid, BANDS, grid)


# ---- thumbnails


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 100))
def test_thumbnail_is_every_nth_pixel(height, width, longest):
    values = np.random.default_rng(0).uniform(0.1, 1, (4, height, width)).astype(np.float32)
    valid = np.random.default_rng(1).random((height, width)) > 0.2
    source = Scene(values, valid)
    small = exploration.thumbnail(source, longest=longest)
    step = -(-max(height, width) // longest)
    assert max(small.grid.shape) <= longest
    np.testing.assert_array_equal(small.reflectance, source.pixels[:, ::step, ::step])
    np.testing.assert_array_equal(small.valid, valid[::step, ::step])
    assert small.grid.shape == small.valid.shape
    assert small.grid.transform == source.grid.transform @ Affine.scale(step)


@pytest.mark.parametrize("height", [1023, 1024, 1025, 2311])
@pytest.mark.parametrize("longest", [400, 997, 4000])
def test_thumbnail_of_several_strips_keeps_its_step_across_them(height, longest):
    values = np.arange(4 * height * 3, dtype=np.float32).reshape(4, height, 3) + 1
    source = Scene(values)
    step = -(-height // longest)
    small = exploration.thumbnail(source, longest=longest)
    np.testing.assert_array_equal(small.reflectance, values[:, ::step, ::step])
    assert max(source.heights) <= 1024
    codes = (np.arange(height * 3) % 251).astype(np.uint8).reshape(height, 3)
    mask = exploration.thumbnail_mask(Labels(codes, source.grid), longest=longest)
    np.testing.assert_array_equal(mask, codes[::step, ::step])
    assert mask.shape == small.grid.shape


def test_small_scene_is_not_thinned():
    source = Scene(np.ones((4, 20, 30)))
    assert exploration.thumbnail(source).grid.matches(source.grid)


# ---- sampled pixels


def test_sample_is_even_known_and_the_same_twice():
    codes = np.zeros((40, 60), np.uint8)
    codes[:, 30:], codes[:5] = 1, 255
    valid = np.ones((40, 60), bool)
    valid[30:, :20] = False
    data = Data((codes == 1).astype(int), codes, valid=valid)
    drawn = exploration.sample_pixels(data, "train", "2023-08", count=120, window=20, seed=3)
    assert list(drawn.columns) == ["area", "date", "class", "window", *BANDS]
    assert set(drawn["class"]) == {"glacier", "not glacier"}
    # Six windows share 120 pixels.
    assert drawn["window"].value_counts().to_dict() == dict.fromkeys(range(6), 20)
    np.testing.assert_allclose(drawn.loc[drawn["class"] == "glacier", "red"], ICE[0])
    np.testing.assert_allclose(drawn.loc[drawn["class"] == "not glacier", "nir"], ROCK[3])
    again = exploration.sample_pixels(data, "train", "2023-08", count=120, window=20, seed=3)
    pd.testing.assert_frame_equal(drawn, again)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40))
def test_sample_never_gives_more_than_asked(count, windows):
    data = Data(np.zeros((32, 48), int), np.zeros((32, 48)))
    drawn = exploration.sample_pixels(data, "a", "d", count=count, window=8, windows=windows)
    assert 0 < len(drawn) <= count
    assert drawn["window"].nunique() <= windows


def test_windows_without_a_known_pixel_do_no_harm():
    codes = np.full((16, 32), 255)
    codes[:, 16:] = 1
    data = Data((codes == 1).astype(int), codes)
    drawn = exploration.sample_pixels(data, "a", "d", window=16)
    assert set(drawn["class"]) == {"glacier"}
    assert set(drawn["window"]) == {1}


def test_sample_of_an_unknown_area_is_an_error():
    data = Data(np.zeros((16, 16), int), np.full((16, 16), 255))
    with pytest.raises(GlacierError, match="stub, area a, 2023-08: no pixel has both"):
        exploration.sample_pixels(data, "a", "2023-08")


def test_sample_takes_the_files_of_a_folder_of_patches_as_windows(make_dataset):
    data = open_dataset(make_dataset(patches=(2, 3), size=16))
    drawn = exploration.sample_pixels(data, "train", "2023-08", count=600)
    assert drawn["window"].value_counts().to_dict() == dict.fromkeys(range(6), 100)
    medians = drawn.groupby("class")["red"].median()
    assert medians["glacier"] == pytest.approx(0.35, abs=0.01)
    assert medians["not glacier"] == pytest.approx(0.09, abs=0.01)


# ---- fractions


def test_snow_is_counted_beyond_the_first_strip():
    codes = np.zeros((1100, 4), np.uint8)
    codes[1050:] = 1
    surface = np.zeros((1100, 4), int)
    surface[1075:], surface[:11] = 2, 1  # snow on half of the glacier, ice outside
    data = Data(surface, codes)
    assert exploration.snow_fractions(data, "a", "d") == {"snow outside": 0.0, "snow inside": 0.5}


def test_fractions_of_what_is_not_there_are_nan():
    data = Data(np.zeros((8, 8), int), np.full((8, 8), 255))
    assert all(np.isnan(value) for value in exploration.snow_fractions(data, "a", "d").values())


# ---- ice that no outline covers

BRIGHT, DARK = (0.45, 0.47, 0.48, 0.40), (0.09, 0.08, 0.06, 0.2)


def grid_of(shape: tuple[int, int]) -> Grid:
    return Grid(CRS.from_epsg(32623), Affine(100, 0, 450_000, 0, -100, 6_780_000), *shape)


def image_of(ice: np.ndarray, valid: np.ndarray | None = None) -> Image:
    valid = np.ones(ice.shape, bool) if valid is None else valid
    values = np.where(ice, np.array(BRIGHT)[:, None, None], np.array(DARK)[:, None, None])
    return Image((values * valid).astype(np.float32), valid, BANDS, grid_of(ice.shape))


class Arrays(Source, Mask):
    """An image, or its label, in memory."""

    def __init__(self, image: Image, label: np.ndarray) -> None:
        self.image, self.label, self.grid, self.bands = image, label, image.grid, image.bands
        self.paths, self.tiles = [], []

    def cut(self, array: np.ndarray, fill: int, row, col, height, width) -> np.ndarray:
        margin = 40
        edges = [(0, 0)] * (array.ndim - 2) + [(margin, margin)] * 2
        padded = np.pad(array, edges, constant_values=fill)
        return padded[
            ..., margin + row : margin + row + height, margin + col : margin + col + width
        ]

    def read(self, row=0, col=0, height=None, width=None):
        size = row, col, height, width
        values, valid = (self.cut(a, 0, *size) for a in (self.image.reflectance, self.image.valid))
        return Image(values, valid, BANDS, self.grid.window(*size))

    @property
    def mask(self) -> Mask:
        outer = self

        class Label(Mask):
            grid = outer.grid

            def read(self, row=0, col=0, height=None, width=None):
                return outer.cut(outer.label, 255, row, col, height, width)

        return Label()


def suspicious(image: Image, label: np.ndarray, least: float = 0.05) -> np.ndarray:
    """The same on the whole image at once: ice-like pixels in regions on the frame's edge."""
    around = np.ones((3, 3), bool)
    ice = image.valid & (label == 0) & indices.ice_index(image.reflectance, image.bands)
    regions, count = ndimage.label(ice, around)
    border = ndimage.binary_dilation(~np.pad(image.valid, 1), around)[1:-1, 1:-1]
    size = np.bincount(regions.ravel(), minlength=count + 1) * image.grid.pixel_area_km2
    good = np.isin(np.arange(count + 1), regions[border]) & (size >= least)
    return ice & good[regions]


def test_what_is_suspicious():
    ice = np.zeros((20, 30), bool)
    ice[0:5, 0:10] = True  # on the frame's edge: 50 px, 40 of them outside the outline
    ice[5, 10] = True  # touches it at a corner
    ice[8:14, 8:14] = True  # on nothing
    ice[16:19, 27:] = True  # on the frame's edge: 9 px
    ice[10:14, 20:23] = True  # on a pixel without data
    valid = np.ones(ice.shape, bool)
    valid[14, 23] = False
    label = np.zeros(ice.shape, np.uint8)
    label[0:5, 0:2] = 1
    image = image_of(ice, valid)
    expected = np.zeros(ice.shape, bool)
    expected[0:5, 2:10] = expected[5, 10] = expected[10:14, 20:23] = True
    np.testing.assert_array_equal(suspicious(image, label, 0.1), expected)
    expected[16:19, 27:] = True
    np.testing.assert_array_equal(suspicious(image, label), expected)  # 0.09 > 0.05 km2
    found = exploration.find_suspicious(Arrays(image, label), Arrays(image, label).mask)
    assert found.area_km2.tolist() == pytest.approx([0.41, 0.12, 0.09])
    assert found.crs == "EPSG:32623"
    assert found.attrs["report"] == [
        "ice-like, outside every outline and on the edge of the image: 0.62 km2 in 3 regions"
    ]


def test_unknown_and_outlined_ground_is_not_suspicious():
    ice = np.ones((6, 6), bool)
    for value in (1, 255):
        assert not suspicious(image_of(ice), np.full(ice.shape, value, np.uint8)).any()
    assert not suspicious(image_of(~ice), np.zeros(ice.shape, np.uint8)).any()
    label = np.zeros(ice.shape, np.uint8)
    nothing = exploration.find_suspicious(
        Arrays(image_of(~ice), label), Arrays(image_of(~ice), label).mask
    )
    assert nothing.empty
    assert nothing.attrs["report"] == []


@pytest.mark.slow
@settings(max_examples=40)
@given(
    ice=arrays.arrays(bool, (13, 17), elements=st.sampled_from([True, True, False])),
    hole=st.tuples(st.integers(0, 12), st.integers(0, 16)),
    outline=st.tuples(st.integers(0, 12), st.integers(0, 16)),
    least=st.sampled_from([0.0, 0.05]),
)
def test_regions_are_those_of_the_pixels(ice, hole, outline, least):
    valid, label = np.ones(ice.shape, bool), np.zeros(ice.shape, np.uint8)
    valid[hole] = False
    label[outline[0], :] = label[:, outline[1]] = 1
    image = image_of(ice, valid)
    whole = suspicious(image, label, least)
    scene = Arrays(image, label)
    found = exploration.find_suspicious(scene, scene.mask, min_area_km2=least)
    burnt = rasterize(found.assign(kind="glacier"), image.grid)
    np.testing.assert_array_equal(burnt == 1, whole)
    assert found.area_km2.sum() == pytest.approx(whole.sum() * 0.01)
    assert found.area_km2.is_monotonic_decreasing
    assert found.is_valid.all()
    # Made unknown, it is not suspicious any more.
    known = IceOutsideMask(scene.mask, shapely.union_all(found.geometry.to_numpy()))
    assert exploration.find_suspicious(scene, known, min_area_km2=least).empty


def test_strips_do_not_cut_regions():
    ice = np.zeros((1040, 8), bool)
    ice[:1030, 2] = True  # one region from the edge down across the first strip's end
    ice[1022:1027, 5] = True  # another there, on no edge
    image, label = image_of(ice), np.zeros(ice.shape, np.uint8)
    found = exploration.find_suspicious(Arrays(image, label), Arrays(image, label).mask)
    assert found.area_km2.tolist() == pytest.approx([10.3])


def test_the_icefield_beyond_athabasca(real_data):
    dataset = open_dataset("athabasca")
    path = real_data / "athabasca_hls" / "athabasca_outline.shp"
    # By the outline alone: the test dataset's `coverage` would have hidden it.
    for date, area in (("2020-08-16", 5.63), ("2020-09-09", 5.13)):
        source = dataset.source("train", date)
        outlines = read_outlines(path, bounds=source.grid.bounds, crs=source.grid.crs)
        label = OutlineMask(outlines, source.grid)
        found = exploration.find_suspicious(source, label)
        # Of 11.7 and 12.2 km2 outside the outline.
        assert found.area_km2.sum() == pytest.approx(area, rel=0.05)
        # The Columbia Icefield goes on west and south of where the outline cuts it.
        for place in ((478_200, 5_782_500), (479_500, 5_778_500)):
            assert found.contains(shapely.Point(place)).any()
        assert exploration.find_suspicious(source, dataset.labels("train", date)).empty
