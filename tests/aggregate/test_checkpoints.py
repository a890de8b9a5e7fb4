"""A job that died resumes from what it committed, and its table is the same to the last bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import as_form, pixels, segmentation
from faults import each_committed

import harpy_core as hc
from harpy_core.aggregate import checkpoints, layers
from harpy_core.aggregate.layers import measure_layers
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.running import schedule
from harpy_core.storage.manifest import tree_digest
from harpy_core.tiles import grid

RNG = np.random.default_rng(11)
LABELS = segmentation(RNG, (60, 70), "blobs", "u4", 3)
IMAGES = {"u2": pixels(RNG, (4, 60, 70), "u2"), "f4": pixels(RNG, (4, 60, 70), "f4")}
MERGED = ["mean", "std", "skew", "min", "count"]
CHUNKS = (2, 16, 16)
TILES = 20


class Killed(BaseException):
    """Death of the process."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Tasks that are measured, one after the other and each committed."""
    tasks: list[Any] = []

    def counting(task: Any, **settings: Any) -> Any:
        tasks.append(task)
        return measure_layers(task, **settings)

    monkeypatch.setattr(layers, "measure_layers", counting)
    # Tiles of a chunk, 4 x 5 of them.
    monkeypatch.setattr(grid.coarsened, "__defaults__", (256,))
    with schedule.own_threads(1), each_committed():
        yield tasks


def write(folder: Path, image: Any, stats: Any = MERGED, **settings: Any) -> str:
    """Digest of a table that is written in a folder."""
    folder.mkdir(exist_ok=True)
    found = hc.find_instances(LABELS)
    aggregate_to_store(image, LABELS, folder / "table.zarr", found, stats, **settings)
    assert [path.name for path in folder.iterdir()] == ["table.zarr"]
    return tree_digest(folder / "table.zarr")


def killed(folder: Path, image: Any, number: int, **settings: Any) -> None:
    """Write a table until the process dies, with so many tasks committed."""
    add, left = checkpoints.Commits._add, [number]

    def dying(self: Any, *arguments: Any) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        add(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoints.Commits, "_add", dying)
        write(folder, image, **settings)


def committed(folder: Path) -> list[Path]:
    """Committed files, by their first task."""
    files = folder.glob(".table.zarr.work-*/results/*")
    return sorted(files, key=lambda path: int(path.name.rpartition(".")[2].split("-")[0]))


JOBS: dict[str, dict[str, Any]] = {
    "merged": {"stats": MERGED},
    "sorted": {"stats": ["median", "q10", "mean"]},
    "shapes": {"stats": ["median", "perimeter", "solidity"], "spacing": (0.5, 0.5)},
    "places": {"stats": [hc.radial_mean(3), "edge_mean"]},
    "pairs": {"stats": ["mean", hc.pearson_corr_coeff([("0", "3")])]},
    "whole channels": {"stats": ["mean", "max"], "whole_channels": True},
    "layers": {
        "stats": ["mean", "area"],
        "neighbors": "touching",
        "layers": {"halves": LABELS * (LABELS % 2)},
        "derived": {"ratio": "halves.mean / labels.mean"},
    },
}


@pytest.mark.parametrize("slab_bytes", [1, 2**30])
@pytest.mark.parametrize(
    ("dtype", "job"), [("u2", job) for job in JOBS] + [("f4", job) for job in list(JOBS)[:5]]
)
def test_a_job_killed_anywhere_resumes_to_the_same_table(
    dtype: str, job: str, slab_bytes: int, tmp_path: Path, measured: list[Any]
) -> None:
    image = as_form("zarr", IMAGES[dtype], CHUNKS, tmp_path)
    settings = {**JOBS[job], "slab_bytes": slab_bytes}
    expected = write(tmp_path / "whole", image, **settings)
    whole = len(measured)
    rng = np.random.default_rng(whole)
    done = 0
    for number in sorted([whole - 1, *rng.integers(1, whole - 1, 2).tolist()]):
        killed(tmp_path / "killed", image, number - done, **settings)
        done = number
    measured.clear()
    assert write(tmp_path / "killed", image, **settings) == expected
    assert len(measured) == 1


def test_a_job_that_is_killed_again_and_again_gets_done(
    tmp_path: Path, measured: list[Any]
) -> None:
    image = as_form("zarr", IMAGES["f4"], CHUNKS, tmp_path)
    expected = write(tmp_path / "whole", image)
    for _ in range(4):
        killed(tmp_path / "killed", image, 4)
    measured.clear()
    assert write(tmp_path / "killed", image) == expected
    assert len(measured) == TILES - 16


@pytest.mark.parametrize(
    "other",
    [
        {"stats": ["mean", "max"]},
        {"stats": ["median"]},
        {"ignore_nan": True},
        {"strict": True},
        {"engine": "numpy"},
        {"spacing": (2.0, 1.0)},
        {"neighbors": 5.0},
        {"whole_channels": True},
        {"channels": ["d", "c", "b", "a"]},
        {"layers": {"halves": LABELS * (LABELS % 2)}},
    ],
    ids=str,
)
def test_a_job_with_other_settings_starts_anew(
    other: dict[str, Any], tmp_path: Path, measured: list[Any]
) -> None:
    image = as_form("zarr", IMAGES["u2"], CHUNKS, tmp_path)
    killed(tmp_path / "killed", image, 9)
    measured.clear()
    write(tmp_path / "killed", image, **other)
    tiles = {(task.tasks[0].region, task.tasks[0].channels) for task in measured}
    assert len(measured) == len(tiles) == TILES


