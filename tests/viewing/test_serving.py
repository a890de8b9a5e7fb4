"""The server of what is shown: ranges, and what it does not answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage

import psutil
import pytest

from harpy_core.errors import InputError
from harpy_core.viewing.serving import Content, Server

BYTES = bytes(range(100))


class Broken:
    """A content that cannot be read."""

    def get(self, key: str) -> bytes | None:
        raise OSError(f"{key}: damaged\nchunk")


@contextmanager
def running(**contents: Content) -> Iterator[Server]:
    """A server of some contents by the first part of their addresses, on a thread."""
    with Server({f"{name}/": one for name, one in contents.items()}) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(data={"file": BYTES, "a b.js": b"1", "": b"page"}, broken=Broken()) as started:
        yield started


@dataclass
class Answer:
    """What a request was answered with."""

    status: int
    headers: HTTPMessage
    body: bytes


def answer(server: Server, path: str, method: str = "GET", **headers: str) -> Answer:
    """Ask for a path."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers=headers)
    found = connection.getresponse()
    told = Answer(found.status, found.headers, found.read())
    connection.close()
    return told


@pytest.mark.parametrize(
    ("asked", "status", "expected", "told"),
    [
        ("bytes=10-19", 206, BYTES[10:20], "bytes 10-19/100"),
        ("bytes=90-", 206, BYTES[90:], "bytes 90-99/100"),
        ("bytes=90-1000", 206, BYTES[90:], "bytes 90-99/100"),
        ("bytes=-7", 206, BYTES[-7:], "bytes 93-99/100"),
        ("bytes=-1000", 206, BYTES, "bytes 0-99/100"),
        ("bytes=100-", 416, b"", "bytes */100"),
        ("bytes=-0", 416, b"", "bytes */100"),
        ("bytes=20-10", 416, b"", "bytes */100"),
        ("bytes=-", 200, BYTES, None),
        ("bytes=0-1,5-6", 200, BYTES, None),
        ("lines=0-1", 200, BYTES, None),
    ],
)
def test_parts_of_a_file_are_sent(
    server: Server, asked: str, status: int, expected: bytes, told: str | None
) -> None:
    found = answer(server, "/data/file", Range=asked)
    assert (found.status, found.body) == (status, expected)
    assert found.headers["Content-Range"] == told
    assert int(found.headers["Content-Length"]) == len(expected)


def test_only_get_and_head_are_answered(server: Server) -> None:
    head = answer(server, "/data/file", "HEAD")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "100", b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert answer(server, "/data/file", method).status == 501


def test_kinds_of_files_are_told(server: Server) -> None:
    assert (
        answer(server, "/data/a%20b.js").headers["Content-Type"] == "text/javascript; charset=utf-8"
    )
    assert answer(server, "/data/").headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer(server, "/data/file").headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/data/other",
        "/data/../../etc/passwd",
        "/data/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/etc/passwd",
        "/data/%00",
        "/%2e%2e/data/file",
    ],
)
def test_what_is_not_there_cannot_be_asked_for(server: Server, path: str) -> None:
    assert answer(server, path).status == 404


def test_a_foreign_page_is_answered_nothing(server: Server) -> None:
    """Its name may lead to this machine; and no other page may read an answer."""
    assert answer(server, "/data/file", Host="evil.example").status == 403
    assert answer(server, "/data/file", Host=f"localhost:{server.server_port}").status == 200
    found = answer(server, "/data/file", Origin="http://evil.example")
    assert "Access-Control-Allow-Origin" not in found.headers
    assert found.headers["Content-Security-Policy"].startswith("default-src 'self' ")


def test_it_listens_on_the_loopback_interface_alone(server: Server) -> None:
    addresses = [
        one.laddr
        for one in psutil.Process().net_connections("inet")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == server.server_port
    ]
    assert [address.ip for address in addresses] == ["127.0.0.1"]


def test_what_cannot_be_read_is_told_in_a_line(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    assert answer(server, "/broken/x").status == 500
    assert capfd.readouterr().err == "harpy-core: broken/x: x: damaged chunk\n"


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"^port {port}: .*; choose another$"):
            Server({}, port)
