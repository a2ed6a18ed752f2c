"""What became of each scene of a campaign, kept beside the products for the next start.

Running tasks that fail one by one: in this process, on local workers, or on a Dask cluster.

A task must not depend on where it runs, and must survive being started again after half of it was
done: a worker may be lost at any moment.

Mapping many scenes: one task each, on one process or many, and their maps put together.

A scene that is finished is not mapped again unless its files, the checkpoint or the settings
changed; one that fails stops no other.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from glacier_utils.errors import GlacierError, plain
from glacier_utils.files import file_fingerprint, fingerprint, write_csv, write_json
from glacier_utils.imagery.catalogue import is_web_address, public_address
from glacier_utils.imagery.source import input_files
from glacier_utils.outlines.reading import clean_text
from glacier_utils.prediction.scene_lists import SceneRef, list_scenes
from glacier_utils.raster.io import read_header
from glacier_utils.raster.paths import is_virtual

RECORD = "scenes.json"
TABLE = "scenes.csv"
KINDS = ("probability", "class", "outlines", "item")


@dataclass(frozen=True)
class Outcome:
    """What one scene became.

    ``status``: "mapped", "unchanged" (finished before) or "failed", then with ``error``;
    ``user_error`` says that it is a mistake the user can mend. ``files``: kind -> path.
    """

    name: str
    status: str
    seconds: float = 0.0
    error: str = ""
    user_error: bool = False
    date: str = ""
    files: dict[str, Path] = field(default_factory=dict)


def item_properties(item: Path | None) -> dict[str, Any]:
    """Return the properties of a product's STAC item, none where it cannot be read."""
    try:
        return dict(json.loads(Path(item).read_text(encoding="utf-8"))["properties"])
    except (OSError, TypeError, ValueError, KeyError):
        return {}


