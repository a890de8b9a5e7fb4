"""Clusters: workers of this machine, and a scheduler by its address."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
from distributed import LocalCluster

import harpy_core as hc
from harpy_core.config.models import Cluster
from harpy_core.running import cluster, credentials, schedule

if TYPE_CHECKING:
    from distributed import Client


def settings_of_process() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in cluster.WORKER_ENVIRONMENT}


def lose_the_scheduler() -> None:
    """Log what a worker logs whose scheduler ended first."""
    logging.getLogger("distributed.worker").error("Failed to communicate with scheduler")


def test_a_local_cluster_has_the_workers_asked_for_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with cluster.local(workers=2, threads_per_worker=2, memory_limit="1GB") as client:
            assert list(client.nthreads().values()) == [2, 2]
            assert schedule.threads_of(client) == 4
            workers = client.scheduler_info()["workers"].values()
            assert {worker["memory_limit"] for worker in workers} == {10**9}
            for found in client.run(settings_of_process).values():
                assert found == cluster.WORKER_ENVIRONMENT
                assert found["OMP_NUM_THREADS"] == "1"
            with cluster.connect(
                Cluster(kind="address", address=client.scheduler.address), threads=1
            ) as other:
                assert other.submit(sum, [1, 2]).result() == 3
            assert client.submit(sum, [3, 4]).result() == 7
            client.run(lose_the_scheduler)
    assert capfd.readouterr().err == ""
    assert not list(tmp_path.glob("harpy-core-*"))


def test_a_config_without_numbers_takes_what_the_job_was_given() -> None:
    with cluster.connect(Cluster(kind="local", memory_limit="1GB"), threads=2) as client:
        assert list(client.nthreads().values()) == [2]


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_no_scheduler_at_the_address_is_told_in_one_line(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 0.5)
    # It takes what is sent and says nothing, as a server of pages does.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{protocol}://127.0.0.1:{silent.getsockname()[1]}"
        with (
            pytest.raises(hc.InputError, match=f"cluster.address = '{address}': no Dask") as error,
            cluster.connect(Cluster(kind="address", address=address), threads=1),
        ):
            pass
    assert "\n" not in str(error.value)


def test_a_scheduler_with_credentials_takes_those_of_dasks_configuration(tmp_path: Path) -> None:
    with (
        credentials.temporary(tmp_path) as security,
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            security=security,
            dashboard_address="127.0.0.1:0",
        ) as secured,
    ):
        section = Cluster(kind="address", address=secured.scheduler_address)
        files = security.get_tls_config_for_role("client")
        named = {
            "distributed.comm.tls.ca-file": files["ca_file"],
            "distributed.comm.tls.client.cert": files["cert"],
            "distributed.comm.tls.client.key": files["key"],
        }
        with dask.config.set(named), cluster.connect(section, threads=1) as client:
            assert client.submit(sum, [1, 2]).result(timeout=30) == 3
        with (
            dask.config.set(named | {"distributed.comm.tls.ca-file": "nowhere.pem"}),
            pytest.raises(hc.InputError, match=r"No such file.*distributed\.comm\.tls"),
            cluster.connect(section, threads=1),
        ):
            pass


@pytest.mark.parametrize(("walltime", "limit"), [(None, "95"), ("02:00:00", "02:00:00")])
def test_a_worker_of_slurm_has_the_time_of_its_stage(
    walltime: str | None, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\ncat > asked\necho 'sbatch: error: none today' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    section = Cluster(kind="slurm", walltime=walltime)
    with (
        pytest.raises(hc.InputError, match=r"SLURM refuses the workers \(none today\)"),
        cluster.connect(section, threads=1, minutes=95),
    ):
        pass
    assert f"#SBATCH -t {limit}\n" in (tmp_path / "asked").read_text()


def _square(number: int) -> int:
    return number * number


def test_results_come_in_the_order_of_the_tasks(client: Client) -> None:
    expected = [n * n for n in range(40)]
    assert list(schedule.in_order(_square, range(40), client)) == expected
    assert list(schedule.in_order(_square, range(40))) == expected


def test_a_bounded_number_of_tasks_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "threads_of", lambda client: 2)
    handed_out = 0

    def tasks() -> object:
        nonlocal handed_out
        for number in range(50):
            handed_out += 1
            yield number

    for done, _ in enumerate(schedule.in_order(_square, tasks())):
        assert handed_out <= done + 2 * schedule.IN_FLIGHT + 1


def _fail(number: int) -> int:
    if number == 3:
        raise hc.InputError("three: not wanted; leave it out")
    return number


@pytest.mark.parametrize("here", [True, False])
def test_an_error_ends_the_job_with_its_message(here: bool, client: Client) -> None:
    with pytest.raises(hc.InputError, match="three: not wanted"):
        list(schedule.in_order(_fail, range(50), None if here else client))


def test_a_worker_sends_back_only_what_its_tile_holds(client: Client) -> None:
    labels = np.zeros((64, 64), "u8")
    labels[40:44, 3:9] = 2**63
    found = hc.aggregate_stats(np.ones((2, 64, 64), "f4"), labels, "sum", client=client)
    assert found.X.tolist() == [[24.0, 24.0]]
