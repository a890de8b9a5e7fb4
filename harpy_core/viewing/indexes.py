"""The page that leads to everything in a results folder."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harpy_core.storage.manifest import read_manifest, write_text

_TOLD = {
    "tiled.zarr": "the source repeated to the target size (SpatialData)",
    "instances.zarr": "id, pixels, centroid and bounding box of every instance (Zarr)",
    "table.zarr": "statistics of every channel in every instance (AnnData)",
    "crops.zarr": "one centred crop of every instance (Zarr)",
    "into_store.json": "elements that were put into your own store",
    "benchmark/sweep.csv": "every measured run",
    "benchmark/samples.csv.gz": "memory and CPU of every process of every run",
    "view.html": "image, segmentation, scatter, heat map and crops, linked",
}
"""What may be there of a case, and what it is."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2430; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td { padding: .15rem 1.2rem .15rem 0; vertical-align: top; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
figure { margin: 0; width: 20rem; }
img { width: 100%; border: 1px solid #d5dbe3; border-radius: 4px; }
figcaption { color: #55606e; font-size: .9rem; }
"""


def write_index(results: str | os.PathLike[str], cases: Iterable[str], made: Iterable[str]) -> None:
    """Write ``index.html`` into a results folder: every store, figure, page and report.

    Parameters
    ----------
    results
        The folder.
    cases
        Folders of the images that were measured, and of cases with several, below it.
    made
        Further files below it to lead to, such as the report.
    """
    folder = Path(results)
    parts = [f"<h1>Results: {html.escape(folder.absolute().name)}</h1>"]
    parts += _list(dict.fromkeys(made, ""))
    for figure in sorted((folder / "figures").glob("*.png")):
        parts += _pictures(folder, [figure])
    for case in cases:
        parts.append(f"<h2>{html.escape(case)}</h2>")
        found = {
            f"{case}/{name}": told for name, told in _TOLD.items() if _is_there(folder, case, name)
        }
        parts += _list({name: f"{told}{_size(folder / name)}" for name, told in found.items()})
        parts += _pictures(folder, sorted((folder / case / "figures").glob("*.png")))
    parts.append(
        "<p>A store is whole when its <code>.manifest.json</code> is beside it; "
        "Snakemake's own timings and every rule's log are with the logs.</p>"
    )
    body = "\n".join(parts)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Results</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    write_text(folder / "index.html", page)


def _is_there(folder: Path, case: str, name: str) -> bool:
    return (folder / case / name).exists()


def _size(store: Path) -> str:
    """What a store's manifest says of its size."""
    manifest = store.with_suffix(".manifest.json")
    if store.suffix != ".zarr" or not manifest.is_file():
        return ""
    facts: Mapping[str, Any] = read_manifest(manifest)
    told = [f"{facts['instances']:,} instances"] if "instances" in facts else []
    told += [f"{len(facts['channels']):,} channels"] if "channels" in facts else []
    return f": {', '.join(told)}" if told else ""


def _list(links: Mapping[str, str]) -> Iterator[str]:
    if links:
        yield "<table>"
        for name, told in links.items():
            yield f"<tr><td>{_link(name, name)}</td><td>{html.escape(told)}</td></tr>"
        yield "</table>"


def _link(name: str, text: str) -> str:
    return f'<a href="{html.escape(name, quote=True)}">{html.escape(text)}</a>'


def _pictures(folder: Path, figures: Iterable[Path]) -> Iterator[str]:
    yield '<div class="pictures">'
    for figure in figures:
        name = figure.relative_to(folder).as_posix()
        there = html.escape(name, quote=True)
        yield (
            f'<figure><a href="{there}"><img src="{there}" alt="{html.escape(figure.stem)}"></a>'
            f"<figcaption>{html.escape(figure.stem)}</figcaption></figure>"
        )
    yield "</div>"
