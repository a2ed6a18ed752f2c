"""Glaciers of the synthetic sample: how they grow and flow, and the landscape around them.

Mass balance, shallow-ice flow, the margin of the ice sheet, flow lines and drainage basins on the
coarse grid; from them one area at 10 m with land, ice then and now, debris, crevasses, lakes and
floating ice: all that stays the same between the dates of a season. Heights and ice thickness in m,
time in years, grids [row, col].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from glacier_utils.synthetic import ground
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
LEAST_GLACIER_KM2 = 0.05
PLASTIC_M = 22.2
"""2 * 100 kPa / (ice density * gravity): perfectly plastic ice on a level bed is as thick as the
root of this times the distance from its margin (Cuffey & Paterson 2010, section 8.9)."""
CLIFF_M = 45.0
"""Height of the calving front above the sea."""
COOLER_M = 70.0
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
        flow = np.minimum(FLOW_FACTOR * upper**5 * slope2, MOST_DIFFUSIVITY)
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
    surface: Array, ice: Array, sources: Sequence[tuple[Array, int]], cell_m: float
) -> tuple[Array, Array, list[Array]]:
    """Follow the flow lines backwards from every cell of a glacier.

    A path of 2n steps is the path of n steps taken twice, so nine compositions follow 512 steps.

    Args:
        surface: m [row, col].
        ice: bool [row, col].
        sources: what is picked up, per step of one cell, and two to what power steps it is summed.
        cell_m: side of a cell.

    Returns:
        The row and the column that ice came from (it stops at the margin), and the sum of each
        source along the way.
    """
    east, north = gradient(ndimage.gaussian_filter(surface, 3), cell_m)
    speed = np.hypot(east, north) + 1e-6
    rows, cols = np.indices(surface.shape, dtype=np.float32)
    # Uphill is backwards along the flow; rows count to the south.
    fields = [rows - north / speed * ice, cols + east / speed * ice]
    fields += [source * ice for source, _ in sources]
    fields = [np.ascontiguousarray(field, np.float32) for field in fields]
    inside = np.flatnonzero(ice)
    lengths = [doublings for _, doublings in sources]
    for done in range(max(lengths)):
        at = np.stack([field.ravel()[inside] for field in fields[:2]])
        for field, length in zip(fields, [*[max(lengths)] * 2, *lengths], strict=True):
            if done < length:
                came = ndimage.map_coordinates(field, at, order=1, mode="nearest")
                kept = field is not fields[0] and field is not fields[1]
                field.ravel()[inside] = came + kept * field.ravel()[inside]
    return fields[0], fields[1], fields[2:]


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
    # The many small mouths along a flank end no tongue of their own.
    wide = np.bincount(mouth[ice.ravel()], minlength=ice.size) >= 2 * least_cells
    groups, _ = ndimage.label(
        ndimage.binary_dilation(wide.reshape(ice.shape), np.ones((3, 3)), iterations=2),
        np.ones((3, 3)),
    )
    labels = np.where(
        ice & wide[mouth].reshape(ice.shape), groups.ravel()[mouth].reshape(ice.shape), 0
    )
    pieces, _ = ndimage.label(ice, np.ones((3, 3)))
    nearest = ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    joined = np.where(pieces == pieces[tuple(nearest)], labels[tuple(nearest)], 0)
    labels = np.where(ice & (joined == 0), groups.max() + pieces, np.where(ice, joined, 0))
    return _merge_small(labels, least_cells)


def _merge_small(labels: Array, least_cells: int) -> Array:
    labels = labels.copy()
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    for label in np.argsort(sizes, kind="stable"):
        if not 0 < sizes[label] < least_cells:
            continue
        own = labels == label
        around = labels[ndimage.binary_dilation(own, np.ones((3, 3))) & ~own]
        around = around[around > 0]
        if around.size:
            into = np.bincount(around).argmax()
            labels[own] = into
            sizes[into] += sizes[label]
    _, numbered = np.unique(labels, return_inverse=True)
    return numbered.reshape(labels.shape)


@dataclass(frozen=True)
class Setting:
    """What makes one area differ from another.

    Attributes:
        relief: of the ground.
        fraction_above: of the frame, above the equilibrium line of 2001.
        warming_m: by which the line has risen since.
        debris: median over the glaciers of the fraction of the ablation zone under debris.
        sheet: whether the ice sheet enters the area, from the relief's ``sheet_side``.
    """

    relief: Relief
    fraction_above: float
    warming_m: float
    debris: float
    sheet: bool = False


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
        debris: fraction of cover.
        stripes: texture of the ice drawn out along the flow, mean 0, deviation 1.
        crevasses: their density, 0..1.
        fjord: mask of the sea.
        lake: mask of still lakes.
        melt_lake: mask of lakes at the margin of the ice.
        river: fraction of running water.
        sediment: fraction of bare gravel and sand.
        till: fraction of fresh till and rock that the ice has left since the Little Ice Age.
        turbidity: of the water, 0 clear, 1 milky.
        melange: density of floating ice at sea, 1 before the calving front.
        equilibrium_m: height of the equilibrium line of 2023.
    """

    height_around: Array
    ice_around: Array
    ice_2001_around: Array
    glacier_around: Array
    sheet_around: Array
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
    relief = setting.relief if setting.sheet else replace(setting.relief, sheet_side=None)
    bed, shore_km = make_bed(shape, relief, rng)
    frame = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]
    line = float(np.quantile(bed[frame], 1 - setting.fraction_above))
    sheet = _Sheet(relief.sheet_side, bed, shore_km, rng)
    # Wind carries snow from crests into hollows, where it lies through the summer.
    hollow = ndimage.gaussian_filter(bed, 4) - bed
    local = 50 * power_noise(shape, rng, exponent=3, longest=60) - 1.2 * np.clip(hollow, -150, 60)
    ages = _ages(bed, sheet, Climate(line), setting.warming_m, local)

    fine_bed = _detail(refine(bed, FACTOR), setting.relief.roughness, rng)
    ragged = 0.02 * power_noise(fine_bed.shape, rng, exponent=2.5, longest=40)
    under_sea = refine(shore_km, FACTOR, order=1) + ragged < 0
    fine_bed = np.where(under_sea, np.minimum(fine_bed, -1), np.maximum(fine_bed, 1.0))
    smooth_bed = ndimage.gaussian_filter(fine_bed, 5)
    lia, old, now = (
        _on_fine(
            bed, ice, fine_bed, smooth_bed,
            refine(sheet.water_km(age), FACTOR, order=1) + ragged < 0,
        )
        for age, ice in enumerate(ages)
    )  # fmt: skip
    ice = _drop_small((now > 0) & (old > 0))
    old_ice = ice | _drop_small(old > 0)
    sea = under_sea & ~ice
    height = np.where(sea, 0, fine_bed + now * ice)

    glacier = _numbers(bed, ages[1], sheet, rng)
    debris, stripes, crevasses = _along_flow(
        height, now * ice, sea, glacier, line + setting.warming_m, setting.debris, rng
    )
    # Ice is not smooth: swells of a metre catch the light, and under debris, where it melts
    # unevenly, there are hummocks as rough as the ground around.
    swell = power_noise(ice.shape, rng, exponent=2.8, longest=50)
    hummocks = power_noise(ice.shape, rng, exponent=3, longest=20)
    height = (height + ice * swell + 2.5 * debris * hummocks).astype(np.float32)
    height, till = ground.moraines(height, ice, old_ice | (lia > 0), sea, rng)
    height, lake, melt_lake = ground.lakes(height, ice, old_ice, sea)
    river, sediment = ground.rivers(height, ice, sea, lake | melt_lake, rng)
    turbidity = ground.turbidity(height, ice, sea, lake, melt_lake, river, rng)
    sheet_ice = ice & (glacier == 0)
    return Landscape(
        height_around=height,
        ice_around=ice,
        ice_2001_around=old_ice,
        glacier_around=glacier,
        sheet_around=sheet_ice,
        debris=inner(debris),
        stripes=inner(stripes),
        crevasses=inner(crevasses),
        fjord=inner(sea),
        lake=inner(lake),
        melt_lake=inner(melt_lake),
        river=inner(river),
        sediment=inner(sediment),
        till=inner(till),
        turbidity=inner(turbidity),
        melange=inner(_melange(sea, ice, sheet_ice, rng)),
        equilibrium_m=line + setting.warming_m,
    )


