"""What all tests share: reproducible generated cases, one small cluster, the real data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from distributed import Client

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

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Two workers in processes of their own, started once."""
    from harpy_core import cluster

    with cluster.local(workers=2, threads_per_worker=1, memory_limit="2GB") as started:
        yield started


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real images with published results; they are no part of the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip("real data is not there")
    return REAL_DATA
