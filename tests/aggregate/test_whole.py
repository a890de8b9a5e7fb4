"""Median, percentiles and spreads, against NumPy on each instance's pixels."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cases import FORMS, NARROW, PIXELS, Case, as_form, cases, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from oracle import labels_in, spatial
from tables import tissue

import harpy_core as hc
from harpy_core.aggregate import whole
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.statistics import pixels as counting

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client

ORDERED = ("median", "q05", "q25", "q99", "iqr", "mad")


def quantile(x: np.ndarray, q: float) -> float:
    """Return NumPy's quantile, which multiplies infinity by 0 where a pixel is infinite."""
    low, high = (np.quantile(x, q, method=way) for way in ("lower", "higher"))
    if np.isinf([low, high]).any():
        return low if low == high else low + high
    return float(np.quantile(np.where(np.isinf(x), np.sign(x) * 1e30, x), q))


def ordered(values: np.ndarray) -> dict[str, float]:
    """Return NumPy's statistics of some pixels."""
    x = values.astype(np.float64)
    if not x.size:
        return dict.fromkeys(ORDERED, np.nan)
    with np.errstate(invalid="ignore"):
        median = quantile(x, 0.5)
        return {
            "median": median,
            "q05": quantile(x, 0.05),
            "q25": quantile(x, 0.25),
            "q99": quantile(x, 0.99),
            "iqr": quantile(x, 0.75) - quantile(x, 0.25),
            "mad": quantile(np.abs(x - median), 0.5),
        }


def expected(case: Case, ignore_nan: bool = False) -> dict[str, np.ndarray]:
    image, labels = spatial(case.image, case.labels)
    ids = labels_in(labels)
    layers = {name: np.empty((len(ids), len(image))) for name in ORDERED}
    for row, label in enumerate(ids):
        inside = labels == label.astype(labels.dtype)
        for c, plane in enumerate(image):
            kept = plane[inside]
            kept = kept[~np.isnan(kept)] if ignore_nan else kept
            for name, value in ordered(kept).items():
                layers[name][row, c] = value
    return layers


def found(case: Case, form: str = "numpy", **options: Any) -> AnnData:
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile):
        image = as_form(form, case.image, case.image_chunks, folder)
        labels = as_form(form, case.labels, case.label_chunks, folder, "labels")
        return hc.aggregate_stats(image, labels, options.pop("stats", ORDERED), **options)


def assert_equal(table: AnnData, layers: dict[str, np.ndarray]) -> None:
    for name, values in layers.items():
        np.testing.assert_array_equal(table.layers[name], values, err_msg=name)


@given(cases(), st.sampled_from(FORMS), st.sampled_from(["numpy", "numba"]))
def test_order_statistics_are_those_of_numpy_to_the_last_bit(
    case: Case, form: str, engine: str
) -> None:
    assert_equal(found(case, form, engine=engine), expected(case))


@given(cases(dtypes=NARROW), st.integers(0, 40))
def test_instances_that_are_counted_have_the_same_order_statistics(case: Case, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "COUNTED", size)
        assert_equal(found(case, "zarr"), expected(case))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("ignore_nan", [True, False])
def test_nan_spoils_its_instance_and_channel_or_is_left_out(
    dtype: str, engine: str, ignore_nan: bool
) -> None:
    case = tissue(dtype)
    case.image[0][np.random.default_rng(5).random((30, 30)) < 0.05] = np.nan
    case.image[1][case.labels == 43] = np.nan
    case.image[2, 12, 13] = np.inf
    table = found(case, "zarr", engine=engine, ignore_nan=ignore_nan)
    assert_equal(table, expected(case, ignore_nan))
    assert np.isnan(table.layers["median"][4, 1])


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize(
    ("pixels", "median"),
    [
        ((1, 5, np.inf), 5),
        ((-np.inf, 2, 3, np.inf), 2.5),
        ((1, np.inf), np.inf),
        ((-np.inf, 1), -np.inf),
        ((-np.inf,), -np.inf),
        ((np.inf, np.inf, np.inf), np.inf),
        ((-np.inf, np.inf), np.nan),
    ],
)
def test_infinite_pixels_are_larger_or_smaller_than_all_others(
    pixels: tuple[float, ...], median: float, engine: str
) -> None:
    image = np.array([[pixels]], "f4")
    table = hc.aggregate_stats(image, np.full(image.shape[1:], 3), "median", engine=engine)
    np.testing.assert_array_equal(table.X, [[median]])


def test_percentiles_stand_beside_statistics_that_are_merged() -> None:
    case = tissue("u2")
    names = ("kurtosis", "median", "count", "max", "q01", "mean")
    table = found(case, "zarr", stats=names)
    others = found(case, stats=("kurtosis", "count", "max", "mean"))
    assert list(table.layers) == list(names)
    for name in others.layers:
        np.testing.assert_array_equal(table.layers[name], others.layers[name])
    np.testing.assert_array_equal(table.layers["median"], expected(case)["median"])


def test_a_statistic_of_ones_own_may_need_whole_instances_and_more() -> None:
    case = tissue("u2")
    lean = hc.Statistic(
        "lean", "mean - median", ("sum", "count", "pixels"), lambda s, n, p: s / n - p.quantile(0.5)
    )
    table = found(case, "zarr", stats=(lean, "mean", "median"))
    np.testing.assert_array_equal(
        table.layers["lean"], table.layers["mean"] - table.layers["median"]
    )


@pytest.mark.parametrize("form", ["zarr", "dask"])
def test_workers_give_what_threads_give(form: str, client: Client) -> None:
    case = tissue("u2")
    assert_equal(found(case, form, client=client), expected(case))


def test_index_and_labels_that_are_not_there() -> None:
    table = found(tissue("u2"), "zarr", index=[43, 1, 3])
    layers = expected(tissue("u2"))
    for name in ORDERED:
        np.testing.assert_array_equal(table.layers[name][[0, 2]], layers[name][[4, 0]])
        assert np.isnan(table.layers[name][1]).all()


def test_the_store_has_what_the_table_has(tmp_path: Any) -> None:
    import anndata

    case = tissue("u2")
    image = as_form("zarr", case.image, (1, 7, 9), tmp_path)
    instances = hc.find_instances(case.labels)
    place = os.fspath(tmp_path / "table.zarr")
    with tiles_of(1):
        aggregate_to_store(image, case.labels, place, instances, ORDERED, slab_bytes=1)
    assert_equal(anndata.read_zarr(place), expected(case))


def test_instances_of_other_labels_are_refused() -> None:
    case = tissue("u2")
    other = hc.find_instances(np.where(case.labels == 43, 0, case.labels))
    moved = hc.find_instances(np.roll(case.labels, 1, 0))
    for instances in (other, moved):
        with pytest.raises(hc.InputError, match="find the instances of these labels again"):
            found(case, "zarr", instances=instances)


def test_pieces_that_take_too_much_memory_are_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(whole, "HELD_BYTES", 56 * 4 * 3)
    found(tissue("u1"), "zarr", stats="median")
    with pytest.raises(hc.InputError, match=r"median would hold .* GB of pixels"):
        found(tissue("f4"), "zarr", stats="median")


def test_names_of_percentiles_go_from_1_to_99() -> None:
    for name in ("q00", "q100", "q5", "q050"):
        with pytest.raises(hc.InputError, match=f"'{name}' is not a statistic"):
            found(tissue("u2"), stats=name)


def test_pixel_types_are_all_there_are() -> None:
    for dtype in PIXELS:
        assert found(tissue(dtype if dtype != "b1" else "?"), stats="median").shape == (9, 3)
