"""Downloads from a real server, and from one that does everything wrong."""

from __future__ import annotations

import email.utils
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_servers import SIZE, Fault, Server, digest

from harpy_core.datasets import download as module
from harpy_core.datasets.download import ATTEMPTS, download
from harpy_core.errors import InputError


def fetched(server: Server, folder: Path, **settings: Any) -> None:
    """Download, and see that it is whole, that nothing else is left and that it came at the end."""
    download(
        server.url, folder / "store.zip", digest(server.content), **{"pause": 0.001, **settings}
    )
    assert (folder / "store.zip").read_bytes() == server.content
    assert os.listdir(folder) == ["store.zip"]
    assert not server.seen_early


def refused(server: Server, folder: Path, match: str, sha256: str = "0" * 64) -> None:
    """Download in vain, and see that there is nothing at the final path."""
    with pytest.raises(InputError, match=match) as caught:
        download(server.url, folder / "store.zip", sha256, pause=0.001)
    assert "\n" not in str(caught.value)
    assert not (folder / "store.zip").exists()
    assert not server.seen_early


def test_a_download_is_whole_and_leaves_nothing_else(tmp_path: Path, server: Server) -> None:
    fetched(server, tmp_path)
    server.final = None
    fetched(server, tmp_path)
    assert len(server.requests) == 1


# The line breaks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_broken_download_goes_on_where_it_stopped(
    tmp_path: Path, server: Server, part: float, how: str
) -> None:
    server.faults = [Fault(stop_at=part, how=how)]
    fetched(server, tmp_path)
    assert "Range" not in server.requests[0]
    assert server.requests[1]["If-Range"] == '"one"'
    assert server.sent <= 1.05 * SIZE


def test_a_download_that_breaks_again_and_again_comes_to_an_end(
    tmp_path: Path, server: Server
) -> None:
    server.faults = [Fault(stop_at=part / 20) for part in range(1, 20)]
    fetched(server, tmp_path)
    assert len(server.requests) == 20
    assert server.sent <= 1.05 * SIZE


def test_a_download_that_stalls_goes_on(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.3)
    server.faults = [Fault(stop_at=0.3, how="stall"), Fault(stop_at=0.6, how="stall")]
    fetched(server, tmp_path)
    assert server.sent <= 1.05 * SIZE


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_killed_process_is_followed_by_one_that_goes_on(
    tmp_path: Path, server: Server, part: float
) -> None:
    server.faults = [Fault(stop_at=part, how="stall")]
    script = """
import sys
from harpy_core.datasets.download import download
download(*sys.argv[1:])
"""
    arguments = [server.url, str(tmp_path / "store.zip"), digest(server.content)]
    with subprocess.Popen([sys.executable, "-c", script, *arguments]) as job:
        kept = tmp_path / "store.zip.part"
        limit = time.monotonic() + 60
        while not kept.exists() or kept.stat().st_size < 0.99 * part * SIZE:
            assert job.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        job.kill()
    fetched(server, tmp_path)
    assert server.sent <= 1.05 * SIZE


def test_another_run_goes_on_where_the_first_gave_up(tmp_path: Path, server: Server) -> None:
    server.faults = [Fault(stop_at=0.4), *[Fault(503)] * (ATTEMPTS - 1)]
    refused(server, tmp_path, "resumes where it stopped", digest(server.content))
    assert sorted(os.listdir(tmp_path)) == ["store.zip.part", "store.zip.part.json"]
    server.requests.clear()
    fetched(server, tmp_path)
    assert [request["Range"] for request in server.requests] == [f"bytes={int(0.4 * SIZE)}-"]


def test_a_part_that_is_whole_is_taken(tmp_path: Path, server: Server) -> None:
    (tmp_path / "store.zip.part").write_bytes(server.content)
    facts = {"url": server.url, "validator": server.tag}
    (tmp_path / "store.zip.part.json").write_text(json.dumps(facts))
    fetched(server, tmp_path)
    assert server.sent == 0


