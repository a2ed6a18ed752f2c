"""Mountain terrain for the synthetic sample: noise, running water, glacial troughs and cirques.

Heights are metres above the sea, grids are ``[row, col]`` with row 0 in the north. The landscape
is made on a coarse grid, where drainage is followed cell by cell, and refined afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import fft, ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

Array = np.ndarray
PIXEL_M = 10.0
"""Pixel size in m of the images."""
COARSE_M = 80.0
"""Cell size in m of the grid on which rivers and ice flow."""
TILES = (896, 704)
"""Sizes in pixels of the periodic tiles that large fields of noise are made of."""
SIDES = {"north": (0, 0), "south": (0, 1), "west": (1, 0), "east": (1, 1)}
"""Axis of a side of the frame, and at which end of it."""
NOISE_CELL = 8
"""Pixels a cell of the grid on which the long waves of large fields of noise are made."""


def rounded(function: Callable[..., Array], *values: Array | float) -> Array:
    """Apply exp, log, power or the like in double precision and round to single.

    The last digit of such a function is not the same on every processor (NumPy has others for
    AVX-512); rounded to single precision it is, but for one number in some 1e8. Rivers would find
    another way otherwise, and a seed would not stand for one landscape.
    """
    return function(*(np.asarray(value, np.float64) for value in values)).astype(np.float32)


def power_noise(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    exponent: float = 2.0,
    longest: float = np.inf,
    shortest: float = 0.0,
) -> Array:
    """Return a Gaussian field with power spectrum ``k ** -exponent``, mean 0, deviation 1.

    Large fields are summed from bands: long waves on a coarse grid, short waves from two periodic
    tiles whose sizes share no period, so that nothing repeats within the field.

    Args:
        shape: rows and columns.
        rng: of the noise.
        exponent: near 3 to 4 for natural terrain, 0 for white noise.
        longest: wavelength in pixels above which there is little.
        shortest: wavelength in pixels below which there is little.

    Returns:
        float32 [row, col].
    """

    def band(size: tuple[int, int], cell: int, low: float, high: float) -> Array:
        spectrum = fft.rfft2(rng.standard_normal(size, dtype=np.float32))
        k = np.hypot(fft.fftfreq(size[0])[:, None], fft.rfftfreq(size[1])[None, :]) / cell
        k[0, 0] = 1e9
        # White noise of one variance a cell is stronger per frequency on larger cells.
        gain = np.maximum(k, 1.0 / longest) ** (-exponent / 2) / cell
        gain *= np.sqrt(np.exp(-((k * low) ** 4)) * -np.expm1(-((k * high) ** 4)))
        gain *= np.exp(-((k * shortest) ** 2)) * (k >= 0.5 / longest)
        return fft.irfft2(spectrum * gain.astype(np.float32), s=size)

    if max(shape) <= TILES[0]:
        field = band(shape, 1, 0.0, np.inf)
    else:
        field = np.zeros(shape, np.float32)
        split = 12 * NOISE_CELL if longest > TILES[1] / 6 else np.inf
        for size in TILES:
            times = [-(-length // size) for length in shape]
            tile = band((size, size), 1, 0.0, split) / np.sqrt(len(TILES))
            field += np.tile(tile, times)[: shape[0], : shape[1]]
        if split < np.inf:
            cells = (-(-shape[0] // NOISE_CELL), -(-shape[1] // NOISE_CELL))
            broad = refine(band(cells, NOISE_CELL, split, np.inf), NOISE_CELL)
            field += broad[: shape[0], : shape[1]]
    field -= field.mean()
    field /= field.std()
    return field


@dataclass(frozen=True)
class Drainage:
    """The tree along which water leaves a grid.

    Cells are flat indices.

    Attributes:
        order: the cells, each after the cell that it drains to.
        levels: cuts that list into runs of equal distance to the outlet (in cells).
        receiver: for each cell the cell below it; outlets drain to themselves.
    """

    order: Array
    levels: list[slice]
    receiver: Array

    def accumulate(self, supply: Array) -> Array:
        """Sum ``supply`` over all that lies upstream of each cell, itself included."""
        total = supply.astype(float).ravel().copy()
        for level in reversed(self.levels[1:]):
            cells = self.order[level]
            np.add.at(total, self.receiver[cells], total[cells])
        return total.reshape(supply.shape)

    def mouths(self) -> Array:
        """Return for each cell the outlet that its water reaches, as a flat index."""
        mouth = np.arange(self.receiver.size)
        for level in self.levels[1:]:
            cells = self.order[level]
            mouth[cells] = mouth[self.receiver[cells]]
        return mouth


def drain(height: Array, outlets: Array) -> Drainage:
    """Find the drainage tree of ``height`` towards the cells where ``outlets`` is True.

    A minimum spanning tree over the steps between the eight neighbours, each as costly as its
    higher end, contains the steepest way down from every cell, and leads out of every hollow over
    its lowest sill: flow direction and the filling of pits in one.

    Args:
        height: m [row, col].
        outlets: bool [row, col].
    """
    cells = np.arange(height.size).reshape(height.shape)
    flat = (height - height.min()).ravel() + 1.0
    exits = cells[outlets]
    root = height.size
    starts, ends = [exits], [np.full(exits.size, root)]
    weights = [np.full(exits.size, 1e-3)]
    for near, far, length in (
        (np.s_[:, :-1], np.s_[:, 1:], 1.0),
        (np.s_[:-1], np.s_[1:], 1.0),
        (np.s_[:-1, :-1], np.s_[1:, 1:], 2**0.5),
        (np.s_[:-1, 1:], np.s_[1:, :-1], 2**0.5),
    ):
        a, b = cells[near].ravel(), cells[far].ravel()
        # The small slope term lets the steepest of several lower neighbours win.
        step = np.abs(flat[a] - flat[b]) / length
        starts.append(a)
        ends.append(b)
        weights.append(np.maximum(flat[a], flat[b]) - 1e-4 * np.minimum(step, 5e3))
    # Ranks, so that no two are the same: which of equals comes first is not left to the library.
    ranks = np.empty(sum(map(len, weights)))
    ranks[np.argsort(np.concatenate(weights), kind="stable")] = np.arange(1, ranks.size + 1)
    steps = np.concatenate(starts), np.concatenate(ends)
    tree = minimum_spanning_tree(coo_array((ranks, steps), shape=(root + 1, root + 1)).tocsr())
    order, parent = breadth_first_order(tree, root, directed=False, return_predecessors=True)
    receiver = parent[:root].astype(np.int64)
    receiver[exits] = exits
    order = order[1:].astype(np.int64)
    # The order is by distance, so each run of cells ends where the parents leave the run before.
    place = np.empty(root + 1, np.int64)
    place[order], place[root] = np.arange(root), -1
    above = place[parent[order]]
    cuts = [0, int(np.searchsorted(above, 0))]
    while cuts[-1] < root:
        cuts.append(int(np.searchsorted(above, cuts[-1])))
    return Drainage(order, [slice(*ends) for ends in pairwise(cuts)], receiver)


def erode(
    height: Array, outlets: Array, uplift: Array, steps: int, rng: np.random.Generator
) -> Array:
    """Let rivers cut into rising ground: stream power, implicit in time.

    dh/dt = uplift - 0.25 * area**0.45 * slope, with the area in cells and one time unit a step,
    solved from the outlets upstream (Braun & Willett 2013, Geomorphology 180, 170).

    Args:
        height: m [row, col].
        outlets: bool [row, col]; they keep their height.
        uplift: m per step.
        steps: their number.
        rng: of the unevenness that turns brooks out of the eight directions of the grid.

    Returns:
        Height in m.
    """
    height = height.astype(float).copy()
    for _ in range(steps):
        uneven = power_noise(height.shape, rng, exponent=1, longest=8)
        tree = drain(height + 15 * uneven, outlets)
        area = tree.accumulate(np.ones_like(height)).ravel()
        power = 0.25 * rounded(np.power, area, 0.45)
        flat = np.where(outlets, height, height + uplift).ravel()
        for level in tree.levels[1:]:
            cells = tree.order[level]
            below = flat[tree.receiver[cells]]
            cut = (flat[cells] + power[cells] * below) / (1.0 + power[cells])
            flat[cells] = np.where(flat[cells] > below, cut, flat[cells])
        height = flat.reshape(height.shape)
        # Slopes creep: without it crests grow into needles one cell wide.
        smooth = ndimage.gaussian_filter(height, 1.0)
        height = np.where(outlets, height, 0.7 * height + 0.3 * smooth)
    return height


def carve_troughs(height: Array, outlets: Array, rng: np.random.Generator) -> Array:
    """Deepen and widen the valleys to the parabolic troughs that ice leaves.

    Cross sections are powers of the distance from the floor (Harbor 1992, GSA Bulletin 104, 1364);
    width, depth and the height of the walls grow with the catchment, so that small valleys end
    hanging above large ones.

    Args:
        height: m [row, col].
        outlets: bool [row, col].
        rng: of the width and of the hollows along the floors.
    """
    area = drain(height, outlets).accumulate(np.full(height.shape, (COARSE_M / 1000) ** 2))
    floor = ndimage.gaussian_filter(ndimage.minimum_filter(height, 3), 1.5)
    uneven = rounded(np.exp, 0.3 * power_noise(height.shape, rng, exponent=3, longest=60))
    # Ice overdeepens: hollows along the floors hold lakes.
    hollows = 28 * np.clip(power_noise(height.shape, rng, exponent=3, longest=36) - 0.6, 0, 1.5)
    carved = height.copy()
    for least in (0.5, 1.5, 4.0, 12.0, 40.0):
        distance, nearest = ndimage.distance_transform_edt(area < least, return_indices=True)
        nearest = tuple(nearest)
        size = area[nearest]
        wide = rounded(np.power, size, 0.27)
        low = floor[nearest] / (1 + 0.5 * rounded(np.log, np.maximum(size / 0.7, 1)))
        away = np.maximum(distance * COARSE_M / (380 * wide * uneven) - 0.15, 0)
        low = ndimage.gaussian_filter(low, 2) - np.where(size > 2, hollows, 0)
        wall = 240 * wide * rounded(np.power, ndimage.gaussian_filter(away, 1.2), 2.2)
        carved = np.minimum(carved, low + wall)
    return ndimage.gaussian_filter(carved, 0.7)


def carve_cirques(height: Array, outlets: Array, above: float, rng: np.random.Generator) -> Array:
    """Hollow out bowls of some 300 to 800 m radius at valley heads higher than ``above``.

    The bowl opens down the slope: its wall stands on the uphill side only.

    Args:
        height: m [row, col].
        outlets: bool [row, col].
        above: m.
        rng: chooses the places.
    """
    area = drain(height, outlets).accumulate(np.full(height.shape, (COARSE_M / 1000) ** 2))
    east, north = gradient(ndimage.gaussian_filter(height, 3), COARSE_M)
    steep = np.maximum(np.hypot(east, north), 1e-3)
    heads = (area > 0.08) & (area < 0.6) & (height > above) & (steep > 0.25)
    # Snow lasts where the slope turns from the sun, so most bowls look north and north-east.
    chance = heads * (1 + rng.random(height.shape) + 0.35 * (0.4 * east + north) / -steep)
    ragged = 0.08 * power_noise(height.shape, rng, exponent=3, longest=16)
    rows, cols = (np.arange(size) for size in height.shape)
    carved = height.copy()
    for row, col in np.argwhere(heads & (chance == ndimage.maximum_filter(chance, 17))):
        radius = math.exp(rng.normal(6.2, 0.3)) / COARSE_M
        near = tuple(slice(max(at - int(2 * radius), 0), at + int(2 * radius)) for at in (row, col))
        south, right = rows[near[0], None] - row, cols[near[1]] - col
        along = (right * east[row, col] - south * north[row, col]) / steep[row, col] / radius
        across = np.maximum(np.hypot(south, right) / radius + ragged[near], 0)
        bowl = 0.55 * rounded(np.power, across, 3.5) + 0.1 * along
        bowl = height[row, col] - 20 + radius * COARSE_M * bowl
        carved[near] = np.where(across < 1.8, np.minimum(carved[near], bowl), carved[near])
    return ndimage.gaussian_filter(carved, 0.8)


def refine(coarse: Array, factor: int, *, order: int = 3) -> Array:
    """Interpolate a coarse grid to smaller cells, cell areas kept in place.

    Args:
        coarse: [row, col].
        factor: by which cells become smaller.
        order: 3 for splines, 1 for straight lines.
    """
    pad = 8
    fine = np.pad(coarse.astype(np.float32), pad, mode="reflect", reflect_type="odd")
    for axis in (1, 0):
        size = coarse.shape[axis]
        if order == 3:
            fine = ndimage.spline_filter1d(fine, 3, axis=axis, output=np.float32, mode="mirror")
        lines = np.moveaxis(fine, axis, 0)
        result = np.empty((size * factor, *lines.shape[1:]), np.float32)
        for phase in range(factor):
            first, b = divmod((phase + 0.5) / factor - 0.5, 1.0)
            a, start = 1 - b, pad - 1 + int(first)
            weights = np.array([0, a, b, 0])
            if order == 3:
                # The cubic B-spline at the four nearest cells.
                weights = np.array([a**3, 4 - 6 * b**2 + 3 * b**3, 4 - 6 * a**2 + 3 * a**3, b**3])
                weights /= 6
            result[phase::factor] = sum(
                np.float32(weights[k]) * lines[start + k : start + k + size]
                for k in np.flatnonzero(weights)
            )
        fine = np.moveaxis(result, 0, axis)
    return fine


def add_detail(bed: Array, roughness: float, rng: np.random.Generator) -> Array:
    """Add what the coarse grid cannot hold: ribs and gullies down the slopes, knobs between them.

    Gullies are noise summed along some 400 m of the way down, on cells of 20 m. Valley floors
    stay even, steep ground is rough.

    Args:
        bed: m [row, col], cells of 10 m, even numbers of rows and columns.
        roughness: 1 as usual.
        rng: of the noise.

    Returns:
        float32 height in m.
    """
    small = ndimage.gaussian_filter(bed[::2, ::2], 2)
    east, north = gradient(small, 2 * PIXEL_M)
    slope = np.hypot(east, north)
    steep = np.clip((slope - 0.25) / 0.5, 0, 1.4)
    down = np.indices(small.shape) + 3.0 / np.maximum(slope, 1e-6) * np.stack([north, -east])
    below = np.ravel_multi_index(tuple(np.rint(down).astype(int)), slope.shape, "clip").ravel()
    total = power_noise(small.shape, rng, exponent=2.2, longest=30, shortest=4).ravel()
    # Paths of one, two and four steps, each twice the one before.
    for _ in range(3):
        total = total + total[below]
        below = below[below]
    gullies = total.reshape(small.shape) / total.std()
    # Ribs stand out sharply between rounded gullies.
    ribs = refine(11 * steep * (0.8 - np.abs(gullies).clip(0, 2.5)), 2, order=1)
    knobs = power_noise(bed.shape, rng, exponent=3.3, longest=45)
    knobs *= refine(1.2 + 2.5 * steep, 2, order=1)
    return (bed + roughness * (knobs + ribs)).astype(np.float32)


def block_means(field: Array, cell: int) -> Array:
    """Return the mean of blocks of ``cell`` x ``cell`` pixels, float32.

    Args:
        field: [row, col], numbers of rows and columns divisible by ``cell``.
        cell: side of a block in pixels.
    """
    rows, cols = field.shape
    lines = field.reshape(rows // cell, cell, cols).mean(1, dtype=np.float32)
    return lines.reshape(rows // cell, cols // cell, cell).mean(2)


def gradient(height: Array, cell_m: float) -> tuple[Array, Array]:
    """Return the rise to the east and to the north, in m per m.

    Args:
        height: m [row, col].
        cell_m: side of a cell.
    """
    to_south, to_east = np.gradient(height, cell_m)
    return to_east, -to_south


def shade(height: Array, cell_m: float) -> Array:
    """Return how far a slope turns away from the sun: -1 steep to the south, 1 to the north.

    Args:
        height: m [row, col].
        cell_m: side of a cell.
    """
    _, north = gradient(height, cell_m)
    # Ground that falls to the north is shaded: its height decreases northwards.
    return rounded(np.tanh, -2.0 * north)


def signed_distance(mask: Array) -> Array:
    """Return the distance to the edge of a mask in cells, negative inside it, float32."""
    outside, inside = (ndimage.distance_transform_edt(side) for side in (~mask, mask))
    return (outside - inside).astype(np.float32)


def frame_of(shape: tuple[int, int]) -> Array:
    """Mark the outermost cells of a grid, bool [row, col]."""
    return np.pad(np.zeros((shape[0] - 2, shape[1] - 2), bool), 1, constant_values=True)


@dataclass(frozen=True)
class Relief:
    """What shapes the ground of an area.

    Attributes:
        summit: height of the highest peaks in m.
        fjord: from (row, col) to (row, col), in fractions of the frame.
        fjord_km: its width.
        grain_km: size of the massifs.
        roughness: of ribs and gullies, 1 as usual.
        sheet_side: from which side an ice sheet comes: north, east, south or west; None: none.
    """

    summit: float
    fjord: tuple[tuple[float, float], tuple[float, float]]
    fjord_km: float
    grain_km: float
    roughness: float
    sheet_side: str | None = None


def make_bed(
    shape: tuple[int, int], relief: Relief, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Make the ground on the coarse grid.

    Rivers lay out valleys on cells of 320 m, ice widens them and hollows out cirques, and what lies
    low enough beside the fjord is flooded. Where an ice sheet comes from one side, the ground rises
    to its plateau there, and the fjord's trough goes on below it, its floor rising above the sea.

    Args:
        shape: rows and columns, even numbers.
        relief: what shapes it.
        rng: of all noise.

    Returns:
        Heights in m [row, col], and the distance in km from the shore of the sea, negative in it.
    """
    middle_km = _fjord_distance(shape, relief, rng)
    half = relief.fjord_km / 2
    inland = _inland(shape, relief, rng)
    fjord = (middle_km < half) & (inland < 0.25)
    # Other valleys leave by a cell each 12 km of the frame, far from the fjord and the ice sheet.
    passes = frame_of(shape) & (middle_km > 4) & (inland == 0) & (rng.random(shape) < 0.007)
    outlets = fjord | passes
    away_km = np.maximum(middle_km - half, 0)
    rise = rounded(np.power, np.minimum(away_km / 4.0, 1), 0.7)
    massif = power_noise(shape, rng, exponent=4, longest=relief.grain_km * 1000 / COARSE_M)
    base = np.where(fjord, 0.0, rng.uniform(0.05, 0.2) * relief.summit / 4)
    uplift = 100 * rounded(np.exp, 0.5 * massif) * (0.25 + 0.75 * rise)

    wide = ndimage.maximum_filter(outlets, 4)[::4, ::4]
    start = 25 + 5 * power_noise(wide.shape, rng, exponent=3)
    first = erode(np.where(wide, base[::4, ::4], start), wide, uplift[::4, ::4], 60, rng)
    # Moved sideways by some 200 m, no ridge runs straight along the grid.
    bent = np.indices(shape, dtype=np.float32)
    bent += [2.5 * power_noise(shape, rng, exponent=4, longest=40) for _ in range(2)]
    height = refine(first, 4)[: shape[0], : shape[1]]
    height = ndimage.map_coordinates(height, bent, order=1, mode="nearest")
    # Uplands stand higher than rivers alone leave them: ice wears valleys more than crests.
    peak = np.quantile(height[inland < 0.1], 0.998)
    height = relief.summit * rounded(np.power, np.clip(height / peak, 0, 1.2), 0.8)
    height += 0.008 * relief.summit * power_noise(shape, rng, exponent=3.5, longest=40)
    plateau = 660 + 350 * inland + 60 * power_noise(shape, rng, exponent=3.5, longest=50)
    height += np.clip(3 * inland, 0, 0.9) * (plateau - height)
    height = np.where(outlets, base, np.maximum(height, base + 1))

    height = carve_troughs(height, outlets, rng)
    height = carve_cirques(height, outlets, 0.3 * relief.summit, rng)
    # Ice scoured the uplands to knobs and hollows, which hold small lakes.
    scoured = np.clip((height / relief.summit - 0.2) / 0.3, 0, 1)
    height += 12 * scoured * power_noise(shape, rng, exponent=2.6, longest=12)
    # The walls of the fjord's trough; under the ice sheet its floor climbs to some 350 m.
    floor = np.clip((inland - 0.25) / 0.75, 0, 1) * 500 - 110 * (inland > 0)
    wall = 750 * rounded(np.power, away_km / (1.1 * rounded(np.exp, 0.3 * massif)), 1.4)
    height = np.minimum(height, np.maximum(ndimage.gaussian_filter(floor, 3), 0) + wall + 2)
    # Trunk valleys were cut below the sea near the fjord: they become its arms and bays.
    height -= 110 * rounded(np.exp, -away_km / 2.2) * np.clip(1.6 - height / 90, 0, 1)
    height = np.where(fjord, -120 * np.clip((half - middle_km) / 0.5, 0, 1) - 2, height)
    flooded, _ = ndimage.label(height < 0)
    sea = np.isin(flooded, flooded[fjord])
    return height, ndimage.gaussian_filter(signed_distance(sea), 1.2) * COARSE_M / 1000


