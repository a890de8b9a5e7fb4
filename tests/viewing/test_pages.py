"""The page of an image's fullest field: its data against NumPy, and what a browser makes of it."""

from __future__ import annotations

import html
import re
from pathlib import Path

import browser
import numpy as np
import pytest
from page_cases import NAMES, content_of, tissue, unpacked, written

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.errors import InputError
from harpy_core.raster import Raster
from harpy_core.viewing.fields import SIDE
from harpy_core.viewing.pages import write_page


def test_the_page_holds_the_pixels_labels_and_statistics_of_the_image(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (60, 70))
    content = content_of(written(tmp_path, image, labels))
    ids = np.array(list(map(int, content["ids"])))
    np.testing.assert_array_equal(ids, np.unique(labels)[1:])
    numbers = unpacked(content["labels"], "<u2").reshape(60, 70)
    np.testing.assert_array_equal(np.r_[0, ids][numbers], labels)
    assert content["statistics"] == ["mean", "max"]
    values = unpacked(content["values"], "<f4").reshape(2, len(ids), 2)
    for statistic, found in zip((np.mean, np.max), values, strict=True):
        expected = [[statistic(plane[labels == i]) for plane in image] for i in ids]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    planes = unpacked(content["pixels"], "u1").reshape(image.shape)
    for plane, shown in zip(image, planes, strict=True):
        bottom, top = np.percentile(plane, [1, 99.5])
        expected = 255 * np.clip((plane - bottom) / (top - bottom), 0, 1)
        np.testing.assert_allclose(shown, expected, atol=0.51)
    y, x = (np.flatnonzero((labels == 5).any(axis)).mean() for axis in (1, 0))
    assert content["centroids"][0] == [x, y]


def test_the_field_is_the_fullest_of_a_large_image(tmp_path: Path) -> None:
    image, labels = tissue((900, 1500), (1000, 1600))
    content = content_of(written(tmp_path, image, labels))
    assert (content["height"], content["width"]) == (SIDE, SIDE)
    assert len(content["ids"]) == 12


def test_a_table_of_other_labels_is_refused(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (60, 70))
    written(tmp_path, image, labels)
    with pytest.raises(InputError, match="is not one of these labels"):
        write_page(Raster.of(image, labels + 1), tmp_path / "table.zarr", tmp_path / "b.html", "b")


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page = written(tmp_path, *tissue((5, 7), (60, 70))).read_text()
    assert not re.search(r"""(?:src|href)\s*=|url\(|import\(|fetch\(|https?:""", page)


def test_of_a_table_of_several_layers_the_page_has_the_rows_of_its_own(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (60, 70))
    inner = np.where(labels == 15, labels, 0)
    inner[10, 24] = 115
    place = tmp_path / "table.zarr"
    for raster in (
        Raster.of(image, {"cells": labels}, NAMES),
        Raster.of(image, {"x": inner}, NAMES),
    ):
        (name, own), instances = next(iter(raster.layers.items())), hc.find_instances(raster.labels)
        others = {"x": inner} if name == "cells" else {"cells": labels}
        aggregate_to_store(image, own, place, instances, "mean", NAMES, region=name, layers=others)
        write_page(raster, place, tmp_path / "view.html", "a")
        content = content_of(tmp_path / "view.html")
        ids = np.array(list(map(int, content["ids"])))
        np.testing.assert_array_equal(ids, np.unique(own)[1:])
        expected = [[plane[own == i].mean() for plane in image] for i in ids]
        values = unpacked(content["values"], "<f4").reshape(len(ids), 2)
        np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_of_a_table_of_shapes_the_page_has_the_shapes(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (60, 70))
    instances = hc.find_instances(labels)
    aggregate_to_store(image, labels, tmp_path / "table.zarr", instances, ("area",), NAMES)
    write_page(
        Raster.of(image, labels, NAMES), tmp_path / "table.zarr", tmp_path / "view.html", "a"
    )
    content = content_of(tmp_path / "view.html")
    assert content["statistics"] == ["shape"]
    values = unpacked(content["values"], "<f4").reshape(12, len(content["channels"]))
    np.testing.assert_array_equal(values[:, content["channels"].index("area")], 64)


@browser.needed
def test_a_browser_shows_the_page_and_links_what_is_selected(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (60, 70))
    document = browser.shown(written(tmp_path, image, labels), "15,115")
    assert 'data-ready="yes"' in document
    assert ">12 instances<" in document
    assert ">a &amp; b</h1>" in document
    assert html.escape(NAMES[1], quote=False) in document
    captions = re.findall(r"<figcaption>(\d+): ([\d.]+)</figcaption>", document)
    shown = {int(label): float(value) for label, value in captions}
    expected = {i: image[0][labels == i].mean() for i in (15, 115)}
    assert shown == pytest.approx(expected, rel=1e-3)
    # From the lowest to the highest.
    assert list(shown.values()) == sorted(shown.values())
    assert "Windows of the selected instances: 2 of 2" in document
