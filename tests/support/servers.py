"""Real servers on this machine: files over HTTP and HTTPS, an S3, and a Google Cloud Storage."""

from __future__ import annotations

import socket
import ssl
import threading
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import google_crc32c
import requests
import trustme
from gcp_storage_emulator.server import create_server
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.server import ThreadedMotoServer
from werkzeug.serving import make_server

KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}


class FileServer(ThreadingHTTPServer):
    """Files of a folder, by ranges too, without listings.

    Attributes
    ----------
    sent
        How often each file was sent, whole or in part.
    answer
        Status to answer a path with instead of the file, for the time being; 0 drops the
        connection in the middle of the file, None serves it.
    ranges
        Serve parts of a file; without, the whole is sent whatever was asked for.
    validators
        Say when a file was changed.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.sent: Counter[str] = Counter()
        self.answer: Callable[[str], int | None] = lambda path: None
        self.ranges, self.validators, self.scheme = True, True, "http"

    @property
    def url(self) -> str:
        """Address of the folder."""
        return f"{self.scheme}://localhost:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to tell of."""


class _Handler(SimpleHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"
    # Answers in small pieces wait for each other's acknowledgement, 40 ms each.
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _serve(self, body: bool) -> None:
        status = self.server.answer(self.path)
        file = Path(self.translate_path(self.path))
        if status or not file.is_file():
            self.send_error(status or 404)
            return
        content = file.read_bytes()
        first, last = self._range(len(content))
        part = content[first:last]
        self.send_response(206 if len(part) < len(content) else 200)
        if len(part) < len(content):
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(content)}")
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if self.server.validators:
            self.send_header("Last-Modified", self.date_time_string(int(file.stat().st_mtime)))
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.server.sent[self.path] += body
        if body and status == 0:
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(part)

    def _range(self, size: int) -> tuple[int, int]:
        wanted = self.headers.get("Range", "")
        if not (self.server.ranges and wanted.startswith("bytes=")):
            return 0, size
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if not first:
            return max(size - int(last), 0), size
        return int(first), min(int(last) + 1, size) if last else size

    def log_message(self, *_: Any) -> None:
        """The tests count requests themselves."""


@contextmanager
def files_served(folder: Path, certificates: Path | None = None) -> Iterator[FileServer]:
    """A file server; over TLS where there is a folder for the authority's file, ``ca.pem``."""
    server = FileServer(folder)
    if certificates is not None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(certificates / "ca.pem"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(MotoRequestHandler):
    def log_request(self, *_: Any) -> None:
        """The tests know what was asked for."""


class S3Server:
    """A local S3, which refuses an object that its checksum does not match, as the real one does.

    Attributes
    ----------
    sent
        Names of the objects that were written, with their bucket, in order.
    answer
        Status to answer a request with, by its method and path, instead of what it asks for; None
        does what it asks for.
    spoil
        Change of the content of an object on its way, by its path.
    """

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.answer: Callable[[str, str], int | None] = lambda method, path: None
        self.spoil: Callable[[str, bytes], bytes] = lambda path, content: content
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_Quiet)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        content = self.spoil(path, content) if method == "PUT" else content
        environ["wsgi.input"] = BytesIO(content)
        check = environ.get("HTTP_X_AMZ_CHECKSUM_CRC32C")
        status = self.answer(method, path)
        if check and int.from_bytes(b64decode(check), "big") != google_crc32c.value(content):
            status = 400
        if status is not None:
            start(f"{status} refused", [("Content-Length", "0")])
            return []
        answered: Iterable[bytes] = self._moto(environ, start)
        if method == "PUT":
            self.sent.append(path.lstrip("/"))
        return answered

    def run(self) -> None:
        """Serve until it is stopped."""
        self._server.serve_forever(poll_interval=0.02)

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


class Bucket:
    """A bucket of a local S3, which everyone may read or only who has the keys."""

    def __init__(self, endpoint: str, name: str, access: str = "public-read") -> None:
        self.endpoint, self.name, self.access = endpoint, name, access
        self.client = boto3.client("s3", endpoint_url=endpoint, **KEYS)
        self.client.create_bucket(Bucket=name, ACL=access)

    @property
    def options(self) -> dict[str, Any]:
        """Options with which `open_raster` finds the server."""
        return {"endpoint_url": self.endpoint}

    @property
    def once(self) -> dict[str, Any]:
        """The same, of a client that tries once."""
        return {**self.options, "config_kwargs": {"retries": {"total_max_attempts": 1}}}

    def put(self, path: Path, at: str) -> str:
        """Copy a file, or the files of a folder, there; its address."""
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        for file in files:
            inside = "" if file == path else f"/{file.relative_to(path).as_posix()}"
            self.client.put_object(
                Bucket=self.name, Key=at + inside, Body=file.read_bytes(), ACL=self.access
            )
        return f"s3://{self.name}/{at}"

    def objects(self, below: str = "") -> dict[str, bytes]:
        """Content of every object whose name begins so, by the rest of its name."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=below
        )
        return {
            each["Key"].removeprefix(below): self.get(each["Key"])
            for page in pages
            for each in page.get("Contents", [])
        }

    def get(self, name: str) -> bytes:
        """Content of an object."""
        content: bytes = self.client.get_object(Bucket=self.name, Key=name)["Body"].read()
        return content


@contextmanager
def s3_server(empty: bool = True) -> Iterator[S3Server]:
    """A local S3, of no buckets or those of others of this process: all have the same ones."""
    server = S3Server()
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        if empty:
            requests.post(f"{server.address}/moto-api/reset").raise_for_status()
        yield server
    finally:
        server.stop()
        thread.join()


@contextmanager
def s3_served() -> Iterator[str]:
    """A local S3; its address."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def google_served(folder: Path, bucket: str) -> Iterator[str]:
    """A local Google Cloud Storage with the files of a folder in a bucket; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket):
        address = f"http://127.0.0.1:{port}"
        for file in (path for path in folder.rglob("*") if path.is_file()):
            answer = requests.post(
                f"{address}/upload/storage/v1/b/{bucket}/o",
                params={"uploadType": "media", "name": file.relative_to(folder).as_posix()},
                data=file.read_bytes(),
            )
            answer.raise_for_status()
        yield address
