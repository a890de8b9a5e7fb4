"""Download of large files over an unreliable line.

A download resumes where it stopped (Range with If-Range), is hashed while it streams, and takes
its final name only when it is whole and has the expected content.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path

from harpy_core.datasets.unpacking import check_room, unzip
from harpy_core.errors import InputError
from harpy_core.running.progress import Bar, track
from harpy_core.storage.locks import sole_writer
from harpy_core.storage.manifest import write_json

logger = logging.getLogger(__name__)

BLOCK = 1 << 20
ATTEMPTS = 6
"""Failures in a row without a new byte before giving up."""
FIRST_PAUSE = 1.0
"""Seconds before the second attempt; doubled for each further one, up to a minute."""
LONGEST_PAUSE = 60.0
LONGEST_PATIENCE = 900.0
"""Seconds to wait, at most, when a server says how long."""
SILENCE = 60.0
"""Seconds without a byte after which a connection counts as broken."""
UNPACKED = 1.0
"""Bytes unpacked per byte of archive, at least: the content is compressed already."""


class _LineBrokenError(Exception):
    """The line broke; what has arrived so far is good, or was thrown away."""


_TRANSIENT = (
    _LineBrokenError,
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)
_BUSY = (408, 425, 429)


def fetch_archive(
    url: str, sha256: str, path: str | os.PathLike[str], progress: bool = False
) -> None:
    """Download a zipped store and unpack it.

    Parameters
    ----------
    url
        Address of the zip, http or https.
    sha256
        SHA-256 of the zip, in hexadecimal.
    path
        Folder to make; it appears whole or not at all. The zip is kept beside it while it is
        needed, as ``PATH.zip``, and ``PATH.zip.part`` until it is whole.
    progress
        Show bars on a terminal.

    Raises
    ------
    InputError
        See `download` and `unzip`; a disk that cannot hold the archive and the store is refused
        before the first byte is fetched.
    """
    archive = Path(f"{os.fspath(path)}.zip")
    download(url, archive, sha256, progress=progress, beside=UNPACKED)
    unzip(archive, path, progress=progress)
    archive.unlink()


def unpack_archive(
    archive: str | os.PathLike[str],
    sha256: str,
    path: str | os.PathLike[str],
    progress: bool = False,
) -> None:
    """Check a zipped store that is on this machine, and unpack it; the zip stays.

    Parameters
    ----------
    archive
        The zip.
    sha256
        Expected SHA-256 of its content, in hexadecimal.
    path
        Folder to make; it appears whole or not at all.
    progress
        Show bars on a terminal.

    Raises
    ------
    InputError
        The content is another; or see `unzip`.
    """
    found = hashlib.sha256()
    file = Path(archive)
    if not file.is_file():
        raise InputError(f"{file}: there is no such file; correct the path")
    with track(file.stat().st_size, "check", unit="B", enabled=progress) as bar:
        _hash_file(file, found, bar)
    if found.hexdigest() != sha256:
        raise InputError(_other_content(str(file), found.hexdigest(), sha256))
    unzip(file, path, progress=progress)


def download(
    url: str,
    path: str | os.PathLike[str],
    sha256: str,
    progress: bool = False,
    pause: float = FIRST_PAUSE,
    beside: float = 0.0,
) -> None:
    """Download a file, resuming from what an earlier attempt left behind.

    Parameters
    ----------
    url
        Address, http or https.
    path
        File to make. One that is there already and has the digest is kept.
    sha256
        Expected SHA-256 of its content, in hexadecimal.
    progress
        Show a bar on a terminal.
    pause
        Seconds before the second attempt.
    beside
        Bytes of disk that must be free besides, per byte of the file.

    Raises
    ------
    InputError
        The server refuses or cannot be reached, the content is not the expected one, the disk is
        too small, or another process is fetching the same file.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"{url}: not an address to fetch from; give http:// or https://")
    target = Path(path)
    with sole_writer(target):
        if target.is_file() and _digest(target) == sha256:
            return
        part = _Part(target.with_name(f"{target.name}.part"), url)
        _complete(part, progress, pause, beside)
        if part.digest != sha256 and part.resumed:
            logger.warning("%s: what was put together is not what was asked for; once more", url)
            part.forget()
            _complete(part, progress, pause, beside)
        if part.digest != sha256:
            part.forget()
            raise InputError(_other_content(url, part.digest, sha256))
        os.replace(part.path, target)
        part.forget()


def _other_content(what: str, found: str, sha256: str) -> str:
    return (
        f"{what}: content has sha256 {found} instead of {sha256}; it has changed or was damaged on "
        "its way: try again, or give the sha256 of your own copy"
    )


