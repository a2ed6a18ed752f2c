"""Light on the synthetic sample: sun and shadow, surfaces and their reflectance, air and sensor.

Reflectances follow the 5th, 50th and 95th percentile of real Sentinel-2 surfaces (11,729 points
on four glaciers, R. Aberle 2023, doi 10.5281/zenodo.10616385); tundra and gravel, which those
points lack, follow their usual values. Bands in the order red, green, blue, near infrared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from glacier_utils.conventions import BANDS
from glacier_utils.synthetic.glaciers import PIXEL_M, Landscape, inner, north_facing
from glacier_utils.synthetic.terrain import Array, gradient, power_noise

SPECTRA: dict[str, tuple[tuple[float, float, float], ...]] = {
    "snow": ((0.52, 0.83, 0.96), (0.49, 0.83, 0.98), (0.45, 0.81, 0.97), (0.49, 0.69, 0.81)),
    "ice": ((0.18, 0.34, 0.57), (0.19, 0.36, 0.62), (0.17, 0.35, 0.63), (0.13, 0.24, 0.46)),
    "rock": ((0.06, 0.16, 0.24), (0.06, 0.15, 0.21), (0.04, 0.12, 0.18), (0.10, 0.17, 0.29)),
    "water": ((0.01, 0.11, 0.14), (0.06, 0.17, 0.18), (0.07, 0.11, 0.15), (0.003, 0.03, 0.07)),
    "tundra": ((0.04, 0.07, 0.11), (0.05, 0.08, 0.11), (0.03, 0.05, 0.08), (0.15, 0.24, 0.34)),
    "gravel": ((0.12, 0.19, 0.27), (0.11, 0.18, 0.25), (0.09, 0.15, 0.21), (0.14, 0.21, 0.30)),
}
"""5th, 50th and 95th percentile of reflectance, one row per band."""

SKY = np.array([0.18, 0.25, 0.32, 0.13], np.float32)
"""Fraction of the light on flat open ground that comes from the sky, by band."""


@dataclass(frozen=True)
class Season:
    """One date.

    Attributes:
        date: its name.
        zenith: of the sun, degrees.
        azimuth: of the sun, degrees.
        snow_line_m: height of the snow line above the equilibrium line.
    """

    date: str
    zenith: float
    azimuth: float
    snow_line_m: float


@dataclass(frozen=True)
class Look:
    """What an area's images have of their own.

    Attributes:
        rock_tint: multiplies the bands on rock.
        rock_level: shifts rock between dark (-1) and bright (1) on the scale of the percentiles.
        layers: contrast of the rock units.
        haze: mean veil in the blue.
        gain: multiplies the bands.
        patchiness: how ragged the snow line is, m.
    """

    rock_tint: tuple[float, float, float, float]
    rock_level: float
    layers: float
    haze: float
    gain: tuple[float, float, float, float]
    patchiness: float


@dataclass(frozen=True)
class Scene:
    """The image of one date.

    Attributes:
        reflectance: float32 [band, row, col].
        surface: codes of ``conventions.SURFACES``.
        shadow: fraction.
    """

    reflectance: Array
    surface: Array
    shadow: Array


def render(landscape: Landscape, look: Look, season: Season, seed: tuple[int, ...]) -> Scene:
    """Make the image of one date.

    Args:
        landscape: the area.
        look: of its images.
        season: the date.
        seed: the ground's pattern depends on all of it but the last number.
    """
    ground = np.random.default_rng(seed[:-1])
    weather = np.random.default_rng(seed)
    fractions = surfaces(landscape, look, season, ground, weather)
    albedo = _albedo(landscape, look, fractions, ground, weather)
    direct, shadow = sunlight(landscape.height_around, season.zenith, season.azimuth)
    light = _light(landscape.height, inner(direct), albedo)
    image = _atmosphere(albedo * light, look, weather)
    image *= np.array(look.gain, np.float32)[:, None, None]
    codes = np.array(list(fractions), np.uint8)
    surface = codes[np.argmax(np.stack(list(fractions.values())), axis=0)]
    return Scene(_sensor(image, weather), surface, inner(shadow))


def surfaces(
    landscape: Landscape,
    look: Look,
    season: Season,
    ground: np.random.Generator,
    weather: np.random.Generator,
) -> dict[int, Array]:
    """Return the fraction of every surface in each pixel; they sum to one.

    Args:
        landscape: the area.
        look: of its images.
        season: the date.
        ground: of what stays between dates.
        weather: of what does not.
    """
    height, shape = landscape.height, landscape.height.shape
    slope = np.hypot(*gradient(height, PIXEL_M))
    hollow = ndimage.gaussian_filter(height, 10) - ndimage.gaussian_filter(height, 2)
    # Snow lies where it drifted in spring, so both dates share most of their pattern.
    drift = power_noise(shape, ground, exponent=1.8, longest=70)
    drift = 0.9 * drift + 0.4 * power_noise(shape, weather, exponent=2, longest=40)
    turned = north_facing(height)
    line = landscape.equilibrium_m + season.snow_line_m
    off_ice = height - line + look.patchiness * drift + 140 * turned + 9 * np.clip(hollow, -15, 15)
    off_ice -= 550 * np.clip(slope - 0.6, 0, 1)
    on_ice = height - line + 0.45 * look.patchiness * drift + 70 * turned + 110
    on_ice += 18 * landscape.stripes + 4 * np.clip(hollow, -15, 15)
    snow_off = np.clip(off_ice / 90 + 0.2, 0, 1)
    snow_on = np.clip(on_ice / 120 + 0.5, 0, 1)

    ice = _soft(landscape.ice)
    water = {4: _soft(landscape.fjord), 5: _soft(landscape.lake), 6: _soft(landscape.melt_lake)}
    wet = np.minimum(sum(water.values()), 1 - ice)
    scale = wet / np.maximum(sum(water.values()), 1e-6)
    land = 1 - ice - wet
    green = power_noise(shape, ground, exponent=2, longest=80)
    tundra = np.clip((0.62 * line - height) / 260 + 0.35 * green + 0.3, 0, 1)
    tundra *= np.clip((0.95 - slope) / 0.4, 0, 1) * 0.92
    bare = land * (1 - snow_off)
    return {
        1: bare * (1 - landscape.sediment) * (1 - tundra),
        2: bare * (1 - landscape.sediment) * tundra,
        3: bare * landscape.sediment,
        **{code: field * scale for code, field in water.items()},
        7: ice * (1 - snow_on) * (1 - landscape.debris),
        8: ice * snow_on,
        9: ice * (1 - snow_on) * landscape.debris,
        10: land * snow_off,
    }


def _soft(mask: Array) -> Array:
    """Turn a mask into fractions: a 10 m edge does not follow the pixels."""
    return ndimage.gaussian_filter(mask.astype(np.float32), 0.5)


def from_quantiles(
    spectrum: tuple[tuple[float, float, float], ...], score: Array, band: int
) -> Array:
    """Map standard scores to reflectance so that -1.645, 0, 1.645 meet the three percentiles.

    Linear in the logarithm between them and beyond, held inside 0.002 to 1.1.

    Args:
        spectrum: of ``SPECTRA``.
        score: of any shape.
        band: its number.
    """
    low, middle, high = np.log(np.maximum(spectrum[band], 0.002))
    slope = np.where(score < 0, middle - low, high - middle) / 1.645
    return np.clip(np.exp(middle + slope * score), 0.002, 1.1)


def _albedo(
    landscape: Landscape,
    look: Look,
    fractions: dict[int, Array],
    ground: np.random.Generator,
    weather: np.random.Generator,
) -> Array:
    """Mix the surfaces' reflectances by their fractions, float32 ``[band, row, col]``."""
    shape = landscape.height.shape
    broad = power_noise(shape, ground, exponent=3, longest=250)
    fine = power_noise(shape, ground, exponent=1.6, longest=60)
    fresh = power_noise(shape, weather, exponent=2.5, longest=150)
    units = power_noise(shape, ground, exponent=3, longest=400)
    layered = np.sin(landscape.height / 60 + 5 * broad + 2 * units)
    rock = look.rock_level + look.layers * layered + 0.45 * broad + 0.5 * fine
    crevassed = 0.25 + np.clip(np.hypot(*gradient(landscape.height, PIXEL_M)), 0, 0.8)
    ramp = np.clip((landscape.height - landscape.equilibrium_m) / 250, -1.5, 1.0)
    debris = 0.8 * look.rock_level + 0.4 * landscape.stripes + 0.3 * broad + 0.3 * fine
    scores = {
        1: ("rock", rock),
        2: ("tundra", 0.6 * broad + 0.5 * fine),
        3: ("gravel", 0.5 * look.rock_level + 0.5 * broad + 0.5 * fine),
        4: ("water", -0.8 + 0.3 * broad),
        5: ("water", -1.4 + 0.3 * broad),
        6: ("water", 0.9 + 0.4 * broad),
        7: ("ice", 0.6 * landscape.stripes + crevassed * fine + 0.3 * broad + 0.5 * ramp),
        8: ("snow", 0.45 * fresh + 0.3 * fine + 0.5 * ramp),
        9: ("rock", debris - 0.2),
        10: ("snow", 0.45 * fresh + 0.35 * fine + 0.4 * ramp - 0.35),
    }
    tint = np.array(look.rock_tint, np.float32)
    own = [power_noise(shape, ground, exponent=2, longest=80) for _ in BANDS]
    albedo = np.zeros((len(BANDS), *shape), np.float32)
    for code, (kind, score) in scores.items():
        there = fractions[code] > 0
        for band in range(len(BANDS)):
            colour = 0.04 if kind in ("snow", "ice") else 0.15
            value = from_quantiles(SPECTRA[kind], (score + colour * own[band])[there], band)
            if code in (1, 3, 9):
                value = value * tint[band]
            albedo[band][there] += fractions[code][there] * value
    return albedo


