"""A first look at a dataset: thumbnails, pixels, snow, ice that no outline covers.

Everything is read window by window, so that a whole Sentinel-2 tile costs no more memory than a
patch, but for what is returned and for `find_suspicious`, whose regions span the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio.features
import shapely
from rasterio.transform import Affine
from scipy import ndimage

from glacier_utils.conventions import SURFACES as SURFACES
from glacier_utils.conventions import UNKNOWN
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
