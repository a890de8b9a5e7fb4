"""Cores and memory that a job was given of its machine, not those of the whole node.

Control groups (containers, batch systems), the processes' affinity and SLURM's variables each set
a limit; the smallest counts.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROC = Path("/proc")
_MIB = 2**20
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_ANSWER_SECONDS = 10


def given_cores() -> int:
    """Number of cores that this process may use."""
    limits = [len(os.sched_getaffinity(0)), *_quotas(), *_of_slurm_cores()]
    return max(min(limits), 1)


def given_memory() -> int:
    """Bytes of memory that this process and its children may use together."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_memory_limits(), *_of_slurm_memory()])


def _memory_limits() -> Iterator[int]:
    for folder, version in _groups("memory"):
        text = _text(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if text.isdigit():
            yield int(text)


def _quotas() -> Iterator[int]:
    """Yield the CPU time that control groups allow, in whole cores."""
    for folder, version in _groups("cpu"):
        if version == 2:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
        else:
            quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) // int(period)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _groups(controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the control groups that hold this process, from its own up, and their versions."""
    own = {}
    for line in _text(_PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    for line in _text(_PROC / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        # A mount may have an empty name.
        kind, _, options = after.split(" ")[:3]
        if kind == "cgroup2":
            version, path = 2, own.get("", "/")
        elif kind == "cgroup" and controller in options.split(","):
            version, path = 1, own.get(controller, "/")
        else:
            continue
        inside = PurePosixPath(path)
        # In a container the mount may start at the container's own group.
        below = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
        for part in (below, *below.parents):
            yield Path(mount) / part, version


def _of_slurm_cores() -> Iterator[int]:
    """Yield the cores of this task, or of the job on this node."""
    found = _number("SLURM_CPUS_PER_TASK") or _cores_of_job()
    if found:
        yield found


def _cores_of_job() -> int:
    """Cores of the job on this node; where only those of all its nodes are known, the fewest."""
    # Such as 2(x3),4 for three nodes with two and one with four.
    of_nodes = re.findall(r"(\d+)(?:\(x\d+\))?", os.environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    return _number("SLURM_CPUS_ON_NODE") or min(map(int, of_nodes), default=0)


def _of_slurm_memory() -> Iterator[int]:
    # 0 means all of the node's.
    if per_node := _number("SLURM_MEM_PER_NODE"):
        yield per_node * _MIB
    per_core, cores = _number("SLURM_MEM_PER_CPU"), _cores_of_job()
    if per_core and cores:
        yield per_core * cores * _MIB
    if not per_node and not per_core and (job := os.environ.get("SLURM_JOB_ID")):
        yield from _asked_for(job, cores)


def _asked_for(job: str, cores: int) -> Iterator[int]:
    """Yield the memory that a job asked for; steps of jobs often lack the variables of it."""
    command = ["scontrol", "show", "job", job]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return
    found = re.search(r"MinMemory(Node|CPU)=([0-9.]+)([KMGT])", ended.stdout)
    if found:
        size = int(float(found[2]) * _UNITS[found[3]]) * (cores if found[1] == "CPU" else 1)
        if size:
            yield size


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdigit() else 0
