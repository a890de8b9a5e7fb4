"""Chunks that the engine cupy decodes itself: on a GPU where one is asked for, else emulated."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import pytest
import zarr
from cases import tiles_of
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import Blosc
from oracle import STATISTICS
from zarr.codecs import BloscCodec, Crc32cCodec

import harpy_core as hc
from harpy_core.errors import InputError
from harpy_core.kernels import gpu_sessions
from harpy_core.kernels.blosc import Encoded, streams_of

pytestmark = pytest.mark.usefixtures("card")

LZ4 = (BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=2),)
BITS, BYTES, NOTHING = Blosc.BITSHUFFLE, Blosc.SHUFFLE, Blosc.NOSHUFFLE


def on_the_card(content: bytes, size: int) -> bytes | None:
    """Decode a chunk on the card; None where it is left to the processor."""
    session = gpu_sessions.session_of_thread()
    # The shape says no more here than that a plane ends on a border of 16 bytes.
    chunk = Encoded(np.frombuffer(content, np.uint8), (1, 16), np.dtype("u1"), size, no_decoder)
    planes = session._decoded(chunk)
    if planes is None:
        return None
    found = np.empty(size, np.uint8)
    session.card.get(planes.buffer, found)
    session.card.wait()
    return found.tobytes()


def no_decoder() -> np.ndarray:
    raise AssertionError("the processor is not asked")


def pixels(form: str, items: int, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(items)
    if form == "noise":
        return np.frombuffer(rng.bytes(items * np.dtype(dtype).itemsize), dtype)
    if form == "one value":
        return np.full(items, 7, dtype)
    if form == "a period":
        return np.tile(np.arange(37), items // 37 + 1)[:items].astype(dtype)
    return np.minimum(rng.poisson(20, items), 100).astype(dtype)


@pytest.mark.parametrize("shuffle", [BITS, BYTES, NOTHING])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f8"])
@pytest.mark.parametrize("form", ["counts", "noise", "one value", "a period"])
def test_a_chunk_comes_out_as_it_went_in(form: str, dtype: str, shuffle: int) -> None:
    for items in (32, 4096, 3 * 2**15 + 96):
        for block in (0, 2**12):
            values = pixels(form, items, dtype)
            content = Blosc("lz4", 5, shuffle, block).encode(values)
            assert on_the_card(content, values.nbytes) == values.tobytes()


@pytest.mark.parametrize(
    ("codec", "items"), [("zstd", 4096), ("zlib", 4096), ("blosclz", 4096), ("lz4", 4096 + 8)]
)
def test_what_no_kernel_decodes_is_left_to_the_processor(codec: str, items: int) -> None:
    values = pixels("counts", items, "u2")
    assert on_the_card(Blosc(codec, 5, BITS).encode(values), values.nbytes) is None


Step = tuple[bytes, int, int]
"""Literals, then a match: how far back, and how long."""


def lz4(steps: list[Step], last: bytes) -> tuple[bytes, bytes]:
    """A stream in the LZ4 block format, and what it says."""
    stream, said = bytearray(), bytearray()
    for literals, back, length in steps:
        stream += sequence(literals, length - 4) + struct.pack("<H", back)
        stream += more(length - 4)
        said += literals
        for _ in range(length):
            said.append(said[-back])
    return bytes(stream + sequence(last, 0)), bytes(said + last)


def sequence(literals: bytes, match: int) -> bytes:
    token = min(len(literals), 15) << 4 | min(match, 15)
    return bytes([token]) + more(len(literals)) + literals


def more(length: int) -> bytes:
    full, rest = divmod(length - 15, 255)
    return b"" if length < 15 else b"\xff" * full + bytes([rest])


@st.composite
def lz4_streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Streams of any sequences, short and long; compressed, as Blosc stores no others."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = st.sampled_from([0, 1, 3, 14, 15, 16, 31, 40, 270, 300])
    steps: list[Step] = []
    done = 0
    for _ in range(draw(st.integers(0, 12))):
        literals = rng.bytes(draw(lengths) or (not done))
        done += len(literals)
        back = draw(st.sampled_from([1, 2, 3, 7, 31, 32, 33, done]))
        steps.append((literals, min(back, done), 4 + draw(lengths)))
        done += steps[-1][2]
    steps.append((rng.bytes(1), 1, 200))
    return lz4(steps, rng.bytes(draw(st.sampled_from([1, 5, 20, 300]))))


def chunk_of(stream: bytes, size: int) -> bytes:
    """A chunk of one block, which is one stream."""
    content = struct.pack("<ii", 20, len(stream)) + stream
    return struct.pack("<4B3i", 2, 1, 1 << 5, 1, size, size, 16 + len(content)) + content


@given(lz4_streams())
def test_streams_say_what_the_format_says(made: tuple[bytes, bytes]) -> None:
    stream, said = made
    assert on_the_card(chunk_of(stream, len(said)), len(said)) == said


@given(lz4_streams(), st.integers(-300, 300).filter(bool))
def test_streams_of_another_length_are_refused(made: tuple[bytes, bytes], off: int) -> None:
    stream, said = made
    size = len(said) + off
    if size > 0 and size != len(stream):  # else it would be taken as it is
        assert on_the_card(chunk_of(stream, size), size) is None


@pytest.mark.parametrize(
    "stream",
    [
        b"\x10a\x00\x00" + sequence(b"12345", 0),
        b"\x10a\x02\x00" + sequence(b"12345", 0),
        b"\x1fa\x01\x00" + b"\xff" * 40,
        b"\xf0" + b"\xff" * 40,
        b"\x10a\x01",
        b"\x50a",
    ],
    ids=["no distance", "before the start", "endless match", "endless literals", "half", "short"],
)
def test_streams_that_say_nothing_are_refused(stream: bytes) -> None:
    assert on_the_card(chunk_of(stream, 10), 10) is None


@given(
    st.sampled_from([BITS, BYTES, NOTHING]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.integers(0, 3),
)
def test_spoiled_chunks_harm_nothing(
    shuffle: int, changes: list[tuple[float, int]], cut: int
) -> None:
    values = pixels("counts", 2**12, "u2")
    content = bytearray(Blosc("lz4", 5, shuffle, 2**11).encode(values))
    for place, value in changes:
        # Most of what can be spoiled stands at the beginning.
        content[int(place**3 * len(content))] = value
    spoiled = bytes(content[: len(content) - cut])
    found = on_the_card(spoiled, values.nbytes)
    if found is not None and found != values.tobytes():
        assert found == numcodecs.blosc.decompress(spoiled)


def test_the_streams_of_a_chunk_lie_inside_it() -> None:
    values = pixels("counts", 2**12, "u2")
    content = np.frombuffer(Blosc("lz4", 5, BITS, 2**11).encode(values), np.uint8).copy()
    begin = int(content[16:20].view("<i4")[0])
    for place in (16, begin):
        for value in (-1, -(2**31), 0, len(content) - 2, 2**31 - 1):
            changed = content.copy()
            changed[place : place + 4] = np.frombuffer(struct.pack("<i", value), np.uint8)
            found = streams_of(changed, values.nbytes)
            if found is not None:
                source, size, target, length = found.table.astype(np.int64).T
                assert np.all(source + size <= len(content))
                assert np.all(target + length <= values.nbytes)


@contextmanager
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Record the encoded chunks that were decoded on the card."""
    found: list[bool] = []
    decode = gpu_sessions.Session._decoded

    def counting(self: Any, chunk: Encoded) -> Any:
        planes = decode(self, chunk)
        found.append(planes is not None)
        return planes

    with monkeypatch.context() as patch:
        patch.setattr(gpu_sessions.Session, "_decoded", counting)
        yield found


