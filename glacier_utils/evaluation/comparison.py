"""Several models on an area that none of them has seen: their maps, scores and differences.

Maps are masks of patches in the order of ``positions`` (patches of a store); what asks for more
than single patches puts those of an area together. ``judge`` gives the first area as one map with
its image, which is what notebook 04 looks at beyond patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from affine import Affine
from rasterio.crs import CRS

from glacier_utils import metrics
from glacier_utils.conventions import UNKNOWN, nearest_date
from glacier_utils.datasets.dataset import Dataset
from glacier_utils.datasets.layout import CUT
from glacier_utils.datasets.store import PatchStore
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import bootstrap, calibration
from glacier_utils.evaluation.per_glacier import Glaciers, burn_glaciers
from glacier_utils.imagery.clouds import cloud_mask, unfit
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.prediction.mapper import predict_scene
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.mask import Mask

Masks = Mapping[str, np.ndarray]  # model -> [n, row, col]
Counts = Mapping[str, Mapping[str, pd.DataFrame]]  # reference -> model -> of `count_blocks`


def patches_to_test(store: PatchStore, date: str) -> np.ndarray:
    """Return the test patches of each area at a date; where it has not that date, at the nearest.

    Args:
        store: of patches.
        date: that is wanted.
    """
    test = store.index[store.index["split"] == "test"]
    own = test.groupby("area")["date"].transform(lambda dates: nearest_date(dates.unique(), date))
    return np.flatnonzero(store.index.index.isin(test.index[test["date"] == own]))


def areas_over_time(store: PatchStore, positions: np.ndarray) -> list[str]:
    """Return the areas that lie on the ground of training, at other dates.

    Their scores are a test over time, which says nothing about ground that was never seen.

    Args:
        store: of patches.
        positions: patches in the store.
    """
    index = store.index
    ground = index.geometry[index["split"].isin(["train", "validation"])].to_numpy()
    tested = index.iloc[positions if index.crs else []]  # without a CRS no area meets another
    middles = tested.geometry.centroid.to_numpy()
    hits = shapely.STRtree(ground).query(middles, predicate="intersects")[0]
    return list(tested["area"].iloc[np.unique(hits)].unique())


def references(store: PatchStore, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Return what maps can be judged against: the labels, and the truth where it is known.

    Args:
        store: of patches.
        positions: patches in the store.

    Returns:
        name -> uint8 [n, row, col]: 0, 1, 255. What one of them leaves unknown is unknown in both,
        or their scores would be of different ground.

    Raises:
        GlacierError: there is no patch to judge.
    """
    if not len(positions):
        raise GlacierError(f"{store.folder}: no test patches; name their area in test_areas (02)")
    labels = np.asarray(store.labels[positions])
    if store.truth is None:
        return {"labels": labels}
    truth = np.asarray(store.truth[positions])
    known = (labels != UNKNOWN) & (truth != UNKNOWN)
    return {name: np.where(known, own, np.uint8(UNKNOWN))
            for name, own in (("labels", labels), ("truth", truth))}  # fmt: skip


def predict_models(
    checkpoints: Mapping[str, Path], data: Dataset, store: PatchStore, positions: np.ndarray
) -> dict[str, np.ndarray]:
    """Map the scenes of patches with every model, as a user would, and cut the patches out.

    In overlapping windows a network sees what lies around a patch; patch by patch it would be
    judged without. Windows of a scene that hold no patch are left out.

    Args:
        checkpoints: model -> checkpoint.
        data: what the store was made from.
        store: of patches.
        positions: patches in the store.

    Returns:
        model -> probability float32 [n, row, col], nan where there is no image.
    """
    index = store.index.iloc[positions].reset_index(drop=True)
    shape = (len(positions), *store.labels.shape[1:])
    found = {name: np.full(shape, np.nan, np.float32) for name in checkpoints}
    for (area, date), own in index.groupby(["area", "date"], sort=False):
        source = data.source(area, date)
        places = [np.s_[r : r + shape[1], c : c + shape[2]]
                  for r, c in zip(own["row"], own["col"], strict=True)]  # fmt: skip
        where = np.zeros(source.grid.shape, bool)
        for place in places:
            where[place] = True
        for name, path in checkpoints.items():
            whole = predict_scene(load_checkpoint(path), source, where=where)
            for number, place in zip(own.index, places, strict=True):
                part = whole[place]
                found[name][number, : part.shape[0], : part.shape[1]] = part
    return found


