"""A folder of TIFFs, one a channel: as CODEX, IMC and MCMICRO export them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from stores import NAMES, assert_is_whole, cells, pixels

import harpy_core as hc
from harpy_core.config.models import Config
from harpy_core.planning import inspection, preflight
from harpy_core.raster import describe, open_described, open_raster
from harpy_core.raster.formats import headers, planes, tiff


def folder_of(path: Path, names: list[str] = NAMES, **options: Any) -> tuple[Path, str]:
    """A folder of channels, and the path of their labels."""
    (path / "export").mkdir(parents=True)
    for name, plane in zip(names, pixels(), strict=True):
        tifffile.imwrite(path / "export" / f"reg001_{name}.ome.tif", plane, **options)
    tifffile.imwrite(path / "labels.tif", cells())
    return path / "export", str(path / "labels.tif")


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}], ids=str)
def test_a_folder_of_channels_is_one_image(options: dict[str, Any], tmp_path: Path) -> None:
    folder, labels = folder_of(tmp_path, ["DAPI", "CD3", "CD20"], **options)
    raster = open_raster(folder, labels=labels)
    assert raster.channels == ["CD3", "CD20", "DAPI"]
    order = [1, 2, 0]
    np.testing.assert_array_equal(raster.image[...], pixels()[order])
    np.testing.assert_array_equal(raster.image[1, 3:9], pixels()[2, 3:9])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(raster.image))[-1], pixels()[0])
    found = hc.aggregate_stats(raster.image, raster.labels, channels=raster.channels)
    expected = hc.aggregate_stats(pixels()[order], cells())
    np.testing.assert_array_equal(found.X, expected.X)
    assert list(found.var_names) == raster.channels


def test_a_channel_is_read_tile_by_tile(tmp_path: Path) -> None:
    folder, labels = folder_of(tmp_path, tile=(16, 16))
    assert open_raster(folder, labels=labels).image.chunks == (1, 16, 16)


def test_what_is_described_can_be_opened_and_some_channels_chosen(tmp_path: Path) -> None:
    folder, labels = folder_of(tmp_path, ["1_DAPI", "2_CD3", "10_CD20"])
    info = describe(folder, labels=labels)
    assert info.channels == ["1_DAPI", "2_CD3", "10_CD20"]
    assert_is_whole(open_described(info), info.channels)
    chosen = open_described(info.choosing(["2_CD3"]).choosing(None)).channels
    assert chosen == ["2_CD3"]


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (["s1_DAPI.tif", "s1_CD3.tif"], ["CD3", "DAPI"]),
        (["s1-DAPI-x1.ome.tiff", "s1-CD45RO-x1.ome.tiff"], ["CD45RO", "DAPI"]),
        (["CD3.tif", "CD31.tif", "CD4.tif"], ["CD3", "CD4", "CD31"]),
        (["191Ir_DNA1.tif", "193Ir_DNA2.tif"], ["191Ir_DNA1", "193Ir_DNA2"]),
        (["reg001_DAPI.tif"], ["reg001_DAPI"]),
        (["cyc 1 ch 1.tif", "cyc 1 ch 2.tif", "cyc 2 ch 1.tif"], ["1 ch 1", "1 ch 2", "2 ch 1"]),
    ],
)
def test_channels_are_named_by_what_files_do_not_share(
    names: list[str], channels: list[str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert planes.channel_names(planes.paths_in(str(tmp_path))) == channels


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
def test_a_header_says_what_tifffile_reads(
    dtype: str, byteorder: Any, bigtiff: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    values = np.zeros((7, 300), dtype)
    tifffile.imwrite(path, values, bigtiff=bigtiff, byteorder=byteorder)
    found = headers.header(str(path))
    with tifffile.TiffFile(path) as opened:
        page = opened.pages.first
        kinds = page.imagelength, page.imagewidth, page.bitspersample, page.sampleformat
    assert (found.height, found.width, found.bits, found.kind) == kinds


# Mistakes -----------------------------------------------------------------------------------------


def spoil(folder: Path, how: str) -> None:
    """Make one of the files unlike the others."""
    odd = folder / "reg001_CD4.ome.tif"
    values = {
        "small": pixels()[0, :30],
        "floats": pixels()[0].astype("f4"),
        "stack": pixels(),
    }.get(how)
    if how == "text":
        odd.write_text("no image")
    elif how == "twice":
        tifffile.imwrite(folder / "reg001_CD3.tif", pixels()[1])
    else:
        tifffile.imwrite(
            odd, values, photometric="minisblack", metadata={"axes": "CYX"[-values.ndim :]}
        )


def written(folder: Path, **more: Any) -> dict[str, Any]:
    """A config with one source, as it is read from YAML."""
    return {"cases": {"slide": {"source": {"uri": str(folder), **more}}}}


def source(folder: Path, **more: Any) -> Config:
    return Config.model_validate(written(folder, **more))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("small", r"reg001_CD4.ome.tif.*30"),
        ("floats", r"reg001_CD4.ome.tif.*(float32|32 bits)"),
        ("text", "reg001_CD4.ome.tif.*not a TIFF"),
        ("twice", "'CD3'"),
    ],
)
def test_a_file_that_is_unlike_is_named_before_a_run_and_on_opening(
    how: str, told: str, tmp_path: Path
) -> None:
    folder, labels = folder_of(tmp_path)
    spoil(folder, how)
    for refusing in (
        lambda: preflight.checked(written(folder, labels=labels), "config.yaml"),
        lambda: open_raster(folder, labels=labels),
    ):
        with pytest.raises(hc.InputError, match=told) as error:
            refusing()
        assert "\n" not in str(error.value)
        # A long path is shortened in the middle of a line.
        assert str(folder)[:40] in str(error.value)
    _, problems = inspection.inspect(source(folder, labels=labels))
    assert len(problems) == 1


def test_a_file_of_several_channels_is_refused(tmp_path: Path) -> None:
    folder, labels = folder_of(tmp_path)
    spoil(folder, "stack")
    with pytest.raises(hc.InputError, match=r"CD4.ome.tif: axes are c, y, x"):
        open_raster(folder, labels=labels)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "source.labels = null: it holds no labels"),
        ({"labels": "nowhere.tif"}, "source.labels = nowhere.tif: there is no such path"),
        ({"labels": "labels.tif", "channels": ["CD33"]}, "no such channel: there are CD3, CD20"),
    ],
)
def test_a_mistake_in_the_config_is_seen_before_a_run(
    more: dict[str, Any], told: str, tmp_path: Path
) -> None:
    folder, _ = folder_of(tmp_path)
    with pytest.raises(hc.InputError, match=told):
        preflight.checked(written(folder, **more), "config.yaml")


def test_labels_among_the_channels_are_refused(tmp_path: Path) -> None:
    folder, _ = folder_of(tmp_path)
    tifffile.imwrite(folder / "mask.tif", cells().astype("u2"))
    with pytest.raises(hc.InputError, match=r"mask.tif: labels lie among the channels"):
        open_raster(folder, labels=str(folder / "mask.tif"))


def test_what_is_found_in_a_folder_is_told(tmp_path: Path) -> None:
    folder, labels = folder_of(tmp_path)
    text, problems = inspection.inspect(source(folder, labels=labels))
    assert not problems
    assert "3 TIFFs, one a channel" in text
    assert "channels    3: CD3, CD20, DAPI" in text
    preflight.checked(written(folder, labels=labels), "config.yaml")
    assert len(preflight.watched_files(source(folder, labels=labels).cases["slide"].source)) == 4


@pytest.mark.parametrize("ending", tiff.PLAIN)
def test_the_check_and_the_reader_agree_on_what_a_tiff_is(ending: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / f"i{ending}", pixels(), photometric="minisblack")
    tifffile.imwrite(tmp_path / f"l{ending}", cells())
    given = written(tmp_path / f"i{ending}", labels=f"l{ending}")
    preflight.checked(given, "config.yaml")
    assert_is_whole(open_raster(tmp_path / f"i{ending}", labels=f"l{ending}"), ["0", "1", "2"])
