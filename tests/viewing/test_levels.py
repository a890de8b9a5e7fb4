"""Tiles of an image against every second, fourth, … pixel of the array itself."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from harpy_core.viewing import levels
from harpy_core.viewing.levels import Levels


def assembled(found: Levels, level: int, channel: int) -> np.ndarray:
    """A level put together from its tiles."""
    height, width = found.shapes[level]
    rows = []
    for row in range(-(-height // found.side)):
        tiles = [found.tile(level, channel, row, n) for n in range(-(-width // found.side))]
        assert all(tile is not None for tile in tiles)
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    chunks=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from(["uint8", ">u2", "float64"]),
)
def test_each_level_has_every_second_pixel_of_the_one_before(
    shape: tuple[int, int, int], chunks: tuple[int, int, int], dtype: str
) -> None:
    image = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "TILES", (4, 16))
        found = Levels(image, chunks, shape[0], np.dtype("f4"))
    assert found.side in (4, 8, 16)
    assert max(found.shapes[-1]) <= found.side
    for level in range(len(found.shapes)):
        for channel in range(shape[0]):
            expected = image[channel, :: 2**level, :: 2**level].astype("f4")
            np.testing.assert_array_equal(assembled(found, level, channel), expected)


def test_of_a_volume_the_middle_plane_is_shown() -> None:
    image = np.random.default_rng(0).integers(0, 99, (2, 5, 30, 20)).astype(np.uint8)
    found = Levels(image, (1, 1, 30, 20), 2, image.dtype)
    np.testing.assert_array_equal(assembled(found, 0, 1), image[1, 2])
    labels = Levels(image[0], (1, 30, 20), None, np.dtype("u4"))
    np.testing.assert_array_equal(assembled(labels, 0, 0), image[0, 2])


@given(st.integers(-30, 80), st.integers(-30, 80), st.integers(1, 40), st.integers(1, 40))
def test_a_window_is_padded_with_zeros(top: int, left: int, height: int, width: int) -> None:
    image = np.arange(1, 61 * 47 + 1).reshape(1, 61, 47)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "TILES", (16, 16))
        found = Levels(image, image.shape, 1, np.dtype("i4"))
    padded = np.pad(image[0], 120)
    expected = padded[top + 120 : top + 120 + height, left + 120 : left + 120 + width]
    np.testing.assert_array_equal(found.window(0, top, left, height, width), expected)


def test_a_block_is_read_once_for_all_channels_of_its_chunk_and_all_levels() -> None:
    read: list[object] = []

    class Counted:
        array = zarr.array(np.ones((4, 1024, 512), np.uint16), chunks=(4, 256, 256))
        shape, ndim = array.shape, array.ndim

        def __getitem__(self, key: object) -> object:
            read.append(key)
            return self.array[key]

    found = Levels(Counted(), Counted.array.chunks, 4, np.dtype("u2"))
    for level in range(len(found.shapes)):
        for channel in range(4):
            assembled(found, level, channel)
    assert len(read) == 8


def test_of_a_large_image_levels_are_not_shown_for_which_much_of_it_would_be_read() -> None:
    class Unread:
        shape, ndim = (1, 100_000, 100_000), 3

        def __getitem__(self, key: object) -> None:
            raise AssertionError(key)

    found = Levels(Unread(), (1, 2048, 2048), 1, np.dtype("u2"))
    assert [found.is_shown(level) for level in range(len(found.shapes))] == 3 * [True] + 4 * [False]
    assert found.tile(3, 0, 0, 0) is None


def test_blocks_are_kept_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "_KEPT", 3 * 256**2)
    image = np.random.default_rng(0).integers(0, 99, (1, 2048, 512)).astype(np.uint8)
    found = Levels(image, (1, 256, 256), 1, image.dtype)
    np.testing.assert_array_equal(assembled(found, 3, 0), image[0, ::8, ::8])
    assert sum(block.nbytes for block in found._kept.values()) == found._size <= 3 * 256**2
