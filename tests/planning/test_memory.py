"""Peak memory of real worker processes against their plan.

`make test-memory` measures the long matrix: every stage, engine, form of chunks, type of pixels,
size of windows and choice of channels with every other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from memory import Setting, measured

import harpy_core as hc
from harpy_core.running import cluster

if TYPE_CHECKING:
    from distributed import Client

MOST = 2.5
"""Largest ratio of planned to measured memory."""

MEAN, ALL, MAD = ({"stats": stats} for stats in (["mean"], ["mean", "std", "max"], ["mad"]))
SHAPES = {"stats": ["area", "orientation", "perimeter", "solidity", "area_filled"]}
PLACED = {"stats": ["edge_std", "radial_mean", "mass_displacement"]}
WHOLE = {"stats": ["mean"], "whole_channels": True}
PAIRS = {"stats": ["mean", hc.pearson_corr_coeff([("0", "3"), ("1", "3")])]}
CROPS = {"diameter": 64}

SETTINGS = {
    "instances": Setting("instances", (1, 1024, 1024), (2048, 2048)),
    "instances, numpy, small chunks": Setting(
        "instances", (1, 1024, 1024), (256, 256), engine="numpy"
    ),
    "labels of half the resolution": Setting("instances", (1, 2048, 2048), scale=2),
    "labels of twice the resolution": Setting(
        "instances", (1, 2048, 2048), (4096, 4096), scale=0.5
    ),
    "labels askew on the image": Setting("instances", (1, 1024, 1024), turned=True),
    "two layers of half the resolution": Setting(
        "layers", (1, 2048, 2048), channels=2, scale=2, options=MEAN
    ),
    "mean": Setting("aggregate", (2, 2048, 2048), options=MEAN),
    "mean, numpy": Setting("aggregate", (2, 2048, 2048), engine="numpy", options=MEAN),
    "moments": Setting("aggregate", (4, 1024, 1024), options=ALL, codec="zstd"),
    "moments of floats, numpy": Setting(
        "aggregate", (2, 1024, 2048), dtype="f4", engine="numpy", options=ALL
    ),
    "small chunks of bytes": Setting("aggregate", (1, 256, 256), dtype="u1", options=MEAN),
    "not compressed": Setting("aggregate", (4, 2048, 1024), codec="none", options=MEAN),
    "shapes alone": Setting("aggregate", (1, 1024, 1024), (2048, 2048), options=SHAPES),
    "order statistics": Setting("aggregate", (4, 1024, 1024), options=MAD),
    "edges and rings": Setting("aggregate", (2, 2048, 2048), options=PLACED),
    "edges and rings, numpy": Setting("aggregate", (4, 1024, 1024), engine="numpy", options=PLACED),
    "pairs of channels": Setting("aggregate", (2, 1024, 2048), options=PAIRS),
    "whole channels": Setting("aggregate", (2, 2048, 2048), options=WHOLE),
    "one channel of a chunk of eight": Setting(
        "aggregate", (8, 1024, 1024), channels=8, chosen=(1,), options=MEAN
    ),
    "a Dask image of many channels": Setting(
        "aggregate", (2, 1024, 1024), channels=16, lazy=True, options=MEAN
    ),
    "crops of a Dask image": Setting(
        "extract", (2, 1024, 1024), channels=8, lazy=True, options=CROPS
    ),
    "crops": Setting("extract", (2, 1024, 1024), options=CROPS | {"codec": "zstd"}),
    "table and crops in one read": Setting(
        "one_read", (2, 1024, 1024), options={"aggregate": ALL, "extract": CROPS}
    ),
    "crops with masks": Setting("extract", (2, 2048, 2048), options=CROPS | {"extract_mask": True}),
    "crops with masks of neighbours": Setting(
        "extract",
        (1, 1024, 1024),
        dtype="u1",
        options=CROPS | {"extract_mask": True, "neighbor_mask": True},
    ),
    "crops with their background, numpy": Setting(
        "extract", (2, 1024, 1024), engine="numpy", options=CROPS | {"remove_background": False}
    ),
    "two windows, coarser and turned": Setting(
        "extract",
        (2, 1024, 1024),
        pitch=52,
        options=CROPS
        | {
            "diameter": 32,
            "resolution": 1.0,
            "spacing": [0.5, 0.5],
            "rotate": True,
            "windows": {"context": {"diameter": 48, "resolution": 1.5}},
        },
    ),
    "crops of one channel of a chunk of eight": Setting(
        "extract", (8, 1024, 1024), channels=8, chosen=(6,), options=CROPS
    ),
}


def long_matrix() -> dict[str, Setting]:
    """Every combination, with twice as many tiles along each axis."""
    found = {}
    chunks = [(2, 2048, 2048), (4, 1024, 1024), (1, 256, 256)]
    stages = [("aggregate", options) for options in (MEAN, ALL, MAD)] + [
        ("extract", {"diameter": side, "remove_background": kept, "extract_mask": kept})
        for side in (32, 96)
        for kept in (True, False)
    ]
    for (stage, options), form, dtype, engine, chosen in itertools.product(
        stages, chunks, ("u1", "u2", "f4"), ("numba", "numpy"), (None, (1, 3))
    ):
        name = f"{stage} {options} {form} {dtype} {engine} {chosen}"
        found[name] = Setting(
            stage,
            form,
            size=4096,
            dtype=dtype,
            engine=engine,
            chosen=chosen,
            codec="zstd" if engine == "numpy" else "lz4",
            options=options,
        )
    return found


LONG = long_matrix()


@pytest.fixture(scope="module")
def worker() -> Iterator[Client]:
    """A process with one thread, so that its share is one task's."""
    with cluster.local(workers=1, threads_per_worker=1, memory_limit="6GB") as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the rasters that several settings share."""
    return tmp_path_factory.mktemp("rasters")


def assert_honest(setting: Setting, client: Client, folder: Path, target: Path) -> None:
    planned, took = measured(setting, client, folder, target)
    assert took <= planned <= MOST * took


@pytest.mark.parametrize("name", SETTINGS)
def test_a_worker_takes_what_is_planned_and_not_much_less(
    name: str, worker: Client, folder: Path, tmp_path: Path
) -> None:
    assert_honest(SETTINGS[name], worker, folder, tmp_path)


@pytest.mark.memory
@pytest.mark.parametrize("name", LONG)
def test_a_worker_takes_what_is_planned_in_every_combination(
    name: str, worker: Client, folder: Path, tmp_path: Path
) -> None:
    assert_honest(LONG[name], worker, folder, tmp_path)


def test_threads_of_a_worker_take_no_more_than_as_many_tasks(folder: Path, tmp_path: Path) -> None:
    setting = Setting("aggregate", (2, 1024, 1024), size=4096, options=ALL)
    with cluster.local(workers=1, threads_per_worker=2, memory_limit="6GB") as client:
        planned, took = measured(setting, client, folder, tmp_path)
    assert took <= planned
