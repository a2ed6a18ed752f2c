"""Light on the synthetic sample: sun and shadow, surfaces and their reflectance, air and sensor.

What grows, melts or lies on the ground follows height, slope, aspect and water. Its reflectance
follows real Sentinel-2 surfaces: for each kind the percentiles of every band, and how the bands go
together. Kinds overlap as they do there: seasonal snow has the reflectance of snow on ice, debris
that of the rock it comes from, and only where they lie tells them apart. Bands in the order red,
green, blue, near infrared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from glacier_utils.conventions import BANDS
from glacier_utils.synthetic.glaciers import PIXEL_M, Landscape, inner
from glacier_utils.synthetic.terrain import (
    Array,
    block_means,
    gradient,
    power_noise,
    refine,
    rounded,
    shade,
)

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
SCORES = (-2.326, -1.645, -0.674, 0.0, 0.674, 1.645, 2.326)
"""Standard scores of the percentiles."""
Seed = tuple[int, ...]
STRIP = 128
"""Rows that are painted at a time."""


SPECTRA = {
    "snow": ((0.349, 0.522, 0.708, 0.829, 0.879, 0.958, 1.116,  1.00, 0.02, 0.08),
             (0.322, 0.485, 0.679, 0.832, 0.895, 0.978, 1.158,  0.99, -0.13, 0.02),
             (0.278, 0.449, 0.638, 0.809, 0.880, 0.972, 1.164,  0.98, -0.20, -0.06),
             (0.333, 0.488, 0.636, 0.694, 0.731, 0.807, 0.940,  0.95, 0.31, -0.04)),
    "ice": ((0.146, 0.181, 0.263, 0.338, 0.444, 0.567, 0.663,  1.00, 0.00, 0.06),
            (0.157, 0.188, 0.274, 0.355, 0.462, 0.615, 0.718,  0.99, 0.11, 0.01),
            (0.135, 0.174, 0.262, 0.346, 0.454, 0.625, 0.715,  0.99, 0.15, -0.05),
            (0.108, 0.131, 0.180, 0.241, 0.348, 0.460, 0.529,  0.96, -0.27, -0.02)),
    "rock": ((0.030, 0.064, 0.119, 0.156, 0.183, 0.236, 0.298,  0.96, 0.02, 0.28),
             (0.045, 0.061, 0.118, 0.150, 0.161, 0.210, 0.280,  0.98, -0.16, 0.02),
             (0.024, 0.041, 0.097, 0.122, 0.135, 0.180, 0.251,  0.89, -0.40, -0.22),
             (0.067, 0.097, 0.145, 0.167, 0.223, 0.285, 0.370,  0.69, 0.71, -0.12)),
    "water": ((0.009, 0.010, 0.066, 0.105, 0.130, 0.137, 0.141,  0.85, 0.49, 0.14),
              (0.054, 0.060, 0.126, 0.166, 0.171, 0.180, 0.191,  0.89, 0.24, -0.37),
              (0.050, 0.065, 0.101, 0.112, 0.124, 0.145, 0.156,  0.78, -0.54, -0.30),
              (0.001, 0.003, 0.017, 0.029, 0.035, 0.069, 0.092,  0.79, -0.26, 0.55)),
    "tundra": ((0.024, 0.034, 0.048, 0.057, 0.065, 0.079, 0.099,  0.96, -0.17, 0.20),
               (0.025, 0.034, 0.044, 0.051, 0.058, 0.072, 0.092,  1.00, -0.06, -0.11),
               (0.016, 0.022, 0.030, 0.037, 0.044, 0.055, 0.069,  0.94, -0.30, -0.09),
               (0.098, 0.143, 0.188, 0.211, 0.236, 0.288, 0.374,  0.69, 0.72, 0.00)),
}  # fmt: skip
"""Reflectance of each kind of surface, one row per band: its ``PERCENTILES``, and the loadings of
the first three principal components of the bands' standard scores (by rank); the first of them is
brightness.

