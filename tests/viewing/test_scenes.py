"""What a page with Vitessce asks for, by HTTP, against the image, the labels and the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import anndata
import numpy as np
import pandas as pd
import pytest
import requests
import zarr
from page_cases import NAMES, tissue
from page_servers import served

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.errors import InputError
from harpy_core.raster import Raster
from harpy_core.viewing import elements, levels, scenes
from harpy_core.viewing.scenes import Scene

KINDS = {
    "image.ome-zarr",
    "obsSegmentations.ome-zarr",
    "obsFeatureMatrix.anndata.zarr",
    "obsEmbedding.anndata.zarr",
    "obsSets.anndata.zarr",
}
VIEWS = {"spatialBeta", "scatterplot", "heatmap", "crops", "layerControllerBeta", "featureList"}


def measured(
    folder: Path, image: np.ndarray, labels: np.ndarray, stats: Any = ("max", "mean")
) -> Path:
    """The table of an image."""
    table = folder / "table.zarr"
    aggregate_to_store(image, labels, table, hc.find_instances(labels), stats, NAMES)
    return table


def small(folder: Path, **options: Any) -> tuple[Raster, Scene]:
    image, labels = tissue((5, 7), (60, 70))
    raster = Raster.of(image, labels, NAMES)
    return raster, Scene(raster, measured(folder, image, labels), "a & b", **options)


def values_of(config: dict[str, Any], kind: str) -> list[Any]:
    """Values of a kind that views share."""
    return list(config["coordinationSpace"].get(kind, {}).values())


def test_the_page_names_what_it_asks_for_and_all_of_it_is_answered(tmp_path: Path) -> None:
    _, scene = small(tmp_path)
    with served("x/ä b.tif", scene) as address:
        page = requests.get(address, timeout=10).text
        assert "<title>a &amp; b</title>" in page
        config = requests.get(urljoin(address, "vitessce.json"), timeout=10).json()
        assert config == json.loads(json.dumps(scene.config))
        files = config["datasets"][0]["files"]
        assert {file["fileType"] for file in files} == KINDS
        for file in files:
            found = requests.get(urljoin(address, f"{file['url']}/zarr.json"), timeout=10)
            assert found.json()["node_type"] == "group"
        for module in ("vitessce.js", "react.js", "react-dom.js", "jsx-runtime.js"):
            found = requests.get(urljoin(address, f"/page/{module}"), timeout=10)
            assert found.headers["Content-Type"].startswith("text/javascript")
            if module != "vitessce.js":
                assert f'"/page/{module}"' in page
        index = requests.get(urljoin(address, "/"), timeout=10).text
        assert f'<a href="{address[address.index("/view") :]}">x/ä b.tif</a>' in index


def test_the_views_are_linked_by_the_labels(tmp_path: Path) -> None:
    _, scene = small(tmp_path)
    config, space = scene.config, scene.config["coordinationSpace"]
    views = {view["component"]: view["coordinationScopes"] for view in config["layout"]}
    assert views.keys() >= VIEWS
    assert values_of(config, "featureSelection") == [[NAMES[0]]]
    assert values_of(config, "featureValueType") == ["mean"]
    of_cells = space["metaCoordinationScopesBy"]["A"]["segmentationChannel"]
    linked = {"obsHighlight", "obsSetSelection", "obsColorEncoding", "featureSelection"}
    for kind in (*linked, "obsSetColor", "additionalObsSets", "featureValueColormap"):
        assert {scopes[kind] for scopes in views.values()} == {"A"} == {*of_cells[kind].values()}
    # Every scope that anything refers to has a value.
    for scopes in views.values():
        for kind, names in scopes.items():
            assert set(np.atleast_1d(names)) <= set(space[kind])
    for parts in space["metaCoordinationScopesBy"]["A"].values():
        for kind, by_part in parts.items():
            for names in by_part.values():
                assert set(np.atleast_1d(names)) <= set(space[kind])


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float64", "int64", "bool"])
def test_image_and_labels_are_those_of_the_raster(tmp_path: Path, dtype: str) -> None:
    image, labels = tissue((300, 200), (400, 700))
    image = (image // 4).astype(dtype)
    labels = labels.astype("int64")
    stored = zarr.create_array(tmp_path / "image.zarr", data=image, chunks=(2, 128, 300))
    raster = Raster.of(stored, labels, NAMES)
    with served("x", Scene(raster, measured(tmp_path, image, labels), "x")) as address:
        store: Any = zarr.open_group(urljoin(address, "store"), mode="r")
        for name, expected in (("image", image), ("labels", labels)):
            ome = store[name].attrs["ome"]
            axes = [axis["name"] for axis in ome["multiscales"][0]["axes"]]
            assert axes == ["c", "y", "x"][3 - expected.ndim :]
            for number, level in enumerate(ome["multiscales"][0]["datasets"]):
                found = store[name][level["path"]]
                scale = level["coordinateTransformations"][0]["scale"]
                assert scale[-2:] == [2**number, 2**number]
                step = 2**number
                np.testing.assert_array_equal(found[...], expected[..., ::step, ::step])
        assert store["labels/0"].dtype == "uint32"
        assert [one["label"] for one in store["image"].attrs["ome"]["omero"]["channels"]] == NAMES


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_table_has_the_statistic_of_each_label_and_its_categories(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (60, 70))
    place = measured(tmp_path, image, labels)
    local = anndata.read_zarr(place)
    kinds = ["B", "T", None] * 4
    local.obs["kind"] = pd.Categorical(kinds)
    with anndata.settings.override(zarr_write_format=3):
        local.write_zarr(place)
    scene = Scene(Raster.of(image, labels, NAMES), place, "x")
    expected = [[plane[labels == i].mean() for plane in image] for i in np.unique(labels)[1:]]
    with served("x", scene) as address:
        found: Any = zarr.open_group(urljoin(address, "store/table"), mode="r")
        assert found["obs/_index"][...].tolist() == [str(i) for i in np.unique(labels)[1:]]
        assert found["var/_index"][...].tolist() == NAMES
        np.testing.assert_allclose(found["X"][...], expected, rtol=1e-6)
        assert found["obs/kind"][...].tolist() == [kind or "none" for kind in kinds]
        scatter = found["obsm/scatter"][...]
    sets = scene.config["datasets"][0]["files"][-1]["options"]
    assert [one["path"] for one in sets] == ["obs/kind", "obs/region"]
    first = int(values_of(scene.config, "embeddingType")[0].startswith(NAMES[1]))
    low, high = np.percentile(expected, [0.5, 99.5], axis=0)
    scaled = (np.array(expected) - low) / (high - low)
    np.testing.assert_allclose(scatter, scaled[:, [first, 1 - first]], rtol=1e-5, atol=1e-6)


def test_of_a_table_of_several_layers_the_rows_of_the_first_are_shown(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (60, 70))
    inner = np.where(labels == 15, labels, 0)
    place, raster = tmp_path / "table.zarr", Raster.of(image, {"inner": inner}, NAMES)
    instances = hc.find_instances(inner)
    aggregate_to_store(
        image, inner, place, instances, "mean", NAMES, region="inner", layers={"cells": labels}
    )
    with served("x", Scene(raster, place, "x")) as address:
        found: Any = zarr.open_group(urljoin(address, "store/table"), mode="r")
        assert found["obs/_index"][...].tolist() == ["15"]
        expected = [[plane[labels == 15].mean() for plane in image]]
        np.testing.assert_allclose(found["X"][...], expected, rtol=1e-6)


def test_of_one_channel_the_scatter_plot_shows_the_places(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (60, 70))
    aggregate_to_store(
        image[:1], labels, tmp_path / "t.zarr", hc.find_instances(labels), "mean", ["DAPI"]
    )
    scene = Scene(Raster.of(image[:1], labels, ["DAPI"]), tmp_path / "t.zarr", "x")
    assert values_of(scene.config, "embeddingType") == ["centroids"]
    with served("x", scene) as address:
        found = zarr.open_array(urljoin(address, "store/table/obsm/scatter"), mode="r")[...]
    places = anndata.read_zarr(tmp_path / "t.zarr").obsm["spatial"]
    np.testing.assert_allclose(found * places.max(), places * [1, -1], rtol=1e-5)


@pytest.mark.parametrize("cut", [True, False])
def test_pictures_are_the_crops_in_the_colours_of_the_channels(tmp_path: Path, cut: bool) -> None:
    image, labels = tissue((5, 7), (60, 70))
    place = measured(tmp_path, image, labels)
    options: dict[str, Any] = {"window": 11}
    if cut:
        hc.extract_instances(
            image, labels, tmp_path / "c.zarr", diameter=11, channels=NAMES, index=[5, 65]
        )
        options = {"crops": tmp_path / "c.zarr"}
    scene = Scene(Raster.of(image, labels, NAMES), place, "x", **options)
    kinds = ("spatialTargetC", "spatialChannelWindow", "spatialChannelColor")
    drawn = list(zip(*(values_of(scene.config, kind) for kind in kinds), strict=False))
    padded = np.pad(image, ((0, 0), (20, 20), (20, 20)))
    mask = np.pad(labels, 20)
    with served("x", scene) as address:
        for label in (5, 65):
            found = requests.get(urljoin(address, f"crops/{label}"), timeout=10).content
            pixels = np.frombuffer(found, np.uint8).reshape(11, 11, 4)
            y, x = (np.rint(at.mean()).astype(int) + 20 for at in np.nonzero(labels == label))
            inside = (slice(y - 5, y + 6), slice(x - 5, x + 6))
            expected = np.zeros((11, 11, 3))
            for channel, (low, high), colour in drawn:
                crop = padded[channel][inside] * ((mask[inside] == label) | (not cut))
                shares = np.clip((crop - low) / (high - low), 0, 1)
                expected += shares[..., np.newaxis] * colour
            np.testing.assert_allclose(pixels[..., :3], np.minimum(expected, 255), atol=3)
            assert (pixels[..., 3] == 255).all()
        # Only some have a crop.
        status = requests.get(urljoin(address, "crops/15"), timeout=10).status_code
        assert status == (404 if cut else 200)
        for other in ("crops/6", "crops/x", "crops/", "store/image/0/c/9/9/9", "store/x", "x"):
            assert requests.get(urljoin(address, other), timeout=10).status_code == 404


def test_what_cannot_be_shown_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster, scene = small(tmp_path)
    assert scene.left_out == ["The scale bar is of pixels: how large they are is not known."]
    assert (scene.instances, values_of(scene.config, "spatialZoom")) == (12, [])
    monkeypatch.setattr(scenes, "LARGEST_LABEL", 114)
    monkeypatch.setattr(elements, "MOST_VALUES", 23)
    monkeypatch.setattr(scenes, "MOST_VALUES", 23)
    for module in (levels, scenes):
        monkeypatch.setattr(module, "WHOLE", 100)
    scene = Scene(raster, tmp_path / "table.zarr", "x")
    told = ["cells are not drawn", "is no heat map", "image is black", "scale bar is of pixels"]
    assert len(scene.left_out) == len(told)
    for part, line in zip(told, scene.left_out, strict=True):
        assert part in line
        assert line in (scene.get("") or b"").decode()
    kinds = {file["fileType"] for file in scene.config["datasets"][0]["files"]}
    assert kinds == KINDS - {"obsSegmentations.ome-zarr"}
    assert "heatmap" not in {view["component"] for view in scene.config["layout"]}
    # A column is read by itself then.
    columns = [scene.get(f"store/table/X/c/0/{n}") or b"" for n in range(2)]
    found = np.stack([np.frombuffer(column, "<f4") for column in columns], axis=1)
    local = anndata.read_zarr(tmp_path / "table.zarr")
    np.testing.assert_allclose(found, local.layers["mean"], rtol=1e-6)
    # It begins at the fullest field, here the whole image.
    assert values_of(scene.config, "spatialTargetX") == [35]
    assert values_of(scene.config, "spatialTargetY") == [30]


def test_pixels_have_the_side_that_the_metadata_say(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (60, 70))
    raster = Raster(image, {"labels": labels}, NAMES, spacing=(0.5, 0.25))
    scene = Scene(raster, measured(tmp_path, image, labels), "x")
    assert scene.left_out == []
    for name in ("image", "labels"):
        attributes = json.loads(scene.get(f"store/{name}/zarr.json") or b"")["attributes"]
        level = attributes["ome"]["multiscales"][0]["datasets"][0]
        assert level["coordinateTransformations"][0]["scale"][-2:] == [0.5, 0.25]


def test_a_table_of_other_labels_is_refused(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (60, 70))
    place = measured(tmp_path, image, labels)
    with pytest.raises(InputError, match="is not one of these labels"):
        Scene(Raster.of(image, labels + 1, NAMES), place, "x")
