"""Spatial evaluation: several models on the patches of an area that none of them has seen.

An area as one map: what notebook 04 judges beyond patches, from all rooms that judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from affine import Affine
from rasterio.crs import CRS

from glacier_utils import metrics
from glacier_utils.conventions import UNKNOWN
from glacier_utils.datasets.dataset import Dataset
from glacier_utils.datasets.store import PatchStore
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import bootstrap, calibration, label_bias
from glacier_utils.evaluation.per_glacier import Glaciers, burn_glaciers
from glacier_utils.imagery.clouds import cloud_mask, unfit
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.prediction.adaptation import predict_by_scene
from glacier_utils.prediction.postprocess import clean
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.training import fitting

Masks = Mapping[str, np.ndarray]


def references(store: PatchStore, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Return what maps can be judged by: the labels, and the truth where it is known.

    Returns:
        name -> uint8 [n, row, col]: 0, 1, 255.

    Raises:
        GlacierError: there is no patch to judge.
    """
    if not len(positions):
        raise GlacierError(
            f"{store.folder}: no test patches of this date; name the area in test_areas (02)"
        )
    found = {"labels": np.asarray(store.labels[positions])}
    if store.truth is not None:
        found["truth"] = np.asarray(store.truth[positions])
    return found


def predict_models(
    table: pd.DataFrame, store: PatchStore, positions: np.ndarray
) -> dict[str, np.ndarray]:
    """Predict the patches with every model of `fitting.summary`.

    A model that was trained with per-scene normalisation is fitted to the images of each area and
    date, as `adaptation.adapt` does.

    Returns:
        model -> probability float32 [n, row, col].
    """
    return {
        name: predict_by_scene(load_checkpoint(fitting.checkpoint(table, name)), store, positions)
        for name in table["model"]
    }


def classify_models(
    table: pd.DataFrame,
    probabilities: Masks,
    store: PatchStore,
    positions: np.ndarray,
    *,
    post_process: bool = False,
) -> dict[str, np.ndarray]:
    """Apply each model's own threshold, and GlacierNet's clean-up rules where asked for.

    The rules (`postprocess.clean`) work on each area as a whole, since a glacier that a patch cuts
    is not a small one.

    Returns:
        model -> uint8 [n, row, col]: 0, 1, 255 where not predicted.

    Raises:
        GlacierError: the rules are asked for, but nobody told the size of a pixel.
    """
    thresholds = table.set_index("model")["threshold"]
    masks = {
        name: metrics.classify(probability, thresholds[name])
        for name, probability in probabilities.items()
    }
    if not post_process:
        return masks
    pixel = pixel_area_km2(store)
    if not np.isfinite(pixel):
        raise GlacierError(
            f"{store.folder}: the clean-up rules are in km2, but the images do not tell the size "
            "of a pixel; add `resolution` to dataset.yaml or leave post_process off"
        )
    areas = store.index["area"].to_numpy()[positions]
    for name, mask in masks.items():
        for area in dict.fromkeys(areas):
            here = areas == area
            whole, _ = assemble(mask[here], store, positions[here])
            masks[name][here] = cut(clean(whole, pixel), store, positions[here])
    return masks


def spatial_scores(
    table: pd.DataFrame,
    masks: Masks,
    store: PatchStore,
    positions: np.ndarray,
    *,
    side_m: float | None = None,
) -> pd.DataFrame:
    """Score every model against every reference, area by area.

    Args:
        side_m: of the blocks that are resampled (`bootstrap.block_side`); None: 3.2 km, or a quarter
            of a shorter side.

    Returns:
        A row per model, area and reference: model (architecture), area, date, reference, seed,
        iou, iou_low, iou_high (95 %, spatial block bootstrap) and the other scores.
    """
    rows = []
    for row in table.itertuples():
        for reference, truth in references(store, positions).items():
            counts = block_counts(masks[row.model], truth, store, positions, side_m)
            for (area, date), part in counts.groupby(["area", "date"], sort=False):
                rows.append(
                    {
                        "model": row.architecture,
                        "area": area,
                        "date": date,
                        "reference": reference,
                        "seed": row.seed,
                        **bootstrap.scores_with_interval(part),
                    }
                )
    return pd.DataFrame(rows)


def differences(
    best: str,
    masks: Masks,
    store: PatchStore,
    positions: np.ndarray,
    *,
    side_m: float | None = None,
) -> pd.DataFrame:
    """Compare one model with each other one on the same blocks, as of `spatial_scores`.

    Returns:
        A row per other model and reference: model, against, reference, difference of the IoU
        (``best`` minus the other), low, high (95 %), verdict (``better``, ``worse`` or
        ``not distinguishable``).
    """
    pairs = [(best, other) for other in masks if other != best]
    return _paired(pairs, masks, store, positions, side_m)


