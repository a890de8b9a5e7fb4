"""The crops on disk: encoded, committed and assembled into a store.

A task commits one file at a time: a batch of the store, or some fragments of one strip, which wait
beside it to be joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from harpy_core.errors import InputError
from harpy_core.extract.finishing import Finish
from harpy_core.extract.layout import CropLayout
from harpy_core.raster.stored import ALL_CHUNKS
from harpy_core.storage import codecs, shards
from harpy_core.storage.checksums import crc32c
from harpy_core.storage.commits import KEPT, WorkFolder
from harpy_core.storage.folders import room_for
from harpy_core.storage.manifest import digest_of
from harpy_core.storage.mapping import mapped

_SPILLS = "spills"

FragmentsOf = tuple[int, int]
"""Origin of fragments: the number of a strip, and of one of its groups of windows."""


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file ready to be written.

    Attributes
    ----------
    name
        Name of its record.
    path
        Path in the work folder.
    parts
        Its content.
    checksum
        CRC-32C of the checksums of its chunks.
    """

    name: str
    path: Path
    parts: list[bytes]
    checksum: int

    @classmethod
    def of(
        cls, name: str, path: Path, parts: list[bytes], chunks: Sequence[codecs.Encoded]
    ) -> EncodedFile:
        """Make one of encoded chunks, each followed by its checksum."""
        return cls(name, path, parts, crc32c(b"".join(trailer for _, trailer in chunks)))


