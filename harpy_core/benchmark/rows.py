"""The row of a measured run, and the facts of the machine and the input that belong to it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harpy_core
from harpy_core.benchmark.specs import RunSpec, StageReport, StrPath
from harpy_core.errors import InputError
from harpy_core.raster.info import RasterInfo

if TYPE_CHECKING:
    from harpy_core.benchmark.page_cache import InputFiles
    from harpy_core.benchmark.profiling import ProcessTreeSummary

_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of the sweep, a line of `sweep.csv`; GB is 1e9 bytes, 100 percent is one core.

    Memory and time are of the stage alone, without the start of the cluster and the warm-up of its
    workers; `hwm_sum_gb`, `peak_pss_gb`, `peak_uss_gb` and `cgroup_peak_gb` of the whole life of
    the processes. A run that failed has no measurements, and its reason in `failed`.

    Attributes
    ----------
    cache, cached_share
        State of the page cache that was asked for, and the share of the input it then held.
    order
        Place of the run in the sweep's random order.
    failed
        Why the run came to nothing; None where it did not.
    label_pass
        Whether finding the instances is in the time: always, on both sides.
    disk_s, decode_s, kernel_s, encode_s, write_s, idle_s
        Seconds of all the workers' threads: waiting for chunks to be read, decoding, computing,
        encoding, writing, and none of it (waiting for tasks or for a core). None where the engine
        does not tell.
    bound_by
        The largest of the six.
    values
        A sum over the result by which engines are compared.
    files, distinct_files
        Names of the input's files, and files behind them: links are other names of one.
    key
        Digest of everything that makes this run what it is; a run with the same is not repeated.
    """

    case: str
    stage: str
    engine: str
    workers: int
    threads_per_worker: int
    cache: str
    repeat: int
    order: int
    failed: str | None = None
    oversubscribed: bool = False
    label_pass: str = "counted"
    wall_s: float | None = None
    cpu_s: float | None = None
    pixels: int | None = None
    instances: int | None = None
    gigapixels_per_s: float | None = None
    gigapixels_per_core_s: float | None = None
    peak_rss_gb: float | None = None
    mean_rss_gb: float | None = None
    hwm_sum_gb: float | None = None
    peak_pss_gb: float | None = None
    peak_uss_gb: float | None = None
    cgroup_peak_gb: float | None = None
    driver_peak_rss_gb: float | None = None
    workers_peak_rss_gb: float | None = None
    mean_vsz_gb: float | None = None
    peak_cpu_percent: float | None = None
    mean_cpu_percent: float | None = None
    read_gb: float | None = None
    written_gb: float | None = None
    spilled_gb: float | None = None
    major_faults: int | None = None
    disk_s: float | None = None
    decode_s: float | None = None
    kernel_s: float | None = None
    encode_s: float | None = None
    write_s: float | None = None
    idle_s: float | None = None
    bound_by: str | None = None
    values: float | None = None
    cached_share: float | None = None
    started: float | None = None
    samples: int | None = None
    interval_s: float | None = None
    pss_interval_s: float | None = None
    sampler_percent: float | None = None
    tasks: int | None = None
    software: str | None = None
    python: str | None = None
    packages: str | None = None
    commit: str | None
    machine: str
    cpu_model: str
    cores: int
    machine_cores: int
    memory_gb: float
    memory_limit: str | None
    pools: str
    file_system: str | None
    codec: str | None
    dtype: str
    shape: str
    chunks: str
    window: int | None
    files: int
    distinct_files: int
    input_gb: float
    input: str
    key: str
    date: str

    @classmethod
    def read(cls, path: StrPath) -> Row:
        """The row that a run left.

        Raises
        ------
        InputError
            The file is missing or is not a row.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path}: not the row of a benchmark run ({error}); run it again"
            ) from None


def measured(
    report: StageReport, summary: ProcessTreeSummary, cgroup_peak: int | None, threads: int
) -> dict[str, Any]:
    """The columns of a run that came to its end."""
    wall = report.ended - report.started
    roles = summary.peak_rss_by_role
    return {
        "wall_s": round(wall, 4),
        "cpu_s": round(summary.cpu_s, 3),
        "pixels": report.pixels,
        "instances": report.instances,
        "gigapixels_per_s": round(report.pixels / 1e9 / wall, 6),
        "gigapixels_per_core_s": round(report.pixels / 1e9 / max(summary.cpu_s, 0.01), 6),
        "peak_rss_gb": _gb(summary.peak_rss),
        "mean_rss_gb": _gb(summary.mean_rss),
        "hwm_sum_gb": _gb(summary.hwm_sum),
        "peak_pss_gb": _gb(summary.peak_pss),
        "peak_uss_gb": _gb(summary.peak_uss),
        "cgroup_peak_gb": _gb(cgroup_peak),
        "driver_peak_rss_gb": _gb(roles.get("driver", 0)),
        "workers_peak_rss_gb": _gb(roles.get("worker", 0)),
        "mean_vsz_gb": _gb(summary.mean_vsz),
        "peak_cpu_percent": round(summary.peak_cpu_percent, 2),
        "mean_cpu_percent": round(summary.mean_cpu_percent, 2),
        "read_gb": _gb(summary.bytes_read),
        "written_gb": _gb(summary.bytes_written),
        "spilled_gb": _gb(report.spilled),
        "major_faults": summary.major_faults,
        "values": report.values,
        "started": report.started,
        "samples": summary.samples,
        "interval_s": round(summary.interval, 4),
        "pss_interval_s": round(summary.pss_interval, 3),
        "sampler_percent": round(summary.sampler_percent, 3),
        "tasks": report.tasks,
        "software": report.software,
        "python": report.python,
        "packages": _listed(report.packages),
        **_phases(report.phases, wall * threads, summary.bytes_read > report.pixels // 100),
    }


def _phases(
    phases: dict[str, tuple[float, float]], whole: float, from_disk: bool
) -> dict[str, Any]:
    """Columns of where the threads' time went.

    What reading and decoding took by the clock beyond the processor's time was waiting for the
    disk, if anything to speak of came from there; else for a core.
    """
    if not phases:
        return {}
    decode_wall, decode_cpu = phases["decode"]
    waited = max(decode_wall - decode_cpu, 0.0) if from_disk else 0.0
    found = {"disk_s": waited, "decode_s": decode_cpu}
    found |= {f"{name}_s": phases[name][0] for name in ("kernel", "encode", "write")}
    found["idle_s"] = max(whole - sum(found.values()), 0.0)
    bound = max(found, key=lambda name: found[name]).removesuffix("_s")
    return {name: round(value, 3) for name, value in found.items()} | {"bound_by": bound}


def facts(spec: RunSpec, info: RasterInfo, files: InputFiles) -> dict[str, Any]:
    """The columns that are known before a run: machine, settings and input."""
    return {
        "oversubscribed": spec.threads > len(os.sched_getaffinity(0)),
        "commit": commit(),
        "machine": platform.node(),
        "cpu_model": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "machine_cores": os.cpu_count() or 1,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB, 1),
        "memory_limit": spec.memory_limit,
        "file_system": file_system(info.uri),
        "codec": _codec(info),
        "dtype": info.image_dtype,
        "shape": _by_axes((len(info.channels), *info.image_shape[1:])),
        "chunks": _by_axes(info.image_chunks),
        "window": spec.crops.get("diameter", 50) if spec.stage == "extract" else None,
        "files": len(files.paths),
        "distinct_files": len(files.distinct),
        "input_gb": _gb(files.size) or 0.0,
        "input": info.fingerprint,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_model() -> str:
    """Name of this machine's processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Commit of this checkout, with a mark where files differ from it; None outside of one."""
    call = ["git", "-C", str(Path(harpy_core.__file__).parent)]
    try:
        found = subprocess.run(
            [*call, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def file_system(path: str) -> str | None:
    """Kind of file system a path lies on, such as ``ext4``; None for an address."""
    if not os.path.exists(path):
        return None
    place, found = os.path.realpath(path), ("", "")
    with open("/proc/mounts", encoding="utf-8") as lines:
        for line in lines:
            mounted, kind = line.split()[1:3]
            inside = place == mounted or place.startswith(mounted.rstrip("/") + "/")
            if inside and len(mounted) >= len(found[0]):
                found = mounted, kind
    return found[1] or None


def cgroup_memory_peak() -> int | None:
    """Highest memory of this process's control group so far, in bytes; None where none tells."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as lines:
            groups = [line.rstrip("\n").split(":", 2) for line in lines]
    except OSError:
        return None
    for _, controllers, path in groups:
        if controllers == "memory":
            file = Path(f"/sys/fs/cgroup/memory{path}/memory.max_usage_in_bytes")
        elif controllers == "":
            file = Path(f"/sys/fs/cgroup{path}/memory.peak")
        else:
            continue
        if file.is_file():
            return int(file.read_text())
    return None


def columns() -> list[str]:
    """Names of the columns of `sweep.csv`, in order."""
    return [field.name for field in dataclasses.fields(Row)]


def _codec(info: RasterInfo) -> str | None:
    from harpy_core.raster import open_described
    from harpy_core.raster.views import behind

    array = behind(open_described(info).image)[0]
    found = getattr(array, "compressors", None)
    return None if found is None else " ".join(map(str, found)) or "none"


def _gb(count: float | None) -> float | None:
    return None if count is None else round(count / _GB, 6)


def _by_axes(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
