"""Refusal of everybody at a cluster's ports but its own processes."""

from __future__ import annotations

import contextlib
import http.client
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from distributed import Client, LocalCluster

from harpy_core.errors import InputError
from harpy_core.running import cluster, credentials

STRANGER = """
import sys
from distributed import Client
with Client(sys.argv[1], timeout="5s") as client:
    print(client.submit(sum, [1, 2]).result(timeout=5))
"""


def listening() -> set[tuple[str, int]]:
    """Addresses and ports that this process and those below it listen on."""
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [c for process in ours for c in process.net_connections("inet")]
    return {tuple(c.laddr) for c in found if c.status == psutil.CONN_LISTEN}


def page(address: tuple[str, int], path: str) -> int:
    """Status of an HTTP server's answer; 0 where something else answers."""
    try:
        with urllib.request.urlopen(f"http://{address[0]}:{address[1]}{path}", timeout=5) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, http.client.HTTPException):
        return 0


def stranger(address: str) -> subprocess.CompletedProcess[str]:
    """A second process that knows the address, and no more."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("DASK_")}
    return subprocess.run(
        [sys.executable, "-c", STRANGER, address],
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_local_cluster_listens_on_loopback_alone_and_shows_nothing() -> None:
    before = listening()
    with cluster.local(workers=1, threads_per_worker=1, memory_limit="1GB"):
        found = listening() - before
        assert len(found) >= 4  # the scheduler, its HTTP server, nanny and worker
        assert {address for address, _ in found} <= {"127.0.0.1", "::1"}
        shown = {
            page(at, path)
            for at in found
            for path in (
                "/info/logs",
                "/info/main/logs.html",
                "/info/main/workers.html",
                "/info/call-stacks/x.html",
                "/json/index.html",
            )
        }
        assert shown <= {0, 404}
        assert 404 in shown


def test_who_has_no_credentials_is_refused_and_who_has_them_is_not(tmp_path: Path) -> None:
    with (
        credentials.temporary(tmp_path) as security,
        LocalCluster(
            n_workers=1, threads_per_worker=1, security=security, dashboard_address=None
        ) as secured,
    ):
        address = secured.scheduler_address
        assert address.startswith("tls://")
        with Client(address, security=security) as client:
            assert client.submit(sum, [1, 2]).result(timeout=30) == 3
        for given in (address, address.replace("tls://", "tcp://")):
            ended = stranger(given)
            assert ended.returncode != 0
            assert "3" not in ended.stdout
        with credentials.temporary(tmp_path) as other, pytest.raises(OSError, match="TLS"):
            Client(address, security=other, timeout="5s")


def test_a_scheduler_without_credentials_lets_a_stranger_in() -> None:
    """Show that the test before it fails if nothing is refused."""
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as open_to_all:
        assert stranger(open_to_all.scheduler_address).stdout.strip() == "3"


def test_credentials_are_read_by_their_user_alone_and_go(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), credentials.temporary(tmp_path) as security:
        (folder,) = tmp_path.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
        used = security.get_tls_config_for_role("worker")
        assert {Path(used[name]).parent for name in ("key", "cert", "ca_file")} == {folder}
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_two_clusters_have_different_credentials(tmp_path: Path) -> None:
    with credentials.temporary(tmp_path) as one, credentials.temporary(tmp_path) as other:
        assert Path(one.tls_worker_key).read_bytes() != Path(other.tls_worker_key).read_bytes()


@pytest.mark.parametrize("folder", ["with space", "not-there"])
def test_a_folder_that_cannot_keep_credentials_is_told(folder: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    with (
        pytest.raises(InputError, match="shared-temp-directory"),
        credentials.temporary(place),
    ):
        pass
