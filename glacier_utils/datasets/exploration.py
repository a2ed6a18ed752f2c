"""Ice that no outline covers: what an inventory of local glaciers leaves out, to be looked at.

Bright ice-like ground (``indices.ice_index``) that runs on beyond the frame is where an ice sheet,
or the rest of an icefield, lies. It is a suspicion: seasonal snow and bright cloud look alike, and
ice under debris is missed. ``mask.IceOutsideMask`` makes what a person confirms unknown.

A first look at a dataset: thumbnails, sampled pixels, the shift between two groups of them.

Everything reads windows, so that a whole Sentinel-2 tile costs no more memory than a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import rasterio.features
import shapely
from rasterio.transform import Affine
from scipy import ndimage, sparse
from scipy.stats import wasserstein_distance
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from glacier_utils.conventions import image_day
from glacier_utils.datasets.dataset import Dataset
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.source import Source
from glacier_utils.raster import indices
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.indices import ice_index
from glacier_utils.raster.mask import Mask

# The smallest glacier of the inventory of Greenland (Rastner et al. 2012, The Cryosphere 6, 1483).
MIN_AREA_KM2 = 0.05
_AROUND = np.ones((3, 3), bool)


def suspicious_ice(
    image: Image, label: np.ndarray, *, min_area_km2: float = MIN_AREA_KM2
) -> np.ndarray:
    """Find ice-like pixels that no outline covers, in regions on the frame's edge.

    Args:
        image: reflectance of red, green, blue and nir.
        label: uint8 [row, col]; only pixels of 0 are looked at, unknown ones (255) are not.
        min_area_km2: smaller regions are left out; without effect where the size of a pixel is not
            known. Pixels belong to one region if they touch, also at a corner.

    Returns:
        bool [row, col].

    Raises:
        GlacierError: a band is missing.
    """
    ice = _candidates(image, label)
    regions, count = ndimage.label(ice, _AROUND)
    keep = np.zeros(count + 1, bool)
    keep[regions[_border(image.valid)]] = True
    size = np.bincount(regions.ravel(), minlength=count + 1) * image.grid.pixel_area_km2
    keep &= ~(size < min_area_km2)
    keep[0] = False
    return keep[regions]


def find_suspicious(
    source: Source, mask: Mask, *, min_area_km2: float = MIN_AREA_KM2, window: int = 1024
) -> gpd.GeoDataFrame:
    """Find the regions of ``suspicious_ice`` in a scene, read a window at a time.

    Of the whole scene only a bit a pixel is kept for what is ice-like, and a byte or two for the
    regions found.

    Args:
        source: the image.
        mask: its label.
        min_area_km2: as in ``suspicious_ice``.
        window: side of a window in px: a matter of memory, not of the result.

    Returns:
        A row a region, largest first: area_km2 (of its pixels), geometry in the CRS of the image.
        ``.attrs["report"]`` is a list of one line, empty if there are none.
    """
    grid = source.grid
    pieces: list[tuple[int, int, tuple[int, int], np.ndarray, int]] = []
    pairs: list[np.ndarray] = []
    sizes, touches = [np.zeros(1, int)], [np.zeros(1, bool)]
    total = 1
    above = np.zeros(grid.width + 2, np.int64)
    for row in range(0, grid.height, window):
        height = min(window, grid.height - row)
        below = np.zeros_like(above)
        left = np.zeros(height + 2, np.int64)
        for col in range(0, grid.width, window):
            width = min(window, grid.width - col)
            # With a margin of one pixel, which shows what is valid beyond the window.
            image = source.read(row - 1, col - 1, height + 2, width + 2)
            border = ndimage.binary_dilation(~image.valid, _AROUND)[1:-1, 1:-1]
            label = mask.read(row, col, height, width)
            ice = _candidates(image, np.pad(label, 1))[1:-1, 1:-1]
            regions, count = ndimage.label(ice, _AROUND)
            pieces.append((row, col, ice.shape, np.packbits(ice), total))
            sizes.append(np.bincount(regions.ravel(), minlength=count + 1)[1:])
            touch = np.zeros(count + 1, bool)
            touch[regions[border]] = True
            touches.append(touch[1:])
            numbers = np.where(ice, regions + (total - 1), 0)
            pairs.append(_neighbours(numbers[0], above[col : col + width + 2]))
            pairs.append(_neighbours(numbers[:, 0], left))
            below[col + 1 : col + 1 + width] = numbers[-1]
            left[1:-1] = numbers[:, -1]
            total += count
        above = below
    links = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    graph = sparse.coo_array((np.ones(len(links), bool), links.T), shape=(total, total))
    _, root = sparse.csgraph.connected_components(graph, directed=False)
    size = np.bincount(root, np.concatenate(sizes)) * grid.pixel_area_km2
    keep = np.bincount(root, np.concatenate(touches)) > 0
    keep &= ~(size < min_area_km2)
    kept = np.flatnonzero(keep)
    number = np.zeros(len(keep), np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    # The smallest type that holds the regions and that GDAL can draw.
    fits = [kind for kind in (np.uint8, np.uint16) if len(kept) <= np.iinfo(kind).max]
    drawn = np.zeros(grid.shape, fits[0] if fits else np.int32)
    for row, col, shape, packed, first in pieces:
        ice = np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(bool)
        regions, count = ndimage.label(ice, _AROUND)
        names = np.concatenate([[0], number[root[first : first + count]]]).astype(drawn.dtype)
        drawn[row : row + shape[0], col : col + shape[1]] = names[regions]
    # Drawn as a whole: to unite the polygons of windows takes a hundred times as long.
    parts: list[list[shapely.Geometry]] = [[] for _ in kept]
    for polygon, name in rasterio.features.shapes(drawn, drawn > 0, 4, grid.transform):
        parts[int(name) - 1].append(shapely.geometry.shape(polygon))
    crs = None if grid.crs is None else pyproj.CRS.from_user_input(grid.crs)
    result = gpd.GeoDataFrame(
        {"area_km2": size[kept]}, geometry=[shapely.MultiPolygon(part) for part in parts], crs=crs
    ).sort_values("area_km2", ascending=False, kind="stable").reset_index(drop=True)  # fmt: skip
    result.attrs["report"] = [
        f"ice-like, outside every outline and on the edge of the image: "
        f"{result.area_km2.sum():.3g} km2 in {len(result)} regions"
    ] if len(result) else []  # fmt: skip
    return result


def _candidates(image: Image, label: np.ndarray) -> np.ndarray:
    return image.valid & (label == 0) & ice_index(image.reflectance, image.bands)


def _border(valid: np.ndarray) -> np.ndarray:
    """Say which pixels touch the frame's edge or a pixel without data."""
    return ndimage.binary_dilation(~np.pad(valid, 1), _AROUND)[1:-1, 1:-1]


