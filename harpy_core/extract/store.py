"""The crops on disk: what of them is encoded, committed and put together to a store.

What is committed together, by one task, is one file: a batch of the store, or some fragments of
one strip, which wait beside it to be joined.
"""

from __future__ import annotations

import mmap
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from harpy_core.errors import InputError
from harpy_core.extract.layout import CropLayout
from harpy_core.storage import codecs, shards
from harpy_core.storage.commits import KEPT, WorkFolder
from harpy_core.storage.folders import room_for
from harpy_core.storage.manifest import digest_of

_SPILLS = "spills"

FragmentsOf = tuple[int, int]
"""Whose fragments: the number of a strip, and of one of its groups of windows."""


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file ready to be written: the name of its record, its path, and its content in parts."""

    name: str
    path: Path
    parts: list[bytes]


class CropStore:
    """The crops of one extraction, while they are made.

    Parameters
    ----------
    work
        Where files are committed.
    layout
        Shape of the crops.
    """

    def __init__(self, work: WorkFolder, layout: CropLayout) -> None:
        self.work, self.layout = work, layout

    def begin(self, resume: bool) -> None:
        """Have the folder and all metadata ready, before any worker writes to it."""
        self.work.begin(self._make_metadata, resume)

    def _make_metadata(self, folder: Path) -> None:
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        layout = self.layout
        for name, (channels, chunk, dtype) in layout.arrays().items():
            window = (layout.depth, layout.diameter, layout.diameter)
            group.create_array(
                name,
                shape=(layout.instances, channels, *window),
                chunks=(layout.chunk, chunk, *window),
                shards=(layout.batch, chunk, *window) if layout.sharded else None,
                dtype=dtype,
                compressors=codecs.compressors(layout.codec, dtype, layout.content(name)),
                dimension_names=("i", "c", "z", "y", "x"),
            )

    def committed(self) -> frozenset[str]:
        """Names of the files that are done."""
        return frozenset(self.work.records())

    def committed_bytes(self, fragments: bool) -> int:
        """Size of the files that are done.

        Parameters
        ----------
        fragments
            Count those too that wait to be joined.
        """
        records = self.work.records().items()
        return sum(r["bytes"] for name, r in records if fragments or "fragments" not in name)

    def batch(self, array: str, batch: int, chunk: int, crops: np.ndarray) -> EncodedFile:
        """Encode one file of an array.

        Parameters
        ----------
        batch, chunk
            Its number along i and along c.
        crops
            (batch, c, z, y, x) of the stored type: crops and channels beyond the edge are zero.
        """
        layout = self.layout
        members = min(layout.batch, layout.instances - batch * layout.batch)
        firsts = range(0, members, layout.chunk)
        chunks = self._encoded(array, crops, [(a, a + layout.chunk) for a in firsts])
        parts = [part for chunk in chunks for part in chunk]
        if layout.sharded:
            missing = [None] * (layout.batch // layout.chunk - len(chunks))
            parts = list(shards.packed([*chunks, *missing]))
        path = self.work.store / array / "c" / str(batch) / str(chunk) / "0" / "0" / "0"
        return EncodedFile(batch_name(array, batch, chunk), path, parts)

    def fragments(
        self, array: str, source: FragmentsOf, chunk: int, crops: np.ndarray, bounds: np.ndarray
    ) -> EncodedFile:
        """Encode what a strip contributes to windows that are finished later.

        Parameters
        ----------
        source
            Which strip, and which of its groups.
        chunk
            Number along c.
        crops
            (n, c, z, y, x) of the stored type.
        bounds : (pieces + 1,) int64
            Where among the crops those of another batch begin, and their end.
        """
        pieces = self._encoded(array, crops, list(pairwise(bounds.tolist())))
        name = fragments_name(array, source, chunk)
        return EncodedFile(name, self.work.path / _SPILLS / name, list(shards.packed(pieces)))

    def _encoded(
        self, array: str, crops: np.ndarray, spans: list[tuple[int, int]]
    ) -> list[codecs.Encoded]:
        codec, content = self.layout.codec, self.layout.content(array)
        crops = np.ascontiguousarray(crops)
        return [codecs.encode(codec, crops[a:b], content) for a, b in spans]

    def read_fragments(
        self, array: str, source: FragmentsOf, chunk: int, piece: tuple[int, int], out: np.ndarray
    ) -> None:
        """Decode the fragments of one batch.

        Parameters
        ----------
        source
            Which strip, and which of its groups.
        piece
            Which of its pieces, and how many there are.
        out
            (n, c, z, y, x), C-contiguous, of the stored type.
        """
        with open(self.work.path / _SPILLS / fragments_name(array, source, chunk), "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            codecs.decode(self.layout.codec, shards.piece_of(content, *piece), out)
        except ValueError as error:
            raise InputError(
                f"{file.name}: cannot be read ({error}); see to the disk, remove "
                f"{self.work.path} and run again"
            ) from error

    def commit(self, file: EncodedFile) -> None:
        """Write a file and then its record, each whole and on disk, or not at all."""
        self.work.commit(file.name, file.path, file.parts)

    def digest(self) -> str:
        """Digest over the content of all chunks."""
        records = {
            name: {"crc32c": record["crc32c"], "bytes": record["bytes"]}
            for name, record in self.work.records().items()
            if "fragments" not in name
        }
        return digest_of([asdict(self.layout), records])

    def finish(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Add what describes the crops, and rename the store onto its final place."""
        store = self.work.store
        with room_for(store, KEPT, sum(values.nbytes for values in arrays.values())):
            group = zarr.open_group(store, mode="a")
            for name, values in arrays.items():
                chunks = tuple(max(n, 1) for n in values.shape)
                group.create_array(
                    name, data=values, chunks=chunks, compressors=codecs.PLAIN, overwrite=True
                )
            group.attrs.update({**facts, "digest": self.digest()})
            # What a killed run left of the metadata that Zarr was writing.
            for pattern in ("*.partial", "*/*.partial"):
                for left in store.glob(pattern):
                    left.unlink()
        self.work.finish(tuple(self.layout.arrays()))


def batch_name(array: str, batch: int, chunk: int) -> str:
    """Name of the commit record of one file of the store."""
    return f"{array}.{batch}.{chunk}"


def fragments_name(array: str, source: FragmentsOf, chunk: int) -> str:
    """Name of the file, and of the commit record, of what one group of a strip contributes."""
    return f"{array}-fragments.{source[0]}.{source[1]}.{chunk}"
