"""Results on file systems that lack something are those on any other, or are refused in a line."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.raster import Raster
from harpy_core.storage.manifest import tree_digest
from harpy_core.tiling.tile import tile_raster

poor = pytest.importorskip("poor", reason="no mfusepy or libfuse", exc_type=(ImportError, OSError))
pytestmark = pytest.mark.filesystems
RNG = np.random.default_rng(4)
IMAGE = RNG.integers(0, 60_000, (4, 512, 512), dtype=np.uint16)
LABELS = np.arange(1, 1025, dtype=np.uint32).reshape(32, 32).repeat(16, 0).repeat(16, 1)


@pytest.fixture(params=poor.REFUSED)
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """What a file system refuses, and where it is mounted."""
    below, place = tmp_path / "below", tmp_path / "mounted"
    below.mkdir()
    place.mkdir()
    mount = subprocess.Popen([sys.executable, poor.__file__, below, place, request.param])
    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(place):
            assert mount.poll() is None, "it was not mounted"
            assert time.monotonic() < deadline, "it was not mounted"
            time.sleep(0.05)
        yield request.param, place
    finally:
        subprocess.run(["fusermount3", "-u", "-z", place], check=False)
        mount.wait(timeout=20)


def tried(place: Path) -> dict[str, Callable[[], Any]]:
    """What may be refused, done by hand."""
    file = place / "tried"
    file.write_bytes(bytes(8192))
    (place / "folder").mkdir()

    def locked() -> None:
        with file.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def mapped() -> None:
        with file.open("rb") as handle:
            mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ).close()

    return {
        "flock": locked,
        "O_DIRECT": lambda: os.close(os.open(file, os.O_WRONLY | os.O_DIRECT)),
        "mmap": mapped,
        "link": lambda: os.link(file, place / "second"),
        "rename": lambda: os.rename(place / "folder", place / "renamed"),
    }


def test_just_one_thing_is_refused(mounted: tuple[str, Path]) -> None:
    refused, place = mounted
    for name, do in tried(place).items():
        if name == refused:
            with pytest.raises(OSError, match=r"\S") as told:
                do()
            assert told.value.errno in (errno.ENOLCK, errno.EINVAL, errno.ENODEV, errno.EPERM)
        else:
            do()


def results(folder: Path) -> list[str]:
    """Digests of a tiled store, a table and crops, each written twice over."""
    source = zarr.create_array(folder / "image.zarr", data=IMAGE, chunks=(2, 256, 256))
    labels = zarr.create_array(folder / "labels.zarr", data=LABELS, chunks=(256, 256))
    tiled = folder / "tiled.zarr"
    for _ in range(2):
        tile_raster(Raster.of(source, labels), tiled, (4, 1024, 1024))
        raster = hc.open_raster(tiled)
        found = hc.find_instances(raster.labels)
        aggregate_to_store(raster.image, raster.labels, folder / "table.zarr", found)
        hc.extract_instances(
            raster.image,
            raster.labels,
            folder / "crops.zarr",
            diameter=24,
            batch_size=500,
            codec="none",
            instances=found,
            overwrite=True,
        )
    return [tree_digest(folder / name) for name in ("tiled.zarr", "table.zarr", "crops.zarr")]


def test_results_are_the_same_on_every_file_system_that_renames_folders(
    mounted: tuple[str, Path], tmp_path: Path
) -> None:
    refused, place = mounted
    if refused == "rename":
        with pytest.raises(hc.InputError, match=r"tiled\.zarr.*cannot write .*not permitted"):
            results(place)
        assert not (place / "tiled.zarr").exists()
        return
    plain = tmp_path / "plain"
    plain.mkdir()
    assert results(place) == results(plain)
    left = {path.name for path in place.iterdir()}
    assert left == {"image.zarr", "labels.zarr", "tiled.zarr", "table.zarr", "crops.zarr"}
