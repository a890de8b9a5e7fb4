"""Tasks on threads of this process: how many at a time."""

from __future__ import annotations

import os
import threading
import time

import pytest

from harpy_core.running import schedule


class Busy:
    """A task that says how many of its kind were at work beside it."""

    def __init__(self) -> None:
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    def __call__(self, task: int) -> int:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.002)
        with self._lock:
            self._now -= 1
        return task


@pytest.mark.parametrize("threads", [1, 3])
def test_a_job_uses_the_threads_it_was_given(threads: int) -> None:
    busy = Busy()
    with schedule.own_threads(threads):
        assert schedule.threads_of(None) == threads
        assert list(schedule.in_order(busy, range(40))) == list(range(40))
    assert busy.most <= threads
    assert schedule.threads_of(None) == len(os.sched_getaffinity(0))
