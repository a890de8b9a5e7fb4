"""The crops on disk: a working folder with a commit record for each unit, and the finished store.

A unit (one file of the store, or some fragments of one strip) is written to a temporary file,
flushed to disk and renamed; then its record is written in the same way. A run that died goes on
from the records. The folder is named after inputs and parameters, so that no other run's units can
be taken for its own.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr

from harpy_core.config.models import Codec
from harpy_core.errors import InputError
from harpy_core.raster.reading import delivered
from harpy_core.storage import codecs, shards
from harpy_core.storage.manifest import digest_of, replace_folder, sync_folder, write_json
from harpy_core.storage.writing import write_flushed

STORE = "store"
_COMMITS = "commits"
_SPILLS = "spills"
_PARTIAL = "partial"
_RECORD_BYTES = 4096
"""A commit record is a small file: a block of the disk."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape of the stored crops.

    Attributes
    ----------
    instances, channels, depth, diameter
        Crops, and channels, z and pixels on a side of each.
    chunk, group
        Crops and channels of one chunk.
    batch
        Crops of one file: of one chunk, or of a shard of several.
    pixels
        NumPy name of the image's pixel type.
    dtype
        NumPy name of the stored type.
    scale
        What pixels are multiplied by to be stored; None leaves them as they are.
    codec
        How chunks are compressed.
    full
        Whether windows are mostly pixels of instances, or kept with their background.
    mask
        Whether each crop has a mask.
    """

    instances: int
    channels: int
    depth: int
    diameter: int
    chunk: int
    group: int
    batch: int
    pixels: str
    dtype: str
    scale: float | None
    codec: Codec
    full: bool
    mask: bool

    @property
    def window(self) -> int:
        """Pixels of one channel of one crop."""
        return self.depth * self.diameter * self.diameter

    @property
    def sharded(self) -> bool:
        """Whether a file holds several chunks."""
        return self.batch > self.chunk

    def arrays(self) -> dict[str, tuple[int, int, np.dtype]]:
        """Channels, channels in a chunk and type of each array of crops, by name."""
        found = {"image": (self.channels, self.group, np.dtype(self.dtype))}
        if self.mask:
            found["mask"] = (1, 1, np.dtype(np.uint8))
        return found

    def content(self, array: str) -> codecs.Content:
        """What an array's chunks are like, for the codec."""
        return "full crops" if self.full and array == "image" else "crops"

    def gathered(self, array: str) -> np.dtype:
        """Type in which the pixels of an array are gathered."""
        return delivered(np.dtype(self.pixels)) if array == "image" else np.dtype(np.uint8)

    def stored(self, array: str, crops: np.ndarray) -> np.ndarray:
        """Gathered pixels as they are stored: multiplied in float64, and rounded once."""
        dtype = self.arrays()[array][2]
        if array != "image" or self.scale is None:
            return crops.astype(dtype, copy=False)
        if crops.dtype.kind in "iu" and crops.dtype.itemsize <= 2:
            unsigned = np.dtype(f"u{crops.dtype.itemsize}")
            every = np.arange(1 << (8 * unsigned.itemsize), dtype=unsigned).view(crops.dtype)
            table: np.ndarray = (every.astype(np.float64) * self.scale).astype(dtype)
            return table.take(crops.view(unsigned))
        found = np.empty(crops.shape, dtype)
        for some, crop in zip(found, crops, strict=True):
            some[...] = crop.astype(np.float64) * self.scale
        return found


@dataclass(frozen=True, slots=True)
class Content:
    """A unit ready to be written: the name of its record, its path, and the parts of its file."""

    name: str
    path: Path
    parts: list[Any]


Source = tuple[int, int]
"""Where fragments come from: the number of a strip, and of one of its parts."""


