"""Files that are committed one by one, and runs that go on from them."""

from __future__ import annotations

from pathlib import Path

import google_crc32c
import pytest

from harpy_core.storage.commits import WorkFolder


def begun(target: Path, resume: bool = True) -> WorkFolder:
    work = WorkFolder(target, "key")
    work.begin(lambda folder: folder.mkdir(), resume)
    return work


def test_a_run_goes_on_from_what_was_committed(tmp_path: Path) -> None:
    work = begun(tmp_path / "store")
    work.commit("a", work.store / "c/0", [b"first", b"", b"second"])
    again = begun(tmp_path / "store")
    assert set(again.records()) == {"a"}
    record = again.records()["a"]
    assert record["crc32c"] == google_crc32c.value(b"firstsecond")
    assert record["bytes"] == 11
    assert begun(tmp_path / "store", resume=False).records() == {}


@pytest.mark.parametrize("loss", ["gone", "empty", "short"])
def test_a_file_that_the_disk_lost_is_not_committed(loss: str, tmp_path: Path) -> None:
    work = begun(tmp_path / "store")
    for name in ("a", "b"):
        work.commit(name, work.store / name, [b"pixels"])
    if loss == "gone":
        (work.store / "a").unlink()
    else:
        (work.store / "a").write_bytes(b"" if loss == "empty" else b"pixel")
    assert set(begun(tmp_path / "store").records()) == {"b"}


def test_metadata_that_was_not_finished_is_made_again(tmp_path: Path) -> None:
    def dying(folder: Path) -> None:
        folder.mkdir()
        (folder / "zarr.json").write_text("{")
        raise KeyboardInterrupt

    work = WorkFolder(tmp_path / "store", "key")
    with pytest.raises(KeyboardInterrupt):
        work.begin(dying)
    work.begin(lambda folder: folder.mkdir())
    assert list(work.store.iterdir()) == []


@pytest.mark.parametrize("name", ["store*", "sto?e", "[rs]tore"])
def test_a_result_with_an_odd_name_removes_only_its_own_work(name: str, tmp_path: Path) -> None:
    other = begun(tmp_path / "store")
    other.commit("a", other.store / "a", [b"pixels"])
    WorkFolder(tmp_path / name, "other inputs").begin(lambda folder: folder.mkdir())
    begun(tmp_path / name).finish(flushed=())
    assert set(other.records()) == {"a"}
    assert {path.name for path in tmp_path.iterdir()} == {name, other.path.name}
