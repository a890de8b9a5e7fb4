"""Shapes of instances: made in their tiles, merged as these arrive, and finished.

Label partials that need an instance whole are made in its tile if it lies in one; else its runs are
kept until all tiles that it lies in have contributed theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np

from harpy_core.aggregate.whole import HELD_BYTES
from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances
from harpy_core.statistics.label_partials import FINISHED, Measured, merge_moments, shifted
from harpy_core.statistics.shapes import LABEL_PARTIALS, Shape, label_partials_of
from harpy_core.tiles.runs import Geometry, RunTable


@dataclass(frozen=True, slots=True)
class Rows:
    """Runs of some instances, side by side, in the coordinates of the image.

    Attributes
    ----------
    begin : (instances + 1,) int64
        Index of each instance's first run, and the end.
    z, y, x, length : (runs,) int32
        Place of each run's first pixel, and number of its pixels; by row within an instance.
    """

    begin: np.ndarray
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    length: np.ndarray

    BYTES: ClassVar[int] = 16
    """Bytes of a run."""

    def __len__(self) -> int:
        return len(self.z)

    @classmethod
    def of(
        cls, runs: RunTable, slots: np.ndarray, kernels: ModuleType, origin: Sequence[int]
    ) -> Rows:
        """Sort the runs of some of a tile's instances, in the order of `slots`."""
        place = np.full(runs.slots, len(slots), np.int32)
        place[slots] = np.arange(len(slots), dtype=np.int32)
        begin, order = kernels.by_slot(place[runs.slot], len(slots) + 1)
        begin = begin[: len(slots) + 1]
        order = order[: begin[-1]]
        z, rest = np.divmod(runs.start[order], runs.plane_stride)
        y, x = np.divmod(rest, runs.row_stride)
        z, y, x = ((axis + o).astype(np.int32) for axis, o in zip((z, y, x), origin, strict=True))
        return cls(begin, z, y, x, runs.length[order].astype(np.int32))

    @classmethod
    def joined(cls, parts: Sequence[Sequence[Rows]]) -> Rows:
        """Join the pieces of some instances, given instance by instance."""
        columns = [
            np.concatenate([getattr(piece, name) for pieces in parts for piece in pieces])
            for name in ("z", "y", "x", "length")
        ]
        size = [sum(len(piece.z) for piece in pieces) for pieces in parts]
        z, y, x, _ = columns
        order = np.lexsort((x, y, z, np.repeat(np.arange(len(parts)), size)))
        begin = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
        return cls(begin, *(column[order] for column in columns))

    def piece(self, i: int) -> Rows:
        """Return a copy of the runs of one instance."""
        first, last = self.begin[i : i + 2]
        columns = (getattr(self, name)[first:last].copy() for name in ("z", "y", "x", "length"))
        return Rows(np.array([0, last - first]), *columns)

    def made(
        self, partials: Sequence[str], kernels: ModuleType, flat: bool
    ) -> dict[str, np.ndarray]:
        """Make label partials of whole instances, (instances, words) int64 each."""
        table = (self.begin, self.z, self.y, self.x, self.length)
        made = {}
        if "borders" in partials:
            made["borders"] = kernels.borders(*table, flat)
        if "hull" in partials:
            made["hull"] = kernels.hulls(*table) if flat else _deep_hulls(*table)
        if "holes" in partials:
            made["holes"] = kernels.holes(*table, flat)
        return made


@dataclass(frozen=True, slots=True)
class ShapePart:
    """Contribution of a label tile to the shapes of its instances.

    Attributes
    ----------
    moments : (slots, 12) uint64
        Words of ``moments``; None where no shape needs them.
    whole : (instances,) int64
        Slots of the instances that lie whole in the tile, if a shape needs whole ones.
    made : (instances, words) int64 each
        Their label partials by name.
    split : (pieces,) int64
        Slots of the other instances.
    pieces
        Their runs.
    """

    moments: np.ndarray | None
    whole: np.ndarray
    made: dict[str, np.ndarray]
    split: np.ndarray
    pieces: Rows | None

    @classmethod
    def of(
        cls,
        runs: RunTable,
        geometry: Geometry,
        shapes: Sequence[Shape],
        kernels: ModuleType,
        origin: Sequence[int],
        split: np.ndarray | None,
        flat: bool,
    ) -> ShapePart:
        """Measure a tile.

        Parameters
        ----------
        origin
            First pixel of the tile, (z, y, x).
        split
            Labels of the instances that extend into other tiles; None where no shape needs it.
        flat
            Whether the labels have two axes.
        """
        partials = label_partials_of(shapes)
        moments = None
        if "moments" in partials:
            table = (runs.start, runs.length, runs.slot, runs.slots)
            sums = kernels.second_moments(*table, runs.row_stride, runs.plane_stride)
            moments = shifted(sums, geometry.totals, origin)
        needed = whole_of(partials)
        if split is None or not needed:
            return cls(moments, np.empty(0, np.int64), {}, np.empty(0, np.int64), None)
        apart = np.isin(runs.ids, split)
        whole, other = np.flatnonzero(~apart), np.flatnonzero(apart)
        made = Rows.of(runs, whole, kernels, origin).made(needed, kernels, flat)
        return cls(moments, whole, made, other, Rows.of(runs, other, kernels, origin))


