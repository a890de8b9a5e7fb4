"""What a person opens after a run: the index, the pages, the report, the RO-Crate."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser
import numpy as np
import pytest
from calls import snakemake
from rocrate.rocrate import ROCrate

import harpy_core
from harpy_core.storage.manifest import read_manifest, tree_digest
from harpy_core.workflow.crates import FILE


def test_the_index_leads_to_every_store_picture_and_page(finished: Path) -> None:
    results = finished / "results"
    links = set(re.findall(r'href="([^"]*)"', (results / "index.html").read_text()))
    assert all((results / link).exists() for link in links)
    stores = {f"ihc/{name}.zarr" for name in ("tiled", "instances", "table", "crops")}
    pictures = {str(path.relative_to(results)) for path in results.rglob("*.png")}
    assert links >= stores | pictures | {"report.zip", FILE, "ihc/view.html"}


def test_rocrate_reads_the_crate_and_its_parts_are_as_it_says(finished: Path) -> None:
    results = finished / "results"
    crate = ROCrate(results)
    for part in crate.data_entities:
        place = results / part.id
        if part.type == "File":
            assert hashlib.sha256(place.read_bytes()).hexdigest() == part["sha256"], part.id
            assert int(part["contentSize"]) == place.stat().st_size
        elif not part.id.endswith("tiled.zarr/"):
            digest = read_manifest(place.with_suffix(".manifest.json"))["digest"]
            assert part["identifier"] == f"digest:{digest}"
    table = crate.get("ihc/table.zarr/")
    assert table["identifier"] == f"digest:{tree_digest(results / 'ihc/table.zarr')}"
    run = crate.get("#run")
    assert {part.id for part in run["result"]} == {part.id for part in crate.data_entities}
    assert run["instrument"]["softwareVersion"] == harpy_core.__version__
    known = {one["name"]: one["value"] for one in run["object"] if one.type == "PropertyValue"}
    assert known["cases.ihc.extract.diameter"] == 32
    versions = {
        one["name"]: one["softwareVersion"] for one in run["instrument"]["softwareRequirements"]
    }
    assert versions["numpy"] == np.__version__


def test_view_says_what_to_open_where_there_is_no_napari(finished: Path) -> None:
    ended = snakemake(finished, "view", environment={"DISPLAY": "", "WAYLAND_DISPLAY": ""})
    assert ended.returncode == 0, ended.stderr
    assert f"open {(finished / 'results/index.html').as_uri()} in a browser" in ended.stdout


@pytest.fixture(scope="module")
def report(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    """The report, open in a browser."""
    folder = tmp_path_factory.mktemp("report")
    with zipfile.ZipFile(finished / "results/report.zip") as archive:
        archive.extractall(folder)
    page = folder / "report/report.html"
    with browser.opened(
        page, (1440, 900), ready="document.querySelector('#rulegraph canvas')"
    ) as tab:
        yield tab


@browser.needed
def test_the_report_opens_on_what_was_measured(report: browser.Tab) -> None:
    report.wait("document.querySelector('#overview').naturalWidth > 1000")
    report.wait("document.getAnimations().length === 0")
    assert len(report.screenshot("report")) > 20_000
    # All of it is in the window, as wide as the room beside the menu.
    left, top, right, bottom = report.value(
        "(box => [box.left, box.top, box.right, box.bottom])"
        "(document.querySelector('#overview').getBoundingClientRect())"
    )
    menu = report.value("document.querySelector('nav').clientWidth")
    assert menu < left < menu + 50
    assert 1440 - 50 < right < 1440
    assert 0 < top < bottom < 900
    entries = report.value("document.querySelector('#app > div > nav').innerText").split("\n")
    assert entries[-2:] == ["At a glance", "ihc"]


@browser.needed
def test_the_report_shows_every_picture_and_table_with_caption_category_and_labels(
    finished: Path, report: browser.Tab
) -> None:
    results = finished / "results"
    made = [*results.rglob("figures/*.png"), *results.rglob("sweep.csv")]
    parts = {"Tissue": 1, "Instances": 2, "Benchmark": 7}
    seen = [_shown(report, ["At a glance"], 0)]
    seen += [_shown(report, ["ihc", part], row) for part in parts for row in range(parts[part])]
    assert sorted(seen) == sorted(str(path.relative_to(finished)) for path in made)


def _shown(report: browser.Tab, menus: list[str], row: int) -> str:
    """Path of a result that the report shows whole, after the clicks that lead to it."""
    report.value("document.querySelector('nav ol a').click()")
    for name in menus:
        links = "[...document.querySelectorAll('nav ul a')]"
        report.value(f"{links}.find(link => link.innerText.trim() === {name!r}).click()")
    line = f"document.querySelectorAll('nav tbody tr')[{row}]"
    label = report.value(f"{line}.cells[0].innerText")
    report.value(f"{line}.querySelector('a:last-of-type').click()")
    path = report.value("document.querySelector('nav ol li.grow').innerText")
    told = report.value("document.querySelector('#app > div > nav').innerText")
    assert label and label in told, path
    assert len(report.value("document.querySelector('nav .prose').innerText")) > 60, path
    # What is said of it is not cut, once the menu has grown to its width.
    report.wait("(nav => nav.scrollWidth <= nav.clientWidth)(document.querySelector('nav'))")
    link = "document.querySelector('nav td a')"
    if path.endswith(".csv"):
        file = Path(unquote(urlsplit(report.value(f"{link}.href")).path))
        assert file.read_text().startswith("case,stage,engine")
    else:
        report.value(f"{link}.click()")
        picture = "(document.querySelector('#app > div > div img') || {})"
        report.wait(f"{picture}.naturalWidth > 500 && {picture}.src.endsWith({Path(path).name!r})")
        report.screenshot(f"report-{Path(path).stem}")
    return str(path)


@browser.needed
def test_a_browser_shows_the_page_of_a_case(finished: Path) -> None:
    table = json.loads((finished / "results/ihc/table.manifest.json").read_text())
    document = browser.shown(finished / "results/ihc/view.html")
    assert 'data-ready="yes"' in document
    assert all(name in document for name in table["channels"])
