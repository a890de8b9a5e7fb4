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


def window(reader: Any, key: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return some pixels of labels, of which those around them alone are read.

    Parameters
    ----------
    reader
        Reader of the labels along z, y and x, whose regions have their own shape.
    key
        Index, of integers and slices.
    shape
        Pixels of the labels, with or without z.
    """
    given = whole_key(key, len(shape))
    spans = [_span(part, n) for part, n in zip(given, shape, strict=True)]
    region = ((0, 1),) * (3 - len(shape)) + tuple(spans)
    out = np.zeros(reader.layout(region), reader.dtype)
    reader.read(region, out)
    inside = out[tuple(slice(0, b - a) for a, b in region)][(0,) * (3 - len(shape))]
    return inside[tuple(_within(part, n) for part, n in zip(given, shape, strict=True))]


def _span(part: Any, length: int) -> tuple[int, int]:
    """First index and end of the pixels that a part of a key needs."""
    chosen = range(length)[part] if isinstance(part, slice) else [range(length)[part]]
    return (min(chosen), max(chosen) + 1) if len(chosen) else (0, 1)


def _within(part: Any, length: int) -> Any:
    """Return the part of a key inside the pixels that were read for it."""
    if not isinstance(part, slice):
        return 0
    chosen = range(length)[part]
    if len(chosen) == 0:
        return slice(0, 0)
    return slice(None, None, chosen.step)


@dataclass(frozen=True, slots=True)
class AxesView:
    """An array with its axes in another order, without some of them, or with a new one.

    Attributes
    ----------
    array
        Array that slices, with a shape and chunks.
    order
        Number of each axis of the view in the array; None for a new axis of one pixel.
    at
        Index along each axis of the array, where the view leaves it out.
    """

    array: Any
    order: tuple[int | None, ...]
    at: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of pixels along each axis."""
        return self._of(self.array.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.order)

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels."""
        return np.dtype(self.array.dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Number of a chunk's pixels along each axis."""
        return self._of(self.array.chunks)

    @property
    def in_place(self) -> bool:
        """Whether a chunk has the pixels of the view in the view's order, and no others."""
        kept = [i for i in self.order if i is not None]
        left = (n for i, n in enumerate(self.array.chunks) if i not in kept)
        return kept == sorted(kept) and all(n == 1 for n in left)

    def __getitem__(self, key: Any) -> np.ndarray:
        full: list[Any] = [slice(i, i + 1) for i in self.at]
        rest: list[Any] = []
        for axis, part in zip(self.order, whole_key(key, self.ndim), strict=True):
            alone = isinstance(part, int | np.integer)
            if axis is not None:
                first = int(part) % self.array.shape[axis] if alone else 0
                full[axis] = slice(first, first + 1) if alone else part
            # A new axis has its own part to take; of the others only that of one pixel goes.
            rest.append(part if axis is None else 0 if alone else slice(None))
        return self.arranged(np.asarray(self.array[tuple(full)]))[tuple(rest)]

    def arranged(self, values: np.ndarray) -> np.ndarray:
        """Return some of the array's pixels, one along each axis that is left out, as a view."""
        kept = [i for i in self.order if i is not None]
        left = [i for i in range(values.ndim) if i not in kept]
        moved = values.transpose(*kept, *left)
        new = tuple(i for i, axis in enumerate(self.order) if axis is None)
        return np.expand_dims(moved.reshape(moved.shape[: len(kept)]), new)

    def _of(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(1 if i is None else sizes[i] for i in self.order)


def stored_in(array: Any) -> Any:
    """Return the array whose chunks hold another one's pixels."""
    return array.array if isinstance(array, AxesView) else array


def behind(array: Any) -> list[Any]:
    """Return the arrays from which a view's pixels are read, or the array itself."""
    inside = getattr(array, "arrays", None) or [getattr(array, "array", None)]
    found = [one for each in inside if each is not None for one in behind(each)]
    return found or [array]


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
