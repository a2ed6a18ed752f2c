"""A first look at a dataset: thumbnails, sampled pixels, the shift between two groups of them.

Everything reads windows, so that a whole Sentinel-2 tile costs no more memory than a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
from rasterio.transform import Affine
from scipy.stats import wasserstein_distance
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from glacier_utils import quality
from glacier_utils.datasets import Dataset
from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid, Image
from glacier_utils.outlines import image_day

CLASS_NAMES = {0: "not glacier", 1: "glacier"}


def thumbnail(source, *, longest: int = 1200) -> Image:
    """Return every n-th pixel of a scene, so that it can be looked at.

    Args:
        source: an `imagery.Source`.
        longest: pixels that the longer side may have; n is the smallest step that keeps to it.

    Returns:
        The image on a grid whose pixels are n times as large; n = 1 where the scene is small.
    """
    grid = source.grid
    step = -(-max(grid.height, grid.width) // longest)
    rows = []
    strip = max(step, 1024 // step * step)
    for row in range(0, grid.height, strip):
        image = source.read(row, 0, min(strip, grid.height - row), grid.width)
        rows.append((image.reflectance[:, ::step, ::step], image.valid[::step, ::step]))
    reflectance = np.concatenate([part for part, _ in rows], axis=1)
    valid = np.concatenate([part for _, part in rows], axis=0)
    small = Grid(grid.crs, grid.transform @ Affine.scale(step), *valid.shape)
    return Image(reflectance, valid, source.bands, small)


def thumbnail_mask(mask, *, longest: int = 1200) -> np.ndarray:
    """Return every n-th pixel of a mask, on the grid that `thumbnail` gives its image.

    Args:
        mask: a `rasters.Mask`, for example from ``Dataset.labels``.

    Returns:
        uint8 [row, col].
    """
    grid = mask.grid
    step = -(-max(grid.height, grid.width) // longest)
    strip = max(step, 1024 // step * step)
    parts = [
        mask.read(row, 0, min(strip, grid.height - row), grid.width)[::step, ::step]
        for row in range(0, grid.height, strip)
    ]
    return np.concatenate(parts, axis=0)


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
        count: at most this many pixels, spread over the windows.
        window: side of a window in px.
        windows: at most this many windows, drawn without replacement from a lattice.
        seed: of the draw.

    Returns:
        A row a pixel: area, date, class (``glacier``, ``not glacier``), window, and the reflectance
        of each band. Unknown and invalid pixels are left out.
    """
    source, labels = dataset.source(area, date), dataset.labels(area, date)
    generator = np.random.default_rng(seed)
    places = source.tiles or [
        (row, col, window, window)
        for row in range(0, source.grid.height, window)
        for col in range(0, source.grid.width, window)
    ]
    # Every window gives a pixel at least, so more windows than pixels would give too many.
    chosen = sorted(generator.permutation(len(places))[: min(windows, count)])
    share = max(1, count // len(chosen))
    parts = []
    for number in chosen:
        image, label = source.read(*places[number]), labels.read(*places[number])
        known = np.flatnonzero((label != 255) & image.valid)
        picked = generator.permutation(known)[:share]
        values = image.reflectance.reshape(len(source.bands), -1)[:, picked]
        part = pd.DataFrame(values.T, columns=list(source.bands))
        part.insert(0, "window", number)
        part.insert(0, "class", pd.Series(label.ravel()[picked]).map(CLASS_NAMES))
        parts.append(part)
    pixels = pd.concat(parts, ignore_index=True)
    if pixels.empty:
        raise GlacierError(
            f"dataset {dataset.name}, area {area}, {date}: no pixel has both image and label; "
            "see `glacier check`"
        )
    pixels.insert(0, "date", date)
    pixels.insert(0, "area", area)
    return pixels


def class_shares(dataset: Dataset, area: str, date: str) -> dict[str, float]:
    """Return the shares of glacier, not glacier and unknown over a whole area (they add up to 1).

    Pixels without image count as unknown.
    """
    source, labels = dataset.source(area, date), dataset.labels(area, date)
    totals = np.zeros(3, dtype=np.int64)
    for row in range(0, source.grid.height, 512):
        height = min(512, source.grid.height - row)
        image = source.read(row, 0, height, source.grid.width)
        label = labels.read(row, 0, height, source.grid.width)
        label = np.where(image.valid, label, 255)
        totals += [(label == 0).sum(), (label == 1).sum(), (label == 255).sum()]
    shares = totals / totals.sum()
    return {"glacier": shares[1], "not glacier": shares[0], "unknown": shares[2]}


def domain_shift(one: pd.DataFrame, other: pd.DataFrame, bands) -> pd.DataFrame:
    """Compare two groups of pixels band by band and class by class.

    Args:
        one, other: from `sample_pixels`.
        bands: the columns to compare.

    Returns:
        A row per class and band: ``difference`` of the medians (other - one, reflectance),
        ``standardised`` (that difference over the pooled standard deviation, Cohen's d with
        medians), ``wasserstein`` (the mean reflectance by which one distribution would have to be
        moved to become the other).
    """
    rows = []
    for name in CLASS_NAMES.values():
        a, b = one[one["class"] == name], other[other["class"] == name]
        if a.empty or b.empty:
            continue
        for band in bands:
            pooled = np.sqrt((a[band].var() + b[band].var()) / 2)
            difference = b[band].median() - a[band].median()
            rows.append(
                {
                    "class": name,
                    "band": band,
                    "difference": difference,
                    "standardised": difference / pooled if pooled > 0 else np.nan,
                    "wasserstein": wasserstein_distance(a[band], b[band]),
                }
            )
    return pd.DataFrame(
        rows, columns=["class", "band", "difference", "standardised", "wasserstein"]
    )


def separability(one: pd.DataFrame, other: pd.DataFrame, bands, *, seed: int = 0) -> pd.Series:
    """Return, per class, how well a classifier tells the two groups apart by their pixels alone.

    A random forest is cross-validated in five folds that keep the pixels of one window together,
    else it would know the window again. This is the domain classifier of Ben-David et al. (2010).

    Returns:
        Area under the ROC curve by class: 0.5 the groups look alike, 1.0 every pixel betrays its
        group; nan where a class is too rare.
    """
    result = {}
    for name in CLASS_NAMES.values():
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

    The rule is `quality.ice_index`; it misses debris-covered ice and takes seasonal snow for ice,
    so a disagreement is a place to look at, not an error of the label.

    Returns:
        ``glacier_km2`` labelled glacier; ``glacier_not_icy`` the share of it that does not look
        like ice; ``background_icy`` the share of the rest that does; ``icy_unlabelled_km2`` the
        area of the latter.
    """
    source, labels = dataset.source(area, date), dataset.labels(area, date)
    glacier = not_icy = background = icy = 0
    for row in range(0, source.grid.height, 512):
        height = min(512, source.grid.height - row)
        image = source.read(row, 0, height, source.grid.width)
        label = labels.read(row, 0, height, source.grid.width)
        looks = quality.ice_index(image.reflectance, source.bands)
        inside, outside = (label == 1) & image.valid, (label == 0) & image.valid
        glacier += inside.sum()
        not_icy += (inside & ~looks).sum()
        background += outside.sum()
        icy += (outside & looks).sum()
    pixel = source.grid.pixel_area_km2
    return {
        "glacier_km2": glacier * pixel,
        "glacier_not_icy": not_icy / glacier if glacier else np.nan,
        "background_icy": icy / background if background else np.nan,
        "icy_unlabelled_km2": icy * pixel,
    }


def tile_boxes(source, *, size: int = 128) -> gpd.GeoDataFrame:
    """Return where the patches of a source lie: its own files, or the lattice it would be cut in.

    Returns:
        A row a patch: row, col (pixels of the frame) and its box in the source's CRS.
    """
    grid = source.grid
    places = source.tiles or [
        (row, col, min(size, grid.height - row), min(size, grid.width - col))
        for row in range(0, grid.height, size)
        for col in range(0, grid.width, size)
    ]
    crs = None if grid.crs is None else pyproj.CRS.from_user_input(grid.crs)
    return gpd.GeoDataFrame(
        {"row": [place[0] for place in places], "col": [place[1] for place in places]},
        geometry=[grid.window(*place).box for place in places],
        crs=crs,
    )


def label_age(dataset: Dataset, area: str, date: str) -> dict[str, object]:
    """Say how old the outlines of an area are.

    Returns:
        area, glaciers (number), ``several_analyses`` (glaciers digitised more than once),
        ``youngest_years`` and ``oldest_years`` between outline and image (nan where unknown).
    """
    result = {
        "area": area,
        "glaciers": 0,
        "several_analyses": 0,
        "youngest_years": np.nan,
        "oldest_years": np.nan,
    }
    everything = dataset.outlines(area)
    if everything is None or everything.empty:
        return result
    everything = everything[everything["kind"] == "glacier"]
    chosen = dataset.outlines(area, date)
    chosen = chosen[chosen["kind"] == "glacier"]
    years = (image_day(date) - chosen["source_date"]).dt.days / 365.25
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
        outlines: all analyses; chosen: one a glacier, from `outlines.select_analyses`.

    Returns:
        A row an analysis: glacier_id, name, analysis_id, source_date, area_km2, chosen.
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
    kept = set(zip(chosen["glacier_id"], chosen["analysis_id"], strict=True))
    table["chosen"] = [
        pair in kept for pair in zip(table["glacier_id"], table["analysis_id"], strict=True)
    ]
    table["area_km2"] = table["area_km2"].round(2)
    return table.sort_values(["glacier_id", "source_date"]).reset_index(drop=True)


def doubtful_windows(
    dataset: Dataset, area: str, date: str, *, count: int = 4, size: int = 128
) -> list[tuple[Image, np.ndarray, str]]:
    """Find the windows in which label and ice rule disagree most, of both kinds.

    Returns:
        (image, label, title): first ``count`` windows by labelled glacier that does not look like
        ice, then ``count`` by ice-like ground outside every label.
    """
    source, labels = dataset.source(area, date), dataset.labels(area, date)
    found = []
    for row in range(0, source.grid.height, size):
        for col in range(0, source.grid.width, size):
            image, label = source.read(row, col, size, size), labels.read(row, col, size, size)
            looks = quality.ice_index(image.reflectance, source.bands)
            dark = ((label == 1) & image.valid & ~looks).mean()
            bright = ((label == 0) & image.valid & looks).mean()
            found.append((row, col, dark, bright))
    result = []
    for column, text in ((2, "labelled, not icy"), (3, "icy, not labelled")):
        for place in sorted(found, key=lambda item: (-item[column], item))[:count]:
            row, col = place[:2]
            title = f"{text}: {100 * place[column]:.0f} %"
            image = source.read(row, col, size, size)
            result.append((image, labels.read(row, col, size, size), title))
    return result


def snow_shares(dataset: Dataset, area: str, date: str) -> dict[str, float]:
    """Return the share of sunlit snow inside and outside the labelled glaciers.

    The rule is `quality.is_snow`; pixels without image or label are left out.
    """
    source, labels = dataset.source(area, date), dataset.labels(area, date)
    snow, total = np.zeros(2), np.zeros(2)
    for row in range(0, source.grid.height, 512):
        height = min(512, source.grid.height - row)
        image = source.read(row, 0, height, source.grid.width)
        label = labels.read(row, 0, height, source.grid.width)
        white = quality.is_snow(image.reflectance, source.bands)
        for code in (0, 1):
            known = (label == code) & image.valid
            total[code] += known.sum()
            snow[code] += (known & white).sum()
    share = np.divide(snow, total, out=np.full(2, np.nan), where=total > 0)
    return {"snow outside": share[0], "snow inside": share[1]}


def brightness_maps(
    views: Mapping[str, Mapping[str, Image]], dates: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the `brightness_difference` of each area between the first and the last date.

    Args:
        views: area -> date -> image.

    Returns:
        title, which begins with the area's name and a comma -> map [row, col].
    """
    first, last = dates[0], dates[-1]
    return {
        f"{area}, {last} minus {first}": brightness_difference(own[first], own[last])
        for area, own in views.items()
    }


def brightness_difference(before: Image, after: Image) -> np.ndarray:
    """Return the change of the mean visible reflectance [row, col], nan where one is invalid.

    Raises:
        GlacierError: the two images do not lie on one grid.
    """
    if not before.grid.matches(after.grid):
        raise GlacierError(
            "the two dates do not lie on one grid: warp one onto the other, or cut both to the "
            "same bounds in dataset.yaml"
        )
    difference = quality.visible(after.reflectance, after.bands) - quality.visible(
        before.reflectance, before.bands
    )
    return np.where(before.valid & after.valid, difference, np.nan)
