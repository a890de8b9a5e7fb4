"""Crops against an oracle, and against everything that can go wrong while they are written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from cases import FORMS, PIXELS, Case, as_form, cases, counted_reads, threads, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from oracle import crops as cropped
from oracle import geometry, labels_in

import harpy_core as hc
from harpy_core import manifest
from harpy_core.cropping import store
from harpy_core.cropping.store import WorkFolder, sole_writer
from harpy_core.crops import Crops
from harpy_core.raster.reading import ChannelView

if TYPE_CHECKING:
    from distributed import Client


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of flushes take a minute on a slow disk, and say nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def extracted(
    case: Case, folder: str | Path, form: str = "numpy", labels_form: str = "", **options: Any
) -> Crops:
    """Crops of a case, given as some form of array."""
    image = as_form(form, case.image, case.image_chunks, folder)
    labels = as_form(labels_form or form, case.labels, case.label_chunks, folder)
    with tiles_of(case.tile):
        return hc.extract_instances(image, labels, Path(folder) / "crops", **options)


def tree(path: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def files(path: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again: its inode and time."""
    found = ((file, file.stat()) for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): (s.st_ino, s.st_mtime_ns) for file, s in found}


@given(
    case=cases(),
    form=st.sampled_from(FORMS),
    labels_form=st.sampled_from(FORMS),
    diameter=st.sampled_from([1, 2, 5, 8, 40]),
    batch_size=st.sampled_from([1, 3, 100]),
    remove_background=st.booleans(),
    engine=st.sampled_from(["numba", "numpy"]),
)
def test_crops_are_those_of_the_oracle(
    case: Case,
    form: str,
    labels_form: str,
    diameter: int,
    batch_size: int,
    remove_background: bool,
    engine: str,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = extracted(
            case,
            folder,
            form,
            labels_form,
            diameter=diameter,
            batch_size=batch_size,
            remove_background=remove_background,
            extract_mask=True,
            engine=engine,
        )
        expected = cropped(case.image, case.labels, diameter, remove_background)
        ones = np.ones((1, *case.labels.shape), "u1")
        masks = cropped(ones, case.labels, diameter, True)
        assert sorted(found.instance_id.tolist()) == sorted(expected)
        assert found.image.dtype == case.image.dtype
        images, in_mask = np.asarray(found.image[...]), np.asarray(found.mask[...])
    depth = case.labels.shape[0] if case.labels.ndim == 3 else 1
    assert images.shape[1:] == (len(case.image), depth, diameter, diameter)
    for row, label in enumerate(found.instance_id.tolist()):
        np.testing.assert_array_equal(images[row], expected[label], err_msg=str(label))
        np.testing.assert_array_equal(in_mask[row], masks[label], err_msg=str(label))
    _, centroid, _ = geometry(case.labels)
    place = np.searchsorted(labels_in(case.labels), found.instance_id)
    np.testing.assert_allclose(found.centroid, centroid[place], rtol=1e-12)


def tissue(dtype: str = "u2", size: int = 60) -> Case:
    """Some sixty round cells, many across the chunks' borders, some across the image's edge."""
    rng = np.random.default_rng(11)
    labels = np.zeros((size, size), "u4")
    y, x = np.indices(labels.shape)
    for i, (cy, cx) in enumerate(rng.integers(0, size, (70, 2))):
        labels[(y - cy) ** 2 + (x - cx) ** 2 < rng.integers(4, 20)] = 5 * i + 2
    image = rng.integers(1, 60_000, (5, size, size)).astype(dtype)
    return Case(image, labels, (2, 16, 16), (20, 60), 1)


OPTIONS = {"diameter": 13, "batch_size": 4, "extract_mask": True}


@pytest.mark.parametrize("remove_background", [True, False])
def test_the_store_is_byte_for_byte_the_same_for_every_number_of_threads(
    tmp_path: Path, remove_background: bool
) -> None:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    trees = []
    for number in (1, 2, 4, 9):
        target = tmp_path / f"crops{number}"
        with threads(number), tiles_of(1):
            hc.extract_instances(
                image, case.labels, target, remove_background=remove_background, **OPTIONS
            )
        trees.append(tree(target))
    assert trees[0]
    assert all(other == trees[0] for other in trees[1:])


@pytest.mark.parametrize("form", ["numpy", "zarr", "dask"])
def test_the_store_is_byte_for_byte_the_same_on_workers(
    form: str, client: Client, tmp_path: Path
) -> None:
    case = tissue()
    image = as_form(form, case.image, case.image_chunks, tmp_path)
    labels = as_form(form, case.labels, case.label_chunks, tmp_path)
    options = {"diameter": 13, "batch_size": 10}
    with tiles_of(1):
        hc.extract_instances(image, labels, tmp_path / "here", **options)
        hc.extract_instances(image, labels, tmp_path / "there", client=client, **options)
    assert tree(tmp_path / "here") == tree(tmp_path / "there")


@pytest.mark.parametrize("remove_background", [True, False])
def test_the_content_is_the_same_for_every_chunking(
    tmp_path: Path, remove_background: bool
) -> None:
    case = tissue()
    contents = []
    for number, (chunks, tile) in enumerate(
        [((5, 60, 60), 10**6), ((1, 7, 9), 1), ((2, 16, 60), 600), ((5, 60, 3), 1)]
    ):
        image = as_form("zarr", case.image, chunks, tmp_path)
        with tiles_of(tile):
            found = hc.extract_instances(
                image,
                case.labels,
                tmp_path / f"crops{number}",
                remove_background=remove_background,
                **OPTIONS,
            )
        contents.append(found[labels_in(case.labels)])
    for content in contents[1:]:
        np.testing.assert_array_equal(content, contents[0])


@pytest.mark.parametrize("remove_background", [True, False])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("diameter", [5, 35])
def test_each_image_chunk_is_decoded_once_though_windows_cross_tiles(
    tmp_path: Path, remove_background: bool, number: int, diameter: int
) -> None:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    with threads(number), tiles_of(1), counted_reads(image) as reads:
        hc.extract_instances(
            image,
            case.labels,
            tmp_path / "crops",
            diameter=diameter,
            batch_size=3,
            remove_background=remove_background,
            extract_mask=True,
        )
    assert set(reads.values()) == {1}
    assert len(reads) == 3 * 4 * 4


def test_a_chunk_that_holds_several_chosen_channels_is_decoded_once(tmp_path: Path) -> None:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    view = ChannelView(image, (0, 2, 3))
    with tiles_of(1), counted_reads(image) as reads:
        found = hc.extract_instances(view, case.labels, tmp_path / "crops", **OPTIONS)
    assert set(reads.values()) == {1}
    expected = cropped(case.image[[0, 2, 3]], case.labels, 13, True)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])


