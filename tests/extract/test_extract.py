"""Crops against an oracle, and against everything that can go wrong while they are written."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from cases import FORMS, PIXELS, Case, as_form, cases, counted_reads, threads, tiles_of
from crop_cases import OPTIONS, extracted, tissue, tree
from hypothesis import given
from hypothesis import strategies as st
from oracle import crops as cropped
from oracle import geometry, labels_in

import harpy_core as hc
from harpy_core.raster.views import ChannelView

if TYPE_CHECKING:
    from distributed import Client


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of flushes take a minute on a slow disk, and say nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@given(
    case=cases(),
    form=st.sampled_from(FORMS),
    labels_form=st.sampled_from(FORMS),
    diameter=st.sampled_from([1, 2, 5, 8, 40, [3, 8], [2, 7, 5], [5, 1, 40]]),
    batch_size=st.sampled_from([1, 3, 100]),
    remove_background=st.booleans(),
    engine=st.sampled_from(["numba", "numpy"]),
)
def test_crops_are_those_of_the_oracle(
    case: Case,
    form: str,
    labels_form: str,
    diameter: int | list[int],
    batch_size: int,
    remove_background: bool,
    engine: str,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = extracted(
            case,
            folder,
            form,
            labels_form,
            diameter=diameter,
            batch_size=batch_size,
            remove_background=remove_background,
            extract_mask=True,
            engine=engine,
        )
        expected = cropped(case.image, case.labels, diameter, remove_background)
        ones = np.ones((1, *case.labels.shape), "u1")
        masks = cropped(ones, case.labels, diameter, True)
        assert sorted(found.instance_id.tolist()) == sorted(expected)
        assert found.image.dtype == case.image.dtype
        images, in_mask = np.asarray(found.image[...]), np.asarray(found.mask[...])
    depth = case.labels.shape[0] if case.labels.ndim == 3 else 1
    *planes, tall, wide = [diameter, diameter] if isinstance(diameter, int) else diameter
    assert images.shape[1:] == (len(case.image), *(planes or [depth]), tall, wide)
    for row, label in enumerate(found.instance_id.tolist()):
        np.testing.assert_array_equal(images[row], expected[label], err_msg=str(label))
        np.testing.assert_array_equal(in_mask[row], masks[label], err_msg=str(label))
    _, centroid, _ = geometry(case.labels)
    place = np.searchsorted(labels_in(case.labels), found.instance_id)
    np.testing.assert_allclose(found.centroid, centroid[place], rtol=1e-12)


@pytest.mark.parametrize("remove_background", [True, False])
def test_the_store_is_byte_for_byte_the_same_for_every_number_of_threads(
    tmp_path: Path, remove_background: bool
) -> None:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    trees = []
    for number in (1, 2, 4, 9):
        target = tmp_path / f"crops{number}"
        with threads(number), tiles_of(1):
            hc.extract_instances(
                image, case.labels, target, remove_background=remove_background, **OPTIONS
            )
        trees.append(tree(target))
    assert trees[0]
    assert all(other == trees[0] for other in trees[1:])


@pytest.mark.parametrize("form", ["numpy", "zarr", "dask"])
def test_the_store_is_byte_for_byte_the_same_on_workers(
    form: str, client: Client, tmp_path: Path
) -> None:
    case = tissue()
    image = as_form(form, case.image, case.image_chunks, tmp_path)
    labels = as_form(form, case.labels, case.label_chunks, tmp_path, "labels")
    options = {"diameter": 13, "batch_size": 10}
    with tiles_of(1):
        hc.extract_instances(image, labels, tmp_path / "here", **options)
        hc.extract_instances(image, labels, tmp_path / "there", client=client, **options)
    assert tree(tmp_path / "here") == tree(tmp_path / "there")


@pytest.mark.parametrize("remove_background", [True, False])
def test_the_content_is_the_same_for_every_chunking(
    tmp_path: Path, remove_background: bool
) -> None:
    case = tissue()
    contents = []
    for number, (chunks, tile) in enumerate(
        [((5, 60, 60), 10**6), ((1, 7, 9), 1), ((2, 16, 60), 600), ((5, 60, 3), 1)]
    ):
        image = as_form("zarr", case.image, chunks, tmp_path)
        with tiles_of(tile):
            found = hc.extract_instances(
                image,
                case.labels,
                tmp_path / f"crops{number}",
                remove_background=remove_background,
                **OPTIONS,
            )
        contents.append(found[labels_in(case.labels)])
    for content in contents[1:]:
        np.testing.assert_array_equal(content, contents[0])


@pytest.mark.parametrize("remove_background", [True, False])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("diameter", [5, 35])
def test_each_image_chunk_is_decoded_once_though_windows_cross_tiles(
    tmp_path: Path, remove_background: bool, number: int, diameter: int
) -> None:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    with threads(number), tiles_of(1), counted_reads(image) as reads:
        hc.extract_instances(
            image,
            case.labels,
            tmp_path / "crops",
            diameter=diameter,
            batch_size=3,
            remove_background=remove_background,
            extract_mask=True,
        )
    assert set(reads.values()) == {1}
    assert len(reads) == 3 * 4 * 4


def test_a_chunk_that_holds_several_chosen_channels_is_decoded_once(tmp_path: Path) -> None:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    view = ChannelView(image, (0, 2, 3))
    with tiles_of(1), counted_reads(image) as reads:
        found = hc.extract_instances(view, case.labels, tmp_path / "crops", **OPTIONS)
    assert set(reads.values()) == {1}
    expected = cropped(case.image[[0, 2, 3]], case.labels, 13, True)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])


def test_blocks_of_a_lazy_image_are_computed_once(tmp_path: Path) -> None:
    case = tissue()
    computed: list[int] = []

    def once(block: np.ndarray) -> np.ndarray:
        computed.append(1)
        return block

    lazy = da.from_array(case.image, (2, 16, 16))
    lazy = lazy.map_blocks(once, dtype="u2", meta=np.empty(0, "u2"))
    with tiles_of(1):
        hc.extract_instances(lazy, case.labels, tmp_path / "crops", **OPTIONS)
    assert len(computed) == 3 * 4 * 4


WAYS: dict[str, dict[str, Any]] = {
    "as they stand": {},
    "zstd": {"codec": "zstd"},
    "uncompressed": {"codec": "none"},
    "shards": {"shard_size": 12},
    "one shard": {"shard_size": 400},
    "shuffled": {"shuffle": 7},
    "shuffled in shards": {"shuffle": 0, "shard_size": 8, "codec": "zstd"},
    "float16": {"dtype": "float16", "scale": 1 / 65535},
    "float32 in shards": {"dtype": "float32", "scale": 0.37, "shard_size": 8},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("remove_background", [True, False])
@pytest.mark.parametrize("form", ["zarr", "dask"])
def test_every_way_of_keeping_crops_holds_the_same_crops(
    way: str, remove_background: bool, form: str, tmp_path: Path
) -> None:
    case = tissue()
    options = {**OPTIONS, **WAYS[way], "remove_background": remove_background}
    with tiles_of(1):
        found = extracted(case, tmp_path, form, **options)
    expected = cropped(case.image, case.labels, 13, remove_background)
    masks = cropped(np.ones((1, *case.labels.shape), "u1"), case.labels, 13, True)
    dtype, scale = options.get("dtype", "uint16"), options.get("scale")
    assert found.image.dtype == dtype
    assert found.image.chunks[0] == 4
    assert found.image.shards == (
        (options["shard_size"], *found.image.chunks[1:]) if "shard_size" in options else None
    )
    assert sorted(found.instance_id.tolist()) == sorted(expected)
    images, in_mask = np.asarray(found.image[...]), np.asarray(found.mask[...])
    for row, label in enumerate(found.instance_id.tolist()):
        crop = expected[label]
        kept = crop if scale is None else (crop.astype("f8") * scale).astype(dtype)
        np.testing.assert_array_equal(images[row], kept)
        np.testing.assert_array_equal(in_mask[row], masks[label])


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_bytes_for_every_number_of_threads(
    way: str, tmp_path: Path
) -> None:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    trees = []
    for number in (1, 5):
        target = tmp_path / f"crops{number}"
        with threads(number), tiles_of(1), counted_reads(image) as reads:
            hc.extract_instances(image, case.labels, target, **OPTIONS, **WAYS[way])
        assert set(reads.values()) == {1}
        trees.append(tree(target))
    assert trees[0] == trees[1]


def test_a_shuffle_is_a_random_order_that_its_seed_decides(tmp_path: Path) -> None:
    case = tissue()
    orders = [
        hc.extract_instances(
            case.image, case.labels, tmp_path / str(number), shuffle=seed, **OPTIONS
        ).instance_id.tolist()
        for number, seed in enumerate((3, 3, 4))
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) != orders[0]
    seeded = np.random.Generator(np.random.PCG64(3)).permutation(len(orders[0]))
    assert orders[0] == np.sort(orders[0])[seeded].tolist()


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "i4", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_scaled_pixels_are_rounded_once(dtype: str, stored: str, tmp_path: Path) -> None:
    case = tissue()
    image = (case.image % 251).astype(dtype)
    scale = {"u8": 1e-17, "i4": 1e-6}.get(dtype, 1e-3 / 3)
    found = hc.extract_instances(
        image, case.labels, tmp_path / "crops", dtype=stored, scale=scale, **OPTIONS
    )
    expected = cropped(image, case.labels, 13, True)
    assert found.attributes["scale"] == scale
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        product = (expected[label].astype("f8") * scale).astype(stored)
        np.testing.assert_array_equal(crop, product)


def test_labels_choose_instances(tmp_path: Path) -> None:
    case = tissue()
    some = labels_in(case.labels)[5:20:4]
    found = hc.extract_instances(
        case.image, case.labels, tmp_path / "c", index=[*some[::-1], some[0]], **OPTIONS
    )
    assert sorted(found.instance_id) == sorted(some)
    expected = cropped(case.image, case.labels, 13, True)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])


def test_some_instances_can_be_chosen(tmp_path: Path) -> None:
    case = tissue()
    every = hc.find_instances(case.labels)
    some = type(every)(*(getattr(every, name)[5:12:3] for name in every.__slots__))
    found = hc.extract_instances(case.image, case.labels, tmp_path / "c", instances=some, **OPTIONS)
    assert sorted(found.instance_id) == sorted(some.id)
    expected = cropped(case.image, case.labels, 13, True)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])


def test_the_store_says_how_it_was_made(tmp_path: Path) -> None:
    case = tissue()
    found = extracted(case, tmp_path, "zarr", channels=list("abcde"), **OPTIONS)
    assert found.channels == list("abcde")
    assert found.diameter == 13
    assert found.attributes["remove_background"] is True
    assert found.attributes["parameters"]["batch_size"] == 4
    assert found.attributes["versions"]["harpy_core"] == hc.__version__
    assert found.image.chunks == (4, 2, 1, 13, 13)
    assert len(found.attributes["source"]) == len(found.digest) == 64


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    case = tissue()
    options = {"diameter": 13, "batch_size": 4}
    digests = []
    for number, pixel in enumerate([1, 1, 2]):
        image = case.image.copy()
        image[:, case.labels == case.labels.max()] = pixel
        target = tmp_path / str(number)
        digests.append(hc.extract_instances(image, case.labels, target, **options).digest)
    assert digests[0] == digests[1] != digests[2]


IMAGE = np.zeros((2, 6, 6), "u2")
LABELS = np.eye(6, dtype="i4")


@pytest.mark.parametrize(
    ("labels", "options", "told"),
    [
        (LABELS, {"diameter": 0}, "diameter = 0: a window must be at least 1 pixel"),
        (LABELS, {"batch_size": 0}, "batch_size = 0"),
        (LABELS, {"shard_size": 700}, "shard_size = 700: give a multiple of batch_size, 500"),
        (LABELS, {"shard_size": 0}, "shard_size = 0: give a multiple"),
        (LABELS, {"batch_size": 10**6}, "codecs take at most .* give at most 4"),
        (LABELS, {"codec": "lzma"}, "codec = 'lzma': choose from lz4, zstd, none"),
        (LABELS, {"shuffle": -1}, "shuffle = -1: a seed"),
        (LABELS, {"dtype": "float16"}, "give both, such as dtype='float16', scale=1/65535"),
        (LABELS, {"scale": 0.5}, "give both"),
        (LABELS, {"dtype": "int8", "scale": 1.0}, "dtype = 'int8': choose float16, float32"),
        (LABELS, {"dtype": "float32", "scale": -1.0}, "scale = -1.0: give a number above 0"),
        (LABELS, {"dtype": "float16", "scale": 1.0}, "largest is 65504; give at most 0.999"),
        (LABELS, {"index": [1, 7]}, "1 of 2 labels are not in the segmentation, the first is 7"),
        (LABELS, {"index": [0]}, "index: labels are positive"),
        (LABELS, {"channels": ["a"]}, "1 names for an image of 2 channels"),
        (LABELS, {"engine": "gpu9"}, "not an engine"),
        (LABELS[1:], {}, "do not cover the same pixels"),
        (LABELS.astype("f8") / 2, {}, "labels are float64"),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(
    labels: np.ndarray, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told) as error:
        hc.extract_instances(IMAGE, labels, tmp_path / "crops", **options)
    assert isinstance(error.value, hc.InputError)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_image_without_instances_gives_an_empty_store(tmp_path: Path) -> None:
    for number, labels in enumerate([LABELS * 0, LABELS[:0]]):
        target = tmp_path / str(number)
        image = IMAGE[:, : len(labels)]
        found = hc.extract_instances(image, labels, target, diameter=5, extract_mask=True)
        assert found.image.shape == (0, 2, 1, 5, 5)
        assert len(found) == 0


@pytest.mark.parametrize("dtype", PIXELS)
@pytest.mark.parametrize("remove_background", [True, False])
def test_crops_have_the_pixel_type_of_the_image(
    dtype: str, remove_background: bool, tmp_path: Path
) -> None:
    case = tissue()
    image = (case.image % 251).astype(np.dtype(dtype).newbyteorder(">"))
    if dtype[0] == "f":
        image[0, ::3] = np.nan
        image[1, ::3] = -0.0
    with tiles_of(1):
        found = hc.extract_instances(
            as_form("zarr", image, (2, 16, 16), tmp_path),
            case.labels,
            tmp_path / "crops",
            remove_background=remove_background,
            diameter=13,
            batch_size=4,
        )
    assert found.image.dtype == np.dtype(dtype)
    expected = cropped(image, case.labels, 13, remove_background)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label])
        if dtype[0] == "f":
            np.testing.assert_array_equal(np.signbit(crop[1]), np.signbit(expected[label][1]))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_float_pixels_that_a_scale_makes_infinite_are_refused(dtype: str, tmp_path: Path) -> None:
    image, options = IMAGE.astype("f8"), {"diameter": 3, "dtype": dtype}
    image[0, 2, 2] = np.inf
    image[1, 3, 3] = largest = float(np.finfo(dtype).max) * 2
    told = f"scale = 1.0: a pixel of {largest:g} times that is too large for {dtype}"
    with pytest.raises(hc.InputError, match=f"{re.escape(told)}.*at most 0.5"):
        hc.extract_instances(image, LABELS, tmp_path / "a", scale=1.0, **options)
    found = hc.extract_instances(image, LABELS, tmp_path / "b", scale=0.5, **options)
    assert np.isinf(found.image[0, 0, 0, 1, 1])
    assert found.image[0, 1, 0, 2, 2] == np.finfo(dtype).max
