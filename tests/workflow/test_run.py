"""The workflow from end to end, on the embedded sample tiled to a small size."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import psutil
import tifffile
import zarr
from calls import command, rules_of, small_config, snakemake, write_config

from harpy_core.raster import RasterInfo, open_described
from harpy_core.storage.manifest import read_manifest, tree_digest

Changed = Callable[[Callable[[dict[str, Any]], Any]], set[str]]
GATHERED = {"report", "index"}
MEASURED = {"sweep", "figure_sweep", "figure_benchmark", "figure_overview"}


def test_every_result_is_there(finished: Path) -> None:
    results = finished / "results"
    for name in ("source.json", "tiled.json", "instances.zarr", "benchmark/sweep.csv"):
        assert (results / "ihc" / name).exists()
    for figure in ("tissue", "crops", "heatmap", "aggregate", "extract"):
        assert (results / f"ihc/figures/{figure}.png").read_bytes().startswith(b"\x89PNG")
    for store in ("tiled", "instances", "table", "crops"):
        assert read_manifest(results / f"ihc/{store}.manifest.json")["digest"]


def test_table_and_crops_hold_every_instance(finished: Path) -> None:
    table = anndata.read_zarr(finished / "results/ihc/table.zarr")
    crops = zarr.open_group(finished / "results/ihc/crops.zarr", mode="r")
    assert table.shape[1] == 6
    assert set(table.layers) >= {"mean", "std", "min", "max"}
    assert set(table.obs["instance_id"]) == set(np.asarray(crops["instance_id"][...]))
    assert crops["image"].shape == (table.shape[0], 6, 1, 32, 32)


def test_sweep_has_a_row_for_every_measured_run(finished: Path) -> None:
    with (finished / "results/ihc/benchmark/sweep.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["stage"], row["workers"]) for row in rows] == [
        ("aggregate", "1"),
        ("extract", "1"),
    ]
    assert all(float(row["peak_rss_gb"]) > 0 for row in rows)


def test_report_holds_every_figure_and_needs_no_network(finished: Path) -> None:
    with zipfile.ZipFile(finished / "results/report.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
        page = archive.read("report/report.html").decode()
    assert names >= {"tissue.png", "crops.png", "heatmap.png", "aggregate.png", "extract.png"}
    assert 'src="http' not in page
    assert "gallery of crops" in page


def test_every_rule_leaves_a_log_that_says_it_is_done(finished: Path) -> None:
    # The rule view belongs to no run; a test of its own calls it.
    logs = [log for log in (finished / "logs").rglob("*.log") if log.name != "view.log"]
    assert len(logs) == 20
    for log in logs:
        assert "done in" in log.read_text(encoding="utf-8"), log


def test_a_second_run_does_nothing(finished: Path) -> None:
    ended = snakemake(finished)
    assert ended.returncode == 0
    assert "Nothing to be done" in ended.stderr + ended.stdout


def test_a_changed_statistic_reruns_the_table_and_what_follows(changed: Changed) -> None:
    rules = changed(lambda case: case["aggregate"].update(stats=["mean", "var"]))
    assert rules == {"aggregate", "figure_heatmap", "page"} | GATHERED


def test_a_changed_window_reruns_the_crops_and_what_follows(changed: Changed) -> None:
    rules = changed(lambda case: case["extract"].update(diameter=24))
    assert rules == {"extract", "figure_crops", "page"} | GATHERED | MEASURED


def test_one_more_repeat_measures_only_that_one(changed: Changed) -> None:
    rules = changed(lambda case: case["benchmark"].update(repeats=2))
    assert rules == GATHERED | MEASURED


def test_one_read_for_the_table_and_the_crops_gives_the_same(
    finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    config = small_config()
    config["cases"]["ihc"] |= {"one_read": True, "benchmark": None}
    write_config(folder, config)
    kept = [f"results/ihc/{store}" for store in ("table", "crops")]
    for store in kept:
        shutil.rmtree(folder / f"{store}.zarr")
        (folder / f"{store}.manifest.json").unlink()
    ended = snakemake(folder, *(f"{store}.manifest.json" for store in kept))
    assert ended.returncode == 0, ended.stderr
    assert json.loads((folder / "results/ihc/one_read.json").read_text()) == {"read": True}
    for store in kept:
        made, before = (Path(at, f"{store}.manifest.json") for at in (folder, finished))
        assert made.read_bytes() == before.read_bytes()
    # Both went on from what was committed.
    table, crops = (
        (folder / f"logs/ihc/{rule}.log").read_text() for rule in ("aggregate", "extract")
    )
    assert "2 of 2 tasks were done by an earlier run" in table
    assert "a run with other inputs" not in table + crops
    again = snakemake(folder, *(f"{store}.manifest.json" for store in kept))
    assert "Nothing to be done" in again.stderr + again.stdout


def test_a_run_killed_while_tiling_is_repeated_with_the_right_pixels(
    finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    config = small_config()
    # Some hundred files, so that there is time to kill it between two of them.
    config["cases"]["ihc"]["tile"] |= {"y": 3000, "x": 3000, "chunks": [1, 128, 128]}
    write_config(folder, config)
    target = "results/ihc/tiled.manifest.json"
    kill_when(folder, "results/ihc/.tiled.zarr.work-*", target)
    assert not (folder / target).exists()

    assert snakemake(folder, "--unlock").returncode == 0
    ended = snakemake(folder, target)
    assert ended.returncode == 0, ended.stderr
    assert not list((folder / "results/ihc").glob(".*.work-*"))
    source = open_described(RasterInfo.from_json(folder / "results/ihc/source.json"))
    tiled = open_described(RasterInfo.from_json(folder / "results/ihc/tiled.json"))
    expected = np.tile(source.image[...], (2, 6, 6))[:, :3000, :3000]
    np.testing.assert_array_equal(tiled.image[...], expected)


STOPS_AT_COMMIT = """
import os, time

