"""Jobs that are killed or whose system calls fail, and the result of one that nothing happened to.

A job writes a result and then its manifest into a folder of its own. The oracle of all of them: in
the end the result is the undisturbed one; and whatever failed was told in one line of error, with
no manifest.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from crop_cases import tissue

import harpy_core as hc
from harpy_core.aggregate import checkpoints
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.raster import open_raster
from harpy_core.running import schedule
from harpy_core.storage import spatialdata_store
from harpy_core.storage.manifest import tree_digest, write_manifest
from harpy_core.tiling.tile import tile_raster

CALLS = ("write", "fsync", "replace")
"""System calls of a commit, each by its name in `os`."""


def make_source(folder: Path) -> None:
    """An image and labels of a few tiles."""
    case = tissue()
    root = spatialdata_store.create(folder)
    names = [str(c) for c in range(len(case.image))]
    image = spatialdata_store.create_image(
        root, "image", case.image.shape, (2, 24, 24), case.image.dtype, names
    )
    image[...] = case.image
    labels = spatialdata_store.create_labels(root, "labels", case.labels.shape, (24, 24), "u4")
    labels[...] = case.labels


def tile(source: Path, out: Path) -> None:
    """The source repeated."""
    raster = open_raster(source, image="image", labels="labels")
    tile_raster(raster, out / "result.zarr", (4, 100, 90), (2, 40, 40), "copy", threads=1)


def aggregate(source: Path, out: Path) -> None:
    """The table of the source's instances, each of its tasks committed."""
    image, labels = arrays(source)
    found = hc.find_instances(labels)
    with each_committed():
        aggregate_to_store(image, labels, out / "result.zarr", found, region="labels")


class _AtOnce:
    """A pool that does in its caller's thread what it is given."""

    def __init__(self, threads: int) -> None:
        assert threads == 1

    def submit(self, function: Callable[..., None], *arguments: Any) -> Future[None]:
        done: Future[None] = Future()
        try:
            done.set_result(function(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self) -> None:
        """Nothing is left to do."""


@contextmanager
def each_committed() -> Iterator[None]:
    """Commit the result of each task that is measured, before the next one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "SECONDS", 0.0)
        patch.setattr(checkpoints, "ThreadPoolExecutor", _AtOnce)
        yield


def extract(source: Path, out: Path) -> None:
    """The crops of the source's instances."""
    image, labels = arrays(source)
    hc.extract_instances(
        image, labels, out / "result.zarr", diameter=13, batch_size=8, overwrite=True
    )


def instances(source: Path, out: Path) -> None:
    """The source's instances."""
    hc.find_instances(arrays(source)[1]).write(out / "result.zarr")


JOBS: dict[str, Callable[[Path, Path], None]] = {
    job.__name__: job for job in (tile, aggregate, extract, instances)
}


def arrays(source: Path) -> tuple[zarr.Array, zarr.Array]:
    """Image and labels of a store."""
    names = ("images/image/s0", "labels/labels/s0")
    image, labels = (zarr.open_array(source / name, mode="r") for name in names)
    return image, labels


def run(job: str, source: Path, out: Path) -> None:
    """Do a job on one thread, so that its calls come in one order, and declare it whole."""
    threads = schedule.threads_of
    schedule.threads_of = lambda client: 1
    try:
        JOBS[job](source, out)
    finally:
        schedule.threads_of = threads
    digest = tree_digest(out / "result.zarr")
    write_manifest(out / "result.manifest.json", kind=job, digest=digest)


@contextmanager
def at_call(number: int, act: Callable[[str], None]) -> Iterator[list[str]]:
    """Act in place of one of the system calls, counted from 0; yields the calls so far."""
    real = {name: getattr(os, name) for name in CALLS}
    seen: list[str] = []
    lock = threading.Lock()

    def instead(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with lock:
                seen.append(name)
                mine = len(seen) - 1 == number
            if mine:
                act(name)
            return real[name](*arguments, **options)

        return call

    try:
        for name in CALLS:
            setattr(os, name, instead(name))
        yield seen
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def failing(code: int) -> Callable[[str], None]:
    """A cause that makes a call fail."""

    def act(name: str) -> None:
        raise OSError(code, os.strerror(code))

    return act


def _die(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _run_and_die(number: int, job: str, source: Path, out: Path) -> None:
    with at_call(number, _die):
        run(job, source, out)


def run_killed(number: int, job: str, source: Path, out: Path) -> int | None:
    """Do a job in a process of its own that is killed at a call; its exit status."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["faults"])
    process = context.Process(target=_run_and_die, args=(number, job, source, out))
    # The server looks for what it is to load by its environment alone.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        process.start()
    process.join()
    return process.exitcode


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is such a disk: flushing waits for nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A small disk of its own, mounted at a folder; for root."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, timeout=60
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=60)


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a disk."""
    if os.geteuid() != 0 or sys.platform != "linux":
        return False
    try:
        with disk(folder / "try", 2**16):
            return True
    except (OSError, subprocess.SubprocessError):
        return False


def closed(folder: Path, readonly: bool) -> None:
    """Make a mounted disk read-only, or writable again."""
    how = "remount,ro" if readonly else "remount,rw"
    subprocess.run(["mount", "-o", how, folder], check=True, timeout=60)


def positions(calls: int, count: int, seed: int) -> list[int]:
    """Some of the calls of a job, spread over it, the last ones among them: they rename."""
    inner = np.random.default_rng(seed).choice(calls, min(count, calls), replace=False)
    return sorted({*inner.tolist(), calls - 1, max(calls - 4, 0)})


FULL = errno.ENOSPC
BROKEN = errno.EIO
