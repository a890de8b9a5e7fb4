"""Objects of a bucket: sent whole, checked by the server, told apart by their entity tags.

An object appears whole or not at all. Its CRC-32C is sent with it, which the server checks; to one
that does not know CRC-32C the MD5 is sent.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

from harpy_core.errors import InputError, TransientError
from harpy_core.storage.checksums import crc32c

AT_ONCE = 16
"""Objects sent at the same time: each is a wait for the network."""

ONE_PUT = 5 * 2**30
"""Bytes up to which an object is sent in one piece."""

BLOCK = 2**22
"""Bytes of a file that are read at a time."""


@dataclass(frozen=True, slots=True)
class Held:
    """An object that is there.

    Attributes
    ----------
    tag
        Its entity tag, by which the server tells it from another content.
    size
        Its number of bytes.
    """

    tag: str
    size: int


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects below an address, by their names from there on.

    Attributes
    ----------
    address
        Address, ``s3://bucket/folder``.
    options
        Options of s3fs, such as ``endpoint_url``; credentials come from the environment.
    """

    address: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def at(cls, address: str, options: Mapping[str, Any] | None = None) -> Objects:
        """Return those below an address.

        Raises
        ------
        InputError
            It names no bucket, or none of S3, or nothing in a bucket, or that in an odd way.
        """
        place = address.rstrip("/")
        # Names that clients make others of: parts that are empty or dots, and fsspec's chains.
        if not re.fullmatch(r"s3://[^/]+(/(?!\.\.?(/|$))[^/]+)+", place) or "::" in place:
            raise InputError(
                f"{address}: give an address like s3://bucket/folder/store.zarr, without //, . , "
                ".. and :: in it"
            )
        return cls(place, dict(options or {}))

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.address.rpartition("/")[2]

    def found(self) -> dict[str, Held]:
        """Return the objects that are there; one request for each thousand."""
        place = self.address.removeprefix("s3://")
        with self._told():
            files = self._files()
            files.invalidate_cache()
            found = files.find(place, detail=True)
        return {
            key[len(place) + 1 :]: Held(_unquoted(facts.get("ETag")), int(facts.get("size") or 0))
            for key, facts in found.items()
        }

    def get(self, name: str) -> bytes | None:
        """Content of an object; None if it is not there."""
        with self._told():
            try:
                content: bytes = self._files().cat_file(self._key(name))
            except FileNotFoundError:
                return None
        return content

    def put(self, name: str, parts: Sequence[Any]) -> Held:
        """Write an object, whole or not at all; what was there is replaced.

        Parameters
        ----------
        name
            Name of the object.
        parts
            Its content, as bytes one after the other.

        Raises
        ------
        InputError
            It is too large, the server refuses it, or something else arrived there.
        """
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._put(name, content, len(content))

    def put_new(self, name: str, content: bytes) -> bool:
        """Write an object unless it is there; return whether it was written.

        Of several processes that do so only one writes it, where the server knows conditions.
        """
        try:
            self._put(name, content, len(content), IfNoneMatch="*")
        except FileExistsError:
            return False
        except InputError as error:
            if getattr(error.__cause__, "errno", None) != errno.ENOSYS:
                raise
            self._put(name, content, len(content))
        return True

    def send(self, files: Mapping[str, Path]) -> dict[str, Held]:
        """Write files, each like `put`, some at the same time; return what is there then."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sent = pool.map(self._send, files.keys(), files.values())
            return dict(zip(files, sent, strict=True))

    def remove(self, names: Collection[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        with self._told(), ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(self._files().rm_file, map(self._key, sorted(names))):
                pass

    def _send(self, name: str, path: Path) -> Held:
        with path.open("rb") as file:
            return self._put(name, file, path.stat().st_size)

    def _put(self, name: str, body: bytes | BinaryIO, size: int, **conditions: str) -> Held:
        if size >= ONE_PUT:
            raise InputError(f"{self.address}/{name}: 5 GiB or more; write smaller shards")
        bucket, _, key = self._key(name).partition("/")
        check = 0
        for block in _blocks(body):
            check = crc32c(block, check)
        sent = base64.b64encode(check.to_bytes(4, "big")).decode()
        with self._told():
            request = {"Bucket": bucket, "Key": key, "Body": body, **conditions}
            put = partial(self._files().call_s3, "put_object", **request)
            answer = put(ChecksumAlgorithm="CRC32C", ChecksumCRC32C=sent)
            if answer.get("ChecksumCRC32C") != sent:
                digest = hashlib.md5(usedforsecurity=False)
                for block in _blocks(body):
                    digest.update(block)
                if _unquoted(answer["ETag"]) != digest.hexdigest():
                    answer = put(ContentMD5=base64.b64encode(digest.digest()).decode())
        return Held(_unquoted(answer["ETag"]), size)

    def _key(self, name: str) -> str:
        return f"{self.address.removeprefix('s3://')}/{name}"

    def _files(self) -> Any:
        try:
            return _filesystem(json.dumps(self.options, sort_keys=True))
        except TypeError as error:
            raise InputError(f"{self.address}: storage_options: {error}") from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Report an error of the network or the server in one line."""
        try:
            yield
        except (InputError, FileExistsError):
            raise
        except Exception as error:
            raise self._line(error) from error

    def _line(self, error: Exception) -> InputError:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        line = f"{self.address}: cannot be written ({said}); "
        if isinstance(error, FileNotFoundError) and "bucket" in said:
            return InputError(f"{line}make the bucket, or correct the address")
        if isinstance(error, PermissionError) or "Credentials" in said:
            return InputError(f"{line}correct the address, or the credentials of the environment")
        return TransientError(
            f"{line}correct the address, the credentials or the network, and run again: what was "
            "sent stays"
        )


def tag_of(path: Path) -> str:
    """Entity tag that S3 gives a file that is sent in one piece, where it has no key of its own."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


@lru_cache(maxsize=8)
def _filesystem(options: str) -> Any:
    """One client for all threads of a process: it takes a tenth of a second to make."""
    import fsspec

    # Our own listings, which change while we write.
    return fsspec.filesystem("s3", use_listings_cache=False, **json.loads(options))


def _blocks(body: bytes | BinaryIO) -> Iterator[bytes]:
    """Yield the content of an object, which is at its beginning then and afterwards."""
    if isinstance(body, bytes):
        yield body
        return
    body.seek(0)
    yield from iter(partial(body.read, BLOCK), b"")
    body.seek(0)


def _unquoted(tag: Any) -> str:
    return str(tag or "").strip('"')
