"""Synthetic tissue lies in the range of real sections; the two kinds are drawn side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from harpy_core.datasets import REGISTRY, ihc
from harpy_core.datasets.likeness import measure
from harpy_core.datasets.tissue import Tissue, tissue_tile
from harpy_core.figures.likeness import Section, sections_side_by_side

HUBMAP = {
    "percentile 1": (0.0, 1100.0),
    "percentile 50": (0.0, 4329.0),
    "percentile 99": (8068.0, 54808.49),
    "LZ4 ratio": (1.1613, 1.5019),
    "zstd ratio": (1.0879, 2.5003),
    "cells per megapixel": (2532.5668, 2532.5668),
    "median area": (239.0, 239.0),
    "spread of areas": (0.4563, 0.4563),
    "covered": (0.6363, 0.6363),
}
"""Least and most of the 8 channels of HuBMAP tile R001_X003_Y004 and its annotated cells."""


def range_of(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def section(real_data: Path) -> tuple[np.ndarray, np.ndarray]:
    folder = real_data / "codex_hubmap"
    return tifffile.imread(folder / "image.ome.tif"), tifffile.imread(folder / "labels.tif")


def test_the_ranges_of_the_hubmap_tile_are_those_of_its_files(real_data: Path) -> None:
    found = measure(*section(real_data)).figures()
    assert set(found) == set(HUBMAP)
    for name, values in found.items():
        np.testing.assert_allclose(range_of(values), HUBMAP[name], rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_synthetic_tissue_lies_in_the_range_of_real_sections(seed: int) -> None:
    density = REGISTRY["tissue"].cells_per_megapixel
    assert density is not None
    made = Tissue((6, 4096, 4096), seed, density)
    synthetic = measure(*tissue_tile(made, (1536, 2560), (1536, 2560))).figures()
    stains = ihc.stains()
    colon = measure(stains, ihc.nuclei(stains[0])).figures()
    for name, values in synthetic.items():
        low, high = range_of(np.append(colon[name], HUBMAP[name]))
        assert low <= values.min(), f"{name}: {values} is not in {low, high}"
        assert values.max() <= high, f"{name}: {values} is not in {low, high}"


@pytest.mark.parametrize("name", ["tissue-gigapixel", "tissue-terapixel"])
def test_pixels_of_the_benchmark_sets_lie_in_the_range_of_real_sections(name: str) -> None:
    known = REGISTRY[name]
    assert known.cells_per_megapixel is not None
    made = Tissue(known.shape, known.seed, known.cells_per_megapixel)
    synthetic = measure(*tissue_tile(made, (0, 1024), (1024, 2048))).figures()
    stains = ihc.stains()
    colon = measure(stains, ihc.nuclei(stains[0])).figures()
    for figure in ("percentile 1", "percentile 50", "LZ4 ratio", "zstd ratio", "covered"):
        low, high = range_of(np.append(colon[figure], HUBMAP[figure]))
        assert low <= synthetic[figure].min(), figure
        assert synthetic[figure].max() <= high, figure


def test_measures_are_those_of_a_section_whose_figures_are_known() -> None:
    rng = np.random.default_rng(0)
    image = np.stack([rng.integers(0, 2**16, (100, 100)), np.full((100, 100), 7)]).astype(np.uint16)
    labels = np.zeros((100, 100), np.uint32)
    labels[:10, :10], labels[50:60, 50:80] = 4, 9
    found = measure(image, labels)
    assert found.areas.tolist() == [100, 300]
    assert found.cells_per_megapixel == 200
    assert found.covered == 0.04
    assert found.percentiles[1].tolist() == [7, 7, 7]
    assert found.zstd[0] == pytest.approx(1, abs=0.01)
    assert found.zstd[1] > 100


def test_sections_are_drawn_side_by_side(tmp_path: Path) -> None:
    stains = ihc.stains()
    colon = Section("Colon", stains, ihc.nuclei(stains[0]), (0, 2))
    made = Section("Synthetic", *tissue_tile(Tissue((2, 400, 400)), (0, 400), (0, 400)), (0, 1))
    sections_side_by_side([colon, made], tmp_path / "beside.png")
    assert (tmp_path / "beside.png").read_bytes().startswith(b"\x89PNG")
