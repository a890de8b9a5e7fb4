"""Crops on the page: their pixels against NumPy, how many it holds, and what a browser links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
from page_cases import NAMES, content_of, tissue, unpacked, written

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.errors import InputError
from harpy_core.raster import Raster
from harpy_core.viewing import thumbnails
from harpy_core.viewing.pages import write_page

CORNER, SHAPE = (5, 7), (60, 70)


def cut(path: Path, image: np.ndarray, labels: np.ndarray, **options: Any) -> hc.Crops:
    """Crops of the tissue, 11 pixels a side unless asked for otherwise."""
    settings = {"diameter": 11, "channels": NAMES, **options}
    return hc.extract_instances(image, labels, path, **settings)


def held(content: dict[str, Any]) -> dict[int, np.ndarray]:
    """Pixels (c, y, x) of the crops that a page holds, by label."""
    crops = content["crops"]
    shape = (len(crops["instances"]), len(crops["planes"]), crops["height"], crops["width"])
    pixels = unpacked(crops["pixels"], "u1").reshape(shape)
    ids = [int(content["ids"][instance]) for instance in crops["instances"]]
    return dict(zip(ids, pixels, strict=True))


def windows(image: np.ndarray, labels: np.ndarray, height: int, width: int) -> dict[int, Any]:
    """Window (c, y, x) around each instance, of its pixels alone."""
    wide = max(height, width)
    around = ((0, 0), (wide, wide), (wide, wide))
    image, labels = np.pad(image, around), np.pad(labels, around[1:])
    found = {}
    for label in np.unique(labels)[1:]:
        rows, columns = np.nonzero(labels == label)
        top = round(rows.mean() - wide) + wide - height // 2
        left = round(columns.mean() - wide) + wide - width // 2
        inside = (slice(top, top + height), slice(left, left + width))
        found[int(label)] = np.where(labels[inside] == label, image[:, *inside], 0)
    return found


def bright(pixels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Pixels (c, y, x) in 8 bits, from the 1st to the 99.5th percentile of the image's channels."""
    found = np.empty(pixels.shape)
    for channel, plane in enumerate(image):
        bottom, top = np.percentile(plane, [1, 99.5])
        found[channel] = 255 * np.clip((pixels[channel] - bottom) / (top - bottom), 0, 1)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": 3, "batch_size": 5},
        {"dtype": "float32", "scale": 0.125},
        {"diameter": [13, 9], "batch_size": 4, "shard_size": 8},
    ],
)
def test_the_page_holds_the_crops_as_bright_as_the_image(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    image, labels = tissue(CORNER, SHAPE)
    crops = cut(tmp_path / "crops.zarr", image, labels, **options)
    content = content_of(written(tmp_path, image, labels, crops.path))
    found = held(content)
    expected = windows(image, labels, *crops.image.shape[-2:])
    assert list(found) == list(expected)
    assert content["crops"]["planes"] == [0, 1]
    for label, crop in found.items():
        np.testing.assert_allclose(crop, bright(expected[label], image), atol=0.51)


def test_a_pixel_of_a_large_crop_is_the_mean_of_a_square(tmp_path: Path) -> None:
    image, labels = tissue(CORNER, SHAPE)
    crops = cut(tmp_path / "crops.zarr", image, labels, diameter=[150, 71], remove_background=False)
    found = held(content_of(written(tmp_path, image, labels, crops.path)))
    for label, crop in found.items():
        own = crops[label][:, 0].astype(float)
        assert crop.shape == (2, 50, 24)
        expected = np.empty(crop.shape)
        for y, x in np.ndindex(50, 24):
            expected[:, y, x] = own[:, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3].mean((1, 2))
        np.testing.assert_allclose(crop, bright(expected, image), atol=0.51)


def test_crops_of_some_channels_are_shown_in_the_colours_of_theirs(tmp_path: Path) -> None:
    image, labels = tissue(CORNER, SHAPE)
    crops = cut(tmp_path / "crops.zarr", image[1:], labels, channels=NAMES[1:])
    content = content_of(written(tmp_path, image, labels, crops.path))
    assert content["crops"]["planes"] == [1]
    expected = windows(image, labels, 11, 11)
    for label, crop in held(content).items():
        np.testing.assert_allclose(crop, bright(expected[label], image)[1:], atol=0.51)


def test_channels_of_the_crops_are_among_those_that_the_page_holds(tmp_path: Path) -> None:
    _, labels = tissue(CORNER, SHAPE)
    image = np.random.default_rng(1).integers(0, 99, (20, *SHAPE)).astype(np.uint8)
    names = [f"marker {number}" for number in range(20)]
    crops = cut(tmp_path / "crops.zarr", image[17:19], labels, channels=names[17:19])
    instances, table = hc.find_instances(labels), tmp_path / "table.zarr"
    aggregate_to_store(image, labels, table, instances, "mean", names)
    raster, page = Raster.of(image, labels, names), tmp_path / "view.html"
    write_page(raster, table, page, "a", crops=crops.path)
    content = content_of(page)
    shown = content["planes"]
    assert shown == [*names[:10], *names[17:19]]
    assert [shown[place] for place in content["crops"]["planes"]] == names[17:19]
    pixels = unpacked(content["pixels"], "u1").reshape(12, *SHAPE)
    np.testing.assert_allclose(pixels[-1], bright(image[18:19], image[18:19])[0], atol=0.51)


def test_of_a_volume_the_page_holds_the_middle_plane_of_the_crops(tmp_path: Path) -> None:
    plane, flat = tissue(CORNER, SHAPE)
    image, labels = np.stack([plane // 2, plane, plane // 3], 1), np.stack(3 * [flat])
    crops = cut(tmp_path / "crops.zarr", image, labels)
    found = held(content_of(written(tmp_path, image, labels, crops.path)))
    expected = windows(plane, flat, 11, 11)
    assert list(found) == list(expected)
    for label, crop in found.items():
        np.testing.assert_allclose(crop, bright(expected[label], plane), atol=0.51)


def test_the_field_is_the_one_with_the_most_crops(tmp_path: Path) -> None:
    image, labels = tissue((5, 7), (900, 1600))
    _, far = tissue((800, 1500), labels.shape)
    labels += np.where(far % 20 == 5, far + 1000, 0).astype(np.uint32)
    some = np.unique(labels)[-2:]
    crops = cut(tmp_path / "crops.zarr", image, labels, index=some)
    content = content_of(written(tmp_path, image, labels, crops.path))
    assert len(content["ids"]) == 6
    assert list(held(content)) == some.tolist()


def test_the_page_holds_no_more_crops_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, labels = tissue(CORNER, SHAPE)
    crops = cut(tmp_path / "crops.zarr", image, labels)
    monkeypatch.setattr(thumbnails, "MOST_PIXELS", 5 * 2 * 11 * 11 + 100)
    content = content_of(written(tmp_path, image, labels, crops.path))
    assert len(content["ids"]) == 12
    assert list(held(content)) == np.unique(labels)[1:6].tolist()


def test_no_more_chunks_are_read_than_may_be_and_the_fullest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, labels = tissue(CORNER, SHAPE)
    crops = cut(tmp_path / "crops.zarr", image, labels, batch_size=5)
    monkeypatch.setattr(thumbnails, "MOST_READ", 2 * 5 * 2 * 11 * 11 * 2 + 100)
    found = held(content_of(written(tmp_path, image, labels, crops.path)))
    # Of chunks of five, five and two.
    assert list(found) == sorted(crops.instance_id[:10].tolist())


def test_crops_of_other_labels_or_channels_are_refused_in_one_line(tmp_path: Path) -> None:
    image, labels = tissue(CORNER, SHAPE)
    written(tmp_path, image, labels).unlink()
    raster = Raster.of(image, labels, NAMES)
    others = {
        "renumbered": (labels + (labels > 0).astype(np.uint32), NAMES, "not the crops of these"),
        "moved": (np.roll(labels, 1, axis=1), NAMES, "not the crops of these"),
        "renamed": (labels, ["DAPI", "CD4"], "channel 'CD4' is not one of the image"),
    }
    page = tmp_path / "view.html"
    for name, (given, names, told) in others.items():
        crops = cut(tmp_path / name, image, given, channels=names)
        with pytest.raises(InputError, match=told) as refused:
            write_page(raster, tmp_path / "table.zarr", page, "a", crops=crops.path)
        assert "\n" not in str(refused.value)
        assert not page.exists()


def test_a_damaged_crop_is_named(tmp_path: Path) -> None:
    image, labels = tissue(CORNER, SHAPE)
    crops = cut(tmp_path / "crops.zarr", image, labels)
    (crops.path / "image/c/0/0/0/0/0").unlink()
    with pytest.raises(InputError, match="image"):
        written(tmp_path, image, labels, crops.path)


@browser.needed
def test_a_browser_links_crops_with_the_other_views(tmp_path: Path) -> None:
    image, labels = tissue(CORNER, SHAPE)
    crops = cut(tmp_path / "crops.zarr", image, labels, index=np.unique(labels)[1:12])
    page = written(tmp_path, image, labels, crops.path)
    captions = (
        "[...document.querySelectorAll('{} figcaption')].map(one => one.textContent.split(':')[0])"
    )
    strip, aside = captions.format("#crops"), captions.format("#pointed")
    with browser.opened(page) as tab:
        ordered = sorted(crops.instance_id.tolist(), key=lambda i: image[0][labels == i].mean())
        assert tab.value(strip) == [str(label) for label in ordered]
        assert "holds the crops of 11 of these 12" in tab.value("document.body.innerText")
        for plane in ("#plane0", "#plane1"):
            if not tab.value(f"document.querySelector('{plane}').checked"):
                tab.click(plane)
        # What is under the pointer in the image: instance 15, at (y, x) = (9, 23).
        tab.point("#image", (23 / 70, 9 / 60))
        assert tab.value(aside) == ["15"]
        drawn = (
            "[...document.querySelector('#{} canvas').getContext('2d')"
            ".getImageData(0, 0, 11, 11).data]"
        )
        lights = np.array([[0, 0xBF, 0xFF], [0xFF, 0x26, 0xA6]]) / 255
        own = bright(windows(image, labels, 11, 11)[15], image)
        expected = np.minimum(np.einsum("cyx,cr->yxr", own, lights), 255)
        shown = np.reshape(tab.value(drawn.format("pointed")), (11, 11, 4))
        np.testing.assert_allclose(shown[..., :3], expected, atol=1.6)
        assert tab.value("document.querySelectorAll('.mark:not([hidden])').length") == 3
        assert tab.value("document.querySelector('figure.here').dataset.instance") == "1"
        # Clicked: selected in all views; with shift another one, which has no crop.
        tab.click("#image", (23 / 70, 9 / 60))
        assert tab.value(strip) == ["15"]
        last = str(np.unique(labels)[-1])
        tab.click("#image", ((7 + 36 + 4) / 70, (5 + 24 + 4) / 60), shift=True)
        assert sorted(tab.value(strip)) == sorted(["15", last])
        assert "(window)" in tab.value("document.querySelector('#crops').innerText")
        # A crop that is pointed at is marked in the image; one that is clicked is selected alone.
        tab.point("#crops figure[data-instance='1']")
        style = "document.querySelector('.ring').style"
        ring = tab.value(f"[{style}.left, {style}.top]")
        place = [float(share.rstrip("%")) / 100 for share in ring]
        np.testing.assert_allclose(place, [(7 + 12 + 4) / 70, (5 + 4) / 60], atol=1e-4)
        tab.click("#crops figure[data-instance='1']")
        assert tab.value(strip) == ["15"]
        # A channel that is switched off in the image is off in the crops.
        tab.click("#plane0")
        tab.click("#plane1")
        shown = np.reshape(tab.value(drawn.format("crops")), (11, 11, 4))
        assert not shown[..., :3].any()
        assert len(tab.screenshot("view")) > 10_000
