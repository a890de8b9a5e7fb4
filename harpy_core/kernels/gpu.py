"""The kernels on an NVIDIA GPU through CuPy: the functions of `reference`, host arrays in and out.

The kernels themselves are in `gpu.cu`. This module compiles them for types of pixels, lays out run
tables for them, and decides what is transferred and what stays on the card. Each thread has its own
stream and buffers, so that one thread reads while the card copies and computes for another. Chunks
that Blosc encoded with LZ4 are transferred as they are stored, and decoded on the card; all others
by the CPU. CuPy is not imported before a card is used.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harpy_core.errors import InputError
from harpy_core.kernels import layout
from harpy_core.kernels.blosc import BITS_TOGETHER, Encoded, Streams, streams_of
from harpy_core.kernels.compiled import (
    LabelIndex,
    by_slot,
    collect,
    geometry,
    number,
)
from harpy_core.kernels.layout import LONGEST_RUN, LOOPS, Loop, family_of
from harpy_core.kernels.reference import cut
from harpy_core.tiles.scratch import allocate_with, filling, scratch

__all__ = [
    "LabelIndex",
    "by_slot",
    "collect",
    "encode",
    "gather",
    "geometry",
    "powers",
    "reduce",
    "trouble",
]

DECODES = True
"""Whether encoded chunks are taken in place of planes."""

SOURCE = Path(__file__).with_name("gpu.cu")
OPTIONS = ("--std=c++17",)

BLOCK = 128
"""Threads of a block, as `gpu.cu` declares it."""

WARP = 32
RUNS_PER_PART = 32
PIXELS_PER_PART = 8192
"""Pixels of a part, which has as many runs as a warp has lanes, or fewer if they are long: labels
as large as the tile are divided too."""

LANES_PER_STRETCH = 16
CHANNELS = {"sum": 4, "extremes": 2, "full": 2, "powers": 2}
"""Channels that a warp sums at a time, by what it sums; as in `gpu.cu`."""

_ALIGNED = 16
"""Bytes of a load: every plane begins and ends on a multiple of it."""

PIECE = 2**23
PIECES_ON_THE_WAY = 2
"""Bytes and number of the pieces by which memory that is not pinned is transferred through memory
that is: one is read while another is in transit. Pieces of 1 MiB halve the rate of sixteen threads,
which then wait for each other in Python; larger ones do not help."""

_C_TYPES = {
    "u1": "unsigned char",
    "i1": "signed char",
    "u2": "unsigned short",
    "i2": "short",
    "u4": "unsigned int",
    "i4": "int",
    "u8": "unsigned long long",
    "i8": "long long",
    "f4": "float",
    "f8": "double",
}


@functools.cache
def trouble() -> str | None:
    """Reason why this process can use no GPU, and the remedy; None if it can use one."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return (
                "CuPy is not installed; install harpy-core[cuda13], or [cuda12] for an older "
                "driver, or choose the engine numba"
            )
        return _unusable("CuPy does not load", error)
    except Exception as error:
        return _unusable("CuPy does not load", error)
    try:
        # No context is made: a process that only asks takes no memory of the card.
        if cupy.cuda.runtime.getDeviceCount() < 1:
            return "no NVIDIA GPU is to be seen; choose the engine numba"
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        return _unusable("no NVIDIA GPU works", error)
    return None


def _unusable(what: str, error: Exception) -> str:
    return f"{what} ({_one_line(error)}); look at nvidia-smi, or choose the engine numba"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def visible() -> list[str]:
    """GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    if trouble() is not None:
        return []
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [name.strip() for name in named][:count] if all(named) else [*map(str, range(count))]


def room() -> int:
    """Free bytes on this process's GPU."""
    import cupy

    return int(cupy.cuda.runtime.memGetInfo()[0])


class Mark(Protocol):
    """A point in the order of a card's calls."""

    def synchronize(self) -> None:
        """Return when everything before the mark is done."""


