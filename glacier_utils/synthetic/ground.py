"""Ground beside the ice of the synthetic sample: lakes, moraines, rivers, and how milky water is.

All fields are ``[row, col]`` at 10 m with the margin around the frame; what follows the drainage is
found on a coarser grid and laid onto the fine one. Heights in m.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from glacier_utils.synthetic.terrain import (
    PIXEL_M,
    Array,
    Drainage,
    block_means,
    drain,
    frame_of,
    gradient,
    power_noise,
    refine,
    rounded,
    signed_distance,
)

CELL = 4
"""Pixels a cell of the grid on which lakes and rivers are found, 40 m."""
MELT_SUPPLY = 8.0
"""Water that glaciers give in summer, per area, where land gives 1."""


def lakes(height: Array, ice: Array, old_ice: Array, sea: Array) -> tuple[Array, Array, Array]:
    """Fill hollows with lakes, and pond meltwater behind the margins that tongues have left.

    Args:
        height: of the visible surface.
        ice: mask of today's ice.
        old_ice: mask of the ice that has drawn back.
        sea: mask.

    Returns:
        The height with level lakes, the still lakes, and the lakes at the margin of the ice.
    """
    ground, covered = block_means(height, CELL), block_means(ice, CELL) > 0.3
    salt = block_means(sea, CELL) > 0
    tree = drain(ground, salt | frame_of(ground.shape))
    full = ground.flatten()
    for run in tree.levels[1:]:
        cells = tree.order[run]
        full[cells] = np.maximum(full[cells], full[tree.receiver[cells]])
    depth = full.reshape(ground.shape) - ground
    hollow = ndimage.binary_opening((depth > 1.0) & ~covered & ~salt, np.ones((2, 2)))
    level = np.where(hollow, ground + depth, -np.inf).astype(np.float32)

    bared = (block_means(old_ice & ~ice & ~sea, CELL) > 0.5) & ~covered
    labels, _ = ndimage.label(ndimage.binary_opening(bared))
    sizes = np.bincount(labels.ravel())[1:]
    for label in np.argsort(-sizes, kind="stable")[: 2 + ground.size // 60_000] + 1:
        own = labels == label
        # The old margin, with its moraine, dams the lowest part of what the ice has left.
        dammed = float(np.quantile(ground[own], 0.06)) + 9.0
        level = np.where(own & (ground < dammed), np.maximum(level, dammed), level)

    rows, cols = height.shape
    fine = np.repeat(np.repeat(ndimage.maximum_filter(level, 3), CELL, 0), CELL, 1)
    near = ndimage.gaussian_filter((level > -np.inf).astype(np.float32), 1.0)
    near = refine(near, CELL, order=1)[:rows, :cols] > 0.12
    water = (height < fine - 0.2) & near & ~ice & ~sea
    labels, number = ndimage.label(water)
    labels[np.bincount(labels.ravel())[labels] < 30] = 0
    water = labels > 0
    # One level for each lake, the lowest of its parts.
    levels = np.full(number + 1, np.inf, np.float32)
    np.minimum.at(levels, labels[water], fine[water])
    height = np.where(water, levels[labels], height).astype(np.float32)
    rows, cols = np.nonzero(water)
    by_ice = ndimage.binary_dilation(covered, iterations=3)[rows // CELL, cols // CELL]
    melt = np.isin(labels, labels[rows, cols][by_ice]) & water
    return height, water & ~melt, melt


def moraines(
    height: Array, ice: Array, lia_ice: Array, sea: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Raise the moraines of the Little Ice Age and find the till between them and today's ice.

    Args:
        height: of the visible surface.
        ice: mask of today's ice.
        lia_ice: mask of the ice of about 1850.
        sea: mask.
        rng: of gaps and unevenness.

    Returns:
        The height with sharp ridges of some 20 m along the former margin, and the fraction of
        fresh bright till and rock.
    """
    half, cell = np.s_[::2, ::2], 2 * PIXEL_M
    today = ice[half]
    uneven = power_noise(today.shape, rng, exponent=2.5, longest=60)
    margin = cell * ndimage.gaussian_filter(signed_distance((lia_ice | ice)[half]), 1) + 6 * uneven
    gap = cell * ndimage.distance_transform_edt(~today).astype(np.float32)
    slope = np.hypot(*gradient(ndimage.gaussian_filter(height[half], 1.5), cell))
    # Steep walls keep no till, and where ice has hardly moved there is no ridge.
    holds = np.clip((1.1 - slope) / 0.5, 0, 1)
    ridge = np.clip(20 + 10 * uneven, 0, 40) * rounded(np.exp, -np.abs(margin + 4) / 22)
    ridge *= holds * np.clip((gap - 40) / 60, 0, 1)
    fresh = np.clip(0.5 - margin / 30, 0, 1) * np.clip(0.9 - gap / 4000 + 0.18 * uneven, 0, 1)
    off = ~ice & ~sea
    till = refine(fresh * (0.6 + 0.4 * holds), 2, order=1) * off
    return (height + refine(ridge, 2, order=1) * off).astype(np.float32), till


