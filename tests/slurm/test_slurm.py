"""The workflow and the Dask workers on a real SLURM of one node."""

from __future__ import annotations

import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import one_node
import pytest
import yaml
import zarr
from distributed import Client

from harpy_core.aggregate.aggregation import aggregate_stats
from harpy_core.config.models import Cluster
from harpy_core.errors import InputError
from harpy_core.running import cluster, lookout, schedule
from harpy_core.storage.manifest import read_manifest

OBSTACLE = one_node.obstacle()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no one-node SLURM: {OBSTACLE}"),
]

ROOT = Path(__file__).parents[2]
INSTANCES = "results/ihc/instances.manifest.json"
TABLE = "results/ihc/table.manifest.json"
CROPS = "results/ihc/crops.manifest.json"
MEASURED = "results/ihc/benchmark/sweep.csv"
BY_SLURM = (
    *("--profile", "slurm", "--retries", "0"),
    # Jobs of seconds: the profile's pause is meant for those of hours.
    *("--slurm-init-seconds-before-status-checks", "1"),
)
STORES = ("tiled", "instances", "table", "crops")
HERE = ("--cores", "2")
SMALL_WORKERS = {"workers": 2, "threads_per_worker": 1, "memory_limit": "1GB"}


@pytest.fixture(scope="module", autouse=True)
def node() -> Iterator[None]:
    """One node of eight cores, whatever the machine has."""
    # Not pytest's own folder: a socket's path may have no more than 107 characters.
    with tempfile.TemporaryDirectory(prefix="one-node-") as folder, one_node.one_node(Path(folder)):
        yield


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, and Dask on the loopback interface."""
    monkeypatch.chdir(tmp_path)
    # Workers import the package from here, installed or not.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Its defaults come with its import, which must not be undone with the setting.
    pytest.importorskip("dask_jobqueue")
    with dask.config.set({"jobqueue.slurm.interface": "lo"}):
        yield tmp_path


@pytest.fixture(scope="module")
def finished_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small config ran without SLURM."""
    folder = working_folder(tmp_path_factory.mktemp("here"))
    ended = snakemake(folder, *HERE, TABLE, CROPS)
    assert ended.returncode == 0, ended.stderr
    return folder


