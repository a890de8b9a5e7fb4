"""The tasks of extraction: cut the windows of one strip, and join fragments of several strips."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harpy_core.extract.cutting import Copies, copies_of_runs, copies_of_windows
from harpy_core.extract.layout import CropLayout
from harpy_core.extract.store import (
    CropStore,
    EncodedFile,
    FragmentsOf,
    batch_name,
    fragments_name,
)
from harpy_core.extract.strips import COMMITS_IN_FLIGHT
from harpy_core.extract.windows import Strip
from harpy_core.kernels import engine as kernels_of
from harpy_core.kernels.blosc import Encoded, decodes
from harpy_core.running.tasks import LazyTask, Task
from harpy_core.tiles.scratch import scratch


@dataclass(frozen=True, slots=True)
class Cut:
    """The windows of a strip, as its task needs them.

    Attributes
    ----------
    strip
        Number of the strip.
    ids : (windows,) uint64
        Label of each window: first those of the strip's own batches in their order, then those of
        its parts.
    corner : (windows, 3) int64
        First z, y and x of each window.
    crops
        Store where files are committed.
    done
        Names of the files that are committed already.
    """

    strip: Strip
    ids: np.ndarray
    corner: np.ndarray
    crops: CropStore
    done: frozenset[str]

    def spans(self) -> list[WindowSpan]:
        """Spans that are committed for each chunk of channels, in the order of the windows."""
        first, last = self.strip.batches
        size = self.crops.layout.batch
        found = [WindowSpan(i * size, (i + 1) * size, first + i, None) for i in range(last - first)]
        done = len(self.strip.inside)
        for number, part in enumerate(self.strip.parts):
            after = done + len(part.instances)
            found.append(WindowSpan(done, after, number, part.bounds))
            done = after
        return found


@dataclass(frozen=True, slots=True)
class WindowSpan:
    """Windows that are committed together: a batch, or a part of a strip's fragments.

    Attributes
    ----------
    first, last
        Range of its windows among the strip's.
    number
        Number of the batch, or of the part.
    bounds
        Index of the first window of each batch in a part; None for a batch.
    """

    first: int
    last: int
    number: int
    bounds: np.ndarray | None

    def name(self, array: str, strip: int, chunk: int) -> str:
        """Name of its commit record."""
        if self.bounds is None:
            return batch_name(array, self.number, chunk)
        return fragments_name(array, (strip, self.number), chunk)


@dataclass(frozen=True, slots=True)
class StripTask:
    """Some channels of a strip: its tiles from top to bottom, and the windows they fill."""

    tiles: list[Task]
    cut: Cut

    @property
    def pixels(self) -> int:
        """Image pixels of all its tiles and channels."""
        return sum(tile.pixels for tile in self.tiles)

    def detached(self) -> StripTask:
        """Return the task with no more pixels than it needs."""
        return StripTask([tile.detached() for tile in self.tiles], self.cut)


@dataclass(frozen=True, slots=True)
class LazyStripTask:
    """A strip of Dask arrays, which is one tile, and the windows it fills."""

    tile: LazyTask
    cut: Cut

    @property
    def pixels(self) -> int:
        """Image pixels of the tile and all channels."""
        return self.tile.pixels

    @property
    def labels(self) -> Any:
        """The label block."""
        return self.tile.labels

    @property
    def image(self) -> list[Any]:
        """The image blocks."""
        return self.tile.image

    def without_blocks(self) -> LazyStripTask:
        """Return the task without its blocks."""
        return LazyStripTask(self.tile.without_blocks(), self.cut)

    def on_blocks(self, labels: Any, blocks: list[Any]) -> StripTask:
        """Return the task that reads its pixels from computed blocks."""
        return StripTask([self.tile.on_blocks(labels, blocks)], self.cut)


class _Spares(threading.local):
    """Buffers that a thread keeps: fresh ones cost a page fault for every 4 KiB."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def take(self, size: int) -> np.ndarray:
        """Return a buffer of at least `size` bytes, of any content."""
        self._free.sort(key=len)
        for place, buffer in enumerate(self._free):
            if len(buffer) >= size:
                return self._free.pop(place)
        # A smaller one is dropped for it, so that there are never more than were in use at once.
        if self._free:
            self._free.pop()
        return np.empty(size, np.uint8)

    def give(self, buffer: np.ndarray) -> None:
        """Keep a buffer for later."""
        self._free.append(buffer)


