"""A map judged glacier by glacier: areas and their errors, IoU, outlines, classes of size.

Which glacier a pixel belongs to is the inventory's to say (``burn_glaciers``); ice that it does not
list is numbered by its connected regions (``partition``). Areas are in km2, lengths in m unless
their names say otherwise; maps are 0 / 1 / 255 (unknown) ``[row, col]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio.features
from scipy import ndimage

from glacier_utils.conventions import (
    DAYS_A_YEAR,
    NONE,
    SMALLEST_GLACIER_KM2,
    UNKNOWN,
    UNLISTED,
    image_day,
)
from glacier_utils.errors import GlacierError
from glacier_utils.metrics import COUNTS, SCORES, mapped_area, outcomes, rim_distances
from glacier_utils.outlines.inventory import without_rock
from glacier_utils.outlines.reading import in_crs
from glacier_utils.raster.grid import Grid

REACH_M = 300.0  # ten pixels of the Landsat images that most outlines were drawn on
SIZES = {"< 0.1": 0.0, "0.1 to 1": 0.1, "1 to 5": 1.0, "> 5": 5.0}  # km2, the least of each class
_AROUND = np.ones((3, 3), bool)
_BESIDE = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])


@dataclass(frozen=True)
class Glaciers:
    """The glaciers of an inventory on a grid.

    Attributes:
        numbers: int32 [row, col], 0 for none.
        table: by number: glacier_id, name, uncertainty_m (of the outline, nan not stated),
            age_years (from the outline's source date to the image, nan unknown), listed (in the
            inventory).
    """

    numbers: np.ndarray
    table: pd.DataFrame


@dataclass(frozen=True)
class Partition:
    """Ground divided among glaciers, by ``partition``.

    Attributes:
        zones: int32 [row, col], the number of the glacier that a pixel is judged with, 0 for none.
        table: that of ``Glaciers`` with perimeter_km of the reference's ice (towards ground that is
            known to be none) and cut (it reaches the frame or unknown ground).
    """

    zones: np.ndarray
    table: pd.DataFrame


def burn_glaciers(outlines: gpd.GeoDataFrame, grid: Grid, date: str | None = None) -> Glaciers:
    """Number the glaciers of an inventory on a grid: one glacier per pixel, by its centre.

    The pixels are those of the label (``rasterization.rasterize``): on a glacier and not on its
    rock. Where outlines overlap, the newer one has the pixel, of equal dates the larger. Glaciers
    that hold no pixel's centre are left out.

    Args:
        outlines: table of ``read_outlines``, one analysis per glacier (``select_analyses``).
        grid: where to.
        date: of the image, for the ages.

    Raises:
        GlacierError: the grid or the outlines have no CRS.
    """
    if grid.crs is None or outlines.crs is None:
        raise GlacierError(
            "glaciers: image or outlines have no CRS, so glaciers cannot be told apart; "
            "georeference both"
        )
    xmin, _, xmax, _ = grid.bounds
    outlines = in_crs(outlines, grid.crs, (xmin + xmax) / 2)
    ice = outlines.loc[outlines["kind"] == "glacier"].assign(_shape=without_rock(outlines))
    names = ice["glacier_id"].astype(str)
    first = ice.groupby(names, sort=True).first()
    numbered = dict(zip(first.index, range(1, len(first) + 1), strict=True))
    order = ice.assign(_size=ice["_shape"].area).sort_values(
        ["source_date", "_size"], na_position="first", kind="stable"
    )  # what is burnt last has the pixel
    pairs = [
        (shape, numbered[name])
        for shape, name in zip(order["_shape"], names.loc[order.index], strict=True)
        if not shape.is_empty
    ]
    numbers = np.zeros(grid.shape, np.int32)
    if pairs:
        rasterio.features.rasterize(pairs, out=numbers, transform=grid.transform)
    day = pd.NaT if date is None else image_day(date)
    table = pd.DataFrame(
        {
            "glacier_id": first.index,
            "name": first["name"].to_numpy(),
            "uncertainty_m": first["uncertainty_m"].to_numpy(float),
            "age_years": (day - first["source_date"]).dt.days.to_numpy(float) / DAYS_A_YEAR,
            "listed": True,
        },
        index=pd.Index(list(numbered.values()), name="number", dtype=int),
    )
    return Glaciers(numbers, table.loc[np.isin(table.index, numbers)])


def partition(reference: np.ndarray, grid: Grid, glaciers: Glaciers | None = None) -> Partition:
    """Divide the ground among the glaciers of a reference.

    Ice of the reference inside an outline belongs to that glacier. Ice outside, in a region
    (8-neighbourhood) of which a part lies inside an outline, belongs to the nearest of the
    outlines; a region wholly outside is a glacier of its own, ``unlisted-1`` the largest, unless
    it is smaller than 0.01 km2. All other ground belongs to the nearest glacier within 300 m of its
    ice (whatever the distance where the size of a pixel is not known), else to none, so that mapped
    ice far from any glacier burdens none of them.

    Args:
        reference: uint8 [row, col] 0 / 1 / 255, labels or truth.
        grid: of the reference.
        glaciers: of ``burn_glaciers`` on the same grid; None where there is no inventory.
    """
    ice = reference == 1
    numbers = np.where(ice, glaciers.numbers, 0) if glaciers else np.zeros(ice.shape, np.int32)
    table = glaciers.table if glaciers else _unlisted([])
    numbers, count = _number_regions(ice, numbers, table, grid.pixel_area_km2)
    last = int(table.index.max()) if len(table) else 0
    table = pd.concat([table, _unlisted(range(last + 1, last + 1 + count))])
    zones = numbers
    if numbers.any():
        near, pixels = _nearest(numbers)
        reach = REACH_M / grid.resolution if math.isfinite(grid.resolution) else math.inf
        zones = np.where((pixels <= reach) & (reference != UNKNOWN), near, 0).astype(np.int32)
    length = int(table.index.max()) + 1 if len(table) else 1
    perimeter = _perimeter_pixels(numbers, reference == 0, length) * grid.resolution / 1000
    # On the frame's edge or beside unknown pixels.
    rim = ndimage.binary_dilation(reference == UNKNOWN, border_value=1)
    cut = np.isin(table.index, numbers[rim])
    return Partition(zones, table.assign(perimeter_km=perimeter[table.index], cut=cut))


def glacier_scores(
    mask: np.ndarray, reference: np.ndarray, parts: Partition, grid: Grid
) -> pd.DataFrame:
    """Judge a map glacier by glacier.

    Args:
        mask: [row, col] as in ``metrics.count``; pixels unknown in it or the reference are left
            out of all.
        reference: of the same shape.
        parts: of ``partition`` for this reference.
        grid: of both; areas and distances are nan where it does not tell the size of a pixel.

    Returns:
        One row per glacier and a last one, ``none``, of ground far from any; the predicted areas
        add up to that of the map. Columns: glacier_id; area_km2 of the reference; predicted_km2
        with low and high, the outline moved by one pixel (``metrics.mapped_area``), not across the
        line where the zone of another glacier begins (the reach of the outline's place alone, no
        confidence interval: it held the true area of 2 to 10 of the sample's 26 listed glaciers, by
        model, since most error is snow and debris); iou; boundary_median_m, of both rims inside the
        zone the distances to the nearest rim of the other map, whosever it is; error_km2 and
        error_percent of the predicted area; label_uncertainty_km2, that of the inventory's outline
        by the same method: perimeter times its own uncertainty, one pixel where it states none, nan
        for ice that is not listed; perimeter_km, cut, listed, age_years, name; tp, fp, fn, tn.
    """
    found, zones = outcomes(mask, reference), parts.zones
    rest = _unlisted([0]).assign(glacier_id=NONE, perimeter_km=math.nan, cut=False)
    table = pd.concat([parts.table, rest])
    numbers = table.index
    length = int(numbers.max()) + 1
    counts = np.stack([np.bincount(zones[found == code], minlength=length) for code in range(4)])
    frame = pd.DataFrame(counts.T[numbers], columns=COUNTS, index=numbers)
    frame = frame.join(table)
    pixel = grid.pixel_area_km2
    frame["area_km2"] = (frame["tp"] + frame["fn"]) * pixel
    frame["predicted_km2"] = (frame["tp"] + frame["fp"]) * pixel
    reach = _buffers(found, zones, numbers, grid)
    frame["low"] = (frame["predicted_km2"] - reach).clip(lower=0)
    frame["high"] = frame["predicted_km2"] + reach
    frame["iou"] = SCORES["iou"](*(frame[name].to_numpy() for name in COUNTS))
    distances = _rim_medians(mask, reference, zones, grid.resolution)
    frame["boundary_median_m"] = distances.reindex(frame.index)
    frame["error_km2"] = frame["predicted_km2"] - frame["area_km2"]
    frame["error_percent"] = (
        100 * frame["error_km2"] / frame["area_km2"].where(frame["tp"] + frame["fn"] > 0)
    )
    own = frame["uncertainty_m"].fillna(grid.resolution) / 1000 * frame["perimeter_km"]
    frame["label_uncertainty_km2"] = own.where(frame["listed"])
    columns = [
        "glacier_id", "area_km2", "predicted_km2", "low", "high", "iou", "boundary_median_m",
        "error_km2", "error_percent", "label_uncertainty_km2", "perimeter_km", "cut", "listed",
        "age_years", "name", *COUNTS,
    ]  # fmt: skip
    return frame[columns].reset_index(drop=True)


def scores_per_glacier(
    masks: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray],
    grid: Grid,
    glaciers: Glaciers | None = None,
) -> pd.DataFrame:
    """Judge several maps against several references, glacier by glacier.

    Args:
        masks: model -> uint8 [row, col] 0 / 1 / 255.
        references: name -> the same.
        grid: of all.
        glaciers: of ``burn_glaciers``; None where there is no inventory.

    Returns:
        The tables of ``glacier_scores`` with model, reference and, as the last column, size_class.
    """
    tables = []
    for name, reference in references.items():
        parts = partition(reference, grid, glaciers)
        for model, mask in masks.items():
            scores = glacier_scores(mask, reference, parts, grid)
            scores.insert(0, "model", model)
            scores.insert(2, "reference", name)
            tables.append(scores)
    table = pd.concat(tables, ignore_index=True)
    return table.assign(size_class=size_class(table["area_km2"]))


def size_class(area_km2: pd.Series) -> pd.Series:
    """Return the class of each area, names of ``SIZES``; missing where the area is zero or nan.

    A class holds its lower limit: 1.0 km2 is of the class 1 to 5.
    """
    bins = [*SIZES.values(), math.inf]
    return pd.cut(area_km2.where(area_km2 > 0), bins, right=False, labels=list(SIZES))


def _unlisted(numbers: Sequence[int]) -> pd.DataFrame:
    """Return rows of the table for ice that no outline lists."""
    count = len(numbers)
    return pd.DataFrame(
        {
            "glacier_id": [f"{UNLISTED}-{place}" for place in range(1, count + 1)],
            "name": "",
            "uncertainty_m": np.full(count, np.nan),
            "age_years": np.full(count, np.nan),
            "listed": np.zeros(count, bool),
        },
        index=pd.Index(list(numbers), name="number", dtype=int),
    )


def _number_regions(
    ice: np.ndarray, numbers: np.ndarray, table: pd.DataFrame, pixel_area_km2: float
) -> tuple[np.ndarray, int]:
    """Number the ice outside the outlines; return all numbers, and how many glaciers are new."""
    regions, count = ndimage.label(ice, _AROUND)
    owned = np.zeros(count + 1, bool)
    owned[regions[numbers > 0]] = True
    loose = owned[regions] & (numbers == 0)
    if loose.any():
        numbers = np.where(loose, _nearest(numbers)[0], numbers)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    owned[0] = True  # the ground
    alone = np.flatnonzero(~owned & ~(sizes * pixel_area_km2 < SMALLEST_GLACIER_KM2))
    alone = alone[np.argsort(-sizes[alone], kind="stable")]
    new = np.zeros(count + 1, np.int32)
    new[alone] = (int(table.index.max()) if len(table) else 0) + 1 + np.arange(len(alone))
    return np.maximum(numbers, new[regions]).astype(np.int32), len(alone)


def _nearest(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number nearest to each pixel, and its distance in pixels; one number is needed."""
    distance, place = ndimage.distance_transform_edt(numbers == 0, return_indices=True)
    return numbers[tuple(place)], distance


