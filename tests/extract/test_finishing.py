"""What lies outside the image, and the masks of neighbours, against NumPy on the whole image."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import FORMS, Case, as_form, cases, counted_reads, threads, tiles_of
from crop_cases import assert_refused_in_one_line, extracted, tissue, tree
from hypothesis import given
from hypothesis import strategies as st
from oracle import crops as cropped
from oracle import neighbor_masks

import harpy_core as hc


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushes take long on a slow disk, and say nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def assert_crops(found: hc.Crops, expected: dict[int, np.ndarray]) -> None:
    assert sorted(found.instance_id.tolist()) == sorted(expected)
    for label, crop in zip(found.instance_id.tolist(), found.image[...], strict=True):
        np.testing.assert_array_equal(crop, expected[label], err_msg=str(label))


@given(
    case=cases(),
    form=st.sampled_from(FORMS),
    padding=st.sampled_from(["edge", "reflect", "symmetric", 1, 0]),
    diameter=st.sampled_from([1, 3, 7, 41, [3, 9], [3, 7, 5], [5, 1, 41]]),
    batch_size=st.sampled_from([1, 3, 100]),
)
def test_padded_crops_are_cut_from_a_padded_image(
    case: Case, form: str, padding: str | int, diameter: int | list[int], batch_size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = extracted(
            case,
            folder,
            form,
            diameter=diameter,
            batch_size=batch_size,
            remove_background=False,
            padding=padding,
        )
        assert_crops(found, cropped(case.image, case.labels, diameter, False, padding))


@pytest.mark.parametrize("padding", ["edge", "symmetric"])
def test_padded_crops_with_an_even_side_are_cut_from_a_padded_image(
    padding: str, tmp_path: Path
) -> None:
    case = tissue()
    with tiles_of(1):
        found = extracted(
            case, tmp_path, "zarr", diameter=22, remove_background=False, padding=padding
        )
    assert_crops(found, cropped(case.image, case.labels, 22, False, padding))


def test_reflected_crops_with_an_even_side_continue_the_part_in_the_image(tmp_path: Path) -> None:
    labels = np.zeros((9, 9), "u1")
    labels[0, 4] = 1
    image = np.arange(81, dtype="u1").reshape(1, 9, 9)
    found = hc.extract_instances(
        image, labels, tmp_path / "crops", diameter=6, remove_background=False, padding="reflect"
    )
    expected = np.pad(image[:, :3, 1:7], ((0, 0), (3, 0), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(found[1][:, 0], expected)


@pytest.mark.parametrize("padding", [0, 0.1])
def test_a_number_is_scaled_as_pixels_are(padding: float, tmp_path: Path) -> None:
    case = tissue("f4")
    options: dict[str, Any] = {"dtype": "float16", "scale": 1e-3}
    found = extracted(
        case, tmp_path, diameter=21, remove_background=False, padding=padding, **options
    )
    expected = cropped(case.image, case.labels, 21, False, padding)
    assert_crops(
        found, {label: (c.astype("f8") * 1e-3).astype("f2") for label, c in expected.items()}
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"padding": "edge"}, "padding = 'edge': outside an instance all is 0"),
        ({"padding": 3}, "padding = 3: outside an instance all is 0"),
        ({"padding": 70_000, "remove_background": False}, "whole numbers from 0 to 65535"),
        ({"padding": 0.5, "remove_background": False}, "whole numbers from 0 to 65535"),
        ({"padding": "wrap", "remove_background": False}, "choose edge, reflect or symmetric"),
        ({"neighbor_mask": True}, "neighbor_mask = True: .* set extract_mask too"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert_refused_in_one_line(options, told, tmp_path)


@pytest.mark.parametrize(("dtype", "padding"), [("f2", 70_000), ("f2", -70_000), ("f4", 1e39)])
def test_a_number_that_pixels_of_floats_cannot_have_is_refused(
    dtype: str, padding: float, tmp_path: Path
) -> None:
    with pytest.raises(hc.InputError, match=r"padding = .* pixels are numbers up to"):
        extracted(tissue(dtype), tmp_path, remove_background=False, padding=padding)
    assert not any(tmp_path.iterdir())


@given(
    case=cases(),
    form=st.sampled_from(FORMS),
    diameter=st.sampled_from([1, 4, 9, 40, [3, 8], [2, 7, 5]]),
    remove_background=st.booleans(),
    engine=st.sampled_from(["numba", "numpy"]),
)
def test_the_second_mask_is_of_all_other_instances(
    case: Case, form: str, diameter: int | list[int], remove_background: bool, engine: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = extracted(
            case,
            folder,
            form,
            diameter=diameter,
            batch_size=3,
            remove_background=remove_background,
            extract_mask=True,
            neighbor_mask=True,
            engine=engine,
        )
        assert_crops(found, cropped(case.image, case.labels, diameter, remove_background))
        masks = np.asarray(found.mask[...])
    others = neighbor_masks(case.labels, diameter)
    own = cropped(np.ones((1, *case.labels.shape), "u1"), case.labels, diameter, True)
    assert masks.shape[1] == 2
    for row, label in enumerate(found.instance_id.tolist()):
        np.testing.assert_array_equal(masks[row, 0], own[label][0], err_msg=str(label))
        np.testing.assert_array_equal(masks[row, 1], others[label], err_msg=str(label))


def test_neighbours_have_a_mask_though_they_have_no_crop(tmp_path: Path) -> None:
    case = tissue()
    chosen = np.unique(case.labels)[[3, 9]].tolist()
    found = extracted(
        case, tmp_path, diameter=30, extract_mask=True, neighbor_mask=True, index=chosen
    )
    others = neighbor_masks(case.labels, 30)
    assert sorted(found.instance_id.tolist()) == chosen
    for row, label in enumerate(found.instance_id.tolist()):
        assert others[label].any()
        np.testing.assert_array_equal(np.asarray(found.mask[row])[1], others[label])


@pytest.mark.parametrize("remove_background", [True, False])
def test_padding_and_masks_of_neighbours_read_nothing_twice_and_do_not_depend_on_threads(
    remove_background: bool, tmp_path: Path
) -> None:
    case = tissue()
    image = as_form("zarr", case.image, case.image_chunks, tmp_path)
    options: dict[str, Any] = {
        "diameter": 17,
        "batch_size": 4,
        "extract_mask": True,
        "neighbor_mask": True,
    }
    if not remove_background:
        options |= {"remove_background": False, "padding": "reflect"}
    trees = []
    for number in (1, 4):
        target = tmp_path / f"crops{number}"
        with threads(number), tiles_of(1), counted_reads(image) as reads:
            hc.extract_instances(image, case.labels, target, **options)
        assert set(reads.values()) == {1}
        trees.append(tree(target))
    assert trees[0] == trees[1]
    # The same crops where all is one tile.
    whole = hc.extract_instances(case.image, case.labels, tmp_path / "whole", **options)
    parts = hc.open_crops(tmp_path / "crops1")
    np.testing.assert_array_equal(whole[whole.instance_id], parts[whole.instance_id])


def test_training_takes_both_masks(tmp_path: Path) -> None:
    found = extracted(
        tissue(), tmp_path, diameter=30, batch_size=7, extract_mask=True, neighbor_mask=True
    )
    batches = hc.CropBatches(found, batch_size=9, mask=True, shuffle=False)
    masks = np.concatenate([batch.mask for batch in batches.batches()])
    np.testing.assert_array_equal(masks, found.mask[...])


def test_a_store_without_later_settings_records_none(tmp_path: Path) -> None:
    found = extracted(tissue(), tmp_path)
    assert "padding" not in found.attributes["parameters"]
    assert found.attributes["parameters"]["batch_size"] == 500
