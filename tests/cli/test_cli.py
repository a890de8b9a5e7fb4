"""The command line: the same results as the package's functions, and mistakes in one line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import requests
import tifffile
from page_servers import packed
from servers import Bucket

import harpy_core as hc
from harpy_core.cli.commands import run
from harpy_core.config.models import Aggregate, Cluster, Extract, Source
from harpy_core.datasets import fetch


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "ihc.zarr"
    fetch("ihc", path)
    return path


class Typed:
    """Runs commands in this process, in a folder of the test's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self._monkeypatch.setattr(sys, "argv", ["harpy-core", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run()
        said = self._capsys.readouterr()
        return ended.value.code, said.out, said.err


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> Typed:
    monkeypatch.chdir(tmp_path)
    return Typed(monkeypatch, capsys)


def test_a_finished_store_is_copied_to_a_bucket(typed: Typed, store: Path, bucket: Bucket) -> None:
    options = ("--storage-options", f"{{endpoint_url: {bucket.endpoint}}}")
    code, out, _ = typed("publish", store, "s3://results/ihc.zarr", *options)
    assert code == 0
    assert out.startswith("s3://results/ihc.zarr: ")
    assert "zarr.json" in bucket.objects("ihc.zarr/")


def test_results_in_a_bucket_are_those_of_a_folder(
    typed: Typed, store: Path, bucket: Bucket, tmp_path: Path
) -> None:
    options = ("--output-options", f"{{endpoint_url: {bucket.endpoint}}}")
    for job in (["aggregate"], ["extract", "--diameter", 20]):
        call = [job[0], store, *job[1:], "--channels", "dab"]
        assert typed(*call, "-o", "here.zarr")[0] == 0
        code, out, said = typed(*call, "-o", f"s3://results/{job[0]}", *options)
        assert (code, out.startswith(f"s3://results/{job[0]}: 484 ")) == (0, True)
        assert ("to a bucket (0 B on disk meanwhile)" in said) == (job[0] == "extract")
        here = tmp_path / "here.zarr"
        found = {p.relative_to(here).as_posix(): p for p in here.rglob("*") if p.is_file()}
        there = bucket.objects(f"{job[0]}/")
        assert there == {name: path.read_bytes() for name, path in found.items()}
        shutil.rmtree(here)
        code, _, said = typed(*call, "-o", f"s3://results/{job[0]}", *options)
        assert (code, said.endswith(", or give --overwrite\n")) == (2, True)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("output", "options", "told"),
    [
        ("here", "{anon: true}", "--output-options: here is a path; leave them out"),
        ("s3://results/x", "{secret: abc}", "--output-options: secret may be a secret"),
        ("s3://results/x", "{endpoint_url", "--output-options = {endpoint_url: "),
        ("s3://nowhere/x", None, "make the bucket, or correct the address"),
        ("gs://results/x", None, "give an address like s3://bucket/folder/store.zarr"),
    ],
)
def test_an_address_that_cannot_be_written_is_told_in_one_line(
    output: str,
    options: str | None,
    told: str,
    typed: Typed,
    store: Path,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    given = [] if options is None else ["--output-options", options]
    code, _, said = typed("aggregate", store, "-o", output, *given)
    assert (code, said.count("\n")) == (2, 1)
    assert told in said


@pytest.mark.parametrize("workers", [[], ["--cores", 1]])
def test_the_table_is_that_of_aggregate_stats(
    typed: Typed, store: Path, workers: list[object]
) -> None:
    call = ["aggregate", store, "-o", "table.zarr", "--stats", "mean,std", *workers]
    code, out, _ = typed(*call, "--channels", "eosin,dab")
    assert (code, out) == (0, "table.zarr: 484 instances x 2 channels\n")
    found = anndata.read_zarr("table.zarr")
    raster = hc.open_raster(store, channels=["eosin", "dab"])
    expected = hc.aggregate_stats(raster.image, raster.labels, ("mean", "std"), raster.channels)
    assert list(found.var_names) == ["eosin", "dab"]
    assert (found.obs["instance_id"] == expected.obs["instance_id"]).all()
    for name in ("mean", "std"):
        assert np.array_equal(found.layers[name], expected.layers[name])
    assert found.uns["spatialdata_attrs"]["region"] == "labels"


def test_the_table_has_shapes_neighbours_and_layers(typed: Typed, store: Path) -> None:
    layers = "{grown: {expand: 2}, rest: {of: grown, without: grown}}"
    options = ["--stats", "mean,area,perimeter", "--neighbors", "touching", "--spacing", "0.5,0.5"]
    call = ["aggregate", store, "-o", "table.zarr", *options, "--layers", layers]
    assert typed(*call, "--channels", "dab")[0] == 0
    found = anndata.read_zarr("table.zarr")
    raster = hc.open_raster(store, channels=["dab"])
    grown = hc.expand_labels(raster.labels, 2)
    for region, labels in ((next(iter(raster.layers)), raster.labels), ("grown", grown)):
        expected = hc.aggregate_stats(
            raster.image,
            labels,
            ("mean", "area", "perimeter"),
            spacing=(0.5, 0.5),
            neighbors="touching",
        )
        rows = np.flatnonzero(found.obs["region"] == region)
        np.testing.assert_array_equal(found.X[rows], expected.X)
        np.testing.assert_array_equal(found.obs["perimeter"].iloc[rows], expected.obs["perimeter"])
        borders = found.obsp["spatial_borders"].tocsr()[rows][:, rows]
        assert (borders != expected.obsp["spatial_borders"]).nnz == 0
    assert set(found.obs["region"]) == {next(iter(raster.layers)), "grown"}


def test_micrometres_of_an_image_without_a_scale_are_told(typed: Typed, store: Path) -> None:
    call = ["aggregate", store, "-o", "table.zarr", "--stats", "area", "--spacing", "metadata"]
    code, _, said = typed(*call)
    assert code == 2
    assert "spacing = metadata: the metadata do not say how large a pixel is" in said
    assert not Path("table.zarr").exists()


def test_tiffs_with_a_label_tiff_are_measured(typed: Typed, tmp_path: Path) -> None:
    image = np.arange(2 * 64 * 64, dtype=np.uint16).reshape(2, 64, 64)
    labels = np.zeros((64, 64), np.uint32)
    labels[8:16, 8:16] = 7
    tifffile.imwrite("image.ome.tif", image, metadata={"axes": "CYX"})
    tifffile.imwrite("cells.tif", labels)
    assert typed("aggregate", "image.ome.tif", "cells.tif", "-o", "table.zarr")[0] == 0
    found = anndata.read_zarr("table.zarr")
    assert found.obs["instance_id"].to_list() == [7]
    assert found.layers["mean"].tolist() == [image[:, 8:16, 8:16].mean(axis=(1, 2)).tolist()]


def test_the_crops_are_those_of_extract_instances(typed: Typed, store: Path) -> None:
    chosen = ["--diameter", 24, "--index", "9,3", "--no-remove-background", "--extract-mask"]
    code, out, _ = typed("extract", store, "labels", "-o", "crops.zarr", *chosen)
    assert (code, out) == (0, "crops.zarr: 2 crops of 3 channels\n")
    raster = hc.open_raster(store)
    expected = hc.extract_instances(
        raster.image,
        raster.labels,
        "expected.zarr",
        diameter=24,
        index=[3, 9],
        remove_background=False,
        extract_mask=True,
        channels=raster.channels,
    )
    assert hc.open_crops("crops.zarr").digest == expected.digest


def test_labels_to_crop_may_be_in_a_file(typed: Typed, store: Path) -> None:
    Path("chosen.txt").write_text("5\n17\n")
    assert typed("extract", store, "-o", "crops.zarr", "--index", "chosen.txt")[0] == 0
    assert hc.open_crops("crops.zarr").instance_id.tolist() == [5, 17]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--diameter", "0"], "--diameter = 0: a window must be at least 1 pixel"),
        (["--diameter", "wide"], "--diameter = wide: a window must be at least 1 pixel"),
        (["--codec", "zst"], "--codec = zst: choose from lz4, zstd, none (did you mean zstd?)"),
        (["--dtype", "float16"], "give both, such as dtype='float16'"),
        (["--engine", "numa"], "engine"),
        (["--cluster", "address"], "give an address with the kind address, and only with it"),
        (["--memory-limit", "much"], "--memory-limit = much: a size is a number and a unit"),
        (["--index", "3,99999"], "index: 1 of 2 labels are not in the segmentation"),
        (["--channels", "dapi"], "dapi"),
        (["--diametre", "3"], "No such option"),
        (["--memory-limit", "1MB", "--cores", "1"], "--memory-limit = 1MB: a worker of extract"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    typed: Typed, store: Path, words: list[str], line: str
) -> None:
    code, out, err = typed("extract", store, "-o", "crops.zarr", *words)
    assert (code, out) == (2, "")
    *announced, last = err.splitlines()
    assert last.startswith("harpy-core: ")
    assert line in last
    assert all(told.startswith("extract: ") for told in announced)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("command", ["aggregate", "extract", "fetch"])
def test_a_result_is_replaced_only_when_told(typed: Typed, store: Path, command: str) -> None:
    what = "ihc" if command == "fetch" else store
    mine = Path("there.zarr/mine.txt")
    mine.parent.mkdir()
    mine.write_text("precious")
    code, _, err = typed(command, what, "-o", "there.zarr")
    assert code == 2
    assert err == (
        "harpy-core: there.zarr: already there; choose another path, or give --overwrite\n"
    )
    assert mine.read_text() == "precious"
    assert typed(command, what, "-o", "there.zarr", "--overwrite")[0] == 0
    assert not mine.exists()
    assert Path("there.zarr/zarr.json").is_file()


def test_an_error_on_the_way_leaves_no_table(typed: Typed, store: Path) -> None:
    shutil.copytree(store, "broken.zarr")
    chunk = next(path for path in Path("broken.zarr/images").rglob("c/*/*/*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:100])
    code, _, err = typed("aggregate", "broken.zarr", "-o", "table.zarr")
    assert code == 2
    assert "broken.zarr" in err.splitlines()[-1]
    assert [path.name for path in Path().iterdir()] == ["broken.zarr"]


def test_check_and_plan_tell_of_an_image_and_write_nothing(typed: Typed, store: Path) -> None:
    code, out, _ = typed("check", store)
    assert code == 0
    assert "hematoxylin, eosin, dab" in out
    code, out, _ = typed("plan", store, "--diameter", 20)
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        "instances",
        "aggregate",
        "extract",
    ]
    assert typed("check", "nowhere.zarr")[0] == 2
    assert list(Path().iterdir()) == []


def test_a_registered_name_is_not_taken_for_a_path(typed: Typed) -> None:
    code, _, err = typed("aggregate", "ihc", "-o", "table.zarr")
    assert (code, "harpy-core fetch ihc -o ihc.zarr" in err) == (2, True)


def test_every_key_of_the_config_that_a_job_has_is_an_option(typed: Typed) -> None:
    shared = (set(Source.model_fields) - {"uri", "labels"}) | (set(Cluster.model_fields) - {"kind"})
    wanted = {
        "aggregate": shared | {"cluster", "engine"} | set(Aggregate.model_fields),
        "extract": shared | {"cluster", "engine"} | set(Extract.model_fields),
    }
    for command, keys in wanted.items():
        out = typed(command, "--help")[1]
        for key in keys:
            assert f"--{key.replace('_', '-')}" in out, key


def complete(*words: str) -> list[str]:
    """Return the completions that bash is offered for the last word."""
    asked = {
        "_HARPY_CORE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["harpy-core", *words]),
        "COMP_CWORD": str(len(words)),
    }
    code = (
        "import sys, harpy_core.cli as cli; import atexit\n"
        "atexit.register(lambda: sys.modules.get('numpy') and print('numpy'))\n"
        "cli.main()"
    )
    call = [sys.executable, "-c", code]
    ended = subprocess.run(call, env=os.environ | asked, capture_output=True, text=True)
    return [line.partition(",")[2] for line in ended.stdout.splitlines()]


def test_a_shell_completes_commands_options_and_values_without_numpy() -> None:
    assert complete("agg") == ["aggregate"]
    assert complete("extract", "x.zarr", "--diam") == ["--diameter"]
    assert complete("extract", "x.zarr", "--codec", "z") == ["zstd"]
    assert complete("aggregate", "x.zarr", "--stats", "mean,m") == [
        *(f"mean,{name}" for name in hc.STATISTICS if name.startswith("m") and name != "mean"),
        "mean,manders_overlap_coeff",
        "mean,manders_coloc_coeff",
    ]


def test_view_writes_a_page_of_the_table(typed: Typed, store: Path) -> None:
    assert typed("aggregate", store, "-o", "table.zarr")[0] == 0
    call = ["view", store, "--table", "table.zarr"]
    assert typed(*call, "-o", "view.html") == (0, "view.html: 484 instances\n", "")
    assert Path("view.html").read_text().startswith("<!doctype html>")
    code, _, told = typed(*call, "-o", "view.html")
    assert (code, "already there" in told) == (2, True)
    assert typed("extract", store, "-o", "crops.zarr", "--diameter", "32")[0] == 0
    bare = Path("view.html").stat().st_size
    assert typed(*call, "-o", "view.html", "--crops", "crops.zarr", "--overwrite")[0] == 0
    assert Path("view.html").stat().st_size > bare
    code, _, told = typed(*call, "-o", "other.html", "--crops", "nowhere.zarr")
    assert (code, told.count("\n"), "no finished crops there" in told) == (2, 1, True)
    code, _, told = typed(*call, "--crops", "crops.zarr")
    assert (code, told) == (
        2,
        "harpy-core: --crops = crops.zarr: a page shows them; give its --output, or --vitessce\n",
    )
    code, _, told = typed("view", store, "--table", "nowhere.zarr")
    assert (code, told) == (
        2,
        "harpy-core: nowhere.zarr: there is no such table; harpy-core aggregate makes one\n",
    )


def test_view_serves_a_page_until_it_is_interrupted(typed: Typed, store: Path) -> None:
    assert typed("aggregate", store, "-o", "table.zarr")[0] == 0
    packed(Path("npm"))
    call = ["view", str(store), "--table", "table.zarr"]
    command = [sys.executable, "-c", "import harpy_core.cli as cli; cli.main()", *call]
    command += ["--vitessce", "npm"]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Those whom a shell starts in the background are started without Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert run.stdout is not None
        address, told = run.stdout.readline().split(": ")
        assert told == "484 instances\n"
        assert requests.get(f"{address}vitessce.json", timeout=10).json()["name"] == store.name
        assert requests.get(f"{address}crops/7", timeout=10).status_code == 200
        run.send_signal(signal.SIGINT)
        out, errors = run.communicate(timeout=60)
    finally:
        run.kill()
    assert (run.returncode, out.splitlines()[-1], errors) == (0, "stopped", "")
    refused = {
        ("--vitessce", "nowhere"): "nowhere: no vitessce-4; in a folder of its own run: npm pack",
        ("--vitessce", "npm", "-o", "a.html"): "--vitessce = npm: its page is served, not written",
        ("--port", "8000"): "--port = 8000: only a served page has one; give --vitessce",
    }
    for options, expected in refused.items():
        code, _, told = typed(*call, *options)
        assert (code, told.count("\n"), expected in told) == (2, 1, True)
    assert not Path("a.html").exists()
