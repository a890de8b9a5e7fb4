"""Tiled stores whose files are names of the source's."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from numcodecs import Blosc
from tilings import CHANNELS, check, inodes, opened, store

from harpy_core.errors import InputError
from harpy_core.storage import spatialdata_store
from harpy_core.tiling import linking
from harpy_core.tiling.tile import tile_raster


def test_link_shares_the_files_of_the_source(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (6, 70, 100), method="link")
    check(tmp_path / "tiled.zarr", raster, (6, 70, 100))
    source = set(inodes(tmp_path / "source.zarr/images"))
    tiled = inodes(tmp_path / "tiled.zarr/images")
    assert set(tiled) == source
    assert len(tiled) == 3 * 5 * 7
    assert not set(inodes(tmp_path / "tiled.zarr/labels")) & set(
        inodes(tmp_path / "source.zarr/labels")
    )


def annexed(store: Path, annex: Path) -> list[Path]:
    """Make every chunk file a relative symbolic link, as git-annex does."""
    annex.mkdir()
    found = [f for f in sorted(store.rglob("*")) if f.is_file() and f.name != "zarr.json"]
    for number, file in enumerate(found):
        file.rename(annex / str(number))
        file.symlink_to(os.path.relpath(annex / str(number), file.parent))
    return found


def test_link_gives_names_to_what_symbolic_links_lead_to(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    annexed(tmp_path / "source.zarr", tmp_path / "annex")
    tile_raster(raster, tmp_path / "tiled.zarr", (6, 70, 100), method="link")
    elsewhere = tmp_path / "another" / "folder" / "tiled.zarr"
    elsewhere.parent.mkdir(parents=True)
    (tmp_path / "tiled.zarr").rename(elsewhere)
    assert not [file for file in elsewhere.rglob("*") if file.is_symlink()]
    annex = {file.stat().st_ino for file in (tmp_path / "annex").iterdir()}
    assert set(inodes(elsewhere / "images")) <= annex
    check(elsewhere, raster, (6, 70, 100))


def test_a_symbolic_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    first = next(
        f for f in annexed(tmp_path / "source.zarr", tmp_path / "annex") if "image" in str(f)
    )
    first.resolve().unlink()
    with pytest.raises(InputError, match="leads nowhere; fetch its content first"):
        tile_raster(raster, tmp_path / "tiled.zarr", (6, 70, 100), method="link")
    assert not (tmp_path / "tiled.zarr").exists()


def test_link_along_c_shares_the_labels_too(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (6, 32, 40), method="link")
    check(tmp_path / "tiled.zarr", raster, (6, 32, 40))
    labels = inodes(tmp_path / "tiled.zarr/labels")
    assert labels
    assert set(labels) <= set(inodes(tmp_path / "source.zarr/labels"))


def test_link_writes_each_distinct_chunk_once_where_the_chunks_are_new(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (12, 64, 96), (4, 32, 48), method="link")
    check(tmp_path / "tiled.zarr", raster, (12, 64, 96))
    files = inodes(tmp_path / "tiled.zarr/images")
    assert len(files) == 3 * 2 * 2
    assert len(set(files)) == 1


def test_link_keeps_shards(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr", chunks=(1, 8, 8), shards=(2, 16, 16))
    tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), method="link")
    check(tmp_path / "tiled.zarr", raster, (4, 64, 96))
    assert set(inodes(tmp_path / "tiled.zarr/images")) == set(
        inodes(tmp_path / "source.zarr/images")
    )


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_link_shares_the_files_of_a_zarr_2_array(tmp_path: Path, dtype: str) -> None:
    root = zarr.create_group(tmp_path / "old.zarr", zarr_format=2)
    compressor = Blosc("zstd", 3, Blosc.SHUFFLE)
    for name, shape in (("image", (2, 16, 16)), ("labels", (16, 16))):
        array = root.create_array(
            name, shape=shape, chunks=shape, dtype=dtype, compressors=compressor
        )
        array[...] = np.arange(np.prod(shape)).reshape(shape)
    raster = opened(tmp_path / "old.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (4, 32, 40), method="link")
    result = opened(tmp_path / "tiled.zarr")
    expected = np.tile(np.asarray(raster.image[...]), (2, 2, 3))[:, :, :40]
    np.testing.assert_array_equal(result.image[...], expected)
    original = (tmp_path / "old.zarr/image/0.0.0").stat().st_ino
    assert set(inodes(tmp_path / "tiled.zarr/images")) == {original}


def test_link_refuses_where_no_chunk_can_be_shared(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    with pytest.raises(InputError, match="use method: copy") as caught:
        tile_raster(raster, tmp_path / "tiled.zarr", (3, 33, 49), (3, 10, 11), method="link")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["source.zarr"]


def refusing_links(monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def refuse(existing: Path, new: Path) -> None:
        if existing.suffix == ".partial":  # how zarr itself puts a file in place
            link(existing, new)
        else:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)


def test_link_clones_or_copies_where_the_file_system_does_not_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raster = store(tmp_path / "source.zarr")
    refusing_links(monkeypatch)
    found = tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), method="link")
    check(tmp_path / "tiled.zarr", raster, (4, 64, 96))
    assert found.linked == 0
    assert found.cloned + found.copied == 48
    assert "48 of 72 chunk files could not be linked" in caplog.text
    assert not set(inodes(tmp_path / "tiled.zarr")) & set(inodes(tmp_path / "source.zarr"))


def test_link_clones_where_the_file_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raster = store(tmp_path / "source.zarr")
    refusing_links(monkeypatch)

    def clone(target: int, request: int, source: int) -> None:
        assert request == 0x40049409
        os.pwrite(target, os.pread(source, 1 << 20, 0), 0)

    monkeypatch.setattr(linking.fcntl, "ioctl", clone)
    found = tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), method="link")
    check(tmp_path / "tiled.zarr", raster, (4, 64, 96))
    assert (found.cloned, found.copied) == (48, 0)
    assert "48 share blocks, 0 were copied" in caplog.text


def test_link_copies_across_file_systems(tmp_path: Path, disk: Path) -> None:
    own = tmp_path.stat().st_dev
    others = [p for p in (disk, Path("/dev/shm")) if p.is_dir() and p.stat().st_dev != own]
    if not others:
        pytest.skip("there is no second file system")
    raster = store(tmp_path / "source.zarr")
    with tempfile.TemporaryDirectory(dir=others[0]) as folder:
        found = tile_raster(raster, Path(folder) / "tiled.zarr", (4, 64, 96), method="link")
        check(Path(folder) / "tiled.zarr", raster, (4, 64, 96))
        assert (found.linked, found.copied) == (0, 48)


def test_link_leaves_chunks_of_background_unstored(tmp_path: Path) -> None:
    root = spatialdata_store.create(tmp_path / "source.zarr")
    image = spatialdata_store.create_image(
        root, "image", (2, 16, 32), (2, 16, 16), np.uint8, CHANNELS
    )
    image[:, :, :16] = 7
    spatialdata_store.create_labels(root, "labels", (16, 32), (16, 16), np.uint8)
    raster = opened(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (4, 16, 64), method="link")
    check(tmp_path / "tiled.zarr", raster, (4, 16, 64))
