"""One small run of the whole workflow, shared by the tests that look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import rules_of, small_config, snakemake, write_config


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small config ran from nothing to the report."""
    folder = tmp_path_factory.mktemp("finished")
    write_config(folder, small_config())
    ended = snakemake(folder, fresh_scripts=True)
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture
def changed(finished: Path) -> Iterator[Callable[[Callable[[dict[str, Any]], Any]], set[str]]]:
    """A function that tells which rules a change of the config runs again."""

    def rules_after(change: Callable[[dict[str, Any]], Any]) -> set[str]:
        config = small_config()
        change(config["cases"]["ihc"])
        write_config(finished, config)
        ended = snakemake(finished, "--dry-run", "--quiet", "rules")
        assert ended.returncode == 0, ended.stderr
        return rules_of(ended.stdout + ended.stderr)

    yield rules_after
    write_config(finished, small_config())
