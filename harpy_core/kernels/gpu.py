"""The kernels on an NVIDIA GPU through CuPy: the functions of `reference`, host arrays in and out.

The kernels themselves are in `gpu.cu`; `gpu_cards` compiles and runs them. Each thread has its own
stream and buffers, in `gpu_sessions`, so that one thread reads while the card copies and computes
for another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harpy_core.kernels import layout
from harpy_core.kernels.blosc import Encoded
from harpy_core.kernels.compiled import LabelIndex, by_slot, collect, geometry, number
from harpy_core.kernels.gpu_cards import room, trouble, visible
from harpy_core.kernels.gpu_sessions import WARP, Planes, Runs, Session, blocks, session_of_thread
from harpy_core.kernels.gpu_types import label_type, powers_type, sums_type, word_type
from harpy_core.kernels.layout import LONGEST_RUN, Loop, family_of
from harpy_core.kernels.reference import cut
from harpy_core.tiles.scratch import scratch

__all__ = [
    "LabelIndex",
    "by_slot",
    "collect",
    "encode",
    "gather",
    "geometry",
    "powers",
    "reduce",
    "room",
    "trouble",
    "visible",
]

DECODES = True
"""Whether encoded chunks are taken in place of planes."""

LANES_PER_STRETCH = 16
CHANNELS = {"sum": 4, "extremes": 2, "full": 2, "powers": 2}
"""Channels that a warp sums at a time, by what it sums; as in `gpu.cu`."""


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
    grid = (blocks(rows * WARP), 1)
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
        (blocks(parts * WARP), -(-channels // work.channels)),
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
        (blocks(slots * channels), 1),
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
        (blocks(len(source) * LANES_PER_STRETCH), 1),
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
