"""Files written past the page cache against the bytes they were made of."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harpy_core.storage import writing
from harpy_core.storage.writing import BLOCK, BUFFER, LARGE, write_flushed

SIZES = st.integers(0, 3 * BLOCK) | st.sampled_from([LARGE - 1, LARGE, BUFFER, BUFFER + 1])


@pytest.fixture
def tmp_path(disk: Path) -> Path:
    """A folder whose files can be written past the page cache."""
    return disk


def content(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(sizes=st.lists(SIZES, max_size=4))
def test_a_file_holds_its_parts(tmp_path: Path, sizes: list[int]) -> None:
    parts = [content(size) for size in sizes]
    path = tmp_path / "file"
    path.write_bytes(b"older and longer" * 1000)
    write_flushed(path, parts)
    assert path.read_bytes() == b"".join(parts)


def test_arrays_are_written_as_they_lie_in_memory(tmp_path: Path) -> None:
    values = np.arange(LARGE, dtype=np.uint16).reshape(16, -1)
    write_flushed(tmp_path / "file", [values])
    assert np.array_equal(np.fromfile(tmp_path / "file", np.uint16), values.ravel())


def test_large_files_stay_out_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    opened = os.open

    def watched(path: Path, flags: int, mode: int) -> int:
        asked.append(bool(flags & os.O_DIRECT))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", watched)
    write_flushed(tmp_path / "small", [content(LARGE - 1)])
    write_flushed(tmp_path / "large", [content(LARGE)])
    assert asked == [False, True]


def test_a_file_system_without_direct_writes_gets_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refusing(path: Path, flags: int, mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct writes")
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    write_flushed(tmp_path / "file", [content(LARGE + 5)])
    assert (tmp_path / "file").read_bytes() == content(LARGE + 5)


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The rest is no multiple of a block: the disk itself refuses it, and the cache takes it.
    whole, cut = os.write, []

    def short(handle: int, block: memoryview) -> int:
        if cut:
            return whole(handle, block)
        cut.append(handle)
        whole(handle, block[:BLOCK])
        return os.lseek(handle, 100, os.SEEK_SET)

    monkeypatch.setattr(os, "write", short)
    write_flushed(tmp_path / "file", [content(LARGE + 5)])
    assert (tmp_path / "file").read_bytes() == content(LARGE + 5)


def test_a_limit_on_sizes_is_an_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BUFFER, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_flushed(tmp_path / "file", [content(2 * BUFFER)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_buffers_are_aligned() -> None:
    assert BUFFER % BLOCK == 0
    (block,) = writing._blocks([memoryview(b"x")])
    assert np.frombuffer(block, np.uint8).ctypes.data % BLOCK == 0
    assert block.nbytes == BLOCK
