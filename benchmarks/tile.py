"""Time tiling: a terapixel of links, and copies against encoding the same chunks alone.

    python benchmarks/tile.py FOLDER --record results/recorded/tile.json

FOLDER takes some 4 GB. Copies are measured twice: of a source on the grid of the chunks, whose
chunks repeat, and of one off the grid, where no two chunks of the result are alike.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from common import Table, ratio, record, seconds

from harpy_core.datasets import REGISTRY, fetch, tissue
from harpy_core.raster import Raster, open_raster
from harpy_core.storage import codecs
from harpy_core.storage.writing import write_flushed
from harpy_core.tiling.tile import AT_WORK, Tiled, tile_raster

CHUNKS = (10, 2048, 2048)
TERAPIXEL = (100, 100_000, 100_000)
COPIED = (10, 8192, 8192)
BESIDE_THE_GRID = (10, 4000, 4000)


def source(folder: Path, name: str, shape: tuple[int, int, int] | None = None) -> Raster:
    """Make a registered tissue, or one of equal density and another shape, once."""
    path = folder / f"{name}{'' if shape is None else '-beside'}.zarr"
    if not path.exists():
        known = REGISTRY[name]
        if shape is None:
            fetch(name, path, progress=True)
        else:
            assert known.cells_per_megapixel is not None
            made = tissue.Tissue(shape, known.seed, known.cells_per_megapixel)
            tissue.write(path, made, known.chunks, progress=True)
    return open_raster(path, "image", "labels")


def bytes_beyond(store: Path) -> int:
    """Disk space that a store takes by itself: files with one name, folders, and metadata."""
    total = 0
    for folder, _, names in os.walk(store):
        total += 512 * os.stat(folder).st_blocks
        found = (os.lstat(os.path.join(folder, name)) for name in names)
        total += sum(512 * file.st_blocks for file in found if file.st_nlink == 1)
    return total


def linked(folder: Path, repeats: int) -> Table:
    """Measure a terapixel of links."""
    table = Table("1 terapixel, linked, labels of every repeat included")
    raster, target = source(folder, "tissue-terapixel"), folder / "linked.zarr"
    times, tiled = [], Tiled()
    for _ in range(repeats):
        shutil.rmtree(target, ignore_errors=True)

        def work() -> None:
            nonlocal tiled
            tiled = tile_raster(raster, target, TERAPIXEL, CHUNKS, "link")

        times.append(seconds(work))
    table.add("time", statistics.median(times), "s", "<= 120 s on 2 cores")
    table.add("disk beyond the source", bytes_beyond(target) / 1e6, "MB", "<= 200 MB")
    table.add("chunk files linked", tiled.linked, "")
    table.add("chunk files encoded (labels)", tiled.encoded, "")
    shutil.rmtree(target)
    return table


def chunks_of(raster: Raster) -> Iterator[tuple[np.ndarray, codecs.Content]]:
    """Yield the pixels of every chunk of a tiled store, one after the other."""
    arrays: tuple[tuple[np.ndarray, codecs.Content], ...]
    arrays = ((raster.image, "image"), (raster.labels, "labels"))
    for array, content in arrays:
        grid = (range(0, n, c) for n, c in zip(array.shape, array.chunks, strict=True))
        for corner in product(*grid):
            place = tuple(slice(a, a + c) for a, c in zip(corner, array.chunks, strict=True))
            yield np.ascontiguousarray(array[place]), content


def encode(chunk: tuple[np.ndarray, codecs.Content]) -> codecs.Encoded:
    """Encode a chunk as its file holds it."""
    pixels, content = chunk
    return codecs.encode("zstd" if content == "labels" else "lz4", pixels, content)


def encode_all(chunks: list[tuple[np.ndarray, codecs.Content]], threads: int) -> list[int]:
    """Encode chunks that are in memory, keeping nothing; return the bytes of each."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda chunk: sum(map(len, encode(chunk))), chunks))


def write_all(folder: Path, sizes: list[int], threads: int) -> None:
    """Write files of given sizes, flushed to disk."""
    content = np.random.default_rng(0).bytes(max(sizes))

    def write(number: int) -> None:
        write_flushed(folder / str(number), [memoryview(content)[: sizes[number]]])

    folder.mkdir()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(len(sizes))))


def encode_and_write_all(
    folder: Path, chunks: list[tuple[np.ndarray, codecs.Content]], threads: int
) -> None:
    """Encode chunks that are in memory, and put each into a file, flushed to disk."""

    def write(number: int) -> None:
        write_flushed(folder / str(number), encode(chunks[number]))

    folder.mkdir()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(len(chunks))))


def copied(folder: Path, name: str, raster: Raster, repeats: int) -> Table:
    """Measure copies against the encoding of the same chunks."""
    table = Table(f"copy to {' x '.join(map(str, COPIED))}, {name}")
    target = folder / "copied.zarr"
    threads = len(os.sched_getaffinity(0))

    copy = partial(tile_raster, raster, target, COPIED, CHUNKS, "copy")
    shutil.rmtree(target, ignore_errors=True)
    tiled = copy()
    chunks = list(chunks_of(open_raster(target, "image", "labels")))
    files = folder / "files"
    sizes = encode_all(chunks, threads)
    works: dict[str, Callable[[], object]] = {
        "encode": partial(encode_all, chunks, threads),
        "write": partial(write_all, files, sizes, AT_WORK * threads),
        "both": partial(encode_and_write_all, files, chunks, AT_WORK * threads),
        "copy": copy,
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            for left in (target, files):
                shutil.rmtree(left, ignore_errors=True)
            times[name].append(seconds(work))
    size = sum(pixels.nbytes for pixels, _ in chunks) / 1e9
    copying = statistics.median(times["copy"])
    table.add("encode alone", statistics.median(times["encode"]), "s")
    table.add("write alone, flushed", statistics.median(times["write"]), "s")
    table.add("encode and write, flushed", statistics.median(times["both"]), "s")
    table.add("copy", copying, "s")
    table.add("copy, of pixels", size / copying, "GB/s")
    table.add("speed of copy / encode alone", ratio(times, "encode", "copy"), "x", ">= 0.8 x")
    table.add("speed of copy / encode and write", ratio(times, "both", "copy"), "x")
    table.add("chunk files encoded", tiled.encoded, "")
    table.add("chunk files copied", tiled.copied, "")
    shutil.rmtree(target)
    return table


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="takes some 4 GB")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    name = "tissue-gigapixel"
    on_grid = source(options.folder, name)
    beside = source(options.folder, name, BESIDE_THE_GRID)
    tables = [
        linked(options.folder, options.repeats),
        copied(options.folder, "chunks that come again", on_grid, options.repeats),
        copied(options.folder, "no two chunks alike", beside, options.repeats),
    ]
    record(options.record, tables)


if __name__ == "__main__":
    main()
