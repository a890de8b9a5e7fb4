"""Nikon ``.nd2``, whose frames hold all channels of a plane."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.raster.formats.format import Stamp, stamp
from harpy_core.raster.readers.scene import Region, Scene, coloured, tiled

_OPEN = 16
"""Number of files that a process keeps open."""

_FRAME = ("C", "Y", "X", "S")
"""Axes of a frame: channels, rows, columns and the samples of a colour."""

_POSITION = "P"

_reading = Lock()
"""Held while frames are found and decoded: all threads share the position in a file."""


@lru_cache(maxsize=_OPEN)
def _opened(path: str, file: Stamp) -> Any:
    """Open a file, once in each process until it changes."""
    import nd2

    # A file that it opened itself it would have closed before the process ends.
    return nd2.ND2File(open(path, "rb"))


def _file(path: str) -> Any:
    return _opened(path, stamp(path))


def names(path: str) -> list[str]:
    """Names of the positions, or their numbers; one number if there are none."""
    file = _file(path)
    points = [p for loop in file.experiment if loop.type == "XYPosLoop" for p in _points(loop)]
    count = file.sizes.get(_POSITION, 1)
    listed = points if len(points) == count else [""] * count
    return [name or str(number) for number, name in enumerate(listed)]


def _points(loop: Any) -> list[str]:
    return [str(point.name or "") for point in loop.parameters.points]


def scene(path: str, number: int) -> Scene:
    """Open a position.

    Raises
    ------
    InputError
        Frames are missing: the acquisition was stopped.
    """
    file = _file(path)
    sizes = {str(axis): int(n) for axis, n in file.sizes.items()}
    frames = _numbers(file)
    lost = len(frames) - int(file.attributes.sequenceCount)
    if lost > 0:
        raise InputError(
            f"{path}: {lost} of its {len(frames)} planes are not there: save it again without them"
        )
    outer = tuple(axis for axis in sizes if axis not in (*_FRAME, _POSITION))
    samples = sizes.get("S", 1)
    plane = (sizes.get("C", 1), sizes["Y"], sizes["X"], samples)
    axes = (*map(str.lower, outer), "c", "y", "x")
    shape = (*(sizes[a] for a in outer), plane[0] * samples, *plane[1:3])
    # Frames that are not compressed are mapped: any part of them can be read alone.
    packed = bool(file.attributes.compressionType) or file.is_legacy

    def read(level: int, region: Region) -> np.ndarray:
        spans = [range(part.start, part.stop) for part in region[: len(outer)]]
        found = []
        for index in itertools.product(*spans):
            place = {**dict(zip(outer, index, strict=True)), _POSITION: number}
            with _reading:
                frame = _file(path).read_frame(frames[_key(place, sizes)])
            found.append(_channels_first(frame.reshape(plane), region[len(outer) :]))
        return np.stack(found).reshape(*map(len, spans), *found[0].shape)

    named = [str(each.channel.name) for each in getattr(file.metadata, "channels", None) or ()]
    return Scene(
        axes,
        [shape],
        np.dtype(file.dtype),
        tuple(n if a in "cyx" else 1 for a, n in zip(axes, shape, strict=True))
        if packed
        else tiled(axes, shape, ("c",)),
        read,
        coloured(named, samples) if len(named) == plane[0] else None,
        _sides(file),
    )


def _sides(file: Any) -> dict[str, float]:
    """Sides of a pixel in micrometres, along the axes that are calibrated."""
    channels = getattr(file.metadata, "channels", None)
    if not channels:
        return {}
    volume = channels[0].volume
    known = zip("xyz", volume.axesCalibration, volume.axesCalibrated, strict=True)
    return {axis: float(side) for axis, side, calibrated in known if calibrated and side > 0}


def _key(place: Mapping[str, int], sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Return a place along the axes of more than one frame, as `_numbers` names it."""
    return tuple(sorted((a, i) for a, i in place.items() if sizes.get(a, 1) > 1))


def _numbers(file: Any) -> dict[tuple[tuple[str, int], ...], int]:
    """Number of the frame at each place."""
    loops: Sequence[Mapping[str, int]] = file.loop_indices or ({},)
    return {_key(place, file.sizes): number for number, place in enumerate(loops)}


def _channels_first(frame: np.ndarray, region: Region) -> np.ndarray:
    """Return a part of a frame along c, y and x, its samples as red, green, blue.

    The file has blue first, as NIS-Elements writes it.
    """
    channels, y, x = region
    part = frame[:, y, x]
    count, samples = part.shape[0], part.shape[3]
    order = [2, 1, 0, *range(3, samples)] if samples >= 3 else list(range(samples))
    chosen = np.arange(count * samples)[channels]
    planes = [part[c // samples, :, :, order[c % samples]] for c in chosen.tolist()]
    return np.stack(planes)
