"""Views of an array: without some axes of one pixel, with some of its channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


def whole_key(key: Any, axes: int) -> tuple[Any, ...]:
    """Expand an index to one entry for each axis, filling in what was left out or abbreviated."""
    given = key if isinstance(key, tuple) else (key,)
    if Ellipsis in given:
        at = given.index(Ellipsis)
        missing = axes - len(given) + 1
        given = (*given[:at], *(slice(None),) * missing, *given[at + 1 :])
    return (*given, *(slice(None),) * (axes - len(given)))


@dataclass(frozen=True, slots=True)
class AxesView:
    """An array without some of its axes of one pixel, such as OME's t.

    Attributes
    ----------
    array
        Zarr array; its chunks are one pixel long along the axes that are left out.
    kept
        Numbers of the axes that stay, ascending.
    """

    array: Any
    kept: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of pixels along each axis."""
        return tuple(self.array.shape[i] for i in self.kept)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.kept)

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels."""
        return np.dtype(self.array.dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Number of a chunk's pixels along each axis."""
        return tuple(self.array.chunks[i] for i in self.kept)

    def __getitem__(self, key: Any) -> np.ndarray:
        full: list[Any] = [0] * self.array.ndim
        for axis, part in zip(self.kept, whole_key(key, self.ndim), strict=True):
            full[axis] = part
        return np.asarray(self.array[tuple(full)])


def stored_in(array: Any) -> Any:
    """Return the array whose chunks hold another one's pixels."""
    return array.array if isinstance(array, AxesView) else array


@dataclass(frozen=True, slots=True)
class ChannelView:
    """Some channels of an image, in the order of the file.

    Attributes
    ----------
    array
        Image, (c, y, x) or (c, z, y, x).
    indices
        Numbers of the channels, ascending.
    """

    array: Any
    indices: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of pixels along each axis."""
        return (len(self.indices), *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.array.ndim)

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels."""
        return np.dtype(self.array.dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Chunks of the array behind the view, no longer than the view along c."""
        first, *rest = self.array.chunks
        return (min(first, len(self.indices)), *rest)

    def __getitem__(self, key: Any) -> np.ndarray:
        channels, *rest = key if isinstance(key, tuple) else (key,)
        chosen = np.atleast_1d(np.asarray(self.indices)[channels])
        planes = np.stack([self.array[(int(c), *rest)] for c in chosen])
        return planes[0] if isinstance(channels, int) else planes


def whole_image(image: Any) -> Any:
    """Return the image from which some channels were chosen."""
    return image.array if isinstance(image, ChannelView) else image
