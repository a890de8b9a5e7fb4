"""Content of a survey of a source, which describes what is wrong instead of failing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from stores import NAMES, cells, ome_zarr, pixels, plain, tiffs
from zarr.codecs import BloscCodec

from harpy_core.config.mistakes import load
from harpy_core.config.models import DATASETS
from harpy_core.planning.inspection import inspect
from harpy_core.planning.survey import survey

ROWS = ("shape", "levels", "dtype", "chunks", "shards", "codec", "stored", "compression")


def told(*arguments: Any, **options: Any) -> dict[str, str]:
    """Lines of a survey that found nothing wrong, by their first word."""
    found = survey(*arguments, **options)
    assert found.problem is None
    return {line[:11].strip(): line[11:].strip() for line in found.lines}


def test_an_ome_zarr_image_is_told_of(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.4")
    found = told(str(tmp_path / "i.zarr"))
    assert found["store"] == "Zarr 2, OME-Zarr 0.4"
    assert found["labels"] == "cells"
    assert found["shape"].split("   ")[0] == "3 x 40 x 50 (c, y, x)"
    assert found["levels"].startswith("2: 40 x 50, 20 x 25")
    assert found["dtype"].split() == ["uint16", "uint32"]
    assert found["chunks"].startswith("1 x 16 x 16")
    assert found["channels"] == "3: DAPI, CD3, CD20"
    assert set(ROWS) <= set(found)


@pytest.mark.parametrize("sharded", [False, True])
def test_codec_shards_and_compression_are_those_of_the_files(sharded: bool, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g", mode="w")
    values = np.random.default_rng(0).integers(0, 50, (2, 256, 256)).astype("u2")
    codec = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=2)
    shards = (2, 128, 128) if sharded else None
    group.create_array("image", data=values, chunks=(1, 64, 64), shards=shards, compressors=codec)
    group.create_array("cells", data=np.ones((256, 256), "u4"), chunks=(64, 64))
    found = told(str(tmp_path / "g"), "image", "cells")
    assert found["codec"].startswith("blosc zstd 3 bitshuffle")
    assert found["shards"].startswith("2 x 128 x 128" if sharded else "none")
    stored = sum(
        f.stat().st_size for f in (tmp_path / "g" / "image" / "c").rglob("*") if f.is_file()
    )
    ratio = float(found["compression"].split()[0])
    assert ratio == pytest.approx(values.nbytes / stored, rel=0.02)


def test_labels_are_counted_in_a_sample_and_its_size_is_told(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g", mode="w")
    labels = np.arange(100, dtype="u4").repeat(100).reshape(100, 100)
    labels[50:60] = 0
    group.create_array("image", data=np.zeros((1, 100, 100), "u1"), chunks=(1, 10, 100))
    group.create_array("cells", data=labels, chunks=(10, 100))
    found = told(str(tmp_path / "g"), "image", "cells")["instances"]
    read = [1, 3, 6, 8]
    expected = len(np.unique(np.concatenate([labels[10 * i : 10 * i + 10] for i in read])))
    assert found == f"{expected} in 4 of 10 chunks (4,000 pixels)"


def test_chunks_that_are_not_there_are_told(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g", mode="w")
    image = group.create_array("image", shape=(1, 64, 64), chunks=(1, 16, 16), dtype="u2")
    image[:, :32] = 7
    group.create_array("cells", data=cells((64, 64)), chunks=(16, 16))
    assert told(str(tmp_path / "g"), "image", "cells")["stored"].startswith("2 of 4 that")


@pytest.mark.parametrize("kind", ["zip", "tiff", "plain", "level", "deep"])
def test_every_kind_of_source_is_told_of(kind: str, tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5", "zyx" if kind == "deep" else "yx")
    if kind == "zip":
        archive = shutil.make_archive(str(tmp_path / "i"), "zip", tmp_path / "i.zarr")
        found = told(archive)
        assert found["store"] == "Zarr 3, OME-Zarr 0.5"
    elif kind == "tiff":
        image, labels = tiffs(tmp_path, tile=(16, 16), compression="zlib")
        found = told(image, None, labels)
        assert found["file"].startswith("OME-TIFF, ")
        assert found["codec"].split() == ["adobe_deflate"] * 2
        with tifffile.TiffFile(image) as tiff:
            stored = sum(sum(page.databytecounts) for page in tiff.pages)
        padded = 3 * 48 * 64 * 2
        assert float(found["compression"].split()[0]) == pytest.approx(padded / stored, rel=0.1)
    elif kind == "plain":
        plain(tmp_path / "g")
        found = told(str(tmp_path / "g"), "raw/image", "cells")
        assert found["store"] == "Zarr 3, plain arrays"
    elif kind == "level":
        found = told(str(tmp_path / "i.zarr"), level=1, channels=["CD3"])
        assert found["shape"].startswith("3 x 20 x 25")
        assert found["channels"] == "1 of 3: CD3"
    else:
        assert told(str(tmp_path / "i.zarr"))["shape"].startswith("3 x 4 x 40 x 50 (c, z, y, x)")
        return
    assert set(ROWS) <= set(found)
    assert found["instances"].startswith("2 in ")


@pytest.mark.parametrize(
    ("image", "labels", "channels", "problem", "last"),
    [
        ("raw/image", "floats", None, "labels are float32", "channels"),
        ("raw/image", "nuclei", None, "labels 'nuclei' is not there", "labels"),
        ("raw/image", "cells", ["CD4"], "names none of its 3 channels", "compression"),
    ],
)
def test_what_is_wrong_stands_below_what_was_found(
    image: str, labels: str, channels: list[str] | None, problem: str, last: str, tmp_path: Path
) -> None:
    plain(tmp_path / "g")
    found = survey(str(tmp_path / "g"), image, labels, channels)
    assert found.problem is not None
    assert problem in found.problem
    assert found.lines[-1].startswith(last)


def test_a_registered_dataset_is_known_before_it_is_there(tmp_path: Path) -> None:
    for name in DATASETS:
        text, problems = inspect(load({"cases": {"a": {"source": {"uri": name}}}}, "f"), tmp_path)
        assert not problems
        assert "not yet" in text
        assert "instances" in text


def test_a_registered_dataset_that_is_there_is_looked_into(tmp_path: Path) -> None:
    from harpy_core.datasets import fetch

    fetch("ihc", tmp_path / "ihc.zarr")
    text, problems = inspect(load({"cases": {"a": {"source": {"uri": "ihc"}}}}, "f"), tmp_path)
    assert not problems
    assert "SpatialData" in text
    assert NAMES[0] not in text
    assert "3 x 512 x 512 (c, y, x)" in text


def test_every_problem_is_named_with_its_case(tmp_path: Path) -> None:
    plain(tmp_path / "g")
    source = {"uri": str(tmp_path / "g"), "image": "raw/image"}
    cases = {
        "good": {"source": {**source, "labels": "cells"}},
        "bad": {"source": {**source, "labels": "floats"}},
        "worse": {"source": {**source, "labels": "small"}},
    }
    text, problems = inspect(load({"cases": cases}, "f"))
    assert [problem.partition(":")[0] for problem in problems] == ["bad", "worse"]
    assert text.count("cannot be used") == 2
    assert pixels().shape == (3, 40, 50)
    assert text.count("3 x 40 x 50 (c, y, x)") == 3
