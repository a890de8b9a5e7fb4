"""Parts of plans that the stages share: what is asked, what is answered, and sizes of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harpy_core.config.crops import CropSettings
from harpy_core.planning.shapes import PIXELS_PER_RUN, WORD, TileShape
from harpy_core.statistics.asked import Stats

CELLS_PER_PIXEL = 1 / 1900
"""Density assumed before instances are counted: dense tissue at half a micron per pixel."""

TASK_BYTES = 6_000_000
"""Memory of a task however small it is (measured): its description and its result in transit, the
state of a decoder, the buffer through which files are written."""

SUM_WORDS, POWER_WORDS, GATHER_WORDS, RUN_WORDS = 4, 8, 4, 14
"""Words that an engine of whole arrays, `harpy_core.kernels.reference`, holds at most: per pixel of
a tile while pixels, or their powers, are summed; per pixel of a batch of crops; and per run while
runs are found."""

Layers = Mapping[str, Mapping[str, Any]]
"""`config.models.Layer` of each as builtins, by name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One job, before it runs.

    Attributes
    ----------
    stage
        ``instances``, ``aggregate``, ``extract``, or one of another file: ``tile``, ``embed``.
    tasks
        Number of tasks that can run at the same time.
    bytes_read
        Decoded pixels and labels; on disk they are smaller if they are compressed.
    bytes_written
        Result before compression.
    bytes_stored
        Disk space of the result: compressed as far as that is known, with temporary files, and
        without what an interrupted run has left there.
    bytes_per_task
        Memory of one running task.
    result_bytes
        Memory of the result in the process that merges it.
    instances
        Instances, counted or (None) guessed from the area.
    device_bytes_per_task
        Memory of one task on a GPU, if the engine is cupy; a worker's tasks share its GPU.
    shared_bytes
        Memory of a worker that does not grow with the number of its tasks.
    sent
        Whether the result goes to a bucket as it is made, so that only the work takes disk space.
    """

    stage: str
    tasks: int
    bytes_read: int
    bytes_written: int
    bytes_stored: int
    bytes_per_task: int
    result_bytes: int
    instances: int | None
    device_bytes_per_task: int = 0
    shared_bytes: int = 0
    sent: bool = False

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written

    def memory(self, threads: int) -> int:
        """Bytes held at most by `threads` running tasks and the result."""
        return self.shared_bytes + threads * self.bytes_per_task + self.result_bytes


@dataclass(frozen=True, slots=True)
class StageSettings:
    """Settings of a stage, as in `stage_plan`; `whole_arrays` is its engine's.

    A distance between neighbours is in pixels.
    """

    stats: Stats
    layers: Layers
    derived: int
    neighbors: str | float | None
    whole_channels: bool
    crops: CropSettings
    ratio: float
    committed: int
    sent: bool
    densest: int | None
    threads: int
    whole_arrays: bool


def finding_bytes(shape: TileShape) -> int:
    """Bytes that an engine of whole arrays takes to find runs: changes of labels, and columns."""
    return 2 * shape.tile + shape.tile // PIXELS_PER_RUN * RUN_WORDS * WORD


def instances_in_tile(shape: TileShape, number: int, asked: StageSettings) -> int:
    """Number of instances of the densest tile; tissue is seldom twice as dense as on average."""
    if asked.densest is not None:
        return asked.densest
    return min(math.ceil(2 * number * shape.tile / shape.plane), number)


def reach_of(shape: TileShape, number: int) -> int:
    """Distance of instances: a cell is no longer than that."""
    return math.ceil(math.sqrt(shape.plane / shape.depth / max(number, 1)))


def instances_plan(shape: TileShape, number: int, known: int | None, asked: StageSettings) -> Plan:
    """Plan the pass over the labels that finds all instances."""
    per_instance = WORD * (1 + 1 + 3 + 6)
    return Plan(
        stage="instances",
        tasks=shape.tiles,
        bytes_read=shape.plane * shape.label,
        bytes_written=number * per_instance,
        bytes_stored=number * per_instance,
        bytes_per_task=(
            TASK_BYTES
            + shape.label_buffer
            + shape.chunk_buffer
            + shape.label_file
            + asked.whole_arrays * finding_bytes(shape)
        ),
        result_bytes=3 * number * per_instance,
        instances=known,
        device_bytes_per_task=shape.device_labels,
    )
