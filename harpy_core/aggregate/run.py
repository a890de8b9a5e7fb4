"""A measurement on its way: tasks, and the tables that their results are merged into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import numpy as np

from harpy_core.aggregate.label_work import LabelTable
from harpy_core.aggregate.merging import (
    Measured,
    StatisticsTable,
    TilePart,
    TileWork,
    measure_tile,
)
from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances


@dataclass(frozen=True, slots=True)
class Run:
    """A measurement of some channels.

    Attributes
    ----------
    tasks
        Tasks.
    work
        What each of them measures.
    table
        Table of statistics; None where no channel is measured.
    labels
        What the labels say, if it is asked for.
    instances
        Instances that were given.
    spacing
        Side of a pixel along each axis of the labels.
    whole
        Whether statistics need whole instances.
    """

    tasks: Any
    work: TileWork
    table: StatisticsTable | None
    labels: LabelTable | None
    instances: Instances | None
    spacing: tuple[float, ...]
    whole: bool = False

    @property
    def measure(self) -> Callable[[Any], TilePart | None]:
        """Function that measures a task."""
        return partial(measure_tile, work=self.work)

    def add(self, task: Any, part: TilePart | None) -> None:
        """Merge the result of a task."""
        if self.table is not None and part is not None:
            self.table.add(part)
        on_labels = self.work.on_labels
        if self.labels is not None and on_labels is not None and on_labels.is_in(task):
            self.labels.add(task.region, None if part is None else part.labels)

    def finish(self, index: np.ndarray | None) -> Measured:
        """Return what was measured of all instances, or of some labels."""
        if self.table is not None:
            if self.whole and not self.table.holds(self.instances):
                _refuse_others()
            found = self.table.finish(index)
        else:
            assert self.labels is not None
            there = self.labels.found
            found = Measured(there if index is None else there.at(index), {})
        if self.labels is None or self.work.on_labels is None:
            return found
        if self.work.on_labels.whole and not self.labels.found.is_like(self.instances):
            _refuse_others()
        shapes = self.labels.shapes(found.instances.id, self.spacing)
        return replace(found, shapes=shapes, contacts=self.labels.contacts)


def _refuse_others() -> NoReturn:
    raise InputError("instances: not those of the labels; find the instances of these labels again")
