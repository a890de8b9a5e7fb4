"""What the labels alone say of instances, in the tasks of any job: shapes and contacts."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from harpy_core.aggregate.neighbors import ContactPart, ContactTable
from harpy_core.aggregate.outlines import ShapePart, ShapeTable
from harpy_core.errors import InputError
from harpy_core.instances.finding import GeometryTable, Instances
from harpy_core.running.tasks import LazyTask, Task
from harpy_core.statistics.shapes import Shape
from harpy_core.tiles.grid import Region
from harpy_core.tiles.runs import Geometry, RunTable


@dataclass(frozen=True, slots=True)
class LabelWork:
    """What is measured of labels.

    Attributes
    ----------
    shapes
        Shapes of instances.
    touching
        Whether contacts are found.
    flat
        Whether the labels have two axes.
    extent
        Pixels of the labels along z, y and x.
    first
        First channel of the job: of the tasks on a tile, the one that has it does this work.
    """

    shapes: tuple[Shape, ...]
    touching: bool
    flat: bool
    extent: tuple[int, ...]
    first: int = 0

    @property
    def whole(self) -> bool:
        """Whether whole instances are needed."""
        return any(shape.whole for shape in self.shapes)

    def is_in(self, task: Task | LazyTask) -> bool:
        """Whether a task does this work."""
        return task.channels[:1] in ((), (self.first,))


@dataclass(frozen=True, slots=True)
class LabelPart:
    """What a tile's labels say.

    Attributes
    ----------
    ids : (slots,) uint64
        Labels in the tile.
    geometry
        Their geometry.
    shapes, contacts
        Contributions to shapes and contacts, if they are asked for.
    """

    ids: np.ndarray
    geometry: Geometry
    shapes: ShapePart | None
    contacts: ContactPart | None

    @classmethod
    def of(
        cls,
        work: LabelWork,
        task: Task,
        labels: np.ndarray | None,
        runs: RunTable,
        geometry: Geometry,
        kernels: ModuleType,
    ) -> LabelPart:
        """Measure a tile's labels and their runs."""
        shapes = contacts = None
        if work.shapes:
            shapes = ShapePart.of(
                runs, geometry, work.shapes, kernels, task.origin, task.split, work.flat
            )
        if work.touching:
            if labels is None:
                raise InputError(
                    "neighbors = touching: polygons may overlap, and share no sides of pixels; "
                    "give the longest distance between two centroids"
                )
            contacts = ContactPart.of(runs, labels, kernels, task.region, work.extent)
        return cls(runs.ids, geometry, shapes, contacts)


class LabelTable:
    """What the labels of all tiles say, merged as they arrive row by row.

    Parameters
    ----------
    work
        What is measured.
    instances
        All instances of the labels, if whole ones are needed.
    kernels
        The engine's module.
    """

    def __init__(self, work: LabelWork, instances: Instances | None, kernels: ModuleType) -> None:
        self._index = kernels.LabelIndex()
        self._geometry = GeometryTable()
        self._shapes = ShapeTable(work.shapes, instances, kernels, work.flat)
        self._contacts = ContactTable(self._index) if work.touching else None

    def add(self, region: Region, part: LabelPart | None) -> None:
        """Merge a tile; None is one without a label."""
        if part is not None:
            rows = self._index.rows(part.ids)
            self._geometry.add(rows, part.geometry)
            if part.shapes is not None:
                self._shapes.add(rows, part.ids, part.geometry, part.shapes)
        if self._contacts is not None:
            ids, contacts = (None, None) if part is None else (part.ids, part.contacts)
            self._contacts.add(region, ids, contacts)

    @property
    def found(self) -> Instances:
        """The instances, by id."""
        return self._geometry.instances(self._index.ids, np.argsort(self._index.ids))

    def shapes(self, ids: np.ndarray, spacing: tuple[float, ...]) -> dict[str, np.ndarray]:
        """Return each column of the shapes, (instances,) float64; NaN for labels not there.

        Parameters
        ----------
        ids
            Labels.
        spacing
            Side of a pixel along each axis of the labels.
        """
        known = self._index.ids
        order = np.argsort(known)
        place = np.searchsorted(known[order], ids)
        place[place == len(known)] = 0
        rows = order[place] if len(known) else np.zeros(len(ids), np.int64)
        present = known[rows] == ids if len(known) else np.zeros(len(ids), bool)
        there = rows[present]
        totals, bounds = self._geometry.totals[there], self._geometry.box[there]
        columns = {}
        for name, values in self._shapes.finish(there, totals, bounds, spacing).items():
            columns[name] = np.full(len(ids), np.nan)
            columns[name][present] = values
        return columns

    @property
    def contacts(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Labels of each pair that touches, and its sides along z, y and x, if asked for."""
        return None if self._contacts is None else self._contacts.finish()
