"""What a config's cases will read, write and hold, before anything of it exists.

Finds or foretells the raster of each case, prints the plan of every stage, and refuses a stage
that cannot fit its workers or the disk. The figures themselves are `harpy_core.plan`'s.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from harpy_core.config import Cluster, parse_bytes
from harpy_core.errors import InputError
from harpy_core.plan import Plan
from harpy_core.raster.info import RasterInfo

_COLUMNS = ("case", "stage", "tasks", "reads", "writes", "a worker holds", "free disk")


def free_disk(folder: Path) -> int:
    """Bytes free where a folder is, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def worker_memory(cluster: Cluster, threads: int) -> int:
    """Bytes that the workers of a stage may hold together.

    Parameters
    ----------
    cluster
        Its `memory_limit` is one worker's.
    threads
        Cores of the job; without a number of workers in the config they are one process.
    """
    if cluster.memory_limit is not None:
        return parse_bytes(cluster.memory_limit) * (cluster.workers or 1)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def refuse_unfit(plan: Plan, cluster: Cluster, threads: int, folder: Path) -> None:
    """Refuse a stage that its workers' memory or the disk cannot hold.

    Raises
    ------
    InputError
        In one line: what is needed, what there is, and the setting to change.
    """
    needed, memory = plan.memory(threads), worker_memory(cluster, threads)
    if needed > memory:
        setting = "cluster.memory_limit" if cluster.memory_limit else "--cores (fewer)"
        raise InputError(
            f"{plan.stage}: {amount(needed)} of memory are needed with {threads} threads, there "
            f"are {amount(memory)}: change {setting}, or make smaller chunks"
        )
    free = free_disk(folder)
    if plan.bytes_written > free:
        raise InputError(
            f"{plan.stage}: {amount(plan.bytes_written)} will be written to {folder}, "
            f"{amount(free)} are free there: free some, or run in a folder on another disk"
        )


def amount(size: int) -> str:
    """Bytes as people read them, in powers of 1,000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"


def describe_source(source: dict[str, Any]) -> RasterInfo:
    """Describe a source; a registered dataset by the elements it is known to have.

    Parameters
    ----------
    source
        A `harpy_core.config.Source` as builtins, with the path in `uri`, and in `dataset` the
        registered name or None.
    """
    from harpy_core.raster import describe

    image, labels = source["image"], source["labels"]
    if source["dataset"] is not None:
        known = registered(source["dataset"])
        image, labels = image or known.image, labels or known.labels
    return describe(source["uri"], image=image, labels=labels, channels=source["channels"])


def registered(name: str) -> Any:
    """What is known of a registered dataset before it is there."""
    from harpy_core.datasets import REGISTRY

    return REGISTRY[name]
