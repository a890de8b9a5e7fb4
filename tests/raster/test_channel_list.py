"""Names of channels that are given: in a list, a text, or a pipeline's list of markers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from stores import NAMES, assert_is_whole, cells, ome_zarr, pixels, tiffs

import harpy_core as hc
from harpy_core.config.models import Source
from harpy_core.planning import preflight
from harpy_core.planning.survey import survey
from harpy_core.raster import describe, open_described, open_raster
from harpy_core.raster.channel_list import read_names

MCMICRO = (
    'channel_number,cycle_number,marker_name,Filter\n1,1,DAPI,DAPI\n2,1,CD3,FITC\n3,1,"CD20",Cy3\n'
)
STEINBOCK = (
    "channel,name,keep,ilastik\nIr191,DAPI,1,1\nY89,skipped,0,\nPr141,CD3,1,2\nNd142,CD20,,\n"
)

LISTS = {
    "one.txt": "DAPI\nCD3\nCD20\n",
    "headed.csv": "\ufeffmarker_name\r\nDAPI\r\nCD3\r\nCD20\r\n",
    "markers.csv": MCMICRO,
    "panel.csv": STEINBOCK,
    "panel.tsv": STEINBOCK.replace(",", "\t"),
    "semicolons.csv": MCMICRO.replace(",", ";"),
    "blank.txt": "\nDAPI \n\n CD3\nCD20\n\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_names_are_read_from_what_pipelines_write(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(LISTS[name])
    assert read_names(tmp_path / name) == NAMES


def nameless(folder: Path) -> dict[str, str]:
    tifffile.imwrite(folder / "i.tif", pixels(), photometric="minisblack", tile=(16, 16))
    tifffile.imwrite(folder / "l.tif", cells())
    return {"uri": str(folder / "i.tif"), "labels": "l.tif"}


@pytest.mark.parametrize("kind", ["list", "text"])
def test_an_image_that_names_no_channels_is_given_names(kind: str, tmp_path: Path) -> None:
    given: Any = nameless(tmp_path)
    (tmp_path / "names.txt").write_text(LISTS["one.txt"])
    channels: Any = NAMES if kind == "list" else str(tmp_path / "names.txt")
    assert_is_whole(open_raster(**given, channels=channels))
    info = describe(**given, channels=channels)
    assert info.fingerprint != describe(**given).fingerprint
    assert_is_whole(open_described(info))
    chosen = open_described(info.choosing(["CD20"]))
    assert chosen.channels == ["CD20"]
    np.testing.assert_array_equal(chosen.image[...], pixels()[2:])
    lines = survey(**given, channels=channels).lines
    assert any(line.startswith("channels    3: DAPI, CD3, CD20") for line in lines)
    config = {"cases": {"c": {"source": {**given, "channels": channels}}}}
    preflight.checked(config, "f.yaml")


def test_channels_without_names_are_chosen_by_number(tmp_path: Path) -> None:
    raster = open_raster(**nameless(tmp_path), channels=["2", "0"])
    assert raster.channels == ["0", "2"]


def test_a_text_renames_the_channels_of_a_file(tmp_path: Path) -> None:
    image, labels = tiffs(tmp_path)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    given: Any = {"uri": image, "labels": labels, "channels": str(tmp_path / "names.txt")}
    assert_is_whole(open_described(describe(**given)), ["a", "b", "c"])
    (tmp_path / "names.txt").write_text("CD3\nDAPI\nCD20\n")
    with pytest.raises(hc.InputError, match=r"in another order; leave channels out"):
        open_raster(**given)
    (tmp_path / "names.txt").write_text(LISTS["one.txt"])
    assert_is_whole(open_raster(**given))


@pytest.mark.parametrize(
    ("channels", "told"),
    [
        (["DAPI"], "names none of its 3 channels, and 1 names are given: name each of them"),
        (["DAPI", "CD3", "DAPI"], "'DAPI' appears twice"),
        ("two.txt", "two.txt: names: 2 names for an image of 3 channels"),
        ("nowhere.csv", "nowhere.csv: names of channels cannot be read"),
        ("wide.csv", "wide.csv: its columns are a, b: give one with a column marker_name or name"),
        ("empty.txt", "empty.txt: a channel has no name"),
    ],
)
def test_names_that_do_not_fit_are_told_in_one_line(
    channels: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text("a\nb\n")
    Path("wide.csv").write_text("a,b\n1,2\n")
    Path("empty.txt").write_text("")
    given: Any = nameless(tmp_path)
    with pytest.raises(hc.InputError, match=told) as error:
        open_raster(**given, channels=channels)
    assert "\n" not in str(error.value)
    if channels in ("nowhere.csv", "wide.csv", "empty.txt"):
        config = {"cases": {"c": {"source": {**given, "channels": channels}}}}
        with pytest.raises(hc.InputError, match=rf"source.channels = {channels}: "):
            preflight.checked(config, "f.yaml")


def test_a_change_of_the_names_is_seen(tmp_path: Path) -> None:
    given: Any = nameless(tmp_path)
    names = tmp_path / "names.txt"
    names.write_text(LISTS["one.txt"])
    source = Source(**given, channels=str(names))
    assert str(names) in preflight.watched_files(source)
    before = preflight.files_digest(source)
    names.write_text("a\nb\nc\n")
    assert preflight.files_digest(source) != before


def test_a_store_that_names_its_channels_is_asked_for_some_of_them(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    assert open_raster(tmp_path / "i.zarr", channels=["CD3"]).channels == ["CD3"]
    with pytest.raises(hc.InputError, match="channel 'CD4' is not there"):
        open_raster(tmp_path / "i.zarr", channels=["CD4", "CD8", "CD20"])
