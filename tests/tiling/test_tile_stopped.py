"""Tiling that fails, is killed or has no room, and the memory that it takes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilings import CHANNELS, blobs, check, inodes, store

from harpy_core.errors import InputError
from harpy_core.storage import spatialdata_store
from harpy_core.storage.locks import sole_writer
from harpy_core.storage.manifest import tree_digest
from harpy_core.tiling import tile
from harpy_core.tiling.tile import tile_raster


def test_a_failure_leaves_the_old_result_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (2, 32, 48), method="copy")
    commit, calls = tile._Block._commit, []

    def fail_late(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device", "image")
        commit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tile._Block, "_commit", fail_late)
        with pytest.raises(OSError, match="No space"):
            tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), (2, 20, 20), "copy")
    check(tmp_path / "tiled.zarr", raster, (2, 32, 48))
    found = tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), (2, 20, 20), "copy")
    assert found.kept >= 5
    check(tmp_path / "tiled.zarr", raster, (4, 64, 96))
    assert sorted(os.listdir(tmp_path)) == ["source.zarr", "tiled.zarr"]


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raster = store(tmp_path / "source.zarr")
    replace = os.replace

    def full(old: Path, new: Path) -> None:
        if "c" in Path(new).parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="what is written stays") as caught:
        tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), (2, 20, 20), "copy")
    assert "\n" not in str(caught.value)


def test_copies_that_do_not_fit_are_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster = store(tmp_path / "source.zarr")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match="or use method: link"):
        tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), method="copy")
    assert not (tmp_path / "tiled.zarr").exists()


KILLED = """
import sys
from harpy_core.raster import open_raster
from harpy_core.tiling import tile
left = int(sys.argv[3])
tile.AT_WORK = 1
commit, repeat = tile._Block._commit, tile.repeat_file
def dying(work):
    def step(*arguments):
        global left
        left -= 1
        if left < 0:
            print("stuck", flush=True)
            sys.stdin.read()
        return work(*arguments)
    return step
tile._Block._commit, tile.repeat_file = dying(commit), dying(repeat)
raster = open_raster(sys.argv[1], "image", "labels")
tile.tile_raster(raster, sys.argv[2], (4, 64, 100), (2, 16, 16), sys.argv[4], threads=1)
"""


@pytest.mark.parametrize("method", ["link", "copy"])
@pytest.mark.parametrize("committed", [3, 20, 60])
def test_a_killed_job_goes_on_where_it_stopped(tmp_path: Path, method: Any, committed: int) -> None:
    raster = store(tmp_path / "source.zarr")
    whole, path = tmp_path / "whole.zarr", tmp_path / "tiled.zarr"
    tile_raster(raster, whole, (4, 64, 100), (2, 16, 16), method)
    arguments = [tmp_path / "source.zarr", path, str(committed), method]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == b"stuck\n"
        job.kill()
    assert not path.exists()
    before = {f: f.stat() for f in tmp_path.glob(".tiled.zarr.work-*/store/*/*/s0/c/**/*")}
    kept = {s.st_ino for f, s in before.items() if f.is_file()}
    assert kept
    found = tile_raster(raster, path, (4, 64, 100), (2, 16, 16), method)
    assert found.kept >= committed
    assert kept <= set(inodes(path))
    assert tree_digest(path) == tree_digest(whole)
    check(path, raster, (4, 64, 100))
    assert sorted(os.listdir(tmp_path)) == ["source.zarr", "tiled.zarr", "whole.zarr"]


def test_two_runs_on_one_path_do_not_mix(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    with sole_writer(tmp_path / "tiled.zarr"), pytest.raises(InputError, match="is writing it"):
        tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), method="copy")


def test_what_another_source_left_is_not_taken(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    left = tmp_path / ".tiled.zarr.partial-0123456789abcdef/store/images/image/s0/c/0/0"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"of another run")
    found = tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), method="copy")
    assert found.kept == 0
    check(tmp_path / "tiled.zarr", raster, (4, 64, 96))
    assert sorted(os.listdir(tmp_path)) == ["source.zarr", "tiled.zarr"]


def test_memory_does_not_grow_with_the_target(tmp_path: Path) -> None:
    root = spatialdata_store.create(tmp_path / "source.zarr")
    rng = np.random.default_rng(0)
    image = spatialdata_store.create_image(
        root, "image", (2, 700, 700), (2, 512, 512), "u2", CHANNELS
    )
    image[...] = rng.integers(0, 4000, image.shape)
    labels = spatialdata_store.create_labels(root, "labels", (700, 700), (512, 512), "u4")
    labels[...] = blobs((700, 700))
    peaks = [peak_of_tiling(tmp_path, size) for size in (1024, 8192)]
    assert peaks[1] < peaks[0] + 60e6


def peak_of_tiling(folder: Path, size: int) -> int:
    """Peak resident bytes of a process that tiles to 4 x size x size (0.5 GB for 8192)."""
    script = """
import resource, sys
from harpy_core.raster import open_raster
from harpy_core.tiling import tile
raster = open_raster(sys.argv[1], "image", "labels")
size = int(sys.argv[3])
tile.tile_raster(raster, sys.argv[2], (4, size, size), (2, 512, 512), "copy", threads=2)
print(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""
    arguments = [folder / "source.zarr", folder / f"tiled_{size}.zarr", str(size)]
    told = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True
    )
    return 1024 * int(told.stdout.split()[-1])
