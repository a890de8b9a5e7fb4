"""Size of a part of an embedding: arithmetic alone, shared by the plan and the job."""

PART = 4096
"""Crops that are committed together, at least: whole chunks of the store."""


def part_of(chunk: int) -> int:
    """Number of crops that are committed together.

    Parameters
    ----------
    chunk
        Crops in a chunk of the store.
    """
    return -(-PART // chunk) * chunk
