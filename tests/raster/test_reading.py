"""Reading chunks: every codec gives what zarr gives, and nothing corrupt passes for numbers."""

from __future__ import annotations

import gzip
import pickle
import time
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from cases import as_form, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.codecs.numcodecs import BZ2, Delta
from zarr.storage import LocalStore, ZipStore

from harpy_core import InputError
from harpy_core.benchmark.page_cache import InputFiles
from harpy_core.raster.chunks import ChunkFiles, covering
from harpy_core.raster.formats import owner_of
from harpy_core.raster.reading import reader_of
from harpy_core.raster.tiff_array import TiffArray
from harpy_core.raster.views import ChannelView
from harpy_core.tiles import grid

SHAPE, CHUNKS = (5, 21, 30), (2, 8, 16)


def pixels(dtype: str = "u2") -> np.ndarray:
    """Few values, some of them 0, in rows that compress."""
    rng = np.random.default_rng(0)
    return np.repeat(rng.integers(0, 100, (5, 21, 10)), 3, axis=2).astype(dtype)


def chunk_of(array: Any, index: tuple[int, ...], strict: bool = False) -> np.ndarray:
    """One chunk, read into a buffer that held something else before."""
    out = np.full(array.chunks, 77).astype(np.dtype(array.dtype).newbyteorder("="))
    owner = owner_of(array)
    assert owner is not None
    owner.chunks(array, strict).read(index, out)
    return out


def assert_chunks_are_those_of(array: Any, values: np.ndarray) -> None:
    for index in np.ndindex(3, 3, 2):
        inside = tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, CHUNKS, strict=True))
        part = values[inside]
        found = chunk_of(array, index)[tuple(slice(0, n) for n in part.shape)]
        np.testing.assert_array_equal(found, part, err_msg=str(index))


def is_direct(array: zarr.Array) -> bool:
    return ChunkFiles(array).direct


SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")
V3 = {
    "raw": None,
    "zstd": ZstdCodec(level=1),
    "zstd-checked": ZstdCodec(level=1, checksum=True),
    "gzip": GzipCodec(level=1),
    **{
        f"blosc-{name}-{shuffle}": BloscCodec(cname=name, shuffle=shuffle, typesize=2)
        for name in ("lz4", "zstd", "zlib")
        for shuffle in SHUFFLES
    },
    "crc32c": Crc32cCodec(),
    "zstd-crc32c": (ZstdCodec(level=1), Crc32cCodec()),
    "blosc-crc32c": (BloscCodec(cname="lz4", typesize=2), Crc32cCodec()),
}


@pytest.mark.parametrize("codec", V3)
@pytest.mark.parametrize("endian", ["little", "big"])
def test_version_3_chunks_are_decoded_straight_from_their_files(
    codec: str, endian: str, tmp_path: Path
) -> None:
    array = zarr.create_array(
        tmp_path / "a",
        data=pixels(),
        chunks=CHUNKS,
        serializer=BytesCodec(endian=endian),
        compressors=V3[codec],
    )
    assert is_direct(array)
    assert_chunks_are_those_of(array, pixels())


V2 = {
    "raw": None,
    "zstd": numcodecs.Zstd(1),
    "gzip": numcodecs.GZip(1),
    "zlib": numcodecs.Zlib(1),
    **{
        f"blosc-{name}-{shuffle}": numcodecs.Blosc(name, 5, shuffle)
        for name in ("lz4", "zstd", "zlib")
        for shuffle in (0, 1, 2)
    },
}


