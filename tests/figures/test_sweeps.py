"""Figures of sweeps: medians, conditions, failures and the published points."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pictures import assert_picture

from harpy_core import figures
from harpy_core.errors import InputError
from harpy_core.figures import style, sweeps
from harpy_core.figures.sweeps import published

# Sweep


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures that are drawn meanwhile, none of which is written."""
    figures: list[Any] = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure))
    return figures


def test_lines_join_the_medians_and_every_run_is_a_dot(
    tmp_path: Path, sweep_csv: Path, drawn: list[Any]
) -> None:
    figures.sweep_panels(sweep_csv, "aggregate", tmp_path / "x.png")
    panels = {axes.get_title(loc="left").split(" (")[0]: axes for axes in drawn[0].axes}
    assert list(panels) == [
        "Peak RSS",
        "Average RSS",
        "Average VSZ",
        "Wall time",
        "Peak CPU",
        "Average CPU",
    ]
    grey, grey_dots, line, dots, *_ = panels["Wall time"].lines
    expected = published("gigapixel", "aggregate")["wall_s"]
    np.testing.assert_allclose(grey.get_ydata(), expected)
    np.testing.assert_allclose(grey_dots.get_ydata(), expected)
    np.testing.assert_allclose(line.get_ydata(), [11, 6, 3.5])
    assert len(dots.get_ydata()) == 9


def test_axes_start_at_zero_unless_they_span_orders_of_magnitude(
    tmp_path: Path, sweep_csv: Path, drawn: list[Any]
) -> None:
    like_no_other(sweep_csv)
    figures.sweep_panels(sweep_csv, "aggregate", tmp_path / "x.png")
    like_no_other(sweep_csv, shape="100 x 20000 x 20000")
    figures.sweep_panels(sweep_csv, "aggregate", tmp_path / "x.png")
    alone, overlaid = (figure.axes[0] for figure in drawn)
    assert alone.get_ylim()[0] == 0
    assert overlaid.get_yscale() == "log"
    assert "log scale" in overlaid.get_title(loc="left")
    assert alone.get_xscale() == "log"
    assert alone.get_xticks().tolist() == [1, 2, 4]


def test_single_run_is_drawn(tmp_path: Path, sweep_csv: Path) -> None:
    pd.read_csv(sweep_csv).head(1).to_csv(sweep_csv, index=False)
    figures.sweep_panels(sweep_csv, "aggregate", tmp_path / "one.png")
    assert_picture(tmp_path / "one.png")


@pytest.mark.parametrize("case", ["gigapixel", "terapixel"])
@pytest.mark.parametrize("stage", ["aggregate", "extract"])
def test_published_figures_are_in_the_package(case: str, stage: str) -> None:
    workers = published(case, stage)["workers"].tolist()
    assert workers[:5] == [1, 2, 4, 8, 16]


def test_missing_stage_and_unknown_published_case_are_refused(
    tmp_path: Path, sweep_csv: Path
) -> None:
    with pytest.raises(InputError, match="no run of stage 'extract'"):
        figures.sweep_panels(sweep_csv, "extract", tmp_path / "x.png")
    with pytest.raises(InputError, match="petapixel"):
        published("petapixel", "aggregate")
    assert not (tmp_path / "x.png").exists()


def like_no_other(sweep_csv: Path, **columns: Any) -> None:
    """Change columns of a sweep; the shape to one that nothing was published of."""
    table = pd.read_csv(sweep_csv).assign(**{"shape": "3 x 5 x 5", **columns})
    table.to_csv(sweep_csv, index=False)