_spares = _Spares()


class _Commits:
    """Writer of files in a thread of its own, so that waiting for the disk delays no work."""

    def __init__(self, crops: CropStore) -> None:
        self._crops = crops
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> _Commits:
        return self

    def add(self, file: EncodedFile) -> None:
        """Commit a file after those before it; wait where the disk lags behind."""
        if len(self._waiting) >= COMMITS_IN_FLIGHT:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._crops.commit, file))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._waiting:
                future.result()


class _Targets:
    """Buffers of the open spans of a strip.

    A span gets a buffer when a tile first touches it; once the last tile it needs has passed, it is
    committed and the buffer used again.
    """

    def __init__(self, cut: Cut, array: str, chunk: int, commits: _Commits) -> None:
        layout = cut.crops.layout
        self._cut, self._array, self._chunk, self._commits = cut, array, chunk, commits
        self._window = (layout.arrays()[array][1], *layout.size)
        self._dtype = layout.gathered(array)
        self._open: dict[int, np.ndarray] = {}

    def buffer(self, place: int, span: WindowSpan) -> np.ndarray:
        """Pixels of a span's windows, (n, c, z, y, x), zero where nothing was copied yet."""
        size = (span.last - span.first) * math.prod(self._window) * self._dtype.itemsize
        if place not in self._open:
            self._open[place] = _spares.take(size)
            self._open[place][:size] = 0
        return self._open[place][:size].view(self._dtype).reshape(-1, *self._window)

    def commit(self, place: int, span: WindowSpan) -> None:
        """Write a span that no further tile contributes to."""
        store, strip = self._cut.crops, self._cut.strip
        crops = store.layout.stored(self._array, self.buffer(place, span))
        if span.bounds is None:
            file = store.batch(self._array, span.number, self._chunk, crops)
        else:
            source = strip.number, span.number
            file = store.fragments(self._array, source, self._chunk, crops, span.bounds)
        _spares.give(self._open.pop(place))
        self._commits.add(file)


def cut_strip(task: StripTask, engine: str, remove_background: bool) -> None:
    """Fill and commit the windows of one strip; labels are encoded once for all channels."""
    cut = task.cut
    layout = cut.crops.layout
    kernels = kernels_of(engine)
    spans = cut.spans()
    groups = groups_of(task.tiles[0].channels, layout)
    pending = {group: _pending(cut, spans, group) for group in groups}
    if not any(pending.values()):
        return
    of_instances = [_instance_copies(tile, cut, kernels) for tile in task.tiles]
    of_windows = (
        of_instances if remove_background else [_window_copies(tile, cut) for tile in task.tiles]
    )
    with _Commits(cut.crops) as commits:
        for group, places in pending.items():
            array, chunk, _ = group
            copies = of_instances if array == "mask" else of_windows
            targets = _Targets(cut, array, chunk, commits)
            _fill(
                task, group, [(place, spans[place]) for place in places], copies, targets, kernels
            )


def _fill(
    task: StripTask,
    group: Group,
    spans: list[tuple[int, WindowSpan]],
    copies: list[Copies],
    targets: _Targets,
    kernels: Any,
) -> None:
    """Copy the pixels of some channels tile by tile, and commit each span after its last tile."""
    layout = task.cut.crops.layout
    array, _, edges = group
    shares = [
        [(place, span, part) for place, span in spans if (part := _of_span(some, span)).size]
        for some in copies
    ]
    last = {place: number for number, some in enumerate(shares) for place, _, _ in some}
    for number, (tile, some) in enumerate(zip(task.tiles, shares, strict=True)):
        for channel, planes in _planes(tile, array, edges, decodes(kernels)) if some else ():
            for place, span, part in some:
                target = targets.buffer(place, span)
                window = (part.window - span.first) * target.shape[1] + channel
                where = window * layout.window + part.inside
                flat = target.reshape(-1)
                kernels.gather(planes, part.source, where, part.length, layout.window, flat)
        for place, span, _ in some:
            if last[place] == number:
                targets.commit(place, span)
    for place, span in spans:
        if place not in last:
            targets.commit(place, span)