@pytest.mark.parametrize("codec", V2)
@pytest.mark.parametrize("dtype", ["<u2", ">u2", ">f8", "|u1"])
def test_version_2_chunks_are_decoded_straight_from_their_files(
    codec: str, dtype: str, tmp_path: Path
) -> None:
    array = zarr.create_array(
        tmp_path / "a",
        data=pixels(dtype),
        chunks=CHUNKS,
        zarr_format=2,
        compressors=V2[codec],
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    assert is_direct(array)
    assert_chunks_are_those_of(array, pixels(dtype))


def unusual(kind: str, folder: Path) -> Any:
    """Arrays with rare codecs or orders of axes, or not in files."""
    if kind == "zip":
        with ZipStore(folder / "a.zip", mode="w") as store:
            zarr.create_array(store, data=pixels(), chunks=CHUNKS)
        return zarr.open_array(ZipStore(folder / "a.zip", mode="r"), mode="r")
    if kind == "memory":
        return zarr.create_array({}, data=pixels(), chunks=CHUNKS)
    if kind == "tiff":
        tifffile.imwrite(folder / "a.tif", pixels()[:, :16], photometric="minisblack")
        return TiffArray(str(folder / "a.tif"))
    options: dict[str, Any] = {
        "sharded": {"shards": (4, 16, 32), "filters": [TransposeCodec(order=(2, 1, 0))]},
        "order F": {"order": "F", "zarr_format": 2},
        "transposed": {"filters": [TransposeCodec(order=(2, 1, 0))]},
        "two compressors": {"compressors": [GzipCodec(), ZstdCodec()]},
        "filtered": {"zarr_format": 2, "filters": [numcodecs.Delta("u2")]},
        "lzma": {"zarr_format": 2, "compressors": numcodecs.LZMA()},
        "bz2": {"zarr_format": 2, "compressors": numcodecs.BZ2()},
        "lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4(), "order": "F"},
        "all at once": {
            "zarr_format": 2,
            "compressors": numcodecs.Blosc(),
            "filters": [numcodecs.Delta("u2"), numcodecs.Shuffle(2), numcodecs.CRC32()],
            "order": "F",
        },
        "bz2 of format 3": {"compressors": BZ2(), "filters": [Delta(dtype="<u2")]},
        "packed": {
            "compressors": (ZstdCodec(), Crc32cCodec()),
            "serializer": BytesCodec(endian="big"),
            "filters": [TransposeCodec(order=(1, 2, 0))],
        },
    }[kind]
    return zarr.create_array(folder / "a", data=pixels(), chunks=CHUNKS, **options)


RARE = (
    *("order F", "transposed", "two compressors", "filtered", "lzma", "bz2", "lz4", "sharded"),
    *("all at once", "bz2 of format 3", "packed"),
)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize("kind", [*RARE, "zip", "memory"])
def test_unusual_arrays_are_read_as_zarr_has_them(kind: str, tmp_path: Path) -> None:
    array = unusual(kind, tmp_path)
    np.testing.assert_array_equal(array[...], pixels())
    assert is_direct(array) == (kind in RARE)
    assert_chunks_are_those_of(array, pixels())


@pytest.mark.parametrize("kind", ["sharded", "zip", "tiff", "order F"])
def test_a_reader_can_be_sent_to_a_worker(kind: str, tmp_path: Path) -> None:
    array = unusual(kind, tmp_path)
    reader = pickle.loads(pickle.dumps(reader_of(array, 4)))
    region = ((1, 4), (0, 1), (3, 14), (5, 29))
    out = np.zeros(reader.layout(region), reader.dtype)
    reader.read(region, out)
    np.testing.assert_array_equal(out[:, 0], pixels()[1:4, 3:14, 5:29])


# Missing and corrupt chunks -----------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_a_missing_chunk_is_the_fill_value_and_with_strict_an_error(
    version: int, tmp_path: Path
) -> None:
    array = zarr.create_array(
        tmp_path / "image",
        shape=SHAPE,
        chunks=CHUNKS,
        dtype="f4",
        fill_value=np.nan if version == 3 else 6,
        zarr_format=version,
    )
    array[:2] = 1.0
    assert np.all(chunk_of(array, (0, 1, 0), strict=True) == 1)
    missing = chunk_of(array, (1, 2, 0))
    assert np.all(np.isnan(missing) if version == 3 else missing == 6)
    with pytest.raises(InputError, match=r"image.*: chunk \(1, 2, 0\) is missing") as error:
        chunk_of(array, (1, 2, 0), strict=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["sharded", "order F"])
def test_a_chunk_missing_where_zarr_reads_is_an_error_with_strict(
    kind: str, tmp_path: Path
) -> None:
    unusual(kind, tmp_path)
    for file in (tmp_path / "a").rglob("*"):
        if file.name in {"2.0.0"} or file.parts[-4:] == ("c", "1", "0", "0"):
            file.unlink()
    array = zarr.open_array(tmp_path / "a", mode="r")
    assert np.all(chunk_of(array, (2, 0, 0))[:1] == 0)
    np.testing.assert_array_equal(chunk_of(array, (0, 0, 0), strict=True), pixels()[:2, :8, :16])
    with pytest.raises(InputError, match=r"chunk \(2, 0, 0\) is missing"):
        chunk_of(array, (2, 0, 0), strict=True)


