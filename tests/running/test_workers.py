"""Numbers of workers, and what a job was given of its machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harpy_core.config.models import Cluster
from harpy_core.errors import InputError
from harpy_core.planning import fits
from harpy_core.planning.parts import Plan
from harpy_core.running import given, workers
from harpy_core.running.workers import PROCESS_BYTES, Workers

GB = 10**9
MIB = 2**20


@pytest.fixture(autouse=True)
def _given_64_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (workers, fits):
        monkeypatch.setattr(module, "given_memory", lambda: 64 * GB)


@pytest.mark.parametrize(
    ("section", "cores", "engine", "expected"),
    [
        ({}, 1, "numba", Workers(1, 1, 64 * GB)),
        ({}, 8, "numba", Workers(2, 4, 32 * GB)),
        ({}, 10, "auto", Workers(2, 4, 32 * GB)),
        ({"workers": 3}, 8, "numba", Workers(3, 4, 64 * GB // 3)),
        ({"threads_per_worker": 1}, 8, "numpy", Workers(8, 1, 8 * GB)),
        ({"memory_limit": "4GB"}, 8, "numba", Workers(2, 4, 4 * GB)),
        ({}, 8, "cupy", Workers(1, 8, 64 * GB, gpus=1)),
        ({"workers": 2}, 8, "cupy", Workers(2, 4, 32 * GB, gpus=2)),
        ({"kind": "slurm"}, 1, "numba", Workers(2, 4, 8 * GB, here=False)),
        ({"kind": "slurm", "workers": 5}, 1, "cupy", Workers(5, 4, 8 * GB, gpus=5, here=False)),
        (
            {"kind": "slurm", "memory_limit": "3GB", "threads_per_worker": 2},
            1,
            "numba",
            Workers(2, 2, 3 * GB, here=False),
        ),
        (
            {"kind": "address", "address": "tcp://10.0.0.1:8786"},
            1,
            "numba",
            Workers(2, 4, None, here=False),
        ),
    ],
)
def test_workers_are_those_that_the_config_asks_for(
    section: dict[str, Any], cores: int, engine: str, expected: Workers
) -> None:
    assert Workers.of(Cluster(**{"kind": "local"} | section), cores, engine) == expected


def plan_of(bytes_per_task: int) -> Plan:
    return Plan("aggregate", 1, 1, 1, 1, bytes_per_task, 0, None)


def refuse(plan: Plan, section: dict[str, Any], cores: int) -> None:
    cluster = Cluster(**section)
    asked = Workers.of(cluster, cores, "numba")
    fits.refuse_unfit(plan, asked, cluster, cores, Path())


def test_a_worker_of_slurm_is_checked_with_all_its_threads() -> None:
    slurm = {"kind": "slurm", "memory_limit": "4GB"}
    refuse(plan_of(GB // 2), slurm, 1)
    with pytest.raises(InputError, match=r"memory_limit = 4GB.* 6.35 GB with 4 threads.*6.68 GB"):
        refuse(plan_of(3 * GB // 2), slurm, 1)


def test_the_process_counts_in_a_workers_memory() -> None:
    local = {"kind": "local", "memory_limit": "400MB"}
    refuse(plan_of(20 * 10**6), local, 1)
    with pytest.raises(InputError, match=r"memory_limit = 400MB"):
        refuse(plan_of(40 * 10**6), local, 1)


def test_what_a_batch_system_is_asked_for_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(3 * GB)
    asked = Workers.of(Cluster(kind="local"), 8, "numba")
    whole = fits.job_bytes(plan, asked)
    assert whole > asked.processes * (PROCESS_BYTES + 4 * 3 * GB)
    for module in (workers, fits):
        monkeypatch.setattr(module, "given_memory", lambda: whole)
    refuse(plan, {"kind": "local"}, 8)
    assert fits.worker_bytes(plan, asked) <= workers.KILLED_AT * (whole // asked.processes)
    monkeypatch.setattr(fits, "given_memory", lambda: whole - 1)
    with pytest.raises(InputError, match="this job was given"):
        refuse(plan, {"kind": "local"}, 8)


def groups_in(folder: Path, kind: str, limits: dict[str, dict[str, str]], own: str) -> None:
    """A machine's control groups: files by folder, and the one that this process is in."""
    for group, files in limits.items():
        (folder / "groups" / group).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / "groups" / group / name).write_text(f"{text}\n")
    (folder / "proc/self").mkdir(parents=True)
    options = "rw" if kind == "cgroup2" else "rw,memory,cpu"
    number = "0::" if kind == "cgroup2" else "4:memory,cpu:"
    (folder / "proc/self/cgroup").write_text(f"1:name=systemd:/x\n{number}{own}\n")
    (folder / "proc/self/mountinfo").write_text(
        "24 1 0:22 / /proc rw,relatime shared:5 - proc proc rw\n"
        "27 24 0:25 / /mnt/unnamed rw,relatime shared:7 - tmpfs  rw,size=1024k\n"
        f"31 24 0:28 / {folder}/groups rw,relatime shared:9 - {kind} cgroup {options}\n"
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of a TB and 64 cores, without SLURM."""
    monkeypatch.setattr(given, "_PROC", tmp_path / "proc")
    sizes = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 1000 * GB}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_without_limits_all_of_the_machine_is_given(machine: Path) -> None:
    assert (given.given_memory(), given.given_cores()) == (1000 * GB, 64)


def test_the_smallest_limit_of_the_groups_above_counts(machine: Path) -> None:
    limits = {
        "job": {"memory.max": str(8 * GB), "cpu.max": "350000 100000"},
        "job/step": {"memory.max": "max", "cpu.max": "max 100000"},
        "other": {"memory.max": "1", "cpu.max": "1 1"},
    }
    groups_in(machine, "cgroup2", limits, "/job/step")
    assert (given.given_memory(), given.given_cores()) == (8 * GB, 3)


def test_groups_of_the_first_version_count_too(machine: Path) -> None:
    limits = {
        "job": {
            "memory.limit_in_bytes": str(2 * GB),
            "cpu.cfs_quota_us": "200000",
            "cpu.cfs_period_us": "100000",
        },
        "job/step": {"memory.limit_in_bytes": str(2**63 - 4096), "cpu.cfs_quota_us": "-1"},
    }
    groups_in(machine, "cgroup", limits, "/job/step")
    assert (given.given_memory(), given.given_cores()) == (2 * GB, 2)


def test_a_containers_own_group_is_where_its_mount_begins(machine: Path) -> None:
    groups_in(machine, "cgroup2", {".": {"memory.max": str(3 * GB)}}, "/docker/1a2b")
    info = machine / "proc/self/mountinfo"
    info.write_text(info.read_text().replace("0:28 / ", "0:28 /docker/1a2b "))
    assert given.given_memory() == 3 * GB


@pytest.mark.parametrize(
    ("said", "memory", "cores"),
    [
        ({"SLURM_MEM_PER_NODE": "4000", "SLURM_CPUS_ON_NODE": "8"}, 4000 * MIB, 8),
        ({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "8"}, 8000 * MIB, 8),
        ({"SLURM_MEM_PER_NODE": "0", "SLURM_CPUS_PER_TASK": "3"}, 1000 * GB, 3),
        ({"SLURM_JOB_CPUS_PER_NODE": "12(x3),8"}, 1000 * GB, 8),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2)", "SLURM_MEM_PER_CPU": "1000"}, 4000 * MIB, 4),
    ],
)
def test_slurms_allocation_counts(
    said: dict[str, str],
    memory: int,
    cores: int,
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in said.items():
        monkeypatch.setenv(name, text)
    assert (given.given_memory(), given.given_cores()) == (memory, cores)


@pytest.mark.parametrize(
    ("told", "memory"),
    [
        ("   MinCPUsNode=4 MinMemoryNode=700M MinTmpDiskNode=0", 700 * MIB),
        ("   MinCPUsNode=4 MinMemoryCPU=1.5G MinTmpDiskNode=0", 6 * 1024 * MIB),
        ("   MinCPUsNode=4 MinMemoryNode=0 MinTmpDiskNode=0", 1000 * GB),
        (None, 1000 * GB),
    ],
)
def test_a_step_without_the_variable_has_the_memory_of_its_job(
    told: str | None, memory: int, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told is not None:
        scontrol = machine / "scontrol"
        scontrol.write_text(f"#!/bin/sh\ntest $3 = 17 && echo '{told}'\n")
        scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{machine}:/usr/bin:/bin" if told else str(machine))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    assert given.given_memory() == memory


def test_asking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harpy_core.running.workers import Workers; "
        "from harpy_core.planning.fits import job_bytes; "
        "print([m for m in ('numpy', 'zarr', 'dask', 'numba') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
