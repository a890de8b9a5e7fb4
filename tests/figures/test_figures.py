"""The figures: what they show is tested here; how they look was judged by eye."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from pictures import assert_picture

from harpy_core import figures
from harpy_core.figures import style


def draw_all(
    folder: Path, raster: Any, crops: Any, table: Any, sweep_csv: Path, samples: Path
) -> list[Path]:
    figures.tissue(raster, folder / "tissue.png")
    figures.gallery(crops, folder / "crops.png", seed=3)
    figures.heatmap(table, folder / "heatmap.png")
    figures.sweep_panels(sweep_csv, "aggregate", folder / "aggregate.png")
    figures.scaling(sweep_csv, "aggregate", folder / "scaling.png")
    figures.comparison(sweep_csv, "aggregate", folder / "comparison.png")
    figures.timeline(sweep_csv, samples, "aggregate", folder / "timeline.png")
    figures.overview([sweep_csv], folder / "overview.png")
    return sorted(folder.iterdir())


def test_every_figure_is_the_same_bytes_every_time(
    tmp_path: Path, raster: Any, crops: Any, table: Any, sweep_csv: Path, samples: Path
) -> None:
    first = draw_all(tmp_path / "a", raster, crops, table, sweep_csv, samples)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        second = draw_all(tmp_path / "b", raster, crops, table, sweep_csv, samples)
    assert len(first) == 8
    for one, other in zip(first, second, strict=True):
        assert_picture(one)
        assert one.read_bytes() == other.read_bytes()


def test_failed_figure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = style.new_figure(1, 1)
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        style.save(figure, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []
