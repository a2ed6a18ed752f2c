"""Glaciers of the synthetic sample: how they grow and flow, and the landscape around them.

Mass balance, shallow-ice flow, flow lines and drainage basins on the coarse grid; from them one
area at 10 m with land, ice then and now, debris and lakes: all that stays the same between the
dates of a season. Heights and ice thickness in m, time in years, grids [row, col].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from glacier_utils.synthetic.terrain import (
    COARSE_M,
    Array,
    Relief,
    drain,
    frame_of,
    gradient,
    make_bed,
    power_noise,
    refine,
)

FLOW_FACTOR = 2.2e-5
"""2 A (rho g)^3 / 5 for ice at the melting point, in m^-3 a^-1 (Cuffey & Paterson 2010)."""

MOST_DIFFUSIVITY = 2e5
"""Limit in m2 a^-1 that keeps the equations quick to solve; only thick, flat ice reaches it."""

PIXEL_M = 10.0
FACTOR = round(COARSE_M / PIXEL_M)
MARGIN = 16
"""Coarse cells around the frame: mountains outside it shade it and send ice into it."""
EDGE = MARGIN * FACTOR
"""The same in pixels."""
LEAST_GLACIER_KM2 = 0.03


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
    gain: float = 0.007
    most: float = 1.4
    shade_m: float = 90.0


def shade(height: Array, cell_m: float) -> Array:
    """Return how far a slope turns away from the sun: -1 steep to the south, 1 to the north.

    Args:
        height: m [row, col].
        cell_m: side of a cell.
    """
    _, north = gradient(height, cell_m)
    # Ground that falls to the north is shaded: its height decreases northwards.
    return np.tanh(-2.0 * north)


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
) -> Array:
    """Let ice accumulate, flow and melt.

    Shallow-ice flow, d H / dt = balance + div(D grad s), with D = FLOW_FACTOR * H^5 * slope^2,
    where H is taken from the higher of two cells (Jarosch et al. 2013, The Cryosphere 7, 229), so
    that no ice leaves a cell that has none. Each step is implicit in the surface s. Steep rock
    sheds its snow, and ice calves at sea.

    Args:
        bed: m [row, col].
        sea: bool [row, col].
        cell_m: side of a cell.
        climate: of the area.
        years: to pass.
        step: in years.
        thickness: of the ice at the start; None: none.
        local: by how many m the equilibrium line lies higher, cell by cell.

    Returns:
        Thickness in m.
    """
    ice = np.zeros_like(bed) if thickness is None else thickness.copy()
    steepness = np.hypot(*gradient(bed, cell_m))
    shed = np.clip((steepness - 0.75) / 0.35, 0, 1)
    turned = shade(ndimage.gaussian_filter(bed, 1.5), cell_m)
    line = climate.equilibrium_m + local - climate.shade_m * turned
    for _ in range(round(years / step)):
        surface = bed + ice
        balance = np.minimum(climate.gain * (surface - line), climate.most)
        balance = np.where(balance > 0, balance * (1 - shed) - 0.8 * shed, balance)
        balance = np.where(sea, -30.0, balance)
        east, south = _diffusivity(surface, ice, cell_m, step)
        surface = _relax(surface + step * balance, east, south, step / cell_m**2, start=surface)
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
        flow = np.minimum(FLOW_FACTOR * upper**5 * slope2, MOST_DIFFUSIVITY)
        # No face passes on more in one step than the upper cell holds.
        faces.append(np.minimum(flow, 0.6 * upper * cell_m / step / (np.abs(rise) + 1e-3)))
    return faces[0], faces[1]


def _relax(target: Array, east: Array, south: Array, scale: float, start: Array) -> Array:
    """Solve s - scale * div(D grad s) = target by conjugate gradients, scaled by the diagonal."""
    # Nothing flows through the frame.
    east = np.pad(scale * east, ((0, 0), (1, 1)))
    south = np.pad(scale * south, ((1, 1), (0, 0)))
    diagonal = 1 + east[:, 1:] + east[:, :-1] + south[1:] + south[:-1]

    def apply(s: Array) -> Array:
        across = east * np.diff(s, axis=1, prepend=0, append=0)
        down = south * np.diff(s, axis=0, prepend=0, append=0)
        return s - across[:, 1:] + across[:, :-1] - down[1:] + down[:-1]

    solution = start.copy()
    residual = target - apply(solution)
    scaled = residual / diagonal
    direction = scaled.copy()
    energy = (residual * scaled).sum()
    for _ in range(40):
        image = apply(direction)
        length = energy / (direction * image).sum()
        solution += length * direction
        residual -= length * image
        if np.abs(residual).max() < 0.05:
            break
        scaled = residual / diagonal
        before, energy = energy, (residual * scaled).sum()
        direction = scaled + (energy / before) * direction
    return solution


def upstream(
    surface: Array, ice: Array, source: Array, cell_m: float, doublings: int = 9
) -> tuple[Array, Array, Array]:
    """Follow the flow lines backwards from every cell of a glacier.

    A path of 2n steps is the path of n steps taken twice, so nine compositions follow 512 steps.

    Args:
        surface: m [row, col].
        ice: bool [row, col].
        source: what is picked up, per step.
        cell_m: side of a cell.
        doublings: 2 to the power of this is the number of steps of one cell.

    Returns:
        The row and the column that ice came from (it stops at the margin), and the sum of the
        source along the way.
    """
    east, north = gradient(ndimage.gaussian_filter(surface, 3), cell_m)
    speed = np.hypot(east, north) + 1e-6
    inside = ice.astype(np.float32)
    rows, cols = np.indices(surface.shape, dtype=np.float32)
    # Uphill is backwards along the flow; rows count to the south.
    row = rows - north / speed * inside
    col = cols + east / speed * inside
    total = np.where(ice, source, 0).astype(np.float32)
    for _ in range(doublings):
        at = np.stack([row, col])
        total = total + ndimage.map_coordinates(total, at, order=1, mode="nearest")
        row, col = (
            ndimage.map_coordinates(field, at, order=1, mode="nearest") for field in (row, col)
        )
    return row, col, total


def basins(surface: Array, ice: Array, least_cells: int, rng: np.random.Generator) -> Array:
    """Divide ice into glaciers by where it drains to.

    Cells that leave the ice within some 400 m of each other belong to one tongue; small basins join
    the neighbour with which they have the longest border.

    Args:
        surface: m [row, col].
        ice: bool [row, col].
        least_cells: of a basin.
        rng: of a little roughness.

    Returns:
        1..n, 0 where there is no ice.
    """
    # Water that meets a nunatak runs round it: only the outer margin ends a glacier.
    outer = ndimage.binary_fill_holes(ice)
    # Some roughness keeps the divides from running straight along the grid.
    smooth = ndimage.gaussian_filter(surface, 1.5) + 2.0 * rng.standard_normal(surface.shape)
    mouth = drain(smooth, ~outer | frame_of(ice.shape)).mouths()
    ends = np.zeros(ice.size, bool)
    ends[np.unique(mouth[ice.ravel()])] = True
    groups, _ = ndimage.label(
        ndimage.binary_dilation(ends.reshape(ice.shape), np.ones((3, 3)), iterations=2),
        np.ones((3, 3)),
    )
    labels = np.where(ice, groups.ravel()[mouth].reshape(ice.shape), 0)
    return _merge_small(labels, least_cells)


def _merge_small(labels: Array, least_cells: int) -> Array:
    labels = labels.copy()
    for _ in range(200):
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        for label in np.argsort(sizes, kind="stable"):
            if not 0 < sizes[label] < least_cells:
                continue
            own = labels == label
            around = labels[ndimage.binary_dilation(own, np.ones((3, 3))) & ~own]
            around = around[around > 0]
            if around.size:
                labels[own] = np.bincount(around).argmax()
                break
        else:
            break
    _, numbered = np.unique(labels, return_inverse=True)
    return numbered.reshape(labels.shape)


@dataclass(frozen=True)
class Setting:
    """What makes one area differ from another.

    Attributes:
        relief: of the ground.
        fraction_above: of the frame, above the equilibrium line of 2001.
        warming_m: by which the line has risen since.
        debris: fraction of the ablation zone under debris.
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
        height_around: the visible surface in m.
        ice_around: mask of the ice of 2023.
        ice_2001_around: mask of the ice of 2001.
        glacier_around: number of the glacier of 2001 that a cell belongs to or lies nearest to.
        debris: fraction of cover.
        stripes: texture drawn out along the flow.
        fjord: mask.
        lake: mask.
        melt_lake: mask.
        sediment: fraction.
        equilibrium_m: height of the equilibrium line of 2023.
    """

    height_around: Array
    ice_around: Array
    ice_2001_around: Array
    glacier_around: Array
    debris: Array
    stripes: Array
    fjord: Array
    lake: Array
    melt_lake: Array
    sediment: Array
    equilibrium_m: float

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
    bed, shore_km = make_bed(shape, setting.relief, rng)
    fjord = shore_km < 0
    frame = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]
    line = float(np.quantile(bed[frame], 1 - setting.fraction_above))
    local = 50 * power_noise(shape, rng, exponent=3, longest=60)
    then, now = _two_ages(bed, fjord, Climate(line), setting.warming_m, local)

    fine_bed = _detail(refine(bed, FACTOR), setting.relief.roughness, rng)
    ragged = 0.02 * power_noise(fine_bed.shape, rng, exponent=2.5, longest=40)
    sea = refine(shore_km, FACTOR, order=1) + ragged < 0
    fine_bed = np.where(sea, np.minimum(fine_bed, -1), np.maximum(fine_bed, 1.0))
    old_ice, _ = _on_fine(bed, then, fine_bed)
    ice, thickness = _on_fine(bed, now, fine_bed)
    # Glaciers are not smooth either: swells and hollows of a few metres catch the light.
    thickness += 2.5 * power_noise(ice.shape, rng, exponent=2.8, longest=50) * ice
    ice &= old_ice
    ice = _drop_small(ice & ~sea) & ~sea
    old_ice = ice | (_drop_small(old_ice & ~sea) & ~sea)
    thickness = np.where(ice, thickness, 0)
    height = np.where(sea, 0, fine_bed + thickness)

    numbers = basins(bed + then, then > 8, least_cells=10, rng=rng)
    numbers = np.kron(numbers, np.ones((FACTOR, FACTOR), numbers.dtype))
    row, col = ndimage.distance_transform_edt(
        numbers == 0, return_distances=False, return_indices=True
    )
    glacier = numbers[row, col]
    debris, stripes = _along_flow(height, ice, line + setting.warming_m, setting.debris, rng)
    height, lake, melt_lake = _lakes(height, ice, old_ice, sea)
    sediment = _sediment(height, ice, old_ice, sea | lake | melt_lake)
    return Landscape(
        height_around=height.astype(np.float32),
        ice_around=ice,
        ice_2001_around=old_ice,
        glacier_around=glacier,
        debris=inner(debris),
        stripes=inner(stripes),
        fjord=inner(sea),
        lake=inner(lake),
        melt_lake=inner(melt_lake),
        sediment=inner(sediment),
        equilibrium_m=line + setting.warming_m,
    )


def _two_ages(
    bed: Array, sea: Array, climate: Climate, warming_m: float, local: Array
) -> tuple[Array, Array]:
    """Grow the glaciers of 2001 close to balance, then let them shrink for 22 years."""

    def halve(field: Array) -> Array:
        return field.reshape(bed.shape[0] // 2, 2, bed.shape[1] // 2, 2).mean((1, 3))

    wide = grow(
        halve(bed), halve(sea) > 0.5, 2 * COARSE_M, climate, years=300, step=2, local=halve(local)
    )
    start = np.maximum(refine(halve(bed) + wide, 2) - bed, 0) * (refine(wide, 2, order=1) > 3)
    then = grow(bed, sea, COARSE_M, climate, years=40, step=1, thickness=start, local=local)
    warmer = replace(climate, equilibrium_m=climate.equilibrium_m + warming_m)
    now = grow(bed, sea, COARSE_M, warmer, years=22, step=1, thickness=then, local=local)
    return then, now


def _detail(bed: Array, roughness: float, rng: np.random.Generator) -> Array:
    """Add what the coarse grid cannot hold: ribs and gullies, more of them on steep ground."""
    slope = np.hypot(*gradient(bed, PIXEL_M))
    steep = np.clip(slope / 0.8, 0, 1.3) ** 1.5
    fine = power_noise(bed.shape, rng, exponent=3.4, longest=50)
    ribs = -np.abs(power_noise(bed.shape, rng, exponent=3.7, longest=45)) + 0.8
    return bed + roughness * ((2.5 + 5 * steep) * fine + 24 * steep * ribs)


def _on_fine(bed: Array, ice: Array, fine_bed: Array) -> tuple[Array, Array]:
    """Lay the coarse ice surface over the fine bed; return where ice is and its thickness."""
    depth = ndimage.gaussian_filter(refine(ice, FACTOR, order=1), 3)
    # Ice fills the bed's hollows: its surface keeps little of the roughness below it.
    surface = refine(ndimage.gaussian_filter(bed + ice, 0.7), FACTOR)
    rough = fine_bed - ndimage.gaussian_filter(fine_bed, 12)
    covered = (depth > 9 + 0.7 * rough) & (depth > 3)
    smooth = ndimage.gaussian_filter(fine_bed, 3) + np.maximum(depth - 4, 1)
    blend = np.clip(depth / 40, 0, 1)
    top = blend * surface + (1 - blend) * smooth
    return covered, np.where(covered, np.maximum(top - fine_bed, 1.0), 0).astype(np.float32)


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
    height: Array, ice: Array, line: float, debris: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return the debris fraction and a texture drawn out along the flow lines.

    Rock falls on the ice where it meets steep walls, rides on the flow lines, and melts out below
    the equilibrium line: lateral and medial moraines, merging over the lowest tongues.
    """
    half = np.s_[::2, ::2]
    small_ice, small_height = ice[half], height[half]
    slope = np.hypot(*gradient(height, PIXEL_M))
    walls = ndimage.gaussian_filter(((slope > 0.7) & ~ice).astype(np.float32), 5)[half]
    patchy = np.exp(0.9 * power_noise(ice.shape, rng, exponent=2, longest=60)[half])
    row, col, load = upstream(small_height, small_ice, walls * patchy, 2 * PIXEL_M)
    noise = power_noise(small_ice.shape, rng, exponent=0.9, longest=50, shortest=3)
    stripes = ndimage.map_coordinates(noise, np.stack([row, col]), order=1, mode="nearest")

    rows, cols = ice.shape
    load = refine(load, 2, order=1)[:rows, :cols]
    stripes = refine(stripes, 2, order=1)[:rows, :cols]
    below = (line - height) / 250
    mottle = power_noise(ice.shape, rng, exponent=2, longest=25)
    emerged = np.log(load + 0.02) + 1.6 * np.clip(below, -2, 2) + 0.35 * mottle
    ablation = ice & (below > 0)
    if not ablation.any():
        return np.zeros(ice.shape, np.float32), stripes
    limit = np.quantile(emerged[ablation], 1 - debris)
    cover = np.clip((emerged - limit) / 0.8 + 0.5, 0, 1) * np.clip(below / 0.15, 0, 1)
    return np.where(ice, cover, 0).astype(np.float32), stripes


