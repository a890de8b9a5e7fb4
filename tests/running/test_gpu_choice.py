"""Choice of an engine with and without a GPU, and the line that says so."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from distributed import Client as DaskClient

import harpy_core as hc
from harpy_core.config.models import Cluster
from harpy_core.instances.finding import find_instances
from harpy_core.kernels import ENGINES, compiled, engine, gpu
from harpy_core.planning.fits import refuse_small_gpus
from harpy_core.planning.plan import plan_aggregate
from harpy_core.running import cluster, engines

# Both look for CuPy as they are imported: before it is replaced.
for module in ("anndata", "dask.array"):
    importlib.import_module(module)

if TYPE_CHECKING:
    from distributed import Client

IMAGE = np.ones((2, 6, 6), "u2")
LABELS = np.diag([1, 2, 1, 2, 1, 2]).astype("u4")


class DriverError(Exception):
    """Error of CuPy without a driver, in its own words."""


def cupy_that(count: int | Exception) -> ModuleType:
    """A CuPy that finds so many GPUs, or fails so."""

    def find() -> int:
        if isinstance(count, Exception):
            raise count
        return count

    module = ModuleType("cupy")
    module.cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDeviceCount=find),
        nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
    )
    return module


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    gpu.trouble.cache_clear()
    yield
    gpu.trouble.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, "cupy", module)


WITHOUT = [
    (cupy_that(0), "no NVIDIA GPU is to be seen"),
    (
        cupy_that(DriverError("cudaErrorInsufficientDriver:\nCUDA driver is insufficient")),
        "no NVIDIA GPU works .*cudaErrorInsufficientDriver: CUDA driver is insufficient",
    ),
    (ModuleType("cupy"), "no NVIDIA GPU works"),
]


@pytest.mark.parametrize(("cupy", "told"), WITHOUT, ids=["no card", "no driver", "broken"])
def test_without_a_gpu_that_works_auto_takes_the_processor_and_cupy_is_refused(
    cupy: ModuleType, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed(monkeypatch, cupy)
    assert engine("auto") is compiled
    assert ENGINES["cupy"].gpus() == []
    jobs = [
        lambda: engine("cupy"),
        lambda: hc.aggregate_stats(IMAGE, LABELS, engine="cupy"),
        lambda: find_instances(LABELS, engine="cupy"),
        lambda: hc.extract_instances(IMAGE, LABELS, tmp_path / "crops", engine="cupy"),
    ]
    for job in jobs:
        with pytest.raises(hc.InputError, match=f"engine = 'cupy': {told}") as error:
            job()
        assert "\n" not in str(error.value)
        assert "numba" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_without_cupy_its_package_is_named() -> None:
    code = """
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name == "cupy":
                    raise ModuleNotFoundError("No module named 'cupy'", name="cupy")

        sys.meta_path.insert(0, Missing())
        from harpy_core import InputError
        from harpy_core.kernels import ENGINES, engine, registry
        assert registry.usable("auto") is ENGINES["numba"]
        try:
            engine("cupy")
        except InputError as error:
            print(error)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith("engine = 'cupy': CuPy is not installed; install harpy-core[cu")
    assert ended.stdout.count("\n") == 1


def test_a_cupy_whose_libraries_are_missing_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libcudart.so:\\nnot found')")
    code = "from harpy_core.kernels import ENGINES; print(ENGINES['cupy'].trouble())"
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.startswith("CuPy does not load (ImportError: libcudart.so: not found)")
    assert ended.stdout.count("\n") == 1


def test_with_a_gpu_auto_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, cupy_that(2))
    assert engine("auto").encode is engine("cupy").encode is gpu.encode
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert ENGINES["cupy"].gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert ENGINES["cupy"].gpus() == ["3", "5"]


def test_the_log_says_which_engine_was_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "harpy_core")
    installed(monkeypatch, cupy_that(0))
    assert hc.aggregate_stats(IMAGE, LABELS).uns["harpy_core"]["engine"] == "numba"
    assert caplog.messages == [
        "engine: numba (auto: no NVIDIA GPU is to be seen; choose the engine numba)"
    ]
    caplog.clear()
    hc.aggregate_stats(IMAGE, LABELS, engine="numpy")
    assert caplog.messages == ["engine: numpy"]


