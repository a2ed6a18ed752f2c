"""What a map gets wrong, by what the ground looks like: simple stated rules on the bands.

The rules are those of ``raster.indices``, tried in the order of ``COVERS``; the first that holds
names the cover. With the reference, the cover names the surface: ground that looks like rock is
debris where the reference holds ice. So a surface is only as right as the reference, and what an
old outline still calls glacier counts as debris-covered ice.

Errors are summed up by surface (``causes``), and the largest regions where map and label differ are
listed, each with a probable reason (``disagreements``). The reason follows from what a region looks
like and where it lies. It is a suspicion to look at, not a finding: without a thermal band, terrain
or a second year, debris cannot be told from rock that the ice has left, nor a glacier that nobody
drew from snow that stays.

Part of the error is the label's: labels are older than images, drawn from coarser ones, and leave
glaciers out. ``band_curve`` and ``labels_against_truth`` say how far that may reach; only where the
truth is known (the sample) do they say how far it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from glacier_utils.conventions import SMALLEST_GLACIER_KM2
from glacier_utils.evaluation import bootstrap
from glacier_utils.imagery.clouds import CLOUD
from glacier_utils.imagery.clouds import SHADOW as CLOUD_SHADOW
from glacier_utils.metrics import SCORES, outcomes, score_table
from glacier_utils.raster.grid import Image
from glacier_utils.raster.indices import ice_index, is_shadow, is_snow, is_water, visible
from glacier_utils.raster.mask import edge_distance

# Mean of red, green and blue above which rock is called bright: the median of sunlit rock among the
# points that `raster.indices` names, where its thresholds come from.
BRIGHT_VISIBLE = 0.15
COVERS = {
    1: "cloud",  # the cloud mask says so
    2: "water",  # nir < 0.075 and NDWI > 0.3
    3: "shadow",  # the cloud mask's shadow; or nir < 0.42 and blue / red > 1.2 or visible < 0.05
    4: "snow",  # nir > 0.475
    5: "ice-like",  # green > 0.16 and NDWI > 0.02
    6: "bright ground",  # visible > 0.15
    7: "dark ground",
}
NO_COVER, WATER = 0, 2
# The surface that a cover stands for, where the reference holds ice and where it holds none. Off
# glaciers, what looks like bare ice is old or patchy snow.
ON_ICE = {
    "snow": "snow-covered ice",
    "ice-like": "bare ice",
    "bright ground": "debris",
    "dark ground": "debris",
    "shadow": "shadowed ice",
    "water": "water",
    "cloud": "cloud",
}
OFF_ICE = {
    "snow": "seasonal snow",
    "ice-like": "seasonal snow",
    "water": "water",
    "bright ground": "bright rock",
    "dark ground": "other ground",
    "shadow": "shadowed ground",
    "cloud": "cloud",
}
KINDS = {"miss": 2, "false alarm": 1}  # codes of `metrics.outcomes`
# What a region is mostly made of; snow and ice are one cue, as snow lies on ice.
CUES = {
    "cloud": ("cloud",),
    "water": ("water",),
    "shadow": ("shadow",),
    "icy": ("snow", "ice-like"),
    "ground": ("bright ground", "dark ground"),
}
# A margin that has drawn back leaves a strip along the outline; a debris-covered tongue that a map
# misses is a body as wide as the tongue.
STRIP_M = 100.0
TOUCH = 0.1
NEAR_M = 100.0  # around a region, where water is looked for
_AROUND = np.ones((3, 3), bool)
# Widths of the ground along the reference's edge that a score leaves out.
BANDS_M = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0)


def cover(image: Image, clouds: np.ndarray | None = None) -> np.ndarray:
    """Return what each pixel looks like, uint8 codes of ``COVERS``, 0 where there is no image.

    Args:
        image: surface reflectance with red, green, blue and nir, ``[..., band, row, col]``: a scene
            or the patches of a store; ``valid`` of the shape without bands.
        clouds: of that shape: 0 clear, 1 cloud, 2 cloud shadow, 255 not assessed.

    Raises:
        GlacierError: a band is missing.
    """
    pixels, bands = image.reflectance, image.bands
    cloudy = shaded = np.zeros(image.valid.shape, bool)
    if clouds is not None:
        cloudy, shaded = clouds == CLOUD, clouds == CLOUD_SHADOW
    rules = [
        ~image.valid,
        cloudy,
        is_water(pixels, bands),
        is_shadow(pixels, bands) | shaded,
        is_snow(pixels, bands),
        ice_index(pixels, bands),
        visible(pixels, bands) > BRIGHT_VISIBLE,
    ]
    return np.select(rules, [NO_COVER, *COVERS][: len(rules)], len(COVERS)).astype(np.uint8)


def causes(
    mask: np.ndarray, reference: np.ndarray, image: Image, clouds: np.ndarray | None = None
) -> pd.DataFrame:
    """Split misses and false alarms by the surface on which they lie.

    Args:
        mask: [..., row, col] as in ``metrics.count``.
        reference: of the same shape.
        image: as in ``cover``.
        clouds: as in ``cover``.

    Returns:
        One row per kind (``miss``, ``false alarm``) and surface: kind, surface, pixels and km2 of
        the errors, share (their fraction of the kind's errors, nan where there is none), total_km2
        of the surface in the reference, and right, the fraction of it that is mapped rightly: the
        recall on ice (kind ``miss``), one minus the rate of false alarms off it; nan where there is
        none of it.
    """
    found, seen = outcomes(mask, reference), cover(image, clouds)
    pixel = image.grid.pixel_area_km2
    tables = []
    for (kind, wrong), names, right in zip(KINDS.items(), (ON_ICE, OFF_ICE), (0, 3), strict=True):
        wrongs, rights = (
            np.bincount(seen[found == code], minlength=len(COVERS) + 1)[1:]
            for code in (wrong, right)
        )
        table = pd.DataFrame({"pixels": wrongs, "total": wrongs + rights})
        table = table.groupby([names[cover] for cover in COVERS.values()]).sum()
        # In the order of the names.
        table = table.loc[list(dict.fromkeys(names.values()))].rename_axis("surface").reset_index()
        tables.append(table.assign(kind=kind, share=table["pixels"] / table["pixels"].sum()))
    table = pd.concat(tables, ignore_index=True)
    table["km2"], table["total_km2"] = table["pixels"] * pixel, table["total"] * pixel
    table["right"] = 1 - table["pixels"] / table["total"]
    return table[["kind", "surface", "pixels", "km2", "share", "total_km2", "right"]]


def disagreements(
    mask: np.ndarray,
    reference: np.ndarray,
    image: Image,
    clouds: np.ndarray | None = None,
    *,
    truth: np.ndarray | None = None,
) -> pd.DataFrame:
    """List the regions (8-neighbourhood) of misses and of false alarms, the largest first.

    Regions smaller than 0.01 km2 are left out where the size of a pixel is known.

    The cue of the largest part of a region gives its reason:

    - cloud, water, shadow: as they say;
    - ground, a miss: ``retreat`` where the region lies along the outline (at least a tenth of its
      rim beyond it) and is a strip (no pixel 100 m from its edge), else ``debris``;
    - ground, a false alarm: ``debris``, rock that the map took for covered ice;
    - icy, a miss: ``snow`` where snow prevails, else ``ice`` that is plain to see;
    - icy, a false alarm: ``floating ice`` (melange or sea ice, but a glacier or snow may lie at a
      shore too) where a tenth or more of the ground within 100 m is water, ``missing glacier``
      where the region touches no labelled ice, else ``snow``. Snow that outlasts the summer alone
      is called a missing glacier too.

    Args:
        mask: uint8 [row, col], 0 / 1 / 255.
        reference: of the same shape.
        image: as in ``cover``, on their grid.
        clouds: as in ``cover``.
        truth: uint8 [row, col], where it is known.

    Returns:
        kind (``miss``, ``false alarm``), km2, x, y (of the pixel farthest inside, in the CRS), row,
        col of it, reason, the fraction of each cue, touch (the fraction of its rim across the
        outline), shore (the fraction of water within 100 m of it), half_width_m, and with ``truth``
        also map_right: the fraction of it where the map, not the reference, agrees with the truth.
        ``.attrs["km2"]`` holds the area of all misses and false alarms, whatever the size of their
        regions.
    """
    found, seen = outcomes(mask, reference), cover(image, clouds)
    grid = image.grid
    near = max(1, round(NEAR_M / grid.resolution)) if np.isfinite(grid.resolution) else 1
    rows = []
    for kind, code in KINDS.items():
        regions, _ = ndimage.label(found == code, _AROUND)
        sizes = np.bincount(regions.ravel()) * grid.pixel_area_km2
        for number, window in enumerate(ndimage.find_objects(regions), start=1):
            if sizes[number] < SMALLEST_GLACIER_KM2:
                continue
            # More on each side, for the rim and the ground near it.
            window = tuple(slice(max(0, part.start - near), part.stop + near) for part in window)
            own = regions[window] == number
            row = {"kind": kind, "km2": sizes[number], **_cues(seen[window][own])}
            rim = ndimage.binary_dilation(own, _AROUND) & ~own & (reference[window] <= 1)
            across = reference[window] != reference[window][own][0]
            row["touch"] = float(across[rim].mean()) if rim.any() else 0.0
            around = ndimage.binary_dilation(own, _AROUND, near) & ~own & (seen[window] != NO_COVER)
            row["shore"] = float((seen[window][around] == WATER).mean()) if around.any() else 0.0
            depth = ndimage.distance_transform_edt(np.pad(own, 1))[1:-1, 1:-1]
            row["half_width_m"] = float(depth.max() * grid.resolution)
            place = np.unravel_index(depth.argmax(), depth.shape)
            row["row"], row["col"] = (
                int(p + part.start) for p, part in zip(place, window, strict=True)
            )
            row["x"], row["y"] = grid.transform @ (row["col"] + 0.5, row["row"] + 0.5)
            row["reason"] = _reason(row)
            if truth is not None:
                known = truth[window][own] <= 1
                right = (mask[window][own] == truth[window][own])[known]
                row["map_right"] = float(right.mean()) if known.any() else math.nan
            rows.append(row)
    names = ["kind", "km2", "x", "y", "row", "col", "reason", *CUES, "snow", "touch",
             "shore", "half_width_m"] + ["map_right"] * (truth is not None)  # fmt: skip
    table = pd.DataFrame(rows, columns=names)
    table = table.sort_values("km2", ascending=False, kind="stable", ignore_index=True)
    table.attrs["km2"] = float(np.isin(found, list(KINDS.values())).sum() * grid.pixel_area_km2)
    return table


def by_reason(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up disagreements by kind and reason.

    Args:
        table: of ``disagreements``.

    Returns:
        kind, reason, regions, km2, share (fraction of the kind's km2) and, where the truth is
        known, map_right: the fraction of the area in which the map is right and the label wrong.
    """
    groups = table.groupby(["kind", "reason"], sort=False)
    found = groups.agg(regions=("km2", "size"), km2=("km2", "sum"))
    found["share"] = found["km2"] / found.groupby("kind")["km2"].transform("sum")
    if "map_right" in table:
        right = table.assign(km2=table["map_right"] * table["km2"])
        found["map_right"] = right.groupby(["kind", "reason"])["km2"].sum() / found["km2"]
    return found.reset_index().sort_values(["kind", "km2"], ascending=False, ignore_index=True)


def band_curve(
    masks: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray], resolution_m: float
) -> pd.DataFrame:
    """Score maps without the ground nearer to the reference's edge than a band.

    The IoU rises with the band for any map, as pixels at an edge are mixed and small glaciers drop
    out: only what the curve against old labels rises more than that against the truth, or than one
    expects of a good label, is the label's.

    Args:
        masks: model -> uint8 [row, col].
        references: name -> uint8 [row, col], without a band of their own.
        resolution_m: side of a pixel in m.

    Returns:
        model, band_m (width on either side of the edge, of ``BANDS_M``), reference, iou, known (the
        fraction of pixels that is left).
    """
    rows = []
    for name, reference in references.items():
        distance = edge_distance(reference) * resolution_m
        for model, mask in masks.items():
            found = outcomes(mask, reference)
            known = found < 4
            for width in BANDS_M:
                left = known & (distance >= width)
                counts = np.bincount(found[left], minlength=4)[:4]
                rows.append(
                    {
                        "model": model,
                        "band_m": width,
                        "reference": name,
                        "iou": float(SCORES["iou"](*counts)),
                        "known": counts.sum() / known.sum() if known.any() else math.nan,
                    }
                )
    return pd.DataFrame(rows)


