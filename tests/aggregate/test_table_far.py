"""A table in a bucket: that of a folder, sent when it is complete, or none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import zarr
from servers import Bucket, S3Server

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store

ADDRESS = "s3://results/deep/table.zarr"
LABELS = np.arange(1, 101, dtype=np.uint32).reshape(10, 10).repeat(8, 0).repeat(8, 1)
IMAGE = np.random.default_rng(2).integers(0, 4096, (3, 80, 80), dtype=np.uint16)


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for the work, on a quick disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def written(place: Any, stats: tuple[str, ...] = ("mean", "std", "count"), **options: Any) -> None:
    aggregate_to_store(IMAGE, LABELS, place, hc.find_instances(LABELS), stats, **options)


def on_disk(path: Path, stats: tuple[str, ...] = ("mean", "std", "count")) -> dict[str, bytes]:
    written(path, stats)
    found = (file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in found}


def there(bucket: Bucket) -> dict[str, bytes]:
    return bucket.objects("deep/table.zarr/")


def test_a_table_in_a_bucket_is_that_of_a_folder_byte_by_byte(
    bucket: Bucket, tmp_path: Path
) -> None:
    written(ADDRESS, storage_options=bucket.once)
    assert there(bucket) == on_disk(tmp_path / "table.zarr")
    assert os.listdir(".") == []
    group = zarr.open_group(ADDRESS, mode="r", storage_options=bucket.options)
    far, near = anndata.read_zarr(group), anndata.read_zarr(tmp_path / "table.zarr")
    assert far.obs.equals(near.obs)
    for name in near.layers:
        np.testing.assert_array_equal(far.layers[name], near.layers[name])


def test_a_table_is_read_by_its_address_alone_where_the_environment_names_the_server(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    written(Path(ADDRESS))
    assert len(anndata.read_zarr(ADDRESS)) == 100


def test_the_table_before_stays_until_all_of_the_next_is_there(
    bucket: Bucket, s3: S3Server, tmp_path: Path
) -> None:
    before = on_disk(tmp_path / "before.zarr", ("mean",))
    written(ADDRESS, ("mean",), storage_options=bucket.once)
    s3.answer = lambda method, path: 403 if "layers" in path and method == "PUT" else None
    with pytest.raises(hc.InputError, match=f"{ADDRESS}: cannot be written") as error:
        written(ADDRESS, storage_options=bucket.once)
    assert "\n" not in str(error.value)
    assert "zarr.json" not in there(bucket)
    s3.answer = lambda method, path: None
    written(ADDRESS, storage_options=bucket.once)
    assert there(bucket) == on_disk(tmp_path / "after.zarr") != before


def test_a_measurement_that_fails_leaves_the_table_before(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = on_disk(tmp_path / "before.zarr", ("mean",))
    written(ADDRESS, ("mean",), storage_options=bucket.once)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("harpy_core.aggregate.store.create_layer", stopped)
        with pytest.raises(KeyboardInterrupt):
            written(ADDRESS, storage_options=bucket.once)
    found = there(bucket)
    del found[".unfinished"]
    assert found == before
    with pytest.raises(hc.InputError, match=r"is writing it.* remove .*table.zarr/.unfinished$"):
        written(ADDRESS, storage_options=bucket.once, work_folder=tmp_path / "elsewhere")
    written(ADDRESS, storage_options=bucket.once)
    assert there(bucket) == on_disk(tmp_path / "after.zarr")


def test_what_is_no_table_is_not_replaced(bucket: Bucket) -> None:
    bucket.client.put_object(Bucket="results", Key="deep/table.zarr/notes.txt", Body=b"mine")
    with pytest.raises(hc.InputError, match="objects are there that are no Zarr store"):
        written(ADDRESS, storage_options=bucket.once)
    assert there(bucket) == {"notes.txt": b"mine"}


def test_a_server_without_conditional_writes_will_do(
    bucket: Bucket, s3: S3Server, tmp_path: Path
) -> None:
    seen: list[str] = []

    def first_mark(method: str, path: str) -> int | None:
        if method == "PUT" and path.endswith(".unfinished") and not seen:
            seen.append(path)
            return 501
        return None

    s3.answer = first_mark
    written(ADDRESS, storage_options=bucket.once)
    assert there(bucket) == on_disk(tmp_path / "table.zarr")
