"""The sampler against children whose memory and CPU are known."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from harpy_core.benchmark.profiling import ProcessTreeSampler, ProcessTreeSummary

MB = 10**6

BURN = """
import resource, time
def burn(seconds):
    while sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < seconds:
        pass
"""


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", BURN + code])
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def sampled(code: str, interval: float = 0.02) -> ProcessTreeSummary:
    """Summary of a child's whole life, CPU time to the last tick included."""
    with running(code) as child:
        with ProcessTreeSampler(child.pid, interval) as sampler:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return sampler.summary()


def cpu_seconds(summary: ProcessTreeSummary) -> float:
    return summary.mean_cpu_percent / 100 * summary.wall_s


def test_known_memory_of_a_child_is_seen() -> None:
    summary = sampled("block = bytearray(b'x') * 200_000_000; time.sleep(0.6)")
    assert 200 * MB < summary.peak_rss < 260 * MB
    assert 100 * MB < summary.mean_rss <= summary.peak_rss
    assert summary.mean_vsz > summary.mean_rss
    assert summary.peak_rss <= summary.hwm_sum < 260 * MB
    assert summary.peak_pss is not None
    assert 200 * MB < summary.peak_pss <= summary.hwm_sum


def test_known_cpu_time_of_a_child_is_seen() -> None:
    summary = sampled("burn(1.2)")
    assert cpu_seconds(summary) == pytest.approx(1.2, abs=0.1)
    assert summary.peak_cpu_percent <= 110


def test_cpu_time_of_dead_grandchildren_is_kept() -> None:
    code = """
import subprocess, sys
source = "import resource\\nwhile sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < 0.4: pass"
for _ in range(3):
    subprocess.run([sys.executable, "-c", source])
time.sleep(0.2)
"""
    assert cpu_seconds(sampled(code)) == pytest.approx(1.2, abs=0.25)


def test_cpu_time_of_children_nobody_waits_for_is_kept() -> None:
    code = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    burn(0.5)
    os._exit(0)
time.sleep(1.5)
"""
    assert cpu_seconds(sampled(code)) == pytest.approx(0.5, abs=0.15)


def test_a_parent_and_child_that_die_between_two_samples_are_counted_once() -> None:
    code = """
import os
if os.fork() == 0:
    if os.fork() == 0:
        burn(1.3)
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
time.sleep(1.5)
"""
    # The sample after 1 s sees the grandchild at work, the next one neither of the two.
    assert cpu_seconds(sampled(code, interval=1.0)) == pytest.approx(1.3, abs=0.25)


def test_orphans_stay_in_the_tree() -> None:
    code = """
import os
if os.fork() == 0:
    if os.fork() == 0:
        block = bytearray(b'x') * 100_000_000
        time.sleep(0.8)
        os._exit(0)
    time.sleep(0.2)
    os._exit(0)
os.wait()
time.sleep(0.7)
"""
    with running(code) as child, ProcessTreeSampler(child.pid, 0.02) as sampler:
        time.sleep(0.6)
        middle = time.monotonic()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert sampler.summary(since=middle - 0.1, until=middle).mean_rss > 100 * MB


def test_peaks_of_processes_that_did_not_live_together_are_not_added() -> None:
    code = """
import os
for _ in range(2):
    if os.fork() == 0:
        block = bytearray(b'x') * 150_000_000
        time.sleep(0.4)
        os._exit(0)
    os.wait()
"""
    summary = sampled(code)
    assert 150 * MB < summary.hwm_sum < 240 * MB


def test_high_water_mark_survives_between_samples_and_after_death() -> None:
    code = """
block = bytearray(b'x') * 200_000_000
del block
time.sleep(1.0)
"""
    with running(code) as child:
        time.sleep(0.5)
        with ProcessTreeSampler(child.pid, 0.1) as sampler:
            child.kill()
            child.wait()
    summary = sampler.summary()
    assert summary.peak_rss < 100 * MB
    assert summary.hwm_sum > 200 * MB


def test_summary_is_limited_to_the_time_asked_for() -> None:
    with running("time.sleep(0.6); burn(0.6)") as child:
        with ProcessTreeSampler(child.pid, 0.02) as sampler:
            start = time.monotonic()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        idle = sampler.summary(since=start + 0.2, until=start + 0.4)
        whole = sampler.summary()
    assert idle.wall_s == pytest.approx(0.2, abs=0.01)
    assert idle.mean_cpu_percent < 30
    assert whole.peak_cpu_percent > idle.mean_cpu_percent
    assert 5 <= idle.samples <= 12


def test_vanishing_processes_do_not_stop_the_sampler() -> None:
    code = """
import subprocess
for _ in range(60):
    subprocess.run(["true"])
"""
    summary = sampled(code, interval=0.002)
    assert summary.samples > 10
    assert summary.peak_rss > 0


def test_missing_process_is_refused() -> None:
    with running("") as child:
        child.wait()
        with pytest.raises(psutil.NoSuchProcess):
            ProcessTreeSampler(child.pid)
