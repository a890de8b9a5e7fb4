"""The figures: what they show is tested here; how they look was judged by eye."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import zarr

from harpy_core import figures
from harpy_core.aggregate.store import write_table
from harpy_core.errors import InputError
from harpy_core.figures import composites, heatmaps, style, sweeps
from harpy_core.figures.composites import composite, fullest, outlined
from harpy_core.figures.galleries import _positions, _spread
from harpy_core.figures.heatmaps import order, z_scores
from harpy_core.figures.sweeps import published

PARTS = [f"{part}_s" for part in ("disk", "decode", "kernel", "encode", "write", "idle")]


def assert_picture(path: Path) -> np.ndarray:
    """The picture's pixels; it must hold more than an empty page."""
    assert path.read_bytes().startswith(b"\x89PNG")
    pixels = matplotlib.image.imread(path)
    some = pixels[::7, ::7].reshape(-1, pixels.shape[-1])
    assert len(np.unique(some, axis=0)) > 10
    return pixels


@pytest.fixture
def labels() -> np.ndarray:
    """Squares of 10 pixels, every 20, the left half of the plane left empty."""
    plane = np.zeros((200, 240), np.uint32)
    for number, (y, x) in enumerate(np.ndindex(10, 6)):
        plane[20 * y : 20 * y + 10, 120 + 20 * x : 130 + 20 * x] = number + 1
    return plane


@pytest.fixture
def raster(labels: np.ndarray) -> Any:
    rng = np.random.default_rng(0)
    image = rng.poisson(20, (4, *labels.shape)).astype(np.uint16)
    image[0] += (labels > 0).astype(np.uint16) * 200
    return SimpleNamespace(
        image=zarr.array(image), labels=zarr.array(labels), channels=["DNA", "CD3", "CD8", "CD20"]
    )


@pytest.fixture
def crops() -> Any:
    rng = np.random.default_rng(0)
    image = rng.poisson(50, (40, 3, 1, 16, 16)).astype(np.uint16)
    return SimpleNamespace(
        image=zarr.array(image),
        instance_id=np.arange(40, dtype=np.uint64) * 3 + 2,
        channels=["DNA", "CD3", "CD8"],
        diameter=16,
    )


