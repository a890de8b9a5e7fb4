"""Image, labels and table in napari's own model of a viewer, which needs no window."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from stores import NAMES, cells, pixels

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.errors import InputError
from harpy_core.raster import Raster
from harpy_core.viewing import napari as viewing


@pytest.fixture
def table(tmp_path: Path) -> Path:
    instances = hc.find_instances(cells())
    aggregate_to_store(pixels(), cells(), tmp_path / "table.zarr", instances, "mean", NAMES)
    return tmp_path / "table.zarr"


def test_every_channel_and_the_statistics_of_the_labels_are_there(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    napari = pytest.importorskip("napari")
    components = pytest.importorskip("napari.components")
    monkeypatch.setattr(
        napari, "Viewer", lambda title, show: components.ViewerModel(title=title), raising=False
    )
    raster = Raster.of(pixels(), cells(), NAMES)
    viewer = viewing.opened(raster, table, "slide", show=False)
    assert [layer.name for layer in viewer.layers] == [*NAMES, "labels"]
    for plane, name in zip(pixels(), NAMES, strict=True):
        np.testing.assert_array_equal(np.asarray(viewer.layers[name].data), plane)
    features = viewer.layers["labels"].features.set_index("index")
    expected = [[plane[cells() == i].mean() for plane in pixels()] for i in (7, 9)]
    np.testing.assert_allclose(features.loc[[7, 9], NAMES], expected)
    shades = [viewer.layers["labels"].get_color(label) for label in (7, 9)]
    assert not np.array_equal(*shades)


def test_without_napari_the_error_says_how_to_install_it(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "napari", None)
    with pytest.raises(InputError, match=r"pip install 'napari\[all\]', or give --output"):
        viewing.opened(Raster.of(pixels(), cells(), NAMES), table, "slide")