class Record:
    """The files that say what became of each scene; scenes of earlier lists stay in them."""

    def __init__(self, folder: Path, hashes: Sequence[str]) -> None:
        self.folder, self.hashes = folder, list(hashes)
        try:
            content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            self.scenes = {str(key): dict(value) for key, value in content["scenes"].items()}
            self.mosaic = content.get("mosaic") or {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Not there, or not ours: all is mapped anew.
            self.scenes, self.mosaic = {}, {}

    def refuse_other(self, name: str, source: list[str]) -> None:
        """Do not overwrite the products of another scene of the same name."""
        before = self.scenes.get(name, {})
        if before.get("files") and before.get("source") != source:
            raise GlacierError(
                f"{self.folder}: holds the map of another scene named {name} "
                f"({plain(', '.join(map(str, before.get('source') or ['?']))[:200])}); choose "
                "another folder, or remove that map and its line in scenes.json"
            )

    def finished(self, name: str, key: str) -> Outcome | None:
        """Return the earlier outcome of a scene whose products are there and still hold."""
        before = self.scenes.get(name, {})
        if before.get("key") != key or before.get("status") == "failed":
            return None
        try:
            # Names alone: a record from elsewhere must not lead out of the folder.
            files = {kind: self.folder / Path(path).name for kind, path in before["files"].items()}
            seconds = float(before["seconds"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if not files or not all(path.is_file() for path in files.values()):
            return None
        return Outcome(name, "unchanged", seconds, date=str(before.get("date", "")), files=files)

    def add(self, outcome: Outcome, key: str, source: list[str]) -> None:
        """Note how a scene ended."""
        self.scenes[outcome.name] = {
            "status": outcome.status,
            "seconds": round(outcome.seconds, 2),
            "error": outcome.error,
            "date": outcome.date,
            "source": source,
            "key": key,
            "files": {kind: _relative(path, self.folder) for kind, path in outcome.files.items()},
        }
        self.write()

    def write(self) -> None:
        write_json(
            self.folder / RECORD,
            {"checkpoint_sha256": self.hashes, "mosaic": self.mosaic, "scenes": self.scenes},
        )

    def write_table(self, outcomes: Sequence[Outcome]) -> None:
        """Write the scenes of this list as a table for people."""
        rows = [
            {"name": one.name, "status": one.status, "seconds": round(one.seconds, 2),
             "date": one.date, "error": one.error,
             **{kind: _relative(one.files[kind], self.folder) if kind in one.files else ""
                for kind in KINDS}}
            for one in outcomes
        ]  # fmt: skip
        write_csv(self.folder / TABLE, pd.DataFrame(rows))


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


_CONNECT_SECONDS = 8
# What starts threads: each worker gets its share of the cores, not all of them.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GDAL_NUM_THREADS")
_QUIET = ("distributed", "distributed.nanny", "distributed.worker", "distributed.scheduler",
          "distributed.core", "distributed.comm", "distributed.client", "tornado",
          "asyncio")  # fmt: skip


def run_tasks(
    task: Callable[[Any], Any],
    inputs: Sequence[Any],
    *,
    names: Sequence[str],
    workers: int | None = None,
    scheduler: str | None = None,
    retries: int = 2,
) -> Iterator[tuple[int, Any, BaseException | None]]:
    """Run ``task`` on each of ``inputs``; yield (position, result, error) as each one ends.

    Args:
        task: an importable function, or one that can be pickled where workers are used.
        inputs: what it is called with, one at a time.
        names: of the tasks, as shown in Dask's own pages.
        workers: number of processes of this machine, each with its share of the cores; None or 0
            runs one task after the other in this process.
        scheduler: address of a running Dask scheduler, such as tcp://10.0.0.5:8786; its workers
            need this package and the same paths.
        retries: how often a task is started again that raised, or whose worker was lost.

    Raises:
        GlacierError: both workers and scheduler are given, a number below 0, no such scheduler.
    """
    if workers is not None and workers < 0:
        raise GlacierError(f"--workers {workers}: must be 0 or more")
    if retries < 0:
        raise GlacierError(f"retries {retries}: must be 0 or more")
    if scheduler and workers:
        raise GlacierError(
            f"--workers {workers} and --scheduler {scheduler}: give one of them; workers of a "
            "cluster are started with `dask worker`"
        )
    if not scheduler and not workers:
        yield from _here(task, inputs, retries)
        return
    with _client(workers, scheduler, retries) as client:
        yield from _there(client, task, inputs, names, retries)


def _here(
    task: Callable[[Any], Any], inputs: Sequence[Any], retries: int
) -> Iterator[tuple[int, Any, BaseException | None]]:
    for position, one in enumerate(inputs):
        for left in reversed(range(retries + 1)):
            try:
                result, error = task(one), None
            except Exception as raised:
                result, error = None, raised
            if error is None or not left:
                break
        yield position, result, error


def _there(
    client: Any,
    task: Callable[[Any], Any],
    inputs: Sequence[Any],
    names: Sequence[str],
    retries: int,
) -> Iterator[tuple[int, Any, BaseException | None]]:
    from distributed import CancelledError, as_completed

    left = {}
    for position, (name, one) in enumerate(zip(names, inputs, strict=True)):
        key = f"{name}-{os.urandom(8).hex()}"
        left[key] = position, client.submit(task, one, key=key, pure=False, retries=retries)
    try:
        for future in as_completed([future for _, future in left.values()]):
            position, _ = left.pop(future.key)
            result = error = None
            try:
                if future.status == "finished":
                    result = future.result()
                else:
                    error = _worded(future.exception())
            except CancelledError:
                # The scheduler itself is gone, or forgot the task.
                error = RuntimeError("the connection to the scheduler was lost")
            # A result that somebody still wants is made again where its worker is lost.
            future.release()
            yield position, result, error
    finally:
        # Where the caller stops early, nothing goes on behind its back.
        client.cancel([future for _, future in left.values()])


def _worded(error: BaseException) -> BaseException:
    if type(error).__name__ == "KilledWorker":
        return RuntimeError(
            "each worker that took it was lost, most often because memory ran out; use fewer "
            "--workers"
        )
    return error


@contextmanager
def _client(workers: int | None, scheduler: str | None, retries: int) -> Iterator[Any]:
    """Connect to a cluster, or start one that lives as long as the block."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise GlacierError(
            "--workers and --scheduler need dask and distributed; `pip install distributed`, or "
            "leave them out to map one scene after the other"
        ) from error
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        if scheduler:
            yield stack.enter_context(_connected(scheduler))
            return
        share = str(max(1, _cores() // workers))
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="glacier-", ignore_cleanup_errors=True)
        )
        stack.enter_context(
            dask.config.set({
                "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREADS, share),
                # A task that waits at a worker is blamed for its loss like the one that ran, so
                # none waits there, and a few losses are forgiven.
                "distributed.scheduler.worker-saturation": 1.0,
                "distributed.scheduler.allowed-failures": max(retries, 2),
                "distributed.worker.multiprocessing-method": "spawn",
                "logging": dict.fromkeys(_QUIET, "CRITICAL"),
            })
        )  # fmt: skip
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            # A scene's memory is bounded, and a worker that pauses at a limit never goes on.
            memory_limit=0,
            dashboard_address=None,  # a port that is taken costs a warning
            local_directory=folder,
            silence_logs=logging.CRITICAL + 1,
        )
        stack.callback(cluster.close, timeout=30)
        client = stack.enter_context(Client(cluster))
        client.wait_for_workers(workers, timeout=120)
        yield client


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    from distributed import Client

    shown = clean_text(address, 200)
    try:
        # A client that finds nobody goes on trying behind the error that it raised.
        asyncio.run(_answers(address))
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError, TypeError, TimeoutError, RuntimeError) as error:
        raise GlacierError(
            f"--scheduler {shown}: no Dask scheduler answers there; start one with `dask "
            "scheduler` and give the address it prints, such as tcp://10.0.0.5:8786"
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise GlacierError(
                f"--scheduler {shown}: has no workers; start some with `dask worker {shown} "
                "--nthreads 1`"
            )
        yield client


async def _answers(address: str) -> None:
    from distributed.comm import connect

    comm = await connect(address, timeout=_CONNECT_SECONDS)
    await comm.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the cluster's own reports from the user: what matters is told by the results."""
    loggers = [logging.getLogger(name) for name in _QUIET]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
            ``mosaic.merge``.
        out: folder of the products, ``<name>_probability.tif`` and so on.
        workers, scheduler, retries: as in ``many_scenes.run_tasks``. A mistake in a scene on the disk
            is not tried again; one on the web may be the network's.
        merged: put mosaics and one file of outlines beside the products of two scenes or more.
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
            from glacier_utils.models.checkpoint import load_checkpoint

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
        from glacier_utils.prediction.scenes import map_scene as map_one
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
    from glacier_utils.prediction.mosaic import MappedScene, merge

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
    from glacier_utils.outlines.glims import write_glims

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
