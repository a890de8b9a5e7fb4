"""Statistics and crops from one read of the image are those of a read for each, to the last bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import as_form, pixels, segmentation
from faults import each_committed

import harpy_core as hc
from harpy_core.aggregate.checkpoints import Commits
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.extract import one_read
from harpy_core.extract.store import CropStore
from harpy_core.running import schedule
from harpy_core.running.tasks import Task
from harpy_core.storage.manifest import tree_digest
from harpy_core.tiles import grid

RNG = np.random.default_rng(5)
LABELS = segmentation(RNG, (60, 70), "blobs", "u4", 3)
IMAGES = {kind: pixels(RNG, (4, 60, 70), kind) for kind in ("u1", "u2", "f4")}
STATS = ["mean", "std", "skew", "min", "count"]
EXTRACT = {"diameter": 12, "batch_size": 8}
LAYERED = {
    "stats": ["mean", "area"],
    "neighbors": "touching",
    "layers": {"halves": LABELS * (LABELS % 2)},
    "derived": {"ratio": "halves.mean / labels.mean"},
}


def top(pixels: np.ndarray, coords: np.ndarray) -> float:
    """A function of one's own, of which no later run knows whether it is the same."""
    return float(pixels.max())


class Killed(BaseException):
    """Death of the process."""


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[Any]]:
    """Number of times that each chunk of the image was decoded; tiles are single chunks."""
    counted: Counter[Any] = Counter()
    read = Task._read

    def counting(self: Task, image: Any, region: Any) -> Any:
        counted[region] += 1
        return read(self, image, region)

    monkeypatch.setattr(Task, "_read", counting)
    monkeypatch.setattr(grid.coarsened, "__defaults__", (256,))
    with schedule.own_threads(1), each_committed():
        yield counted


def apart(folder: Path, image: Any, aggregate: dict[str, Any], **extract: Any) -> tuple[str, str]:
    """Digests of the table and the crops that are made with a read for each."""
    folder.mkdir()
    found = hc.find_instances(LABELS)
    engine = extract.pop("engine", "numba")
    aggregate_to_store(image, LABELS, folder / "table.zarr", found, engine=engine, **aggregate)
    crops = hc.extract_instances(
        image, LABELS, folder / "crops.zarr", engine=engine, **{**EXTRACT, **extract}
    )
    return tree_digest(folder / "table.zarr"), crops.digest


def in_one(folder: Path, image: Any, aggregate: dict[str, Any], **extract: Any) -> tuple[str, str]:
    """Digests of both, made in one read."""
    folder.mkdir(exist_ok=True)
    engine = extract.pop("engine", "numba")
    crops = hc.aggregate_and_extract(
        image,
        LABELS,
        folder / "table.zarr",
        folder / "crops.zarr",
        aggregate=aggregate,
        extract={**EXTRACT, **extract},
        engine=engine,
    )
    assert sorted(path.name for path in folder.iterdir()) == ["crops.zarr", "table.zarr"]
    return tree_digest(folder / "table.zarr"), crops.digest


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("slab_bytes", [1, 2**30])
@pytest.mark.parametrize(
    ("dtype", "chunks", "extract"),
    [
        ("u2", (2, 16, 16), {}),
        ("u1", (1, 16, 24), {"remove_background": False, "shard_size": 16}),
        ("f4", (4, 32, 16), {"extract_mask": True, "neighbor_mask": True, "codec": "zstd"}),
        ("f4", (3, 60, 70), {"shuffle": 3}),
    ],
)
def test_both_are_the_same_to_the_last_bit_and_each_chunk_is_decoded_once(
    dtype: str,
    chunks: tuple[int, ...],
    extract: dict[str, Any],
    slab_bytes: int,
    engine: str,
    tmp_path: Path,
    reads: Counter[Any],
) -> None:
    image = as_form("zarr", IMAGES[dtype], chunks, tmp_path)
    aggregate = {"stats": STATS, "slab_bytes": slab_bytes}
    expected = apart(tmp_path / "apart", image, aggregate, engine=engine, **extract)
    assert max(reads.values()) > 1
    reads.clear()
    assert in_one(tmp_path / "one", image, aggregate, engine=engine, **extract) == expected
    assert set(reads.values()) == {1}


def test_layers_and_shapes_are_measured_in_the_same_read(
    tmp_path: Path, reads: Counter[Any]
) -> None:
    image = as_form("zarr", IMAGES["u2"], (2, 16, 16), tmp_path)
    expected = apart(tmp_path / "apart", image, LAYERED)
    reads.clear()
    assert in_one(tmp_path / "one", image, LAYERED) == expected
    assert set(reads.values()) == {1}


