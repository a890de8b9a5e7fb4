"""The workflow and the Dask workers on a real SLURM of one node."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import one_node
import pytest
import yaml
import zarr
from distributed import Client, LocalCluster

from harpy_core.aggregate.aggregation import aggregate_stats
from harpy_core.config.models import Cluster
from harpy_core.errors import InputError
from harpy_core.extract.extraction import extract_instances
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


def call(*arguments: str) -> list[str]:
    """A call of the workflow; what comes last of `arguments` are the files to make."""
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    return [*start, "--configfile", "config.yaml", *arguments]


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow in a folder."""
    return subprocess.run(call(*arguments), cwd=folder, capture_output=True, text=True, timeout=600)


def queue(*states: str) -> dict[str, str]:
    """State of SLURM's jobs by number: those in some states, or those that wait or run."""
    asked = ["--states", ",".join(states)] if states else []
    told = subprocess.check_output(["squeue", "--noheader", "--format=%A %T", *asked], text=True)
    return dict(line.split() for line in told.splitlines())


def wait_until(reached: Callable[[], Any], seconds: float = 120) -> None:
    """Wait for something that has to happen."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


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
            "logs/slurm/rule_instances/ihc/*.log",
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


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that git has of this tree, as in a fresh clone."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(listed, capture_output=True, text=True)
    if names.returncode:
        pytest.skip("not a clone: git does not say which files are its own")
    folder = tmp_path_factory.mktemp("clone")
    for name in filter(None, names.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def typed(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """What a line of a shell does in a clone, with the environment on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": path}
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
        env=environment,
    )


