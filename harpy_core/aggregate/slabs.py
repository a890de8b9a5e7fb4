"""Blocks of a table that are worked on at a time: arithmetic alone, shared by plan and job."""

from __future__ import annotations

ROWS = 2**16
"""Instances in a chunk of a layer."""

SLAB_BYTES = 2**30
"""Bytes of the statistics of all instances that are held at a time."""


def slabs_of(edges: tuple[int, ...], bytes_per_channel: int, memory: int) -> list[tuple[int, ...]]:
    """Split chunks of channels into slabs that fit `memory`, each of at least one chunk.

    Parameters
    ----------
    edges
        Edges of the chunks along c.
    bytes_per_channel
        Bytes of one channel.
    memory
        Bytes that a slab may take.
    """
    fitting = memory // max(bytes_per_channel, 1)
    slabs = [[edges[0]]]
    for edge in edges[1:]:
        if len(slabs[-1]) > 1 and edge - slabs[-1][0] > fitting:
            slabs.append([slabs[-1][-1]])
        slabs[-1].append(edge)
    return [tuple(slab) for slab in slabs]