def stored(codec: str, folder: Path, dtype: str = "u2") -> tuple[zarr.Array, Path]:
    """An array that compresses badly, and the file of its first chunk."""
    values = np.random.default_rng(1).integers(0, 2**16, SHAPE).astype(dtype)
    array = zarr.create_array(folder / "image", data=values, chunks=CHUNKS, compressors=V3[codec])
    return array, folder / "image" / "c" / "0" / "0" / "0"


def assert_refused(array: Any) -> None:
    with pytest.raises(InputError, match=r"image.*: chunk \(0, 0, 0\) cannot be read") as error:
        chunk_of(array, (0, 0, 0))
    assert "\n" not in str(error.value)
    assert chunk_of(array, (0, 0, 1)).any()


CHECKED = ("zstd-checked", "gzip", "crc32c", "zstd-crc32c", "blosc-crc32c")


@pytest.mark.parametrize("codec", CHECKED)
@pytest.mark.parametrize("place", [0.3, 0.5, 0.8, -2])
def test_a_changed_byte_is_found_where_there_is_a_checksum(
    codec: str, place: float, tmp_path: Path
) -> None:
    array, file = stored(codec, tmp_path)
    content = bytearray(file.read_bytes())
    content[int(place * len(content)) if place > 0 else int(place)] ^= 0x10
    file.write_bytes(content)
    assert_refused(array)


@pytest.mark.parametrize("codec", V3)
@pytest.mark.parametrize("left", [0, 1, 3, 10, 0.5, -4096, -1])
def test_a_chunk_that_is_cut_off_is_refused(codec: str, left: float, tmp_path: Path) -> None:
    array, file = stored(codec, tmp_path, "u8")
    content = file.read_bytes()
    file.write_bytes(content[: int(left * len(content)) if 0 < left < 1 else int(left)])
    assert_refused(array)


@pytest.mark.parametrize("codec", V3)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_chunk_of_another_size_is_refused(codec: str, rows: int, tmp_path: Path) -> None:
    """Or the rest of the buffer, an older chunk, would be taken for its pixels."""
    array, file = stored(codec, tmp_path)
    other = zarr.create_array(
        tmp_path / "other",
        data=np.ones((rows, 8, 16), "u2"),
        chunks=(rows, 8, 16),
        compressors=V3[codec],
    )
    file.write_bytes((tmp_path / "other" / "c" / "0" / "0" / "0").read_bytes())
    assert other.chunks != array.chunks
    assert_refused(array)


def test_a_corrupt_shard_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 2**16, SHAPE).astype("u2")
    array = zarr.create_array(tmp_path / "image", data=values, chunks=CHUNKS, shards=(4, 16, 32))
    file = tmp_path / "image" / "c" / "0" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"image.*: chunk \(0, 0, 0\) cannot be read"):
        chunk_of(array, (0, 0, 0))


@pytest.mark.parametrize("shards", [None, (2, 512, 1024)])
def test_a_chunk_asked_for_ahead_comes_from_the_disk_alone(
    shards: tuple[int, ...] | None, disk: Path
) -> None:
    values = np.random.default_rng(1).integers(0, 2**16, (2, 512, 1024)).astype("u2")
    chunks = (1, 256, 512)
    array = zarr.create_array(
        disk / "image", data=values, chunks=chunks, shards=shards, compressors=None
    )
    files = InputFiles.of(array)
    try:
        files.bring_into("cold")
    except InputError:
        pytest.skip("the page cache of this file system cannot be emptied")
    reader = reader_of(array, 4)
    reader.ahead(((1, 2), (0, 1), (256, 512), (0, 512)))
    # The index of a shard brings the pages beside it along.
    eighth, most = 0.12, 0.15 if shards is None else 1.0
    until = time.monotonic() + 10
    while files.cached_share() < eighth and time.monotonic() < until:
        time.sleep(0.01)
    assert eighth <= files.cached_share() <= most


def test_of_a_chunk_asked_for_ahead_nothing_is_told_before_it_is_read(tmp_path: Path) -> None:
    array, file = stored("raw", tmp_path)
    chunks = ChunkFiles(array, strict=True)
    file.write_bytes(b"")
    chunks.ahead((0, 0, 0))
    file.unlink()
    chunks.ahead((0, 0, 0))
    with pytest.raises(InputError, match="is missing"):
        chunks.read((0, 0, 0), np.empty(array.chunks, array.dtype))


def test_a_chunk_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    array, file = stored("raw", tmp_path)
    file.unlink()
    file.mkdir()
    assert_refused(array)


