"""Large archives over an unreliable line, and their unpacking without trusting them.

A download goes on where it stopped (Range with If-Range), is hashed while it streams, and takes
its final name only when it is whole and is what was asked for.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import shutil
import ssl
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from harpy_core.errors import InputError
from harpy_core.manifest import staging, write_json
from harpy_core.progress import Bar, track

logger = logging.getLogger(__name__)

BLOCK = 1 << 20
ATTEMPTS = 6
"""Failures in a row without a new byte, before giving up."""
FIRST_PAUSE = 1.0
"""Seconds before the second attempt; doubled for each further one, to at most a minute."""
SILENCE = 60.0
"""Seconds without a byte after which a connection counts as broken."""
MOST_FILES = 5_000_000
MOST_GROWTH = 20
"""Bytes unpacked for a byte of archive: Zarr chunks are compressed already."""
SMALL = 1 << 30
"""Bytes unpacked that are fine whatever the size of the archive."""


class _Hash(Protocol):
    def update(self, content: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _LineBrokenError(Exception):
    """The line broke; what has come so far is good."""


_TRANSIENT = (
    _LineBrokenError,
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


def fetch_archive(
    url: str, sha256: str, path: str | os.PathLike[str], progress: bool = False
) -> None:
    """Download a zipped store and unpack it.

    Parameters
    ----------
    url
        Address of the zip, http or https.
    sha256
        Of the zip.
    path
        Folder to make; it appears whole or not at all. The zip is kept beside it while it is
        needed, as ``PATH.zip``, and ``PATH.zip.part`` until it is whole.
    progress
        Show bars on a terminal.

    Raises
    ------
    InputError
        As `download` and `unzip`.
    """
    archive = Path(f"{os.fspath(path)}.zip")
    download(url, archive, sha256, progress=progress)
    unzip(archive, path, progress=progress)
    archive.unlink()


def download(
    url: str,
    path: str | os.PathLike[str],
    sha256: str,
    progress: bool = False,
    pause: float = FIRST_PAUSE,
) -> None:
    """Download a file, going on with what an earlier attempt left behind.

    Parameters
    ----------
    url
        http or https.
    path
        Where to put it. A file that is there already and has the digest is kept.
    sha256
        What its content must be, in hexadecimal.
    progress
        Show a bar on a terminal.
    pause
        Seconds before the second attempt.

    Raises
    ------
    InputError
        The server refuses or cannot be reached, the content is not what was asked for, or the disk
        is too small.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"{url}: not an address to fetch from; give http:// or https://")
    target = Path(path)
    if target.is_file() and _digest(target) == sha256:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    found = _complete(url, part, progress, pause)
    if found != sha256:
        _forget(part)
        raise InputError(
            f"{url}: content has sha256 {found} instead of {sha256}; "
            "the file has changed or was damaged on its way: try again, or correct the registry"
        )
    os.replace(part, target)
    _forget(part)


def _complete(url: str, part: Path, progress: bool, pause: float) -> str:
    """Fetch until the file is whole; its digest."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _attempt(url, part, progress)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 425, 429):
                raise InputError(
                    f"{url}: the server answers {error.code} {error.reason}; correct the address"
                ) from error
            broken: Exception = error
        except _TRANSIENT as error:
            broken = error
        progressed = part.exists() and part.stat().st_size > before
        failures = 1 if progressed else failures + 1
        if failures >= ATTEMPTS:
            raise InputError(
                f"{url}: cannot be fetched ({broken}); check the connection and run again, "
                "it goes on where it stopped"
            ) from broken
        wait = min(60.0, pause * 2 ** (failures - 1))
        logger.warning("%s: %s; trying again in %.0f s", url, broken, wait)
        time.sleep(wait)


def _attempt(url: str, part: Path, progress: bool) -> str:
    """One request: append what is missing, or start over where the server's file has changed."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "harpy-core"}
    validator = _validator_of(part, url)
    held = part.stat().st_size if validator else 0
    if held:
        headers |= {"Range": f"bytes={held}-", "If-Range": str(validator)}
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=SILENCE
        )
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{held}":
            return _digest(part)
        _forget(part)
        raise _LineBrokenError("what was kept does not fit the server's file") from error
    with response:
        if response.status == 206:
            total = _total(response.headers.get("Content-Range", ""), held)
        else:
            held, total = 0, _length(response.headers.get("Content-Length"))
            _forget(part)
            _remember(part, url, response.headers)
        _check_room(part, (total or held) - held, url)
        with track(total, part.stem, unit="B", enabled=progress) as bar:
            return _receive(response, part, held, total, bar)