def _perimeter_pixels(numbers: np.ndarray, ground: np.ndarray, length: int) -> np.ndarray:
    """Return the length of each glacier's edge on known ground, in pixels [number].

    The sides that its pixels share with ground, times pi / 4: a line in any direction crosses
    4 / pi of its length in rows and columns on average (Cauchy and Crofton), so that stairs count
    as the line they stand for. Exact for a disc; a square along the pixels comes out short.
    """
    sides = ndimage.convolve(ground.astype(np.uint8), _BESIDE, mode="constant")
    return np.bincount(numbers.ravel(), sides.ravel(), length) * math.pi / 4


def _buffers(
    found: np.ndarray, zones: np.ndarray, numbers: Sequence[int], grid: Grid
) -> list[float]:
    """Return the uncertainty in km2 of the mapped area in each zone, by ``mapped_area``."""
    mapped = np.where(found < 4, (found < 2).astype(np.float32), np.float32(np.nan))
    windows = ndimage.find_objects(zones + 1, max(numbers) + 1)
    reaches = []
    for number in numbers:
        window = windows[number]
        if window is None:
            reaches.append(0.0)
            continue
        own = np.where(zones[window] == number, mapped[window], np.float32(np.nan))
        reaches.append(mapped_area(own, grid.pixel_area_km2)["uncertainty_km2"])
    return reaches


def _rim_medians(
    mask: np.ndarray, reference: np.ndarray, zones: np.ndarray, resolution_m: float
) -> pd.Series:
    """Return the median distance of the rims in each zone, nan where a map has none at all."""
    both = rim_distances(mask, reference, resolution_m)
    rims = [~np.isnan(distance) for distance in both]
    distances = np.concatenate([distance[rim] for distance, rim in zip(both, rims, strict=True)])
    where = np.concatenate([zones[rim] for rim in rims])
    return pd.Series(distances).groupby(where).median().replace(math.inf, math.nan)
