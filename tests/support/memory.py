"""Peak memory of real Dask workers while a stage runs, against its plan.

A worker's share is its high-water mark (VmHWM) less what it held when it was idle. The mark is
brought down to what it holds by writing 5 to /proc/PID/clear_refs, after its threads, and with them
the buffers that they keep, were given up. The C library would keep those, as it comes to take them
from a heap of the thread: told a fixed size from which on it asks the system, it gives them back.
Pages that it holds when idle, its libraries among them, are locked for the job: a system that
reclaims what was not read for some seconds would make up for what the job takes.
"""

from __future__ import annotations

import ctypes
import gc
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

import harpy_core as hc
from harpy_core.config.crops import CropSettings
from harpy_core.config.measures import Layer
from harpy_core.extract.extraction import stored_ratio
from harpy_core.planning.parts import Plan
from harpy_core.planning.plan import densest_tile, plan_aggregate, plan_extract, stage_plan
from harpy_core.raster import Raster
from harpy_core.raster.placed import PlacedLabels
from harpy_core.raster.reading import reader_of
from harpy_core.raster.views import ChannelView

if TYPE_CHECKING:
    from distributed import Client, Worker

M_MMAP_THRESHOLD = -3
MCL_CURRENT, MCL_ONFAULT = 1, 4
CODECS = {
    "none": None,
    "zstd": ZstdCodec(),
    "lz4": BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"),
}


@dataclass(frozen=True)
class Setting:
    """A stage of one raster, sized so that what Python takes on the way does not matter.

    Attributes
    ----------
    stage
        ``instances``, ``aggregate``, ``extract``, ``one_read``, or ``layers``: the labels twice.
    chunks, label_chunks
        Along (c, y, x) and (y, x).
    size
        Pixels of a side of the image.
    channels, pitch, dtype, codec
        Of the image: how many, from one cell to the next, of the pixels, of the chunks.
    chosen
        Numbers of the channels in use; all without.
    lazy
        Whether the arrays are given as Dask arrays.
    scale, turned
        Pixels of the image along one of the labels, and whether these lie askew on it.
    options
        Of the stage.
    """

    stage: str
    chunks: tuple[int, int, int]
    label_chunks: tuple[int, int] = (1024, 1024)
    size: int = 2048
    channels: int = 4
    pitch: int = 26
    dtype: str = "u2"
    codec: str = "lz4"
    chosen: tuple[int, ...] | None = None
    lazy: bool = False
    scale: float = 1.0
    turned: bool = False
    engine: str = "numba"
    options: dict[str, Any] = field(default_factory=dict)


