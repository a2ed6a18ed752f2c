"""Ice that no outline covers: what an inventory of local glaciers leaves out, to be looked at.

Bright ice-like ground (``quality.ice_index``) that runs on beyond the frame is where an ice sheet,
or the rest of an icefield, lies. It is a suspicion: seasonal snow and bright cloud look alike, and
ice under debris is missed. ``labels.IceOutsideMask`` makes what a person confirms unknown.
"""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pyproj
import rasterio.features
import shapely
from scipy import ndimage, sparse

from glacier_utils.grids import Image
from glacier_utils.imagery import Source
from glacier_utils.masks import Mask
from glacier_utils.quality import ice_index

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
