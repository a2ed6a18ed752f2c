"""Large maps: what is written of a scene, and whether the files are whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
from rasterio.features import rasterize

from glacier_utils.checkpoints import Segmenter
from glacier_utils.clouds import cloud_mask
from glacier_utils.datasets import Dataset, open_dataset
from glacier_utils.exploration import thumbnail, thumbnail_mask
from glacier_utils.grids import Grid, Image
from glacier_utils.imagery import Source, write_raster
from glacier_utils.mirrored import MirroredScene
from glacier_utils.products import map_scene
from glacier_utils.stac import SCALE
from glacier_utils.tracing import trace_file

# Larger scenes are not written a second time: a person opens their own file beside the maps.
LARGEST_IMAGE = 4096
FULL_TILE = "full_tile"
_ROWS = 512  # read at a time where a whole scene is looked through


@dataclass(frozen=True)
class Product:
    """One mapped scene: its files, and what a figure needs of it.

    Attributes:
        files: ``probability``, ``class``, ``item``; ``outlines`` where the image has a CRS;
            ``image`` where it is not too large -> path.
        grid: of the rasters.
        mask: uint8 [row, col]: 0, 1, 255.
        outlines: predicted glaciers in the grid's CRS, with area_km2.
    """

    files: dict[str, Path]
    grid: Grid
    mask: np.ndarray
    outlines: gpd.GeoDataFrame

    @property
    def valid(self) -> np.ndarray:
        """Where the scene was mapped, bool [row, col]."""
        return self.mask != 255

    def probability(self) -> np.ndarray:
        """Read the probability back: float32 [row, col], in steps of 0.004, nan if not mapped."""
        with rasterio.open(self.files["probability"]) as file:
            steps = file.read(1)
        return np.where(steps == 255, np.nan, steps * np.float32(SCALE)).astype(np.float32)


def write_products(
    segmenter: Segmenter,
    source: Source,
    folder: Path,
    name: str,
    *,
    date: str,
    window: int | None = None,
    overlap: int = 64,
    min_area_km2: float = 0.0,
    progress: bool = False,
) -> Product:
    """Map a scene with `products.map_scene`, write the image beside the maps, and read them back.

    Args:
        segmenter: the model, with its threshold.
        folder, name: files are ``<folder>/<name>_<kind>.tif`` and so on.
        date, window, overlap, min_area_km2, progress: as of ``map_scene``. The image, reflectance
            with nan where there is none, is left out where a side is above ``LARGEST_IMAGE`` px.
    """
    settings = {"window": window, "overlap": overlap, "min_area_km2": min_area_km2}
    files = map_scene(
        segmenter, source, folder, name=name, date=date, progress=progress, **settings
    )
    if max(source.grid.shape) <= LARGEST_IMAGE:
        image = source.read()
        pixels = np.where(image.valid, image.reflectance, np.nan).astype(np.float32)
        files["image"] = write_raster(
            folder / f"{name}_image.tif",
            pixels,
            source.grid,
            nodata=np.nan,
            tags={"IMAGE_DATE": date},
            descriptions=source.bands,
        )
    with rasterio.open(files["class"]) as file:
        mask = file.read(1)
    outlines = trace_file(files["class"], min_area_km2=min_area_km2)
    return Product(files, source.grid, mask, outlines)


@dataclass(frozen=True)
class LargeScene:
    """A scene to be mapped beside the dataset's own areas.

    Attributes:
        name, date: for files and titles.
        source: the image.
        cloud: bool [row, col] of its ``thumbnail``, None where nobody told of clouds.
    """

    name: str
    date: str
    source: Source
    cloud: np.ndarray | None = None


def large_scene(name: str, data: Dataset, area: str, date: str) -> LargeScene | None:
    """Return the scene that a parameter names.

    Args:
        name: "" for none; ``full_tile`` for a scene of the size of a Sentinel-2 tile, made of the
            area's image and its mirror images; else a dataset (name or path), whose first area and
            date are taken.
        data, area, date: the area to mirror.
    """
    if not name:
        return None
    if name == FULL_TILE:
        return LargeScene(name, date, MirroredScene(data.source(area, date)))
    other = open_dataset(name)
    area = other.areas[0]
    date = other.dates(area)[0]
    source, classes = other.source(area, date), other.scene_classification(area, date)
    cloud = None
    if classes is not None:
        cloud = thumbnail_mask(cloud_mask(source, scl=classes)) > 0
    return LargeScene(other.name, date, source, cloud)


def known_rock(inventory: gpd.GeoDataFrame | None, grid: Grid) -> np.ndarray | None:
    """Return the pixels of an inventory's internal rock, bool [row, col]; None without any."""
    if inventory is None:
        return None
    rock = inventory[inventory["kind"] == "internal_rock"].geometry
    if rock.empty:
        return None
    return rasterize(rock, out_shape=grid.shape, transform=grid.transform, dtype="uint8") == 1


def reduced(mask: np.ndarray, view: Image) -> np.ndarray:
    """Return every n-th pixel of a scene's mask, on the grid of its ``exploration.thumbnail``."""
    step = -(-max(mask.shape) // max(view.valid.shape))
    return mask[::step, ::step]


def seen_from_afar(scene: LargeScene, product: Product) -> tuple[Image, np.ndarray]:
    """Return the thumbnail of a scene, and its class map on it, unknown where there is cloud."""
    view = thumbnail(scene.source)
    mask = reduced(product.mask, view)
    return view, mask if scene.cloud is None else np.where(scene.cloud, 255, mask)


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


def check_products(products: Mapping[object, Product], sources: Mapping[object, Source]) -> dict:
    """Read the written files back and say whether they hold what they should.

    Args:
        products: name -> product.
        sources: name -> the scene that it was made of.

    Returns:
        files (number), and True or False for ``grids`` (place and shape of the scene, overviews
        where it is larger than a block), ``nodata`` (no data exactly where the image has none, in
        probability and class), ``outlines`` (valid, EPSG:4326, ids that none has twice).
    """
    grids, nodata, outlines = [], [], []
    for name, product in products.items():
        for kind in ("image", "probability", "class"):
            if kind not in product.files:
                continue
            with rasterio.open(product.files[kind]) as file:
                grid = Grid(file.crs, file.transform, file.height, file.width)
                overviews = file.overviews(1) or max(file.shape) <= max(file.block_shapes[0])
                grids.append(grid.matches(product.grid) and bool(overviews))
                if kind != "image":
                    nodata.append(_empty_alike(file, sources[name]))
        if "outlines" in product.files:
            table = gpd.read_file(product.files["outlines"], layer="glims_polygons")
            glaciers = table[table["line_type"] == "glac_bound"]
            valid = bool(table.geometry.is_valid.all()) and table.crs == "EPSG:4326"
            outlines.append(valid and glaciers["glac_id"].is_unique)
    return {
        "files": sum(len(product.files) for product in products.values()),
        "grids": all(grids),
        "nodata": all(nodata),
        "outlines": all(outlines),
    }


def _empty_alike(file: rasterio.DatasetReader, source: Source) -> bool:
    """Say whether a map has no data exactly where its image has none."""
    for row in range(0, file.height, _ROWS):
        rows = min(_ROWS, file.height - row)
        values = file.read(1, window=((row, row + rows), (0, file.width)))
        if not np.array_equal(values == 255, ~source.read(row, 0, rows, file.width).valid):
            return False
    return True