def working_folder(folder: Path, cluster: dict[str, Any] | None = None) -> Path:
    """A folder with the small config and, as in a clone, the profile."""
    case = {
        "source": {"uri": "ihc"},
        "tile": {"c": 6, "y": 1024, "x": 1024, "chunks": [3, 512, 512]},
        "aggregate": {"stats": ["mean", "std", "min", "max", "count"]},
        "extract": {"diameter": 32},
        "benchmark": {"workers": [1], "threads_per_worker": 1, "memory_limit": "2GB", "repeats": 1},
    }
    config = {"cases": {"ihc": case}, "cluster": cluster or {"kind": "local"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "slurm").symlink_to(ROOT / "slurm")
    return folder


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow in a folder; what comes last of `arguments` are the files to make."""
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    call = [*start, "--configfile", "config.yaml", *arguments]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=600)


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """Manifests that declare the stores of the case whole."""
    found = (folder / "results/ihc").glob("*.manifest.json")
    return {path.name: read_manifest(path) for path in found}


def test_workers_of_slurm_give_the_local_result(in_tmp_path: Path) -> None:
    rows, columns = np.mgrid[:96, :160]
    values = np.random.default_rng(0).integers(0, 4096, (3, 96, 160), dtype=np.uint16)
    image = zarr.create_array("image.zarr", data=values, chunks=(1, 48, 64))
    cells = (rows // 11 * 20 + columns // 9 + 1).astype(np.uint32)
    labels = zarr.create_array("labels.zarr", data=cells, chunks=(48, 64))
    stats = ("count", "mean", "std", "min", "max")

    with cluster.connect(Cluster(kind="slurm", queue="main", **SMALL_WORKERS), threads=1) as client:
        client.wait_for_workers(2, timeout=60)
        assert client.scheduler.address.startswith("tls://")
        assert all(worker.startswith("tls://") for worker in client.nthreads())
        (credentials,) = in_tmp_path.glob(".harpy-core-tls-*")
        assert stat.S_IMODE(credentials.stat().st_mode) == 0o700
        with pytest.raises(TypeError, match="ssl_context"):
            Client(client.scheduler.address, timeout="5s")
        queue = subprocess.check_output(["squeue", "--noheader"], text=True).splitlines()
        there = aggregate_stats(image, labels, stats=stats, client=client)
    here = aggregate_stats(image, labels, stats=stats)

    assert len(queue) == 2
    assert not credentials.exists()
    assert list((in_tmp_path / cluster.WORKER_LOGS).iterdir())
    assert there.obs.equals(here.obs)
    assert set(there.layers) == set(here.layers)
    for name in here.layers:
        np.testing.assert_array_equal(there.layers[name], here.layers[name])


@pytest.mark.usefixtures("in_tmp_path")
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"queue": "nowhere"}, "SLURM refuses the workers .*nowhere"),
        ({"memory_limit": "9TB"}, "SLURM refuses the workers .*not available"),
        ({"memory_limit": "30MB"}, "every worker ended before it came to work"),
    ],
)
def test_workers_that_cannot_come_are_told_of(setting: dict[str, Any], told: str) -> None:
    section = Cluster(kind="slurm", **(SMALL_WORKERS | setting))
    with pytest.raises(InputError, match=told), cluster.connect(section, threads=1):
        pass


@pytest.mark.usefixtures("in_tmp_path")
def test_a_stage_whose_workers_have_all_ended_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "ALONE_SECONDS", 3.0)
    with cluster.connect(Cluster(kind="slurm", **SMALL_WORKERS), threads=1) as client:
        results = schedule.in_order(time.sleep, [0, 300], client)
        next(results)
        subprocess.run(["scancel", "--name=dask-worker"], check=True)
        with pytest.raises(InputError, match="has had no worker for 3 seconds"):
            next(results)


def test_the_profile_gives_the_results_of_a_local_run(finished_here: Path, tmp_path: Path) -> None:
    folder = working_folder(tmp_path)
    ended = snakemake(folder, *BY_SLURM, TABLE, CROPS, MEASURED)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("has been submitted with SLURM jobid") == 7
    assert set(manifests(folder)) == {f"{name}.manifest.json" for name in STORES}
    assert manifests(folder) == manifests(finished_here)
    assert (folder / MEASURED).is_file()


def test_a_stage_whose_workers_are_jobs_gives_the_same_table(
    finished_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM__INTERFACE", "lo")
    folder = working_folder(tmp_path, {"kind": "slurm", **SMALL_WORKERS})
    ended = snakemake(folder, *HERE, TABLE)
    assert ended.returncode == 0, ended.stderr
    # Two of the label pass, two of the table.
    assert len(list((folder / cluster.WORKER_LOGS).glob("*.err"))) == 4
    assert read_manifest(folder / TABLE) == read_manifest(finished_here / TABLE)


@pytest.mark.parametrize(
    ("cluster_section", "arguments", "file", "told"),
    [
        pytest.param(
            {"kind": "local", "memory_limit": "1MB"},
            (),
            "logs/ihc/instances.log",
            "ERROR   cluster.memory_limit = 1MB: a worker of instances holds",
            id="a setting that cannot work",
        ),
        pytest.param(
            {"kind": "local"},
            ("--set-resources", "instances:mem_mb=300"),
            ".snakemake/slurm_logs/rule_instances/ihc/*.log",
            "exceeded memory limit",
            id="killed for its memory",
        ),
    ],
)
def test_a_failed_job_is_told_of_and_leaves_no_result(
    tmp_path: Path,
    cluster_section: dict[str, Any],
    arguments: tuple[str, ...],
    file: str,
    told: str,
) -> None:
    folder = working_folder(tmp_path, cluster_section)
    assert snakemake(folder, *HERE, "results/ihc/tiled.json").returncode == 0
    ended = snakemake(folder, *BY_SLURM, *arguments, "--", INSTANCES)
    assert ended.returncode == 1
    assert "Error in rule instances" in ended.stderr
    assert any(told in path.read_text(encoding="utf-8") for path in folder.glob(file))
    assert not list((folder / "results/ihc").glob("*instances*"))
    assert not list((folder / "results/ihc").glob(".*.work-*"))
