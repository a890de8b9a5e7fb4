"""The page cache as a run finds it: filled, emptied, and told apart from links."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from harpy_core.benchmark.page_cache import InputFiles
from harpy_core.errors import InputError
from harpy_core.raster import open_raster


@pytest.fixture
def tmp_path(disk: Path) -> Path:
    """Files that a page cache stands before."""
    return disk


@pytest.fixture
def array(tmp_path: Path) -> zarr.Array:
    pixels = np.random.default_rng(0).integers(0, 2**16, (4, 512, 512)).astype(np.uint16)
    array = zarr.create_array(tmp_path / "a.zarr", data=pixels, chunks=(1, 512, 512))
    os.sync()
    return array


def test_dropped_files_are_read_from_the_disk_again(array: zarr.Array) -> None:
    files = InputFiles.of(array)
    assert files.bring_into("warm") == 1
    assert files.bring_into("cold") < 0.01
    next(path for path in files.paths if path.stat().st_size > 10**5).read_bytes()
    assert files.cached_share() == pytest.approx(1 / 4, abs=0.02)
    assert files.bring_into("warm") == 1


def test_links_are_counted_once_and_never_cold(array: zarr.Array) -> None:
    chunks = [path for path in InputFiles.of(array).paths if path.stat().st_size > 10**5]
    chunks[1].unlink()
    os.link(chunks[0], chunks[1])
    chunks[2].unlink()
    chunks[2].symlink_to(chunks[0])
    files = InputFiles.of(array)
    assert files.linked
    assert len(files.paths) - len(files.distinct) == 2
    assert files.size < 2.1 * chunks[0].stat().st_size
    with pytest.raises(InputError, match=r"^cache = cold: 5 files are 3 with links to them"):
        files.bring_into("cold")
    assert files.bring_into("warm") == 1


def test_files_larger_than_half_the_memory_are_not_called_warm(
    array: zarr.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 256))
    with pytest.raises(InputError, match=r"^cache = warm: .* measure cold$"):
        InputFiles.of(array).bring_into("warm")


def test_image_and_labels_of_a_tiff_are_two_files(tmp_path: Path) -> None:
    labels = np.zeros((64, 64), np.uint16)
    labels[3:9, 3:9] = 1
    tifffile.imwrite(tmp_path / "image.tif", np.ones((2, 64, 64), np.uint16))
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    raster = open_raster(tmp_path / "image.tif", labels=str(tmp_path / "labels.tif"))
    found = InputFiles.of(raster.image, raster.labels)
    assert [path.name for path in found.paths] == ["image.tif", "labels.tif"]


def test_what_has_no_files_has_no_state() -> None:
    files = InputFiles.of(np.zeros((2, 3)))
    assert files.paths == ()
    with pytest.raises(InputError, match="address"):
        files.bring_into("cold")
    with pytest.raises(InputError, match="cache = 'hot'"):
        files.bring_into("hot")
