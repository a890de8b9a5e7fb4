"""Blocks of a table that are worked on, and bytes that are committed together, at a time.

Arithmetic alone, shared by plan and job.
"""

from __future__ import annotations

from harpy_core.tiles.grid import Together, between, splittable

ROWS = 2**16
"""Instances in a chunk of a layer."""

SLAB_BYTES = 2**30
"""Bytes of the statistics of all instances that are held at a time."""

COMMIT_BYTES = 2**24
"""Bytes of tasks' results that are committed together, at the latest."""

COMMIT_COPIES = 2
"""Copies of them at a time: those that gather, and those that are being written."""


def value_bytes(words: int, statistics: int, whole: int) -> int:
    """Bytes of one instance in one channel while a table is measured and finished.

    Parameters
    ----------
    words
        Number of words of its partials; they may be twice as many, as they grow.
    statistics, whole
        Number of statistics, and of those of them that need whole instances, which are held until
        all are finished.
    """
    return 8 * (2 * words + whole + statistics)


def derived_bytes(columns: int) -> int:
    """Bytes of one instance in one channel: its derived columns, and two operands on their way."""
    return 8 * (columns + 2 * (columns > 0))


def slabs_of(
    edges: tuple[int, ...], bytes_per_channel: int, memory: int, together: Together = None
) -> list[tuple[int, ...]]:
    """Split chunks of channels into slabs that fit `memory`, each of at least one chunk.

    Parameters
    ----------
    edges
        Edges of the chunks along c.
    bytes_per_channel
        Bytes of one channel.
    memory
        Bytes that a slab may take.
    together
        Channels that must be in one slab.
    """
    fitting = memory // max(bytes_per_channel, 1)
    units = splittable(edges, together)
    slabs = [[units[0]]]
    for edge in units[1:]:
        if len(slabs[-1]) > 1 and edge - slabs[-1][0] > fitting:
            slabs.append([slabs[-1][-1]])
        slabs[-1].append(edge)
    return [between(edges, slab[0], slab[-1]) for slab in slabs]
