"""Work that outlives its process: files committed one by one, in a folder beside the result.

A file is written under another name, flushed and renamed; then, where it is one of many that make
up a result, its record is written in the same way. A run that died is resumed from what is
committed. The folder is named after inputs, parameters and code, so that no other run's files can
be taken for its own; a rename turns it into the result.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from harpy_core.storage.checksums import crc32c
from harpy_core.storage.folders import replace_folder, room_for, sync_folder, sync_tree, tidy
from harpy_core.storage.manifest import replace_json
from harpy_core.storage.writing import write_flushed

logger = logging.getLogger(__name__)

KEPT = "what is written stays"
"""Statement in errors of a run that could not go on."""

_STORE = "store"
_COMMITS = "commits"
_PARTIAL = "partial"
_RECORD_BYTES = 4096
"""Disk space of a commit record: a small file, one block."""


class WorkFolder:
    """Files of a result that a run has made so far.

    Parameters
    ----------
    target
        The result.
    key
        Digest of inputs, parameters and code.
    """

    def __init__(self, target: Path, key: str) -> None:
        self.target, self.key = target, key
        self.path = target.with_name(f".{target.name}.work-{key}")

    @property
    def store(self) -> Path:
        """The folder that becomes the result."""
        return self.path / _STORE

    def begin(self, make: Callable[[Path], None], resume: bool = True) -> None:
        """Prepare the folder before any worker writes to it; what was committed stays.

        The caller holds the lock of the result.

        Parameters
        ----------
        make
            Writes a store's metadata to a folder.
        resume
            Continue an earlier run; otherwise start over.
        """
        with room_for(self.path, KEPT, _RECORD_BYTES):
            tidy(self.target, alone=True)
            partial = self.path / _PARTIAL
            # A run that died after its store was renamed away left records of files that are gone.
            fresh = not (resume and self.store.exists())
            shutil.rmtree(self.path if fresh else partial, ignore_errors=True)
            for folder in (self.path / _COMMITS, partial):
                folder.mkdir(parents=True, exist_ok=True)
            if fresh:
                make(partial / _STORE)
                sync_tree(partial / _STORE)
                os.replace(partial / _STORE, self.store)

    def temporary(self) -> Path:
        """Path for a file until it is whole; outside the store, where a kill would leave it."""
        return self.path / _PARTIAL / uuid.uuid4().hex

    def place(self, path: Path, parts: Sequence[Any], named: bool = False) -> None:
        """Write a file, whole or not at all: once it has its name it has all its content.

        Parameters
        ----------
        path
            Path in this folder.
        parts
            Its content, as buffers one after the other.
        named
            Return only when its name is on disk too.
        """
        temporary = self.temporary()
        with room_for(path.parent, KEPT, sum(map(len, parts))):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_flushed(temporary, parts)
            os.replace(temporary, path)
            if named:
                sync_folder(path.parent)

    def commit(
        self, name: str, path: Path, parts: Sequence[Any], checksum: int | None = None
    ) -> None:
        """Write a file, whole and on disk, and then its record.

        Parameters
        ----------
        name
            Name of the record.
        path, parts
            As in `place`.
        checksum
            CRC-32C that stands for the content; None takes that of the parts. Content that is
            followed by its own CRC-32C needs one: over both it is the same for all content.
        """
        self.place(path, parts, named=True)
        if checksum is None:
            checksum = checksum_of(parts)
        place = path.relative_to(self.path).as_posix()
        self._record(name, {"crc32c": checksum, "bytes": sum(map(len, parts)), "file": place})

    def _record(self, name: str, record: dict[str, Any]) -> None:
        with room_for(self.path / _COMMITS, KEPT, _RECORD_BYTES):
            replace_json(self.path / _COMMITS / name, record)

    def records(self) -> dict[str, dict[str, Any]]:
        """Records of committed files by name: the file, its size and its checksum.

        A file that is no longer as it was committed, as after a power cut, does not count.
        """
        return {name: record for name, record in self._written() if self._is_there(record)}

    def _written(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield all records by name, whatever became of their files."""
        names = os.listdir(self.path / _COMMITS) if (self.path / _COMMITS).is_dir() else []
        for name in sorted(name for name in names if name[0] != "."):
            yield name, json.loads((self.path / _COMMITS / name).read_text(encoding="utf-8"))

    def _is_there(self, record: dict[str, Any]) -> bool:
        file = self.path / record["file"]
        return file.is_file() and file.stat().st_size == record["bytes"]

    def remove(self, name: str) -> None:
        """Remove a committed file: its record first, so that none names a file that is gone."""
        record = self.path / _COMMITS / name
        file = self.path / json.loads(record.read_text(encoding="utf-8"))["file"]
        record.unlink()
        file.unlink()

    def finish(self, flushed: Collection[str]) -> None:
        """Rename the store onto the result's place, and remove this folder and older ones.

        Parameters
        ----------
        flushed
            Folders of the store in which every file was committed or placed.
        """
        with room_for(self.path, KEPT):
            sync_tree(self.store, flushed)
            replace_folder(self.store, self.target)
        self._clear()

    def _clear(self) -> None:
        """Remove this folder and older ones."""
        shutil.rmtree(self.path)
        # Not before: until there is a result, what another run left can still be resumed.
        for left in self.target.parent.glob(f".{escape(self.target.name)}.work-*"):
            shutil.rmtree(left, ignore_errors=True)
            logger.info("%s: removed, a run with other inputs or parameters left it", left)


def checksum_of(parts: Sequence[Any]) -> int:
    """CRC-32C of a content in parts."""
    checksum = 0
    for part in parts:
        checksum = crc32c(part, checksum)
    return checksum
