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
from harpy_core.extract.views import View
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
class Gathered:
    """Windows of one batch with all their pixels.

    Attributes
    ----------
    pixels : (batch, c, z, y, x)
        Pixels, 0 outside the image, where they may be written to; those beyond the last window 0.
    corner : (members, 3) int64
        First z, y and x of each window in the image.
    angle : (members,) float64
        Angle by which each is turned, if any is.
    """

    pixels: np.ndarray
    corner: np.ndarray
    angle: np.ndarray


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
    last_step
        What is made of windows once they are whole.
    """

    def __init__(self, work: WorkFolder, last_step: Finish) -> None:
        self.work, self.last_step = work, last_step

    @property
    def layout(self) -> CropLayout:
        """Layout of the gathered windows."""
        return self.last_step.layout

    def begin(self, resume: bool) -> None:
        """Prepare the folder and all metadata before any worker writes to it."""
        self.work.begin(self._make_metadata, resume)

    def _make_metadata(self, folder: Path) -> None:
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        layout = self.layout
        for name, (view, kind) in self.last_step.arrays().items():
            channels, chunk, dtype = layout.arrays()[kind]
            group.create_array(
                name,
                shape=(layout.instances, channels, *view.size),
                chunks=(layout.chunk, chunk, *view.size),
                shards=(layout.batch, chunk, *view.size) if layout.sharded else None,
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

    def pending(self, kind: str, batch: int, chunk: int, done: frozenset[str]) -> list[View]:
        """Return the windows of which a file of a kind is not committed yet.

        Parameters
        ----------
        kind
            ``image`` or ``mask``.
        batch, chunk
            Number of the file along i and along c.
        done
            Names of the committed files.
        """
        views = self.last_step.views
        return [v for v in views if batch_name(v.array(kind), batch, chunk) not in done]

    def batch(
        self, view: View, kind: str, batch: int, chunk: int, windows: Gathered
    ) -> EncodedFile:
        """Finish and encode the crops of one file of an array.

        Parameters
        ----------
        view, kind
            Window and kind of the array.
        batch, chunk
            Number of the file along i and along c.
        windows
            Gathered windows of the batch; those beyond the edge are zero.
        """
        layout = self.layout
        array, members = view.array(kind), len(windows.corner)
        crops = self.last_step.crops(view, kind, windows.pixels, windows.corner, windows.angle)
        firsts = range(0, members, layout.chunk)
        chunks = self._encoded(crops, [(a, a + layout.chunk) for a in firsts])
        parts = [part for chunk in chunks for part in chunk]
        if layout.sharded:
            missing = [None] * (layout.batch // layout.chunk - len(chunks))
            parts = list(shards.packed([*chunks, *missing]))
        path = self.work.store / array / "c" / str(batch) / str(chunk) / "0" / "0" / "0"
        return EncodedFile.of(batch_name(array, batch, chunk), path, parts, chunks)

    def fragments(
        self, kind: str, source: FragmentsOf, chunk: int, windows: np.ndarray, bounds: np.ndarray
    ) -> EncodedFile:
        """Encode the contribution of a strip to windows that are finished later.

        Parameters
        ----------
        source
            Number of the strip, and of one of its groups.
        chunk
            Number of the chunk along c.
        windows
            Gathered windows, (n, c, z, y, x).
        bounds : (pieces + 1,) int64
            Index of the first window of each batch, and the end.
        """
        pieces = self._encoded(windows, list(pairwise(bounds.tolist())))
        name = fragments_name(kind, source, chunk)
        path = self.work.path / _SPILLS / name
        return EncodedFile.of(name, path, list(shards.packed(pieces)), pieces)

    def _encoded(self, crops: np.ndarray, spans: list[tuple[int, int]]) -> list[codecs.Encoded]:
        crops = np.ascontiguousarray(crops)
        return [codecs.encode(self.layout.codec, crops[a:b]) for a, b in spans]

    def read_fragments(
        self, kind: str, source: FragmentsOf, chunk: int, piece: tuple[int, int], out: np.ndarray
    ) -> None:
        """Decode the fragments of one batch.

        Parameters
        ----------
        source
            Number of the strip, and of one of its groups.
        piece
            Number of the piece in the file, and the number of pieces.
        out
            Array for the windows, (n, c, z, y, x), C-contiguous, of the type they are gathered in.
        """
        with open(self.work.path / _SPILLS / fragments_name(kind, source, chunk), "rb") as file:
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
        views = self.last_step.views
        made = [] if len(views) == 1 and views[0].plain else [[asdict(view) for view in views]]
        return digest_of([asdict(self.layout), records, *made])

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
        self.work.finish(tuple(self.last_step.arrays()))


def batch_name(array: str, batch: int, chunk: int) -> str:
    """Name of the commit record of one file of the store."""
    return f"{array}.{batch}.{chunk}"


def fragments_name(kind: str, source: FragmentsOf, chunk: int) -> str:
    """Name of the file, and of the commit record, of the fragments of one group of a strip."""
    return f"{kind}-fragments.{source[0]}.{source[1]}.{chunk}"
