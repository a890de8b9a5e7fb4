"""Stores at an address: the same pixels as from the disk, patience, a cache, and one clear line."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from servers import Bucket, FileServer, files_served, google_served, s3_served
from stores import assert_is_whole, cells, ome_zarr, pixels

import harpy_core as hc
from harpy_core.raster import RasterInfo, describe, open_described, open_raster
from harpy_core.raster import remote_store as remote
from harpy_core.raster.chunks import ChunkFiles

if TYPE_CHECKING:
    from distributed import Client


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "DELAYS", (0.01, 0.01, 0.01))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same image in every kind of store."""
    folder = tmp_path_factory.mktemp("stores")
    for version in ("0.4", "0.5"):
        ome_zarr(folder / f"v{version}.zarr", version)
        labels = zarr.open_group(folder / f"v{version}.zarr" / "labels")
        labels.attrs.update({"labels": ["cells"]})
    sharded = zarr.open_group(folder / "sharded.zarr", mode="w")
    sharded.create_array("image", data=pixels(), chunks=(1, 8, 8), shards=(3, 16, 32))
    sharded.create_array("cells", data=cells(), chunks=(16, 16))
    write_spatialdata(folder / "sdata.zarr")
    shutil.make_archive(str(folder / "packed.zarr"), "zip", folder / "v0.5.zarr")
    with zipfile.ZipFile(folder / "wrapped.zarr.zip", "w") as archive:
        for file in (folder / "sharded.zarr").rglob("*"):
            archive.write(file, Path("sharded.zarr", file.relative_to(folder / "sharded.zarr")))
    return folder


def write_spatialdata(path: Path) -> None:
    import spatialdata
    from spatialdata.models import Image2DModel, Labels2DModel

    image = Image2DModel.parse(pixels(), dims=("c", "y", "x"), c_coords=["DAPI", "CD3", "CD20"])
    labels = Labels2DModel.parse(cells(), dims=("y", "x"))
    spatialdata.SpatialData(images={"he": image}, labels={"cells": labels}).write(path)


@pytest.fixture
def server(stores: Path) -> Iterator[FileServer]:
    with files_served(stores) as started:
        yield started


@pytest.fixture(scope="module")
def bucket(stores: Path) -> Iterator[Bucket]:
    with s3_served() as endpoint:
        made = Bucket(endpoint, "public")
        for place in stores.iterdir():
            made.put(place, f"deep/{place.name}")
        yield made


@pytest.fixture(scope="module")
def google(stores: Path) -> Iterator[dict[str, Any]]:
    """Options with which `open_raster` finds a Google Cloud Storage with the stores in a bucket."""
    with pytest.MonkeyPatch.context() as patch:
        # With five, the sixth of the connections that come together waits a second.
        patch.setattr(HTTPServer, "request_queue_size", 64)
        # gcsfs asks for the kind of a bucket over gRPC, which the emulator does not speak.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        with google_served(stores, "open-bucket") as endpoint:
            yield {"endpoint_url": endpoint}


NAMED = {
    "v0.4.zarr": {},
    "v0.5.zarr": {},
    "sdata.zarr": {},
    "packed.zarr.zip": {},
    "sharded.zarr": {"image": "image", "labels": "cells"},
    "wrapped.zarr.zip": {"image": "image", "labels": "cells"},
}


def assert_is_right(raster: Any) -> None:
    assert_is_whole(raster, raster.channels)
    assert raster.channels in (["DAPI", "CD3", "CD20"], ["0", "1", "2"])


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("cached", [False, True])
def test_a_store_in_a_bucket_is_read_anonymously(
    name: str, cached: bool, bucket: Bucket, tmp_path: Path
) -> None:
    raster = open_raster(
        f"s3://public/deep/{name}",
        **NAMED[name],
        storage_options=bucket.options,
        cache=tmp_path if cached else None,
    )
    assert_is_right(raster)
    assert any(tmp_path.iterdir()) == cached


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("cached", [False, True])
def test_a_store_at_google_is_read_anonymously(
    name: str, cached: bool, google: dict[str, Any], tmp_path: Path
) -> None:
    raster = open_raster(
        f"gs://open-bucket/{name}",
        **NAMED[name],
        storage_options=google,
        cache=tmp_path if cached else None,
    )
    assert_is_right(raster)
    assert any(tmp_path.iterdir()) == cached


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("gs://open-bucket/none.zarr", "no Zarr group there; give the address of"),
        ("gs://open-bucket/none.zarr.zip", "nothing there"),
        ("gs://elsewhere/v0.5.zarr", "no Zarr group there; give the address of"),
    ],
)
def test_what_is_not_at_google_is_told_in_one_line(
    address: str, told: str, google: dict[str, Any]
) -> None:
    with pytest.raises(hc.InputError, match=f"{address}: {told}") as error:
        open_raster(address, storage_options=google)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMED)
