"""Tables of figures in the README and docs/scaling.md, made from what is recorded, or compared.

python benchmarks/tables.py [--check]
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "results" / "recorded"
BEGIN = "<!-- made by benchmarks/tables.py from results/recorded -->"
END = "<!-- end -->"


@dataclass(frozen=True)
class Line:
    """One line of the table: a published case and stage, and our record of it.

    Attributes
    ----------
    parts
        How many times what was recorded makes the whole.
    """

    image: str
    job: str
    case: str
    stage: str
    record: str
    parts: int = 1


LINES = (
    Line(
        "100 × 20,000 × 20,000 pixels, 206,000 cells",
        "mean of every channel",
        "gigapixel",
        "aggregate_mean",
        "gigapixel-aggregate",
    ),
    Line("", "crops of 50 × 50 pixels", "gigapixel", "extract_instances", "gigapixel-extract"),
    Line(
        "100 × 100,000 × 100,000 pixels, 279,000 cells",
        "mean of every channel",
        "terapixel",
        "aggregate_mean",
        "terapixel-aggregate",
    ),
    Line(
        "",
        "crops of 100 × 100 pixels",
        "terapixel",
        "extract_instances",
        "terapixel-eighth-extract",
        8,
    ),
)


def published(line: Line) -> str:
    """Harpy's best published time of a case, its memory and threads."""
    with (ROOT / "harpy_core/figures/published.csv").open(encoding="utf-8") as handle:
        rows = [
            r for r in csv.DictReader(handle) if (r["case"], r["stage"]) == (line.case, line.stage)
        ]
    best = min(rows, key=lambda row: float(row["wall_s"]))
    threads = int(best["workers"]) * int(best["threads_per_worker"])
    return (
        f"{float(best['wall_s']):,.0f} s, {float(best['peak_rss_gb']):.0f} GB on {threads} threads"
    )


def recorded(line: Line) -> str:
    """Our time and peak memory; of a part, the whole by its multiple."""
    content = json.loads((RECORDED / f"{line.record}.json").read_text(encoding="utf-8"))
    (rows,) = content["tables"].values()
    values = {row["what"].partition(",")[0]: row["value"] for row in rows}
    stage = line.stage.partition("_")[0]
    memory = f"{values['peak RSS of the process tree']:.1f} GB"
    if line.parts == 1:
        return f"{values[stage]:,.0f} s, {memory}"
    return f"about {round(values[stage] * line.parts, -1):,.0f} s, {memory}"


def table() -> Iterator[str]:
    """Lines of the table, in Markdown."""
    yield "| image | job | Harpy, published | harpy_core, 2 cores, linked files, warm |"
    yield "|---|---|---|---|"
    for line in LINES:
        image = f" {line.image}" if line.image else ""
        yield f"|{image} | {line.job} | {published(line)} | {recorded(line)} |"


TILES = {
    "dense, mean": "dense tissue, 1,900 cells in a tile, mean",
    "dense, nine statistics": "the same, nine statistics",
    "sparse, mean": "the terapixel's, 100 cells in a tile, mean",
    "sparse, nine statistics": "the same, nine statistics",
}
"""What was merged, by its name in the record."""

GPX_PER_CORE = {"mean": 1.0, "nine statistics": 0.5}
"""Gigapixels a second that a worker's core measures."""