class CropStore:
    """Store of the crops of one extraction, while they are made.

    Parameters
    ----------
    work
        Folder where files are committed.
    layout
        Layout of the crops.
    last_step
        What is done to crops once they are whole; None leaves them as they are.
    """

    def __init__(
        self, work: WorkFolder, layout: CropLayout, last_step: Finish | None = None
    ) -> None:
        self.work, self.layout, self.last_step = work, layout, last_step

    def begin(self, resume: bool) -> None:
        """Prepare the folder and all metadata before any worker writes to it."""
        self.work.begin(self._make_metadata, resume)

    def _make_metadata(self, folder: Path) -> None:
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        layout = self.layout
        for name, (channels, chunk, dtype) in layout.arrays().items():
            group.create_array(
                name,
                shape=(layout.instances, channels, *layout.size),
                chunks=(layout.chunk, chunk, *layout.size),
                shards=(layout.batch, chunk, *layout.size) if layout.sharded else None,
                dtype=dtype,
                compressors=codecs.compressors(layout.codec, dtype),
                dimension_names=("i", "c", "z", "y", "x"),
            )

    def committed(self) -> frozenset[str]:
        """Names of the committed files."""
        return frozenset(self.work.records())

    def committed_bytes(self, fragments: bool) -> int:
        """Bytes of the committed files.

        Parameters
        ----------
        fragments
            Count fragments too, which wait to be joined.
        """
        records = self.work.records().items()
        return sum(r["bytes"] for name, r in records if fragments or "fragments" not in name)

    def batch(
        self, array: str, batch: int, chunk: int, crops: np.ndarray, corner: np.ndarray
    ) -> EncodedFile:
        """Finish and encode the crops of one file of an array.

        Parameters
        ----------
        batch, chunk
            Number of the file along i and along c.
        crops
            Crops, (batch, c, z, y, x), of the stored type; those beyond the edge are zero.
        corner : (members, 3) int64
            First z, y and x of each crop in the image.
        """
        layout = self.layout
        members = min(layout.batch, layout.instances - batch * layout.batch)
        if self.last_step is not None and array == "image":
            constant = np.array([[self.last_step.constant]]).astype(layout.gathered(array))
            self.last_step.pad(crops[:members], corner, layout.stored(array, constant))
        firsts = range(0, members, layout.chunk)
        chunks = self._encoded(crops, [(a, a + layout.chunk) for a in firsts])
        parts = [part for chunk in chunks for part in chunk]
        if layout.sharded:
            missing = [None] * (layout.batch // layout.chunk - len(chunks))
            parts = list(shards.packed([*chunks, *missing]))
        path = self.work.store / array / "c" / str(batch) / str(chunk) / "0" / "0" / "0"
        return EncodedFile.of(batch_name(array, batch, chunk), path, parts, chunks)

    def fragments(
        self, array: str, source: FragmentsOf, chunk: int, crops: np.ndarray, bounds: np.ndarray
    ) -> EncodedFile:
        """Encode the contribution of a strip to windows that are finished later.

        Parameters
        ----------
        source
            Number of the strip, and of one of its groups.
        chunk
            Number of the chunk along c.
        crops
            Crops, (n, c, z, y, x), of the stored type.
        bounds : (pieces + 1,) int64
            Index of the first crop of each batch, and the end.
        """
        pieces = self._encoded(crops, list(pairwise(bounds.tolist())))
        name = fragments_name(array, source, chunk)
        path = self.work.path / _SPILLS / name
        return EncodedFile.of(name, path, list(shards.packed(pieces)), pieces)

    def _encoded(self, crops: np.ndarray, spans: list[tuple[int, int]]) -> list[codecs.Encoded]:
        crops = np.ascontiguousarray(crops)
        return [codecs.encode(self.layout.codec, crops[a:b]) for a, b in spans]

    def read_fragments(
        self, array: str, source: FragmentsOf, chunk: int, piece: tuple[int, int], out: np.ndarray
    ) -> None:
        """Decode the fragments of one batch.

        Parameters
        ----------
        source
            Number of the strip, and of one of its groups.
        piece
            Number of the piece in the file, and the number of pieces.
        out
            Array for the crops, (n, c, z, y, x), C-contiguous, of the stored type.
        """
        with open(self.work.path / _SPILLS / fragments_name(array, source, chunk), "rb") as file:
            content = mapped(file.fileno())
        try:
            codecs.decode(self.layout.codec, shards.piece_of(content, *piece), out)
        except ValueError as error:
            raise InputError(
                f"{file.name}: cannot be read ({error}); see to the disk, remove "
                f"{self.work.path} and run again"
            ) from error

    def commit(self, file: EncodedFile) -> None:
        """Write a file and then its record, each whole and flushed to disk, or not at all."""
        self.work.commit(file.name, file.path, file.parts, file.checksum)

    def digest(self) -> str:
        """Digest of the content of all chunks."""
        records = {
            name: {"crc32c": record["crc32c"], "bytes": record["bytes"]}
            for name, record in self.work.records().items()
            if "fragments" not in name
        }
        return digest_of([asdict(self.layout), records])

    def finish(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Add what describes the crops, and move the store to its final place."""
        store = self.work.store
        with room_for(store, KEPT, sum(values.nbytes for values in arrays.values())):
            group = zarr.open_group(store, mode="a")
            for name, values in arrays.items():
                chunks = tuple(max(n, 1) for n in values.shape)
                group.create_array(
                    name,
                    data=values,
                    chunks=chunks,
                    compressors=codecs.PLAIN,
                    overwrite=True,
                    config=ALL_CHUNKS,
                )
            group.attrs.update({**facts, "digest": self.digest()})
            # Metadata that Zarr was writing when a run was killed.
            for pattern in ("*.partial", "*/*.partial"):
                for left in store.glob(pattern):
                    left.unlink()
        self.work.finish(tuple(self.layout.arrays()))


def batch_name(array: str, batch: int, chunk: int) -> str:
    """Name of the commit record of one file of the store."""
    return f"{array}.{batch}.{chunk}"


def fragments_name(array: str, source: FragmentsOf, chunk: int) -> str:
    """Name of the file, and of the commit record, of the fragments of one group of a strip."""
    return f"{array}-fragments.{source[0]}.{source[1]}.{chunk}"
