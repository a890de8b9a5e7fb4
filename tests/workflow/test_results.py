"""Where results go: a folder for each config, and the user's own store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import spatialdata
import yaml
from calls import ROOT, rules_of, snakemake, started, write_config
from spatialdata.models import Image2DModel, Labels2DModel
from stores import NAMES, cells, pixels, tiffs

from harpy_core.storage.manifest import read_manifest


def test_two_configs_with_a_folder_each_leave_each_others_results_alone(tmp_path: Path) -> None:
    tiffs(tmp_path)
    for name, statistic in (("one", "mean"), ("two", "max")):
        source = {"uri": "image.ome.tif", "labels": "labels.tif"}
        case = {"source": source, "aggregate": {"stats": [statistic]}}
        config = {"cases": {"slide": case}, "results": f"of/{name}"}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for name in ("one", "two"):
        target = f"of/{name}/slide/table.manifest.json"
        start = ("--snakefile", str(ROOT / "Snakefile"), "--configfile", f"{name}.yaml")
        ended = started(tmp_path, *start, "--cores", "2", target)
        assert ended.returncode == 0, ended.stderr
    ended = started(
        tmp_path,
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--configfile",
        "one.yaml",
        "--cores",
        "1",
        "plan",
    )
    assert ended.returncode == 0, ended.stderr
    stats = {
        name: read_manifest(tmp_path / f"of/{name}/slide/table.manifest.json")["stats"]
        for name in ("one", "two")
    }
    assert stats == {"one": ["mean"], "two": ["max"]}
    logs = sorted(
        str(log.relative_to(tmp_path))
        for log in tmp_path.rglob("*.log")
        if ".snakemake" not in log.parts
    )
    assert logs == [
        "of/one/logs/plan.log",
        *(
            f"of/{name}/logs/slide/{rule}.log"
            for name in ("one", "two")
            for rule in ("aggregate", "instances", "source")
        ),
    ]
    assert not (tmp_path / "results").exists()


def test_a_table_in_the_users_store_is_no_reason_to_measure_again(tmp_path: Path) -> None:
    image = Image2DModel.parse(pixels(), dims=("c", "y", "x"), c_coords=NAMES)
    labels = Labels2DModel.parse(cells(), dims=("y", "x"))
    nuclei = Labels2DModel.parse(np.where(np.arange(50) % 2, cells(), 0), dims=("y", "x"))
    both = {"cells": labels, "nuclei": nuclei}
    store = spatialdata.SpatialData(images={"image": image}, labels=both)
    store.write(tmp_path / "user.zarr")
    case = {
        "source": {"uri": "user.zarr", "labels": "cells"},
        "aggregate": {"stats": ["mean"], "layers": {"inner": {"labels": "nuclei"}}},
        "table": {"into_store": True, "shapes": ["boxes"]},
    }
    write_config(tmp_path, {"cases": {"slide": case}})
    target = "results/slide/into_store.json"
    ended = snakemake(tmp_path, target)
    assert ended.returncode == 0, ended.stderr
    read = spatialdata.read_zarr(tmp_path / "user.zarr")
    expected = [[plane[cells() == i].mean() for plane in pixels()] for i in (7, 9)]
    np.testing.assert_array_equal(read["table"].X, expected)
    assert list(read["cells_boxes"].index) == [7, 9]
    inner = [[plane[:, 1::2][cells()[:, 1::2] == i].mean() for plane in pixels()] for i in (7, 9)]
    np.testing.assert_array_equal(read["table_inner"].X, inner)
    assert set(read["table_inner"].obs["region"]) == {"nuclei"}
    elements = ["tables/table", "tables/table_inner", "shapes/cells_boxes"]
    assert read_manifest(tmp_path / target)["elements"] == elements
    again = snakemake(tmp_path, target)
    assert "Nothing to be done" in again.stderr + again.stdout

    case["aggregate"] = {"stats": ["max"]}
    write_config(tmp_path, {"cases": {"slide": case}})
    ended = snakemake(tmp_path, target)
    assert ended.returncode == 0, ended.stderr
    assert rules_of(ended.stdout + ended.stderr) == {"aggregate", "into_store"}
    read = spatialdata.read_zarr(tmp_path / "user.zarr")
    assert list(read["table"].layers) == ["max"]

    read["mine"] = read["table"].copy()
    read.write_element("mine")
    case["table"] = {"into_store": True, "name": "mine"}
    write_config(tmp_path, {"cases": {"slide": case}})
    ended = snakemake(tmp_path, target)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "config.yaml: cases.slide.source.uri = user.zarr: tables/mine is there already, and is not "
        "ours; choose another table.name, or table.overwrite: true"
    )
