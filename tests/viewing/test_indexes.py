"""The page that leads to everything in a results folder."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from harpy_core.storage.manifest import write_manifest
from harpy_core.viewing.indexes import write_index


class Links(HTMLParser):
    """Addresses that a page leads to or shows."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [unquote(value or "") for name, value in attrs if name in ("href", "src")]


def test_every_link_leads_to_something_and_every_result_is_linked(tmp_path: Path) -> None:
    places = ["a/table.zarr", "a/crops.zarr", "b/fields/left/table.zarr"]
    files = ["a/figures/tissue.png", "figures/overview.png", "a/view.html", "report.zip"]
    for place in places:
        (tmp_path / place).mkdir(parents=True)
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    write_manifest(
        tmp_path / "a/table.manifest.json",
        kind="table",
        digest="0",
        instances=1234,
        channels=["<DAPI>"],
    )
    write_index(tmp_path, ["a", "b", "b/fields/left"], ["report.zip"])
    found = Links(tmp_path / "index.html").found
    assert all((tmp_path / link).exists() for link in found)
    assert set(found) == {*places, *files}
    assert "1,234 instances, 1 channels" in (tmp_path / "index.html").read_text()
