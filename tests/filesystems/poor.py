"""A file system that passes everything on to a folder, but for one thing that it refuses.

    python tests/filesystems/poor.py FOLDER MOUNTPOINT REFUSED

REFUSED is ``nothing`` or one of ``flock``, ``O_DIRECT``, ``mmap``, ``link`` and ``rename`` (of
folders): what NFS, Lustre, SMB and object stores that are mounted lack, one or the other. It needs
/dev/fuse, libfuse 3 and the package mfusepy.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from mfusepy import FUSE, FuseOSError, Operations

REFUSED = ("nothing", "flock", "O_DIRECT", "mmap", "link", "rename")


class Passed(Operations):
    """A folder, seen through the kernel.

    Parameters
    ----------
    folder
        Folder to pass everything on to.
    refused
        One of `REFUSED`.
    """

    use_ns = True

    def __init__(self, folder: str, refused: str) -> None:
        self._folder, self._refused = folder, refused

    def _at(self, path: str) -> str:
        return self._folder + path

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        """Have files that cannot be mapped, where they are not to be."""
        if config_3 is not None:
            config_3.direct_io = self._refused == "mmap"

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Facts about a file."""
        found = os.lstat(self._at(path))
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino", "st_blocks")
        times = {f"st_{k}time": getattr(found, f"st_{k}time_ns") for k in "amc"}
        return {name: getattr(found, name) for name in names} | times

    def readdir(self, path: str, fh: int) -> list[str]:
        """Names in a folder."""
        return [".", "..", *os.listdir(self._at(path))]

    def statfs(self, path: str) -> dict[str, int]:
        """Space that is free."""
        found = os.statvfs(self._at(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_files", "f_frsize", "f_namemax")
        return {name: getattr(found, name) for name in names}

    def open(self, path: str, flags: int) -> int:
        """Open a file; past the cache only if that is not what is refused."""
        if flags & os.O_DIRECT and self._refused == "O_DIRECT":
            raise FuseOSError(errno.EINVAL)
        return os.open(self._at(path), flags & ~os.O_DIRECT)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        """Make a file."""
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Read a part of a file."""
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Write a part of a file."""
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """Cut a file."""
        os.truncate(self._at(path), length)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """Pass a file on to the disk."""
        os.fsync(fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        """Pass a folder's names on to the disk."""
        return 0

    def release(self, path: str, fh: int) -> int:
        """Close a file."""
        os.close(fh)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        """Make a folder."""
        os.mkdir(self._at(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        """Remove a folder."""
        os.rmdir(self._at(path))
        return 0

    def unlink(self, path: str) -> int:
        """Remove a file."""
        os.unlink(self._at(path))
        return 0

    def rename(self, old: str, new: str) -> int:
        """Rename a file, or a folder if that is not what is refused."""
        if self._refused == "rename" and os.path.isdir(self._at(old)):
            raise FuseOSError(errno.EPERM)
        os.rename(self._at(old), self._at(new))
        return 0

    def link(self, target: str, source: str) -> int:
        """Give a file a second name, if that is not what is refused."""
        if self._refused == "link":
            raise FuseOSError(errno.EPERM)
        os.link(self._at(source), self._at(target))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        """Change a file's mode."""
        os.chmod(self._at(path), mode)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        """Change a file's times."""
        os.utime(self._at(path), ns=times)
        return 0


class WithoutLocks(Passed):
    """The same, which answers as NFS without its lock service does."""

    def flock(self, path: str, fh: int, op: int) -> int:
        """Refuse."""
        raise FuseOSError(errno.ENOLCK)


def main(folder: str, mountpoint: str, refused: str) -> None:
    """Mount, until it is unmounted."""
    kind = WithoutLocks if refused == "flock" else Passed
    FUSE(kind(folder, refused), mountpoint, foreground=True, default_permissions=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