def _inland(shape: tuple[int, int], relief: Relief, rng: np.random.Generator) -> Array:
    """Return 0 outside the ice sheet's margin, rising to 1 at the side that it comes from."""
    if relief.sheet_side is None:
        return np.zeros(shape)
    axis, end = SIDES[relief.sheet_side]
    part = np.abs(np.indices(shape)[axis] / (shape[axis] - 1) - (1 - end))
    reach = min(0.4, 11_000 / COARSE_M / shape[axis])
    uneven = 0.12 * power_noise(shape, rng, exponent=3.5, longest=80)
    return np.clip(1 + (part - 1) / reach + uneven * (part < 1), 0, 1)


def _fjord_distance(shape: tuple[int, int], relief: Relief, rng: np.random.Generator) -> Array:
    """Return the distance in km of every cell to the bent middle line of the fjord."""
    ends = np.array(relief.fjord, float)
    if relief.sheet_side is not None:
        # The trough goes on below the ice, to the frame and beyond it.
        axis, end = SIDES[relief.sheet_side]
        ends[np.abs(ends[:, axis] - end).argmin(), axis] = 1.2 * end - 0.1
    along = np.linspace(0, 1, 1500)
    waves = np.array([[1], [2], [3], [5]])
    turns = rounded(np.sin, waves * np.pi * along + rng.uniform(0, 2 * np.pi, waves.shape))
    bend = (rng.normal(0, 0.055 / waves) * turns).sum(0)
    run = ends[1] - ends[0]
    across = np.array([-run[1], run[0]]) / np.hypot(*run)
    places = (ends[0] + np.outer(along, run) + np.outer(bend, across)) * shape
    places = places[((places >= 0) & (places < shape)).all(1)].astype(int)
    line = np.ones(shape, bool)
    line[tuple(places.T)] = False
    distance = ndimage.distance_transform_edt(line) * COARSE_M / 1000
    broad = 0.2 * relief.fjord_km * power_noise(shape, rng, exponent=4, longest=120)
    return distance + broad + 0.12 * power_noise(shape, rng, exponent=4, longest=40)