def scheduler_tables() -> Iterator[str]:
    """Lines of the tables of one driver's merge and of empty tasks, in Markdown."""
    content = json.loads((RECORDED / "scheduler.json").read_text(encoding="utf-8"))
    (_, merged), *empty = content["tables"].items()
    found = {(row["what"], row["unit"]): row["value"] for row in merged}
    yield (
        "| tiles | returned by a tile | merged by one core | pixels behind that "
        "| cores of workers |"
    )
    yield "|---|---|---|---|---|"
    for name, told in TILES.items():
        size = found[f"{name}: contribution of a tile", "MB"]
        rate = found[f"{name}: merged", "tiles/s"]
        pixels = found[f"{name}: pixels behind it", "Gpx/s"]
        cores = pixels / GPX_PER_CORE[name.partition(", ")[2]]
        yield (
            f"| {told} | {size:.2f} MB | {_rounded(rate)} tiles/s | {_rounded(pixels)} Gpx/s "
            f"| {_rounded(cores)} |"
        )
    yield ""
    yield (
        "| empty tasks | handed out and taken | one core of the scheduler | one core of the driver "
        "| memory of the scheduler grew by |"
    )
    yield "|---|---|---|---|---|"
    for title, rows in empty:
        one = {row["what"]: row["value"] for row in rows}
        ceiling = "tasks that one core of the {} can do in a second"
        yield (
            f"| {title.partition(' empty')[0]} | {_rounded(one['tasks a second'])} a second "
            f"| {_rounded(one[ceiling.format('scheduler')])} a second "
            f"| {_rounded(one[ceiling.format('driver')])} a second "
            f"| {_rounded(one['memory of the scheduler grew by'])} MB |"
        )


def million_cells() -> Iterator[str]:
    """Lines of the table of millions of cells, in Markdown."""
    content = json.loads((RECORDED / "cells.json").read_text(encoding="utf-8"))
    (rows,) = content["tables"].values()
    found = {row["what"]: row["value"] for row in rows}
    yield "| channels | memory: planned | measured | written in | on disk | opened lazily |"
    yield "|---|---|---|---|---|---|"
    for name in (what.removesuffix(", time") for what in found if what.endswith("channels, time")):
        yield (
            f"| {name.partition(' ')[0]} | {found[f'{name}, memory, planned']:.1f} GB "
            f"| {found[f'{name}, memory, measured']:.1f} GB | {_rounded(found[f'{name}, time'])} s "
            f"| {found[f'{name}, table on disk']:.1f} GB of "
            f"{found[f'{name}, table before compression']:.1f} "
            f"| in {found[f'{name}, opened lazily, time']:.0f} s, "
            f"{found[f'{name}, opened lazily, memory'] / 1e3:.1f} GB |"
        )


def _rounded(value: float) -> str:
    """Two digits that count, as much as such a measurement tells."""
    return f"{float(f'{value:.2g}'):,.0f}"


CODECS = {
    "LZ4 1, no shuffle": "`lz4`, as written",
    "LZ4 1, bit shuffle": "LZ4, shuffled by bits",
    "LZ4 9, no shuffle": "LZ4 at level 9",
    "Zstd -3, plain": "`zstd`, as written",
    "Zstd 3, plain": "Zstandard at level 3",
    "Zstd 3 in Blosc, no shuffle": "the same in Blosc's blocks",
}
"""Ways to encode crops, by their names in the record."""


def codec_table() -> Iterator[str]:
    """Lines of the table of ways to encode crops, in Markdown."""
    content = json.loads((RECORDED / "codecs.json").read_text(encoding="utf-8"))
    found = {
        row["what"]: row["value"]
        for row in content["tables"]["all sections and windows, geometric means"]
    }
    yield "| | background removed: size | encoded | decoded | kept: size | encoded | decoded |"
    yield "|---|---|---|---|---|---|---|"
    for name, told in CODECS.items():
        cells = [
            f"{100 * found[f'{kind}, {name}: size']:.0f} %"
            if what == "size"
            else f"{found[f'{kind}, {name}: {what}']:.1f} GB/s"
            for kind in ("background removed", "with background")
            for what in ("size", "encode", "decode")
        ]
        yield f"| {told} | {' | '.join(cells)} |"


AGAINST = {
    "mean": "mean of every channel",
    "six": "six statistics",
    "crops": "crops of 50 × 50 pixels",
}
"""What both did, by its name in the record."""


