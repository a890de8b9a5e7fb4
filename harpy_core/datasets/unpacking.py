"""Unpacking of untrusted zip archives: plain files, below one folder, of sane sizes."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from harpy_core.datasets.limits import MOST_FILES
from harpy_core.errors import InputError
from harpy_core.running.progress import track
from harpy_core.running.schedule import in_order
from harpy_core.storage.folders import staging

BLOCK = 1 << 20
MOST_GROWTH = 20
"""Bytes unpacked per byte of archive, at most: Zarr chunks are compressed already."""
SMALL = 1 << 30
"""Bytes unpacked that are accepted whatever the size of the archive."""


def unzip(
    archive: str | os.PathLike[str], path: str | os.PathLike[str], progress: bool = False
) -> None:
    """Unpack a zipped store, or the store in the only folder of a zip, several files at a time.

    Parameters
    ----------
    archive
        Zip file. Only plain files below its root are accepted.
    path
        Folder to make; it appears whole or not at all.
    progress
        Show a bar on a terminal.

    Raises
    ------
    InputError
        The file is not a zip or is damaged, or it has absolute or climbing paths, links,
        encryption, two entries of one name, or sizes out of all proportion or beyond the free disk.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked(opened, Path(archive))
            size = sum(entry.file_size for entry in entries.values())
            target = Path(path).absolute()
            target.parent.mkdir(parents=True, exist_ok=True)
            check_room(target.parent, size, f"{archive}: unpacked, it")
            with staging(target) as folder, track(size, "unzip", "B", progress) as bar:
                extract = _Extraction(opened, folder)
                for written in in_order(extract, entries.items()):
                    bar.advance(written)
    except _UNREADABLE as error:
        raise InputError(f"{archive}: no whole zip ({error}); fetch it again") from error


_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    FileExistsError,
    NotADirectoryError,
)


def _checked(opened: zipfile.ZipFile, archive: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Return the files to write, by their path in the store."""
    listed = opened.infolist()
    if len(listed) > MOST_FILES:
        raise InputError(f"{archive}: {len(listed)} entries; at most {MOST_FILES} are unpacked")
    entries: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in listed:
        name = _safe_name(entry, archive)
        if entry.is_dir() or name.parts[0] == "__MACOSX":
            continue
        if name in entries:
            raise InputError(f"{archive}: two entries are named {str(name)!r}; zip it again")
        entries[name] = entry
    size = sum(entry.file_size for entry in entries.values())
    bound = max(SMALL, MOST_GROWTH * archive.stat().st_size)
    if size > bound:
        raise InputError(
            f"{archive}: would unpack to {size} bytes, more than {bound}; zip the store as it is"
        )
    tops = {name.parts[0] for name in entries}
    nested = all(len(name.parts) > 1 for name in entries)
    if len(tops) == 1 and nested:
        return {PurePosixPath(*name.parts[1:]): entry for name, entry in entries.items()}
    return entries


def _safe_name(entry: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    """Path of an entry, refused unless relative and pointing down."""
    raw = entry.orig_filename
    name = PurePosixPath(raw)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    problem = None
    if not name.parts or name.is_absolute() or ".." in name.parts or {"\\", "\0"} & set(raw):
        problem = "an unsafe path"
    elif ":" in name.parts[0]:
        problem = "a path with a drive"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = "a link or a special file"
    elif entry.flag_bits & 1:
        problem = "encrypted"
    if problem:
        raise InputError(f"{archive}: entry {raw!r} is {problem}; zip plain files only")
    return name


class _Extraction:
    """Writer of an archive's entries below a folder, from several threads."""

    def __init__(self, opened: zipfile.ZipFile, folder: Path) -> None:
        self._opened, self._folder = opened, folder
        self._lock = threading.Lock()

    def __call__(self, entry: tuple[PurePosixPath, zipfile.ZipInfo]) -> int:
        """Write one entry; reading checks its checksum, and never yields more than its size."""
        name, info = entry
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        # Reading is safe from several threads; the archive's count of its readers is not.
        with self._lock:
            source = self._opened.open(info)
        try:
            with target.open("xb") as file:
                while content := source.read(BLOCK):
                    written += len(content)
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
        finally:
            with self._lock:
                source.close()
        if written != info.file_size:
            raise zipfile.BadZipFile(f"{info.filename} has {written} of {info.file_size} bytes")
        return written


def check_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to start what a disk cannot hold.

    Raises
    ------
    InputError
        The disk has too little room; the message says what is needed, where, and what is free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{what} needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free; "
            "make room or choose another folder"
        )
