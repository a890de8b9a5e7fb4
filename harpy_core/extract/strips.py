"""Sizes of a strip and of its files: arithmetic on counts alone, shared by the plan and the job."""

from __future__ import annotations

import math

BATCHES_IN_STRIP = 8
"""Batches that a strip is tall enough to fill: fewer fragments, larger tasks."""

BATCHES_IN_COLUMNS = 4
"""Batches that a column must fill; columns with fewer instances are worked on together."""

COMMITS_IN_FLIGHT = 2
"""Files of a task that are encoded but not on disk yet, at most."""

SMALLEST_PART = 512
"""Windows in a file of fragments where chunks have fewer."""


def strip_shape(instances: int, rows: int, columns: int, batch: int) -> tuple[int, int]:
    """Rows and columns of tiles in a strip: a part of a column, or several whole columns.

    Parameters
    ----------
    instances
        Number of instances in the whole image.
    rows, columns
        Number of rows and columns of tiles.
    batch
        Instances in a file of the store.
    """
    rows, columns = max(rows, 1), max(columns, 1)
    in_column = instances / columns
    if in_column >= BATCHES_IN_COLUMNS * batch:
        strips = max(int(in_column / (BATCHES_IN_STRIP * batch)), 1)
        return math.ceil(rows / min(strips, rows)), 1
    strips = max(instances // (BATCHES_IN_COLUMNS * batch), 1)
    return rows, math.ceil(columns / min(strips, columns))


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
