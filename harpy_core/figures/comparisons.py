"""Engines beside each other: time with its ratio, memory, and a cold beside a warm cache."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harpy_core.benchmark.summaries import median_of
from harpy_core.figures import style
from harpy_core.figures.sweeps import COLOUR, called, conditions, runs_of


def comparison(
    sweep_csv: str | os.PathLike[str], stage: str, out_png: str | os.PathLike[str]
) -> None:
    """Draw a bar for each engine and state of the cache: wall time, and peak memory.

    All with the most workers that every engine came to its end with. A bar is the median of the
    runs (of memory the maximum), the whisker its interval, dots are runs; the number on it is the
    ratio to the shortest.

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
    common = set.intersection(*(set(group["workers"]) for _, group in runs.groupby("engine")))
    runs = runs[runs["workers"] == max(common or set(runs["workers"]))]
    workers, threads = int(runs["workers"].max()), int(runs["threads_per_worker"].max())
    with style.applied():
        figure = style.new_figure(11, 1.9 + 0.55 * runs.groupby(["engine", "cache"]).ngroups)
        style.add_title(
            figure,
            f"Engines compared: {stage}, {runs['case'].iloc[0]}, {workers} × {threads} threads",
            f"{conditions(runs)} · finding the instances counts on every side",
        )
        time, memory = figure.subplots(1, 2, sharey=True)
        _bars(time, runs, "wall_s", peak=False)
        time.set_title("Wall time (seconds; ratio to the shortest)")
        _bars(memory, runs, "peak_rss_gb", peak=True)
        memory.set_title("Peak RSS (GB, maximum of the runs; ratio)")
        style.save(figure, out_png)


def _bars(axes: Axes, runs: pd.DataFrame, column: str, *, peak: bool) -> None:
    groups = list(runs.groupby(["engine", "cache"], sort=True))
    found = [median_of(group[column].tolist()) for _, group in groups]
    lengths = [one.high if peak else one.value for one in found]
    shortest = min(lengths)
    for place, (((engine, cache), group), one, length) in enumerate(
        zip(groups, found, lengths, strict=True)
    ):
        error = None if peak else [[one.value - one.low], [one.high - one.value]]
        axes.barh(
            place,
            length,
            xerr=error,
            color=COLOUR[str(engine)],
            alpha=0.45 if cache == "cold" else 0.8,
            hatch="//" if cache == "cold" else None,
            height=0.66,
            capsize=3,
        )
        axes.plot(group[column], np.full(len(group), place), "o", color=style.INK, markersize=3)
        end = max(length, float(group[column].max()))
        axes.text(end, place, f"  {length:.3g} · {length / shortest:.3g}×", va="center", size=8.5)
    axes.set_yticks(range(len(groups)), [f"{called(g)}, {key[1]}" for key, g in groups])
    axes.set_xlim(0, 1.3 * max(float(group[column].max()) for _, group in groups))
    axes.invert_yaxis()
