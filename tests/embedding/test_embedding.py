"""Numbers of a model for each crop, against the model run by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import onnx
import pytest
from crop_cases import extracted, files, tissue, tree
from onnx import TensorProto, helper, numpy_helper
from servers import KEYS, Bucket

import harpy_core as hc
from harpy_core.embedding import embedding, models, parts
from harpy_core.embedding.onnx_files import onnx_files

if TYPE_CHECKING:
    from distributed import Client

    from harpy_core.extract.crops import Crops

CHANNELS, SIDE, WIDTH = 5, 8, 3


def network(path: Path, batch: int | str = "n") -> tuple[np.ndarray, np.ndarray]:
    """Write a small convolutional network; returns its weights."""
    rng = np.random.default_rng(7)
    kernel = rng.normal(size=(4, CHANNELS, 3, 3)).astype("f4")
    dense = rng.normal(size=(4, WIDTH)).astype("f4")
    nodes = [
        helper.make_node("Conv", ["crops", "kernel"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["numbers"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("crops", TensorProto.FLOAT, [batch, CHANNELS, SIDE, SIDE])],
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [batch, WIDTH])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(dense, "dense")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return kernel, dense


def by_hand(crops: Crops, kernel: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """The network in NumPy, on pixels divided by the largest value of their type."""
    pixels = np.asarray(crops.image[:, :, 0]).astype("f8") / 65535
    padded = np.pad(pixels, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    maps = np.einsum("ncyxij,kcij->nkyx", windows, kernel)
    return np.maximum(maps, 0).mean(axis=(2, 3)) @ dense


@pytest.fixture
def crops(tmp_path: Path) -> Crops:
    return extracted(tissue(), tmp_path, diameter=SIDE, batch_size=4)


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 10)


@pytest.mark.parametrize("batch", ["n", 5])
def test_an_onnx_network_gives_what_it_gives_by_hand(
    crops: Crops, tmp_path: Path, batch: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    weights = network(tmp_path / "small.onnx", batch)
    found = hc.embed(crops, tmp_path / "small.onnx", tmp_path / "e.zarr", batch_size=7, threads=1)
    np.testing.assert_allclose(found.obsm["X_embedding"], by_hand(crops, *weights), 1e-4, 1e-4)
    np.testing.assert_array_equal(found.obs["instance_id"], crops.instance_id)
    table = hc.aggregate_stats(tissue().image, tissue().labels)
    aligned = found[table.obs_names]
    np.testing.assert_array_equal(aligned.obs["instance_id"], table.obs["instance_id"])


def means(crops: np.ndarray) -> np.ndarray:
    """Mean of each channel."""
    return crops.mean(axis=(2, 3))


def test_channels_are_given_in_the_order_asked_for_and_pixels_as_asked(
    crops: Crops, tmp_path: Path
) -> None:
    found = hc.embed(
        crops, means, tmp_path / "e.zarr", channels=["3", "0"], normalise=None, obsm="X_mean"
    )
    pixels = np.asarray(crops.image[:, [3, 0], 0]).astype("f4")
    np.testing.assert_allclose(found.obsm["X_mean"], pixels.mean(axis=(2, 3)), 1e-5)


def test_a_run_that_died_goes_on_where_it_stopped(
    crops: Crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    path = tmp_path / "small.onnx"
    network(path)
    whole = hc.embed(crops, path, tmp_path / "whole.zarr", batch_size=7)
    calls = []
    run = embedding.Model.__call__

    def dying(self: Any, some: np.ndarray) -> np.ndarray:
        calls.append(len(some))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return run(self, some)

    monkeypatch.setattr(embedding.Model, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        hc.embed(crops, path, tmp_path / "e.zarr", batch_size=7)
    done = sum(calls[1:5])
    assert not (tmp_path / "e.zarr").exists()
    found = hc.embed(crops, path, tmp_path / "e.zarr", batch_size=7)
    assert sum(calls[7:]) == len(crops) - done // 12 * 12
    np.testing.assert_array_equal(found.obsm["X_embedding"], whole.obsm["X_embedding"])
    assert {place.name for place in tmp_path.glob(".e.zarr*")} == set()


def with_weights_beside(path: Path, factor: float) -> None:
    """Write the network with its weights, times a factor, in a file of their own."""
    network(path)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.raw_data = (numpy_helper.to_array(tensor) * np.float32(factor)).tobytes()
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    beside = f"{path.name}.data"
    onnx.save(model, path, save_as_external_data=True, location=beside, size_threshold=0)


def test_weights_in_a_file_beside_an_onnx_file_are_part_of_the_model(
    crops: Crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    path = tmp_path / "small.onnx"
    with_weights_beside(path, 1)
    assert onnx_files(path) == [path, tmp_path / "small.onnx.data"]
    graph = path.read_bytes()
    commit = embedding.WorkFolder.commit

    def dying(self: Any, name: str, *content: Any) -> None:
        commit(self, name, *content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedding.WorkFolder, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            hc.embed(crops, path, tmp_path / "e.zarr")
    with_weights_beside(path, 2)
    assert path.read_bytes() == graph
    found = hc.embed(crops, path, tmp_path / "e.zarr")
    whole = hc.embed(crops, path, tmp_path / "whole.zarr")
    np.testing.assert_array_equal(found.obsm["X_embedding"], whole.obsm["X_embedding"])


@pytest.mark.parametrize("kind", ["file", "function"])
def test_workers_give_the_numbers_that_one_process_gives(
    crops: Crops, tmp_path: Path, client: Client, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    network(tmp_path / "small.onnx")
    model = tmp_path / "small.onnx" if kind == "file" else means
    options: dict[str, Any] = {"batch_size": 7, "threads": 1, "normalise": "percentile"}
    here = hc.embed(crops, model, tmp_path / "here.zarr", **options)
    there = hc.embed(crops, model, tmp_path / "there.zarr", client=client, **options)
    np.testing.assert_array_equal(there.obsm["X_embedding"], here.obsm["X_embedding"])
    assert tree(tmp_path / "there.zarr/obsm") == tree(tmp_path / "here.zarr/obsm")


def test_workers_open_crops_at_an_address_with_its_options(
    crops: Crops, tmp_path: Path, client: Client, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    network(tmp_path / "small.onnx")
    keys = {"key": KEYS["aws_access_key_id"], "secret": KEYS["aws_secret_access_key"]}
    address = bucket.put(tmp_path / "crops", "crops.zarr")
    far = hc.open_crops(address, storage_options={**bucket.options, **keys})
    model, options = tmp_path / "small.onnx", {"batch_size": 7, "threads": 1}
    here = hc.embed(crops, model, tmp_path / "here.zarr", **options)
    there = hc.embed(far, model, tmp_path / "there.zarr", client=client, **options)
    np.testing.assert_array_equal(there.obsm["X_embedding"], here.obsm["X_embedding"])


def test_workers_are_given_the_crops_of_a_further_window(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    windows = {"context": {"diameter": [14, 11]}}
    crops = extracted(tissue(), tmp_path, diameter=SIDE, batch_size=4, windows=windows)
    context = crops.window("context")
    options: dict[str, Any] = {"normalise": None, "obsm": "X_mean", "client": client}
    found = hc.embed(context, means, tmp_path / "e.zarr", **options)
    pixels = np.asarray(context.image[:, :, 0]).astype("f4")
    assert pixels.shape[2:] == (14, 11)
    np.testing.assert_allclose(found.obsm["X_mean"], pixels.mean(axis=(2, 3)), 1e-5)
    np.testing.assert_array_equal(found.obs["instance_id"], crops.instance_id)
    own = hc.embed(crops, means, tmp_path / "own.zarr", **options)
    assert not np.array_equal(own.obsm["X_mean"], found.obsm["X_mean"])


def test_workers_go_on_where_one_process_stopped(
    crops: Crops, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    path = tmp_path / "small.onnx"
    network(path)
    whole = hc.embed(crops, path, tmp_path / "whole.zarr", batch_size=7, threads=1)
    commit = embedding.WorkFolder.commit
    numbers = []

    def dying(self: Any, name: str, *content: Any) -> None:
        numbers.append(name)
        if len(numbers) == 3:
            raise KeyboardInterrupt
        commit(self, name, *content)

    with monkeypatch.context() as patch:
        patch.setattr(embedding.WorkFolder, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            hc.embed(crops, path, tmp_path / "e.zarr", batch_size=7, threads=1)
    given = []
    in_order = embedding.schedule.in_order

    def counting(function: Any, tasks: Any, where: Any) -> Any:
        given.extend(task.number for task in tasks)
        return in_order(function, tasks, where)

    monkeypatch.setattr(embedding.schedule, "in_order", counting)
    found = hc.embed(crops, path, tmp_path / "e.zarr", batch_size=7, threads=1, client=client)
    parts_of = range(-(-len(crops) // 12))
    assert given == [number for number in parts_of if str(number) not in numbers[:2]]
    np.testing.assert_array_equal(found.obsm["X_embedding"], whole.obsm["X_embedding"])


def test_a_model_that_is_too_large_to_send_is_refused(
    crops: Crops, tmp_path: Path, client: Client
) -> None:
    weights = np.ones(models.LARGEST_SENT, np.uint8)

    def heavy(some: np.ndarray) -> np.ndarray:
        return some.mean(axis=(2, 3)) * weights[0]

    with pytest.raises(hc.InputError, match="are too many to send to workers"):
        hc.embed(crops, heavy, tmp_path / "e.zarr", client=client)
    assert not (tmp_path / "e.zarr").exists()


def test_a_worker_that_has_another_model_refuses(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    network(path)
    opened = models.open_model(path, "cpu", 1)
    named = models.Named.of(path, opened, "cpu", 1)
    assert named.opened().digest == opened.digest
    network(path, 5)
    with pytest.raises(hc.InputError, match="a worker has another one of that name"):
        named.opened()


def test_a_function_is_named_by_its_module(
    crops: Crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_model.py").write_text(
        "def largest(crops):\n    return crops.max(axis=(1, 2, 3))[:, None]\n"
    )
    try:
        found = hc.embed(crops, "own_model:largest", tmp_path / "e.zarr", normalise=None)
    finally:
        sys.path.remove(str(tmp_path))
    pixels = np.asarray(crops.image[...]).max(axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(found.obsm["X_embedding"][:, 0], pixels.astype("f4"))


def test_what_cannot_be_is_refused_and_nothing_is_touched(crops: Crops, tmp_path: Path) -> None:
    place = tmp_path / "e.zarr"
    hc.embed(crops, means, place)
    before = files(place)
    for model, told in (
        ("none.onnx", "no such file"),
        (lambda crops: crops[:1].mean(axis=(2, 3)), "must return a row of numbers for each"),
        (lambda crops: crops[:, 99], "failed on crops"),
        (lambda crops: crops.mean(axis=(2, 3)) * 1j, "complex64, not real numbers"),
        (lambda crops: np.full((len(crops), 1), 1e300), "overflow"),
        (lambda crops: np.empty((len(crops), 0)), "must return a row of numbers for each"),
        ("nowhere:model", "there is no module nowhere"),
        (3, "neither an ONNX file"),
    ):
        with pytest.raises(hc.InputError, match=told):
            hc.embed(crops, model, place, overwrite=True)
    with pytest.raises(hc.InputError, match="already there"):
        hc.embed(crops, means, place)
    with pytest.raises(hc.InputError, match="has no channel 'DAPI'"):
        hc.embed(crops, means, tmp_path / "f.zarr", channels=["DAPI"])
    with pytest.raises(hc.InputError, match=r"e\.zarr: this is written to a disk"):
        hc.embed(crops, means, "s3://results/e.zarr")
    assert files(place) == before
    assert anndata.read_zarr(place).shape[0] == len(crops)
