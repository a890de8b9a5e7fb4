"""A page of crops."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harpy_core.errors import InputError
from harpy_core.figures import style

if TYPE_CHECKING:
    from harpy_core.extract.crops import Crops

_CHANNELS = 8
_COLUMNS = 12
_ROWS = 9
# In inches: a crop, and the step to the next; the heads of the page and of a block of rows.
_SIDE = 0.8
_PITCH = 0.84
_HEAD = 0.62
_BLOCK_HEAD = 0.3


@dataclass(frozen=True, slots=True)
class _Selection:
    """Crops to show: ids (n,), planes (n, c, y, x), names (c,)."""

    ids: np.ndarray
    planes: np.ndarray
    names: list[str]


def gallery(
    crops: Crops,
    out_png: str | os.PathLike[str],
    seed: int = 0,
    count: int | None = None,
    ids: Sequence[int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draw a page of crops: a column for each instance, a row for each channel.

    A channel has one brightness for all crops, so they can be compared; its range is shown beside
    it. Of many channels, eight spread over the list are shown; of a volume, the middle plane.

    Parameters
    ----------
    crops
        Crops, as `harpy_core.open_crops` returns them.
    out_png
        Path of the picture.
    seed
        Seed of the choice of instances.
    count
        Number of instances; None for as many as fill a page.
    ids
        Instances to show instead of a choice, in this order.
    ranges
        Values of channels, by name, that are shown black and white; those of others, or of all,
        are percentiles of the crops that are shown.

    Raises
    ------
    InputError
        An id in `ids` has no crop, or there is no crop at all.
    """
    channels = _spread(len(crops.channels), _CHANNELS)
    blocks = max(1, _ROWS // len(channels))
    positions = _positions(
        crops.instance_id, ids, _COLUMNS * blocks if count is None else count, seed
    )
    selection = _read(crops, positions, channels)
    with style.applied():
        _draw_page(selection, len(crops.instance_id), len(crops.channels), ranges or {}, out_png)


def _spread(total: int, most: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, total - 1, min(total, most)).tolist()})


def _positions(known: np.ndarray, ids: Sequence[int] | None, count: int, seed: int) -> list[int]:
    known = np.asarray(known)
    if not len(known):
        raise InputError("crops hold 0 instances: there is nothing to show")
    if ids is None:
        chosen = np.random.default_rng(seed).permutation(len(known))[:count]
        return [int(position) for position in np.sort(chosen)]
    position_of = {int(name): position for position, name in enumerate(known)}
    missing = [name for name in ids if int(name) not in position_of]
    if missing:
        raise InputError(f"instance {missing[0]}: has no crop; choose among instance_id")
    return [position_of[int(name)] for name in ids]


def _read(crops: Crops, positions: list[int], channels: list[int]) -> _Selection:
    middle = crops.image.shape[2] // 2
    planes = [np.asarray(crops.image[p, :, middle])[channels] for p in positions]
    return _Selection(
        np.asarray(crops.instance_id)[positions],
        np.stack(planes),
        [crops.channels[c] for c in channels],
    )


def _draw_page(
    shown: _Selection,
    instances: int,
    channels: int,
    known: Mapping[str, tuple[float, float]],
    out_png: str | os.PathLike[str],
) -> None:
    columns = min(_COLUMNS, len(shown.ids))
    blocks = math.ceil(len(shown.ids) / columns)
    ranges = [
        style.above(*known[name]) if name in known else _brightness(shown.planes[:, c])
        for c, name in enumerate(shown.names)
    ]
    labels = [
        f"{name}\n{_number(bottom)} – {_number(top)}"
        for name, (bottom, top) in zip(shown.names, ranges, strict=True)
    ]
    left = 0.3 + 0.078 * max(len(line) for label in labels for line in label.split("\n"))
    block_height = len(labels) * _PITCH + _BLOCK_HEAD
    width = left + columns * _PITCH + 0.15
    figure = style.new_figure(width, _HEAD + blocks * block_height + 0.1, layout=False)
    tall, wide = shown.planes.shape[-2:]
    what = f"{len(shown.ids):,} of {instances:,} instances · {tall} × {wide} pixels"
    if len(labels) < channels:
        what += f" · {len(labels)} of {channels} channels"
    style.add_title(figure, "Crops", what)
    for number, (instance, planes) in enumerate(zip(shown.ids, shown.planes, strict=True)):
        block, column = divmod(number, columns)
        for row, (plane, (bottom, top)) in enumerate(zip(planes, ranges, strict=True)):
            across = left + column * _PITCH
            down = _HEAD + block * block_height + _BLOCK_HEAD + row * _PITCH
            axes = _place(figure, across, down)
            axes.imshow(plane, cmap="gray", vmin=bottom, vmax=top)
            if row == 0:
                axes.set_title(f"{instance}", size=8, weight="normal", loc="center", pad=3)
            if column == 0:
                axes.set_ylabel(labels[row], rotation=0, ha="right", va="center", size=8.5)
    style.save(figure, out_png)


def _brightness(planes: np.ndarray) -> tuple[float, float]:
    """Values shown black and white; the brightest is taken from inside instances alone."""
    bottom, _ = style.display_range(planes)
    _, top = style.display_range(planes[planes != 0], high=99.5)
    return bottom, max(top, bottom + 1e-9)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _place(figure: Figure, across: float, down: float) -> Axes:
    """Add axes of one crop, given its upper left corner in inches from the figure's."""
    width, height = figure.get_size_inches()
    bottom = height - down - _SIDE
    axes = figure.add_axes((across / width, bottom / height, _SIDE / width, _SIDE / height))
    style.bare(axes)
    return axes
