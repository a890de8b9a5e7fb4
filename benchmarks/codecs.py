"""Speed and size of ways to encode crops, on real and synthetic tissue.

    python benchmarks/codecs.py [--hubmap FOLDER] [--imc FOLDER] [--record FILE]

Crops are what `extract_instances` makes of each section, in chunks of 500 crops, or fewer. One
thread encodes and decodes each chunk; the ways take turns, round by round. FOLDER holds
image.ome.tif and labels.tif: of the HuBMAP tile R001_X003_Y004 of murphygroup/
CellSegmentationEvaluator (MIT licence), and of a region of BodenmillerGroup/TestData (CC BY 4.0).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import tifffile
from common import Table, in_turn, record
from numcodecs import Blosc, Zstd

import harpy_core as hc
from harpy_core.datasets import REGISTRY, ihc
from harpy_core.datasets.tissue import tissue

numcodecs.blosc.use_threads = False

BATCH = 500
WINDOWS = (50, 100)
SHUFFLES = {
    Blosc.NOSHUFFLE: "no shuffle",
    Blosc.SHUFFLE: "byte shuffle",
    Blosc.BITSHUFFLE: "bit shuffle",
}
OURS = "LZ4 1, no shuffle"
"""What we write by default."""


@dataclass(frozen=True)
class Section:
    """An image (c, y, x) and its labels (y, x)."""

    name: str
    image: np.ndarray
    labels: np.ndarray


def sections(hubmap: Path | None, imc: Path | None) -> Iterator[Section]:
    """Yield the real sections that are there, and a synthetic one."""
    stains = ihc.stains()
    yield Section("IHC", stains, ihc.nuclei(stains[0]))
    for name, folder in (("CODEX", hubmap), ("IMC", imc)):
        if folder is not None:
            image = np.squeeze(tifffile.imread(folder / "image.ome.tif"))
            yield Section(name, image, np.squeeze(tifffile.imread(folder / "labels.tif")))
    known = REGISTRY["tissue"]
    assert known.cells_per_megapixel is not None
    yield Section("synthetic", *tissue((10, 1024, 1024), known.seed, known.cells_per_megapixel))


def ways() -> dict[str, Any]:
    """Encoders by name, each with ``encode`` and ``decode``."""
    found: dict[str, Any] = {}
    for level in (1, 5, 9):
        for shuffle, name in SHUFFLES.items():
            found[f"LZ4 {level}, {name}"] = Blosc("lz4", level, shuffle)
    for size in (2**16, 2**18, 2**20):
        found[f"LZ4 1, no shuffle, blocks of {size // 1024} KiB"] = Blosc("lz4", 1, 0, size)
    for level in (1, 3):
        for shuffle in (Blosc.NOSHUFFLE, Blosc.BITSHUFFLE):
            found[f"Zstd {level} in Blosc, {SHUFFLES[shuffle]}"] = Blosc("zstd", level, shuffle)
    for level in (-3, 1, 3):
        found[f"Zstd {level}, plain"] = Zstd(level)
    return found


def chunks_of(section: Section, window: int, masked: bool) -> list[np.ndarray]:
    """Crops of a section, chunk by chunk."""
    with tempfile.TemporaryDirectory() as folder:
        crops = hc.extract_instances(
            section.image,
            section.labels,
            Path(folder) / "crops.zarr",
            diameter=window,
            remove_background=masked,
            codec="none",
        )
        pixels = np.ascontiguousarray(crops.image[...])
    return [pixels[first : first + BATCH] for first in range(0, len(pixels), BATCH)]


def measured(section: Section, window: int, masked: bool, repeats: int) -> Table:
    """Measure every way on the crops of a section."""
    chunks = [chunk.reshape(-1) for chunk in chunks_of(section, window, masked)]
    raw = sum(chunk.nbytes for chunk in chunks)
    kind = "background removed" if masked else "with background"
    of = f"{section.name}, {section.image.dtype}"
    table = Table(f"{of}, windows of {window}, {kind}, {raw / 1e6:.0f} MB")
    works: dict[str, Callable[[], Any]] = {}
    sizes: dict[str, int] = {}
    buffers = [np.empty_like(chunk) for chunk in chunks]
    for name, codec in ways().items():
        encoded = [codec.encode(chunk) for chunk in chunks]
        sizes[name] = sum(map(len, encoded))

        def encode(codec: Any = codec) -> None:
            for chunk in chunks:
                codec.encode(chunk)

        def decode(codec: Any = codec, encoded: list[bytes] = encoded) -> None:
            for content, buffer in zip(encoded, buffers, strict=True):
                codec.decode(content, buffer)

        works |= {f"encode {name}": encode, f"decode {name}": decode}
    times = in_turn(works, repeats)
    for name in ways():
        table.add(f"{name}: size", sizes[name] / raw, "of raw")
        for what in ("encode", "decode"):
            rate = raw / statistics.median(times[f"{what} {name}"]) / 1e9
            table.add(f"{name}: {what}", rate, "GB/s")
    return table


def summary(tables: dict[tuple[str, int, bool], Table]) -> Table:
    """Each way over all sections: geometric means."""
    table = Table("all sections and windows, geometric means")
    for masked in (True, False):
        kind = "background removed" if masked else "with background"
        for name in ways():
            for what, unit in (("size", "of raw"), ("encode", "GB/s"), ("decode", "GB/s")):
                values = [
                    row["value"]
                    for (_, _, of_masked), one in tables.items()
                    for row in one.rows
                    if of_masked == masked and row["what"] == f"{name}: {what}"
                ]
                mean = float(np.exp(np.mean(np.log(values))))
                table.add(f"{kind}, {name}: {what}", mean, unit)
    return table


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hubmap", type=Path, help="folder of the CODEX section")
    parser.add_argument("--imc", type=Path, help="folder of the imaging mass cytometry")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    tables = {
        (section.name, window, masked): measured(section, window, masked, options.repeats)
        for section in sections(options.hubmap, options.imc)
        for window in WINDOWS
        for masked in (True, False)
    }
    record(options.record, [*tables.values(), summary(tables)], {"written by default": OURS})


if __name__ == "__main__":
    main()
