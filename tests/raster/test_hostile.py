"""Inputs that are made to harm: one line of error, in bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import resource
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.blosc
import pytest
import stores
import tifffile
import zarr
from zarr.codecs import VLenBytesCodec
from zarr.core.buffer import cpu

import harpy_core as hc
from harpy_core.errors import InputError
from harpy_core.planning import preflight
from harpy_core.planning.survey import survey
from harpy_core.raster.formats.names import LONGEST_METADATA
from harpy_core.storage import shards
from harpy_core.storage.checksums import trailer


def measured(uri: Path, **keys: Any) -> None:
    raster = hc.open_raster(uri, **keys)
    hc.aggregate_stats(raster.image, raster.labels, ("mean",), raster.channels, engine="numpy")


def looked_at(uri: Path, **keys: Any) -> None:
    source = {"uri": str(uri), "channels": ["DAPI"], **keys}
    preflight.checked({"cases": {"c": {"source": source}}}, "f.yaml")


def refused(told: str, *doors: Callable[..., None], **keys: Any) -> None:
    """Each door ends in one line that says so, and takes less than 1 GB to say it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for door in doors:
        with pytest.raises(InputError, match=told) as caught:
            door(**keys)
        assert "\n" not in str(caught.value)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 2**30


def changed(store: Path, **metadata: Any) -> None:
    """Put something else into the metadata of an image and its labels."""
    for name in ("images/image", "labels/cells"):
        path = store / name / "zarr.json"
        found = json.loads(path.read_text())
        for key, value in metadata.items():
            image = value if name.startswith("images") else value[1:]
            if key == "chunks":
                found["chunk_grid"]["configuration"]["chunk_shape"] = image
            else:
                found[key] = image
        path.write_text(json.dumps(found))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    group = zarr.open_group(tmp_path / "s.zarr", mode="w")
    group.create_array("images/image", data=stores.pixels(), chunks=(1, 16, 16))
    group.create_array("labels/cells", data=stores.cells(), chunks=(16, 16))
    return tmp_path / "s.zarr"


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"shape": [1, 10**8, 10**7]}, "at most 100,000,000 are read"),
        ({"shape": [10**15, 40, 50]}, "channels; at most"),
        ({"chunks": [1, 0, 16]}, "chunk"),
        ({"chunks": [1, -4, 16]}, "chunk|cannot be understood"),
        ({"chunks": [1, 10**6, 10**9]}, "far larger than shape"),
        ({"shape": [1, -5, 50]}, "cannot be understood|Zarr|shape"),
    ],
)
def test_shapes_that_no_image_has_are_refused(
    metadata: dict[str, Any], told: str, store: Path
) -> None:
    changed(store, **metadata)
    refused(told, measured, uri=store)


def test_a_hundred_megabytes_of_metadata_are_refused(store: Path) -> None:
    long = b'{"attributes": {"a": "' + b"x" * (4 * LONGEST_METADATA) + b'"}}'
    (store / "images/image/zarr.json").write_bytes(long)
    refused("bytes of metadata", measured, looked_at, uri=store)