def test_a_store_on_a_web_server_is_read_without_listings(name: str, server: FileServer) -> None:
    assert_is_right(open_raster(f"{server.url}/{name}", **NAMED[name]))


@pytest.mark.parametrize("name", ["sharded.zarr", "v0.5.zarr"])
def test_a_server_that_ignores_ranges_gives_the_same_pixels(name: str, server: FileServer) -> None:
    server.ranges = False
    assert_is_right(open_raster(f"{server.url}/{name}", **NAMED[name]))


def test_a_table_made_by_workers_is_that_of_the_files(
    server: FileServer, client: Client, tmp_path: Path
) -> None:
    expected = hc.aggregate_stats(pixels(), cells())
    for name in ("v0.4.zarr", "packed.zarr.zip", "sharded.zarr"):
        for cache in (None, tmp_path):
            raster = open_raster(f"{server.url}/{name}", **NAMED[name], cache=cache)
            found = hc.aggregate_stats(raster.image, raster.labels, client=client)
            np.testing.assert_array_equal(found.X, expected.X)


def test_what_is_described_can_be_opened_again(bucket: Bucket, tmp_path: Path) -> None:
    info = describe(
        "s3://public/deep/v0.5.zarr",
        channels=["CD3"],
        level=1,
        storage_options=bucket.options,
        cache=tmp_path / "cache",
    )
    info.to_json(tmp_path / "info.json")
    again = RasterInfo.from_json(tmp_path / "info.json")
    assert again == info
    raster = pickle.loads(pickle.dumps(open_described(again)))
    np.testing.assert_array_equal(np.asarray(raster.image[...]), pixels()[1:2, ::2, ::2])
    assert any((tmp_path / "cache").iterdir())


def test_labels_may_be_at_another_address(server: FileServer, stores: Path) -> None:
    labels = f"{server.url}/sharded.zarr/cells"
    for image in (f"{server.url}/v0.5.zarr", str(stores / "v0.4.zarr")):
        assert_is_right(open_raster(image, labels=labels))
    local = str(stores / "sharded.zarr" / "cells")
    assert_is_right(open_raster(f"{server.url}/v0.5.zarr", labels=local))


def test_only_the_archive_s_directory_and_the_chunks_are_fetched(server: FileServer) -> None:
    raster = open_raster(f"{server.url}/packed.zarr.zip")
    remote._directory.cache_clear()
    server.sent.clear()
    assert raster.image[0, 0, 0] == pixels()[0, 0, 0]
    directory = 4
    assert server.sent["/packed.zarr.zip"] <= directory + 1


# Cache --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v0.4.zarr", "packed.zarr.zip", "sharded.zarr"])
def test_chunks_that_are_kept_are_not_fetched_again(
    name: str, server: FileServer, tmp_path: Path
) -> None:
    for _ in range(2):
        raster = open_raster(f"{server.url}/{name}", **NAMED[name], cache=tmp_path)
        server.sent.clear()
        assert_is_right(raster)
    chunks = [path for path in server.sent if not path.endswith((".json", ".zarray"))]
    assert not chunks


def test_a_new_version_of_the_store_is_fetched(server: FileServer, tmp_path: Path) -> None:
    ome_zarr(tmp_path / "x.zarr", "0.5")
    with files_served(tmp_path) as other:
        uri = f"{other.url}/x.zarr"
        assert_is_right(open_raster(uri, labels="cells", cache=tmp_path / "cache"))
        before = describe(uri, labels="cells").fingerprint
        assert describe(uri, labels="cells").fingerprint == before
        array = zarr.open_array(tmp_path / "x.zarr" / "fine")
        array[...] = pixels() + np.uint16(1)
        metadata = tmp_path / "x.zarr" / "fine" / "zarr.json"
        os.utime(metadata, (0, metadata.stat().st_mtime + 10))
        raster = open_raster(uri, labels="cells", cache=tmp_path / "cache")
        np.testing.assert_array_equal(raster.image[...], pixels() + np.uint16(1))
        assert describe(uri, labels="cells").fingerprint != before


