"""Vitessce itself in a browser without a network: what it draws of a scene, and how that is linked.

It is tried where the variable HARPY_CORE_VITESSCE names a folder with its packages.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import browser
import numpy as np
import pytest
from matplotlib.image import imread
from page_servers import served

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.raster import Raster
from harpy_core.viewing.bundles import read_bundle
from harpy_core.viewing.scenes import Scene

FOLDER = os.environ.get("HARPY_CORE_VITESSCE")

pytestmark = [
    browser.needed,
    pytest.mark.skipif(not FOLDER, reason="HARPY_CORE_VITESSCE names no folder with Vitessce"),
]

SPATIAL, SCATTER = "#deckgl-overlay-B-wrapper", "#deckgl-overlay-C-wrapper"
"""Views, lettered in the order of the config; the first is the heat map."""

SIDE, NAMES = 512, ["DAPI", "CD3"]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    """A page of four large cells, a quarter of the image each, and a small one in the middle."""
    folder = tmp_path_factory.mktemp("vitessce")
    labels = np.zeros((SIDE, SIDE), np.uint32)
    half = SIDE // 2
    for label, (y, x) in zip((7, 300, 4000, 50_000), np.ndindex(2, 2), strict=True):
        labels[y * half + 20 : y * half + half - 20, x * half + 20 : x * half + half - 20] = label
    labels[half - 12 : half + 12, half - 12 : half + 12] = 9
    noise = np.random.default_rng(0).integers(0, 50, (2, SIDE, SIDE))
    bright = np.zeros(labels.shape), np.zeros(labels.shape)
    for label, values in {7: (1, 1), 300: (9, 1), 4000: (1, 9), 50_000: (9, 9), 9: (5, 5)}.items():
        for plane, value in zip(bright, values, strict=True):
            plane[labels == label] = value * 100
    image = (noise + np.stack(bright)).astype(np.uint16)
    table = folder / "table.zarr"
    aggregate_to_store(image, labels, table, hc.find_instances(labels), "mean", NAMES)
    scene = Scene(Raster.of(image, labels, NAMES), table, "four")
    assert FOLDER is not None
    with (
        served("four", scene, read_bundle(FOLDER)) as address,
        browser.opened(address, (1400, 900)) as opened,
    ):
        until(lambda: "5 segmentations, 1 image" in text(opened))
        until(lambda: "5 cells × 2 channels" in text(opened))
        until(lambda: opened.value("document.querySelectorAll('.crops figure').length") == 5)
        yield opened


def until(holds: Callable[[], bool]) -> None:
    latest = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < latest
        time.sleep(0.2)


def text(tab: browser.Tab) -> str:
    found: str = tab.value("document.body.innerText")
    return found


def shared(tab: browser.Tab, kind: str) -> Any:
    """What all views share of a kind."""
    told = f"globalThis.shownConfig?.coordinationSpace?.{kind}?.A ?? null"
    return json.loads(tab.value(f"JSON.stringify({told})"))


def test_no_other_machine_is_asked(tab: browser.Tab) -> None:
    asked = tab.value("performance.getEntriesByType('resource').map(one => one.name).join(' ')")
    assert len(asked.split()) > 20
    assert {address.split("/")[2].split(":")[0] for address in asked.split()} == {"127.0.0.1"}


def test_the_cell_under_the_pointer_is_marked_in_all_views(tab: browser.Tab) -> None:
    view = SPATIAL
    box = tab.value(
        f"(b => [b.width, b.height])(document.querySelector('{view}').getBoundingClientRect())"
    )
    # The image fills a part of the view, around its middle.
    for label, (y, x) in zip(("7", "300", "4000", "50000"), np.ndindex(2, 2), strict=True):
        at = [
            0.5 + (2 * place - 1) * 0.12 * min(box) / n
            for place, n in zip((x, y), box, strict=True)
        ]

        def pointed(at: list[float] = at, label: str = label) -> bool:
            tab.point(view, (at[0] - 0.004, at[1]))
            tab.point(view, (at[0], at[1]))
            return bool(shared(tab, "obsHighlight") == label)

        until(pointed)
        assert tab.value("document.querySelector('.crops .marked').dataset.name") == label

    def crop_pointed() -> bool:
        tab.point('.crops figure[data-name="300"]', (0.4, 0.4))
        tab.point('.crops figure[data-name="300"]')
        return bool(shared(tab, "obsHighlight") == "300")

    until(crop_pointed)


def test_the_image_and_its_cells_are_drawn(tab: browser.Tab) -> None:
    def drawn() -> bool:
        pixels = 255 * imread(io.BytesIO(tab.screenshot("vitessce")))[100:450, 20:540, :3]
        colours = np.unique(pixels.reshape(-1, 3) // 32, axis=0)
        # Cells of two values, over two channels.
        return len(colours) > 10

    until(drawn)


def test_cells_selected_in_the_scatter_plot_are_selected_in_all_views(tab: browser.Tab) -> None:
    lassos = (
        "[...document.querySelectorAll('button')].filter(b => /Select lasso/.test(b.outerHTML))"
    )
    tab.value(f"void {lassos}[1].click()")
    # The small one is half as bright as the others in both channels.
    tab.drag(SCATTER, [(0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7)])
    until(lambda: "Crops of the selected cells: 1 of 1" in text(tab))
    assert tab.value("document.querySelector('.crops figure').dataset.name") == "9"
    assert shared(tab, "obsSetSelection") == [["My Selections", "Selection 1"]]
    assert shared(tab, "obsColorEncoding") == "cellSetSelection"
    until(lambda: "with 1 cell selected" in text(tab))
