"""What is copied from a strip's tiles to its windows: stretches of pixels, and their planes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from harpy_core.extract.cutting import Copies, copies_of_runs, copies_of_windows
from harpy_core.extract.measured import Measurements
from harpy_core.extract.strip_tasks import Cut, StripTask
from harpy_core.kernels.blosc import Encoded
from harpy_core.running.tasks import Task
from harpy_core.tiles.runs import RunTable
from harpy_core.tiles.scratch import scratch

Group = tuple[str, int, tuple[int, ...]]
"""A kind of window, the number of a chunk of its channels, and the edges of those to read."""


@dataclass(frozen=True, slots=True)
class Stretches:
    """What the windows of a strip take of each of its tiles.

    Attributes
    ----------
    instances
        Pixels of the instances themselves.
    pixels
        Pixels of the image that are kept.
    around
        All pixels; empty unless neighbours have a mask.
    covered
        Start and length of every run of each tile; empty unless neighbours have a mask.
    """

    instances: list[Copies]
    pixels: list[Copies]
    around: list[Copies]
    covered: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, task: StripTask, kernels: Any, remove_background: bool) -> Stretches:
        """Encode the labels of all tiles."""
        cut, neighbors = task.cut, task.cut.crops.layout.mask == "neighbors"
        instances, covered = [], []
        for tile in task.tiles:
            runs, _ = tile.read_runs(kernels, tile.plane_shape())
            instances.append(_instance_copies(tile, cut, runs))
            if neighbors:
                covered.append((runs.start, runs.length))
        windows = (
            [_window_copies(tile, cut) for tile in task.tiles]
            if neighbors or not remove_background
            else []
        )
        pixels = instances if remove_background else windows
        return cls(instances, pixels, windows if neighbors else [], covered)


@dataclass(frozen=True, slots=True)
class Layer:
    """Planes that are copied to windows: stretches of each tile, and the planes of a tile.

    The planes of a tile, which comes with its number, are yielded after their first channel in
    the chunk. Those of a tile that are `wanted` are read even if nothing of them is copied.
    """

    copies: list[Copies]
    planes: Callable[[int, Task], Iterator[tuple[int, np.ndarray | Encoded]]]
    wanted: Callable[[int], bool] = lambda _: False


def layers_of(
    group: Group, stretches: Stretches, encoded: bool, beside: Measurements | None = None
) -> list[Layer]:
    """Return what fills a chunk of channels, one after the other.

    Parameters
    ----------
    beside
        What is measured of the image's planes as they are read.
    """
    array, _, channels = group
    if array == "image" and beside is not None:
        measured = partial(_measured_planes, beside, channels, encoded)
        return [Layer(stretches.pixels, measured, partial(beside.wait_for, channels))]
    if array == "image":
        return [Layer(stretches.pixels, lambda _, tile: _planes(tile, channels, encoded))]
    layers = [Layer(stretches.instances, lambda _, tile: _ones(tile))]
    if stretches.around:
        covered = stretches.covered
        layers.append(Layer(stretches.around, lambda n, tile: _coverage(tile, *covered[n])))
    return layers


def _ones(tile: Task) -> Iterator[tuple[int, np.ndarray]]:
    """Yield a plane of ones, from which masks are cut."""
    ones = scratch("ones", math.prod(tile.plane_shape()), np.dtype(np.uint8))
    ones[...] = 1
    yield 0, ones[np.newaxis]


def _coverage(
    tile: Task, start: np.ndarray, length: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of instances that have each pixel: 0, 1, or more where polygons overlap."""
    size = math.prod(tile.plane_shape())
    changes = scratch("changes", size + 1, np.dtype(np.int32))
    changes[...] = 0
    np.add.at(changes, start, 1)
    np.subtract.at(changes, start + length, 1)
    counts = scratch("ones", size, np.dtype(np.uint8))
    np.minimum(np.cumsum(changes[:-1], out=changes[:-1]), 255, out=counts, casting="unsafe")
    yield 1, counts[np.newaxis]


def _planes(
    tile: Task, channels: tuple[int, ...], encoded: bool
) -> Iterator[tuple[int, np.ndarray | Encoded]]:
    """Yield pixels of the image to copy, and their first channel in the chunk."""
    for part, planes in replace(tile, channels=channels).read_planes(encoded):
        yield part.start - channels[0], planes


def _measured_planes(
    beside: Measurements, channels: tuple[int, ...], encoded: bool, number: int, tile: Task
) -> Iterator[tuple[int, np.ndarray | Encoded]]:
    """Yield pixels as `_planes` does, once they are measured too."""
    for part, planes in beside.read_planes(number, replace(tile, channels=channels), encoded):
        yield part.start - channels[0], planes


def _instance_copies(tile: Task, cut: Cut, runs: RunTable) -> Copies:
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
