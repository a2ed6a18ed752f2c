"""Mountain terrain for the synthetic sample: noise, running water, glacial troughs and cirques.

Heights are metres above the sea, grids are ``[row, col]`` with row 0 in the north. The landscape
is made on a coarse grid, where drainage is followed cell by cell, and refined afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import fft, ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

Array = np.ndarray
COARSE_M = 80.0
"""Cell size in m of the grid on which rivers and ice flow."""
TILES = (896, 704)
"""Sizes in pixels of the periodic tiles that large fields of noise are made of."""
NOISE_CELL = 8
"""Pixels a cell of the grid on which the long waves of large fields of noise are made."""


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
        k[0, 0] = 1.0
        # White noise of one variance a cell is stronger per frequency on larger cells.
        gain = np.maximum(k, 1.0 / longest) ** (-exponent / 2) / cell
        gain *= np.sqrt(np.exp(-((k * low) ** 4)) * -np.expm1(-((k * high) ** 4)))
        gain[k < 0.5 / longest] = 0.0
        gain[0, 0] = 0.0
        if shortest > 0:
            gain *= np.exp(-((k * shortest) ** 2))
        return fft.irfft2(spectrum * gain.astype(np.float32), s=size)

    if max(shape) <= TILES[0]:
        field = band(shape, 1, 0.0, np.inf)
    else:
        field = np.zeros(shape, np.float32)
        split = 12 * NOISE_CELL if longest > TILES[1] / 6 else np.inf
        if shortest < 4 * split:
            for size in TILES:
                tile = band((size, size), 1, 0.0, split) / np.sqrt(len(TILES))
                for row in range(0, shape[0], size):
                    for col in range(0, shape[1], size):
                        part = field[row : row + size, col : col + size]
                        part += tile[: part.shape[0], : part.shape[1]]
        if split < np.inf:
            cells = (-(-shape[0] // NOISE_CELL), -(-shape[1] // NOISE_CELL))
            field += refine(band(cells, NOISE_CELL, split, np.inf), NOISE_CELL)[
                : shape[0], : shape[1]
            ]
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
    graph = coo_array(
        (np.concatenate(weights), (np.concatenate(starts), np.concatenate(ends))),
        shape=(root + 1, root + 1),
    ).tocsr()
    tree = minimum_spanning_tree(graph)
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
    height: Array,
    outlets: Array,
    uplift: Array,
    *,
    steps: int,
    creep: float,
) -> Array:
    """Let rivers cut into rising ground: stream power, implicit in time.

    dh/dt = uplift - 0.25 * area**0.45 * slope, with the area in cells and one time unit a step,
    solved from the outlets upstream (Braun & Willett 2013, Geomorphology 180, 170).

    Args:
        height: m [row, col].
        outlets: bool [row, col]; they keep their height.
        uplift: m per step.
        steps: their number.
        creep: weight of diffusion in each step.

    Returns:
        Height in m.
    """
    height = height.astype(float).copy()
    for _ in range(steps):
        tree = drain(height, outlets)
        area = tree.accumulate(np.ones_like(height)).ravel()
        power = 0.25 * area**0.45
        flat = np.where(outlets, height, height + uplift).ravel()
        for level in tree.levels[1:]:
            cells = tree.order[level]
            below = flat[tree.receiver[cells]]
            cut = (flat[cells] + power[cells] * below) / (1.0 + power[cells])
            flat[cells] = np.where(flat[cells] > below, cut, flat[cells])
        height = flat.reshape(height.shape)
        # Slopes creep: without it crests grow into needles one cell wide.
        smooth = ndimage.uniform_filter(height, 3)
        height = np.where(outlets, height, (1 - creep) * height + creep * smooth)
    return height


def carve_troughs(height: Array, outlets: Array) -> Array:
    """Widen the valleys to the parabolic troughs that ice leaves (Harbor 1992, GSA Bulletin 104).

    The half width grows with the catchment, so that small valleys end hanging above large ones.

    Args:
        height: m [row, col].
        outlets: bool [row, col].
    """
    area = drain(height, outlets).accumulate(np.full(height.shape, (COARSE_M / 1000) ** 2))
    floor = ndimage.gaussian_filter(height, 1.5)
    carved = height.copy()
    valleys = ((0.8, 380, 200), (3, 560, 330), (9, 800, 450), (25, 1050, 560))
    for least, width_m, shoulder_m in valleys:
        distance, nearest = ndimage.distance_transform_edt(area < least, return_indices=True)
        parabola = floor[tuple(nearest)] + shoulder_m * (distance * COARSE_M / width_m) ** 2.4
        carved = np.minimum(carved, ndimage.gaussian_filter(parabola, 1.5))
    return carved


def carve_cirques(
    height: Array, outlets: Array, above: float, rng: np.random.Generator, number: int
) -> Array:
    """Hollow out bowls of 300 to 700 m radius at valley heads higher than ``above``.

    The bowl opens down the slope: its wall stands on the uphill side only.

    Args:
        height: m [row, col].
        outlets: bool [row, col].
        above: m.
        rng: chooses the places.
        number: of bowls at most.
    """
    area = drain(height, outlets).accumulate(np.full(height.shape, (COARSE_M / 1000) ** 2))
    east, north = gradient(ndimage.gaussian_filter(height, 3), COARSE_M)
    heads = np.argwhere((area > 0.2) & (area < 0.7) & (height > above))
    rows, cols = np.indices(height.shape)
    ragged = 0.22 * power_noise(height.shape, rng, exponent=3, longest=16)
    carved = height.copy()
    for row, col in heads[rng.permutation(len(heads))[:number]]:
        radius = rng.uniform(300, 700) / COARSE_M
        up_east, up_north = east[row, col], north[row, col]
        steep = max(np.hypot(up_east, up_north), 1e-3)
        along = ((cols - col) * up_east - (rows - row) * up_north) / steep / radius
        across = np.hypot(rows - row, cols - col) / radius
        distance = np.maximum(across + ragged, 0)
        bowl = height[row, col] - 10 + radius * COARSE_M * (0.5 * distance**3.5 + 0.12 * along)
        near = (across < 1.7) & (along > -1.0)
        carved = np.where(near, np.minimum(carved, bowl), carved)
    return ndimage.gaussian_filter(carved, 0.6)


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
            first, part = divmod((phase + 0.5) / factor - 0.5, 1.0)
            if order == 3:
                # The cubic B-spline's weights of the four nearest cells.
                a, b = 1 - part, part
                weights = (a**3, 4 - 6 * b**2 + 3 * b**3, 4 - 6 * a**2 + 3 * a**3, b**3)
                taps = [(k - 1, weight / 6) for k, weight in enumerate(weights)]
            else:
                taps = [(0, 1 - part), (1, part)]
            start = pad + int(first)
            result[phase::factor] = sum(
                np.float32(weight) * lines[start + k : start + k + size] for k, weight in taps
            )
        fine = np.moveaxis(result, 0, axis)
    return fine


def gradient(height: Array, cell_m: float) -> tuple[Array, Array]:
    """Return the rise to the east and to the north, in m per m.

    Args:
        height: m [row, col].
        cell_m: side of a cell.
    """
    to_south, to_east = np.gradient(height, cell_m)
    return to_east, -to_south


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

    Args:
        shape: rows and columns, even numbers.
        relief: what shapes it.
        rng: of all noise.

    Returns:
        Heights in m [row, col], and the distance in km from the fjord's shore, negative in it.
    """
    fjord_distance = _fjord_distance(shape, relief, rng)
    half = relief.fjord_km / 2
    fjord = fjord_distance < half
    outlets = fjord | _passes(shape, fjord_distance, rng)
    rise = np.clip((fjord_distance - half) / 3.0, 0, 1) ** 0.7
    massif = power_noise(shape, rng, exponent=4, longest=relief.grain_km * 1000 / COARSE_M)
    height = 200 * rise + 60 * massif + 25 * power_noise(shape, rng, exponent=3)
    base = np.where(fjord, 0.0, rng.uniform(0.1, 0.3) * relief.summit / 4)
    uplift = 60 * np.exp(0.4 * massif) * (0.3 + 0.7 * rise)

    # Valleys are laid out on cells twice as large, which sets them 1 to 2 km apart.
    half_grid = np.s_[::2, ::2]
    wide = ndimage.maximum_filter(outlets, 2)[half_grid]
    first = np.where(wide, base[half_grid], np.maximum(height[half_grid], 5.0))
    first = erode(first, wide, uplift[half_grid], steps=40, creep=0.4)
    height = refine(first, 2) + 0.04 * first.max() * power_noise(shape, rng, exponent=3, longest=30)
    height = np.where(outlets, base, np.maximum(height, base + 1))
    height = erode(height, outlets, 0.3 * uplift, steps=4, creep=0.15)

    height *= relief.summit / np.quantile(height, 0.998)
    height = carve_troughs(height, outlets)
    height = carve_cirques(height, outlets, 0.4 * relief.summit, rng, number=40)
    height, fjord_distance = _bend([height, fjord_distance], rng)
    fjord = fjord_distance < half
    floor = -120 * np.clip((half - fjord_distance) / 0.5, 0, 1) - 2
    return np.where(fjord, floor, np.maximum(height, 1.0)), fjord_distance - half


