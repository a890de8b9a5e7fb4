"""Images that OME-TIFF spreads over several files: the whole image, or a refusal."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from stores import NAMES, assert_is_whole, cells, pixels

import harpy_core as hc
from harpy_core.config.models import Source
from harpy_core.planning import preflight
from harpy_core.planning.survey import survey
from harpy_core.raster import describe, open_described, open_raster

XML = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '


def whole(own: str, files: list[str]) -> str:
    """OME-XML of an image with a plane in each file; `own` is the number of its own file."""
    channels = "".join(f'<Channel ID="Channel:0:{i}" Name="{n}"/>' for i, n in enumerate(NAMES))
    planes = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{i}</UUID></TiffData>'
        for i, name in enumerate(files)
    )
    return (
        f'{XML}UUID="urn:uuid:{own}"><Image ID="Image:0" Name="slide"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYCZT" Type="uint16" SizeX="50" SizeY="40" SizeC="3" SizeZ="1" SizeT="1">'
        f"{channels}{planes}</Pixels></Image></OME>"
    )


def only(metadata: str, own: int) -> str:
    """OME-XML of a plane whose metadata are in another file."""
    return f'{XML}UUID="urn:uuid:{own}"><BinaryOnly MetadataFile="{metadata}" UUID="u"/></OME>'


def spread(folder: Path, kind: str) -> list[str]:
    """Write three files of a plane each, which hold the metadata or name the file that does."""
    files = [f"plane{i}.ome.tif" for i in range(3)]
    for i, name in enumerate(files):
        text = {
            "each": whole(str(i), files),
            "first": only(files[0], i) if i else whole("0", files),
            "companion": only("set.companion.ome", i),
        }[kind]
        tifffile.imwrite(
            folder / name, pixels()[i], description=text.encode(), metadata=None, tile=(16, 16)
        )
    if kind == "companion":
        (folder / "set.companion.ome").write_text(whole("c", files))
    tifffile.imwrite(folder / "labels.tif", cells())
    return files


KINDS = ("each", "first", "companion")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plane", range(3))
def test_any_plane_of_a_set_opens_the_whole_image(kind: str, plane: int, tmp_path: Path) -> None:
    path = tmp_path / spread(tmp_path, kind)[plane]
    raster = open_raster(path, labels="labels.tif")
    assert_is_whole(raster)
    assert_is_whole(open_described(describe(path, labels="labels.tif")))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(raster.image))[1], pixels()[1])
    found = hc.aggregate_stats(raster.image, raster.labels, channels=raster.channels)
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(pixels(), cells()).X)
    assert "3 files" in "\n".join(survey(str(path), labels="labels.tif").lines) or kind == KINDS[2]


def test_the_companion_of_a_set_opens_it(tmp_path: Path) -> None:
    spread(tmp_path, "companion")
    path = str(tmp_path / "set.companion.ome")
    assert_is_whole(open_raster(path, labels="labels.tif"))
    preflight.checked(config(path), "f.yaml")
    assert not survey(path, labels="labels.tif").problem


def config(path: str) -> dict[str, Any]:
    return {"cases": {"c": {"source": {"uri": path, "labels": "labels.tif"}}}}


def doors(path: Path) -> list[Callable[[], Any]]:
    return [
        lambda: open_raster(path, labels="labels.tif"),
        lambda: preflight.checked(config(str(path)), "f.yaml"),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", ["plane2.ome.tif", "plane0.ome.tif", "set.companion.ome"])
def test_a_file_that_is_missing_is_named_instead_of_read_as_zeros(
    kind: str, lost: str, tmp_path: Path
) -> None:
    spread(tmp_path, kind)
    if not (tmp_path / lost).exists():
        return
    (tmp_path / lost).unlink()
    for door in doors(tmp_path / "plane1.ome.tif"):
        with pytest.raises(hc.InputError, match=f"{lost}.*beside it") as error:
            door()
        assert "\n" not in str(error.value)


def test_a_file_that_was_renamed_is_still_itself(tmp_path: Path) -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": NAMES}}
    tifffile.imwrite(
        tmp_path / "old.ome.tif", pixels(), photometric="minisblack", metadata=metadata
    )
    tifffile.imwrite(tmp_path / "labels.tif", cells())
    for own, named in (('UUID="urn:uuid:0"', "urn:uuid:0"), ("", "urn:uuid:7")):
        text = whole("0", ["old.ome.tif"]).replace('UUID="urn:uuid:0"', own, 1)
        text = text.replace('PlaneCount="1"', 'PlaneCount="3"').replace("urn:uuid:0<", f"{named}<")
        new = tmp_path / "new.ome.tif"
        tifffile.imwrite(new, pixels(), photometric="minisblack", description=text, metadata=None)
        (tmp_path / "old.ome.tif").unlink(missing_ok=True)
        assert_is_whole(open_raster(new, labels="labels.tif"))


def test_planes_that_a_file_should_have_and_has_not_are_not_zeros(tmp_path: Path) -> None:
    text = whole("0", ["short.ome.tif"]).replace('PlaneCount="1"', 'PlaneCount="2"')
    path = tmp_path / "short.ome.tif"
    tifffile.imwrite(path, pixels()[:2], photometric="minisblack", description=text, metadata=None)
    tifffile.imwrite(tmp_path / "labels.tif", cells())
    with pytest.raises(hc.InputError, match="1 of the 3 planes that its metadata describe"):
        open_raster(path, labels="labels.tif")


def test_a_change_of_any_file_of_the_set_is_seen(tmp_path: Path) -> None:
    files = spread(tmp_path, "companion")
    path = str(tmp_path / files[0])
    source = Source(uri=path, labels=str(tmp_path / "labels.tif"))
    assert len(preflight.watched_files(source)) == 5
    info, before = describe(path, labels="labels.tif"), preflight.files_digest(source)
    text = only("set.companion.ome", 2).encode()
    tifffile.imwrite(tmp_path / files[2], pixels()[0], description=text, metadata=None)
    assert preflight.files_digest(source) != before
    with pytest.raises(hc.InputError, match="changed since"):
        open_described(info)


@pytest.mark.parametrize("text", ["<OME", "<OME/>", "<OME>" + "<a>" * 50, "no xml, OME"])
def test_a_description_that_is_no_ome_xml_changes_nothing(text: str, tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", pixels(), photometric="minisblack", description=text, metadata=None
    )
    tifffile.imwrite(tmp_path / "labels.tif", cells())
    preflight.checked(config(str(tmp_path / "a.tif")), "f.yaml")
    assert_is_whole(open_raster(tmp_path / "a.tif", labels="labels.tif"), ["0", "1", "2"])


def test_the_largest_of_several_series_is_the_slide_if_it_comes_first(tmp_path: Path) -> None:
    """Slides of scanners, with a thumbnail behind them."""
    with tifffile.TiffWriter(tmp_path / "slide.tif") as tiff:
        tiff.write(pixels(), photometric="minisblack", metadata={"axes": "CYX"})
        tiff.write(pixels()[0, ::4, ::4], metadata={"axes": "YX"})
    tifffile.imwrite(tmp_path / "labels.tif", cells())
    path = tmp_path / "slide.tif"
    np.testing.assert_array_equal(open_raster(path, labels="labels.tif").image[...], pixels())
    with pytest.raises(hc.InputError, match=r"which of its images.*labels"):
        open_raster(path, labels=labels_in_two(tmp_path))


def labels_in_two(folder: Path) -> str:
    with tifffile.TiffWriter(folder / "two.tif") as tiff:
        tiff.write(cells(), metadata={"axes": "YX"})
        tiff.write(cells() * 2, metadata={"axes": "YX"})
    return str(folder / "two.tif")
