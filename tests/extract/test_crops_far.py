"""Crops in a bucket: those of a folder, written one by one, or no store."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cases import as_form, tiles_of
from crop_cases import tissue, tree
from killing import committed, extract_until_killed
from servers import KEYS, Bucket, S3Server, s3_server

import harpy_core as hc
from harpy_core.extract.crops import Crops
from harpy_core.storage.commits import WorkFolder

if TYPE_CHECKING:
    from distributed import Client

OPTIONS = {"diameter": 13, "batch_size": 8, "extract_mask": True}
ADDRESS = "s3://results/deep/crops"


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for the work, on a quick disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[Any, Any]:
    """The image and labels of `tissue` in a store."""
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    return image, as_form("zarr", case.labels, case.label_chunks, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of a run on the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        return on_disk(tmp_path_factory.mktemp("undisturbed"), OPTIONS)


def on_disk(folder: Path, options: dict[str, Any]) -> dict[str, bytes]:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, folder)
    labels = as_form("zarr", case.labels, case.label_chunks, folder)
    with tiles_of(1):
        hc.extract_instances(image, labels, folder / "crops", **options)
    return tree(folder / "crops")


def sent_to(bucket: Bucket, arrays: tuple[Any, Any], **options: Any) -> Crops:
    """Crops in the bucket."""
    options = {"storage_options": bucket.once, **OPTIONS, **options}
    with tiles_of(1):
        return hc.extract_instances(*arrays, ADDRESS, **options)


def there(bucket: Bucket) -> dict[str, bytes]:
    return bucket.objects("deep/crops/")


def chunks(s3: S3Server) -> list[str]:
    """Names of the objects of chunks that were sent."""
    return [name for name in s3.sent if re.search("/(image|mask)/c/", name)]


def units(server: S3Server) -> set[str]:
    """Names of the records of the chunks that were sent."""
    parts = [name.split("/") for name in chunks(server)]
    return {".".join([part[3], *part[5:7]]) for part in parts}


def failing_after(number: int) -> Callable[[str, str], int | None]:
    """Answer by which a server fails after some chunks."""
    seen: list[str] = []

    def answer(method: str, path: str) -> int | None:
        if method == "PUT" and re.search("/(image|mask)/c/", path):
            seen.append(path)
        return 403 if len(seen) > number else None

    return answer


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        {"diameter": 13, "batch_size": 2, "shard_size": 8, "codec": "zstd", "shuffle": 3},
        {"diameter": 13, "windows": {"context": {"diameter": 21}}, "remove_background": False},
    ],
)
def test_a_store_in_a_bucket_is_that_of_a_folder_byte_by_byte(
    options: dict[str, Any], bucket: Bucket, arrays: tuple[Any, Any], tmp_path: Path
) -> None:
    with tiles_of(1):
        found = hc.extract_instances(*arrays, ADDRESS, storage_options=bucket.once, **options)
    (tmp_path / "folder").mkdir()
    assert there(bucket) == on_disk(tmp_path / "folder", options)
    assert os.listdir(".") == []
    local = hc.open_crops(tmp_path / "folder/crops")
    assert found.digest == local.digest
    np.testing.assert_array_equal(found[local.instance_id], local[local.instance_id])
    for name in options.get("windows", {}):
        np.testing.assert_array_equal(found.window(name).image[...], local.window(name).image[...])


def test_crops_are_read_from_the_bucket_in_batches(
    bucket: Bucket, arrays: tuple[Any, Any], tmp_path: Path
) -> None:
    sent_to(bucket, arrays)
    far = hc.open_crops(ADDRESS, storage_options=bucket.options)
    with tiles_of(1):
        near = hc.extract_instances(*arrays, tmp_path / "near", **OPTIONS)
    for one, other in zip(*(hc.CropBatches(c).batches() for c in (far, near)), strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def test_workers_of_a_cluster_write_to_the_bucket_themselves(
    client: Client, bucket: Bucket, s3: S3Server, arrays: tuple[Any, Any], undisturbed: Any
) -> None:
    keys = {"key": KEYS["aws_access_key_id"], "secret": KEYS["aws_secret_access_key"]}
    sent_to(bucket, arrays, client=client, storage_options={**bucket.once, **keys})
    assert there(bucket) == undisturbed
    assert len(chunks(s3)) == len(set(chunks(s3)))


@pytest.mark.parametrize("number", [0, 9, 25])
def test_a_run_whose_server_fails_resumes_and_passes_for_no_store_meanwhile(
    number: int, bucket: Bucket, s3: S3Server, arrays: tuple[Any, Any], undisturbed: Any
) -> None:
    s3.answer = failing_after(number)
    with pytest.raises(hc.InputError, match=f"{ADDRESS}: cannot be written") as error:
        sent_to(bucket, arrays)
    assert "\n" not in str(error.value)
    s3.answer = lambda method, path: None
    first = set(chunks(s3))
    assert len(first) == number
    with pytest.raises(hc.InputError, match="it is not whole"):
        hc.open_crops(ADDRESS, storage_options=bucket.options)
    s3.sent.clear()
    sent_to(bucket, arrays)
    assert not first & set(chunks(s3))
    assert there(bucket) == undisturbed
    assert os.listdir(".") == []


def test_a_run_whose_server_is_gone_resumes_with_another(
    bucket: Bucket, s3: S3Server, arrays: tuple[Any, Any], undisturbed: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        record, done = WorkFolder._record, []

        def gone(self: WorkFolder, name: str, facts: dict[str, Any]) -> None:
            record(self, name, facts)
            done.append(name)
            if len(done) == 20:
                s3.stop()

        patch.setattr(WorkFolder, "_record", gone)
        with pytest.raises(hc.InputError, match=r"cannot be written .*run again: what was sent"):
            sent_to(bucket, arrays)
    with s3_server(empty=False) as other:
        again = Bucket(other.address, "results", access="private")
        sent_to(again, arrays)
        assert there(again) == undisturbed
        assert not units(other) & set(done)


def test_a_killed_run_resumes(
    bucket: Bucket, s3: S3Server, arrays: tuple[Any, Any], tmp_path: Path, undisturbed: Any
) -> None:
    options = {**OPTIONS, "storage_options": bucket.once}
    extract_until_killed(arrays, ADDRESS, 17, options)
    assert "zarr.json" not in there(bucket)
    (work,) = (path for path in Path().iterdir() if path.is_dir())
    first = committed(work)
    assert len(first) == 17
    s3.sent.clear()
    sent_to(bucket, arrays)
    assert there(bucket) == undisturbed
    assert not units(s3) & first
    assert os.listdir(".") == []


@pytest.mark.parametrize("change", ["other", "gone"])
def test_an_object_that_was_changed_meanwhile_is_written_again(
    change: str, bucket: Bucket, s3: S3Server, arrays: tuple[Any, Any], undisturbed: Any
) -> None:
    s3.answer = failing_after(12)
    with pytest.raises(hc.InputError):
        sent_to(bucket, arrays)
    s3.answer = lambda method, path: None
    (name, *_) = (name.removeprefix("results/") for name in chunks(s3))
    if change == "gone":
        bucket.client.delete_object(Bucket="results", Key=name)
    else:
        spoilt = bytearray(bucket.get(name))
        spoilt[-1] ^= 1
        bucket.client.put_object(Bucket="results", Key=name, Body=bytes(spoilt))
    s3.sent.clear()
    sent_to(bucket, arrays)
    assert f"results/{name}" in s3.sent
    assert there(bucket) == undisturbed


def test_an_object_that_changes_before_the_end_is_found(
    bucket: Bucket, arrays: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, undisturbed: Any
) -> None:
    record = WorkFolder._record

    def changing(self: WorkFolder, name: str, facts: dict[str, Any]) -> None:
        record(self, name, facts)
        if name == "image.0.1":
            bucket.client.put_object(
                Bucket="results", Key="deep/crops/image/c/0/1/0/0/0", Body=b"x" * facts["bytes"]
            )

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "_record", changing)
        with pytest.raises(hc.InputError, match="image/c/0/1/0/0/0: not what was sent"):
            sent_to(bucket, arrays)
    assert "zarr.json" not in there(bucket)
    sent_to(bucket, arrays)
    assert there(bucket) == undisturbed


def test_what_was_damaged_on_its_way_is_refused(
    bucket: Bucket, s3: S3Server, arrays: tuple[Any, Any], undisturbed: Any
) -> None:
    s3.spoil = lambda path, content: content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(hc.InputError, match=f"{ADDRESS}: cannot be written"):
        sent_to(bucket, arrays)
    assert there(bucket) == {}
    s3.spoil = lambda path, content: content
    sent_to(bucket, arrays)
    assert there(bucket) == undisturbed


def test_a_store_is_replaced_only_when_that_is_asked_for(
    bucket: Bucket, arrays: tuple[Any, Any], undisturbed: Any
) -> None:
    sent_to(bucket, arrays, diameter=15, batch_size=3)
    before = there(bucket)
    with pytest.raises(hc.InputError, match=f"{ADDRESS}: already there; .*overwrite=True"):
        sent_to(bucket, arrays)
    assert there(bucket) == before
    sent_to(bucket, arrays, overwrite=True)
    assert there(bucket) == undisturbed


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_store_is_never_replaced(
    overwrite: bool, bucket: Bucket, arrays: tuple[Any, Any]
) -> None:
    bucket.client.put_object(Bucket="results", Key="deep/crops/slides/a.tif", Body=b"pixels")
    told = r"1 objects are there that are no Zarr store, such as slides/a.tif"
    with pytest.raises(hc.InputError, match=told):
        sent_to(bucket, arrays, overwrite=overwrite)
    assert there(bucket) == {"slides/a.tif": b"pixels"}


def test_a_second_run_at_an_address_is_refused_while_the_first_is_there(
    bucket: Bucket, arrays: tuple[Any, Any], undisturbed: Any
) -> None:
    record, first, told = WorkFolder._record, threading.Lock(), []
    elsewhere = {"work_folder": "elsewhere", "batch_size": 3}

    def joined(self: WorkFolder, name: str, facts: dict[str, Any]) -> None:
        record(self, name, facts)
        if first.acquire(blocking=False):
            with pytest.raises(hc.InputError) as error:
                sent_to(bucket, arrays, **elsewhere)
            told.append(str(error.value))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkFolder, "_record", joined)
        sent_to(bucket, arrays)
    mine = f"process {os.getpid()} on {socket.gethostname()}"
    assert told[0].startswith(f"{ADDRESS}: {mine} is writing it, or was killed")
    assert told[0].endswith("wait for it, or, if it is gone, remove what is there")
    assert os.listdir("elsewhere") == []
    assert there(bucket) == undisturbed


def test_a_run_gives_way_to_one_that_was_let_in(
    bucket: Bucket, arrays: tuple[Any, Any], undisturbed: Any
) -> None:
    record, first = WorkFolder._record, threading.Lock()

    def left_alone(self: WorkFolder, name: str, facts: dict[str, Any]) -> None:
        record(self, name, facts)
        if first.acquire(blocking=False):
            mark = {"run": "another", "by": "process 1 on node 7"}
            key = "deep/crops/.unfinished"
            bucket.client.put_object(Bucket="results", Key=key, Body=json.dumps(mark))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkFolder, "_record", left_alone)
        with pytest.raises(hc.InputError, match="another run has begun to write there"):
            sent_to(bucket, arrays)
    assert "zarr.json" not in there(bucket)
    with pytest.raises(hc.InputError, match="process 1 on node 7 is writing it"):
        sent_to(bucket, arrays)
    for name in there(bucket):
        bucket.client.delete_object(Bucket="results", Key=f"deep/crops/{name}")
    sent_to(bucket, arrays)
    assert there(bucket) == undisturbed


@pytest.mark.parametrize(
    ("address", "options", "told"),
    [
        ("s3://nowhere/crops", {}, "make the bucket, or correct the address"),
        ("s3://results/crops", {"endpoint_url": "http://127.0.0.1:9"}, "or the network"),
        ("s3://results/crops", {"colour": "red"}, "storage_options|cannot be written"),
        ("s3://results", {}, "give an address like s3://bucket/folder/store.zarr"),
        ("gs://results/crops", {}, "give an address like s3://bucket/folder/store.zarr"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line_before_anything_is_read(
    address: str, options: dict[str, Any], told: str, bucket: Bucket
) -> None:
    case = tissue()
    with pytest.raises(hc.InputError, match=told) as error:
        hc.extract_instances(
            case.image, case.labels, address, storage_options={**bucket.once, **options}
        )
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(address)
    assert os.listdir(".") == []
    assert bucket.objects() == {}


def test_missing_credentials_are_told_in_one_line(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = tissue()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = {**bucket.once, "use_ssl": False}
    with pytest.raises(hc.InputError, match="or the credentials of the environment"):
        hc.extract_instances(case.image, case.labels, ADDRESS, storage_options=options)


def test_one_read_writes_table_and_crops_to_the_bucket(
    bucket: Bucket, arrays: tuple[Any, Any], tmp_path: Path
) -> None:
    far = {"storage_options": bucket.once}
    table, stats = "s3://results/deep/table", {"stats": ["mean", "max"]}
    with tiles_of(1):
        hc.aggregate_and_extract(
            *arrays, table, ADDRESS, aggregate={**stats, **far}, extract={**OPTIONS, **far}
        )
        hc.aggregate_and_extract(
            *arrays, tmp_path / "table", tmp_path / "crops", aggregate=stats, extract=OPTIONS
        )
    with pytest.raises(hc.InputError, match=f"^{ADDRESS}: the table and the crops need a place"):
        hc.aggregate_and_extract(*arrays, ADDRESS, ADDRESS + "/", aggregate=far, extract=far)
    assert there(bucket) == tree(tmp_path / "crops")
    assert bucket.objects("deep/table/") == tree(tmp_path / "table")
    assert os.listdir(".") == []
