"""The run table of a label tile: the one data structure that both jobs share.

A run is a maximal horizontal stretch of pixels with one non-zero label inside a tile. Labels are
encoded once; every channel is then measured or cut along the runs, at a cost proportional to the
pixels inside cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from harpy_core.errors import InputError


@dataclass(frozen=True, slots=True)
class RunTable:
    """The runs of one tile.

    Attributes
    ----------
    start : (runs,) int64
        Offset of a run's first pixel in a flattened plane of the tile.
    length : (runs,) int32
        Pixels.
    slot : (runs,) int32
        Index into `ids`.
    ids : (slots,) uint64
        Labels in the tile, each once.
    row_stride, plane_stride : int
        Pixels of a plane from one row to the next, and from one z to the next.
    """

    start: np.ndarray
    length: np.ndarray
    slot: np.ndarray
    ids: np.ndarray
    row_stride: int
    plane_stride: int

    @property
    def slots(self) -> int:
        """Number of instances in the tile."""
        return len(self.ids)

    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """First pixel and length of stretches that hold each pixel of the runs once.

        The runs themselves, unless instances overlap.
        """
        start, length = self.start, self.length
        if (start[1:] < start[:-1]).any():
            order = np.argsort(start, kind="stable")
            start, length = start[order], length[order]
        reach = np.maximum.accumulate(start + length)
        apart = start[1:] >= reach[:-1]
        if apart.all():
            return start, length
        first = np.flatnonzero(np.append(True, apart))
        last = np.append(first[1:], len(start)) - 1
        return start[first], (reach[last] - start[first]).astype(length.dtype)


def encode_runs(
    labels: np.ndarray, kernels: ModuleType, plane_shape: tuple[int, int, int] | None = None
) -> RunTable:
    """Encode a label tile.

    Parameters
    ----------
    labels
        (z, y, x) integers; 0 is background.
    kernels
        The engine's module, from `harpy_core.kernels.engine`.
    plane_shape
        Shape of the (z, y, x) buffers that the runs will be used on, if they are padded.

    Raises
    ------
    InputError
        A label is negative.
    """
    refuse_negative(labels)
    _, height, width = plane_shape or labels.shape
    start, length, slot, ids = kernels.encode(labels, width, height * width)
    return RunTable(start, length, slot, ids, width, height * width)


def refuse_negative(labels: np.ndarray) -> None:
    """Refuse labels below 0, the background."""
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise InputError(
            f"labels hold {labels.min()}: labels must be 0 (background) or positive; "
            "renumber or clip them"
        )


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes and positions of the instances of a tile or an image.

    Attributes
    ----------
    totals : (instances, 4) int64
        Pixels, then the sums of z, y and x over them.
    box : (instances, 6) int64
        Smallest z, y, x, then the largest plus one.
    """

    totals: np.ndarray
    box: np.ndarray


def measure_geometry(runs: RunTable, kernels: ModuleType, origin: tuple[int, int, int]) -> Geometry:
    """Pixels, coordinate sums and bounding boxes, in the coordinates of the image.

    Parameters
    ----------
    origin
        (z, y, x) of the tile's first pixel.
    """
    totals, box = kernels.geometry(
        runs.start, runs.length, runs.slot, runs.slots, runs.row_stride, runs.plane_stride
    )
    totals[:, 1:] += totals[:, :1] * np.asarray(origin)
    box += np.asarray(origin * 2)
    return Geometry(totals, box)
