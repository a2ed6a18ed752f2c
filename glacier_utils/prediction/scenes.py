"""From a scene to files that people can use: probability, class, outlines and what made them.

A scene of any size is mapped in little memory, strip after strip (``strips``). A file gets its name
when it is whole, the item (STAC) last. What was made of what is told by hashes (``_keys``) in the
folder of the strips, in the rasters' tags and in the item; ``finished`` says whether anything is
left to do, for one scene as for many.

The second half reads such files back for figures, tables and checks.
"""

from __future__ import annotations

import glob
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio

from glacier_utils.conventions import SYNTHETIC, UNKNOWN, date_in_name, image_day
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.exploration import thumbnail, thumbnail_mask
from glacier_utils.errors import GlacierError, counted
from glacier_utils.files import file_fingerprint, fingerprint, locked, remove_unfinished
from glacier_utils.imagery.clouds import cloud_mask
from glacier_utils.imagery.examination import Finding, Trained, examine, heed
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import Source, input_files, open_source
from glacier_utils.models.checkpoint import Segmenter, load_checkpoint
from glacier_utils.outlines.glims import write_glims, write_probability_style
from glacier_utils.outlines.polygonization import polygonize_file
from glacier_utils.prediction import memory
from glacier_utils.prediction.acceleration import fold_batch_norm, resolve
from glacier_utils.prediction.mapper import Mapper, Plan
from glacier_utils.prediction.scene_lists import public_names
from glacier_utils.prediction.stac import SCALE, read_item, write_item
from glacier_utils.prediction.strips import RASTERS, Unfinished
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.io import open_raster, write_raster
from glacier_utils.raster.paths import files_behind, is_virtual, list_files, local_file

# Changed whenever a scene mapped before must not go on, or pass as finished, with the present code.
FORMAT = 6
# Larger scenes are not written a second time: a person opens their own file beside the maps.
LARGEST_IMAGE = 4096
AS_TRAINED = ", as in the training"
_INPUTS = "INPUTS"  # tag of the rasters: a hash of all that they were made from

Checkpoints = str | Path | Segmenter | Sequence[str | Path | Segmenter]


