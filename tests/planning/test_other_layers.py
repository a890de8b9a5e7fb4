"""What is wrong with the labels of other layers is told before anything is measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tifffile
import zarr
from stores import cells, ngff, ome_zarr

import harpy_core as hc
from harpy_core.aggregate.layers import made_layers, opened_layers
from harpy_core.config.cases import image_cases
from harpy_core.planning import forecast, preflight
from harpy_core.planning.inspection import inspect
from harpy_core.planning.rasters import source_raster
from harpy_core.raster import open_described


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image with labels of its own, and files that may be labels of it."""
    ome_zarr(tmp_path / "i.zarr", "0.5")
    ngff(zarr.open_group(tmp_path / "i.zarr"), "labels/nuclei", cells() // 7, "yx", "0.5")
    tifffile.imwrite(tmp_path / "mask.tif", (cells() > 0).astype("u1") * 255)
    tifffile.imwrite(tmp_path / "small.tif", cells()[:30])
    tifffile.imwrite(tmp_path / "half.tif", cells()[::2, ::2])
    tifffile.imwrite(tmp_path / "floats.tif", cells().astype("f4") / 2)
    zarr.create_array(tmp_path / "bool.zarr", data=cells() > 0)
    (tmp_path / "text.tif").write_text("no TIFF")
    (tmp_path / "cells.geojson").write_text("[]")
    return tmp_path


def config(folder: Path, layer: Any, name: str = "nucleus", **case: Any) -> dict[str, Any]:
    section = layer if isinstance(layer, dict) else {"labels": layer}
    if section.get("labels", "nuclei") not in ("nuclei", "nuclea"):
        section = {**section, "labels": str(folder / section["labels"])}
    source = {"uri": str(folder / "i.zarr"), "labels": "cells"}
    measured = {"stats": ["mean"], "layers": {name: section}}
    return {"cases": {"c": {"source": source, "aggregate": measured, **case}}}


TILE = {"c": 3, "y": 80, "x": 100, "chunks": [1, 16, 16]}
INTO = {"into_store": True}


@pytest.mark.parametrize(
    ("layer", "more", "told"),
    [
        ("nuclea", {}, r"nucleus\.labels = nuclea: no such labels element: there are cells"),
        ("none.tif", {}, r"nucleus\.labels = .*: no such labels element"),
        ("text.tif", {}, r"nucleus\.labels = .*: is not a TIFF"),
        ("cells.geojson", {"tile": TILE}, r"nucleus\.labels = .*: tile repeats a label image"),
        ("mask.tif", {"table": INTO}, r"nucleus\.labels = .*: table\.into_store annotates labels"),
        ("nuclei", {"name": "cells"}, "layers.cells = cells: is the name of the source's labels"),
        ("nuclei", {"tile": TILE, "name": "labels"}, "calls the source's labels labels"),
        ({"expand": 2, "label_connected": True}, {}, "label_connected goes with labels"),
    ],
)
def test_a_layer_that_is_not_there_is_told_while_the_config_is_read(
    layer: Any, more: dict[str, Any], told: str, folder: Path
) -> None:
    with pytest.raises(hc.InputError, match=rf"^f\.yaml: cases\.c.*{told}[^\n]*$"):
        preflight.checked(config(folder, layer, **more), "f.yaml")


@pytest.mark.parametrize("name", ["table", "table_nucleus"])
def test_an_element_of_the_users_own_is_told_while_the_config_is_read(
    name: str, folder: Path
) -> None:
    zarr.open_group(folder / "i.zarr").require_group(f"tables/{name}")
    with pytest.raises(hc.InputError, match=rf"tables/{name} is there already, and is not ours"):
        preflight.checked(config(folder, "nuclei", table=INTO), "f.yaml")
    preflight.checked(config(folder, "nuclei", table={**INTO, "name": "mine"}), "f.yaml")
    preflight.checked(config(folder, "nuclei", table={**INTO, "overwrite": True}), "f.yaml")


def test_a_layer_is_looked_for_once_though_all_fields_have_it(folder: Path) -> None:
    given = config(folder, "nuclea")
    case = given["cases"]["c"]
    case["fields"] = dict.fromkeys(("a", "b"), case.pop("source"))
    with pytest.raises(hc.InputError) as error:
        preflight.checked(given, "f.yaml")
    assert str(error.value).count("\n") == 0


WRONG = [
    ("small.tif", r"\(30, 50\) do not cover the same pixels"),
    ("half.tif", r"do not cover the same pixels as the image.* give scale: 2$"),
    ("bool.zarr", "labels are bool, a binary mask: label_connected: true"),
    (
        {"labels": "half.tif", "scale": 1.5},
        "scale 1.5, .*; give whole numbers of at least 1, or resample",
    ),
]


@pytest.mark.parametrize(("layer", "told"), WRONG)
def test_a_layer_that_cannot_be_measured_is_told_by_check_and_plan_and_before_the_job(
    layer: Any, told: str, folder: Path
) -> None:
    checked = preflight.checked(config(folder, layer), "f.yaml")
    text, (problem,) = inspect(checked)
    assert re.fullmatch(f"c: layer nucleus: .*{told}.*", problem)
    assert "cannot be used" in text
    with pytest.raises(hc.InputError, match=f"layer nucleus: labels = .*{told}") as planned:
        forecast.table(checked)
    assert "\n" not in str(planned.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("floats.tif", "one is 3.5: floats are taken if all are whole"),
        ("mask.tif", "the only label is 255, as in a binary mask"),
    ],
)
def test_a_sample_of_the_pixels_of_a_layer_is_checked(name: str, told: str, folder: Path) -> None:
    text, _ = inspect(preflight.checked(config(folder, name), "f.yaml"))
    assert told in text.partition("layer nucleus")[2]


def test_a_mask_can_be_a_layer_and_is_told_of_where_it_is_not_said_to_be_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = {}
    for connected in (False, True):
        layer = {"labels": "mask.tif", "label_connected": connected}
        checked = preflight.checked(config(folder, layer), "f.yaml")
        text, problems = inspect(checked)
        assert not problems
        assert ("connected pieces of a mask" in text) == connected
        assert forecast.table(checked)
        case = image_cases(checked)["c"]
        info, _ = source_raster(case)
        sections = case.aggregate.model_dump()["layers"]
        raster = open_described(info)
        layers = made_layers(sections, raster, opened_layers(info, sections))
        tables = hc.aggregate_layers(raster.image, {**raster.layers, **layers}, "mean")
        found[connected] = tables["nucleus"].obs["instance_id"].tolist()
    assert found == {False: [255], True: [1, 2]}
    warned = [r.getMessage() for r in caplog.records if "mask" in r.getMessage()]
    assert len(warned) == 1
    assert warned[0].startswith("nucleus: 1 instance: the only label is 255")
