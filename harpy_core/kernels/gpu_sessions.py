"""What a thread keeps on a GPU: run tables in the layout of the kernels, planes, and buffers.

What is there already is not transferred again. Chunks that Blosc encoded with LZ4 are transferred
as they are stored, and decoded on the card; all others by the CPU.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from harpy_core.kernels.blosc import BITS_TOGETHER, Encoded, Streams, streams_of
from harpy_core.kernels.compiled import by_slot
from harpy_core.kernels.gpu_cards import BLOCK, Card, CupyCard, Mark
from harpy_core.kernels.gpu_types import word_type
from harpy_core.tiles.scratch import allocate_with, filling, scratch

WARP = 32
RUNS_PER_PART = 32
PIXELS_PER_PART = 8192
"""Pixels of a part, which has as many runs as a warp has lanes, or fewer if they are long: labels
as large as the tile are divided too."""

_ALIGNED = 16
"""Bytes of a load: every plane begins and ends on a multiple of it."""

PIECE = 2**23
PIECES_ON_THE_WAY = 2
"""Bytes and number of the pieces by which memory that is not pinned is transferred through memory
that is: one is read while another is in transit. Pieces of 1 MiB halve the rate of sixteen threads,
which then wait for each other in Python; larger ones do not help."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A run table in the kernels' layout: sorted by instance, and cut into parts.

    Attributes
    ----------
    start : (runs,) int64
    length : (runs,) int32
        The runs, those of an instance side by side.
    first : (parts + 1,) int32
        Index of each part's first run, and the end.
    slot : (parts,) int32
        Instance of each part.
    begin : (slots + 1,) int32
        Index of each instance's first part, and the end.
    """

    start: np.ndarray
    length: np.ndarray
    first: np.ndarray
    slot: np.ndarray
    begin: np.ndarray

    @classmethod
    def of(cls, start: np.ndarray, length: np.ndarray, slot: np.ndarray, slots: int) -> Parts:
        """Sort and cut a run table."""
        run, order = by_slot(slot, slots)
        runs = np.diff(run)
        pixels = np.bincount(slot, length, slots)
        each = np.clip(PIXELS_PER_PART * runs // np.maximum(pixels, 1), 1, RUNS_PER_PART)
        number = -(-runs // each.astype(np.int64))
        # Parts have equal numbers of runs, because the longest part ends last.
        each = -(-runs // np.maximum(number, 1))
        begin = np.concatenate([[0], np.cumsum(number)])
        whose = np.repeat(np.arange(slots), number)
        first = run[whose] + (np.arange(begin[-1]) - begin[whose]) * each[whose]
        return cls(
            start[order],
            length[order],
            np.append(first, len(start)).astype(np.int32),
            whose.astype(np.int32),
            begin.astype(np.int32),
        )


@dataclass(frozen=True, slots=True)
class Runs:
    """A run table on the card, and the arrays it was made from, which nobody writes to."""

    table: tuple[np.ndarray, np.ndarray, np.ndarray]
    parts: Parts
    buffers: tuple[Any, ...]

    def is_of(self, table: tuple[np.ndarray, np.ndarray, np.ndarray], slots: int) -> bool:
        """Whether it was made from these very arrays."""
        same = all(a is b for a, b in zip(self.table, table, strict=True))
        return same and len(self.parts.begin) == slots + 1


@dataclass(frozen=True, slots=True)
class Planes:
    """Planes on the card, `pitch` pixels from one to the next."""

    buffer: Any
    pitch: int
    key: tuple[Any, ...] | Encoded | None


class Piece:
    """Pinned memory through which pieces of other memory are transferred, one after the other."""

    def __init__(self, card: Card) -> None:
        self._card, self._host = card, card.pinned(PIECE)
        self._sent: Mark | None = None

    def send(self, piece: np.ndarray, buffer: Any, offset: int) -> None:
        """Copy a piece to the card, once the one before it has arrived."""
        if self._sent is not None:
            self._sent.synchronize()
        host = self._host[: len(piece)]
        host[...] = piece
        self._card.put(host, buffer, offset)
        self._sent = self._card.mark()


class Session:
    """Memory of one thread on the card: buffers that grow, and their contents."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._buffers: dict[str, Any] = {}
        self._runs: Runs | None = None
        self._planes: Planes | None = None
        self._pieces: list[Piece] = []

    def room(self, purpose: str, size: int) -> Any:
        """Return a buffer of at least `size` bytes; the content of its predecessor is lost."""
        buffer = self._buffers.get(purpose)
        if buffer is None or buffer.size < size:
            # Freed before the larger one is allocated: both may not fit.
            self._buffers.pop(purpose, None)
            del buffer
            buffer = self._buffers[purpose] = self.card.empty(max(size, _ALIGNED))
        return buffer

    def put(self, purpose: str, host: np.ndarray) -> Any:
        """Copy an array to the card."""
        buffer = self.room(purpose, host.nbytes)
        if filling(host) is not None:
            # A buffer of this thread is pinned.
            self.card.put(host, buffer)
        else:
            self._send(host.reshape(-1).view(np.uint8), buffer)
        return buffer

    def runs(self, start: np.ndarray, length: np.ndarray, slot: np.ndarray, slots: int) -> Runs:
        """Return the run table on the card; the same arrays, for the next channels, stay there."""
        table = (start, length, slot)
        held = self._runs
        if held is None or not held.is_of(table, slots):
            parts = Parts.of(start, length, slot, slots)
            names = ("start", "length", "first", "slot", "begin")
            self._runs = None
            buffers = tuple(self.put(name, getattr(parts, name)) for name in names)
            held = self._runs = Runs(table, parts, buffers)
        return held

    def planes(self, planes: np.ndarray | Encoded) -> Planes:
        """Return the planes on the card, each aligned to a load; a filling is not sent twice.

        Encoded ones are decoded there, or by the CPU if that is impossible or fails: the CPU
        reports what is wrong with a chunk.
        """
        if isinstance(planes, Encoded):
            held = self._planes
            if held is not None and held.key is planes:
                return held
            return self._decoded(planes) or self.planes(planes.pixels)
        filled = filling(planes)
        key = None if filled is None else (filled, planes.ctypes.data, planes.shape, planes.dtype)
        held = self._planes
        if held is None or key is None or held.key != key:
            pitch = -(-planes[0].nbytes // _ALIGNED) * _ALIGNED
            self._planes = None
            buffer = self.room("planes", pitch * len(planes))
            for c, plane in enumerate(np.ascontiguousarray(planes)):
                self.card.put(plane, buffer, c * pitch)
            held = self._planes = Planes(buffer, pitch // planes.itemsize, key)
        return held

    def _decoded(self, chunk: Encoded) -> Planes | None:
        """Decode the planes of a chunk on the card; None if it cannot."""
        streams = streams_of(chunk.content, chunk.size)
        if streams is None or chunk.shape[1] * chunk.dtype.itemsize % _ALIGNED:
            return None
        self._planes = None
        spoiled = scratch("spoiled", 1, np.dtype(np.int32))
        spoiled[0] = 0
        flag, table = self.put("spoiled", spoiled), self.put("streams", streams.table)
        encoded = self.put("encoded", chunk.content)
        planes = self.room("planes", chunk.size)
        unpacked = self.room("unpacked", chunk.size) if streams.shuffle else planes
        number = len(streams.table)
        grid = (blocks(number * WARP), 1)
        self.card.launch("unpack", grid, encoded, table, np.int32(number), unpacked, flag)
        self._restore(streams, chunk.size, unpacked, planes)
        self.card.get(flag, spoiled)
        self.card.wait()
        if spoiled[0]:
            return None
        self._planes = Planes(planes, chunk.shape[1], chunk)
        return self._planes

    def _send(self, content: np.ndarray, buffer: Any) -> None:
        """Copy memory that is not pinned to the card."""
        if not self._pieces:
            self._pieces = [Piece(self.card) for _ in range(PIECES_ON_THE_WAY)]
        starts = range(0, len(content), PIECE)
        for piece, first in zip(cycle(self._pieces), starts, strict=False):
            piece.send(content[first : first + PIECE], buffer, first)

    def _restore(self, streams: Streams, size: int, unpacked: Any, planes: Any) -> None:
        """Undo the shuffling of every block."""
        if not streams.shuffle:
            return
        items = size // streams.item
        threads = items // BITS_TOGETHER if streams.shuffle == "bits" else items
        word = word_type(np.dtype(f"u{streams.item}"))
        self.card.launch(
            f"restore_{streams.shuffle}<{word}>",
            (blocks(threads), 1),
            unpacked,
            np.int64(items),
            np.int64(streams.block // streams.item),
            planes,
        )

    def words(self, buffer: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Return words from the card, once everything is done."""
        host = scratch("words", int(np.prod(shape)), np.dtype(np.uint64))
        self.card.get(buffer, host)
        self.card.wait()
        return host.reshape(shape).copy()


_local = threading.local()
_new_card = CupyCard


def session_of_thread() -> Session:
    """Return this thread's session, begun at its first use of the card."""
    if not hasattr(_local, "session"):
        card = _new_card()
        allocate_with(card.pinned)
        _local.session = Session(card)
    session: Session = _local.session
    return session


def blocks(threads: int) -> int:
    """Return the number of blocks that have so many threads."""
    return -(-threads // BLOCK)