def _receive(
    response: http.client.HTTPResponse, part: Path, held: int, total: int | None, bar: Bar
) -> str:
    digest = hashlib.sha256()
    with part.open("r+b" if held else "w+b") as file:
        _hash_rest(file, digest)
        bar.advance(held)
        while content := response.read(BLOCK):
            file.write(content)
            digest.update(content)
            held += len(content)
            bar.advance(len(content))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and held != total:
        raise _LineBrokenError(f"{held} of {total} bytes came")
    return digest.hexdigest()


def _hash_rest(file: Any, digest: _Hash) -> None:
    while content := file.read(BLOCK):
        digest.update(content)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _length(header: str | None) -> int | None:
    return int(header) if header and header.isdigit() else None


def _total(content_range: str, held: int) -> int | None:
    """Length of the whole from ``bytes 5-9/10``, which must begin where our part ends."""
    span, _, total = content_range.removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(held):
        raise _LineBrokenError(f"asked for the bytes from {held}, got {content_range!r}")
    return _length(total)


def _facts(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(part: Path, url: str, headers: Any) -> None:
    """Keep what tells this version of the server's file from another; weak tags do not."""
    tag = headers.get("ETag")
    validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    if validator:
        write_json(_facts(part), {"url": url, "validator": validator})


def _validator_of(part: Path, url: str) -> str | None:
    try:
        facts = json.loads(_facts(part).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return facts["validator"] if facts["url"] == url and part.exists() else None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _facts(part).unlink(missing_ok=True)


def _check_room(beside: Path, needed: int, what: object) -> None:
    free = shutil.disk_usage(beside.parent).free
    if needed > free:
        raise InputError(
            f"{what}: needs {needed / 1e9:.1f} GB in {beside.parent}, where {free / 1e9:.1f} GB "
            "are free; make room or choose another folder"
        )


# Unpacking --------------------------------------------------------------------------------------


def unzip(
    archive: str | os.PathLike[str], path: str | os.PathLike[str], progress: bool = False
) -> None:
    """Unpack a zipped store, or the store in the only folder of a zip.

    Parameters
    ----------
    archive
        The zip. Only plain files below its root are accepted.
    path
        Folder to make; it appears whole or not at all.
    progress
        Show a bar on a terminal.

    Raises
    ------
    InputError
        No zip, a damaged one, absolute or climbing paths, links, encryption, two entries of one
        name, or sizes out of all proportion or beyond the free disk.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked(opened, Path(archive))
            size = sum(entry.file_size for entry in entries.values())
            target = Path(path).absolute()
            target.parent.mkdir(parents=True, exist_ok=True)
            _check_room(target, size, archive)
            with staging(target) as folder, track(size, "unzip", "B", progress) as bar:
                for name, entry in entries.items():
                    _extract(opened, entry, folder / name, bar)
    except _UNREADABLE as error:
        raise InputError(f"{archive}: no whole zip ({error}); fetch it again") from error


_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    FileExistsError,
    NotADirectoryError,
)


def _checked(opened: zipfile.ZipFile, archive: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files to write, by their path in the store."""
    listed = opened.infolist()
    if len(listed) > MOST_FILES:
        raise InputError(f"{archive}: {len(listed)} entries; at most {MOST_FILES} are unpacked")
    entries: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in listed:
        name = _safe_name(entry, archive)
        if entry.is_dir() or name.parts[0] == "__MACOSX":
            continue
        if name in entries:
            raise InputError(f"{archive}: two entries are named {str(name)!r}; zip it again")
        entries[name] = entry
    size = sum(entry.file_size for entry in entries.values())
    bound = max(SMALL, MOST_GROWTH * archive.stat().st_size)
    if size > bound:
        raise InputError(
            f"{archive}: would unpack to {size} bytes, more than {bound}; zip the store as it is"
        )
    tops = {name.parts[0] for name in entries}
    nested = all(len(name.parts) > 1 for name in entries)
    if len(tops) == 1 and nested:
        return {PurePosixPath(*name.parts[1:]): entry for name, entry in entries.items()}
    return entries


def _safe_name(entry: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    """Path of an entry, relative and pointing down."""
    raw = entry.orig_filename
    name = PurePosixPath(raw)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    problem = None
    if not name.parts or name.is_absolute() or ".." in name.parts or {"\\", "\0"} & set(raw):
        problem = "an unsafe path"
    elif ":" in name.parts[0]:
        problem = "a path with a drive"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = "a link or a special file"
    elif entry.flag_bits & 1:
        problem = "encrypted"
    if problem:
        raise InputError(f"{archive}: entry {raw!r} is {problem}; zip plain files only")
    return name


def _extract(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, bar: Bar) -> None:
    """Write one entry; reading checks its checksum, and never more than its size comes out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with opened.open(entry) as source, target.open("xb") as file:
        while content := source.read(BLOCK):
            written += len(content)
            file.write(content)
            bar.advance(len(content))
    if written != entry.file_size:
        raise zipfile.BadZipFile(f"{entry.filename} has {written} of {entry.file_size} bytes")