def test_the_workers_are_asked_and_not_this_process(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "trouble", lambda: None)
    if any(client.run(ENGINES["cupy"].trouble).values()):
        assert engines.resolved("auto", client) == "numba"
        with pytest.raises(hc.InputError, match=r"engine = 'cupy': worker tcp://.*numba"):
            engines.resolved("cupy", client)
    assert engines.resolved("auto") == "cupy"
    assert engines.resolved("numpy", client) == "numpy"


def visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_workers_beyond_the_number_of_gpus_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name, gpu_of_it in (("0", "4"), ("1", "7"), ("2", "4")):
        cluster.GpuEach(["4", "7"]).setup(SimpleNamespace(name=name))
        assert visible() == gpu_of_it


def test_one_worker_decodes_for_a_gpu_with_all_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, cupy_that(2))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    asked: list[Any] = []

    @contextmanager
    def noted(*arguments: Any) -> Iterator[None]:
        asked.append(arguments)
        yield

    monkeypatch.setattr(cluster, "local", noted)
    local = Cluster(kind="local", memory_limit="1GB")
    for name in ("cupy", "numba"):
        with cluster.connect(local, threads=8, engine=name):
            pass
    assert asked == [(1, 8, 10**9, ["0", "1"]), (2, 4, 10**9, [])]


def test_each_worker_sees_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, cupy_that(2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    two = Cluster(kind="local", memory_limit="1GB", workers=2)
    with cluster.connect(two, threads=6, engine="auto") as client:
        assert list(client.nthreads().values()) == [3, 3]
        assert sorted(client.run(visible).values()) == ["4", "7"]


def test_a_local_cluster_for_a_gpu_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch, cupy_that(0))
    local = Cluster(kind="local", memory_limit="1GB")
    with (
        pytest.raises(hc.InputError, match="engine = 'cupy': no NVIDIA GPU"),
        cluster.connect(local, threads=2, engine="cupy"),
    ):
        pass


@pytest.mark.parametrize(("name", "asks"), [("cupy", True), ("numba", False)])
def test_slurm_is_asked_for_a_gpu_for_each_worker(
    name: str, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts: list[str] = []

    def refuse(script: str) -> None:
        scripts.append(script)
        raise hc.InputError("enough")

    monkeypatch.setattr(cluster.shutil, "which", lambda name: "/usr/bin/sbatch")
    monkeypatch.setattr(cluster, "_refuse_unfit", refuse)
    with (
        pytest.raises(hc.InputError, match="enough"),
        cluster.connect(Cluster(kind="slurm"), threads=1, engine=name),
    ):
        pass
    assert ("#SBATCH --gres=gpu:1" in scripts[0]) == asks


def test_a_plan_tells_of_the_cards_memory() -> None:
    small, large = (
        plan_aggregate(np.zeros((c, 512, 512), "u2"), np.zeros((512, 512), "u4")) for c in (1, 50)
    )
    assert 512 * 512 * 6 < small.device_bytes_per_task == large.device_bytes_per_task


def test_tasks_that_do_not_fit_the_card_are_refused_before_they_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_aggregate(np.zeros((2, 512, 512), "u2"), np.zeros((512, 512), "u4"))
    monkeypatch.setattr(gpu, "trouble", lambda: None)
    with DaskClient(processes=False, n_workers=1, threads_per_worker=3) as client:
        monkeypatch.setattr(gpu, "room", lambda: 3 * plan.device_bytes_per_task)
        refuse_small_gpus(plan, "auto", client)
        monkeypatch.setattr(gpu, "room", lambda: 3 * plan.device_bytes_per_task - 1)
        with pytest.raises(hc.InputError, match=r"aggregate holds .* MB on its GPU with 3 threads"):
            refuse_small_gpus(plan, "cupy", client)
        refuse_small_gpus(plan, "numba", client)
