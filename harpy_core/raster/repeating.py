"""The pixels of a repeated array, put together block by block from those of its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from harpy_core.raster.reading import Reader, reader_of

Index = tuple[int, ...]
Region = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Repeated:
    """A source that is repeated along its axes.

    Attributes
    ----------
    source
        What regions are read from.
    shape
        Size of the whole along each axis.
    step
        Labels only: what is added for each repeat along the last two axes, counted row by row; 0
        leaves values as they are.
    """

    source: Any
    shape: Index
    step: int = 0

    def held(self, region: Region) -> Held:
        """Read what a region is made of, once, however often it is repeated there."""
        if isinstance(self.source, np.ndarray):
            spans = [[slice(0, n)] for n in self.source.shape]
            return Held(self, spans, {(0,) * self.source.ndim: self.source})
        spans = [
            _widest([inside for _, inside, _ in _pieces(axis, n)])
            for axis, n in zip(region, self.source.shape, strict=True)
        ]
        reader = reader_of(self.source, self.source.ndim)
        found = {
            place: _read(reader, tuple(axis[i] for axis, i in zip(spans, place, strict=True)))
            for place in product(*(range(len(axis)) for axis in spans))
        }
        return Held(self, spans, found)


@dataclass(frozen=True, slots=True)
class Held:
    """Pixels of a source in memory, and where along each axis they were read."""

    repeated: Repeated
    spans: list[list[slice]]
    arrays: dict[Index, np.ndarray]

    def fill(self, out: np.ndarray, region: Region) -> None:
        """Put a region of the whole together.

        Parameters
        ----------
        out
            Of the region's shape, C-contiguous or a part of such an array.
        region
            Inside the one that is held.
        """
        shape, source = self.repeated.shape, self.repeated.source.shape
        across = -(-shape[-1] // source[-1])
        pieces = (_pieces(axis, n) for axis, n in zip(region, source, strict=True))
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
            at = next(i for i, span in enumerate(spans) if _contains(span, wanted))
            number.append(at)
            first = spans[at].start
            relative.append(slice(wanted.start - first, wanted.stop - first))
        return self.arrays[tuple(number)][tuple(relative)]


def _read(reader: Reader, region: Region) -> np.ndarray:
    asked = tuple((axis.start, axis.stop) for axis in region)
    out = np.empty(reader.layout(asked), reader.dtype)
    reader.read(asked, out)
    return out[tuple(slice(b - a) for a, b in asked)]


def _pieces(part: slice, size: int) -> list[tuple[int, slice, slice]]:
    """Along one axis: number of the repeat, where it is read, and where it goes."""
    found = []
    at = part.start
    while at < part.stop:
        repeat, first = divmod(at, size)
        length = min(size - first, part.stop - at)
        place = at - part.start
        found.append((repeat, slice(first, first + length), slice(place, place + length)))
        at += length
    return found


def _widest(spans: Sequence[slice]) -> list[slice]:
    """The spans that lie in no other one."""
    distinct = {(span.start, span.stop): span for span in spans}.values()
    return [s for s in distinct if not any(s is not o and _contains(o, s) for o in distinct)]


def _contains(outer: slice, inner: slice) -> bool:
    return bool(outer.start <= inner.start and inner.stop <= outer.stop)