real, committed = os.replace, []


def replace(source, target, **options):
    real(source, target, **options)
    if "commits" in os.fspath(target):
        committed.append(target)
        if len(committed) == 3:
            open("stopped", "w").close()
            time.sleep(600)


os.replace = replace
"""
"""Python runs it in every process of a run: the third commit of a stage never returns."""


def test_a_stage_ends_when_snakemake_alone_is_killed_and_its_commits_are_gone_on_with(
    finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(folder / "results/ihc/crops.zarr")
    manifest = "results/ihc/crops.manifest.json"
    (folder / manifest).unlink()
    (folder / "hook").mkdir()
    (folder / "hook/sitecustomize.py").write_text(STOPS_AT_COMMIT)
    kill_when(folder, "stopped", manifest, hook=folder / "hook", alone=True)
    assert not (folder / manifest).exists()
    assert "is gone: stopping" in (folder / "logs/ihc/extract.log").read_text()
    committed = files_of(folder, ".crops.zarr.work-*/store/image/c")
    assert len(committed) >= 2

    assert snakemake(folder, "--unlock").returncode == 0
    ended = snakemake(folder, manifest)
    assert ended.returncode == 0, ended.stderr
    assert not list((folder / "results/ihc").glob(".*.work-*"))
    assert read_manifest(folder / manifest) == read_manifest(finished / manifest)
    # The very files: nothing that was committed is made again.
    assert committed.items() <= files_of(folder, "crops.zarr/image/c").items()
    for name in ("instances", "table"):
        store = f"results/ihc/{name}.zarr"
        assert tree_digest(folder / store) == tree_digest(finished / store), name


def files_of(folder: Path, pattern: str) -> dict[str, tuple[int, int]]:
    """Files below a folder of the results, each with what tells it from a copy of itself."""
    (root,) = (folder / "results/ihc").glob(pattern)
    files = {path: path.stat() for path in root.rglob("*") if path.is_file()}
    return {str(p.relative_to(root)): (s.st_ino, s.st_mtime_ns) for p, s in files.items()}


def kill_when(
    folder: Path, pattern: str, target: str, hook: Path | None = None, alone: bool = False
) -> None:
    """Start the run, and kill it once a file like `pattern` is there.

    Parameters
    ----------
    hook
        Folder of modules for every process of the run.
    alone
        Kill Snakemake alone, and wait until all its children have ended by themselves; else all.
    """
    paths = [str(hook)] if hook else []
    paths += [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    run = subprocess.Popen(
        command(target),
        cwd=folder,
        env=os.environ | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {}),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: list(folder.glob(pattern)) or run.poll() is not None, 120)
        assert run.poll() is None, "the run ended before it could be killed"
        if alone:
            run.kill()
            run.wait()
            wait_for(lambda: not members(run.pid), 30)
    finally:
        if members(run.pid):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def wait_for(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def members(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, psutil.Error):
            if os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def test_a_users_tiffs_functions_and_model_come_out_of_workers_as_numpy_has_them(
    tmp_path: Path,
) -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 4096, (2, 64, 80)).astype(np.uint16)
    labels = np.zeros((64, 80), np.uint16)
    labels[5:15, 5:15], labels[30:50, 60:80] = 3, 9
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}}
    tifffile.imwrite(tmp_path / "image.ome.tif", image, metadata=metadata)
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    code = tmp_path / "own.py"
    code.write_text(
        "import numpy as np\n"
        "def span(pixels, coordinates):\n"
        "    return np.ptp(pixels)\n"
        "def network(crops):\n"
        "    return crops.max(axis=(2, 3))\n"
    )
    case = {
        "source": {"uri": "image.ome.tif", "labels": "labels.tif"},
        "aggregate": {
            "stats": ["mean", "own:span", "pearson_corr_coeff"],
            "pairs": [["DAPI", "CD3"]],
            "whole_channels": True,
        },
        "extract": {"diameter": [8, 6]},
        "embed": {"model": "own:network", "channels": ["CD3"], "normalise": "channels"},
    }
    # Workers are asked for: so small a stage would start none.
    write_config(tmp_path, {"cases": {"own": case}, "cluster": {"workers": 1}})
    targets = [f"results/own/{name}.manifest.json" for name in ("table", "embedding")]
    # The pictures too are drawn by what is known of whole channels.
    pictures = [f"results/own/figures/{name}.png" for name in ("tissue", "crops")]
    ended = snakemake(tmp_path, *targets, *pictures)
    assert ended.returncode == 0, ended.stderr
    table = anndata.read_zarr(tmp_path / "results/own/table.zarr")
    assert list(table.var_names) == ["DAPI", "CD3"]
    inside = [[image[c][labels == i] for c in range(2)] for i in (3, 9)]
    means, spans = ([[f(x) for x in row] for row in inside] for f in (np.mean, np.ptp))
    np.testing.assert_array_equal(table.layers["mean"], means)
    np.testing.assert_array_equal(table.layers["span"], spans)
    expected = [np.corrcoef(*row)[0, 1] for row in inside]
    np.testing.assert_allclose(table.obsm["pearson_corr_coeff"]["DAPI:CD3"], expected, 1e-9)
    np.testing.assert_allclose(table.var["whole_mean"], image.mean(axis=(1, 2)))
    found = anndata.read_zarr(tmp_path / "results/own/embedding.zarr")[table.obs_names]
    tops = [image[1, 6:14, 7:13].max(), image[1, 36:44, 67:73].max()]
    low, high = np.percentile(np.concatenate([row[1] for row in inside]), [1, 99])
    expected = np.clip((np.array(tops) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(found.obsm["X_embedding"][:, 0], expected, rtol=1e-6)

    code.write_text(code.read_text().replace("np.ptp(pixels)", "2 * np.ptp(pixels)"))
    again = snakemake(tmp_path, *targets, "--dry-run", "--quiet", "rules")
    assert rules_of(again.stdout + again.stderr) == {"aggregate", "embed"}
