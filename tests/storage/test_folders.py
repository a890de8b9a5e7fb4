"""Folders that appear whole, and what killed processes leave beside them."""

from __future__ import annotations

import errno
import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from harpy_core.errors import InputError
from harpy_core.storage.commits import WorkFolder
from harpy_core.storage.folders import replace_folder, staging, tidy
from harpy_core.storage.locks import sole_writer

NOBODY = 2**22 + 1
"""No process has this number: the kernel gives out smaller ones."""
HOST = socket.gethostname()


class Disk:
    """Names and contents that a power cut would keep, from the calls that a program makes."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self.synced: set[Path] = set()
        self.renamed_unsynced: list[Path] = []
        self._root = root
        fsync, replace = os.fsync, os.replace

        def watched_fsync(handle: int) -> None:
            fsync(handle)
            self.synced.add(Path(os.readlink(f"/proc/self/fd/{handle}")))

        def watched_replace(source: Any, target: Any) -> None:
            if Path(source).is_dir() and Path(target).parent == self._root:
                below = [Path(source), *Path(source).rglob("*")]
                self.renamed_unsynced += [p for p in below if p not in self.synced]
            replace(source, target)

        patch.setattr(os, "fsync", watched_fsync)
        patch.setattr(os, "replace", watched_replace)


def test_a_staged_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    with staging(tmp_path / "store") as folder:
        (folder / "a/b").mkdir(parents=True)
        for name in ("zarr.json", "a/zarr.json", "a/b/0"):
            (folder / name).write_text(name)
    assert disk.renamed_unsynced == []
    assert tmp_path in disk.synced
    assert (tmp_path / "store/a/b/0").read_text() == "a/b/0"


def test_a_finished_work_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    work = WorkFolder(tmp_path / "store", "key")
    work.begin(lambda folder: folder.mkdir())
    work.commit("one", work.store / "image/c/0", [b"pixels"])
    (work.store / "ids").write_text("written by zarr")
    work.finish(("image",))
    placed = [p for p in disk.renamed_unsynced if p.name != "0"]
    assert placed == []
    assert os.listdir(tmp_path) == ["store"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_told_with_the_folder_and_leaves_nothing(code: int, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught, staging(tmp_path / "store") as folder:
        (folder / "half").write_text("written")
        raise OSError(code, os.strerror(code))
    assert str(caught.value) == (
        f"{tmp_path / 'store'}: cannot be written ({os.strerror(code)}); free that space and run "
        "again: nothing of it is left"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_of_the_work_itself_is_not_taken_for_the_disks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staging(tmp_path / "store"):
        (tmp_path / "input").read_text()


def test_what_a_killed_process_left_goes_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        f".store.partial-{HOST}-{NOBODY}",
        f".store.old-{HOST}-{NOBODY}",
        f".store.partial-elsewhere-{NOBODY}",
        f".store.partial-{HOST}-{os.getpid() if os.getpid() != 1 else 1}",
    ):
        (tmp_path / name / "inside").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    with caplog.at_level(logging.INFO, "harpy_core"):
        tidy(tmp_path / "store")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "store",
        f".store.partial-elsewhere-{NOBODY}",
        f".store.partial-{HOST}-{os.getpid()}",
    }
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert all(f"-{HOST}-{NOBODY}: removed" in line for line in told)


def test_a_result_lost_between_two_renames_is_put_back(tmp_path: Path) -> None:
    old = tmp_path / f".store.old-{HOST}-{NOBODY}"
    old.mkdir()
    (old / "kept").write_text("old result")
    with pytest.raises(ZeroDivisionError), staging(tmp_path / "store"):
        raise ZeroDivisionError
    assert (tmp_path / "store/kept").read_text() == "old result"
    assert os.listdir(tmp_path) == ["store"]


def test_a_replacement_leaves_one_folder(tmp_path: Path) -> None:
    for name in ("new", "store"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "new", tmp_path / "store")
    assert os.listdir(tmp_path) == ["store"]
    assert os.listdir(tmp_path / "store") == ["new"]


def test_work_of_other_keys_goes_when_there_is_a_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "store"
    for key in ("older", "oldest"):
        WorkFolder(target, key).begin(lambda folder: folder.mkdir())
    (tmp_path / ".store.old-17").mkdir()
    work = WorkFolder(target, "mine")
    work.begin(lambda folder: folder.mkdir())
    assert {p.name for p in tmp_path.iterdir()} == {
        "store",
        ".store.work-older",
        ".store.work-oldest",
        ".store.work-mine",
    } - ({"store"} if not target.exists() else set())
    with caplog.at_level(logging.INFO, "harpy_core"):
        work.finish(())
    assert os.listdir(tmp_path) == ["store"]
    told = " ".join(record.getMessage() for record in caplog.records)
    assert ".store.work-older: removed" in told
    assert ".store.work-oldest: removed" in told


# Locks ------------------------------------------------------------------------------------------


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_a_file_stands_for_the_lock_where_there_are_none(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with sole_writer(target):
        assert os.listdir(tmp_path) == [".store.writer"]
        with pytest.raises(InputError) as caught, sole_writer(target):
            pass
        assert os.listdir(tmp_path) == [".store.writer"]
    assert str(caught.value) == (
        f"{target}: process {os.getpid()} on {HOST} is writing it, or was killed (this file system "
        f"has no locks to tell): wait for it, or, if it is gone, remove {tmp_path}/.store.writer"
    )
    assert os.listdir(tmp_path) == []
    with sole_writer(target):
        pass


@pytest.mark.usefixtures("no_locks")
def test_the_file_of_a_killed_writer_is_never_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".store.writer").write_text(f"process {NOBODY} on elsewhere")
    with (
        pytest.raises(InputError, match=f"process {NOBODY} on elsewhere is writing it, or was"),
        sole_writer(tmp_path / "store"),
    ):
        pass


def test_a_folder_that_cannot_be_written_to_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="file/store: cannot be written") as caught,
        sole_writer(tmp_path / "file" / "store"),
    ):
        pass
    assert "\n" not in str(caught.value)