def _bend(fields: list[Array], rng: np.random.Generator) -> list[Array]:
    """Move the ground sideways by some 150 m, so that no ridge runs straight along the grid."""
    shape = fields[0].shape
    at = np.indices(shape, dtype=np.float32)
    at += [1.8 * power_noise(shape, rng, exponent=3.5, longest=32) for _ in range(2)]
    return [ndimage.map_coordinates(field, at, order=1, mode="nearest") for field in fields]


def _fjord_distance(shape: tuple[int, int], relief: Relief, rng: np.random.Generator) -> Array:
    """Return the distance in km of every cell to the bent middle line of the fjord."""
    (row0, col0), (row1, col1) = relief.fjord
    along = np.linspace(0, 1, 400)
    bend = sum(
        rng.normal(0, 0.055 / k) * np.sin(k * np.pi * along + rng.uniform(0, 2 * np.pi))
        for k in (1, 2, 3, 5)
    )
    across = np.array([-(col1 - col0), row1 - row0]) / np.hypot(col1 - col0, row1 - row0)
    rows = (row0 + along * (row1 - row0) + bend * across[0]) * shape[0]
    cols = (col0 + along * (col1 - col0) + bend * across[1]) * shape[1]
    line = np.ones(shape, bool)
    inside = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
    line[rows[inside].astype(int), cols[inside].astype(int)] = False
    distance = ndimage.distance_transform_edt(line) * COARSE_M / 1000
    return distance + 0.18 * power_noise(shape, rng, exponent=3, longest=30)


def _passes(shape: tuple[int, int], fjord_distance: Array, rng: np.random.Generator) -> Array:
    """Choose a few cells on the frame, far from the fjord, by which other valleys leave."""
    candidates = np.argwhere(frame_of(shape) & (fjord_distance > 4.0))
    passes = np.zeros(shape, bool)
    if len(candidates):
        passes[tuple(candidates[rng.integers(0, len(candidates), 6)].T)] = True
    return passes
