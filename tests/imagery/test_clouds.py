"""Cloud masks: where they come from, what they cost in ice, and that windows do not matter."""

from __future__ import annotations

import builtins
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy import ndimage

from glacier_utils.errors import GlacierError
from glacier_utils.imagery import clouds
from glacier_utils.imagery.clouds import cloud_fractions, cloud_mask, unfit
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import Source, open_source
from glacier_utils.outlines.inventory import read_outlines
from glacier_utils.outlines.rasterization import OutlineMask
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.mask import Mask, open_mask

UTM = CRS.from_epsg(32623)
BANDS = ("red", "green", "blue", "nir")
needs_csmask = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ukis_csmask", "onnxruntime")),
    reason="ukis-csmask is not installed (extra cloud)",
)


def grid(shape, pixel=30.0):
    return Grid(UTM, Affine(pixel, 0, 500_000, 0, -pixel, 6_800_000), *shape)


def cut(array, row, col, height, width, fill):
    """Return a window of [..., row, col] that may stick out."""
    rows, cols = array.shape[-2:]
    result = np.full((*array.shape[:-2], height, width), fill, array.dtype)
    a, b, c, d = max(row, 0), min(row + height, rows), max(col, 0), min(col + width, cols)
    if a < b and c < d:
        result[..., a - row : b - row, c - col : d - col] = array[..., a:b, c:d]
    return result


class Picture(Source):
    """An image in memory that counts what is read of it."""

    def __init__(self, reflectance, valid=None, *, bands=BANDS, pixel=30.0):
        self.reflectance_array = reflectance.astype(np.float32)
        self.valid = np.ones(reflectance.shape[1:], bool) if valid is None else valid
        self.reflectance_array[:, ~self.valid] = 0
        self.grid, self.bands = grid(reflectance.shape[1:], pixel), bands
        self.paths, self.tiles, self.reads = [], [], 0

    def read(self, row=0, col=0, height=None, width=None):
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        self.reads += height * width
        window = (row, col, height, width)
        return Image(
            cut(self.reflectance_array, *window, 0),
            cut(self.valid, *window, False),
            self.bands,
            self.grid.window(*window),
        )


class Codes(Mask):
    """A mask in memory."""

    def __init__(self, codes, pixel=30.0):
        self.codes = np.asarray(codes, np.uint8)
        self.grid = grid(self.codes.shape, pixel)

    def read(self, row=0, col=0, height=None, width=None):
        height = self.grid.height - row if height is None else height
        width = self.grid.width - col if width is None else width
        return cut(self.codes, row, col, height, width, 255)


def landscape(shape=(300, 330), seed=0):
    """Return rough ground with a smooth bright bank over its left part."""
    random = np.random.default_rng(seed)
    image = 0.1 + 0.05 * random.random((4, *shape))
    across = np.clip(1.2 - np.arange(shape[1]) / (0.5 * shape[1]), 0, 1)
    return (image * (1 - across) + 0.5 * across).astype(np.float32)


# --- the choice


def test_scene_classification_becomes_cloud_and_shadow():
    codes = np.arange(12, dtype=np.uint8)[None]
    source = Picture(landscape((1, 12)))
    mask = cloud_mask(source, scl=Codes(codes))
    assert mask.method == "scl"
    assert mask.read().tolist() == [[255, 255, 0, 2, 0, 0, 0, 0, 1, 1, 0, 0]]
    assert "without thin cirrus" in mask.text


def test_invalid_pixels_and_what_lies_outside_are_not_assessed():
    valid = np.array([[True, False, True]])
    source = Picture(landscape((1, 3)), valid)
    mask = cloud_mask(source, ready=Codes([[1, 1, 255]]))
    assert mask.read().tolist() == [[1, 255, 255]]
    assert mask.read(-1, -1, 3, 5)[1].tolist() == [255, 1, 255, 255, 255]
    assert (mask.read(5, 5, 2, 2) == 255).all()


