"""Fields of view joined: every row where it belongs, in any order of channels, in little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import anndata
import numpy as np
import pytest
import zarr

import harpy_core as hc
from harpy_core.aggregate import store as table
from harpy_core.aggregate.fields import join_tables, list_crops
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.instances.finding import find_instances
from harpy_core.storage.manifest import read_manifest, tree_digest, write_manifest

CHANNELS = ["DAPI", "CD3", "CD20"]


def write_field(
    folder: Path, name: str, seed: int, channels: list[str] | None = None
) -> anndata.AnnData:
    """A field's table on disk, and what it must hold."""
    rng = np.random.default_rng(seed)
    channels = channels or CHANNELS
    image = rng.integers(0, 1000, (len(channels), 30, 40)).astype("u2")
    labels = rng.integers(0, 5 + seed, (30, 40)).astype("u4")
    stats = ["mean", "max"]
    place = folder / f"{name}.zarr"
    aggregate_to_store(image, labels, place, find_instances(labels), stats, channels)
    return hc.aggregate_stats(image, labels, stats, channels=channels)


def join(folder: Path, names: str) -> anndata.AnnData:
    join_tables({name: folder / f"{name}.zarr" for name in names}, folder / "all.zarr")
    return anndata.read_zarr(folder / "all.zarr")


def test_every_instance_is_there_with_its_field_and_its_values(tmp_path: Path) -> None:
    expected = {name: write_field(tmp_path, name, seed) for seed, name in enumerate("cab")}
    found = join(tmp_path, "cab")
    assert found.n_obs == sum(part.n_obs for part in expected.values())
    assert list(found.obs["field"].cat.categories) == ["c", "a", "b"]
    for name, part in expected.items():
        own = found[found.obs["field"] == name]
        np.testing.assert_array_equal(own.obs["instance_id"], part.obs["instance_id"])
        np.testing.assert_array_equal(own.obs["count"], part.obs["count"])
        np.testing.assert_array_equal(own.obsm["spatial"], part.obsm["spatial"])
        np.testing.assert_array_equal(own.X, part.X)
        for layer in ("mean", "max"):
            np.testing.assert_array_equal(own.layers[layer], part.layers[layer])
        assert list(own.obs_names) == [f"{name}-{i}" for i in part.obs["instance_id"]]
    assert found.obs_names.is_unique
    assert found.obs["instance_id"].dtype == np.uint64
    assert found.uns["spatialdata_attrs"]["region_key"] == "field"


def test_fields_of_several_layers_have_an_id_once_in_each_layer_of_a_field(tmp_path: Path) -> None:
    expected = {}
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 1000, (3, 30, 40)).astype("u2")
        labels = rng.integers(0, 5 + seed, (30, 40)).astype("u4")
        layers = {"nucleus": np.roll(labels, 1, 0)}
        derived = {"ratio": "nucleus.mean / mean"}
        aggregate_to_store(
            image,
            labels,
            tmp_path / f"{name}.zarr",
            find_instances(labels),
            "mean",
            CHANNELS,
            region=f"cells_{name}",
            layers=layers,
            derived=derived,
        )
        expected[name] = hc.aggregate_layers(
            image, {"cell": labels, **layers}, "mean", CHANNELS, derived=derived
        )
    found = join(tmp_path, "ab")
    told = found.uns["spatialdata_attrs"]
    assert told["region_key"] == "field_region"
    assert list(told["region"]) == ["a-cells_a", "a-nucleus", "b-cells_b", "b-nucleus"]
    assert found.obs_names.is_unique
    assert not found.obs.duplicated(["field_region", "instance_id"]).any()
    for name, tables in expected.items():
        own = found[found.obs["field_region"] == f"{name}-nucleus"]
        table_of = tables["nucleus"]
        assert own.obs["parent"].tolist() == table_of.obs["parent"].tolist()
        np.testing.assert_array_equal(own.layers["ratio"], table_of.layers["ratio"])
        assert np.isnan(found[found.obs["region"] == f"cells_{name}"].layers["ratio"]).all()


def test_channels_in_another_order_come_in_that_of_the_first_field(tmp_path: Path) -> None:
    write_field(tmp_path, "a", 0)
    other = write_field(tmp_path, "b", 1, CHANNELS[::-1])
    found = join(tmp_path, "ab")
    assert list(found.var_names) == CHANNELS
    own = found[found.obs["field"] == "b"]
    np.testing.assert_array_equal(own.layers["mean"], other[:, CHANNELS].layers["mean"])


