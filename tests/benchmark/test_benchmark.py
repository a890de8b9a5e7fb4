"""Measured runs: the row, failures, interruption; the real stages are run end to end elsewhere."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from harpy_core.benchmark.sweep import Row, RunSpec, collect, measure
from harpy_core.errors import InputError

WORK = """
import json, sys, time, platform
spec_path, report_path = sys.argv[-2:]
spec = json.load(open(spec_path))
time.sleep(0.3)
started = time.monotonic()
began = time.process_time()
block = bytearray(b"x") * 150_000_000
burnt = time.process_time()
while time.process_time() < burnt + 0.5: pass
ended = time.monotonic()
used = time.process_time() - began
json.dump(dict(started=started, ended=ended, pixels=2_000_000_000, tasks=7,
               software="stand-in 1", python=platform.python_version()), open(report_path, "w"))
"""


StandIn = Callable[[str], str]


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """Make an interpreter that runs the given code instead of the stage."""

    def make(code: str) -> str:
        script = tmp_path / "stage.py"
        script.write_text(code)
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        return str(python)

    return make


def spec_with(python: str | None = None, **fields: Any) -> RunSpec:
    given: dict[str, Any] = {
        "case": "tissue",
        "stage": "aggregate",
        "engine": "numba",
        "workers": 1,
        "threads_per_worker": 1,
        "raster_json": "raster.json",
    }
    return RunSpec(**{**given, **fields}, python=python)


def row_file(path: Path, **fields: object) -> Path:
    given: dict[str, object] = {}
    for field in dataclasses.fields(Row):
        given[field.name] = "x" if field.type == "str" else 1
    path.write_text(json.dumps({**given, **fields}))
    return path


def test_row_tells_what_the_stage_used(tmp_path: Path, stand_in: StandIn) -> None:
    out = tmp_path / "run" / "numba-1-0.json"
    log = tmp_path / "run.log"
    measure(spec_with(stand_in(WORK + "print(used)")), out, log=log, interval=0.02)
    row = Row(**json.loads(out.read_text()))
    assert (row.case, row.stage, row.engine, row.workers, row.tasks) == (
        "tissue",
        "aggregate",
        "numba",
        1,
        7,
    )
    assert row.wall_s > 0.5
    assert row.gigapixels_per_s == pytest.approx(2 / row.wall_s, rel=1e-3)
    assert 0.15 < row.peak_rss_gb < 0.22
    assert row.mean_cpu_percent / 100 * row.wall_s == pytest.approx(float(log.read_text()), abs=0.1)
    assert row.software == "stand-in 1"
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_spec_survives_json(tmp_path: Path) -> None:
    spec = spec_with(stats=("mean", "max"), memory_limit="2GB", workers=3)
    spec.to_json(tmp_path / "spec.json")
    assert RunSpec.from_json(tmp_path / "spec.json") == spec


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"stage": "tile"}, "stage"), ({"engine": "gpu"}, "engine"), ({"workers": 0}, "workers")],
)
def test_impossible_spec_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"{named} = "):
        spec_with(**fields)


def test_failing_run_raises_its_last_line_and_writes_nothing(
    tmp_path: Path, stand_in: StandIn
) -> None:
    python = stand_in("print('start', flush=True); raise KeyError('dapi')")
    out = tmp_path / "run" / "row.json"
    with pytest.raises(RuntimeError, match=r"tissue, aggregate.*exit status 1: KeyError: 'dapi'"):
        measure(spec_with(python), out)
    assert list(out.parent.iterdir()) == []


def test_killed_run_is_named_by_its_signal(tmp_path: Path, stand_in: StandIn) -> None:
    python = stand_in("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(RuntimeError, match="SIGKILL: it wrote nothing"):
        measure(spec_with(python), tmp_path / "row.json")


def test_missing_raster_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"FileNotFoundError.*missing.json"):
        measure(spec_with(raster_json=str(tmp_path / "missing.json")), tmp_path / "row.json")


def test_input_error_of_the_run_is_passed_on(tmp_path: Path, stand_in: StandIn) -> None:
    python = stand_in("import sys; print('memory_limit = 1MB: too small'); sys.exit(2)")
    with pytest.raises(InputError, match=r"^memory_limit = 1MB: too small$"):
        measure(spec_with(python), tmp_path / "row.json")


def test_output_goes_to_the_log(tmp_path: Path, stand_in: StandIn) -> None:
    python = stand_in("print('hello')\n" + WORK)
    measure(spec_with(python), tmp_path / "row.json", log=tmp_path / "logs" / "run.log")
    assert (tmp_path / "logs" / "run.log").read_text() == "hello\n"


def test_libraries_get_one_thread_each(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    python = stand_in("import os; print(os.environ['OMP_NUM_THREADS'])\n" + WORK)
    measure(spec_with(python), tmp_path / "row.json", log=tmp_path / "run.log")
    assert (tmp_path / "run.log").read_text() == "1\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_measured_processes_end_with_an_interrupted_parent(
    tmp_path: Path, stand_in: StandIn, number: signal.Signals
) -> None:
    pids = tmp_path / "pids"
    python = stand_in(
        "import os, sys, time, subprocess\n"
        "from harpy_core.benchmark.peer import end_with_parent\n"
        "end_with_parent()\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{grandchild.pid}}\\n')\n"
        "time.sleep(60)\n"
    )
    spec_with(python).to_json(tmp_path / "spec.json")
    code = (
        "from harpy_core.benchmark.sweep import RunSpec, measure\n"
        f"measure(RunSpec.from_json({str(tmp_path / 'spec.json')!r}), {str(tmp_path / 'row')!r})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (pids.exists() and pids.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = [int(pid) for pid in pids.read_text().split()]
    parent.send_signal(number)
    parent.wait(timeout=60)
    while any(map(_is_running, children)):
        assert time.monotonic() < deadline + 60
        time.sleep(0.05)
    assert not (tmp_path / "row").exists()
    assert (tmp_path / ".row.partial").exists() == (number == signal.SIGKILL)


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_a_killed_run_left_does_not_hinder_the_next(tmp_path: Path, stand_in: StandIn) -> None:
    (tmp_path / ".row.json.partial").mkdir()
    (tmp_path / ".row.json.partial" / "report.json").write_text("{}")
    measure(spec_with(stand_in(WORK)), tmp_path / "row.json")
    assert not (tmp_path / ".row.json.partial").exists()


def test_sweep_does_not_depend_on_the_order_of_its_runs(tmp_path: Path) -> None:
    cells = [("numba", 2, 0), ("numba", 1, 1), ("harpy", 1, 0), ("numba", 10, 0), ("numba", 1, 0)]
    paths = [
        row_file(tmp_path / f"{i}.json", engine=engine, workers=workers, repeat=repeat)
        for i, (engine, workers, repeat) in enumerate(cells)
    ]
    collect(paths, tmp_path / "a.csv")
    collect(reversed(paths), tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    with (tmp_path / "a.csv").open() as lines:
        table = list(csv.DictReader(lines))
    assert [(r["engine"], int(r["workers"]), int(r["repeat"])) for r in table] == [
        ("harpy", 1, 0),
        ("numba", 1, 0),
        ("numba", 1, 1),
        ("numba", 2, 0),
        ("numba", 10, 0),
    ]
    assert list(table[0]) == [field.name for field in dataclasses.fields(Row)]


@pytest.mark.parametrize("text", [None, "", "{}", "[1]"])
def test_what_is_not_a_row_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "row.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="not the row of a benchmark run"):
        collect([path], tmp_path / "sweep.csv")
    assert not (tmp_path / "sweep.csv").exists()


def test_peer_needs_nothing_of_this_package() -> None:
    source = Path(__file__).parents[2] / "harpy_core" / "benchmark" / "peer.py"
    assert "harpy_core" not in source.read_text()


def test_peer_without_its_package_says_so(tmp_path: Path) -> None:
    raster = tmp_path / "raster.json"
    raster.write_text("{}")
    environment = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    spec = spec_with(
        str(environment / "bin" / "python"), engine="harpy", raster_json=os.fspath(raster)
    )
    with pytest.raises(RuntimeError, match="ModuleNotFoundError: No module named 'harpy'"):
        measure(spec, tmp_path / "row.json")
