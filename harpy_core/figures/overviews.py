"""One page on all sweeps: what was measured, on what, how fast, in how much memory, beside whom."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, NullFormatter

from harpy_core.benchmark.summaries import median_of
from harpy_core.errors import InputError
from harpy_core.figures import style
from harpy_core.figures.sweeps import COLOUR, called, scale_values

_Line = tuple[str, ...]

_COLUMNS = (
    "case",
    "job",
    "by",
    "image (c × y × x)",
    "cache, files",
    "threads",
    "seconds",
    "Gpx/s",
    "peak RSS",
)
_MEASURED = ["case", "stage", "engine", "cache"]
_HEAD: Mapping[str, Any] = {"size": 8.5, "weight": "bold"}
_CELL: Mapping[str, Any] = {"size": 8}
_BESIDE = 0.25
"""Inches between two columns."""


def overview(sweeps: Sequence[str | os.PathLike[str]], out_png: str | os.PathLike[str]) -> None:
    """Draw a table of the fastest setting of every case, job, engine and state of the cache.

    Where there are several of a case and job with the same state of the cache, each time is
    followed by its ratio to the shortest. Below the table, memory against the size of the image.

    Parameters
    ----------
    sweeps
        Tables that `harpy_core.benchmark.sweep.run` wrote.
    out_png
        Path of the picture.

    Raises
    ------
    InputError
        No run came to its end.
    """
    runs = pd.concat([pd.read_csv(path) for path in sweeps], ignore_index=True)
    failed = runs[runs["failed"].notna()]
    runs = runs[runs["failed"].isna()]
    if runs.empty:
        raise InputError("no measured run came to its end: there is nothing to show")
    lines = [*_lines(runs), *_failures(failed)]
    with style.applied():
        height = 0.28 * (len(lines) + 2)
        starts = _starts(lines)
        figure = style.new_figure(max(11, starts[-1] + 0.8), 0.9 + height + 3.0)
        machines = runs[["cpu_model", "cores", "memory_gb"]].drop_duplicates()
        style.add_title(
            figure,
            "What was measured, and what came of it",
            "; ".join(
                f"{m.cpu_model}, {m.cores} cores, {m.memory_gb} GB" for m in machines.itertuples()
            )
            + " · finding the instances counts on every side · GB is 1e9 bytes",
        )
        table, memory = figure.subplots(2, 1, height_ratios=(height, 3.0))
        _write(table, lines, starts)
        _memory(memory, runs)
        style.save(figure, out_png)


def _lines(runs: pd.DataFrame) -> Iterator[_Line]:
    for (case, stage, _, cache), group in runs.groupby(_MEASURED):
        best = group[group["workers"] == group.groupby("workers")["wall_s"].median().idxmin()]
        same = runs[(runs["case"] == case) & (runs["stage"] == stage) & (runs["cache"] == cache)]
        medians = same.groupby(["engine", "workers"])["wall_s"].median()
        first = best.iloc[0]
        linked = first["distinct_files"] < first["files"]
        files = f"{first['files']:.0f} links to {first['distinct_files']:.0f}"
        yield (
            str(case),
            str(stage),
            called(group),
            str(first["shape"]).replace("x", "×"),
            f"{cache}, " + (files if linked else f"{first['files']:.0f} files"),
            f"{first['workers'] * first['threads_per_worker']:.0f}",
            _time(best["wall_s"].tolist(), medians.groupby("engine").min().tolist()),
            _digits(best["gigapixels_per_s"].median()),
            f"{_digits(best['peak_rss_gb'].max())} GB",
        )


def _failures(failed: pd.DataFrame) -> Iterator[_Line]:
    for (case, stage, engine, cache), group in failed.groupby(_MEASURED):
        why = str(group["failed"].iloc[0]).split(": ")[-1][:60]
        told = f"failed {len(group)}×: {why}"
        yield (str(case), str(stage), str(engine), "", str(cache), "", told, "", "")


def _time(seconds: Sequence[float], medians: Sequence[float]) -> str:
    """Median of some runs, its interval, and its ratio to the shortest of several medians."""
    time = median_of(seconds)
    interval = f" [{_digits(time.low)}, {_digits(time.high)}]" if time.runs > 1 else ""
    ratio = f" · {_digits(time.value / min(medians))}×" if len(medians) > 1 else ""
    return _digits(time.value) + interval + ratio


def _digits(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _starts(lines: Sequence[_Line]) -> list[float]:
    """Inches from the table's left edge to each column, and to its right edge."""
    starts, end = [0.0], 0.0
    for number, name in enumerate(_COLUMNS):
        widths = [_inches(line[number], _CELL) for line in lines]
        # Why a run failed goes on over the columns to its right, where it has nothing.
        last = number == len(_COLUMNS) - 1
        within = [
            w for w, line in zip(widths, lines, strict=True) if last or any(line[number + 1 :])
        ]
        end = max([end, *(starts[-1] + width for width in widths)])
        starts.append(starts[-1] + max([_inches(name, _HEAD), *within]) + _BESIDE)
    return [*starts[:-1], max(end, starts[-1] - _BESIDE)]


def _inches(text: str, look: Mapping[str, Any]) -> float:
    font = FontProperties(**look)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return width / 72


def _write(axes: Axes, lines: Sequence[_Line], starts: Sequence[float]) -> None:
    style.bare(axes)
    axes.set_ylim(len(lines) + 0.8, -0.5)
    for number, line in enumerate([_COLUMNS, *lines]):
        if number:
            axes.axhline(number - 0.5, color=style.GRID, linewidth=0.8)
        for start, text in zip(starts, line, strict=False):
            axes.annotate(
                text,
                (0, number),
                (72 * start, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                **(_HEAD if number == 0 else _CELL),
            ).set_in_layout(False)


def _memory(axes: Axes, runs: pd.DataFrame) -> None:
    markers = {"aggregate": "o", "extract": "^"}
    for (stage, engine), group in runs.groupby(["stage", "engine"]):
        peaks = group.groupby(["pixels", "workers"])["peak_rss_gb"].max().reset_index()
        axes.plot(
            peaks["pixels"] / 1e9,
            peaks["peak_rss_gb"],
            markers[str(stage)],
            color=COLOUR[str(engine)],
            fillstyle="none",
            label=f"{stage}, {called(group)}",
        )
    axes.set_xscale("log")
    # Whole decades, so that the place of a single image can be read.
    sizes = np.log10(runs["pixels"] / 1e9)
    axes.set_xlim(10 ** np.floor(sizes.min() - 0.01), 10 ** np.ceil(sizes.max() + 0.01))
    scale_values(axes, runs["peak_rss_gb"].to_numpy())
    axes.set_title("Memory against the size of the image: peak RSS (GB) of every number of workers")
    axes.set_xlabel("gigapixels, all channels")
    axes.grid(axis="y")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4)
