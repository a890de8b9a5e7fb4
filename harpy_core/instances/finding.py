"""The label pass: which instances there are, and where."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from harpy_core.errors import InputError, understood
from harpy_core.kernels import engine as kernels_of
from harpy_core.raster.raster import Raster
from harpy_core.raster.stored import ALL_CHUNKS, read_whole
from harpy_core.running import engines, schedule
from harpy_core.running.progress import track
from harpy_core.running.tasks import Task, label_tasks
from harpy_core.storage import codecs
from harpy_core.storage.folders import staging
from harpy_core.tiles.labels import checked_labels, mask_note
from harpy_core.tiles.runs import Geometry, measure_geometry

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Instances:
    """The instances of a segmentation, ordered by id.

    Attributes
    ----------
    id : (n,) uint64
        Label values.
    count : (n,) int64
        Pixels.
    centroid : (n, 3) float64
        Mean z, y and x of the pixels' indices.
    bbox : (n, 6) int64
        Smallest z, y and x, then the largest plus one.
    """

    id: np.ndarray
    count: np.ndarray
    centroid: np.ndarray
    bbox: np.ndarray

    def __len__(self) -> int:
        return len(self.id)

    def chosen(self, index: Sequence[int] | np.ndarray) -> Instances:
        """Some of the instances, ordered by id.

        Parameters
        ----------
        index
            Labels, each at least once.

        Raises
        ------
        InputError
            A label is not there.
        """
        wanted = np.unique(checked_labels(index, "index"))
        place = np.searchsorted(self.id, wanted)
        place[place == len(self)] = 0
        missing = wanted[self.id[place] != wanted] if len(self) else wanted
        if len(missing):
            raise InputError(
                f"index: {len(missing):,} of {len(wanted):,} labels are not in the segmentation, "
                f"the first is {missing[0]}; leave them out"
            )
        return self.rows(place)

    def at(self, index: np.ndarray) -> Instances:
        """Instances of some labels, in that order; one that is not there has no pixel."""
        place = np.searchsorted(self.id, index)
        place[place == len(self)] = 0
        present = self.id[place] == index if len(self) else np.zeros(len(index), bool)
        count = np.zeros(len(index), np.int64)
        centroid = np.full((len(index), 3), np.nan)
        bbox = np.zeros((len(index), 6), np.int64)
        for mine, all_of_them in (
            (count, self.count),
            (centroid, self.centroid),
            (bbox, self.bbox),
        ):
            mine[present] = all_of_them[place[present]]
        return Instances(index, count, centroid, bbox)

    def is_like(self, other: Instances | None) -> bool:
        """Whether another has the same instances, with as many pixels in the same boxes."""
        return other is not None and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("id", "count", "bbox")
        )

    def rows(self, rows: np.ndarray) -> Instances:
        """Return the instances at some positions, in that order."""
        return Instances(*(getattr(self, name)[rows] for name in self.__slots__))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a Zarr group of four arrays, whole or not at all."""
        with staging(path) as folder:
            group = zarr.open_group(folder, mode="w")
            for name in self.__slots__:
                values = getattr(self, name)
                chunks = tuple(max(n, 1) for n in values.shape)
                group.create_array(
                    name, data=values, chunks=chunks, compressors=codecs.PLAIN, config=ALL_CHUNKS
                )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Instances:
        """Read what `write` wrote.

        Raises
        ------
        InputError
            It is not there, or damaged.
        """
        with understood(os.fspath(path)):
            group = zarr.open_group(path, mode="r")
            arrays = (zarr.open_array(group.store_path / name, mode="r") for name in cls.__slots__)
            return cls(*map(read_whole, arrays))


class GeometryTable:
    """Geometries of tiles, merged by row."""

    def __init__(self) -> None:
        self.totals = np.zeros((0, 4), np.int64)
        self.box = np.zeros((0, 6), np.int64)

    def add(self, rows: np.ndarray, geometry: Geometry) -> None:
        """Merge the instances of a tile, each of which has one row."""
        if len(rows) and rows.max() >= len(self.totals):
            self._grow(max(2 * len(self.totals), int(rows.max()) + 1))
        self.totals[rows] += geometry.totals
        self.box[rows, :3] = np.minimum(self.box[rows, :3], geometry.box[:, :3])
        self.box[rows, 3:] = np.maximum(self.box[rows, 3:], geometry.box[:, 3:])

    def _grow(self, size: int) -> None:
        more = size - len(self.totals)
        self.totals = np.concatenate([self.totals, np.zeros((more, 4), np.int64)])
        fresh = np.zeros((more, 6), np.int64)
        fresh[:, :3] = np.iinfo(np.int64).max
        self.box = np.concatenate([self.box, fresh])

    def instances(self, ids: np.ndarray, rows: np.ndarray) -> Instances:
        """Instances of some rows, in their order."""
        totals = self.totals[rows]
        count = totals[:, 0]
        return Instances(ids[rows], count, totals[:, 1:] / count[:, None], self.box[rows])


def _locate(task: Task, engine: str) -> tuple[np.ndarray, Geometry] | None:
    kernels = kernels_of(engine)
    runs, _ = task.read_runs(kernels)
    if runs.slots == 0:
        return None
    return runs.ids, measure_geometry(runs, kernels, task.origin)


def find_instances(
    labels: Any,
    *,
    engine: str = "auto",
    client: Client | None = None,
    progress: bool = False,
    strict: bool | None = None,
) -> Instances:
    """Find every instance, in one pass over the labels.

    Parameters
    ----------
    labels
        (y, x) or (z, y, x) integers, or floats that are whole numbers: a NumPy, Dask, Zarr or
        xarray array; 0 is background.
    engine
        ``numpy``, ``numba``, ``cupy`` or ``auto``, as in `harpy_core.aggregate_stats`.
    client
        Dask client to run on; None uses the cores of this process.
    progress
        Show a progress bar.
    strict
        Make a missing chunk of a Zarr array an error that names it; otherwise it reads as the
        array's fill value, as in Zarr: background.

    Returns
    -------
    Instances
        Ordered by id.

    Raises
    ------
    InputError
        Labels are negative or no whole numbers.
    """
    raster = Raster.of(None, labels)
    tasks = label_tasks(raster, strict)
    engine = engines.resolved(engine, client)
    locate = partial(_locate, engine=engine)
    index, table = kernels_of(engine).LabelIndex(), GeometryTable()
    with track(int(np.prod(raster.labels.shape)), "instances", enabled=progress) as bar:
        for task, part in schedule.results(locate, tasks, client, lazy=raster.lazy):
            if part is not None:
                ids, geometry = part
                table.add(index.rows(ids), geometry)
            bar.advance(task.pixels)
    found = table.instances(index.ids, np.argsort(index.ids))
    tell_of_a_mask(found)
    return found


def tell_of_a_mask(found: Instances, layer: str = "labels") -> None:
    """Warn if a layer looks like a binary mask, of which all pieces are one instance."""
    note = mask_note(found.id[:2])
    if note:
        logger.warning("%s: 1 instance: %s", layer, note)
