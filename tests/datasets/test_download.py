"""Downloads from a real server, and from one that does everything wrong."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harpy_core.config.models import Origin
from harpy_core.datasets import REGISTRY, fetch
from harpy_core.datasets import download as module
from harpy_core.datasets.download import ATTEMPTS, download, fetch_archive, unpack_archive
from harpy_core.errors import InputError
from harpy_core.raster import open_raster
from harpy_core.storage import spatialdata_store

SIZE = 4_000_000


@dataclass
class Fault:
    """A fault of one request."""

    status: int = 0
    retry_after: str = ""
    stop_at: float = 1.0
    """Part of the whole file after which nothing more comes."""
    how: str = "close"
    """End of the answer: close, reset, or stall."""
    ignores_range: bool = False
    ignores_version: bool = False
    more_length: int = 0
    """Bytes that the announced length is off by."""
    more_total: int = 0
    shift: int = 0
    """Bytes that the range sent is off by."""
    tag: str | None = None
    """Sent instead of the right one; empty for none."""
    swap: bytes | None = None
    """Content of the file from this request on."""


@dataclass
class Server:
    """Content of a real HTTP server, with a record of its requests and answers."""

    content: bytes
    tag: str = '"one"'
    faults: list[Fault] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    sent: int = 0
    url: str = ""
    final: Path | None = None
    seen_early: bool = False
    released: threading.Event = field(default_factory=threading.Event)


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            server.requests.append(dict(self.headers))
            server.paths.append(self.path)
            fault = server.faults.pop(0) if server.faults else Fault()
            self.watch()
            if fault.swap is not None:
                server.content, server.tag = fault.swap, f'"{hashlib.md5(fault.swap).hexdigest()}"'
            if fault.status:
                self.refuse(fault)
                return
            first = self.begin(fault)
            if first is not None:
                self.give(fault, first)

        def watch(self) -> None:
            server.seen_early |= server.final is not None and server.final.exists()

        def refuse(self, fault: Fault) -> None:
            self.send_response(fault.status)
            if fault.retry_after:
                self.send_header("Retry-After", fault.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def begin(self, fault: Fault) -> int | None:
            """The answer's head; the first byte that is to be sent."""
            size = len(server.content)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            known = fault.ignores_version or self.headers.get("If-Range") == server.tag
            first = 0
            if wanted and known and not fault.ignores_range:
                first = int(wanted[1])
                if first >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
                first += fault.shift
                self.send_response(206)
                span = f"bytes {first}-{size - 1}/{size + fault.more_total}"
                self.send_header("Content-Range", span)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(size - first + fault.more_length))
            tag = server.tag if fault.tag is None else fault.tag
            if tag:
                self.send_header("ETag", tag)
            self.end_headers()
            return first

        def give(self, fault: Fault, first: int) -> None:
            body = server.content[first : int(fault.stop_at * len(server.content))]
            for at in range(0, len(body), 1 << 16):
                piece = body[at : at + (1 << 16)]
                self.watch()
                self.wfile.write(piece)
                server.sent += len(piece)
            self.wfile.flush()
            if fault.stop_at == 1.0 and not fault.more_length:
                return
            if fault.how == "stall":
                server.released.wait(30)
            elif fault.how == "reset":
                time.sleep(0.2)  # until what was sent is there
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

        def finish(self) -> None:
            with contextlib.suppress(OSError):  # reset by ourselves
                super().finish()

    return Handler


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # clients that go away


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    state = Server(np.random.default_rng(0).bytes(SIZE), final=tmp_path / "store.zip")
    with Quiet(("127.0.0.1", 0), handler(state)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_port}/store.zip"
        yield state
        state.released.set()
        running.shutdown()
        thread.join()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


# Stores -------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A small SpatialData store as a zip with one folder."""
    root = spatialdata_store.create(tmp_path / "made" / "sdata.zarr")
    image = spatialdata_store.create_image(root, "image", (2, 8, 8), (1, 8, 8), "u2", ["a", "b"])
    image[...] = np.arange(128).reshape(2, 8, 8)
    spatialdata_store.create_labels(root, "labels", (8, 8), (8, 8), "u4")[...] = 1
    path = tmp_path / "sdata.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for file in (tmp_path / "made").rglob("*"):
            opened.write(file, file.relative_to(tmp_path / "made"))
        opened.writestr("__MACOSX/sdata.zarr/._zarr.json", "x")
    return path


def is_the_store(path: Path) -> bool:
    found = open_raster(path, "image", "labels")
    return np.array_equal(found.image[...], np.arange(128).reshape(2, 8, 8))


def test_a_zipped_store_is_fetched_unpacked_and_opened(
    tmp_path: Path, server: Server, archive: Path
) -> None:
    server.content = archive.read_bytes()
    fetch_archive(server.url, digest(server.content), tmp_path / "data" / "fetched.zarr")
    assert os.listdir(tmp_path / "data") == ["fetched.zarr"]
    assert is_the_store(tmp_path / "data" / "fetched.zarr")


def test_an_archive_that_was_fetched_is_not_fetched_again_where_unpacking_failed(
    tmp_path: Path, server: Server, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = archive.read_bytes()
    path = tmp_path / "data" / "fetched.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(module, "unzip", lambda *_, **__: (_ for _ in ()).throw(InputError("full")))
        with pytest.raises(InputError, match="full"):
            fetch_archive(server.url, digest(server.content), path)
    fetch_archive(server.url, digest(server.content), path)
    assert len(server.requests) == 1
    assert is_the_store(path)


@pytest.mark.parametrize("name", ["macsima-tonsil", "merscope-liver"])
def test_a_mirror_takes_the_place_of_the_published_address(
    tmp_path: Path, server: Server, archive: Path, name: str
) -> None:
    server.content = archive.read_bytes()
    base = server.url.rpartition("/")[0] + "/copies/"
    origin = Origin(mirror=base, sha256=digest(server.content))
    fetch(name, tmp_path / "fetched.zarr", origin)
    file = REGISTRY[name].origin.partition("/public_datasets/")[2]
    assert server.paths == [f"/copies/{file}"]
    assert is_the_store(tmp_path / "fetched.zarr")


def test_a_mirror_without_a_digest_must_hold_the_published_file(
    tmp_path: Path, server: Server, archive: Path
) -> None:
    server.content = archive.read_bytes()
    origin = Origin(mirror=server.url.rpartition("/")[0])
    with pytest.raises(InputError, match=REGISTRY["macsima-tonsil"].sha256):
        fetch("macsima-tonsil", tmp_path / "fetched.zarr", origin)
    assert not (tmp_path / "fetched.zarr").exists()


def test_a_local_archive_is_checked_and_unpacked_and_stays(tmp_path: Path, archive: Path) -> None:
    content = archive.read_bytes()
    origin = Origin(archive=str(archive), sha256=digest(content))
    fetch("merscope-liver", tmp_path / "fetched.zarr", origin)
    assert is_the_store(tmp_path / "fetched.zarr")
    assert archive.read_bytes() == content
    with pytest.raises(InputError, match="instead of 0000"):
        unpack_archive(archive, "0" * 64, tmp_path / "other.zarr")
    with pytest.raises(InputError, match="no such file"):
        unpack_archive(tmp_path / "none.zip", "0" * 64, tmp_path / "other.zarr")
    assert not (tmp_path / "other.zarr").exists()