def against_baselines(
    table: pd.DataFrame,
    masks: Masks,
    store: PatchStore,
    positions: np.ndarray,
    *,
    side_m: float | None = None,
) -> pd.DataFrame:
    """Compare every network with every baseline on the same blocks: a table as `differences`."""
    kinds = table.set_index("model")["kind"]
    networks, baselines = (
        [name for name in masks if kinds[name] == kind] for kind in ("network", "baseline")
    )
    pairs = [(network, baseline) for network in networks for baseline in baselines]
    return _paired(pairs, masks, store, positions, side_m)


def clearly_better(pairs: pd.DataFrame) -> list[str]:
    """Return the models that are ``better`` than each one they are compared with, by all
    references."""
    verdicts = (pairs["verdict"] == "better").groupby(pairs["model"], sort=False).all()
    return list(verdicts.index[verdicts])


def _paired(
    pairs: Sequence[tuple[str, str]],
    masks: Masks,
    store: PatchStore,
    positions: np.ndarray,
    side_m: float | None,
) -> pd.DataFrame:
    """Return the difference of the IoU of each pair, resampled on the same blocks."""
    columns = ["model", "against", "reference", "difference", "low", "high", "verdict", "p_holm"]
    tables = []
    for reference, truth in references(store, positions).items():
        names = dict.fromkeys(name for pair in pairs for name in pair)
        counts = {
            name: block_counts(masks[name], truth, store, positions, side_m) for name in names
        }
        tables.append(bootstrap.compare(counts, pairs).assign(reference=reference))
    return pd.concat(tables, ignore_index=True)[columns]


def curves(
    names: Sequence[str],
    probabilities: Masks,
    masks: Masks,
    store: PatchStore,
    positions: np.ndarray,
) -> tuple[dict[str, pd.DataFrame], dict[str, tuple[float, float]]]:
    """Return precision-recall curves against the labels, and each model's own point on them."""
    labels = np.asarray(store.labels[positions])
    lines, points = {}, {}
    for name in names:
        area = metrics.average_precision(probabilities[name], labels)
        title = f"{name} (average precision {area:.2f})"
        lines[title] = metrics.precision_recall(probabilities[name], labels)
        counts = metrics.count(masks[name], labels)
        points[title] = (counts.recall, counts.precision)
    return lines, points


def patch_scores(
    names: Sequence[str], masks: Masks, store: PatchStore, positions: np.ndarray
) -> pd.DataFrame:
    """Return counts and scores of every patch and model against the labels.

    Columns: model, patch (the store's number), tp, fp, fn, tn and the scores.
    """
    labels = np.asarray(store.labels[positions])
    tables = []
    for name in names:
        scores = metrics.score_patches(metrics.count_patches(masks[name], labels))
        scores.insert(0, "patch", store.index["patch"].to_numpy()[positions])
        scores.insert(0, "model", name)
        tables.append(scores)
    return pd.concat(tables, ignore_index=True)


