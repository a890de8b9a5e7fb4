"""The sampler against children whose memory and CPU are known."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harpy_core.benchmark.profiling import ProcessTreeSampler, ProcessTreeSummary

MB = 10**6

START = """
import resource, sys, time
sys.stdin.readline()
def burn(seconds):
    while sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < seconds:
        pass
"""


@contextmanager
def sampling(code: str, interval: float = 0.02) -> Iterator[ProcessTreeSampler]:
    """The sampler of a child that runs the code once it is watched."""
    child = subprocess.Popen(
        [sys.executable, "-c", START + code], stdin=subprocess.PIPE, start_new_session=True
    )
    assert child.stdin is not None
    try:
        with ProcessTreeSampler(child.pid, interval) as sampler:
            child.stdin.write(b"\n")
            child.stdin.close()
            yield sampler
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    finally:
        child.kill()
        child.wait()


def sampled(code: str, interval: float = 0.02) -> ProcessTreeSummary:
    """Summary of a child's whole life, CPU time to the last tick included."""
    with sampling(code, interval) as sampler:
        pass
    return sampler.summary()


def cpu_seconds(summary: ProcessTreeSummary) -> float:
    return summary.mean_cpu_percent / 100 * summary.wall_s


def test_known_memory_of_a_child_is_seen() -> None:
    summary = sampled("block = bytearray(b'x') * 200_000_000; time.sleep(1.6)")
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
    burn(1.0)
    os._exit(0)
try:
    os.wait()
except ChildProcessError:
    time.sleep(0.3)
"""
    assert cpu_seconds(sampled(code)) == pytest.approx(1.0, abs=0.25)


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
    with sampling(code) as sampler:
        time.sleep(0.6)
        middle = time.monotonic()
    assert sampler.summary(since=middle - 0.1, until=middle).mean_rss > 100 * MB


def test_peaks_of_processes_that_did_not_live_together_are_not_added() -> None:
    code = """
import os
for _ in range(2):
    if os.fork() == 0:
        block = bytearray(b'x') * 150_000_000
        time.sleep(1.2)
        os._exit(0)
    os.wait()
"""
    summary = sampled(code)
    assert 150 * MB < summary.hwm_sum < 240 * MB


def test_high_water_mark_survives_between_samples_and_after_death() -> None:
    code = """
import time
block = bytearray(b'x') * 200_000_000
del block
print(flush=True)
time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with ProcessTreeSampler(child.pid, 0.1) as sampler:
        child.kill()
        child.communicate()
    summary = sampler.summary()
    assert summary.peak_rss < 100 * MB
    assert summary.hwm_sum > 200 * MB


def test_summary_is_limited_to_the_time_asked_for() -> None:
    with sampling("time.sleep(1.2); burn(0.6)") as sampler:
        start = time.monotonic()
    idle = sampler.summary(since=start + 0.2, until=start + 0.9)
    whole = sampler.summary()
    assert idle.wall_s == pytest.approx(0.7, abs=0.01)
    assert idle.mean_cpu_percent < 30
    assert whole.peak_cpu_percent > idle.mean_cpu_percent
    assert idle.samples == pytest.approx(0.7 / idle.interval, rel=0.5)
    assert idle.samples < whole.samples


def test_vanishing_processes_do_not_stop_the_sampler() -> None:
    code = """
import subprocess
for _ in range(300):
    subprocess.run(["true"])
"""
    summary = sampled(code, interval=0.002)
    assert summary.samples > 5
    assert summary.peak_rss > 0


def test_missing_process_is_refused() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(ProcessLookupError), ProcessTreeSampler(child.pid):
        pass


def test_an_allocation_held_between_two_samples_is_seen() -> None:
    code = """
time.sleep(0.5)
import mmap
block = mmap.mmap(-1, 512_000_000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for start in range(0, len(block), 4096):
    block[start] = 1
time.sleep(0.02)
block.close()
time.sleep(0.6)
"""
    with_it, without = sampled(code, 0.5), sampled("time.sleep(0.8)", 0.5)
    assert with_it.hwm_sum - without.hwm_sum == pytest.approx(512 * MB, rel=0.02)


def test_shared_memory_counts_once_in_pss_and_twice_in_rss(tmp_path: Path) -> None:
    code = f"""
import mmap, os, pathlib
folder = pathlib.Path({str(tmp_path)!r})
block = mmap.mmap(-1, 300_000_000)
child = os.fork()
for start in range(0, len(block), 4096):
    block[start] = 1
(folder / ("parent" if child else "child")).touch()
while not (folder / "enough").exists():
    time.sleep(0.05)
if not child:
    os._exit(0)
os.wait()
"""
    with sampling(code) as sampler:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        time.sleep(6)
        (tmp_path / "enough").touch()
    processes = sampler.samples[sampler.samples["role"] != "tree"]
    weighed = processes[processes["pss"].notna() & (processes["rss"] > 290 * MB)]
    both = weighed.groupby("time").filter(lambda sample: len(sample) == 2).groupby("time")
    last = both[["rss", "pss", "uss"]].sum().iloc[-1]
    assert last["rss"] == pytest.approx(600 * MB, rel=0.1)
    assert last["pss"] == pytest.approx(300 * MB, rel=0.1)
    assert last["uss"] < 30 * MB


def test_cpu_time_of_a_child_that_lived_30_milliseconds_is_kept() -> None:
    code = """
import os
for _ in range({children}):
    if os.fork() == 0:
        started = time.process_time()
        while time.process_time() < started + 0.03:
            pass
        os._exit(0)
    os.wait()
time.sleep(0.3)
"""
    one, many = (sampled(code.format(children=number)).cpu_s for number in (1, 11))
    # The kernel counts in steps of 10 ms.
    assert many - one == pytest.approx(0.3, abs=0.1)


def test_bytes_and_faults_of_dead_children_are_kept(disk: Path) -> None:
    code = f"""
import os
for number in range(3):
    if os.fork() == 0:
        with open({str(disk)!r} + f"/{{number}}", "wb") as out:
            out.write(b"x" * 8_000_000)
            os.fsync(out.fileno())
            os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with open({str(disk)!r} + f"/{{number}}", "rb") as back:
            back.read()
        os._exit(0)
    os.wait()
time.sleep(0.3)
"""
    summary = sampled(code)
    assert summary.bytes_written == pytest.approx(24 * MB, rel=0.05)
    assert summary.bytes_read == pytest.approx(24 * MB, rel=0.05)


def test_processes_are_told_apart_by_role_and_start() -> None:
    code = """
import multiprocessing
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=time.sleep, args=(1.0,))
    child.start()
    child.join()
"""
    with sampling(code) as sampler:
        pass
    assert {"driver", "worker", "tree"} <= set(sampler.samples["role"])
    lives = sampler.samples[sampler.samples["role"] == "worker"]
    assert len(lives[["pid", "start"]].drop_duplicates()) == 1
    assert sampler.summary().peak_rss_by_role["worker"] > 5 * MB


def test_sampling_costs_less_than_a_hundredth_of_a_core_and_tells_its_pace() -> None:
    code = """
import subprocess
children = [subprocess.Popen(["sleep", "4"]) for _ in range(8)]
block = bytearray(b'x') * 300_000_000
time.sleep(4)
"""
    summary = sampled(code, interval=0.05)
    assert 0 < summary.sampler_percent < 1
    assert 0.05 <= summary.interval < 0.5
    assert summary.pss_interval >= 1


def test_a_process_of_its_own_is_no_part_of_the_tree() -> None:
    with sampling("time.sleep(0.5)") as sampler:
        pass
    assert sampler.samples["pid"].nunique() == 1
