"""Labels in floats, taken if they are whole numbers; masks, of which the pieces are labelled."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.ndimage
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stores import cells, pixels

import harpy_core as hc
from harpy_core.planning.survey import survey
from harpy_core.raster import describe, open_described, open_raster
from harpy_core.raster.label_views import ConnectedLabels
from harpy_core.raster.raster import Raster
from harpy_core.raster.reading import ArrayReader
from harpy_core.tiling.tile import tile_raster

if TYPE_CHECKING:
    from distributed import Client


def stored(values: np.ndarray, chunks: tuple[int, ...]) -> zarr.Array:
    return zarr.create_array({}, data=values, chunks=chunks)


# Floats -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8"])
@pytest.mark.parametrize("kind", ["numpy", "zarr", "dask"])
def test_floats_that_are_whole_numbers_are_labels(kind: str, dtype: str) -> None:
    import dask.array as da

    floats = cells().astype(dtype)
    given = {
        "numpy": floats,
        "zarr": stored(floats, (16, 16)),
        "dask": da.from_array(floats, (16, 16)),
    }[kind]
    found = hc.aggregate_stats(pixels(), given, ("mean", "median"))
    expected = hc.aggregate_stats(pixels(), cells(), ("mean", "median"))
    for name in ("mean", "median"):
        np.testing.assert_array_equal(found.layers[name], expected.layers[name])
    assert list(found.obs["instance_id"]) == list(expected.obs["instance_id"])
    assert Raster.of(pixels(), given).labels.dtype == np.int64


@pytest.mark.parametrize(
    ("dtype", "value", "told"),
    [
        ("f8", 2.5, "labels are float64, and one is 2.5"),
        ("f4", np.nan, "labels are float32, and one is nan"),
        ("f8", np.inf, "one is inf"),
        ("f8", 1e300, r"one is 1e\+300"),
        ("f4", 2.0**25, "beyond 16,777,216 that type does not tell whole numbers apart"),
        ("f8", -3.0, "-3"),
    ],
)
@pytest.mark.parametrize("kind", ["numpy", "zarr", "dask"])
def test_a_float_that_is_no_label_is_told_in_one_line(
    kind: str, dtype: str, value: float, told: str
) -> None:
    import dask.array as da

    floats = cells().astype(dtype)
    floats[39, 49] = value
    given = {
        "numpy": floats,
        "zarr": stored(floats, (16, 16)),
        "dask": da.from_array(floats, (16, 16)),
    }[kind]
    with pytest.raises(hc.InputError, match=told) as error:
        hc.aggregate_stats(pixels(), given)
    assert "\n" not in str(error.value)


def test_float_labels_in_a_file_are_those_of_the_file(tmp_path: Path, client: Client) -> None:
    tifffile.imwrite(tmp_path / "i.tif", pixels(), photometric="minisblack", tile=(16, 16))
    tifffile.imwrite(tmp_path / "l.tif", cells().astype("f8"), tile=(16, 16))
    info = describe(tmp_path / "i.tif", labels="l.tif")
    assert (info.labels_dtype, info.labels_stored) == ("int64", "float64")
    raster = open_described(info)
    np.testing.assert_array_equal(raster.labels[...], cells())
    np.testing.assert_array_equal(raster.labels[3:7, 4], cells()[3:7, 4])
    found = hc.aggregate_stats(raster.image, raster.labels, client=client)
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(pixels(), cells()).X)
    tifffile.imwrite(tmp_path / "p.tif", cells() / 3)
    assert "floats are taken if" in str(survey(str(tmp_path / "i.tif"), labels="p.tif").problem)


# Masks --------------------------------------------------------------------------------------------

MASKS = hnp.arrays(
    st.sampled_from(["?", "u1", "f4", "i8"]),
    hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=12),
    elements={"min_value": 0, "max_value": 1, "allow_subnormal": False},
    fill=st.just(0),
)


@settings(max_examples=100, deadline=None)
@given(st.data(), MASKS)
def test_pieces_have_the_numbers_that_scipy_gives_the_whole_mask(
    data: st.DataObject, mask: np.ndarray
) -> None:
    flat = (1,) * (3 - mask.ndim)
    reader = ArrayReader(mask, 3, flat + tuple(data.draw(st.integers(1, n)) for n in mask.shape))
    expected = scipy.ndimage.label(mask)[0]
    connected = ConnectedLabels(mask, reader)
    np.testing.assert_array_equal(connected[...], expected)
    key = tuple(
        data.draw(st.one_of(st.integers(-n, n - 1), st.slices(n).filter(lambda s: s.step != 0)))
        for n in mask.shape
    )
    np.testing.assert_array_equal(connected[key], expected[key])
    first = [data.draw(st.integers(0, n - 1)) for n in reader.shape]
    last = [data.draw(st.integers(a + 1, n)) for a, n in zip(first, reader.shape, strict=True)]
    region = tuple(zip(first, last, strict=True))
    out = np.empty(tuple(b - a for a, b in region), connected.dtype)
    connected.reader(reader).detach(region).read(region, out)
    inside = tuple(slice(a, b) for a, b in region)
    np.testing.assert_array_equal(out, expected.reshape(reader.shape)[inside])


@pytest.mark.parametrize("chunks", [(3, 4), (16, 16), (20, 30)])
def test_as_many_instances_are_found_as_the_mask_has_pieces(chunks: tuple[int, int]) -> None:
    mask = snake((20, 30))
    found = hc.find_instances(hc.label_connected(stored(mask, chunks)))
    assert len(found) == scipy.ndimage.label(mask)[1] > 1


def snake(shape: tuple[int, int]) -> np.ndarray:
    """Draw one piece that winds through every tile, and a dot in each of its bends."""
    mask = np.zeros(shape, np.uint8)
    mask[::4] = 255
    mask[2::8, -1] = mask[1::8, -1] = mask[3::8, -1] = 255
    mask[5::8, 0] = mask[6::8, 0] = mask[7::8, 0] = 255
    mask[2::4, 5:-5:7] = 255
    return mask


@pytest.mark.parametrize("ways", ["threads", "processes"])
def test_every_job_takes_the_pieces_of_a_mask(ways: str, tmp_path: Path, client: Client) -> None:
    mask, image = snake((60, 70)), pixels((3, 60, 70))
    expected = scipy.ndimage.label(mask)[0]
    tifffile.imwrite(tmp_path / "i.tif", image, photometric="minisblack", tile=(16, 32))
    tifffile.imwrite(tmp_path / "m.tif", mask, tile=(16, 16), compression="zlib")
    info = describe(tmp_path / "i.tif", labels="m.tif", label_connected=True)
    assert info.fingerprint != describe(tmp_path / "i.tif", labels="m.tif").fingerprint
    raster = open_described(info)
    on = client if ways == "processes" else None
    found = hc.aggregate_stats(raster.image, raster.labels, ("mean", "median"), client=on)
    true = hc.aggregate_stats(image, expected, ("mean", "median"))
    np.testing.assert_array_equal(found.layers["median"], true.layers["median"])
    np.testing.assert_array_equal(found.X, true.X)
    for name, labels in (("a", raster.labels), ("b", expected)):
        hc.extract_instances(image, labels, tmp_path / name, diameter=8, client=on)
    crops = [zarr.open_array(tmp_path / name / "image", mode="r")[...] for name in "ab"]
    np.testing.assert_array_equal(*crops)
    assert (pickle.loads(pickle.dumps(raster.labels))[...] == expected).all()


def test_a_tiled_store_holds_the_pieces(tmp_path: Path) -> None:
    mask = snake((60, 70))
    image = stored(pixels((3, 60, 70)), (1, 32, 32))
    raster = Raster.of(image, hc.label_connected(stored(mask, (16, 16))))
    tile_raster(raster, tmp_path / "t.zarr", (3, 60, 70), chunks=(3, 32, 32), method="copy")
    expected = scipy.ndimage.label(mask)[0]
    np.testing.assert_array_equal(open_raster(tmp_path / "t.zarr").labels[...], expected)


@pytest.mark.parametrize(("value", "looks"), [(1, True), (255, True), (7, False)])
def test_labels_that_look_like_a_mask_are_said_to(
    value: int, looks: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    mask = (cells() > 0).astype("u1") * np.uint8(value)
    tifffile.imwrite(tmp_path / "i.tif", pixels(), photometric="minisblack")
    tifffile.imwrite(tmp_path / "m.tif", mask)
    jobs: list[Any] = [
        lambda: hc.find_instances(mask),
        lambda: hc.aggregate_stats(pixels(), mask),
        lambda: hc.aggregate_stats(pixels(), mask, ("median",)),
    ]
    for job in jobs:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            job()
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == looks
        assert all(f"1 instance: the only label is {value}" in line for line in told)
    line = survey(str(tmp_path / "i.tif"), labels="m.tif").lines[-1]
    assert ("label_connected: true" in line) == looks
    found = survey(str(tmp_path / "i.tif"), labels="m.tif", label_connected=True)
    assert not found.problem
    assert "the connected pieces of a mask" in found.lines[-1]


def test_what_cannot_be_labelled_says_so() -> None:
    import dask.array as da

    mask = cells() > 0
    with pytest.raises(hc.InputError, match="bool, a binary mask: label_connected: true"):
        hc.aggregate_stats(pixels(), mask)
    with pytest.raises(hc.InputError, match="Dask array are not found: store it first"):
        hc.label_connected(da.from_array(mask))
    with pytest.raises(hc.InputError, match="4 axes"):
        hc.label_connected(np.zeros((1, 1, 2, 2)))