def test_a_coarser_classification_is_laid_on_the_image():
    source = Picture(landscape((4, 4)), pixel=10.0)
    mask = cloud_mask(source, scl=Codes([[9, 4], [3, 0]], pixel=20.0))
    assert mask.read().tolist() == [[1, 1, 0, 0]] * 2 + [[2, 2, 255, 255]] * 2


def test_the_users_mask_goes_before_the_classification():
    source = Picture(landscape((1, 2)))
    ready, scl = Codes([[0, 2]]), Codes([[9, 9]])
    assert cloud_mask(source, ready=ready, scl=scl).read().tolist() == [[0, 2]]
    assert cloud_mask(source, ready=ready, scl=scl, method="scl").read().tolist() == [[1, 1]]


def test_none_assesses_nothing_and_reads_nothing():
    source = Picture(landscape((5, 6)))
    mask = cloud_mask(source, method="none")
    assert (mask.read(1, 1, 2, 3) == 255).all()
    assert source.reads == 0
    assert mask.text == "clouds: not assessed (as asked for)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "csmaks"}, "did you mean 'csmask'"),
        ({"method": "fmask4"}, "did you mean"),
        ({"method": "?"}, "known are auto, ready"),
        ({"method": "scl"}, "needs the scene classification"),
        ({"method": "ready"}, "needs a cloud mask of your own"),
    ],
)
def test_wrong_choices_name_the_remedy(arguments, words):
    with pytest.raises(GlacierError, match=words.replace("?", r"\?")):
        cloud_mask(Picture(landscape((4, 4))), **arguments)


@pytest.mark.parametrize("hidden", ["ukis_csmask", "onnxruntime"])
def test_a_missing_package_is_said_and_does_no_harm(monkeypatch, hidden):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == hidden:
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    source = Picture(landscape((40, 40)))
    mask = cloud_mask(source)
    assert mask.method == "none"
    assert (mask.read() == 255).all()
    assert mask.text == (
        "clouds: not assessed (no scene classification, and ukis-csmask is not installed: "
        "pip install -e '.[cloud]')"
    )
    with pytest.raises(GlacierError, match="not installed"):
        cloud_mask(source, method="csmask")


def test_unfit_imagery_is_refused_with_a_reason():
    good = landscape((64, 64))
    assert unfit(Picture(good)) == ""
    assert unfit(Picture(good, pixel=10.0)) == ""
    cases = {
        "needs the band nir": Picture(good[:3], bands=BANDS[:3]),
        "8-bit": Picture(np.round(good * 255) / 255),
        "not in reflectance": Picture(good * 10_000),
        "pixels are 60 m": Picture(good, pixel=60.0),
    }
    for words, source in cases.items():
        assert words in unfit(source)
        mask = cloud_mask(source)
        assert mask.method == "none"
        assert words in mask.text
    for words in ("needs the band nir", "8-bit", "not in reflectance"):
        with pytest.raises(GlacierError, match=words):
            cloud_mask(cases[words], method="csmask")
    assert unfit(Picture(np.full((4, 64, 64), 0.2))) == ""  # 51/255, by chance
    # Nothing is known of an image that is all invalid, but that is no reason to refuse it.
    assert unfit(Picture(good, np.zeros(good.shape[1:], bool))) == ""


@needs_csmask
def test_a_user_may_insist_on_coarse_pixels_and_is_told():
    mask = cloud_mask(Picture(landscape((64, 64)), pixel=60.0), method="csmask")
    assert "the pixels are 60 m" in mask.text


# --- the network


def reference(image):
    """Return what the package's own class says of a whole array."""
    from ukis_csmask.mask import CSmask

    own = CSmask(
        np.ascontiguousarray(np.moveaxis(image, 0, -1)),
        list(BANDS),
        product_level="l1c",
        intra_op_num_threads=1,
        inter_op_num_threads=1,
        providers=["CPUExecutionProvider"],
    )
    return own.csm[..., 0]


