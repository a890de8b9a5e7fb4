"""One measured run: a stage in a fresh process, sampled from beside it.

Owns the start and the end of the measured process; the sampling is
`harpy_core.benchmark.profiling`'s, the figures `harpy_core.benchmark.rows`'.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

import harpy_core
from harpy_core.benchmark.profiling import ProcessTreeSampler
from harpy_core.benchmark.rows import cgroup_memory_peak, measured
from harpy_core.benchmark.specs import INPUT_ERROR_STATUS, RunSpec, StageReport, StrPath
from harpy_core.config.models import PEER
from harpy_core.errors import InputError
from harpy_core.running.workers import ONE_THREAD

if TYPE_CHECKING:
    import pandas as pd


def measure(
    spec: RunSpec,
    *,
    scratch_beside: StrPath,
    log: StrPath | None = None,
    interval: float = 0.05,
    time_limit: float | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run one cell of the sweep in a fresh process.

    Parameters
    ----------
    spec
        What to run.
    scratch_beside
        A path beside which scratch space (for crops, for instance) is taken, and removed.
    log
        Where the output of the measured process goes; None to keep it only for the error message.
    interval
        Time between samples, in seconds.
    time_limit
        Minutes after which the process is ended, its start and warm-up included; None for no limit.

    Returns
    -------
    The columns of `harpy_core.benchmark.rows.Row` that the run tells, and its samples
    (`harpy_core.benchmark.sampler.COLUMNS`), their time in seconds from the start of the stage.

    Raises
    ------
    InputError
        The run refused its input; the message is the run's own.
    RuntimeError
        The run took longer than the limit, or failed: the message ends with the last line of its
        log.
    """
    before = cgroup_memory_peak()
    with _scratch_beside(Path(scratch_beside)) as scratch:
        log_path = scratch / "run.log" if log is None else Path(log)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        spec_path, report_path = scratch / "spec.json", scratch / "report.json"
        spec.to_json(spec_path)
        with log_path.open("wb") as log_file:
            status, sampler = _run_beside(
                _command(spec, spec_path, report_path),
                _environment(spec),
                log_file,
                interval,
                None if time_limit is None else 60 * time_limit,
            )
        if status is None:
            raise RuntimeError(f"{_told(spec)}: ended after its time limit, {time_limit:g} minutes")
        if status:
            raise _failure(spec, status, log_path)
        report = StageReport(**json.loads(report_path.read_text(encoding="utf-8")))
    summary = sampler.summary(since=report.started, until=report.ended)
    peak = cgroup_memory_peak()
    # A peak that was there before is another run's.
    rose = peak if peak is not None and peak > (before or 0) else None
    samples = sampler.samples.assign(time=sampler.samples["time"] - report.started)
    return measured(report, summary, rose, spec.threads), samples


def pools(spec: RunSpec) -> dict[str, str]:
    """Variables that hold every library with threads of its own to what the cluster has.

    Snakemake exports a rule's threads as `OMP_NUM_THREADS`: every worker would start as many.
    """
    return {**ONE_THREAD, "ZARR_THREADING__MAX_WORKERS": str(spec.threads_per_worker)}


def _command(spec: RunSpec, spec_path: Path, report_path: Path) -> list[str]:
    python = spec.python or sys.executable
    paths = [str(spec_path), str(report_path)]
    if spec.engine == PEER:
        return [python, str(Path(__file__).with_name("peer.py")), *paths]
    return [python, "-m", "harpy_core.benchmark.process", *paths]


def _environment(spec: RunSpec) -> dict[str, str]:
    environment = {**os.environ, **pools(spec)}
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
    command: list[str],
    environment: dict[str, str],
    log: IO[bytes],
    interval: float,
    seconds: float | None,
) -> tuple[int | None, ProcessTreeSampler]:
    """Run a command in a session of its own, sampled from here; its exit status and the samples.

    Where it takes longer than it may, it is ended, and the status is None. However this ends, no
    process of the session outlives it: not even where this process is killed, for then the pipe
    that is the command's input closes (see `end_with_parent`).
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
        late = threading.Event()

        def end() -> None:
            late.set()
            os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(seconds or 0, end)
        try:
            with ProcessTreeSampler(child.pid, interval) as sampler:
                if seconds is not None:
                    timer.start()
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        finally:
            timer.cancel()
            # Not yet waited for, the child still holds its group's number: no stranger is hit.
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    return None if late.is_set() else child.returncode, sampler


def _told(spec: RunSpec) -> str:
    return f"benchmark of {spec.case}, {spec.stage}, {spec.engine}, {spec.workers} workers"


def _failure(spec: RunSpec, status: int, log: Path) -> Exception:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
    if status == INPUT_ERROR_STATUS:
        return InputError(last)
    how = f"exit status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
    return RuntimeError(f"{_told(spec)}: {how}: {last}")
