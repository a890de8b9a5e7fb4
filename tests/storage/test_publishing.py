"""A store in a bucket is the store that was copied, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from servers import Bucket

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.errors import TransientError
from harpy_core.extract.crops import Crops
from harpy_core.storage import buckets, publishing
from harpy_core.storage.buckets import Held, Objects
from harpy_core.storage.folders import staging
from harpy_core.storage.manifest import write_manifest

LABELS = np.arange(1, 401, dtype=np.uint32).reshape(20, 20).repeat(8, 0).repeat(8, 1)
IMAGE = np.random.default_rng(2).integers(0, 4096, (3, 160, 160), dtype=np.uint16)


def crops_in(folder: Path, diameter: int = 8) -> Crops:
    """Crops that a folder is to have."""
    return hc.extract_instances(
        IMAGE, LABELS, folder / "crops.zarr", diameter=diameter, batch_size=50, overwrite=True
    )


def files(folder: Path, at: str) -> dict[str, bytes]:
    """Content of every file of a folder, by the object that it is to become."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {f"{at}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in found}


def test_crops_and_their_manifest_arrive_as_they_are(tmp_path: Path, bucket: Bucket) -> None:
    crops = crops_in(tmp_path)
    write_manifest(tmp_path / "crops.manifest.json", kind="crops", digest=crops.digest)
    told = publishing.publish(tmp_path / "crops.zarr", "s3://results/a/crops.zarr", bucket.options)
    there = bucket.objects()
    declared = there.pop("a/crops.manifest.json")
    assert declared == (tmp_path / "crops.manifest.json").read_bytes()
    assert there == files(tmp_path / "crops.zarr", "a/crops.zarr")
    assert told == (len(there), len(there))


def test_a_table_is_read_from_the_bucket(tmp_path: Path, bucket: Bucket) -> None:
    import zarr

    path = tmp_path / "table.zarr"
    aggregate_to_store(IMAGE, LABELS, path, hc.find_instances(LABELS))
    publishing.publish(path, "s3://results/table.zarr", bucket.options)
    group = zarr.open_group("s3://results/table.zarr", mode="r", storage_options=bucket.options)
    np.testing.assert_array_equal(group["X"][:], anndata.read_zarr(path).X)


def test_an_interrupted_copy_has_no_root_and_resumes(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops_in(tmp_path)
    put, sent = Objects._put, []

    def dying(self: Objects, name: str, *content: Any, **conditions: str) -> Held:
        if len(sent) == 10:
            raise TransientError("cut off")
        found = put(self, name, *content, **conditions)
        sent.append(name)
        return found

    monkeypatch.setattr(buckets, "AT_ONCE", 1)
    monkeypatch.setattr(Objects, "_put", dying)
    arguments = (tmp_path / "crops.zarr", "s3://results/crops.zarr", bucket.options)
    with pytest.raises(hc.InputError, match="cut off"):
        publishing.publish(*arguments)
    assert "crops.zarr/zarr.json" not in bucket.objects()
    monkeypatch.setattr(Objects, "_put", put)
    whole, now = publishing.publish(*arguments)
    # One of the ten is the mark.
    assert now == whole - 9
    assert bucket.objects() == files(tmp_path / "crops.zarr", "crops.zarr")
    assert publishing.publish(*arguments) == (whole, 0)


def test_other_crops_replace_all_that_was_there_if_that_is_asked_for(
    tmp_path: Path, bucket: Bucket
) -> None:
    crops_in(tmp_path)
    arguments = (tmp_path / "crops.zarr", "s3://results/crops.zarr", bucket.options)
    publishing.publish(*arguments)
    bucket.put(tmp_path / "crops.zarr/zarr.json", "crops.zarr/image/c/99/0/0/0/0")
    crops_in(tmp_path, diameter=6)
    before = bucket.objects()
    with pytest.raises(hc.InputError, match=r"crops.zarr: another store is there .*--overwrite"):
        publishing.publish(*arguments)
    assert bucket.objects() == before
    publishing.publish(*arguments, overwrite=True)
    assert bucket.objects() == files(tmp_path / "crops.zarr", "crops.zarr")


def test_a_copy_that_lacks_no_more_than_its_end_resumes(tmp_path: Path, bucket: Bucket) -> None:
    crops_in(tmp_path)
    arguments = (tmp_path / "crops.zarr", "s3://results/crops.zarr", bucket.options)
    with pytest.MonkeyPatch.context() as patch:
        remove = Objects.remove

        def dying(self: Objects, names: Any) -> None:
            if publishing.MARK in names:
                raise TransientError("cut off")
            remove(self, names)

        patch.setattr(Objects, "remove", dying)
        with pytest.raises(hc.InputError, match="cut off"):
            publishing.publish(*arguments)
    publishing.publish(*arguments)
    assert bucket.objects() == files(tmp_path / "crops.zarr", "crops.zarr")


@pytest.mark.parametrize(
    ("name", "address", "told"),
    [
        ("none.zarr", "s3://results/x", "none.zarr: no finished Zarr store is there"),
        ("crops.zarr", "gs://results/x", "give an address like s3://bucket/folder/store.zarr"),
        ("crops.zarr", "s3://results", "give an address like s3://bucket/folder/store.zarr"),
        ("crops.zarr", "s3://results//x", "give an address like s3://bucket/folder/store.zarr"),
        ("crops.zarr", "s3://results/x/../y", "give an address like s3://bucket/folder/store.zarr"),
        ("crops.zarr", "s3://results/x::y", "give an address like s3://bucket/folder/store.zarr"),
        ("crops.zarr", "s3://elsewhere/x", "s3://elsewhere/x: cannot be written .*bucket"),
    ],
)
def test_what_cannot_be_copied_is_refused_in_one_line(
    name: str, address: str, told: str, tmp_path: Path, bucket: Bucket
) -> None:
    crops_in(tmp_path)
    with pytest.raises(hc.InputError, match=told) as refused:
        publishing.publish(tmp_path / name, address, bucket.options)
    assert "\n" not in str(refused.value)
    assert bucket.objects() == {}


def test_a_store_is_not_copied_over_something_else(tmp_path: Path, bucket: Bucket) -> None:
    crops_in(tmp_path)
    bucket.client.put_object(Bucket="results", Key="slides/a.tif", Body=b"pixels")
    with pytest.raises(hc.InputError, match=r"1 objects are there that are no Zarr store"):
        publishing.publish(tmp_path / "crops.zarr", "s3://results/slides", bucket.options)
    assert bucket.objects() == {"slides/a.tif": b"pixels"}


@pytest.mark.parametrize(
    "address", ["s3://results/x", "s3:/results/x", "S3://results/x", "gs://results/x"]
)
def test_what_is_made_of_several_files_is_not_written_to_an_address(address: str) -> None:
    with (
        pytest.raises(hc.InputError, match=f"^{address}: .* `harpy-core publish`"),
        staging(address),
    ):
        pass