def rivers(
    height: Array, ice: Array, sea: Array, lake: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Let water run down the valleys: narrow rivers, and braids on the sandur below the ice.

    Args:
        height: of the visible surface, lakes level.
        ice: mask.
        sea: mask.
        lake: mask of all lakes.
        rng: of bends and bars.

    Returns:
        The fraction of running water and the fraction of sandur and gravel.
    """
    ground, covered = block_means(height, CELL), block_means(ice, CELL)
    dry = (covered < 0.5) & (block_means(lake, CELL) < 0.5)
    # Uneven floors make rivers wander.
    uneven = 1.5 * power_noise(ground.shape, rng, exponent=2.5, longest=16)
    tree = drain(ground + uneven, (block_means(sea, CELL) > 0.5) | frame_of(ground.shape))
    cell_km2 = (CELL * PIXEL_M / 1000) ** 2
    melt = MELT_SUPPLY * tree.accumulate(covered * cell_km2)
    water = melt + tree.accumulate((1 - covered) * cell_km2)
    channel = (water > 3.0) & dry
    bends = [power_noise(ground.shape, rng, exponent=2, longest=12) for _ in range(2)]
    places = np.indices(ground.shape) + 0.5 + 0.5 * np.clip(bends, -1.5, 1.5)
    river = _draw(ice.shape, tree, water, channel, CELL * places.reshape(2, -1))

    sandur, along, across = _floors(ground, tree, channel & (melt > 4.0) & (melt > 0.4 * water))
    edge = power_noise(ice.shape, rng, exponent=2.7, longest=30)
    sandur = refine(sandur, CELL, order=1)
    sandur = np.clip(1.6 * sandur + 0.2 * edge - 0.4, 0, 1) * (sandur > 0.05)
    there = np.nonzero(sandur > 0.3)
    river[there] = np.maximum(river[there], _braids(there, along, across, edge[there], rng))
    free = ~(ice | sea | lake)
    return river * free, sandur * free


def _draw(shape: tuple[int, int], tree: Drainage, water: Array, channel: Array, at: Array) -> Array:
    """Draw channels as smooth curves through the cells' places, width by what they carry.

    Each cell has a quadratic Bezier curve from the middle of its largest feeder to the middle of
    its receiver. Width in m is 2.5 times the root of the water in km2 of land.
    """
    cells = np.flatnonzero(channel)
    cells = cells[np.argsort(water.ravel()[cells], kind="stable")]
    feeder, below = np.arange(water.size), tree.receiver[cells]
    feeder[below] = cells
    start, bend, end = (at[:, feeder[cells]] + at[:, cells]) / 2, at[:, cells], at[:, below]
    end = np.where(feeder[below] == cells, (bend + end) / 2, end)
    area = (np.hypot(*(bend - start)) + np.hypot(*(end - bend))) * np.sqrt(water.ravel()[cells])
    part = ((np.arange(16) + 0.5) / 16)[:, None, None]
    curve = (1 - part) ** 2 * start + 2 * part * (1 - part) * bend + part**2 * end
    row, col = (curve[:, k].astype(int).clip(0, shape[k] - 1) for k in (0, 1))
    amount = np.broadcast_to(2.5 / PIXEL_M * area / 16, row.shape)
    total = np.bincount((row * shape[1] + col).ravel(), amount.ravel(), shape[0] * shape[1])
    return ndimage.gaussian_filter(total.reshape(shape).astype(np.float32), 0.7).clip(0, 1)


def _floors(ground: Array, tree: Drainage, fed: Array) -> tuple[Array, Array, Array]:
    """Find the valley floors that rivers ``fed`` by ice have filled with gravel.

    Returns:
        How much a cell belongs to such a floor, 0..1, and its place along the nearest river (m,
        upstream) and across it (m, left of it negative).
    """
    shape, cell = ground.shape, CELL * PIXEL_M
    if not fed.any():
        return np.zeros(shape), np.zeros(shape), np.zeros(shape)
    upstream, far = np.zeros(ground.size), np.arange(ground.size)
    for steps, run in enumerate(tree.levels):
        upstream[tree.order[run]] = 1.2 * steps
    for _ in range(6):
        far = tree.receiver[far]
    places = np.indices(shape).reshape(2, -1)
    toward = places - places[:, far]
    toward = toward / np.maximum(np.hypot(*toward), 1)
    distance, nearest = ndimage.distance_transform_edt(~fed, return_indices=True)
    near = np.ravel_multi_index(tuple(nearest), shape).ravel()
    offset, toward = places - places[:, near], toward[:, near]
    along = upstream[near] + (offset * toward).sum(0)
    across = offset[0] * toward[1] - offset[1] * toward[0]
    above = ground - ndimage.minimum_filter(ground, 3).ravel()[near].reshape(shape)
    slope = np.hypot(*gradient(ndimage.gaussian_filter(ground, 2.0), cell))
    plain = np.clip((12 - above) / 6, 0, 1) * np.clip((0.12 - slope) / 0.06, 0, 1)
    plain = ndimage.gaussian_filter(plain * np.clip(1.3 - distance * cell / 380, 0, 1), 1.0)
    return plain, along.reshape(shape) * cell, across.reshape(shape) * cell


def _braids(
    there: tuple[Array, ...], along: Array, across: Array, uneven: Array, rng: np.random.Generator
) -> Array:
    """Return the fraction of water on the pixels ``there``: channels between long bars of gravel.

    Bars are the cells of a Voronoi diagram drawn out along the river, channels their borders, which
    part and meet.
    """
    at = (np.stack(there) + 0.5) / CELL - 0.5
    place = np.stack([ndimage.map_coordinates(field, at, order=1) for field in (along, across)])
    place = place / np.array([[420.0], [80.0]]) + np.outer([0.08, 0.12], uneven)
    table = rng.random((2, 64, 64))
    first = second = np.full(uneven.size, 9.0)
    for step in np.ndindex(3, 3):
        bar = np.floor(place) + np.array(step)[:, None] - 1
        apart = np.hypot(*(place - bar - table[:, *(bar.astype(int) % 64)]))
        second = np.minimum(second, np.maximum(first, apart))
        first = np.minimum(first, apart)
    # Half the difference of the distances is the way to the border, in widths of a bar. Channels
    # are widest in the middle of the plain; some have fallen dry.
    border_m = (second - first) / 2 * 80
    half_m = (5.5 + 4 * uneven) * np.clip(1.15 - np.abs(place[1]) / 6, 0, 1)
    return np.clip((half_m - border_m) / PIXEL_M + 0.5, 0, 1) * (half_m > 2)


def turbidity(
    height: Array,
    ice: Array,
    sea: Array,
    lake: Array,
    melt_lake: Array,
    river: Array,
    rng: np.random.Generator,
) -> Array:
    """Return how milky water is: 0 clear, 1 as a lake at the margin of the ice.

    Rock flour comes with meltwater, so lakes and rivers have it by the part of their catchment that
    ice covers; in the fjord plumes spread from the mouths of rivers and from tongues.

    Args:
        height: of the visible surface, lakes level.
        ice: mask.
        sea: mask.
        lake: mask of the still lakes.
        melt_lake: mask of the lakes at the margin of the ice.
        river: fraction of running water.
        rng: of what differs from lake to lake, and of swirls.

    Returns:
        float32, 0 where there is no water.
    """
    size = 2 * CELL
    ground, covered, salt = (
        block_means(height, size),
        block_means(ice, size),
        block_means(sea, size) > 0.5,
    )
    tree = drain(ground, salt | frame_of(ground.shape))
    cell_km2 = (size * PIXEL_M / 1000) ** 2
    melt = tree.accumulate(covered * cell_km2)
    part = melt / tree.accumulate(np.full(ground.shape, cell_km2))
    result = np.zeros(ice.shape, np.float32)

    labels, number = ndimage.label(lake | melt_lake)
    rows, cols = np.nonzero(labels)
    ids, flour = labels[rows, cols], np.zeros(number + 1)
    iced = np.clip(1.1 * part[rows // size, cols // size], 0, 1)
    fed = 0.8 * rounded(np.power, iced, 0.8)
    np.maximum.at(flour, ids, np.where(melt_lake[rows, cols], 0.9, fed))
    flour = flour * rng.uniform(0.45, 1.1, number + 1) + rng.uniform(0, 0.1, number + 1)
    result[rows, cols] = flour[ids]
    rows, cols = np.nonzero(river)
    # Braids are as milky as the main channel, some 400 m from them at most.
    main = ndimage.maximum_filter(part, 11)
    result[rows, cols] = 0.2 + main[rows // size, cols // size]

    plume = _plumes(np.where(salt, melt, 0), salt)
    at = np.indices(salt.shape, np.float32)
    at += [1.5 * power_noise(salt.shape, rng, exponent=3, longest=24) for _ in range(2)]
    plume = refine(ndimage.map_coordinates(plume, at, order=1, mode="nearest"), size, order=1)
    streaks = 1 + 0.12 * power_noise(ice.shape, rng, exponent=2.6, longest=120)
    result[sea] = (plume * streaks)[sea] + 0.04
    return np.clip(result, 0, 1)


def _plumes(supply: Array, salt: Array) -> Array:
    """Spread meltwater from the shore cells that it reaches, round headlands, until it settles."""
    open_water = np.maximum(ndimage.uniform_filter(salt.astype(float), 5), 0.04)
    amount = np.zeros(salt.shape)
    for _ in range(160):
        # It reaches two cells inland, where swirls look across the shore.
        amount = amount * salt + np.sqrt(supply)
        amount = 0.96 * ndimage.uniform_filter(amount, 5) / open_water
    strong = np.quantile(amount[salt], 0.97) if salt.any() else 1.0
    return 1 - rounded(np.exp, -1.6 * amount / max(strong, 1e-6))


def melange(sea: Array, sheet: Array, rng: np.random.Generator) -> Array:
    """Return the density of floating ice.

    Closed before the calving front of the ice sheet's outlet, thinning beyond, and single icebergs
    whose areas follow a power law of exponent -1.9 (Sulak et al. 2017, Annals of Glaciology 58).
    Where there is no front, that of an outlet beyond the frame sends its ice in from the east.
    """
    # Cells of 40 m.
    water, calving = sea[::4, ::4], sheet[::4, ::4] & ndimage.binary_dilation(sea[::4, ::4])
    reach_km, away_km = 0.0, np.full(water.shape, 99.0)
    if not calving.any():
        reach_km, calving[:, -1] = rng.uniform(1.6, 2.8), water[:, -1]
    if calving.any():
        away_km = np.maximum(0.04 * ndimage.distance_transform_edt(~calving) - reach_km, 0)
    drift = power_noise(water.shape, rng, exponent=2.6, longest=60)
    closed = 2 * (0.8 + 0.4 * drift - away_km)
    loose = 0.5 * rounded(np.exp, -away_km / 1.2) * np.clip(0.6 + 0.6 * drift, 0, 1)
    floating = np.clip(refine(np.maximum(closed, loose), 4, order=1), 0, 1)

    density = (0.02 + 0.6 * rounded(np.exp, -away_km / 5)) * rounded(np.exp, 0.7 * drift) * water
    number = rng.poisson(density.sum() * 0.1)
    places = np.searchsorted(np.cumsum(density), rng.random(number) * density.sum())
    row, col = (4 * at + 2 for at in np.unravel_index(places, water.shape))
    area = np.minimum(30 * rounded(np.power, rng.random(number), -1 / 0.9), 1.5e4)
    radius = np.sqrt(area / np.pi) / PIXEL_M
    for size, down, right in zip(radius, row, col, strict=True):
        reach = int(size) + 2
        part = tuple(
            slice(max(at - reach, 0), min(at + reach, side))
            for at, side in zip((down, right), sea.shape, strict=True)
        )
        y, x = np.ogrid[part]
        apart = np.hypot(y - down, x - right)
        berg = np.clip(size + 0.5 - apart, 0, min(1, np.pi * size**2))
        floating[part] = np.maximum(floating[part], berg)
    return np.where(sea, floating, 0).astype(np.float32)
