"""The tasks of extraction: cut the windows of one strip, and join what several strips left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harpy_core.cropping.cutting import Copies, copies_of_runs, copies_of_windows
from harpy_core.cropping.store import Layout, WorkFolder, unit
from harpy_core.cropping.windows import Strip
from harpy_core.kernels import engine as kernels_of
from harpy_core.raster.reading import delivered
from harpy_core.raster.scratch import scratch
from harpy_core.runs import encode_runs
from harpy_core.tiles import LazyTask, Task


@dataclass(frozen=True, slots=True)
class Cut:
    """What a strip's task needs to know of its windows.

    Attributes
    ----------
    strip
        Which strip.
    ids : (windows,) uint64
        Label of each window: first those of the strip's own batches in their order, then those it
        contributes fragments to.
    corner : (windows, 2) int64
        First y and x of each window.
    work
        Where units are committed.
    done
        Units that are committed already.
    """

    strip: Strip
    ids: np.ndarray
    corner: np.ndarray
    work: WorkFolder
    done: frozenset[str]

    @property
    def inside(self) -> int:
        """How many windows belong to the strip's own batches."""
        return len(self.strip.inside)


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
        """The task with no more pixels than it needs."""
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
        """The task alone."""
        return LazyStripTask(self.tile.without_blocks(), self.cut)

    def on_blocks(self, labels: Any, blocks: list[Any]) -> StripTask:
        """The task that reads its pixels from computed blocks."""
        return StripTask([self.tile.on_blocks(labels, blocks)], self.cut)


class _Targets:
    """Buffers of the batches of a strip that are open, and of its fragments.

    A batch is given a buffer when a tile first touches it, and is committed and its buffer used
    again once the last tile it needs has passed.
    """

    def __init__(self, cut: Cut, array: str, chunk: int, channels: int, dtype: np.dtype) -> None:
        layout = cut.work.layout
        self._cut, self._array, self._chunk = cut, array, chunk
        self._shape = (channels, layout.depth, layout.diameter, layout.diameter)
        self._dtype = dtype
        self._open: dict[int, np.ndarray] = {}
        self._spare: list[np.ndarray] = []

    def buffer(self, batch: int) -> np.ndarray:
        """The windows of one of the strip's batches; -1 for the fragments."""
        if batch not in self._open:
            size = self._cut.work.layout.batch_size
            if batch < 0:
                fresh = np.zeros((len(self._cut.ids) - self._cut.inside, *self._shape), self._dtype)
            elif self._spare:
                fresh = self._spare.pop()
                fresh[...] = 0
            else:
                fresh = np.zeros((size, *self._shape), self._dtype)
            self._open[batch] = fresh
        return self._open[batch]

    def commit(self, batch: int) -> None:
        """Write a batch that no further tile contributes to."""
        crops = self.buffer(batch)
        work, strip = self._cut.work, self._cut.strip
        stored = crops.astype(work.layout.arrays()[self._array][2], copy=False)
        if batch < 0:
            work.write_fragments(self._array, strip.number, self._chunk, stored)
        else:
            work.write_chunk(self._array, strip.batches[0] + batch, self._chunk, stored)
            self._spare.append(crops)
        del self._open[batch]


def cut_strip(task: StripTask, engine: str, remove_background: bool) -> None:
    """Fill and commit the windows of one strip; labels are encoded once for all channels."""
    cut = task.cut
    layout = cut.work.layout
    kernels = kernels_of(engine)
    first = task.tiles[0]
    groups = groups_of(first.channels, layout)
    pending = {group: _pending(cut, group) for group in groups}
    if not any(pending.values()):
        return
    of_instances = [_instance_copies(tile, cut, kernels) for tile in task.tiles]
    of_windows = (
        of_instances if remove_background else [_window_copies(tile, cut) for tile in task.tiles]
    )
    last = _last_tiles(of_windows, cut)
    for group, units in pending.items():
        if not units:
            continue
        array, chunk, edges = group
        copies = of_instances if array == "mask" else of_windows
        dtype = delivered(layout.arrays()[array][2])
        targets = _Targets(cut, array, chunk, layout.arrays()[array][1], dtype)
        for number, tile in enumerate(task.tiles):
            touched = [b for b in units if len(_of_batch(copies[number], cut, b).window)]
            if touched:
                for channel, planes in _planes(tile, array, edges):
                    for batch in touched:
                        part = _of_batch(copies[number], cut, batch)
                        _copy(kernels, planes, part, cut, batch, channel, targets.buffer(batch))
            for batch in units:
                if last[batch] == number:
                    targets.commit(batch)


Group = tuple[str, int, tuple[int, ...]]
"""An array, the number of a chunk of its channels, and edges of the channels to read for it."""