class Card(Protocol):
    """A GPU as one thread uses it: everything is done in the order of the calls."""

    def empty(self, size: int) -> Any:
        """Return a buffer of `size` bytes on the card."""

    def pinned(self, size: int) -> np.ndarray:
        """Return `size` bytes of host memory, as uint8, that the card reads and writes fast."""

    def put(self, host: np.ndarray, buffer: Any, offset: int = 0) -> None:
        """Copy to the card, `offset` bytes into a buffer."""

    def get(self, buffer: Any, host: np.ndarray) -> None:
        """Copy from the card; the pixels are there after `wait`."""

    def launch(self, kernel: str, grid: tuple[int, int], *arguments: Any) -> None:
        """Run a kernel by its name in C++, with buffers and NumPy scalars."""

    def mark(self) -> Mark:
        """Mark the present point in the order of calls."""

    def wait(self) -> None:
        """Return when all calls are done."""


class CupyCard:
    """The current GPU of this process, on a stream of its own."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._stream = cupy.cuda.Stream(non_blocking=True)

    def empty(self, size: int) -> Any:
        """Allocate by the driver; the memory is freed as soon as it is dropped: no pool grows."""
        cupy = self._cupy
        try:
            memory = cupy.cuda.Memory(size)
        except self._runtime.CUDARuntimeError as error:
            raise InputError(
                f"the GPU has no room for {size:,} bytes more ({_one_line(error)}); lower "
                "cluster.threads_per_worker, or choose the engine numba"
            ) from error
        return cupy.ndarray((size,), np.uint8, cupy.cuda.MemoryPointer(memory, 0))

    def pinned(self, size: int) -> np.ndarray:
        pinned = self._cupy.cuda.PinnedMemory(max(size, 1))
        return np.frombuffer(self._cupy.cuda.PinnedMemoryPointer(pinned, 0), np.uint8, size)

    def put(self, host: np.ndarray, buffer: Any, offset: int = 0) -> None:
        self._copy(buffer.data.ptr + offset, host.ctypes.data, host.nbytes, "HostToDevice")

    def get(self, buffer: Any, host: np.ndarray) -> None:
        self._copy(host.ctypes.data, buffer.data.ptr, host.nbytes, "DeviceToHost")

    def _copy(self, target: int, source: int, size: int, way: str) -> None:
        kind = getattr(self._runtime, f"memcpy{way}")
        self._runtime.memcpyAsync(target, source, size, kind, self._stream.ptr)

    def launch(self, kernel: str, grid: tuple[int, int], *arguments: Any) -> None:
        with self._stream:
            _compiled(kernel)(grid, (BLOCK,), arguments)

    def mark(self) -> Mark:
        mark: Mark = self._stream.record(self._cupy.cuda.Event(disable_timing=True))
        return mark

    def wait(self) -> None:
        self._stream.synchronize()


_compiling = threading.Lock()
_kernels: dict[str, Any] = {}


def _compiled(kernel: str) -> Any:
    """Compile a kernel for this process's GPU, once; CuPy keeps it on disk."""
    with _compiling:
        if kernel not in _kernels:
            import cupy

            module = cupy.RawModule(
                code=SOURCE.read_text(encoding="utf-8"),
                options=OPTIONS,
                name_expressions=(kernel,),
            )
            _kernels[kernel] = module.get_function(kernel)
        return _kernels[kernel]


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
        grid = (_blocks(number * WARP), 1)
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
        word = _C_TYPES[f"u{streams.item}"]
        self.card.launch(
            f"restore_{streams.shuffle}<{word}>",
            (_blocks(threads), 1),
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


def _blocks(threads: int) -> int:
    return -(-threads // BLOCK)


def encode(
    labels: np.ndarray, row_stride: int, plane_stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the runs of a label tile; see `reference.encode`.

    The card looks at the pixels; the runs, a twentieth as many, are numbered here.
    """
    depth, height, width = labels.shape
    rows = depth * height
    if labels.size == 0:
        return _numbered(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))
    session = session_of_thread()
    card = session.card
    kind = label_type(labels.dtype)
    grid = (_blocks(rows * WARP), 1)
    shape = (np.int32(rows), np.int32(width))
    pixels = session.put("labels", np.ascontiguousarray(labels))
    room = session.room("count", 4 * rows)
    count = scratch("count", rows, np.dtype(np.int32))
    card.launch(f"count_runs<{kind}>", grid, pixels, *shape, room)
    card.get(room, count)
    card.wait()
    offset = np.zeros(rows + 1, np.int64)
    np.cumsum(count, out=offset[1:])
    runs = int(offset[-1])
    found = [session.room(name, 8 * runs) for name in ("found", "stops", "values")]
    card.launch(
        f"find_runs<{kind}>",
        grid,
        pixels,
        *shape,
        np.int32(height),
        np.int64(row_stride),
        np.int64(plane_stride),
        session.put("offset", offset),
        *found,
    )
    start, stop, value = scratch("found", 3 * runs, np.dtype(np.int64)).reshape(3, runs)
    for buffer, host in zip(found, (start, stop, value), strict=True):
        card.get(buffer, host)
    card.wait()
    return _numbered(start.copy(), stop - start, value.view(np.uint64))


def _numbered(
    start: np.ndarray, length: np.ndarray, value: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Make the run table of stretches and their labels."""
    if len(length) and length.max() > LONGEST_RUN:
        whose, start, length = cut(start, length)
        value = value[whose]
    slot, ids = number(value)
    return start, length.astype(np.int32), slot, ids


def reduce(
    planes: np.ndarray | Encoded,
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    slots: int,
    loop: Loop,
    ignore_nan: bool,
) -> np.ndarray:
    """Sums and extremes of the pixels of each slot; see `reference.reduce`."""
    if len(start) == 0:
        return layout.of_no_pixel(family_of(planes.dtype), loop, (slots, len(planes)))
    work = Work.of(planes.dtype, loop, ignore_nan)
    return _summed(work, planes, (start, length, slot), slots)


def powers(
    planes: np.ndarray | Encoded,
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    pivot: np.ndarray,
    ignore_nan: bool,
) -> np.ndarray:
    """Sums of the first four powers about a pivot; see `reference.powers`.

    The order of the sums is fixed: first along a lane's pixels, then over the lanes of a warp, then
    over an instance's parts.
    """
    if len(start) == 0:
        return np.zeros((*pivot.shape, 4))
    work = Work(powers_type(planes.dtype, ignore_nan), CHANNELS["powers"], 4, pivot)
    return _summed(work, planes, (start, length, slot), len(pivot)).view(np.float64)


@dataclass(frozen=True, slots=True)
class Work:
    """Sums over the pixels.

    Attributes
    ----------
    sums
        Name of the type in `gpu.cu`.
    channels
        Number of channels that a warp sums at a time.
    words
        Number of words that it writes for an instance and channel.
    pivot : (slots, c)
        Pivots of the distances, for sums of powers.
    """

    sums: str
    channels: int
    words: int
    pivot: np.ndarray | None

    @classmethod
    def of(cls, dtype: np.dtype, loop: Loop, ignore_nan: bool = False) -> Work:
        """Return the sums of a loop of `layout.LOOPS`."""
        words = layout.words_of(family_of(dtype), loop)
        return cls(sums_type(dtype, loop, ignore_nan), CHANNELS[loop], words, None)


def _summed(
    work: Work,
    planes: np.ndarray | Encoded,
    table: tuple[np.ndarray, np.ndarray, np.ndarray],
    slots: int,
) -> np.ndarray:
    """Sum planes by slot: (slots, c, words) uint64."""
    shape = (slots, len(planes), work.words)
    if 0 in shape:
        return np.zeros(shape, np.uint64)
    session = session_of_thread()
    runs = session.runs(*table, slots)
    there = session.planes(planes)
    pivot = (
        session.put("pivot", np.ascontiguousarray(work.pivot)) if work.pivot is not None else None
    )
    return session.words(launch_sums(session, work, there, len(planes), runs, pivot), shape)


def launch_sums(
    session: Session, work: Work, planes: Planes, channels: int, runs: Runs, pivot: Any
) -> Any:
    """Sum planes that are on the card already; return the buffer of the words."""
    start, length, first, slot, begin = runs.buffers
    parts, slots = len(runs.parts.slot), len(runs.parts.begin) - 1
    size = 8 * work.words * channels
    partial, out = session.room("partial", size * parts), session.room("sums", size * slots)
    session.card.launch(
        f"reduce<{work.sums}>",
        (_blocks(parts * WARP), -(-channels // work.channels)),
        planes.buffer,
        np.int64(planes.pitch),
        np.int32(channels),
        start,
        length,
        first,
        slot,
        np.int32(parts),
        # Ignored by sums without a pivot.
        start if pivot is None else pivot,
        partial,
    )
    session.card.launch(
        f"merge_parts<{work.sums}>",
        (_blocks(slots * channels), 1),
        partial,
        begin,
        np.int32(slots),
        np.int32(channels),
        out,
    )
    return out


def gather(
    planes: np.ndarray | Encoded,
    source: np.ndarray,
    target: np.ndarray,
    length: np.ndarray,
    channel_stride: int,
    out: np.ndarray,
) -> None:
    """Copy stretches of pixels into windows; see `reference.gather`.

    Pixels outside the stretches keep their values: the windows travel both ways.
    """
    if len(source) == 0 or len(planes) == 0:
        return
    first = int(target.min())
    last = int((target + length).max()) + (len(planes) - 1) * channel_stride
    session = session_of_thread()
    card = session.card
    there = session.planes(planes)
    windows = session.put("windows", out[first:last])
    columns = {"source": source, "target": target - first, "copied": length}
    sent = [
        session.put(name, np.ascontiguousarray(column, np.int64))
        for name, column in columns.items()
    ]
    card.launch(
        f"gather<{word_type(planes.dtype)}>",
        (_blocks(len(source) * LANES_PER_STRETCH), 1),
        there.buffer,
        np.int64(there.pitch),
        np.int32(len(planes)),
        *sent,
        np.int64(len(source)),
        np.int64(channel_stride),
        windows,
    )
    card.get(windows, out[first:last])
    card.wait()


def sums_type(dtype: np.dtype, loop: str, ignore_nan: bool) -> str:
    """Name of the type in `gpu.cu` in which a loop over pixels of a NumPy type sums."""
    family = family_of(dtype)
    skip = f", {'true' if ignore_nan else 'false'}" if family == "real" else ""
    return f"{family.capitalize()}{loop.capitalize()}<{_C_TYPES[_code(dtype)]}{skip}>"


def powers_type(dtype: np.dtype, ignore_nan: bool) -> str:
    """Name of the type in `gpu.cu` that sums powers about a pivot."""
    return sums_type(dtype, "powers", ignore_nan)


def word_type(dtype: np.dtype) -> str:
    """Name of the type that copies items of as many bytes."""
    return _C_TYPES[f"u{dtype.itemsize}"]


label_type = word_type
"""Name of the type that reads labels: never negative, signed ones are read as unsigned."""


def _code(dtype: np.dtype) -> str:
    return f"{dtype.kind}{dtype.itemsize}"


def every_kernel() -> Iterator[str]:
    """Yield the C++ name of every kernel."""
    for size in (1, 2, 4, 8):
        word = word_type(np.dtype(f"u{size}"))
        yield from (f"{kernel}<{word}>" for kernel in ("gather", "count_runs", "find_runs"))
        yield from (f"restore_bits<{word}>", f"restore_bytes<{word}>")
    yield "unpack"
    for dtype in map(np.dtype, _C_TYPES):
        for ignore_nan in (False, True)[: 1 + (dtype.kind == "f")]:
            sums = [sums_type(dtype, loop, ignore_nan) for loop in LOOPS[family_of(dtype)]]
            if family_of(dtype) != "narrow":
                sums.append(powers_type(dtype, ignore_nan))
            for name in sums:
                yield from (f"reduce<{name}>", f"merge_parts<{name}>")