def whole_of(partials: Sequence[str]) -> list[str]:
    """Those label partials that need whole instances."""
    return [name for name in partials if LABEL_PARTIALS[name].whole]


class ShapeTable:
    """Label partials of all instances, merged by row as tiles arrive.

    Parameters
    ----------
    shapes
        Shapes to finish.
    instances
        All instances of the labels, if a shape needs whole ones.
    kernels
        The engine's module.
    flat
        Whether the labels have two axes.
    """

    def __init__(
        self, shapes: Sequence[Shape], instances: Instances | None, kernels: ModuleType, flat: bool
    ) -> None:
        self._shapes, self._instances, self._kernels, self._flat = shapes, instances, kernels, flat
        self._partials = label_partials_of(shapes)
        self._words = {
            name: np.zeros(
                (0, LABEL_PARTIALS[name].words), np.uint64 if name == "moments" else np.int64
            )
            for name in self._partials
            if name != "size"
        }
        self._waiting: dict[int, tuple[int, list[Rows]]] = {}
        self._runs = 0

    def add(self, rows: np.ndarray, ids: np.ndarray, geometry: Geometry, part: ShapePart) -> None:
        """Merge a tile, each of whose instances has one row."""
        if len(rows):
            self._grow(int(rows.max()) + 1)
        if part.moments is not None:
            here = self._words["moments"][rows]
            merge_moments(here, part.moments)
            self._words["moments"][rows] = here
        for name, words in part.made.items():
            self._words[name][rows[part.whole]] = words
        if part.pieces is not None and len(part.split):
            self._complete(rows[part.split], ids[part.split], geometry.totals[part.split, 0], part)

    def _grow(self, size: int) -> None:
        for name, words in self._words.items():
            if size > len(words):
                more = np.zeros(
                    (max(size, 2 * len(words)) - len(words), words.shape[1]), words.dtype
                )
                self._words[name] = np.concatenate([words, more])

    def _complete(
        self, rows: np.ndarray, ids: np.ndarray, pixels: np.ndarray, part: ShapePart
    ) -> None:
        """Add pieces to those waiting, and make the partials of the instances they complete."""
        assert self._instances is not None
        assert part.pieces is not None
        place = np.searchsorted(self._instances.id, ids)
        total = self._instances.count[np.minimum(place, len(self._instances) - 1)]
        complete, done = [], []
        for i, (label, count) in enumerate(zip(ids.tolist(), pixels.tolist(), strict=True)):
            before, pieces = self._waiting.pop(label, (0, []))
            pieces.append(part.pieces.piece(i))
            self._runs += len(pieces[-1])
            if before + count == total[i]:
                complete.append(rows[i])
                done.append(pieces)
                self._runs -= sum(map(len, pieces))
            else:
                self._waiting[label] = before + count, pieces
        self._refuse_too_many()
        if done:
            joined = Rows.joined(done)
            made = joined.made(whole_of(self._partials), self._kernels, self._flat)
            for name, words in made.items():
                self._words[name][complete] = words

    def _refuse_too_many(self) -> None:
        """Refuse instances whose runs would take more memory while they wait than pixels may."""
        if self._runs * Rows.BYTES <= HELD_BYTES:
            return
        number = {label: sum(map(len, pieces)) for label, (_, pieces) in self._waiting.items()}
        largest = max(number, key=lambda label: number[label])
        name = next(shape.name for shape in self._shapes if shape.whole)
        raise InputError(
            f"stats: {name} would hold more than {HELD_BYTES / 1e9:.1f} GB of runs of instances "
            f"that lie in several tiles; {largest} alone has {number[largest]:,} so far: leave it "
            "out of the labels"
        )

    def finish(
        self, rows: np.ndarray, totals: np.ndarray, bounds: np.ndarray, spacing: tuple[float, ...]
    ) -> dict[str, np.ndarray]:
        """Return the columns of the shapes of some instances, (instances,) float64 each.

        Parameters
        ----------
        rows
            Rows of the instances.
        totals, bounds
            Pixels, coordinate sums and bounding boxes of these instances.
        spacing
            Side of a pixel along each axis of the labels.
        """
        words = {name: values[rows] for name, values in self._words.items()}
        found = Measured(totals, bounds, words, spacing)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            finished = {name: FINISHED[name](found) for name in self._partials}
            values = {
                shape.name: shape.finish(*(finished[name] for name in shape.needs))
                for shape in self._shapes
            }
        return _columns(values)


def _columns(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name the columns of each shape, as scikit-image's `regionprops_table` does."""
    columns = {}
    for name, found in values.items():
        if found.ndim == 1:
            columns[name] = found
        else:
            columns |= {f"{name}-{i}": column for i, column in enumerate(found.T)}
    return columns


def _deep_hulls(*table: np.ndarray) -> np.ndarray:
    # SciPy's geometry takes a third of a second to import: only workers that need it.
    from harpy_core.kernels.deep_hulls import deep_hulls

    return deep_hulls(*table)