Group = tuple[str, int, tuple[int, ...]]
"""An array, the number of a chunk of its channels, and the edges of the channels to read."""


def groups_of(channels: tuple[int, ...], layout: CropLayout) -> list[Group]:
    """Return the chunks along c that a task writes; the mask comes with the first channels."""
    groups: list[Group] = []
    for first in range(channels[0], channels[-1], layout.group):
        edges = tuple(e for e in channels if first <= e <= first + layout.group)
        groups.append(("image", first // layout.group, edges))
    if layout.mask and channels[0] == 0:
        groups.append(("mask", 0, (0, 1)))
    return groups


def _pending(cut: Cut, spans: list[WindowSpan], group: Group) -> list[int]:
    """Return the places of the spans that are not committed yet."""
    array, chunk, _ = group
    names = [span.name(array, cut.strip.number, chunk) for span in spans]
    return [place for place, name in enumerate(names) if name not in cut.done]


def _planes(
    tile: Task, array: str, channels: tuple[int, ...], encoded: bool
) -> Iterator[tuple[int, np.ndarray | Encoded]]:
    """Yield pixels to copy and their first channel in the chunk; the mask is cut from ones."""
    if array == "mask":
        z, y, x = tile.plane_shape()
        ones = scratch("ones", z * y * x, np.dtype(np.uint8))
        ones[...] = 1
        yield 0, ones[np.newaxis]
        return
    for part, planes in replace(tile, channels=channels).read_planes(encoded):
        yield part.start - channels[0], planes


def _instance_copies(tile: Task, cut: Cut, kernels: Any) -> Copies:
    runs, _ = tile.read_runs(kernels, tile.plane_shape())
    order = np.argsort(cut.ids)
    place = np.searchsorted(cut.ids[order], runs.ids)
    place[place == len(order)] = 0
    windows = order[place]
    windows[cut.ids[windows] != runs.ids] = -1
    return copies_of_runs(runs, windows, cut.corner, cut.crops.layout.size, tile.origin)


def _window_copies(tile: Task, cut: Cut) -> Copies:
    _, height, width = tile.plane_shape()
    return copies_of_windows(
        np.arange(len(cut.ids)),
        cut.corner,
        cut.crops.layout.size,
        tile.region,
        width,
        height * width,
    )


def _of_span(copies: Copies, span: WindowSpan) -> Copies:
    return copies.among(span.first, span.last)


@dataclass(frozen=True, slots=True)
class JoinTask:
    """A batch to be finished from the fragments of strips.

    Attributes
    ----------
    batch
        Number of the batch.
    pieces
        Origin of each piece, its number in the file, and the number of pieces there.
    slots
        Indices, for each piece, of the batch's crops that it holds a part of.
    crops, done
        See `Cut`.
    """

    batch: int
    pieces: list[tuple[FragmentsOf, tuple[int, int]]]
    slots: list[np.ndarray]
    crops: CropStore
    done: frozenset[str]


def join_fragments(task: JoinTask) -> None:
    """Assemble and commit one batch, one chunk of channels at a time."""
    store = task.crops
    layout = store.layout
    with _Commits(store) as commits:
        for array, (channels, group, dtype) in layout.arrays().items():
            window = (group, *layout.size)
            bits = np.dtype(f"u{dtype.itemsize}")
            crop = math.prod(window)
            for chunk in range(-(-channels // group)):
                if batch_name(array, task.batch, chunk) in task.done:
                    continue
                crops = scratch("joined", layout.batch * crop, bits).reshape(-1, *window)
                crops[...] = 0
                for (source, piece), slots in zip(task.pieces, task.slots, strict=True):
                    found = scratch("fragments", len(slots) * crop, bits).reshape(-1, *window)
                    store.read_fragments(array, source, chunk, piece, found)
                    # Every pixel comes from one strip, and all its bits are 0 in the others.
                    crops[slots] |= found
                commits.add(store.batch(array, task.batch, chunk, crops.view(dtype)))