def _neighbours(line: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Pair the numbers of a line of pixels with those beside it, which has one more at each end."""
    found = [np.stack([line, beside[step : step + len(line)]], axis=1) for step in range(3)]
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[(pairs > 0).all(axis=1)]


CLASS_NAMES = {0: "not glacier", 1: "glacier"}


def thumbnail(source, *, longest: int = 1200) -> Image:
    """Return every n-th pixel of a scene, so that it can be looked at.

    Args:
        source: an `source.Source`.
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

    The rule is `indices.ice_index`; it misses debris-covered ice and takes seasonal snow for ice,
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
        looks = indices.ice_index(image.reflectance, source.bands)
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
        outlines: all analyses; chosen: one a glacier, from `inventory.select_analyses`.

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
            looks = indices.ice_index(image.reflectance, source.bands)
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

    The rule is `indices.is_snow`; pixels without image or label are left out.
    """
    source, labels = dataset.source(area, date), dataset.labels(area, date)
    snow, total = np.zeros(2), np.zeros(2)
    for row in range(0, source.grid.height, 512):
        height = min(512, source.grid.height - row)
        image = source.read(row, 0, height, source.grid.width)
        label = labels.read(row, 0, height, source.grid.width)
        white = indices.is_snow(image.reflectance, source.bands)
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
    difference = indices.visible(after.reflectance, after.bands) - indices.visible(
        before.reflectance, before.bands
    )
    return np.where(before.valid & after.valid, difference, np.nan)
