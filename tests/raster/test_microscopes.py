"""Files of microscopes through bioio, where its reader is installed; else what to install."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from stores import NAMES, assert_is_whole, assert_passes_the_check, cells, pixels

import harpy_core as hc
from harpy_core.planning import preflight
from harpy_core.raster import describe, open_described, open_raster
from harpy_core.raster.bio_array import number_of
from harpy_core.raster.formats import bio


def doors(path: Path) -> list[Any]:
    source = {"uri": str(path), "labels": "labels.tif"}
    return [
        lambda: open_raster(path, labels="labels.tif"),
        lambda: preflight.checked({"cases": {"c": {"source": source}}}, "f.yaml"),
    ]


@pytest.fixture
def labels(tmp_path: Path) -> str:
    tifffile.imwrite(tmp_path / "labels.tif", cells())
    return str(tmp_path / "labels.tif")


@pytest.mark.parametrize("ending", bio.READERS)
def test_a_reader_that_is_not_installed_is_named(
    ending: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        bio, "find_spec", lambda name: None if name.startswith("bioio") else found(name)
    )
    path = tmp_path / f"slide{ending.upper()}"
    path.write_bytes(b"anything")
    for door in doors(path):
        with pytest.raises(hc.InputError, match=r"pip install 'harpy-core\[") as error:
            door()
        assert f"[{ending[1:]}]" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", bio.UNREAD)
def test_what_nothing_reads_is_to_be_exported(ending: str, labels: str, tmp_path: Path) -> None:
    path = tmp_path / f"slide{ending}"
    path.write_bytes(b"anything")
    for door in doors(path):
        with pytest.raises(hc.InputError, match=rf"\{ending} is not read: export it as OME-TIFF"):
            door()


def written(path: Path) -> None:
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(path)) as file:
        for channel, plane in enumerate(pixels()):
            file.write(plane[..., None], plane={"C": channel, "Z": 0, "T": 0})
        file.write_metadata("slide", channel_names=dict(enumerate(NAMES)))


def test_a_czi_is_read_as_it_was_written(labels: str, tmp_path: Path) -> None:
    pytest.importorskip("bioio_czi")
    path = tmp_path / "slide.czi"
    written(path)
    assert_passes_the_check(path, labels=labels)
    raster = open_described(describe(path, labels=labels))
    assert_is_whole(raster)
    assert_is_whole(open_raster(path, labels=labels, channels=["CD3", "DAPI", "CD20"]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(raster.image))[1], pixels()[1])
    found = hc.aggregate_stats(raster.image, raster.labels, channels=raster.channels)
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(pixels(), cells()).X)


@pytest.mark.parametrize(("scene", "number"), [("b", 1), ("0", 0), ("1", 1)])
def test_a_scene_is_chosen_by_name_or_number(scene: str, number: int) -> None:
    assert number_of("a.lif", ["a", "b"], scene) == number
    with pytest.raises(hc.InputError, match=r"a\.lif: no image 'c'; found a, b, or 0 to 1"):
        number_of("a.lif", ["a", "b"], "c")
