"""Calls of the workflow by the tests, and parsing of its output."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import script_server
import yaml

from harpy_core.config.documents import DEFAULT_CONFIG

ROOT = Path(__file__).parents[2]
Ended = subprocess.CompletedProcess[str]

# Importing Snakemake takes longer than most of what it is asked here: a server imports it once, and
# what it imports on the way; every call is a fresh process forked from there.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    ["snakemake.cli", "snakemake.report.html_reporter", "smart_open", "nbformat"]
)


def command(*arguments: str, cores: int = 2) -> list[str]:
    """A call of the workflow in the working directory, on its ``config.yaml``."""
    return [sys.executable, "-m", "snakemake", *_arguments(*arguments, cores=cores)]


def snakemake(folder: Path, *arguments: str, cores: int = 2, **how: Any) -> Ended:
    """Run the workflow in a folder, on its ``config.yaml``; see `started`."""
    return started(folder, *_arguments(*arguments, cores=cores), **how)


def started(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    fresh_scripts: bool = False,
) -> Ended:
    """Run Snakemake in a folder.

    Parameters
    ----------
    environment
        Variables besides those of this process.
    fresh_scripts
        Whether each script is a Python of its own, not a process forked from `script_server`.
    """
    python = sys.executable if fresh_scripts else str(script_server.interpreter())
    known = {**os.environ, **(environment or {})}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        streams = [_FORKED.reducer.DupFd(stream.fileno()) for stream in (out, err)]
        given = (str(folder), arguments, known, streams, python)
        process = _FORKED.Process(target=_main, args=given)
        process.start()
        process.join()
        assert process.exitcode is not None
        told = [(stream.seek(0), stream.read())[1] for stream in (out, err)]
    return Ended(["snakemake", *arguments], process.exitcode, *told)


def _main(
    folder: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    streams: list[Any],
    python: str,
) -> None:
    from snakemake import cli

    for number, stream in enumerate(streams, 1):
        os.dup2(stream.detach(), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["snakemake", *arguments]
    sys.executable = python
    cli.main(list(arguments))


def _arguments(*arguments: str, cores: int) -> list[str]:
    start = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml"]
    return [*start, "--cores", str(cores), *arguments]


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