def test_blocks_of_a_lazy_image_are_computed_once(tmp_path: Path) -> None:
    case = tissue()
    computed: list[int] = []

    def once(block: np.ndarray) -> np.ndarray:
        computed.append(1)
        return block

    lazy = da.from_array(case.image, (2, 16, 16))
    lazy = lazy.map_blocks(once, dtype="u2", meta=np.empty(0, "u2"))
    with tiles_of(1):
        hc.extract_instances(lazy, case.labels, tmp_path / "crops", **OPTIONS)
    assert len(computed) == 3 * 4 * 4


def test_some_instances_can_be_chosen(tmp_path: Path) -> None:
    case = tissue()
    every = hc.find_instances(case.labels)
    some = type(every)(*(getattr(every, name)[5:12:3] for name in every.__slots__))
    found = hc.extract_instances(case.image, case.labels, tmp_path / "c", instances=some, **OPTIONS)
    assert sorted(found.instance_id) == sorted(some.id)
    expected = cropped(case.image, case.labels, 13, True)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])


def test_the_store_says_how_it_was_made(tmp_path: Path) -> None:
    case = tissue()
    found = extracted(case, tmp_path, "zarr", channels=list("abcde"), **OPTIONS)
    assert found.channels == list("abcde")
    assert found.diameter == 13
    assert found.attributes["remove_background"] is True
    assert found.attributes["parameters"]["batch_size"] == 4
    assert found.attributes["versions"]["harpy_core"] == hc.__version__
    assert found.image.chunks == (4, 2, 1, 13, 13)
    assert len(found.attributes["source"]) == len(found.digest) == 64


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    case = tissue()
    options = {"diameter": 13, "batch_size": 4}
    digests = []
    for number, pixel in enumerate([1, 1, 2]):
        image = case.image.copy()
        image[:, case.labels == case.labels.max()] = pixel
        target = tmp_path / str(number)
        digests.append(hc.extract_instances(image, case.labels, target, **options).digest)
    assert digests[0] == digests[1] != digests[2]


# Interrupted runs ---------------------------------------------------------------------------------


class DiedError(Exception):
    """A run that dies, as far as the test can tell."""


def interrupt_after(patch: pytest.MonkeyPatch, units: int) -> list[str]:
    """Let a run die when it has committed some units; returns the names of all it commits."""
    committed: list[str] = []
    commit = WorkFolder._commit

    def dying(self: WorkFolder, name: str, content: Any) -> None:
        if len(committed) >= units:
            raise DiedError
        commit(self, name, content)
        committed.append(name)

    patch.setattr(WorkFolder, "_commit", dying)
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