class _Part:
    """The part of a file that has arrived so far.

    Attributes
    ----------
    path
        File that holds it.
    held
        Number of its bytes.
    resumed
        Whether it was put together from several responses of the server.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self._facts = path.with_name(f"{path.name}.json")
        self._hash = hashlib.sha256()
        self.held = 0
        self.resumed = False
        self.validator = self._known()
        if self.validator is None:
            self.forget()
        else:
            _hash_file(path, self._hash)
            self.held = path.stat().st_size

    @property
    def digest(self) -> str:
        """SHA-256 of what has arrived."""
        return self._hash.hexdigest()

    def _known(self) -> str | None:
        """Validator of the server's version of the file that the part belongs to."""
        try:
            facts = json.loads(self._facts.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        mine = facts["url"] == self.url and self.path.exists()
        return str(facts["validator"]) if mine else None

    def forget(self) -> None:
        """Start over."""
        self.path.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)
        self._hash = hashlib.sha256()
        self.held, self.resumed, self.validator = 0, False, None

    def begin(self, headers: Mapping[str, str]) -> None:
        """Start over with the version that the server is about to send."""
        self.forget()
        self.path.touch()
        self.validator = _validator(headers)
        if self.validator is not None:
            write_json(self._facts, {"url": self.url, "validator": self.validator})

    def take(self, response: http.client.HTTPResponse, bar: Bar) -> None:
        """Append the content of a response as it arrives."""
        with self.path.open("ab") as file:
            # Not read(): if the line breaks, it loses what it had of its block.
            while content := response.read1(BLOCK):
                file.write(content)
                self._hash.update(content)
                self.held += len(content)
                bar.advance(len(content))
            file.flush()
            os.fsync(file.fileno())


def _complete(part: _Part, progress: bool, pause: float, beside: float) -> None:
    """Fetch until the file is whole."""
    failures, most = 0, part.held
    while True:
        asked = 0.0
        try:
            _attempt(part, progress, beside)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in _BUSY:
                raise InputError(
                    f"{part.url}: the server answers {error.code} {error.reason}; "
                    "correct the address"
                ) from error
            broken: Exception = error
            asked = _retry_after(error.headers)
        except _TRANSIENT as error:
            broken = error
        failures = 1 if part.held > most else failures + 1
        most = max(most, part.held)
        if failures >= ATTEMPTS:
            raise InputError(
                f"{part.url}: cannot be fetched ({broken}); check the connection and run again, "
                "it resumes where it stopped"
            ) from broken
        wait = max(min(LONGEST_PAUSE, pause * 2 ** (failures - 1)), min(asked, LONGEST_PATIENCE))
        logger.warning("%s: %s; trying again in %.0f s", part.url, broken, wait)
        time.sleep(wait)


def _attempt(part: _Part, progress: bool, beside: float) -> None:
    """Make one request: append what is missing, or start over if the server's file changed."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "harpy-core"}
    if part.held and part.validator is not None:
        headers |= {"Range": f"bytes={part.held}-", "If-Range": part.validator}
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(part.url, headers=headers), timeout=SILENCE
        )
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{part.held}":
            return
        part.forget()
        raise _LineBrokenError("what was kept does not fit the server's file") from error
    with response:
        if response.status == 206:
            total = _continued(part, response.headers)
        else:
            part.begin(response.headers)
            total = _number(response.headers.get("Content-Length"))
        needed = (total or 0) - part.held + int(beside * (total or 0))
        check_room(part.path.parent, needed, f"{part.url}: it")
        with track(total, part.path.stem, unit="B", enabled=progress) as bar:
            bar.advance(part.held)
            part.take(response, bar)
    if total is not None and part.held != total:
        came = f"{part.held:,} of {total:,} bytes arrived"
        if part.held > total:
            part.forget()
        raise _LineBrokenError(came)


def _continued(part: _Part, headers: Mapping[str, str]) -> int | None:
    """Length of the whole, from ``bytes 5-9/10``, if the response continues our part."""
    span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    version = _validator(headers)
    if span.partition("-")[0] != str(part.held) or version not in (None, part.validator):
        found = f"got {span or 'no range'} of version {version}"
        asked = f"asked for the bytes from {part.held} of version {part.validator}"
        part.forget()
        raise _LineBrokenError(f"{asked}, {found}")
    part.resumed = True
    return _number(total)


def _validator(headers: Mapping[str, str]) -> str | None:
    """Validator that identifies this version of the server's file; weak tags do not."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _retry_after(headers: Message) -> float:
    """Seconds that the server asks us to wait, given as such or as a time."""
    asked = headers.get("Retry-After", "")
    if asked.isdigit():
        return float(asked)
    try:
        until = email.utils.parsedate_to_datetime(asked)
    except ValueError:
        return 0.0
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _number(header: str | None) -> int | None:
    return int(header) if header and header.isdigit() else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_file(path: Path, digest: hashlib._Hash, bar: Bar | None = None) -> None:
    with path.open("rb") as file:
        while content := file.read(BLOCK):
            digest.update(content)
            if bar is not None:
                bar.advance(len(content))
