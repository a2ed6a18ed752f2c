"""Glaciers for the synthetic sample: mass balance, shallow-ice flow, flow lines, drainage basins.

Ice thickness and heights in m, time in years, velocities in m per year, grids ``[row, col]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from glacier_utils.terrain import Drainage, drain, gradient

FLOW_FACTOR = 2.2e-5
"""2 A (rho g)^3 / 5 for ice at the melting point, in m^-3 a^-1 (Cuffey & Paterson 2010)."""


MOST_DIFFUSIVITY = 2e5
"""Limit in m2 a^-1 that keeps the equations quick to solve; only thick, flat ice reaches it."""


@dataclass(frozen=True)
class Climate:
    """Balance = ``gain`` * (height - equilibrium line), at most ``most`` (m ice a year).

    The equilibrium line stands ``equilibrium_m`` above the sea, lower by up to ``shade_m`` on
    slopes turned away from the midday sun.
    """

    equilibrium_m: float
    gain: float = 0.007
    most: float = 1.4
    shade_m: float = 90.0


def shade(height: np.ndarray, cell_m: float) -> np.ndarray:
    """Return how far a slope turns away from the sun: -1 steep to the south, 1 to the north."""
    _, north = gradient(height, cell_m)
    # Ground that falls to the north is shaded: its height decreases northwards.
    return np.tanh(-2.0 * north)


def grow(
    bed: np.ndarray,
    sea: np.ndarray,
    cell_m: float,
    climate: Climate,
    *,
    years: float,
    step: float,
    thickness: np.ndarray | None = None,
    local: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Let ice accumulate, flow and melt over ``bed``; return its thickness in m.

    Shallow-ice flow, d H / dt = balance + div(D grad s), with D = FLOW_FACTOR * H^5 * slope^2,
    where H is taken from the higher of two cells (Jarosch et al. 2013, The Cryosphere 7, 229), so
    that no ice leaves a cell that has none. Each step is implicit in the surface s. ``local`` (m)
    raises the equilibrium line cell by cell; steep rock sheds its snow, and ice calves at sea.
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


def _diffusivity(
    surface: np.ndarray, ice: np.ndarray, cell_m: float, step: float
) -> tuple[np.ndarray, np.ndarray]:
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


def _relax(
    target: np.ndarray, east: np.ndarray, south: np.ndarray, scale: float, start: np.ndarray
) -> np.ndarray:
    """Solve s - scale * div(D grad s) = target by conjugate gradients, scaled by the diagonal."""
    diagonal = np.ones_like(target)
    diagonal[:, :-1] += scale * east
    diagonal[:, 1:] += scale * east
    diagonal[:-1] += scale * south
    diagonal[1:] += scale * south

    def apply(s: np.ndarray) -> np.ndarray:
        result = s.copy()
        flux = scale * east * (s[:, 1:] - s[:, :-1])
        result[:, :-1] -= flux
        result[:, 1:] += flux
        flux = scale * south * (s[1:] - s[:-1])
        result[:-1] -= flux
        result[1:] += flux
        return result

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
    surface: np.ndarray, ice: np.ndarray, source: np.ndarray, cell_m: float, doublings: int = 9
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Follow the flow lines backwards from every cell of a glacier.

    Returns the row and the column that ice came from after ``2 ** doublings`` steps of one cell
    (it stops at the margin) and the sum of ``source`` along the way. A path of 2n steps is the
    path of n steps taken twice, so nine compositions follow 512 steps.
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


def basins(
    surface: np.ndarray, ice: np.ndarray, least_cells: int, rng: np.random.Generator
) -> np.ndarray:
    """Divide ice into glaciers by where it drains to: labels 1..n, 0 where there is no ice.

    Cells that leave the ice within some 400 m of each other belong to one tongue; basins of fewer
    than ``least_cells`` join the neighbour with which they share the longest border.
    """
    frame = np.zeros(ice.shape, bool)
    frame[0], frame[-1], frame[:, 0], frame[:, -1] = True, True, True, True
    # Water that meets a nunatak runs round it: only the outer margin ends a glacier.
    outer = ndimage.binary_fill_holes(ice)
    # Some roughness keeps the divides from running straight along the grid.
    smooth = ndimage.gaussian_filter(surface, 1.5) + 2.0 * rng.standard_normal(surface.shape)
    mouth = _mouths(drain(smooth, ~outer | frame), outer)
    ends = np.zeros(ice.size, bool)
    ends[np.unique(mouth[ice.ravel()])] = True
    groups, _ = ndimage.label(
        ndimage.binary_dilation(ends.reshape(ice.shape), np.ones((3, 3)), iterations=2),
        np.ones((3, 3)),
    )
    labels = np.where(ice, groups.ravel()[mouth].reshape(ice.shape), 0)
    return _merge_small(labels, least_cells)


def _mouths(tree: Drainage, ice: np.ndarray) -> np.ndarray:
    """Return for each cell the first cell off the ice that its water reaches."""
    mouth = np.arange(ice.size)
    for level in tree.levels[1:]:
        cells = tree.order[level]
        mouth[cells] = mouth[tree.receiver[cells]]
    return mouth


def _merge_small(labels: np.ndarray, least_cells: int) -> np.ndarray:
    labels = labels.copy()
    for _ in range(200):
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        merged = False
        for label in np.argsort(sizes, kind="stable"):
            if not 0 < sizes[label] < least_cells:
                continue
            own = labels == label
            around = labels[ndimage.binary_dilation(own, np.ones((3, 3))) & ~own]
            around = around[around > 0]
            if around.size:
                labels[own] = np.bincount(around).argmax()
                merged = True
                break
        if not merged:
            break
    _, numbered = np.unique(labels, return_inverse=True)
    return numbered.reshape(labels.shape)
