"""The tasks of extraction: cut the windows of one strip, and join fragments of several strips."""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from harpy_core.extract.cutting import Copies
from harpy_core.extract.layout import CropLayout
from harpy_core.extract.measured import Measurements
from harpy_core.extract.store import CropStore, EncodedFile, FragmentsOf, Gathered
from harpy_core.extract.stretches import Group, Layer, Stretches, layers_of
from harpy_core.extract.strip_tasks import Cut, StripTask, WindowSpan
from harpy_core.extract.strips import COMMITS_IN_FLIGHT
from harpy_core.kernels import engine as kernels_of
from harpy_core.kernels.blosc import decodes
from harpy_core.tiles.scratch import scratch


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

    def __init__(self, cut: Cut, kind: str, chunk: int, commits: _Commits) -> None:
        layout = cut.crops.layout
        self._cut, self._kind, self._chunk, self._commits = cut, kind, chunk, commits
        self._window = (layout.arrays()[kind][1], *layout.size)
        self._dtype = layout.gathered(kind)
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
        found = self.buffer(place, span)
        if self._kind == "mask" and found.shape[1] == 2:
            # So far, the number of instances that have a pixel.
            found[:, 1] = found[:, 1] > found[:, 0]
        if span.bounds is None:
            mine = slice(span.first, span.last)
            windows = Gathered(found, self._cut.corner[mine], self._cut.angle[mine])
            file = self._kind, span.number, self._chunk
            for view in store.pending(*file, self._cut.done):
                self._commits.add(store.batch(view, *file, windows))
        else:
            source = strip.number, span.number
            fragments = store.fragments(self._kind, source, self._chunk, found, span.bounds)
            self._commits.add(fragments)
        _spares.give(self._open.pop(place))


def cut_strip(
    task: StripTask, engine: str, remove_background: bool, beside: Measurements | None = None
) -> None:
    """Fill and commit the windows of one strip; labels are encoded once for all channels.

    Parameters
    ----------
    beside
        What is measured of the image's planes as they are read.
    """
    cut = task.cut
    layout = cut.crops.layout
    kernels = kernels_of(engine)
    spans = cut.spans()
    groups = groups_of(task.tiles[0].channels, layout)
    pending = {group: _pending(cut, spans, group) for group in groups}
    if not any(pending.values()) and beside is None:
        return
    stretches = Stretches.of(task, kernels, remove_background)
    with _Commits(cut.crops) as commits:
        for group, places in pending.items():
            kind, chunk, _ = group
            targets = _Targets(cut, kind, chunk, commits)
            layers = layers_of(group, stretches, decodes(kernels), beside)
            _fill(task, layers, [(place, spans[place]) for place in places], targets, kernels)


def _fill(
    task: StripTask,
    layers: list[Layer],
    spans: list[tuple[int, WindowSpan]],
    targets: _Targets,
    kernels: Any,
) -> None:
    """Copy the pixels of some channels tile by tile, and commit each span after its last tile."""
    layout = task.cut.crops.layout
    last: dict[int, int] = {}
    shares: list[list[list[tuple[int, WindowSpan, Copies]]]] = []
    for number in range(len(task.tiles)):
        copies = [layer.copies[number] for layer in layers]
        found = [[(p, s, some.among(s.first, s.last)) for p, s in spans] for some in copies]
        shares.append([[share for share in some if share[2].size] for some in found])
        last.update((place, number) for some in shares[-1] for place, _, _ in some)
    for number, tile in enumerate(task.tiles):
        for layer, some in zip(layers, shares[number], strict=True):
            read = layer.planes(number, tile) if some or layer.wanted(number) else ()
            for channel, planes in read:
                for place, span, part in some:
                    target = targets.buffer(place, span)
                    window = (part.window - span.first) * target.shape[1] + channel
                    where = window * layout.window + part.inside
                    flat = target.reshape(-1)
                    kernels.gather(planes, part.source, where, part.length, layout.window, flat)
        for place, span in spans:
            if last.get(place) == number:
                targets.commit(place, span)
    for place, span in spans:
        if place not in last:
            targets.commit(place, span)


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
    kind, chunk, _ = group
    return [place for place, span in enumerate(spans) if span.pending(kind, cut, chunk)]


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
    corner : (members, 3) int64
        First z, y and x of each of its windows in the image.
    angle : (members,) float64
        Angle by which each is turned.
    crops, done
        See `Cut`.
    """

    batch: int
    pieces: list[tuple[FragmentsOf, tuple[int, int]]]
    slots: list[np.ndarray]
    corner: np.ndarray
    angle: np.ndarray
    crops: CropStore
    done: frozenset[str]


def join_fragments(task: JoinTask) -> None:
    """Assemble and commit one batch, one chunk of channels at a time."""
    store = task.crops
    layout = store.layout
    with _Commits(store) as commits:
        for kind, (channels, group, _) in layout.arrays().items():
            window = (group, *layout.size)
            dtype = layout.gathered(kind)
            bits = np.dtype(f"u{dtype.itemsize}")
            crop = math.prod(window)
            for chunk in range(-(-channels // group)):
                views = store.pending(kind, task.batch, chunk, task.done)
                if not views:
                    continue
                crops = scratch("joined", layout.batch * crop, bits).reshape(-1, *window)
                crops[...] = 0
                for (source, piece), slots in zip(task.pieces, task.slots, strict=True):
                    found = scratch("fragments", len(slots) * crop, bits).reshape(-1, *window)
                    store.read_fragments(kind, source, chunk, piece, found)
                    # Every pixel comes from one strip, and all its bits are 0 in the others.
                    crops[slots] |= found
                whole = Gathered(crops.view(dtype), task.corner, task.angle)
                for view in views:
                    commits.add(store.batch(view, kind, task.batch, chunk, whole))
