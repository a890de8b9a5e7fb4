"""Write large files to disk past the page cache.

Where a file has to be on disk, the cache's copy of it gains nothing: the copy costs memory traffic
and pushes out the chunks that are still to be read. Extraction takes a fifth less time this way.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harpy_core.phases import phase

BLOCK = 4096
"""Bytes of which a direct write must be a multiple, on any disk in use."""
BUFFER = 2**22
"""Bytes of one write; each thread that writes keeps a buffer of this size."""
LARGE = 2**20
"""Bytes from which a file is written past the cache."""

_DIRECT = getattr(os, "O_DIRECT", 0)
_local = threading.local()


def write_flushed(path: Path, parts: Sequence[Any]) -> None:
    """Write a file and return when it is on disk.

    It goes past the page cache where it is large and the file system supports that.

    Parameters
    ----------
    path
        New file; an existing one is replaced.
    parts
        Its content, as bytes or C-contiguous buffers, one after the other.

    Raises
    ------
    OSError
        The disk is full, or cannot be written to.
    """
    views = [memoryview(part).cast("B") for part in parts]
    size = sum(view.nbytes for view in views)
    with phase("write"):
        handle = _opened(path, _DIRECT if size >= LARGE else 0)
        try:
            for block in _blocks(views):
                _write(handle, block)
            os.ftruncate(handle, size)
            os.fsync(handle)
        finally:
            os.close(handle)


def _opened(path: Path, direct: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags | direct, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL or not direct:
            raise
        return os.open(path, flags, 0o666)


def _blocks(views: Sequence[memoryview]) -> Iterator[memoryview]:
    """Yield the content in this thread's aligned buffer, piece by piece; the last is padded."""
    if not hasattr(_local, "buffer"):
        _local.buffer = mmap.mmap(-1, BUFFER)
    buffer = memoryview(_local.buffer)
    held = 0
    for view in views:
        at = 0
        while at < view.nbytes:
            count = min(buffer.nbytes - held, view.nbytes - at)
            buffer[held : held + count] = view[at : at + count]
            held, at = held + count, at + count
            if held == buffer.nbytes:
                yield buffer
                held = 0
    if held:
        yield buffer[: -(-held // BLOCK) * BLOCK]


def _write(handle: int, block: memoryview) -> None:
    while block.nbytes:
        try:
            block = block[os.write(handle, block) :]
        except OSError as error:
            flags = fcntl.fcntl(handle, fcntl.F_GETFL)
            if error.errno != errno.EINVAL or not flags & _DIRECT:
                raise
            # The disk wants larger blocks, or a write was cut short: go on through the cache.
            fcntl.fcntl(handle, fcntl.F_SETFL, flags & ~_DIRECT)
