"""Partials of the instances of a tile or an image: made, merged and finished as declared."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harpy_core.kernels.layout import LOOPS, Loop, family_of
from harpy_core.statistics.declared import PARTIALS, Statistic
from harpy_core.statistics.tile import Tile


@dataclass(frozen=True, slots=True)
class Partials:
    """Partials of some instances, in some channels.

    Attributes
    ----------
    dtype
        Type of the pixels.
    words : (instances, c, words) uint64 each
        Words of each partial by name, as many as `PARTIALS` declares.
    """

    dtype: np.dtype
    words: dict[str, np.ndarray]

    @classmethod
    def empty(
        cls, dtype: np.dtype, partials: Sequence[str], instances: int, channels: int
    ) -> Partials:
        """Make the partials of no pixel at all: merging them changes nothing."""
        family = family_of(dtype)
        words = {}
        for name in partials:
            size = PARTIALS[name].words[family]
            words[name] = np.zeros((instances, channels, size), np.uint64)
            PARTIALS[name].arithmetic.empty(family, words[name])
        return cls(dtype, words)

    @classmethod
    def of(cls, tile: Tile, partials: Sequence[str]) -> Partials:
        """Make those of a tile's instances, in one loop over its pixels where one suffices."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            made = _looped(tile, partials)
            for name in partials:
                if name not in made:
                    made[name] = PARTIALS[name].arithmetic.make(tile, made)
        return cls(tile.planes.dtype, {name: made[name] for name in partials})

    def __len__(self) -> int:
        return len(next(iter(self.words.values())))

    @property
    def channels(self) -> int:
        """Number of channels."""
        return next(iter(self.words.values())).shape[1]

    def grown(self, instances: int) -> Partials:
        """Return the same with room for more instances."""
        larger = Partials.empty(self.dtype, tuple(self.words), instances, self.channels)
        for name, words in self.words.items():
            larger.words[name][: len(words)] = words
        return larger

    def at(self, rows: np.ndarray | slice, channels: slice) -> Partials:
        """Return those of some instances and channels; a copy where `rows` is an array."""
        return Partials(self.dtype, {n: words[rows, channels] for n, words in self.words.items()})

    def put(self, rows: np.ndarray, channels: slice, partials: Partials) -> None:
        """Store what `at` returned."""
        for name, words in self.words.items():
            words[rows, channels] = partials.words[name]

    def merge(self, other: Partials) -> None:
        """Merge those of other pixels of the same instances and channels, in place."""
        family = family_of(self.dtype)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            for name, words in self.words.items():
                PARTIALS[name].arithmetic.merge(family, words, other.words[name])

    def finish(
        self, statistics: Collection[Statistic], count: np.ndarray, **whole: Any
    ) -> dict[str, np.ndarray]:
        """Each statistic by name, (instances, c) float64.

        Parameters
        ----------
        count
            Pixels of each instance, (instances,).
        whole
            Finished partials of whole instances, where statistics need them.
        """
        each = count.reshape(-1, 1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            needed = {name for statistic in statistics for name in statistic.needs} - set(whole)
            finished = whole | {
                name: PARTIALS[name].arithmetic.finish(self.dtype, self.words, each)
                for name in needed
            }
            return {s.name: s.finish(*(finished[name] for name in s.needs)) for s in statistics}


def _looped(tile: Tile, partials: Sequence[str]) -> dict[str, np.ndarray]:
    """The partials that one loop makes: the cheapest that leaves the fewest to be made after it."""
    loops = LOOPS[tile.family]
    if not any(PARTIALS[name].words[tile.family] for name in partials):
        shape = (tile.runs.slots, len(tile.planes), 0)
        return {name: np.zeros(shape, np.uint64) for name in partials}
    loop: Loop = min(loops, key=lambda name: len(set(partials) - set(loops[name])))
    words = tile.kernels.reduce(tile.planes, *tile.table, tile.runs.slots, loop, tile.ignore_nan)
    made, place = {}, 0
    for name, size in loops[loop].items():
        made[name] = words[..., place : place + size]
        place += size
    if "count" not in made:
        made["count"] = words[..., :0]
    return made