def test_the_same_fields_give_the_same_files(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_field(tmp_path, name, seed)
    digests = set()
    for place in ("one.zarr", "two.zarr"):
        join_tables({name: tmp_path / f"{name}.zarr" for name in "ab"}, tmp_path / place)
        digests.add(tree_digest(tmp_path / place))
    assert len(digests) == 1


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
def test_blocks_of_any_size_give_the_same_table(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [write_field(tmp_path, name, seed) for seed, name in enumerate("abc")]
    monkeypatch.setattr(table, "ROWS", rows)
    found = join(tmp_path, "abc")
    np.testing.assert_array_equal(found.X, np.concatenate([part.X for part in expected]))


def test_a_field_without_instances_has_no_rows(tmp_path: Path) -> None:
    write_field(tmp_path, "a", 1)
    empty = np.zeros((10, 10), "u4")
    image = np.zeros((3, 10, 10), "u2")
    place = tmp_path / "b.zarr"
    aggregate_to_store(image, empty, place, find_instances(empty), ["mean", "max"], CHANNELS)
    for names in ("ab", "ba", "b"):
        found = join(tmp_path, names)
        assert set(found.obs["field"]) == set(names) - {"b"}
        assert list(found.obs["field"].cat.categories) == list(names)


def test_values_are_never_held_all_at_once(tmp_path: Path) -> None:
    rows, channels = 20_000, 200
    for name in "ab":
        write_field(tmp_path, name, 0, [str(c) for c in range(channels)])
        widen(tmp_path / f"{name}.zarr", rows, channels)
    join_tables({"a": tmp_path / "a.zarr"}, tmp_path / "imported.zarr")
    tracemalloc.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "ROWS", 2000)
        join_tables({name: tmp_path / f"{name}.zarr" for name in "ab"}, tmp_path / "all.zarr")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = 2 * rows * channels * 8
    assert zarr.open_array(tmp_path / "all.zarr" / "X").nbytes == whole
    assert peak < whole / 2


def widen(path: Path, rows: int, channels: int) -> None:
    """Give a table more rows."""
    small = anndata.read_zarr(path)
    obs = small.obs.iloc[np.zeros(rows, int)].copy()
    obs.index = [str(i) for i in range(rows)]
    layers = {name: np.ones((rows, channels)) for name in ("mean", "max")}
    wide = anndata.AnnData(
        layers["mean"], obs, small.var, small.uns, {"spatial": np.ones((rows, 2))}, layers=layers
    )
    wide.write_zarr(path, chunks=(2000, channels))


@pytest.mark.parametrize(
    ("channels", "told"),
    [
        (["DAPI", "CD3"], "field 'b' has the channels DAPI, CD3 and field 'a' DAPI, CD3, CD20"),
        (["DAPI", "CD3", "CD8"], "field 'b' has the channels DAPI, CD3, CD8 and field 'a'"),
    ],
)
def test_fields_with_other_channels_are_refused(
    channels: list[str], told: str, tmp_path: Path
) -> None:
    write_field(tmp_path, "a", 0)
    write_field(tmp_path, "b", 1, channels)
    with pytest.raises(hc.InputError, match=told) as error:
        join(tmp_path, "ab")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "all.zarr").exists()


def test_crops_are_listed_where_they_are(tmp_path: Path) -> None:
    manifests = {}
    for name, crops in (("a", 3), ("b", 4)):
        manifests[name] = tmp_path / "fields" / name / "crops.manifest.json"
        write_manifest(
            manifests[name],
            kind="crops",
            digest=name,
            instances=crops,
            channels=CHANNELS,
            diameter=9,
        )
    assert list_crops(manifests, tmp_path / "crops.manifest.json") == 7
    found = read_manifest(tmp_path / "crops.manifest.json")
    assert found["instances"] == 7
    assert found["channels"] == CHANNELS
    assert found["fields"]["b"] == {
        "store": "fields/b/crops.zarr", "digest": "b", "instances": 4
    }  # fmt: skip
    write_manifest(
        manifests["b"], kind="crops", digest="b", instances=4, channels=CHANNELS[::-1], diameter=9
    )
    with pytest.raises(hc.InputError, match="field 'b' has the channels CD20, CD3, DAPI"):
        list_crops(manifests, tmp_path / "crops.manifest.json")