def classify_models(table: pd.DataFrame, probabilities: Masks) -> dict[str, np.ndarray]:
    """Apply each model's own threshold.

    Args:
        table: model and threshold.
        probabilities: model -> float32 [n, row, col].

    Returns:
        model -> uint8 [n, row, col]: 0, 1, 255 where not predicted.
    """
    thresholds = table.set_index("model")["threshold"]
    return {
        name: metrics.classify(probability, thresholds[name])
        for name, probability in probabilities.items()
    }


def count_blocks(
    masks: Masks, store: PatchStore, positions: np.ndarray, *, side_m: float | None = None
) -> dict[str, dict[str, pd.DataFrame]]:
    """Count hits and errors of every map in each block of ground, against every reference.

    Args:
        masks: model -> uint8 [n, row, col].
        store: of patches.
        positions: patches in the store.
        side_m: of the blocks (``block_size``); None: 3.2 km, or a quarter of a shorter side.

    Returns:
        reference -> model -> area, date, block, tp, fp, fn, tn. Blocks are those of
        ``bootstrap.block_counts``, cut from each area as a whole.
    """
    places = [(own, positions[own]) for own in _areas(store, positions)]
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for reference, truth in references(store, positions).items():
        known = [assemble(truth[own], store, chosen) for own, chosen in places]
        found[reference] = {}
        for name, mask in masks.items():
            tables = []
            for (own, chosen), (target, grid) in zip(places, known, strict=True):
                whole, _ = assemble(mask[own], store, chosen)
                table = bootstrap.block_counts(whole, target, grid, side_m=side_m)
                area, date = store.index[["area", "date"]].iloc[chosen[0]]
                table.insert(0, "area", area)
                table.insert(1, "date", date)
                tables.append(table.assign(block=f"{area}:" + table["block"]))
            found[reference][name] = pd.concat(tables, ignore_index=True)
    return found