@pytest.fixture
def table() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    mean = rng.lognormal(size=(60, 5))
    adata = anndata.AnnData(mean, layers={"mean": mean, "max": mean * 2})
    adata.var_names = [f"marker {i}" for i in range(5)]
    return adata


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Curves of the last run: a driver and two workers, a core and a half busy."""
    rows = []
    for tick, moment in enumerate(np.arange(-2, 4, 0.05)):
        for pid, role in enumerate(("driver", "worker", "worker", "tree")):
            rss = 4e8 if role == "tree" else 1e8 * (pid + 1)
            pss = 3e8 if role == "tree" and tick % 20 == 0 else np.nan
            rows.append([moment, pid, role, rss, max(moment, 0) * 1.5, pss])
    table = pd.DataFrame(rows, columns=["time", "pid", "role", "rss", "cpu", "pss"])
    path = tmp_path / "samples.csv.gz"
    table.assign(run="aggregate-numba-4-warm-2").to_csv(path, index=False)
    return path


@pytest.fixture
def sweep_csv(tmp_path: Path) -> Path:
    rows = [
        {
            "case": "tonsil",
            "stage": "aggregate",
            "engine": engine,
            "workers": workers,
            "threads_per_worker": 4,
            "repeat": repeat,
            "wall_s": 10 / workers + repeat,
            "peak_rss_gb": 0.5 * workers,
            "mean_rss_gb": 0.4 * workers,
            "mean_vsz_gb": 2.0 * workers,
            "peak_cpu_percent": 380.0 * workers,
            "mean_cpu_percent": 300.0 * workers,
            "pixels": 40_000_000_000,
            "gigapixels_per_s": 40 / (10 / workers + repeat),
            "cpu_model": "a processor",
            "cores": 64,
            "memory_gb": 256.0,
            "cache": "warm",
            "failed": None,
            "software": "harpy-analysis 0.5.2" if engine == "harpy" else "harpy_core 1",
            "shape": "100 x 20000 x 20000",
            "window": None,
            "files": 1000,
            "distinct_files": 1000,
            "oversubscribed": False,
            "bound_by": None if engine == "harpy" else "decode",
            **dict.fromkeys(PARTS, np.nan if engine == "harpy" else 8.0 / workers),
        }
        for engine in ("numba", "harpy")
        for workers in (1, 2, 4)
        for repeat in (0, 1, 2)
    ]
    path = tmp_path / "sweep.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


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


# Sweep


def test_lines_join_the_medians_and_every_run_is_a_dot(
    tmp_path: Path, sweep_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sweeps.style, "save", lambda figure, path: seen.append(figure))
    figures.sweep_panels(sweep_csv, "aggregate", tmp_path / "x.png")
    panels = {axes.get_title(loc="left").split(" (")[0]: axes for axes in seen[0].axes}
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
    tmp_path: Path, sweep_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sweeps.style, "save", lambda figure, path: seen.append(figure))
    like_no_other(sweep_csv)
    figures.sweep_panels(sweep_csv, "aggregate", tmp_path / "x.png")
    like_no_other(sweep_csv, shape="100 x 20000 x 20000")
    figures.sweep_panels(sweep_csv, "aggregate", tmp_path / "x.png")
    alone, overlaid = (figure.axes[0] for figure in seen)
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
    tmp_path: Path, sweep_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.read_csv(sweep_csv)
    table["failed"] = np.where(table["engine"] == "harpy", "exit status 1: out of memory", None)
    table.to_csv(sweep_csv, index=False)
    assert set(sweeps.runs_of(sweep_csv, "aggregate")["engine"]) == {"numba"}
    seen: list[Any] = []
    monkeypatch.setattr(style, "save", lambda figure, path: seen.append(figure))
    figures.overview([sweep_csv], tmp_path / "x.png")
    texts = [text.get_text() for text in seen[0].axes[0].texts]
    assert "failed 9×: out of memory" in texts
    assert "3.5 [2.5, 4.5]" in texts


def test_no_text_of_the_page_on_all_sweeps_runs_into_another(
    tmp_path: Path, sweep_csv: Path, monkeypatch: pytest.MonkeyPatch
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
    seen: list[Any] = []
    monkeypatch.setattr(style, "save", lambda figure, path: seen.append(figure))
    figures.overview([sweep_csv], tmp_path / "x.png")
    figure = seen[0]
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
    tmp_path: Path, sweep_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.read_csv(sweep_csv)
    table.loc[table["engine"] == "harpy", "wall_s"] *= 8
    table.to_csv(sweep_csv, index=False)
    seen: list[Any] = []
    monkeypatch.setattr(style, "save", lambda figure, path: seen.append(figure))
    figures.comparison(sweep_csv, "aggregate", tmp_path / "x.png")
    texts = [text.get_text().strip() for text in seen[0].axes[0].texts]
    assert texts == ["28 · 8×", "3.5 · 1×"]


# Tissue


def test_detail_is_where_the_instances_are(labels: np.ndarray) -> None:
    field = fullest(labels, 100)
    assert field.x >= 100
    assert fullest(np.zeros((30, 40), np.uint8), 100).slices == (slice(0, 30), slice(0, 40))


def test_composite_adds_light_between_the_percentiles() -> None:
    ramp = np.linspace(0, 1000, 10_000).reshape(100, 100)
    picture = composite([ramp, np.zeros((100, 100), np.uint8)])
    assert picture.shape == (100, 100, 3)
    assert picture.min() == 0
    assert picture.max() == 1
    assert not np.any(composite([np.full((5, 5), 7, np.uint16)]))


def test_composite_adds_light_between_values_that_are_known() -> None:
    ramp = np.arange(200, dtype=np.uint16).reshape(10, 20)
    picture = composite([ramp], [(50, 150)])
    expected = np.clip((ramp.astype(float) - 50) / 100, 0, 1)
    np.testing.assert_allclose(picture[..., 2], expected)
    np.testing.assert_array_equal(
        composite([ramp, ramp], [None, (0, 9)]),
        composite([ramp, ramp], [style.display_range(ramp), (0, 9)]),
    )
    assert not np.any(composite([np.full((5, 5), 7, np.uint16)], [(7, 7)]))


def test_gallery_shows_values_that_are_known(tmp_path: Path, crops: Any) -> None:
    drawn = []
    for ranges in (None, {}, {crops.channels[1]: (0.0, 10.0)}):
        figures.gallery(crops, tmp_path / "crops.png", ids=[8, 2], ranges=ranges)
        drawn.append(assert_picture(tmp_path / "crops.png"))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_composite_survives_nan() -> None:
    plane = np.ones((10, 10))
    plane[0, 0] = np.nan
    plane[1] = 5
    assert np.isfinite(composite([plane])).all()


def test_outlines_surround_each_instance(labels: np.ndarray) -> None:
    picture = np.zeros((*labels.shape, 3))
    drawn = outlined(picture, labels, fullest(labels, 100))
    factor = drawn.shape[0] // 100
    inside = labels[fullest(labels, 100).slices].repeat(factor, 0).repeat(factor, 1) > 0
    assert drawn.max() == 1
    assert not drawn[~inside].any()


def test_only_the_middle_of_a_huge_image_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, ...]] = []

    class Huge:
        def __init__(self, *shape: int) -> None:
            self.shape, self.ndim = shape, len(shape)

        def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
            shape = tuple(s.stop - s.start for s in index if isinstance(s, slice))
            read.append(shape)
            return np.arange(np.prod(shape)).reshape(shape) % 500

    size = 100_000
    raster: Any = SimpleNamespace(
        image=Huge(100, 3, size, size),
        labels=Huge(3, size, size),
        channels=[f"channel {i}" for i in range(100)],
    )
    monkeypatch.setattr(composites, "_CONTEXT", 128)
    figures.tissue(raster, tmp_path / "tissue.png")
    assert read == [(128, 128)] * 4
    assert_picture(tmp_path / "tissue.png")


# Gallery


def test_gallery_shows_the_ids_asked_for_in_their_order(tmp_path: Path, crops: Any) -> None:
    assert _positions(crops.instance_id, [8, 2], 12, 0) == [2, 0]
    figures.gallery(crops, tmp_path / "crops.png", ids=[8, 2])
    assert_picture(tmp_path / "crops.png")
    with pytest.raises(InputError, match="instance 4: has no crop"):
        figures.gallery(crops, tmp_path / "none.png", ids=[4])


def test_gallery_chooses_by_its_seed(crops: Any) -> None:
    first, again, other = (_positions(crops.instance_id, None, 9, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 9


def test_gallery_of_no_crops_is_refused(tmp_path: Path, crops: Any) -> None:
    crops.instance_id = crops.instance_id[:0]
    with pytest.raises(InputError, match="0 instances"):
        figures.gallery(crops, tmp_path / "crops.png")


def test_many_channels_are_spread_over_eight_rows(tmp_path: Path) -> None:
    assert _spread(100, 8)[0] == 0
    assert _spread(100, 8)[-1] == 99
    assert _spread(3, 8) == [0, 1, 2]
    crops: Any = SimpleNamespace(
        image=np.random.default_rng(0).random((3, 100, 2, 8, 8)),
        instance_id=np.array([2**63, 5, 6], np.uint64),
        channels=[f"channel {i}" for i in range(100)],
        diameter=8,
    )
    figures.gallery(crops, tmp_path / "crops.png")
    assert_picture(tmp_path / "crops.png")


def test_empty_channels_are_dark() -> None:
    assert style.display_range(np.zeros((4, 4), np.uint16)) == (0, 1)
    assert style.display_range(np.array([])) == (0, 1)


# Heat map


def test_z_scores_have_mean_zero_and_spread_one() -> None:
    values = np.random.default_rng(0).lognormal(size=(100, 4))
    values[:, 3] = 0.1
    scores = z_scores(values)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scores.std(axis=0), [1, 1, 1, 0], atol=1e-12)


def test_like_instances_stand_side_by_side() -> None:
    kinds = np.random.default_rng(0).integers(0, 3, 60)
    rows = np.eye(3)[kinds] * 10 + np.random.default_rng(1).random((60, 3))
    changes = np.count_nonzero(np.diff(kinds[order(rows)]))
    assert changes == 2


def test_many_instances_are_sampled_by_the_seed() -> None:
    first, again, other = (heatmaps._sample(5000, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(first) == 1000
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("instances", "channels"), [(1, 1), (1, 5), (2, 2), (60, 1), (3, 100)])
def test_small_and_wide_tables_are_drawn(tmp_path: Path, instances: int, channels: int) -> None:
    values = np.random.default_rng(0).random((instances, channels))
    figures.heatmap(anndata.AnnData(values), tmp_path / "heatmap.png")
    assert_picture(tmp_path / "heatmap.png") if instances > 2 else None


def test_instances_without_values_are_left_out(tmp_path: Path, table: anndata.AnnData) -> None:
    table.layers["mean"][3] = np.nan
    figures.heatmap(table, tmp_path / "heatmap.png")
    assert_picture(tmp_path / "heatmap.png")
    table.layers["mean"][:] = np.nan
    with pytest.raises(InputError, match="60 instances"):
        figures.heatmap(table, tmp_path / "none.png")


def test_a_table_on_disk_is_drawn_slab_by_slab_as_the_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(2).lognormal(size=(3000, 6))
    values[::7, 2] = np.nan
    table = anndata.AnnData(values, layers={"mean": values})
    figures.heatmap(table, tmp_path / "whole.png")
    write_table(tmp_path / "table.zarr", table)
    monkeypatch.setattr(heatmaps, "_SLAB", 6 * 250)
    figures.heatmap(tmp_path / "table.zarr", tmp_path / "slabs.png")
    assert (tmp_path / "slabs.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_memory_of_a_heat_map_does_not_grow_with_the_table(tmp_path: Path) -> None:
    values = zarr.create_array(
        tmp_path / "t.zarr" / "layers" / "mean", shape=(2**20, 40), chunks=(2**16, 40), dtype="f8"
    )
    values[:] = 1.0
    values[::5] = 2.0
    tracemalloc.start()
    heatmaps._Scale.of(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 2
