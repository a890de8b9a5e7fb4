"""The workflow on what people have: looked into first, then measured; at addresses too."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import tifffile
import zarr
from calls import rules_of, snakemake, write_config
from servers import Bucket, files_served, s3_served
from stores import cells, ome_zarr, pixels, plain, tiffs

from harpy_core import open_crops
from harpy_core.config.mistakes import load
from harpy_core.errors import InputError
from harpy_core.planning import preflight
from harpy_core.storage.manifest import read_manifest

TABLE = "results/slide/table.manifest.json"


def of_one(source: dict[str, Any]) -> dict[str, Any]:
    return {"cases": {"slide": {"source": source, "aggregate": {"stats": ["sum", "max"]}}}}


def assert_is_right(folder: Path, step: int = 1) -> None:
    """The table is what NumPy makes of the pixels."""
    table = anndata.read_zarr(folder / "results/slide/table.zarr")
    image, labels = pixels()[:, ::step, ::step], cells()[::step, ::step]
    assert list(table.obs["instance_id"]) == [7, 9]
    sums = [[int(plane[labels == i].sum()) for plane in image] for i in (7, 9)]
    np.testing.assert_array_equal(table.layers["sum"], sums)


def test_every_source_is_told_of_and_nothing_is_run(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    plain(tmp_path / "g")
    tiffs(tmp_path)
    sources = {
        "stain": {"uri": "ihc"},
        "tonsil": {"uri": "macsima-tonsil"},
        "ome": {"uri": "i.zarr", "level": 1},
        "pair": {"uri": "g", "image": "raw/image", "labels": "cells"},
        "tiff": {"uri": "image.ome.tif", "labels": "labels.tif"},
    }
    write_config(tmp_path, {"cases": {name: {"source": s} for name, s in sources.items()}})
    ended = snakemake(tmp_path, "check", cores=1)
    assert ended.returncode == 0, ended.stderr
    blocks = {b.partition(":")[0].split()[-1]: b for b in ended.stdout.split("\n\n")}
    assert set(blocks) == set(sources)
    assert "not yet; it is downloaded" in blocks["tonsil"]
    assert "3 x 20 x 25 (c, y, x)" in blocks["ome"]
    for name in ("ome", "pair", "tiff"):
        assert "2 in " in blocks[name]
        shapes = [line for line in blocks[name].splitlines() if line.startswith("  shape")]
        heads = [
            line for line in blocks[name].splitlines() if "image  " in line and "labels" in line
        ]
        assert shapes[0].index("(y, x)") > heads[0].index("labels")
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "data").exists()


def test_a_source_that_cannot_be_used_ends_the_check_with_its_line(tmp_path: Path) -> None:
    plain(tmp_path / "g")
    write_config(tmp_path, of_one({"uri": "g", "image": "raw/image", "labels": "floats"}))
    ended = snakemake(tmp_path, "check", cores=1)
    assert ended.returncode == 1
    assert "slide: labels are float32, and one is" in ended.stderr
    assert "3 x 40 x 50 (c, y, x)" in ended.stdout


def test_a_coarser_level_is_measured(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.4")
    write_config(tmp_path, of_one({"uri": "i.zarr", "level": 1}))
    ended = snakemake(tmp_path, TABLE)
    assert ended.returncode == 0, ended.stderr
    assert_is_right(tmp_path, step=2)


def test_pixels_that_are_written_in_place_are_measured_anew(tmp_path: Path) -> None:
    """Labels of another cell, as many bytes at the same paths."""
    ome_zarr(tmp_path / "i.zarr", "0.5")
    write_config(tmp_path, of_one({"uri": "i.zarr"}))
    ended = snakemake(tmp_path, TABLE)
    assert ended.returncode == 0, ended.stderr
    assert_is_right(tmp_path)
    table = anndata.read_zarr(tmp_path / "results/slide/table.zarr")
    assert table.uns["spatialdata_attrs"]["region"] == "cells"
    assert "Nothing to be done" in snakemake(tmp_path, TABLE).stderr
    labels = zarr.open_array(tmp_path / "i.zarr/labels/cells/fine", mode="r+")
    labels[...] = np.where(cells() == 7, 8, 0)
    ended = snakemake(tmp_path, TABLE)
    assert ended.returncode == 0, ended.stderr
    table = anndata.read_zarr(tmp_path / "results/slide/table.zarr")
    assert list(table.obs["instance_id"]) == [8]


def test_a_label_file_beside_a_made_store_is_part_of_the_source(tmp_path: Path) -> None:
    mine = np.zeros((512, 512), np.uint16)
    mine[10:20, 10:20] = 3
    tifffile.imwrite(tmp_path / "mine.tif", mine)
    source = load(of_one({"uri": "ihc", "labels": "mine.tif"}), "config.yaml").cases["slide"].source
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        before = preflight.files_digest(source)
        assert preflight.files_digest(source) == before
        assert preflight.watched_files(source) == [str(tmp_path / "mine.tif")]
        tifffile.imwrite(tmp_path / "mine.tif", mine + mine)
        assert preflight.files_digest(source) != before


def test_a_store_in_a_bucket_is_measured_and_kept(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    with s3_served() as endpoint:
        bucket = Bucket(endpoint, "slides")
        uri = bucket.put(tmp_path / "i.zarr", "i.zarr")
        source = {"uri": uri, "labels": "cells", "cache": "kept", "storage_options": bucket.options}
        write_config(tmp_path, of_one(source))
        looked = snakemake(tmp_path, "check", cores=1)
        assert looked.returncode == 0, looked.stderr
        assert "OME-Zarr 0.5" in looked.stdout
        ended = snakemake(tmp_path, TABLE)
        assert ended.returncode == 0, ended.stderr
    assert_is_right(tmp_path)
    assert list((tmp_path / "kept").rglob("c/0/0/0"))


def test_a_store_on_a_server_with_a_certificate_of_its_own_is_measured(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    with files_served(tmp_path, certificates=tmp_path) as server:
        write_config(tmp_path, of_one({"uri": f"{server.url}/i.zarr", "labels": "cells"}))
        trusting = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        ended = snakemake(tmp_path, TABLE, environment=trusting)
        assert ended.returncode == 0, ended.stderr
        assert_is_right(tmp_path)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"uri": "ftp://host/i.zarr"}, "uri = ftp://host/i.zarr: addresses begin with s3, gs"),
        ({"uri": "s3://b/i.tif"}, "uri = s3://b/i.tif: a TIFF is not read at an address"),
        ({"uri": "ihc", "level": -1}, "level = -1: a level is a whole number of at least 0"),
        (
            {"uri": "s3://b/i.zarr", "storage_options": {"key": "a", "secret": "hidden"}},
            "storage_options: key may be a secret",
        ),
    ],
)
def test_a_mistake_in_a_source_is_refused_before_anything_runs(
    source: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=re.escape(told)) as error:
        preflight.checked(of_one(source), "f.yaml")
    assert str(error.value).startswith("f.yaml: cases.slide.source.")
    assert "hidden" not in str(error.value)


def test_layers_are_tiled_with_their_source_and_a_wrong_one_ends_the_run_before_that(
    tmp_path: Path,
) -> None:
    tiffs(tmp_path)
    tifffile.imwrite(tmp_path / "half.tif", cells()[::2, ::2])
    config = of_one({"uri": "image.ome.tif", "labels": "labels.tif"})
    case = config["cases"]["slide"]
    case["tile"] = {"c": 3, "y": 80, "x": 90, "chunks": [1, 40, 50], "method": "copy"}
    layer = {"labels": "half.tif"}
    case["aggregate"] = {"stats": ["sum"], "layers": {"half": layer, "rest": {"without": "half"}}}
    write_config(tmp_path, config)
    ended = snakemake(tmp_path, TABLE)
    assert ended.returncode == 1
    told = "layer half: labels = half.tif: "
    (line,) = (line for line in ended.stderr.splitlines() if told in line)
    assert line.endswith("give scale: 2"), ended.stderr
    assert sorted(os.listdir(tmp_path / "results/slide")) == ["source.json"]

    layer["scale"] = 2
    write_config(tmp_path, config)
    ended = snakemake(tmp_path, TABLE)
    assert ended.returncode == 0, ended.stderr
    table = anndata.read_zarr(tmp_path / "results/slide/table.zarr")
    coarse = np.repeat(np.repeat(cells()[::2, ::2], 2, 0), 2, 1)
    whole = np.tile(pixels(), (1, 2, 2))[:, :, :90]
    fine, half = (
        np.block([[a, a + 9 * (a > 0)], [a + 18 * (a > 0), a + 27 * (a > 0)]])[:, :90]
        for a in (cells(), coarse)
    )
    rows = []
    for labels in (fine, half, np.where(half > 0, 0, fine)):
        ids = np.unique(labels)[1:]
        rows += [[int(i), *(int(plane[labels == i].sum()) for plane in whole)] for i in ids]
    found = np.column_stack([table.obs["instance_id"], table.layers["sum"]])
    assert found.astype(int).tolist() == rows


def test_fields_of_view_are_measured_one_by_one_and_joined(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    tiffs(tmp_path)
    case = {
        "fields": {
            "coarse": {"uri": "i.zarr", "level": 1},
            "tiff": {"uri": "image.ome.tif", "labels": "labels.tif"},
        },
        "aggregate": {"stats": ["sum"]},
        "extract": {"diameter": 8},
    }
    write_config(tmp_path, {"cases": {"slide": case}})
    targets = [TABLE, "results/slide/crops.manifest.json", "results/slide/figures/heatmap.png"]
    ended = snakemake(tmp_path, *targets)
    assert ended.returncode == 0, ended.stderr

    table = anndata.read_zarr(tmp_path / "results/slide/table.zarr")
    assert list(table.obs_names) == ["coarse-7", "coarse-9", "tiff-7", "tiff-9"]
    assert list(table.obs["field"]) == ["coarse", "coarse", "tiff", "tiff"]
    expected = []
    for step in (2, 1):
        image, labels = pixels()[:, ::step, ::step], cells()[::step, ::step]
        expected += [[int(plane[labels == i].sum()) for plane in image] for i in (7, 9)]
    np.testing.assert_array_equal(table.layers["sum"], expected)

    listed = read_manifest(tmp_path / "results/slide/crops.manifest.json")
    assert listed["instances"] == 4
    for field, store in listed["fields"].items():
        crops = open_crops(tmp_path / "results/slide" / store["store"])
        assert crops.digest == store["digest"]
        own = read_manifest(tmp_path / f"results/slide/fields/{field}/crops.manifest.json")
        assert own["digest"] == store["digest"]
    assert not (tmp_path / "results/slide/crops.zarr").exists()

    again = snakemake(tmp_path, "--dry-run", "--quiet", "rules")
    assert {"join_tables", "aggregate"}.isdisjoint(rules_of(again.stdout + again.stderr))
    case["fields"]["coarse"]["level"] = 0
    write_config(tmp_path, {"cases": {"slide": case}})
    again = snakemake(tmp_path, "--dry-run", TABLE)
    changed = re.findall(r"wildcards: case=(\S+)", again.stdout + again.stderr)
    assert set(changed) == {"slide/fields/coarse", "slide"}


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (
            {"fields": {"a": {"uri": "ihc"}}, "source": {"uri": "ihc"}},
            "give source or fields, not both",
        ),
        (
            {"fields": {"a": {"uri": "ihc"}}, "benchmark": {}},
            "tile and benchmark take one image: give source instead of fields",
        ),
        ({"fields": {"a": {"uri": "nowhere.zarr"}}}, "cases.slide.fields.a.uri = nowhere.zarr: "),
        ({"fields": {"a": {"ury": "ihc"}}}, "cases.slide.fields.a.ury: there is no such key"),
        (
            {"fields": {"a/b": {"uri": "ihc"}}},
            "a field's name is made of ASCII letters, digits, - and _",
        ),
    ],
)
def test_a_mistake_in_the_fields_is_told_in_one_line(
    case: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(told)) as error:
        preflight.checked({"cases": {"slide": {**case, "aggregate": {}}}}, "f.yaml")
    assert str(error.value).startswith("f.yaml: cases.slide")
    assert "\n" not in str(error.value)