def count_patches(
    masks: Masks, store: PatchStore, positions: np.ndarray, *, side_m: float | None = None
) -> pd.DataFrame:
    """Count hits and errors of every map in each patch, against every reference.

    What two runs left of this tells whether they were tested on the same ground, and if so their
    scores can be compared block by block.

    Args:
        masks: model -> uint8 [n, row, col].
        store: of patches.
        positions: patches in the store.
        side_m: of the blocks, as in ``count_blocks``.

    Returns:
        model, reference, area, date, row, col (the patch's first pixel in the area's frame), block
        (that of ``count_blocks`` in which the patch's middle lies), tp, fp, fn, tn.
    """
    known = store.index.iloc[positions][["area", "date", "row", "col"]].reset_index(drop=True)
    size, tables = store.images.shape[-1], []
    for own in _areas(store, positions):
        places = known.loc[own, ["row", "col"]].to_numpy()
        places = places - places.min(axis=0)
        shape = tuple(places.max(axis=0) + size)
        edges = bootstrap.block_edges(shape, _grid(store, positions[own], shape), side_m)
        middles = zip(edges, places.T + size // 2, strict=True)
        row, col = (np.searchsorted(*pair, side="right") - 1 for pair in middles)
        known.loc[own, "block"] = [f"{i:02d}-{j:02d}" for i, j in zip(row, col, strict=True)]
    for reference, truth in references(store, positions).items():
        for name, mask in masks.items():
            pairs = zip(mask, truth, strict=True)
            counts = pd.DataFrame([vars(metrics.count(*pair)) for pair in pairs])
            tables.append(known.join(counts).assign(model=name, reference=reference))
    return pd.concat(tables, ignore_index=True)[["model", "reference", *known, *metrics.COUNTS]]


def spatial_scores(table: pd.DataFrame, counts: Counts) -> pd.DataFrame:
    """Score every model against every reference, area by area.

    Args:
        table: model, architecture and seed.
        counts: of ``count_blocks``.

    Returns:
        One row per model, reference and area: model (architecture), area, date, reference, seed,
        iou, iou_low, iou_high (95 %, spatial block bootstrap) and the other scores.
    """
    return pd.DataFrame(
        {
            "model": row.architecture,
            "area": area,
            "date": date,
            "reference": reference,
            "seed": row.seed,
            **bootstrap.scores_with_interval(part),
        }
        for row in table.itertuples()
        for reference, tables in counts.items()
        for (area, date), part in tables[row.model].groupby(["area", "date"], sort=False)
    )


def against_baselines(table: pd.DataFrame, counts: Counts) -> pd.DataFrame:
    """Compare every network with every baseline on the same blocks: a table as ``differences``.

    Args:
        table: model and kind (``network`` or ``baseline``).
        counts: of ``count_blocks``.
    """
    names = {kind: list(part["model"]) for kind, part in table.groupby("kind")}
    networks, baselines = names.get("network", ()), names.get("baseline", ())
    return _paired([(one, other) for one in networks for other in baselines], counts)


def clearly_better(pairs: pd.DataFrame) -> list[str]:
    """Return the models that are better than each one they are compared with, by all references.

    Args:
        pairs: of ``against_baselines``.
    """
    verdicts = (pairs["verdict"] == "better").groupby(pairs["model"], sort=False).all()
    return list(verdicts.index[verdicts])


def _paired(pairs: Sequence[tuple[str, str]], counts: Counts) -> pd.DataFrame:
    columns = ["model", "against", "reference", "difference", "low", "high", "verdict", "p_holm"]
    tables = [
        bootstrap.compare(own, pairs).assign(reference=reference)
        for reference, own in counts.items()
    ]
    return pd.concat(tables, ignore_index=True)[columns]


def assemble(
    values: np.ndarray, store: PatchStore, positions: np.ndarray
) -> tuple[np.ndarray, Grid]:
    """Put patches of one area and date back to where they were cut.

    Args:
        values: [n, row, col], in the order of ``positions``.
        store: of patches.
        positions: patches of one area and date; overlapping ones overwrite in order.

    Returns:
        The map [row, col], 255 (nan for floats) where no patch lies, and its grid.

    Raises:
        ValueError: patches of several areas or dates.
    """
    index = store.index.iloc[positions]
    if index[["area", "date"]].drop_duplicates().shape[0] != 1:
        raise ValueError("assemble takes the patches of one area and one date")
    size = values.shape[-1]
    top, left = index["row"].min(), index["col"].min()
    shape = (index["row"].max() - top + size, index["col"].max() - left + size)
    empty = np.nan if values.dtype.kind == "f" else UNKNOWN
    canvas = np.full(shape, empty, dtype=values.dtype)
    for patch, row, col in zip(values, index["row"] - top, index["col"] - left, strict=True):
        canvas[row : row + size, col : col + size] = patch
    return canvas, _grid(store, positions, shape)


def cut(canvas: np.ndarray, store: PatchStore, positions: np.ndarray) -> np.ndarray:
    """Cut the map that ``assemble`` made back into patches.

    Args:
        canvas: [row, col].
        store: of patches.
        positions: those that were put together.

    Returns:
        [n, row, col], in the same order.
    """
    index = store.index.iloc[positions]
    size = store.images.shape[-1]
    corners = zip(index["row"] - index["row"].min(), index["col"] - index["col"].min(), strict=True)
    return np.stack([canvas[row : row + size, col : col + size] for row, col in corners])


def _grid(store: PatchStore, positions: np.ndarray, shape: tuple[int, int]) -> Grid:
    """Return the grid of an area, its pixels being those of the store's first whole patch."""
    size = store.images.shape[-1]
    whole = store.index.geometry[store.index["reason"] != CUT]
    xmin, ymin, xmax, ymax = whole.iloc[0].bounds
    left, _, _, top = store.index.iloc[positions].total_bounds
    crs = store.index.crs and CRS.from_user_input(store.index.crs)
    return Grid(crs, Affine((xmax - xmin) / size, 0, left, 0, (ymin - ymax) / size, top), *shape)


def _areas(store: PatchStore, positions: np.ndarray) -> list[np.ndarray]:
    """Return which of the positions lie in each area on each date, bool [n] each."""
    index = store.index.iloc[positions]
    keys = list(zip(index["area"], index["date"], strict=True))
    return [np.array([key == own for key in keys]) for own in dict.fromkeys(keys)]


def first_area(store: PatchStore, positions: np.ndarray) -> np.ndarray:
    """Return which of the patches lie in the first of their areas, bool [n]."""
    areas = store.index["area"].to_numpy()[positions]
    return areas == areas[0]


def boundary_table(masks: Masks, store: PatchStore, positions: np.ndarray) -> pd.DataFrame:
    """Measure how far mapped outlines lie from the references', area by area.

    Args:
        masks: model -> uint8 [n, row, col].
        store: of patches.
        positions: patches in the store.

    Returns:
        model, area, reference, and the columns of ``metrics.boundary_distance``.
    """
    rows = []
    for reference, truth in references(store, positions).items():
        for name, mask in masks.items():
            for own in _areas(store, positions):
                chosen = positions[own]
                whole, grid = assemble(mask[own], store, chosen)
                target, _ = assemble(truth[own], store, chosen)
                distances = metrics.boundary_distance(whole, target, grid.resolution)
                area = store.index["area"].iloc[chosen[0]]
                rows.append({"model": name, "area": area, "reference": reference, **distances})
    return pd.DataFrame(rows)


def with_boundaries(spatial: pd.DataFrame, distances: pd.DataFrame) -> pd.DataFrame:
    """Add boundary_median_m and boundary_p95_m to spatial scores; nan for all but the first seed.

    Args:
        spatial: of ``spatial_scores``.
        distances: of ``boundary_table`` for the models of the first seed.
    """
    keys = ["model", "area", "reference"]
    columns = {"median_m": "boundary_median_m", "p95_m": "boundary_p95_m"}
    added = distances.rename(columns=columns)[[*keys, *columns.values()]]
    table = spatial.merge(added, on=keys, how="left", validate="many_to_one")
    table.loc[table["seed"] != table["seed"].iloc[0], list(columns.values())] = np.nan
    return table


@dataclass(frozen=True)
class Judged:
    """One area at one date, put together from its patches.

    Attributes:
        area: its name.
        date: of the image.
        grid: of all arrays, [row, col].
        maps: model -> uint8 0 / 1 / 255.
        probabilities: model -> float32, nan where there is no image.
        references: ``labels`` and, where it is known, ``truth``.
        image: reflectance, or plain digital numbers where ``unfit`` says so.
        glaciers: the inventory's, None where labels are rasters.
        clouds: codes of the mask that decides, None where there is none.
        unfit: why rules on reflectance do not hold here; empty where they do.
    """

    area: str
    date: str
    grid: Grid
    maps: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]
    references: dict[str, np.ndarray]
    image: Image
    glaciers: Glaciers | None
    clouds: np.ndarray | None
    unfit: str

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) in the units of the CRS."""
        return self.grid.bounds

    def own(self, counts: Counts) -> dict[str, dict[str, pd.DataFrame]]:
        """Return what ``count_blocks`` counted in this area for these models."""
        return {
            reference: {name: tables[name][tables[name]["area"] == self.area] for name in self.maps}
            for reference, tables in counts.items()
        }


def known_clouds(data: Dataset, area: str, date: str) -> Mask | None:
    """Return the user's cloud mask, else that of the scene classification; None where neither is.

    Args:
        data: the dataset.
        area: of the dataset.
        date: of the image.
    """
    ready, scl = data.clouds(area, date), data.scene_classification(area, date)
    if ready is None and scl is None:
        return None
    return cloud_mask(data.source(area, date), ready=ready, scl=scl)


def judge(
    data: Dataset, store: PatchStore, positions: np.ndarray, masks: Masks, probabilities: Masks
) -> Judged:
    """Put the patches of the first area together.

    Args:
        data: what the store was made from.
        store: of patches.
        positions: patches of one date in the store.
        masks: model -> uint8 [n, row, col] in the order of ``positions``.
        probabilities: model -> float32 [n, row, col], of these models and maybe others.
    """
    here = first_area(store, positions)
    own = positions[here]
    index = store.index.iloc[own]
    area, date = index["area"].iloc[0], index["date"].iloc[0]

    def whole(values: np.ndarray) -> np.ndarray:
        return assemble(values, store, own)[0]

    known = {name: whole(values) for name, values in references(store, own).items()}
    source = data.source(area, date)
    corner = int(index["row"].min()), int(index["col"].min())
    grid = source.grid.window(*corner, *known["labels"].shape)
    images = np.asarray(store.images[own])
    valid = whole(store.valid(own).astype(np.uint8)) == 1
    reflectance = np.stack([whole(images[:, band]) for band in range(images.shape[1])])
    image = Image(np.where(valid, reflectance, 0), valid, store.bands, grid)
    outlines = None if grid.crs is None else data.outlines(area, date)
    clouds = known_clouds(data, area, date)
    return Judged(
        area=area,
        date=date,
        grid=grid,
        # Patches may stick out of the frame; what a model says there is about nothing.
        maps={
            name: np.where(valid, whole(values[here]), UNKNOWN).astype(np.uint8)
            for name, values in masks.items()
        },
        probabilities={
            name: np.where(valid, whole(probabilities[name][here]), np.nan).astype(np.float32)
            for name in masks
        },
        references=known,
        image=image,
        glaciers=None if outlines is None else burn_glaciers(outlines, grid, date),
        clouds=None if clouds is None else clouds.read(*corner, *grid.shape),
        unfit=unfit(source),
    )


def block_size(judged: Judged) -> bootstrap.Side:
    """Choose blocks larger than the reach of every model's errors against the labels.

    Args:
        judged: the area.

    Returns:
        The side chosen, and why.
    """
    resolution = judged.grid.resolution
    resolution = resolution if np.isfinite(resolution) else 1.0  # lengths are in pixels then
    wrong = [bootstrap.errors(mask, judged.references["labels"]) for mask in judged.maps.values()]
    curves = [bootstrap.correlogram(errors, resolution) for errors in wrong]
    lengths = [bootstrap.correlation_length(curve) for curve in curves]
    longest = max((length for length in lengths if np.isfinite(length)), default=math.nan)
    extent = judged.grid.height * resolution, judged.grid.width * resolution
    return bootstrap.block_side(longest, extent)


def calibrate(
    temperatures: Mapping[str, float], judged: Judged
) -> tuple[pd.DataFrame, dict[str, dict[str, calibration.Histograms]]]:
    """Score each model's probabilities on the area, without and with its temperature.

    Args:
        temperatures: model -> temperature that was fitted on validation, which its probabilities
            have passed already.
        judged: the area to be scored.

    Returns:
        One row per model, reference and stage (``before``, ``after``): model, area, date,
        reference, stage, temperature and ``calibration.calibration_scores``; and model -> stage ->
        histograms against the best reference.
    """
    tables, histograms = [], {}
    for name, temperature in temperatures.items():
        without = calibration.apply_temperature(judged.probabilities[name], 1 / temperature)
        for reference, truth in judged.references.items():
            table, histograms[name] = calibration.before_and_after(without, truth, temperature)
            tables.append(table.assign(model=name, reference=reference))
    table = pd.concat(tables, ignore_index=True).assign(area=judged.area, date=judged.date)
    first = ["model", "area", "date", "reference", "stage", "temperature"]
    return table[[*first, *(name for name in table if name not in first)]], histograms