def _lakes(height: Array, ice: Array, old_ice: Array, sea: Array) -> tuple[Array, Array, Array]:
    """Fill hollows with lakes, and pond meltwater where the largest tongues have drawn back."""
    melt = np.zeros(ice.shape, bool)
    height = height.copy()
    labels, _ = ndimage.label(ndimage.binary_opening(old_ice & ~ice, iterations=3))
    sizes = np.bincount(labels.ravel())[1:]
    for label in np.argsort(-sizes, kind="stable")[:3] + 1:
        bared = labels == label
        level = np.quantile(height[bared], 0.05) + 12
        near = ndimage.binary_dilation(bared, iterations=25) & ~ice & ~sea
        pond, _ = ndimage.label(near & (height < level))
        melt |= np.isin(pond, pond[bared & (pond > 0)])
        height[melt & bared] = np.maximum(height[melt & bared], level)
    melt = ndimage.binary_opening(melt, iterations=2) & ~ice
    flat = np.hypot(*gradient(ndimage.gaussian_filter(height, 2), PIXEL_M)) < 0.035
    free = ~ice & ~sea & ~melt & (height > 3)
    still = (ndimage.gaussian_filter((flat & free).astype(np.float32), 4) > 0.6) & free
    for lakes in (still, melt):
        labels, number = ndimage.label(lakes)
        if number:
            levels = np.full(number + 1, np.inf)
            np.minimum.at(levels, labels[lakes], height[lakes])
            height = np.where(lakes, levels[labels], height)
    return height, still, melt


def _sediment(height: Array, ice: Array, old_ice: Array, water: Array) -> Array:
    """Return the fraction of bare gravel and till: forelands, and valley floors below glaciers."""
    slope = np.hypot(*gradient(ndimage.gaussian_filter(height, 2), PIXEL_M))
    from_ice = ndimage.distance_transform_edt(~old_ice) * PIXEL_M
    foreland = np.clip(1.2 - from_ice / 500, 0, 1) * np.clip((0.35 - slope) / 0.2, 0, 1)
    plain = np.clip(1.2 - from_ice / 2500, 0, 1) * np.clip((0.10 - slope) / 0.06, 0, 1)
    return np.where(ice | water, 0, np.maximum(foreland, plain)).astype(np.float32)


def north_facing(height: Array) -> Array:
    """Return the shade of the ground over some 100 m, -1..1 (see ``shade``)."""
    return shade(ndimage.gaussian_filter(height, 6), PIXEL_M)
