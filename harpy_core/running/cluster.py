"""Dask clusters: local processes, workers submitted to SLURM, or a scheduler by address."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from harpy_core.errors import InputError, TransientError
from harpy_core.kernels.registry import AUTO, usable
from harpy_core.running import credentials
from harpy_core.running.ending import leave_at_exit
from harpy_core.running.given import given_memory
from harpy_core.running.lookout import in_queue
from harpy_core.running.workers import ONE_THREAD, Workers, engine_here

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster

    from harpy_core.config.models import Cluster

WORKER_LOGS = "logs/workers"
"""Folder of SLURM workers' output, unless dask-jobqueue's config names another."""

_LOOK_SECONDS = 5
"""Interval of questions to SLURM."""

_ANSWER_SECONDS = 20
"""Time in which a scheduler answers at its address."""

WORKER_ENVIRONMENT = {
    **ONE_THREAD,
    # A codec allocates every chunk it encodes. glibc would map each one anew, and Dask makes it
    # give back every 64 kB that are free: new pages each time, a tenth of extraction's time.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**27),
    # Buffers are kept for the next task: a worker that pauses until it holds less waits forever.
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
}
"""Environment of the workers' processes."""

_NO_PAGES: dict[str, list[str]] = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
"""Settings against Dask's serving logs and call stacks: our clusters show nothing."""

_LOOPBACK = "127.0.0.1"
_ANY_LOOPBACK_PORT = f"{_LOOPBACK}:0"
"""Address with any free port: a second cluster on the machine would warn of a taken one."""


class GpuEach(WorkerPlugin):
    """Plugin that shows each worker one GPU, before the worker looks for any.

    Parameters
    ----------
    gpus
        Numbers or names of the GPUs, as in CUDA_VISIBLE_DEVICES; workers beyond them share.
    """

    name = "gpu-each"

    def __init__(self, gpus: Sequence[str]) -> None:
        self._gpus = tuple(gpus)

    def setup(self, worker: Worker) -> None:
        """Choose the GPU, when a worker starts or restarts."""
        os.environ["CUDA_VISIBLE_DEVICES"] = self._gpus[int(worker.name) % len(self._gpus)]


class Owned(WorkerPlugin):
    """Plugin of workers that end when their owner tells them to, and then at once.

    Ctrl-C, which the terminal sends to all, is the owner's: on their own each would print where in
    asyncio it was.
    """

    name = "owned"

    def setup(self, worker: Worker) -> None:
        """Prepare the end of a worker that starts, in its main thread."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        leave_at_exit()


def gpus_of(engine: str) -> list[str]:
    """GPUs of this machine for an engine's workers.

    Raises
    ------
    InputError
        The engine needs one, and there is none.
    """
    return usable(engine).gpus()


@contextmanager
def local(
    workers: int,
    threads_per_worker: int,
    memory_limit: str | int | None = None,
    gpus: Sequence[str] = (),
) -> Iterator[Client]:
    """Start a cluster of processes on this machine.

    Parameters
    ----------
    workers, threads_per_worker
        Processes, and tasks at a time in each.
    memory_limit
        Memory of one worker, as text ("4GB") or bytes; None gives each an equal share of what this
        process was given.
    gpus
        GPUs for the workers in turn, as in CUDA_VISIBLE_DEVICES.
    """
    scratch = tempfile.mkdtemp(prefix="harpy-core-dask-")
    settings = {
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ", {}),
            **WORKER_ENVIRONMENT,
        },
        "distributed.worker.memory.pause": False,
        **_NO_PAGES,
    }
    try:
        with (
            dask.config.set(settings),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=threads_per_worker,
                memory_limit=memory_limit or given_memory() // workers,
                local_directory=scratch,
                host=_LOOPBACK,
                dashboard_address=_ANY_LOOPBACK_PORT,
                scheduler_kwargs={"dashboard": False},
                # A worker whose scheduler ends first has an error for it, with where in asyncio it
                # was; what a task raises reaches the client.
                silence_logs="CRITICAL",
            ) as cluster,
            Client(cluster) as client,
        ):
            client.register_plugin(Owned())
            if gpus:
                client.register_plugin(GpuEach(gpus))
            yield client
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def connect(
    cluster: Cluster, threads: int, engine: str = AUTO, minutes: int = 60
) -> Iterator[Client]:
    """Start or join the cluster that a config asks for.

    Parameters
    ----------
    cluster
        Section of the config.
    threads
        Cores that the job was given on this machine.
    engine
        Engine that will run on it: a worker with a GPU has all cores, or its share, to decode.
    minutes
        Time that SLURM gives each worker, if the section does not say.

    Raises
    ------
    InputError
        The engine needs a GPU and there is none, no scheduler answers at the address, or SLURM
        gives no worker.
    """
    if cluster.kind == "local":
        engine = engine_here(cluster, engine)
        workers = Workers.of(cluster, threads, engine)
        gpus = gpus_of(engine)
        with local(workers.processes, workers.threads, workers.memory, gpus) as client:
            yield client
    elif cluster.kind == "address":
        with _by_address(str(cluster.address)) as client:
            yield client
    else:
        with _slurm(cluster, Workers.of(cluster, threads, engine), minutes) as client:
            yield client


@contextmanager
def _by_address(address: str) -> Iterator[Client]:
    try:
        asyncio.run(_answered(address))
        client = Client(address, timeout=_ANSWER_SECONDS)
    # The last two come of credentials that are not given, or not asked for.
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        said = " ".join(str(error).split()) or f"nothing in {_ANSWER_SECONDS} seconds"
        raise TransientError(
            f"cluster.address = {address!r}: no Dask scheduler answers there ({said}); start one "
            "with `dask scheduler`, or correct the address (8787 is a dashboard's port), or, for "
            "tls://, the files in distributed.comm.tls of Dask's configuration"
        ) from error
    with client:
        yield client


async def _answered(address: str) -> None:
    """Return when a scheduler has answered: a client waits for ever for what is none."""
    client = Client(address, timeout=_ANSWER_SECONDS, asynchronous=True, set_as_default=False)
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await client
    finally:
        await client.close()


@contextmanager
def _slurm(cluster: Cluster, workers: Workers, minutes: int) -> Iterator[Client]:
    """Start workers as jobs, each a share of one node; they listen to each other alone."""
    from dask_jobqueue import SLURMCluster

    if shutil.which("sbatch") is None:
        raise InputError(
            "cluster.kind = slurm: there is no sbatch on this machine; start from a node that "
            "submits jobs, or use the kind local"
        )
    directives = dask.config.get("jobqueue.slurm.job-extra-directives", None) or []
    if workers.gpus:
        directives = [*directives, "--gres=gpu:1"]
    shared = dask.config.get("jobqueue.slurm.shared-temp-directory", None) or os.getcwd()
    with (
        dask.config.set(_NO_PAGES),
        credentials.temporary(os.path.expanduser(os.path.expandvars(shared))) as security,
        SLURMCluster(
            security=security,
            cores=workers.threads,
            processes=1,
            memory=f"{workers.memory}B",
            walltime=cluster.walltime or str(minutes),
            queue=cluster.queue,
            account=cluster.account,
            job_extra_directives=directives,
            job_script_prologue=[f"export {k}={v}" for k, v in WORKER_ENVIRONMENT.items()],
            # Expanded on the worker's node, whose folder may not be this machine's.
            local_directory='"${TMPDIR:-/tmp}"',
            log_directory=dask.config.get("jobqueue.slurm.log-directory", None) or WORKER_LOGS,
            worker_extra_args=[
                *(dask.config.get("jobqueue.slurm.worker-extra-args", None) or []),
                *("--dashboard-address", _ANY_LOOPBACK_PORT, "--no-dashboard"),
            ],
            scheduler_options={
                "dashboard_address": _ANY_LOOPBACK_PORT,
                "dashboard": False,
                **dask.config.get("jobqueue.slurm.scheduler-options", {}),
            },
        ) as jobs,
        Client(jobs) as client,
    ):
        _refuse_unfit(jobs.job_script())
        jobs.scale(workers.processes)
        _wait_for_a_worker(client, jobs)
        yield client


def _refuse_unfit(script: str) -> None:
    """Ask SLURM whether it would take a job: dask-jobqueue submits later, and waits forever."""
    ended = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
    if ended.returncode != 0:
        told = " ".join(ended.stderr.replace("sbatch: error:", "").split())
        raise InputError(
            f"cluster.kind = slurm: SLURM refuses the workers ({told}); correct the cluster's "
            "queue, account, memory_limit, threads_per_worker or walltime"
        )


def _wait_for_a_worker(client: Client, jobs: SLURMCluster) -> None:
    """Wait as long as SLURM has a job of ours: queues may take days."""
    while True:
        # Asked first, or a worker could come and its job end between the two questions.
        there = not jobs.workers or in_queue(jobs)
        if client.scheduler_info()["workers"]:
            return
        if not there:
            raise TransientError(
                "cluster.kind = slurm: every worker ended before it came to work; sacct, or the "
                f"files of {WORKER_LOGS}, tell why (often too small a memory_limit)"
            )
        time.sleep(_LOOK_SECONDS)