def best_median_worst(scores: pd.DataFrame, model: str, *, each: int = 3) -> pd.DataFrame:
    """Pick patches of one model by IoU, among those that hold enough glacier to judge.

    Returns:
        which (``best``, ``median``, ``worst``), patch and iou, at most ``each`` rows a kind and no
        patch twice. A patch counts when label or map hold at least 2 % glacier.
    """
    own = scores[scores["model"] == model]
    total = own[["tp", "fp", "fn", "tn"]].sum(axis=1)
    own = own[own[["tp", "fp", "fn"]].sum(axis=1) >= 0.02 * total]
    own = own.dropna(subset=["iou"]).sort_values("iou", ascending=False, kind="stable")
    each = min(each, max(1, len(own) // 3))
    middle = (len(own) - each) // 2
    parts = {
        "best": own.iloc[:each],
        "median": own.iloc[middle : middle + each],
        "worst": own.iloc[len(own) - each :],
    }
    picked = pd.concat([part.assign(which=which) for which, part in parts.items()])
    picked = picked.drop_duplicates("patch")  # of one or two patches
    return picked[["which", "patch", "iou"]].reset_index(drop=True)


def assemble(
    values: np.ndarray, store: PatchStore, positions: np.ndarray
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Put patches of one area and date back to where they were cut.

    Args:
        values: [n, row, col], in the order of ``positions``.
        positions: patches of one area and date; overlapping ones overwrite in order.

    Returns:
        The map [row, col], 255 (nan for floats) where no patch lies, and its bounds in m.
    """
    index = store.index.iloc[positions]
    if index[["area", "date"]].drop_duplicates().shape[0] != 1:
        raise ValueError("assemble takes the patches of one area and one date")
    size = values.shape[-1]
    top, left = index["row"].min(), index["col"].min()
    shape = (index["row"].max() - top + size, index["col"].max() - left + size)
    empty = np.nan if values.dtype.kind == "f" else 255
    canvas = np.full(shape, empty, dtype=values.dtype)
    for patch, row, col in zip(values, index["row"] - top, index["col"] - left, strict=True):
        canvas[row : row + size, col : col + size] = patch
    return canvas, tuple(index.total_bounds)


def cut(canvas: np.ndarray, store: PatchStore, positions: np.ndarray) -> np.ndarray:
    """Cut the map that `assemble` made back into patches [n, row, col], in the same order."""
    index = store.index.iloc[positions]
    size = store.images.shape[-1]
    corners = zip(index["row"] - index["row"].min(), index["col"] - index["col"].min(), strict=True)
    return np.stack([canvas[row : row + size, col : col + size] for row, col in corners])


def boundary_table(
    masks: Masks, store: PatchStore, positions: np.ndarray, *, names: Sequence[str]
) -> pd.DataFrame:
    """Measure how far mapped outlines lie from the references', area by area.

    Returns:
        model, area, reference, and the columns of `metrics.boundary_distance`.
    """
    resolution = pixel_area_km2(store) ** 0.5 * 1000
    areas = store.index["area"].to_numpy()[positions]
    rows = []
    for reference, truth in references(store, positions).items():
        for name in names:
            for area in dict.fromkeys(areas):
                here = areas == area
                mask, _ = assemble(masks[name][here], store, positions[here])
                target, _ = assemble(truth[here], store, positions[here])
                distances = metrics.boundary_distance(mask, target, resolution)
                rows.append({"model": name, "area": area, "reference": reference, **distances})
    return pd.DataFrame(rows)


def pixel_area_km2(store: PatchStore) -> float:
    """Return the area of a pixel of the first patch; nan where nobody told it (see `Grid`)."""
    size = store.images.shape[-1]
    xmin, ymin, xmax, ymax = store.index.geometry.iloc[0].bounds
    crs = store.index.crs and CRS.from_user_input(store.index.crs)
    transform = Affine((xmax - xmin) / size, 0, xmin, 0, (ymin - ymax) / size, ymax)
    return Grid(crs, transform, size, size).pixel_area_km2


def same_support(masks: Masks, store: PatchStore, positions: np.ndarray) -> bool:
    """Say whether every model was counted on the same number of pixels, per reference."""
    return all(
        len({metrics.count(mask, truth).total for mask in masks.values()}) == 1
        for truth in references(store, positions).values()
    )


def block_counts(
    mask: np.ndarray,
    reference: np.ndarray,
    store: PatchStore,
    positions: np.ndarray,
    side_m: float | None = None,
) -> pd.DataFrame:
    """Count hits and errors of every patch, and name the block of ground it lies in.

    Columns tp, fp, fn, tn, block, area, date; ``side_m`` as of `spatial_scores`.
    """
    counts = metrics.count_patches(mask, reference)
    index, size = store.index.iloc[positions], mask.shape[-1]
    resolution = pixel_area_km2(store) ** 0.5 * 1000
    side = (side_m or bootstrap.SIDE_M) / resolution
    if side_m is None or not np.isfinite(side):
        corners = index[["row", "col"]]
        side = np.nanmin([side, ((corners.max() - corners.min() + size) / 4).min()])
    counts["block"] = bootstrap.patch_blocks(index, size, side)
    for name in ("area", "date"):
        counts[name] = index[name].to_numpy()
    return counts


def first_area(store: PatchStore, positions: np.ndarray) -> np.ndarray:
    """Return which of the patches lie in the first of their areas, bool [n]."""
    areas = store.index["area"].to_numpy()[positions]
    return areas == areas[0]


def error_patches(
    mask: np.ndarray, store: PatchStore, positions: np.ndarray, patches: Sequence[int]
) -> list[np.ndarray]:
    """Return label and map of single patches for an error figure.

    Args:
        mask: uint8 [n, row, col] in the order of ``positions``.
        patches: the store's numbers of the patches wanted.

    Returns:
        (map, label) pairs, uint8 [row, col] each.
    """
    place = {int(number): i for i, number in enumerate(positions)}
    return [(mask[place[int(p)]], np.asarray(store.labels[int(p)])) for p in patches]


@dataclass(frozen=True)
class Judged:
    """One area at one date, put together from its patches.

    Attributes:
        grid: of all arrays, [row, col].
        maps, probabilities: model -> uint8 0 / 1 / 255, and float32.
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

    def counts(self, side_m: float) -> dict[str, dict[str, pd.DataFrame]]:
        """Return reference -> model -> hits and errors per block (`bootstrap.block_counts`)."""
        return {
            reference: {
                name: bootstrap.block_counts(mask, truth, self.grid, side_m=side_m)
                for name, mask in self.maps.items()
            }
            for reference, truth in self.references.items()
        }


def judge(
    data: Dataset,
    store: PatchStore,
    positions: np.ndarray,
    masks: Mapping[str, np.ndarray],
    probabilities: Mapping[str, np.ndarray],
) -> Judged:
    """Put the patches of the first area together.

    Args:
        data: what the store was made from.
        positions: patches of one date in the store.
        masks, probabilities: model -> [n, row, col] in the order of ``positions``.
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
    scl, ready = data.scene_classification(area, date), data.clouds(area, date)
    mask = None
    if scl is not None or ready is not None:
        found = cloud_mask(source, scl=scl, ready=ready)
        mask = found.read(*corner, *grid.shape)
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
            name: np.where(valid, whole(values[here]), np.nan).astype(np.float32)
            for name, values in probabilities.items()
        },
        references=known,
        image=image,
        glaciers=None if outlines is None else burn_glaciers(outlines, grid, date),
        clouds=mask,
        unfit=unfit(source, any_size=True),
    )


def block_size(judged: Judged) -> tuple[dict[str, pd.DataFrame], float, bootstrap.Side]:
    """Choose blocks larger than the reach of every model's errors against the labels.

    Returns:
        model -> correlogram, the longest correlation length in m, the side chosen.
    """
    resolution = judged.grid.resolution
    resolution = resolution if np.isfinite(resolution) else 1.0  # lengths are in pixels then
    curves = {
        name: bootstrap.correlogram(bootstrap.errors(mask, judged.references["labels"]), resolution)
        for name, mask in judged.maps.items()
    }
    lengths = [bootstrap.correlation_length(curve) for curve in curves.values()]
    known = [length for length in lengths if np.isfinite(length)]
    longest = max(known, default=float("nan"))
    extent = tuple(length * resolution for length in judged.grid.shape)
    return curves, longest, bootstrap.block_side(longest, extent)


def calibrate(
    temperatures: Mapping[str, float], judged: Judged
) -> tuple[pd.DataFrame, dict[str, dict[str, calibration.Histograms]]]:
    """Score each model's probabilities on the area, without and with its temperature.

    Args:
        temperatures: model -> temperature that was fitted on validation, which its probabilities
            have passed already.
        judged: the area to be scored.

    Returns:
        A row a model, reference and stage (``before``, ``after``): model, area, date, reference,
        stage, temperature and `calibration.calibration_scores`; and model -> stage -> histograms
        against the best reference.
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


def risks(
    judged: Judged, names: Sequence[str], thresholds: Mapping[str, float]
) -> dict[str, pd.DataFrame]:
    """Return model -> `calibration.risk_coverage` against the best reference known."""
    reference = list(judged.references.values())[-1]
    return {
        name: calibration.risk_coverage(
            *calibration.histogram(judged.probabilities[name], reference),
            threshold=thresholds[name],
        )
        for name in names
    }


@dataclass(frozen=True)
class LabelBias:
    """How far scores by labels lie from scores by truth: the table, in words, the labels' own."""

    table: pd.DataFrame
    sentences: tuple[str, ...]
    own: float


def measure_label_bias(
    judged: Judged, counts: Mapping[str, Mapping[str, pd.DataFrame]]
) -> LabelBias | None:
    """Set each model's score by labels beside its score by truth; None where none is known.

    Args:
        counts: of `Judged.counts`.
    """
    if "truth" not in counts:
        return None
    table = label_bias.labels_against_truth(counts["labels"], counts["truth"])
    labels = judged.references["labels"]
    side = bootstrap.block_counts(labels, judged.references["truth"], judged.grid)
    own = bootstrap.scores_with_interval(side)["iou"]
    _, _, survives = label_bias.ranking_survives(table, bootstrap.compare(counts["truth"]))
    return LabelBias(table, (label_bias.headline(table, own), survives), own)


def with_boundaries(spatial: pd.DataFrame, distances: pd.DataFrame) -> pd.DataFrame:
    """Add boundary_median_m and boundary_p95_m to spatial scores; nan for all but the first seed.

    Args:
        distances: of `comparison.boundary_table` for the models of the first seed.
    """
    keys = ["model", "area", "reference"]
    columns = {"median_m": "boundary_median_m", "p95_m": "boundary_p95_m"}
    added = distances.rename(columns=columns)[[*keys, *columns.values()]]
    table = spatial.merge(added, on=keys, how="left", validate="many_to_one")
    table.loc[table["seed"] != table["seed"].iloc[0], list(columns.values())] = np.nan
    return table
