"""Composites of tissue, and galleries of crops."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pictures import assert_picture

from harpy_core import figures
from harpy_core.errors import InputError
from harpy_core.figures import composites, style
from harpy_core.figures.composites import composite, fullest, outlined
from harpy_core.figures.galleries import _positions, _spread

# Tissue


def test_detail_is_where_the_instances_are(labels: np.ndarray) -> None:
    field = fullest(labels, 100)
    assert field.x >= 100
    assert fullest(np.zeros((30, 40), np.uint8), 100).slices == (slice(0, 30), slice(0, 40))


def test_composite_adds_light_between_the_percentiles() -> None:
    ramp = np.linspace(0, 1000, 10_000).reshape(100, 100)
    picture = composite([ramp, np.zeros((100, 100), np.uint8)])
    assert picture.shape == (100, 100, 3)
    assert picture.min() == 0
    assert picture.max() == 1
    assert not np.any(composite([np.full((5, 5), 7, np.uint16)]))


def test_composite_adds_light_between_values_that_are_known() -> None:
    ramp = np.arange(200, dtype=np.uint16).reshape(10, 20)
    picture = composite([ramp], [(50, 150)])
    expected = np.clip((ramp.astype(float) - 50) / 100, 0, 1)
    np.testing.assert_allclose(picture[..., 2], expected)
    np.testing.assert_array_equal(
        composite([ramp, ramp], [None, (0, 9)]),
        composite([ramp, ramp], [style.display_range(ramp), (0, 9)]),
    )
    assert not np.any(composite([np.full((5, 5), 7, np.uint16)], [(7, 7)]))


def test_gallery_shows_values_that_are_known(tmp_path: Path, crops: Any) -> None:
    drawn = []
    for ranges in (None, {}, {crops.channels[1]: (0.0, 10.0)}):
        figures.gallery(crops, tmp_path / "crops.png", ids=[8, 2], ranges=ranges)
        drawn.append(assert_picture(tmp_path / "crops.png"))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_composite_survives_nan() -> None:
    plane = np.ones((10, 10))
    plane[0, 0] = np.nan
    plane[1] = 5
    assert np.isfinite(composite([plane])).all()


def test_outlines_surround_each_instance(labels: np.ndarray) -> None:
    picture = np.zeros((*labels.shape, 3))
    drawn = outlined(picture, labels, fullest(labels, 100))
    factor = drawn.shape[0] // 100
    inside = labels[fullest(labels, 100).slices].repeat(factor, 0).repeat(factor, 1) > 0
    assert drawn.max() == 1
    assert not drawn[~inside].any()


def test_only_the_middle_of_a_huge_image_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, ...]] = []

    class Huge:
        def __init__(self, *shape: int) -> None:
            self.shape, self.ndim = shape, len(shape)

        def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
            shape = tuple(s.stop - s.start for s in index if isinstance(s, slice))
            read.append(shape)
            return np.arange(np.prod(shape)).reshape(shape) % 500

    size = 100_000
    raster: Any = SimpleNamespace(
        image=Huge(100, 3, size, size),
        labels=Huge(3, size, size),
        channels=[f"channel {i}" for i in range(100)],
    )
    monkeypatch.setattr(composites, "_CONTEXT", 128)
    figures.tissue(raster, tmp_path / "tissue.png")
    assert read == [(128, 128)] * 4
    assert_picture(tmp_path / "tissue.png")


# Gallery


def test_gallery_shows_the_ids_asked_for_in_their_order(tmp_path: Path, crops: Any) -> None:
    assert _positions(crops.instance_id, [8, 2], 12, 0) == [2, 0]
    figures.gallery(crops, tmp_path / "crops.png", ids=[8, 2])
    assert_picture(tmp_path / "crops.png")
    with pytest.raises(InputError, match="instance 4: has no crop"):
        figures.gallery(crops, tmp_path / "none.png", ids=[4])


def test_gallery_chooses_by_its_seed(crops: Any) -> None:
    first, again, other = (_positions(crops.instance_id, None, 9, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 9


def test_gallery_of_no_crops_is_refused(tmp_path: Path, crops: Any) -> None:
    crops.instance_id = crops.instance_id[:0]
    with pytest.raises(InputError, match="0 instances"):
        figures.gallery(crops, tmp_path / "crops.png")


def test_many_channels_are_spread_over_eight_rows(tmp_path: Path) -> None:
    assert _spread(100, 8)[0] == 0
    assert _spread(100, 8)[-1] == 99
    assert _spread(3, 8) == [0, 1, 2]
    crops: Any = SimpleNamespace(
        image=np.random.default_rng(0).random((3, 100, 2, 8, 8)),
        instance_id=np.array([2**63, 5, 6], np.uint64),
        channels=[f"channel {i}" for i in range(100)],
        diameter=8,
    )
    figures.gallery(crops, tmp_path / "crops.png")
    assert_picture(tmp_path / "crops.png")


def test_empty_channels_are_dark() -> None:
    assert style.display_range(np.zeros((4, 4), np.uint16)) == (0, 1)
    assert style.display_range(np.array([])) == (0, 1)
