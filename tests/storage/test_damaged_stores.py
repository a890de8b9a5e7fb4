"""Stores of ours with any of their files damaged: no reader of ours takes them for whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crop_cases import tissue
from damages import DAMAGES, damage, flipped

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances
from harpy_core.storage.manifest import refuse_changed, tree_digest, write_manifest
from harpy_core.training.batches import CropBatches


def crops_one_by_one(store: Path) -> Any:
    crops = hc.open_crops(store)
    return crops[crops.instance_id], crops.centroid


def crops_in_batches(store: Path) -> Any:
    crops = hc.open_crops(store)
    return [pixels for _, pixels in crops.batches()], crops.centroid


def crops_for_training(store: Path) -> Any:
    crops = hc.open_crops(store)
    return [batch.image for batch in CropBatches(crops, batch_size=7).batches()], crops.centroid


def instances(store: Path) -> Any:
    return Instances.read(store)


def declared(store: Path) -> None:
    refuse_changed(store, store.with_name("manifest.json"))


READERS: dict[str, tuple[Callable[[Path], Any], ...]] = {
    "crops": (crops_one_by_one, crops_in_batches, crops_for_training),
    "sharded crops": (crops_one_by_one, crops_in_batches, crops_for_training),
    "instances": (instances, declared),
    "table": (declared,),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of each kind, each in a folder of its own with its manifest."""
    folder = tmp_path_factory.mktemp("made")
    case = tissue()
    found = hc.find_instances(case.labels)
    for name, options in (("crops", {}), ("sharded crops", {"shard_size": 16})):
        hc.extract_instances(
            *(case.image, case.labels, folder / name / "store"),
            diameter=13,
            batch_size=8,
            instances=found,
            **options,
        )
    found.write(folder / "instances/store")
    aggregate_to_store(case.image, case.labels, folder / "table/store", found, region="labels")
    for name in READERS:
        digest = tree_digest(folder / name / "store")
        write_manifest(folder / name / "manifest.json", kind=name, digest=digest)
    return folder


@pytest.mark.parametrize("kind", READERS)
def test_no_damage_of_a_chunk_is_taken_for_content(kind: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / kind, tmp_path / kind)
    store = tmp_path / kind / "store"
    chunks = [file for file in store.rglob("*") if "c" in file.relative_to(store).parts[:-1]]
    files = [file for file in chunks if file.is_file()]
    assert len(files) >= 4
    for file in files:
        content = file.read_bytes()
        for how in DAMAGES:
            damage(file, how)
            for reader in READERS[kind]:
                with pytest.raises(InputError) as told:
                    reader(store)
                assert str(store) in str(told.value), (file, how)
                assert "\n" not in str(told.value)
            file.write_bytes(content)
    for reader in READERS[kind]:
        reader(store)


@pytest.mark.parametrize("kind", READERS)
def test_no_damage_of_metadata_is_passed_over(kind: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / kind, tmp_path / kind)
    store = tmp_path / kind / "store"
    names = ["zarr.json", *(f"{name}/zarr.json" for name in NEEDED.get(kind, ()))]
    for file in (store / name for name in names):
        content = file.read_bytes()
        for how in DAMAGES:
            # A bit of a name or a number may leave a document that is valid.
            for reader in (declared,) if how is flipped else READERS[kind]:
                damage(file, how)
                with pytest.raises(InputError) as told:
                    reader(store)
                assert str(store) in str(told.value), (file, how)
                file.write_bytes(content)


NEEDED = {
    "crops": ("image", "instance_id", "centroid"),
    "sharded crops": ("image", "instance_id", "centroid"),
    "instances": Instances.__slots__,
}


def test_content_that_is_all_zero_is_stored(tmp_path: Path) -> None:
    labels = np.zeros((4, 4), "u1")
    labels[0, 0] = 1
    found = hc.find_instances(labels)
    assert not found.centroid.any()
    found.write(tmp_path / "instances.zarr")
    assert len(Instances.read(tmp_path / "instances.zarr")) == 1
    target = tmp_path / "crops.zarr"
    hc.extract_instances(np.zeros((1, 4, 4), "u2"), labels, target, diameter=2, batch_size=3)
    assert not hc.open_crops(target)[1].any()
