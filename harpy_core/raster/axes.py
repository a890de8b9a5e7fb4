"""Names of the axes that images and labels may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harpy_core.errors import InputError
from harpy_core.raster.views import AxesView

SPATIAL = ("z", "y", "x")

ALL = {"images": ("c", *SPATIAL), "labels": SPATIAL, "channels": SPATIAL}
"""Axes of images, labels and single channels, in the jobs' order; z may be left out."""

_REMEDIES = {
    "images": "if they are others of c, z, y, x and t, state them, such as axes: zcyx; else "
    "rewrite it as c, y, x or c, z, y, x",
    "labels": "name other labels, or rewrite it as y, x or z, y, x",
    "channels": "a folder of channels has one in each file: give the path of one TIFF, or split it",
}


def of(kind: str, count: int) -> tuple[str, ...]:
    """Names of the axes of an array that has none for them.

    Parameters
    ----------
    kind
        ``images`` or ``labels``.
    count
        Number of its axes.
    """
    known = ALL[kind]
    if count == len(known) - 1:
        return tuple(axis for axis in known if axis != "z")
    return known[-count:] if count <= len(known) else ("?",) * (count - len(known)) + known


def named(
    kind: str, found: Sequence[str], shape: Sequence[int], stated: str | None, where: str
) -> tuple[str, ...]:
    """Return the names of an array's axes in lower case, or those that the user states.

    Parameters
    ----------
    kind
        ``images`` or ``labels``.
    found
        Names from the file.
    shape
        Length of each axis.
    stated
        Names of the image's axes, one letter each; those of labels are the same without c and
        whatever else they lack.
    where
        Name of the array in an error.

    Raises
    ------
    InputError
        The statement names another number of axes.
    """
    if stated is None:
        return tuple(name.lower() for name in found)
    wanted = tuple(stated.lower())
    if kind != "images":
        wanted = tuple(axis for axis in wanted if axis in SPATIAL)
    long = [i for i, n in enumerate(shape) if n > 1]
    if len(wanted) == len(shape):
        return wanted
    if kind != "images" and len(wanted) != len(long):
        return tuple(name.lower() for name in found)
    if len(wanted) == len(long):
        names = ["1"] * len(shape)
        for i, name in zip(long, wanted, strict=True):
            names[i] = name
        return tuple(names)
    raise InputError(
        f"{where}: axes: {stated} names {len(wanted)}, but its shape is {tuple(shape)}: name each"
    )


def arranged(array: Any, names: tuple[str, ...], kind: str, t: int | None, where: str) -> Any:
    """Return an array with its kind's axes in the jobs' order.

    Unknown axes of one pixel are left out, a time point is chosen, and an image without c gets one.

    Parameters
    ----------
    array
        Array as it is stored.
    names
        Name of each of its axes.
    kind
        ``images`` or ``labels``.
    t
        Number of the time point; None if there is only one.
    where
        Name of the array in an error.

    Raises
    ------
    InputError
        Axes are unknown, are repeated, or lack y or x, or there is no such time point.
    """
    known, shape = ALL[kind], tuple(array.shape)
    kept: dict[str, int] = {}
    at = [0] * len(shape)
    for i, (name, length) in enumerate(zip(names, shape, strict=True)):
        if name == "t":
            at[i] = _moment(t, length, where)
        elif name in known and (name not in kept or length > 1):
            if name in kept and shape[kept[name]] > 1:
                raise _unknown(kind, names, shape, where)
            kept[name] = i
        elif length > 1:
            raise _unknown(kind, names, shape, where)
    if not {"y", "x"} <= set(kept):
        raise _unknown(kind, names, shape, where)
    if t is not None and kind == "images" and "t" not in names:
        raise InputError(f"{where}: it has no time points; leave t out")
    wanted = [axis for axis in known if axis != "z" or axis in kept]
    order = tuple(kept.get(axis) for axis in wanted)
    return array if order == tuple(range(len(shape))) else AxesView(array, order, tuple(at))


def _moment(t: int | None, length: int, where: str) -> int:
    """Return the number of the time point to read."""
    if length == 1:
        return 0
    if t is None:
        raise InputError(
            f"{where}: it has {length} time points: choose one with t: 0 to {length - 1}, or "
            "measure several as fields of view"
        )
    if not 0 <= t < length:
        raise InputError(f"{where}: no time point {t}; there are 0 to {length - 1}")
    return t


def _unknown(kind: str, names: tuple[str, ...], shape: tuple[int, ...], where: str) -> InputError:
    sizes = " x ".join(map(str, shape))
    return InputError(f"{where}: axes are {', '.join(names)} ({sizes}); {_REMEDIES[kind]}")


def named_plainly(
    kind: str, found: Sequence[str], shape: Sequence[int], stated: str | None, where: str
) -> tuple[str, ...]:
    """Return the names as `named` does, with ``1`` for axes of one pixel but y and x.

    Formats with axes of their own count one plane of z, or one time point, as no axis.
    """
    names = named(kind, found, shape, stated, where)
    pairs = zip(names, shape, strict=True)
    return tuple("1" if n == 1 and name not in "yx" else name for name, n in pairs)


def spatial(shape: Sequence[int], names: Sequence[str]) -> tuple[int, ...]:
    """Pixels along z, y and x of an array with named axes, one where there is no such axis."""
    found = dict(zip(names, shape, strict=True))
    return tuple(found.get(axis, 1) for axis in SPATIAL)
