"""The system's page cache: which part of some files it holds, filled or emptied on purpose.

Owns the state of the cache before a measured run. No root is needed: `posix_fadvise` drops a file's
pages, `mincore` tells which are there. Neither works for files at an address.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.raster.formats import owner_of
from harpy_core.raster.views import behind

STATES = ("warm", "cold")
"""States that a run may find: all its files in the cache, or none of them."""

# Metadata that the run's own start reads again.
_LEFT = 0.01
_BLOCK = 2**22


@dataclass(frozen=True, slots=True)
class InputFiles:
    """The files that hold an image and its labels.

    Attributes
    ----------
    paths
        All names, sorted.
    distinct
        One name for each file: hard and symbolic links are other names of one.
    size
        Bytes of the distinct files.
    """

    paths: tuple[Path, ...]
    distinct: tuple[Path, ...]
    size: int

    @classmethod
    def of(cls, *arrays: Any) -> InputFiles:
        """The files of some arrays; none where they lie in memory or at an address."""
        paths = sorted({path for array in arrays for path in _files(array)})
        by_number: dict[tuple[int, int], tuple[Path, int]] = {}
        for path in paths:
            found = path.stat()
            by_number.setdefault((found.st_dev, found.st_ino), (path, found.st_size))
        distinct = tuple(path for path, _ in by_number.values())
        return cls(tuple(paths), distinct, sum(size for _, size in by_number.values()))

    @property
    def linked(self) -> bool:
        """Whether some files are links of each other."""
        return len(self.distinct) < len(self.paths)

    def cached_share(self) -> float:
        """Share of the bytes that the page cache holds, 0 to 1."""
        pages, held = 0, 0
        for path in self.distinct:
            found = _pages_held(path)
            pages += len(found)
            held += int(np.count_nonzero(found))
        return held / pages if pages else 0.0

    def bring_into(self, state: str) -> float:
        """Fill or empty the cache, and make sure of it; the share that it holds afterwards.

        Parameters
        ----------
        state
            ``"warm"`` or ``"cold"``.

        Raises
        ------
        InputError
            There are no files, they are links of each other (cold), they do not fit into memory
            (warm), or the system keeps or loses them all the same.
        """
        if state not in STATES:
            raise InputError(f"cache = {state!r}: use one of {', '.join(STATES)}")
        if not self.paths:
            raise InputError(f"cache = {state}: the image lies at an address, not in files here")
        if state == "cold":
            self._drop()
        else:
            self._fill()
        share = self.cached_share()
        if (share > _LEFT) if state == "cold" else (share < 1 - _LEFT):
            raise InputError(
                f"cache = {state}: the page cache holds {share:.0%} of {self.distinct[0].parent} "
                "and the like: another process uses or crowds them out, or they are another's"
            )
        return share

    def _drop(self) -> None:
        if self.linked:
            raise InputError(
                f"cache = cold: {len(self.paths)} files are {len(self.distinct)} with links to "
                "them, so the first use of each would fill the cache for the rest: measure warm, "
                "or tile with method: copy"
            )
        for path in self.distinct:
            with path.open("rb") as handle:
                # Only clean pages are dropped.
                os.fsync(handle.fileno())
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _fill(self) -> None:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if self.size > free // 2:
            raise InputError(
                f"cache = warm: {self.size / 1e9:.0f} GB do not fit into half of the "
                f"{free / 1e9:.0f} GB of memory, so a run would find some of them: measure cold"
            )
        for path in self.distinct:
            with path.open("rb", buffering=0) as handle:
                while handle.read(_BLOCK):
                    pass


def _files(array: Any) -> Iterable[Path]:
    for stored in behind(array):
        owner = owner_of(stored)
        if owner is not None:
            yield from map(Path, owner.files(stored))


def _pages_held(path: Path) -> np.ndarray:
    """Pages of a file that the cache holds, as a flag for each."""
    size = path.stat().st_size
    count = -(-size // mmap.PAGESIZE)
    held = np.zeros(count, np.uint8)
    if not size:
        return held
    with (
        path.open("rb") as handle,
        mmap.mmap(handle.fileno(), size, access=mmap.ACCESS_COPY) as view,
    ):
        first = ctypes.c_char.from_buffer(view)
        status = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(first)),
            ctypes.c_size_t(size),
            ctypes.c_void_p(held.ctypes.data),
        )
        # The view cannot be closed while an object looks into it.
        del first
    if status:
        raise OSError(ctypes.get_errno(), f"{path}: mincore failed")
    return held & 1
