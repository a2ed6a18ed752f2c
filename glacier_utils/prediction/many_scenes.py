"""Mapping many scenes: one task each, on one process or many, and their maps put together.

A scene whose files are there and whole (``scenes.finished``) is not mapped again; one that fails
stops no other. What became of each is kept beside the maps. A task does not depend on where it
runs, and may be started again after half of it was done: a worker may be lost at any moment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from glacier_utils.errors import GlacierError, plain
from glacier_utils.files import fingerprint, remove_unfinished, write_csv, write_json
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.outlines.glims import write_glims
from glacier_utils.prediction.cluster import Lost, compute, connect
from glacier_utils.prediction.mosaic import MappedScene, merge
from glacier_utils.prediction.scene_lists import SceneRef, list_scenes, public_names
from glacier_utils.prediction.scenes import assumed_rules, checkpoint_hash, finished, map_scene
from glacier_utils.prediction.stac import read_item
from glacier_utils.raster.io import read_header
from glacier_utils.raster.paths import is_virtual

RECORD, TABLE, OUTLINES = "scenes.json", "scenes.csv", "mosaic_outlines.gpkg"
KINDS = ("probability", "class", "outlines", "item")


@dataclass(frozen=True)
class Outcome:
    """What one scene became.

    ``status``: "mapped", "unchanged" (finished before) or "failed", then with ``error``;
    ``user_error`` says that it is a mistake the user can mend. ``warnings``: what a person should
    look at. ``files``: kind -> path.
    """

    name: str
    status: str
    seconds: float = 0.0
    error: str = ""
    user_error: bool = False
    date: str = ""
    warnings: Sequence[str] = ()
    files: dict[str, Path] = field(default_factory=dict)


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
        """Return a line of counts, one for each failure, warning and note, and the mosaics."""
        counts = Counter(scene.status for scene in self.scenes)
        order = ("mapped", "unchanged", "failed")
        told = ", ".join(f"{counts[status]} {status}" for status in order if counts[status])
        lines = [f"{len(self.scenes)} scenes: {told}; each stands in {self.folder / TABLE}"]
        lines += [f"failed: {scene.name}: {scene.error}" for scene in self.failed]
        lines += [f"look at {one.name}: {line}" for one in self.scenes for line in one.warnings]
        lines += assumed_rules(one.files for one in self.scenes)
        lines += self.notes
        made = [path for paths in self.mosaics.values() for path in paths]
        lines += [str(path) for path in [*made, *([self.outlines] if self.outlines else [])]]
        return lines


@dataclass(frozen=True)
class _Job:
    """All that a worker needs for one scene; ``settings``: of ``map_scene``, with the name."""

    scene: SceneRef
    checkpoint: Path | list[Path]
    folder: Path
    settings: dict[str, Any]
    map_one: Callable[..., Mapping[str, Path]]

    @property
    def arguments(self) -> tuple[Any, ...]:
        images = self.scene.images
        return self.checkpoint, images if isinstance(images, str) else list(images), self.folder


def map_scenes(
    checkpoint: str | Path | Sequence[str | Path],
    scenes: str | Path | Iterable[str | Path | SceneRef],
    out: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    retries: int = 2,
    progress: bool = True,
    map_one: Callable[..., Mapping[str, Path]] = map_scene,
    **settings: Any,
) -> Campaign:
    """Map scenes into the folder ``out``, then put the maps of two or more together.

    ``scenes.json`` and ``scenes.csv`` in the folder say what became of each scene; they are up to
    date whenever a scene ends. The maps do not depend on how many workers there are.

    Args:
        checkpoint: a file, or several for an ensemble.
        scenes: what ``scene_lists.list_scenes`` takes. Where they overlap the first counts, see
            ``mosaic.merge``.
        out: folder of the products, ``<name>_probability.tif`` and so on.
        workers: number of processes of this machine, each with its part of the cores; None or 0
            maps one scene after the other in this process.
        scheduler: address of a running Dask scheduler, such as tcp://10.0.0.5:8786; its workers
            need this package and the same paths.
        retries: further tries of a scene that failed, or whose worker was lost. A mistake in a
            scene on the disk is not tried again; one on the web may be the network's.
        progress: show a bar.
        map_one: in the place of ``scenes.map_scene``; importable where there are workers.
        settings: further arguments of it. What is None or "" is left out; the others count before
            what a list of scenes tells.

    Raises:
        GlacierError: before any work, a mistake in the arguments.
    """
    out = Path(out).absolute()
    if out.exists() and not out.is_dir():
        raise GlacierError(f"{out}: is a file; many scenes go into a folder, name one")
    # One start decides for all: a path means the same to each worker, wherever it runs.
    given = [checkpoint] if isinstance(checkpoint, str | Path) else list(checkpoint)
    paths = [Path(path).absolute() for path in given]
    if not paths:
        raise GlacierError("no checkpoint is named; name one, or several for an ensemble")
    settings = {key: value for key, value in settings.items() if value not in (None, "")}
    found = list_scenes(scenes)
    record = Record(out, [checkpoint_hash(path) for path in paths])
    if map_one is map_scene:
        for path in paths:
            load_checkpoint(path)  # a mistake is told here, not once for each scene
    jobs = []
    for scene in found:
        record.refuse_other(scene)
        named = scene.settings | settings | {"name": scene.name}
        jobs.append(_Job(_absolute(scene), paths, out, named, map_one))
    out.mkdir(parents=True, exist_ok=True)
    for pattern in (".scenes.*", ".mosaic*"):
        remove_unfinished(out, pattern)
    outcomes: dict[str, Outcome] = {}
    for job in jobs:
        if (outcome := _earlier(job, record)) is not None:
            outcomes[outcome.name] = outcome
    left = [job for job in jobs if job.scene.name not in outcomes]
    if progress and len(left) == 1 and not workers and not scheduler:
        # A bar of one step tells nothing; the scene's own does.
        left[0].settings["progress"] = True
    with tqdm(
        total=len(left), desc="scenes", unit="scene", disable=not progress or len(left) < 2
    ) as bar:
        for job, outcome in _run(left, workers, scheduler, retries) if left else ():
            outcomes[outcome.name] = outcome
            record.add(outcome, job.scene)
            bar.update()
            if outcome.status == "failed" and not bar.disable:
                bar.write(f"failed: {outcome.name}: {outcome.error}", file=sys.stderr)
    ordered = [outcomes[scene.name] for scene in found]
    record.write_table(ordered)
    return _put_together(Campaign(out, ordered), record, settings)


def _absolute(scene: SceneRef) -> SceneRef:
    images = [scene.images] if isinstance(scene.images, str) else scene.images
    images = tuple(image if is_virtual(image) else os.path.abspath(image) for image in images)
    return replace(scene, images=images[0] if isinstance(scene.images, str) else images)


def _earlier(job: _Job, record: Record) -> Outcome | None:
    """Return what a scene became before, or why it cannot be read; None where it is to do."""
    name = job.scene.name
    try:
        files = finished(*job.arguments, **job.settings)
    except GlacierError as error:
        outcome = Outcome(name, "failed", error=plain(error), user_error=True)
        record.add(outcome, job.scene)
        return outcome
    if files is None:
        return None
    before = record.scenes.get(name, {})
    outcome = Outcome(name, "unchanged", before.get("seconds", 0.0), **_told(job, files))
    if not before.get("files"):
        record.add(replace(outcome, status="mapped"), job.scene)
    return outcome


def _told(job: _Job, files: dict[str, Path]) -> dict[str, Any]:
    """Return what an outcome has from a scene's item, and its files."""
    about, _ = read_item(files["item"])
    date = str(job.settings.get("date") or about.get("glacier:image_date") or "")
    return {"date": date, "warnings": about.get("glacier:warnings", []), "files": files}


