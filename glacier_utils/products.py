"""From a scene to files that people can use: probability, class, outlines and what made them.

A scene of any size is mapped in little memory; files get their names when they are whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import date as calendar_date
from pathlib import Path
from typing import Any

from glacier_utils import memory
from glacier_utils.adaptation import adapt_to_source
from glacier_utils.analyses import image_day
from glacier_utils.checkpoints import Segmenter, load_checkpoint
from glacier_utils.errors import GlacierError
from glacier_utils.files import file_fingerprint, fingerprint
from glacier_utils.folding import fold_batch_norm
from glacier_utils.glims import write_glims
from glacier_utils.imagery import Reflectance, Source, open_source
from glacier_utils.paths import local_file
from glacier_utils.prediction import Mapper, Plan
from glacier_utils.rasters import open_raster
from glacier_utils.stac import write_item
from glacier_utils.styles import probability_qml, write_qml
from glacier_utils.tracing import trace_file
from glacier_utils.unfinished import Unfinished

# Changed whenever a scene mapped before must not go on, or pass as finished, with the present code.
FORMAT = 3
_INPUTS = "INPUTS"  # tag of the rasters: a hash of all that they were made from
_DATE_IN_NAME = re.compile(r"(?<!\d)(20\d\d)-?([01]\d)-?([0-3]\d)(?=T\d{6}|[^\d]|$)")

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
    bounds: Sequence[float] | None = None,
    window: int | None = None,
    overlap: int = 64,
    flips: bool = False,
    adapt: bool = False,
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
        bands: as of ``open_source``; None: the model's bands in its order.
        scale, offset, nodata: of the scene's numbers, reflectance = (DN + offset) / scale; None:
            as the scene's metadata or tags tell, else as in the training, else 10000, 0 and the
            file's own tag.
        bounds: part of the scene, in its CRS.
        window, overlap, flips: as of ``prediction.Plan`` and ``Mapper``.
        adapt: take the statistics in batch normalisations anew from windows of the scene
            (``adaptation.adapt``). Models of per-scene normalisation are always fitted to it.
        min_area_km2: smaller predicted glaciers are left out of the outlines (not of the rasters).
        outlines: whether to draw outlines. Scenes without CRS never get any.
        progress: show a bar.

    Returns:
        Kind -> file: ``probability`` (uint8, probability = number x 0.004, 255 no data), ``class``
        (0, 1, 255), both cloud-optimised GeoTIFFs; ``outlines`` (GeoPackage in the GLIMS schema);
        ``item`` (STAC, written last). Beside the probability lies its style for QGIS (``.qml``).

    Raises:
        GlacierError: an unreadable checkpoint or scene, a missing band, a date that is none, a disk
            without room.
    """
    if date:
        image_day(date)  # refuses what is none before the work, not after it
    models = _models(checkpoint, fold=not adapt)
    source = _source(scene, bands, bounds, models[0][1], scale, offset, nodata)
    models = [(name, adapt_to_source(model, source, batch_norm=adapt)) for name, model in models]
    mapper = Mapper([model for _, model in models], flips=flips)
    plan = Plan(mapper, source, window=window, overlap=overlap)
    files = product_files(out, name or _name(source))
    date = date or date_in_name(source)
    about = _about(models, source, plan, date) | ({"adapted": "batch statistics"} if adapt else {})
    mapped = fingerprint([FORMAT, about, _image(source)])
    inputs = fingerprint([mapped, outlines, min_area_km2])
    del models  # the mapper has its own weights, in the number format of the passes
    memory.trim(collect=True)
    if not outlines or source.grid.crs is None:
        files.pop("outlines")
    if _finished(files, inputs):
        return files
    if not _mapped(files, mapped):
        tags = {key.upper(): _text(value) for key, value in about.items()} | {_INPUTS: mapped}
        with Unfinished(files["probability"], mapped, source.grid.shape) as work:
            work.fill(plan, progress)
            work.finish(files, source.grid, tags)
        write_qml(files["probability"], probability_qml())
    if "outlines" in files:
        _write_outlines(files, source, about, date, min_area_km2, progress)
    made = {kind: path for kind, path in files.items() if kind != "item"}
    properties = about | {"inputs": inputs}
    write_item(files["item"], grid=source.grid, date=date, assets=made, properties=properties)
    return files


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
        "outlines": folder / f"{name}_outlines.gpkg",
        "item": folder / f"{name}.json",
    }


def date_in_name(source: Source) -> str:
    """Return the date in the name of a scene's file as YYYY-MM-DD, "" where there is none."""
    for path in source.paths:
        for part in (path.name, path.parent.name):
            for found in _DATE_IN_NAME.finditer(part):
                try:
                    return calendar_date(*map(int, found.groups())).isoformat()
                except ValueError:
                    continue
    return ""


