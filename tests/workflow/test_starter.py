"""A script whose Snakemake has gone, with a shell between them as Snakemake has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

SCRIPT = """
import sys, time
from pathlib import Path
from types import SimpleNamespace

from harpy_core.workflow.script import running


def main():
    given = SimpleNamespace(
        log=["own.log"], rule="test", wildcards=[], threads=1, params={}, resources={}
    )
    with running(given):
        from harpy_core.running import cluster

        with cluster.local(1, 1) as client:
            pids = [*client.run(__import__("os").getpid).values(), __import__("os").getpid()]
            Path("pids.part").write_text(" ".join(map(str, pids)))
            Path("pids.part").rename("pids")
            # In a lock, as a stage is that waits for its workers.
            client.submit(time.sleep, 600).result()


if __name__ == "__main__":
    main()
"""

STARTER = """
import subprocess, sys
subprocess.run(["bash", "-c", f"set -eu; {sys.executable} script.py; true"])
"""


def waited(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_script_and_its_workers_end_with_the_snakemake_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "starter.py").write_text(STARTER)
    starter = subprocess.Popen([sys.executable, "starter.py"], cwd=tmp_path)
    try:
        assert waited((tmp_path / "pids").exists, 120)
        processes = [psutil.Process(int(p)) for p in (tmp_path / "pids").read_text().split()]
        assert len(processes) == 2
    finally:
        os.kill(starter.pid, signal.SIGKILL)
        starter.wait()
    assert waited(lambda: not any(process.is_running() for process in processes), 60)
    told = (tmp_path / "own.log").read_text(encoding="utf-8")
    assert "is gone: stopping" in told
    assert "test: stopped after" in told


def test_an_interrupt_is_told_in_one_line_by_a_script_and_nothing_by_its_workers(
    tmp_path: Path,
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with (tmp_path / "told").open("w") as told:
        shell = ["bash", "-c", f"set -eu; {sys.executable} script.py; true"]
        run = subprocess.Popen(
            shell, cwd=tmp_path, stderr=told, start_new_session=True, preexec_fn=_heed_interrupts
        )
    try:
        assert waited((tmp_path / "pids").exists, 120)
        # To the whole group, as a terminal sends it.
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(60) == 128 + signal.SIGINT
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert (tmp_path / "told").read_text() == "test: stopped\n"
    assert "test: stopped after" in (tmp_path / "own.log").read_text()


def _heed_interrupts() -> None:
    """Undo what a shell without a terminal gives to what it starts in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