def groups_of(channels: tuple[int, ...], layout: Layout) -> list[Group]:
    """The chunks along c that a task writes; the mask goes with the first channels."""
    groups: list[Group] = []
    for first in range(channels[0], channels[-1], layout.group):
        edges = tuple(e for e in channels if first <= e <= first + layout.group)
        groups.append(("image", first // layout.group, edges))
    if layout.mask and channels[0] == 0:
        groups.append(("mask", 0, (0, 1)))
    return groups


def _pending(cut: Cut, group: Group) -> list[int]:
    """The strip's batches that are not committed yet, counted from its first; -1: fragments."""
    array, chunk, _ = group
    first, last = cut.strip.batches
    names = {b - first: unit(array, b, chunk) for b in range(first, last)}
    if len(cut.strip.spilled):
        names[-1] = unit(f"{array}-fragments", cut.strip.number, chunk)
    return [batch for batch, name in names.items() if name not in cut.done]


def _planes(tile: Task, array: str, channels: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """Pixels to copy, with the first channel of the chunk they go to: the mask is cut from ones."""
    if array == "mask":
        z, y, x = tile.plane_shape()
        ones = scratch("ones", z * y * x, np.dtype(np.uint8))
        ones[...] = 1
        yield 0, ones[np.newaxis]
        return
    for part, planes in replace(tile, channels=channels).read_planes():
        yield part.start - channels[0], planes


def _instance_copies(tile: Task, cut: Cut, kernels: Any) -> Copies:
    runs = encode_runs(tile.read_labels(), kernels, tile.plane_shape())
    order = np.argsort(cut.ids)
    place = np.searchsorted(cut.ids[order], runs.ids)
    place[place == len(order)] = 0
    windows = order[place]
    windows[cut.ids[windows] != runs.ids] = -1
    return copies_of_runs(runs, windows, cut.corner, cut.work.layout.diameter, tile.origin)


def _window_copies(tile: Task, cut: Cut) -> Copies:
    _, height, width = tile.plane_shape()
    return copies_of_windows(
        np.arange(len(cut.ids)),
        cut.corner,
        cut.work.layout.diameter,
        tile.region,
        width,
        height * width,
    )


def _members(cut: Cut, batch: int) -> tuple[int, int]:
    """First window of a batch, and one past its last."""
    if batch < 0:
        return cut.inside, len(cut.ids)
    size = cut.work.layout.batch_size
    return batch * size, (batch + 1) * size


def _of_batch(copies: Copies, cut: Cut, batch: int) -> Copies:
    return copies.among(*_members(cut, batch))


def _last_tiles(copies: list[Copies], cut: Cut) -> dict[int, int]:
    """For each batch, the last tile that contributes to it; the last of all for the fragments."""
    batches = range(cut.strip.batches[1] - cut.strip.batches[0])
    last = {-1: len(copies) - 1}
    for batch in batches:
        touching = [i for i, c in enumerate(copies) if len(_of_batch(c, cut, batch).window)]
        last[batch] = max(touching, default=len(copies) - 1)
    return last


def _copy(
    kernels: Any,
    planes: np.ndarray,
    part: Copies,
    cut: Cut,
    batch: int,
    channel: int,
    out: np.ndarray,
) -> None:
    window = cut.work.layout.window
    place = (part.window - _members(cut, batch)[0]) * out.shape[1] + channel
    target = place * window + part.inside
    kernels.gather(planes, part.source, target, part.length, window, out.reshape(-1))


@dataclass(frozen=True, slots=True)
class JoinTask:
    """A batch finished from the fragments that strips left.

    Attributes
    ----------
    batch
        Its number.
    size
        Its crops.
    parts
        For each strip: its number, how many fragments it left, which of them belong to the batch,
        and where they go.
    work, done
        As in `Cut`.
    """

    batch: int
    size: int
    parts: list[tuple[int, int, np.ndarray, np.ndarray]]
    work: WorkFolder
    done: frozenset[str]


def join_fragments(task: JoinTask) -> None:
    """Assemble and commit one batch, chunk of channels by chunk of channels."""
    layout = task.work.layout
    for array, (channels, group, dtype) in layout.arrays().items():
        window = (group, layout.depth, layout.diameter, layout.diameter)
        bits = np.dtype(f"u{dtype.itemsize}")
        for chunk in range(-(-channels // group)):
            if unit(array, task.batch, chunk) in task.done:
                continue
            crops = np.zeros((layout.batch_size, *window), bits)
            for strip, number, here, there in task.parts:
                shape = (number, *window)
                fragments = task.work.read_fragments(array, strip, chunk, shape, bits)
                # Every pixel comes from one strip and is zero bits in the others.
                crops[there] |= fragments[here]
            task.work.write_chunk(array, task.batch, chunk, crops.view(dtype))