@pytest.mark.parametrize(
    ("columns", "same"),
    [
        ({"shape": "100 x 20000 x 20000"}, "gigapixel"),
        ({"shape": "100 x 100000 x 100000"}, "terapixel"),
        ({"shape": "100 x 20000 x 20001"}, None),
        ({"shape": "50 x 20000 x 20000"}, None),
        ({"shape": "100 x 20000 x 20000", "stage": "extract", "window": 50}, "gigapixel"),
        ({"shape": "100 x 20000 x 20000", "stage": "extract", "window": 100}, None),
    ],
)
def test_published_points_are_drawn_behind_the_same_case_alone(
    sweep_csv: Path, columns: dict[str, Any], same: str | None
) -> None:
    like_no_other(sweep_csv, **columns)
    runs = sweeps.runs_of(sweep_csv, columns.get("stage", "aggregate"))
    assert sweeps.published_like(runs) == same


def test_links_and_short_runs_are_told_in_the_title(sweep_csv: Path) -> None:
    like_no_other(sweep_csv, distinct_files=4, wall_s=1.5, oversubscribed=True)
    told = sweeps.conditions(sweeps.runs_of(sweep_csv, "aggregate"))
    assert "LINKED: 1000 files are 4" in told
    assert "latency, not throughput" in told
    assert "more threads than cores" in told
    like_no_other(sweep_csv, distinct_files=1000, wall_s=60, oversubscribed=False)
    plain = sweeps.conditions(sweeps.runs_of(sweep_csv, "aggregate"))
    assert not {"LINKED", "latency", "cores"} & set(plain.replace(",", "").split(" · ")[-1].split())


def test_failed_runs_are_left_out_of_the_panels_and_told_on_the_page(
    tmp_path: Path, sweep_csv: Path, drawn: list[Any]
) -> None:
    table = pd.read_csv(sweep_csv)
    table["failed"] = np.where(table["engine"] == "harpy", "exit status 1: out of memory", None)
    table.to_csv(sweep_csv, index=False)
    assert set(sweeps.runs_of(sweep_csv, "aggregate")["engine"]) == {"numba"}
    figures.overview([sweep_csv], tmp_path / "x.png")
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert "failed 9×: out of memory" in texts
    assert "3.5 [2.5, 4.5]" in texts


def test_no_text_of_the_page_on_all_sweeps_runs_into_another(
    tmp_path: Path, sweep_csv: Path, drawn: list[Any]
) -> None:
    table = pd.read_csv(sweep_csv)
    slow = table.assign(
        case="a case with a name of some forty letters",
        shape="100 x 12 x 100000 x 100000",
        distinct_files=4,
        wall_s=12_000 * table["wall_s"] * np.where(table["engine"] == "harpy", 9, 1),
    )
    failed = slow.assign(case="b", failed="exit status 1: " + 60 * "why ")
    pd.concat([table, slow, failed]).to_csv(sweep_csv, index=False)
    figures.overview([sweep_csv], tmp_path / "x.png")
    figure = drawn[0]
    figure.draw_without_rendering()
    boxes: dict[float, list[Any]] = {}
    for text in figure.axes[0].texts:
        if text.get_text():
            boxes.setdefault(text.xy[1], []).append(text.get_window_extent())
    assert len(boxes) == 1 + 3 * 2
    for row in boxes.values():
        assert all(one.x1 + 4 < next_.x0 for one, next_ in pairwise(row))
        assert row[-1].x1 < figure.bbox.x1
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "42,000 [30,000, 54,000] · 1×" in texts
    assert "378,000 [270,000, 486,000] · 9×" in texts
    assert "100 × 12 × 100000 × 100000" in texts


def test_bars_carry_their_ratio_to_the_shortest(
    tmp_path: Path, sweep_csv: Path, drawn: list[Any]
) -> None:
    table = pd.read_csv(sweep_csv)
    table.loc[table["engine"] == "harpy", "wall_s"] *= 8
    table.to_csv(sweep_csv, index=False)
    figures.comparison(sweep_csv, "aggregate", tmp_path / "x.png")
    texts = [text.get_text().strip() for text in drawn[0].axes[0].texts]
    assert texts == ["28 · 8×", "3.5 · 1×"]
