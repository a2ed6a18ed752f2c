"""An area as one map: what notebook 04 judges beyond patches, from all rooms that judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from glacier_utils import bias, blocks, calibration, clouds, evaluation, intervals
from glacier_utils.datasets import Dataset
from glacier_utils.glaciers import Glaciers, burn_glaciers
from glacier_utils.grids import Grid, Image
from glacier_utils.masks import UNKNOWN
from glacier_utils.store import PatchStore


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
        """Return reference -> model -> hits and errors per block (`blocks.block_counts`)."""
        return {
            reference: {
                name: blocks.block_counts(mask, truth, self.grid, side_m=side_m)
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
    here = evaluation.first_area(store, positions)
    own = positions[here]
    index = store.index.iloc[own]
    area, date = index["area"].iloc[0], index["date"].iloc[0]

    def whole(values: np.ndarray) -> np.ndarray:
        return evaluation.assemble(values, store, own)[0]

    references = {name: whole(values) for name, values in evaluation.references(store, own).items()}
    source = data.source(area, date)
    corner = int(index["row"].min()), int(index["col"].min())
    grid = source.grid.window(*corner, *references["labels"].shape)
    images = np.asarray(store.images[own])
    valid = whole(store.valid(own).astype(np.uint8)) == 1
    reflectance = np.stack([whole(images[:, band]) for band in range(images.shape[1])])
    image = Image(np.where(valid, reflectance, 0), valid, store.bands, grid)
    outlines = None if grid.crs is None else data.outlines(area, date)
    scl, ready = data.scene_classification(area, date), data.clouds(area, date)
    mask = None
    if scl is not None or ready is not None:
        found = clouds.cloud_mask(source, scl=scl, ready=ready)
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
        references=references,
        image=image,
        glaciers=None if outlines is None else burn_glaciers(outlines, grid, date),
        clouds=mask,
        unfit=clouds.unfit(source, any_size=True),
    )


def block_size(judged: Judged) -> tuple[dict[str, pd.DataFrame], float, blocks.Side]:
    """Choose blocks larger than the reach of every model's errors against the labels.

    Returns:
        model -> correlogram, the longest correlation length in m, the side chosen.
    """
    resolution = judged.grid.resolution
    resolution = resolution if np.isfinite(resolution) else 1.0  # lengths are in pixels then
    curves = {
        name: blocks.correlogram(blocks.errors(mask, judged.references["labels"]), resolution)
        for name, mask in judged.maps.items()
    }
    lengths = [blocks.correlation_length(curve) for curve in curves.values()]
    known = [length for length in lengths if np.isfinite(length)]
    longest = max(known, default=float("nan"))
    extent = tuple(length * resolution for length in judged.grid.shape)
    return curves, longest, blocks.block_side(longest, extent)


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


def label_bias(
    judged: Judged, counts: Mapping[str, Mapping[str, pd.DataFrame]]
) -> LabelBias | None:
    """Set each model's score by labels beside its score by truth; None where none is known.

    Args:
        counts: of `Judged.counts`.
    """
    if "truth" not in counts:
        return None
    table = bias.labels_against_truth(counts["labels"], counts["truth"])
    labels = judged.references["labels"]
    side = blocks.block_counts(labels, judged.references["truth"], judged.grid)
    own = intervals.scores_with_interval(side)["iou"]
    _, _, survives = bias.ranking_survives(table, intervals.compare(counts["truth"]))
    return LabelBias(table, (bias.headline(table, own), survives), own)


def with_boundaries(spatial: pd.DataFrame, distances: pd.DataFrame) -> pd.DataFrame:
    """Add boundary_median_m and boundary_p95_m to spatial scores; nan for all but the first seed.

    Args:
        distances: of `evaluation.boundary_table` for the models of the first seed.
    """
    keys = ["model", "area", "reference"]
    columns = {"median_m": "boundary_median_m", "p95_m": "boundary_p95_m"}
    added = distances.rename(columns=columns)[[*keys, *columns.values()]]
    table = spatial.merge(added, on=keys, how="left", validate="many_to_one")
    table.loc[table["seed"] != table["seed"].iloc[0], list(columns.values())] = np.nan
    return table
