"""The crops on disk: a working folder with a commit record for each unit, and the finished store.

A unit (one chunk of the store, or the fragments of one strip) is written to a temporary file,
flushed to disk and renamed; then its record is written in the same way. A run that died goes on
from the records. The folder is named after inputs and parameters, so that no other run's units can
be taken for its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec

from harpy_core.errors import InputError
from harpy_core.manifest import digest_of, replace_folder, sync_folder, write_json

STORE = "store"
_COMMITS = "commits"
_SPILLS = "spills"
_PARTIAL = "partial"
_LEVEL = 5
_RECORD_BYTES = 4096
"""A commit record is a small file: a block of the disk."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape of the stored crops.

    Attributes
    ----------
    instances, channels, depth, diameter
        Crops, and channels, z and pixels on a side of each.
    batch_size, group
        Crops and channels of one chunk.
    dtype
        NumPy name of the pixel type.
    mask
        Whether each crop has a mask.
    """

    instances: int
    channels: int
    depth: int
    diameter: int
    batch_size: int
    group: int
    dtype: str
    mask: bool

    @property
    def window(self) -> int:
        """Pixels of one channel of one crop."""
        return self.depth * self.diameter * self.diameter

    def arrays(self) -> dict[str, tuple[int, int, np.dtype]]:
        """Channels, channels in a chunk and type of each array of crops, by name."""
        found = {"image": (self.channels, self.group, np.dtype(self.dtype))}
        if self.mask:
            found["mask"] = (1, 1, np.dtype(np.uint8))
        return found


def _shuffle(dtype: np.dtype) -> Literal["bitshuffle", "noshuffle"]:
    return "bitshuffle" if dtype.itemsize > 1 else "noshuffle"


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
                    chunks=(layout.batch_size, chunk, *window),
                    dtype=dtype,
                    compressors=BloscCodec(
                        cname="lz4",
                        clevel=_LEVEL,
                        shuffle=_shuffle(dtype),
                        typesize=dtype.itemsize,
                    ),
                    dimension_names=("i", "c", "z", "y", "x"),
                )

    def committed(self) -> set[str]:
        """Names of the units that are done."""
        return {entry.name for entry in os.scandir(self.path / _COMMITS) if entry.name[0] != "."}

    def write_chunk(self, array: str, batch: int, chunk: int, crops: np.ndarray) -> None:
        """Encode and commit one chunk of an array.

        Parameters
        ----------
        crops
            (batch_size, c, z, y, x), full: crops and channels beyond the edge are zero.
        """
        codec = Blosc("lz4", _LEVEL, getattr(Blosc, _shuffle(crops.dtype).upper()))
        content = codec.encode(np.ascontiguousarray(crops).reshape(-1))
        name = unit(array, batch, chunk)
        path = self.path / STORE / array / "c" / str(batch) / str(chunk) / "0" / "0" / "0"
        self._write_durably(name, path, content)
        self._commit(name, content)

    def write_fragments(self, array: str, strip: int, chunk: int, crops: np.ndarray) -> None:
        """Commit what a strip contributes to windows that are finished later."""
        content = np.ascontiguousarray(crops).reshape(-1).view(np.uint8).data
        name = unit(f"{array}-fragments", strip, chunk)
        self._write_durably(name, self._fragments(array, strip, chunk), content)
        self._commit(name, content)

    def read_fragments(
        self, array: str, strip: int, chunk: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> np.ndarray:
        """Map what `write_fragments` wrote."""
        path = self._fragments(array, strip, chunk)
        return np.memmap(path, dtype, mode="r", shape=shape)

    def _fragments(self, array: str, strip: int, chunk: int) -> Path:
        return self.path / _SPILLS / f"{array}.{strip}.{chunk}"

    def _write_durably(self, name: str, path: Path, content: Any) -> None:
        """The whole content under its path, on disk, or nothing there."""
        # Not beside the path: what a killed run leaves would become part of the store.
        temporary = self.path / _PARTIAL / f"{name}.{os.getpid()}"
        with _room_for(path.parent, len(content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)

    def _commit(self, name: str, content: Any) -> None:
        record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
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
                    records[name] = json.load(handle)["sha256"]
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


def unit(array: str, batch: int, chunk: int) -> str:
    """Name of a unit's commit record."""
    return f"{array}.{batch}.{chunk}"


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


@contextmanager
def sole_writer(target: Path) -> Iterator[None]:
    """Refuse a second run on the same result while the first is at work.

    Raises
    ------
    InputError
        Another process writes there; the message says which.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    with lock.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise InputError(
                f"{target}: {holder} is writing it; wait for it or choose another path"
            ) from None
        if not lock.exists() or os.fstat(handle.fileno()).st_ino != lock.stat().st_ino:
            raise InputError(f"{target}: another process has just written it; run again")
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
