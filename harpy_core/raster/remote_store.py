"""Zarr stores at an address: anonymous unless configured, patient, kept locally on request.

fsspec does the transfer (s3://, gs://, https://, …). Ours are the errors in one line, the retries
of transient failures, the zip that is read by ranges, and the folder that keeps what was fetched.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import lru_cache
from typing import Any

import aiohttp
import zarr
from fsspec.core import url_to_fs
from fsspec.registry import get_filesystem_class
from zarr.abc.store import (
    ByteRequest,
    RangeByteRequest,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

from harpy_core.errors import InputError, TransientError
from harpy_core.raster.formats.names import METADATA, PROTOCOLS
from harpy_core.storage.manifest import digest_of

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each retry of a transient failure."""

_IDENTITY = {"key", "secret", "token", "profile", "anon"}
_ANONYMOUS: dict[str, dict[str, Any]] = {
    "s3": {"anon": True},
    "s3a": {"anon": True},
    "gs": {"token": "anon"},
    "gcs": {"token": "anon"},
    "abfs": {"anon": True},
    "az": {"anon": True},
}
_OF_THE_ENVIRONMENT: dict[str, dict[str, Any]] = {
    **{name: {"anon": False} for name in ("s3", "s3a", "abfs", "az")},
    **{name: {"token": "google_default"} for name in ("gs", "gcs")},
}
# Otherwise s3fs asks for the size of every object before it fetches it.
_ONE_REQUEST = {"s3": {"max_concurrency": 1}, "s3a": {"max_concurrency": 1}}
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs"}
_PASSING_STATUS = {429, 500, 502, 503, 504}
_PASSING_ERRNO = {errno.EBUSY, errno.EREMOTEIO}
_VALIDATORS = ("ETag", "etag", "LastModified", "Last-Modified", "updated", "size")

_LOCAL_HEADER = 30
_EXTRA = 64
"""Bytes by which a local header may exceed the directory's, without a second request."""


class _DeniedError(InputError):
    """Access needs credentials; or a missing object was refused like a forbidden one."""


