"""Files of microscopes, where their readers are installed; else what to install."""

from __future__ import annotations

import importlib.util
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import microscopes as made
import numpy as np
import pytest
import tifffile
from stores import NAMES, assert_is_whole, assert_passes_the_check, cells, pixels

import harpy_core as hc
from harpy_core.planning import preflight
from harpy_core.raster import describe, open_described, open_raster
from harpy_core.raster.formats import microscopes
from harpy_core.raster.readers import scene
from harpy_core.raster.scene_array import SceneArray, number_of

PACKAGES = {"czi": "pylibCZIrw", "lif": "liffile", "nd2": "nd2", "slide": "openslide"}


def needs(extra: str) -> None:
    pytest.importorskip(PACKAGES[extra])


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


@pytest.mark.parametrize("ending", microscopes.READERS)
def test_a_reader_that_is_not_installed_is_named(
    ending: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = microscopes.READERS[ending]
    found = importlib.util.find_spec
    monkeypatch.setattr(
        microscopes, "find_spec", lambda name: None if name in reader.packages else found(name)
    )
    path = tmp_path / f"slide{ending.upper()}"
    path.write_bytes(b"anything")
    for door in doors(path):
        with pytest.raises(hc.InputError, match=r"pip install 'harpy-core\[") as error:
            door()
        assert f"[{reader.extra}]" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", microscopes.UNREAD)
def test_what_nothing_reads_is_to_be_exported(ending: str, labels: str, tmp_path: Path) -> None:
    path = tmp_path / f"slide{ending}"
    path.write_bytes(b"anything")
    for door in doors(path):
        with pytest.raises(hc.InputError, match=rf"\{ending} is not read: export it as OME-TIFF"):
            door()


@pytest.mark.parametrize("ending", microscopes.READERS)
def test_a_file_that_is_none_of_its_kind_is_refused_in_one_line(
    ending: str, labels: str, tmp_path: Path
) -> None:
    needs(microscopes.READERS[ending].extra)
    path = tmp_path / f"slide{ending}"
    path.write_bytes(b"anything")
    with pytest.raises(hc.InputError, match="cannot be opened") as error:
        open_raster(path, labels=labels)
    assert "\n" not in str(error.value)


def czi(path: Path, scenes: dict[int, np.ndarray], names: list[str], *, side: int = 30) -> None:
    """Write scenes (t, c, y, x, samples) in tiles, each scene at a place of its own."""
    written = pytest.importorskip("pylibCZIrw.czi")
    with written.create_czi(str(path)) as file:
        for number, values in scenes.items():
            high, wide = values.shape[2:4]
            for t, c, y, x in itertools.product(
                *map(range, values.shape[:2]), range(0, high, side), range(0, wide, side)
            ):
                file.write(
                    values[t, c, y : y + side, x : x + side],
                    location=(x - 7 + 500 * number, y + 11),
                    plane={"T": t, "C": c, "Z": 0},
                    scene=number,
                )
        scale = {f"scale_{axis}": 5e-7 for axis in "yx"}
        file.write_metadata("slide", channel_names=dict(enumerate(names)), **scale)


def written_czi(path: Path) -> None:
    czi(path, {0: pixels()[None, ..., None]}, NAMES)


def written_lif(path: Path) -> None:
    made.lif(path, {"series": ("cyx", pixels(), NAMES)})


def written_nd2(path: Path) -> None:
    made.nd2(path, pixels().transpose(1, 2, 0)[None, None], NAMES)


WRITERS: dict[str, Callable[[Path], None]] = {
    "czi": written_czi,
    "lif": written_lif,
    "nd2": written_nd2,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_channels_are_read_as_they_were_written(kind: str, labels: str, tmp_path: Path) -> None:
    needs(kind)
    path = tmp_path / f"slide.{kind}"
    WRITERS[kind](path)
    assert_passes_the_check(path, labels=labels)
    raster = open_described(describe(path, labels=labels))
    assert_is_whole(raster)
    assert raster.spacing == pytest.approx((0.5, 0.5))
    assert_is_whole(open_raster(path, labels=labels, channels=["CD3", "DAPI", "CD20"]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(raster.image))[1], pixels()[1])
    found = hc.aggregate_stats(raster.image, raster.labels, channels=raster.channels)
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(pixels(), cells()).X)


KEYS: list[Any] = [
    np.s_[1, :, :],
    np.s_[-1, :, 5],
    np.s_[:, 3:39:3, ::-1],
    np.s_[1:, 7, 2:],
    np.s_[2, 30:4:-7, 49],
    np.s_[:0, :, :],
]


@pytest.mark.parametrize("kind", WRITERS)
def test_any_part_is_read_by_blocks_of_any_size(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(kind)
    path = tmp_path / f"slide.{kind}"
    WRITERS[kind](path)
    monkeypatch.setattr(scene, "SIDE", 16)
    found = SceneArray(str(path), kind)
    assert found.chunks[-2:] == (16, 16)
    for c, y, x in KEYS:
        # Zeiss has planes of one pixel along t and z too.
        got = found[0, c, 0, y, x] if kind == "czi" else found[c, y, x]
        np.testing.assert_array_equal(got, pixels()[c, y, x])


def colour() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (40, 51, 3)).astype("u1")


def coloured_czi(path: Path, stored: np.ndarray) -> None:
    czi(path, {0: stored[None, None]}, ["H&E"])


def coloured_lif(path: Path, stored: np.ndarray) -> None:
    made.lif(path, {"series": ("yxs", stored, ["Blue", "Green", "Red"])})


def coloured_nd2(path: Path, stored: np.ndarray) -> None:
    made.nd2(path, stored[None, None], ["H&E"])


COLOURED = {"czi": coloured_czi, "lif": coloured_lif, "nd2": coloured_nd2}


@pytest.mark.parametrize("kind", COLOURED)
def test_a_colour_image_is_red_green_blue_where_the_file_has_blue_first(
    kind: str, tmp_path: Path
) -> None:
    needs(kind)
    path = tmp_path / f"slide.{kind}"
    COLOURED[kind](path, np.ascontiguousarray(colour()[..., ::-1]))
    tifffile.imwrite(tmp_path / "labels.tif", np.ones((40, 51), "u1"))
    raster = open_raster(path, labels="labels.tif")
    np.testing.assert_array_equal(raster.image[...], np.moveaxis(colour(), -1, 0))
    assert [name.lower().split()[-1] for name in raster.channels] == ["red", "green", "blue"]
    np.testing.assert_array_equal(
        raster.image[1:, 3:5, 7:30:2], colour()[3:5, 7:30:2, 1:].transpose(2, 0, 1)
    )


def two_images(kind: str, path: Path) -> None:
    """Write pixels, and pixels + 1, as two images, each at two time points (+ 2)."""
    stack = np.stack([np.stack([pixels() + i + 2 * t for i in range(2)]) for t in range(2)])
    if kind == "czi":
        czi(path, {i: stack[:, i, ..., None] for i in range(2)}, NAMES)
    elif kind == "lif":
        made.lif(
            path,
            {n: ("tcyx", np.ascontiguousarray(stack[:, i]), NAMES) for i, n in enumerate("ab")},
        )
    else:
        made.nd2(path, stack.transpose(0, 1, 3, 4, 2), NAMES, positions=["a", "b"])


@pytest.mark.parametrize("kind", WRITERS)
def test_an_image_and_a_time_point_are_chosen(kind: str, labels: str, tmp_path: Path) -> None:
    needs(kind)
    path = tmp_path / f"slide.{kind}"
    two_images(kind, path)
    with pytest.raises(hc.InputError, match=r"which of its images\? 0 '\w', 1 '\w': name one"):
        open_raster(path, labels=labels)
    with pytest.raises(hc.InputError, match="it has 2 time points: choose one with t: 0 to 1"):
        open_raster(path, image="1", labels=labels)
    for name, t in itertools.product((0, 1), (0, 1)):
        raster = open_raster(path, image=str(name), labels=labels, t=t)
        np.testing.assert_array_equal(raster.image[...], pixels() + name + 2 * t)
    if kind != "czi":
        raster = open_raster(path, image="b", labels=labels, t=0)
        np.testing.assert_array_equal(raster.image[...], pixels() + 1)


@pytest.mark.parametrize(("name", "number"), [("b", 1), ("0", 0), ("1", 1)])
def test_an_image_is_meant_by_its_name_or_number(name: str, number: int) -> None:
    assert number_of("a.lif", ["a", "b"], name) == number
    with pytest.raises(hc.InputError, match=r"a\.lif: no image 'c'; found a, b, or 0 to 1"):
        number_of("a.lif", ["a", "b"], "c")


def test_channels_of_different_types_are_refused(labels: str, tmp_path: Path) -> None:
    czi_of = pytest.importorskip("pylibCZIrw.czi")
    path = tmp_path / "slide.czi"
    with czi_of.create_czi(str(path)) as file:
        for c, dtype in enumerate(("u1", "u2")):
            file.write(cells().astype(dtype)[..., None], plane={"T": 0, "C": c, "Z": 0})
    with pytest.raises(hc.InputError, match="its pixels are Gray16, Gray8; one kind of"):
        open_raster(path, labels=labels)


def test_pixels_between_the_tiles_of_a_mosaic_are_zero(labels: str, tmp_path: Path) -> None:
    written = pytest.importorskip("pylibCZIrw.czi")
    path, expected = tmp_path / "slide.czi", np.zeros((40, 50), "u2")
    with written.create_czi(str(path)) as file:
        for y, x in ((0, 0), (20, 30)):
            tile = pixels()[0, y : y + 20, x : x + 20]
            expected[y : y + 20, x : x + 20] = tile
            file.write(tile[..., None], location=(x, y), plane={"T": 0, "C": 0, "Z": 0})
    np.testing.assert_array_equal(open_raster(path, labels=labels).image[0], expected)


def test_planes_that_were_not_acquired_are_told(labels: str, tmp_path: Path) -> None:
    needs("nd2")
    path = tmp_path / "slide.nd2"
    stack = np.stack([pixels().transpose(1, 2, 0)[None]] * 3)
    made.nd2(path, stack, NAMES, missing=1)
    with pytest.raises(hc.InputError, match="1 of its 3 planes are not there"):
        open_raster(path, labels=labels, t=0)


def test_a_scan_along_z_and_a_spectrum_are_read_as_stated(labels: str, tmp_path: Path) -> None:
    needs("lif")
    path = tmp_path / "slide.lif"
    spectrum = np.ascontiguousarray(pixels())
    made.lif(path, {"xz": ("czx", pixels(), NAMES), "spectrum": ("λyx", spectrum, ["Gray"])})
    for name, found in (("xz", "c, z, x"), ("spectrum", "λ, y, x")):
        with pytest.raises(hc.InputError, match=f"axes are {found} .* state them"):
            open_raster(path, image=name, labels=labels)
        raster = open_raster(path, image=name, labels=labels, axes="cyx")
        np.testing.assert_array_equal(raster.image[...], pixels())


SHADE = (0xD0, 0xE0, 0xF0)
"""Colour of what was not scanned."""


@pytest.fixture
def slide(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A slide of four by two images, of which one was not scanned, and its pixels."""
    needs("slide")
    values = np.random.default_rng(2).integers(0, 256, (128, 256, 3)).astype("u1")
    made.mrxs(tmp_path / "slide.mrxs", [values, values[::2, ::2]], 64, left_out=[5])
    expected = values.copy()
    expected[64:, 64:128] = SHADE
    return tmp_path / "slide.mrxs", np.moveaxis(expected, -1, 0)


def test_a_slide_of_3dhistech_is_read_as_it_was_written(
    slide: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = slide
    monkeypatch.setattr(scene, "SIDE", 50)
    mask = np.zeros((128, 256), "u1")
    mask[20:90, 30:200] = 3
    tifffile.imwrite(tmp_path / "labels.tif", mask)
    labels = str(tmp_path / "labels.tif")
    assert_passes_the_check(path, labels=labels)
    raster = open_described(describe(path, labels=labels))
    assert raster.channels == ["red", "green", "blue"]
    assert raster.spacing == (0.5, 0.5)
    np.testing.assert_array_equal(raster.image[...], expected)
    np.testing.assert_array_equal(raster.image[1:, 60:70, 63:130:3], expected[1:, 60:70, 63:130:3])
    found = hc.aggregate_stats(raster.image, raster.labels, channels=raster.channels)
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(expected, mask).X)


def test_a_level_of_a_slide_is_chosen(slide: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, expected = slide
    tifffile.imwrite(tmp_path / "labels.tif", np.ones((64, 128), "u1"))
    raster = open_raster(path, labels=str(tmp_path / "labels.tif"), level=1)
    assert raster.spacing == (1.0, 1.0)
    seen = raster.image[:, :32]
    np.testing.assert_array_equal(seen, expected[:, :64:2, ::2])
    with pytest.raises(hc.InputError, match="no level 2; there are 0 to 1"):
        open_raster(path, labels=str(tmp_path / "labels.tif"), level=2)


def test_a_slide_is_another_when_a_file_of_its_folder_changes(
    slide: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, _ = slide
    tifffile.imwrite(tmp_path / "labels.tif", np.ones((128, 256), "u1"))
    first = describe(path, labels=str(tmp_path / "labels.tif"))
    assert len(microscopes.watched(str(path))) == 4
    data = path.with_suffix("") / "Data0000.dat"
    data.write_bytes(data.read_bytes() + b"\0")
    assert describe(path, labels=str(tmp_path / "labels.tif")).fingerprint != first.fingerprint
    with pytest.raises(hc.InputError, match="changed"):
        open_described(first)


def test_a_slide_that_lost_its_images_is_refused_in_one_line(
    slide: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, _ = slide
    tifffile.imwrite(tmp_path / "labels.tif", np.ones((128, 256), "u1"))
    data = path.with_suffix("") / "Data0000.dat"
    raster = open_raster(path, labels=str(tmp_path / "labels.tif"))
    data.write_bytes(data.read_bytes()[:400])
    with pytest.raises(hc.InputError) as error:
        hc.aggregate_stats(raster.image, raster.labels)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_files_that_a_slide_of_hamamatsu_names_belong_to_it(tmp_path: Path) -> None:
    text = "[Virtual Microscope Specimen]\nImageFile=a.jpg\nMapFile=b.jpg\nNoLayers=1\n"
    (tmp_path / "slide.vms").write_text(text)
    (tmp_path / "a.jpg").write_bytes(b"")
    found = microscopes.watched(str(tmp_path / "slide.vms"))
    assert found == [str(tmp_path / "slide.vms"), str(tmp_path / "a.jpg")]
