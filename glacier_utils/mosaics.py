"""Large maps: what a scene's prediction is written as, and how visible its seams are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio

from glacier_utils import metrics
from glacier_utils.checkpoints import Segmenter
from glacier_utils.grids import Grid
from glacier_utils.imagery import Source, write_raster
from glacier_utils.outlines import vectorise, write_glims
from glacier_utils.prediction import predict_scene

# The colours of `plots.CLASS_COLOURS`, so that QGIS shows the classes as the reports do.
CLASS_COLOURMAP = {0: (216, 210, 196, 255), 1: (86, 180, 233, 255), 255: (127, 127, 127, 255)}


@dataclass(frozen=True)
class Product:
    """One mapped scene: its files, and what a figure needs of it.

    Attributes:
        files: ``image``, ``probability``, ``class``, ``outlines`` -> path.
        grid: of the rasters.
        mask: uint8 [row, col]: 0, 1, 255.
        outlines: predicted glaciers in the grid's CRS, with area_km2.
        valid: bool [row, col], where the image holds data.
    """

    files: dict[str, Path]
    grid: Grid
    mask: np.ndarray
    outlines: gpd.GeoDataFrame
    valid: np.ndarray


def write_products(
    segmenter: Segmenter,
    source: Source,
    folder: Path,
    name: str,
    *,
    date: str,
    window: int = 512,
    overlap: int = 64,
    min_area_km2: float = 0.0,
) -> Product:
    """Map a scene and write image, probability, class (COG) and outlines (GeoPackage, GLIMS).

    Args:
        segmenter: the model, with its threshold.
        folder, name: files are ``<folder>/<name>_<kind>.tif`` and ``.gpkg``.
        date: of the image, ISO 8601; the outlines' source date.
        window, overlap: in px, as in `prediction.predict_scene`.
        min_area_km2: smaller predicted glaciers are left out of the outlines (not of the rasters).
            Outlines are left out altogether where the image has no CRS.
    """
    image = source.read()
    probability = predict_scene(segmenter, source, window=window, overlap=overlap)
    mask = metrics.classify(probability, segmenter.threshold)
    tags = {
        "model": segmenter.name,
        "threshold": str(segmenter.threshold),
        "image_date": date,
        "window_px": str(window),
        "overlap_px": str(overlap),
    }
    files = {kind: folder / f"{name}_{kind}.tif" for kind in ("image", "probability", "class")}
    pixels = np.where(image.valid, image.reflectance, np.nan).astype(np.float32)
    write_raster(
        files["image"], pixels, source.grid, nodata=np.nan, tags=tags, descriptions=source.bands
    )
    write_raster(files["probability"], probability, source.grid, nodata=np.nan, tags=tags)
    write_raster(files["class"], mask, source.grid, nodata=255, tags=tags, colormap=CLASS_COLOURMAP)
    outlines = vectorise(mask, source.grid, min_area_km2=min_area_km2)
    if outlines.crs is not None:
        files["outlines"] = write_glims(
            outlines,
            folder / f"{name}_outlines.gpkg",
            source_date=date,
            method=f"{segmenter.name}, threshold {segmenter.threshold}",
            uncertainty_m=source.grid.resolution,  # the outline runs along pixels
        )
    return Product(files, source.grid, mask, outlines, image.valid)


def product_table(products: Mapping[tuple[str, str], Product]) -> pd.DataFrame:
    """Return area, date, number of predicted glaciers and their area in km2, a row a product."""
    rows = [
        {
            "area": area,
            "date": date,
            "glaciers": len(product.outlines),
            "area_km2": round(float(product.outlines["area_km2"].sum()), 1),
        }
        for (area, date), product in products.items()
    ]
    return pd.DataFrame(rows)


def seam_profile(values: np.ndarray, size: int, *, farthest: int = 24) -> pd.DataFrame:
    """Measure jumps between neighbouring pixels by their distance from the patch borders.

    Args:
        values: map [row, col], nan where unknown.
        size: side of the patches in px; borders lie at its multiples.
        farthest: largest distance in px.

    Returns:
        distance_px (0: the pair lies across a border) and jump, the mean absolute difference of
        two neighbours, over rows and columns together.
    """
    total, count = np.zeros(farthest + 1), np.zeros(farthest + 1)
    for lines in (values, values.T):
        steps = np.abs(np.diff(lines, axis=1))
        after = np.arange(1, lines.shape[1]) % size
        distance = np.minimum(after, size - after)
        for d in range(farthest + 1):
            chosen = steps[:, distance == d]
            total[d] += np.nansum(chosen)
            count[d] += np.isfinite(chosen).sum()
    jump = np.divide(total, count, out=np.full(farthest + 1, np.nan), where=count > 0)
    return pd.DataFrame({"distance_px": np.arange(farthest + 1), "jump": jump})


def worst_seam(values: np.ndarray, size: int) -> tuple[int, int]:
    """Find where four patches meet worst.

    Returns:
        (row, col) of the upper left corner of a window of ``size`` centred on the corner with the
        largest mean jump across its borders; (0, 0) where no four patches meet.
    """
    best, place = -1.0, (0, 0)
    half = size // 2
    after = size - half
    for row in range(size, values.shape[0] - after + 1, size):
        for col in range(size, values.shape[1] - after + 1, size):
            part = values[row - half : row + after, col - half : col + after]
            jumps = np.r_[
                np.abs(part[half] - part[half - 1]), np.abs(part[:, half] - part[:, half - 1])
            ]
            known = jumps[np.isfinite(jumps)]
            if known.size and known.mean() > best:
                best, place = float(known.mean()), (row - half, col - half)
    return place


def check_products(products: Mapping[object, Product]) -> dict[str, object]:
    """Read the written files back and say whether they hold what they should.

    Returns:
        files (number), and True or False for ``grids`` (place and shape of the scene, overviews
        where it is larger than a block), ``nodata`` (probability nan exactly where the image has no
        data), ``outlines`` (valid, EPSG:4326).
    """
    grids, nodata, outlines = [], [], []
    for product in products.values():
        for kind in ("image", "probability", "class"):
            with rasterio.open(product.files[kind]) as file:
                grid = Grid(file.crs, file.transform, file.height, file.width)
                overviews = file.overviews(1) or max(file.shape) <= max(file.block_shapes[0])
                grids.append(grid.matches(product.grid) and bool(overviews))
                if kind == "probability":
                    nodata.append(np.array_equal(np.isnan(file.read(1)), ~product.valid))
        if "outlines" in product.files:
            table = gpd.read_file(product.files["outlines"])
            outlines.append(bool(table.geometry.is_valid.all()) and table.crs == "EPSG:4326")
    return {
        "files": sum(len(product.files) for product in products.values()),
        "grids": all(grids),
        "nodata": all(nodata),
        "outlines": all(outlines),
    }
