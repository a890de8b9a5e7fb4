"""Axes in any order and of any name, colours, time points, and levels that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import NAMES, assert_is_whole, cells, ngff, ome_zarr, pixels, scales

import harpy_core as hc
from harpy_core.config.mistakes import load
from harpy_core.config.models import Source
from harpy_core.planning.survey import survey
from harpy_core.raster import describe, open_described, open_raster
from harpy_core.raster.reading import reader_of
from harpy_core.raster.views import AxesView


def labelled(folder: Path, values: np.ndarray | None = None) -> str:
    tifffile.imwrite(folder / "labels.tif", cells() if values is None else values)
    return str(folder / "labels.tif")


def assert_measured(raster: Any, image: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Check a raster's pixels and statistics against those of arrays."""
    labels = cells() if labels is None else labels
    np.testing.assert_array_equal(raster.image[...], image)
    found = hc.aggregate_stats(raster.image, raster.labels, ("mean", "max"))
    expected = hc.aggregate_stats(image, labels, ("mean", "max"))
    for name in ("mean", "max"):
        np.testing.assert_array_equal(found.layers[name], expected.layers[name])


# Any order ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_view_is_the_array_with_its_axes_moved(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 7), min_size=3, max_size=5))
    chunks = tuple(data.draw(st.integers(1, n + 1)) for n in shape)
    values = np.arange(np.prod(shape), dtype="u4").reshape(shape)
    array = zarr.create_array({}, data=values, chunks=chunks)
    axes = data.draw(st.permutations(range(len(shape))))
    kept = axes[: data.draw(st.integers(2, min(4, len(shape))))]
    at = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    order: tuple[int | None, ...] = tuple(kept)
    if len(order) < 4 and data.draw(st.booleans()):
        order = (None, *order)
    view = AxesView(array, order, at)
    alone = values[tuple(slice(None) if i in kept else at[i] for i in range(len(shape)))]
    rank = {axis: place for place, axis in enumerate(sorted(kept))}
    expected = alone.transpose([rank[axis] for axis in kept])
    expected = expected[np.newaxis] if order[0] is None else expected
    np.testing.assert_array_equal(view[...], expected)
    assert view.shape == expected.shape
    key = tuple(data.draw(st.one_of(st.integers(0, n - 1), st.slices(n))) for n in expected.shape)
    key = tuple(k if isinstance(k, int) or (k.step or 1) > 0 else slice(None) for k in key)
    np.testing.assert_array_equal(view[key], expected[key])
    if expected.ndim < 3:
        return
    reader = reader_of(view, expected.ndim)
    begin = [data.draw(st.integers(0, n - 1)) for n in expected.shape]
    end = [data.draw(st.integers(b + 1, n)) for b, n in zip(begin, expected.shape, strict=True)]
    region = tuple(zip(begin, end, strict=True))
    out = np.zeros(reader.layout(region), "u4")
    reader.read(region, out)
    inside = tuple(slice(0, b - a) for a, b in region)
    part = expected[tuple(slice(a, b) for a, b in region)]
    np.testing.assert_array_equal(out[inside], part)


@pytest.mark.parametrize("axes", ["yxc", "xyc", "cxy", "CYX", "tczyx", "yxtc", "zcyx"])
@pytest.mark.parametrize("chunks", ["small", "whole"])
def test_axes_of_an_ome_zarr_come_in_any_order(axes: str, chunks: str, tmp_path: Path) -> None:
    sizes = {"t": 1, "c": 3, "z": 1, "y": 40, "x": 50}
    names = axes.lower()
    shape = [sizes[a] for a in names]
    places = ["cyx".index(a) for a in names if a in "cyx"]
    values = pixels().transpose(places).reshape(shape)
    root = zarr.open_group(tmp_path / "i.zarr", mode="w")
    own = (16,) * len(shape) if chunks == "small" else tuple(shape)
    root.create_array("fine", data=values, chunks=own)
    root.create_array("coarse", data=values, chunks=own)
    root.attrs["ome"] = {"multiscales": scales(axes, "fine"), "version": "0.5"}
    raster = open_raster(tmp_path / "i.zarr", labels=labelled(tmp_path))
    assert_measured(raster, pixels()[:, None] if "z" in names else pixels())


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"tile": (16, 16)}, {"tile": (16, 16), "compression": "jpeg"}, {"rowsperstrip": 3}],
    ids=str,
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_colour_image_is_read_as_its_samples(
    samples: int, options: dict[str, Any], planar: str, tmp_path: Path
) -> None:
    if samples == 4 and "compression" in options:
        options = {**options, "compression": "zlib"}
    values = (pixels((samples, 40, 50)) // 300).astype("u1")
    given = values if planar == "separate" else np.ascontiguousarray(np.moveaxis(values, 0, -1))
    more: dict[str, Any] = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, given, photometric="rgb", planarconfig=planar, **more, **options)
    read = tifffile.imread(path)
    expected = read if planar == "separate" else np.moveaxis(read, -1, 0)
    raster = open_raster(path, labels=labelled(tmp_path))
    assert_measured(raster, np.ascontiguousarray(expected))
    assert_measured(open_raster(path, labels="labels.tif", channels=["1"]), expected[1:2])


