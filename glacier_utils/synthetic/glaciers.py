"""Glaciers of the synthetic sample: how they grow and flow, and the landscape around them.

Mass balance, shallow-ice flow, the margin of the ice sheet, flow lines and drainage basins on the
coarse grid; from them one area at 10 m with land, ice then and now, debris, crevasses, lakes and
floating ice: all that stays the same between the dates of a season. Heights and ice thickness in m,
time in years, grids [row, col].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from glacier_utils.synthetic import ground
from glacier_utils.synthetic.terrain import (
    COARSE_M,
    PIXEL_M,
    Array,
    Relief,
    add_detail,
    drain,
    frame_of,
    gradient,
    make_bed,
    power_noise,
    refine,
    rounded,
    shade,
)

FLOW_FACTOR = 2.2e-5
"""2 A (rho g)^3 / 5 for ice at the melting point, in m^-3 a^-1 (Cuffey & Paterson 2010)."""

MOST_DIFFUSIVITY = 2e5
"""Limit in m2 a^-1 that keeps the equations quick to solve; only thick, flat ice reaches it."""

FACTOR = round(COARSE_M / PIXEL_M)
MARGIN = 16
"""Coarse cells around the frame: mountains outside it shade it and send ice into it."""
EDGE = MARGIN * FACTOR
"""The same in pixels."""
LEAST_GLACIER_KM2 = 0.05
PLASTIC_M = 22.2
"""2 * 100 kPa / (ice density * gravity): perfectly plastic ice on a level bed is as thick as the
root of this times the distance from its margin (Cuffey & Paterson 2010, section 8.9)."""
CLIFF_M = 45.0
"""Height of the calving front above the sea."""
COOLER_M = 110.0
"""By which the equilibrium line lay lower in the Little Ice Age than in 2001."""
NO_SHEET = -1e4
"""Height in m that stands for "no ice sheet here"."""


@dataclass(frozen=True)
class Climate:
    """Balance = ``gain`` * (height - equilibrium line), at most ``most`` (m ice a year).

    Attributes:
        equilibrium_m: height of the equilibrium line.
        gain: m ice a year per m of height.
        most: m ice a year.
        shade_m: by which the line lies lower at most on slopes turned away from the midday sun.
    """

    equilibrium_m: float
    gain: float = 0.0045
    most: float = 1.6
    shade_m: float = 90.0


def grow(
    bed: Array,
    sea: Array,
    cell_m: float,
    climate: Climate,
    *,
    years: float,
    step: float,
    thickness: Array | None = None,
    local: Array | float = 0.0,
    held: Array | None = None,
) -> Array:
    """Let ice accumulate, flow and melt.

    Shallow-ice flow, d H / dt = balance + div(D grad s), with D = FLOW_FACTOR * H^5 * slope^2,
    where H is taken from the higher of two cells (Jarosch et al. 2013, The Cryosphere 7, 229), so
    that no ice leaves a cell that has none. Each step is implicit in the surface s. Steep rock
    sheds its snow on what lies below, and ice calves at sea.

    Args:
        bed: m [row, col].
        sea: bool [row, col].
        cell_m: side of a cell.
        climate: of the area.
        years: to pass.
        step: in years.
        thickness: of the ice at the start; None: none.
        local: by how many m the equilibrium line lies higher, cell by cell.
        held: height in m of ice that a larger ice sheet keeps up, where that lies above the bed.

    Returns:
        Thickness in m.
    """
    bed = bed.astype(np.float32)
    top = bed if held is None else held.astype(np.float32)
    kept = top > bed
    ice = np.zeros_like(bed) if thickness is None else thickness.astype(np.float32)
    steepness = np.hypot(*gradient(bed, cell_m))
    shed = np.clip((steepness - 0.5) / 0.35, 0, 1)
    # Avalanches: what steep cells lose comes down within some 200 m, most of it in cirques.
    fed = (1 - shed) * (1 + ndimage.gaussian_filter(shed, 200 / cell_m))
    turned = shade(ndimage.gaussian_filter(bed, 1.5), cell_m)
    line = (climate.equilibrium_m + local - climate.shade_m * turned).astype(np.float32)
    for _ in range(round(years / step)):
        surface = bed + ice
        balance = np.minimum(climate.gain * (surface - line), climate.most)
        balance = np.where(balance > 0, balance * fed - 0.8 * shed, balance)
        balance = np.where(sea, np.float32(-30), balance)
        east, south = _diffusivity(surface, ice, cell_m, step)
        # Between cells whose height is given there is nothing to solve.
        east = np.where(kept[:, 1:] & kept[:, :-1], 0, east)
        south = np.where(kept[1:] & kept[:-1], 0, south)
        surface = _relax(surface + step * balance, east, south, step / cell_m**2, start=surface)
        surface = np.where(kept, top, surface)
        ice = np.maximum(surface - bed, 0.0)
    return ice


def _diffusivity(surface: Array, ice: Array, cell_m: float, step: float) -> tuple[Array, Array]:
    """Return D in m2 a^-1 on the faces between columns and between rows."""
    rise_south, rise_east = np.gradient(surface, cell_m)
    faces = []
    for axis, across in ((1, rise_south), (0, rise_east)):
        near, far = (np.s_[:, :-1], np.s_[:, 1:]) if axis == 1 else (np.s_[:-1], np.s_[1:])
        rise = (surface[far] - surface[near]) / cell_m
        slope2 = rise**2 + (0.5 * (across[near] + across[far])) ** 2
        upper = np.where(rise > 0, ice[far], ice[near])
        fifth = upper * np.square(np.square(upper))
        flow = np.minimum(FLOW_FACTOR * fifth * slope2, MOST_DIFFUSIVITY)
        # No face passes on more in one step than the upper cell holds.
        faces.append(np.minimum(flow, 0.6 * upper * cell_m / step / (np.abs(rise) + 1e-3)))
    return faces[0], faces[1]


def _relax(target: Array, east: Array, south: Array, scale: float, start: Array) -> Array:
    """Solve s - scale * div(D grad s) = target by conjugate gradients, scaled by the diagonal."""
    east, south = (np.float32(scale) * faces for faces in (east, south))
    diagonal = np.ones_like(start)
    for axis, faces in ((1, east), (0, south)):
        diagonal += np.pad(faces, [(0, int(axis == k)) for k in (0, 1)])
        diagonal += np.pad(faces, [(int(axis == k), 0) for k in (0, 1)])

    def apply(s: Array) -> Array:
        result = s.copy()
        across = east * (s[:, 1:] - s[:, :-1])
        result[:, :-1] -= across
        result[:, 1:] += across
        down = south * (s[1:] - s[:-1])
        result[:-1] -= down
        result[1:] += down
        return result

    solution = start.copy()
    residual = target - apply(solution)
    scaled = residual / diagonal
    direction = scaled.copy()
    energy = (residual * scaled).sum(dtype=float)
    for _ in range(25):
        image = apply(direction)
        length = np.float32(energy / (direction * image).sum(dtype=float))
        solution += length * direction
        residual -= length * image
        if np.abs(residual).max() < 0.05:
            break
        scaled = residual / diagonal
        before, energy = energy, (residual * scaled).sum(dtype=float)
        direction = scaled + np.float32(energy / before) * direction
    return solution


def upstream(
    surface: Array, ice: Array, sources: Array, cell_m: float, doublings: int = 8
) -> tuple[Array, Array]:
    """Follow the flow lines backwards from every cell of a glacier.

    A path of 2n steps is the path of n steps taken twice, so eight compositions follow 256 steps.

    Args:
        surface: m [row, col].
        ice: bool [row, col].
        sources: what is picked up per step of one cell [source, row, col].
        cell_m: side of a cell.
        doublings: 2 to the power of this is the number of steps.

    Returns:
        The row and the column that ice came from (it stops at the margin) [2, row, col], and the
        sums of the sources along the way.
    """
    east, north = gradient(ndimage.gaussian_filter(surface, 3), cell_m)
    slope = np.hypot(east, north) + 1e-6
    # Paths end at the frame, and pick up little on summits, where they run to and fro.
    ice = ice & ~frame_of(ice.shape)
    # Uphill is backwards along the flow; rows count to the south.
    origin = np.indices(surface.shape, np.float32) + np.stack([-north, east]) / slope * ice
    fields = np.concatenate([origin, sources * ice * np.minimum(slope / 0.02, 1)])
    fields = fields.astype(np.float32)
    flat, inside = fields.reshape(len(fields), -1), np.flatnonzero(ice)
    for _ in range(doublings):
        at = flat[:2, inside]
        came = [ndimage.map_coordinates(field, at, order=1, mode="nearest") for field in fields]
        flat[:2, inside] = came[:2]
        flat[2:, inside] += came[2:]
    return fields[:2], fields[2:]


def basins(surface: Array, ice: Array, least_cells: int, rng: np.random.Generator) -> Array:
    """Divide ice into glaciers by where it drains to.

    Cells that leave the ice within some 400 m of each other belong to one tongue; what leaves it
    anywhere else along a flank belongs to the nearest one.

    Args:
        surface: m [row, col].
        ice: bool [row, col].
        least_cells: of a tongue, else it belongs to its neighbour.
        rng: of a little roughness.

    Returns:
        1..n, 0 where there is no ice.
    """
    # Water that meets a nunatak runs round it: only the outer margin ends a glacier.
    outer = ndimage.binary_fill_holes(ice)
    # Some roughness keeps the divides from running straight along the grid.
    smooth = ndimage.gaussian_filter(surface, 1.5) + 2.0 * rng.standard_normal(surface.shape)
    mouth = drain(smooth, ~outer | frame_of(ice.shape)).mouths()
    wide = np.bincount(mouth[ice.ravel()], minlength=ice.size) >= least_cells
    block = np.ones((3, 3))
    ends = ndimage.binary_dilation(wide.reshape(ice.shape), block, iterations=2)
    groups, number = ndimage.label(ends, block)
    labels = np.where(ice.ravel() & wide[mouth], groups.ravel()[mouth], 0).reshape(ice.shape)
    pieces, _ = ndimage.label(ice, block)
    labels = np.where(ice & ~np.isin(pieces, pieces[labels > 0]), number + pieces, labels)
    nearest = ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    _, numbered = np.unique(np.where(ice, labels[tuple(nearest)], 0), return_inverse=True)
    return numbered.reshape(ice.shape)


@dataclass(frozen=True)
class Setting:
    """What makes one area differ from another.

    Attributes:
        relief: of the ground.
        fraction_above: of the frame, above the equilibrium line of 2001.
        warming_m: by which the line has risen since.
        debris: median over the glaciers of the fraction of the ablation zone under debris.
    """

    relief: Relief
    fraction_above: float
    warming_m: float
    debris: float


@dataclass
class Landscape:
    """The state of one area; arrays [row, col] of the frame.

    Those named ``_around`` have the margin too (``EDGE`` pixels on each side).

    Attributes:
        height_around: the visible surface in m, 0 at sea.
        ice_around: mask of the ice of 2023, that of the ice sheet included.
        ice_2001_around: mask of the ice of 2001.
        glacier_around: number of the glacier of 2001 that a cell belongs to or lies nearest to, 0
            for the ice sheet.
        sheet_around: mask of the ice of 2023 of the ice sheet and its outlet.
        equilibrium_m: height of the equilibrium line of 2023.
        debris: fraction of cover.
        stripes: texture of the ice drawn out along the flow, mean 0, deviation near 1.
        crevasses: their density, 0..1: at icefalls and before the calving front.
        fjord: mask of the sea.
        lake: mask of still lakes.
        melt_lake: mask of lakes at the margin of the ice.
        river: fraction of running water.
        sediment: fraction of bare gravel and sand.
        till: fraction of fresh till and rock that the ice has left since the Little Ice Age.
        turbidity: of the water, 0 clear, 1 milky.
        melange: density of floating ice at sea, 1 before the calving front.
    """

    height_around: Array
    ice_around: Array
    ice_2001_around: Array
    glacier_around: Array
    sheet_around: Array
    equilibrium_m: float
    debris: Array
    stripes: Array
    crevasses: Array
    fjord: Array
    lake: Array
    melt_lake: Array
    river: Array
    sediment: Array
    till: Array
    turbidity: Array
    melange: Array

    @property
    def height(self) -> Array:
        """The visible surface in m."""
        return inner(self.height_around)

    @property
    def ice(self) -> Array:
        """The true glacier of 2023: ice, bare or under snow or debris, without nunataks."""
        return inner(self.ice_around)


def inner(field: Array) -> Array:
    """Cut the margin off the last two axes."""
    return field[..., EDGE:-EDGE, EDGE:-EDGE]


def build_landscape(rows: int, cols: int, setting: Setting, rng: np.random.Generator) -> Landscape:
    """Make an area.

    Args:
        rows: of pixels, a multiple of 16.
        cols: of pixels, a multiple of 16.
        setting: of the area.
        rng: of all noise.
    """
    shape = (rows // FACTOR + 2 * MARGIN, cols // FACTOR + 2 * MARGIN)
    relief = setting.relief
    bed, shore_km = make_bed(shape, relief, rng)
    frame = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]
    line = float(np.quantile(bed[frame], 1 - setting.fraction_above))
    sheets = _ice_sheet(relief.sheet_side, bed, shore_km, rng)
    # Wind carries snow from crests into hollows, where it lies through the summer.
    hollow = ndimage.gaussian_filter(bed, 4) - bed
    local = 50 * power_noise(shape, rng, exponent=3, longest=60) - 1.2 * np.clip(hollow, -150, 60)
    ages = _ages(bed, sheets, Climate(line), setting.warming_m, local)

    fine_bed = add_detail(refine(bed, FACTOR), setting.relief.roughness, rng)
    ragged = 0.02 * power_noise(fine_bed.shape, rng, exponent=2.5, longest=40)
    under_sea = refine(shore_km, FACTOR, order=1) + ragged < 0
    fine_bed = np.where(under_sea, np.minimum(fine_bed, -1), np.maximum(fine_bed, 1.0))
    smooth_bed = ndimage.gaussian_filter(fine_bed, 5)
    lia, old, now = (
        _on_fine(bed, grown, fine_bed, smooth_bed, refine(water_km, FACTOR, order=1) + ragged < 0)
        for grown, (_, water_km) in zip(ages, sheets, strict=True)
    )
    ice = _drop_small((now > 0) & (old > 0))
    old_ice = ice | _drop_small(old > 0)
    sea = under_sea & ~ice
    height = np.where(sea, 0, fine_bed + now * ice)

    glacier = _numbers(bed, ages[1], sheets[1][0], rng)
    debris, stripes, crevasses = _along_flow(
        height, now * ice, sea, glacier, line + setting.warming_m, setting.debris, rng
    )
    # Ice is not smooth: swells of a metre catch the light, and under debris, where it melts
    # unevenly, there are hummocks as rough as the ground around.
    swell = power_noise(ice.shape, rng, exponent=2.8, longest=50)
    hummocks = power_noise(ice.shape, rng, exponent=3, longest=20)
    height = (height + ice * swell + 2.5 * debris * hummocks).astype(np.float32)
    height, till = ground.moraines(height, ice, old_ice | (lia > 0), sea, rng)
    height, lake, melt_lake = ground.lakes(height, ice, old_ice | (lia > 0), sea)
    river, sediment = ground.rivers(height, ice, sea, lake | melt_lake, rng)
    turbidity = ground.turbidity(height, ice, sea, lake, melt_lake, river, rng)
    sheet = ice & (glacier == 0)
    melange = ground.melange(sea, sheet, rng)
    framed: list[Array] = [debris, stripes, crevasses, sea, lake, melt_lake, river, sediment, till]
    framed += [turbidity, melange]
    equilibrium_m = line + setting.warming_m
    return Landscape(height, ice, old_ice, glacier, sheet, equilibrium_m, *map(inner, framed))


def _ice_sheet(
    side: str | None, bed: Array, shore_km: Array, rng: np.random.Generator
) -> list[tuple[Array, Array]]:
    """Return the margin of the ice sheet in the Little Ice Age, in 2001 and in 2023, coarse grid.

    Perfectly plastic ice rises with the root of the distance from its margin; its outlet, held
    back by the walls of the fjord, rises faster.

    Returns:
        For each age the height in m of the ice sheet and its outlet, ``NO_SHEET`` elsewhere, and a
        field in km that is negative where the fjord is water.
    """
    if side is None:
        return [(np.full(bed.shape, NO_SHEET), shore_km)] * 3
    axis = 0 if side in ("north", "south") else 1
    away_km = (bed.shape[axis] - np.indices(bed.shape)[axis]) * COARSE_M / 1000
    if side in ("north", "west"):
        away_km = away_km[::-1, ::-1]
    reach_km = min(0.4 * away_km.max(), 11)
    wavy = power_noise(bed.shape, rng, exponent=3, longest=150, shortest=40)
    inside_km = 0.75 * reach_km - away_km + 0.06 * reach_km * wavy
    margin = (np.abs(inside_km) < 1) & (shore_km > 1)
    edge_m = float(np.quantile(bed[margin], 0.7)) if margin.any() else 700.0
    plateau = edge_m + np.sqrt(PLASTIC_M * 1e3 * np.maximum(inside_km, 0))
    ages = []
    for advance_km, thicker_m in ((1.2, 25.0), (0.0, 0.0), (-0.35, -12.0)):
        # The front bends back in the middle of the fjord, where the outlet is fastest.
        front_km = 1.28 * reach_km + advance_km - away_km + 0.2 * np.clip(shore_km, -1.5, 0)
        front_km += 0.1 * wavy
        outlet = np.sqrt(CLIFF_M**2 + 2.5 * PLASTIC_M * 1e3 * np.maximum(front_km, 0))
        outlet = outlet + 100 * np.maximum(shore_km, 0)
        trough = (inside_km > -1.5) & (shore_km < 1.5) & (bed < outlet - 120)
        # The outermost kilometre of the sheet finds its own way down. On the coarse grid the front
        # lies further out than the water of the fine one, which cuts a cliff.
        there = ((inside_km > 1) | (shore_km < 0) | trough) & (front_km > -0.3)
        low = np.minimum(plateau, outlet) + thicker_m * (front_km > 1)
        ages.append((np.where(there, low, NO_SHEET), np.maximum(shore_km, front_km)))
    return ages


def _ages(
    bed: Array,
    sheets: list[tuple[Array, Array]],
    climate: Climate,
    warming_m: float,
    local: Array,
) -> list[Array]:
    """Return the ice of the Little Ice Age, grown to balance, of 2001 and of 2023."""

    def halve(field: Array) -> Array:
        return field.reshape(bed.shape[0] // 2, 2, bed.shape[1] // 2, 2).mean((1, 3))

    def run(thickness: Array | None, age: int, warmer: float, half: bool, years: float) -> Array:
        cell_m, resize = (2 * COARSE_M, halve) if half else (COARSE_M, lambda field: field)
        held, water_km = (resize(field) for field in sheets[age])
        return grow(
            resize(bed), (water_km < 0) & (held == NO_SHEET), cell_m,
            replace(climate, equilibrium_m=climate.equilibrium_m + warmer),
            years=years, step=2, thickness=thickness, local=resize(local), held=held,
        )  # fmt: skip

    def refined(wide: Array) -> Array:
        top = refine(halve(bed) + wide, 2)
        return np.maximum(top - bed, 0) * (refine(wide, 2, order=1) > 3)

    def smoothed(ice: Array, held: Array) -> Array:
        # Where the ice sheet's given surface meets the ice that flows from it, no step is left.
        thick = (ice > 60) & ndimage.binary_dilation(held > bed, iterations=12)
        top = _mean(bed + ice, thick, 3)
        return np.where(thick, np.maximum(top - bed, 0.5 * ice), ice)

    cold = run(None, 0, -COOLER_M, True, 240)
    wide = run(cold, 1, 0.0, True, 60)
    then = run(refined(wide), 1, 0.0, False, 24)
    now = run(then, 2, warming_m, False, 22)
    return [refined(cold), smoothed(then, sheets[1][0]), smoothed(now, sheets[2][0])]


def _numbers(bed: Array, ice: Array, held: Array, rng: np.random.Generator) -> Array:
    """Number the glaciers, with margin, fine grid: 0 for the ice sheet and all that joins it."""
    numbers = basins(bed + ice, ice > 8, least_cells=20, rng=rng)
    sizes = np.bincount(numbers.ravel())
    of_sheet = np.bincount(numbers.ravel(), (held > bed).ravel()) > 0.2 * sizes
    of_sheet[0] = False
    numbers = np.where(of_sheet[numbers], -1, numbers)
    row, col = ndimage.distance_transform_edt(
        numbers == 0, return_distances=False, return_indices=True
    )
    numbers = np.maximum(numbers[row, col], 0).astype(np.int32)
    # The median of numbers takes the corners off borders that follow the grid.
    finer = ndimage.median_filter(np.kron(numbers, np.ones((2, 2), np.int32)), 5)
    return np.kron(finer, np.ones((FACTOR // 2, FACTOR // 2), np.int32))


def _mean(field: Array, there: Array, sigma: float) -> Array:
    """Return the mean of a field around each cell over the cells that are ``there``."""
    weight = ndimage.gaussian_filter(there.astype(np.float32), sigma)
    return ndimage.gaussian_filter(np.where(there, field, 0), sigma) / np.maximum(weight, 1e-6)


def _on_fine(bed: Array, ice: Array, fine_bed: Array, smooth_bed: Array, water: Array) -> Array:
    """Lay the coarse ice over the fine bed; return its thickness in m, 0 where there is none.

    The surface goes on beyond the margin of the coarse ice until it meets the bed, so that a
    glacier ends at the wall of its valley; where it thins out it lies on the bed.
    """
    there = ice > 8
    level = _mean(bed + ice, there, 0.7)
    nearest = ndimage.distance_transform_edt(
        ~ndimage.binary_dilation(there), return_distances=False, return_indices=True
    )
    level = refine(level[tuple(nearest)], FACTOR)
    depth = refine(ndimage.gaussian_filter(ice, 0.5), FACTOR)
    thin = smooth_bed + 1.7 * depth
    apart = np.maximum(12 - np.abs(level - thin), 0)
    thickness = np.minimum(level, thin) - apart**2 / 48 - fine_bed
    covered = (thickness > 2) & (depth > 4) & ~water
    covered = (ndimage.gaussian_filter(covered.astype(np.float32), 1.5) > 0.5) & ~water
    return np.where(covered, np.maximum(thickness, 1), 0).astype(np.float32)


def _drop_small(ice: Array) -> Array:
    """Leave out glaciers below ``LEAST_GLACIER_KM2`` and windows in the ice below a fifth of it."""
    least = LEAST_GLACIER_KM2 * 1e6 / PIXEL_M**2
    for mask, size in ((ice, least), (~ice, least / 5)):
        labels, _ = ndimage.label(mask)
        small = np.bincount(labels.ravel()) < size
        small[0] = False
        ice = ice ^ small[labels]
    return ice


def _along_flow(
    height: Array,
    thickness: Array,
    sea: Array,
    glacier: Array,
    line: float,
    debris: float,
    rng: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Return debris, the texture drawn out along the flow lines, and crevasses.

    Rock falls on the ice where it meets steep walls, rides on the flow lines, and melts out below
    the equilibrium line: lateral moraines, merging over the lowest tongues, and medial ones along
    the sutures between tributaries, where neighbouring ice comes from far apart.
    """
    cell_m, half = 2 * PIXEL_M, np.s_[::2, ::2]
    ice = thickness > 0
    cover, top, numbers = ice[half], height[half], glacier[half]
    shape = cover.shape
    slope = np.hypot(*gradient(top, cell_m))
    walls = ndimage.gaussian_filter(((slope > 0.7) & ~cover).astype(np.float32), 2.5)
    patchy = power_noise(shape, rng, exponent=2, longest=30)
    # The mean of noise along two kilometres of flow gives bands that follow it.
    noise = power_noise(shape, rng, exponent=0.5, longest=20, shortest=3)
    sources = np.stack([walls * rounded(np.exp, 0.9 * patchy), noise])
    origin, (load, streaks) = upstream(top, cover, sources, cell_m)
    jump = np.sqrt(sum(part**2 for field in origin for part in np.gradient(field)))
    suture = np.clip(ndimage.gaussian_filter(jump, 1) / 4 - 0.75, 0, 1) * cover
    # Some tributaries bring much rock, most little.
    bringing = ndimage.map_coordinates(patchy, origin, order=1, mode="nearest")

    below = (line - top) / 250
    melting = cover & (below > 0)
    number, count = numbers[melting], int(numbers.max()) + 1
    lowest = np.full(count, line - 1.0)
    np.minimum.at(lowest, number, top[melting])
    down = (line - top) / (line - lowest)[numbers]
    score = rounded(np.log, load + 0.1) + 5 * np.clip(down, -1, 1)
    score += 0.25 * power_noise(shape, rng, exponent=2, longest=25)
    wanted = np.minimum(debris * rounded(np.exp, 0.6 * rng.standard_normal(count)), 0.4)
    wanted = np.where(rng.random(count) < 0.06, rng.uniform(0.5, 0.8, count), wanted)
    wanted[0] = 0.01
    # Within each glacier the highest scores are under debris.
    order = np.lexsort((score[melting], number))
    sizes = np.bincount(number, minlength=count)
    rank = np.cumsum(sizes) - np.maximum(np.ceil(wanted * sizes), 1).astype(int)
    limit = np.append(score[melting][order], np.inf)[np.minimum(rank, order.size)]
    # Where two glaciers meet, one limit passes into the other.
    limits = _mean(limit[numbers], melting, 8)
    medial = 2 * suture - 2.4 + np.minimum(bringing, 1.5) - (numbers == 0)
    score = np.maximum(np.clip((score - limits) / 0.4, -2, 2), medial)
    # Stones lie scattered at the edges of the cover, none above the line.
    score = refine(score - 4 * ~cover, 2, order=1)
    score += 0.7 * power_noise(ice.shape, rng, exponent=1.2, longest=20)
    score = np.minimum(score, refine(12 * below - 0.5, 2, order=1))
    cover_fine = np.where(ice, np.clip(score + 0.5, 0, 1), 0).astype(np.float32)

    smooth = ndimage.gaussian_filter(top, 3)
    steep = np.hypot(*gradient(smooth, cell_m)) * cover
    # Old layers come out along the contours, as wide bands where the ice sheet ends.
    broad = power_noise(shape, rng, exponent=3, longest=150, shortest=40)
    streaks -= ndimage.gaussian_filter(streaks, 10)
    streaks /= np.append(streaks[cover], [-1, 1]).std()
    ages = smooth / 22 + 1.5 * broad + 0.1 * np.clip(streaks, -2, 2)
    layers = np.interp(ages, np.arange(-10, 190), rng.standard_normal(200))
    on_sheet = numbers == 0
    stripes = np.where(on_sheet, 0.7, 1) * np.clip(streaks, -3, 3)
    stripes += np.where(on_sheet, 0.5, 0.2) * layers

    # Ice cracks where thickness times slope, that is the stress, is high: 15 m are 135 kPa.
    pull = thickness[half] * steep
    falls = np.clip((pull - 20) / 20, 0, 1) * np.clip((steep - 0.12) / 0.12, 0, 1)
    calving = ndimage.gaussian_filter(sea[::FACTOR, ::FACTOR].astype(np.float32), 8)
    crevasses = np.maximum(falls, refine(2 * calving, FACTOR // 2, order=1))
    crevasses = np.clip(crevasses * np.clip(0.7 + 0.5 * patchy, 0, 1), 0, 1)
    crevasses = np.where(ice, refine(crevasses, 2, order=1), 0)
    return cover_fine, refine(stripes, 2, order=1), crevasses