def labels_against_truth(
    by_labels: Mapping[str, pd.DataFrame], by_truth: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Compare each model's IoU against the labels with that against the truth.

    Args:
        by_labels: model -> tp, fp, fn, tn and ``block``.
        by_truth: the same against the truth, on the same blocks.

    Returns:
        One row per model: model, labels, truth (IoU), difference (truth - labels), low, high (95 %,
        paired on the blocks), verdict (``better`` against the truth, ``worse`` or ``not
        distinguishable``), rank_by_labels, rank_by_truth (1 the best, equal scores have the better
        rank together).

    Raises:
        ValueError: the blocks are not the same.
    """
    rows = []
    for model, labels in by_labels.items():
        both = {"labels": labels, "truth": by_truth[model]}
        scores = {name: score_table(counts)["iou"] for name, counts in both.items()}
        found = bootstrap.compare(both, [("truth", "labels")]).iloc[0]
        rows.append({"model": model, **scores, **found[["difference", "low", "high", "verdict"]]})
    table = pd.DataFrame(rows)
    for name in ("labels", "truth"):
        ranks = table[name].rank(ascending=False, method="min")
        table[f"rank_by_{name}"] = ranks.astype("Int64")
    return table


def _cues(covers: np.ndarray) -> dict[str, float]:
    """Return the fraction of each cue, and of snow, among the pixels of a region."""
    numbers = np.bincount(covers, minlength=len(COVERS) + 1) / len(covers)
    part = {name: float(numbers[code]) for code, name in COVERS.items()}
    cues = {cue: sum(part[name] for name in names) for cue, names in CUES.items()}
    return cues | {"snow": part["snow"]}


def _reason(row: dict[str, Any]) -> str:
    cue = max(CUES, key=lambda name: row[name])
    miss = row["kind"] == "miss"
    if cue == "ground":
        strip = row["touch"] >= TOUCH and row["half_width_m"] < STRIP_M
        return "retreat" if miss and strip else "debris"
    if cue == "icy":
        if miss:
            return "snow" if row["snow"] >= row["icy"] / 2 else "ice"
        if row["shore"] >= TOUCH:
            return "floating ice"
        return "snow" if row["touch"] > 0 else "missing glacier"
    return cue