def store(
    folder: Path, dtype: str, codecs: Sequence[Any], sharded: bool
) -> tuple[zarr.Array, zarr.Array]:
    """An image whose chunks reach beyond it, along channels too, and its labels."""
    rng = np.random.default_rng(3)
    shape, chunks = (5, 70, 90), (2, 32, 48)
    image, labels = (
        zarr.create_array(
            folder / name,
            shape=shape[-axes:],
            chunks=chunks[-axes:],
            shards=tuple(2 * n for n in chunks[-axes:]) if sharded else None,
            dtype=kind,
            compressors=codecs,
            filters=None,
        )
        for name, axes, kind in (("image", 3, dtype), ("labels", 2, "u4"))
    )
    image[...] = np.minimum(rng.poisson(30, shape), 120).astype(dtype)
    labels[...] = np.kron(np.arange(1, 64).reshape(7, 9), np.ones((10, 10), "u4"))
    return image, labels


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u8", "f4"])
@pytest.mark.parametrize(("cname", "on_card"), [("lz4", True), ("zstd", False)])
def test_both_jobs_decode_each_chunk_once_and_find_the_same(
    cname: Any,
    on_card: bool,
    dtype: str,
    sharded: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    blosc = BloscCodec(cname=cname, shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize)
    # What we write has a checksum; what others write often has none.
    arrays = store(tmp_path, dtype, (blosc, Crc32cCodec()) if sharded else (blosc,), sharded)
    with decoded(monkeypatch) as found, tiles_of(1):
        table = hc.aggregate_stats(*arrays, STATISTICS, engine="cupy")
    # A chunk that the processor decodes is asked for once more by the powers of wide pixels.
    assert set(found) == {on_card}
    assert not on_card or len(found) == 3 * 3 * 2
    expected = hc.aggregate_stats(*arrays, STATISTICS, engine="numba")
    for name in STATISTICS:
        np.testing.assert_allclose(table.layers[name], expected.layers[name], 1e-12, 1e-12)
    with decoded(monkeypatch) as found, tiles_of(1):
        crops = hc.extract_instances(*arrays, tmp_path / "a", diameter=12, engine="cupy")
    assert set(found) == {on_card}
    with tiles_of(1):
        others = hc.extract_instances(*arrays, tmp_path / "b", diameter=12, engine="numba")
    np.testing.assert_array_equal(crops.image[...], others.image[...])


def test_a_missing_chunk_is_what_the_reader_says(tmp_path: Path) -> None:
    arrays = store(tmp_path, "u2", LZ4, False)
    os.remove(tmp_path / "image" / "c" / "0" / "1" / "1")
    expected = hc.aggregate_stats(*arrays, "mean", engine="numba", strict=False)
    with tiles_of(1):
        found = hc.aggregate_stats(*arrays, "mean", engine="cupy", strict=False)
    np.testing.assert_array_equal(found.X, expected.X)
    for strict in (None, True):
        with tiles_of(1), pytest.raises(InputError, match=r"chunk \(0, 1, 1\) is missing"):
            hc.aggregate_stats(*arrays, "mean", engine="cupy", strict=strict)


@pytest.mark.parametrize("spoil", ["cut", "middle", "checksum"])
def test_a_spoiled_chunk_is_named_in_one_line(spoil: str, tmp_path: Path) -> None:
    codecs = (*LZ4, Crc32cCodec()) if spoil == "checksum" else LZ4
    arrays = store(tmp_path, "u2", codecs, False)
    file = tmp_path / "image" / "c" / "1" / "0" / "1"
    content = bytearray(file.read_bytes())
    if spoil == "cut":
        del content[-9:]
    elif spoil == "middle":
        content[24:] = b"\xff" * (len(content) - 24)
    else:
        content[-20] ^= 1
    file.write_bytes(content)
    said = r"image: chunk \(1, 0, 1\) cannot be read"
    with tiles_of(1), pytest.raises(InputError, match=said) as told:
        hc.aggregate_stats(*arrays, "mean", engine="cupy")
    assert "\n" not in str(told.value)
