"""How tall a strip is: arithmetic on counts alone, shared by the plan and the job."""

from __future__ import annotations

import math

BATCHES_IN_STRIP = 8
"""A strip is as tall as it takes to fill this many batches: fewer left-overs, larger tasks."""

SMALLEST_PART = 512
"""Windows that share a file of fragments where chunks are smaller."""


def strip_rows(instances: int, rows: int, columns: int, batch_size: int) -> int:
    """Rows of tiles in a strip.

    Parameters
    ----------
    instances
        In the whole image.
    rows, columns
        Of tiles.
    batch_size
        Instances in a batch.
    """
    tiles = rows * columns
    wanted = math.ceil(BATCHES_IN_STRIP * batch_size * tiles / max(instances, 1))
    return min(max(wanted, 1), max(rows, 1))


def part_size(chunk: int, batch: int) -> int:
    """Windows in a file of fragments.

    Parameters
    ----------
    chunk
        Instances in a chunk.
    batch
        Instances in a file of the store.
    """
    return min(batch, max(chunk, SMALLEST_PART))
