"""Sun, shadow and reflectance: known geometry, and the percentiles of real surfaces."""

from __future__ import annotations

import numpy as np
import pytest

from glacier_utils import conventions
from glacier_utils.synthetic import rendering
from glacier_utils.synthetic.glaciers import Landscape, build_landscape
from glacier_utils.synthetic.sample import AREAS, SEASONS

LOW, MIDDLE, HIGH = -1.645, 0.0, 1.645


def test_flat_ground_is_the_reference():
    direct, shadow = rendering.sunlight(np.zeros((20, 20)), 40, 170)
    np.testing.assert_allclose(direct, 1, rtol=1e-5)
    np.testing.assert_allclose(shadow, 0, atol=1e-6)


@pytest.mark.parametrize("zenith", [40, 49])
def test_wall_casts_a_shadow_as_long_as_geometry_says(zenith):
    height = np.zeros((80, 20))
    height[60] = 300  # the sun stands in the south, the shadow falls to lower rows
    _, shadow = rendering.sunlight(height, zenith, 180)
    length = (shadow[:58, 10] > 0.5).sum() * 10
    assert abs(length - 300 * np.tan(np.radians(zenith))) < 40
    assert not shadow[65:].any()


def test_slopes_to_the_sun_are_brighter():
    rows, _ = np.indices((30, 30), dtype=float)
    south, _ = rendering.sunlight(-3 * rows, 45, 180)
    north, _ = rendering.sunlight(3 * rows, 45, 180)
    tilt = np.arctan(0.3)
    np.testing.assert_allclose(south[15, 15], np.cos(np.pi / 4 - tilt) / np.cos(np.pi / 4), 1e-3)
    np.testing.assert_allclose(north[15, 15], np.cos(np.pi / 4 + tilt) / np.cos(np.pi / 4), 1e-3)


@pytest.mark.parametrize("kind", sorted(rendering.SPECTRA))
def test_scores_meet_the_percentiles(kind):
    for band, known in enumerate(rendering.SPECTRA[kind]):
        made = rendering.from_quantiles(
            rendering.SPECTRA[kind], np.array([LOW, MIDDLE, HIGH]), band
        )
        np.testing.assert_allclose(made, known, rtol=1e-6)


@pytest.fixture(scope="module")
def landscapes() -> list[Landscape]:
    return [
        build_landscape(768, 768, area.setting, np.random.default_rng((0, number, 0)))
        for number, area in enumerate(AREAS)
    ]


@pytest.fixture(scope="module")
def rendered(landscapes) -> list[list[rendering.Scene]]:
    """All scenes, ``[area][season]``."""
    return [
        [
            rendering.render(landscape, area.look, season, (0, 2, when))
            for when, season in enumerate(SEASONS)
        ]
        for area, landscape in zip(AREAS, landscapes, strict=True)
    ]


@pytest.mark.slow
def test_fractions_sum_to_one(landscapes):
    rng = np.random.default_rng(0)
    parts = rendering.surfaces(landscapes[0], AREAS[0].look, SEASONS[1], rng, rng)
    assert set(parts) == set(conventions.SURFACES)
    assert min(part.min() for part in parts.values()) > -1e-5
    np.testing.assert_allclose(sum(parts.values()), 1, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "codes", "tolerance"),
    [
        ("snow", (8, 10), 0.10),
        ("ice", (7,), 0.08),
        ("rock", (1, 9), 0.08),
        ("water", (4, 5, 6), 0.10),
    ],
)
def test_sunlit_surfaces_follow_real_percentiles(rendered, kind, codes, tolerance):
    """Both areas and dates pooled, sunlit pixels: within ``tolerance`` of reflectance.

    Not closer, because slope, haze, mixed pixels and the areas' own rock and gain come on top, as
    they do in the real points, and because real water there was mostly turbid lakes, of which a
    fjord is the darker end.
    """
    pixels = np.concatenate(
        [
            scene.reflectance[:, np.isin(scene.surface, codes) & (scene.shadow < 0.1)]
            for dates in rendered
            for scene in dates
        ],
        axis=1,
    )
    made = np.percentile(pixels, [5, 50, 95], axis=1).T
    np.testing.assert_allclose(made, rendering.SPECTRA[kind], atol=tolerance)


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
        for code in (8, 10):
            assert (july.surface == code).sum() > (august.surface == code).sum()


@pytest.mark.slow
def test_areas_differ(landscapes, rendered):
    redness = []
    for _, august in rendered:
        rock = august.reflectance[:, (august.surface == 1) & (august.shadow < 0.1)]
        redness.append(np.median(rock[0] / rock[2]))
    assert redness[1] > 1.1 * redness[0]
    for landscape in landscapes:
        assert 0.1 < landscape.ice.mean() < 0.6
        assert (landscape.ice_around <= landscape.ice_2001_around).all()
        assert not (landscape.ice & (landscape.fjord | landscape.lake | landscape.melt_lake)).any()
        assert landscape.debris[landscape.ice].mean() > 0.02
        assert not landscape.debris[~landscape.ice].any()
