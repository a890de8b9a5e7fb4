"""What the config's sweeps ask the rules to draw."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from harpy_core.config.mistakes import load
from harpy_core.errors import InputError
from harpy_core.planning import preflight
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


def test_a_model_is_all_of_its_files_and_missing_weights_are_told(tmp_path: Path) -> None:
    graph, weights = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    values = np.ones(3, "f4")
    tensor = numpy_helper.from_array(values, "weights")
    add = helper.make_node("Add", ["crops", "weights"], ["numbers"])
    ends = [helper.make_tensor_value_info(n, 1, ["n", 3]) for n in ("crops", "numbers")]
    model = helper.make_model(helper.make_graph([add], "small", ends[:1], ends[1:], [tensor]))
    options = {"save_as_external_data": True, "location": weights.name, "size_threshold": 0}
    onnx.save(model, str(graph), **options)
    case = {"source": {"uri": "ihc"}, "extract": {}, "embed": {"model": str(graph)}}
    asked = Questions(preflight.checked({"cases": {"a": case}}, "config.yaml"))
    assert asked.model_file(SimpleNamespace(case="a")) == [str(graph), str(weights)]
    weights.unlink()
    with pytest.raises(InputError, match=r"its weights are in .*model\.onnx\.data, which is not"):
        preflight.checked({"cases": {"a": case}}, "config.yaml")


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
