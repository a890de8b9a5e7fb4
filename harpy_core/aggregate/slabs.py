"""How many channels are measured at a time: arithmetic alone, which the plan does too."""

from __future__ import annotations

SLAB_BYTES = 2**30
"""Statistics of all instances are held for as many channels at a time as fit this."""


def slabs_of(edges: tuple[int, ...], bytes_per_channel: int, memory: int) -> list[tuple[int, ...]]:
    """Split chunks of channels into slabs that fit some memory, each of at least one chunk.

    Parameters
    ----------
    edges
        Of the chunks along c.
    bytes_per_channel
        What one channel takes.
    memory
        What a slab may take.
    """
    fitting = memory // max(bytes_per_channel, 1)
    slabs = [[edges[0]]]
    for edge in edges[1:]:
        if len(slabs[-1]) > 1 and edge - slabs[-1][0] > fitting:
            slabs.append([slabs[-1][-1]])
        slabs[-1].append(edge)
    return [tuple(slab) for slab in slabs]
