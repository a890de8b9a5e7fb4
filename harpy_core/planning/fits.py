"""Refusal of planned stages that do not fit their workers' memory, their GPUs or the disk."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harpy_core.config.sizes import amount
from harpy_core.errors import InputError, TransientError
from harpy_core.planning.parts import Plan
from harpy_core.running.given import given_memory
from harpy_core.running.workers import KILLED_AT, PROCESS_BYTES, Workers

if TYPE_CHECKING:
    from distributed import Client

    from harpy_core.config.models import Cluster


def worker_bytes(plan: Plan, workers: Workers) -> int:
    """Bytes of memory that a worker of a stage takes, including its process."""
    return workers.process_bytes + plan.shared_bytes + workers.threads * plan.bytes_per_task


def job_bytes(plan: Plan, workers: Workers) -> int:
    """Bytes of memory that a stage's job takes, with the workers that run within it.

    A batch system is asked for this much; an equal share of it is enough for each worker.
    """
    within = workers.processes if workers.here else 0
    of_workers = math.ceil(within * worker_bytes(plan, workers) / KILLED_AT)
    return PROCESS_BYTES + plan.result_bytes + of_workers


def refuse_unfit(plan: Plan, workers: Workers, cluster: Cluster, cores: int, folder: Path) -> None:
    """Refuse a stage that its workers' memory or the disk cannot hold.

    Parameters
    ----------
    plan
        Plan of the stage.
    workers
        Workers of the stage.
    cluster
        Section of the config that says where they run.
    cores
        Cores given to the job on this machine.
    folder
        Folder of the result.

    Raises
    ------
    InputError
        It does not fit; one line says what is needed, what there is, and the setting to change.
    """
    needed = worker_bytes(plan, workers)
    named = cluster.memory_limit is not None or not workers.here
    if named and workers.memory is not None and needed > KILLED_AT * workers.memory:
        raise InputError(
            f"cluster.memory_limit = {cluster.memory_limit or amount(workers.memory)}: a worker "
            f"of {plan.stage} holds {amount(needed)} with {workers.threads} threads: raise it to "
            f"{amount(math.ceil(needed / KILLED_AT))} or more, or lower cluster.threads_per_worker"
        )
    whole = job_bytes(plan, workers)
    if workers.here and whole > given_memory():
        raise TransientError(
            f"--cores = {cores}: {plan.stage} holds {amount(whole)} with as many threads, this "
            f"job was given {amount(given_memory())}: give fewer cores or more memory, or make "
            "smaller chunks"
        )
    free = free_disk(folder)
    if plan.bytes_stored > free:
        sampled = plan.bytes_stored < plan.bytes_written
        raise InputError(
            f"{folder}: {plan.stage} {'will take about' if sampled else 'may take'} "
            f"{amount(plan.bytes_stored)} there, {amount(free)} are free: "
            "free some, or run in a folder on another disk"
        )


def refuse_small_workers(plan: Plan, client: Client) -> None:
    """Refuse a stage that does not fit the workers that a running cluster has.

    Raises
    ------
    InputError
        It does not fit; one line says what is needed, what there is, and the setting to change.
    """
    for address, worker in client.scheduler_info(n_workers=-1)["workers"].items():
        there = Workers(1, worker["nthreads"], worker["memory_limit"])
        needed = worker_bytes(plan, there)
        # 0 means no limit.
        if there.memory and needed > KILLED_AT * there.memory:
            raise InputError(
                f"worker {address}: {plan.stage} holds {amount(needed)} with {there.threads} "
                f"threads, its memory limit is {amount(there.memory)}: start it with fewer "
                "threads or more memory"
            )


def refuse_small_gpus(plan: Plan, engine: str, client: Client) -> None:
    """Refuse a stage whose tasks do not fit the GPUs of their workers, if they run on GPUs.

    Parameters
    ----------
    plan
        Plan of the stage.
    engine
        Name of the engine that was asked for.
    client
        Client of the workers.

    Raises
    ------
    InputError
        It does not fit; one line says what is needed, what there is, and the setting to change.
    """
    from harpy_core.running import engines

    if not plan.device_bytes_per_task:
        return
    threads = client.nthreads()
    for worker, free in engines.free_on_gpus(engine, client).items():
        needed = threads[worker] * plan.device_bytes_per_task
        if needed > free:
            raise InputError(
                f"worker {worker}: {plan.stage} holds {amount(needed)} on its GPU with "
                f"{threads[worker]} threads, {amount(free)} are free there: lower "
                "cluster.threads_per_worker, or choose the engine numba"
            )


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of a folder, which may not exist yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