@pytest.mark.parametrize("wrap", ["gzip", "zlib"])
def test_long_runs_of_one_value_in_a_deflate_stream_are_read_whole(
    wrap: str, tmp_path: Path
) -> None:
    array = zarr.create_array(
        tmp_path / "a",
        shape=(3000, 3000),
        chunks=(3000, 3000),
        dtype="u1",
        zarr_format=2,
        compressors=numcodecs.GZip(9) if wrap == "gzip" else numcodecs.Zlib(9),
    )
    compress = gzip.compress if wrap == "gzip" else zlib.compress
    (tmp_path / "a" / "0.0").write_bytes(compress(b"\x05" * 9_000_000, 9))
    assert np.all(chunk_of(array, (0, 0)) == 5)


# Regions ------------------------------------------------------------------------------------------


@given(st.data())
def test_any_region_of_any_array_is_read_right(data: st.DataObject) -> None:
    values = pixels("u2")
    form = data.draw(st.sampled_from(["numpy", "memory", "view"]))
    chunks = tuple(data.draw(st.sampled_from([1, 4, 9, n, n + 5])) for n in SHAPE)
    array = values if form == "numpy" else as_form("memory", values, chunks, "")
    kept = sorted(data.draw(st.sets(st.integers(0, 4), min_size=1)))
    if form == "view":
        array, values = ChannelView(array, tuple(kept)), values[kept]
        np.testing.assert_array_equal(array[:], values)
        np.testing.assert_array_equal(array[0, 3:5], values[0, 3:5])
    reader = reader_of(array, 4)
    assert reader.shape == (len(values), 1, 21, 30)
    edges = reader.edges[0]
    region = [(0, 1)]
    for n in SHAPE[1:]:
        first = data.draw(st.integers(0, n - 1))
        region.append((first, data.draw(st.integers(first + 1, n))))
    group = data.draw(st.integers(0, len(edges) - 2))
    where = ((edges[group], edges[group + 1]), *region)
    out = np.zeros(reader.layout(where), reader.dtype)
    reader.read(where, out)
    inside = tuple(slice(0, b - a) for a, b in where)
    part = values[tuple(slice(a, b) for a, b in (where[0], *where[2:]))]
    np.testing.assert_array_equal(out[inside][:, 0], part)


@pytest.mark.parametrize(
    ("region", "chunks", "expected"),
    [
        (((0, 4), (0, 4)), (4, 4), [(0, 0)]),
        (((3, 5), (4, 8)), (4, 4), [(0, 1), (1, 1)]),
        (((7, 8), (0, 1)), (2, 5), [(3, 0)]),
    ],
)
def test_a_region_touches_these_chunks(
    region: Any, chunks: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    assert covering(region, chunks) == expected


@given(
    st.tuples(*(st.integers(0, 40) for _ in range(3))),
    st.tuples(*(st.integers(1, 50) for _ in range(3))),
    st.integers(1, 3000),
)
def test_tiles_join_whole_chunks_and_cover_everything_once(
    shape: tuple[int, ...], chunks: tuple[int, ...], pixels: int
) -> None:
    edges = grid.regular_edges(shape, chunks)
    with tiles_of(pixels):
        tiles = grid.coarsened(edges)
    for whole, joined, n in zip(edges, tiles, shape, strict=True):
        assert set(joined) <= set(whole)
        assert (joined[0], joined[-1]) == (0, n)
        assert list(joined) == sorted(set(joined))
    seen = np.zeros(shape, int)
    largest = max(pixels, int(np.prod([min(c, n) for c, n in zip(chunks, shape, strict=True)])))
    for region in grid.regions_of(tiles):
        part = seen[tuple(slice(a, b) for a, b in region)]
        assert part.size <= largest
        part += 1
    assert np.all(seen == 1)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 40), st.integers(1, 40))
def test_groups_of_channels_are_whole_chunks_and_cover_all_once(
    channels: int, chunk: int, tiles: int, threads: int
) -> None:
    edges = grid.regular_edges((channels,), (chunk,))[0]
    groups = grid.split_channels(edges, tiles, threads)
    assert [e for g in groups for e in g[:-1]] == list(edges[:-1])
    assert all(a[-1] == b[0] for a, b in pairwise(groups))
    assert groups[-1][-1] == channels


def test_a_folder_may_hold_an_array_below_its_root(tmp_path: Path) -> None:
    group = zarr.open_group(LocalStore(tmp_path / "g"), mode="w")
    group.create_array("deep/er/image", data=pixels(), chunks=CHUNKS)
    array = zarr.open_group(tmp_path / "g", mode="r")["deep/er/image"]
    assert is_direct(array)
    assert_chunks_are_those_of(array, pixels())
