"""How the tests call the workflow, and what they read from its answer."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from harpy_core.config.documents import DEFAULT_CONFIG

ROOT = Path(__file__).parents[2]
Ended = subprocess.CompletedProcess[str]


def command(*arguments: str, cores: int = 2) -> list[str]:
    """A call of the workflow in the working directory, on its ``config.yaml``."""
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    return [*start, "--configfile", "config.yaml", "--cores", str(cores), *arguments]


def snakemake(folder: Path, *arguments: str, cores: int = 2) -> Ended:
    """Run the workflow in a folder."""
    call = command(*arguments, cores=cores)
    return subprocess.run(call, cwd=folder, capture_output=True, text=True)


def small_config() -> dict[str, Any]:
    """The default config, tiled to 6 x 1024 x 1024 and measured once."""
    config = deepcopy(DEFAULT_CONFIG)
    case = config["cases"]["ihc"]
    case["tile"] |= {"c": 6, "y": 1024, "x": 1024, "chunks": [3, 512, 512]}
    case["benchmark"] |= {"workers": [1], "repeats": 1}
    return config


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Make a config the folder's own."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def rules_of(output: str) -> set[str]:
    """Names in Snakemake's table of jobs, but for the default one."""
    _, _, after = output.partition("Job stats:\n")
    rows = [line.split() for line in after.split("\n\n")[0].splitlines()[2:]]
    return {row[0] for row in rows if len(row) == 2} - {"all", "default", "total"}
