"""Whether values bear out the offset that is claimed for them, in both directions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio

from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.examination import Finding, Trained, check_offset, examine, heed
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import open_source

BANDS = ("red", "green", "blue", "nir")
SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "dataset.yaml"
OFFSETS = (0, -1000, 1000)
# Median reflectance of surfaces of glaciers and their surroundings, and its scatter.
WATER = (0.02, 0.03, 0.03, 0.008), 0.001
SHADOW = (0.03, 0.03, 0.04, 0.02), 0.004
ROCK = (0.16, 0.15, 0.12, 0.17), 0.03
ICE = (0.34, 0.36, 0.35, 0.24), 0.05
SNOW = (0.83, 0.83, 0.81, 0.69), 0.08
TUNDRA = (0.06, 0.07, 0.05, 0.25), 0.01


@pytest.fixture
def scene(tmp_path, write_tif):
    """Open a scene of (surface, fraction) stored with a true offset, under a claimed one."""

    def make(fractions, true, claimed, scale=10000, nodata=None, change=lambda values: values):
        random = np.random.default_rng(0)
        pieces = [
            np.array(mean)[:, None] + random.normal(0, scatter, (4, round(fraction * 300 * 300)))
            for (mean, scatter), fraction in fractions
        ]
        values = np.concatenate(pieces, axis=1)
        values = np.concatenate([values, values[:, -1:].repeat(300 * 300, axis=1)], axis=1)
        values = change(values[:, : 300 * 300]).reshape(4, 300, 300)
        stored = values * scale - true
        stored = stored if scale == 1 else stored.round().astype(np.int16)
        path = write_tif(tmp_path / f"s{true}_{claimed}_{scale}.tif", stored)
        rule = Reflectance(scale, claimed, nodata)
        return check_offset(open_source(path, bands=BANDS, reflectance=rule))

    return make


COASTAL = [(WATER, 0.2), (TUNDRA, 0.5), (ROCK, 0.2), (SNOW, 0.1)]
ALPINE = [(SHADOW, 0.03), (ROCK, 0.4), (ICE, 0.37), (SNOW, 0.2)]


@pytest.mark.parametrize("fractions", [COASTAL, ALPINE], ids=["water", "shadow"])
@pytest.mark.parametrize("true", OFFSETS)
@pytest.mark.parametrize("claimed", OFFSETS)
def test_every_wrong_claim_is_found_and_the_right_one_named(scene, fractions, true, claimed):
    found = scene(fractions, true, claimed)
    assert found.ok is (true == claimed)
    assert (found.claimed, found.fits) == (claimed, true)
    assert "\n" not in found.message
    assert ("offset 0 fits" in found.message) == (true == 0)


def test_message_says_what_was_seen_and_what_to_do(scene):
    found = scene(COASTAL, 0, -1000).message
    assert re.search(
        r"s0_-1000_10000\.tif: the values contradict offset -1000: \d\d\.\d% of the pixels would "
        r"be darker than -0\.07 in nir; offset 0 fits \(a product from before 2022, or applied "
        r"already\): state it in `reflectance`$",
        found,
    )
    found = scene(COASTAL, -1000, 0).message
    assert "at 0.11 in nir" in found
    assert found.endswith(
        "offset -1000 fits (a product since January 2022): state it in `reflectance`"
    )


def test_claim_of_the_files_tags_is_judged(tmp_path, write_tif):
    random = np.random.default_rng(0)
    water = random.choice([0.01, 0.1, 0.4, 0.8], (1, 200, 200)) * np.ones((4, 1, 1))
    path = write_tif(tmp_path / "tagged.tif", (water * 10000).round().astype(np.int16))
    for offset, ok in ((0.0, True), (-0.1, False)):
        with rasterio.open(path, "r+") as dataset:
            dataset.scales, dataset.offsets = [1e-4] * 4, [offset] * 4
        found = check_offset(open_source(path, bands=BANDS))
        assert (found.ok, found.claimed, found.fits) == (ok, round(offset * 10000), 0)
    assert "offset -1000 (file tags)" in found.message


def test_little_water_is_enough_to_refute(scene):
    fractions = [(WATER, 0.004), (ICE, 0.3), (SNOW, 0.696)]
    assert scene(fractions, 0, -1000).ok is False


@pytest.mark.parametrize(
    "fractions", [[(ICE, 1)], [(SNOW, 1)], [(ICE, 0.5), (SNOW, 0.5)], [(ROCK, 0.3), (SNOW, 0.7)]]
)
@pytest.mark.parametrize("true", OFFSETS)
def test_without_dark_pixels_no_right_claim_is_contradicted(scene, fractions, true):
    assert scene(fractions, true, true).ok is not False


def test_snow_alone_tells_nothing(scene):
    for claimed in OFFSETS:
        found = scene([(SNOW, 1)], 0, claimed)
        assert (found.ok, found.fits) == (None, None)
        assert "no dark water or shadow" in found.message


def test_dark_vegetation_bears_out_its_offset(scene):
    # No water, but red is dark enough that 1000 cannot have been added.
    assert scene([(TUNDRA, 0.9), (ROCK, 0.1)], 0, 0).ok is True


def test_numbers_of_another_kind_are_not_judged(scene):
    assert scene(ALPINE, 0, 0, scale=255).ok is None
    # 8-bit numbers, or reflectances, under a scale of 10000.
    assert scene(COASTAL, 0, 0, change=lambda v: v * 0.0255).ok is None
    assert scene(COASTAL, 0, 0, change=lambda v: v * 1e-4).ok is None
    found = scene(COASTAL, 0, 0, change=lambda v: v * 0)
    assert (found.ok, found.fits) == (None, None)
    # Reflectances as floats may have been shifted just as well.
    assert scene(COASTAL, 0, 0, scale=1).ok is True
    found = scene(COASTAL, -0.1, 0, scale=1)
    assert (found.ok, found.fits) == (False, -0.1)


def test_missing_pixels_are_not_dark(scene):
    def cut(values):
        values[:, :20_000] = 0.0  # stored as 1000
        return values

    fractions = [(ICE, 0.5), (SNOW, 0.5)]
    rule = scene(fractions, -1000, -1000, nodata=1000, change=cut)
    assert rule.ok is None


def test_saturation_decides_where_nothing_is_dark(scene):
    fractions = [(SNOW, 1)]
    for true, claimed in ((0, -1000), (-1000, 0)):
        found = scene(fractions, true, claimed, change=lambda values: np.minimum(values, 1.0))
        assert (found.ok, found.fits) == (False, true)
        assert "cut off" in found.message
        assert "saturated" in found.message
        right = scene(fractions, true, true, change=lambda values: np.minimum(values, 1.0))
        assert right.ok is None
    # Cut off anywhere else, nothing follows.
    assert scene(fractions, 0, 0, change=lambda values: np.minimum(values, 0.95)).ok is None


def test_large_scenes_are_read_in_part(tmp_path, write_tif):
    random = np.random.default_rng(0)
    path = write_tif(tmp_path / "wide.tif", random.integers(0, 9000, (4, 300, 6000), np.int16))
    source = open_source(path, bands=BANDS, reflectance=Reflectance())
    windows = []

    def read(row, col, height, width, inner=source.read):
        windows.append((row, col, height, width))
        return inner(row, col, height, width)

    source.read = read
    assert check_offset(source).ok is True
    assert 20 <= len(windows) <= 36
    assert min(col for _, col, _, _ in windows) == 0
    assert max(col + width for _, col, _, width in windows) == 6000
    assert all(row + height <= 300 for row, _, height, _ in windows)


# --- the whole examination


TRAINED = Trained(BANDS, [0.3] * 4, [0.25] * 4, 10.0)


@pytest.fixture
def noise(tmp_path, write_tif):
    """Open a scene of water, rock and snow, stored as ``change`` says, under a claimed rule."""

    def make(change, rule=None, **options):
        random = np.random.default_rng(0)
        values = random.choice([0.02, 0.2, 0.8], (1, 300, 300)) * random.normal(
            1, 0.05, (4, 300, 300)
        )
        path = write_tif(tmp_path / "scene.tif", change(values), **options)
        return open_source(path, bands=BANDS, reflectance=rule or Reflectance())

    return make


def stored(values, offset=0):
    return (values * 10000 + offset).round().astype(np.int16)


def severities(source, **how):
    return [finding.severity for finding in examine(source, **how)]


def test_sound_values_are_not_spoken_of(noise):
    assert examine(noise(stored)) == examine(noise(stored), trained=TRAINED) == []


def test_an_offset_is_refused_for_a_map_and_warned_of_where_somebody_said_so(noise):
    source = noise(stored, Reflectance(offset=-1000))
    assert severities(source) == ["warning"]
    assert severities(source, trained=TRAINED) == ["error"]
    assert severities(source, trained=TRAINED, stated=["offset"]) == ["warning"]
    source.reflectance_source = "product metadata MTD_MSIL2A.xml"
    assert severities(source, trained=TRAINED) == ["warning"]


def test_a_wrong_scale_is_warned_of_only_where_scale_and_offset_are_stated(noise):
    source = noise(lambda values: values.astype(np.float32))
    assert severities(source) == severities(source, trained=TRAINED) == ["error"]
    assert severities(source, trained=TRAINED, stated=["scale"]) == ["error"]
    assert severities(source, trained=TRAINED, stated=["scale", "offset"]) == ["warning"]


def test_saturated_numbers_of_a_product_are_no_missing_pixels(noise):
    def saturate(values):
        numbers = stored(values).astype(np.uint16)
        numbers[:, :30] = 65535
        return numbers

    source = noise(saturate)
    assert severities(source, trained=TRAINED) == ["error"]
    assert severities(source, trained=TRAINED, stated=["nodata"]) == ["warning"]
    source.reflectance_source = "product metadata MTD_MSIL2A.xml"
    assert severities(source, trained=TRAINED) == ["warning"]


def test_bands_that_the_training_lacks_and_statistics_that_nobody_has(noise):
    assert examine(noise(stored), trained=Trained(("swir",), [0.1], [0.01])) == []
    unknown = Trained(BANDS, [np.nan] * 4, [np.nan] * 4)
    assert examine(noise(stored), trained=unknown) == []


def test_warnings_are_logged_and_an_error_is_raised(caplog):
    assert heed([Finding("warning", "a % b")]) == ["a % b"] == caplog.messages
    with pytest.raises(GlacierError, match="c"):
        heed([Finding("warning", "a"), Finding("error", "c")])


# --- real imagery and the sample


@pytest.mark.skipif(not SAMPLE.exists(), reason="data/sample is not there: glacier sample makes it")
@pytest.mark.slow
def test_sample_in_both_directions():
    data = open_dataset(SAMPLE)
    for area in data.areas:
        for date in data.dates(area):
            images = data.manifest["areas"][area][date]["images"]
            for claimed in (-1000, 0):
                rule = Reflectance(10000, claimed, 0)
                source = open_source(data.folder / images, bands=BANDS, reflectance=rule)
                found = check_offset(source)
                assert (found.ok, found.fits) == (claimed == -1000, -1000), found.message


def test_nuuk_in_both_directions(real_data):
    bands = {"red": "B04", "green": "B03", "blue": "B02", "nir": "B8A"}
    for claimed in (0, -1000):
        rule = Reflectance(10000, claimed)
        source = open_source(real_data / "nuuk_sentinel2", bands=bands, reflectance=rule)
        found = check_offset(source)
        assert (found.ok, found.fits) == (claimed == 0, 0), found.message


@pytest.mark.parametrize("name", ["athabasca", "everest"])
def test_other_real_imagery_raises_no_alarm(real_data, name):
    data = open_dataset(name)
    for area in data.areas:
        for date in data.dates(area):
            found = check_offset(data.source(area, date))
            assert found.ok is (None if name == "everest" else True), found.message


def test_shadows_corrected_too_far_do_not_hide_a_wrong_claim(real_data):
    rule = Reflectance(10000, -1000)
    images = real_data / "athabasca_hls" / "*_S30.tif"
    source = open_source(images, bands=BANDS, reflectance=rule)
    found = check_offset(source)
    assert (found.ok, found.fits) == (False, 0)
