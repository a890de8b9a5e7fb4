"""How an epoch of training is ordered, and shared evenly over those who read it.

The blocks of a store (its chunks along the instances) are put in an order that is drawn anew for
each epoch. Laid end to end they are one sequence of instances, which is cut into equal lengths,
one for each part (a loader worker of a rank). So all parts are alike in size, and blocks are read
by one part each but for those at the cuts: `blocks + 2 * (parts - 1)` reads at most in an epoch,
`blocks + parts - 1` where nothing is repeated.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from harpy_core.errors import InputError

Even = Literal["pad", "drop"]


def check_even(even: str) -> None:
    """Refuse a way to even out parts that there is not."""
    if even not in get_args(Even):
        raise InputError(f"even = {even!r}: neither of {', '.join(get_args(Even))}")


def per_part(instances: int, parts: int, even: Even) -> int:
    """Instances that each part reads.

    Parameters
    ----------
    instances
        How many there are.
    parts
        How many share them.
    even
        What is done with a remainder: ``pad`` repeats instances from the beginning of the
        sequence until it divides, fewer than `parts` of them; ``drop`` leaves it out.
    """
    return -(-instances // parts) if even == "pad" else instances // parts


def block_order(blocks: int, seed: int, epoch: int) -> np.ndarray:
    """The blocks, (blocks,) int64, as they follow one another in an epoch."""
    return _generator(seed, epoch, 0).permutation(blocks)


def row_generator(seed: int, epoch: int, part: int) -> np.random.Generator:
    """What a part shuffles its instances with, within blocks."""
    return _generator(seed, epoch, 1, part)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def share(sizes: np.ndarray, order: np.ndarray, part: int, parts: int, even: Even) -> np.ndarray:
    """What one part reads: (n, 3) int64 of a block, its first instance, and the end of them.

    Parameters
    ----------
    sizes : (blocks,) int64
        Instances of each block.
    order : (blocks,) int64
        How the blocks follow one another.
    part, parts
        Which part, and how many there are.
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
    # Blocks that begin or end within this part's length of the sequence.
    first = np.maximum(start, part * length)
    stop = np.minimum(end, (part + 1) * length)
    mine = first < stop
    found: np.ndarray = np.stack([blocks, first - start, stop - start], axis=1)[mine]
    return found
