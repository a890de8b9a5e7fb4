"""A server of what is shown, for this machine alone."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from harpy_core.errors import InputError

_HOSTS = ("127.0.0.1", "localhost")
"""Names by which the server is asked; another would be that of a foreign page."""

_KINDS = {
    "/": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
}
"""What a file is, by the end of its path."""

_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval'; "
    "base-uri 'self'; form-action 'none'"
)
"""Keeps the browser from asking anybody else."""


class Content(Protocol):
    """Files by path: what is not there cannot be asked for."""

    def get(self, key: str) -> bytes | None:
        """Return a file's content, or None."""


class Server(ThreadingHTTPServer):
    """A server of files by path, on the loopback interface.

    Nothing of the disk is mapped: an address is a key of one of the contents.

    Parameters
    ----------
    contents
        Content by the beginning of its addresses, without their leading slash: the first that fits.
    port
        Port to listen on; 0 takes one that is free.

    Raises
    ------
    InputError
        The port is taken, or not to be taken by this user.
    """

    daemon_threads = True

    def __init__(self, contents: Mapping[str, Content], port: int = 0) -> None:
        try:
            super().__init__((_HOSTS[0], port), _Handler)
        except OSError as error:
            raise InputError(f"port {port}: {error.strerror}; choose another") from error
        self.contents = contents

    @property
    def url(self) -> str:
        """Address of the server, with a slash at its end."""
        return f"http://{_HOSTS[0]}:{self.server_port}/"

    def run(self) -> None:
        """Answer until Ctrl-C."""
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            self.server_close()

    def found(self, path: str) -> bytes | None:
        """Return what an address, without its leading slash, is answered with."""
        for first, content in self.contents.items():
            if path.startswith(first):
                return content.get(path.removeprefix(first))
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of an error in one line; a browser that goes away is none."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            print(f"harpy-core: {error}", file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "harpy-core", ""
    # Answers in small pieces wait for each other's acknowledgement, 40 ms each.
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Answer with the content, or a part of it."""
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told of."""

    def _answer(self, body: bool) -> None:
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in _HOSTS:
            self._send(HTTPStatus.FORBIDDEN, b"", {}, body)
            return
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        try:
            content = self.server.found(path)
        except Exception as error:
            told = " ".join(str(error).split())
            print(f"harpy-core: {path}: {told}", file=sys.stderr, flush=True)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, told.encode(), {}, body)
            return
        if content is None:
            self._send(HTTPStatus.NOT_FOUND, b"", {}, body)
            return
        page = not path or path.endswith("/")
        kind = _KINDS.get("/" if page else PurePosixPath(path).suffix, "application/octet-stream")
        headers = {"Content-Type": kind, "Accept-Ranges": "bytes"}
        asked = _part(self.headers.get("Range", ""), len(content))
        if asked is None:
            self._send(HTTPStatus.OK, content, headers, body)
        elif len(asked) == 0:
            headers["Content-Range"] = f"bytes */{len(content)}"
            self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", headers, body)
        else:
            headers["Content-Range"] = f"bytes {asked.start}-{asked.stop - 1}/{len(content)}"
            self._send(HTTPStatus.PARTIAL_CONTENT, content[asked.start : asked.stop], headers, body)

    def _send(
        self, status: HTTPStatus, content: bytes, headers: Mapping[str, str], body: bool
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(content)


def _part(header: str, size: int) -> range | None:
    """Bytes that a header asks for, none if they are not there; None for the whole."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if asked is None or asked[0].strip() == "bytes=-":
        return None
    if not asked[1]:
        return range(max(size - int(asked[2]), 0), size)
    end = min(int(asked[2]) + 1, size) if asked[2] else size
    return range(int(asked[1]), end)