def zipped(store: Path, path: Path, **replaced: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(store.rglob("*")):
            name = str(file.relative_to(store))
            if file.is_file():
                archive.writestr(name, replaced.get(name, file.read_bytes()))
    return path


@pytest.mark.parametrize("name", ["images/image/zarr.json", "images/image/c/0/0/0"])
def test_a_member_of_an_archive_that_unpacks_to_gigabytes_is_refused(
    name: str, store: Path, tmp_path: Path
) -> None:
    path = zipped(store, tmp_path / "s.zarr.zip", **{name: bytes(2**28)})
    doors = (measured, looked_at) if name.endswith("json") else (measured,)
    refused("bytes of metadata|unpacks to more", *doors, uri=path)


def test_a_shard_in_an_archive_that_unpacks_to_gigabytes_is_refused(
    store: Path, tmp_path: Path
) -> None:
    pixels = stores.pixels()
    zarr.open_group(store, mode="r+").create_array(
        "images/image", data=pixels, chunks=(1, 10, 10), shards=pixels.shape, overwrite=True
    )
    shard = (store / "images/image/c/0/0/0").read_bytes()
    path = zipped(store, tmp_path / "s.zarr.zip", **{"images/image/c/0/0/0": bytes(2**28) + shard})
    refused("unpacks to more than", measured, uri=path)
    measured(zipped(store, tmp_path / "sound.zarr.zip"))


METHODS = {
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["images/image/zarr.json", "images/image/c/0/0/0"])
def test_a_damaged_member_of_an_archive_is_told(
    name: str, method: str, store: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s.zarr.zip"
    with zipfile.ZipFile(path, "w", METHODS[method]) as archive:
        for file in sorted(store.rglob("*")):
            archive.write(file, file.relative_to(store))
        member = archive.getinfo(name)
    content = bytearray(path.read_bytes())
    first = member.header_offset + 30 + len(name)
    # An LZMA stream comes after its properties.
    content[first + 9 : first + member.compress_size] = b"\xff" * (member.compress_size - 9)
    path.write_bytes(content)
    doors = (measured, looked_at) if name.endswith("json") else (measured,)
    refused("cannot be understood|cannot be read", *doors, uri=path)


def with_chunk(store: Path, codecs: list[dict[str, Any]], content: bytes) -> None:
    path = store / "images/image/zarr.json"
    found = json.loads(path.read_text())
    found["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}, *codecs]
    path.write_text(json.dumps(found))
    for file in (store / "images/image/c").rglob("*"):
        if file.is_file():
            file.write_bytes(content)


BLOSC = {
    "name": "blosc",
    "configuration": {
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "shuffle",
        "typesize": 2,
        "blocksize": 0,
    },
}
ZSTD = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
GZIP = {"name": "gzip", "configuration": {"level": 5}}


def blosc(**changes: int) -> bytes:
    """A chunk whose header says something else."""
    content = bytearray(numcodecs.blosc.compress(bytes(512), b"lz4", 5, 1, 0))
    for at, value in changes.items():
        struct.pack_into("<I", content, int(at.removeprefix("at_")), value)
    return bytes(content)


def zstd_of(blocks: int, head: bytes = b"\x00\x58") -> bytes:
    """A frame of blocks that each repeat one byte 131,072 times."""
    sized = [(131072 << 3 | 2 | (i == blocks - 1)).to_bytes(3, "little") for i in range(blocks)]
    return b"\x28\xb5\x2f\xfd" + head + b"".join(block + b"A" for block in sized)


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    ("codec", "content"),
    [
        pytest.param(BLOSC, blosc(at_4=2**31 - 1), id="blosc that claims 2 GB of content"),
        pytest.param(BLOSC, blosc(at_12=2**31 - 1), id="blosc that claims to be longer"),
        pytest.param(BLOSC, blosc(at_8=2**31 - 1), id="blosc of a block size of 2 GB"),
        pytest.param(BLOSC, blosc(at_8=0), id="blosc of a block size of 0"),
        pytest.param(BLOSC, b"\x02\x01\x21\x02", id="blosc that is a piece of its header"),
        pytest.param(ZSTD, zstd_of(20_000), id="zstd bomb of unknown size"),
        pytest.param(ZSTD, zstd_of(4, b"\xc0\x58" + b"\xff" * 8), id="zstd that claims 2^64"),
        pytest.param(GZIP, gzip.compress(bytes(2**28)), id="gzip bomb"),
        pytest.param(GZIP, gzip.compress(bytes(512)) * 2, id="two gzips"),
        pytest.param(ZSTD, b"", id="nothing"),
    ],
)
def test_chunks_that_are_not_what_they_say_are_refused(
    codec: dict[str, Any], content: bytes, archived: bool, store: Path, tmp_path: Path
) -> None:
    with_chunk(store, [codec], content)
    uri = zipped(store, tmp_path / "s.zarr.zip") if archived else store
    refused(r"chunk \(.*\) cannot be read", measured, uri=uri)


RARE = {
    "bzip2": (numcodecs.BZ2(), lambda: bz2.compress(bytes(2**24))),
    "xz": (numcodecs.LZMA(), lambda: lzma.compress(bytes(2**24))),
    "lz4 that claims 2 GB": (numcodecs.LZ4(), lambda: struct.pack("<i", 2**31 - 1) + bytes(99)),
    "zlib": (numcodecs.Zlib(), lambda: zlib.compress(bytes(2**24))),
    "blosc": (numcodecs.Blosc(), lambda: blosc(at_4=2**31 - 1)),
    "zstd": (numcodecs.Zstd(), lambda: zstd_of(20_000)),
    "cut off": (numcodecs.BZ2(), lambda: bz2.compress(bytes(512))[:-9]),
}


@pytest.mark.parametrize("where", ["folder", "zip", "memory"])
@pytest.mark.parametrize("kind", RARE)
def test_bombs_in_rare_arrays_are_refused(kind: str, where: str, tmp_path: Path) -> None:
    codec, make = RARE[kind]
    bomb = make()
    options = {"filters": [numcodecs.Delta("<u2")], "order": "F"}
    store: Any = {} if where == "memory" else tmp_path / "s.zarr"
    group = zarr.open_group(store, mode="w", zarr_format=2)
    group.create_array(
        "images/image", data=stores.pixels(), chunks=(1, 16, 16), compressors=codec, **options
    )
    group.create_array("labels/cells", data=stores.cells(), chunks=(16, 16))
    if where == "memory":
        for key in [key for key in store if re.search(r"image/\d", key)]:
            store[key] = cpu.Buffer.from_bytes(bomb)
        arrays = [zarr.open_array(store, path=p) for p in ("images/image", "labels/cells")]
        refused(r"chunk \(.*\) cannot be read", lambda: hc.aggregate_stats(*arrays))
        return
    for file in (store / "images/image").glob("*.*.*"):
        file.write_bytes(bomb)
    uri = zipped(store, tmp_path / "s.zarr.zip") if where == "zip" else store
    refused(r"chunk \(.*\) cannot be read", measured, uri=uri)


@pytest.mark.parametrize(
    "entry", [(2**64 - 2, 1), (0, 2**63), (2**63, 2**63), (10**6, 10), (0, 10**6)]
)
def test_an_index_of_a_shard_that_points_outside_is_refused(entry: tuple[int, int]) -> None:
    index = struct.pack("<QQ", *entry)
    with pytest.raises(ValueError, match="cut off"):
        shards.piece_of(b"content" + index + trailer(index), 0, 1)


@pytest.mark.parametrize("version", [2, 3])
def test_a_codec_that_is_not_known_to_do_no_harm_is_refused(version: int, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=version)
    codec = numcodecs.Base64() if version == 2 else VLenBytesCodec()
    told = "base64" if version == 2 else "vlen-bytes"
    array = group.create_array("images/image", data=stores.pixels(), chunks=(1, 16, 16))
    path = tmp_path / "s.zarr/images/image" / (".zarray" if version == 2 else "zarr.json")
    found = json.loads(path.read_text())
    if version == 2:
        found["filters"] = [codec.get_config()]
    else:
        found["codecs"][0] = codec.to_dict()
    path.write_text(json.dumps(found))
    labels = group.create_array("labels/cells", data=stores.cells(), chunks=(16, 16))
    image = zarr.open_array(tmp_path / "s.zarr/images/image", mode="r")
    assert image.shape == array.shape
    with pytest.raises(InputError, match=f"image: codec '{told}' is not read"):
        hc.aggregate_stats(image, labels)


def tiff(tmp_path: Path, change: Callable[[bytearray, int], None]) -> Path:
    """A TIFF whose first directory, at the place that is passed, is changed."""
    labels = tmp_path / "labels.tif"
    tifffile.imwrite(labels, stores.cells())
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, stores.pixels()[0], metadata=None)
    content = bytearray(path.read_bytes())
    change(content, struct.unpack_from("<I", content, 4)[0])
    path.write_bytes(content)
    return path


def loop(content: bytearray, at: int) -> None:
    count = struct.unpack_from("<H", content, at)[0]
    struct.pack_into("<I", content, at + 2 + 12 * count, at)


def many_tags(content: bytearray, at: int) -> None:
    struct.pack_into("<H", content, at, 65535)


def long_tag(content: bytearray, at: int) -> None:
    for place in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", content, at)[0], 12):
        struct.pack_into("<I", content, place + 4, 2**32 - 1)


def wide(content: bytearray, at: int) -> None:
    for place in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", content, at)[0], 12):
        if struct.unpack_from("<H", content, place)[0] in (256, 257, 278):
            struct.pack_into("<HII", content, place + 2, 4, 1, 2**31 - 1)


@pytest.mark.parametrize("change", [many_tags, long_tag, wide])
def test_a_tiff_with_absurd_tags_is_refused(
    change: Callable[[bytearray, int], None], tmp_path: Path
) -> None:
    path = tiff(tmp_path, change)
    refused("image.tif|cover the same pixels", measured, uri=path, labels="labels.tif")


def empty_loop(content: bytearray, at: int) -> None:
    """A directory without tags, which is its own next."""
    struct.pack_into("<HI", content, at, 0, at)


@pytest.mark.parametrize("change", [loop, empty_loop])
def test_a_tiff_with_a_loop_of_directories_is_refused(
    change: Callable[[bytearray, int], None], tmp_path: Path
) -> None:
    path = tiff(tmp_path, change)
    refused("directories form a loop", measured, uri=path, labels="labels.tif")
    refused("directories form a loop", looked_at, uri=path, labels=str(tmp_path / "labels.tif"))
    assert "directories form a loop" in str(survey(str(path), labels=str(tmp_path / "labels.tif")))
