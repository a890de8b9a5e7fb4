"""The README's table of figures, made from what is recorded, or compared with it.

python benchmarks/tables.py [--check]
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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


def filled(text: str) -> str:
    """The README with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, *table(), END + after])


def main() -> int:
    """Write the README, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if options.check:
        return int(filled(text) != text)
    readme.write_text(filled(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
