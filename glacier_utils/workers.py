"""Running tasks that fail one by one: in this process, on local workers, or on a Dask cluster.

A task must not depend on where it runs, and must survive being started again after half of it was
done: a worker may be lost at any moment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from glacier_utils.errors import GlacierError
from glacier_utils.vectors import clean_text

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
