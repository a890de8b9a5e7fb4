"""A real HTTP server that does what it is told to do wrong."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