def blocks(kind: str) -> list[str]:
    """The blocks of code of one language of the profile's README."""
    text = (ROOT / "slurm/README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_readme_run_in_a_clean_clone(
    clone: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [line.partition("  #")[0].strip() for line in blocks("sh")[0].splitlines()]
    mine = {"cases": {"mine": {"source": {"uri": "ihc"}, "aggregate": {"stats": ["median"]}}}}
    (clone / "my.yaml").write_text(yaml.safe_dump(mine), encoding="utf-8")
    (clone / "my-site").mkdir()
    (clone / "my-site/config.v9+.yaml").write_text(blocks("yaml")[0], encoding="utf-8")

    ended = {}
    for line in lines:
        # The last command has one table to make again.
        if "my-site" in line:
            (clone / "results/ihc/table.manifest.json").unlink()
        before = queue("all")
        ended[line] = typed(clone, line)
        assert ended[line].returncode == 0, ended[line].stderr
        if "my-site" in line:
            (again, *_) = sorted(queue("all").keys() - before.keys(), key=int)

    here = tmp_path_factory.mktemp("default")
    stores = ["results/ihc/table.manifest.json", "results/ihc/crops.manifest.json"]
    config = ("--configfile", str(ROOT / "config/config.yaml"))
    (here / "config.yaml").touch()
    local = subprocess.run(
        [*call(*HERE)[:5], *config, *HERE, "--", *stores], cwd=here, capture_output=True, text=True
    )
    assert local.returncode == 0, local.stderr
    assert manifests(clone) == manifests(here)
    assert (clone / "results/report.zip").is_file()
    assert (clone / "results/mine/table.manifest.json").is_file()
    job = subprocess.check_output(["scontrol", "show", "job", again], text=True)
    assert "Partition=main" in job
    assert "Features=near" in job
    assert lines == [
        "snakemake --cores 1 plan",
        "snakemake --profile slurm",
        "snakemake --profile slurm --configfile my.yaml",
        "snakemake --profile slurm --workflow-profile my-site",
    ]


@pytest.mark.parametrize(
    ("resources", "disturb", "state", "told"),
    [
        pytest.param(
            "instances:mem_mb=250*attempt*attempt",
            None,
            "FAILED|OUT_OF_MEMORY|CANCELLED",
            "exceeded memory limit",
            id="out of memory",
        ),
        pytest.param("instances:mem_mb=2000", "cancel", "CANCELLED", "CANCELLED", id="cancelled"),
        pytest.param(
            "instances:runtime=attempt*attempt",
            "withhold",
            "TIMEOUT",
            "DUE TO TIME LIMIT",
            id="past its time limit",
        ),
    ],
)
def test_a_job_that_slurm_ends_is_told_of_and_tried_again(
    finished_here: Path, tmp_path: Path, resources: str, disturb: str, state: str, told: str
) -> None:
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as idle:
        # Without a worker the stage waits, as long as SLURM lets it.
        elsewhere = {"kind": "address", "address": idle.scheduler_address}
        folder = working_folder(tmp_path, elsewhere if disturb == "withhold" else None)
        assert snakemake(folder, *HERE, "results/ihc/tiled.json").returncode == 0
        before = set(queue("all"))
        arguments = ("--profile", "slurm", "--set-resources", resources, "--", INSTANCES)
        with (folder / "told").open("w") as out:
            run = subprocess.Popen(call(*arguments), cwd=folder, stderr=out, stdout=out)
        wait_until(lambda: set(queue("all")) - before)
        (first,) = set(queue("all")) - before
        logs = folder / "logs/slurm/rule_instances/ihc"
        if disturb == "cancel":
            wait_until(lambda: list(logs.glob("*.log")))
            subprocess.run(["scancel", first], check=True)
        if disturb == "withhold":
            wait_until(lambda: queue("all").get(first) == "TIMEOUT", 180)
            idle.scale(1)
        run.wait(timeout=300)

    said = (folder / "told").read_text(encoding="utf-8")
    assert run.returncode == 0, said
    assert re.search(f"SLURM-job '{first}' failed, SLURM status is: '({state})'", said)
    assert said.count("Trying to restart job") == 1
    (log,) = logs.glob("*.log")
    assert str(log) in said
    assert told in log.read_text(encoding="utf-8")
    assert read_manifest(folder / INSTANCES) == read_manifest(finished_here / INSTANCES)


@pytest.mark.usefixtures("in_tmp_path")
def test_crops_are_the_same_when_one_of_two_workers_is_killed_half_way() -> None:
    rows, columns = np.mgrid[:1536, :1536]
    values = np.random.default_rng(0).integers(0, 4096, (4, 1536, 1536), dtype=np.uint16)
    image = zarr.create_array("image.zarr", data=values, chunks=(1, 128, 128))
    cells = (rows // 11 * 200 + columns // 9 + 1).astype(np.uint32)
    labels = zarr.create_array("labels.zarr", data=cells, chunks=(128, 128))
    settings = {"diameter": 16, "batch_size": 20}
    here = extract_instances(image, labels, "here.zarr", **settings)

    def committed() -> int:
        return len(list(Path.cwd().glob(".there.zarr.work-*/commits/*")))

    def kill_one() -> None:
        wait_until(lambda: committed() > 20)
        done.append(committed())
        subprocess.run(["scancel", "--signal=KILL", "--full", next(iter(queue()))], check=True)

    done: list[int] = []
    with cluster.connect(Cluster(kind="slurm", **SMALL_WORKERS), threads=1) as client:
        client.wait_for_workers(2, timeout=60)
        killer = threading.Thread(target=kill_one)
        killer.start()
        there = extract_instances(image, labels, "there.zarr", client=client, **settings)
        killer.join()
        assert done[0] < len(there) // 20
        wait_until(lambda: len(queue()) == 1)
    assert there.digest == here.digest


_DRIVER = """
import time
from harpy_core.config.models import Cluster
from harpy_core.running import cluster
with cluster.connect(Cluster(kind="slurm", **{workers}), threads=1) as client:
    client.wait_for_workers(2)
    open("there", "x").close()
    time.sleep(600)
"""


def test_the_workers_of_a_driver_that_is_killed_are_gone_a_minute_later(
    in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM__INTERFACE", "lo")
    Path("driver.py").write_text(_DRIVER.format(workers=SMALL_WORKERS), encoding="utf-8")
    submit = ["sbatch", "--parsable", "--mem=1000", f"--wrap={sys.executable} driver.py"]
    driver = subprocess.check_output(submit, text=True).strip()
    wait_until(Path("there").exists)
    workers = set(queue()) - {driver}
    assert len(workers) == 2
    subprocess.run(["scancel", "--signal=KILL", "--full", driver], check=True)
    wait_until(lambda: driver not in queue(), 20)
    wait_until(lambda: not set(queue()) & workers, 60)


def test_a_job_that_is_given_less_than_the_node_has_knows_it(in_tmp_path: Path) -> None:
    asked = (
        "import json; from harpy_core.running.given import given_cores, given_memory; "
        "print(json.dumps([given_cores(), given_memory()]))"
    )
    job = ["srun", "--cpus-per-task=1", "--mem=700", sys.executable, "-c", asked]
    assert json.loads(subprocess.check_output(job, text=True)) == [1, 700 * 2**20]
