"""A finished store in a bucket: object by object, what declares it whole last.

There is no rename in a bucket. What a reader opens a store by, its root's metadata, is removed
first and written last, and after it the manifest. An object that is there already, as its entity
tag says, is not sent again: an interrupted run resumes, and a changed store sends what changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harpy_core.errors import InputError, TransientError

AT_ONCE = 16
"""Objects sent at the same time: each is a wait for the network."""

ONE_PUT = 5 * 2**30
"""Bytes up to which an object is sent in one piece, so that its entity tag is the MD5 of them."""

_ROOT = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


def publish(
    store: str | os.PathLike[str], address: str, options: Mapping[str, Any] | None = None
) -> tuple[int, int]:
    """Copy a finished store to a bucket, so that it can be opened there once it is whole.

    Parameters
    ----------
    store
        Folder of a table, of crops or of another Zarr store; its manifest is taken along if it is
        beside it.
    address
        Address of the copy, s3://bucket/folder; what was there is replaced.
    options
        Options of s3fs, such as ``endpoint_url``; credentials come from the environment.

    Returns
    -------
    Number of objects, and how many of them had to be sent.

    Raises
    ------
    InputError
        There is no store, the address is not one of a bucket, an object is too large, or the
        server refuses.
    """
    folder, place = Path(store), address.removeprefix("s3://").rstrip("/")
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    files.pop(".snakemake_timestamp", None)
    root = [name for name in _ROOT if name in files]
    if not root:
        raise InputError(f"{folder}: no finished Zarr store is there; correct the path")
    if not address.startswith("s3://") or "/" not in place:
        raise InputError(f"{address}: give an address like s3://bucket/folder/{folder.name}")
    large = [path for path in files.values() if path.stat().st_size >= ONE_PUT]
    if large:
        raise InputError(f"{large[0]}: 5 GiB or more; write smaller shards")
    manifest = folder.with_name(f"{folder.name.removesuffix('.zarr')}.manifest.json")
    declared = f"{place.removesuffix('.zarr')}.manifest.json"
    with _told(address):
        bucket = _Bucket(options or {})
        there = bucket.objects(place)
        changed = {
            f"{place}/{name}": path
            for name, path in files.items()
            if there.get(f"{place}/{name}") != _tag(path)
        }
        old = there.keys() - {f"{place}/{name}" for name in files}
        if changed or old:
            bucket.remove({declared, *(f"{place}/{name}" for name in _ROOT)})
            bucket.remove(old)
        last = [f"{place}/{name}" for name in root]
        body = {key: path for key, path in changed.items() if key not in last}
        bucket.send(body)
        # Of what was sent; the root's may have been removed without having changed.
        tail = {f"{place}/{name}": files[name] for name in root if changed or old}
        bucket.send(tail)
        _check(bucket.objects(place), {f"{place}/{name}": path for name, path in files.items()})
        if manifest.is_file():
            bucket.send({declared: manifest})
    return len(files), len(body.keys() | tail.keys())


def _tag(path: Path) -> str:
    """Entity tag that S3 gives an object that was sent in one piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _check(there: Mapping[str, str], files: Mapping[str, Path]) -> None:
    """Refuse to declare a copy whole that is not what was sent."""
    for key, path in files.items():
        # Buckets with keys of their own have other tags: then the transfer alone was checked.
        tag = there.get(key)
        if tag is None or (len(tag) == 32 and tag != _tag(path)):
            raise TransientError(f"s3://{key}: not what was sent; another process writes there")


class _Bucket:
    """Objects of a bucket, by bucket and name."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        import fsspec

        # Our own listings, which change while we write.
        self._fs = fsspec.filesystem("s3", use_listings_cache=False, **options)

    def objects(self, place: str) -> dict[str, str]:
        """Entity tag of each object below a place."""
        self._fs.invalidate_cache()
        found = self._fs.find(place, detail=True)
        return {key: str(facts.get("ETag", "")).strip('"') for key, facts in found.items()}

    def remove(self, keys: set[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(self._fs.rm_file, sorted(keys)):
                pass

    def send(self, files: Mapping[str, Path]) -> None:
        """Send files, each in one piece, some at the same time."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(self._send_one, files.items()):
                pass

    def _send_one(self, pair: tuple[str, Path]) -> None:
        key, path = pair
        self._fs.put_file(str(path), key, chunksize=ONE_PUT)


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Report an error of the network in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise TransientError(
            f"{address}: cannot be written ({said}); correct the address, the credentials or the "
            "network, and run again: what was sent stays"
        ) from error
