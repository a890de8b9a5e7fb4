"""Figures of a plan against what the job then does."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from cases import as_form, peak_of, threads, tiles_of

import harpy_core as hc
from harpy_core.aggregate.slabs import COMMIT_BYTES, COMMIT_COPIES, SLAB_BYTES
from harpy_core.config.crops import CropSettings
from harpy_core.extract.extraction import stored_ratio
from harpy_core.planning.aggregate_plan import PAIR_BYTES
from harpy_core.planning.parts import Plan
from harpy_core.planning.plan import plan_aggregate, plan_extract, stage_plan
from harpy_core.raster import Raster, describe
from harpy_core.raster.views import ChannelView
from harpy_core.running import schedule

STATS = ["mean", "std", "max"]


def cells(height: int, width: int, pitch: int, dtype: str = "u4") -> np.ndarray:
    """Square cells on a grid, each with a margin around it."""
    y, x = np.indices((height, width))
    inside = (y % pitch < 0.8 * pitch) & (x % pitch < 0.8 * pitch)
    return np.where(inside, y // pitch * -(-width // pitch) + x // pitch + 1, 0).astype(dtype)


@contextmanager
def counted_tasks() -> Iterator[list[int]]:
    """Record the number of tasks of each call of the scheduler."""
    given: list[int] = []
    results = schedule.results

    def counting(function: Any, tasks: Any, *given_too: Any, **options: Any) -> Iterator[Any]:
        given.append(len(tasks))
        return results(function, tasks, *given_too, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "results", counting)
        yield given


@pytest.mark.parametrize("number", [1, 6])
@pytest.mark.parametrize("chunks", [(2, 20, 30), (1, 64, 64), (5, 7, 64)])
def test_tasks_and_bytes_are_those_of_the_job(
    chunks: tuple[int, ...], number: int, tmp_path: Path
) -> None:
    labels = cells(64, 64, 8)
    instances = hc.find_instances(labels)
    image = as_form("zarr", np.ones((5, *labels.shape), "u2"), chunks, tmp_path)
    labels = as_form("zarr", labels, (32, 32), tmp_path)
    planned = {"instances": len(instances), "threads": number}
    with tiles_of(1), threads(number):
        with counted_tasks() as given:
            hc.aggregate_stats(image, labels)
            hc.extract_instances(
                image, labels, tmp_path / "c", diameter=7, batch_size=9, instances=instances
            )
        aggregate = plan_aggregate(image, labels, **planned)
        extract = plan_extract(image, labels, diameter=7, batch_size=9, **planned)
    assert given == [aggregate.tasks, extract.tasks]
    assert extract.bytes_written == len(instances) * 5 * 7 * 7 * 2
    assert aggregate.bytes_written == len(instances) * 5 * 8 * 3
    assert aggregate.bytes_read >= 5 * 64 * 64 * 2 + 64 * 64 * 4
    assert aggregate.instances == extract.instances == len(instances)


def assert_foretold(plan: Plan, job: Callable[[], Any]) -> None:
    job_peak = peak_of(job)
    # What Python itself allocates on the way: modules, metadata, the table's index.
    around = 6_000_000
    assert job_peak <= plan.memory(1) + around
    assert job_peak >= 0.4 * plan.memory(1)


SHAPES: dict[str, dict[str, Any]] = {
    "chunks of the image's size": {"chunks": (4, 1024, 1024)},
    "small chunks": {"chunks": (1, 128, 128)},
    "strips": {"chunks": (4, 16, 1024)},
    "chunks larger than the image": {"chunks": (16, 1600, 1600)},
    "labels in one chunk": {"chunks": (4, 256, 256), "label_chunks": (1024, 1024)},
    "float16": {"chunks": (4, 1024, 1024), "dtype": "f2"},
    "float64": {"chunks": (4, 1024, 1024), "dtype": "f8"},
    "64-bit integers, many cells": {"chunks": (2, 512, 512), "dtype": "u8", "pitch": 8},
}


def stored(
    folder: Path,
    chunks: tuple[int, ...],
    label_chunks: tuple[int, ...] = (512, 512),
    dtype: str = "u2",
    pitch: int = 30,
) -> tuple[Any, Any, int]:
    """An image of 4 × 1024 × 1024, its labels, and how many there are."""
    labels = cells(1024, 1024, pitch)
    image = np.ones((4, *labels.shape), dtype)
    return (
        as_form("zarr", image, chunks, folder),
        as_form("zarr", labels, label_chunks, folder),
        int(labels.max()),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_aggregation_holds_what_its_plan_says(shape: str, tmp_path: Path) -> None:
    image, labels, number = stored(tmp_path, **SHAPES[shape])
    hc.aggregate_stats(image[:, :8, :8], labels[:8, :8], STATS)
    for stats in (["sum"], STATS):
        assert_foretold(
            plan_aggregate(image, labels, stats, instances=number),
            lambda stats=stats: hc.aggregate_stats(image, labels, stats),
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("remove_background", [True, False])
def test_extraction_holds_what_its_plan_says(
    shape: str, remove_background: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, labels, number = stored(tmp_path, **SHAPES[shape])
    options = {"diameter": 32, "batch_size": 100, "remove_background": remove_background}
    hc.extract_instances(image[:, :8, :8], labels[:8, :8], tmp_path / "warm", **options)
    found = hc.find_instances(labels)
    assert_foretold(
        plan_extract(image, labels, instances=number, **options),
        lambda: hc.extract_instances(image, labels, tmp_path / "c", instances=found, **options),
    )


def test_a_plan_from_a_description_is_that_of_the_arrays(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(tmp_path / "g", mode="w")
    image = group.create_array("image", data=np.ones((4, 50, 60), "u2"), chunks=(2, 20, 20))
    labels = group.create_array("labels", data=cells(50, 60, 10), chunks=(50, 60))
    info = describe(tmp_path / "g", "image", "labels")
    assert stage_plan("aggregate", info, stats=STATS) == plan_aggregate(image, labels, STATS)
    assert stage_plan("extract", info, crops=CropSettings(diameter=9)) == plan_extract(
        image, labels, diameter=9
    )
    instances = stage_plan("instances", info, instances=30)
    assert instances.bytes_read == labels.nbytes
    assert instances.stage == "instances"


def empty(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> zarr.Array:
    return zarr.create_array({}, shape=shape, chunks=chunks, dtype=dtype)


def test_memory_does_not_grow_with_the_image() -> None:
    def planned(size: int) -> Plan:
        image = empty((100, size, size), (10, 2048, 2048), "u2")
        labels = empty((size, size), (2048, 2048), "u4")
        return plan_aggregate(image, labels, instances=size**2 // 2000)

    small, large = planned(8192), planned(65536)
    assert large.bytes_read >= 64 * small.bytes_read
    assert large.bytes_per_task <= small.bytes_per_task
    assert small.result_bytes < large.result_bytes <= SLAB_BYTES + COMMIT_COPIES * COMMIT_BYTES
    assert large.memory(4) == 4 * large.bytes_per_task + large.result_bytes


def test_a_density_is_taken_where_instances_are_not_counted() -> None:
    image, labels = np.zeros((2, 500, 500), "u2"), np.zeros((500, 500), "u4")
    plan = plan_extract(image, labels, diameter=10, extract_mask=True)
    number = math.ceil(250_000 / 1900)
    assert plan.instances is None
    assert plan.bytes_written == number * 100 * (2 * 2 + 1)


def test_the_size_on_disk_is_estimated_from_a_sample(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = cells(300, 300, 30)
    pixels = rng.poisson(200, (12, 300, 300)).astype("u2")
    image = as_form("zarr", pixels, (6, 100, 100), tmp_path)
    found = hc.find_instances(labels)
    for options in (
        {"diameter": 30},
        {"diameter": 45, "remove_background": False},
        {"diameter": 30, "codec": "zstd"},
        {"diameter": 30, "codec": "none"},
        {"diameter": 30, "dtype": "float16", "scale": 1 / 65535},
    ):
        plan = plan_extract(image, labels, instances=found, **options)
        target = tmp_path / str(options)
        crops = hc.extract_instances(image, labels, target, batch_size=50, **options)
        taken = sum(f.stat().st_size for f in (target / "image" / "c").rglob("*") if f.is_file())
        assert plan.bytes_written == crops.image.nbytes
        assert plan.bytes_stored == pytest.approx(taken, rel=0.15)
    shuffled = plan_extract(image, labels, instances=found, diameter=30, shuffle=1)
    assert (
        shuffled.bytes_stored
        == 2 * plan_extract(image, labels, instances=found, diameter=30).bytes_stored
    )


def test_what_an_interrupted_run_has_left_needs_no_more_room_on_the_disk() -> None:
    info = Raster.of(np.zeros((2, 100, 100), "u2"), np.zeros((100, 100), "u4")).info()
    asked = {"crops": CropSettings(diameter=9), "instances": 30}
    whole = stage_plan("extract", info, **asked).bytes_stored
    left = [stage_plan("extract", info, committed=n, **asked).bytes_stored for n in (1000, 10**9)]
    assert left == [whole - 1000, 0]


def test_a_choice_of_channels_is_planned_as_it_is_written() -> None:
    import zarr

    array = zarr.create_array({}, shape=(6, 40, 40), chunks=(4, 20, 20), dtype="u2")
    labels = cells(40, 40, 10)
    view = ChannelView(array, (1, 4))
    assert plan_extract(view, labels, instances=5).bytes_written == 5 * 2 * 50 * 50 * 2


def test_channels_are_planned_with_all_that_lie_in_their_chunks() -> None:
    array = zarr.create_array({}, shape=(16, 512, 512), chunks=(8, 512, 512), dtype="u2")
    labels = np.zeros((512, 512), "u4")
    whole, one = plan_aggregate(array, labels), plan_aggregate(ChannelView(array, (9,)), labels)
    assert one.bytes_per_task >= 8 * 512 * 512 * 2
    assert one.bytes_read * 2 == pytest.approx(whole.bytes_read, rel=0.2)


def test_channels_are_planned_by_the_chunks_that_they_lie_in() -> None:
    array, labels = empty((16, 512, 512), (4, 512, 512), "u2"), np.zeros((512, 512), "u4")
    whole = plan_aggregate(array, labels)
    near, far = (plan_aggregate(ChannelView(array, of), labels) for of in ((4, 5, 7), (1, 5, 9)))
    # Each task reads the labels.
    read = [plan.bytes_read - plan.tasks * labels.nbytes for plan in (whole, near, far)]
    assert read == [16 * 2 * 512**2, 4 * 2 * 512**2, 12 * 2 * 512**2]
    assert near.bytes_per_task - far.bytes_per_task == 2 * 2 * 512**2


def test_a_task_of_a_dask_image_holds_all_channels_of_its_tile() -> None:
    import dask.array as da

    array, labels = (
        empty((24, 4096, 4096), (2, 2048, 2048), "u2"),
        empty((4096,) * 2, (2048,) * 2, "u4"),
    )
    stored = plan_aggregate(array, labels, instances=500)
    lazy = plan_aggregate(da.from_zarr(array), da.from_zarr(labels), instances=500)
    assert lazy.bytes_per_task - stored.bytes_per_task >= 24 * 2 * 2048**2
    assert lazy.tasks == 4


def test_a_distance_between_neighbours_is_planned_in_pixels_whatever_its_unit_is() -> None:
    image, labels = np.zeros((1, 2000, 3000), "u2"), np.zeros((2000, 3000), "u4")
    info = replace(Raster.of(image, labels).info(), spacing=(0.25, 1.0))
    shared: dict[str, Any] = {"info": info, "stats": "mean", "instances": 10**5}
    alone = stage_plan("aggregate", **shared).result_bytes
    near = stage_plan("aggregate", neighbors=40.0, **shared).result_bytes
    assert near > alone
    for spacing in ("metadata", (0.25, 1.0)):
        found = stage_plan("aggregate", neighbors=20.0, spacing=spacing, **shared)
        assert found.result_bytes == near
    every = stage_plan("aggregate", neighbors=1e9, **{**shared, "instances": 10}).result_bytes
    few = stage_plan("aggregate", **{**shared, "instances": 10}).result_bytes
    assert every - few == 45 * PAIR_BYTES


def test_the_densest_tile_decides() -> None:
    labels = np.zeros((4096, 4096), "u4")
    labels[:1024, :1024] = cells(1024, 1024, 16)
    labels[3000:3010, 3000:3010] = labels.max() + 1
    image = empty((2, 4096, 4096), (2, 2048, 2048), "u2")
    found = hc.find_instances(labels)
    known, guessed = (
        plan_extract(image, labels, instances=given, codec="none", diameter=32)
        for given in (found, len(found))
    )
    # Guessed is twice what the four tiles have on average, which is half of them.
    assert known.bytes_per_task - guessed.bytes_per_task >= 0.4 * known.bytes_written


def test_arrays_that_do_not_match_cannot_be_planned() -> None:
    with pytest.raises(hc.InputError, match="do not cover the same pixels"):
        plan_aggregate(np.zeros((2, 5, 5)), np.zeros((4, 5), "u1"))
    with pytest.raises(hc.InputError, match="not a statistic"):
        plan_aggregate(np.zeros((2, 5, 5)), np.zeros((5, 5), "u1"), ["modus"])


def test_a_plan_refuses_the_settings_that_the_job_refuses() -> None:
    image, labels = np.zeros((1, 4, 4), "u2"), np.zeros((4, 4), "u4")
    with pytest.raises(hc.InputError, match="diameter = 0: a window must be at least 1 pixel"):
        plan_extract(image, labels, diameter=0)
    with pytest.raises(
        hc.InputError, match=r"diametre = 9: there is no such key \(did you mean dia"
    ):
        plan_extract(image, labels, diametre=9)
    assert plan_extract(image, labels, diameter=np.int64(9)) == plan_extract(
        image, labels, diameter=9
    )


def test_a_sample_of_cells_that_are_far_apart_is_small(tmp_path: Path) -> None:
    size = 2**14
    image = zarr.create_array(
        tmp_path / "image", shape=(1, size, size), chunks=(1, 512, 512), dtype="u2"
    )
    labels = zarr.create_array(
        tmp_path / "labels", shape=(size, size), chunks=(512, 512), dtype="u4"
    )
    centres = np.random.default_rng(0).integers(50, size - 50, (20, 2))
    for label, (y, x) in enumerate(centres.tolist(), 1):
        labels[y - 9 : y + 9, x - 9 : x + 9] = label
        image[0, y - 9 : y + 9, x - 9 : x + 9] = label
    found = hc.find_instances(labels)
    tracemalloc.start()
    ratio = stored_ratio(Raster.of(image, labels), found, CropSettings(diameter=32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < ratio < 1
    assert peak < 2**25
