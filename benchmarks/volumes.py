"""Volumes: memory of both stages against their plan, and their time, where chunks lie along z.

    python benchmarks/volumes.py [FOLDER] [--record FILE]

Two volumes of ellipsoids are made, 1 x 512 x 4096 x 4096 uint16 and 4 x 64 x 8192 x 8192 uint8;
each takes some GB of disk, its crops included, and is removed after it is measured. Chunks of the
image repeat, as links to one file, in every block of 64 x 1024 x 1024 voxels; labels do not repeat.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from common import Table, record, seconds
from distributed import Client
from zarr.codecs import BloscCodec

import harpy_core as hc
from harpy_core.planning.parts import Plan
from harpy_core.planning.plan import plan_aggregate, plan_extract, stage_plan
from harpy_core.raster import Raster
from harpy_core.running import cluster

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from memory import taken

BLOCK = (64, 1024, 1024)
PITCH = (32, 96, 96)
"""Voxels from one cell to the next."""
RADII = (8, 22, 22)
WINDOW = [16, 48, 48]
WORKERS = 2
MOST = 2.5
"""Largest ratio of planned to measured memory."""


@dataclass(frozen=True)
class Volume:
    """A volume to measure: its shape, (c, z, y, x), its chunks, and the type of its pixels."""

    name: str
    shape: tuple[int, int, int, int]
    chunks: tuple[int, int, int, int]
    dtype: str


VOLUMES = (
    Volume("1 x 512 x 4096 x 4096, uint16", (1, 512, 4096, 4096), (1, 32, 512, 512), "u2"),
    Volume("4 x 64 x 8192 x 8192, uint8", (4, 64, 8192, 8192), (2, 16, 1024, 1024), "u1"),
)


def block() -> np.ndarray:
    """Cells of a block, numbered from 1, (z, y, x) uint32; they cross the borders of chunks."""
    axes = np.ogrid[tuple(slice(n) for n in BLOCK)]
    inside = sum(
        ((axis % pitch - pitch / 2) / radius) ** 2
        for axis, pitch, radius in zip(axes, PITCH, RADII, strict=True)
    )
    counts = [-(-n // pitch) for n, pitch in zip(BLOCK, PITCH, strict=True)]
    z, y, x = (axis // pitch for axis, pitch in zip(axes, PITCH, strict=True))
    return np.where(inside < 1, (z * counts[1] + y) * counts[2] + x + 1, 0).astype("u4")


def made(volume: Volume, folder: Path) -> tuple[zarr.Array, zarr.Array]:
    """Make a volume and its labels."""
    group = zarr.open_group(folder, mode="w")
    image, labels = (
        group.create_array(
            name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            compressors=BloscCodec(
                cname="lz4", shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize
            ),
            config={"write_empty_chunks": True},
        )
        for name, shape, chunks, dtype in (
            ("image", volume.shape, volume.chunks, volume.dtype),
            ("labels", volume.shape[1:], volume.chunks[1:], "u4"),
        )
    )
    cells = block()
    pixels = np.random.default_rng(1).poisson(20, BLOCK).astype(volume.dtype)
    pixels += 60 * (cells > 0).astype(volume.dtype)
    for number, corner in enumerate(blocks(volume)):
        place = tuple(slice(a, a + n) for a, n in zip(corner, BLOCK, strict=True))
        labels[place] = np.where(cells > 0, cells + number * int(cells.max()), 0)
        if number == 0:
            image[(slice(None), *place)] = np.broadcast_to(pixels, (volume.shape[0], *BLOCK))
        else:
            link(folder / "image", volume, corner)
    return image, labels


def blocks(volume: Volume) -> list[tuple[int, ...]]:
    """First voxel of each block."""
    return list(product(*(range(0, n, b) for n, b in zip(volume.shape[1:], BLOCK, strict=True))))


def link(array: Path, volume: Volume, corner: tuple[int, ...]) -> None:
    """Link the chunks of a block of the image to those of the first."""
    counts = [b // c for b, c in zip(BLOCK, volume.chunks[1:], strict=True)]
    first = [a // c for a, c in zip(corner, volume.chunks[1:], strict=True)]
    for c, *inner in product(
        range(volume.shape[0] // volume.chunks[0]), *(range(n) for n in counts)
    ):
        there = [a + b for a, b in zip(first, inner, strict=True)]
        target = array.joinpath("c", str(c), *map(str, there))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(array.joinpath("c", str(c), *map(str, inner)), target)


def jobs(
    image: Any, labels: Any, found: Any, target: Path, client: Client
) -> dict[str, tuple[Plan, Callable[[], Any]]]:
    """Each stage of a volume: its plan, and the stage ready to run."""
    crops = {"diameter": WINDOW}
    counted: dict[str, Any] = {"instances": found, "threads": WORKERS}
    return {
        "instances": (
            stage_plan("instances", Raster.of(image, labels).info(), instances=len(found)),
            partial(hc.find_instances, labels, client=client),
        ),
        "aggregate": (
            plan_aggregate(image, labels, ["mean", "std", "max"], **counted),
            partial(
                hc.aggregate_stats,
                image,
                labels,
                ["mean", "std", "max"],
                client=client,
                instances=found,
            ),
        ),
        "extract": (
            plan_extract(image, labels, **crops, **counted),
            partial(
                hc.extract_instances,
                image,
                labels,
                target,
                client=client,
                instances=found,
                **crops,
            ),
        ),
    }


def measured(volume: Volume, folder: Path) -> Table:
    """Time and memory of each stage of a volume."""
    table = Table(f"{volume.name}, chunks {volume.chunks}")
    image, labels = made(volume, folder / "volume.zarr")
    with cluster.local(WORKERS, 1, "6GB") as client:
        # What is compiled or imported once is not a task's.
        small = image[:, :32, :256, :256], labels[:32, :256, :256]
        warm = hc.find_instances(small[1], client=client)
        for _, run in jobs(*small, warm, folder / "warm", client).values():
            run()
        found = hc.find_instances(labels, client=client)
        table.add("instances", len(found), "")
        for stage, (plan, run) in jobs(image, labels, found, folder / "crops", client).items():
            times: list[float] = []
            took = taken(client, lambda run=run, times=times: times.append(seconds(run)))
            table.add(f"{stage}, decoded", plan.bytes_read / 1e9, "GB")
            table.add(f"{stage}, time", times[0], "s")
            table.add(f"{stage}, memory of a task, planned", plan.bytes_per_task / 1e6, "MB")
            table.add(f"{stage}, memory of a worker's task, at most", took / 1e6, "MB")
            ratio = plan.bytes_per_task / took
            table.add(f"{stage}, planned / measured", ratio, "x", f"1 to {MOST} x")
        crops = hc.open_crops(folder / "crops")
        check(crops, image, labels)
    return table


def check(crops: hc.Crops, image: zarr.Array, labels: zarr.Array) -> None:
    """Compare some crops with windows of the image, in every voxel."""
    sides = np.asarray(WINDOW)
    for row in np.linspace(0, len(crops) - 1, 50).astype(int):
        corner = np.rint(crops.centroid[row]).astype(int) - sides // 2
        first, last = np.maximum(corner, 0), np.minimum(corner + sides, labels.shape)
        place = tuple(map(slice, first, last))
        inside = labels[place] == crops.instance_id[row]
        expected = np.zeros((image.shape[0], *WINDOW), image.dtype)
        there = tuple(map(slice, first - corner, last - corner))
        expected[(slice(None), *there)] = image[(slice(None), *place)] * inside
        assert np.array_equal(crops.image[row], expected), f"crop {row} differs"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    tables = []
    for volume in VOLUMES:
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            tables.append(measured(volume, folder))
        finally:
            shutil.rmtree(folder)
    load = round(os.getloadavg()[2], 1)
    record(options.record, tables, {"workers": WORKERS, "threads of each": 1, "load average": load})


if __name__ == "__main__":
    sys.exit(main())
