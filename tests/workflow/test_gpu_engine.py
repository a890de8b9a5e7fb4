"""A case on GPUs: what its jobs ask for, and what is said where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from calls import small_config, snakemake, write_config

from harpy_core.kernels import ENGINES


@pytest.mark.parametrize(
    ("engine", "cluster", "asked"),
    [
        ("cupy", {"kind": "local"}, {"1"}),
        ("cupy", {"kind": "local", "workers": 3}, {"3"}),
        ("cupy", {"kind": "slurm"}, {"0"}),
        ("auto", {"kind": "local"}, {"0"}),
    ],
)
def test_a_stage_asks_for_a_gpu_for_each_worker_of_its_own(
    engine: str, cluster: dict[str, str], asked: set[str], tmp_path: Path
) -> None:
    config = small_config()
    config["cluster"] = cluster
    config["cases"]["ihc"]["engine"] = engine
    config["cases"]["ihc"]["benchmark"] |= {"engines": ["cupy"], "workers": [2]}
    write_config(tmp_path, config)
    ended = snakemake(tmp_path, "--dry-run")
    assert ended.returncode == 0, ended.stderr
    found: dict[str, set[str]] = {}
    for rule, body in re.findall(r"^rule (\w+):\n((?:    .*\n)+)", ended.stdout, re.MULTILINE):
        found.setdefault(rule, set()).update(re.findall(r"\bgpu=(\d+)", body))
    stages = ("instances", "aggregate", "extract")
    assert [found[stage] for stage in stages] == [asked] * len(stages)
    assert found["sweep"] == {"2"}


def test_a_stage_without_a_gpu_to_be_had_ends_with_one_line(tmp_path: Path) -> None:
    if ENGINES["cupy"].trouble() is None:
        pytest.skip("there is a GPU")
    config = small_config()
    config["cases"]["ihc"]["engine"] = "cupy"
    write_config(tmp_path, config)
    ended = snakemake(tmp_path, "results/ihc/instances.manifest.json")
    assert ended.returncode == 1
    told = [line for line in ended.stderr.splitlines() if line.startswith("engine = 'cupy': ")]
    assert len(told) == 1
    assert "numba" in told[0]