def sunlight(height: Array, zenith: float, azimuth: float) -> tuple[Array, Array]:
    """Return direct light (1 on flat open ground, 0 in shadow) and the shadow fraction.

    The cosine of the incidence angle over that of the sun's zenith, and shadows cast by the
    terrain: the surface is compared with itself, moved away from the sun and lowered.

    Args:
        height: m [row, col].
        zenith: of the sun, degrees.
        azimuth: of the sun, degrees.
    """
    sun, turn = np.radians(zenith), np.radians(azimuth)
    east, north = gradient(height, PIXEL_M)
    facing = -np.sin(sun) * (np.sin(turn) * east + np.cos(turn) * north) + np.cos(sun)
    cosine = facing / np.sqrt(1 + east**2 + north**2)
    reach = (height.max() - height.min()) * np.tan(sun) / PIXEL_M
    ceiling = np.full(height.shape, -np.inf, np.float32)
    # Every third cell will do where crests are three cells wide.
    crest = ndimage.maximum_filter(height, 3)
    for step in range(2, int(reach) + 2, 3):
        row, col = round(np.cos(turn) * step), round(-np.sin(turn) * step)
        # The cell at [r - row, c - col] towards the sun throws its shadow on [r, c].
        to, source = _overlap(height.shape, row, col)
        drop = step * PIXEL_M / np.tan(sun)
        np.maximum(ceiling[to], crest[source] - drop, out=ceiling[to])
    cast = np.clip((ceiling - height) / 6 + 0.5, 0, 1)
    shadow = np.maximum(cast, (cosine <= 0).astype(np.float32))
    shadow = ndimage.gaussian_filter(shadow, 0.7)
    direct = np.clip(cosine, 0, None) / np.cos(sun) * (1 - shadow)
    return direct.astype(np.float32), shadow.astype(np.float32)


