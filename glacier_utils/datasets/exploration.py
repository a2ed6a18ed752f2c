"""A first look at a dataset: thumbnails, pixels, labels that look wrong, ice that none covers.

Everything is read window by window, so that a whole Sentinel-2 tile costs no more memory than a
patch, but for what is returned and for `find_suspicious`, whose regions span the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio.features
import shapely
from rasterio.transform import Affine
from scipy import ndimage
from scipy.stats import wasserstein_distance
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from glacier_utils.conventions import DAYS_A_YEAR, UNKNOWN, image_day
from glacier_utils.conventions import SURFACES as SURFACES
from glacier_utils.datasets.dataset import Dataset
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.source import Source
from glacier_utils.raster import indices
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.mask import Mask

# The smallest glacier of the inventory of Greenland (Rastner et al. 2012, The Cryosphere 6, 1483).
MIN_AREA_KM2 = 0.05
_AROUND = np.ones((3, 3), bool)
_CLASSES = {0: "not glacier", 1: "glacier"}


def thumbnail(source: Source, *, longest: int = 1200) -> Image:
    """Return every n-th pixel of a scene, so that it can be looked at.

    Args:
        source: the scene.
        longest: pixels that the longer side may have; n is the smallest step that keeps to it.

    Returns:
        The image on a grid whose pixels are n times as large; n = 1 where the scene is small.

    Example:
        >>> from glacier_utils import datasets
        >>> data = datasets.open_dataset("sample")  # doctest: +SKIP
        >>> datasets.thumbnail(data.source("test", "2023-08"), longest=400)  # doctest: +SKIP
    """
    grid, step = source.grid, _step(source.grid, longest)
    parts = []
    for strip in _strips(grid, step):
        image = source.read(*strip)
        parts.append((image.reflectance[:, ::step, ::step].copy(), image.valid[::step, ::step]))
    reflectance = np.concatenate([part for part, _ in parts], axis=1)
    valid = np.concatenate([part for _, part in parts])
    small = Grid(grid.crs, grid.transform @ Affine.scale(step), *valid.shape)
    return Image(reflectance, valid, source.bands, small)


def thumbnail_mask(mask: Mask, *, longest: int = 1200) -> np.ndarray:
    """Return every n-th pixel of a mask, on the grid that `thumbnail` gives its image.

    Args:
        mask: for example from ``Dataset.labels``.
        longest: as in `thumbnail`.

    Returns:
        uint8 [row, col].
    """
    step = _step(mask.grid, longest)
    parts = [mask.read(*strip)[::step, ::step] for strip in _strips(mask.grid, step)]
    return np.concatenate(parts)


def _step(grid: Grid, longest: int) -> int:
    return -(-max(grid.height, grid.width) // longest)


def _strips(grid: Grid, step: int = 1, height: int = 1024) -> Iterator[tuple[int, int, int, int]]:
    """Yield windows (row, col, height, width) as wide as a frame, each a multiple of ``step``."""
    high = max(step, height // step * step)
    for row in range(0, grid.height, high):
        yield row, 0, min(high, grid.height - row), grid.width


def lattice(grid: Grid, size: int) -> list[tuple[int, int, int, int]]:
    """Return the windows (row, col, height, width) that cut a frame into squares.

    Args:
        grid: of the frame, which the last of a row or column do not leave.
        size: side of a square in pixels.
    """
    return [
        (row, col, min(size, grid.height - row), min(size, grid.width - col))
        for row in range(0, grid.height, size)
        for col in range(0, grid.width, size)
    ]


def _labelled_strips(dataset: Dataset, area: str, date: str) -> Iterator[tuple[Image, np.ndarray]]:
    """Yield images and labels of a whole area."""
    source, labels = dataset.source(area, date), dataset.labels(area, date)
    for strip in _strips(source.grid, height=512):
        yield source.read(*strip), labels.read(*strip)


def sample_pixels(
    dataset: Dataset,
    area: str,
    date: str,
    *,
    count: int = 20_000,
    window: int = 128,
    windows: int = 96,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw labelled pixels evenly over an area.

    Args:
        dataset: an opened dataset.
        area: name of the area.
        date: of the image.
        count: at most this many pixels, spread over the windows.
        window: side of a window in px.
        windows: at most this many windows, drawn without replacement from a lattice.
        seed: of the draw.

    Returns:
        One row per pixel: area, date, class (``glacier``, ``not glacier``), window, and the
        reflectance of each band. Unknown and invalid pixels are left out.

    Raises:
        GlacierError: no pixel has both image and label.
    """
    source, labels = dataset.source(area, date), dataset.labels(area, date)
    generator = np.random.default_rng(seed)
    places = source.tiles or lattice(source.grid, window)
    # Every window gives a pixel at least, so more windows than pixels would give too many.
    chosen = sorted(generator.permutation(len(places))[: min(windows, count)])
    each = max(1, count // len(chosen))
    parts = []
    for number in chosen:
        image, label = source.read(*places[number]), labels.read(*places[number])
        known = np.flatnonzero((label != UNKNOWN) & image.valid)
        picked = generator.permutation(known)[:each]
        values = image.reflectance.reshape(len(source.bands), -1)[:, picked]
        classes = pd.Series(label.ravel()[picked]).map(_CLASSES)
        drawn = dict(zip(source.bands, values, strict=True))
        parts.append(pd.DataFrame({"class": classes, "window": number, **drawn}))
    pixels = pd.concat(parts, ignore_index=True)
    if pixels.empty:
        raise GlacierError(
            f"dataset {dataset.name}, area {area}, {date}: no pixel has both image and label; "
            "see `glacier check`"
        )
    pixels.insert(0, "date", date)
    pixels.insert(0, "area", area)
    return pixels


def class_fractions(dataset: Dataset, area: str, date: str) -> dict[str, float]:
    """Return the fractions of glacier, not glacier and unknown over a whole area (they sum to 1).

    Pixels without image count as unknown.

    Args:
        dataset: an opened dataset.
        area: name of the area.
        date: of the image.
    """
    totals = np.zeros(3, dtype=np.int64)
    for image, label in _labelled_strips(dataset, area, date):
        label = np.where(image.valid, label, UNKNOWN)
        totals += [(label == code).sum() for code in (0, 1, UNKNOWN)]
    fractions = totals / totals.sum()
    return {"glacier": fractions[1], "not glacier": fractions[0], "unknown": fractions[2]}


def domain_shift(one: pd.DataFrame, other: pd.DataFrame, bands: Sequence[str]) -> pd.DataFrame:
    """Compare two groups of pixels band by band and class by class.

    Args:
        one: pixels from `sample_pixels`.
        other: likewise.
        bands: the columns to compare.

    Returns:
        One row per class and band: ``difference`` of the medians (other - one, reflectance),
        ``standardised`` (that difference over the pooled standard deviation, Cohen's d with
        medians), ``wasserstein`` (the mean reflectance by which one distribution would have to be
        moved to become the other).
    """
    rows = []
    for name in _CLASSES.values():
        a, b = one[one["class"] == name], other[other["class"] == name]
        if a.empty or b.empty:
            continue
        for band in bands:
            pooled = np.sqrt((a[band].var() + b[band].var()) / 2)
            difference = b[band].median() - a[band].median()
            standardised = difference / pooled if pooled > 0 else np.nan
            moved = wasserstein_distance(a[band], b[band])
            rows.append((name, band, difference, standardised, moved))
    columns = ["class", "band", "difference", "standardised", "wasserstein"]
    return pd.DataFrame(rows, columns=columns)


def separability(
    one: pd.DataFrame, other: pd.DataFrame, bands: Sequence[str], *, seed: int = 0
) -> pd.Series:
    """Return, per class, how well a classifier separates the two groups by their pixels alone.

    A random forest is cross-validated in five folds that keep the pixels of one window together,
    else it would know the window again. This is the domain classifier of Ben-David et al. (2010,
    Machine Learning 79, 151).

    Args:
        one: pixels from `sample_pixels`.
        other: likewise.
        bands: the columns that the classifier sees.
        seed: of forest and folds.

    Returns:
        Area under the ROC curve by class: 0.5 the groups look alike, 1.0 every pixel betrays its
        group; nan where a class is too rare.
    """
    result = {}
    for name in _CLASSES.values():
        a, b = one[one["class"] == name], other[other["class"] == name]
        if min(a["window"].nunique(), b["window"].nunique()) < 5:
            result[name] = np.nan
            continue
        together = pd.concat([a, b], ignore_index=True)
        group = np.r_[np.zeros(len(a), int), np.ones(len(b), int)]
        windows = together["window"].to_numpy() + group * 1_000_000
        forest = RandomForestClassifier(40, min_samples_leaf=20, random_state=seed, n_jobs=-1)
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        vote = cross_val_predict(
            forest, together[list(bands)], group, groups=windows, cv=folds, method="predict_proba"
        )
        result[name] = float(roc_auc_score(group, vote[:, 1]))
    return pd.Series(result, name="AUC")


def label_doubts(dataset: Dataset, area: str, date: str) -> dict[str, float]:
    """Count where a label and a simple ice rule disagree, over a whole area.

    The rule is `indices.ice_index`; it misses debris-covered ice and takes seasonal snow for ice,
    so a disagreement is a place to look at, not an error of the label.

    Args:
        dataset: an opened dataset.
        area: name of the area.
        date: of the image.

    Returns:
        ``glacier_km2`` labelled glacier; ``glacier_not_icy`` the fraction of it that does not look
        like ice; ``background_icy`` the fraction of the rest that does; ``icy_unlabelled_km2`` the
        area of the latter.
    """
    ice, total = _count_by_label(dataset, area, date, indices.ice_index)
    pixel = dataset.source(area, date).grid.pixel_area_km2
    return {
        "glacier_km2": total[1] * pixel,
        "glacier_not_icy": (total[1] - ice[1]) / total[1] if total[1] else np.nan,
        "background_icy": ice[0] / total[0] if total[0] else np.nan,
        "icy_unlabelled_km2": ice[0] * pixel,
    }


def snow_fractions(dataset: Dataset, area: str, date: str) -> dict[str, float]:
    """Return the fractions of sunlit snow inside and outside the labelled glaciers.

    The rule is `indices.is_snow`; pixels without image or label are left out.

    Args:
        dataset: an opened dataset.
        area: name of the area.
        date: of the image.
    """
    snow, total = _count_by_label(dataset, area, date, indices.is_snow)
    fraction = np.divide(snow, total, out=np.full(2, np.nan), where=total > 0)
    return {"snow outside": fraction[0], "snow inside": fraction[1]}


def _count_by_label(
    dataset: Dataset, area: str, date: str, rule: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Count pixels that a rule holds for, and all: int64 [2], background and glacier."""
    hits, total = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for image, label in _labelled_strips(dataset, area, date):
        found = rule(image.reflectance, image.bands)
        for code in (0, 1):
            known = (label == code) & image.valid
            total[code] += known.sum()
            hits[code] += (known & found).sum()
    return hits, total


def tile_boxes(source: Source, *, size: int = 128) -> gpd.GeoDataFrame:
    """Return where the patches of a source lie: its own files, or the lattice it would be cut in.

    Args:
        source: the image.
        size: side of a patch of the lattice in pixels.

    Returns:
        One row per patch: row, col (pixels of the frame) and its box in the source's CRS.
    """
    grid = source.grid
    places = source.tiles or lattice(grid, size)
    return gpd.GeoDataFrame(
        {"row": [place[0] for place in places], "col": [place[1] for place in places]},
        geometry=[grid.window(*place).box for place in places],
        crs=grid.crs,
    )


def label_age(dataset: Dataset, area: str, date: str) -> dict[str, object]:
    """Say how old the outlines of an area are.

    Args:
        dataset: an opened dataset.
        area: name of the area.
        date: of the image.

    Returns:
        area, glaciers (number), ``several_analyses`` (glaciers digitised more than once),
        ``youngest_years`` and ``oldest_years`` between outline and image (nan where unknown).
    """
    result: dict[str, Any] = {"area": area, "glaciers": 0, "several_analyses": 0,
              "youngest_years": np.nan, "oldest_years": np.nan}  # fmt: skip
    everything = dataset.outlines(area)
    if everything is None or everything.empty:
        return result
    everything = everything[everything["kind"] == "glacier"]
    chosen: Any = dataset.outlines(area, date)
    chosen = chosen[chosen["kind"] == "glacier"]
    years = (image_day(date) - chosen["source_date"]).dt.days / DAYS_A_YEAR
    analyses = everything.groupby("glacier_id")["analysis_id"].nunique()
    return result | {
        "glaciers": int(chosen["glacier_id"].nunique()),
        "several_analyses": int((analyses > 1).sum()),
        "youngest_years": float(years.min()),
        "oldest_years": float(years.max()),
    }


def repeated_analyses(outlines: gpd.GeoDataFrame, chosen: gpd.GeoDataFrame) -> pd.DataFrame:
    """List glaciers that were digitised more than once, and say which analysis was chosen.

    Args:
        outlines: all analyses.
        chosen: one for each glacier, from `inventory.select_analyses`.

    Returns:
        One row per analysis: glacier_id, name, analysis_id, source_date, area_km2, chosen.
    """
    glaciers = outlines[outlines["kind"] == "glacier"]
    several = glaciers.groupby("glacier_id")["analysis_id"].transform("nunique") > 1
    columns = ["glacier_id", "name", "analysis_id", "source_date", "area_km2"]
    # An analysis may hold a glacier in several polygons; its rock is in none of the areas.
    table = (
        pd.DataFrame(glaciers.loc[several, columns])
        .groupby(["glacier_id", "analysis_id"], as_index=False)
        .agg({"name": "first", "source_date": "max", "area_km2": "sum"})[columns]
    )
    keys = ["glacier_id", "analysis_id"]
    table["chosen"] = pd.MultiIndex.from_frame(table[keys]).isin(
        pd.MultiIndex.from_frame(chosen[keys])
    )
    table["area_km2"] = table["area_km2"].round(2)
    return table.sort_values(["glacier_id", "source_date"]).reset_index(drop=True)


def doubtful_windows(
    dataset: Dataset, area: str, date: str, *, count: int = 4, size: int = 128
) -> list[tuple[Image, np.ndarray, str]]:
    """Find the windows in which label and ice rule disagree most, of both kinds.

    Args:
        dataset: an opened dataset.
        area: name of the area.
        date: of the image.
        count: how many of each kind.
        size: side of a window in pixels.

    Returns:
        (image, label, title): first ``count`` windows by labelled glacier that does not look like
        ice, then ``count`` by ice-like ground outside every label.
    """
    source, labels = dataset.source(area, date), dataset.labels(area, date)
    found = []
    for row, col, *_ in lattice(source.grid, size):
        image, label = source.read(row, col, size, size), labels.read(row, col, size, size)
        looks = indices.ice_index(image.reflectance, source.bands)
        dark = ((label == 1) & image.valid & ~looks).mean()
        bright = ((label == 0) & image.valid & looks).mean()
        found.append((row, col, dark, bright))
    result = []
    for column, text in ((2, "labelled, not icy"), (3, "icy, not labelled")):
        for place in sorted(found, key=lambda item: (-item[column], item))[:count]:
            window = (*place[:2], size, size)
            title = f"{text}: {100 * place[column]:.0f} %"
            result.append((source.read(*window), labels.read(*window), title))
    return result


def find_suspicious(
    source: Source, mask: Mask, *, min_area_km2: float = MIN_AREA_KM2
) -> gpd.GeoDataFrame:
    """Find ice-like regions on the frame's edge that no outline covers, to be looked at.

    Bright ice-like ground (``indices.ice_index``) that runs on beyond the frame is where an ice
    sheet, or the rest of an icefield, lies that an inventory of local glaciers leaves out. It is a
    suspicion: seasonal snow and bright cloud look alike, and ice under debris is missed.
    ``mask.IceOutsideMask`` makes what a person confirms unknown.

    The image is read in strips; of the whole scene what is ice-like, what borders on a pixel
    without data and the number of each region are held, six bytes per pixel. Pixels belong to one
    region if they touch, also at a corner; a region lies on the edge if it touches the frame's, or
    a pixel without data.

    Args:
        source: the image, with the bands red, green, blue and nir.
        mask: its label; only pixels of 0 are looked at, unknown ones (255) are not.
        min_area_km2: smaller regions are left out; without effect where the size of a pixel is not
            known.

    Returns:
        One row per region, largest first: area_km2 (of its pixels), geometry in the CRS of the
        image. ``.attrs["report"]`` is a list of one line, empty if there are none.
    """
    grid = source.grid
    ice, border = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
    for row, col, height, width in _strips(grid):
        # With a margin of one pixel, which shows what is valid beyond the strip.
        image = source.read(row - 1, col - 1, height + 2, width + 2)
        label = np.pad(mask.read(row, col, height, width), 1)
        rows = slice(row, row + height)
        looks = indices.ice_index(image.reflectance, image.bands)
        ice[rows] = (image.valid & (label == 0) & looks)[1:-1, 1:-1]
        border[rows] = ndimage.binary_dilation(~image.valid, _AROUND)[1:-1, 1:-1]
    regions, count = ndimage.label(ice, _AROUND)
    size = np.bincount(regions.ravel(), minlength=count + 1) * grid.pixel_area_km2
    keep = np.zeros(count + 1, bool)
    keep[regions[border]] = True
    keep[0] = False
    keep &= ~(size < min_area_km2)
    kept = np.flatnonzero(keep)
    parts: dict[int, list[shapely.Geometry]] = {number: [] for number in kept.tolist()}
    for polygon, number in rasterio.features.shapes(regions, keep[regions], 4, grid.transform):
        parts[int(number)].append(shapely.geometry.shape(polygon))
    shapes = [shapely.MultiPolygon(part) for part in parts.values()]
    result = gpd.GeoDataFrame({"area_km2": size[kept]}, geometry=shapes, crs=grid.crs)
    result = result.sort_values("area_km2", ascending=False, kind="stable", ignore_index=True)
    result.attrs["report"] = [
        f"ice-like, outside every outline and on the edge of the image: "
        f"{result.area_km2.sum():.3g} km2 in {len(result)} regions"
    ] if len(result) else []  # fmt: skip
    return result