def test_changed_pixels_are_measured_anew(tmp_path: Path, measured: list[Any]) -> None:
    image = as_form("zarr", IMAGES["u2"], CHUNKS, tmp_path)
    killed(tmp_path / "killed", image, 9)
    image[0, 0, 0] += 1
    measured.clear()
    write(tmp_path / "killed", image)
    assert len(measured) == TILES


@pytest.mark.parametrize("thread", [1, 40])
def test_tasks_that_are_divided_otherwise_are_measured_anew(
    thread: int, tmp_path: Path, measured: list[Any]
) -> None:
    image = as_form("zarr", IMAGES["u2"], CHUNKS, tmp_path)
    expected = write(tmp_path / "whole", image)
    with schedule.own_threads(41 - thread):
        killed(tmp_path / "killed", image, 9)
    measured.clear()
    with schedule.own_threads(thread):
        killed(tmp_path / "killed", image, 3)
        assert len(committed(tmp_path / "killed")) == 3
        assert write(tmp_path / "killed", image) == expected


@pytest.mark.parametrize("at", [0.0, 0.5])
def test_what_is_damaged_is_measured_again(at: float, tmp_path: Path, measured: list[Any]) -> None:
    image = as_form("zarr", IMAGES["u2"], CHUNKS, tmp_path)
    expected = write(tmp_path / "whole", image)
    killed(tmp_path / "killed", image, 9)
    file = committed(tmp_path / "killed")[3]
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 1
    file.write_bytes(content)
    measured.clear()
    assert write(tmp_path / "killed", image) == expected
    assert len(measured) == TILES - 9 + 1


def total(pixels: np.ndarray, coordinates: np.ndarray) -> float:
    """Sum of the pixels of an instance."""
    return float(pixels.sum())


def test_a_function_that_is_passed_is_not_kept(
    tmp_path: Path, measured: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    image = as_form("zarr", IMAGES["u2"], CHUNKS, tmp_path)
    with caplog.at_level("INFO"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "commit", None)
        write(tmp_path / "own", image, stats=["mean", total])
    assert "nothing is kept" in caplog.text


@pytest.mark.parametrize("changed", [False, True])
def test_a_function_that_is_named_is_kept_until_its_code_changes(
    changed: bool, tmp_path: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_total_{changed}".lower()
    file = tmp_path / f"{name}.py"
    file.write_text("def total(pixels, coordinates):\n    return float(pixels.sum())\n")
    monkeypatch.syspath_prepend(tmp_path)
    image = as_form("zarr", IMAGES["u2"], CHUNKS, tmp_path)
    killed(tmp_path / "killed", image, 9, stats=[f"{name}:total"])
    if changed:
        file.write_text(file.read_text() + "\n")
    measured.clear()
    write(tmp_path / "killed", image, stats=[f"{name}:total"])
    assert len(measured) == TILES - 9 * (not changed)


def test_a_short_job_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.Checkpoints, "commit", None)
    write(tmp_path / "short", as_form("zarr", IMAGES["u2"], CHUNKS, tmp_path))


def test_half_of_the_free_disk_is_left(
    tmp_path: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = as_form("zarr", IMAGES["u2"], CHUNKS, tmp_path)
    killed(tmp_path / "one", image, 9)
    size = sum(path.stat().st_size for path in committed(tmp_path / "one"))
    usage = type("Usage", (), {"free": size})
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage)
    killed(tmp_path / "other", image, 9)
    kept = [path.stat().st_size for path in committed(tmp_path / "other")]
    assert 0 < len(kept) < 9
    assert sum(kept) <= size // 2


def test_nothing_waits_for_a_disk_that_is_slow(
    tmp_path: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = as_form("zarr", IMAGES["u2"], CHUNKS, tmp_path)
    expected = write(tmp_path / "whole", image)
    written: list[Any] = []

    class Slow(checkpoints.ThreadPoolExecutor):
        """A pool whose second piece of work is never done."""

        def submit(self, *given: Any) -> Future[None]:
            written.append(given)
            return super().submit(*given) if len(written) == 1 else Future()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "ThreadPoolExecutor", Slow)
        patch.setattr(checkpoints, "COMMIT_BYTES", 2**12)
        killed(tmp_path / "killed", image, 18)
    assert len(written) == 2
    assert len(committed(tmp_path / "killed")) == 1
    measured.clear()
    assert write(tmp_path / "killed", image) == expected
    assert len(measured) == TILES - 1


def test_records_name_the_tasks_and_the_checksum(tmp_path: Path, measured: list[Any]) -> None:
    image = as_form("zarr", IMAGES["u2"], CHUNKS, tmp_path)
    killed(tmp_path / "killed", image, 3)
    (work,) = (tmp_path / "killed").glob(".table.zarr.work-*")
    for file in committed(tmp_path / "killed"):
        record = json.loads((work / "commits" / file.name).read_text())
        assert record["file"] == f"results/{file.name}"
        assert record["bytes"] == file.stat().st_size