Snow, ice, rock and water: 11,729 points on four glaciers in Alaska, Washington and Montana, June to
August 2021 (R. Aberle 2023, doi 10.5281/zenodo.10616385). Tundra, which those points lack: what
Sen2Cor calls vegetation in West Greenland (T22WDS, 31 August 2020, away from cloud)."""

CLEAR = (0.0025, 0.016, 0.0235, 0.0002)
"""Reflectance of clear sea, the median of the fjords in that image: the points hold lakes only."""

SKY = (0.13, 0.19, 0.25, 0.09)
"""Fraction of the light on flat open ground that comes from the sky, by band, as far as correction
leaves it."""


@dataclass(frozen=True)
class Season:
    """One date.

    Attributes:
        date: its name.
        zenith: of the sun, degrees.
        azimuth: of the sun, degrees.
        snow_line_m: height of the snow line above the equilibrium line.
        snow_age: 0 fresh to 1 old and dirty.
        green: of the tundra, 0 brown to 1 in full leaf.
        sea_ice: fraction of the fjord under drifting floes.
    """

    date: str
    zenith: float
    azimuth: float
    snow_line_m: float
    snow_age: float = 0.5
    green: float = 0.5
    sea_ice: float = 0.0


@dataclass(frozen=True)
class Look:
    """What an area's images have of their own.

    Attributes:
        rock_tint: multiplies the bands on rock and all that comes from it.
        rock_level: shifts rock between dark (-1) and bright (1), in standard scores.
        layers: contrast of the rock units.
        haze: mean veil in the blue.
        patchiness: how ragged the snow line is, m.
        vegetation: makes the tundra reach higher (1: some 150 m) and grow thicker.
    """

    rock_tint: tuple[float, float, float, float]
    rock_level: float
    layers: float
    haze: float
    patchiness: float
    vegetation: float = 0.0


@dataclass(frozen=True)
class Scene:
    """The image of one date.

    Attributes:
        reflectance: float32 [band, row, col].
        surface: codes of ``conventions.SURFACES``, clouds looked through.
        shadow: fraction, of terrain and cloud.
        classification: uint8 [row, col], classes of Sen2Cor on cells of 20 m (see ``classify``).
    """

    reflectance: Array
    surface: Array
    shadow: Array
    classification: Array


def render(
    landscape: Landscape, look: Look, season: Season, seed: Seed, *, cloud: bool = False
) -> Scene:
    """Make the image of one date.

    Args:
        landscape: the area.
        look: of its images.
        season: the date.
        seed: the ground's pattern depends on all of it but the last number.
        cloud: whether thin cloud hangs over the lower left corner.
    """
    cover = cover_ground(landscape, look, season, seed)
    image, surface = paint(landscape, look, season, cover)
    height = _micro_relief(landscape, cover)
    del cover
    direct, shadow = (inner(field) for field in sunlight(height, season.zenith, season.azimuth))
    weather = np.random.default_rng((*seed, 1))
    opacity, dimmed = _cloud(surface.shape, season, weather, cloud)
    _light(image, direct * (1 - dimmed))
    _atmosphere(image, look, inner(height), weather)
    for band, white in zip(image, (0.74, 0.76, 0.79, 0.77), strict=True):
        band += opacity * (white - band)
    _sensor(image, weather)
    codes = classify(image, opacity, dimmed, shadow, weather)
    return Scene(image, surface, np.maximum(shadow, dimmed), codes)


class Cover(NamedTuple):
    """What lies on the ground and how it varies; float32 [row, col].

    Attributes:
        snow: fraction of what is ice, or land.
        fresh: how snow's brightness varies, in standard scores.
        green: how well plants grow, 0 where half of the ground is bare.
        rock: brightness of rock, and of the debris that comes from it, in standard scores.
        mottle: noise of some metres to 600 m.
        hue: noise of the second and third component.
        floes: fraction of the sea under floating ice.
    """

    snow: Array
    fresh: Array
    green: Array
    rock: Array
    mottle: Array
    hue: Array
    floes: Array


def cover_ground(landscape: Landscape, look: Look, season: Season, seed: Seed) -> Cover:
    """Let snow lie by height, aspect and drift, and plants grow by height, moisture and aspect.

    Args:
        landscape: the area.
        look: of its images.
        season: the date.
        seed: as of ``render``: all but its last number of what stays between dates.
    """
    ground, weather = np.random.default_rng(seed[:-1]), np.random.default_rng(seed)
    height, shape, line = landscape.height, landscape.height.shape, landscape.equilibrium_m
    gully = _downslope(height, ground)
    mottle = power_noise(shape, ground, exponent=1.6, longest=40)
    slope = np.hypot(*gradient(height, PIXEL_M))

    # What varies over some 100 m is made on cells of 40 m.
    mean = block_means(height, 4)
    hollow = np.clip(ndimage.gaussian_filter(mean, 3) - mean, -20, 20)
    turned = shade(ndimage.gaussian_filter(mean, 1.5), 4 * PIXEL_M)

    def wide(rng: np.random.Generator, exponent: float, longest: float) -> Array:
        return power_noise(mean.shape, rng, exponent=exponent, longest=longest)

    # Snow lies where it drifted in spring, so both dates share most of their pattern.
    drift = look.patchiness * power_noise(shape, ground, exponent=1.5, longest=50, shortest=2)
    lee = 75 * turned + 5 * hollow + 0.15 * look.patchiness * wide(weather, 2, 10)
    lee = refine(lee, 4, order=1)
    snow = height - (line + season.snow_line_m) + lee
    on_ice = (snow + 0.9 * drift + 18 * landscape.stripes) / 90 + 1.7
    # Beside the ice it lasts in gullies and patches, to some 600 m below the line, and in fields
    # as wide as a small glacier where wind packs it; ground far above it is steep or swept bare.
    packed = refine(np.clip(1.5 * wide(ground, 4, 30) + turned - 0.8, 0, 1), 4, order=1)
    snow = np.minimum(snow, -120) + 2 * np.minimum(snow + 400, 0) + lee
    snow += 2.5 * drift * (1 - 0.8 * packed) + 700 * packed - 130 * gully
    snow = (snow - 550 * np.clip(slope - 0.6, 0, 1)) / 70 + 1.8
    snow = np.clip(np.where(landscape.ice, on_ice, snow), 0, 1)
    del on_ice, drift, lee, packed

    # Plants thrive low down, in hollows and near water, on slopes to the sun, not on steep or
    # freshly bared ground.
    wet = ndimage.gaussian_filter(block_means(landscape.river + landscape.lake, 4), 3)
    broad = wide(ground, 3, 60)
    low = np.clip(ndimage.gaussian_filter(mean, 12) - mean, -100, 150)
    green = 0.35 * broad + 0.08 * hollow + 0.012 * low + 2 * np.sqrt(np.clip(wet, 0, 1))
    green = refine(green - 0.6 * turned + 0.5 * look.vegetation, 4, order=1)
    green += (0.55 * line - height) / 220 + 0.35 * mottle - 4 * landscape.till
    green -= 0.9 * gully * np.clip(slope / 0.3, 0.4, 1) + 5 * np.clip(slope - 0.5, 0, 1)
    del slope

    # Gneiss lies in bands, folded and some 400 m wide.
    strike = ground.uniform(0, np.pi)
    fold = refine(7 * wide(ground, 3, 100) + broad, 4, order=1)
    fold += np.arange(shape[0], dtype=np.float32)[:, None] * np.float32(np.cos(strike) / 7)
    fold += np.arange(shape[1], dtype=np.float32) * np.float32(np.sin(strike) / 7)
    rock = rounded(np.sin, fold) + 0.5 * rounded(np.sin, 4.3 * fold)
    rock = look.layers * rock + look.rock_level
    rock += 0.5 * mottle + 0.4 * gully
    fresh = refine(wide(weather, 3.2, 50), 4, order=1)
    hue = power_noise(shape, ground, exponent=2, longest=80)
    return Cover(snow, fresh, green, rock, mottle, hue, _floes(landscape, season, weather))


def _downslope(height: Array, rng: np.random.Generator) -> Array:
    """Return noise drawn out over 160 m down the slope, as fans and gullies are."""
    mean = block_means(height, 2)
    east, north = gradient(ndimage.gaussian_filter(mean, 2), 2 * PIXEL_M)
    steep = np.hypot(east, north) + np.float32(0.02)
    rows, cols = np.indices(mean.shape, dtype=np.float32)
    noise = power_noise(mean.shape, rng, exponent=1.2, longest=24)
    drawn = np.zeros_like(noise)
    for step in range(-4, 4):
        row = np.clip(np.rint(rows - step * north / steep), 0, mean.shape[0] - 1)
        col = np.clip(np.rint(cols + step * east / steep), 0, mean.shape[1] - 1)
        drawn += noise[row.astype(np.intp), col.astype(np.intp)]
    return refine(drawn / drawn.std(), 2, order=1)


def _floes(landscape: Landscape, season: Season, weather: np.random.Generator) -> Array:
    """Return the fraction of floating ice: bergs, brash between them and floes of the sea."""
    density = landscape.melange
    cover = np.zeros(density.shape, np.float32)
    sea = np.nonzero(landscape.fjord)
    if sea[0].size == 0:
        return cover
    dense = density[sea]
    drifting = power_noise(block_means(density, 4).shape, weather, exponent=3, longest=50)
    drifting = rounded(np.exp, 2 * drifting[sea[0] // 4, sea[1] // 4] - 2)
    here = 0.8 * dense**2
    for longest, share, sharp in (
        (40, 0.7 * dense, 0.6), (6, 0.3 * dense, 2), (16, 0.1 * dense, 3),
        (12, season.sea_ice * drifting, 2),
    ):  # fmt: skip
        tile = power_noise((512, 512), weather, exponent=2.2, longest=longest, shortest=1)
        # A fraction p of standard noise lies above ln(1 / p - 1) / 1.7 (Bowling et al. 2009).
        limit = rounded(np.log, 1 / np.clip(share, 1e-4, 0.95) - 1) / 1.7
        here = np.maximum(here, sharp * (tile[sea[0] % 512, sea[1] % 512] - limit))
    cover[sea] = np.clip(here, 0, 1)
    return cover


def surfaces(
    landscape: Landscape, cover: Cover, rows: slice = slice(None)
) -> Iterator[tuple[int, Array]]:
    """Yield the code and the fraction of every surface; they sum to one.

    Args:
        landscape: the area.
        cover: of the ground.
        rows: of the frame.
    """
    ice, snow = landscape.ice[rows].astype(np.float32), cover.snow[rows]
    bare, debris = ice * (1 - snow), landscape.debris[rows]
    yield 8, ice - bare
    yield 9, bare * debris
    yield 7, bare * (1 - debris)
    left = 1 - ice
    sea = landscape.fjord[rows]
    tundra = 0.95 / (1 + rounded(np.exp, -1.6 * cover.green[rows]))
    for code, field in (
        (11, sea * cover.floes[rows]), (4, sea), (5, landscape.lake[rows]),
        (6, landscape.melt_lake[rows]), (12, landscape.river[rows]), (10, snow),
        (3, landscape.sediment[rows]), (2, tundra),
    ):  # fmt: skip
        part = left * field
        left = left - part
        yield code, part
    yield 1, left


def paint(landscape: Landscape, look: Look, season: Season, cover: Cover) -> tuple[Array, Array]:
    """Mix the surfaces by their fractions.

    Args:
        landscape: the area.
        look: of its images.
        season: the date.
        cover: of the ground.

    Returns:
        Reflectance under sun and open sky, float32 ``[band, row, col]``, and the code of the
        largest fraction, uint8 ``[row, col]``.
    """
    shape = landscape.height.shape
    image, surface = np.zeros((len(BANDS), *shape), np.float32), np.zeros(shape, np.uint8)
    for top in range(0, shape[0], STRIP):
        rows = slice(top, top + STRIP)
        most = np.zeros_like(cover.snow[rows])
        for code, part in surfaces(landscape, cover, rows):
            np.copyto(surface[rows], code, where=part > most)
            np.maximum(part, most, out=most)
            where = np.flatnonzero(part > 0.004)
            at = partial(_pick, rows, where)
            kind, score, second = _score(code, at, landscape, season, cover)
            # Thriving plants are greener than the bands' first two components say.
            third = 0.3 * at(cover.hue) - 0.15 * at(cover.mottle)
            third -= 0.6 * (kind == "tundra") * second
            for band in range(len(BANDS)):
                value = reflect(kind, band, score, second, third)
                if code == 4:
                    clear = np.clip(1 - at(landscape.turbidity) / 0.7, 0, 1)
                    value += clear * (CLEAR[band] * (1 + 0.1 * score) - value)
                elif kind == "rock":
                    value *= look.rock_tint[band]
                image[band, rows].ravel()[where] += part.take(where) * value
    return image, surface


def _pick(rows: slice, where: Array, field: Array) -> Array:
    return field[rows].take(where)


def _score(
    code: int, at: Callable[[Array], Array], landscape: Landscape, season: Season, cover: Cover
) -> tuple[str, Array, Array]:
    """Return the kind of a surface and its scores of brightness and of the second component.

    Args:
        code: of the surface.
        at: picks its pixels from a field.
        landscape: the area.
        season: the date.
        cover: of the ground.
    """
    hue, mottle, line = at(cover.hue), at(cover.mottle), landscape.equilibrium_m
    height = at(landscape.height)
    if code in (1, 3, 9):
        # Lichen darkens old rock; frost, rock fall and ice keep that of the heights and the
        # forelands fresh, from which debris comes.
        score = at(cover.rock) + 0.8 * at(landscape.till) + {1: 0.0, 3: 0.5, 9: 0.2}[code]
        if code == 1:
            old = np.clip((1.1 * line - height) / (0.5 * line), 0, 1)
            score -= 1.2 * old * (1 - at(landscape.till))
        return "rock", score, 0.4 * hue + 0.4 * mottle
    if code == 2:
        vigour = np.clip(0.7 * at(cover.green), -1.5, 2.5) - 1.6 + 1.2 * season.green
        return "tundra", 0.3 * mottle + 0.2 * hue + 0.4 * at(cover.rock), vigour + 0.3 * hue
    if code in (8, 10):
        # Seasonal snow is as bright as firn in the middle of its heights.
        ramp = np.clip((height - line - season.snow_line_m) / 300 + 0.1, -1, 1)
        score = 0.4 * at(cover.fresh) + 0.05 * mottle + 0.8 * (ramp if code == 8 else 0.5)
        return "snow", score - 0.9 * season.snow_age + 0.2, 0.3 * hue
    if code == 7:
        ramp = np.clip((height - line) / 250, -1.5, 1.0)
        # Crevasses open across the flow, which is down the slope: they follow the contours.
        wave = rounded(np.sin, 2 * np.pi * height / 9 + 1.2 * mottle)
        there = np.clip(1.6 * at(landscape.crevasses) - 0.3, 0, 1)
        gash = there * np.clip(1.7 * wave - 0.5, 0, 1)
        score = 0.8 * at(landscape.stripes) + 0.5 * mottle + 0.15 * hue + 0.8 * ramp + 0.5
        return "ice", score - 1.6 * gash, 0.6 * hue + 1.6 * gash
    if code == 11:
        return "ice", 1.2 + 0.6 * mottle, 1.0 + 0.5 * hue
    return "water", 4.2 * at(landscape.turbidity) - 2.0 + 0.03 * mottle, 0.1 * hue


def reflect(kind: str, band: int, *components: Array) -> Array:
    """Map scores of the three components to reflectance, at most that of the outer percentiles.

    Args:
        kind: of surface, one of ``SPECTRA``.
        band: its number.
        components: standard scores of any one shape.
    """
    row = SPECTRA[kind][band]
    loadings = np.array(row[7:], np.float32)
    score = sum(loading * part for loading, part in zip(loadings, components, strict=True))
    # A table of steps of a hundredth is quicker than interpolation, and below the sensor's noise.
    steps = np.linspace(SCORES[0], SCORES[-1], 512)
    table = np.interp(steps, SCORES, row[:7]).astype(np.float32)
    place = (score - SCORES[0]) * np.float32(511 / (SCORES[-1] - SCORES[0])) + 0.5
    return table[np.clip(place, 0, 511).astype(np.intp)]


def _micro_relief(landscape: Landscape, cover: Cover) -> Array:
    """Return the heights that the sun sees: snow fills the hollows, debris lies in hummocks."""
    height = landscape.height_around.copy()
    field = inner(height)
    field += 0.9 * cover.snow * (ndimage.gaussian_filter(field, 3, truncate=2.5) - field)
    field += 3.0 * landscape.debris * (1 - cover.snow) * cover.mottle
    return height


def sunlight(height: Array, zenith: float, azimuth: float) -> tuple[Array, Array]:
    """Return direct light (1 on flat open ground, 0 in shadow) and the shadow fraction.

    The cosine of the incidence angle over that of the sun's zenith, and shadows cast by the
    terrain: with rows moved sideways until the sun shines along the columns, the height of the
    shadow is a running maximum of the heights, lowered along the ray.

    Args:
        height: m [row, col].
        zenith: of the sun, degrees.
        azimuth: of the sun, degrees; within 45 of south.
    """
    sun, turn = np.radians(zenith), np.radians(azimuth)
    rows, cols = height.shape
    moved = np.arange(rows) * np.tan(turn)
    moved -= moved.min()
    whole, part = np.divmod(moved, 1)
    starts = whole.astype(int)
    drop = PIXEL_M / (np.tan(sun) * abs(np.cos(turn)))
    rays = np.full((rows, cols + starts.max() + 1), -1e5, np.float32)
    for row, (start, far) in enumerate(zip(starts, part, strict=True)):
        line = height[row] - row * drop
        rays[row, start] = line[0]
        rays[row, start + 1 : start + cols] = (1 - far) * line[1:] + far * line[:-1]
    # The sun stands beyond the last row.
    np.maximum.accumulate(rays[::-1], axis=0, out=rays[::-1])
    ceiling = np.full_like(height, -np.inf, dtype=np.float32)
    for row, (start, far) in enumerate(zip(starts[:-2], part[:-2], strict=True)):
        # The cell itself and the next do not shade it.
        line = rays[row + 2, start : start + cols + 1]
        ceiling[row] = (1 - far) * line[:-1] + far * line[1:] + row * drop
    del rays
    east, north = gradient(height, PIXEL_M)
    cosine = -np.sin(sun) * (np.sin(turn) * east + np.cos(turn) * north) + np.cos(sun)
    cosine /= np.sqrt(1 + east**2 + north**2)
    del east, north
    shadow = np.clip((ceiling - height) / 6 + 0.5, 0, 1)
    np.maximum(shadow, cosine <= 0, out=shadow)
    direct = np.maximum(cosine, 0) * (1 - shadow) / np.cos(sun)
    return direct.astype(np.float32, copy=False), shadow.astype(np.float32, copy=False)


def _light(image: Array, direct: Array) -> None:
    """Put light on each pixel and band: sun, sky, and what bright slopes around send."""
    # Level-2A processing takes part of the slope effect out: the exponent keeps the rest.
    sun = rounded(np.power, np.minimum(direct, 1.9), 0.75)
    for first, last in ((0, 3), (3, 4)):
        around = ndimage.gaussian_filter(block_means(image[first:last].mean(0), 4), 4, truncate=3)
        # It counts where the sun's is missing: flat sunlit ground is the reference.
        sent = refine(around, 4, order=1) * (0.05 + 0.29 * np.clip(1 - sun, 0, 1))
        for band in range(first, last):
            image[band] *= (1 - SKY[band]) * sun + SKY[band] + sent


def _cloud(
    shape: tuple[int, int], season: Season, weather: np.random.Generator, there: bool
) -> tuple[Array, Array]:
    """Return the opacity of thin cloud 1,500 m above the ground, and the sun that it takes."""
    if not there:
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    rows, cols = (np.arange(size, dtype=np.float32) for size in shape)
    away = np.hypot((shape[0] - rows)[:, None], 1.3 * cols[None]) / (0.34 * min(shape))
    cells = (shape[0] // 4, shape[1] // 4)
    puffs = refine(power_noise(cells, weather, exponent=3, longest=40), 4, order=1)
    opacity = np.clip(0.35 * (1 - away) + 0.16 * puffs, 0, 0.75) * np.clip(3.5 - 3 * away, 0, 1)
    length, turn = 1500 * np.tan(np.radians(season.zenith)) / PIXEL_M, np.radians(season.azimuth)
    shift = (round(length * np.cos(turn)), round(-length * np.sin(turn)))
    return opacity, np.clip(1.1 * ndimage.shift(opacity, shift, order=0), 0, 0.85)


def _atmosphere(image: Array, look: Look, height: Array, weather: np.random.Generator) -> None:
    """Lay on what correction leaves of the air: a veil, and light scattered in from around.

    The veil is strongest in the blue, uneven over kilometres and thinner above high ground, but
    one value corrects the whole image: dark heights come out below what they are.
    """
    cells = (height.shape[0] // 8, height.shape[1] // 8)
    uneven = refine(rounded(np.exp, 0.5 * power_noise(cells, weather, exponent=3.2)), 8, order=1)
    veil = look.haze * (uneven * rounded(np.exp, -height / 1800) - 1)
    for band, strength in zip(image, (0.55, 0.75, 1.0, 0.3), strict=True):
        around = ndimage.gaussian_filter(block_means(band, 8), 8, truncate=3)
        around = np.repeat(np.repeat(0.6 * around + 0.35, 8, 0), 8, 1)
        band += strength * veil * (around - band)


def _sensor(image: Array, weather: np.random.Generator) -> None:
    """Blur by the point-spread function (about 0.7 px), add stripes and noise of the detectors."""
    # The same detectors see every area, along a track that leaves north by some ten degrees.
    gains = np.random.default_rng(20150623).normal(1, 3e-4, (len(BANDS), 2592)).astype(np.float32)
    rows, cols = image.shape[1:]
    for band, gain in zip(image, gains, strict=True):
        ndimage.gaussian_filter(band, 0.7, truncate=3, output=band)
        band *= sliding_window_view(np.resize(gain, 2592 + cols), cols)[np.arange(rows) // 6 % 2592]
        noise = weather.standard_normal(band.shape, dtype=np.float32)
        band += noise * np.sqrt(0.0012**2 + (0.004 * band) ** 2)


def classify(
    image: Array, opacity: Array, dimmed: Array, shadow: Array, weather: np.random.Generator
) -> Array:
    """Return what Sen2Cor's scene classification would hold, 20 m cells repeated to 10 m.

    With its faults: the thin edges of cloud are missed, and some bright ice is called cloud or
    bare ground. 2 terrain shadow, 3 cloud shadow, 4 vegetation, 5 bare, 6 water, 8 and 9 cloud, 10
    thin cirrus, 11 snow or ice.

    Args:
        image: reflectance [band, row, col].
        opacity: of the cloud.
        dimmed: fraction of the sun that the cloud takes.
        shadow: fraction, of the terrain.
        weather: of the faults.
    """
    red, green, _, nir = image[:, ::2, ::2]
    opacity, dimmed, shadow = (field[::2, ::2] for field in (opacity, dimmed, shadow))
    doubt = power_noise(red.shape, weather, exponent=1.5, longest=30)
    codes = np.full(red.shape, 5, np.uint8)
    for code, there in (
        (4, nir - red > 0.42 * (nir + red)),
        (6, (nir < 0.8 * green) & (nir < 0.11) & (green < 0.24)),
        (2, (shadow > 0.6) & (nir < 0.08)),
        (11, (nir > 0.1 + 0.02 * doubt) & ((nir < 0.95 * red) | (green > 0.4)) & (doubt > -2.2)),
        (8, (green > 0.6) & (doubt > 2.6)),
        (3, (dimmed > 0.22 + 0.05 * doubt) & (nir < 0.5)),
        (10, opacity > 0.10 + 0.03 * doubt),
        (8, opacity > 0.22 + 0.03 * doubt),
        (9, opacity > 0.40 + 0.03 * doubt),
    ):
        codes[there] = code
    return np.kron(codes, np.ones((2, 2), np.uint8))
