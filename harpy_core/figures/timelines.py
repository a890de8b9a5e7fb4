"""Memory and CPU of one measured run over time."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harpy_core.config.models import PEER
from harpy_core.figures import style
from harpy_core.figures.sweeps import called, conditions, runs_of

_ROLES = {"driver": "driver, with the scheduler", "scheduler": "scheduler", "worker": "workers"}
_COLOURS = dict(zip(_ROLES, style.SERIES, strict=False))
# CPU time comes in ticks of 10 ms: a rate over less than this is noise.
_WINDOW = 0.5


def timeline(
    sweep_csv: str | os.PathLike[str],
    samples: str | os.PathLike[str],
    stage: str,
    out_png: str | os.PathLike[str],
) -> None:
    """Draw memory by role and CPU of the run of a stage with most workers, its phases marked.

    Parameters
    ----------
    sweep_csv, samples
        What `harpy_core.benchmark.sweep.run` wrote.
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
    row = runs.sort_values(["engine", "workers", "cache", "repeat"]).iloc[_shown(runs)]
    name = "-".join(str(row[key]) for key in ("stage", "engine", "workers", "cache", "repeat"))
    curves = pd.read_csv(samples)
    curves = curves[curves["run"] == name]
    with style.applied():
        figure = style.new_figure(11, 5.6)
        one = runs[(runs["engine"] == row["engine"]) & (runs["cache"] == row["cache"])]
        style.add_title(
            figure,
            f"One run over time: {stage}, {row['case']}",
            f"{called(one)}, workers: {row['workers']}, {row['cache']} cache · "
            f"{conditions(runs[runs.index == row.name])}",
        )
        memory, cpu = figure.subplots(2, 1, sharex=True)
        _memory(memory, curves)
        _cpu(cpu, curves, row)
        for axes in (memory, cpu):
            axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
            _mark(axes, float(row["wall_s"]), named=axes is memory)
        cpu.set_xlabel("seconds from the start of the stage")
        style.save(figure, out_png)


def _shown(runs: pd.DataFrame) -> int:
    """Place of the run to draw: the last of our first engine, the one with most workers."""
    ordered = runs.sort_values(["engine", "workers", "cache", "repeat"])["engine"].to_numpy()
    ours = [engine for engine in ordered if engine != PEER] or list(ordered)
    wanted = "numba" if "numba" in ours else ours[0]
    return int(np.flatnonzero(ordered == wanted)[-1])


def _memory(axes: Axes, curves: pd.DataFrame) -> None:
    by_role = curves[curves["role"].isin(_ROLES)].pivot_table(
        index="time", columns="role", values="rss", aggfunc="sum"
    )
    roles = [role for role in _ROLES if role in by_role]
    values = [by_role[role].ffill().fillna(0).to_numpy() / 1e9 for role in roles]
    axes.stackplot(
        by_role.index.to_numpy(),
        np.array(values),
        labels=[_ROLES[role] for role in roles],
        colors=[_COLOURS[role] for role in roles],
        alpha=0.55,
        linewidth=0,
    )
    tree = curves[(curves["role"] == "tree") & curves["pss"].notna()]
    axes.plot(
        tree["time"], tree["pss"] / 1e9, color=style.INK, marker=".", linewidth=1, label="PSS"
    )
    axes.set_title("Memory: RSS by role, stacked, and PSS of all (GB)")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _cpu(axes: Axes, curves: pd.DataFrame, row: pd.Series[float]) -> None:
    tree = curves[curves["role"] == "tree"]
    time, used = tree["time"].to_numpy(), tree["cpu"].to_numpy()
    moments = np.arange(time[0] + _WINDOW, time[-1], _WINDOW / 2)
    rate = (np.interp(moments, time, used) - np.interp(moments - _WINDOW, time, used)) / _WINDOW
    axes.plot(moments - _WINDOW / 2, rate * 100, color=style.SERIES[1], linewidth=1.4)
    threads = int(row["workers"]) * int(row["threads_per_worker"])
    axes.axhline(100 * threads, color=style.MUTED, linewidth=0.8, linestyle=":")
    axes.set_title("CPU (% of a core; dotted: all threads of the workers)")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")


def _mark(axes: Axes, end: float, *, named: bool) -> None:
    """Tell the stage from what comes before and after."""
    left, right = axes.get_xlim()
    for edge in (0.0, end):
        axes.axvline(edge, color=style.INK, linewidth=0.9)
    top = axes.get_ylim()[1]
    spans = (((left, 0.0), "start and warm-up"), ((0.0, end), "stage"), ((end, right), "end"))
    for (first, last), name in spans if named else ():
        if last - first > 0.08 * (right - left):
            axes.text(
                (first + last) / 2, top, name, ha="center", va="top", size=8.5, color=style.MUTED
            )
    axes.set_xlim(left, right)
