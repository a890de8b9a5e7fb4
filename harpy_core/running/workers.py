"""Worker processes of a stage: their number, threads, memory and GPUs.

This is the only answer: the code that starts the workers, the checks that a plan fits them, and the
rules that ask a batch system for cores and memory all ask here. Nothing heavy is imported: the
workflow asks while it is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harpy_core.config.sizes import parse_bytes
from harpy_core.kernels.registry import AUTO, has_gpus, usable
from harpy_core.running.given import given_memory

if TYPE_CHECKING:
    from harpy_core.config.models import Cluster

THREADS_PER_WORKER = 4
"""Threads that share a process and its buffers: kernels and codecs run without the GIL."""

PROCESS_BYTES = 350_000_000
"""Memory of a process before any work is done: interpreter, libraries, compiled kernels."""

GPU_BYTES = 1_000_000_000
"""Memory that a GPU's libraries take in its worker: an estimate."""

KILLED_AT = 0.95
"""Share of its memory limit beyond which Dask ends a worker."""

_SLURM_WORKERS = 2
_SLURM_BYTES_PER_THREAD = 2 * 10**9

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "BLOSC_NTHREADS",
    ),
    "1",
)
"""Environment of all our processes, set before libraries are imported: one thread for every library
with threads of its own, or each of our threads would start as many again."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers of a stage.

    Attributes
    ----------
    processes
        Number of processes.
    threads
        Number of threads of each, which is that of tasks at a time.
    memory
        Bytes that each may take; None if only a running cluster knows.
    gpus
        Number of GPUs that they ask for: one each, or none.
    here
        Whether they run within the stage's own job.
    """

    processes: int
    threads: int
    memory: int | None
    gpus: int = 0
    here: bool = True

    @classmethod
    def of(cls, cluster: Cluster, cores: int, engine: str) -> Workers:
        """Decide the workers that a config asks for.

        Parameters
        ----------
        cluster
            Section of the config.
        cores
            Cores given to the stage's job on its own machine.
        engine
            Engine that will run on them; a worker with a GPU has all cores, or its share, to
            decode for it. ``auto`` counts as an engine of the CPU: see `engine_here`.
        """
        limit = None if cluster.memory_limit is None else parse_bytes(cluster.memory_limit)
        on_gpus = has_gpus(engine)
        if cluster.kind != "local":
            threads = cluster.threads_per_worker or THREADS_PER_WORKER
            processes = cluster.workers or _SLURM_WORKERS
            by_slurm = limit or threads * _SLURM_BYTES_PER_THREAD
            memory = by_slurm if cluster.kind == "slurm" else None
            return cls(processes, threads, memory, processes * on_gpus, here=False)
        share = max(cores // (cluster.workers or 1), 1) if on_gpus else THREADS_PER_WORKER
        threads = cluster.threads_per_worker or min(cores, share)
        processes = cluster.workers or (1 if on_gpus else max(cores // threads, 1))
        return cls(processes, threads, limit or given_memory() // processes, processes * on_gpus)

    @property
    def process_bytes(self) -> int:
        """Memory of each process before any work is done."""
        return PROCESS_BYTES + (GPU_BYTES if self.gpus else 0)


def engine_here(cluster: Cluster, engine: str) -> str:
    """Return the engine's name, with ``auto`` resolved if workers run on this machine."""
    return usable(engine).name if engine == AUTO and cluster.kind == "local" else engine
