"""What a model's run over crops is planned to take, against what it takes."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from memory import cells

import harpy_core as hc
from harpy_core.config.crops import Extract
from harpy_core.config.measures import Embed
from harpy_core.config.models import Config
from harpy_core.planning import forecast
from harpy_core.planning.embed_plan import MODEL_BYTES, WIDTH, embed_plan
from harpy_core.raster import Raster

OWN = """
import numpy as np

def network(crops):
    maps = np.concatenate([crops] * 5, axis=1)
    return np.tile(maps.mean(axis=(2, 3)), (1, 64))[:, :1024]
"""


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that makes five times a batch of it, and as many numbers as are assumed."""
    (tmp_path / "planned_model.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "planned_model:network"


def test_a_model_takes_what_is_planned(
    own_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    labels = cells(1024, 26)
    image = np.ones((4, *labels.shape), "u2")
    crops = hc.extract_instances(image, labels, tmp_path / "crops.zarr", diameter=40)
    hc.embed(crops, own_model, tmp_path / "warm.zarr")
    tracemalloc.start()
    try:
        found = hc.embed(crops, own_model, tmp_path / "e.zarr")
        took = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.obsm["X_embedding"].shape == (len(crops), WIDTH)
    plan = embed_plan(
        Embed(model=own_model),
        Extract(diameter=40),
        Raster.of(image, labels).info(),
        len(crops),
    )
    assert took <= plan.memory(1) - MODEL_BYTES <= 2.5 * took


def test_the_plan_of_a_config_shows_the_model(own_model: str) -> None:
    case = {"source": {"uri": "ihc"}, "extract": {}, "embed": {"model": own_model}}
    shown = forecast.table(Config.model_validate({"cases": {"a": case}}))
    (line,) = [line.split() for line in shown.splitlines() if " embed " in line]
    assert line[:2] == ["a", "embed"]