def _attempt(job: _Job) -> Outcome:
    """Map one scene, in whatever process; say what it became, or which mistake stopped it."""
    start = time.perf_counter()
    name = job.scene.name
    try:
        files = dict(job.map_one(*job.arguments, **job.settings))
    except GlacierError as error:
        if job.scene.on_the_web:
            raise
        return Outcome(name, "failed", time.perf_counter() - start, plain(error), True)
    return Outcome(name, "mapped", time.perf_counter() - start, **_told(job, files))


def _given_up(job: _Job, error: Exception) -> Outcome:
    """Return what a scene became whose last try raised."""
    user_error = isinstance(error, GlacierError)
    told = user_error or isinstance(error, Lost)
    text = str(error) if told else f"{type(error).__name__}: {error}"
    return Outcome(job.scene.name, "failed", 0.0, plain(text)[:500], user_error)


class Record:
    """The files that say what became of each scene; scenes of earlier lists stay in them."""

    def __init__(self, folder: Path, hashes: Sequence[str]) -> None:
        self.folder, self.hashes = folder, list(hashes)
        try:
            content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            self.scenes = {str(key): dict(value) for key, value in content["scenes"].items()}
            self.mosaic = dict(content.get("mosaic") or {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.scenes, self.mosaic = {}, {}  # not there, or not ours

    def refuse_other(self, scene: SceneRef) -> None:
        """Do not overwrite the products of another scene of the same name."""
        before = self.scenes.get(scene.name, {})
        if before.get("files") and before.get("source") != public_names(_absolute(scene).images):
            raise GlacierError(
                f"{self.folder}: holds the map of another scene named {scene.name} "
                f"({plain(', '.join(map(str, before.get('source') or ['?']))[:200])}); choose "
                "another folder, or remove that map and its line in scenes.json"
            )

    def add(self, outcome: Outcome, scene: SceneRef) -> None:
        """Note how a scene ended."""
        self.scenes[outcome.name] = {
            "status": outcome.status,
            "seconds": round(outcome.seconds, 2),
            "error": outcome.error,
            "date": outcome.date,
            "warnings": list(outcome.warnings),
            "source": public_names(scene.images),
            "files": {kind: _relative(path, self.folder) for kind, path in outcome.files.items()},
        }
        self.write()

    def write(self) -> None:
        """Write what is known, for the next start."""
        content = {"checkpoint_sha256": self.hashes, "mosaic": self.mosaic, "scenes": self.scenes}
        write_json(self.folder / RECORD, content)

    def write_table(self, outcomes: Sequence[Outcome]) -> None:
        """Write the scenes of this list as a table for people."""
        rows = [
            {"name": one.name, "status": one.status, "seconds": round(one.seconds, 2),
             "date": one.date, "error": one.error, "warnings": "; ".join(one.warnings),
             **{kind: _relative(one.files[kind], self.folder) if kind in one.files else ""
                for kind in KINDS}}
            for one in outcomes
        ]  # fmt: skip
        write_csv(self.folder / TABLE, pd.DataFrame(rows))


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _put_together(campaign: Campaign, record: Record, settings: Mapping[str, Any]) -> Campaign:
    """Put the maps of all scenes that have one together, unless that was done before."""
    out = campaign.folder
    done = [one for one in campaign.scenes if one.status != "failed" and "class" in one.files]
    if not done or len(campaign.scenes) < 2:
        return campaign
    items = [read_item(one.files["item"])[0] for one in done]
    made_from = [
        [one.name, item.get("glacier:inputs")] for one, item in zip(done, items, strict=True)
    ]
    key = fingerprint(made_from, 16)
    before = record.mosaic
    if before.get("key") != key or not all((out / name).is_file() for name in _listed(before)):
        mapped = [MappedScene(one.name, one.date, one.files) for one in done]
        merged = merge(mapped, out, min_area_km2=settings.get("min_area_km2", 0.0))
        (out / OUTLINES).unlink(missing_ok=True)
        if merged.glaciers is not None:
            method = f"{items[0].get('glacier:model', '')}, mosaic of {len(done)} scenes"
            write_glims(
                merged.glaciers,
                out / OUTLINES,
                source_date=None,  # each glacier has the date of its own scene
                method=method.lstrip(", "),
                model=items[0].get("glacier:checkpoint", ""),
                synthetic=any("glacier:synthetic" in item for item in items),
                uncertainty_m=read_header(done[0].files["class"]).grid.resolution,
            )
        record.mosaic = before = {
            "key": key,
            "rasters": {kind: [p.name for p in paths] for kind, paths in merged.rasters.items()},
            "outlines": OUTLINES if merged.glaciers is not None else None,
            "notes": list(merged.notes),
        }
        record.write()
    return replace(
        campaign,
        mosaics={kind: [out / p for p in paths] for kind, paths in before["rasters"].items()},
        outlines=out / OUTLINES if before["outlines"] else None,
        notes=list(before["notes"]),
    )


def _listed(mosaic: Mapping[str, Any]) -> list[str]:
    names = [name for paths in mosaic.get("rasters", {}).values() for name in paths]
    return [*names, *([OUTLINES] if mosaic.get("outlines") else [])]


def _run(
    jobs: Sequence[_Job], workers: int | None, scheduler: str | None, retries: int
) -> Iterator[tuple[_Job, Outcome]]:
    """Map the scenes; give each with what it became as it ends."""
    for name, number in (("workers", workers or 0), ("retries", retries)):
        if number < 0:
            raise GlacierError(f"--{name} {number}: must be 0 or more")

    if scheduler and workers:
        raise GlacierError(
            f"--workers {workers} and --scheduler {scheduler}: give one of them; workers of a "
            "cluster are started with `dask worker`"
        )
    if scheduler or workers:
        with connect(min(workers or 0, len(jobs)), scheduler, retries) as client:
            yield from _there(client, jobs, retries)
    else:
        yield from _here(jobs, retries)


def _here(jobs: Sequence[_Job], retries: int) -> Iterator[tuple[_Job, Outcome]]:
    for job in jobs:
        for _ in range(retries + 1):
            try:
                outcome = _attempt(job)
                break
            except Exception as error:
                outcome = _given_up(job, error)
        yield job, outcome


def _there(client: Any, jobs: Sequence[_Job], retries: int) -> Iterator[tuple[_Job, Outcome]]:
    named = {job.scene.name: job for job in jobs}
    for name, found in compute(client, _attempt, named, retries):
        job = named[name]
        yield job, _given_up(job, found) if isinstance(found, Exception) else found