def map_scene(
    checkpoint: Checkpoints,
    scene: Any,
    out: str | Path,
    *,
    name: str | None = None,
    date: str = "",
    bands: Sequence[str] | Mapping[str, Any] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
    window: int | None = None,
    overlap: int = 64,
    flips: bool = False,
    min_area_km2: float = 0.0,
    outlines: bool = True,
    progress: bool = False,
) -> dict[str, Path]:
    """Map the glaciers of a scene into files that open in QGIS.

    The same call again does nothing where its files are there and made of the same inputs, draws no
    more than new outlines where only these are to change, and goes on after the last finished strip
    where it was interrupted.

    Args:
        checkpoint: file of ``save_checkpoint`` or a segmenter; several are an ensemble, whose
            probabilities are averaged.
        scene: file, folder, pattern or files, as ``open_source`` takes them, or an open source.
        out: a folder for the files, or the GeoTIFF of the probability (``.tif``), beside which the
            others go.
        name: what the files' names start with; None takes that of the scene, or of ``out``.
        date: of the image, as YYYY-MM-DD or YYYY-MM; "" takes it from the scene's name, where there
            is one.
        bands: as of ``open_source``, names in the file's order or a mapping; None: the model's
            bands, by the names that the scene gives its own, else in the model's order.
        scale: of the scene's numbers, reflectance = (DN + offset) / scale; None: as the scene's
            metadata or tags tell, else as in the training, else 10000. Values that cannot be
            reflectance are refused unless both scale and offset are given.
        offset: likewise, else 0.
        nodata: number of missing pixels; likewise, else the file's own tag.
        window: largest side of a window in pixels, as of ``mapper.Plan``.
        overlap: pixels that neighbouring windows share at least.
        flips: average over the four mirror images.
        min_area_km2: smaller predicted glaciers are left out of the outlines (not of the rasters).
        outlines: whether to draw outlines. Scenes without CRS never get any.
        progress: show a bar.

    Returns:
        Kind -> file: ``probability`` (uint8, probability = number x 0.004, 255 no data), ``class``
        (0, 1, 255) and, of an ensemble, ``spread`` (standard deviation of its members'
        probabilities, as these), all cloud-optimised GeoTIFFs; ``outlines`` (GeoPackage in the
        GLIMS schema); ``item`` (STAC, written last, with what was warned of as
        ``glacier:warnings``). Beside the
        probability lies its style for QGIS (``.qml``).

    Raises:
        GlacierError: an unreadable checkpoint or scene, a missing band, values that cannot be
            reflectance, a date that is none, a disk without space, another process that writes the
            same map.
    """
    if date:
        image_day(date)  # refuses what is none before the work, not after it
    settings = {"date": date, "bands": bands, "scale": scale, "offset": offset, "nodata": nodata,
                "window": window, "overlap": overlap, "flips": flips,
                "min_area_km2": min_area_km2, "outlines": outlines}  # fmt: skip
    for_rasters, for_all = _keys(checkpoint, scene, settings)
    files = product_files(out, name or _name(scene))
    if done := _whole(files["item"], for_all):
        return done
    models = _models(checkpoint)
    source = _open(scene, models[0][1], settings)
    mapper = Mapper([model for _, model in models], flips=flips)
    warnings = heed(_examine(source, models[0][1], settings))
    plan = Plan(mapper, source, window=window, overlap=overlap)
    date = date_in_name(source.paths, date)
    about = _about(models, source, plan, date)
    del models  # the mapper has its own weights, in the number format of the passes
    memory.release(collect=True)
    if not outlines or source.grid.crs is None:
        files.pop("outlines")
    if mapper.layers == 1:
        files.pop("spread")
    item = files["item"]
    busy = GlacierError(f"{item}: another process is writing this map; wait until it is done")
    with locked(item.with_name(f".{item.stem}.lock"), busy):
        for path in files.values():
            remove_unfinished(path.parent, f".{glob.escape(path.stem)}.*")
        if not all(is_map(files[kind], for_rasters) for kind in RASTERS if kind in files):
            tags = {key.upper(): _text(value) for key, value in about.items()}
            with Unfinished(files, for_rasters, source.grid.shape) as work:
                work.fill(plan, progress)
                # Before the rasters, which tell the next start that nothing of them is to do.
                write_probability_style(files["probability"])
                work.finish(files, source.grid, tags | {_INPUTS: for_rasters})
        if "outlines" in files:
            write_glims(
                polygonize_file(files["class"], min_area_km2=min_area_km2, progress=progress),
                files["outlines"],
                source_date=date or None,
                method=f"{about['model']}, threshold {about['threshold']:g}",
                synthetic=source.synthetic,
                model=about["checkpoint"],
                uncertainty_m=source.grid.resolution,  # a pixel: what the image can show
            )
        made = {kind: path for kind, path in files.items() if kind != "item"}
        properties = about | {"inputs": for_all, "warnings": warnings}
        write_item(files["item"], grid=source.grid, date=date, assets=made, properties=properties)
    return files


def finished(
    checkpoint: Checkpoints,
    scene: Any,
    out: str | Path,
    *,
    name: str | None = None,
    **settings: Any,
) -> dict[str, Path] | None:
    """Return the files of a scene if all of them are there and made of these inputs, else None.

    Args:
        checkpoint: as of ``map_scene``.
        scene: as of ``map_scene``.
        out: as of ``map_scene``.
        name: as of ``map_scene``.
        settings: its other arguments; what is left out counts as its default.

    Raises:
        GlacierError: the scene or a checkpoint is not there.
    """
    item = product_files(out, name or _name(scene))["item"]
    return _whole(item, _keys(checkpoint, scene, settings)[1])


def _whole(item: Path, for_all: str) -> dict[str, Path] | None:
    """Return the files that an item names, if it bears this hash and none of them is gone."""
    properties, assets = read_item(item)
    files = assets | {"item": item}
    there = all(path.is_file() for path in files.values())
    return files if there and properties.get("glacier:inputs") == for_all else None


