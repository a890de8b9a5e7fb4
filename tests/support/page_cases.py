"""A small tissue, its page, and what the page holds."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.raster import Raster
from harpy_core.viewing.pages import write_page

NAMES = ["DAPI", "</script><b>CD3"]


def tissue(corner: tuple[int, int], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image of two channels and twelve square cells below and to the right of a corner."""
    labels = np.zeros(shape, np.uint32)
    for number, (y, x) in enumerate(np.ndindex(3, 4)):
        top, left = corner[0] + 12 * y, corner[1] + 12 * x
        labels[top : top + 8, left : left + 8] = 10 * number + 5
    image = np.random.default_rng(0).integers(0, 1000, (2, *shape)).astype(np.uint16)
    return image, labels


def written(
    folder: Path, image: np.ndarray, labels: np.ndarray, crops: str | Path | None = None
) -> Path:
    """The page of an image and its labels, with crops of them or without."""
    instances = hc.find_instances(labels)
    aggregate_to_store(image, labels, folder / "table.zarr", instances, ("max", "mean"), NAMES)
    raster = Raster.of(image, labels, NAMES)
    page = folder / "view.html"
    assert write_page(raster, folder / "table.zarr", page, "a & b", 8, crops) > 0
    return page


def content_of(page: Path) -> dict[str, Any]:
    """The data that a page holds."""
    found = re.search(r'type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)
