"""Mapping many scenes: one task each, on one process or many, and their maps put together.

A scene that is finished is not mapped again unless its files, the checkpoint or the settings
changed; one that fails stops no other.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from glacier_utils.catalogue import is_web_address, public_address
from glacier_utils.errors import GlacierError, plain
from glacier_utils.files import file_fingerprint, fingerprint
from glacier_utils.imagery import input_files
from glacier_utils.paths import is_virtual
from glacier_utils.rasters import read_header
from glacier_utils.scene_lists import SceneRef, list_scenes
from glacier_utils.scene_records import TABLE, Outcome, Record, item_properties
from glacier_utils.workers import run_tasks

OUTLINES = "mosaic_outlines.gpkg"


@dataclass(frozen=True)
class Campaign:
    """What many scenes became: each scene in order, mosaics (kind -> VRTs) and merged outlines."""

    folder: Path
    scenes: list[Outcome]
    mosaics: dict[str, list[Path]] = field(default_factory=dict)
    outlines: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        """The scenes that could not be mapped."""
        return [scene for scene in self.scenes if scene.status == "failed"]

    @property
    def status(self) -> int:
        """Exit status: 0 all mapped, 2 only mistakes of the user, 1 anything else."""
        if not self.failed:
            return 0
        return 2 if all(scene.user_error for scene in self.failed) else 1

    def summary(self) -> list[str]:
        """Return a line of counts, a line for each failure and note, and where the mosaics are."""
        counts = Counter(scene.status for scene in self.scenes)
        order = ("mapped", "unchanged", "failed")
        told = ", ".join(f"{counts[status]} {status}" for status in order if counts[status])
        lines = [f"{len(self.scenes)} scenes: {told}; each stands in {self.folder / TABLE}"]
        lines += [f"failed: {scene.name}: {scene.error}" for scene in self.failed]
        lines += self.notes
        made = [path for paths in self.mosaics.values() for path in paths]
        lines += [str(path) for path in [*made, *([self.outlines] if self.outlines else [])]]
        return lines


@dataclass(frozen=True)
class _Job:
    """All that a worker needs for one scene."""

    scene: SceneRef
    checkpoint: Any
    folder: Path
    settings: dict[str, Any]
    map_one: Callable[..., Mapping[str, Path]] | None


def map_scenes(
    checkpoint: str | Path | Sequence[str | Path],
    scenes: str | Path | Iterable[str | Path | SceneRef],
    out: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    retries: int = 2,
    merged: bool = True,
    progress: bool = True,
    map_one: Callable[..., Mapping[str, Path]] | None = None,
    **settings: Any,
) -> Campaign:
    """Map scenes into the folder ``out``, then put their maps together.

    ``scenes.json`` and ``scenes.csv`` in the folder say what became of each scene; they are up to
    date whenever a scene ends. The maps do not depend on how many workers there are.

    Args:
        checkpoint: a file, or several for an ensemble.
        scenes: what ``scene_lists.list_scenes`` takes. Where they overlap the first counts, see
            ``merging.merge``.
        out: folder of the products, ``<name>_probability.tif`` and so on.
        workers, scheduler, retries: as in ``workers.run_tasks``. A mistake in a scene on the disk
            is not tried again; one on the web may be the network's.
        merged: put mosaics and one file of outlines beside the products of two scenes or more.
        progress: show a bar.
        map_one: in the place of ``products.map_scene``; importable where there are workers.
        settings: further arguments of it. What is None or "" is left out; the others count before
            what a list of scenes tells.

    Raises:
        GlacierError: before any work, a mistake in the arguments.
    """
    out = Path(out).absolute()
    if out.exists() and not out.is_dir():
        raise GlacierError(f"{out}: is a file; many scenes go into a folder, name one")
    # One start decides for all: the folder means the same to each worker, wherever it runs.
    checkpoint = _absolute_checkpoint(checkpoint)
    settings = {key: value for key, value in settings.items() if value not in (None, "")}
    found = list_scenes(scenes)
    hashes = _checkpoint_hashes(checkpoint, check=map_one is None)
    out.mkdir(parents=True, exist_ok=True)
    record = Record(out, hashes)
    jobs = [_job(scene, checkpoint, out, settings, map_one) for scene in found]
    keys, outcomes = _finished(jobs, hashes, record)
    left = [job for job in jobs if job.scene.name not in outcomes]
    if progress and len(left) == 1 and not workers and not scheduler:
        # A bar of one step tells nothing; the scene's own does.
        left[0].settings["progress"] = True
    cluster = {"workers": min(workers, len(left)) if workers else workers, "scheduler": scheduler}
    with tqdm(
        total=len(left), desc="scenes", unit="scene", disable=not progress or len(left) < 2
    ) as bar:
        names = [job.scene.name for job in left]
        ended = run_tasks(_attempt, left, names=names, retries=retries, **cluster) if left else ()
        for position, result, error in ended:
            outcome = _outcome(left[position], result, error)
            outcomes[outcome.name] = outcome
            record.add(outcome, keys[outcome.name], _source(left[position].scene))
            bar.update()
            if outcome.status == "failed" and not bar.disable:
                bar.write(f"failed: {outcome.name}: {outcome.error}", file=sys.stderr)
    ordered = [outcomes[scene.name] for scene in found]
    record.write_table(ordered)
    if not merged or len(found) < 2:
        return Campaign(out, ordered)
    return _merged(out, ordered, record, keys, settings)


def _finished(
    jobs: Sequence[_Job], hashes: Sequence[str], record: Record
) -> tuple[dict[str, str], dict[str, Outcome]]:
    """Return the key of each scene, and the outcomes of those that need no work."""
    for job in jobs:
        record.refuse_other(job.scene.name, _source(job.scene))
    keys: dict[str, str] = {}
    outcomes: dict[str, Outcome] = {}
    for job in jobs:
        name = job.scene.name
        try:
            keys[name] = _key(job, hashes)
        except GlacierError as error:
            outcomes[name] = Outcome(name, "failed", 0.0, plain(error), True)
            record.add(outcomes[name], "", _source(job.scene))
            continue
        before = record.finished(name, keys[name])
        if before is not None:
            outcomes[name] = before
    return keys, outcomes


def _absolute_checkpoint(checkpoint: Any) -> Any:
    if isinstance(checkpoint, str | Path):
        return Path(checkpoint).absolute()
    paths = [Path(path).absolute() for path in checkpoint]
    if not paths:
        raise GlacierError("no checkpoint is named; name one, or several for an ensemble")
    return paths


def _checkpoint_hashes(checkpoint: Path | list[Path], *, check: bool) -> list[str]:
    hashes = []
    for path in [checkpoint] if isinstance(checkpoint, Path) else checkpoint:
        if not path.is_file():
            raise GlacierError(f"{path}: no such checkpoint; train a model first or check the path")
        if check:
            from glacier_utils.checkpoints import load_checkpoint

            # Here, not once for each scene.
            load_checkpoint(path)
        with path.open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashes


def _job(
    scene: SceneRef, checkpoint: Any, out: Path, settings: Mapping[str, Any], map_one: Any
) -> _Job:
    images = scene.images
    images = _absolute(images) if isinstance(images, str) else tuple(map(_absolute, images))
    here = SceneRef(scene.name, images, scene.date, scene.bands, scene.scale, scene.offset)
    return _Job(here, checkpoint, out, {**scene.settings, **settings}, map_one)


def _absolute(image: str) -> str:
    return image if is_virtual(image) else os.path.abspath(image)


def _source(scene: SceneRef) -> list[str]:
    """Return where a scene comes from, without the signatures of web addresses."""
    images = [scene.images] if isinstance(scene.images, str) else list(scene.images)
    return [public_address(image) if is_web_address(image) else image for image in images]


def _key(job: _Job, hashes: Sequence[str]) -> str:
    """Return a hash of all that a scene's products are made from."""
    images = job.scene.images if isinstance(job.scene.images, str) else list(job.scene.images)
    files = [file_fingerprint(path) for path in input_files(images)]
    # The signature of an address is another each time that a search is saved.
    settings = {key: _unsigned(value) if key == "bands" else value
                for key, value in job.settings.items()}  # fmt: skip
    made_by = version("glacier-utils")
    return fingerprint([_source(job.scene), files, list(hashes), settings, made_by], 16)


