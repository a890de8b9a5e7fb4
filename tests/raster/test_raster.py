"""One raster of arrays of any kind: axes by their names, checks, what is said of it."""

from __future__ import annotations

import itertools
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import harpy_core as hc
from harpy_core.planning.plan import plan_aggregate
from harpy_core.raster import Raster

IMAGE = np.arange(2 * 5 * 7, dtype=np.uint16).reshape(2, 5, 7)
LABELS = (np.arange(35).reshape(5, 7) // 9).astype(np.int32)


@pytest.mark.parametrize("order", [*itertools.permutations("cyx")])
@pytest.mark.parametrize("lazy", [False, True])
def test_axes_of_an_xarray_are_found_by_their_names(order: tuple[str, ...], lazy: bool) -> None:
    image = xr.DataArray(da.from_array(IMAGE) if lazy else IMAGE, dims=("c", "y", "x"))
    labels = xr.DataArray(LABELS, dims=("Y", "X")).transpose("X", "Y")
    raster = Raster.of(image.transpose(*order), labels)
    np.testing.assert_array_equal(np.asarray(raster.image), IMAGE)
    np.testing.assert_array_equal(np.asarray(raster.labels), LABELS)
    assert raster.axes == ("c", "y", "x")
    found = hc.aggregate_stats(image.transpose(*order), labels, stats="sum")
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(IMAGE, LABELS, stats="sum").X)


def test_square_labels_with_x_first_are_measured_where_they_lie() -> None:
    labels = np.zeros((6, 6), np.uint8)
    labels[0, 3:] = 1
    turned = xr.DataArray(labels.T, dims=("x", "y"))
    found = hc.find_instances(turned)
    np.testing.assert_array_equal(found.centroid, [[0, 0, 4]])


def test_a_time_of_one_point_is_left_out() -> None:
    image = xr.DataArray(IMAGE[np.newaxis, :, np.newaxis], dims=("t", "c", "z", "y", "x"))
    labels = xr.DataArray(LABELS[np.newaxis], dims=("z", "y", "x"))
    raster = Raster.of(image, labels)
    assert (raster.image.shape, raster.axes) == ((2, 1, 5, 7), ("c", "z", "y", "x"))


def test_an_xarray_without_names_is_taken_as_it_is() -> None:
    raster = Raster.of(xr.DataArray(IMAGE), xr.DataArray(LABELS))
    np.testing.assert_array_equal(raster.image, IMAGE)


@pytest.mark.parametrize(
    ("image", "labels", "told"),
    [
        (("channel", "y", "x"), ("y", "x"), "image: dimensions are channel, y, x: give .c, y, x."),
        (("z", "y", "x"), ("y", "x"), "image: dimensions are z, y, x"),
        (("t", "y", "x"), ("y", "x"), "image: dimensions are t, y, x"),
        (("c", "y", "x"), ("row", "x"), "labels: dimensions are row, x: give .y, x. or .z, y, x."),
    ],
)
def test_dimensions_that_are_not_known_are_refused(
    image: tuple[str, ...], labels: tuple[str, ...], told: str
) -> None:
    with pytest.raises(hc.InputError, match=told) as error:
        Raster.of(xr.DataArray(IMAGE, dims=image), xr.DataArray(LABELS, dims=labels))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [IMAGE.tolist(), None, {}])
def test_what_is_no_array_is_refused(given: Any) -> None:
    with pytest.raises(hc.InputError, match="labels: "):
        Raster.of(IMAGE, given)


def test_layers_are_checked_each_and_made_alike() -> None:
    raster = Raster.of(IMAGE, {"cells": LABELS, "nuclei": da.from_array(LABELS)}, ["a", "b"])
    assert raster.lazy
    assert list(raster.layers) == ["cells", "nuclei"]
    assert raster.labels is raster.layers["cells"]
    with pytest.raises(hc.InputError, match="do not cover the same pixels"):
        Raster.of(IMAGE, {"cells": LABELS, "nuclei": LABELS[:4]})


def test_a_plan_does_not_depend_on_the_byte_order() -> None:
    swapped = IMAGE.astype(">u2"), LABELS.astype(">i4")
    assert plan_aggregate(*swapped) == plan_aggregate(IMAGE, LABELS)
