"""A small tissue, its crops, and the content of a folder, for the tests of extraction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Case, as_form, tiles_of

import harpy_core as hc
from harpy_core.extract.crops import Crops


def extracted(
    case: Case, folder: str | Path, form: str = "numpy", labels_form: str = "", **options: Any
) -> Crops:
    """Crops of a case, given as some form of array."""
    image = as_form(form, case.image, case.image_chunks, folder)
    labels = as_form(labels_form or form, case.labels, case.label_chunks, folder, "labels")
    with tiles_of(case.tile):
        return hc.extract_instances(image, labels, Path(folder) / "crops", **options)


def assert_refused_in_one_line(options: dict[str, Any], told: str, folder: Path) -> None:
    """Crops with such settings are refused before anything is written."""
    with pytest.raises(hc.InputError, match=told) as refused:
        extracted(tissue(), folder, **options)
    assert "\n" not in str(refused.value)
    assert not any(folder.iterdir())


def tree(path: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def files(path: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file: they change when it is written again."""
    found = ((file, file.stat()) for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): (s.st_ino, s.st_mtime_ns) for file, s in found}


def tissue(dtype: str = "u2", size: int = 60) -> Case:
    """Some sixty round cells, many across the chunks' borders, some across the image's edge."""
    rng = np.random.default_rng(11)
    labels = np.zeros((size, size), "u4")
    y, x = np.indices(labels.shape)
    for i, (cy, cx) in enumerate(rng.integers(0, size, (70, 2))):
        labels[(y - cy) ** 2 + (x - cx) ** 2 < rng.integers(4, 20)] = 5 * i + 2
    image = rng.integers(1, 60_000, (5, size, size)).astype(dtype)
    return Case(image, labels, (2, 16, 16), (20, 60), 1)


OPTIONS = {"diameter": 13, "batch_size": 4, "extract_mask": True}
