"""Files of equal content: links, clones or copies, and which of a source's can be used again.

A chunk file of one array can be used in another if both decode it in the same way and it lies on
the other's grid.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
from pathlib import Path
from typing import Any, BinaryIO, Literal

from harpy_core.errors import InputError
from harpy_core.raster.formats import owner_of
from harpy_core.raster.formats.format import ReusableFiles
from harpy_core.storage.mapping import mapped
from harpy_core.storage.writing import write_flushed

Index = tuple[int, ...]
Method = Literal["link", "copy"]
Way = Literal["linked", "cloned", "copied", "absent"]

_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}
_CLONE = 0x40049409
"""FICLONE of Linux: makes a file share another's blocks until one of them is written to."""


def repeat_file(existing: Path, new: Path, method: Method, temporary: Path) -> Way:
    """Make a file of the same content as another, whole or not at all.

    Parameters
    ----------
    existing
        Path of the file; if there is none, as for a chunk that is all background, none is made.
    new
        Path of the new one, in a folder that exists.
    method
        ``"link"`` gives the file a second name. If the file system cannot, the new one is a clone,
        which takes no space either, or a copy. ``"copy"`` copies at once.
    temporary
        Path of a clone or a copy until it is whole, on the disk of `new`.

    Raises
    ------
    InputError
        The file is a symbolic link that leads nowhere.
    """
    if method == "link":
        try:
            os.link(_itself(existing), new)
        except FileNotFoundError:
            return "absent"
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
        else:
            return "linked"
    try:
        source = existing.open("rb")
    except FileNotFoundError:
        return "absent"
    with source:
        way: Way = "copied"
        if method == "link" and _cloned(source, temporary):
            way = "cloned"
        else:
            write_flushed(temporary, [_mapped(source)])
    os.replace(temporary, new)
    return way


def _itself(file: Path) -> Path:
    """Return the file behind symbolic links, as git-annex and DVC keep it: a name for the link
    would lead nowhere from another folder."""
    if not file.is_symlink():
        return file
    try:
        return file.resolve(strict=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{file}: a symbolic link that leads nowhere; fetch its content first (git annex get, "
            "dvc pull)"
        ) from error


def _cloned(source: BinaryIO, path: Path) -> bool:
    with path.open("wb") as target:
        try:
            fcntl.ioctl(target.fileno(), _CLONE, source.fileno())
        except OSError:
            return False
        os.fsync(target.fileno())
    return True


def _mapped(file: BinaryIO) -> mmap.mmap | bytes:
    """Map the content of a file, to be read from its beginning to its end."""
    content = mapped(file.fileno())
    if isinstance(content, mmap.mmap):
        content.madvise(mmap.MADV_SEQUENTIAL)
    return content


def linkable(source: Any, chunks: Index, shape: Index) -> ReusableFiles | None:
    """Return the files of a source that another array can have as they are; None if it cannot.

    Parameters
    ----------
    source
        Array that is repeated.
    chunks, shape
        Chunks and shape of the new array, along each axis.
    """
    owner = owner_of(source)
    files = None if owner is None else owner.reusable(source)
    if files is None or tuple(source.chunks) != chunks:
        return None
    fits = all(
        target <= own or own % u == 0
        for own, target, u in zip(source.shape, shape, files.unit, strict=True)
    )
    return files if fits else None


def first_alike(index: Index, unit: Index, shape: Index) -> Index:
    """Return the first file of a repeated array with the same pixels as file `index`.

    Parameters
    ----------
    index
        Number of the file along each axis.
    unit
        Pixels of a file along each axis.
    shape
        Shape of the source that is repeated.
    """
    # After this many files, multiples of the unit fall on the same place in the source again.
    periods = (n // math.gcd(n, u) for n, u in zip(shape, unit, strict=True))
    return tuple(i % period for i, period in zip(index, periods, strict=True))
