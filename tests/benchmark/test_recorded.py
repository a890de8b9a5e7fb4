"""Figures in the README and the pages against the recorded runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))


@pytest.mark.parametrize("name", [*TABLES["TABLES"]])
def test_a_page_holds_the_recorded_figures(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert TABLES["filled"](text, name) == text, "run `python benchmarks/tables.py`"


@pytest.mark.parametrize("figure", ["104 s, 39 GB on 64 threads", "442 s, 314 GB on 128 threads"])
def test_the_published_figures_are_the_best_of_theirs(figure: str) -> None:
    assert figure in "\n".join(TABLES["table"]())


def test_another_figure_in_the_readme_is_seen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "crops of 50" in line)
    changed = text.replace(line, line.replace(" s, ", "1 s, "))
    assert changed != text
    assert TABLES["filled"](changed) == text
