"""Folders that appear whole: made beside their place, on disk before they have their name.

Every store of ours is made in the same way. Its files are flushed, then the folders that name them,
then it is renamed into place, then the folder above is flushed; what declares it whole is written
after that (`harpy_core.storage.manifest`).
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from harpy_core.errors import InputError

logger = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REMEDIES = {**dict.fromkeys(_FULL, "free that space"), errno.EIO: "see to the disk"}
_FLUSHES = 8
"""Files flushed at the same time: a disk writes several at the price of one."""


@contextmanager
def room_for(path: Path, kept: str, size: int | None = None, reads: bool = False) -> Iterator[None]:
    """Report a full disk, or another reason why nothing can be written, in one line.

    Parameters
    ----------
    path
        Path that is written.
    kept
        Statement of what becomes of the work done so far.
    size
        Bytes that are written, if known.
    reads
        Whether the block reads too: then only a full disk is known to come from writing, and other
        errors pass.

    Raises
    ------
    InputError
        In place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        if reads and error.errno not in _FULL:
            raise
        what = "cannot be written" if size is None else f"cannot write {size:,} bytes"
        remedy = _REMEDIES.get(error.errno or 0, "make it writable, or choose another folder,")
        raise InputError(
            f"{path}: {what} ({error.strerror or error}); {remedy} and run again: {kept}"
        ) from error


def local(path: str | os.PathLike[str]) -> Path:
    """Return the path of a result, which is on a disk of this machine or one that it mounts.

    Raises
    ------
    InputError
        It is an address.
    """
    if address_of(path) is not None:
        raise InputError(
            f"{os.fspath(path)}: this is written to a disk; write it there, and copy it to a "
            "bucket with `harpy-core publish`"
        )
    return Path(path)


def address_of(path: str | os.PathLike[str]) -> str | None:
    """Return the address that is meant; None for a path."""
    # An address that was made a path has lost one of its slashes.
    found = re.match(r"([a-z][a-z0-9]+:)/+", os.fspath(path), re.IGNORECASE)
    return found and f"{found[1].lower()}//{os.fspath(path)[found.end() :]}".rstrip("/")


def sync_folder(path: Path) -> None:
    """Make names inside a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(root: Path, flushed: Collection[str] = ()) -> None:
    """Make a folder and all below it survive a power cut.

    Parameters
    ----------
    root
        The folder.
    flushed
        Names of folders directly below it whose files, though not their names, are on disk already.
    """
    folders, files = [], []
    for place, _, names in os.walk(root):
        folder = Path(place)
        folders.append(folder)
        if folder.relative_to(root).parts[:1] not in [(name,) for name in flushed]:
            files += [folder / name for name in names if not (folder / name).is_symlink()]
    with ThreadPoolExecutor(_FLUSHES) as pool:
        for _ in pool.map(sync_folder, [*files, *folders]):
            pass


@contextmanager
def staging(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty sibling folder that becomes `path` when the block ends well.

    What was at `path` is replaced only then; after an error nothing is left of the attempt, and
    what a killed process of this machine left is removed.

    Raises
    ------
    InputError
        The disk is full, or the folder cannot be written to.
    """
    target = local(path)
    work = _beside(target, "partial")
    left = "nothing of it is left"
    try:
        with room_for(target, left):
            target.parent.mkdir(parents=True, exist_ok=True)
            tidy(target)
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
        with room_for(target, left, reads=True):
            yield work
        with room_for(target, left):
            sync_tree(work)
            replace_folder(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def replace_folder(work: Path, target: Path) -> None:
    """Rename a finished folder onto its final place; what was there is removed after that."""
    if not os.path.lexists(target):
        os.replace(work, target)
        sync_folder(target.parent)
        return
    old = _beside(target, "old")
    _remove(old)
    os.replace(target, old)
    try:
        os.replace(work, target)
    except BaseException:
        os.replace(old, target)
        raise
    sync_folder(target.parent)
    _remove(old)


def tidy(target: Path, alone: bool = False) -> None:
    """Remove what killed processes left beside a result, and report it.

    Where one died between the two renames of a replacement, the old result is put back first.

    Parameters
    ----------
    target
        The result.
    alone
        Whether the caller holds its lock: then any process that left something is dead.
    """
    left = [
        path
        for kind in ("old", "partial")
        for path in sorted(target.parent.glob(f".{escape(target.name)}.{kind}-*"))
        if alone or not _alive(path, target, kind)
    ]
    for path in left:
        if path.name.startswith(f".{target.name}.old-") and not os.path.lexists(target):
            os.replace(path, target)
            logger.info("%s: put back from %s, where a killed process left it", target, path.name)
        else:
            _remove(path)
            logger.info("%s: removed, a killed process left it", path)


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{socket.gethostname()}-{os.getpid()}")


def _alive(path: Path, target: Path, kind: str) -> bool:
    """Whether the process that made a folder may be at work; one of another machine always may."""
    host, _, process = path.name.removeprefix(f".{target.name}.{kind}-").rpartition("-")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
