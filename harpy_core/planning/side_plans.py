"""Memory of the rules that measure no image: data sets made or fetched, and tables joined."""

from __future__ import annotations

import math

from harpy_core.datasets import Dataset
from harpy_core.datasets.limits import ENTRY_BYTES, MOST_FILES
from harpy_core.planning.parts import TASK_BYTES
from harpy_core.raster.info import itemsize
from harpy_core.running.workers import PROCESS_BYTES

_ROW_BYTES = 700
"""Memory of a row of a joined table but for its values, where its names have some 20 letters
(measured): each name is a Python string, and again one that is being written."""

_BLOCKS = 4
"""Copies of the rows of values that are written together: read, joined, and encoded."""

_PIXEL_BYTES = 16
"""Bytes of a pixel of synthetic tissue, beside its channels: labels, and their encoding."""


def dataset_bytes(dataset: Dataset, threads: int) -> int:
    """Bytes of memory that making or fetching a data set takes.

    Parameters
    ----------
    threads
        Number of chunks that are made, or files that are unpacked, at the same time.
    """
    if dataset.sha256 is not None:
        return PROCESS_BYTES + MOST_FILES * ENTRY_BYTES + threads * TASK_BYTES
    channels, *area = dataset.chunks
    # A chunk as it is made, in one piece for its file, and encoded.
    pixel = 3 * channels * itemsize(dataset.dtype) + _PIXEL_BYTES
    return PROCESS_BYTES + threads * (TASK_BYTES + math.prod(area) * pixel)


def joined_bytes(instances: int, channels: int, rows: int) -> int:
    """Bytes of memory that joining the tables of fields of view takes.

    Parameters
    ----------
    instances, channels
        Numbers of them in all fields.
    rows
        Number of rows of a chunk of values.
    """
    values = min(instances, rows) * channels * 8
    return PROCESS_BYTES + TASK_BYTES + instances * _ROW_BYTES + _BLOCKS * values