class _Sheet:
    """The margin of the ice sheet, coarse grid.

    Perfectly plastic ice rises with the root of the distance from its margin; its outlet, held
    back by the walls of the fjord, rises faster. Ages: 0 the Little Ice Age, 1 2001, 2 2023.
    """

    def __init__(
        self, side: str | None, bed: Array, shore_km: Array, rng: np.random.Generator
    ) -> None:
        self.there, self.bed, self.shore_km = side is not None, bed, shore_km
        axis = 0 if side in ("north", "south") else 1
        towards = np.indices(bed.shape)[axis]
        if side in ("north", "west"):
            towards = towards[::-1, ::-1]
        km = COARSE_M / 1000
        reach_km = min(0.4 * bed.shape[axis] * km, 11)
        wavy = power_noise(bed.shape, rng, exponent=3, longest=150, shortest=40)
        away_km = (bed.shape[axis] - towards) * km
        self.inside_km = 0.75 * reach_km - away_km + 0.06 * reach_km * wavy
        # The front bends back in the middle, where the outlet is fastest.
        bay = 0.3 * np.clip(-shore_km / max(-shore_km.min(), km), 0, 1)
        self.front_km = 1.28 * reach_km - away_km - bay + 0.1 * wavy
        margin = (np.abs(self.inside_km) < 1) & (shore_km > 1)
        self.edge_m = float(np.quantile(bed[margin], 0.7)) if margin.any() else 700.0

    def beyond_front_km(self, age: int) -> Array:
        """Return how far inside the calving front a cell lies, km along the fjord."""
        return self.front_km - (-1.2, 0.0, 0.35)[age]

    def water_km(self, age: int) -> Array:
        """Return a field in km that is negative where the fjord is water."""
        if not self.there:
            return self.shore_km
        return np.maximum(self.shore_km, self.beyond_front_km(age))

    def surface(self, age: int) -> Array | None:
        """Return the height in m of the ice sheet and its outlet, ``NO_SHEET`` elsewhere."""
        if not self.there:
            return None
        # The front of the grid's ice lies further out than the one that the fine sea cuts.
        front = self.beyond_front_km(age) + 0.3
        change = (25.0, 0.0, -12.0)[age]
        plateau = self.edge_m + np.sqrt(PLASTIC_M * 1e3 * np.maximum(self.inside_km, 0))
        outlet = np.sqrt(CLIFF_M**2 + 2.5 * PLASTIC_M * 1e3 * np.maximum(front - 0.3, 0))
        outlet = outlet + 100 * np.maximum(self.shore_km, 0)
        trough = (self.inside_km > -1.5) & (self.shore_km < 1.5) & (self.bed < outlet - 120)
        # The outermost kilometre of the sheet finds its own way down.
        high = (self.inside_km > 1) | (self.shore_km < 0) | trough
        low = np.minimum(plateau, outlet) + change * (front > 1)
        return np.where(high & (front > 0), low, NO_SHEET)


