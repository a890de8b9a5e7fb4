"""Jobs that are killed at any point, or that the disk fails: right in the end, or refused.

`make test-faults` runs the long forms, with every system call of every commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
from faults import BROKEN, FULL, JOBS, at_call, failing, positions, run, run_killed

from harpy_core.errors import InputError
from harpy_core.storage.manifest import read_manifest, tree_digest

KILLS, FAILURES = 1, 2
MANY = 50
NEVER = -1


@pytest.fixture(scope="module")
def source() -> Iterator[Path]:
    with faults.quick_folder() as folder:
        faults.make_source(folder / "source.zarr")
        yield folder / "source.zarr"


@pytest.fixture
def out() -> Iterator[Path]:
    with faults.quick_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def calm(source: Path) -> dict[str, tuple[str, int]]:
    """Digest of each job's undisturbed result, and the system calls of it."""
    found = {}
    for job in JOBS:
        # Twice: the first one keeps what it compiles, with calls of its own.
        for _ in range(2):
            with faults.quick_folder() as out, at_call(NEVER, failing(FULL)) as calls:
                run(job, source, out)
                found[job] = digest(out), len(calls)
    return found


def declared(out: Path) -> bool:
    """Whether there is a manifest: the last call of all comes after it has its name."""
    return (out / "result.manifest.json").exists()


def digest(out: Path) -> str:
    """Digest of a result that was declared whole, with nothing beside it."""
    assert sorted(os.listdir(out)) == ["result.manifest.json", "result.zarr"]
    whole = tree_digest(out / "result.zarr")
    assert read_manifest(out / "result.manifest.json")["digest"] == whole
    return whole


def check_kills(job: str, source: Path, out: Path, calm: tuple[str, int], count: int) -> None:
    """Kill the same work again and again, each time a little after it went on."""
    expected, calls = calm
    for number in positions(calls, count, seed=count):
        status = run_killed(number, job, source, out)
        if status == 0:
            # What was committed left fewer calls than that.
            break
        assert status == -9
        assert not declared(out) or digest(out) == expected
    run(job, source, out)
    assert digest(out) == expected


@pytest.mark.parametrize("job", JOBS)
def test_a_job_that_was_killed_is_right_in_the_end(
    job: str, source: Path, calm: dict[str, Any], out: Path
) -> None:
    check_kills(job, source, out, calm[job], KILLS)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(MANY))
@pytest.mark.parametrize("job", JOBS)
def test_a_job_that_was_killed_at_any_of_many_points_is_right_in_the_end(
    job: str, seed: int, source: Path, calm: dict[str, Any], out: Path
) -> None:
    expected, calls = calm[job]
    number = int(np.random.default_rng(seed).integers(calls))
    assert run_killed(number, job, source, out) == -9
    assert not declared(out) or digest(out) == expected
    run(job, source, out)
    assert digest(out) == expected


def check_failure(job: str, source: Path, out: Path, calm: tuple[str, int], number: int) -> None:
    with at_call(number, failing(FULL)), pytest.raises(InputError) as told:
        run(job, source, out)
    assert "\n" not in str(told.value)
    assert str(out) in str(told.value)
    assert "run again" in str(told.value)
    assert not declared(out) or digest(out) == calm[0]
    run(job, source, out)
    assert digest(out) == calm[0]


@pytest.mark.parametrize("job", JOBS)
def test_a_system_call_that_fails_is_told_and_the_next_run_is_right(
    job: str, source: Path, calm: dict[str, Any]
) -> None:
    for number in positions(calm[job][1], FAILURES, seed=1):
        with faults.quick_folder() as out:
            check_failure(job, source, out, calm[job], number)


@pytest.mark.faults
@pytest.mark.parametrize("job", JOBS)
def test_each_system_call_that_fails_is_told_and_the_next_run_is_right(
    job: str, source: Path, calm: dict[str, Any]
) -> None:
    for number in range(calm[job][1]):
        with faults.quick_folder() as out:
            check_failure(job, source, out, calm[job], number)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    if not faults.can_mount(tmp_path):
        pytest.skip("only root can mount a small disk")
    with faults.disk(tmp_path / "disk", 3 * 2**16) as folder:
        yield folder


@pytest.mark.parametrize("job", JOBS)
def test_a_full_disk_is_told_and_the_next_run_is_right(
    job: str, source: Path, calm: dict[str, Any], small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            os.write(file.fileno(), bytes(4096))
    out = small_disk / "out"
    out.mkdir()
    with pytest.raises(InputError, match=r"No space left on device.* run again") as told:
        run(job, source, out)
    assert str(out) in str(told.value)
    assert not declared(out)
    ballast.unlink()
    faults.subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    run(job, source, out)
    assert digest(out) == calm[job][0]


@pytest.mark.parametrize("job", JOBS)
def test_a_folder_that_is_read_only_is_told(job: str, source: Path, small_disk: Path) -> None:
    faults.closed(small_disk, readonly=True)
    with pytest.raises(InputError, match=r"Read-only file system\); make it writable, or choose"):
        run(job, source, small_disk)
    faults.closed(small_disk, readonly=False)
    assert os.listdir(small_disk) == []


def test_a_broken_disk_is_told(source: Path, out: Path) -> None:
    with at_call(0, failing(BROKEN)), pytest.raises(InputError, match="see to the disk and run"):
        run("extract", source, out)
