"""Harpy's own data set reads our store as it is: its ``image`` array, with our instance ids.

Runs where HARPY_PYTHON names the interpreter of an environment with Harpy and PyTorch.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from crop_cases import OPTIONS, extracted, tissue

PYTHON = os.environ.get("HARPY_PYTHON")


@pytest.mark.skipif(PYTHON is None, reason="HARPY_PYTHON names no interpreter with Harpy")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shard_size": 8},
        {"codec": "zstd", "shuffle": 5},
        {"dtype": "float16", "scale": 1 / 65535},
    ],
    ids=str,
)
def test_harpy_reads_every_crop_of_our_store(options: dict[str, Any], tmp_path: Path) -> None:
    case = tissue()
    case.labels[case.labels == case.labels.max()] = 0
    crops = extracted(case, tmp_path, "zarr", **OPTIONS, **options)
    assert len(crops) % crops.image.chunks[0] != 0
    out = tmp_path / "read.npz"
    script = Path(__file__).parents[1] / "support" / "peer_loader.py"
    subprocess.run([str(PYTHON), str(script), str(crops.path), str(out)], check=True)
    group = zarr.open_group(crops.path, mode="r")
    ids, images = group["instance_id"][...], group["image"][...]
    with np.load(out) as found:
        assert sorted(found["id"].tolist()) == sorted(ids.tolist())
        np.testing.assert_array_equal(found["id"].astype(np.uint64), ids[found["row"]])
        np.testing.assert_array_equal(found["label"], found["id"] % 3)
        np.testing.assert_array_equal(found["image"], images[found["row"]].astype(np.float32))