class WorkFolder:
    """The units of one extraction, committed one by one.

    Parameters
    ----------
    path
        The folder; made by `begin`.
    layout
        Shape of the crops.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout

    def begin(self) -> None:
        """Make the folder and all metadata, before any worker writes to it."""
        if not (self.path / STORE).exists():
            # A run that died after its store was renamed away left records of what is not here.
            shutil.rmtree(self.path, ignore_errors=True)
        with _room_for(self.path, _RECORD_BYTES):
            self._make_metadata()

    def _make_metadata(self) -> None:
        shutil.rmtree(self.path / _PARTIAL, ignore_errors=True)
        for name in (_COMMITS, _SPILLS, _PARTIAL):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(self.path / STORE, mode="a", zarr_format=3)
        layout = self.layout
        for name, (channels, chunk, dtype) in layout.arrays().items():
            if name not in group:
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

    def committed(self) -> set[str]:
        """Names of the units that are done."""
        return {entry.name for entry in os.scandir(self.path / _COMMITS) if entry.name[0] != "."}

    def batch(self, array: str, batch: int, chunk: int, crops: np.ndarray) -> Content:
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
        parts = self._encoded(array, crops, [(a, a + layout.chunk) for a in firsts])
        if layout.sharded:
            missing = [None] * (layout.batch // layout.chunk - len(parts))
            parts = list(shards.packed([*parts, *missing]))
        path = self.path / STORE / array / "c" / str(batch) / str(chunk) / "0" / "0" / "0"
        return Content(batch_name(array, batch, chunk), path, parts)

    def fragments(
        self, array: str, source: Source, chunk: int, crops: np.ndarray, bounds: np.ndarray
    ) -> Content:
        """Encode what a strip contributes to windows that are finished later.

        Parameters
        ----------
        source
            Which strip, and which of its parts.
        chunk
            Number along c.
        crops
            (n, c, z, y, x) of the stored type.
        bounds : (pieces + 1,) int64
            Where among the crops those of another batch begin, and their end.
        """
        parts = self._encoded(array, crops, list(pairwise(bounds.tolist())))
        name = fragments_name(array, source, chunk)
        return Content(name, self.path / _SPILLS / name, list(shards.packed(parts)))

    def _encoded(self, array: str, crops: np.ndarray, spans: list[tuple[int, int]]) -> list[Any]:
        codec, content = self.layout.codec, self.layout.content(array)
        crops = np.ascontiguousarray(crops)
        return [codecs.encode(codec, crops[a:b], content) for a, b in spans]

    def read_fragments(
        self, array: str, source: Source, chunk: int, piece: tuple[int, int], out: np.ndarray
    ) -> None:
        """Decode the fragments of one batch.

        Parameters
        ----------
        source
            Which strip, and which of its parts.
        piece
            Which of its pieces, and how many there are.
        out
            (n, c, z, y, x), C-contiguous, of the stored type.
        """
        with open(self.path / _SPILLS / fragments_name(array, source, chunk), "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        encoded = shards.piece_of(content, *piece)
        codecs.decode(self.layout.codec, encoded, out)

    def commit(self, content: Content) -> None:
        """Write a unit's file and then its record, each whole and on disk, or not at all."""
        name, path, parts = content.name, content.path, content.parts
        # Not beside the path: what a killed run leaves would become part of the store.
        temporary = self.path / _PARTIAL / f"{name}.{os.getpid()}"
        size = sum(map(len, parts))
        with _room_for(path.parent, size):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_flushed(temporary, parts)
            os.replace(temporary, path)
            sync_folder(path.parent)
        checksum = 0
        for part in parts:
            checksum = google_crc32c.extend(checksum, bytes(part))
        self._record(name, {"crc32c": checksum, "bytes": size})

    def _record(self, name: str, record: dict[str, Any]) -> None:
        with _room_for(self.path / _COMMITS, _RECORD_BYTES):
            write_json(self.path / _COMMITS / name, record)

    def _sweep_metadata(self) -> None:
        """Remove what a killed run left of the metadata that Zarr was writing."""
        for pattern in ("*.partial", "*/*.partial"):
            for left in (self.path / STORE).glob(pattern):
                left.unlink()

    def digest(self) -> str:
        """Digest over the content of all chunks."""
        records = {}
        for name in sorted(self.committed()):
            if "fragments" not in name:
                with open(self.path / _COMMITS / name, encoding="utf-8") as handle:
                    records[name] = json.load(handle)
        return digest_of([asdict(self.layout), records])

    def finish(self, target: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Add what describes the crops, and rename the store onto its final place."""
        with _room_for(self.path, sum(values.nbytes for values in arrays.values())):
            group = zarr.open_group(self.path / STORE, mode="a")
            for name, values in arrays.items():
                chunks = tuple(max(n, 1) for n in values.shape)
                group.create_array(name, data=values, chunks=chunks, overwrite=True)
            group.attrs.update({**facts, "digest": self.digest()})
            self._sweep_metadata()
            replace_folder(self.path / STORE, target)
        shutil.rmtree(self.path)


def batch_name(array: str, batch: int, chunk: int) -> str:
    """Name of the commit record of one file of the store."""
    return f"{array}.{batch}.{chunk}"


def fragments_name(array: str, source: Source, chunk: int) -> str:
    """Name of the file, and of the commit record, of what one part of a strip contributes."""
    return f"{array}-fragments.{source[0]}.{source[1]}.{chunk}"


@contextmanager
def _room_for(folder: Path, size: int) -> Iterator[None]:
    """Tell a full disk, or another reason why nothing can be written, in one line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write {size:,} bytes ({error.strerror}); "
            "free that space and run again: what is committed stays"
        ) from error
