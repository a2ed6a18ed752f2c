"""From a scene to files that people can use: probability, class, outlines and what made them.

A scene of any size is mapped in little memory. What is finished goes to a folder beside the result,
from which an interrupted run goes on; files get their names when they are whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import date as calendar_date
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from glacier_utils.checkpoints import Segmenter, load_checkpoint
from glacier_utils.cogs import Layer, cog_from_bytes
from glacier_utils.errors import GlacierError
from glacier_utils.files import file_fingerprint, fingerprint, write_json
from glacier_utils.glims import write_glims
from glacier_utils.imagery import Reflectance, Source, open_source
from glacier_utils.metrics import UNKNOWN, classify
from glacier_utils.paths import local_file
from glacier_utils.prediction import Block, Mapper, Plan
from glacier_utils.stac import SCALE, write_item
from glacier_utils.styles import probability_qml, write_qml
from glacier_utils.tracing import trace_file

# Changed whenever a scene mapped before must not go on, or pass as finished, with the present code.
FORMAT = 1
# The colours of `plots.CLASS_COLOURS`, so that QGIS shows the classes as the reports do.
CLASS_COLOURMAP = {0: (216, 210, 196, 255), 1: (86, 180, 233, 255), 255: (127, 127, 127, 255)}
_DATE_IN_NAME = re.compile(r"(?<!\d)(20\d\d)-?([01]\d)-?([0-3]\d)(?=T\d{6}|[^\d]|$)")
_ROWS = 128  # written at a time
# Bytes a pixel of the two maps while they are made and turned into files; overviews add a third.
_BYTES_A_PIXEL = 2 * (1 + 1 / 3 + 1)

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
    min_area_km2: float = 0.0,
    outlines: bool = True,
    progress: bool = False,
) -> dict[str, Path]:
    """Map the glaciers of a scene into files that open in QGIS.

    The same call again does nothing where its files are there and made of the same inputs, and goes
    on after the last finished strip where it was interrupted.

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
    models = _models(checkpoint)
    source = _source(scene, bands, bounds, models[0][1], scale, offset, nodata)
    mapper = Mapper([model for _, model in models], flips=flips)
    plan = Plan(mapper, source, window=window, overlap=overlap)
    files = product_files(out, name or _name(source))
    date = date or date_in_name(source)
    about = _about(models, source, plan, date)
    drawn = {"outlines": outlines, "min_area_km2": min_area_km2}
    inputs = fingerprint([FORMAT, about, _image(source), drawn])
    if not outlines or source.grid.crs is None:
        files.pop("outlines")
    if _finished(files, inputs):
        return files
    with _Partial(files["probability"], inputs, source.grid.shape) as partial:
        partial.fill(plan, progress)
        partial.finish(files, source, about)
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


class _Partial:
    """The folder of a map in the making: bytes of probability and class, and how far they are.

    It stays where the work breaks off, and goes when it is finished.
    """

    def __init__(self, target: Path, inputs: str, shape: tuple[int, int]) -> None:
        self.folder = target.with_name(f".{target.stem}.partial")
        self.shape = shape
        self._inputs = inputs
        self._target = target
        self._files = {kind: self.folder / f"{kind}.raw" for kind in ("probability", "class")}

    def __enter__(self) -> _Partial:
        with self._room():
            self.finished = self._resume()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Say in a line that the disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise GlacierError(_no_room(self._target, self.shape)) from error

    def fill(self, plan: Plan, progress: bool) -> None:
        """Map what is missing; each block is on the disk before it counts as finished."""
        bar = tqdm(
            total=len(plan), initial=self.finished, desc="map", unit="strip", disable=not progress
        )
        with self._room(), bar, ThreadPoolExecutor(1, "write") as pool:
            writing: Future | None = None
            for number, block in enumerate(plan.blocks(self.finished), start=self.finished + 1):
                if writing is not None:
                    writing.result()
                writing = pool.submit(self._write, block, plan.mapper.threshold, number)
                bar.update()
            if writing is not None:
                writing.result()

    def finish(self, files: Mapping[str, Path], source: Source, about: Mapping[str, Any]) -> None:
        """Turn the bytes into the two GeoTIFFs, side by side."""
        tags = {key.upper(): _text(value) for key, value in about.items()}
        layers = {
            "probability": Layer("probability", scale=SCALE, average=True, tags=tags),
            "class": Layer("class", colours=CLASS_COLOURMAP, tags=tags),
        }
        with self._room(), ThreadPoolExecutor(len(layers)) as pool:
            made = [
                pool.submit(cog_from_bytes, self._files[kind], files[kind], source.grid, layer)
                for kind, layer in layers.items()
            ]
            for one in made:
                one.result()
        write_qml(files["probability"], probability_qml())

    def _resume(self) -> int:
        """Return how many blocks are finished; begin anew where they are of other inputs."""
        try:
            state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            size = self.shape[0] * self.shape[1]
            if state["inputs"] == self._inputs and all(
                path.stat().st_size == size for path in self._files.values()
            ):
                return int(state["blocks"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        free = shutil.disk_usage(self.folder).free
        if free < _BYTES_A_PIXEL * self.shape[0] * self.shape[1]:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise GlacierError(_no_room(self._target, self.shape))
        for path in self._files.values():
            with open(path, "wb") as file:
                file.truncate(self.shape[0] * self.shape[1])
        return 0

    def _write(self, block: Block, threshold: float, number: int) -> None:
        """Write a block a few rows at a time: its numbers take several copies on their way."""
        with ExitStack() as stack:
            files = {
                kind: stack.enter_context(open(path, "r+b")) for kind, path in self._files.items()
            }
            for start in range(0, len(block.probability), _ROWS):
                part = block.probability[start : start + _ROWS]
                valid = ~np.isnan(part)
                steps = np.rint(np.where(valid, part, 0) / np.float32(SCALE))
                maps = {
                    "probability": np.where(valid, steps, UNKNOWN).astype(np.uint8),
                    "class": classify(part, threshold),
                }
                for kind, values in maps.items():
                    self._put(files[kind], values, block.row + start, block.col)
        write_json(self.folder / "state.json", {"inputs": self._inputs, "blocks": number})

    def _put(self, file: BinaryIO, values: np.ndarray, row: int, col: int) -> None:
        width = self.shape[1]
        lines = [values] if values.shape[1] == width else values
        for number, line in enumerate(lines):
            file.seek((row + number) * width + col)
            file.write(line.tobytes())


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _no_room(target: Path, shape: tuple[int, int]) -> str:
    needed = _BYTES_A_PIXEL * shape[0] * shape[1] / 1e6
    return (
        f"{target.parent}: no room on this disk; the map needs about {needed:.0f} MB while it is "
        "made. Make room and run again: it goes on where it stopped"
    )


def _models(checkpoint: Checkpoints) -> list[tuple[str, Segmenter]]:
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