@needs_csmask
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input image is smaller")
@pytest.mark.parametrize(
    ("shape", "steps"), [((300, 330), 6), ((110, 420), 1)], ids=["one block", "three blocks"]
)
def test_blocks_say_what_the_class_says_of_the_whole(monkeypatch, shape, steps):
    monkeypatch.setattr(clouds, "_BLOCK", steps * clouds._STEP)
    monkeypatch.setattr(clouds, "_ROWS", 100)
    image = landscape(shape)
    mine, own = cloud_mask(Picture(image), method="csmask").read(), reference(image)
    assert len(np.unique(own)) > 1  # an answer that is the same everywhere would prove nothing
    np.testing.assert_array_equal(mine, own)


@needs_csmask
@pytest.mark.slow
def test_csmask_does_not_depend_on_the_window():
    shape = (300, 330)
    valid = np.ones(shape, bool)
    valid[270:, 300:] = False
    source = Picture(landscape(shape), valid)
    whole = cloud_mask(source, method="csmask").read()
    assert set(np.unique(whole)) >= {0, 1, 255}
    assert ((whole == 255) == ~valid).all()
    parts = cloud_mask(source, method="csmask")
    for row, col, height, width in ((230, 240, 70, 90), (0, 0, 13, 330), (150, 37, 100, 1)):
        part = parts.read(row, col, height, width)
        assert (part == whole[row : row + height, col : col + width]).all()
    outside = parts.read(-5, -5, 10, 10)
    assert (outside[5:, 5:] == whole[:5, :5]).all()
    assert (outside[:5] == 255).all()


@needs_csmask
def test_fine_pixels_are_averaged_to_thirty_metres():
    coarse = landscape((100, 90))
    fine = coarse.repeat(3, axis=1).repeat(3, axis=2)[:, :299, :268]  # cut: 300 and 270 would fit
    valid = np.ones(fine.shape[1:], bool)
    valid[::3, 1::3] = False  # a hole in a square must not darken its mean
    fine_mask = cloud_mask(Picture(fine, valid, pixel=10.0), method="csmask")
    coarse_mask = cloud_mask(Picture(coarse, pixel=30.0), method="csmask")
    expected = coarse_mask.read().repeat(3, axis=0).repeat(3, axis=1)[:299, :268]
    assert (fine_mask.read()[valid] == expected[valid]).mean() > 0.999
    assert "at 30 m" in fine_mask.text
    window = fine_mask.read(31, 44, 50, 61)
    assert (window == fine_mask.read()[31:81, 44:105]).all()


@needs_csmask
def test_the_image_is_read_once_and_empty_ground_not_predicted(monkeypatch):
    source = Picture(landscape((300, 300)))
    mask = clouds.NetworkMask(source)
    for row in range(0, 300, 100):
        mask.read(row, 0, 100, 300)
    assert source.reads == 300 * 300
    empty = clouds.NetworkMask(Picture(landscape((40, 40)), np.zeros((40, 40), bool)))
    monkeypatch.setattr(clouds, "_classify", lambda image: pytest.fail("predicted nothing"))
    assert (empty.read() == 0).all()


@needs_csmask
def test_a_failing_network_is_one_line(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("out\nof memory")

    monkeypatch.setattr("ukis_csmask.mask.CSmask", broken)
    mask = cloud_mask(Picture(landscape((40, 40))), method="csmask")
    with pytest.raises(GlacierError, match=r"the network failed \(out of memory\)"):
        mask.read()


@given(resolution=st.floats(0.5, 100))
def test_fine_pixels_are_joined_up_to_thirty_metres(resolution):
    factor = clouds.NetworkMask(Picture(np.zeros((4, 2, 2)), pixel=resolution)).factor
    assert factor == 1 or factor * resolution <= clouds.WORKING_M * 1.02
    assert (factor + 1) * resolution > clouds.WORKING_M * 0.99


# --- what a mask says


def test_fractions_count_what_was_assessed():
    codes = np.array([[0, 1, 1, 255], [2, 0, 0, 0], [255, 255, 255, 0]], np.uint8)
    assert cloud_fractions(codes) == {"cloud": 2 / 8, "shadow": 1 / 8}
    assert all(math.isnan(value) for value in cloud_fractions(np.full((2, 2), 255)).values())


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0, 1, 2, 255]), min_size=1, max_size=40))
def test_fractions_stay_within_bounds(codes):
    fractions = cloud_fractions(np.array([codes], np.uint8))
    assessed = [code for code in codes if code != 255]
    if assessed:
        clear = 1 - fractions["cloud"] - fractions["shadow"]
        assert clear == pytest.approx(assessed.count(0) / len(assessed))


