"""The six panels of a benchmark sweep, in the layout of Harpy's published figures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from harpy_core.config.models import MEASURED, PEER
from harpy_core.errors import InputError
from harpy_core.figures import style

# Name of a stage in the published table.
_PUBLISHED_STAGE = {"aggregate": "aggregate_mean", "extract": "extract_instances"}
_TITLE = {"aggregate": "Statistics per instance", "extract": "Crops of instances"}
# Runs below these seconds are made of starts and ends.
_LATENCY = 5.0
# From this ratio on, the smaller values would lie on the axis if it were linear.
_LOG_FROM = 12.0


@dataclass(frozen=True, slots=True)
class _Panel:
    column: str
    title: str
    unit: str


_PANELS = (
    _Panel("peak_rss_gb", "Peak RSS", "GB"),
    _Panel("mean_rss_gb", "Average RSS", "GB"),
    _Panel("mean_vsz_gb", "Average VSZ", "GB"),
    _Panel("wall_s", "Wall time", "seconds"),
    _Panel("peak_cpu_percent", "Peak CPU", "% of a core"),
    _Panel("mean_cpu_percent", "Average CPU", "% of a core"),
)
# Shape and window of what was published; the window matters to crops alone.
_PUBLISHED = {
    "gigapixel": ("100 x 20000 x 20000", 50),
    "terapixel": ("100 x 100000 x 100000", 100),
}
COLOUR = dict(zip(MEASURED, cycle(style.SERIES), strict=False))
_PUBLISHED_COLOUR = "#9a9a9a"


@dataclass(frozen=True, slots=True)
class _Series:
    """Runs that differ only in workers and repeat, and their style."""

    name: str
    runs: pd.DataFrame
    colour: str
    marker: str

    def middle(self, column: str) -> pd.Series[float]:
        """Median over the repeats, by number of workers; of a peak the maximum."""
        groups = self.runs.groupby("workers")[column]
        return groups.max() if column.startswith("peak") else groups.median()


def published(case: str, stage: str) -> pd.DataFrame:
    """Harpy's published figures of one case and stage, a row for each number of workers.

    Parameters
    ----------
    case
        ``"gigapixel"`` or ``"terapixel"``.
    stage
        ``"aggregate"`` or ``"extract"``.

    Raises
    ------
    InputError
        Nothing was published under that name.
    """
    table = pd.read_csv(str(files("harpy_core.figures").joinpath("published.csv")))
    rows = table[(table["case"] == case) & (table["stage"] == _PUBLISHED_STAGE.get(stage, stage))]
    if rows.empty:
        names = ", ".join(sorted(set(table["case"])))
        raise InputError(f"published case = {case!r}, stage = {stage!r}: use one of {names}")
    return rows


def sweep_panels(
    sweep_csv: str | os.PathLike[str],
    stage: str,
    out_png: str | os.PathLike[str],
) -> None:
    """Draw memory, time and CPU of a stage over the number of workers.

    Every run is a dot; medians of the repeats are joined, of the peaks their maxima. An axis starts
    at zero unless what it shows spans more than an order of magnitude; then it is logarithmic.
    Harpy's published points are drawn in grey where shape, channels and window are the same.

    Parameters
    ----------
    sweep_csv
        The table that `harpy_core.benchmark.sweep.collect` wrote.
    stage
        ``"aggregate"`` or ``"extract"``.
    out_png
        Path of the picture.

    Raises
    ------
    InputError
        The table holds no run of the stage.
    """
    runs = runs_of(sweep_csv, stage)
    series = list(_series(runs))
    same = published_like(runs)
    if same is not None:
        series.insert(0, _published_series(same, stage))
    with style.applied():
        figure = style.new_figure(11, 6.6)
        style.add_title(figure, f"{_TITLE[stage]}: {runs['case'].iloc[0]}", conditions(runs))
        axes = figure.subplots(2, 3)
        for panel, place in zip(_PANELS, axes.flat, strict=True):
            _draw(place, panel, series)
        style.space(figure, 0.06, 0.08)
        handles, names = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=2)
        style.save(figure, out_png)


def runs_of(sweep_csv: str | os.PathLike[str], stage: str) -> pd.DataFrame:
    """The runs of a stage that came to their end.

    Raises
    ------
    InputError
        There is none.
    """
    table = pd.read_csv(sweep_csv)
    runs = table[(table["stage"] == stage) & table["failed"].isna()]
    if runs.empty:
        raise InputError(f"{sweep_csv}: no run of stage {stage!r}; run its benchmark first")
    return runs


def published_like(runs: pd.DataFrame) -> str | None:
    """The published case of the same shape, channels and (for crops) window; None without one."""
    first = runs.iloc[0]
    for name, (shape, window) in _PUBLISHED.items():
        if first["shape"] == shape and (first["stage"] != "extract" or first["window"] == window):
            return name
    return None


def _series(runs: pd.DataFrame) -> Iterator[_Series]:
    markers = "osD^vP"
    groups = runs.groupby(["engine", "threads_per_worker", "cache"], sort=True)
    for number, (_, group) in enumerate(groups):
        engine, threads = group["engine"].iloc[0], int(group["threads_per_worker"].iloc[0])
        cache = group["cache"].iloc[0]
        yield _Series(
            f"{called(group)} ({_count(threads, 'thread')} per worker, {cache} cache)",
            group,
            COLOUR.get(str(engine), style.MUTED),
            markers[number % len(markers)],
        )


def called(runs: pd.DataFrame) -> str:
    """Name of an engine's runs, the peer's with its version."""
    engine, software = runs["engine"].iloc[0], str(runs["software"].iloc[0])
    return (
        software.replace("harpy-analysis", "Harpy") if engine == PEER else f"harpy_core, {engine}"
    )


def _published_series(case: str, stage: str) -> _Series:
    rows = published(case, stage)
    threads = int(rows["threads_per_worker"].iloc[0])
    name = f"Harpy, published ({_count(threads, 'thread')} per worker, other machine, other tissue)"
    return _Series(name, rows, _PUBLISHED_COLOUR, "o")


def conditions(runs: pd.DataFrame) -> str:
    """Line that says what was run, how often, on what and in which state."""
    repeats = int(runs.groupby(["engine", "threads_per_worker", "workers"]).size().max())
    machines = [
        f"{model}, {_count(int(cores), 'core')}"
        for model, cores in runs[["cpu_model", "cores"]].drop_duplicates().itertuples(index=False)
    ]
    dots = f"dots: {repeats} runs each, lines: medians" if repeats > 1 else "one run each"
    parts = [_pixels(int(runs["pixels"].max())), "; ".join(machines), dots]
    names, distinct = int(runs["files"].max()), int(runs["distinct_files"].max())
    if distinct < names:
        parts.append(f"LINKED: {names} files are {distinct}")
    if float(runs.groupby(["engine", "workers"])["wall_s"].median().min()) < _LATENCY:
        parts.append("latency, not throughput: runs of seconds")
    if runs["oversubscribed"].any():
        parts.append("more threads than cores")
    return " · ".join(parts)


def _pixels(count: int) -> str:
    for size, name in ((1e12, "terapixels"), (1e9, "gigapixels"), (1e6, "megapixels")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count} pixels"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _draw(axes: Axes, panel: _Panel, series: list[_Series]) -> None:
    for one in series:
        medians = one.middle(panel.column)
        axes.plot(
            medians.index,
            medians.to_numpy(),
            color=one.colour,
            marker=one.marker,
            markersize=0,
            linewidth=1.6,
        )
        axes.plot(
            one.runs["workers"],
            one.runs[panel.column],
            color=one.colour,
            marker=one.marker,
            markersize=4.5,
            markeredgewidth=0,
            alpha=0.75,
            linestyle="none",
            label=one.name,
        )
    values = np.concatenate([one.runs[panel.column] for one in series])
    logarithmic = scale_values(axes, values)
    unit = f"{panel.unit}, log scale" if logarithmic else panel.unit
    axes.set_title(f"{panel.title} ({unit})")
    axes.set_xlabel("workers")
    axes.grid(axis="y")
    scale_workers(axes, np.concatenate([one.runs["workers"] for one in series]))


def scale_workers(axes: Axes, workers: np.ndarray) -> None:
    """Scale an axis of numbers of workers or threads: a tick for each, doubling evenly."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(workers.min() / 2**0.3, workers.max() * 2**0.3)
    axes.xaxis.set_major_locator(FixedLocator(np.unique(workers).tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))


def scale_values(axes: Axes, values: np.ndarray) -> bool:
    """Scale the axis from zero, or logarithmically where that would hide the small values."""
    positive = values[values > 0]
    if not positive.size or positive.max() < _LOG_FROM * positive.min():
        axes.set_ylim(0, max(float(values.max()), 1e-9) * 1.12)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        return False
    axes.set_yscale("log")
    axes.set_ylim(positive.min() / 1.4, positive.max() * 1.4)
    decades = np.log10(positive.max() / positive.min())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    return True
