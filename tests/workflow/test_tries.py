"""What jobs ask for, in the first and in further tries, and which of them are tried again."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from calls import ROOT, small_config, snakemake, write_config

from harpy_core.config.mistakes import load
from harpy_core.errors import InputError
from harpy_core.planning.fits import job_bytes
from harpy_core.planning.plan import stage_plan
from harpy_core.planning.preflight import check_storage
from harpy_core.raster.info import RasterInfo
from harpy_core.running.workers import Workers
from harpy_core.workflow.questions import Questions
from harpy_core.workflow.resources import MARGIN, SNAKEMAKE_MB, Needs, growing

CASE = SimpleNamespace(case="ihc", dataset="macsima-tonsil")
TERAPIXEL = RasterInfo(
    uri="",
    image=None,
    labels=None,
    channels=[str(c) for c in range(100)],
    image_shape=(100, 100_000, 100_000),
    image_chunks=(10, 2048, 2048),
    image_dtype="uint16",
    labels_shape=(100_000, 100_000),
    labels_chunks=(2048, 2048),
    labels_dtype="uint32",
    fingerprint="",
)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Needs, Any]:
    """Resources of the small config's jobs, and the input of one on a terapixel."""
    monkeypatch.chdir(tmp_path)
    TERAPIXEL.to_json("raster.json")
    config = small_config()
    config["cases"]["ihc"]["benchmark"] |= {"workers": [1, 4], "repeats": 3}
    needs = Needs(Questions(load(config, "config.yaml")))
    return needs, SimpleNamespace(raster="raster.json")


@pytest.mark.parametrize("stage", ["instances", "aggregate", "extract"])
def test_a_stage_asks_for_its_planned_peak_with_a_margin_and_more_in_each_try(
    stage: str, asked: tuple[Needs, Any]
) -> None:
    needs, input = asked
    memory = [needs.memory_mb(stage)(CASE, input, threads=8, attempt=n) for n in (1, 2, 3)]
    stats = small_config()["cases"]["ihc"]["aggregate"]["stats"]
    plan = stage_plan(stage, TERAPIXEL, stats=stats, crops=None, engine="auto")
    peak = SNAKEMAKE_MB + job_bytes(plan, Workers(2, 4, None)) // 10**6
    if stage != "extract":
        assert memory[0] == math.ceil(MARGIN * peak)
    assert memory[1] == pytest.approx(1.5 * memory[0], rel=1e-3)
    assert memory[2] == pytest.approx(2 * memory[0], rel=1e-3)


def test_time_follows_the_bytes_and_the_cores_and_doubles_in_each_try(
    asked: tuple[Needs, Any],
) -> None:
    needs, input = asked
    first, second = (needs.minutes("aggregate")(CASE, input, threads=8, attempt=n) for n in (1, 2))
    one_core = needs.minutes("aggregate")(CASE, input, threads=1, attempt=1)
    # Two terabytes and the labels at a tenth of a gigabyte a second and core, the table, and ten
    # minutes.
    assert 10 + 2e12 / 8e8 / 60 < first < 10 + 2.5e12 / 8e8 / 60
    assert second == 2 * first
    assert one_core - 10 == pytest.approx(8 * (first - 10), rel=0.03)


def test_a_sweep_has_time_for_all_its_runs(asked: tuple[Needs, Any]) -> None:
    needs, input = asked
    # By one worker and by four, three times each, of one thread, and more for the crops.
    means = needs.minutes("aggregate")(CASE, input, threads=1, attempt=1) - 10
    assert needs.measured_minutes(CASE, input) > 3 * 1.25 * means


def test_every_job_of_a_batch_system_asks_for_memory_and_time() -> None:
    text = "".join(file.read_text() for file in sorted((ROOT / "workflow/rules").glob("*.smk")))
    rules = re.findall(r"^rule (\w+):\n((?:\n|    .*\n)+)", text, re.MULTILINE)
    asking = {
        name: "mem_mb=" in body and "runtime=" in body
        for name, body in rules
        if "localrule: True" not in body
    }
    assert asking == dict.fromkeys(asking, True)
    assert {"tile", "aggregate", "sweep"} <= set(asking)


def test_what_no_image_makes_large_doubles() -> None:
    assert [growing(30)(CASE, attempt=n) for n in (1, 2, 3)] == [30, 60, 120]


def test_bad_input_ends_each_try_with_its_line_and_the_later_ones_at_once(tmp_path: Path) -> None:
    config = small_config()
    config["cluster"] = {"kind": "local", "memory_limit": "1MB"}
    write_config(tmp_path, config)
    target = "results/ihc/instances.manifest.json"
    ended = snakemake(tmp_path, "--retries", "2", target)
    assert ended.returncode == 1
    line = "cluster.memory_limit = 1MB: a worker of instances holds"
    assert ended.stderr.count(f"\n{line}") == 3
    log = (tmp_path / "logs/ihc/instances.log").read_text(encoding="utf-8")
    assert line in log
    assert "; reads " in ended.stderr
    assert "; reads " not in log

    # What a run refused is asked again in the next.
    config["cluster"] = {"kind": "local"}
    write_config(tmp_path, config)
    assert snakemake(tmp_path, target).returncode == 0
    assert not list((tmp_path / "logs").rglob("*.refused"))


def test_a_storage_plugin_for_the_results_is_refused_in_one_line() -> None:
    check_storage(None)
    with pytest.raises(InputError, match="--default-storage-provider = s3: results are stores"):
        check_storage("s3")
