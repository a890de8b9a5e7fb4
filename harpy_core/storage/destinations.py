"""Where a result is written: a folder, or a place in a bucket with a folder here for the work.

What makes a run resumable, its lock, commit records and fragments, needs a disk that all workers
see. Of a result in a bucket only that, and the metadata until they are sent, is on it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harpy_core.errors import InputError
from harpy_core.storage import publishing
from harpy_core.storage.buckets import Held, Objects
from harpy_core.storage.commits import WorkFolder, checksum_of
from harpy_core.storage.folders import address_of
from harpy_core.storage.manifest import digest_of, write_text


@dataclass(frozen=True, slots=True)
class Destination:
    """Place of a result.

    Attributes
    ----------
    path
        Its folder; of one in a bucket a path that names its lock and its working folder.
    objects
        Its place in a bucket; None for a folder.
    """

    path: Path
    objects: Objects | None = None

    @classmethod
    def of(
        cls,
        place: str | os.PathLike[str],
        options: Mapping[str, Any] | None = None,
        work: str | os.PathLike[str] | None = None,
    ) -> Destination:
        """Return that of a path, or of an address ``s3://bucket/folder``.

        Parameters
        ----------
        place
            Path or address.
        options
            Options of s3fs for an address.
        work
            Folder for the work on a result in a bucket; None is the current one.

        Raises
        ------
        InputError
            It is an address elsewhere than in a bucket of S3.
        """
        address = address_of(place)
        if address is None:
            return cls(Path(place))
        objects = Objects.at(address, options)
        # The same name in another bucket is another result.
        name = f"{objects.name}-{digest_of(objects.address)[:8]}"
        return cls(Path(work or "").absolute() / name, objects)

    def __str__(self) -> str:
        """Path or address."""
        return str(self.path) if self.objects is None else self.objects.address

    def refuse_taken(self, overwrite: bool, remedy: str = "overwrite=True") -> None:
        """Refuse to replace what is there unless that was asked for.

        Raises
        ------
        InputError
            A result is there, or in a bucket anything that is no store; or the bucket cannot be
            reached.
        """
        if self.objects is None:
            taken = os.path.lexists(self.path)
        else:
            taken = bool(publishing.refuse_foreign(self.objects).keys() & set(publishing.ROOT))
        if taken and not overwrite:
            raise InputError(f"{self}: already there; choose another path, or give {remedy}")

    def work(self, key: str, at_once: bool = False) -> WorkFolder:
        """Return the folder of what a run has made so far.

        Parameters
        ----------
        key
            Digest of inputs, parameters and code.
        at_once
            Whether files of a store in a bucket are sent there as they are committed, rather than
            when all are made.
        """
        if self.objects is None:
            return WorkFolder(self.path, key)
        return FarWork(self.path, key, self.objects, at_once)


class FarWork(WorkFolder):
    """Files of a result in a bucket that a run has made so far.

    A file counts as committed when its object is there with the size and the entity tag that its
    record has.

    Parameters
    ----------
    target
        Path that names this folder.
    key
        Digest of inputs, parameters and code.
    objects
        Place of the result.
    at_once
        See `Destination.work`.
    """

    def __init__(self, target: Path, key: str, objects: Objects, at_once: bool) -> None:
        super().__init__(target, key)
        self.objects, self.at_once = objects, at_once

    def begin(self, make: Callable[[Path], None], resume: bool = True) -> None:
        """Prepare the folder as `WorkFolder.begin` does, and the place in the bucket."""
        # Before anything is made here.
        publishing.refuse_begun(self.objects, self._run() if self._run_file.exists() else None)
        super().begin(make, resume)
        publishing.begin(self.objects, self._run(), self.at_once)

    def commit(
        self, name: str, path: Path, parts: Sequence[Any], checksum: int | None = None
    ) -> None:
        """Send a file of the store, and then write its record; other files stay here."""
        if not (self.at_once and path.is_relative_to(self.store)):
            super().commit(name, path, parts, checksum)
            return
        held = self.objects.put(path.relative_to(self.store).as_posix(), parts)
        if checksum is None:
            checksum = checksum_of(parts)
        facts = {"crc32c": checksum, "bytes": held.size, "tag": held.tag}
        self._record(name, {**facts, "file": path.relative_to(self.path).as_posix()})

    def records(self) -> dict[str, dict[str, Any]]:
        """Records of committed files by name, of those that are as they were committed."""
        there = self.objects.found() if self.at_once else {}
        return {
            name: record
            for name, record in self._written()
            if there.get(self._object(record)) == _held(record) or self._is_there(record)
        }

    def finish(self, flushed: Collection[str]) -> None:
        """Send what is still here, what declares the store last, and remove this folder."""
        sent = {self._object(one): _held(one) for _, one in self._written() if "tag" in one}
        files = publishing.files_of(self.store)
        publishing.complete(self.objects, self._run(), files, sent)
        self._clear()
        self._run_file.unlink()

    @property
    def _run_file(self) -> Path:
        return self.target.with_name(f".{self.target.name}.run")

    def _run(self) -> str:
        """Name of the runs from here: whoever holds the result's lock here goes on with theirs."""
        if not self._run_file.exists():
            write_text(self._run_file, uuid.uuid4().hex)
        return self._run_file.read_text(encoding="utf-8")

    def _object(self, record: Mapping[str, Any]) -> str:
        store = self.store.relative_to(self.path).as_posix()
        return str(record["file"]).removeprefix(f"{store}/")


def _held(record: Mapping[str, Any]) -> Held:
    """Object of a record; of a record of a file one that is nowhere."""
    return Held(record.get("tag", ""), record["bytes"])