class RemoteStore(FsspecStore):
    """Read-only Zarr store below an address.

    Parameters
    ----------
    fs
        Asynchronous fsspec filesystem.
    path
        Path of the store in it.
    address
        Address as the user gave it, for errors.
    kept
        Folder for what is fetched, except metadata; None keeps nothing.
    """

    def __init__(self, fs: Any, path: str, address: str, kept: str | None = None) -> None:
        super().__init__(fs, read_only=True, path=path.rstrip("/"))
        self.address = address
        self.kept = kept

    def keeping(self, folder: str) -> RemoteStore:
        """Return the same store, with a folder for what is fetched."""
        return type(self)(self.fs, self.path, self.address, folder)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Get a value as `zarr.abc.store.Store.get` does; from the kept folder if it is there."""
        is_metadata = key.rpartition("/")[2] in METADATA
        kept = None if is_metadata else self.kept
        name = key if byte_range is None else f"{key}@{_span(byte_range)}"
        if kept is not None:
            found = await _local(kept, name, prototype)
            if found is not None:
                return found
        try:
            value = await self._patiently(key, byte_range)
        except _DeniedError:
            if is_metadata:
                # Where nobody may list a bucket, missing objects are denied too.
                return None
            raise
        if value is None:
            return None
        buffer = prototype.buffer.from_bytes(value)
        if kept is not None:
            await _keep(kept, name, buffer)
        return buffer

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Get values as `zarr.abc.store.Store.get_partial_values` does."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Whether an object is there; it is not fetched."""
        try:
            await self.fs._info(f"{self.path}/{key}")
        except Exception as error:
            if isinstance(_behind(error), FileNotFoundError):
                return False
            raise self.told(key, error) from error
        return True

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names below a group; none where the server does not list them."""
        try:
            found = await self.fs._ls(f"{self.path}/{prefix}".rstrip("/"), detail=False)
        except Exception:
            return
        for name in found:
            yield name.rstrip("/").rpartition("/")[2]

    def version(self, path: str) -> list[str]:
        """Version of an array's metadata by the server: entity tag, time of change, size.

        Parameters
        ----------
        path
            Path of the array, below the store's root.
        """
        folder = f"{self.path}/{path}".rstrip("/")
        return validators(self.fs, f"{folder}/zarr.json", f"{folder}/.zarray")

    def why_not(self) -> InputError:
        """Return the reason why no group could be opened."""
        try:
            sync(self._fetch("zarr.json", None))
        except InputError as error:
            return error
        except FileNotFoundError as error:
            if "bucket does not exist" in str(error):
                return InputError(f"{self.address}: there is no such bucket; correct the address")
        except Exception as error:
            return self.told("", error)
        return InputError(
            f"{self.address}: no Zarr group there; give the address of a SpatialData or OME-Zarr "
            "store, without a name inside it"
        )

    async def _patiently(self, key: str, part: ByteRequest | None) -> bytes | None:
        """Fetch an object or part of it, None if there is none; retry where it may help."""
        for delay in (*DELAYS, None):
            try:
                return await self._fetch(key, part)
            except InputError:
                raise
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None
            except Exception as error:
                if delay is None or not _passes(error):
                    raise self.told(key, error) from error
                await asyncio.sleep(delay)
        raise AssertionError

    async def _fetch(self, key: str, part: ByteRequest | None) -> bytes | None:
        return await _part_of(self.fs, f"{self.path}/{key}", part)

    def told(self, key: str, error: Exception) -> InputError:
        """Describe an error of the network in one line."""
        error = _behind(error)
        inside = "" if key.rpartition("/")[2] in METADATA else key
        place = f"{self.address.rstrip('/')}/{inside}".rstrip("/")
        status = getattr(error, "status", None) or getattr(error, "code", None)
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, PermissionError) or status in (401, 403):
            return _DeniedError(
                f"{place}: access denied ({said}); correct the address, or give credentials (see "
                "storage_options)"
            )
        if isinstance(error, FileNotFoundError):
            return InputError(f"{place}: nothing there; correct the address")
        if isinstance(error, zipfile.BadZipFile):
            return InputError(f"{place}: not a zip ({said}); correct the address")
        if isinstance(error, TypeError):
            return InputError(f"{self.address}: storage_options: {said}")
        if "Credentials" in type(error).__name__:
            return InputError(f"{place}: {said}; set credentials, or read it with anon: true")
        if _is_untrusted(error):
            return InputError(
                f"{place}: the server's certificate is not trusted; name its authority's file in "
                "the environment variable SSL_CERT_FILE (s3: AWS_CA_BUNDLE)"
            )
        return TransientError(
            f"{place}: cannot be read ({said}); correct the address or the network"
        )


class RemoteZip(RemoteStore):
    """Zipped Zarr store at an address, read by ranges; its directory is read once per process."""

    def __init__(
        self,
        address: str,
        options: Mapping[str, Any],
        top: str = "",
        kept: str | None = None,
    ) -> None:
        fs, path = _filesystem(address, options)
        super().__init__(fs, path, address, kept)
        self._options, self._top = dict(options), top

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.address, self._options, self._top, self.kept)

    def keeping(self, folder: str) -> RemoteZip:
        """Return the same store, with a folder for what is fetched."""
        return type(self)(self.address, self._options, self._top, folder)

    def version(self, path: str) -> list[str]:
        """Version of the archive by the server."""
        return validators(self.fs, self.path)

    async def exists(self, key: str) -> bool:
        """Whether the archive holds a file."""
        return self._top + key in await asyncio.to_thread(self.members)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names below a group."""
        start = f"{self._top}{prefix.strip('/')}/".lstrip("/")
        names = await asyncio.to_thread(self.members)
        below = {
            name.removeprefix(start).partition("/")[0] for name in names if name.startswith(start)
        }
        for name in sorted(below - {""}):
            yield name

    def members(self) -> Mapping[str, zipfile.ZipInfo]:
        """Files of the archive, by name."""
        return _directory(self.address, json.dumps(self._options, sort_keys=True))

    async def _fetch(self, key: str, part: ByteRequest | None) -> bytes | None:
        names = await asyncio.to_thread(self.members)
        entry = names.get(self._top + key)
        if entry is None:
            return None
        content = _inflated(entry, await self._stored(entry))
        if zlib.crc32(content) != entry.CRC:
            raise InputError(
                f"{self.address}: {entry.filename}: its checksum does not match; copy the archive "
                "there again"
            )
        return content[_slice(part)] if part is not None else content

    async def _stored(self, entry: zipfile.ZipInfo) -> bytes:
        """Fetch the bytes of a member as they are stored in the archive."""
        first = entry.header_offset
        header = _LOCAL_HEADER + len(entry.orig_filename.encode()) + len(entry.extra) + _EXTRA
        last = first + header + entry.compress_size
        found = await _part_of(self.fs, self.path, RangeByteRequest(first, last))
        begin = _LOCAL_HEADER + sum(int.from_bytes(found[i : i + 2], "little") for i in (26, 28))
        end = begin + entry.compress_size
        if len(found) < end:
            whole = RangeByteRequest(first + begin, first + end)
            return await _part_of(self.fs, self.path, whole)
        return found[begin:end]


