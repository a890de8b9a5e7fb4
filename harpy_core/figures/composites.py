"""The tissue and its segmentation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from skimage.segmentation import find_boundaries

from harpy_core.figures import style

if TYPE_CHECKING:
    from harpy_core.raster import Raster

# Distinct for any kind of colour vision; where channels overlap their light adds up.
_LIGHT = {"cyan": (0.0, 0.75, 1.0), "magenta": (1.0, 0.15, 0.65), "yellow": (1.0, 0.85, 0.0)}
_CONTEXT = 1536
_DETAIL = 320


@dataclass(frozen=True, slots=True)
class _Field:
    """A rectangle of the image, in pixels."""

    y: int
    x: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def tissue(
    raster: Raster,
    out_png: str | os.PathLike[str],
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draw a part of the image as a composite, and a detail with the instances' outlines.

    The picture shows those of the first three channels that hold bright structures in the part that
    is read (at most 1,536 × 1,536 pixels around the middle), and the middle plane of a volume.

    Parameters
    ----------
    raster
        Image (c, y, x) or (c, z, y, x), labels (y, x) or (z, y, x), names of the channels.
    out_png
        Path of the picture.
    ranges
        Values of channels, by name, that are shown darkest and brightest; those of others, or of
        all, are percentiles of the part that is read.
    """
    ranges = ranges or {}
    shape = raster.labels.shape[-2:]
    context = _middle(shape, _CONTEXT)
    labels = _plane(raster.labels, context)
    planes = {
        name: _plane(raster.image, context, channel)
        for channel, name in enumerate(raster.channels[: len(_LIGHT)])
    }
    planes = {name: p for name, p in planes.items() if _has_bright_parts(p)} or planes
    names = list(planes)
    picture = composite(list(planes.values()), [ranges.get(name) for name in names])
    detail = fullest(labels, min(_DETAIL, max(labels.shape) // 2 + 1))
    ratios = context.width / context.height, detail.width / detail.height
    with style.applied():
        figure = style.new_figure(11, 1.75 + 9.2 / sum(ratios))
        style.add_title(
            figure,
            "Tissue and segmentation",
            f"{shape[1]:,} × {shape[0]:,} pixels, {len(raster.channels)} channels"
            f" · shown: {', '.join(names)}",
        )
        left, right = figure.subplots(1, 2, width_ratios=ratios)
        _show(left, picture, context)
        left.set_title("Composite")
        left.add_patch(_frame(context, detail))
        _name_channels(left, names)
        _show(right, outlined(picture, labels, detail), _inside(context, detail))
        count = np.count_nonzero(np.unique(labels[detail.slices]))
        right.set_title(f"Detail, with the outlines of {count:,} instances")
        style.save(figure, out_png)


def _has_bright_parts(plane: np.ndarray) -> bool:
    """Whether the pixels above the middle one spread wider than those below.

    A channel that is mostly bright would drown the others in its own light.
    """
    low, middle, high = np.nanpercentile(plane, [1, 50, 99])
    return bool(high - middle > middle - low)


def composite(
    planes: list[np.ndarray], ranges: Sequence[tuple[float, float] | None] | None = None
) -> np.ndarray:
    """Combine planes of up to three channels into one picture, each in its own light.

    Parameters
    ----------
    planes
        Arrays (y, x) of any real dtype, at least one.
    ranges
        Values that are shown darkest and brightest in each; None takes them from the plane.

    Returns
    -------
    Array (y, x, 3), float64, from 0 to 1.
    """
    picture = np.zeros((*planes[0].shape, 3))
    ranges = ranges or [None] * len(planes)
    for plane, light, shown in zip(planes, _LIGHT.values(), ranges, strict=False):
        bottom, top = style.above(*shown) if shown else style.display_range(plane)
        brightness = np.clip((plane.astype(np.float64) - bottom) / (top - bottom), 0, 1)
        picture += np.nan_to_num(brightness)[..., None] * light
    return np.clip(picture, 0, 1)


def fullest(labels: np.ndarray, size: int) -> _Field:
    """Find the square of `size` pixels, on a grid of half that pitch, with the most instances.

    Ties go to the square nearest the middle; smaller labels are taken whole.
    """
    height, width = (min(size, length) for length in labels.shape)
    rows = _starts(labels.shape[0], height)
    columns = _starts(labels.shape[1], width)
    fields = [_Field(int(y), int(x), height, width) for y in rows for x in columns]
    middle = (labels.shape[0] - height) / 2, (labels.shape[1] - width) / 2

    def rank(field: _Field) -> tuple[int, float]:
        off = abs(field.y - middle[0]) + abs(field.x - middle[1])
        return -len(np.unique(labels[field.slices])), off

    return min(fields, key=rank)


def outlined(picture: np.ndarray, labels: np.ndarray, field: _Field) -> np.ndarray:
    """Enlarge the field of a picture, so that white outlines lie between the pixels."""
    factor = max(1, 960 // max(field.height, field.width))
    enlarged = picture[field.slices].repeat(factor, 0).repeat(factor, 1)
    label_field = labels[field.slices].repeat(factor, 0).repeat(factor, 1)
    enlarged[find_boundaries(label_field, mode="inner")] = 1.0
    return enlarged


def _middle(shape: tuple[int, ...], size: int) -> _Field:
    height, width = (min(size, length) for length in shape)
    return _Field((shape[0] - height) // 2, (shape[1] - width) // 2, height, width)


def _starts(length: int, size: int) -> np.ndarray:
    count = max(1, round((length - size) / (size / 2)) + 1)
    return np.linspace(0, length - size, count).astype(int)


def _inside(outer: _Field, inner: _Field) -> _Field:
    return _Field(outer.y + inner.y, outer.x + inner.x, inner.height, inner.width)


def _plane(array: np.ndarray, field: _Field, channel: int | None = None) -> np.ndarray:
    """Read the field of a channel's (or the labels') only or middle plane."""
    spatial = array.ndim - (channel is not None)
    index: tuple[int | slice, ...] = field.slices
    if spatial == 3:
        index = (array.shape[-3] // 2, *index)
    if channel is not None:
        index = (channel, *index)
    return np.asarray(array[index])


def _show(axes: Axes, picture: np.ndarray, field: _Field) -> None:
    bottom, right = field.y + field.height, field.x + field.width
    axes.imshow(
        picture,
        extent=(field.x, right, bottom, field.y),
        interpolation="antialiased" if picture.shape[0] > field.height else "nearest",
    )
    axes.set_xlabel("x (pixels)")
    axes.set_ylabel("y (pixels)")
    axes.locator_params(nbins=5)


def _frame(context: _Field, detail: _Field) -> Rectangle:
    corner = (context.x + detail.x, context.y + detail.y)
    frame = Rectangle(corner, detail.width, detail.height, fill=False, linewidth=1.4)
    frame.set(edgecolor="white", clip_on=False)
    return frame


def _name_channels(axes: Axes, names: list[str]) -> None:
    for number, (name, light) in enumerate(zip(names, _LIGHT.values(), strict=False)):
        axes.text(
            0.02,
            0.975 - 0.05 * number,
            name,
            transform=axes.transAxes,
            color=light,
            size=9,
            weight="bold",
            va="top",
            bbox={"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5},
        )