KILLED = """
import os, signal, sys, threading
from pathlib import Path
import zarr
import harpy_core as hc
from harpy_core.cropping.store import WorkFolder
from cases import tiles_of

folder, units, options = Path(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])
commit, done, lock = WorkFolder._commit, [], threading.Lock()

def dying(self, name, content):
    with lock:
        if len(done) >= units:
            os.kill(os.getpid(), signal.SIGKILL)
        commit(self, name, content)
        done.append(name)

WorkFolder._commit = dying
image, labels = (zarr.open_array(folder / name, mode="r") for name in ("zarr-0", "zarr-1"))
with tiles_of(1):
    hc.extract_instances(image, labels, folder / "crops", **options)
"""


def test_a_killed_run_goes_on_where_it_stopped(
    arrays: tuple[Any, Any], tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    target = tmp_path / "crops"
    tests = Path(__file__).parent
    place = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, "17", repr(OPTIONS)],
        env={**os.environ, "PYTHONPATH": place},
        check=False,
    )
    assert done.returncode == -9
    assert not target.exists()
    (work,) = work_folders(target)
    committed = {p.name for p in (work / "commits").iterdir() if p.name[0] != "."}
    assert len(committed) == 17
    with tiles_of(1), pytest.MonkeyPatch.context() as patch:
        second = interrupt_after(patch, 10**6)
        hc.extract_instances(*arrays, target, **OPTIONS)
    assert not committed & set(second)
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
            patch.setattr(store.shutil, "rmtree", dying)
            with pytest.raises(DiedError):
                hc.extract_instances(*arrays, target, **OPTIONS)
        assert tree(target) == undisturbed
        assert work_folders(target)
        hc.extract_instances(*arrays, target, overwrite=True, **OPTIONS)
    assert tree(target) == undisturbed
    assert not work_folders(target)


def test_without_resume_everything_is_done_again(
    arrays: tuple[Any, Any], tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    with tiles_of(1):
        with pytest.MonkeyPatch.context() as patch:
            first = interrupt_after(patch, 9)
            with pytest.raises(DiedError):
                hc.extract_instances(*arrays, tmp_path / "crops", **OPTIONS)
        with pytest.MonkeyPatch.context() as patch:
            second = interrupt_after(patch, 10**6)
            hc.extract_instances(*arrays, tmp_path / "crops", resume=False, **OPTIONS)
    assert set(first) <= set(second)
    assert tree(tmp_path / "crops") == undisturbed


@pytest.mark.parametrize(
    "change",
    [{"diameter": 14}, {"batch_size": 5}, {"remove_background": False}, {"extract_mask": False}],
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
        if Path(source).name == "store":
            raise DiedError
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        if moment == "units":
            interrupt_after(patch, 3)
        else:
            patch.setattr(manifest.os, "replace", dying)
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


IMAGE = np.zeros((2, 6, 6), "u2")
LABELS = np.eye(6, dtype="i4")


@pytest.mark.parametrize(
    ("labels", "options", "told"),
    [
        (LABELS, {"diameter": 0}, "diameter = 0: a window must be at least 1 pixel"),
        (LABELS, {"batch_size": 0}, "batch_size = 0"),
        (LABELS, {"channels": ["a"]}, "1 names for an image of 2 channels"),
        (LABELS, {"engine": "gpu9"}, "not an engine"),
        (LABELS[1:], {}, "do not cover the same pixels"),
        (LABELS.astype("f8"), {}, "labels are float64"),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(
    labels: np.ndarray, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told) as error:
        hc.extract_instances(IMAGE, labels, tmp_path / "crops", **options)
    assert isinstance(error.value, hc.InputError)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_image_without_instances_gives_an_empty_store(tmp_path: Path) -> None:
    for number, labels in enumerate([LABELS * 0, LABELS[:0]]):
        target = tmp_path / str(number)
        image = IMAGE[:, : len(labels)]
        found = hc.extract_instances(image, labels, target, diameter=5, extract_mask=True)
        assert found.image.shape == (0, 2, 1, 5, 5)
        assert len(found) == 0


@pytest.mark.parametrize("dtype", PIXELS)
@pytest.mark.parametrize("remove_background", [True, False])
def test_crops_have_the_pixel_type_of_the_image(
    dtype: str, remove_background: bool, tmp_path: Path
) -> None:
    case = tissue()
    image = (case.image % 251).astype(np.dtype(dtype).newbyteorder(">"))
    if dtype[0] == "f":
        image[0, ::3] = np.nan
        image[1, ::3] = -0.0
    with tiles_of(1):
        found = hc.extract_instances(
            as_form("zarr", image, (2, 16, 16), tmp_path),
            case.labels,
            tmp_path / "crops",
            remove_background=remove_background,
            diameter=13,
            batch_size=4,
        )
    assert found.image.dtype == np.dtype(dtype)
    expected = cropped(image, case.labels, 13, remove_background)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])
        if dtype[0] == "f":
            np.testing.assert_array_equal(np.signbit(crop[1]), np.signbit(expected[label][1]))
