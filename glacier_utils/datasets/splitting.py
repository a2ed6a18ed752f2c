"""Which patches of a dataset train, validate and test.

Neighbouring patches show the same glacier under the same light. If some of them train and others
validate, the validation score says how well the network remembers, not how well it maps. So the
training area is cut into blocks of some km; one compact group of blocks validates, on all dates,
and patches that touch it are left unused (``split_patches``). Where the ground is too small for
that, or one class lies in one corner of it, a line cuts it, through patches too (``cut_by_lines``).
A user's word on single patches, a CSV that keeps or drops them whatever their facts say, comes
before all that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy import sparse

from glacier_utils.datasets.layout import CUT, EDGES
from glacier_utils.errors import GlacierError
from glacier_utils.files import write_csv

SPLITS = ("train", "validation", "buffer", "test", "dropped")
_ENOUGH_BLOCKS = 8  # fewer than these say little in a bootstrap
_CANDIDATES = 400  # groups of blocks that are weighed against each other
_TOGETHER = 64  # of them at a time
_NEAR_BEST = 0.02  # in units of the cost below, of which fair groups have less than 1
_ONE_CLASS = 5.0  # cost of a side without glacier, or without anything else
_ENOUGH = 200  # known pixels of each class, without which a side teaches or tells nothing
_LEFT = 0.25  # of what should train, the least of each class that a cut must leave
_LINES = 128  # places of a line that are weighed against each other
_TESTED = "shares ground with a test area"

COLUMNS = ("area", "date", "row", "col", "decision", "comment")  # of overrides
DECISIONS = ("keep", "drop")


@dataclass
class Split:
    """Part, block and reason of each patch.

    ``enough``: both sides hold enough of both classes, and there is enough to train on.
    """

    part: np.ndarray
    block: np.ndarray
    reason: np.ndarray
    enough: bool = True

    def set_aside(self, which: np.ndarray, reason: str) -> None:
        """Leave patches unused, saying why."""
        self.part[which], self.reason[which] = "buffer", reason


def split_patches(
    patches: gpd.GeoDataFrame,
    *,
    size: int,
    train_areas: Collection[str],
    block_patches: Mapping[str, int],
    validation_fraction: float = 0.25,
    buffer_px: float = 0.0,
    overrides: pd.DataFrame | None = None,
    seed: int = 0,
) -> Split:
    """Give each patch its part: train, validation, buffer, test or dropped.

    In each training area the validation group is one rectangle or strip of blocks that holds about
    ``validation_fraction`` of the usable patches, with a glacier fraction near the area's and a
    short border. Where that leaves a side without enough of both classes, other groups are tried;
    where none will do, ``Split.enough`` is False.

    A test area on the ground of a training area, but at dates of its own, is a test over time and
    takes no patch from training. Of any other, the ground shared with it trains nothing.

    Args:
        patches: the table of ``plan`` with the columns reason (empty: usable), known and ice
            (numbers of pixels with a label, and of glacier).
        size: side of a patch in pixels.
        train_areas: those that train and validate; the others test.
        block_patches: the side of a block in patches that is wanted in each area. Where an area is
            too small for it, smaller blocks are taken, down to one patch.
        validation_fraction: 0..1, of the usable patches of each training area.
        buffer_px: training patches that touch the validation group, or come nearer than this (in
            the smallest pixels of the table), are left unused.
        overrides: the user's decisions by position, of ``locate_overrides``.
        seed: decides between nearly equal groups.

    Raises:
        GlacierError: a training area without a usable patch.
    """
    reasons, notes = patches["reason"].to_numpy(object), np.full(len(patches), "", object)
    if overrides is not None:
        reasons, notes = apply_overrides(reasons, overrides)
    areas = patches["area"].to_numpy(object)
    usable = reasons == ""
    training = np.isin(areas, list(train_areas))
    touching, overlapping = _neighbours(patches, size, buffer_px)
    part = np.where(usable, np.where(training, "train", "test"), "dropped").astype(object)
    split = Split(part, np.full(len(patches), "", object), reasons.copy())

    for area in dict.fromkeys(areas[part == "train"]):
        here = np.flatnonzero((part == "train") & (areas == area))
        for other in dict.fromkeys(areas[part == "test"]):
            there = np.flatnonzero((part == "test") & (areas == other))
            shared = overlapping[here][:, there]
            dates = (set(patches["date"].iloc[chosen]) for chosen in (here, there))
            if not (over_time(shared) and set.isdisjoint(*dates)):
                split.set_aside(here[shared.sum(axis=1) > 0], _TESTED)

    patches = patches.assign(usable=np.isin(part, ["train", "test"]), reason=split.reason)
    ice, known = patches["ice"].to_numpy(), patches["known"].to_numpy()
    # Groups with any pixel of each class; where that leaves too few of one, with enough of each.
    for least in (1, _ENOUGH):
        rng = np.random.default_rng(seed)
        chosen = np.zeros(len(patches), bool)
        for area in dict.fromkeys(areas):
            here = np.flatnonzero(areas == area)
            table, wanted = patches.iloc[here], block_patches[area]
            if area in train_areas:
                local = touching[here][:, here]
                side, own = _choose(table, local, size, wanted, validation_fraction, rng, least)
                chosen[here[own]] = True
            else:
                side = _test_side(table, size, wanted)
            split.block[here] = [
                f"{area}:{row:02d}-{col:02d}" for row, col in _blocks(table, size, side)
            ]
        twice = _counted_twice(patches, chosen, overlapping, size)
        validates, others = chosen & ~twice, (part == "train") & ~chosen
        near = others & (touching @ validates > 0)
        inside, left, whole = (
            np.array([ice[which].sum(), (known - ice)[which].sum()])
            for which in (validates, others & ~near, training & usable)
        )
        split.enough = bool(_suffice(inside, left, whole, validation_fraction))
        if split.enough:
            break
    part[validates] = "validation"
    split.set_aside(twice, "overlaps another validation patch")
    split.set_aside(near, "near validation")
    split.reason = np.where(split.reason == "", notes, split.reason)
    return split


def both_classes(ice: Any, known: Any, least: int = _ENOUGH) -> Any:
    """Say whether so many known pixels hold enough glacier, and enough of anything else.

    Args:
        ice: number of glacier pixels, or an array of such.
        known: of pixels with a label.
        least: of each class.
    """
    return np.minimum(ice, known - ice) >= least


def _suffice(inside: np.ndarray, left: np.ndarray, whole: np.ndarray, fraction: float) -> Any:
    """Say whether validation and what is left hold enough: pixels [class] or [class, cut]."""
    least = np.maximum(_ENOUGH, _LEFT * (1 - fraction) * whole)
    return ((inside >= _ENOUGH) & (left >= least)).all(axis=0)


def over_time(shared: Any) -> bool:
    """Say whether two areas are one ground: most of the patches of one lie on patches of the other.

    Args:
        shared: sparse [n, m] of 0 and 1, which patches share pixels.
    """
    return any((shared.sum(axis=axis) > 0).mean() > 0.5 for axis in (0, 1) if min(shared.shape))


def _blocks(table: pd.DataFrame, size: int, side: int) -> np.ndarray:
    """Return row and column of the block that holds each patch's centre, int [n, 2], from 0."""
    # Rounded, since the dates of one place may differ by a hair of a pixel.
    centres = np.round(table[["y", "x"]].to_numpy() * 4) / 4
    blocks = np.floor(centres / (size * side)).astype(int)
    return blocks - blocks.min(axis=0)