def _overlap(
    shape: tuple[int, int], row: int, col: int
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return slices so that ``a[to]`` lies ``row, col`` beyond ``a[source]``."""
    to, source = [], []
    for size, shift in zip(shape, (row, col), strict=True):
        to.append(slice(max(shift, 0), size + min(shift, 0)))
        source.append(slice(max(-shift, 0), size + min(-shift, 0)))
    return tuple(to), tuple(source)


def _light(height: Array, direct: Array, albedo: Array) -> Array:
    """Return the light on each pixel and band: sun, sky, and what bright slopes around send."""
    steep = np.clip(np.hypot(*gradient(height, PIXEL_M)), 0, 1.5)
    # Level-2A processing takes part of the slope effect out: the exponent keeps the rest.
    sun = np.minimum(direct, 1.9) ** 0.55
    light = np.empty_like(albedo)
    for band, sky in enumerate(SKY):
        around = ndimage.gaussian_filter(albedo[band][::4, ::4], 4)
        around = np.kron(around, np.ones((4, 4), np.float32))[: height.shape[0], : height.shape[1]]
        # Light from around counts where the sun's is missing: flat sunlit ground is the reference.
        sent = around * (0.04 + 0.08 * steep + 0.22 * np.clip(1 - sun, 0, 1))
        light[band] = (1 - sky) * sun + sky * (1 - 0.2 * steep) + sent
    return light


def _atmosphere(image: Array, look: Look, weather: np.random.Generator) -> Array:
    """Lay a veil over the image, strongest in the blue and uneven over kilometres."""
    veil = np.exp(0.5 * power_noise(image.shape[1:], weather, exponent=3.2))
    for band, strength in enumerate((0.55, 0.75, 1.0, 0.3)):
        depth = np.clip(look.haze * strength * veil, 0, 0.4)
        image[band] = image[band] * (1 - depth) + 0.55 * depth
    return image


def _sensor(image: Array, weather: np.random.Generator) -> Array:
    """Blur by the point-spread function (about 0.6 px) and add noise that grows with the signal."""
    for band in image:
        band[:] = ndimage.gaussian_filter(band, 0.6)
        noise = weather.standard_normal(band.shape, dtype=np.float32)
        band += noise * np.sqrt(0.0015**2 + (0.006 * band) ** 2)
    return image
