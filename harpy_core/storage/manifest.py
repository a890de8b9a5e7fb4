"""Whole results only: staging folders, content digests, and the manifest written last."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harpy_core.errors import InputError


def digest_of(value: Any) -> str:
    """SHA-256 of a value made of builtins, by its canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def tree_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 over the sorted relative paths and contents of the files below a folder."""
    root = Path(path)
    total = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        name = file.relative_to(root).as_posix()
        if name == ".snakemake_timestamp":
            continue
        with file.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def sync_folder(path: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON so that the path holds either the old text or the whole new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            json.dump(value, handle, indent=2, sort_keys=True)
            handle.write("\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def write_manifest(path: str | os.PathLike[str], *, kind: str, digest: str, **facts: Any) -> None:
    """Declare a store whole: what it is, the digest of its content, and what is known of it.

    The text holds no time and no machine, so equal results have equal manifests.
    """
    write_json(path, {"kind": kind, "digest": digest, **facts})


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_manifest` wrote."""
    with open(path, encoding="utf-8") as handle:
        manifest: dict[str, Any] = json.load(handle)
    return manifest


@contextmanager
def staging(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty sibling folder that becomes `path` when the block ends well.

    What stood at `path` is replaced only then; after an error nothing is left of the attempt, and
    what a killed process of this machine left is removed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-{socket.gethostname()}-"
    for left in target.parent.glob(f"{prefix}*"):
        if not _alive(left.name.removeprefix(prefix)):
            shutil.rmtree(left, ignore_errors=True)
    work = target.with_name(f"{prefix}{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        replace_folder(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def replace_folder(work: Path, target: Path) -> None:
    """Rename a finished folder onto its final place; what stood there is removed after that."""
    if not os.path.lexists(target):
        os.replace(work, target)
        sync_folder(target.parent)
        return
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)
    os.replace(target, old)
    try:
        os.replace(work, target)
    except BaseException:
        os.replace(old, target)
        raise
    sync_folder(target.parent)
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:
        old.unlink()


@contextmanager
def sole_writer(target: Path) -> Iterator[None]:
    """Refuse a second run on the same result while the first is at work.

    Raises
    ------
    InputError
        Another process writes there; the message says which.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    with lock.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise InputError(
                f"{target}: {holder} is writing it; wait for it or choose another path"
            ) from None
        if not lock.exists() or os.fstat(handle.fileno()).st_ino != lock.stat().st_ino:
            raise InputError(f"{target}: another process has just written it; run again")
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