def _models(checkpoint: Checkpoints, *, fold: bool = True) -> list[tuple[str, Segmenter]]:
    """Load the models; return the name and hash of each file with its model."""
    given = [checkpoint] if isinstance(checkpoint, str | Path | Segmenter) else list(checkpoint)
    models = []
    for item in given:
        if isinstance(item, Segmenter):
            weights = hashlib.sha256()
            for key, value in item.state_dict().items():
                weights.update(key.encode())
                weights.update(value.cpu().contiguous().numpy().tobytes())
            models.append((f"{item.name} sha256:{weights.hexdigest()}", item))
        else:
            model = load_checkpoint(item)
            if fold:  # the weights before it are not needed again
                model.network = fold_batch_norm(model.network, len(model.bands))
            with open(item, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            models.append((f"{Path(item).name} sha256:{digest}", model))
    return models


def _source(
    scene: Any,
    bands: Sequence[str] | Mapping[str, Any] | None,
    bounds: Sequence[float] | None,
    segmenter: Segmenter,
    scale: float | None,
    offset: float | None,
    nodata: float | None,
) -> Source:
    """Open a scene with the rule its files tell, or that is given, else that of the training."""
    if isinstance(scene, Source):
        return scene
    given = {"scale": scale, "offset": offset, "nodata": nodata}
    given = {name: value for name, value in given.items() if value is not None}
    trained = segmenter.provenance.get("reflectance") or {}
    bands = bands or segmenter.bands
    source = open_source(
        scene, bands=bands, reflectance=Reflectance(**given) if given else None, bounds=bounds
    )
    if source.reflectance_source == "default":
        rule = Reflectance(**{**trained, **given})
        source = open_source(scene, bands=bands, reflectance=rule, bounds=bounds)
    for line in source.warnings:
        logging.getLogger(__name__).warning(line)
    return source


def _name(source: Source) -> str:
    """Return a name for the files of a scene: its file's, or its product's."""
    first = source.paths[0]
    for part in (first, *first.parents):
        if part.suffix.upper() == ".SAFE":
            return part.stem
    return first.stem if len(source.paths) == 1 else first.parent.name or first.stem


def _about(
    models: Sequence[tuple[str, Segmenter]], source: Source, plan: Plan, date: str
) -> dict[str, Any]:
    """Return what made a map: the tags of its files and the properties of its item."""
    mapper = plan.mapper
    rule = source.reflectance
    return {
        "model": mapper.name,
        "checkpoint": ", ".join(name for name, _ in models),
        "trained_on": ", ".join(str(model.provenance.get("store", "")) for _, model in models),
        "scene": ", ".join(path.name for path in source.paths[:8]),
        "image_date": date,
        "bands": ", ".join(mapper.bands),
        "reflectance": rule.words if isinstance(rule, Reflectance) else "",
        "threshold": mapper.threshold,
        "temperature": ", ".join(f"{model.temperature:g}" for _, model in models),
        "window_px": f"{plan.rows.size} x {plan.cols.size}",
        "overlap_px": plan.rows.overlap,
        "flips": mapper.flips,
        "precision": mapper.precision,
    }


def _image(source: Source) -> list[Any]:
    """Return what tells one image from another without reading its pixels."""
    local = [local_file(path) for path in source.paths]
    files = [
        file_fingerprint(path) if path is not None and path.exists() else str(name)
        for path, name in zip(local, source.paths, strict=True)
    ]
    grid = source.grid
    where = None if grid.crs is None else str(grid.crs)
    return [files, source.bands, where, list(grid.transform)[:6], list(grid.shape)]


def _finished(files: Mapping[str, Path], inputs: str) -> bool:
    """Say whether all files are there and made of these inputs, as the item says."""
    if not all(path.is_file() for path in files.values()):
        return False
    try:
        content = json.loads(files["item"].read_text(encoding="utf-8"))
        return content["properties"]["glacier:inputs"] == inputs
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _mapped(files: Mapping[str, Path], inputs: str) -> bool:
    """Say whether both rasters are there and made of these inputs, as their tags say."""
    for kind in ("probability", "class"):
        if not files[kind].is_file():
            return False
        try:
            with open_raster(files[kind]) as file:
                if file.tags().get(_INPUTS) != inputs:
                    return False
        except GlacierError:
            return False
    return True


def _write_outlines(
    files: Mapping[str, Path],
    source: Source,
    about: Mapping[str, Any],
    date: str,
    min_area_km2: float,
    progress: bool,
) -> None:
    polygons = trace_file(files["class"], min_area_km2=min_area_km2, progress=progress)
    write_glims(
        polygons,
        files["outlines"],
        source_date=date or None,
        method=f"{about['model']}, threshold {about['threshold']:g}",
        model=about["checkpoint"],
        uncertainty_m=source.grid.resolution,  # a pixel: what the image can show
    )


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
