"""Several windows in one read, resampled and turned, against SciPy on the whole image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Case, as_form, counted_reads, threads, tiles_of
from crop_cases import assert_refused_in_one_line, extracted, tissue, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import crops as cropped
from oracle import longest_axis, sampled_crops

import harpy_core as hc


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushes take long on a slow disk, and say nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def assert_sampled(found: hc.Crops, expected: dict[int, np.ndarray]) -> None:
    """Integers are the nearest to what SciPy gives, floats agree to the last few digits."""
    assert sorted(found.instance_id.tolist()) == sorted(expected)
    whole = found.image.dtype.kind in "iu"
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        tolerance = 0.5 + 1e-6 if whole else 1e-6 * max(1.0, float(np.abs(expected[label]).max()))
        np.testing.assert_allclose(
            crop.astype("f8"), expected[label], rtol=0, atol=tolerance, err_msg=str(label)
        )


STEPS = {
    "as it is": (1.0, 1.0),
    "finer": (0.4, 0.4),
    "half": (2.0, 2.0),
    "coarser": (2.3, 2.3),
    "oblong pixels": (1.5, 3.0),
}


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("remove_background", [True, False])
@pytest.mark.parametrize("step", STEPS)
def test_crops_are_those_that_scipy_samples_from_the_whole_image(
    step: str, remove_background: bool, rotate: bool, tmp_path: Path
) -> None:
    case, (y, x) = tissue(), STEPS[step]
    spacing = (0.5, 0.5 * y / x)
    found = extracted(
        case,
        tmp_path,
        "zarr",
        diameter=[9, 12],
        batch_size=4,
        remove_background=remove_background,
        resolution=0.5 * y,
        spacing=spacing,
        rotate=rotate,
    )
    turned = None
    if rotate and y == x:
        turned = longest_axis(case.labels)
    elif rotate:
        turned = dict(zip(found.instance_id.tolist(), found.angle.tolist(), strict=True))
    expected = sampled_crops(case.image, case.labels, [9, 12], remove_background, (y, x), turned)
    assert_sampled(found, expected)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "f2", "f4", "f8"])
def test_every_type_of_pixel_is_interpolated_and_rounded_once(dtype: str, tmp_path: Path) -> None:
    case = tissue("f8")
    image = (case.image % 120 - 60 * (np.dtype(dtype).kind != "u")).astype(dtype)
    case = Case(image, case.labels, case.image_chunks, case.label_chunks, 1)
    found = extracted(case, tmp_path, diameter=8, resolution=1.3, spacing=(1, 1))
    assert found.image.dtype == image.dtype
    expected = sampled_crops(image, case.labels, 8, True, (1.3, 1.3))
    if dtype == "f2":
        expected = {label: crop.astype("f2").astype("f8") for label, crop in expected.items()}
        for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
            np.testing.assert_allclose(crop.astype("f8"), expected[label], rtol=1e-3, atol=1e-3)
        return
    assert_sampled(found, expected)


def test_interpolated_pixels_are_scaled_before_they_are_rounded(tmp_path: Path) -> None:
    case, options = tissue(), {"dtype": "float32", "scale": 1 / 65535}
    found = extracted(case, tmp_path, diameter=8, resolution=3, spacing=(2, 2), **options)
    expected = sampled_crops(case.image, case.labels, 8, True, (1.5, 1.5))
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_allclose(crop, expected[label] / 65535, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("rotate", [False, True])
def test_masks_take_the_nearest_pixel(rotate: bool, tmp_path: Path) -> None:
    case = tissue()
    found = extracted(
        case,
        tmp_path,
        diameter=14,
        resolution=0.9,
        spacing=(0.5, 0.5),
        rotate=rotate,
        extract_mask=True,
    )
    turned = longest_axis(case.labels) if rotate else None
    ones = np.ones((1, *case.labels.shape))
    expected = sampled_crops(ones, case.labels, 14, True, (1.8, 1.8), turned, order=0)
    # A centre between two pixels may round either way.
    different = sum(
        int((mask != expected[label]).sum())
        for label, mask in zip(found.instance_id.tolist(), found.mask[...], strict=True)
    )
    assert different <= (0 if not rotate else 0.001 * found.mask.size)


@pytest.mark.parametrize("padding", [0, 700])
def test_what_lies_outside_the_image_is_filled_before_it_is_sampled(
    padding: int, tmp_path: Path
) -> None:
    case = tissue()
    found = extracted(
        case,
        tmp_path,
        diameter=30,
        resolution=1,
        spacing=(0.7, 0.7),
        rotate=True,
        remove_background=False,
        padding=padding,
    )
    step = round(1 / 0.7, 9)
    turned = longest_axis(case.labels)
    assert_sampled(
        found,
        sampled_crops(case.image, case.labels, 30, False, (step, step), turned, padding),
    )


# What does not change a byte ----------------------------------------------------------------------


@pytest.mark.parametrize("diameter", [9, 12])
def test_crops_at_the_resolution_of_the_image_are_its_pixels(diameter: int, tmp_path: Path) -> None:
    case = tissue("f4")
    found = extracted(case, tmp_path, diameter=diameter, resolution=0.325, spacing=(0.325, 0.325))
    expected = cropped(case.image, case.labels, diameter, True)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])


def test_an_instance_without_a_longest_axis_is_not_turned(tmp_path: Path) -> None:
    labels = np.zeros((40, 40), "u1")
    labels[5:12, 4:11] = 1
    labels[20, 20] = 2
    y, x = np.indices(labels.shape)
    labels[(y - 29) ** 2 + (x - 9) ** 2 < 40] = 3
    image = np.random.default_rng(0).integers(0, 200, (2, 40, 40)).astype("u1")
    found = hc.extract_instances(image, labels, tmp_path / "crops", diameter=10, rotate=True)
    assert not found.angle.any()
    for label, crop in cropped(image, labels, 10, True).items():
        np.testing.assert_array_equal(found[label], crop)


@pytest.mark.parametrize("degrees", [-80, -30, 0, 45, 60, 90])
def test_a_bar_lies_along_x(degrees: int, tmp_path: Path) -> None:
    y, x = np.indices((81, 81)) - 40
    way = np.deg2rad(degrees)
    along, across = x * np.cos(way) + y * np.sin(way), y * np.cos(way) - x * np.sin(way)
    labels = ((abs(along) < 25.5) & (abs(across) < 4.5)).astype("u1")
    found = hc.extract_instances(
        labels[np.newaxis] * 100,
        labels,
        tmp_path / "crops",
        diameter=61,
        rotate=True,
        extract_mask=True,
    )
    np.testing.assert_allclose(found.angle, way, atol=0.02)
    rows, columns = np.nonzero(np.asarray(found.mask[0, 0, 0]))
    assert np.ptp(rows) <= 10
    assert np.ptp(columns) >= 48


def test_the_sides_of_pixels_turn_windows_with_a_resolution_alone(tmp_path: Path) -> None:
    y, x = np.indices((81, 81)) - 40
    labels = ((abs(x + y) < 36) & (abs(x - y) < 6)).astype("u1")
    image = labels[np.newaxis]
    options: dict[str, Any] = {"diameter": 61, "rotate": True, "spacing": [1.0, 3.0]}
    plain = hc.extract_instances(image, labels, tmp_path / "plain", **options)
    np.testing.assert_allclose(plain.angle, np.pi / 4, atol=1e-9)
    sampled = hc.extract_instances(image, labels, tmp_path / "sampled", resolution=1.0, **options)
    places = np.stack([np.nonzero(labels)[1] * 3.0, np.nonzero(labels)[0]])
    values, axes = np.linalg.eigh(np.cov(places))
    longest = axes[:, values.argmax()]
    np.testing.assert_allclose(np.tan(sampled.angle), longest[1] / longest[0], 1e-9)


SAMPLED: dict[str, Any] = {
    "diameter": 11,
    "resolution": 0.8,
    "spacing": [0.5, 0.5],
    "rotate": True,
    "windows": {"context": {"diameter": 16, "resolution": 2.0}},
    "extract_mask": True,
}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, hc.Crops]:
    """Tissue, and its crops cut from the whole image."""
    case = tissue()
    folder = tmp_path_factory.mktemp("sampled")
    return case, hc.extract_instances(case.image, case.labels, folder / "whole", **SAMPLED)


@settings(max_examples=12)
@given(
    chunks=st.tuples(st.sampled_from([1, 2, 5]), st.integers(7, 60), st.integers(7, 60)),
    tile=st.sampled_from([1, 600, 10**6]),
    form=st.sampled_from(["zarr", "dask"]),
    number=st.sampled_from([1, 3]),
    engine=st.sampled_from(["numba", "numpy"]),
)
def test_crops_are_the_same_for_every_chunking_engine_and_number_of_threads(
    chunks: tuple[int, int, int],
    tile: int,
    form: str,
    number: int,
    engine: str,
    sampled: tuple[Any, hc.Crops],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    case, whole = sampled
    folder = tmp_path_factory.mktemp("crops")
    image = as_form(form, case.image, chunks, folder)
    labels = as_form(form, case.labels, chunks[1:], folder, "labels")
    with threads(number), tiles_of(tile):
        parts = hc.extract_instances(
            image, labels, folder / "parts", batch_size=3, engine=engine, **SAMPLED
        )
    for window in (None, "context"):
        one, other = (hc.open_crops(found.path, window) for found in (whole, parts))
        order = np.argsort(other.instance_id)[np.argsort(np.argsort(one.instance_id))]
        np.testing.assert_array_equal(one.angle, other.angle[order])
        np.testing.assert_array_equal(one.image[...], other.image[...][order])
        np.testing.assert_array_equal(one.mask[...], other.mask[...][order])


# Several windows ----------------------------------------------------------------------------------

WINDOWS: dict[str, Any] = {"context": {"diameter": [33, 20]}, "core": {"diameter": 5}}


@pytest.mark.parametrize("padding", [0, "reflect"])
def test_each_window_is_what_it_would_be_alone(padding: int | str, tmp_path: Path) -> None:
    case = tissue()
    options: dict[str, Any] = {
        "batch_size": 4,
        "remove_background": False,
        "padding": padding,
        "extract_mask": True,
        "neighbor_mask": True,
    }
    found = extracted(case, tmp_path, "zarr", diameter=12, windows=WINDOWS, **options)
    alone = {None: 12, **{name: window["diameter"] for name, window in WINDOWS.items()}}
    for name, diameter in alone.items():
        other = hc.extract_instances(
            case.image, case.labels, tmp_path / str(name), diameter=diameter, **options
        )
        mine = found if name is None else found.window(name)
        assert mine.diameter == diameter
        np.testing.assert_array_equal(mine[mine.instance_id], other[mine.instance_id])
        order = np.argsort(other.instance_id)[np.argsort(np.argsort(mine.instance_id))]
        np.testing.assert_array_equal(mine.mask[...], other.mask[...][order])


def test_all_windows_come_from_one_read_and_are_the_same_for_any_number_of_threads(
    tmp_path: Path,
) -> None:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    trees = []
    for number in (1, 4):
        target = tmp_path / f"crops{number}"
        with threads(number), tiles_of(1), counted_reads(image) as reads:
            hc.extract_instances(
                image, case.labels, target, diameter=9, batch_size=4, rotate=True, windows=WINDOWS
            )
        assert set(reads.values()) == {1}
        trees.append(tree(target))
    assert trees[0] == trees[1]


@pytest.mark.parametrize("way", [{}, {"shard_size": 8}, {"shuffle": 3, "codec": "zstd"}])
def test_windows_are_kept_in_every_way(way: dict[str, Any], tmp_path: Path) -> None:
    case = tissue()
    found = extracted(case, tmp_path, "zarr", diameter=9, batch_size=4, windows=WINDOWS, **way)
    expected = cropped(case.image, case.labels, [33, 20], True)
    context = found.window("context")
    for label, crop in zip(context.instance_id.tolist(), context.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])


def test_what_reads_crops_reads_any_window(tmp_path: Path) -> None:
    found = extracted(tissue(), tmp_path, diameter=9, windows=WINDOWS)
    context = found.window("context")
    batches = hc.CropBatches(context, batch_size=7, shuffle=False)
    pixels = np.concatenate([batch.image for batch in batches.batches()])
    np.testing.assert_array_equal(pixels, context.image[...])
    written = hc.export_crops(context, tmp_path / "images", "images")
    assert len(list(written.iterdir())) == len(found)
    assert context.digest != found.digest
    own = hc.embed(found, _brightness, tmp_path / "own", batch_size=16)
    wide = hc.embed(context, _brightness, tmp_path / "wide", batch_size=16)
    name = next(iter(own.obsm))
    np.testing.assert_allclose(
        wide.obsm[name][:, 0] * 65535,
        context.image[...].sum(axis=(1, 2, 3, 4), dtype="f8"),
        rtol=1e-4,
    )
    assert np.any(wide.obsm[name] != own.obsm[name])


def _brightness(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).sum(axis=1, dtype="f4")[:, np.newaxis]


# What cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resolution": 0.5}, r"resolution = 0.5: nothing tells how large a pixel .* spacing ="),
        ({"resolution": 0, "spacing": (1, 1)}, "resolution = 0: give a number of micrometres"),
        ({"resolution": 1, "spacing": (1, -1)}, r"spacing = -1: spacing is a list of positive"),
        ({"windows": {"wide": {}}}, "windows.wide = {}: windows are a mapping of a name"),
        ({"windows": {"wi de": {"diameter": 3}}}, "windows.wi de = .* are a mapping of a name"),
        ({"windows": {"w": {"diamter": 3}}}, r"windows.w.diamter = 3: .*did you mean diameter"),
        ({"windows": {"w": {"diameter": 0}}}, r"windows.w.diameter = 0: a window must be at least"),
        ({"resolution": 1e4, "spacing": (1, 1)}, "diameter = 50: what is gathered for a crop"),
        ({"windows": {"w": {"diameter": 3, "resolution": 2}}}, "give the crops a resolution too"),
        ({"windows": {"w": {"diameter": [1, 3, 3]}}}, "give all windows planes, .* or none"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert_refused_in_one_line(options, told, tmp_path)


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "told"),
    [
        ((1, 3, 9, 9), "u1", {"rotate": True}, "rotate = True: windows of 3 planes"),
        ((1, 9, 9), "u8", {"rotate": True}, "uint64 pixels cannot be interpolated exactly"),
    ],
)
def test_images_that_cannot_be_sampled_are_refused_in_one_line(
    shape: tuple[int, ...], dtype: str, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    image = np.ones(shape, dtype)
    with pytest.raises(hc.InputError, match=told):
        hc.extract_instances(image, np.ones(shape[1:], "u1"), tmp_path / "crops", **options)
    assert not any(tmp_path.iterdir())


def test_a_window_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    found = extracted(tissue(), tmp_path, diameter=9, windows=WINDOWS)
    with pytest.raises(hc.InputError, match="'wide': no such window; there are context, core"):
        found.window("wide")
