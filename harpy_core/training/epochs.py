"""Order of an epoch of training, and its even division among those who read it.

The blocks of a store (its chunks along the instances) are put in an order that is drawn anew for
each epoch. Laid end to end they are one sequence of instances, which is cut into equal lengths,
one for each part (a loader worker of a rank). So all parts have the same size, and a block is read
by one part unless it lies at a cut: `blocks + 2 * (parts - 1)` reads at most in an epoch,
`blocks + parts - 1` where nothing is repeated.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from harpy_core.errors import InputError

Even = Literal["pad", "drop"]


def check_even(even: str) -> None:
    """Refuse an unknown way to even out parts."""
    if even not in get_args(Even):
        raise InputError(f"even = {even!r}: neither of {', '.join(get_args(Even))}")


def per_part(instances: int, parts: int, even: Even) -> int:
    """Number of instances that each part reads.

    Parameters
    ----------
    instances
        Number of all instances.
    parts
        Number of parts that share them.
    even
        Treatment of a remainder: ``pad`` repeats instances from the beginning of the sequence,
        fewer than `parts`, until it divides evenly; ``drop`` leaves it out.
    """
    return -(-instances // parts) if even == "pad" else instances // parts


def block_order(blocks: int, seed: int, epoch: int) -> np.ndarray:
    """Order of the blocks in an epoch, (blocks,) int64."""
    return _generator(seed, epoch, 0).permutation(blocks)


def row_generator(seed: int, epoch: int, part: int) -> np.random.Generator:
    """Generator with which a part shuffles its instances within blocks."""
    return _generator(seed, epoch, 1, part)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def share(sizes: np.ndarray, order: np.ndarray, part: int, parts: int, even: Even) -> np.ndarray:
    """Reads of one part, (n, 3) int64: a block, and the first and end of its instances.

    Parameters
    ----------
    sizes : (blocks,) int64
        Number of instances in each block.
    order : (blocks,) int64
        Order of the blocks.
    part, parts
        Number of the part, and of all parts.
    even
        See `per_part`.
    """
    instances = int(sizes.sum())
    length = per_part(instances, parts, even)
    if length == 0:
        return np.empty((0, 3), np.int64)
    laps = -(-parts * length // instances)
    blocks = np.tile(order, laps)
    end = np.cumsum(sizes[blocks])
    start = end - sizes[blocks]
    # Blocks that begin or end within this part's stretch of the sequence.
    first = np.maximum(start, part * length)
    stop = np.minimum(end, (part + 1) * length)
    mine = first < stop
    found: np.ndarray = np.stack([blocks, first - start, stop - start], axis=1)[mine]
    return found
