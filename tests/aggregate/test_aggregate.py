"""Statistics of channels in instances, against exact arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from cases import (
    FORMS,
    NARROW,
    PIXELS,
    WIDE,
    Case,
    as_form,
    cases,
    counted_reads,
    threads,
    tiles_of,
)
from hypothesis import given
from hypothesis import strategies as st
from oracle import STATISTICS, geometry, labels_in, statistics, statistics_of
from tables import EXACT, assert_close, assert_same_bits, measured, scale_of, tissue

import harpy_core as hc
from harpy_core.aggregate import merging

if TYPE_CHECKING:
    from distributed import Client


@given(cases(), st.sampled_from(FORMS), st.sampled_from(FORMS))
def test_every_statistic_agrees_with_exact_arithmetic(
    case: Case, form: str, labels_form: str
) -> None:
    found = measured(case, form, labels_form)
    expected = statistics(case.image, case.labels)
    np.testing.assert_array_equal(found.obs["instance_id"], labels_in(case.labels))
    np.testing.assert_array_equal(found.layers["count"], expected["count"])
    assert_close(found, expected, 1e-9, scale_of(case.image))
    count, centroid, _ = geometry(case.labels)
    np.testing.assert_array_equal(found.obs["count"], count)
    np.testing.assert_allclose(
        found.obsm["spatial"], centroid[:, ::-1][:, : case.labels.ndim], rtol=1e-12
    )


@given(cases(dtypes=("b1", *NARROW, *WIDE)), st.sampled_from(["numpy", "numba"]))
def test_sums_and_extremes_of_integers_are_exact(case: Case, engine: str) -> None:
    found = measured(case, engine=engine)
    for name, values in statistics(case.image, case.labels).items():
        if name in EXACT:
            np.testing.assert_array_equal(found.layers[name], values, err_msg=name)


@given(cases(dtypes=("b1", *NARROW)))
def test_engines_agree_to_the_last_bit_on_narrow_integers(case: Case) -> None:
    assert_same_bits(measured(case, engine="numpy"), measured(case, engine="numba"))


@given(cases(dtypes=WIDE))
def test_engines_agree_to_the_last_bit_on_sums_of_wide_integers(case: Case) -> None:
    found, other = measured(case, engine="numpy"), measured(case, engine="numba")
    for name in (*EXACT, "mean"):
        np.testing.assert_array_equal(found.layers[name], other.layers[name])
    assert_close(found, {name: other.layers[name] for name in STATISTICS}, 1e-12, 0.0)


@given(cases(dtypes=("u2", "i1")), st.sampled_from(FORMS), st.sampled_from([1, 2, 5]))
def test_integers_are_the_same_to_the_last_bit_for_every_chunking(
    case: Case, form: str, number: int
) -> None:
    whole = Case(case.image, case.labels, case.image.shape, case.labels.shape, 10**6)
    with threads(number):
        assert_same_bits(measured(case, form), measured(whole))


@given(cases(dtypes=("u8", "i4", "f4", "f8")), st.sampled_from(FORMS), st.sampled_from([1, 2, 5]))
def test_wide_integers_and_floats_are_the_same_for_every_chunking(
    case: Case, form: str, number: int
) -> None:
    whole = measured(Case(case.image, case.labels, case.image.shape, case.labels.shape, 10**6))
    with threads(number):
        found = measured(case, form)
    assert_close(found, {n: whole.layers[n] for n in STATISTICS}, 1e-12, scale_of(case.image))


@pytest.mark.parametrize(
    ("dtype", "base", "step"),
    [
        ("u8", 2**63, 1),
        ("u8", 2**64 - 3, 1),
        ("i8", -(2**63), 1),
        ("i8", 2**62, 1),
        ("u4", 2**32 - 3, 1),
        ("u2", 65533, 1),
        ("f8", 1e8, 2.0**-20),
        ("f8", -1e12, 2.0**-10),
        ("f8", 1e15, 0.125),
        ("f4", 16_000_000, 1),
    ],
)
@pytest.mark.parametrize("chunk", [3, 40])
def test_large_values_with_tiny_variance_keep_nine_digits(
    dtype: str, base: float, step: float, chunk: int
) -> None:
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 3, (2, 40, 40))
    kind = np.dtype(dtype).type
    image = steps.astype(dtype) * kind(step) + kind(base)
    labels = np.repeat(np.repeat(np.arange(1, 17, dtype="u4").reshape(4, 4), 10, 0), 10, 1)
    case = Case(image, labels, (1, chunk, chunk), (40, 40), 1)
    expected = statistics(image, labels)
    for engine in ("numpy", "numba"):
        found = measured(case, "zarr", engine=engine)
        for name in STATISTICS:
            least = 1e-9 if name in ("skew", "kurtosis") else 0.0
            np.testing.assert_allclose(found.layers[name], expected[name], 1e-9, least, name)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u8", "i4", "f4", "f8"])
@pytest.mark.parametrize("chunk", [2, 7])
def test_equal_pixels_have_no_variance_and_no_shape(dtype: str, chunk: int) -> None:
    value = {"f": 0.1, "i": -7, "u": 201}[dtype[0]]
    image = np.full((1, 7, 7), value, dtype)
    case = Case(image, np.ones((7, 7), "u4"), (1, chunk, chunk), (7, 7), 1)
    for engine in ("numpy", "numba"):
        found = measured(case, "zarr", engine=engine)
        assert found.layers["var"][0, 0] == found.layers["std"][0, 0] == 0
        assert np.isnan(found.layers["skew"][0, 0])
        assert np.isnan(found.layers["kurtosis"][0, 0])


@pytest.mark.parametrize("spoiler", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_a_spoiled_pixel_spoils_its_own_instance_and_channel_only(
    spoiler: float, engine: str
) -> None:
    case = tissue()
    clean = measured(case, "zarr", engine=engine)
    case.image[1, 12, 13] = spoiler  # in the fifth instance, label 43
    case.image[2, 9, 9] = spoiler  # background
    found = measured(case, "zarr", engine=engine)
    expected = statistics_of(case.image[1][case.labels == 43])
    for name in STATISTICS:
        assert found.layers[name][4, 1] == pytest.approx(expected[name], nan_ok=True), name
        others = np.ones((9, 3), bool)
        others[4, 1] = False
        np.testing.assert_array_equal(found.layers[name][others], clean.layers[name][others])


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("form", ["numpy", "zarr"])
def test_nan_pixels_can_be_left_out(engine: str, form: str) -> None:
    case = tissue("f8")
    rng = np.random.default_rng(5)
    case.image[0][rng.random((30, 30)) < 0.3] = np.nan
    case.image[1][case.labels == 43] = np.nan
    found = measured(case, form, engine=engine, ignore_nan=True)
    for row, label in enumerate(labels_in(case.labels)):
        for c, plane in enumerate(case.image):
            inside = plane[case.labels == label]
            kept = inside[~np.isnan(inside)]
            if kept.size:
                for name, value in statistics_of(kept).items():
                    assert found.layers[name][row, c] == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert found.layers["count"][4, 1] == 0
    assert np.isnan(found.layers["mean"][4, 1])
    assert np.isnan(found.layers["min"][4, 1])
    np.testing.assert_array_equal(found.obs["count"], 56)


def test_a_label_that_is_not_there_has_count_zero_and_nan_statistics() -> None:
    case = tissue("u2")
    everything = measured(case)
    found = measured(case, index=[43, 1, 3, 2**64 - 1, 43])
    np.testing.assert_array_equal(found.obs["instance_id"].to_numpy()[:3], [43, 1, 3])
    np.testing.assert_array_equal(found.obs["count"], [56, 0, 56, 0, 56])
    for name in STATISTICS:
        values = found.layers[name]
        np.testing.assert_array_equal(values[[0, 2, 4]], everything.layers[name][[4, 0, 4]])
        missing = values[[1, 3]]
        assert np.all(missing == 0) if name == "count" else np.all(np.isnan(missing)), name
    assert np.all(np.isnan(found.obsm["spatial"][[1, 3]]))


def test_it_does_not_matter_how_many_values_are_finished_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = tissue("u2")
    whole = measured(case, index=[43, 1, 3, 13, 43])
    for number in (1, 4, 7):
        monkeypatch.setattr(merging, "_VALUES_AT_ONCE", number)
        assert_same_bits(measured(case, index=[43, 1, 3, 13, 43]), whole)


def test_an_index_may_mix_small_and_the_largest_labels() -> None:
    case = tissue("u2")
    labels = np.where(case.labels == 43, np.uint64(2**64 - 1), case.labels.astype("u8"))
    found = hc.aggregate_stats(case.image, labels, index=[3, 2**64 - 1])
    np.testing.assert_array_equal(found.obs["count"], [56, 56])
    assert list(found.obs["instance_id"]) == [3, 2**64 - 1]


def test_an_image_without_labels_gives_an_empty_table() -> None:
    case = tissue("u2")
    for labels in (np.zeros_like(case.labels), np.zeros_like(case.labels)[:0]):
        image = case.image[:, : len(labels)]
        found = hc.aggregate_stats(image, labels, STATISTICS)
        assert found.shape == (0, 3)
        asked = hc.aggregate_stats(image, labels, STATISTICS, index=[7])
        assert asked.layers["count"].tolist() == [[0, 0, 0]]
        assert np.all(np.isnan(asked.layers["mean"]))


def test_the_table_names_channels_statistics_and_provenance() -> None:
    case = tissue("u2")
    found = hc.aggregate_stats(case.image, case.labels, ["max", "mean"], channels=["a", "b", "c"])
    assert list(found.var_names) == ["a", "b", "c"]
    assert list(found.layers) == ["max", "mean"]
    np.testing.assert_array_equal(found.X, found.layers["max"])
    assert found.layers["mean"].dtype == np.float64
    assert found.obs["instance_id"].dtype == np.uint64
    assert list(found.obs_names[:2]) == ["3", "13"]
    assert found.uns["harpy_core"]["stats"] == ["max", "mean"]


def test_a_statistic_of_ones_own_is_a_layer_beside_the_others(client: Client) -> None:
    case = tissue("u2")
    spread = hc.Statistic("range", "max - min", ("extremes",), lambda e: e.most - e.least)
    for workers in (None, client):
        found = hc.aggregate_stats(case.image, case.labels, ("mean", spread), client=workers)
        expected = measured(case)
        assert list(found.layers) == ["mean", "range"]
        assert found.uns["harpy_core"]["stats"] == ["mean", "range"]
        np.testing.assert_array_equal(found.layers["mean"], expected.layers["mean"])
        np.testing.assert_array_equal(
            found.layers["range"], expected.layers["max"] - expected.layers["min"]
        )


@pytest.mark.parametrize("number", [1, 2, 4])
def test_each_image_chunk_is_decoded_once(number: int, tmp_path: Any) -> None:
    case = tissue("u2")
    image = as_form("zarr", case.image, (1, 4, 5), tmp_path)
    labels = as_form("zarr", case.labels + 1, (7, 6), tmp_path)
    for tile in (1, 100, 10**6):
        with tiles_of(tile), threads(number), counted_reads(image) as reads:
            hc.aggregate_stats(image, labels, STATISTICS)
        assert len(reads) == 3 * 8 * 6
        assert set(reads.values()) == {1}


def test_tiles_without_labels_are_never_read(tmp_path: Any) -> None:
    labels = np.zeros((40, 40), "u4")
    labels[18:23, 31:33] = 5
    image = as_form("zarr", np.ones((4, 40, 40), "u2"), (2, 10, 10), tmp_path)
    with tiles_of(1), counted_reads(image) as reads:
        found = hc.aggregate_stats(image, as_form("zarr", labels, (40, 40), tmp_path), "sum")
    assert found.X.tolist() == [[10.0] * 4]
    assert set(reads) == {(c, y, 3) for c in (0, 1) for y in (1, 2)}


def test_blocks_of_a_lazy_image_are_computed_once() -> None:
    case = tissue("u2")
    computed: list[int] = []

    def once(block: np.ndarray) -> np.ndarray:
        computed.append(1)
        return block + block.dtype.type(1)

    lazy = da.from_array(case.image, (2, 7, 9)).map_blocks(once, dtype="u2", meta=np.empty(0, "u2"))
    found = hc.aggregate_stats(lazy, case.labels, STATISTICS)
    assert len(computed) == 2 * 5 * 4
    assert_same_bits(found, hc.aggregate_stats(case.image + np.uint16(1), case.labels, STATISTICS))


@pytest.mark.parametrize("form", ["numpy", "zarr", "dask"])
def test_workers_give_the_same_bits_as_threads(form: str, client: Client, tmp_path: Any) -> None:
    case = tissue("u2")
    image = as_form(form, case.image, case.image_chunks, tmp_path)
    labels = as_form(form, case.labels, case.label_chunks, tmp_path, "labels")
    with tiles_of(1):
        found = hc.aggregate_stats(image, labels, STATISTICS, client=client)
        assert_same_bits(found, hc.aggregate_stats(image, labels, STATISTICS))


def test_a_mistake_on_a_worker_is_told_like_one_here(client: Client) -> None:
    case = tissue("u2")
    labels = case.labels.astype("i4")
    labels[20, 20] = -5
    with pytest.raises(hc.InputError, match="labels hold -5"):
        hc.aggregate_stats(case.image, labels, client=client)


IMAGE = np.zeros((2, 6, 6), "u2")
LABELS = np.eye(6, dtype="i4")


@pytest.mark.parametrize(
    ("image", "labels", "options", "told"),
    [
        (IMAGE, -LABELS, {}, "labels hold -1"),
        (IMAGE, LABELS.astype("f4") / 2, {}, "labels are float32"),
        (IMAGE, LABELS.astype(bool), {}, "labels are bool"),
        (IMAGE, LABELS[:5], {}, r"image \(2, 6, 6\) and labels \(5, 6\)"),
        (IMAGE, LABELS[np.newaxis, np.newaxis], {}, "labels have 4 axes"),
        (IMAGE[0], LABELS, {}, "image has 2 axes"),
        (IMAGE.astype(complex), LABELS, {}, "complex128"),
        (IMAGE.astype(np.longdouble), LABELS, {}, "at most 64 bits"),
        (IMAGE, LABELS, {"channels": ["a"]}, "1 names for an image of 2 channels"),
        (IMAGE, LABELS, {"channels": ["a", "a"]}, "'a' appears twice"),
        (IMAGE, LABELS, {"stats": ["mean", "mode"]}, "'mode' is not a statistic"),
        (IMAGE, LABELS, {"stats": ["kurtosi"]}, "did you mean kurtosis"),
        (IMAGE, LABELS, {"stats": ["radial_men"]}, "did you mean radial_mean"),
        (IMAGE, LABELS, {"stats": ["q100"]}, "choose from count, .* q01 to q99; radial_mean, "),
        (IMAGE, LABELS, {"stats": []}, "choose at least one"),
        (IMAGE, LABELS, {"stats": None}, "stats: None is not a statistic; choose from count"),
        (IMAGE, LABELS, {"stats": ["mean", 5]}, "stats: 5 is not a statistic"),
        (IMAGE, LABELS, {"engine": "gpu9"}, "'gpu9': not an engine"),
        (IMAGE, LABELS, {"index": [3, 0]}, "index: labels are positive integers.* not 0"),
        (IMAGE, LABELS, {"index": [1.5]}, "positive integers.* not 1.5"),
        (IMAGE, LABELS, {"index": [2**64]}, "positive integers"),
        (IMAGE, LABELS, {"index": [-1, 2**63]}, "positive integers"),
        (IMAGE, LABELS, {"index": np.array([1.0])}, "positive integers"),
        (IMAGE, LABELS, {"index": [True]}, "positive integers"),
    ],
)
def test_bad_input_is_told_in_one_line(
    image: np.ndarray, labels: np.ndarray, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told) as error:
        hc.aggregate_stats(image, labels, **options)
    assert isinstance(error.value, hc.InputError)
    assert "\n" not in str(error.value)


def test_a_big_endian_image_is_measured_like_any_other(tmp_path: Any) -> None:
    case = tissue("u2")
    swapped = case.image.astype(">u2")
    expected = hc.aggregate_stats(case.image, case.labels, STATISTICS)
    for image in (swapped, as_form("zarr2", swapped, (2, 7, 9), tmp_path), da.from_array(swapped)):
        labels = case.labels.astype(">u4")
        assert_same_bits(hc.aggregate_stats(image, labels, STATISTICS), expected)


def test_arrays_that_are_views_are_read_right() -> None:
    case = tissue("u2")
    image, labels = case.image[:, ::-1, ::2], case.labels[::-1, ::2]
    assert_same_bits(
        hc.aggregate_stats(image, labels, STATISTICS),
        hc.aggregate_stats(image.copy(), labels.copy(), STATISTICS),
    )


def test_pixel_types_of_the_tests_are_all_there_are() -> None:
    every = {f"{np.dtype(c).kind}{np.dtype(c).itemsize}" for c in "?bBhHiIlLqQefd"}
    assert every == set(PIXELS)


def test_a_memory_store_gives_what_a_folder_gives() -> None:
    case = tissue("u2")
    image = zarr.create_array({}, data=case.image, chunks=(2, 7, 9))
    labels = zarr.create_array({}, data=case.labels, chunks=(9, 7))
    assert_same_bits(hc.aggregate_stats(image, labels, STATISTICS), measured(case))
