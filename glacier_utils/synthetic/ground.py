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
    drain,
    frame_of,
    gradient,
    power_noise,
    refine,
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
    ground, covered = _blocks(height), _blocks(ice) > 0.3
    salt = _blocks(sea) > 0
    tree = drain(ground, salt | frame_of(ground.shape))
    full = ground.flatten()
    for run in tree.levels[1:]:
        cells = tree.order[run]
        full[cells] = np.maximum(full[cells], full[tree.receiver[cells]])
    depth = full.reshape(ground.shape) - ground
    level = _ponds(ground + depth, depth, (depth > 0.6) & ~covered & ~salt)

    bared = (_blocks(old_ice & ~ice & ~sea) > 0.5) & ~covered
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
    touching = np.zeros(number + 1, bool)
    touching[np.unique(labels[water & _spread(covered, 2)])] = True
    height = np.where(water, levels[labels], height).astype(np.float32)
    melt = touching[labels] & water
    return height, water & ~melt, melt


def _ponds(surface: Array, depth: Array, wet: Array) -> Array:
    """Return the level of hollows that are large and deep enough for a lake, else -inf."""
    labels, number = ndimage.label(wet)
    deepest = np.zeros(number + 1)
    np.maximum.at(deepest, labels[wet], depth[wet])
    kept = (np.bincount(labels.ravel(), minlength=number + 1) >= 4) & (deepest > 1.5)
    return np.where(kept[labels] & wet, surface, np.float32(-np.inf))


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
        The height with sharp ridges of some 20 m along the former margin and lower ones inside it,
        and the fraction of fresh bright till and rock.
    """
    half = np.s_[::2, ::2]
    inside, today = (lia_ice | ice)[half], ice[half]
    cell = 2 * PIXEL_M
    out = ndimage.distance_transform_edt(~inside).astype(np.float32)
    back = ndimage.distance_transform_edt(inside).astype(np.float32)
    gap = ndimage.distance_transform_edt(~today).astype(np.float32) * cell
    uneven = power_noise(inside.shape, rng, exponent=2.5, longest=60)
    margin = cell * ndimage.gaussian_filter(out - back, 1.0) + 6 * uneven
    slope = np.hypot(*gradient(ndimage.gaussian_filter(height[half], 1.5), cell))
    # Where ice has hardly moved there is no ridge, and steep walls keep no till.
    holds = np.clip((1.1 - slope) / 0.5, 0, 1) * ~today * ~sea[half]
    left = np.clip((gap - 40) / 60, 0, 1)
    width = np.where(margin > 0, 28.0, 18.0)
    size = np.clip(20 + 10 * uneven, 0, 40)
    ridge = size * left * holds * np.exp(-np.abs(margin) / width)
    part = gap / np.maximum(gap - margin, 1.0)
    for stage, tall in ((0.3, 4.0), (0.62, 7.0)):
        apart = (part - stage + 0.04 * uneven) * (gap - margin)
        pushed = tall * np.clip(0.6 + uneven, 0, 1.5) * np.exp(-np.abs(apart) / 15)
        ridge += pushed * left * holds * (margin < -40)
    fresh = np.clip(0.5 - margin / 30, 0, 1) * ~today
    fresh = fresh * np.clip(0.9 - 0.25 * part + 0.18 * uneven, 0, 1) * (0.6 + 0.4 * holds)
    rows, cols = ice.shape
    ridge, till = (refine(field, 2, order=1)[:rows, :cols] for field in (ridge, fresh))
    off = ~ice & ~sea
    return (height + ridge * off).astype(np.float32), np.clip(till, 0, 1) * off


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
    ground, covered = _blocks(height), _blocks(ice)
    dry = (covered < 0.5) & (_blocks(lake) < 0.5)
    # Uneven floors make rivers wander.
    uneven = 1.5 * power_noise(ground.shape, rng, exponent=2.5, longest=16)
    tree = drain(ground + uneven, (_blocks(sea) > 0.5) | frame_of(ground.shape))
    cell_km2 = (CELL * PIXEL_M / 1000) ** 2
    melt = MELT_SUPPLY * tree.accumulate(covered * cell_km2)
    water = melt + tree.accumulate((1 - covered) * cell_km2)
    channel = (water > 3.0) & dry
    at = np.indices(ground.shape, dtype=np.float32).reshape(2, -1) + 0.5
    at += 0.5 * np.stack(
        [power_noise(ground.shape, rng, exponent=2, longest=12).ravel() for _ in range(2)]
    ).clip(-1.5, 1.5)
    river = _draw(ice.shape, tree, water, channel, at * CELL)

    plain, along, across = _floors(ground, tree, channel & (melt > 4.0) & (melt > 0.3 * water))
    rows, cols = ice.shape
    edge = power_noise(ice.shape, rng, exponent=2.7, longest=30)
    sandur = refine(plain, CELL, order=1)[:rows, :cols]
    sandur = np.clip(1.6 * sandur + 0.2 * edge - 0.4, 0, 1) * (sandur > 0.05)
    there = np.flatnonzero(sandur.ravel() > 0.15)
    braids = _braids(there, ice.shape, along, across, edge.ravel()[there], rng)
    river.ravel()[there] = np.maximum(river.ravel()[there], braids * (sandur.ravel()[there] > 0.3))
    free = ~(ice | sea | lake)
    return (river * free).astype(np.float32), (sandur * free).astype(np.float32)


def _draw(shape: tuple[int, int], tree: Drainage, water: Array, channel: Array, at: Array) -> Array:
    """Draw channels as smooth curves through the cells' places, width by what they carry.

    Each cell has a quadratic Bezier curve from the middle of its largest feeder to the middle of
    its receiver. Width in m is 2.5 times the root of the water in km2 of land.
    """
    cells = np.flatnonzero(channel.ravel())
    cells = cells[np.argsort(water.ravel()[cells], kind="stable")]
    feeder = np.arange(water.size)
    feeder[tree.receiver[cells]] = cells
    below = tree.receiver[cells]
    start, bend, end = (at[:, feeder[cells]] + at[:, cells]) / 2, at[:, cells], at[:, below]
    end = np.where(feeder[below] == cells, (bend + end) / 2, end)
    length = np.hypot(*(bend - start)) + np.hypot(*(end - bend))
    width = 2.5 * np.sqrt(water.ravel()[cells]) / PIXEL_M
    across = (end - start)[::-1] * np.array([[1.0], [-1.0]])
    across = across / np.maximum(np.hypot(*across), 1e-6)
    steps, lanes = 12, 3
    places, amounts = [], []
    for t in (np.arange(steps) + 0.5) / steps:
        middle = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        for lane in (np.arange(lanes) - 1) / lanes:
            at_row, at_col = middle + lane * width * across - 0.5
            for i in (0, 1):
                for j in (0, 1):
                    row, col = np.floor(at_row) + i, np.floor(at_col) + j
                    near = (1 - np.abs(at_row - row)) * (1 - np.abs(at_col - col))
                    inside = (row >= 0) & (col >= 0) & (row < shape[0]) & (col < shape[1])
                    places.append((row * shape[1] + col)[inside].astype(np.int64))
                    amounts.append((near * width * length / (steps * lanes))[inside])
    total = np.bincount(
        np.concatenate(places), np.concatenate(amounts), minlength=shape[0] * shape[1]
    )
    return np.minimum(total, 1.0).reshape(shape).astype(np.float32)


def _floors(ground: Array, tree: Drainage, fed: Array) -> tuple[Array, Array, Array]:
    """Find the valley floors that rivers ``fed`` by ice have filled with gravel.

    Returns:
        How much a cell belongs to such a floor, 0..1, and its place along the nearest river (m,
        upstream) and across it (m, left of it negative).
    """
    cell = CELL * PIXEL_M
    shape = ground.shape
    if not fed.any():
        return np.zeros(shape), np.zeros(shape), np.zeros(shape)
    rows, cols = np.indices(shape).reshape(2, -1)
    upstream = np.zeros(ground.size)
    for run in tree.levels[1:]:
        cells = tree.order[run]
        below = tree.receiver[cells]
        upstream[cells] = upstream[below] + np.hypot(
            rows[cells] - rows[below], cols[cells] - cols[below]
        )
    far = np.arange(ground.size)
    for _ in range(6):
        far = tree.receiver[far]
    toward = np.stack([rows - rows[far], cols - cols[far]]).astype(float)
    toward /= np.maximum(np.hypot(*toward), 1e-6)
    distance, (near_row, near_col) = ndimage.distance_transform_edt(~fed, return_indices=True)
    near = (near_row * shape[1] + near_col).ravel()
    offset = np.stack([rows - rows[near], cols - cols[near]])
    along = upstream[near] + (offset * toward[:, near]).sum(0)
    across = offset[0] * toward[1, near] - offset[1] * toward[0, near]
    above = ground - ndimage.minimum_filter(ground, 3).ravel()[near].reshape(shape)
    slope = np.hypot(*gradient(ndimage.gaussian_filter(ground, 2.0), cell))
    plain = np.clip((12 - above) / 6, 0, 1) * np.clip((0.15 - slope) / 0.06, 0, 1)
    plain *= np.clip(1.3 - distance * cell / 550, 0, 1)
    plain = ndimage.gaussian_filter(plain, 1.0)
    return plain, along.reshape(shape) * cell, across.reshape(shape) * cell


def _braids(
    there: Array,
    shape: tuple[int, int],
    along: Array,
    across: Array,
    uneven: Array,
    rng: np.random.Generator,
) -> Array:
    """Return the fraction of water on the pixels ``there``: channels between long bars of gravel.

    Bars are the cells of a Voronoi diagram drawn out along the river, channels their borders, which
    part and meet.
    """
    at = (np.stack(np.divmod(there, shape[1])) + 0.5) / CELL - 0.5
    along, across = (ndimage.map_coordinates(field, at, order=1) for field in (along, across))
    bar_m = np.array([420.0, 80.0])
    x = along / bar_m[0] + 0.08 * uneven
    y = across / bar_m[1] + 0.12 * uneven
    table = rng.random((3, 64, 64), dtype=np.float32)
    first, second = np.full(there.size, 9.0), np.full(there.size, 9.0)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            bar_x, bar_y = np.floor(x) + i, np.floor(y) + j
            pick = bar_x.astype(np.int64) % 64, bar_y.astype(np.int64) % 64
            apart = np.hypot(x - bar_x - table[0][pick], y - bar_y - table[1][pick])
            second = np.minimum(second, np.maximum(first, apart))
            first = np.minimum(first, apart)
    # Half the difference of the distances is the way to the border, in widths of a bar.
    border_m = (second - first) / 2 * bar_m[1]
    # Channels are widest in the middle of the plain; some have fallen dry.
    half_m = (5.5 + 4 * uneven) * np.clip(1.15 - np.abs(y) / 6, 0, 1)
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
    ground, covered, salt = _blocks(height, size), _blocks(ice, size), _blocks(sea, size) > 0.5
    tree = drain(ground, salt | frame_of(ground.shape))
    cell_km2 = (size * PIXEL_M / 1000) ** 2
    melt = tree.accumulate(covered * cell_km2)
    part = melt / tree.accumulate(np.full(ground.shape, cell_km2))
    result = np.zeros(ice.shape, np.float32)

    for water, least, most in ((lake, 0.0, 0.75), (melt_lake, 0.55, 1.0)):
        labels, number = ndimage.label(water)
        rows, cols = np.nonzero(water)
        ids = labels[rows, cols]
        fed = np.zeros(number + 1)
        np.maximum.at(fed, ids, part[rows // size, cols // size])
        flour = least + np.clip(1.3 * fed, 0, 1) ** 0.8 * (most - least)
        flour = np.clip(
            flour * rng.uniform(0.45, 1.15, fed.size) + rng.uniform(0, 0.1, fed.size), 0, 1
        )
        result[rows, cols] = flour[ids]
    rows, cols = np.nonzero(river)
    result[rows, cols] = np.clip(0.2 + 2 * part[rows // size, cols // size], 0, 1)

    plume = _plumes(np.where(salt, melt, 0), salt)
    at = np.indices(salt.shape, dtype=np.float32)
    at += [1.5 * power_noise(salt.shape, rng, exponent=3, longest=24) for _ in range(2)]
    plume = refine(ndimage.map_coordinates(plume, at, order=1, mode="nearest"), size, order=1)
    streaks = 1 + 0.12 * power_noise(ice.shape, rng, exponent=2.6, longest=120)
    result[sea] = (np.clip(plume, 0, 1) * streaks)[sea] + 0.04
    return np.clip(result, 0, 1)


def _plumes(supply: Array, salt: Array) -> Array:
    """Spread meltwater from the shore cells that it reaches, round headlands, until it settles."""
    source = np.sqrt(supply)
    open_water = np.maximum(ndimage.uniform_filter(salt.astype(float), 5), 0.04)
    amount = np.zeros(salt.shape)
    for _ in range(160):
        amount = ndimage.uniform_filter(amount + source, 5) / open_water * salt * 0.985
    near = np.quantile(amount[salt], 0.97) if salt.any() else 1.0
    cloudy = 1 - np.exp(-1.6 * amount / max(near, 1e-6))
    # Continued over land: the swirls look across the shore.
    land = ndimage.gaussian_filter(cloudy, 2) / np.maximum(
        ndimage.gaussian_filter(salt.astype(float), 2), 1e-3
    )
    return np.where(salt, cloudy, np.minimum(land, 1)).astype(np.float32)


def _blocks(field: Array, size: int = CELL) -> Array:
    """Average blocks of ``size`` pixels."""
    rows, cols = field.shape
    lines = field.reshape(rows // size, size, cols).mean(1, dtype=np.float32)
    return lines.reshape(rows // size, cols // size, size).mean(2)


def _spread(mask: Array, cells: int) -> Array:
    """Widen a mask of the coarse grid by some cells and lay it onto the fine one."""
    wide = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=cells)
    return np.repeat(np.repeat(wide, CELL, 0), CELL, 1)