def _neighbours(
    patches: gpd.GeoDataFrame, size: int, buffer_px: float
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Return which patches touch (or nearly), and which share pixels: sparse [n, n] of 0 and 1.

    Touching means nearer than ``buffer_px``, and nearer than half a pixel in any case: grids that
    differ by a hair are one. A patch touches itself and shares pixels with itself. Patches of areas
    without georeference have no place on the ground in common with those of other areas.
    """
    ground = patches["ground"].to_numpy()
    pixel = np.sqrt(shapely.area(patches.geometry.to_numpy()).min()) / size
    # Half a pixel less, since a patch at just this distance is far enough.
    reach = pixel * max(0.5, buffer_px - 0.5)
    one, other = shapely.STRtree(ground).query(ground, predicate="dwithin", distance=reach)
    if patches.crs is None:
        areas = patches["area"].to_numpy(object)
        same = areas[one] == areas[other]
        one, other = one[same], other[same]
    own, others = shapely.bounds(ground)[one], shapely.bounds(ground)[other]
    common = np.minimum(own[:, 2:], others[:, 2:]) - np.maximum(own[:, :2], others[:, :2])
    shared = (common > pixel / 2).all(axis=1)

    def matrix(rows: np.ndarray, cols: np.ndarray) -> sparse.csr_array:
        ones = np.ones(len(rows), np.int32)
        return sparse.csr_array((ones, (rows, cols)), shape=(len(ground), len(ground)))

    return matrix(one, other), matrix(one[shared], other[shared])


def _choose(
    table: pd.DataFrame,
    touching: sparse.csr_array,
    size: int,
    wanted: int,
    fraction: float,
    rng: np.random.Generator,
    least: int,
) -> tuple[int, np.ndarray]:
    """Return the side of the blocks and the positions of the validation patches of one area.

    There are none where no group leaves a patch for training.
    """
    area = table["area"].iloc[0]
    if not table["usable"].any():
        reasons = table["reason"][table["reason"] != ""]
        why = f" (for example: {reasons.iloc[0]})" if len(reasons) else ""
        remedy = "check its labels and outlines, or raise max_unknown"
        if (table["reason"] == _TESTED).any():
            remedy = "cut one of the two with `bounds`, or test on dates that the other has not"
        raise GlacierError(
            f"area '{area}': none of its {len(table)} patches can train{why}; {remedy}"
        )
    found = []
    for side in range(min(wanted, _extent(table, size)), 0, -1):
        group = _best_group(table, touching, _blocks(table, size, side), fraction, rng, least)
        if group is None:
            continue
        # Whole blocks meet the fraction only roughly; smaller blocks meet it better.
        fair = 0.6 * fraction <= group.validates <= 1.5 * fraction
        if fair and group.trains >= group.validates and group.cost < _ONE_CLASS:
            return side, group.positions
        found.append((side, group))
    if not found:
        return 1, np.array([], int)
    # Of equal ones the largest blocks, which come first.
    side, group = min(found, key=lambda item: item[1].cost)
    return side, group.positions


@dataclass(frozen=True)
class _Group:
    """Validation patches of an area; fractions that validate and that are left to train; cost."""

    positions: np.ndarray
    validates: float
    trains: float
    cost: float


def _best_group(
    table: pd.DataFrame,
    touching: sparse.csr_array,
    blocks: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
    least: int,
) -> _Group | None:
    """Weigh the groups of blocks; None if no group leaves a patch on both sides."""
    places, block = np.unique(blocks, axis=0, return_inverse=True)
    usable = table["usable"].to_numpy()
    numbers = np.bincount(block, weights=usable)
    # Where the usual ones will not do, smaller and larger groups too.
    sizes = (fraction,) if least == 1 else (fraction, fraction / 3, 0.5)
    found = [group for size in sizes for group in _groups(places, numbers, size)]
    groups = np.array(found).reshape(-1, len(places))
    rows = np.flatnonzero(usable)
    members = sparse.csr_array((np.ones(len(rows)), (rows, block[rows])), (len(block), len(places)))
    near_members = touching @ members  # how many usable patches of each block a patch touches
    known, ice = table["known"].to_numpy(float), table["ice"].to_numpy(float)
    parts = []
    # Some groups at a time: all of them, by all patches, would be the largest array of a build.
    for start in range(0, len(groups), _TOGETHER):
        some = groups[start : start + _TOGETHER].T
        inside = (members @ some) > 0
        left = usable[:, None] & ~((near_members @ some) > 0)
        parts.append(
            [side.sum(axis=0) / usable.sum() for side in (inside, left)]
            + [counted @ side for side in (inside, left) for counted in (ice, known)]
        )
    validates, trains, ice_in, known_in, ice_left, known_left = np.concatenate(parts, axis=1)
    glacier = ice[usable].sum() / max(known[usable].sum(), 1)
    # Without both classes a network learns nothing, and a validation says little.
    few = ~both_classes(ice_in, known_in, least), ~both_classes(ice_left, known_left, least)
    one_class = few[0] + 2 * few[1]
    cost = (
        2 * np.abs(validates - fraction)
        + np.abs(ice_in / np.maximum(known_in, 1) - glacier)
        + 0.5 * (1 - validates - trains)  # lost to the buffer
        + _ONE_CLASS * one_class * (0 < glacier < 1)
    )
    cost[(validates == 0) | (trains == 0)] = np.inf
    if not np.isfinite(cost).any():
        return None
    good = np.flatnonzero(cost <= cost.min() + _NEAR_BEST)
    best = good[rng.integers(len(good))]
    positions = np.flatnonzero(members @ groups[best])
    return _Group(positions, *(float(of[best]) for of in (validates, trains, cost)))


def _groups(places: np.ndarray, numbers: np.ndarray, fraction: float) -> Iterator[np.ndarray]:
    """Yield groups of blocks as masks [blocks]: strips from each side, and rectangles.

    places: row and column of each block; numbers: its usable patches.
    """
    target = fraction * numbers.sum()
    row, col = places.T
    for order in (np.lexsort((row, col)), np.lexsort((col, row))):
        for sweep in (order, order[::-1]):
            full = np.searchsorted(np.cumsum(numbers[sweep]), target) + 1
            for length in {max(full - 1, 1), min(full, len(sweep))}:
                yield np.isin(np.arange(len(places)), sweep[:length])
    rectangles = [
        (top, left, height, width)
        for height in range(1, row.max() + 2)
        for width in range(1, col.max() + 2)
        if 0.5 * fraction * len(places) <= height * width <= 1.6 * fraction * len(places)
        # A long strip has a long border; those from side to side are there already.
        and max(height, width) <= 4 * min(height, width)
        for top in range(row.max() + 2 - height)
        for left in range(col.max() + 2 - width)
    ]
    step = max(1, len(rectangles) // _CANDIDATES)
    for top, left, height, width in rectangles[::step]:
        rows, cols = row - top, col - left
        yield (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)


def cut_by_lines(
    patches: gpd.GeoDataFrame,
    labels: np.ndarray,
    split: Split,
    *,
    size: int,
    train_areas: Collection[str],
    fraction: float,
    strip_px: float,
) -> pd.DataFrame:
    """Cut the ground of training areas in two by a line each, with a strip that belongs to none.

    A patch that the line crosses serves both sides, each with the pixels of its own. Areas that no
    line cuts into sides with enough of both classes train as a whole.

    Args:
        patches: as for ``split_patches``.
        labels: uint8 [n, row, col].
        split: of ``split_patches``, of which the other areas and what is dropped are kept.
        size: side of a patch in pixels.
        train_areas: those that are cut.
        fraction: 0..1, of the known ground of each area that validates.
        strip_px: width of the strip in pixels of the area's first date.

    Returns:
        One row per patch and side that it serves: patch (its position), part, reason, and the
        pixels that count, top, left, bottom, right.
    """
    areas = patches["area"].to_numpy(object)
    usable = np.isin(split.part, SPLITS[:3]) & (split.reason != _TESTED)
    usable &= np.isin(areas, list(train_areas))
    _, overlapping = _neighbours(patches, size, 0)
    once = usable & ~_counted_twice(patches, usable, overlapping, size)
    rows: list[tuple] = []
    for area in dict.fromkeys(areas):
        here = np.flatnonzero(areas == area)
        pixel = np.sqrt(shapely.area(patches.geometry.iloc[here].to_numpy()))
        steps = pixel[:, None] / pixel[0] * (np.arange(size) + 0.5 - size / 2)
        places = np.stack([patches[name].to_numpy()[here, None] + steps for name in ("y", "x")])
        chosen = once[here]
        line = _best_line(places[:, chosen], labels, here[chosen], fraction, strip_px)
        for position, place in zip(here, np.moveaxis(places, 1, 0), strict=True):
            part, reason = split.part[position], split.reason[position]
            if usable[position]:
                part, reason = "train", "" if part == "buffer" else reason
            sides = {part: np.ones(size, bool)}
            axis = 0
            if line is not None and usable[position]:
                axis, sign, at = line
                along = sign * place[axis]
                sides = {"train": along >= at + strip_px, "validation": along < at}
                sides["validation"] &= once[position]
            for part, pixels in sides.items():
                if pixels.any():
                    window = [[0, size], [0, size]]
                    window[axis] = [int(pixels.argmax()), size - int(pixels[::-1].argmax())]
                    why = reason if pixels.all() else CUT
                    rows.append((position, part, why, *np.transpose(window).ravel()))
    return pd.DataFrame(rows, columns=["patch", "part", "reason", *EDGES])


def _best_line(
    places: np.ndarray, labels: np.ndarray, patches: np.ndarray, fraction: float, strip: float
) -> tuple[int, int, float] | None:
    """Return axis, direction and place of a line: what lies before it, in direction, validates.

    places: of the rows and columns of pixels [2, patch, size]; patches: their positions in labels.
    None if no line leaves enough of both classes on both sides.
    """
    best, least = None, np.inf
    for axis, own in enumerate(places):
        counts = np.zeros((2, *own.shape))
        for row, position in enumerate(patches):
            label = labels[position]
            counts[:, row] = [(label == value).sum(axis=1 - axis) for value in (1, 0)]
        for sign in (1, -1):
            order = np.argsort(sign * own, axis=None)
            at = sign * own.ravel()[order]
            sums = np.pad(counts.reshape(2, -1)[:, order].cumsum(axis=1), ((0, 0), (1, 0)))
            lines = np.linspace(at[0], at[-1], _LINES) if len(at) else at
            inside = sums[:, np.searchsorted(at, lines)]
            left, whole = sums[:, -1:] - sums[:, np.searchsorted(at, lines + strip)], sums[:, -1:]
            fair = _suffice(inside, left, whole, fraction)
            cost = 2 * np.abs(inside.sum(axis=0) / max(whole.sum(), 1) - fraction)
            for part in (inside, left):
                share = part[0] / np.maximum(part.sum(axis=0), 1)
                cost += np.abs(share - whole[0] / max(whole.sum(), 1))
            cost = np.where(fair, cost, np.inf)
            if len(cost) and cost.min() < least:
                best, least = (axis, sign, float(lines[cost.argmin()])), cost.min()
    return best


def _extent(table: pd.DataFrame, size: int) -> int:
    """Return the side of an area in patches: no block needs to be larger.

    Pixels of a wrong size, as degrees taken for metres, would ask for blocks of millions.
    """
    return int(max(np.ptp(table["y"]), np.ptp(table["x"])) // size) + 1


def _test_side(table: pd.DataFrame, size: int, wanted: int) -> int:
    """Return the largest side of a block up to ``wanted`` that leaves enough blocks."""
    usable = table[table["usable"]]
    for side in range(min(wanted, _extent(table, size)), 1, -1):
        if len(usable) and len(np.unique(_blocks(usable, size, side), axis=0)) >= _ENOUGH_BLOCKS:
            return side
    return 1


def _counted_twice(
    patches: pd.DataFrame, validation: np.ndarray, overlapping: sparse.csr_array, size: int
) -> np.ndarray:
    """Find validation patches that share pixels with one kept before, on the same date.

    Patches on the lattice of ``size`` come first, so that the validation set is the same whatever
    the stride.
    """
    row, col = patches["row"].to_numpy(), patches["col"].to_numpy()
    off = (row % size != 0) | (col % size != 0)
    date = pd.factorize(patches["area"] + "\n" + patches["date"])[0]
    kept = np.zeros(len(patches), bool)
    order = np.lexsort((col, row, off))
    for position in order[validation[order]]:
        start, end = overlapping.indptr[position : position + 2]
        others = overlapping.indices[start:end]
        kept[position] = not (kept[others] & (date[others] == date[position])).any()
    return validation & ~kept


def parts_meet(index: gpd.GeoDataFrame, one: str, other: str) -> bool:
    """Say whether any patch of one part touches or overlaps a patch of another, on any date.

    Where this is False for train and validation, no pixel and no border is shared, and the dates of
    one place lie on one side.

    Args:
        index: a patch store's index.
        one: a part, as "train".
        other: another, as "validation".
    """
    for _, patches in index.groupby("area"):
        boxes = [patches.geometry[patches["split"] == part].to_numpy() for part in (one, other)]
        pairs = shapely.STRtree(boxes[0]).query(boxes[1], predicate="intersects")
        if pairs.size:
            return True
    return False


def read_overrides(path: str | Path) -> pd.DataFrame:
    """Read a CSV with the columns area, date, row, col, decision (keep or drop), comment.

    row and col are those of the index: the patch's upper left corner in pixels of its date's
    frame.

    Returns:
        These columns, indexed by the line in the file.

    Raises:
        GlacierError: the file is missing or no such table, a number or a decision is none, or a
            patch is named twice; with the line.
    """
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, skip_blank_lines=False, skipinitialspace=True,
            index_col=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:  # of encoding and form too
        reason = " ".join(str(error).split())
        raise GlacierError(f"{path}: overrides cannot be read as CSV ({reason})") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise GlacierError(
            f"{path}, line 1: column {', '.join(missing)} is missing; the columns of overrides "
            f"are {', '.join(COLUMNS)}"
        )
    table.index += 2
    table = table.fillna("")[[*COLUMNS]]
    table = table[(table != "").any(axis=1)]
    numbers = table[["row", "col"]].apply(pd.to_numeric, errors="coerce")
    wrong = (numbers % 1 != 0).any(axis=1) | ~table["decision"].isin(DECISIONS)
    if wrong.any():
        line = wrong.idxmax()
        row, col, decision = table.loc[line, ["row", "col", "decision"]]
        raise GlacierError(
            f"{path}, line {line}: row '{row}' and col '{col}' must be whole numbers of pixels, "
            f"and decision '{decision}' {' or '.join(DECISIONS)}"
        )
    table = table.assign(**numbers.astype(int))
    if (twice := table.duplicated([*COLUMNS[:4]])).any():
        raise GlacierError(
            f"{path}, line {twice.idxmax()}: this patch stands above already; keep one of the lines"
        )
    table.attrs["path"] = str(path)
    return table


def locate_overrides(
    overrides: pd.DataFrame, patches: pd.DataFrame, known: Collection[tuple[str, str]]
) -> pd.DataFrame:
    """Find the patches that a user's decisions mean.

    Args:
        overrides: of ``read_overrides``.
        patches: one row per patch with area, date, row, col.
        known: the (area, date) of the whole dataset. Decisions on those that ``patches`` leaves
            out are passed over; one file serves several stores.

    Returns:
        The overrides, indexed by the position of the patch.

    Raises:
        GlacierError: a line means no patch.
    """
    columns = [*COLUMNS[:4]]
    places = pd.MultiIndex.from_frame(patches[columns])
    positions = places.get_indexer(pd.MultiIndex.from_frame(overrides[columns]))
    elsewhere = set(known) - set(zip(patches["area"], patches["date"], strict=True))
    for row in overrides[positions < 0].itertuples():
        if (row.area, row.date) not in elsewhere:
            raise GlacierError(
                f"{overrides.attrs['path']}, line {row.Index}: there is no patch of area "
                f"'{row.area}', date '{row.date}' at row {row.row}, col {row.col}; take the places "
                "from the index of the patch store, or write a new template"
            )
    return overrides.set_axis(positions)[positions >= 0]


def apply_overrides(reasons: np.ndarray, overrides: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the reasons to drop after the user's decisions, and the notes on those kept.

    Args:
        reasons: why a patch is dropped, "" where it is kept.
        overrides: of ``locate_overrides``. One that agrees with the reason changes nothing.
    """
    reasons, notes = reasons.copy(), np.full(len(reasons), "", object)
    for row in overrides.itertuples():
        said = f": {row.comment}" if row.comment else ""
        if row.decision == "keep" and reasons[row.Index]:
            reasons[row.Index], notes[row.Index] = "", f"kept by override{said}"
        elif row.decision == "drop" and not reasons[row.Index]:
            reasons[row.Index] = f"dropped by override{said}"
    return reasons, notes


def write_overrides_template(index: pd.DataFrame, path: str | Path) -> Path:
    """Write the decisions of a store's index as a CSV to edit; unedited it changes nothing.

    The comment is the reason where a patch is dropped.
    """
    index = index.drop_duplicates([*COLUMNS[:4]])  # a patch that a line cuts serves twice
    dropped = (index["split"] == "dropped").to_numpy()
    table = pd.DataFrame({name: index[name] for name in COLUMNS[:4]}).assign(
        decision=np.where(dropped, "drop", "keep"),
        comment=index["reason"].where(dropped, ""),
    )
    return write_csv(path, table)