def open_remote(
    address: str, options: Mapping[str, Any] | None = None, anonymous: bool = True
) -> RemoteStore:
    """Open the Zarr store at an address, zipped if the address ends in .zip.

    Parameters
    ----------
    address
        Address such as ``s3://bucket/store.zarr``.
    options
        Options of fsspec for its protocol.
    anonymous
        Whether it is read anonymously where the options identify nobody, rather than with the
        credentials of the environment.

    Raises
    ------
    InputError
        The protocol or an option is unknown, or a zip cannot be read or holds several stores.
    """
    if not anonymous:
        options = {**_OF_THE_ENVIRONMENT.get(address.partition("://")[0], {}), **(options or {})}
    if not address.lower().endswith(".zip"):
        fs, path = _filesystem(address, options or {})
        return RemoteStore(fs, path, address)
    store = RemoteZip(address, options or {})
    try:
        names = store.members()
    except Exception as error:
        raise store.told("", error) from error
    if any(name in names for name in METADATA):
        return store
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if len(tops) != 1:
        raise InputError(f"{address}: {len(tops)} folders at the top; zip one store")
    return RemoteZip(address, options or {}, f"{tops.pop()}/")


def version_of(array: zarr.Array) -> list[str] | None:
    """Version of an array's metadata by the server; None where it states none.

    Parameters
    ----------
    array
        Array in a store of ours, or in one that others opened with fsspec.
    """
    store: Any = array.store_path.store
    if isinstance(store, RemoteStore):
        return store.version(array.path)
    folder = f"{store.path}/{array.path}".rstrip("/")
    return validators(store.fs, f"{folder}/zarr.json", f"{folder}/.zarray") or None


def validators(fs: Any, *places: str) -> list[str]:
    """Entity tag, time of change and size of the first object that is there."""
    for place in places:
        try:
            facts = sync(fs._info(place))
        except Exception:
            continue
        return [f"{name}={facts[name]}" for name in _VALIDATORS if facts.get(name) is not None]
    return []


def keep_array_in(store: RemoteStore, path: str, folder: str | os.PathLike[str]) -> RemoteStore:
    """Return the store of an array with its own folder for what is fetched of it.

    A new version of the array at the same address gets another folder.
    """
    name = digest_of([store.address, path, store.version(path)])[:16]
    return store.keeping(os.path.join(os.path.abspath(folder), name))


