"""The workflow as a module of another one: from a folder, and from an address."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from calls import ROOT, Ended, rules_of, started, write_config
from servers import files_served
from stores import cells, pixels, tiffs

TABLE = "results/slide/table.manifest.json"

PARENT = """
configfile: "config.yaml"

module harpy:
    snakefile: "{snakefile}"
    config: config["cells"]

use rule * from harpy as harpy_*

rule all:
    default_target: True
    input: "summary.txt"

rule summary:
    input: "{table}"
    output: "summary.txt"
    shell: "cp {{input}} {{output}}"
"""


def parent(folder: Path, snakefile: str) -> Path:
    """A folder with a workflow of two rules that imports ours, and with an image."""
    folder.mkdir(exist_ok=True)
    tiffs(folder)
    source = {"uri": "image.ome.tif", "labels": "labels.tif"}
    case = {"source": source, "aggregate": {"stats": ["sum"]}}
    write_config(folder, {"cells": {"cases": {"slide": case}}})
    (folder / "Snakefile").write_text(PARENT.format(snakefile=snakefile, table=TABLE))
    return folder


def ran(folder: Path, *arguments: str) -> Ended:
    # As if the package were installed: a copy of the workflow alone has none to add.
    return started(folder, "--cores", "2", *arguments, environment={"PYTHONPATH": str(ROOT)})


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The workflow's own files without the package."""
    copy = tmp_path / "copy"
    for part in ("workflow", "scripts", "envs"):
        shutil.copytree(ROOT / part, copy / part)
    return copy


def test_a_parent_runs_its_own_target_and_ours_below_it(tmp_path: Path) -> None:
    folder = parent(tmp_path, str(ROOT / "workflow" / "Snakefile"))
    ended = ran(folder)
    assert ended.returncode == 0, ended.stderr
    table = anndata.read_zarr(folder / "results/slide/table.zarr")
    sums = [[int(plane[cells() == i].sum()) for plane in pixels()] for i in (7, 9)]
    np.testing.assert_array_equal(table.layers["sum"], sums)
    assert (folder / "summary.txt").read_text() == (folder / TABLE).read_text()
    assert "warning" not in ended.stderr.lower()

    reported = ran(folder, "harpy_report")
    assert reported.returncode == 0, reported.stderr
    assert (folder / "results/report.zip").stat().st_size > 100_000


def test_a_parent_imports_a_copy_without_the_package(tmp_path: Path, copied: Path) -> None:
    folder = parent(tmp_path / "own", f"file://{copied}/workflow/Snakefile")
    ended = ran(folder, "results/slide/source.json")
    assert ended.returncode == 0, ended.stderr


def test_a_parent_imports_the_workflow_from_an_address(tmp_path: Path, copied: Path) -> None:
    with files_served(copied) as server:
        folder = parent(tmp_path / "own", f"{server.url}/workflow/Snakefile")
        planned = ran(folder, "--dry-run", "--quiet", "rules")
        assert planned.returncode == 0, planned.stderr
        assert rules_of(planned.stdout + planned.stderr) == {
            "harpy_source",
            "harpy_instances",
            "harpy_aggregate",
            "summary",
        }
        ended = ran(folder, "results/slide/source.json")
        assert ended.returncode == 0, ended.stderr
    assert server.sent["/scripts/source.py"]
