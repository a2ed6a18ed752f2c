"""Sun, shadow and reflectance: known geometry, and the percentiles of real surfaces."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

from glacier_utils import conventions
from glacier_utils.synthetic import rendering
from glacier_utils.synthetic.glaciers import Landscape, build_landscape
from glacier_utils.synthetic.rendering import SPECTRA, Scene
from glacier_utils.synthetic.sample import AREAS, SEASONS

KINDS = {"snow": (8, 10), "ice": (7,), "rock": (1, 3, 9), "water": (5, 6, 12), "tundra": (2,)}
SEED = (0, 2)


def test_flat_ground_is_the_reference():
    direct, shadow = rendering.sunlight(np.zeros((20, 20)), 40, 170)
    np.testing.assert_allclose(direct, 1, rtol=1e-5)
    np.testing.assert_allclose(shadow, 0, atol=1e-6)


@pytest.mark.parametrize("azimuth", [150, 180, 205])
@pytest.mark.parametrize("zenith", [40, 49])
def test_wall_casts_a_shadow_as_long_as_geometry_says(zenith, azimuth):
    height = np.zeros((80, 60))
    height[60] = 300  # the sun stands in the south, the shadow falls to lower rows
    _, shadow = rendering.sunlight(height, zenith, azimuth)
    length = (shadow[:58, 30] > 0.5).sum() * 10
    across = np.cos(np.radians(180 - azimuth))
    assert abs(length - 300 * np.tan(np.radians(zenith)) * across) < 30
    assert not shadow[65:].any()


def test_a_peak_throws_its_shadow_away_from_the_sun():
    height = np.zeros((80, 80))
    height[50:53, 39:42] = 200
    _, shadow = rendering.sunlight(height, 49, 160)
    rows, cols = np.nonzero(shadow[:48] > 0.5)
    tip = rows.argmin()
    # The sun in the south-southeast: to the north-northwest.
    np.testing.assert_allclose(50 - rows[tip], 23 * np.cos(np.radians(20)), atol=3)
    np.testing.assert_allclose(40 - cols[tip], 23 * np.sin(np.radians(20)), atol=2)


def test_slopes_to_the_sun_are_brighter():
    rows, _ = np.indices((30, 30), dtype=float)
    south, _ = rendering.sunlight(-3 * rows, 45, 180)
    north, _ = rendering.sunlight(3 * rows, 45, 180)
    tilt = np.arctan(0.3)
    np.testing.assert_allclose(south[15, 15], np.cos(np.pi / 4 - tilt) / np.cos(np.pi / 4), 1e-3)
    np.testing.assert_allclose(north[15, 15], np.cos(np.pi / 4 + tilt) / np.cos(np.pi / 4), 1e-3)


@pytest.mark.parametrize("kind", sorted(SPECTRA))
def test_normal_scores_give_the_percentiles_and_how_bands_go_together(kind):
    spectrum = np.array(SPECTRA[kind])
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((3, 40_000), dtype=np.float32)
    made = np.stack([rendering.reflect(kind, band, *parts) for band in range(4)])
    known = spectrum[:, 1:6]
    found = np.percentile(made, rendering.PERCENTILES[1:6], axis=1).T
    np.testing.assert_allclose(found, known, rtol=0.12, atol=0.003)
    loadings = spectrum[:, 7:]
    scores = np.argsort(np.argsort(made, axis=1), axis=1)
    np.testing.assert_allclose(np.corrcoef(scores), loadings @ loadings.T, atol=0.08)


@pytest.fixture(scope="module")
def landscapes() -> list[Landscape]:
    return [
        build_landscape(768, 768, area.setting, np.random.default_rng((0, number, 0)))
        for number, area in enumerate(AREAS)
    ]


@pytest.fixture(scope="module")
def rendered(landscapes) -> list[list[Scene]]:
    """All scenes, ``[area][season]``."""
    return [
        [
            rendering.render(landscape, area.look, season, (*SEED, when))
            for when, season in enumerate(SEASONS)
        ]
        for area, landscape in zip(AREAS, landscapes, strict=True)
    ]


@pytest.fixture(scope="module")
def painted(landscapes) -> list[SimpleNamespace]:
    """Reflectance before light and air, the codes and the fractions of August."""
    made = []
    for area, landscape in zip(AREAS, landscapes, strict=True):
        cover = rendering.cover_ground(landscape, area.look, SEASONS[1], (*SEED, 1))
        image, surface = rendering.paint(landscape, area.look, SEASONS[1], cover)
        parts = dict(rendering.surfaces(landscape, cover))
        made.append(SimpleNamespace(image=image, surface=surface, cover=cover, parts=parts))
    return made


@pytest.mark.slow
def test_fractions_sum_to_one(painted):
    for area in painted:
        assert set(area.parts) == set(conventions.SURFACES)
        assert min(part.min() for part in area.parts.values()) > -1e-5
        np.testing.assert_allclose(sum(area.parts.values()), 1, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_surfaces_lie_within_real_percentiles(painted, kind):
    """Pure pixels of both areas: the 5th, 50th and 95th percentile within those of real points."""
    pixels = np.concatenate(
        [area.image[:, sum(area.parts[code] for code in KINDS[kind]) > 0.9] for area in painted],
        axis=1,
    )
    assert pixels.shape[1] > 50
    made = np.percentile(pixels, [5, 50, 95], axis=1).T
    low, high = np.array(SPECTRA[kind])[:, [1, 5]].T
    assert (made > 0.9 * low[:, None] - 0.003).all()
    assert (made < 1.1 * high[:, None] + 0.003).all()


@pytest.mark.slow
def test_rock_and_debris_have_one_tint(painted, landscapes):
    for area, landscape in zip(painted, landscapes, strict=True):
        debris = area.parts[9] > 0.9
        rock = (area.parts[1] > 0.9) & (landscape.height > 0.6 * landscape.equilibrium_m)
        if debris.sum() < 200:
            continue
        ratios = [
            np.median(area.image[:, where] / area.image[1, where], axis=1)
            for where in (debris, rock)
        ]
        np.testing.assert_allclose(*ratios, atol=0.08)


@pytest.mark.slow
def test_shadowed_snow_follows_real_percentiles(rendered):
    """Median within 0.12; the upper tail of the real points, .33 to .74, is half-lit snow."""
    pixels = np.concatenate(
        [
            scene.reflectance[:, np.isin(scene.surface, (8, 10)) & (scene.shadow > 0.9)]
            for dates in rendered
            for scene in dates
        ],
        axis=1,
    )
    made = np.median(pixels, axis=1)
    np.testing.assert_allclose(made, [0.33, 0.41, 0.47, 0.23], atol=0.12)
    # Skylight is blue: the order of the bands is that of the real points.
    assert made[2] > made[1] > made[0] > made[3]


@pytest.mark.slow
def test_july_has_more_snow_and_shorter_shadows(rendered):
    for july, august in rendered:
        assert july.shadow.mean() < august.shadow.mean()
        snow = [np.isin(scene.surface, (8, 10)).sum() for scene in (july, august)]
        assert snow[0] > snow[1]
        floating = [(scene.surface == 11).sum() for scene in (july, august)]
        assert floating[0] > floating[1]  # sea ice; icebergs and melange are there on both dates


@pytest.mark.slow
def test_areas_differ_by_their_rock(rendered):
    redness = []
    for _, august in rendered:
        rock = august.reflectance[:, (august.surface == 1) & (august.shadow < 0.1)]
        redness.append(np.median(rock[0] / rock[2]))
    assert redness[1] > 1.1 * redness[0]


def test_areas_share_one_sensor():
    """The same stripes in every image, far below its noise; no band has a gain of its own."""
    found = []
    for seed in (1, 2):
        image = np.full((4, 600, 600), 0.3, np.float32)
        rendering._sensor(image, np.random.default_rng(seed))
        np.testing.assert_allclose(image.mean(axis=(1, 2)), 0.3, rtol=2e-4)
        assert 1e-3 < image.std() < 3e-3
        # The track leaves the columns by one pixel in six rows.
        along = [image[:, row, 100 - row // 6 : 600 - row // 6] for row in range(600)]
        found.append(np.mean(along, axis=0).ravel())
    assert np.std(found[0]) < 0.1 * image.std()
    assert np.corrcoef(*found)[0, 1] > 0.4
    assert "gain" not in inspect.signature(rendering.Look).parameters


@pytest.mark.slow
def test_thin_cloud_is_classified_with_faults_and_dims_the_ground(landscapes, rendered):
    landscape, clear = landscapes[1], rendered[1][0]
    cloudy = rendering.render(landscape, AREAS[1].look, SEASONS[0], (*SEED, 0), cloud=True)
    np.testing.assert_array_equal(cloudy.surface, clear.surface)
    brighter = (cloudy.reflectance - clear.reflectance).mean(axis=0)
    cloud = np.isin(cloudy.classification, (8, 9, 10))
    corner = np.s_[-200:, :200]
    assert cloud[corner].mean() > 0.3
    assert cloud[:200, -200:].mean() < 0.05
    dark = (cloudy.classification == 3) & (clear.surface != 4)
    assert brighter[dark].mean() < -0.005
    # Its edges are missed.
    assert (np.abs(brighter[~cloud & ~dark]) > 0.02).mean() > 0.001


@pytest.mark.slow
def test_classification_mostly_agrees_with_the_ground(rendered):
    expected = {2: (4, 5), 4: (6,), 7: (11,), 8: (11,)}
    for dates in rendered:
        for scene in dates:
            codes = scene.classification
            assert codes.dtype == np.uint8
            assert set(np.unique(codes)) <= {2, 3, 4, 5, 6, 8, 9, 10, 11}
            np.testing.assert_array_equal(codes[::2, ::2], codes[1::2, 1::2])
            for surface, right in expected.items():
                there = (scene.surface == surface) & (scene.shadow < 0.05)
                if there.sum() > 500:
                    assert np.isin(codes[there], right).mean() > 0.8
