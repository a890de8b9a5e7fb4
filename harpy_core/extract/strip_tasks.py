"""The work on one strip: its tiles, the windows that they fill, and what is committed together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harpy_core.extract.store import CropStore, fragments_name
from harpy_core.extract.windows import Strip
from harpy_core.running.tasks import LazyTask, Task


@dataclass(frozen=True, slots=True)
class Cut:
    """The windows of a strip, as its task needs them.

    Attributes
    ----------
    strip
        Number of the strip.
    ids : (windows,) uint64
        Label of each window: first those of the strip's own batches in their order, then those of
        its parts.
    corner : (windows, 3) int64
        First z, y and x of each window.
    angle : (windows,) float64
        Angle by which each is turned.
    crops
        Store where files are committed.
    done
        Names of the files that are committed already.
    """

    strip: Strip
    ids: np.ndarray
    corner: np.ndarray
    angle: np.ndarray
    crops: CropStore
    done: frozenset[str]

    def spans(self) -> list[WindowSpan]:
        """Spans that are committed for each chunk of channels, in the order of the windows."""
        first, last = self.strip.batches
        size = self.crops.layout.batch
        found = [WindowSpan(i * size, (i + 1) * size, first + i, None) for i in range(last - first)]
        done = len(self.strip.inside)
        for number, part in enumerate(self.strip.parts):
            after = done + len(part.instances)
            found.append(WindowSpan(done, after, number, part.bounds))
            done = after
        return found


@dataclass(frozen=True, slots=True)
class WindowSpan:
    """Windows that are committed together: a batch, or a part of a strip's fragments.

    Attributes
    ----------
    first, last
        Range of its windows among the strip's.
    number
        Number of the batch, or of the part.
    bounds
        Index of the first window of each batch in a part; None for a batch.
    """

    first: int
    last: int
    number: int
    bounds: np.ndarray | None

    def pending(self, kind: str, cut: Cut, chunk: int) -> bool:
        """Whether something of it is not committed yet."""
        if self.bounds is None:
            return bool(cut.crops.pending(kind, self.number, chunk, cut.done))
        return fragments_name(kind, (cut.strip.number, self.number), chunk) not in cut.done


@dataclass(frozen=True, slots=True)
class StripTask:
    """Some channels of a strip: its tiles from top to bottom, and the windows they fill."""

    tiles: list[Task]
    cut: Cut

    @property
    def pixels(self) -> int:
        """Image pixels of all its tiles and channels."""
        return sum(tile.pixels for tile in self.tiles)

    def detached(self) -> StripTask:
        """Return the task with no more pixels than it needs."""
        return StripTask([tile.detached() for tile in self.tiles], self.cut)


@dataclass(frozen=True, slots=True)
class LazyStripTask:
    """A strip of Dask arrays, which is one tile, and the windows it fills."""

    tile: LazyTask
    cut: Cut

    @property
    def pixels(self) -> int:
        """Image pixels of the tile and all channels."""
        return self.tile.pixels

    @property
    def labels(self) -> Any:
        """The label block."""
        return self.tile.labels

    @property
    def image(self) -> list[Any]:
        """The image blocks."""
        return self.tile.image

    def without_blocks(self) -> LazyStripTask:
        """Return the task without its blocks."""
        return LazyStripTask(self.tile.without_blocks(), self.cut)

    def on_blocks(self, labels: Any, blocks: list[Any]) -> StripTask:
        """Return the task that reads its pixels from computed blocks."""
        return StripTask([self.tile.on_blocks(labels, blocks)], self.cut)
