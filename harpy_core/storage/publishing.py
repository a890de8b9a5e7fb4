"""Stores in a bucket: object by object, what declares them whole last.

There is no rename in a bucket. What a reader opens a store by, its root's metadata, is removed
before anything of it changes and written when all else is there; the manifest comes after it. While
a store is written a mark lies in its place, by which what an interrupted run left is known.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harpy_core.errors import InputError, TransientError
from harpy_core.storage.buckets import ONE_PUT, Held, Objects, tag_of
from harpy_core.storage.locks import SOMEBODY, myself

ROOT = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
"""Names of the objects that declare a Zarr store."""

MARK = ".unfinished"
"""Name of the object that lies in the place of a store while it is written."""


def publish(
    store: str | os.PathLike[str],
    address: str,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Copy a finished store to a bucket, so that it can be opened there once it is whole.

    An object that is there already, as its entity tag says, is not sent again: an interrupted copy
    resumes, and of a store that replaces another one what differs is sent.

    Parameters
    ----------
    store
        Folder of a table, of crops or of another Zarr store; its manifest is taken along if it is
        beside it.
    address
        Address of the copy, s3://bucket/folder.
    options
        Options of s3fs, such as ``endpoint_url``; credentials come from the environment.
    overwrite
        Replace another store that is there.

    Returns
    -------
    Number of objects, and how many of them had to be sent.

    Raises
    ------
    InputError
        There is no store, the address is not one of a bucket, something else is there, an object is
        too large, or the server refuses.
    """
    folder = Path(store)
    files = files_of(folder)
    if not files.keys() & set(ROOT):
        raise InputError(f"{folder}: no finished Zarr store is there; correct the path")
    place = Objects.at(address, options)
    large = [path for path in files.values() if path.stat().st_size >= ONE_PUT]
    if large:
        raise InputError(f"{large[0]}: 5 GiB or more; write smaller shards")
    there = refuse_foreign(place)
    changed = {name for name, path in files.items() if not _is(there.get(name), path)}
    beside = Objects(place.address.removesuffix(place.name).rstrip("/"), place.options)
    declared = f"{place.name.removesuffix('.zarr')}.manifest.json"
    is_other = bool(changed or there.keys() - files.keys() - {MARK})
    if there.keys() & set(ROOT) and is_other and not overwrite:
        raise InputError(
            f"{place.address}: another store is there already; choose another address, or give "
            "--overwrite"
        )
    if is_other or MARK in there:
        beside.remove([declared])
        run = f"copy of {folder.absolute()} on {socket.gethostname()}"
        begin(place, run)
        changed |= complete(place, run, files, {}).keys()
    manifest = folder.with_name(f"{folder.name.removesuffix('.zarr')}.manifest.json")
    if manifest.is_file():
        beside.send({declared: manifest})
    return len(files), len(changed)


def refuse_foreign(place: Objects) -> dict[str, Held]:
    """Refuse to replace what is no store; return what is there.

    Raises
    ------
    InputError
        There are objects that are neither a Zarr store nor a part of one that is being written.
    """
    there = place.found()
    if there and not there.keys() & {*ROOT, MARK}:
        first = min(there)
        raise InputError(
            f"{place.address}: {len(there):,} objects are there that are no Zarr store, such as "
            f"{first or place.name}; choose another address, or remove them"
        )
    return there


def begin(place: Objects, run: str, at_once: bool = False) -> None:
    """Mark a place as one where a run writes a store.

    Parameters
    ----------
    place
        Address of the store.
    run
        Name by which the run knows its own mark when it resumes.
    at_once
        Whether objects of it are replaced from now on, so that what was there is no store any more.

    Raises
    ------
    InputError
        Another run writes there, or was killed: that cannot be known from here.
    """
    mine = json.dumps({"run": run, "by": myself()})
    if place.get(MARK) is not None or not place.put_new(MARK, mine.encode()):
        refuse_begun(place, run)
    if at_once:
        place.remove(ROOT)


def refuse_begun(place: Objects, run: str | None) -> None:
    """Refuse a place where another run has put its mark.

    Parameters
    ----------
    place
        Address of the store.
    run
        Name of the run that may be there; None of one that has no name yet.

    Raises
    ------
    InputError
        Another run writes there, or was killed: that cannot be known from here.
    """
    known = place.get(MARK)
    if known is not None and (run is None or _said(known, "run") != run):
        # Where there is a store, it is as it was: a table is sent when it is complete.
        whole = place.found().keys() & set(ROOT)
        left = f"{place.address}/{MARK}" if whole else "what is there"
        raise InputError(
            f"{place.address}: {_said(known, 'by') or SOMEBODY} is writing it, or was killed: wait "
            f"for it, or, if it is gone, remove {left}"
        )


def complete(
    place: Objects, run: str, files: Mapping[str, Path], kept: Mapping[str, Held]
) -> dict[str, Held]:
    """Send what is missing of a store, and its root's metadata once all is there.

    Parameters
    ----------
    place
        Address of the store.
    run
        Name of the run that marked it.
    files
        Files by the names of their objects.
    kept
        Objects that were sent before; others than these and the files are removed.

    Returns
    -------
    Objects that had to be sent.

    Raises
    ------
    InputError
        Another run has begun to write there, an object is not what was sent, or the server refuses.
    """
    _refuse_others(place, run)
    there = place.found()
    body = {
        name: path
        for name, path in files.items()
        if name not in ROOT and not _is(there.get(name), path)
    }
    root = {name: path for name, path in files.items() if name in ROOT}
    place.remove(ROOT)
    place.remove(there.keys() - files.keys() - kept.keys() - {MARK})
    sent = place.send(body)
    whole = {name: there[name] for name in files.keys() - body.keys() - root.keys()}
    _check(place, {**whole, **sent, **kept})
    _refuse_others(place, run)
    sent |= place.send(root)
    place.remove([MARK])
    return sent


def _refuse_others(place: Objects, run: str) -> None:
    """Refuse to go on where another run has begun to write."""
    if _said(place.get(MARK), "run") != run:
        raise TransientError(
            f"{place.address}: another run has begun to write there; wait for it, and run again"
        )


def files_of(folder: Path) -> dict[str, Path]:
    """Files of a store by the names of their objects."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    files.pop(".snakemake_timestamp", None)
    return files


def _said(mark: bytes | None, name: str) -> str | None:
    """Return what a mark says; None where it says nothing."""
    try:
        found = json.loads(mark or b"{}")[name]
    except (ValueError, LookupError, TypeError):
        return None
    return str(found)


def _is(held: Held | None, path: Path) -> bool:
    """Whether an object is a file."""
    return held is not None and held.size == path.stat().st_size and held.tag == tag_of(path)


def _check(place: Objects, expected: Mapping[str, Held]) -> None:
    """Refuse to declare a store whole that is not what was sent."""
    there = place.found()
    for name, held in expected.items():
        if there.get(name) != held:
            raise TransientError(
                f"{place.address}/{name}: not what was sent; nothing else may write there: run "
                "again"
            )
