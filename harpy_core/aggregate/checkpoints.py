"""Results of tasks kept on disk as they arrive, so that a killed job does not start over.

What is kept is what tasks returned, before it is merged. A job that resumes merges it again, in the
order of the tasks, and its result is the same to the last bit.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from harpy_core.aggregate.slabs import COMMIT_BYTES
from harpy_core.storage.checksums import crc32c
from harpy_core.storage.commits import WorkFolder
from harpy_core.storage.manifest import digest_of

logger = logging.getLogger(__name__)

SECONDS = 10.0
"""Time between two commits: a kill costs that much work, and a short job makes none."""

_FOLDER = "results"
_HEADER = np.dtype("<u8")
"""Type of the size of a file's description, with which the file begins."""


class Checkpoints:
    """Commits of the results of a job's tasks, written by a thread beside the merging.

    The job never waits for the disk: what arrives faster than it is written is not kept, and
    measured again by a run that resumes. Nor is more kept than half of what is free on the disk. A
    context manager; it ends when all commits are on disk.

    Parameters
    ----------
    work
        Folder of the job, which is named after all that the results depend on.
    kinds
        Dataclasses that results are made of, besides builtins and NumPy's arrays and types.
    """

    def __init__(self, work: WorkFolder, kinds: Sequence[type]) -> None:
        self.work = work
        self.kinds = {kind.__name__: kind for kind in kinds}
        self._left = shutil.disk_usage(work.path).free // 2
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.shutdown()
        if kind is None and self._writing is not None:
            self._writing.result()

    def of(self, tasks: Sequence[Any]) -> Commits:
        """Return those of some channels, whose tasks are given in their order.

        Commits of the same channels that were divided into other tasks are removed.
        """
        named = [[[one.region, one.channels] for one in task.tasks] for task in tasks]
        edges = [edge for task in tasks for edge in task.tasks[0].channels] or [0]
        slab = f"{min(edges)}-{max(edges)}."
        commits = Commits(self, f"{slab}{digest_of(named)[:16]}", len(tasks))
        for name in self.work.records():
            if name.startswith(slab) and not name.startswith(commits.name):
                self.work.remove(name)
        return commits

    def is_due(self, held: int) -> bool:
        """Whether to commit results of so many bytes now."""
        return held >= COMMIT_BYTES or time.monotonic() - self._last >= SECONDS

    @property
    def is_free(self) -> bool:
        """Whether the commit before is on disk.

        Raises
        ------
        InputError
            The disk is full, or cannot be written to.
        """
        if self._writing is not None and not self._writing.done():
            return False
        if self._writing is not None:
            self._writing.result()
        return True

    def wait(self) -> None:
        """Wait until the commit before is on disk."""
        if self._writing is not None:
            self._writing.result()

    def commit(self, name: str, results: list[Any], arrays: list[np.ndarray]) -> None:
        """Commit results that were taken apart, if there is room for them."""
        described = [[array.dtype.str, array.shape] for array in arrays]
        header = json.dumps([described, results]).encode()
        content = (array.reshape(-1).view(np.uint8) for array in arrays if array.nbytes)
        parts = [_HEADER.type(len(header)).tobytes(), header, *content]
        size = sum(map(len, parts))
        self._last = time.monotonic()
        if size > self._left:
            logger.info("no more results are committed: half of the free disk is taken")
            self._left = 0
            return
        self._left -= size
        path = self.work.path / _FOLDER / name
        self._writing = self._writer.submit(self.work.commit, name, path, parts)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file of results: those of the tasks from one to before another."""

    name: str
    first: int
    last: int


class Commits:
    """Commits of the results of some tasks, each of tasks that follow on each other.

    Parameters
    ----------
    checkpoints
        Those of the job.
    name
        Name of these tasks and no others.
    number
        Number of the tasks.
    """

    def __init__(self, checkpoints: Checkpoints, name: str, number: int) -> None:
        self.name = name
        self._checkpoints = checkpoints
        self._number = number
        self._kept = list(self._found())
        self._forget(0)

    def _found(self) -> Iterator[_Kept]:
        """Yield files that are as they were committed, by their first task."""
        work = self._checkpoints.work
        for name, record in work.records().items():
            if not name.startswith(f"{self.name}."):
                continue
            first, last = map(int, name.rpartition(".")[2].split("-"))
            content = np.fromfile(work.path / record["file"], np.uint8)
            if crc32c(content) == record["crc32c"]:
                yield _Kept(name, first, last)
            else:
                logger.warning("%s: damaged; measured again", record["file"])
                work.remove(name)

    def arriving(
        self,
        tasks: Sequence[Any],
        measured: Callable[[Sequence[Any]], Iterator[tuple[Any, Any]]],
    ) -> Iterator[tuple[Any, Any]]:
        """Yield each task with its result, in their order; measure those that are not kept.

        Parameters
        ----------
        measured
            Function that yields each of some tasks with its result, in their order.
        """
        kept = {one.first: one for one in self._kept}
        done = {number for one in self._kept for number in range(one.first, one.last)}
        if done:
            logger.info("%d of %d tasks were done by an earlier run", len(done), len(tasks))
        missing = measured([task for number, task in enumerate(tasks) if number not in done])
        number = 0
        while number < len(tasks):
            if number in kept:
                for result in self._read(kept[number]):
                    yield tasks[number], result
                    number += 1
                self._forget(number)
            else:
                task, result = next(missing)
                self._add(number, result)
                number += 1
                yield task, result
        # Its threads end with it.
        next(missing, None)

    @property
    def missing(self) -> list[int]:
        """Numbers of the tasks whose results are not kept."""
        done = {number for one in self._kept for number in range(one.first, one.last)}
        return [number for number in range(self._number) if number not in done]

    def keep(self, number: int, result: Any) -> None:
        """Commit the result of one task now, in whatever order they come."""
        arrays: list[np.ndarray] = []
        taken = _apart(result, arrays)
        self._checkpoints.wait()
        self._checkpoints.commit(f"{self.name}.{number}-{number + 1}", [taken], arrays)

    def _read(self, kept: _Kept) -> Iterator[Any]:
        """Yield the results of a file."""
        work, kinds = self._checkpoints.work, self._checkpoints.kinds
        content = np.fromfile(work.path / _FOLDER / kept.name, np.uint8)
        first = _HEADER.itemsize + int(content[: _HEADER.itemsize].view(_HEADER)[0])
        described, results = json.loads(content[_HEADER.itemsize : first].tobytes())
        arrays = []
        for dtype, shape in described:
            # A copy is aligned, and can be written to, as what a task returns.
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            arrays.append(content[first : first + size].copy().view(dtype).reshape(shape))
            first += size
        for one in results:
            yield _together(one, arrays, kinds)

    def _add(self, number: int, result: Any) -> None:
        """Take what a task returned; now and then, commit what has gathered."""
        before = len(self._arrays)
        self._results.append(_apart(result, self._arrays))
        self._held += sum(array.nbytes for array in self._arrays[before:])
        if not self._checkpoints.is_due(self._held):
            return
        if self._checkpoints.is_free:
            name = f"{self.name}.{self._first}-{number + 1}"
            self._checkpoints.commit(name, self._results, self._arrays)
            self._forget(number + 1)
        elif self._held >= COMMIT_BYTES:
            self._forget(number + 1)

    def _forget(self, first: int) -> None:
        """Begin to gather with a task."""
        self._first, self._held = first, 0
        self._results: list[Any] = []
        self._arrays: list[np.ndarray] = []


def _apart(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return a result as JSON, with numbers in place of its arrays, which join `arrays`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        arrays.append(np.ascontiguousarray(value).reshape(np.shape(value)))
        return {"array": len(arrays) - 1}
    if isinstance(value, np.dtype):
        return {"dtype": value.str}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop]}
    if isinstance(value, dict):
        return {"dict": [[key, _apart(one, arrays)] for key, one in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_apart(one, arrays) for one in value]}
    fields = dataclasses.fields(value)
    inside = {field.name: _apart(getattr(value, field.name), arrays) for field in fields}
    return {type(value).__name__: inside}


def _together(value: Any, arrays: Sequence[np.ndarray], kinds: dict[str, type]) -> Any:
    """Return the result that `_apart` took apart."""
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "array":
        return arrays[inside]
    if kind == "dtype":
        return np.dtype(inside)
    if kind == "slice":
        return slice(*inside)
    if kind == "dict":
        return {key: _together(one, arrays, kinds) for key, one in inside}
    if kind in ("list", "tuple"):
        found = [_together(one, arrays, kinds) for one in inside]
        return found if kind == "list" else tuple(found)
    return kinds[kind](**{name: _together(one, arrays, kinds) for name, one in inside.items()})