def test_the_samples_of_a_named_colour_carry_its_name(tmp_path: Path) -> None:
    values = np.ascontiguousarray(np.moveaxis(pixels(), 0, -1)).astype("u1")
    metadata = {"axes": "YXS", "Channel": {"Name": "H&E"}}
    tifffile.imwrite(tmp_path / "he.ome.tif", values, photometric="rgb", metadata=metadata)
    raster = open_raster(tmp_path / "he.ome.tif", labels=labelled(tmp_path))
    assert raster.channels == ["H&E red", "H&E green", "H&E blue"]


def test_arrays_say_by_name_that_the_channels_are_last() -> None:
    last = np.moveaxis(pixels(), 0, -1)
    named = xarray.DataArray(last, dims=("y", "x", "c"))
    expected = hc.aggregate_stats(pixels(), cells())
    np.testing.assert_array_equal(hc.aggregate_stats(named, cells()).X, expected.X)
    with pytest.raises(hc.InputError, match=r"image \(40, 50, 3\).*moveaxis\(image, -1, 0\)"):
        hc.aggregate_stats(last, cells())


# z, t and statements ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zarr", "tiff"])
def test_an_image_without_channels_has_one(kind: str, tmp_path: Path) -> None:
    depth = pixels((4, 40, 50))
    if kind == "zarr":
        ngff(zarr.open_group(tmp_path / "i", mode="w"), "", depth, "zyx", "0.5")
    else:
        tifffile.imwrite(tmp_path / "i", depth, metadata={"axes": "ZYX"})
        (tmp_path / "i").rename(tmp_path / "i.tif")
    labels = cells((4, 40, 50))
    tifffile.imwrite(tmp_path / "labels.tif", labels, metadata={"axes": "ZYX"})
    path = tmp_path / ("i" if kind == "zarr" else "i.tif")
    assert_measured(open_raster(path, labels=str(tmp_path / "labels.tif")), depth[None], labels)


@pytest.mark.parametrize("kind", ["zarr", "tiff"])
@pytest.mark.parametrize("moving", [False, True])
def test_a_time_point_is_chosen(kind: str, moving: bool, tmp_path: Path) -> None:
    """Films, with labels that move or stay."""
    film = pixels((2, 3, 40, 50))
    masks = np.stack([cells(), cells()[::-1]]) if moving else cells()
    if kind == "zarr":
        ngff(zarr.open_group(tmp_path / "i.zarr", mode="w"), "", film, "tcyx", "0.5")
        path = tmp_path / "i.zarr"
    else:
        path = tmp_path / "i.ome.tif"
        tifffile.imwrite(path, film, photometric="minisblack", metadata={"axes": "TCYX"})
    axes = {"axes": "TYX" if moving else "YX"}
    tifffile.imwrite(tmp_path / "l.ome.tif", masks, photometric="minisblack", metadata=axes)
    labels = str(tmp_path / "l.ome.tif")
    found = set()
    for t in (0, 1):
        info = describe(path, labels=labels, t=t)
        found.add(info.fingerprint)
        assert_measured(open_described(info), film[t], masks[t] if moving else masks)
    assert len(found) == 2
    with pytest.raises(hc.InputError, match="2 time points: choose one with t: 0 to 1, or"):
        open_raster(path, labels=labels)
    with pytest.raises(hc.InputError, match="no time point 2; there are 0 to 1"):
        open_raster(path, labels=labels, t=2)
    assert "choose one with t" in str(survey(str(path), labels=labels).problem)
    assert not survey(str(path), labels=labels, t=1).problem