def test_crops_of_some_instances_leave_the_table_whole(tmp_path: Path, reads: Counter[Any]) -> None:
    image = as_form("zarr", IMAGES["u2"], (2, 16, 16), tmp_path)
    some = hc.find_instances(LABELS).id[::5]
    expected = apart(tmp_path / "apart", image, {"stats": STATS}, index=some)
    reads.clear()
    assert in_one(tmp_path / "one", image, {"stats": STATS}, index=some) == expected
    assert set(reads.values()) == {1}


@pytest.mark.parametrize("threads", [1, 8])
def test_channels_are_split_over_threads_to_the_same_result(
    threads: int, tmp_path: Path, reads: Counter[Any]
) -> None:
    image = as_form("zarr", IMAGES["f4"], (1, 60, 70), tmp_path)
    expected = apart(tmp_path / "apart", image, {"stats": STATS})
    reads.clear()
    with schedule.own_threads(threads):
        assert in_one(tmp_path / "one", image, {"stats": STATS}) == expected
    assert set(reads.values()) == {1}


@pytest.mark.parametrize(
    ("form", "stats", "whole_channels"),
    [
        ("zarr", ["mean", "median"], False),
        ("zarr", [hc.pearson_corr_coeff([("0", "3")])], False),
        ("zarr", ["mean"], True),
        ("dask", ["mean"], False),
        ("numpy", ["mean", top], False),
    ],
)
def test_what_cannot_share_a_read_is_made_with_two(
    form: str, stats: list[Any], whole_channels: bool, tmp_path: Path
) -> None:
    image = as_form(form, IMAGES["u2"], (2, 16, 16), tmp_path)
    aggregate = {"stats": stats, "whole_channels": whole_channels}
    expected = apart(tmp_path / "apart", image, aggregate)
    assert in_one(tmp_path / "one", image, aggregate) == expected


@pytest.mark.parametrize("slab_bytes", [1, 2**30])
@pytest.mark.parametrize("dies", ["while a table's task is committed", "while a crop is"])
def test_a_run_killed_in_the_middle_resumes_both(
    dies: str, slab_bytes: int, tmp_path: Path, reads: Counter[Any]
) -> None:
    image = as_form("zarr", IMAGES["f4"], (2, 16, 16), tmp_path)
    aggregate = {"stats": STATS, "slab_bytes": slab_bytes}
    expected = apart(tmp_path / "apart", image, aggregate)
    reads.clear()
    in_one(tmp_path / "whole", image, aggregate)
    whole = sum(reads.values())
    where, name = (Commits, "keep") if dies.endswith("committed") else (CropStore, "commit")
    for number in (1, 15 if where is Commits else 5):
        folder = tmp_path / f"killed-{number}"
        real, left = getattr(where, name), [number]

        def dying(self: Any, *arguments: Any, real: Any = real, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            real(self, *arguments)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(where, name, dying)
            in_one(folder, image, aggregate)
        reads.clear()
        assert in_one(folder, image, aggregate) == expected
        assert sum(reads.values()) <= whole
        if number == 15:
            assert sum(reads.values()) < whole


def test_a_table_that_was_begun_alone_is_gone_on_with(tmp_path: Path, reads: Counter[Any]) -> None:
    image = as_form("zarr", IMAGES["u2"], (2, 16, 16), tmp_path)
    expected = apart(tmp_path / "apart", image, {"stats": STATS})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(one_read, "extract_instances", _die)
        in_one(tmp_path / "one", image, {"stats": STATS})
    # The table is whole, and so are the crops' commits.
    reads.clear()
    hc.extract_instances(image, LABELS, tmp_path / "one" / "crops.zarr", engine="numba", **EXTRACT)
    assert not reads
    assert tree_digest(tmp_path / "one" / "table.zarr") == expected[0]


def _die(*_: Any, **__: Any) -> None:
    raise Killed


def test_workers_measure_what_threads_do(tmp_path: Path) -> None:
    from harpy_core.running import cluster

    image = as_form("zarr", IMAGES["f4"], (2, 16, 16), tmp_path)
    expected = in_one(tmp_path / "threads", image, LAYERED)
    with cluster.local(1, 2, "1GB") as client:
        crops = hc.aggregate_and_extract(
            image,
            LABELS,
            tmp_path / "table.zarr",
            tmp_path / "crops.zarr",
            aggregate=LAYERED,
            extract=EXTRACT,
            engine="numba",
            client=client,
        )
    assert (tree_digest(tmp_path / "table.zarr"), crops.digest) == expected


@pytest.mark.parametrize("there", ["table.zarr", "crops.zarr"])
def test_what_is_there_is_kept(there: str, tmp_path: Path) -> None:
    (tmp_path / there).mkdir()
    with pytest.raises(hc.InputError, match=rf"{there}: already there; .*overwrite=True"):
        in_one(tmp_path, IMAGES["u2"], {})
    assert [path.name for path in tmp_path.iterdir()] == [there]