def _ages(
    bed: Array, sheet: _Sheet, climate: Climate, warming_m: float, local: Array
) -> list[Array]:
    """Return the ice of the Little Ice Age, grown to balance, of 2001 and of 2023."""

    def halve(field: Array) -> Array:
        return field.reshape(bed.shape[0] // 2, 2, bed.shape[1] // 2, 2).mean((1, 3))

    def run(thickness: Array | None, age: int, warmer: float, half: bool, years: float) -> Array:
        cell_m, resize = (2 * COARSE_M, halve) if half else (COARSE_M, lambda field: field)
        held = sheet.surface(age)
        return grow(
            resize(bed), resize(sheet.water_km(age) + 0.3 * sheet.there) < 0, cell_m,
            replace(climate, equilibrium_m=climate.equilibrium_m + warmer),
            years=years, step=2, thickness=thickness, local=resize(local),
            held=None if held is None else resize(held),
        )  # fmt: skip

    def refined(wide: Array) -> Array:
        top = refine(halve(bed) + wide, 2)
        return np.maximum(top - bed, 0) * (refine(wide, 2, order=1) > 3)

    def smoothed(ice: Array) -> Array:
        # Where the ice sheet's given surface meets the ice that flows from it, no step is left.
        near = (sheet.inside_km > -1) | (sheet.water_km(1) > 0) & (sheet.shore_km < 2.5)
        thick = (ice > 60) & near & (sheet.front_km > 0) & sheet.there
        weight = ndimage.gaussian_filter(thick.astype(np.float32), 3)
        top = ndimage.gaussian_filter(np.where(thick, bed + ice, 0), 3) / np.maximum(weight, 1e-6)
        return np.where(thick, np.maximum(top - bed, 0.5 * ice), ice)

    cold = run(None, 0, -COOLER_M, True, 240)
    wide = run(cold, 1, 0.0, True, 60)
    then = run(refined(wide), 1, 0.0, False, 24)
    now = run(then, 2, warming_m, False, 22)
    return [refined(cold), smoothed(then), smoothed(now)]


def _numbers(bed: Array, ice: Array, sheet: _Sheet, rng: np.random.Generator) -> Array:
    """Number the glaciers, with margin, fine grid: 0 for the ice sheet and all that joins it."""
    numbers = basins(bed + ice, ice > 8, least_cells=10, rng=rng)
    held = sheet.surface(1)
    if held is not None:
        sizes = np.bincount(numbers.ravel())
        sheets = np.bincount(numbers.ravel(), held.ravel() > bed.ravel()) > 0.2 * sizes
        sheets[0] = False
        numbers = np.where(sheets[numbers], -1, numbers)
    row, col = ndimage.distance_transform_edt(
        numbers == 0, return_distances=False, return_indices=True
    )
    numbers = np.maximum(numbers[row, col], 0).astype(np.int32)
    while len(numbers) < FACTOR * len(bed):
        numbers = _double(numbers)
    return numbers


def _double(labels: Array) -> Array:
    """Halve the cells of a map of numbers; corners of borders are cut (the rule "Scale2x")."""
    above, below = np.pad(labels, ((1, 1), (0, 0)), mode="edge")[:-2], np.roll(labels, -1, 0)
    before, after = np.pad(labels, ((0, 0), (1, 1)), mode="edge")[:, :-2], np.roll(labels, -1, 1)
    below[-1], after[:, -1] = labels[-1], labels[:, -1]
    fine = np.repeat(np.repeat(labels, 2, 0), 2, 1)
    for row, one, opposite in ((0, above, below), (1, below, above)):
        for col, other, across in ((0, before, after), (1, after, before)):
            cut = (one == other) & (one != across) & (other != opposite)
            fine[row::2, col::2] = np.where(cut, one, labels)
    return fine


def _detail(bed: Array, roughness: float, rng: np.random.Generator) -> Array:
    """Add what the coarse grid cannot hold: ribs and gullies, more of them on steep ground."""
    slope = np.hypot(*gradient(bed, PIXEL_M))
    steep = np.clip(slope / 0.8, 0, 1.3) ** 1.5
    fine = power_noise(bed.shape, rng, exponent=3.4, longest=50)
    ribs = -np.abs(power_noise(bed.shape, rng, exponent=3.7, longest=45)) + 0.8
    return bed + roughness * ((2.5 + 5 * steep) * fine + 24 * steep * ribs)


def _on_fine(bed: Array, ice: Array, fine_bed: Array, smooth_bed: Array, water: Array) -> Array:
    """Lay the coarse ice over the fine bed; return its thickness in m, 0 where there is none.

    The surface goes on beyond the margin of the coarse ice until it meets the bed, so that a
    glacier ends at the wall of its valley; where it thins out it lies on the bed.
    """
    there = ice > 8
    if not there.any():
        return np.zeros(fine_bed.shape, np.float32)
    weight = ndimage.gaussian_filter(there.astype(np.float32), 0.7)
    level = ndimage.gaussian_filter(np.where(there, bed + ice, 0), 0.7) / np.maximum(weight, 1e-6)
    nearest = ndimage.distance_transform_edt(
        weight < 0.05, return_distances=False, return_indices=True
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
    row, col, (load, streaks) = upstream(
        top, cover, [(walls * np.exp(0.9 * patchy), 9), (noise, 7)], cell_m
    )
    origin = np.stack([row, col])
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
    score = np.log(load + 0.1) + 5 * np.clip(down, -1, 1)
    score += 0.25 * power_noise(shape, rng, exponent=2, longest=25)
    wanted = np.minimum(debris * np.exp(0.6 * rng.standard_normal(count)), 0.4)
    wanted = np.where(rng.random(count) < 0.06, rng.uniform(0.5, 0.8, count), wanted)
    wanted[0] = 0.01
    # Within each glacier the highest scores are under debris.
    order = np.lexsort((score[melting], number))
    sizes = np.bincount(number, minlength=count)
    rank = np.cumsum(sizes) - np.maximum(np.ceil(wanted * sizes), 1).astype(int)
    limit = np.append(score[melting][order], np.inf)[np.minimum(rank, order.size)]
    # Where two glaciers meet, one limit passes into the other.
    near = np.stack([melting, np.where(melting, limit[numbers], 0)]).astype(np.float32)
    weight, total = (ndimage.gaussian_filter(field, 8) for field in near)
    limits = total / np.maximum(weight, 1e-6) + 9 * (weight < 1e-3)
    medial = 2 * suture - 2.6 + np.minimum(bringing, 1.5) - (numbers == 0)
    score = np.maximum(np.clip((score - limits) / 0.4, -2, 2), medial)
    score = np.minimum(score, 12 * below - 0.5) - 4 * ~cover
    score = refine(score, 2, order=1) + 0.2 * power_noise(ice.shape, rng, exponent=2, longest=12)
    cover_fine = np.where(ice, np.clip(score + 0.5, 0, 1), 0).astype(np.float32)

    smooth = ndimage.gaussian_filter(top, 3)
    steep = np.hypot(*gradient(smooth, cell_m)) * cover
    # Old layers come out along the contours, as wide bands where the ice sheet ends.
    broad = power_noise(shape, rng, exponent=3, longest=150, shortest=40)
    streaks /= max(streaks.std(where=cover), 1e-6)
    ages = smooth / 22 + 1.5 * broad + 0.1 * np.clip(streaks, -2, 2)
    layers = np.interp(ages, np.arange(-10, 190), rng.standard_normal(200))
    on_sheet = numbers == 0
    stripes = np.where(on_sheet, 0.5, 1) * np.clip(streaks, -3, 3)
    stripes += np.where(on_sheet, 0.4, 0.2) * layers
    stripes -= stripes.mean(where=cover)
    stripes /= max(stripes.std(where=cover), 1e-6)

    # Ice cracks where thickness times slope, that is the stress, is high: 15 m are 135 kPa.
    pull = thickness[half] * steep
    falls = np.clip((pull - 20) / 20, 0, 1) * np.clip((steep - 0.12) / 0.12, 0, 1)
    sides = np.clip(1 - ndimage.gaussian_filter(cover.astype(np.float32), 4), 0, 0.5)
    sides *= np.clip(ndimage.maximum_filter(pull, 9) / 30 - 0.5, 0, 1)
    crevasses = np.maximum(falls, sides)
    if sea.any():
        to_sea = ndimage.distance_transform_edt(~sea[::FACTOR, ::FACTOR]) * COARSE_M
        crevasses = np.maximum(crevasses, refine(np.exp(-to_sea / 900), FACTOR // 2, order=1))
    crevasses *= np.clip(0.7 + 0.5 * patchy, 0, 1)
    crevasses = np.where(ice, refine(crevasses, 2, order=1), 0)
    return cover_fine, refine(stripes, 2, order=1), crevasses


def _melange(sea: Array, ice: Array, sheet: Array, rng: np.random.Generator) -> Array:
    """Return the density of floating ice.

    Closed before the calving front of the ice sheet's outlet, thinning beyond, and single icebergs
    whose areas follow a power law of exponent -1.9 (Sulak et al. 2017, Annals of Glaciology 58).
    """
    wide = np.s_[::4, ::4]
    water = sea[wide]
    if not water.any():
        return np.zeros(sea.shape, np.float32)
    drift = power_noise(water.shape, rng, exponent=2.6, longest=60)
    calving = (sheet if sheet.any() else ice)[wide] & ndimage.binary_dilation(water)
    away_km = np.full(water.shape, np.inf)
    if calving.any():
        away_km = ndimage.distance_transform_edt(~calving) * 4 * PIXEL_M / 1000
    scale = 1.0 if sheet.any() else 0.1
    closed = 2 * (1.4 + 0.5 * drift - away_km / scale)
    loose = 0.6 * np.exp(-away_km / (1.5 * scale)) * np.clip(0.6 + 0.6 * drift, 0, 1)
    floating = refine(np.clip(np.maximum(closed, loose), 0, 1), 4, order=1)

    density = water * (0.02 + 0.6 * scale * np.exp(-away_km / 5)) * np.exp(0.7 * drift)
    number = rng.poisson(density.sum() * 0.1)
    cells = rng.choice(water.size, number, p=density.ravel() / density.sum())
    row, col = (4 * at + rng.integers(0, 4, number) for at in np.unravel_index(cells, water.shape))
    radius = np.sqrt(np.minimum(30 * rng.random(number) ** (-1 / 0.9), 1.5e4) / np.pi) / PIXEL_M
    stretch = rng.uniform(1, 1.6, number) * np.exp(1j * rng.uniform(0, np.pi, number))
    for size, axis, down, right in zip(radius, stretch, row, col, strict=True):
        reach = int(1.6 * size) + 1
        part = np.s_[max(down - reach, 0) : down + reach, max(right - reach, 0) : right + reach]
        y, x = np.ogrid[part]
        turned = (x - right + 1j * (y - down)) * axis
        apart = np.hypot(turned.real / abs(axis) ** 2, turned.imag)
        whole = np.clip(size + 0.5 - apart, 0, min(1, np.pi * size**2))
        floating[part] = np.maximum(floating[part], whole)
    return np.where(sea, np.clip(floating, 0, 1), 0).astype(np.float32)


def north_facing(height: Array) -> Array:
    """Return the shade of the ground over some 100 m, -1..1 (see ``shade``)."""
    return shade(ndimage.gaussian_filter(height, 6), PIXEL_M)
