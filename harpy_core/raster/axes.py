"""Names of the axes that images and labels may have."""

from __future__ import annotations

from harpy_core.errors import InputError

SPATIAL = ("z", "y", "x")

ALL = {"images": ("c", *SPATIAL), "labels": SPATIAL}
"""Axes of the two kinds of element, in the jobs' order; z may be left out."""


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


def check(kind: str, names: tuple[str, ...], axes: tuple[str, ...], where: str) -> None:
    """Refuse an array whose axes, without those of one pixel, are not those of its kind.

    Parameters
    ----------
    kind
        ``images`` or ``labels``.
    names
        Names of its axes without those that are left out.
    axes
        Names of all its axes.
    where
        Name of the array in an error.

    Raises
    ------
    InputError
        They are not; the message gives the axes that it may have.
    """
    whole = ", ".join(ALL[kind])
    flat = ", ".join(axis for axis in ALL[kind] if axis != "z")
    if ", ".join(names) not in (whole, flat):
        raise InputError(f"{where}: axes are {', '.join(axes)}; rewrite it as {flat} or {whole}")
