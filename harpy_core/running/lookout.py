"""Watch over a job's cluster while it waits: workers that arrive, end, or lack memory.

A job whose workers have all ended, or keep ending for lack of memory, fails with one line; Dask
itself would wait.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from harpy_core.errors import TransientError

if TYPE_CHECKING:
    from distributed import Client, Future

ALONE_SECONDS = 60.0
"""Time without any worker, or one in SLURM's queue, after which a job fails."""

LOOK_SECONDS = 2.0
"""Interval of looks at the cluster while a result is awaited."""

ASK_SECONDS = 1.0
"""Time for which the number of threads is assumed to stay the same."""

RESTARTS = 2
"""Restarts of workers for memory with the same task before the job fails."""

_MOST_TOGETHER = 16
"""Tasks that one message to or from the scheduler is about, at most."""

_MEMORY = (
    "raise cluster.memory_limit, or lower cluster.threads_per_worker, so that each worker has more "
    "memory for each of its threads"
)

_logger = logging.getLogger("harpy_core")


def wait_for_a_worker(client: Client) -> None:
    """Return as soon as the cluster has a worker; clusters that grow may start without any."""
    if not client.nthreads():
        _logger.info("waiting for the cluster's first worker")
        client.wait_for_workers(1)


class Lookout:
    """A cluster, watched while a job waits for its results."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asked = -ASK_SECONDS
        self._threads = 1
        self._alone_since: float | None = None
        self._restarts = self._count_restarts()
        # A cluster of dask-jobqueue.
        self._jobs = client.cluster if hasattr(client.cluster, "job_script") else None

    def threads(self, ask: Callable[[Client], int]) -> int:
        """Number of tasks that can run at once, asked anew every second: clusters grow."""
        now = time.monotonic()
        if now - self._asked >= ASK_SECONDS:
            self._asked, self._threads = now, ask(self._client)
        return self._threads

    @property
    def together(self) -> int:
        """Number of tasks that one message is about, each of which costs milliseconds.

        It is one on a small cluster, whose threads must not wait for each other's tasks.
        """
        return max(min(self._threads // 4, _MOST_TOGETHER), 1)

    def results(self, futures: Iterable[Future]) -> Sequence[Any]:
        """Return the first task's result, and those of the next `together` that are there.

        Raises
        ------
        TransientError
            All workers have ended, or they keep ending for lack of memory.
        """
        from distributed import KilledWorker, wait

        future, *others = islice(futures, self.together)
        while not future.done():
            try:
                wait([future], timeout=LOOK_SECONDS)
            except TimeoutError:
                self._look(future)
        try:
            there = [future, *takewhile(lambda other: other.status == "finished", others)]
            found: Sequence[Any] = self._client.gather(there)
        except KilledWorker as error:
            raise TransientError(
                f"{error.allowed_failures + 1} workers ended one after the other while they had "
                f"the same task, most often for want of memory: {_MEMORY}"
            ) from error
        self._alone_since = None
        return found

    def _look(self, future: Future) -> None:
        workers = len(self._client.nthreads())
        self._refuse_to_be_alone(workers)
        restarts = self._count_restarts() - self._restarts
        if restarts >= RESTARTS and self._ended_workers_with(future) >= RESTARTS:
            raise TransientError(
                f"workers were restarted for memory {restarts} times, more than once with the same "
                f"task: {_MEMORY}"
            )

    def _refuse_to_be_alone(self, workers: int) -> None:
        now = time.monotonic()
        if workers or (self._jobs is not None and in_queue(self._jobs)):
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since >= ALONE_SECONDS:
            raise TransientError(
                f"the cluster has had no worker for {ALONE_SECONDS:.0f} seconds: all have ended; "
                "their logs tell why (often too small a cluster.memory_limit, or too short a "
                "cluster.walltime)"
            )

    def _count_restarts(self) -> int:
        """Count the workers that were ever restarted for memory."""
        return len(self._client.get_events("worker-restart-memory"))

    def _ended_workers_with(self, future: Future) -> int:
        """Number of workers that ended while they had a task."""

        # Sent as it is: the scheduler's process may not have this package.
        def suspicious(key: Any, dask_scheduler: Any) -> int:
            task = dask_scheduler.tasks.get(key)
            return task.suspicious if task is not None else 0

        found: int = self._client.run_on_scheduler(suspicious, future.key)
        return found


def in_queue(jobs: Any) -> bool:
    """Whether a worker's job waits or runs; assumed while squeue does not answer.

    Parameters
    ----------
    jobs
        Cluster of dask-jobqueue.
    """
    ours = {str(job.job_id) for job in jobs.workers.values()}
    ended = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%A"], capture_output=True, text=True
    )
    return ended.returncode != 0 or not ours.isdisjoint(ended.stdout.split())
