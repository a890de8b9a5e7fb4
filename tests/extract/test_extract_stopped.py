"""Extraction that is interrupted, killed, refused or short of disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from cases import as_form, threads, tiles_of
from crop_cases import OPTIONS, extracted, files, tissue, tree
from killing import committed, extract_until_killed
from oracle import crops as cropped
from oracle import labels_in

import harpy_core as hc
from harpy_core.config.crops import CropSettings
from harpy_core.extract.extraction import committed_bytes
from harpy_core.raster import Raster
from harpy_core.storage import commits, folders
from harpy_core.storage.commits import WorkFolder
from harpy_core.storage.locks import sole_writer


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of flushes take a minute on a slow disk, and say nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# Interrupted runs ---------------------------------------------------------------------------------


class DiedError(Exception):
    """A run that dies, as far as the test can tell."""


def interrupt_after(patch: pytest.MonkeyPatch, units: int) -> list[str]:
    """Let a run die when it has committed some units; returns the names of all it commits."""
    committed: list[str] = []
    record = WorkFolder._record

    def dying(self: WorkFolder, name: str, facts: dict[str, Any]) -> None:
        if len(committed) >= units:
            raise DiedError
        record(self, name, facts)
        committed.append(name)

    patch.setattr(WorkFolder, "_record", dying)
    return committed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    extracted(tissue(), folder, "zarr", **OPTIONS)
    return tree(folder / "crops")


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[Any, Any]:
    """The image and labels of `tissue` in a store."""
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    return image, as_form("zarr", case.labels, case.label_chunks, tmp_path)


def work_folders(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f".{target.name}.work-*"))


@pytest.mark.parametrize("units", [0, 1, 7, 30, 55])
@pytest.mark.parametrize("number", [1, 3])
def test_an_interrupted_run_goes_on_where_it_stopped(
    units: int,
    number: int,
    arrays: tuple[Any, Any],
    tmp_path: Path,
    undisturbed: dict[str, bytes],
) -> None:
    target = tmp_path / "crops"
    with threads(number), tiles_of(1):
        with pytest.MonkeyPatch.context() as patch:
            first = interrupt_after(patch, units)
            with pytest.raises(DiedError):
                hc.extract_instances(*arrays, target, **OPTIONS)
        assert not target.exists()
        (work,) = work_folders(target)
        assert {p.name for p in (work / "commits").iterdir()} == set(first)
        before = files(work / "store")
        written = {_chunk_of(name) for name in first if "fragments" not in name}
        with pytest.MonkeyPatch.context() as patch:
            second = interrupt_after(patch, 10**6)
            hc.extract_instances(*arrays, target, **OPTIONS)
    assert not set(first) & set(second)
    after = files(target)
    assert all(after[name] == before[name] for name in written)
    assert tree(target) == undisturbed
    assert not work_folders(target)


def _chunk_of(unit: str) -> str:
    array, batch, chunk = unit.split(".")
    return f"{array}/c/{batch}/{chunk}/0/0/0"


@pytest.mark.parametrize("known", [True, False])
def test_a_lazy_image_that_changed_in_place_is_cut_anew(
    known: bool, arrays: tuple[Any, Any], tmp_path: Path
) -> None:
    """Dask names an array of a path by the path; what a function loads has no name at all."""
    target, case = tmp_path / "crops", tissue()

    def lazy() -> Any:
        if known:
            return da.from_zarr(str(tmp_path / "zarr-0"))
        load = dask.delayed(lambda path: zarr.open_array(path)[...])(str(tmp_path / "zarr-0"))
        whole = da.from_delayed(load, case.image.shape, case.image.dtype)
        return whole.rechunk(case.image_chunks)

    labels = da.from_zarr(str(tmp_path / "zarr-1"))
    with tiles_of(1):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(patch, 20)
            with pytest.raises(DiedError):
                hc.extract_instances(lazy(), labels, target, **OPTIONS)
        image = zarr.open_array(tmp_path / "zarr-0", mode="r+")
        image[...] = case.image + np.uint16(1)
        found = hc.extract_instances(lazy(), labels, target, **OPTIONS)
        fresh = hc.extract_instances(lazy(), labels, tmp_path / "fresh", **OPTIONS)
    np.testing.assert_array_equal(found.image[...], fresh.image[...])


WINDOWS: dict[str, Any] = {
    "windows": {"context": {"diameter": [15, 12]}, "core": {"diameter": 4}},
    "rotate": True,
}


@pytest.mark.parametrize("more", [{}, WINDOWS], ids=["one window", "several, turned"])
def test_a_killed_run_goes_on_where_it_stopped(
    more: dict[str, Any], arrays: tuple[Any, Any], tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    target, options = tmp_path / "crops", OPTIONS | more
    if more:
        with tiles_of(1):
            whole = hc.extract_instances(*arrays, tmp_path / "whole", **options)
        undisturbed = tree(Path(whole.path))
        shutil.rmtree(whole.path)
    extract_until_killed(arrays, target, 17, options)
    assert not target.exists()
    (work,) = work_folders(target)
    first = committed(work)
    assert len(first) == 17
    with tiles_of(1), pytest.MonkeyPatch.context() as patch:
        second = interrupt_after(patch, 10**6)
        hc.extract_instances(*arrays, target, **options)
    assert not first & set(second)
    assert tree(target) == undisturbed
    assert {p.name for p in tmp_path.iterdir()} == {"zarr-0", "zarr-1", "crops"}


def test_a_run_that_dies_while_it_tidies_up_leaves_no_trap(
    arrays: tuple[Any, Any], tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    target = tmp_path / "crops"

    rmtree = shutil.rmtree

    def dying(path: Any, **options: Any) -> None:
        if (Path(path) / "commits").exists():
            raise DiedError
        rmtree(path, **options)

    with tiles_of(1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(commits.shutil, "rmtree", dying)
            with pytest.raises(DiedError):
                hc.extract_instances(*arrays, target, **OPTIONS)
        assert tree(target) == undisturbed
        assert work_folders(target)
        hc.extract_instances(*arrays, target, overwrite=True, **OPTIONS)
    assert tree(target) == undisturbed
    assert not work_folders(target)


@pytest.mark.parametrize("shuffle", [None, 3])
def test_what_a_run_has_left_on_the_disk_is_known(
    shuffle: int | None, arrays: tuple[Any, Any], tmp_path: Path
) -> None:
    target, settings = tmp_path / "crops", CropSettings.of(**OPTIONS, shuffle=shuffle)
    instances = hc.find_instances(arrays[1])
    job = (Raster.of(*arrays), instances, settings, target)
    assert committed_bytes(*job) == 0
    with pytest.MonkeyPatch.context() as patch, tiles_of(1):
        interrupt_after(patch, 40)
        with pytest.raises(DiedError):
            hc.extract_instances(*arrays, target, **OPTIONS, shuffle=shuffle)
    (work,) = work_folders(target)
    names = [path.name for path in (work / "commits").iterdir()]
    whole = [work / "store" / _chunk_of(name) for name in names if "fragments" not in name]
    waiting = [work / "spills" / name for name in names if "fragments" in name]
    counted = whole if shuffle is None else [*whole, *waiting]
    kept = sum(path.stat().st_size for path in counted)
    assert whole or waiting
    assert committed_bytes(*job) == kept > 0


@pytest.mark.parametrize(
    "change",
    [
        {"diameter": 14},
        {"batch_size": 5},
        {"remove_background": False},
        {"extract_mask": False},
        {"codec": "zstd"},
        {"shard_size": 8},
        {"shuffle": 1},
        {"dtype": "float32", "scale": 1.0},
        {"index": labels_in(tissue().labels)[:9].tolist()},
    ],
)
def test_units_of_other_parameters_are_not_taken_over(
    change: dict[str, Any], arrays: tuple[Any, Any], tmp_path: Path
) -> None:
    target = tmp_path / "crops"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 9)
        with pytest.raises(DiedError):
            hc.extract_instances(*arrays, target, **OPTIONS)
    found = hc.extract_instances(*arrays, target, **{**OPTIONS, **change})
    fresh = hc.extract_instances(*arrays, tmp_path / "fresh", **{**OPTIONS, **change})
    assert tree(target) == tree(tmp_path / "fresh")
    assert found.digest == fresh.digest


def test_units_of_another_image_are_not_taken_over(tmp_path: Path) -> None:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 9)
        with pytest.raises(DiedError):
            hc.extract_instances(image, case.labels, tmp_path / "crops", **OPTIONS)
    image[0, 0, 0] = image[0, 0, 0] + 1
    found = hc.extract_instances(image, case.labels, tmp_path / "crops", **OPTIONS)
    expected = cropped(np.asarray(image[...]), case.labels, 13, True)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])


# What stands at the path --------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_told_who_holds_the_path(tmp_path: Path) -> None:
    case = tissue()
    with sole_writer(tmp_path / "crops"):
        with pytest.raises(hc.InputError, match=f"process {os.getpid()} on .* is writing") as error:
            extracted(case, tmp_path)
        assert "\n" not in str(error.value)
    extracted(case, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["crops"]


def test_a_path_that_is_taken_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    case = tissue()
    extracted(case, tmp_path, **OPTIONS)
    before = files(tmp_path)
    with pytest.raises(hc.InputError, match=r"already there; choose another path, or .*overwrite"):
        extracted(case, tmp_path, **OPTIONS)
    assert files(tmp_path) == before


@pytest.mark.parametrize("moment", ["units", "rename"])
def test_an_overwrite_that_fails_leaves_the_old_store(tmp_path: Path, moment: str) -> None:
    case = tissue()
    extracted(case, tmp_path, **OPTIONS)
    before = tree(tmp_path / "crops")
    replace = os.replace

    def dying(source: Any, target: Any) -> None:
        if Path(source).name == "store" and Path(target) == tmp_path / "crops":
            raise DiedError
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        if moment == "units":
            interrupt_after(patch, 3)
        else:
            patch.setattr(folders.os, "replace", dying)
        with pytest.raises(DiedError):
            extracted(case, tmp_path, overwrite=True, diameter=7)
    assert tree(tmp_path / "crops") == before
    assert extracted(case, tmp_path, overwrite=True, diameter=7).diameter == 7
    assert [p.name for p in tmp_path.iterdir()] == ["crops"]


@pytest.mark.parametrize("call", range(8))
def test_a_full_disk_is_told_in_one_line_and_the_next_run_goes_on(
    call: int, tmp_path: Path
) -> None:
    case = tissue()
    fsync = os.fsync
    calls = []

    def full(handle: int) -> None:
        calls.append(1)
        if len(calls) > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with pytest.MonkeyPatch.context() as patch, threads(1):
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            hc.InputError, match=r"crops.*bytes \(No space left.*run again"
        ) as error:
            extracted(case, tmp_path, **OPTIONS)
    assert "\n" not in str(error.value)
    assert str(tmp_path / ".crops.work-") in str(error.value)
    assert not (tmp_path / "crops").exists()
    found = extracted(case, tmp_path, **OPTIONS)
    expected = cropped(case.image, case.labels, 13, True)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])


def test_a_mistake_in_the_labels_leaves_nothing_behind(tmp_path: Path) -> None:
    case = tissue()
    labels = case.labels.astype("i4")
    labels[3, 3] = -1
    with pytest.raises(hc.InputError, match="labels hold -1"):
        hc.extract_instances(case.image, labels, tmp_path / "crops")
    assert list(tmp_path.iterdir()) == []


def test_a_driver_killed_at_random_moments_does_nothing_committed_again(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    script = root / "benchmarks" / "kill_extract.py"
    options = [
        "--data",
        tmp_path,
        "--kills",
        "2",
        "--size",
        "2560",
        "--record",
        tmp_path / "r.json",
    ]
    done = subprocess.run(
        [sys.executable, script, *map(str, options)],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (rows,) = json.loads((tmp_path / "r.json").read_text())["tables"].values()
    found = {row["what"]: row["value"] for row in rows}
    assert found["times the driver was killed"] == 2
    assert found["of them committed before a kill"] > 0
    assert found["committed files done again"] == 0
