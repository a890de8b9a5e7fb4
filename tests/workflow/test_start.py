"""Before anything runs: the plan, refusals in one line, and how long the start takes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from calls import ROOT, Ended, command, small_config, snakemake, write_config

TRIES = 3


def timed(folder: Path, call: list[str]) -> tuple[float, Ended]:
    """Shortest of some runs, in seconds, and what one of them said."""
    shortest = float("inf")
    for _ in range(TRIES):
        started = time.monotonic()
        ended = subprocess.run(call, cwd=folder, capture_output=True, text=True)
        shortest = min(shortest, time.monotonic() - started)
    return shortest, ended


@pytest.fixture(scope="module")
def bare_start(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that Snakemake takes for a dry run of nothing."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "Snakefile").write_text("rule all:\n")
    call = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1"]
    return timed(folder, call)[0]


def refused(folder: Path, config: dict[str, Any], *arguments: str) -> str:
    """The one line a config is refused with."""
    write_config(folder, config)
    before = sorted(folder.rglob("*"))
    ended = snakemake(folder, *arguments)
    assert ended.returncode == 1
    after = [path for path in folder.rglob("*") if ".snakemake" not in path.parts]
    assert sorted(after) == before
    lines = ended.stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Using workflow specific profile"))


def edited(**sections: dict[str, Any] | None) -> dict[str, Any]:
    """The small config with keys of some sections changed."""
    config = small_config()
    for name, keys in sections.items():
        config["cases"]["ihc"][name] |= keys
    return config


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            edited(extract={"diameter": 0}),
            "config.yaml: cases.ihc.extract.diameter = 0: a window must be at least 1 pixel\n",
        ),
        (
            edited(extract={"diametre": 9}),
            "config.yaml: cases.ihc.extract.diametre = 9: there is no such key (did you mean "
            "diameter?)\n",
        ),
        (
            edited(source={"uri": "nowhere.zarr"}),
            "config.yaml: cases.ihc.source.uri = nowhere.zarr: there is no such path, nor a "
            "registered name (ihc, tissue, tissue-gigapixel, tissue-terapixel, macsima-tonsil, "
            "merscope-liver)\n",
        ),
    ],
)
def test_a_bad_config_is_refused_in_one_line(
    tmp_path: Path, config: dict[str, Any], line: str
) -> None:
    assert refused(tmp_path, config) == line


def test_more_workers_than_cores_are_refused_in_one_line(tmp_path: Path) -> None:
    told = refused(tmp_path, edited(benchmark={"workers": [1, 4]}))
    assert told.endswith(
        "\nconfig.yaml: cases.ihc.benchmark.workers[1] = 4: 4 x 1 threads are more than the 2 of "
        "--cores: ask for fewer, or give more cores\n"
    )


def test_a_bad_config_is_refused_within_two_seconds(tmp_path: Path, bare_start: float) -> None:
    write_config(tmp_path, edited(aggregate={"stats": ["median"]}))
    seconds, ended = timed(tmp_path, command())
    assert ended.returncode == 1
    assert seconds < bare_start + 2


def test_a_dry_run_takes_at_most_a_second_more_than_snakemake(
    tmp_path: Path, bare_start: float
) -> None:
    write_config(tmp_path, small_config())
    seconds, ended = timed(tmp_path, command("--dry-run"))
    assert ended.returncode == 0, ended.stderr
    assert seconds < bare_start + 1


def test_the_plan_is_printed_and_nothing_else_done(tmp_path: Path) -> None:
    write_config(tmp_path, small_config())
    ended = snakemake(tmp_path, "plan", cores=1)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split() for line in ended.stdout.splitlines() if line.startswith("ihc ")]
    assert [row[1] for row in rows[:4]] == ["tile", "instances", "aggregate", "extract"]
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "results").exists()


def test_every_config_of_ours_can_be_planned(tmp_path: Path) -> None:
    for file in (ROOT / "config").glob("*.yaml"):
        if file.name == "own-data.yaml":
            continue
        write_config(tmp_path, yaml.safe_load(file.read_text(encoding="utf-8")))
        ended = snakemake(tmp_path, "plan", cores=1)
        assert ended.returncode == 0, ended.stderr
