"""Fixtures of all tests: reproducible generated cases, one small cluster, the real data."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import ctypes

    from distributed import Client
    from servers import Bucket, S3Server

settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# Fresh cases at every run, and many of them: HYPOTHESIS_PROFILE=search pytest tests
settings.register_profile(
    "search", settings.get_profile("default"), derandomize=False, max_examples=300
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 * 2**30
"""More than what the tests that run at the same time have in files."""
_IN_MEMORY = "harpy-core-tests-"
_FOLDER = pytest.StashKey[Path]()
_PASSED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Let temporary files be in memory, where that has room.

    A disk makes the tests wait, and its journal a third of their work. Tests that need a disk ask
    for the fixture `disk`; the long forms, which are asked for by their mark, write too much.
    """
    long = not config.option.markexpr.startswith("not ")
    if long or "TMPDIR" in os.environ or not MEMORY.is_dir():
        return
    # Tests run and load what they write.
    runs = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC and os.access(MEMORY, os.W_OK)
    if runs and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
        for left in MEMORY.glob(f"{_IN_MEMORY}*"):
            if not psutil.pid_exists(int(left.name.removeprefix(_IN_MEMORY))):
                shutil.rmtree(left, ignore_errors=True)
        folder = MEMORY / f"{_IN_MEMORY}{os.getpid()}"
        folder.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        config.stash[_FOLDER] = folder


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember whether there is anything left to look at."""
    session.config.stash[_PASSED] = exitstatus == pytest.ExitCode.OK


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give back the memory, with what killed processes left; after a failure the next run does."""
    if _FOLDER in config.stash and config.stash.get(_PASSED, False):
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The workflow first: its files take longest, and the others fill up the time beside them."""
    items.sort(key=lambda item: "workflow" not in item.path.parts[-2:-1])


ONE_RUN = ("tests/workflow/test_finished.py", "tests/workflow/test_run.py")
"""Files that look at one finished run of the workflow, which takes half a minute."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run all tests of a file, and of files that share what takes long to make."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return ONE_RUN[0] if file in ONE_RUN else file

    return Scheduling(config, log)


REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Two workers in processes of their own, started once."""
    from harpy_core.running import cluster

    with cluster.local(workers=2, threads_per_worker=1, memory_limit="2GB") as started:
        yield started


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder on a disk, of whose files some pages are in memory and some are not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A local S3, of which the environment has the keys; a client does not wait to try again."""
    from s3fs import S3FileSystem
    from servers import KEYS, s3_server

    from harpy_core.storage import buckets

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["aws_secret_access_key"])
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    # Clients that are kept have the server of the test that made them.
    S3FileSystem.clear_instance_cache()
    buckets._filesystem.cache_clear()
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> Bucket:
    """A bucket of the local S3, ``results``, for who has the keys."""
    from servers import Bucket

    return Bucket(s3.address, "results", access="private")


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels of the engine cupy, compiled for the processor."""
    import emulated

    if emulated.COMPILER is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.getbasetemp()
    # The workers of a run have a folder each below its own: one of them compiles for all.
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with open(shared / "kernels.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return emulated.built(shared / "kernels.so")


@pytest.fixture(scope="session")
def gpu() -> None:
    """A GPU; asked for by tests that are marked so."""
    from harpy_core.kernels import ENGINES

    trouble = ENGINES["cupy"].trouble()
    if trouble is not None:
        pytest.fail(trouble)


@pytest.fixture(scope="module", params=["emulated", pytest.param("real", marks=pytest.mark.gpu)])
def card(request: pytest.FixtureRequest) -> Iterator[str]:
    """Device of the engine cupy: a GPU, or one emulated on the processor."""
    if request.param == "real":
        request.getfixturevalue("gpu")
        yield "real"
    else:
        from emulated import emulation

        with emulation(request.getfixturevalue("emulator")):
            yield "emulated"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real images with published results; they are no part of the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip("real data is not there")
    return REAL_DATA
