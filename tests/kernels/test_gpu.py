"""The engine cupy: on a GPU where one is asked for (`pytest -m gpu`), else on an emulated card."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import FORMS, NARROW, PIXELS, REAL, WIDE, Case, as_form, cases, threads, tiles_of
from crop_cases import extracted
from hypothesis import given
from hypothesis import strategies as st
from oracle import STATISTICS, labels_in, statistics
from oracle import crops as cropped
from tables import EXACT, assert_close, assert_same_bits, measured, scale_of, tissue

import harpy_core as hc
from harpy_core.aggregate.merging import TileWork, measure_tile
from harpy_core.instances.finding import find_instances
from harpy_core.kernels import compiled, gpu, gpu_sessions, gpu_types, layout, reference
from harpy_core.planning.plan import plan_aggregate, plan_extract
from harpy_core.raster.reading import reader_of
from harpy_core.running.tasks import Task
from harpy_core.statistics.declared import chosen
from harpy_core.tiles.scratch import scratch

pytestmark = pytest.mark.usefixtures("card")


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of flushes take a minute on a slow disk, and say nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


KINDS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")


@given(cases(), st.sampled_from(FORMS), st.sampled_from(FORMS))
def test_every_statistic_agrees_with_exact_arithmetic(
    case: Case, form: str, labels_form: str
) -> None:
    found = measured(case, form, labels_form, engine="cupy")
    expected = statistics(case.image, case.labels)
    np.testing.assert_array_equal(found.obs["instance_id"], labels_in(case.labels))
    assert_close(found, expected, 1e-9, scale_of(case.image))
    if case.image.dtype.kind != "f":
        for name in EXACT:
            np.testing.assert_array_equal(found.layers[name], expected[name], err_msg=name)


@given(cases(dtypes=("b1", *NARROW)))
def test_narrow_integers_come_out_as_on_the_processor_to_the_last_bit(case: Case) -> None:
    assert_same_bits(measured(case, engine="cupy"), measured(case, engine="numba"))


@given(cases(dtypes=(*WIDE, *REAL)))
def test_wide_integers_and_floats_come_out_as_on_the_processor(case: Case) -> None:
    found, other = measured(case, engine="cupy"), measured(case, engine="numba")
    if case.image.dtype.kind != "f":
        for name in (*EXACT, "mean"):
            np.testing.assert_array_equal(found.layers[name], other.layers[name])
    expected = {name: other.layers[name] for name in STATISTICS}
    assert_close(found, expected, 1e-12, scale_of(case.image))
    # No sum's order is left to chance.
    assert_same_bits(found, measured(case, engine="cupy"))


@given(cases(dtypes=("u2", "i1")), st.sampled_from(FORMS), st.sampled_from([1, 2, 5]))
def test_integers_are_the_same_to_the_last_bit_for_every_chunking(
    case: Case, form: str, number: int
) -> None:
    whole = Case(case.image, case.labels, case.image.shape, case.labels.shape, 10**6)
    with threads(number):
        assert_same_bits(measured(case, form, engine="cupy"), measured(whole))


@pytest.mark.parametrize("ignore_nan", [True, False])
@pytest.mark.parametrize("spoiler", [np.nan, np.inf, -np.inf])
def test_spoiled_pixels_count_as_on_the_processor(spoiler: float, ignore_nan: bool) -> None:
    case = tissue("f4")
    case.image[1, 12, 13] = spoiler
    case.image[0][case.labels == 43] = spoiler
    found, expected = (
        measured(case, "zarr", engine=engine, ignore_nan=ignore_nan) for engine in ("cupy", "numba")
    )
    for name in STATISTICS:
        np.testing.assert_allclose(found.layers[name], expected.layers[name], 1e-12, 1e-12, name)


@given(
    case=cases(),
    form=st.sampled_from(FORMS),
    diameter=st.sampled_from([1, 2, 5, 8, 40]),
    batch_size=st.sampled_from([1, 3, 100]),
    remove_background=st.booleans(),
)
def test_crops_are_those_of_the_oracle(
    case: Case, form: str, diameter: int, batch_size: int, remove_background: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = extracted(
            case,
            folder,
            form,
            diameter=diameter,
            batch_size=batch_size,
            remove_background=remove_background,
            extract_mask=True,
            engine="cupy",
        )
        images, masks = np.asarray(found.image[...]), np.asarray(found.mask[...])
    expected = cropped(case.image, case.labels, diameter, remove_background)
    ones = cropped(np.ones((1, *case.labels.shape), "u1"), case.labels, diameter, True)
    assert sorted(found.instance_id.tolist()) == sorted(expected)
    for row, label in enumerate(found.instance_id.tolist()):
        np.testing.assert_array_equal(images[row], expected[label], err_msg=str(label))
        np.testing.assert_array_equal(masks[row], ones[label], err_msg=str(label))


@given(cases(), st.sampled_from(FORMS))
def test_instances_are_those_of_the_processor(case: Case, form: str) -> None:
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile):
        labels = as_form(form, case.labels, case.label_chunks, folder, "labels")
        found, expected = (find_instances(labels, engine=e) for e in ("cupy", "numpy"))
    for name in ("id", "count", "centroid", "bbox"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@given(
    kind=st.sampled_from(KINDS),
    depth=st.sampled_from([1, 3]),
    height=st.integers(0, 20),
    width=st.integers(0, 100),
    repeats=st.sampled_from([1, 3, 40]),
    padding=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_runs_are_those_of_the_reference(
    kind: str, depth: int, height: int, width: int, repeats: int, padding: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    largest = int(np.iinfo(kind).max)
    values = np.array([0, 1, 2, largest - 1, largest], kind)
    labels = values[rng.integers(0, 5, (depth, height, -(-width // repeats)))]
    labels = np.ascontiguousarray(np.repeat(labels, repeats, 2)[..., :width])
    strides = width + padding, (width + padding) * (height + padding)
    assert_same_runs(gpu.encode(labels, *strides), reference.encode(labels, *strides))


def assert_same_runs(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_runs_longer_than_the_longest_are_cut() -> None:
    labels = np.ones((1, 2, 2 * layout.LONGEST_RUN + 5), "u4")
    labels[0, 1, :40] = 0
    labels[0, 1, -3:] = 7
    width = labels.shape[2]
    found = gpu.encode(labels, width, 2 * width)
    assert found[1].max() == layout.LONGEST_RUN
    assert_same_runs(found, reference.encode(labels, width, 2 * width))


Table = tuple[np.ndarray, np.ndarray, np.ndarray]


def tables(rng: np.random.Generator, form: str) -> tuple[Table, int, int]:
    """Run tables of some form: the table, how many slots it has, and the pixels of a plane."""
    if form == "one label everywhere":
        start = np.arange(50, dtype=np.int64) * 1000
        return (start, np.full(50, 1000, np.int32), np.zeros(50, np.int32)), 1, 50_000
    if form == "the longest runs":
        start = np.arange(3, dtype=np.int64) * layout.LONGEST_RUN
        length = np.full(3, layout.LONGEST_RUN, np.int32)
        return (start, length, np.array([1, 0, 1], np.int32)), 2, 3 * layout.LONGEST_RUN
    if form == "single pixels":
        start = np.sort(rng.choice(5000, 700, replace=False)).astype(np.int64)
        slot = rng.permutation(np.arange(700, dtype=np.int32) % 90)
        return (start, np.ones(700, np.int32), slot), 90, 5000
    length = rng.integers(1, 45, 400)
    start = np.cumsum(length + rng.integers(0, 6, 400)) - length
    slot = rng.permutation(np.arange(400, dtype=np.int32) % 11)
    return (start, length.astype(np.int32), slot), 11, int(start[-1] + length[-1])


FORMS_OF_TABLES = ("one label everywhere", "the longest runs", "single pixels", "any")


@pytest.mark.parametrize("form", FORMS_OF_TABLES)
@pytest.mark.parametrize("dtype", [*NARROW, *WIDE, *REAL[1:]])
def test_sums_are_those_of_the_reference(form: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    table, slots, plane = tables(rng, form)
    for channels in (1, 2, 5):
        planes = any_pixels(rng, (channels, plane), dtype)
        planes[-1] = planes.max()
        for loop in layout.LOOPS[layout.family_of(planes.dtype)]:
            found, expected = (
                k.reduce(planes, *table, slots, loop, False) for k in (gpu, reference)
            )
            assert found.shape == expected.shape
            if planes.dtype.kind == "f":
                np.testing.assert_allclose(found.view(np.float64), expected.view(np.float64), 1e-12)
            else:
                np.testing.assert_array_equal(found, expected)


def any_pixels(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype[0] == "f":
        return rng.random(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("form", FORMS_OF_TABLES)
@pytest.mark.parametrize("dtype", [*WIDE, *REAL[1:]])
def test_powers_are_those_of_the_reference(form: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    table, slots, plane = tables(rng, form)
    planes = any_pixels(rng, (3, plane), dtype)
    if dtype[0] == "f":
        planes[2, :9] = np.nan
        pivot = rng.random((slots, 3))
    else:
        pivot = rng.integers(0, 2**31, (slots, 3), np.uint64)
    found, expected = (k.powers(planes, *table, pivot, True) for k in (gpu, reference))
    for order in range(4):
        size = np.abs(expected[..., order]).max()
        np.testing.assert_allclose(found[..., order], expected[..., order], 1e-12, 1e-12 * size)


def test_instances_without_pixels_have_the_words_of_the_reference() -> None:
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))
    some = (np.array([3], np.int64), np.array([4], np.int32), np.array([1], np.int32))
    for dtype in ("u2", "i8", "f4"):
        planes = np.ones((2, 20), dtype)
        for table in (nothing, some):
            for loop in layout.LOOPS[layout.family_of(planes.dtype)]:
                found, expected = (
                    k.reduce(planes, *table, 3, loop, False) for k in (gpu, compiled)
                )
                np.testing.assert_array_equal(found, expected)
        pivot = np.zeros((3, 2), np.float64 if dtype == "f4" else np.uint64)
        assert np.all(gpu.powers(planes, *nothing, pivot, False) == 0)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "u8"])
def test_gathering_leaves_the_rest_of_the_windows_alone(dtype: str) -> None:
    rng = np.random.default_rng(5)
    planes = any_pixels(rng, (3, 1001), dtype)
    source = np.arange(0, 1001 - 40, 41)
    length = rng.integers(1, 41, len(source))
    target = rng.permutation(len(source)) * 50 + 7
    out = any_pixels(rng, (3 * 2000,), dtype)
    expected = out.copy()
    for some in (slice(0, 9), slice(9, None), slice(0, 0)):
        gpu.gather(planes, source[some], target[some], length[some], 2000, out)
    reference.gather(planes, source, target, length, 2000, expected)
    np.testing.assert_array_equal(out, expected)


@contextmanager
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[int]]:
    """Count how often arrays of some size go to the card."""
    sizes: Counter[int] = Counter()
    kind = type(gpu_sessions._new_card())
    put = kind.put

    def counting(self: Any, host: np.ndarray, buffer: Any, offset: int = 0) -> None:
        sizes[host.nbytes] += 1
        put(self, host, buffer, offset)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "put", counting)
        yield sizes


@pytest.mark.parametrize("dtype", ["u2", "u8", "f4"])
def test_planes_runs_and_labels_of_a_tile_go_to_the_card_once(
    dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = tissue(dtype)
    labels = case.labels.astype("u1")
    image = as_form("zarr", case.image, (1, 30, 30), tmp_path)
    plane, runs = 30 * 30 * case.image.itemsize, 9 * 8
    readers = reader_of(labels, 3), reader_of(image, 4)
    task = Task(((0, 1), (0, 30), (0, 30)), (0, 1, 2, 3), *readers)
    with sent(monkeypatch) as sizes:
        measure_tile(task, TileWork("cupy", tuple(chosen(STATISTICS).values()), False))
    assert sizes[plane] == 3
    assert sizes[labels.nbytes] == 1
    assert sizes[8 * runs] == sizes[4 * runs] == 1
    with sent(monkeypatch) as sizes:
        hc.extract_instances(image, labels, tmp_path / "crops", batch_size=1, engine="cupy")
    assert sizes[plane] == 3


def test_a_run_table_may_be_used_for_more_instances_than_it_has() -> None:
    table = (np.array([0], np.int64), np.array([8], np.int32), np.array([0], np.int32))
    for slots in (1, 3, 2):
        found, expected = (
            k.reduce(np.ones((1, 8), "u2"), *table, slots, "sum", False) for k in (gpu, reference)
        )
        np.testing.assert_array_equal(found, expected)


def test_what_is_written_over_a_plane_goes_to_the_card_again() -> None:
    table = (np.array([0], np.int64), np.array([8], np.int32), np.array([0], np.int32))
    plane = np.ones((1, 8), "u2")
    for value in (1, 2):
        plane[...] = value
        assert gpu.reduce(plane, *table, 1, "sum", False).item() == 8 * value
    for value in (3, 4):
        buffer = scratch("image", 8, np.dtype("u2")).reshape(1, 8)
        buffer[...] = value
        assert gpu.reduce(buffer, *table, 1, "sum", False).item() == 8 * value


@pytest.mark.parametrize("shape", [(4, 256, 256), (3, 2, 100, 130)])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i8", "f4"])
def test_a_task_takes_no_more_of_the_card_than_its_plan_says(
    shape: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    image = any_pixels(rng, shape, dtype)
    cells = np.arange(1, 1 + (shape[-2] // 10) * (shape[-1] // 10), dtype="u4")
    labels = np.zeros(shape[1:], "u4")
    grid = np.kron(cells.reshape(shape[-2] // 10, -1), np.ones((9, 9), "u4"))
    labels[..., : grid.shape[0], : grid.shape[1]] = grid
    chunks = (2, *(min(n, 96) for n in shape[1:]))
    arrays = as_form("zarr", image, chunks, tmp_path), as_form("zarr", labels, chunks[1:], tmp_path)
    held: list[int] = []
    room = gpu_sessions.Session.room

    def counting(self: Any, purpose: str, size: int) -> Any:
        buffer = room(self, purpose, size)
        held.append(sum(b.size for b in self._buffers.values()))
        return buffer

    monkeypatch.setattr(gpu_sessions.Session, "room", counting)
    with threads(1):
        hc.aggregate_stats(*arrays, STATISTICS, engine="cupy")
    plan = plan_aggregate(*arrays, STATISTICS, instances=len(cells))
    assert 0 < max(held) <= plan.device_bytes_per_task
    held.clear()
    for remove_background in (True, False):
        instances = find_instances(arrays[1])
        with threads(1):
            hc.extract_instances(
                *arrays,
                tmp_path / f"crops{remove_background}",
                diameter=12,
                batch_size=20,
                remove_background=remove_background,
                engine="cupy",
                instances=instances,
            )
        plan = plan_extract(
            *arrays,
            diameter=12,
            batch_size=20,
            remove_background=remove_background,
            instances=len(cells),
        )
        assert 0 < max(held) <= plan.device_bytes_per_task
        held.clear()


def test_the_table_says_which_engine_measured_it() -> None:
    case = tissue("u2")
    assert measured(case, engine="cupy").uns["harpy_core"]["engine"] == "cupy"
    assert measured(case, engine="auto").uns["harpy_core"]["engine"] == "cupy"
    assert measured(case, engine="numpy").uns["harpy_core"]["engine"] == "numpy"


def test_pixel_types_of_the_kernels_are_all_there_are() -> None:
    measured_types = {np.dtype(t).newbyteorder("=").str[1:] for t in PIXELS} - {"b1", "f2"}
    kernels = set(gpu_types.every_kernel())
    for name in measured_types:
        for loop in layout.LOOPS[layout.family_of(np.dtype(name))]:
            for ignore_nan in (False, True):
                sums = gpu_types.sums_type(np.dtype(name), loop, ignore_nan)
                assert {f"reduce<{sums}>", f"merge_parts<{sums}>"} <= kernels
