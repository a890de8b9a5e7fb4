"""N5 through tensorstore, where that is installed; else what to install."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import assert_is_whole, assert_passes_the_check, cells, pixels

import harpy_core as hc
from harpy_core.planning import preflight
from harpy_core.raster import describe, open_described, open_raster
from harpy_core.raster.formats import n5

NUMBERS = ["0", "1", "2"]


def test_a_reader_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        n5, "find_spec", lambda name: None if name == "tensorstore" else found(name)
    )
    (tmp_path / "a.n5").mkdir()
    (tmp_path / "a.n5" / "attributes.json").write_text('{"n5": "2.5.1"}')
    source = {"uri": str(tmp_path / "a.n5")}
    doors = [
        lambda: open_raster(tmp_path / "a.n5"),
        lambda: preflight.checked({"cases": {"c": {"source": source}}}, "f.yaml"),
    ]
    for door in doors:
        with pytest.raises(hc.InputError, match=r"pip install 'harpy-core\[n5\]'"):
            door()


def written(path: Path, name: str, values: np.ndarray, **compression: Any) -> None:
    """Write an array, its last axis first, as N5 has it."""
    tensorstore = pytest.importorskip("tensorstore")
    turned = values.transpose()
    spec = {
        "driver": "n5",
        "kvstore": {"driver": "file", "path": str(path / name)},
        "metadata": {
            "dimensions": turned.shape,
            "blockSize": [16, 16, 1, 1][: turned.ndim],
            "dataType": str(values.dtype),
            "compression": compression or {"type": "gzip"},
        },
    }
    tensorstore.open(spec, create=True).result().write(turned).result()
    (path / "attributes.json").write_text('{"n5": "2.5.1"}')


@pytest.mark.parametrize("compression", ["raw", "gzip", "bzip2", "zstd", "blosc"])
def test_n5_is_read_as_it_was_written(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "a.n5"
    more = {"cname": "lz4", "clevel": 5, "shuffle": 1} if compression == "blosc" else {}
    written(path, "image/s0", pixels(), type=compression, **more)
    written(path, "cells", cells(), type=compression, **more)
    keys = {"image": "image/s0", "labels": "cells"}
    assert_passes_the_check(path, **keys)
    raster = open_described(describe(path, **keys))
    assert_is_whole(raster, NUMBERS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(raster.image))[1], pixels()[1])
    found = hc.aggregate_stats(raster.image, raster.labels)
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(pixels(), cells()).X)
    with pytest.raises(hc.InputError, match=r"which images.*found cells, image/s0"):
        open_raster(path, labels="cells")


def test_axes_are_those_of_the_metadata_or_as_stated(tmp_path: Path) -> None:
    path = tmp_path / "a.n5"
    volume = pixels((4, 3, 40, 50))
    written(path, "image", volume)
    written(path, "cells", cells((4, 40, 50)))
    expected = volume.transpose(1, 0, 2, 3)
    raster = open_raster(path, "image", "cells", axes="xycz")
    np.testing.assert_array_equal(raster.image[...], expected)
    described = json.loads((path / "image" / "attributes.json").read_text())
    text = json.dumps({**described, "axes": ["x", "y", "c", "z"]})
    (path / "image" / "attributes.json").write_text(text)
    np.testing.assert_array_equal(open_raster(path, "image", "cells").image[...], expected)
