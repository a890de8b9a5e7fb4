"""Statistics and crops from one read of the image.

The strips of the extraction are cut as ever; on each plane that is read for them the table's tasks
are measured too. What both make is committed to their own work folders. Each job then goes on from
its commits as a run that resumes does: its result is the same to the last bit.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harpy_core.aggregate.checkpoints import Commits
from harpy_core.aggregate.layers import LayersPart
from harpy_core.aggregate.store import TableJob
from harpy_core.errors import InputError
from harpy_core.extract.crops import Crops
from harpy_core.extract.extraction import Extraction, checked_settings, extract_instances
from harpy_core.extract.measured import MeasuredPiece, Measurements, Piece, SlabWork
from harpy_core.extract.strip_tasks import StripTask
from harpy_core.extract.tasks import cut_strip
from harpy_core.instances.finding import Instances, find_instances
from harpy_core.raster.raster import Raster
from harpy_core.running import engines, schedule
from harpy_core.running.progress import track
from harpy_core.running.tasks import LayeredTask
from harpy_core.storage.destinations import Destination
from harpy_core.storage.locks import sole_writer
from harpy_core.tiles.grid import Region

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

_NO_SETTINGS = ("index", "resume", "storage_options", "work_folder")
"""Arguments of `extract_instances` that do not say how crops are cut and kept."""


def aggregate_and_extract(
    image: Any,
    labels: Any,
    table: str | os.PathLike[str],
    crops: str | os.PathLike[str],
    *,
    aggregate: Mapping[str, Any] | None = None,
    extract: Mapping[str, Any] | None = None,
    channels: Sequence[str] | None = None,
    instances: Instances | None = None,
    engine: str = "auto",
    client: Client | None = None,
    strict: bool | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Crops:
    """Write the table of statistics and the crops of all instances, in one read of the image.

    Both are what they would be if they were made one after the other, to the last bit. A run that
    died resumes; one that died after its table was written needs `overwrite`, and makes the table
    anew. The image is read twice after all where it is a Dask array, where nothing tells
    what it holds, and where a statistic needs more of a tile than is merged from its pixels:
    whole instances (median, percentiles, rings, edges, functions), pairs of channels, or whole
    channels.

    Parameters
    ----------
    image, labels, channels, instances, engine, client, strict, progress
        See `aggregate_stats` and `extract_instances`.
    table
        Folder or address of the table, an AnnData store with a row for each instance.
    crops
        Folder or address of the crops.
    aggregate
        Other arguments of `aggregate_stats`, such as ``{"stats": ["mean", "max"]}``.
    extract
        Other arguments of `extract_instances`, such as ``{"diameter": 50}``.
    overwrite
        Replace what exists at `table` and `crops`.

    Returns
    -------
    Crops
        The finished crops; the table is read by `anndata.read_zarr`.

    Raises
    ------
    InputError
        See `aggregate_stats` and `extract_instances`.
    """
    wanted = dict(extract or {})
    places = _place(table, aggregate or {}), _place(crops, wanted)
    if str(places[0]) == str(places[1]):
        raise InputError(f"{table}: the table and the crops need a place each; give another path")
    for place in places:
        place.refuse_taken(overwrite)
    engine = engines.resolved(engine, client)
    raster = Raster.of(image, labels, channels)
    if instances is None:
        instances = find_instances(
            raster.labels, engine=engine, client=client, progress=progress, strict=strict
        )
    same: dict[str, Any] = {"channels": channels, "engine": engine, "client": client}
    job = TableJob.of(image, labels, table, instances, strict=strict, **same, **(aggregate or {}))
    read_once(job, crops, wanted, client, progress)
    job.write(client, progress)
    return extract_instances(
        image,
        labels,
        crops,
        instances=instances,
        strict=strict,
        overwrite=overwrite,
        progress=progress,
        **same,
        **wanted,
    )


def read_once(
    job: TableJob,
    crops: str | os.PathLike[str],
    extract: Mapping[str, Any],
    client: Client | None,
    progress: bool,
) -> bool:
    """Read the image for a table and for crops, and commit what both need of it.

    Parameters
    ----------
    job
        The table.
    crops
        Folder or address of the crops.
    extract
        Arguments of `extract_instances` that say what is cropped and how.

    Returns
    -------
    bool
        Whether they can share a read; nothing is done otherwise. See `aggregate_and_extract`.
    """
    if not job.shares_a_read:
        logger.info("%s: the image is read once more for it: see aggregate_and_extract", job.target)
        return False
    settings = {name: value for name, value in extract.items() if name not in _NO_SETTINGS}
    first = job.together.jobs[0]
    raster, instances = first.raster, job.instances
    if extract.get("index") is not None:
        instances = instances.chosen(extract["index"])
    target = _place(crops, extract)
    checked = checked_settings(raster, **{"diameter": 50, **settings})
    cutting = Extraction.of(raster, instances, checked, target, first.strict, first.engine, client)
    with ExitStack() as open_:
        checkpoints = open_.enter_context(job.committing())
        open_.enter_context(sole_writer(target.path))
        cutting.crops.begin(bool(extract.get("resume", True)))
        slabs, commits = [], []
        tasks: dict[Region, list[tuple[int, int, LayeredTask]]] = defaultdict(list)
        for number, edges in enumerate(job.slabs):
            _, found, works = job.together.begin(edges, client)
            slabs.append(SlabWork(works, edges[0]))
            commits.append(checkpoints.of(found))
            for missing in commits[-1].missing:
                tasks[found[missing].region].append((number, missing, found[missing]))
        threads = schedule.threads_of(client)
        strips = cutting.strip_tasks(cutting.crops.committed(), threads, first.unsplit)
        together = [
            _SharedTask.of(strip, tasks) for strip in strips if isinstance(strip, StripTask)
        ]
        work = partial(
            _cut_and_measure,
            engine=first.engine,
            remove_background=checked.remove_background,
            slabs=slabs,
        )
        gathered = _Gathered(commits, tasks)
        bar = open_.enter_context(
            track(sum(task.strip.pixels for task in together), "read", enabled=progress)
        )
        for task, pieces in schedule.results(work, together, client):
            gathered.add(pieces)
            bar.advance(task.strip.pixels)
    return True


def _place(path: str | os.PathLike[str], given: Mapping[str, Any]) -> Destination:
    return Destination.of(path, given.get("storage_options"), given.get("work_folder"))


@dataclass(frozen=True, slots=True)
class _SharedTask:
    """A strip, and what is measured of its tiles while its windows are cut."""

    strip: StripTask
    pieces: tuple[Piece, ...]

    @classmethod
    def of(
        cls, strip: StripTask, tasks: Mapping[Region, Sequence[tuple[int, int, LayeredTask]]]
    ) -> _SharedTask:
        """Find the tasks on the tiles of a strip."""
        pieces = (
            Piece.of(place, slab, number, task, tile.channels)
            for place, tile in enumerate(strip.tiles)
            for slab, number, task in tasks.get(tile.region, ())
        )
        return cls(strip, tuple(piece for piece in pieces if piece is not None))

    def detached(self) -> _SharedTask:
        """Return the task with no more pixels than it needs."""
        return _SharedTask(self.strip.detached(), tuple(one.detached() for one in self.pieces))


def _cut_and_measure(
    task: _SharedTask, engine: str, remove_background: bool, slabs: Sequence[SlabWork]
) -> list[MeasuredPiece]:
    """Cut a strip, and measure its tiles on the planes that are read for it."""
    if not task.pieces:
        cut_strip(task.strip, engine, remove_background)
        return []
    measurements = Measurements(task.strip, task.pieces, slabs)
    cut_strip(task.strip, engine, remove_background, measurements)
    return measurements.finish()


class _Gathered:
    """Contributions of tiles, committed as soon as all channels of a task are there."""

    def __init__(
        self,
        commits: Sequence[Commits],
        tasks: Mapping[Region, Sequence[tuple[int, int, LayeredTask]]],
    ) -> None:
        self._commits = commits
        self._left = {
            (slab, number): task.tasks[0].channels[-1] - task.tasks[0].channels[0]
            for some in tasks.values()
            for slab, number, task in some
        }
        self._parts: dict[tuple[int, int], list[tuple[int, LayersPart]]] = defaultdict(list)

    def add(self, pieces: Sequence[MeasuredPiece]) -> None:
        """Add what a strip's task measured."""
        for piece in pieces:
            place = piece.slab, piece.number
            self._parts[place].append((piece.channels[0], piece.part))
            self._left[place] -= piece.channels[1] - piece.channels[0]
            if not self._left[place]:
                found = sorted(self._parts.pop(place), key=lambda one: one[0])
                part = LayersPart.of_channels([one for _, one in found])
                self._commits[piece.slab].keep(piece.number, part)
