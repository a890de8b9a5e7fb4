"""The configs of the published cases, run on small archives of exactly the published layout.

The archives hold what the published ones hold: the elements by their names (the tonsil's pyramid
and shapes too), in the chunks of the published stores and a sixty-fourth of their size, in the two
versions of the SpatialData container, zipped with and without a folder around the store.
"""

from __future__ import annotations

import csv
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anndata
import dask.array as da
import geopandas
import numpy as np
import pytest
import spatialdata
import yaml
import zarr
from calls import ROOT, snakemake, write_config
from shapely import box
from spatialdata._io.format import SpatialDataContainerFormatV01, SpatialDataContainerFormatV02
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel

from harpy_core.datasets import REGISTRY
from harpy_core.raster import RasterInfo, open_described
from harpy_core.storage.manifest import read_manifest

TARGETS = (
    "results/gigapixel/table.manifest.json",
    "results/gigapixel/crops.manifest.json",
    "results/terapixel/table.manifest.json",
    "results/terapixel/crops.manifest.json",
    "results/terapixel/figures/aggregate.png",
)
"""Every stage of both; a sweep and its figure of one, as each is much like the other."""

CELL = 8
"""Pixels between the cells of the small stores."""


def cells(height: int, width: int) -> np.ndarray:
    """Squares of 5 pixels, labelled from 1 on."""
    y, x = np.indices((height, width))
    number = (y // CELL) * (width // CELL) + x // CELL + 1
    whole = (y // CELL < height // CELL) & (x // CELL < width // CELL)
    return np.where((y % CELL < 5) & (x % CELL < 5) & whole, number, 0).astype(np.uint32)


def pixels(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60_000, shape).astype(np.uint16)


def image(array: np.ndarray, chunks: tuple[int, ...], **more: Any) -> Any:
    lazy = da.from_array(array, chunks)
    names = [f"marker {c}" for c in range(len(array))]
    return Image2DModel.parse(lazy, dims=("c", "y", "x"), c_coords=names, chunks=chunks, **more)


def tonsil() -> spatialdata.SpatialData:
    """20,000 x 20,000 pixels in chunks of 10 x 2048 x 2048, a sixty-fourth in y and x."""
    array, labels = pixels((100, 312, 312)), cells(312, 312)
    boundary = geopandas.GeoDataFrame({"geometry": [box(0, 0, 5, 5), box(8, 0, 13, 5)]})
    return spatialdata.SpatialData(
        images={
            "image_tiled": image(array, (10, 32, 32)),
            "image_tiled_dapi": image(array[:1], (1, 32, 32), scale_factors=[2, 2, 2, 2]),
        },
        labels={
            "labels_cells_harpy": Labels2DModel.parse(
                da.from_array(labels, (32, 32)), dims=("y", "x")
            )
        },
        shapes={"segmentation_mask_boundaries": ShapesModel.parse(boundary)},
    )


def liver() -> spatialdata.SpatialData:
    """Two channels, each chunk 4096 x 4096 pixels of one of them: a sixty-fourth, fewer chunks."""
    array, labels = pixels((2, 250, 250)), cells(250, 250)
    return spatialdata.SpatialData(
        images={"clahe": image(array, (1, 64, 64))},
        labels={
            "segmentation_mask_full": Labels2DModel.parse(
                da.from_array(labels, (64, 64)), dims=("y", "x")
            )
        },
    )


@dataclass
class Case:
    """A published config, and the small archive it is run on."""

    config: str
    dataset: str
    store: spatialdata.SpatialData
    container: Any
    folder: str
    tile: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.config.removesuffix(".yaml")


def published() -> list[Case]:
    return [
        Case("gigapixel.yaml", "macsima-tonsil", tonsil(), SpatialDataContainerFormatV01(), ""),
        Case(
            "terapixel.yaml",
            "merscope-liver",
            liver(),
            SpatialDataContainerFormatV02(),
            "sdata_2D.zarr/",
            {"c": 100, "y": 250, "x": 250, "chunks": [10, 32, 32]},
        ),
    ]


def archived(case: Case, folder: Path, mirror: Path) -> str:
    """Write and zip a small store where a mirror of the published files has it; its SHA-256."""
    store = folder / f"{case.dataset}.zarr"
    case.store.write(store, sdata_formats=[case.container])
    published = REGISTRY[case.dataset].origin.partition("/public_datasets/")[2]
    archive = mirror / published
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(store.rglob("*")):
            opened.write(file, f"{case.folder}{file.relative_to(store)}")
    return hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder that is served, and its address."""
    folder = tmp_path_factory.mktemp("mirror")

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory, mirror: tuple[Path, str]
) -> tuple[Path, dict[str, Case]]:
    """The folder in which both published configs ran, and the cases by name."""
    folder = tmp_path_factory.mktemp("published")
    whole: dict[str, Any] = {"cases": {}, "datasets": {}}
    cases = {case.name: case for case in published()}
    for case in cases.values():
        given = yaml.safe_load((ROOT / "config" / case.config).read_text(encoding="utf-8"))
        assert list(given["cases"]) == [case.name]
        settings = given["cases"][case.name]
        assert settings["source"] == {"uri": case.dataset}
        if "tile" in settings:
            settings["tile"] |= case.tile
        settings["benchmark"] |= {"workers": [1], "threads_per_worker": 1, "repeats": 1}
        whole["cases"][case.name] = settings
        sha256 = archived(case, folder, mirror[0])
        whole["datasets"][case.dataset] = {"mirror": mirror[1], "sha256": sha256}
    write_config(folder, whole)
    ended = snakemake(folder, *TARGETS)
    assert ended.returncode == 0, ended.stderr
    return folder, cases


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gigapixel", "terapixel"])
def test_a_published_config_runs_to_the_end(ran: tuple[Path, dict[str, Case]], name: str) -> None:
    folder, cases = ran
    case, results = cases[name], folder / "results" / name
    source = case.store[{"gigapixel": "image_tiled", "terapixel": "clahe"}[name]].data.compute()
    labels = case.store[next(iter(case.store.labels))].data.compute()
    ids = np.unique(labels)[1:]
    flat = labels.ravel()
    counts = np.bincount(flat)[ids]
    means = np.array([np.bincount(flat, plane.ravel())[ids] / counts for plane in source]).T

    table = anndata.read_zarr(results / "table.zarr")
    assert table.shape == (len(ids), 100)
    np.testing.assert_array_equal(table.obs["instance_id"], ids)
    np.testing.assert_array_equal(table.layers["mean"], np.tile(means, (1, 100 // len(source))))

    crops = zarr.open_group(results / "crops.zarr", mode="r")
    window = {"gigapixel": 50, "terapixel": 100}[name]
    assert crops["image"].shape == (len(ids), 100, 1, window, window)
    assert crops["image"].chunks[:2] == (500, 10)
    sums = np.asarray(crops["image"][:20, :2], np.int64).sum((2, 3, 4))
    order = np.asarray(crops["instance_id"][:20]) - 1
    inside = means[order][:, :2] * counts[order][:, None]
    whole = [i for i, label in enumerate(order + 1) if far_from_edges(labels, label, window)]
    assert len(whole) > 3
    np.testing.assert_allclose(sums[whole], inside[whole], rtol=1e-12)


def test_the_sweep_is_measured_and_drawn(ran: tuple[Path, dict[str, Case]]) -> None:
    results = ran[0] / "results" / "terapixel"
    with (results / "benchmark" / "sweep.csv").open(encoding="utf-8") as handle:
        rows = [(row["stage"], row["workers"]) for row in csv.DictReader(handle)]
    assert rows == [("aggregate", "1"), ("extract", "1")]
    assert (results / "figures" / "aggregate.png").stat().st_size > 10_000


def far_from_edges(labels: np.ndarray, label: int, window: int) -> bool:
    """A square of 5 pixels lies whole in the window around its middle."""
    return bool((labels == label).sum() == 25 and window >= 5)


def test_the_archive_is_gone_and_the_store_is_declared_whole(
    ran: tuple[Path, dict[str, Case]],
) -> None:
    folder, cases = ran
    left = {path.name for path in (folder / "data").iterdir()}
    names = {case.dataset for case in cases.values()}
    assert left == {f"{n}{end}" for n in names for end in (".zarr", ".manifest.json")}
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    for name in names:
        manifest = read_manifest(folder / "data" / f"{name}.manifest.json")
        assert manifest["digest"] == config["datasets"][name]["sha256"]


def test_repeated_channels_share_their_files(ran: tuple[Path, dict[str, Case]]) -> None:
    chunks = ran[0] / "results/terapixel/tiled.zarr/images/image/s0/c"
    for place in ("0/0", "7/7", "3/5"):
        inodes = {(chunks / str(c) / place).stat().st_ino for c in range(10)}
        assert len(inodes) == 1


def test_a_store_that_is_there_is_used_where_it_is(
    ran: tuple[Path, dict[str, Case]], tmp_path: Path
) -> None:
    store = ran[0] / "macsima-tonsil.zarr"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    config = {
        "cases": {"own": {"source": {"uri": "macsima-tonsil"}, "aggregate": {}}},
        "datasets": {"macsima-tonsil": {"store": str(store)}},
    }
    write_config(tmp_path, config)
    ended = snakemake(tmp_path, "results/own/source.json")
    assert ended.returncode == 0, ended.stderr
    found = open_described(RasterInfo.from_json(tmp_path / "results/own/source.json"))
    np.testing.assert_array_equal(found.image[...], pixels((100, 312, 312)))
    np.testing.assert_array_equal(found.labels[...], cells(312, 312))
    assert not (tmp_path / "data").exists()
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
