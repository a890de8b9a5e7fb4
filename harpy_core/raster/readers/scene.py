"""One image of a file, as all readers describe it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

SIDE = 2048
"""Pixels along the last two axes of a block, of an image of which any region can be read."""

SAMPLES = ("red", "green", "blue")
"""Names of the samples of a colour."""

Region = Sequence[slice]
"""Pixels along each axis, from a first to an end, all within the image."""


@dataclass(frozen=True, slots=True)
class Scene:
    """An image of a file, opened.

    Attributes
    ----------
    axes
        Name of each axis as it is read, lower case; samples of a colour are part of c.
    levels
        Shape of each resolution, the finest first.
    dtype
        Type of the pixels, in native byte order.
    block
        Pixels of a block that is read at once.
    read
        Return a region of a level; it may be called by several threads at once.
    channels
        Names from the metadata; None if they are not one for each channel.
    sides
        Side of a pixel of the finest level along each spatial axis for which the metadata have
        one, in micrometres.
    """

    axes: tuple[str, ...]
    levels: list[tuple[int, ...]]
    dtype: np.dtype
    block: tuple[int, ...]
    read: Callable[[int, Region], np.ndarray]
    channels: list[str] | None = None
    sides: Mapping[str, float] = field(default_factory=dict)


def coloured(names: Sequence[str], samples: int) -> list[str]:
    """Names of channels of which each has so many samples: red, green and blue, if more than one.

    Parameters
    ----------
    names
        Name of each channel before it is split.
    samples
        Number of samples of each.
    """
    if samples == 1:
        return list(names)
    own = SAMPLES if samples == len(SAMPLES) else tuple(map(str, range(samples)))
    return [f"{name} {sample}" for name in names for sample in own]


def tiled(axes: Sequence[str], shape: Sequence[int], whole: Sequence[str] = ()) -> tuple[int, ...]:
    """Block of an image of which any region can be read: a part of a plane of its last two axes.

    Parameters
    ----------
    axes, shape
        Name and length of each axis.
    whole
        Other axes that are read together because the file interleaves them.
    """
    outer = (n if axis in whole else 1 for axis, n in zip(axes[:-2], shape[:-2], strict=True))
    return (*outer, *(min(n, SIDE) for n in shape[-2:]))
