"""Stores of several images, and paths: plates, plain arrays, what is found from where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from stores import NAMES, assert_is_whole, cells, ngff, ome_zarr, pixels, plain, tiffs

import harpy_core as hc
from harpy_core.config.cases import image_cases
from harpy_core.planning import preflight
from harpy_core.planning.survey import survey
from harpy_core.raster import open_raster


def plate(path: Path, version: str = "0.4") -> None:
    """Write a plate of two wells, with two fields and with one."""
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    wells = {"B/03": ["0", "1"], "C/04": ["0"]}

    def described(group: zarr.Group, **metadata: Any) -> None:
        group.attrs.update({"ome": metadata} if version == "0.5" else metadata)

    described(root, plate={"wells": [{"path": well} for well in wells]})
    for number, (well, fields) in enumerate(wells.items()):
        group = root.require_group(well)
        described(group, well={"images": [{"path": field} for field in fields]})
        for field in fields:
            shift = np.uint16(number + int(field))
            ngff(root, f"{well}/{field}", pixels() + shift, "cyx", version)
            ngff(root, f"{well}/{field}/labels/cells", cells(), "yx", version)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_field_of_a_plate_is_opened_by_its_path(version: str, tmp_path: Path) -> None:
    plate(tmp_path / "p.zarr", version)
    assert_is_whole(open_raster(tmp_path / "p.zarr", "B/03/0"))
    assert_is_whole(open_raster(tmp_path / "p.zarr", "B/03/0", "cells"))
    only = open_raster(tmp_path / "p.zarr", "C/04")
    np.testing.assert_array_equal(only.image[...], pixels() + np.uint16(1))
    for image, told in ((None, "B/03/0, B/03/1, C/04/0"), ("B/03", "B/03 is a well; found B/03/0")):
        with pytest.raises(hc.InputError, match=told):
            open_raster(tmp_path / "p.zarr", image)
    assert "B/03/0, B/03/1, C/04/0" in str(survey(str(tmp_path / "p.zarr")).problem)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("image", "fields"),
    [
        (None, ["B_03_0", "B_03_1", "C_04_0"]),
        ("B/03", ["B_03_0", "B_03_1"]),
        ("C/04", None),
        ("B/03/1", None),
    ],
)
def test_a_plate_or_a_well_is_a_case_of_its_fields(
    version: str, image: str | None, fields: list[str] | None, tmp_path: Path
) -> None:
    plate(tmp_path / "p.zarr", version)
    source = {"uri": str(tmp_path / "p.zarr"), "image": image, "channels": ["CD3"]}
    config = {"cases": {"screen": {"source": source, "aggregate": {}}}}
    found = image_cases(preflight.checked(config, "f.yaml"))
    names = ["screen"] if fields is None else [f"screen/fields/{field}" for field in fields]
    assert list(found) == names
    for case in found.values():
        raster = open_raster(case.source.uri, case.source.image, channels=["CD3"])
        assert raster.channels == ["CD3"]
    config["cases"]["screen"]["tile"] = {"c": 3, "y": 99, "x": 99}
    if fields is not None:
        with pytest.raises(hc.InputError, match="take one image: name a field of the plate"):
            preflight.checked(config, "f.yaml")


def test_plain_arrays_are_listed_where_one_must_be_named(tmp_path: Path) -> None:
    plain(tmp_path / "g")
    told = (
        r"found none, but the arrays cells \(40 x 50 uint32\), .*raw/image \(3 x 40 x 50 uint16\)"
    )
    with pytest.raises(hc.InputError, match=told) as error:
        open_raster(tmp_path / "g")
    assert "\n" not in str(error.value)
    with pytest.raises(hc.InputError, match="labels 'nuclei' is not there; " + told):
        open_raster(tmp_path / "g", "raw/image", "nuclei")
    told = "source.image = null: name the image to use: there are cells, floats, raw/image, raw/vol"
    with pytest.raises(hc.InputError, match=told):
        preflight.checked(config(uri=str(tmp_path / "g")), "f.yaml")


# Paths --------------------------------------------------------------------------------------------


def config(**source: Any) -> dict[str, Any]:
    return {"cases": {"c": {"source": source}}}


def placed(given: dict[str, Any], file: str = "config/f.yaml") -> Any:
    return preflight.checked(given, file).cases["c"].source


def test_home_and_the_environment_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, labels = tiffs(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SLIDES", str(tmp_path))
    found = placed(config(uri="~/image.ome.tif", labels="${SLIDES}/labels.tif"))
    assert (found.uri, found.labels) == (image, labels)
    assert_is_whole(open_raster("$SLIDES/image.ome.tif", labels="~/labels.tif"))
    with pytest.raises(hc.InputError, match=r"uri = \$NOWHERE/a.tif: there is no such path in "):
        placed(config(uri="$NOWHERE/a.tif"))


def test_a_path_leads_from_the_working_directory_and_else_from_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("config", "config/data"):
        (tmp_path / folder).mkdir()
    tiffs(tmp_path / "config" / "data")
    (tmp_path / "config" / "names.txt").write_text("\n".join(NAMES))
    given = config(uri="data/image.ome.tif", labels="data/labels.tif", channels="names.txt")
    found = placed(given)
    assert found.uri == "config/data/image.ome.tif"
    assert found.labels == "config/data/labels.tif"
    assert found.channels == "config/names.txt"
    lines = preflight.moved_paths(given, "config/f.yaml")
    assert lines[0] == (
        "cases.c.source.uri = config/data/image.ome.tif: taken from the config's folder"
    )
    assert len(lines) == 3
    (tmp_path / "data").mkdir()
    tiffs(tmp_path / "data")
    assert placed(given).uri == "data/image.ome.tif"
    with pytest.raises(hc.InputError) as error:
        placed(config(uri="no.tif"))
    assert f"there is no such path in {tmp_path}, nor in {tmp_path}/config, nor" in str(error.value)


def test_every_path_of_a_case_is_expanded_and_else_leads_from_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HERE", str(tmp_path))
    (tmp_path / "config").mkdir()
    names = ["nuclei.tif", "ids.txt", "model.onnx"]

    def make(folder: Path) -> None:
        tifffile.imwrite(folder / names[0], np.ones((512, 512), np.uint16))
        for name in names[1:]:
            (folder / name).touch()

    make(tmp_path / "config")
    given = config(uri="ihc")
    case = given["cases"]["c"]

    def files(folder: str) -> list[str]:
        case["aggregate"] = {"layers": {"nuclei": {"labels": f"{folder}nuclei.tif"}}}
        case["extract"] = {"index": f"{folder}ids.txt"}
        case["embed"] = {"model": f"{folder}model.onnx"}
        found = preflight.checked(given, "config/f.yaml").cases["c"]
        return [found.aggregate.layers["nuclei"].labels, found.extract.index, found.embed.model]

    assert files("$HERE/config/") == [f"{tmp_path}/config/{name}" for name in names]
    assert files("") == [f"config/{name}" for name in names]
    make(tmp_path)
    assert files("") == names


def test_names_of_elements_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config" / "cells").mkdir(parents=True)
    ome_zarr(tmp_path / "i.zarr", "0.5")
    found = placed(config(uri="i.zarr", labels="cells"))
    assert (found.uri, found.labels) == ("i.zarr", "cells")
    assert preflight.moved_paths(config(uri="ihc"), "config/f.yaml") == []
