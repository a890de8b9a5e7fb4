"""What the config's sweeps ask the rules to draw."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harpy_core.config.mistakes import load
from harpy_core.workflow.questions import Questions


@pytest.mark.parametrize(
    ("sweep", "compared"),
    [
        ({}, False),
        ({"engines": ["numpy"], "cache": "cold"}, False),
        ({"engines": ["numba", "numpy"]}, True),
        ({"cache": ["warm", "cold"]}, True),
    ],
)
def test_a_comparison_is_drawn_where_a_sweep_has_several_bars(
    sweep: dict[str, Any], compared: bool
) -> None:
    config = {"cases": {"tissue": {"source": {"uri": "ihc"}, "benchmark": sweep}}}
    drawn = Questions(load(config, "config.yaml")).figures()
    for stage in ("aggregate", "extract"):
        figures = f"<results>/tissue/figures/{stage}"
        assert (f"{figures}-comparison.png" in drawn) == compared
        assert {f"{figures}.png", f"{figures}-scaling.png", f"{figures}-timeline.png"} <= {*drawn}


def test_a_page_waits_for_the_crops_of_its_image_where_there_are_some() -> None:
    source = {"uri": "ihc"}
    cases = {
        "both": {"source": source, "aggregate": {}, "extract": {}},
        "table": {"source": source, "aggregate": {}},
        "several": {"fields": {"a": source, "b": source}, "aggregate": {}, "extract": {}},
    }
    asked = Questions(load({"cases": cases}, "config.yaml"))
    found = {
        case: asked.crops_of_page(SimpleNamespace(case=case))
        for case in ("both", "table", "several/fields/a")
    }
    assert found == {
        "both": ["<results>/both/crops.manifest.json"],
        "table": [],
        "several/fields/a": ["<results>/several/fields/a/crops.manifest.json"],
    }
