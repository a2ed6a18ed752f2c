"""Jobs side by side with Dask: on processes of this machine, or on a cluster that is running."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from glacier_utils.errors import GlacierError, quiet_loggers
from glacier_utils.outlines.reading import clean_text

_CONNECT_SECONDS = 8
# What starts threads: each worker gets its part of the cores, not all of them.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GDAL_NUM_THREADS")
_QUIET = ("distributed", "distributed.nanny", "distributed.worker", "distributed.scheduler",
          "distributed.core", "distributed.comm", "distributed.client", "tornado",
          "asyncio")  # fmt: skip


class Lost(Exception):  # noqa: N818 - says what happened
    """The worker of a job, or the scheduler, is gone; the message says which."""


def compute(
    client: Any, function: Callable[[Any], Any], jobs: Mapping[str, Any], retries: int
) -> Iterator[tuple[str, Any]]:
    """Call a function with each job on the workers.

    Args:
        client: of ``connect``.
        function: importable on the workers.
        jobs: name -> argument.
        retries: further tries of a job that raises.

    Yields:
        Name and result of a job as it ends; or the exception of its last try, which is ``Lost``
        where it had no chance.
    """
    from distributed import CancelledError, KilledWorker, as_completed

    left = {}
    for name, job in jobs.items():
        key = f"{name}-{os.urandom(8).hex()}"
        left[key] = name, client.submit(function, job, key=key, pure=False, retries=retries)
    found: Any
    try:
        for future in as_completed([future for _, future in left.values()]):
            name, _ = left.pop(future.key)
            try:
                found = future.result()
            except CancelledError:
                # The scheduler itself is gone, or forgot the task.
                found = Lost("the connection to the scheduler was lost")
            except KilledWorker:
                text = "each worker that took it was lost, most often because memory ran out"
                found = Lost(f"{text}; use fewer workers")
            except Exception as error:
                found = error
            # A result that somebody still wants is made again where its worker is lost.
            future.release()
            yield name, found
    finally:
        # Where the caller stops early, nothing goes on behind its back.
        client.cancel([future for _, future in left.values()])


@contextmanager
def connect(workers: int, scheduler: str | None, retries: int) -> Iterator[Any]:
    """Connect to a cluster, or start one that lives as long as the block.

    Args:
        workers: number of processes of this machine, each with its part of the cores.
        scheduler: address of a running Dask scheduler in their place.
        retries: how often a job whose worker was lost is tried again, twice at least.

    Yields:
        The ``distributed.Client``.

    Raises:
        GlacierError: Dask is not installed, or no scheduler with workers answers.
    """
    try:
        import dask
        from dask.system import CPU_COUNT
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise GlacierError(
            "--workers, --jobs and --scheduler need dask and distributed; `pip install "
            "distributed`, or leave them out to do one after the other"
        ) from error
    with ExitStack() as stack:
        # What matters is told by the results.
        stack.enter_context(quiet_loggers(_QUIET))
        if scheduler:
            yield stack.enter_context(_connected(scheduler))
            return
        threads = str(max(1, CPU_COUNT // workers))
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="glacier-", ignore_cleanup_errors=True)
        )
        stack.enter_context(
            dask.config.set({
                "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREADS, threads),
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
    from distributed import comm as comms

    comm = await comms.connect(address, timeout=_CONNECT_SECONDS)
    await comm.close()
