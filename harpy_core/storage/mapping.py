"""Files in memory without a copy, where the file system lets them be mapped."""

from __future__ import annotations

import errno
import mmap
import os

_CANNOT = (errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""Errors of file systems that map no files, some of those that are mounted by FUSE among them."""


def mapped(file: int) -> mmap.mmap | bytes:
    """Return the content of an open file: a map of it, or what was read if it cannot be mapped.

    Parameters
    ----------
    file
        Descriptor; it may be closed afterwards.

    Raises
    ------
    OSError
        It cannot be read.
    """
    size = os.fstat(file).st_size
    if not size:
        return b""
    try:
        return mmap.mmap(file, size, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    with open(file, "rb", closefd=False) as content:
        return content.read()


def ask_for(content: mmap.mmap | bytes, first: int, size: int) -> None:
    """Ask the system for a part of a file's content ahead of its use, if it is mapped.

    Parameters
    ----------
    content
        Content that `mapped` returned.
    first, size
        First byte of the part, and number of bytes.
    """
    if isinstance(content, mmap.mmap):
        page = first - first % mmap.PAGESIZE
        content.madvise(mmap.MADV_WILLNEED, page, max(first + size - page, 1))
