"""Zipped stores: fetched, from mirrors too, unpacked and opened."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from faulty_servers import Server, digest

from harpy_core.config.models import Origin
from harpy_core.datasets import REGISTRY, fetch
from harpy_core.datasets import download as module
from harpy_core.datasets.download import fetch_archive, unpack_archive
from harpy_core.errors import InputError
from harpy_core.raster import open_raster
from harpy_core.storage import spatialdata_store


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A small SpatialData store as a zip with one folder."""
    root = spatialdata_store.create(tmp_path / "made" / "sdata.zarr")
    image = spatialdata_store.create_image(root, "image", (2, 8, 8), (1, 8, 8), "u2", ["a", "b"])
    image[...] = np.arange(128).reshape(2, 8, 8)
    spatialdata_store.create_labels(root, "labels", (8, 8), (8, 8), "u4")[...] = 1
    path = tmp_path / "sdata.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for file in (tmp_path / "made").rglob("*"):
            opened.write(file, file.relative_to(tmp_path / "made"))
        opened.writestr("__MACOSX/sdata.zarr/._zarr.json", "x")
    return path


def is_the_store(path: Path) -> bool:
    found = open_raster(path, "image", "labels")
    return np.array_equal(found.image[...], np.arange(128).reshape(2, 8, 8))


def test_a_zipped_store_is_fetched_unpacked_and_opened(
    tmp_path: Path, server: Server, archive: Path
) -> None:
    server.content = archive.read_bytes()
    fetch_archive(server.url, digest(server.content), tmp_path / "data" / "fetched.zarr")
    assert os.listdir(tmp_path / "data") == ["fetched.zarr"]
    assert is_the_store(tmp_path / "data" / "fetched.zarr")


def test_an_archive_that_was_fetched_is_not_fetched_again_where_unpacking_failed(
    tmp_path: Path, server: Server, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = archive.read_bytes()
    path = tmp_path / "data" / "fetched.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(module, "unzip", lambda *_, **__: (_ for _ in ()).throw(InputError("full")))
        with pytest.raises(InputError, match="full"):
            fetch_archive(server.url, digest(server.content), path)
    fetch_archive(server.url, digest(server.content), path)
    assert len(server.requests) == 1
    assert is_the_store(path)


@pytest.mark.parametrize("name", ["macsima-tonsil", "merscope-liver"])
def test_a_mirror_takes_the_place_of_the_published_address(
    tmp_path: Path, server: Server, archive: Path, name: str
) -> None:
    server.content = archive.read_bytes()
    base = server.url.rpartition("/")[0] + "/copies/"
    origin = Origin(mirror=base, sha256=digest(server.content))
    fetch(name, tmp_path / "fetched.zarr", origin)
    file = REGISTRY[name].origin.partition("/public_datasets/")[2]
    assert server.paths == [f"/copies/{file}"]
    assert is_the_store(tmp_path / "fetched.zarr")


def test_a_mirror_without_a_digest_must_hold_the_published_file(
    tmp_path: Path, server: Server, archive: Path
) -> None:
    server.content = archive.read_bytes()
    origin = Origin(mirror=server.url.rpartition("/")[0])
    with pytest.raises(InputError, match=REGISTRY["macsima-tonsil"].sha256):
        fetch("macsima-tonsil", tmp_path / "fetched.zarr", origin)
    assert not (tmp_path / "fetched.zarr").exists()


def test_a_local_archive_is_checked_and_unpacked_and_stays(tmp_path: Path, archive: Path) -> None:
    content = archive.read_bytes()
    origin = Origin(archive=str(archive), sha256=digest(content))
    fetch("merscope-liver", tmp_path / "fetched.zarr", origin)
    assert is_the_store(tmp_path / "fetched.zarr")
    assert archive.read_bytes() == content
    with pytest.raises(InputError, match="instead of 0000"):
        unpack_archive(archive, "0" * 64, tmp_path / "other.zarr")
    with pytest.raises(InputError, match="no such file"):
        unpack_archive(tmp_path / "none.zip", "0" * 64, tmp_path / "other.zarr")
    assert not (tmp_path / "other.zarr").exists()
