"""Before anything runs: the plan, refusals in one line, and how little the start imports."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from calls import ROOT, small_config, snakemake, started, write_config

SHARED = [ROOT / "workflow" / "rules" / name for name in ("package.smk", "common.smk")]


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
            "config.yaml: cases.ihc.source.uri = nowhere.zarr: there is no such path in {folder}, "
            "nor a registered name (ihc, tissue, tissue-gigapixel, tissue-terapixel, "
            "macsima-tonsil, merscope-liver)\n",
        ),
    ],
)
def test_a_bad_config_is_refused_in_one_line(
    tmp_path: Path, config: dict[str, Any], line: str
) -> None:
    assert refused(tmp_path, config) == line.format(folder=tmp_path)


def test_every_mistake_of_a_config_is_told_in_a_line_of_its_own(tmp_path: Path) -> None:
    config = edited(extract={"diameter": 0, "codec": "lz5"}, source={"uri": "nowhere.zarr"})
    lines = refused(tmp_path, config).splitlines()
    assert [line.partition(" = ")[0] for line in lines] == [
        "config.yaml: cases.ihc.extract.diameter",
        "config.yaml: cases.ihc.extract.codec",
        "config.yaml: cases.ihc.source.uri",
    ]


def test_a_default_config_that_is_no_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("cases:\n  a:\n    source: {uri: ihc\n  b: {}\n")
    ended = started(tmp_path, "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "plan")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[1:] == [
        "config/config.yaml:4: is not YAML: expected ',' or '}', but got ':' while parsing a flow "
        "mapping"
    ]


def test_a_case_without_stages_is_told_to_measure_nothing(tmp_path: Path) -> None:
    write_config(tmp_path, {"cases": {"slide": {"source": {"uri": "ihc"}}}})
    ended = snakemake(tmp_path, "plan", cores=1)
    assert ended.returncode == 0, ended.stderr
    told = [line for line in ended.stderr.splitlines() if "warning" in line]
    assert told == [
        "config.yaml: cases.slide: warning: no aggregate, extract or benchmark: nothing will be "
        "measured; add `aggregate: {}` for the statistics, `extract: {}` for crops"
    ]


def test_more_workers_than_cores_are_refused_in_one_line(tmp_path: Path) -> None:
    told = refused(tmp_path, edited(benchmark={"workers": [1, 4]}))
    assert told.endswith(
        "\nconfig.yaml: cases.ihc.benchmark.workers[1] = 4: 4 x 1 threads are more than the 2 of "
        "--cores: ask for fewer, or give more cores\n"
    )


def test_the_plan_is_printed_and_nothing_else_done(tmp_path: Path) -> None:
    write_config(tmp_path, small_config())
    ended = snakemake(tmp_path, "plan", cores=1)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split() for line in ended.stdout.splitlines() if line.startswith("ihc ")]
    assert [row[1] for row in rows[:4]] == ["tile", "instances", "aggregate", "extract"]
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "results").exists()


def test_every_config_of_ours_can_be_planned(tmp_path: Path) -> None:
    whole: dict[str, Any] = {"cases": {}}
    for file in sorted((ROOT / "config").glob("*.yaml")):
        if file.name != "own-data.yaml":
            given = yaml.safe_load(file.read_text(encoding="utf-8"))["cases"]
            whole["cases"] |= {f"{file.stem}-{name}": case for name, case in given.items()}
    write_config(tmp_path, whole)
    ended = snakemake(tmp_path, "plan", cores=1)
    assert ended.returncode == 0, ended.stderr
    planned = {line.split()[0] for line in ended.stdout.splitlines() if " aggregate " in line}
    assert planned == set(whole["cases"])


def test_the_profile_of_slurm_sets_the_cores_of_every_stage() -> None:
    """Show that none asks for all that a stage may take, which nothing caps there."""
    profile = yaml.safe_load((ROOT / "slurm/config.v9+.yaml").read_text(encoding="utf-8"))
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    named = re.findall(r"^rule (\w+):(?:(?!^rule ).)*?^    threads: (\S+)$", rules, re.M | re.S)
    stages = {rule for rule, threads in named if threads in ("NEEDED.threads", "8")}
    assert stages == set(profile["set-threads"]) >= {"tile", "extract", "one_read", "embed"}


def test_parsing_the_workflow_imports_nothing_heavy_of_ours() -> None:
    heavy = ("anndata", "dask", "numba", "numpy", "pandas", "scipy", "skimage", "zarr")
    text = "".join(file.read_text() for file in SHARED)
    ours = re.findall(r"^(?:from|import) (harpy_core\S*)", text, re.MULTILINE)
    code = f"import sys, {', '.join(ours)}; print([m for m in {heavy} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ours
    assert ended.stdout.strip() == "[]", ended.stderr


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda p: p.stem)
def test_what_a_script_imports_of_the_package_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module and "harpy_core" in node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                # A module of a package is an attribute only once it has been imported.
                found = hasattr(module, alias.name)
                assert found or importlib.import_module(f"{node.module}.{alias.name}"), script
