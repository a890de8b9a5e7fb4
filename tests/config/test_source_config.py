"""Sources that a config points to: looked into, and told in one line where they are not there."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from configs import FILE, TIFF, store, told, with_source

from harpy_core.config.cases import image_cases
from harpy_core.planning import preflight


def test_a_source_that_is_not_there_is_told_with_the_registered_names() -> None:
    line = told(with_source(uri="tisue"))
    assert line.startswith("cases.liver.source.uri = tisue: there is no such path in ")
    assert line.endswith("(did you mean tissue?)")


def test_a_folder_that_is_no_store_is_told(tmp_path: Path) -> None:
    assert "holds no Zarr metadata" in told(with_source(uri=str(tmp_path)))


def test_a_tiff_that_is_none_is_told(tmp_path: Path) -> None:
    image = tmp_path / "image.tif"
    image.write_text("<html>not found</html>")
    assert "is not a TIFF" in told(with_source(uri=str(image), labels=str(image)))


def test_a_tiff_needs_its_labels(tmp_path: Path) -> None:
    (tmp_path / "image.tif").write_bytes(TIFF)
    line = told(with_source(uri=str(tmp_path / "image.tif")))
    assert (
        line
        == "cases.liver.source.labels = null: it holds no labels: give the path of a label TIFF"
    )


def test_labels_of_a_tiff_are_found_beside_it(tmp_path: Path) -> None:
    for name in ("image.tif", "labels.tif"):
        (tmp_path / name).write_bytes(TIFF)
    mapping = with_source(uri=str(tmp_path / "image.tif"), labels="labels.tif")
    config = preflight.checked(mapping, FILE)
    watched = preflight.watched_files(config.cases["liver"].source)
    assert watched == [str(tmp_path / "image.tif"), str(tmp_path / "labels.tif")]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_an_unreadable_source_is_told(tmp_path: Path) -> None:
    image = tmp_path / "image.tif"
    image.write_bytes(TIFF)
    image.chmod(0)
    assert "cannot be read" in told(with_source(uri=str(image), labels=str(image)))


def test_elements_that_are_not_there_are_told_with_those_that_are(tmp_path: Path) -> None:
    uri = str(store(tmp_path / "s.zarr", ["tissue", "dapi"], ["cells", "nuclei"]))
    assert told(with_source(uri=uri, image="dapi", labels="cels")) == (
        "cases.liver.source.labels = cels: no such labels element: there are cells, nuclei "
        "(did you mean cells?)"
    )
    assert told(with_source(uri=uri, labels="cells")) == (
        "cases.liver.source.image = null: name the image to use: there are dapi, tissue"
    )


def test_the_only_elements_need_no_name(tmp_path: Path) -> None:
    uri = str(store(tmp_path / "s.zarr", ["tissue"], ["cells"]))
    preflight.checked(with_source(uri=uri), FILE)


def test_channels_that_are_not_there_are_told(tmp_path: Path) -> None:
    uri = str(store(tmp_path / "s.zarr", ["tissue"], ["cells"]))
    line = told(with_source(uri=uri, channels=["DAPI", "CD33"]))
    assert line.startswith("cases.liver.source.channels[1] = CD33: no such channel: there are DAPI")


@pytest.mark.parametrize("top", ["", "s.zarr"])
def test_zipped_stores_are_looked_into(tmp_path: Path, top: str) -> None:
    folder = store(tmp_path / "s.zarr", ["tissue"], ["cells"])
    archive = tmp_path / "s.zarr.zip"
    with zipfile.ZipFile(archive, "w") as written:
        for file in folder.rglob("zarr.json"):
            written.write(file, Path(top, file.relative_to(folder)))
    preflight.checked(with_source(uri=str(archive), labels="cells"), FILE)
    assert "there are cells" in told(with_source(uri=str(archive), labels="nuclei"))


def test_a_store_takes_the_place_of_a_published_dataset(tmp_path: Path) -> None:
    place = store(tmp_path / "tonsil.zarr", ["image_tiled"], ["labels_cells_harpy"])
    mapping = with_source(uri="macsima-tonsil")
    mapping["datasets"] = {"macsima-tonsil": {"store": str(place)}}
    config = preflight.checked(mapping, FILE)
    source = image_cases(config)["liver"].source
    assert (source.uri, source.image, source.labels) == (
        str(place),
        "image_tiled",
        "labels_cells_harpy",
    )
