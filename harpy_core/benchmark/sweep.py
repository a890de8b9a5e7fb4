"""All measured runs of a case, in a random order, and their table.

Owns which runs there are, their order, the state they start in, and `sweep.csv`. One run is
`harpy_core.benchmark.measuring`'s.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harpy_core.benchmark import rows
from harpy_core.benchmark.measuring import measure, pools
from harpy_core.benchmark.rows import Row
from harpy_core.benchmark.specs import RunSpec, StrPath
from harpy_core.config.models import PEER
from harpy_core.errors import InputError
from harpy_core.provenance import source_digest
from harpy_core.raster.info import RasterInfo
from harpy_core.storage.manifest import digest_of, write_json

if TYPE_CHECKING:
    from harpy_core.benchmark.page_cache import InputFiles

_logger = logging.getLogger("harpy_core")

# The same bytes for the same samples.
_GZIP: Any = {"method": "gzip", "compresslevel": 6, "mtime": 1}

_TOLERANCE = 1e-3
"""Relative difference of two engines' results; the peer sums in float32."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The runs of a case: every stage x engine x number of workers x state of the cache.

    Attributes
    ----------
    workers
        Numbers of workers of each stage.
    caches
        States of the page cache before a run.
    repeats
        Runs of each combination.
    seed
        Of the order: every round holds each combination once, and is shuffled.
    oversubscribe
        Measure more threads than there are cores all the same; the rows are marked.
    python
        Interpreter of the peer's environment.
    time_limit
        Minutes after which a run is ended, and a row with that reason; None for no limit.
    """

    case: str
    raster_json: str
    stages: Sequence[str]
    engines: Sequence[str]
    workers: dict[str, list[int]]
    threads_per_worker: int
    memory_limit: str | None
    crops: dict[str, Any]
    caches: Sequence[str] = ("warm",)
    repeats: int = 3
    seed: int = 0
    oversubscribe: bool = False
    python: str | None = None
    time_limit: float | None = None

    def cells(self) -> list[RunSpec]:
        """Every run, in the order in which they are measured."""
        combinations = [
            (stage, engine, workers, cache)
            for stage, engine, cache in product(self.stages, self.engines, self.caches)
            for workers in self.workers[stage]
        ]
        generator = random.Random(self.seed)
        found = []
        for repeat in range(self.repeats):
            generator.shuffle(combinations)
            found += [self._cell(*combination, repeat) for combination in combinations]
        return found

    def _cell(self, stage: str, engine: str, workers: int, cache: str, repeat: int) -> RunSpec:
        return RunSpec(
            case=self.case,
            stage=stage,
            engine=engine,
            workers=workers,
            threads_per_worker=self.threads_per_worker,
            raster_json=self.raster_json,
            memory_limit=self.memory_limit,
            repeat=repeat,
            cache=cache,
            crops=self.crops if stage == "extract" else {},
            python=self.python if engine == PEER else None,
        )


def run(
    sweep: Sweep, kept: StrPath, sweep_csv: StrPath, samples: StrPath, *, logs: StrPath
) -> None:
    """Measure every cell and write the table; a run that fails is a row with its reason.

    Runs that were measured before, with the same settings, input and code on the same machine, are
    taken from `kept`.

    Parameters
    ----------
    sweep
        What to measure.
    kept
        Folder of the rows and samples of single runs.
    sweep_csv, samples
        Paths of the table, one line a run, and of the samples of all runs (CSV in gzip).
    logs
        Folder of the runs' own output.

    Raises
    ------
    InputError
        More threads than cores, or no run that came to its end.
    """
    cells = sweep.cells()
    _check_cores(sweep, cells)
    info = RasterInfo.from_json(sweep.raster_json)
    files = _files_of(info)
    folder = Path(kept)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for order, cell in enumerate(cells):
        row = _kept(cell, info, folder) or _measured(
            cell, info, files, order, folder, Path(logs), sweep.time_limit
        )
        _logger.info("%s: %s", cell.name, row.failed or f"{row.wall_s} s")
        found.append(row)
    if all(row.failed for row in found):
        raise InputError(f"no run of {sweep.case} came to its end: {found[0].failed}")
    found = list(_compared(found))
    _write_samples([folder / f"{cell.name}.csv.gz" for cell in cells], Path(samples))
    write_table(found, sweep_csv)


def _measured(
    cell: RunSpec,
    info: RasterInfo,
    files: InputFiles,
    order: int,
    folder: Path,
    logs: Path,
    time_limit: float | None,
) -> Row:
    """One run, from the state of the cache to its row; failures but refused settings are rows."""
    path, curves = folder / f"{cell.name}.json", folder / f"{cell.name}.csv.gz"
    path.unlink(missing_ok=True)
    curves.unlink(missing_ok=True)
    known = {
        **{name: getattr(cell, name) for name in ("case", "stage", "engine", "workers")},
        **{name: getattr(cell, name) for name in ("threads_per_worker", "cache", "repeat")},
        **rows.facts(cell, info, files),
        "order": order,
        "pools": ", ".join(f"{name}={value}" for name, value in pools(cell).items()),
        "key": _key(cell, info),
    }
    try:
        share = files.bring_into(cell.cache) if files.paths else None
        log = logs / f"{cell.name}.run"
        columns, samples = measure(cell, scratch_beside=path, log=log, time_limit=time_limit)
    except (InputError, RuntimeError) as error:
        return Row(**known, failed=str(error))
    row = Row(**known, **columns, cached_share=None if share is None else round(share, 4))
    samples.assign(run=cell.name).to_csv(curves, index=False, compression=_GZIP)
    write_json(path, dataclasses.asdict(row))
    return row


def _key(cell: RunSpec, info: RasterInfo) -> str:
    code = source_digest(f"harpy_core.benchmark.{'peer' if cell.engine == PEER else 'process'}")
    machine = [rows.cpu_model(), len(os.sched_getaffinity(0))]
    return digest_of([dataclasses.asdict(cell), info.fingerprint, code, machine])


def _kept(cell: RunSpec, info: RasterInfo, folder: Path) -> Row | None:
    """The row of an earlier run of the same, or None."""
    try:
        row = Row.read(folder / f"{cell.name}.json")
    except InputError:
        return None
    return row if row.key == _key(cell, info) else None


def _check_cores(sweep: Sweep, cells: Iterable[RunSpec]) -> None:
    cores = len(os.sched_getaffinity(0))
    threads = max(cell.threads for cell in cells)
    if threads > cores and not sweep.oversubscribe:
        raise InputError(
            f"benchmark.workers: {threads} threads are more than the {cores} cores that this "
            "process may use: ask for fewer, or set oversubscribe: true"
        )


def _files_of(info: RasterInfo) -> InputFiles:
    from harpy_core.benchmark.page_cache import InputFiles
    from harpy_core.raster import open_described

    raster = open_described(info)
    return InputFiles.of(raster.image, raster.labels)


def _compared(found: Sequence[Row]) -> Iterable[Row]:
    """The rows; of one whose result is not that of the first engine, with that as its failure."""
    first: dict[str, Row] = {}
    for row in found:
        if row.values is None:
            yield row
            continue
        other = first.setdefault(row.stage, row)
        assert other.values is not None
        equal = abs(row.values - other.values) <= _TOLERANCE * max(abs(other.values), 1)
        if equal and row.instances == other.instances:
            yield row
        else:
            why = f"its result ({row.instances} instances, {row.values}) is not that of "
            why += f"{other.engine} ({other.instances}, {other.values})"
            yield dataclasses.replace(row, failed=why)


def _write_samples(curves: Iterable[Path], target: Path) -> None:
    import pandas as pd

    tables = [pd.read_csv(path) for path in curves if path.exists()]
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        pd.concat(tables, ignore_index=True).to_csv(temporary, index=False, compression=_GZIP)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(found: Iterable[Row], sweep_csv: StrPath) -> None:
    """Write rows as a table, in an order that does not depend on theirs.

    Parameters
    ----------
    found
        The runs.
    sweep_csv
        Path of the table: one line a run, the columns of `Row`.
    """
    target = Path(sweep_csv)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, rows.columns(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(dataclasses.asdict(row) for row in sorted(found, key=_place))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _place(row: Row) -> tuple[Any, ...]:
    cluster = (row.threads_per_worker, row.workers)
    return row.case, row.stage, row.engine, row.cache, *cluster, row.repeat
