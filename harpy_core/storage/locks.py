"""One writer of a result at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from harpy_core.errors import InputError
from harpy_core.storage.folders import room_for

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of `flock` on a file system that does not have it."""
SOMEBODY = "another process"
"""Name of one that did not say who it is."""


@contextmanager
def sole_writer(target: Path) -> Iterator[None]:
    """Refuse a second run on the same result while the first is at work.

    The lock ends with the process that holds it, however that ends. On a file system without locks
    the existence of a file serves instead. After a kill that file is left, to be removed by hand:
    whether a process of another machine is alive cannot be known from here.

    Raises
    ------
    InputError
        Another process writes there; the message says which.
    """
    lock = target.with_name(f".{target.name}.lock")
    with room_for(target, "nothing was begun"):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("a+", encoding="utf-8")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise InputError(
                f"{target}: {handle.read().strip() or SOMEBODY} is writing it; wait for it or "
                "choose another path"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            lock.unlink(missing_ok=True)
            lock = _claimed(target)
        else:
            _check_mine(handle, lock, target)
        try:
            with room_for(target, "nothing was begun"):
                os.ftruncate(handle.fileno(), 0)
                os.write(handle.fileno(), myself().encode())
            yield
        finally:
            lock.unlink(missing_ok=True)


def _check_mine(handle: TextIO, lock: Path, target: Path) -> None:
    """Refuse to go on with a lock that other processes would not find."""
    if not lock.exists() or os.fstat(handle.fileno()).st_ino != lock.stat().st_ino:
        raise InputError(f"{target}: another process has just written it; run again")


def _claimed(target: Path) -> Path:
    """Make a file that only one process can make, in place of a lock."""
    claim = target.with_name(f".{target.name}.writer")
    try:
        with claim.open("x", encoding="utf-8") as handle:
            handle.write(myself())
    except FileExistsError:
        raise InputError(
            f"{target}: {claim.read_text(encoding='utf-8').strip() or SOMEBODY} is writing it, or "
            "was killed (this file system has no locks to tell): wait for it, or, if it is "
            f"gone, remove {claim}"
        ) from None
    return claim


def myself() -> str:
    """Name of this process, for others to find it."""
    return f"process {os.getpid()} on {socket.gethostname()}"
