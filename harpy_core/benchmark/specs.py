"""Messages between the sweep and its measured processes: a cell, and the report of its run."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harpy_core.config.models import MEASURED
from harpy_core.errors import InputError
from harpy_core.storage.manifest import write_json

STAGES = ("aggregate", "extract")
INPUT_ERROR_STATUS = 2
"""Exit status of a run whose last line is for the user."""

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One cell of the sweep: everything the measured process has to know.

    Attributes
    ----------
    case
        Name of the case in the config.
    stage
        ``"aggregate"`` or ``"extract"``; either finds the instances within the measured time.
    engine
        Kernels that do the arithmetic, or ``"harpy"`` for the peer.
    workers, threads_per_worker
        Size of the local Dask cluster.
    memory_limit
        Of one worker, as Dask writes it (``"48GB"``); None for no limit.
    repeat
        Number of this run among equal ones.
    cache
        ``"warm"`` or ``"cold"``: the state of the page cache before the run.
    raster_json
        Path of the `RasterInfo` of what is read.
    stats
        Names of the statistics, for the stage aggregate.
    crops
        Arguments of `harpy_core.config.crops.CropSettings`, for the stage extract; the peer
        knows ``diameter`` and ``batch_size`` and always removes the background.
    python
        Interpreter of the environment the peer is installed in; None for this one.
    """

    case: str
    stage: str
    engine: str
    workers: int
    threads_per_worker: int
    raster_json: str
    memory_limit: str | None = None
    repeat: int = 0
    cache: str = "warm"
    stats: tuple[str, ...] = ("mean",)
    crops: dict[str, Any] = field(default_factory=dict)
    python: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stats", tuple(self.stats))
        if self.stage not in STAGES:
            raise InputError(f"stage = {self.stage!r}: use one of {', '.join(STAGES)}")
        if self.engine not in MEASURED:
            raise InputError(f"engine = {self.engine!r}: use one of {', '.join(MEASURED)}")
        for name in ("workers", "threads_per_worker"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be at least 1")

    @property
    def name(self) -> str:
        """Name of this cell among those of its case, as its file is called."""
        return f"{self.stage}-{self.engine}-{self.workers}-{self.cache}-{self.repeat}"

    @property
    def threads(self) -> int:
        """Threads of all workers."""
        return self.workers * self.threads_per_worker

    def to_json(self, path: StrPath) -> None:
        """Write the specification for the measured process."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def from_json(cls, path: StrPath) -> RunSpec:
        """Read what `to_json` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class StageReport:
    """Report of the measured process on its own run.

    Attributes
    ----------
    started, ended
        Readings of `time.monotonic` around the stage; the start of the cluster and the warm-up of
        its workers are not in between.
    pixels
        Image pixels the stage covers, all channels.
    tasks
        Tasks the stage was cut into; None for the peer.
    instances
        How many the stage found.
    software, python
        Name and version of what ran, and of its interpreter.
    packages
        Versions of what it stands on.
    phases
        Seconds of the workers' threads in each of `harpy_core.phases.PHASES`, by the clock and of
        the processor; empty for the peer, which does not tell.
    spilled
        Bytes that Dask's workers put on disk for want of memory.
    values
        Digest-like sums of the result, to compare engines by: sums of the table's means, or of the
        crops' pixels; see `harpy_core.benchmark.process`.
    """

    started: float
    ended: float
    pixels: int
    tasks: int | None
    software: str
    python: str
    instances: int | None = None
    packages: dict[str, str] = field(default_factory=dict)
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)
    spilled: int = 0
    values: float | None = None
