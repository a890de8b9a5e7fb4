"""Statistics of a strip's tiles, measured on the planes that are read for its crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harpy_core.aggregate.layers import LayersPart, layered_steps
from harpy_core.aggregate.merging import Steps, TileWork, finished
from harpy_core.extract.strip_tasks import StripTask
from harpy_core.running.tasks import LayeredTask, Task


@dataclass(frozen=True, slots=True)
class Piece:
    """Some channels of a task of the table, all of which a strip's task reads.

    Attributes
    ----------
    tile
        Number of its tile in the strip.
    slab, number
        Number of the slab, and of the task in it.
    task
        The task with these channels alone, and without the image.
    """

    tile: int
    slab: int
    number: int
    task: LayeredTask

    @classmethod
    def of(
        cls, tile: int, slab: int, number: int, task: LayeredTask, channels: tuple[int, ...]
    ) -> Piece | None:
        """Return what a task on a tile has in common with some channels; None for nothing."""
        first, *others = task.tasks
        edges = tuple(e for e in first.channels if channels[0] <= e <= channels[-1])
        if len(edges) < 2:
            return None
        mine = replace(first, channels=edges, image=None)
        beside = (replace(other, channels=edges) for other in others)
        return cls(tile, slab, number, LayeredTask((mine, *beside)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Edges of its channels."""
        return self.task.tasks[0].channels

    def detached(self) -> Piece:
        """Return the piece with no more pixels than it needs, to be sent to another process."""
        return replace(self, task=LayeredTask(tuple(one.detached() for one in self.task.tasks)))

    def on(self, tile: Task) -> LayeredTask:
        """Return the task with the image of a tile."""
        first, *others = self.task.tasks
        return LayeredTask((replace(first, image=tile.image), *others))


@dataclass(frozen=True, slots=True)
class SlabWork:
    """What is measured of every tile in a slab of channels.

    Attributes
    ----------
    works
        What is measured of each layer.
    first
        The slab's first channel.
    """

    works: tuple[TileWork, ...]
    first: int


@dataclass(frozen=True, slots=True)
class MeasuredPiece:
    """Contribution of a piece; see there."""

    slab: int
    number: int
    channels: tuple[int, int]
    part: LayersPart


class Measurements:
    """Measurements of a strip's tiles on their way: they take planes as these are read.

    Parameters
    ----------
    strip
        The strip's task.
    pieces
        What is measured of its tiles.
    slabs
        How, in each slab.
    """

    def __init__(
        self, strip: StripTask, pieces: Sequence[Piece], slabs: Sequence[SlabWork]
    ) -> None:
        self._open: dict[int, list[tuple[Piece, Steps[LayersPart], bool]]] = {}
        self._found: list[MeasuredPiece] = []
        for piece in pieces:
            slab = slabs[piece.slab]
            steps = layered_steps(piece.on(strip.tiles[piece.tile]), slab.works, slab.first)
            try:
                encoded = next(steps)
            except StopIteration as end:
                self._keep(piece, end.value)
            else:
                self._open.setdefault(piece.tile, []).append((piece, steps, encoded))

    def _keep(self, piece: Piece, part: LayersPart) -> None:
        channels = piece.channels[0], piece.channels[-1]
        self._found.append(MeasuredPiece(piece.slab, piece.number, channels, part))

    def wait_for(self, channels: tuple[int, ...], tile: int) -> bool:
        """Whether some channels of a tile are measured."""
        return any(
            piece.channels[0] < channels[-1] and channels[0] < piece.channels[-1]
            for piece, _, _ in self._open.get(tile, ())
        )

    def read_planes(self, number: int, tile: Task, encoded: bool) -> Iterator[tuple[slice, Any]]:
        """Yield the planes of a tile as `Task.read_planes` does, once they are measured."""
        mine = self._open.get(number, [])
        encoded = encoded and all(may for _, _, may in mine)
        others = mine[0][0].task.tasks[0].beside if mine else ()
        for part, planes in replace(tile, beside=others).read_planes(encoded):
            for piece, steps, _ in mine:
                if piece.channels[0] <= part.start and part.stop <= piece.channels[-1]:
                    steps.send((part, planes))
            yield part, planes

    def finish(self) -> list[MeasuredPiece]:
        """Return what was measured, when all planes have been read."""
        for some in self._open.values():
            for piece, steps, _ in some:
                self._keep(piece, finished(steps))
        return self._found