def cells(size: int, pitch: int) -> np.ndarray:
    """Discs on a grid, each with a margin around it, row by row."""
    y, x = np.ogrid[:size, :size]
    inside = (y % pitch - pitch // 2) ** 2 + (x % pitch - pitch // 2) ** 2 < (0.45 * pitch) ** 2
    return np.where(inside, y // pitch * -(-size // pitch) + x // pitch + 1, 0).astype("u4")


def stored(setting: Setting, folder: Path) -> tuple[Any, Any]:
    """Image and labels of a setting as Zarr arrays; noise, which hardly becomes smaller."""
    name = re.sub(
        r"\W+",
        "-",
        f"{setting.chunks}{setting.size}{setting.channels}{setting.dtype}"
        f"{setting.codec}{setting.label_chunks}{setting.pitch}{setting.scale}",
    )
    if not (folder / name).exists():
        group = zarr.open_group(folder / name, mode="w")
        shape = (setting.channels, setting.size, setting.size)
        codec = CODECS[setting.codec]
        image = group.create_array(
            "image", shape=shape, chunks=setting.chunks, dtype=setting.dtype, compressors=codec
        )
        plane = np.random.default_rng(0).integers(1, 200, shape[1:]).astype(setting.dtype)
        for channel in range(0, setting.channels, setting.chunks[0]):
            count = min(setting.chunks[0], setting.channels - channel)
            image[channel : channel + count] = np.broadcast_to(plane, (count, *plane.shape))
        labels = cells(int(setting.size / setting.scale), int(setting.pitch / setting.scale))
        group.create_array("labels", data=labels, chunks=setting.label_chunks)
    group = zarr.open_group(folder / name, mode="r")
    image = group["image"]
    if setting.lazy:
        import dask.array as da

        return da.from_zarr(image), da.from_zarr(group["labels"])
    if setting.chosen is not None:
        image = ChannelView(image, setting.chosen)
    return image, placed(setting, group["labels"])


def placed(setting: Setting, labels: Any) -> Any:
    """Labels on the pixels of a setting's image."""
    if setting.scale == 1 and not setting.turned:
        return labels
    sine, cosine = (math.sin(0.1), math.cos(0.1)) if setting.turned else (0.0, 1.0)
    matrix = np.diag([1.0, setting.scale, setting.scale, 1.0])
    matrix[1:3, 1:3] = setting.scale * np.array([[cosine, sine], [-sine, cosine]])
    return PlacedLabels(labels, reader_of(labels, 3), (setting.size,) * 2, matrix)


def planned(setting: Setting, image: Any, labels: Any, instances: Any, threads: int) -> Plan:
    """The plan of a setting."""
    info = Raster.of(image, labels).info()
    options = {
        "instances": instances,
        "threads": threads,
        "engine": setting.engine,
        **setting.options,
    }
    if setting.stage == "aggregate":
        return plan_aggregate(image, labels, **options)
    if setting.stage == "extract":
        return plan_extract(image, labels, **options)
    if setting.stage == "layers":
        options |= {"instances": len(instances), "densest": densest_tile(info, instances)}
        other = Layer(labels="other").model_dump()
        return stage_plan("aggregate", info, layers={"other": other}, **options)
    if setting.stage == "one_read":
        crops = CropSettings.of(**setting.options["extract"]).on(None)
        raster = Raster.of(image, labels)
        return stage_plan(
            "one_read",
            raster.info(),
            stats=setting.options["aggregate"]["stats"],
            crops=crops,
            ratio=stored_ratio(raster, instances, crops),
            instances=len(instances),
            densest=densest_tile(raster.info(), instances),
            threads=threads,
            engine=setting.engine,
        )
    return stage_plan(
        "instances",
        info,
        instances=len(instances),
        engine=setting.engine,
    )


def job(
    setting: Setting, image: Any, labels: Any, instances: Any, target: Path, client: Client
) -> Callable[[], Any]:
    """The stage of a setting, ready to run."""
    common = {"engine": setting.engine, "client": client, **setting.options}
    if setting.stage == "aggregate":
        return partial(hc.aggregate_stats, image, labels, instances=instances, **common)
    if setting.stage == "layers":
        layers = {"labels": labels, "other": labels}
        return partial(hc.aggregate_layers, image, layers, **common)
    if setting.stage == "extract":
        return partial(hc.extract_instances, image, labels, target, instances=instances, **common)
    if setting.stage == "one_read":
        table = target.with_name(f"{target.name}-table")
        return partial(
            hc.aggregate_and_extract, image, labels, table, target, instances=instances, **common
        )
    return partial(hc.find_instances, labels, **common)


def idle(dask_worker: Worker) -> int:
    """Give up a worker's threads and bring its mark down; bytes it holds."""
    threads = dask_worker.executors["default"]
    dask_worker.executors["default"] = ThreadPoolExecutor(threads._max_workers)
    threads.shutdown()
    gc.collect()
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_THRESHOLD, 2**18)
    # Locked memory cannot be given back. Who may not lock it measures without.
    library.munlockall()
    library.malloc_trim(0)
    library.mlockall(MCL_CURRENT | MCL_ONFAULT)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> int:
    """Bytes of a line of this process's status."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


def taken(client: Client, run: Callable[[], Any]) -> int:
    """Most bytes that a worker took while a job ran, over what it held before."""
    before = client.run(idle)
    run()
    after = client.run(status, "VmHWM")
    return max(after[worker] - held for worker, held in before.items())


def measured(setting: Setting, client: Client, folder: Path, target: Path) -> tuple[int, int]:
    """Bytes that the plan of a setting foretells for a worker's tasks, and that they take.

    Parameters
    ----------
    folder
        Where rasters are kept.
    target
        Where crops go.
    """
    image, labels = stored(setting, folder)
    found = hc.find_instances(labels)
    threads = max(client.nthreads().values())
    # What is compiled or imported once is not a task's.
    side = 2 * setting.pitch
    warm = image[:, :side, :side], labels[:side, :side]
    job(setting, *warm, hc.find_instances(warm[1]), target / "warm", client)()
    took = taken(client, job(setting, image, labels, found, target / "crops", client))
    plan = planned(setting, image, labels, found, threads)
    return threads * plan.bytes_per_task, took
