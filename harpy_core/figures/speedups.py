"""Throughput of a stage over the number of threads, its speed-up, and what bounds it."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harpy_core.benchmark.summaries import median_of, serial_share
from harpy_core.figures import style
from harpy_core.figures.sweeps import (
    COLOUR,
    called,
    conditions,
    runs_of,
    scale_values,
    scale_workers,
)

_PARTS = ("disk", "decode", "kernel", "encode", "write", "idle")
_PART_COLOURS = dict(zip(_PARTS, (*style.SERIES[:5], "#d0d0d0"), strict=True))


def scaling(sweep_csv: str | os.PathLike[str], stage: str, out_png: str | os.PathLike[str]) -> None:
    """Draw throughput, speed-up and the threads' time of a stage over the number of threads.

    Lines join the medians, bars are intervals of the median from order statistics, dots are runs.
    The floor is what decoding alone would give on as many threads, as the runs timed it. The serial
    share is fitted by Amdahl's law.

    Parameters
    ----------
    sweep_csv
        The table that `harpy_core.benchmark.sweep.run` wrote.
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
    runs = runs.assign(threads=runs["workers"] * runs["threads_per_worker"])
    with style.applied():
        figure = style.new_figure(11, 5.2)
        style.add_title(figure, f"Scaling of {stage}: {runs['case'].iloc[0]}", conditions(runs))
        throughput, speedup, parts = figure.subplots(1, 3)
        for (engine, cache), group in runs.groupby(["engine", "cache"], sort=True):
            dashes = "-" if cache == "warm" else "--"
            name = f"{called(group)}, {cache}"
            _throughput(throughput, group, COLOUR[str(engine)], dashes, name)
            _speedup(speedup, group, COLOUR[str(engine)], dashes)
        _floor(throughput, runs)
        for axes in (throughput, speedup):
            scale_workers(axes, runs["threads"].to_numpy())
            axes.set_xlabel("threads")
            axes.grid(axis="y")
        speedup.set_ylim(bottom=0)
        shown = [line.get_ydata() for line in throughput.lines]
        logarithmic = scale_values(throughput, np.concatenate(shown).astype(float))
        unit = "gigapixels/s, log scale" if logarithmic else "gigapixels/s"
        throughput.set_title(f"Throughput ({unit})")
        speedup.set_title("Speed-up (dotted: perfect)")
        throughput.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2)
        _time_of_threads(parts, runs)
        style.save(figure, out_png)


def _throughput(axes: Axes, runs: pd.DataFrame, colour: str, dashes: str, name: str) -> None:
    groups = runs.groupby("threads")["gigapixels_per_s"].agg(list)
    found = {float(str(threads)): median_of(runs) for threads, runs in groups.items()}
    middle = [one.value for one in found.values()]
    errors = [
        [one.value - one.low for one in found.values()],
        [one.high - one.value for one in found.values()],
    ]
    axes.errorbar(
        list(found), middle, errors, color=colour, linestyle=dashes, capsize=3, label=name
    )
    axes.plot(runs["threads"], runs["gigapixels_per_s"], "o", color=colour, markersize=4, alpha=0.6)


def _floor(axes: Axes, runs: pd.DataFrame) -> None:
    told = runs[runs["decode_s"].notna() & (runs["decode_s"] > 0)]
    if told.empty:
        return
    whole = told["pixels"] / 1e9 * told["threads"] / (told["disk_s"] + told["decode_s"])
    for cache, values in whole.groupby(told["cache"]):
        floors = values.groupby(told["threads"]).max()
        axes.plot(
            floors.index,
            floors.to_numpy(),
            color=style.MUTED,
            marker="_",
            linestyle=":" if cache == "warm" else "-.",
            label=f"decoding alone, {cache}",
        )


def _speedup(axes: Axes, runs: pd.DataFrame, colour: str, dashes: str) -> None:
    medians = runs.groupby("threads")["wall_s"].median()
    first = float(medians.index[0])
    axes.plot(medians.index, medians.iloc[0] / medians, "o", linestyle=dashes, color=colour)
    axes.plot(medians.index, medians.index / first, color=style.MUTED, linewidth=0.8, linestyle=":")
    share = serial_share(runs["threads"].tolist(), runs["wall_s"].tolist())
    if share is None:
        return
    last = float(medians.iloc[0] / medians.iloc[-1])
    efficiency = last / (float(medians.index[-1]) / first)
    axes.annotate(
        f"serial {share:.0%}, efficiency {efficiency:.0%}",
        # Below every line, each engine's under the last one's.
        (float(medians.index[-1]), min(1.0, last)),
        textcoords="offset points",
        xytext=(0, -14 - 10 * len(axes.texts)),
        ha="right",
        size=7.5,
        color=colour,
    )


def _time_of_threads(axes: Axes, runs: pd.DataFrame) -> None:
    told = runs[runs["bound_by"].notna()]
    axes.set_title("Time of the workers' threads (%)")
    if told.empty:
        style.bare(axes)
        axes.text(0.5, 0.5, "the engine does not tell", ha="center", transform=axes.transAxes)
        return
    columns = [f"{part}_s" for part in _PARTS]
    means = told.groupby(["engine", "cache", "threads"])[columns].mean()
    shares = means.div(means.sum(axis=1), axis=0) * 100
    places = np.arange(len(shares))
    left = np.zeros(len(shares))
    for part, column in zip(_PARTS, columns, strict=True):
        values = shares[column].to_numpy()
        axes.barh(places, values, left=left, color=_PART_COLOURS[part], label=part, height=0.7)
        left += values
    bounds = [str(max(_PARTS, key=lambda part: row[f"{part}_s"])) for _, row in shares.iterrows()]
    names = [
        f"{engine}, {cache}, {threads}: {bound}"
        for (engine, cache, threads), bound in zip(shares.index, bounds, strict=True)
    ]
    axes.set_yticks(places, names, fontsize=7.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.legend(ncols=3, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.4, -0.08))