def against_harpy() -> Iterator[str]:
    """Lines of the table of Harpy's times beside ours on one machine, in Markdown."""
    content = json.loads((RECORDED / "against-harpy.json").read_text(encoding="utf-8"))
    times = {
        title: [row for row in rows if row["unit"] == "s"]
        for title, rows in content["tables"].items()
    }
    version = next(iter(times.values()))[1]["what"]
    yield f"| 20 × 8,192 × 8,192 pixels, 2 cores, warm | harpy_core | {version} | |"
    yield "|---|---|---|---|"
    for title, (ours, theirs) in times.items():
        tissue, job = title.split(", ")
        here, there = ours["value"], theirs["value"]
        yield (
            f"| {tissue} tissue: {AGAINST[job]} | {here:.1f} s | {there:.0f} s "
            f"| {there / here:.0f} × |"
        )


def peers() -> Iterator[str]:
    """Lines of the table of all that measure the same cells, in Markdown."""
    content = json.loads((RECORDED / "peers.json").read_text(encoding="utf-8"))
    for number, (title, rows) in enumerate(content["tables"].items()):
        if number:
            yield ""
        yield f"| {title} | time | peak RSS | CPU |"
        yield "|---|---|---|---|"
        yield from _finished(rows)


def _finished(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of those that finished or did not."""
    found = {row["what"]: row["value"] for row in rows}
    for what, value in found.items():
        name, _, version = what.partition(" (")
        if ": did not finish" in what:
            yield f"| {what.partition(':')[0]} | did not finish: {version[:-1]} | | |"
        elif version:
            memory, cpu = found[f"{name}: peak RSS"], found[f"{name}: mean CPU"]
            yield f"| {what} | {value:.1f} s | {memory:.1f} GB | {cpu:.0f} % of a core |"


DISTINCT = {
    "aggregate": ("mean of every channel", {"40 gigapixels": 40.0, "a terapixel": 1000.0}),
    "extract": ("crops of 50 × 50 pixels", {"40 gigapixels": 40.0}),
}
"""Stages measured on distinct files, cold, and sizes of more of the same in gigapixels."""


def distinct() -> Iterator[str]:
    """Lines of the table of distinct files that no cache held, in Markdown."""
    yield (
        "| 50 × 20,000 × 20,000 pixels, 206,000 cells, distinct files, cold | time | bare reading "
        "of the files | at this rate |"
    )
    yield "|---|---|---|---|"
    for stage, (told, sizes) in DISTINCT.items():
        path = RECORDED / f"distinct-{stage}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        (rows,) = content["tables"].values()
        found = {row["what"].partition(",")[0]: row["value"] for row in rows}
        each = found[stage] / found["pixels"]
        more = (f"{name} in {_rounded(each * size)} s" for name, size in sizes.items())
        size, bare = found["bytes of them"], found["bare reading of them past the page cache"]
        yield (
            f"| {told} | {found[stage]:,.0f} s, {found['peak RSS of the process tree']:.1f} GB "
            f"| {bare:,.0f} s, {size:.0f} GB | {', '.join(more)} |"
        )


TABLES: dict[str, tuple[Callable[[], Iterable[str]], ...]] = {
    "README.md": (table, distinct, against_harpy),
    "docs/how-to/crops.md": (codec_table,),
    "docs/scaling.md": (scheduler_tables, million_cells),
    "results/recorded/README.md": (peers,),
}
"""Lines between each pair of marks of a file."""


def filled(text: str, name: str = "README.md") -> str:
    """The text of a file with its tables between the marks."""
    parts = []
    for lines in TABLES[name]:
        before, _, rest = text.partition(BEGIN)
        _, _, text = rest.partition(END)
        parts.append("\n".join([before + BEGIN, *lines(), END]))
    return "".join([*parts, text])


def main() -> int:
    """Write the files, or say whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in TABLES}
    if options.check:
        return int(any(filled(text, name) != text for name, text in texts.items()))
    for name, text in texts.items():
        (ROOT / name).write_text(filled(text, name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