def _unsigned(bands: Any) -> Any:
    if isinstance(bands, Mapping):
        return {key: _unsigned(value) for key, value in bands.items()}
    return bands.partition("?")[0] if isinstance(bands, str) else bands


def _attempt(job: _Job) -> dict[str, Any]:
    """Map one scene, in whatever process; return its files, or the mistake that stopped it."""
    map_one = job.map_one
    if map_one is None:
        from glacier_utils.products import map_scene as map_one
    images = job.scene.images if isinstance(job.scene.images, str) else list(job.scene.images)
    start = time.perf_counter()
    try:
        files = map_one(job.checkpoint, images, job.folder, name=job.scene.name, **job.settings)
    except GlacierError as error:
        if job.scene.on_the_web:
            raise
        return {"error": plain(error), "seconds": time.perf_counter() - start}
    return {"files": {kind: Path(path) for kind, path in files.items()},
            "seconds": time.perf_counter() - start}  # fmt: skip


def _outcome(job: _Job, result: Any, error: BaseException | None) -> Outcome:
    name = job.scene.name
    if error is not None:
        user = isinstance(error, GlacierError)
        told = str(error) if user else f"{type(error).__name__}: {error}"
        if type(error) is RuntimeError:
            told = str(error)
        return Outcome(name, "failed", 0.0, plain(told)[:500], user)
    if "error" in result:
        return Outcome(name, "failed", result["seconds"], result["error"], True)
    files = result["files"]
    about = item_properties(files.get("item"))
    date = str(job.settings.get("date") or about.get("glacier:image_date") or "")
    return Outcome(name, "mapped", result["seconds"], date=date, files=files)


