"""Reading crops back, with harpy_core and without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

import harpy_core as hc
from harpy_core.extract.crops import Crops


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Twenty-five cells with labels from 10 to the largest there is."""
    numbers = [*range(10, 250, 10), 2**64 - 1]
    return np.repeat(np.repeat(np.array(numbers, "u8").reshape(5, 5), 7, 0), 7, 1)


@pytest.fixture(scope="module")
def crops(labels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Crops:
    """Crops whose pixels are their label's last byte in one channel, its rank in the other."""
    ranks = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    image = np.stack([labels % 251, ranks + 1]).astype("u2")
    path = tmp_path_factory.mktemp("crops") / "crops.zarr"
    return hc.extract_instances(
        image, labels, path, diameter=7, batch_size=4, extract_mask=True, channels=["byte", "rank"]
    )


def test_what_is_opened_is_what_was_extracted(crops: Crops) -> None:
    again = hc.open_crops(crops.path)
    assert len(again) == 25
    assert again.channels == ["byte", "rank"]
    assert again.diameter == 7
    assert again.digest == crops.digest
    np.testing.assert_array_equal(again.instance_id, crops.instance_id)
    np.testing.assert_array_equal(again.image[...], crops.image[...])
    assert again.mask is not None
    assert np.all(np.asarray(again.mask[...]) == 1)


def test_crops_are_given_by_label_in_the_order_asked_for(crops: Crops) -> None:
    one = crops[30]
    assert one.shape == (2, 1, 7, 7)
    assert np.all(one[1] == 3)
    some = crops[[240, 10, 2**64 - 1, 10]]
    assert some.shape == (4, 2, 1, 7, 7)
    assert some[:, 1, 0, 0, 0].tolist() == [24, 1, 25, 1]
    assert np.all(crops[2**64 - 1][0] == (2**64 - 1) % 251)
    assert crops[np.array([], "u8")].shape == (0, 2, 1, 7, 7)


@pytest.mark.parametrize("wanted", [7, [10, 11], 2**63, -10, 10.0, [True]])
def test_a_label_without_a_crop_is_told_in_one_line(wanted: object, crops: Crops) -> None:
    with pytest.raises(hc.InputError) as error:
        crops[wanted]
    assert "\n" not in str(error.value)


def test_batches_are_the_chunks_of_the_store(crops: Crops) -> None:
    batches = list(crops.batches())
    assert [len(ids) for ids, _ in batches] == [4] * 6 + [1]
    np.testing.assert_array_equal(np.concatenate([ids for ids, _ in batches]), crops.instance_id)
    for ids, images in batches:
        np.testing.assert_array_equal(images, crops[ids])


def test_the_store_is_read_by_plain_zarr(crops: Crops) -> None:
    group = zarr.open_group(crops.path, mode="r")
    assert set(group.array_keys()) == {"image", "mask", "instance_id", "centroid"}
    assert group.metadata.zarr_format == 3
    image, ids = group["image"], group["instance_id"]
    assert image.shape == (25, 2, 1, 7, 7)
    assert image.metadata.dimension_names == ("i", "c", "z", "y", "x")
    assert ids.dtype == np.uint64
    row = ids[...].tolist().index(120)
    assert np.all(image[row, 1] == 12)
    assert group["centroid"][row].tolist() == [0.0, 17.0, 10.0]
    assert group.attrs["channels"] == ["byte", "rank"]


def test_what_is_no_finished_store_is_told_in_one_line(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "other.zarr", mode="w").create_array("image", data=np.ones(3))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("nothing", "other.zarr", "folder", "file"):
        with pytest.raises(hc.InputError, match=f"{name}: no finished crops there") as error:
            hc.open_crops(tmp_path / name)
        assert "\n" not in str(error.value)
