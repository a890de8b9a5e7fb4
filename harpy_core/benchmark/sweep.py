"""One measured run of a stage in a fresh process, and the table of all runs.

Owns the start of the measured process, its row of figures and `sweep.csv`. Which runs there are is
the workflow's business; the sampling is `harpy_core.benchmark.profiling`'s.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

import harpy_core
from harpy_core.benchmark.profiling import ProcessTreeSampler, ProcessTreeSummary
from harpy_core.config.models import MEASURED, PEER
from harpy_core.errors import InputError
from harpy_core.running.workers import ONE_THREAD
from harpy_core.storage.manifest import write_json

STAGES = ("aggregate", "extract")

_GB = 1e9
INPUT_ERROR_STATUS = 2

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One cell of the sweep: everything the measured process has to know.

    Attributes
    ----------
    case
        Name of the case in the config.
    stage
        ``"aggregate"`` or ``"extract"``.
    engine
        Kernels that do the arithmetic, or ``"harpy"`` for the peer.
    workers, threads_per_worker
        Size of the local Dask cluster.
    memory_limit
        Of one worker, as Dask writes it (``"48GB"``); None for no limit.
    repeat
        Number of this run among equal ones.
    raster_json
        Path of the `RasterInfo` of what is read.
    stats
        Names of the statistics, for the stage aggregate.
    crops
        Arguments of `harpy_core.config.crops.CropSettings`, for the stage extract; the peer
        knows ``diameter`` and ``batch_size`` and always removes the background.
    instances
        Path of the instances found before, or None to find them within the measured run.
    python
        Interpreter of the environment the peer is installed in; None for this one.
    """

    case: str
    stage: str
    engine: str
    workers: int
    threads_per_worker: int
    raster_json: str
    memory_limit: str | None = None
    repeat: int = 0
    stats: tuple[str, ...] = ("mean",)
    crops: dict[str, Any] = field(default_factory=dict)
    instances: str | None = None
    python: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stats", tuple(self.stats))
        if self.stage not in STAGES:
            raise InputError(f"stage = {self.stage!r}: use one of {', '.join(STAGES)}")
        if self.engine not in MEASURED:
            raise InputError(f"engine = {self.engine!r}: use one of {', '.join(MEASURED)}")
        for name in ("workers", "threads_per_worker"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be at least 1")

    def to_json(self, path: StrPath) -> None:
        """Write the specification for the measured process."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def from_json(cls, path: StrPath) -> RunSpec:
        """Read what `to_json` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class StageReport:
    """What the measured process tells of its own run.

    Attributes
    ----------
    started, ended
        Readings of `time.monotonic` around the stage; the start of the cluster is not in between.
    pixels
        Image pixels the stage covers, all channels.
    tasks
        Tasks the stage was cut into; None for the peer.
    software, python
        Name and version of what ran, and of its interpreter.
    """

    started: float
    ended: float
    pixels: int
    tasks: int | None
    software: str
    python: str


@dataclass(frozen=True, slots=True)
class Row:
    """One run of the sweep, a line of `sweep.csv`; GB is 1e9 bytes, 100 percent is one core.

    All figures but `hwm_sum_gb` and `peak_pss_gb` are of the stage alone, without the start of
    the cluster.
    """

    case: str
    stage: str
    engine: str
    workers: int
    threads_per_worker: int
    repeat: int
    wall_s: float
    peak_rss_gb: float
    mean_rss_gb: float
    mean_vsz_gb: float
    peak_cpu_percent: float
    mean_cpu_percent: float
    hwm_sum_gb: float
    peak_pss_gb: float | None
    samples: int
    interval_s: float
    pixels: int
    gigapixels_per_s: float
    tasks: int | None
    software: str
    python: str
    cpu_model: str
    cores: int
    date: str


def measure(
    spec: RunSpec, out_json: StrPath, *, log: StrPath | None = None, interval: float = 0.1
) -> None:
    """Run one cell of the sweep in a fresh process and write its row.

    Parameters
    ----------
    spec
        What to run.
    out_json
        Where the row goes; written last, and only if the run succeeds. Scratch space (crops, for
        instance) is taken beside it and removed.
    log
        Where the output of the measured process goes; None to keep it only for the error message.
    interval
        Time between samples, in seconds.

    Raises
    ------
    InputError
        The run refused its input; the message is the run's own.
    RuntimeError
        The run failed; the message ends with the last line of its log.
    """
    target = Path(out_json)
    with _scratch_beside(target) as scratch:
        log_path = scratch / "run.log" if log is None else Path(log)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        spec_path, report_path = scratch / "spec.json", scratch / "report.json"
        spec.to_json(spec_path)
        with log_path.open("wb") as log_file:
            status, sampler = _run_beside(
                _command(spec, spec_path, report_path), _environment(spec), log_file, interval
            )
        if status:
            raise _failure(spec, status, log_path)
        report = StageReport(**json.loads(report_path.read_text(encoding="utf-8")))
    summary = sampler.summary(since=report.started, until=report.ended)
    write_json(target, dataclasses.asdict(_row(spec, report, summary)))


def collect(rows: Iterable[StrPath], sweep_csv: StrPath) -> None:
    """Write the rows of many runs as one table, in an order that does not depend on theirs.

    Parameters
    ----------
    rows
        Paths of files that `measure` wrote.
    sweep_csv
        Path of the table: one line a run, the columns of `Row`.

    Raises
    ------
    InputError
        A file is missing or is not a row.
    """
    columns = [field.name for field in dataclasses.fields(Row)]
    table = sorted((_read_row(path) for path in rows), key=_order)
    target = Path(sweep_csv)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(dataclasses.asdict(row) for row in table)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _order(row: Row) -> tuple[str, str, str, int, int, int]:
    return row.case, row.stage, row.engine, row.threads_per_worker, row.workers, row.repeat


def _read_row(path: StrPath) -> Row:
    try:
        return Row(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: not the row of a benchmark run ({error}); run it again"
        ) from None


def _command(spec: RunSpec, spec_path: Path, report_path: Path) -> list[str]:
    python = spec.python or sys.executable
    paths = [str(spec_path), str(report_path)]
    if spec.engine == PEER:
        return [python, str(Path(__file__).with_name("peer.py")), *paths]
    return [python, "-m", "harpy_core.benchmark.process", *paths]


def _environment(spec: RunSpec) -> dict[str, str]:
    """The measured process's environment: one thread for every library that has a pool.

    Snakemake exports a rule's threads as `OMP_NUM_THREADS`: every worker would start as many.
    """
    environment = dict(os.environ)
    environment.update(ONE_THREAD)
    inherited = environment.pop("PYTHONPATH", None)
    if spec.engine != PEER:
        package = str(Path(harpy_core.__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, inherited]))
    return environment


