"""What a person opens after a run: the index, the pages, the report, the RO-Crate."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import browser
import numpy as np
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


@browser.needed
def test_a_browser_opens_the_report(finished: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(finished / "results/report.zip") as archive:
        archive.extractall(tmp_path)
    document = browser.shown(tmp_path / "report/report.html")
    # Every word is in its scripts too.
    seen = re.sub(r"<(script|style)\b.*?</\1>", "", document, flags=re.DOTALL)
    for part in ("Workflow", "Statistics", "About", "Results", "Each case of the config"):
        assert part in seen, part


@browser.needed
def test_a_browser_shows_the_page_of_a_case(finished: Path) -> None:
    table = json.loads((finished / "results/ihc/table.manifest.json").read_text())
    document = browser.shown(finished / "results/ihc/view.html")
    assert 'data-ready="yes"' in document
    assert all(name in document for name in table["channels"])
