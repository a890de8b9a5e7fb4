"""The data sets by name, the store they are written to, and archives that are unpacked."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spatialdata
import zarr
from cases import threads
from scipy import ndimage
from spatialdata.models import Image2DModel, Image3DModel, Labels2DModel, Labels3DModel
from zarr.codecs import ZstdCodec

from harpy_core.datasets import REGISTRY, fetch, ihc, unpacking
from harpy_core.datasets.tissue import Tissue, tissue, tissue_tile
from harpy_core.datasets.unpacking import unzip
from harpy_core.errors import InputError
from harpy_core.raster import open_raster
from harpy_core.storage import spatialdata_store

# The store --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_metadata_are_those_that_spatialdata_writes(tmp_path: Path) -> None:
    images = {
        "image": Image2DModel.parse(
            np.zeros((3, 64, 64), np.uint16), dims=("c", "y", "x"), c_coords=["a", "b", "c"]
        ),
        "stack": Image3DModel.parse(
            np.zeros((2, 4, 64, 64), np.float32), dims=("c", "z", "y", "x"), c_coords=["a", "b"]
        ),
    }
    labels = {
        "labels": Labels2DModel.parse(np.zeros((64, 64), np.uint32), dims=("y", "x")),
        "solid": Labels3DModel.parse(np.zeros((4, 64, 64), np.int64), dims=("z", "y", "x")),
    }
    spatialdata.SpatialData(images=images, labels=labels).write(tmp_path / "theirs.zarr")

    root = spatialdata_store.create(tmp_path / "ours.zarr")
    for name, image in images.items():
        spatialdata_store.create_image(
            root,
            name,
            image.shape,
            image.shape,
            image.dtype,
            image.coords["c"].values.tolist(),
            compressors=ZstdCodec(level=0),
        )
    for name, label in labels.items():
        spatialdata_store.create_labels(
            root, name, label.shape, label.shape, label.dtype, compressors=ZstdCodec(level=0)
        )
    spatialdata_store.consolidate(root)
    theirs = metadata(tmp_path / "theirs.zarr")
    # Who wrote the store: SpatialData names itself there, and did not write ours.
    del theirs["zarr.json"]["attributes"]["spatialdata_attrs"]["spatialdata_software_version"]
    assert metadata(tmp_path / "ours.zarr") == theirs


def metadata(path: Path) -> dict[str, Any]:
    """All metadata but what differs between versions of SpatialData and says nothing.

    That is the name of a multiscale, which nothing reads, a shift by 0 pixels (0.8), and the copy
    of it all in the root.
    """
    found = {str(f.relative_to(path)): json.loads(f.read_text()) for f in path.rglob("zarr.json")}
    found["zarr.json"]["consolidated_metadata"] = sorted(
        found["zarr.json"]["consolidated_metadata"]["metadata"]
    )
    for node in found.values():
        for scales in node["attributes"].get("ome", {}).get("multiscales", []):
            del scales["name"]
            for level in scales["datasets"]:
                level["coordinateTransformations"] = [
                    step
                    for step in level["coordinateTransformations"]
                    if any(step.get("translation", [1]))
                ]
    return found


def test_an_image_needs_a_name_for_each_channel(tmp_path: Path) -> None:
    root = spatialdata_store.create(tmp_path / "store.zarr")
    with pytest.raises(InputError, match="1 channel names for 2 channels"):
        spatialdata_store.create_image(root, "image", (2, 8, 8), (1, 8, 8), "u2", ["a"])
    with pytest.raises(InputError, match="5 axes"):
        spatialdata_store.create_image(root, "image", (2, 1, 1, 8, 8), (1,) * 5, "u2", ["a", "b"])


# The embedded sample ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_ihc_is_a_store_that_spatialdata_opens(tmp_path: Path) -> None:
    fetch("ihc", tmp_path / "ihc.zarr")
    sdata = spatialdata.read_zarr(tmp_path / "ihc.zarr")
    assert sdata["image"].coords["c"].values.tolist() == list(ihc.CHANNELS)
    assert sdata["image"].shape == (3, 512, 512)
    raster = open_raster(tmp_path / "ihc.zarr", "image", "labels")
    assert raster.channels == list(ihc.CHANNELS)
    assert raster.image.dtype == np.uint16
    np.testing.assert_array_equal(raster.image[...], ihc.stains())
    assert os.listdir(tmp_path) == ["ihc.zarr"]


def test_ihc_nuclei_are_whole_and_stained() -> None:
    stains = ihc.stains()
    labels = ihc.nuclei(stains[0])
    ids, areas = np.unique(labels, return_counts=True)
    assert ids.tolist() == list(range(len(ids)))
    assert 450 < len(ids) - 1 < 520
    assert areas[1:].min() >= ihc.SMALLEST_NUCLEUS
    for i, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        assert ndimage.label(labels[box] == i, np.ones((3, 3)))[1] == 1
    hematoxylin = stains[0].astype(float)
    assert hematoxylin[labels > 0].mean() > hematoxylin[labels == 0].mean() + 2000


def test_ihc_stains_hold_the_densities_of_rgb2hed() -> None:
    from skimage.color import rgb2hed
    from skimage.data import immunohistochemistry

    rgb = np.maximum(immunohistochemistry(), 1)
    density = np.moveaxis(rgb2hed(rgb), -1, 0) * 6  # its unit is 6 decades
    ours = (ihc.stains().astype(float) - ihc.PEDESTAL) / ihc.COUNTS_PER_DENSITY
    unclipped = (density > 0) & (ihc.stains() < 65535)
    np.testing.assert_allclose(ours[unclipped], density[unclipped], atol=1 / ihc.COUNTS_PER_DENSITY)


# Synthetic tissue -------------------------------------------------------------------------------


def test_tissue_is_seamless_whatever_the_tile() -> None:
    whole = Tissue((2, 1100, 700), seed=3)
    image, labels = tissue(whole.shape, seed=3)
    for rows, columns in [((0, 1100), (0, 1)), ((500, 530), (490, 700)), ((1024, 1100), (0, 600))]:
        part_image, part_labels = tissue_tile(whole, rows, columns)
        np.testing.assert_array_equal(part_image, image[:, slice(*rows), slice(*columns)])
        np.testing.assert_array_equal(part_labels, labels[slice(*rows), slice(*columns)])


def test_tissue_has_cells_that_touch_and_empty_places() -> None:
    image, labels = tissue((3, 1024, 1024), seed=1)
    assert image.dtype == np.uint16
    assert labels.dtype == np.uint32
    assert 1000 < len(np.unique(labels)) < 2500
    assert 0.2 < (labels > 0).mean() < 0.8
    beside = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] > 0) & (labels[:, :-1] > 0)
    assert beside.sum() > 1000
    inside = image[0][labels > 0].mean()
    assert inside > 2 * image[0][labels == 0].mean()
    assert not np.array_equal(tissue((1, 64, 64), seed=1)[0], tissue((1, 64, 64), seed=2)[0])


def test_tissue_channels_of_a_module_go_together() -> None:
    image, labels = tissue((9, 1024, 1024), seed=0)
    ids = np.unique(labels)[1:]
    levels = np.log([ndimage.mean(plane, labels, ids) for plane in image])
    correlation = np.corrcoef(levels)
    assert correlation[1, 5] > 0.6
    assert correlation[1, 5] > correlation[1, 6]


@pytest.mark.parametrize("rows", [(0, 65), (-1, 5), (5, 5)])
def test_a_region_outside_the_tissue_is_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="not inside"):
        tissue_tile(Tissue((1, 64, 64)), rows, (0, 64))


# The registry -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "published"),
    [("tissue-gigapixel", 20_000, 206_030), ("tissue-terapixel", 100_000, 278_482)],
)
def test_tiled_tissue_has_as_many_instances_as_the_published_case(
    name: str, size: int, published: int
) -> None:
    known = REGISTRY[name]
    assert known.cells_per_megapixel is not None
    side = known.shape[1]
    made = Tissue((1, side, side), known.seed, known.cells_per_megapixel)
    labels = tissue_tile(made, (0, side), (0, side))[1]
    whole, left = divmod(size, side)
    parts = {side: whole, left: 1}
    instances = sum(
        rows * columns * (len(np.unique(labels[:height, :width])) - 1)
        for height, rows in parts.items()
        for width, columns in parts.items()
    )
    assert abs(instances - published) < 0.01 * published
    assert len(np.unique(labels)) - 1 == pytest.approx(known.instances, rel=0.01)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose from ihc, tissue"):
        fetch("liver", tmp_path / "liver.zarr")


def test_every_registered_set_is_made_or_has_a_digest() -> None:
    for name, dataset in REGISTRY.items():
        assert name == dataset.name
        if dataset.sha256 is None:
            assert dataset.origin.startswith("harpy_core.datasets.")
        else:
            assert re.fullmatch("[0-9a-f]{64}", dataset.sha256)
            assert dataset.origin.startswith("https://")


# Archives that are not to be trusted ------------------------------------------------------------


def zipped(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in entries:
            opened.writestr(name, content)
    return path


def link_entry() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("store/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "name",
    ["../outside", "store/../../outside", "/etc/outside", "store\\..\\outside", "c:/outside"],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / "bad.zip", ("store/zarr.json", b"{}"), (name, b"x"))
    with pytest.raises(InputError, match="zip plain files only"):
        unzip(archive, tmp_path / "out" / "store.zarr")
    assert not list(tmp_path.rglob("outside"))
    assert not (tmp_path / "out" / "store.zarr").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "bad.zip", (link_entry(), b"/etc/passwd"))
    with pytest.raises(InputError, match="a link"):
        unzip(archive, tmp_path / "store.zarr")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_stand_twice_are_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "bad.zip", ("a/x", b"1"), ("a/x", b"2"))
    with pytest.raises(InputError, match="two entries"):
        unzip(archive, tmp_path / "store.zarr")


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harpy_core.datasets.unpacking.SMALL", 1 << 20)
    archive = zipped(tmp_path / "bomb.zip", ("a/x", bytes(50_000_000)))
    with pytest.raises(InputError, match="would unpack to 50000000 bytes"):
        unzip(archive, tmp_path / "store.zarr")


def test_a_size_that_lies_and_a_damaged_byte_are_noticed(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(5000)
    for change in ("size", "byte"):
        archive = zipped(tmp_path / f"{change}.zip", ("a/x", content))
        raw = bytearray(archive.read_bytes())
        if change == "size":
            at = raw.rindex(b"PK\x01\x02") + 24
            raw[at : at + 4] = (100).to_bytes(4, "little")
        else:
            raw[2000] ^= 1
        archive.write_bytes(raw)
        with pytest.raises(InputError, match="no whole zip"):
            unzip(archive, tmp_path / "store.zarr")
        assert not (tmp_path / "store.zarr").exists()


def test_several_files_are_unpacked_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(tmp_path / "a.zip", *((f"a/{i}", bytes([i] * 100)) for i in range(8)))
    together = threading.Barrier(2, timeout=20)
    extract = unpacking._Extraction.__call__

    def with_another(self: unpacking._Extraction, entry: Any) -> int:
        together.wait()
        return extract(self, entry)

    monkeypatch.setattr(unpacking._Extraction, "__call__", with_another)
    with threads(2):
        unzip(archive, tmp_path / "store.zarr")
    found = {f.name: f.read_bytes() for f in (tmp_path / "store.zarr").iterdir()}
    assert found == {str(i): bytes([i] * 100) for i in range(8)}


def test_a_store_that_does_not_fit_the_disk_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(tmp_path / "a.zip", ("a/x", bytes(5000)))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4000))
    with pytest.raises(InputError, match=r"needs 0\.0 GB in .* make room"):
        unzip(archive, tmp_path / "store.zarr")
    assert sorted(os.listdir(tmp_path)) == ["a.zip"]


def test_a_text_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("<html>not found</html>")
    with pytest.raises(InputError, match="no whole zip"):
        unzip(tmp_path / "x.zip", tmp_path / "store.zarr")


def test_the_default_tissue_is_a_store(tmp_path: Path) -> None:
    fetch("tissue", tmp_path / "tissue.zarr")
    image = zarr.open_array(tmp_path / "tissue.zarr/images/image/s0", mode="r")
    labels = zarr.open_array(tmp_path / "tissue.zarr/labels/labels/s0", mode="r")
    assert image.shape == (4, 2048, 2048)
    part_image, part_labels = tissue_tile(Tissue((4, 2048, 2048)), (1000, 1100), (900, 1100))
    np.testing.assert_array_equal(image[:, 1000:1100, 900:1100], part_image)
    np.testing.assert_array_equal(labels[1000:1100, 900:1100], part_labels)