def is_map(path: Path, made_from: str = "") -> bool:
    """Say whether a file is a raster that was made here, from inputs of this hash if one is given.

    Args:
        path: of the file.
        made_from: the hash; "" for any.
    """
    try:
        with open_raster(path) as file:
            inputs = file.tags().get(_INPUTS, "")
    except GlacierError:
        return False
    return bool(inputs) and made_from in ("", inputs)


def _keys(checkpoint: Checkpoints, scene: Any, settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the hash of all that the rasters are made from, and of all that the files are."""
    bands = _unsigned(settings.get("bands"))
    settings = {**(map_scene.__kwdefaults__ or {}), **settings, "bands": bands}
    models = _listed(checkpoint)
    device = models[0].mean.device if isinstance(models[0], Segmenter) else "cpu"
    names = ("date", "bands", "scale", "offset", "nodata", "window", "overlap", "flips")
    for_rasters = fingerprint([
        FORMAT, [_model_key(model) for model in models], resolve("auto", device), _image_key(scene),
        [settings[name] for name in names],
    ])  # fmt: skip
    return for_rasters, fingerprint([for_rasters, settings["outlines"], settings["min_area_km2"]])


def _unsigned(bands: Any) -> Any:
    """Take the signatures of web addresses away, which are others each time a search is saved."""
    if isinstance(bands, Mapping):
        return {key: _unsigned(value) for key, value in bands.items()}
    return bands.partition("?")[0] if isinstance(bands, str) else bands


def _listed(checkpoint: Checkpoints) -> list[str | Path | Segmenter]:
    models = [checkpoint] if isinstance(checkpoint, str | Path | Segmenter) else list(checkpoint)
    if not models:
        raise GlacierError("no checkpoint is named; name one, or several for an ensemble")
    return models


def _model_key(model: str | Path | Segmenter) -> list[Any]:
    if not isinstance(model, Segmenter):
        return [_label(model)]  # the file holds all else
    return [_label(model), model.bands, model.threshold, model.temperature, model.provenance]


def _label(model: str | Path | Segmenter) -> str:
    """Return the name of a model's file, or of the model, with a hash of what it holds."""
    if isinstance(model, Segmenter):
        weights = hashlib.sha256()
        for key, value in model.state_dict().items():
            weights.update(key.encode())
            weights.update(value.cpu().contiguous().numpy().tobytes())
        return f"{model.name} sha256:{weights.hexdigest()}"
    return f"{Path(model).name} sha256:{checkpoint_hash(model)}"


def checkpoint_hash(path: str | Path) -> str:
    """Return the SHA-256 of a checkpoint's file.

    Raises:
        GlacierError: it is not there.
    """
    if not Path(path).is_file():
        raise GlacierError(f"{path}: no such checkpoint; train a model first or check the path")
    return _hash(Path(path), *file_fingerprint(path))


@lru_cache(maxsize=16)
def _hash(path: Path, *_: Any) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _image_key(scene: Any) -> list[Any]:
    """Return what tells one image from another without reading its pixels."""
    if not isinstance(scene, Source):
        keys = [file_fingerprint(path) for path in input_files(scene)]
        return [keys, [name for name in public_names(scene) if is_virtual(name)]]
    own = {path: local_file(path) for path in scene.paths}
    there = [path for path in own.values() if path is not None and path.exists()]
    files = [file_fingerprint(path) for path in files_behind(there)]
    files += [[str(name)] for name, path in own.items() if path not in there]
    grid = scene.grid
    where = None if grid.crs is None else str(grid.crs)
    rule = [repr(scene.reflectance), repr(scene.places)]
    return [files, scene.bands, rule, where, list(grid.transform)[:6], list(grid.shape)]


def product_files(out: str | Path, name: str) -> dict[str, Path]:
    """Return the files of a mapped scene: kind -> path.

    Args:
        out: a folder, or the GeoTIFF of the probability, whose own name then counts.
        name: what the names in a folder start with.
    """
    out = Path(out)
    if out.suffix.lower() in (".tif", ".tiff"):
        folder, name, probability = out.parent, out.stem, out
        name = name.removesuffix("_probability")
    else:
        folder, probability = out, out / f"{name}_probability.tif"
    return {
        "probability": probability,
        "class": folder / f"{name}_class.tif",
        "spread": folder / f"{name}_spread.tif",
        "outlines": folder / f"{name}_outlines.gpkg",
        "item": folder / f"{name}.json",
    }


def _name(scene: Any) -> str:
    """Return a name for the files of a scene: its file's, or its product's."""
    paths = scene.paths if isinstance(scene, Source) else list_files(scene)
    for part in (paths[0], *paths[0].parents):
        if part.suffix.upper() == ".SAFE":
            return part.stem
    return paths[0].stem if len(paths) == 1 else paths[0].parent.name or paths[0].stem


def _models(checkpoint: Checkpoints) -> list[tuple[str, Segmenter]]:
    """Load the models; return each with its label."""
    models = []
    for item in _listed(checkpoint):
        if isinstance(item, Segmenter):
            model = item
        else:
            model = load_checkpoint(item)
            # The weights before it are not needed again.
            model.network = fold_batch_norm(model.network, len(model.bands))
        models.append((_label(item), model))
    return models


def _open(scene: Any, segmenter: Segmenter, settings: Mapping[str, Any]) -> Source:
    """Open a scene with the rule its files tell, or that is given, else that of the training."""
    if isinstance(scene, Source):
        return scene
    given = {name: settings[name] for name in ("scale", "offset", "nodata")}
    given = {name: value for name, value in given.items() if value is not None}
    stated = bool({"scale", "offset"} & set(given))
    # The model's own order says nothing of the scene's.
    how: dict[str, Any] = {
        "bands": settings["bands"] or segmenter.bands,
        "stated": settings["bands"] is not None,
    }
    source = open_source(scene, reflectance=Reflectance(nodata=given.get("nodata")), **how)
    rule = source.reflectance
    default = source.reflectance_source == "default"
    if default:
        rule = Reflectance(**segmenter.provenance.get("reflectance") or {})
    elif not stated:
        return source
    rule = replace(rule or Reflectance(), **given, stated=stated)
    source = open_source(scene, reflectance=rule, **how)
    if default and not {"scale", "offset"} <= set(given):
        source.reflectance_source = "training"
    return source


def _examine(source: Source, segmenter: Segmenter, settings: Mapping[str, Any]) -> list[Finding]:
    """Hold a scene against what a model was trained on."""
    mean, std = segmenter.mean.flatten().tolist(), segmenter.std.flatten().tolist()
    resolution = segmenter.provenance.get("resolution_m") or math.nan
    trained = Trained(segmenter.bands, mean, std, resolution)
    stated = [name for name in ("scale", "offset", "nodata") if settings[name] is not None]
    return examine(source, trained=trained, stated=stated)


def _about(
    models: Sequence[tuple[str, Segmenter]], source: Source, plan: Plan, date: str
) -> dict[str, Any]:
    """Return what made a map: the tags of its files and the properties of its item."""
    mapper = plan.mapper
    rule = source.reflectance
    taken = AS_TRAINED if source.reflectance_source == "training" else ""
    return {
        "model": mapper.name,
        "checkpoint": ", ".join(name for name, _ in models),
        "trained_on": ", ".join(str(model.provenance.get("store", "")) for _, model in models),
        "scene": ", ".join(path.name for path in source.paths[:8]),
        "image_date": date,
        "bands": ", ".join(mapper.bands),
        "reflectance": rule.words + taken if isinstance(rule, Reflectance) else "",
        "threshold": mapper.threshold,
        "temperature": ", ".join(f"{model.temperature:g}" for _, model in models),
        "window_px": f"{plan.rows.size} x {plan.cols.size}",
        "overlap_px": plan.rows.overlap,
        "flips": mapper.flips,
        "precision": mapper.precision,
        **({"synthetic": SYNTHETIC} if source.synthetic else {}),
    }


def assumed_rules(scenes: Iterable[Mapping[str, Path]]) -> list[str]:
    """Return a line for each scale and offset that maps took from the training, unstated.

    Args:
        scenes: kind -> file of each map (``map_scene``).
    """
    taken = Counter(
        str(read_item(files["item"])[0].get("glacier:reflectance", ""))
        for files in scenes
        if "item" in files
    )
    return [
        f"{counted(number, 'scene')} with {rule}: the files do not say; give --offset if it differs"
        for rule, number in taken.items()
        if rule.endswith(AS_TRAINED)
    ]


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


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

    def probability(self) -> np.ndarray:
        """Read the probability back: float32 [row, col], in steps of 0.004, nan if not mapped."""
        with rasterio.open(self.files["probability"]) as file:
            steps = file.read(1)
        return np.where(steps == UNKNOWN, np.nan, steps * np.float32(SCALE)).astype(np.float32)


def write_products(
    segmenter: Segmenter,
    source: Source,
    folder: Path,
    name: str,
    *,
    date: str,
    min_area_km2: float = 0.0,
    **settings: Any,
) -> Product:
    """Map a scene with ``map_scene``, write the image beside the maps, and read them back.

    The image, reflectance with nan where there is none, is left out where a side is above
    ``LARGEST_IMAGE`` px.

    Args:
        segmenter: the model, with its threshold.
        source: the scene.
        folder: of the files.
        name: they are called ``<name>_<kind>.tif`` and so on.
        date: of the image, as of ``map_scene``.
        min_area_km2: smaller predicted glaciers are left out of the outlines.
        settings: further arguments of ``map_scene``.

    Raises:
        GlacierError: as of ``map_scene``.
    """
    settings |= {"name": name, "date": date, "min_area_km2": min_area_km2}
    files = map_scene(segmenter, source, folder, **settings)
    if max(source.grid.shape) <= LARGEST_IMAGE:
        image = source.read()
        pixels = np.where(image.valid, image.reflectance, np.nan).astype(np.float32)
        files["image"] = write_raster(
            folder / f"{name}_image.tif", pixels, source.grid,
            nodata=np.nan, descriptions=source.bands,
            tags={"IMAGE_DATE": date, **({"SYNTHETIC": SYNTHETIC} if source.synthetic else {})},
        )  # fmt: skip
    with rasterio.open(files["class"]) as file:
        mask = file.read(1)
    outlines = polygonize_file(files["class"], min_area_km2=min_area_km2)
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


def large_scene(name: str) -> LargeScene:
    """Return the first area and date of a dataset as a scene to be mapped.

    Args:
        name: of the dataset, or its path.

    Raises:
        GlacierError: there is no such dataset.
    """
    data = open_dataset(name)
    area = data.areas[0]
    date = data.dates(area)[0]
    source, classes = data.source(area, date), data.scene_classification(area, date)
    cloud = None
    if classes is not None:
        cloud = thumbnail_mask(cloud_mask(source, scl=classes)) > 0
    return LargeScene(data.name, date, source, cloud)


def reduced(mask: np.ndarray, view: Image) -> np.ndarray:
    """Return every n-th pixel of a scene's mask, on the grid of its ``exploration.thumbnail``."""
    step = -(-max(mask.shape) // max(view.valid.shape))
    return mask[::step, ::step]


def seen_from_afar(scene: LargeScene, product: Product) -> tuple[Image, np.ndarray]:
    """Return the thumbnail of a scene, and its class map on it, unknown where there is cloud."""
    view = thumbnail(scene.source)
    mask = reduced(product.mask, view)
    return view, mask if scene.cloud is None else np.where(scene.cloud, UNKNOWN, mask)


def product_table(products: Mapping[tuple[str, str], Product]) -> pd.DataFrame:
    """Return area, date, polygons (number) and area_km2 of the predictions, per product."""
    columns = ["area", "date", "polygons", "area_km2"]
    rows = [
        (area, date, len(product.outlines), round(float(product.outlines["area_km2"].sum()), 1))
        for (area, date), product in products.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def check_products(
    products: Mapping[Any, Product], sources: Mapping[Any, Source]
) -> dict[str, int | bool]:
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
        missing = ~sources[name].read().valid
        for kind in ("image", "probability", "class"):
            if kind not in product.files:
                continue
            with rasterio.open(product.files[kind]) as file:
                grid = Grid(file.crs, file.transform, file.height, file.width)
                overviews = file.overviews(1) or max(file.shape) <= max(file.block_shapes[0])
                grids.append(grid.matches(product.grid) and bool(overviews))
                if kind != "image":
                    nodata.append(np.array_equal(file.read(1) == UNKNOWN, missing))
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