def test_a_fingerprint_follows_the_entity_tag(bucket: Bucket, stores: Path) -> None:
    options = bucket.options
    uri = bucket.put(stores / "v0.5.zarr", "tagged.zarr")
    before = describe(uri, storage_options=options).fingerprint
    assert describe(uri, storage_options=options).fingerprint == before
    metadata = (stores / "v0.5.zarr" / "fine" / "zarr.json").read_text()
    bucket.client.put_object(
        Bucket="public",
        Key="tagged.zarr/fine/zarr.json",
        Body=metadata.replace("{", "{ ", 1).encode(),
        ACL="public-read",
    )
    assert describe(uri, storage_options=options).fingerprint != before


def test_a_cache_that_cannot_be_written_is_told(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    raster = open_raster(f"{server.url}/v0.5.zarr", cache=tmp_path / "file")
    with pytest.raises(hc.InputError, match=r"cannot be kept there .*another folder as cache"):
        raster.image[...]


# What goes wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [503, 429, 500, 0])
@pytest.mark.parametrize("name", ["v0.5.zarr", "packed.zarr.zip"])
def test_what_fails_in_passing_is_tried_again(status: int, name: str, server: FileServer) -> None:
    raster = open_raster(f"{server.url}/{name}")
    failed: set[str] = set()

    def first_time(path: str) -> int | None:
        if path in failed:
            return None
        failed.add(path)
        return status

    server.answer = first_time
    assert_is_right(raster)
    assert failed


@pytest.mark.parametrize("status", [503, 403, 0])
def test_a_chunk_that_stays_away_is_told_in_one_line(status: int, server: FileServer) -> None:
    raster = open_raster(f"{server.url}/v0.5.zarr")
    server.answer = lambda path: status
    with pytest.raises(
        hc.InputError, match=r"v0\.5\.zarr/fine/c/0/0/0: (cannot be|access)"
    ) as told:
        ChunkFiles(raster.image).read((0, 0, 0), np.empty(raster.image.chunks, "u2"))
    assert "\n" not in str(told.value)


def test_a_missing_chunk_is_the_fill_value_and_with_strict_an_error(
    server: FileServer, bucket: Bucket
) -> None:
    bucket.client.delete_object(Bucket="public", Key="deep/v0.5.zarr/fine/c/0/0/0")
    server.answer = lambda path: 404 if path.endswith("/fine/c/0/0/0") else None
    for uri, options in (
        (f"{server.url}/v0.5.zarr", None),
        ("s3://public/deep/v0.5.zarr", bucket.options),
    ):
        image = open_raster(uri, storage_options=options).image
        chunk = np.ones(image.chunks, "u2")
        ChunkFiles(image).read((0, 0, 0), chunk)
        assert not chunk.any()
        with pytest.raises(hc.InputError, match=r"chunk \(0, 0, 0\) is missing"):
            ChunkFiles(image, strict=True).read((0, 0, 0), chunk)
        ChunkFiles(image, strict=True).read((0, 1, 0), chunk)


def test_a_server_that_denies_what_is_not_there_is_read_all_the_same(
    server: FileServer, stores: Path
) -> None:
    """Answer as S3 does where nobody may list the bucket."""
    server.answer = lambda path: None if (stores / path.lstrip("/")).is_file() else 403
    for name in ("v0.4.zarr", "v0.5.zarr", "sdata.zarr"):
        raster = open_raster(f"{server.url}/{name}", **NAMED[name])
        np.testing.assert_array_equal(raster.image[...], pixels())


@pytest.mark.parametrize(
    ("uri", "options", "told"),
    [
        ("s3://nowhere/x.zarr", {}, "s3://nowhere/x.zarr: there is no such bucket"),
        ("s3://public/deep/x.zarr", {}, "x.zarr: no Zarr group there"),
        ("s3://public/deep/x.zarr.zip", {}, "x.zarr.zip: nothing there"),
        ("s3://public/deep/v0.5.zarr", {"wrong": 1}, "storage_options: .*wrong"),
        ("s3://private/x.zarr", {}, "access denied .*credentials"),
        ("s3://private/x.zarr.zip", {}, "access denied .*credentials"),
        ("s3://private/x.zarr", {"anon": False}, "credentials"),
        ("ftp://host/x.zarr", {}, r"ftp:// is not supported; use s3://, gs:// or https://"),
        ("nonsense://x", {}, r"nonsense:// is not supported; use s3://, gs:// or https://"),
        ("https://host/image.ome.tif", {}, "a TIFF is not read at an address; copy it here first"),
    ],
)
def test_a_wrong_address_is_told_in_one_line(
    uri: str, options: dict[str, Any], told: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = Bucket(bucket.endpoint, "private", access="private").client
    for name in ("x.zarr/zarr.json", "x.zarr.zip"):
        private.put_object(Bucket="private", Key=name, Body=b"{}", ACL="private")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    given = {**(bucket.options if uri.startswith("s3") else {}), **options}
    with pytest.raises(hc.InputError, match=told) as error:
        open_raster(uri, storage_options=given)
    assert "\n" not in str(error.value)


def test_credentials_open_what_is_private(bucket: Bucket, stores: Path) -> None:
    private = Bucket(bucket.endpoint, "mine", access="private")
    private.put(stores / "v0.5.zarr", "v0.5.zarr")
    named = {**bucket.options, "key": "key", "secret": "secret"}
    assert_is_right(open_raster("s3://mine/v0.5.zarr", storage_options=named))
    with pytest.raises(hc.InputError, match="access denied"):
        open_raster("s3://mine/v0.5.zarr", storage_options=bucket.options)


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        ("v0.5.zarr", 403, "access denied"),
        ("packed.zarr.zip", 401, "access denied"),
        ("nothing.zarr", None, "no Zarr group there"),
        ("nothing.zarr.zip", None, "nothing there"),
        ("text.zarr.zip", None, "not a zip"),
        ("two.zip", None, "2 folders at the top"),
        ("v0.5.zarr", 500, "cannot be read .*500"),
    ],
)
def test_what_a_web_server_refuses_is_told_in_one_line(
    name: str, status: int | None, told: str, server: FileServer, stores: Path
) -> None:
    (stores / "text.zarr.zip").write_text("this is no archive, and long enough for one")
    with zipfile.ZipFile(stores / "two.zip", "w") as archive:
        for top in "ab":
            archive.writestr(f"{top}/zarr.json", "{}")
    server.answer = lambda path: status
    with pytest.raises(hc.InputError, match=told) as error:
        open_raster(f"{server.url}/{name}")
    assert "\n" not in str(error.value)


