"""How many worker processes a stage has, each with how many threads, how much memory and a GPU.

The one answer to that: what starts the workers, what checks that a plan fits them, and the rules
that ask a batch system for cores and memory all ask here. Nothing heavy is imported: the workflow
asks while it is parsed.
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
"""Kernels and codecs run without the GIL, so a few threads share one process and its buffers."""

PROCESS_BYTES = 350_000_000
"""What a process takes before any work is done: interpreter, libraries, compiled kernels."""

GPU_BYTES = 1_000_000_000
"""What the libraries of a GPU take of its worker's memory: an estimate."""

KILLED_AT = 0.95
"""The share of its limit beyond which Dask ends a worker."""

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
"""One thread for every library that has threads of its own, or each of ours would start as many
again: the environment of all our processes, set before the libraries are imported."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers of a stage.

    Attributes
    ----------
    processes
        How many there are.
    threads
        Tasks at a time in each.
    memory
        Bytes that each may take; None where only a running cluster knows.
    gpus
        How many GPUs they ask for: one each, or none.
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
        """The workers that a config asks for.

        Parameters
        ----------
        cluster
            The config's section.
        cores
            Given to the stage's job on its own machine.
        engine
            What will run on them; a worker with a GPU has all cores, or its share, to decode for
            it. ``auto`` counts as an engine of the processor: see `engine_here`.
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
        """What each process takes before any work is done."""
        return PROCESS_BYTES + (GPU_BYTES if self.gpus else 0)


def engine_here(cluster: Cluster, engine: str) -> str:
    """The engine's name, ``auto`` replaced by what it is where workers run on this machine."""
    return usable(engine).name if engine == AUTO and cluster.kind == "local" else engine
