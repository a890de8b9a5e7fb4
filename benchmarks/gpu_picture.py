"""Picture of the record of benchmarks/gpu.py: whole jobs on the CPU and on the GPU.

    python benchmarks/gpu_picture.py results/recorded/gpu.json docs/gpu.png

There is a panel per image, and a group of bars per job. Each bar shows its floor: for the CPU the
time of decoding alone on as many cores, for the GPU that of sending the chunk files to the card.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu import ENCODED, FEW, FLOOR, JOBS, LARGE, SENDING, SHAPE, title_of
from matplotlib.axes import Axes

from harpy_core.figures import style

Values = dict[str, float]
"""Measured values by name."""

GREY = "#b5b5b5"
NARROWEST = 6.4
"""Width of the heading, in inches."""
HEIGHT = 0.8
"""Height of a group of bars, of which one begins at every whole number."""


@dataclass(frozen=True)
class Kind:
    """Conditions of a job.

    Attributes
    ----------
    name, colour
        Name and colour in the picture.
    engine, threads
        Engine and threads in the record.
    """

    name: str
    colour: str
    engine: str
    threads: int


def tables_of(content: dict[str, Any]) -> dict[str, Values]:
    """Return the values of every table, by its title."""
    tables = content["tables"].items()
    return {title: {row["what"]: row["value"] for row in rows} for title, rows in tables}


def draw(recorded: Path, picture: Path) -> None:
    """Draw a record."""
    content = json.loads(recorded.read_text(encoding="utf-8"))
    machine, tables = content["machine"], tables_of(content)
    cores = machine["cores"]
    kinds = (
        Kind(f"processor, {FEW} cores", GREY, "numba", FEW),
        Kind(f"processor, {cores} cores", style.SERIES[0], "numba", cores),
        Kind(f"GPU, fed by {cores} cores", style.SERIES[2], "cupy", cores),
    )
    sending = next(rows[SENDING] for rows in tables.values() if SENDING in rows)
    shapes = [shape for shape in (SHAPE, LARGE) if title_of(shape, 1, cores) in tables]
    with style.applied():
        figure = style.new_figure(max(4.3 * len(shapes) + 1.0, NARROWEST), 4.2)
        style.add_title(
            figure,
            "Every cell measured on the processor and on a GPU",
            f"{machine['card']}, {cores} cores of {machine['cpu']}; chunk files in the page cache",
        )
        panels = figure.subplots(1, len(shapes), squeeze=False)[0]
        for axes, shape in zip(panels, shapes, strict=True):
            titles = {kind: title_of(shape, 1, kind.threads) for kind in kinds}
            rows = {kind: tables[title] for kind, title in titles.items() if title in tables}
            draw_image(axes, rows, sending)
            axes.set_title(" × ".join(f"{n:,}" for n in shape) + " pixels")
        handles, labels = panels[0].get_legend_handles_labels()
        columns = 2 * len(shapes)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        style.save(figure, picture)


def draw_image(axes: Axes, rows: dict[Kind, Values], sending: float) -> None:
    """Draw the bars of one image, from the `rows` of each kind.

    Parameters
    ----------
    sending
        Gigabytes per second that reach the card.
    """
    found = [job for job in JOBS if all(f"{job}, {k.engine}" in v for k, v in rows.items())]
    height = HEIGHT / len(rows)
    for number, (kind, values) in enumerate(rows.items()):
        for group, job in enumerate(found):
            seconds = values[f"{job}, {kind.engine}"]
            top = group + number * height
            size = 0.92 * height
            name = kind.name if group == 0 else None
            axes.barh(top, seconds, size, align="edge", color=kind.colour, label=name)
            text = f" {seconds:#.2g} s" if seconds < 10 else f" {seconds:.0f} s"
            axes.text(seconds, top + size / 2, text, va="center", size=8)
            floor = values[FLOOR] if kind.engine == "numba" else values[ENCODED] / sending
            mark = "floor: decoding alone; the way to the GPU" if number == group == 0 else None
            axes.plot([floor] * 2, [top, top + size], color=style.INK, lw=1.6, label=mark)
    axes.set_yticks([group + HEIGHT / 2 for group in range(len(found))], found)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(found) - (1 - HEIGHT) / 2, -(1 - HEIGHT) / 2)
    axes.set_xlabel("seconds")
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.grid(axis="x")


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recorded", type=Path, help="JSON file that benchmarks/gpu.py wrote")
    parser.add_argument("picture", type=Path, help="PNG to write")
    options = parser.parse_args()
    draw(options.recorded, options.picture)


if __name__ == "__main__":
    main()