def test_a_zip_needs_a_server_with_ranges(server: FileServer) -> None:
    server.ranges = False
    remote._directory.cache_clear()
    with pytest.raises(hc.InputError, match=r"packed.zarr.zip: cannot be read .*range"):
        open_raster(f"{server.url}/packed.zarr.zip")


def test_a_damaged_member_of_an_archive_is_refused(server: FileServer, stores: Path) -> None:
    shutil.copy(stores / "packed.zarr.zip", stores / "damaged.zarr.zip")
    with zipfile.ZipFile(stores / "damaged.zarr.zip") as archive:
        entry = archive.getinfo("fine/c/0/0/0")
    with (stores / "damaged.zarr.zip").open("r+b") as file:
        file.seek(entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))
    raster = open_raster(f"{server.url}/damaged.zarr.zip")
    with pytest.raises(hc.InputError, match=r"fine/c/0/0/0.*(checksum|cannot be read)"):
        ChunkFiles(raster.image).read((0, 0, 0), np.empty(raster.image.chunks, "u2"))


def test_no_server_is_told_in_one_line(server: FileServer) -> None:
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(hc.InputError, match=r"cannot be read .*the address or the network") as told:
        open_raster(f"{url}/v0.5.zarr")
    assert "\n" not in str(told.value)


OPEN = """
import sys, harpy_core as hc
try:
    print(hc.open_raster(sys.argv[1]).image[...].sum())
except hc.InputError as error:
    print(error)
"""


def test_a_certificate_is_trusted_through_the_environment(stores: Path, tmp_path: Path) -> None:
    with files_served(stores, certificates=tmp_path) as started:
        address = f"{started.url}/v0.5.zarr"
        assert address.startswith("https://")
        call = [sys.executable, "-c", OPEN, address]
        trusting = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        ended = subprocess.run(call, env=trusting, capture_output=True, text=True)
        assert ended.stdout.strip() == str(pixels().sum()), ended.stderr
        ended = subprocess.run(call, capture_output=True, text=True)
    assert ended.stdout == (
        f"{address}: the server's certificate is not trusted; name its authority's file in the "
        "environment variable SSL_CERT_FILE (s3: AWS_CA_BUNDLE)\n"
    )
