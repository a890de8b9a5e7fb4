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

from harpy_core.config.models import MEASURED
from harpy_core.errors import InputError
from harpy_core.figures import style

# Name of a stage in the published table.
_PUBLISHED_STAGE = {"aggregate": "aggregate_mean", "extract": "extract_instances"}
_TITLE = {"aggregate": "Statistics per instance", "extract": "Crops of instances"}
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
_COLOUR = dict(zip(MEASURED, cycle(style.SERIES), strict=False))
_PUBLISHED_COLOUR = "#9a9a9a"


@dataclass(frozen=True, slots=True)
class _Series:
    """Runs that differ only in workers and repeat, and their style."""

    name: str
    runs: pd.DataFrame
    colour: str
    marker: str

    def medians(self, column: str) -> pd.Series[float]:
        """Median over the repeats, by number of workers."""
        return self.runs.groupby("workers")[column].median()


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
    published_case: str | None = None,
) -> None:
    """Draw memory, time and CPU of a stage over the number of workers.

    Every run is a dot, the medians of the repeats are joined. An axis starts at zero unless what
    it shows spans more than an order of magnitude; then it is logarithmic.

    Parameters
    ----------
    sweep_csv
        The table that `harpy_core.benchmark.sweep.collect` wrote.
    stage
        ``"aggregate"`` or ``"extract"``.
    out_png
        Path of the picture.
    published_case
        The published case these runs repeat (``"gigapixel"``, ``"terapixel"``), drawn in grey;
        None where there is none.

    Raises
    ------
    InputError
        The table holds no run of the stage.
    """
    table = pd.read_csv(sweep_csv)
    runs = table[table["stage"] == stage]
    if runs.empty:
        raise InputError(f"{sweep_csv}: no run of stage {stage!r}; run its benchmark first")
    series = list(_series(runs))
    if published_case is not None:
        series.insert(0, _published_series(published_case, stage))
    with style.applied():
        figure = style.new_figure(11, 6.6)
        style.add_title(figure, f"{_TITLE[stage]}: {runs['case'].iloc[0]}", _conditions(runs))
        axes = figure.subplots(2, 3)
        for panel, place in zip(_PANELS, axes.flat, strict=True):
            _draw(place, panel, series)
        figure.get_layout_engine().set(wspace=0.06, hspace=0.08)  # type: ignore[union-attr,call-arg]
        handles, names = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=2)
        style.save(figure, out_png)


def _series(runs: pd.DataFrame) -> Iterator[_Series]:
    markers = "osD^vP"
    groups = runs.groupby(["engine", "threads_per_worker"], sort=True)
    for number, (_, group) in enumerate(groups):
        engine, threads = group["engine"].iloc[0], int(group["threads_per_worker"].iloc[0])
        own = "Harpy" if engine == "harpy" else f"harpy_core, {engine}"
        yield _Series(
            f"{own} ({_count(threads, 'thread')} per worker)",
            group,
            _COLOUR.get(str(engine), style.MUTED),
            markers[number % len(markers)],
        )


def _published_series(case: str, stage: str) -> _Series:
    rows = published(case, stage)
    threads = int(rows["threads_per_worker"].iloc[0])
    name = f"Harpy, published ({_count(threads, 'thread')} per worker, other machine)"
    return _Series(name, rows, _PUBLISHED_COLOUR, "o")


def _conditions(runs: pd.DataFrame) -> str:
    """What was run, how often and on what, in a line."""
    repeats = int(runs.groupby(["engine", "threads_per_worker", "workers"]).size().max())
    machines = [
        f"{model}, {_count(int(cores), 'core')}"
        for model, cores in runs[["cpu_model", "cores"]].drop_duplicates().itertuples(index=False)
    ]
    dots = f"dots: {repeats} runs each, lines: medians" if repeats > 1 else "one run each"
    return f"{_pixels(int(runs['pixels'].max()))} · {'; '.join(machines)} · {dots}"


def _pixels(count: int) -> str:
    for size, name in ((1e12, "terapixels"), (1e9, "gigapixels"), (1e6, "megapixels")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count} pixels"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _draw(axes: Axes, panel: _Panel, series: list[_Series]) -> None:
    for one in series:
        medians = one.medians(panel.column)
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
    logarithmic = _scale_values(axes, values)
    unit = f"{panel.unit}, log scale" if logarithmic else panel.unit
    axes.set_title(f"{panel.title} ({unit})")
    axes.set_xlabel("workers")
    axes.grid(axis="y")
    _scale_workers(axes, np.concatenate([one.runs["workers"] for one in series]))


def _scale_workers(axes: Axes, workers: np.ndarray) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(workers.min() / 2**0.3, workers.max() * 2**0.3)
    axes.xaxis.set_major_locator(FixedLocator(np.unique(workers).tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))


def _scale_values(axes: Axes, values: np.ndarray) -> bool:
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
