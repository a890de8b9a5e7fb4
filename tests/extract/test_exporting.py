"""Crops in the layouts of other programs, read back by the libraries that these use."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import tifffile
from cases import Case
from crop_cases import extracted, files, tissue

import harpy_core as hc
from harpy_core.extract import exporting
from harpy_core.extract.crops import Crops


@pytest.fixture
def crops(tmp_path: Path) -> Crops:
    return extracted(tissue(), tmp_path, diameter=9, batch_size=4, extract_mask=True)


def classes(crops: Crops) -> dict[int, str]:
    return {int(i): "even" if i % 2 == 0 else "odd" for i in crops.instance_id}


def test_h5sc_has_the_mask_and_the_channels_as_scportrait_has_them(
    crops: Crops, tmp_path: Path
) -> None:
    place = hc.export_crops(crops, tmp_path / "single_cells.h5sc", "h5sc", labels=classes(crops))
    table = anndata.read_h5ad(place)
    images = table.obsm["single_cell_images"]
    assert images.shape == (len(crops), 6, 9, 9)
    assert images.dtype == np.float16
    np.testing.assert_array_equal(images[:, 0], crops.mask[:, 0, 0])
    expected = (np.asarray(crops.image[:, :, 0]) / 65535).astype(np.float16)
    np.testing.assert_array_equal(images[:, 1:], expected)
    np.testing.assert_array_equal(table.obs["scportrait_cell_id"], crops.instance_id)
    np.testing.assert_array_equal(table.obsm["spatial"], crops.centroid[:, [2, 1]])
    assert list(table.var["channels"]) == ["mask", *crops.channels]
    assert list(table.var["channel_mapping"]) == ["mask", *["image"] * 5]
    facts = table.uns["single_cell_images"]
    assert (facts["n_cells"], facts["n_channels"], facts["n_masks"]) == (len(crops), 6, 1)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_folder_of_images_has_a_tiff_of_all_channels_for_each_crop(
    crops: Crops, tmp_path: Path, labelled: bool
) -> None:
    labels = classes(crops) if labelled else None
    place = hc.export_crops(crops, tmp_path / "images", "images", labels=labels)
    found = {int(file.stem): file for file in place.rglob("*.tif")}
    assert sorted(found) == sorted(crops.instance_id.tolist())
    for label, file in found.items():
        np.testing.assert_array_equal(tifffile.imread(file), crops[label][:, 0])
        assert labels is None or file.parent.name == labels[label]


def read_tars(places: Sequence[Path]) -> dict[str, dict[str, bytes]]:
    """Samples of a WebDataset: members grouped by what is before the first dot."""
    found: dict[str, dict[str, bytes]] = {}
    for place in places:
        with tarfile.open(place) as tar:
            for member in tar:
                name, _, kind = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                found.setdefault(name, {})[kind] = file.read()
    return found


def test_a_webdataset_has_a_sample_for_each_crop(
    crops: Crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "SHARD", 7)
    place = hc.export_crops(crops, tmp_path / "tars", "webdataset", labels=classes(crops))
    tars = sorted(place.glob("*.tar"))
    assert len(tars) == -(-len(crops) // 7)
    samples = read_tars(tars)
    assert list(samples) == [str(i) for i in crops.instance_id]
    for row, (name, sample) in enumerate(samples.items()):
        np.testing.assert_array_equal(np.load(io.BytesIO(sample["image.npy"])), crops.image[row])
        np.testing.assert_array_equal(np.load(io.BytesIO(sample["mask.npy"])), crops.mask[row])
        facts = json.loads(sample["json"])
        assert facts["centroid"] == crops.centroid[row].tolist()
        assert facts["label"] == classes(crops)[int(name)]
    again = hc.export_crops(crops, tmp_path / "again", "webdataset", labels=classes(crops))
    assert [a.read_bytes() for a in sorted(again.iterdir())] == [
        b.read_bytes() for b in sorted(place.iterdir())
    ]


def test_a_store_without_crops_is_an_empty_file(tmp_path: Path) -> None:
    none = extracted(replace(tissue(), labels=np.zeros((60, 60), "u4")), tmp_path, diameter=9)
    place = hc.export_crops(none, tmp_path / "none.h5sc", "h5sc")
    assert anndata.read_h5ad(place).obsm["single_cell_images"].shape == (0, 5, 9, 9)


def test_what_its_layout_cannot_hold_is_refused(tmp_path: Path) -> None:
    case = tissue("f4")
    case.image[0, 30, 30] = np.inf
    case.labels[30, 30] = 1
    infinite = extracted(case, tmp_path, diameter=9)
    images = anndata.read_h5ad(hc.export_crops(infinite, tmp_path / "a.h5sc", "h5sc"))
    assert np.isinf(images.obsm["single_cell_images"]).sum() == 1
    shutil.rmtree(tmp_path / "crops")
    case.image[0, 30, 30] = 70_000
    large = extracted(case, tmp_path, diameter=9)
    with pytest.raises(hc.InputError, match="a pixel of 70000 is too large for float16"):
        hc.export_crops(large, tmp_path / "b.h5sc", "h5sc")
    with pytest.raises(hc.InputError, match=r"class of instance \d+ is a object: give text"):
        odd = dict.fromkeys(large.instance_id.tolist(), object())
        hc.export_crops(large, tmp_path / "b", "webdataset", labels=odd)
    with pytest.raises(hc.InputError, match="s3://bucket/b: this is written to a disk"):
        hc.export_crops(large, "s3://bucket/b", "images")
    assert {place.name for place in tmp_path.iterdir()} == {"crops", "a.h5sc"}


def test_what_does_not_fit_is_refused_and_nothing_is_touched(crops: Crops, tmp_path: Path) -> None:
    place = hc.export_crops(crops, tmp_path / "images", "images")
    before = files(place)
    with pytest.raises(hc.InputError, match="already there"):
        hc.export_crops(crops, place, "images")
    with pytest.raises(hc.InputError, match="choose h5sc, images, webdataset"):
        hc.export_crops(crops, tmp_path / "x", "hdf")
    with pytest.raises(hc.InputError, match="has none; give one for each crop"):
        hc.export_crops(crops, place, "images", labels={}, overwrite=True)
    with pytest.raises(hc.InputError, match="cannot be the name of a folder"):
        hc.export_crops(
            crops, place, "images", labels=dict.fromkeys(classes(crops), "../x"), overwrite=True
        )
    assert files(place) == before
    flat = tissue()
    deep = Case(
        np.stack([flat.image, flat.image], axis=1),
        np.stack([flat.labels] * 2),
        (2, 1, 16, 16),
        (2, 60, 60),
        1,
    )
    (tmp_path / "deep").mkdir()
    solid = extracted(deep, tmp_path / "deep", diameter=9)
    with pytest.raises(hc.InputError, match="have 2 planes, and h5sc has one"):
        hc.export_crops(solid, tmp_path / "x.h5sc", "h5sc")
    stacks = hc.export_crops(solid, tmp_path / "stacks", "images")
    label = int(solid.instance_id[0])
    np.testing.assert_array_equal(tifffile.imread(stacks / f"{label}.tif"), solid[label])