@contextmanager
def _scratch_beside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, removed at the end; what a killed run left goes first."""
    scratch = target.with_name(f".{target.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch.resolve()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that the measured processes are ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_beside(
    command: list[str], environment: dict[str, str], log: IO[bytes], interval: float
) -> tuple[int, ProcessTreeSampler]:
    """Run a command in a session of its own, sampled from here; its exit status and the samples.

    However this ends, no process of the session outlives it: not even where this process is
    killed, for then the pipe that is the command's input closes (see `end_with_parent`).
    """
    with _termination_raises():
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with ProcessTreeSampler(child.pid, interval) as sampler:
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        finally:
            # Not yet waited for, the child still holds its group's number: no stranger is hit.
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    return child.returncode, sampler


def _failure(spec: RunSpec, status: int, log: Path) -> Exception:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
    if status == INPUT_ERROR_STATUS:
        return InputError(last)
    how = f"exit status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
    return RuntimeError(
        f"benchmark of {spec.case}, {spec.stage}, {spec.engine}, {spec.workers} workers: "
        f"{how}: {last}"
    )


def _row(spec: RunSpec, report: StageReport, summary: ProcessTreeSummary) -> Row:
    wall = report.ended - report.started
    pss = summary.peak_pss
    return Row(
        case=spec.case,
        stage=spec.stage,
        engine=spec.engine,
        workers=spec.workers,
        threads_per_worker=spec.threads_per_worker,
        repeat=spec.repeat,
        wall_s=round(wall, 4),
        peak_rss_gb=round(summary.peak_rss / _GB, 6),
        mean_rss_gb=round(summary.mean_rss / _GB, 6),
        mean_vsz_gb=round(summary.mean_vsz / _GB, 6),
        peak_cpu_percent=round(summary.peak_cpu_percent, 2),
        mean_cpu_percent=round(summary.mean_cpu_percent, 2),
        hwm_sum_gb=round(summary.hwm_sum / _GB, 6),
        peak_pss_gb=None if pss is None else round(pss / _GB, 6),
        samples=summary.samples,
        interval_s=round(summary.interval, 4),
        pixels=report.pixels,
        gigapixels_per_s=round(report.pixels / 1e9 / wall, 6),
        tasks=report.tasks,
        software=report.software,
        python=report.python,
        cpu_model=cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


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
