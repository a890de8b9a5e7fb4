"""Where tasks run: a local Dask cluster, workers submitted to SLURM, or a scheduler by address."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dask
from distributed import Client, LocalCluster

from harpy_core.errors import InputError

if TYPE_CHECKING:
    from harpy_core.config import Cluster

THREADS_PER_WORKER = 4
"""Kernels and codecs run without the GIL, so a few threads share one process and its buffers."""

_QUEUE_SECONDS = 24 * 3600
"""How long a worker may wait in SLURM's queue."""

ONE_THREAD_EACH = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "BLOSC_NTHREADS",
    ),
    "1",
)
"""Libraries with threads of their own would start as many again for each of ours."""


@contextmanager
def local(
    workers: int, threads_per_worker: int, memory_limit: str | int | None = None
) -> Iterator[Client]:
    """A cluster of processes on this machine.

    Parameters
    ----------
    workers, threads_per_worker
        Processes, and tasks at a time in each.
    memory_limit
        Of one worker, as text ("4GB") or bytes; an equal share of the machine's without.
    """
    scratch = tempfile.mkdtemp(prefix="harpy-core-dask-")
    settings = {
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ", {}),
            **ONE_THREAD_EACH,
        },
    }
    try:
        with (
            dask.config.set(settings),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=threads_per_worker,
                memory_limit=memory_limit or "auto",
                local_directory=scratch,
                dashboard_address=None,
                silence_logs="ERROR",
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def connect(
    cluster: Cluster, threads: int, memory_limit: str | int | None = None
) -> Iterator[Client]:
    """The cluster that a config asks for.

    Parameters
    ----------
    cluster
        The config's section.
    threads
        Cores that the job was given on this machine.
    memory_limit
        Of one worker, where the config names none.

    Raises
    ------
    InputError
        No scheduler answers at the address, or SLURM gives no worker.
    """
    limit = cluster.memory_limit or memory_limit
    if cluster.kind == "local":
        per_worker = cluster.threads_per_worker or min(threads, THREADS_PER_WORKER)
        workers = cluster.workers or max(threads // per_worker, 1)
        with local(workers, per_worker, limit) as client:
            yield client
    elif cluster.kind == "address":
        with _by_address(str(cluster.address)) as client:
            yield client
    else:
        with _slurm(cluster, limit) as client:
            yield client


@contextmanager
def _by_address(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise InputError(
            f"cluster.address = {address!r}: no Dask scheduler answers there; start one with "
            "`dask scheduler`, or correct the address"
        ) from error
    with client:
        yield client


@contextmanager
def _slurm(cluster: Cluster, limit: str | int | None) -> Iterator[Client]:
    """Workers as jobs of their own, one node's share each."""
    from dask_jobqueue import SLURMCluster

    threads = cluster.threads_per_worker or THREADS_PER_WORKER
    with (
        SLURMCluster(
            cores=threads,
            processes=1,
            memory=str(limit or f"{2 * threads}GB"),
            walltime=cluster.walltime or "01:00:00",
            queue=cluster.queue,
            account=cluster.account,
            job_script_prologue=[f"export {k}={v}" for k, v in ONE_THREAD_EACH.items()],
            local_directory=os.environ.get("TMPDIR"),
        ) as jobs,
        Client(jobs) as client,
    ):
        jobs.scale(cluster.workers or 2)
        client.wait_for_workers(1, timeout=_QUEUE_SECONDS)
        yield client