def test_axes_that_a_file_does_not_know_are_stated(tmp_path: Path) -> None:
    values = pixels((4, 3, 40, 50))
    zarr.create_array(tmp_path / "plain" / "image", data=values)
    tifffile.imwrite(tmp_path / "i.tif", values, photometric="minisblack")
    labels = cells((4, 40, 50))
    zarr.create_array(tmp_path / "plain" / "labels", data=labels)
    expected = values.transpose(1, 0, 2, 3)
    zarr.open_group(tmp_path / "plain", mode="a")
    plain = open_raster(tmp_path / "plain", "image", "labels", axes="zcyx")
    assert_measured(plain, np.ascontiguousarray(expected), labels)
    tifffile.imwrite(tmp_path / "l.tif", labels, photometric="minisblack")
    with pytest.raises(hc.InputError, match=r"axes are .* \(4 x 3 x 40 x 50\); .*axes: zcyx"):
        open_raster(tmp_path / "i.tif", labels="l.tif")
    info = describe(tmp_path / "i.tif", labels="l.tif", axes="ZCYX")
    assert_measured(open_described(info), np.ascontiguousarray(expected), labels)
    with pytest.raises(
        hc.InputError, match=r"axes: cyx names 3, but its shape is \(4, 3, 40, 50\)"
    ):
        open_raster(tmp_path / "i.tif", labels="l.tif", axes="cyx")


@pytest.mark.parametrize("axes", ["zzyx", "cy", "cqyx"])
def test_a_statement_that_no_image_can_have_is_refused_in_the_config(axes: str) -> None:
    given = {"cases": {"c": {"source": {"uri": "a.tif", "axes": axes}}}}
    with pytest.raises(hc.InputError, match=f"source.axes = {axes}: axes are letters of c, z, y"):
        load(given, "f.yaml")
    assert Source(uri="a.tif", axes="ZCYX").axes == "zcyx"


# Levels -------------------------------------------------------------------------------------------


def pyramid(path: Path, factors: dict[str, int], name: str = "", kind: str = "images") -> None:
    """Write an OME-Zarr image or labels with a level for each factor."""
    values, axes = (pixels(), "cyx") if kind == "images" else (cells(), "yx")
    root = zarr.open_group(path, mode="a")
    group = root.require_group(name) if name else root
    datasets = []
    for level, factor in factors.items():
        coarse = np.ascontiguousarray(values[..., ::factor, ::factor])
        group.create_array(level, data=coarse, chunks=(1,) * (coarse.ndim - 2) + (16, 16))
        scale = [1.0 if a == "c" else float(factor) for a in axes]
        steps = [{"type": "scale", "scale": scale}]
        datasets.append({"path": level, "coordinateTransformations": steps})
    listed = [{"name": a, "type": "channel" if a == "c" else "space"} for a in axes]
    metadata: dict[str, Any] = {"multiscales": [{"axes": listed, "datasets": datasets}]}
    if kind == "images":
        metadata["omero"] = {"channels": [{"label": n} for n in NAMES]}
    group.attrs["ome"] = metadata


def test_the_level_of_the_labels_is_the_one_of_the_images_shape(tmp_path: Path) -> None:
    path = tmp_path / "i.zarr"
    pyramid(path, {"0": 2, "1": 4})
    pyramid(path, {"0": 1, "1": 2, "2": 4, "3": 8}, "labels/cells", "labels")
    for level, step in ((0, 2), (1, 4)):
        raster = open_raster(path, level=level)
        np.testing.assert_array_equal(raster.image[...], pixels()[:, ::step, ::step])
        np.testing.assert_array_equal(raster.labels[...], cells()[::step, ::step])
    assert "(level 1 is used)" in "\n".join(survey(str(path)).lines)
    info = describe(path, labels_level=1)
    np.testing.assert_array_equal(open_described(info).labels[...], cells()[::2, ::2])
    with pytest.raises(hc.InputError, match=r"do not lie on the image: scaled by y 0\.5, x 0\.5"):
        open_raster(path, labels_level=0)
    with pytest.raises(hc.InputError, match="no level 4; there are 0 to 3"):
        open_raster(path, labels_level=4)


