"""The pixels of a repeated array, assembled block by block from those of its source."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from harpy_core.raster.grown import LabelView
from harpy_core.raster.reading import Reader, reader_of
from harpy_core.running.schedule import in_order
from harpy_core.tiling.limits import IN_MEMORY

Index = tuple[int, ...]
Box = tuple[slice, ...]
"""Pixels along each axis, to index an array with."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An array in memory, chunk by chunk: none is copied once it is decoded.

    Attributes
    ----------
    shape, dtype, chunks
        Shape, type and chunks of the array on disk.
    arrays
        Pixels of each chunk, by its place on the grid.
    whole
        Whether all chunks were there.
    """

    shape: Index
    dtype: np.dtype
    chunks: Index
    arrays: Mapping[Index, np.ndarray]
    whole: bool

    def __getitem__(self, chunk: Box) -> np.ndarray:
        """Return the pixels of a whole chunk."""
        return self.arrays[self._place(chunk)]

    def _place(self, chunk: Box) -> Index:
        return tuple(axis.start // c for axis, c in zip(chunk, self.chunks, strict=True))


def decoded_where_small(array: Any, threads: int) -> Any:
    """Return the array itself, or its chunks in memory if they are few.

    Parameters
    ----------
    array
        Zarr array, TIFF, or a view of one.
    threads
        Number of chunks decoded at a time.
    """
    shape, chunks = tuple(array.shape), tuple(array.chunks)
    padded = math.prod(-(-n // c) * c for n, c in zip(shape, chunks, strict=True))
    if padded * np.dtype(array.dtype).itemsize > IN_MEMORY:
        return array
    read = _reading(array)
    places = product(*(range(-(-n // c)) for n, c in zip(shape, chunks, strict=True)))
    found = dict(
        zip(places, in_order(read, chunk_boxes(shape, chunks), threads=threads), strict=True)
    )
    arrays = {place: values for place, (values, _) in found.items()}
    whole = all(there for _, there in found.values())
    return Decoded(shape, native(array), chunks, arrays, whole)


def native(array: Any) -> np.dtype:
    """Type of an array's pixels, in this machine's byte order."""
    return np.dtype(array.dtype).newbyteorder("=")


def chunk_boxes(shape: Index, chunks: Index) -> Iterator[Box]:
    """Yield the chunks of an array, cut at its end."""
    for corner in product(*(range(0, n, c) for n, c in zip(shape, chunks, strict=True))):
        yield tuple(slice(a, min(a + c, n)) for a, c, n in zip(corner, chunks, shape, strict=True))


@dataclass(frozen=True, slots=True)
class Repeated:
    """A source that is repeated along its axes.

    Attributes
    ----------
    source
        Array that regions are read from.
    shape
        Size of the whole along each axis.
    step
        Increment of labels for each repeat along the last two axes, counted row by row; 0 leaves
        values as they are.
    """

    source: Any
    shape: Index
    step: int = 0

    def held(self, region: Box) -> Held:
        """Read the source's pixels of a region, once, however often they are repeated there."""
        source = self.source
        if isinstance(source, Decoded):
            grid = zip(source.shape, source.chunks, strict=True)
            spans = [[slice(a, min(a + c, n)) for a in range(0, n, c)] for n, c in grid]
            return Held(self, spans, source.arrays, source.chunks, source.whole)
        spans = [
            _widest([inside for _, inside, _ in _pieces(axis, n, n)])
            for axis, n in zip(region, source.shape, strict=True)
        ]
        read = _reading(source)
        found = {
            place: read(tuple(axis[i] for axis, i in zip(spans, place, strict=True)))
            for place in product(*(range(len(axis)) for axis in spans))
        }
        arrays = {place: values for place, (values, _) in found.items()}
        whole = all(there for _, there in found.values())
        return Held(self, spans, arrays, tuple(source.shape), whole)


@dataclass(frozen=True, slots=True)
class Held:
    """Pixels of a source in memory.

    Attributes
    ----------
    repeated
        Array that they are held for.
    spans
        Ranges of the pixels along each axis, ascending; none is inside another.
    arrays
        Pixels by the numbers of their spans.
    step
        Length along each axis whose multiples no array crosses.
    whole
        Whether all chunks were there.
    """

    repeated: Repeated
    spans: list[list[slice]]
    arrays: Mapping[Index, np.ndarray]
    step: Index
    whole: bool

    def fill(self, out: np.ndarray, region: Box) -> None:
        """Assemble a region of the whole.

        Parameters
        ----------
        out
            Array of the region's shape, C-contiguous or a part of such an array.
        region
            Box inside the one that is held.
        """
        shape, source = self.repeated.shape, self.repeated.source.shape
        across = -(-shape[-1] // source[-1])
        pieces = (_pieces(axis, n, s) for axis, n, s in zip(region, source, self.step, strict=True))
        for piece in product(*pieces):
            repeats, inside, outside = zip(*piece, strict=True)
            values, place = self._values(inside), out[outside]
            shift = self.repeated.step * (repeats[-2] * across + repeats[-1])
            place[...] = values
            if shift:
                np.add(place, out.dtype.type(shift), out=place, where=values != 0)

    def _values(self, inside: Sequence[slice]) -> np.ndarray:
        number: list[int] = []
        relative: list[slice] = []
        for spans, wanted in zip(self.spans, inside, strict=True):
            # The last one that begins before it: no span is inside another, so it reaches furthest.
            at = bisect_right(spans, wanted.start, key=lambda span: span.start) - 1
            number.append(at)
            first = spans[at].start
            relative.append(slice(wanted.start - first, wanted.stop - first))
        return self.arrays[tuple(number)][tuple(relative)]


def _reading(array: Any) -> Callable[[Box], tuple[np.ndarray, bool]]:
    """Return a function that reads a region, and says whether all its chunks were there."""
    if isinstance(array, LabelView):
        # Its reader has three axes. What is missing of labels is background.
        return lambda region: (array[region], True)
    return partial(_read, reader_of(array, array.ndim, None))


def _read(reader: Reader, region: Box) -> tuple[np.ndarray, bool]:
    """Read a region; return it, and whether all its chunks were there."""
    asked = tuple((axis.start, axis.stop) for axis in region)
    out = np.empty(reader.layout(asked), reader.dtype)
    gaps = reader.read(asked, out)
    return out[tuple(slice(b - a) for a, b in asked)], not gaps


def _pieces(part: slice, size: int, step: int) -> list[tuple[int, slice, slice]]:
    """Number, source and target range of each repeat along an axis.

    They are cut at multiples of `step` in the source.
    """
    found = []
    at = part.start
    while at < part.stop:
        repeat, first = divmod(at, size)
        length = min(size - first, step - first % step, part.stop - at)
        place = at - part.start
        found.append((repeat, slice(first, first + length), slice(place, place + length)))
        at += length
    return found


def _widest(spans: Sequence[slice]) -> list[slice]:
    """Return the spans that are inside no other one, ascending."""
    distinct = {(span.start, span.stop): span for span in spans}.values()
    widest = [s for s in distinct if not any(s is not o and _contains(o, s) for o in distinct)]
    return sorted(widest, key=lambda span: span.start)


def _contains(outer: slice, inner: slice) -> bool:
    return bool(outer.start <= inner.start and inner.stop <= outer.stop)
