"""Crops of the instances of a field, small enough to be part of a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harpy_core.errors import InputError
from harpy_core.extract.crops import Crops, open_crops
from harpy_core.raster.chunks import ChunkFiles
from harpy_core.viewing.fields import Measured

MOST_PLANES = 12
"""Channels whose pixels a page holds; the statistics of all are there."""

SIDE = 64
"""Pixels of a thumbnail's longer side, at most."""

MOST_PIXELS = 2**24
"""Pixels of all thumbnails of all channels, at most: one byte each on the page."""

MOST_READ = 2**32
"""Bytes of decoded chunks after which no further chunk is read: neighbours share chunks, but crops
that were shuffled have few of a field's instances in each."""

_ROUNDING = 1e-6
"""Pixels by which two centroids of one instance may differ."""


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Small crops of some instances.

    Attributes
    ----------
    ids : (n,) uint64
        Labels, in ascending order.
    pixels : (n, c, y, x) float32
        The middle plane, in the image's values; each pixel is the mean of a square of the crop's.
    """

    ids: np.ndarray
    pixels: np.ndarray


def crops_of(
    path: str | os.PathLike[str], names: Sequence[str], measured: Measured
) -> Crops | None:
    """Open the crops of an image with some channels; None if there are none in them.

    Raises
    ------
    InputError
        They are of other labels, or of a channel that the image does not have.
    """
    crops = open_crops(path)
    refuse_others(crops, measured.ids, measured.centroids)
    unknown = [name for name in crops.channels if name not in names]
    if unknown:
        raise InputError(
            f"{path}: channel {unknown[0]!r} is not one of the image: extract by its names"
        )
    return crops if len(crops) else None


def with_pixels(names: Sequence[str], crops: Crops | None) -> list[int]:
    """Numbers of the channels whose pixels a page holds: those of the crops come first."""
    cut = range(0) if crops is None else map(list(names).index, crops.channels)
    return sorted(list(dict.fromkeys([*cut, *range(len(names))]))[:MOST_PLANES])


def refuse_others(crops: Crops, ids: np.ndarray, centroids: np.ndarray) -> None:
    """Refuse crops that were cut around other instances.

    Parameters
    ----------
    ids : (n,) uint64
        Labels of the image, in ascending order.
    centroids : (n, 2) float64
        Their x and y, in pixels.

    Raises
    ------
    InputError
        A crop's label is unknown, or its centroid is elsewhere.
    """
    place = np.searchsorted(ids, crops.instance_id)
    place[place == len(ids)] = 0
    known = ids[place] == crops.instance_id
    apart = np.abs(centroids[place] - crops.centroid[:, :0:-1]).max(1, initial=0)
    if not np.all(known & (apart <= _ROUNDING)):
        raise InputError(f"{crops.path}: not the crops of these labels: extract them again")


def thumbnails(crops: Crops, ids: np.ndarray, channels: Sequence[int]) -> Thumbnails:
    """Read as many instances' crops as a page may hold.

    Parameters
    ----------
    crops
        Crops of the image.
    ids : (n,) uint64
        Labels of the field's instances; those without a crop are left out.
    channels
        Numbers of the crops' channels to read.

    Raises
    ------
    InputError
        A chunk is missing or damaged; the line names it.
    """
    array = crops.image
    size, per = array.chunks[:2]
    step = -(-max(array.shape[-2:]) // SIDE)
    shape = tuple(-(-n // step) for n in array.shape[-2:])
    groups = np.asarray(channels) // per
    rows = _chosen(
        np.flatnonzero(np.isin(crops.instance_id, ids)),
        size,
        max(MOST_PIXELS // (len(channels) * shape[0] * shape[1]), 1),
        array.dtype.itemsize * int(np.prod(array.chunks)) * len(np.unique(groups)),
    )
    rows = rows[np.argsort(crops.instance_id[rows])]
    found = np.empty((len(rows), len(channels), *shape), np.float32)
    files = ChunkFiles(array, strict=True)
    chunk = np.empty(array.chunks, np.dtype(array.dtype).newbyteorder("="))
    for number in np.unique(rows // size).tolist():
        mine = np.flatnonzero(rows // size == number)
        for group in np.unique(groups).tolist():
            files.read((number, group, 0, 0, 0), chunk)
            for place in np.flatnonzero(groups == group).tolist():
                planes = chunk[rows[mine] % size, channels[place] % per, array.shape[2] // 2]
                found[mine, place] = _means(planes, step)
    scale = crops.attributes["parameters"].get("scale")
    return Thumbnails(crops.instance_id[rows], found if scale is None else found / scale)


def _chosen(rows: np.ndarray, size: int, most: int, cost: int) -> np.ndarray:
    """Choose rows of the chunks that hold the most of them.

    Parameters
    ----------
    rows : (n,) int64
        Rows in the store, in ascending order.
    size
        Rows of a chunk.
    most
        Number of rows, at most.
    cost
        Bytes to decode for the rows of one chunk.
    """
    _, starts, counts = np.unique(rows // size, return_index=True, return_counts=True)
    fullest = np.argsort(-counts, kind="stable")[: max(MOST_READ // cost, 1)]
    of_chunk = np.split(rows, starts[1:])
    return np.concatenate([rows[:0], *(of_chunk[number] for number in fullest)])[:most]


def _means(planes: np.ndarray, step: int) -> np.ndarray:
    """Means of squares of some side, (n, y, x); those at the edge may be smaller."""
    height, width = planes.shape[1:]
    down, across = (np.arange(0, n, step) for n in (height, width))
    sums = np.add.reduceat(planes.astype(np.float64), down, axis=1)
    sums = np.add.reduceat(sums, across, axis=2)
    counts = np.outer(np.minimum(step, height - down), np.minimum(step, width - across))
    return sums / counts
