"""A store in a bucket is the store that was copied, or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import requests
from servers import KEYS, Bucket, s3_served

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.extract.crops import Crops
from harpy_core.storage import publishing
from harpy_core.storage.manifest import write_manifest

LABELS = np.arange(1, 401, dtype=np.uint32).reshape(20, 20).repeat(8, 0).repeat(8, 1)
IMAGE = np.random.default_rng(2).integers(0, 4096, (3, 160, 160), dtype=np.uint16)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket that the environment has the keys of."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["aws_secret_access_key"])
    with s3_served() as endpoint:
        # All servers of a process have the same buckets.
        requests.post(f"{endpoint}/moto-api/reset").raise_for_status()
        yield Bucket(endpoint, "results", access="private")


def crops_in(folder: Path, diameter: int = 8) -> Crops:
    """Crops that a folder is to have."""
    return hc.extract_instances(
        IMAGE, LABELS, folder / "crops.zarr", diameter=diameter, batch_size=50, overwrite=True
    )


def objects(bucket: Bucket) -> dict[str, bytes]:
    """Content of every object of a bucket."""
    listed = bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", [])
    return {
        each["Key"]: bucket.client.get_object(Bucket=bucket.name, Key=each["Key"])["Body"].read()
        for each in listed
    }


def files(folder: Path, at: str) -> dict[str, bytes]:
    """Content of every file of a folder, by the object that it is to become."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {f"{at}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in found}


def test_crops_and_their_manifest_arrive_as_they_are(tmp_path: Path, bucket: Bucket) -> None:
    crops = crops_in(tmp_path)
    write_manifest(tmp_path / "crops.manifest.json", kind="crops", digest=crops.digest)
    told = publishing.publish(tmp_path / "crops.zarr", "s3://results/a/crops.zarr", bucket.options)
    there = objects(bucket)
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
    send, sent = publishing._Bucket._send_one, []

    def dying(self: Any, pair: tuple[str, Path]) -> None:
        if len(sent) == 10:
            raise ConnectionResetError("cut off")
        sent.append(pair[0])
        send(self, pair)

    monkeypatch.setattr(publishing, "AT_ONCE", 1)
    monkeypatch.setattr(publishing._Bucket, "_send_one", dying)
    arguments = (tmp_path / "crops.zarr", "s3://results/crops.zarr", bucket.options)
    with pytest.raises(hc.InputError, match=r"cannot be written .*cut off.*; .*stays"):
        publishing.publish(*arguments)
    assert "crops.zarr/zarr.json" not in objects(bucket)
    monkeypatch.setattr(publishing._Bucket, "_send_one", send)
    whole, now = publishing.publish(*arguments)
    assert now == whole - 10
    assert objects(bucket) == files(tmp_path / "crops.zarr", "crops.zarr")
    assert publishing.publish(*arguments) == (whole, 0)


def test_other_crops_replace_all_that_was_there(tmp_path: Path, bucket: Bucket) -> None:
    crops_in(tmp_path)
    arguments = (tmp_path / "crops.zarr", "s3://results/crops.zarr", bucket.options)
    publishing.publish(*arguments)
    bucket.put(tmp_path / "crops.zarr/zarr.json", "crops.zarr/image/c/99/0/0/0/0")
    crops_in(tmp_path, diameter=6)
    publishing.publish(*arguments)
    assert objects(bucket) == files(tmp_path / "crops.zarr", "crops.zarr")


@pytest.mark.parametrize(
    ("name", "address", "told"),
    [
        ("none.zarr", "s3://results/x", "none.zarr: no finished Zarr store is there"),
        ("crops.zarr", "gs://results/x", "give an address like s3://bucket/folder/crops.zarr"),
        ("crops.zarr", "s3://results", "give an address like s3://bucket/folder/crops.zarr"),
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
    assert objects(bucket) == {}


def test_a_result_is_not_written_to_an_address(tmp_path: Path) -> None:
    with pytest.raises(hc.InputError, match=r"s3://results/x: .* `harpy-core publish`"):
        hc.extract_instances(IMAGE, LABELS, "s3://results/x")
    with pytest.raises(hc.InputError, match=r"s3:/results/x: .* `harpy-core publish`"):
        aggregate_to_store(IMAGE, LABELS, Path("s3://results/x"), hc.find_instances(LABELS))