def test_a_part_that_was_damaged_is_fetched_anew(tmp_path: Path, server: Server) -> None:
    damaged = bytearray(server.content[: SIZE // 2])
    damaged[1000] ^= 1
    (tmp_path / "store.zip.part").write_bytes(damaged)
    facts = {"url": server.url, "validator": server.tag}
    (tmp_path / "store.zip.part.json").write_text(json.dumps(facts))
    fetched(server, tmp_path)
    assert ["Range" in request for request in server.requests] == [True, False]


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_strong_validator_a_broken_download_starts_over(
    tmp_path: Path, server: Server, tag: str
) -> None:
    server.faults = [Fault(stop_at=0.5, tag=tag), Fault(tag=tag)]
    fetched(server, tmp_path)
    assert all("Range" not in request for request in server.requests)


def test_two_processes_do_not_fetch_into_one_file(tmp_path: Path, server: Server) -> None:
    server.final = None
    server.faults = [Fault(stop_at=0.5, how="stall")]
    sha256 = digest(server.content)
    first = threading.Thread(
        target=download, args=(server.url, tmp_path / "store.zip", sha256), daemon=True
    )
    first.start()
    while not (tmp_path / "store.zip.part").exists():
        time.sleep(0.01)
    with pytest.raises(InputError, match="is writing it"):
        download(server.url, tmp_path / "store.zip", sha256)
    server.released.set()
    first.join()
    assert (tmp_path / "store.zip").read_bytes() == server.content


# The server is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_server_without_ranges_sends_all_of_it_again(
    tmp_path: Path, server: Server, part: float
) -> None:
    server.faults = [Fault(stop_at=part), Fault(ignores_range=True)]
    fetched(server, tmp_path)
    assert len(server.requests) == 2


def test_a_server_without_ranges_that_always_breaks_is_given_up(
    tmp_path: Path, server: Server
) -> None:
    server.faults = [
        Fault(stop_at=part, ignores_range=True) for _ in range(20) for part in (0.9, 0.2)
    ]
    refused(server, tmp_path, "cannot be fetched", digest(server.content))
    assert len(server.requests) == ATTEMPTS


@pytest.mark.parametrize("more", [1, 1000, 10**9])
def test_a_length_that_is_too_large_does_no_harm(tmp_path: Path, server: Server, more: int) -> None:
    server.faults = [Fault(more_length=more)]
    fetched(server, tmp_path)
    assert server.sent <= 1.05 * SIZE


def test_a_length_that_is_too_small_is_no_whole_file(tmp_path: Path, server: Server) -> None:
    server.faults = [Fault(more_length=-1000)]
    refused(server, tmp_path, "instead of", digest(server.content))
    assert os.listdir(tmp_path) == []
    fetched(server, tmp_path)


@pytest.mark.parametrize("more", [-1000, 1000])
def test_a_total_that_lies_does_no_harm(tmp_path: Path, server: Server, more: int) -> None:
    server.faults = [Fault(stop_at=0.5), Fault(more_total=more)]
    fetched(server, tmp_path)


@pytest.mark.parametrize("shift", [-1000, 1000])
def test_another_range_than_was_asked_for_is_not_taken(
    tmp_path: Path, server: Server, shift: int
) -> None:
    server.faults = [Fault(stop_at=0.5), Fault(shift=shift)]
    fetched(server, tmp_path)


@pytest.mark.parametrize("size", [SIZE // 4, SIZE, 2 * SIZE])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_file_that_changes_between_tries_is_fetched_anew(
    tmp_path: Path, server: Server, part: float, size: int
) -> None:
    changed = np.random.default_rng(1).bytes(size)
    server.faults = [Fault(stop_at=part), Fault(swap=changed)]
    download(server.url, tmp_path / "store.zip", digest(changed), pause=0.001)
    assert (tmp_path / "store.zip").read_bytes() == changed
    assert not server.seen_early


@pytest.mark.parametrize("tag", [None, ""])
def test_a_server_that_ignores_the_version_does_not_mix_two_files(
    tmp_path: Path, server: Server, tag: str | None
) -> None:
    changed = np.random.default_rng(1).bytes(SIZE)
    server.faults = [Fault(stop_at=0.5), Fault(swap=changed, ignores_version=True, tag=tag)]
    download(server.url, tmp_path / "store.zip", digest(changed), pause=0.001)
    assert (tmp_path / "store.zip").read_bytes() == changed
    assert not server.seen_early


def test_a_file_that_changed_for_good_is_refused(tmp_path: Path, server: Server) -> None:
    wanted = digest(server.content)
    server.faults = [Fault(stop_at=0.5), Fault(swap=b"another file" * 1000)]
    refused(server, tmp_path, "instead of", wanted)
    assert os.listdir(tmp_path) == []


def test_a_wrong_file_does_not_replace_what_is_there(tmp_path: Path, server: Server) -> None:
    server.final = None
    (tmp_path / "store.zip").write_bytes(b"mine")
    with pytest.raises(InputError, match="instead of"):
        download(server.url, tmp_path / "store.zip", "0" * 64)
    assert (tmp_path / "store.zip").read_bytes() == b"mine"


def test_a_busy_server_is_asked_again(tmp_path: Path, server: Server) -> None:
    server.faults = [Fault(503), Fault(429), Fault(500), Fault(408)]
    fetched(server, tmp_path)
    assert len(server.requests) == 5


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_busy_server_is_left_alone_as_long_as_it_asks(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, status: int, form: str
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(module.time, "sleep", naps.append)
    until = email.utils.formatdate(time.time() + 120, usegmt=True)
    server.faults = [Fault(status, "120" if form == "seconds" else until), Fault(status, "soon")]
    fetched(server, tmp_path)
    assert naps[0] == pytest.approx(120, abs=10)
    assert naps[1] < 1


def test_a_server_that_asks_for_a_week_is_asked_sooner(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(module.time, "sleep", naps.append)
    server.faults = [Fault(503, "604800")]
    fetched(server, tmp_path)
    assert naps == [module.LONGEST_PATIENCE]


def test_pauses_grow_and_start_small_after_progress(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(module.time, "sleep", naps.append)
    server.faults = [Fault(503), Fault(503), Fault(503), Fault(stop_at=0.5), Fault(503)]
    fetched(server, tmp_path, pause=1.0)
    assert naps == [1, 2, 4, 1, 2]


def test_a_wrong_digest_leaves_nothing(tmp_path: Path, server: Server) -> None:
    refused(server, tmp_path, "instead of")
    assert os.listdir(tmp_path) == []
    assert len(server.requests) == 1


def test_a_missing_file_is_told_at_once(tmp_path: Path, server: Server) -> None:
    server.faults = [Fault(404)]
    refused(server, tmp_path, "404")
    assert len(server.requests) == 1


def test_no_server_is_told_after_some_attempts(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.zip"
        with pytest.raises(InputError, match="cannot be fetched"):
            download(url, tmp_path / "x.zip", "0" * 64, pause=0.001)
    with pytest.raises(InputError, match="http"):
        download("file:///etc/hostname", tmp_path / "x.zip", "0" * 64)


@pytest.mark.parametrize(("beside", "free"), [(0.0, SIZE - 1), (1.0, 2 * SIZE - 1)])
def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, beside: float, free: int
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    with pytest.raises(InputError, match=r"needs 0\.0 GB in .* make room"):
        download(server.url, tmp_path / "store.zip", digest(server.content), beside=beside)
    assert sum(f.stat().st_size for f in tmp_path.glob("*.part")) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free + 1))
    fetched(server, tmp_path, beside=beside)
