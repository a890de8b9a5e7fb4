"""Measured runs: the row, failures, interruption; the real stages are run end to end elsewhere."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from harpy_core.benchmark import sweep as sweeping
from harpy_core.benchmark.measuring import measure
from harpy_core.benchmark.rows import Row, columns
from harpy_core.benchmark.specs import RunSpec
from harpy_core.benchmark.sweep import Sweep, write_table
from harpy_core.errors import InputError
from harpy_core.raster import describe

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


READ = """
import os
with open("{path}", "rb") as block:
    os.fsync(block.fileno())
    os.posix_fadvise(block.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    block.read()
"""


StandIn = Callable[[str], str]


@pytest.fixture
def tmp_path(disk: Path) -> Path:
    """A folder whose files can be read from a disk again."""
    return disk


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


def row_with(**fields: Any) -> Row:
    given: dict[str, Any] = {}
    for field in dataclasses.fields(Row):
        if field.default is dataclasses.MISSING:
            given[field.name] = "x" if "str" in str(field.type) else 1
    return Row(**{**given, **fields})


def test_row_tells_what_the_stage_used(tmp_path: Path, stand_in: StandIn) -> None:
    place, log = tmp_path / "run" / "row.json", tmp_path / "run.log"
    row, samples = measure(
        spec_with(stand_in(WORK + "print(used)")), scratch_beside=place, log=log, interval=0.02
    )
    assert row["tasks"] == 7
    assert row["wall_s"] > 0.5
    assert row["gigapixels_per_s"] == pytest.approx(2 / row["wall_s"], rel=1e-3)
    assert row["gigapixels_per_core_s"] == pytest.approx(2 / row["cpu_s"], rel=1e-2)
    assert 0.15 < row["peak_rss_gb"] < 0.22
    assert row["cpu_s"] == pytest.approx(float(log.read_text()), abs=0.1)
    assert row["mean_cpu_percent"] / 100 * row["wall_s"] == pytest.approx(row["cpu_s"], abs=0.02)
    assert row["software"] == "stand-in 1"
    assert samples["time"].min() < 0 < samples["time"].max()
    assert list(place.parent.iterdir()) == []


def test_the_largest_share_of_the_threads_time_bounds_a_run(
    tmp_path: Path, stand_in: StandIn
) -> None:
    (tmp_path / "block").write_bytes(b"x" * 40_000_000)
    os.sync()
    phases = {"decode": [5, 1], "kernel": [1.5, 1.5], "encode": [0.5, 0.5], "write": [0, 0]}
    code = WORK.replace("ended=ended", f"ended=started + 4, phases={phases}")
    row, _ = measure(spec_with(stand_in(code), workers=2), scratch_beside=tmp_path / "row")
    told = {name: row[f"{name}_s"] for name in ("disk", "decode", "kernel", "encode", "idle")}
    assert told == {"disk": 0, "decode": 1, "kernel": 1.5, "encode": 0.5, "idle": 5}
    assert row["bound_by"] == "idle"
    end = "ended = time.monotonic()"
    code = code.replace(end, READ.format(path=tmp_path / "block") + end)
    row, _ = measure(spec_with(stand_in(code), workers=2), scratch_beside=tmp_path / "row")
    assert (row["disk_s"], row["idle_s"], row["bound_by"]) == (4, 1, "disk")


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
        measure(spec_with(python), scratch_beside=out)
    assert list(out.parent.iterdir()) == []


def test_killed_run_is_named_by_its_signal(tmp_path: Path, stand_in: StandIn) -> None:
    python = stand_in("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(RuntimeError, match="SIGKILL: it wrote nothing"):
        measure(spec_with(python), scratch_beside=tmp_path / "row")


def test_missing_raster_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"FileNotFoundError.*missing.json"):
        measure(
            spec_with(raster_json=str(tmp_path / "missing.json")), scratch_beside=tmp_path / "row"
        )


def test_input_error_of_the_run_is_passed_on(tmp_path: Path, stand_in: StandIn) -> None:
    python = stand_in("import sys; print('memory_limit = 1MB: too small'); sys.exit(2)")
    with pytest.raises(InputError, match=r"^memory_limit = 1MB: too small$"):
        measure(spec_with(python), scratch_beside=tmp_path / "row")


def test_output_goes_to_the_log(tmp_path: Path, stand_in: StandIn) -> None:
    python = stand_in("print('hello')\n" + WORK)
    measure(spec_with(python), scratch_beside=tmp_path / "row", log=tmp_path / "logs" / "run.log")
    assert (tmp_path / "logs" / "run.log").read_text() == "hello\n"


def test_libraries_get_one_thread_each(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    python = stand_in(
        "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['NUMBA_NUM_THREADS'])\n" + WORK
    )
    measure(spec_with(python), scratch_beside=tmp_path / "row", log=tmp_path / "run.log")
    assert (tmp_path / "run.log").read_text() == "1 1\n"


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
        # A shell has what it starts in the background ignore interrupts.
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from harpy_core.benchmark.measuring import measure\n"
        "from harpy_core.benchmark.specs import RunSpec\n"
        f"spec = RunSpec.from_json({str(tmp_path / 'spec.json')!r})\n"
        f"measure(spec, scratch_beside={str(tmp_path / 'row')!r})\n"
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
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def test_what_a_killed_run_left_does_not_hinder_the_next(tmp_path: Path, stand_in: StandIn) -> None:
    (tmp_path / ".row.partial").mkdir()
    (tmp_path / ".row.partial" / "report.json").write_text("{}")
    measure(spec_with(stand_in(WORK)), scratch_beside=tmp_path / "row")
    assert not (tmp_path / ".row.partial").exists()


def test_table_does_not_depend_on_the_order_of_its_runs(tmp_path: Path) -> None:
    cells = [("numba", 2, 0), ("numba", 1, 1), ("harpy", 1, 0), ("numba", 10, 0), ("numba", 1, 0)]
    rows = [row_with(engine=engine, workers=n, repeat=repeat) for engine, n, repeat in cells]
    write_table(rows, tmp_path / "a.csv")
    write_table(reversed(rows), tmp_path / "b.csv")
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
    assert list(table[0]) == columns()


@pytest.mark.parametrize("text", [None, "", "{}", "[1]"])
def test_what_is_not_a_row_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "row.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="not the row of a benchmark run"):
        Row.read(path)


# Sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    labels = np.zeros((64, 96), np.uint16)
    labels[5:20, 5:20], labels[30:50, 60:80] = 3, 9
    image = np.arange(2 * labels.size, dtype=np.uint16).reshape(2, *labels.shape)
    group = zarr.open_group(tmp_path / "store.zarr", mode="w")
    group.create_array("image", data=image, chunks=(1, 32, 32))
    group.create_array("labels", data=labels, chunks=(32, 32))
    described = describe(str(tmp_path / "store.zarr"), image="image", labels="labels")
    described.to_json(tmp_path / "raster.json")
    return Sweep(
        case="tiny",
        raster_json=str(tmp_path / "raster.json"),
        stages=["aggregate", "extract"],
        engines=["numba"],
        workers={"aggregate": [1], "extract": [1]},
        threads_per_worker=1,
        memory_limit="2GB",
        crops={"diameter": 16},
        repeats=2,
    )


def run(sweep: Sweep, folder: Path) -> list[dict[str, str]]:
    places = (folder / "runs", folder / "sweep.csv", folder / "samples.csv.gz")
    sweeping.run(sweep, *places, logs=folder / "logs")
    with places[1].open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_every_round_holds_each_combination_once_in_an_order_of_the_seed(sweep: Sweep) -> None:
    many = dataclasses.replace(
        sweep,
        workers={"aggregate": [1, 2, 4], "extract": [1, 8]},
        caches=["warm", "cold"],
        repeats=4,
    )
    names = [cell.name for cell in many.cells()]
    assert names == [cell.name for cell in many.cells()]
    rounds = [names[start : start + 10] for start in range(0, 40, 10)]
    combinations = [{name.rpartition("-")[0] for name in one} for one in rounds]
    assert all(one == combinations[0] and len(one) == 10 for one in combinations)
    orders = [[name.rpartition("-")[0] for name in one] for one in rounds]
    assert len({tuple(order) for order in orders}) == 4
    other = [cell.name for cell in dataclasses.replace(many, seed=1).cells()]
    assert other != names
    assert sorted(other) == sorted(names)


def test_a_sweep_measures_both_states_of_the_cache_and_is_not_repeated(
    sweep: Sweep, tmp_path: Path
) -> None:
    both = dataclasses.replace(sweep, caches=["warm", "cold"], repeats=1)
    rows = run(both, tmp_path)
    assert [(row["stage"], row["cache"]) for row in rows] == [
        ("aggregate", "cold"),
        ("aggregate", "warm"),
        ("extract", "cold"),
        ("extract", "warm"),
    ]
    assert [row["failed"] for row in rows] == [""] * 4
    assert [float(row["cached_share"]) for row in rows] == [0, 1, 0, 1]
    assert {row["instances"] for row in rows} == {"2"}
    assert {row["shape"] for row in rows} == {"2 x 64 x 96"}
    assert all(row["bound_by"] and row["input"] and row["commit"] for row in rows)
    pixels = np.arange(2 * 64 * 96).reshape(2, 64, 96)
    mean = pixels[:, 5:20, 5:20].mean((1, 2)).sum() + pixels[:, 30:50, 60:80].mean((1, 2)).sum()
    assert float(rows[0]["values"]) == pytest.approx(mean)
    assert pd.read_csv(tmp_path / "samples.csv.gz")["run"].nunique() == 4
    assert [row["date"] for row in run(both, tmp_path)] == [row["date"] for row in rows]


def test_a_failed_run_is_a_row_with_its_reason(sweep: Sweep, tmp_path: Path) -> None:
    with_peer = dataclasses.replace(
        sweep, engines=["numba", "harpy"], stages=["aggregate"], repeats=1, python=sys.executable
    )
    peer, ours = run(with_peer, tmp_path)
    assert "No module named 'harpy'" in peer["failed"]
    assert peer["wall_s"] == ""
    assert ours["failed"] == ""
    assert float(ours["wall_s"]) > 0


def test_a_run_past_its_time_limit_is_ended_and_is_a_row_with_that_reason(
    sweep: Sweep, tmp_path: Path, stand_in: StandIn
) -> None:
    python = stand_in("import time; time.sleep(600)")
    slow = dataclasses.replace(sweep, engines=["harpy"], repeats=1, python=python, time_limit=0.01)
    reason = "tiny, aggregate, harpy, 1 workers: ended after its time limit, 0.01 minutes"
    with pytest.raises(InputError, match=rf"no run of tiny came to its end: .*{reason}"):
        run(slow, tmp_path)


def test_a_run_within_its_time_limit_is_measured(tmp_path: Path, stand_in: StandIn) -> None:
    row, _ = measure(spec_with(stand_in(WORK)), scratch_beside=tmp_path / "row", time_limit=10)
    assert row["tasks"] == 7


def test_a_sweep_of_failures_alone_is_refused(sweep: Sweep, tmp_path: Path) -> None:
    alone = dataclasses.replace(sweep, engines=["harpy"], repeats=1, python=sys.executable)
    with pytest.raises(InputError, match=r"no run of tiny came to its end: .*harpy"):
        run(alone, tmp_path)
    assert not (tmp_path / "sweep.csv").exists()


def test_more_threads_than_cores_are_refused_unless_asked_for(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    two = dataclasses.replace(sweep, threads_per_worker=2, stages=["aggregate"], repeats=1)
    with pytest.raises(InputError, match=r"2 threads are more than the 1 cores"):
        run(two, tmp_path)
    rows = run(dataclasses.replace(two, oversubscribe=True), tmp_path)
    assert [row["oversubscribed"] for row in rows] == ["True"]


def test_results_that_differ_are_failures() -> None:
    same = {"stage": "extract", "instances": 4}
    rows = [
        row_with(engine="numba", values=100.0, **same),
        row_with(engine="harpy", values=100.05, **same),
        row_with(engine="harpy", values=101.0, **same),
    ]
    told = [row.failed for row in sweeping._compared(rows)]
    assert told[:2] == [None, None]
    assert told[2] == "its result (4 instances, 101.0) is not that of numba (4, 100.0)"


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
        measure(spec, scratch_beside=tmp_path / "row")