def _merged(
    out: Path,
    outcomes: list[Outcome],
    record: Record,
    keys: Mapping[str, str],
    settings: Mapping[str, Any],
) -> Campaign:
    """Put the maps of all scenes that have one together, unless that was done before."""
    from glacier_utils.merging import MappedScene, merge

    done = [one for one in outcomes if one.status != "failed" and "class" in one.files]
    if not done:
        return Campaign(out, outcomes)
    key = fingerprint([[one.name, keys[one.name]] for one in done], 16)
    before = record.mosaic
    if before.get("key") == key and all((out / path).is_file() for path in _listed(before)):
        rasters = {
            kind: [out / path for path in paths] for kind, paths in before["rasters"].items()
        }
        outlines = out / before["outlines"] if before.get("outlines") else None
        return Campaign(out, outcomes, rasters, outlines, list(before.get("notes", [])))
    limits = {name: settings[name] for name in ("min_area_km2", "max_hole_km2") if name in settings}
    merged = merge(
        [MappedScene(one.name, one.date, one.files) for one in done], out,
        outlines=settings.get("outlines", True), **limits,
    )  # fmt: skip
    resolution = read_header(done[0].files["class"]).grid.resolution
    outlines = _write_outlines(merged.glaciers, out, done, resolution)
    record.mosaic = {
        "key": key,
        "rasters": {kind: [path.name for path in paths] for kind, paths in merged.rasters.items()},
        "outlines": outlines.name if outlines else None,
        "notes": list(merged.notes),
    }
    record.write()
    return Campaign(out, outcomes, merged.rasters, outlines, list(merged.notes))


def _listed(mosaic: Mapping[str, Any]) -> list[str]:
    names = [name for paths in mosaic.get("rasters", {}).values() for name in paths]
    return [*names, *([mosaic["outlines"]] if mosaic.get("outlines") else [])]


def _write_outlines(
    glaciers: Any, out: Path, done: Sequence[Outcome], resolution: float
) -> Path | None:
    from glacier_utils.glims import write_glims

    path = out / OUTLINES
    path.unlink(missing_ok=True)
    if glaciers is None:
        return None
    about = item_properties(done[0].files.get("item"))
    method = f"{about.get('glacier:model', '')}, mosaic of {len(done)} scenes"
    # Each glacier has the date of its own scene.
    return write_glims(
        glaciers, path, source_date=None, method=method.lstrip(", "),
        model=about.get("glacier:checkpoint", ""), uncertainty_m=resolution,
    )  # fmt: skip