def test_labels_of_no_level_that_fits_say_which_they_have(tmp_path: Path) -> None:
    path = tmp_path / "i.zarr"
    pyramid(path, {"full": 1})
    pyramid(path, {"half": 2, "quarter": 4}, "labels/cells", "labels")
    with pytest.raises(
        hc.InputError,
        match=r"do not cover the same pixels as the image, 40 x 50, .*half \(20 x 25\), quarter",
    ):
        open_raster(path)


def test_labels_of_several_levels_that_fit_ask_for_one(tmp_path: Path) -> None:
    path = tmp_path / "i.zarr"
    pyramid(path, {"full": 1})
    pyramid(path, {"half": 2, "one": 1, "two": 1}, "labels/cells", "labels")
    with pytest.raises(hc.InputError, match="levels one, two all have the image's pixels; choose"):
        open_raster(path)
    assert_is_whole(open_raster(path, labels_level="two"))


@pytest.mark.parametrize("level", ["coarse", 1, "1"])
def test_a_level_is_named_as_the_metadata_do_or_by_number(level: Any, tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    raster = open_described(describe(tmp_path / "i.zarr", level=level))
    np.testing.assert_array_equal(raster.image[...], pixels()[:, ::2, ::2])
    assert raster.channels == NAMES
    with pytest.raises(hc.InputError, match=r"no level 2; there are 0 to 1 \(fine, coarse\)"):
        open_raster(tmp_path / "i.zarr", level="2")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_level_that_is_named_by_its_path_keeps_names_and_placement(
    version: str, tmp_path: Path
) -> None:
    ome_zarr(tmp_path / "i.zarr", version)
    raster = open_raster(tmp_path / "i.zarr", "coarse", "cells")
    np.testing.assert_array_equal(raster.image[...], pixels()[:, ::2, ::2])
    np.testing.assert_array_equal(raster.labels[...], cells()[::2, ::2])
    assert raster.channels == NAMES
    raster = open_raster(tmp_path / "i.zarr", "coarse", "labels/cells/coarse")
    assert raster.labels.shape == (20, 25)
    with pytest.raises(hc.InputError, match="a level of its image; leave level out"):
        open_raster(tmp_path / "i.zarr", "fine", "cells", level=1)


def test_levels_that_have_a_path_of_several_parts_are_found(tmp_path: Path) -> None:
    pyramid(tmp_path / "i.zarr", {"s/0": 1, "s/1": 2}, "he")
    labels = labelled(tmp_path, np.ascontiguousarray(cells()[::2, ::2]))
    raster = open_raster(tmp_path / "i.zarr", "he/s/1", labels)
    assert raster.channels == NAMES
    assert raster.image.shape == (3, 20, 25)


# Versions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3"])
def test_older_ome_zarr_is_opened_by_the_order_that_they_specify(
    version: str, tmp_path: Path
) -> None:
    """Stores without names of axes (0.1 and 0.2), and with names alone (0.3)."""
    root = zarr.open_group(tmp_path / "i.zarr", mode="w", zarr_format=2)
    for name, values in (
        ("", pixels((1, 3, 1, 40, 50))),
        ("labels/cells", cells((1, 1, 1, 40, 50))),
    ):
        group = root.require_group(name) if name else root
        group.create_array("0", data=values, chunks=(1, 1, 1, 16, 16))
        found: dict[str, Any] = {"version": version, "datasets": [{"path": "0"}]}
        if version == "0.3":
            found["axes"] = [*"tczyx"]
        group.attrs["multiscales"] = [found]
    root["labels"].attrs["labels"] = ["cells"]
    root.attrs["omero"] = {"channels": [{"label": name} for name in NAMES]}
    raster = open_raster(tmp_path / "i.zarr")
    assert raster.channels == NAMES
    assert_measured(raster, pixels()[:, None])


def test_axes_that_nothing_names_are_asked_for(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "i.zarr", mode="w", zarr_format=2)
    root.create_array("0", data=pixels())
    root.attrs["multiscales"] = [{"datasets": [{"path": "0"}]}]
    labels = labelled(tmp_path)
    with pytest.raises(hc.InputError, match=r"3 axes, and nothing names them.*axes: cyx"):
        open_raster(tmp_path / "i.zarr", labels=labels)
    assert_measured(open_raster(tmp_path / "i.zarr", labels=labels, axes="cyx"), pixels())
