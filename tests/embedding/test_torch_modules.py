"""PyTorch modules as models of crops, and what makes one another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from crop_cases import extracted, tissue

import harpy_core as hc
from harpy_core.embedding.models import open_model

if TYPE_CHECKING:
    from harpy_core.extract.crops import Crops

torch = pytest.importorskip("torch")

OWN = """
import torch

class Network(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.maps = torch.nn.Conv2d(5, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)

    def forward(self, crops):
        return self.norm(self.maps(crops)).relu().mean((2, 3)) * self.factor

torch.manual_seed(3)
network = Network(1.0)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with a network of the user's own."""
    (tmp_path / "own_torch.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    module = importlib.import_module("own_torch")
    yield module
    import sys

    del sys.modules["own_torch"]


@pytest.fixture
def crops(tmp_path: Path) -> Crops:
    return extracted(tissue(), tmp_path, diameter=8, batch_size=4)


def test_a_module_gives_what_it_gives_by_hand(crops: Crops, own: Any, tmp_path: Path) -> None:
    pixels = torch.from_numpy(np.asarray(crops.image[:, :, 0]).astype("f4") / 65535)
    with torch.inference_mode():
        expected = own.network.eval()(pixels).numpy()
    for number, model in enumerate((own.network, "own_torch:network")):
        found = hc.embed(crops, model, tmp_path / f"{number}.zarr", batch_size=7, device="cpu")
        np.testing.assert_allclose(found.obsm["X_embedding"], expected, 1e-4, 1e-5)


def test_a_module_of_bfloat16_gives_its_numbers(crops: Crops, tmp_path: Path) -> None:
    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.bfloat16))

        def forward(self, crops: Any) -> Any:
            return crops.mean((2, 3)).bfloat16() * self.factor

    found = hc.embed(crops, Half(), tmp_path / "e.zarr", normalise=None)
    means = np.asarray(crops.image[:, :, 0]).mean(axis=(2, 3))
    np.testing.assert_allclose(found.obsm["X_embedding"], 2 * means, 1e-2)


def test_weights_settings_and_code_identify_a_module(own: Any, tmp_path: Path) -> None:
    def digest(factor: float, seed: int = 3) -> str | None:
        torch.manual_seed(seed)
        return open_model(own.Network(factor), "cpu").digest

    assert digest(1.0) is not None
    assert digest(1.0) == digest(1.0)
    before = {digest(1.0), digest(2.0), digest(1.0, 4)}
    assert len(before) == 3
    (tmp_path / "own_torch.py").write_text(OWN.replace("relu", "sigmoid"))
    assert digest(1.0) not in before


def test_a_module_of_which_nothing_tells_what_it_computes_has_no_identity(own: Any) -> None:
    class Here(torch.nn.Module):
        def forward(self, crops: Any) -> Any:
            return crops.mean((2, 3))

    hooked = own.Network(1.0)
    hooked.register_forward_hook(lambda *_: None)
    for module in (Here(), hooked, torch.jit.script(torch.nn.Linear(2, 2))):
        assert open_model(module, "cpu").digest is None
