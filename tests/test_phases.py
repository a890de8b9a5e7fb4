"""Accounting of a thread's time."""

from __future__ import annotations

import pickle
import threading
import time

import pytest

from harpy_core.phases import PHASES, Phased, phase, taken


def gained(before: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    after = taken()
    return {n: (after[n][0] - before[n][0], after[n][1] - before[n][1]) for n in PHASES}


def test_time_belongs_to_the_innermost_phase() -> None:
    before = taken()
    started = time.perf_counter()
    with phase("kernel"):
        time.sleep(0.05)
        with phase("decode"):
            time.sleep(0.1)
    whole = time.perf_counter() - started
    found = gained(before)
    assert found["decode"][0] >= 0.1
    assert found["kernel"][0] >= 0.05
    assert found["decode"][0] + found["kernel"][0] == pytest.approx(whole, rel=1e-2)
    assert found["encode"] == found["write"] == (0, 0)


def test_waiting_is_told_from_working() -> None:
    before = taken()
    with phase("write"):
        time.sleep(0.1)
    with phase("encode"):
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass
    found = gained(before)
    assert found["write"][1] < 0.05 < 0.1 <= found["write"][0]
    assert found["encode"][1] == pytest.approx(0.1, rel=0.1)


def test_phases_of_all_threads_add_up() -> None:
    before = taken()
    threads = [threading.Thread(target=Phased("decode", time.sleep), args=(0.05,)) for _ in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gained(before)["decode"][0] >= 0.15


def test_a_failing_block_is_counted_and_its_error_passed_on() -> None:
    before = taken()
    with pytest.raises(KeyError), phase("kernel"), phase("decode"):
        time.sleep(0.02)
        raise KeyError("chunk")
    assert gained(before)["decode"][0] >= 0.02


def test_a_phased_function_travels() -> None:
    assert pickle.loads(pickle.dumps(Phased("kernel", abs)))(-3) == 3