# --- real imagery (figures measured once, held to bounds)


def nuuk(real_data: Path):
    folder = real_data / "nuuk_sentinel2"
    stem = "T22WDS_20200831T150809"
    source = open_source(
        [folder / f"{stem}_{name}_60m.jp2" for name in ("B02", "B03", "B04", "B8A")],
        bands=["red", "green", "blue", "nir"],
        reflectance=Reflectance(10000),
        bounds=(
            399960,
            7110000,
            429960,
            7140000,
        ),  # open sea in the west, low cloud over half of it
    )
    return source, open_mask(folder / f"{stem}_SCL_60m.jp2", source.grid, codes=range(12))


def athabasca(real_data: Path, sensor: str):
    folder = real_data / "athabasca_hls"
    nir = "*_B05_*" if sensor == "L30" else "*_B8A_*"
    return open_source(
        str(folder / f"*_{sensor}.tif"),
        bands={"red": "*_B04_*", "green": "*_B03_*", "blue": "*_B02_*", "nir": nir},
        reflectance=Reflectance(10000),
    )


@needs_csmask
def test_nuuk_csmask_against_the_scene_classification(real_data):
    source, raw = nuuk(real_data)
    assert "the pixels are 60 m" in cloud_mask(source).text
    scl = cloud_mask(source, scl=raw).read() == clouds.CLOUD
    network = cloud_mask(source, method="csmask").read() == clouds.CLOUD
    # Measured: 0.85 of the cloud found, IoU 0.58.
    assert network[scl].mean() == pytest.approx(0.85, abs=0.05)
    assert (scl & network).sum() / (scl | network).sum() == pytest.approx(0.58, abs=0.05)


@needs_csmask
@pytest.mark.parametrize(("sensor", "date"), [("L30", "2020-08-16"), ("S30", "2020-09-09")])
def test_athabasca_has_no_false_cloud_until_it_is_blurred(real_data, sensor, date):
    source = athabasca(real_data, sensor)
    grid = source.grid
    outlines = read_outlines(
        real_data / "athabasca_hls/athabasca_outline.shp", bounds=grid.bounds, crs=grid.crs
    )
    label = OutlineMask(outlines, grid)
    mask = cloud_mask(source)
    assert mask.method == "csmask"
    codes, ice = mask.read(), label.read()
    assert (ice == 1).sum() * grid.pixel_area_km2 == pytest.approx(16, abs=0.3)
    assert np.isin(codes[ice == 1], (clouds.CLOUD, clouds.SHADOW)).mean() < 0.005
    assert (codes[ice == 0] == clouds.CLOUD).mean() < 0.005
    # The same ice drawn twice as large becomes cloud, which is why csmask decides nothing.
    image = source.read().reflectance
    large = ndimage.zoom(image, (1, 2, 2), order=1, grid_mode=True, mode="nearest")
    twice = cloud_mask(Picture(large, bands=source.bands), method="csmask").read()
    assert (twice[ice.repeat(2, axis=0).repeat(2, axis=1) == 1] == clouds.CLOUD).mean() > 0.03


def test_everest_is_refused(real_data):
    folder = real_data / "everest_landsat7"
    source = open_source(
        str(folder / "*.tif"),
        bands={**{name: {"file": "*_RGB.tif", "band": number}
                  for number, name in enumerate(("red", "green", "blue"), 1)}, "nir": "*_B4.tif"},
        reflectance=Reflectance(255),
    )  # fmt: skip
    assert "8-bit digital numbers" in unfit(source)
    assert cloud_mask(source).method == "none"
