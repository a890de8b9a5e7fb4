"""One page on all sweeps: what was measured, on what, how fast, in how much memory, beside whom."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from harpy_core.benchmark.summaries import median_of
from harpy_core.errors import InputError
from harpy_core.figures import style
from harpy_core.figures.sweeps import COLOUR, called, scale_values

_COLUMNS = (
    ("case", 0.0),
    ("job", 0.13),
    ("by", 0.24),
    ("image (c × y × x)", 0.40),
    ("cache, files", 0.555),
    ("threads", 0.69),
    ("seconds", 0.75),
    ("Gpx/s", 0.87),
    ("peak RSS", 0.93),
)


def overview(sweeps: Sequence[str | os.PathLike[str]], out_png: str | os.PathLike[str]) -> None:
    """Draw a table of the fastest setting of every case, job, engine and state of the cache.

    Below it, memory against the size of the image.

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
    lines = list(_lines(runs, failed))
    with style.applied():
        height = 0.28 * (len(lines) + 2)
        figure = style.new_figure(11, 0.9 + height + 3.0)
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
        _write(table, lines)
        _memory(memory, runs)
        style.save(figure, out_png)


def _lines(runs: pd.DataFrame, failed: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    for (case, stage, _, cache), group in runs.groupby(["case", "stage", "engine", "cache"]):
        medians = group.groupby("workers")["wall_s"].median()
        best = group[group["workers"] == medians.idxmin()]
        first = best.iloc[0]
        time, speed = median_of(best["wall_s"].tolist()), best["gigapixels_per_s"].median()
        linked = first["distinct_files"] < first["files"]
        files = f"{first['files']:.0f} links to {first['distinct_files']:.0f}"
        yield (
            str(case),
            str(stage),
            called(group),
            str(first["shape"]).replace("x", "×"),
            f"{cache}, " + (files if linked else f"{first['files']:.0f} files"),
            f"{first['workers'] * first['threads_per_worker']:.0f}",
            f"{time.value:.3g}" + (f" [{time.low:.3g}, {time.high:.3g}]" if time.runs > 1 else ""),
            f"{speed:.3g}",
            f"{best['peak_rss_gb'].max():.3g} GB",
        )
    for (case, stage, engine, cache), group in failed.groupby(["case", "stage", "engine", "cache"]):
        why = str(group["failed"].iloc[0]).split(": ")[-1][:60]
        yield (
            str(case),
            str(stage),
            str(engine),
            "",
            str(cache),
            "",
            f"failed {len(group)}×: {why}",
            "",
            "",
        )


def _write(axes: Axes, lines: Sequence[tuple[str, ...]]) -> None:
    style.bare(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(lines) + 0.5, -0.5)
    for name, x in _COLUMNS:
        axes.text(x, 0, name, weight="bold", size=8.5, va="center")
    for number, line in enumerate(lines, start=1):
        axes.axhline(number - 0.5, color=style.GRID, linewidth=0.8)
        for (_, x), text in zip(_COLUMNS, line, strict=True):
            axes.text(x, number, text, size=8, va="center")


def _memory(axes: Axes, runs: pd.DataFrame) -> None:
    markers = {"aggregate": "o", "extract": "^"}
    for (stage, engine), group in runs.groupby(["stage", "engine"]):
        peaks = group.groupby(["pixels", "workers"])["peak_rss_gb"].max().reset_index()
        axes.plot(
            peaks["pixels"] / 1e9,
            peaks["peak_rss_gb"],
            markers[str(stage)],
            color=COLOUR[str(engine)],
            label=f"{stage}, {called(group)}",
        )
    axes.set_xscale("log")
    scale_values(axes, runs["peak_rss_gb"].to_numpy())
    axes.set_title("Memory against the size of the image: peak RSS (GB) of every number of workers")
    axes.set_xlabel("gigapixels, all channels")
    axes.grid(axis="y")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4)
