"""Dask arrays are rolled through: each block made once, few in work, results in order."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pytest
from cases import tiles_of

import harpy_core as hc
from harpy_core.running import schedule
from harpy_core.running.pieces import Pieces

if TYPE_CHECKING:
    from distributed import Client

LABELS = np.kron(np.arange(1, 401, dtype="u4").reshape(20, 20), np.ones((10, 10), "u4"))
IMAGE = np.random.default_rng(0).integers(0, 1000, (3, *LABELS.shape)).astype("u2")


def noted(block: np.ndarray, file: str, block_info: Any = None) -> np.ndarray:
    """The block itself; one line in a file for each that is made."""
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(f"{block_info[0]['chunk-location']}\n")
    return block


def shared_blocks(file: Path) -> da.Array:
    """An image whose tiles need blocks of their neighbours."""
    blocks = da.from_array(IMAGE, chunks=(1, 33, 41)).map_blocks(noted, file=str(file), dtype="u2")
    return blocks.map_overlap(lambda block: block, depth=(0, 2, 2), boundary="none")


@pytest.mark.parametrize("threads", [2, 200])
@pytest.mark.parametrize("here", [True, False])
def test_each_block_is_made_once_however_many_tiles_need_it(
    here: bool, threads: int, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "threads_of", lambda client: threads)
    with tiles_of(1):
        found = hc.aggregate_stats(
            shared_blocks(tmp_path / "made"),
            LABELS,
            ("mean", "std"),
            client=None if here else client,
        )
    expected = hc.aggregate_stats(IMAGE, LABELS, ("mean", "std"))
    for name in ("mean", "std"):
        np.testing.assert_array_equal(found.layers[name], expected.layers[name])
    made = Counter((tmp_path / "made").read_text(encoding="utf-8").splitlines())
    assert len(made) == 3 * 7 * 5
    assert set(made.values()) == {1}


class Tile:
    """A lazy task of one block."""

    def __init__(self, number: int, labels: Any) -> None:
        self.number, self.labels, self.image = number, labels, []

    def without_blocks(self) -> Tile:
        return Tile(self.number, None)

    def on_blocks(self, labels: Any, blocks: list[Any]) -> tuple[int, int]:
        return self.number, int(labels)


def note(task: tuple[int, int], file: str) -> tuple[int, int]:
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(f"{task[0]}\n")
    return task


@pytest.mark.parametrize("here", [True, False])
def test_no_more_tiles_are_measured_than_are_soon_merged(
    here: bool, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "threads_of", lambda client: 2)
    file = tmp_path / "measured"
    square = dask.delayed(pow)
    tiles = [Tile(number, square(number, 2)) for number in range(60)]

    def work(task: tuple[int, int]) -> tuple[int, int]:
        return note(task, str(file))

    where = None if here else client
    for merged, (_, result) in enumerate(schedule.results(work, tiles, where, lazy=True)):
        assert result == (merged, merged**2)
        measured = len(file.read_text(encoding="utf-8").splitlines())
        assert measured <= merged + schedule.IN_FLIGHT * 2


def test_what_is_shared_is_held_from_its_first_use_to_its_last() -> None:
    """Sixty values, each of two neighbours in a chain of blocks: two are held, not sixty."""
    block = dask.delayed(lambda number: number, pure=True)
    add = dask.delayed(lambda a, b: a + b, pure=False)
    blocks = [block(number) for number in range(61)]
    pieces = Pieces([add(a, b) for a, b in pairwise(blocks)], apart=False)
    held = []

    def submit(piece: Any, needed: list[Any]) -> Any:
        held.append(len(pieces._futures))
        return piece.compute(needed)

    assert list(pieces.handed_out(submit)) == [2 * number + 1 for number in range(60)]
    assert max(held) <= 2
    assert not pieces._futures


def test_no_values_are_no_pieces() -> None:
    assert list(Pieces([], apart=False).handed_out(lambda piece, needed: None)) == []


def test_an_error_in_a_shared_block_ends_the_job() -> None:
    def fail(block: np.ndarray) -> np.ndarray:
        raise hc.InputError("this block: not wanted")

    image = da.from_array(IMAGE, chunks=(1, 100, 100)).map_blocks(fail, dtype="u2")
    overlapping = image.map_overlap(lambda block: block, depth=(0, 2, 2), boundary="none")
    with pytest.raises(hc.InputError, match="this block"):
        hc.aggregate_stats(overlapping, LABELS)