def _filesystem(address: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    protocol = address.partition("://")[0]
    if protocol not in PROTOCOLS:
        raise InputError(f"{address}: {protocol}:// is not supported; use s3://, gs:// or https://")
    try:
        if get_filesystem_class(protocol).async_impl:
            found: tuple[Any, str] = url_to_fs(
                address, asynchronous=True, **_all_options(protocol, options)
            )
            return found
    except ImportError as error:
        needed = _PACKAGES.get(protocol, " ".join(str(error).split()))
        raise InputError(
            f"{address}: {protocol}:// needs a package: pip install {needed}"
        ) from error
    except (ValueError, TypeError) as error:
        if "Protocol not known" not in str(error):
            raise InputError(f"{address}: storage_options: {error}") from error
    raise InputError(f"{address}: {protocol}:// is not supported; use s3://, gs:// or https://")


def _all_options(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the given options, with anonymous access if they identify nobody."""
    nobody = {} if _IDENTITY & set(options) else _ANONYMOUS.get(protocol, {})
    return {**_ONE_REQUEST.get(protocol, {}), **nobody, **options}


@lru_cache(maxsize=8)
def _directory(address: str, options: str) -> dict[str, zipfile.ZipInfo]:
    protocol = address.partition("://")[0]
    fs, path = url_to_fs(address, **_all_options(protocol, json.loads(options)))
    with fs.open(path, cache_type="none") as file, zipfile.ZipFile(file) as archive:
        return {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}


def _inflated(entry: zipfile.ZipInfo, stored: bytes) -> bytes:
    if entry.compress_type == zipfile.ZIP_STORED:
        return stored
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        return zlib.decompress(stored, wbits=-15)
    raise InputError(
        f"{entry.filename}: its compression ({entry.compress_type}) is not read at an address; zip "
        "it without compression"
    )


async def _part_of(fs: Any, place: str, part: ByteRequest | None) -> bytes:
    """Fetch an object or part of it, even if the server sends the whole instead of a part."""
    if part is None:
        return bytes(await fs._cat_file(place))
    span = _slice(part)
    try:
        found = bytes(await fs._cat_file(place, start=span.start, end=span.stop))
    except OSError as error:
        if "not satisfiable" in str(error):
            return b""
        raise
    wanted = (span.stop or 0) - (span.start or 0)
    is_whole = isinstance(part, RangeByteRequest | SuffixByteRequest) and len(found) > abs(wanted)
    return found[span] if is_whole else found


def _slice(part: ByteRequest) -> slice:
    if isinstance(part, RangeByteRequest):
        return slice(part.start, part.end)
    if isinstance(part, SuffixByteRequest):
        return slice(-part.suffix, None)
    return slice(part.offset, None)


def _span(part: ByteRequest) -> str:
    span = _slice(part)
    return f"{span.start}-{'' if span.stop is None else span.stop}"


async def _local(folder: str, name: str, prototype: BufferPrototype) -> Buffer | None:
    """Return what is kept of an object, if anything."""
    if not os.path.isdir(folder):
        return None
    return await LocalStore(folder, read_only=True).get(name, prototype)


async def _keep(folder: str, name: str, value: Buffer) -> None:
    """Keep an object; its file appears whole, even if several processes fetch it at once."""
    try:
        await LocalStore(folder).set(name, value)
    except OSError as error:
        raise InputError(
            f"{folder}: what is fetched cannot be kept there ({error.strerror}); free some space, "
            "or name another folder as cache"
        ) from error


def _behind(error: Exception) -> Exception:
    """Return a web server's response, which fsspec calls a missing file whatever its status."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, aiohttp.ClientError):
        return error if getattr(cause, "status", None) == 404 else cause
    return error


def _passes(error: Exception) -> bool:
    """Whether a retry may help."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if status is not None:
        return status in _PASSING_STATUS
    if getattr(error, "errno", None) in _PASSING_ERRNO:
        return True
    return isinstance(error, (aiohttp.ClientError, TimeoutError)) and not _is_untrusted(error)


def _is_untrusted(error: Exception) -> bool:
    """Whether the server's certificate is to blame; botocore and aiohttp have their own types."""
    return "certificate verify failed" in str(error).lower()
