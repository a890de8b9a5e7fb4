"""Clusters that grow, shrink to nothing, or lack memory while a job waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

import harpy_core as hc
from harpy_core.kernels import registry
from harpy_core.running import cluster, engines, lookout, schedule


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A cluster without a worker, looked at all the time."""
    monkeypatch.setattr(lookout, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(lookout, "LOOK_SECONDS", 0.05)
    with (
        LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            processes=False,
            dashboard_address=":0",
            silence_logs="ERROR",
        ) as grown,
        Client(grown) as client,
    ):
        yield client


def test_auto_waits_for_the_first_worker_and_asks_it(
    growing: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def trouble(engine: registry.Engine) -> str:
        asked.append(len(growing.cluster.workers))
        return "no GPU"

    monkeypatch.setattr(registry.Engine, "trouble", trouble)
    threading.Timer(0.5, growing.cluster.scale, [1]).start()
    assert engines.resolved("auto", growing) == "numba"
    assert asked == [1]


def test_a_cluster_that_grows_is_used(growing: Client) -> None:
    drawn = 0

    def tasks() -> Iterator[int]:
        nonlocal drawn
        for number in range(60):
            drawn += 1
            yield number

    growing.cluster.scale(1)
    growing.wait_for_workers(1)
    results = schedule.in_order(abs, tasks(), growing)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    assert drawn == 4 - 1 + schedule.IN_FLIGHT
    growing.cluster.scale(4)
    growing.wait_for_workers(4)
    assert next(results) == 4
    assert drawn == 5 - 1 + 4 * schedule.IN_FLIGHT
    assert list(results) == list(range(5, 60))


def _odd_one_late(task: int) -> int:
    time.sleep(task % 3 / 200)
    if task == 57:
        raise ValueError("task 57")
    return task


def test_a_large_cluster_is_told_of_several_tasks_at_a_time(
    growing: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    handed_out = growing.map

    def counting(function: Any, tasks: list[int], **options: Any) -> Any:
        told.append(len(tasks))
        return handed_out(function, tasks, **options)

    monkeypatch.setattr(growing, "map", counting)
    growing.cluster.scale(16)
    growing.wait_for_workers(16)
    assert list(schedule.in_order(_odd_one_late, range(57), growing)) == list(range(57))
    assert sum(told) == 57
    assert len(told) < 57 / 2
    results = schedule.in_order(_odd_one_late, range(100), growing)
    assert [next(results) for _ in range(57)] == list(range(57))
    with pytest.raises(ValueError, match="task 57"):
        next(results)


def test_a_job_whose_workers_have_all_ended_fails(
    growing: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "ALONE_SECONDS", 0.5)
    with pytest.raises(hc.InputError, match="has had no worker for 0 seconds") as error:
        list(schedule.in_order(abs, [1], growing))
    assert "\n" not in str(error.value)


def test_workers_that_wait_in_a_queue_have_not_ended(
    growing: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "ALONE_SECONDS", 0.1)
    monkeypatch.setattr(lookout, "in_queue", lambda jobs: True)
    monkeypatch.setattr(growing.cluster, "job_script", lambda: "", raising=False)
    threading.Timer(1.0, growing.cluster.scale, [1]).start()
    assert list(schedule.in_order(abs, [-1], growing)) == [1]


def _too_much(size: int) -> int:
    held = np.ones(size, np.uint8)
    time.sleep(60)
    return int(held[0])


def test_workers_that_are_restarted_for_memory_again_and_again_end_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookout, "LOOK_SECONDS", 0.2)
    with (
        cluster.local(workers=1, threads_per_worker=1, memory_limit="400MB") as client,
        pytest.raises(hc.InputError, match=r"restarted for memory 2 times.*memory_limit") as error,
    ):
        list(schedule.in_order(_too_much, [10**9], client))
    assert "\n" not in str(error.value)


def test_a_task_that_ends_one_worker_after_the_other_is_told_of_in_one_line(
    growing: Client,
) -> None:
    from distributed import KilledWorker

    failed = growing.submit(time.sleep, 60)
    failed._state.set_error(KilledWorker("task", None, 3), None)
    with pytest.raises(hc.InputError, match="4 workers ended one after the other"):
        lookout.Lookout(growing).results([failed])
